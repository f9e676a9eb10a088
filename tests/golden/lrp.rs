//! Agreement with zennit, and with Captum where it has LRP: `tests/reference/lrp.py` writes
//! the values.
//!
//! In f64 only rounding may differ: 1e-11. In f32 a denominator near zero is as exact as its
//! rounding: 1e-5, and 1e-3 for one map whose signs turn at zero, where zennit's own f32 is
//! 1.7e-4 from its f64 too, and 1e-4 for another, where that is 2.6e-5.

use burn::{
    module::Module,
    nn::{
        GroupNorm, GroupNormConfig, Linear, LinearConfig, PaddingConfig1d,
        conv::{Conv1d, Conv1dConfig},
    },
    tensor::{
        Device, FloatDType, Tensor,
        activation::{elu, relu, tanh},
    },
};
use saliency_core::{BiasShare, ExcitationBackprop, Graph, Lrp, LrpRule, Method, Recipe, Target};
use saliency_models::resnet::Block;

use super::{Reference, host, relative_l2, small_resnet};

const LOW: f64 = -4.0;
const HIGH: f64 = 4.5;

fn recipe(name: &str) -> Recipe {
    let boxed = || Lrp::epsilon_gamma_box([LOW], [HIGH]);
    let named = |preset: &str| Recipe::named(preset).unwrap();
    match name {
        "epsilon_gamma_box" => Recipe::Lrp(boxed()),
        "gamma_box_ignored" => Recipe::Lrp(boxed().bias(BiasShare::Ignored)),
        "epsilon_plus_ignored" => Recipe::Lrp(Lrp::epsilon_plus().bias(BiasShare::Ignored)),
        "alpha2_beta1_ignored" => Recipe::Lrp(Lrp::epsilon_alpha2_beta1().bias(BiasShare::Ignored)),
        "large_epsilon" => Recipe::Lrp(Lrp::of(LrpRule::Epsilon(0.1))),
        "excitation" => Recipe::ExcitationBackprop(ExcitationBackprop::new()),
        "excitation_zennit" => named("excitation-backprop-zennit"),
        preset => named(&format!("lrp-{}", preset.replace('_', "-"))),
    }
}

/// Every map of a network in the file.
fn assert_zennits<const D: usize>(
    network: &str,
    trace: impl Fn(FloatDType, &Tensor<D>) -> Graph,
    input: &str,
) {
    let reference = Reference::golden("lrp");
    let mut names: Vec<String> = reference.names();
    names.retain(|name| name.starts_with(&format!("{network}.")));
    names.sort();
    assert!(names.len() >= 8, "{names:?}");
    for dtype in [FloatDType::F32, FloatDType::F64] {
        let input: Tensor<D> = Reference::golden(input).tensor("input", &Device::flex(), dtype);
        let graph = trace(dtype, &input);
        for name in &names {
            let (_, rule) = name.split_once('.').unwrap();
            let method = recipe(rule);
            let map = method.explain(&graph, input.clone(), Target::Predicted);
            let distance = relative_l2(&host(map.unwrap().values), &reference.values(name));
            let tolerance = match dtype {
                FloatDType::F64 => 1e-11,
                _ if name == "resnet.gamma_box_ignored" => 1e-3,
                _ if name == "group_norm.epsilon" => 1e-4,
                _ => 1e-5,
            };
            assert!(distance <= tolerance, "{name} in {dtype:?}: {distance:.1e}");
        }
    }
}

#[test]
fn lrp_on_a_residual_network_is_zennits() {
    assert_zennits("resnet", resnet_graph, "small_resnet_basic");
}

pub fn resnet_graph(dtype: FloatDType, x: &Tensor<4>) -> Graph {
    let net = small_resnet(Block::Basic, "small_resnet_basic", dtype);
    Graph::trace(&net, |m, x| m.forward(x), x).unwrap()
}

fn dense(weights: &Reference, name: &str, dtype: FloatDType) -> Linear {
    let device = Device::flex();
    let weight: Tensor<2> = weights.tensor(&format!("{name}.weight"), &device, dtype);
    let [out, inside] = weight.dims();
    let mut layer = LinearConfig::new(inside, out).init(&device);
    layer.weight = layer.weight.map(|_| weight.clone().transpose());
    let bias: Tensor<1> = weights.tensor(&format!("{name}.bias"), &device, dtype);
    layer.bias = layer.bias.map(|old| old.map(|_| bias.clone()));
    layer
}

#[test]
fn lrp_on_tables_is_zennits() {
    assert_zennits("mlp", mlp_graph, "mlp");
}

pub fn mlp_graph(dtype: FloatDType, x: &Tensor<2>) -> Graph {
    let weights = Reference::golden("mlp.weights");
    let layers = ["fc1", "fc2", "fc3"].map(|name| dense(&weights, name, dtype));
    let forward = |m: &[Linear; 3], x| m[2].forward(tanh(m[1].forward(relu(m[0].forward(x)))));
    Graph::trace(&layers, forward, x).unwrap()
}

#[test]
fn lrp_through_elu_is_zennits() {
    let trace = |dtype, x: &Tensor<2>| {
        let weights = Reference::golden("mlp.weights");
        let layers = ["fc1", "fc2", "fc3"].map(|name| dense(&weights, name, dtype));
        let forward = |m: &[Linear; 3], x| {
            let x = elu(m[0].forward(x), 0.7);
            m[2].forward(elu(m[1].forward(x), 1.0))
        };
        Graph::trace(&layers, forward, x).unwrap()
    };
    assert_zennits("elu", trace, "mlp");
}

#[derive(Module, Debug)]
struct Series {
    conv1: Conv1d,
    conv2: Conv1d,
    fc: Linear,
}

fn conv(weights: &Reference, name: &str, config: Conv1dConfig, dtype: FloatDType) -> Conv1d {
    let device = Device::flex();
    let mut layer = config.init(&device);
    let weight: Tensor<3> = weights.tensor(&format!("{name}.weight"), &device, dtype);
    let bias: Tensor<1> = weights.tensor(&format!("{name}.bias"), &device, dtype);
    layer.weight = layer.weight.map(|_| weight.clone());
    layer.bias = layer.bias.map(|old| old.map(|_| bias.clone()));
    layer
}

fn series(dtype: FloatDType) -> Series {
    let weights = Reference::golden("series.weights");
    let padded = |config: Conv1dConfig, by| config.with_padding(PaddingConfig1d::Explicit(by, by));
    let first = padded(Conv1dConfig::new(3, 8, 5), 2);
    let second = padded(Conv1dConfig::new(8, 8, 3), 1)
        .with_stride(2)
        .with_dilation(2);
    Series {
        conv1: conv(&weights, "conv1", first, dtype),
        conv2: conv(&weights, "conv2", second, dtype),
        fc: dense(&weights, "fc", dtype),
    }
}

impl Series {
    fn end(&self, x: Tensor<3>) -> Tensor<2> {
        let x = relu(self.conv2.forward(tanh(x)))
            .mean_dim(2)
            .squeeze_dim::<2>(2);
        self.fc.forward(x)
    }
}

#[test]
fn lrp_on_time_series_is_zennits() {
    assert_zennits("series", series_graph, "series");
}

pub fn series_graph(dtype: FloatDType, x: &Tensor<3>) -> Graph {
    let forward = |m: &Series, x: Tensor<3>| m.end(m.conv1.forward(x.swap_dims(1, 2)));
    Graph::trace(&series(dtype), forward, x).unwrap()
}

#[test]
fn lrp_through_group_norm_is_zennits() {
    let trace = |dtype, x: &Tensor<3>| {
        let mut norm = GroupNormConfig::new(2, 8).init(&Device::flex());
        let steps =
            Tensor::<1>::from_floats([0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0], &Device::flex());
        let (gamma, beta) = (steps.clone() / 8.0 + 0.5, (steps - 3.5) / 16.0);
        norm.gamma = norm.gamma.map(|old| old.map(|_| gamma.cast(dtype)));
        norm.beta = norm.beta.map(|old| old.map(|_| beta.cast(dtype)));
        let forward = |m: &(Series, GroupNorm), x: Tensor<3>| {
            let x = m.0.conv1.forward(x.swap_dims(1, 2));
            m.0.end(m.1.forward(x))
        };
        Graph::trace(&(series(dtype), norm), forward, x).unwrap()
    };
    assert_zennits("group_norm", trace, "series");
}
