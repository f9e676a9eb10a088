use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

use crate::{
    attribution::{Evaluations, Evidence, Outcome},
    baseline::Baseline,
    error::Error,
    graph::{Graph, Layer, Site, Value, inside},
    method::Method,
    methods::{
        line::{Line, flat, rows_of},
        neuron::Neurons,
    },
    model::Model,
    quadrature::Quadrature,
    recipe::{Recipe, Registered},
    run::Run,
    target::Goal,
};

/// How much of the score flows from each input value through one neuron y, on the way from a
/// baseline to the input:
///
/// (x - x') * integral over a of d f / d y * d y / d x at x' + a (x - x').
///
/// Summed over all neurons of a layer through which everything goes, this is Integrated
/// Gradients; summed over the inputs, it is the neuron's [`LayerConductance`]. The neuron is
/// named as in [`NeuronGradient`](crate::NeuronGradient); of several, the conductances are
/// added. Dhamdhere, Sundararajan and Yan, "How Important Is a Neuron?" (2018),
/// <https://arxiv.org/abs/1805.12233>.
///
/// The preset `neuron-conductance-captum` has Captum's default rule, whose trapezoid weights add
/// up to 1 - 1/steps.
///
/// [`LayerConductance`]: crate::LayerConductance
///
/// ```
/// use burn::{module::Module, nn::LinearConfig, tensor::{Device, Tensor}};
/// use saliency_core::{Graph, Method, NeuronConductance};
/// let linear = LinearConfig::new(3, 2).init(&Device::flex());
/// let x = Tensor::<2>::ones([1, 3], &Device::flex());
/// let graph = Graph::trace(&linear, |m, x| m.forward(x).exp().mul_scalar(2.0), &x)?;
/// let through = |unit, class| NeuronConductance::of("exp_1", [unit]).explain(&graph, x.clone(), class);
/// // Nothing flows to class 1 through the other unit.
/// assert_eq!(through(0, 1)?.to_vec()?, [0.0; 3]);
/// assert!(through(1, 1)?.to_vec()?.iter().all(|&v| v != 0.0));
/// # Ok::<(), saliency_core::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct NeuronConductance {
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
    /// Whether the integral is multiplied by x - x'; yes by default.
    pub multiply_by_inputs: bool,
}

impl Default for NeuronConductance {
    /// Channel 0 of the last layer with positions.
    fn default() -> Self {
        NeuronConductance {
            layer: Layer::default(),
            neuron: vec![0],
            baseline: Baseline::default(),
            steps: 50,
            rule: Quadrature::default(),
            multiply_by_inputs: true,
        }
    }
}

impl NeuronConductance {
    /// Of a neuron of a layer.
    pub fn of(layer: impl Into<Layer>, neuron: impl Into<Vec<usize>>) -> Self {
        NeuronConductance {
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

    /// Whether the integral is multiplied by x - x'.
    pub fn multiply_by_inputs(mut self, multiply: bool) -> Self {
        self.multiply_by_inputs = multiply;
        self
    }
}

impl Registered for NeuronConductance {}

impl<const D: usize> Method<D> for NeuronConductance {
    fn recipe(&self) -> Recipe {
        Recipe::NeuronConductance(self.clone())
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
        self.rule.validate_fixed(self.steps)?;
        let graph = inside(model, "neuron-conductance")?;
        let neurons = Neurons::of(graph, &self.layer, &self.neuron)?;
        let line = Line::new(self.baseline.of(input)?, input.clone());
        let mut dims = input.dims();
        let batch = run.rows(input);
        let mut values = line.integrate(self.rule, self.steps, run, batch, |points, steps| {
            dims[0] = steps.len();
            let points: Tensor<D> = points.reshape(dims);
            let goal = goal.pick(&rows_of(steps));
            Ok(flat(through(graph, &neurons, points, &goal, run)?))
        })?;
        if self.multiply_by_inputs {
            values = values * line.way();
        }
        Ok(Outcome {
            values: values.reshape(input.dims()),
            evidence: Evidence {
                samples: Some(self.steps),
                ..Evidence::default()
            },
        })
    }
}

/// d f / d y * d y / d x: the gradient of the score that passes the neurons.
fn through<const D: usize>(
    graph: &Graph,
    neurons: &Neurons,
    x: Tensor<D>,
    goal: &Goal,
    run: &Run,
) -> Result<Tensor<D>, Error> {
    run.count(Evaluations {
        forward: 0,
        gradient: x.dims()[0],
    });
    let all = graph.activations(x.into())?;
    let outputs = all.get(graph.output()).ok_or(Error::NotDifferentiable)?;
    let seed = goal.seed(&outputs.clone().tensor())?;
    let plain = |_: &Site, _: &Value| Ok(None);
    let back = |from, seed, to| {
        let mut found = graph.backward(&all, vec![(from, seed)], &plain, &[to])?;
        found.remove(0).ok_or(Error::NotDifferentiable)
    };
    let gradient = back(graph.output(), seed.into(), neurons.layer)?;
    let passing = back(neurons.layer, neurons.masked(&gradient), graph.input())?;
    Ok(passing.tensor())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        LayerConductance, LayerMethod,
        methods::testing::{
            assert_close, assert_graph_splits_agree, image, net_graph, smooth_graph,
        },
    };
    use burn::tensor::DType;

    /// The neuron's share of each input adds up to the layer's conductance at the neuron; all
    /// neurons together are Integrated Gradients.
    #[test]
    fn adds_up_to_the_layers_conductance_and_to_integrated_gradients() {
        let graph = smooth_graph();
        let x = image(1, 2).cast(DType::F64);
        let of = |index: Vec<usize>| {
            let map = NeuronConductance::of("tanh_1", index).explain(&graph, x.clone(), 1);
            map.unwrap().values
        };
        let layer = LayerConductance::at("tanh_1").steps(400);
        let layer = layer.explain_layer(&graph, x.clone(), 1).unwrap();
        let want = layer.tensor::<4>().unwrap().slice([0..1, 2..3, 4..5, 5..6]);
        assert_close(of(vec![2, 4, 5]).sum_dims(&[1, 2, 3]), want, 1e-4);

        let all = (0..6).map(|c| of(vec![c])).reduce(|a, b| a + b).unwrap();
        let integrated = LayerConductance::at("input").steps(400);
        let integrated = integrated.explain_layer(&graph, x.clone(), 1).unwrap();
        assert_close(all, integrated.tensor::<4>().unwrap(), 1e-4);
    }

    #[test]
    fn does_not_depend_on_the_batch_split() {
        let method = NeuronConductance::of("relu_1", [2, 3, 3]);
        assert_graph_splits_agree(&method.steps(4), 1e-5);
    }

    #[test]
    fn wrong_options_are_named() {
        let none = NeuronConductance::default().steps(0);
        let error = none.explain(&net_graph(), image(1, 1), 0).unwrap_err();
        assert!(error.to_string().contains("steps = 0"), "{error}");
    }
}
