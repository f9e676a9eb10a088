use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::Instant,
};

use saliency_core::{
    Contribution, Recipe, Run,
    analysis::{FeatureImportance, GroupedImportance, Reservoir},
};
use saliency_models::data::{Reader, Record, Sample};
use saliency_viz::{Bar, Swarm, beeswarm, magnitudes};
use serde::Serialize;

use crate::{
    args::{Format, Importance},
    error::Error,
    files::{self, Results},
    progress::Bar as ProgressBar,
    report::{self, number, percent},
    table::{self, CsvText, Tabular},
};

/// Samples that are read, explained and forgotten together: at most so many, of at most so many
/// cells.
const CHUNK: usize = 4096;
const CELLS: usize = 1 << 18;
/// Groups that have a column in the table and a picture.
const SHOWN_GROUPS: usize = 8;

/// What a file as a whole came to.
#[derive(Clone, Debug, Serialize)]
struct ImportanceReport {
    data: PathBuf,
    rows: u64,
    /// Rows left out because of an empty cell.
    dropped: u64,
    model: String,
    device: String,
    target: String,
    recipe: Recipe,
    seconds: f64,
    /// By mean magnitude.
    features: Vec<FeatureImportance>,
    /// Of a series, from the first step of a window to the last; else none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    steps: Vec<FeatureImportance>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    groups: BTreeMap<String, GroupReport>,
    files: Vec<PathBuf>,
}

#[derive(Clone, Debug, Serialize)]
struct GroupReport {
    rows: u64,
    features: Vec<FeatureImportance>,
}

impl files::Listing for ImportanceReport {
    fn set_files(&mut self, files: Vec<PathBuf>) {
        self.files = files;
    }
}

/// A row of the beeswarm: contributions, and numbers of the columns that have any.
type Drawn = (Vec<f32>, Vec<Option<f32>>);

/// What is kept of a file while it goes by; its size does not depend on that of the file.
struct Kept {
    features: GroupedImportance,
    steps: saliency_core::analysis::Importance,
    sample: Reservoir<Drawn>,
    target: String,
}

pub fn run(args: &Importance) -> Result<(), Error> {
    let tabular = Tabular::from_args(&args.model)?;
    let recipe = tabular.recipe(&args.method)?;
    tabular.check(&args.target)?;
    files::prepare_rows(&args.output)?;
    let started = Instant::now();
    let (kept, dropped) = stream(args, &tabular, &recipe)?;
    let group = |(name, importance): (&String, &saliency_core::analysis::Importance)| {
        let report = GroupReport {
            rows: importance.rows(),
            features: importance.features(),
        };
        (name.clone(), report)
    };
    let mut report = ImportanceReport {
        data: args.data.clone(),
        rows: kept.features.all.rows(),
        dropped,
        model: tabular.name.clone(),
        device: crate::device::describe(&tabular.device),
        target: kept.target.clone(),
        recipe,
        seconds: started.elapsed().as_secs_f64(),
        features: kept.features.all.features(),
        steps: match tabular.is_sequence() {
            true => kept.steps.in_order(),
            false => Vec::new(),
        },
        groups: kept.features.groups.iter().map(group).collect(),
        files: Vec::new(),
    };
    save(args, &tabular, &kept, &mut report)?;
    match args.output.json {
        true => report::print_json(&report),
        false => report::print(&text(&report, args)),
    }
}

/// Goes through the file once.
fn stream(args: &Importance, tabular: &Tabular, recipe: &Recipe) -> Result<(Kept, u64), Error> {
    let options = args.csv.options();
    let mut samples = tabular.samples(&args.data, &options)?;
    let mut groups = match &args.group_by {
        Some(column) => Some(Groups::open(&args.data, &options, column)?),
        None => None,
    };
    let steps = (1..=tabular.steps()).rev().map(|back| match back {
        1 => "t".to_owned(),
        back => format!("t-{}", back - 1),
    });
    let mut kept = Kept {
        features: GroupedImportance::new(tabular.columns.sources()),
        steps: saliency_core::analysis::Importance::new(steps),
        sample: Reservoir::new(args.sample, args.method.seed.unwrap_or(0)),
        target: String::new(),
    };
    let choice = tabular.whole(&args.target);
    let bar = ProgressBar::new("file", samples.bytes_total());
    let (started, label) = (Instant::now(), table::stem(&args.data));
    let most = args.rows.unwrap_or(u64::MAX);
    let cells = tabular.steps() * tabular.columns.sources().len();
    let chunk = (CELLS / cells.max(1)).clamp(16, CHUNK) as u64;
    let mut done: u64 = 0;
    loop {
        let room = (most - done).min(chunk) as usize;
        let chunk = samples.by_ref().take(room).collect::<Result<Vec<_>, _>>()?;
        if chunk.is_empty() {
            break;
        }
        let found = tabular.explain(&chunk, &choice, recipe, &Run::new())?;
        for (sample, explained) in chunk.iter().zip(&found) {
            let values = &explained.attribution;
            if values.columns != tabular.columns {
                return Err(Error::Usage(format!(
                    "{} has one value for each step and none for each column; choose another --method",
                    recipe.name()
                )));
            }
            let contributions = values.contributions();
            let group = match &mut groups {
                Some(groups) => Some(groups.of(sample.rows.1)?),
                None => None,
            };
            kept.features.add(group.as_deref(), &contributions)?;
            kept.steps.add(&values.steps())?;
            kept.sample.offer(|| drawn(tabular, sample, &contributions));
        }
        if let Some(explained) = found.first() {
            kept.target = match choice == crate::args::TargetChoice::Predicted
                && explained.outputs.len() > 1
                && !explained.target.starts_with("mean")
            {
                true => "the predicted class".into(),
                false => explained.target.clone(),
            };
        }
        done += chunk.len() as u64;
        let rate = done as f64 / started.elapsed().as_secs_f64();
        let message = format!("{label}: {done} rows, {rate:.0} rows/s");
        // A limit on the rows says more than the place in the file.
        match args.rows {
            Some(most) => bar.set(&message, done, most),
            None => bar.set(&message, samples.bytes_read(), samples.bytes_total()),
        }
    }
    if done == 0 {
        let reason = match tabular.is_sequence() {
            true => format!("has no window of {} rows to explain", tabular.steps()),
            false => "has no rows to explain".into(),
        };
        return Err(Error::file(&args.data, reason));
    }
    Ok((kept, samples.dropped()))
}

fn drawn(tabular: &Tabular, sample: &Sample, contributions: &[Contribution]) -> Drawn {
    let sources = contributions.len();
    let last = sample.texts.len() - sources;
    let number = |source: usize| match tabular.is_numeric(source) {
        true => sample.texts[last + source]
            .parse()
            .ok()
            .filter(|v: &f32| v.is_finite()),
        false => None,
    };
    (
        contributions.iter().map(|c| c.value as f32).collect(),
        (0..sources).map(number).collect(),
    )
}

/// The cells of one column, read beside the samples.
struct Groups {
    reader: Reader,
    column: usize,
    record: Record,
}

impl Groups {
    fn open(
        data: &Path,
        options: &saliency_models::data::CsvOptions,
        column: &str,
    ) -> Result<Self, Error> {
        let reader = Reader::open(data, options)?;
        Ok(Groups {
            column: reader.column(column)?,
            reader,
            record: Record::default(),
        })
    }

    /// The cell of a row; rows must be asked for in rising order.
    fn of(&mut self, row: u64) -> Result<String, Error> {
        while self.record.row() < row && self.reader.read(&mut self.record)? {}
        Ok(match self.record.get(self.column) {
            "" => "(empty)".into(),
            cell => cell.to_owned(),
        })
    }
}

fn save(
    args: &Importance,
    tabular: &Tabular,
    kept: &Kept,
    report: &mut ImportanceReport,
) -> Result<(), Error> {
    let stem = format!(
        "{}-importance-{}",
        table::stem(&args.data),
        files::slug(&report.recipe.name())
    );
    let mut results = Results::new(&args.output.out, &stem);
    let formats = &args.output.save;
    let title = format!("{} rows: {}", report.rows, report.target);
    let axis = format!("mean |contribution| ({})", report.recipe.name());
    if formats.contains(&Format::Png) {
        let top = args.top.min(200);
        results.png(
            ".png",
            &magnitudes(&bars_of(&report.features, top), &title, &axis)?,
        )?;
        results.png(
            "-beeswarm.png",
            &swarm(args, tabular, kept, report, &title)?,
        )?;
        if !report.steps.is_empty() {
            let steps: Vec<FeatureImportance> = report.steps.iter().rev().cloned().collect();
            let picture = magnitudes(&bars_of(&steps, 200), &title, &axis)?;
            results.png("-steps.png", &picture)?;
        }
        for (name, group) in report.groups.iter().take(SHOWN_GROUPS) {
            let column = args.group_by.as_deref().unwrap_or_default();
            let title = format!("{column} = {name}, {} rows: {}", group.rows, report.target);
            let picture = magnitudes(&bars_of(&group.features, top), &title, &axis)?;
            results.png(&format!("-{}.png", files::slug(name)), &picture)?;
        }
    }
    if formats.contains(&Format::Csv) {
        results.bytes(".csv", csv(report).bytes())?;
    }
    results.finish(report, ".json", formats)
}

fn bars_of(features: &[FeatureImportance], top: usize) -> Vec<Bar> {
    let bar = |feature: &FeatureImportance| {
        let bar =
            Bar::new(&feature.name, feature.magnitude.mean as f32).share(feature.share as f32);
        match feature.magnitude.interval {
            Some((low, high)) => bar.interval(low as f32, high as f32),
            None => bar,
        }
    };
    features.iter().take(top).map(bar).collect()
}

fn swarm(
    args: &Importance,
    tabular: &Tabular,
    kept: &Kept,
    report: &ImportanceReport,
    title: &str,
) -> Result<saliency_models::photo::RgbImage, Error> {
    let sources = tabular.columns.sources();
    let rows: Vec<Swarm> = report
        .features
        .iter()
        .take(args.top.min(60))
        .filter_map(|feature| {
            let source = sources.iter().position(|name| *name == feature.name)?;
            let of = |(values, numbers): &Drawn| (values[source], numbers[source]);
            Some(Swarm {
                name: feature.name.clone(),
                points: kept.sample.items().iter().map(of).collect(),
            })
        })
        .collect();
    let axis = format!("contribution to the {}", report.target);
    Ok(beeswarm(&rows, title, &axis)?)
}

/// One line for each feature, of all rows and of each group.
fn csv(report: &ImportanceReport) -> CsvText {
    let mut text = CsvText::new(&[
        "kind",
        "group",
        "name",
        "rows",
        "mean_magnitude",
        "magnitude_low",
        "magnitude_high",
        "mean_value",
        "value_low",
        "value_high",
        "share",
    ]);
    let mut add = |kind: &str, group: &str, rows: u64, features: &[FeatureImportance]| {
        for feature in features {
            let end = |interval: Option<(f64, f64)>, pick: fn((f64, f64)) -> f64| {
                interval.map_or_else(String::new, |i| pick(i).to_string())
            };
            let (magnitude, value) = (feature.magnitude, feature.value);
            text.row([
                kind.to_owned(),
                group.to_owned(),
                feature.name.clone(),
                rows.to_string(),
                magnitude.mean.to_string(),
                end(magnitude.interval, |i| i.0),
                end(magnitude.interval, |i| i.1),
                value.mean.to_string(),
                end(value.interval, |i| i.0),
                end(value.interval, |i| i.1),
                feature.share.to_string(),
            ]);
        }
    };
    add("feature", "", report.rows, &report.features);
    add("step", "", report.rows, &report.steps);
    for (name, group) in &report.groups {
        add("feature", name, group.rows, &group.features);
    }
    text
}

fn text(report: &ImportanceReport, args: &Importance) -> String {
    let mut text = format!(
        "{}: {} rows in {} s, {:.0} rows/s ({} on {}, {})\nexplained: {}",
        report.data.display(),
        report.rows,
        number(report.seconds),
        report.rows as f64 / report.seconds.max(1e-9),
        report.model,
        report.device,
        report.recipe.name(),
        report.target
    );
    if report.dropped > 0 {
        text += &format!("; {} rows left out because of empty cells", report.dropped);
    }
    let shown: Vec<(&String, &GroupReport)> = report.groups.iter().take(SHOWN_GROUPS).collect();
    let mut header = vec![
        "feature",
        "mean |contribution|",
        "mean contribution",
        "share",
    ];
    let titles = shown
        .iter()
        .map(|(name, group)| format!("{name} ({} rows)", group.rows));
    let titles: Vec<String> = titles.collect();
    header.extend(titles.iter().map(String::as_str));
    let rows = report.features.iter().take(args.top).map(|feature| {
        let groups = shown.iter().map(|(_, group)| {
            let own = group.features.iter().find(|f| f.name == feature.name);
            own.map_or_else(String::new, |f| number(f.magnitude.mean))
        });
        let own = [
            feature.name.clone(),
            with_interval(&feature.magnitude),
            with_interval(&feature.value),
            percent(feature.share),
        ];
        own.into_iter().chain(groups).collect()
    });
    text += &format!("\n{}", report::table(&header, rows));
    let more = report.groups.len() - shown.len();
    if more > 0 {
        text += &format!("\nand {more} more groups; --json and --save csv have all");
    }
    if !report.steps.is_empty() {
        let mut steps: Vec<&FeatureImportance> = report.steps.iter().collect();
        steps.sort_by(|a, b| b.magnitude.mean.total_cmp(&a.magnitude.mean));
        let rows = steps.into_iter().take(args.top).map(|step| {
            vec![
                step.name.clone(),
                with_interval(&step.magnitude),
                with_interval(&step.value),
                percent(step.share),
            ]
        });
        let header = ["step", "mean |contribution|", "mean contribution", "share"];
        text += &format!("\n{}", report::table(&header, rows));
    }
    for file in &report.files {
        text += &format!("\nwrote {}", file.display());
    }
    text
}

/// `0.512 ± 0.012`, half the 95% confidence interval.
fn with_interval(estimate: &saliency_core::analysis::Estimate) -> String {
    match estimate.interval {
        Some((_, high)) => format!(
            "{} ± {}",
            number(estimate.mean),
            number(high - estimate.mean)
        ),
        None => number(estimate.mean),
    }
}
