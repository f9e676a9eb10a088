//! Convolutions and linear layers, with what is fused to them.

use super::{
    super::{
        back::{Back, backwards, column_weights},
        depthwise::Depthwise,
        elementwise::Strides,
        kernel::LANES,
        step::{Conv, Place, Step},
        sweep::Packed,
        view::{Part, View},
    },
    Compiler,
};
use crate::graph::{Binary, NodeId, Op, Pool, Unary};

/// The geometry of a convolution.
#[derive(Clone, Copy)]
struct Shape {
    kernel: [usize; 2],
    stride: [usize; 2],
    padding: [usize; 2],
    grid: [usize; 2],
    channels: usize,
}

impl Compiler<'_> {
    pub(super) fn conv(&mut self, id: NodeId) -> Option<()> {
        let node = self.graph.node(id).clone();
        let Op::Conv { window, groups } = &node.op else {
            return None;
        };
        let [channels, height, width] = self.sizes(id)?;
        let [_, inputs, kernel @ ..] = &self.graph.constant(node.inputs[1])?.shape()[..] else {
            return None;
        };
        let (inputs, strides) = (*inputs, super::window(kernel, window)?);
        let kernel = strides.kernel;
        let values = self.numbers(node.inputs.get(1))?;
        let bias = self.optional(node.inputs.get(2))?;
        let from = self.planes(node.inputs[0])?;
        (inputs * groups == self.buffers[from].channels).then_some(())?;
        if *groups > 1 && inputs == 1 && channels == *groups {
            let taps = kernel[0] * kernel[1];
            let weights = (0..taps * channels)
                .map(|at| values[at % channels * taps + at / channels])
                .collect();
            return self.depthwise(
                id,
                from,
                Some(node.name),
                strides,
                weights,
                bias,
                Vec::new(),
            );
        }
        (strides.dilation == [1, 1]).then_some(())?;
        let weight = |out: usize, c: usize, y: usize, x: usize| -> f32 {
            values[((out * inputs + c) * kernel[0] + y) * kernel[1] + x]
        };
        let shape = Shape {
            kernel,
            stride: strides.stride,
            padding: strides.padding,
            grid: [height, width],
            channels,
        };
        if *groups > 1 {
            return self.grouped(id, from, shape, *groups, weight, bias);
        }
        let made = |compiler: &Self, place: Place| {
            let all = compiler.planes_of(place.buffer);
            all.slice(1, place.channel, 1, place.channels)
        };
        self.product(id, from, shape, weight, made)
    }

    /// Groups of channels, some of them together as a convolution of its own with zeros between
    /// them: as many as fill the inner loops.
    fn grouped(
        &mut self,
        id: NodeId,
        from: usize,
        shape: Shape,
        groups: usize,
        weight: impl Fn(usize, usize, usize, usize) -> f32 + Sync,
        bias: Option<Vec<f32>>,
    ) -> Option<()> {
        const FILLED: usize = 32;
        let source = self.buffers[from];
        let (inputs, outputs) = (source.channels / groups, shape.channels / groups);
        let together = (1..=groups)
            .filter(|count| groups.is_multiple_of(*count))
            .find(|count| count * inputs >= FILLED && (count * outputs).is_multiple_of(LANES))
            .unwrap_or(groups);
        let [height, width] = shape.grid;
        let to = self.buffer(shape.channels, height, width);
        let name = self.graph.node(id).name.clone();
        let (last, view, relu) = self.rectified(id, self.planes_of(to));
        for first in (0..groups).step_by(together) {
            let part = self.buffer(together * inputs, source.height, source.width);
            let channels = self
                .planes_of(from)
                .slice(1, first * inputs, 1, together * inputs)?;
            self.copy(channels.channels_of(1)?, part, 0, 0);
            let place = Place {
                buffer: to,
                channel: first * outputs,
                channels: together * outputs,
            };
            let own = |out: usize, c: usize, y: usize, x: usize| match out / outputs == c / inputs {
                true => weight(first * outputs + out, c % inputs, y, x),
                false => 0.0,
            };
            let bias = bias
                .as_ref()
                .map(|bias| bias[place.channel..][..place.channels].to_vec());
            let shape = Shape {
                channels: place.channels,
                ..shape
            };
            let step = self.convolution(name.clone(), part, place, shape, own, bias, None, relu);
            self.steps.push(step);
        }
        self.views.insert(last, view);
        Some(())
    }

    #[allow(clippy::too_many_arguments)]
    fn depthwise(
        &mut self,
        id: NodeId,
        from: usize,
        name: Option<String>,
        strides: Strides,
        weights: Vec<f32>,
        bias: Option<Vec<f32>>,
        shares: Vec<f32>,
    ) -> Option<()> {
        let strides = strides.numbered()?;
        let [c, h, w] = self.sizes(id)?;
        let to = self.buffer(c, h, w);
        let layer = Depthwise {
            name,
            from,
            to,
            strides,
            weights,
            bias: bias.unwrap_or_default(),
            shares,
        };
        self.step(id, self.planes_of(to), Step::Depthwise(Box::new(layer)))
    }

    /// The mean of each window.
    pub(super) fn average(&mut self, id: NodeId, pool: &Pool, count_padding: bool) -> Option<()> {
        let strides = super::window(&pool.kernel, &pool.window)?;
        let from = self.planes(self.graph.node(id).inputs[0])?;
        let [channels, height, width] = self.sizes(id)?;
        let source = self.buffers[from];
        let taps = strides.kernel[0] * strides.kernel[1];
        // Windows that reach beyond the border and its padding count what is there.
        let count = |axis: usize, size: usize, place: usize| {
            let padding = strides.padding[axis];
            let end = match count_padding {
                true => size + pool.window.padding[axis].1 + padding,
                false => size + padding,
            };
            let start = if count_padding { 0 } else { padding };
            let first = place * strides.stride[axis];
            (0..strides.kernel[axis])
                .map(|k| first + k * strides.dilation[axis])
                .filter(|at| (start..end).contains(at))
                .count()
        };
        let shares: Vec<f32> = (0..height * width)
            .map(|at| {
                let (y, x) = (at / width, at % width);
                let there = count(0, source.height, y) * count(1, source.width, x);
                1.0 / there.max(1) as f32
            })
            .collect();
        let weights = vec![1.0; taps * channels];
        self.depthwise(id, from, None, strides, weights, None, shares)
    }

    /// At each position, or of a whole row.
    pub(super) fn linear(&mut self, id: NodeId) -> Option<()> {
        let node = self.graph.node(id).clone();
        let weights = self.graph.constant(node.inputs[1])?.shape();
        let (inputs, channels) = (weights[0], weights[1]);
        let values = self.numbers(node.inputs.get(1))?;
        let view = self.whole(node.inputs[0])?;
        let geometry = self.buffers[view.buffer];
        let last = view.rank() - 1;
        let [mut kernel, mut grid] = [[1, 1], [geometry.height, geometry.width]];
        // Which input each value of the window is.
        let mut order: Vec<usize> = (0..inputs).collect();
        let by_position = view.simple(last) == Some([geometry.channels, 1])
            || geometry.channels == 1 && inputs == 1;
        if !by_position {
            (view.leading(1) == [Part::Rows]).then_some(())?;
            std::mem::swap(&mut kernel, &mut grid);
            for (input, place) in view.places(last).into_iter().enumerate() {
                order[place] = input;
            }
        }
        let shape = Shape {
            kernel,
            stride: [1, 1],
            padding: [0, 0],
            grid,
            channels,
        };
        let weight = |out: usize, c: usize, y: usize, x: usize| -> f32 {
            let place = (y * kernel[1] + x) * geometry.channels + c;
            values[order[place] * channels + out]
        };
        let node_shape = node.shape.clone();
        let made = |compiler: &Self, place: Place| match by_position {
            true => Some(view.with_channels(last, place.buffer, geometry.channels, place.channels)),
            false => compiler.planes_of(place.buffer).reshape(&node_shape),
        };
        self.product(id, view.buffer, shape, weight, made)
    }

    /// A convolution, the addition of something computed before, and a ReLU.
    fn product(
        &mut self,
        id: NodeId,
        from: usize,
        shape: Shape,
        weight: impl Fn(usize, usize, usize, usize) -> f32 + Sync,
        made: impl Fn(&Self, Place) -> Option<View>,
    ) -> Option<()> {
        let node = self.graph.node(id).clone();
        let Shape { grid, channels, .. } = shape;
        let bias = self.optional(node.inputs.get(2))?;
        let place = self.reserved.get(&id).copied();
        let reserved = place.or_else(|| self.reserved.get(&self.relu_of(id)?).copied());
        let to = match reserved {
            Some(place) => place,
            None => {
                let buffer = self.buffer(channels, grid[0], grid[1]);
                self.all_of(buffer)
            }
        };
        let (mut last, mut view) = (id, made(self, to)?);
        let mut residual = None;
        if let Some((sum, other, at)) = self.sum_of(id, &view).filter(|_| reserved.is_none()) {
            residual = Some(other);
            (last, view) = (sum, at);
        }
        let (last, view, relu) = self.rectified(last, view);
        let step = self.convolution(node.name, from, to, shape, weight, bias, residual, relu);
        self.step(last, view, step)
    }

    #[allow(clippy::too_many_arguments)]
    fn convolution(
        &self,
        name: String,
        from: usize,
        to: Place,
        shape: Shape,
        weight: impl Fn(usize, usize, usize, usize) -> f32 + Sync,
        bias: Option<Vec<f32>>,
        residual: Option<usize>,
        relu: bool,
    ) -> Step {
        let Shape {
            kernel,
            stride,
            padding,
            grid,
            channels,
        } = shape;
        let source = self.buffers[from];
        let rows = kernel[0] * kernel[1] * source.channels;
        let run = kernel[1] * source.channels;
        let weights = Packed::new(self.isa, run, rows, channels, |row, out| {
            let (place, c) = (row / source.channels, row % source.channels);
            weight(out, c, place / kernel[1], place % kernel[1])
        })
        .for_positions(grid[0] * grid[1]);
        let back = match source.channels < LANES && rows > LANES && kernel != [1, 1] {
            true => Back::Columns(column_weights(
                self.isa,
                channels,
                source.channels,
                kernel,
                weight,
            )),
            false => Back::Sweeps(backwards(
                self.isa, channels, source, grid, kernel, stride, padding, weight,
            )),
        };
        Step::Conv(Box::new(Conv {
            name,
            from,
            to,
            kernel,
            stride,
            padding,
            grid,
            weights,
            bias,
            residual,
            relu,
            back,
        }))
    }

    /// The ReLU that alone uses a node.
    fn relu_of(&self, id: NodeId) -> Option<NodeId> {
        let user = self.only_user(id)?;
        (*self.op(user) == Op::Unary(Unary::Relu)).then_some(user)
    }

    /// Through reshapes that alone use a node, with its view after them.
    fn through(&self, mut id: NodeId, mut view: View) -> (NodeId, View, Vec<NodeId>) {
        let mut passed = vec![id];
        while let Some(user) = self.only_user(id)
            && *self.op(user) == Op::Reshape
            && let Some(next) = view.reshape(&self.graph.node(user).shape)
        {
            (id, view) = (user, next);
            passed.push(id);
        }
        (id, view, passed)
    }

    /// The node, or the ReLU that alone uses it, which becomes part of its step.
    pub(super) fn rectified(&mut self, id: NodeId, view: View) -> (NodeId, View, bool) {
        let (end, at, passed) = self.through(id, view.clone());
        match self.relu_of(end) {
            Some(relu) => {
                self.fused.extend(passed);
                (relu, at, true)
            }
            None => (id, view, false),
        }
    }

    /// The addition that alone uses a node, of something that was computed before and is
    /// of the same kind: it becomes part of the node's step.
    fn sum_of(&mut self, id: NodeId, view: &View) -> Option<(NodeId, usize, View)> {
        let (end, at, passed) = self.through(id, view.clone());
        let user = self.only_user(end)?;
        let node = self.graph.node(user);
        let same = node.op == Op::Binary(Binary::Add) && node.shape == self.graph.node(end).shape;
        same.then_some(())?;
        let other = node.inputs[usize::from(node.inputs[0] == end)];
        // The place of a concatenation is known before its values are.
        (other.0 < id.0 || !matches!(self.op(other), Op::Cat(_))).then_some(())?;
        let found = self.views.get(&other)?;
        let fits = found.is_whole(self.buffers[found.buffer])
            && at.of(found.buffer) == *found
            && self.buffers[found.buffer] == self.buffers[at.buffer];
        fits.then_some(())?;
        let residual = found.buffer;
        self.fused.extend(passed);
        Some((user, residual, at))
    }
}
