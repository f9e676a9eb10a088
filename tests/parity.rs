//! The same maps on every backend, flex being the reference.
//!
//! Tolerance: 1e-4 relative L2 in f32. Backends sum in different orders, which moves values
//! by about 1e-7, and a ReLU whose input is that close to zero may flip, which moves a small
//! network's gradient by up to about 1e-5.

use std::{
    io::Write,
    path::{Path, PathBuf},
};

use burn::{
    module::Module,
    tensor::{Device, DeviceType, Tensor},
};
use saliency_core::{
    Attribution, BatchSize, Family, Gradient, Graph, Method, Recipe, Run, Target,
    analysis::{Classes, compare_classes},
    noise::standard_normal,
};
use saliency_models::{
    demo,
    resnet::{Block, ResNet, ResNetConfig},
    scenes::Scenes,
    weights,
};

use crate::graph::nets::{ViT, seeded};

const TOLERANCE: f64 = 1e-4;

/// Says something even when the test harness captures output.
pub fn announce(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// Says a section of docs/finance-real.md, and writes it where `just finance-real` asks for it.
pub fn finance_section(file: &str, text: &str) {
    announce(text);
    if let Some(folder) = std::env::var_os("SALIENCY_FINANCE_OUT") {
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(Path::new(&folder).join(file), format!("\n{text}")).unwrap();
    }
}

/// What lies at `path` in the folder of test material, `$SALIENCY_DATA` or `shared/data` beside the
/// checkout. Where it is not there, says that the test is skipped.
pub fn material(path: &str) -> Option<PathBuf> {
    let folder = std::env::var_os("SALIENCY_DATA").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data"),
        PathBuf::from,
    );
    let found = folder.join(path);
    if found.exists() {
        return Some(found);
    }
    announce(&format!("SKIPPED: there is no {}", found.display()));
    None
}

/// A wgpu device: a real GPU where there is one, else a software adapter. Without any, fails
/// where `SALIENCY_REQUIRE_WGPU` is set and says that the test is skipped elsewhere.
pub fn wgpu() -> Option<Device> {
    let is_card = |device: &Device| device.identity().is_some_and(|i| i.physical.is_some());
    let adapters = Device::enumerate(DeviceType::Wgpu).into_vec();
    let card = adapters.iter().find(|adapter| is_card(adapter));
    let found = card.or(adapters.first()).cloned();
    match &found {
        Some(device) => {
            let name = device.identity().map(|identity| identity.name);
            announce(&format!("wgpu parity on {}", name.unwrap_or_default()));
        }
        None if std::env::var_os("SALIENCY_REQUIRE_WGPU").is_some() => {
            panic!("SALIENCY_REQUIRE_WGPU is set and there is no wgpu adapter")
        }
        None => announce("SKIPPED: there is no wgpu adapter; install a Vulkan driver"),
    }
    found
}

#[allow(deprecated)]
pub fn ndarray() -> Device {
    Device::ndarray()
}

fn small_resnet(device: &Device) -> ResNet {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../tests/golden/small_resnet_basic.weights.safetensors");
    let net = ResNetConfig::new(Block::Basic, [2, 1, 1, 1])
        .with_width(4)
        .with_classes(3)
        .init(device)
        .unwrap();
    weights::load(net, path, &Default::default()).unwrap().model
}

fn images(device: &Device) -> Tensor<4> {
    let shape = [2, 3, 32, 32];
    let values = standard_normal(5, 0, shape.iter().product());
    Tensor::from_data(burn::tensor::TensorData::new(values, shape), device)
}

fn host<const D: usize>(tensor: Tensor<D>) -> Vec<f64> {
    tensor.try_into_vec_as().unwrap()
}

fn assert_close<const D: usize>(what: &str, got: Tensor<D>, want: Tensor<D>, tolerance: f64) {
    let error = crate::golden::relative_l2(&host(got), &host(want));
    assert!(error < tolerance, "{what}: {error:.1e}");
}

/// Every method by name, with few samples and steps, and SmoothGrad by every design of noise:
/// attention methods on a transformer, the others on a residual network.
fn methods() -> Vec<(Net, Recipe)> {
    let few = |recipe: Recipe, option: &str| match recipe.options().contains_key(option) {
        true => recipe.with(option, 5).unwrap(),
        false => recipe,
    };
    let designs = ["antithetic", "latin_hypercube", "sobol"].map(|design| {
        let smooth = Recipe::named("smoothgrad").unwrap();
        let smooth = smooth.with("samples", 16).unwrap();
        (Net::Residual, smooth.with("design", design).unwrap())
    });
    Recipe::METHODS
        .iter()
        .map(|method| {
            let recipe = Recipe::named(method.name).unwrap();
            let net = match method.family {
                Family::Attention => Net::Transformer,
                _ => Net::Residual,
            };
            let recipe = without_each(few(few(recipe, "samples"), "steps"));
            // Pictures that are blurred more are so even that maxima tie up to rounding.
            match recipe.options().contains_key("max_sigma") {
                true => (net, recipe.with("max_sigma", 8.0).unwrap()),
                false => (net, recipe),
            }
        })
        .chain(designs)
        .collect()
}

/// With windows for features where they are the thousands of values.
fn without_each(recipe: Recipe) -> Recipe {
    match recipe.options().get("features") {
        Some(features) if features == "each" => recipe.with("features", "auto").unwrap(),
        _ => recipe,
    }
}

#[derive(Clone, Copy, Debug)]
enum Net {
    Residual,
    Transformer,
}

impl Net {
    fn graph(self, device: &Device) -> Graph {
        let x = &images(device);
        let graph = match self {
            Net::Residual => Graph::trace(&small_resnet(device), |m, x| m.forward(x), x),
            Net::Transformer => {
                let net = seeded(ViT::with_grid(8, 8, device));
                Graph::trace(&net, |m, x| m.forward(x), x)
            }
        };
        graph.unwrap()
    }
}

/// `just parity` writes what was measured for the guide.
fn write_table(backend: &str, measured: &[(String, f64)]) {
    let Some(folder) = std::env::var_os("SALIENCY_PARITY_OUT") else {
        return;
    };
    let mut text = String::from("| method | relative L2 difference | tolerance |\n|---|---|---|\n");
    for (name, error) in measured {
        text += &format!("| `{name}` | {error:.1e} | {TOLERANCE:.0e} |\n");
    }
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(Path::new(&folder).join(format!("{backend}.md")), text).unwrap();
}

fn explain(graph: &Graph, recipe: &Recipe, device: &Device) -> Attribution<4> {
    let run = Run::new().batch_size(BatchSize::Rows(4));
    recipe
        .explain_with(graph, images(device), &Target::Predicted, &run)
        .unwrap_or_else(|error| panic!("{} on {device:?}: {error}", recipe.name()))
}

fn assert_parity(device: &Device, backend: &str) {
    let flex = Device::flex();
    let mut measured = Vec::new();
    let graphs = [Net::Residual, Net::Transformer].map(|net| (net.graph(device), net.graph(&flex)));
    for (net, recipe) in methods() {
        let name = recipe.name();
        let (here, there) = &graphs[net as usize];
        let (got, want) = (
            explain(here, &recipe, device),
            explain(there, &recipe, &flex),
        );
        assert_eq!(got.targets, want.targets, "{name}");
        for (got, want) in got.scores.iter().zip(&want.scores) {
            assert!((got - want).abs() < 1e-4 * want.abs().max(1.0), "{name}");
        }
        let error = crate::golden::relative_l2(&host(got.values), &host(want.values));
        measured.push((name, error));
    }
    write_table(backend, &measured);
    for (name, error) in measured {
        assert!(
            error < TOLERANCE,
            "{name}: {error:.1e} above {TOLERANCE:.0e}"
        );
    }
    let top = |device: &Device| {
        compare_classes(
            &Recipe::default(),
            &small_resnet(device),
            images(device),
            &Classes::Top(3),
            &Run::new(),
        )
        .unwrap()
    };
    let (got, want) = (top(device), top(&flex));
    assert_eq!(got.classes, want.classes);
    let (got, want) = (got.attribution.values, want.attribution.values);
    assert_close("class comparison", got, want, TOLERANCE);
}

#[test]
fn ndarray_agrees_with_flex() {
    assert_parity(&ndarray(), "ndarray");
}

#[test]
fn wgpu_agrees_with_flex() {
    if let Some(device) = wgpu() {
        assert_parity(&device, "wgpu");
    }
}

#[cfg(feature = "cuda")]
#[test]
fn cuda_agrees_with_flex() {
    assert_parity(&Device::cuda(0), "cuda");
}

#[test]
fn the_demo_model_has_the_same_maps_on_wgpu() {
    let Some(device) = wgpu() else { return };
    let scene = Scenes::new(demo::TEST_SEED).get(6);
    let map = |device: &Device| {
        let net = demo::load(device).unwrap();
        let x = demo::preprocess().apply(&scene.image, device).unwrap();
        Recipe::default()
            .explain(&net, x, Target::Predicted)
            .unwrap()
    };
    let (got, want) = (map(&device), map(&Device::flex()));
    assert_eq!(got.targets, want.targets);
    // Nine ReLU layers at 32x32: a few masks may flip.
    assert_close("demo", got.values, want.values, 1e-3);
}

#[test]
fn training_mode_is_refused_on_every_backend() {
    for device in [Some(Device::flex()), Some(ndarray()), wgpu()] {
        let Some(device) = device else { continue };
        let net = ResNetConfig::new(Block::Basic, [1, 1, 1, 1])
            .with_width(4)
            .with_classes(3)
            .init(&device)
            .unwrap();
        let error = Recipe::default()
            .explain(&net, images(&device), Target::Predicted)
            .unwrap_err();
        assert!(error.to_string().contains("training mode"), "{error}");
        assert!(
            Recipe::default()
                .explain(&net.valid(), images(&device), Target::Predicted)
                .is_ok()
        );
    }
}

/// Shader compilers may assume that there is no NaN; the check must not rely on arithmetic.
#[test]
fn nan_and_infinity_are_found_on_every_backend() {
    for device in [Some(Device::flex()), Some(ndarray()), wgpu()] {
        let Some(device) = device else { continue };
        for (bad, name) in [(f32::NAN, "NaN"), (f32::INFINITY, "inf")] {
            let x = Tensor::<2>::from_floats([[0.0, 1.0], [bad, 2.0]], &device);
            let error = Gradient
                .explain(&|x: Tensor<2>| x, x, 0)
                .unwrap_err()
                .to_string();
            let want = format!("the input has {name} at row 1, element 0");
            assert!(error.starts_with(&want), "{error}");
        }
    }
}
