//! Models of rows and series, as `saliency train` saves them, ready to be explained.

use std::path::Path;

use burn::tensor::{Device, Tensor};
use saliency_core::{
    Attribution, Baseline, BatchSize, Columns, Contribution, Evaluations, Features, Goal, Method,
    ModeCheck, Model, Recipe, ResolvedTarget, Run, Target,
};
use saliency_models::{
    data::{CsvOptions, Sample, Samples, Scale, Task},
    saved::SavedModel,
};
use serde::Serialize;

use crate::{
    args::{MethodArgs, ModelArgs, TargetChoice},
    device,
    error::Error,
    model,
    report::{Trust, percent},
};

/// Features that perturbation methods take away one by one, at most.
const MOST_FEATURES: usize = 64;

/// A saved model with what its features are called.
pub struct Tabular {
    pub name: String,
    pub device: Device,
    pub columns: Columns,
    model: SavedModel,
    batch: BatchSize,
}

/// What was found for one sample.
pub struct Explained {
    pub attribution: Values,
    /// What was explained, in words.
    pub target: String,
    pub score: f64,
    /// The model's outputs.
    pub outputs: Vec<f64>,
    pub trust: Trust,
}

/// An attribution of one sample on the host.
pub struct Values {
    /// Names and sources of `raw`'s last axis.
    pub columns: Columns,
    /// Signed values, `[F]` or `[T, F]` row by row, shaped so.
    pub raw: Vec<f32>,
    pub shape: Vec<usize>,
    /// The signed sum of each source column at each step.
    pub sources: Vec<Vec<f64>>,
}

impl Values {
    /// What each source column added over all steps.
    pub fn contributions(&self) -> Vec<Contribution> {
        let mut sums = vec![Contribution::default(); self.columns.sources().len()];
        for step in &self.sources {
            for (sum, value) in sums.iter_mut().zip(step) {
                sum.value += value;
                sum.magnitude += value.abs();
            }
        }
        sums
    }

    /// What each step added over all columns.
    pub fn steps(&self) -> Vec<Contribution> {
        let of = |step: &Vec<f64>| Contribution {
            value: step.iter().sum(),
            magnitude: step.iter().map(|v| v.abs()).sum(),
        };
        self.sources.iter().map(of).collect()
    }
}

/// One output of the model.
#[derive(Clone, Debug, Serialize)]
pub struct OutputReport {
    pub name: String,
    pub value: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub probability: Option<f64>,
}

impl Tabular {
    /// The model in the folder that `--model` names.
    pub fn from_args(args: &ModelArgs) -> Result<Self, Error> {
        let folder = Path::new(&args.model);
        if !SavedModel::is_folder(folder) {
            return Err(Error::Usage(match args.model.as_str() {
                "resnet50" => {
                    "--data needs a model of rows: give --model FOLDER, as `saliency train` writes it"
                        .into()
                }
                other => format!(
                    "--data needs a model of rows, as `saliency train` writes it; {other} is no such folder"
                ),
            }));
        }
        for (option, given) in [("--weights", &args.weights), ("--labels", &args.labels)] {
            if given.is_some() {
                return Err(Error::Usage(format!(
                    "{option} is for networks of images; the folder {} has all that its model needs",
                    args.model
                )));
            }
        }
        let device = device::open(&args.device)?;
        let batch = match (args.batch, args.memory) {
            (Some(rows), _) => BatchSize::Rows(rows as usize),
            (_, Some(bytes)) => BatchSize::Memory(bytes),
            _ => BatchSize::default(),
        };
        Tabular::load(&args.model, device, batch)
    }

    /// The model in a folder.
    pub fn load(folder: &str, device: Device, batch: BatchSize) -> Result<Self, Error> {
        let model = SavedModel::load(folder, &device)?;
        let encoder = &model.layout().encoder;
        let sources = encoder.column_names();
        let features = encoder.features();
        let columns = features.iter().map(|f| (&f.name, &sources[f.column]));
        Ok(Tabular {
            name: folder.trim_end_matches('/').into(),
            columns: Columns::grouped(columns),
            batch: match batch == BatchSize::default()
                && device::describe(&device).starts_with("CPU")
            {
                true => in_cache(model.graph().row_bytes()),
                false => batch,
            },
            device,
            model,
        })
    }

    pub fn is_sequence(&self) -> bool {
        self.model.is_sequence()
    }

    /// Steps of a sample; one for a table.
    pub fn steps(&self) -> usize {
        self.model.layout().steps()
    }

    /// Whether a source column holds numbers.
    pub fn is_numeric(&self, source: usize) -> bool {
        let columns = self.model.layout().encoder.columns();
        matches!(columns[source].scale, Scale::Standard { .. })
    }

    pub fn samples(&self, path: &Path, options: &CsvOptions) -> Result<Samples, Error> {
        Ok(self.model.layout().samples(path, options)?)
    }

    fn is_classifier(&self) -> bool {
        matches!(self.model.layout().task, Task::Classification { .. })
    }

    /// Outputs of one sample, with probabilities of classes.
    pub fn outputs(&self, values: &[f64]) -> Vec<OutputReport> {
        let largest = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let total: f64 = values.iter().map(|v| (v - largest).exp()).sum();
        let names = self.model.layout().output_names().into_iter();
        names
            .zip(values)
            .map(|(name, &value)| OutputReport {
                name,
                value,
                probability: self
                    .is_classifier()
                    .then(|| (value - largest).exp() / total),
            })
            .collect()
    }

    /// What the model says of one sample: `good 83.1 %`, `price t+1 12.3`.
    pub fn prediction(&self, values: &[f64]) -> String {
        let outputs = self.outputs(values);
        match self.is_classifier() {
            true => {
                let best = &outputs[largest(values)];
                let probability = best.probability.unwrap_or_default();
                format!("{} {}", best.name, percent(probability))
            }
            false => {
                let each = outputs.iter().take(3).map(|output| {
                    format!("{} {}", output.name, crate::report::number(output.value))
                });
                let more = if outputs.len() > 3 { ", ..." } else { "" };
                each.collect::<Vec<_>>().join(", ") + more
            }
        }
    }

    /// The method that the command line names: integrated gradients where it names none. Its
    /// baseline is the mean row of the training data, and its features are the columns of
    /// the file, where the command line says nothing else.
    pub fn recipe(&self, args: &MethodArgs) -> Result<Recipe, Error> {
        let recipe = model::recipe_or(args, "integrated-gradients")?;
        if args.recipe.is_some() {
            return Ok(recipe);
        }
        self.fitted(recipe, |name| {
            let mut options = args.options.iter();
            options.any(|o| {
                o.split_once('=')
                    .is_some_and(|(given, _)| given.trim() == name)
            })
        })
    }

    /// A method with the mean training row as its baseline and the file's columns as its
    /// features, but for options that are given.
    pub fn fitted(
        &self,
        mut recipe: Recipe,
        is_given: impl Fn(&str) -> bool,
    ) -> Result<Recipe, Error> {
        let options = recipe.options();
        let reference = self.model.layout().encoder.reference();
        let reference = Baseline::Values {
            values: reference.repeat(self.steps()),
        };
        let reference =
            serde_json::to_value(reference).map_err(|e| Error::Internal(e.to_string()))?;
        for (name, value) in [
            ("baseline", reference.clone()),
            ("baselines", serde_json::json!([reference])),
        ] {
            let is_zero = match options.get(name) {
                Some(serde_json::Value::String(text)) => text == "zero",
                Some(serde_json::Value::Array(all)) => all[..] == ["zero"],
                _ => false,
            };
            if is_zero && !is_given(name) {
                recipe = recipe.with(name, value)?;
            }
        }
        if options.get("features").is_some_and(|f| f == "auto") && !is_given("features") {
            let features = serde_json::to_value(self.features())
                .map_err(|e| Error::Internal(e.to_string()))?;
            recipe = recipe.with("features", features)?;
        }
        Ok(recipe)
    }

    /// Each column of the file as one feature, at each step where there are few.
    fn features(&self) -> Features {
        let (steps, sources) = (self.steps(), self.columns.sources().len());
        let window = (steps * sources).div_ceil(MOST_FEATURES).clamp(1, steps);
        let of_step = |step: usize| {
            let first = step / window * sources;
            self.columns.source_of().iter().map(move |s| first + s)
        };
        Features::Given((0..steps).flat_map(of_step).collect())
    }

    /// Fails where `explain` would fail for every sample.
    pub fn check(&self, choice: &TargetChoice) -> Result<(), Error> {
        self.target(choice, 0).map(drop)
    }

    /// What is explained of a sample whose class is predicted to be `predicted`, in words too.
    fn target(&self, choice: &TargetChoice, predicted: usize) -> Result<(Target, String), Error> {
        let names = self.model.layout().output_names();
        let output = match choice {
            TargetChoice::Top(_) => {
                return Err(Error::Usage(
                    "top:K is for images; give one class or output here".into(),
                ));
            }
            TargetChoice::Class(class) if *class < names.len() => *class,
            TargetChoice::Class(class) => {
                return Err(saliency_core::Error::UnknownClass {
                    class: *class,
                    classes: names.len(),
                }
                .into());
            }
            TargetChoice::Predicted if self.is_classifier() => predicted,
            TargetChoice::Predicted if names.len() == 1 => 0,
            TargetChoice::Predicted => return self.mean_of(0..names.len(), &names),
            TargetChoice::Label(text) => match text.strip_prefix("mean") {
                Some(range) if !self.is_classifier() => {
                    return self.mean_of(outputs_of(range, names.len())?, &names);
                }
                _ => find(text, &names)?,
            },
        };
        let name = &names[output];
        Ok(match self.is_classifier() && names.len() == 2 {
            // The log-odds: what tells the class from the other one.
            true => {
                let weights = (0..2).map(|i| if i == output { 1.0 } else { -1.0 });
                (
                    Target::Weighted(weights.collect()),
                    format!("log-odds of {name}"),
                )
            }
            false => (Target::Class(output), name.clone()),
        })
    }

    fn mean_of(
        &self,
        range: std::ops::Range<usize>,
        names: &[String],
    ) -> Result<(Target, String), Error> {
        let target = Target::mean_of(range.clone(), names.len())?;
        let words = match range.len() {
            1 => names[range.start].clone(),
            _ => {
                let (first, last) = (&names[range.start], &names[range.end - 1]);
                format!("mean of {first} to {}", without_shared(first, last))
            }
        };
        Ok((target, words))
    }

    /// What a file as a whole is explained by: the second of two classes, else what a single
    /// sample would be.
    pub fn whole(&self, choice: &TargetChoice) -> TargetChoice {
        let two = self.is_classifier() && self.model.layout().outputs() == 2;
        match choice {
            TargetChoice::Predicted if two => TargetChoice::Class(1),
            other => other.clone(),
        }
    }

    /// Explains samples, in their order.
    pub fn explain(
        &self,
        samples: &[Sample],
        choice: &TargetChoice,
        recipe: &Recipe,
        run: &Run,
    ) -> Result<Vec<Explained>, Error> {
        let run = run.batch_size(self.batch).mode_check(ModeCheck::Skip);
        match self.is_sequence() {
            true => self.explain_input(self.model.sequence(samples), choice, recipe, &run),
            false => self.explain_input(self.model.table(samples), choice, recipe, &run),
        }
    }

    fn explain_input<const D: usize>(
        &self,
        input: Tensor<D>,
        choice: &TargetChoice,
        recipe: &Recipe,
        run: &Run,
    ) -> Result<Vec<Explained>, Error>
    where
        saliency_core::Graph: Model<D>,
    {
        Method::<D>::validate(recipe)?;
        let rows = input.dims()[0];
        let per_row = matches!(choice, TargetChoice::Predicted) && self.is_classifier();
        if !per_row || rows == 1 {
            let predicted = match per_row {
                true => self.predictions(&input, run)?[0],
                false => 0,
            };
            return self.explain_all(input, self.target(choice, predicted)?, recipe, run);
        }
        // Rows of the same class go together.
        let predictions = self.predictions(&input, run)?;
        let mut found: Vec<Option<Explained>> = (0..rows).map(|_| None).collect();
        let mut classes = predictions.clone();
        classes.sort_unstable();
        classes.dedup();
        for class in classes {
            let own: Vec<usize> = (0..rows).filter(|&row| predictions[row] == class).collect();
            let index: Vec<i32> = own.iter().map(|&row| row as i32).collect();
            let index = Tensor::<1, burn::tensor::Int>::from_ints(index.as_slice(), &self.device);
            let target = self.target(choice, class)?;
            let part = input.clone().select(0, index);
            let explained = self.explain_all(part, target, recipe, run)?;
            for (row, explained) in own.into_iter().zip(explained) {
                found[row] = Some(explained);
            }
        }
        Ok(found.into_iter().flatten().collect())
    }

    fn predictions<const D: usize>(&self, input: &Tensor<D>, run: &Run) -> Result<Vec<usize>, Error>
    where
        saliency_core::Graph: Model<D>,
    {
        let outputs = run.forward(self.model.graph(), input)?;
        let goal = Goal::resolve(&Target::Predicted, &outputs)?;
        let classes = goal.targets();
        Ok(classes.iter().filter_map(ResolvedTarget::class).collect())
    }

    fn explain_all<const D: usize>(
        &self,
        input: Tensor<D>,
        (target, words): (Target, String),
        recipe: &Recipe,
        run: &Run,
    ) -> Result<Vec<Explained>, Error>
    where
        saliency_core::Graph: Model<D>,
    {
        let rows = input.dims()[0];
        let found = recipe.explain_with(self.model.graph(), input, &target, run)?;
        let shape = found.values.dims()[1..].to_vec();
        let columns = match shape.last() == Some(&self.columns.names().len()) {
            true => self.columns.clone(),
            // A map over the steps alone.
            false => Columns::new(["all columns"]),
        };
        let found = found.with_columns(columns.clone())?;
        let raw = found.to_vec()?;
        let outputs = found.outputs.clone();
        let outputs = outputs.try_into_vec_as::<f64>().map_err(Error::reading)?;
        let errors = match &found.evidence.standard_error {
            Some(errors) => Some(
                errors
                    .clone()
                    .try_into_vec_as::<f64>()
                    .map_err(Error::reading)?,
            ),
            None => None,
        };
        let explained = |(row, sources): (usize, Vec<Vec<f64>>)| {
            let len = raw.len() / rows;
            let own = &raw[row * len..(row + 1) * len];
            let width = outputs.len() / rows;
            Explained {
                trust: trust(&found, row, own, errors.as_deref()),
                target: words.clone(),
                score: found.scores[row],
                outputs: outputs[row * width..(row + 1) * width].to_vec(),
                attribution: Values {
                    sources,
                    raw: own.to_vec(),
                    shape: shape.clone(),
                    columns: columns.clone(),
                },
            }
        };
        let sources = found.source_values()?.into_iter();
        Ok(sources.enumerate().map(explained).collect())
    }
}

/// Batches of small networks that stay in a CPU's cache: several times faster than those that
/// fill the memory, and at least 32 rows where a row is large.
fn in_cache(row_bytes: usize) -> BatchSize {
    const CACHE: usize = 4 << 20;
    const MEMORY: usize = 2 << 30;
    let rows = (CACHE / row_bytes.max(1)).clamp(32, 4096);
    BatchSize::Rows(rows.min(MEMORY / row_bytes.max(1)).max(1))
}

fn trust<const D: usize>(
    found: &Attribution<D>,
    row: usize,
    own: &[f32],
    errors: Option<&[f64]>,
) -> Trust {
    let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|v| v * v).sum::<f64>().sqrt();
    let relative = errors.map(|errors| {
        let errors = &errors[row * own.len()..(row + 1) * own.len()];
        let size = norm(&mut own.iter().map(|&v| v.into()));
        norm(&mut errors.iter().copied()) / size.max(f64::MIN_POSITIVE)
    });
    let rows = found.targets.len();
    Trust {
        delta: found.evidence.delta.as_ref().map(|delta| delta[row]),
        relative_standard_error: relative,
        samples: found.evidence.samples,
        converged: found.evidence.converged,
        evaluations: Evaluations {
            forward: found.evaluations.forward / rows,
            gradient: found.evaluations.gradient / rows,
        },
    }
}

fn largest(values: &[f64]) -> usize {
    (0..values.len()).fold(0, |best, i| if values[i] > values[best] { i } else { best })
}

/// `t+5` of `price t+5` after `price t+1`.
fn without_shared<'a>(first: &str, last: &'a str) -> &'a str {
    match (first.rsplit_once(' '), last.rsplit_once(' ')) {
        (Some((shared, _)), Some((same, step))) if shared == same => step,
        _ => last,
    }
}

/// `` for all outputs, `:2..5` for those from the second to the fifth.
fn outputs_of(range: &str, outputs: usize) -> Result<std::ops::Range<usize>, Error> {
    let wrong = || {
        Error::Usage(format!(
            "--target mean{range}: write mean, or mean:FROM..TO of outputs numbered from 1 to {outputs}"
        ))
    };
    if range.is_empty() {
        return Ok(0..outputs);
    }
    let (from, to) = range
        .strip_prefix(':')
        .and_then(|range| range.split_once(".."))
        .ok_or_else(wrong)?;
    let number = |text: &str| text.trim().parse::<usize>().map_err(|_| wrong());
    let (from, to) = (number(from)?, number(to)?);
    match from >= 1 && from <= to && to <= outputs {
        true => Ok(from - 1..to),
        false => Err(wrong()),
    }
}

/// The output of a name, or of a part of it that no other has.
fn find(text: &str, names: &[String]) -> Result<usize, Error> {
    let wanted = text.trim().to_lowercase();
    if let Some(same) = names.iter().position(|name| name.to_lowercase() == wanted) {
        return Ok(same);
    }
    let part: Vec<usize> = (0..names.len())
        .filter(|&i| names[i].to_lowercase().contains(&wanted))
        .collect();
    match part[..] {
        [one] => Ok(one),
        _ => Err(Error::Usage(format!(
            "--target {text}: the outputs of this model are {}",
            names.join(", ")
        ))),
    }
}

/// What results of a file are called after.
pub fn stem(data: &Path) -> String {
    let stem = data.file_stem().unwrap_or(data.as_os_str());
    stem.to_string_lossy().into_owned()
}

/// A file of numbers with a header, in the dialect that any spreadsheet reads.
pub struct CsvText(String);

impl CsvText {
    pub fn new(header: &[&str]) -> Self {
        let mut text = CsvText(String::new());
        text.row(header.iter().map(|cell| cell.to_string()));
        text
    }

    pub fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        let quoted = |cell: String| match cell.contains([',', '"', '\n', '\r']) {
            true => format!("\"{}\"", cell.replace('"', "\"\"")),
            false => cell,
        };
        let cells: Vec<String> = cells.into_iter().map(quoted).collect();
        self.0 += &cells.join(",");
        self.0.push('\n');
    }

    pub fn bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outputs_are_found_by_number_range_and_name() {
        assert_eq!(outputs_of("", 5).unwrap(), 0..5);
        assert_eq!(outputs_of(":2..3", 5).unwrap(), 1..3);
        for wrong in [":0..2", ":3..2", ":1..6", ":x..2", "s", ":2"] {
            assert!(outputs_of(wrong, 5).is_err(), "{wrong}");
        }
        let names = ["close t+1", "close t+10", "open t+1"].map(String::from);
        assert_eq!(without_shared(&names[0], &names[1]), "t+10");
        assert_eq!(without_shared(&names[0], &names[2]), "open t+1");
        assert_eq!(find("Close t+1", &names).unwrap(), 0);
        assert_eq!(find("t+10", &names).unwrap(), 1);
        let error = find("close", &names).unwrap_err().to_string();
        assert!(
            error.ends_with("close t+1, close t+10, open t+1"),
            "{error}"
        );
    }

    #[test]
    fn cells_with_commas_are_quoted() {
        let mut text = CsvText::new(&["a", "b"]);
        text.row(["x, y".into(), "say \"no\"".into()]);
        assert_eq!(text.bytes(), b"a,b\n\"x, y\",\"say \"\"no\"\"\"\n");
    }
}
