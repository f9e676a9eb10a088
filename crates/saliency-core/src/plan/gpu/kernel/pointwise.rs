//! What is done position by position.

use cubecl::prelude::*;

use super::{Finish, Reads, Writes, finish, place};

/// Single values: `a` (or nothing), and what [`Finish`] says.
#[cube(launch_unchecked)]
pub fn combine<O: Size>(
    a: &[Vector<f32, O>],
    other: &[Vector<f32, O>],
    out: &mut [Vector<f32, O>],
    #[comptime] given: bool,
    #[comptime] how: Finish,
) {
    if ABSOLUTE_POS < out.len() {
        let value = if comptime![given] {
            a[ABSOLUTE_POS]
        } else {
            Vector::<f32, O>::new(0.0f32)
        };
        finish::<O>(value, ABSOLUTE_POS, 0usize, other, other, out, how);
    }
}

#[cube(launch_unchecked)]
pub fn zeros<O: Size>(out: &mut [Vector<f32, O>]) {
    if ABSOLUTE_POS < out.len() {
        out[ABSOLUTE_POS] = Vector::<f32, O>::new(0.0f32);
    }
}

/// `[rows, channels, positions]` to `[rows, positions, channels]`.
#[cube(launch_unchecked)]
pub fn to_values(planes: &[f32], out: &mut [f32], positions: u32, channels: u32) {
    if ABSOLUTE_POS < out.len() {
        let unit = ABSOLUTE_POS as u32;
        let position = unit / channels;
        let plane = position / positions * channels + unit % channels;
        out[ABSOLUTE_POS] = planes[(plane * positions + position % positions) as usize];
    }
}

/// `[rows, positions, channels]` to `[rows, channels, positions]`.
#[cube(launch_unchecked)]
pub fn to_planes(values: &[f32], out: &mut [f32], positions: u32, channels: u32) {
    if ABSOLUTE_POS < out.len() {
        let unit = ABSOLUTE_POS as u32;
        let plane = unit / positions;
        let position = plane / channels * positions + unit % positions;
        out[ABSOLUTE_POS] = values[(position * channels + plane % channels) as usize];
    }
}

/// The largest value of each window, and which it was. Positions of the window are `dilation`
/// apart.
#[cube(launch_unchecked)]
pub fn max_pool<O: Size>(
    source: &[Vector<f32, O>],
    out: &mut [Vector<f32, O>],
    places: &mut [Vector<u32, O>],
    reads: Reads,
    writes: Writes,
    dilation_y: u32,
    dilation_x: u32,
) {
    if ABSOLUTE_POS < out.len() {
        let vectors = writes.channels / out.vector_size() as u32;
        let unit = ABSOLUTE_POS as u32;
        let vector = unit % vectors;
        let (row, y, x) = place(unit / vectors, writes.grid_y, writes.grid_x);
        let mut best = Vector::<f32, O>::new(0.0f32);
        let mut which = Vector::<u32, O>::new(0u32);
        let mut first = true;
        for tap_y in 0..reads.window_y {
            for tap_x in 0..reads.window_x {
                let from_y = y as i32 * reads.step_y + reads.origin_y + (tap_y * dilation_y) as i32;
                let from_x = x as i32 * reads.step_x + reads.origin_x + (tap_x * dilation_x) as i32;
                let inside = from_y >= 0
                    && from_x >= 0
                    && from_y < reads.height as i32
                    && from_x < reads.width as i32;
                if inside {
                    let line = row * reads.height + from_y as u32;
                    let at = (line * reads.width + from_x as u32) * vectors + vector;
                    let value = source[at as usize];
                    let tap = Vector::<u32, O>::new(tap_y * reads.window_x + tap_x);
                    if first {
                        best = value;
                        which = tap;
                        first = false;
                    } else {
                        let more = value.greater_than(&best);
                        best = select_many(more, value, best);
                        which = select_many(more, tap, which);
                    }
                }
            }
        }
        out[ABSOLUTE_POS] = best;
        places[ABSOLUTE_POS] = which;
    }
}

/// Gradients to where the maxima were.
#[cube(launch_unchecked)]
pub fn max_pool_back<O: Size>(
    gradient: &[Vector<f32, O>],
    places: &[Vector<u32, O>],
    other: &[Vector<f32, O>],
    out: &mut [Vector<f32, O>],
    // Of the maxima, whose windows read as `origin` and `step` say.
    reads: Reads,
    // Of the values.
    writes: Writes,
    dilation_y: u32,
    dilation_x: u32,
    #[comptime] how: Finish,
) {
    if ABSOLUTE_POS < out.len() {
        let vectors = writes.channels / out.vector_size() as u32;
        let unit = ABSOLUTE_POS as u32;
        let vector = unit % vectors;
        let (row, y, x) = place(unit / vectors, writes.grid_y, writes.grid_x);
        let zero = Vector::<f32, O>::new(0.0f32);
        let mut sum = Vector::<f32, O>::new(0.0f32);
        for tap_y in 0..reads.window_y {
            let from_y = y as i32 - reads.origin_y - (tap_y * dilation_y) as i32;
            let out_y = from_y / reads.step_y;
            let fits = from_y >= 0 && from_y % reads.step_y == 0;
            if fits && out_y < reads.height as i32 {
                for tap_x in 0..reads.window_x {
                    let from_x = x as i32 - reads.origin_x - (tap_x * dilation_x) as i32;
                    let out_x = from_x / reads.step_x;
                    let fits = from_x >= 0 && from_x % reads.step_x == 0;
                    if fits && out_x < reads.width as i32 {
                        let line = row * reads.height + out_y as u32;
                        let at = ((line * reads.width + out_x as u32) * vectors + vector) as usize;
                        let tap = Vector::<u32, O>::new(tap_y * reads.window_x + tap_x);
                        sum += select_many(places[at].equal(&tap), gradient[at], zero);
                    }
                }
            }
        }
        finish::<O>(sum, ABSOLUTE_POS, 0usize, other, other, out, how);
    }
}

/// The mean over all positions.
#[cube(launch_unchecked)]
pub fn mean<O: Size>(
    source: &[Vector<f32, O>],
    out: &mut [Vector<f32, O>],
    positions: u32,
    vectors: u32,
) {
    if ABSOLUTE_POS < out.len() {
        let unit = ABSOLUTE_POS as u32;
        let start = unit / vectors * positions * vectors + unit % vectors;
        let mut sum = Vector::<f32, O>::new(0.0f32);
        for position in 0..positions {
            sum += source[(start + position * vectors) as usize];
        }
        out[ABSOLUTE_POS] = sum / Vector::new(positions as f32);
    }
}

/// The gradient at a mean to all positions.
#[cube(launch_unchecked)]
pub fn mean_back<O: Size>(
    gradient: &[Vector<f32, O>],
    other: &[Vector<f32, O>],
    out: &mut [Vector<f32, O>],
    positions: u32,
    vectors: u32,
    #[comptime] how: Finish,
) {
    if ABSOLUTE_POS < out.len() {
        let unit = ABSOLUTE_POS as u32;
        let from = unit / vectors / positions * vectors + unit % vectors;
        let share = gradient[from as usize] / Vector::new(positions as f32);
        finish::<O>(share, ABSOLUTE_POS, 0usize, other, other, out, how);
    }
}
