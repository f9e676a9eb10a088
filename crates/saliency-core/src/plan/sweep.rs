//! One sweep of a window over a buffer: every convolution, forward and backward, and every
//! linear layer is one or a few of these.

use rayon::prelude::*;

use super::{
    buffer::{Bits, Buffer, Geometry},
    kernel::{Finish, Isa, LANES, PANEL, POSITIONS, Rectify, Shared, Spaced, Tile, WIDEST},
    tiled,
};

/// Weights in the order in which the inner loop reads them: panels of channels, each
/// `[rows][lanes]`.
#[derive(Clone, Debug)]
pub(super) struct Packed {
    pub isa: Isa,
    pub rows: usize,
    pub channels: usize,
    /// Channels in a panel.
    width: usize,
    /// Outputs of one row.
    positions: usize,
    data: Vec<f32>,
}

impl Packed {
    /// For windows whose lines have `run` values, from a function of (row, channel).
    pub fn new(
        isa: Isa,
        run: usize,
        rows: usize,
        channels: usize,
        weight: impl Fn(usize, usize) -> f32 + Sync,
    ) -> Self {
        let width = match isa.splits(run) {
            true => PANEL,
            false => isa.width(),
        };
        let mut data = vec![0.0; channels.next_multiple_of(LANES) * rows];
        let panels = data.par_chunks_mut(width * rows).enumerate();
        panels.for_each(|(panel, data)| {
            let from = panel * width;
            let some = width.min(channels - from);
            let lines = data.chunks_exact_mut(some.next_multiple_of(LANES));
            for (row, line) in lines.enumerate() {
                for (j, value) in line[..some].iter_mut().enumerate() {
                    *value = weight(row, from + j);
                }
            }
        });
        Packed {
            isa,
            rows,
            channels,
            width,
            positions: usize::MAX,
            data,
        }
    }

    /// For so many outputs of one row. How sums are made depends on it and not on the rows or
    /// the outputs of one sweep, so that an output is always the same to the bit.
    pub fn for_positions(self, positions: usize) -> Self {
        Packed { positions, ..self }
    }

    /// Takes the weights out, as `[rows][channels]`, with how many there are of each.
    #[cfg(feature = "gpu")]
    pub fn take(&mut self) -> (usize, usize, Vec<f32>) {
        let mut weights = vec![0.0; self.rows * self.channels];
        for index in 0..self.panels() {
            let (from, some, lanes, panel) = self.panel(index);
            for (row, line) in panel.chunks_exact(lanes).enumerate() {
                weights[row * self.channels + from..][..some].copy_from_slice(&line[..some]);
            }
        }
        self.data = Vec::new();
        (self.rows, self.channels, weights)
    }

    pub fn panels(&self) -> usize {
        self.channels.div_ceil(self.width)
    }

    /// First channel, number of channels, lanes and weights of a panel.
    pub fn panel(&self, index: usize) -> (usize, usize, usize, &[f32]) {
        let from = index * self.width;
        let some = self.width.min(self.channels - from);
        let lanes = some.next_multiple_of(LANES);
        let start = from * self.rows;
        (
            from,
            some,
            lanes,
            &self.data[start..start + lanes * self.rows],
        )
    }
}

/// The weights of a sweep.
#[derive(Clone, Copy)]
pub(super) enum Weights<'a> {
    Panels(&'a Packed),
    /// Those of the convolution whose gradient is passed back, for the products of tiles.
    Transposed {
        of: &'a Packed,
        /// Which of its window's positions each of the sweep's window is.
        taps: &'a [usize],
        /// The convolution's input channels.
        channels: usize,
    },
}

impl Weights<'_> {
    pub fn isa(&self) -> Isa {
        match self {
            Weights::Panels(packed) | Weights::Transposed { of: packed, .. } => packed.isa,
        }
    }

    /// Channels that come out.
    pub fn channels(&self) -> usize {
        match self {
            Weights::Panels(packed) => packed.channels,
            Weights::Transposed { channels, .. } => *channels,
        }
    }

    /// Values that go in, of a whole window.
    fn rows(&self) -> usize {
        match self {
            Weights::Panels(packed) => packed.rows,
            Weights::Transposed { of, taps, .. } => taps.len() * of.channels,
        }
    }
}

/// Where a sweep reads: the window of output (0, 0) starts at `origin`, that of the next output
/// `step` further.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reads {
    pub origin: [isize; 2],
    pub step: [usize; 2],
    /// Lines of the window, and positions in each.
    pub window: [usize; 2],
}

/// Where it writes: output (y, x) goes to `origin + step * (y, x)`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Writes {
    pub origin: [usize; 2],
    pub step: [usize; 2],
    /// How many outputs there are.
    pub grid: [usize; 2],
    /// First channel.
    pub channel: usize,
}

/// What is done with a sum before it is written.
pub(super) struct Epilogue<'a> {
    pub bias: Option<&'a [f32]>,
    pub residual: Option<&'a Buffer>,
    pub accumulate: bool,
    pub relu: Relu<'a>,
}

pub(super) enum Relu<'a> {
    No,
    Forward(&'a mut Bits),
    Backward(&'a Bits),
    Guided(&'a Bits),
}

pub(super) enum SharedRelu<'a> {
    No,
    Forward(Shared<'a, u16>, usize, usize, usize),
    Backward(&'a Bits),
    Guided(&'a Bits),
}

impl<'a> SharedRelu<'a> {
    pub fn new(relu: Relu<'a>) -> Self {
        match relu {
            Relu::No => SharedRelu::No,
            Relu::Forward(bits) => {
                let (words, width, positions) = (bits.words, bits.width, bits.positions);
                SharedRelu::Forward(Shared::new(&mut bits.data), words, width, positions)
            }
            Relu::Backward(bits) => SharedRelu::Backward(bits),
            Relu::Guided(bits) => SharedRelu::Guided(bits),
        }
    }
}

/// Outputs of one row that are not worth a product of tiles.
const FEW: usize = 8;

/// Where sums go.
pub(super) struct Sink<'a> {
    isa: Isa,
    writes: Writes,
    to: Geometry,
    out: Shared<'a, f32>,
    bias: Option<&'a [f32]>,
    residual: Option<&'a Buffer>,
    accumulate: bool,
    relu: SharedRelu<'a>,
}

impl<'a> Sink<'a> {
    fn new(isa: Isa, target: &'a mut Buffer, writes: Writes, epilogue: Epilogue<'a>) -> Self {
        let Epilogue {
            bias,
            residual,
            accumulate,
            relu,
        } = epilogue;
        Sink {
            isa,
            writes,
            to: target.geometry,
            out: Shared::new(&mut target.data),
            bias,
            residual,
            accumulate,
            relu: SharedRelu::new(relu),
        }
    }

    /// `count` outputs of a row from (y, x) on, `some` channels of each from `channel` on; their
    /// sums are `pitch` apart.
    #[inline]
    pub fn write(
        &self,
        [row, y, x]: [usize; 3],
        count: usize,
        channel: usize,
        some: usize,
        sums: &[f32],
        pitch: usize,
    ) {
        let writes = &self.writes;
        let (y, x) = (
            writes.origin[0] + y * writes.step[0],
            writes.origin[1] + x * writes.step[1],
        );
        let step = writes.step[1];
        let spacing = step * self.to.channels;
        let place = self.to.at(row, y as isize, x as isize) + writes.channel + channel;
        let word = (writes.channel + channel) / LANES;
        let words = some.div_ceil(LANES);
        let bits = |bits: &'a Bits| Spaced {
            data: &bits.data[bits.at(row, y, x) + word..],
            spacing: step * bits.words,
        };
        self.isa.finish(Finish {
            sums,
            pitch,
            bias: self.bias.map(|bias| &bias[channel..channel + some]),
            residual: self.residual.map(|residual| {
                let at = residual.geometry.at(row, y as isize, x as isize) + channel;
                Spaced {
                    data: &residual.data[at..],
                    spacing: step * residual.geometry.channels,
                }
            }),
            accumulate: self.accumulate,
            rectify: match &self.relu {
                SharedRelu::No => Rectify::No,
                SharedRelu::Forward(shared, all, width, positions) => {
                    let at = (row * positions + y * width + x) * all + word;
                    Rectify::Forward(shared.spread(at, count, step * all, words))
                }
                SharedRelu::Backward(b) => Rectify::Backward(bits(b)),
                SharedRelu::Guided(b) => Rectify::Guided(bits(b)),
            },
            out: self.out.spread(place, count, spacing, some),
        });
    }
}

pub(super) fn sweep(
    source: &Buffer,
    reads: Reads,
    weights: Weights,
    target: &mut Buffer,
    writes: Writes,
    epilogue: Epilogue,
) {
    let [height, width] = writes.grid;
    let positions = height * width;
    let total = positions * source.rows;
    if total == 0 {
        return;
    }
    let isa = weights.isa();
    let from = source.geometry;
    let run = reads.window[1] * from.channels;
    assert_eq!(weights.rows(), reads.window[0] * run);
    let sink = Sink::new(isa, target, writes, epilogue);
    let weights = match weights {
        Weights::Panels(packed) if !isa.splits(run) || packed.positions < FEW => packed,
        _ => return tiled::sweep(source, &reads, weights, &writes, &sink),
    };

    // Tasks are chunks of positions, and groups of panels where there are few positions.
    let tile = isa.positions();
    let wanted = 4 * rayon::current_num_threads();
    let chunk = total
        .div_ceil(wanted)
        .clamp(4 * tile, 64 * tile)
        .next_multiple_of(tile);
    let chunks = total.div_ceil(chunk);
    let groups = wanted.div_ceil(chunks).clamp(1, weights.panels());
    let per_group = weights.panels().div_ceil(groups);

    let task = |task: usize| {
        let (chunk_index, group) = (task / groups, task % groups);
        let (first, end) = (chunk_index * chunk, ((chunk_index + 1) * chunk).min(total));
        let mut sums = [0.0; POSITIONS * WIDEST];
        let mut starts = [0; POSITIONS];
        let mut places = [[0; 3]; POSITIONS];
        for panel in group * per_group..((group + 1) * per_group).min(weights.panels()) {
            let (channel, some, lanes, panel) = weights.panel(panel);
            let mut at = first;
            while at < end {
                let count = tile.min(end - at);
                for m in 0..count {
                    let (row, place) = ((at + m) / positions, (at + m) % positions);
                    let (y, x) = (place / width, place % width);
                    places[m] = [row, y, x];
                    starts[m] = from.at(
                        row,
                        reads.origin[0] + (y * reads.step[0]) as isize,
                        reads.origin[1] + (x * reads.step[1]) as isize,
                    );
                }
                isa.tile(
                    Tile {
                        source: &source.data,
                        starts: &starts[..count],
                        taps: reads.window[0],
                        tap_stride: from.pitch(),
                        run,
                        panel,
                        lanes,
                    },
                    &mut sums,
                );
                let mut m = 0;
                while m < count {
                    let in_line = (count - m).min(width - places[m][2]);
                    sink.write(
                        places[m],
                        in_line,
                        channel,
                        some,
                        &sums[m * WIDEST..],
                        WIDEST,
                    );
                    m += in_line;
                }
                at += count;
            }
        }
    };
    match chunks * groups {
        1 => task(0),
        tasks => (0..tasks).into_par_iter().for_each(task),
    }
}
