//! From a graph to the steps of a plan.

mod attention;
mod conv;
mod join;

use std::collections::{HashMap, HashSet};

use super::{
    Plan,
    activate::Function,
    back::Back,
    buffer::Geometry,
    elementwise::Strides,
    kernel::Isa,
    step::{Place, Step},
    view::View,
};
use crate::graph::{Along, Binary, Graph, NodeId, Op, Reduce, Size, Unary, Value, Window};

struct Compiler<'a> {
    graph: &'a Graph,
    isa: Isa,
    users: Vec<Vec<NodeId>>,
    buffers: Vec<Geometry>,
    views: HashMap<NodeId, View>,
    /// Where the inputs of a concatenation go.
    reserved: HashMap<NodeId, Place>,
    attentions: HashMap<NodeId, attention::Found>,
    steps: Vec<Step>,
    /// Nodes whose view became a copy: gradients may also arrive at what was copied.
    copied: HashSet<NodeId>,
    /// Nodes that became part of another's step, and have no values of their own.
    fused: HashSet<NodeId>,
}

/// `None` where the graph has an operation that plans do not know.
pub(super) fn compile(graph: &Graph, isa: Isa) -> Option<Plan> {
    if graph
        .nodes()
        .any(|(_, node)| node.shape.contains(&Size::Fixed(0)))
    {
        return None;
    }
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
        views: HashMap::new(),
        reserved: HashMap::new(),
        attentions: HashMap::new(),
        steps: Vec::new(),
        copied: HashSet::new(),
        fused: HashSet::new(),
    };
    let first = compiler.buffer(channels, height, width);
    compiler
        .views
        .insert(graph.input(), compiler.planes_of(first));
    compiler.reserve();
    compiler.find_attentions();
    for (id, node) in graph.nodes() {
        let done = compiler.views.contains_key(&id)
            || compiler.fused.contains(&id)
            || matches!(node.op, Op::Constant)
            || compiler.constant(id).is_some();
        if !done {
            compiler.node(id)?;
        }
    }
    compiler.finish()
}

fn window(kernel: &[usize], window: &Window) -> Option<Strides> {
    let both = |values: &[usize]| <[usize; 2]>::try_from(values).ok();
    Some(Strides {
        kernel: both(kernel)?,
        stride: both(&window.stride)?,
        padding: both(&window.padding.iter().map(|p| p.0).collect::<Vec<_>>())?,
        dilation: both(&window.dilation)?,
    })
}

impl Compiler<'_> {
    fn buffer(&mut self, channels: usize, height: usize, width: usize) -> usize {
        self.buffers.push(Geometry {
            height,
            width,
            channels,
            halo: 0,
        });
        self.buffers.len() - 1
    }

    /// Another buffer like one.
    fn like(&mut self, buffer: usize) -> usize {
        self.buffers.push(self.buffers[buffer]);
        self.buffers.len() - 1
    }

    fn planes_of(&self, buffer: usize) -> View {
        View::planes(buffer, self.buffers[buffer])
    }

    /// The values of a parameter, spread over other axes or not.
    fn constant(&self, id: NodeId) -> Option<&Value> {
        match self.graph.node(id).op {
            Op::Expand => self.graph.constant(self.graph.node(id).inputs[0]),
            _ => self.graph.constant(id),
        }
    }

    fn numbers(&self, id: Option<&NodeId>) -> Option<Vec<f32>> {
        self.constant(*id?)?.to_vec().ok()
    }

    /// The same of an input that may be absent: an inner `None`.
    fn optional(&self, id: Option<&NodeId>) -> Option<Option<Vec<f32>>> {
        match id {
            Some(_) => self.numbers(id).map(Some),
            None => Some(None),
        }
    }

    /// The values of a parameter in another shape that it is spread over.
    fn spread(&self, id: NodeId, shape: &[usize]) -> Option<Vec<f32>> {
        self.constant(id)?.clone().expand(shape).to_vec().ok()
    }

    /// The only user of a node.
    fn only_user(&self, id: NodeId) -> Option<NodeId> {
        match self.users[id.0][..] {
            [user] if id != self.graph.output() => Some(user),
            _ => None,
        }
    }

    fn op(&self, id: NodeId) -> &Op {
        &self.graph.node(id).op
    }

    /// The buffer of a node that has one to itself, if need be a copy.
    fn whole(&mut self, id: NodeId) -> Option<View> {
        let view = self.views.get(&id)?.clone();
        if view.is_whole(self.buffers[view.buffer]) {
            return Some(view);
        }
        let axis = view.channel_axis()?;
        let from = view.channels_of(axis)?;
        let sizes: Vec<usize> = from.positions.iter().map(|[size, _]| *size).collect();
        let (height, width) = match sizes[..] {
            [height, width] => (height, width),
            _ => (1, sizes.iter().product()),
        };
        let to = self.buffer(from.channels, height, width);
        let copied = view.copied(axis, to)?;
        self.copy(from, to, 0, 0);
        self.views.insert(id, copied.clone());
        self.copied.insert(id);
        Some(copied)
    }

    /// The buffer of a node's values `[rows, channels, height, width]` in the order of planes,
    /// if need be a copy.
    fn planes(&mut self, id: NodeId) -> Option<usize> {
        let view = self.views.get(&id)?.clone();
        if view == self.planes_of(view.buffer) {
            return Some(view.buffer);
        }
        let [c, h, w] = self.sizes(id)?;
        let to = self.buffer(c, h, w);
        let from = view.channels_of(1)?;
        (from.starts().len() == h * w).then_some(())?;
        self.copy(from, to, 0, 0);
        self.views.insert(id, self.planes_of(to));
        self.copied.insert(id);
        Some(to)
    }

    /// Channels, height and width of a node of rank four.
    fn sizes(&self, id: NodeId) -> Option<[usize; 3]> {
        match self.graph.node(id).shape[..] {
            [
                Size::Rows(1),
                Size::Fixed(c),
                Size::Fixed(h),
                Size::Fixed(w),
            ] => Some([c, h, w]),
            _ => None,
        }
    }

    fn all_of(&self, buffer: usize) -> Place {
        Place {
            buffer,
            channel: 0,
            channels: self.buffers[buffer].channels,
        }
    }

    fn step(&mut self, id: NodeId, view: View, step: Step) -> Option<()> {
        self.views.insert(id, view);
        self.steps.push(step);
        Some(())
    }

    /// A step of single values, from a buffer to another like it.
    fn single(&mut self, id: NodeId, make: impl FnOnce(usize, usize) -> Step) -> Option<()> {
        let view = self.whole(self.graph.node(id).inputs[0])?;
        let to = self.like(view.buffer);
        self.step(id, view.of(to), make(view.buffer, to))
    }

    fn node(&mut self, id: NodeId) -> Option<()> {
        let node = self.graph.node(id).clone();
        let first = *node.inputs.first()?;
        match &node.op {
            Op::Conv { .. } => self.conv(id),
            Op::Linear => self.linear(id),
            Op::Matmul => self.attention(id),
            Op::MaxPool(pool) if pool.kernel.len() == 2 => {
                let from = self.planes(first)?;
                let [c, h, w] = self.sizes(id)?;
                let to = self.buffer(c, h, w);
                let strides = window(&pool.kernel, &pool.window)?.numbered()?;
                self.step(id, self.planes_of(to), Step::MaxPool { from, to, strides })
            }
            Op::AvgPool {
                pool,
                count_padding,
            } if pool.kernel.len() == 2 => self.average(id, pool, *count_padding),
            Op::AdaptiveAvgPool { size } if size[..] == [1, 1] => self.mean(id, &[2, 3]),
            Op::Reduce(Reduce::Mean, axes) => self.mean(id, axes),
            Op::Unary(unary) => self.unary(id, *unary),
            Op::Binary(Binary::Add) if self.are_computed(&node.inputs) => self.add(id),
            Op::Binary(Binary::Mul) if self.are_computed(&node.inputs) => self.gate(id),
            Op::Binary(binary) => self.affine(id, *binary),
            Op::BatchNorm { epsilon } => self.batch_norm(id, *epsilon),
            Op::LayerNorm { epsilon } => self.layer_norm(id, *epsilon),
            Op::Along(Along::Softmax, axis) => {
                let view = self.whole(first)?;
                let channels = self.buffers[view.buffer].channels;
                (view.simple(*axis)? == [channels, 1]).then_some(())?;
                self.single(id, |from, to| Step::Softmax { from, to })
            }
            Op::Cat(axis) => self.cat(id, *axis),
            Op::Pad { .. } => self.pad(id),
            Op::Reshape => {
                let view = self.views.get(&first)?.reshape(&node.shape);
                let view = match view {
                    Some(view) => view,
                    None => self.whole(first)?.reshape(&node.shape)?,
                };
                self.views.insert(id, view);
                Some(())
            }
            Op::Permute(order) => {
                let view = self.views.get(&first)?.permute(order);
                self.views.insert(id, view);
                Some(())
            }
            Op::Slice(spans) => {
                let mut view = self.views.get(&first)?.clone();
                let sizes = &self.graph.node(first).shape;
                for (axis, (span, size)) in spans.iter().zip(sizes).enumerate() {
                    let all = span.start == Size::Fixed(0) && span.end == *size;
                    match (span.start, span.end, usize::try_from(span.step)) {
                        (_, _, Ok(1)) if all => {}
                        (Size::Fixed(start), Size::Fixed(end), Ok(step @ 1..)) => {
                            let count = end.saturating_sub(start).div_ceil(step);
                            view = view.slice(axis, start, step, count)?;
                        }
                        _ => return None,
                    }
                }
                self.views.insert(id, view);
                Some(())
            }
            _ => None,
        }
    }

    fn are_computed(&self, ids: &[NodeId]) -> bool {
        ids.iter().all(|id| self.views.contains_key(id))
    }

    /// Over all positions.
    fn mean(&mut self, id: NodeId, axes: &[usize]) -> Option<()> {
        let view = self.whole(self.graph.node(id).inputs[0])?;
        let channels = self.buffers[view.buffer].channels;
        let kept = (1..view.rank()).filter(|axis| !axes.contains(axis));
        let sizes: Vec<_> = kept.map(|axis| view.simple(axis)).collect();
        let fits = match sizes[..] {
            [Some([size, 1])] => size == channels,
            [Some([1, 0])] => channels == 1,
            _ => false,
        };
        (fits && !axes.contains(&0)).then_some(())?;
        let to = self.buffer(channels, 1, 1);
        let made = self.planes_of(to).reshape(&self.graph.node(id).shape)?;
        let from = view.buffer;
        self.step(id, made, Step::Mean { from, to })
    }

    fn unary(&mut self, id: NodeId, unary: Unary) -> Option<()> {
        if unary == Unary::Relu {
            return self.single(id, |from, to| Step::Relu { from, to });
        }
        let view = self.whole(self.graph.node(id).inputs[0])?;
        let channels = self.buffers[view.buffer].channels;
        let all = |number: f64| Some(vec![number as f32; channels]);
        let (scale, shift) = match unary {
            Unary::Mul(by) => (all(by), None),
            Unary::Div(by) => (all(1.0 / by), None),
            Unary::Neg => (all(-1.0), None),
            Unary::Add(number) => (None, all(number)),
            _ => {
                let function = Function::of(unary)?;
                return self.single(id, |from, to| Step::Activate { from, to, function });
            }
        };
        self.single(id, |from, to| Step::Affine {
            from,
            to,
            scale,
            shift,
        })
    }

    /// Of two nodes, with a ReLU.
    fn add(&mut self, id: NodeId) -> Option<()> {
        let inputs = self.graph.node(id).inputs.clone();
        let (a, b) = (self.whole(inputs[0])?, self.whole(inputs[1])?);
        let (from, like) = ([a.buffer, b.buffer], a.of(b.buffer) == b);
        let sizes = self.buffers[a.buffer] == self.buffers[b.buffer];
        (like && sizes && from[0] != from[1]).then_some(())?;
        let to = self.like(a.buffer);
        let (last, view, relu) = self.rectified(id, a.of(to));
        self.step(last, view, Step::Add { from, to, relu })
    }

    /// Of two nodes; the smaller one may have one value for each channel.
    fn gate(&mut self, id: NodeId) -> Option<()> {
        let inputs = self.graph.node(id).inputs.clone();
        let (a, b) = (self.whole(inputs[0])?, self.whole(inputs[1])?);
        let positions = |view: &View| self.buffers[view.buffer].positions();
        let (values, by) = match positions(&a) >= positions(&b) {
            true => (a, b),
            false => (b, a),
        };
        let all = self.buffers[values.buffer];
        let count: usize = self.graph.node(id).shape_at(1).iter().product();
        (count == all.positions() * all.channels).then_some(())?;
        let same =
            values.of(by.buffer) == by && self.buffers[values.buffer] == self.buffers[by.buffer];
        let one_each = values.rank() == 4
            && values.rank() == by.rank()
            && positions(&by) == 1
            && values == self.planes_of(values.buffer)
            && by == self.planes_of(by.buffer);
        ((same || one_each) && values.buffer != by.buffer).then_some(())?;
        let to = self.like(values.buffer);
        let (from, by) = (values.buffer, by.buffer);
        self.step(id, values.of(to), Step::Gate { from, by, to })
    }

    /// With a constant.
    fn affine(&mut self, id: NodeId, binary: Binary) -> Option<()> {
        let node = self.graph.node(id).clone();
        let [a, b] = node.inputs[..] else { return None };
        let (x, constant, turned) = match self.views.contains_key(&a) {
            true => (a, b, false),
            false => (b, a, true),
        };
        let shape = node.shape_at(1);
        (self.graph.node(x).shape == node.shape).then_some(())?;
        let values = self.spread(constant, &shape)?;
        let view = self.whole(x)?;
        let geometry = self.buffers[view.buffer];
        let mut by_place = vec![0.0; geometry.positions() * geometry.channels];
        for (place, value) in view.offsets().into_iter().zip(values) {
            by_place[place] = value;
        }
        let alike = by_place
            .chunks_exact(geometry.channels)
            .all(|values| values == &by_place[..geometry.channels]);
        if alike {
            by_place.truncate(geometry.channels);
        }
        let each = |of: fn(f32) -> f32| Some(by_place.iter().map(|v| of(*v)).collect());
        let (scale, shift): (Option<Vec<f32>>, Option<Vec<f32>>) = match (binary, turned) {
            (Binary::Add, _) => (None, each(|v| v)),
            (Binary::Mul, _) => (each(|v| v), None),
            (Binary::Sub, false) => (None, each(|v| -v)),
            (Binary::Sub, true) => (each(|_| -1.0), each(|v| v)),
            (Binary::Div, false) => (each(|v| 1.0 / v), None),
            _ => return None,
        };
        let to = self.like(view.buffer);
        let from = view.buffer;
        let step = Step::Affine {
            from,
            to,
            scale,
            shift,
        };
        self.step(id, view.of(to), step)
    }

    /// One that no convolution before it could take up.
    fn batch_norm(&mut self, id: NodeId, epsilon: f64) -> Option<()> {
        let inputs = &self.graph.node(id).inputs.clone();
        let own = inputs[1..].iter().map(|id| self.numbers(Some(id)));
        let own: Vec<Vec<f32>> = own.collect::<Option<_>>()?;
        let [gamma, beta, mean, variance] = &own[..] else {
            return None;
        };
        let view = self.whole(inputs[0])?;
        let channels = self.buffers[view.buffer].channels;
        (view.simple(1)? == [channels, 1] && gamma.len() == channels).then_some(())?;
        let factors = gamma.iter().zip(variance);
        let scale: Vec<f32> = factors
            .map(|(g, v)| (f64::from(*g) / (f64::from(*v) + epsilon).sqrt()) as f32)
            .collect();
        let shift = (0..channels)
            .map(|c| beta[c] - mean[c] * scale[c])
            .collect();
        self.single(id, |from, to| Step::Affine {
            from,
            to,
            scale: Some(scale),
            shift: Some(shift),
        })
    }

    fn layer_norm(&mut self, id: NodeId, epsilon: f64) -> Option<()> {
        let inputs = self.graph.node(id).inputs.clone();
        let view = self.whole(inputs[0])?;
        let channels = self.buffers[view.buffer].channels;
        let gamma = self.numbers(inputs.get(1))?;
        let beta = self.optional(inputs.get(2))?;
        let last = view.simple(view.rank() - 1)?;
        (last == [channels, 1] && gamma.len() == channels).then_some(())?;
        self.single(id, |from, to| Step::Norm {
            from,
            to,
            gamma,
            beta,
            epsilon: epsilon as f32,
        })
    }

    /// Borders, ReLUs and orders of use.
    fn finish(self) -> Option<Plan> {
        let Compiler {
            mut buffers,
            steps,
            views,
            isa,
            graph,
            copied,
            ..
        } = self;
        let output = views.get(&graph.output())?;
        let flat = buffers[output.buffer];
        let wanted =
            View::planes(output.buffer, flat).reshape(&[Size::Rows(1), Size::Fixed(flat.channels)]);
        (wanted.as_ref() == Some(output)).then_some(())?;
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
        loop {
            let before = gradients.clone();
            for [a, b] in steps.iter().flat_map(Step::hands_on) {
                let halo = gradients[a].halo.max(gradients[b].halo);
                gradients[a].halo = halo;
                gradients[b].halo = halo;
            }
            if gradients == before {
                break;
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
        let input = views[&graph.input()].buffer;
        let alone = views.iter().filter(|(id, view)| {
            let whole = buffers[view.buffer];
            let same = **view == View::planes(view.buffer, whole);
            let moved = matches!(
                graph.node(**id).op,
                Op::Reshape | Op::Permute(_) | Op::Slice(_)
            );
            let own = !moved && !copied.contains(*id) && view.buffer != input;
            own && same && whole.positions() > 1
        });
        let named = alone
            .map(|(id, view)| (graph.node(*id).name.clone(), view.buffer))
            .collect();
        let kept = steps.iter().map(|step| step.kept_of_row(&buffers)).sum();
        Some(Plan {
            isa,
            named,
            input,
            output: output.buffer,
            buffers,
            gradients,
            steps,
            kept,
            first_reader,
            last_reader,
            rectified: rectified.into_iter().map(|r| r == Some(true)).collect(),
            clock: Default::default(),
            pool: Default::default(),
        })
    }
}
