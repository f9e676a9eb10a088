//! What runs a compiled graph: the CPU or a GPU.

use std::ops::Range;

use burn::tensor::Tensor;

#[cfg(feature = "gpu")]
use super::gpu;
use super::{Plan, ReluRule, tape::Tapes};
use crate::{error::Error, target::Goal};

/// A compiled graph, wherever it runs.
#[derive(Clone, Copy)]
pub(crate) enum Engine<'a> {
    Host(&'a Plan),
    #[cfg(feature = "gpu")]
    Device(&'a gpu::Plan),
}

/// What a forward pass keeps for the backward pass.
#[derive(Clone)]
pub(crate) enum Tape {
    Host(Tapes),
    #[cfg(feature = "gpu")]
    Device(gpu::Tape),
}

impl std::fmt::Debug for Tape {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "a forward pass of {} rows", self.rows())
    }
}

impl Tape {
    pub fn rows(&self) -> usize {
        match self {
            Tape::Host(tapes) => tapes.rows(),
            #[cfg(feature = "gpu")]
            Tape::Device(tape) => tape.rows(),
        }
    }

    /// Of some rows, which may come again. What lies on a GPU is not taken apart: `None`.
    pub fn select(&self, rows: &[usize]) -> Option<Self> {
        match self {
            Tape::Host(tapes) => Some(Tape::Host(tapes.select(rows))),
            #[cfg(feature = "gpu")]
            Tape::Device(_) => None,
        }
    }
}

impl Engine<'_> {
    /// Outputs of a batch.
    pub fn run<const D: usize>(self, input: Tensor<D>) -> Tensor<2> {
        match self {
            Engine::Host(plan) => plan.run(input),
            #[cfg(feature = "gpu")]
            Engine::Device(plan) => plan.run(input),
        }
    }

    /// Outputs of a batch, and what a backward pass to the input needs, or one to a node; `None`
    /// where the batch is too large to keep.
    pub fn record<const D: usize>(
        self,
        input: Tensor<D>,
        node: Option<&str>,
    ) -> Result<Option<(Tensor<2>, Tape)>, Error> {
        Ok(match self {
            Engine::Host(plan) => {
                let (outputs, tapes) = plan.record(input, node)?;
                Some((outputs, Tape::Host(tapes)))
            }
            #[cfg(feature = "gpu")]
            Engine::Device(plan) => {
                let recorded = plan.record(input, node);
                recorded.map(|(outputs, tape)| (outputs, Tape::Device(tape)))
            }
        })
    }

    /// The gradient at the input, of the given shape, from that at the outputs.
    pub fn gradient<const D: usize>(
        self,
        tape: &Tape,
        seed: Tensor<2>,
        shape: [usize; D],
        rule: ReluRule,
    ) -> Result<Tensor<D>, Error> {
        match (self, tape) {
            (Engine::Host(plan), Tape::Host(tapes)) => plan.gradient(tapes, seed, shape, rule),
            #[cfg(feature = "gpu")]
            (Engine::Device(plan), Tape::Device(tape)) => Ok(plan.gradient(tape, seed, rule)),
            #[cfg(feature = "gpu")]
            _ => unreachable!("a graph's tapes are its engine's"),
        }
    }

    /// Outputs of a batch and the gradient at the input, from `seed`: the gradient at the
    /// outputs of some of its rows.
    pub fn outputs_and_gradient<const D: usize>(
        self,
        input: Tensor<D>,
        rule: ReluRule,
        seed: impl Fn(Range<usize>, &Tensor<2>) -> Result<Tensor<2>, Error>,
    ) -> Result<(Tensor<2>, Tensor<D>), Error> {
        match self {
            Engine::Host(plan) => plan.outputs_and_gradient(input, rule, seed),
            #[cfg(feature = "gpu")]
            Engine::Device(plan) => plan.outputs_and_gradient(input, rule, seed),
        }
    }

    /// Whether a node's values and the gradient at them can be had.
    pub fn taps(self, node: &str) -> bool {
        match self {
            Engine::Host(plan) => plan.taps(node),
            #[cfg(feature = "gpu")]
            Engine::Device(plan) => plan.taps(node),
        }
    }

    /// The values of a node and the gradient of the score at them, `[rows, channels, height,
    /// width]` each.
    pub fn at_node(
        self,
        input: Tensor<4>,
        node: &str,
        goal: &Goal,
    ) -> Result<(Tensor<4>, Tensor<4>), Error> {
        match self {
            Engine::Host(plan) => {
                let (outputs, tapes) = plan.record(input, Some(node))?;
                plan.at_node(&outputs, &tapes, goal)
            }
            #[cfg(feature = "gpu")]
            Engine::Device(plan) => plan.at_node(input, node, goal),
        }
    }

    /// The same of the node that a batch was recorded for.
    pub fn at_recorded(
        self,
        outputs: &Tensor<2>,
        tape: &Tape,
        goal: &Goal,
    ) -> Result<(Tensor<4>, Tensor<4>), Error> {
        match (self, tape) {
            (Engine::Host(plan), Tape::Host(tapes)) => plan.at_node(outputs, tapes, goal),
            #[cfg(feature = "gpu")]
            (Engine::Device(plan), Tape::Device(tape)) => plan.at_recorded(outputs, tape, goal),
            #[cfg(feature = "gpu")]
            _ => unreachable!("a graph's tapes are its engine's"),
        }
    }
}
