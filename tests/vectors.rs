//! Every method on tables `[N, F]` and series `[N, T, F]`: which apply, what the others say,
//! and the same values on every backend.

use burn::tensor::{Device, Tensor};
use saliency_core::{
    Attribution, BatchSize, Error, Graph, Method, Model, Recipe, Reduction, Run, Target,
};

use crate::{
    golden::{self, relative_l2, vectors},
    parity::{ndarray, wgpu},
};

/// A method with its default options but for those that make it slow, and for a baseline that
/// a table can have.
fn recipe<const D: usize>(name: &str) -> Recipe {
    let few = |recipe: Recipe, option: &str, to: u64| match recipe.options().contains_key(option) {
        true => recipe.with(option, to).unwrap(),
        false => recipe,
    };
    let recipe = few(Recipe::named(name).unwrap(), "samples", 6);
    let recipe = few(recipe, "steps", 5);
    match (&recipe, D) {
        (Recipe::MeaningfulPerturbation(_), 2) => recipe.with("baseline", "zero").unwrap(),
        (Recipe::ExtremalPerturbation(_), 2) => recipe
            .with("perturbation", serde_json::json!({"fade": {"to": "zero"}}))
            .unwrap(),
        _ => recipe,
    }
}

fn explain<const D: usize>(
    name: &str,
    model: &Graph,
    input: &Tensor<D>,
) -> Result<Attribution<D>, Error> {
    let run = Run::new().batch_size(BatchSize::Rows(8));
    recipe::<D>(name).explain_with(model, input.clone(), &Target::Predicted, &run)
}

/// `yes`, or why not, in one short line.
fn applies<const D: usize>(name: &str, model: &Graph, input: &Tensor<D>) -> String {
    match explain(name, model, input) {
        Ok(map) => {
            let (got, full) = (map.values.dims(), input.dims());
            let mut one_channel = full;
            one_channel[D - 1] = 1;
            let values = golden::host(map.values);
            match got {
                _ if values.iter().all(|v| *v == 0.0) => "zero everywhere".into(),
                got if got == full => "yes".into(),
                got if D == 3 && got == one_channel => "per step".into(),
                got => panic!("{name}: {got:?}"),
            }
        }
        Err(error) => {
            let text = error.to_string();
            assert!(!text.contains('\n') && text.len() < 300, "{name}: {text}");
            format!("no: {}", text.replace('|', "/"))
        }
    }
}

/// `just ranks` prints what applies where.
#[test]
fn methods_apply_to_tables_and_series_or_say_why_not() {
    let (table, rows) = vectors::table();
    let (convolution, windows) = vectors::convolution();
    let (lstm, sequences) = vectors::lstm();
    let mut found = String::from("| method | table | convolution | LSTM |\n|---|---|---|---|\n");
    for method in Recipe::METHODS {
        found += &format!(
            "| `{}` | {} | {} | {} |\n",
            method.name,
            applies(method.name, &table, &rows),
            applies(method.name, &convolution, &windows),
            applies(method.name, &lstm, &sequences)
        );
    }
    println!("{found}");
    for name in [
        "gradient",
        "input-x-gradient",
        "smoothgrad",
        "integrated-gradients",
        "deeplift",
        "lrp",
        "gradient-shap",
        "occlusion",
        "feature-ablation",
        "shapley",
        "kernel-shap",
        "lime",
        "feature-permutation",
    ] {
        let line = format!("| `{name}` | yes | yes | yes |\n");
        assert!(found.contains(&line), "{name} must apply to all: {found}");
    }
}

/// A series of one value for each step may be `[N, T]` or `[N, T, 1]`.
#[test]
fn series_of_one_value_need_no_third_axis() {
    let (graph, rows) = vectors::table();
    let flat = |x: Tensor<2>| Model::<2>::forward(&graph, x);
    let deep = |x: Tensor<3>| Model::<2>::forward(&graph, x.squeeze_dim(2));
    for name in [
        "gradient",
        "input-x-gradient",
        "smoothgrad",
        "integrated-gradients",
        "gradient-shap",
        "occlusion",
        "feature-ablation",
        "shapley",
        "kernel-shap",
        "lime",
        "feature-permutation",
    ] {
        let target = Target::Predicted;
        let recipe = match name {
            "occlusion" => Recipe::named(name).unwrap().with("window", [2]).unwrap(),
            _ => recipe::<2>(name),
        };
        let want = recipe.explain(&flat, rows.clone(), target.clone()).unwrap();
        let series = rows.clone().unsqueeze_dim(2);
        let got = recipe.explain(&deep, series, target).unwrap();
        let steps = golden::host(got.steps(Reduction::Sum));
        let (got, want) = (golden::host(got.values), golden::host(want.values));
        let error = relative_l2(&got, &want);
        assert!(error < 1e-6, "{name}: {error:.1e}");
        assert!(
            steps
                .iter()
                .zip(&want)
                .all(|(s, w)| (s - w.abs()).abs() < 1e-6)
        );
    }
}

/// How many methods were compared.
fn assert_parity<const D: usize>(
    (network, graph): (&str, &Graph),
    input: &Tensor<D>,
    device: &Device,
) -> usize {
    let there = graph.to_device(device);
    let (mut wrong, mut compared) = (Vec::new(), 0);
    for method in Recipe::METHODS {
        let Ok(want) = explain(method.name, graph, input) else {
            continue;
        };
        compared += 1;
        let got = explain(method.name, &there, &input.clone().to_device(device)).unwrap();
        assert_eq!(got.targets, want.targets, "{network} {}", method.name);
        let (got, want) = (golden::host(got.values), golden::host(want.values));
        // A mask of few columns may be empty.
        let error = match got == want {
            true => 0.0,
            false => relative_l2(&got, &want),
        };
        println!("{network} {}: {error:.1e}", method.name);
        if error.is_nan() || error > 1e-4 {
            wrong.push(format!("{network} {}: {error:.1e}", method.name));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    compared
}

fn assert_all(device: &Device) {
    let (graph, input) = vectors::table();
    assert!(assert_parity(("mlp", &graph), &input, device) > 40);
    let (graph, input) = vectors::convolution();
    assert!(assert_parity(("series", &graph), &input, device) > 60);
    let (graph, input) = vectors::lstm();
    assert!(assert_parity(("lstm", &graph), &input, device) > 40);
}

#[test]
fn vectors_on_ndarray_agree_with_flex() {
    assert_all(&ndarray());
}

#[test]
fn vectors_on_wgpu_agree_with_flex() {
    if let Some(device) = wgpu() {
        assert_all(&device);
    }
}
