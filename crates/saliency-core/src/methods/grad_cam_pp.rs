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

/// How the places of a channel are weighted in [`GradCamPlusPlus`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Alphas {
    /// alpha = G^2 / (2 G^2 + S G^3 + 1e-6), S the sum of the channel's activations: equation
    /// 19 of the paper, as pytorch-grad-cam has it.
    #[default]
    Plain,
    /// alpha = G^2 / (2 G^2 + S G^3), divided by its sum over the channel's places, as
    /// tf-keras-vis has it. (Its maps have the factor exp(f) besides, which scales a whole row.)
    Normalised,
}

/// The channels of a layer, weighted by their positive gradients where few places have them.
///
/// w_c = sum over places of alpha_c ReLU(G_c), map = ReLU(sum_c w_c A_c), with activations A,
/// gradients G = d f / d A and [`Alphas`] alpha. Chattopadhyay et al., "Grad-CAM++: Generalized
/// Gradient-based Visual Explanations for Deep Convolutional Networks" (2018),
/// <https://arxiv.org/abs/1710.11063>. Layers, sizes and tokens as for
/// [`GradCam`](crate::GradCam).
///
/// ```
/// use burn::{module::Param, nn::LinearConfig, tensor::{Device, Tensor, activation::relu}};
/// use saliency_core::{GradCamPlusPlus, Graph, Method};
///
/// let device = Device::flex();
/// let mut head = LinearConfig::new(2, 1).with_bias(false).init(&device);
/// head.weight = Param::from_tensor(Tensor::from_floats([[3.0], [-1.5]], &device));
/// let x = Tensor::<3>::from_floats([[[1.0, 0.0], [-2.0, 4.0], [3.0, -1.0]]], &device);
/// let graph = Graph::trace(&head, |m, x| m.forward(relu(x).mean_dim(1).flatten(1, 2)), &x)?;
/// let map = GradCamPlusPlus::new().layer("relu_1").explain(&graph, x, 0)?;
/// // alpha = 1 / (2 + 4) at each of three places of the first channel, whose gradient is 1.
/// for (value, want) in map.to_vec()?.iter().zip([0.5, 0.0, 1.5]) {
///     assert!((value - want).abs() < 1e-5);
/// }
/// # Ok::<(), saliency_core::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GradCamPlusPlus {
    /// The layers.
    pub layers: Vec<Layer>,
    /// How places are weighted.
    pub alphas: Alphas,
    /// Whether only the positive part of each layer's map is kept.
    pub relu: bool,
    /// How maps are brought to the input's positions.
    pub resize: Resize,
}

impl Default for GradCamPlusPlus {
    fn default() -> Self {
        GradCamPlusPlus {
            layers: vec![Layer::default()],
            alphas: Alphas::default(),
            relu: true,
            resize: Resize::default(),
        }
    }
}

cam_builders!(GradCamPlusPlus = "grad-cam++");

impl GradCamPlusPlus {
    /// How places are weighted.
    pub fn alphas(mut self, alphas: Alphas) -> Self {
        self.alphas = alphas;
        self
    }
}

impl Registered for GradCamPlusPlus {
    fn is_non_negative(&self) -> bool {
        self.relu
    }
}

impl<const D: usize> Method<D> for GradCamPlusPlus {
    fn recipe(&self) -> Recipe {
        Recipe::GradCamPlusPlus(self.clone())
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
            let alphas = self.alphas.of(a.clone(), g.clone());
            let weights = (alphas * g.clamp_min(0.0)).sum_dim(2);
            Ok((a * weights).sum_dim(1))
        })
    }
}

impl Alphas {
    fn of(self, a: Tensor<3>, g: Tensor<3>) -> Tensor<3> {
        let square = g.clone().square();
        let below = square.clone() * 2.0 + a.sum_dim(2) * square.clone() * g;
        match self {
            Alphas::Plain => square / (below + 1e-6),
            Alphas::Normalised => {
                let alphas = nonzero(square.clone(), below);
                let sum = alphas.clone().sum_dim(2);
                nonzero(alphas, sum)
            }
        }
    }
}

/// a / b, and zero where b is zero.
fn nonzero(a: Tensor<3>, b: Tensor<3>) -> Tensor<3> {
    let zero = b.clone().equal_elem(0.0);
    let [rows, channels, places] = a.dims();
    let quotient = a / b.mask_fill(zero.clone(), 1.0);
    quotient.mask_fill(zero.expand([rows, channels, places]), 0.0)
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
        for alphas in [Alphas::Plain, Alphas::Normalised] {
            let weights: Vec<f64> = (a.iter().zip(&g))
                .map(|(a, g)| {
                    let sum: f64 = a.iter().sum();
                    let epsilon = if alphas == Alphas::Plain { 1e-6 } else { 0.0 };
                    let alpha = |g: f64| match g {
                        0.0 => 0.0,
                        g => g * g / (2.0 * g * g + sum * g * g * g + epsilon),
                    };
                    let total: f64 = match alphas {
                        Alphas::Plain => 1.0,
                        Alphas::Normalised => g.iter().map(|&g| alpha(g)).sum(),
                    };
                    g.iter().map(|&g| alpha(g) / total * g.max(0.0)).sum()
                })
                .collect();
            let want = summed(a.len(), a[0].len(), |c, p| weights[c] * a[c][p]);
            let cam = GradCamPlusPlus::new()
                .layer("relu_1")
                .alphas(alphas)
                .relu(false);
            let map = cam.explain(&graph, image(1, 2), 1).unwrap();
            assert_values(map.values, &want, 1e-4);
        }
    }

    /// A layer whose gradient is zero at many places, and altogether.
    #[test]
    fn zero_gradients_are_no_division_by_zero() {
        let graph = graph();
        for alphas in [Alphas::Plain, Alphas::Normalised] {
            let cam = GradCamPlusPlus::new().layer("norm").alphas(alphas);
            let map = cam.explain(&graph, image(1, 2).zeros_like() - 50.0, 1);
            assert!(map.is_ok(), "{map:?}");
        }
    }

    #[test]
    fn does_not_depend_on_the_batch_split() {
        for alphas in [Alphas::Plain, Alphas::Normalised] {
            assert_splits_agree(&GradCamPlusPlus::new().alphas(alphas), 1e-5);
        }
    }
}
