use burn::tensor::Tensor;
use rand::{SeedableRng, seq::SliceRandom};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use crate::{
    attribution::Outcome,
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

/// The score lost when a feature is taken from another row of the batch.
///
/// A_i = mean over permutations p of f(x_r) - f(x_r with i's feature of x_p(r)). No value is
/// out of the data's own distribution, as a baseline may be; the result depends on the whole
/// batch, which must have two rows or more. Breiman, "Random Forests" (2001),
/// <https://doi.org/10.1023/A:1010933404324>; Fisher, Rudin and Dominici (2019),
/// <https://arxiv.org/abs/1801.01489>.
///
/// Captum's `FeaturePermutation` takes one permutation, drawn anew for each feature, and never
/// the identity, as here; the mean over several has a standard error. With a `tolerance`, whether
/// it is met is looked at after every eighth permutation.
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use saliency_core::{FeaturePermutation, Method, Target};
/// let sum = |x: Tensor<2>| x.sum_dim(1);
/// let x = Tensor::<2>::from_floats([[1.0, 5.0], [3.0, 5.0]], &Device::flex());
/// // There is only one way to exchange two rows.
/// let map = FeaturePermutation::new().explain(&sum, x, Target::Regression)?;
/// assert_eq!(map.to_vec()?, [-2.0, 0.0, 2.0, 0.0]);
/// # Ok::<(), saliency_core::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FeaturePermutation {
    /// What counts as one feature.
    pub features: Features,
    /// Number of permutations for each feature, at most.
    pub samples: usize,
    /// Stop when ||standard error|| / ||values|| of every row is at most this.
    pub tolerance: Option<f64>,
    /// Seed of the permutations.
    pub seed: u64,
}

impl Default for FeaturePermutation {
    fn default() -> Self {
        FeaturePermutation {
            features: Features::default(),
            samples: 10,
            tolerance: None,
            seed: 0,
        }
    }
}

impl FeaturePermutation {
    /// Ten permutations of automatic features.
    pub fn new() -> Self {
        Self::default()
    }

    /// What counts as one feature.
    pub fn features(mut self, features: Features) -> Self {
        self.features = features;
        self
    }

    /// Number of permutations for each feature.
    pub fn samples(mut self, samples: usize) -> Self {
        self.samples = samples;
        self
    }

    /// Stop when ||standard error|| / ||values|| of every row is at most this.
    pub fn tolerance(mut self, tolerance: f64) -> Self {
        self.tolerance = Some(tolerance);
        self
    }

    /// Seed of the permutations.
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }
}

/// Permutations between two looks at the tolerance.
const CHECK: usize = 8;

/// A permutation of `rows` that is not the identity.
fn permutation(seed: u64, feature: usize, sample: usize, rows: usize) -> Vec<usize> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream((feature as u64) << 32 | sample as u64);
    let mut order: Vec<usize> = (0..rows).collect();
    while order.is_sorted() {
        order.shuffle(&mut rng);
    }
    order
}

impl Registered for FeaturePermutation {}

impl<const D: usize> Method<D> for FeaturePermutation {
    fn recipe(&self) -> Recipe {
        Recipe::FeaturePermutation(self.clone())
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
        if input.dims()[0] < 2 {
            return Err(Error::Shape {
                what: "the input of a feature permutation",
                expected: "at least two rows, which exchange their features".into(),
                got: input.dims().to_vec(),
            });
        }
        let groups = self.features.of_rows(input)?;
        let probe = Probe::among_rows(model, input, goal, run);
        let plain = probe.plain()?;
        let features = groups.iter().map(|groups| groups.count).max().unwrap_or(0);
        let jobs = Jobs::new(groups.iter().map(|groups| groups.count));
        let total = jobs.total() * self.samples;
        let mut running = vec![Running::default(); probe.rows()];
        let (mut taken, mut converged) = (0, None);
        for sample in 0..self.samples {
            let orders: Vec<_> = (0..features)
                .map(|feature| permutation(self.seed, feature, sample, probe.rows()))
                .collect();
            let part = Part {
                count: jobs.total(),
                done: sample * jobs.total(),
                total,
            };
            let scores = probe.scores(part, |i, replaced| {
                let (row, group) = jobs.get(i);
                for (replaced, &id) in replaced.iter_mut().zip(&groups[row].ids) {
                    *replaced = id == group;
                }
                (row, orders[group][row])
            })?;
            for ((scores, plain), running) in jobs.split(&scores).zip(&plain).zip(&mut running) {
                let lost: Vec<f64> = scores.iter().map(|score| plain - score).collect();
                running.add(&lost);
            }
            taken = sample + 1;
            if let Some(tolerance) = self.tolerance
                && (taken.is_multiple_of(CHECK) || taken == self.samples)
            {
                let met = running.iter().all(|running| running.is_within(tolerance));
                converged = Some(met);
                if met {
                    break;
                }
            }
        }
        let means: Vec<Vec<f64>> = running.iter().map(|r| r.mean().to_vec()).collect();
        let errors: Option<Vec<_>> = running.iter().map(Running::standard_error).collect();
        let mut outcome = probe.outcome(&groups, &means, errors.as_deref());
        outcome.evidence.samples = Some(taken);
        outcome.evidence.converged = converged;
        Ok(outcome)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Target,
        methods::testing::{Net, assert_close, assert_splits_agree, image},
    };
    use burn::tensor::Device;

    #[test]
    fn permutations_are_permutations_and_never_the_identity() {
        for sample in 0..50 {
            let mut order = permutation(1, 2, sample, 3);
            assert_ne!(order, [0, 1, 2]);
            order.sort_unstable();
            assert_eq!(order, [0, 1, 2]);
        }
        assert_ne!(permutation(1, 0, 1, 30), permutation(1, 1, 0, 30));
    }

    /// Over all n! - 1 permutations but the identity, row r meets every other row equally
    /// often: a linear model gives w * (x_r - mean of the others) * n! (n-1) / n / (n! - 1).
    #[test]
    fn a_linear_model_gives_its_weight_times_the_distance_from_the_others() {
        let weighted = |x: Tensor<2>| {
            let weights = Tensor::<1>::from_floats([2.0, -1.0, 0.0], &x.device());
            (x * weights.unsqueeze()).sum_dim(1)
        };
        let rows = [[1.0, 0.0, 9.0], [4.0, 2.0, -3.0], [-2.0, 7.0, 1.0]];
        let x = Tensor::<2>::from_floats(rows, &Device::flex());
        let method = FeaturePermutation::new().samples(400).seed(5);
        let map = method.explain(&weighted, x, Target::Regression).unwrap();
        let got = map.to_vec().unwrap();
        let errors = map.evidence.standard_error.unwrap();
        let errors = errors.try_into_vec_as::<f32>().unwrap();
        for (i, (got, error)) in got.iter().zip(errors).enumerate() {
            let (row, feature) = (i / 3, i % 3);
            let others: f32 = (0..3).filter(|r| *r != row).map(|r| rows[r][feature]).sum();
            let weight = [2.0, -1.0, 0.0][feature];
            let want = weight * (rows[row][feature] - others / 2.0) * 4.0 / 5.0;
            assert!((got - want).abs() <= 3.0 * error, "{got} {want} {error}");
        }
        assert_eq!(map.evidence.samples, Some(400));
    }

    #[test]
    fn it_stops_once_the_tolerance_is_met() {
        let net = Net::relu(&Device::flex());
        let of = |tolerance| {
            let method = FeaturePermutation::new().samples(64).tolerance(tolerance);
            method.explain(&net, image(4, 2), 1).unwrap()
        };
        let early = of(0.5);
        let samples = early.evidence.samples.unwrap();
        assert!(samples < 64 && samples.is_multiple_of(8), "{samples}");
        assert_eq!(early.evidence.converged, Some(true));
        let norms = |t: Tensor<4>| t.square().sum_dims(&[1, 2, 3]).sqrt();
        let error = norms(early.evidence.standard_error.clone().unwrap());
        let ratio = (error / norms(early.values.clone())).try_into_vec_as::<f32>();
        assert!(ratio.unwrap().iter().all(|&ratio| ratio <= 0.5));
        let plain = FeaturePermutation::new().samples(samples);
        let plain = plain.explain(&net, image(4, 2), 1).unwrap();
        assert_close(early.values, plain.values, 1e-6);
        let never = of(1e-9);
        assert_eq!(
            (never.evidence.samples, never.evidence.converged),
            (Some(64), Some(false))
        );
    }

    #[test]
    fn does_not_depend_on_the_batch_split() {
        assert_splits_agree(&FeaturePermutation::new().samples(2), 1e-5);
    }

    #[test]
    fn wrong_options_are_named() {
        let net = Net::relu(&Device::flex());
        let text = |method: FeaturePermutation, rows| {
            let error = method.explain(&net, image(rows, 1), 0);
            error.unwrap_err().to_string()
        };
        let none = FeaturePermutation::new().samples(0);
        assert!(text(none, 2).starts_with("samples = 0"));
        assert!(text(FeaturePermutation::new(), 1).contains("at least two rows"));
    }
}
