//! ResNet-20/32/44/56 for CIFAR-10.

use burn::module::Module;
use burn::nn::conv::Conv2d;
use burn::nn::{BatchNorm, BatchNormConfig, Linear, LinearConfig};
use burn::tensor::activation::relu;
use burn::tensor::module::adaptive_avg_pool2d;
use burn::tensor::ops::PadMode;
use burn::tensor::{Device, Tensor, s};
use saliency_core::Model;
use serde::{Deserialize, Serialize};

use crate::config::{ConfigError, conv, require_positive};

/// The small residual network of He et al. (2016), section 4.2: a 3x3 stem, three stages of
/// `n` basic blocks of 16, 32 and 64 channels, and shortcuts without parameters ("option A"):
/// every second pixel, the missing channels filled with zeros. Depth is `6 n + 2`.
///
/// Parameters are named as in the published CIFAR-10 checkpoints of
/// `akamaster/pytorch_resnet_cifar10` (`conv1.weight`, `layer3.2.bn2.bias`, `linear.weight`).
///
/// A new network is in training mode: call [`valid`](Module::valid) before it is explained.
///
/// ```
/// use burn::{module::Module, tensor::{Device, Tensor}};
/// use saliency_models::cifar_resnet::CifarResNetConfig;
///
/// let device = Device::flex();
/// let net = CifarResNetConfig::resnet20().init(&device)?.valid();
/// let logits = net.forward(Tensor::ones([2, 3, 32, 32], &device));
/// assert_eq!(logits.dims(), [2, 10]);
/// # Ok::<(), saliency_models::config::ConfigError>(())
/// ```
#[derive(Module, Debug)]
pub struct CifarResNet {
    conv1: Conv2d,
    bn1: BatchNorm,
    layer1: Vec<BasicBlock>,
    layer2: Vec<BasicBlock>,
    layer3: Vec<BasicBlock>,
    linear: Linear,
}

impl CifarResNet {
    /// Maps images `[rows, channels, height, width]` to logits `[rows, classes]`.
    pub fn forward(&self, input: Tensor<4>) -> Tensor<2> {
        let x = relu(self.bn1.forward(self.conv1.forward(input)));
        let x = [&self.layer1, &self.layer2, &self.layer3]
            .into_iter()
            .flatten()
            .fold(x, |x, block| block.forward(x));
        self.linear
            .forward(adaptive_avg_pool2d(x, [1, 1]).flatten(1, 3))
    }

    /// Smallest height and width of use: below it the last stage, which has one position per
    /// four pixels, sees mostly padding.
    pub fn min_input(&self) -> usize {
        8 * self.conv1.stride[0]
    }

    /// Number of classes, the columns of the output.
    pub fn classes(&self) -> usize {
        self.linear.weight.dims()[1]
    }
}

impl Model<4> for CifarResNet {
    fn forward(&self, input: Tensor<4>) -> Tensor<2> {
        CifarResNet::forward(self, input)
    }
}

/// The shape of a [`CifarResNet`].
///
/// ```
/// use burn::{module::Module, tensor::Device};
/// use saliency_models::cifar_resnet::CifarResNetConfig;
///
/// let net = CifarResNetConfig::resnet20().init(&Device::flex())?;
/// // The paper counts 0.27 million; 2 x 688 running statistics come on top.
/// assert_eq!(net.num_params(), 269_722 + 1_376);
/// # Ok::<(), saliency_models::config::ConfigError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CifarResNetConfig {
    /// Basic blocks in each of the three stages.
    pub blocks_per_stage: usize,
    /// Channels of the first stage; each next stage doubles them.
    pub width: usize,
    /// Classes to tell apart.
    pub classes: usize,
    /// Channels of the input image.
    pub channels: usize,
    /// Stride of the first convolution; 2 suits images of 64 pixels.
    pub stem_stride: usize,
}

impl CifarResNetConfig {
    /// A network for 32x32 colour images in ten classes, 16 channels wide.
    pub fn new(blocks_per_stage: usize) -> Self {
        Self {
            blocks_per_stage,
            width: 16,
            classes: 10,
            channels: 3,
            stem_stride: 1,
        }
    }

    /// ResNet-20: 0.27 million parameters.
    pub fn resnet20() -> Self {
        Self::new(3)
    }

    /// ResNet-32: 0.46 million parameters.
    pub fn resnet32() -> Self {
        Self::new(5)
    }

    /// ResNet-44: 0.66 million parameters.
    pub fn resnet44() -> Self {
        Self::new(7)
    }

    /// ResNet-56: 0.85 million parameters.
    pub fn resnet56() -> Self {
        Self::new(9)
    }

    /// Sets the channels of the first stage.
    pub fn with_width(self, width: usize) -> Self {
        Self { width, ..self }
    }

    /// Sets the number of classes.
    pub fn with_classes(self, classes: usize) -> Self {
        Self { classes, ..self }
    }

    /// Sets the number of input channels.
    pub fn with_channels(self, channels: usize) -> Self {
        Self { channels, ..self }
    }

    /// Sets the stride of the first convolution.
    pub fn with_stem_stride(self, stem_stride: usize) -> Self {
        Self {
            stem_stride,
            ..self
        }
    }

    /// Builds the network, randomly initialised (He normal) and in training mode.
    ///
    /// # Errors
    ///
    /// [`ConfigError::Zero`] when an option is zero.
    pub fn init(&self, device: &Device) -> Result<CifarResNet, ConfigError> {
        require_positive(
            "CIFAR ResNet",
            &[
                ("blocks_per_stage", self.blocks_per_stage),
                ("width", self.width),
                ("classes", self.classes),
                ("channels", self.channels),
                ("stem_stride", self.stem_stride),
            ],
        )?;
        let width = self.width;
        let stage = |input: usize, output: usize| -> Vec<BasicBlock> {
            (0..self.blocks_per_stage)
                .map(|i| BasicBlock::new(if i == 0 { input } else { output }, output, device))
                .collect()
        };
        Ok(CifarResNet {
            conv1: conv([self.channels, width], 3, self.stem_stride, device),
            bn1: BatchNormConfig::new(width).init(device),
            layer1: stage(width, width),
            layer2: stage(width, 2 * width),
            layer3: stage(2 * width, 4 * width),
            linear: LinearConfig::new(4 * width, self.classes).init(device),
        })
    }
}

/// Two 3x3 convolutions; where the channels double, the first one has stride 2.
#[derive(Module, Debug)]
struct BasicBlock {
    conv1: Conv2d,
    bn1: BatchNorm,
    conv2: Conv2d,
    bn2: BatchNorm,
}

impl BasicBlock {
    fn new(input: usize, output: usize, device: &Device) -> Self {
        let stride = if input == output { 1 } else { 2 };
        Self {
            conv1: conv([input, output], 3, stride, device),
            bn1: BatchNormConfig::new(output).init(device),
            conv2: conv([output, output], 3, 1, device),
            bn2: BatchNormConfig::new(output).init(device),
        }
    }

    fn forward(&self, input: Tensor<4>) -> Tensor<4> {
        let x = relu(self.bn1.forward(self.conv1.forward(input.clone())));
        let x = self.bn2.forward(self.conv2.forward(x));
        let channels = x.dims()[1];
        relu(x + shortcut(input, channels))
    }
}

/// Option A: `x[:, :, ::2, ::2]` between equally many zero channels on both sides (the odd
/// one behind), or `x` itself where the channels stay.
fn shortcut(x: Tensor<4>, channels: usize) -> Tensor<4> {
    let missing = channels - x.dims()[1];
    if missing == 0 {
        return x;
    }
    let before = missing / 2;
    x.slice(s![.., .., ..;2, ..;2]).pad(
        [(before, missing - before), (0, 0), (0, 0)],
        PadMode::Constant(0.0),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shortcut_takes_every_second_pixel_between_zero_channels() {
        let device = Device::flex();
        let x = Tensor::<1>::from_floats([0., 1., 2., 3., 4., 5., 6., 7., 8.], &device);
        let y = shortcut(x.reshape([1, 1, 3, 3]), 3);
        assert_eq!(y.dims(), [1, 3, 2, 2]);
        assert_eq!(
            y.into_data().try_to_vec::<f32>().unwrap(),
            [0., 0., 0., 0., 0., 2., 6., 8., 0., 0., 0., 0.]
        );
    }

    /// Trainable parameters as Table 6 of the paper rounds them: 0.27, 0.46, 0.66, 0.85 M.
    #[test]
    fn parameter_counts_are_the_papers() {
        let device = Device::flex();
        for (config, trainable) in [
            (CifarResNetConfig::resnet20(), 269_722),
            (CifarResNetConfig::resnet32(), 464_154),
            (CifarResNetConfig::resnet44(), 658_586),
            (CifarResNetConfig::resnet56(), 853_018),
        ] {
            let net = config.init(&device).unwrap();
            // The stem has 16 norm channels, each stage 2 n of 16, 32 and 64.
            let running = 2 * (16 + 2 * config.blocks_per_stage * (16 + 32 + 64));
            assert_eq!(net.num_params(), trainable + running);
        }
    }

    #[test]
    fn takes_small_odd_and_strided_input() {
        let device = Device::flex();
        let config = CifarResNetConfig::new(1).with_width(4).with_channels(1);
        for stride in [1, 2] {
            let net = config.clone().with_stem_stride(stride).init(&device);
            let net = net.unwrap().valid();
            for [height, width] in [[net.min_input(); 2], [17, 31]] {
                let logits = net.forward(Tensor::ones([3, 1, height, width], &device));
                assert_eq!(logits.dims(), [3, 10]);
            }
        }
    }

    #[test]
    fn zero_options_are_errors() {
        let error = CifarResNetConfig::new(0).init(&Device::flex()).unwrap_err();
        assert_eq!(
            error.to_string(),
            "CIFAR ResNet: `blocks_per_stage` is 0; it must be at least 1"
        );
    }
}
