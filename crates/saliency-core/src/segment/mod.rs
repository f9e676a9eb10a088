//! Segmentation of pictures, on the host in f64: the same on every device.

pub(crate) mod felzenszwalb;
pub(crate) mod picture;
//! Cutting pictures into regions of like values.

mod slic;

pub use slic::Slic;
