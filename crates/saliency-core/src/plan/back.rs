//! The input gradient of a convolution as sweeps over the output gradient.

use super::{
    buffer::{Buffer, Geometry},
    kernel::{Isa, Line, Overlap, POSITIONS, Tile, WIDEST},
    sweep::{Packed, Reads, Weights, Writes},
    tiled,
};
use rayon::prelude::*;

/// How a convolution's gradient comes back.
#[derive(Debug)]
pub(super) enum Back {
    /// One sweep for each class of positions that see the same part of the window (one class
    /// for a stride of one, four for two by two).
    Sweeps(Vec<BackSweep>),
    /// For few input channels: products with all window positions at once, added up where
    /// they overlap.
    Columns(Packed),
}

#[derive(Debug)]
pub(super) struct BackSweep {
    /// Where it cannot be done with the convolution's own.
    weights: Option<Packed>,
    /// Which of the convolution's window positions each of the sweep's window is.
    taps: Vec<usize>,
    pub reads: Reads,
    pub writes: Writes,
    /// Border that the output gradient needs.
    pub halo: usize,
}

impl BackSweep {
    /// Its own weights.
    #[cfg(feature = "gpu")]
    pub fn packed(&mut self) -> &mut Packed {
        let own = self.weights.as_mut();
        own.expect("portable kernels do not split weights")
    }

    /// Its weights, for a convolution with its own and its input channels.
    pub fn weights<'a>(&'a self, of: &'a Packed, channels: usize) -> Weights<'a> {
        match &self.weights {
            Some(packed) => Weights::Panels(packed),
            None => Weights::Transposed {
                of,
                taps: &self.taps,
                channels,
            },
        }
    }
}

/// Along one axis, position stride * q + class - padding takes part in outputs q - j by window
/// position class + stride * j.
struct Axis {
    class: usize,
    /// How many window positions.
    count: usize,
    /// First q.
    first: usize,
    /// Input positions of the class.
    grid: usize,
    halo: usize,
}

fn axis(
    class: usize,
    input: usize,
    output: usize,
    kernel: usize,
    stride: usize,
    padding: usize,
) -> Axis {
    let count = (kernel.saturating_sub(class)).div_ceil(stride);
    let first = padding.saturating_sub(class).div_ceil(stride);
    let start = stride * first + class - padding;
    let grid = input.saturating_sub(start).div_ceil(stride);
    let before = count.saturating_sub(1).saturating_sub(first);
    let after = (first + grid).saturating_sub(output);
    Axis {
        class,
        count,
        first,
        grid,
        halo: before.max(after),
    }
}

#[allow(clippy::too_many_arguments)]
pub(super) fn backwards(
    isa: Isa,
    channels: usize,
    source: Geometry,
    grid: [usize; 2],
    kernel: [usize; 2],
    stride: [usize; 2],
    padding: [usize; 2],
    weight: impl Fn(usize, usize, usize, usize) -> f32 + Sync,
) -> Vec<BackSweep> {
    let sizes = [source.height, source.width];
    let classes = |d: usize| {
        (0..stride[d])
            .map(move |class| axis(class, sizes[d], grid[d], kernel[d], stride[d], padding[d]))
    };
    let mut sweeps = Vec::new();
    for y in classes(0) {
        for x in classes(1) {
            if y.count == 0 || x.count == 0 || y.grid == 0 || x.grid == 0 {
                continue;
            }
            let rows = y.count * x.count * channels;
            // Lines of the output gradient go up while window positions go down.
            let tap = |place: usize| {
                let (line, column) = (place / x.count, place % x.count);
                let ky = y.class + stride[0] * (y.count - 1 - line);
                let kx = x.class + stride[1] * (x.count - 1 - column);
                [ky, kx]
            };
            let transposed = isa.splits(channels);
            let weights = (!transposed).then(|| {
                Packed::new(isa, x.count * channels, rows, source.channels, |row, c| {
                    let [ky, kx] = tap(row / channels);
                    weight(row % channels, c, ky, kx)
                })
            });
            let taps = (0..y.count * x.count)
                .map(tap)
                .map(|[ky, kx]| ky * kernel[1] + kx)
                .collect();
            sweeps.push(BackSweep {
                weights,
                taps,
                reads: Reads {
                    origin: [
                        y.first as isize + 1 - y.count as isize,
                        x.first as isize + 1 - x.count as isize,
                    ],
                    step: [1, 1],
                    window: [y.count, x.count],
                },
                writes: Writes {
                    origin: [
                        stride[0] * y.first + y.class - padding[0],
                        stride[1] * x.first + x.class - padding[1],
                    ],
                    step: stride,
                    grid: [y.grid, x.grid],
                    channel: 0,
                },
                halo: y.halo.max(x.halo),
            });
        }
    }
    sweeps
}

/// `[channels]` rows by window positions and input channels.
pub(super) fn column_weights(
    isa: Isa,
    channels: usize,
    inputs: usize,
    kernel: [usize; 2],
    weight: impl Fn(usize, usize, usize, usize) -> f32 + Sync,
) -> Packed {
    let columns = kernel[0] * kernel[1] * inputs;
    Packed::new(isa, channels, channels, columns, |out, column| {
        let (place, c) = (column / inputs, column % inputs);
        weight(out, c, place / kernel[1], place % kernel[1])
    })
}

/// Adds up the products where windows overlap. Bands of lines of the target are done side by
/// side, each with all the outputs that reach into it.
pub(super) fn columns(
    gradient: &Buffer,
    weights: &Packed,
    target: &mut Buffer,
    kernel: [usize; 2],
    stride: [usize; 2],
    padding: [usize; 2],
) {
    let to = target.geometry;
    let from = gradient.geometry;
    let lines = to.height + 2 * to.halo;
    let pitch = to.pitch();
    let band = lines.div_ceil(2 * rayon::current_num_threads()).max(8);
    let run = kernel[1] * to.channels;
    let len = weights.panels() * WIDEST;
    let mut spread = |lines: &LineProducts| {
        target
            .data
            .par_chunks_mut(to.len())
            .enumerate()
            .flat_map(|(row, data)| {
                data.par_chunks_mut(band * pitch)
                    .enumerate()
                    .map(move |(index, lines)| (row, index * band, lines))
            })
            .for_each(|(row, first, band)| {
                band.fill(0.0);
                let last = first + band.len() / pitch;
                // Line of the target, border included, where the window of output line y begins.
                let start = |y: usize| y * stride[0] + to.halo - padding[0];
                let mut products = vec![0.0; from.width * len];
                let reached =
                    (0..from.height).filter(|&y| start(y) < last && start(y) + kernel[0] > first);
                for y in reached {
                    lines.of(row, y, len, &mut products);
                    for ky in 0..kernel[0] {
                        let line = start(y) + ky;
                        if (first..last).contains(&line) {
                            let left = (to.halo - padding[1]) * to.channels;
                            weights.isa.overlap(Overlap {
                                sums: &products[ky * run..],
                                pitch: len,
                                count: from.width,
                                run,
                                spacing: stride[1] * to.channels,
                                out: &mut band[(line - first) * pitch + left..],
                            });
                        }
                    }
                }
            });
    };
    match weights.isa.splits(from.channels) {
        true => tiled::with_weights(weights, |split| {
            spread(&LineProducts {
                gradient,
                weights,
                split: Some(split),
            })
        }),
        false => spread(&LineProducts {
            gradient,
            weights,
            split: None,
        }),
    }
}

/// A line of positions times all weights.
struct LineProducts<'a> {
    gradient: &'a Buffer,
    weights: &'a Packed,
    /// The weights in parts, where tiles of them are multiplied.
    split: Option<&'a [Line]>,
}

impl LineProducts<'_> {
    /// Positions are `pitch` apart in `out`.
    fn of(&self, row: usize, y: usize, pitch: usize, out: &mut [f32]) {
        let (gradient, weights) = (self.gradient, self.weights);
        let from = gradient.geometry;
        if let Some(split) = self.split {
            let at = from.at(row, y as isize, 0);
            let values = &gradient.data[at..at + from.width * from.channels];
            return tiled::line(values, from.channels, weights, split, pitch, out);
        }
        let tile = weights.isa.positions();
        let mut sums = [0.0; POSITIONS * WIDEST];
        for x in (0..from.width).step_by(tile) {
            let count = tile.min(from.width - x);
            let starts: [usize; POSITIONS] =
                std::array::from_fn(|m| from.at(row, y as isize, (x + m.min(count - 1)) as isize));
            for index in 0..weights.panels() {
                let (column, some, lanes, panel) = weights.panel(index);
                weights.isa.tile(
                    Tile {
                        source: &gradient.data,
                        starts: &starts[..count],
                        taps: 1,
                        tap_stride: 0,
                        run: from.channels,
                        panel,
                        lanes,
                    },
                    &mut sums,
                );
                for m in 0..count {
                    out[(x + m) * pitch + column..][..some]
                        .copy_from_slice(&sums[m * WIDEST..][..some]);
                }
            }
        }
    }
}
