use std::path::Path;

use burn::module::Module;
use burn::tensor::{DType, FloatDType};
use burn_store::{
    BurnToPyTorchAdapter, FloatCastAdapter, HalfPrecisionAdapter, ModuleAdapter, ModuleSnapshot,
    SafetensorsStore,
};

use super::error::{WeightsError, one_line};

/// Saves a module as safetensors under PyTorch's names and layout, so that
/// `load_state_dict(safetensors.torch.load_file(path))` takes it.
///
/// The file appears whole or not at all: it is written beside `path` and renamed, replacing a
/// file that was there. The same weights always give the same bytes. In `F16` the layers of
/// normalisation stay f32, because small variances vanish in f16.
///
/// # Errors
///
/// [`WeightsError::Save`] when the file cannot be written.
///
/// ```
/// use burn::tensor::{Device, FloatDType};
/// use saliency_models::{squeezenet::SqueezeNetConfig, weights};
///
/// let net = SqueezeNetConfig::new().with_classes(2).init(&Device::flex())?;
/// let folder = tempfile::tempdir()?;
/// let path = folder.path().join("net.safetensors");
/// weights::save_safetensors(&net, &path, FloatDType::F16)?;
/// assert!(path.metadata()?.len() < 2_000_000);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn save_safetensors<M: Module>(
    module: &M,
    path: impl AsRef<Path>,
    dtype: FloatDType,
) -> Result<(), WeightsError> {
    let path = path.as_ref();
    let adapter = match dtype {
        FloatDType::F16 => BurnToPyTorchAdapter
            .chain(FloatCastAdapter::to(DType::F32))
            .chain(HalfPrecisionAdapter::new()),
        other => BurnToPyTorchAdapter.chain(FloatCastAdapter::to(other.into())),
    };
    let mut store = SafetensorsStore::from_file(path)
        .with_to_adapter(adapter)
        .skip_enum_variants(true)
        .clear_metadata()
        .metadata("format", "pt")
        .overwrite(true);
    module
        .save_into(&mut store)
        .map_err(|error| WeightsError::Save {
            path: path.display().to_string(),
            reason: one_line(&error.to_string()),
        })
}
