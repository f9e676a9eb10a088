//! Concatenations and padding with channels.

use super::{
    super::{
        kernel::LANES,
        step::{Place, Step},
        view::Strided,
    },
    Compiler,
};
use crate::graph::{NodeId, Op, PadWith, Size, Unary};

impl Compiler<'_> {
    /// Concatenations of the channels of convolutions, which write where their values end up.
    pub(super) fn reserve(&mut self) {
        for (id, node) in self.graph.nodes() {
            let (Op::Cat(1), Some([c, h, w])) = (&node.op, self.sizes(id)) else {
                continue;
            };
            let kinds: Option<Vec<bool>> = node
                .inputs
                .iter()
                .map(|input| self.conv_of(*input, id))
                .collect();
            let alike = kinds.is_some_and(|kinds| kinds.iter().all(|kind| *kind == kinds[0]));
            let channels: Option<Vec<usize>> = node
                .inputs
                .iter()
                .map(|input| self.sizes(*input).map(|[channels, ..]| channels))
                .collect();
            let Some(channels) = channels.filter(|_| alike) else {
                continue;
            };
            let (_, but_last) = channels.split_last().expect("something is put together");
            if but_last.iter().any(|channels| channels % LANES != 0) {
                continue;
            }
            let buffer = self.buffer(c, h, w);
            self.views.insert(id, self.planes_of(buffer));
            let mut channel = 0;
            for (&input, channels) in node.inputs.iter().zip(channels) {
                let place = Place {
                    buffer,
                    channel,
                    channels,
                };
                self.reserved.insert(input, place);
                channel += channels;
            }
        }
    }

    /// Whether a ReLU makes a convolution's values what only `user` uses; `None` where it is
    /// something else.
    fn conv_of(&self, id: NodeId, user: NodeId) -> Option<bool> {
        let alone = |id: NodeId, user: NodeId| self.only_user(id) == Some(user);
        let is_conv = |id: NodeId| matches!(self.op(id), Op::Conv { groups: 1, .. });
        alone(id, user).then_some(())?;
        if is_conv(id) {
            return Some(false);
        }
        let inner = *self.graph.node(id).inputs.first()?;
        let relu = *self.op(id) == Op::Unary(Unary::Relu);
        (relu && is_conv(inner) && alone(inner, id)).then_some(true)
    }

    /// Of channels or of tokens, by copies.
    pub(super) fn cat(&mut self, id: NodeId, axis: usize) -> Option<()> {
        let node = self.graph.node(id).clone();
        let fixed: Vec<usize> = node.shape[1..]
            .iter()
            .map(|size| match size {
                Size::Fixed(size) => Some(*size),
                Size::Rows(_) => None,
            })
            .collect::<Option<_>>()?;
        (node.shape[0] == Size::Rows(1)).then_some(())?;
        // Channels and positions of the whole.
        let (channel_axis, to) = match fixed[..] {
            [c, h, w] if axis == 1 => (1, self.buffer(c, h, w)),
            [tokens, c] if axis > 0 => (2, self.buffer(c, 1, tokens)),
            _ => return None,
        };
        let whole = match channel_axis {
            1 => self.planes_of(to),
            _ => self
                .planes_of(to)
                .permute(&[0, 2, 3, 1])
                .reshape(&node.shape)?,
        };
        let mut done = 0;
        for input in &node.inputs {
            let shape = &self.graph.node(*input).shape;
            let Size::Fixed(count) = shape[axis] else {
                return None;
            };
            let (channel, first) = match axis == channel_axis {
                true => (done, 0),
                false => (0, done),
            };
            match self.views.get(input).cloned() {
                Some(view) => self.copy(view.channels_of(channel_axis)?, to, channel, first),
                None if axis != channel_axis => {
                    let shape = self.graph.node(*input).shape_at(1);
                    let values = self.spread(*input, &shape)?;
                    self.steps.push(Step::Fill { to, first, values });
                }
                None => return None,
            }
            done += count;
        }
        self.views.insert(id, whole);
        Some(())
    }

    /// To channels of another buffer from one on, and to its positions from one on.
    pub(super) fn copy(&mut self, from: Strided, buffer: usize, channel: usize, first: usize) {
        let to = Place {
            buffer,
            channel,
            channels: from.channels,
        };
        self.steps.push(Step::Copy { from, to, first });
    }

    /// With channels of zeros.
    pub(super) fn pad(&mut self, id: NodeId) -> Option<()> {
        let node = self.graph.node(id).clone();
        let Op::Pad {
            padding,
            with: PadWith::Constant(0.0),
        } = &node.op
        else {
            return None;
        };
        let only_channels = padding.len() == 4 && [0, 2, 3].iter().all(|&d| padding[d] == (0, 0));
        let [c, h, w] = self.sizes(id).filter(|_| only_channels)?;
        let view = self.views.get(&node.inputs[0])?.clone();
        let to = self.buffer(c, h, w);
        self.copy(view.channels_of(1)?, to, padding[1].0, 0);
        self.views.insert(id, self.planes_of(to));
        Some(())
    }
}
