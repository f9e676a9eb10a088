//! The attribution methods, one file each.

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
