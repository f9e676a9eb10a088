use std::time::Instant;

use burn::{
    module::Module,
    tensor::{Device, Distribution, Tensor},
};
use saliency_core::graph::LayerTime;
use serde::Serialize;

use crate::{args::Profile, commands::layers::network, device, error::Error, report};

/// Size of the matrix product that layers are compared with.
const SIZE: usize = 2048;

#[derive(Serialize)]
struct Report {
    model: String,
    rows: usize,
    /// What a matrix product of f32 reaches on this machine, and its size.
    peak_gflops: f64,
    peak_size: usize,
    layers: Vec<Row>,
}

#[derive(Serialize)]
struct Row {
    #[serde(flatten)]
    time: LayerTime,
    forward_gflops: Option<f64>,
    backward_gflops: Option<f64>,
}

pub fn run(args: &Profile) -> Result<(), Error> {
    let device = device::open("cpu")?;
    let (network, side) = network(&args.model, &device)?;
    let rows = args.rows as usize;
    let noise = Distribution::Normal(0.0, 1.0);
    let x = Tensor::<4>::random([rows, 3, side, side], noise, &device);
    let graph = network.valid().trace(&x)?;
    let peak = matrix_product(&device)?;
    let layers = graph.profile(&x, args.passes as usize)?;
    let report = Report {
        model: args.model.clone(),
        rows,
        peak_gflops: peak,
        peak_size: SIZE,
        layers: layers
            .into_iter()
            .map(|time| Row {
                forward_gflops: time.rates().map(|[forward, _]| forward),
                backward_gflops: time.rates().map(|[_, backward]| backward),
                time,
            })
            .collect(),
    };
    match args.json {
        true => report::print_json(&report),
        false => report::print(&text(&report)),
    }
}

/// Billions of operations a second of the fastest of some products.
fn matrix_product(device: &Device) -> Result<f64, Error> {
    let random = || Tensor::<2>::random([SIZE, SIZE], Distribution::Default, device);
    let (a, b) = (random(), random());
    let mut best = f64::INFINITY;
    for _ in 0..6 {
        let start = Instant::now();
        let product = a.clone().matmul(b.clone());
        device.sync().map_err(|e| Error::Internal(e.to_string()))?;
        best = best.min(start.elapsed().as_secs_f64());
        drop(product);
    }
    Ok(2.0 * (SIZE as f64).powi(3) / best / 1e9)
}

fn text(report: &Report) -> String {
    let both = |row: &Row| row.time.forward + row.time.backward;
    let total: f64 = report.layers.iter().map(both).sum();
    let rate = |rate: Option<f64>| rate.map_or(String::new(), |rate| format!("{rate:.0}"));
    let cells = report.layers.iter().map(|row| {
        vec![
            row.time.name.clone(),
            row.time.kind.clone(),
            format!("{:.2}", 1e3 * row.time.forward),
            rate(row.forward_gflops),
            format!("{:.2}", 1e3 * row.time.backward),
            rate(row.backward_gflops),
            format!("{:.1}", 100.0 * both(row) / total),
        ]
    });
    let header = [
        "layer",
        "operation",
        "forward, ms",
        "GFLOP/s",
        "backward, ms",
        "GFLOP/s",
        "share, %",
    ];
    let sum = |part: fn(&LayerTime) -> f64| -> f64 {
        report.layers.iter().map(|row| part(&row.time)).sum()
    };
    format!(
        "{}\n{}, batch of {}: {:.1} ms forward, {:.1} ms backward\n\
         a matrix product of size {SIZE} runs at {:.0} GFLOP/s here",
        report::table(&header, cells),
        report.model,
        report.rows,
        1e3 * sum(|t| t.forward),
        1e3 * sum(|t| t.backward),
        report.peak_gflops,
    )
}
