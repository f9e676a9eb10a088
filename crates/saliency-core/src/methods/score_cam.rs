use burn::tensor::{Int, Tensor, activation::softmax};
use serde::{Deserialize, Serialize};

use super::{
    cam::{Cam, cam_builders, mean, values_at},
    places::{Frame, Places},
};
use crate::{
    attribution::Outcome,
    error::Error,
    graph::{Graph, Layer, NodeId, inside},
    method::Method,
    model::Model,
    recipe::{Recipe, Registered},
    run::{Run, Stage, join},
    target::Goal,
    upsample::Resize,
};

/// What the scores of the masked inputs become in [`ScoreCam`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ScoreWeights {
    /// Their softmax over the channels, as in the paper's algorithm and in pytorch-grad-cam.
    #[default]
    Softmax,
    /// What each has more than an input of zeros: the paper's increase of confidence itself.
    Increase,
}

/// The channels of a layer, weighted by the score of the input under each as a mask.
///
/// s_c = f(x * mask_c), mask_c the activations A_c at the input's positions, scaled to 0..1
/// ((A_c - min) / (max - min + 1e-8)); map = ReLU(sum_c w_c A_c), w the [`ScoreWeights`] of s.
/// No gradients, and one forward pass for each channel. Wang et al., "Score-CAM:
/// Score-Weighted Visual Explanations for Convolutional Neural Networks" (2020),
/// <https://arxiv.org/abs/1910.01279>. Layers, sizes and tokens as for
/// [`GradCam`](crate::GradCam).
///
/// Of the channels, [`channels`](ScoreCam::channels) takes only those that vary most from place to
/// place, which saves the other passes: Faster-Score-CAM, `max_N` of tf-keras-vis;
/// `faster-score-cam` takes the 10 of its guide.
///
/// `score-cam-aligned` enlarges masks with aligned corners, as pytorch-grad-cam does.
///
/// ```
/// use burn::{module::Param, nn::LinearConfig, tensor::{Device, Tensor, activation::relu}};
/// use saliency_core::{Graph, Method, ScoreCam, ScoreWeights};
///
/// let device = Device::flex();
/// let mut head = LinearConfig::new(2, 1).with_bias(false).init(&device);
/// head.weight = Param::from_tensor(Tensor::from_floats([[3.0], [-1.5]], &device));
/// let x = Tensor::<3>::from_floats([[[1.0, 0.0], [0.0, 4.0], [2.0, 0.0]]], &device);
/// let graph = Graph::trace(&head, |m, x| m.forward(relu(x).mean_dim(1).flatten(1, 2)), &x)?;
/// // Masks (0.5, 0, 1) and (0, 1, 0) leave scores of 2.5 and -2.
/// let cam = ScoreCam::new().layer("relu_1").weights(ScoreWeights::Increase).relu(false);
/// let map = cam.explain(&graph, x, 0)?;
/// for (value, want) in map.to_vec()?.iter().zip([2.5, -8.0, 5.0]) {
///     assert!((value - want).abs() < 1e-5);
/// }
/// assert_eq!(map.evaluations.forward, 1 + 2 + 1);
/// # Ok::<(), saliency_core::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ScoreCam {
    /// The layers.
    pub layers: Vec<Layer>,
    /// What the scores become.
    pub weights: ScoreWeights,
    /// How masks are brought to the input's positions.
    pub masks: Resize,
    /// How many channels are scored, those of the largest standard deviation; all where absent.
    pub channels: Option<usize>,
    /// Whether only the positive part of each layer's map is kept.
    pub relu: bool,
    /// How maps are brought to the input's positions.
    pub resize: Resize,
}

impl Default for ScoreCam {
    fn default() -> Self {
        ScoreCam {
            layers: vec![Layer::default()],
            weights: ScoreWeights::default(),
            masks: Resize::default(),
            channels: None,
            relu: true,
            resize: Resize::default(),
        }
    }
}

cam_builders!(ScoreCam = "score-cam");

impl ScoreCam {
    /// What the scores become.
    pub fn weights(mut self, weights: ScoreWeights) -> Self {
        self.weights = weights;
        self
    }

    /// How masks are brought to the input's positions.
    pub fn masks(mut self, masks: Resize) -> Self {
        self.masks = masks;
        self
    }

    /// Scores only so many channels, those of the largest standard deviation.
    pub fn channels(mut self, channels: usize) -> Self {
        self.channels = Some(channels);
        self
    }

    /// Of `[rows, channels, places]`, the channels that are scored.
    fn chosen(&self, activations: Tensor<3>) -> Tensor<3> {
        let [rows, channels, places] = activations.dims();
        let Some(count) = self.channels.filter(|&count| count < channels) else {
            return activations;
        };
        let mean = activations.clone().mean_dim(2);
        let spread = (activations.clone() - mean).square().mean_dim(2);
        let most = spread.argtopk(count, 1);
        activations.gather(1, most.expand([rows, count, places]))
    }

    /// Weights `[rows, channels, 1]` of the channels of `activations`.
    fn weigh<const D: usize>(
        &self,
        graph: &Graph,
        frame: &Frame,
        places: &Places,
        activations: &Tensor<3>,
        (input, goal, run): (&Tensor<D>, &Goal, &Run),
    ) -> Result<Tensor<3>, Error> {
        let [rows, channels, len] = activations.dims();
        let total = rows * channels;
        let flat = activations.clone().reshape([total, 1, len]);
        let mut scores = Vec::new();
        run.batches(Stage::Scoring, total, run.rows(input), |range| {
            let count = range.len();
            let mask = places.unflatten(flat.clone().narrow(0, range.start, count));
            let mask: Tensor<D> = frame.spread(mask, self.masks);
            let of: Vec<usize> = range.map(|index| index / channels).collect();
            let indices: Vec<i32> = of.iter().map(|&row| row as i32).collect();
            let indices = Tensor::<1, Int>::from_ints(&indices[..], &input.device());
            let masked = input.clone().select(0, indices) * scaled(mask).cast(input.dtype());
            let outputs = run.call(graph, masked)?;
            scores.push(goal.pick(&of).scores(outputs)?);
            Ok(())
        })?;
        let scores = join(scores)
            .reshape([rows, channels])
            .cast(activations.dtype());
        let weights = match self.weights {
            ScoreWeights::Softmax => softmax(scores, 1),
            ScoreWeights::Increase => {
                let nothing = input.clone().narrow(0, 0, 1).zeros_like();
                let outputs = run.call(graph, nothing)?.repeat(&[rows, 1]);
                let least = goal.scores(outputs)?.cast(scores.dtype());
                scores - least.reshape([rows, 1])
            }
        };
        Ok(weights.reshape([rows, channels, 1]))
    }
}

/// Each row from 0 to 1.
fn scaled<const D: usize>(mask: Tensor<D>) -> Tensor<D> {
    let shape = mask.dims();
    let flat = mask.reshape([shape[0], shape[1..].iter().product()]);
    let least = flat.clone().min_dim(1);
    let range = flat.clone().max_dim(1) - least.clone() + 1e-8;
    ((flat - least) / range).reshape(shape)
}

impl Registered for ScoreCam {
    fn is_non_negative(&self) -> bool {
        self.relu
    }
}

impl<const D: usize> Method<D> for ScoreCam {
    fn recipe(&self) -> Recipe {
        Recipe::ScoreCam(self.clone())
    }

    fn validate(&self) -> Result<(), Error> {
        if self.channels == Some(0) {
            return Err(Error::option("channels", 0, "at least one is needed"));
        }
        self.cam().validate()
    }

    fn attribute(
        &self,
        model: &dyn Model<D>,
        input: &Tensor<D>,
        goal: &Goal,
        run: &Run,
    ) -> Result<Outcome<D>, Error> {
        let cam: Cam = self.cam();
        let graph = inside(model, cam.name)?;
        let (frame, places) = cam.places(graph)?;
        let ids: Vec<NodeId> = places.iter().map(|place| place.id).collect();
        let mut parts: Vec<Vec<Tensor<3>>> = vec![Vec::new(); places.len()];
        let (total, most) = (input.dims()[0], run.rows(input));
        run.without_progress()
            .batches(Stage::Attributing, total, most, |range| {
                let batch = input.clone().narrow(0, range.start, range.len());
                let values = values_at(graph, batch, &ids, run)?.into_iter();
                let found: Vec<_> = places.iter().zip(values).map(|(p, v)| p.split(v)).collect();
                for (parts, found) in parts.iter_mut().zip(found) {
                    parts.push(found);
                }
                Ok(())
            })?;
        let maps = places.iter().zip(parts).map(|(place, parts)| {
            let a = self.chosen(join(parts));
            let weights = self.weigh(graph, &frame, place, &a, (input, goal, run))?;
            Ok(cam.finish(&frame, place, (a * weights).sum_dim(1)))
        });
        Ok(mean(maps.collect::<Result<_, Error>>()?)?.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::methods::{
        cam::testing::{assert_splits_agree, assert_values, by_channel, graph, summed},
        testing::image,
    };

    /// Masks of the input's own size, made and scored one by one on the host.
    #[test]
    fn is_its_definition() {
        let graph = graph();
        let x = image(1, 2);
        let (a, _) = by_channel(&graph, "relu_1", x.clone(), 1);
        let score = |x: Tensor<4>| graph.forward(x).try_into_vec_as::<f64>().unwrap()[1];
        let scores: Vec<f64> = (a.iter())
            .map(|a| {
                let least = a.iter().copied().fold(f64::INFINITY, f64::min);
                let most = a.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let mask: Vec<f32> = a
                    .iter()
                    .map(|v| ((v - least) / (most - least)) as f32)
                    .collect();
                let mask = Tensor::<1>::from_floats(&mask[..], &x.device()).reshape([1, 1, 9, 8]);
                score(x.clone() * mask)
            })
            .collect();
        let sum: f64 = scores.iter().map(|s| s.exp()).sum();
        let nothing = score(x.zeros_like());
        for weights in [ScoreWeights::Softmax, ScoreWeights::Increase] {
            let weight = |c: usize| match weights {
                ScoreWeights::Softmax => scores[c].exp() / sum,
                ScoreWeights::Increase => scores[c] - nothing,
            };
            let want = summed(a.len(), a[0].len(), |c, p| weight(c) * a[c][p]);
            let cam = ScoreCam::new().layer("relu_1").weights(weights).relu(false);
            let map = cam.explain(&graph, x.clone(), 1).unwrap();
            assert_values(map.values, &want, 1e-5);
        }
    }

    /// The map of all channels but those that vary least, whose activations are set to zero and
    /// whose scores are left out of the softmax.
    #[test]
    fn few_channels_are_those_that_vary_most() {
        let graph = graph();
        let x = image(1, 2);
        let (a, _) = by_channel(&graph, "relu_1", x.clone(), 1);
        let spread = |a: &[f64]| {
            let mean = a.iter().sum::<f64>() / a.len() as f64;
            a.iter().map(|v| (v - mean).powi(2)).sum::<f64>()
        };
        let mut order: Vec<usize> = (0..a.len()).collect();
        order.sort_by(|&i, &j| spread(&a[j]).total_cmp(&spread(&a[i])));
        let score = |x: Tensor<4>| graph.forward(x).try_into_vec_as::<f64>().unwrap()[1];
        let scores: Vec<f64> = order[..2]
            .iter()
            .map(|&c| {
                let most = a[c].iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let least = a[c].iter().copied().fold(f64::INFINITY, f64::min);
                let mask: Vec<f32> = a[c]
                    .iter()
                    .map(|v| ((v - least) / (most - least)) as f32)
                    .collect();
                let mask = Tensor::<1>::from_floats(&mask[..], &x.device()).reshape([1, 1, 9, 8]);
                score(x.clone() * mask)
            })
            .collect();
        let sum: f64 = scores.iter().map(|s| s.exp()).sum();
        let want = summed(2, a[0].len(), |i, p| scores[i].exp() / sum * a[order[i]][p]);
        let cam = ScoreCam::new().layer("relu_1").channels(2).relu(false);
        let map = cam.explain(&graph, x.clone(), 1).unwrap();
        assert_eq!(map.evaluations.forward, 1 + 2);
        assert_values(map.values, &want, 1e-5);
        let all = ScoreCam::new().layer("relu_1").channels(100);
        let all = all.explain(&graph, x.clone(), 1).unwrap().to_vec();
        let plain = ScoreCam::new().layer("relu_1").explain(&graph, x, 1);
        assert_eq!(all.unwrap(), plain.unwrap().to_vec().unwrap());
    }

    #[test]
    fn does_not_depend_on_the_batch_split() {
        assert_splits_agree(&ScoreCam::new(), 1e-5);
        let cam = ScoreCam::new().layers(["relu_1", "twice"]);
        assert_splits_agree(&cam.weights(ScoreWeights::Increase), 1e-5);
    }
}
