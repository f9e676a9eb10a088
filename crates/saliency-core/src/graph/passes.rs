//! Rewriting graphs without changing what they compute.

use std::collections::HashMap;

use burn::tensor::DType;

use super::{
    Graph, Node, NodeId,
    execute::{execute, split_last},
    op::{Binary, Op, Size, Unary},
    recognise::recognise,
    value::Value,
};

/// What every graph goes through: constants are computed once, operations that change nothing
/// are dropped, compositions become the activations and norms they are, and products with
/// constant matrices become `Linear`.
pub(super) fn canonical(graph: Graph) -> Graph {
    let graph = rewrite(&graph, constants);
    let graph = rewrite(&graph, identities);
    let graph = rewrite(&graph, recognise);
    let graph = linear(&graph);
    without_dead(&graph)
}

/// A layer with weights and the BatchNorm after it.
struct Fold {
    layer: NodeId,
    weight: Value,
    bias: Value,
}

impl Graph {
    /// The same function with BatchNorm folded into the convolutions, transposed convolutions
    /// and linear layers before it: w' = w gamma / sqrt(variance + epsilon), b' = (b - mean)
    /// gamma / sqrt(variance + epsilon) + beta. Folded nodes keep the convolution's name, and
    /// a layer that is used several times with the same BatchNorm keeps one set of parameters.
    pub fn folded(&self) -> Graph {
        let uses = self.uses();
        let mut graph = Graph {
            nodes: Vec::new(),
            ..self.uncompiled()
        };
        let mut map: Vec<NodeId> = Vec::with_capacity(self.nodes.len());
        // The folded parameters of a layer's and a BatchNorm's own.
        let mut known: HashMap<Vec<NodeId>, [NodeId; 2]> = HashMap::new();
        for node in &self.nodes {
            let folded = self.fold(node).filter(|fold| uses[fold.layer.0] == 1);
            let new = match folded {
                Some(Fold {
                    layer,
                    weight,
                    bias,
                }) => {
                    let before = self.node(layer).clone();
                    let own = [&before.inputs[1..], &node.inputs[1..]].concat();
                    let [weight, bias] = *known.entry(own).or_insert_with(|| {
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
                        [
                            constant(weight, before.inputs.get(1), "weight"),
                            constant(bias, before.inputs.get(2), "bias"),
                        ]
                    });
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

    fn fold(&self, node: &Node) -> Option<Fold> {
        let Op::BatchNorm { epsilon } = node.op else {
            return None;
        };
        let before = self.node(node.inputs[0]);
        // In half precision the folded parameters are rounded once, not at each step.
        let dtype = self.constant(*before.inputs.get(1)?)?.dtype();
        let exact = if dtype.size() < 4 { DType::F32 } else { dtype };
        let constant = |id: &NodeId| Some(self.constant(*id)?.cast(exact));
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
        let shape = weight.shape();
        // The weight with its output channels apart, and the scale beside them.
        let (apart, beside) = match &before.op {
            Op::Conv { .. } => {
                let mut beside = vec![1; shape.len()];
                beside[0] = shape[0];
                (shape.clone(), beside)
            }
            Op::ConvTranspose { groups, .. } => {
                let apart = [&[*groups, shape[0] / groups][..], &shape[1..]].concat();
                let mut beside = vec![1; apart.len()];
                (beside[0], beside[2]) = (*groups, shape[1]);
                (apart, beside)
            }
            Op::Linear if before.shape.len() == 2 => (shape.clone(), vec![1, shape[1]]),
            _ => return None,
        };
        let bias = match before.inputs.get(2) {
            Some(id) => constant(id)?,
            None => mean.zeros_like(),
        };
        let scaled = &weight.reshape(&apart) * &scale.clone().reshape(&beside);
        Some(Fold {
            layer: node.inputs[0],
            weight: scaled.reshape(&shape).cast(dtype),
            bias: (&(&(&bias - mean) * &scale) + beta).cast(dtype),
        })
    }

    /// The float type of a node; `None` for other kinds.
    fn float_type(&self, id: NodeId) -> Option<DType> {
        let mut id = id;
        loop {
            let node = self.node(id);
            let known = match &node.op {
                Op::Input => self.dtype,
                Op::Constant => node.value.as_ref()?.dtype(),
                Op::Full { dtype, .. } | Op::Cast(dtype) => *dtype,
                Op::ArgMax(_)
                | Op::ArgMin(_)
                | Op::ArgSort { .. }
                | Op::IsNan
                | Op::IsInf
                | Op::Compare(_)
                | Op::CompareTo(..)
                | Op::Not
                | Op::And
                | Op::Or
                | Op::Xor => return None,
                _ => {
                    id = *node.inputs.first()?;
                    continue;
                }
            };
            return known.is_float().then_some(known);
        }
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
        Op::Cast(dtype) => graph.float_type(from) == Some(*dtype),
        Op::Pad { padding, .. } => padding.iter().all(|&(before, after)| before + after == 0),
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
pub(super) fn without_dead(graph: &Graph) -> Graph {
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

#[cfg(test)]
mod tests {
    use burn::{
        module::Module,
        nn::{
            BatchNorm, BatchNormConfig, PaddingConfig2d,
            conv::{Conv2d, Conv2dConfig, ConvTranspose2d, ConvTranspose2dConfig},
        },
        tensor::{Device, Tensor, TensorData, ops::PadMode},
    };

    use super::*;
    use crate::{
        Model,
        graph::Randomisation,
        methods::testing::{assert_close, image, seeded},
    };

    #[derive(Module, Debug)]
    struct Twice {
        stem: Conv2d,
        conv: Conv2d,
        norm: BatchNorm,
        up: ConvTranspose2d,
        grouped: BatchNorm,
    }

    impl Twice {
        fn new() -> Self {
            let device = Device::flex();
            let conv = |from| {
                Conv2dConfig::new([from, 4], [3, 3])
                    .with_padding(PaddingConfig2d::Explicit(1, 1, 1, 1))
                    .init(&device)
            };
            let norm = |channels, seed| {
                let mut norm = BatchNormConfig::new(channels).init(&device);
                norm.gamma = seeded([channels], seed, 1.0, &device);
                norm.beta = seeded([channels], seed + 1, 1.0, &device);
                norm
            };
            let up = ConvTranspose2dConfig::new([4, 6], [2, 2])
                .with_stride([2, 2])
                .with_groups(2);
            Twice {
                stem: conv(3),
                conv: conv(4),
                norm: norm(4, 1),
                up: up.init(&device),
                grouped: norm(6, 3),
            }
            .valid()
        }

        fn forward(&self, x: Tensor<4>) -> Tensor<2> {
            let step = |x: Tensor<4>| self.norm.forward(self.conv.forward(x)).tanh();
            let x = step(step(self.stem.forward(x)));
            self.grouped.forward(self.up.forward(x)).flatten(1, 3)
        }
    }

    fn conv_weights(graph: &Graph) -> usize {
        let all = graph.parameters();
        all.filter(|(path, _)| *path == "conv.weight").count()
    }

    #[test]
    fn what_is_used_twice_is_folded_once() {
        let net = Twice::new();
        let x = image(2, 1);
        let graph = Graph::trace(&net, |m, x| m.forward(x), &x).unwrap();
        let folded = graph.folded();
        assert!(folded.layers().iter().all(|layer| layer.op != "batch_norm"));
        assert_close(folded.forward(x.clone()), net.forward(x.clone()), 1e-5);
        assert_eq!(conv_weights(&folded), 1);
        // Other values reach both uses.
        let (_, weight) = folded.parameters().find(|p| p.0 == "conv.weight").unwrap();
        let zero = HashMap::from([("conv.weight".to_owned(), weight.zeros_like())]);
        let silent = folded.with_parameters(&zero).unwrap();
        let rows = silent.forward(x);
        assert_close(rows.clone().narrow(0, 0, 1), rows.narrow(0, 1, 1), 1e-6);
    }

    /// Where one convolution has two BatchNorms, both of its folded weights are its own.
    #[test]
    fn what_is_folded_in_two_ways_changes_together() {
        let net = Twice::new();
        let both = |m: &Twice, x: Tensor<4>| {
            let x = m.stem.forward(x);
            let a = m.norm.forward(m.conv.forward(x.clone()));
            (a + m.conv.forward(x)).flatten::<2>(1, 3)
        };
        let x = image(2, 1);
        let graph = Graph::trace(&net, both, &x).unwrap().folded();
        assert_eq!(conv_weights(&graph), 2);
        let changed = graph
            .randomised(&["conv"], 3, Randomisation::Shuffle)
            .unwrap();
        let all: Vec<Vec<f32>> = [&graph, &changed]
            .iter()
            .flat_map(|g| g.parameters())
            .filter(|(path, _)| *path == "conv.weight")
            .map(|(_, value)| value.to_vec().unwrap())
            .collect();
        let places = |before: &[f32], after: &[f32]| -> Vec<usize> {
            let at = |v: &f32| before.iter().position(|w| w == v).unwrap();
            after.iter().map(at).collect()
        };
        assert_ne!(all[0], all[2]);
        assert_eq!(places(&all[0], &all[2]), places(&all[1], &all[3]));
    }

    #[test]
    fn casts_to_the_same_type_and_empty_pads_are_dropped() {
        let net = Twice::new();
        let forward = |m: &Twice, x: Tensor<4>| {
            let x = m
                .stem
                .forward(x)
                .pad([(0, 0), (0, 0)], PadMode::Constant(0.5));
            x.cast(DType::F64)
                .tanh()
                .cast(DType::F32)
                .flatten::<2>(1, 3)
        };
        let x = image(2, 1);
        let graph = Graph::trace(&net, forward, &x).unwrap();
        let ops = |graph: &Graph| -> Vec<String> {
            graph.layers().into_iter().map(|layer| layer.op).collect()
        };
        assert_eq!(ops(&graph), ["conv", "cast", "tanh", "cast", "reshape"]);
        assert_close(graph.forward(x.clone()), forward(&net, x), 1e-6);
        let double = super::canonical(graph.cast(DType::F64));
        assert_eq!(ops(&double), ["conv", "tanh", "reshape"]);
    }

    /// In 64 bits, what is added has 64 bits too.
    #[test]
    fn pads_are_as_exact_as_their_type() {
        let device = Device::flex();
        let data = TensorData::new(vec![1.0f64, 2.0], [1, 2]);
        let x = Value::from_data(data, &device);
        let pad = Op::Pad {
            padding: vec![(0, 0), (1, 2)],
            with: super::super::PadWith::Constant(0.1),
        };
        let got = execute(&pad, &[x], &[1, 5], 1).typed();
        let got = got.try_into_vec_as::<f64>().unwrap();
        assert_eq!(got, [0.1, 1.0, 2.0, 0.1, 0.1]);
    }
}
