//! Every method on tables `[N, F]` and series `[N, T, F]`: which apply, what the others say,
//! and the same values on every backend.

use burn::tensor::{Device, Tensor};
use saliency_core::{
    Attribution, BatchSize, Error, Family, Graph, Method, Model, Recipe, Run, Target,
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
) -> Result<Attribution<D>, Error>
where
    Graph: Model<D>,
{
    let run = Run::new().batch_size(BatchSize::Rows(8));
    recipe::<D>(name).explain_with(model, input.clone(), &Target::Predicted, &run)
}

/// What a method says where it does not apply, by a part of it; `None` where it does.
type Refusal = fn(&str, Family) -> Option<&'static str>;

fn assert_applies<const D: usize>(
    (network, graph): (&str, &Graph),
    input: &Tensor<D>,
    refusal: Refusal,
) where
    Graph: Model<D>,
{
    let mut wrong = Vec::new();
    for method in Recipe::METHODS {
        let found = explain(method.name, graph, input);
        let wanted = refusal(method.name, method.family);
        match (found, wanted) {
            (Ok(map), None) => {
                let (got, full) = (map.values.dims(), input.dims());
                let one_channel = {
                    let mut one = full;
                    one[D - 1] = 1;
                    one
                };
                if got != full && (D == 2 || got != one_channel) {
                    wrong.push(format!("{}: shape {got:?}", method.name));
                }
                let values = golden::host(map.values);
                if values.iter().all(|v| *v == 0.0) {
                    wrong.push(format!("{}: zero everywhere", method.name));
                }
            }
            (Err(error), Some(part)) => {
                let text = error.to_string();
                if !text.contains(part) || text.contains('\n') || text.len() > 300 {
                    wrong.push(format!("{}: {text}", method.name));
                }
            }
            (Ok(_), Some(part)) => wrong.push(format!("{}: applies, not {part}", method.name)),
            (Err(error), None) => wrong.push(format!("{}: {error}", method.name)),
        }
    }
    assert!(wrong.is_empty(), "{network}:\n{}", wrong.join("\n"));
}

fn on_tables(name: &str, family: Family) -> Option<&'static str> {
    match (name, family) {
        _ => None,
    }
}

fn on_convolutions(name: &str, family: Family) -> Option<&'static str> {
    match (name, family) {
        _ => None,
    }
}

fn on_recurrent(name: &str, family: Family) -> Option<&'static str> {
    match (name, family) {
        _ => None,
    }
}

#[test]
fn methods_apply_to_tables_or_say_why_not() {
    let (graph, input) = vectors::table();
    assert_applies(("mlp", &graph), &input, on_tables);
}

#[test]
fn methods_apply_to_convolutions_over_time_or_say_why_not() {
    let (graph, input) = vectors::convolution();
    assert_applies(("series", &graph), &input, on_convolutions);
}

#[test]
fn methods_apply_to_an_lstm_or_say_why_not() {
    let (graph, input) = vectors::lstm();
    assert_applies(("lstm", &graph), &input, on_recurrent);
}

fn assert_parity<const D: usize>(
    (network, graph): (&str, &Graph),
    input: &Tensor<D>,
    device: &Device,
    refusal: Refusal,
) where
    Graph: Model<D>,
{
    let there = graph.to_device(device);
    let mut wrong = Vec::new();
    for method in Recipe::METHODS {
        if refusal(method.name, method.family).is_some() {
            continue;
        }
        let want = explain(method.name, graph, input).unwrap();
        let got = explain(method.name, &there, &input.clone().to_device(device)).unwrap();
        assert_eq!(got.targets, want.targets, "{network} {}", method.name);
        let error = relative_l2(&golden::host(got.values), &golden::host(want.values));
        println!("{network} {}: {error:.1e}", method.name);
        if error.is_nan() || error > 1e-4 {
            wrong.push(format!("{network} {}: {error:.1e}", method.name));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn assert_all(device: &Device) {
    let (graph, input) = vectors::table();
    assert_parity(("mlp", &graph), &input, device, on_tables);
    let (graph, input) = vectors::convolution();
    assert_parity(("series", &graph), &input, device, on_convolutions);
    let (graph, input) = vectors::lstm();
    assert_parity(("lstm", &graph), &input, device, on_recurrent);
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
