//! The networks by name.

use std::fmt;
use std::path::Path;
use std::str::FromStr;

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use saliency_core::{Graph, Model};
use serde::{Deserialize, Serialize};

use crate::cifar_resnet::{CifarResNet, CifarResNetConfig};
use crate::config::ConfigError;
use crate::resnet::{ResNet, ResNetConfig};
use crate::squeezenet::{SqueezeNet, SqueezeNetConfig};
use crate::weights::{self, LoadOptions, Loaded, Source, WeightsError};

/// The networks this crate defines, under torchvision's names and `cifar_resnet20` to
/// `cifar_resnet56`.
///
/// ```
/// use saliency_models::zoo::Architecture;
///
/// let resnet50: Architecture = "resnet50".parse()?;
/// assert_eq!(resnet50.parameter_count(), 25_557_032);
/// assert_eq!(resnet50.input_size(), 224);
/// assert_eq!(resnet50.to_string(), "resnet50");
/// let error = "resnet51".parse::<Architecture>().unwrap_err();
/// assert!(error.to_string().starts_with("unknown network `resnet51`; known are resnet18, "));
/// # Ok::<(), saliency_models::zoo::UnknownArchitecture>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Architecture {
    /// `resnet18`.
    ResNet18,
    /// `resnet34`.
    ResNet34,
    /// `resnet50`.
    ResNet50,
    /// `resnet101`.
    ResNet101,
    /// `resnet152`.
    ResNet152,
    /// `squeezenet1_1`.
    SqueezeNet1_1,
    /// `cifar_resnet20`.
    CifarResNet20,
    /// `cifar_resnet32`.
    CifarResNet32,
    /// `cifar_resnet44`.
    CifarResNet44,
    /// `cifar_resnet56`.
    CifarResNet56,
}

use Architecture::*;

/// More than this a damaged file claims.
const MOST_CLASSES: usize = 1_000_000;

impl Architecture {
    /// All of them.
    pub const ALL: [Architecture; 10] = [
        ResNet18,
        ResNet34,
        ResNet50,
        ResNet101,
        ResNet152,
        SqueezeNet1_1,
        CifarResNet20,
        CifarResNet32,
        CifarResNet44,
        CifarResNet56,
    ];

    /// The lower-case name.
    pub fn name(self) -> &'static str {
        match self {
            ResNet18 => "resnet18",
            ResNet34 => "resnet34",
            ResNet50 => "resnet50",
            ResNet101 => "resnet101",
            ResNet152 => "resnet152",
            SqueezeNet1_1 => "squeezenet1_1",
            CifarResNet20 => "cifar_resnet20",
            CifarResNet32 => "cifar_resnet32",
            CifarResNet44 => "cifar_resnet44",
            CifarResNet56 => "cifar_resnet56",
        }
    }

    /// Trainable parameters of the network with its usual classes.
    pub fn parameter_count(self) -> usize {
        match self {
            ResNet18 => 11_689_512,
            ResNet34 => 21_797_672,
            ResNet50 => 25_557_032,
            ResNet101 => 44_549_160,
            ResNet152 => 60_192_808,
            SqueezeNet1_1 => 1_235_496,
            CifarResNet20 => 269_722,
            CifarResNet32 => 464_154,
            CifarResNet44 => 658_586,
            CifarResNet56 => 853_018,
        }
    }

    /// Height and width of the images it was designed for.
    pub fn input_size(self) -> usize {
        if self.is_cifar() { 32 } else { 224 }
    }

    /// Classes of the data set it was designed for.
    pub fn classes(self) -> usize {
        if self.is_cifar() { 10 } else { 1000 }
    }

    fn is_cifar(self) -> bool {
        matches!(
            self,
            CifarResNet20 | CifarResNet32 | CifarResNet44 | CifarResNet56
        )
    }

    /// Bias of the classifier, whose length is the number of classes.
    fn head(self) -> &'static str {
        match self {
            SqueezeNet1_1 => "classifier.1.bias",
            _ if self.is_cifar() => "linear.bias",
            _ => "fc.bias",
        }
    }

    /// Builds the network, randomly initialised and in training mode.
    ///
    /// # Errors
    ///
    /// [`ConfigError::Zero`] for no classes.
    ///
    /// ```
    /// use burn::tensor::Device;
    /// use saliency_models::zoo::Architecture;
    ///
    /// let net = Architecture::CifarResNet20.init(4, &Device::flex())?;
    /// assert_eq!(net.classes(), 4);
    /// # Ok::<(), saliency_models::config::ConfigError>(())
    /// ```
    pub fn init(self, classes: usize, device: &Device) -> Result<Network, ConfigError> {
        let resnet = |config: ResNetConfig| -> Result<Network, ConfigError> {
            Ok(Network::ResNet(config.with_classes(classes).init(device)?))
        };
        let cifar = |config: CifarResNetConfig| -> Result<Network, ConfigError> {
            let net = config.with_classes(classes).init(device)?;
            Ok(Network::CifarResNet(net))
        };
        match self {
            ResNet18 => resnet(ResNetConfig::resnet18()),
            ResNet34 => resnet(ResNetConfig::resnet34()),
            ResNet50 => resnet(ResNetConfig::resnet50()),
            ResNet101 => resnet(ResNetConfig::resnet101()),
            ResNet152 => resnet(ResNetConfig::resnet152()),
            CifarResNet20 => cifar(CifarResNetConfig::resnet20()),
            CifarResNet32 => cifar(CifarResNetConfig::resnet32()),
            CifarResNet44 => cifar(CifarResNetConfig::resnet44()),
            CifarResNet56 => cifar(CifarResNetConfig::resnet56()),
            SqueezeNet1_1 => {
                let config = SqueezeNetConfig::new().with_classes(classes);
                Ok(Network::SqueezeNet(config.init(device)?))
            }
        }
    }

    /// Loads the network from a weight file, in f32 and inference mode. The number of
    /// classes is the file's.
    ///
    /// # Errors
    ///
    /// Every fault of the file, see [`WeightsError`].
    ///
    /// ```
    /// use burn::{module::Module, tensor::{Device, FloatDType}};
    /// use saliency_models::{weights, zoo::Architecture};
    ///
    /// let device = Device::flex();
    /// let folder = tempfile::tempdir()?;
    /// let path = folder.path().join("tiny.safetensors");
    /// let net = Architecture::CifarResNet20.init(7, &device)?;
    /// weights::save_safetensors(&net, &path, FloatDType::F32)?;
    ///
    /// assert_eq!(Architecture::CifarResNet20.load(&path, &device)?.classes(), 7);
    /// assert!(Architecture::ResNet18.load(&path, &device).is_err());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn load(self, path: impl AsRef<Path>, device: &Device) -> Result<Network, WeightsError> {
        let loaded = self.load_with(path, device, &LoadOptions::new())?;
        Ok(loaded.model)
    }

    /// Loads the network in another floating-point type, and reports what was read.
    ///
    /// ```
    /// use burn::tensor::{Device, FloatDType};
    /// use saliency_models::{weights::{self, LoadOptions}, zoo::Architecture};
    ///
    /// let device = Device::flex();
    /// let folder = tempfile::tempdir()?;
    /// let path = folder.path().join("tiny.safetensors");
    /// let net = Architecture::CifarResNet20.init(7, &device)?;
    /// weights::save_safetensors(&net, &path, FloatDType::F16)?;
    ///
    /// let options = LoadOptions::new().dtype(FloatDType::F64);
    /// let loaded = Architecture::CifarResNet20.load_with(&path, &device, &options)?;
    /// assert!(loaded.report.tensors > 60);
    /// // The same from memory; the name stands for the path in messages.
    /// let bytes = std::fs::read(&path)?;
    /// let net = Architecture::CifarResNet20.load_bytes(&bytes, "tiny", &device, &options)?.model;
    /// assert_eq!(net.classes(), 7);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As [`load`](Self::load).
    pub fn load_with(
        self,
        path: impl AsRef<Path>,
        device: &Device,
        options: &LoadOptions,
    ) -> Result<Loaded<Network>, WeightsError> {
        self.load_source(Source::open(path.as_ref())?, device, options)
    }

    /// Loads the network from bytes in memory; `name` stands for the path in messages.
    ///
    /// # Errors
    ///
    /// As [`load`](Self::load).
    pub fn load_bytes(
        self,
        bytes: &[u8],
        name: &str,
        device: &Device,
        options: &LoadOptions,
    ) -> Result<Loaded<Network>, WeightsError> {
        self.load_source(Source::from_bytes(bytes, name)?, device, options)
    }

    fn load_source(
        self,
        source: Source,
        device: &Device,
        options: &LoadOptions,
    ) -> Result<Loaded<Network>, WeightsError> {
        let classes = source
            .length_of(self.head())
            .filter(|&classes| classes <= MOST_CLASSES)
            .unwrap_or(self.classes());
        weights::apply(self.init(classes, device)?, source, options)
    }
}

impl fmt::Display for Architecture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// A name that is no [`Architecture`]'s.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown network `{name}`; known are {}", Architecture::ALL.map(Architecture::name).join(", "))]
pub struct UnknownArchitecture {
    /// The name given.
    pub name: String,
}

impl FromStr for Architecture {
    type Err = UnknownArchitecture;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        let found = Self::ALL
            .into_iter()
            .find(|a| a.name().eq_ignore_ascii_case(name));
        found.ok_or_else(|| UnknownArchitecture {
            name: name.to_string(),
        })
    }
}

impl TryFrom<String> for Architecture {
    type Error = UnknownArchitecture;

    fn try_from(name: String) -> Result<Self, Self::Error> {
        name.parse()
    }
}

impl From<Architecture> for String {
    fn from(architecture: Architecture) -> Self {
        architecture.name().to_string()
    }
}

/// A network of any [`Architecture`].
#[derive(Module, Debug)]
#[allow(clippy::large_enum_variant)]
pub enum Network {
    /// ImageNet ResNets.
    ResNet(ResNet),
    /// CIFAR ResNets.
    CifarResNet(CifarResNet),
    /// SqueezeNet 1.1.
    SqueezeNet(SqueezeNet),
}

impl Network {
    /// Maps images `[rows, channels, height, width]` to logits `[rows, classes]`.
    pub fn forward(&self, input: Tensor<4>) -> Tensor<2> {
        match self {
            Network::ResNet(net) => net.forward(input),
            Network::CifarResNet(net) => net.forward(input),
            Network::SqueezeNet(net) => net.forward(input),
        }
    }

    /// Smallest height and width of use.
    pub fn min_input(&self) -> usize {
        match self {
            Network::ResNet(net) => net.min_input(),
            Network::CifarResNet(net) => net.min_input(),
            Network::SqueezeNet(net) => net.min_input(),
        }
    }

    /// Number of classes, the columns of the output.
    pub fn classes(&self) -> usize {
        match self {
            Network::ResNet(net) => net.classes(),
            Network::CifarResNet(net) => net.classes(),
            Network::SqueezeNet(net) => net.classes(),
        }
    }
}

impl Network {
    /// The network as a graph, for images of `[rows, 3, height, width]` like `example`.
    ///
    /// ```
    /// use burn::tensor::{Device, Tensor};
    /// use saliency_models::zoo::Architecture;
    ///
    /// let device = Device::flex();
    /// let net = Architecture::CifarResNet20.init(4, &device)?;
    /// let graph = net.trace(&Tensor::ones([1, 3, 32, 32], &device))?;
    /// assert!(graph.layer(&"layer3".into()).is_ok());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`saliency_core::Error::Trace`] where the images are too small for the network.
    pub fn trace(&self, example: &Tensor<4>) -> Result<Graph, saliency_core::Error> {
        Graph::trace(self, Network::forward, example)
    }
}

impl Model<4> for Network {
    fn forward(&self, input: Tensor<4>) -> Tensor<2> {
        Network::forward(self, input)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip() {
        for architecture in Architecture::ALL {
            assert_eq!(architecture.to_string().parse(), Ok(architecture));
            let json = serde_json::to_string(&architecture).unwrap();
            assert_eq!(json, format!("\"{architecture}\""));
            assert_eq!(
                serde_json::from_str::<Architecture>(&json).unwrap(),
                architecture
            );
        }
        assert_eq!("ResNet50".parse(), Ok(ResNet50));
    }

    /// The table against the networks: all values less two running statistics per gamma.
    #[test]
    fn parameter_counts_are_the_networks() {
        use burn::module::{ModuleVisitor, Param};

        struct Trainable(usize, bool);
        impl ModuleVisitor for Trainable {
            fn enter_module(&mut self, name: &str, _: &str) {
                self.1 = name.starts_with("running_");
            }
            fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
                self.0 += if self.1 {
                    0
                } else {
                    param.lazy_shape().num_elements()
                };
            }
        }
        for architecture in Architecture::ALL {
            let net = architecture.init(architecture.classes(), &Device::flex());
            let mut trainable = Trainable(0, false);
            net.unwrap().visit(&mut trainable);
            assert_eq!(
                trainable.0,
                architecture.parameter_count(),
                "{architecture}"
            );
        }
    }
}
