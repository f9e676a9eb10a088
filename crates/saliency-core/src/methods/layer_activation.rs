use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

use crate::{
    attribution::{Evaluations, Outcome},
    error::Error,
    graph::{Graph, Layer, Value},
    method::Method,
    methods::layer_map::{LayerMethod, LayerOutcome, node_of, over_input},
    model::Model,
    recipe::{Recipe, Registered},
    run::{Run, Stage, guarded},
    target::Goal,
};

/// What a layer says: its activation, whatever the target.
///
/// [`explain_layer`](LayerMethod::explain_layer) has the layer's own shape; as a [`Method`] it
/// is a map, summed over the channels (see [`LayerMethod`]). Any node of the graph is a layer:
/// for what goes *into* one, name the node before it.
///
/// ```
/// use burn::{module::Module, nn::LinearConfig, tensor::{Device, Tensor}};
/// use saliency_core::{Graph, LayerActivation, LayerMethod};
/// let linear = LinearConfig::new(3, 2).init(&Device::flex());
/// let x = Tensor::<2>::ones([4, 3], &Device::flex());
/// let graph = Graph::trace(&linear, |m, x| m.forward(x).tanh(), &x)?;
/// let found = LayerActivation::at("tanh_1").explain_layer(&graph, x.clone(), 0)?;
/// let want = linear.forward(x).tanh();
/// found.tensor::<2>()?.into_data().assert_approx_eq::<f32>(&want.into_data(), Default::default());
/// # Ok::<(), saliency_core::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LayerActivation {
    /// The layer.
    pub layer: Layer,
}

impl LayerActivation {
    /// Of the last layer with positions.
    pub fn new() -> Self {
        Self::default()
    }

    /// Of a layer.
    pub fn at(layer: impl Into<Layer>) -> Self {
        LayerActivation {
            layer: layer.into(),
        }
    }
}

impl Registered for LayerActivation {}

impl<const D: usize> LayerMethod<D> for LayerActivation {
    fn attribute_layer(
        &self,
        graph: &Graph,
        input: &Tensor<D>,
        _: &Goal,
        run: &Run,
    ) -> Result<LayerOutcome, Error> {
        let layer = node_of(graph, &self.layer)?;
        graph.check_input(&input.dims())?;
        let total = input.dims()[0];
        let mut parts = Vec::new();
        run.batches(Stage::Attributing, total, run.rows(input), |range| {
            let batch: Value = input.clone().narrow(0, range.start, range.len()).into();
            let shape = batch.shape();
            parts.push(guarded(&shape, || {
                graph
                    .evaluate(&[(graph.input(), batch)], &[layer])
                    .remove(0)
            })?);
            run.count(Evaluations {
                forward: range.len(),
                gradient: 0,
            });
            Ok(())
        })?;
        Ok(LayerOutcome {
            values: Value::cat(parts, 0),
            layer,
            delta: None,
            steps: None,
        })
    }
}

impl<const D: usize> Method<D> for LayerActivation {
    fn recipe(&self) -> Recipe {
        Recipe::LayerActivation(self.clone())
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
        BatchSize, Error, Target,
        methods::testing::{Net, assert_close, image, net_graph},
    };
    use burn::tensor::Device;

    #[test]
    fn is_the_value_of_the_node_whatever_the_batches() {
        let graph = net_graph();
        let run = Run::new().batch_size(BatchSize::Rows(2));
        let method = LayerActivation::at("relu_1");
        let found = method
            .explain_layer_with(&graph, image(5, 1), &Target::Class(0), &run)
            .unwrap();
        let layer = graph.layer(&"relu_1".into()).unwrap();
        let want = graph.activations(image(5, 1).into()).unwrap();
        let want = want.get(layer).unwrap().clone().tensor::<4>();
        assert_close(found.tensor::<4>().unwrap(), want, 1e-6);
        assert_eq!(
            (found.layer.as_str(), found.evaluations.forward),
            ("relu_1", 5)
        );
        assert!(found.tensor::<2>().is_err());
    }

    #[test]
    fn the_map_is_the_sum_over_channels() {
        let graph = net_graph();
        let map = LayerActivation::at("relu_2").explain(&graph, image(2, 1), 0);
        let layer = LayerActivation::at("relu_2").explain_layer(&graph, image(2, 1), 0);
        let want = layer.unwrap().tensor::<4>().unwrap().sum_dim(1);
        assert_close(map.unwrap().values, want, 1e-6);
    }

    #[test]
    fn what_cannot_be_done_is_named() {
        let graph = net_graph();
        let text = |layer: &str| {
            let found = LayerActivation::at(layer).explain(&graph, image(1, 1), 0);
            found.unwrap_err().to_string()
        };
        assert!(text("head").contains("explain_layer"), "{}", text("head"));
        assert!(
            text("relu_9").contains("did you mean relu_"),
            "{}",
            text("relu_9")
        );
        let net = Net::relu(&Device::flex());
        let error = LayerActivation::new().explain(&net, image(1, 1), 0);
        let error = error.unwrap_err();
        assert!(matches!(error, Error::NeedsGraph { .. }), "{error}");
        assert!(error.to_string().starts_with("layer-activation needs"));
    }
}
