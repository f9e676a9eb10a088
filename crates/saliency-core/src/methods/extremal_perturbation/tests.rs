use super::*;
use crate::{
    Target,
    methods::testing::{Net, assert_close, assert_splits_agree, image},
};
use burn::tensor::Device;

/// A textured picture, and a score that sees the sharpness of a 6x6 square of it alone.
fn square(size: usize) -> (Tensor<4>, impl Fn(Tensor<4>) -> Tensor<2>) {
    let checks = (0..size * size).map(|i| ((i / size + i % size) % 2) as f32 * 2.0 - 1.0);
    let checks = TensorData::new(checks.collect::<Vec<_>>(), [1, 1, size, size]);
    let x = Tensor::<4>::from_data(checks, &Device::flex());
    let target = x.clone().slice([0..1, 0..1, 4..10, 12..18]);
    let mirrored = target.clone().flip([3]);
    let score = move |y: Tensor<4>| {
        let rows = y.dims()[0];
        let at = |from: usize, target: &Tensor<4>| {
            let part = y.clone().slice([0..rows, 0..1, 4..10, from..from + 6]);
            (part * target.clone()).flatten::<2>(1, 3).mean_dim(1)
        };
        // The picture may come mirrored: whichever square fits counts.
        at(12, &target).max_pair(at(size - 18, &mirrored)) * 10.0
    };
    (x, score)
}

fn inside(i: usize) -> bool {
    (4..10).contains(&(i / 24)) && (12..18).contains(&(i % 24))
}

#[test]
fn the_mask_finds_the_square_and_keeps_its_area() {
    let (x, score) = square(24);
    let method = ExtremalPerturbation {
        mirror: false,
        ..ExtremalPerturbation::new().areas([36.0 / 576.0])
    };
    let fade = || Perturbation::Fade { to: Baseline::Zero };
    for (variant, perturbation) in [
        (ExtremalVariant::Preserve, Perturbation::default()),
        (ExtremalVariant::Delete, fade()),
        (ExtremalVariant::Dual, fade()),
    ] {
        let found = method
            .clone()
            .variant(variant)
            .perturbation(perturbation)
            .explain(&score, x.clone(), 0)
            .unwrap();
        assert_eq!(found.values.dims(), [1, 1, 24, 24]);
        let mask = found.to_vec().unwrap();
        let mean = |in_square: bool| {
            let values = mask.iter().enumerate();
            let values = values.filter(|&(i, _)| inside(i) == in_square);
            let (sum, n) = values.fold((0.0, 0.0), |(sum, n), (_, m)| (sum + m, n + 1.0));
            sum / n
        };
        assert!(mean(true) > 0.85, "{variant:?}: {}", mean(true));
        assert!(mean(false) < 0.06, "{variant:?}: {}", mean(false));
        // The area is that of the mask with its margin, 28 by 28 positions.
        let area = mask.iter().sum::<f32>() / (28.0 * 28.0);
        assert!((area - 0.0625).abs() < 0.015, "{variant:?}: {area}");
        let views = if variant == ExtremalVariant::Dual {
            2
        } else {
            1
        };
        assert_eq!(found.evaluations.gradient, 1 + 800 * views);
    }
}

#[test]
fn more_area_keeps_more_of_the_score() {
    let (x, score) = square(24);
    let kept = |area: f64| {
        let method = ExtremalPerturbation::new().areas([area]).steps(200);
        let mask = method.explain(&score, x.clone(), 0).unwrap().values;
        let scene = Scene::new(&method, &x).unwrap();
        score(scene.apply(mask.reshape([1, 576]))).into_scalar::<f32>()
    };
    let scores = [0.01, 0.02, 0.06].map(kept);
    assert!(scores.is_sorted(), "{scores:?}");
    assert!(scores[2] > 9.0, "{scores:?}");
}

/// The pull of the area constraint alone, under a score that does not care.
#[test]
fn areas_are_met() {
    let indifferent = |x: Tensor<2>| x.sum_dim(1) * 0.0;
    let x = Tensor::<2>::ones([2, 20], &Device::flex());
    let method = ExtremalPerturbation::new()
        .areas([0.25, 0.5])
        .perturbation(Perturbation::Fade { to: Baseline::Zero });
    let found = method
        .explain(&indifferent, x, 0)
        .unwrap()
        .to_vec()
        .unwrap();
    // All columns are alike, and so are their values: the area's mean of 0 and 1.
    assert!(found.iter().all(|v| (v - 0.375).abs() < 0.01), "{found:?}");
}

#[test]
fn contrast_is_to_the_highest_other_class() {
    let outputs = Tensor::<2>::from_floats([[1.0, 5.0, 3.0], [4.0, 0.0, -2.0]], &Device::flex());
    let of = |target: Target| {
        let goal = Goal::resolve(&target, &outputs).unwrap();
        let reward = ExtremalReward::Contrastive.of(outputs.clone(), &goal);
        reward.map(|r| r.try_into_vec_as::<f32>().unwrap())
    };
    assert_eq!(of(vec![1, 2].into()).unwrap(), [2.0, -6.0]);
    let error = of(Target::Weighted(vec![1.0, 0.0, 0.0])).unwrap_err();
    assert!(error.to_string().starts_with("reward = contrastive"));
}

#[test]
fn does_not_depend_on_the_batch_split_or_on_neighbours() {
    let method = ExtremalPerturbation::new().areas([0.1, 0.4]).steps(6);
    assert_splits_agree(&method, 1e-4);
    let net = Net::relu(&Device::flex());
    let all = method.explain(&net, image(3, 8), 1).unwrap().values;
    let last = method
        .explain(&net, image(3, 8).narrow(0, 2, 1), 1)
        .unwrap()
        .values;
    assert_close(all.narrow(0, 2, 1), last, 1e-4);
}

#[test]
fn half_precision_and_series_run() {
    let method = ExtremalPerturbation::new().steps(3);
    let model = |x: Tensor<3>| x.mean_dim(1).flatten::<2>(1, 2);
    let x = Tensor::<3>::ones([2, 40, 4], &Device::flex());
    let found = method.explain(&model, x.clone(), 1).unwrap();
    assert_eq!(found.values.dims(), [2, 40, 1]);
    let half = x.cast(burn::tensor::DType::F16);
    let half = method.explain(&model, half, 1).unwrap().values;
    assert_close(half.cast(burn::tensor::DType::F32), found.values, 1e-3);
}

#[test]
fn wrong_options_and_models_are_named() {
    let net = Net::relu(&Device::flex());
    let new = ExtremalPerturbation::new;
    let text = |method: ExtremalPerturbation| {
        method
            .explain(&net, image(1, 1), 0)
            .unwrap_err()
            .to_string()
    };
    assert!(text(new().areas([])).starts_with("areas = []"));
    assert!(text(new().areas([0.1, 1.5])).starts_with("areas = 1.5"));
    assert!(text(new().steps(0)).starts_with("steps = 0"));
    assert!(text(ExtremalPerturbation { levels: 1, ..new() }).starts_with("levels = 1"));
    assert!(text(ExtremalPerturbation { rate: 0.0, ..new() }).starts_with("rate = 0"));
    assert!(text(ExtremalPerturbation { cell: 0.0, ..new() }).starts_with("cell = 0"));
    let table = Tensor::<2>::ones([1, 3], &Device::flex());
    let error = new().explain(&|x: Tensor<2>| x, table, 0).unwrap_err();
    assert!(error.to_string().contains("use fade"), "{error}");
    let training = Net::training(&Device::flex());
    let error = new().explain(&training, image(2, 1), 0).unwrap_err();
    assert!(matches!(error, Error::TrainingMode { .. }), "{error}");
    let cut = |x: Tensor<4>| x.inner().flatten::<2>(1, 3);
    let error = new().explain(&cut, image(1, 1), 0).unwrap_err();
    assert_eq!(error, Error::NotDifferentiable);
}
