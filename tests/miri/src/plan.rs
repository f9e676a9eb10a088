//! What lies around the kernels.

#[path = "../../../crates/saliency-core/src/plan/kernel/mod.rs"]
pub(crate) mod kernel;
