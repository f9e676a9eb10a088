//! Kernels of the plan on GPUs, and the functions that launch them.
//!
//! Kernels are launched unchecked: every function here makes sure that the buffers it passes are
//! as long as the sizes it passes with them say, which is all that a kernel reads and writes.

#![allow(unsafe_code)]

mod attention;
mod launch;
mod launch_layers;
mod layers;
mod pointwise;
mod product;

use cubecl::prelude::*;

pub use attention::{Layout, Sizes};
pub use launch::{
    Extra, Matrix, Numbers, Offsets, Values, combine, gather, max_pool, max_pool_back, mean,
    mean_back, product, sum_of_products, to_planes, to_values, zeros,
};
pub use launch_layers::{
    Factors, Span, Windows, activate, affine, copy, copy_back, depthwise, depthwise_back, fill,
    gate, heads_product, norm, norm_back, softmax, softmax_back, squares,
};
pub use layers::Kind;

pub use product::SIDE;

/// Values of four channels.
type Four = Vector<f32, Const<4>>;

/// Where windows read.
#[derive(CubeType, CubeLaunch, Clone, Copy)]
pub struct Reads {
    pub height: u32,
    pub width: u32,
    /// Channels of the buffer, the first that is read, and how many are.
    pub pitch: u32,
    pub first: u32,
    pub channels: u32,
    /// Where the window of output (0, 0) starts, and how far the next is.
    pub origin_y: i32,
    pub origin_x: i32,
    pub step_y: i32,
    pub step_x: i32,
    pub window_y: u32,
    pub window_x: u32,
}

/// Where outputs go.
#[derive(CubeType, CubeLaunch, Clone, Copy)]
pub struct Writes {
    /// Outputs of all rows, and of one.
    pub count: u32,
    pub grid_y: u32,
    pub grid_x: u32,
    pub height: u32,
    pub width: u32,
    /// Channels of the buffer, the first that is written, and how many are.
    pub pitch: u32,
    pub first: u32,
    pub channels: u32,
    /// Where output (0, 0) goes, and how far the next is.
    pub origin_y: u32,
    pub origin_x: u32,
    pub step_y: u32,
    pub step_x: u32,
}

/// What is done with a sum before it is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Finish {
    pub bias: bool,
    /// Added to what is there.
    pub accumulate: bool,
    pub relu: bool,
    pub other: Other,
}

/// What another buffer of the same shape is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Other {
    #[default]
    None,
    /// Added.
    Residual,
    /// What a ReLU made: gradients pass where it is positive.
    Mask,
    /// The same, and only gradients that are positive themselves.
    Guided,
}

/// Row, line and place in the line of an output.
#[cube]
fn place(index: u32, grid_y: u32, grid_x: u32) -> (u32, u32, u32) {
    let line = index / grid_x;
    (line / grid_y, line % grid_y, index % grid_x)
}

/// Where the channels of an output start.
#[cube]
fn address(index: u32, writes: &Writes) -> u32 {
    let (row, y, x) = place(index, writes.grid_y, writes.grid_x);
    let y = y * writes.step_y + writes.origin_y;
    let x = x * writes.step_x + writes.origin_x;
    ((row * writes.height + y) * writes.width + x) * writes.pitch + writes.first
}

/// Whether a step forward from some output comes to a position, and from which: the other way
/// round than windows read.
#[cube]
fn reached(from: i32, step: i32, outputs: u32) -> (bool, u32) {
    let output = from / step;
    let reached = from >= 0 && from % step == 0 && output < outputs as i32;
    (reached, output as u32)
}

/// Some of four values.
#[cube]
fn take<O: Size>(four: Four, #[comptime] first: usize) -> Vector<f32, O> {
    let mut some = Vector::<f32, O>::new(0.0f32);
    #[unroll]
    for j in 0..O::value() {
        some.insert(j, four.extract(comptime![first + j]));
    }
    some
}

/// Writes a sum after all that is done with it.
#[cube]
fn finish<O: Size>(
    sum: Vector<f32, O>,
    at: usize,
    channel: usize,
    bias: &[Vector<f32, O>],
    other: &[Vector<f32, O>],
    out: &mut [Vector<f32, O>],
    #[comptime] how: Finish,
) {
    let zero = Vector::<f32, O>::new(0.0f32);
    let mut value = sum;
    if comptime![how.bias] {
        value += bias[channel];
    }
    if comptime![how.accumulate] {
        value += out[at];
    }
    if comptime![how.other == Other::Residual] {
        value += other[at];
    }
    if comptime![how.relu || how.other == Other::Guided] {
        // Not a maximum: what is no number stays so.
        value = select_many(value.less_than(&zero), zero, value);
    }
    if comptime![how.other == Other::Mask || how.other == Other::Guided] {
        value = select_many(other[at].greater_than(&zero), value, zero);
    }
    out[at] = value;
}
