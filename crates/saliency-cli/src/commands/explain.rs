use std::path::PathBuf;

use saliency_core::{
    Attribution, Method, Recipe, Reduction, Statistics,
    analysis::{Classes, compare_classes},
};
use saliency_models::photo::RgbImage;
use saliency_viz::{Style, aggregations, signed, standard};

use crate::{
    args::{Explain, Format, ReduceChoice, TargetChoice},
    commands::explain_rows,
    error::Error,
    files::{self, Results},
    inputs::{self, Input},
    model::{self, Loaded},
    progress,
    report::{self, ClassReport, MapReport, Trust},
};

pub fn run(args: &Explain) -> Result<(), Error> {
    if let Some(data) = &args.rows.data {
        return explain_rows::run(args, data);
    }
    let inputs = inputs::collect(&args.images)?;
    let recipe = model::recipe(&args.method)?;
    let loaded = Loaded::from_args(&args.model)?;
    loaded.check(&args.target)?;
    files::prepare(&args.output)?;
    let reports = each(&inputs, |input| {
        let (view, attribution) = explain(args, input, &loaded, &recipe)?;
        let rows = attribution.targets.len();
        (0..rows)
            .map(|row| {
                let one = attribution.row(row)?;
                let stem = match one.targets[0].class().filter(|_| rows > 1) {
                    Some(class) => format!(
                        "{}-{}-{class}-{}",
                        input.name,
                        files::slug(&recipe.name()),
                        files::slug(&loaded.label(class))
                    ),
                    None => format!("{}-{}", input.name, files::slug(&recipe.name())),
                };
                write_row(args, input, &loaded, &view, &one, &stem)
            })
            .collect::<Result<Vec<_>, Error>>()
    });
    let (reports, failure) = reports;
    let reports: Vec<MapReport> = reports.into_iter().flatten().collect();
    match args.output.json {
        true => report::print_json(&reports)?,
        false if !reports.is_empty() => report::print(&summary(&reports))?,
        false => {}
    }
    failure
}

/// Does `work` for every input. An input that fails is reported and the rest go on; with a
/// single input its own error is returned.
pub fn each<T>(
    inputs: &[Input],
    mut work: impl FnMut(&Input) -> Result<T, Error>,
) -> (Vec<T>, Result<(), Error>) {
    let mut done = Vec::new();
    let mut failed = 0;
    for input in inputs {
        match work(input) {
            Ok(result) => done.push(result),
            Err(error) if inputs.len() == 1 => return (done, Err(error)),
            Err(error) => {
                let (path, error) = (input.path.display().to_string(), error.to_string());
                match error.starts_with(&path) {
                    true => report::print_error(&error),
                    false => report::print_error(&format!("{path}: {error}")),
                }
                failed += 1;
            }
        }
    }
    let total = inputs.len();
    match failed {
        0 => (done, Ok(())),
        _ => (done, Err(Error::Partial { failed, total })),
    }
}

/// The attribution of one image: one row for each target.
pub fn explain(
    args: &Explain,
    input: &Input,
    loaded: &Loaded,
    recipe: &Recipe,
) -> Result<(RgbImage, Attribution<4>), Error> {
    let (x, view) = loaded.prepare(&input.photo()?)?;
    let progress = progress::callback(&input.name);
    let run = loaded.run().progress(&progress);
    let attribution = match &args.target {
        TargetChoice::Top(k) => {
            let top = Classes::Top(*k);
            compare_classes(recipe, loaded.model(), x, &top, &run)?.attribution
        }
        one => recipe.explain_with(loaded.model(), x, &loaded.target(one)?, &run)?,
    };
    Ok((view, attribution))
}

impl files::Listing for MapReport {
    fn set_files(&mut self, files: Vec<PathBuf>) {
        self.files = files;
    }
}

/// Describes one row, and writes what was asked for.
fn write_row(
    args: &Explain,
    input: &Input,
    loaded: &Loaded,
    view: &RgbImage,
    attribution: &Attribution<4>,
    stem: &str,
) -> Result<MapReport, Error> {
    let mut report = describe(input, loaded, attribution, args.reduce.main())?;
    let map = attribution.maps(report.reduction)?.remove(0);
    let title = title(&report);
    let style = Style::default();
    let mut results = Results::new(&args.output.out, stem);
    if args.output.save.contains(&Format::Png) {
        let picture = standard(view, &report::grid(&map)?, &title, &style)?;
        results.png(".png", &picture)?;
        if !report.recipe.is_non_negative() {
            let (positive, negative) = attribution.signed_maps()?.remove(0);
            let (positive, negative) = (report::grid(&positive)?, report::grid(&negative)?);
            let picture = signed(view, &positive, &negative, &title, &style)?;
            results.png("-signed.png", &picture)?;
        }
        if args.reduce == ReduceChoice::All {
            let items = Reduction::ALL
                .into_iter()
                .map(|r| Ok((r.to_string(), report::grid(&attribution.maps(r)?[0])?)))
                .collect::<Result<Vec<_>, Error>>()?;
            let picture = aggregations(view, &items, &title, &style)?;
            results.png("-reductions.png", &picture)?;
        }
    }
    if args.output.save.contains(&Format::Npy) {
        let shape = &attribution.values.dims()[1..];
        results.bytes(".npy", &npy(shape, &attribution.to_vec()?)?)?;
    }
    if args.output.save.contains(&Format::Safetensors) {
        results.bytes(".safetensors", &safetensors(attribution, &map)?)?;
    }
    results.finish(&mut report, ".json", &args.output.save)?;
    Ok(report)
}

/// What is known of an attribution of one row, without files.
pub fn describe(
    input: &Input,
    loaded: &Loaded,
    attribution: &Attribution<4>,
    reduction: Reduction,
) -> Result<MapReport, Error> {
    let statistics = Statistics::of(attribution.maps(reduction)?[0].values())?;
    let (predicted, explained) = ClassReport::of(loaded, attribution)?;
    Ok(MapReport {
        image: input.path.clone(),
        model: loaded.name.clone(),
        device: crate::device::describe(&loaded.device),
        predicted,
        explained,
        target: attribution.targets[0].clone(),
        score: attribution.scores[0],
        recipe: attribution.recipe.clone(),
        trust: Trust::of(attribution)?,
        reduction,
        statistics,
        readings: statistics
            .readings()
            .iter()
            .map(|r| r.to_string())
            .collect(),
        files: Vec::new(),
    })
}

/// `smoothgrad: tiger cat 62.0 %`
pub fn title(report: &MapReport) -> String {
    let method = report.recipe.name();
    match &report.explained {
        Some(class) => format!("{method}: {}", class.caption()),
        None => method,
    }
}

fn summary(reports: &[MapReport]) -> String {
    let rows = reports.iter().map(|r| {
        let name = |p: &PathBuf| p.display().to_string();
        vec![
            name(&r.image),
            r.predicted.caption(),
            r.explained
                .as_ref()
                .map_or_else(String::new, ClassReport::caption),
            report::number(r.score),
            r.trust.words(),
            r.files.iter().map(name).collect::<Vec<_>>().join("\n"),
        ]
    });
    let first = &reports[0];
    format!(
        "{} on {}, {}\n{}",
        first.model,
        first.device,
        first.recipe.name(),
        report::table(
            &[
                "image",
                "predicted",
                "explained",
                "score",
                "trust",
                "written"
            ],
            rows
        )
    )
}

/// Values of a shape in numpy's format.
pub fn npy(shape: &[usize], values: &[f32]) -> Result<Vec<u8>, Error> {
    use npyz::WriterBuilder;
    let shape: Vec<u64> = shape.iter().map(|&d| d as u64).collect();
    let mut bytes = Vec::new();
    let fail = |e: std::io::Error| Error::Internal(e.to_string());
    let mut writer = npyz::WriteOptions::new()
        .default_dtype()
        .shape(&shape)
        .writer(&mut bytes)
        .begin_nd()
        .map_err(fail)?;
    writer.extend(values.iter().copied()).map_err(fail)?;
    writer.finish().map_err(fail)?;
    Ok(bytes)
}

/// `attribution` [C, H, W] and `map` [H, W].
fn safetensors(attribution: &Attribution<4>, map: &saliency_core::Map) -> Result<Vec<u8>, Error> {
    use safetensors::{Dtype, tensor::TensorView};
    let bytes =
        |values: &[f32]| -> Vec<u8> { values.iter().flat_map(|v| v.to_le_bytes()).collect() };
    let shape = attribution.values.dims()[1..].to_vec();
    let (values, reduced) = (bytes(&attribution.to_vec()?), bytes(map.values()));
    let view = |shape, data| {
        TensorView::new(Dtype::F32, shape, data).map_err(|e| Error::Internal(e.to_string()))
    };
    let views = [
        ("attribution", view(shape, &values)?),
        ("map", view(vec![map.height(), map.width()], &reduced)?),
    ];
    safetensors::serialize(views, None).map_err(|e| Error::Internal(e.to_string()))
}
