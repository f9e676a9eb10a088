//! One sweep of a window over a buffer: every convolution, forward and backward, and every
//! linear layer is one or a few of these.

use rayon::prelude::*;

use super::{
    buffer::{Bits, Buffer},
    kernel::{Finish, Isa, LANES, POSITIONS, Rectify, Shared, Tile, WIDEST},
};

/// Weights in the order in which the inner loop reads them: panels of channels, each
/// `[rows][lanes]`.
#[derive(Clone, Debug)]
pub(super) struct Packed {
    pub isa: Isa,
    pub rows: usize,
    pub channels: usize,
    data: Vec<f32>,
}

impl Packed {
    /// From a function of (row, channel).
    pub fn new(
        isa: Isa,
        rows: usize,
        channels: usize,
        weight: impl Fn(usize, usize) -> f32,
    ) -> Self {
        let mut data = Vec::new();
        for from in (0..channels).step_by(isa.width()) {
            let some = isa.width().min(channels - from);
            let lanes = some.next_multiple_of(LANES);
            for row in 0..rows {
                data.extend((0..lanes).map(|j| match j < some {
                    true => weight(row, from + j),
                    false => 0.0,
                }));
            }
        }
        Packed {
            isa,
            rows,
            channels,
            data,
        }
    }

    pub fn panels(&self) -> usize {
        self.channels.div_ceil(self.isa.width())
    }

    /// First channel, number of channels, lanes and weights of a panel.
    pub fn panel(&self, index: usize) -> (usize, usize, usize, &[f32]) {
        let from = index * self.isa.width();
        let some = self.isa.width().min(self.channels - from);
        let lanes = some.next_multiple_of(LANES);
        let start = index * self.isa.width() * self.rows;
        (
            from,
            some,
            lanes,
            &self.data[start..start + lanes * self.rows],
        )
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

enum SharedRelu<'a> {
    No,
    Forward(Shared<'a, u16>, usize, usize, usize),
    Backward(&'a Bits),
    Guided(&'a Bits),
}

pub(super) fn sweep(
    source: &Buffer,
    reads: Reads,
    weights: &Packed,
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
    let isa = weights.isa;
    let from = source.geometry;
    let to = target.geometry;
    let run = reads.window[1] * from.channels;
    assert_eq!(weights.rows, reads.window[0] * run);
    let Epilogue {
        bias,
        residual,
        accumulate,
        relu,
    } = epilogue;
    let relu = match relu {
        Relu::No => SharedRelu::No,
        Relu::Forward(bits) => {
            let (words, width, positions) = (bits.words, bits.width, bits.positions);
            SharedRelu::Forward(Shared::new(&mut bits.data), words, width, positions)
        }
        Relu::Backward(bits) => SharedRelu::Backward(bits),
        Relu::Guided(bits) => SharedRelu::Guided(bits),
    };
    let out = Shared::new(&mut target.data);

    // Tasks are chunks of positions, and groups of panels where there are few positions.
    let wanted = 4 * rayon::current_num_threads();
    let chunk = total
        .div_ceil(wanted)
        .clamp(4 * POSITIONS, 64 * POSITIONS)
        .next_multiple_of(POSITIONS);
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
                let count = POSITIONS.min(end - at);
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
                for (m, &[row, y, x]) in places[..count].iter().enumerate() {
                    let (y, x) = (
                        writes.origin[0] + y * writes.step[0],
                        writes.origin[1] + x * writes.step[1],
                    );
                    let place = to.at(row, y as isize, x as isize) + writes.channel + channel;
                    let word = (writes.channel + channel) / LANES;
                    let words = some.div_ceil(LANES);
                    let bits = |bits: &'_ Bits| bits.at(row, y, x) + word;
                    isa.finish(Finish {
                        sums: &sums[m * WIDEST..][..some],
                        bias: bias.map(|bias| &bias[channel..channel + some]),
                        residual: residual.map(|residual| {
                            let at = residual.geometry.at(row, y as isize, x as isize);
                            &residual.data[at + channel..][..some]
                        }),
                        accumulate,
                        rectify: match &relu {
                            SharedRelu::No => Rectify::No,
                            SharedRelu::Forward(shared, all, width, positions) => {
                                let at = (row * positions + y * width + x) * all + word;
                                Rectify::Forward(shared.part(at, words))
                            }
                            SharedRelu::Backward(b) => {
                                Rectify::Backward(&b.data[bits(b)..][..words])
                            }
                            SharedRelu::Guided(b) => Rectify::Guided(&b.data[bits(b)..][..words]),
                        },
                        out: out.part(place, some),
                    });
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
