use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

use crate::{
    attribution::Outcome,
    error::Error,
    graph::{Layer, inside},
    method::Method,
    methods::neuron::Neurons,
    model::Model,
    recipe::{Recipe, Registered},
    run::{Run, Stage, join},
    target::Goal,
};

/// The gradient of a neuron with respect to the input: d y / d x, whatever the target.
///
/// A neuron is one value of a layer, by its index without the rows: `[unit]`, or
/// `[channel, y, x]`. A shorter index takes all values that begin with it, added up: `[channel]`
/// is a whole channel.
///
/// ```
/// use burn::{module::Module, nn::LinearConfig, tensor::{Device, Tensor}};
/// use saliency_core::{Graph, Method, NeuronGradient};
/// let linear = LinearConfig::new(3, 2).init(&Device::flex());
/// let x = Tensor::<2>::ones([1, 3], &Device::flex());
/// let graph = Graph::trace(&linear, |m, x| m.forward(x).exp(), &x)?;
/// let layer = graph.layers()[0].name.clone();
/// let map = NeuronGradient::of(layer, [1]).explain(&graph, x, 0)?;
/// // The gradient of a linear unit is its weight column.
/// let weight = linear.weight.val().slice([0..3, 1..2]).transpose();
/// map.values.into_data().assert_approx_eq::<f32>(&weight.into_data(), Default::default());
/// # Ok::<(), saliency_core::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct NeuronGradient {
    /// The layer.
    pub layer: Layer,
    /// The neuron's index in it.
    pub neuron: Vec<usize>,
}

impl Default for NeuronGradient {
    /// Channel 0 of the last layer with positions.
    fn default() -> Self {
        NeuronGradient::of(Layer::default(), [0])
    }
}

impl NeuronGradient {
    /// Of a neuron of a layer.
    pub fn of(layer: impl Into<Layer>, neuron: impl Into<Vec<usize>>) -> Self {
        NeuronGradient {
            layer: layer.into(),
            neuron: neuron.into(),
        }
    }
}

impl Registered for NeuronGradient {}

impl<const D: usize> Method<D> for NeuronGradient {
    fn recipe(&self) -> Recipe {
        Recipe::NeuronGradient(self.clone())
    }

    fn attribute(
        &self,
        model: &dyn Model<D>,
        input: &Tensor<D>,
        _: &Goal,
        run: &Run,
    ) -> Result<Outcome<D>, Error> {
        let graph = inside(model, "neuron-gradient")?;
        let neurons = Neurons::of(graph, &self.layer, &self.neuron)?;
        let total = input.dims()[0];
        let mut parts = Vec::new();
        run.batches(Stage::Attributing, total, run.rows(input), |range| {
            let batch = input.clone().narrow(0, range.start, range.len());
            parts.push(neurons.gradient(graph, batch, run)?);
            Ok(())
        })?;
        Ok(join(parts).into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Gradient,
        methods::testing::{
            assert_close, assert_graph_splits_agree, image, net_graph, smooth_graph,
        },
    };
    use burn::tensor::DType;

    #[test]
    fn of_an_output_it_is_the_gradient() {
        let graph = net_graph();
        let got = NeuronGradient::of("head", [2]).explain(&graph, image(2, 1), 0);
        let want = Gradient.explain(&graph, image(2, 1), 2).unwrap();
        assert_close(got.unwrap().values, want.values, 1e-6);
    }

    #[test]
    fn agrees_with_finite_differences() {
        let graph = smooth_graph();
        let x = image(1, 2).cast(DType::F64);
        let index = [3, 4, 1];
        let map = NeuronGradient::of("branch", index).explain(&graph, x.clone(), 0);
        let got = map.unwrap().values.try_into_vec_as::<f64>().unwrap();
        let layer = graph.layer(&"branch".into()).unwrap();
        let at = |element: usize, h: f64| {
            let mut values = x.clone().try_into_vec_as::<f64>().unwrap();
            values[element] += h;
            let data = burn::tensor::TensorData::new(values, x.dims());
            let moved = Tensor::<4>::from_data(data, (&x.device(), DType::F64));
            let y = graph
                .evaluate(&[(graph.input(), moved.into())], &[layer])
                .remove(0);
            let y = y.tensor::<4>().slice([0..1, 3..4, 4..5, 1..2]);
            y.try_into_vec_as::<f64>().unwrap()[0]
        };
        let h = 1e-6;
        for element in (0..got.len()).step_by(5) {
            let want = (at(element, h) - at(element, -h)) / (2.0 * h);
            assert!(
                (got[element] - want).abs() < 1e-7,
                "{} {want}",
                got[element]
            );
        }
    }

    #[test]
    fn a_channel_is_the_sum_of_its_positions() {
        let graph = net_graph();
        let of = |index: Vec<usize>| {
            let map = NeuronGradient::of("relu_1", index).explain(&graph, image(1, 1), 0);
            map.unwrap().values
        };
        let sum = (0..9)
            .flat_map(|y| (0..8).map(move |x| vec![4, y, x]))
            .map(of)
            .reduce(|a, b| a + b)
            .unwrap();
        assert_close(of(vec![4]), sum, 1e-5);
    }

    #[test]
    fn does_not_depend_on_the_batch_split() {
        assert_graph_splits_agree(&NeuronGradient::of("relu_1", [2, 3, 3]), 1e-6);
    }

    #[test]
    fn an_index_outside_is_named() {
        for index in [vec![6], vec![0, 0, 0, 0], vec![0, 9]] {
            let map = NeuronGradient::of("relu_1", index.clone());
            let error = map.explain(&net_graph(), image(1, 1), 0).unwrap_err();
            let want = format!("neuron = {index:?} in relu_1 of shape [6, 9, 8]");
            assert!(error.to_string().starts_with(&want), "{error}");
        }
    }
}
