//! What is done position by position: ReLUs, sums, pooling. Lines of positions, or parts of them,
//! are done side by side.

use rayon::prelude::*;

#[cfg(feature = "gpu")]
use super::sweep::Reads;
use super::{
    buffer::{Bits, Buffer, Geometry},
    kernel::{Finish, Isa, Pool, Rectify, Shared, Spaced, Spread, Unpool},
    sweep::{Relu, SharedRelu},
};

/// How a window moves.
#[derive(Clone, Copy, Debug)]
pub(super) struct Strides {
    pub kernel: [usize; 2],
    pub stride: [usize; 2],
    pub padding: [usize; 2],
    pub dilation: [usize; 2],
}

impl Strides {
    /// Where windows read, but for their dilation.
    #[cfg(feature = "gpu")]
    pub fn reads(&self) -> Reads {
        Reads {
            origin: self.padding.map(|padding| -(padding as isize)),
            step: self.stride,
            window: self.kernel,
        }
    }

    /// Positions from the first of the window to one past its last.
    pub fn reach(&self, axis: usize) -> usize {
        (self.kernel[axis] - 1) * self.dilation[axis] + 1
    }

    /// Where each position of the window has a number of one byte.
    pub fn numbered(self) -> Option<Self> {
        (self.kernel[0] * self.kernel[1] <= 255).then_some(self)
    }
}

/// What goes into a position besides what is there already.
struct Terms<'a> {
    sums: &'a [f32],
    pitch: usize,
    residual: Option<Spaced<'a, f32>>,
}

/// Every line of a buffer: bias-free sums, a residual, what is there, a ReLU.
fn each_line<'a>(
    isa: Isa,
    to: &mut Buffer,
    accumulate: bool,
    relu: Relu,
    terms: impl Fn(usize, usize) -> Terms<'a> + Sync,
) {
    let geometry = to.geometry;
    let Geometry {
        height,
        width,
        channels,
        ..
    } = geometry;
    let lines = height * to.rows;
    let relu = SharedRelu::new(relu);
    let out = Shared::new(&mut to.data);
    let bits = |bits: &'_ Bits, row, y| bits.at(row, y, 0);
    (0..lines).into_par_iter().for_each(|line| {
        let (row, y) = (line / height, line % height);
        let Terms {
            sums,
            pitch,
            residual,
        } = terms(row, y);
        isa.finish(Finish {
            sums,
            pitch,
            bias: None,
            residual,
            accumulate,
            rectify: match &relu {
                SharedRelu::No => Rectify::No,
                SharedRelu::Forward(shared, all, width, positions) => {
                    let at = (row * positions + y * width) * all;
                    Rectify::Forward(shared.spread(at, *width, *all, *all))
                }
                SharedRelu::Backward(b) => Rectify::Backward(Spaced {
                    data: &b.data[bits(b, row, y)..],
                    spacing: b.words,
                }),
                SharedRelu::Guided(b) => Rectify::Guided(Spaced {
                    data: &b.data[bits(b, row, y)..],
                    spacing: b.words,
                }),
            },
            out: out.spread(geometry.at(row, y as isize, 0), width, channels, channels),
        });
    });
}

fn line(buffer: &Buffer, row: usize, y: usize) -> &[f32] {
    &buffer.data[buffer.geometry.at(row, y as isize, 0)..]
}

/// to = relu(a + b), or relu-masked to + a.
pub(super) fn combine(
    isa: Isa,
    a: &Buffer,
    b: Option<&Buffer>,
    accumulate: bool,
    relu: Relu,
    to: &mut Buffer,
) {
    let channels = to.geometry.channels;
    each_line(isa, to, accumulate, relu, |row, y| Terms {
        sums: line(a, row, y),
        pitch: channels,
        residual: b.map(|b| Spaced {
            data: line(b, row, y),
            spacing: channels,
        }),
    });
}

/// Applies a ReLU's rule in place.
pub(super) fn rectify(isa: Isa, buffer: &mut Buffer, relu: Relu) {
    if matches!(relu, Relu::No) {
        return;
    }
    let zeros = vec![0.0; buffer.geometry.channels];
    each_line(isa, buffer, true, relu, |_, _| Terms {
        sums: &zeros,
        pitch: 0,
        residual: None,
    });
}

/// The mean over all positions, to the only one.
pub(super) fn mean(from: &Buffer, to: &mut Buffer) {
    let geometry = from.geometry;
    let scale = 1.0 / geometry.positions() as f64;
    let len = to.geometry.len();
    let place = to.geometry.at(0, 0, 0);
    to.data
        .par_chunks_mut(len)
        .enumerate()
        .for_each(|(row, out)| {
            let mut sums = vec![0.0f64; geometry.channels];
            for y in 0..geometry.height {
                let values = &line(from, row, y)[..geometry.width * geometry.channels];
                for values in values.chunks_exact(geometry.channels) {
                    for (sum, &value) in sums.iter_mut().zip(values) {
                        *sum += f64::from(value);
                    }
                }
            }
            for (out, sum) in out[place..].iter_mut().zip(sums) {
                *out = (sum * scale) as f32;
            }
        });
}

/// Gives the gradient at a mean to all positions.
pub(super) fn mean_back(
    isa: Isa,
    gradient: &Buffer,
    accumulate: bool,
    relu: Relu,
    to: &mut Buffer,
) {
    let scale = 1.0 / to.geometry.positions() as f32;
    let channels = to.geometry.channels;
    let shares: Vec<f32> = (0..gradient.rows)
        .flat_map(|row| gradient.pixel(row, 0, 0).iter().map(|value| value * scale))
        .collect();
    each_line(isa, to, accumulate, relu, |row, _| Terms {
        sums: &shares[row * channels..],
        pitch: 0,
        residual: None,
    });
}

/// The window's positions of one output that lie inside: where they are in a row of `source`,
/// from line `first` of the memory on, and which of the window they are.
pub(super) fn taps(
    source: Geometry,
    strides: &Strides,
    [y, x]: [usize; 2],
    found: &mut Vec<(usize, u8)>,
) {
    let Strides {
        kernel,
        stride,
        padding,
        dilation,
    } = strides;
    found.clear();
    for ky in 0..kernel[0] {
        for kx in 0..kernel[1] {
            let sy = y * stride[0] + ky * dilation[0];
            let sx = x * stride[1] + kx * dilation[1];
            let inside = sy >= padding[0]
                && sx >= padding[1]
                && sy - padding[0] < source.height
                && sx - padding[1] < source.width;
            if inside {
                let (sy, sx) = ((sy - padding[0]) as isize, (sx - padding[1]) as isize);
                found.push((source.at(0, sy, sx), (ky * kernel[1] + kx) as u8));
            }
        }
    }
}

/// The largest value of each window, and which it was: `[rows, height, width, channels]`.
pub(super) fn max_pool(isa: Isa, from: &Buffer, to: &mut Buffer, strides: &Strides) -> Vec<u8> {
    let geometry = to.geometry;
    let channels = geometry.channels;
    let len = geometry.width * channels;
    let mut maxima = vec![0u8; geometry.height * len * from.rows];
    let out = Shared::new(&mut to.data);
    maxima
        .par_chunks_mut(len)
        .enumerate()
        .for_each(|(line, maxima)| {
            let (row, y) = (line / geometry.height, line % geometry.height);
            let at = geometry.at(row, y as isize, 0);
            let mut out: Spread<f32> = out.spread(at, geometry.width, channels, channels);
            let mut found = Vec::new();
            let source = &from.data[row * from.geometry.len()..][..from.geometry.len()];
            for (x, places) in maxima.chunks_exact_mut(channels).enumerate() {
                taps(from.geometry, strides, [y, x], &mut found);
                isa.pool(Pool {
                    source,
                    taps: &found,
                    out: out.part(x),
                    places,
                });
            }
        });
    maxima
}

/// The same without the places, for rows of `from` that are parts of pictures like `picture`:
/// the window of output (0, 0) starts at `origins`, which may lie outside, and so does `from`.
pub(super) fn max_pool_at(
    isa: Isa,
    from: &Buffer,
    to: &mut Buffer,
    strides: &Strides,
    picture: Geometry,
    origins: &[[isize; 2]],
) {
    let Geometry {
        width, channels, ..
    } = to.geometry;
    let inside = |at: isize, size: usize| (0..size as isize).contains(&at);
    let len = to.geometry.len();
    let rows = to.data.par_chunks_mut(len).zip(origins).enumerate();
    rows.for_each(|(row, (out, origin))| {
        let (mut found, mut places) = (Vec::new(), vec![0; channels]);
        for (index, out) in out.chunks_exact_mut(channels).enumerate() {
            let start = [
                index / width * strides.stride[0],
                index % width * strides.stride[1],
            ];
            found.clear();
            for place in 0..strides.kernel[0] * strides.kernel[1] {
                let at = [place / strides.kernel[1], place % strides.kernel[1]];
                let [y, x] = [0, 1].map(|d| (start[d] + at[d] * strides.dilation[d]) as isize);
                if inside(origin[0] + y, picture.height) && inside(origin[1] + x, picture.width) {
                    found.push((from.geometry.at(row, y, x), place as u8));
                }
            }
            isa.pool(Pool {
                source: &from.data,
                taps: &found,
                out,
                places: &mut places,
            });
        }
    });
}

/// Every value with its factor, of `[rows, positions, channels]`.
pub(super) fn weigh(buffer: &mut Buffer, factors: &[f32], of: impl Fn(f32, f32) -> f32 + Sync) {
    let geometry = buffer.geometry;
    buffer.each_run(|run, values| {
        let factors = &factors[run.first(&geometry) * geometry.channels..][..values.len()];
        for (value, factor) in values.iter_mut().zip(factors) {
            *value = of(*value, *factor);
        }
    });
}

/// Adds gradients where the maxima were. Bands of lines of the target are done side by side,
/// each with all the outputs that reach into it.
pub(super) fn max_pool_back(
    isa: Isa,
    gradient: &Buffer,
    maxima: &[u8],
    to: &mut Buffer,
    strides: &Strides,
) {
    let geometry = gradient.geometry;
    let channels = geometry.channels;
    let target = to.geometry;
    let (len, pitch) = (target.len(), target.pitch());
    let lines = target.height + 2 * target.halo;
    let band = lines.div_ceil(4 * rayon::current_num_threads()).max(4);
    let reach = strides.reach(0);
    to.data
        .par_chunks_mut(len)
        .enumerate()
        .flat_map(|(row, data)| {
            data.par_chunks_mut(band * pitch)
                .enumerate()
                .map(move |(index, lines)| (row, index * band, lines))
        })
        .for_each(|(row, first, out)| {
            let last = first + out.len() / pitch;
            // Lines of the target, border included, that output line y reaches.
            let start = |y: usize| y * strides.stride[0] + target.halo;
            let (mut found, mut inside) = (Vec::new(), Vec::new());
            for y in 0..geometry.height {
                let start = start(y) as isize - strides.padding[0] as isize;
                if start >= last as isize || start + reach as isize <= first as isize {
                    continue;
                }
                for x in 0..geometry.width {
                    taps(target, strides, [y, x], &mut found);
                    inside.clear();
                    inside.extend(found.iter().filter_map(|&(at, place)| {
                        let line = at / pitch;
                        let inside = (first..last).contains(&line);
                        inside.then(|| (at - first * pitch, place))
                    }));
                    let at = ((row * geometry.height + y) * geometry.width + x) * channels;
                    isa.unpool(Unpool {
                        gradient: gradient.pixel(row, y, x),
                        places: &maxima[at..at + channels],
                        taps: &inside,
                        out,
                    });
                }
            }
        });
}
