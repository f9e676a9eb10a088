use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

use super::cam::cam_builders;
use crate::{
    attribution::Outcome,
    error::Error,
    graph::Layer,
    method::Method,
    model::Model,
    recipe::{Recipe, Registered},
    run::Run,
    target::Goal,
    upsample::Resize,
};

/// The product of a layer's activations and gradients, summed over channels.
///
/// map = sum_c A_c G_c at each place, with activations A and gradients G = d f / d A; no ReLU
/// by default, as in the paper; `hires-cam-pytorch-grad-cam` has one. Where a linear layer follows the activations (CAM
/// architectures), the map of the layer adds up to the score without its bias, place by place.
/// Draelos and Carin, "Use HiResCAM instead of Grad-CAM for faithful explanations of
/// convolutional neural networks" (2020), <https://arxiv.org/abs/2011.08891>. Layers, sizes and
/// tokens as for [`GradCam`](crate::GradCam).
///
/// ```
/// use burn::{module::Param, nn::LinearConfig, tensor::{Device, Tensor, activation::relu}};
/// use saliency_core::{HiResCam, Graph, Method};
///
/// let device = Device::flex();
/// let mut head = LinearConfig::new(2, 1).with_bias(false).init(&device);
/// head.weight = Param::from_tensor(Tensor::from_floats([[3.0], [-1.5]], &device));
/// let x = Tensor::<3>::from_floats([[[1.0, 0.0], [-2.0, 4.0], [3.0, -1.0]]], &device);
/// let graph = Graph::trace(&head, |m, x| m.forward(relu(x).mean_dim(1).flatten(1, 2)), &x)?;
/// let map = HiResCam::new().layer("relu_1").explain(&graph, x, 0)?;
/// assert_eq!(map.to_vec()?, [1.0, -2.0, 3.0]);
/// assert_eq!(map.scores, [2.0]);
/// # Ok::<(), saliency_core::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HiResCam {
    /// The layers.
    pub layers: Vec<Layer>,
    /// Whether only the positive part of each layer's map is kept.
    pub relu: bool,
    /// How maps are brought to the input's positions.
    pub resize: Resize,
}

impl Default for HiResCam {
    fn default() -> Self {
        HiResCam {
            layers: vec![Layer::default()],
            relu: false,
            resize: Resize::default(),
        }
    }
}

cam_builders!(HiResCam = "hires-cam");

impl Registered for HiResCam {
    fn is_non_negative(&self) -> bool {
        self.relu
    }
}

impl<const D: usize> Method<D> for HiResCam {
    fn recipe(&self) -> Recipe {
        Recipe::HiResCam(self.clone())
    }

    fn validate(&self) -> Result<(), Error> {
        self.cam().validate()
    }

    fn reads(&self) -> &[crate::Layer] {
        &self.layers
    }

    fn attribute(
        &self,
        model: &dyn Model<D>,
        input: &Tensor<D>,
        goal: &Goal,
        run: &Run,
    ) -> Result<Outcome<D>, Error> {
        self.cam()
            .of_gradients(model, input, goal, run, |a, g| Ok((a * g).sum_dim(1)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::methods::{
        cam::testing::{assert_splits_agree, assert_values, by_channel, graph, summed},
        testing::image,
    };

    #[test]
    fn is_its_definition() {
        let graph = graph();
        let (a, g) = by_channel(&graph, "relu_1", image(1, 2), 1);
        let want = summed(a.len(), a[0].len(), |c, p| a[c][p] * g[c][p]);
        let cam = HiResCam::new().layer("relu_1");
        let map = cam.explain(&graph, image(1, 2), 1).unwrap();
        assert_values(map.values, &want, 1e-5);
    }

    /// The last layer is followed by a mean and a linear layer.
    #[test]
    fn adds_up_to_the_score_before_a_linear_head() {
        let graph = graph();
        let map = HiResCam::new()
            .explain(&graph, image(2, 3), vec![0, 2])
            .unwrap();
        let bias = graph.parameters().find(|(path, _)| *path == "head.bias");
        let bias = bias.unwrap().1.to_vec().unwrap();
        let sums = map
            .values
            .sum_dims(&[1, 2, 3])
            .try_into_vec_as::<f64>()
            .unwrap();
        for ((sum, score), class) in sums.iter().zip(&map.scores).zip([0, 2]) {
            assert!(
                (sum + f64::from(bias[class]) - score).abs() < 1e-5,
                "{sum} {score}"
            );
        }
    }

    #[test]
    fn does_not_depend_on_the_batch_split() {
        assert_splits_agree(&HiResCam::new(), 1e-5);
        assert_splits_agree(&HiResCam::new().relu(false).layers(["stem", "add_1"]), 1e-5);
    }
}
