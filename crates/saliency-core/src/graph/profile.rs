//! How long each layer of a graph takes.

use std::time::Duration;

use burn::tensor::Tensor;
use serde::Serialize;

use super::Graph;
use crate::{error::Error, plan::Plan};

/// The time of one layer, of a whole batch.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LayerTime {
    /// The layer's name, or what it does and a number. What follows a convolution (BatchNorm,
    /// bias, an addition, a ReLU) is part of it.
    pub name: String,
    /// What it does.
    pub kind: String,
    /// Median seconds of the forward pass.
    pub forward: f64,
    /// Median seconds of the backward pass to the input.
    pub backward: f64,
    /// Multiplications and additions of the forward pass, as many as of the backward pass; 0
    /// where there are hardly any.
    pub operations: usize,
}

impl LayerTime {
    /// Billions of operations a second, forward and back.
    ///
    /// ```
    /// let layer = saliency_core::graph::LayerTime {
    ///     name: "conv1".into(),
    ///     kind: "conv".into(),
    ///     forward: 0.5,
    ///     backward: 1.0,
    ///     operations: 3_000_000_000,
    /// };
    /// assert_eq!(layer.rates(), Some([6.0, 3.0]));
    /// ```
    pub fn rates(&self) -> Option<[f64; 2]> {
        let rate = |seconds: f64| self.operations as f64 / seconds / 1e9;
        (self.operations > 0).then(|| [rate(self.forward), rate(self.backward)])
    }
}

impl Graph {
    /// Times every layer over some passes forward and back, after one that is not counted.
    ///
    /// ```
    /// use burn::{nn::{LinearConfig, conv::Conv2dConfig}, tensor::{Device, Tensor, activation::relu}};
    /// use saliency_core::Graph;
    ///
    /// let device = Device::flex();
    /// let net = (Conv2dConfig::new([3, 8], [3, 3]).init(&device), LinearConfig::new(8, 10).init(&device));
    /// let x = Tensor::<4>::ones([2, 3, 16, 16], &device);
    /// let graph = Graph::trace(&net, |(conv, head), x| {
    ///     head.forward(relu(conv.forward(x)).mean_dims(&[2, 3]).flatten::<2>(1, 3))
    /// }, &x)?;
    /// let layers = graph.profile(&x, 3)?;
    /// assert_eq!(layers.len(), 3);
    /// assert_eq!(layers[0].operations, 2 * 2 * 14 * 14 * 9 * 3 * 8);
    /// # Ok::<(), saliency_core::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Shape`]; [`Error::NotCompiled`] where the graph is not compiled for the CPU: another
    /// device than flex, another type than f32, or an operation that plans do not know.
    pub fn profile<const D: usize>(
        &self,
        input: &Tensor<D>,
        passes: usize,
    ) -> Result<Vec<LayerTime>, Error> {
        self.check_input(&input.dims())?;
        if passes == 0 {
            return Err(Error::option("passes", 0, "at least one is needed"));
        }
        // A plan of its own: the graph's may be in use.
        let plan = self.plan(input).and_then(|_| Plan::new(self));
        let plan = plan.ok_or(Error::NotCompiled)?;
        let values = input
            .clone()
            .try_into_vec_as::<f32>()
            .map_err(Error::device)?;
        let steps = plan.profile(&values, input.dims()[0], passes);
        let mut numbers = std::collections::HashMap::new();
        let layers = steps.into_iter().map(|step| {
            let name = step.name.unwrap_or_else(|| {
                let number = numbers.entry(step.kind.clone()).or_insert(0);
                *number += 1;
                format!("{}_{number}", step.kind)
            });
            LayerTime {
                name,
                kind: step.kind,
                forward: median(step.forward),
                backward: median(step.backward),
                operations: step.operations,
            }
        });
        Ok(layers.collect())
    }
}

fn median(mut times: Vec<Duration>) -> f64 {
    times.sort();
    times[times.len() / 2].as_secs_f64()
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use burn::tensor::{DType, Device};

    use super::*;
    use crate::{
        methods::testing::{Net, image},
        model::Model,
    };

    fn graph() -> Graph {
        let net = Net::relu(&Device::flex());
        Graph::trace(&net, |m, x| m.forward(x), &image(1, 0)).unwrap()
    }

    /// The layers' times are parts of the whole pass, and no large part of it is missing.
    #[test]
    fn layers_add_up_to_the_pass() {
        let (graph, x) = (graph(), image(4, 12));
        let start = Instant::now();
        let layers = graph.profile(&x, 5).unwrap();
        let whole = start.elapsed().as_secs_f64();
        let sum: f64 = layers.iter().map(|l| l.forward + l.backward).sum();
        assert!(sum > 0.0 && sum <= whole, "{sum} of {whole}");
        assert!(layers.iter().all(|l| l.forward > 0.0), "{layers:?}");
        assert!(
            layers
                .iter()
                .any(|l| l.name == "stem" && l.rates().is_some()),
            "{layers:?}"
        );
    }

    #[test]
    fn what_has_no_plan_is_refused() {
        let (graph, x) = (graph(), image(1, 12));
        assert!(graph.profile(&x, 0).is_err());
        let refused = graph.cast(DType::F64).profile(&x.cast(DType::F64), 1);
        assert_eq!(refused.unwrap_err(), Error::NotCompiled);
    }
}
