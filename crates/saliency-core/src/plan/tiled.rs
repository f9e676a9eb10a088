//! A sweep as products of tiles: what machines with matrix units do.

use std::sync::Mutex;

use rayon::prelude::*;

use super::{
    buffer::{Buffer, Geometry},
    kernel::{
        Isa, LANES, Line, Multiplier, PANEL, PANEL_STEP, PARTS, Positions, Product, STEP,
        TILE_ROWS, Tiles, split_left, split_left_transposed, split_right, split_transposed,
    },
    sweep::{Packed, Reads, Sink, Weights, Writes},
};

/// Bytes of a core's own cache that split values may fill.
const CACHE: usize = 1 << 20;
/// Bytes of it for the positions of one task.
const CHUNK: usize = 400 << 10;

/// How the source lies when it is split: for windows that step by more than one, positions
/// whose windows have the same phase lie together, so that outputs are one position apart.
#[derive(Clone, Copy, Debug)]
struct Phases {
    step: [usize; 2],
    window: [usize; 2],
    /// Positions from line to line of the source.
    pitch: usize,
}

impl Phases {
    /// How many of them a window reads.
    fn count(&self) -> [usize; 2] {
        [0, 1].map(|d| self.step[d].min(self.window[d]))
    }

    /// Positions from line to line of one phase.
    fn line(&self) -> usize {
        self.pitch.div_ceil(self.step[1])
    }

    /// Lines of one phase for some lines of outputs.
    fn lines(&self, outputs: usize) -> usize {
        outputs + (self.window[0] - 1) / self.step[0]
    }

    /// Positions of all phases.
    fn positions(&self, outputs: usize) -> usize {
        self.count()[0] * self.count()[1] * self.lines(outputs) * self.line()
    }

    /// Where the position of a window lies, from that of its output on.
    fn tap(&self, [y, x]: [usize; 2], outputs: usize) -> usize {
        let phase = y % self.step[0] * self.count()[1] + x % self.step[1];
        let line = phase * self.lines(outputs) + y / self.step[0];
        line * self.line() + x / self.step[1]
    }
}

/// How output positions become tiles of neighbouring source positions. Places are counted
/// along lines, `line` of them each; those from `width` on are computed and not written.
#[derive(Clone, Copy, Debug)]
struct Tiling {
    line: usize,
    width: usize,
    /// Source positions from one line to the next.
    pitch: usize,
    /// Places in a tile.
    rows: usize,
}

impl Tiling {
    /// Places of some lines.
    fn places(&self, lines: usize) -> usize {
        (lines - 1) * self.line + self.width
    }

    /// Source position of a tile.
    fn start(&self, tile: usize) -> usize {
        let place = tile * self.rows;
        place / self.line * self.pitch + place % self.line
    }

    /// What the products of some lines take: no less for small tiles, and always two tiles.
    fn cost(&self, lines: usize) -> usize {
        let tiles = self.places(lines).div_ceil(self.rows);
        tiles.next_multiple_of(2) * self.rows.max(13)
    }

    /// Tiles of single lines, or tiles that run on over the ends of lines.
    fn best(width: usize, pitch: usize, lines: usize) -> Self {
        let segments = width.div_ceil(TILE_ROWS);
        let rows = width.div_ceil(segments);
        let single = Tiling {
            line: segments * rows,
            width,
            pitch,
            rows,
        };
        let mut through = Tiling {
            line: pitch,
            width,
            pitch,
            rows: TILE_ROWS,
        };
        let places = through.places(lines);
        through.rows = places.div_ceil(places.div_ceil(2 * TILE_ROWS) * 2);
        match through.cost(lines) <= single.cost(lines) {
            true => through,
            false => single,
        }
    }
}

/// Some lines of outputs, of all rows counted through.
#[derive(Clone, Copy, Debug)]
struct Chunk {
    first: usize,
    lines: usize,
}

/// Who has what in its own cache.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Order {
    /// Every task has some panels of weights for itself, and goes through all positions.
    Panels { group: usize },
    /// Every task has some positions for itself, and goes through all weights.
    Positions { lines: usize },
}

/// Memory for split values.
static POOL: Mutex<Vec<Vec<Line>>> = Mutex::new(Vec::new());

fn with_lines<R>(len: usize, work: impl FnOnce(&mut [Line]) -> R) -> R {
    let pool = || POOL.lock().unwrap_or_else(|e| e.into_inner());
    let found = {
        let mut pool = pool();
        let fits = |lines: &Vec<Line>| lines.len() >= len && lines.len() <= 2 * len;
        pool.iter()
            .position(fits)
            .map(|index| pool.swap_remove(index))
    };
    let mut lines = found.unwrap_or_else(|| vec![Line::ZERO; len]);
    let result = work(&mut lines[..len]);
    pool().push(lines);
    result
}

struct Sweep<'a> {
    source: &'a Buffer,
    reads: &'a Reads,
    weights: Weights<'a>,
    sink: &'a Sink<'a>,
    /// Values of a position, and how far apart positions are. With few channels a position is
    /// a whole line of a window.
    channels: usize,
    spacing: usize,
    phases: Phases,
    tiling: Tiling,
    /// Lines of outputs of one row; where no window reaches over an end, those of all rows.
    height: usize,
    /// Lines of a chunk.
    lines: usize,
    /// Split positions of a chunk.
    plane: usize,
    steps: Vec<usize>,
    steps_of: usize,
}

pub(super) fn sweep(
    source: &Buffer,
    reads: &Reads,
    weights: Weights,
    writes: &Writes,
    sink: &Sink,
) {
    let from = source.geometry;
    let [height, width] = writes.grid;
    let threads = rayon::current_num_threads();
    let merged = from.channels < LANES;
    let (channels, spacing, phases) = match merged {
        true => (
            reads.window[1] * from.channels,
            reads.step[1] * from.channels,
            Phases {
                step: [reads.step[0], 1],
                window: [reads.window[0], 1],
                pitch: width,
            },
        ),
        false => (
            from.channels,
            from.channels,
            Phases {
                step: reads.step,
                window: reads.window,
                pitch: from.width + 2 * from.halo,
            },
        ),
    };
    let [window_y, window_x] = phases.window;
    // Lines of all rows follow each other where there is no border.
    let dense = is_dense(from, reads, writes);
    let most = if dense { height * source.rows } else { height };
    let parts = if dense { 1 } else { source.rows };
    let panels = weights.channels().div_ceil(PANEL);
    let steps_of = channels.div_ceil(STEP);
    let panel_len = window_y * window_x * steps_of * PANEL_STEP;
    let position = steps_of * PARTS * size_of::<Line>();

    let order = {
        // Bytes that are fetched from beyond a core's own cache.
        let left = parts * phases.positions(most) * position;
        let right = panels * panel_len * size_of::<Line>();
        let group = (CACHE / (panel_len * size_of::<Line>()))
            .min(panels.div_ceil(4 * threads))
            .max(1);
        let wanted = (4 * threads).div_ceil(parts);
        let mut lines = most.div_ceil(wanted).max(64usize.div_ceil(width)).min(most);
        while lines > 1 && phases.positions(lines) * position > CHUNK {
            lines -= 1;
        }
        let lines = most.div_ceil(most.div_ceil(lines));
        let chunks = parts * most.div_ceil(lines);
        let beyond = |times: usize, bytes: usize| if bytes > CACHE { times * bytes } else { 0 };
        let by_panels = beyond(panels.div_ceil(group), left);
        let by_positions = beyond(chunks, right);
        let few = |tasks: usize| tasks < 2 * threads;
        match (few(panels.div_ceil(group)), few(chunks)) {
            (false, true) => Order::Panels { group },
            (true, false) => Order::Positions { lines },
            _ if by_panels <= by_positions && right > left => Order::Panels { group },
            _ if by_panels < by_positions => Order::Panels { group },
            _ => Order::Positions { lines },
        }
    };
    let lines = match order {
        Order::Panels { .. } => most,
        Order::Positions { lines } => lines,
    };
    let tiling = Tiling::best(width, phases.line(), lines);
    let tiles = tiling
        .places(lines)
        .div_ceil(tiling.rows)
        .next_multiple_of(2);
    // The last tile may read on behind the last line.
    let taps = window_y * window_x;
    let tap = |tap: usize| phases.tap([tap / window_x, tap % window_x], lines);
    let reach = (0..taps).map(tap).max().unwrap_or(0) + tiling.start(tiles - 1) + tiling.rows;
    let plane = phases.positions(lines).max(reach);
    let sweep = Sweep {
        source,
        reads,
        weights,
        sink,
        channels,
        spacing,
        phases,
        tiling,
        height: most,
        lines,
        plane,
        steps: (0..taps)
            .flat_map(|index| (0..steps_of).map(move |c| tap(index) + c * PARTS * plane))
            .collect(),
        steps_of,
    };
    let chunks: Vec<Chunk> = (0..parts)
        .flat_map(|part| {
            (0..most).step_by(lines).map(move |line| Chunk {
                first: part * most + line,
                lines: lines.min(most - line),
            })
        })
        .collect();
    let left_len = steps_of * PARTS * plane;
    match order {
        Order::Panels { group } => with_lines(chunks.len() * left_len, |left| {
            left.par_chunks_exact_mut(left_len)
                .zip(&chunks)
                .for_each(|(out, &chunk)| sweep.left(chunk, out));
            (0..panels.div_ceil(group))
                .into_par_iter()
                .for_each(|index| {
                    let some = group * index..(group * (index + 1)).min(panels);
                    with_lines(some.len() * panel_len, |right| {
                        for (panel, out) in some.clone().zip(right.chunks_exact_mut(panel_len)) {
                            sweep.right(panel, out);
                        }
                        for (&chunk, left) in chunks.iter().zip(left.chunks_exact(left_len)) {
                            sweep.products(chunk, left, some.start, right, height);
                        }
                    });
                });
        }),
        Order::Positions { .. } => with_lines(panels * panel_len, |right| {
            right
                .par_chunks_exact_mut(panel_len)
                .enumerate()
                .for_each(|(panel, out)| sweep.right(panel, out));
            chunks.par_iter().for_each(|&chunk| {
                with_lines(left_len, |left| {
                    sweep.left(chunk, left);
                    sweep.products(chunk, left, 0, right, height);
                });
            });
        }),
    }
}

/// Calls `work` with all weights in parts, one panel behind the other, for [`line`].
pub(super) fn with_weights<R>(weights: &Packed, work: impl FnOnce(&[Line]) -> R) -> R {
    let steps = weights.rows.div_ceil(STEP);
    with_lines(weights.panels() * steps * PANEL_STEP, |out| {
        for (index, out) in out.chunks_exact_mut(PANEL_STEP).enumerate() {
            let (panel, row) = (index / steps, index % steps * STEP);
            let (.., lanes, values) = weights.panel(panel);
            let count = (weights.rows - row).min(STEP);
            let from = Positions::dense(&values[row * lanes..], lanes, count);
            split_right(weights.isa, from, out);
        }
        work(out)
    })
}

/// A line of positions times all weights; positions are `pitch` apart in `out`.
pub(super) fn line(
    values: &[f32],
    channels: usize,
    weights: &Packed,
    split: &[Line],
    pitch: usize,
    out: &mut [f32],
) {
    let isa = weights.isa;
    let count = values.len() / channels;
    let steps_of = channels.div_ceil(STEP);
    let pairs = count.div_ceil(2 * TILE_ROWS);
    let rows = count.div_ceil(2 * pairs);
    let plane = 2 * pairs * rows;
    let steps: Vec<usize> = (0..steps_of).map(|c| c * PARTS * plane).collect();
    let multiplier = Multiplier::new(isa, rows);
    let mut sums = Tiles([0.0; 2 * TILE_ROWS * PANEL]);
    with_lines(steps_of * PARTS * plane, |left| {
        let from = Positions::dense(values, channels, count);
        split_left(isa, from, 0, plane, left);
        for pair in 0..pairs {
            let starts = [2 * pair * rows, (2 * pair + 1) * rows];
            for (panel, right) in split.chunks_exact(steps_of * PANEL_STEP).enumerate() {
                multiplier.multiply(
                    &Product {
                        left,
                        plane,
                        starts,
                        steps: &steps,
                        right,
                    },
                    &mut sums,
                );
                let column = panel * PANEL;
                let some = PANEL.min(weights.channels - column);
                for (tile, sums) in sums.0.chunks_exact(TILE_ROWS * PANEL).enumerate() {
                    for (m, sums) in sums.chunks_exact(PANEL).take(rows).enumerate() {
                        let x = starts[tile] + m;
                        if x < count {
                            out[x * pitch + column..][..some].copy_from_slice(&sums[..some]);
                        }
                    }
                }
            }
        }
    });
}

/// One of two matrices that are multiplied.
#[derive(Clone, Copy)]
pub(super) enum Factor<'a> {
    Plain(&'a [f32]),
    Transposed(&'a [f32]),
}

/// A product of matrices of `[rows, inner, columns]`.
pub(super) fn product(
    isa: Isa,
    left: Factor,
    right: Factor,
    [rows, inner, columns]: [usize; 3],
    out: &mut [f32],
) {
    let steps_of = inner.div_ceil(STEP);
    let pairs = rows.div_ceil(2 * TILE_ROWS);
    let tile = rows.div_ceil(2 * pairs);
    let plane = 2 * pairs * tile;
    let steps: Vec<usize> = (0..steps_of).map(|c| c * PARTS * plane).collect();
    let multiplier = Multiplier::new(isa, tile);
    let mut sums = Tiles([0.0; 2 * TILE_ROWS * PANEL]);
    let left_len = steps_of * PARTS * plane;
    let panel = |first: usize, column: usize, out: &mut [Line]| match right {
        Factor::Plain(values) => {
            let all = Positions::dense(values, columns, inner);
            split_right(isa, all.part([first, column], [STEP, PANEL]), out);
        }
        Factor::Transposed(values) => {
            let all = Positions::dense(values, inner, columns);
            split_transposed(isa, all.part([column, first], [PANEL, STEP]), out);
        }
    };
    with_lines(left_len + steps_of * PANEL_STEP, |lines| {
        let (split, right) = lines.split_at_mut(left_len);
        match left {
            Factor::Plain(values) => {
                split_left(isa, Positions::dense(values, inner, rows), 0, plane, split);
            }
            Factor::Transposed(values) => {
                split_left_transposed(isa, Positions::dense(values, rows, inner), plane, split);
            }
        }
        for column in (0..columns).step_by(PANEL) {
            for (step, right) in right.chunks_exact_mut(PANEL_STEP).enumerate() {
                panel(step * STEP, column, right);
            }
            let some = PANEL.min(columns - column);
            for pair in 0..pairs {
                let starts = [2 * pair * tile, (2 * pair + 1) * tile];
                multiplier.multiply(
                    &Product {
                        left: split,
                        plane,
                        starts,
                        steps: &steps,
                        right,
                    },
                    &mut sums,
                );
                for (sums, start) in sums.0.chunks_exact(TILE_ROWS * PANEL).zip(starts) {
                    let rows = tile.min(rows.saturating_sub(start));
                    for (m, sums) in sums.chunks_exact(PANEL).take(rows).enumerate() {
                        let out = &mut out[(start + m) * columns + column..];
                        // Of a length that is known, which takes no call.
                        match some == PANEL {
                            true => out[..PANEL].copy_from_slice(&sums[..PANEL]),
                            false => out[..some].copy_from_slice(&sums[..some]),
                        }
                    }
                }
            }
        }
    });
}

fn is_dense(from: Geometry, reads: &Reads, writes: &Writes) -> bool {
    from.halo == 0
        && reads.window == [1, 1]
        && reads.step == [1, 1]
        && reads.origin == [0, 0]
        && writes.grid == [from.height, from.width]
}

impl Sweep<'_> {
    /// Splits what a chunk reads.
    fn left(&self, chunk: Chunk, out: &mut [Line]) {
        let Sweep {
            phases,
            source,
            reads,
            ..
        } = self;
        let from = source.geometry;
        let (row, line) = (chunk.first / self.height, chunk.first % self.height);
        let top = reads.origin[0] + (line * reads.step[0]) as isize;
        let start = from.at(row, top, reads.origin[1]);
        let [step_y, step_x] = phases.step;
        let [phases_y, phases_x] = phases.count();
        let lines = phases.lines(chunk.lines);
        let (channels, isa) = (self.channels, self.weights.isa());
        let mut split = |start: usize, spacing: usize, count: usize, first: usize| {
            let values = &source.data[start.min(source.data.len())..];
            // What lies behind the last position of the buffer belongs to no window.
            let there = (values.len() + spacing).saturating_sub(channels) / spacing;
            let positions = Positions {
                values,
                channels,
                spacing,
                count: count.min(there),
            };
            split_left(isa, positions, first, self.plane, out);
        };
        if phases.step == [1, 1] && channels == from.channels {
            return split(start, channels, lines * phases.pitch, 0);
        }
        for y in 0..phases_y {
            for x in 0..phases_x {
                let count = (phases.pitch - x).div_ceil(step_x);
                for line in 0..lines {
                    let first = phases.tap([y, x], self.lines) + line * phases.line();
                    let at = (line * step_y + y) * from.pitch() + x * self.spacing;
                    split(start + at, step_x * self.spacing, count, first);
                }
            }
        }
    }

    /// Splits a panel of weights.
    fn right(&self, panel: usize, out: &mut [Line]) {
        let (isa, inputs) = (self.weights.isa(), self.channels);
        for (index, out) in out.chunks_exact_mut(PANEL_STEP).enumerate() {
            let (tap, c) = (index / self.steps_of, index % self.steps_of * STEP);
            match self.weights {
                Weights::Panels(packed) => {
                    let (.., lanes, values) = packed.panel(panel);
                    let values = &values[(tap * inputs + c) * lanes..];
                    let from = Positions::dense(values, lanes, (inputs - c).min(STEP));
                    split_right(isa, from, out);
                }
                Weights::Transposed { of, taps, channels } => {
                    let (.., lanes, values) = of.panel(c / PANEL);
                    let row = panel * PANEL;
                    let values = &values[(taps[tap] * channels + row) * lanes..];
                    let from = Positions::dense(values, lanes, (channels - row).min(PANEL));
                    split_transposed(isa, from, out);
                }
            }
        }
    }

    /// Some panels of all outputs of a chunk.
    fn products(&self, chunk: Chunk, left: &[Line], first: usize, right: &[Line], height: usize) {
        let tiling = self.tiling;
        let panel_len = self.steps.len() * PANEL_STEP;
        let panels = right.len() / panel_len;
        let pairs = tiling.places(chunk.lines).div_ceil(2 * tiling.rows);
        let multiplier = Multiplier::new(self.weights.isa(), tiling.rows);
        let mut sums = Tiles([0.0; 2 * TILE_ROWS * PANEL]);
        let mut one = |pair: usize, panel: usize| {
            let starts = [tiling.start(2 * pair), tiling.start(2 * pair + 1)];
            multiplier.multiply(
                &Product {
                    left,
                    plane: self.plane,
                    starts,
                    steps: &self.steps,
                    right: &right[panel * panel_len..][..panel_len],
                },
                &mut sums,
            );
            self.write(chunk, 2 * pair, first + panel, &sums, height);
        };
        // All panels of a few positions, or all positions of one panel: what is gone through
        // again and again should be in the cache.
        match size_of_val(right) <= CACHE {
            true => (0..pairs).for_each(|pair| (0..panels).for_each(|panel| one(pair, panel))),
            false => (0..panels).for_each(|panel| (0..pairs).for_each(|pair| one(pair, panel))),
        }
    }

    /// The sums of two tiles.
    fn write(&self, chunk: Chunk, tile: usize, panel: usize, sums: &Tiles, height: usize) {
        let tiling = self.tiling;
        let channel = panel * PANEL;
        let some = PANEL.min(self.weights.channels() - channel);
        for (index, sums) in sums.0.chunks_exact(TILE_ROWS * PANEL).enumerate() {
            let first = (tile + index) * tiling.rows;
            let mut done = 0;
            while done < tiling.rows {
                let (y, x) = ((first + done) / tiling.line, (first + done) % tiling.line);
                if y >= chunk.lines {
                    break;
                }
                let rest = (tiling.rows - done).min(tiling.line - x);
                if x < tiling.width {
                    let line = chunk.first + y;
                    let place = [line / height, line % height, x];
                    let count = rest.min(tiling.width - x);
                    self.sink
                        .write(place, count, channel, some, &sums[done * PANEL..], PANEL);
                }
                done += rest;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::plan::{
        back::backwards,
        kernel::Isa,
        sweep::{self, Epilogue, Relu},
    };

    fn filled(geometry: Geometry, rows: usize, seed: u64) -> Buffer {
        let mut buffer = Buffer::zeros(geometry, rows);
        let len = rows * geometry.channels * geometry.positions();
        buffer.set_planes(&crate::noise::standard_normal(seed, 0, len));
        buffer
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(96))]

        /// Windows, strides, borders and batches of any kind, forward and back: every
        /// instruction set against the portable loops.
        #[test]
        fn sweeps_agree(
            sizes in (1usize..20, 1usize..40),
            channels in (1usize..70, 1usize..70),
            kernel in (1usize..4, 1usize..5),
            stride in (1usize..4, 1usize..3),
            rows in 1usize..4,
            seed in 0u64..1000,
        ) {
            let (kernel, stride) = ([kernel.0, kernel.1], [stride.0, stride.1]);
            let padding = kernel.map(|k| k / 2);
            let sizes = [sizes.0.max(kernel[0]), sizes.1.max(kernel[1])];
            let (inputs, outputs) = channels;
            let grid = [0, 1].map(|d| (sizes[d] + 2 * padding[d] - kernel[d]) / stride[d] + 1);
            let from = Geometry {
                height: sizes[0],
                width: sizes[1],
                channels: inputs,
                halo: padding[0].max(padding[1]),
            };
            let source = filled(from, rows, seed);
            let values = crate::noise::standard_normal(
                seed + 1, 0, outputs * inputs * kernel[0] * kernel[1],
            );
            let weight = |out: usize, c: usize, y: usize, x: usize| {
                values[((out * inputs + c) * kernel[0] + y) * kernel[1] + x]
            };
            let epilogue = || Epilogue {
                bias: None,
                residual: None,
                accumulate: false,
                relu: Relu::No,
            };
            let run = |isa: Isa| {
                let lines = kernel[0] * kernel[1] * inputs;
                let weights = Packed::new(isa, kernel[1] * inputs, lines, outputs, |row, out| {
                    let (place, c) = (row / inputs, row % inputs);
                    weight(out, c, place / kernel[1], place % kernel[1])
                });
                let to = Geometry { height: grid[0], width: grid[1], channels: outputs, halo: 0 };
                let mut target = Buffer::zeros(to, rows);
                let reads = Reads {
                    origin: padding.map(|p| -(p as isize)),
                    step: stride,
                    window: kernel,
                };
                let writes = Writes { origin: [0, 0], step: [1, 1], grid, channel: 0 };
                sweep::sweep(&source, reads, Weights::Panels(&weights), &mut target, writes, epilogue());
                let back = backwards(isa, outputs, from, grid, kernel, stride, padding, weight);
                let halo = back.iter().map(|sweep| sweep.halo).max().unwrap_or(0);
                let gradient = filled(Geometry { halo, ..to }, rows, seed + 2);
                let mut passed = Buffer::zeros(from, rows);
                for back in &back {
                    sweep::sweep(
                        &gradient, back.reads, back.weights(&weights, inputs), &mut passed,
                        back.writes, epilogue(),
                    );
                }
                [target.data, passed.data]
            };
            let want = run(Isa::Portable);
            for isa in Isa::all() {
                for (got, want) in run(isa).iter().zip(&want) {
                    for (a, b) in got.iter().zip(want) {
                        prop_assert!((a - b).abs() < 2e-4, "{isa:?} {a} {b}");
                    }
                }
            }
        }
    }
}
