use burn::tensor::{Tensor, TensorData};
use serde::{Deserialize, Serialize};

use super::cam::cam_builders;
use crate::{
    attribution::Outcome,
    error::Error,
    graph::Layer,
    method::Method,
    model::Model,
    principal::first_component,
    recipe::{Recipe, Registered},
    run::Run,
    target::Goal,
    upsample::Resize,
};

/// The first principal component of a layer's activations: what varies most from place to
/// place, whatever the target.
///
/// With activations A `[channels, places]`, minus each channel's mean where `centred`:
/// map = v^T A, v the first left singular vector of A. Bany Muhammad and Yeasin, "Eigen-CAM:
/// Class Activation Map using Principal Components" (2020), <https://arxiv.org/abs/2008.00299>,
/// do not centre (`eigen-cam-uncentred`); pytorch-grad-cam does, and takes the positive part
/// (`eigen-cam-pytorch-grad-cam`).
///
/// A singular vector has no sign of its own. Here the largest |value| of each layer's map is
/// positive (Chung and Ying, "Seg-Eigen-CAM", 2025, <https://doi.org/10.3390/app15137562>);
/// numpy, and so pytorch-grad-cam, may have either. Layers, sizes and tokens as for
/// [`GradCam`](crate::GradCam).
///
/// ```
/// use burn::{nn::LinearConfig, tensor::{Device, Tensor, activation::relu}};
/// use saliency_core::{EigenCam, Graph, Method};
///
/// let device = Device::flex();
/// let head = LinearConfig::new(2, 1).init(&device);
/// // The second channel is twice the first one: there is one component, (1, 2) / sqrt 5.
/// let x = Tensor::<3>::from_floats([[[1.0, 2.0], [0.0, 0.0], [3.0, 6.0]]], &device);
/// let graph = Graph::trace(&head, |m, x| m.forward(relu(x).mean_dim(1).flatten(1, 2)), &x)?;
/// let map = EigenCam::new().layer("relu_1").centred(false).explain(&graph, x, 0)?;
/// for (value, want) in map.to_vec()?.iter().zip([1.0, 0.0, 3.0]) {
///     assert!((value - want * 5.0_f32.sqrt()).abs() < 1e-5);
/// }
/// # Ok::<(), saliency_core::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EigenCam {
    /// The layers.
    pub layers: Vec<Layer>,
    /// Whether the mean over the places is taken from each channel first.
    pub centred: bool,
    /// Whether only the positive part of each layer's map is kept.
    pub relu: bool,
    /// How maps are brought to the input's positions.
    pub resize: Resize,
}

impl Default for EigenCam {
    fn default() -> Self {
        EigenCam {
            layers: vec![Layer::default()],
            centred: true,
            relu: false,
            resize: Resize::default(),
        }
    }
}

cam_builders!(EigenCam = "eigen-cam");

impl EigenCam {
    /// Whether the mean over the places is taken from each channel first.
    pub fn centred(mut self, centred: bool) -> Self {
        self.centred = centred;
        self
    }
}

impl Registered for EigenCam {
    fn is_non_negative(&self) -> bool {
        self.relu
    }
}

impl<const D: usize> Method<D> for EigenCam {
    fn recipe(&self) -> Recipe {
        Recipe::EigenCam(self.clone())
    }

    fn validate(&self) -> Result<(), Error> {
        self.cam().validate()
    }

    fn attribute(
        &self,
        model: &dyn Model<D>,
        input: &Tensor<D>,
        _: &Goal,
        run: &Run,
    ) -> Result<Outcome<D>, Error> {
        self.cam()
            .of_activations(model, input, run, |a| projected(a, self.centred))
    }
}

/// Each row's first principal component, `[rows, 1, places]`.
pub(super) fn projected(x: Tensor<3>, centred: bool) -> Result<Tensor<3>, Error> {
    let [rows, channels, places] = x.dims();
    let (device, dtype) = (x.device(), x.dtype());
    let mut values = x.try_into_vec_as::<f64>().map_err(Error::device)?;
    if centred {
        for channel in values.chunks_mut(places) {
            let mean = channel.iter().sum::<f64>() / places as f64;
            channel.iter_mut().for_each(|v| *v -= mean);
        }
    }
    let maps: Vec<f64> = values
        .chunks(channels * places)
        .flat_map(|row| upright(first_component(row, places)))
        .collect();
    let maps = TensorData::new(maps, [rows, 1, places]).convert_dtype(dtype);
    Ok(Tensor::from_data(maps, (&device, dtype)))
}

/// With the sign that makes the largest absolute value positive.
fn upright(mut map: Vec<f64>) -> Vec<f64> {
    let most = map.iter().copied().fold(0.0, f64::max);
    let least = map.iter().copied().fold(0.0, f64::min);
    if -least > most {
        map.iter_mut().for_each(|v| *v = -*v);
    }
    map
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::methods::{
        cam::testing::{assert_splits_agree, by_channel, graph},
        testing::image,
    };

    /// No unit combination of the channels has a larger sum of squares than the map, and the
    /// map is such a combination: X^T X map = |map|^2 map.
    #[test]
    fn is_the_direction_of_most_variance() {
        let graph = graph();
        for centred in [true, false] {
            let (mut a, _) = by_channel(&graph, "relu_1", image(1, 2), 1);
            if centred {
                for channel in &mut a {
                    let mean = channel.iter().sum::<f64>() / channel.len() as f64;
                    channel.iter_mut().for_each(|v| *v -= mean);
                }
            }
            let cam = EigenCam::new().layer("relu_1").centred(centred);
            let map = cam.explain(&graph, image(1, 2), 1).unwrap();
            let map = map.values.try_into_vec_as::<f64>().unwrap();
            let dot = |a: &[f64], b: &[f64]| -> f64 { a.iter().zip(b).map(|(a, b)| a * b).sum() };
            let square = dot(&map, &map);
            for channel in &a {
                assert!(dot(channel, channel) <= square * (1.0 + 1e-5));
            }
            for place in 0..map.len() {
                let again: f64 = a.iter().map(|c| dot(c, &map) * c[place]).sum();
                let error = (again - square * map[place]).abs();
                assert!(
                    error < 1e-4 * square * square.sqrt(),
                    "{again} {}",
                    square * map[place]
                );
            }
            let largest = map
                .iter()
                .copied()
                .max_by(|a, b| a.abs().total_cmp(&b.abs()));
            assert!(largest.unwrap() > 0.0);
        }
    }

    #[test]
    fn does_not_depend_on_the_batch_split() {
        assert_splits_agree(&EigenCam::new(), 1e-5);
    }
}
