use burn::tensor::Tensor;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use crate::{
    attribution::Outcome,
    baseline::Baseline,
    error::Error,
    features::{Features, Groups},
    least_squares::{Design, Penalty, jackknife},
    method::Method,
    model::Model,
    perturb::{Jobs, Part, Probe, read, relative_error},
    recipe::{Recipe, Registered},
    run::Run,
    sampling::check_tolerance,
    target::Goal,
};

/// The linear model that LIME fits, with a constant beside its weights.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fit {
    /// Weighted least squares.
    Linear,
    /// sum w (y - b z)^2 + alpha ||b||^2, scikit-learn's `Ridge(alpha)`.
    Ridge(f64),
    /// sum w (y - b z)^2 / (2 sum w) + alpha ||b||_1, scikit-learn's `Lasso(alpha)`.
    Lasso(f64),
}

/// How far a changed input is from the input itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Distance {
    /// 1 - the cosine between the set of features that are left and all of them, each feature
    /// being one dimension.
    #[default]
    Features,
    /// 1 - the cosine between the changed input and the input.
    InputCosine,
    /// The Euclidean distance between the changed input and the input.
    InputEuclidean,
}

/// The weights of a linear model that is fitted to scores near the input.
///
/// Sample s keeps each feature or not, z_s in {0, 1}^n, evenly at random; features that are
/// not kept take the baseline's values. The weights b minimise sum over s of
/// w_s (f(x_s) - c - b z_s)^2 + penalty, w_s = exp(-d_s^2 / (2 width^2)), d_s the distance of
/// sample s from the input. All values of a feature get its weight. Ribeiro, Singh and
/// Guestrin, "Why Should I Trust You?" (2016), <https://arxiv.org/abs/1602.04938>.
///
/// The first sample is the input itself. Where `samples` is at least 2^n, each z is taken
/// once. The standard error is that of a jackknife over 20 parts of the samples. With a
/// `tolerance`, whether it is met is looked at after 128, 256, 512, ... samples.
///
/// [`new`](Lime::new) has the defaults of the authors' `lime` for pictures: 1000 samples,
/// ridge with alpha 1, distances of the features, width 0.25 (there superpixels are by
/// quickshift and take their own mean). [`captum`](Lime::captum) has those of Captum's
/// `Lime`: [`Features::Each`], 50 samples, lasso with alpha 0.01, cosine distances of the inputs,
/// width 1; there the input itself is not among the samples.
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use saliency_core::{Fit, Lime, Method, Target};
/// let weighted = |x: Tensor<2>| x.clone().narrow(1, 0, 1) * 2.0 - x.narrow(1, 1, 1);
/// let x = Tensor::<2>::from_floats([[3.0, 5.0]], &Device::flex());
/// let map = Lime::new().fit(Fit::Linear).explain(&weighted, x, Target::Regression)?;
/// for (value, want) in map.to_vec()?.iter().zip([6.0, -5.0]) {
///     assert!((value - want).abs() < 1e-4);
/// }
/// # Ok::<(), saliency_core::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Lime {
    /// What counts as one feature.
    pub features: Features,
    /// What replaces features that are not kept.
    pub baseline: Baseline,
    /// Number of samples, at most.
    pub samples: usize,
    /// Stop when ||standard error|| / ||weights|| of every row is at most this.
    pub tolerance: Option<f64>,
    /// The linear model.
    pub fit: Fit,
    /// What the weight of a sample falls with.
    pub distance: Distance,
    /// The distance at which the weight is e^-0.5.
    pub width: f64,
    /// Seed of the samples.
    pub seed: u64,
}

impl Default for Lime {
    fn default() -> Self {
        Lime {
            features: Features::default(),
            baseline: Baseline::default(),
            samples: 1000,
            tolerance: None,
            fit: Fit::Ridge(1.0),
            distance: Distance::Features,
            width: 0.25,
            seed: 0,
        }
    }
}

impl Lime {
    /// The defaults of the authors' implementation for pictures.
    pub fn new() -> Self {
        Self::default()
    }

    /// The features, the fit and the weights that are Captum's defaults.
    pub fn captum() -> Self {
        Self::new()
            .features(Features::Each)
            .samples(50)
            .fit(Fit::Lasso(0.01))
            .distance(Distance::InputCosine)
            .width(1.0)
    }

    /// What counts as one feature.
    pub fn features(mut self, features: Features) -> Self {
        self.features = features;
        self
    }

    /// What replaces features that are not kept.
    pub fn baseline(mut self, baseline: Baseline) -> Self {
        self.baseline = baseline;
        self
    }

    /// Number of samples, at most.
    pub fn samples(mut self, samples: usize) -> Self {
        self.samples = samples;
        self
    }

    /// Stop when ||standard error|| / ||weights|| of every row is at most this.
    pub fn tolerance(mut self, tolerance: f64) -> Self {
        self.tolerance = Some(tolerance);
        self
    }

    /// The linear model.
    pub fn fit(mut self, fit: Fit) -> Self {
        self.fit = fit;
        self
    }

    /// What the weight of a sample falls with.
    pub fn distance(mut self, distance: Distance) -> Self {
        self.distance = distance;
        self
    }

    /// The distance at which the weight is e^-0.5.
    pub fn width(mut self, width: f64) -> Self {
        self.width = width;
        self
    }

    /// Seed of the samples.
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    fn enumerates(&self, n: usize) -> bool {
        n < 24 && 1 << n <= self.samples
    }

    /// The features that each sample of `n` features keeps; the first keeps all.
    fn kept(&self, n: usize) -> Vec<Vec<bool>> {
        if self.enumerates(n) {
            let all = (0..1_usize << n).rev();
            return all
                .map(|set| (0..n).map(|i| set >> i & 1 == 1).collect())
                .collect();
        }
        let draw = |sample: usize| {
            let mut rng = ChaCha8Rng::seed_from_u64(self.seed);
            rng.set_stream(sample as u64);
            (0..n).map(|_| sample == 0 || rng.random()).collect()
        };
        (0..self.samples).map(draw).collect()
    }

    fn penalty(&self) -> Penalty {
        match self.fit {
            Fit::Linear => Penalty::Ridge(0.0),
            Fit::Ridge(alpha) => Penalty::Ridge(alpha),
            Fit::Lasso(alpha) => Penalty::Lasso(alpha),
        }
    }

    /// The linear model of one row, from the scores of the first samples.
    fn weights(
        &self,
        groups: &Groups,
        kept: &[Vec<bool>],
        scores: &[f64],
        (row, baseline): (&[f64], &[f64]),
    ) -> Fitted {
        let kept = &kept[..scores.len()];
        let design = Design {
            features: groups.count,
            x: (kept.iter().flatten())
                .map(|&k| f64::from(u8::from(k)))
                .collect(),
            y: scores.to_vec(),
            weights: (kept.iter())
                .map(|kept| self.weight(kept, groups, row, baseline))
                .collect(),
        };
        let fit = |keep: &dyn Fn(usize) -> bool| design.fit(self.penalty(), true, keep);
        let errors = match self.enumerates(groups.count) {
            true => None,
            false => jackknife(kept.len(), fit),
        };
        (fit(&|_| true), errors)
    }

    /// The weight of the sample that keeps `kept` of one row.
    fn weight(&self, kept: &[bool], groups: &Groups, row: &[f64], baseline: &[f64]) -> f64 {
        let changed = || {
            let values = groups.ids.iter().zip(row.iter().zip(baseline));
            values.map(|(&id, (&x, &b))| (x, if kept[id] { x } else { b }))
        };
        let distance = match self.distance {
            Distance::Features => {
                let left = kept.iter().filter(|&&kept| kept).count();
                1.0 - (left as f64 / kept.len() as f64).sqrt()
            }
            Distance::InputCosine => {
                let sum = |f: fn((f64, f64)) -> f64| changed().map(f).sum::<f64>();
                let norms = sum(|(x, _)| x * x) * sum(|(_, c)| c * c);
                let dot = sum(|(x, c)| x * c);
                1.0 - if norms > 0.0 { dot / norms.sqrt() } else { 0.0 }
            }
            Distance::InputEuclidean => changed().map(|(x, c)| (x - c).powi(2)).sum::<f64>().sqrt(),
        };
        (-distance.powi(2) / (2.0 * self.width.powi(2))).exp()
    }
}

/// Weights of the features, with their standard errors where not all sets were taken.
type Fitted = (Vec<f64>, Option<Vec<f64>>);

/// The tolerance is looked at after this many samples, twice, four times as many, ...
const CHECK: usize = 128;

impl Registered for Lime {}

impl<const D: usize> Method<D> for Lime {
    fn recipe(&self) -> Recipe {
        Recipe::Lime(self.clone())
    }

    fn validate(&self) -> Result<(), Error> {
        self.features.validate()?;
        check_tolerance(self.tolerance)?;
        if self.samples < 2 {
            let requirement = "at least two are needed";
            return Err(Error::option("samples", self.samples, requirement));
        }
        if let Fit::Ridge(alpha) | Fit::Lasso(alpha) = self.fit
            && !(alpha.is_finite() && alpha >= 0.0)
        {
            let requirement = "its penalty must be a finite number of at least 0";
            return Err(Error::option("fit", alpha, requirement));
        }
        match self.width.is_finite() && self.width > 0.0 {
            true => Ok(()),
            false => Err(Error::option(
                "width",
                self.width,
                "it must be a finite number above 0",
            )),
        }
    }

    fn attribute(
        &self,
        model: &dyn Model<D>,
        input: &Tensor<D>,
        goal: &Goal,
        run: &Run,
    ) -> Result<Outcome<D>, Error> {
        let groups = self.features.of_rows(input)?;
        let probe = Probe::new(model, input, &self.baseline, goal, run)?;
        let kept: Vec<_> = groups
            .iter()
            .map(|groups| self.kept(groups.count))
            .collect();
        let total: usize = kept.iter().map(Vec::len).sum();
        let longest = kept.iter().map(Vec::len).max().unwrap_or(0);
        let (values, baselines) = (read(input.clone())?, probe.others()?);
        let mut scores: Vec<Vec<f64>> = vec![Vec::new(); kept.len()];
        let mut upto = match self.tolerance {
            Some(_) => CHECK,
            None => longest,
        };
        let (fitted, converged) = loop {
            // Sets in order say nothing until all of them are there.
            let until = |row: usize| match self.enumerates(groups[row].count) {
                true => kept[row].len(),
                false => kept[row].len().min(upto),
            };
            let jobs = Jobs::new((0..kept.len()).map(|row| until(row) - scores[row].len()));
            let part = Part {
                count: jobs.total(),
                done: scores.iter().map(Vec::len).sum(),
                total,
            };
            let found = probe.scores(part, |i, replaced| {
                let (row, job) = jobs.get(i);
                let kept = &kept[row][scores[row].len() + job];
                for (replaced, &id) in replaced.iter_mut().zip(&groups[row].ids) {
                    *replaced = !kept[id];
                }
                (row, row)
            })?;
            for (scores, found) in scores.iter_mut().zip(jobs.split(&found)) {
                scores.extend(found);
            }
            let rows = values
                .chunks(probe.row_len())
                .zip(baselines.chunks(probe.row_len()));
            let fitted: Vec<Fitted> = rows
                .enumerate()
                .map(|(row, pair)| self.weights(&groups[row], &kept[row], &scores[row], pair))
                .collect();
            let within = |tolerance| {
                fitted.iter().all(|(weights, errors)| match errors {
                    Some(errors) => relative_error(weights, errors) <= tolerance,
                    None => true,
                })
            };
            let converged = self.tolerance.map(within);
            if converged == Some(true) || scores.iter().zip(&kept).all(|(s, k)| s.len() == k.len())
            {
                break (fitted, converged);
            }
            upto *= 2;
        };
        let (weights, errors): (Vec<_>, Vec<_>) = fitted.into_iter().unzip();
        let sampled = errors.iter().any(Option::is_some);
        let errors: Vec<Vec<f64>> = errors
            .into_iter()
            .zip(&groups)
            .map(|(errors, groups)| errors.unwrap_or(vec![0.0; groups.count]))
            .collect();
        let mut outcome = probe.outcome(&groups, &weights, sampled.then_some(&errors[..]));
        outcome.evidence.samples = scores.iter().map(Vec::len).max();
        outcome.evidence.converged = converged;
        Ok(outcome)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::methods::testing::{Net, assert_close, assert_splits_agree, image};
    use burn::tensor::Device;

    fn cells() -> Features {
        Features::Grid(vec![3, 3])
    }

    #[test]
    fn a_linear_model_gives_its_weights_times_the_distance() {
        let weighted = |x: Tensor<3>| {
            let weights = Tensor::<1, burn::tensor::Int>::arange(-3..9, &x.device()).float();
            (x.flatten::<2>(1, 2) * weights.unsqueeze()).sum_dim(1)
        };
        let x = Tensor::<3>::ones([1, 3, 4], &Device::flex()) * 2.5;
        for distance in [
            Distance::Features,
            Distance::InputCosine,
            Distance::InputEuclidean,
        ] {
            let method = Lime::new()
                .baseline(Baseline::Constant(0.5))
                .fit(Fit::Linear)
                .distance(distance)
                .width(3.0);
            let map = method.explain(&weighted, x.clone(), 0).unwrap();
            for (got, weight) in map.to_vec().unwrap().iter().zip(-3_i8..) {
                assert!(
                    (got - 2.0 * f32::from(weight)).abs() < 1e-3,
                    "{got} {weight}"
                );
            }
        }
    }

    /// For a game without weights over all sets, b_i is the mean of f with i minus the mean
    /// without: the Banzhaf value.
    #[test]
    fn even_weights_over_all_sets_give_the_banzhaf_value() {
        let net = Net::relu(&Device::flex());
        let features = Features::Grid(vec![5, 4]);
        let method = Lime::new()
            .features(features.clone())
            .fit(Fit::Linear)
            .width(1e6);
        let map = method.explain(&net, image(1, 2), 1).unwrap();
        assert_eq!(
            (map.evidence.samples, map.evaluations.forward),
            (Some(16), 16)
        );
        assert!(map.evidence.standard_error.is_none());
        let got = map.to_vec().unwrap();
        let groups = features.resolve(&image(1, 2)).unwrap();
        let x = image(1, 2).try_into_vec_as::<f32>().unwrap();
        let score = |set: usize| {
            let kept = x.iter().zip(&groups.ids);
            let kept: Vec<f32> = kept.map(|(x, id)| x * (set >> id & 1) as f32).collect();
            let data = burn::tensor::TensorData::new(kept, [1, 3, 9, 8]);
            let outputs = net.forward(Tensor::from_data(data, &Device::flex()));
            outputs.try_into_vec_as::<f64>().unwrap()[1]
        };
        for (got, &id) in got.iter().zip(&groups.ids) {
            let sign = |set: usize| if set >> id & 1 == 1 { 1.0 } else { -1.0 };
            let want: f64 = (0..16).map(|set| sign(set) * score(set) / 8.0).sum();
            assert!((f64::from(*got) - want).abs() < 1e-5, "{got} {want}");
        }
    }

    /// Samples tend to the fit over all sets.
    #[test]
    fn sampled_weights_are_within_their_errors() {
        let net = Net::relu(&Device::flex());
        let exact = Lime::new().features(cells()).fit(Fit::Linear).samples(512);
        let want = exact
            .explain(&net, image(2, 3), 1)
            .unwrap()
            .to_vec()
            .unwrap();
        let map = exact.samples(400).explain(&net, image(2, 3), 1).unwrap();
        let errors = map.evidence.standard_error.clone().unwrap();
        let errors = errors.try_into_vec_as::<f32>().unwrap();
        for ((got, want), error) in map.to_vec().unwrap().iter().zip(&want).zip(errors) {
            assert!((got - want).abs() <= 3.0 * error, "{got} {want} {error}");
        }
    }

    #[test]
    fn a_strong_lasso_leaves_nothing_and_a_weak_one_everything() {
        let net = Net::relu(&Device::flex());
        let of = |fit| {
            let method = Lime::captum().features(cells()).fit(fit).samples(512);
            method.explain(&net, image(1, 3), 1).unwrap().values
        };
        let strong = of(Fit::Lasso(1e3)).abs().sum().into_scalar::<f32>();
        assert_eq!(strong, 0.0);
        assert_close(of(Fit::Lasso(0.0)), of(Fit::Linear), 1e-5);
        assert_close(of(Fit::Ridge(0.0)), of(Fit::Linear), 0.0);
    }

    #[test]
    fn it_stops_once_the_tolerance_is_met() {
        let net = Net::relu(&Device::flex());
        let of = |samples, tolerance| {
            let method = Lime::new().features(cells()).samples(samples);
            let method = Lime {
                tolerance,
                ..method
            };
            method.explain(&net, image(2, 3), 1).unwrap()
        };
        let early = of(500, Some(0.2));
        let samples = early.evidence.samples.unwrap();
        assert_eq!(early.evidence.converged, Some(true));
        assert!([128, 256].contains(&samples), "{samples}");
        assert_close(early.values, of(samples, None).values, 1e-6);
        let never = of(300, Some(1e-9));
        assert_eq!(
            (never.evidence.samples, never.evidence.converged),
            (Some(300), Some(false))
        );
        // All sets: there is no error.
        let all = of(512, Some(1e-9));
        assert_eq!(
            (all.evidence.samples, all.evidence.converged),
            (Some(512), Some(true))
        );
    }

    #[test]
    fn does_not_depend_on_the_batch_split() {
        for method in [Lime::new(), Lime::captum()] {
            let method = method.features(cells()).samples(40);
            assert_splits_agree(&method, 1e-4);
        }
    }

    #[test]
    fn a_row_does_not_depend_on_its_neighbours() {
        let net = Net::relu(&Device::flex());
        let method = Lime::new().samples(60);
        let all = method.explain(&net, image(3, 4), 1).unwrap().values;
        let last = image(3, 4).narrow(0, 2, 1);
        let last = method.explain(&net, last, 1).unwrap().values;
        assert_close(all.narrow(0, 2, 1), last, 1e-4);
    }

    #[test]
    fn wrong_options_are_named() {
        let net = Net::relu(&Device::flex());
        let text = |method: Lime| {
            let error = method.explain(&net, image(1, 1), 0);
            error.unwrap_err().to_string()
        };
        assert!(text(Lime::new().samples(1)).starts_with("samples = 1"));
        assert!(text(Lime::new().width(0.0)).starts_with("width = 0"));
        assert!(text(Lime::new().fit(Fit::Lasso(-1.0))).starts_with("fit = -1"));
    }
}
