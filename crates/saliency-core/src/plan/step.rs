//! What a plan does, step by step.

use super::{
    activate::Function, attention::Attention, back::Back, buffer::Geometry, depthwise::Depthwise,
    elementwise::Strides, sweep::Packed, view::Strided,
};

/// Some channels of a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub buffer: usize,
    pub channel: usize,
    pub channels: usize,
}

/// A convolution or linear layer with what is fused to it.
#[derive(Debug)]
pub(super) struct Conv {
    pub name: String,
    pub from: usize,
    pub to: Place,
    pub kernel: [usize; 2],
    pub stride: [usize; 2],
    pub padding: [usize; 2],
    pub grid: [usize; 2],
    pub weights: Packed,
    pub bias: Option<Vec<f32>>,
    pub residual: Option<usize>,
    pub relu: bool,
    pub back: Back,
}

#[derive(Debug)]
pub(super) enum Step {
    Conv(Box<Conv>),
    MaxPool {
        from: usize,
        to: usize,
        strides: Strides,
    },
    /// Mean over all positions.
    Mean {
        from: usize,
        to: usize,
    },
    Add {
        from: [usize; 2],
        to: usize,
        relu: bool,
    },
    Relu {
        from: usize,
        to: usize,
    },
    Depthwise(Box<Depthwise>),
    /// Values times those of another buffer, which may have one position for all.
    Gate {
        from: usize,
        by: usize,
        to: usize,
    },
    /// Another function of single values.
    Activate {
        from: usize,
        to: usize,
        function: Function,
    },
    /// scale * x + shift, each of one channel or of one value of a row.
    Affine {
        from: usize,
        to: usize,
        scale: Option<Vec<f32>>,
        shift: Option<Vec<f32>>,
    },
    /// LayerNorm over the channels of each position.
    Norm {
        from: usize,
        to: usize,
        gamma: Vec<f32>,
        beta: Option<Vec<f32>>,
        epsilon: f32,
    },
    /// Over the channels of each position.
    Softmax {
        from: usize,
        to: usize,
    },
    Attention(Box<Attention>),
    /// Some values to some channels of another buffer, from one of its positions on.
    Copy {
        from: Strided,
        to: Place,
        first: usize,
    },
    /// Constants to all channels of some positions.
    Fill {
        to: usize,
        first: usize,
        values: Vec<f32>,
    },
}

impl Step {
    /// Buffers that it reads.
    pub fn reads(&self) -> Vec<usize> {
        match self {
            Step::Conv(conv) => [Some(conv.from), conv.residual]
                .into_iter()
                .flatten()
                .collect(),
            Step::MaxPool { from, .. }
            | Step::Mean { from, .. }
            | Step::Relu { from, .. }
            | Step::Activate { from, .. }
            | Step::Affine { from, .. }
            | Step::Softmax { from, .. }
            | Step::Norm { from, .. } => vec![*from],
            Step::Add { from, .. } => from.to_vec(),
            Step::Depthwise(layer) => vec![layer.from],
            Step::Gate { from, by, .. } => vec![*from, *by],
            Step::Attention(attention) => attention.buffers(),
            Step::Copy { from, .. } => vec![from.buffer],
            Step::Fill { .. } => Vec::new(),
        }
    }

    pub fn writes(&self) -> usize {
        match self {
            Step::Conv(conv) => conv.to.buffer,
            Step::MaxPool { to, .. }
            | Step::Mean { to, .. }
            | Step::Add { to, .. }
            | Step::Relu { to, .. }
            | Step::Activate { to, .. }
            | Step::Affine { to, .. }
            | Step::Norm { to, .. }
            | Step::Gate { to, .. }
            | Step::Softmax { to, .. }
            | Step::Fill { to, .. } => *to,
            Step::Depthwise(layer) => layer.to,
            Step::Attention(attention) => attention.to,
            Step::Copy { to, .. } => to.buffer,
        }
    }

    /// Whether a ReLU was fused to it.
    pub fn rectifies(&self) -> bool {
        match self {
            Step::Conv(conv) => conv.relu,
            Step::Add { relu, .. } => *relu,
            Step::Relu { .. } => true,
            _ => false,
        }
    }

    /// Buffers whose gradients are that of another one as it is, so that they need the same
    /// border.
    pub fn hands_on(&self) -> Vec<[usize; 2]> {
        match self {
            Step::Conv(conv) => conv
                .residual
                .map(|residual| [conv.to.buffer, residual])
                .into_iter()
                .collect(),
            Step::Add { from, to, .. } => from.iter().map(|&from| [*to, from]).collect(),
            Step::Relu { from, to }
            | Step::Activate { from, to, .. }
            | Step::Affine { from, to, .. }
            | Step::Softmax { from, to }
            | Step::Norm { from, to, .. } => vec![[*to, *from]],
            _ => Vec::new(),
        }
    }

    /// Whether it fills only a part of the buffer that it writes to.
    pub fn is_partial(&self) -> bool {
        matches!(self, Step::Copy { .. } | Step::Fill { .. })
    }

    /// Floats that each row's backward pass needs of the forward pass.
    pub fn kept_of_row(&self, buffers: &[Geometry]) -> usize {
        let values = |to: &usize| buffers[*to].positions() * buffers[*to].channels;
        match self {
            Step::Activate { to, .. } | Step::Softmax { to, .. } => values(to),
            Step::Gate { from, by, .. } => values(from) + values(by),
            Step::Norm { to, .. } => values(to) + buffers[*to].positions(),
            Step::Attention(attention) => attention.kept_of_row(),
            _ => 0,
        }
    }
}
