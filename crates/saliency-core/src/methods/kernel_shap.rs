use burn::tensor::Tensor;
use rand::{RngExt, SeedableRng, seq::SliceRandom};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use crate::{
    attribution::Outcome,
    baseline::Baseline,
    error::Error,
    features::Features,
    least_squares::{Design, Penalty, jackknife},
    method::Method,
    methods::shapley::deltas,
    model::Model,
    perturb::{Jobs, Part, Probe, relative_error},
    recipe::{Recipe, Registered},
    run::Run,
    sampling::check_tolerance,
    target::Goal,
};

/// Shapley values as the weighted least-squares fit to scores of sets of features.
///
/// phi minimises sum over sets S of w(S) (f(x_S) - f(baseline) - sum over i in S of phi_i)^2
/// with sum phi_i = f(x) - f(baseline), w(S) = (n - 1) / (C(n, s) s (n - s)), s = |S|.
/// Lundberg and Lee, "A Unified Approach to Interpreting Model Predictions" (2017),
/// <https://arxiv.org/abs/1705.07874>.
///
/// Where `samples` is at least 2^n - 2, each set is taken once and the values are the exact
/// [`Shapley`](crate::Shapley) values. Else sets are drawn by their weights and `paired` with
/// their complements, which halves the variance or better (Covert and Lee 2021,
/// <https://arxiv.org/abs/2012.01536>); the standard error is that of a jackknife over 20
/// parts of the samples. The sum is exact in any case, where Captum's `KernelShap` gives the
/// empty and the full set a weight of 10^6 instead; there 25 samples without pairs of
/// [`Features::Each`] are the default.
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use saliency_core::{KernelShap, Method, Target};
/// let product = |x: Tensor<2>| x.prod_dim(1);
/// let x = Tensor::<2>::from_floats([[2.0, 3.0, 5.0]], &Device::flex());
/// let map = KernelShap::new().explain(&product, x, Target::Regression)?;
/// for value in map.to_vec()? {
///     assert!((value - 10.0).abs() < 1e-5);
/// }
/// # Ok::<(), saliency_core::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct KernelShap {
    /// What counts as one feature.
    pub features: Features,
    /// What replaces features that are not in a set.
    pub baseline: Baseline,
    /// Number of sets, at most, beside the empty and the full one; raised to two for each
    /// feature, and to an even number of pairs.
    pub samples: usize,
    /// Whether each set is followed by its complement.
    pub paired: bool,
    /// Relative standard error at which sampling ends.
    pub tolerance: Option<f64>,
    /// Seed of the sets.
    pub seed: u64,
}

impl Default for KernelShap {
    fn default() -> Self {
        KernelShap {
            features: Features::default(),
            baseline: Baseline::default(),
            samples: 1024,
            paired: true,
            tolerance: None,
            seed: 0,
        }
    }
}

impl KernelShap {
    /// 1024 sets, in pairs, of automatic features.
    pub fn new() -> Self {
        Self::default()
    }

    /// Captum's defaults: 25 sets, no complements, each value by itself. As elsewhere there are
    /// at least two sets for each feature, without which there is no one solution.
    pub fn captum() -> Self {
        Self::new()
            .features(Features::Each)
            .samples(25)
            .paired(false)
    }

    /// What counts as one feature.
    pub fn features(mut self, features: Features) -> Self {
        self.features = features;
        self
    }

    /// What replaces features that are not in a set.
    pub fn baseline(mut self, baseline: Baseline) -> Self {
        self.baseline = baseline;
        self
    }

    /// Number of sets, at most.
    pub fn samples(mut self, samples: usize) -> Self {
        self.samples = samples;
        self
    }

    /// Whether each set is followed by its complement.
    pub fn paired(mut self, paired: bool) -> Self {
        self.paired = paired;
        self
    }

    /// Relative standard error at which sampling ends.
    pub fn tolerance(mut self, tolerance: f64) -> Self {
        self.tolerance = Some(tolerance);
        self
    }

    /// Seed of the sets.
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// How many sets of `n` features are drawn.
    fn drawn(&self, n: usize) -> usize {
        let unit = if self.paired { 2 } else { 1 };
        self.samples.max(2 * n).next_multiple_of(unit)
    }

    /// Whether these are all that there are.
    fn enumerates(&self, n: usize) -> bool {
        n < 24 && (1 << n) - 2 <= self.drawn(n)
    }

    /// Set number `sample` of `n` features, n > 1.
    fn set(&self, sample: usize, n: usize) -> Vec<bool> {
        if self.enumerates(n) {
            return (0..n).map(|i| (sample + 1) >> i & 1 == 1).collect();
        }
        let stream = if self.paired { sample / 2 } else { sample };
        let mut rng = ChaCha8Rng::seed_from_u64(self.seed);
        rng.set_stream(stream as u64);
        let weight = |size: usize| 1.0 / (size * (n - size)) as f64;
        let mut left = rng.random::<f64>() * (1..n).map(weight).sum::<f64>();
        let size = (1..n - 1).find(|&size| {
            left -= weight(size);
            left < 0.0
        });
        let mut set: Vec<bool> = vec![false; n];
        set[..size.unwrap_or(n - 1)].fill(true);
        set.shuffle(&mut rng);
        if self.paired && sample % 2 == 1 {
            set.iter_mut().for_each(|there| *there = !*there);
        }
        set
    }

    /// Values, and their standard errors where the sets are sampled.
    fn fit(&self, sets: &[Vec<bool>], scores: &[f64], low: f64, high: f64) -> Fitted {
        let n = sets.first().map_or(1, Vec::len);
        let all = high - low;
        if n == 1 {
            return (vec![all], None);
        }
        // The last feature's value is what the others leave of the sum.
        let one = |there: bool| f64::from(u8::from(there));
        let design = Design {
            features: n - 1,
            x: sets
                .iter()
                .flat_map(|set| set[..n - 1].iter().map(|&t| one(t) - one(set[n - 1])))
                .collect(),
            y: sets
                .iter()
                .zip(scores)
                .map(|(set, score)| score - low - one(set[n - 1]) * all)
                .collect(),
            weights: sets.iter().map(|set| self.weight(set)).collect(),
        };
        let fit = |keep: &dyn Fn(usize) -> bool| {
            let mut values = design.fit(Penalty::Ridge(0.0), false, keep);
            values.push(all - values.iter().sum::<f64>());
            values
        };
        let errors = match self.enumerates(n) {
            true => None,
            false => {
                let unit = if self.paired { 2 } else { 1 };
                let units = sets.len().div_ceil(unit);
                jackknife(units, |keep| fit(&|sample| keep(sample / unit)))
            }
        };
        (fit(&|_| true), errors)
    }

    /// The kernel's weight; sampled sets already come as often as it says.
    fn weight(&self, set: &[bool]) -> f64 {
        let n = set.len();
        if !self.enumerates(n) {
            return 1.0;
        }
        let size = set.iter().filter(|&&there| there).count();
        let ways = (0..size).fold(1.0, |c, i| c * (n - i) as f64 / (i + 1) as f64);
        (n - 1) as f64 / (ways * (size * (n - size)) as f64)
    }
}

type Fitted = (Vec<f64>, Option<Vec<f64>>);

/// The tolerance is looked at after this many samples, twice, four times as many, ...
const CHECK: usize = 128;

/// Most features that are fitted.
const MOST: usize = 2048;

impl Registered for KernelShap {}

impl<const D: usize> Method<D> for KernelShap {
    fn recipe(&self) -> Recipe {
        Recipe::KernelShap(self.clone())
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
        let counts: Vec<usize> = groups.iter().map(|g| g.count).collect();
        if let Some(most) = counts.iter().copied().max().filter(|&most| most > MOST) {
            let requirement = "there may be 2048 at most, or the fit takes too long: choose coarser features, such as auto";
            return Err(Error::option("features", most, requirement));
        }
        let probe = Probe::new(model, input, &self.baseline, goal, run)?;
        let ends = (probe.baseline()?, probe.plain()?);
        let limit = |n: usize| match self.enumerates(n) {
            true => (1 << n) - 2,
            false => self.drawn(n),
        };
        let total: usize = counts.iter().map(|&n| limit(n)).sum();
        let longest = counts.iter().map(|&n| limit(n)).max().unwrap_or(0);
        let mut sets: Vec<Vec<Vec<bool>>> = vec![Vec::new(); counts.len()];
        let mut scores: Vec<Vec<f64>> = vec![Vec::new(); counts.len()];
        let mut upto = match self.tolerance {
            Some(_) => CHECK.max(2 * counts.iter().copied().max().unwrap_or(0)),
            None => longest,
        };
        let (fitted, converged) = loop {
            let done = scores.iter().map(Vec::len).sum();
            for (sets, &n) in sets.iter_mut().zip(&counts) {
                // Sets in order say nothing until all of them are there.
                let until = match self.enumerates(n) {
                    true => limit(n),
                    false => upto.min(limit(n)),
                };
                sets.extend((sets.len()..until).map(|sample| self.set(sample, n)));
            }
            let new = sets
                .iter()
                .zip(&scores)
                .map(|(s, done)| s.len() - done.len());
            let jobs = Jobs::new(new);
            let part = Part {
                count: jobs.total(),
                done,
                total,
            };
            let found = probe.scores(part, |i, replaced| {
                let (row, job) = jobs.get(i);
                let set = &sets[row][scores[row].len() + job];
                for (replaced, &id) in replaced.iter_mut().zip(&groups[row].ids) {
                    *replaced = !set[id];
                }
                (row, row)
            })?;
            for (scores, found) in scores.iter_mut().zip(jobs.split(&found)) {
                scores.extend(found);
            }
            let fitted: Vec<Fitted> = (0..counts.len())
                .map(|row| self.fit(&sets[row], &scores[row], ends.0[row], ends.1[row]))
                .collect();
            let converged = self.tolerance.map(|tolerance| {
                fitted.iter().all(|(values, errors)| match errors {
                    Some(errors) => relative_error(values, errors) <= tolerance,
                    None => true,
                })
            });
            if converged == Some(true) || upto >= longest {
                break (fitted, converged);
            }
            upto *= 2;
        };
        let (values, errors): (Vec<_>, Vec<_>) = fitted.into_iter().unzip();
        let sampled = errors.iter().any(Option::is_some);
        let errors: Vec<Vec<f64>> = errors
            .into_iter()
            .zip(&counts)
            .map(|(errors, &n)| errors.unwrap_or(vec![0.0; n]))
            .collect();
        let mut outcome = probe.outcome(&groups, &values, sampled.then_some(&errors[..]));
        outcome.evidence.samples = scores.iter().map(Vec::len).max();
        outcome.evidence.converged = converged;
        outcome.evidence.delta = Some(deltas(&values, &ends));
        Ok(outcome)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Estimator, Shapley,
        methods::testing::{Net, assert_close, assert_splits_agree, image},
    };
    use burn::tensor::Device;

    #[test]
    fn over_all_sets_it_is_the_shapley_value() {
        let net = Net::relu(&Device::flex());
        for sizes in [vec![9, 8], vec![5, 8], vec![3, 4], vec![1, 9, 4]] {
            let features = Features::Grid(sizes);
            let shapley = Shapley::new()
                .features(features.clone())
                .estimator(Estimator::Exact);
            let want = shapley.explain(&net, image(2, 3), vec![0, 2]).unwrap();
            let got = KernelShap::new().features(features);
            let got = got.explain(&net, image(2, 3), vec![0, 2]).unwrap();
            assert_close(got.values, want.values, 1e-5);
            assert!(got.evidence.delta.unwrap().iter().all(|d| d.abs() < 1e-9));
            assert!(got.evidence.standard_error.is_none());
        }
    }

    #[test]
    fn sampled_values_are_within_their_errors_and_complete() {
        let net = Net::relu(&Device::flex());
        let exact = KernelShap::new().features(Features::Grid(vec![3, 3]));
        let want = exact
            .explain(&net, image(2, 3), 1)
            .unwrap()
            .to_vec()
            .unwrap();
        for (paired, seed) in [(true, 0), (false, 0), (true, 1)] {
            let method = exact.clone().samples(300).paired(paired).seed(seed);
            let map = method.explain(&net, image(2, 3), 1).unwrap();
            let got = map.to_vec().unwrap();
            assert!(map.evidence.delta.unwrap().iter().all(|d| d.abs() < 1e-6));
            assert_eq!(map.evidence.samples, Some(300));
            let errors = map.evidence.standard_error.unwrap();
            let errors = errors.try_into_vec_as::<f32>().unwrap();
            for ((got, want), error) in got.iter().zip(&want).zip(errors) {
                assert!(error > 0.0);
                assert!(
                    (got - want).abs() <= 3.0 * error + 1e-6,
                    "{got} {want} {error}"
                );
            }
        }
    }

    /// Sizes come with weight 1 / (s (n - s)), and features equally often.
    #[test]
    fn sets_are_drawn_by_the_kernel() {
        let n = 6;
        let method = KernelShap::new().samples(20_000).paired(false);
        let few = KernelShap {
            samples: 2,
            ..method.clone()
        };
        let (mut sizes, mut features) = ([0.0; 6], [0.0; 6]);
        for sample in 0..20_000 {
            let set = few.set(sample, n);
            sizes[set.iter().filter(|&&t| t).count()] += 1.0 / 20_000.0;
            for (count, there) in features.iter_mut().zip(set) {
                *count += f64::from(u8::from(there)) / 20_000.0;
            }
        }
        let total: f64 = (1..n).map(|s| 1.0 / (s * (n - s)) as f64).sum();
        for (size, share) in sizes.iter().enumerate().skip(1) {
            let want = 1.0 / (size * (n - size)) as f64 / total;
            assert!((share - want).abs() < 4.0 * (want / 20_000.0).sqrt());
        }
        for share in features {
            assert!((share - 0.5).abs() < 4.0 * 0.5 / 20_000.0_f64.sqrt());
        }
        let paired = few.paired(true);
        let opposite: Vec<bool> = paired.set(4, n).iter().map(|t| !t).collect();
        assert_eq!(paired.set(5, n), opposite);
    }

    #[test]
    fn a_linear_model_gives_its_weights_times_the_distance() {
        let sum = |x: Tensor<2>| {
            let weights = Tensor::<1, burn::tensor::Int>::arange(0..30, &x.device()).float();
            (x * weights.unsqueeze()).sum_dim(1)
        };
        let x = Tensor::<2>::ones([1, 30], &Device::flex()) * 3.0;
        let method = KernelShap::new()
            .baseline(Baseline::Constant(1.0))
            .samples(200);
        let map = method.explain(&sum, x, 0).unwrap();
        for (i, got) in map.to_vec().unwrap().iter().enumerate() {
            assert!((got - 2.0 * i as f32).abs() < 1e-3, "{i}: {got}");
        }
    }

    /// Over many seeds, the error is one standard error in the mean square.
    #[test]
    fn standard_errors_are_right() {
        let game = |x: Tensor<2>| {
            let column = |i| x.clone().narrow(1, i, 1);
            column(0) * column(1) + column(1) * column(2) * column(3) - column(4) * column(0).tanh()
        };
        let x = Tensor::<2>::from_floats([[2.0, 1.0, -1.5, 0.5, 3.0]], &Device::flex());
        let exact = KernelShap::new().explain(&game, x.clone(), 0).unwrap();
        let exact = exact.values.try_into_vec_as::<f64>().unwrap();
        let mut squares = Vec::new();
        for seed in 0..100 {
            let method = KernelShap {
                samples: 28,
                paired: false,
                seed,
                ..KernelShap::new()
            };
            let map = method.explain(&game, x.clone(), 0).unwrap();
            let errors = map.evidence.standard_error.unwrap();
            let errors = errors.try_into_vec_as::<f64>().unwrap();
            let values = map.values.try_into_vec_as::<f64>().unwrap();
            for ((value, want), error) in values.iter().zip(&exact).zip(errors) {
                squares.push(((value - want) / error).powi(2));
            }
        }
        let mean = squares.iter().sum::<f64>() / squares.len() as f64;
        assert!((0.7..1.4).contains(&mean), "{mean}");
    }

    /// All sets are taken, and so the values are exact, however loose the tolerance.
    #[test]
    fn a_tolerance_does_not_cut_an_enumeration_short() {
        let net = Net::relu(&Device::flex());
        let exact = KernelShap::new()
            .features(Features::Grid(vec![3, 3]))
            .samples(1000);
        let want = exact.explain(&net, image(1, 2), 1).unwrap();
        let got = exact.tolerance(10.0).explain(&net, image(1, 2), 1).unwrap();
        assert_eq!(got.evidence.samples, Some(510));
        assert_close(got.values, want.values, 1e-6);
    }

    #[test]
    fn sampling_ends_at_the_tolerance() {
        let net = Net::relu(&Device::flex());
        let method = KernelShap::new()
            .features(Features::Grid(vec![3, 2]))
            .samples(4000);
        let map = |tolerance| {
            let method = method.clone().tolerance(tolerance);
            method.explain(&net, image(2, 3), 1).unwrap().evidence
        };
        let loose = map(0.5);
        assert_eq!((loose.converged, loose.samples), (Some(true), Some(128)));
        let never = map(1e-9);
        assert_eq!((never.converged, never.samples), (Some(false), Some(4000)));
    }

    #[test]
    fn does_not_depend_on_the_batch_split() {
        let sampled = KernelShap::new()
            .features(Features::Grid(vec![3, 3]))
            .samples(60);
        assert_splits_agree(&sampled, 1e-4);
    }

    #[test]
    fn wrong_options_are_named() {
        let many = |x: Tensor<3>| x.flatten::<2>(1, 2).sum_dim(1);
        let x = Tensor::<3>::ones([1, 3, 700], &Device::flex());
        let error = KernelShap::captum().explain(&many, x, 0).unwrap_err();
        assert!(error.to_string().starts_with("features = 2100"), "{error}");
        let net = Net::relu(&Device::flex());
        let text = |method: KernelShap| {
            let error = method.explain(&net, image(1, 1), 0);
            error.unwrap_err().to_string()
        };
        assert!(text(KernelShap::new().samples(0)).starts_with("samples = 0"));
    }

    #[test]
    fn there_are_two_samples_for_each_feature() {
        let net = Net::relu(&Device::flex());
        let method = KernelShap::new()
            .features(Features::Grid(vec![1, 3]))
            .samples(5);
        let map = method.explain(&net, image(1, 1), 0).unwrap();
        assert_eq!(map.evidence.samples, Some(2 * 9 * 3));
        let delta = map.evidence.delta.unwrap();
        assert!(delta[0].abs() < 1e-6);
    }
}
