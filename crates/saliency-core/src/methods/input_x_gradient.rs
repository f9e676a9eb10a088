use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

use crate::{
    attribution::Outcome,
    error::Error,
    method::Method,
    methods::Gradient,
    model::Model,
    recipe::{Recipe, Registered},
    run::Run,
    target::Goal,
};

/// The input times the gradient: x * d f / d x.
///
/// Shrikumar, Greenside and Kundaje, "Not Just a Black Box" (2016),
/// <https://arxiv.org/abs/1605.01713>. For a network that is piecewise linear without
/// biases its values add up to the score.
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use saliency_core::{InputXGradient, Method, Target};
/// let cubes = |x: Tensor<2>| x.powi_scalar(3).sum_dim(1);
/// let x = Tensor::<2>::from_floats([[1.0, -2.0]], &Device::flex());
/// let map = InputXGradient.explain(&cubes, x, Target::Regression)?;
/// assert_eq!(map.to_vec()?, [3.0, -24.0]);
/// # Ok::<(), saliency_core::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct InputXGradient;

impl Registered for InputXGradient {}

impl<const D: usize> Method<D> for InputXGradient {
    fn recipe(&self) -> Recipe {
        Recipe::InputXGradient(*self)
    }

    fn attribute(
        &self,
        model: &dyn Model<D>,
        input: &Tensor<D>,
        goal: &Goal,
        run: &Run,
    ) -> Result<Outcome<D>, Error> {
        let gradient = Gradient.attribute(model, input, goal, run)?.values;
        Ok((gradient * input.clone()).into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::methods::testing::{Net, assert_splits_agree, image};
    use burn::tensor::Device;

    /// Euler's theorem: a bias-free ReLU network is homogeneous of degree one.
    #[test]
    fn is_complete_for_a_bias_free_relu_network() {
        let net = Net::bias_free(&Device::flex());
        let map = InputXGradient
            .explain(&net, image(3, 2), vec![0, 1, 2])
            .unwrap();
        let sums = map
            .values
            .sum_dims(&[1, 2, 3])
            .try_into_vec_as::<f32>()
            .unwrap();
        for (sum, score) in sums.iter().zip(&map.scores) {
            assert!(
                (*sum as f64 - score).abs() < 1e-5 * score.abs().max(1.0),
                "{sum} {score}"
            );
        }
    }

    #[test]
    fn does_not_depend_on_the_batch_split() {
        assert_splits_agree(&InputXGradient, 1e-6);
    }
}
