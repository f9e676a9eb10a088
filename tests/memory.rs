//! Peak memory of the global explanation from 10,000 to 1,000,000 rows: `just importance-memory`.

use std::{
    fs,
    ops::ControlFlow,
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use burn::tensor::Device;
use saliency_models::{
    generated::credit::{Credit, TARGET},
    train::{TrainOptions, train},
};

use crate::parity::announce;

/// What is asked of a machine of any size: the second file is a hundred times the first.
const ROWS: [u64; 2] = [10_000, 1_000_000];
const MOST_GROWTH_KIB: u64 = 32 * 1024;

/// Peak resident memory in KiB, seconds, and the report of one run.
fn measured(folder: &Path, data: &str, method: &str) -> (u64, f64, serde_json::Value) {
    let started = Instant::now();
    let out = fs::File::create(folder.join("report.json")).unwrap();
    let mut child = Command::new(env!("CARGO_BIN_EXE_saliency"))
        .args([
            "importance",
            "--data",
            data,
            "--model",
            "credit",
            "--device",
            "cpu",
        ])
        .args([
            "--method",
            method,
            "--group-by",
            "home",
            "--json",
            "--out",
            "out",
        ])
        .current_dir(folder)
        .stdout(Stdio::from(out))
        .spawn()
        .unwrap();
    let mut peak = 0;
    loop {
        let status = fs::read_to_string(format!("/proc/{}/status", child.id()));
        let line = |text: &String| {
            let line = text.lines().find(|line| line.starts_with("VmHWM:"))?;
            line.split_whitespace().nth(1)?.parse::<u64>().ok()
        };
        peak = peak.max(status.ok().as_ref().and_then(line).unwrap_or(0));
        if let Some(status) = child.try_wait().unwrap() {
            assert!(status.success());
            break;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let report = fs::read(folder.join("report.json")).unwrap();
    let report = serde_json::from_slice(&report).unwrap();
    (peak, started.elapsed().as_secs_f64(), report)
}

#[test]
#[ignore = "minutes: `just importance-memory`"]
fn importance_memory_is_flat() {
    if !Path::new("/proc/self/status").exists() {
        return announce(
            "SKIPPED importance_memory: peaks are read from /proc, which only Linux has",
        );
    }
    let folder = tempfile::tempdir().unwrap();
    for rows in ROWS {
        let path = folder.path().join(format!("{rows}.csv"));
        Credit::new(7).write_csv(path, 0, rows).unwrap();
    }
    let options = TrainOptions::new(TARGET);
    let trained = train(
        &options,
        folder.path().join("10000.csv"),
        &Device::flex(),
        &mut |_| ControlFlow::Continue(()),
    );
    trained
        .unwrap()
        .save(folder.path().join("credit"), "a test")
        .unwrap();
    announce("| method | rows | file | peak memory | time | rows/s |\n|---|---|---|---|---|---|");
    for method in ["input-x-gradient", "integrated-gradients"] {
        let peaks = ROWS.map(|rows| {
            let data = format!("{rows}.csv");
            let size = fs::metadata(folder.path().join(&data)).unwrap().len();
            let (peak, seconds, report) = measured(folder.path(), &data, method);
            assert_eq!(report["rows"], rows);
            announce(&format!(
                "| `{method}` | {rows} | {:.1} MB | {:.0} MiB | {seconds:.1} s | {:.0} |",
                size as f64 / 1e6,
                peak as f64 / 1024.0,
                rows as f64 / seconds
            ));
            peak
        });
        assert!(
            peaks[0] > 0 && peaks[1] <= peaks[0] + MOST_GROWTH_KIB,
            "{method}: {peaks:?} KiB"
        );
    }
}
