//! From a file or bytes to named tensors whose data is not read yet.

use std::fmt;
use std::fs::{self, File};
use std::io::{BufReader, ErrorKind, Read, Write};
use std::path::Path;

use burn::tensor::Bytes;
use burn_store::burn_pack::Tensor as PackTensor;
use burn_store::pytorch_reader::PytorchReader;
use burn_store::{BurnpackStore, ModuleStore, SafetensorsStore, bridge};
use tempfile::NamedTempFile;

use super::error::{WeightsError, one_line};
use super::{caught, pickle};

/// What a weight file is, as its content says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// `torch.save` of PyTorch 1.6 and later: a zip archive.
    TorchZip,
    /// `torch.save` before PyTorch 1.6: pickles in a row.
    TorchLegacy,
    /// safetensors.
    Safetensors,
    /// Burn's own format.
    Burnpack,
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Format::TorchZip => "PyTorch",
            Format::TorchLegacy => "PyTorch (legacy)",
            Format::Safetensors => "safetensors",
            Format::Burnpack => "burnpack",
        })
    }
}

/// The tensors of a file.
pub(crate) struct Source {
    /// The path, for messages.
    pub(crate) origin: String,
    pub(crate) format: Format,
    pub(crate) tensors: Vec<PackTensor>,
    /// Kept while tensors are read from it.
    pub(crate) _file: Option<NamedTempFile>,
}

impl Source {
    pub(crate) fn open(path: &Path) -> Result<Self, WeightsError> {
        let origin = path.display().to_string();
        let io = |source: std::io::Error| match source.kind() {
            ErrorKind::NotFound => WeightsError::NotFound {
                origin: origin.clone(),
            },
            _ => WeightsError::Io {
                origin: origin.clone(),
                source,
            },
        };
        let metadata = fs::metadata(path).map_err(io)?;
        if !metadata.is_file() {
            return Err(WeightsError::NotAFile { origin });
        }
        let mut start = Vec::new();
        let mut file = File::open(path).map_err(io)?;
        Read::by_ref(&mut file)
            .take(START as u64)
            .read_to_end(&mut start)
            .map_err(io)?;
        let format = detect(&start, metadata.len(), &origin)?;
        let tensors = match format {
            Format::TorchZip | Format::TorchLegacy => read_torch(path, format, &origin)?,
            Format::Safetensors | Format::Burnpack => {
                read_bytes(fs::read(path).map_err(io)?, format, &origin)?
            }
        };
        Ok(Self {
            origin,
            format,
            tensors,
            _file: None,
        })
    }

    pub(crate) fn from_bytes(bytes: &[u8], name: &str) -> Result<Self, WeightsError> {
        let origin = name.to_string();
        let start = &bytes[..bytes.len().min(START)];
        let format = detect(start, bytes.len() as u64, &origin)?;
        let (tensors, file) = match format {
            Format::TorchZip | Format::TorchLegacy => {
                let write = || -> std::io::Result<NamedTempFile> {
                    let mut file = NamedTempFile::new()?;
                    file.write_all(bytes)?;
                    file.flush()?;
                    Ok(file)
                };
                let file = write().map_err(|source| WeightsError::Io {
                    origin: origin.clone(),
                    source,
                })?;
                (read_torch(file.path(), format, &origin)?, Some(file))
            }
            Format::Safetensors | Format::Burnpack => {
                (read_bytes(bytes.to_vec(), format, &origin)?, None)
            }
        };
        Ok(Self {
            origin,
            format,
            tensors,
            _file: file,
        })
    }

    /// Length of the one-dimensional tensor whose name ends in `name`, such as the bias of a
    /// classifier.
    pub(crate) fn length_of(&self, name: &str) -> Option<usize> {
        self.tensors
            .iter()
            .find(|t| t.name == name || t.name.ends_with(&format!(".{name}")))
            .filter(|t| t.shape.num_dims() == 1)
            .map(|t| t.shape[0])
    }
}

/// Bytes that are looked at to tell the format.
const START: usize = 512;

const LEGACY_MAGIC: [u8; 10] = [0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19];

/// Tells the format by the first bytes; common wrong downloads get a message of their own.
fn detect(start: &[u8], len: u64, origin: &str) -> Result<Format, WeightsError> {
    let origin = || origin.to_string();
    let not_weights = |what, advice| {
        Err(WeightsError::NotWeights {
            origin: origin(),
            what,
            advice,
        })
    };
    let contains = |needle: &[u8]| {
        let head = &start[..start.len().min(64)];
        head.windows(needle.len()).any(|window| window == needle)
    };
    let text = start.trim_ascii_start();
    if len == 0 {
        return Err(WeightsError::Empty { origin: origin() });
    }
    if start.starts_with(b"PK\x03\x04") {
        return Ok(Format::TorchZip);
    }
    if start.starts_with(b"NRUB") {
        return Ok(Format::Burnpack);
    }
    if contains(&LEGACY_MAGIC) {
        return Ok(Format::TorchLegacy);
    }
    if start.get(8) == Some(&b'{') {
        return Ok(Format::Safetensors);
    }
    if text.starts_with(b"<") {
        return not_weights(
            "a web page",
            "the download went wrong, fetch the file itself",
        );
    }
    if text.starts_with(b"version https://git-lfs") {
        return not_weights(
            "a Git LFS pointer",
            "run `git lfs pull` to get the file itself",
        );
    }
    if text.starts_with(b"{") {
        return not_weights(
            "JSON text",
            "the download went wrong, fetch the file itself",
        );
    }
    if start.first() == Some(&0x80) {
        return not_weights(
            "a plain pickle",
            "save the network's state_dict() with torch.save",
        );
    }
    Err(WeightsError::Unknown {
        origin: origin(),
        start: start[..start.len().min(8)].escape_ascii().to_string(),
    })
}

fn read_torch(path: &Path, format: Format, origin: &str) -> Result<Vec<PackTensor>, WeightsError> {
    let damaged = |reason: String| WeightsError::Damaged {
        origin: origin.to_string(),
        format,
        reason: one_line(&reason),
    };
    caught(origin, format, || {
        let file = File::open(path).map_err(|e| damaged(e.to_string()))?;
        let scan = match format {
            Format::TorchZip => pickle::scan_zip(file),
            _ => pickle::scan_legacy(&mut BufReader::new(file)),
        };
        scan.map_err(|finding| match finding {
            pickle::Finding::Call(call) => WeightsError::Hostile {
                origin: origin.to_string(),
                call: one_line(&call),
            },
            pickle::Finding::Fault(reason) => damaged(reason),
        })?;
        let reader = PytorchReader::new(path).map_err(|e| damaged(e.to_string()))?;
        let tensors = reader.into_tensors().into_values();
        Ok(tensors.map(bridge::from_pytorch).collect())
    })
}

/// From memory rather than from a memory map, which a concurrent change of the file could
/// pull away.
fn read_bytes(
    bytes: Vec<u8>,
    format: Format,
    origin: &str,
) -> Result<Vec<PackTensor>, WeightsError> {
    let damaged = |reason: String| WeightsError::Damaged {
        origin: origin.to_string(),
        format,
        reason: one_line(&reason),
    };
    caught(origin, format, || {
        let tensors = match format {
            Format::Burnpack => BurnpackStore::from_bytes(Some(Bytes::from_bytes_vec(bytes)))
                .get_all_tensors()
                .map_err(|e| damaged(e.to_string()))?
                .clone(),
            _ => SafetensorsStore::from_bytes(Some(bytes))
                .map_indices_contiguous(false)
                .get_all_tensors()
                .map_err(|e| damaged(e.to_string()))?
                .clone(),
        };
        Ok(tensors.into_values().collect())
    })
}
