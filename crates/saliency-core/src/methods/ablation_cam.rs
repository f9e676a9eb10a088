use burn::tensor::{Tensor, TensorData};
use serde::{Deserialize, Serialize};

use super::{
    cam::{cam_builders, mean, values_at},
    places::Places,
};
use crate::{
    attribution::{Evaluations, Outcome},
    error::Error,
    graph::{Graph, Layer, NodeId, Size, Value, inside},
    method::Method,
    model::Model,
    recipe::{Recipe, Registered},
    run::{Run, Stage, guarded, join},
    target::Goal,
    upsample::Resize,
};

/// What the drops of the score become in [`AblationCam`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ScoreDrop {
    /// Divided by the score, as in the paper and in pytorch-grad-cam. A negative score turns
    /// every sign around.
    #[default]
    Relative,
    /// As they are: (f - f_c).
    Absolute,
}

/// What a channel is set to in [`AblationCam`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ChannelFill {
    /// Zero, as in the paper.
    #[default]
    Zero,
    /// Zero where the layer's smallest value is zero, as after a ReLU; elsewhere 10,000,000 below
    /// the smallest, as in pytorch-grad-cam with a `batch_size` of 1. (In larger batches it goes
    /// down by as much again for each channel of a batch, so that its values depend on the
    /// batches.)
    BelowMinimum,
}

/// The channels of a layer, weighted by how far the score drops without each.
///
/// w_c = (f - f_c) / f, f_c the score with channel c of the layer set to zero; map =
/// ReLU(sum_c w_c A_c) with activations A. No gradients; the network is run from the layer on
/// only, once for each channel. Desai and Ramaswamy, "Ablation-CAM: Visual Explanations for
/// Deep Convolutional Network via Gradient-free Localization" (2020),
/// <https://doi.org/10.1109/WACV45572.2020.9093360>. Layers, sizes and tokens as for
/// [`GradCam`](crate::GradCam); a channel of tokens is set to zero in all of them.
///
/// `ablation-cam-pytorch-grad-cam` sets channels to what pytorch-grad-cam does, zero after a ReLU
/// and far below the smallest value elsewhere ([`ChannelFill::BelowMinimum`]).
///
/// ```
/// use burn::{module::Param, nn::LinearConfig, tensor::{Device, Tensor, activation::relu}};
/// use saliency_core::{AblationCam, Graph, Method};
///
/// let device = Device::flex();
/// let mut head = LinearConfig::new(2, 1).with_bias(false).init(&device);
/// head.weight = Param::from_tensor(Tensor::from_floats([[3.0], [-1.5]], &device));
/// let x = Tensor::<3>::from_floats([[[1.0, 0.0], [0.0, 4.0], [3.0, 0.0]]], &device);
/// let graph = Graph::trace(&head, |m, x| m.forward(relu(x).mean_dim(1).flatten(1, 2)), &x)?;
/// // Of the score 4 - 2, the channels have 4 and -2.
/// let map = AblationCam::new().layer("relu_1").relu(false).explain(&graph, x, 0)?;
/// for (value, want) in map.to_vec()?.iter().zip([2.0, -4.0, 6.0]) {
///     assert!((value - want).abs() < 1e-5);
/// }
/// # Ok::<(), saliency_core::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AblationCam {
    /// The layers.
    pub layers: Vec<Layer>,
    /// What the drops become.
    pub drop: ScoreDrop,
    /// What a channel is set to.
    pub fill: ChannelFill,
    /// Whether only the positive part of each layer's map is kept.
    pub relu: bool,
    /// How maps are brought to the input's positions.
    pub resize: Resize,
}

impl Default for AblationCam {
    fn default() -> Self {
        AblationCam {
            layers: vec![Layer::default()],
            drop: ScoreDrop::default(),
            fill: ChannelFill::default(),
            relu: true,
            resize: Resize::default(),
        }
    }
}

cam_builders!(AblationCam = "ablation-cam");

impl AblationCam {
    /// What the drops become.
    pub fn drop(mut self, drop: ScoreDrop) -> Self {
        self.drop = drop;
        self
    }

    /// What a channel is set to.
    pub fn fill(mut self, fill: ChannelFill) -> Self {
        self.fill = fill;
        self
    }
}

impl Registered for AblationCam {
    fn is_non_negative(&self) -> bool {
        self.relu
    }
}

impl<const D: usize> Method<D> for AblationCam {
    fn recipe(&self) -> Recipe {
        Recipe::AblationCam(self.clone())
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
        let cam = self.cam();
        let graph = inside(model, cam.name)?;
        let (frame, places) = cam.places(graph)?;
        let maps = places.iter().map(|place| {
            let tail = Tail::new(graph, place, self.fill);
            let rows: Vec<Tensor<D>> = (0..input.dims()[0])
                .map(|row| {
                    let x = input.clone().narrow(0, row, 1);
                    let (a, drops, score) = tail.drops(x, input.dims()[0], row, goal, run)?;
                    let weights = match self.drop {
                        ScoreDrop::Absolute => drops,
                        ScoreDrop::Relative if score == 0.0 => {
                            let requirement = "the score of a row is zero; take absolute drops";
                            return Err(Error::option("drop", "relative", requirement));
                        }
                        ScoreDrop::Relative => drops.div_scalar(score),
                    };
                    Ok(cam.finish(&frame, place, (a * weights).sum_dim(1)))
                })
                .collect::<Result<_, Error>>()?;
            Ok(join(rows))
        });
        Ok(mean(maps.collect::<Result<_, Error>>()?)?.into())
    }
}

impl ChannelFill {
    /// For the values of one row.
    fn of(self, values: &Value) -> Result<f64, Error> {
        const BELOW: f64 = 1e7;
        let least = match self {
            ChannelFill::Zero => 0.0,
            ChannelFill::BelowMinimum => {
                let elements: usize = values.shape().iter().product();
                let flat = values.clone().reshape(&[elements]).tensor::<1>();
                flat.min().try_into_scalar::<f64>().map_err(Error::device)?
            }
        };
        Ok(if least == 0.0 { 0.0 } else { least - BELOW })
    }
}

/// What follows a layer, and what else it reads of the network before.
struct Tail<'a> {
    graph: &'a Graph,
    places: &'a Places,
    /// The layer, then all others that are read beside it, each with the axis of its rows.
    cut: Vec<(NodeId, usize)>,
    fill: ChannelFill,
}

impl<'a> Tail<'a> {
    fn new(graph: &'a Graph, places: &'a Places, fill: ChannelFill) -> Self {
        let after = graph.dependents(places.id);
        let from_input = graph.dependents(graph.input());
        let mut cut = vec![places.id];
        for (id, node) in graph.nodes() {
            if id == places.id || !after[id.0] {
                continue;
            }
            for &input in &node.inputs {
                if from_input[input.0] && !after[input.0] && !cut.contains(&input) {
                    cut.push(input);
                }
            }
        }
        let of_rows = |size: &Size| matches!(size, Size::Rows(_));
        let axis = |id: NodeId| graph.node(id).shape.iter().position(of_rows);
        Tail {
            graph,
            places,
            fill,
            cut: cut.iter().map(|&id| (id, axis(id).unwrap_or(0))).collect(),
        }
    }

    /// For one row: its activations, how far the score drops without each channel
    /// `[1, channels, 1]`, and the score.
    fn drops<const D: usize>(
        &self,
        x: Tensor<D>,
        rows: usize,
        row: usize,
        goal: &Goal,
        run: &Run,
    ) -> Result<(Tensor<3>, Tensor<3>, f64), Error> {
        let memory = run.rows(&x);
        let mut wanted: Vec<NodeId> = self.cut.iter().map(|(id, _)| *id).collect();
        wanted.push(self.graph.output());
        let mut values = values_at(self.graph, x, &wanted, run)?;
        let outputs = values.pop().map(Value::tensor::<2>);
        let outputs = outputs.ok_or(Error::NotDifferentiable)?;
        let score = goal.pick(&[row]).scores(outputs.clone())?;
        let shape = values[0].shape();
        let channels = shape[self.places.channel];
        let fill = self.fill.of(&values[0])?;
        let mut left = Vec::new();
        run.without_progress()
            .batches(Stage::Scoring, channels, memory, |range| {
                let count = range.len();
                let feeds: Vec<(NodeId, Value)> = (self.cut.iter().zip(&values))
                    .enumerate()
                    .map(|(i, (&(id, axis), value))| {
                        let copies = Value::cat(vec![value.clone(); count], axis);
                        match i {
                            0 => {
                                let kept = self.without(range.clone(), &copies);
                                let filled = kept.times(-fill).plus(fill);
                                (id, &(&copies * &kept) + &filled)
                            }
                            _ => (id, copies),
                        }
                    })
                    .collect();
                run.count(Evaluations {
                    forward: count,
                    gradient: 0,
                });
                let outputs = guarded(&shape, || {
                    self.graph
                        .evaluate(&feeds, &[self.graph.output()])
                        .remove(0)
                })?;
                left.push(goal.pick(&vec![row; count]).scores(outputs.tensor())?);
                run.report(Stage::Scoring, row * channels + range.end, rows * channels)
            })?;
        let drops = score.clone() - join(left);
        let activations = self.places.split(values.remove(0));
        let drops = drops.reshape([1, channels, 1]).cast(activations.dtype());
        let score = score.try_into_vec_as::<f64>().map_err(Error::device)?[0];
        Ok((activations, drops, score))
    }

    /// Ones, and zeros at another channel in each row.
    fn without(&self, channels: std::ops::Range<usize>, like: &Value) -> Value {
        let mut shape = vec![1; like.rank()];
        let all = like.shape()[self.places.channel];
        shape[0] = channels.len();
        shape[self.places.channel] = all;
        let mut ones = vec![1.0f32; channels.len() * all];
        for (row, channel) in channels.enumerate() {
            ones[row * all + channel] = 0.0;
        }
        let data = TensorData::new(ones, shape).convert_dtype(like.dtype());
        Value::from_data(data, &like.device())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        graph::Op,
        methods::{
            cam::testing::{Reused, assert_splits_agree, assert_values, by_channel, graph, summed},
            testing::image,
        },
    };

    /// Each channel set to zero in a run of the whole network.
    #[test]
    fn is_its_definition() {
        let graph = graph();
        // The layer inside a residual branch has a tail that reads what is before it.
        for layer in ["relu_1", "branch", "norm"] {
            let x = image(1, 2);
            let (a, _) = by_channel(&graph, layer, x.clone(), 1);
            let id = graph.layer(&layer.into()).unwrap();
            let score = |without: Option<usize>| {
                let outputs = graph.evaluate_with(
                    &[(graph.input(), x.clone().into())],
                    &[graph.output()],
                    &mut |node, value| match without {
                        Some(channel) if node == id => {
                            let mut kept = vec![1.0f32; a.len()];
                            kept[channel] = 0.0;
                            let kept = Tensor::<1>::from_floats(&kept[..], graph.device());
                            &value * &kept.reshape([1, a.len(), 1, 1]).into()
                        }
                        _ => value,
                    },
                );
                outputs[0].to_vec().unwrap()[1] as f64
            };
            let full = score(None);
            let drops: Vec<f64> = (0..a.len()).map(|c| full - score(Some(c))).collect();
            for (drop, by) in [(ScoreDrop::Relative, full), (ScoreDrop::Absolute, 1.0)] {
                let want = summed(a.len(), a[0].len(), |c, p| drops[c] / by * a[c][p]);
                let cam = AblationCam::new().layer(layer).relu(false).drop(drop);
                let map = cam.explain(&graph, x.clone(), 1).unwrap();
                assert_eq!(map.evaluations.forward, 1 + a.len());
                assert_values(map.values, &want, 1e-4);
            }
        }
    }

    /// The tail of a layer inside a branch reads the branch's beginning, not the input.
    #[test]
    fn only_the_tail_is_run_again() {
        let graph = Reused::graph();
        let frame = super::super::places::Frame::of(&graph);
        for (layer, cut) in [("add_2", 1), ("twice", 2), ("twice#2", 2)] {
            let places = Places::of(&graph, graph.layer(&layer.into()).unwrap(), &frame).unwrap();
            let tail = Tail::new(&graph, &places, ChannelFill::Zero);
            assert_eq!(tail.cut.len(), cut, "{layer}");
            assert!(
                tail.cut
                    .iter()
                    .all(|(id, _)| graph.node(*id).op != Op::Input)
            );
        }
    }

    #[test]
    fn does_not_depend_on_the_batch_split() {
        assert_splits_agree(&AblationCam::new().drop(ScoreDrop::Absolute), 1e-5);
        assert_splits_agree(&AblationCam::new().layers(["relu_1", "twice"]), 1e-4);
    }
}
