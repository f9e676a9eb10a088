//! Times the input gradient of networks on random pictures, four ways: the module on Burn's
//! autodiff, its graph on Burn's operations as traced and with BatchNorm folded, and the graph's
//! plan. Medians of some rounds in which all four take turns, as JSON or a Markdown table.
//!
//! `cargo run --release --example speed -- --markdown resnet18,resnet50,squeezenet1_1 1 8`, or with
//! `--wgpu` in front on a GPU.

use std::{hint::black_box, time::Instant};

use burn::{
    module::Module,
    tensor::{Device, Tensor, TensorData},
};
use saliency_core::{
    BatchSize, Goal, Gradient, Graph, Method, ModeCheck, Model, Run, Target, noise::standard_normal,
};
use saliency_models::zoo::Architecture;

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

const ROUNDS: usize = 9;
const WAYS: [&str; 4] = ["module", "graph", "graph, folded", "plan"];

/// A graph as a plain function, on Burn's operations as it stands.
fn uncompiled(graph: &Graph) -> impl Model<4> {
    move |x: Tensor<4>| {
        let feed = (graph.input(), x.into());
        graph
            .evaluate(&[feed], &[graph.output()])
            .remove(0)
            .tensor()
    }
}

/// The median times of [`WAYS`], in seconds.
fn measure(architecture: Architecture, rows: usize, device: &Device) -> Outcome<[f64; 4]> {
    let side = architecture.input_size();
    let shape = [rows, 3, side, side];
    let values = standard_normal(1, 0, shape.iter().product());
    let x = Tensor::<4>::from_data(TensorData::new(values, shape), device);
    let net = architecture.init(architecture.classes(), device)?.valid();
    let graph = net.trace(&x)?;
    let folded = graph.folded();
    let module = |x: Tensor<4>| net.forward(x);
    let (plain, merged) = (uncompiled(&graph), uncompiled(&folded));
    let ways: [&dyn Model<4>; 4] = [&module, &plain, &merged, &graph];
    let run = Run::new()
        .batch_size(BatchSize::Rows(rows))
        .mode_check(ModeCheck::Skip);
    let goal = Goal::resolve(&Target::Class(3), &run.forward(&module, &x)?)?;
    let mut times = [const { Vec::new() }; 4];
    for round in 0..=ROUNDS {
        for (model, times) in ways.iter().zip(&mut times) {
            let start = Instant::now();
            let values = Gradient.attribute(*model, &x, &goal, &run)?.values;
            black_box(values.try_into_vec_as::<f32>()?);
            // The first round warms up.
            if round > 0 {
                times.push(start.elapsed().as_secs_f64());
            }
        }
    }
    Ok(times.map(|mut times| {
        times.sort_by(f64::total_cmp);
        times[times.len() / 2]
    }))
}

#[cfg(feature = "wgpu")]
fn wgpu() -> Outcome<Device> {
    let adapters = Device::enumerate(burn::tensor::DeviceType::Wgpu).into_vec();
    let first = adapters.into_iter().next();
    Ok(first.ok_or("there is no wgpu adapter; install a driver for Vulkan, Metal or DX12")?)
}

#[cfg(not(feature = "wgpu"))]
fn wgpu() -> Outcome<Device> {
    Err("this was built without wgpu; build it with --features wgpu".into())
}

fn main() -> Outcome<()> {
    let (flags, args): (Vec<String>, Vec<String>) = std::env::args()
        .skip(1)
        .partition(|arg| arg.starts_with("--"));
    let markdown = flags.iter().any(|flag| flag == "--markdown");
    let mut args = args.into_iter();
    let names = args.next().unwrap_or_else(|| "resnet50".into());
    let mut batches: Vec<usize> = args.map(|a| a.parse()).collect::<Result<_, _>>()?;
    if batches.is_empty() {
        batches.push(1);
    }
    if markdown {
        println!("| network | pictures | {} |", WAYS.join(" | "));
        println!("|---|---|{}", "---|".repeat(WAYS.len()));
    }
    let device = match flags.iter().any(|flag| flag == "--wgpu") {
        true => wgpu()?,
        false => Device::flex(),
    };
    for name in names.split(',') {
        let architecture: Architecture = name.parse()?;
        for &rows in &batches {
            let times = measure(architecture, rows, &device)?;
            if !markdown {
                let times: serde_json::Map<_, _> = WAYS
                    .iter()
                    .zip(times)
                    .map(|(way, time)| (way.to_string(), time.into()))
                    .collect();
                let line = serde_json::json!({"network": name, "rows": rows, "seconds": times});
                println!("{line}");
                continue;
            }
            let cell = |time: f64| match time == times[0] {
                true => format!("{:.0} ms", 1e3 * time),
                false => format!("{:.0} ms ({:.2})", 1e3 * time, time / times[0]),
            };
            println!("| {name} | {rows} | {} |", times.map(cell).join(" | "));
        }
    }
    Ok(())
}
