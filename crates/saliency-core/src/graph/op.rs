use burn::tensor::{DType, IndexingUpdateOp};

/// A size that may grow with the batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Size {
    /// Always this.
    Fixed(usize),
    /// So many times the number of rows.
    Rows(usize),
}

impl Size {
    /// The size for a number of rows.
    pub fn at(self, rows: usize) -> usize {
        match self {
            Size::Fixed(size) => size,
            Size::Rows(times) => times * rows,
        }
    }
}

/// Where the window of a convolution or pooling lies, one entry for each position axis.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Window {
    /// Steps between outputs.
    pub stride: Vec<usize>,
    /// Positions added before and after.
    pub padding: Vec<(usize, usize)>,
    /// Steps between the window's own elements.
    pub dilation: Vec<usize>,
}

/// A pooling window.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pool {
    /// Its size.
    pub kernel: Vec<usize>,
    /// Where it lies.
    pub window: Window,
    /// Whether a last, incomplete window counts.
    pub ceil: bool,
}

/// Functions of one number.
#[derive(Clone, Copy, Debug, PartialEq)]
#[allow(missing_docs)]
pub enum Unary {
    Relu,
    LeakyRelu {
        slope: f64,
    },
    Elu {
        alpha: f64,
    },
    Celu {
        alpha: f64,
    },
    Selu,
    Softplus {
        beta: f64,
        threshold: f64,
    },
    Mish,
    Softsign,
    Silu,
    HardSwish,
    Gelu,
    GeluTanh,
    Tanhshrink,
    Sigmoid,
    HardSigmoid {
        alpha: f64,
        beta: f64,
    },
    LogSigmoid,
    Tanh,
    /// x where it is greater than a number, another number elsewhere.
    Threshold {
        above: f64,
        value: f64,
    },
    /// x - bias sign(x) where |x| is greater than lambda, zero elsewhere.
    Shrink {
        lambda: f64,
        bias: f64,
    },
    Exp,
    Log,
    Log1p,
    Erf,
    Sqrt,
    Abs,
    Neg,
    Sign,
    Recip,
    Sin,
    Cos,
    Tan,
    Sinh,
    Cosh,
    Asin,
    Acos,
    Atan,
    Asinh,
    Acosh,
    Atanh,
    Round,
    Floor,
    Ceil,
    Trunc,
    Add(f64),
    Mul(f64),
    Div(f64),
    Power(f64),
    /// The remainder of a division, with the divisor's sign.
    Remainder(f64),
    Clamp {
        min: f64,
        max: f64,
    },
}

/// Functions of two numbers, with broadcasting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Binary {
    Add,
    Sub,
    Mul,
    Div,
    Power,
    Remainder,
    Atan2,
    Hypot,
}

/// How an axis is reduced; it stays with size one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Reduce {
    Sum,
    Mean,
    Max,
    Min,
    Product,
}

/// Functions along an axis that keep the shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Along {
    Softmax,
    LogSoftmax,
    Softmin,
    /// exp(x) / (1 + sum exp(x)).
    QuietSoftmax,
    CumulativeSum,
    CumulativeProduct,
    CumulativeMin,
    CumulativeMax,
}

/// Comparisons.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Compare {
    Equal,
    NotEqual,
    Greater,
    GreaterEqual,
    Lower,
    LowerEqual,
}

/// How positions outside are filled.
#[derive(Clone, Copy, Debug, PartialEq)]
#[allow(missing_docs)]
pub enum PadWith {
    Constant(f64),
    Reflect,
    Edge,
}

/// How values between positions are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Interpolation {
    Nearest,
    NearestExact,
    Bilinear,
    Bicubic,
    Lanczos3,
}

/// What a picture is outside of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Outside {
    Zeros,
    Border,
    Reflection,
}

/// A slice of one axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// First index.
    pub start: Size,
    /// One past the last index.
    pub end: Size,
    /// Step; negative ones walk backwards.
    pub step: isize,
}

/// What a node computes. The inputs of each are named after it, in order; `?` may be absent.
#[derive(Clone, Debug, PartialEq)]
pub enum Op {
    /// The graph's input.
    Input,
    /// A parameter or another tensor that does not depend on the input.
    Constant,
    /// Convolution over one to three position axes: x, weight, bias?
    Conv {
        /// Where it lies.
        window: Window,
        /// Groups of channels.
        groups: usize,
    },
    /// Transposed convolution: x, weight, bias?
    ConvTranspose {
        /// Where it lies.
        window: Window,
        /// Positions added at the end of the output.
        padding_out: Vec<usize>,
        /// Groups of channels.
        groups: usize,
    },
    /// x W + b over the last axis: x, weight [in, out], bias?
    Linear,
    /// Matrix product over the last two axes: a, b.
    Matmul,
    /// gamma (x - mean) / sqrt(variance + epsilon) + beta over axis 1: x, gamma, beta, mean,
    /// variance.
    BatchNorm {
        /// Added to the variance.
        epsilon: f64,
    },
    /// The same over the last axis with its own mean and variance: x, gamma, beta?
    LayerNorm {
        /// Added to the variance.
        epsilon: f64,
    },
    /// The same over each group of the channels of axis 1 and all positions: x, gamma?, beta?
    GroupNorm {
        /// Groups of channels; as many as channels in an instance norm.
        groups: usize,
        /// Added to the variance.
        epsilon: f64,
    },
    /// gamma x / sqrt(mean x^2 + epsilon) over the last axis: x, gamma.
    RmsNorm {
        /// Added to the mean square.
        epsilon: f64,
    },
    /// c / sqrt(mean c^2 + epsilon) over some axes, with c = x - mean x, or x itself: x.
    Standardise {
        /// The axes.
        axes: Vec<usize>,
        /// Added to the mean square.
        epsilon: f64,
        /// Whether the mean is subtracted.
        centred: bool,
    },
    /// Convolution whose window's elements are moved: x, offset, weight, mask?, bias?
    DeformConv {
        /// Where it lies.
        window: Window,
        /// Groups of channels.
        groups: usize,
        /// Groups of channels that share their offsets.
        offset_groups: usize,
        /// Whether the fourth input is a mask.
        masked: bool,
    },
    /// Values at given places of a picture: x, grid [rows, height, width, 2].
    GridSample {
        /// How values between positions are made.
        mode: Interpolation,
        /// What lies outside.
        outside: Outside,
        /// Whether -1 and 1 are the middles of the outermost positions.
        align_corners: bool,
    },
    /// Windows of a picture as columns: x.
    UnfoldWindows(Pool),
    /// Rows of a table: weights, indices.
    Embedding,
    /// Largest value of each window: x.
    MaxPool(Pool),
    /// Mean of each window: x.
    AvgPool {
        /// The window.
        pool: Pool,
        /// Whether added positions count.
        count_padding: bool,
    },
    /// Mean of a grid of windows that covers the input: x.
    AdaptiveAvgPool {
        /// Size of the grid.
        size: Vec<usize>,
    },
    /// Another size by interpolation: x.
    Interpolate {
        /// New size.
        size: [usize; 2],
        /// How.
        mode: Interpolation,
        /// Whether corners keep their place.
        align_corners: bool,
    },
    /// A function of each number: x.
    Unary(Unary),
    /// x where positive, slope * x elsewhere: x, slope.
    PRelu,
    /// A function of two numbers: a, b.
    Binary(Binary),
    /// A function along an axis: x.
    Along(Along, usize),
    /// Axes reduced to size one: x.
    Reduce(Reduce, Vec<usize>),
    /// The index of the largest along an axis: x.
    ArgMax(usize),
    /// The index of the smallest along an axis: x.
    ArgMin(usize),
    /// The indices in order of the values along an axis: x.
    ArgSort {
        /// The axis.
        axis: usize,
        /// Whether the largest comes first.
        descending: bool,
    },
    /// Whether it is not a number: x.
    IsNan,
    /// Whether it is infinite: x.
    IsInf,
    /// A comparison of two: a, b.
    Compare(Compare),
    /// A comparison with a number: x.
    CompareTo(Compare, f64),
    /// A number where the mask is true: x, mask.
    MaskFill(f64),
    /// The second where the mask is true: x, mask, value.
    MaskWhere,
    /// Not: x.
    Not,
    /// And: a, b.
    And,
    /// Or: a, b.
    Or,
    /// One of two, but not both: a, b.
    Xor,
    /// The node's shape: x.
    Reshape,
    /// Broadcast to the node's shape: x.
    Expand,
    /// Axes in another order: x.
    Permute(Vec<usize>),
    /// Axes reversed: x.
    Flip(Vec<usize>),
    /// A part: x.
    Slice(Vec<Span>),
    /// A part replaced: x, value.
    SliceAssign(Vec<Span>),
    /// Joined along an axis: one or more.
    Cat(usize),
    /// Repeated along an axis up to the node's shape: x.
    Repeat(usize),
    /// Positions added before and after each axis: x.
    Pad {
        /// How many, for each axis.
        padding: Vec<(usize, usize)>,
        /// With what.
        with: PadWith,
    },
    /// Some indices of an axis: x, indices.
    Select(usize),
    /// One index for each element: x, indices.
    Gather(usize),
    /// Values brought to one index for each of them: x, indices, values.
    Scatter(usize, IndexingUpdateOp),
    /// Values brought to some indices of an axis: x, indices, values.
    SelectAssign(usize, IndexingUpdateOp),
    /// Windows of an axis as a new last axis: x.
    Unfold {
        /// The axis.
        axis: usize,
        /// Size of a window.
        size: usize,
        /// Steps between windows.
        step: usize,
    },
    /// Another element type: x.
    Cast(DType),
    /// One number in the node's shape.
    Full {
        /// The number.
        value: f64,
        /// Its type.
        dtype: DType,
    },
}

impl Op {
    /// Its name in the lists of layers: `conv`, `relu`, `max_pool`, ...
    pub fn name(&self) -> &'static str {
        match self {
            Op::Input => "input",
            Op::Constant => "constant",
            Op::Conv { .. } => "conv",
            Op::ConvTranspose { .. } => "conv_transpose",
            Op::Linear => "linear",
            Op::Matmul => "matmul",
            Op::BatchNorm { .. } => "batch_norm",
            Op::LayerNorm { .. } => "layer_norm",
            Op::GroupNorm { .. } => "group_norm",
            Op::RmsNorm { .. } => "rms_norm",
            Op::Standardise { .. } => "standardise",
            Op::DeformConv { .. } => "deform_conv",
            Op::GridSample { .. } => "grid_sample",
            Op::UnfoldWindows(_) => "unfold",
            Op::Embedding => "embedding",
            Op::MaxPool(_) => "max_pool",
            Op::AvgPool { .. } => "avg_pool",
            Op::AdaptiveAvgPool { .. } => "adaptive_avg_pool",
            Op::Interpolate { .. } => "interpolate",
            Op::Unary(unary) => unary.name(),
            Op::PRelu => "prelu",
            Op::Binary(Binary::Add) => "add",
            Op::Binary(Binary::Sub) => "sub",
            Op::Binary(Binary::Mul) => "mul",
            Op::Binary(Binary::Div) => "div",
            Op::Binary(Binary::Power) => "power",
            Op::Binary(Binary::Remainder) => "remainder",
            Op::Binary(Binary::Atan2) => "atan2",
            Op::Binary(Binary::Hypot) => "hypot",
            Op::Along(Along::Softmax, _) => "softmax",
            Op::Along(Along::LogSoftmax, _) => "log_softmax",
            Op::Along(Along::Softmin, _) => "softmin",
            Op::Along(Along::QuietSoftmax, _) => "quiet_softmax",
            Op::Along(Along::CumulativeSum, _) => "cumsum",
            Op::Along(Along::CumulativeProduct, _) => "cumprod",
            Op::Along(Along::CumulativeMin, _) => "cummin",
            Op::Along(Along::CumulativeMax, _) => "cummax",
            Op::Reduce(Reduce::Sum, _) => "sum",
            Op::Reduce(Reduce::Mean, _) => "mean",
            Op::Reduce(Reduce::Max, _) => "max",
            Op::Reduce(Reduce::Min, _) => "min",
            Op::Reduce(Reduce::Product, _) => "product",
            Op::ArgMax(_) => "argmax",
            Op::ArgMin(_) => "argmin",
            Op::ArgSort { .. } => "argsort",
            Op::IsNan => "is_nan",
            Op::IsInf => "is_inf",
            Op::Compare(_) | Op::CompareTo(..) => "compare",
            Op::MaskFill(_) => "mask_fill",
            Op::MaskWhere => "mask_where",
            Op::Not => "not",
            Op::And => "and",
            Op::Or => "or",
            Op::Xor => "xor",
            Op::Reshape => "reshape",
            Op::Expand => "expand",
            Op::Permute(_) => "permute",
            Op::Flip(_) => "flip",
            Op::Slice(_) => "slice",
            Op::SliceAssign(_) => "slice_assign",
            Op::Cat(_) => "cat",
            Op::Repeat(_) => "repeat",
            Op::Pad { .. } => "pad",
            Op::Select(_) => "select",
            Op::Gather(_) => "gather",
            Op::Scatter(..) => "scatter",
            Op::SelectAssign(..) => "select_assign",
            Op::Unfold { .. } => "unfold",
            Op::Cast(_) => "cast",
            Op::Full { .. } => "full",
        }
    }

    /// Whether it is a nonlinear function of each number, as an activation is.
    pub fn is_activation(&self) -> bool {
        match self {
            Op::PRelu => true,
            Op::Unary(unary) => !matches!(
                unary,
                Unary::Neg | Unary::Add(_) | Unary::Mul(_) | Unary::Div(_)
            ),
            _ => false,
        }
    }
}

impl Unary {
    fn name(self) -> &'static str {
        match self {
            Unary::Relu => "relu",
            Unary::LeakyRelu { .. } => "leaky_relu",
            Unary::Elu { .. } => "elu",
            Unary::Celu { .. } => "celu",
            Unary::Selu => "selu",
            Unary::Softplus { .. } => "softplus",
            Unary::Mish => "mish",
            Unary::Softsign => "softsign",
            Unary::Silu => "silu",
            Unary::HardSwish => "hard_swish",
            Unary::Gelu => "gelu",
            Unary::GeluTanh => "gelu_tanh",
            Unary::Tanhshrink => "tanhshrink",
            Unary::Sigmoid => "sigmoid",
            Unary::HardSigmoid { .. } => "hard_sigmoid",
            Unary::LogSigmoid => "log_sigmoid",
            Unary::Tanh => "tanh",
            Unary::Threshold { .. } => "threshold",
            Unary::Shrink { .. } => "shrink",
            Unary::Exp => "exp",
            Unary::Log => "log",
            Unary::Log1p => "log1p",
            Unary::Erf => "erf",
            Unary::Sqrt => "sqrt",
            Unary::Abs => "abs",
            Unary::Neg => "neg",
            Unary::Sign => "sign",
            Unary::Recip => "recip",
            Unary::Sin => "sin",
            Unary::Cos => "cos",
            Unary::Tan => "tan",
            Unary::Sinh => "sinh",
            Unary::Cosh => "cosh",
            Unary::Asin => "asin",
            Unary::Acos => "acos",
            Unary::Atan => "atan",
            Unary::Asinh => "asinh",
            Unary::Acosh => "acosh",
            Unary::Atanh => "atanh",
            Unary::Round => "round",
            Unary::Floor => "floor",
            Unary::Ceil => "ceil",
            Unary::Trunc => "trunc",
            Unary::Add(_) => "add_number",
            Unary::Mul(_) => "mul_number",
            Unary::Div(_) => "div_number",
            Unary::Power(_) => "power_number",
            Unary::Remainder(_) => "remainder_number",
            Unary::Clamp { .. } => "clamp",
        }
    }
}
