use serde::{Deserialize, Serialize};

use crate::{
    data::{CsvOptions, Missing, Quantity, SchemaOptions},
    predictor::Family,
};

use super::TrainError;

/// Whether classes or numbers are told.
///
/// ```
/// use saliency_models::train::TaskKind;
/// assert_eq!("regression".parse(), Ok(TaskKind::Regression));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TaskKind {
    /// Which class.
    Classification,
    /// A number.
    Regression,
}

impl std::str::FromStr for TaskKind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "classification" => Ok(TaskKind::Classification),
            "regression" => Ok(TaskKind::Regression),
            _ => Err("known are classification, regression".into()),
        }
    }
}

/// Windows over a series.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SequenceOptions {
    /// Rows in a window.
    pub steps: usize,
    /// How many rows after the window's last one the target is; one output for each.
    pub horizon: Vec<usize>,
    /// What of the target is told.
    pub quantity: Quantity,
    /// The column that names the rows; else the first that holds dates, if one does.
    pub time: Option<String>,
}

impl SequenceOptions {
    /// Windows of `steps` rows; the target's value one row later.
    pub fn new(steps: usize) -> Self {
        SequenceOptions {
            steps,
            horizon: vec![1],
            quantity: Quantity::Value,
            time: None,
        }
    }
}

/// What is trained on which columns, and how. What is `None` is chosen by the data.
///
/// ```
/// use saliency_models::{predictor::Family, train::TrainOptions};
/// let mut options = TrainOptions::new("default");
/// options.family = Some(Family::Linear);
/// options.drop = vec!["id".into()];
/// assert_eq!((options.epochs, options.seed), (100, 1));
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TrainOptions {
    /// The column that is told.
    pub target: String,
    /// Classes or numbers; else classes where the target is categorical or has two values.
    pub task: Option<TaskKind>,
    /// The kind of network; else `mlp` for tables and `lstm` for windows.
    pub family: Option<Family>,
    /// The columns that are read; else all but the target and times.
    pub features: Option<Vec<String>>,
    /// Columns that are left out.
    pub drop: Vec<String>,
    /// Windows of a series; else each row stands for itself.
    pub sequence: Option<SequenceOptions>,
    /// How the file is written.
    pub csv: CsvOptions,
    /// What is known of the columns.
    pub schema: SchemaOptions,
    /// What is done with empty cells.
    pub missing: Missing,
    /// Width of hidden layers; else 32, and 64 in an MLP.
    pub hidden: Option<usize>,
    /// Hidden layers; else 2 in an MLP and a transformer, 1 in recurrent networks, and as
    /// many as see the whole window in a TCN.
    pub layers: Option<usize>,
    /// Most passes over the training rows.
    pub epochs: usize,
    /// Rows for each step; else 32, 128 or 512 by the number of training rows.
    pub batch: Option<usize>,
    /// Learning rate. It is halved where the validation loss has not fallen for half of
    /// `patience`.
    pub rate: f64,
    /// Decoupled weight decay.
    pub decay: f64,
    /// Passes without a lower validation loss after which training ends.
    pub patience: usize,
    /// Whether rare classes count as much as frequent ones.
    pub balance: bool,
    /// Share of the rows that training is stopped by.
    pub validation: f64,
    /// Share of the rows that the scores are measured on.
    pub test: f64,
    /// Seed of the split of a table, the first weights and the order of rows.
    pub seed: u64,
}

impl TrainOptions {
    /// The defaults, for a target column.
    pub fn new(target: impl Into<String>) -> Self {
        TrainOptions {
            target: target.into(),
            task: None,
            family: None,
            features: None,
            drop: Vec::new(),
            sequence: None,
            csv: CsvOptions::default(),
            schema: SchemaOptions::default(),
            missing: Missing::Error,
            hidden: None,
            layers: None,
            epochs: 100,
            batch: None,
            rate: 0.002,
            decay: 1e-4,
            patience: 10,
            balance: false,
            validation: 0.15,
            test: 0.15,
            seed: 1,
        }
    }

    /// The kind of network.
    pub fn chosen_family(&self) -> Family {
        self.family.unwrap_or(match self.sequence {
            Some(_) => Family::Lstm,
            None => Family::Mlp,
        })
    }

    /// Rows for each step, where there are so many to train on.
    pub fn chosen_batch(&self, rows: usize) -> usize {
        self.batch.unwrap_or(match rows {
            0..5_000 => 32,
            5_000..50_000 => 128,
            _ => 512,
        })
    }

    /// Fails where an option makes no sense, whatever the data.
    pub(super) fn check(&self) -> Result<(), TrainError> {
        let fail = |text: String| Err(TrainError::Options(text));
        let positive = |name: &str, value: Option<usize>| match value {
            Some(0) => Err(TrainError::Options(format!(
                "{name} is 0; it must be at least 1"
            ))),
            _ => Ok(()),
        };
        positive("hidden", self.hidden)?;
        positive("layers", self.layers)?;
        positive("epochs", Some(self.epochs))?;
        positive("batch", self.batch)?;
        positive("patience", Some(self.patience))?;
        let rate = self.rate;
        if !(rate > 0.0 && rate <= 1.0) {
            return fail(format!("rate is {rate}; it must be above 0 and at most 1"));
        }
        if !(0.0..1.0).contains(&self.decay) {
            return fail(format!(
                "decay is {}; it must be at least 0 and below 1",
                self.decay
            ));
        }
        for (name, share) in [("validation", self.validation), ("test", self.test)] {
            if !(share > 0.0 && share < 1.0) {
                return fail(format!(
                    "{name} is {share}; it must be a share between 0 and 1"
                ));
            }
        }
        if self.validation + self.test > 0.9 {
            return fail(format!(
                "validation {} and test {} leave too little to train on; together at most 0.9",
                self.validation, self.test
            ));
        }
        if self.features.as_ref().is_some_and(Vec::is_empty) {
            return fail("features is empty; name at least one column".into());
        }
        let Some(sequence) = &self.sequence else {
            let family = self.chosen_family();
            return match family.needs_steps() {
                true => fail(format!(
                    "{family} is for series: give the rows of a window with --sequence, or take mlp or linear"
                )),
                false => Ok(()),
            };
        };
        positive("sequence", Some(sequence.steps))?;
        if sequence.horizon.is_empty() {
            return fail("horizon is empty; give at least one number of steps".into());
        }
        let rises = sequence.horizon.is_sorted_by(|a, b| a < b);
        if !rises {
            return fail(format!("horizon {:?} must rise", sequence.horizon));
        }
        if sequence.quantity != Quantity::Value && sequence.horizon[0] == 0 {
            return fail(format!(
                "the {} of the target needs a horizon of at least 1",
                sequence.quantity
            ));
        }
        if sequence.quantity == Quantity::Direction && self.task == Some(TaskKind::Regression) {
            return fail("the direction of the target is a class; take --target-as return or change for a regression".into());
        }
        Ok(())
    }
}
