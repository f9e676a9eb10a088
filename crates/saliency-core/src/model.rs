use burn::tensor::{Tensor, activation};

use crate::graph::Graph;

/// A model is a function from a batch of inputs to a batch of outputs.
///
/// Input `[rows, ...]` of rank `D`, output `[rows, outputs]`: logits for a classifier, one
/// column for a regression. Each output row must depend on its own input row alone.
///
/// Closures are models, so any Burn module is one too, unchanged:
///
/// ```
/// use burn::{nn::LinearConfig, tensor::{Device, Tensor}};
/// use saliency_core::{Gradient, Method, Target};
///
/// let device = Device::flex();
/// let net = LinearConfig::new(4, 3).init(&device);
/// let x = Tensor::<2>::ones([1, 4], &device);
/// let map = Gradient.explain(&|x: Tensor<2>| net.forward(x), x, Target::Class(2))?;
/// // The gradient of a linear layer is its weight column.
/// let weight = net.weight.val().slice([0..4, 2..3]).transpose();
/// map.values.into_data().assert_approx_eq::<f32>(&weight.into_data(), Default::default());
/// # Ok::<(), saliency_core::Error>(())
/// ```
///
/// Give models **in inference mode with plain weights** (`module.valid()`): then no gradient
/// of a weight is computed, which takes about half the time and memory.
pub trait Model<const D: usize> {
    /// Maps inputs `[rows, ...]` to outputs `[rows, outputs]`.
    fn forward(&self, input: Tensor<D>) -> Tensor<2>;

    /// The inside of the model, for methods that look at layers; closures have none.
    fn graph(&self) -> Option<&Graph> {
        None
    }
}

impl<const D: usize, F> Model<D> for F
where
    F: Fn(Tensor<D>) -> Tensor<2>,
{
    fn forward(&self, input: Tensor<D>) -> Tensor<2> {
        self(input)
    }
}

/// Explains softmax probabilities instead of logits.
///
/// Logits are the default throughout, because a probability also rises when *other* classes
/// fall. Wrap the model in this where the probability itself is what is asked.
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use saliency_core::{Model, Probabilities};
///
/// let identity = |x: Tensor<2>| x;
/// let p = Probabilities(&identity).forward(Tensor::from_floats([[0.0, 0.0]], &Device::flex()));
/// assert_eq!(p.try_into_vec_as::<f32>().unwrap(), [0.5, 0.5]);
/// ```
///
/// Of a [`Graph`] it has the layers too, and a softmax named `probabilities` after them, so that
/// methods which look inside explain the probability.
#[derive(Clone, Copy, Debug)]
pub struct Probabilities<'a, M: ?Sized>(pub &'a M);

impl<const D: usize, M: Model<D> + ?Sized> Model<D> for Probabilities<'_, M> {
    fn forward(&self, input: Tensor<D>) -> Tensor<2> {
        activation::softmax(self.0.forward(input), 1)
    }

    fn graph(&self) -> Option<&Graph> {
        self.0.graph().map(Graph::probabilities)
    }
}
