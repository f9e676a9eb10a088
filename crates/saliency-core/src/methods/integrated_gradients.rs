use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

use crate::{
    attribution::{Evidence, Outcome},
    baseline::{Baseline, check_some, one_or_many},
    error::Error,
    host::widened,
    method::Method,
    methods::{
        adaptive_path::{self, Nodes},
        gradient::{check_inference, input_gradient, plain_scores},
    },
    model::Model,
    quadrature::Quadrature,
    recipe::{Recipe, Registered},
    run::{Run, Stage, join},
    sampling::{
        Estimate, Moments, check_tolerance, copies, over_points, per_point, row_sums, sweep,
    },
    target::{Goal, select_rows},
};

/// Gradients integrated along the straight line from a baseline to the input.
///
/// IG(x) = (x - b) * integral over a from 0 to 1 of d f / d x at b + a (x - b), with the
/// integral taken by a [`Quadrature`] of `steps` nodes; inputs of any rank. Sundararajan, Taly and
/// Yan, "Axiomatic Attribution for Deep Networks" (2017), <https://arxiv.org/abs/1703.01365>.
///
/// Its values add up to f(x) - f(b), up to the error of the rule: `evidence.delta` is their
/// sum minus that, for each row. With a `tolerance` the steps are doubled for each row by
/// itself until |delta| <= tolerance * |f(x) - f(b)|, up to `max_steps`; `evidence.samples`
/// is the most steps that a row took, `evidence.converged` whether all rows got there. In f32
/// a delta below about 1e-6 of the score is rounding.
///
/// The rule [`Quadrature::Adaptive`] puts the steps where the gradient changes: its maps are about
/// as good as those of twice as many fixed steps, and with a tolerance it adds steps two at
/// a time instead of doubling, and throws none away; the tolerance then holds for each row from
/// each baseline. It keeps every gradient of the rows that go together until they are done:
/// memory grows with the steps. `integrated-gradients-adaptive` has it, with a tolerance
/// of 1 %. Placing steps by what they show is after Bhat and Raychowdhury, "Non-Uniform
/// Interpolation in Integrated Gradients for Low-Latency Explainable-AI" (2023),
/// <https://arxiv.org/abs/2302.11107>, who spread them by the score.
///
/// Of several baselines the mean is taken, and `evidence.standard_error` takes them for a sample
/// of what they come from, as random ones are ([`Baseline::Uniform`], [`Baseline::Noise`]).
/// `multiply_by_inputs = false` leaves the factor (x - b)
/// out (Captum's `multiply_by_inputs=False`); there is no delta then.
///
/// The defaults are Captum's: 50 Gauss-Legendre nodes, baseline zero. The presets
/// `integrated-gradients-pair` (25 even steps with both ends) and
/// `integrated-gradients-zennit` (20 right Riemann steps) have those of PAIR and zennit.
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use saliency_core::{Baseline, IntegratedGradients, Method, Target};
///
/// let cubes = |x: Tensor<2>| x.powi_scalar(3).sum_dim(1);
/// let x = Tensor::<2>::from_floats([[3.0, -2.0]], &Device::flex());
/// let method = IntegratedGradients::new().baseline(Baseline::Constant(1.0)).steps(4);
/// let map = method.explain(&cubes, x, Target::Regression)?;
/// for (value, wanted) in map.to_vec()?.iter().zip([27.0 - 1.0, -8.0 - 1.0]) {
///     assert!((value - wanted).abs() < 1e-4);
/// }
/// assert!(map.evidence.delta.unwrap()[0].abs() < 1e-4);
/// # Ok::<(), saliency_core::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct IntegratedGradients {
    /// Where the path starts; one, or several whose results are averaged.
    #[serde(deserialize_with = "one_or_many")]
    pub baselines: Vec<Baseline>,
    /// Gradients for each baseline.
    pub steps: usize,
    /// Where they are taken, and their weights.
    pub rule: Quadrature,
    /// Whether to multiply with x - b.
    pub multiply_by_inputs: bool,
    /// Double the steps of a row until |delta| <= tolerance * |f(x) - f(b)|.
    pub tolerance: Option<f64>,
    /// The most steps a tolerance may lead to.
    pub max_steps: usize,
}

impl Default for IntegratedGradients {
    fn default() -> Self {
        IntegratedGradients {
            baselines: vec![Baseline::Zero],
            steps: 50,
            rule: Quadrature::GaussLegendre,
            multiply_by_inputs: true,
            tolerance: None,
            max_steps: 1600,
        }
    }
}

impl IntegratedGradients {
    /// 50 Gauss-Legendre steps from zero.
    pub fn new() -> Self {
        Self::default()
    }

    /// From 9 adaptive steps on, as many as |delta| <= tolerance * |f(x) - f(b)| takes, at most
    /// 400.
    ///
    /// ```
    /// use burn::tensor::{Device, Tensor};
    /// use saliency_core::{IntegratedGradients, Method, Target};
    ///
    /// let steep = |x: Tensor<2>| x.mul_scalar(40.0).tanh().sum_dim(1);
    /// let x = Tensor::<2>::from_floats([[1.0]], &Device::flex());
    /// let map = IntegratedGradients::adaptive(0.01).explain(&steep, x, Target::Regression)?;
    /// assert!((map.to_vec()?[0] - 1.0).abs() <= 0.01);
    /// assert!(map.evidence.samples.unwrap() < 40);
    /// # Ok::<(), saliency_core::Error>(())
    /// ```
    pub fn adaptive(tolerance: f64) -> Self {
        Self::default()
            .rule(Quadrature::Adaptive)
            .steps(9)
            .tolerance(tolerance)
            .max_steps(400)
    }

    /// Where the path starts.
    pub fn baseline(self, baseline: Baseline) -> Self {
        self.baselines([baseline])
    }

    /// Several starting points, whose results are averaged.
    pub fn baselines(mut self, baselines: impl Into<Vec<Baseline>>) -> Self {
        self.baselines = baselines.into();
        self
    }

    /// Gradients for each baseline.
    pub fn steps(mut self, steps: usize) -> Self {
        self.steps = steps;
        self
    }

    /// Where the gradients are taken, and their weights.
    pub fn rule(mut self, rule: Quadrature) -> Self {
        self.rule = rule;
        self
    }

    /// Whether to multiply with x - b.
    pub fn multiply_by_inputs(mut self, multiply_by_inputs: bool) -> Self {
        self.multiply_by_inputs = multiply_by_inputs;
        self
    }

    /// Double the steps until |delta| <= tolerance * |f(x) - f(b)|.
    pub fn tolerance(mut self, tolerance: f64) -> Self {
        self.tolerance = Some(tolerance);
        self
    }

    /// The most steps a tolerance may lead to.
    pub fn max_steps(mut self, max_steps: usize) -> Self {
        self.max_steps = max_steps;
        self
    }

    fn check(&self) -> Result<(), Error> {
        check_some(&self.baselines)?;
        check_tolerance(self.tolerance)?;
        self.rule.validate(self.steps)?;
        if self.tolerance.is_some() && self.max_steps < self.steps {
            let requirement = "it must be at least `steps`";
            return Err(Error::option("max_steps", self.max_steps, requirement));
        }
        if self.tolerance.is_some() && !self.multiply_by_inputs {
            let requirement = "a tolerance needs the completeness that `multiply_by_inputs` gives";
            return Err(Error::option("multiply_by_inputs", false, requirement));
        }
        Ok(())
    }

    /// The integral from each baseline with a given number of steps, and their mean.
    fn integrate<const D: usize>(
        &self,
        model: &dyn Model<D>,
        block: (&Tensor<D>, &Goal),
        steps: usize,
        run: &Run,
    ) -> Result<Moments<D>, Error> {
        let all = (0..self.baselines.len()).map(|index| {
            let found = self.integrate_from(index, model, block, steps, run)?;
            Ok(Moments::of(found, 1, Estimate::Mean))
        });
        all.reduce(|a, b| Ok(a?.merge(b?)))
            .expect("there is a baseline")
    }

    fn integrate_from<const D: usize>(
        &self,
        index: usize,
        model: &dyn Model<D>,
        (input, goal): (&Tensor<D>, &Goal),
        steps: usize,
        run: &Run,
    ) -> Result<Tensor<D>, Error> {
        let (nodes, baseline) = (self.rule.nodes(steps), &self.baselines[index]);
        let first = index * steps;
        let blocks = sweep(
            run,
            Stage::Attributing,
            (input, goal),
            (first..first + steps, self.baselines.len() * steps),
            |block, goal, points, run| {
                let (rows, count) = (block.dims()[0], points.len());
                let (at, weights): (Vec<f64>, Vec<f64>) = nodes
                    [points.start - first..points.end - first]
                    .iter()
                    .copied()
                    .unzip();
                let start = baseline.of(block)?;
                let gap = block.clone() - start.clone();
                let alpha = per_point(&at, rows, block);
                let x = copies(&start, count) + copies(&gap, count) * alpha;
                let gradient = widened(input_gradient(model, x, &goal.repeat(count), run)?);
                let weight = per_point(&weights, rows, &gradient);
                let mean = over_points(gradient * weight, count);
                Ok(match self.multiply_by_inputs {
                    true => mean * widened(gap),
                    false => mean,
                })
            },
            |a, b| a + b,
        )?;
        Ok(join(blocks))
    }
}

/// f(x) minus the mean of f over the baselines, for each row.
fn score_gap<const D: usize>(
    model: &dyn Model<D>,
    (input, goal): (&Tensor<D>, &Goal),
    baselines: &[Baseline],
    run: &Run,
) -> Result<Vec<f64>, Error> {
    let mut gap = plain_scores(model, input, goal, run)?;
    for baseline in baselines {
        let scores = plain_scores(model, &baseline.of(input)?, &goal.repeat(1), run)?;
        for (gap, score) in gap.iter_mut().zip(scores) {
            *gap -= score / baselines.len() as f64;
        }
    }
    Ok(gap)
}

impl Registered for IntegratedGradients {}

impl<const D: usize> Method<D> for IntegratedGradients {
    fn recipe(&self) -> Recipe {
        Recipe::IntegratedGradients(self.clone())
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
        if self.rule == Quadrature::Adaptive {
            let nodes = Nodes {
                least: self.steps,
                refined: self.tolerance.map(|tolerance| (tolerance, self.max_steps)),
            };
            let how = (nodes, self.multiply_by_inputs);
            return adaptive_path::integrate(model, (input, goal), &self.baselines, how, run);
        }
        let found = self.integrate(model, (input, goal), self.steps, run)?;
        let (mut values, error) = (found.mean(), found.standard_error());
        let mut evidence = Evidence {
            samples: Some(self.steps),
            standard_error: error,
            ..Evidence::default()
        };
        if !self.multiply_by_inputs {
            return Ok(Outcome { values, evidence });
        }
        let gap = score_gap(model, (input, goal), &self.baselines, run)?;
        let deltas = |values: &Tensor<D>| -> Result<Vec<f64>, Error> {
            let sums = row_sums(values)?;
            Ok(sums.iter().zip(&gap).map(|(sum, gap)| sum - gap).collect())
        };
        let mut delta = deltas(&values)?;
        if let Some(tolerance) = self.tolerance {
            let mut steps = self.steps;
            loop {
                let rows = 0..gap.len();
                let open: Vec<usize> = rows
                    .clone()
                    .filter(|&row| delta[row].abs() > tolerance * gap[row].abs())
                    .collect();
                if open.is_empty() || steps == self.max_steps {
                    evidence.converged = Some(open.is_empty());
                    break;
                }
                steps = (2 * steps).min(self.max_steps);
                let again = (&select_rows(input.clone(), &open), &goal.select(&open));
                let refined = self.integrate(model, again, steps, run)?;
                let place = |row| match open.binary_search(&row) {
                    Ok(index) => gap.len() + index,
                    Err(_) => row,
                };
                let places: Vec<usize> = rows.map(place).collect();
                let merged = |old: Tensor<D>, new: Tensor<D>| {
                    select_rows(Tensor::cat(vec![old, new], 0), &places)
                };
                values = merged(values, refined.mean());
                let errors = evidence.standard_error.zip(refined.standard_error());
                evidence.standard_error = errors.map(|(old, new)| merged(old, new));
                delta = deltas(&values)?;
            }
            evidence.samples = Some(steps);
        }
        evidence.delta = Some(delta);
        Ok(Outcome { values, evidence })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Target,
        methods::testing::{Net, assert_close, assert_splits_agree, image},
    };
    use burn::tensor::{DType, Device, TensorData};

    const RULES: [Quadrature; 8] = [
        Quadrature::GaussLegendre,
        Quadrature::RiemannLeft,
        Quadrature::RiemannRight,
        Quadrature::RiemannMiddle,
        Quadrature::Trapezoid,
        Quadrature::RiemannTrapezoid,
        Quadrature::EvenPair,
        Quadrature::Adaptive,
    ];

    /// On the path of sum x^2 from b the gradient is linear: IG = x^2 - b^2.
    #[test]
    fn has_the_closed_form_of_squares_and_of_linear_models() {
        let x = Tensor::<2>::from_floats([[3.0, -1.0], [0.5, 2.0]], &Device::flex());
        let squares = |x: Tensor<2>| x.powi_scalar(2).sum_dim(1);
        let linear = |x: Tensor<2>| x.mul_scalar(-3.0).sum_dim(1);
        let explain = |method: &IntegratedGradients, model: &dyn Model<2>| {
            method
                .explain(model, x.clone(), Target::Regression)
                .unwrap()
        };
        for rule in [
            Quadrature::GaussLegendre,
            Quadrature::RiemannMiddle,
            Quadrature::Trapezoid,
            Quadrature::Adaptive,
        ] {
            let method = IntegratedGradients::new().rule(rule).steps(6);
            let method = method.baseline(Baseline::Channels(vec![1.0, 2.0]));
            let got = explain(&method, &squares);
            let want = [[8.0, -3.0], [-0.75, 0.0]];
            assert_close(got.values, Tensor::from_floats(want, &Device::flex()), 1e-6);
            assert!(got.evidence.delta.unwrap().iter().all(|d| d.abs() < 1e-5));
        }
        // Left Riemann: the mean of 0, 2x/n, ... is (n - 1)/n of it.
        let left = IntegratedGradients::new()
            .rule(Quadrature::RiemannLeft)
            .steps(4);
        let got = explain(&left, &squares);
        assert_close(got.values, x.clone().square().mul_scalar(0.75), 1e-6);
        assert!((got.evidence.delta.unwrap()[0] + 2.5).abs() < 1e-5);
        for rule in RULES
            .into_iter()
            .filter(|&r| r != Quadrature::RiemannTrapezoid)
        {
            let method = IntegratedGradients::new().rule(rule).steps(3);
            let got = explain(&method, &linear).values;
            assert_close(got, x.clone().mul_scalar(-3.0), 1e-6);
            let local = explain(&method.multiply_by_inputs(false), &linear);
            assert_close(local.values, x.full_like(-3.0), 1e-6);
            assert!(local.evidence.delta.is_none());
        }
    }

    #[test]
    fn several_baselines_are_averaged() {
        let net = Net::smooth(&Device::flex());
        let all = [
            Baseline::Zero,
            Baseline::Mean,
            Baseline::Uniform { seed: 2 },
        ];
        let of = |baselines: &[Baseline]| {
            let method = IntegratedGradients::new().baselines(baselines).steps(40);
            method.explain(&net, image(2, 1), vec![1, 2]).unwrap()
        };
        let mean = all
            .iter()
            .map(|b| of(std::slice::from_ref(b)).values)
            .reduce(|a, b| a + b)
            .unwrap()
            .div_scalar(3.0);
        let got = of(&all);
        assert_close(got.values, mean, 1e-6);
        // The standard error of a mean of three.
        let each = all.each_ref().map(|b| of(std::slice::from_ref(b)).values);
        assert!(of(&all[2..]).evidence.standard_error.is_none());
        let want = Tensor::stack::<5>(each.to_vec(), 0)
            .var(0)
            .div_scalar(3.0)
            .sqrt();
        let error = got.evidence.standard_error.unwrap();
        assert_close(error, want.squeeze_dim(0), 1e-5);
        let delta = got.evidence.delta.unwrap();
        assert!(
            delta.iter().all(|d| d.abs() < 1e-3),
            "{delta:?} {:?}",
            got.scores
        );
    }

    #[test]
    fn does_not_depend_on_the_batch_split_or_the_neighbours() {
        for rule in RULES {
            assert_splits_agree(&IntegratedGradients::new().rule(rule).steps(7), 1e-6);
        }
        let adaptive = IntegratedGradients::new().steps(2).tolerance(1e-2);
        assert_splits_agree(&adaptive, 1e-6);
        let net = Net::relu(&Device::flex());
        let all = adaptive
            .explain(&net, image(4, 2), vec![0, 1, 2, 3])
            .unwrap();
        let third = image(4, 2).narrow(0, 2, 1);
        let alone = adaptive.explain(&net, third, 2).unwrap();
        assert_close(all.values.narrow(0, 2, 1), alone.values, 1e-6);
    }

    #[test]
    fn adaptive_steps_meet_the_tolerance_or_say_that_they_did_not() {
        let net = Net::relu(&Device::flex()).cast_f64();
        let x = image(3, 4).cast(DType::F64);
        let explain = |method: IntegratedGradients| {
            let map = method.explain(&net, x.clone(), 1).unwrap();
            let start = net
                .forward(x.zeros_like())
                .try_into_vec_as::<f64>()
                .unwrap();
            (
                map.evidence,
                map.scores.iter().map(|s| s - start[1]).collect::<Vec<_>>(),
            )
        };
        let rule = IntegratedGradients::new()
            .rule(Quadrature::RiemannLeft)
            .steps(2);
        let (evidence, gaps) = explain(rule.clone().tolerance(1e-2));
        assert_eq!(evidence.converged, Some(true));
        assert!(evidence.samples.unwrap() > 2);
        for (delta, gap) in evidence.delta.unwrap().iter().zip(&gaps) {
            assert!(delta.abs() <= 1e-2 * gap.abs(), "{delta} of {gap}");
        }
        let (evidence, _) = explain(rule.tolerance(1e-9).max_steps(5));
        assert_eq!(
            (evidence.converged, evidence.samples),
            (Some(false), Some(5))
        );
    }

    /// A value that the score does not depend on, and one that is at its baseline, get zero.
    #[test]
    fn dummies_get_nothing_and_equals_get_the_same() {
        let model = |x: Tensor<2>| {
            let [a, b] = [0, 1].map(|i| x.clone().narrow(1, i, 1));
            (a * b).tanh()
        };
        let data = TensorData::new(vec![0.7f32, 0.7, 5.0], [1, 3]);
        let x = Tensor::<2>::from_data(data, &Device::flex());
        let map = IntegratedGradients::new().explain(&model, x, 0).unwrap();
        let values = map.to_vec().unwrap();
        assert_eq!(values[2], 0.0);
        assert!((values[0] - values[1]).abs() < 1e-6);
        assert!((values[0] - 0.5 * 0.49f32.tanh()).abs() < 1e-6);
    }

    #[test]
    fn wrong_options_are_named_and_one_baseline_need_not_be_a_list() {
        let net = Net::relu(&Device::flex());
        let text = |method: IntegratedGradients| {
            let error = method.explain(&net, image(1, 1), 0).unwrap_err();
            error.to_string()
        };
        let new = IntegratedGradients::new;
        assert!(text(new().steps(0)).starts_with("steps = 0"));
        assert!(text(new().steps(1).rule(Quadrature::Trapezoid)).starts_with("steps = 1"));
        assert!(text(new().steps(1).rule(Quadrature::Adaptive)).starts_with("steps = 1"));
        assert!(text(new().baselines([])).starts_with("baselines = []"));
        assert!(text(new().tolerance(-1.0)).starts_with("tolerance = -1"));
        assert!(text(new().tolerance(0.1).max_steps(9)).starts_with("max_steps = 9"));
        assert!(
            text(new().tolerance(0.1).multiply_by_inputs(false)).starts_with("multiply_by_inputs")
        );
        let json = r#"{"method": "integrated-gradients", "baselines": {"constant": 0.5}}"#;
        let recipe: Recipe = serde_json::from_str(json).unwrap();
        let want = new().baseline(Baseline::Constant(0.5));
        assert_eq!(recipe, Recipe::IntegratedGradients(want));
        let training = new().explain(&Net::training(&Device::flex()), image(2, 1), 0);
        assert!(matches!(training, Err(Error::TrainingMode { .. })));
    }
}
