//! The networks for tables and series under one roof: what is trained, saved and loaded.

use std::{fmt, str::FromStr};

use burn::{
    module::{Module, ModuleMapper, Param},
    tensor::{Device, Tensor, TensorData},
};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use saliency_core::{Graph, Model};
use serde::{Deserialize, Serialize};

use crate::{
    config::ConfigError,
    sequence::{Gru, Lstm, RecurrentConfig, Tcn, TcnConfig, Transformer, TransformerConfig},
    tabular::{Linear, LinearConfig, Mlp, MlpConfig},
};

/// A kind of network by name.
///
/// ```
/// use saliency_models::predictor::Family;
/// assert_eq!("lstm".parse(), Ok(Family::Lstm));
/// assert!("lstn".parse::<Family>().unwrap_err().contains("linear, mlp, lstm"));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Family {
    /// Logistic or linear regression.
    Linear,
    /// Linear layers with ReLUs.
    Mlp,
    /// Long short-term memory.
    Lstm,
    /// Gated recurrent units.
    Gru,
    /// Causal dilated convolutions.
    Tcn,
    /// Self-attention over the steps.
    Transformer,
}

impl Family {
    /// All of them.
    pub const ALL: [Family; 6] = [
        Family::Linear,
        Family::Mlp,
        Family::Lstm,
        Family::Gru,
        Family::Tcn,
        Family::Transformer,
    ];

    /// Whether it takes windows only, no rows of a table.
    pub fn needs_steps(self) -> bool {
        !matches!(self, Family::Linear | Family::Mlp)
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Family::Linear => "linear",
            Family::Mlp => "mlp",
            Family::Lstm => "lstm",
            Family::Gru => "gru",
            Family::Tcn => "tcn",
            Family::Transformer => "transformer",
        })
    }
}

impl FromStr for Family {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Family::ALL
            .into_iter()
            .find(|family| family.to_string() == text);
        found.ok_or_else(|| {
            let known = Family::ALL.map(|family| family.to_string()).join(", ");
            format!("unknown model {text:?}; known are {known}")
        })
    }
}

/// A network's shape.
///
/// ```
/// use burn::tensor::Device;
/// use saliency_models::{predictor::Architecture, tabular::MlpConfig};
///
/// let mlp = Architecture::Mlp(MlpConfig { features: 3, outputs: 2, hidden: vec![8] });
/// let json = serde_json::to_string(&mlp)?;
/// assert_eq!(json, r#"{"family":"mlp","features":3,"outputs":2,"hidden":[8]}"#);
/// assert_eq!(serde_json::from_str::<Architecture>(&json)?, mlp);
/// assert!(mlp.init(&Device::flex()).is_ok());
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "family", rename_all = "lowercase")]
pub enum Architecture {
    /// Logistic or linear regression.
    Linear(LinearConfig),
    /// Linear layers with ReLUs.
    Mlp(MlpConfig),
    /// Long short-term memory.
    Lstm(RecurrentConfig),
    /// Gated recurrent units.
    Gru(RecurrentConfig),
    /// Causal dilated convolutions.
    Tcn(TcnConfig),
    /// Self-attention over the steps.
    Transformer(TransformerConfig),
}

impl Architecture {
    /// Its kind.
    pub fn family(&self) -> Family {
        match self {
            Architecture::Linear(_) => Family::Linear,
            Architecture::Mlp(_) => Family::Mlp,
            Architecture::Lstm(_) => Family::Lstm,
            Architecture::Gru(_) => Family::Gru,
            Architecture::Tcn(_) => Family::Tcn,
            Architecture::Transformer(_) => Family::Transformer,
        }
    }

    /// The network with fresh weights.
    ///
    /// # Errors
    /// [`ConfigError`] where a size makes no sense.
    pub fn init(&self, device: &Device) -> Result<Predictor, ConfigError> {
        Ok(match self {
            Architecture::Linear(config) => Predictor::Linear(config.init(device)?),
            Architecture::Mlp(config) => Predictor::Mlp(config.init(device)?),
            Architecture::Lstm(config) => Predictor::Lstm(config.lstm(device)?),
            Architecture::Gru(config) => Predictor::Gru(config.gru(device)?),
            Architecture::Tcn(config) => Predictor::Tcn(config.init(device)?),
            Architecture::Transformer(config) => Predictor::Transformer(config.init(device)?),
        })
    }

    /// The network with weights drawn on the host, the same for a seed on every device.
    ///
    /// Weights before a ReLU are uniform with He et al.'s variance, others with Glorot and
    /// Bengio's; biases are zero, those of an LSTM's forget gates one; a linear model starts
    /// at zero, positions as sinusoids.
    ///
    /// # Errors
    /// [`ConfigError`] where a size makes no sense.
    pub fn seeded(&self, seed: u64, device: &Device) -> Result<Predictor, ConfigError> {
        let mut drawn = Seeded {
            family: self.family(),
            path: Vec::new(),
            rng: ChaCha8Rng::seed_from_u64(seed),
        };
        Ok(self.init(device)?.map(&mut drawn))
    }
}

/// A network of any [`Architecture`].
#[derive(Module, Debug)]
#[allow(clippy::large_enum_variant)]
pub enum Predictor {
    /// Logistic or linear regression.
    Linear(Linear),
    /// Linear layers with ReLUs.
    Mlp(Mlp),
    /// Long short-term memory.
    Lstm(Lstm),
    /// Gated recurrent units.
    Gru(Gru),
    /// Causal dilated convolutions.
    Tcn(Tcn),
    /// Self-attention over the steps.
    Transformer(Transformer),
}

impl Predictor {
    /// Maps rows `[rows, features]` to `[rows, outputs]`; a network of windows takes them as
    /// windows of one step.
    pub fn forward_table(&self, input: Tensor<2>) -> Tensor<2> {
        match self {
            Predictor::Linear(net) => net.forward(input),
            Predictor::Mlp(net) => net.forward(input),
            _ => self.forward_sequence(input.unsqueeze_dim(1)),
        }
    }

    /// Maps windows `[rows, steps, features]` to `[rows, outputs]`; networks of tables see
    /// all steps side by side.
    pub fn forward_sequence(&self, input: Tensor<3>) -> Tensor<2> {
        match self {
            Predictor::Linear(net) => net.forward(input.flatten(1, 2)),
            Predictor::Mlp(net) => net.forward(input.flatten(1, 2)),
            Predictor::Lstm(net) => net.forward(input),
            Predictor::Gru(net) => net.forward(input),
            Predictor::Tcn(net) => net.forward(input),
            Predictor::Transformer(net) => net.forward(input),
        }
    }

    /// As a graph for rows of a table like `example`.
    ///
    /// # Errors
    /// [`saliency_core::Error::Trace`] where the sizes do not fit.
    pub fn trace_table(&self, example: &Tensor<2>) -> Result<Graph, saliency_core::Error> {
        Graph::trace(self, Predictor::forward_table, example)
    }

    /// As a graph for windows like `example`.
    ///
    /// # Errors
    /// [`saliency_core::Error::Trace`] where the sizes do not fit.
    pub fn trace_sequence(&self, example: &Tensor<3>) -> Result<Graph, saliency_core::Error> {
        Graph::trace(self, Predictor::forward_sequence, example)
    }
}

impl Model<2> for Predictor {
    fn forward(&self, input: Tensor<2>) -> Tensor<2> {
        self.forward_table(input)
    }
}

impl Model<3> for Predictor {
    fn forward(&self, input: Tensor<3>) -> Tensor<2> {
        self.forward_sequence(input)
    }
}

/// Sets the weights of a new network; see [`Architecture::seeded`].
struct Seeded {
    family: Family,
    path: Vec<String>,
    rng: ChaCha8Rng,
}

impl Seeded {
    fn values(&mut self, dims: &[usize]) -> Option<Vec<f32>> {
        let count: usize = dims.iter().product();
        let is_in = |name: &str| self.path.iter().any(|part| part == name);
        let is_head = is_in("head");
        match self.path.last().map(String::as_str) {
            Some("bias") if is_in("forget_gate") && is_in("input_transform") => {
                Some(vec![1.0; count])
            }
            Some("bias") => Some(vec![0.0; count]),
            Some("positions") => Some(sinusoids(dims[1], dims[2])),
            Some("weight") if self.family == Family::Linear => Some(vec![0.0; count]),
            Some("weight") => {
                // A linear weight is [in, out], a convolution's [out, in, kernel].
                let (fan_in, fan_out) = match dims {
                    [from, to] => (*from, *to),
                    [to, rest @ ..] => (rest.iter().product(), *to),
                    [] => return None,
                };
                let variance = match self.family {
                    Family::Mlp | Family::Tcn if !is_head => 2.0 / fan_in as f32,
                    _ => 2.0 / (fan_in + fan_out) as f32,
                };
                let bound = (3.0 * variance).sqrt();
                Some(
                    (0..count)
                        .map(|_| self.rng.random_range(-bound..bound))
                        .collect(),
                )
            }
            // Scales of a normalisation are one, its shifts zero.
            _ => None,
        }
    }
}

impl ModuleMapper for Seeded {
    fn enter_module(&mut self, name: &str, _: &str) {
        self.path.push(name.into());
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.path.pop();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let dims = param.lazy_shape();
        let Some(values) = self.values(dims.as_slice()) else {
            return param;
        };
        param.map(|tensor| {
            Tensor::from_data(TensorData::new(values, tensor.dims()), &tensor.device())
        })
    }
}

/// Positions of the original transformer: sines and cosines of falling frequency.
fn sinusoids(steps: usize, width: usize) -> Vec<f32> {
    let value = |step: usize, index: usize| {
        let frequency = 10_000f64.powf(-((index / 2 * 2) as f64) / width as f64);
        let angle = step as f64 * frequency;
        (if index.is_multiple_of(2) {
            angle.sin()
        } else {
            angle.cos()
        }) as f32
    };
    (0..steps)
        .flat_map(|step| (0..width).map(move |index| value(step, index)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(features: usize, steps: usize, outputs: usize) -> Vec<Architecture> {
        let recurrent = RecurrentConfig {
            features,
            outputs,
            hidden: 5,
            layers: 2,
        };
        vec![
            Architecture::Linear(LinearConfig {
                features: features * steps,
                outputs,
            }),
            Architecture::Mlp(MlpConfig {
                features: features * steps,
                outputs,
                hidden: vec![6, 5],
            }),
            Architecture::Lstm(recurrent.clone()),
            Architecture::Gru(recurrent),
            Architecture::Tcn(
                TcnConfig {
                    features,
                    outputs,
                    channels: 4,
                    kernel: 3,
                    blocks: 1,
                }
                .seeing(steps),
            ),
            Architecture::Transformer(TransformerConfig {
                features,
                outputs,
                steps,
                width: 8,
                heads: 2,
                layers: 2,
            }),
        ]
    }

    fn values(x: Tensor<2>) -> Vec<f32> {
        x.try_into_vec_as().unwrap()
    }

    fn close(what: &str, got: &[f32], want: &[f32]) {
        for (a, b) in got.iter().zip(want) {
            assert!((a - b).abs() < 1e-5 * b.abs().max(1.0), "{what}: {a} {b}");
        }
    }

    #[test]
    fn every_network_is_seeded_and_runs_as_a_graph() {
        let device = Device::flex();
        let x: Vec<f32> = saliency_core::noise::standard_normal(1, 0, 4 * 7 * 3);
        let x = Tensor::<3>::from_data(TensorData::new(x, [4, 7, 3]), &device);
        for architecture in all(3, 7, 2) {
            let name = architecture.family().to_string();
            let net = architecture.seeded(3, &device).unwrap().valid();
            let again = architecture.seeded(3, &device).unwrap().valid();
            let other = architecture.seeded(4, &device).unwrap().valid();
            let out = values(net.forward_sequence(x.clone()));
            assert_eq!(out, values(again.forward_sequence(x.clone())), "{name}");
            match architecture.family() {
                Family::Linear => assert!(out.iter().all(|v| *v == 0.0)),
                _ => assert_ne!(out, values(other.forward_sequence(x.clone())), "{name}"),
            }
            let graph = net.trace_sequence(&x.clone().narrow(0, 0, 1)).unwrap();
            close(&name, &values(Model::<3>::forward(&graph, x.clone())), &out);
        }
    }

    #[test]
    fn tables_run_as_graphs() {
        let device = Device::flex();
        let x = Tensor::<2>::from_floats([[1.0, -2.0, 0.5], [0.0, 1.0, 3.0]], &device);
        for architecture in all(3, 1, 2) {
            let name = architecture.family().to_string();
            let net = architecture.seeded(1, &device).unwrap().valid();
            let graph = net.trace_table(&x.clone().narrow(0, 0, 1)).unwrap();
            let out = values(Model::<2>::forward(&graph, x.clone()));
            close(&name, &out, &values(net.forward_table(x.clone())));
        }
    }

    #[test]
    fn positions_are_sinusoids() {
        let rows = sinusoids(3, 4);
        assert_eq!(rows[..4], [0.0, 1.0, 0.0, 1.0]);
        close(
            "second",
            &rows[4..8],
            &[0.841_471, 0.540_302, 0.01, 0.999_95],
        );
    }
}
