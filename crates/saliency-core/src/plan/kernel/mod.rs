//! The inner loops: a tile of a few positions by a panel of channels, and what is done with it.
//!
//! Each instruction set has a module of its own, the only places with `unsafe`; all give the
//! portable one's results up to the rounding of fused multiply-adds.

use std::sync::OnceLock;

#[cfg(target_arch = "x86_64")]
#[allow(unsafe_code)]
mod avx2;
#[cfg(target_arch = "x86_64")]
#[allow(unsafe_code)]
mod avx512;
mod portable;
#[allow(unsafe_code)]
mod shared;

pub(super) use shared::Shared;

/// Positions in a tile.
pub(super) const POSITIONS: usize = 6;
/// Most channels in a panel.
pub(super) const WIDEST: usize = 64;
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

/// What becomes of the sums of one position: bias, then what is there already, then a residual,
/// then the ReLU or its mask.
pub(super) struct Finish<'a> {
    pub sums: &'a [f32],
    pub bias: Option<&'a [f32]>,
    pub residual: Option<&'a [f32]>,
    pub accumulate: bool,
    pub rectify: Rectify<'a>,
    pub out: &'a mut [f32],
}

/// How a ReLU takes part.
pub(super) enum Rectify<'a> {
    No,
    /// max(x, 0), and which were positive: one bit for each channel.
    Forward(&'a mut [u16]),
    /// x where the bit is set.
    Backward(&'a [u16]),
    /// x where the bit is set and x is positive (Guided Backprop).
    Guided(&'a [u16]),
}

/// A set of instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Isa {
    Portable,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    Avx512,
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
        #[cfg(target_arch = "x86_64")]
        {
            if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                all.push(Isa::Avx2);
            }
            if is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx2") {
                all.push(Isa::Avx512);
            }
        }
        all
    }

    /// Channels in a panel.
    pub fn width(self) -> usize {
        match self {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => 64,
            _ => 16,
        }
    }

    /// The sums of a tile.
    pub fn tile(self, tile: Tile, sums: &mut Sums) {
        tile.check();
        match self {
            Isa::Portable => portable::tile(tile, sums),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => avx2::tile(tile, sums),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => avx512::tile(tile, sums),
        }
    }

    /// Writes one position.
    pub fn finish(self, finish: Finish) {
        match self {
            Isa::Portable => portable::finish(finish),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => avx2::finish(finish),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => avx512::finish(finish),
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
            vectors in 1usize..=4,
            seed in 0u64..1000,
        ) {
            for isa in Isa::all() {
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
            channels in 1usize..=WIDEST,
            with_bias: bool,
            with_residual: bool,
            accumulate: bool,
            how in 0..4,
            seed in 0u64..1000,
        ) {
            for isa in Isa::all() {
                let run = |isa: Isa| {
                    let sums = values(seed, WIDEST);
                    let (bias, residual) = (values(seed + 1, channels), values(seed + 2, channels));
                    let mut out = values(seed + 3, channels);
                    let mut bits = [0x5a5a_u16; WIDEST / LANES];
                    let fixed = bits;
                    isa.finish(Finish {
                        sums: &sums,
                        bias: with_bias.then_some(&bias[..]),
                        residual: with_residual.then_some(&residual[..]),
                        accumulate,
                        rectify: match how {
                            0 => Rectify::No,
                            1 => Rectify::Forward(&mut bits),
                            2 => Rectify::Backward(&fixed),
                            _ => Rectify::Guided(&fixed),
                        },
                        out: &mut out,
                    });
                    (out, bits)
                };
                prop_assert_eq!(run(isa), run(Isa::Portable));
            }
        }
    }
}
