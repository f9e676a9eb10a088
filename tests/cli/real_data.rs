//! `saliency train` on public credit files and price series, where the folder of test material
//! is there, beside scikit-learn's linear models on the same rows and windows.

use std::fmt::Write;

use serde_json::Value;

use super::Sandbox;
use crate::parity::{finance_section, material};

/// Figures of tests/reference/credit.py and tests/reference/prices.py.
const CREDIT: &str = include_str!("../golden/credit.json");
const PRICES: &str = include_str!("../golden/prices.json");

/// A file, and how its model is asked for.
struct Task {
    name: &'static str,
    title: &'static str,
    file: &'static str,
    args: &'static [&'static str],
}

impl Task {
    /// The content of `model.json`; `None` without the file.
    fn trained(&self, more: &[&str]) -> Option<Value> {
        let path = material(&format!("finance/{}", self.file))?;
        let start = [
            "train",
            "--data",
            path.to_str()?,
            "--out",
            "model",
            "--json",
        ];
        Some(Sandbox::new().json(&[&start[..], self.args, more].concat()))
    }
}

fn number(of: &Value, name: &str) -> f64 {
    of[name]
        .as_f64()
        .unwrap_or_else(|| panic!("no {name}: {of}"))
}

fn golden(text: &str, name: &str) -> Value {
    let mut all: Value = serde_json::from_str(text).unwrap();
    all[name].take()
}

const MEASURES: [&str; 3] = ["auc", "accuracy", "log_loss"];

/// Mean and each of the scores over the splits, by measure.
fn over_splits(splits: &[Value]) -> [Vec<f64>; 3] {
    MEASURES.map(|measure| splits.iter().map(|split| number(split, measure)).collect())
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

/// Scores of scikit-learn, a linear model and an MLP on the same splits of a credit file.
fn credit(task: &Task) -> Option<[[Vec<f64>; 3]; 3]> {
    let reference = golden(CREDIT, task.name);
    let splits = reference["splits"].as_array().unwrap();
    let own = |model: &str| -> Option<[Vec<f64>; 3]> {
        let train = |split: &Value| {
            let seed = split["seed"].to_string();
            let model = task.trained(&["--model", model, "--seed", &seed])?;
            assert_eq!(model["test"]["samples"], split["samples"], "{seed}");
            Some(model["test"].clone())
        };
        let found: Option<Vec<Value>> = splits.iter().map(train).collect();
        Some(over_splits(&found?))
    };
    let all = [over_splits(splits), own("linear")?, own("mlp")?];
    let mut text = format!(
        "## {}\n\n{} rows; the test rows of split 1, and the mean over those of {} splits.\n\n| | AUC | mean | accuracy | mean | log loss | mean |\n|---|---|---|---|---|---|---|\n",
        task.title,
        reference["rows"],
        splits.len()
    );
    let names = [
        "scikit-learn's logistic regression",
        "`--model linear`",
        "`--model mlp` (default)",
    ];
    for (name, scores) in names.iter().zip(&all) {
        write!(text, "| {name} |").unwrap();
        for of in scores {
            write!(text, " {:.4} | {:.4} |", of[0], mean(of)).unwrap();
        }
        text.push('\n');
    }
    finance_section(&format!("1-{}.md", task.name), &text);
    Some(all)
}

/// That the first split, and the mean of all, are as good as the reference's.
fn assert_reached(name: &str, own: &[Vec<f64>; 3], reference: &[Vec<f64>; 3]) {
    let [auc, accuracy, log_loss] = own;
    assert!(
        auc[0] >= reference[0][0] || accuracy[0] >= reference[1][0],
        "{name}: {own:?} {reference:?}"
    );
    // A fifth of the standard error of one split's AUC on card default.
    let slack = 0.002;
    assert!(mean(auc) >= mean(&reference[0]) - slack, "{name}: AUC");
    assert!(
        mean(accuracy) >= mean(&reference[1]) - slack,
        "{name}: accuracy"
    );
    assert!(
        mean(log_loss) <= mean(&reference[2]) + slack,
        "{name}: log loss"
    );
}

#[test]
fn german_credit_is_learned_as_well_as_by_logistic_regression() {
    let task = Task {
        name: "german",
        title: "German credit: training",
        file: "german.data",
        args: &["--no-header", "--target", "c21"],
    };
    let Some([reference, linear, _]) = credit(&task) else {
        return;
    };
    assert_reached("German credit", &linear, &reference);
    assert!(linear[0][0] >= reference[0][0] && linear[1][0] >= reference[1][0]);
}

#[test]
fn card_default_is_learned_better_than_by_logistic_regression() {
    let task = Task {
        name: "uci",
        title: "Credit-card default: training",
        file: "UCI_Credit_Card.csv",
        args: &[
            "--target",
            "default.payment.next.month",
            "--drop",
            "ID",
            "--missing",
            "mean",
        ],
    };
    let Some([reference, linear, mlp]) = credit(&task) else {
        return;
    };
    assert_reached("card default, linear", &linear, &reference);
    for (split, auc) in mlp[0].iter().enumerate() {
        assert!(*auc >= reference[0][split] + 0.02, "{split}: {auc}");
    }
    assert!(mean(&mlp[1]) >= mean(&reference[1]));
    assert!(mean(&mlp[2]) <= mean(&reference[2]) - 0.02);
}

const VIX: [&str; 4] = ["--target", "CLOSE", "--sequence", "20"];
const SP500: [&str; 8] = [
    "--target",
    "SP500",
    "--sequence",
    "12",
    "--absent",
    "0",
    "--missing",
    "drop",
];
const AAPL: [&str; 6] = [
    "--target",
    "AAPL.Close",
    "--sequence",
    "10",
    "--drop",
    "dn,mavg,up,direction",
];

/// Windows, split and targets are the reference's, and the scores no worse: accuracy or AUC and
/// log loss of directions, RMSE of numbers, on the validation and on the test windows.
#[test]
fn price_series_are_learned_as_well_as_by_linear_models() {
    let mut text = String::from(
        "## Price series: training\n\nWindows of the last 15 % of the rows are the test, those of the 15 % before the validation. Directions: accuracy / AUC / log loss. Numbers: R2, which is below zero where the mean would have been better. Nothing here predicts prices, and it should not: what counts is that the same windows give no worse a model. The S&P's columns are levels that grow for 150 years, and the report says so.\n\n| file | target, one row later | part | windows | scikit-learn | `--model linear` | `--model mlp` |\n|---|---|---|---|---|---|---|\n",
    );
    for (name, file, args, quantities) in [
        ("vix", "vix_daily.csv", &VIX[..], ["direction", "change"]),
        (
            "sp500",
            "sp500_monthly_shiller.csv",
            &SP500,
            ["direction", "return"],
        ),
        (
            "aapl",
            "aapl_daily_plotly.csv",
            &AAPL,
            ["direction", "return"],
        ),
    ] {
        for quantity in quantities {
            let task = Task {
                name,
                title: name,
                file,
                args,
            };
            let reference = golden(PRICES, &format!("{name} {quantity}"));
            let own = |model| task.trained(&["--target-as", quantity, "--model", model]);
            let (Some(linear), Some(mlp)) = (own("linear"), own("mlp")) else {
                return;
            };
            for part in ["validation", "test"] {
                let (want, got) = (&reference[part], &linear[part]);
                let what = format!("{name} {quantity}, {part}: {got} for {want}");
                assert_eq!(got["samples"], want["samples"], "{what}");
                let is_higher = |measure| number(got, measure) >= number(want, measure);
                if quantity == "direction" {
                    assert!(is_higher("accuracy") || is_higher("auc"), "{what}");
                    assert!(!is_higher("log_loss"), "{what}");
                } else {
                    assert!(!is_higher("rmse"), "{what}");
                }
                let columns = match quantity {
                    "direction" => ["accuracy", "auc", "log_loss"],
                    _ => ["r2", "", ""],
                };
                write!(
                    text,
                    "| {file} | {quantity} of {} | {part} | {} |",
                    args[1], want["samples"]
                )
                .unwrap();
                for scores in [want, got, &mlp[part]] {
                    let cells = columns.iter().filter(|c| !c.is_empty());
                    let cells: Vec<String> =
                        cells.map(|c| format!("{:.3}", number(scores, c))).collect();
                    let before = if cells.len() == 1 { "R2 " } else { "" };
                    write!(text, " {before}{} |", cells.join(" / ")).unwrap();
                }
                text.push('\n');
            }
        }
    }
    finance_section("2-prices.md", &text);
}
