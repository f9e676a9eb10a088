//! What is done position by position.

use cubecl::prelude::*;

use super::{Finish, Reads, Writes, finish, place, reached};

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

/// `[rows, lines, columns]` to `[rows, columns, lines]`.
#[cube(launch_unchecked)]
pub fn transpose(source: &[f32], out: &mut [f32], lines: u32, columns: u32) {
    if ABSOLUTE_POS < out.len() {
        let unit = ABSOLUTE_POS as u32;
        let column = unit / lines;
        let line = column / columns * lines + unit % lines;
        out[ABSOLUTE_POS] = source[(line * columns + column % columns) as usize];
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
    #[comptime] keep: bool,
) {
    if ABSOLUTE_POS < out.len() {
        let vectors = writes.channels / out.vector_size() as u32;
        let unit = ABSOLUTE_POS as u32;
        let vector = unit % vectors;
        let (row, y, x) = place(unit / vectors, writes.grid_y, writes.grid_x);
        // Infinity has no name in WGSL.
        let mut best = Vector::<f32, O>::new(f32::MIN);
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
                        // What is no number is not lost among those that are.
                        let none = value.is_nan();
                        best = select_many(none, value, best);
                        which = select_many(none, tap, which);
                    }
                }
            }
        }
        out[ABSOLUTE_POS] = best;
        if keep {
            places[ABSOLUTE_POS] = which;
        }
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
            let (in_y, out_y) = reached(from_y, reads.step_y, reads.height);
            if in_y {
                for tap_x in 0..reads.window_x {
                    let from_x = x as i32 - reads.origin_x - (tap_x * dilation_x) as i32;
                    let (in_x, out_x) = reached(from_x, reads.step_x, reads.width);
                    if in_x {
                        let line = row * reads.height + out_y;
                        let at = ((line * reads.width + out_x) * vectors + vector) as usize;
                        let tap = Vector::<u32, O>::new(tap_y * reads.window_x + tap_x);
                        sum += select_many(places[at].equal(&tap), gradient[at], zero);
                    }
                }
            }
        }
        finish::<O>(sum, ABSOLUTE_POS, 0usize, other, other, out, how);
    }
}

/// Vectors of channels that a cube adds up, and units that share the positions of each.
pub const TOGETHER: usize = 16;
pub const SHARES: usize = 16;

/// The sums over all positions of `a`, or of `a` times `b`, times a scale. A cube makes
/// [`TOGETHER`] vectors of a row.
#[cube(launch_unchecked)]
pub fn sum_positions<O: Size>(
    a: &[Vector<f32, O>],
    b: &[Vector<f32, O>],
    other: &[Vector<f32, O>],
    out: &mut [Vector<f32, O>],
    rows: u32,
    positions: u32,
    vectors: u32,
    scale: f32,
    #[comptime] weighted: bool,
    #[comptime] how: Finish,
) {
    let mut shared = Shared::<[Vector<f32, O>]>::new_slice(comptime![TOGETHER * SHARES]);
    let blocks = vectors.div_ceil(comptime![TOGETHER as u32]);
    let row = CUBE_POS as u32 / blocks;
    let across = UNIT_POS_X % comptime![TOGETHER as u32];
    let share = UNIT_POS_X / comptime![TOGETHER as u32];
    let vector = CUBE_POS as u32 % blocks * comptime![TOGETHER as u32] + across;
    let mut sum = Vector::<f32, O>::new(0.0f32);
    if row < rows && vector < vectors {
        for position in range_stepped(share, positions, comptime![SHARES as u32]) {
            let at = ((row * positions + position) * vectors + vector) as usize;
            if comptime![weighted] {
                sum += a[at] * b[at];
            } else {
                sum += a[at];
            }
        }
    }
    shared[UNIT_POS_X as usize] = sum;
    sync_cube();
    if share == 0 && row < rows && vector < vectors {
        let mut all = Vector::<f32, O>::new(0.0f32);
        #[unroll]
        for i in 0..SHARES {
            all += shared[across as usize + comptime![i * TOGETHER]];
        }
        let at = (row * vectors + vector) as usize;
        let all = all * Vector::new(scale);
        finish::<O>(all, at, 0usize, other, other, out, how);
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
