//! Layers other than products: functions of single values, factors, depthwise windows, copies.

use cubecl::prelude::*;

use super::{Finish, Reads, Writes, finish, place, reached};

/// A function of single values, whose numbers are given when it runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    LeakyRelu,
    Elu,
    Sigmoid,
    Tanh,
    Silu,
    Gelu,
    GeluTanh,
    HardSigmoid,
    HardSwish,
    Clamp,
}

/// Between two numbers; what is no number stays so, as it need not with `clamp`.
#[cube]
fn bounded(x: f32, low: f32, high: f32) -> f32 {
    let x = select(x < low, low, x);
    select(x > high, high, x)
}

/// e^x where it is neither zero nor infinite.
#[cube]
fn exp(x: f32) -> f32 {
    f32::exp(bounded(x, -87.0f32, 88.0f32))
}

#[cube]
fn sigmoid(x: f32) -> f32 {
    1.0f32 / (1.0f32 + exp(-x))
}

/// By its Taylor polynomial near zero, where the exponentials would cancel.
#[cube]
fn tanh(x: f32) -> f32 {
    let s = x * x;
    let mut sum = 0.021_869_488f32;
    sum = sum * s - 0.053_968_254f32;
    sum = sum * s + 0.133_333_33f32;
    sum = sum * s - 0.333_333_34f32;
    sum = sum * s + 1.0f32;
    let far = 1.0f32 - 2.0f32 / (1.0f32 + exp(2.0f32 * x));
    select(s < 0.04f32, x * sum, far)
}

/// The normal distribution function and density: Abramowitz and Stegun 7.1.26.
#[cube]
fn normal(x: f32) -> (f32, f32) {
    let z = f32::abs(x) * 0.707_106_77f32;
    let t = 1.0f32 / (1.0f32 + 0.327_591_1f32 * z);
    let mut sum = 1.061_405_4f32;
    sum = sum * t - 1.453_152f32;
    sum = sum * t + 1.421_413_7f32;
    sum = sum * t - 0.284_496_74f32;
    sum = sum * t + 0.254_829_6f32;
    let bell = exp(-z * z);
    let tail = 0.5f32 * sum * t * bell;
    (
        select(x < 0.0f32, tail, 1.0f32 - tail),
        bell * 0.398_942_3f32,
    )
}

/// The function's value and derivative, at corners that of Burn.
#[cube]
fn at(x: f32, a: f32, b: f32, #[comptime] kind: Kind) -> (f32, f32) {
    match kind {
        Kind::LeakyRelu => {
            let below = x < 0.0f32;
            (select(below, a * x, x), select(below, a, 1.0f32))
        }
        Kind::Elu => {
            let above = x > 0.0f32;
            let below = exp(select(above, 0.0f32, x));
            (
                select(above, x, a * (below - 1.0f32)),
                select(above, 1.0f32, a * below),
            )
        }
        Kind::Sigmoid => {
            let s = sigmoid(x);
            (s, s * (1.0f32 - s))
        }
        Kind::Tanh => {
            let t = tanh(x);
            (t, 1.0f32 - t * t)
        }
        Kind::Silu => {
            let s = sigmoid(x);
            (x * s, s + x * s * (1.0f32 - s))
        }
        Kind::Gelu => {
            let (below, density) = normal(x);
            (x * below, below + x * density)
        }
        Kind::GeluTanh => {
            let t = tanh(0.797_884_6f32 * (x + 0.044_715f32 * x * x * x));
            let inner = 0.797_884_6f32 * (1.0f32 + 0.134_145f32 * x * x);
            let half = 0.5f32 * (1.0f32 + t);
            (x * half, half + 0.5f32 * x * (1.0f32 - t * t) * inner)
        }
        Kind::HardSigmoid => {
            let y = a * x + b;
            let inside = bounded(y, 0.0f32, 1.0f32);
            (inside, select(inside == y, a, 0.0f32))
        }
        Kind::HardSwish => {
            let y = select(x > 3.0f32, x, x * (x / 6.0f32 + 0.5f32));
            let slope = select(x > 3.0f32, 1.0f32, x / 3.0f32 + 0.5f32);
            let below = x < -3.0f32;
            (select(below, 0.0f32, y), select(below, 0.0f32, slope))
        }
        Kind::Clamp => {
            let inside = x >= a && x <= b;
            (bounded(x, a, b), select(inside, 1.0f32, 0.0f32))
        }
    }
}

/// Values, and the derivatives where they are kept.
#[cube(launch_unchecked)]
pub fn activate(
    source: &[f32],
    out: &mut [f32],
    slopes: &mut [f32],
    a: f32,
    b: f32,
    #[comptime] kind: Kind,
    #[comptime] keep: bool,
) {
    if ABSOLUTE_POS < out.len() {
        let (value, slope) = at(source[ABSOLUTE_POS], a, b, kind);
        out[ABSOLUTE_POS] = value;
        if comptime![keep] {
            slopes[ABSOLUTE_POS] = slope;
        }
    }
}

/// scale x + shift, with factors that repeat.
#[cube(launch_unchecked)]
pub fn affine(
    source: &[f32],
    scale: &[f32],
    shift: &[f32],
    out: &mut [f32],
    scales: u32,
    shifts: u32,
    #[comptime] scaled: bool,
    #[comptime] shifted: bool,
) {
    if ABSOLUTE_POS < out.len() {
        let mut value = source[ABSOLUTE_POS];
        if comptime![scaled] {
            value *= scale[(ABSOLUTE_POS as u32 % scales) as usize];
        }
        if comptime![shifted] {
            value += shift[(ABSOLUTE_POS as u32 % shifts) as usize];
        }
        out[ABSOLUTE_POS] = value;
    }
}

/// Values times those of another buffer, which may have one position for all (`spread`).
#[cube(launch_unchecked)]
pub fn gate(
    a: &[f32],
    b: &[f32],
    other: &[Vector<f32, Const<1>>],
    out: &mut [Vector<f32, Const<1>>],
    positions: u32,
    channels: u32,
    #[comptime] spread: bool,
    #[comptime] how: Finish,
) {
    if ABSOLUTE_POS < out.len() {
        let unit = ABSOLUTE_POS as u32;
        let mut factor = unit;
        if comptime![spread] {
            factor = unit / (positions * channels) * channels + unit % channels;
        }
        let value = Vector::new(a[ABSOLUTE_POS] * b[factor as usize]);
        finish::<Const<1>>(value, ABSOLUTE_POS, 0usize, other, other, out, how);
    }
}

/// Windows of each channel by itself, weights `[window][channels]`, each sum times the share of
/// its position.
#[cube(launch_unchecked)]
pub fn depthwise(
    source: &[f32],
    weights: &[f32],
    bias: &[f32],
    shares: &[f32],
    out: &mut [f32],
    reads: Reads,
    writes: Writes,
    dilation_y: u32,
    dilation_x: u32,
    #[comptime] biased: bool,
    #[comptime] shared: bool,
) {
    if ABSOLUTE_POS < out.len() {
        let unit = ABSOLUTE_POS as u32;
        let channel = unit % writes.channels;
        let (row, y, x) = place(unit / writes.channels, writes.grid_y, writes.grid_x);
        let mut sum = 0.0f32;
        for tap_y in 0..reads.window_y {
            let from_y = y as i32 * reads.step_y + reads.origin_y + (tap_y * dilation_y) as i32;
            if from_y >= 0 && from_y < reads.height as i32 {
                for tap_x in 0..reads.window_x {
                    let from_x =
                        x as i32 * reads.step_x + reads.origin_x + (tap_x * dilation_x) as i32;
                    if from_x >= 0 && from_x < reads.width as i32 {
                        let line = row * reads.height + from_y as u32;
                        let at = (line * reads.width + from_x as u32) * reads.pitch + channel;
                        let tap = tap_y * reads.window_x + tap_x;
                        sum += source[at as usize]
                            * weights[(tap * writes.channels + channel) as usize];
                    }
                }
            }
        }
        if comptime![shared] {
            sum *= shares[(y * writes.grid_x + x) as usize];
        }
        if comptime![biased] {
            sum += bias[channel as usize];
        }
        out[ABSOLUTE_POS] = sum;
    }
}

/// The gradient at the input of [`depthwise`].
#[cube(launch_unchecked)]
pub fn depthwise_back(
    gradient: &[f32],
    weights: &[f32],
    shares: &[f32],
    other: &[Vector<f32, Const<1>>],
    out: &mut [Vector<f32, Const<1>>],
    // Of the outputs, whose windows read as `origin` and `step` say.
    reads: Reads,
    // Of the values.
    writes: Writes,
    dilation_y: u32,
    dilation_x: u32,
    #[comptime] shared: bool,
    #[comptime] how: Finish,
) {
    if ABSOLUTE_POS < out.len() {
        let unit = ABSOLUTE_POS as u32;
        let channel = unit % writes.channels;
        let (row, y, x) = place(unit / writes.channels, writes.grid_y, writes.grid_x);
        let mut sum = 0.0f32;
        for tap_y in 0..reads.window_y {
            let from_y = y as i32 - reads.origin_y - (tap_y * dilation_y) as i32;
            let (in_y, out_y) = reached(from_y, reads.step_y, reads.height);
            if in_y {
                for tap_x in 0..reads.window_x {
                    let from_x = x as i32 - reads.origin_x - (tap_x * dilation_x) as i32;
                    let (in_x, out_x) = reached(from_x, reads.step_x, reads.width);
                    if in_x {
                        let position = out_y * reads.width + out_x;
                        let at = row * reads.height * reads.width + position;
                        let tap = tap_y * reads.window_x + tap_x;
                        let mut term = gradient[(at * reads.pitch + channel) as usize]
                            * weights[(tap * writes.channels + channel) as usize];
                        if comptime![shared] {
                            term *= shares[position as usize];
                        }
                        sum += term;
                    }
                }
            }
        }
        finish::<Const<1>>(
            Vector::new(sum),
            ABSOLUTE_POS,
            0usize,
            other,
            other,
            out,
            how,
        );
    }
}

/// Where [`copy`] reads and writes in a row.
#[derive(CubeType, CubeLaunch, Clone, Copy)]
pub struct Copies {
    /// Values of a row of the source and of the target.
    pub source: u32,
    pub target: u32,
    /// From one channel of the source to the next.
    pub spacing: u32,
    /// Where the first goes, from one position of the target to the next, and how many channels.
    pub first: u32,
    pub pitch: u32,
    pub channels: u32,
}

/// Source and target of a value: position `unit / channels` starts at `starts`.
#[cube]
fn ends(unit: u32, starts: &[u32], copies: &Copies) -> (usize, usize) {
    let channel = unit % copies.channels;
    let count = starts.len() as u32;
    let position = unit / copies.channels % count;
    let row = unit / copies.channels / count;
    let from = row * copies.source + starts[position as usize] + channel * copies.spacing;
    let to = row * copies.target + copies.first + position * copies.pitch + channel;
    (from as usize, to as usize)
}

#[cube(launch_unchecked)]
pub fn copy(source: &[f32], starts: &[u32], out: &mut [f32], copies: Copies, units: u32) {
    if (ABSOLUTE_POS as u32) < units {
        let (from, to) = ends(ABSOLUTE_POS as u32, starts, &copies);
        out[to] = source[from];
    }
}

/// Adds the gradient at what [`copy`] wrote, where every value went to one place at most.
#[cube(launch_unchecked)]
pub fn copy_back(gradient: &[f32], starts: &[u32], out: &mut [f32], copies: Copies, units: u32) {
    if (ABSOLUTE_POS as u32) < units {
        let (from, to) = ends(ABSOLUTE_POS as u32, starts, &copies);
        out[from] += gradient[to];
    }
}

/// The same values in every row.
#[cube(launch_unchecked)]
pub fn fill(values: &[f32], out: &mut [f32], row: u32, first: u32, units: u32) {
    let unit = ABSOLUTE_POS as u32;
    if unit < units {
        let count = values.len() as u32;
        out[(unit / count * row + first + unit % count) as usize] = values[(unit % count) as usize];
    }
}
