//! Times the input gradient of a network on random pictures: medians in seconds, as JSON.
//!
//! `cargo run --release --example speed -- resnet50 1 8`

use std::time::Instant;

use burn::{
    module::Module,
    tensor::{Device, Tensor, TensorData},
};
use saliency_core::{BatchSize, Gradient, Method, ModeCheck, Run, Target, noise::standard_normal};
use saliency_models::zoo::Architecture;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let name = args.next().unwrap_or_else(|| "resnet50".into());
    let architecture: Architecture = name.parse()?;
    let batches: Vec<usize> = args.map(|a| a.parse()).collect::<Result<_, _>>()?;
    let device = Device::flex();
    let side = architecture.input_size();
    let net = architecture.init(architecture.classes(), &device)?.valid();
    for rows in batches {
        let shape = [rows, 3, side, side];
        let values = standard_normal(1, 0, shape.iter().product());
        let x = Tensor::<4>::from_data(TensorData::new(values, shape), &device);
        let graph = net.trace(&x)?;
        let run = Run::new()
            .batch_size(BatchSize::Rows(rows))
            .mode_check(ModeCheck::Skip);
        let time =
            |model: &dyn saliency_core::Model<4>| -> Result<f64, Box<dyn std::error::Error>> {
                let target = Target::Class(3);
                let outputs = run.forward(model, &x)?;
                let goal = saliency_core::Goal::resolve(&target, &outputs)?;
                let mut times = Vec::new();
                for _ in 0..9 {
                    let start = Instant::now();
                    Gradient.attribute(model, &x, &goal, &run)?;
                    times.push(start.elapsed().as_secs_f64());
                }
                times.sort_by(f64::total_cmp);
                Ok(times[times.len() / 2])
            };
        println!(
            "{}",
            serde_json::json!({
                "network": name, "rows": rows, "plan": time(&graph)?, "burn": time(&net)?,
            })
        );
    }
    Ok(())
}
