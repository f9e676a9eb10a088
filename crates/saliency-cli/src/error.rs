use std::path::{Path, PathBuf};

use saliency_models::fetch::FetchError;

/// What a command fails with: one line for a person.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The request makes no sense; nothing was tried.
    #[error("{0}")]
    Usage(String),
    #[error(transparent)]
    Core(#[from] saliency_core::Error),
    /// One of several methods failed.
    #[error("{method}: {error}")]
    Method {
        method: String,
        error: saliency_core::Error,
    },
    #[error(transparent)]
    Photo(#[from] saliency_models::photo::PhotoError),
    #[error(transparent)]
    Preprocess(#[from] saliency_models::preprocess::PreprocessError),
    #[error(transparent)]
    Weights(#[from] saliency_models::weights::WeightsError),
    #[error(transparent)]
    Config(#[from] saliency_models::config::ConfigError),
    #[error(transparent)]
    Labels(#[from] saliency_models::labels::LabelsError),
    #[error(transparent)]
    Data(#[from] saliency_models::data::DataError),
    #[error(transparent)]
    Train(#[from] saliency_models::train::TrainError),
    #[error(transparent)]
    Saved(#[from] saliency_models::saved::SavedError),
    #[error(transparent)]
    Fetch(#[from] FetchError),
    #[error(transparent)]
    Viz(#[from] saliency_viz::Error),
    #[error("{}: {reason}", path.display())]
    File { path: PathBuf, reason: String },
    #[error("device {device:?} is not usable: {reason}")]
    Device { device: String, reason: String },
    /// Some of several inputs failed; each has been reported.
    #[error("{failed} of {total} inputs failed")]
    Partial { failed: usize, total: usize },
    #[error("the trained model is right on {:.1} % of unseen scenes only, under the {:.0} % it needs, so nothing was written; train longer, or add --keep", 100.0 * .accuracy, 100.0 * .least)]
    Training { accuracy: f64, least: f64 },
    #[error("internal error: {}; please report it with the command line", one_line(.0))]
    Internal(String),
}

impl Error {
    pub fn file(path: &Path, reason: impl ToString) -> Self {
        Error::File {
            path: path.to_owned(),
            reason: reason.to_string(),
        }
    }

    /// A result could not be read back from the device.
    pub fn reading(error: impl ToString) -> Self {
        Error::Core(saliency_core::Error::Device {
            message: one_line(&error.to_string()),
        })
    }

    /// Exit code: 2 for a wrong request, 1 for anything that failed on the way.
    pub fn code(&self) -> u8 {
        match self {
            Error::Data(error) if error.is_usage() => 2,
            Error::Train(error) if error.is_usage() => 2,
            Error::Saved(saliency_models::saved::SavedError::Taken { .. }) => 2,
            Error::Usage(_) | Error::Labels(_) | Error::Fetch(FetchError::Unknown { .. }) => 2,
            Error::Core(
                saliency_core::Error::Option { .. }
                | saliency_core::Error::UnknownClass { .. }
                | saliency_core::Error::UnknownLayer { .. }
                | saliency_core::Error::UnknownOption { .. }
                | saliency_core::Error::Recipe { .. }
                | saliency_core::Error::UnknownMethod { .. },
            ) => 2,
            _ => 1,
        }
    }
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
