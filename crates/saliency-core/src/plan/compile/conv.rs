//! Convolutions and linear layers, with what is fused to them.

use super::{
    super::{
        back::{Back, backwards, column_weights},
        kernel::LANES,
        step::{Conv, Place, Step},
        sweep::Packed,
        view::{Part, View},
    },
    Compiler,
};
use crate::graph::{Binary, NodeId, Op, Unary};

/// The geometry of a convolution.
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
        let Op::Conv { window, groups: 1 } = &node.op else {
            return None;
        };
        let dense = window.dilation.iter().all(|&d| d == 1);
        (dense && window.stride.len() == 2).then_some(())?;
        let [channels, height, width] = self.sizes(id)?;
        let kernel = self.graph.constant(node.inputs[1])?.shape();
        let values = self.numbers(node.inputs.get(1))?;
        let (inputs, kernel) = (kernel[1], [kernel[2], kernel[3]]);
        let shape = Shape {
            kernel,
            stride: [window.stride[0], window.stride[1]],
            padding: [window.padding[0].0, window.padding[1].0],
            grid: [height, width],
            channels,
        };
        let from = self.planes(node.inputs[0])?;
        let weight = |out: usize, c: usize, y: usize, x: usize| -> f32 {
            values[((out * inputs + c) * kernel[0] + y) * kernel[1] + x]
        };
        let made = |compiler: &Self, place: Place| {
            let all = compiler.planes_of(place.buffer);
            all.slice(1, place.channel, 1, place.channels)
        };
        self.product(id, from, shape, weight, made)
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
        weight: impl Fn(usize, usize, usize, usize) -> f32,
        made: impl Fn(&Self, Place) -> Option<View>,
    ) -> Option<()> {
        let node = self.graph.node(id).clone();
        let Shape {
            kernel,
            stride,
            padding,
            grid,
            channels,
        } = shape;
        let source = self.buffers[from];
        let bias = match node.inputs.get(2) {
            Some(bias) => Some(self.numbers(Some(bias))?),
            None => None,
        };
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
        let rows = kernel[0] * kernel[1] * source.channels;
        let run = kernel[1] * source.channels;
        let weights = Packed::new(self.isa, run, rows, channels, |row, out| {
            let (place, c) = (row / source.channels, row % source.channels);
            weight(out, c, place / kernel[1], place % kernel[1])
        });
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
        let step = Step::Conv(Box::new(Conv {
            name: node.name,
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
        }));
        self.step(last, view, step)
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
