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

/// The activations of a layer, weighted place by place by their positive gradients.
///
/// map = ReLU(sum_c ReLU(G_c) A_c), with activations A and gradients G = d f / d A. It keeps
/// detail at early layers, too. Jiang et al., "LayerCAM: Exploring Hierarchical Class Activation
/// Maps for Localization" (2021), <https://ieeexplore.ieee.org/document/9462463>. Layers, sizes
/// and tokens as for [`GradCam`](crate::GradCam).
///
/// ```
/// use burn::{module::Param, nn::LinearConfig, tensor::{Device, Tensor, activation::relu}};
/// use saliency_core::{LayerCam, Graph, Method};
///
/// let device = Device::flex();
/// let mut head = LinearConfig::new(2, 1).with_bias(false).init(&device);
/// head.weight = Param::from_tensor(Tensor::from_floats([[3.0], [-1.5]], &device));
/// let x = Tensor::<3>::from_floats([[[1.0, 0.0], [-2.0, 4.0], [3.0, -1.0]]], &device);
/// let graph = Graph::trace(&head, |m, x| m.forward(relu(x).mean_dim(1).flatten(1, 2)), &x)?;
/// let map = LayerCam::new().layer("relu_1").explain(&graph, x, 0)?;
/// assert_eq!(map.to_vec()?, [1.0, 0.0, 3.0]);
/// # Ok::<(), saliency_core::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LayerCam {
    /// The layers.
    pub layers: Vec<Layer>,
    /// Whether only the positive part of each layer's map is kept.
    pub relu: bool,
    /// How maps are brought to the input's positions.
    pub resize: Resize,
}

impl Default for LayerCam {
    fn default() -> Self {
        LayerCam {
            layers: vec![Layer::default()],
            relu: true,
            resize: Resize::default(),
        }
    }
}

cam_builders!(LayerCam = "layer-cam");

impl Registered for LayerCam {
    fn is_non_negative(&self) -> bool {
        self.relu
    }
}

impl<const D: usize> Method<D> for LayerCam {
    fn recipe(&self) -> Recipe {
        Recipe::LayerCam(self.clone())
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
        self.cam().of_gradients(model, input, goal, run, |a, g| {
            Ok((a * g.clamp_min(0.0)).sum_dim(1))
        })
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
        let (a, g) = by_channel(&graph, "norm", image(1, 2), 1);
        let want = summed(a.len(), a[0].len(), |c, p| a[c][p] * g[c][p].max(0.0));
        let cam = LayerCam::new().layer("norm").relu(false);
        let map = cam.explain(&graph, image(1, 2), 1).unwrap();
        assert_values(map.values, &want, 1e-5);
        let want: Vec<f64> = want.iter().map(|v| v.max(0.0)).collect();
        let map = cam.relu(true).explain(&graph, image(1, 2), 1).unwrap();
        assert_values(map.values, &want, 1e-5);
    }

    #[test]
    fn does_not_depend_on_the_batch_split() {
        assert_splits_agree(&LayerCam::new(), 1e-5);
        assert_splits_agree(&LayerCam::new().relu(false).layers(["stem", "add_1"]), 1e-5);
    }
}
