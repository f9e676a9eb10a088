#[cfg(any(feature = "wgpu", feature = "cuda"))]
use std::panic::{AssertUnwindSafe, catch_unwind};

use burn::tensor::Device;

use crate::error::Error;

/// A device that was found on this machine, and the name that `--device` takes.
pub struct Found {
    pub name: String,
    pub description: String,
    pub kind: Kind,
}

/// What a device is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Cpu,
    Gpu,
    SoftwareGpu,
}

/// Opens the device that a user asked for.
pub fn open(name: &str) -> Result<Device, Error> {
    let (backend, index) = match name.split_once(':') {
        Some((backend, index)) => (backend, Some(parse_index(name, index)?)),
        None => (name, None),
    };
    match (backend, index) {
        ("auto", None) => match real_gpu() {
            Some(gpu) => Ok(gpu),
            None => host().or_else(|_| cuda(name, 0)),
        },
        ("cpu" | "flex", None) => cpu(name),
        ("ndarray", None) => ndarray(name),
        ("wgpu", index) => wgpu(name, index),
        ("cuda", index) => cuda(name, index.unwrap_or(0)),
        _ => Err(Error::Usage(format!(
            "there is no device {name:?}; choose auto, cpu, ndarray, wgpu, wgpu:N, cuda or cuda:N"
        ))),
    }
}

/// The CPU, by the fastest backend of this build.
pub fn host() -> Result<Device, Error> {
    cpu("cpu").or_else(|error| ndarray("ndarray").map_err(|_| error))
}

/// Which of the devices `auto` takes: the first real GPU of wgpu, else the CPU, else CUDA.
pub fn automatic(found: &[Found]) -> Option<usize> {
    let first = |wanted: &dyn Fn(&Found) -> bool| found.iter().position(wanted);
    first(&|f| f.kind == Kind::Gpu && f.name.starts_with("wgpu"))
        .or_else(|| first(&|f| f.kind == Kind::Cpu))
        .or_else(|| first(&|f| f.kind == Kind::Gpu))
}

/// Name for messages and reports.
pub fn describe(device: &Device) -> String {
    #[cfg(any(feature = "wgpu", feature = "cuda"))]
    if let Some(identity) = guarded(|| device.identity()).flatten() {
        return identity.name;
    }
    let debug = format!("{device:?}").to_lowercase();
    match debug {
        d if d.contains("ndarray") => "CPU (ndarray)".into(),
        d if d.contains("flex") => "CPU (flex)".into(),
        d => d,
    }
}

fn parse_index(name: &str, index: &str) -> Result<usize, Error> {
    index.parse().map_err(|_| {
        Error::Usage(format!(
            "in --device {name}, {index:?} is not a number; write wgpu:0, for example"
        ))
    })
}

fn missing(device: &str, feature: &str) -> Error {
    Error::Device {
        device: device.into(),
        reason: format!("this build has no {feature}; install with --features {feature}"),
    }
}

/// Runs what may panic inside a driver.
#[cfg(any(feature = "wgpu", feature = "cuda"))]
fn guarded<T>(work: impl FnOnce() -> T) -> Option<T> {
    catch_unwind(AssertUnwindSafe(work)).ok()
}

/// Whether a device can do a sum.
#[cfg(any(feature = "wgpu", feature = "cuda"))]
fn works(device: &Device) -> bool {
    let three = guarded(|| {
        let ones = burn::tensor::Tensor::<1>::ones([3], device);
        ones.sum().try_into_vec_as::<f32>()
    });
    matches!(three, Some(Ok(values)) if values == [3.0])
}

fn cpu(name: &str) -> Result<Device, Error> {
    #[cfg(feature = "flex")]
    {
        let _ = name;
        Ok(Device::flex())
    }
    #[cfg(not(feature = "flex"))]
    Err(missing(name, "flex"))
}

fn ndarray(name: &str) -> Result<Device, Error> {
    #[cfg(feature = "ndarray")]
    #[allow(deprecated)]
    {
        let _ = name;
        Ok(Device::ndarray())
    }
    #[cfg(not(feature = "ndarray"))]
    Err(missing(name, "ndarray"))
}

#[cfg(feature = "cuda")]
fn cuda(name: &str, index: usize) -> Result<Device, Error> {
    guarded(|| Device::cuda(index))
        .filter(works)
        .ok_or_else(|| Error::Device {
            device: name.into(),
            reason: "CUDA does not answer: is there an NVIDIA GPU with a driver?".into(),
        })
}

#[cfg(not(feature = "cuda"))]
fn cuda(name: &str, _: usize) -> Result<Device, Error> {
    Err(missing(name, "cuda"))
}

#[cfg(feature = "wgpu")]
mod gpu {
    use super::*;
    use burn::tensor::DeviceType;

    /// The wgpu adapters in the order of `wgpu:0`, `wgpu:1`, ...
    fn adapters() -> Vec<Device> {
        guarded(|| Device::enumerate(DeviceType::Wgpu).into_vec()).unwrap_or_default()
    }

    /// A graphics card, not a software rasterizer.
    fn is_real(device: &Device) -> bool {
        let identity = guarded(|| device.identity()).flatten();
        identity.is_some_and(|identity| identity.physical.is_some())
    }

    /// The first card that works.
    pub fn real_gpu() -> Option<Device> {
        adapters()
            .into_iter()
            .find(|adapter| is_real(adapter) && works(adapter))
    }

    pub fn open(name: &str, index: Option<usize>) -> Result<Device, Error> {
        let fail = |reason: String| Error::Device {
            device: name.into(),
            reason,
        };
        let mut adapters = adapters();
        let Some(last) = adapters.len().checked_sub(1) else {
            let reason = "no adapter found: install a Vulkan driver, or use --device cpu";
            return Err(fail(reason.into()));
        };
        let index = index.or_else(|| adapters.iter().position(is_real));
        let index = index.unwrap_or(0);
        if index > last {
            return Err(fail(format!("the last adapter is wgpu:{last}")));
        }
        let adapter = adapters.swap_remove(index);
        match works(&adapter) {
            true => Ok(adapter),
            false => Err(fail("its driver failed at a sum of three numbers".into())),
        }
    }

    pub fn found() -> Vec<Found> {
        adapters()
            .iter()
            .enumerate()
            .map(|(index, adapter)| Found {
                name: format!("wgpu:{index}"),
                description: describe(adapter),
                kind: match is_real(adapter) {
                    true => Kind::Gpu,
                    false => Kind::SoftwareGpu,
                },
            })
            .collect()
    }
}

fn wgpu(name: &str, index: Option<usize>) -> Result<Device, Error> {
    #[cfg(feature = "wgpu")]
    return gpu::open(name, index);
    #[cfg(not(feature = "wgpu"))]
    {
        let _ = index;
        Err(missing(name, "wgpu"))
    }
}

fn real_gpu() -> Option<Device> {
    #[cfg(feature = "wgpu")]
    return gpu::real_gpu();
    #[cfg(not(feature = "wgpu"))]
    None
}

/// Every device of this machine that this build can use.
pub fn found() -> Vec<Found> {
    let mut found = Vec::new();
    let on_cpu = |name: &str, description: &str| Found {
        name: name.into(),
        description: description.into(),
        kind: Kind::Cpu,
    };
    if cfg!(feature = "flex") {
        found.push(on_cpu("cpu", "CPU, Burn's flex backend"));
    }
    if cfg!(feature = "ndarray") {
        found.push(on_cpu("ndarray", "CPU, Burn's ndarray backend (slow)"));
    }
    #[cfg(feature = "wgpu")]
    found.extend(gpu::found());
    #[cfg(feature = "cuda")]
    for index in 0.. {
        let name = format!("cuda:{index}");
        let Ok(device) = cuda(&name, index) else {
            break;
        };
        found.push(Found {
            name,
            description: describe(&device),
            kind: Kind::Gpu,
        });
    }
    found
}
