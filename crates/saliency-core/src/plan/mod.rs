//! A graph compiled for the CPU: the forward pass and the input gradient of convolutional
//! networks in f32, without a tape.
//!
//! BatchNorm is folded, convolutions are fused with bias, residual addition and ReLU, weights
//! are packed once for the inner loop, activations lie as `[rows, height, width, channels]`
//! with a border of zeros from end to end, and of the forward pass only the signs of ReLUs (one
//! bit each) and the places of maxima (one byte each) are kept. Graphs with other operations
//! have no plan, and run on Burn's own operations, as they do on every other device.

mod back;
mod buffer;
mod compile;
mod kernel;
mod run;
mod sweep;

#[cfg(test)]
mod tests;

use std::{collections::HashMap, sync::Mutex};

use buffer::Geometry;
use compile::{Place, Step};
use kernel::Isa;

pub(crate) use run::{ReluRule, Tape};

use crate::graph::{Graph, NodeId};

/// A compiled graph.
#[derive(Debug)]
pub(crate) struct Plan {
    isa: Isa,
    input: usize,
    output: usize,
    /// Of activations, and of their gradients: they differ in their borders.
    buffers: Vec<Geometry>,
    gradients: Vec<Geometry>,
    steps: Vec<Step>,
    places: HashMap<NodeId, Place>,
    first_reader: Vec<usize>,
    last_reader: Vec<usize>,
    /// Whether a ReLU made the buffer's values.
    rectified: Vec<bool>,
    /// Memory of earlier passes.
    pool: Mutex<Vec<Vec<f32>>>,
}

impl Plan {
    /// `None` where the graph has operations that plans do not know.
    pub fn new(graph: &Graph) -> Option<Self> {
        Self::with(graph, Isa::best())
    }

    fn with(graph: &Graph, isa: Isa) -> Option<Self> {
        compile::compile(&graph.folded(), isa)
    }
}
