use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

use crate::{
    attribution::Outcome,
    error::Error,
    graph::{Layer, inside},
    method::Method,
    methods::{deep_lift::DeepLift, layer_map::node_of, neuron::span},
    model::Model,
    recipe::{Recipe, Registered},
    run::Run,
    target::{Goal, Target},
};

/// Any method's explanation of a neuron instead of the score, whatever the target.
///
/// The part of the network up to the layer is a network of its own, whose output the neuron is:
/// Captum's `NeuronDeepLift`, `NeuronGuidedBackprop`, `NeuronDeconvolution`, `NeuronGradientShap`,
/// `NeuronFeatureAblation` and all others. A neuron is one value of a layer, or all that begin
/// with an index, added up, as for [`NeuronGradient`](crate::NeuronGradient).
///
/// ```
/// use burn::{module::Module, nn::LinearConfig, tensor::{Device, Tensor}};
/// use saliency_core::{FeatureAblation, Graph, Method, NeuronAttribution, Recipe};
/// let linear = LinearConfig::new(3, 2).init(&Device::flex());
/// let x = Tensor::<2>::ones([1, 3], &Device::flex());
/// let graph = Graph::trace(&linear, |m, x| m.forward(x).exp(), &x)?;
/// let layer = graph.layers()[0].name.clone();
/// let without = Recipe::FeatureAblation(FeatureAblation::new());
/// let map = NeuronAttribution::new(without).neuron(layer, [1]).explain(&graph, x, 0)?;
/// // A linear unit loses weight times input.
/// let weight = linear.weight.val().slice([0..3, 1..2]).transpose();
/// map.values.into_data().assert_approx_eq::<f32>(&weight.into_data(), Default::default());
/// # Ok::<(), saliency_core::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct NeuronAttribution {
    /// The method.
    pub of: Box<Recipe>,
    /// The layer.
    pub layer: Layer,
    /// The neuron's index in it.
    pub neuron: Vec<usize>,
}

impl Default for NeuronAttribution {
    fn default() -> Self {
        NeuronAttribution::new(Recipe::DeepLift(DeepLift::new()))
    }
}

impl NeuronAttribution {
    /// A method, of channel 0 of the last layer with positions.
    pub fn new(of: Recipe) -> Self {
        NeuronAttribution {
            of: Box::new(of),
            layer: Layer::default(),
            neuron: vec![0],
        }
    }

    /// The neuron of a layer.
    pub fn neuron(mut self, layer: impl Into<Layer>, neuron: impl Into<Vec<usize>>) -> Self {
        self.layer = layer.into();
        self.neuron = neuron.into();
        self
    }
}

impl Registered for NeuronAttribution {
    fn is_non_negative(&self) -> bool {
        self.of.is_non_negative()
    }
}

impl<const D: usize> Method<D> for NeuronAttribution {
    fn recipe(&self) -> Recipe {
        Recipe::NeuronAttribution(self.clone())
    }

    fn validate(&self) -> Result<(), Error> {
        Method::<D>::validate(&*self.of)
    }

    fn attribute(
        &self,
        model: &dyn Model<D>,
        input: &Tensor<D>,
        _: &Goal,
        run: &Run,
    ) -> Result<Outcome<D>, Error> {
        let graph = inside(model, "neuron-attribution")?;
        let layer = node_of(graph, &self.layer)?;
        let neurons = span(graph, layer, &self.neuron)?;
        let head = graph.head_at(layer)?;
        let outputs = run.without_progress().forward(&head, input)?;
        let target = match neurons.len() {
            1 => Target::Class(neurons.start),
            _ => {
                let all = 0..outputs.dims()[1];
                Target::Weighted(all.map(|i| f64::from(neurons.contains(&i))).collect())
            }
        };
        let goal = Goal::resolve(&target, &outputs)?;
        self.of.attribute(&head, input, &goal, run)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Deconvnet, Gradient, GuidedBackprop, InputXGradient, IntegratedGradients, LayerActivation,
        LayerMethod, Lrp, NeuronGradient, NeuronIntegratedGradients,
        methods::testing::{assert_close, assert_graph_splits_agree, image, net_graph},
    };

    #[test]
    fn gradients_are_those_of_the_neuron_methods() {
        let graph = net_graph();
        for neuron in [vec![2, 3, 3], vec![4]] {
            let of = |recipe| {
                let method = NeuronAttribution::new(recipe).neuron("relu_1", neuron.clone());
                method.explain(&graph, image(2, 1), 0).unwrap().values
            };
            let want = NeuronGradient::of("relu_1", neuron.clone());
            let want = want.explain(&graph, image(2, 1), 0).unwrap().values;
            assert_close(of(Recipe::Gradient(Gradient)), want, 1e-5);
            let want = NeuronIntegratedGradients::of("relu_1", neuron.clone());
            let want = want.explain(&graph, image(2, 1), 0).unwrap().values;
            let integrated = IntegratedGradients::new();
            assert_close(of(Recipe::IntegratedGradients(integrated)), want, 1e-5);
        }
    }

    /// They add up to the neuron, or to its difference from the baseline.
    #[test]
    fn rules_add_up_to_the_neuron() {
        let (graph, x) = (net_graph(), image(2, 1));
        let at = |x: Tensor<4>| {
            let found = LayerActivation::at("relu_2").explain_layer(&graph, x, 0);
            let y = found.unwrap().tensor::<4>().unwrap();
            y.slice([0..2, 1..2]).sum_dims(&[1, 2, 3])
        };
        let lift = NeuronAttribution::default().neuron("relu_2", [1]);
        let map = lift.explain(&graph, x.clone(), 0).unwrap();
        let sums = map.values.sum_dims(&[1, 2, 3]);
        assert_close(sums, at(x.clone()) - at(x.zeros_like()), 1e-5);
        assert!(map.evidence.delta.unwrap()[0].abs() < 1e-3);
        let lrp = Lrp::new().bias(crate::BiasShare::Ignored);
        let lrp = NeuronAttribution::new(Recipe::Lrp(lrp)).neuron("relu_2", [1]);
        let map = lrp.explain(&graph, x.clone(), 0).unwrap();
        assert_close(map.values.sum_dims(&[1, 2, 3]), at(x), 1e-4);
    }

    /// Of an output it is the method itself.
    #[test]
    fn of_an_output_it_is_the_method_itself() {
        let graph = net_graph();
        for recipe in [
            Recipe::GuidedBackprop(GuidedBackprop),
            Recipe::Deconvnet(Deconvnet),
            Recipe::InputXGradient(InputXGradient),
            Recipe::named("feature-ablation").unwrap(),
            Recipe::named("gradient-shap").unwrap(),
        ] {
            let method = NeuronAttribution::new(recipe.clone()).neuron("head", [2]);
            let got = method.explain(&graph, image(2, 1), 0).unwrap();
            let want = recipe.explain(&graph, image(2, 1), 2).unwrap();
            assert_close(got.values, want.values, 1e-5);
        }
    }

    #[test]
    fn does_not_depend_on_the_batch_split() {
        let method = NeuronAttribution::default().neuron("relu_1", [2, 3, 3]);
        assert_graph_splits_agree(&method, 1e-5);
    }

    #[test]
    fn an_index_outside_is_named() {
        let method = NeuronAttribution::default().neuron("relu_1", [6]);
        let error = method.explain(&net_graph(), image(1, 1), 0).unwrap_err();
        assert!(error.to_string().starts_with("neuron = [6] in relu_1"));
    }
}
