//! The demo model: a small residual network trained by this project on its own
//! [scenes](crate::scenes), embedded in the library. See `models/demo.md` for its card.

use burn::tensor::Device;

use crate::{
    cifar_resnet::{CifarResNet, CifarResNetConfig},
    labels::Labels,
    preprocess::{Channels, Preprocess, Resize},
    scenes::{SIZE, Shape},
    weights::{LoadOptions, WeightsError, load_bytes},
};

const WEIGHTS: &[u8] = include_bytes!("../../../models/demo.safetensors");

/// Its architecture: a CIFAR ResNet of depth 14 with a strided stem, 12 classes.
pub fn config() -> CifarResNetConfig {
    CifarResNetConfig {
        classes: Shape::ALL.len(),
        stem_stride: 3,
        ..CifarResNetConfig::new(2)
    }
}

/// Loads the embedded weights.
///
/// ```
/// use burn::tensor::Device;
/// use saliency_models::{demo, scenes::Scenes};
///
/// let device = Device::flex();
/// let net = demo::load(&device)?;
/// let scene = Scenes::new(demo::TEST_SEED).get(0);
/// let x = demo::preprocess().apply(&scene.image, &device)?;
/// let class: Vec<i64> = net.forward(x).argmax(1).try_into_vec_as()?;
/// assert_eq!(class[0] as usize, scene.shape.class());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// [`WeightsError`] when the device cannot hold the weights.
pub fn load(device: &Device) -> Result<CifarResNet, WeightsError> {
    let net = config().init(device)?;
    Ok(load_bytes(net, WEIGHTS, "demo.safetensors", &LoadOptions::new())?.model)
}

/// Seed of the scenes that the model has not seen in training.
pub const TEST_SEED: u64 = 0x5eed_7e57;

/// How pictures are brought to its input.
pub fn preprocess() -> Preprocess {
    Preprocess {
        resize: Resize::Stretch {
            width: SIZE as u32,
            height: SIZE as u32,
        },
        channels: Channels::Rgb,
        divisor: 255.0,
        mean: [0.5; 3],
        std: [0.25; 3],
    }
}

/// Its class names.
///
/// ```
/// assert_eq!(saliency_models::demo::labels().find("heart").unwrap(), 6);
/// ```
pub fn labels() -> Labels {
    Labels::new(Shape::ALL.map(Shape::name))
}
