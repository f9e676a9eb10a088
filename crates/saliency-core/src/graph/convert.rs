//! One recorded operation of Burn as one or a few [`Op`]s.

use burn::tensor::{DType, TensorData, TensorId};
use burn_ir::{
    ActivationOperationIr as Act, BaseOperationIr as Base, BinaryOpIr, BoolOperationIr as Boolean,
    FloatOperationIr as Float, GridSamplePaddingModeIr, IntOperationIr as Integer,
    InterpolateModeIr, ModuleOperationIr as Mod, NumericOperationIr as Num, OperationIr, PadModeIr,
    ReduceDimOpIr, ScalarIr, ScalarOpIr, TensorIr,
};

use super::{
    op::{
        Along, Binary, Compare, Interpolation, Op, Outside, PadWith, Pool, Reduce, Size, Span,
        Unary, Window,
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
    /// The value of a constant.
    pub value: Option<TensorData>,
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
    if let Some(converted) = several(one, two, shapes)? {
        return Ok(converted);
    }
    let (op, inputs) = single(one, two, rows)?;
    let kinds: Vec<DType> = inputs.iter().map(|t| t.dtype).collect();
    if !runs(&op, &kinds) {
        return unsupported(one);
    }
    let out = one.outputs().next().map(|t| t.id);
    let mut emits = Emits::default();
    let inputs = inputs.iter().map(|t| From::Tensor(t.id)).collect();
    let made = emits.push(op, inputs, &shapes[0]);
    Ok(Converted {
        emits: emits.0,
        outputs: out.into_iter().map(|id| (id, made)).collect(),
    })
}

/// The ops that one recorded operation becomes.
#[derive(Default)]
struct Emits(Vec<Emit>);

impl Emits {
    fn push(&mut self, op: Op, inputs: Vec<From>, shape: &[Size]) -> usize {
        self.0.push(Emit {
            op,
            inputs,
            shape: shape.to_vec(),
            value: None,
        });
        self.0.len() - 1
    }

    /// A function of what was emitted last.
    fn then(&mut self, op: Op, before: usize, shape: &[Size]) -> usize {
        self.push(op, vec![From::Emitted(before)], shape)
    }
}

/// Operations of which several are made.
fn several(
    one: &OperationIr,
    two: &OperationIr,
    shapes: &[Vec<Size>],
) -> Result<Option<Converted>, Error> {
    let Some(shape) = shapes.first() else {
        return Ok(None);
    };
    let mut emits = Emits::default();
    let made = match one {
        OperationIr::NumericFloat(_, op) | OperationIr::NumericInt(_, op) => match op {
            Num::Sort(op) => vec![emits.sorted(&op.input, op.dim, op.descending, shape).0],
            Num::ArgSort(op) => vec![emits.sorted(&op.input, op.dim, op.descending, shape).1],
            Num::SortWithIndices(op) => {
                let (values, indices) = emits.sorted(&op.input, op.dim, op.descending, shape);
                vec![values, indices]
            }
            Num::TopK(op) => vec![emits.sorted(&op.input, op.axis, true, shape).0],
            Num::ArgTopK(op) => vec![emits.sorted(&op.input, op.axis, true, shape).1],
            Num::TopKWithIndices(op) => {
                let (values, indices) = emits.sorted(&op.tensor, op.dim, true, shape);
                vec![values, indices]
            }
            Num::MaxDimWithIndices(op) => {
                let x = || vec![From::Tensor(op.tensor.id)];
                vec![
                    emits.push(Op::Reduce(Reduce::Max, vec![op.dim]), x(), shape),
                    emits.push(Op::ArgMax(op.dim), x(), shape),
                ]
            }
            Num::MinDimWithIndices(op) => {
                let x = || vec![From::Tensor(op.tensor.id)];
                vec![
                    emits.push(Op::Reduce(Reduce::Min, vec![op.dim]), x(), shape),
                    emits.push(Op::ArgMin(op.dim), x(), shape),
                ]
            }
            Num::MaxAbsDim(op) => {
                let x = vec![From::Tensor(op.input.id)];
                let before = widened(shape, &op.input, op.axis);
                let size = emits.push(Op::Unary(Unary::Abs), x, &before);
                vec![emits.then(Op::Reduce(Reduce::Max, vec![op.axis]), size, shape)]
            }
            Num::Sum(op) => vec![emits.total(&op.input, Reduce::Sum, (one, two), shape)?],
            Num::Mean(op) => vec![emits.total(&op.input, Reduce::Mean, (one, two), shape)?],
            Num::Prod(op) => vec![emits.total(&op.input, Reduce::Product, (one, two), shape)?],
            Num::Max(op) => vec![emits.total(&op.input, Reduce::Max, (one, two), shape)?],
            Num::Min(op) => vec![emits.total(&op.input, Reduce::Min, (one, two), shape)?],
            _ => return Ok(None),
        },
        OperationIr::BaseBool(Base::AllDim(op)) => vec![emits.truth(op, Reduce::Min, shape)],
        OperationIr::BaseBool(Base::AnyDim(op)) => vec![emits.truth(op, Reduce::Max, shape)],
        _ => return Ok(None),
    };
    Ok(Some(Converted {
        emits: emits.0,
        outputs: one.outputs().map(|t| t.id).zip(made).collect(),
    }))
}

/// The shape before an axis was reduced or cut.
fn widened(shape: &[Size], input: &TensorIr, axis: usize) -> Vec<Size> {
    let mut before = shape.to_vec();
    before[axis] = Size::Fixed(input.shape.to_vec()[axis]);
    before
}

impl Emits {
    /// Values and indices in order, or the first of them: the gather has a derivative on every
    /// backend.
    fn sorted(
        &mut self,
        x: &TensorIr,
        axis: usize,
        descending: bool,
        shape: &[Size],
    ) -> (usize, usize) {
        let whole = widened(shape, x, axis);
        let cut = shape[axis] != whole[axis] && matches!(shape[axis], Size::Fixed(_));
        let sort = Op::ArgSort { axis, descending };
        let mut indices = self.push(
            sort,
            vec![From::Tensor(x.id)],
            if cut { &whole } else { shape },
        );
        if cut {
            let spans = shape.iter().map(|&end| Span {
                start: Size::Fixed(0),
                end,
                step: 1,
            });
            indices = self.then(Op::Slice(spans.collect()), indices, shape);
        }
        let inputs = vec![From::Tensor(x.id), From::Emitted(indices)];
        (self.push(Op::Gather(axis), inputs, shape), indices)
    }

    /// All axes of what does not depend on the rows.
    fn total(
        &mut self,
        x: &TensorIr,
        how: Reduce,
        (one, two): (&OperationIr, &OperationIr),
        shape: &[Size],
    ) -> Result<usize, Error> {
        let twin = two.inputs().next().map(|twin| &twin.shape);
        if twin != Some(&x.shape) {
            return unsupported(one);
        }
        let rank = x.shape.num_dims();
        let inputs = vec![From::Tensor(x.id)];
        let axes = (0..rank).collect();
        let one = self.push(Op::Reduce(how, axes), inputs, &vec![Size::Fixed(1); rank]);
        Ok(self.then(Op::Reshape, one, shape))
    }

    /// Whether all or any of a mask's values are true.
    fn truth(&mut self, op: &ReduceDimOpIr, how: Reduce, shape: &[Size]) -> usize {
        let before = widened(shape, &op.input, op.axis);
        let inputs = vec![From::Tensor(op.input.id)];
        let numbers = self.push(Op::Cast(DType::F32), inputs, &before);
        let one = self.then(Op::Reduce(how, vec![op.axis]), numbers, shape);
        self.then(Op::CompareTo(Compare::NotEqual, 0.0), one, shape)
    }
}

/// Whether this crate can run an operation on such element types.
fn runs(op: &Op, kinds: &[DType]) -> bool {
    let Some(first) = kinds.first() else {
        return true;
    };
    let (float, int, bool) = (
        first.is_float(),
        !first.is_float() && !first.is_bool(),
        first.is_bool(),
    );
    match op {
        Op::Not | Op::And | Op::Or | Op::Xor => kinds.iter().all(|kind| kind.is_bool()),
        Op::Compare(Compare::Equal | Compare::NotEqual)
        | Op::CompareTo(Compare::Equal | Compare::NotEqual, _)
        | Op::MaskFill(_)
        | Op::MaskWhere
        | Op::Reshape
        | Op::Expand
        | Op::Permute(_)
        | Op::Flip(_)
        | Op::Slice(_)
        | Op::SliceAssign(_)
        | Op::Cat(_)
        | Op::Repeat(_)
        | Op::Select(_)
        | Op::Gather(_)
        | Op::Unfold { .. }
        | Op::Cast(_) => true,
        Op::Compare(_)
        | Op::CompareTo(..)
        | Op::Reduce(..)
        | Op::ArgMax(_)
        | Op::ArgMin(_)
        | Op::ArgSort { .. }
        | Op::Scatter(..)
        | Op::SelectAssign(..)
        | Op::Pad { .. }
        | Op::Along(
            Along::CumulativeSum
            | Along::CumulativeProduct
            | Along::CumulativeMin
            | Along::CumulativeMax,
            _,
        ) => !bool,
        Op::Unary(
            Unary::Add(_)
            | Unary::Mul(_)
            | Unary::Div(_)
            | Unary::Neg
            | Unary::Abs
            | Unary::Sign
            | Unary::Power(_)
            | Unary::Remainder(_)
            | Unary::Clamp { .. },
        ) => !bool,
        Op::Binary(Binary::Atan2 | Binary::Hypot) => float,
        Op::Binary(_) => float || int,
        _ => float,
    }
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
        Mod::DeformableConv2d(op) => (
            Op::DeformConv {
                window: Window {
                    stride: op.options.stride.to_vec(),
                    padding: same(&op.options.padding),
                    dilation: op.options.dilation.to_vec(),
                },
                groups: op.options.weight_groups,
                offset_groups: op.options.offset_groups,
                masked: op.mask.is_some(),
            },
            [Some(&op.x), Some(&op.offset), Some(&op.weight)]
                .into_iter()
                .chain([op.mask.as_ref(), op.bias.as_ref()])
                .flatten()
                .collect(),
        ),
        Mod::Unfold4d(op) => (
            Op::UnfoldWindows(pool(
                &op.kernel_size,
                &op.options.stride,
                &op.options.padding,
                &op.options.dilation,
                false,
            )),
            vec![&op.x],
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
                mode: interpolation(&op.options.mode),
                align_corners: op.options.align_corners,
            },
            vec![&op.x],
        ),
        other => return unsupported(other),
    })
}

fn interpolation(mode: &InterpolateModeIr) -> Interpolation {
    match mode {
        InterpolateModeIr::Nearest => Interpolation::Nearest,
        InterpolateModeIr::NearestExact => Interpolation::NearestExact,
        InterpolateModeIr::Bilinear => Interpolation::Bilinear,
        InterpolateModeIr::Bicubic => Interpolation::Bicubic,
        InterpolateModeIr::Lanczos3 => Interpolation::Lanczos3,
    }
}

/// Attention as its parts, so that its weights can be seen: softmax(q k^T / scale) v.
fn attention_ops(op: &burn_ir::AttentionOpIr, shapes: &[Vec<Size>]) -> Result<Converted, Error> {
    let out = &shapes[0];
    let tokens = op.key.shape.to_vec()[2];
    let queries = op.query.shape.to_vec()[2];
    let width = *op.query.shape.to_vec().last().expect("a rank of 4");
    let weights: Vec<Size> = [&out[..3], &[Size::Fixed(tokens)]].concat();
    let keys: Vec<Size> = [&out[..2], &[Size::Fixed(width), Size::Fixed(tokens)]].concat();
    let scale = op.options.scale.map_or(1.0 / (width as f64).sqrt(), number);
    let mut emits = Emits::default();
    let tensor = |t: &TensorIr| From::Tensor(t.id);
    let swapped = Op::Permute(vec![0, 1, 3, 2]);
    let k = emits.push(swapped, vec![tensor(&op.key)], &keys);
    let inputs = vec![tensor(&op.query), From::Emitted(k)];
    let mut scores = emits.push(Op::Matmul, inputs, &weights);
    scores = emits.then(Op::Unary(Unary::Mul(scale)), scores, &weights);
    if let Some(cap) = op.options.softcap.map(number) {
        for function in [Unary::Div(cap), Unary::Tanh, Unary::Mul(cap)] {
            scores = emits.then(Op::Unary(function), scores, &weights);
        }
    }
    if let Some(mask) = &op.mask {
        let inputs = vec![From::Emitted(scores), tensor(mask)];
        scores = emits.push(Op::MaskFill(-1e9), inputs, &weights);
    }
    if op.options.is_causal {
        let shape = [1, 1, queries, tokens];
        let later = |i: usize| i % tokens + queries > i / tokens + tokens;
        let data: Vec<bool> = (0..queries * tokens).map(later).collect();
        let shape_of_mask = shape.map(Size::Fixed);
        let mask = emits.push(Op::Constant, Vec::new(), &shape_of_mask);
        emits.0[mask].value = Some(TensorData::new(data, shape));
        let mask = emits.then(Op::Expand, mask, &weights);
        let inputs = vec![From::Emitted(scores), From::Emitted(mask)];
        scores = emits.push(Op::MaskFill(-1e9), inputs, &weights);
    }
    if let Some(bias) = &op.attn_bias {
        let inputs = vec![From::Emitted(scores), tensor(bias)];
        scores = emits.push(Op::Binary(Binary::Add), inputs, &weights);
    }
    let p = emits.then(Op::Along(Along::Softmax, 3), scores, &weights);
    let inputs = vec![From::Emitted(p), tensor(&op.value)];
    let result = emits.push(Op::Matmul, inputs, out);
    Ok(Converted {
        emits: emits.0,
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
        Float::ArcSin(op) => unary!(Unary::Asin, op),
        Float::ArcCos(op) => unary!(Unary::Acos, op),
        Float::ArcTan(op) => unary!(Unary::Atan, op),
        Float::ArcSinh(op) => unary!(Unary::Asinh, op),
        Float::ArcCosh(op) => unary!(Unary::Acosh, op),
        Float::ArcTanh(op) => unary!(Unary::Atanh, op),
        Float::ArcTan2(op) => (Op::Binary(Binary::Atan2), vec![&op.lhs, &op.rhs]),
        Float::Hypot(op) => (Op::Binary(Binary::Hypot), vec![&op.lhs, &op.rhs]),
        Float::Trunc(op) => unary!(Unary::Trunc, op),
        Float::IsNan(op) => (Op::IsNan, vec![&op.input]),
        Float::IsInf(op) => (Op::IsInf, vec![&op.input]),
        Float::GridSample2d(op) => (
            Op::GridSample {
                mode: interpolation(&op.options.mode),
                outside: match op.options.padding_mode {
                    GridSamplePaddingModeIr::Zeros => Outside::Zeros,
                    GridSamplePaddingModeIr::Border => Outside::Border,
                    GridSamplePaddingModeIr::Reflection => Outside::Reflection,
                },
                align_corners: op.options.align_corners,
            },
            vec![&op.tensor, &op.grid],
        ),
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
        Num::Rem(op) => two(Binary::Remainder, op),
        Num::RemScalar(op) => scalar(Unary::Remainder(number(op.rhs)), op),
        Num::Powi(op) => two(Binary::Power, op),
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
        Num::SumDims(op) => (Op::Reduce(Reduce::Sum, op.axes.clone()), vec![&op.input]),
        Num::ArgMax(op) => (Op::ArgMax(op.axis), vec![&op.input]),
        Num::ArgMin(op) => (Op::ArgMin(op.axis), vec![&op.input]),
        Num::CumSum(op) => (Op::Along(Along::CumulativeSum, op.axis), vec![&op.input]),
        Num::CumProd(op) => (
            Op::Along(Along::CumulativeProduct, op.axis),
            vec![&op.input],
        ),
        Num::CumMin(op) => (Op::Along(Along::CumulativeMin, op.axis), vec![&op.input]),
        Num::CumMax(op) => (Op::Along(Along::CumulativeMax, op.axis), vec![&op.input]),
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
        Base::Scatter(op) => (
            Op::Scatter(op.dim, op.update),
            vec![&op.tensor, &op.indices, &op.value],
        ),
        Base::SelectAssign(op) => (
            Op::SelectAssign(op.dim, op.update),
            vec![&op.tensor, &op.indices, &op.value],
        ),
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
        Boolean::Xor(op) => (Op::Xor, vec![&op.lhs, &op.rhs]),
    })
}

fn integer(op: &Integer) -> Single<'_> {
    match op {
        Integer::IntoFloat(op) => Ok((Op::Cast(op.out.dtype), vec![&op.input])),
        other => unsupported(other),
    }
}
