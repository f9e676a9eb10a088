use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

use crate::{
    attribution::{Evaluations, Evidence, Outcome},
    baseline::Baseline,
    error::Error,
    graph::{Layer, inside},
    method::Method,
    methods::{
        line::{Line, delta, flat},
        neuron::Neurons,
    },
    model::Model,
    quadrature::Quadrature,
    recipe::{Recipe, Registered},
    run::{Run, Stage, guarded},
    target::Goal,
};

/// Integrated Gradients of a neuron y instead of the score, whatever the target:
/// (x - x') * integral over a of d y / d x at x' + a (x - x').
///
/// The values add up to y(x) - y(x'). The neuron is named as in
/// [`NeuronGradient`](crate::NeuronGradient). Shrikumar, Su and Kundaje, "Computationally
/// Efficient Measures of Internal Neuron Importance" (2018),
/// <https://arxiv.org/abs/1807.09946>; options and defaults are Captum's.
///
/// ```
/// use burn::{module::Module, nn::LinearConfig, tensor::{Device, Tensor}};
/// use saliency_core::{Graph, Method, NeuronIntegratedGradients};
/// let linear = LinearConfig::new(3, 2).init(&Device::flex());
/// let x = Tensor::<2>::ones([1, 3], &Device::flex());
/// let graph = Graph::trace(&linear, |m, x| m.forward(x).exp().exp(), &x)?;
/// let map = NeuronIntegratedGradients::of("exp_1", [1]).explain(&graph, x, 0)?;
/// assert!(map.evidence.delta.unwrap()[0].abs() < 1e-5);
/// # Ok::<(), saliency_core::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct NeuronIntegratedGradients {
    /// The layer.
    pub layer: Layer,
    /// The neuron's index in it.
    pub neuron: Vec<usize>,
    /// Where the path starts.
    pub baseline: Baseline,
    /// Points of the path.
    pub steps: usize,
    /// Where the points lie, and their weights.
    pub rule: Quadrature,
    /// Whether the mean gradient is multiplied by x - x'; yes by default.
    pub multiply_by_inputs: bool,
}

impl Default for NeuronIntegratedGradients {
    /// Channel 0 of the last layer with positions.
    fn default() -> Self {
        NeuronIntegratedGradients {
            layer: Layer::default(),
            neuron: vec![0],
            baseline: Baseline::default(),
            steps: 50,
            rule: Quadrature::default(),
            multiply_by_inputs: true,
        }
    }
}

impl NeuronIntegratedGradients {
    /// Of a neuron of a layer.
    pub fn of(layer: impl Into<Layer>, neuron: impl Into<Vec<usize>>) -> Self {
        NeuronIntegratedGradients {
            layer: layer.into(),
            neuron: neuron.into(),
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

    /// Whether the mean gradient is multiplied by x - x'.
    pub fn multiply_by_inputs(mut self, multiply: bool) -> Self {
        self.multiply_by_inputs = multiply;
        self
    }
}

impl Registered for NeuronIntegratedGradients {}

impl<const D: usize> Method<D> for NeuronIntegratedGradients {
    fn recipe(&self) -> Recipe {
        Recipe::NeuronIntegratedGradients(self.clone())
    }

    fn validate(&self) -> Result<(), Error> {
        self.rule.validate_fixed(self.steps)
    }

    fn attribute(
        &self,
        model: &dyn Model<D>,
        input: &Tensor<D>,
        _: &Goal,
        run: &Run,
    ) -> Result<Outcome<D>, Error> {
        self.rule.validate_fixed(self.steps)?;
        let graph = inside(model, "neuron-integrated-gradients")?;
        let neurons = Neurons::of(graph, &self.layer, &self.neuron)?;
        graph.check_input(&input.dims())?;
        let baseline = self.baseline.of(input)?;
        let line = Line::new(baseline.clone(), input.clone());
        let batch = run.rows(input);
        let mut dims = input.dims();
        let mut values = line.integrate(self.rule, self.steps, run, batch, |points, steps| {
            dims[0] = steps.len();
            let points: Tensor<D> = points.reshape(dims);
            Ok(flat(neurons.gradient(graph, points, run)?))
        })?;
        let mut evidence = Evidence {
            samples: Some(self.steps),
            ..Evidence::default()
        };
        if self.multiply_by_inputs {
            values = values * line.way();
            let value_at = |x: &Tensor<D>| {
                let mut parts = Vec::new();
                let quiet = run.without_progress();
                quiet.batches(Stage::Scoring, line.rows(), batch, |range| {
                    run.count(Evaluations {
                        forward: range.len(),
                        gradient: 0,
                    });
                    let x = x.clone().narrow(0, range.start, range.len());
                    parts.push(guarded(&x.dims(), || neurons.sum(graph, x))?);
                    Ok(())
                })?;
                Ok::<_, Error>(Tensor::cat(parts, 0))
            };
            let (end, start) = (value_at(input)?, value_at(&baseline)?);
            evidence.delta = Some(delta(values.clone(), end, start)?);
        }
        Ok(Outcome {
            values: values.reshape(input.dims()),
            evidence,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        NeuronGradient,
        methods::testing::{
            assert_close, assert_graph_splits_agree, image, net_graph, smooth_graph,
        },
    };
    use burn::tensor::DType;

    #[test]
    fn adds_up_to_the_neurons_change() {
        let x = image(3, 2).cast(DType::F64);
        let method = NeuronIntegratedGradients::of("tanh_2", [3, 4]);
        let method = method.baseline(Baseline::Constant(-0.3));
        let map = method.explain(&smooth_graph(), x, 0).unwrap();
        for delta in map.evidence.delta.unwrap() {
            assert!(delta.abs() < 1e-9, "{delta:e}");
        }
    }

    #[test]
    fn of_a_linear_layer_it_is_the_gradient_times_the_difference() {
        let graph = net_graph();
        let x = image(2, 2);
        let method = NeuronIntegratedGradients::of("stem", [3, 4, 4]).steps(3);
        let baseline = Baseline::Constant(0.5);
        let from = baseline.of(&x).unwrap();
        let got = method.baseline(baseline).explain(&graph, x.clone(), 0);
        let gradient = NeuronGradient::of("stem", [3, 4, 4]);
        let gradient = gradient.explain(&graph, x.clone(), 0).unwrap().values;
        assert_close(got.unwrap().values, gradient * (x - from), 1e-6);
    }

    #[test]
    fn does_not_depend_on_the_batch_split() {
        let method = NeuronIntegratedGradients::of("relu_1", [2, 3, 3]);
        assert_graph_splits_agree(&method.steps(4), 1e-5);
    }

    #[test]
    fn wrong_options_are_named() {
        let none = NeuronIntegratedGradients::default().steps(0);
        let error = none.explain(&net_graph(), image(1, 1), 0).unwrap_err();
        assert!(error.to_string().contains("steps = 0"), "{error}");
    }
}
