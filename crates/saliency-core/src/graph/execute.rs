//! One operation on Burn tensors. On tracked inputs it lands on Burn's tape, as any other.

use std::f64::consts::FRAC_1_SQRT_2;

use burn::{
    backend::{
        Dispatch, DispatchTensor, Scalar, Slice,
        ops::{
            ActivationOps, BoolTensorOps, ConvOptions, ConvTransposeOptions, DeformConvOptions,
            FloatTensorOps, GridSampleOptions, GridSamplePaddingMode, IntTensorOps,
            InterpolateMode, InterpolateOptions, ModuleOps, PadMode, UnfoldOptions,
        },
    },
    tensor::{Bool, DType, FloatDType, Int, IntDType, Tensor},
};

use super::{
    compose, is_flex,
    op::{
        Along, Binary, Compare, Interpolation, Op, Outside, PadWith, Pool, Reduce, Span, Unary,
        Window,
    },
    value::Value,
};

/// Runs `op` with the concrete `shape` of its output. `Input` and `Constant` have values of
/// their own and do not come here.
pub(crate) fn execute(op: &Op, inputs: &[Value], shape: &[usize], rows: usize) -> Value {
    let raw = |index: usize| -> DispatchTensor { inputs[index].0.clone() };
    // Runs the function for the kind of the first input.
    macro_rules! by_kind {
        ($float:ident, $int:ident, $bool:ident, ($($argument:expr),*)) => {
            match inputs[0].dtype() {
                dtype if dtype.is_float() => Dispatch::$float($($argument),*),
                dtype if dtype.is_bool() => Dispatch::$bool($($argument),*),
                _ => Dispatch::$int($($argument),*),
            }
        };
        ($float:ident, $int:ident, ($($argument:expr),*)) => {
            match inputs[0].is_float() {
                true => Dispatch::$float($($argument),*),
                false => Dispatch::$int($($argument),*),
            }
        };
    }
    let settings = || inputs[0].device().settings();
    let optional = |index: usize| inputs.get(index).map(|v| v.0.clone());
    Value(match op {
        Op::Input | Op::Constant => unreachable!("it has a value of its own"),
        Op::Conv { window, groups } => return conv(inputs, window, *groups),
        Op::ConvTranspose {
            window,
            padding_out,
            groups,
        } => return conv_transpose(inputs, window, padding_out, *groups),
        Op::Linear => return linear(inputs),
        Op::Matmul => Dispatch::float_matmul(raw(0), raw(1)),
        Op::BatchNorm { epsilon } => {
            Dispatch::batch_norm(raw(0), raw(1), raw(2), raw(3), raw(4), *epsilon)
        }
        Op::LayerNorm { epsilon } => Dispatch::layer_norm(raw(0), raw(1), optional(2), *epsilon),
        Op::GroupNorm { groups, epsilon } => {
            return compose::group_norm(inputs, *groups, *epsilon);
        }
        Op::RmsNorm { epsilon } => return compose::rms_norm(inputs, *epsilon),
        Op::Standardise {
            axes,
            epsilon,
            centred,
        } => return compose::standardise(&inputs[0], axes, *epsilon, *centred),
        Op::DeformConv {
            window,
            groups,
            offset_groups,
            masked,
        } => {
            let padding: Vec<usize> = window.padding.iter().map(|p| p.0).collect();
            let options = DeformConvOptions::new(
                axes(&window.stride),
                axes(&padding),
                axes(&window.dilation),
                *groups,
                *offset_groups,
            );
            let (mask, bias) = match masked {
                true => (optional(3), optional(4)),
                false => (None, optional(3)),
            };
            Dispatch::deform_conv2d(raw(0), raw(1), raw(2), mask, bias, options)
        }
        Op::GridSample {
            mode,
            outside,
            align_corners,
        } => {
            let padding_mode = match outside {
                Outside::Zeros => GridSamplePaddingMode::Zeros,
                Outside::Border => GridSamplePaddingMode::Border,
                Outside::Reflection => GridSamplePaddingMode::Reflection,
            };
            let options = GridSampleOptions {
                mode: interpolation_mode(*mode),
                padding_mode,
                align_corners: *align_corners,
            };
            Dispatch::float_grid_sample_2d(raw(0), raw(1), options)
        }
        Op::UnfoldWindows(pool) => {
            let padding: Vec<usize> = pool.window.padding.iter().map(|p| p.0).collect();
            let options = UnfoldOptions::new(
                axes(&pool.window.stride),
                axes(&padding),
                axes(&pool.window.dilation),
            );
            Dispatch::unfold4d(raw(0), axes(&pool.kernel), options)
        }
        Op::Embedding => Dispatch::embedding(raw(0), raw(1)),
        Op::MaxPool(pool) => return max_pool(&inputs[0], pool),
        Op::AvgPool {
            pool,
            count_padding,
        } => return avg_pool(&inputs[0], pool, *count_padding),
        Op::AdaptiveAvgPool { size } => match size[..] {
            [a] => Dispatch::adaptive_avg_pool1d(raw(0), a),
            [a, b] => Dispatch::adaptive_avg_pool2d(raw(0), [a, b]),
            [a, b, c] => Dispatch::adaptive_avg_pool3d(raw(0), [a, b, c]),
            _ => unreachable!("checked when traced"),
        },
        Op::Interpolate {
            size,
            mode,
            align_corners,
        } => {
            let options = || interpolation(*mode, *align_corners);
            match inputs[0].is_tracked() {
                true => return interpolate_by_matrices(&inputs[0], *size, options),
                false => Dispatch::interpolate(raw(0), *size, options()),
            }
        }
        Op::Unary(function) => return unary(*function, &inputs[0]),
        Op::PRelu => Dispatch::prelu(raw(0), raw(1)),
        Op::Binary(function) => return binary(*function, &inputs[0], &inputs[1]),
        Op::Along(Along::Softmax, axis) => Dispatch::softmax(raw(0), *axis),
        Op::Along(Along::LogSoftmax, axis) => Dispatch::log_softmax(raw(0), *axis),
        Op::Along(Along::Softmin, axis) => Dispatch::softmin(raw(0), *axis),
        Op::Along(Along::QuietSoftmax, axis) => {
            // exp(x - m) / (exp(-m) + sum exp(x - m)), m the largest of x and zero.
            let x = &inputs[0];
            let top = x.clone().inner().max_dim(*axis).relu();
            let top = &top;
            let e = unary(Unary::Exp, &(x - top));
            let rest = unary(Unary::Exp, &top.times(-1.0));
            return &e / &(&e.sum_dims(&[*axis]) + &rest);
        }
        Op::Along(Along::CumulativeSum, axis) => {
            by_kind!(float_cumsum, int_cumsum, (raw(0), *axis))
        }
        Op::Along(Along::CumulativeProduct, axis) => {
            by_kind!(float_cumprod, int_cumprod, (raw(0), *axis))
        }
        Op::Along(Along::CumulativeMin, axis) => {
            by_kind!(float_cummin, int_cummin, (raw(0), *axis))
        }
        Op::Along(Along::CumulativeMax, axis) => {
            by_kind!(float_cummax, int_cummax, (raw(0), *axis))
        }
        Op::Reduce(how, axes) => {
            return axes
                .iter()
                .fold(inputs[0].clone(), |value, &axis| reduce(*how, value, axis));
        }
        Op::ArgMax(axis) => match inputs[0].is_float() {
            true => Dispatch::float_argmax(raw(0), *axis, settings().int_dtype),
            false => Dispatch::int_argmax(raw(0), *axis),
        },
        Op::ArgMin(axis) => match inputs[0].is_float() {
            true => Dispatch::float_argmin(raw(0), *axis, settings().int_dtype),
            false => Dispatch::int_argmin(raw(0), *axis),
        },
        Op::ArgSort { axis, descending } => match inputs[0].is_float() {
            true => Dispatch::float_argsort(raw(0), *axis, *descending, settings().int_dtype),
            false => Dispatch::int_argsort(raw(0), *axis, *descending),
        },
        Op::IsNan => Dispatch::float_is_nan(raw(0), settings().bool_dtype),
        Op::IsInf => Dispatch::float_is_inf(raw(0), settings().bool_dtype),
        Op::Compare(how) => compare(*how, &inputs[0], &inputs[1]),
        Op::CompareTo(how, number) => compare_to(*how, &inputs[0], *number),
        Op::MaskFill(number) => match inputs[0].dtype() {
            dtype if dtype.is_float() => {
                Dispatch::float_mask_fill(raw(0), raw(1), Scalar::Float(*number))
            }
            dtype if dtype.is_bool() => {
                Dispatch::bool_mask_fill(raw(0), raw(1), Scalar::Bool(*number != 0.0))
            }
            _ => Dispatch::int_mask_fill(raw(0), raw(1), Scalar::Int(*number as i64)),
        },
        Op::MaskWhere => by_kind!(
            float_mask_where,
            int_mask_where,
            bool_mask_where,
            (raw(0), raw(1), raw(2))
        ),
        Op::Not => Dispatch::bool_not(raw(0)),
        Op::And => Dispatch::bool_and(raw(0), raw(1)),
        Op::Or => Dispatch::bool_or(raw(0), raw(1)),
        Op::Xor => Dispatch::bool_xor(raw(0), raw(1)),
        Op::Reshape => return inputs[0].clone().reshape(shape),
        Op::Expand => return inputs[0].clone().expand(shape),
        Op::Permute(axes) => return inputs[0].clone().permute(axes),
        Op::Flip(axes) => by_kind!(float_flip, int_flip, bool_flip, (raw(0), axes)),
        Op::Slice(spans) => {
            let slices = slices(spans, rows);
            by_kind!(float_slice, int_slice, bool_slice, (raw(0), &slices))
        }
        Op::SliceAssign(spans) => {
            let slices = slices(spans, rows);
            by_kind!(
                float_slice_assign,
                int_slice_assign,
                bool_slice_assign,
                (raw(0), &slices, raw(1))
            )
        }
        Op::Cat(axis) => return Value::cat(inputs.to_vec(), *axis),
        Op::Repeat(axis) => {
            let times = shape[*axis] / inputs[0].shape()[*axis];
            by_kind!(
                float_repeat_dim,
                int_repeat_dim,
                bool_repeat_dim,
                (raw(0), *axis, times)
            )
        }
        Op::Pad { padding, with } => return pad(&inputs[0], padding, *with),
        Op::Select(axis) => by_kind!(
            float_select,
            int_select,
            bool_select,
            (raw(0), *axis, raw(1))
        ),
        Op::Gather(axis) => by_kind!(
            float_gather,
            int_gather,
            bool_gather,
            (*axis, raw(0), raw(1))
        ),
        Op::Scatter(axis, update) => by_kind!(
            float_scatter,
            int_scatter,
            (*axis, raw(0), raw(1), raw(2), *update)
        ),
        Op::SelectAssign(axis, update) => by_kind!(
            float_select_assign,
            int_select_assign,
            (raw(0), *axis, raw(1), raw(2), *update)
        ),
        Op::Unfold { axis, size, step } => by_kind!(
            float_unfold,
            int_unfold,
            bool_unfold,
            (raw(0), *axis, *size, *step)
        ),
        Op::Cast(dtype) => return cast(&inputs[0], *dtype),
        Op::Full { .. } => unreachable!("it needs a device: see `full`"),
    })
}

/// One number in a shape. It takes the memory of that shape: kernels of wgpu read past the end
/// of one number that is only broadcast.
pub(crate) fn full(
    number: f64,
    dtype: DType,
    shape: &[usize],
    device: &burn::tensor::Device,
) -> Value {
    let len: [usize; 1] = [shape.iter().product()];
    let flat: Value = match dtype {
        dtype if dtype.is_float() => Tensor::<1>::full(len, number, (device, dtype)).into(),
        dtype if dtype.is_bool() => Tensor::<1, Bool>::full(len, number != 0.0, device).into(),
        dtype => Tensor::<1, Int>::full(len, number as i64, (device, dtype)).into(),
    };
    flat.reshape(shape)
}

pub(crate) fn conv_options<const N: usize>(window: &Window, groups: usize) -> ConvOptions<N> {
    ConvOptions::new_with_padding(
        axes(&window.stride),
        axes(&window.padding),
        axes(&window.dilation),
        groups,
    )
}

pub(crate) fn axes<const N: usize, T: Copy>(values: &[T]) -> [T; N] {
    std::array::from_fn(|i| values[i])
}

fn conv(inputs: &[Value], window: &Window, groups: usize) -> Value {
    if groups == 1 && is_pointwise(&inputs[1], window) && !is_flex(&inputs[0].device()) {
        return pointwise(inputs, window);
    }
    let (x, weight) = (inputs[0].0.clone(), inputs[1].0.clone());
    let bias = inputs.get(2).map(|v| v.0.clone());
    Value(match window.stride.len() {
        1 => Dispatch::conv1d(x, weight, bias, conv_options(window, groups)),
        2 => Dispatch::conv2d(x, weight, bias, conv_options(window, groups)),
        _ => Dispatch::conv3d(x, weight, bias, conv_options(window, groups)),
    })
}

/// Whether its window is a single position, without a border.
fn is_pointwise(weight: &Value, window: &Window) -> bool {
    matches!(weight.shape()[..], [_, _, 1, 1]) && window.padding.iter().all(|p| *p == (0, 0))
}

/// A convolution of single positions as one matrix product of all positions and rows. Without
/// autotune Burn's GPU convolutions take a direct kernel, which is many times slower. Channels come
/// last in memory, as Burn's convolutions leave them.
fn pointwise(inputs: &[Value], window: &Window) -> Value {
    let x = inputs[0].clone().tensor::<4>();
    let x = match window.stride[..] {
        [1, 1] => x,
        _ => {
            let steps = |axis: usize| Slice::with_step(0, None, window.stride[axis] as isize);
            let all = Slice::with_step(0, None, 1);
            x.slice([all, all, steps(0), steps(1)])
        }
    };
    let ([rows, from, height, width], to) = (x.dims(), inputs[1].shape()[0]);
    let flat = x
        .permute([0, 2, 3, 1])
        .reshape([rows * height * width, from]);
    let weight = inputs[1].clone().reshape(&[to, from]).tensor::<2>();
    let mut out = flat.matmul(weight.transpose());
    if let Some(bias) = inputs.get(2) {
        out = out + bias.clone().reshape(&[1, to]).tensor::<2>();
    }
    let out = out.reshape([rows, height, width, to]);
    out.permute([0, 3, 1, 2]).into()
}

fn conv_transpose(
    inputs: &[Value],
    window: &Window,
    padding_out: &[usize],
    groups: usize,
) -> Value {
    fn options<const N: usize>(
        window: &Window,
        padding_out: &[usize],
        groups: usize,
    ) -> ConvTransposeOptions<N> {
        let padding: Vec<usize> = window.padding.iter().map(|p| p.0).collect();
        ConvTransposeOptions::new(
            axes(&window.stride),
            axes(&padding),
            axes(padding_out),
            axes(&window.dilation),
            groups,
        )
    }
    let (x, weight) = (inputs[0].0.clone(), inputs[1].0.clone());
    let bias = inputs.get(2).map(|v| v.0.clone());
    Value(match window.stride.len() {
        1 => Dispatch::conv_transpose1d(x, weight, bias, options(window, padding_out, groups)),
        2 => Dispatch::conv_transpose2d(x, weight, bias, options(window, padding_out, groups)),
        _ => Dispatch::conv_transpose3d(x, weight, bias, options(window, padding_out, groups)),
    })
}

fn linear(inputs: &[Value]) -> Value {
    let shape = inputs[0].shape();
    let (rows, width) = split_last(&shape);
    let flat = inputs[0].clone().reshape(&[rows, width]);
    let mut out = flat.matmul(&inputs[1]);
    if let Some(bias) = inputs.get(2) {
        out = &out + bias;
    }
    let mut shape = shape;
    *shape.last_mut().expect("a rank above 0") = inputs[1].shape()[1];
    out.reshape(&shape)
}

/// Product of all axes but the last, and the last.
pub(crate) fn split_last(shape: &[usize]) -> (usize, usize) {
    let (last, rest) = shape.split_last().expect("a rank above 0");
    (rest.iter().product(), *last)
}

fn max_pool(x: &Value, pool: &Pool) -> Value {
    let padding: Vec<usize> = pool.window.padding.iter().map(|p| p.0).collect();
    let (kernel, window) = (&pool.kernel, &pool.window);
    Value(match kernel.len() {
        1 => Dispatch::max_pool1d(
            x.0.clone(),
            kernel[0],
            window.stride[0],
            padding[0],
            window.dilation[0],
            pool.ceil,
        ),
        _ => Dispatch::max_pool2d(
            x.0.clone(),
            axes(kernel),
            axes(&window.stride),
            axes(&padding),
            axes(&window.dilation),
            pool.ceil,
        ),
    })
}

fn avg_pool(x: &Value, pool: &Pool, count_padding: bool) -> Value {
    let padding: Vec<usize> = pool.window.padding.iter().map(|p| p.0).collect();
    let (kernel, window) = (&pool.kernel, &pool.window);
    Value(match kernel.len() {
        1 => Dispatch::avg_pool1d(
            x.0.clone(),
            kernel[0],
            window.stride[0],
            padding[0],
            count_padding,
            pool.ceil,
        ),
        _ => Dispatch::avg_pool2d(
            x.0.clone(),
            axes(kernel),
            axes(&window.stride),
            axes(&padding),
            count_padding,
            pool.ceil,
        ),
    })
}

fn interpolation_mode(mode: Interpolation) -> InterpolateMode {
    match mode {
        Interpolation::Nearest => InterpolateMode::Nearest,
        Interpolation::NearestExact => InterpolateMode::NearestExact,
        Interpolation::Bilinear => InterpolateMode::Bilinear,
        Interpolation::Bicubic => InterpolateMode::Bicubic,
        Interpolation::Lanczos3 => InterpolateMode::Lanczos3,
    }
}

fn interpolation(mode: Interpolation, align_corners: bool) -> InterpolateOptions {
    InterpolateOptions::new(interpolation_mode(mode)).with_align_corners(align_corners)
}

/// Burn pads with numbers of 32 bits: others are joined on.
fn pad(x: &Value, padding: &[(usize, usize)], with: PadWith) -> Value {
    let mode = match with {
        PadWith::Constant(number) => {
            let exact = f64::from(number as f32) == number || number.is_nan();
            if x.is_float() && !exact {
                return pad_exactly(x, padding, number);
            }
            PadMode::Constant(number as f32)
        }
        PadWith::Reflect => PadMode::Reflect,
        PadWith::Edge => PadMode::Edge,
    };
    Value(match x.is_float() {
        true => Dispatch::float_pad(x.0.clone(), padding, mode),
        false => Dispatch::int_pad(x.0.clone(), padding, mode),
    })
}

fn pad_exactly(x: &Value, padding: &[(usize, usize)], number: f64) -> Value {
    let block = |x: &Value, axis: usize, size: usize| {
        let mut shape = x.shape();
        shape[axis] = size;
        full(number, x.dtype(), &shape, &x.device())
    };
    padding
        .iter()
        .enumerate()
        .fold(x.clone(), |x, (axis, &(before, after))| {
            let mut parts = Vec::new();
            if before > 0 {
                parts.push(block(&x, axis, before));
            }
            parts.push(x.clone());
            if after > 0 {
                parts.push(block(&x, axis, after));
            }
            Value::cat(parts, axis)
        })
}

/// Interpolation as one matrix for each axis: most backends have a derivative for few modes.
/// The matrices are what the backend makes of unit vectors.
fn interpolate_by_matrices(
    x: &Value,
    size: [usize; 2],
    options: impl Fn() -> InterpolateOptions,
) -> Value {
    let resize = |x: &Value, to: usize| {
        let from = x.shape()[3];
        let place = (&x.device(), x.dtype());
        // Each unit vector is a channel of a picture that is two wide, and stays so.
        let units = Value::from(Tensor::<2>::eye(from, place.0).cast(place.1));
        let units = units
            .reshape(&[1, from, from, 1])
            .expand(&[1, from, from, 2]);
        let matrix = Value(Dispatch::interpolate(units.0, [to, 2], options()));
        let matrix = matrix.narrow(3, 0, 1).reshape(&[from, to]);
        linear(&[x.clone(), matrix]).permute(&[0, 1, 3, 2])
    };
    resize(&resize(x, size[1]), size[0])
}

pub(crate) fn unary(function: Unary, x: &Value) -> Value {
    if !x.is_float() {
        return unary_int(function, x);
    }
    if function == Unary::Gelu && x.is_tracked() {
        // Most backends have the derivative of its tanh approximation, 2e-4 off.
        let erf = Value(Dispatch::float_erf(x.times(FRAC_1_SQRT_2).0));
        return &x.times(0.5) * &erf.plus(1.0);
    }
    if let Some(value) = compose::activation(function, x) {
        return value;
    }
    let raw = x.0.clone();
    let number = Scalar::Float;
    Value(match function {
        Unary::Relu => Dispatch::relu(raw),
        Unary::LeakyRelu { slope } => Dispatch::leaky_relu(raw, number(slope)),
        Unary::Gelu => Dispatch::gelu(raw),
        Unary::Sigmoid => Dispatch::sigmoid(raw),
        Unary::HardSigmoid { alpha, beta } => {
            Dispatch::hard_sigmoid(raw, number(alpha), number(beta))
        }
        Unary::LogSigmoid => Dispatch::log_sigmoid(raw),
        Unary::Tanh => Dispatch::float_tanh(raw),
        Unary::Exp => Dispatch::float_exp(raw),
        Unary::Log => Dispatch::float_log(raw),
        Unary::Log1p => Dispatch::float_log1p(raw),
        Unary::Erf => Dispatch::float_erf(raw),
        Unary::Sqrt => Dispatch::float_sqrt(raw),
        Unary::Abs => Dispatch::float_abs(raw),
        Unary::Neg => Dispatch::float_neg(raw),
        Unary::Sign => Dispatch::float_sign(raw),
        Unary::Recip => Dispatch::float_recip(raw),
        Unary::Sin => Dispatch::float_sin(raw),
        Unary::Cos => Dispatch::float_cos(raw),
        Unary::Tan => Dispatch::float_tan(raw),
        Unary::Sinh => Dispatch::float_sinh(raw),
        Unary::Cosh => Dispatch::float_cosh(raw),
        Unary::Asin => Dispatch::float_asin(raw),
        Unary::Acos => Dispatch::float_acos(raw),
        Unary::Atan => Dispatch::float_atan(raw),
        Unary::Asinh => Dispatch::float_asinh(raw),
        Unary::Acosh => Dispatch::float_acosh(raw),
        Unary::Atanh => Dispatch::float_atanh(raw),
        Unary::Round => Dispatch::float_round(raw),
        Unary::Floor => Dispatch::float_floor(raw),
        Unary::Ceil => Dispatch::float_ceil(raw),
        Unary::Trunc => Dispatch::float_trunc(raw),
        Unary::Add(by) => Dispatch::float_add_scalar(raw, number(by)),
        Unary::Mul(by) => Dispatch::float_mul_scalar(raw, number(by)),
        Unary::Div(by) => Dispatch::float_div_scalar(raw, number(by)),
        Unary::Power(by) => Dispatch::float_powf_scalar(raw, number(by)),
        Unary::Remainder(by) => Dispatch::float_remainder_scalar(raw, number(by)),
        Unary::Clamp { min, max } => Dispatch::float_clamp(raw, number(min), number(max)),
        other => unreachable!("{other:?} is composed"),
    })
}

fn unary_int(function: Unary, x: &Value) -> Value {
    let raw = x.0.clone();
    let number = |by: f64| Scalar::Int(by as i64);
    Value(match function {
        Unary::Add(by) => Dispatch::int_add_scalar(raw, number(by)),
        Unary::Mul(by) => Dispatch::int_mul_scalar(raw, number(by)),
        Unary::Div(by) => Dispatch::int_div_scalar(raw, number(by)),
        Unary::Neg => Dispatch::int_neg(raw),
        Unary::Abs => Dispatch::int_abs(raw),
        Unary::Sign => Dispatch::int_sign(raw),
        Unary::Power(by) => Dispatch::int_powi_scalar(raw, number(by)),
        Unary::Remainder(by) => Dispatch::int_remainder_scalar(raw, number(by)),
        Unary::Clamp { min, max } => {
            let raw = match min.is_finite() {
                true => Dispatch::int_clamp_min(raw, number(min)),
                false => raw,
            };
            match max.is_finite() {
                true => Dispatch::int_clamp_max(raw, number(max)),
                false => raw,
            }
        }
        other => panic!("{other:?} of whole numbers is not supported"),
    })
}

fn binary(function: Binary, a: &Value, b: &Value) -> Value {
    match (a.is_float(), function) {
        (true, Binary::Add) => a + b,
        (true, Binary::Sub) => a - b,
        (true, Binary::Mul) => a * b,
        (true, Binary::Div) => a / b,
        (true, Binary::Power) => match b.is_float() {
            true => Value(Dispatch::float_powf(a.0.clone(), b.0.clone())),
            false => Value(Dispatch::float_powi(a.0.clone(), b.0.clone())),
        },
        (true, Binary::Remainder) => Value(Dispatch::float_remainder(a.0.clone(), b.0.clone())),
        (true, Binary::Atan2) => Value(Dispatch::float_atan2(a.0.clone(), b.0.clone())),
        (true, Binary::Hypot) => Value(Dispatch::float_hypot(a.0.clone(), b.0.clone())),
        (false, Binary::Add) => Value(Dispatch::int_add(a.0.clone(), b.0.clone())),
        (false, Binary::Sub) => Value(Dispatch::int_sub(a.0.clone(), b.0.clone())),
        (false, Binary::Mul) => Value(Dispatch::int_mul(a.0.clone(), b.0.clone())),
        (false, Binary::Div) => Value(Dispatch::int_div(a.0.clone(), b.0.clone())),
        (false, Binary::Power) => Value(Dispatch::int_powi(a.0.clone(), b.0.clone())),
        (false, Binary::Remainder) => Value(Dispatch::int_remainder(a.0.clone(), b.0.clone())),
        (false, Binary::Atan2 | Binary::Hypot) => {
            panic!("{function:?} of whole numbers is not supported")
        }
    }
}

fn reduce(how: Reduce, x: Value, axis: usize) -> Value {
    Value(match (x.is_float(), how) {
        (true, Reduce::Sum) => Dispatch::float_sum_dim(x.0, axis),
        (true, Reduce::Mean) => Dispatch::float_mean_dim(x.0, axis),
        (true, Reduce::Max) => Dispatch::float_max_dim(x.0, axis),
        (true, Reduce::Min) => Dispatch::float_min_dim(x.0, axis),
        (true, Reduce::Product) => Dispatch::float_prod_dim(x.0, axis),
        (false, Reduce::Sum) => Dispatch::int_sum_dim(x.0, axis),
        (false, Reduce::Mean) => Dispatch::int_mean_dim(x.0, axis),
        (false, Reduce::Max) => Dispatch::int_max_dim(x.0, axis),
        (false, Reduce::Min) => Dispatch::int_min_dim(x.0, axis),
        (false, Reduce::Product) => Dispatch::int_prod_dim(x.0, axis),
    })
}

fn compare(how: Compare, a: &Value, b: &Value) -> DispatchTensor {
    let kind = a.device().settings().bool_dtype;
    let (dtype, a, b) = (a.dtype(), a.0.clone(), b.0.clone());
    match how {
        Compare::Equal if dtype.is_bool() => Dispatch::bool_equal(a, b),
        Compare::NotEqual if dtype.is_bool() => Dispatch::bool_not_equal(a, b),
        Compare::Equal if dtype.is_float() => Dispatch::float_equal(a, b, kind),
        Compare::NotEqual if dtype.is_float() => Dispatch::float_not_equal(a, b, kind),
        Compare::Greater if dtype.is_float() => Dispatch::float_greater(a, b, kind),
        Compare::GreaterEqual if dtype.is_float() => Dispatch::float_greater_equal(a, b, kind),
        Compare::Lower if dtype.is_float() => Dispatch::float_lower(a, b, kind),
        Compare::LowerEqual if dtype.is_float() => Dispatch::float_lower_equal(a, b, kind),
        Compare::Equal => Dispatch::int_equal(a, b, kind),
        Compare::NotEqual => Dispatch::int_not_equal(a, b, kind),
        Compare::Greater => Dispatch::int_greater(a, b, kind),
        Compare::GreaterEqual => Dispatch::int_greater_equal(a, b, kind),
        Compare::Lower => Dispatch::int_lower(a, b, kind),
        Compare::LowerEqual => Dispatch::int_lower_equal(a, b, kind),
    }
}

fn compare_to(how: Compare, x: &Value, number: f64) -> DispatchTensor {
    let kind = x.device().settings().bool_dtype;
    let (dtype, x) = (x.dtype(), x.0.clone());
    if dtype.is_bool() {
        let truth = Scalar::Bool(number != 0.0);
        return match how {
            Compare::Equal => Dispatch::bool_equal_elem(x, truth),
            _ => Dispatch::bool_not_equal_elem(x, truth),
        };
    }
    let (float, int) = (Scalar::Float(number), Scalar::Int(number as i64));
    match (dtype.is_float(), how) {
        (true, Compare::Equal) => Dispatch::float_equal_elem(x, float, kind),
        (true, Compare::NotEqual) => Dispatch::float_not_equal_elem(x, float, kind),
        (true, Compare::Greater) => Dispatch::float_greater_elem(x, float, kind),
        (true, Compare::GreaterEqual) => Dispatch::float_greater_equal_elem(x, float, kind),
        (true, Compare::Lower) => Dispatch::float_lower_elem(x, float, kind),
        (true, Compare::LowerEqual) => Dispatch::float_lower_equal_elem(x, float, kind),
        (false, Compare::Equal) => Dispatch::int_equal_elem(x, int, kind),
        (false, Compare::NotEqual) => Dispatch::int_not_equal_elem(x, int, kind),
        (false, Compare::Greater) => Dispatch::int_greater_elem(x, int, kind),
        (false, Compare::GreaterEqual) => Dispatch::int_greater_equal_elem(x, int, kind),
        (false, Compare::Lower) => Dispatch::int_lower_elem(x, int, kind),
        (false, Compare::LowerEqual) => Dispatch::int_lower_equal_elem(x, int, kind),
    }
}

fn slices(spans: &[Span], rows: usize) -> Vec<Slice> {
    spans
        .iter()
        .map(|span| {
            let (start, end) = (span.start.at(rows) as isize, span.end.at(rows) as isize);
            Slice::new(start, Some(end), span.step)
        })
        .collect()
}

fn cast(x: &Value, dtype: DType) -> Value {
    let from = x.dtype();
    let float = || FloatDType::from(dtype);
    let raw = x.0.clone();
    Value(if from.is_float() && dtype.is_float() {
        Dispatch::float_cast(raw, float())
    } else if from.is_float() {
        Dispatch::float_into_int(raw, IntDType::from(dtype))
    } else if from.is_bool() && dtype.is_float() {
        Dispatch::bool_into_float(raw, float())
    } else if from.is_bool() {
        Dispatch::bool_into_int(raw, IntDType::from(dtype))
    } else if dtype.is_float() {
        Dispatch::int_into_float(raw, float())
    } else {
        Dispatch::int_cast(raw, IntDType::from(dtype))
    })
}
