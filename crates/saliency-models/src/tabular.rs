//! Networks for rows of a table, `[rows, features]`.

use burn::{
    module::Module,
    nn,
    tensor::{Device, Tensor, activation::relu},
};
use saliency_core::Model;
use serde::{Deserialize, Serialize};

use crate::config::{ConfigError, require_positive};

/// A linear model: logistic regression with one logit for each class, or linear regression.
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use saliency_models::tabular::LinearConfig;
///
/// let device = Device::flex();
/// let net = LinearConfig { features: 3, outputs: 2 }.init(&device)?;
/// assert_eq!(net.forward(Tensor::ones([5, 3], &device)).dims(), [5, 2]);
/// # Ok::<(), saliency_models::config::ConfigError>(())
/// ```
#[derive(Module, Debug)]
pub struct Linear {
    head: nn::Linear,
}

impl Linear {
    /// Maps rows `[rows, features]` to `[rows, outputs]`.
    pub fn forward(&self, input: Tensor<2>) -> Tensor<2> {
        self.head.forward(input)
    }

    /// The weight of each feature for each output, `[features, outputs]`.
    pub fn weights(&self) -> Tensor<2> {
        self.head.weight.val()
    }
}

impl Model<2> for Linear {
    fn forward(&self, input: Tensor<2>) -> Tensor<2> {
        Linear::forward(self, input)
    }
}

/// The shape of a [`Linear`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinearConfig {
    /// Numbers in a row.
    pub features: usize,
    /// Outputs: classes, or numbers to predict.
    pub outputs: usize,
}

impl LinearConfig {
    /// The network with fresh weights.
    ///
    /// # Errors
    /// [`ConfigError`] where a size is zero.
    pub fn init(&self, device: &Device) -> Result<Linear, ConfigError> {
        let LinearConfig { features, outputs } = *self;
        require_positive("linear", &[("features", features), ("outputs", outputs)])?;
        Ok(Linear {
            head: nn::LinearConfig::new(features, outputs).init(device),
        })
    }
}

/// A multilayer perceptron: linear layers with ReLUs between them.
///
/// ```
/// use burn::{module::Module, tensor::{Device, Tensor}};
/// use saliency_models::tabular::MlpConfig;
///
/// let device = Device::flex();
/// let net = MlpConfig { features: 3, outputs: 2, hidden: vec![8, 4] }.init(&device)?;
/// assert_eq!(net.forward(Tensor::ones([5, 3], &device)).dims(), [5, 2]);
/// assert_eq!(net.num_params(), 3 * 8 + 8 + 8 * 4 + 4 + 4 * 2 + 2);
/// # Ok::<(), saliency_models::config::ConfigError>(())
/// ```
#[derive(Module, Debug)]
pub struct Mlp {
    hidden: Vec<nn::Linear>,
    head: nn::Linear,
}

impl Mlp {
    /// Maps rows `[rows, features]` to `[rows, outputs]`.
    pub fn forward(&self, input: Tensor<2>) -> Tensor<2> {
        let layers = self.hidden.iter();
        self.head
            .forward(layers.fold(input, |x, layer| relu(layer.forward(x))))
    }
}

impl Model<2> for Mlp {
    fn forward(&self, input: Tensor<2>) -> Tensor<2> {
        Mlp::forward(self, input)
    }
}

/// The shape of an [`Mlp`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MlpConfig {
    /// Numbers in a row.
    pub features: usize,
    /// Outputs: classes, or numbers to predict.
    pub outputs: usize,
    /// Width of each hidden layer.
    pub hidden: Vec<usize>,
}

impl MlpConfig {
    /// The network with fresh weights.
    ///
    /// # Errors
    /// [`ConfigError`] where a size is zero.
    pub fn init(&self, device: &Device) -> Result<Mlp, ConfigError> {
        let mut sizes = vec![("features", self.features), ("outputs", self.outputs)];
        sizes.extend(self.hidden.iter().map(|width| ("hidden", *width)));
        require_positive("mlp", &sizes)?;
        let mut from = self.features;
        let mut layer = |to: usize| {
            let layer = nn::LinearConfig::new(from, to).init(device);
            from = to;
            layer
        };
        Ok(Mlp {
            hidden: self.hidden.iter().map(|width| layer(*width)).collect(),
            head: layer(self.outputs),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_of_zero_are_named() {
        let config = MlpConfig {
            features: 3,
            outputs: 1,
            hidden: vec![4, 0],
        };
        let error = config.init(&Device::flex()).unwrap_err().to_string();
        assert_eq!(error, "mlp: `hidden` is 0; it must be at least 1");
    }
}
