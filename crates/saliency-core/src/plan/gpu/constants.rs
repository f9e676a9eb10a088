//! What steps read besides values: weights and factors, on the device only.

use cubecl::{client::Client, server::Handle};

use super::kernel::{Kind, Matrix, Numbers, Offsets};
use crate::plan::{
    activate::Function,
    back::Back,
    step::{Conv, Step},
    sweep::Packed,
    view::Strided,
};

/// Of one step.
pub(super) enum Constants {
    None,
    Product {
        weights: Matrix,
        back: Backward,
    },
    Depthwise {
        weights: Numbers,
        bias: Option<Numbers>,
        shares: Option<Numbers>,
    },
    Affine {
        scale: Option<Numbers>,
        shift: Option<Numbers>,
    },
    Norm {
        gamma: Numbers,
        beta: Option<Numbers>,
    },
    /// Where positions start.
    Copy(Offsets),
    Fill(Numbers),
}

/// Weights of the backward pass.
pub(super) enum Backward {
    /// By sweep.
    Sweeps(Vec<Matrix>),
    /// For few input channels.
    Gather(Numbers),
}

impl Constants {
    /// Puts a step's constants on the device, and the weights of layers nowhere else. `None` for
    /// copies that take a value twice, whose gradients would be added side by side.
    pub fn new(client: &Client, step: &mut Step) -> Option<Self> {
        let numbers = |values: &[f32]| Numbers::new(client, values);
        let some = |values: &[f32]| (!values.is_empty()).then(|| numbers(values));
        Some(match step {
            Step::Conv(conv) => product(client, conv),
            Step::Depthwise(layer) => Constants::Depthwise {
                weights: numbers(&layer.weights),
                bias: some(&layer.bias),
                shares: some(&layer.shares),
            },
            Step::Affine { scale, shift, .. } => Constants::Affine {
                scale: scale.as_deref().map(numbers),
                shift: shift.as_deref().map(numbers),
            },
            Step::Norm { gamma, beta, .. } => Constants::Norm {
                gamma: numbers(gamma),
                beta: beta.as_deref().map(numbers),
            },
            Step::Copy { from, .. } => {
                if !is_apart(from) {
                    return None;
                }
                let starts: Vec<u32> = from.starts().iter().map(|&at| at as u32).collect();
                Constants::Copy(Offsets::new(client, &starts))
            }
            Step::Fill { values, .. } => Constants::Fill(numbers(values)),
            Step::MaxPool { .. }
            | Step::Mean { .. }
            | Step::Add { .. }
            | Step::Relu { .. }
            | Step::Gate { .. }
            | Step::Activate { .. }
            | Step::Softmax { .. }
            | Step::Attention(_) => Constants::None,
        })
    }
}

impl Constants {
    /// All memory that they are in.
    pub fn handles(&self) -> Vec<&Handle> {
        fn some(numbers: &Option<Numbers>) -> impl Iterator<Item = &Handle> {
            numbers.iter().map(Numbers::handle)
        }
        match self {
            Constants::None => Vec::new(),
            Constants::Product { weights, back } => match back {
                Backward::Sweeps(sweeps) => {
                    let sweeps = sweeps.iter().flat_map(Matrix::handles);
                    weights.handles().chain(sweeps).collect()
                }
                Backward::Gather(numbers) => weights.handles().chain([numbers.handle()]).collect(),
            },
            Constants::Depthwise {
                weights,
                bias,
                shares,
            } => {
                let more = some(bias).chain(some(shares));
                [weights.handle()].into_iter().chain(more).collect()
            }
            Constants::Affine { scale, shift } => some(scale).chain(some(shift)).collect(),
            Constants::Norm { gamma, beta } => {
                [gamma.handle()].into_iter().chain(some(beta)).collect()
            }
            Constants::Copy(offsets) => vec![offsets.handle()],
            Constants::Fill(numbers) => vec![numbers.handle()],
        }
    }
}

/// Whether no two of the values are the same one.
fn is_apart(values: &Strided) -> bool {
    let mut axes = values.positions.clone();
    axes.push([values.channels, values.spacing]);
    axes.retain(|[size, _]| *size > 1);
    axes.sort_by_key(|[_, stride]| *stride);
    let mut end = 1;
    axes.iter().all(|[size, stride]| {
        let apart = *stride >= end;
        end = size * stride;
        apart
    })
}

fn product(client: &Client, conv: &mut Conv) -> Constants {
    let matrix = |packed: &mut Packed, bias: Option<&[f32]>| {
        let (rows, channels, weights) = packed.take();
        Matrix::new(client, rows, channels, bias, |row, channel| {
            weights[row * channels + channel]
        })
    };
    let weights = matrix(&mut conv.weights, conv.bias.as_deref());
    let back = match &mut conv.back {
        Back::Sweeps(sweeps) => {
            let sweeps = sweeps.iter_mut();
            let matrices = sweeps.map(|sweep| matrix(sweep.packed(), None));
            Backward::Sweeps(matrices.collect())
        }
        Back::Columns(packed) => {
            // `[outputs][window][inputs]` to `[window][inputs][outputs]`.
            let (outputs, columns, weights) = packed.take();
            let turned: Vec<f32> = (0..columns * outputs)
                .map(|at| weights[at % outputs * columns + at / outputs])
                .collect();
            Backward::Gather(Numbers::new(client, &turned))
        }
    };
    Constants::Product { weights, back }
}

/// A function with its numbers, as kernels know it.
pub(super) fn kind(function: Function) -> (Kind, f32, f32) {
    match function {
        Function::LeakyRelu(slope) => (Kind::LeakyRelu, slope, 0.0),
        Function::Elu(alpha) => (Kind::Elu, alpha, 0.0),
        Function::Sigmoid => (Kind::Sigmoid, 0.0, 0.0),
        Function::Tanh => (Kind::Tanh, 0.0, 0.0),
        Function::Silu => (Kind::Silu, 0.0, 0.0),
        Function::Gelu => (Kind::Gelu, 0.0, 0.0),
        Function::GeluTanh => (Kind::GeluTanh, 0.0, 0.0),
        Function::HardSigmoid(alpha, beta) => (Kind::HardSigmoid, alpha, beta),
        Function::HardSwish => (Kind::HardSwish, 0.0, 0.0),
        Function::Clamp(min, max) => (Kind::Clamp, min, max),
    }
}
