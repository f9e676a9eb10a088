//! Training of the networks for tables and series on a CSV file.
//!
//! Tables are split by a seed, series by time: the first rows train, the next ones say when
//! to stop, the last ones are the test. Everything that is fitted, scaling included, is
//! fitted on the training part alone; windows that reach from one part into the next are
//! left out.

mod dataset;
mod epochs;
mod options;
mod prepare;
mod score;
mod split;

use std::{ops::ControlFlow, path::Path, time::Instant};

use burn::{
    module::{Module, ModuleMapper, Param},
    tensor::{Device, Tensor},
};

pub use epochs::Progress;
pub use options::{SequenceOptions, TaskKind, TrainOptions};
pub use score::{Scores, auc};
pub use split::{Part, Split};

use crate::{
    config::ConfigError,
    data::{DataError, Layout, Task},
    predictor::Predictor,
    saved::{Counts, DataFile, Description, SavedError, Training, save},
};
use epochs::Trainer;
use prepare::{Prepared, prepare};

/// Why nothing was trained. Each message is one line.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TrainError {
    /// The file cannot be used.
    #[error(transparent)]
    Data(#[from] DataError),
    /// The network cannot be built.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Options that make no sense.
    #[error("{0}")]
    Options(String),
    /// The loss became infinite.
    #[error("training diverged in epoch {epoch} at a rate of {rate}; give a smaller --rate")]
    Diverged {
        /// The pass over the rows in which it did.
        epoch: usize,
        /// The learning rate then.
        rate: f64,
    },
    /// The callback asked to stop.
    #[error("training was cancelled")]
    Cancelled,
    /// The device failed.
    #[error("the device failed: {0}")]
    Device(String),
}

impl TrainError {
    fn device(error: impl ToString) -> Self {
        let text = error.to_string();
        TrainError::Device(text.split_whitespace().collect::<Vec<_>>().join(" "))
    }

    /// Whether the request itself makes no sense, whatever the rows hold.
    pub fn is_usage(&self) -> bool {
        match self {
            TrainError::Data(error) => error.is_usage(),
            TrainError::Config(_) | TrainError::Options(_) => true,
            _ => false,
        }
    }
}

/// A trained network and all that was noted about it.
#[derive(Clone, Debug)]
pub struct Trained {
    /// The network, in inference mode on the plain device.
    pub predictor: Predictor,
    /// What it is and how good it is.
    pub description: Description,
    /// How long it took, in seconds.
    pub seconds: f64,
}

impl Trained {
    /// Writes `model.json`, `weights.safetensors` and `card.md` into a folder, which appears
    /// whole or not at all; a folder of an earlier model is replaced. `command` goes into
    /// the card.
    ///
    /// # Errors
    /// [`SavedError`] where `folder` is there and no model's, or cannot be written.
    pub fn save(&self, folder: impl AsRef<Path>, command: &str) -> Result<(), SavedError> {
        save(self, folder.as_ref(), command)
    }
}

/// Trains a network on a CSV file.
///
/// The same file, options and device give the same weights. `progress` is called after each
/// pass over the training rows and can stop it.
///
/// ```
/// use std::ops::ControlFlow;
/// use burn::tensor::Device;
/// use saliency_models::{saved::SavedModel, train::{Scores, TrainOptions, train}};
///
/// let folder = tempfile::tempdir()?;
/// let path = folder.path().join("loans.csv");
/// let mut text = String::from("income,noise,paid\n");
/// for i in 0..400 {
///     let (income, noise) = (i * 37 % 100, i * 61 % 83);
///     text += &format!("{income},{noise},{}\n", if income > 50 { "yes" } else { "no" });
/// }
/// std::fs::write(&path, text)?;
///
/// let mut options = TrainOptions::new("paid");
/// options.hidden = Some(8);
/// options.epochs = 20;
/// let trained = train(&options, &path, &Device::flex(), &mut |_| ControlFlow::Continue(()))?;
/// let Scores::Classification { auc: Some(auc), .. } = trained.description.test else { panic!() };
/// assert!(auc > 0.97);
///
/// trained.save(folder.path().join("loans"), "")?;
/// let loaded = SavedModel::load(folder.path().join("loans"), &Device::flex())?;
/// assert_eq!(loaded.layout().output_names(), ["no", "yes"]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// [`TrainError`] for a file that cannot be used and options that make no sense.
pub fn train(
    options: &TrainOptions,
    path: impl AsRef<Path>,
    device: &Device,
    progress: &mut dyn FnMut(Progress) -> ControlFlow<()>,
) -> Result<Trained, TrainError> {
    let (path, started) = (path.as_ref(), Instant::now());
    let Prepared {
        layout,
        architecture,
        dataset,
        rows,
        notes,
    } = prepare(options, path)?;
    let trainer = Trainer {
        options,
        layout: &layout,
        dataset: &dataset,
        device,
    };
    let outcome = trainer.run(&architecture, progress)?;
    let predictor = outcome
        .predictor
        .map(&mut Rescaled::new(&outcome.scales))
        .valid();
    let score = |part| -> Result<Scores, TrainError> {
        let outputs = trainer.outputs(&predictor, part)?;
        Ok(match &layout.task {
            Task::Classification { classes } => {
                let truth: Vec<usize> = dataset
                    .all_targets(part)
                    .into_iter()
                    .map(|class| class as usize)
                    .collect();
                let mut shares = vec![0.0; classes.len()];
                for class in dataset.all_targets(Part::Training) {
                    shares[class as usize] += 1.0 / dataset.len(Part::Training) as f64;
                }
                Scores::classification(&outputs, &truth, &shares)
            }
            Task::Regression => {
                let truth = dataset.all_targets(part);
                let means: Vec<f64> = outcome.scales.iter().map(|scale| scale.0).collect();
                let last = match layout.window {
                    Some(_) => dataset.last_errors(part),
                    None => None,
                };
                Scores::regression(&outputs, &truth, &means, last.as_deref())
            }
        })
    };
    let description = Description::new(
        architecture,
        DataFile::of(path, rows)?,
        Training {
            options: options.clone(),
            samples: Counts {
                training: dataset.len(Part::Training),
                validation: dataset.len(Part::Validation),
                test: dataset.len(Part::Test),
            },
            epochs: outcome.epochs,
            best_epoch: outcome.best_epoch,
        },
        [score(Part::Validation)?, score(Part::Test)?],
        notes,
        layout.clone(),
    );
    Ok(Trained {
        predictor,
        description,
        seconds: started.elapsed().as_secs_f64(),
    })
}

/// Folds the scale of a regression's targets into the last layer, so that outputs are in the
/// target's own units.
struct Rescaled<'a> {
    scales: &'a [(f64, f64)],
    path: Vec<String>,
}

impl<'a> Rescaled<'a> {
    fn new(scales: &'a [(f64, f64)]) -> Self {
        Rescaled {
            scales,
            path: Vec::new(),
        }
    }
}

impl ModuleMapper for Rescaled<'_> {
    fn enter_module(&mut self, name: &str, _: &str) {
        self.path.push(name.into());
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.path.pop();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let is_head = self.path.iter().any(|part| part == "head");
        if self.scales.is_empty() || !is_head {
            return param;
        }
        let is_bias = self.path.last().is_some_and(|name| name == "bias");
        param.map(|tensor| {
            let device = tensor.device();
            let row = |of: &dyn Fn(&(f64, f64)) -> f64| {
                let values: Vec<f32> = self.scales.iter().map(|s| of(s) as f32).collect();
                let row = Tensor::<1>::from_floats(values.as_slice(), &device);
                let mut shape = [1; D];
                shape[D - 1] = values.len();
                row.reshape(shape)
            };
            let scaled = tensor * row(&|scale| scale.1);
            if is_bias {
                scaled + row(&|scale| scale.0)
            } else {
                scaled
            }
        })
    }
}

/// The layout of what was trained, for those that have no folder yet.
impl Trained {
    /// How a file becomes inputs.
    pub fn layout(&self) -> &Layout {
        &self.description.layout
    }
}
