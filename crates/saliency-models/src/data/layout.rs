use std::{fmt, path::Path, str::FromStr};

use serde::{Deserialize, Serialize};

use super::{
    dialect::CsvOptions,
    encoder::Encoder,
    error::DataError,
    rows::{Rows, Strictness},
    samples::Samples,
};

/// What a model is to tell.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "task", rename_all = "snake_case")]
pub enum Task {
    /// Which class, one logit for each.
    Classification {
        /// Names of the classes, in the order of the outputs.
        classes: Vec<String>,
    },
    /// A number for each step ahead, in the target's own units.
    Regression,
}

/// What of a series' target is told.
///
/// ```
/// use saliency_models::data::Quantity;
/// assert_eq!("return".parse(), Ok(Quantity::Return));
/// assert_eq!(Quantity::Return.of(2.0, 3.0), 0.5);
/// assert_eq!(Quantity::Direction.of(2.0, 1.0), 0.0);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Quantity {
    /// Its value h steps ahead.
    #[default]
    Value,
    /// Its value h steps ahead less the last one in the window.
    Change,
    /// Its change h steps ahead as a share of the last value in the window.
    Return,
    /// Whether it is higher h steps ahead: the classes `not up` and `up`.
    Direction,
}

impl Quantity {
    /// The quantity, from the last value in the window and a later one.
    pub fn of(self, now: f64, later: f64) -> f64 {
        match self {
            Quantity::Value => later,
            Quantity::Change => later - now,
            Quantity::Return => later / now - 1.0,
            Quantity::Direction => f64::from(u8::from(later > now)),
        }
    }

    /// The classes of [`Direction`](Quantity::Direction).
    pub(crate) fn directions() -> Vec<String> {
        vec!["not up".into(), "up".into()]
    }
}

impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Quantity::Value => "value",
            Quantity::Change => "change",
            Quantity::Return => "return",
            Quantity::Direction => "direction",
        })
    }
}

impl FromStr for Quantity {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        [
            Quantity::Value,
            Quantity::Change,
            Quantity::Return,
            Quantity::Direction,
        ]
        .into_iter()
        .find(|quantity| quantity.to_string() == text)
        .ok_or_else(|| "known are value, change, return, direction".into())
    }
}

/// How rows are put together to windows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Window {
    /// Rows in a window.
    pub steps: usize,
    /// How many rows after the window's last one the target is; one output for each.
    /// 0 is the last row itself.
    pub horizon: Vec<usize>,
    /// What of the target is told.
    pub quantity: Quantity,
    /// The column that names the rows and must rise; else they are numbered.
    pub time: Option<String>,
}

impl Window {
    /// The farthest step ahead.
    pub fn reach(&self) -> usize {
        self.horizon.iter().copied().max().unwrap_or(0)
    }
}

/// How the rows of a file become inputs and targets of a model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Layout {
    /// How cells become numbers.
    pub encoder: Encoder,
    /// The column that is told.
    pub target: String,
    /// What is told.
    #[serde(flatten)]
    pub task: Task,
    /// Windows of a series; `None` for a table.
    pub window: Option<Window>,
}

impl Layout {
    /// Rows of one input: 1 for a table.
    pub fn steps(&self) -> usize {
        self.window.as_ref().map_or(1, |window| window.steps)
    }

    /// Outputs of the model.
    pub fn outputs(&self) -> usize {
        match (&self.task, &self.window) {
            (Task::Classification { classes }, _) => classes.len(),
            (Task::Regression, Some(window)) => window.horizon.len(),
            (Task::Regression, None) => 1,
        }
    }

    /// What each output is: a class, or the target so many steps ahead.
    pub fn output_names(&self) -> Vec<String> {
        let target = &self.target;
        match (&self.task, &self.window) {
            (Task::Classification { classes }, _) => classes.clone(),
            (Task::Regression, None) => vec![target.clone()],
            (Task::Regression, Some(window)) => {
                let what = match window.quantity {
                    Quantity::Value => target.clone(),
                    other => format!("{other} of {target}"),
                };
                window
                    .horizon
                    .iter()
                    .map(|h| format!("{what} t+{h}"))
                    .collect()
            }
        }
    }

    /// Whether target cells are numbers rather than classes.
    pub(super) fn has_numeric_target(&self) -> bool {
        let direction = |window: &Window| window.quantity == Quantity::Direction;
        self.task == Task::Regression || self.window.as_ref().is_some_and(direction)
    }

    /// Reads a file row by row and gives each row of a table, or each window of a series.
    ///
    /// The target's column need not be there. Memory does not grow with the file.
    ///
    /// # Errors
    /// [`DataError`] for a file that cannot be read or lacks a column.
    pub fn samples(&self, path: impl AsRef<Path>, csv: &CsvOptions) -> Result<Samples, DataError> {
        let rows = self.rows(path, csv, Strictness::Lenient)?;
        Ok(Samples::new(rows, self))
    }

    pub(crate) fn rows(
        &self,
        path: impl AsRef<Path>,
        csv: &CsvOptions,
        strictness: Strictness,
    ) -> Result<Rows, DataError> {
        Rows::open(self, path.as_ref(), csv, strictness)
    }
}
