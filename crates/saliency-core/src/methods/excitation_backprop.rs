use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

use super::lrp::{BiasShare, Lrp, LrpRule, Plan, conserved, propagate};
use crate::{
    attribution::Outcome,
    error::Error,
    graph::{self, Graph, NodeId, Value},
    method::Method,
    model::Model,
    recipe::{Recipe, Registered},
    run::Run,
    target::Goal,
};

/// Excitation backprop: the probability that a random walk from the class down through the
/// network, along positive weights and in proportion to how active their inputs are, ends at
/// an input value.
///
/// P(i | j) = a_i w+_ij / sum_i a_i w+_ij, the marginal winning probability. Zhang et al.,
/// "Top-down Neural Attention by Excitation Backprop" (2016),
/// <https://arxiv.org/abs/1608.00507>. It is [`Lrp`] with the z+ rule in all layers with
/// weights, started from 1 at the class in place of its score (from d score / d output for
/// other targets). Activations are taken to be positive; for inputs that are not, as the pixels
/// of a normalised image, a_i w_ij of two negatives counts as well. The values of a class add
/// up to 1, where its own inputs excite it at all; `evidence.delta` says what is missing.
///
/// The paper has no biases in P, which is the default here; preset
/// `excitation-backprop-zennit` has them in the denominators, as zennit's `ExcitationBackprop`,
/// so that its values add up to less. Where zennit leaves activations to the ordinary
/// derivative, they pass everything here: the same for ReLU.
///
/// `contrastive` subtracts the walk from the class's opposite, a unit with the negated weights
/// of the last layer: what excites the class more than it inhibits it. Values have both signs
/// then and add up to 0; preset `contrastive-excitation-backprop`.
///
/// ```
/// use burn::{nn::LinearConfig, tensor::{Device, Tensor}};
/// use saliency_core::{ExcitationBackprop, Graph, Method};
///
/// let device = Device::flex();
/// let layer = LinearConfig::new(3, 2).init(&device);
/// let x = Tensor::<2>::from_floats([[1.0, 2.0, -3.0]], &device);
/// let graph = Graph::trace(&layer, |m, x| m.forward(x), &x)?;
/// let map = ExcitationBackprop::new().explain(&graph, x, 0)?;
/// let values = map.to_vec()?;
/// assert!(values.iter().all(|&v| v >= 0.0));
/// # Ok::<(), saliency_core::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ExcitationBackprop {
    /// Whether biases count in the denominators.
    pub bias: BiasShare,
    /// How far denominators are moved away from zero.
    pub stabiliser: f64,
    /// Whether what inhibits the class is subtracted.
    pub contrastive: bool,
}

/// The share of positive contributions minus that of negative ones.
const CONTRAST: LrpRule = LrpRule::AlphaBeta {
    alpha: 1.0,
    beta: 1.0,
};

impl Default for ExcitationBackprop {
    fn default() -> Self {
        ExcitationBackprop {
            bias: BiasShare::Ignored,
            stabiliser: 1e-6,
            contrastive: false,
        }
    }
}

impl ExcitationBackprop {
    /// Without biases, as the paper has it.
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether biases count in the denominators.
    pub fn bias(mut self, bias: BiasShare) -> Self {
        self.bias = bias;
        self
    }

    /// How far denominators are moved away from zero.
    pub fn stabiliser(mut self, stabiliser: f64) -> Self {
        self.stabiliser = stabiliser;
        self
    }

    /// Whether what inhibits the class is subtracted.
    pub fn contrastive(mut self, contrastive: bool) -> Self {
        self.contrastive = contrastive;
        self
    }

    fn rules(&self) -> Lrp {
        Lrp::of(LrpRule::ZPlus)
            .bias(self.bias)
            .stabiliser(self.stabiliser)
    }
}

impl Registered for ExcitationBackprop {}

impl<const D: usize> Method<D> for ExcitationBackprop {
    fn recipe(&self) -> Recipe {
        Recipe::ExcitationBackprop(self.clone())
    }

    fn validate(&self) -> Result<(), Error> {
        Method::<D>::validate(&self.rules())
    }

    fn attribute(
        &self,
        model: &dyn Model<D>,
        input: &Tensor<D>,
        goal: &Goal,
        run: &Run,
    ) -> Result<Outcome<D>, Error> {
        Method::<D>::validate(self)?;
        let graph = graph::inside(model, "excitation-backprop")?.folded_once();
        let (values, delta) = self.probability(graph, graph.input(), input, goal, run)?;
        Ok(conserved(values.tensor(), delta))
    }
}

impl ExcitationBackprop {
    /// What arrives at a node of a folded graph, and what is missing of it.
    pub(super) fn probability<const D: usize>(
        &self,
        graph: &Graph,
        node: NodeId,
        input: &Tensor<D>,
        goal: &Goal,
        run: &Run,
    ) -> Result<(Value, Vec<f64>), Error> {
        let rules = self.rules();
        let mut plan = Plan::new(&rules, graph)?;
        if self.contrastive {
            plan = plan.with_last(graph, &CONTRAST);
        }
        propagate((graph, node), &plan, input, goal, run, |goal, outputs| {
            let seed = goal.seed(&outputs)?;
            let whole = seed.clone().sum_dim(1).squeeze_dim(1);
            Ok(match self.contrastive {
                true => (seed, whole.zeros_like()),
                false => (seed, whole),
            })
        })
    }
}
