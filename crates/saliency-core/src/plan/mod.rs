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
mod profile;
mod run;
mod sweep;

#[cfg(test)]
mod tests;

use std::{collections::HashMap, sync::Mutex};

use buffer::Geometry;
use compile::Step;
use kernel::Isa;

use burn::tensor::{Tensor, TensorData};

pub(crate) use run::ReluRule;
use run::Tape;

use crate::{error::Error, graph::Graph, target::Goal};

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
    /// Buffers of nodes that have one to themselves.
    named: HashMap<String, usize>,
    first_reader: Vec<usize>,
    last_reader: Vec<usize>,
    /// Whether a ReLU made the buffer's values.
    rectified: Vec<bool>,
    clock: profile::Clock,
    /// Memory of earlier passes.
    pool: Mutex<Vec<Vec<f32>>>,
}

impl Plan {
    /// `None` where the graph has operations that plans do not know.
    pub fn new(graph: &Graph) -> Option<Self> {
        Self::with(graph, Isa::best())
    }

    /// Outputs of a batch.
    ///
    /// # Panics
    /// Where the input cannot be read from the device.
    pub fn run<const D: usize>(&self, input: Tensor<D>) -> Tensor<2> {
        let (rows, device) = (input.dims()[0], input.device());
        let values = input.try_into_vec_as::<f32>().expect("a readable input");
        let outputs = self.forward(&values, rows);
        let shape = [rows, outputs.len() / rows];
        Tensor::from_data(TensorData::new(outputs, shape), &device)
    }

    /// Outputs of a batch, and what a backward pass needs.
    pub fn record<const D: usize>(&self, input: Tensor<D>) -> Result<(Tensor<2>, Tape), Error> {
        let (rows, device) = (input.dims()[0], input.device());
        let values = input.try_into_vec_as::<f32>().map_err(Error::device)?;
        let (outputs, tape) = self.forward_taped(&values, rows, None);
        let shape = [rows, outputs.len() / rows];
        let outputs = Tensor::from_data(TensorData::new(outputs, shape), &device);
        Ok((outputs, tape))
    }

    /// The gradient at the input, shaped like it, from that at the outputs.
    pub fn gradient<const D: usize>(
        &self,
        tape: &Tape,
        seed: Tensor<2>,
        shape: [usize; D],
        rule: ReluRule,
    ) -> Result<Tensor<D>, Error> {
        let device = seed.device();
        let seed = seed.try_into_vec_as::<f32>().map_err(Error::device)?;
        let values = self.backward(tape, &seed, rule);
        Ok(Tensor::from_data(TensorData::new(values, shape), &device))
    }

    /// Whether a node's values and the gradient at them can be had: it has a buffer to itself.
    pub fn taps(&self, node: &str) -> bool {
        self.named.contains_key(node)
    }

    /// The values of a node and the gradient of the score at them, `[rows, channels, height,
    /// width]` each. The backward pass goes back to that node only.
    pub fn at_node(
        &self,
        node: &str,
        input: Tensor<4>,
        goal: &Goal,
    ) -> Result<(Tensor<4>, Tensor<4>), Error> {
        let (rows, device) = (input.dims()[0], input.device());
        let buffer = self.named[node];
        let values = input.try_into_vec_as::<f32>().map_err(Error::device)?;
        let (outputs, mut tape) = self.forward_taped(&values, rows, Some(buffer));
        let shape = [rows, outputs.len() / rows];
        let outputs = Tensor::from_data(TensorData::new(outputs, shape), &device);
        let seed = goal.seed(&outputs)?;
        let geometry = self.buffers[buffer];
        let shape = [rows, geometry.channels, geometry.height, geometry.width];
        let values = tape.tap.as_mut().map(|(_, values)| std::mem::take(values));
        let values = TensorData::new(values.unwrap_or_default(), shape);
        let gradient = self.gradient(&tape, seed, shape, ReluRule::Derivative)?;
        Ok((Tensor::from_data(values, &device), gradient))
    }

    fn with(graph: &Graph, isa: Isa) -> Option<Self> {
        compile::compile(&graph.folded(), isa)
    }
}
