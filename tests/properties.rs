//! What holds for every method on any network: axioms on small random networks and closed
//! forms on linear ones, all in f64.
//!
//! The table of axioms is in `properties/axioms.rs`. The networks are the same in every run;
//! `PROPTEST_CASES=200` looks at more of them.

mod axioms;
mod linear;
mod memory;
mod nets;

use std::fmt::Debug;

use burn::tensor::{DType, Tensor};
use proptest::{
    strategy::Strategy,
    test_runner::{Config, RngAlgorithm, TestCaseError, TestRng, TestRunner},
};
use saliency_core::{
    Attribution, BatchSize, Error, Family, InputXGradient, Method, Model, Recipe, Run, Target,
};
use serde_json::json;

use crate::golden::host;
use axioms::{Axiom, Precision, Whole, axioms, for_sums, keeps_sums, methods, unstabilised, with};
use linear::{Channels, Want};
use nets::{Act, Biases, Case, Inputs, ROWS, Spec, picture, series, specs, table};

/// Runs `test` on some random values, and more where `PROPTEST_CASES` says so.
fn on_random<S: Strategy>(strategy: S, cases: u32, test: impl Fn(S::Value, &mut Failures))
where
    S::Value: Debug,
{
    let asked = std::env::var("PROPTEST_CASES").ok();
    let config = Config {
        cases: asked.and_then(|n| n.parse().ok()).unwrap_or(cases),
        failure_persistence: None,
        // Each step is as slow as a case.
        max_shrink_iters: 4,
        ..Config::default()
    };
    let rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    let outcome = TestRunner::new_with_rng(config, rng).run(&strategy, |value| {
        let mut failures = Failures::default();
        test(value, &mut failures);
        match failures.0.is_empty() {
            true => Ok(()),
            false => Err(TestCaseError::fail(failures.0.join("\n"))),
        }
    });
    if let Err(error) = outcome {
        panic!("{error}");
    }
}

/// Everything that is wrong in one case, one line each.
#[derive(Default)]
struct Failures(Vec<String>);

impl Failures {
    fn check(&mut self, holds: bool, line: impl FnOnce() -> String) {
        if !holds {
            self.0.push(line());
        }
    }

    /// Relative to `want`, or to `scale` where that is larger.
    fn close(&mut self, what: &str, got: &[f64], want: &[f64], (tolerance, scale): (f64, f64)) {
        if got.len() != want.len() {
            self.0
                .push(format!("{what}: {} values, not {}", got.len(), want.len()));
            return;
        }
        let norm =
            |values: &mut dyn Iterator<Item = f64>| values.map(|v| v * v).sum::<f64>().sqrt();
        let apart = norm(&mut got.iter().zip(want).map(|(g, w)| g - w));
        let size = norm(&mut want.iter().copied()).max(scale);
        self.check(apart <= tolerance * size, || {
            format!("{what}: {:.1e} is above {tolerance:.0e}", apart / size)
        });
    }
}

/// Values below this are rounding, where there should be none.
const FLOOR: f64 = 1e-6;
/// In f64, with room for what is divided by small numbers.
const ROUNDING: (f64, f64) = (1e-7, FLOOR);

/// Checks the methods that have an axiom, and says of which method a failure is.
fn for_methods<const D: usize>(
    case: &Case<D>,
    failures: &mut Failures,
    has: impl Fn(&str, &[Axiom]) -> bool,
    check: impl Fn(&Recipe, &str, &mut Failures) -> Result<(), Error>,
) {
    for (name, recipe) in methods(D) {
        if !has(name, axioms(name)) {
            continue;
        }
        let before = failures.0.len();
        if let Err(error) = check(&recipe, name, failures) {
            failures.0.push(error.to_string());
        }
        for line in &mut failures.0[before..] {
            *line = format!("{name} on {D} axes: {line}");
        }
    }
    if !failures.0.is_empty() {
        failures.0.push(format!("{:?}", case.spec));
    }
}

fn explain<const D: usize>(
    case: &Case<D>,
    recipe: &Recipe,
    target: impl Into<Target>,
) -> Result<Attribution<D>, Error> {
    let run = Run::new().batch_size(BatchSize::Rows(1000));
    recipe.explain_with(&case.graph, case.x.clone(), &target.into(), &run)
}

fn values<const D: usize>(
    case: &Case<D>,
    recipe: &Recipe,
    target: impl Into<Target>,
) -> Result<Vec<f64>, Error> {
    Ok(host(explain(case, recipe, target)?.values))
}

fn is_perturbation(name: &str) -> bool {
    let info = Recipe::named(name).unwrap().info().unwrap();
    info.family == Family::Perturbation
}

fn sum_of(axioms: &[Axiom]) -> Option<(Whole, Precision)> {
    axioms.iter().find_map(|axiom| match axiom {
        Axiom::Sum(whole, precision) => Some((*whole, *precision)),
        _ => None,
    })
}

fn check_sums<const D: usize>(case: &Case<D>, failures: &mut Failures) {
    let score = |x: Tensor<D>| host(case.graph.forward(x).narrow(1, 0, 1));
    let (at_input, at_zero) = (score(case.x.clone()), score(case.x.zeros_like()));
    let has = |_: &str, axioms: &[Axiom]| sum_of(axioms).is_some();
    for_methods(case, failures, has, |recipe, name, failures| {
        if !keeps_sums(name, &case.spec) {
            return Ok(());
        }
        let Some((whole, precision)) = sum_of(axioms(name)) else {
            return Ok(());
        };
        let map = explain(case, &for_sums(recipe.clone()), 0)?;
        let Some(deltas) = map.evidence.delta else {
            failures.0.push("it does not say its delta".into());
            return Ok(());
        };
        let errors = map.evidence.standard_error.map(host);
        let values = host(map.values);
        let row = values.len() / ROWS;
        for (r, values) in values.chunks(row).enumerate() {
            let size = values.iter().map(|v| v.abs()).sum::<f64>() + at_input[r].abs();
            let allowed = match (precision, &errors) {
                (Precision::Sampled, Some(errors)) => {
                    5.0 * errors[r * row..][..row].iter().sum::<f64>() + 1e-7 * size
                }
                (Precision::Integral, _) => 0.03 * size,
                _ => 1e-7 * size,
            };
            let sum: f64 = values.iter().sum();
            let apart = match whole {
                Whole::Difference => sum - (at_input[r] - at_zero[r]),
                Whole::Score => sum - at_input[r],
                Whole::Told => deltas[r],
            };
            failures.check(apart.abs() <= allowed, || {
                format!("row {r}: {apart:.1e} of {size:.1e} is missing from the sum")
            });
            failures.check((deltas[r] - apart).abs() <= 1e-6 * size, || {
                format!("row {r}: it says {:.1e}, not {apart:.1e}", deltas[r])
            });
        }
        Ok(())
    });
}

#[test]
fn values_add_up() {
    on_random(specs(), 6, |spec, failures| {
        check_sums(&table(&spec), failures);
        check_sums(&series(&spec), failures);
        check_sums(&picture(&spec), failures);
    });
}

/// Features of a table are its columns; those of a picture are values whose superpixels and
/// samples treat channels alike, so perturbation methods are looked at on tables.
fn on_inputs(axiom: Axiom, rank: usize) -> impl Fn(&str, &[Axiom]) -> bool {
    move |name, axioms| axioms.contains(&axiom) && (rank == 2 || !is_perturbation(name))
}

/// What the values of one channel (column) of each row are.
fn channel(values: &[f64], channels: usize, channel: usize) -> Vec<f64> {
    let row = values.len() / ROWS;
    let places = row / channels;
    let of_row = |row: &[f64]| row[channel * places..][..places].to_vec();
    values.chunks(row).flat_map(of_row).collect()
}

fn check_dummies<const D: usize>(case: &Case<D>, failures: &mut Failures) {
    let channels = case.x.dims()[1];
    for_methods(
        case,
        failures,
        on_inputs(Axiom::Dummy, D),
        |recipe, _, failures| {
            let values = values(case, recipe, 1)?;
            let ignored = channel(&values, channels, channels - 1);
            let zeros = vec![0.0; ignored.len()];
            let size = values.iter().map(|v| v * v).sum::<f64>().sqrt().max(FLOOR);
            failures.close("what is not looked at", &ignored, &zeros, (1e-9, size));
            Ok(())
        },
    );
}

fn check_symmetry<const D: usize>(case: &Case<D>, failures: &mut Failures) {
    let channels = case.x.dims()[1];
    for_methods(
        case,
        failures,
        on_inputs(Axiom::Symmetric, D),
        |recipe, _, failures| {
            let values = values(case, recipe, 1)?;
            let [first, second] = [0, 1].map(|i| channel(&values, channels, i));
            failures.close("the second of two alike", &second, &first, ROUNDING);
            Ok(())
        },
    );
}

#[test]
fn inputs_that_do_not_count_get_nothing_and_like_ones_the_same() {
    let tied = specs().prop_map(|spec| Spec {
        inputs: Inputs::Tied,
        ..spec
    });
    on_random(tied, 6, |spec, failures| {
        let (table, picture) = (table(&spec), picture(&spec));
        check_dummies(&table, failures);
        check_dummies(&picture, failures);
        check_symmetry(&table, failures);
        check_symmetry(&picture, failures);
    });
}

fn check_additivity<const D: usize>(case: &Case<D>, failures: &mut Failures) {
    const WEIGHTS: [f64; 3] = [0.7, -1.3, 0.4];
    let has = |_: &str, axioms: &[Axiom]| axioms.contains(&Axiom::Additive);
    for_methods(case, failures, has, |recipe, _, failures| {
        let together = values(case, recipe, Target::Weighted(WEIGHTS.to_vec()))?;
        let mut sum = vec![0.0; together.len()];
        for (class, weight) in WEIGHTS.iter().enumerate() {
            for (sum, value) in sum.iter_mut().zip(values(case, recipe, class)?) {
                *sum += weight * value;
            }
        }
        failures.close("a weighted sum of scores", &together, &sum, ROUNDING);
        Ok(())
    });
}

#[test]
fn values_of_a_sum_of_scores_are_the_sum_of_their_values() {
    on_random(specs(), 4, |spec, failures| {
        check_additivity(&table(&spec), failures);
        check_additivity(&series(&spec), failures);
        check_additivity(&picture(&spec), failures);
    });
}

/// However the rows are split into batches, and whatever other rows there are.
fn check_splits<const D: usize>(case: &Case<D>, failures: &mut Failures) {
    for_methods(
        case,
        failures,
        |_, _| true,
        |recipe, name, failures| {
            let whole = explain(case, recipe, Target::Predicted)?;
            let wanted = host(whole.values.clone());
            for rows in [1, 2] {
                let run = Run::new().batch_size(BatchSize::Rows(rows));
                let x = case.x.clone();
                let split = recipe.explain_with(&case.graph, x, &Target::Predicted, &run)?;
                let what = format!("in batches of {rows}");
                failures.close(&what, &host(split.values), &wanted, ROUNDING);
                // Intervals of one batch share the gradients at their ends.
                let same =
                    split.evaluations == whole.evaluations || name.starts_with("layer-conductance");
                failures.check(same, || {
                    format!(
                        "{what}: {:?}, not {:?}",
                        split.evaluations, whole.evaluations
                    )
                });
            }
            if !axioms(name).contains(&Axiom::Together) {
                let x = case.x.clone().narrow(0, 1, 1);
                let alone = recipe.explain(&case.graph, x, Target::Predicted)?;
                let wanted = host(whole.values.narrow(0, 1, 1));
                failures.close("a row alone", &host(alone.values), &wanted, ROUNDING);
            }
            Ok(())
        },
    );
}

#[test]
fn batches_and_other_rows_change_nothing() {
    on_random(specs(), 2, |spec, failures| {
        check_splits(&table(&spec), failures);
        check_splits(&series(&spec), failures);
        check_splits(&picture(&spec), failures);
    });
}

fn check_folding<const D: usize>(case: &Case<D>, failures: &mut Failures) {
    let folded = Case {
        graph: case.graph.folded(),
        x: case.x.clone(),
        spec: case.spec.clone(),
    };
    let norms = |case: &Case<D>| {
        case.graph
            .layers()
            .iter()
            .filter(|l| l.op == "batch_norm")
            .count()
    };
    failures.check(norms(case) > 0 && norms(&folded) == 0, || {
        format!("{} of {} BatchNorms are left", norms(&folded), norms(case))
    });
    let has = |_: &str, axioms: &[Axiom]| !axioms.contains(&Axiom::Unfolded);
    for_methods(case, failures, has, |recipe, _, failures| {
        let [plain, folded] = [case, &folded].map(|case| values(case, recipe, 2));
        failures.close("folded", &folded?, &plain?, ROUNDING);
        Ok(())
    });
}

#[test]
fn folding_changes_nothing() {
    let with_norms = specs().prop_map(|spec| Spec { norm: true, ..spec });
    on_random(with_norms, 3, |spec, failures| {
        check_folding(&table(&spec), failures);
        check_folding(&series(&spec), failures);
        check_folding(&picture(&spec), failures);
    });
}

fn check_input_x_gradient<const D: usize>(axiom: Axiom, case: &Case<D>, failures: &mut Failures) {
    let gradient = InputXGradient.explain(&case.graph, case.x.clone(), 0);
    let wanted = match gradient {
        Ok(map) => host(map.values),
        Err(error) => return failures.0.push(error.to_string()),
    };
    let has = |_: &str, axioms: &[Axiom]| axioms.contains(&axiom);
    for_methods(case, failures, has, |recipe, _, failures| {
        let values = values(case, &unstabilised(recipe.clone()), 0)?;
        failures.close("input times gradient", &values, &wanted, (1e-6, FLOOR));
        Ok(())
    });
}

#[test]
fn on_relu_networks_some_methods_are_input_times_gradient() {
    let relus = specs().prop_map(|spec| Spec {
        act: Act::Relu,
        ..spec
    });
    on_random(relus, 8, |spec, failures| {
        check_input_x_gradient(Axiom::ReluGradient, &table(&spec), failures);
        check_input_x_gradient(Axiom::ReluGradient, &series(&spec), failures);
        check_input_x_gradient(Axiom::ReluGradient, &picture(&spec), failures);
        let spec = Spec {
            biases: Biases::None,
            ..spec
        };
        check_input_x_gradient(Axiom::Homogeneous, &table(&spec), failures);
        check_input_x_gradient(Axiom::Homogeneous, &series(&spec), failures);
        check_input_x_gradient(Axiom::Homogeneous, &picture(&spec), failures);
    });
}

/// LRP-epsilon comes to input times gradient as epsilon goes to zero, in proportion to it.
#[test]
fn lrp_tends_to_input_times_gradient() {
    let relus = specs().prop_map(|spec| Spec {
        act: Act::Relu,
        ..spec
    });
    on_random(relus, 8, |spec, failures| {
        let case = picture(&spec);
        let wanted = InputXGradient.explain(&case.graph, case.x.clone(), 0);
        let wanted = host(wanted.unwrap().values);
        let apart = |epsilon: f64| {
            let recipe = Recipe::named("lrp-epsilon").unwrap();
            let recipe = with(recipe, "stabiliser", json!(epsilon));
            let recipe = with(recipe, "dense", json!({ "epsilon": epsilon }));
            let recipe = with(recipe, "convolution", json!({ "epsilon": epsilon }));
            let got = values(&case, &recipe, 0).unwrap();
            let squares = got.iter().zip(&wanted).map(|(g, w)| (g - w).powi(2));
            squares.sum::<f64>().sqrt()
        };
        let size = wanted.iter().map(|w| w * w).sum::<f64>().sqrt();
        let distances = [1e-2, 1e-5, 1e-8, 1e-11].map(apart);
        let falls = distances
            .windows(2)
            .all(|pair| pair[1] <= pair[0].max(1e-9 * size));
        failures.check(falls && distances[3] <= 1e-6 * size.max(FLOOR), || {
            format!("{distances:?} of {size}, {spec:?}")
        });
    });
}

fn compare(failures: &mut Failures, what: &str, want: Want, got: &Attribution<2>) {
    let values = host(got.values.clone().narrow(0, 0, 1));
    match want {
        Want::Values(want, tolerance) => failures.close(what, &values, &want, (tolerance, 1e-3)),
        Want::Sampled(want) => {
            let errors = got
                .evidence
                .standard_error
                .clone()
                .map(host)
                .unwrap_or_default();
            for ((value, want), error) in values.iter().zip(want).zip(errors) {
                failures.check((value - want).abs() <= 5.0 * error, || {
                    format!("{what}: {value} is not within five times {error} of {want}")
                });
            }
            failures.check(got.evidence.standard_error.is_some(), || {
                format!("{what}: no standard error")
            });
        }
        Want::Largest(by) => {
            let largest = |values: &[f64]| {
                let indices = 0..values.len();
                indices.max_by(|&a, &b| values[a].total_cmp(&values[b]))
            };
            failures.check(largest(&values) == largest(&by), || {
                format!("{what}: {values:?} does not have its largest where {by:?} has")
            });
        }
    }
}

/// The method with the options that its closed form is for.
fn for_linear_tables(name: &str, recipe: Recipe) -> Recipe {
    let registered = Recipe::named(name).unwrap();
    match name {
        // Long enough to get to the end, and a cell of every column's own.
        "extremal-perturbation" | "extremal-perturbation-areas" => {
            let recipe = with(recipe, "steps", json!(400));
            with(recipe, "areas", json!([1.0 / linear::COLUMNS as f64]))
        }
        "meaningful-perturbation" => {
            let recipe = with(recipe, "steps", json!(300));
            with(recipe, "l1", json!(linear::MASK_COST))
        }
        "rise" | "rise-xplique" | "hsic" | "hsic-xplique" => registered,
        "sobol" | "sobol-xplique" | "sobol-first-order" => with(registered, "samples", json!(1024)),
        "lime" | "lime-captum" => with(recipe, "fit", json!("linear")),
        _ => recipe,
    }
}

#[test]
fn linear_tables_give_the_weights() {
    on_random(0..10_000usize, 4, |seed, failures| {
        let model = linear::Table::new(seed);
        for (name, recipe) in methods(2) {
            let Some(want) = model.rows[0].want(name) else {
                failures
                    .0
                    .push(format!("{name} has no closed form for tables"));
                continue;
            };
            let recipe = for_linear_tables(name, recipe);
            let what = format!("{name} of table {seed}");
            match recipe.explain(&model.graph, model.x.clone(), 0) {
                Ok(map) => compare(failures, &what, want, &map),
                Err(error) => failures.0.push(format!("{what}: {error}")),
            }
        }
    });
}

#[test]
fn linear_pictures_give_the_weights() {
    on_random(0..10_000usize, 4, |seed, failures| {
        for channels in [Channels::Free, Channels::Multiples] {
            let model = linear::Picture::new(seed, channels);
            let sum = linear::plain_sum();
            for (name, recipe) in methods(4) {
                let recipe = match name {
                    "xrai" | "xrai-fast" => {
                        let of = json!({"method": "integrated-gradients"});
                        let recipe = recipe.with("of", of).unwrap();
                        recipe.with("regions", linear::own_regions()).unwrap()
                    }
                    _ => recipe,
                };
                let blurred = match name {
                    "blur-ig" => host(recipe.explain(&sum, model.x.clone(), 0).unwrap().values),
                    _ => Vec::new(),
                };
                let Some(want) = model.want(name, channels, &blurred) else {
                    // It has one for the other channels, or for tables.
                    continue;
                };
                let what = format!("{name} of picture {seed} ({channels:?})");
                match recipe.explain(&model.graph, model.x.clone(), 0) {
                    Ok(map) => {
                        let Want::Values(want, tolerance) = want else {
                            unreachable!("closed forms of pictures are values")
                        };
                        failures.close(&what, &host(map.values), &want, (tolerance, 1e-3));
                    }
                    Err(error) => failures.0.push(format!("{what}: {error}")),
                }
            }
        }
    });
}

/// Every method has its axioms, and a closed form on a table or on a picture.
#[test]
fn every_method_is_in_the_tables() {
    let table = linear::Table::new(1);
    let pictures = [Channels::Free, Channels::Multiples].map(|c| (c, linear::Picture::new(1, c)));
    let blurred = vec![0.0; linear::SHAPE.iter().product()];
    for info in Recipe::METHODS {
        axioms(info.name);
        if info.family == Family::Attention {
            continue;
        }
        let on_picture = pictures
            .iter()
            .any(|(channels, picture)| picture.want(info.name, *channels, &blurred).is_some());
        let known = table.rows[0].want(info.name).is_some() || on_picture;
        assert!(
            known,
            "{}: say in properties/linear.rs what it gives",
            info.name
        );
    }
}

/// What needs positions says so on a table, in one line.
#[test]
fn tables_without_positions_are_refused() {
    let spec = Spec {
        seed: 1,
        width: 3,
        blocks: 1,
        act: Act::Relu,
        pool: nets::Pool::None,
        norm: false,
        residual: false,
        reused: false,
        biases: Biases::Random,
        inputs: Inputs::Free,
    };
    let case = table(&spec);
    for info in Recipe::METHODS {
        if axioms::takes_tables(info.name) && info.family != Family::Attention {
            continue;
        }
        let recipe = Recipe::named(info.name).unwrap();
        let error = values(&case, &recipe, 0).unwrap_err();
        let fitting = matches!(
            error,
            Error::NoSpatialLayer | Error::Shape { .. } | Error::NoAttention | Error::Option { .. }
        );
        assert!(fitting, "{}: {error}", info.name);
        assert_eq!(error.to_string().lines().count(), 1);
    }
}

/// Attention methods on a transformer: shares of a whole, whatever the batch and the graph.
#[test]
fn attention_is_shared_out() {
    use crate::graph::nets::{ViT, seeded};
    use burn::tensor::{Device, TensorData};
    use saliency_core::{Graph, noise::standard_normal};

    let shape = [ROWS, 3, 8, 12];
    let noise = standard_normal(3, 0, shape.iter().product());
    let x = Tensor::<4>::from_data(TensorData::new(noise, shape), &Device::flex());
    let net = seeded(ViT::new(&Device::flex()));
    let graph = Graph::trace(&net, |m, x| m.forward(x), &x).unwrap();
    let (graph, x) = (graph.cast(DType::F64), x.cast(DType::F64));
    for info in Recipe::METHODS
        .iter()
        .filter(|info| info.family == Family::Attention)
    {
        let name = info.name;
        let recipe = Recipe::named(name).unwrap();
        let explain = |graph: &Graph, x: Tensor<4>, rows: usize| {
            let run = Run::new().batch_size(BatchSize::Rows(rows));
            let map = recipe.explain_with(graph, x, &Target::Predicted, &run);
            host(map.unwrap().values)
        };
        let whole = explain(&graph, x.clone(), 1000);
        let per_row = whole.len() / ROWS;
        assert!(whole.iter().all(|v| *v >= 0.0), "{name}");
        assert!(
            whole
                .chunks(per_row)
                .all(|row| row.iter().any(|v| *v > 0.0)),
            "{name}"
        );
        let mut failures = Failures::default();
        for rows in [1, 2] {
            failures.close("split", &explain(&graph, x.clone(), rows), &whole, ROUNDING);
        }
        let alone = explain(&graph, x.clone().narrow(0, 1, 1), 1000);
        failures.close("alone", &alone, &whole[per_row..2 * per_row], ROUNDING);
        failures.close(
            "folded",
            &explain(&graph.folded(), x.clone(), 1000),
            &whole,
            ROUNDING,
        );
        assert!(failures.0.is_empty(), "{name}: {:?}", failures.0);
    }
}
