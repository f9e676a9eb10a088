use std::collections::BTreeMap;

use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

use crate::{
    attribution::Outcome,
    baseline::{Baseline, check_some, one_or_many},
    error::Error,
    host::widened,
    method::Method,
    methods::gradient::{check_inference, input_gradient, plain_scores},
    model::Model,
    noise::{NoiseScale, noisy},
    recipe::{Recipe, Registered},
    run::{Run, Stage, join},
    sampling::{Budget, Estimate, Moments, row_sums, sweep, uniform},
    target::Goal,
};

/// Integrated gradients averaged over a set of baselines, by sampling.
///
/// EG(x) = mean over i of (x + e_i - b_i) * d f / d x at b_i + a_i (x + e_i - b_i), with b_i
/// drawn from `baselines`, a_i evenly from [0, 1), and Gaussian noise e_i (none by default).
/// Inputs of any rank. Erion et al., "Improving performance of deep learning models with
/// axiomatic attribution priors and expected gradients" (2019),
/// <https://arxiv.org/abs/1906.10670>; with noise, the GradientSHAP of Lundberg's `shap` and
/// of Captum.
///
/// Give rows of the training set as baselines ([`Baseline::Values`]): the values then add up,
/// in expectation, to f(x) minus the mean score of the set, and approximate SHAP values.
/// `evidence.delta` is their sum minus f(x) plus the mean score of the baselines drawn;
/// `evidence.standard_error` belongs to each value. With a `tolerance`, sampling ends when
/// ||standard error|| / ||map|| of every row is at most that.
///
/// Presets: `expected-gradients` takes 200 samples (as `shap`'s GradientExplainer),
/// `gradient-shap` Captum's 5. The baseline and the place on the path are drawn for each
/// sample, for all rows alike, from the seed and the sample's number alone.
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use saliency_core::{Baseline, ExpectedGradients, Method, Target};
///
/// let linear = |x: Tensor<2>| x.mul_scalar(2.0).sum_dim(1);
/// let x = Tensor::<2>::from_floats([[1.0, 5.0]], &Device::flex());
/// let set = [-1.0, 1.0].map(Baseline::Constant);
/// let map = ExpectedGradients::new().baselines(set).seed(1).explain(&linear, x, Target::Regression)?;
/// let error = map.evidence.standard_error.clone().unwrap().try_into_vec_as::<f32>().unwrap();
/// for ((value, error), wanted) in map.to_vec()?.iter().zip(error).zip([2.0, 10.0]) {
///     assert!((value - wanted).abs() < 3.0 * error && error < 0.2);
/// }
/// # Ok::<(), saliency_core::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ExpectedGradients {
    /// What the starting points are drawn from.
    #[serde(deserialize_with = "one_or_many")]
    pub baselines: Vec<Baseline>,
    /// Number of samples.
    pub samples: usize,
    /// Noise added to the input.
    pub noise: NoiseScale,
    /// Seed of everything drawn.
    pub seed: u64,
    /// Whether to multiply with x - b.
    pub multiply_by_inputs: bool,
    /// Stop before all samples are taken when the relative standard error of every row is at
    /// most this.
    pub tolerance: Option<f64>,
}

impl Default for ExpectedGradients {
    fn default() -> Self {
        ExpectedGradients {
            baselines: vec![Baseline::Zero],
            samples: 200,
            noise: NoiseScale::Absolute(0.0),
            seed: 0,
            multiply_by_inputs: true,
            tolerance: None,
        }
    }
}

impl ExpectedGradients {
    /// 200 samples from a zero baseline; give others with
    /// [`baselines`](ExpectedGradients::baselines).
    pub fn new() -> Self {
        Self::default()
    }

    /// What the starting points are drawn from.
    pub fn baselines(mut self, baselines: impl Into<Vec<Baseline>>) -> Self {
        self.baselines = baselines.into();
        self
    }

    /// Number of samples.
    pub fn samples(mut self, samples: usize) -> Self {
        self.samples = samples;
        self
    }

    /// Noise added to the input.
    pub fn noise(mut self, noise: NoiseScale) -> Self {
        self.noise = noise;
        self
    }

    /// Seed of everything drawn.
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// Whether to multiply with x - b.
    pub fn multiply_by_inputs(mut self, multiply_by_inputs: bool) -> Self {
        self.multiply_by_inputs = multiply_by_inputs;
        self
    }

    /// Stop when the relative standard error of every row is at most this.
    pub fn tolerance(mut self, tolerance: f64) -> Self {
        self.tolerance = Some(tolerance);
        self
    }

    fn budget(&self) -> Budget {
        Budget {
            samples: self.samples,
            group: 1,
            tolerance: self.tolerance,
        }
    }

    fn check(&self) -> Result<(), Error> {
        self.budget().validate()?;
        self.noise.validate()?;
        check_some(&self.baselines)
    }

    /// Baseline (its index) and place on the path of a sample.
    fn draw(&self, sample: usize) -> (usize, f64) {
        let drawn = uniform(self.seed, sample, 2);
        let index = (drawn[0] * self.baselines.len() as f64) as usize;
        (index.min(self.baselines.len() - 1), drawn[1])
    }

    /// The mean score of the baselines that `samples` samples draw, for each row.
    fn start_scores<const D: usize>(
        &self,
        model: &dyn Model<D>,
        (input, goal): (&Tensor<D>, &Goal),
        samples: usize,
        run: &Run,
    ) -> Result<Vec<f64>, Error> {
        let mut drawn = BTreeMap::<usize, usize>::new();
        for sample in 0..samples {
            *drawn.entry(self.draw(sample).0).or_default() += 1;
        }
        let mut mean = vec![0.0; goal.rows()];
        for (index, times) in drawn {
            let start = self.baselines[index].of(input)?;
            let scores = plain_scores(model, &start, &goal.repeat(1), run)?;
            for (mean, score) in mean.iter_mut().zip(scores) {
                *mean += score * times as f64 / samples as f64;
            }
        }
        Ok(mean)
    }
}

impl Registered for ExpectedGradients {}

impl<const D: usize> Method<D> for ExpectedGradients {
    fn recipe(&self) -> Recipe {
        Recipe::ExpectedGradients(self.clone())
    }

    fn validate(&self) -> Result<(), Error> {
        self.check()
    }

    fn attribute(
        &self,
        model: &dyn Model<D>,
        input: &Tensor<D>,
        goal: &Goal,
        run: &Run,
    ) -> Result<Outcome<D>, Error> {
        self.check()?;
        check_inference(model, input, goal, run)?;
        let mut outcome = self.budget().sample(|samples| {
            sweep(
                run,
                Stage::Sampling,
                (input, goal),
                (samples, self.samples),
                |block, goal, samples, run| {
                    let count = samples.len();
                    let mut gaps = Vec::with_capacity(count);
                    let mut points = Vec::with_capacity(count);
                    for sample in samples {
                        let (baseline, place) = self.draw(sample);
                        let start = self.baselines[baseline].of(block)?;
                        let end = noisy(block, self.noise, self.seed, sample..sample + 1);
                        let gap = end - start.clone();
                        points.push(start + gap.clone().mul_scalar(place));
                        gaps.push(gap);
                    }
                    let goal = goal.repeat(count);
                    let gradient = widened(input_gradient(model, join(points), &goal, run)?);
                    let values = match self.multiply_by_inputs {
                        true => gradient * widened(join(gaps)),
                        false => gradient,
                    };
                    Ok(Moments::of(values, count, Estimate::Mean))
                },
                Moments::merge,
            )
        })?;
        if self.multiply_by_inputs {
            let samples = outcome.evidence.samples.unwrap_or(self.samples);
            let ends = plain_scores(model, input, goal, run)?;
            let starts = self.start_scores(model, (input, goal), samples, run)?;
            let sums = row_sums(&outcome.values)?;
            let rows = sums.iter().zip(ends).zip(starts);
            outcome.evidence.delta = Some(rows.map(|((s, e), b)| s - (e - b)).collect());
        }
        Ok(outcome)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        BatchSize, Target,
        methods::{
            IntegratedGradients,
            testing::{Net, assert_close, assert_splits_agree, image},
        },
    };
    use burn::tensor::Device;

    fn set() -> [Baseline; 3] {
        [
            Baseline::Zero,
            Baseline::Mean,
            Baseline::Uniform { seed: 3 },
        ]
    }

    /// The definition, over what the method draws.
    #[test]
    fn is_the_definition_over_its_own_samples() {
        let net = Net::relu(&Device::flex());
        let x = image(2, 1);
        let noise = NoiseScale::Relative(0.1);
        let method = ExpectedGradients::new().baselines(set()).samples(6).seed(5);
        let method = method.noise(noise);
        let want = (0..6)
            .map(|sample| {
                let (baseline, place) = method.draw(sample);
                assert!(baseline < 3 && (0.0..1.0).contains(&place));
                let start = set()[baseline].of(&x).unwrap();
                let gap = noisy(&x, noise, 5, sample..sample + 1) - start.clone();
                let point = start + gap.clone().mul_scalar(place);
                crate::Gradient.explain(&net, point, 2).unwrap().values * gap
            })
            .reduce(|a, b| a + b)
            .unwrap()
            .div_scalar(6.0);
        assert_close(method.explain(&net, x, 2).unwrap().values, want, 1e-6);
    }

    /// Many samples come to integrated gradients averaged over the set, within three standard
    /// errors (of the whole map), and add up to the difference of the scores.
    #[test]
    fn tends_to_integrated_gradients_over_the_set() {
        let net = Net::smooth(&Device::flex());
        let x = image(1, 2);
        let integrated = IntegratedGradients::new().baselines(set());
        let want = integrated.explain(&net, x.clone(), 1).unwrap().values;
        let method = ExpectedGradients::new().baselines(set()).samples(600);
        let run = Run::new().batch_size(BatchSize::Rows(64));
        let got = method
            .explain_with(&net, x, &Target::Class(1), &run)
            .unwrap();
        let norm = |t: Tensor<4>| t.square().sum().sqrt().into_scalar::<f32>();
        let error = norm(got.evidence.standard_error.clone().unwrap());
        let distance = norm(got.values - want.clone());
        assert!(distance < 3.0 * error, "{distance} {error}");
        assert!(error < 0.2 * norm(want));
        assert!(got.evidence.delta.unwrap()[0].abs() < 0.2);
    }

    #[test]
    fn does_not_depend_on_the_batch_split() {
        let method = ExpectedGradients::new().baselines(set()).samples(9);
        assert_splits_agree(&method, 1e-5);
        let early = method.samples(200).tolerance(0.3);
        assert_splits_agree(&early, 1e-5);
    }

    #[test]
    fn a_linear_model_gives_weights_times_difference_exactly() {
        let linear = |x: Tensor<2>| x.mul_scalar(-2.0).sum_dim(1);
        let x = Tensor::<2>::from_floats([[1.0, 4.0]], &Device::flex());
        let method = ExpectedGradients::new().samples(20).tolerance(1e-3);
        let map = method.explain(&linear, x, Target::Regression).unwrap();
        assert_eq!(map.to_vec().unwrap(), [-2.0, -8.0]);
        assert_eq!(map.evidence.delta, Some(vec![0.0]));
        assert_eq!(
            (map.evidence.samples, map.evidence.converged),
            (Some(16), Some(true))
        );
        let local = ExpectedGradients::new()
            .samples(3)
            .multiply_by_inputs(false);
        let x = Tensor::<2>::from_floats([[1.0, 4.0]], &Device::flex());
        let map = local.explain(&linear, x, Target::Regression).unwrap();
        assert_eq!(map.to_vec().unwrap(), [-2.0, -2.0]);
    }

    #[test]
    fn wrong_options_are_named() {
        let net = Net::relu(&Device::flex());
        let text = |method: ExpectedGradients| {
            let error = method.explain(&net, image(1, 1), 0).unwrap_err();
            error.to_string()
        };
        let new = ExpectedGradients::new;
        assert!(text(new().samples(0)).starts_with("samples = 0"));
        assert!(text(new().baselines([])).starts_with("baselines = []"));
        assert!(text(new().noise(NoiseScale::Absolute(-1.0))).starts_with("noise = -1"));
        assert!(text(new().tolerance(0.0)).starts_with("tolerance = 0"));
        let wrong = new().baselines([Baseline::Values { values: vec![1.0] }]);
        assert!(text(wrong).starts_with("baseline = 1 values"));
    }
}
