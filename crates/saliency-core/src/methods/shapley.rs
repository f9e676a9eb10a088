use burn::tensor::Tensor;
use rand::{SeedableRng, seq::SliceRandom};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use crate::{
    attribution::Outcome,
    baseline::Baseline,
    error::Error,
    features::Features,
    method::Method,
    model::Model,
    perturb::{Jobs, Part, Probe, Running},
    recipe::{Recipe, Registered},
    run::Run,
    sampling::check_tolerance,
    target::Goal,
};

/// How Shapley values are found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Estimator {
    /// [`Exact`](Estimator::Exact) for up to 10 features, else
    /// [`Permutations`](Estimator::Permutations).
    #[default]
    Auto,
    /// All 2^n sets of at most 20 features.
    Exact,
    /// Orders at random.
    Permutations,
}

/// The score that a feature adds to those before it, averaged over all orders of features.
///
/// phi_i = sum over sets S without i of |S|! (n - |S| - 1)! / n! (f(x_S+i) - f(x_S)), where
/// x_S has the features of S from x and all others from the baseline: the one attribution
/// that is complete (sum phi_i = f(x) - f(baseline)), symmetric, linear, and zero for
/// features without effect. Shapley (1953); Strumbelj and Kononenko, "Explaining prediction
/// models and individual predictions with feature contributions" (2014),
/// <https://doi.org/10.1007/s10115-013-0679-x>.
///
/// Sampled values (Castro, Gomez and Tejada 2009, <https://doi.org/10.1016/j.cor.2008.04.004>)
/// are means over `samples` orders; each costs n - 1 scores and is complete by itself.
/// `antithetic` follows each order by its reverse, which costs nothing and takes out what is
/// pairwise (Mitchell et al. 2022, <https://arxiv.org/abs/2104.12199>). With a `tolerance`,
/// sampling ends when the standard error, relative to the values (both as an L2 norm, of the
/// worst row), is below it.
///
/// All values of a feature get the same phi. [`captum`](Shapley::captum) has the defaults of
/// Captum's `ShapleyValueSampling`, but for the features ([`Features::Each`] there).
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use saliency_core::{Method, Shapley, Target};
/// // A product is shared out evenly.
/// let product = |x: Tensor<2>| x.prod_dim(1);
/// let x = Tensor::<2>::from_floats([[2.0, 3.0, 5.0]], &Device::flex());
/// let map = Shapley::new().explain(&product, x, Target::Regression)?;
/// for value in map.to_vec()? {
///     assert!((value - 10.0).abs() < 1e-5);
/// }
/// # Ok::<(), saliency_core::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Shapley {
    /// What counts as one feature.
    pub features: Features,
    /// What replaces features that are not there yet.
    pub baseline: Baseline,
    /// Exact or sampled.
    pub estimator: Estimator,
    /// Number of sampled orders, at most; with reverses, an odd number is rounded up.
    pub samples: usize,
    /// Whether each order is followed by its reverse.
    pub antithetic: bool,
    /// Relative standard error at which sampling ends.
    pub tolerance: Option<f64>,
    /// Seed of the orders.
    pub seed: u64,
}

impl Default for Shapley {
    fn default() -> Self {
        Shapley {
            features: Features::default(),
            baseline: Baseline::default(),
            estimator: Estimator::default(),
            samples: 32,
            antithetic: true,
            tolerance: None,
            seed: 0,
        }
    }
}

impl Shapley {
    /// Exact for few features; else 16 orders and their reverses.
    pub fn new() -> Self {
        Self::default()
    }

    /// 25 orders of each value by itself, no reverses: Captum's `ShapleyValueSampling`.
    pub fn captum() -> Self {
        Self::new()
            .features(Features::Each)
            .estimator(Estimator::Permutations)
            .samples(25)
            .antithetic(false)
    }

    /// What counts as one feature.
    pub fn features(mut self, features: Features) -> Self {
        self.features = features;
        self
    }

    /// What replaces features that are not there yet.
    pub fn baseline(mut self, baseline: Baseline) -> Self {
        self.baseline = baseline;
        self
    }

    /// Exact or sampled.
    pub fn estimator(mut self, estimator: Estimator) -> Self {
        self.estimator = estimator;
        self
    }

    /// Number of sampled orders, at most.
    pub fn samples(mut self, samples: usize) -> Self {
        self.samples = samples;
        self
    }

    /// Whether each order is followed by its reverse.
    pub fn antithetic(mut self, antithetic: bool) -> Self {
        self.antithetic = antithetic;
        self
    }

    /// Relative standard error at which sampling ends.
    pub fn tolerance(mut self, tolerance: f64) -> Self {
        self.tolerance = Some(tolerance);
        self
    }

    /// Seed of the orders.
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// The place of each feature in order number `number`.
    fn places(&self, number: usize, features: usize) -> Vec<usize> {
        let stream = if self.antithetic { number / 2 } else { number };
        let mut rng = ChaCha8Rng::seed_from_u64(self.seed);
        rng.set_stream(stream as u64);
        let mut places: Vec<usize> = (0..features).collect();
        places.shuffle(&mut rng);
        if self.antithetic && number % 2 == 1 {
            places.iter_mut().for_each(|p| *p = features - 1 - *p);
        }
        places
    }
}

/// Most features of the exact estimator, chosen and by default.
const EXACT: usize = 20;
const AUTO: usize = 10;

/// Samples between two looks at the tolerance.
const CHECK: usize = 8;

impl Registered for Shapley {}

impl<const D: usize> Method<D> for Shapley {
    fn recipe(&self) -> Recipe {
        Recipe::Shapley(self.clone())
    }

    fn validate(&self) -> Result<(), Error> {
        self.features.validate()?;
        check_tolerance(self.tolerance)?;
        match self.samples {
            0 => Err(Error::option("samples", 0, "at least one is needed")),
            _ => Ok(()),
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
        let most = groups.iter().map(|g| g.count).max().unwrap_or(0);
        let exact = match self.estimator {
            Estimator::Auto => most <= AUTO,
            Estimator::Exact if most > EXACT => {
                let requirement = "exact Shapley values take 2^features scores: at most 20 features, or sampled permutations";
                return Err(Error::option("features", most, requirement));
            }
            Estimator::Exact => true,
            Estimator::Permutations => false,
        };
        let probe = Probe::new(model, input, &self.baseline, goal, run)?;
        let counts: Vec<usize> = groups.iter().map(|g| g.count).collect();
        let ids = |row: usize| &groups[row].ids[..];
        let ends = (probe.baseline()?, probe.plain()?);
        let found = match exact {
            true => exactly(&probe, &counts, &ends, ids)?,
            false => self.sampled(&probe, &counts, &ends, ids)?,
        };
        let mut outcome = probe.outcome(&groups, &found.values, found.errors.as_deref());
        outcome.evidence.samples = Some(found.samples);
        outcome.evidence.converged = found.converged;
        outcome.evidence.delta = Some(deltas(&found.values, &ends));
        Ok(outcome)
    }
}

/// Sum of the values minus f(x) - f(baseline), for each row.
pub(crate) fn deltas(values: &[Vec<f64>], ends: &(Vec<f64>, Vec<f64>)) -> Vec<f64> {
    let rows = values.iter().zip(ends.0.iter().zip(&ends.1));
    rows.map(|(values, (low, high))| values.iter().sum::<f64>() - (high - low))
        .collect()
}

/// One value for each feature of each row.
struct Found {
    values: Vec<Vec<f64>>,
    errors: Option<Vec<Vec<f64>>>,
    samples: usize,
    converged: Option<bool>,
}

/// Scores of all sets; bit i of a set says that feature i is there.
fn exactly<'g, const D: usize>(
    probe: &Probe<D>,
    counts: &[usize],
    ends: &(Vec<f64>, Vec<f64>),
    ids: impl Fn(usize) -> &'g [usize],
) -> Result<Found, Error> {
    let jobs = Jobs::new(counts.iter().map(|&n| (1 << n) - 2));
    let scores = probe.scores(Part::whole(jobs.total()), |i, replaced| {
        let (row, set) = jobs.get(i);
        for (replaced, &id) in replaced.iter_mut().zip(ids(row)) {
            *replaced = (set + 1) >> id & 1 == 0;
        }
        (row, row)
    })?;
    let rows = jobs.split(&scores).zip(counts).enumerate();
    let values = rows.map(|(row, (between, &n))| {
        let scores = [&[ends.0[row]], between, &[ends.1[row]]].concat();
        shares(&scores, n)
    });
    Ok(Found {
        values: values.collect(),
        errors: None,
        samples: counts.iter().map(|n| 1 << n).max().unwrap_or(0),
        converged: None,
    })
}

/// Shapley values of a game from the worth of each set of its `n` players.
pub(crate) fn shares(worth: &[f64], n: usize) -> Vec<f64> {
    // weight[s] = s! (n - s - 1)! / n!
    let mut weight = vec![1.0 / n as f64; n];
    for s in 1..n {
        weight[s] = weight[s - 1] * s as f64 / (n - s) as f64;
    }
    let mut shares = vec![0.0; n];
    for (set, low) in worth.iter().enumerate() {
        let size = set.count_ones() as usize;
        for (i, share) in shares.iter_mut().enumerate() {
            if set >> i & 1 == 0 {
                *share += weight[size] * (worth[set | 1 << i] - low);
            }
        }
    }
    shares
}

impl Shapley {
    fn sampled<'g, const D: usize>(
        &self,
        probe: &Probe<D>,
        counts: &[usize],
        ends: &(Vec<f64>, Vec<f64>),
        ids: impl Fn(usize) -> &'g [usize],
    ) -> Result<Found, Error> {
        let step = if self.antithetic { 2 } else { 1 };
        let samples = self.samples.next_multiple_of(step);
        let total = samples * counts.iter().map(|n| n - 1).sum::<usize>();
        let mut running = vec![Running::default(); counts.len()];
        let (mut done, mut taken, mut converged) = (0, 0, None);
        while taken < samples {
            let numbers = taken..(taken + CHECK * step).min(samples);
            taken = numbers.end;
            let places: Vec<Vec<Vec<usize>>> = counts
                .iter()
                .map(|&n| {
                    numbers
                        .clone()
                        .map(|number| self.places(number, n))
                        .collect()
                })
                .collect();
            let jobs = Jobs::new(counts.iter().map(|n| numbers.len() * (n - 1)));
            let part = Part {
                count: jobs.total(),
                done,
                total,
            };
            done += jobs.total();
            let scores = probe.scores(part, |i, replaced| {
                let (row, job) = jobs.get(i);
                let first = counts[row] - 1;
                let (places, there) = (&places[row][job / first], job % first + 1);
                for (replaced, &id) in replaced.iter_mut().zip(ids(row)) {
                    *replaced = places[id] >= there;
                }
                (row, row)
            })?;
            for (row, scores) in jobs.split(&scores).enumerate() {
                let n = counts[row];
                let added: Vec<Vec<f64>> = places[row]
                    .iter()
                    .enumerate()
                    .map(|(order, places)| {
                        let between = &scores[order * (n - 1)..(order + 1) * (n - 1)];
                        let walk = [&[ends.0[row]], between, &[ends.1[row]]].concat();
                        places.iter().map(|&p| walk[p + 1] - walk[p]).collect()
                    })
                    .collect();
                for orders in added.chunks(step) {
                    let mean = |i: usize| orders.iter().map(|o| o[i]).sum::<f64>();
                    let sample: Vec<f64> = (0..n).map(|i| mean(i) / step as f64).collect();
                    running[row].add(&sample);
                }
            }
            if let Some(tolerance) = self.tolerance {
                converged = Some(running.iter().all(|r| r.is_within(tolerance)));
                if converged == Some(true) {
                    break;
                }
            }
        }
        Ok(Found {
            values: running.iter().map(|r| r.mean().to_vec()).collect(),
            errors: running.iter().map(Running::standard_error).collect(),
            samples: taken,
            converged,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        FeatureAblation, Target,
        methods::testing::{Net, assert_close, assert_splits_agree, image},
    };
    use burn::tensor::Device;

    fn cells() -> Features {
        Features::Grid(vec![5, 4])
    }

    /// Every order of every player, one after the other.
    fn over_all_orders(worth: &dyn Fn(usize) -> f64, n: usize) -> Vec<f64> {
        /// Number of orders from `set` on, after adding each player's part in them.
        fn walk(set: usize, n: usize, worth: &dyn Fn(usize) -> f64, sums: &mut [f64]) -> f64 {
            if set + 1 == 1 << n {
                return 1.0;
            }
            let mut orders = 0.0;
            for i in (0..n).filter(|i| set >> i & 1 == 0) {
                let after = walk(set | 1 << i, n, worth, sums);
                sums[i] += after * (worth(set | 1 << i) - worth(set));
                orders += after;
            }
            orders
        }
        let mut sums = vec![0.0; n];
        let orders = walk(0, n, worth, &mut sums);
        sums.iter().map(|s| s / orders).collect()
    }

    #[test]
    fn shares_are_the_mean_over_all_orders() {
        let worth = |set: usize| ((set * 2654435761) % 97) as f64 / 7.0;
        for n in 1..=6 {
            let all: Vec<f64> = (0..1 << n).map(worth).collect();
            for (got, want) in shares(&all, n).iter().zip(over_all_orders(&worth, n)) {
                assert!((got - want).abs() < 1e-9, "{got} {want}");
            }
        }
    }

    #[test]
    fn exact_values_are_complete_and_need_all_sets_once() {
        let net = Net::relu(&Device::flex());
        let method = Shapley::new().features(cells());
        let map = method.explain(&net, image(2, 3), vec![0, 2]).unwrap();
        assert!(map.evidence.delta.unwrap().iter().all(|d| d.abs() < 1e-9));
        assert_eq!(map.evaluations.forward, 2 * 16 - 2);
        assert_eq!(map.evidence.samples, Some(16));
        assert!(map.evidence.standard_error.is_none());
    }

    /// f = x0 x1 + 3 x2 + 0 x3 at (2, 2, 5, 7) from 1: x0 and x1 share 3, x3 has no part.
    #[test]
    fn symmetric_features_share_and_dummies_get_nothing() {
        let game = |x: Tensor<2>| {
            let column = |i| x.clone().narrow(1, i, 1);
            column(0) * column(1) + column(2).mul_scalar(3.0) + column(3).mul_scalar(0.0)
        };
        let x = Tensor::<2>::from_floats([[2.0, 2.0, 5.0, 7.0]], &Device::flex());
        let exact = Shapley::new().baseline(Baseline::Constant(1.0));
        let sampled = exact.clone().estimator(Estimator::Permutations);
        for (method, tolerance) in [(exact, 1e-6), (sampled, 1e-6)] {
            let map = method
                .explain(&game, x.clone(), Target::Regression)
                .unwrap();
            for (got, want) in map.to_vec().unwrap().iter().zip([1.5, 1.5, 12.0, 0.0]) {
                assert!((got - want).abs() < tolerance, "{got} {want}");
            }
        }
    }

    #[test]
    fn a_linear_model_gives_its_weights_times_the_distance() {
        let weighted = |x: Tensor<3>| {
            let weights = Tensor::<1>::from_floats([2.0, -1.0, 0.5, 3.0], &x.device());
            (x.flatten::<2>(1, 2) * weights.unsqueeze()).sum_dim(1)
        };
        let x = Tensor::<1>::from_floats([1.0, 2.0, 3.0, 4.0], &Device::flex());
        let x = x.reshape([1, 2, 2]);
        for estimator in [Estimator::Exact, Estimator::Permutations] {
            let method = Shapley::new()
                .baseline(Baseline::Constant(0.5))
                .estimator(estimator);
            let map = method.explain(&weighted, x.clone(), 0).unwrap();
            for (got, want) in map.to_vec().unwrap().iter().zip([1.0, -1.5, 1.25, 10.5]) {
                assert!((got - want).abs() < 1e-5, "{got} {want}");
            }
        }
    }

    #[test]
    fn sampled_values_are_within_their_errors_and_complete() {
        let net = Net::relu(&Device::flex());
        let exact = Shapley::new().features(cells());
        let want = exact
            .explain(&net, image(2, 3), 1)
            .unwrap()
            .to_vec()
            .unwrap();
        for antithetic in [false, true] {
            let method = exact
                .clone()
                .estimator(Estimator::Permutations)
                .antithetic(antithetic)
                .samples(200);
            let map = method.explain(&net, image(2, 3), 1).unwrap();
            let got = map.to_vec().unwrap();
            assert!(map.evidence.delta.unwrap().iter().all(|d| d.abs() < 1e-6));
            let errors = map.evidence.standard_error.unwrap();
            let errors = errors.try_into_vec_as::<f32>().unwrap();
            for ((got, want), error) in got.iter().zip(&want).zip(errors) {
                assert!(
                    (got - want).abs() <= 3.0 * error + 1e-6,
                    "{got} {want} {error}"
                );
            }
        }
    }

    /// Over many seeds, the error is one standard error in the mean square.
    #[test]
    fn standard_errors_are_right() {
        let game = |x: Tensor<2>| {
            let column = |i| x.clone().narrow(1, i, 1);
            column(0) * column(1) * column(4) + column(1) * column(2) * column(3)
                - column(4) * column(0).tanh()
        };
        let x = Tensor::<2>::from_floats([[2.0, 1.0, -1.5, 0.5, 3.0]], &Device::flex());
        let exact = Shapley::new().explain(&game, x.clone(), 0).unwrap();
        let exact = exact.values.try_into_vec_as::<f64>().unwrap();
        for antithetic in [false, true] {
            let mut squares = Vec::new();
            for seed in 0..200 {
                let method = Shapley::captum().antithetic(antithetic);
                let method = method.samples(100).seed(seed);
                let map = method.explain(&game, x.clone(), 0).unwrap();
                let errors = map.evidence.standard_error.unwrap();
                let errors = errors.try_into_vec_as::<f64>().unwrap();
                let values = map.values.try_into_vec_as::<f64>().unwrap();
                for ((value, want), error) in values.iter().zip(&exact).zip(errors) {
                    // Reverses leave nothing of what is pairwise but rounding.
                    if error > 1e-5 {
                        squares.push(((value - want) / error).powi(2));
                    }
                }
            }
            let mean = squares.iter().sum::<f64>() / squares.len() as f64;
            println!("{antithetic} {mean} {}", squares.len());
            assert!((0.8..1.2).contains(&mean), "{mean}");
        }
    }

    #[test]
    fn sampling_ends_at_the_tolerance() {
        let net = Net::relu(&Device::flex());
        let method = Shapley::new()
            .features(cells())
            .estimator(Estimator::Permutations)
            .samples(4000);
        let map = |tolerance| {
            let method = method.clone().tolerance(tolerance);
            method.explain(&net, image(1, 3), 1).unwrap().evidence
        };
        let (loose, tight) = (map(0.5), map(0.005));
        assert_eq!((loose.converged, tight.converged), (Some(true), Some(true)));
        assert!(loose.samples.unwrap() < tight.samples.unwrap());
        let never = method.samples(16).tolerance(1e-9);
        let map = never.explain(&net, image(1, 3), 1).unwrap();
        assert_eq!(map.evidence.converged, Some(false));
    }

    #[test]
    fn one_feature_gets_everything() {
        let net = Net::relu(&Device::flex());
        let all = Features::Grid(vec![9, 8]);
        for estimator in [Estimator::Exact, Estimator::Permutations] {
            let method = Shapley::new().features(all.clone()).estimator(estimator);
            let got = method.explain(&net, image(2, 3), 1).unwrap().values;
            let want = FeatureAblation::new().features(all.clone());
            let want = want.explain(&net, image(2, 3), 1).unwrap().values;
            assert_close(got, want, 1e-5);
        }
    }

    #[test]
    fn does_not_depend_on_the_batch_split() {
        assert_splits_agree(&Shapley::new().features(cells()), 1e-5);
        let sampled = Shapley::captum().features(cells()).samples(3);
        assert_splits_agree(&sampled, 1e-5);
    }

    #[test]
    fn wrong_options_are_named() {
        let net = Net::relu(&Device::flex());
        let text = |method: Shapley| {
            let error = method.explain(&net, image(1, 1), 0);
            error.unwrap_err().to_string()
        };
        assert!(text(Shapley::new().samples(0)).starts_with("samples = 0"));
        assert!(text(Shapley::new().tolerance(0.0)).starts_with("tolerance = 0"));
        let each = Shapley::new()
            .features(Features::Each)
            .estimator(Estimator::Exact);
        assert!(text(each).starts_with("features = 216: exact"));
    }
}
