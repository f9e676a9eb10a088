//! Other values for the parameters of some modules, to see what a method owes to them.

use std::collections::HashMap;

use burn::tensor::TensorData;
use rand::{SeedableRng, seq::SliceRandom};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use super::{
    Graph, Op,
    layer::{nearest, prefixes},
    value::Value,
};
use crate::{error::Error, noise::standard_normal};

/// What parameters are replaced by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Randomisation {
    /// Normal values with the mean and the standard deviation of the parameter. Parameters
    /// without a negative value, such as variances, are shuffled, so that they stay so; one whose values are all equal stays as it is.
    #[default]
    Normal,
    /// The parameter's own values in another order.
    Shuffle,
}

impl Graph {
    /// The modules that have parameters of their own, from the input to the output:
    /// `layer4.2.conv3`, `fc`, ...
    pub fn modules(&self) -> Vec<String> {
        let mut modules: Vec<String> = Vec::new();
        for (_, node) in self.nodes().filter(|(_, node)| node.op != Op::Constant) {
            for path in node
                .inputs
                .iter()
                .filter_map(|id| self.node(*id).path.as_deref())
            {
                let module = module_of(path);
                if !modules.iter().any(|known| known == module) {
                    modules.push(module.into());
                }
            }
        }
        modules
    }

    /// All modules where there are few, else those with the names most like a wrong one.
    fn modules_like(&self, name: &str) -> String {
        let all = self.modules();
        if all.len() <= 8 {
            return format!("the modules with parameters are {}", all.join(", "));
        }
        let larger = all.iter().flat_map(|module| prefixes(module));
        let near = nearest(name, larger.chain(all.iter().map(String::as_str)));
        format!("did you mean {}?", near.join(", "))
    }

    /// The same graph with the parameters of some modules replaced: one module, or all inside a
    /// larger one (`layer4`), or a part of [`modules`](Graph::modules).
    ///
    /// The values depend on the seed and the parameter alone, so graphs with more and more
    /// modules replaced share those that were replaced before.
    ///
    /// ```
    /// use burn::{module::Module, nn::{Linear, LinearConfig}, tensor::{Device, Tensor}};
    /// use saliency_core::{Graph, graph::Randomisation};
    ///
    /// #[derive(Module, Debug)]
    /// struct Mlp { hidden: Linear, out: Linear }
    ///
    /// let device = Device::flex();
    /// let mlp = Mlp {
    ///     hidden: LinearConfig::new(4, 8).init(&device),
    ///     out: LinearConfig::new(8, 3).init(&device),
    /// };
    /// let x = Tensor::<2>::ones([1, 4], &device);
    /// let graph = Graph::trace(&mlp, |m, x| m.out.forward(m.hidden.forward(x).tanh()), &x)?;
    /// let modules = graph.modules();
    /// assert_eq!(modules, ["hidden", "out"]);
    /// // The last layer alone, then everything from the last to the first.
    /// let last = graph.randomised(&modules[1..], 7, Randomisation::Normal)?;
    /// let all = graph.randomised(&modules, 7, Randomisation::Normal)?;
    /// # let _ = (last, all);
    /// # Ok::<(), saliency_core::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::UnknownLayer`] names a module without parameters.
    pub fn randomised(
        &self,
        modules: &[impl AsRef<str>],
        seed: u64,
        how: Randomisation,
    ) -> Result<Graph, Error> {
        let mut graph = self.uncompiled();
        let mut found = vec![false; modules.len()];
        // Parameters count from the input to the output; one of the same path is the same.
        let mut numbers: HashMap<String, usize> = HashMap::new();
        let mut count = 0;
        for node in &mut graph.nodes {
            let (Some(path), Some(value)) = (&node.path, &node.value) else {
                continue;
            };
            count += 1;
            let number = *numbers.entry(path.clone()).or_insert(count);
            if !value.is_float() {
                continue;
            }
            let mut chosen = false;
            for (module, found) in modules.iter().zip(&mut found) {
                if is_inside(path, module.as_ref()) {
                    (chosen, *found) = (true, true);
                }
            }
            if chosen {
                node.value = Some(redrawn(value, seed, number, how)?);
            }
        }
        match found.iter().position(|found| !found) {
            Some(missing) => Err(Error::UnknownLayer {
                name: modules[missing].as_ref().into(),
                hint: self.modules_like(modules[missing].as_ref()),
            }),
            None => Ok(graph),
        }
    }
}

/// `layer4.2.conv3` of `layer4.2.conv3.weight`; parameters at the top are their own module.
fn module_of(path: &str) -> &str {
    path.rsplit_once('.').map_or(path, |(module, _)| module)
}

fn is_inside(path: &str, module: &str) -> bool {
    path == module
        || path
            .strip_prefix(module)
            .is_some_and(|rest| rest.starts_with('.'))
}

fn redrawn(value: &Value, seed: u64, number: usize, how: Randomisation) -> Result<Value, Error> {
    let mut values = value
        .typed()
        .try_into_vec_as::<f64>()
        .map_err(Error::device)?;
    let negative = values.iter().any(|&v| v < 0.0);
    if how == Randomisation::Normal && negative {
        let n = values.len() as f64;
        let mean = values.iter().sum::<f64>() / n;
        let variance = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / n;
        for (value, noise) in values
            .iter_mut()
            .zip(standard_normal(seed, number, n as usize))
        {
            *value = mean + variance.sqrt() * f64::from(noise);
        }
    } else {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        rng.set_stream(number as u64);
        values.shuffle(&mut rng);
    }
    let data = TensorData::new(values, value.shape()).convert_dtype(value.dtype());
    Ok(Value::from_data(data, &value.device()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Model,
        methods::testing::{image, net_graph, relative_error},
    };

    fn parameters(graph: &Graph) -> Vec<(String, Vec<f32>)> {
        graph
            .parameters()
            .map(|(path, value)| (path.to_owned(), value.to_vec().unwrap()))
            .collect()
    }

    #[test]
    fn modules_come_in_order_and_only_the_chosen_change() {
        let graph = net_graph();
        assert_eq!(graph.modules(), ["stem", "norm", "branch", "head"]);
        for how in [Randomisation::Normal, Randomisation::Shuffle] {
            let changed = graph.randomised(&["branch"], 1, how).unwrap();
            for ((path, before), (_, after)) in parameters(&graph).iter().zip(parameters(&changed))
            {
                assert_eq!(before == &after, !path.starts_with("branch."), "{path}");
            }
        }
    }

    #[test]
    fn seeds_decide_and_suffixes_share_what_was_drawn() {
        let graph = net_graph();
        let modules = graph.modules();
        let at = |from: usize, seed| {
            let graph = graph.randomised(&modules[from..], seed, Randomisation::Normal);
            parameters(&graph.unwrap())
        };
        assert_eq!(at(1, 3), at(1, 3));
        assert_ne!(at(1, 3), at(1, 4));
        for ((path, two), (_, three)) in at(2, 3).iter().zip(at(1, 3)) {
            // Shuffling leaves what is zero everywhere as it is.
            let moves = path.starts_with("norm.") && path != "norm.beta";
            assert_eq!(two == &three, !moves, "{path}");
        }
    }

    #[test]
    fn normal_values_keep_mean_and_deviation_and_variances_stay_positive() {
        let graph = net_graph();
        let changed = graph
            .randomised(&["branch", "norm"], 1, Randomisation::Normal)
            .unwrap();
        let moments = |values: &[f32]| {
            let n = values.len() as f32;
            let mean = values.iter().sum::<f32>() / n;
            (
                mean,
                (values.iter().map(|v| (v - mean).powi(2)).sum::<f32>() / n).sqrt(),
            )
        };
        for ((path, before), (_, after)) in parameters(&graph).iter().zip(parameters(&changed)) {
            let (mean, deviation) = moments(before);
            let (new_mean, new_deviation) = moments(&after);
            if path == "branch.weight" {
                // 324 values: four standard errors.
                let error = 4.0 * deviation / 18.0;
                assert!(
                    (new_mean - mean).abs() < error && (new_deviation - deviation).abs() < error
                );
            }
            if path == "norm.running_var" {
                assert!(before != &after && after.iter().all(|&v| v > 0.0));
                assert!((new_mean - mean).abs() < 1e-5);
            }
        }
        let x = image(2, 1);
        let (a, b): (_, _) = (graph.forward(x.clone()), changed.forward(x));
        assert!(relative_error(b, a) > 0.1);
    }

    #[test]
    fn a_module_that_is_not_there_is_named() {
        let error = net_graph().randomised(&["head", "hea"], 0, Randomisation::Normal);
        let error = error.unwrap_err().to_string();
        assert!(
            error.contains("\"hea\"") && error.contains("stem, norm, branch, head"),
            "{error}"
        );
    }
}
