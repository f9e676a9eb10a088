//! Models of generated data whose truth is known, explained by every method that applies,
//! and how well each method finds the truth.

mod measure;
mod page;

use std::{ops::ControlFlow, path::Path, time::Instant};

use burn::tensor::Device;
use saliency_core::{BatchSize, Evaluations, Family, Recipe};
use saliency_models::{
    data::{CsvOptions, Sample},
    generated::{credit, series},
    predictor,
    train::{SequenceOptions, TrainOptions, Trained, train},
};

use crate::{
    args::{DemoFinance, TargetChoice},
    device,
    error::Error,
    files, model,
    progress::{self, Bar},
    report,
    table::{Explained, Tabular},
};

/// Applicants and days to train on, and how many unseen ones are explained.
const APPLICANTS: u64 = 6000;
const DAYS: u64 = 4000;
/// Applicants that no model is trained on have numbers from here on.
const UNSEEN: u64 = 1_000_000;
/// Days of a window.
const STEPS: usize = 12;
/// What is explained: `yes` (default), and `up`, by log-odds.
const CLASS: TargetChoice = TargetChoice::Class(1);

/// What one method found, and what it took.
struct Found {
    recipe: Recipe,
    name: String,
    family: Option<Family>,
    explained: Vec<Explained>,
    seconds_per_sample: f64,
    evaluations: Evaluations,
}

/// A trained model, its unseen samples, and what every method says of them.
struct Study {
    trained: Trained,
    samples: Vec<Sample>,
    found: Vec<Found>,
    /// Methods that do not apply, and why.
    left_out: Vec<String>,
}

pub fn run(args: &DemoFinance) -> Result<(), Error> {
    let out = &args.out;
    files::folder(out)?;
    let device = device::open(&args.device)?;
    let started = Instant::now();
    let table = study_credit(args, &device)?;
    let sequence = study_series(args, &device)?;
    let credit = measure::credit(&table)?;
    let series = measure::series(&sequence);
    let scores = measure::Scores {
        credit: &credit,
        series: &series,
    };
    files::write(
        &out.join("scores.json"),
        report::to_json(&scores)?.as_bytes(),
    )?;
    files::write(&out.join("scores.md"), page::markdown(&scores).as_bytes())?;
    let pictures = page::pictures(out, &table, &credit, &sequence, &series)?;
    let page = out.join("index.html");
    let html = page::html(&table, &sequence, &scores, &pictures);
    files::write(&page, html.into_string().as_bytes())?;
    report::print(&page::tables(&scores))?;
    report::print(&format!(
        "trained and explained in {:.0} s, on {}\nopen {}",
        started.elapsed().as_secs_f64(),
        device::describe(&device),
        std::path::absolute(&page).unwrap_or(page).display()
    ))
}

fn study_credit(args: &DemoFinance, device: &Device) -> Result<Study, Error> {
    let data = args.out.join("credit.csv");
    let unseen = args.out.join("credit-unseen.csv");
    let applicants = credit::Credit::new(args.seed);
    applicants.write_csv(&data, 0, APPLICANTS)?;
    applicants.write_csv(&unseen, UNSEEN, args.samples.into())?;
    let mut options = TrainOptions::new(credit::TARGET);
    options.family = Some(predictor::Family::Mlp);
    options.seed = args.seed;
    study("credit", args, &options, &data, device, |tabular| {
        let samples = tabular.samples(&unseen, &CsvOptions::default())?;
        Ok(samples.collect::<Result<_, _>>()?)
    })
}

fn study_series(args: &DemoFinance, device: &Device) -> Result<Study, Error> {
    let data = args.out.join("series.csv");
    series::Series::new(args.seed).write_csv(&data, DAYS)?;
    let mut options = TrainOptions::new(series::TARGET);
    options.family = args.model;
    options.features = Some(series::COLUMNS.map(String::from).to_vec());
    options.sequence = Some(SequenceOptions {
        horizon: vec![0],
        ..SequenceOptions::new(STEPS)
    });
    options.rate = 0.005;
    options.epochs = 40;
    options.seed = args.seed;
    study("series", args, &options, &data, device, |tabular| {
        // The last days are the test part.
        let first = DAYS - u64::from(args.samples);
        let samples = tabular.samples(&data, &CsvOptions::default())?;
        let is_unseen = |sample: &Result<Sample, _>| {
            sample.as_ref().is_ok_and(|sample| sample.rows.1 > first) || sample.is_err()
        };
        Ok(samples.filter(is_unseen).collect::<Result<_, _>>()?)
    })
}

/// Trains on `data`, saves the model into the folder `name`, and explains samples by it.
fn study(
    name: &str,
    args: &DemoFinance,
    options: &TrainOptions,
    data: &Path,
    device: &Device,
    samples: impl FnOnce(&Tabular) -> Result<Vec<Sample>, Error>,
) -> Result<Study, Error> {
    let bar = Bar::new("epochs", options.epochs as u64);
    let message = format!("{name}: training");
    let trained = train(options, data, device, &mut |progress| {
        bar.set(&message, progress.epoch as u64, progress.epochs as u64);
        ControlFlow::Continue(())
    })?;
    drop(bar);
    let folder = args.out.join(name);
    trained.save(&folder, "saliency demo-finance")?;
    let tabular = Tabular::load(
        &folder.to_string_lossy(),
        device.clone(),
        BatchSize::default(),
    )?;
    let samples = samples(&tabular)?;
    let (mut found, mut left_out) = (Vec::new(), Vec::new());
    for recipe in model::demo_methods(false) {
        let name = recipe.name();
        match explain(&tabular, &samples, &recipe) {
            Ok(one) => found.push(one),
            Err(error) => left_out.push(format!("{name}: {error}")),
        }
    }
    Ok(Study {
        trained,
        samples,
        found,
        left_out,
    })
}

fn explain(tabular: &Tabular, samples: &[Sample], recipe: &Recipe) -> Result<Found, Error> {
    let recipe = tabular.fitted(recipe.clone(), |_| false)?;
    let name = match (&recipe, recipe.info()) {
        // Its forms have names of their own.
        (Recipe::SmoothGrad(_), _) | (_, None) => recipe.name(),
        (_, Some(info)) => info.name.into(),
    };
    let label = name.clone();
    let progress = progress::callback(&label);
    let run = saliency_core::Run::new().progress(&progress);
    let started = Instant::now();
    let explained = tabular.explain(samples, &CLASS, &recipe, &run)?;
    let seconds = started.elapsed().as_secs_f64();
    let steps = tabular.steps();
    for one in &explained {
        let is_whole = one.attribution.columns == tabular.columns;
        let per_step = one.attribution.sources.len() == steps && tabular.is_sequence();
        let fits = one.attribution.sources.len() == steps;
        if !(per_step || is_whole && fits) {
            return Err(Error::Usage(
                "its map is of a layer, not of the input".into(),
            ));
        }
    }
    Ok(Found {
        family: recipe.info().map(|info| info.family),
        evaluations: explained
            .first()
            .map(|e| e.trust.evaluations)
            .unwrap_or_default(),
        seconds_per_sample: seconds / samples.len() as f64,
        recipe,
        name,
        explained,
    })
}
