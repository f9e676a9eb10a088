//! Attention found: softmax(scale q k^T) v.

use super::{
    super::{
        attention::{Attention, Heads},
        step::Step,
        view::{Part, View},
    },
    Compiler,
};
use crate::graph::{Along, NodeId, Op, Size, Unary};

/// The factors of attention, by the node that it ends in.
pub(super) struct Found {
    queries: NodeId,
    /// Transposed.
    keys: NodeId,
    values: NodeId,
    scale: f64,
}

impl Compiler<'_> {
    /// Softmaxes of a product that only a product uses.
    pub(super) fn find_attentions(&mut self) {
        let softmaxes: Vec<NodeId> = self
            .graph
            .nodes()
            .filter(|(_, node)| node.op == Op::Along(Along::Softmax, node.shape.len() - 1))
            .map(|(id, _)| id)
            .collect();
        for softmax in softmaxes {
            if let Some((end, found, passed)) = self.attention_of(softmax) {
                self.attentions.insert(end, found);
                self.fused.extend(passed);
            }
        }
    }

    fn attention_of(&self, softmax: NodeId) -> Option<(NodeId, Found, Vec<NodeId>)> {
        let end = self.only_user(softmax)?;
        let [weights, values] = self.graph.node(end).inputs[..] else {
            return None;
        };
        (*self.op(end) == Op::Matmul && weights == softmax && values != softmax).then_some(())?;
        let mut passed = vec![softmax];
        let scores = self.graph.node(softmax).inputs[0];
        let (product, outer) = self.unscaled(scores, &mut passed);
        (*self.op(product) == Op::Matmul).then_some(())?;
        self.only_user(product)?;
        passed.push(product);
        let [queries, keys] = self.graph.node(product).inputs[..] else {
            return None;
        };
        let (queries, a) = self.unscaled(queries, &mut passed);
        let (keys, b) = self.unscaled(keys, &mut passed);
        let found = Found {
            queries,
            keys,
            values,
            scale: outer * a * b,
        };
        Some((end, found, passed))
    }

    /// What a node is a multiple of, and the factor; nodes in between have no other use.
    fn unscaled(&self, mut id: NodeId, passed: &mut Vec<NodeId>) -> (NodeId, f64) {
        let mut scale = 1.0;
        loop {
            let node = self.graph.node(id);
            scale *= match node.op {
                Op::Unary(Unary::Mul(by)) if self.only_user(id).is_some() => by,
                Op::Unary(Unary::Div(by)) if self.only_user(id).is_some() => 1.0 / by,
                _ => return (id, scale),
            };
            passed.push(id);
            id = node.inputs[0];
        }
    }

    pub(super) fn attention(&mut self, id: NodeId) -> Option<()> {
        let found = self.attentions.get(&id)?;
        let scale = found.scale as f32;
        let view = |id: NodeId| self.views.get(&id);
        let (q, k, v) = (view(found.queries)?, view(found.keys)?, view(found.values)?);
        let last = q.rank() - 1;
        (last >= 2 && k.rank() == q.rank() && v.rank() == q.rank()).then_some(())?;
        let (queries, heads, size) = self.heads(q, last - 1, last)?;
        let (keys, key_heads, key_size) = self.heads(k, last, last - 1)?;
        let (values, value_heads, value_size) = self.heads(v, last - 1, last)?;
        let alike = [key_heads, value_heads] == [heads; 2] && [key_size, value_size] == [size; 2];
        (alike && keys.positions == values.positions).then_some(())?;
        let source = self.buffers[queries.buffer];
        let to = self.buffer(heads * size, source.height, source.width);
        let mixed = self
            .planes_of(to)
            .permute(&[0, 2, 3, 1])
            .reshape(&[
                Size::Rows(1),
                Size::Fixed(queries.positions),
                Size::Fixed(heads),
                Size::Fixed(size),
            ])?
            .permute(&[0, 2, 1, 3])
            .reshape(&self.graph.node(id).shape)?;
        let attention = Attention {
            queries,
            keys,
            values,
            to,
            heads,
            size,
            scale,
        };
        self.step(id, mixed, Step::Attention(Box::new(attention)))
    }

    /// Heads of all positions of a buffer, how many, and their size.
    fn heads(&self, view: &View, positions: usize, size: usize) -> Option<(Heads, usize, usize)> {
        let geometry = self.buffers[view.buffer];
        let [count, apart] = view.simple(positions)?;
        let [size, 1] = view.simple(size)? else {
            return None;
        };
        let (heads, spacing) = match view.leading(2)[..] {
            [Part::Rows] => (1, size),
            [Part::Rows, Part::Of { size, stride }] => (size, stride),
            _ => return None,
        };
        let all = count == geometry.positions() && (count == 1 || apart == geometry.channels);
        let inside = view.offset + (heads - 1) * spacing + size <= geometry.channels;
        (all && inside).then_some(())?;
        let found = Heads {
            buffer: view.buffer,
            channel: view.offset,
            spacing,
            positions: count,
        };
        Some((found, heads, size))
    }
}
