//! The attention weights of a transformer, in its graph: softmaxes of shape
//! `[rows, heads, tokens, tokens]`.

use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

use crate::{
    error::Error,
    graph::{Along, Graph, Layer, Node, NodeId, Op, Size, Value},
    methods::tokens::{self, to_input},
};

/// Whose attention is shown: the token that asks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Query {
    /// The class token, which is the first; the mean over all tokens where the model has none.
    #[default]
    Auto,
    /// The mean over all tokens.
    Mean,
    /// One token, by number; class and register tokens count.
    Token(usize),
}

impl Query {
    /// What the token sees: its row of `[rows, tokens, tokens]`, as a map over the input.
    pub(crate) fn map<const D: usize>(
        self,
        weights: Tensor<3>,
        input: &Tensor<D>,
    ) -> Result<Tensor<D>, Error> {
        let [rows, tokens, _] = weights.dims();
        let dims = input.dims();
        let token = match self {
            Query::Mean => None,
            Query::Token(token) if token >= tokens => {
                let requirement = "it must be below the number of tokens";
                return Err(Error::option("query", token, requirement));
            }
            Query::Token(token) => Some(token),
            Query::Auto => {
                let extra = match D {
                    2 => tokens.saturating_sub(dims[1]),
                    _ => tokens::grid(tokens, &dims[crate::axes::positions(D)])?.extra,
                };
                (extra > 0).then_some(0)
            }
        };
        let row = match token {
            Some(token) => weights.narrow(1, token, 1),
            None => weights.mean_dim(1),
        };
        to_input(row.reshape([rows, tokens]), input)
    }
}

/// Whether a node holds attention weights, and of how many tokens.
fn tokens_of(node: &Node) -> Option<usize> {
    let Op::Along(Along::Softmax, axis) = node.op else {
        return None;
    };
    match node.shape[..] {
        [
            Size::Rows(1),
            Size::Fixed(_),
            Size::Fixed(a),
            Size::Fixed(b),
        ]
        | [Size::Rows(_), Size::Fixed(a), Size::Fixed(b)]
            if a == b && a > 1 && axis + 1 == node.shape.len() =>
        {
            Some(a)
        }
        _ => None,
    }
}

/// All attention weights, in order.
pub(crate) fn attentions(graph: &Graph) -> Result<Vec<NodeId>, Error> {
    let depends = graph.dependents(graph.input());
    let found: Vec<NodeId> = graph
        .nodes()
        .filter(|(id, node)| depends[id.0] && tokens_of(node).is_some())
        .map(|(id, _)| id)
        .collect();
    match found.is_empty() {
        true => Err(Error::NoAttention),
        false => Ok(found),
    }
}

/// All attention weights of a model whose tokens are the same all the way.
pub(crate) fn even_attentions(graph: &Graph) -> Result<Vec<NodeId>, Error> {
    let found = attentions(graph)?;
    let tokens: Vec<usize> = found
        .iter()
        .filter_map(|&id| tokens_of(graph.node(id)))
        .collect();
    match tokens.iter().all(|&count| count == tokens[0]) {
        true => Ok(found),
        false => Err(Error::Shape {
            what: "the attention",
            expected: "the same number of tokens in all layers; attention-map shows one layer"
                .into(),
            got: tokens,
        }),
    }
}

/// The attention weights of a layer: by the softmax's own name, or that of a module with one
/// attention inside. The last without a name.
pub(crate) fn attention_of(graph: &Graph, layer: Option<&Layer>) -> Result<NodeId, Error> {
    let all = attentions(graph)?;
    let Some(Layer::Named(name)) = layer else {
        return Ok(all[all.len() - 1]);
    };
    let prefix = format!("{name}.");
    let inside: Vec<NodeId> = graph
        .nodes()
        .filter(|(_, node)| node.op != Op::Constant && node.name.starts_with(&prefix))
        .map(|(id, _)| id)
        .collect();
    let (first, last) = match inside[..] {
        [] => {
            let id = graph.layer(&Layer::Named(name.clone()))?;
            (id, id)
        }
        [first, .., last] => (first, last),
        [only] => (only, only),
    };
    let found: Vec<NodeId> = all
        .iter()
        .copied()
        .filter(|id| (first..=last).contains(id))
        .collect();
    let names = |ids: &[NodeId]| -> String {
        let names: Vec<&str> = ids.iter().map(|id| graph.node(*id).name.as_str()).collect();
        names.join(", ")
    };
    match found[..] {
        [one] => Ok(one),
        [] => Err(Error::UnknownLayer {
            name: name.clone(),
            hint: format!("it has no attention; choose one of {}", names(&all)),
        }),
        _ => Err(Error::UnknownLayer {
            name: name.clone(),
            hint: format!("it has several attentions; choose one of {}", names(&found)),
        }),
    }
}

/// Weights or gradients of one attention as `[rows, heads, tokens, tokens]`.
pub(crate) fn matrices(value: Value, rows: usize) -> Tensor<4> {
    let shape = value.shape();
    let tokens = shape[shape.len() - 1];
    let heads = shape.iter().product::<usize>() / (rows * tokens * tokens);
    value.reshape(&[rows, heads, tokens, tokens]).tensor()
}
