use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

use crate::{
    attribution::Outcome,
    baseline::Baseline,
    error::Error,
    graph::{Graph, Layer},
    method::Method,
    methods::{
        layer_map::{LayerMethod, LayerOutcome, flat, node_of, over_input, unflat},
        line::{Line, rows_of},
    },
    model::Model,
    quadrature::Quadrature,
    recipe::{Recipe, Registered},
    run::Run,
    target::Goal,
};

/// The gradient of the score at a layer, averaged over the way from a baseline to the input:
/// the integral over a of d f / d y at x' + a (x - x').
///
/// Leino et al., "Influence-Directed Explanations for Deep Convolutional Networks" (2018),
/// <https://arxiv.org/abs/1802.03788>, with the distribution of interest that lies evenly on
/// that line. Options and defaults are Captum's.
///
/// [`explain_layer`](LayerMethod::explain_layer) has the layer's own shape; as a [`Method`] it
/// is a map, summed over the channels (see [`LayerMethod`]).
///
/// ```
/// use burn::{module::Module, nn::LinearConfig, tensor::{Device, Tensor}};
/// use saliency_core::{Graph, InternalInfluence, LayerMethod};
/// let linear = LinearConfig::new(3, 2).init(&Device::flex());
/// let x = Tensor::<2>::ones([1, 3], &Device::flex());
/// let graph = Graph::trace(&linear, |m, x| m.forward(x).tanh().mul_scalar(2.0), &x)?;
/// let found = InternalInfluence::at("tanh_1").explain_layer(&graph, x, 1)?;
/// let got = found.values.to_vec()?;
/// assert!(got[0] == 0.0 && (got[1] - 2.0).abs() < 1e-6);
/// # Ok::<(), saliency_core::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct InternalInfluence {
    /// The layer.
    pub layer: Layer,
    /// Where the path starts.
    pub baseline: Baseline,
    /// Points of the path.
    pub steps: usize,
    /// Where the points lie, and their weights.
    pub rule: Quadrature,
}

impl Default for InternalInfluence {
    fn default() -> Self {
        InternalInfluence {
            layer: Layer::default(),
            baseline: Baseline::default(),
            steps: 50,
            rule: Quadrature::default(),
        }
    }
}

impl InternalInfluence {
    /// At the last layer with positions.
    pub fn new() -> Self {
        Self::default()
    }

    /// At a layer.
    pub fn at(layer: impl Into<Layer>) -> Self {
        InternalInfluence {
            layer: layer.into(),
            ..Self::default()
        }
    }

    /// Where the path starts.
    pub fn baseline(mut self, baseline: Baseline) -> Self {
        self.baseline = baseline;
        self
    }

    /// Points of the path.
    pub fn steps(mut self, steps: usize) -> Self {
        self.steps = steps;
        self
    }

    /// Where the points lie, and their weights.
    pub fn rule(mut self, rule: Quadrature) -> Self {
        self.rule = rule;
        self
    }
}

impl Registered for InternalInfluence {}

impl<const D: usize> LayerMethod<D> for InternalInfluence {
    fn attribute_layer(
        &self,
        graph: &Graph,
        input: &Tensor<D>,
        goal: &Goal,
        run: &Run,
    ) -> Result<LayerOutcome, Error> {
        self.rule.validate_fixed(self.steps)?;
        let layer = node_of(graph, &self.layer)?;
        let line = Line::new(self.baseline.of(input)?, input.clone());
        let mut dims = input.dims();
        let batch = run.rows(input);
        let values = line.integrate(self.rule, self.steps, run, batch, |points, steps| {
            dims[0] = steps.len();
            let points: Tensor<D> = points.reshape(dims);
            let goal = goal.pick(&rows_of(steps));
            let found = graph.activations_and_gradients(points.into(), &[layer], &goal, run)?;
            Ok(flat(&found[0].1, steps.len()))
        })?;
        Ok(LayerOutcome {
            values: unflat(values, graph, layer),
            layer,
            delta: None,
            steps: Some(self.steps),
        })
    }
}

impl<const D: usize> Method<D> for InternalInfluence {
    fn recipe(&self) -> Recipe {
        Recipe::InternalInfluence(self.clone())
    }

    fn validate(&self) -> Result<(), Error> {
        self.rule.validate_fixed(self.steps)
    }

    fn attribute(
        &self,
        model: &dyn Model<D>,
        input: &Tensor<D>,
        goal: &Goal,
        run: &Run,
    ) -> Result<Outcome<D>, Error> {
        over_input(self, model, input, goal, run)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        LayerGradientXActivation,
        methods::testing::{assert_close, assert_layer_splits_agree, image, net_graph},
    };

    #[test]
    fn is_the_weighted_mean_of_the_gradients_on_the_line() {
        let graph = net_graph();
        let x = image(2, 3);
        let baseline = Baseline::Constant(0.5);
        let from = baseline.of(&x).unwrap();
        let gradient = LayerGradientXActivation::at("relu_1").multiply_by_inputs(false);
        for rule in [Quadrature::GaussLegendre, Quadrature::RiemannTrapezoid] {
            let want = rule
                .nodes(7)
                .into_iter()
                .map(|(at, weight)| {
                    let point = from.clone() + (x.clone() - from.clone()).mul_scalar(at);
                    let there = gradient.explain_layer(&graph, point, vec![3, 1]).unwrap();
                    there.tensor::<4>().unwrap().mul_scalar(weight)
                })
                .reduce(|a, b| a + b)
                .unwrap();
            let method = InternalInfluence::at("relu_1").rule(rule).steps(7);
            let method = method.baseline(baseline.clone());
            let got = method.explain_layer(&graph, x.clone(), vec![3, 1]).unwrap();
            assert_close(got.tensor().unwrap(), want, 1e-5);
        }
    }

    #[test]
    fn does_not_depend_on_the_batch_split() {
        assert_layer_splits_agree(&InternalInfluence::at("branch").steps(5), 1e-5);
    }

    #[test]
    fn wrong_options_are_named() {
        let one = InternalInfluence::new()
            .steps(1)
            .rule(Quadrature::RiemannTrapezoid);
        let error = one.explain(&net_graph(), image(1, 1), 0).unwrap_err();
        assert!(error.to_string().contains("steps = 1"), "{error}");
    }
}
