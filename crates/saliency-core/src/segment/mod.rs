//! Cutting pictures into regions of like values, on the host in f64: the same on every device.

pub(crate) mod felzenszwalb;
pub(crate) mod picture;
mod slic;

pub use slic::Slic;
