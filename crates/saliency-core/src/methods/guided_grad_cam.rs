use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

use super::{GradCam, GuidedBackprop, cam::cam_builders};
use crate::{
    attribution::Outcome,
    error::Error,
    graph::{Layer, inside},
    method::Method,
    model::Model,
    recipe::{Recipe, Registered},
    run::Run,
    target::Goal,
    upsample::Resize,
};

/// Guided Backprop times Grad-CAM at the input's positions.
///
/// values = [`GuidedBackprop`](crate::GuidedBackprop) * [`GradCam`](crate::GradCam), shaped
/// like the input: fine detail where the coarse map is high. Selvaraju et al., "Grad-CAM"
/// (2017), <https://arxiv.org/abs/1610.02391>. Layers and sizes as for Grad-CAM.
///
/// `guided-grad-cam-nearest` enlarges the coarse map as Captum's `GuidedGradCam` does by
/// default.
///
/// ```
/// use burn::{module::Param, nn::LinearConfig, tensor::{Device, Tensor, activation::relu}};
/// use saliency_core::{Graph, GuidedGradCam, Method};
///
/// let device = Device::flex();
/// let mut head = LinearConfig::new(2, 1).with_bias(false).init(&device);
/// head.weight = Param::from_tensor(Tensor::from_floats([[3.0], [-1.5]], &device));
/// let x = Tensor::<3>::from_floats([[[1.0, 0.0], [-2.0, 4.0], [3.0, -1.0]]], &device);
/// let graph = Graph::trace(&head, |m, x| m.forward(relu(x).mean_dim(1).flatten(1, 2)), &x)?;
/// let map = GuidedGradCam::new().layer("relu_1").explain(&graph, x, 0)?;
/// assert_eq!(map.to_vec()?, [1.0, 0.0, 0.0, 0.0, 3.0, 0.0]);
/// # Ok::<(), saliency_core::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GuidedGradCam {
    /// The layers of the Grad-CAM.
    pub layers: Vec<Layer>,
    /// Whether only the positive part of the Grad-CAM is kept.
    pub relu: bool,
    /// How the Grad-CAM is brought to the input's positions.
    pub resize: Resize,
}

impl Default for GuidedGradCam {
    fn default() -> Self {
        GuidedGradCam {
            layers: vec![Layer::default()],
            relu: true,
            resize: Resize::default(),
        }
    }
}

cam_builders!(GuidedGradCam = "guided-grad-cam");

impl Registered for GuidedGradCam {}

impl<const D: usize> Method<D> for GuidedGradCam {
    fn recipe(&self) -> Recipe {
        Recipe::GuidedGradCam(self.clone())
    }

    fn validate(&self) -> Result<(), Error> {
        self.cam().validate()
    }

    fn attribute(
        &self,
        model: &dyn Model<D>,
        input: &Tensor<D>,
        goal: &Goal,
        run: &Run,
    ) -> Result<Outcome<D>, Error> {
        inside(model, self.cam().name)?;
        let coarse = GradCam {
            layers: self.layers.clone(),
            relu: self.relu,
            resize: self.resize,
        };
        let quiet = run.without_progress();
        let coarse = coarse.attribute(model, input, goal, &quiet)?.values;
        let fine = GuidedBackprop.attribute(model, input, goal, run)?.values;
        let dtype = fine.dtype();
        Ok((fine * coarse.cast(dtype)).into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::methods::{
        cam::testing::{Reused, assert_splits_agree},
        testing::{assert_close, image},
    };

    #[test]
    fn is_the_product_of_the_two() {
        let graph = Reused::graph();
        let fine = GuidedBackprop
            .explain(&graph, image(2, 1), 1)
            .unwrap()
            .values;
        let coarse = GradCam::new()
            .layer("relu_1")
            .explain(&graph, image(2, 1), 1);
        let map = GuidedGradCam::new()
            .layer("relu_1")
            .explain(&graph, image(2, 1), 1);
        assert_close(map.unwrap().values, fine * coarse.unwrap().values, 1e-6);
    }

    #[test]
    fn does_not_depend_on_the_batch_split() {
        assert_splits_agree(&GuidedGradCam::new(), 1e-5);
    }
}
