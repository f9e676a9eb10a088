//! Time and peak memory of ResNet50 input gradients on the CPU, with plain weights or with
//! weights that are tracked as in training.
//!
//! ```text
//! cargo run --release --example frozen -- frozen|tracked BATCH ROUNDS
//! ```
//!
//! Prints one line of JSON: the seconds of each gradient, and the process's peak memory in
//! bytes before the first and after the last one (0 where the system does not tell).

use std::{env, error::Error, fs, time::Instant};

use burn::{
    module::{Module, ModuleMapper, Param},
    tensor::{Device, Distribution, Tensor},
};
use saliency_core::{BatchSize, Goal, Gradient, Method, ModeCheck, Run, Target};
use saliency_models::resnet::{ResNet, ResNetConfig};

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = env::args().skip(1).collect();
    let usage = "usage: frozen (frozen|tracked) BATCH ROUNDS";
    let [weights, batch, rounds] = &args[..] else {
        return Err(usage.into());
    };
    let (batch, rounds): (usize, usize) = (batch.parse()?, rounds.parse()?);
    let device = Device::flex();
    let plain = ResNetConfig::resnet50().init(&device)?.valid();
    let net = match weights.as_str() {
        "frozen" => plain,
        "tracked" => tracked(plain),
        _ => return Err(usage.into()),
    };

    let run = Run::new()
        .batch_size(BatchSize::Rows(batch))
        .mode_check(ModeCheck::Skip);
    let before = peak_memory();
    let mut seconds = Vec::new();
    for _ in 0..rounds {
        let x = Tensor::random(
            [batch, 3, 224, 224],
            Distribution::Normal(0.0, 1.0),
            &device,
        );
        let goal = Goal::resolve(&Target::Class(0), &Tensor::zeros([batch, 1000], &device))?;
        let start = Instant::now();
        let values = Gradient.attribute(&net, &x, &goal, &run)?.values;
        values.into_data();
        seconds.push(start.elapsed().as_secs_f64());
    }
    let peak = peak_memory();
    println!("{{\"seconds\": {seconds:?}, \"before\": {before}, \"peak\": {peak}}}");
    Ok(())
}

/// In inference mode, but every parameter is a leaf that asks for its gradient.
fn tracked(net: ResNet) -> ResNet {
    struct Track;
    impl ModuleMapper for Track {
        fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            param.map(|tensor| tensor.autodiff().require_grad())
        }
    }
    net.map(&mut Track)
}

/// `VmHWM` of this process in bytes.
fn peak_memory() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"));
    let kibibytes = line.and_then(|l| l.split_whitespace().next()?.parse::<u64>().ok());
    1024 * kibibytes.unwrap_or(0)
}
