use burn::tensor::DType;

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
    LeakyRelu { slope: f64 },
    Gelu,
    Sigmoid,
    HardSigmoid { alpha: f64, beta: f64 },
    LogSigmoid,
    Tanh,
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
    Atan,
    Round,
    Floor,
    Ceil,
    Add(f64),
    Mul(f64),
    Div(f64),
    Power(f64),
    Clamp { min: f64, max: f64 },
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
    CumulativeSum,
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
            Op::Along(Along::Softmax, _) => "softmax",
            Op::Along(Along::LogSoftmax, _) => "log_softmax",
            Op::Along(Along::Softmin, _) => "softmin",
            Op::Along(Along::CumulativeSum, _) => "cumsum",
            Op::Reduce(Reduce::Sum, _) => "sum",
            Op::Reduce(Reduce::Mean, _) => "mean",
            Op::Reduce(Reduce::Max, _) => "max",
            Op::Reduce(Reduce::Min, _) => "min",
            Op::Reduce(Reduce::Product, _) => "product",
            Op::ArgMax(_) => "argmax",
            Op::Compare(_) | Op::CompareTo(..) => "compare",
            Op::MaskFill(_) => "mask_fill",
            Op::MaskWhere => "mask_where",
            Op::Not => "not",
            Op::And => "and",
            Op::Or => "or",
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
            Unary::Gelu => "gelu",
            Unary::Sigmoid => "sigmoid",
            Unary::HardSigmoid { .. } => "hard_sigmoid",
            Unary::LogSigmoid => "log_sigmoid",
            Unary::Tanh => "tanh",
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
            Unary::Atan => "atan",
            Unary::Round => "round",
            Unary::Floor => "floor",
            Unary::Ceil => "ceil",
            Unary::Add(_) => "add_number",
            Unary::Mul(_) => "mul_number",
            Unary::Div(_) => "div_number",
            Unary::Power(_) => "power_number",
            Unary::Clamp { .. } => "clamp",
        }
    }
}
