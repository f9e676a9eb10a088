use std::path::Path;

use crate::{
    data::{
        Column, DataError, Kind, Layout, Quantity, Reader, Schema, SchemaOptions, Task, Window,
        fit, listed,
    },
    predictor::{Architecture, Family},
    sequence::{RecurrentConfig, TcnConfig, TransformerConfig},
    tabular::{LinearConfig, MlpConfig},
};

use super::{
    TrainError,
    dataset::Dataset,
    options::{TaskKind, TrainOptions},
    split::{Part, Split},
};

/// All that is known before the first step.
pub(super) struct Prepared {
    pub(super) layout: Layout,
    pub(super) architecture: Architecture,
    pub(super) dataset: Dataset,
    /// Rows of the file.
    pub(super) rows: u64,
    /// What a person should know of the data.
    pub(super) notes: Vec<String>,
}

/// So many zeros at the end of a series look like values that are not known yet.
const ZEROS: u64 = 3;
/// So many training deviations away from the training mean a column is another one.
const DRIFT: f64 = 3.0;
/// Fewest examples in each part.
const FEWEST: usize = 2;

pub(super) fn prepare(options: &TrainOptions, path: &Path) -> Result<Prepared, TrainError> {
    options.check()?;
    let reader = Reader::open(path, &options.csv)?;
    let named = [&options.target]
        .into_iter()
        .chain(options.features.iter().flatten());
    let time = options
        .sequence
        .as_ref()
        .and_then(|sequence| sequence.time.as_ref());
    for name in named.chain(&options.drop).chain(time) {
        reader.column(name)?;
    }
    let file = reader.file().to_owned();
    let (schema, task) = infer(options, path, &file)?;
    let window = options.sequence.as_ref().map(|sequence| Window {
        steps: sequence.steps,
        horizon: sequence.horizon.clone(),
        quantity: sequence.quantity,
        time: sequence.time.clone().or_else(|| first_time(&schema)),
    });
    let mut notes = Vec::new();
    let features = features(options, &schema, window.as_ref(), &task, &mut notes)?;
    let split = match options.sequence {
        Some(_) => Split::in_order(schema.rows, options.validation, options.test),
        None => Split::drawn(schema.rows, options.validation, options.test, options.seed),
    };
    let is_training = |row| split.part(row) == Part::Training;
    let fitted = fit(
        path,
        &options.csv,
        &schema,
        &features,
        options.missing,
        is_training,
    )?;
    for name in &fitted.constant {
        notes.push(format!(
            "column {name} has one value in all training rows, so it tells nothing"
        ));
    }
    if fitted.incomplete > 0 {
        let what = match options.missing {
            crate::data::Missing::Drop => "were left out",
            _ => "were filled in with the mean or the most frequent category",
        };
        notes.push(format!(
            "{} rows with an empty cell {what}",
            fitted.incomplete
        ));
    }
    let layout = Layout {
        encoder: fitted.encoder,
        target: options.target.clone(),
        task,
        window,
    };
    let dataset = Dataset::read(&layout, path, &options.csv, &split)?;
    for (count, what) in [
        (dataset.without_target, "have no target and were left out"),
        (
            dataset.straddling,
            "reach from one part into the next and were left out",
        ),
    ] {
        if count > 0 {
            let unit = if layout.window.is_some() {
                "windows"
            } else {
                "rows"
            };
            notes.push(format!("{count} {unit} {what}"));
        }
    }
    notes.extend(drifted(&layout, &dataset));
    for (part, name) in [
        (Part::Training, "training"),
        (Part::Validation, "validation"),
        (Part::Test, "test"),
    ] {
        let count = dataset.len(part);
        if count < FEWEST {
            let unit = match &layout.window {
                Some(window) => format!(
                    "windows of {} rows with a target up to {} rows later",
                    window.steps,
                    window.reach()
                ),
                None => "rows".into(),
            };
            return Err(TrainError::Data(DataError::File {
                file,
                reason: format!(
                    "the {} rows give {count} {unit} for {name}; at least {FEWEST} are needed",
                    schema.rows
                ),
            }));
        }
    }
    Ok(Prepared {
        architecture: architecture(options, &layout),
        layout,
        dataset,
        rows: schema.rows,
        notes,
    })
}

/// The columns, with the target as the task needs it.
fn infer(options: &TrainOptions, path: &Path, file: &str) -> Result<(Schema, Task), TrainError> {
    let schema = Schema::infer(path, &options.csv, &options.schema)?;
    let target = schema.column(&options.target);
    let quantity = options
        .sequence
        .as_ref()
        .map_or(Quantity::Value, |s| s.quantity);
    let numeric = |what: &str| match target.kind {
        Kind::Numeric => Ok(()),
        _ => Err(TrainError::Options(format!(
            "column {:?} is not numeric, so {what}",
            options.target
        ))),
    };
    if target.kind == Kind::Time {
        return Err(TrainError::Options(format!(
            "column {:?} holds times, which are no target",
            options.target
        )));
    }
    if quantity == Quantity::Direction {
        numeric("it has no direction")?;
        one_horizon(options)?;
        let classes = Quantity::directions();
        return Ok((schema, Task::Classification { classes }));
    }
    let is_class = match options.task {
        Some(task) => task == TaskKind::Classification,
        None => {
            target.kind == Kind::Categorical || target.distinct == 2 && quantity == Quantity::Value
        }
    };
    if !is_class {
        numeric("it cannot be predicted by a regression; give --task classification")?;
        return Ok((schema, Task::Regression));
    }
    if quantity != Quantity::Value {
        return Err(TrainError::Options(format!(
            "the {quantity} of a column is a number; give --task regression"
        )));
    }
    one_horizon(options)?;
    let schema = match target.kind {
        Kind::Categorical => schema,
        // Numbers as classes.
        _ => {
            let mut forced: SchemaOptions = options.schema.clone();
            forced.numeric.retain(|name| *name != options.target);
            forced.categorical.push(options.target.clone());
            Schema::infer(path, &options.csv, &forced)?
        }
    };
    let target = schema.column(&options.target);
    target.check(file)?;
    let classes = target.categories.clone();
    if classes.len() < 2 {
        return Err(TrainError::Data(DataError::File {
            file: file.into(),
            reason: format!(
                "column {:?} has one class only, {:?}",
                options.target, classes[0]
            ),
        }));
    }
    Ok((schema, Task::Classification { classes }))
}

/// Says which columns of a series the test rows have at another level than the training rows.
fn drifted(layout: &Layout, dataset: &Dataset) -> Option<String> {
    layout.window.as_ref()?;
    let features = layout.encoder.features().into_iter();
    let far: Vec<String> = features
        .zip(dataset.means(Part::Test))
        .filter(|(_, mean)| mean.abs() > DRIFT)
        .map(|(feature, _)| feature.name)
        .collect();
    let names = listed(&far);
    let (columns, lie, means) = match far.len() {
        0 => return None,
        1 => ("column", "lies", "its mean"),
        _ => ("columns", "lie", "their means"),
    };
    Some(format!(
        "{columns} {names} {lie} more than {DRIFT} training deviations from {means} in the test rows, so that the model goes beyond what it has seen; changes or ratios would stay comparable"
    ))
}

fn one_horizon(options: &TrainOptions) -> Result<(), TrainError> {
    match &options.sequence {
        Some(sequence) if sequence.horizon.len() > 1 => Err(TrainError::Options(
            "a classification has one horizon; give one number of steps".into(),
        )),
        _ => Ok(()),
    }
}

fn first_time(schema: &Schema) -> Option<String> {
    let found = schema
        .columns
        .iter()
        .find(|column| column.kind == Kind::Time);
    found.map(|column| column.name.clone())
}

/// The columns that the model reads.
fn features(
    options: &TrainOptions,
    schema: &Schema,
    window: Option<&Window>,
    task: &Task,
    notes: &mut Vec<String>,
) -> Result<Vec<String>, TrainError> {
    let time = window.and_then(|window| window.time.as_ref());
    let foretells = window.is_some_and(|window| window.horizon[0] > 0);
    let target_is_number = *task == Task::Regression
        || window.is_some_and(|window| window.quantity == Quantity::Direction);
    let chosen: Vec<String> = match &options.features {
        Some(names) => names.clone(),
        None => {
            let is_read = |column: &&Column| match column.name == options.target {
                // The past of what is predicted is known.
                true => foretells && target_is_number,
                false => column.kind != Kind::Time && Some(&column.name) != time,
            };
            let columns = schema.columns.iter().filter(is_read);
            columns.map(|column| column.name.clone()).collect()
        }
    };
    let chosen: Vec<String> = chosen
        .into_iter()
        .filter(|name| !options.drop.contains(name))
        .collect();
    if let Some(twice) = (1..chosen.len()).find(|i| chosen[..*i].contains(&chosen[*i])) {
        return Err(TrainError::Options(format!(
            "feature {:?} is named twice",
            chosen[twice]
        )));
    }
    if chosen.is_empty() {
        return Err(TrainError::Options(
            "no column is left to learn from beside the target and times".into(),
        ));
    }
    if chosen.contains(&options.target) && !foretells {
        return Err(TrainError::Options(format!(
            "column {:?} is what is to be told, so it cannot be a feature too",
            options.target
        )));
    }
    for name in &chosen {
        let column = schema.column(name);
        if column.counts_rows && options.features.is_none() {
            notes.push(format!(
                "column {name} counts the rows; if it is an identifier, leave it out with --drop {name}"
            ));
        }
        if window.is_some() && column.zeros_at_end >= ZEROS {
            notes.push(format!(
                "column {name} is 0 in the last {} rows; if that means not known yet, give --absent 0 --missing drop",
                column.zeros_at_end
            ));
        }
    }
    Ok(chosen)
}

/// The network's shape.
fn architecture(options: &TrainOptions, layout: &Layout) -> Architecture {
    let (features, steps) = (layout.encoder.width(), layout.steps());
    let outputs = layout.outputs();
    let hidden = options.hidden.unwrap_or(32);
    let recurrent = RecurrentConfig {
        features,
        outputs,
        hidden,
        layers: options.layers.unwrap_or(1),
    };
    match options.chosen_family() {
        Family::Linear => Architecture::Linear(LinearConfig {
            features: features * steps,
            outputs,
        }),
        Family::Mlp => Architecture::Mlp(MlpConfig {
            features: features * steps,
            outputs,
            hidden: vec![options.hidden.unwrap_or(64); options.layers.unwrap_or(2)],
        }),
        Family::Lstm => Architecture::Lstm(recurrent),
        Family::Gru => Architecture::Gru(recurrent),
        Family::Tcn => {
            let config = TcnConfig {
                features,
                outputs,
                channels: hidden,
                kernel: 3,
                blocks: options.layers.unwrap_or(1),
            };
            Architecture::Tcn(match options.layers {
                Some(_) => config,
                None => config.seeing(steps),
            })
        }
        Family::Transformer => {
            let heads = [4, 2, 1]
                .into_iter()
                .find(|heads| hidden.is_multiple_of(*heads));
            Architecture::Transformer(TransformerConfig {
                features,
                outputs,
                steps,
                width: hidden,
                heads: heads.unwrap_or(1),
                layers: options.layers.unwrap_or(2),
            })
        }
    }
}
