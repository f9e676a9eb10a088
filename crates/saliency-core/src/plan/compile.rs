//! From a graph to the steps of a plan.

use std::collections::{HashMap, HashSet};

use super::{
    Plan,
    back::{Back, backwards, column_weights},
    buffer::Geometry,
    elementwise::Strides,
    kernel::{Isa, LANES},
    sweep::Packed,
};
use crate::graph::{Binary, Graph, NodeId, Op, PadWith, Reduce, Size, Unary, Value};

/// A node's values: some channels of a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub buffer: usize,
    pub channel: usize,
    pub channels: usize,
}

/// A convolution or linear layer with what is fused to it.
#[derive(Debug)]
pub(super) struct Conv {
    pub name: String,
    pub from: usize,
    pub to: Place,
    pub kernel: [usize; 2],
    pub stride: [usize; 2],
    pub padding: [usize; 2],
    pub grid: [usize; 2],
    pub weights: Packed,
    pub bias: Option<Vec<f32>>,
    pub residual: Option<usize>,
    pub relu: bool,
    pub back: Back,
}

#[derive(Debug)]
pub(super) enum Step {
    Conv(Box<Conv>),
    MaxPool {
        from: usize,
        to: usize,
        strides: Strides,
    },
    /// Mean over all positions.
    Mean {
        from: usize,
        to: usize,
    },
    Add {
        from: [usize; 2],
        to: usize,
        relu: bool,
    },
    Relu {
        from: usize,
        to: usize,
    },
    /// Every `step`-th position, into some channels of another buffer.
    Copy {
        from: Place,
        to: Place,
        step: [usize; 2],
    },
}

impl Step {
    /// Buffers that it reads.
    pub fn reads(&self) -> Vec<usize> {
        match self {
            Step::Conv(conv) => [Some(conv.from), conv.residual]
                .into_iter()
                .flatten()
                .collect(),
            Step::MaxPool { from, .. } | Step::Mean { from, .. } | Step::Relu { from, .. } => {
                vec![*from]
            }
            Step::Add { from, .. } => from.to_vec(),
            Step::Copy { from, .. } => vec![from.buffer],
        }
    }

    pub fn writes(&self) -> usize {
        match self {
            Step::Conv(conv) => conv.to.buffer,
            Step::MaxPool { to, .. } | Step::Mean { to, .. } | Step::Add { to, .. } => *to,
            Step::Relu { to, .. } => *to,
            Step::Copy { to, .. } => to.buffer,
        }
    }

    /// Whether a ReLU was fused to it.
    fn rectifies(&self) -> bool {
        match self {
            Step::Conv(conv) => conv.relu,
            Step::Add { relu, .. } => *relu,
            Step::Relu { .. } => true,
            Step::MaxPool { .. } | Step::Mean { .. } | Step::Copy { .. } => false,
        }
    }
}

struct Compiler<'a> {
    graph: &'a Graph,
    isa: Isa,
    users: Vec<Vec<NodeId>>,
    buffers: Vec<Geometry>,
    places: HashMap<NodeId, Place>,
    /// Where the inputs of a concatenation go.
    reserved: HashMap<NodeId, Place>,
    steps: Vec<Step>,
    /// Nodes that became part of another's step, and have no values of their own.
    fused: HashSet<NodeId>,
}

/// `None` where the graph has an operation that plans do not know.
pub(super) fn compile(graph: &Graph, isa: Isa) -> Option<Plan> {
    let input = graph.node(graph.input());
    let [
        Size::Rows(1),
        Size::Fixed(channels),
        Size::Fixed(height),
        Size::Fixed(width),
    ] = input.shape[..]
    else {
        return None;
    };
    let mut compiler = Compiler {
        graph,
        isa,
        users: graph.users(),
        buffers: Vec::new(),
        places: HashMap::new(),
        reserved: HashMap::new(),
        steps: Vec::new(),
        fused: HashSet::new(),
    };
    let first = compiler.buffer(channels, height, width);
    compiler.places.insert(graph.input(), first);
    compiler.reserve()?;
    for (id, node) in graph.nodes() {
        let done = compiler.places.contains_key(&id)
            || compiler.fused.contains(&id)
            || matches!(node.op, Op::Constant);
        if !done {
            compiler.node(id)?;
        }
    }
    let output = *compiler.places.get(&graph.output())?;
    compiler.finish(output)
}

impl Compiler<'_> {
    fn buffer(&mut self, channels: usize, height: usize, width: usize) -> Place {
        self.buffers.push(Geometry {
            height,
            width,
            channels,
            halo: 0,
        });
        Place {
            buffer: self.buffers.len() - 1,
            channel: 0,
            channels,
        }
    }

    /// Channels, height and width of a node's values.
    fn sizes(&self, id: NodeId) -> Option<[usize; 3]> {
        match self.graph.node(id).shape[..] {
            [
                Size::Rows(1),
                Size::Fixed(c),
                Size::Fixed(h),
                Size::Fixed(w),
            ] => Some([c, h, w]),
            [Size::Rows(1), Size::Fixed(c)] => Some([c, 1, 1]),
            _ => None,
        }
    }

    /// A new buffer for a node, or the part of a concatenation that is kept for it.
    fn target(&mut self, id: NodeId) -> Option<Place> {
        if let Some(place) = self.reserved.get(&id) {
            return Some(*place);
        }
        let [c, h, w] = self.sizes(id)?;
        Some(self.buffer(c, h, w))
    }

    /// The buffer of a node that has one to itself.
    fn whole(&self, id: NodeId) -> Option<usize> {
        let place = self.places.get(&id)?;
        let own = place.channel == 0 && place.channels == self.buffers[place.buffer].channels;
        own.then_some(place.buffer)
    }

    /// The only user of a node.
    fn only_user(&self, id: NodeId) -> Option<NodeId> {
        match self.users[id.0][..] {
            [user] if id != self.graph.output() => Some(user),
            _ => None,
        }
    }

    /// Concatenations: their inputs are written where they end up.
    fn reserve(&mut self) -> Option<()> {
        for (id, node) in self.graph.nodes() {
            let Op::Cat(1) = node.op else { continue };
            let [c, h, w] = self.sizes(id)?;
            let whole = self.buffer(c, h, w);
            self.places.insert(id, whole);
            let mut channel = 0;
            for &input in &node.inputs {
                let [channels, ..] = self.sizes(input)?;
                let place = Place {
                    buffer: whole.buffer,
                    channel,
                    channels,
                };
                let alone = self.only_user(input) == Some(id) && channel.is_multiple_of(LANES);
                if !alone || self.reserved.insert(input, place).is_some() {
                    return None;
                }
                channel += channels;
            }
        }
        Some(())
    }

    fn constant(&self, id: Option<&NodeId>) -> Option<Vec<f32>> {
        self.graph.constant(*id?).map(Value::to_vec)?.ok()
    }

    fn node(&mut self, id: NodeId) -> Option<()> {
        let node = self.graph.node(id).clone();
        match &node.op {
            Op::Conv { window, groups: 1 } if window.stride.len() == 2 => {
                let dense = window.dilation.iter().all(|&d| d == 1);
                let kernel = self.graph.constant(node.inputs[1])?.shape();
                let padding = [window.padding[0].0, window.padding[1].0];
                let stride = [window.stride[0], window.stride[1]];
                if !dense {
                    return None;
                }
                self.conv(id, [kernel[2], kernel[3]], stride, padding)
            }
            Op::Linear => {
                // After a flattening it is a convolution whose window is the whole picture.
                let from = self.whole(node.inputs[0])?;
                let geometry = self.buffers[from];
                self.conv(id, [geometry.height, geometry.width], [1, 1], [0, 0])
            }
            Op::MaxPool(pool) if pool.kernel.len() == 2 => {
                let from = self.whole(node.inputs[0])?;
                if pool.window.dilation.iter().any(|&d| d != 1)
                    || pool.kernel[0] * pool.kernel[1] > 255
                {
                    return None;
                }
                let to = self.target(id)?;
                self.step(
                    id,
                    to,
                    Step::MaxPool {
                        from,
                        to: to.buffer,
                        strides: Strides {
                            kernel: [pool.kernel[0], pool.kernel[1]],
                            stride: [pool.window.stride[0], pool.window.stride[1]],
                            padding: [pool.window.padding[0].0, pool.window.padding[1].0],
                        },
                    },
                )
            }
            Op::AdaptiveAvgPool { size } if size[..] == [1, 1] => self.mean(id, node.inputs[0]),
            Op::Reduce(Reduce::Mean, axes) if axes[..] == [2, 3] => self.mean(id, node.inputs[0]),
            Op::Unary(Unary::Relu) => {
                let from = self.whole(node.inputs[0])?;
                let to = self.target(id)?;
                let to_buffer = to.buffer;
                (to.channel == 0 && to.channels == self.buffers[to_buffer].channels)
                    .then_some(())?;
                self.step(
                    id,
                    to,
                    Step::Relu {
                        from,
                        to: to_buffer,
                    },
                )
            }
            Op::Binary(Binary::Add) => {
                let from = [self.whole(node.inputs[0])?, self.whole(node.inputs[1])?];
                if from[0] == from[1] || self.buffers[from[0]] != self.buffers[from[1]] {
                    return None;
                }
                let last = self.relu_after(id);
                if last.is_some() {
                    self.fused.insert(id);
                }
                let to = self.target(last.unwrap_or(id))?;
                (to.channels == self.buffers[to.buffer].channels).then_some(())?;
                let relu = last.is_some();
                self.step(
                    last.unwrap_or(id),
                    to,
                    Step::Add {
                        from,
                        to: to.buffer,
                        relu,
                    },
                )
            }
            // Flattening keeps the buffer; the linear layer behind it knows its shape.
            Op::Reshape if self.sizes(id).is_some_and(|[_, h, w]| h == 1 && w == 1) => {
                let place = *self.places.get(&node.inputs[0])?;
                self.places.insert(id, place);
                Some(())
            }
            Op::Slice(spans) => {
                let from = *self.places.get(&node.inputs[0])?;
                let [c, h, w] = self.sizes(node.inputs[0])?;
                let whole = |span: &crate::graph::Span, size: usize| {
                    span.start == Size::Fixed(0) && span.end == Size::Fixed(size)
                };
                let steps: Vec<usize> = spans.iter().map(|s| s.step.max(0) as usize).collect();
                let plain = steps[..2] == [1, 1]
                    && steps[2..].iter().all(|&s| s > 0)
                    && whole(&spans[1], c)
                    && whole(&spans[2], h)
                    && whole(&spans[3], w);
                plain.then_some(())?;
                let to = self.target(id)?;
                let step = [steps[2], steps[3]];
                self.step(id, to, Step::Copy { from, to, step })
            }
            Op::Pad {
                padding,
                with: PadWith::Constant(0.0),
            } if padding.len() == 4 && [0, 2, 3].iter().all(|&d| padding[d] == (0, 0)) => {
                let from = *self.places.get(&node.inputs[0])?;
                let to = self.target(id)?;
                let part = Place {
                    channel: to.channel + padding[1].0,
                    channels: from.channels,
                    ..to
                };
                let step = [1, 1];
                self.step(
                    id,
                    to,
                    Step::Copy {
                        from,
                        to: part,
                        step,
                    },
                )
            }
            _ => None,
        }
    }

    fn step(&mut self, id: NodeId, to: Place, step: Step) -> Option<()> {
        self.places.insert(id, to);
        self.steps.push(step);
        Some(())
    }

    fn mean(&mut self, id: NodeId, input: NodeId) -> Option<()> {
        let from = self.whole(input)?;
        let to = self.target(id)?;
        let step = Step::Mean {
            from,
            to: to.buffer,
        };
        self.step(id, to, step)
    }

    /// The ReLU that alone uses a node.
    fn relu_after(&self, id: NodeId) -> Option<NodeId> {
        let user = self.only_user(id)?;
        (self.graph.node(user).op == Op::Unary(Unary::Relu)).then_some(user)
    }

    /// A convolution, the addition of something computed before, and a ReLU.
    fn conv(
        &mut self,
        id: NodeId,
        kernel: [usize; 2],
        stride: [usize; 2],
        padding: [usize; 2],
    ) -> Option<()> {
        let node = self.graph.node(id).clone();
        let from = self.whole(node.inputs[0])?;
        let mut last = id;
        let mut residual = None;
        if let Some(user) = self.only_user(id)
            && self.graph.node(user).op == Op::Binary(Binary::Add)
            && self.graph.node(user).shape == node.shape
            && !self.reserved.contains_key(&id)
        {
            let inputs = &self.graph.node(user).inputs;
            let other = inputs[usize::from(inputs[0] == id)];
            residual = self.whole(other).filter(|_| other != id);
            if residual.is_some() {
                self.fused.insert(id);
                last = user;
            }
        }
        let relu = self.relu_after(last);
        if let Some(relu) = relu {
            self.fused.insert(last);
            last = relu;
        }
        let to = self.target(last)?;
        let [channels, height, width] = self.sizes(id)?;
        let source = self.buffers[from];
        let values = self.constant(node.inputs.get(1))?;
        let bias = match node.inputs.get(2) {
            Some(bias) => Some(self.constant(Some(bias))?),
            None => None,
        };
        // Weight of output channel, input channel and window position.
        let linear = matches!(node.op, Op::Linear);
        let weight = |out: usize, c: usize, y: usize, x: usize| -> f32 {
            let place = (c * kernel[0] + y) * kernel[1] + x;
            match linear {
                true => values[place * channels + out],
                false => values[out * source.channels * kernel[0] * kernel[1] + place],
            }
        };
        let rows = kernel[0] * kernel[1] * source.channels;
        let run = kernel[1] * source.channels;
        let packed = Packed::new(self.isa, run, rows, channels, |row, out| {
            let (place, c) = (row / source.channels, row % source.channels);
            weight(out, c, place / kernel[1], place % kernel[1])
        });
        let packed = packed.for_positions(height * width);
        let back = match source.channels < LANES && rows > LANES && kernel != [1, 1] {
            true => Back::Columns(column_weights(
                self.isa,
                channels,
                source.channels,
                kernel,
                weight,
            )),
            false => Back::Sweeps(backwards(
                self.isa,
                channels,
                source,
                [height, width],
                kernel,
                stride,
                padding,
                weight,
            )),
        };
        let step = Step::Conv(Box::new(Conv {
            name: node.name,
            from,
            to,
            kernel,
            stride,
            padding,
            grid: [height, width],
            weights: packed,
            bias,
            residual,
            relu: relu.is_some(),
            back,
        }));
        self.step(last, to, step)
    }

    /// Borders, ReLUs and orders of use.
    fn finish(self, output: Place) -> Option<Plan> {
        let Compiler {
            mut buffers,
            steps,
            places,
            isa,
            graph,
            ..
        } = self;
        let flat = buffers[output.buffer];
        if flat.positions() != 1 || output.channels != flat.channels {
            return None;
        }
        let mut gradients = buffers.clone();
        for step in &steps {
            if let Step::Conv(conv) = step {
                let from = &mut buffers[conv.from];
                let reach = |axis: usize, size: usize| {
                    let end = (conv.grid[axis] - 1) * conv.stride[axis] + conv.kernel[axis];
                    conv.padding[axis].max(end.saturating_sub(conv.padding[axis] + size))
                };
                from.halo = from
                    .halo
                    .max(reach(0, from.height))
                    .max(reach(1, from.width));
                match &conv.back {
                    Back::Sweeps(sweeps) => {
                        let halo = sweeps.iter().map(|back| back.halo).max().unwrap_or(0);
                        let to = &mut gradients[conv.to.buffer];
                        to.halo = to.halo.max(halo);
                    }
                    Back::Columns(_) => {
                        let halo = from.halo;
                        let from = &mut gradients[conv.from];
                        from.halo = from.halo.max(halo);
                    }
                }
            }
        }
        // A residual's gradient is handed on as it is, so both have the same border.
        for step in steps.iter().rev().chain(steps.iter()) {
            let pairs: Vec<[usize; 2]> = match step {
                Step::Conv(conv) => conv
                    .residual
                    .map(|r| [conv.to.buffer, r])
                    .into_iter()
                    .collect(),
                Step::Add { from, to, .. } => from.iter().map(|&f| [*to, f]).collect(),
                _ => Vec::new(),
            };
            for [a, b] in pairs {
                let halo = gradients[a].halo.max(gradients[b].halo);
                gradients[a].halo = halo;
                gradients[b].halo = halo;
            }
        }
        let mut first_reader = vec![usize::MAX; buffers.len()];
        let mut last_reader = vec![0; buffers.len()];
        let mut rectified = vec![None; buffers.len()];
        for (index, step) in steps.iter().enumerate() {
            for buffer in step.reads() {
                first_reader[buffer] = first_reader[buffer].min(index);
                last_reader[buffer] = index;
            }
            // Parts of one buffer are all rectified, or none is.
            match rectified[step.writes()] {
                None => rectified[step.writes()] = Some(step.rectifies()),
                Some(before) if before == step.rectifies() => {}
                Some(_) => return None,
            }
        }
        let alone = places.iter().filter(|(_, place)| {
            let whole = &buffers[place.buffer];
            let computed = place.buffer != places[&graph.input()].buffer;
            let alone = place.channel == 0 && place.channels == whole.channels;
            computed && alone && whole.positions() > 1
        });
        let named = alone
            .map(|(id, place)| (graph.node(*id).name.clone(), place.buffer))
            .collect();
        Some(Plan {
            isa,
            named,
            input: places[&graph.input()].buffer,
            output: output.buffer,
            buffers,
            gradients,
            steps,
            first_reader,
            last_reader,
            rectified: rectified.into_iter().map(|r| r == Some(true)).collect(),
            clock: Default::default(),
            pool: Default::default(),
        })
    }
}
