//! The attribution methods, one file each.

mod blur_ig;
mod expected_gradients;
mod feature_ablation;
mod feature_permutation;
mod deep_lift;
mod deep_lift_shap;
mod gradient;
mod guided_ig;
mod idgi;
mod input_x_gradient;
mod integrated_gradients;
mod kernel_shap;
mod lime;
mod occlusion;
mod shapley;
mod smooth_grad;
mod xrai;

pub use blur_ig::BlurIg;
pub use expected_gradients::ExpectedGradients;
pub use feature_ablation::FeatureAblation;
pub use feature_permutation::FeaturePermutation;
pub use deep_lift::{DeepLift, LiftRules};
pub use deep_lift_shap::DeepLiftShap;
pub use gradient::Gradient;
pub use guided_ig::GuidedIg;
pub use idgi::Idgi;
pub use input_x_gradient::InputXGradient;
pub use integrated_gradients::{IntegratedGradients, Rule};
pub use kernel_shap::KernelShap;
pub use lime::{Distance, Fit, Lime};
pub use occlusion::{Aggregation, Occlusion};
pub use shapley::{Estimator, Shapley};
pub use smooth_grad::{Form, SmoothGrad};
pub use xrai::{Ranking, Regions, Xrai};
mod extremal_perturbation;
mod gradient;
mod hsic;
mod input_x_gradient;
mod meaningful_perturbation;
mod rise;
mod smooth_grad;
mod sobol;

pub use extremal_perturbation::{
    ExtremalPerturbation, ExtremalReward, ExtremalVariant, Perturbation,
};
pub use gradient::Gradient;
pub use hsic::{CellKernel, Hsic, ScoreWidth};
pub use input_x_gradient::InputXGradient;
pub use meaningful_perturbation::MeaningfulPerturbation;
pub use rise::{Rise, RiseWeighting};
pub use smooth_grad::{Form, SmoothGrad};
pub use sobol::{Sobol, SobolEstimator, SobolOrder};

#[cfg(test)]
pub(crate) mod testing;
