//! Which operation of a graph gets which rule.

use std::collections::HashMap;

use super::{
    BiasShare, Lrp,
    rules::{LrpRule, Role, Sharing},
};
use crate::{
    error::Error,
    graph::{Along, Binary, Graph, Layer, Node, NodeId, Op, Reduce, Rule, Site, Unary, Value},
};

/// The rules of one graph.
pub(crate) struct Plan<'a> {
    lrp: &'a Lrp,
    /// Rules asked for by name.
    named: HashMap<NodeId, &'a LrpRule>,
    /// Layers with weights that see the input, not another such layer's output.
    first: Vec<bool>,
    non_negative: Vec<bool>,
    gates: Vec<bool>,
    sums: LrpRule,
}

/// What an operation is to relevance.
enum Kind {
    /// A layer with weights: the place of the signal and of the weight, the axis of channels.
    Weighted {
        signal: usize,
        weight: usize,
        channels: usize,
    },
    /// A weighted sum of its inputs with positive weights.
    Sum,
    /// a - b, x + number.
    Difference,
    /// Several inputs multiplied.
    Product,
    /// All to one input.
    Pass(usize),
    /// It only moves or selects values.
    Move,
}

impl<'a> Plan<'a> {
    pub fn new(lrp: &'a Lrp, graph: &Graph) -> Result<Self, Error> {
        let depends = graph.dependents(graph.input());
        let count = depends.len();
        let mut behind = vec![false; count];
        let mut first = vec![false; count];
        let mut kinds = Vec::with_capacity(count);
        for (id, node) in graph.nodes() {
            let needed: Vec<bool> = node.inputs.iter().map(|input| depends[input.0]).collect();
            let kind = kind(node, &needed);
            behind[id.0] = node.inputs.iter().any(|input| behind[input.0]);
            if let Kind::Weighted { .. } = kind
                && depends[id.0]
            {
                first[id.0] = !behind[id.0];
                behind[id.0] = true;
            }
            kinds.push(kind);
        }
        let mut plan = Plan {
            lrp,
            named: HashMap::new(),
            first,
            non_negative: non_negative(graph),
            gates: gates(graph),
            sums: LrpRule::Epsilon(lrp.stabiliser),
        };
        for (pattern, rule) in &lrp.rules {
            let mut found = false;
            for (id, node) in graph.nodes() {
                let takes = match kinds[id.0] {
                    _ if !depends[id.0] || id == graph.input() => false,
                    Kind::Weighted { .. } | Kind::Sum => true,
                    Kind::Difference => matches!(rule, LrpRule::Epsilon(_)) || !rule.shares(),
                    _ => !rule.shares(),
                };
                if takes && matches(pattern, &node.name) {
                    found = true;
                    plan.named.entry(id).or_insert(rule);
                }
            }
            if !found {
                return Err(no_layer(graph, pattern));
            }
        }
        Ok(plan)
    }

    /// The same with one rule for the layers whose output no other layer with weights sees.
    pub fn with_last(mut self, graph: &Graph, rule: &'a LrpRule) -> Self {
        let depends = graph.dependents(graph.input());
        let mut seen = vec![false; depends.len()];
        for id in (0..depends.len()).rev() {
            let node = graph.node(NodeId(id));
            let needed: Vec<bool> = node.inputs.iter().map(|input| depends[input.0]).collect();
            let weighted = depends[id] && matches!(kind(node, &needed), Kind::Weighted { .. });
            if weighted && !seen[id] {
                self.named.insert(NodeId(id), rule);
            }
            for input in &node.inputs {
                seen[input.0] |= seen[id] || weighted;
            }
        }
        self
    }

    fn weighted(&self, site: &Site) -> &LrpRule {
        match (&self.lrp.first, &site.node.op) {
            (Some(first), _) if self.first[site.id.0] => first,
            (_, Op::Conv { .. } | Op::ConvTranspose { .. }) => &self.lrp.convolution,
            _ => &self.lrp.dense,
        }
    }

    fn sharing<'b>(&self, rule: &'b LrpRule, roles: Vec<Role>, channels: usize) -> Sharing<'b> {
        Sharing {
            rule,
            stabiliser: self.lrp.stabiliser,
            bias: self.lrp.bias,
            roles,
            channels,
            non_negative: false,
        }
    }
}

fn no_layer(graph: &Graph, pattern: &str) -> Error {
    match graph.layer(&Layer::Named(pattern.into())) {
        Err(unknown) if !pattern.contains('*') => unknown,
        _ => Error::UnknownLayer {
            name: pattern.into(),
            hint: "nothing of this name takes such a rule: activations take pass and gradient, layers with weights, sums and pools any".into(),
        },
    }
}

type Passed = Result<Option<Vec<Option<Value>>>, Error>;

impl Rule for Plan<'_> {
    fn backward(&self, site: &Site, relevance: &Value) -> Passed {
        let named = self.named.get(&site.id).copied();
        match (named, kind(site.node, site.needed)) {
            (Some(LrpRule::Gradient), _) => Ok(None),
            (Some(LrpRule::Pass), Kind::Pass(to)) => pass(site, to, relevance),
            (Some(LrpRule::Pass), kind) => {
                let to = match kind {
                    Kind::Weighted { signal, .. } => signal,
                    _ => site.needed.iter().position(|&n| n).unwrap_or(0),
                };
                match site.inputs[to].shape() == relevance.shape() {
                    true => pass(site, to, relevance),
                    false => Err(Error::option(
                        "rules",
                        format!("{} = pass", site.node.name),
                        "this layer's input has another shape than its output",
                    )),
                }
            }
            (
                named,
                Kind::Weighted {
                    signal,
                    weight,
                    channels,
                },
            ) => {
                let rule = named.unwrap_or_else(|| self.weighted(site));
                if !rule.shares() {
                    return match rule {
                        LrpRule::Gradient => Ok(None),
                        _ => pass(site, signal, relevance),
                    };
                }
                let mut roles = vec![Role::Bias; site.inputs.len()];
                roles[signal] = Role::Signal;
                roles[weight] = Role::Weight;
                let source = site.node.inputs[signal];
                let sharing = Sharing {
                    non_negative: self.non_negative[source.0],
                    ..self.sharing(rule, roles, channels)
                };
                sharing.share(site, relevance).map(Some)
            }
            (_, Kind::Difference)
                if self.lrp.bias == BiasShare::Ignored && site.inputs.len() == 1 =>
            {
                pass(site, 0, relevance)
            }
            (named, Kind::Sum | Kind::Difference) => {
                let role = |needed: &bool| match needed {
                    true => Role::Signal,
                    false => Role::Bias,
                };
                let roles = site.needed.iter().map(role).collect();
                let rule = named.unwrap_or(&self.sums);
                self.sharing(rule, roles, 1)
                    .share(site, relevance)
                    .map(Some)
            }
            (_, Kind::Product) => self.product(site, relevance),
            (_, Kind::Pass(to)) => pass(site, to, relevance),
            (_, Kind::Move) => Ok(None),
        }
    }
}

impl Plan<'_> {
    /// A signal takes all where the other factor is a gate or a place; otherwise both get the
    /// same.
    fn product(&self, site: &Site, relevance: &Value) -> Passed {
        let mut takers: Vec<usize> = (0..site.inputs.len()).filter(|&i| site.needed[i]).collect();
        let places = matches!(site.node.op, Op::DeformConv { .. } | Op::GridSample { .. });
        if places && site.needed[0] {
            takers = vec![0];
        }
        let signals: Vec<usize> = takers
            .iter()
            .copied()
            .filter(|&i| !self.gates[site.node.inputs[i].0])
            .collect();
        if !signals.is_empty() {
            takers = signals;
        }
        if let Op::Binary(_) = site.node.op {
            let share = relevance.times(1.0 / takers.len() as f64);
            let each = |i: usize| {
                let taken = takers.contains(&i);
                taken.then(|| share.sum_to(&site.inputs[i].shape()))
            };
            return Ok(Some((0..site.inputs.len()).map(each).collect()));
        }
        let ratio = super::rules::divide(relevance, site.output, self.lrp.stabiliser)
            .times(1.0 / takers.len() as f64);
        let mut passed = site.derivative(&ratio)?;
        for (i, value) in passed.iter_mut().enumerate() {
            *value = value
                .take()
                .filter(|_| takers.contains(&i))
                .map(|value| &value * &site.inputs[i]);
        }
        Ok(Some(passed))
    }
}

fn pass(site: &Site, to: usize, relevance: &Value) -> Passed {
    let mut all = vec![None; site.inputs.len()];
    all[to] = Some(relevance.sum_to(&site.inputs[to].shape()));
    Ok(Some(all))
}

fn kind(node: &Node, needed: &[bool]) -> Kind {
    let only = |index: usize| needed.iter().enumerate().all(|(i, &n)| n == (i == index));
    let rank = node.shape.len();
    match &node.op {
        Op::Conv { .. } | Op::ConvTranspose { .. } if only(0) => Kind::Weighted {
            signal: 0,
            weight: 1,
            channels: 1,
        },
        Op::Linear | Op::Matmul if only(0) => Kind::Weighted {
            signal: 0,
            weight: 1,
            channels: rank - 1,
        },
        Op::Matmul if only(1) => Kind::Weighted {
            signal: 1,
            weight: 0,
            channels: rank - 1,
        },
        Op::Conv { .. } | Op::ConvTranspose { .. } | Op::Linear | Op::Matmul => Kind::Product,
        Op::Binary(Binary::Add)
        | Op::AvgPool { .. }
        | Op::AdaptiveAvgPool { .. }
        | Op::Interpolate { .. }
        | Op::Reduce(Reduce::Sum | Reduce::Mean, _)
        | Op::Along(Along::CumulativeSum, _) => Kind::Sum,
        Op::GridSample { .. } if only(0) => Kind::Sum,
        Op::DeformConv { .. } | Op::GridSample { .. } => Kind::Product,
        Op::Binary(Binary::Sub) | Op::Unary(Unary::Add(_)) => Kind::Difference,
        Op::Binary(Binary::Mul) if needed == [true, true] => Kind::Product,
        Op::Binary(_) => Kind::Pass(usize::from(!needed[0])),
        Op::Unary(_)
        | Op::PRelu
        | Op::BatchNorm { .. }
        | Op::LayerNorm { .. }
        | Op::GroupNorm { .. }
        | Op::RmsNorm { .. }
        | Op::Standardise { .. }
        | Op::Along(..) => Kind::Pass(0),
        _ => Kind::Move,
    }
}

/// Whether `name` is `pattern` (in which `*` stands for anything), one of its repeated uses
/// `pattern#2`, or a part of the module `pattern`.
fn matches(pattern: &str, name: &str) -> bool {
    if pattern == name {
        return true;
    }
    let name = name.split('#').next().unwrap_or(name);
    let mut parts = pattern.split('*');
    let Some(rest) = parts.next().and_then(|start| name.strip_prefix(start)) else {
        return false;
    };
    let Some(last) = parts.next_back() else {
        return rest.is_empty() || rest.starts_with('.');
    };
    let mut rest = rest;
    for part in parts {
        let Some(at) = rest.find(part) else {
            return false;
        };
        rest = &rest[at + part.len()..];
    }
    rest.ends_with(last)
}

/// Which nodes cannot be negative, as far as their operations tell.
fn non_negative(graph: &Graph) -> Vec<bool> {
    let mut known: Vec<bool> = Vec::new();
    for (_, node) in graph.nodes() {
        let all = !node.inputs.is_empty() && node.inputs.iter().all(|input| known[input.0]);
        known.push(match &node.op {
            Op::Unary(
                Unary::Relu
                | Unary::Sigmoid
                | Unary::HardSigmoid { .. }
                | Unary::Softplus { .. }
                | Unary::Exp,
            )
            | Op::Along(Along::Softmax | Along::QuietSoftmax, _) => true,
            Op::Unary(Unary::Clamp { min, .. }) => *min >= 0.0,
            Op::MaxPool(_)
            | Op::AvgPool { .. }
            | Op::AdaptiveAvgPool { .. }
            | Op::Reduce(..)
            | Op::Reshape
            | Op::Expand
            | Op::Permute(_)
            | Op::Flip(_)
            | Op::Slice(_)
            | Op::Cat(_)
            | Op::Repeat(_)
            | Op::Binary(Binary::Add | Binary::Mul) => all,
            _ => false,
        });
    }
    known
}

/// Which nodes are gates: sigmoids, softmaxes and the like, moved, scaled or shifted.
fn gates(graph: &Graph) -> Vec<bool> {
    let depends = graph.dependents(graph.input());
    let mut known: Vec<bool> = Vec::new();
    for (_, node) in graph.nodes() {
        let from = node.inputs.iter().any(|input| known[input.0]);
        known.push(match &node.op {
            Op::Unary(Unary::Sigmoid | Unary::HardSigmoid { .. })
            | Op::Along(Along::Softmax | Along::QuietSoftmax, _) => true,
            Op::Unary(Unary::Clamp { min, max }) => *min >= 0.0 && max.is_finite(),
            Op::Unary(Unary::Neg | Unary::Add(_) | Unary::Mul(_) | Unary::Div(_))
            | Op::Reshape
            | Op::Expand
            | Op::Permute(_)
            | Op::Slice(_)
            | Op::Repeat(_) => from,
            Op::Binary(Binary::Sub) => from && node.inputs.iter().any(|id| !depends[id.0]),
            _ => false,
        });
    }
    known
}
