//! The pictures and outputs in `docs/finance.md`, on generated data: `just finance-pictures`.

use std::{
    env, fs,
    ops::ControlFlow,
    path::{Path, PathBuf},
    process::Command,
};

use burn::tensor::Device;
use saliency_models::{
    generated::{
        credit::{self, Credit},
        series::{self, Series},
    },
    predictor::Family,
    train::{SequenceOptions, TrainOptions, train},
};

use crate::parity::announce;

fn saliency(folder: &Path, line: &str) {
    announce(&format!("\n$ saliency {line}"));
    let output = Command::new(env!("CARGO_BIN_EXE_saliency"))
        .args(line.split(' '))
        .args(["--device", "cpu"])
        .current_dir(folder)
        .output()
        .unwrap();
    announce(&String::from_utf8_lossy(&output.stdout));
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

#[test]
#[ignore = "writes docs/pictures: `just finance-pictures`"]
fn finance_guide() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let mut go_on = |_| ControlFlow::Continue(());
    Credit::new(7)
        .write_csv(at("credit.csv"), 0, 10_000)
        .unwrap();
    let options = TrainOptions::new(credit::TARGET);
    let trained = train(&options, at("credit.csv"), &Device::flex(), &mut go_on).unwrap();
    trained.save(at("credit"), "a guide").unwrap();

    Series::new(7).write_csv(at("prices.csv"), 3_000).unwrap();
    let mut options = TrainOptions::new(series::TARGET);
    options.drop = vec!["price".into()];
    options.family = Some(Family::Tcn);
    options.sequence = Some(SequenceOptions {
        horizon: vec![0],
        ..SequenceOptions::new(20)
    });
    let trained = train(&options, at("prices.csv"), &Device::flex(), &mut go_on).unwrap();
    trained.save(at("prices"), "a guide").unwrap();

    saliency(
        folder.path(),
        "explain --data credit.csv --model credit --row 17 --out out",
    );
    saliency(
        folder.path(),
        "importance --data credit.csv --model credit --group-by home --out out",
    );
    saliency(
        folder.path(),
        "explain --data prices.csv --model prices --row 1500 --target up --top 5 --out out",
    );
    saliency(
        folder.path(),
        "importance --data prices.csv --model prices --top 5 --out out",
    );
    let Some(pictures) = env::var_os("SALIENCY_PICTURES_OUT").map(PathBuf::from) else {
        return;
    };
    for entry in fs::read_dir(at("out")).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, pictures.join(path.file_name().unwrap())).unwrap();
    }
}
