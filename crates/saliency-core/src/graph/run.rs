//! Running a graph, or a part of it.

use super::{
    Graph, Node, NodeId,
    execute::{execute, full},
    op::{Op, Size},
    value::Value,
};
use crate::{
    attribution::Evaluations,
    error::Error,
    run::{Run, guarded},
    target::Goal,
};

impl Graph {
    /// Values of the `wanted` nodes where the `feeds` have the given values. Only what lies
    /// between is computed, and what is no longer needed is dropped at once. On tracked feeds
    /// everything is on Burn's tape.
    ///
    /// # Panics
    /// Where a feed has another shape than its node, or a wanted node does not depend on the
    /// feeds alone.
    pub fn evaluate(&self, feeds: &[(NodeId, Value)], wanted: &[NodeId]) -> Vec<Value> {
        self.evaluate_with(feeds, wanted, &mut |_, value| value)
    }

    /// As [`evaluate`](Graph::evaluate), with every computed value passed through `change`.
    pub fn evaluate_with(
        &self,
        feeds: &[(NodeId, Value)],
        wanted: &[NodeId],
        change: &mut dyn FnMut(NodeId, Value) -> Value,
    ) -> Vec<Value> {
        let rows = self.rows(feeds).unwrap_or_else(|error| panic!("{error}"));
        let needed = self.needed(feeds, wanted);
        let mut uses = vec![0; self.nodes.len()];
        for id in (0..self.nodes.len()).filter(|&id| needed[id]) {
            for input in &self.nodes[id].inputs {
                uses[input.0] += 1;
            }
        }
        for id in wanted {
            uses[id.0] += 1;
        }
        let mut values: Vec<Option<Value>> = vec![None; self.nodes.len()];
        for (id, value) in feeds {
            values[id.0] = Some(value.clone());
        }
        for id in (0..self.nodes.len()).filter(|&id| needed[id]) {
            let node = &self.nodes[id];
            let value = match &node.op {
                Op::Constant => node.value.clone().expect("a constant has a value"),
                Op::Input => panic!("the wanted value depends on the input, which was not given"),
                Op::Full { value, dtype } => {
                    full(*value, *dtype, &node.shape_at(rows), &self.device)
                }
                op => {
                    let inputs: Vec<Value> = node
                        .inputs
                        .iter()
                        .map(|input| values[input.0].clone().expect("computed before"))
                        .collect();
                    // The inputs' last uses hand the buffers over, so Burn may reuse them.
                    for input in &node.inputs {
                        uses[input.0] -= 1;
                        if uses[input.0] == 0 {
                            values[input.0] = None;
                        }
                    }
                    execute(op, &inputs, &node.shape_at(rows), rows)
                }
            };
            values[id] = Some(change(NodeId(id), value));
        }
        wanted
            .iter()
            .map(|id| values[id.0].clone().expect("it was wanted"))
            .collect()
    }

    /// Which nodes must be computed.
    pub(super) fn needed(&self, feeds: &[(NodeId, Value)], wanted: &[NodeId]) -> Vec<bool> {
        let mut needed = vec![false; self.nodes.len()];
        let given = |id: NodeId| feeds.iter().any(|(feed, _)| *feed == id);
        let mut stack: Vec<NodeId> = wanted.to_vec();
        while let Some(id) = stack.pop() {
            if !needed[id.0] && !given(id) {
                needed[id.0] = true;
                stack.extend(&self.nodes[id.0].inputs);
            }
        }
        needed
    }

    /// The batch's rows, from the shape of a feed.
    pub(super) fn rows(&self, feeds: &[(NodeId, Value)]) -> Result<usize, Error> {
        let (id, value) = feeds.first().expect("something must be given");
        let (expected, got) = (&self.node(*id).shape, value.shape());
        let rows = expected
            .iter()
            .zip(&got)
            .find_map(|(size, &got)| match size {
                Size::Rows(times) if got % times == 0 => Some(got / times),
                _ => None,
            });
        let fits = |rows: &usize| self.node(*id).shape_at(*rows) == got;
        rows.filter(fits).ok_or_else(|| self.misfit(*id, value))
    }

    /// The error for a value of another shape than its node.
    pub(super) fn misfit(&self, id: NodeId, value: &Value) -> Error {
        let node = self.node(id);
        Error::Shape {
            what: "a node's value",
            expected: format!("{} at {}", described(&node.shape), node.name),
            got: value.shape(),
        }
    }

    /// For each of the `layers`, its value and the gradient of the score with respect to it, in
    /// one forward and one backward pass of the whole batch, as it is. The backward pass goes
    /// back only as far as the first of the layers.
    ///
    /// # Errors
    /// [`Error::Shape`], [`Error::ModelPanicked`], [`Error::NotDifferentiable`] where no
    /// gradient reaches a layer, [`Error::OutOfMemory`].
    pub fn activations_and_gradients(
        &self,
        input: Value,
        layers: &[NodeId],
        goal: &Goal,
        run: &Run,
    ) -> Result<Vec<(Value, Value)>, Error> {
        let shape = input.shape();
        self.check_input(&shape)?;
        run.count(Evaluations {
            forward: 0,
            gradient: shape[0],
        });
        if let &[layer] = layers
            && shape.len() == 4
            && !input.is_tracked()
        {
            let (x, name) = (input.clone().tensor::<4>(), &self.node(layer).name);
            if let Some(engine) = self.engine(&x).filter(|engine| engine.taps(name)) {
                let (value, gradient) = guarded(&shape, || {
                    if let Some((outputs, recorded)) = self.recorded(goal)
                        && recorded.node.as_ref() == Some(name)
                        && let Some(tape) = recorded.tape()
                    {
                        return engine.at_recorded(outputs, &tape, goal);
                    }
                    engine.at_node(x, name, goal)
                })??;
                return Ok(vec![(value.into(), gradient.into())]);
            }
        }
        if let Some((folded, layers)) = self.folded_at(layers) {
            return folded.tapped(input, &layers, goal);
        }
        self.tapped(input, layers, goal)
    }

    /// The folded graph and the same nodes in it, where folding leaves their values as they are.
    fn folded_at(&self, layers: &[NodeId]) -> Option<(&Graph, Vec<NodeId>)> {
        let folded = self.folded_once();
        let same = |&id: &NodeId| {
            let node = self.node(id);
            let changed = matches!(
                node.op,
                Op::Constant
                    | Op::Conv { .. }
                    | Op::ConvTranspose { .. }
                    | Op::Linear
                    | Op::BatchNorm { .. }
            );
            let same = |other: &Node| (&other.op, &other.name) == (&node.op, &node.name);
            let place = folded.nodes().find(|(_, other)| same(other));
            place.filter(|_| !changed).map(|(id, _)| id)
        };
        Some((folded, layers.iter().map(same).collect::<Option<_>>()?))
    }

    /// [`activations_and_gradients`](Graph::activations_and_gradients) of Burn's tape.
    fn tapped(
        &self,
        input: Value,
        layers: &[NodeId],
        goal: &Goal,
    ) -> Result<Vec<(Value, Value)>, Error> {
        let shape = input.shape();
        let input = input.inner();
        let mut taps: Vec<(NodeId, Value, Value)> = Vec::new();
        let mut tap = |id: NodeId, value: Value| -> Value {
            if !layers.contains(&id) {
                return value;
            }
            // What is tracked already keeps its tape: a leaf of zeros is added to it.
            let (leaf, tapped) = match value.is_tracked() {
                true => {
                    let zeros = value.clone().inner().zeros_like().leaf();
                    let tapped = &value + &zeros;
                    (zeros, tapped)
                }
                false => {
                    let leaf = value.clone().leaf();
                    (leaf.clone(), leaf)
                }
            };
            taps.push((id, value.inner(), leaf));
            tapped
        };
        let outputs = guarded(&shape, || {
            let input = tap(self.input, input);
            self.evaluate_with(&[(self.input, input)], &[self.output], &mut tap)
                .remove(0)
                .tensor::<2>()
        })?;
        let score = goal.scores(outputs)?.sum();
        if !score.is_tracked() {
            return Err(Error::NotDifferentiable);
        }
        let gradients = guarded(&shape, || score.backward())?;
        layers
            .iter()
            .map(|layer| {
                let (_, value, leaf) = taps
                    .iter()
                    .find(|(id, ..)| id == layer)
                    .ok_or(Error::NotDifferentiable)?;
                // The same layer may be asked for twice, so the gradient is not taken away.
                let gradient = leaf.typed().grad(&gradients);
                Ok((
                    value.clone(),
                    gradient.ok_or(Error::NotDifferentiable)?.into(),
                ))
            })
            .collect()
    }

    /// Checks that an input fits.
    pub(crate) fn check_input(&self, shape: &[usize]) -> Result<(), Error> {
        let expected = &self.node(self.input).shape;
        let fits = expected.len() == shape.len() && {
            let rows = shape[0];
            expected
                .iter()
                .zip(shape)
                .all(|(size, &got)| size.at(rows) == got)
        };
        match fits {
            true => Ok(()),
            false => Err(Error::Shape {
                what: "the input",
                expected: format!("{}, as the graph was traced", described(expected)),
                got: shape.to_vec(),
            }),
        }
    }

    /// Which nodes depend on a node, itself among them.
    pub(crate) fn dependents(&self, of: NodeId) -> Vec<bool> {
        let mut depends = vec![false; self.nodes.len()];
        depends[of.0] = true;
        for id in of.0 + 1..self.nodes.len() {
            depends[id] |= self.nodes[id].inputs.iter().any(|input| depends[input.0]);
        }
        depends
    }
}

/// `[rows, 3, 224, 224]`.
pub(super) fn described(shape: &[Size]) -> String {
    let sizes: Vec<String> = shape
        .iter()
        .map(|size| match size {
            Size::Fixed(size) => size.to_string(),
            Size::Rows(1) => "rows".into(),
            Size::Rows(times) => format!("{times} * rows"),
        })
        .collect();
    format!("[{}]", sizes.join(", "))
}
