//! An LSTM, and a convolution over time, beside Captum (`tests/reference/finance.py`).
//!
//! Tolerances are those of the other golden tests: f64 agrees to what Captum's own sums in f32
//! leave, f32 to 1e-4.

use burn::tensor::{Device, FloatDType, Tensor};
use saliency_core::{
    Baseline, Columns, ExpectedGradients, FeatureAblation, Form, Gradient, Graph, InputXGradient,
    IntegratedGradients, Method, Model, Occlusion, Quadrature, Target,
};

use super::{Reference, ablation::Case, averages, deeplift::LstmNet, host, relative_l2, series};

const PRECISIONS: [(FloatDType, f64); 2] = [(FloatDType::F32, 1e-4), (FloatDType::F64, 1e-6)];

fn assert_close(what: &str, got: &[f64], want: &[f64], tolerance: f64) {
    let distance = relative_l2(got, want);
    println!("{what}: {distance:.1e}");
    assert!(distance <= tolerance, "{what}: {distance:.1e}");
}

/// The LSTM as a graph, and its input.
fn lstm(dtype: FloatDType) -> (Graph, Tensor<3>) {
    let own = Reference::golden("deeplift");
    let input: Tensor<3> = own.tensor("lstm.input", &Device::flex(), FloatDType::F32);
    let net = LstmNet::golden(&own);
    let graph = Graph::trace(&net, |m, x| m.forward(x), &input).unwrap();
    (graph.cast(dtype.into()), input.cast(dtype))
}

#[test]
fn an_lstms_gradients_and_paths_are_captums() {
    let reference = Reference::golden("finance");
    for (dtype, tolerance) in PRECISIONS {
        let (graph, input) = lstm(dtype);
        let check = |key: &str, method: &dyn Method<3>, rows: usize, target: Target| {
            let rows = input.clone().narrow(0, 0, rows);
            let map = method.explain_with(&graph, rows, &target, &Default::default());
            let want = reference.values(&format!("lstm.{key}"));
            assert_close(key, &host(map.unwrap().values), &want, tolerance);
        };
        let each = || Target::from(vec![0, 1, 2, 3]);
        check("gradient", &Gradient, 4, each());
        check("input_x_gradient", &InputXGradient, 4, each());
        check("horizon", &Gradient, 4, Target::mean_of(1..3, 4).unwrap());
        check("one_output", &Gradient, 4, Target::Class(2));
        let shift = Baseline::Values {
            values: reference.exact_f32("lstm.shift"),
        };
        for (kind, baseline) in [("zero", Baseline::Zero), ("shift", shift)] {
            for (name, rule) in [
                ("gausslegendre", Quadrature::GaussLegendre),
                ("riemann_trapezoid", Quadrature::RiemannTrapezoid),
            ] {
                let method = IntegratedGradients::new().rule(rule).steps(12);
                let method = method.baseline(baseline.clone());
                check(&format!("ig.{name}.{kind}"), &method, 4, each());
            }
        }
        let method = gradient_shap(&reference, "lstm");
        check("gradient_shap", &method, 1, Target::Class(1));

        let noise: Tensor<3> = reference.tensor("lstm.noise", &Device::flex(), dtype);
        let samples = noise.dims()[0];
        let noisy = input.clone().narrow(0, 0, 1) + noise;
        let gradients = Gradient.explain(&graph, noisy, 0).unwrap().values;
        for (form, got) in averages(&host(gradients), samples) {
            let name = match form {
                Form::MeanAbsolute => "mean_absolute",
                Form::Mean => "mean",
                Form::MeanSquare => "mean_squared",
                Form::Variance => "variance",
            };
            let want = reference.values(&format!("lstm.smoothgrad.{name}"));
            assert_close(name, &got, &want, 3.0 * tolerance);
        }
    }
}

/// The project's own draws, which Captum was handed.
fn gradient_shap(reference: &Reference, network: &str) -> ExpectedGradients {
    let baselines = reference.exact_f32(&format!("{network}.gradient_shap.baselines"));
    let baselines: Vec<Baseline> = baselines
        .chunks(baselines.len() / 4)
        .map(|row| Baseline::Values {
            values: row.to_vec(),
        })
        .collect();
    ExpectedGradients::new().baselines(baselines).samples(6)
}

#[test]
fn an_lstms_perturbations_are_captums() {
    let reference = Reference::golden("finance");
    for (dtype, _) in PRECISIONS {
        let (graph, input) = lstm(dtype);
        let case = Case {
            name: "lstm",
            model: &graph,
            input,
            dtype,
            reference: &reference,
            one_channel: false,
        };
        // Two steps at a time, the first two features being one column.
        let columns = Columns::grouped([("a=0", "a"), ("a=1", "a"), ("b", "b")]);
        let saliency_core::Features::Given(each) = columns.features(6) else {
            panic!("columns are given groups")
        };
        let windows = each.chunks(3).enumerate();
        let windows =
            windows.flat_map(|(step, ids)| ids.iter().map(move |id| id % 2 + step / 2 * 2));
        let groups = saliency_core::Features::Given(windows.collect());
        case.assert_groups(groups, Baseline::Constant(0.25));
        let time = Occlusion::new().window([2]).stride([1]);
        let time = time.baseline(Baseline::Constant(0.25));
        case.assert("occlusion.time", &time, 1e-5);
        let feature = Occlusion::new().window([3, 1]).stride([2, 1]);
        case.assert("occlusion.feature", &feature, 1e-5);
    }
}

#[test]
fn a_convolution_over_time_has_captums_values_too() {
    let (weights, own) = (
        Reference::golden("series.weights"),
        Reference::golden("series"),
    );
    let reference = Reference::golden("finance");
    let net = |x: Tensor<3>| series(&weights, x);
    let net: &dyn Model<3> = &net;
    for (dtype, tolerance) in PRECISIONS {
        let input: Tensor<3> = own.tensor("input", &Device::flex(), dtype);
        let first = input.clone().narrow(0, 0, 1);
        let method = gradient_shap(&reference, "series");
        let map = method.explain(net, first, 1).unwrap();
        let want = reference.values("series.gradient_shap");
        assert_close("gradient_shap", &host(map.values), &want, tolerance);

        let case = Case {
            name: "series",
            model: net,
            input,
            dtype,
            reference: &reference,
            one_channel: false,
        };
        let time = Occlusion::new().window([5]).stride([1]);
        case.assert("occlusion.time", &time, 1e-5);
        let feature = Occlusion::new()
            .window([usize::MAX, 1])
            .stride([usize::MAX, 1]);
        case.assert("occlusion.feature", &feature, 1e-5);
        let columns = Columns::grouped([("a", "a"), ("b=0", "b"), ("b=1", "b")]);
        let ablation = FeatureAblation::new().features(columns.over_time(24));
        case.assert("over_time", &ablation, 1e-9);
    }
}
