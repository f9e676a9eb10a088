//! What training makes of public credit files and price series, where the folder of test material
//! is there.

use std::{ops::ControlFlow, path::Path};

use burn::tensor::Device;
use saliency_models::{
    data::{CsvOptions, Missing, Quantity, SchemaOptions},
    predictor::Family,
    train::{SequenceOptions, TaskKind, TrainOptions, Trained, train},
};

use crate::parity::{announce, material};

fn trained(options: &TrainOptions, path: &Path) -> Trained {
    train(options, path, &Device::flex(), &mut |_| {
        ControlFlow::Continue(())
    })
    .unwrap()
}

/// A short training whose scores are finite.
fn series(name: &str, options: &TrainOptions, path: &Path) -> Trained {
    let mut options = options.clone();
    options.hidden = Some(8);
    options.epochs = 3;
    let trained = trained(&options, path);
    let scores = trained.description.test.named();
    assert!(
        scores.iter().all(|(_, score)| score.is_finite()),
        "{name}: {scores:?}"
    );
    announce(&format!(
        "{name}: {scores:.4?} {:?}",
        trained.description.notes
    ));
    trained
}

#[test]
fn price_series_are_trained_on() {
    if let Some(path) = material("finance/vix_daily.csv") {
        let mut options = TrainOptions::new("CLOSE");
        options.sequence = Some(SequenceOptions {
            horizon: vec![1, 5],
            quantity: Quantity::Change,
            ..SequenceOptions::new(20)
        });
        let trained = series("VIX", &options, &path);
        assert_eq!(
            trained.layout().output_names(),
            ["change of CLOSE t+1", "change of CLOSE t+5"]
        );
        let window = trained.layout().window.as_ref().unwrap();
        assert_eq!(window.time.as_deref(), Some("DATE"));
    }
    if let Some(path) = material("finance/aapl_daily_plotly.csv") {
        let mut options = TrainOptions::new("direction");
        options.family = Some(Family::Tcn);
        options.sequence = Some(SequenceOptions::new(10));
        options.drop = vec!["dn".into(), "up".into()];
        let trained = series("AAPL", &options, &path);
        assert_eq!(
            trained.layout().output_names(),
            ["Decreasing", "Increasing"]
        );
    }
}

/// The newest rows of this file hold zeros for what is not known yet, the oldest for what
/// could not be computed. As they are, the report says so; declared as empty and dropped,
/// they are in no window.
#[test]
fn zeros_that_mean_unknown_are_left_out() {
    let Some(path) = material("finance/sp500_monthly_shiller.csv") else {
        return;
    };
    let mut options = TrainOptions::new("SP500");
    options.family = Some(Family::Gru);
    options.sequence = Some(SequenceOptions {
        quantity: Quantity::Return,
        ..SequenceOptions::new(12)
    });
    let as_it_is = series("S&P", &options, &path);
    let says = |trained: &Trained, what: &str| {
        trained
            .description
            .notes
            .iter()
            .any(|note| note.contains(what))
    };
    assert!(says(&as_it_is, "column Earnings is 0 in the last 36 rows"));
    assert!(says(&as_it_is, "--absent 0 --missing drop"));
    assert!(says(&as_it_is, "SP500, "));
    assert!(says(&as_it_is, "more than 3 training deviations"));

    options.schema = SchemaOptions {
        absent: vec!["0".into()],
        ..SchemaOptions::default()
    };
    options.missing = Missing::Drop;
    let dropped = series("S&P without zeros", &options, &path);
    assert!(says(&dropped, "rows with an empty cell were left out"));
    assert!(!says(&dropped, "is 0 in the last"));
    let samples = dropped
        .layout()
        .samples(&path, &CsvOptions::default())
        .unwrap();
    let last = samples.map(Result::unwrap).last().unwrap();
    // PE10 starts ten years after the file, and 36 months at the end have zeros.
    assert_eq!(last.times.last().unwrap(), "2023-06-01");
}

#[test]
fn a_target_of_two_numbers_is_a_class() {
    let Some(path) = material("finance/german.data") else {
        return;
    };
    let mut options = TrainOptions::new("c21");
    options.csv.header = false;
    options.epochs = 1;
    options.family = Some(Family::Linear);
    assert_eq!(trained(&options, &path).layout().output_names(), ["1", "2"]);
    options.task = Some(TaskKind::Regression);
    assert_eq!(trained(&options, &path).layout().output_names(), ["c21"]);
}
