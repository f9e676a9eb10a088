//! Convolutions of each channel by itself, and mean pooling, which is one.

use super::{
    buffer::{Buffer, Geometry},
    elementwise::{Strides, taps},
    kernel::{Isa, Work},
};

#[derive(Debug)]
pub(super) struct Depthwise {
    /// The layer's; a pooling has none.
    pub name: Option<String>,
    pub from: usize,
    pub to: usize,
    pub strides: Strides,
    /// `[window positions][channels]`.
    pub weights: Vec<f32>,
    pub bias: Vec<f32>,
    /// What each output is multiplied by, where it is not one for all.
    pub shares: Vec<f32>,
}

impl Depthwise {
    fn share(&self, position: usize) -> f32 {
        self.shares.get(position).copied().unwrap_or(1.0)
    }
}

/// With windows that lie as `strides` say.
pub(super) fn depthwise(
    isa: Isa,
    layer: &Depthwise,
    strides: &Strides,
    from: &Buffer,
    to: &mut Buffer,
) {
    let Geometry {
        width, channels, ..
    } = to.geometry;
    let source = from.geometry;
    to.each_line(|row, y, line| {
        let values = &from.data[row * source.len()..][..source.len()];
        let mut found = Vec::new();
        for (x, out) in line.chunks_exact_mut(channels).enumerate() {
            taps(source, strides, [y, x], &mut found);
            match layer.bias.is_empty() {
                true => out.fill(0.0),
                false => out.copy_from_slice(&layer.bias),
            }
            isa.vectorised(Sums {
                values,
                taps: &found,
                weights: &layer.weights,
                scale: layer.share(y * width + x),
                out,
            });
        }
    });
}

/// Adds the gradient at the input.
pub(super) fn depthwise_back(isa: Isa, layer: &Depthwise, gradient: &Buffer, to: &mut Buffer) {
    let channels = to.geometry.channels;
    let source = gradient.geometry;
    to.each_line(|row, y, line| {
        let values = &gradient.data[row * source.len()..][..source.len()];
        for (x, out) in line.chunks_exact_mut(channels).enumerate() {
            for (at, position, tap) in reached(source, &layer.strides, [y, x]) {
                isa.vectorised(Sums {
                    values,
                    taps: &[(at, tap)],
                    weights: &layer.weights,
                    scale: layer.share(position),
                    out,
                });
            }
        }
    });
}

/// The outputs whose window holds an input: where they lie in a row, which they are, and which
/// position of their window the input is.
fn reached(
    output: Geometry,
    strides: &Strides,
    [y, x]: [usize; 2],
) -> impl Iterator<Item = (usize, usize, u8)> {
    let Strides {
        kernel,
        stride,
        padding,
        dilation,
    } = *strides;
    let sizes = [output.height, output.width];
    let along = move |axis: usize, place: usize| {
        (0..kernel[axis]).filter_map(move |k| {
            let shifted = (place + padding[axis]).checked_sub(k * dilation[axis])?;
            let at = shifted / stride[axis];
            (shifted % stride[axis] == 0 && at < sizes[axis]).then_some((k, at))
        })
    };
    along(0, y).flat_map(move |(ky, oy)| {
        along(1, x).map(move |(kx, ox)| {
            let at = output.at(0, oy as isize, ox as isize);
            (at, oy * output.width + ox, (ky * kernel[1] + kx) as u8)
        })
    })
}

/// Adds scale times the sum over taps of value times weight, channel by channel.
struct Sums<'a> {
    values: &'a [f32],
    taps: &'a [(usize, u8)],
    weights: &'a [f32],
    scale: f32,
    out: &'a mut [f32],
}

impl Work for Sums<'_> {
    type Made = ();

    #[inline(always)]
    fn run(self) {
        const BLOCK: usize = 64;
        let channels = self.out.len();
        for (block, out) in self.out.chunks_mut(BLOCK).enumerate() {
            let first = block * BLOCK;
            let mut sums = [0.0f32; BLOCK];
            let sums = &mut sums[..out.len()];
            for &(at, tap) in self.taps {
                let values = &self.values[at + first..][..out.len()];
                let weights = &self.weights[usize::from(tap) * channels + first..][..out.len()];
                for ((sum, value), weight) in sums.iter_mut().zip(values).zip(weights) {
                    *sum += value * weight;
                }
            }
            for (out, sum) in out.iter_mut().zip(sums) {
                *out += self.scale * *sum;
            }
        }
    }
}

/// Values times those of another buffer, or times one factor for each channel.
pub(super) fn gate(from: &Buffer, by: &Buffer, to: &mut Buffer) {
    to.each_line(|row, y, line| {
        let values = from.line(row, y);
        let factors = factors(by, row, y);
        for (out, values) in line
            .chunks_mut(factors.len())
            .zip(values.chunks(factors.len()))
        {
            for ((out, value), factor) in out.iter_mut().zip(values).zip(factors) {
                *out = value * factor;
            }
        }
    });
}

fn factors(by: &Buffer, row: usize, y: usize) -> &[f32] {
    match by.geometry.positions() {
        1 => by.line(row, 0),
        _ => by.line(row, y),
    }
}

/// Adds gradient times the other factor: to both of them, from their kept values.
pub(super) fn gate_back(
    gradient: &Buffer,
    [values, factors_of]: [&Buffer; 2],
    to_values: &mut Buffer,
    to_factors: &mut Buffer,
) {
    to_values.each_line(|row, y, line| {
        let arrived = gradient.line(row, y);
        let factors = factors(factors_of, row, y);
        for (out, arrived) in line
            .chunks_mut(factors.len())
            .zip(arrived.chunks(factors.len()))
        {
            for ((out, g), factor) in out.iter_mut().zip(arrived).zip(factors) {
                *out += g * factor;
            }
        }
    });
    let height = gradient.geometry.height;
    let all_lines = to_factors.geometry.positions() == 1;
    to_factors.each_line(|row, y, line| {
        let lines = if all_lines { 0..height } else { y..y + 1 };
        for y in lines {
            let (arrived, values) = (gradient.line(row, y), values.line(row, y));
            let len = line.len();
            for (arrived, values) in arrived.chunks(len).zip(values.chunks(len)) {
                for ((out, g), value) in line.iter_mut().zip(arrived).zip(values) {
                    *out += g * value;
                }
            }
        }
    });
}
