//! Agreement of the mask methods with scikit-image, scipy, TorchRay and numpy.
//!
//! `tests/reference/masks.py` draws the very masks that the methods draw, so everything is
//! compared value by value: relative L2 of at most 1e-10 in f64 and 1e-4 in f32 (where indices
//! are ratios of small differences of scores). TorchRay's weights and blurs are f32: 1e-6.

use burn::tensor::{Device, FloatDType, Tensor};
use saliency_core::{
    Baseline, CellKernel, Design, ExtremalPerturbation, ExtremalVariant, Hsic,
    MeaningfulPerturbation, Method, Model, Perturbation, Probabilities, Rise, RiseWeighting,
    ScoreWidth, Sobol, SobolEstimator, SobolOrder, Target, Upsampling,
};
use saliency_models::resnet::Block;

use super::{Reference, assert_close, host, mlp, series, small_resnet};

const PRECISIONS: [(FloatDType, f64); 2] = [(FloatDType::F32, 1e-4), (FloatDType::F64, 1e-10)];

fn first_row<const D: usize>(name: &str, dtype: FloatDType) -> Tensor<D> {
    let input: Tensor<D> = Reference::golden(name).tensor("input", &Device::flex(), dtype);
    input.narrow(0, 0, 1)
}

/// The maps of both weightings, with their standard errors.
fn assert_rise<const D: usize>(
    name: &str,
    rise: &Rise,
    class: usize,
    model: &dyn Model<D>,
    input: &Tensor<D>,
    tolerance: f64,
) {
    let reference = Reference::golden("masks");
    for (weighting, key) in [
        (RiseWeighting::Expected, "expected"),
        (RiseWeighting::Observed, "observed"),
    ] {
        let rise = rise.clone().weighting(weighting);
        let found = rise
            .explain(&|x: Tensor<D>| model.forward(x), input.clone(), class)
            .unwrap();
        let what = format!("rise.{name}.{key}");
        assert_close(
            &what,
            &host(found.values),
            &reference.values(&what),
            tolerance,
        );
        let what = format!("{what}.error");
        let errors = host(found.evidence.standard_error.unwrap());
        assert_close(&what, &errors, &reference.values(&what), tolerance);
    }
}

#[test]
fn rise_has_the_values_of_its_authors_masks() {
    let weights = [
        Reference::golden("mlp.weights"),
        Reference::golden("series.weights"),
    ];
    for (dtype, tolerance) in PRECISIONS {
        let net = small_resnet(Block::Basic, "small_resnet_basic", dtype);
        let rise = Rise::new().samples(40).grid(5).probability(0.4).seed(11);
        let input = first_row("small_resnet_basic", dtype);
        assert_rise::<4>("image", &rise, 1, &net, &input, tolerance);

        let net = |x: Tensor<3>| series(&weights[1], x);
        let rise = Rise::new().samples(30).grid(4).seed(3);
        let input = first_row::<3>("series", dtype);
        assert_rise("series", &rise, 0, &net, &input, tolerance);

        let net = |x: Tensor<2>| mlp(&weights[0], x);
        let rise = Rise::new().samples(25).probability(0.6).seed(5);
        let input = first_row("mlp", dtype);
        assert_rise("table", &rise, 1, &net, &input, tolerance);
    }
}

#[test]
fn the_sobol_sequence_is_scipys() {
    let want = Reference::golden("masks").values("sobol.points");
    let got = Design::Sobol.points(32, 256, 0).unwrap();
    let got: Vec<f64> = got.iter().map(|p| p * 32.0).collect();
    assert_eq!(got, want);
}

fn assert_sobol<const D: usize>(
    name: &str,
    sobol: &Sobol,
    model: &dyn Model<D>,
    input: &Tensor<D>,
    tolerance: f64,
    pick: fn(Vec<f64>) -> Vec<f64>,
) {
    let reference = Reference::golden("masks");
    for (estimator, order, key) in [
        (SobolEstimator::Jansen, SobolOrder::Total, "jansen"),
        (SobolEstimator::Homma, SobolOrder::Total, "homma"),
        (SobolEstimator::Janon, SobolOrder::Total, "janon"),
        (SobolEstimator::Glen, SobolOrder::Total, "glen"),
        (SobolEstimator::Jansen, SobolOrder::First, "first"),
    ] {
        let sobol = sobol.clone().estimator(estimator).order(order);
        let found = sobol
            .explain(&|x: Tensor<D>| model.forward(x), input.clone(), 1)
            .unwrap();
        let what = format!("sobol.{name}.{key}");
        let got = pick(host(found.values));
        assert_close(&what, &got, &reference.values(&what), tolerance);
        if key == "jansen" {
            let what = format!("{what}.error");
            let errors = pick(host(found.evidence.standard_error.unwrap()));
            assert_close(&what, &errors, &reference.values(&what), tolerance);
        }
    }
}

/// One position inside each of 4x4 cells of a picture of 32x32.
fn one_per_cell(map: Vec<f64>) -> Vec<f64> {
    (0..16)
        .map(|i| map[(i / 4 * 8 + 3) * 32 + i % 4 * 8 + 5])
        .collect()
}

#[test]
fn sobol_indices_are_numpys() {
    let weights = Reference::golden("mlp.weights");
    for (dtype, tolerance) in PRECISIONS {
        let net = small_resnet(Block::Basic, "small_resnet_basic", dtype);
        let input = first_row("small_resnet_basic", dtype);
        let sobol = Sobol::new().samples(8).grid(4).seed(7);
        assert_sobol::<4>("image", &sobol, &net, &input, tolerance, one_per_cell);
        let net = |x: Tensor<2>| mlp(&weights, x);
        let sobol = Sobol::new().samples(16).seed(2);
        assert_sobol(
            "table",
            &sobol,
            &net,
            &first_row("mlp", dtype),
            tolerance,
            |map| map,
        );
    }
}

#[test]
fn linear_masks_are_pytorchs() {
    let want = Reference::golden("masks").values("sobol.linear");
    for (dtype, tolerance) in PRECISIONS {
        let net = small_resnet(Block::Basic, "small_resnet_basic", dtype);
        let input: Tensor<4> = first_row("small_resnet_basic", dtype);
        let sobol = Sobol::new().samples(8).grid(4).seed(7);
        let sobol = sobol.upsampling(Upsampling::Linear);
        let map = host(sobol.explain(&net, input, 1).unwrap().values);
        // Beyond the outermost centres the value is the corner cell's own.
        let corners = [map[0], map[31], map[31 * 32], map[31 * 32 + 31]];
        let want = [want[0], want[3], want[12], want[15]];
        assert_close("sobol.linear", &corners, &want, tolerance);
    }
}

#[test]
fn hsic_is_the_centred_double_sum() {
    let reference = Reference::golden("masks");
    for (dtype, tolerance) in PRECISIONS {
        let net = small_resnet(Block::Basic, "small_resnet_basic", dtype);
        for (kernel, width, key) in [
            (CellKernel::Binary, ScoreWidth::MedianDistance, "binary"),
            (
                CellKernel::Rbf { width: 0.5 },
                ScoreWidth::MedianScore,
                "rbf",
            ),
            (CellKernel::Sobolev, ScoreWidth::Fixed(0.3), "sobolev"),
        ] {
            let hsic = Hsic::new()
                .samples(40)
                .grid(4)
                .seed(9)
                .kernel(kernel)
                .width(width);
            let input: Tensor<4> = first_row("small_resnet_basic", dtype);
            let got = one_per_cell(host(hsic.explain(&net, input, 1).unwrap().values));
            let what = format!("hsic.{key}");
            assert_close(&what, &got, &reference.values(&what), tolerance);
        }
    }
}

/// TorchRay's mask generator, pyramid and loop, with ties in the sorted mask shared.
#[test]
fn extremal_perturbation_has_torchrays_masks() {
    let reference = Reference::golden("masks");
    let net = small_resnet(Block::Basic, "small_resnet_basic", FloatDType::F64);
    for (variant, key) in [
        (ExtremalVariant::Preserve, "preserve"),
        (ExtremalVariant::Delete, "delete"),
        (ExtremalVariant::Dual, "dual"),
    ] {
        let method = ExtremalPerturbation {
            cell: 2.0 / 32.0,
            sigma: 0.1,
            variant,
            perturbation: Perturbation::Blur { sigma: 3.5 / 32.0 },
            ..ExtremalPerturbation::new().areas([0.1, 0.3]).steps(12)
        };
        let input: Tensor<4> = first_row("small_resnet_basic", FloatDType::F64);
        let got = host(method.explain(&net, input, 1).unwrap().values);
        let what = format!("extremal.{key}");
        assert_close(&what, &got, &reference.values(&what), 1e-6);
    }
}

/// TorchRay as it is, in f32, to the end of its 800 steps: 1e-4.
#[test]
fn extremal_perturbation_ends_where_torchray_does() {
    let device = Device::flex();
    let checks = |size: usize| {
        let values: Vec<f32> = (0..size * size)
            .map(|i| 1.0 - 2.0 * ((i / size + i % size) % 2) as f32)
            .collect();
        Tensor::<1>::from_floats(values.as_slice(), &device).reshape([1, 1, size, size])
    };
    let square = checks(6);
    let model = |x: Tensor<4>| {
        let rows = x.dims()[0];
        let part = x.slice([0..rows, 0..1, 4..10, 12..18]) * square.clone();
        part.flatten::<2>(1, 3).mean_dim(1) * 10.0
    };
    let method = ExtremalPerturbation {
        cell: 1.0 / 24.0,
        mirror: false,
        perturbation: Perturbation::Fade { to: Baseline::Zero },
        ..ExtremalPerturbation::new().areas([1.0 / 16.0])
    };
    let got = method
        .explain(&model, checks(24), Target::Regression)
        .unwrap();
    let want = Reference::golden("masks").values("extremal.square");
    assert_close("extremal.square", &host(got.values), &want, 1e-4);
}

#[test]
fn meaningful_perturbation_has_pytorchs_mask() {
    let want = Reference::golden("masks").values("meaningful");
    for (dtype, tolerance) in PRECISIONS {
        let net = small_resnet(Block::Basic, "small_resnet_basic", dtype);
        let input: Tensor<4> = first_row("small_resnet_basic", dtype);
        let fill = input.clone().mul_scalar(0.25).try_into_vec_as::<f32>();
        let method = MeaningfulPerturbation::new()
            .grid(8)
            .steps(12)
            .baseline(Baseline::Values {
                values: fill.unwrap(),
            });
        let got = method.explain(&Probabilities(&net), input, 1);
        assert_close("meaningful", &host(got.unwrap().values), &want, tolerance);
    }
}
