//! The attribution methods, one file each.

mod deep_lift;
mod deep_lift_shap;
mod gradient;
mod input_x_gradient;
mod smooth_grad;

pub use deep_lift::{DeepLift, LiftRules};
pub use deep_lift_shap::DeepLiftShap;
pub use gradient::Gradient;
pub use input_x_gradient::InputXGradient;
pub use smooth_grad::{Form, SmoothGrad};

#[cfg(test)]
pub(crate) mod testing;
