//! Which positions of each node reach the output.

use super::{
    Graph, NodeId,
    op::{Op, Size, Span},
};

/// For each axis of a node, which of its indices reach the output; batch axes always do.
type Reached = Vec<Vec<bool>>;

impl Graph {
    /// For each node whether at least half of the indices along every axis reach the output.
    ///
    /// After the last attention of a network that reads its class token, all other tokens are
    /// dead ends; so are all but the last step of a recurrent network that reads that one.
    pub(crate) fn mostly_reached(&self) -> Vec<bool> {
        let mut reached: Vec<Option<Reached>> = vec![None; self.nodes.len()];
        reached[self.output.0] = Some(full(&sizes(&self.node(self.output).shape)));
        for id in (0..self.nodes.len()).rev() {
            let Some(here) = reached[id].clone() else {
                continue;
            };
            for index in 0..self.nodes[id].inputs.len() {
                let input = self.nodes[id].inputs[index];
                let found = self.read(NodeId(id), index, &here);
                reached[input.0] = Some(match reached[input.0].take() {
                    Some(before) => either(before, &found),
                    None => found,
                });
            }
        }
        let mostly = |axis: &Vec<bool>| 2 * axis.iter().filter(|r| **r).count() >= axis.len();
        reached
            .iter()
            .map(|axes| axes.as_ref().is_some_and(|axes| axes.iter().all(mostly)))
            .collect()
    }

    /// Which indices of input `index` of a node are read, where those of its output are.
    fn read(&self, id: NodeId, index: usize, here: &Reached) -> Reached {
        let node = self.node(id);
        let shape = sizes(&self.node(node.inputs[index]).shape);
        let mut all = full(&shape);
        // Axes are counted from the last, as broadcasting does.
        let mut carry = |but: &[usize]| {
            let lead = here.len() as isize - shape.len() as isize;
            for (axis, read) in all.iter_mut().enumerate() {
                let own = usize::try_from(axis as isize + lead)
                    .ok()
                    .map(|at| &here[at]);
                if let Some(own) = own.filter(|own| own.len() == read.len() && !but.contains(&axis))
                {
                    read.clone_from(own);
                }
            }
        };
        let last = shape.len().saturating_sub(1);
        match &node.op {
            Op::Unary(_)
            | Op::Binary(_)
            | Op::Expand
            | Op::Compare(_)
            | Op::CompareTo(..)
            | Op::MaskFill(_)
            | Op::MaskWhere
            | Op::PRelu
            | Op::Cast(_) => carry(&[]),
            Op::Conv { .. } | Op::BatchNorm { .. } | Op::MaxPool(_) | Op::AvgPool { .. }
                if index == 0 =>
            {
                carry(&[1]);
            }
            Op::Linear | Op::LayerNorm { .. } | Op::RmsNorm { .. } if index == 0 => carry(&[last]),
            Op::Along(_, axis) => carry(&[*axis]),
            Op::Reduce(_, axes) => carry(axes),
            Op::Matmul if index == 0 => carry(&[last]),
            Op::Matmul => carry(&[last.saturating_sub(1)]),
            Op::Permute(axes) => {
                for (to, &from) in axes.iter().enumerate() {
                    all[from].clone_from(&here[to]);
                }
            }
            Op::Slice(spans) => {
                for ((read, own), span) in all.iter_mut().zip(here).zip(spans) {
                    if let Some(cut) = sliced(read.len(), own, span) {
                        *read = cut;
                    }
                }
            }
            Op::Cat(axis) => {
                carry(&[*axis]);
                let before = node.inputs[..index].iter();
                let start: usize = before.map(|id| sizes(&self.node(*id).shape)[*axis]).sum();
                all[*axis] = here[*axis][start..start + shape[*axis]].to_vec();
            }
            Op::Reshape => all = regrouped(&shape, here),
            _ => {}
        }
        all
    }
}

/// Sizes of a single row.
fn sizes(shape: &[Size]) -> Vec<usize> {
    shape.iter().map(|size| size.at(1)).collect()
}

fn full(shape: &[usize]) -> Reached {
    shape.iter().map(|&size| vec![true; size]).collect()
}

fn either(mut a: Reached, b: &Reached) -> Reached {
    for (a, b) in a.iter_mut().zip(b) {
        a.iter_mut().zip(b).for_each(|(a, b)| *a |= b);
    }
    a
}

/// The indices of an axis that a slice reads, where they are known.
fn sliced(len: usize, own: &[bool], span: &Span) -> Option<Vec<bool>> {
    let (Size::Fixed(start), Size::Fixed(end)) = (span.start, span.end) else {
        return None;
    };
    let step = span.step.unsigned_abs();
    let mut read = vec![false; len];
    for (i, own) in own.iter().enumerate() {
        let at = match span.step > 0 {
            true => start + i * step,
            false => end.checked_sub(1 + i * step)?,
        };
        *read.get_mut(at)? |= own;
    }
    Some(read)
}

/// The same through a reshape: axes in groups of equal size; where several become several, an
/// index is read if any element is that belongs to it.
fn regrouped(shape: &[usize], here: &Reached) -> Reached {
    let mut all = full(shape);
    let (mut i, mut j) = (0, 0);
    while i < shape.len() && j < here.len() {
        let (first, second) = (i, j);
        let (mut a, mut b) = (shape[i], here[j].len());
        (i, j) = (i + 1, j + 1);
        while a != b {
            match a < b {
                true if i < shape.len() => {
                    a *= shape[i];
                    i += 1;
                }
                false if j < here.len() => {
                    b *= here[j].len();
                    j += 1;
                }
                _ => return full(shape),
            }
        }
        let group = &here[second..j];
        if group.iter().flatten().all(|read| *read) {
            continue;
        }
        let mut axes: Reached = shape[first..i].iter().map(|&n| vec![false; n]).collect();
        for at in 0..a {
            if !element(at, group.iter().map(Vec::len))
                .zip(group)
                .all(|(k, own)| own[k])
            {
                continue;
            }
            let indices: Vec<usize> = element(at, shape[first..i].iter().copied()).collect();
            for (axis, k) in axes.iter_mut().zip(indices) {
                axis[k] = true;
            }
        }
        all[first..i].clone_from_slice(&axes);
    }
    all
}

/// The index along each axis of an element, in row-major order.
fn element(at: usize, sizes: impl Iterator<Item = usize>) -> impl Iterator<Item = usize> {
    let sizes: Vec<usize> = sizes.collect();
    let mut left = at;
    let mut indices: Vec<usize> = sizes
        .iter()
        .rev()
        .map(|&size| {
            let index = left % size;
            left /= size;
            index
        })
        .collect();
    indices.reverse();
    indices.into_iter()
}
