//! A graph compiled for the CPU: the forward pass and the input gradient of convolutional
//! networks and vision transformers in f32, without a tape.
//!
//! BatchNorm is folded, convolutions and linear layers are fused with bias, residual addition
//! and ReLU, weights are packed once for the inner loop, activations lie as `[rows, height,
//! width, channels]` with a border of zeros from end to end, and of the forward pass only the
//! signs of ReLUs (one bit each), the places of maxima (one byte each) and what other
//! activations, LayerNorm and attention need are kept. Graphs with other operations
//! have no plan, and run on Burn's own operations, as they do on every other device.

mod activate;
mod affine;
mod attention;
mod back;
mod buffer;
mod changed;
mod compile;
mod copy;
mod depthwise;
mod elementwise;
mod engine;
#[cfg(feature = "gpu")]
mod gpu;
mod kernel;
mod lift;
mod normalise;
mod pool;
mod profile;
mod run;
mod step;
mod sweep;
mod tape;
mod tiled;
mod view;

#[cfg(test)]
mod tests;

use std::{
    borrow::Cow,
    collections::{HashMap, HashSet},
    ops::Range,
    sync::{Arc, Mutex, OnceLock, Weak},
};

use buffer::Geometry;
use kernel::Isa;
use step::Step;

use burn::tensor::{Tensor, TensorData};

pub(crate) use changed::Base;
pub(crate) use engine::{Engine, Tape};
#[cfg(feature = "gpu")]
pub(crate) use gpu::Plan as DevicePlan;
pub(crate) use run::ReluRule;
use tape::Tapes;

use crate::{
    error::Error,
    graph::{Graph, Op},
    target::Goal,
};

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
    /// Floats that the backward pass of each row needs of the forward pass, besides bits.
    kept: usize,
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
        let outputs = self.outputs(&values, rows);
        let shape = [rows, outputs.len() / rows];
        Tensor::from_data(TensorData::new(outputs, shape), &device)
    }

    /// Outputs `[rows, outputs]` of any number of rows.
    pub fn outputs(&self, values: &[f32], rows: usize) -> Vec<f32> {
        self.parts(rows)
            .flat_map(|range| self.forward(part_of(values, rows, &range), range.len()))
            .collect()
    }

    /// Outputs of a batch, and what a backward pass to the input needs, or one to a node.
    pub fn record<const D: usize>(
        &self,
        input: Tensor<D>,
        node: Option<&str>,
    ) -> Result<(Tensor<2>, Tapes), Error> {
        let (rows, device) = (input.dims()[0], input.device());
        let values = input.try_into_vec_as::<f32>().map_err(Error::device)?;
        let tap = node.map(|node| self.named[node]);
        let (mut outputs, mut parts) = (Vec::new(), Vec::new());
        for range in self.parts(rows) {
            let values = part_of(&values, rows, &range);
            let (some, tape) = self.forward_taped(values, range.len(), tap);
            outputs.extend(some);
            parts.push(tape);
        }
        let shape = [rows, outputs.len() / rows];
        let outputs = Tensor::from_data(TensorData::new(outputs, shape), &device);
        let most = self.rows_at_once();
        Ok((outputs, Tapes { parts, most }))
    }

    /// The gradient at the input, shaped like it, from that at the outputs.
    pub fn gradient<const D: usize>(
        &self,
        tapes: &Tapes,
        seed: Tensor<2>,
        shape: [usize; D],
        rule: ReluRule,
    ) -> Result<Tensor<D>, Error> {
        let device = seed.device();
        let seed = seed.try_into_vec_as::<f32>().map_err(Error::device)?;
        let (rows, mut first) = (tapes.rows(), 0);
        let mut values = Vec::with_capacity(shape.iter().product());
        for tape in &tapes.parts {
            let range = first..first + tape.rows;
            values.extend(self.backward(tape, part_of(&seed, rows, &range), rule));
            first = range.end;
        }
        Ok(Tensor::from_data(TensorData::new(values, shape), &device))
    }

    /// Outputs of a batch and the gradient at the input, from `seed`: the gradient at the
    /// outputs of some of its rows.
    pub fn outputs_and_gradient<const D: usize>(
        &self,
        input: Tensor<D>,
        rule: ReluRule,
        seed: impl Fn(Range<usize>, &Tensor<2>) -> Result<Tensor<2>, Error>,
    ) -> Result<(Tensor<2>, Tensor<D>), Error> {
        let (shape, device) = (input.dims(), input.device());
        let rows = shape[0];
        let values = input.try_into_vec_as::<f32>().map_err(Error::device)?;
        let (mut outputs, mut gradient) = (Vec::new(), Vec::with_capacity(values.len()));
        for range in self.parts(rows) {
            let (some, tape) =
                self.forward_taped(part_of(&values, rows, &range), range.len(), None);
            let width = some.len() / range.len();
            let data = TensorData::new(some.clone(), [range.len(), width]);
            let seed = seed(range, &Tensor::from_data(data, &device))?;
            let seed = seed.try_into_vec_as::<f32>().map_err(Error::device)?;
            outputs.extend(some);
            gradient.extend(self.backward(&tape, &seed, rule));
            self.recycle(tape);
        }
        let width = outputs.len() / rows;
        Ok((
            Tensor::from_data(TensorData::new(outputs, [rows, width]), &device),
            Tensor::from_data(TensorData::new(gradient, shape), &device),
        ))
    }

    /// Whether a node's values and the gradient at them can be had: it has a buffer to itself.
    pub fn taps(&self, node: &str) -> bool {
        self.named.contains_key(node)
    }

    /// The values of the node that a batch was recorded for and the gradient of the score at
    /// them, `[rows, channels, height, width]` each. The backward pass goes back to that node
    /// only.
    pub fn at_node(
        &self,
        outputs: &Tensor<2>,
        tapes: &Tapes,
        goal: &Goal,
    ) -> Result<(Tensor<4>, Tensor<4>), Error> {
        let (rows, device) = (tapes.rows(), outputs.device());
        let (buffer, values) = tapes.tapped();
        let geometry = self.buffers[buffer];
        let shape = [rows, geometry.channels, geometry.height, geometry.width];
        let seed = goal.seed(outputs)?;
        let gradient = self.gradient(tapes, seed, shape, ReluRule::Derivative)?;
        let values = TensorData::new(values, shape);
        Ok((Tensor::from_data(values, &device), gradient))
    }

    /// The rows that go through at once.
    fn parts(&self, rows: usize) -> impl Iterator<Item = Range<usize>> + use<> {
        parts(rows, self.rows_at_once())
    }

    fn rows_at_once(&self) -> usize {
        let largest = self.buffers.iter().map(Geometry::len).max().unwrap_or(1);
        let most = (LARGEST / largest.max(1)).min(KEPT / self.kept.max(1)) / size_of::<f32>();
        most.clamp(1, ROWS)
    }

    fn with(graph: &Graph, isa: Isa) -> Option<Self> {
        let folded = graph.folded();
        let mut plan = compile::compile(&folded, isa)?;
        // A layer that a BatchNorm was folded into has that one's values.
        let left: HashSet<&str> = folded.nodes().map(|(_, n)| n.name.as_str()).collect();
        for (_, node) in graph.nodes() {
            if matches!(node.op, Op::BatchNorm { .. }) && !left.contains(node.name.as_str()) {
                let layer = &graph.node(node.inputs[0]).name;
                if let Some(buffer) = plan.named.remove(layer) {
                    plan.named.insert(node.name.clone(), buffer);
                }
            }
        }
        Some(plan)
    }
}

/// Most rows that go through at once: fewer would read and split the weights more often, more
/// would gain nothing.
const ROWS: usize = 8;
/// Bytes that all rows of the largest activation may take.
const LARGEST: usize = 32 << 20;
/// Bytes that all that is kept for the backward pass may take.
const KEPT: usize = 256 << 20;

/// `rows` in parts of at most `most`, as equal as can be.
fn parts(rows: usize, most: usize) -> impl Iterator<Item = Range<usize>> {
    let count = rows.div_ceil(most);
    (0..count).map(move |part| part * rows / count..(part + 1) * rows / count)
}

/// The values of some of the rows.
fn part_of<'a>(values: &'a [f32], rows: usize, range: &Range<usize>) -> &'a [f32] {
    let row = values.len() / rows;
    &values[range.start * row..range.end * row]
}

/// The forward pass of the explained input, for the backward passes that start from it.
#[derive(Clone, Debug)]
pub(crate) struct Recorded {
    tape: Arc<Tape>,
    /// Its rows, in the order of the goal's.
    rows: Vec<usize>,
    /// The node that it was recorded for.
    pub node: Option<String>,
    /// Whose it is.
    pub graph: Weak<OnceLock<Option<Plan>>>,
}

impl Recorded {
    pub fn new(tape: Tape, node: Option<String>, graph: Weak<OnceLock<Option<Plan>>>) -> Self {
        Recorded {
            rows: (0..tape.rows()).collect(),
            tape: Arc::new(tape),
            node,
            graph,
        }
    }

    /// Of other rows, or some of them again.
    pub fn select(&self, rows: impl IntoIterator<Item = usize>) -> Self {
        Recorded {
            rows: rows.into_iter().map(|row| self.rows[row]).collect(),
            ..self.clone()
        }
    }

    /// The tape of exactly these rows, where it can be had.
    pub fn tape(&self) -> Option<Cow<'_, Tape>> {
        match self.rows.iter().copied().eq(0..self.tape.rows()) {
            true => Some(Cow::Borrowed(&self.tape)),
            false => self.tape.select(&self.rows).map(Cow::Owned),
        }
    }
}
