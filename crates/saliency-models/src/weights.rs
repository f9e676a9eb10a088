//! Reading and writing of weights: PyTorch's `.pth`, `.pt` and `.th` (zip and legacy),
//! `.safetensors`, and Burn's own `.bpk`.
//!
//! What a file is follows from its content, not from its name. Files are not trusted: no
//! pickle is ever run, sizes are checked before memory is taken, and every fault is a
//! one-line [`WeightsError`]. A network is given back only when every one of its tensors was
//! found with the right shape and finite values.

mod error;
mod names;
mod pickle;
mod read;
mod save;
#[cfg(test)]
mod tests;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::{DType, FloatDType, Tensor, TensorData};
use burn_store::burn_pack::Tensor as PackTensor;
use burn_store::{Applier, ModuleAdapter, PyTorchToBurnAdapter, bridge};

pub use error::{Misfit, Mismatch, WeightsError};
pub use read::Format;
pub use save::save_safetensors;

use error::one_line;
use names::{Layout, Plan};
pub(crate) use read::Source;

/// How weights are loaded.
///
/// ```
/// use burn::tensor::FloatDType;
/// use saliency_models::weights::LoadOptions;
///
/// // In f64, so that forward and gradient run in f64 too.
/// let options = LoadOptions::new().dtype(FloatDType::F64);
/// assert_eq!(options.dtype, FloatDType::F64);
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LoadOptions {
    /// What every floating-point tensor is converted to, from f16, bf16, f32 or f64.
    pub dtype: FloatDType,
}

impl Default for LoadOptions {
    fn default() -> Self {
        Self::new()
    }
}

impl LoadOptions {
    /// Weights in f32.
    pub fn new() -> Self {
        Self {
            dtype: FloatDType::F32,
        }
    }

    /// Sets the floating-point type of the loaded network. Its input must have the same.
    pub fn dtype(self, dtype: FloatDType) -> Self {
        Self { dtype }
    }
}

/// A loaded network and what was read.
#[derive(Clone, Debug)]
pub struct Loaded<M> {
    /// The network: in inference mode, on the plain device.
    pub model: M,
    /// What was read.
    pub report: LoadReport,
}

/// What [`load`] read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoadReport {
    /// What the content of the file was.
    pub format: Format,
    /// Tensors that went into the network.
    pub tensors: usize,
    /// Numbers in those tensors.
    pub values: usize,
    /// Tensors of the file that a network does not need, such as `num_batches_tracked` or
    /// the state of an optimizer next to the weights.
    pub ignored: Vec<String>,
}

/// Loads the weights in `path` into any Burn module.
///
/// Names are torchvision's or Burn's; wrappers (`state_dict`, `model`, `module.`, ...) are
/// removed, and `num_batches_tracked` is ignored. The loaded module is in inference mode
/// ([`Module::valid`]) on the plain device, which is what an attribution wants; call
/// [`Module::train`] on it to train further.
///
/// The module must be new, or no other clone of it be in use: clones share the running
/// statistics of their BatchNorm layers while their parameters are not yet initialised.
///
/// # Errors
///
/// Every fault of the file, see [`WeightsError`]; also when the network's device cannot hold
/// the chosen type.
///
/// ```
/// use burn::tensor::{Device, FloatDType};
/// use saliency_models::{resnet::ResNetConfig, weights};
///
/// let device = Device::flex();
/// let folder = tempfile::tempdir()?;
/// let path = folder.path().join("tiny.safetensors");
/// let config = ResNetConfig::resnet18().with_width(4).with_classes(3);
/// weights::save_safetensors(&config.init(&device)?, &path, FloatDType::F32)?;
///
/// let loaded = weights::load(config.init(&device)?, &path, &Default::default())?;
/// assert_eq!(loaded.report.tensors, 102);
///
/// let other = ResNetConfig::resnet18().with_width(4).with_classes(5).init(&device)?;
/// let error = weights::load(other, &path, &Default::default()).unwrap_err();
/// assert!(error.to_string().contains("fc.bias is [3], should be [5]"), "{error}");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn load<M: Module>(
    module: M,
    path: impl AsRef<Path>,
    options: &LoadOptions,
) -> Result<Loaded<M>, WeightsError> {
    apply(module, Source::open(path.as_ref())?, options)
}

/// Loads weights that are in memory, such as those embedded in a program.
///
/// `name` stands for the path in error messages. See [`load`]. PyTorch files go through a
/// temporary file.
///
/// # Errors
///
/// As [`load`].
///
/// ```
/// use burn::tensor::Device;
/// use saliency_models::{squeezenet::SqueezeNetConfig, weights};
///
/// let net = SqueezeNetConfig::new().with_classes(2).init(&Device::flex())?;
/// let error = weights::load_bytes(net, b"<!DOCTYPE html>", "demo", &Default::default());
/// assert!(error.unwrap_err().to_string().starts_with("demo: is a web page"));
/// # Ok::<(), saliency_models::config::ConfigError>(())
/// ```
pub fn load_bytes<M: Module>(
    module: M,
    bytes: &[u8],
    name: &str,
    options: &LoadOptions,
) -> Result<Loaded<M>, WeightsError> {
    apply(module, Source::from_bytes(bytes, name)?, options)
}

/// Converts every floating-point tensor of a module, running statistics included, and gives
/// it back in inference mode on the plain device. The original is left as it was.
///
/// ```
/// use burn::tensor::{DType, Device, FloatDType, Tensor};
/// use saliency_models::{resnet::ResNetConfig, weights};
///
/// let device = Device::flex();
/// let net = ResNetConfig::resnet18().with_width(4).init(&device)?;
/// let net = weights::cast(&net, FloatDType::F64);
/// let x = Tensor::<4>::ones([1, 3, 32, 32], (&device, DType::F64));
/// assert_eq!(net.forward(x).dtype(), DType::F64);
/// # Ok::<(), saliency_models::config::ConfigError>(())
/// ```
pub fn cast<M: Module>(module: &M, dtype: FloatDType) -> M {
    struct Cast(FloatDType);
    impl ModuleMapper for Cast {
        fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            param.map(|tensor| tensor.cast(self.0))
        }
    }
    // `valid` makes running statistics of its own, which clones would share.
    module.valid().map(&mut Cast(dtype))
}

/// Checks the whole source against the module, then applies it.
pub(crate) fn apply<M: Module>(
    module: M,
    source: Source,
    options: &LoadOptions,
) -> Result<Loaded<M>, WeightsError> {
    let dtype = DType::from(options.dtype);
    if !module.devices().iter().all(|d| d.supports_dtype(dtype)) {
        return Err(WeightsError::Unsupported {
            dtype: dtype.name(),
        });
    }
    let Source {
        origin,
        format,
        tensors,
        _file,
    } = source;
    caught(&origin, format, || {
        let plan =
            names::plan(&module, tensors, format).map_err(|mismatch| WeightsError::Mismatch {
                origin: origin.clone(),
                mismatch: Box::new(mismatch),
            })?;
        let Plan {
            layout,
            tensors,
            ignored,
        } = plan;
        let tensors = tensors
            .into_iter()
            .map(|tensor| materialize(tensor, dtype, &origin, format))
            .collect::<Result<Vec<_>, _>>()?;
        let report = LoadReport {
            format,
            tensors: tensors.len(),
            values: tensors.iter().map(|t| t.shape.num_elements()).sum(),
            ignored,
        };
        let adapter: Option<Box<dyn ModuleAdapter>> = match layout {
            Layout::Torch => Some(Box::new(PyTorchToBurnAdapter)),
            Layout::Burn => None,
        };
        let mut applier = Applier::new(tensors, None, adapter, layout.skips_enum_variants());
        let model = detached(module).map(&mut applier).valid();
        let result = applier.into_result();
        match result.errors.first() {
            None if result.missing.is_empty() => Ok(Loaded { model, report }),
            _ => Err(WeightsError::Damaged {
                origin: origin.clone(),
                format,
                reason: one_line(&format!("{result:?}")),
            }),
        }
    })
}

/// Reads a tensor's values, converts floating-point ones, and refuses those not finite.
fn materialize(
    tensor: PackTensor,
    dtype: DType,
    origin: &str,
    format: Format,
) -> Result<PackTensor, WeightsError> {
    let name = tensor.name.clone();
    let data = bridge::into_data(tensor).map_err(|error| WeightsError::Damaged {
        origin: origin.to_string(),
        format,
        reason: one_line(&error.to_string()),
    })?;
    let data = match data.dtype().is_float() {
        true => data.convert_dtype(dtype),
        false => data,
    };
    if data.dtype().is_float() && !all_finite(&data) {
        return Err(WeightsError::NonFinite {
            origin: origin.to_string(),
            name,
            dtype: dtype.name(),
        });
    }
    Ok(bridge::from_data(data, name, None))
}

/// Large networks are f32, which is checked block by block with vector instructions.
fn all_finite(data: &TensorData) -> bool {
    let block_is_finite = |block: &[f32]| block.iter().fold(true, |all, v| all & v.is_finite());
    match data.as_slice::<f32>() {
        Ok(values) => values.chunks(4096).all(block_is_finite),
        Err(_) => data.iter::<f64>().all(f64::is_finite),
    }
}

/// A module in use gets running statistics of its own, so that loading leaves its clones
/// alone. A new one is left lazy: its random initialisation is then never computed.
fn detached<M: Module>(module: M) -> M {
    struct Lazy(bool);
    impl ModuleVisitor for Lazy {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            self.0 |= !param.is_initialized();
        }
    }
    let mut lazy = Lazy(false);
    module.visit(&mut lazy);
    if lazy.0 { module } else { module.valid() }
}

/// Turns a panic of the readers into an error.
fn caught<T>(
    origin: &str,
    format: Format,
    f: impl FnOnce() -> Result<T, WeightsError>,
) -> Result<T, WeightsError> {
    catch_unwind(AssertUnwindSafe(f)).unwrap_or_else(|panic| {
        let message = panic
            .downcast_ref::<String>()
            .map(String::as_str)
            .or_else(|| panic.downcast_ref::<&str>().copied());
        Err(WeightsError::Damaged {
            origin: origin.to_string(),
            format,
            reason: one_line(message.unwrap_or("the reader failed")),
        })
    })
}
