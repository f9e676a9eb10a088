//! The attribution methods, one file each.

mod excitation_backprop;
mod gradient;
mod input_x_gradient;
mod lrp;
mod smooth_grad;

pub use excitation_backprop::ExcitationBackprop;
pub use gradient::Gradient;
pub use input_x_gradient::InputXGradient;
pub use lrp::{BiasShare, Lrp, LrpRule};
pub use smooth_grad::{Form, SmoothGrad};

#[cfg(test)]
pub(crate) mod testing;
