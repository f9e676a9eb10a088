//! Path methods agree with Captum, PAIR saliency and scikit-image (`tests/reference/paths.py`).
//!
//! In f64 the same function is computed, to 1e-8; to 1e-6 where the peer rounds to f32 on the
//! way (Captum the nodes and weights of its rules, PAIR its sums of gradients). In f32 relative L2 error 1e-4 is allowed:
//! points on a path come near the kinks of ReLUs and max-pools, where rounding decides which
//! side they are on.

use burn::tensor::{Device, FloatDType, Tensor};
use saliency_core::{
    Attribution, Baseline, BlurIg, ExpectedGradients, Felzenszwalb, GuidedIg, IntegratedGradients,
    Method, Model, Quadrature, Ranking, Recipe, Regions, Target, Xrai,
};
use saliency_models::resnet::Block;

use super::{Reference, host, mlp, relative_l2, series, small_resnet};

const PRECISIONS: [(FloatDType, f64); 2] = [(FloatDType::F32, 1e-4), (FloatDType::F64, 1e-8)];

/// What the peer's own rounding to f32 leaves of a tolerance.
fn rounded(tolerance: f64) -> f64 {
    tolerance.max(1e-6)
}

const RULES: [(&str, Quadrature); 5] = [
    ("gausslegendre", Quadrature::GaussLegendre),
    ("riemann_left", Quadrature::RiemannLeft),
    ("riemann_right", Quadrature::RiemannRight),
    ("riemann_middle", Quadrature::RiemannMiddle),
    ("riemann_trapezoid", Quadrature::RiemannTrapezoid),
];

fn assert_close(name: &str, got: &[f64], want: &[f64], tolerance: f64) {
    let distance = relative_l2(got, want);
    println!("{name}: {distance:.1e}");
    assert!(
        distance <= tolerance,
        "{name}: {distance:.1e} is above {tolerance:.0e}"
    );
}

fn assert_map<const D: usize>(
    map: Attribution<D>,
    reference: &Reference,
    name: &str,
    tolerance: f64,
) {
    assert_close(name, &host(map.values), &reference.values(name), tolerance);
}

/// Values and deltas of each rule that the file has for this network.
fn assert_integrated<const D: usize>(
    net: &dyn Model<D>,
    (prefix, kind): (&str, &str),
    (input, tolerance): (Tensor<D>, f64),
    baseline: &Baseline,
    target: impl Into<Target>,
) {
    let reference = Reference::golden("paths");
    let target = target.into();
    for (rule_name, rule) in RULES {
        let name = format!("{prefix}.ig.{rule_name}.{kind}");
        if !reference.names().contains(&name) {
            assert_eq!(prefix, "resnet");
            continue;
        }
        let method = IntegratedGradients::new().rule(rule).steps(12);
        let method = method.baseline(baseline.clone());
        let map = method.explain(net, input.clone(), target.clone()).unwrap();
        let want = reference.values(&format!("{name}.delta"));
        let scale = map
            .scores
            .iter()
            .fold(1.0, |most: f64, s| most.max(s.abs()));
        for (got, want) in map.evidence.delta.as_ref().unwrap().iter().zip(want) {
            assert!(
                (got - want).abs() <= tolerance * scale,
                "{name}: delta {got} {want}"
            );
        }
        assert_map(map, &reference, &name, tolerance);
    }
}

fn input<const D: usize>(name: &str, dtype: FloatDType) -> Tensor<D> {
    Reference::golden(name).tensor("input", &Device::flex(), dtype)
}

#[test]
fn integrated_gradients_are_captums() {
    let reference = Reference::golden("paths");
    let (table, time) = (
        Reference::golden("mlp.weights"),
        Reference::golden("series.weights"),
    );
    let table = |x: Tensor<2>| mlp(&table, x);
    let time = |x: Tensor<3>| series(&time, x);
    let shift = Baseline::Values {
        values: reference.exact_f32("mlp.shift"),
    };
    for (dtype, tolerance) in PRECISIONS {
        let tolerance = rounded(tolerance);
        let rows = (input("mlp", dtype), tolerance);
        let classes: Vec<usize> = (0..6).map(|row| row % 3).collect();
        for (kind, baseline) in [("zero", &Baseline::Zero), ("shift", &shift)] {
            assert_integrated(
                &table,
                ("mlp", kind),
                rows.clone(),
                baseline,
                classes.clone(),
            );
        }
        let local = IntegratedGradients::new()
            .steps(12)
            .multiply_by_inputs(false);
        let map = local.explain(&table, rows.0, classes).unwrap();
        assert_map(map, &reference, "mlp.ig.local", tolerance);

        let rows = (input("series", dtype), tolerance);
        assert_integrated(
            &time,
            ("series", "zero"),
            rows,
            &Baseline::Zero,
            vec![0, 1, 0, 1],
        );

        let net = small_resnet(Block::Basic, "small_resnet_basic", dtype);
        let rows = (input("small_resnet_basic", dtype), tolerance);
        let target = Target::Predicted;
        assert_integrated(&net, ("resnet", "zero"), rows, &Baseline::Zero, target);
    }
}

/// The same draws as Captum was handed.
#[test]
fn expected_gradients_are_captums_gradient_shap() {
    let reference = Reference::golden("paths");
    let weights = Reference::golden("mlp.weights");
    let net = |x: Tensor<2>| mlp(&weights, x);
    let baselines = reference.exact_f32("mlp.gradient_shap.baselines");
    let baselines: Vec<_> = baselines
        .chunks(9)
        .map(|row| Baseline::Values {
            values: row.to_vec(),
        })
        .collect();
    for (dtype, tolerance) in PRECISIONS {
        let input: Tensor<2> = input("mlp", dtype);
        let method = ExpectedGradients::new()
            .baselines(baselines.clone())
            .samples(6);
        let map = method.explain(&net, input.narrow(0, 0, 1), 1).unwrap();
        assert_map(map, &reference, "mlp.gradient_shap", tolerance);
    }
}

#[test]
fn picture_methods_are_pairs() {
    let reference = Reference::golden("paths");
    for (dtype, tolerance) in PRECISIONS {
        let net = small_resnet(Block::Basic, "small_resnet_basic", dtype);
        let input: Tensor<4> = input("small_resnet_basic", dtype);
        let check = |name: &str, recipe: &dyn Method<4>, tolerance: f64| {
            let map =
                recipe.explain_with(&net, input.clone(), &Target::Predicted, &Default::default());
            assert_map(map.unwrap(), &reference, name, tolerance);
        };
        let blur = BlurIg::new().max_sigma(8.0);
        check("resnet.blur_ig", &blur.steps(20), tolerance);
        check(
            "resnet.blur_ig.sqrt",
            &blur.steps(5).sqrt_spacing(true),
            tolerance,
        );
        let near = GuidedIg::new().steps(30);
        check("resnet.guided_ig.near", &near, tolerance);
        let far = GuidedIg::new().steps(20).fraction(0.1).max_dist(1.0);
        check("resnet.guided_ig.far", &far, tolerance);

        let pair = Recipe::named("integrated-gradients-pair").unwrap();
        check("resnet.ig_pair", &pair, rounded(tolerance));
        let labels: Vec<usize> = reference
            .values("resnet.xrai.labels")
            .into_iter()
            .map(|label| label as usize)
            .collect();
        let labels = labels.chunks(32 * 32).map(<[usize]>::to_vec).collect();
        let of = IntegratedGradients::new()
            .baselines([Baseline::Minimum, Baseline::Maximum])
            .rule(Quadrature::EvenPair)
            .steps(20);
        let xrai = Xrai::new()
            .of(Recipe::IntegratedGradients(of))
            .regions(Regions::Labels(labels))
            .min_pixels(6);
        check("resnet.xrai.full", &xrai, rounded(tolerance));
        check(
            "resnet.xrai.fast",
            &xrai.clone().ranking(Ranking::Fast),
            rounded(tolerance),
        );
    }
}

#[test]
fn segments_are_scikit_images() {
    let reference = Reference::golden("paths");
    let images: Tensor<4> = reference.tensor("segments.input", &Device::flex(), FloatDType::F64);
    let method = Felzenszwalb {
        scales: reference.values("segments.scales"),
        min_size: 20,
        side: None,
        ..Felzenszwalb::default()
    };
    let got = method.segments(&images).unwrap();
    let want = reference.values("segments.labels");
    for (got, want) in got[0].iter().zip(want.chunks(40 * 56)) {
        let got: Vec<f64> = got.iter().map(|&label| label as f64).collect();
        assert!(got.iter().any(|&label| label > 4.0));
        assert_eq!(got, want);
    }
}
