use std::path::PathBuf;

use saliency_core::{
    Attribution, Method, Recipe, Reduction, Statistics,
    analysis::{Classes, compare_classes},
};
use saliency_models::photo::RgbImage;
use saliency_viz::{Style, aggregations, save_png, signed, standard};

use crate::{
    args::{Explain, Format, ReduceChoice, TargetChoice},
    error::Error,
    files,
    inputs::{self, Input},
    model::{self, Loaded},
    progress,
    report::{self, ClassReport, MapReport},
};

pub fn run(args: &Explain) -> Result<(), Error> {
    let inputs = inputs::collect(&args.images)?;
    let recipe = model::recipe(&args.method)?;
    let loaded = Loaded::from_args(&args.model)?;
    let writes = args.output.save.iter().any(|f| *f != Format::None);
    if writes {
        files::folder(&args.output.out)?;
    }
    let reports = each(&inputs, |input| {
        let (view, attribution) = explain(args, input, &loaded, &recipe)?;
        let rows = attribution.targets.len();
        (0..rows)
            .map(|row| write_row(args, input, &loaded, &view, &attribution, row))
            .collect::<Result<Vec<_>, Error>>()
    });
    let (reports, failure) = reports;
    let reports: Vec<MapReport> = reports.into_iter().flatten().collect();
    match args.output.json {
        true => report::print_json(&reports)?,
        false if !reports.is_empty() => report::print(&summary(&reports)),
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
                eprintln!("error: {}: {error}", input.path.display());
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

/// Describes one row, and writes what was asked for.
fn write_row(
    args: &Explain,
    input: &Input,
    loaded: &Loaded,
    view: &RgbImage,
    attribution: &Attribution<4>,
    row: usize,
) -> Result<MapReport, Error> {
    let reduction = args.reduce.main();
    let map = attribution.maps(reduction)?.swap_remove(row);
    let mut report = describe(input, loaded, attribution, row, reduction)?;
    let recipe = report.recipe.name().replace(' ', "-");
    let stem = match report
        .explained
        .as_ref()
        .filter(|_| attribution.targets.len() > 1)
    {
        Some(class) => format!("{}-{recipe}-{}", input.name, slug(&class.label)),
        None => format!("{}-{recipe}", input.name),
    };
    let path = |suffix: &str| args.output.out.join(format!("{stem}{suffix}"));
    let title = title(&report);
    let style = Style::default();
    let mut files = Vec::new();
    if args.output.save.contains(&Format::Png) {
        let picture = standard(view, &report::grid(&map)?, &title, &style)?;
        files.push(path(".png"));
        save_png(&picture, &files[files.len() - 1])?;
        if !model::is_unsigned(&report.recipe) {
            let (positive, negative) = attribution.signed_maps()?.swap_remove(row);
            let (positive, negative) = (report::grid(&positive)?, report::grid(&negative)?);
            let picture = signed(view, &positive, &negative, &title, &style)?;
            files.push(path("-signed.png"));
            save_png(&picture, &files[files.len() - 1])?;
        }
        if args.reduce == ReduceChoice::All {
            let items = Reduction::ALL
                .into_iter()
                .map(|r| {
                    let map = attribution.maps(r)?.swap_remove(row);
                    Ok((r.to_string(), report::grid(&map)?))
                })
                .collect::<Result<Vec<_>, Error>>()?;
            files.push(path("-reductions.png"));
            save_png(
                &aggregations(view, &items, &title, &style)?,
                &files[files.len() - 1],
            )?;
        }
    }
    if args.output.save.contains(&Format::Npy) {
        files.push(path(".npy"));
        let values = attribution.values.clone().narrow(0, row, 1);
        files::write(&files[files.len() - 1], &npy(values)?)?;
    }
    if args.output.save.contains(&Format::Safetensors) {
        files.push(path(".safetensors"));
        let values = attribution.values.clone().narrow(0, row, 1);
        files::write(&files[files.len() - 1], &safetensors(values, &map)?)?;
    }
    if args.output.save.contains(&Format::Json) {
        files.push(path(".json"));
    }
    report.files = files;
    if args.output.save.contains(&Format::Json) {
        files::write(&path(".json"), report::to_json(&report)?.as_bytes())?;
    }
    Ok(report)
}

/// What is known of one row, without files.
pub fn describe(
    input: &Input,
    loaded: &Loaded,
    attribution: &Attribution<4>,
    row: usize,
    reduction: Reduction,
) -> Result<MapReport, Error> {
    let map = attribution.maps(reduction)?.swap_remove(row);
    let statistics = Statistics::of(map.values())?;
    let probabilities = attribution.probabilities()?.swap_remove(row);
    let target = attribution.targets[row].clone();
    Ok(MapReport {
        image: input.path.clone(),
        model: loaded.name.clone(),
        device: crate::device::describe(&loaded.device),
        predicted: ClassReport::best(loaded, &probabilities),
        explained: target
            .class()
            .map(|class| ClassReport::new(loaded, class, &probabilities)),
        target,
        score: attribution.scores[row],
        recipe: attribution.recipe.clone(),
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
            &["image", "predicted", "explained", "score", "written"],
            rows
        )
    )
}

/// The signed attribution [C, H, W] of one row in numpy's format.
fn npy(values: burn::tensor::Tensor<4>) -> Result<Vec<u8>, Error> {
    use npyz::WriterBuilder;
    let [_, channels, height, width] = values.dims();
    let values = host(values)?;
    let mut bytes = Vec::new();
    let fail = |e: std::io::Error| Error::Internal(e.to_string());
    let mut writer = npyz::WriteOptions::new()
        .default_dtype()
        .shape(&[channels as u64, height as u64, width as u64])
        .writer(&mut bytes)
        .begin_nd()
        .map_err(fail)?;
    writer.extend(values).map_err(fail)?;
    writer.finish().map_err(fail)?;
    Ok(bytes)
}

/// `attribution` [C, H, W] and `map` [H, W].
fn safetensors(
    values: burn::tensor::Tensor<4>,
    map: &saliency_core::Map,
) -> Result<Vec<u8>, Error> {
    use safetensors::{Dtype, tensor::TensorView};
    let [_, channels, height, width] = values.dims();
    let bytes =
        |values: &[f32]| -> Vec<u8> { values.iter().flat_map(|v| v.to_le_bytes()).collect() };
    let (attribution, map) = (bytes(&host(values)?), bytes(map.values()));
    let fail = |e: safetensors::SafeTensorError| Error::Internal(e.to_string());
    let views = [
        (
            "attribution",
            TensorView::new(Dtype::F32, vec![channels, height, width], &attribution)
                .map_err(fail)?,
        ),
        (
            "map",
            TensorView::new(Dtype::F32, vec![height, width], &map).map_err(fail)?,
        ),
    ];
    safetensors::serialize(views, None).map_err(fail)
}

fn host(values: burn::tensor::Tensor<4>) -> Result<Vec<f32>, Error> {
    values
        .try_into_vec_as()
        .map_err(|e| Error::Internal(e.to_string()))
}

/// A label as part of a file name.
fn slug(label: &str) -> String {
    label
        .to_lowercase()
        .chars()
        .map(|c| if c.is_alphanumeric() { c } else { '-' })
        .collect()
}
