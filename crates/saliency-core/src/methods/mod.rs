//! The attribution methods, one file each.

mod blur_ig;
mod deep_lift;
mod deep_lift_shap;
mod excitation_backprop;
mod expected_gradients;
mod extremal_perturbation;
mod feature_ablation;
mod feature_permutation;
mod gradient;
mod guided_ig;
mod hsic;
mod idgi;
mod input_x_gradient;
mod integrated_gradients;
mod kernel_shap;
mod lime;
mod lrp;
mod meaningful_perturbation;
mod occlusion;
mod rise;
mod shapley;
mod smooth_grad;
mod sobol;
mod xrai;

pub use blur_ig::BlurIg;
pub use deep_lift::{DeepLift, LiftRules};
pub use deep_lift_shap::DeepLiftShap;
pub use excitation_backprop::ExcitationBackprop;
pub use expected_gradients::ExpectedGradients;
pub use extremal_perturbation::{
    ExtremalPerturbation, ExtremalReward, ExtremalVariant, Perturbation,
};
pub use feature_ablation::FeatureAblation;
pub use feature_permutation::FeaturePermutation;
pub use gradient::Gradient;
pub use guided_ig::GuidedIg;
pub use hsic::{CellKernel, Hsic, ScoreWidth};
pub use idgi::Idgi;
pub use input_x_gradient::InputXGradient;
pub use integrated_gradients::{IntegratedGradients, Rule};
pub use kernel_shap::KernelShap;
pub use lime::{Distance, Fit, Lime};
pub use lrp::{BiasShare, Lrp, LrpRule};
pub use meaningful_perturbation::MeaningfulPerturbation;
pub use occlusion::{Aggregation, Occlusion};
pub use rise::{Rise, RiseWeighting};
pub use shapley::{Estimator, Shapley};
pub use smooth_grad::{Form, SmoothGrad};
pub use sobol::{Sobol, SobolEstimator, SobolOrder};
pub use xrai::{Ranking, Regions, Xrai};

#[cfg(test)]
pub(crate) mod testing;
