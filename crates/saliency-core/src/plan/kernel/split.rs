//! Products of f32 matrices from bf16 ones: each factor is the sum of three bf16 parts (8 bits
//! of its 24 each), and of the nine products of parts the six that matter are added up in f32.
//! What is left out is below the last bit of f32.

#[cfg(target_arch = "x86_64")]
use super::amx;
use super::{Isa, LANES};

/// Parts of an f32.
pub(in crate::plan) const PARTS: usize = 3;
/// Values of the inner dimension in one tile; a power of two.
pub(in crate::plan) const STEP: usize = 32;
/// Most positions in a tile.
pub(in crate::plan) const TILE_ROWS: usize = 16;
/// Channels in a panel: two tiles.
pub(in crate::plan) const PANEL: usize = 32;
/// Lines in a tile of a right factor.
pub(super) const TILE: usize = 16;
/// Lines of a panel in one step.
pub(in crate::plan) const PANEL_STEP: usize = 6 * TILE;

/// One line of a tile: a cache line.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
pub(in crate::plan) struct Line(pub [u16; STEP]);

impl Line {
    pub const ZERO: Line = Line([0; STEP]);
}

/// Sums of two tiles of positions: `[2][TILE_ROWS][PANEL]`.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
pub(in crate::plan) struct Tiles(pub [f32; 2 * TILE_ROWS * PANEL]);

/// Two tiles of positions times a panel.
pub(in crate::plan) struct Product<'a> {
    /// `[STEPs of channels][3][plane]`, see [`split_left`].
    pub left: &'a [Line],
    /// Positions in a plane.
    pub plane: usize,
    /// First position of either tile.
    pub starts: [usize; 2],
    /// Where each step begins in `left`, from the start of the tile.
    pub steps: &'a [usize],
    /// `[steps][3][2][TILE]`, see [`split_right`].
    pub right: &'a [Line],
}

impl Product<'_> {
    /// Fails where a read would lie outside.
    fn check(&self, rows: usize) {
        let step = self.steps.iter().max().expect("a product has steps");
        let last = self.starts[0].max(self.starts[1]) + rows - 1;
        assert!(step + last + 2 * self.plane < self.left.len());
        assert!(self.right.len() >= self.steps.len() * PANEL_STEP);
    }
}

/// Tiles for left factors of some positions.
pub(in crate::plan) enum Multiplier {
    Portable(usize),
    /// The tile registers of this thread.
    #[cfg(target_arch = "x86_64")]
    Amx(usize, amx::Configured),
}

impl Multiplier {
    pub fn new(isa: Isa, rows: usize) -> Self {
        match isa {
            #[cfg(target_arch = "x86_64")]
            Isa::Amx => Multiplier::Amx(rows, amx::Configured::new(rows)),
            _ => Multiplier::Portable(rows),
        }
    }

    pub fn multiply(&self, product: &Product, sums: &mut Tiles) {
        match self {
            Multiplier::Portable(rows) => {
                product.check(*rows);
                portable(product, *rows, sums);
            }
            #[cfg(target_arch = "x86_64")]
            Multiplier::Amx(rows, tiles) => {
                product.check(*rows);
                amx::multiply(tiles, product, sums);
            }
        }
    }
}

/// A matrix that is split: `channels` values of each of `count` positions, which are `spacing`
/// apart in `values`.
#[derive(Clone, Copy)]
pub(in crate::plan) struct Positions<'a> {
    pub values: &'a [f32],
    pub channels: usize,
    pub spacing: usize,
    pub count: usize,
}

impl<'a> Positions<'a> {
    /// One behind the other.
    pub fn dense(values: &'a [f32], channels: usize, count: usize) -> Self {
        Positions {
            values,
            channels,
            spacing: channels,
            count,
        }
    }

    /// At most so many positions and channels, from the given ones on.
    pub fn part(self, [position, channel]: [usize; 2], [count, channels]: [usize; 2]) -> Self {
        Positions {
            values: &self.values[position * self.spacing + channel..],
            channels: channels.min(self.channels - channel),
            spacing: self.spacing,
            count: count.min(self.count - position),
        }
    }

    /// Fails where a read would lie outside.
    fn check(&self) {
        assert!(self.channels > 0);
        let all = |last: usize| last * self.spacing + self.channels;
        assert!(self.count == 0 || all(self.count - 1) <= self.values.len());
    }

    /// Zero outside.
    fn value(&self, position: usize, channel: usize) -> f32 {
        match position < self.count && channel < self.channels {
            true => self.values[position * self.spacing + channel],
            false => 0.0,
        }
    }
}

/// Splits positions into `[STEPs of channels][3][plane]`, from place `first` of a plane on.
/// Within a step, values 16 apart are neighbours.
pub(in crate::plan) fn split_left(
    isa: Isa,
    from: Positions,
    first: usize,
    plane: usize,
    out: &mut [Line],
) {
    from.check();
    assert!(first + from.count <= plane);
    assert!(from.channels.div_ceil(STEP) * PARTS * plane <= out.len());
    match isa {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the machine has AMX and with it AVX-512; all lengths have just been checked.
        Isa::Amx => unsafe { amx::split_left(from, first, plane, out) },
        _ => {
            let value = |position, channel| from.value(position, channel);
            split_left_by(value, [from.count, from.channels], first, plane, out);
        }
    }
}

/// The same of a transposed factor: positions are what `from` has beside each other, from place 0
/// of a plane on.
pub(in crate::plan) fn split_left_transposed(
    isa: Isa,
    from: Positions,
    plane: usize,
    out: &mut [Line],
) {
    from.check();
    assert!(from.channels <= plane);
    assert!(from.count.div_ceil(STEP) * PARTS * plane <= out.len());
    match isa {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the machine has AMX and with it AVX-512; all lengths have just been checked.
        Isa::Amx => unsafe { amx::split_left_transposed(from, plane, out) },
        _ => {
            let value = |position, channel| from.value(channel, position);
            split_left_by(value, [from.channels, from.count], 0, plane, out);
        }
    }
}

/// From a function of (position, channel).
fn split_left_by(
    value: impl Fn(usize, usize) -> f32,
    [positions, channels]: [usize; 2],
    first: usize,
    plane: usize,
    out: &mut [Line],
) {
    for position in 0..positions {
        for chunk in 0..channels.div_ceil(STEP) {
            for j in 0..STEP {
                let at = j % 2 * (STEP / 2) + j / 2;
                let parts = three(value(position, chunk * STEP + at));
                for (s, part) in parts.into_iter().enumerate() {
                    out[(chunk * PARTS + s) * plane + first + position].0[j] = part;
                }
            }
        }
    }
}

/// Splits up to [`STEP`] lines of a right factor, of up to [`PANEL`] columns, into two tiles of
/// three parts: `[3][2][TILE]`. What is missing is zeros.
pub(in crate::plan) fn split_right(isa: Isa, from: Positions, out: &mut [Line]) {
    from.check();
    assert!(from.count <= STEP && from.channels <= PANEL && out.len() >= PANEL_STEP);
    match isa {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the machine has AMX and with it AVX-512; all lengths have just been checked.
        Isa::Amx => unsafe { amx::split_right(from, out) },
        _ => split_right_by(|row, column| from.value(row, column), out),
    }
}

/// The same of a transposed factor: up to [`PANEL`] columns, each a line of up to [`STEP`] values.
pub(in crate::plan) fn split_transposed(isa: Isa, from: Positions, out: &mut [Line]) {
    from.check();
    assert!(from.count <= PANEL && from.channels <= STEP && out.len() >= PANEL_STEP);
    match isa {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the machine has AMX and with it AVX-512; all lengths have just been checked.
        Isa::Amx => unsafe { amx::split_transposed(from, out) },
        _ => split_right_by(|row, column| from.value(column, row), out),
    }
}

/// From a function of (row, column).
fn split_right_by(value: impl Fn(usize, usize) -> f32, out: &mut [Line]) {
    for (r, half) in (0..STEP / 2).flat_map(|r| [(r, 0), (r, 1)]) {
        for j in 0..STEP {
            let (row, column) = (j % 2 * (STEP / 2) + r, half * LANES + j / 2);
            for (s, part) in three(value(row, column)).into_iter().enumerate() {
                out[(2 * s + half) * TILE + r].0[j] = part;
            }
        }
    }
}

/// Three bf16 whose sum is the value.
fn three(mut value: f32) -> [u16; PARTS] {
    // The first part is rounded to nearest; what is left has 16 bits, and is cut in two.
    let mut high = value.to_bits().wrapping_add(0x8000);
    [(); PARTS].map(|()| {
        let part = high & 0xffff_0000;
        value -= f32::from_bits(part);
        high = value.to_bits();
        (part >> 16) as u16
    })
}

fn portable(product: &Product, rows: usize, sums: &mut Tiles) {
    const TERMS: [[usize; 2]; 6] = [[0, 2], [0, 1], [1, 1], [1, 0], [2, 0], [0, 0]];
    let wide = |part: u16| f32::from_bits(u32::from(part) << 16);
    sums.0.fill(0.0);
    for (&step, right) in product.steps.iter().zip(product.right.chunks(PANEL_STEP)) {
        for [l, r] in TERMS {
            for (tile, &start) in product.starts.iter().enumerate() {
                for m in 0..rows {
                    let left = &product.left[start + step + m + l * product.plane].0;
                    let sums = &mut sums.0[(tile * TILE_ROWS + m) * PANEL..][..PANEL];
                    for (column, sum) in sums.iter_mut().enumerate() {
                        let tile = &right[(2 * r + column / LANES) * TILE..][..TILE];
                        *sum += (0..STEP)
                            .map(|j| {
                                wide(left[j]) * wide(tile[j / 2].0[column % LANES * 2 + j % 2])
                            })
                            .sum::<f32>();
                    }
                }
            }
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
        /// Three parts are the value, for all that is neither tiny nor about to overflow.
        #[test]
        fn parts_add_up(value in -1e30f32..1e30, exponent in -60i32..0) {
            let value = value * 2f32.powi(exponent);
            let parts = three(value).map(|part| f32::from_bits(u32::from(part) << 16));
            prop_assert_eq!(parts[0] as f64 + parts[1] as f64 + parts[2] as f64, value as f64);
        }

        /// Transposed or not, and by every instruction set.
        #[test]
        fn factors_are_split_alike(
            channels in 1usize..70,
            count in 1usize..70,
            spare in 0usize..5,
            seed in 0u64..1000,
        ) {
            let spacing = channels + spare;
            let source = values(seed, count * spacing);
            let mut turned = vec![0.0; channels * count];
            for (index, value) in turned.iter_mut().enumerate() {
                *value = source[index % count * spacing + index / count];
            }
            let own = Positions { values: &source, channels, spacing, count };
            let turned = Positions::dense(&turned, count, channels);
            let bits = |lines: Vec<Line>| lines.into_iter().map(|line| line.0).collect::<Vec<_>>();
            let lefts = |isa: Isa| {
                let mut both = [(); 2].map(|()| vec![Line::ZERO; channels.div_ceil(STEP) * PARTS * count]);
                split_left(isa, own, 0, count, &mut both[0]);
                split_left_transposed(isa, turned, count, &mut both[1]);
                both.map(bits)
            };
            let rights = |isa: Isa| {
                let mut both = [(); 2].map(|()| vec![Line::ZERO; PANEL_STEP]);
                let (columns, rows) = (channels.min(PANEL), count.min(STEP));
                split_right(isa, Positions { channels: columns, count: rows, ..own }, &mut both[0]);
                split_transposed(isa, Positions { channels: rows, count: columns, ..turned }, &mut both[1]);
                both.map(bits)
            };
            let want = [lefts(Isa::Portable), rights(Isa::Portable)];
            prop_assert_eq!(&want[0][0], &want[0][1]);
            prop_assert_eq!(&want[1][0], &want[1][1]);
            for isa in Isa::all() {
                prop_assert_eq!(&[lefts(isa), rights(isa)], &want, "{:?}", isa);
            }
        }

        /// Every instruction set of this machine against the sums in f64.
        #[test]
        fn products_are_those_of_f32(
            rows in 1usize..=TILE_ROWS,
            channels in 1usize..100,
            taps in 1usize..4,
            lanes in 1usize..=2,
            spare in 0usize..5,
            seed in 0u64..1000,
        ) {
            let lanes = lanes * LANES;
            let spacing = channels + spare;
            let (steps_of, count) = (channels.div_ceil(STEP), 2 * rows + taps - 1);
            let plane = count + spare;
            let source = values(seed, count * spacing);
            let weights = values(seed + 1, taps * channels * lanes);
            for isa in Isa::all().into_iter().filter(|isa| isa.splits(LANES)) {
                let from = Positions { values: &source, channels, spacing, count };
                let mut left = vec![Line([0x7fc0; STEP]); steps_of * PARTS * plane];
                split_left(isa, from, 0, plane, &mut left);
                let mut right = vec![Line::ZERO; taps * steps_of * PANEL_STEP];
                for (index, out) in right.chunks_mut(PANEL_STEP).enumerate() {
                    let (tap, c) = (index / steps_of, index % steps_of * STEP);
                    let from = &weights[(tap * channels + c) * lanes..];
                    let from = Positions::dense(from, lanes, (channels - c).min(STEP));
                    split_right(isa, from, out);
                }
                let steps: Vec<usize> = (0..taps)
                    .flat_map(|tap| (0..steps_of).map(move |c| tap + c * PARTS * plane))
                    .collect();
                let mut sums = Tiles([f32::NAN; 2 * TILE_ROWS * PANEL]);
                Multiplier::new(isa, rows).multiply(
                    &Product { left: &left, plane, starts: [0, rows], steps: &steps, right: &right },
                    &mut sums,
                );
                for (m, column) in (0..2 * rows).flat_map(|m| (0..lanes).map(move |c| (m, c))) {
                    let (mut want, mut size) = (0.0, 0.0);
                    for (tap, c) in (0..taps).flat_map(|t| (0..channels).map(move |c| (t, c))) {
                        let term = f64::from(source[(m + tap) * spacing + c])
                            * f64::from(weights[(tap * channels + c) * lanes + column]);
                        want += term;
                        size += term.abs();
                    }
                    let place = m / rows * TILE_ROWS + m % rows;
                    let got = f64::from(sums.0[place * PANEL + column]);
                    prop_assert!((got - want).abs() < 1e-6 * size, "{isa:?} {got} {want}");
                }
            }
        }
    }
}
