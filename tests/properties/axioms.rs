//! What each method promises; a method that is not in the table fails the tests.

use saliency_core::{Family, Recipe};
use serde_json::json;

use super::nets::{Act, Biases, Spec};

/// A promise about values on any network of `nets`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Axiom {
    /// The values of a row add up to something.
    Sum(Whole, Precision),
    /// An input that the network does not look at gets zero.
    Dummy,
    /// Interchangeable inputs get the same.
    Symmetric,
    /// Values of a weighted sum of scores are the weighted sum of their values.
    Additive,
    /// Input times gradient on networks of ReLUs, with biases too.
    ReluGradient,
    /// Input times gradient on networks of ReLUs without biases.
    Homogeneous,
    /// Another map where BatchNorm is folded, by its definition.
    Unfolded,
    /// A row's values depend on the other rows, by its definition.
    Together,
}

/// What the values of a row add up to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Whole {
    /// f(x) - f(0).
    Difference,
    /// f(x).
    Score,
    /// What the method says in `evidence.delta` (a layer, another end of the path).
    Told,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Precision {
    /// Up to rounding.
    Exact,
    /// Up to the error of an integral.
    Integral,
    /// Up to the standard errors.
    Sampled,
}

use Axiom::*;

const EXACT: Axiom = Sum(Whole::Difference, Precision::Exact);
const INTEGRAL: Axiom = Sum(Whole::Difference, Precision::Integral);
const SAMPLED: Axiom = Sum(Whole::Difference, Precision::Sampled);
const SCORE: Axiom = Sum(Whole::Score, Precision::Exact);
const TOLD: Axiom = Sum(Whole::Told, Precision::Integral);

/// The axioms of every method, in the order of the registry's families.
pub fn axioms(method: &str) -> &'static [Axiom] {
    match method {
        "gradient" | "smoothgrad-signed" | "smoothgrad-zennit" => &[Dummy, Symmetric, Additive],
        "input-x-gradient" => &[Dummy, Symmetric, Additive, ReluGradient, Homogeneous],
        // |G|, G^2 and the variance are not linear in the score.
        "smoothgrad"
        | "smoothgrad-squared"
        | "smoothgrad-captum"
        | "smoothgrad-pair"
        | "smoothgrad-tf-keras-vis"
        | "saliency-captum"
        | "vargrad" => &[Dummy, Symmetric],

        "integrated-gradients" | "integrated-gradients-zennit" => {
            &[INTEGRAL, Dummy, Symmetric, Additive, Homogeneous]
        }
        // A node lies at the baseline itself, where the ReLUs of such a network have no gradient.
        "integrated-gradients-pair" => &[INTEGRAL, Dummy, Symmetric, Additive],
        // The nodes follow the score.
        "integrated-gradients-adaptive" => &[INTEGRAL, Dummy, Symmetric],
        "expected-gradients" | "gradient-shap" => {
            &[SAMPLED, Dummy, Symmetric, Additive, Homogeneous]
        }
        "blur-ig" => &[TOLD, Dummy, Symmetric, Additive],
        // The order of the gradients decides, and of equal ones rounding does.
        "guided-ig" => &[INTEGRAL, Dummy],
        "idgi" => &[INTEGRAL, Dummy, Symmetric],
        // Regions have one value.
        "xrai" | "xrai-fast" => &[],

        "deeplift" | "deeplift-captum" | "deeplift-shap" | "deeplift-shap-captum" => {
            &[EXACT, Dummy, Symmetric, Additive, Homogeneous]
        }
        "lrp-epsilon" | "lrp-captum" => {
            &[SCORE, Dummy, Symmetric, Additive, ReluGradient, Homogeneous]
        }
        "lrp" | "lrp-gamma" => &[SCORE, Dummy, Symmetric, Additive],
        // Where nothing adds to a unit, these rules have nobody to give its relevance to.
        "lrp-epsilon-plus"
        | "lrp-epsilon-alpha2-beta1"
        | "lrp-epsilon-gamma-box"
        | "lrp-z-plus"
        | "lrp-alpha-beta"
        | "lrp-w2"
        | "excitation-backprop"
        | "excitation-backprop-zennit"
        | "contrastive-excitation-backprop" => &[Dummy, Symmetric, Additive],
        // The flat rule gives to all alike, whatever the weights.
        "lrp-epsilon-plus-flat" | "lrp-epsilon-alpha2-beta1-flat" => &[Symmetric, Additive],
        "guided-backprop" | "deconvnet" | "guided-grad-cam" | "guided-grad-cam-nearest" => {
            &[Dummy, Symmetric]
        }
        // A convolution and its BatchNorm are two parts with a bias each, folded they are one.
        "full-grad" | "full-grad-per-channel" => &[Unfolded],
        "full-grad-signed" => &[SCORE, Additive],

        "grad-cam-signed" | "hires-cam" => &[Additive],
        // Not linear in the score, and one map for all channels.
        "grad-cam"
        | "grad-cam++"
        | "grad-cam++-normalised"
        | "xgrad-cam"
        | "layer-cam"
        | "eigen-cam"
        | "eigen-cam-uncentred"
        | "eigen-grad-cam"
        | "score-cam"
        | "score-cam-aligned"
        | "faster-score-cam"
        | "hires-cam-pytorch-grad-cam"
        | "eigen-cam-pytorch-grad-cam"
        | "eigen-grad-cam-pytorch-grad-cam"
        | "ablation-cam"
        | "ablation-cam-pytorch-grad-cam" => &[],

        "layer-activation" => &[],
        "layer-gradient-x-activation" | "internal-influence" | "layer-rule" | "layer-lrp" => {
            &[Additive]
        }
        "layer-conductance" | "layer-integrated-gradients" => &[TOLD, Additive],
        // The nodes leave out both ends of the path.
        "layer-conductance-captum" => &[Additive],
        "neuron-gradient" | "neuron-guided-backprop" | "neuron-deconvnet" => &[Dummy, Symmetric],
        "neuron-integrated-gradients" | "neuron-attribution" => &[TOLD, Dummy, Symmetric],
        "neuron-conductance" | "neuron-conductance-captum" => &[Dummy, Symmetric, Additive],

        "occlusion"
        | "occlusion-captum"
        | "occlusion-pair"
        | "feature-ablation"
        | "feature-ablation-captum" => &[Dummy, Symmetric, Additive],
        "feature-permutation" => &[Dummy, Additive, Together],
        "shapley" | "kernel-shap" => &[EXACT, Dummy, Symmetric, Additive],
        // Few sets, and few orders, treat no two features alike.
        "kernel-shap-captum" => &[EXACT, Additive],
        "shapley-sampling" => &[EXACT, Dummy, Additive],
        // A linear model of a function with interactions may lean on what the function ignores.
        "lime" => &[Symmetric, Additive],
        "lime-captum" => &[Symmetric],
        // A mean score: what is not looked at gets the mean.
        "rise" | "rise-xplique" => &[Additive],
        "sobol" | "sobol-xplique" => &[Dummy],
        "sobol-first-order" | "hsic" | "hsic-xplique" => &[],
        "extremal-perturbation" | "extremal-perturbation-areas" => &[Symmetric],
        "meaningful-perturbation" => &[Dummy, Symmetric],

        // See `attention_is_shared_out`.
        "attention-map"
        | "attention-rollout"
        | "attention-rollout-max"
        | "gradient-attention-rollout" => &[],

        _ => panic!("{method} has no axioms: say in this table which hold"),
    }
}

/// Whether the method takes tables: else it needs positions.
pub fn takes_tables(method: &str) -> bool {
    let info = Recipe::named(method).unwrap().info().unwrap();
    match info.family {
        Family::Cam | Family::Layer => false,
        _ => !matches!(
            method,
            "blur-ig" | "xrai" | "xrai-fast" | "guided-grad-cam" | "guided-grad-cam-nearest"
        ),
    }
}

fn takes(method: &str, rank: usize) -> bool {
    match rank {
        2 => takes_tables(method),
        // Regions are those of pictures.
        3 => !method.starts_with("xrai"),
        _ => true,
    }
}

/// The method with an option, where it has it.
pub fn with(recipe: Recipe, option: &str, value: serde_json::Value) -> Recipe {
    match recipe.options().contains_key(option) {
        true => recipe.with(option, value).unwrap(),
        false => recipe,
    }
}

/// Every method for inputs of a rank, from a baseline of zero, with few samples and steps.
pub fn methods(rank: usize) -> Vec<(&'static str, Recipe)> {
    Recipe::METHODS
        .iter()
        .filter(|info| info.family != Family::Attention)
        .filter(|info| takes(info.name, rank))
        .map(|info| (info.name, tuned(info.name, rank)))
        .collect()
}

fn tuned(name: &str, rank: usize) -> Recipe {
    let recipe = Recipe::named(name).unwrap();
    let recipe = match name {
        "expected-gradients" | "gradient-shap" | "deeplift-shap" | "deeplift-shap-captum" => {
            with(recipe, "baselines", json!(["zero"]))
        }
        "occlusion" | "occlusion-captum" | "occlusion-pair" => {
            let single = vec![1; rank - 1];
            let recipe = with(recipe, "window", json!(single));
            with(recipe, "stride", json!(single))
        }
        "extremal-perturbation" | "extremal-perturbation-areas" => {
            let recipe = with(recipe, "perturbation", json!({"fade": {"to": "zero"}}));
            // One parameter for each position of a small picture.
            with(recipe, "cell", json!(0.25))
        }
        "meaningful-perturbation" => {
            let recipe = with(recipe, "baseline", json!("zero"));
            with(recipe, "grid", json!(3))
        }
        "xrai" | "xrai-fast" => with(recipe, "min_pixels", json!(1)),
        _ => recipe,
    };
    let few = match name {
        // Fewer would not take every set of a table's columns once.
        "kernel-shap" | "kernel-shap-captum" | "lime" | "lime-captum" | "shapley" if rank == 2 => {
            None
        }
        "kernel-shap" | "kernel-shap-captum" | "lime" | "lime-captum" => Some(150),
        "shapley" | "shapley-sampling" => Some(2),
        "rise" | "rise-xplique" | "hsic" | "hsic-xplique" => Some(64),
        "sobol" | "sobol-xplique" | "sobol-first-order" => Some(16),
        _ => Some(6),
    };
    let recipe = match few {
        Some(samples) if !recipe.options().get("samples").is_none_or(|s| s.is_null()) => {
            with(recipe, "samples", json!(samples))
        }
        _ => recipe,
    };
    with(recipe, "steps", json!(12))
}

/// The method as its sum is promised: enough steps, nothing lost to biases and stabilisers.
pub fn for_sums(recipe: Recipe) -> Recipe {
    let recipe = with(recipe, "steps", json!(200));
    let recipe = with(recipe, "max_sigma", json!(3.0));
    match recipe {
        Recipe::Lrp(_) => unstabilised(recipe.with("bias", "ignored").unwrap()),
        // A few samples may all lie on one side of a kink and know nothing of their error.
        Recipe::ExpectedGradients(_) => with(recipe, "samples", json!(400)),
        other => other,
    }
}

/// LRP with denominators left where they are.
pub fn unstabilised(recipe: Recipe) -> Recipe {
    const TINY: f64 = 1e-14;
    let mut recipe = with(recipe, "stabiliser", json!(TINY));
    for option in ["dense", "convolution"] {
        let own = recipe.options().get(option).cloned().unwrap_or_default();
        if own.get("epsilon").is_some() {
            recipe = with(recipe, option, json!({ "epsilon": TINY }));
        }
    }
    recipe
}

/// Whether a promised sum can be kept on a network: LRP loses what arrives where all inputs of
/// a layer are zero, as behind dead ReLUs, and Captum's rules leave GELU its derivative.
pub fn keeps_sums(method: &str, spec: &Spec) -> bool {
    let dead = spec.act == Act::Relu && spec.biases == Biases::Random;
    match method {
        "deeplift-captum" | "deeplift-shap-captum" => spec.act != Act::Gelu,
        _ => !(method.starts_with("lrp") && dead),
    }
}
