use std::path::{Path, PathBuf};

use saliency_core::{Contribution, FeatureRanking, Recipe, Run};
use saliency_models::data::Sample;
use saliency_viz::{Bar, Grid, Track, bars, series, time_heat};
use serde::Serialize;

use crate::{
    args::{Explain, Format},
    error::Error,
    files::{self, Results},
    progress,
    report::{self, Trust, number, percent},
    table::{self, CsvText, Explained, OutputReport, Tabular},
};

/// Samples that go through the method together.
const CHUNK: usize = 256;
/// Explained rows that are listed one by one on the terminal.
const LISTED: usize = 20;
/// Lines of a series' picture.
const TRACKS: usize = 4;

/// A feature of one sample.
#[derive(Clone, Debug, Serialize)]
struct FeatureReport {
    name: String,
    /// The cell in the file; of a window that of its last step.
    text: String,
    value: f64,
    magnitude: f64,
    share: f64,
}

/// A step of one window.
#[derive(Clone, Debug, Serialize)]
struct StepReport {
    time: String,
    value: f64,
    magnitude: f64,
    share: f64,
}

/// What was found for one sample.
#[derive(Clone, Debug, Serialize)]
struct RowReport {
    data: PathBuf,
    /// First and last row of the file, from 1.
    rows: (u64, u64),
    name: String,
    model: String,
    device: String,
    outputs: Vec<OutputReport>,
    /// What the file itself says, where it does.
    #[serde(skip_serializing_if = "Option::is_none")]
    known: Option<Vec<f64>>,
    target: String,
    score: f64,
    recipe: Recipe,
    trust: Trust,
    /// By magnitude.
    features: Vec<FeatureReport>,
    /// By magnitude; none for a table.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    steps: Vec<StepReport>,
    files: Vec<PathBuf>,
}

impl files::Listing for RowReport {
    fn set_files(&mut self, files: Vec<PathBuf>) {
        self.files = files;
    }
}

pub fn run(args: &Explain, data: &Path) -> Result<(), Error> {
    let tabular = Tabular::from_args(&args.model)?;
    let recipe = tabular.recipe(&args.method)?;
    tabular.check(&args.target)?;
    let samples = wanted(args, data, &tabular)?;
    files::prepare_rows(&args.output)?;
    let mut reports = Vec::new();
    let label = table::stem(data);
    for chunk in samples.chunks(CHUNK) {
        let progress = progress::callback(&label);
        let run = Run::new().progress(&progress);
        let found = tabular.explain(chunk, &args.target, &recipe, &run)?;
        for (sample, explained) in chunk.iter().zip(found) {
            let mut report = describe(data, &tabular, &recipe, sample, &explained);
            save(args, &tabular, sample, &explained, &mut report)?;
            reports.push((report, tabular.prediction(&explained.outputs)));
        }
    }
    if args.output.json {
        let reports: Vec<RowReport> = reports.into_iter().map(|(report, _)| report).collect();
        return report::print_json(&reports);
    }
    for (report, prediction) in reports.iter().take(LISTED) {
        report::print(&text(report, prediction, args.rows.top))?;
    }
    match reports.len() - reports.len().min(LISTED) {
        0 => Ok(()),
        more => report::print(&format!("and {more} more; --json lists all")),
    }
}

/// The samples that the command line asks for.
fn wanted(args: &Explain, data: &Path, tabular: &Tabular) -> Result<Vec<Sample>, Error> {
    let nothing = |reason: String| Err(Error::file(data, reason));
    let samples = tabular.samples(data, &args.rows.csv.options())?;
    if let Some(between) = &args.rows.window {
        if !tabular.is_sequence() {
            return Err(Error::Usage(
                "--window is for models of series; this one explains single rows: give --row"
                    .into(),
            ));
        }
        let (mut last, mut count) = (None, 0);
        let (mut first_time, mut last_time) = (None, String::new());
        for sample in samples {
            let sample = sample?;
            first_time.get_or_insert_with(|| sample.times[0].clone());
            last_time.clone_from(&sample.times[sample.times.len() - 1]);
            if last.is_some() && !between.is_before_end(&last_time) {
                break;
            }
            if between.is_before_end(&last_time) && between.contains(&sample.times[0]) {
                count += 1;
                last = Some(sample);
            }
        }
        return match (last, first_time) {
            (Some(sample), _) => {
                if count > 1 && !args.output.json {
                    report::print(&format!(
                        "{count} windows of {} rows lie in {}..{}; this is the last",
                        tabular.steps(),
                        between.from,
                        between.to
                    ))?;
                }
                Ok(vec![sample])
            }
            (None, Some(first_time)) => nothing(format!(
                "no window of {} rows lies in {}..{}; the file's windows go from {first_time} to {last_time}",
                tabular.steps(),
                between.from,
                between.to
            )),
            (None, None) => nothing(no_windows(tabular)),
        };
    }
    let Some(rows) = &args.rows.row else {
        let option = match tabular.is_sequence() {
            true => "--window FROM..TO, or --row N for the window that ends there",
            false => "--row N, such as --row 17 or --row 1..5",
        };
        return Err(Error::Usage(format!(
            "say what to explain: {option}; `saliency importance` explains the whole file"
        )));
    };
    let mut found = Vec::new();
    let mut last = None;
    for sample in samples {
        let sample = sample?;
        let row = sample.rows.1;
        last = Some(row);
        if rows.contains(row) {
            found.push(sample);
        }
        if row >= rows.last() {
            break;
        }
    }
    let numbers: Vec<u64> = found.iter().map(|sample| sample.rows.1).collect();
    match rows.missing(&numbers) {
        None => Ok(found),
        Some(missing) => nothing(match (last, tabular.is_sequence()) {
            (Some(last), false) if missing > last => {
                format!("has no row {missing}; its last is {last}")
            }
            (Some(last), true) if missing > last => {
                format!("no window ends at row {missing}; the last ends at row {last}")
            }
            (_, true) => format!(
                "no window of {} rows ends at row {missing}",
                tabular.steps()
            ),
            (None, false) => "has no rows to explain".into(),
            (_, false) => format!("row {missing} is left out because of an empty cell"),
        }),
    }
}

fn no_windows(tabular: &Tabular) -> String {
    format!(
        "has too few rows for one window of {} rows",
        tabular.steps()
    )
}

fn describe(
    data: &Path,
    tabular: &Tabular,
    recipe: &Recipe,
    sample: &Sample,
    explained: &Explained,
) -> RowReport {
    let values = &explained.attribution;
    let ranking = ranked(values.columns.sources(), &values.contributions());
    let last_step = sample.texts.len() - sample.texts.len() / sample.times.len();
    let text_of = |source: usize| match values.columns == tabular.columns {
        true => sample.texts[last_step + source].clone(),
        false => String::new(),
    };
    let features = ranking.into_iter().map(|(source, ranked)| FeatureReport {
        text: text_of(source),
        name: ranked.name,
        value: ranked.value,
        magnitude: ranked.magnitude,
        share: ranked.share,
    });
    let steps = match tabular.is_sequence() {
        true => ranked(&sample.times, &values.steps()),
        false => Vec::new(),
    };
    let steps = steps.into_iter().map(|(step, ranked)| StepReport {
        time: sample.times[step].clone(),
        value: ranked.value,
        magnitude: ranked.magnitude,
        share: ranked.share,
    });
    RowReport {
        data: data.to_owned(),
        rows: sample.rows,
        name: sample.name.clone(),
        model: tabular.name.clone(),
        device: crate::device::describe(&tabular.device),
        outputs: tabular.outputs(&explained.outputs),
        known: sample.targets.clone(),
        target: explained.target.clone(),
        score: explained.score,
        recipe: recipe.clone(),
        trust: explained.trust.clone(),
        features: features.collect(),
        steps: steps.collect(),
        files: Vec::new(),
    }
}

/// Ranked, each with its place before that.
fn ranked(names: &[String], values: &[Contribution]) -> Vec<(usize, saliency_core::Ranked)> {
    let numbered = (0..names.len()).map(|i| i.to_string());
    let ranking = FeatureRanking::new(numbered.zip(values.iter().copied()));
    let named = ranking.features.into_iter().map(|mut ranked| {
        let place: usize = ranked.name.parse().unwrap_or_default();
        ranked.name.clone_from(&names[place]);
        (place, ranked)
    });
    named.collect()
}

fn title(report: &RowReport) -> String {
    format!("{}: {}", report.name, report.target)
}

fn save(
    args: &Explain,
    tabular: &Tabular,
    sample: &Sample,
    explained: &Explained,
    report: &mut RowReport,
) -> Result<(), Error> {
    let stem = format!(
        "{}-{}-{}",
        table::stem(&report.data),
        files::slug(&sample.name),
        files::slug(&report.recipe.name())
    );
    let mut results = Results::new(&args.output.out, &stem);
    let formats = &args.output.save;
    if formats.contains(&Format::Png) {
        results.png(".png", &bar_chart(report, args.rows.top, tabular)?)?;
        if tabular.is_sequence() {
            pictures_over_time(args, tabular, (sample, explained), report, &mut results)?;
        }
    }
    if formats.contains(&Format::Csv) {
        results.bytes(".csv", csv(tabular, sample, explained).bytes())?;
    }
    let values = &explained.attribution;
    if formats.contains(&Format::Npy) {
        results.bytes(".npy", &super::explain::npy(&values.shape, &values.raw)?)?;
    }
    if formats.contains(&Format::Safetensors) {
        let bytes: Vec<u8> = values.raw.iter().flat_map(|v| v.to_le_bytes()).collect();
        let fail = |e: safetensors::SafeTensorError| Error::Internal(e.to_string());
        let view = safetensors::tensor::TensorView::new(
            safetensors::Dtype::F32,
            values.shape.clone(),
            &bytes,
        );
        let view = [("attribution", view.map_err(fail)?)];
        results.bytes(
            ".safetensors",
            &safetensors::serialize(view, None).map_err(fail)?,
        )?;
    }
    results.finish(report, ".json", formats)
}

fn bar_chart(
    report: &RowReport,
    top: usize,
    tabular: &Tabular,
) -> Result<saliency_models::photo::RgbImage, Error> {
    let bar = |feature: &FeatureReport| {
        let bar = Bar::new(&feature.name, feature.value as f32).share(feature.share as f32);
        match tabular.is_sequence() || feature.text.is_empty() {
            true => bar,
            false => bar.detail(format!("= {}", feature.text)),
        }
    };
    let features: Vec<Bar> = report.features.iter().take(top).map(bar).collect();
    let axis = format!(
        "contribution to the {} ({})",
        word(report),
        report.recipe.name()
    );
    Ok(bars(
        &features[..features.len().min(200)],
        &title(report),
        &axis,
    )?)
}

fn word(report: &RowReport) -> &'static str {
    match report.target.starts_with("log-odds") {
        true => "log-odds",
        false => "output",
    }
}

/// The lines of the columns that weigh most over their saliency, and all columns over time.
fn pictures_over_time(
    args: &Explain,
    tabular: &Tabular,
    (sample, explained): (&Sample, &Explained),
    report: &RowReport,
    results: &mut Results,
) -> Result<(), Error> {
    let values = &explained.attribution;
    let order: Vec<usize> = ranked(values.columns.sources(), &values.contributions())
        .into_iter()
        .map(|(source, _)| source)
        .collect();
    let of_source = |source: usize| -> Vec<f32> {
        values
            .sources
            .iter()
            .map(|step| step[source] as f32)
            .collect()
    };
    let sources = tabular.columns.sources().len();
    let own = values.columns == tabular.columns;
    let cells = |source: usize| -> Option<Vec<f32>> {
        let cells = sample.texts.iter().skip(source).step_by(sources);
        cells.map(|cell| cell.trim().parse().ok()).collect()
    };
    let mut tracks = Vec::new();
    match own {
        true => {
            for &source in &order {
                if let (true, Some(line)) = (tabular.is_numeric(source), cells(source)) {
                    tracks.push(Track {
                        name: tabular.columns.sources()[source].clone(),
                        values: line,
                        saliency: of_source(source),
                    });
                }
            }
        }
        // A map over the steps lies under the first column that has a line.
        false => {
            let first = (0..sources).find_map(|source| Some((source, cells(source)?)));
            if let Some((source, line)) = first {
                tracks.push(Track {
                    name: tabular.columns.sources()[source].clone(),
                    values: line,
                    saliency: of_source(0),
                });
            }
        }
    }
    tracks.truncate(args.rows.top.min(TRACKS));
    let (title, legend) = (title(report), "contribution");
    if !tracks.is_empty() {
        let picture = series(&sample.times, &tracks, &title, legend)?;
        results.png("-series.png", &picture)?;
    }
    if own {
        let shown = &order[..order.len().min(args.rows.top).min(200)];
        let names: Vec<String> = shown
            .iter()
            .map(|&source| values.columns.sources()[source].clone())
            .collect();
        let grid: Vec<f32> = shown.iter().flat_map(|&source| of_source(source)).collect();
        let grid = Grid::new(sample.times.len(), names.len(), grid)?;
        let picture = time_heat(&grid, &sample.times, &names, &title, legend)?;
        results.png("-heat.png", &picture)?;
    }
    Ok(())
}

/// One line for each column, of a series for each step of each column.
fn csv(tabular: &Tabular, sample: &Sample, explained: &Explained) -> CsvText {
    let values = &explained.attribution;
    let names = values.columns.sources();
    let own = values.columns == tabular.columns;
    let mut text = CsvText::new(match tabular.is_sequence() {
        true => &["time", "feature", "value", "contribution"],
        false => &["feature", "value", "contribution", "share"],
    });
    let total: f64 = values.contributions().iter().map(|c| c.magnitude).sum();
    for (step, contributions) in values.sources.iter().enumerate() {
        for (source, contribution) in contributions.iter().enumerate() {
            let cell = match own {
                true => sample.texts[step * names.len() + source].clone(),
                false => String::new(),
            };
            let name = names[source].clone();
            match tabular.is_sequence() {
                true => {
                    let time = sample.times[step].clone();
                    text.row([time, name, cell, contribution.to_string()]);
                }
                false => {
                    let share = match total > 0.0 {
                        true => contribution.abs() / total,
                        false => 0.0,
                    };
                    text.row([name, cell, contribution.to_string(), share.to_string()]);
                }
            }
        }
    }
    text
}

fn text(report: &RowReport, prediction: &str, top: usize) -> String {
    let mut text = format!(
        "{}: {prediction} ({} on {}, {})\nexplained: {}, {}",
        report.name,
        report.model,
        report.device,
        report.recipe.name(),
        report.target,
        number(report.score)
    );
    let trust = report.trust.words();
    if !trust.is_empty() {
        text += &format!("; {trust}");
    }
    let shown = |name: &str| -> String {
        name.chars()
            .map(|c| if c.is_control() { ' ' } else { c })
            .collect()
    };
    let rows = report.features.iter().take(top).map(|feature| {
        vec![
            shown(&feature.name),
            shown(&feature.text),
            signed(feature.value),
            percent(feature.share),
        ]
    });
    let value = match report.steps.is_empty() {
        true => "value",
        false => "last value",
    };
    let header = ["feature", value, "contribution", "share"];
    text += &format!("\n{}", report::table(&header, rows));
    if !report.steps.is_empty() {
        let rows = report
            .steps
            .iter()
            .take(top)
            .map(|step| vec![shown(&step.time), signed(step.value), percent(step.share)]);
        let header = ["step", "contribution", "share"];
        text += &format!("\n{}", report::table(&header, rows));
    }
    for file in &report.files {
        text += &format!("\nwrote {}", file.display());
    }
    text
}

fn signed(value: f64) -> String {
    match value > 0.0 {
        true => format!("+{}", number(value)),
        false => number(value),
    }
}
