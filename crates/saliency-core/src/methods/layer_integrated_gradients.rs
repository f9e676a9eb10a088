use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

use crate::{
    attribution::{Evaluations, Outcome},
    baseline::Baseline,
    error::Error,
    graph::{Graph, Layer, NodeId, Value},
    method::Method,
    methods::{
        layer_map::{LayerMethod, LayerOutcome, flat, node_of, over_input, unflat},
        line::{Line, delta, flat as flat_rows, rows_of, scores, select_rows},
    },
    model::Model,
    quadrature::Quadrature,
    recipe::{Recipe, Registered},
    run::{Run, Stage, guarded},
    target::Goal,
};

/// Integrated Gradients in the space of a layer: along the straight line from the layer's
/// activation y' at the baseline to its activation y at the input,
///
/// (y - y') * integral over a of d f / d y at y' + a (y - y').
///
/// What does not come from the layer (the other branch of a residual block) stays as it is at
/// the input. The values add up to f(x) minus the score with y' in the layer's place; the
/// convergence delta says how nearly. Sundararajan, Taly and Yan, "Axiomatic Attribution for
/// Deep Networks" (2017), <https://arxiv.org/abs/1703.01365>; options and defaults are those of
/// Captum's `LayerIntegratedGradients`, whose own delta compares with the whole model at the
/// baseline.
///
/// [`explain_layer`](LayerMethod::explain_layer) has the layer's own shape; as a [`Method`] it
/// is a map, summed over the channels (see [`LayerMethod`]).
///
/// ```
/// use burn::{module::Module, nn::LinearConfig, tensor::{Device, Tensor}};
/// use saliency_core::{Graph, LayerIntegratedGradients, LayerMethod};
/// let linear = LinearConfig::new(3, 2).init(&Device::flex());
/// let x = Tensor::<2>::ones([1, 3], &Device::flex());
/// let graph = Graph::trace(&linear, |m, x| m.forward(x).tanh().exp(), &x)?;
/// let found = LayerIntegratedGradients::at("tanh_1").explain_layer(&graph, x, 1)?;
/// assert_eq!(found.values.to_vec()?[0], 0.0);
/// assert!(found.delta.unwrap()[0].abs() < 1e-5);
/// # Ok::<(), saliency_core::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LayerIntegratedGradients {
    /// The layer.
    pub layer: Layer,
    /// The input at which the path starts.
    pub baseline: Baseline,
    /// Points of the path.
    pub steps: usize,
    /// Where the points lie, and their weights.
    pub rule: Quadrature,
    /// Whether the mean gradient is multiplied by y - y'; yes by default.
    pub multiply_by_inputs: bool,
}

impl Default for LayerIntegratedGradients {
    fn default() -> Self {
        LayerIntegratedGradients {
            layer: Layer::default(),
            baseline: Baseline::default(),
            steps: 50,
            rule: Quadrature::default(),
            multiply_by_inputs: true,
        }
    }
}

impl LayerIntegratedGradients {
    /// At the last layer with positions.
    pub fn new() -> Self {
        Self::default()
    }

    /// At a layer.
    pub fn at(layer: impl Into<Layer>) -> Self {
        LayerIntegratedGradients {
            layer: layer.into(),
            ..Self::default()
        }
    }

    /// The input at which the path starts.
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

    /// Whether the mean gradient is multiplied by y - y'.
    pub fn multiply_by_inputs(mut self, multiply: bool) -> Self {
        self.multiply_by_inputs = multiply;
        self
    }
}

impl Registered for LayerIntegratedGradients {}

impl<const D: usize> LayerMethod<D> for LayerIntegratedGradients {
    fn attribute_layer(
        &self,
        graph: &Graph,
        input: &Tensor<D>,
        goal: &Goal,
        run: &Run,
    ) -> Result<LayerOutcome, Error> {
        self.rule.validate_fixed(self.steps)?;
        let layer = node_of(graph, &self.layer)?;
        let baseline = self.baseline.of(input)?;
        let to = activation(graph, layer, input, run)?;
        let from = activation(graph, layer, &baseline, run)?;
        let line = Line::new(from.clone(), to);
        let flat_input = flat_rows(input.clone());
        let batch = run.rows(input);
        let mut dims = input.dims();
        let mut tail = |y: Tensor<2>, rows: &[usize]| {
            dims[0] = rows.len();
            let x = select_rows(&flat_input, rows).reshape(dims);
            score(graph, layer, x, y, &goal.pick(rows))
        };
        let mut values = line.integrate(self.rule, self.steps, run, batch, |points, steps| {
            run.count(Evaluations {
                forward: 0,
                gradient: steps.len(),
            });
            let shape = points.dims();
            let leaf = points.autodiff().require_grad();
            let score = tail(leaf.clone(), &rows_of(steps))?;
            if !score.is_tracked() {
                return Err(Error::NotDifferentiable);
            }
            let mut gradients = guarded(&shape, || score.sum().backward())?;
            leaf.grad_remove(&mut gradients)
                .ok_or(Error::NotDifferentiable)
        })?;
        let mut found = None;
        if self.multiply_by_inputs {
            values = values * line.way();
            let rows = line.rows();
            let mut starts = Vec::new();
            run.without_progress()
                .batches(Stage::Scoring, rows, batch, |range| {
                    run.count(Evaluations {
                        forward: range.len(),
                        gradient: 0,
                    });
                    let y = from.clone().narrow(0, range.start, range.len());
                    starts.push(tail(y, &range.collect::<Vec<_>>())?);
                    Ok(())
                })?;
            let end = scores(graph, input, goal, run)?;
            found = Some(delta(values.clone(), end, Tensor::cat(starts, 0))?);
        }
        Ok(LayerOutcome {
            values: unflat(values, graph, layer),
            layer,
            delta: found,
            steps: Some(self.steps),
        })
    }
}

impl<const D: usize> Method<D> for LayerIntegratedGradients {
    fn recipe(&self) -> Recipe {
        Recipe::LayerIntegratedGradients(self.clone())
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

/// The layer's value, flattened.
fn activation<const D: usize>(
    graph: &Graph,
    layer: NodeId,
    input: &Tensor<D>,
    run: &Run,
) -> Result<Tensor<2>, Error> {
    graph.check_input(&input.dims())?;
    let mut parts = Vec::new();
    let total = input.dims()[0];
    run.without_progress()
        .batches(Stage::Scoring, total, run.rows(input), |range| {
            run.count(Evaluations {
                forward: range.len(),
                gradient: 0,
            });
            let batch = input.clone().narrow(0, range.start, range.len());
            let value = guarded(&batch.dims(), || {
                graph
                    .evaluate(&[(graph.input(), batch.into())], &[layer])
                    .remove(0)
            })?;
            parts.push(flat(&value, range.len()));
            Ok(())
        })?;
    Ok(Tensor::cat(parts, 0))
}

/// The score at x with the layer's value replaced.
fn score<const D: usize>(
    graph: &Graph,
    layer: NodeId,
    x: Tensor<D>,
    y: Tensor<2>,
    goal: &Goal,
) -> Result<Tensor<1>, Error> {
    let y = unflat(y, graph, layer);
    let shape = x.dims();
    let feeds = match layer == graph.input() {
        true => vec![(layer, y)],
        false => vec![(graph.input(), Value::from(x)), (layer, y)],
    };
    let outputs = guarded(&shape, || {
        graph.evaluate(&feeds, &[graph.output()]).remove(0)
    })?;
    goal.scores(outputs.tensor())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        LayerConductance,
        methods::testing::{
            assert_close, assert_layer_splits_agree, image, net_graph, smooth_graph,
        },
    };
    use burn::tensor::DType;

    #[test]
    fn adds_up_and_at_the_input_it_is_integrated_gradients() {
        let graph = smooth_graph();
        let x = image(2, 4).cast(DType::F64);
        for layer in ["tanh_1", "branch", "input"] {
            let method = LayerIntegratedGradients::at(layer).baseline(Baseline::Constant(0.2));
            let found = method.explain_layer(&graph, x.clone(), vec![1, 2]).unwrap();
            for delta in found.delta.unwrap() {
                assert!(delta.abs() < 1e-9, "{layer}: {delta:e}");
            }
        }
        let got = LayerIntegratedGradients::at("input").explain_layer(&graph, x.clone(), 1);
        let want = LayerConductance::at("input").steps(400);
        let want = want
            .explain_layer(&graph, x, 1)
            .unwrap()
            .tensor::<4>()
            .unwrap();
        assert_close(got.unwrap().tensor().unwrap(), want, 1e-4);
    }

    /// Where the rest is linear, it is the change of the layer times constant weights.
    #[test]
    fn is_the_conductance_where_the_rest_is_linear() {
        let graph = net_graph();
        let x = image(2, 1);
        let got = LayerIntegratedGradients::at("relu_2").explain_layer(&graph, x.clone(), 2);
        let want = LayerConductance::at("relu_2").explain_layer(&graph, x, 2);
        let want = want.unwrap().tensor::<4>().unwrap();
        assert_close(got.unwrap().tensor().unwrap(), want, 1e-5);
    }

    #[test]
    fn does_not_depend_on_the_batch_split() {
        assert_layer_splits_agree(&LayerIntegratedGradients::at("branch").steps(5), 1e-5);
    }

    #[test]
    fn wrong_options_are_named() {
        let none = LayerIntegratedGradients::new().steps(0);
        let error = none.explain(&net_graph(), image(1, 1), 0).unwrap_err();
        assert!(error.to_string().contains("steps = 0"), "{error}");
    }
}
