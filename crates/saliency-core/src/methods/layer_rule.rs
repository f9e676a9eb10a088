use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

use crate::{
    attribution::Outcome,
    error::Error,
    graph::{Graph, Layer, NodeId, Op, Rule, Site, Value},
    method::Method,
    methods::{
        deconvnet::rectified,
        deep_lift::DeepLift,
        guided_backprop::{guided, passed_back_to},
        layer_map::{LayerMethod, LayerOutcome, node_of, over_input},
    },
    model::Model,
    recipe::{Recipe, Registered},
    run::Run,
    target::Goal,
};

/// A method with backward rules of its own, stopped at a layer: what arrives there.
///
/// [`of`](LayerRule::of) is `deeplift` (multipliers at the layer times the differences there),
/// `lrp`, `excitation-backprop`, `guided-backprop`, `deconvnet` or `gradient`; Captum's
/// `LayerDeepLift`, `LayerLRP` and, with several baselines, `LayerDeepLiftShap`. What a layer has
/// adds up as at the input, where everything goes through it: `delta` says what is missing.
///
/// [`explain_layer`](LayerMethod::explain_layer) has the layer's own shape; as a [`Method`] it
/// is a map, summed over the channels (see [`LayerMethod`]). LRP and excitation backprop fold
/// BatchNorm into the layer before it, whose output it then has.
///
/// ```
/// use burn::{module::Module, nn::LinearConfig, tensor::{Device, Tensor, activation::relu}};
/// use saliency_core::{DeepLift, Graph, LayerMethod, LayerRule, Recipe};
/// let linear = LinearConfig::new(3, 2).init(&Device::flex());
/// let x = Tensor::<2>::ones([1, 3], &Device::flex());
/// let graph = Graph::trace(&linear, |m, x| relu(m.forward(x)), &x)?;
/// let first = graph.layers()[0].name.clone();
/// let lift = LayerRule::new(Recipe::DeepLift(DeepLift::new())).layer(first);
/// let found = lift.explain_layer(&graph, x, 1)?;
/// // The other unit has no part in the score.
/// assert_eq!(found.values.to_vec()?[0], 0.0);
/// assert!(found.delta.unwrap()[0].abs() < 1e-6);
/// # Ok::<(), saliency_core::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LayerRule {
    /// The method.
    pub of: Box<Recipe>,
    /// The layer.
    pub layer: Layer,
}

impl Default for LayerRule {
    fn default() -> Self {
        LayerRule::new(Recipe::DeepLift(DeepLift::new()))
    }
}

impl LayerRule {
    /// A method at the last layer with positions.
    pub fn new(of: Recipe) -> Self {
        LayerRule {
            of: Box::new(of),
            layer: Layer::default(),
        }
    }

    /// The layer.
    pub fn layer(mut self, layer: impl Into<Layer>) -> Self {
        self.layer = layer.into();
        self
    }
}

impl Registered for LayerRule {}

/// The ordinary derivative everywhere.
fn plain(_: &Site, _: &Value) -> Result<Option<Vec<Option<Value>>>, Error> {
    Ok(None)
}

/// The node of the folded graph that has the values of a node.
fn folded(graph: &Graph, folded: &Graph, id: NodeId) -> Result<NodeId, Error> {
    let node = graph.node(id);
    let own = folded.layer(&Layer::Named(node.name.clone()));
    match node.op {
        Op::BatchNorm { .. } => own.or_else(|_| {
            let before = graph.node(node.inputs[0]).name.clone();
            folded.layer(&Layer::Named(before))
        }),
        _ => own,
    }
}

impl<const D: usize> LayerMethod<D> for LayerRule {
    fn attribute_layer(
        &self,
        graph: &Graph,
        input: &Tensor<D>,
        goal: &Goal,
        run: &Run,
    ) -> Result<LayerOutcome, Error> {
        let layer = node_of(graph, &self.layer)?;
        let passed = |rule: &dyn Rule| {
            let found = passed_back_to(graph, layer, input, goal, run, rule)?;
            Ok::<_, Error>((found, None))
        };
        let (values, delta) = match &*self.of {
            Recipe::DeepLift(lift) => lift.at(graph, layer, input, goal, run)?,
            Recipe::Lrp(lrp) => {
                let inner = graph.folded_once();
                let at = folded(graph, inner, layer)?;
                let (values, delta) = lrp.relevance(inner, at, input, goal, run)?;
                (values, Some(delta))
            }
            Recipe::ExcitationBackprop(walk) => {
                let inner = graph.folded_once();
                let at = folded(graph, inner, layer)?;
                let (values, delta) = walk.probability(inner, at, input, goal, run)?;
                (values, Some(delta))
            }
            Recipe::GuidedBackprop(_) => passed(&guided)?,
            Recipe::Deconvnet(_) => passed(&rectified)?,
            Recipe::Gradient(_) => passed(&plain)?,
            other => {
                let requirement = "it must be deeplift, lrp, excitation-backprop, guided-backprop, deconvnet or gradient";
                return Err(Error::option("of", other.name(), requirement));
            }
        };
        Ok(LayerOutcome {
            values,
            layer,
            delta,
            steps: None,
        })
    }
}

impl<const D: usize> Method<D> for LayerRule {
    fn recipe(&self) -> Recipe {
        Recipe::LayerRule(self.clone())
    }

    fn validate(&self) -> Result<(), Error> {
        Method::<D>::validate(&*self.of)
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
        BiasShare, Deconvnet, ExcitationBackprop, Gradient, GuidedBackprop,
        LayerGradientXActivation, Lrp,
        methods::testing::{assert_close, assert_layer_splits_agree, image, net_graph},
    };

    fn rules() -> [Recipe; 6] {
        [
            Recipe::DeepLift(DeepLift::new()),
            Recipe::Lrp(Lrp::epsilon_plus()),
            Recipe::ExcitationBackprop(ExcitationBackprop::new()),
            Recipe::GuidedBackprop(GuidedBackprop),
            Recipe::Deconvnet(Deconvnet),
            Recipe::Gradient(Gradient),
        ]
    }

    #[test]
    fn at_the_input_it_is_the_method_itself() {
        let graph = net_graph();
        for rule in rules() {
            let at = LayerRule::new(rule.clone()).layer("input");
            let got = at.explain_layer(&graph, image(2, 3), 1).unwrap();
            let want = rule.explain(&graph, image(2, 3), 1).unwrap();
            assert_close(got.tensor().unwrap(), want.values, 1e-5);
            assert_eq!(got.delta.is_some(), want.evidence.delta.is_some());
        }
    }

    /// Behind the last ReLU the network is linear: DeepLIFT and LRP are gradient times
    /// difference, guided backprop and the gradient the gradient.
    #[test]
    fn before_a_linear_rest_they_have_closed_forms() {
        let (graph, x) = (net_graph(), image(2, 3));
        let values = |method: &dyn Fn(Tensor<4>) -> Tensor<4>| method(x.clone());
        let product = |multiply| {
            let method = LayerGradientXActivation::at("relu_2").multiply_by_inputs(multiply);
            values(&|x| {
                method
                    .explain_layer(&graph, x, 1)
                    .unwrap()
                    .tensor()
                    .unwrap()
            })
        };
        let of = |recipe: Recipe| {
            let method = LayerRule::new(recipe).layer("relu_2");
            values(&|x| {
                method
                    .explain_layer(&graph, x, 1)
                    .unwrap()
                    .tensor()
                    .unwrap()
            })
        };
        let zero = LayerGradientXActivation::at("relu_2")
            .explain_layer(&graph, x.zeros_like(), 1)
            .unwrap();
        let lift = of(Recipe::DeepLift(DeepLift::new()));
        assert_close(lift, product(true) - zero.tensor().unwrap(), 1e-5);
        for recipe in [
            Recipe::GuidedBackprop(GuidedBackprop),
            Recipe::Gradient(Gradient),
        ] {
            assert_close(of(recipe), product(false), 1e-5);
        }
        let lrp = Lrp::of(crate::LrpRule::Epsilon(0.0)).bias(BiasShare::Absorbed);
        assert_close(of(Recipe::Lrp(lrp.stabiliser(0.0))), product(true), 1e-4);
    }

    /// All of the network goes through its first layers; BatchNorm is folded into the stem.
    #[test]
    fn what_a_layer_has_adds_up() {
        let graph = net_graph();
        for layer in ["stem", "norm", "relu_1", "add_1"] {
            let lrp = Lrp::new().bias(BiasShare::Ignored);
            for recipe in [Recipe::DeepLift(DeepLift::new()), Recipe::Lrp(lrp)] {
                let what = format!("{} at {layer}", recipe.name());
                let method = LayerRule::new(recipe).layer(layer);
                let found = method.explain_layer(&graph, image(2, 3), 1).unwrap();
                for delta in found.delta.unwrap() {
                    assert!(delta.abs() < 1e-3, "{what}: {delta:e}");
                }
            }
        }
    }

    #[test]
    fn does_not_depend_on_the_batch_split() {
        for rule in rules() {
            assert_layer_splits_agree(&LayerRule::new(rule).layer("relu_1"), 1e-4);
        }
    }

    #[test]
    fn other_methods_are_refused() {
        let method = LayerRule::new(Recipe::named("lime").unwrap());
        let error = method.explain(&net_graph(), image(1, 1), 0).unwrap_err();
        assert!(error.to_string().starts_with("of = lime"), "{error}");
    }
}
