//! Names of nodes: those given, module paths where parameters tell them, operations and numbers
//! elsewhere.

use std::collections::{HashMap, HashSet};

use super::{Graph, Op};

pub(super) fn name(graph: &mut Graph) {
    let given: HashSet<String> = graph.nodes.iter().map(|node| node.name.clone()).collect();
    let mut seen: HashMap<String, usize> = HashMap::new();
    let mut numbers: HashMap<&'static str, usize> = HashMap::new();
    for id in 0..graph.nodes.len() {
        let node = &graph.nodes[id];
        if !node.name.is_empty() {
            continue;
        }
        let module = node
            .inputs
            .iter()
            .find_map(|input| graph.node(*input).path.as_deref())
            .and_then(|path| path.rsplit_once('.'))
            .map(|(module, _)| module.to_owned());
        let name = match (&node.op, &node.path, module) {
            (Op::Input, ..) => "input".into(),
            (Op::Constant, Some(path), _) => path.clone(),
            (_, _, Some(module)) => loop {
                let times = seen.entry(module.clone()).or_default();
                *times += 1;
                let name = match *times {
                    1 => module.clone(),
                    times => format!("{module}#{times}"),
                };
                if !given.contains(&name) {
                    break name;
                }
            },
            (op, ..) => loop {
                let number = numbers.entry(op.name()).or_default();
                *number += 1;
                let name = format!("{}_{number}", op.name());
                if !given.contains(&name) {
                    break name;
                }
            },
        };
        graph.nodes[id].name = name;
    }
}
