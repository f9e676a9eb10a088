//! The attribution methods, one file each.

mod blur_ig;
mod expected_gradients;
mod gradient;
mod guided_ig;
mod idgi;
mod input_x_gradient;
mod integrated_gradients;
mod smooth_grad;
mod xrai;

pub use blur_ig::BlurIg;
pub use expected_gradients::ExpectedGradients;
pub use gradient::Gradient;
pub use guided_ig::GuidedIg;
pub use idgi::Idgi;
pub use input_x_gradient::InputXGradient;
pub use integrated_gradients::{IntegratedGradients, Rule};
pub use smooth_grad::{Form, SmoothGrad};
pub use xrai::{Ranking, Regions, Xrai};

#[cfg(test)]
pub(crate) mod testing;
