//! Cutting pictures into regions of like values.

mod slic;

pub use slic::Slic;
