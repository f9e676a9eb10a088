//! Agreement with PyTorch, torchvision, Captum and numpy on small networks and vectors.
//!
//! `tests/reference/golden.py` writes the values in `tests/golden`. The f64 runs show that
//! the same function is computed; the f32 runs are what a user gets.

mod ablation;
mod cams;
#[path = "golden/deeplift.rs"]
mod deeplift;
mod definitions;
#[path = "golden/finance.rs"]
mod finance;
mod layers;
#[path = "golden/lrp.rs"]
mod lrp;
mod masks;
mod paths;

use std::path::{Path, PathBuf};

use burn::tensor::{
    DType, Device, FloatDType, Tensor, TensorData,
    activation::{relu, tanh},
    module::conv1d,
    ops::ConvOptions,
};
use safetensors::{Dtype, SafeTensors};
use saliency_core::{
    BatchSize, Form, Gradient, Graph, InputXGradient, Method, Model, NoiseScale, Reduction, Run,
    SmoothGrad, Statistics, Target, noise::noisy, normalise, pearson, reduce, signed_pair,
};
use saliency_models::{
    resnet::{Block, ResNet, ResNetConfig},
    weights::{self, LoadOptions},
};

/// Float types and the relative L2 error allowed in each.
const PRECISIONS: [(FloatDType, f64); 2] = [(FloatDType::F32, 1e-5), (FloatDType::F64, 1e-10)];

/// A safetensors file of expected values.
pub struct Reference(Vec<u8>);

impl Reference {
    pub fn open(path: &Path) -> Self {
        let bytes = std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        SafeTensors::deserialize(&bytes).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        Reference(bytes)
    }

    fn golden(name: &str) -> Self {
        Self::open(&golden(name))
    }

    pub fn names(&self) -> Vec<String> {
        let file = SafeTensors::deserialize(&self.0).unwrap();
        file.names().into_iter().map(String::from).collect()
    }

    /// Shape and values of a tensor, widened to f64.
    fn read(&self, name: &str) -> (Vec<usize>, Vec<f64>) {
        let file = SafeTensors::deserialize(&self.0).unwrap();
        let tensor = file.tensor(name).unwrap_or_else(|e| panic!("{name}: {e}"));
        let (bytes, shape) = (tensor.data(), tensor.shape().to_vec());
        let values = match tensor.dtype() {
            Dtype::F32 => decode(bytes, |b| f32::from_le_bytes(b).into()),
            Dtype::F64 => decode(bytes, f64::from_le_bytes),
            Dtype::I64 => decode(bytes, |b| i64::from_le_bytes(b) as f64),
            other => panic!("{name} is {other:?}"),
        };
        (shape, values)
    }

    pub fn values(&self, name: &str) -> Vec<f64> {
        self.read(name).1
    }

    pub fn scalar(&self, name: &str) -> f64 {
        self.values(name)[0]
    }

    pub fn tensor<const D: usize>(
        &self,
        name: &str,
        device: &Device,
        dtype: impl Into<DType>,
    ) -> Tensor<D> {
        let dtype = dtype.into();
        let (shape, values) = self.read(name);
        let data = TensorData::new(values, shape).convert_dtype(dtype);
        Tensor::from_data(data, (device, dtype))
    }

    /// Values as f32, which they must be exactly.
    fn exact_f32(&self, name: &str) -> Vec<f32> {
        let values = self.values(name);
        assert!(values.iter().all(|&v| v as f32 as f64 == v), "{name}");
        values.into_iter().map(|v| v as f32).collect()
    }
}

fn decode<const N: usize>(bytes: &[u8], one: fn([u8; N]) -> f64) -> Vec<f64> {
    bytes.as_chunks().0.iter().copied().map(one).collect()
}

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../tests/golden")
        .join(format!("{name}.safetensors"))
}

pub fn host<const D: usize>(tensor: Tensor<D>) -> Vec<f64> {
    tensor.try_into_vec_as().unwrap()
}

/// ||got - want|| / ||want||.
pub fn relative_l2(got: &[f64], want: &[f64]) -> f64 {
    assert_eq!(got.len(), want.len());
    let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|v| v * v).sum::<f64>().sqrt();
    let difference = norm(&mut got.iter().zip(want).map(|(g, w)| g - w));
    difference / norm(&mut want.iter().copied())
}

fn assert_close(what: &str, got: &[f64], want: &[f64], tolerance: f64) {
    let distance = relative_l2(got, want);
    assert!(
        distance < tolerance,
        "{what}: {distance:.1e} is not below {tolerance:.0e}"
    );
}

fn argmax(logits: &[f64], classes: usize) -> Vec<usize> {
    let largest = |row: &[f64]| (0..classes).max_by(|&a, &b| row[a].total_cmp(&row[b]));
    logits
        .chunks(classes)
        .map(|row| largest(row).unwrap())
        .collect()
}

/// The small ResNets: width 4, three classes, stages of 2, 1, 1, 1 blocks.
fn small_resnet(block: Block, name: &str, dtype: FloatDType) -> ResNet {
    let config = ResNetConfig::new(block, [2, 1, 1, 1])
        .with_width(4)
        .with_classes(3);
    let net = config.init(&Device::flex()).unwrap();
    load(net, &golden(&format!("{name}.weights")), dtype)
}

/// The same network as the command line runs it: traced, in f32 by a plan.
fn traced(net: &ResNet, input: &Tensor<4>) -> Graph {
    Graph::trace(net, |net, x| net.forward(x), input).unwrap()
}

pub fn load(net: ResNet, path: &Path, dtype: FloatDType) -> ResNet {
    let options = LoadOptions::new().dtype(dtype);
    weights::load(net, path, &options).unwrap().model
}

/// Gradients over the file's own noise samples at row 0 have its mean |G|, mean G, mean G^2
/// and population variance.
fn assert_smoothgrad<const D: usize>(
    model: &dyn Model<D>,
    reference: &Reference,
    class: usize,
    dtype: FloatDType,
    tolerance: f64,
) {
    let device = Device::flex();
    let input: Tensor<D> = reference.tensor("input", &device, dtype);
    let noise: Tensor<D> = reference.tensor("noise", &device, dtype);
    let samples = noise.dims()[0];
    let noisy = input.narrow(0, 0, 1) + noise;
    let gradients = Gradient.explain(model, noisy, class).unwrap().values;
    for (form, got) in averages(&host(gradients), samples) {
        let name = match form {
            Form::MeanAbsolute => "smoothgrad.mean_absolute",
            Form::Mean => "smoothgrad.mean",
            Form::MeanSquare => "smoothgrad.mean_squared",
            Form::Variance => "smoothgrad.variance",
        };
        if reference.names().iter().any(|n| n == name) {
            assert_close(name, &got, &reference.values(name), 3.0 * tolerance);
        }
    }
}

/// Each form of SmoothGrad over gradients `[samples, ...]`.
fn averages(gradients: &[f64], samples: usize) -> [(Form, Vec<f64>); 4] {
    let len = gradients.len() / samples;
    let mean = |f: &dyn Fn(f64) -> f64| -> Vec<f64> {
        let over = |i| {
            gradients
                .iter()
                .skip(i)
                .step_by(len)
                .map(|&g| f(g))
                .sum::<f64>()
        };
        (0..len).map(|i| over(i) / samples as f64).collect()
    };
    let (signed, square) = (mean(&|g| g), mean(&|g| g * g));
    let variance = square.iter().zip(&signed).map(|(s, m)| s - m * m).collect();
    [
        (Form::MeanAbsolute, mean(&f64::abs)),
        (Form::Mean, signed),
        (Form::MeanSquare, square),
        (Form::Variance, variance),
    ]
}

#[test]
fn bottleneck_resnet_has_torchvisions_logits_and_gradients() {
    let reference = Reference::golden("small_resnet_bottleneck");
    for (dtype, tolerance) in PRECISIONS {
        let net = small_resnet(Block::Bottleneck, "small_resnet_bottleneck", dtype);
        let input: Tensor<4> = reference.tensor("input", &Device::flex(), dtype);
        let by_class: Vec<Vec<f64>> = (0..3)
            .map(|class| reference.values(&format!("gradient.{class}")))
            .collect();
        let row = 3 * 32 * 32;
        let predicted = argmax(&reference.values("logits"), 3);
        let of_predicted = [
            &by_class[predicted[0]][..row],
            &by_class[predicted[1]][row..],
        ]
        .concat();
        for model in [&net as &dyn Model<4>, &traced(&net, &input)] {
            let check = |what: &str, target: Target, want: &[f64]| {
                let map = Gradient.explain(model, input.clone(), target).unwrap();
                assert_eq!(map.values.dtype(), DType::from(dtype));
                let logits = host(map.outputs);
                assert_close("logits", &logits, &reference.values("logits"), tolerance);
                assert_close(what, &host(map.values), want, tolerance);
            };
            for (class, want) in by_class.iter().enumerate() {
                check(&format!("gradient.{class}"), class.into(), want);
            }
            check(
                "gradient of the prediction",
                Target::Predicted,
                &of_predicted,
            );
        }
    }
}

#[test]
fn bottleneck_resnet_has_captums_maps() {
    let reference = Reference::golden("small_resnet_bottleneck");
    for (dtype, tolerance) in PRECISIONS {
        let net = small_resnet(Block::Bottleneck, "small_resnet_bottleneck", dtype);
        let input: Tensor<4> = reference.tensor("input", &Device::flex(), dtype);
        let input = input.narrow(0, 0, 1);
        let map = InputXGradient.explain(&net, input.clone(), Target::Predicted);
        let want = reference.values("input_x_gradient");
        assert_close(
            "input_x_gradient",
            &host(map.unwrap().values),
            &want,
            tolerance,
        );

        let map = Gradient.explain(&net, input, Target::Predicted).unwrap();
        for reduction in Reduction::ALL {
            let want = reference.values(&format!("reduction.{reduction}"));
            let got = host(reduce(map.values.clone(), 1, reduction));
            assert_close(&format!("{reduction}"), &got, &want, 2.0 * tolerance);
            let got = map.maps(reduction).unwrap();
            let got: Vec<f64> = got[0].values().iter().map(|&v| v.into()).collect();
            assert_close(&format!("{reduction} map"), &got, &want, 1e-5);
        }
        let (positive, negative) = signed_pair(map.values, 1);
        let want = reference.values("reduction.positive_only");
        assert_close("positive", &host(positive), &want, tolerance);
        let want = reference.values("reduction.negative");
        assert_close("negative", &host(negative), &want, tolerance);
    }
}

#[test]
fn basic_resnet_has_torchvisions_values() {
    let reference = Reference::golden("small_resnet_basic");
    for (dtype, tolerance) in PRECISIONS {
        let net = small_resnet(Block::Basic, "small_resnet_basic", dtype);
        let input: Tensor<4> = reference.tensor("input", &Device::flex(), dtype);
        let logits = host(net.forward(input.clone()));
        assert_close("logits", &logits, &reference.values("logits"), tolerance);
        for model in [&net as &dyn Model<4>, &traced(&net, &input)] {
            let map = Gradient
                .explain(model, input.clone(), Target::Predicted)
                .unwrap();
            let class = map.targets[0].class().unwrap();
            let want = reference.values("gradient.predicted");
            assert_close("gradient", &host(map.values), &want, tolerance);
            assert_smoothgrad(model, &reference, class, dtype, tolerance);
        }
    }
}

/// SmoothGrad is the average, taken here in f64 on the host, of gradients that agree with
/// PyTorch's, over the very samples that it draws.
#[test]
fn smoothgrad_averages_those_gradients() {
    let reference = Reference::golden("small_resnet_basic");
    let net = small_resnet(Block::Basic, "small_resnet_basic", FloatDType::F64);
    let input: Tensor<4> = reference.tensor("input", &Device::flex(), FloatDType::F64);
    let (samples, seed, level) = (6, 42, 0.1);
    let moved = noisy(&input, NoiseScale::Relative(level), seed, 0..samples);
    let gradients = Gradient.explain(&net, moved, 1).unwrap().values;
    let smooth = SmoothGrad::new().samples(samples).seed(seed).noise(level);
    // Batches of four and two samples, which have to be merged.
    let run = Run::new().batch_size(BatchSize::Rows(4));
    for (form, want) in averages(&host(gradients), samples) {
        let smooth = smooth.form(form);
        let map = smooth.explain_with(&net, input.clone(), &Target::Class(1), &run);
        assert_close(
            &format!("{form:?}"),
            &host(map.unwrap().values),
            &want,
            1e-10,
        );
    }
}

fn linear<const D: usize>(weights: &Reference, name: &str, x: Tensor<D>) -> Tensor<D> {
    let (device, dtype) = (x.device().inner(), x.dtype());
    let weight: Tensor<2> = weights.tensor(&format!("{name}.weight"), &device, dtype);
    let bias: Tensor<1> = weights.tensor(&format!("{name}.bias"), &device, dtype);
    x.matmul(weight.transpose().unsqueeze()) + bias.unsqueeze()
}

fn conv(weights: &Reference, name: &str, x: Tensor<3>, options: ConvOptions<1>) -> Tensor<3> {
    let (device, dtype) = (x.device().inner(), x.dtype());
    let weight = weights.tensor(&format!("{name}.weight"), &device, dtype);
    let bias = weights.tensor(&format!("{name}.bias"), &device, dtype);
    conv1d(x, weight, Some(bias), options)
}

/// Logits, gradients of the prediction and of a class per row, gradient x input, SmoothGrad.
fn assert_vectors<const D: usize>(model: &dyn Model<D>, reference: &Reference) {
    for (dtype, tolerance) in PRECISIONS {
        let input: Tensor<D> = reference.tensor("input", &Device::flex(), dtype);
        let want = reference.values("logits");
        let classes = want.len() / input.dims()[0];
        let predicted = argmax(&want, classes);
        let map = Gradient
            .explain(model, input.clone(), Target::Predicted)
            .unwrap();
        assert_close("logits", &host(map.outputs), &want, tolerance);
        let targets: Vec<usize> = map.targets.iter().map(|t| t.class().unwrap()).collect();
        assert_eq!(targets, predicted);
        let want = reference.values("gradient.predicted");
        assert_close("gradient.predicted", &host(map.values), &want, tolerance);

        let mixed: Vec<usize> = reference
            .values("mixed")
            .iter()
            .map(|&c| c as usize)
            .collect();
        let map = Gradient.explain(model, input.clone(), mixed).unwrap();
        let want = reference.values("gradient.mixed");
        assert_close("gradient.mixed", &host(map.values), &want, tolerance);

        let map = InputXGradient
            .explain(model, input, Target::Predicted)
            .unwrap();
        let want = reference.values("input_x_gradient");
        assert_close("input_x_gradient", &host(map.values), &want, tolerance);

        assert_smoothgrad(model, reference, predicted[0], dtype, tolerance);
    }
}

/// Table [N, F] -> logits.
fn mlp(weights: &Reference, x: Tensor<2>) -> Tensor<2> {
    let x = relu(linear(weights, "fc1", x));
    let x = tanh(linear(weights, "fc2", x));
    linear(weights, "fc3", x)
}

/// Time series [N, T, F] -> logits.
fn series(weights: &Reference, x: Tensor<3>) -> Tensor<2> {
    let x = x.swap_dims(1, 2);
    let x = tanh(conv(
        weights,
        "conv1",
        x,
        ConvOptions::new([1], [2], [1], 1),
    ));
    let x = relu(conv(
        weights,
        "conv2",
        x,
        ConvOptions::new([2], [1], [2], 1),
    ));
    linear(weights, "fc", x.mean_dim(2).squeeze_dim::<2>(2))
}

/// The golden networks of tables and series as graphs, in f32, with two rows of their inputs.
pub mod vectors {
    use burn::tensor::{Device, FloatDType, Tensor};
    use saliency_core::Graph;

    use super::{
        Reference,
        deeplift::{LstmNet, Mlp, Series},
    };

    fn two<const D: usize>(file: &str, name: &str) -> Tensor<D> {
        let all: Tensor<D> = Reference::golden(file).tensor(name, &Device::flex(), FloatDType::F32);
        all.narrow(0, 0, 2)
    }

    pub fn table() -> (Graph, Tensor<2>) {
        let x = two("mlp", "input");
        (
            Graph::trace(&Mlp::golden(), |m, x| m.forward(x), &x).unwrap(),
            x,
        )
    }

    pub fn convolution() -> (Graph, Tensor<3>) {
        let x = two("series", "input");
        (
            Graph::trace(&Series::golden(), |m, x| m.forward(x), &x).unwrap(),
            x,
        )
    }

    pub fn lstm() -> (Graph, Tensor<3>) {
        let x = two("deeplift", "lstm.input");
        let net = LstmNet::golden(&Reference::golden("deeplift"));
        (Graph::trace(&net, |m, x| m.forward(x), &x).unwrap(), x)
    }
}

#[test]
fn table_network_has_pytorchs_values() {
    let weights = Reference::golden("mlp.weights");
    let net = |x: Tensor<2>| mlp(&weights, x);
    assert_vectors(&net, &Reference::golden("mlp"));
}

#[test]
fn time_series_network_has_pytorchs_values() {
    let (weights, reference) = (
        Reference::golden("series.weights"),
        Reference::golden("series"),
    );
    let net = |x: Tensor<3>| series(&weights, x);
    assert_vectors(&net, &reference);

    let input = reference.tensor("input", &Device::flex(), FloatDType::F64);
    let map = Gradient.explain(&net, input, Target::Predicted).unwrap();
    let per_step = host(reduce(map.values, 2, Reduction::Sum));
    assert_close("per_step", &per_step, &reference.values("per_step"), 1e-10);
}

#[test]
fn statistics_are_numpys() {
    let reference = Reference::golden("statistics");
    for vector in ["skewed", "even", "signed", "short", "constant"] {
        let values = reference.exact_f32(&format!("{vector}.values"));
        for (name, got) in Statistics::of(&values).unwrap().entries() {
            let key = name.replace("max/mean", "max_to_mean");
            let want = reference.scalar(&format!("{vector}.{key}"));
            let error = (got - want).abs();
            assert!(
                error <= 1e-12 * want.abs(),
                "{vector}.{name}: {got} for {want}"
            );
        }
    }
}

#[test]
fn correlation_and_normalisation_are_numpys() {
    let reference = Reference::golden("statistics");
    let maps = reference.exact_f32("maps");
    let maps: Vec<&[f32]> = maps.chunks(maps.len() / 4).collect();
    let correlations: Vec<f64> = maps
        .iter()
        .flat_map(|a| maps.iter().map(|b| pearson(a, b)))
        .collect();
    let want = reference.values("correlation");
    assert!(
        want[1] > 0.9 && want[2] < -0.8,
        "one of each sign: {want:?}"
    );
    assert_close("correlation", &correlations, &want, 1e-12);

    let scaled: Vec<f64> = maps
        .iter()
        .flat_map(|map| normalise(map))
        .map(f64::from)
        .collect();
    assert_close("normalised", &scaled, &reference.values("normalised"), 1e-7);
}
