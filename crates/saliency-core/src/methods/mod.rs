//! The attribution methods, one file each.

mod attention;
mod attention_map;
mod attention_rollout;
mod gradient;
mod gradient_attention_rollout;
mod input_x_gradient;
mod internal_influence;
mod layer_activation;
mod layer_conductance;
mod layer_gradient_x_activation;
mod layer_integrated_gradients;
mod layer_map;
mod line;
mod neuron;
mod neuron_conductance;
mod neuron_gradient;
mod neuron_integrated_gradients;
mod smooth_grad;
mod tokens;

pub use attention::Query;
pub use attention_map::AttentionMap;
pub use attention_rollout::{AttentionRollout, HeadFusion};
pub use gradient::Gradient;
pub use gradient_attention_rollout::GradientAttentionRollout;
pub use input_x_gradient::InputXGradient;
pub use internal_influence::InternalInfluence;
pub use layer_activation::LayerActivation;
pub use layer_conductance::{IntervalGradient, LayerConductance};
pub use layer_gradient_x_activation::LayerGradientXActivation;
pub use layer_integrated_gradients::LayerIntegratedGradients;
pub use layer_map::{LayerAttribution, LayerMethod, LayerOutcome};
pub use neuron_conductance::NeuronConductance;
pub use neuron_gradient::NeuronGradient;
pub use neuron_integrated_gradients::NeuronIntegratedGradients;
pub use smooth_grad::{Form, SmoothGrad};

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod transformer;
