//! Coarse grids of cells brought to the positions of an input, and scores under such masks.
//!
//! Masks are made on the host, in f64, from their own number alone, and are shared by all
//! rows of the batch. One keeps the input, zero puts the baseline in its place.

use std::ops::{ControlFlow, Range};

use burn::tensor::{Device, Int, Tensor, TensorData};
use serde::{Deserialize, Serialize};

use crate::{
    attribution::{Evidence, Outcome},
    axes,
    error::Error,
    model::Model,
    near::Near,
    perturb::relative_error,
    run::{Progress, Run, Stage},
    target::Goal,
};

/// How a coarse mask is brought to the positions of the input.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Upsampling {
    /// Each position has the value of the cell it lies in.
    #[default]
    Nearest,
    /// Linear between the centres of the cells.
    Linear,
}

/// Beyond the centres of the outermost cells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Edge {
    /// The outermost value goes on.
    Clamp,
    /// Mirrored about the outermost centre.
    Mirror,
}

/// One axis: which cells each position reads, and how much of each.
#[derive(Clone, Debug)]
pub(crate) struct Axis {
    cells: usize,
    taps: Vec<[(usize, f64); 2]>,
}

impl Axis {
    pub(crate) fn new(cells: usize, len: usize, upsampling: Upsampling) -> Self {
        match upsampling {
            Upsampling::Linear => Self::linear(cells, len, Edge::Clamp),
            Upsampling::Nearest => Axis {
                cells,
                taps: (0..len)
                    .map(|i| [((2 * i + 1) * cells / (2 * len), 1.0), (0, 0.0)])
                    .collect(),
            },
        }
    }

    /// Pixel centres at half positions, as in scikit-image, TensorFlow and PyTorch without
    /// aligned corners.
    pub(crate) fn linear(cells: usize, len: usize, edge: Edge) -> Self {
        let last = cells as isize - 1;
        let cell = |i: isize| match edge {
            Edge::Clamp => i.clamp(0, last),
            Edge::Mirror if last == 0 => 0,
            Edge::Mirror => last - (i.rem_euclid(2 * last) - last).abs(),
        };
        let taps = (0..len).map(|i| {
            let at = (i as f64 + 0.5) * cells as f64 / len as f64 - 0.5;
            let (low, part) = (at.floor() as isize, at - at.floor());
            [
                (cell(low) as usize, 1.0 - part),
                (cell(low + 1) as usize, part),
            ]
        });
        Axis {
            cells,
            taps: taps.collect(),
        }
    }

    pub(crate) fn crop(mut self, range: Range<usize>) -> Self {
        self.taps = self.taps[range].to_vec();
        self
    }

    pub(crate) fn len(&self) -> usize {
        self.taps.len()
    }

    pub(crate) fn cells(&self) -> usize {
        self.cells
    }

    /// `[cells, positions]`, row-major.
    pub(crate) fn matrix(&self) -> Vec<f64> {
        let mut matrix = vec![0.0; self.cells * self.len()];
        for (position, taps) in self.taps.iter().enumerate() {
            for &(cell, weight) in taps {
                matrix[cell * self.len() + position] += weight;
            }
        }
        matrix
    }
}

/// Brings `cells` (row-major, one axis for each of `axes`) to positions.
pub(crate) fn upsample(cells: &[f64], axes: &[Axis]) -> Vec<f64> {
    let mut values = cells.to_vec();
    let mut inner = 1;
    for axis in axes.iter().rev() {
        values = values
            .chunks(axis.cells * inner)
            .flat_map(|block| {
                let taps = axis.taps.iter();
                taps.flat_map(move |&[(a, wa), (b, wb)]| {
                    let (a, b) = (&block[a * inner..], &block[b * inner..]);
                    (0..inner).map(move |i| wa * a[i] + wb * b[i])
                })
            })
            .collect();
        inner *= axis.len();
    }
    values
}

/// Lengths of the axes that masks lie on: those of the positions; of a table, its columns.
pub(crate) fn positions<const D: usize>(input: &Tensor<D>) -> Vec<usize> {
    input.dims()[axes::positions(D)].to_vec()
}

/// Cells of `grid` per position axis, with the columns of a table each a cell of its own.
pub(crate) fn cells<const D: usize>(
    input: &Tensor<D>,
    grid: usize,
    upsampling: Upsampling,
) -> Vec<Axis> {
    let lengths = positions(input).into_iter();
    lengths
        .map(|len| match D {
            2 => Axis::new(len, len, Upsampling::Nearest),
            _ => Axis::new(grid.min(len), len, upsampling),
        })
        .collect()
}

/// Number of cells of a grid.
pub(crate) fn count(axes: &[Axis]) -> usize {
    axes.iter().map(|axis| axis.cells).product()
}

/// Values of maps, row by row, as a tensor shaped like the input with one channel.
pub(crate) fn maps<const D: usize>(values: Vec<f64>, input: &Tensor<D>) -> Tensor<D> {
    let dims = input.dims();
    let one: usize = positions(input).iter().product();
    let shape: [usize; D] = std::array::from_fn(|d| match d {
        0 => values.len() / one,
        d if axes::channels(D) == Some(d) => 1,
        _ => dims[d],
    });
    let data = TensorData::new(values, shape).convert_dtype(input.dtype());
    Tensor::from_data(data, (&input.device().inner(), input.dtype()))
}

pub(crate) fn indices(values: impl Iterator<Item = usize>, device: &Device) -> Tensor<1, Int> {
    let values: Vec<i32> = values.map(|v| v as i32).collect();
    Tensor::from_data(TensorData::from(values.as_slice()), &device.clone().inner())
}

/// `mask * input + (1 - mask) * fill`.
pub(crate) fn blend<const D: usize>(
    input: Tensor<D>,
    fill: Tensor<D>,
    mask: Tensor<D>,
) -> Tensor<D> {
    input * mask.clone() + fill * (mask.neg() + 1.0)
}

/// The scores of all rows of `input` under each mask of a range: `[masks * rows]`, mask by
/// mask. `mask(i)` gives the mask numbered `i` at the positions.
pub(crate) fn scores_under<const D: usize>(
    model: &dyn Model<D>,
    (input, fill): (&Tensor<D>, &Tensor<D>),
    goal: &Goal,
    run: &Run,
    masks: Range<usize>,
    mask: impl Fn(usize) -> Vec<f64>,
) -> Result<Vec<f64>, Error> {
    let rows = input.dims()[0];
    let total = masks.len() * rows;
    let device = input.device();
    let near = Near::new(model, input);
    let mut scores = Vec::with_capacity(total);
    run.batches(Stage::Sampling, total, run.rows(input), |range| {
        let (first, last) = (range.start / rows, (range.end - 1) / rows);
        let needed = (first..=last).flat_map(|i| mask(masks.start + i));
        let needed = maps(needed.collect(), input);
        let from: Vec<usize> = range.clone().map(|i| i % rows).collect();
        let row = indices(from.iter().copied(), &device);
        let which = indices(range.clone().map(|i| i / rows - first), &device);
        let masked = blend(
            input.clone().select(0, row.clone()),
            fill.clone().select(0, row),
            needed.select(0, which),
        );
        let goal = goal
            .repeat(last - first + 1)
            .slice(range.start - first * rows, range.end - first * rows);
        let found = goal.scores(near.call(run, masked, &from)?)?;
        scores.extend(found.try_into_vec_as::<f64>().map_err(Error::device)?);
        Ok(())
    })?;
    Ok(scores)
}

/// What scores under masks are looked at with: a model, inputs and what masks put in their
/// place, a goal, a run.
type Probe<'a, 'b, const D: usize> = (
    &'a dyn Model<D>,
    (&'a Tensor<D>, &'a Tensor<D>),
    &'a Goal,
    &'a Run<'b>,
);

/// Samples in rounds, until a tolerance is met.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rounds {
    /// Samples at most.
    pub most: usize,
    /// Samples of the first round; each other takes as many as there are.
    pub first: usize,
    /// Relative standard error of the cells of every row.
    pub tolerance: Option<f64>,
}

/// Values of the cells of each row and their standard errors.
type Cells = Vec<(Vec<f64>, Vec<f64>)>;

/// What rounds came to.
pub(crate) struct Estimated {
    cells: Cells,
    samples: usize,
    converged: Option<bool>,
}

impl Rounds {
    /// `estimate` makes the cells from the scores of so many samples, each of `masks` masks.
    pub(crate) fn of<const D: usize>(
        self,
        (model, inputs, goal, run): Probe<D>,
        masks: usize,
        mask: impl Fn(usize) -> Vec<f64>,
        estimate: impl Fn(&[f64], usize) -> Cells,
    ) -> Result<Estimated, Error> {
        let all = self.most * masks * inputs.0.dims()[0];
        let mut scores = Vec::new();
        let mut samples = 0;
        loop {
            let next = match self.tolerance {
                Some(_) => (2 * samples).max(self.first).min(self.most),
                None => self.most,
            };
            let before = scores.len();
            let report = |p: Progress| match run.report(p.stage, before + p.done, all) {
                Ok(()) => ControlFlow::Continue(()),
                Err(_) => ControlFlow::Break(()),
            };
            let round = samples * masks..next * masks;
            let found = scores_under(model, inputs, goal, &run.progress(&report), round, &mask)?;
            scores.extend(found);
            samples = next;
            let cells = estimate(&scores, samples);
            let within = |tolerance| {
                let met = |(values, errors): &(Vec<f64>, Vec<f64>)| {
                    relative_error(values, errors) <= tolerance
                };
                samples > 2 && cells.iter().all(met)
            };
            let converged = self.tolerance.map(within);
            if converged == Some(true) || samples == self.most {
                return Ok(Estimated {
                    cells,
                    samples,
                    converged,
                });
            }
        }
    }
}

impl Estimated {
    /// The cells brought to the positions of the input.
    pub(crate) fn outcome<const D: usize>(self, axes: &[Axis], input: &Tensor<D>) -> Outcome<D> {
        let (mut values, mut errors) = (Vec::new(), Vec::new());
        for (value, error) in &self.cells {
            values.extend(upsample(value, axes));
            errors.extend(upsample(error, axes));
        }
        Outcome {
            values: maps(values, input),
            evidence: Evidence {
                standard_error: (self.samples > 2).then(|| maps(errors, input)),
                samples: Some(self.samples),
                converged: self.converged,
                ..Evidence::default()
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nearest_is_the_cell_a_position_lies_in() {
        let axis = Axis::new(3, 7, Upsampling::Nearest);
        assert_eq!(
            upsample(&[1.0, 2.0, 3.0], &[axis]),
            [1., 1., 2., 2., 2., 3., 3.]
        );
    }

    /// torch.nn.functional.interpolate(..., mode="bilinear") of [[1, 2, 4], [0, 8, 2]] to
    /// (4, 6), and scikit-image's resize(order=1, mode="reflect") for the mirrored edge.
    #[test]
    fn linear_agrees_with_pytorch_and_scikit_image() {
        let cells = [1., 2., 4., 0., 8., 2.];
        let axes = |edge| [Axis::linear(2, 4, edge), Axis::linear(3, 6, edge)];
        let got = upsample(&cells, &axes(Edge::Clamp));
        let want = [1., 1.25, 1.75, 2.5, 3.5, 4.];
        assert_eq!(got[..6], want);
        assert_eq!(got[18..], [0., 2., 6., 6.5, 3.5, 2.]);
        // At -1/4 of a cell: 3/4 of the first and 1/4 of the second, in both axes.
        let got = upsample(&cells, &axes(Edge::Mirror));
        let top = [0.75 * 1.0 + 0.25 * 2.0, 0.75 * 0.0 + 0.25 * 8.0];
        assert!((got[0] - (0.75 * top[0] + 0.25 * top[1])).abs() < 1e-15);
    }
}
