use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

use crate::{
    attribution::Outcome,
    baseline::Baseline,
    error::Error,
    graph::{Graph, Layer},
    host::widened,
    method::Method,
    methods::{
        layer_map::{LayerMethod, LayerOutcome, flat, node_of, over_input, unflat},
        line::{Line, Step, add_rows, delta, rows_of, scores, select_rows},
    },
    model::Model,
    quadrature::Quadrature,
    recipe::{Recipe, Registered},
    run::{Run, Stage},
    target::Goal,
};

/// The gradient that stands for an interval of the path.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum IntervalGradient {
    /// The mean of those at both ends: the error falls with the square of the steps.
    #[default]
    Mean,
    /// The one at its start, as Captum takes it.
    Start,
}

/// How much of the score flows through each value of a layer, on the way from a baseline to
/// the input.
///
/// C = integral over a of d f / d y * d y / d a, where y(a) is the layer at the point
/// x' + a (x - x'): a sum over intervals of the path of gradient times the change of y. If
/// everything goes through the layer, the values add up to f(x) - f(x'); the convergence delta
/// says how nearly. Dhamdhere, Sundararajan and Yan, "How Important Is a Neuron?" (2018),
/// <https://arxiv.org/abs/1805.12233>, in the form of Shrikumar, Su and Kundaje (2018),
/// <https://arxiv.org/abs/1807.09946>.
///
/// [`explain_layer`](LayerMethod::explain_layer) has the layer's own shape; as a [`Method`] it
/// is a map, summed over the channels (see [`LayerMethod`]).
///
/// The intervals lie between the places of [`rule`](LayerConductance::rule) for `steps + 1`:
/// even ones from 0 to 1 by default, where Captum has Gauss-Legendre nodes, which leave out both
/// ends, and the gradient at the start of each interval. The preset `layer-conductance-captum`
/// is that.
///
/// ```
/// use burn::{module::Module, nn::LinearConfig, tensor::{Device, Tensor}};
/// use saliency_core::{Graph, LayerConductance, LayerMethod};
/// let linear = LinearConfig::new(3, 2).init(&Device::flex());
/// let x = Tensor::<2>::ones([1, 3], &Device::flex());
/// let graph = Graph::trace(&linear, |m, x| m.forward(x).tanh().mul_scalar(2.0), &x)?;
/// let found = LayerConductance::at("tanh_1").explain_layer(&graph, x, 1)?;
/// // Class 1 is twice the second value of the layer.
/// assert_eq!(found.values.to_vec()?[0], 0.0);
/// assert!(found.delta.unwrap()[0].abs() < 1e-5);
/// # Ok::<(), saliency_core::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LayerConductance {
    /// The layer.
    pub layer: Layer,
    /// Where the path starts.
    pub baseline: Baseline,
    /// Intervals of the path.
    pub steps: usize,
    /// Where the intervals end; its weights do not matter.
    pub rule: Quadrature,
    /// The gradient that stands for an interval.
    pub gradient: IntervalGradient,
}

impl Default for LayerConductance {
    fn default() -> Self {
        LayerConductance {
            layer: Layer::default(),
            baseline: Baseline::default(),
            steps: 50,
            rule: Quadrature::RiemannTrapezoid,
            gradient: IntervalGradient::default(),
        }
    }
}

impl LayerConductance {
    /// At the last layer with positions.
    pub fn new() -> Self {
        Self::default()
    }

    /// At a layer.
    pub fn at(layer: impl Into<Layer>) -> Self {
        Self::new().layer(layer)
    }

    /// Captum's defaults: Gauss-Legendre nodes, and the gradient at the start of each interval.
    pub fn captum() -> Self {
        Self::new()
            .rule(Quadrature::GaussLegendre)
            .gradient(IntervalGradient::Start)
    }

    /// The layer.
    pub fn layer(mut self, layer: impl Into<Layer>) -> Self {
        self.layer = layer.into();
        self
    }

    /// Where the path starts.
    pub fn baseline(mut self, baseline: Baseline) -> Self {
        self.baseline = baseline;
        self
    }

    /// Intervals of the path.
    pub fn steps(mut self, steps: usize) -> Self {
        self.steps = steps;
        self
    }

    /// Where the intervals end.
    pub fn rule(mut self, rule: Quadrature) -> Self {
        self.rule = rule;
        self
    }

    /// The gradient that stands for an interval.
    pub fn gradient(mut self, gradient: IntervalGradient) -> Self {
        self.gradient = gradient;
        self
    }

    fn check(&self) -> Result<(), Error> {
        match self.steps {
            0 => Err(Error::option("steps", 0, "at least one is needed")),
            steps => self.rule.validate_fixed(steps + 1),
        }
    }
}

impl Registered for LayerConductance {}

impl<const D: usize> LayerMethod<D> for LayerConductance {
    fn attribute_layer(
        &self,
        graph: &Graph,
        input: &Tensor<D>,
        goal: &Goal,
        run: &Run,
    ) -> Result<LayerOutcome, Error> {
        self.check()?;
        let layer = node_of(graph, &self.layer)?;
        let (steps, rows) = (self.steps, input.dims()[0]);
        let baseline = self.baseline.of(input)?;
        let line = Line::new(baseline.clone(), input.clone());
        let places = self.rule.nodes(steps + 1);
        // Of each row, one point more than intervals goes through the model.
        let most = run.rows(input).saturating_sub(2) * steps / (steps + 1);
        let mut sum = None;
        run.batches(Stage::Attributing, rows * steps, most.max(1), |range| {
            let mut points = Vec::new();
            let mut starts = Vec::new();
            for interval in range.clone() {
                let (row, k) = (interval / steps, interval % steps);
                let point = |k: usize| Step {
                    row,
                    at: places[k].0,
                    weight: 1.0,
                };
                if interval == range.start || k == 0 {
                    points.push(point(k));
                }
                starts.push(points.len() - 1);
                points.push(point(k + 1));
            }
            let mut dims = input.dims();
            dims[0] = points.len();
            let batch: Tensor<D> = line.points(&points).reshape(dims);
            let goal = goal.pick(&rows_of(&points));
            let mut found = graph.activations_and_gradients(batch.into(), &[layer], &goal, run)?;
            let (y, gradient) = found.remove(0);
            let [y, gradient] = [y, gradient].map(|v| widened(flat(&v, points.len())));
            let at = |t: &Tensor<2>, shift: usize| {
                let index: Vec<usize> = starts.iter().map(|i| i + shift).collect();
                select_rows(t, &index)
            };
            let change = at(&y, 1) - at(&y, 0);
            let gradient = match self.gradient {
                IntervalGradient::Start => at(&gradient, 0),
                IntervalGradient::Mean => (at(&gradient, 0) + at(&gradient, 1)).mul_scalar(0.5),
            };
            let first: Vec<Step> = starts.iter().map(|&i| points[i]).collect();
            sum = Some(add_rows(sum.clone(), rows, &first, change * gradient));
            Ok(())
        })?;
        let values = sum.expect("there is at least one interval");
        let (start, end) = (
            scores(graph, &baseline, goal, run)?,
            scores(graph, input, goal, run)?,
        );
        Ok(LayerOutcome {
            delta: Some(delta(values.clone(), end, start)?),
            values: unflat(values.cast(input.dtype()), graph, layer),
            layer,
            steps: Some(steps),
        })
    }
}

impl<const D: usize> Method<D> for LayerConductance {
    fn recipe(&self) -> Recipe {
        Recipe::LayerConductance(self.clone())
    }

    fn validate(&self) -> Result<(), Error> {
        self.check()
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
        methods::testing::{
            assert_close, assert_layer_splits_agree, image, net_graph, smooth_graph,
        },
    };
    use burn::tensor::DType;

    fn x64(rows: usize) -> Tensor<4> {
        image(rows, 4).cast(DType::F64)
    }

    #[test]
    fn adds_up_where_everything_goes_through_the_layer() {
        let graph = smooth_graph();
        let delta = |method: LayerConductance| {
            let found = method.explain_layer(&graph, x64(2), vec![1, 2]).unwrap();
            let start = graph.evaluate(
                &[(graph.input(), x64(2).zeros_like().into())],
                &[graph.output()],
            );
            let start = start[0].to_vec().unwrap();
            let sums = flat(&found.values, 2)
                .sum_dim(1)
                .try_into_vec_as::<f64>()
                .unwrap();
            for (row, class) in [(0, 1), (1, 2)] {
                let want = sums[row] - (found.scores[row] - f64::from(start[row * 4 + class]));
                assert!((found.delta.as_ref().unwrap()[row] - want).abs() < 1e-5);
            }
            found
                .delta
                .unwrap()
                .iter()
                .map(|d| d.abs())
                .fold(0.0, f64::max)
        };
        // The layers of smooth networks are tanhs.
        let coarse = delta(LayerConductance::at("tanh_1").steps(50));
        let fine = delta(LayerConductance::at("tanh_1").steps(200));
        assert!(fine < 1e-3 && fine < coarse / 12.0, "{coarse:e} {fine:e}");
        assert!(delta(LayerConductance::captum().layer("tanh_1").steps(200)) > 10.0 * fine);
    }

    /// At the input the change of y is the input's own, so it is Integrated Gradients.
    #[test]
    fn at_the_input_it_is_integrated_gradients() {
        let graph = smooth_graph();
        let found = LayerConductance::at("input").steps(400);
        let found = found.explain_layer(&graph, x64(1), 1).unwrap();
        let gradients = Quadrature::GaussLegendre.nodes(60).into_iter();
        let want = gradients
            .map(|(at, weight)| {
                let plain = LayerGradientXActivation::at("input").multiply_by_inputs(false);
                let there = plain.explain_layer(&graph, x64(1).mul_scalar(at), 1);
                there.unwrap().tensor::<4>().unwrap().mul_scalar(weight) * x64(1)
            })
            .reduce(|a, b| a + b)
            .unwrap();
        assert_close(found.tensor().unwrap(), want, 1e-4);
    }

    /// Behind the last activation the score is linear in the layer.
    #[test]
    fn is_the_difference_from_the_baseline_where_the_rest_is_linear() {
        let graph = net_graph();
        let x = image(3, 1);
        let of = |x: Tensor<4>| {
            let method = LayerGradientXActivation::at("relu_2");
            method
                .explain_layer(&graph, x, 2)
                .unwrap()
                .tensor::<4>()
                .unwrap()
        };
        let want = of(x.clone()) - of(x.clone().zeros_like());
        let got = LayerConductance::at("relu_2")
            .steps(3)
            .explain_layer(&graph, x, 2);
        assert_close(got.unwrap().tensor().unwrap(), want, 1e-5);
    }

    #[test]
    fn does_not_depend_on_the_batch_split() {
        assert_layer_splits_agree(&LayerConductance::at("relu_1").steps(4), 1e-5);
        assert_layer_splits_agree(&LayerConductance::captum().steps(3), 1e-5);
    }

    #[test]
    fn wrong_options_are_named() {
        let error = LayerConductance::new()
            .steps(0)
            .explain(&net_graph(), image(1, 1), 0);
        assert!(error.unwrap_err().to_string().contains("steps = 0"));
    }
}
