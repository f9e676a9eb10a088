//! The attribution methods, one file each.

mod feature_ablation;
mod feature_permutation;
mod gradient;
mod input_x_gradient;
mod kernel_shap;
mod lime;
mod occlusion;
mod shapley;
mod smooth_grad;

pub use feature_ablation::FeatureAblation;
pub use feature_permutation::FeaturePermutation;
pub use gradient::Gradient;
pub use input_x_gradient::InputXGradient;
pub use kernel_shap::KernelShap;
pub use lime::{Distance, Fit, Lime};
pub use occlusion::{Aggregation, Occlusion};
pub use shapley::{Estimator, Shapley};
pub use smooth_grad::{Form, SmoothGrad};

#[cfg(test)]
pub(crate) mod testing;
