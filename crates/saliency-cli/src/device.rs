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
        ("auto", None) => Ok(real_gpu().unwrap_or(cpu(name)?)),
        ("cpu" | "flex", None) => cpu(name),
        ("ndarray", None) => ndarray(name),
        ("wgpu", index) => wgpu(name, index),
        ("cuda", index) => cuda(name, index.unwrap_or(0)),
        _ => Err(Error::Usage(format!(
            "there is no device {name:?}; choose auto, cpu, ndarray, wgpu[:n] or cuda[:n]"
        ))),
    }
}

/// Name for messages and reports.
pub fn describe(device: &Device) -> String {
    #[cfg(any(feature = "wgpu", feature = "cuda", feature = "rocm"))]
    if let Some(identity) = device.identity() {
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
#[cfg(feature = "wgpu")]
fn guarded<T>(work: impl FnOnce() -> T) -> Option<T> {
    catch_unwind(AssertUnwindSafe(work)).ok()
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
    let device = Device::cuda(index);
    let works = catch_unwind(AssertUnwindSafe(|| {
        burn::tensor::Tensor::<1>::ones([1], &device).try_into_data()
    }));
    match works {
        Ok(Ok(_)) => Ok(device),
        _ => Err(Error::Device {
            device: name.into(),
            reason: "CUDA does not answer: is there an NVIDIA GPU with a driver?".into(),
        }),
    }
}

#[cfg(not(feature = "cuda"))]
fn cuda(name: &str, _: usize) -> Result<Device, Error> {
    Err(missing(name, "cuda"))
}

#[cfg(feature = "wgpu")]
mod gpu {
    use super::*;
    use burn::tensor::{DeviceKind, DeviceType};

    /// The wgpu adapters in the order of `wgpu:0`, `wgpu:1`, ...
    fn kinds() -> Vec<DeviceKind> {
        let listed = guarded(|| Device::enumerate(DeviceType::Wgpu).into_vec()).unwrap_or_default();
        listed.iter().filter_map(kind_of).collect()
    }

    /// The adapter kind behind an enumerated device, read from its debug form because Burn
    /// has no accessor for it.
    fn kind_of(device: &Device) -> Option<DeviceKind> {
        let text = format!("{device:?}");
        let index = |name: &str| -> Option<usize> {
            let rest = text.split_once(&format!("{name}("))?.1;
            rest.split_once(')')?.0.parse().ok()
        };
        index("DiscreteGpu")
            .map(DeviceKind::DiscreteGpu)
            .or_else(|| index("IntegratedGpu").map(DeviceKind::IntegratedGpu))
            .or_else(|| index("VirtualGpu").map(DeviceKind::VirtualGpu))
            .or_else(|| text.contains("Cpu").then_some(DeviceKind::Cpu))
    }

    fn init(name: &str, kind: DeviceKind) -> Result<Device, Error> {
        let failed = |reason: String| Error::Device {
            device: name.into(),
            reason: reason.split_whitespace().collect::<Vec<_>>().join(" "),
        };
        guarded(|| Device::wgpu_options().device_kind(kind).init())
            .ok_or_else(|| failed("its driver failed".into()))?
            .map_err(|error| failed(error.to_string()))
    }

    pub fn real_gpu() -> Option<Device> {
        let kind = kinds().into_iter().find(|k| *k != DeviceKind::Cpu)?;
        init("auto", kind).ok()
    }

    pub fn open(name: &str, index: Option<usize>) -> Result<Device, Error> {
        let kinds = kinds();
        let none = |reason: &str| Error::Device {
            device: name.into(),
            reason: reason.into(),
        };
        if kinds.is_empty() {
            return Err(none(
                "no adapter found: install a Vulkan driver, or use --device cpu",
            ));
        }
        let real = || kinds.iter().position(|k| *k != DeviceKind::Cpu);
        let index = index.or_else(real).unwrap_or(0);
        match kinds.get(index) {
            Some(kind) => init(name, kind.clone()),
            None => Err(none(&format!(
                "there are {} adapters, from wgpu:0",
                kinds.len()
            ))),
        }
    }

    pub fn found() -> Vec<Found> {
        kinds()
            .into_iter()
            .enumerate()
            .map(|(index, kind)| {
                let name = format!("wgpu:{index}");
                let opened = init(&name, kind.clone()).map(|device| describe(&device));
                Found {
                    name,
                    description: opened.unwrap_or_else(|error| error.to_string()),
                    kind: match kind {
                        DeviceKind::Cpu => Kind::SoftwareGpu,
                        _ => Kind::Gpu,
                    },
                }
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
