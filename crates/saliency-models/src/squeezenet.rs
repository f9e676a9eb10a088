//! SqueezeNet 1.1.

use burn::module::Module;
use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::nn::pool::{MaxPool2d, MaxPool2dConfig};
use burn::nn::{Identity, Initializer, PaddingConfig2d, Relu};
use burn::tensor::activation::relu;
use burn::tensor::module::adaptive_avg_pool2d;
use burn::tensor::{Device, Tensor};
use saliency_core::Model;
use serde::{Deserialize, Serialize};

use crate::config::{ConfigError, require_positive};

/// SqueezeNet 1.1 (Iandola et al., *SqueezeNet: AlexNet-level accuracy with 50x fewer
/// parameters*, 2016): 1.24 million parameters, no BatchNorm.
///
/// Layers and names are torchvision's: `features.0`, `features.3.squeeze`,
/// `features.3.expand1x1`, ..., `classifier.1`. Max-pooling rounds up. Dropout is the
/// identity, here as in any network that is explained.
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use saliency_models::squeezenet::SqueezeNetConfig;
///
/// let device = Device::flex();
/// let net = SqueezeNetConfig::new().with_classes(10).init(&device)?;
/// let logits = net.forward(Tensor::ones([1, 3, 64, 64], &device));
/// assert_eq!(logits.dims(), [1, 10]);
/// # Ok::<(), saliency_models::config::ConfigError>(())
/// ```
#[derive(Module, Debug)]
pub struct SqueezeNet {
    features: Vec<Feature>,
    classifier: (Identity, Conv2d),
}

impl SqueezeNet {
    /// Maps images `[rows, channels, height, width]` to logits `[rows, classes]`.
    pub fn forward(&self, input: Tensor<4>) -> Tensor<2> {
        let x = self
            .features
            .iter()
            .fold(input, |x, layer| layer.forward(x));
        let x = relu(self.classifier.1.forward(x));
        adaptive_avg_pool2d(x, [1, 1]).flatten(1, 3)
    }

    /// Smallest height and width: from 17 pixels on, every pooling window holds a pixel.
    pub fn min_input(&self) -> usize {
        17
    }

    /// Number of classes, the columns of the output.
    pub fn classes(&self) -> usize {
        self.classifier.1.weight.dims()[0]
    }
}

impl Model<4> for SqueezeNet {
    fn forward(&self, input: Tensor<4>) -> Tensor<2> {
        SqueezeNet::forward(self, input)
    }
}

/// The shape of a [`SqueezeNet`].
///
/// ```
/// use burn::{module::Module, tensor::Device};
/// use saliency_models::squeezenet::SqueezeNetConfig;
///
/// let net = SqueezeNetConfig::new().init(&Device::flex())?;
/// assert_eq!(net.num_params(), 1_235_496);
/// # Ok::<(), saliency_models::config::ConfigError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SqueezeNetConfig {
    /// Classes to tell apart.
    pub classes: usize,
    /// Channels of the input image.
    pub channels: usize,
    /// Zeros around the input of the last convolution: 0 as in torchvision, 1 in the original
    /// Caffe description.
    pub classifier_padding: usize,
}

impl Default for SqueezeNetConfig {
    fn default() -> Self {
        Self::new()
    }
}

impl SqueezeNetConfig {
    /// The network for ImageNet: 3 channels, 1000 classes.
    pub fn new() -> Self {
        Self {
            classes: 1000,
            channels: 3,
            classifier_padding: 0,
        }
    }

    /// Sets the number of classes.
    pub fn with_classes(self, classes: usize) -> Self {
        Self { classes, ..self }
    }

    /// Sets the number of input channels.
    pub fn with_channels(self, channels: usize) -> Self {
        Self { channels, ..self }
    }

    /// Sets the zeros around the input of the last convolution.
    pub fn with_classifier_padding(self, classifier_padding: usize) -> Self {
        Self {
            classifier_padding,
            ..self
        }
    }

    /// Builds the network, randomly initialised as torchvision does: Kaiming uniform, the
    /// last layer normal with standard deviation 0.01, biases zero.
    ///
    /// # Errors
    ///
    /// [`ConfigError::Zero`] when the classes or the channels are zero.
    pub fn init(&self, device: &Device) -> Result<SqueezeNet, ConfigError> {
        require_positive(
            "SqueezeNet",
            &[("classes", self.classes), ("channels", self.channels)],
        )?;
        let stem = Conv2dConfig::new([self.channels, 64], [3, 3]).with_stride([2, 2]);
        let fire =
            |input, squeeze, expand| Feature::Fire(Fire::new(input, squeeze, expand, device));
        let pad = self.classifier_padding;
        let last = Conv2dConfig::new([512, self.classes], [1, 1])
            .with_padding(PaddingConfig2d::Explicit(pad, pad, pad, pad))
            .with_initializer(Initializer::Normal {
                mean: 0.0,
                std: 0.01,
            });
        Ok(SqueezeNet {
            features: vec![
                Feature::Conv(zero_bias(stem.with_initializer(kaiming()), device)),
                Feature::Relu(Relu),
                Feature::MaxPool(max_pool()),
                fire(64, 16, 64),
                fire(128, 16, 64),
                Feature::MaxPool(max_pool()),
                fire(128, 32, 128),
                fire(256, 32, 128),
                Feature::MaxPool(max_pool()),
                fire(256, 48, 192),
                fire(384, 48, 192),
                fire(384, 64, 256),
                fire(512, 64, 256),
            ],
            classifier: (Identity, zero_bias(last, device)),
        })
    }
}

/// One entry of torchvision's `features`; those without parameters keep the numbering.
#[derive(Module, Debug)]
#[allow(clippy::large_enum_variant)]
enum Feature {
    Conv(Conv2d),
    Relu(Relu),
    MaxPool(MaxPool2d),
    Fire(Fire),
}

impl Feature {
    fn forward(&self, input: Tensor<4>) -> Tensor<4> {
        match self {
            Feature::Conv(conv) => conv.forward(input),
            Feature::Relu(relu) => relu.forward(input),
            Feature::MaxPool(pool) => pool.forward(input),
            Feature::Fire(fire) => fire.forward(input),
        }
    }
}

/// A 1x1 squeeze, then 1x1 and 3x3 convolutions side by side, each before a ReLU.
#[derive(Module, Debug)]
struct Fire {
    squeeze: Conv2d,
    expand1x1: Conv2d,
    expand3x3: Conv2d,
}

impl Fire {
    fn new(input: usize, squeeze: usize, expand: usize, device: &Device) -> Self {
        let conv = |channels, kernel: usize| {
            let pad = kernel / 2;
            let config = Conv2dConfig::new(channels, [kernel, kernel])
                .with_padding(PaddingConfig2d::Explicit(pad, pad, pad, pad));
            zero_bias(config.with_initializer(kaiming()), device)
        };
        Self {
            squeeze: conv([input, squeeze], 1),
            expand1x1: conv([squeeze, expand], 1),
            expand3x3: conv([squeeze, expand], 3),
        }
    }

    fn forward(&self, input: Tensor<4>) -> Tensor<4> {
        let x = relu(self.squeeze.forward(input));
        let narrow = relu(self.expand1x1.forward(x.clone()));
        let wide = relu(self.expand3x3.forward(x));
        Tensor::cat(vec![narrow, wide], 1)
    }
}

/// 3x3, stride 2, the output size rounded up: the last window may hang over the edge.
fn max_pool() -> MaxPool2d {
    MaxPool2dConfig::new([3, 3])
        .with_strides([2, 2])
        .with_ceil_mode(true)
        .init()
}

fn kaiming() -> Initializer {
    Initializer::KaimingUniform {
        gain: std::f64::consts::SQRT_2,
        fan_out_only: false,
    }
}

fn zero_bias(config: Conv2dConfig, device: &Device) -> Conv2d {
    let [_, output] = config.channels;
    let mut conv = config.init(device);
    conv.bias = Some(Initializer::Zeros.init([output], device));
    conv
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameter_count_is_torchvisions() {
        let net = SqueezeNetConfig::new().init(&Device::flex()).unwrap();
        assert_eq!(net.num_params(), 1_235_496);
        assert_eq!(net.classes(), 1000);
    }

    /// 6 pixels: windows at 0, 2 and, hanging over, 4. Gradients of a maximum in the
    /// overhanging window must reach the pixel it came from.
    #[test]
    fn max_pool_rounds_up_forward_and_backward() {
        let device = Device::flex();
        let row = Tensor::<1>::from_floats([5., 1., 0., 2., 7., 3.], &device);
        let x = row.reshape([1, 1, 1, 6]).repeat_dim(2, 3);
        let x = x.autodiff().require_grad();
        let y = max_pool().forward(x.clone());
        assert_eq!(y.dims(), [1, 1, 1, 3]);
        let gradients = y.clone().sum().backward();
        assert_eq!(y.into_data().try_to_vec::<f32>().unwrap(), [5., 7., 7.]);
        let gradient = x.grad(&gradients).unwrap().sum_dim(2).into_data();
        assert_eq!(
            gradient.try_to_vec::<f32>().unwrap(),
            [1., 0., 0., 0., 2., 0.]
        );
    }

    #[test]
    fn takes_any_size_from_its_minimum_up() {
        let device = Device::flex();
        for pad in [0, 1] {
            let config = SqueezeNetConfig::new().with_classes(4);
            let net = config.with_classifier_padding(pad).init(&device).unwrap();
            for [height, width] in [[net.min_input(); 2], [35, 50], [64, 227]] {
                let logits = net.forward(Tensor::ones([1, 3, height, width], &device));
                assert_eq!(logits.dims(), [1, 4]);
            }
        }
    }

    #[test]
    fn zero_options_are_errors() {
        let config = SqueezeNetConfig::new().with_channels(0);
        assert!(config.init(&Device::flex()).is_err());
    }
}
