//! The inner loops: a tile of a few positions by a panel of channels, and what is done with it.
//!
//! Each instruction set has a module of its own, the only places with `unsafe`; all give the
//! portable one's results up to the rounding of fused multiply-adds.

use std::sync::OnceLock;

#[cfg(target_arch = "x86_64")]
#[allow(unsafe_code)]
mod amx;
#[cfg(target_arch = "x86_64")]
#[allow(unsafe_code)]
mod avx2;
#[cfg(target_arch = "x86_64")]
#[allow(unsafe_code)]
mod avx512;
pub(super) mod functions;
#[cfg(target_arch = "aarch64")]
#[allow(unsafe_code)]
mod neon;
mod portable;
#[allow(unsafe_code)]
mod shared;
#[allow(unsafe_code)]
mod split;

pub(super) use shared::{Shared, Spread};
pub(super) use split::{
    Line, Multiplier, PANEL, PANEL_STEP, PARTS, Positions, Product, STEP, TILE_ROWS, Tiles,
    split_left, split_left_transposed, split_right, split_transposed,
};

/// Most positions in a tile.
pub(super) const POSITIONS: usize = 13;
/// Most channels in a panel.
pub(super) const WIDEST: usize = 32;
/// Channels are counted in these, and padded up to them in panels.
pub(super) const LANES: usize = 16;

/// Sums of products of one tile: `[POSITIONS][WIDEST]`.
pub(super) type Sums = [f32; POSITIONS * WIDEST];

/// What one tile reads. For position m and channel j, its sum runs over taps t and i < run:
/// source[starts[m] + t * tap_stride + i] * panel[t * run + i][j].
#[derive(Clone, Copy)]
pub(super) struct Tile<'a> {
    pub source: &'a [f32],
    pub starts: &'a [usize],
    pub taps: usize,
    pub tap_stride: usize,
    pub run: usize,
    /// `[taps * run][lanes]`, lanes a multiple of [`LANES`].
    pub panel: &'a [f32],
    pub lanes: usize,
}

impl Tile<'_> {
    /// Fails where a read would lie outside.
    fn check(&self) {
        let last = (self.taps - 1) * self.tap_stride + self.run;
        assert!(self.taps > 0 && self.lanes > 0 && self.lanes.is_multiple_of(LANES));
        assert!(self.lanes <= WIDEST && self.starts.len() <= POSITIONS);
        assert!(self.starts.iter().all(|s| s + last <= self.source.len()));
        assert!(self.panel.len() >= self.taps * self.run * self.lanes);
    }
}

/// What becomes of the sums of some positions: bias, then what is there already, then a
/// residual, then the ReLU or its mask. As many as `out` has parts, one channel for each of
/// their elements.
pub(super) struct Finish<'a> {
    pub sums: &'a [f32],
    /// From the sums of one position to those of the next.
    pub pitch: usize,
    pub bias: Option<&'a [f32]>,
    pub residual: Option<Spaced<'a, f32>>,
    pub accumulate: bool,
    pub rectify: Rectify<'a>,
    pub out: Spread<'a, f32>,
}

/// Equally spaced parts of a slice.
#[derive(Clone, Copy)]
pub(super) struct Spaced<'a, T> {
    pub data: &'a [T],
    pub spacing: usize,
}

/// How a ReLU takes part.
pub(super) enum Rectify<'a> {
    No,
    /// max(x, 0), and which were positive: one bit for each channel.
    Forward(Spread<'a, u16>),
    /// x where the bit is set.
    Backward(Spaced<'a, u16>),
    /// x where the bit is set and x is positive (Guided Backprop).
    Guided(Spaced<'a, u16>),
}

impl Finish<'_> {
    /// Fails where a read or a write would lie outside.
    fn check(&self) {
        let (count, channels) = (self.out.count, self.out.len);
        let words = channels.div_ceil(LANES);
        let holds = |len: usize, spacing: usize, some: usize| {
            assert!(count == 0 || (count - 1) * spacing + some <= len);
        };
        holds(self.sums.len(), self.pitch, channels);
        assert!(self.bias.is_none_or(|bias| bias.len() >= channels));
        if let Some(residual) = self.residual {
            holds(residual.data.len(), residual.spacing, channels);
        }
        match &self.rectify {
            Rectify::No => {}
            Rectify::Forward(bits) => assert!(bits.count >= count && bits.len >= words),
            Rectify::Backward(bits) | Rectify::Guided(bits) => {
                holds(bits.data.len(), bits.spacing, words);
            }
        }
    }
}

/// The largest of some values for each channel, and its number; the first of equals.
pub(super) struct Pool<'a> {
    pub source: &'a [f32],
    /// Where the channels of each value start, and its number.
    pub taps: &'a [(usize, u8)],
    pub out: &'a mut [f32],
    pub places: &'a mut [u8],
}

/// For each channel, adds a gradient where the tap has the number in `places`.
pub(super) struct Unpool<'a> {
    pub gradient: &'a [f32],
    pub places: &'a [u8],
    /// Where the channels of each tap start in `out`, and its number.
    pub taps: &'a [(usize, u8)],
    pub out: &'a mut [f32],
}

/// Adds the sums of windows that overlap: out[m * spacing + j] += sums[m * pitch + j] for
/// j < run.
pub(super) struct Overlap<'a> {
    pub sums: &'a [f32],
    pub pitch: usize,
    pub count: usize,
    pub run: usize,
    pub spacing: usize,
    pub out: &'a mut [f32],
}

/// Loops that are compiled for every set of instructions. `run` must always be inlined, or it is
/// compiled for the oldest machines only; closures and functions as values are not.
pub(super) trait Work {
    type Made;

    fn run(self) -> Self::Made;
}

/// A set of instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Isa {
    Portable,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    Avx512,
    /// AVX-512 and matrix tiles.
    #[cfg(target_arch = "x86_64")]
    Amx,
    /// Of which every 64-bit ARM has some; its tiles are written by hand, and the compiler
    /// makes the other loops of the portable ones.
    #[cfg(target_arch = "aarch64")]
    Neon,
    /// The same products as with matrix tiles, by the portable loops.
    #[cfg(test)]
    Parts,
}

impl Isa {
    /// The best of this machine.
    pub fn best() -> Self {
        static BEST: OnceLock<Isa> = OnceLock::new();
        *BEST.get_or_init(|| Self::all().pop().unwrap_or(Isa::Portable))
    }

    /// All of this machine, the best last.
    pub fn all() -> Vec<Self> {
        let mut all = vec![Isa::Portable];
        #[cfg(test)]
        all.push(Isa::Parts);
        #[cfg(target_arch = "x86_64")]
        {
            if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                all.push(Isa::Avx2);
            }
            if is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx2") {
                all.push(Isa::Avx512);
                if amx::available() {
                    all.push(Isa::Amx);
                }
            }
        }
        #[cfg(target_arch = "aarch64")]
        if std::arch::is_aarch64_feature_detected!("neon") {
            all.push(Isa::Neon);
        }
        all
    }

    /// Positions in a tile: as many as keep all sums in registers.
    pub fn positions(self) -> usize {
        match self {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 | Isa::Amx => 13,
            _ => 6,
        }
    }

    /// Channels in a panel.
    pub fn width(self) -> usize {
        match self {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 | Isa::Amx => 32,
            #[cfg(test)]
            Isa::Parts => 32,
            _ => 16,
        }
    }

    /// Whether it sweeps by products of tiles of bf16 parts where lines of the window have so
    /// many values.
    pub fn splits(self, run: usize) -> bool {
        match self {
            #[cfg(target_arch = "x86_64")]
            Isa::Amx => run >= LANES,
            #[cfg(test)]
            Isa::Parts => run >= LANES,
            _ => false,
        }
    }

    /// The sums of a tile.
    pub fn tile(self, tile: Tile, sums: &mut Sums) {
        tile.check();
        match self {
            #[cfg(test)]
            Isa::Parts => portable::tile(tile, sums),
            Isa::Portable => portable::tile(tile, sums),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => avx2::tile(tile, sums),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 | Isa::Amx => avx512::tile(tile, sums),
            #[cfg(target_arch = "aarch64")]
            Isa::Neon => neon::tile(tile, sums),
        }
    }

    /// Writes some positions.
    pub fn finish(self, finish: Finish) {
        finish.check();
        match self {
            #[cfg(test)]
            Isa::Parts => portable::finish(finish),
            Isa::Portable => portable::finish(finish),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => avx2::finish(finish),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 | Isa::Amx => avx512::finish(finish),
            #[cfg(target_arch = "aarch64")]
            Isa::Neon => portable::finish(finish),
        }
    }
}

impl Isa {
    /// Does work in loops that the compiler vectorises with these instructions.
    pub fn vectorised<W: Work>(self, work: W) -> W::Made {
        match self {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 | Isa::Amx => avx512::vectorised(work),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => avx2::vectorised(work),
            _ => work.run(),
        }
    }

    /// Maxima.
    pub fn pool(self, pool: Pool) {
        let channels = pool.out.len();
        assert!(pool.places.len() == channels);
        let inside = |&(at, _): &(usize, u8)| at + channels <= pool.source.len();
        assert!(pool.taps.iter().all(inside));
        match self {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => avx2::pool(pool),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 | Isa::Amx => avx512::pool(pool),
            _ => portable::pool(pool),
        }
    }

    /// Sums of windows.
    pub fn overlap(self, overlap: Overlap) {
        let Overlap {
            count,
            run,
            pitch,
            spacing,
            ..
        } = overlap;
        assert!(count > 0 && spacing > 0);
        assert!((count - 1) * pitch + run <= overlap.sums.len());
        assert!((count - 1) * spacing + run <= overlap.out.len());
        match self {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 | Isa::Amx => avx512::overlap(overlap),
            _ => portable::overlap(overlap),
        }
    }

    /// The gradient of maxima.
    pub fn unpool(self, unpool: Unpool) {
        let channels = unpool.gradient.len();
        assert!(unpool.places.len() == channels);
        let inside = |&(at, _): &(usize, u8)| at + channels <= unpool.out.len();
        assert!(unpool.taps.iter().all(inside));
        match self {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => avx2::unpool(unpool),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 | Isa::Amx => avx512::unpool(unpool),
            _ => portable::unpool(unpool),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn values(seed: u64, len: usize) -> Vec<f32> {
        crate::noise::standard_normal(seed, 0, len)
    }

    proptest! {
        /// Every instruction set of this machine against the portable loops.
        #[test]
        fn all_instruction_sets_agree(
            positions in 1..=POSITIONS,
            taps in 1usize..4,
            run in 1usize..70,
            vectors in 1usize..=2,
            seed in 0u64..1000,
        ) {
            for isa in Isa::all() {
                let positions = positions.min(isa.positions());
                let lanes = (vectors * LANES).min(isa.width());
                let stride = run + 3;
                let source = values(seed, positions * 7 + taps * stride + run);
                let starts: Vec<usize> = (0..positions).map(|m| m * 5).collect();
                let panel = values(seed + 1, taps * run * lanes);
                let tile = Tile {
                    source: &source,
                    starts: &starts,
                    taps,
                    tap_stride: stride,
                    run,
                    panel: &panel,
                    lanes,
                };
                let (mut want, mut got) = ([0.0; POSITIONS * WIDEST], [0.0; POSITIONS * WIDEST]);
                Isa::Portable.tile(tile, &mut want);
                isa.tile(tile, &mut got);
                for m in 0..positions {
                    for j in 0..lanes {
                        let (a, b) = (got[m * WIDEST + j], want[m * WIDEST + j]);
                        prop_assert!((a - b).abs() < 1e-4 * b.abs().max(1.0), "{isa:?} {a} {b}");
                    }
                }
            }
        }

        #[test]
        fn all_ways_to_finish_agree(
            count in 0usize..5,
            channels in 1usize..=100,
            with_bias: bool,
            with_residual: bool,
            accumulate: bool,
            how in 0..4,
            seed in 0u64..1000,
        ) {
            for isa in Isa::all() {
                let words = channels.div_ceil(LANES);
                let run = |isa: Isa| {
                    let sums = values(seed, 5 * 110);
                    let bias = values(seed + 1, channels);
                    let residual = values(seed + 2, 5 * 105);
                    let mut out = values(seed + 3, 5 * 101);
                    let mut bits = vec![0x5a5a_u16; 5 * words];
                    let fixed = bits.clone();
                    let fixed = Spaced { data: &fixed, spacing: words };
                    isa.finish(Finish {
                        sums: &sums,
                        pitch: 110,
                        bias: with_bias.then_some(&bias[..]),
                        residual: with_residual.then_some(Spaced {
                            data: &residual,
                            spacing: 105,
                        }),
                        accumulate,
                        rectify: match how {
                            0 => Rectify::No,
                            1 => Rectify::Forward(Spread::new(&mut bits, count, words, words)),
                            2 => Rectify::Backward(fixed),
                            _ => Rectify::Guided(fixed),
                        },
                        out: Spread::new(&mut out, count, 101, channels),
                    });
                    (out, bits)
                };
                prop_assert_eq!(run(isa), run(Isa::Portable));
            }
        }

        #[test]
        fn all_ways_to_add_windows_agree(
            count in 1usize..20,
            run in 1usize..50,
            spacing in 1usize..20,
            seed in 0u64..1000,
        ) {
            let (pitch, sums) = (run + 2, values(seed, count * (run + 2)));
            let out = values(seed + 1, count * spacing + run);
            let mut want = out.clone();
            for (m, j) in (0..count).flat_map(|m| (0..run).map(move |j| (m, j))) {
                want[m * spacing + j] += sums[m * pitch + j];
            }
            for isa in Isa::all() {
                let mut out = out.clone();
                isa.overlap(Overlap { sums: &sums, pitch, count, run, spacing, out: &mut out });
                for (a, b) in out.iter().zip(&want) {
                    prop_assert!((a - b).abs() < 1e-4, "{isa:?} {a} {b}");
                }
            }
        }

        #[test]
        fn all_ways_to_pool_agree(
            channels in 1usize..70,
            taps in 1usize..6,
            seed in 0u64..1000,
        ) {
            // Rounded, so that some are equal.
            let round = |values: Vec<f32>| values.into_iter().map(|v| (2.0 * v).round());
            let source: Vec<f32> = round(values(seed, channels * taps)).collect();
            let taps: Vec<(usize, u8)> = (0..taps).map(|t| (t * channels, 2 * t as u8)).collect();
            let gradient = values(seed + 1, channels);
            let run = |isa: Isa| {
                let (mut out, mut places) = (vec![0.0; channels], vec![9; channels]);
                isa.pool(Pool { source: &source, taps: &taps, out: &mut out, places: &mut places });
                let mut back = source.clone();
                isa.unpool(Unpool {
                    gradient: &gradient,
                    places: &places,
                    taps: &taps,
                    out: &mut back,
                });
                (out, places, back)
            };
            let (out, places, back) = run(Isa::Portable);
            for c in 0..channels {
                let of = |t: usize| source[t * channels + c];
                let best = (0..taps.len()).rev().max_by(|&a, &b| of(a).partial_cmp(&of(b)).unwrap()).unwrap();
                prop_assert_eq!((out[c], places[c]), (of(best), 2 * best as u8));
                prop_assert_eq!(back[best * channels + c], of(best) + gradient[c]);
            }
            for isa in Isa::all() {
                prop_assert_eq!(run(isa), (out.clone(), places.clone(), back.clone()));
            }
        }
    }
}
