//! Functions of single values other than ReLU.

use super::{
    buffer::Buffer,
    elementwise::weigh,
    kernel::{
        Isa, Shared, Work,
        functions::{exp, normal, sigmoid, tanh},
    },
};
use crate::graph::Unary;

/// The functions that plans know.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Function {
    LeakyRelu(f32),
    Elu(f32),
    Sigmoid,
    Tanh,
    Silu,
    Gelu,
    GeluTanh,
    /// alpha x + beta between zero and one.
    HardSigmoid(f32, f32),
    HardSwish,
    Clamp(f32, f32),
}

impl Function {
    pub fn of(unary: Unary) -> Option<Self> {
        Some(match unary {
            Unary::LeakyRelu { slope } => Function::LeakyRelu(slope as f32),
            Unary::Elu { alpha } => Function::Elu(alpha as f32),
            Unary::Sigmoid => Function::Sigmoid,
            Unary::Tanh => Function::Tanh,
            Unary::Silu => Function::Silu,
            Unary::Gelu => Function::Gelu,
            Unary::GeluTanh => Function::GeluTanh,
            Unary::HardSigmoid { alpha, beta } => Function::HardSigmoid(alpha as f32, beta as f32),
            Unary::HardSwish => Function::HardSwish,
            // Without an upper bound it is a ReLU to Guided Backprop, which differs at zero.
            Unary::Clamp { min, max } if min != 0.0 || max.is_finite() => {
                Function::Clamp(min as f32, max as f32)
            }
            _ => return None,
        })
    }

    pub fn name(self) -> &'static str {
        match self {
            Function::LeakyRelu(_) => "leaky_relu",
            Function::Elu(_) => "elu",
            Function::Sigmoid => "sigmoid",
            Function::Tanh => "tanh",
            Function::Silu => "silu",
            Function::Gelu => "gelu",
            Function::GeluTanh => "gelu_tanh",
            Function::HardSigmoid(..) => "hard_sigmoid",
            Function::HardSwish => "hard_swish",
            Function::Clamp(..) => "clamp",
        }
    }

    /// A ReLU with an upper bound, which counts as one for Guided Backprop.
    pub fn is_bounded_relu(self) -> bool {
        matches!(self, Function::Clamp(min, max) if min == 0.0 && max > 0.0)
    }
}

/// The function's value and derivative, at corners that of Burn.
#[inline(always)]
fn at(function: Function, x: f32) -> (f32, f32) {
    match function {
        Function::LeakyRelu(slope) => match x < 0.0 {
            true => (slope * x, slope),
            false => (x, 1.0),
        },
        Function::Elu(alpha) => {
            let below = exp(if x > 0.0 { 0.0 } else { x });
            match x > 0.0 {
                true => (x, 1.0),
                false => (alpha * (below - 1.0), alpha * below),
            }
        }
        Function::Sigmoid => {
            let s = sigmoid(x);
            (s, s * (1.0 - s))
        }
        Function::Tanh => {
            let t = tanh(x);
            (t, 1.0 - t * t)
        }
        Function::Silu => {
            let s = sigmoid(x);
            (x * s, s + x * s * (1.0 - s))
        }
        Function::Gelu => {
            let (below, density) = normal(x);
            (x * below, below + x * density)
        }
        Function::GeluTanh => {
            const SCALE: f32 = 0.797_884_6;
            const CUBE: f32 = 0.044_715;
            let t = tanh(SCALE * (x + CUBE * x * x * x));
            let inner = SCALE * (1.0 + 3.0 * CUBE * x * x);
            let half = 0.5 * (1.0 + t);
            (x * half, half + 0.5 * x * (1.0 - t * t) * inner)
        }
        Function::HardSigmoid(alpha, beta) => {
            let y = alpha * x + beta;
            match (0.0..=1.0).contains(&y) {
                true => (y, alpha),
                false => (y.clamp(0.0, 1.0), 0.0),
            }
        }
        Function::HardSwish => match x {
            x if x < -3.0 => (0.0, 0.0),
            x if x > 3.0 => (x, 1.0),
            x => (x * (x / 6.0 + 0.5), x / 3.0 + 0.5),
        },
        Function::Clamp(min, max) => match x >= min && x <= max {
            true => (x, 1.0),
            false => (x.clamp(min, max), 0.0),
        },
    }
}

/// Values, and the derivatives where there is room for them: `[rows, positions, channels]`.
pub(super) fn activate(
    isa: Isa,
    function: Function,
    from: &Buffer,
    to: &mut Buffer,
    derivatives: &mut [f32],
) {
    let geometry = to.geometry;
    let keep = !derivatives.is_empty();
    let shared = Shared::new(derivatives);
    to.each_run(|run, out| {
        let values = from.run(run);
        let (first, len) = (run.first(&geometry) * geometry.channels, out.len());
        let mut kept = keep.then(|| shared.spread(first, 1, len, len));
        let mut own = Vec::new();
        let slopes = match &mut kept {
            Some(kept) => kept.part(0),
            None => {
                own.resize(len, 0.0);
                &mut own
            }
        };
        isa.vectorised(Line {
            function,
            values,
            out,
            slopes,
        });
    });
}

struct Line<'a> {
    function: Function,
    values: &'a [f32],
    out: &'a mut [f32],
    slopes: &'a mut [f32],
}

impl Work for Line<'_> {
    type Made = ();

    #[inline(always)]
    fn run(self) {
        line(self);
    }
}

/// One function at a time, so that each becomes a loop of its own.
#[inline(always)]
fn line(line: Line) {
    let Line {
        function,
        values,
        out,
        slopes,
    } = line;
    #[inline(always)]
    fn each(values: &[f32], out: &mut [f32], slopes: &mut [f32], at: impl Fn(f32) -> (f32, f32)) {
        for ((x, y), slope) in values.iter().zip(out).zip(slopes) {
            (*y, *slope) = at(*x);
        }
    }
    macro_rules! apart {
        ($($name:ident $(($($field:ident),*))?),*) => {
            match function {
                $(Function::$name $(($($field),*))? => {
                    each(values, out, slopes, |x| at(Function::$name $(($($field),*))?, x))
                })*
            }
        };
    }
    apart!(
        LeakyRelu(slope),
        Elu(alpha),
        Sigmoid,
        Tanh,
        Silu,
        Gelu,
        GeluTanh,
        HardSigmoid(alpha, beta),
        HardSwish,
        Clamp(min, max)
    );
}

/// Multiplies a gradient by derivatives; with `only_positive`, what passes.
pub(super) fn pass_back(derivatives: &[f32], only_positive: bool, gradient: &mut Buffer) {
    weigh(gradient, derivatives, |value, slope| {
        let passed = value * slope;
        match only_positive {
            true => passed.max(0.0),
            false => passed,
        }
    });
}
