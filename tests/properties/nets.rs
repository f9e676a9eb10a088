//! Small random networks, built as Burn modules and traced, in f64.

use burn::{
    module::{Module, Param, RunningState},
    nn::{
        BatchNorm, BatchNormConfig, Linear, LinearConfig, PaddingConfig1d, PaddingConfig2d,
        conv::{Conv1d, Conv1dConfig, Conv2d, Conv2dConfig},
        pool::{AvgPool1dConfig, AvgPool2dConfig, MaxPool1dConfig, MaxPool2dConfig},
    },
    tensor::{
        DType, Device, Tensor, TensorData,
        activation::{gelu, relu, sigmoid, tanh},
    },
};
use proptest::prelude::*;
use saliency_core::{Graph, noise::standard_normal};

pub const ROWS: usize = 3;
/// Columns of the tables; steps and features of the series; channels, height and width of the
/// pictures.
pub const COLUMNS: usize = 5;
pub const SERIES: [usize; 2] = [6, 3];
pub const PICTURE: [usize; 3] = [3, 5, 4];

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Act {
    Relu,
    Tanh,
    Gelu,
    Sigmoid,
}

impl Act {
    fn of<const D: usize>(self, x: Tensor<D>) -> Tensor<D> {
        match self {
            Act::Relu => relu(x),
            Act::Tanh => tanh(x),
            Act::Gelu => gelu(x),
            Act::Sigmoid => sigmoid(x),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Pool {
    None,
    Max,
    Average,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Biases {
    Random,
    None,
}

/// Whether two inputs of each row are interchangeable and another one is not looked at.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Inputs {
    Free,
    /// The first two columns (channels) are the same and have the same weights, the last one
    /// has weights of zero.
    Tied,
}

/// What a network looks like; the rest comes from the seed.
#[derive(Clone, Debug)]
pub struct Spec {
    pub seed: usize,
    pub width: usize,
    /// Blocks after the first layer.
    pub blocks: usize,
    pub act: Act,
    pub pool: Pool,
    pub norm: bool,
    pub residual: bool,
    /// The blocks are one and the same module.
    pub reused: bool,
    pub biases: Biases,
    pub inputs: Inputs,
}

pub fn specs() -> impl Strategy<Value = Spec> {
    let act = prop_oneof![
        Just(Act::Relu),
        Just(Act::Tanh),
        Just(Act::Gelu),
        Just(Act::Sigmoid)
    ];
    let pool = prop_oneof![Just(Pool::None), Just(Pool::Max), Just(Pool::Average)];
    let flags = (any::<bool>(), any::<bool>(), any::<bool>());
    (0..10_000usize, 2..=5usize, 0..=2usize, act, pool, flags).prop_map(
        |(seed, width, blocks, act, pool, (norm, residual, reused))| Spec {
            seed,
            width,
            blocks,
            act,
            pool,
            norm,
            residual,
            reused,
            biases: Biases::Random,
            inputs: Inputs::Free,
        },
    )
}

/// A network with what it is asked about.
pub struct Case<const D: usize> {
    pub spec: Spec,
    pub graph: Graph,
    pub x: Tensor<D>,
}

/// Numbers from one seed, one tensor after the other.
struct Draw {
    seed: usize,
    next: usize,
}

impl Draw {
    fn tensor<const D: usize>(&mut self, shape: [usize; D], scale: f64) -> Tensor<D> {
        self.next += 1;
        let values = standard_normal(self.seed as u64, self.next, shape.iter().product());
        let values: Vec<f32> = values.iter().map(|v| v * scale as f32).collect();
        Tensor::from_data(TensorData::new(values, shape), &Device::flex())
    }

    fn param<const D: usize>(&mut self, shape: [usize; D], scale: f64) -> Param<Tensor<D>> {
        Param::from_tensor(self.tensor(shape, scale))
    }

    fn linear(&mut self, from: usize, to: usize, biases: Biases) -> Linear {
        let device = Device::flex();
        let with_bias = biases == Biases::Random;
        let mut layer = LinearConfig::new(from, to)
            .with_bias(with_bias)
            .init(&device);
        layer.weight = self.param([from, to], 1.3 / (from as f64).sqrt());
        layer.bias = with_bias.then(|| self.param([to], 0.3));
        layer
    }

    fn conv(&mut self, from: usize, to: usize, biases: Biases) -> Conv2d {
        let device = Device::flex();
        let with_bias = biases == Biases::Random;
        let mut layer = Conv2dConfig::new([from, to], [3, 3])
            .with_padding(PaddingConfig2d::Explicit(1, 1, 1, 1))
            .with_bias(with_bias)
            .init(&device);
        layer.weight = self.param([to, from, 3, 3], 1.3 / (9.0 * from as f64).sqrt());
        layer.bias = with_bias.then(|| self.param([to], 0.3));
        layer
    }

    fn conv1d(&mut self, from: usize, to: usize, biases: Biases) -> Conv1d {
        let device = Device::flex();
        let with_bias = biases == Biases::Random;
        let mut layer = Conv1dConfig::new(from, to, 3)
            .with_padding(PaddingConfig1d::Explicit(1, 1))
            .with_bias(with_bias)
            .init(&device);
        layer.weight = self.param([to, from, 3], 1.3 / (3.0 * from as f64).sqrt());
        layer.bias = with_bias.then(|| self.param([to], 0.3));
        layer
    }

    fn norm(&mut self, channels: usize, biases: Biases) -> BatchNorm {
        let device = Device::flex();
        let shift = if biases == Biases::Random { 0.4 } else { 0.0 };
        let mut norm = BatchNormConfig::new(channels).init(&device);
        norm.gamma = Param::from_tensor(self.tensor([channels], 0.5) + 1.0);
        norm.beta = self.param([channels], shift);
        norm.running_mean = RunningState::new(self.tensor([channels], shift));
        norm.running_var = RunningState::new(self.tensor([channels], 0.5).abs() + 0.5);
        norm
    }
}

#[derive(Module, Debug)]
struct Mlp {
    first: Linear,
    norm: Option<BatchNorm>,
    blocks: Vec<Linear>,
    head: Linear,
}

/// Dense layers on a table `[rows, COLUMNS]`.
pub fn table(spec: &Spec) -> Case<2> {
    let mut draw = Draw {
        seed: spec.seed,
        next: 0,
    };
    let Spec {
        width,
        blocks,
        biases,
        ..
    } = *spec;
    let mut net = Mlp {
        first: draw.linear(COLUMNS, width, biases),
        norm: spec.norm.then(|| draw.norm(width, biases)),
        blocks: (0..blocks)
            .map(|_| draw.linear(width, width, biases))
            .collect(),
        head: draw.linear(width, 3, biases),
    };
    let mut x: Tensor<2> = draw.tensor([ROWS, COLUMNS], 1.0);
    if spec.inputs == Inputs::Tied {
        net.first.weight = net.first.weight.map(|w| tied(w, 0));
        x = copied(x);
    }
    let forward = |net: &Mlp, x: Tensor<2>| {
        let x = net.first.forward(x);
        let x = match &net.norm {
            Some(norm) => norm.forward(x),
            None => x,
        };
        let x = (0..blocks).fold(spec.act.of(x), |x, i| {
            let block = &net.blocks[if spec.reused { 0 } else { i }];
            let y = block.forward(x.clone());
            spec.act.of(if spec.residual { y + x } else { y })
        });
        net.head.forward(x)
    };
    let graph = Graph::trace(&net.valid(), forward, &x).unwrap();
    case(spec, graph, x)
}

#[derive(Module, Debug)]
struct Temporal {
    first: Conv1d,
    norm: Option<BatchNorm>,
    blocks: Vec<Conv1d>,
    head: Linear,
}

/// Convolutions over the steps of series `[rows, SERIES]`.
pub fn series(spec: &Spec) -> Case<3> {
    let mut draw = Draw {
        seed: spec.seed,
        next: 0,
    };
    let Spec {
        width,
        blocks,
        biases,
        ..
    } = *spec;
    let [steps, features] = SERIES;
    let net = Temporal {
        first: draw.conv1d(features, width, biases),
        norm: spec.norm.then(|| draw.norm(width, biases)),
        blocks: (0..blocks)
            .map(|_| draw.conv1d(width, width, biases))
            .collect(),
        head: draw.linear(width, 3, biases),
    };
    let x: Tensor<3> = draw.tensor([ROWS, steps, features], 1.0);
    let forward = |net: &Temporal, x: Tensor<3>| {
        let x = net.first.forward(x.swap_dims(1, 2));
        let x = match &net.norm {
            Some(norm) => norm.forward(x),
            None => x,
        };
        let x = spec.act.of(x);
        let x = match spec.pool {
            Pool::None => x,
            Pool::Max => MaxPool1dConfig::new(2).init().forward(x),
            Pool::Average => AvgPool1dConfig::new(2).init().forward(x),
        };
        let x = (0..blocks).fold(x, |x, i| {
            let y = net.blocks[if spec.reused { 0 } else { i }].forward(x.clone());
            spec.act.of(if spec.residual { y + x } else { y })
        });
        net.head.forward(x.mean_dim(2).squeeze_dim::<2>(2))
    };
    let graph = Graph::trace(&net.valid(), forward, &x).unwrap();
    case(spec, graph, x)
}

#[derive(Module, Debug)]
struct Cnn {
    first: Conv2d,
    norm: Option<BatchNorm>,
    blocks: Vec<Conv2d>,
    block_norm: Option<BatchNorm>,
    head: Linear,
}

/// Convolutions on pictures `[rows, PICTURE]`.
pub fn picture(spec: &Spec) -> Case<4> {
    let mut draw = Draw {
        seed: spec.seed,
        next: 0,
    };
    let Spec {
        width,
        blocks,
        biases,
        ..
    } = *spec;
    let [channels, height, wide] = PICTURE;
    let mut net = Cnn {
        first: draw.conv(channels, width, biases),
        norm: spec.norm.then(|| draw.norm(width, biases)),
        blocks: (0..blocks)
            .map(|_| draw.conv(width, width, biases))
            .collect(),
        block_norm: spec.norm.then(|| draw.norm(width, biases)),
        head: draw.linear(width, 3, biases),
    };
    let mut x: Tensor<4> = draw.tensor([ROWS, channels, height, wide], 1.0);
    if spec.inputs == Inputs::Tied {
        net.first.weight = net.first.weight.map(|w| tied(w, 1));
        x = copied(x);
    }
    let forward = |net: &Cnn, x: Tensor<4>| {
        let normed = |norm: &Option<BatchNorm>, x: Tensor<4>| match norm {
            Some(norm) => norm.forward(x),
            None => x,
        };
        let x = spec.act.of(normed(&net.norm, net.first.forward(x)));
        let x = match spec.pool {
            Pool::None => x,
            Pool::Max => MaxPool2dConfig::new([2, 2]).init().forward(x),
            Pool::Average => AvgPool2dConfig::new([2, 2]).init().forward(x),
        };
        let x = (0..blocks).fold(x, |x, i| {
            let block = &net.blocks[if spec.reused { 0 } else { i }];
            let y = block.forward(x.clone());
            // A shared normalisation after a shared convolution cannot be folded twice.
            let y = if i == 0 && !spec.reused {
                normed(&net.block_norm, y)
            } else {
                y
            };
            spec.act.of(if spec.residual { y + x } else { y })
        });
        net.head.forward(x.mean_dims(&[2, 3]).flatten::<2>(1, 3))
    };
    let graph = Graph::trace(&net.valid(), forward, &x).unwrap();
    case(spec, graph, x)
}

fn case<const D: usize>(spec: &Spec, graph: Graph, x: Tensor<D>) -> Case<D> {
    Case {
        spec: spec.clone(),
        graph: graph.cast(DType::F64),
        x: x.cast(DType::F64),
    }
}

/// The second of the weights of an axis made the first, the last one zero.
fn tied<const D: usize>(weight: Tensor<D>, axis: usize) -> Tensor<D> {
    let count = weight.dims()[axis];
    let at = |i: usize| weight.clone().narrow(axis, i, 1);
    let mut parts: Vec<_> = (0..count).map(at).collect();
    parts[1] = parts[0].clone();
    parts[count - 1] = parts[count - 1].zeros_like();
    Tensor::cat(parts, axis)
}

/// The second column (channel) made the first.
fn copied<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    let count = x.dims()[1];
    let first = x.clone().narrow(1, 0, 1);
    Tensor::cat(vec![first.clone(), first, x.narrow(1, 2, count - 2)], 1)
}
