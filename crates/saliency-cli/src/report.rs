use std::{
    io::{self, Write},
    path::{Path, PathBuf},
};

use comfy_table::{ContentArrangement, Table, presets};
use saliency_core::{Attribution, Evaluations, Map, Recipe, Reduction, ResolvedTarget, Statistics};
use saliency_viz::Grid;
use serde::Serialize;

use crate::{error::Error, model::Loaded};

/// A class with its name and probability.
#[derive(Clone, Debug, Serialize)]
pub struct ClassReport {
    pub class: usize,
    pub label: String,
    pub probability: f64,
}

impl ClassReport {
    pub fn new(loaded: &Loaded, class: usize, probabilities: &[f64]) -> Self {
        ClassReport {
            class,
            label: loaded.label(class),
            probability: probabilities[class],
        }
    }

    /// The class with the largest probability.
    pub fn best(loaded: &Loaded, probabilities: &[f64]) -> Self {
        let mut best = 0;
        for class in 1..probabilities.len() {
            if probabilities[class] > probabilities[best] {
                best = class;
            }
        }
        Self::new(loaded, best, probabilities)
    }

    /// The predicted and the explained class of an attribution of one row.
    pub fn of(
        loaded: &Loaded,
        attribution: &Attribution<4>,
    ) -> Result<(Self, Option<Self>), Error> {
        let probabilities = attribution.probabilities()?.remove(0);
        let explained = attribution.targets[0].class();
        Ok((
            Self::best(loaded, &probabilities),
            explained.map(|class| Self::new(loaded, class, &probabilities)),
        ))
    }

    /// `Labrador retriever 83.1 %`
    pub fn caption(&self) -> String {
        format!("{} {}", self.label, percent(self.probability))
    }
}

/// What a method knows of its own accuracy, and what it cost.
#[derive(Clone, Debug, Serialize)]
pub struct Trust {
    /// Sum of the values minus what they should add up to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delta: Option<f64>,
    /// Norm of the standard errors relative to that of the values.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub relative_standard_error: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub samples: Option<usize>,
    /// Whether the tolerance that was asked for was met.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub converged: Option<bool>,
    pub evaluations: Evaluations,
}

impl Trust {
    /// Of an attribution of one row.
    pub fn of(attribution: &Attribution<4>) -> Result<Self, Error> {
        let evidence = &attribution.evidence;
        let norm = |t: &burn::tensor::Tensor<4>| -> Result<f64, Error> {
            let values = t.clone().try_into_vec_as::<f64>().map_err(Error::reading)?;
            Ok(values.iter().map(|v| v * v).sum::<f64>().sqrt())
        };
        let relative = match &evidence.standard_error {
            Some(error) => Some(norm(error)? / norm(&attribution.values)?.max(f64::MIN_POSITIVE)),
            None => None,
        };
        Ok(Trust {
            delta: evidence.delta.as_ref().map(|delta| delta[0]),
            relative_standard_error: relative,
            samples: evidence.samples,
            converged: evidence.converged,
            evaluations: attribution.evaluations,
        })
    }

    /// In a few words: `delta 0.0012; standard error 4.1 %; not converged`.
    pub fn words(&self) -> String {
        let mut words = Vec::new();
        if let Some(delta) = self.delta {
            words.push(format!("delta {}", number(delta)));
        }
        if let Some(error) = self.relative_standard_error {
            words.push(format!("standard error {}", percent(error)));
        }
        if self.converged == Some(false) {
            words.push("not converged".into());
        }
        words.join("; ")
    }
}

/// What `explain` found for one image and target.
#[derive(Clone, Debug, Serialize)]
pub struct MapReport {
    pub image: PathBuf,
    pub model: String,
    pub device: String,
    pub predicted: ClassReport,
    pub target: ResolvedTarget,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub explained: Option<ClassReport>,
    pub score: f64,
    pub recipe: Recipe,
    pub trust: Trust,
    pub reduction: Reduction,
    pub statistics: Statistics,
    pub readings: Vec<String>,
    pub files: Vec<PathBuf>,
}

pub fn percent(share: f64) -> String {
    format!("{:.1} %", 100.0 * share)
}

/// A number for a table: four significant digits.
pub fn number(value: f64) -> String {
    match value.abs() {
        0.0 => "0".into(),
        v if (1e-3..1e4).contains(&v) => {
            let digits = (3 - v.log10().floor() as i32).max(0) as usize;
            format!("{value:.digits$}")
        }
        _ => format!("{value:.3e}"),
    }
}

pub fn table(header: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let mut table = Table::new();
    table
        .load_style(presets::UTF8_HORIZONTAL_ONLY)
        .set_content_arrangement(ContentArrangement::Dynamic)
        .set_header(header);
    for row in rows {
        table.add_row(row);
    }
    table.to_string()
}

/// A Markdown table, for the guide.
pub fn markdown(header: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let line = |cells: &[String]| format!("| {} |\n", cells.join(" | "));
    let names: Vec<String> = header.iter().map(|name| (*name).into()).collect();
    let mut text = line(&names) + &line(&vec!["---".into(); header.len()]);
    for row in rows {
        text += &line(&row);
    }
    text
}

/// Seconds, in milliseconds.
pub fn milliseconds(seconds: f64) -> String {
    match 1e3 * seconds {
        ms if ms < 0.1 => format!("{ms:.3} ms"),
        ms if ms < 10.0 => format!("{ms:.1} ms"),
        ms => format!("{ms:.0} ms"),
    }
}

/// Prints to standard output; a closed pipe (`| head`) is no error.
pub fn print(text: &str) -> Result<(), Error> {
    match writeln!(io::stdout(), "{text}") {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Error::file(Path::new("standard output"), error))
        }
        _ => Ok(()),
    }
}

/// Prints one line to standard error, whatever names of files are in it.
pub fn print_error(message: &str) {
    let line: String = message
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    let _ = writeln!(io::stderr(), "error: {line}");
}

pub fn print_json(value: &impl Serialize) -> Result<(), Error> {
    print(&to_json(value)?)
}

pub fn to_json(value: &impl Serialize) -> Result<String, Error> {
    serde_json::to_string_pretty(value).map_err(|e| Error::Internal(e.to_string()))
}

/// The name that serde gives a unit variant.
pub fn label(value: impl Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(name)) => name,
        _ => String::new(),
    }
}

/// A map for `saliency-viz`.
pub fn grid(map: &Map) -> Result<Grid, Error> {
    Ok(Grid::new(map.width(), map.height(), map.values().to_vec())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_keep_four_digits() {
        let shown = [0.0, 1.0, 12.3456, 1234.56, 0.012344, 1.5e-7, -2.5].map(number);
        assert_eq!(
            shown,
            [
                "0", "1.000", "12.35", "1235", "0.01234", "1.500e-7", "-2.500"
            ]
        );
    }
}
