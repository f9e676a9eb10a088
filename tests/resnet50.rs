//! A full-size ResNet50 with torchvision's own initialisation against PyTorch.
//!
//! `just resnet50` writes the weights and the answers (`tests/reference/resnet50.py`).
//! In f64 the two agree to rounding. In f32 a ReLU whose argument rounds to the other side of
//! zero changes whole paths of the gradient, in PyTorch as here. PyTorch's own distances
//! between f32 and f64 gradients are the yardstick: at one input they vary severalfold with
//! its convolution kernels, memory layouts and thread counts, so the largest of them counts
//! there, and their mean where means over all inputs are compared.
//!
//! On the CPU both what a Burn module computes and what its traced graph does (by a plan), on wgpu
//! the graph.

use std::path::{Path, PathBuf};

use burn::tensor::{Device, FloatDType, Tensor};
use saliency_core::{Gradient, Graph, Method, Model};
use saliency_models::resnet::{ResNet, ResNetConfig};

use crate::{
    golden::{Reference, host, load, relative_l2},
    parity::{announce, wgpu},
};

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
fn distances(net: &dyn Model<4>, reference: &Reference, input: &str, x: Tensor<4>) -> (f64, f64) {
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

fn graph(net: &ResNet, reference: &Reference, dtype: FloatDType, device: &Device) -> Graph {
    let example = reference.tensor("photo.input", device, dtype);
    Graph::trace(net, |net, x| net.forward(x), &example).unwrap()
}

#[test]
#[ignore = "needs just resnet50"]
fn resnet50_in_f64_is_pytorchs() {
    let reference = Reference::open(&file("reference.safetensors"));
    let (device, dtype) = (Device::flex(), FloatDType::F64);
    let net = resnet50("resnet50.safetensors", &device, dtype);
    let graph = graph(&net, &reference, dtype, &device);
    for input in inputs(&reference) {
        for (name, model) in [("module", &net as &dyn Model<4>), ("graph", &graph)] {
            let x = reference.tensor(&format!("{input}.input"), &device, dtype);
            let (logits, gradient) = distances(model, &reference, &input, x);
            announce(&format!(
                "{input}, {name}, f64: logits {logits:.1e}, gradient {gradient:.1e} from PyTorch"
            ));
            assert!(logits < 1e-8 && gradient < 1e-8);
        }
    }
}

#[test]
#[ignore = "needs just resnet50"]
fn resnet50_in_f32_is_as_exact_as_pytorch() {
    assert_as_exact_as_pytorch(&Device::flex(), &["module", "graph"]);
}

/// Half a minute for each input on a software adapter.
#[test]
#[ignore = "needs just resnet50"]
fn resnet50_on_wgpu_is_as_exact_as_pytorch() {
    if let Some(device) = wgpu() {
        assert_as_exact_as_pytorch(&device, &["graph"]);
    }
}

/// Of a module, whose kernels are Burn's, and of its graph, whose are this project's.
fn assert_as_exact_as_pytorch(device: &Device, models: &[&str]) {
    let (reference, dtype) = (
        Reference::open(&file("reference.safetensors")),
        FloatDType::F32,
    );
    let net = resnet50("resnet50.pth", device, dtype);
    let graph = graph(&net, &reference, dtype, device);
    let inputs = inputs(&reference);
    let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
    let all = [("module", &net as &dyn Model<4>), ("graph", &graph)];
    for (name, model) in all.into_iter().filter(|(name, _)| models.contains(name)) {
        let (mut ours, mut pytorch) = (Vec::new(), Vec::new());
        for input in &inputs {
            let own = reference.values(&format!("{input}.distances"));
            let most = own.iter().copied().fold(0.0, f64::max);
            let x = reference.tensor(&format!("{input}.input"), device, dtype);
            let (logits, gradient) = distances(model, &reference, input, x);
            announce(&format!(
                "{input}, {name}, f32: logits {logits:.1e}, gradient {gradient:.1e} from \
                 PyTorch's f64 (PyTorch's f32: {:.1e} on average, at most {most:.1e})",
                mean(&own),
            ));
            assert!(logits < 1e-5, "{input}");
            assert!(gradient <= 1.5 * most, "{input}");
            ours.push(gradient);
            pytorch.push(mean(&own));
        }
        let (ours, pytorch) = (mean(&ours), mean(&pytorch));
        announce(&format!(
            "mean of the gradients, {name} on {device:?}: {ours:.1e} (PyTorch {pytorch:.1e})"
        ));
        assert!(ours <= 1.5 * pytorch);
    }
}
