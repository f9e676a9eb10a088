use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

use crate::{
    attribution::Outcome,
    error::Error,
    graph::{Graph, Layer, Value},
    method::Method,
    methods::layer_map::{LayerMethod, LayerOutcome, node_of, over_input},
    model::Model,
    recipe::{Recipe, Registered},
    run::{Run, Stage},
    target::Goal,
};

/// A layer's activation times the gradient of the score there: y * d f / d y.
///
/// [`explain_layer`](LayerMethod::explain_layer) has the layer's own shape; as a [`Method`] it
/// is a map, summed over the channels (see [`LayerMethod`]). At the input it is
/// [`InputXGradient`](crate::InputXGradient). Without
/// [`multiply_by_inputs`](LayerGradientXActivation::multiply_by_inputs) it is the gradient at
/// the layer.
///
/// ```
/// use burn::{module::Module, nn::LinearConfig, tensor::{Device, Tensor}};
/// use saliency_core::{Graph, LayerGradientXActivation, LayerMethod};
/// let linear = LinearConfig::new(3, 2).init(&Device::flex());
/// let x = Tensor::<2>::ones([1, 3], &Device::flex());
/// let graph = Graph::trace(&linear, |m, x| m.forward(x).powi_scalar(2), &x)?;
/// // y * d y^2 / d y = 2 y^2
/// let first = graph.layers()[0].name.clone();
/// let found = LayerGradientXActivation::at(first).explain_layer(&graph, x.clone(), 1)?;
/// let y = linear.forward(x).try_into_vec_as::<f32>().unwrap();
/// let got = found.values.to_vec()?;
/// assert!(got[0] == 0.0 && (got[1] - 2.0 * y[1] * y[1]).abs() < 1e-5);
/// # Ok::<(), saliency_core::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LayerGradientXActivation {
    /// The layer.
    pub layer: Layer,
    /// Whether the gradient is multiplied by the activation; yes by default.
    pub multiply_by_inputs: bool,
}

impl Default for LayerGradientXActivation {
    fn default() -> Self {
        LayerGradientXActivation {
            layer: Layer::default(),
            multiply_by_inputs: true,
        }
    }
}

impl LayerGradientXActivation {
    /// At the last layer with positions.
    pub fn new() -> Self {
        Self::default()
    }

    /// At a layer.
    pub fn at(layer: impl Into<Layer>) -> Self {
        LayerGradientXActivation {
            layer: layer.into(),
            ..Self::default()
        }
    }

    /// Whether the gradient is multiplied by the activation.
    pub fn multiply_by_inputs(mut self, multiply: bool) -> Self {
        self.multiply_by_inputs = multiply;
        self
    }
}

impl Registered for LayerGradientXActivation {}

impl<const D: usize> LayerMethod<D> for LayerGradientXActivation {
    fn attribute_layer(
        &self,
        graph: &Graph,
        input: &Tensor<D>,
        goal: &Goal,
        run: &Run,
    ) -> Result<LayerOutcome, Error> {
        let layer = node_of(graph, &self.layer)?;
        let total = input.dims()[0];
        let mut parts = Vec::new();
        run.batches(Stage::Attributing, total, run.rows(input), |range| {
            let batch = input.clone().narrow(0, range.start, range.len());
            let goal = goal.slice(range.start, range.end);
            let mut found = graph.activations_and_gradients(batch.into(), &[layer], &goal, run)?;
            let (activation, gradient) = found.remove(0);
            parts.push(match self.multiply_by_inputs {
                true => &activation * &gradient,
                false => gradient,
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

impl<const D: usize> Method<D> for LayerGradientXActivation {
    fn recipe(&self) -> Recipe {
        Recipe::LayerGradientXActivation(self.clone())
    }

    fn reads(&self) -> &[Layer] {
        std::slice::from_ref(&self.layer)
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
        Gradient, InputXGradient,
        methods::testing::{assert_close, assert_layer_splits_agree, image, net_graph},
    };

    #[test]
    fn at_the_input_it_is_input_times_gradient() {
        let graph = net_graph();
        let x = image(3, 2);
        let got = LayerGradientXActivation::at("input").explain_layer(&graph, x.clone(), 1);
        let want = InputXGradient.explain(&graph, x.clone(), 1).unwrap();
        assert_close(got.unwrap().tensor::<4>().unwrap(), want.values, 1e-6);
        let plain = LayerGradientXActivation::at("input").multiply_by_inputs(false);
        let got = plain.explain_layer(&graph, x.clone(), 1).unwrap();
        let want = Gradient.explain(&graph, x, 1).unwrap();
        assert_close(got.tensor::<4>().unwrap(), want.values, 1e-6);
    }

    /// After the last ReLU the network is linear: the values and the head's bias are the score.
    #[test]
    fn adds_up_where_the_rest_is_linear() {
        let graph = net_graph();
        let x = image(2, 2);
        let found = LayerGradientXActivation::at("relu_2").explain_layer(&graph, x, 1);
        let found = found.unwrap();
        let sums = found.tensor::<4>().unwrap().sum_dims(&[1, 2, 3]);
        let sums = sums.try_into_vec_as::<f64>().unwrap();
        let bias = graph
            .parameters()
            .find(|(path, _)| *path == "head.bias")
            .unwrap()
            .1
            .to_vec()
            .unwrap()[1];
        for (sum, score) in sums.iter().zip(&found.scores) {
            assert!(
                (sum + f64::from(bias) - score).abs() < 1e-5,
                "{sum} {score}"
            );
        }
    }

    #[test]
    fn does_not_depend_on_the_batch_split() {
        assert_layer_splits_agree(&LayerGradientXActivation::at("branch"), 1e-6);
    }
}
