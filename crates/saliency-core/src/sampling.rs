//! Rows at many points (samples, steps, windows), moments of what comes back, and stopping
//! when a standard error is small enough.

use std::ops::Range;

use burn::tensor::{Tensor, TensorData};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::{
    attribution::{Evidence, Outcome},
    error::Error,
    host::widened,
    run::{Run, Stage, join},
    target::Goal,
};

/// `len` values drawn evenly from [0, 1) for one sample; another stream than its
/// [`standard_normal`](crate::noise::standard_normal) noise.
pub(crate) fn uniform(seed: u64, sample: usize, len: usize) -> Vec<f64> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(u64::MAX - sample as u64);
    (0..len).map(|_| rng.random()).collect()
}

/// Runs `step` over every row at every point, in batches of rows times points, and merges
/// what it returns over the points. Where the device has no memory for a batch it is done
/// again in halves: points first, then rows.
///
/// `step` is given a block of the input's rows, the goal of that block at *one* point, and
/// the points; what it returns for the blocks comes back in the order of the rows.
pub(crate) fn sweep<const D: usize, T: Clone>(
    run: &Run,
    stage: Stage,
    (input, goal): (&Tensor<D>, &Goal),
    (points, most_points): (Range<usize>, usize),
    step: impl Fn(&Tensor<D>, &Goal, Range<usize>, &Run) -> Result<T, Error>,
    merge: impl Fn(T, T) -> T,
) -> Result<Vec<T>, Error> {
    let (rows, most) = (input.dims()[0], run.rows(input));
    let quiet = run.without_progress();
    let mut blocks = Vec::new();
    quiet.batches(stage, rows, most, |range| {
        let block = input.clone().narrow(0, range.start, range.len());
        let goal = goal.slice(range.start, range.end);
        let mut merged = None;
        quiet.batches(stage, points.len(), most / range.len(), |part| {
            let done = rows * points.start + range.start * points.len() + range.len() * part.end;
            let part = points.start + part.start..points.start + part.end;
            let found = step(&block, &goal, part, &quiet)?;
            // A copy, so that nothing is lost where there is no memory left for this.
            merged = Some(match merged.clone() {
                Some(before) => merge(before, found),
                None => found,
            });
            run.report(stage, done, rows * most_points)
        })?;
        blocks.extend(merged);
        Ok(())
    })?;
    Ok(blocks)
}

/// What is estimated from samples.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Estimate {
    /// Their mean.
    Mean,
    /// Their variance, divided by n as the mean is.
    Variance,
}

/// Running moments of samples: count, mean and the sums of the second (for
/// [`Estimate::Variance`] also the third and fourth) powers of the deviations from it.
///
/// Merged by the pairwise updates of Chan, Golub and LeVeque (1979) and Pébay (2008), which
/// do not cancel as mean v^2 - (mean v)^2 would in f32.
#[derive(Clone, Debug)]
pub(crate) struct Moments<const D: usize> {
    count: usize,
    mean: Tensor<D>,
    squares: Tensor<D>,
    higher: Option<(Tensor<D>, Tensor<D>)>,
}

impl<const D: usize> Moments<D> {
    /// Of `count` samples of each row, sample by sample: `[count * rows, ...]`.
    pub(crate) fn of(values: Tensor<D>, count: usize, estimate: Estimate) -> Self {
        let values = widened(values);
        let mut shape = values.dims();
        shape[0] /= count;
        let flat = values.reshape([count, shape.iter().product()]);
        let mean = flat.clone().mean_dim(0);
        let deviations = flat - mean.clone();
        let sum = |t: Tensor<2>| t.sum_dim(0).reshape(shape);
        let square = deviations.clone().square();
        let higher = (estimate == Estimate::Variance).then(|| {
            (
                sum(square.clone() * deviations),
                sum(square.clone().square()),
            )
        });
        Moments {
            count,
            mean: mean.reshape(shape),
            squares: sum(square),
            higher,
        }
    }

    /// Of both sets of samples.
    pub(crate) fn merge(self, other: Self) -> Self {
        let (a, b) = (self.count as f64, other.count as f64);
        let n = a + b;
        let gap = other.mean - self.mean.clone();
        let square = gap.clone().square();
        let higher = self.higher.zip(other.higher).map(|((t, q), (u, r))| {
            let (s2, o2) = (&self.squares, &other.squares);
            let third = t.clone()
                + u.clone()
                + (square.clone() * gap.clone()).mul_scalar(a * b * (a - b) / (n * n))
                + gap.clone()
                    * (o2.clone().mul_scalar(a) - s2.clone().mul_scalar(b)).mul_scalar(3.0 / n);
            let fourth = q
                + r
                + square
                    .clone()
                    .square()
                    .mul_scalar(a * b * (a * a - a * b + b * b) / (n * n * n))
                + square.clone()
                    * (o2.clone().mul_scalar(a * a) + s2.clone().mul_scalar(b * b))
                        .mul_scalar(6.0 / (n * n))
                + gap.clone() * (u.mul_scalar(a) - t.mul_scalar(b)).mul_scalar(4.0 / n);
            (third, fourth)
        });
        Moments {
            count: self.count + other.count,
            mean: self.mean + gap.mul_scalar(b / n),
            squares: self.squares + other.squares + square.mul_scalar(a * b / n),
            higher,
        }
    }

    /// The same samples of all rows, from those of blocks of rows.
    pub(crate) fn of_blocks(blocks: Vec<Self>) -> Self {
        let count = blocks[0].count;
        let column = |get: &dyn Fn(&Self) -> Tensor<D>| join(blocks.iter().map(get).collect());
        let pair = |m: &Self| m.higher.clone();
        Moments {
            count,
            mean: column(&|m| m.mean.clone()),
            squares: column(&|m| m.squares.clone()),
            higher: pair(&blocks[0]).map(|_| {
                (
                    column(&|m| pair(m).expect("all blocks estimate the same").0),
                    column(&|m| pair(m).expect("all blocks estimate the same").1),
                )
            }),
        }
    }

    pub(crate) fn mean(&self) -> Tensor<D> {
        self.mean.clone()
    }

    /// The variance of the samples, divided by n.
    pub(crate) fn variance(&self) -> Tensor<D> {
        self.squares.clone().div_scalar(self.count as f64)
    }

    /// The mean or the variance.
    pub(crate) fn value(&self) -> Tensor<D> {
        match self.higher {
            None => self.mean(),
            Some(_) => self.variance(),
        }
    }

    /// The standard error of [`value`](Moments::value): s / sqrt(n) of the mean with s^2
    /// divided by n - 1; sqrt((m4 - m2^2) / n) of the variance. `None` for one sample.
    pub(crate) fn standard_error(&self) -> Option<Tensor<D>> {
        let n = self.count as f64;
        if self.count < 2 {
            return None;
        }
        Some(match &self.higher {
            None => self.squares.clone().div_scalar(n * (n - 1.0)).sqrt(),
            Some((_, fourth)) => (fourth.clone().div_scalar(n) - self.variance().square())
                .clamp_min(0.0)
                .div_scalar(n)
                .sqrt(),
        })
    }

    /// ||standard error|| / ||value|| of the worst row.
    fn relative_error(&self) -> Result<f64, Error> {
        let Some(error) = self.standard_error() else {
            return Ok(f64::INFINITY);
        };
        let rows = self.mean.dims()[0];
        let norms = |t: Tensor<D>| {
            let flat = t.reshape([rows as i32, -1]);
            flat.square()
                .sum_dim(1)
                .sqrt()
                .try_into_vec_as::<f64>()
                .map_err(Error::device)
        };
        let ratio = |(error, value): (f64, f64)| if error == 0.0 { 0.0 } else { error / value };
        let ratios = norms(error)?.into_iter().zip(norms(self.value())?);
        Ok(ratios.map(ratio).fold(0.0, f64::max))
    }
}

/// Moments of the means of groups of samples, groups being cut anywhere by batches.
#[derive(Clone, Debug)]
pub(crate) struct Grouped<const D: usize> {
    size: usize,
    whole: Option<Moments<D>>,
    parts: Vec<Part<D>>,
}

/// Some of a group's samples.
#[derive(Clone, Debug)]
struct Part<const D: usize> {
    group: usize,
    count: usize,
    sum: Tensor<D>,
}

impl<const D: usize> Grouped<D> {
    /// Of these samples of each row, sample by sample; the groups' size divides their numbers.
    pub(crate) fn of(
        values: Tensor<D>,
        samples: Range<usize>,
        size: usize,
        estimate: Estimate,
    ) -> Self {
        if size == 1 {
            return Grouped {
                size,
                whole: Some(Moments::of(values, samples.len(), estimate)),
                parts: Vec::new(),
            };
        }
        let values = widened(values);
        let rows = values.dims()[0] / samples.len();
        let groups = samples.start / size..samples.end.div_ceil(size);
        let parts = groups.map(|group| {
            let from = samples.start.max(group * size);
            let count = samples.end.min((group + 1) * size) - from;
            let own = values
                .clone()
                .narrow(0, (from - samples.start) * rows, count * rows);
            let sum = over_points(own, count);
            Part { group, count, sum }
        });
        let nothing = Grouped {
            size,
            whole: None,
            parts: Vec::new(),
        };
        parts.fold(nothing, Grouped::with)
    }

    fn with(mut self, part: Part<D>) -> Self {
        let met = self.parts.iter().position(|own| own.group == part.group);
        let part = match met.map(|place| self.parts.swap_remove(place)) {
            Some(own) => Part {
                count: own.count + part.count,
                sum: own.sum + part.sum,
                ..part
            },
            None => part,
        };
        if part.count < self.size {
            self.parts.push(part);
            return self;
        }
        let mean = Moments::of(part.sum.div_scalar(self.size as f64), 1, Estimate::Mean);
        self.whole = Some(match self.whole {
            Some(whole) => whole.merge(mean),
            None => mean,
        });
        self
    }

    /// Of both sets of samples.
    pub(crate) fn merge(self, other: Self) -> Self {
        let whole = match (self.whole, other.whole) {
            (Some(own), Some(other)) => Some(own.merge(other)),
            (own, other) => own.or(other),
        };
        let merged = Grouped { whole, ..self };
        other.parts.into_iter().fold(merged, Grouped::with)
    }

    /// Those of all whole groups.
    pub(crate) fn moments(self) -> Result<Moments<D>, Error> {
        self.whole
            .ok_or_else(|| Error::option("samples", 0, "they must fill a group"))
    }
}

/// How many samples to take.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Budget {
    pub samples: usize,
    /// Samples that hang together: only whole groups are taken.
    pub group: usize,
    /// Stop when ||standard error|| / ||value|| of every row is at most this.
    pub tolerance: Option<f64>,
}

impl Budget {
    pub(crate) fn validate(self) -> Result<(), Error> {
        if self.samples == 0 {
            return Err(Error::option("samples", 0, "at least one is needed"));
        }
        if self.samples < self.group {
            let requirement = "the design needs whole groups: 2 antithetic samples, 16 of latin_hypercube and sobol";
            return Err(Error::option("samples", self.samples, requirement));
        }
        check_tolerance(self.tolerance)
    }

    /// Samples in whole groups.
    pub(crate) fn most(self) -> usize {
        self.samples - self.samples % self.group
    }

    /// Takes rounds of samples until the tolerance is met or all are taken, and says how it
    /// went; the moments are those of groups. Whether to stop is looked at after 16, 32, 48,
    /// 64, 80, 100, 125, ... samples (a quarter more each time, in whole groups), whatever the
    /// batches are.
    pub(crate) fn sample<const D: usize>(
        self,
        mut round: impl FnMut(Range<usize>) -> Result<Vec<Moments<D>>, Error>,
    ) -> Result<Outcome<D>, Error> {
        let most = self.most();
        let end_of_round = |taken: usize| match self.tolerance {
            Some(_) => most.min((taken + (taken / 4).max(16)).next_multiple_of(self.group)),
            None => most,
        };
        let mut moments = Moments::of_blocks(round(0..end_of_round(0))?);
        let converged = loop {
            let met = match self.tolerance {
                Some(tolerance) => Some(moments.relative_error()? <= tolerance),
                None => None,
            };
            let taken = moments.count * self.group;
            if met == Some(true) || taken == most {
                break met;
            }
            moments = moments.merge(Moments::of_blocks(round(taken..end_of_round(taken))?));
        };
        Ok(Outcome {
            values: moments.value(),
            evidence: Evidence {
                standard_error: moments.standard_error(),
                samples: Some(moments.count * self.group),
                converged,
                delta: None,
            },
        })
    }
}

/// A tolerance must be a positive number.
pub(crate) fn check_tolerance(tolerance: Option<f64>) -> Result<(), Error> {
    match tolerance {
        Some(t) if !(t.is_finite() && t > 0.0) => {
            let requirement = "it must be a finite number above 0, or absent";
            Err(Error::option("tolerance", t, requirement))
        }
        _ => Ok(()),
    }
}

/// Values for each point, spread over the `rows` of a block and shaped to be multiplied with
/// `[points * rows, ...]`: `[points * rows, 1, ..., 1]`.
pub(crate) fn per_point<const D: usize>(
    values: &[f64],
    rows: usize,
    like: &Tensor<D>,
) -> Tensor<D> {
    let spread: Vec<f64> = values
        .iter()
        .flat_map(|&value| std::iter::repeat_n(value, rows))
        .collect();
    let mut shape = [1; D];
    shape[0] = spread.len();
    let data = TensorData::new(spread, shape).convert_dtype(like.dtype());
    Tensor::from_data(data, (&like.device().inner(), like.dtype()))
}

/// Sums `[points * rows, ...]` over the points.
pub(crate) fn over_points<const D: usize>(values: Tensor<D>, points: usize) -> Tensor<D> {
    let mut shape = values.dims();
    shape[0] /= points;
    values
        .reshape([points, shape.iter().product()])
        .sum_dim(0)
        .reshape(shape)
}

/// `[rows, ...]` once for each point: `[points * rows, ...]`.
pub(crate) fn copies<const D: usize>(block: &Tensor<D>, points: usize) -> Tensor<D> {
    let times = std::array::from_fn::<_, D, _>(|d| if d == 0 { points } else { 1 });
    block.clone().repeat(&times)
}

/// The sum of each row.
pub(crate) fn row_sums<const D: usize>(values: &Tensor<D>) -> Result<Vec<f64>, Error> {
    let rows = values.dims()[0];
    let flat = widened(values.clone()).reshape([rows as i32, -1]);
    flat.sum_dim(1)
        .try_into_vec_as::<f64>()
        .map_err(Error::device)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{BatchSize, Target, noise::standard_normal};
    use burn::tensor::{DType, Device};

    /// Samples with a large mean and little skew, in f64: `[count, 3]`.
    fn samples(count: usize) -> (Vec<f64>, Tensor<2>) {
        let values: Vec<f64> = standard_normal(4, 0, count * 3)
            .iter()
            .enumerate()
            .map(|(i, &v)| 1e3 + (i % 3) as f64 * f64::from(v) + f64::from(v * v))
            .collect();
        let data = TensorData::new(values.clone(), [count, 3]);
        (
            values,
            Tensor::from_data(data, (&Device::flex(), DType::F64)),
        )
    }

    /// What `tests/reference/paths.py` hands to Captum.
    #[test]
    fn draws_are_the_same_everywhere() {
        let drawn: Vec<f64> = (0..6).flat_map(|sample| uniform(0, sample, 2)).collect();
        let want = [
            0.12996015354223434,
            0.9110651284467672,
            0.023409427249638903,
            0.8245538673496721,
            0.5891800535772341,
            0.14206159573568178,
            0.8663763198090609,
            0.790480511998116,
            0.029890054446980452,
            0.925543895328666,
            0.5084068851097866,
            0.37111424599176146,
        ];
        assert_eq!(drawn, want);
        let all: Vec<f64> = (0..2000).flat_map(|sample| uniform(7, sample, 2)).collect();
        let mean = all.iter().sum::<f64>() / 4000.0;
        assert!((mean - 0.5).abs() < 4.0 / (12.0f64 * 4000.0).sqrt());
    }

    #[test]
    fn merged_moments_are_those_of_all_samples() {
        let (values, tensor) = samples(23);
        let column: Vec<f64> = values.iter().skip(1).step_by(3).copied().collect();
        let power = |k: i32, mean: f64| column.iter().map(|v| (v - mean).powi(k)).sum::<f64>();
        let mean = column.iter().sum::<f64>() / 23.0;
        let (m2, m4) = (power(2, mean) / 23.0, power(4, mean) / 23.0);
        let read = |t: Tensor<2>| t.try_into_vec_as::<f64>().unwrap()[1];
        let close = |got: f64, want: f64| assert!((got - want).abs() < 1e-9 * want, "{got} {want}");
        for estimate in [Estimate::Mean, Estimate::Variance] {
            let part = |from: usize, len: usize| {
                Moments::of(tensor.clone().narrow(0, from, len), len, estimate)
            };
            for moments in [
                part(0, 23),
                part(0, 1).merge(part(1, 15)).merge(part(16, 7)),
            ] {
                close(read(moments.mean()), mean);
                close(read(moments.variance()), m2);
                let error = read(moments.standard_error().unwrap());
                match estimate {
                    Estimate::Mean => close(error, (m2 / 22.0).sqrt()),
                    Estimate::Variance => close(error, ((m4 - m2 * m2) / 23.0).sqrt()),
                }
            }
        }
        assert!(
            Moments::of(tensor.narrow(0, 0, 1), 1, Estimate::Mean)
                .standard_error()
                .is_none()
        );
    }

    #[test]
    fn sampling_stops_at_the_tolerance_and_says_so() {
        let (_, tensor) = samples(200);
        let budget = |samples, tolerance| Budget {
            samples,
            group: 1,
            tolerance,
        };
        let run = |budget: Budget| {
            budget
                .sample(|range| {
                    let part = tensor.clone().narrow(0, range.start, range.len());
                    Ok(vec![Moments::of(part, range.len(), Estimate::Mean)])
                })
                .unwrap()
                .evidence
        };
        let evidence = run(budget(200, None));
        assert_eq!((evidence.samples, evidence.converged), (Some(200), None));
        // The standard deviation is about 2 of 1000: 16 samples give 5e-4.
        let evidence = run(budget(200, Some(1e-3)));
        assert_eq!(
            (evidence.samples, evidence.converged),
            (Some(16), Some(true))
        );
        let evidence = run(budget(200, Some(2e-4)));
        assert!(evidence.samples.unwrap() > 32 && evidence.converged == Some(true));
        let evidence = run(budget(50, Some(1e-6)));
        assert_eq!(
            (evidence.samples, evidence.converged),
            (Some(50), Some(false))
        );
        assert!(budget(0, None).validate().is_err());
        assert!(budget(1, Some(0.0)).validate().is_err());
    }

    /// However samples are cut, their groups' means are those of the definition.
    #[test]
    fn groups_are_put_together_from_any_batches() {
        let (values, tensor) = samples(24);
        let column: Vec<f64> = values.iter().skip(1).step_by(3).copied().collect();
        let means: Vec<f64> = column
            .chunks(4)
            .map(|g| g.iter().sum::<f64>() / 4.0)
            .collect();
        let mean = means.iter().sum::<f64>() / 6.0;
        let variance = means.iter().map(|m| (m - mean).powi(2)).sum::<f64>() / 5.0;
        for cuts in [vec![24], vec![3, 5, 6, 7, 17, 24], vec![8, 23, 24]] {
            let mut from = 0;
            let parts = cuts.iter().map(|&to| {
                let part = tensor.clone().narrow(0, from, to - from);
                let range = std::mem::replace(&mut from, to)..to;
                Grouped::of(part, range, 4, Estimate::Mean)
            });
            let moments = parts.reduce(Grouped::merge).unwrap().moments().unwrap();
            let read = |t: Tensor<2>| t.try_into_vec_as::<f64>().unwrap()[1];
            assert_eq!(moments.count, 6);
            assert!((read(moments.mean()) - mean).abs() < 1e-9 * mean);
            let error = read(moments.standard_error().unwrap());
            assert!((error - (variance / 6.0).sqrt()).abs() < 1e-9);
        }
    }

    #[test]
    fn only_whole_groups_are_taken() {
        let (_, tensor) = samples(200);
        let run = |samples, tolerance| {
            let budget = Budget {
                samples,
                group: 16,
                tolerance,
            };
            budget.validate()?;
            let outcome = budget.sample(|range| {
                let part = tensor.clone().narrow(0, range.start, range.len());
                Ok(vec![
                    Grouped::of(part, range, 16, Estimate::Mean).moments()?,
                ])
            })?;
            Ok::<_, Error>((outcome.evidence.samples, outcome.evidence.converged))
        };
        assert_eq!(run(50, None).unwrap(), (Some(48), None));
        // One group has no standard error.
        assert_eq!(run(200, Some(1e-2)).unwrap(), (Some(32), Some(true)));
        assert_eq!(run(199, Some(1e-9)).unwrap(), (Some(192), Some(false)));
        let error = run(15, None).unwrap_err().to_string();
        assert!(error.contains("whole groups"), "{error}");
    }

    /// Each (row, point) is visited once, whatever the batch, and out-of-memory halves it.
    #[test]
    fn a_sweep_visits_every_row_at_every_point() {
        let device = Device::flex();
        let input = Tensor::<2>::from_floats([[1.0], [2.0], [3.0], [4.0], [5.0]], &device);
        let goal = Goal::resolve(&Target::Class(0), &input).unwrap();
        for (rows, memory) in [(1, 99), (3, 99), (7, 99), (100, 99), (100, 4), (100, 1)] {
            let run = Run::new().batch_size(BatchSize::Rows(rows));
            let sums = sweep(
                &run,
                Stage::Sampling,
                (&input, &goal),
                (2..8, 8),
                |block, goal, points, _| {
                    assert_eq!(goal.rows(), block.dims()[0]);
                    if block.dims()[0] * points.len() > memory {
                        return Err(Error::OutOfMemory {
                            message: String::new(),
                        });
                    }
                    let scale: Vec<f64> = points.clone().map(|p| p as f64).collect();
                    let all = copies(block, points.len());
                    let scale = per_point(&scale, block.dims()[0], &all);
                    Ok(over_points(all * scale, points.len()))
                },
                |a, b| a + b,
            );
            // 2 + 3 + ... + 7 = 27.
            let sums = join(sums.unwrap()).try_into_vec_as::<f32>().unwrap();
            assert_eq!(sums, [27.0, 54.0, 81.0, 108.0, 135.0]);
        }
    }
}
