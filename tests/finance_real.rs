//! Linear models of public credit data: explanations rank the columns as the coefficients do.

use std::{
    fs,
    ops::ControlFlow,
    path::{Path, PathBuf},
};

use burn::tensor::{Device, Tensor};
use saliency_core::{
    Baseline, Columns, Graph, IntegratedGradients, Method, Model, Recipe, Run, Shapley, Target,
    analysis::{Importance, spearman},
};
use saliency_models::{
    data::{CsvOptions, Missing, Sample},
    predictor::Family,
    saved::SavedModel,
    train::{TrainOptions, train},
};

use crate::parity::announce;

fn data(name: &str) -> Option<PathBuf> {
    let folder = std::env::var_os("SALIENCY_DATA").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data"),
        PathBuf::from,
    );
    let path = folder.join("finance").join(name);
    if path.is_file() {
        return Some(path);
    }
    announce(&format!("SKIPPED finance_real: no file {}", path.display()));
    None
}

fn linear(data: &Path, csv: CsvOptions, target: &str, drop: &[&str]) -> (SavedModel, Vec<Sample>) {
    let mut options = TrainOptions::new(target);
    options.family = Some(Family::Linear);
    options.drop = drop.iter().map(|name| name.to_string()).collect();
    options.csv = csv.clone();
    options.missing = Missing::Mean;
    options.epochs = 30;
    let folder = tempfile::tempdir().unwrap();
    let trained = train(&options, data, &Device::flex(), &mut |_| {
        ControlFlow::Continue(())
    });
    trained.unwrap().save(folder.path(), "a test").unwrap();
    let model = SavedModel::load(folder.path(), &Device::flex()).unwrap();
    let samples = model.layout().samples(data, &csv).unwrap();
    let samples = samples.take(4096).collect::<Result<_, _>>().unwrap();
    (model, samples)
}

/// Of each source column the standard deviation, over the rows, of its part of the log-odds:
/// |coefficient| times standard deviation for a number. Coefficients are differences of the
/// model's own outputs, which are exact for a linear model.
fn coefficients_times_deviations(model: &Graph, rows: &Tensor<2>, columns: &Columns) -> Vec<f64> {
    let [count, width] = rows.dims();
    let device = rows.device();
    let log_odds = |x: Tensor<2>| -> Vec<f64> {
        let outputs = Model::<2>::forward(model, x)
            .try_into_vec_as::<f64>()
            .unwrap();
        outputs.chunks(2).map(|o| o[1] - o[0]).collect()
    };
    let zero = log_odds(Tensor::zeros([1, width], &device))[0];
    let unit = log_odds(Tensor::<2>::eye(width, &device));
    let weights: Vec<f64> = unit.iter().map(|u| u - zero).collect();
    let values = rows.clone().try_into_vec_as::<f64>().unwrap();
    let mut parts = vec![Vec::with_capacity(count); columns.sources().len()];
    for row in values.chunks(width) {
        let terms: Vec<f64> = row.iter().zip(&weights).map(|(x, w)| x * w).collect();
        for (part, sum) in parts.iter_mut().zip(columns.summed(&terms)) {
            part.push(sum);
        }
    }
    let deviation = |part: &Vec<f64>| {
        let mean = part.iter().sum::<f64>() / count as f64;
        (part.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / count as f64).sqrt()
    };
    parts.iter().map(deviation).collect()
}

fn assert_ranks(name: &str, model: &SavedModel, samples: &[Sample]) {
    let encoder = &model.layout().encoder;
    let sources = encoder.column_names();
    let features = encoder.features();
    let columns = Columns::grouped(features.iter().map(|f| (&f.name, &sources[f.column])));
    let rows = model.table(samples);
    let want = coefficients_times_deviations(model.graph(), &rows, &columns);
    let reference = Baseline::Values {
        values: encoder.reference(),
    };
    let methods = [
        Recipe::IntegratedGradients(IntegratedGradients::new().baseline(reference.clone())),
        Recipe::Shapley(
            Shapley::new()
                .samples(10)
                .features(columns.features(1))
                .baseline(reference.clone()),
        ),
        Recipe::named("input-x-gradient").unwrap(),
        Recipe::named("deeplift")
            .unwrap()
            .with("baselines", serde_json::json!([reference]))
            .unwrap(),
    ];
    for method in methods {
        // Sampled orders of many rows take long.
        let most = if matches!(method, Recipe::Shapley(_)) {
            300
        } else {
            samples.len()
        };
        let few = rows.clone().narrow(0, 0, most.min(samples.len()));
        let log_odds = Target::Weighted(vec![-1.0, 1.0]);
        let map = method
            .explain_with(model.graph(), few, &log_odds, &Run::new())
            .unwrap()
            .with_columns(columns.clone())
            .unwrap();
        let mut importance = Importance::new(columns.sources());
        for row in map.contributions().unwrap() {
            importance.add(&row).unwrap();
        }
        let got: Vec<f32> = importance
            .in_order()
            .iter()
            .map(|f| f.magnitude.mean as f32)
            .collect();
        let want: Vec<f32> = want.iter().map(|&v| v as f32).collect();
        let rank = spearman(&got, &want);
        announce(&format!(
            "{name}: {}: Spearman {rank:.3} over {} columns",
            method.name(),
            got.len()
        ));
        // Others start from zero, or look at fewer rows.
        let is_reference = matches!(method, Recipe::IntegratedGradients(_));
        assert!(!is_reference || rank >= 0.9, "{name}: {rank}");
    }
}

#[test]
fn german_credit_ranks_as_its_coefficients() {
    let Some(path) = data("german.data") else {
        return;
    };
    let csv = CsvOptions {
        header: false,
        ..CsvOptions::default()
    };
    let (model, samples) = linear(&path, csv, "c21", &[]);
    assert_ranks("German credit", &model, &samples);
}

#[test]
fn card_default_ranks_as_its_coefficients() {
    let Some(path) = data("UCI_Credit_Card.csv") else {
        return;
    };
    let text = fs::read_to_string(&path).unwrap();
    assert!(text.starts_with("ID,"));
    let (model, samples) = linear(
        &path,
        CsvOptions::default(),
        "default.payment.next.month",
        &["ID"],
    );
    assert_ranks("credit-card default", &model, &samples);
}
