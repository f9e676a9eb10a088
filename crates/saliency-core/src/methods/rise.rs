use std::ops::ControlFlow;

use burn::tensor::Tensor;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use crate::{
    attribution::{Evidence, Outcome},
    baseline::Baseline,
    error::Error,
    grid::{Axis, Edge, maps, positions, scores_under, upsample},
    method::Method,
    model::Model,
    perturb::relative_error,
    recipe::{Recipe, Registered},
    run::{Run, Stage},
    sampling::check_tolerance,
    target::Goal,
};

/// What the scores are divided by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RiseWeighting {
    /// sum f m / (n p), by what the masks come to on average: the paper and its authors' code.
    #[default]
    Expected,
    /// sum f m / sum m, by what the masks of this run come to at the position: Xplique. A
    /// constant score gives a constant map, so there is less noise from the few samples.
    Observed,
}

/// RISE: the mean score under random masks, weighted by the masks.
///
/// S(u) = sum over i of f(x * m_i + b * (1 - m_i)) m_i(u) / (n p). Each mask m_i is a coarse
/// grid of cells, on with probability p, brought to the size of the input with linear
/// interpolation and a random shift; b is the baseline. Petsiuk, Das and Saenko, "RISE:
/// Randomized Input Sampling for Explanation of Black-box Models" (2018),
/// <https://arxiv.org/abs/1806.07421>.
///
/// The values are one map over the positions, `[N, 1, ...]` for an input `[N, C, ...]`. The
/// columns of a table `[N, F]` are cells of their own, on or off. The paper explains softmax
/// probabilities ([`Probabilities`](crate::Probabilities)); here the score is the target's.
///
/// Defaults are the paper's: 4000 samples, 7 cells a side, p = 1/2, masked values to zero
/// (`rise`). `rise-xplique` divides by the observed masks.
/// With a `tolerance`, sampling stops at 128, 256, 512, ... samples once ||standard error|| /
/// ||map|| of every row is at most that; [`Evidence`] says how many samples that took.
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use saliency_core::{Method, Rise, Target};
/// // Only the left half matters.
/// let left = |x: Tensor<4>| x.narrow(3, 0, 4).sum_dim(3).sum_dim(2).flatten::<2>(1, 3);
/// let x = Tensor::<4>::ones([1, 1, 8, 8], &Device::flex());
/// let map = Rise::new().samples(400).grid(4).explain(&left, x, Target::Regression)?;
/// let map = map.values.slice([0..1, 0..1, 4..5, 0..8]).try_into_vec_as::<f32>().unwrap();
/// assert!(map[..3].iter().all(|left| map[5..].iter().all(|right| left > right)));
/// # Ok::<(), saliency_core::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Rise {
    /// Number of masks.
    pub samples: usize,
    /// Cells along each axis, of which there are no more than its positions.
    pub grid: usize,
    /// Probability that a cell is kept.
    pub probability: f64,
    /// What takes the place of what is masked.
    pub baseline: Baseline,
    /// What the scores are divided by.
    pub weighting: RiseWeighting,
    /// Stop early once ||standard error|| / ||map|| of every row is at most this.
    pub tolerance: Option<f64>,
    /// Seed of the masks.
    pub seed: u64,
}

impl Default for Rise {
    fn default() -> Self {
        Rise {
            samples: 4000,
            grid: 7,
            probability: 0.5,
            baseline: Baseline::Zero,
            weighting: RiseWeighting::Expected,
            tolerance: None,
            seed: 0,
        }
    }
}

impl Rise {
    /// The paper's defaults.
    pub fn new() -> Self {
        Self::default()
    }

    /// Number of masks.
    pub fn samples(mut self, samples: usize) -> Self {
        self.samples = samples;
        self
    }

    /// Cells along each axis.
    pub fn grid(mut self, grid: usize) -> Self {
        self.grid = grid;
        self
    }

    /// Probability that a cell is kept.
    pub fn probability(mut self, probability: f64) -> Self {
        self.probability = probability;
        self
    }

    /// What takes the place of what is masked.
    pub fn baseline(mut self, baseline: Baseline) -> Self {
        self.baseline = baseline;
        self
    }

    /// What the scores are divided by.
    pub fn weighting(mut self, weighting: RiseWeighting) -> Self {
        self.weighting = weighting;
        self
    }

    /// Stop early once ||standard error|| / ||map|| of every row is at most this.
    pub fn tolerance(mut self, tolerance: f64) -> Self {
        self.tolerance = Some(tolerance);
        self
    }

    /// Seed of the masks.
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// The mask of one sample for positions of these lengths: cells from stream `sample` of
    /// the seed, row by row, then one shift for each axis.
    fn mask(&self, lengths: &[usize], is_table: bool, sample: usize) -> Vec<f64> {
        let mut rng = ChaCha8Rng::seed_from_u64(self.seed);
        rng.set_stream(sample as u64);
        let mut draw = |count: usize| -> Vec<f64> {
            let kept = (0..count).map(|_| rng.random::<f64>() < self.probability);
            kept.map(|kept| f64::from(u8::from(kept))).collect()
        };
        if is_table {
            return draw(lengths[0]);
        }
        let grids: Vec<usize> = lengths.iter().map(|&len| self.grid.min(len)).collect();
        let cells = draw(grids.iter().product());
        let axes: Vec<Axis> = lengths
            .iter()
            .zip(grids)
            .map(|(&len, grid)| {
                let cell = len.div_ceil(grid);
                let shift = (rng.random::<f64>() * cell as f64) as usize;
                Axis::linear(grid, (grid + 1) * cell, Edge::Mirror).crop(shift..shift + len)
            })
            .collect();
        upsample(&cells, &axes)
    }
}

impl Registered for Rise {}

impl<const D: usize> Method<D> for Rise {
    fn recipe(&self) -> Recipe {
        Recipe::Rise(self.clone())
    }

    fn validate(&self) -> Result<(), Error> {
        let refuse =
            |option, value: f64, requirement| Err(Error::option(option, value, requirement));
        match self {
            Rise { samples: 0, .. } => refuse("samples", 0.0, "at least one is needed"),
            Rise { grid: 0, .. } => refuse("grid", 0.0, "at least one cell is needed"),
            Rise { probability: p, .. } if !(*p > 0.0 && *p < 1.0) => {
                refuse("probability", *p, "it must be between 0 and 1")
            }
            _ => check_tolerance(self.tolerance),
        }
    }

    fn attribute(
        &self,
        model: &dyn Model<D>,
        input: &Tensor<D>,
        goal: &Goal,
        run: &Run,
    ) -> Result<Outcome<D>, Error> {
        Method::<D>::validate(self)?;
        let fill = self.baseline.of(input)?;
        let (rows, lengths) = (input.dims()[0], positions(input));
        let mask = |sample| self.mask(&lengths, D == 2, sample);
        let mut sums = Sums::new(rows, lengths.iter().product());
        let mut converged = None;
        while sums.samples < self.samples && converged != Some(true) {
            let first = sums.samples;
            let next = match self.tolerance {
                Some(_) => (2 * first).max(128).min(self.samples),
                None => self.samples,
            };
            let report = |p: crate::Progress| match run.report(
                Stage::Sampling,
                first * rows + p.done,
                self.samples * rows,
            ) {
                Ok(()) => ControlFlow::Continue(()),
                Err(_) => ControlFlow::Break(()),
            };
            let run = run.progress(&report);
            let scores = scores_under(model, (input, &fill), goal, &run, first..next, mask)?;
            for (sample, scores) in (first..next).zip(scores.chunks(rows)) {
                sums.add(&mask(sample), scores);
            }
            converged = self.tolerance.map(|tolerance| {
                let (values, errors) = self.finish(&sums);
                let len = values.len() / rows;
                errors.is_some_and(|errors| {
                    let mut rows = values.chunks(len).zip(errors.chunks(len));
                    rows.all(|(values, errors)| relative_error(values, errors) <= tolerance)
                })
            });
        }
        let (values, errors) = self.finish(&sums);
        Ok(Outcome {
            values: maps(values, input),
            evidence: Evidence {
                standard_error: errors.map(|errors| maps(errors, input)),
                samples: Some(sums.samples),
                converged,
                ..Evidence::default()
            },
        })
    }
}

impl Rise {
    /// Values and, from two samples on, standard errors.
    fn finish(&self, sums: &Sums) -> (Vec<f64>, Option<Vec<f64>>) {
        let n = sums.samples as f64;
        let at = |i: usize| {
            let [m, mm] = sums.masks[i % sums.masks.len()];
            let [fm, fmm, ffmm] = sums.scores[i];
            match self.weighting {
                RiseWeighting::Expected => {
                    let spread = (ffmm - fm * fm / n).max(0.0);
                    let divisor = n * self.probability;
                    (fm / divisor, (spread * n / (n - 1.0)).sqrt() / divisor)
                }
                RiseWeighting::Observed if m > 0.0 => {
                    let value = fm / m;
                    let spread = (ffmm - 2.0 * value * fmm + value * value * mm).max(0.0);
                    (value, (spread * n / (n - 1.0)).sqrt() / m)
                }
                RiseWeighting::Observed => (0.0, 0.0),
            }
        };
        let (values, errors): (Vec<_>, Vec<_>) = (0..sums.scores.len()).map(at).unzip();
        (values, (sums.samples > 1).then_some(errors))
    }
}

/// Sums over samples, in f64 and in the order of the samples, so that they do not depend on
/// the batches.
struct Sums {
    samples: usize,
    /// m and m^2 at each position.
    masks: Vec<[f64; 2]>,
    /// f m, f m^2 and f^2 m^2 at each position of each row.
    scores: Vec<[f64; 3]>,
}

impl Sums {
    fn new(rows: usize, positions: usize) -> Self {
        Sums {
            samples: 0,
            masks: vec![[0.0; 2]; positions],
            scores: vec![[0.0; 3]; rows * positions],
        }
    }

    fn add(&mut self, mask: &[f64], scores: &[f64]) {
        self.samples += 1;
        for ([m, mm], &value) in self.masks.iter_mut().zip(mask) {
            *m += value;
            *mm += value * value;
        }
        for (sums, &f) in self.scores.chunks_mut(mask.len()).zip(scores) {
            for ([fm, fmm, ffmm], &m) in sums.iter_mut().zip(mask) {
                *fm += f * m;
                *fmm += f * m * m;
                *ffmm += f * f * m * m;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        BatchSize, Target,
        methods::testing::{Net, assert_close, assert_splits_agree, image},
    };
    use burn::tensor::Device;

    fn values<const D: usize>(tensor: Tensor<D>) -> Vec<f64> {
        tensor.try_into_vec_as().unwrap()
    }

    /// Over independent on-off columns, E[f m_u] / p = E[f | m_u = 1]: the mean of a linear
    /// model with u on, w_u x_u + p * (sum of the others).
    #[test]
    fn a_table_tends_to_the_conditional_mean() {
        let device = Device::flex();
        let weights = Tensor::<2>::from_floats([[1.0, -2.0, 0.0, 3.0]], &device);
        let model = |x: Tensor<2>| (x * weights.clone()).sum_dim(1);
        let x = Tensor::<2>::from_floats([[1.0, 1.0, 5.0, 2.0]], &device);
        let terms = [1.0, -2.0, 0.0, 6.0];
        let p = 0.3;
        for weighting in [RiseWeighting::Expected, RiseWeighting::Observed] {
            let rise = Rise::new()
                .samples(3000)
                .probability(p)
                .weighting(weighting);
            let found = rise.explain(&model, x.clone(), Target::Regression).unwrap();
            let errors = values(found.evidence.standard_error.unwrap());
            for (u, (got, error)) in values(found.values).into_iter().zip(errors).enumerate() {
                let others: f64 = terms.iter().sum::<f64>() - terms[u];
                let want = terms[u] + p * others;
                assert!(
                    (got - want).abs() < 3.5 * error,
                    "{u}: {got} {want} {error}"
                );
                assert!(error < 0.2, "{error}");
            }
        }
    }

    /// The standard error is the spread of the result over seeds.
    #[test]
    fn standard_errors_are_the_spread_over_seeds() {
        let net = Net::relu(&Device::flex());
        for weighting in [RiseWeighting::Expected, RiseWeighting::Observed] {
            let of = |seed| {
                let rise = Rise::new()
                    .samples(60)
                    .grid(3)
                    .weighting(weighting)
                    .seed(seed);
                rise.explain(&net, image(1, 2), 1).unwrap()
            };
            let runs: Vec<_> = (0..40).map(of).collect();
            let all: Vec<Vec<f64>> = runs.iter().map(|r| values(r.values.clone())).collect();
            let errors = runs
                .iter()
                .map(|r| values(r.evidence.standard_error.clone().unwrap()));
            let stated = errors.flatten().map(|e| e * e).sum::<f64>();
            let mean = |i: usize| all.iter().map(|v| v[i]).sum::<f64>() / 40.0;
            let spread: f64 = (0..all[0].len())
                .map(|i| all.iter().map(|v| (v[i] - mean(i)).powi(2)).sum::<f64>() * 40.0 / 39.0)
                .sum();
            let ratio = (stated / spread).sqrt();
            assert!((0.8..1.25).contains(&ratio), "{weighting:?}: {ratio}");
        }
    }

    #[test]
    fn a_constant_score_gives_a_constant_observed_map() {
        let constant = |x: Tensor<4>| Tensor::<2>::full([x.dims()[0], 1], 2.5, &x.device());
        let rise = Rise::new().samples(50).weighting(RiseWeighting::Observed);
        let found = rise.explain(&constant, image(1, 1), 0).unwrap();
        assert_eq!(found.values.dims(), [1, 1, 9, 8]);
        assert!(
            found
                .to_vec()
                .unwrap()
                .iter()
                .all(|v| (v - 2.5).abs() < 1e-6)
        );
        let errors = values(found.evidence.standard_error.unwrap());
        assert!(errors.iter().all(|&e| e < 1e-6));
    }

    #[test]
    fn masks_have_their_probability_and_shape() {
        let rise = Rise::new().grid(4).probability(0.25);
        let mean = (0..2000)
            .map(|s| rise.mask(&[13], false, s).iter().sum::<f64>() / 13.0)
            .sum::<f64>()
            / 2000.0;
        assert!((mean - 0.25).abs() < 0.02, "{mean}");
        // Longer than wide, and fewer positions than cells.
        for lengths in [vec![13, 5], vec![2, 30], vec![3]] {
            let mask = rise.mask(&lengths, false, 0);
            assert_eq!(mask.len(), lengths.iter().product::<usize>());
            assert!(mask.iter().all(|m| (0.0..=1.0).contains(m)));
        }
    }

    /// A grid finer than the positions has a cell for each, in memory too.
    #[test]
    fn a_grid_is_no_finer_than_the_positions() {
        let mask = |grid| Rise::new().grid(grid).mask(&[5, 7], false, 3);
        assert_eq!(mask(1 << 40), mask(7));
        assert_eq!(mask(7).len(), 35);
    }

    #[test]
    fn it_stops_once_the_tolerance_is_met() {
        let net = Net::relu(&Device::flex());
        let rise = Rise::new().samples(700).grid(3);
        let errors = |found: &crate::Attribution<4>| {
            let norms = |t: Tensor<4>| t.square().sum_dims(&[1, 2, 3]).sqrt();
            let error = norms(found.evidence.standard_error.clone().unwrap());
            let ratios = values(error / norms(found.values.clone()));
            ratios.into_iter().fold(0.0, f64::max)
        };
        let all = rise.explain(&net, image(2, 3), 1).unwrap();
        assert_eq!(
            (all.evidence.samples, all.evidence.converged),
            (Some(700), None)
        );
        let tolerance = 1.5 * errors(&all);
        let early = rise.clone().tolerance(tolerance);
        let found = early.explain(&net, image(2, 3), 1).unwrap();
        assert_eq!(found.evidence.converged, Some(true));
        assert!(matches!(found.evidence.samples, Some(128 | 256 | 512)));
        assert!(errors(&found) <= tolerance);
        assert_eq!(
            found.evaluations.forward,
            2 * found.evidence.samples.unwrap()
        );
        // The same map as with that number of samples from the start.
        let fewer = rise.clone().samples(found.evidence.samples.unwrap());
        let fewer = fewer.explain(&net, image(2, 3), 1).unwrap();
        assert_close(found.values, fewer.values, 1e-6);
        let never = rise.tolerance(1e-9).explain(&net, image(2, 3), 1).unwrap();
        assert_eq!(
            (never.evidence.samples, never.evidence.converged),
            (Some(700), Some(false))
        );
        assert_close(never.values, all.values, 1e-6);
    }

    #[test]
    fn does_not_depend_on_the_batch_split_or_on_neighbours() {
        assert_splits_agree(&Rise::new().samples(9).grid(3), 1e-6);
        let net = Net::relu(&Device::flex());
        let rise = Rise::new()
            .samples(20)
            .baseline(Baseline::Blur { sigma: 2.0 });
        let all = rise.explain(&net, image(3, 8), 1).unwrap().values;
        let last = rise
            .explain(&net, image(3, 8).narrow(0, 2, 1), 1)
            .unwrap()
            .values;
        assert_close(all.narrow(0, 2, 1), last, 1e-6);
    }

    #[test]
    fn series_have_masks_over_their_length() {
        let last = |x: Tensor<3>| x.narrow(1, 9, 3).sum_dim(2).sum_dim(1).flatten::<2>(1, 2);
        let x = Tensor::<3>::ones([2, 12, 4], &Device::flex());
        let run = Run::new().batch_size(BatchSize::Rows(5));
        let rise = Rise::new().samples(300).grid(4);
        let found = rise
            .explain_with(&last, x, &Target::Regression, &run)
            .unwrap();
        assert_eq!(found.values.dims(), [2, 12, 1]);
        let map = found.to_vec().unwrap();
        assert!(map[..6].iter().all(|v| *v < map[10]));
        assert_eq!(map[..12], map[12..]);
    }

    #[test]
    fn wrong_options_are_named() {
        let text = |rise: Rise| {
            let model = |x: Tensor<2>| x.sum_dim(1);
            let x = Tensor::<2>::ones([1, 2], &Device::flex());
            rise.explain(&model, x, 0).unwrap_err().to_string()
        };
        assert!(text(Rise::new().samples(0)).starts_with("samples = 0"));
        assert!(text(Rise::new().grid(0)).starts_with("grid = 0"));
        assert!(text(Rise::new().probability(1.0)).starts_with("probability = 1"));
        assert!(text(Rise::new().tolerance(-1.0)).starts_with("tolerance = -1"));
        let blur = Baseline::Blur { sigma: 1.0 };
        assert!(text(Rise::new().baseline(blur)).starts_with("baseline = blur"));
    }
}
