//! A full-size ResNet50 with torchvision's own initialisation against PyTorch.
//!
//! `just resnet50` writes the weights and the answers (`tests/reference/resnet50.py`).
//! In f64 the two agree to rounding. In f32 a ReLU whose argument rounds to the other side of
//! zero changes whole paths of the gradient, in PyTorch as here. PyTorch's own distance
//! between its f32 and f64 gradients is the yardstick; at one input it varies severalfold by
//! convolution kernel and thread count, so means over all inputs are compared.

use std::path::{Path, PathBuf};

use burn::tensor::{Device, DeviceType, FloatDType, Tensor};
use saliency_core::{Gradient, Method};
use saliency_models::resnet::{ResNet, ResNetConfig};

use crate::golden::{Reference, host, load, relative_l2};

fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../target/reference/resnet50")
        .join(name)
}

fn resnet50(weights: &str, device: &Device, dtype: FloatDType) -> ResNet {
    let net = ResNetConfig::resnet50().init(device).unwrap();
    load(net, &file(weights), dtype)
}

/// Relative L2 distances of our logits and gradient from PyTorch's f64 ones.
fn distances(net: &ResNet, reference: &Reference, input: &str, x: Tensor<4>) -> (f64, f64) {
    let logits = reference.values(&format!("{input}.logits"));
    let class = (0..logits.len()).max_by(|&a, &b| logits[a].total_cmp(&logits[b]));
    let map = Gradient.explain(net, x, class.unwrap()).unwrap();
    let gradient = reference.values(&format!("{input}.gradient"));
    (
        relative_l2(&host(map.outputs), &logits),
        relative_l2(&host(map.values), &gradient),
    )
}

fn inputs(reference: &Reference) -> Vec<String> {
    let mut inputs: Vec<String> = reference
        .names()
        .iter()
        .filter_map(|name| name.strip_suffix(".input").map(String::from))
        .collect();
    inputs.sort();
    assert!(inputs.len() >= 14, "{inputs:?}");
    inputs
}

#[test]
#[ignore = "needs just resnet50"]
fn resnet50_in_f64_is_pytorchs() {
    let reference = Reference::open(&file("reference.safetensors"));
    let device = Device::flex();
    let net = resnet50("resnet50.safetensors", &device, FloatDType::F64);
    for input in inputs(&reference) {
        let x = reference.tensor(&format!("{input}.input"), &device, FloatDType::F64);
        let (logits, gradient) = distances(&net, &reference, &input, x);
        println!("{input}, f64: logits {logits:.1e}, gradient {gradient:.1e} from PyTorch");
        assert!(logits < 1e-8 && gradient < 1e-8);
    }
}

#[test]
#[ignore = "needs just resnet50"]
fn resnet50_in_f32_is_as_exact_as_pytorch() {
    assert_as_exact_as_pytorch(&Device::flex());
}

/// Half a minute for each input on a software adapter.
#[test]
#[ignore = "needs just resnet50"]
fn resnet50_on_wgpu_is_as_exact_as_pytorch() {
    match Device::enumerate(DeviceType::Wgpu).first() {
        Some(device) => assert_as_exact_as_pytorch(device),
        None => println!("skipped: there is no wgpu adapter"),
    }
}

fn assert_as_exact_as_pytorch(device: &Device) {
    let reference = Reference::open(&file("reference.safetensors"));
    let net = resnet50("resnet50.pth", device, FloatDType::F32);
    let inputs = inputs(&reference);
    let (mut ours, mut pytorch) = (0.0, 0.0);
    for input in &inputs {
        let yardstick = |what: &str| {
            let in_f32 = reference.values(&format!("{input}.{what}_f32"));
            relative_l2(&in_f32, &reference.values(&format!("{input}.{what}")))
        };
        let x = reference.tensor(&format!("{input}.input"), device, FloatDType::F32);
        let (logits, gradient) = distances(&net, &reference, input, x);
        println!(
            "{input}, f32: logits {logits:.1e} (PyTorch {:.1e}), \
             gradient {gradient:.1e} (PyTorch {:.1e}) from PyTorch's f64",
            yardstick("logits"),
            yardstick("gradient"),
        );
        assert!(logits < 1e-5, "{input}");
        ours += gradient / inputs.len() as f64;
        pytorch += yardstick("gradient") / inputs.len() as f64;
    }
    println!("mean of the gradients on {device:?}: {ours:.1e} (PyTorch {pytorch:.1e})");
    assert!(ours <= 1.5 * pytorch);
}
