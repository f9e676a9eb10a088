//! Layers, neurons, attention and similarities: `tests/reference/layers.py` writes the values.

use burn::{
    module::{Module, Param},
    nn::{
        Gelu, LayerNorm, LayerNormConfig, Linear, LinearConfig,
        attention::{MhaInput, MultiHeadAttention, MultiHeadAttentionConfig},
        conv::{Conv2d, Conv2dConfig},
    },
};
use saliency_core::{
    AttentionMap, AttentionRollout, Baseline, GradientAttentionRollout, Graph, HeadFusion,
    InternalInfluence, LayerActivation, LayerConductance, LayerGradientXActivation,
    LayerIntegratedGradients, LayerMethod, Map, NeuronConductance, NeuronGradient,
    NeuronIntegratedGradients, Quadrature, Query,
    analysis::{spearman, structural_similarity},
};

use super::*;

const STEPS: usize = 12;

/// In f32 a path crosses kinks of ReLUs, and each crossing may be seen one rounding earlier or
/// later.
const TOLERANCES: [(FloatDType, f64); 2] = [(FloatDType::F32, 1e-4), (FloatDType::F64, 1e-10)];

#[derive(Module, Debug)]
struct Mlp {
    fc1: Linear,
    fc2: Linear,
    fc3: Linear,
}

impl Mlp {
    fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        let x = tanh(self.fc2.forward(relu(self.fc1.forward(x))));
        self.fc3.forward(x)
    }
}

fn mlp(dtype: FloatDType) -> Graph {
    let device = Device::flex();
    let linear = |from, to| LinearConfig::new(from, to).init(&device);
    let net = Mlp {
        fc1: linear(9, 16),
        fc2: linear(16, 16),
        fc3: linear(16, 3),
    };
    let options = LoadOptions::new().dtype(dtype);
    let net = weights::load(net, golden("mlp.weights"), &options).unwrap();
    let x = Tensor::<2>::zeros([1, 9], (&device, DType::from(dtype)));
    Graph::trace(&net.model, |m, x| m.forward(x), &x).unwrap()
}

fn resnet(dtype: FloatDType) -> Graph {
    let net = small_resnet(Block::Basic, "small_resnet_basic", dtype);
    let x = Tensor::<4>::zeros([1, 3, 32, 32], (&Device::flex(), DType::from(dtype)));
    Graph::trace(&net, |m, x| m.forward(x), &x).unwrap()
}

/// Captum's Integrated Gradients hold the weights of their steps in f32, in f64 runs too.
const CAPTUMS_WEIGHTS: f64 = 3e-8;

/// One layer by all layer methods.
fn assert_layer<const D: usize>(
    graph: &Graph,
    x: &Tensor<D>,
    target: &Target,
    layer: &str,
    want: impl Fn(&str) -> Vec<f64>,
    tolerance: f64,
) {
    let check = |name: &str, method: &dyn Fn() -> Vec<f64>| {
        let tolerance = match name {
            "integrated" => tolerance.max(CAPTUMS_WEIGHTS),
            _ => tolerance,
        };
        let what = format!("{layer} {name}");
        assert_close(&what, &method(), &want(name), tolerance);
    };
    let base = Baseline::Constant(0.25);
    // Batches that split rows and steps.
    let run = Run::new().batch_size(BatchSize::Rows(5));
    macro_rules! layer {
        ($name:literal, $method:expr) => {
            check($name, &|| {
                let found = $method.explain_layer_with(graph, x.clone(), target, &run);
                let values = found.unwrap().values;
                values
                    .reshape(&[want($name).len()])
                    .tensor::<1>()
                    .try_into_vec_as()
                    .unwrap()
            });
        };
    }
    layer!("activation", LayerActivation::at(layer));
    layer!("gradient_x_activation", LayerGradientXActivation::at(layer));
    layer!(
        "gradient",
        LayerGradientXActivation::at(layer).multiply_by_inputs(false)
    );
    layer!(
        "conductance",
        LayerConductance::captum()
            .layer(layer)
            .baseline(base.clone())
            .steps(STEPS)
    );
    layer!(
        "influence",
        InternalInfluence::at(layer)
            .baseline(base.clone())
            .steps(STEPS)
    );
    layer!(
        "integrated",
        LayerIntegratedGradients::at(layer)
            .baseline(base.clone())
            .steps(STEPS)
    );
}

/// One neuron by all neuron methods.
fn assert_neuron<const D: usize>(
    graph: &Graph,
    x: &Tensor<D>,
    target: &Target,
    (layer, neuron): (&str, &[usize]),
    want: impl Fn(&str) -> Vec<f64>,
    tolerance: f64,
) {
    let base = Baseline::Constant(0.25);
    let run = Run::new().batch_size(BatchSize::Rows(5));
    macro_rules! neuron {
        ($name:literal, $method:expr) => {
            let found = $method.explain_with(graph, x.clone(), target, &run);
            let tolerance = match $name {
                "neuron_integrated" => tolerance.max(CAPTUMS_WEIGHTS),
                _ => tolerance,
            };
            let what = format!("{layer} {}", $name);
            assert_close(&what, &host(found.unwrap().values), &want($name), tolerance);
        };
    }
    neuron!("neuron_gradient", NeuronGradient::of(layer, neuron));
    neuron!(
        "neuron_conductance",
        NeuronConductance::of(layer, neuron)
            .baseline(base.clone())
            .steps(STEPS)
            .rule(Quadrature::RiemannTrapezoid)
    );
    neuron!(
        "neuron_integrated",
        NeuronIntegratedGradients::of(layer, neuron)
            .baseline(base)
            .steps(STEPS)
    );
}

/// A residual network with BatchNorm: a stage's output, and a convolution within a branch.
#[test]
fn layers_and_neurons_of_a_resnet_are_captums() {
    let (expected, inputs) = (
        Reference::golden("layers"),
        Reference::golden("small_resnet_basic"),
    );
    for (dtype, tolerance) in TOLERANCES {
        let graph = resnet(dtype);
        let x: Tensor<4> = inputs.tensor("input", &Device::flex(), dtype);
        for layer in ["layer1", "layer2.0.conv2"] {
            let want = |name: &str| expected.values(&format!("resnet.{layer}.{name}"));
            assert_layer(&graph, &x, &Target::Predicted, layer, want, tolerance);
        }
        let at = "layer2.0.conv2";
        let want = |name: &str| expected.values(&format!("resnet.{at}.{name}"));
        let neuron = (at, &[3, 1, 2][..]);
        assert_neuron(&graph, &x, &Target::Predicted, neuron, want, tolerance);
    }
}

/// A functional ReLU and a linear layer, six rows with a class each.
#[test]
fn layers_and_neurons_of_an_mlp_are_captums() {
    let (expected, inputs) = (Reference::golden("layers"), Reference::golden("mlp"));
    let target = Target::PerRow((0..6).map(|row| row % 3).collect());
    for (dtype, tolerance) in TOLERANCES {
        let graph = mlp(dtype);
        let x: Tensor<2> = inputs.tensor("input", &Device::flex(), dtype);
        for layer in ["fc2", "relu_1"] {
            let want = |name: &str| expected.values(&format!("mlp.{layer}.{name}"));
            assert_layer(&graph, &x, &target, layer, want, tolerance);
        }
        let want = |name: &str| expected.values(&format!("mlp.fc2.{name}"));
        assert_neuron(&graph, &x, &target, ("fc2", &[5]), want, tolerance);
        for (name, rule) in [
            ("gausslegendre", Quadrature::GaussLegendre),
            ("riemann_left", Quadrature::RiemannLeft),
            ("riemann_right", Quadrature::RiemannRight),
            ("riemann_middle", Quadrature::RiemannMiddle),
            ("riemann_trapezoid", Quadrature::RiemannTrapezoid),
        ] {
            let method = InternalInfluence::at("relu_1").rule(rule).steps(STEPS);
            let method = method.baseline(Baseline::Constant(0.25));
            let found = method.explain_layer_with(&graph, x.clone(), &target, &Run::new());
            let got = host(found.unwrap().tensor::<2>().unwrap());
            let want = expected.values(&format!("mlp.influence.{name}"));
            assert_close(name, &got, &want, tolerance);
        }
    }
}

/// Pictures [N, 3, 8, 8] to a class token and 4 x 4 patches, to logits.
#[derive(Module, Debug)]
struct Vit {
    patches: Conv2d,
    class_token: Param<Tensor<3>>,
    places: Param<Tensor<3>>,
    blocks: Vec<VitBlock>,
    norm: LayerNorm,
    head: Linear,
}

#[derive(Module, Debug)]
struct VitBlock {
    norm1: LayerNorm,
    attention: MultiHeadAttention,
    norm2: LayerNorm,
    up: Linear,
    down: Linear,
}

impl Vit {
    fn init(device: &Device) -> Self {
        let norm = || LayerNormConfig::new(8).init(device);
        let block = || VitBlock {
            norm1: norm(),
            attention: MultiHeadAttentionConfig::new(8, 2).init(device),
            norm2: norm(),
            up: LinearConfig::new(8, 16).init(device),
            down: LinearConfig::new(16, 8).init(device),
        };
        let zeros = |tokens| Param::from_tensor(Tensor::zeros([1, tokens, 8], device));
        Vit {
            patches: Conv2dConfig::new([3, 8], [2, 2])
                .with_stride([2, 2])
                .init(device),
            class_token: zeros(1),
            places: zeros(17),
            blocks: vec![block(), block()],
            norm: norm(),
            head: LinearConfig::new(8, 3).init(device),
        }
    }

    fn forward(&self, x: Tensor<4>) -> Tensor<2> {
        let rows = x.dims()[0];
        let x = self.patches.forward(x).flatten::<3>(2, 3).swap_dims(1, 2);
        let class = self.class_token.val().expand([rows, 1, 8]);
        let mut x = Tensor::cat(vec![class, x], 1) + self.places.val();
        for block in &self.blocks {
            let y = MhaInput::self_attn(block.norm1.forward(x.clone()));
            x = x + block.attention.forward(y).context;
            let y = block.up.forward(block.norm2.forward(x.clone()));
            x = x + block.down.forward(Gelu::new().forward(y));
        }
        let class = self.norm.forward(x.narrow(1, 0, 1));
        self.head.forward(class.squeeze_dim::<2>(1))
    }
}

#[test]
fn attention_of_a_transformer_flows_as_written_out() {
    let expected = Reference::golden("layers");
    let device = Device::flex();
    for (dtype, tolerance) in TOLERANCES {
        let options = LoadOptions::new().dtype(dtype);
        let net = weights::load(Vit::init(&device), golden("layers.weights"), &options);
        let x: Tensor<4> = expected.tensor("vit.input", &device, dtype);
        let graph = Graph::trace(&net.unwrap().model, |m, x| m.forward(x), &x).unwrap();
        let logits = host(graph.forward(x.clone()));
        assert_close("logits", &logits, &expected.values("vit.logits"), tolerance);
        let check = |name: &str, found: Tensor<4>| {
            let want = expected.values(&format!("vit.{name}"));
            assert_close(name, &host(found), &want, tolerance);
        };
        for (name, heads, discard) in [
            ("rollout.mean", HeadFusion::Mean, 0.0),
            ("rollout.max", HeadFusion::Max, 0.9),
            ("rollout.min", HeadFusion::Min, 0.4),
        ] {
            let method = AttentionRollout::new().heads(heads).discard(discard);
            check(name, method.explain(&graph, x.clone(), 0).unwrap().values);
        }
        let map = AttentionMap::new().layer("blocks.0.attention").head(1);
        check("map", map.explain(&graph, x.clone(), 0).unwrap().values);
        let map = AttentionMap::new().query(Query::Token(6));
        check(
            "map.token",
            map.explain(&graph, x.clone(), 0).unwrap().values,
        );
        let map = GradientAttentionRollout::new();
        check(
            "gradient_rollout",
            map.explain(&graph, x, 1).unwrap().values,
        );
    }
}

#[test]
fn similarities_of_maps_are_scipys_and_scikit_images() {
    let expected = Reference::golden("layers");
    let maps = Reference::golden("statistics").exact_f32("maps");
    let maps: Vec<Map> = maps
        .chunks(9 * 12)
        .map(|values| Map::new(9, 12, values.to_vec()).unwrap())
        .collect();
    let pairs = || maps.iter().flat_map(|a| maps.iter().map(move |b| (a, b)));
    let ranks: Vec<f64> = pairs()
        .map(|(a, b)| spearman(a.values(), b.values()))
        .collect();
    assert_close("spearman", &ranks, &expected.values("spearman"), 1e-12);
    let ssim: Vec<f64> = pairs()
        .map(|(a, b)| structural_similarity(&a.normalised(), &b.normalised()).unwrap())
        .collect();
    // Maps are scaled in f32.
    assert_close("ssim", &ssim, &expected.values("ssim"), 1e-6);
}
