//! What the class activation maps share: the values of a layer by channel and place, and maps
//! brought to the positions of the input.

use burn::tensor::Tensor;

use crate::{
    attribution::{Evaluations, Outcome},
    error::Error,
    graph::{Graph, Layer, Node, NodeId, Op, Size, Value, inside},
    host::widened,
    model::Model,
    run::{Run, Stage, guarded, join},
    target::Goal,
    upsample::{Resize, resize},
};

/// The options that all class activation maps have.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cam<'a> {
    pub name: &'static str,
    pub layers: &'a [Layer],
    pub relu: bool,
    pub resize: Resize,
}

/// The builder methods of those options.
macro_rules! cam_builders {
    ($method:ty = $name:literal) => {
        impl $method {
            /// The defaults.
            pub fn new() -> Self {
                Self::default()
            }

            /// The layer.
            pub fn layer(self, layer: impl Into<crate::Layer>) -> Self {
                self.layers([layer])
            }

            /// Several layers: the mean of their maps at the input's positions.
            pub fn layers<L: Into<crate::Layer>>(
                mut self,
                layers: impl IntoIterator<Item = L>,
            ) -> Self {
                self.layers = layers.into_iter().map(Into::into).collect();
                self
            }

            /// Whether only the positive part of each layer's map is kept.
            pub fn relu(mut self, relu: bool) -> Self {
                self.relu = relu;
                self
            }

            /// How maps are brought to the input's positions.
            pub fn resize(mut self, resize: crate::Resize) -> Self {
                self.resize = resize;
                self
            }

            fn cam(&self) -> crate::methods::cam::Cam<'_> {
                crate::methods::cam::Cam {
                    name: $name,
                    layers: &self.layers,
                    relu: self.relu,
                    resize: self.resize,
                }
            }
        }
    };
}
pub(super) use cam_builders;

impl Cam<'_> {
    pub fn validate(&self) -> Result<(), Error> {
        match self.layers.is_empty() {
            true => Err(Error::option("layers", "[]", "name at least one layer")),
            false => Ok(()),
        }
    }

    /// The mean over the layers of `map`, which makes `[rows, 1, places]` of the activations
    /// and the gradients of the score, both `[rows, channels, places]`.
    pub fn of_gradients<const D: usize>(
        &self,
        model: &dyn Model<D>,
        input: &Tensor<D>,
        goal: &Goal,
        run: &Run,
        map: impl Fn(Tensor<3>, Tensor<3>) -> Result<Tensor<3>, Error>,
    ) -> Result<Outcome<D>, Error> {
        let graph = inside(model, self.name)?;
        let (frame, places) = self.places(graph)?;
        let ids: Vec<NodeId> = places.iter().map(|place| place.id).collect();
        self.by_rows(input, run, |start, end| {
            let batch = input.clone().narrow(0, start, end - start);
            let goal = goal.slice(start, end);
            let found = graph.activations_and_gradients(batch.into(), &ids, &goal, run)?;
            let maps = places.iter().zip(found).map(|(place, (value, gradient))| {
                let gradient = place.split(gradient);
                place.check_reached(graph, &gradient)?;
                let map = map(place.split(value), gradient)?;
                Ok(self.finish(&frame, place, map))
            });
            mean(maps.collect::<Result<_, Error>>()?)
        })
    }

    /// The same of the activations alone.
    pub fn of_activations<const D: usize>(
        &self,
        model: &dyn Model<D>,
        input: &Tensor<D>,
        run: &Run,
        map: impl Fn(Tensor<3>) -> Result<Tensor<3>, Error>,
    ) -> Result<Outcome<D>, Error> {
        let graph = inside(model, self.name)?;
        let (frame, places) = self.places(graph)?;
        let ids: Vec<NodeId> = places.iter().map(|place| place.id).collect();
        self.by_rows(input, run, |start, end| {
            let batch = input.clone().narrow(0, start, end - start);
            let values = values_at(graph, batch, &ids, run)?;
            let maps = places.iter().zip(values).map(|(place, value)| {
                let map = map(place.split(value))?;
                Ok(self.finish(&frame, place, map))
            });
            mean(maps.collect::<Result<_, Error>>()?)
        })
    }

    /// Where the input's positions and the layers' places are.
    pub fn places(&self, graph: &Graph) -> Result<(Frame, Vec<Places>), Error> {
        let frame = Frame::of(graph);
        let places = self
            .layers
            .iter()
            .map(|layer| Places::of(graph, graph.layer(layer)?, &frame));
        let places = places.collect::<Result<_, Error>>()?;
        Ok((frame, places))
    }

    /// A layer's map `[rows, 1, places]` at the input's positions.
    pub fn finish<const D: usize>(
        &self,
        frame: &Frame,
        places: &Places,
        map: Tensor<3>,
    ) -> Tensor<D> {
        let map = match self.relu {
            true => map.clamp_min(0.0),
            false => map,
        };
        frame.join(resize(places.unflatten(map), &frame.sizes, self.resize))
    }

    fn by_rows<const D: usize>(
        &self,
        input: &Tensor<D>,
        run: &Run,
        mut work: impl FnMut(usize, usize) -> Result<Tensor<D>, Error>,
    ) -> Result<Outcome<D>, Error> {
        let mut parts = Vec::new();
        let total = input.dims()[0];
        run.batches(Stage::Attributing, total, run.rows(input), |range| {
            parts.push(work(range.start, range.end)?);
            Ok(())
        })?;
        Ok(join(parts).into())
    }
}

/// Values of some nodes for one batch, as it is.
pub(super) fn values_at<const D: usize>(
    graph: &Graph,
    input: Tensor<D>,
    wanted: &[NodeId],
    run: &Run,
) -> Result<Vec<Value>, Error> {
    let shape = input.dims();
    graph.check_input(&shape)?;
    run.count(Evaluations {
        forward: shape[0],
        gradient: 0,
    });
    guarded(&shape, || {
        graph.evaluate(&[(graph.input(), input.into())], wanted)
    })
}

/// The mean of several maps.
pub(super) fn mean<const D: usize>(maps: Vec<Tensor<D>>) -> Result<Tensor<D>, Error> {
    let count = maps.len() as f64;
    maps.into_iter()
        .reduce(|a, b| a + b)
        .map(|sum| sum.div_scalar(count))
        .ok_or_else(|| Error::option("layers", "[]", "name at least one layer"))
}

/// The positions of the input: its axes after the rows and channels.
///
/// Where the model begins by moving the input's channels to the front (`[N, H, W, C]`, or a
/// series `[N, T, F]`), its positions are the axes before the channels. An input without
/// channels `[N, L]` has `L` positions.
#[derive(Debug)]
pub(super) struct Frame {
    pub sizes: Vec<usize>,
    /// The input's axes as rows, channels, positions.
    order: Vec<usize>,
}

impl Frame {
    pub fn of(graph: &Graph) -> Self {
        let shape = graph.node(graph.input()).shape_at(1);
        let mut orders = graph
            .nodes()
            .filter(|(_, node)| node.inputs.contains(&graph.input()))
            .map(|(_, node)| match &node.op {
                Op::Permute(axes) if axes[0] == 0 => Some(axes.clone()),
                _ => None,
            });
        let first = orders.next().flatten();
        let order = match first {
            Some(order) if orders.all(|other| other.as_ref() == Some(&order)) => order,
            _ => by_convention(graph, shape.len()),
        };
        let positions = if shape.len() == 2 { 1 } else { 2 };
        Frame {
            sizes: order[positions..].iter().map(|&axis| shape[axis]).collect(),
            order,
        }
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

/// A series has its features last; where the input goes straight into a convolution, its
/// channels are first.
fn by_convention(graph: &Graph, rank: usize) -> Vec<usize> {
    let convolved = graph.nodes().any(|(_, node)| {
        node.inputs.contains(&graph.input()) && matches!(node.op, Op::Conv { .. })
    });
    let mut order: Vec<usize> = (0..rank).collect();
    if rank == 3 && !convolved {
        order.swap(1, 2);
    }
    order
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
        let known = channel_axis(graph, id).filter(|&axis| axis > 0);
        let tokens = rank == 3 && frame.sizes.len() > 1;
        let channel = known.unwrap_or(if tokens { 2 } else { 1 });
        let shape = node.shape_at(1);
        let around: Vec<usize> = (1..rank).filter(|&axis| axis != channel).collect();
        let sizes: Vec<usize> = around.iter().map(|&axis| shape[axis]).collect();
        let (extra, grid) = match tokens {
            true => token_grid(sizes[0], &frame.sizes)?,
            false if sizes.len() == frame.sizes.len() => (0, sizes),
            false => return None,
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
    fn check_reached(&self, graph: &Graph, gradient: &Tensor<3>) -> Result<(), Error> {
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

/// How many leading tokens have no place, and the grid of the others: in the proportions of the
/// image where there is such a grid, else a square (patches need not be square).
fn token_grid(tokens: usize, sizes: &[usize]) -> Option<(usize, Vec<usize>)> {
    const MOST_EXTRA: usize = 8;
    let &[height, width] = sizes else { return None };
    let grid = |fits: &dyn Fn(usize, usize) -> bool| {
        (0..=MOST_EXTRA.min(tokens.saturating_sub(1))).find_map(|extra| {
            let places = tokens - extra;
            (1..=places)
                .find(|&h| places.is_multiple_of(h) && fits(h, places / h))
                .map(|h| (extra, vec![h, places / h]))
        })
    };
    grid(&|h, w| h * width == w * height).or_else(|| grid(&|h, w| h == w))
}

/// The axis of a node's channels, from the operations before it: convolutions have them on axis
/// 1, linear layers on the last.
pub(super) fn channel_axis(graph: &Graph, id: NodeId) -> Option<usize> {
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
pub(super) mod testing {
    use burn::{
        module::Module,
        nn::{
            Linear, LinearConfig, PaddingConfig2d,
            conv::{Conv2d, Conv2dConfig},
        },
        tensor::{Device, Tensor, activation::relu},
    };

    use crate::{
        BatchSize, Gradient, Graph, Method, Model, Run, Target,
        methods::testing::{Net, assert_close, image},
    };

    /// One convolution used twice, a branch that is added and read again, functional ReLUs.
    #[derive(Module, Debug)]
    pub struct Reused {
        stem: Conv2d,
        twice: Conv2d,
        head: Linear,
    }

    impl Reused {
        pub fn new() -> Self {
            let device = Device::flex();
            device.seed(3);
            let conv = |from, stride| {
                Conv2dConfig::new([from, 5], [3, 3])
                    .with_stride([stride, stride])
                    .with_padding(PaddingConfig2d::Explicit(1, 1, 1, 1))
                    .init(&device)
            };
            Reused {
                stem: conv(3, 2),
                twice: conv(5, 1),
                head: LinearConfig::new(5, 4).init(&device),
            }
        }

        pub fn graph() -> Graph {
            Graph::trace(&Self::new(), |m, x| m.forward(x), &image(1, 0)).unwrap()
        }
    }

    impl Model<4> for Reused {
        fn forward(&self, x: Tensor<4>) -> Tensor<2> {
            let a = relu(self.stem.forward(x));
            let b = relu(self.twice.forward(a.clone())) + a;
            let c = relu(self.twice.forward(b.clone())) + b;
            self.head.forward(c.mean_dims(&[2, 3]).flatten(1, 3))
        }
    }

    pub fn graph() -> Graph {
        let net = Net::relu(&Device::flex());
        Graph::trace(&net, |m, x| m.forward(x), &image(1, 0)).unwrap()
    }

    /// Activations and gradients of one row at a layer, channel by channel, from the layer's
    /// tail as a closure.
    pub fn by_channel(
        graph: &Graph,
        layer: &str,
        x: Tensor<4>,
        class: usize,
    ) -> (Vec<Vec<f64>>, Vec<Vec<f64>>) {
        let id = graph.layer(&layer.into()).unwrap();
        let a = graph.evaluate(&[(graph.input(), x.clone().into())], &[id]);
        let a = a[0].clone().tensor::<4>();
        let tail = |a: Tensor<4>| -> Tensor<2> {
            let feeds = [(id, a.into()), (graph.input(), x.clone().into())];
            graph.evaluate(&feeds, &[graph.output()]).remove(0).tensor()
        };
        let g = Gradient.explain(&tail, a.clone(), class).unwrap().values;
        let [_, channels, height, width] = a.dims();
        let host = |t: Tensor<4>| -> Vec<Vec<f64>> {
            let values = t.try_into_vec_as::<f64>().unwrap();
            assert_eq!(values.len(), channels * height * width);
            values.chunks(height * width).map(<[f64]>::to_vec).collect()
        };
        (host(a), host(g))
    }

    /// sum over channels of `f(channel, place)`.
    pub fn summed(channels: usize, places: usize, f: impl Fn(usize, usize) -> f64) -> Vec<f64> {
        (0..places)
            .map(|p| (0..channels).map(|c| f(c, p)).sum())
            .collect()
    }

    pub fn assert_values(got: Tensor<4>, want: &[f64], tolerance: f64) {
        let dims = got.dims();
        let want = Tensor::<4>::from_data(
            burn::tensor::TensorData::new(want.to_vec(), dims).convert_dtype(got.dtype()),
            &got.device(),
        );
        assert_close(got, want, tolerance);
    }

    pub fn assert_splits_agree(method: &impl Method<4>, tolerance: f64) {
        let graph = Reused::graph();
        let explain = |rows| {
            let run = Run::new().batch_size(BatchSize::Rows(rows));
            method
                .explain_with(&graph, image(5, 6), &Target::Predicted, &run)
                .unwrap()
                .values
        };
        let whole = explain(1000);
        for rows in [1, 2, 3, 7, 11] {
            assert_close(explain(rows), whole.clone(), tolerance);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn token_grids_have_the_images_proportions() {
        assert_eq!(token_grid(196, &[224, 224]), Some((0, vec![14, 14])));
        assert_eq!(token_grid(197, &[224, 224]), Some((1, vec![14, 14])));
        assert_eq!(token_grid(261, &[224, 224]), Some((5, vec![16, 16])));
        assert_eq!(token_grid(33, &[32, 64]), Some((1, vec![4, 8])));
        assert_eq!(token_grid(32, &[32, 16]), Some((0, vec![8, 4])));
        assert_eq!(token_grid(60, &[224, 224]), None);
    }
}
