//! Rewriting graphs without changing what they compute.

use super::{
    Graph, Node, NodeId,
    execute::{execute, split_last},
    op::{Binary, Op, Size, Unary},
    value::Value,
};

/// What every traced graph goes through: constants are computed once, operations that change
/// nothing are dropped, and products with constant matrices become `Linear`.
pub(super) fn canonical(graph: Graph) -> Graph {
    let graph = rewrite(&graph, constants);
    let graph = rewrite(&graph, identities);
    let graph = linear(&graph);
    without_dead(&graph)
}

impl Graph {
    /// The same function with BatchNorm folded into the convolutions and linear layers before
    /// it: w' = w gamma / sqrt(variance + epsilon), b' = (b - mean) gamma / sqrt(variance +
    /// epsilon) + beta. Folded nodes keep the convolution's name.
    pub fn folded(&self) -> Graph {
        let uses = self.uses();
        let folds = |graph: &Graph, node: &Node| -> Option<(NodeId, Value, Value)> {
            let Op::BatchNorm { epsilon } = node.op else {
                return None;
            };
            let before = graph.node(node.inputs[0]);
            let constant = |id: &NodeId| graph.constant(*id).cloned();
            let own: Vec<Value> = node.inputs[1..]
                .iter()
                .map(constant)
                .collect::<Option<_>>()?;
            let [gamma, beta, mean, variance] = &own[..] else {
                return None;
            };
            let weight = constant(before.inputs.get(1)?)?;
            let deviation = Value::from(variance.plus(epsilon).typed().sqrt());
            let scale = gamma / &deviation;
            // The weight's axis of output channels.
            let axis = match &before.op {
                Op::Conv { .. } => 0,
                Op::Linear if before.shape.len() == 2 => 1,
                _ => return None,
            };
            let mut shape = vec![1; weight.rank()];
            shape[axis] = weight.shape()[axis];
            let bias = match before.inputs.get(2) {
                Some(id) => constant(id)?,
                None => mean.zeros_like(),
            };
            let bias = &(&(&bias - mean) * &scale) + beta;
            Some((
                node.inputs[0],
                &weight * &scale.clone().reshape(&shape),
                bias,
            ))
        };
        let mut graph = Graph {
            nodes: Vec::new(),
            ..self.uncompiled()
        };
        let mut map: Vec<NodeId> = Vec::with_capacity(self.nodes.len());
        for node in &self.nodes {
            let folded = folds(self, node).filter(|(conv, ..)| uses[conv.0] == 1);
            let new = match folded {
                Some((conv, weight, bias)) => {
                    let before = self.node(conv).clone();
                    let mut constant = |value: Value, from: Option<&NodeId>, suffix: &str| {
                        let path = from
                            .and_then(|id| self.node(*id).path.clone())
                            .unwrap_or_else(|| format!("{}.{suffix}", before.name));
                        let shape = value.shape().into_iter().map(Size::Fixed).collect();
                        let mut node = Node::new(Op::Constant, Vec::new(), shape, Some(path));
                        node.name = node.path.clone().unwrap_or_default();
                        node.value = Some(value);
                        graph.add(node)
                    };
                    let weight = constant(weight, before.inputs.get(1), "weight");
                    let bias = constant(bias, before.inputs.get(2), "bias");
                    let inputs = vec![map[before.inputs[0].0], weight, bias];
                    graph.add(Node { inputs, ..before })
                }
                None => {
                    let inputs = node.inputs.iter().map(|id| map[id.0]).collect();
                    graph.add(Node {
                        inputs,
                        ..node.clone()
                    })
                }
            };
            map.push(new);
        }
        graph.input = map[self.input.0];
        graph.output = map[self.output.0];
        without_dead(&graph)
    }
}

/// Copies a graph node by node; `step` returns the node of the new graph that stands for the
/// given one, whose inputs are already those of the new graph.
fn rewrite(graph: &Graph, step: fn(&mut Graph, Node) -> NodeId) -> Graph {
    let mut new = Graph {
        nodes: Vec::new(),
        ..graph.uncompiled()
    };
    let mut map: Vec<NodeId> = Vec::with_capacity(graph.nodes.len());
    for node in &graph.nodes {
        let mut node = node.clone();
        for input in &mut node.inputs {
            *input = map[input.0];
        }
        map.push(step(&mut new, node));
    }
    new.input = map[graph.input.0];
    new.output = map[graph.output.0];
    new
}

/// Computes what depends on constants alone.
fn constants(graph: &mut Graph, mut node: Node) -> NodeId {
    let fixed = node.shape.iter().all(|size| matches!(size, Size::Fixed(_)));
    let values: Option<Vec<Value>> = node
        .inputs
        .iter()
        .map(|&id| graph.constant(id).cloned())
        .collect();
    if let Some(values) = values
        && fixed
        && !values.is_empty()
    {
        let path = node
            .inputs
            .iter()
            .find_map(|&id| graph.node(id).path.clone());
        node.value = Some(execute(&node.op, &values, &node.shape_at(1), 1));
        node.op = Op::Constant;
        node.inputs.clear();
        node.path = path;
    }
    graph.add(node)
}

fn identities(graph: &mut Graph, mut node: Node) -> NodeId {
    let Some(&from) = node.inputs.first() else {
        return graph.add(node);
    };
    let source = graph.node(from);
    let nothing = match &node.op {
        Op::Reshape | Op::Expand => source.shape == node.shape,
        Op::Permute(axes) => axes.iter().enumerate().all(|(i, &axis)| i == axis),
        Op::Unary(Unary::Add(by)) => *by == 0.0,
        Op::Unary(Unary::Mul(by) | Unary::Div(by) | Unary::Power(by)) => *by == 1.0,
        Op::Cat(_) => node.inputs.len() == 1,
        Op::Slice(spans) => spans.iter().zip(&source.shape).all(|(span, size)| {
            span.start == Size::Fixed(0) && span.end == *size && span.step == 1
        }),
        _ => false,
    };
    if nothing {
        return from;
    }
    if node.op == Op::Reshape && source.op == Op::Reshape {
        node.inputs[0] = source.inputs[0];
    }
    if let (Op::Reduce(how, axes), Op::Reduce(before, first)) = (&node.op, &source.op)
        && how == before
    {
        let axes = [&first[..], &axes[..]].concat();
        let from = source.inputs[0];
        node.op = Op::Reduce(*how, axes);
        node.inputs[0] = from;
    }
    graph.add(node)
}

/// Products with a constant matrix, and the addition of a constant vector after them.
fn linear(graph: &Graph) -> Graph {
    let uses = graph.uses();
    let mut products = graph.clone();
    for id in 0..products.nodes.len() {
        let node = &products.nodes[id];
        if node.op != Op::Matmul {
            continue;
        }
        let [x, weight] = node.inputs[..] else {
            continue;
        };
        let Some(value) = products.constant(weight).cloned() else {
            continue;
        };
        let shape = value.shape();
        let flat = shape.len() >= 2 && shape[..shape.len() - 2].iter().all(|&s| s == 1);
        let free = shape.len() == 2 || uses[weight.0] == 1;
        if flat && free && products.constant(x).is_none() {
            let matrix = &shape[shape.len() - 2..];
            let stored = &mut products.nodes[weight.0];
            stored.value = Some(value.reshape(matrix));
            stored.shape = matrix.iter().map(|&s| Size::Fixed(s)).collect();
            products.nodes[id].op = Op::Linear;
        }
    }
    let mut new = products.clone();
    for id in 0..products.nodes.len() {
        let node = &products.nodes[id];
        if node.op != Op::Binary(Binary::Add) {
            continue;
        }
        for (product, bias) in [
            (node.inputs[0], node.inputs[1]),
            (node.inputs[1], node.inputs[0]),
        ] {
            let before = products.node(product);
            let Some(value) = products.constant(bias) else {
                continue;
            };
            let shape = value.shape();
            let (leading, width) = split_last(&shape);
            let fits = before.op == Op::Linear
                && before.inputs.len() == 2
                && uses[product.0] == 1
                && leading == 1
                && (shape.len() == 1 || uses[bias.0] == 1)
                && before.shape.last() == Some(&Size::Fixed(width));
            if fits {
                let vector = value.clone().reshape(&[width]);
                let stored = &mut new.nodes[bias.0];
                stored.value = Some(vector);
                stored.shape = vec![Size::Fixed(width)];
                new.nodes[id].op = Op::Linear;
                new.nodes[id].inputs = vec![before.inputs[0], before.inputs[1], bias];
                break;
            }
        }
    }
    new
}

/// Drops what the output does not depend on.
fn without_dead(graph: &Graph) -> Graph {
    let mut alive = vec![false; graph.nodes.len()];
    let mut stack = vec![graph.output];
    alive[graph.input.0] = true;
    while let Some(id) = stack.pop() {
        if !alive[id.0] || id == graph.input {
            alive[id.0] = true;
            stack.extend(&graph.node(id).inputs);
        }
    }
    let mut new = Graph {
        nodes: Vec::new(),
        ..graph.uncompiled()
    };
    let mut map = vec![NodeId(0); graph.nodes.len()];
    for (id, node) in graph.nodes() {
        if alive[id.0] {
            let inputs = node.inputs.iter().map(|input| map[input.0]).collect();
            map[id.0] = new.add(Node {
                inputs,
                ..node.clone()
            });
        }
    }
    new.input = map[graph.input.0];
    new.output = map[graph.output.0];
    new
}
