use std::fmt;

use super::Format;
use crate::config::ConfigError;

/// Why weights could not be loaded or saved. Each message is one line: the file, what is
/// wrong with it, and what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WeightsError {
    /// There is no such file.
    #[error("{origin}: no such file; check the path")]
    NotFound {
        /// The path.
        origin: String,
    },
    /// The path is a directory or another thing that is not a file.
    #[error("{origin}: is not a file; give the path of a weight file")]
    NotAFile {
        /// The path.
        origin: String,
    },
    /// The operating system could not read the file.
    #[error("{origin}: cannot be read: {source}")]
    Io {
        /// The path.
        origin: String,
        /// The operating system's reason.
        source: std::io::Error,
    },
    /// The file has no content.
    #[error("{origin}: is empty (0 bytes); copy or download it again")]
    Empty {
        /// The path.
        origin: String,
    },
    /// The content is of a known kind that holds no weights.
    #[error("{origin}: is {what}, not weights; {advice}")]
    NotWeights {
        /// The path.
        origin: String,
        /// What it is.
        what: &'static str,
        /// What to do.
        advice: &'static str,
    },
    /// The content is of no known kind.
    #[error(
        "{origin}: is not a known weight format (it starts with {start}); give a .pth, .safetensors or .bpk file"
    )]
    Unknown {
        /// The path.
        origin: String,
        /// The first bytes, escaped.
        start: String,
    },
    /// The file contradicts itself or ends too early.
    #[error("{origin}: damaged or incomplete {format} file: {reason}")]
    Damaged {
        /// The path.
        origin: String,
        /// What the file claims to be.
        format: Format,
        /// What does not fit.
        reason: String,
    },
    /// A pickle that would run a command if Python loaded it.
    #[error(
        "{origin}: unsafe pickle: it asks Python to call `{call}`; nothing was run, do not use this file"
    )]
    Hostile {
        /// The path.
        origin: String,
        /// The function it names.
        call: String,
    },
    /// The weights are those of another network.
    #[error(
        "{origin}: these are not weights of this network: {mismatch}; check the architecture and the number of classes"
    )]
    Mismatch {
        /// The path.
        origin: String,
        /// What differs.
        mismatch: Box<Mismatch>,
    },
    /// NaN or infinity among the weights.
    #[error(
        "{origin}: {name} has values that are not finite in {dtype}; the file is damaged or was saved from a diverged network"
    )]
    NonFinite {
        /// The path.
        origin: String,
        /// The tensor.
        name: String,
        /// The type the weights are wanted in.
        dtype: &'static str,
    },
    /// The device cannot compute in the chosen type.
    #[error("this device cannot hold weights in {dtype}; load them in f32")]
    Unsupported {
        /// The type the weights are wanted in.
        dtype: &'static str,
    },
    /// The network itself cannot be built.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The file could not be written.
    #[error("{path}: weights cannot be saved: {reason}")]
    Save {
        /// The path.
        path: String,
        /// Why not.
        reason: String,
    },
}

/// How the tensors of a file differ from those of a network, all by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mismatch {
    /// Tensors of the network that the file lacks.
    pub missing: Vec<String>,
    /// Tensors of the file that the network has no place for.
    pub unexpected: Vec<String>,
    /// Tensors of another shape or kind.
    pub misfits: Vec<Misfit>,
}

/// A tensor whose shape or kind is not the network's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Misfit {
    /// The tensor.
    pub name: String,
    /// Shape, or kind, in the file.
    pub found: String,
    /// Shape, or kind, in the network.
    pub expected: String,
}

impl fmt::Display for Misfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            name,
            found,
            expected,
        } = self;
        write!(f, "{name} is {found}, should be {expected}")
    }
}

impl Mismatch {
    pub(super) fn is_empty(&self) -> bool {
        self.missing.is_empty() && self.unexpected.is_empty() && self.misfits.is_empty()
    }
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let misfits: Vec<String> = self.misfits.iter().map(Misfit::to_string).collect();
        let parts: Vec<String> = [
            ("missing", &self.missing),
            ("unexpected", &self.unexpected),
            ("misshaped", &misfits),
        ]
        .into_iter()
        .filter(|(_, names)| !names.is_empty())
        .map(|(what, names)| format!("{} {what} ({})", names.len(), shortened(names)))
        .collect();
        f.write_str(&parts.join("; "))
    }
}

/// The first five names and how many more there are.
fn shortened(names: &[String]) -> String {
    const SHOWN: usize = 5;
    let list: Vec<String> = names.iter().take(SHOWN).map(|n| one_line(n)).collect();
    match names.len().saturating_sub(SHOWN) {
        0 => list.join(", "),
        more => format!("{} and {more} more", list.join(", ")),
    }
}

/// Text from a file or a library on one line of at most 200 characters.
pub(super) fn one_line(text: &str) -> String {
    const LONGEST: usize = 200;
    let words: Vec<&str> = text.split_whitespace().collect();
    let line: String = words
        .join(" ")
        .chars()
        .map(|c| if c.is_control() { '?' } else { c })
        .collect();
    match line.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}...", &line[..end]),
        None => line,
    }
}
