//! DeepLIFT and DeepLIFT-SHAP beside Captum's (`tests/reference/deeplift.py`).
//!
//! Tolerances: 1e-9 relative L2 in f64, where both compute the same sums (1e-6 for the ResNet,
//! whose values are stored in f32); 1e-4 in f32, where (y - y0) / (x - x0) of close values
//! keeps half of the digits.

use burn::{
    module::{Module, Param},
    nn::{
        Linear, LinearConfig, Lstm, LstmConfig, PaddingConfig2d,
        conv::{Conv1d, Conv1dConfig, Conv2d, Conv2dConfig},
        pool::MaxPool2dConfig,
    },
    tensor::{
        Device, FloatDType, Tensor,
        activation::{elu, relu, sigmoid, softmax, tanh},
    },
};
use saliency_core::{
    Attribution, Baseline, BatchSize, DeepLift, DeepLiftShap, Graph, GuidedBackprop, LayerMethod,
    LayerRule, Method, NeuronAttribution, Recipe, Run, Target,
};
use saliency_models::resnet::Block;

use super::{Reference, assert_close, host, small_resnet};

const PRECISIONS: [(FloatDType, f64); 2] = [(FloatDType::F32, 1e-4), (FloatDType::F64, 1e-9)];

/// A Burn linear layer with PyTorch's weights.
fn linear(weights: &Reference, name: &str) -> Linear {
    let tensor = |part: &str| format!("{name}.{part}");
    let weight = of_torch::<2>(weights, &tensor("weight")).transpose();
    let [from, to] = weight.dims();
    let mut linear = LinearConfig::new(from, to).init(&Device::flex());
    linear.weight = Param::from_tensor(weight);
    linear.bias = Some(Param::from_tensor(of_torch(weights, &tensor("bias"))));
    linear
}

fn of_torch<const D: usize>(weights: &Reference, name: &str) -> Tensor<D> {
    weights.tensor(name, &Device::flex(), FloatDType::F32)
}

fn conv1d(weights: &Reference, name: &str, config: Conv1dConfig) -> Conv1d {
    let mut conv = config.init(&Device::flex());
    conv.weight = Param::from_tensor(of_torch(weights, &format!("{name}.weight")));
    conv.bias = Some(Param::from_tensor(of_torch(
        weights,
        &format!("{name}.bias"),
    )));
    conv
}

fn conv2d(weights: &Reference, name: &str, channels: [usize; 2]) -> Conv2d {
    let mut conv = Conv2dConfig::new(channels, [3, 3])
        .with_padding(PaddingConfig2d::Explicit(1, 1, 1, 1))
        .init(&Device::flex());
    conv.weight = Param::from_tensor(of_torch(weights, &format!("{name}.weight")));
    conv.bias = Some(Param::from_tensor(of_torch(
        weights,
        &format!("{name}.bias"),
    )));
    conv
}

/// A network in one of the precisions, its input, and the file of the values.
struct Case<const D: usize> {
    graph: Graph,
    input: Tensor<D>,
    reference: Reference,
    tolerance: f64,
}

impl<const D: usize> Case<D> {
    fn of<M: Module>(
        net: &M,
        forward: fn(&M, Tensor<D>) -> Tensor<2>,
        input: (&Reference, &str),
    ) -> [Self; 2] {
        PRECISIONS.map(|(dtype, tolerance)| {
            let input: Tensor<D> = input.0.tensor(input.1, &Device::flex(), dtype);
            // The weights are exact in f32, in which Burn's LSTM makes its first state.
            let narrow = input.clone().cast(FloatDType::F32);
            let graph = Graph::trace(net, forward, &narrow).unwrap();
            Case {
                graph: graph.cast(dtype.into()),
                input,
                reference: Reference::golden("deeplift"),
                tolerance,
            }
        })
    }

    /// Values of `lift` beside the stored ones, which Captum made with `target`.
    fn check(
        &self,
        name: &str,
        lift: &impl Method<D>,
        target: impl Into<Target>,
    ) -> Attribution<D> {
        let map = lift
            .explain(&self.graph, self.input.clone(), target)
            .unwrap();
        let want = self.reference.values(name);
        assert_close(name, &host(map.values.clone()), &want, self.tolerance);
        map
    }

    /// The same, for a method whose values must add up.
    fn check_complete(&self, name: &str, lift: &impl Method<D>, target: impl Into<Target>) {
        let map = self.check(name, lift, target);
        for delta in map.evidence.delta.unwrap() {
            assert!(delta.abs() < self.tolerance, "{name}: {delta:e}");
        }
    }
}

/// Captum's epsilon, and its rules or ours: on these networks they are the same.
fn both() -> [DeepLift; 2] {
    [DeepLift::captum(), DeepLift::new().epsilon(1e-10)]
}

fn shap_of(lift: &DeepLift, baselines: Vec<Baseline>) -> DeepLiftShap {
    DeepLiftShap {
        baselines,
        rules: lift.rules,
        epsilon: lift.epsilon,
        ..DeepLiftShap::default()
    }
}

#[derive(Module, Debug)]
pub struct Mlp {
    fc1: Linear,
    fc2: Linear,
    fc3: Linear,
}

impl Mlp {
    pub fn golden() -> Self {
        let weights = Reference::golden("mlp.weights");
        let [fc1, fc2, fc3] = ["fc1", "fc2", "fc3"].map(|name| linear(&weights, name));
        Mlp { fc1, fc2, fc3 }
    }

    pub fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        let x = tanh(self.fc2.forward(relu(self.fc1.forward(x))));
        self.fc3.forward(x)
    }
}

#[test]
fn tables_have_captums_values() {
    let input = Reference::golden("mlp");
    for case in Case::of(&Mlp::golden(), |m, x| m.forward(x), (&input, "input")) {
        let given = case.reference.values("mlp.baselines");
        let given: Vec<Baseline> = given
            .chunks(9)
            .map(|row| Baseline::Values {
                values: row.iter().map(|&v| v as f32).collect(),
            })
            .collect();
        for lift in both() {
            case.check_complete("mlp.zero", &lift, Target::Predicted);
            let one = lift.clone().baseline(given[0].clone());
            case.check_complete("mlp.given", &one, Target::Predicted);
            let multipliers = lift.clone().multiply_by_inputs(false);
            case.check("mlp.multipliers", &multipliers, Target::Predicted);
            let shap = shap_of(&lift, given.clone());
            case.check_complete("mlp.shap", &shap, Target::Predicted);
        }
    }
}

/// A layer's own values, and those of the input for one of its neurons.
#[test]
fn layers_and_neurons_have_captums_values() {
    let input = Reference::golden("mlp");
    for case in Case::of(&Mlp::golden(), |m, x| m.forward(x), (&input, "input")) {
        let at = |recipe: Recipe, name: &str| {
            let method = LayerRule::new(recipe).layer("fc2");
            let found = method.explain_layer(&case.graph, case.input.clone(), Target::Predicted);
            let found = host(found.unwrap().tensor::<2>().unwrap());
            // Captum's LRP adds its epsilon of 1e-9 in another place.
            let tolerance = case.tolerance.max(1e-8);
            assert_close(name, &found, &case.reference.values(name), tolerance);
        };
        for lift in both() {
            at(Recipe::DeepLift(lift.clone()), "mlp.layer");
            let of = NeuronAttribution::new(Recipe::DeepLift(lift));
            case.check_complete("mlp.neuron", &of.neuron("fc2", [5]), 0);
        }
        at(Recipe::named("lrp-captum").unwrap(), "mlp.layer.lrp");
        let guided = NeuronAttribution::new(Recipe::GuidedBackprop(GuidedBackprop));
        case.check("mlp.neuron.guided", &guided.neuron("fc2", [5]), 0);
    }
}

#[test]
fn softmax_has_captums_values() {
    let input = Reference::golden("mlp");
    for case in Case::of(
        &Mlp::golden(),
        |m, x| softmax(m.forward(x), 1),
        (&input, "input"),
    ) {
        case.check("mlp.softmax", &DeepLift::captum(), Target::Predicted);
        // Captum's do not add up; the complete rule's do.
        let map = DeepLift::new()
            .explain(&case.graph, case.input.clone(), Target::Predicted)
            .unwrap();
        for delta in map.evidence.delta.unwrap() {
            assert!(delta.abs() < 1e-6, "{delta:e}");
        }
    }
}

#[derive(Module, Debug)]
pub struct Series {
    conv1: Conv1d,
    conv2: Conv1d,
    fc: Linear,
}

impl Series {
    pub fn golden() -> Self {
        let weights = Reference::golden("series.weights");
        let padding = burn::nn::PaddingConfig1d::Explicit;
        let first = Conv1dConfig::new(3, 8, 5).with_padding(padding(2, 2));
        let second = Conv1dConfig::new(8, 8, 3)
            .with_stride(2)
            .with_dilation(2)
            .with_padding(padding(1, 1));
        Series {
            conv1: conv1d(&weights, "conv1", first),
            conv2: conv1d(&weights, "conv2", second),
            fc: linear(&weights, "fc"),
        }
    }

    pub fn forward(&self, x: Tensor<3>) -> Tensor<2> {
        let x = tanh(self.conv1.forward(x.swap_dims(1, 2)));
        let x = relu(self.conv2.forward(x)).mean_dim(2);
        self.fc.forward(x.squeeze_dim(2))
    }
}

#[test]
fn time_series_have_captums_values() {
    let input = Reference::golden("series");
    for case in Case::of(&Series::golden(), |m, x| m.forward(x), (&input, "input")) {
        for lift in both() {
            case.check_complete("series.zero", &lift, Target::Predicted);
            let set = vec![Baseline::Zero, Baseline::Constant(1.0)];
            let shap = shap_of(&lift, set);
            case.check_complete("series.shap", &shap, Target::Predicted);
        }
    }
}

/// ReLUs are functions here, each block's is used twice, and branches are added.
#[test]
fn a_residual_network_has_captums_values() {
    let input = Reference::golden("small_resnet_basic");
    let net = small_resnet(Block::Basic, "small_resnet_basic", FloatDType::F32);
    for mut case in Case::of(&net, |m, x| m.forward(x), (&input, "input")) {
        case.tolerance = case.tolerance.max(1e-6);
        for lift in both() {
            case.check_complete("resnet.zero", &lift, Target::Predicted);
            let set = vec![Baseline::Zero, Baseline::Constant(0.5)];
            let shap = shap_of(&lift, set);
            case.check_complete("resnet.shap", &shap, Target::Predicted);
            let layer = LayerRule::new(Recipe::DeepLift(lift)).layer("layer2");
            let found = layer.explain_layer(&case.graph, case.input.clone(), Target::Predicted);
            let found = host(found.unwrap().tensor::<4>().unwrap());
            let want = case.reference.values("resnet.layer2");
            assert_close("resnet.layer2", &found, &want, case.tolerance);
        }
        let folded = case.graph.folded();
        let run = Run::new().batch_size(BatchSize::Rows(1));
        let map = DeepLift::new()
            .explain_with(&folded, case.input.clone(), &Target::Predicted, &run)
            .unwrap();
        let want = case.reference.values("resnet.zero");
        assert_close("folded", &host(map.values), &want, 10.0 * case.tolerance);
    }
}

#[derive(Module, Debug)]
struct Pooled {
    conv1: Conv2d,
    conv2: Conv2d,
    fc: Linear,
}

impl Pooled {
    fn forward(&self, x: Tensor<4>) -> Tensor<2> {
        let pool = MaxPool2dConfig::new([2, 2]).init();
        let x = pool.forward(relu(self.conv1.forward(x)));
        let x = pool.forward(elu(self.conv2.forward(x), 1.0));
        sigmoid(self.fc.forward(x.flatten(1, 3)))
    }
}

#[test]
fn max_pools_have_captums_values() {
    let reference = Reference::golden("deeplift");
    let net = Pooled {
        conv1: conv2d(&reference, "pooled.weights.conv1", [2, 4]),
        conv2: conv2d(&reference, "pooled.weights.conv2", [4, 6]),
        fc: linear(&reference, "pooled.weights.fc"),
    };
    let cases = Case::of(&net, |m, x| m.forward(x), (&reference, "pooled.input"));
    for case in cases {
        for lift in both() {
            case.check_complete("pooled.zero", &lift, vec![0, 1, 2]);
            let lift = lift.baseline(Baseline::Constant(1.0));
            case.check_complete("pooled.one", &lift, vec![0, 1, 2]);
        }
    }
}

#[derive(Module, Debug)]
pub struct LstmNet {
    lstm: Lstm,
    fc: Linear,
}

impl LstmNet {
    /// PyTorch keeps the gates in one matrix: input, forget, cell, output.
    pub fn golden(reference: &Reference) -> Self {
        const HIDDEN: usize = 5;
        let part = |name: &str, gate: usize| {
            let all: Tensor<2> = of_torch(reference, &format!("lstm.weights.lstm.{name}_l0"));
            all.narrow(0, gate * HIDDEN, HIDDEN).transpose()
        };
        let bias = |name: &str, gate: usize| {
            let all: Tensor<1> = of_torch(reference, &format!("lstm.weights.lstm.{name}_l0"));
            Some(Param::from_tensor(all.narrow(0, gate * HIDDEN, HIDDEN)))
        };
        let mut lstm = LstmConfig::new(3, HIDDEN, true).init(&Device::flex());
        let forget = lstm.forget_gate.as_mut().unwrap();
        let gates = [
            &mut lstm.input_gate,
            forget,
            &mut lstm.cell_gate,
            &mut lstm.output_gate,
        ];
        for (index, gate) in gates.into_iter().enumerate() {
            gate.input_transform.weight = Param::from_tensor(part("weight_ih", index));
            gate.input_transform.bias = bias("bias_ih", index);
            gate.hidden_transform.weight = Param::from_tensor(part("weight_hh", index));
            gate.hidden_transform.bias = bias("bias_hh", index);
        }
        LstmNet {
            lstm,
            fc: linear(reference, "lstm.weights.fc"),
        }
    }

    pub fn forward(&self, x: Tensor<3>) -> Tensor<2> {
        let (_, state) = self.lstm.forward(x, None);
        self.fc.forward(state.hidden)
    }
}

#[test]
fn an_lstm_has_captums_values() {
    let reference = Reference::golden("deeplift");
    let net = LstmNet::golden(&reference);
    for case in Case::of(&net, |m, x| m.forward(x), (&reference, "lstm.input")) {
        let target = || vec![0, 1, 2, 3];
        let map = case.check("lstm.zero", &DeepLift::captum(), target());
        let logits = host(map.outputs);
        assert_close(
            "logits",
            &logits,
            &reference.values("lstm.logits"),
            case.tolerance,
        );
        // Captum leaves the gates' products to the gradient, so its values do not add up.
        let map = DeepLift::new().explain(&case.graph, case.input.clone(), target());
        for delta in map.unwrap().evidence.delta.unwrap() {
            assert!(delta.abs() < 1e-5, "{delta:e}");
        }
    }
}
