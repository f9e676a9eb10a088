//! Where the positions of the input and the places of a layer are.

use burn::tensor::Tensor;

use crate::{
    error::Error,
    graph::{Graph, Node, NodeId, Op, Size, Value},
    host::widened,
    methods::tokens::{self, Grid},
    upsample::{Resize, resize},
};

/// The positions of the input: its axes after the rows and channels.
///
/// The channels are where the first operation that knows has them, whatever axes the model has
/// moved before: convolutions read them from axis 1, linear layers from the last. Where none
/// does, they are the last axis of a series `[N, T, F]`, else axis 1. An input without channels `[N, L]` has `L` positions.
#[derive(Debug)]
pub(crate) struct Frame {
    pub sizes: Vec<usize>,
    /// The input's axes as rows, channels, positions.
    order: Vec<usize>,
}

impl Frame {
    pub fn of(graph: &Graph) -> Self {
        let shape = graph.node(graph.input()).shape_at(1);
        let order = input_order(graph).unwrap_or_else(|| match shape.len() {
            3 => vec![0, 2, 1],
            rank => (0..rank).collect(),
        });
        let positions = if shape.len() == 2 { 1 } else { 2 };
        Frame {
            sizes: order[positions..].iter().map(|&axis| shape[axis]).collect(),
            order,
        }
    }

    /// Of an input of this shape whose channels, where it has any, are its second axis.
    #[cfg(test)]
    pub fn plain(shape: &[usize]) -> Self {
        Frame {
            sizes: shape[shape.len().min(3) - 1..].to_vec(),
            order: (0..shape.len()).collect(),
        }
    }

    /// One map for each row, `[rows, 1, cells ...]`, at the input's positions.
    pub fn spread<const D: usize>(&self, map: Value, how: Resize) -> Tensor<D> {
        self.join(resize(map, &self.sizes, how))
    }

    /// `[rows, 1, positions ...]` as something shaped like the input, with one channel.
    pub fn join<const D: usize>(&self, map: Value) -> Tensor<D> {
        if D == 2 {
            let rows = map.shape()[0];
            return map.reshape(&[rows, self.sizes[0]]).tensor();
        }
        let mut back = vec![0; D];
        for (to, &from) in self.order.iter().enumerate() {
            back[from] = to;
        }
        map.permute(&back).tensor()
    }

    /// Something shaped like the input as `[rows, channels, positions ...]`.
    pub fn split<const D: usize>(&self, x: Tensor<D>) -> Value {
        let rows = x.dims()[0];
        match D {
            2 => Value::from(x).reshape(&[rows, 1, self.sizes[0]]),
            _ => Value::from(x).permute(&self.order),
        }
    }
}

/// Where the channels and the places of a layer are.
///
/// The places of tokens `[N, T, width]` of an image are a grid as high and wide, in
/// proportion, as the image; the tokens before it (of the class, of registers) are left out.
#[derive(Debug)]
pub(super) struct Places {
    pub id: NodeId,
    pub grid: Vec<usize>,
    /// The axis of the channels.
    pub channel: usize,
    /// Leading tokens that have no place.
    extra: usize,
}

impl Places {
    pub fn of(graph: &Graph, id: NodeId, frame: &Frame) -> Result<Self, Error> {
        let node = graph.node(id);
        Self::find(graph, id, frame).ok_or_else(|| Error::Shape {
            what: "the layer's output",
            expected: format!(
                "[rows, channels, positions ...] or tokens [rows, tokens, width] of a grid, at {}; name a layer that has positions",
                node.name
            ),
            got: node.shape_at(1),
        })
    }

    /// The places of a node, where it has any.
    pub fn find(graph: &Graph, id: NodeId, frame: &Frame) -> Option<Self> {
        let node = graph.node(id);
        let rank = node.shape.len();
        if node.shape[0] != Size::Rows(1) || rank < 3 {
            return None;
        }
        let shape = node.shape_at(1);
        let around = |channel: usize| -> Vec<usize> {
            let axes = (1..rank).filter(|&axis| axis != channel);
            axes.map(|axis| shape[axis]).collect()
        };
        let of_image = rank == 3 && frame.sizes.len() > 1;
        let channel = channel_axis(graph, id).filter(|&axis| axis > 0);
        let channel = channel.unwrap_or_else(|| match of_image {
            true => 2,
            false if around(1) != frame.sizes && around(rank - 1) == frame.sizes => rank - 1,
            false => 1,
        });
        let sizes = around(channel);
        let (extra, grid) = match frame.sizes[..] {
            _ if of_image => {
                let Grid { extra, size } = tokens::grid(sizes[0], &frame.sizes).ok()?;
                (extra, size)
            }
            // More tokens than positions: those in front have none.
            [length] if rank == 3 && channel == 2 && sizes[0] > length => {
                (sizes[0] - length, vec![length])
            }
            _ if sizes.len() == frame.sizes.len() => (0, sizes),
            _ => return None,
        };
        Some(Places {
            id,
            grid,
            channel,
            extra,
        })
    }

    /// A value of the layer as `[rows, channels, places]`, in f32 at least.
    pub fn split(&self, value: Value) -> Tensor<3> {
        let shape = value.shape();
        let mut order = vec![0, self.channel];
        order.extend((1..shape.len()).filter(|&axis| axis != self.channel));
        let (rows, channels) = (shape[0], shape[self.channel]);
        let all = shape[1..].iter().product::<usize>() / channels;
        let value = value.permute(&order).reshape(&[rows, channels, all]);
        widened(value.tensor().narrow(2, self.extra, all - self.extra))
    }

    /// `[rows, channels, places]` with its position axes.
    pub fn unflatten(&self, map: Tensor<3>) -> Value {
        let [rows, channels, _] = map.dims();
        Value::from(map).reshape(&[&[rows, channels], &self.grid[..]].concat())
    }

    /// Fails where the score reads none of the grid's tokens, as after the last attention of a
    /// network that reads its class token: the map would be zero everywhere.
    pub fn check_reached(&self, graph: &Graph, gradient: &Tensor<3>) -> Result<(), Error> {
        if self.extra == 0 {
            return Ok(());
        }
        let largest = gradient.clone().abs().max();
        match largest.try_into_scalar::<f32>().map_err(Error::device)? {
            0.0 => Err(Error::option(
                "layers",
                &graph.node(self.id).name,
                "the score reads only the class token there; name an earlier layer, such as the first norm of the last block",
            )),
            _ => Ok(()),
        }
    }
}

/// The axes of the input as rows, channels and positions, in the order in which the first
/// operation reads them that says which are the channels; that of its permutation where none
/// does.
fn input_order(graph: &Graph) -> Option<Vec<usize>> {
    let rank = graph.node(graph.input()).shape.len();
    // For each node that is the input with other axes, which of the input's each is.
    let mut axes: Vec<Option<Vec<usize>>> = vec![None; graph.nodes().count()];
    axes[graph.input().0] = Some((0..rank).collect());
    let mut permuted = None;
    for (id, node) in graph.nodes() {
        let Some(known) = node.inputs.iter().find_map(|input| axes[input.0].clone()) else {
            continue;
        };
        let last = known.len() - 1;
        let channel = match &node.op {
            Op::Conv { .. } | Op::ConvTranspose { .. } | Op::BatchNorm { .. } => known.get(1),
            Op::MaxPool(_) | Op::AvgPool { .. } | Op::AdaptiveAvgPool { .. } => known.get(1),
            Op::Linear | Op::LayerNorm { .. } if last > 0 => known.get(last),
            _ => None,
        };
        if let Some(&channel) = channel {
            let mut order = vec![0, channel];
            order.extend(known.iter().filter(|&&axis| axis != 0 && axis != channel));
            let dropped = (1..rank).filter(|axis| !known.contains(axis));
            order.extend(dropped.clone());
            let input = &graph.node(graph.input()).shape;
            let steps = dropped
                .into_iter()
                .all(|axis| input[axis] != Size::Fixed(1));
            return (known[0] == 0 && steps).then_some(order);
        }
        axes[id.0] = match &node.op {
            Op::Permute(order) => {
                let moved: Vec<usize> = order.iter().map(|&axis| known[axis]).collect();
                if moved.len() == rank && moved[0] == 0 {
                    permuted = Some(moved.clone());
                }
                Some(moved)
            }
            Op::Reshape => squeezed(graph, node, &known),
            Op::Unary(_) | Op::Binary(_) | Op::Cast(_) | Op::Slice(_) | Op::Pad { .. } => {
                Some(known).filter(|known| known.len() == node.shape.len())
            }
            _ => None,
        };
    }
    permuted
}

/// The axes that are left where a reshape drops one of size one: rather one that was made so,
/// as that of a single step, than one of the input's own.
fn squeezed(graph: &Graph, node: &Node, known: &[usize]) -> Option<Vec<usize>> {
    let (source, input) = (
        &graph.node(node.inputs[0]).shape,
        &graph.node(graph.input()).shape,
    );
    let mut left = (1..source.len())
        .filter(|&axis| source[axis] == Size::Fixed(1))
        .map(|axis| (input[known[axis]] == Size::Fixed(1), axis))
        .filter(|&(_, axis)| {
            let mut shape = source.clone();
            shape.remove(axis);
            shape == node.shape
        })
        .collect::<Vec<_>>();
    left.sort();
    let (_, axis) = left.first()?;
    let mut known = known.to_vec();
    known.remove(*axis);
    Some(known)
}

/// The axis of a node's channels, from the operations before it: convolutions have them on axis
/// 1, linear layers on the last.
fn channel_axis(graph: &Graph, id: NodeId) -> Option<usize> {
    let node = graph.node(id);
    let last = node.shape.len().checked_sub(1)?;
    let from = |input: &NodeId| channel_axis(graph, *input);
    let same_rank = |input: &&NodeId| graph.node(**input).shape.len() == last + 1;
    match &node.op {
        Op::Conv { .. }
        | Op::ConvTranspose { .. }
        | Op::BatchNorm { .. }
        | Op::MaxPool(_)
        | Op::AvgPool { .. }
        | Op::AdaptiveAvgPool { .. }
        | Op::Interpolate { .. } => Some(1),
        Op::Linear | Op::LayerNorm { .. } | Op::Embedding => Some(last),
        Op::Permute(axes) => {
            let before = from(&node.inputs[0])?;
            axes.iter().position(|&axis| axis == before)
        }
        Op::Reshape => {
            let source = graph.node(node.inputs[0]);
            let before = from(&node.inputs[0])?;
            moved(source, before, node)
        }
        _ => node.inputs.iter().filter(same_rank).find_map(from),
    }
}

/// Where an axis is after a reshape that does not touch it.
fn moved(source: &Node, axis: usize, to: &Node) -> Option<usize> {
    let (old, new) = (source.shape.len() - 1, to.shape.len() - 1);
    let kept = |here: usize| to.shape.get(here) == Some(&source.shape[axis]);
    match axis {
        axis if axis == old && kept(new) => Some(new),
        1 if kept(1) => Some(1),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use burn::{
        module::Module,
        nn::{
            Linear, LinearConfig, Lstm, LstmConfig,
            conv::{Conv1d, Conv1dConfig},
        },
        tensor::{Device, activation::relu},
    };

    use super::*;
    use crate::{
        GradCam, LayerActivation, LayerConductance, LayerGradientXActivation,
        LayerIntegratedGradients, Method, Recipe, methods::testing::assert_close,
    };

    fn series(rows: usize) -> Tensor<3> {
        let values = crate::noise::standard_normal(3, 0, rows * 12 * 5);
        let data = burn::tensor::TensorData::new(values, [rows, 12, 5]);
        Tensor::from_data(data, &Device::flex())
    }

    /// A series `[N, T, F]` that a convolution reads as `[N, F, T]`.
    #[derive(Module, Debug)]
    struct Waves {
        conv: Conv1d,
        head: Linear,
    }

    impl Waves {
        fn new() -> Self {
            let device = Device::flex();
            Waves {
                conv: Conv1dConfig::new(5, 4, 3).init(&device),
                head: LinearConfig::new(4, 2).init(&device),
            }
        }

        fn forward(&self, x: Tensor<3>) -> Tensor<2> {
            self.head
                .forward(relu(self.conv.forward(x)).mean_dim(2).flatten(1, 2))
        }
    }

    /// The same maps as for the network that takes `[N, F, T]`, along the steps.
    #[test]
    fn maps_of_a_series_lie_along_its_steps() {
        let (net, x) = (Waves::new(), series(2));
        let turned = x.clone().swap_dims(1, 2);
        let plain = Graph::trace(&net, |m, x: Tensor<3>| m.forward(x), &turned).unwrap();
        let moved = Graph::trace(&net, |m, x: Tensor<3>| m.forward(x.swap_dims(1, 2)), &x).unwrap();
        let methods = [
            Recipe::GradCam(GradCam::new()),
            Recipe::LayerActivation(LayerActivation::at("conv")),
            Recipe::LayerGradientXActivation(LayerGradientXActivation::new()),
            Recipe::LayerConductance(LayerConductance::new().steps(3)),
            Recipe::LayerIntegratedGradients(LayerIntegratedGradients::new().steps(3)),
        ];
        for method in methods {
            let got = method.explain(&moved, x.clone(), 1).unwrap().values;
            assert_eq!(got.dims(), [2, 12, 1], "{}", method.name());
            let want = method.explain(&plain, turned.clone(), 1).unwrap().values;
            assert_close(got.swap_dims(1, 2), want, 1e-5);
        }
    }

    /// Every method that looks inside and has a map gives one over the steps, not the features.
    #[test]
    fn no_method_of_the_graph_has_a_map_over_the_features() {
        let (net, x) = (Waves::new(), series(2));
        let graph = Graph::trace(&net, |m, x: Tensor<3>| m.forward(x.swap_dims(1, 2)), &x).unwrap();
        for info in Recipe::METHODS {
            if info.needs != crate::Needs::Graph || info.family == crate::Family::Attention {
                continue;
            }
            let method = Recipe::named(info.name).unwrap();
            let [rows, steps, features] = method
                .explain(&graph, x.clone(), 1)
                .unwrap_or_else(|error| panic!("{}: {error}", info.name))
                .values
                .dims();
            assert_eq!((rows, steps), (2, 12), "{}", info.name);
            assert!([1, 5].contains(&features), "{}", info.name);
        }
    }

    #[derive(Module, Debug)]
    struct Recurrent {
        embed: Linear,
        lstm: Lstm,
        head: Linear,
        embeds: bool,
    }

    impl Recurrent {
        fn forward(&self, x: Tensor<3>) -> Tensor<2> {
            let x = match self.embeds {
                true => self.embed.forward(x),
                false => x,
            };
            let (y, _) = self.lstm.forward(x, None);
            self.head.forward(y.mean_dim(1).squeeze_dim(1))
        }
    }

    /// Linear layers and recurrent ones read the features from the last axis, one step at a time
    /// or all at once, and also where there is a single feature.
    #[test]
    fn recurrent_networks_have_their_steps_before_the_features() {
        let device = Device::flex();
        for (embeds, features) in [(true, 5), (false, 5), (false, 1)] {
            let net = Recurrent {
                embed: LinearConfig::new(features, 5).init(&device),
                lstm: LstmConfig::new(features, 6, true).init(&device),
                head: LinearConfig::new(6, 2).init(&device),
                embeds,
            };
            let x = series(2).narrow(2, 0, features);
            let graph = Graph::trace(&net, |m, x| m.forward(x), &x).unwrap();
            let frame = Frame::of(&graph);
            assert_eq!(frame.sizes, [12], "{embeds} {features}");
            let map = GradCam::new().explain(&graph, x, 1).unwrap().values;
            assert_eq!(map.dims(), [2, 12, 1], "{embeds} {features}");
        }
    }
}
