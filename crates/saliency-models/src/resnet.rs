//! ResNet-18/34/50/101/152 as torchvision builds them.

use burn::module::Module;
use burn::nn::conv::Conv2d;
use burn::nn::pool::{MaxPool2d, MaxPool2dConfig};
use burn::nn::{BatchNorm, BatchNormConfig, Linear, LinearConfig, PaddingConfig2d};
use burn::tensor::activation::relu;
use burn::tensor::module::adaptive_avg_pool2d;
use burn::tensor::{Device, Tensor};
use saliency_core::Model;
use serde::{Deserialize, Serialize};

use crate::config::{ConfigError, conv, require_positive};

/// A residual network (He et al., *Deep Residual Learning for Image Recognition*, 2016).
///
/// Parameters have torchvision's names (`conv1.weight`, `layer1.0.downsample.1.running_var`,
/// `fc.bias`, ...), BatchNorm its epsilon of 1e-5, and the stride of a bottleneck is in its
/// 3x3 convolution ("v1.5").
///
/// A new network is in training mode. Call [`valid`](Module::valid) before it is explained,
/// or its BatchNorm layers use the statistics of the batch.
///
/// ```
/// use burn::{module::Module, tensor::{Device, Tensor}};
/// use saliency_models::resnet::ResNetConfig;
///
/// let device = Device::flex();
/// let net = ResNetConfig::resnet18().with_width(8).with_classes(5).init(&device)?.valid();
/// let logits = net.forward(Tensor::ones([2, 3, 64, 64], &device));
/// assert_eq!(logits.dims(), [2, 5]);
/// # Ok::<(), saliency_models::config::ConfigError>(())
/// ```
#[derive(Module, Debug)]
pub struct ResNet {
    conv1: Conv2d,
    bn1: BatchNorm,
    maxpool: MaxPool2d,
    layer1: Vec<Residual>,
    layer2: Vec<Residual>,
    layer3: Vec<Residual>,
    layer4: Vec<Residual>,
    fc: Linear,
}

impl ResNet {
    /// Maps images `[rows, channels, height, width]` to logits `[rows, classes]`.
    pub fn forward(&self, input: Tensor<4>) -> Tensor<2> {
        let x = relu(self.bn1.forward(self.conv1.forward(input)));
        let x = self.maxpool.forward(x);
        let x = [&self.layer1, &self.layer2, &self.layer3, &self.layer4]
            .into_iter()
            .flatten()
            .fold(x, |x, block| block.forward(x));
        self.fc
            .forward(adaptive_avg_pool2d(x, [1, 1]).flatten(1, 3))
    }

    /// Smallest height and width of use: the last stage has one position per 32 pixels, and
    /// sees mostly padding in a smaller image.
    pub fn min_input(&self) -> usize {
        32
    }

    /// Number of classes, the columns of the output.
    pub fn classes(&self) -> usize {
        self.fc.weight.dims()[1]
    }
}

impl Model<4> for ResNet {
    fn forward(&self, input: Tensor<4>) -> Tensor<2> {
        ResNet::forward(self, input)
    }
}

/// The kind of residual block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Block {
    /// Two 3x3 convolutions.
    Basic,
    /// 1x1, 3x3 and 1x1 convolutions, the last one four times as wide.
    Bottleneck,
}

impl Block {
    /// Output channels per plane: 1 or 4.
    pub fn expansion(self) -> usize {
        match self {
            Block::Basic => 1,
            Block::Bottleneck => 4,
        }
    }
}

/// The shape of a [`ResNet`].
///
/// ```
/// use burn::{module::Module, tensor::Device};
/// use saliency_models::resnet::ResNetConfig;
///
/// let net = ResNetConfig::resnet18().init(&Device::flex())?;
/// // torchvision counts 11,689,512 without the running statistics (2 x 4,800 values).
/// assert_eq!(net.num_params(), 11_689_512 + 9_600);
/// assert!(ResNetConfig::resnet50().with_classes(0).init(&Device::flex()).is_err());
/// # Ok::<(), saliency_models::config::ConfigError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResNetConfig {
    /// Kind of residual block.
    pub block: Block,
    /// Residual blocks in each of the four stages.
    pub layers: [usize; 4],
    /// Planes of the first stage, 64 in torchvision; each next stage doubles them.
    pub width: usize,
    /// Classes to tell apart.
    pub classes: usize,
    /// Channels of the input image.
    pub channels: usize,
}

impl ResNetConfig {
    /// A network of `layers` blocks per stage for ImageNet: width 64, 3 channels, 1000 classes.
    pub fn new(block: Block, layers: [usize; 4]) -> Self {
        Self {
            block,
            layers,
            width: 64,
            classes: 1000,
            channels: 3,
        }
    }

    /// ResNet-18: 11.7 million parameters.
    pub fn resnet18() -> Self {
        Self::new(Block::Basic, [2, 2, 2, 2])
    }

    /// ResNet-34: 21.8 million parameters.
    pub fn resnet34() -> Self {
        Self::new(Block::Basic, [3, 4, 6, 3])
    }

    /// ResNet-50: 25.6 million parameters.
    pub fn resnet50() -> Self {
        Self::new(Block::Bottleneck, [3, 4, 6, 3])
    }

    /// ResNet-101: 44.5 million parameters.
    pub fn resnet101() -> Self {
        Self::new(Block::Bottleneck, [3, 4, 23, 3])
    }

    /// ResNet-152: 60.2 million parameters.
    pub fn resnet152() -> Self {
        Self::new(Block::Bottleneck, [3, 8, 36, 3])
    }

    /// Sets the planes of the first stage.
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

    /// Builds the network, randomly initialised (He normal, fan-out) and in training mode.
    ///
    /// # Errors
    ///
    /// [`ConfigError::Zero`] when the width, the classes, the channels or the blocks of a
    /// stage are zero.
    pub fn init(&self, device: &Device) -> Result<ResNet, ConfigError> {
        let [l1, l2, l3, l4] = self.layers;
        require_positive(
            "ResNet",
            &[
                ("width", self.width),
                ("classes", self.classes),
                ("channels", self.channels),
                ("layers[0]", l1),
                ("layers[1]", l2),
                ("layers[2]", l3),
                ("layers[3]", l4),
            ],
        )?;
        let width = self.width;
        let out = |stage: u32| width * 2usize.pow(stage) * self.block.expansion();
        let stage = |stage: u32, input: usize, stride: usize| -> Vec<Residual> {
            let planes = width * 2usize.pow(stage);
            (0..self.layers[stage as usize])
                .map(|i| match i {
                    0 => Residual::new(self.block, input, planes, stride, device),
                    _ => Residual::new(self.block, out(stage), planes, 1, device),
                })
                .collect()
        };
        Ok(ResNet {
            conv1: conv([self.channels, width], 7, 2, device),
            bn1: BatchNormConfig::new(width).init(device),
            maxpool: MaxPool2dConfig::new([3, 3])
                .with_strides([2, 2])
                .with_padding(PaddingConfig2d::Explicit(1, 1, 1, 1))
                .init(),
            layer1: stage(0, width, 1),
            layer2: stage(1, out(0), 2),
            layer3: stage(2, out(1), 2),
            layer4: stage(3, out(2), 2),
            fc: LinearConfig::new(out(3), self.classes).init(device),
        })
    }
}

/// `relu(f(x) + shortcut(x))`; the third convolution exists in bottlenecks only.
#[derive(Module, Debug)]
struct Residual {
    conv1: Conv2d,
    bn1: BatchNorm,
    conv2: Conv2d,
    bn2: BatchNorm,
    conv3: Option<Conv2d>,
    bn3: Option<BatchNorm>,
    downsample: Option<(Conv2d, BatchNorm)>,
}

impl Residual {
    fn new(block: Block, input: usize, planes: usize, stride: usize, device: &Device) -> Self {
        let output = planes * block.expansion();
        let bn = |channels| BatchNormConfig::new(channels).init(device);
        let (conv1, conv2, conv3, bn3) = match block {
            Block::Basic => (
                conv([input, planes], 3, stride, device),
                conv([planes, planes], 3, 1, device),
                None,
                None,
            ),
            Block::Bottleneck => (
                conv([input, planes], 1, 1, device),
                conv([planes, planes], 3, stride, device),
                Some(conv([planes, output], 1, 1, device)),
                Some(bn(output)),
            ),
        };
        let projects = stride != 1 || input != output;
        Self {
            conv1,
            bn1: bn(planes),
            conv2,
            bn2: bn(planes),
            conv3,
            bn3,
            downsample: projects.then(|| (conv([input, output], 1, stride, device), bn(output))),
        }
    }

    fn forward(&self, input: Tensor<4>) -> Tensor<4> {
        let shortcut = match &self.downsample {
            Some((conv, bn)) => bn.forward(conv.forward(input.clone())),
            None => input.clone(),
        };
        let x = relu(self.bn1.forward(self.conv1.forward(input)));
        let x = self.bn2.forward(self.conv2.forward(x));
        let x = match (&self.conv3, &self.bn3) {
            (Some(conv), Some(bn)) => bn.forward(conv.forward(relu(x))),
            _ => x,
        };
        relu(x + shortcut)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// torchvision's counts plus two running statistics per BatchNorm channel.
    #[test]
    fn parameter_counts_are_torchvisions() {
        let device = Device::flex();
        for (config, trainable, norm_channels) in [
            (ResNetConfig::resnet18(), 11_689_512, 4_800),
            (ResNetConfig::resnet34(), 21_797_672, 8_512),
            (ResNetConfig::resnet50(), 25_557_032, 26_560),
            (ResNetConfig::resnet101(), 44_549_160, 52_672),
            (ResNetConfig::resnet152(), 60_192_808, 75_712),
        ] {
            let net = config.init(&device).unwrap();
            assert_eq!(
                net.num_params(),
                trainable + 2 * norm_channels,
                "{config:?}"
            );
        }
    }

    #[test]
    fn takes_any_size_from_its_minimum_up() {
        let device = Device::flex();
        for config in [ResNetConfig::resnet18(), ResNetConfig::resnet50()] {
            let net = config.with_width(4).with_classes(7).init(&device).unwrap();
            let net = net.valid();
            let least = net.min_input();
            for [height, width] in [[least, least], [33, 47], [64, 35]] {
                let logits = net.forward(Tensor::ones([1, 3, height, width], &device));
                assert_eq!(logits.dims(), [1, 7]);
            }
        }
    }

    #[test]
    fn zero_options_are_errors() {
        let device = Device::flex();
        let base = ResNetConfig::resnet18().with_width(4);
        for (config, option) in [
            (base.clone().with_width(0), "width"),
            (base.clone().with_classes(0), "classes"),
            (base.clone().with_channels(0), "channels"),
            (ResNetConfig::new(Block::Basic, [1, 1, 0, 1]), "layers[2]"),
        ] {
            let network = "ResNet";
            assert_eq!(
                config.init(&device).unwrap_err(),
                ConfigError::Zero { network, option }
            );
        }
    }
}
