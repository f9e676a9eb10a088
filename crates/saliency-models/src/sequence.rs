//! Networks for windows of a series, `[rows, steps, features]`.

use burn::{
    module::{Module, Param},
    nn::{
        self, LayerNorm, LayerNormConfig, PaddingConfig1d,
        conv::{Conv1d, Conv1dConfig},
        transformer::{TransformerEncoder, TransformerEncoderConfig, TransformerEncoderInput},
    },
    tensor::{Device, Tensor, activation::relu, s},
};
use saliency_core::Model;
use serde::{Deserialize, Serialize};

use crate::config::{ConfigError, require_positive};

/// Long short-term memory (Hochreiter and Schmidhuber, 1997); the outputs are read from the
/// last hidden state.
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use saliency_models::sequence::RecurrentConfig;
///
/// let device = Device::flex();
/// let config = RecurrentConfig { features: 3, outputs: 2, hidden: 8, layers: 1 };
/// let net = config.lstm(&device)?;
/// assert_eq!(net.forward(Tensor::ones([5, 10, 3], &device)).dims(), [5, 2]);
/// # Ok::<(), saliency_models::config::ConfigError>(())
/// ```
#[derive(Module, Debug)]
pub struct Lstm {
    layers: Vec<nn::Lstm>,
    head: nn::Linear,
}

impl Lstm {
    /// Maps windows `[rows, steps, features]` to `[rows, outputs]`.
    pub fn forward(&self, mut input: Tensor<3>) -> Tensor<2> {
        let (last, lower) = self.layers.split_last().expect("it has a layer");
        for layer in lower {
            input = layer.forward(input, None).0;
        }
        self.head.forward(last.forward(input, None).1.hidden)
    }
}

/// Gated recurrent units (Cho et al., 2014); the outputs are read from the last hidden state.
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use saliency_models::sequence::RecurrentConfig;
///
/// let device = Device::flex();
/// let config = RecurrentConfig { features: 3, outputs: 2, hidden: 8, layers: 2 };
/// let net = config.gru(&device)?;
/// assert_eq!(net.forward(Tensor::ones([5, 10, 3], &device)).dims(), [5, 2]);
/// # Ok::<(), saliency_models::config::ConfigError>(())
/// ```
#[derive(Module, Debug)]
pub struct Gru {
    layers: Vec<nn::gru::Gru>,
    head: nn::Linear,
}

impl Gru {
    /// Maps windows `[rows, steps, features]` to `[rows, outputs]`.
    pub fn forward(&self, mut input: Tensor<3>) -> Tensor<2> {
        for layer in &self.layers {
            input = layer.forward(input, None);
        }
        self.head.forward(last_step(input))
    }
}

/// `[rows, steps, width]` at the last step.
fn last_step(x: Tensor<3>) -> Tensor<2> {
    x.slice(s![.., -1, ..]).squeeze_dim(1)
}

/// The shape of an [`Lstm`] or a [`Gru`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecurrentConfig {
    /// Numbers at each step.
    pub features: usize,
    /// Outputs: classes, or numbers to predict.
    pub outputs: usize,
    /// Width of the hidden state.
    pub hidden: usize,
    /// Recurrent layers on top of each other.
    pub layers: usize,
}

impl RecurrentConfig {
    /// An LSTM with fresh weights.
    ///
    /// # Errors
    /// [`ConfigError`] where a size is zero.
    pub fn lstm(&self, device: &Device) -> Result<Lstm, ConfigError> {
        self.check("lstm")?;
        let layer = |from| nn::LstmConfig::new(from, self.hidden, true).init(device);
        Ok(Lstm {
            layers: self.inputs().map(layer).collect(),
            head: nn::LinearConfig::new(self.hidden, self.outputs).init(device),
        })
    }

    /// A GRU with fresh weights.
    ///
    /// # Errors
    /// [`ConfigError`] where a size is zero.
    pub fn gru(&self, device: &Device) -> Result<Gru, ConfigError> {
        self.check("gru")?;
        let layer = |from| nn::gru::GruConfig::new(from, self.hidden, true).init(device);
        Ok(Gru {
            layers: self.inputs().map(layer).collect(),
            head: nn::LinearConfig::new(self.hidden, self.outputs).init(device),
        })
    }

    /// Input width of each layer.
    fn inputs(&self) -> impl Iterator<Item = usize> {
        let upper = std::iter::repeat_n(self.hidden, self.layers - 1);
        std::iter::once(self.features).chain(upper)
    }

    fn check(&self, network: &'static str) -> Result<(), ConfigError> {
        let sizes = [
            ("features", self.features),
            ("outputs", self.outputs),
            ("hidden", self.hidden),
            ("layers", self.layers),
        ];
        require_positive(network, &sizes)
    }
}

/// A temporal convolutional network (Bai, Kolter and Koltun, 2018): residual blocks of two
/// causal convolutions whose dilation doubles from block to block. The outputs are read from
/// the last step.
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use saliency_models::sequence::TcnConfig;
///
/// let device = Device::flex();
/// let config = TcnConfig { features: 3, outputs: 2, channels: 8, kernel: 3, blocks: 2 };
/// let net = config.init(&device)?;
/// assert_eq!(net.forward(Tensor::ones([5, 10, 3], &device)).dims(), [5, 2]);
/// assert_eq!(config.receptive_field(), 13);
/// # Ok::<(), saliency_models::config::ConfigError>(())
/// ```
#[derive(Module, Debug)]
pub struct Tcn {
    blocks: Vec<TcnBlock>,
    head: nn::Linear,
}

impl Tcn {
    /// Maps windows `[rows, steps, features]` to `[rows, outputs]`.
    pub fn forward(&self, input: Tensor<3>) -> Tensor<2> {
        let blocks = self.blocks.iter();
        let x = blocks.fold(input.swap_dims(1, 2), |x, block| block.forward(x));
        self.head.forward(last_step(x.swap_dims(1, 2)))
    }
}

/// One residual block of a [`Tcn`].
#[derive(Module, Debug)]
pub struct TcnBlock {
    first: Conv1d,
    second: Conv1d,
    /// Where the number of channels changes.
    skip: Option<Conv1d>,
}

impl TcnBlock {
    fn new(from: usize, to: usize, kernel: usize, dilation: usize, device: &Device) -> Self {
        let conv = |from: usize| {
            Conv1dConfig::new(from, to, kernel)
                .with_dilation(dilation)
                .with_padding(PaddingConfig1d::Explicit((kernel - 1) * dilation, 0))
                .init(device)
        };
        TcnBlock {
            first: conv(from),
            second: conv(to),
            skip: (from != to).then(|| Conv1dConfig::new(from, to, 1).init(device)),
        }
    }

    fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        let inner = relu(self.first.forward(x.clone()));
        let inner = relu(self.second.forward(inner));
        let skip = match &self.skip {
            Some(conv) => conv.forward(x),
            None => x,
        };
        relu(inner + skip)
    }
}

/// The shape of a [`Tcn`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TcnConfig {
    /// Numbers at each step.
    pub features: usize,
    /// Outputs: classes, or numbers to predict.
    pub outputs: usize,
    /// Channels of each block.
    pub channels: usize,
    /// Steps under each kernel.
    pub kernel: usize,
    /// Residual blocks.
    pub blocks: usize,
}

impl TcnConfig {
    /// How many of the last steps the outputs depend on.
    pub fn receptive_field(&self) -> usize {
        1 + 2 * (self.kernel - 1) * ((1 << self.blocks) - 1)
    }

    /// As many blocks as it takes to see all of `steps`.
    #[must_use]
    pub fn seeing(mut self, steps: usize) -> Self {
        self.blocks = 1;
        while self.kernel > 1 && self.receptive_field() < steps {
            self.blocks += 1;
        }
        self
    }

    /// The network with fresh weights.
    ///
    /// # Errors
    /// [`ConfigError`] where a size is zero.
    pub fn init(&self, device: &Device) -> Result<Tcn, ConfigError> {
        let sizes = [
            ("features", self.features),
            ("outputs", self.outputs),
            ("channels", self.channels),
            ("kernel", self.kernel),
            ("blocks", self.blocks),
        ];
        require_positive("tcn", &sizes)?;
        let block = |index: usize| {
            let from = if index == 0 {
                self.features
            } else {
                self.channels
            };
            TcnBlock::new(from, self.channels, self.kernel, 1 << index, device)
        };
        Ok(Tcn {
            blocks: (0..self.blocks).map(block).collect(),
            head: nn::LinearConfig::new(self.channels, self.outputs).init(device),
        })
    }
}

/// A small transformer encoder (Vaswani et al., 2017): a linear embedding of each step plus
/// its learned position, encoder layers, and the mean over the steps.
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use saliency_models::sequence::TransformerConfig;
///
/// let device = Device::flex();
/// let config = TransformerConfig { features: 3, outputs: 2, steps: 10, width: 8, heads: 2, layers: 1 };
/// let net = config.init(&device)?;
/// assert_eq!(net.forward(Tensor::ones([5, 10, 3], &device)).dims(), [5, 2]);
/// # Ok::<(), saliency_models::config::ConfigError>(())
/// ```
#[derive(Module, Debug)]
pub struct Transformer {
    embedding: nn::Linear,
    positions: Param<Tensor<3>>,
    encoder: TransformerEncoder,
    norm: LayerNorm,
    head: nn::Linear,
}

impl Transformer {
    /// Maps windows `[rows, steps, features]` to `[rows, outputs]`.
    pub fn forward(&self, input: Tensor<3>) -> Tensor<2> {
        let tokens = self.embedding.forward(input) + self.positions.val();
        let tokens = self.encoder.forward(TransformerEncoderInput::new(tokens));
        let mean = self.norm.forward(tokens).mean_dim(1).squeeze_dim(1);
        self.head.forward(mean)
    }
}

/// The shape of a [`Transformer`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TransformerConfig {
    /// Numbers at each step.
    pub features: usize,
    /// Outputs: classes, or numbers to predict.
    pub outputs: usize,
    /// Steps of a window.
    pub steps: usize,
    /// Width of a step's embedding; a multiple of `heads`.
    pub width: usize,
    /// Attention heads.
    pub heads: usize,
    /// Encoder layers.
    pub layers: usize,
}

impl TransformerConfig {
    /// The network with fresh weights.
    ///
    /// # Errors
    /// [`ConfigError`] where a size is zero, or `width` is no multiple of `heads`.
    pub fn init(&self, device: &Device) -> Result<Transformer, ConfigError> {
        let sizes = [
            ("features", self.features),
            ("outputs", self.outputs),
            ("steps", self.steps),
            ("width", self.width),
            ("heads", self.heads),
            ("layers", self.layers),
        ];
        require_positive("transformer", &sizes)?;
        if !self.width.is_multiple_of(self.heads) {
            return Err(ConfigError::Multiple {
                network: "transformer",
                option: "width",
                value: self.width,
                of: self.heads,
            });
        }
        let positions = Tensor::zeros([1, self.steps, self.width], device);
        Ok(Transformer {
            embedding: nn::LinearConfig::new(self.features, self.width).init(device),
            positions: Param::from_tensor(positions),
            encoder: TransformerEncoderConfig::new(
                self.width,
                2 * self.width,
                self.heads,
                self.layers,
            )
            .with_dropout(0.0)
            .with_norm_first(true)
            .init(device),
            norm: LayerNormConfig::new(self.width).init(device),
            head: nn::LinearConfig::new(self.width, self.outputs).init(device),
        })
    }
}

macro_rules! models {
    ($($net:ident)+) => { $(
        impl Model<3> for $net {
            fn forward(&self, input: Tensor<3>) -> Tensor<2> {
                $net::forward(self, input)
            }
        }
    )+ };
}

models! { Lstm Gru Tcn Transformer }

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tcn_sees_the_past_only_as_far_as_it_says() {
        let device = Device::flex();
        let config = TcnConfig {
            features: 1,
            outputs: 1,
            channels: 4,
            kernel: 2,
            blocks: 9,
        };
        assert_eq!(config.clone().seeing(8).blocks, 3);
        let config = config.seeing(6);
        assert_eq!((config.blocks, config.receptive_field()), (2, 7));
        let net = config.init(&device).unwrap().valid();
        let base = Tensor::<3>::ones([1, 12, 1], &device);
        let at_step = |step: usize| {
            let changed = base.clone().slice_assign(
                s![.., step..=step, ..],
                Tensor::<3>::full([1, 1, 1], 5.0, &device),
            );
            let difference = net.forward(changed) - net.forward(base.clone());
            difference.abs().into_scalar::<f32>()
        };
        let seen: Vec<usize> = (0..12).filter(|step| at_step(*step) > 0.0).collect();
        assert!(seen.iter().all(|step| *step >= 5), "{seen:?}");
        assert!(!seen.is_empty());
    }

    #[test]
    fn heads_must_share_the_width() {
        let config = TransformerConfig {
            features: 1,
            outputs: 1,
            steps: 4,
            width: 6,
            heads: 4,
            layers: 1,
        };
        let error = config.init(&Device::flex()).unwrap_err().to_string();
        assert_eq!(
            error,
            "transformer: `width` is 6; it must be a multiple of 4"
        );
    }
}
