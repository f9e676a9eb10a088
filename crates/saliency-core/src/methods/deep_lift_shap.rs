use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

use crate::{
    attribution::Outcome,
    baseline::{Baseline, one_or_many},
    error::Error,
    graph::inside,
    method::Method,
    methods::deep_lift::{DeepLift, LiftRules, PASSES},
    model::Model,
    recipe::{Recipe, Registered},
    run::{Run, Stage, join},
    sampling::{Budget, Estimate, Moments, copies, row_sums, sweep, uniform},
    target::Goal,
};

/// [`DeepLift`] averaged over a set of baselines, which approximates SHAP values.
///
/// S(x) = mean over b of DeepLIFT(x, b). The values add up to the score minus the mean score
/// of the baselines (`evidence.delta`). Lundberg and Lee, "A Unified Approach to Interpreting
/// Model Predictions" (2017), <https://arxiv.org/abs/1705.07874>; Captum's `DeepLiftShap`
/// and `shap`'s DeepExplainer. Input of any rank.
///
/// Give rows of the training set as `baselines` ([`Baseline::Values`]). The default is a
/// stand-in: ten inputs with values drawn evenly from the row's own range. Each baseline is
/// taken once, as Captum does, or `samples` of them are drawn with replacement, for all rows
/// alike, from the seed and the sample's number alone, until ||standard error|| / ||map|| of
/// every row is at most the `tolerance`, where there is one. `evidence.standard_error` takes
/// the baselines for a sample of what they come from.
///
/// ```
/// use burn::{nn::LinearConfig, tensor::{Device, Tensor}};
/// use saliency_core::{Baseline, DeepLiftShap, Graph, Method};
///
/// let device = Device::flex();
/// let linear = LinearConfig::new(2, 1).init(&device);
/// let x = Tensor::<2>::from_floats([[1.0, 2.0]], &device);
/// let graph = Graph::trace(&linear, |_, x: Tensor<2>| x.powi_scalar(2).sum_dim(1), &x)?;
/// let set = [0.0, 1.0].map(Baseline::Constant);
/// let map = DeepLiftShap::new().baselines(set).explain(&graph, x, 0)?;
/// // x^2 less the mean of 0 and 1.
/// assert_eq!(map.to_vec()?, [0.5, 3.5]);
/// assert_eq!(map.evidence.samples, Some(2));
/// # Ok::<(), saliency_core::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DeepLiftShap {
    /// What the input is compared with.
    #[serde(deserialize_with = "one_or_many")]
    pub baselines: Vec<Baseline>,
    /// How many of the baselines are drawn; each once where absent.
    pub samples: Option<usize>,
    /// Seed of the draws.
    pub seed: u64,
    /// Stop before all samples are drawn when the relative standard error of every row is at
    /// most this.
    pub tolerance: Option<f64>,
    /// Whether to multiply with x - b; else the values are the mean multipliers.
    pub multiply_by_inputs: bool,
    /// Differences up to this count as none, and the derivative takes their place.
    pub epsilon: f64,
    /// Which operations have a rule of their own.
    pub rules: LiftRules,
}

impl Default for DeepLiftShap {
    fn default() -> Self {
        let DeepLift {
            multiply_by_inputs,
            epsilon,
            rules,
            ..
        } = DeepLift::default();
        DeepLiftShap {
            baselines: (0..10).map(|seed| Baseline::Uniform { seed }).collect(),
            samples: None,
            seed: 0,
            tolerance: None,
            multiply_by_inputs,
            epsilon,
            rules,
        }
    }
}

impl DeepLiftShap {
    /// Ten random baselines; give others with [`baselines`](DeepLiftShap::baselines).
    pub fn new() -> Self {
        Self::default()
    }

    /// Captum's rules and its epsilon.
    pub fn captum() -> Self {
        let DeepLift { epsilon, rules, .. } = DeepLift::captum();
        Self::default().epsilon(epsilon).rules(rules)
    }

    /// What the input is compared with.
    pub fn baselines(mut self, baselines: impl Into<Vec<Baseline>>) -> Self {
        self.baselines = baselines.into();
        self
    }

    /// Draws so many of the baselines, with replacement.
    pub fn samples(mut self, samples: usize) -> Self {
        self.samples = Some(samples);
        self
    }

    /// Seed of the draws.
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// Stop when the relative standard error of every row is at most this.
    pub fn tolerance(mut self, tolerance: f64) -> Self {
        self.tolerance = Some(tolerance);
        self
    }

    /// Whether to multiply with x - b.
    pub fn multiply_by_inputs(mut self, multiply_by_inputs: bool) -> Self {
        self.multiply_by_inputs = multiply_by_inputs;
        self
    }

    /// Differences up to this count as none.
    pub fn epsilon(mut self, epsilon: f64) -> Self {
        self.epsilon = epsilon;
        self
    }

    /// Which operations have a rule of their own.
    pub fn rules(mut self, rules: LiftRules) -> Self {
        self.rules = rules;
        self
    }

    fn check(&self) -> Result<(), Error> {
        if let (Some(tolerance), None) = (self.tolerance, self.samples) {
            let requirement =
                "it needs a number of samples at most, since each baseline is taken once otherwise";
            return Err(Error::option("tolerance", tolerance, requirement));
        }
        self.lift().check()?;
        self.budget().validate()
    }

    fn lift(&self) -> DeepLift {
        DeepLift {
            baselines: self.baselines.clone(),
            multiply_by_inputs: self.multiply_by_inputs,
            epsilon: self.epsilon,
            rules: self.rules,
        }
    }

    fn budget(&self) -> Budget {
        Budget {
            samples: self.samples.unwrap_or(self.baselines.len()),
            group: 1,
            tolerance: self.tolerance,
        }
    }

    /// The baseline of a sample.
    fn draw(&self, sample: usize) -> &Baseline {
        let index = match self.samples {
            Some(_) => (uniform(self.seed, sample, 1)[0] * self.baselines.len() as f64) as usize,
            None => sample,
        };
        &self.baselines[index.min(self.baselines.len() - 1)]
    }
}

impl Registered for DeepLiftShap {}

impl<const D: usize> Method<D> for DeepLiftShap {
    fn recipe(&self) -> Recipe {
        Recipe::DeepLiftShap(self.clone())
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
        let graph = inside(model, "deeplift-shap")?;
        let (lift, budget) = (self.lift(), self.budget());
        let mut differences = vec![0.0; goal.rows()];
        let mut outcome = budget.sample(|samples| {
            let blocks = sweep(
                &run.holding(PASSES),
                Stage::Sampling,
                (input, goal),
                (samples, budget.samples),
                |block, goal, samples, run| {
                    let starts = samples
                        .map(|sample| self.draw(sample).of(block))
                        .collect::<Result<Vec<_>, _>>()?;
                    let count = starts.len();
                    let pair = (copies(block, count), join(starts));
                    let (values, found) = lift.lift(graph, pair, &goal.repeat(count), run)?;
                    let mut sums = vec![0.0; goal.rows()];
                    for (index, difference) in found.iter().enumerate() {
                        sums[index % goal.rows()] += difference;
                    }
                    Ok((Moments::of(values, count, Estimate::Mean), sums))
                },
                |(a, x), (b, y)| (a.merge(b), x.iter().zip(y).map(|(x, y)| x + y).collect()),
            )?;
            let (moments, sums): (Vec<_>, Vec<_>) = blocks.into_iter().unzip();
            for (total, found) in differences.iter_mut().zip(sums.concat()) {
                *total += found;
            }
            Ok(moments)
        })?;
        if self.multiply_by_inputs {
            let samples = outcome.evidence.samples.unwrap_or(budget.samples) as f64;
            let sums = row_sums(&outcome.values)?;
            let rows = sums.iter().zip(differences);
            outcome.evidence.delta = Some(rows.map(|(s, d)| s - d / samples).collect());
        }
        Ok(outcome)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        BatchSize, Evidence, Graph, Target,
        methods::testing::{Net, assert_close, image},
    };
    use burn::tensor::Device;

    fn graph() -> Graph {
        let net = Net::relu(&Device::flex());
        Graph::trace(&net, |m, x| m.forward(x), &image(1, 0)).unwrap()
    }

    fn set() -> [Baseline; 3] {
        [
            Baseline::Zero,
            Baseline::Mean,
            Baseline::Uniform { seed: 3 },
        ]
    }

    #[test]
    fn each_once_is_deep_lift_over_several() {
        let (graph, x) = (graph(), image(3, 1));
        let map = DeepLiftShap::new()
            .baselines(set())
            .explain(&graph, x.clone(), Target::Predicted)
            .unwrap();
        let lift = DeepLift::new().baselines(set());
        let want = lift.explain(&graph, x, Target::Predicted).unwrap();
        assert_close(map.values, want.values, 1e-6);
        for (got, want) in map
            .evidence
            .delta
            .unwrap()
            .iter()
            .zip(want.evidence.delta.unwrap())
        {
            assert!(got.abs() < 1e-4 && want.abs() < 1e-4, "{got:e} {want:e}");
        }
        assert_eq!(map.evidence.samples, Some(3));
    }

    #[test]
    fn the_standard_error_is_that_of_the_mean() {
        let (graph, x) = (graph(), image(1, 2));
        let one = |baseline| {
            let lift = DeepLift::new().baseline(baseline);
            lift.explain(&graph, x.clone(), 1).unwrap().values
        };
        let all = Tensor::cat(set().map(one).to_vec(), 0);
        let want = all.var(0).div_scalar(3.0).sqrt();
        let map = DeepLiftShap::new().baselines(set());
        let map = map.explain(&graph, x.clone(), 1).unwrap();
        assert_close(map.evidence.standard_error.unwrap(), want, 1e-5);
    }

    /// Many draws come to the whole set, within three standard errors (of the whole map).
    #[test]
    fn draws_tend_to_the_whole_set() {
        let (graph, x) = (graph(), image(1, 3));
        let shap = DeepLiftShap::new().baselines(set());
        let want = shap.explain(&graph, x.clone(), 0).unwrap().values;
        let got = shap.samples(100).seed(4).explain(&graph, x, 0).unwrap();
        let norm = |t: Tensor<4>| t.square().sum().sqrt().into_scalar::<f32>();
        let error = norm(got.evidence.standard_error.unwrap());
        let distance = norm(got.values - want.clone());
        assert!(
            distance > 0.0 && distance < 3.0 * error,
            "{distance} {error}"
        );
        assert!(error < 0.2 * norm(want));
        assert_eq!(got.evidence.samples, Some(100));
        assert!(got.evidence.delta.unwrap()[0].abs() < 1e-4);
    }

    #[test]
    fn draws_stop_at_the_tolerance() {
        let shap = DeepLiftShap::new().baselines(set()).samples(400);
        let map = shap
            .tolerance(0.2)
            .explain(&graph(), image(2, 3), 0)
            .unwrap();
        assert_eq!(map.evidence.converged, Some(true));
        assert!(map.evidence.samples.unwrap() < 400);
        for delta in map.evidence.delta.unwrap() {
            assert!(delta.abs() < 1e-4, "{delta:e}");
        }
    }

    #[test]
    fn does_not_depend_on_the_batch_split() {
        let graph = graph();
        let shap = DeepLiftShap::new().baselines(set()).samples(7).seed(1);
        let explain = |rows| {
            let run = Run::new().batch_size(BatchSize::Rows(rows));
            let map = shap.explain_with(&graph, image(5, 6), &Target::Predicted, &run);
            map.unwrap()
        };
        let whole = explain(1000);
        for rows in [1, 2, 3, 8, 23] {
            let map = explain(rows);
            assert_close(map.values, whole.values.clone(), 1e-5);
            let error = |e: &Evidence<4>| e.standard_error.clone().unwrap();
            assert_close(error(&map.evidence), error(&whole.evidence), 1e-4);
        }
    }

    #[test]
    fn wrong_options_are_named() {
        let graph = graph();
        let text = |shap: DeepLiftShap| {
            let error = shap.explain(&graph, image(1, 1), 0).unwrap_err();
            error.to_string()
        };
        let new = DeepLiftShap::new;
        assert!(text(new().samples(0)).starts_with("samples = 0"));
        assert!(text(new().baselines([])).starts_with("baselines = []"));
        assert!(text(new().epsilon(-1.0)).starts_with("epsilon = -1"));
        assert!(text(new().tolerance(0.1)).starts_with("tolerance = 0.1"));
        assert!(text(new().samples(9).tolerance(0.0)).starts_with("tolerance = 0"));
    }
}
