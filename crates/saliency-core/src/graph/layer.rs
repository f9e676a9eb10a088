use std::fmt;

use serde::{Deserialize, Serialize};
use strsim::levenshtein;

use super::{Graph, NodeId, Op, Size, run::described};
use crate::error::Error;

/// Which layer a method looks at: the last one with positions, or one by name.
///
/// The last one with positions is the last through which everything goes that the output reads
/// of all places: in a transformer that ends with its class token, what its last attention
/// reads.
///
/// A name is that of a node (`layer4.2.conv3`, `relu_17`) or of a module (`layer4`): then it
/// is the module's output.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub enum Layer {
    /// The last layer that still has positions: what Grad-CAM wants.
    #[default]
    LastSpatial,
    /// By name.
    Named(String),
}

impl Layer {
    /// The last layer that still has positions.
    pub fn last_spatial() -> Self {
        Layer::LastSpatial
    }
}

const LAST_SPATIAL: &str = "last-spatial";

impl From<&str> for Layer {
    fn from(name: &str) -> Self {
        match name {
            LAST_SPATIAL => Layer::LastSpatial,
            name => Layer::Named(name.into()),
        }
    }
}

impl From<String> for Layer {
    fn from(name: String) -> Self {
        Layer::from(name.as_str())
    }
}

impl From<Layer> for String {
    fn from(layer: Layer) -> Self {
        layer.to_string()
    }
}

impl fmt::Display for Layer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Layer::LastSpatial => LAST_SPATIAL,
            Layer::Named(name) => name,
        })
    }
}

/// One line of the list of layers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LayerInfo {
    /// The node's name.
    pub name: String,
    /// The operation's.
    pub op: String,
    /// The output's shape, with `rows` for the batch.
    pub shape: String,
    /// How many numbers its own parameters have.
    pub parameters: usize,
}

impl Graph {
    /// All nodes but the input and the constants.
    pub fn layers(&self) -> Vec<LayerInfo> {
        self.nodes()
            .filter(|(_, node)| !matches!(node.op, Op::Input | Op::Constant))
            .map(|(_, node)| LayerInfo {
                name: node.name.clone(),
                op: node.op.name().into(),
                shape: described(&node.shape),
                parameters: node
                    .inputs
                    .iter()
                    .filter_map(|id| self.constant(*id))
                    .map(|value| value.shape().iter().product::<usize>())
                    .sum(),
            })
            .collect()
    }

    /// The node of a layer.
    ///
    /// # Errors
    /// [`Error::UnknownLayer`] with the nearest names; [`Error::NoSpatialLayer`].
    pub fn layer(&self, layer: &Layer) -> Result<NodeId, Error> {
        match layer {
            Layer::LastSpatial => self.last_spatial(),
            Layer::Named(name) => self.named(name),
        }
    }

    fn named(&self, name: &str) -> Result<NodeId, Error> {
        let found = self
            .nodes()
            .find(|(_, node)| node.name == name && node.op != Op::Constant);
        match found {
            Some((id, _)) => Ok(id),
            None => self.module_output(name).ok_or_else(|| {
                let near = self.layers_like(name);
                Error::UnknownLayer {
                    name: name.into(),
                    hint: format!("did you mean {}?", near.join(", ")),
                }
            }),
        }
    }

    /// The output of a module: the first node through which everything goes that the module's
    /// own nodes make, and the activation that follows it.
    fn module_output(&self, module: &str) -> Option<NodeId> {
        let prefix = format!("{module}.");
        let inside: Vec<NodeId> = self
            .nodes()
            .filter(|(_, node)| node.op != Op::Constant && node.name.starts_with(&prefix))
            .map(|(id, _)| id)
            .collect();
        let users = self.users();
        // Walking forward, the open ends are the nodes whose users have not been reached. Where
        // there is one, everything goes through it.
        let last = *inside.last()?;
        let mut reached = vec![false; self.nodes.len()];
        for id in &inside {
            reached[id.0] = true;
        }
        let mut output = None;
        for id in inside[0].0..self.nodes.len() {
            let here = NodeId(id);
            reached[id] |= self.node(here).inputs.iter().any(|input| reached[input.0]);
            if !reached[id] || here < last {
                continue;
            }
            let open = (inside[0].0..=id)
                .filter(|&n| reached[n] && users[n].iter().any(|user| user.0 > id));
            if open.take(2).eq([id]) || here == self.output {
                output = Some(here);
                break;
            }
        }
        let output = output?;
        let follows = match users[output.0][..] {
            [only] if self.node(only).op.is_activation() => only,
            _ => output,
        };
        Some(follows)
    }

    /// Which nodes use each node.
    pub(crate) fn users(&self) -> Vec<Vec<NodeId>> {
        let mut users = vec![Vec::new(); self.nodes.len()];
        for (id, node) in self.nodes() {
            for input in &node.inputs {
                users[input.0].push(id);
            }
        }
        users
    }

    /// The last node of shape [rows, channels, positions ...] with more than one position
    /// along each axis, or of a transformer's tokens [rows, tokens, width], through which all
    /// others go whose positions reach the output: the last feature map of a convolutional
    /// network, and what the last attention reads in a transformer that ends with its class
    /// token.
    fn last_spatial(&self) -> Result<NodeId, Error> {
        let from_input = self.dependents(self.input);
        let several = |size: &Size| matches!(size, Size::Fixed(size) if *size > 1);
        let spatial: Vec<NodeId> = self
            .nodes()
            .filter(|(id, node)| {
                from_input[id.0]
                    && *id != self.input
                    && node.shape.first() == Some(&Size::Rows(1))
                    && node.shape.len() >= 3
                    && node.shape[1..].iter().all(several)
            })
            .map(|(id, _)| id)
            .collect();
        let reached = self.mostly_reached();
        let open: Vec<NodeId> = spatial.iter().copied().filter(|id| reached[id.0]).collect();
        let all_go_through = |id: &NodeId| {
            let mut joined = self.dependents(*id);
            for at in (0..=id.0).rev() {
                if joined[at] {
                    self.nodes[at]
                        .inputs
                        .iter()
                        .for_each(|input| joined[input.0] = true);
                }
            }
            open.iter().all(|other| joined[other.0])
        };
        open.iter()
            .rev()
            .find(|id| all_go_through(id))
            .or(open.last())
            .or(spatial.last())
            .copied()
            .ok_or(Error::NoSpatialLayer)
    }

    /// The names most like a wrong one, of nodes and of modules that have an output.
    fn layers_like(&self, name: &str) -> Vec<String> {
        let nodes: Vec<&str> = self
            .nodes()
            .filter(|(_, node)| !matches!(node.op, Op::Constant))
            .map(|(_, node)| node.name.as_str())
            .collect();
        let modules = nodes.iter().flat_map(|name| prefixes(name));
        let modules: Vec<&str> = nearest(name, modules)
            .into_iter()
            .filter(|module| self.module_output(module).is_some())
            .collect();
        let both = nodes.iter().copied().chain(modules);
        nearest(name, both).into_iter().map(str::to_owned).collect()
    }
}

/// `layer4` and `layer4.2` of `layer4.2.conv3`.
pub(super) fn prefixes(name: &str) -> impl Iterator<Item = &str> {
    name.match_indices('.').map(|(at, _)| &name[..at])
}

/// The three names that are most like a wrong one, those that begin like it first.
pub(super) fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    let mut known: Vec<(usize, usize, &str)> = known
        .map(|other| {
            let shared = name.bytes().zip(other.bytes());
            let shared = shared.take_while(|(a, b)| a == b).count();
            (levenshtein(name, other), name.len() - shared, other)
        })
        .collect();
    known.sort();
    known.dedup();
    known.truncate(3);
    known.into_iter().map(|(.., name)| name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_names_begin_alike() {
        let known = [
            "relu_4",
            "layer1",
            "layer3",
            "layer4",
            "layer4.0.conv1",
            "layer4.0.conv2",
            "layer3.0.conv2",
            "fc",
        ];
        let near = |name| nearest(name, known.into_iter());
        assert_eq!(near("layr4")[0], "layer4");
        assert_eq!(near("layer5"), ["layer1", "layer3", "layer4"]);
        assert_eq!(
            near("layer4.0.conv3")[..2],
            ["layer4.0.conv1", "layer4.0.conv2"]
        );
        assert_eq!(near("flayer4")[0], "layer4");
        assert_eq!(prefixes("a.1.b").collect::<Vec<_>>(), ["a", "a.1"]);
    }
}
