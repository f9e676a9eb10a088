//! The attribution methods, one file each.

mod ablation_cam;
mod cam;
mod deconvnet;
mod eigen_cam;
mod eigen_grad_cam;
mod full_grad;
mod grad_cam;
mod grad_cam_pp;
mod gradient;
mod guided_backprop;
mod guided_grad_cam;
mod hires_cam;
mod input_x_gradient;
mod layer_cam;
mod score_cam;
mod smooth_grad;
mod xgrad_cam;

pub use ablation_cam::{AblationCam, ScoreDrop};
pub use deconvnet::Deconvnet;
pub use eigen_cam::EigenCam;
pub use eigen_grad_cam::EigenGradCam;
pub use full_grad::{FullGrad, Psi};
pub use grad_cam::GradCam;
pub use grad_cam_pp::{Alphas, GradCamPlusPlus};
pub use gradient::Gradient;
pub use guided_backprop::GuidedBackprop;
pub use guided_grad_cam::GuidedGradCam;
pub use hires_cam::HiResCam;
pub use input_x_gradient::InputXGradient;
pub use layer_cam::LayerCam;
pub use score_cam::{ScoreCam, ScoreWeights};
pub use smooth_grad::{Form, SmoothGrad};
pub use xgrad_cam::XGradCam;

#[cfg(test)]
pub(crate) mod testing;
