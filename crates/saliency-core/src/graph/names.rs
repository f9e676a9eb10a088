//! Names of nodes: module paths where parameters tell them, operations and numbers elsewhere.

use std::collections::HashMap;

use super::{Graph, Op};

pub(super) fn name(graph: &mut Graph) {
    let mut seen: HashMap<String, usize> = HashMap::new();
    let mut numbers: HashMap<&'static str, usize> = HashMap::new();
    for id in 0..graph.nodes.len() {
        let node = &graph.nodes[id];
        let module = node
            .inputs
            .iter()
            .find_map(|input| graph.node(*input).path.as_deref())
            .and_then(|path| path.rsplit_once('.'))
            .map(|(module, _)| module.to_owned());
        let name = match (&node.op, &node.path, module) {
            (Op::Input, ..) => "input".into(),
            (Op::Constant, Some(path), _) => path.clone(),
            (_, _, Some(module)) => {
                let times = seen.entry(module.clone()).or_default();
                *times += 1;
                match *times {
                    1 => module,
                    times => format!("{module}#{times}"),
                }
            }
            (op, ..) => {
                let number = numbers.entry(op.name()).or_default();
                *number += 1;
                format!("{}_{number}", op.name())
            }
        };
        graph.nodes[id].name = name;
    }
}
