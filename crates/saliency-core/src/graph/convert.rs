//! One recorded operation of Burn as one or a few [`Op`]s.

use burn::tensor::TensorId;
use burn_ir::{
    ActivationOperationIr as Act, BaseOperationIr as Base, BinaryOpIr, BoolOperationIr as Boolean,
    FloatOperationIr as Float, IntOperationIr as Integer, InterpolateModeIr,
    ModuleOperationIr as Mod, NumericOperationIr as Num, OperationIr, PadModeIr, ReduceDimOpIr,
    ScalarIr, ScalarOpIr, TensorIr,
};

use super::{
    op::{
        Along, Binary, Compare, Interpolation, Op, PadWith, Pool, Reduce, Size, Span, Unary, Window,
    },
    trace::size,
};
use crate::error::Error;

/// Where an input comes from.
pub(super) enum From {
    /// A recorded tensor.
    Tensor(TensorId),
    /// An earlier op of the same conversion.
    Emitted(usize),
}

/// One op to add.
pub(super) struct Emit {
    pub op: Op,
    pub inputs: Vec<From>,
    pub shape: Vec<Size>,
    /// Part of the name, for ops that one recorded operation became several of.
    pub from: Option<String>,
}

pub(super) struct Converted {
    pub emits: Vec<Emit>,
    /// Which recorded tensor is which emitted op.
    pub outputs: Vec<(TensorId, usize)>,
}

/// `shapes` are those of the operation's outputs.
pub(super) fn convert(
    one: &OperationIr,
    two: &OperationIr,
    shapes: &[Vec<Size>],
    rows: [usize; 2],
) -> Result<Converted, Error> {
    if let OperationIr::Module(Mod::Attention(attention)) = one {
        return attention_ops(attention, shapes);
    }
    let (op, inputs) = single(one, two, rows)?;
    let outputs: Vec<TensorId> = one.outputs().map(|t| t.id).collect();
    let mut emits = vec![Emit {
        op,
        inputs: inputs.iter().map(|t| From::Tensor(t.id)).collect(),
        shape: shapes[0].clone(),
        from: None,
    }];
    let mut made = vec![(outputs[0], 0)];
    if let (OperationIr::NumericFloat(_, Num::MaxDimWithIndices(op)), [_, indices], [_, shape]) =
        (one, &outputs[..], shapes)
    {
        emits.push(Emit {
            op: Op::ArgMax(op.dim),
            inputs: vec![From::Tensor(op.tensor.id)],
            shape: shape.clone(),
            from: None,
        });
        made.push((*indices, 1));
    }
    Ok(Converted {
        emits,
        outputs: made,
    })
}

type Single<'a> = Result<(Op, Vec<&'a TensorIr>), Error>;

fn single<'a>(one: &'a OperationIr, two: &OperationIr, rows: [usize; 2]) -> Single<'a> {
    match one {
        OperationIr::Module(op) => module(op),
        OperationIr::Activation(op) => activation(op),
        OperationIr::Float(_, op) => float(op),
        OperationIr::NumericFloat(_, op) | OperationIr::NumericInt(_, op) => numeric(op),
        OperationIr::BaseFloat(op) => base(op, two, rows),
        OperationIr::BaseInt(op) => base(op, two, rows),
        OperationIr::BaseBool(op) => base(op, two, rows),
        OperationIr::Bool(op) => boolean(op),
        OperationIr::Int(op) => integer(op),
        other => unsupported(other),
    }
}

/// The operation's own name from its debug form: `Module(Conv2d(...` is `Conv2d`.
fn unsupported<T>(op: &impl std::fmt::Debug) -> Result<T, Error> {
    let text = format!("{op:?}");
    let name = text
        .split(['(', '{', ' '])
        .find(|part| {
            !part.is_empty()
                && ![
                    "Module",
                    "Activation",
                    "Float",
                    "NumericFloat",
                    "NumericInt",
                    "BaseFloat",
                    "BaseInt",
                    "BaseBool",
                    "Bool",
                    "Int",
                    "F32,",
                    "F64,",
                ]
                .contains(part)
        })
        .unwrap_or("?");
    let shapes = text
        .match_indices("shape: ")
        .filter_map(|(at, _)| {
            let rest = &text[at..];
            rest.find(']').map(|end| &rest[7..=end])
        })
        .collect::<Vec<_>>()
        .join(" ");
    Err(Error::UnsupportedOp {
        op: name.trim_end_matches(',').into(),
        place: match shapes.is_empty() {
            true => "the forward pass".into(),
            false => format!("the forward pass, between shapes {shapes}"),
        },
    })
}

fn number(scalar: ScalarIr) -> f64 {
    scalar.elem()
}

fn with_bias<'a>(
    x: &'a TensorIr,
    weight: &'a TensorIr,
    bias: &'a Option<TensorIr>,
) -> Vec<&'a TensorIr> {
    [Some(x), Some(weight), bias.as_ref()]
        .into_iter()
        .flatten()
        .collect()
}

fn same(padding: &[usize]) -> Vec<(usize, usize)> {
    padding.iter().map(|&p| (p, p)).collect()
}

fn module(op: &Mod) -> Single<'_> {
    macro_rules! conv {
        ($op:expr, $padding:expr) => {{
            let options = &$op.options;
            let window = Window {
                stride: options.stride.to_vec(),
                padding: $padding,
                dilation: options.dilation.to_vec(),
            };
            let groups = options.groups;
            (
                Op::Conv { window, groups },
                with_bias(&$op.x, &$op.weight, &$op.bias),
            )
        }};
    }
    macro_rules! conv_transpose {
        ($op:expr) => {{
            let options = &$op.options;
            let window = Window {
                stride: options.stride.to_vec(),
                padding: same(&options.padding),
                dilation: options.dilation.to_vec(),
            };
            let op = Op::ConvTranspose {
                window,
                padding_out: options.padding_out.to_vec(),
                groups: options.groups,
            };
            (op, with_bias(&$op.x, &$op.weight, &$op.bias))
        }};
    }
    let pool =
        |kernel: &[usize], stride: &[usize], padding: &[usize], dilation: &[usize], ceil: bool| {
            Pool {
                kernel: kernel.to_vec(),
                window: Window {
                    stride: stride.to_vec(),
                    padding: same(padding),
                    dilation: dilation.to_vec(),
                },
                ceil,
            }
        };
    macro_rules! max_pool {
        (1, $op:expr) => {{
            let pool = pool(
                &[$op.kernel_size],
                &[$op.stride],
                &[$op.padding],
                &[$op.dilation],
                $op.ceil_mode,
            );
            (Op::MaxPool(pool), vec![&$op.x])
        }};
        (2, $op:expr) => {{
            let pool = pool(
                &$op.kernel_size,
                &$op.stride,
                &$op.padding,
                &$op.dilation,
                $op.ceil_mode,
            );
            (Op::MaxPool(pool), vec![&$op.x])
        }};
    }
    Ok(match op {
        Mod::Conv1d(op) => conv!(op, op.options.padding.to_vec()),
        Mod::Conv2d(op) => conv!(op, op.options.padding.to_vec()),
        Mod::Conv3d(op) => conv!(op, same(&op.options.padding)),
        Mod::ConvTranspose1d(op) => conv_transpose!(op),
        Mod::ConvTranspose2d(op) => conv_transpose!(op),
        Mod::ConvTranspose3d(op) => conv_transpose!(op),
        Mod::Linear(op) => (Op::Linear, with_bias(&op.x, &op.weight, &op.bias)),
        Mod::BatchNorm(op) => (
            Op::BatchNorm {
                epsilon: number(op.epsilon),
            },
            vec![&op.x, &op.gamma, &op.beta, &op.mean, &op.variance],
        ),
        Mod::LayerNorm(op) => (
            Op::LayerNorm {
                epsilon: number(op.epsilon),
            },
            with_bias(&op.input, &op.gamma, &op.beta),
        ),
        Mod::Embedding(op) => (Op::Embedding, vec![&op.weights, &op.indices]),
        Mod::MaxPool1d(op) => max_pool!(1, op),
        Mod::MaxPool1dWithIndices(op) => max_pool!(1, op),
        Mod::MaxPool2d(op) => max_pool!(2, op),
        Mod::MaxPool2dWithIndices(op) => max_pool!(2, op),
        Mod::AvgPool1d(op) => (
            Op::AvgPool {
                pool: pool(
                    &[op.kernel_size],
                    &[op.stride],
                    &[op.padding],
                    &[1],
                    op.ceil_mode,
                ),
                count_padding: op.count_include_pad,
            },
            vec![&op.x],
        ),
        Mod::AvgPool2d(op) => (
            Op::AvgPool {
                pool: pool(
                    &op.kernel_size,
                    &op.stride,
                    &op.padding,
                    &[1, 1],
                    op.ceil_mode,
                ),
                count_padding: op.count_include_pad,
            },
            vec![&op.x],
        ),
        Mod::AdaptiveAvgPool1d(op) => (
            Op::AdaptiveAvgPool {
                size: vec![op.output_size],
            },
            vec![&op.x],
        ),
        Mod::AdaptiveAvgPool2d(op) => (
            Op::AdaptiveAvgPool {
                size: op.output_size.to_vec(),
            },
            vec![&op.x],
        ),
        Mod::AdaptiveAvgPool3d(op) => (
            Op::AdaptiveAvgPool {
                size: op.output_size.to_vec(),
            },
            vec![&op.x],
        ),
        Mod::Interpolate(op) => (
            Op::Interpolate {
                size: op.output_size,
                mode: match op.options.mode {
                    InterpolateModeIr::Nearest => Interpolation::Nearest,
                    InterpolateModeIr::NearestExact => Interpolation::NearestExact,
                    InterpolateModeIr::Bilinear => Interpolation::Bilinear,
                    InterpolateModeIr::Bicubic => Interpolation::Bicubic,
                    InterpolateModeIr::Lanczos3 => Interpolation::Lanczos3,
                },
                align_corners: op.options.align_corners,
            },
            vec![&op.x],
        ),
        other => return unsupported(other),
    })
}

/// Attention as its parts, so that its weights can be seen: softmax(q k^T / scale) v.
fn attention_ops(op: &burn_ir::AttentionOpIr, shapes: &[Vec<Size>]) -> Result<Converted, Error> {
    if op.options.is_causal || op.options.softcap.is_some() {
        return Err(Error::UnsupportedOp {
            op: "Attention (causal or with softcap)".into(),
            place: "the forward pass; give the mask as a tensor".into(),
        });
    }
    let out = &shapes[0];
    let tokens = op.key.shape.to_vec()[2];
    let width = *op.query.shape.to_vec().last().expect("a rank of 4");
    let weights: Vec<Size> = [&out[..3], &[Size::Fixed(tokens)]].concat();
    let keys: Vec<Size> = [&out[..2], &[Size::Fixed(width), Size::Fixed(tokens)]].concat();
    let scale = op.options.scale.map_or(1.0 / (width as f64).sqrt(), number);
    let mut emits: Vec<Emit> = Vec::new();
    let push = |emits: &mut Vec<Emit>, op, inputs, shape: &Vec<Size>| {
        emits.push(Emit {
            op,
            inputs,
            shape: shape.clone(),
            from: None,
        });
        emits.len() - 1
    };
    let tensor = |t: &TensorIr| From::Tensor(t.id);
    let k = push(
        &mut emits,
        Op::Permute(vec![0, 1, 3, 2]),
        vec![tensor(&op.key)],
        &keys,
    );
    let mut scores = push(
        &mut emits,
        Op::Matmul,
        vec![tensor(&op.query), From::Emitted(k)],
        &weights,
    );
    scores = push(
        &mut emits,
        Op::Unary(Unary::Mul(scale)),
        vec![From::Emitted(scores)],
        &weights,
    );
    if let Some(bias) = &op.attn_bias {
        let inputs = vec![From::Emitted(scores), tensor(bias)];
        scores = push(&mut emits, Op::Binary(Binary::Add), inputs, &weights);
    }
    if let Some(mask) = &op.mask {
        let inputs = vec![From::Emitted(scores), tensor(mask)];
        scores = push(&mut emits, Op::MaskFill(-1e9), inputs, &weights);
    }
    let p = push(
        &mut emits,
        Op::Along(Along::Softmax, 3),
        vec![From::Emitted(scores)],
        &weights,
    );
    let inputs = vec![From::Emitted(p), tensor(&op.value)];
    let result = push(&mut emits, Op::Matmul, inputs, out);
    Ok(Converted {
        emits,
        outputs: vec![(op.out.id, result)],
    })
}

fn activation(op: &Act) -> Single<'_> {
    Ok(match op {
        Act::Relu(op) => (Op::Unary(Unary::Relu), vec![&op.input]),
        Act::LeakyRelu(op) => (
            Op::Unary(Unary::LeakyRelu {
                slope: number(op.rhs),
            }),
            vec![&op.lhs],
        ),
        Act::PRelu(op) => (Op::PRelu, vec![&op.lhs, &op.rhs]),
        Act::Gelu(op) => (Op::Unary(Unary::Gelu), vec![&op.input]),
        Act::Sigmoid(op) => (Op::Unary(Unary::Sigmoid), vec![&op.input]),
        Act::HardSigmoid(op) => (
            Op::Unary(Unary::HardSigmoid {
                alpha: number(op.alpha),
                beta: number(op.beta),
            }),
            vec![&op.tensor],
        ),
        Act::LogSigmoid(op) => (Op::Unary(Unary::LogSigmoid), vec![&op.input]),
        Act::Softmax(op) => (Op::Along(Along::Softmax, op.axis), vec![&op.input]),
        Act::LogSoftmax(op) => (Op::Along(Along::LogSoftmax, op.axis), vec![&op.input]),
        Act::Softmin(op) => (Op::Along(Along::Softmin, op.axis), vec![&op.input]),
        other => return unsupported(other),
    })
}

fn float(op: &Float) -> Single<'_> {
    macro_rules! unary {
        ($kind:expr, $op:expr) => {
            (Op::Unary($kind), vec![&$op.input])
        };
    }
    Ok(match op {
        Float::Exp(op) => unary!(Unary::Exp, op),
        Float::Log(op) => unary!(Unary::Log, op),
        Float::Log1p(op) => unary!(Unary::Log1p, op),
        Float::Erf(op) => unary!(Unary::Erf, op),
        Float::Sqrt(op) => unary!(Unary::Sqrt, op),
        Float::Cos(op) => unary!(Unary::Cos, op),
        Float::Cosh(op) => unary!(Unary::Cosh, op),
        Float::Sin(op) => unary!(Unary::Sin, op),
        Float::Sinh(op) => unary!(Unary::Sinh, op),
        Float::Tan(op) => unary!(Unary::Tan, op),
        Float::Tanh(op) => unary!(Unary::Tanh, op),
        Float::ArcTan(op) => unary!(Unary::Atan, op),
        Float::Round(op) => unary!(Unary::Round, op),
        Float::Floor(op) => unary!(Unary::Floor, op),
        Float::Ceil(op) => unary!(Unary::Ceil, op),
        Float::Recip(op) => unary!(Unary::Recip, op),
        Float::PowfScalar(op) => (Op::Unary(Unary::Power(number(op.rhs))), vec![&op.lhs]),
        Float::Powf(op) => (Op::Binary(Binary::Power), vec![&op.lhs, &op.rhs]),
        Float::Matmul(op) => (Op::Matmul, vec![&op.lhs, &op.rhs]),
        Float::IntoInt(op) => (Op::Cast(op.out.dtype), vec![&op.input]),
        other => return unsupported(other),
    })
}

fn numeric(op: &Num) -> Single<'_> {
    fn two(kind: Binary, op: &BinaryOpIr) -> (Op, Vec<&TensorIr>) {
        (Op::Binary(kind), vec![&op.lhs, &op.rhs])
    }
    fn scalar(unary: Unary, op: &ScalarOpIr) -> (Op, Vec<&TensorIr>) {
        (Op::Unary(unary), vec![&op.lhs])
    }
    fn along(how: Reduce, op: &ReduceDimOpIr) -> (Op, Vec<&TensorIr>) {
        (Op::Reduce(how, vec![op.axis]), vec![&op.input])
    }
    let (low, high) = (f64::NEG_INFINITY, f64::INFINITY);
    Ok(match op {
        Num::Add(op) => two(Binary::Add, op),
        Num::Sub(op) => two(Binary::Sub, op),
        Num::Mul(op) => two(Binary::Mul, op),
        Num::Div(op) => two(Binary::Div, op),
        Num::AddScalar(op) => scalar(Unary::Add(number(op.rhs)), op),
        Num::SubScalar(op) => scalar(Unary::Add(-number(op.rhs)), op),
        Num::MulScalar(op) => scalar(Unary::Mul(number(op.rhs)), op),
        Num::DivScalar(op) => scalar(Unary::Div(number(op.rhs)), op),
        Num::PowiScalar(op) => scalar(Unary::Power(number(op.rhs)), op),
        Num::Abs(op) => (Op::Unary(Unary::Abs), vec![&op.input]),
        Num::Neg(op) => (Op::Unary(Unary::Neg), vec![&op.input]),
        Num::Sign(op) => (Op::Unary(Unary::Sign), vec![&op.input]),
        Num::Clamp(op) => (
            Op::Unary(Unary::Clamp {
                min: number(op.min),
                max: number(op.max),
            }),
            vec![&op.tensor],
        ),
        Num::ClampMin(op) => scalar(
            Unary::Clamp {
                min: number(op.rhs),
                max: high,
            },
            op,
        ),
        Num::ClampMax(op) => scalar(
            Unary::Clamp {
                min: low,
                max: number(op.rhs),
            },
            op,
        ),
        Num::Full(op) => (
            Op::Full {
                value: number(op.value),
                dtype: op.out.dtype,
            },
            Vec::new(),
        ),
        Num::SumDim(op) => along(Reduce::Sum, op),
        Num::MeanDim(op) => along(Reduce::Mean, op),
        Num::MaxDim(op) => along(Reduce::Max, op),
        Num::MinDim(op) => along(Reduce::Min, op),
        Num::ProdDim(op) => along(Reduce::Product, op),
        Num::MaxDimWithIndices(op) => (Op::Reduce(Reduce::Max, vec![op.dim]), vec![&op.tensor]),
        Num::SumDims(op) => (Op::Reduce(Reduce::Sum, op.axes.clone()), vec![&op.input]),
        Num::ArgMax(op) => (Op::ArgMax(op.axis), vec![&op.input]),
        Num::CumSum(op) => (Op::Along(Along::CumulativeSum, op.axis), vec![&op.input]),
        Num::Pad(op) => (
            Op::Pad {
                padding: op.padding.clone(),
                with: match op.mode {
                    PadModeIr::Constant(value) => PadWith::Constant(number(value)),
                    PadModeIr::Reflect => PadWith::Reflect,
                    PadModeIr::Edge => PadWith::Edge,
                },
            },
            vec![&op.input],
        ),
        Num::Greater(op) => (Op::Compare(Compare::Greater), vec![&op.lhs, &op.rhs]),
        Num::GreaterEqual(op) => (Op::Compare(Compare::GreaterEqual), vec![&op.lhs, &op.rhs]),
        Num::Lower(op) => (Op::Compare(Compare::Lower), vec![&op.lhs, &op.rhs]),
        Num::LowerEqual(op) => (Op::Compare(Compare::LowerEqual), vec![&op.lhs, &op.rhs]),
        Num::GreaterElem(op) => compare_to(Compare::Greater, op),
        Num::GreaterEqualElem(op) => compare_to(Compare::GreaterEqual, op),
        Num::LowerElem(op) => compare_to(Compare::Lower, op),
        Num::LowerEqualElem(op) => compare_to(Compare::LowerEqual, op),
        other => return unsupported(other),
    })
}

fn compare_to(how: Compare, op: &ScalarOpIr) -> (Op, Vec<&TensorIr>) {
    (Op::CompareTo(how, number(op.rhs)), vec![&op.lhs])
}

fn base<'a>(op: &'a Base, two: &OperationIr, rows: [usize; 2]) -> Single<'a> {
    let twin = match two {
        OperationIr::BaseFloat(op) | OperationIr::BaseInt(op) | OperationIr::BaseBool(op) => op,
        other => return unsupported(other),
    };
    Ok(match op {
        Base::Reshape(op) => (Op::Reshape, vec![&op.input]),
        Base::Expand(op) => (Op::Expand, vec![&op.input]),
        Base::SwapDims(op) => {
            let mut axes: Vec<usize> = (0..op.input.shape.num_dims()).collect();
            axes.swap(op.dim1, op.dim2);
            (Op::Permute(axes), vec![&op.input])
        }
        Base::Permute(op) => (Op::Permute(op.axes.clone()), vec![&op.input]),
        Base::Flip(op) => (Op::Flip(op.axes.clone()), vec![&op.input]),
        Base::Slice(op) => {
            let Base::Slice(twin) = twin else {
                return unsupported(two);
            };
            let spans = spans((&op.ranges, &op.tensor), (&twin.ranges, &twin.tensor), rows)?;
            (Op::Slice(spans), vec![&op.tensor])
        }
        Base::SliceAssign(op) => {
            let Base::SliceAssign(twin) = twin else {
                return unsupported(two);
            };
            let spans = spans((&op.ranges, &op.tensor), (&twin.ranges, &twin.tensor), rows)?;
            (Op::SliceAssign(spans), vec![&op.tensor, &op.value])
        }
        Base::Select(op) => (Op::Select(op.dim), vec![&op.tensor, &op.indices]),
        Base::Gather(op) => (Op::Gather(op.dim), vec![&op.tensor, &op.indices]),
        Base::MaskWhere(op) => (Op::MaskWhere, vec![&op.tensor, &op.mask, &op.value]),
        Base::MaskFill(op) => (Op::MaskFill(number(op.value)), vec![&op.tensor, &op.mask]),
        Base::Equal(op) => (Op::Compare(Compare::Equal), vec![&op.lhs, &op.rhs]),
        Base::NotEqual(op) => (Op::Compare(Compare::NotEqual), vec![&op.lhs, &op.rhs]),
        Base::EqualElem(op) => compare_to(Compare::Equal, op),
        Base::NotEqualElem(op) => compare_to(Compare::NotEqual, op),
        Base::RepeatDim(op) => (Op::Repeat(op.dim), vec![&op.tensor]),
        Base::Cat(op) => (Op::Cat(op.dim), op.tensors.iter().collect()),
        Base::Cast(op) => (Op::Cast(op.out.dtype), vec![&op.input]),
        Base::Zeros(op) | Base::Empty(op) => (
            Op::Full {
                value: 0.0,
                dtype: op.out.dtype,
            },
            Vec::new(),
        ),
        Base::Ones(op) => (
            Op::Full {
                value: 1.0,
                dtype: op.out.dtype,
            },
            Vec::new(),
        ),
        Base::Unfold(op) => (
            Op::Unfold {
                axis: op.dim,
                size: op.size,
                step: op.step,
            },
            vec![&op.input],
        ),
        other => return unsupported(other),
    })
}

fn spans(
    (one, from): (&[burn::backend::Slice], &TensorIr),
    (two, twin): (&[burn::backend::Slice], &TensorIr),
    rows: [usize; 2],
) -> Result<Vec<Span>, Error> {
    let (from, twin) = (from.shape.to_vec(), twin.shape.to_vec());
    one.iter()
        .zip(two)
        .enumerate()
        .map(|(d, (a, b))| {
            let (in_a, in_b) = (a.to_range(from[d]), b.to_range(twin[d]));
            Ok(Span {
                start: size(in_a.start, in_b.start, rows)?,
                end: size(in_a.end, in_b.end, rows)?,
                step: a.step(),
            })
        })
        .collect()
}

fn boolean(op: &Boolean) -> Single<'_> {
    Ok(match op {
        Boolean::IntoFloat(op) | Boolean::IntoInt(op) => (Op::Cast(op.out.dtype), vec![&op.input]),
        Boolean::Not(op) => (Op::Not, vec![&op.input]),
        Boolean::And(op) => (Op::And, vec![&op.lhs, &op.rhs]),
        Boolean::Or(op) => (Op::Or, vec![&op.lhs, &op.rhs]),
        other => return unsupported(other),
    })
}

fn integer(op: &Integer) -> Single<'_> {
    match op {
        Integer::IntoFloat(op) => Ok((Op::Cast(op.out.dtype), vec![&op.input])),
        other => unsupported(other),
    }
}
