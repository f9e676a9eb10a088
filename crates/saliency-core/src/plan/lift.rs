//! DeepLIFT on plans: what ReLUs and maxima pass back, from a forward pass of rows with as many
//! baselines behind them. All else that such plans have is linear.

use std::ops::Range;

use burn::tensor::{Tensor, TensorData};
use rayon::prelude::*;

use super::{
    Plan,
    buffer::{Buffer, Geometry},
    elementwise::{Strides, max_pool_back, weigh},
    part_of, parts,
    run::{Keep, ReluRule},
    step::Step,
};
use crate::error::Error;

/// What the backward pass of the rows needs of the forward pass of rows and baselines.
#[derive(Clone, Debug)]
pub(super) struct Lifted {
    /// Differences up to this count as none.
    epsilon: f32,
    /// By buffer, of what a ReLU made: (y - y0) / (x - x0) `[rows, positions, channels]`.
    pub multipliers: Vec<Option<Vec<f32>>>,
    /// By step.
    pools: Vec<Option<MaxPair>>,
}

/// A max pool at the rows and at the baselines.
#[derive(Clone, Debug)]
struct MaxPair {
    /// x - x0 of what goes in.
    differences: Vec<f32>,
    /// y - y0 of what comes out.
    rises: Vec<f32>,
    now: Vec<u8>,
    before: Vec<u8>,
}

impl Lifted {
    pub fn new(epsilon: f32, buffers: usize, steps: usize) -> Self {
        Lifted {
            epsilon,
            multipliers: vec![None; buffers],
            pools: vec![None; steps],
        }
    }

    /// The ReLU of a buffer with all that goes into it, and its multipliers.
    pub fn rectify(&mut self, index: usize, buffer: &mut Buffer) {
        let epsilon = self.epsilon;
        let mut multipliers = vec![0.0; compact(buffer) / 2];
        pairs(buffer, &mut multipliers, |now, before, multipliers| {
            for ((x, x0), m) in now.iter_mut().zip(before).zip(multipliers) {
                // What is not a number stays so.
                let relu = |x: f32| if x <= 0.0 { 0.0 } else { x };
                let (difference, y, y0) = (*x - *x0, relu(*x), relu(*x0));
                *m = match difference.abs() > epsilon {
                    true => (y - y0) / difference,
                    false if *x <= 0.0 => 0.0,
                    false => 1.0,
                };
                (*x, *x0) = (y, y0);
            }
        });
        self.multipliers[index] = Some(multipliers);
    }

    pub fn pooled(&mut self, step: usize, from: &Buffer, to: &Buffer, maxima: Vec<u8>) {
        let (now, before) = maxima.split_at(maxima.len() / 2);
        self.pools[step] = Some(MaxPair {
            differences: differences(from),
            rises: differences(to),
            now: now.to_vec(),
            before: before.to_vec(),
        });
    }
}

/// Values without the border.
fn compact(buffer: &Buffer) -> usize {
    buffer.geometry.positions() * buffer.geometry.channels * buffer.rows
}

/// Calls `work` with each line of the first half of the rows, the same of the second half, and
/// its part of `values`.
fn pairs(
    buffer: &mut Buffer,
    values: &mut [f32],
    work: impl Fn(&mut [f32], &mut [f32], &mut [f32]) + Sync,
) {
    let Geometry { height, halo, .. } = buffer.geometry;
    let (pitch, side) = (buffer.geometry.pitch(), halo * buffer.geometry.channels);
    let (line, row) = (pitch - 2 * side, buffer.geometry.len());
    let half = buffer.data.len() / 2;
    let (now, before) = buffer.data.split_at_mut(half);
    let rows = now.par_chunks_mut(row).zip(before.par_chunks_mut(row));
    rows.zip(values.par_chunks_mut(height * line))
        .for_each(|((now, before), values)| {
            let inside = halo * pitch..(halo + height) * pitch;
            let now = now[inside.clone()].par_chunks_mut(pitch);
            let before = before[inside].par_chunks_mut(pitch);
            now.zip(before)
                .zip(values.par_chunks_mut(line))
                .for_each(|((now, before), values)| {
                    work(
                        &mut now[side..][..line],
                        &mut before[side..][..line],
                        values,
                    );
                });
        });
}

/// The first half of the rows minus the second.
fn differences(buffer: &Buffer) -> Vec<f32> {
    let Geometry { height, width, .. } = buffer.geometry;
    let line = width * buffer.geometry.channels;
    let mut found = vec![0.0; compact(buffer) / 2];
    found
        .par_chunks_mut(line)
        .enumerate()
        .for_each(|(index, found)| {
            let (row, y) = (index / height, index % height);
            let before = buffer.line(row + buffer.rows / 2, y);
            let both = buffer.line(row, y).iter().zip(before);
            for (difference, (x, x0)) in found.iter_mut().zip(both) {
                *difference = x - x0;
            }
        });
    found
}

impl Plan {
    /// Whether its only steps that are not linear are ReLUs and maxima.
    pub fn lifts(&self) -> bool {
        self.steps.iter().all(|step| {
            matches!(
                step,
                Step::Conv(_)
                    | Step::MaxPool { .. }
                    | Step::Mean { .. }
                    | Step::Add { .. }
                    | Step::Relu { .. }
                    | Step::Depthwise(_)
                    | Step::Affine { .. }
                    | Step::Copy { .. }
                    | Step::Fill { .. }
            )
        })
    }

    /// Outputs of a batch and of its baselines, and the multipliers at the input, from `seed`: the
    /// gradient at the outputs of some of its rows. Of plans that
    /// [`lift`](Plan::lifts).
    pub fn lifted<const D: usize>(
        &self,
        [input, baseline]: [Tensor<D>; 2],
        epsilon: f64,
        seed: impl Fn(Range<usize>, &Tensor<2>) -> Result<Tensor<2>, Error>,
    ) -> Result<([Tensor<2>; 2], Tensor<D>), Error> {
        let (shape, device) = (input.dims(), input.device());
        let rows = shape[0];
        let read = |t: Tensor<D>| t.try_into_vec_as::<f32>().map_err(Error::device);
        let (input, baseline) = (read(input)?, read(baseline)?);
        let (mut now, mut before) = (Vec::new(), Vec::new());
        let mut multipliers = Vec::with_capacity(input.len());
        let outputs = |values: Vec<f32>, rows: usize| {
            let shape = [rows, values.len() / rows];
            Tensor::<2>::from_data(TensorData::new(values, shape), &device)
        };
        for range in parts(rows, (self.rows_at_once() / 2).max(1)) {
            let count = range.len();
            let both = [&input, &baseline].map(|values| part_of(values, rows, &range));
            let mut buffers = self.entered(&both.concat(), 2 * count);
            let keep = Keep::Lifted(epsilon as f32);
            let (some, tape) = self.pass_on(&mut buffers, 0, 2 * count, keep, None);
            let (here, there) = some.split_at(some.len() / 2);
            let seed = seed(range, &outputs(here.to_vec(), count))?;
            let seed = seed.try_into_vec_as::<f32>().map_err(Error::device)?;
            multipliers.extend(self.backward(&tape, &seed, ReluRule::Derivative));
            now.extend_from_slice(here);
            before.extend_from_slice(there);
        }
        let multipliers = Tensor::from_data(TensorData::new(multipliers, shape), &device);
        Ok(([outputs(now, rows), outputs(before, rows)], multipliers))
    }

    /// What a max pool passes back: a rise to the place of the maximum now, a fall to where it
    /// was, each divided by what went in changed by; the derivative where that did not change.
    pub(super) fn lift_pool(
        &self,
        (lifted, step): (&Lifted, usize),
        arrived: &Buffer,
        strides: &Strides,
        to: &mut Buffer,
    ) {
        let pair = lifted.pools[step]
            .as_ref()
            .expect("kept by the forward pass");
        let mut shares = self.take(to.geometry, to.rows, true);
        let mut derivative = self.take(to.geometry, to.rows, true);
        for (maxima, rises) in [(&pair.now, true), (&pair.before, false)] {
            let mut moved = self.copied(arrived);
            weigh(&mut moved, &pair.rises, |value, rise| match rises {
                true => value * rise.max(0.0),
                false => value * rise.min(0.0),
            });
            max_pool_back(self.isa, &moved, maxima, &mut shares, strides);
            self.give(Some(moved));
        }
        max_pool_back(self.isa, arrived, &pair.now, &mut derivative, strides);
        let geometry = to.geometry;
        let line = geometry.width * geometry.channels;
        to.each_line(|row, y, out| {
            let differences = &pair.differences[(row * geometry.height + y) * line..][..line];
            let passed = shares.line(row, y).iter().zip(derivative.line(row, y));
            for ((out, difference), (share, derivative)) in
                out.iter_mut().zip(differences).zip(passed)
            {
                *out += match difference.abs() > lifted.epsilon {
                    true => share / difference,
                    false => *derivative,
                };
            }
        });
        self.give(Some(shares));
        self.give(Some(derivative));
    }
}
