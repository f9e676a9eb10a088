//! Methods that no peer has agree with their definitions in PyTorch
//! (`tests/reference/definitions.py`): IDGI and contrastive excitation backprop.
//!
//! In f64 only rounding may differ: 1e-10. In f32 IDGI's points come near kinks as those of
//! other paths do, and denominators of walks near zero: 1e-4.

use burn::tensor::{Device, FloatDType, Tensor};
use saliency_core::{Attribution, Baseline, Graph, Idgi, Method, Recipe, Target};

use super::{
    Reference, host,
    lrp::{mlp_graph, resnet_graph, series_graph},
    relative_l2,
};

const PRECISIONS: [(FloatDType, f64); 2] = [(FloatDType::F32, 1e-4), (FloatDType::F64, 1e-10)];

fn assert_defined<const D: usize>(
    network: &str,
    trace: impl Fn(FloatDType, &Tensor<D>) -> Graph,
    input: &str,
) {
    let reference = Reference::golden("definitions");
    for (dtype, tolerance) in PRECISIONS {
        let input: Tensor<D> = Reference::golden(input).tensor("input", &Device::flex(), dtype);
        let graph = trace(dtype, &input);
        let check = |name: &str, map: Attribution<D>| {
            let name = format!("{network}.{name}");
            let distance = relative_l2(&host(map.values), &reference.values(&name));
            println!("{name} in {dtype:?}: {distance:.1e}");
            assert!(distance <= tolerance, "{name} in {dtype:?}: {distance:.1e}");
        };
        let explain = |method: &Recipe| {
            let map = method.explain(&graph, input.clone(), Target::Predicted);
            map.unwrap_or_else(|error| panic!("{network}: {error}"))
        };
        let idgi = |baseline| Recipe::Idgi(Idgi::new().steps(12).baseline(baseline));
        check("idgi", explain(&idgi(Baseline::Zero)));
        check("idgi.minimum", explain(&idgi(Baseline::Minimum)));
        let named = Recipe::named("contrastive-excitation-backprop").unwrap();
        check("contrastive", explain(&named));
    }
}

#[test]
fn idgi_and_contrastive_walks_are_their_definitions() {
    assert_defined("mlp", mlp_graph, "mlp");
    assert_defined("series", series_graph, "series");
    assert_defined("resnet", resnet_graph, "small_resnet_basic");
}
