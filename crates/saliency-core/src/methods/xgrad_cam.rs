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

/// The channels of a layer, weighted by the share of each place in its gradients.
///
/// w_c = sum over places of A_c G_c / (sum over places of A_c + 1e-7), map = ReLU(sum_c w_c A_c)
/// with activations A and gradients G = d f / d A. Without the ReLU, the map of the layer adds
/// up to the sum of A G, which is the score itself where the rest of the network is
/// homogeneous. Fu et al., "Axiom-based Grad-CAM" (2020), <https://arxiv.org/abs/2008.02312>.
/// Layers, sizes and tokens as for [`GradCam`](crate::GradCam).
///
/// A channel whose activations cancel makes a very large weight; take a layer after a ReLU.
///
/// ```
/// use burn::{module::Param, nn::LinearConfig, tensor::{Device, Tensor, activation::relu}};
/// use saliency_core::{XGradCam, Graph, Method};
///
/// let device = Device::flex();
/// let mut head = LinearConfig::new(2, 1).with_bias(false).init(&device);
/// head.weight = Param::from_tensor(Tensor::from_floats([[3.0], [-1.5]], &device));
/// let x = Tensor::<3>::from_floats([[[1.0, 0.0], [-2.0, 4.0], [3.0, -1.0]]], &device);
/// let graph = Graph::trace(&head, |m, x| m.forward(relu(x).mean_dim(1).flatten(1, 2)), &x)?;
/// let map = XGradCam::new().layer("relu_1").relu(false).explain(&graph, x, 0)?;
/// // The gradient is the same at all places: 1 for the first channel, -0.5 for the second.
/// for (value, want) in map.to_vec()?.iter().zip([1.0, -2.0, 3.0]) {
///     assert!((value - want).abs() < 1e-5);
/// }
/// # Ok::<(), saliency_core::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct XGradCam {
    /// The layers.
    pub layers: Vec<Layer>,
    /// Whether only the positive part of each layer's map is kept.
    pub relu: bool,
    /// How maps are brought to the input's positions.
    pub resize: Resize,
}

impl Default for XGradCam {
    fn default() -> Self {
        XGradCam {
            layers: vec![Layer::default()],
            relu: true,
            resize: Resize::default(),
        }
    }
}

cam_builders!(XGradCam = "xgrad-cam");

impl Registered for XGradCam {
    fn is_non_negative(&self) -> bool {
        self.relu
    }
}

impl<const D: usize> Method<D> for XGradCam {
    fn recipe(&self) -> Recipe {
        Recipe::XGradCam(self.clone())
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
            let shares = (a.clone() * g).sum_dim(2) / (a.clone().sum_dim(2) + 1e-7);
            Ok((a * shares).sum_dim(1))
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

    /// The map adds up to the sum of activations times gradients.
    #[test]
    fn is_its_definition() {
        let graph = graph();
        let (a, g) = by_channel(&graph, "relu_1", image(1, 2), 1);
        let products: Vec<f64> = (a.iter().zip(&g))
            .map(|(a, g)| a.iter().zip(g).map(|(a, g)| a * g).sum())
            .collect();
        let weight = |c: usize| products[c] / (a[c].iter().sum::<f64>() + 1e-7);
        let want = summed(a.len(), a[0].len(), |c, p| weight(c) * a[c][p]);
        let cam = XGradCam::new().layer("relu_1").relu(false);
        let map = cam.explain(&graph, image(1, 2), 1).unwrap().values;
        let sum = map.clone().sum().try_into_scalar::<f64>().unwrap();
        assert!((sum - products.iter().sum::<f64>()).abs() < 1e-4, "{sum}");
        assert_values(map, &want, 1e-5);
    }

    #[test]
    fn does_not_depend_on_the_batch_split() {
        assert_splits_agree(&XGradCam::new(), 1e-5);
        assert_splits_agree(&XGradCam::new().relu(false).layers(["stem", "add_1"]), 1e-5);
    }
}
