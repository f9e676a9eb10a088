//! Trained networks for tables and series as folders: `model.json` says what the network is
//! and how files become its inputs, `weights.safetensors` has its weights, `card.md` says it
//! to people.

mod card;

use std::{
    fs,
    io::Read,
    path::{Path, PathBuf},
};

use burn::tensor::{Device, FloatDType, Tensor, TensorData};
use saliency_core::Graph;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::{
    config::ConfigError,
    data::{DataError, Layout, Sample},
    predictor::{Architecture, Predictor},
    train::{Scores, TrainOptions, Trained},
    weights::{self, LoadOptions, WeightsError},
};

const DESCRIPTION: &str = "model.json";
const WEIGHTS: &str = "weights.safetensors";
const CARD: &str = "card.md";

const FORMAT: &str = "saliency-model";
const VERSION: u32 = 1;

/// Why a model's folder cannot be read or written. Each message is one line.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SavedError {
    /// There is no such folder.
    #[error("{folder}: no such folder; train a model with `saliency train --out {folder}`")]
    NotFound {
        /// The path.
        folder: String,
    },
    /// The folder holds no model.
    #[error("{folder}: holds no model: {reason}")]
    NotAModel {
        /// The path.
        folder: String,
        /// What is missing or wrong.
        reason: String,
    },
    /// The folder was written by another version.
    #[error(
        "{folder}: was written in version {found} of the format, and this program reads version {VERSION}; train the model again or update the program"
    )]
    Version {
        /// The path.
        folder: String,
        /// The version in the file.
        found: u32,
    },
    /// The weights are damaged or another network's.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// The network cannot be built.
    #[error("{folder}/model.json: {source}")]
    Config {
        /// The path.
        folder: String,
        /// Why not.
        source: ConfigError,
    },
    /// The network cannot be traced.
    #[error(transparent)]
    Trace(#[from] saliency_core::Error),
    /// Something else is where the folder should be written.
    #[error("{folder}: {reason}; choose another --out")]
    Taken {
        /// The path.
        folder: String,
        /// What it is.
        reason: String,
    },
    /// The folder could not be written.
    #[error("{folder}: cannot be written: {reason}")]
    Write {
        /// The path.
        folder: String,
        /// Why not.
        reason: String,
    },
}

/// Rows or windows in each part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// The weights were fitted to these.
    pub training: usize,
    /// Training was stopped by these.
    pub validation: usize,
    /// The scores were measured on these.
    pub test: usize,
}

/// The file a network was trained on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DataFile {
    /// Its name, without folders.
    pub name: String,
    /// Rows of data.
    pub rows: u64,
    /// SHA-256 of its bytes.
    pub sha256: String,
}

impl DataFile {
    pub(crate) fn of(path: &Path, rows: u64) -> Result<Self, DataError> {
        let io = |source| DataError::Io {
            file: path.display().to_string(),
            source,
        };
        let mut file = fs::File::open(path).map_err(io)?;
        let mut hash = Sha256::new();
        let mut buffer = vec![0; 1 << 16];
        loop {
            match file.read(&mut buffer).map_err(io)? {
                0 => break,
                read => hash.update(&buffer[..read]),
            }
        }
        let name = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        let sha256 = hash
            .finalize()
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        Ok(DataFile { name, rows, sha256 })
    }
}

/// How a network was trained.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Training {
    /// The options.
    pub options: TrainOptions,
    /// Rows or windows in each part.
    pub samples: Counts,
    /// Passes over the training rows.
    pub epochs: usize,
    /// The pass whose weights were kept.
    pub best_epoch: usize,
}

/// All that is known of a trained network: the content of `model.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Description {
    format: String,
    version: u32,
    /// The network's shape.
    pub architecture: Architecture,
    /// How a file becomes inputs and targets.
    pub layout: Layout,
    /// What it was trained on.
    pub data: DataFile,
    /// How it was trained.
    pub training: Training,
    /// Scores on the validation part, by which training was stopped.
    pub validation: Scores,
    /// Scores on the test part, which nothing was chosen by.
    pub test: Scores,
    /// What a person should know of the data.
    pub notes: Vec<String>,
}

impl Description {
    pub(crate) fn new(
        architecture: Architecture,
        data: DataFile,
        training: Training,
        [validation, test]: [Scores; 2],
        notes: Vec<String>,
        layout: Layout,
    ) -> Self {
        Description {
            format: FORMAT.into(),
            version: VERSION,
            architecture,
            layout,
            data,
            training,
            validation,
            test,
            notes,
        }
        .rounded()
    }

    /// With numbers of 15 digits, which a JSON file gives back to the bit.
    fn rounded(self) -> Self {
        fn round(value: &mut Value) {
            match value {
                Value::Array(values) => values.iter_mut().for_each(round),
                Value::Object(fields) => fields.values_mut().for_each(round),
                Value::Number(number) if number.is_f64() => {
                    let short = number.as_f64().map(|x| format!("{x:.14e}"));
                    if let Some(short) = short.and_then(|text| text.parse::<f64>().ok()) {
                        *value = short.into();
                    }
                }
                _ => {}
            }
        }
        let Ok(mut value) = serde_json::to_value(&self) else {
            return self;
        };
        round(&mut value);
        serde_json::from_value(value).unwrap_or(self)
    }
}

/// A trained network read from its folder, ready to be explained.
#[derive(Debug)]
pub struct SavedModel {
    description: Description,
    predictor: Predictor,
    graph: Graph,
    device: Device,
}

impl SavedModel {
    /// Whether a path is the folder of a model.
    pub fn is_folder(path: impl AsRef<Path>) -> bool {
        path.as_ref().join(DESCRIPTION).is_file()
    }

    /// Reads a folder that [`Trained::save`] has written.
    ///
    /// # Errors
    /// [`SavedError`] says what is missing, damaged or of another version.
    pub fn load(folder: impl AsRef<Path>, device: &Device) -> Result<Self, SavedError> {
        let folder = folder.as_ref();
        let description = describe(folder)?;
        let name = folder.display().to_string();
        let device = device.clone().inner();
        let fresh =
            description
                .architecture
                .init(&device)
                .map_err(|source| SavedError::Config {
                    folder: name.clone(),
                    source,
                })?;
        fits(&description).map_err(|reason| SavedError::NotAModel {
            folder: name,
            reason,
        })?;
        let loaded = weights::load(fresh, folder.join(WEIGHTS), &LoadOptions::new())?;
        let predictor = loaded.model;
        let layout = &description.layout;
        let (steps, width) = (layout.steps(), layout.encoder.width());
        let graph = match layout.window {
            Some(_) => predictor.trace_sequence(&Tensor::zeros([1, steps, width], &device))?,
            None => predictor.trace_table(&Tensor::zeros([1, width], &device))?,
        };
        Ok(SavedModel {
            description,
            predictor,
            graph,
            device,
        })
    }

    /// What it is and how it was trained.
    pub fn description(&self) -> &Description {
        &self.description
    }

    /// How a file becomes inputs: [`Layout::samples`] reads them.
    pub fn layout(&self) -> &Layout {
        &self.description.layout
    }

    /// The network.
    pub fn predictor(&self) -> &Predictor {
        &self.predictor
    }

    /// The network as a graph, which every method can explain: of tables it takes
    /// `[rows, features]`, of series `[rows, steps, features]`.
    pub fn graph(&self) -> &Graph {
        &self.graph
    }

    /// Whether it takes windows of a series.
    pub fn is_sequence(&self) -> bool {
        self.layout().window.is_some()
    }

    /// Where its weights are.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Rows of a table as its input.
    pub fn table(&self, samples: &[Sample]) -> Tensor<2> {
        let width = self.layout().encoder.width();
        let data = TensorData::new(values(samples), [samples.len(), width]);
        Tensor::from_data(data, &self.device)
    }

    /// Windows of a series as its input.
    pub fn sequence(&self, samples: &[Sample]) -> Tensor<3> {
        let (steps, width) = (self.layout().steps(), self.layout().encoder.width());
        let data = TensorData::new(values(samples), [samples.len(), steps, width]);
        Tensor::from_data(data, &self.device)
    }
}

fn values(samples: &[Sample]) -> Vec<f32> {
    samples
        .iter()
        .flat_map(|sample| sample.values.iter().copied())
        .collect()
}

fn describe(folder: &Path) -> Result<Description, SavedError> {
    /// What every version of the file has.
    #[derive(Deserialize)]
    struct Head {
        format: String,
        version: u32,
    }
    let name = folder.display().to_string();
    if !folder.exists() {
        return Err(SavedError::NotFound { folder: name });
    }
    let fail = |reason: String| SavedError::NotAModel {
        folder: name.clone(),
        reason,
    };
    let text =
        fs::read_to_string(folder.join(DESCRIPTION)).map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory => {
                fail(format!("there is no {DESCRIPTION} in it"))
            }
            _ => fail(format!("{DESCRIPTION} cannot be read: {error}")),
        })?;
    let head: Head = serde_json::from_str(&text)
        .map_err(|e| fail(format!("{DESCRIPTION} is not one of this program's: {e}")))?;
    if head.format != FORMAT {
        return Err(fail(format!(
            "{DESCRIPTION} is of the format {:?}",
            head.format
        )));
    }
    if head.version != VERSION {
        return Err(SavedError::Version {
            folder: name,
            found: head.version,
        });
    }
    serde_json::from_str(&text).map_err(|e| fail(format!("{DESCRIPTION} is damaged: {e}")))
}

/// Whether network and layout have the same sizes.
fn fits(description: &Description) -> Result<(), String> {
    let layout = &description.layout;
    let (width, steps) = (layout.encoder.width(), layout.steps());
    let (features, outputs) = match &description.architecture {
        Architecture::Linear(config) => (config.features, config.outputs),
        Architecture::Mlp(config) => (config.features, config.outputs),
        Architecture::Lstm(config) | Architecture::Gru(config) => {
            (config.features * steps, config.outputs)
        }
        Architecture::Tcn(config) => (config.features * steps, config.outputs),
        Architecture::Transformer(config) => (config.features * config.steps, config.outputs),
    };
    if features != width * steps || outputs != layout.outputs() {
        return Err(format!(
            "{DESCRIPTION} contradicts itself: the network takes {features} numbers and gives {outputs}, its data has {} and needs {}",
            width * steps,
            layout.outputs()
        ));
    }
    Ok(())
}

/// Fails where [`Trained::save`] would refuse the folder or could not write it.
///
/// # Errors
/// [`SavedError::Taken`] and [`SavedError::Write`].
pub fn check_target(folder: impl AsRef<Path>) -> Result<(), SavedError> {
    let folder = folder.as_ref();
    let taken = |reason: &str| {
        Err(SavedError::Taken {
            folder: folder.display().to_string(),
            reason: reason.into(),
        })
    };
    if folder.is_dir() {
        let is_empty = fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_none());
        let is_model = matches!(describe(folder), Ok(_) | Err(SavedError::Version { .. }));
        if !is_empty && !is_model {
            return taken("is a folder of something else than a model");
        }
    } else if folder.exists() {
        return taken("is a file");
    }
    staging(folder).map(drop)
}

/// A folder beside the target, on the same file system.
fn staging(folder: &Path) -> Result<tempfile::TempDir, SavedError> {
    let parent = match folder.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    fs::create_dir_all(parent)
        .and_then(|()| {
            tempfile::Builder::new()
                .prefix(".saliency-")
                .tempdir_in(parent)
        })
        .map_err(|error| SavedError::Write {
            folder: folder.display().to_string(),
            reason: error.to_string(),
        })
}

pub(crate) fn save(trained: &Trained, folder: &Path, command: &str) -> Result<(), SavedError> {
    check_target(folder)?;
    let write = |error: std::io::Error| SavedError::Write {
        folder: folder.display().to_string(),
        reason: error.to_string(),
    };
    let staging = staging(folder)?;
    // A folder inside has the permissions of any new folder.
    let fresh = staging.path().join("new");
    fs::create_dir(&fresh).map_err(write)?;
    let json = serde_json::to_string_pretty(&trained.description)
        .map_err(|error| write(std::io::Error::other(error)))?;
    fs::write(fresh.join(DESCRIPTION), json + "\n").map_err(write)?;
    fs::write(fresh.join(CARD), card::card(trained, command)).map_err(write)?;
    weights::save_safetensors(&trained.predictor, fresh.join(WEIGHTS), FloatDType::F32)?;
    let old: PathBuf = staging.path().join("old");
    if folder.exists() {
        fs::rename(folder, &old).map_err(write)?;
    }
    fs::rename(&fresh, folder).map_err(|error| {
        // The earlier model goes back to its place.
        let _ = fs::rename(&old, folder);
        write(error)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        data::{CsvOptions, Quantity},
        predictor::Family,
        train::{SequenceOptions, train},
    };
    use std::ops::ControlFlow;

    /// A small series on which every network is trained for a moment.
    fn trained(family: Family, folder: &Path) -> (Trained, PathBuf) {
        let path = folder.join("data.csv");
        let mut text = String::from("day,a,b,kind\n");
        for i in 0..90u64 {
            let day = crate::data::date(i as i64);
            text += &format!(
                "{day},{},{},{}\n",
                i * 37 % 11,
                i * 17 % 13,
                ["x", "y"][i as usize % 2]
            );
        }
        fs::write(&path, text).unwrap();
        let mut options = TrainOptions::new("a");
        options.family = Some(family);
        options.hidden = Some(4);
        options.epochs = 2;
        options.sequence = Some(SequenceOptions {
            horizon: vec![1, 2],
            quantity: Quantity::Change,
            ..SequenceOptions::new(5)
        });
        let quiet = &mut |_| ControlFlow::Continue(());
        (
            train(&options, &path, &Device::flex(), quiet).unwrap(),
            path,
        )
    }

    fn outputs(predictor: &Predictor, x: Tensor<3>) -> Vec<f32> {
        predictor.forward_sequence(x).try_into_vec_as().unwrap()
    }

    #[test]
    fn every_network_comes_back_to_the_bit() {
        for family in Family::ALL {
            let folder = tempfile::tempdir().unwrap();
            let (trained, path) = trained(family, folder.path());
            let target = folder.path().join("model");
            trained.save(&target, "saliency train").unwrap();
            assert!(SavedModel::is_folder(&target) && !SavedModel::is_folder(folder.path()));
            let loaded = SavedModel::load(&target, &Device::flex()).unwrap();
            assert_eq!(loaded.description(), &trained.description);
            assert!(loaded.is_sequence());
            let samples = loaded
                .layout()
                .samples(&path, &CsvOptions::default())
                .unwrap();
            let samples: Vec<Sample> = samples.map(Result::unwrap).collect();
            assert_eq!(samples.len(), 86);
            let x = loaded.sequence(&samples);
            let (got, want) = (
                outputs(loaded.predictor(), x.clone()),
                outputs(&trained.predictor, x.clone()),
            );
            assert!(got.iter().any(|v| *v != 0.0), "{family}");
            assert_eq!(got, want, "{family}");
            let graph = saliency_core::Model::<3>::forward(loaded.graph(), x);
            for (a, b) in graph.try_into_vec_as::<f32>().unwrap().iter().zip(&want) {
                assert!(
                    (a - b).abs() <= 1e-5 * b.abs().max(1.0),
                    "{family}: {a} {b}"
                );
            }
            // Nothing but the model's three files is left beside the data.
            let names = |folder: &Path| {
                let entries = fs::read_dir(folder)
                    .unwrap()
                    .map(|e| e.unwrap().file_name());
                let mut names: Vec<_> = entries.map(|n| n.into_string().unwrap()).collect();
                names.sort();
                names
            };
            assert_eq!(
                names(&target),
                ["card.md", "model.json", "weights.safetensors"]
            );
            assert_eq!(names(folder.path()), ["data.csv", "model"]);
        }
    }

    #[test]
    fn folders_that_cannot_be_loaded() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("model");
        let load = || {
            SavedModel::load(&target, &Device::flex())
                .unwrap_err()
                .to_string()
        };
        assert!(load().contains("model: no such folder; train a model"));
        fs::create_dir(&target).unwrap();
        assert!(load().contains("holds no model: there is no model.json in it"));
        let (trained, _) = trained(Family::Gru, folder.path());
        trained.save(&target, "").unwrap();
        let json = target.join("model.json");
        let good = fs::read_to_string(&json).unwrap();
        let with = |from: &str, to: &str| {
            let text = good.replacen(from, to, 1);
            assert_ne!(text, good, "{from}");
            fs::write(&json, text).unwrap();
            let error = load();
            assert!(!error.contains('\n'), "{error}");
            error
        };
        assert!(with("\"version\": 1", "\"version\": 2").contains("written in version 2"));
        assert!(with("saliency-model", "other").contains("is of the format \"other\""));
        assert!(with("{", "[").contains("is not one of this program's"));
        assert!(with("\"architecture\"", "\"arch\"").contains("is damaged: missing field"));
        assert!(with("\"hidden\": 4", "\"hidden\": 5").contains("misshaped"));
        assert!(with("\"hidden\": 4", "\"hidden\": 0").contains("`hidden` is 0"));
        assert!(with("\"outputs\": 2", "\"outputs\": 3").contains("contradicts itself"));
        fs::write(&json, &good).unwrap();
        fs::write(target.join("weights.safetensors"), "x").unwrap();
        assert!(load().contains("weights.safetensors"));
        fs::remove_file(target.join("weights.safetensors")).unwrap();
        assert!(load().contains("weights.safetensors: no such file"));
    }

    #[test]
    fn nothing_else_is_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let refused = |path: &Path| check_target(path).unwrap_err().to_string();
        let other = folder.path().join("other");
        fs::create_dir(&other).unwrap();
        check_target(&other).unwrap();
        fs::write(other.join("model.json"), "{}").unwrap();
        assert!(refused(&other).contains("is a folder of something else"));
        assert!(refused(&other.join("model.json")).contains("is a file"));
        check_target(folder.path().join("deep/er/model")).unwrap();
        let (trained, _) = trained(Family::Linear, folder.path());
        let target = folder.path().join("model");
        trained.save(&target, "first").unwrap();
        fs::write(target.join("extra.txt"), "of the earlier model").unwrap();
        trained.save(&target, "second").unwrap();
        assert!(!target.join("extra.txt").exists());
        assert!(
            fs::read_to_string(target.join("card.md"))
                .unwrap()
                .contains("`second`")
        );
    }
}
