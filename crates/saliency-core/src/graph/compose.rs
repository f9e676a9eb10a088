//! Activations and norms that Burn has no operation for: it makes them of several. So does this
//! file, of operations that every backend can differentiate and that do not overflow.

use std::f64::consts::{FRAC_1_SQRT_2, FRAC_2_SQRT_PI};

use burn::backend::{Dispatch, Scalar, ops::FloatTensorOps};

use super::{execute::unary, op::Unary, value::Value};

const SELU_ALPHA: f64 = 1.673_263_242_354_377_2;
const SELU_SCALE: f64 = 1.050_700_987_355_480_5;

/// A function that Burn makes of several operations; `None` where it has one for it.
pub(super) fn activation(function: Unary, x: &Value) -> Option<Value> {
    let sigmoid = |x: &Value| unary(Unary::Sigmoid, x);
    let tanh = |x: &Value| unary(Unary::Tanh, x);
    Some(match function {
        Unary::Elu { alpha } => &x.relu() + &negative_exponential(x, 1.0).times(alpha),
        Unary::Celu { alpha } => &x.relu() + &negative_exponential(x, 1.0 / alpha).times(alpha),
        Unary::Selu => {
            let negative = negative_exponential(x, 1.0).times(SELU_ALPHA);
            (&x.relu() + &negative).times(SELU_SCALE)
        }
        Unary::Softplus { beta, threshold } => softplus(x, beta, threshold),
        Unary::Mish => x * &tanh(&softplus(x, 1.0, 20.0)),
        Unary::Softsign => x / &x.abs().plus(1.0),
        Unary::Silu => x * &sigmoid(x),
        Unary::HardSwish => {
            let gate = Unary::HardSigmoid {
                alpha: 1.0 / 6.0,
                beta: 0.5,
            };
            x * &unary(gate, x)
        }
        Unary::GeluTanh => {
            let cube = &(x * x) * x;
            let inner = (x + &cube.times(0.044715)).times(FRAC_2_SQRT_PI * FRAC_1_SQRT_2);
            &x.times(0.5) * &tanh(&inner).plus(1.0)
        }
        Unary::Tanhshrink => x - &tanh(x),
        Unary::Threshold { above, value } => x.choose(above, x, &x.full_like(value)),
        Unary::Shrink { lambda, bias } => x.abs().where_above(lambda, &(x - &x.sign().times(bias))),
        _ => return None,
    })
}

/// exp(slope min(x, 0)) - 1.
fn negative_exponential(x: &Value, slope: f64) -> Value {
    unary(Unary::Exp, &x.negative_part().times(slope)).plus(-1.0)
}

/// log(1 + exp(beta x)) / beta, and x where beta x is above the threshold.
fn softplus(x: &Value, beta: f64, threshold: f64) -> Value {
    let scaled = x.times(beta);
    let capped = Value(Dispatch::float_clamp_max(
        scaled.0.clone(),
        Scalar::Float(threshold),
    ));
    let smooth = unary(Unary::Log1p, &unary(Unary::Exp, &capped)).times(1.0 / beta);
    scaled.choose(threshold, x, &smooth)
}

/// c / sqrt(mean c^2 + epsilon) over some axes, with c = x - mean x, or x itself.
pub(super) fn standardise(x: &Value, axes: &[usize], epsilon: f64, centred: bool) -> Value {
    let c = match centred {
        true => x - &x.mean_dims(axes),
        false => x.clone(),
    };
    let square = (&c * &c).mean_dims(axes).plus(epsilon);
    &c / &Value::from(square.typed().sqrt())
}

/// Over each group of channels and all positions: x, gamma?, beta?
pub(super) fn group_norm(inputs: &[Value], groups: usize, epsilon: f64) -> Value {
    let x = &inputs[0];
    let shape = x.shape();
    let inside = shape[1..].iter().product::<usize>() / groups;
    let grouped = x.clone().reshape(&[shape[0], groups, inside]);
    let normal = standardise(&grouped, &[2], epsilon, true).reshape(&shape);
    let mut channels = vec![1; shape.len()];
    channels[1] = shape[1];
    let mut own = inputs[1..].iter().map(|v| v.clone().reshape(&channels));
    match (own.next(), own.next()) {
        (Some(gamma), Some(beta)) => &(&normal * &gamma) + &beta,
        (Some(gamma), None) => &normal * &gamma,
        _ => normal,
    }
}

/// Over the last axis: x, gamma.
pub(super) fn rms_norm(inputs: &[Value], epsilon: f64) -> Value {
    let axis = inputs[0].rank() - 1;
    &standardise(&inputs[0], &[axis], epsilon, false) * &inputs[1]
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, Tensor};

    use super::*;

    /// Far from zero nothing overflows, and the derivative is the one of the branch taken.
    #[test]
    fn large_values_stay_finite() {
        let x = Tensor::<2>::from_floats([[-900.0, 900.0]], &Device::flex());
        for function in [
            Unary::Elu { alpha: 1.5 },
            Unary::Celu { alpha: 1.5 },
            Unary::Selu,
            Unary::Softplus {
                beta: 2.0,
                threshold: 20.0,
            },
            Unary::Mish,
            Unary::Softsign,
            Unary::Silu,
            Unary::HardSwish,
            Unary::GeluTanh,
        ] {
            let leaf = Value::from(x.clone()).leaf();
            let y = activation(function, &leaf).unwrap();
            let gradients = y.typed().sum().backward();
            let gradient = Value::from(leaf.typed().grad(&gradients).unwrap());
            let (y, g) = (y.inner().to_vec().unwrap(), gradient.to_vec().unwrap());
            assert!(
                y.iter().chain(&g).all(|v| v.is_finite()),
                "{function:?} {y:?} {g:?}"
            );
            assert!(g[0].abs() < 1e-4, "{function:?} {g:?}");
            let slope = match function {
                Unary::Selu => SELU_SCALE as f32,
                Unary::Softsign => 0.0,
                _ => 1.0,
            };
            assert!((g[1] - slope).abs() < 1e-4, "{function:?} {g:?}");
        }
    }
}
