//! The input gradient of a convolution as sweeps over the output gradient.

use super::{
    buffer::{Buffer, Geometry},
    kernel::{Isa, POSITIONS, Tile, WIDEST},
    sweep::{Packed, Reads, Writes},
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
    pub weights: Packed,
    pub reads: Reads,
    pub writes: Writes,
    /// Border that the output gradient needs.
    pub halo: usize,
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
    weight: impl Fn(usize, usize, usize, usize) -> f32,
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
            let weights = Packed::new(isa, rows, source.channels, |row, c| {
                let (place, out) = (row / channels, row % channels);
                let (line, column) = (place / x.count, place % x.count);
                // Lines of the output gradient go up while window positions go down.
                let ky = y.class + stride[0] * (y.count - 1 - line);
                let kx = x.class + stride[1] * (x.count - 1 - column);
                weight(out, c, ky, kx)
            });
            sweeps.push(BackSweep {
                weights,
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
    weight: impl Fn(usize, usize, usize, usize) -> f32,
) -> Packed {
    let columns = kernel[0] * kernel[1] * inputs;
    Packed::new(isa, channels, columns, |out, column| {
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
            let mut sums = [0.0; POSITIONS * WIDEST];
            let reached =
                (0..from.height).filter(|&y| start(y) < last && start(y) + kernel[0] > first);
            for y in reached {
                for x in (0..from.width).step_by(POSITIONS) {
                    let count = POSITIONS.min(from.width - x);
                    let starts: [usize; POSITIONS] = std::array::from_fn(|m| {
                        from.at(row, y as isize, (x + m.min(count - 1)) as isize)
                    });
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
                            let left = ((x + m) * stride[1] + to.halo - padding[1]) * to.channels;
                            let sums = &sums[m * WIDEST..][..some];
                            add_columns(sums, column, run, |line, at, values| {
                                let line = start(y) + line;
                                if (first..last).contains(&line) {
                                    let at = (line - first) * pitch + left + at;
                                    for (to, value) in band[at..].iter_mut().zip(values) {
                                        *to += value;
                                    }
                                }
                            });
                        }
                    }
                }
            }
        });
}

/// Splits columns `from..` into the lines of the window they belong to.
fn add_columns(values: &[f32], from: usize, run: usize, mut add: impl FnMut(usize, usize, &[f32])) {
    let mut done = 0;
    while done < values.len() {
        let column = from + done;
        let (line, at) = (column / run, column % run);
        let some = (run - at).min(values.len() - done);
        add(line, at, &values[done..done + some]);
        done += some;
    }
}
