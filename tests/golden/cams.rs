//! Agreement with pytorch-grad-cam and Captum: `tests/reference/cams.py` writes the values.
//!
//! Relative L2 of 1e-4 in f32, where differences of scores (Ablation-CAM) and quotients
//! (Grad-CAM++) lose digits, and 1e-9 in f64, where the same function is computed. Captum's
//! guided maps are stored in f32, hence 1e-6 there.

use saliency_core::{
    Deconvnet, FullGrad, GradCam, Graph, GuidedBackprop, GuidedGradCam, Recipe, Resize,
};

use super::*;

const PRECISIONS: [(FloatDType, f64); 2] = [(FloatDType::F32, 1e-4), (FloatDType::F64, 1e-9)];

fn traced(dtype: FloatDType) -> (Graph, Tensor<4>) {
    let net = small_resnet(Block::Basic, "small_resnet_basic", dtype);
    let input = Reference::golden("small_resnet_basic").tensor("input", &Device::flex(), dtype);
    let graph = Graph::trace(&net, |m, x| m.forward(x), &input).unwrap();
    (graph, input)
}

/// Each method with its layer put into its recipe.
fn at(recipe: Recipe, layers: &[&str]) -> Recipe {
    recipe.with("layers", layers.to_vec()).unwrap()
}

#[test]
fn maps_are_those_of_pytorch_grad_cam() {
    let reference = Reference::golden("cams");
    let methods = [
        ("grad_cam", "grad-cam"),
        ("grad_cam_plus_plus", "grad-cam++"),
        ("xgrad_cam", "xgrad-cam"),
        ("hires_cam", "hires-cam-pytorch-grad-cam"),
        ("layer_cam", "layer-cam"),
        ("eigen_cam", "eigen-cam-pytorch-grad-cam"),
        ("eigen_grad_cam", "eigen-grad-cam-pytorch-grad-cam"),
        ("score_cam", "score-cam-aligned"),
        ("ablation_cam", "ablation-cam-pytorch-grad-cam"),
    ];
    for (dtype, tolerance) in PRECISIONS {
        let (graph, input) = traced(dtype);
        for (name, method) in &methods {
            let method = Recipe::named(method).unwrap();
            // After a ReLU, and a convolution whose values have both signs.
            for layer in ["layer1", "layer2", "layer2.0.conv1"] {
                let what = format!("{name}.{layer}");
                if !reference.names().contains(&what) {
                    continue;
                }
                let map = at(method.clone(), &[layer]).explain(&graph, input.clone(), 1);
                let got = host(map.unwrap().values);
                assert_close(&what, &got, &reference.values(&what), tolerance);
            }
        }
        let both = Tensor::cat(vec![input.clone(), input.clone()], 0);
        let cam = GradCam::new().layers(["layer1", "layer2", "layer3"]);
        let map = cam.explain(&graph, both, vec![0, 2]).unwrap();
        let want = reference.values("grad_cam.all");
        assert_close("grad_cam.all", &host(map.values), &want, tolerance);
        let map = FullGrad::per_channel().explain(&graph, input, 1).unwrap();
        let want = reference.values("full_grad");
        assert_close("full_grad", &host(map.values), &want, tolerance);
    }
}

/// In Captum's `GuidedBackprop` and `Deconvolution` every ReLU of this network is a module, so
/// none is missed.
#[test]
fn rule_methods_are_those_of_captum() {
    let reference = Reference::golden("cams");
    for (dtype, tolerance) in [(FloatDType::F32, 1e-4), (FloatDType::F64, 1e-6)] {
        let (graph, input) = traced(dtype);
        let explain =
            |recipe: Recipe| host(recipe.explain(&graph, input.clone(), 1).unwrap().values);
        let product = GuidedGradCam::new().layer("layer2");
        for (name, recipe) in [
            (
                "signed.layer2",
                Recipe::GradCam(GradCam::new().layer("layer2").relu(false)),
            ),
            ("guided_backprop", Recipe::GuidedBackprop(GuidedBackprop)),
            ("deconvnet", Recipe::Deconvnet(Deconvnet)),
            (
                "guided_grad_cam.bilinear",
                Recipe::GuidedGradCam(product.clone()),
            ),
            (
                "guided_grad_cam.nearest",
                Recipe::GuidedGradCam(product.resize(Resize::Nearest)),
            ),
        ] {
            assert_close(name, &explain(recipe), &reference.values(name), tolerance);
        }
    }
}

/// The signed form adds up to the logit: input, convolutions, BatchNorm and the head's bias.
#[test]
fn full_gradients_add_up_to_the_logits() {
    for (dtype, tolerance) in [(FloatDType::F32, 1e-4), (FloatDType::F64, 1e-10)] {
        let (graph, input) = traced(dtype);
        for class in 0..3 {
            let map = FullGrad::signed()
                .explain(&graph, input.clone(), class)
                .unwrap();
            let sum: f64 = host(map.values).iter().sum();
            assert!(
                (sum - map.scores[0]).abs() < tolerance,
                "{sum} {:?}",
                map.scores
            );
            assert!(map.evidence.delta.unwrap()[0].abs() < tolerance);
        }
    }
}
