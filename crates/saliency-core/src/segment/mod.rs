//! Segmentation of pictures, on the host in f64: the same on every device.

pub(crate) mod felzenszwalb;
pub(crate) mod picture;
