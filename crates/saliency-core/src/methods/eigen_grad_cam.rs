use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

use super::{cam::cam_builders, eigen_cam::projected};
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

/// The first principal component of a layer's activations times their gradients.
///
/// [`EigenCam`](crate::EigenCam) of A G, with activations A and gradients G = d f / d A, and so
/// of the target; pytorch-grad-cam's `EigenGradCAM`, which takes the
/// positive part (`eigen-grad-cam-pytorch-grad-cam`). Sign, layers, sizes and tokens as there.
///
/// ```
/// use burn::{module::Param, nn::LinearConfig, tensor::{Device, Tensor, activation::relu}};
/// use saliency_core::{EigenGradCam, Graph, Method};
///
/// let device = Device::flex();
/// let mut head = LinearConfig::new(2, 1).with_bias(false).init(&device);
/// head.weight = Param::from_tensor(Tensor::from_floats([[3.0], [0.0]], &device));
/// let x = Tensor::<3>::from_floats([[[1.0, 0.0], [0.0, 4.0], [3.0, 1.0]]], &device);
/// let graph = Graph::trace(&head, |m, x| m.forward(relu(x).mean_dim(1).flatten(1, 2)), &x)?;
/// // The second channel has no gradient, so the first one is all there is.
/// let map = EigenGradCam::new().layer("relu_1").centred(false).explain(&graph, x, 0)?;
/// for (value, want) in map.to_vec()?.iter().zip([1.0, 0.0, 3.0]) {
///     assert!((value - want).abs() < 1e-5);
/// }
/// # Ok::<(), saliency_core::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EigenGradCam {
    /// The layers.
    pub layers: Vec<Layer>,
    /// Whether the mean over the places is taken from each channel first.
    pub centred: bool,
    /// Whether only the positive part of each layer's map is kept.
    pub relu: bool,
    /// How maps are brought to the input's positions.
    pub resize: Resize,
}

impl Default for EigenGradCam {
    fn default() -> Self {
        EigenGradCam {
            layers: vec![Layer::default()],
            centred: true,
            relu: false,
            resize: Resize::default(),
        }
    }
}

cam_builders!(EigenGradCam = "eigen-grad-cam");

impl EigenGradCam {
    /// Whether the mean over the places is taken from each channel first.
    pub fn centred(mut self, centred: bool) -> Self {
        self.centred = centred;
        self
    }
}

impl Registered for EigenGradCam {
    fn is_non_negative(&self) -> bool {
        self.relu
    }
}

impl<const D: usize> Method<D> for EigenGradCam {
    fn recipe(&self) -> Recipe {
        Recipe::EigenGradCam(self.clone())
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
            projected(a * g, self.centred)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::methods::{
        cam::testing::{assert_splits_agree, assert_values, by_channel, graph},
        testing::image,
    };

    #[test]
    fn is_the_component_of_the_product() {
        let graph = graph();
        let (a, g) = by_channel(&graph, "relu_1", image(1, 2), 1);
        let product: Vec<f32> = (a.iter().flatten().zip(g.iter().flatten()))
            .map(|(a, g)| (a * g) as f32)
            .collect();
        let product = Tensor::<1>::from_floats(&product[..], graph.device());
        let want = projected(product.reshape([1, a.len(), a[0].len()]), true).unwrap();
        let want = want.try_into_vec_as::<f64>().unwrap();
        let cam = EigenGradCam::new().layer("relu_1");
        let map = cam.explain(&graph, image(1, 2), 1).unwrap();
        assert_values(map.values, &want, 1e-4);
    }

    #[test]
    fn does_not_depend_on_the_batch_split() {
        assert_splits_agree(&EigenGradCam::new(), 1e-4);
    }
}
