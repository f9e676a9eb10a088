//! A device without memory for a batch gets it in halves, whatever the method.

use burn::tensor::Tensor;
use saliency_core::{BatchSize, Error, Method, Model, Needs, Recipe, Run, Target};

use super::{
    Failures, ROUNDING,
    axioms::methods,
    nets::{Act, Biases, Case, Inputs, Pool, ROWS, Spec, picture, table},
};
use crate::golden::host;

/// The rows that fit: more than those that are explained, and as many as there are areas in
/// `extremal-perturbation-areas`, whose masks of one row go together.
const FIT: usize = 2 * ROWS;

fn full(rows: usize) {
    if rows > FIT {
        panic!("the device has no room for {rows} rows: out of memory");
    }
}

fn spec() -> Spec {
    Spec {
        seed: 11,
        width: 4,
        blocks: 1,
        act: Act::Tanh,
        pool: Pool::Max,
        norm: true,
        residual: true,
        reused: false,
        biases: Biases::Random,
        inputs: Inputs::Free,
    }
}

/// The map by one big batch, and by a model (or, for methods that run the graph by themselves,
/// a score) that has no memory for more than a few rows.
fn check<const D: usize>(case: &Case<D>, failures: &mut Failures) {
    let narrow = |x: Tensor<D>| {
        full(x.dims()[0]);
        case.graph.forward(x)
    };
    let class = |y: Tensor<2>| y.narrow(1, 1, 1).squeeze_dim::<1>(1);
    let tight = Target::custom("class 1", move |y: Tensor<2>| {
        full(y.dims()[0]);
        class(y)
    });
    let roomy = Target::Class(1);
    let run = Run::new().batch_size(BatchSize::Rows(64));
    for (name, recipe) in methods(D) {
        let by_graph = Recipe::named(name).unwrap().info().unwrap().needs == Needs::Graph;
        let (model, target): (&dyn Model<D>, _) = match by_graph {
            true => (&case.graph, &tight),
            false => (&narrow, &roomy),
        };
        let maps = (
            recipe.explain_with(&case.graph, case.x.clone(), &roomy, &run),
            recipe.explain_with(model, case.x.clone(), target, &run),
        );
        match maps {
            (Ok(want), Ok(got)) => {
                let what = format!("{name} on {D} axes");
                failures.close(&what, &host(got.values), &host(want.values), ROUNDING);
            }
            (_, Err(error)) => failures.0.push(format!("{name} on {D} axes: {error}")),
            (Err(error), _) => failures
                .0
                .push(format!("{name} on {D} axes, with room: {error}")),
        }
    }
}

#[test]
fn batches_without_memory_are_done_in_halves() {
    let mut failures = Failures::default();
    check(&table(&spec()), &mut failures);
    check(&picture(&spec()), &mut failures);
    assert!(failures.0.is_empty(), "{}", failures.0.join("\n"));
}

/// Where not even one row fits, the device's message is the error.
#[test]
fn no_memory_for_a_single_row_is_an_error() {
    let case = table(&spec());
    let model = |x: Tensor<2>| match x.is_tracked() {
        true => panic!("CUDA_ERROR_OUT_OF_MEMORY"),
        false => case.graph.forward(x),
    };
    let recipe = Recipe::named("integrated-gradients").unwrap();
    let error = recipe.explain(&model, case.x.clone(), 0).unwrap_err();
    assert!(matches!(error, Error::OutOfMemory { .. }), "{error}");
    assert!(error.to_string().contains("CUDA_ERROR_OUT_OF_MEMORY"));
}
