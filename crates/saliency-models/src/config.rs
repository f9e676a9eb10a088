//! What the network definitions share: the error of a bad configuration and the layers
//! they all use.

use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::nn::{Initializer, PaddingConfig2d};
use burn::tensor::Device;

/// A network that cannot be built. The message names the option and what is required of it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// A count that must be at least one is zero.
    #[error("{network}: `{option}` is 0; it must be at least 1")]
    Zero {
        /// Name of the network.
        network: &'static str,
        /// Name of the option.
        option: &'static str,
    },
    /// A size that must be shared out evenly is not.
    #[error("{network}: `{option}` is {value}; it must be a multiple of {of}")]
    Multiple {
        /// Name of the network.
        network: &'static str,
        /// Name of the option.
        option: &'static str,
        /// Its value.
        value: usize,
        /// What it is shared among.
        of: usize,
    },
}

/// Fails on the first option that is zero.
pub(crate) fn require_positive(
    network: &'static str,
    options: &[(&'static str, usize)],
) -> Result<(), ConfigError> {
    match options.iter().find(|(_, value)| *value == 0) {
        Some(&(option, _)) => Err(ConfigError::Zero { network, option }),
        None => Ok(()),
    }
}

/// He et al.'s initialisation for layers before a ReLU: normal, variance 2 / fan-out.
pub(crate) fn he_normal() -> Initializer {
    Initializer::KaimingNormal {
        gain: std::f64::consts::SQRT_2,
        fan_out_only: true,
    }
}

/// A square convolution without bias, `kernel / 2` zeros on every side.
pub(crate) fn conv(channels: [usize; 2], kernel: usize, stride: usize, device: &Device) -> Conv2d {
    let pad = kernel / 2;
    Conv2dConfig::new(channels, [kernel, kernel])
        .with_stride([stride, stride])
        .with_padding(PaddingConfig2d::Explicit(pad, pad, pad, pad))
        .with_bias(false)
        .with_initializer(he_normal())
        .init(device)
}
