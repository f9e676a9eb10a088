use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

use super::guided_backprop::{is_relu, passed_back};
use crate::{
    attribution::Outcome,
    error::Error,
    graph::{Site, Value, inside},
    method::Method,
    model::Model,
    recipe::{Recipe, Registered},
    run::Run,
    target::Goal,
};

/// The score passed back through a deconvolution network.
///
/// A ReLU passes back the positive part of what it gets from above, whatever its input was;
/// convolutions are transposed, max-pooling follows its switches, everything else has its
/// ordinary derivative. Every ReLU counts, whether a module, a function or a
/// `clamp_min(0.0)`, and so does one with an upper bound (ReLU6). Values are shaped like the input. Zeiler and Fergus, "Visualizing and
/// Understanding Convolutional Networks" (2014), <https://arxiv.org/abs/1311.2901>; Captum's
/// `Deconvolution`, which misses functional ReLUs.
///
/// ```
/// use burn::{module::Param, nn::LinearConfig, tensor::{Device, Tensor, activation::relu}};
/// use saliency_core::{Deconvnet, Graph, Method};
///
/// let device = Device::flex();
/// let mut head = LinearConfig::new(3, 1).with_bias(false).init(&device);
/// head.weight = Param::from_tensor(Tensor::from_floats([[3.0], [-1.0], [2.0]], &device));
/// let x = Tensor::<2>::from_floats([[1.0, 2.0, -1.0]], &device);
/// let graph = Graph::trace(&head, |m, x| m.forward(relu(x)), &x)?;
/// assert_eq!(Deconvnet.explain(&graph, x, 0)?.to_vec()?, [3.0, 0.0, 2.0]);
/// # Ok::<(), saliency_core::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deconvnet;

impl Registered for Deconvnet {}

impl<const D: usize> Method<D> for Deconvnet {
    fn recipe(&self) -> Recipe {
        Recipe::Deconvnet(*self)
    }

    fn attribute(
        &self,
        model: &dyn Model<D>,
        input: &Tensor<D>,
        goal: &Goal,
        run: &Run,
    ) -> Result<Outcome<D>, Error> {
        let graph = inside(model, "deconvnet")?;
        Ok(passed_back(graph, input, goal, run, &rectified)?.into())
    }
}

/// The positive part of what arrives at a ReLU, whatever its input was.
pub(super) fn rectified(site: &Site, arrived: &Value) -> Result<Option<Vec<Option<Value>>>, Error> {
    Ok(is_relu(&site.node.op).then(|| vec![Some(arrived.relu())]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::methods::{
        cam::testing::{Reused, assert_splits_agree},
        testing::{assert_close, image},
    };

    /// The masks of the ReLUs do not matter, and nothing else looks at the activations.
    #[test]
    fn does_not_depend_on_the_input_of_a_network_without_pooling() {
        let graph = Reused::graph();
        let explain = |sample| {
            Deconvnet
                .explain(&graph, image(2, sample), 1)
                .unwrap()
                .values
        };
        assert_close(explain(1), explain(2), 1e-6);
    }

    #[test]
    fn does_not_depend_on_the_batch_split() {
        assert_splits_agree(&Deconvnet, 1e-5);
    }
}
