use std::f64::consts::PI;

use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

use crate::{
    attribution::{Evidence, Outcome},
    baseline::{Baseline, check_some, one_or_many},
    error::Error,
    host::widened,
    method::Method,
    methods::gradient::{check_inference, input_gradient, plain_scores},
    model::Model,
    recipe::{Recipe, Registered},
    run::{Run, Stage, join},
    sampling::{check_tolerance, copies, over_points, per_point, row_sums, sweep},
    target::{Goal, select_rows},
};

/// Gradients integrated along the straight line from a baseline to the input.
///
/// IG(x) = (x - b) * integral over a from 0 to 1 of d f / d x at b + a (x - b), with the
/// integral taken by a [`Rule`] of `steps` nodes; inputs of any rank. Sundararajan, Taly and
/// Yan, "Axiomatic Attribution for Deep Networks" (2017), <https://arxiv.org/abs/1703.01365>.
///
/// Its values add up to f(x) - f(b), up to the error of the rule: `evidence.delta` is their
/// sum minus that, for each row. With a `tolerance` the steps are doubled for each row by
/// itself until |delta| <= tolerance * |f(x) - f(b)|, up to `max_steps`; `evidence.samples`
/// is the most steps that a row took, `evidence.converged` whether all rows got there. In f32
/// a delta below about 1e-6 of the score is rounding.
///
/// Of several baselines the mean is taken. `times_input = false` leaves the factor (x - b)
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
    pub rule: Rule,
    /// Whether to multiply with x - b.
    pub times_input: bool,
    /// Double the steps of a row until |delta| <= tolerance * |f(x) - f(b)|.
    pub tolerance: Option<f64>,
    /// The most steps a tolerance may lead to.
    pub max_steps: usize,
}

/// How the integral over [0, 1] is taken from n gradients.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rule {
    /// Gauss-Legendre nodes: exact for polynomials of degree 2n - 1.
    #[default]
    GaussLegendre,
    /// 0, 1/n, ..., (n - 1)/n.
    RiemannLeft,
    /// 1/n, ..., 1.
    RiemannRight,
    /// 1/(2n), 3/(2n), ..., 1 - 1/(2n).
    RiemannMiddle,
    /// 0, 1/(n - 1), ..., 1; the ends count half.
    Trapezoid,
    /// The same nodes with Captum's weights for `riemann_trapezoid`: 1/n, the ends half of
    /// it, which add up to (n - 1)/n.
    TrapezoidCaptum,
    /// The same nodes with PAIR's weights: 1/n each.
    EvenPair,
}

impl Rule {
    /// Nodes and weights.
    pub(crate) fn nodes(self, n: usize) -> (Vec<f64>, Vec<f64>) {
        let count = n as f64;
        let even = |offset: f64| (0..n).map(|i| (i as f64 + offset) / count).collect();
        let closed = || (0..n).map(|i| i as f64 / (count - 1.0)).collect();
        let halved_ends = |weight: f64| {
            (0..n)
                .map(|i| {
                    if i == 0 || i + 1 == n {
                        weight / 2.0
                    } else {
                        weight
                    }
                })
                .collect()
        };
        match self {
            Rule::GaussLegendre => gauss_legendre(n),
            Rule::RiemannLeft => (even(0.0), vec![1.0 / count; n]),
            Rule::RiemannRight => (even(1.0), vec![1.0 / count; n]),
            Rule::RiemannMiddle => (even(0.5), vec![1.0 / count; n]),
            Rule::Trapezoid => (closed(), halved_ends(1.0 / (count - 1.0))),
            Rule::TrapezoidCaptum => (closed(), halved_ends(1.0 / count)),
            Rule::EvenPair => (closed(), vec![1.0 / count; n]),
        }
    }

    fn least_steps(self) -> usize {
        match self {
            Rule::Trapezoid | Rule::TrapezoidCaptum | Rule::EvenPair => 2,
            _ => 1,
        }
    }
}

/// Nodes and weights on [0, 1]: the roots z of the Legendre polynomial P_n by Newton's method
/// from cos(pi (i + 3/4) / (n + 1/2)), with weights 2 / ((1 - z^2) P_n'(z)^2) on [-1, 1].
fn gauss_legendre(n: usize) -> (Vec<f64>, Vec<f64>) {
    let node = |i: usize| {
        let mut z = (PI * (i as f64 + 0.75) / (n as f64 + 0.5)).cos();
        let mut slope = 1.0;
        for _ in 0..20 {
            let (mut value, mut before) = (1.0, 0.0);
            for k in 0..n {
                let k = k as f64;
                let next = ((2.0 * k + 1.0) * z * value - k * before) / (k + 1.0);
                (before, value) = (value, next);
            }
            slope = n as f64 * (z * value - before) / (z * z - 1.0);
            let change = value / slope;
            z -= change;
            if change.abs() < 1e-15 {
                break;
            }
        }
        ((1.0 - z) / 2.0, 1.0 / ((1.0 - z * z) * slope * slope))
    };
    (0..n).map(node).unzip()
}

impl Default for IntegratedGradients {
    fn default() -> Self {
        IntegratedGradients {
            baselines: vec![Baseline::Zero],
            steps: 50,
            rule: Rule::GaussLegendre,
            times_input: true,
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
    pub fn rule(mut self, rule: Rule) -> Self {
        self.rule = rule;
        self
    }

    /// Whether to multiply with x - b.
    pub fn times_input(mut self, times_input: bool) -> Self {
        self.times_input = times_input;
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
        if self.steps < self.rule.least_steps() {
            let requirement = "at least one is needed, and two by a rule with both ends";
            return Err(Error::option("steps", self.steps, requirement));
        }
        if self.tolerance.is_some() && self.max_steps < self.steps {
            let requirement = "it must be at least `steps`";
            return Err(Error::option("max_steps", self.max_steps, requirement));
        }
        if self.tolerance.is_some() && !self.times_input {
            let requirement = "a tolerance needs the completeness that `times_input` gives";
            return Err(Error::option("times_input", false, requirement));
        }
        Ok(())
    }

    /// The integral with a given number of steps.
    fn integrate<const D: usize>(
        &self,
        model: &dyn Model<D>,
        (input, goal): (&Tensor<D>, &Goal),
        steps: usize,
        run: &Run,
    ) -> Result<Tensor<D>, Error> {
        let (nodes, mut weights) = self.rule.nodes(steps);
        let baselines = self.baselines.len();
        weights.iter_mut().for_each(|w| *w /= baselines as f64);
        let points = baselines * steps;
        let part =
            |block: &Tensor<D>, goal: &Goal, baseline: &Baseline, at: &[usize], run: &Run| {
                let rows = block.dims()[0];
                let of = |values: &[f64]| at.iter().map(|&i| values[i]).collect::<Vec<_>>();
                let start = baseline.of(block)?;
                let gap = block.clone() - start.clone();
                let alpha = per_point(&of(&nodes), rows, block);
                let x = copies(&start, at.len()) + copies(&gap, at.len()) * alpha;
                let gradient = widened(input_gradient(model, x, &goal.repeat(at.len()), run)?);
                let weight = per_point(&of(&weights), rows, &gradient);
                let mean = over_points(gradient * weight, at.len());
                Ok(match self.times_input {
                    true => mean * widened(gap),
                    false => mean,
                })
            };
        let blocks = sweep(
            run,
            Stage::Attributing,
            (input, goal),
            (0..points, points),
            |block, goal, points, run| {
                let points: Vec<usize> = points.collect();
                points
                    .chunk_by(|a, b| a / steps == b / steps)
                    .map(|chunk| {
                        let at: Vec<usize> = chunk.iter().map(|p| p % steps).collect();
                        part(block, goal, &self.baselines[chunk[0] / steps], &at, run)
                    })
                    .reduce(|a, b| Ok(a? + b?))
                    .expect("there is at least one point")
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
        let mut values = self.integrate(model, (input, goal), self.steps, run)?;
        let mut evidence = Evidence {
            samples: Some(self.steps),
            ..Evidence::default()
        };
        if !self.times_input {
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
                let both = Tensor::cat(vec![values, refined], 0);
                values = select_rows(both, &rows.map(place).collect::<Vec<_>>());
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

    const RULES: [Rule; 7] = [
        Rule::GaussLegendre,
        Rule::RiemannLeft,
        Rule::RiemannRight,
        Rule::RiemannMiddle,
        Rule::Trapezoid,
        Rule::TrapezoidCaptum,
        Rule::EvenPair,
    ];

    /// integral of a^k = 1 / (k + 1) up to degree 2n - 1.
    #[test]
    fn gauss_legendre_is_exact_for_polynomials() {
        for n in [1, 2, 3, 7, 20, 64] {
            let (nodes, weights) = gauss_legendre(n);
            assert!(nodes.is_sorted() && nodes[0] > 0.0 && nodes[n - 1] < 1.0);
            for degree in 0..2 * n as i32 {
                let sum: f64 = nodes
                    .iter()
                    .zip(&weights)
                    .map(|(a, w)| w * a.powi(degree))
                    .sum();
                let want = 1.0 / f64::from(degree + 1);
                assert!(
                    (sum - want).abs() < 1e-14,
                    "n = {n}, a^{degree}: {sum} {want}"
                );
            }
        }
        let sum: f64 = gauss_legendre(1600).1.iter().sum();
        assert!((sum - 1.0).abs() < 1e-12);
    }

    #[test]
    fn weights_add_up_to_one_except_captums_trapezoid() {
        for rule in RULES {
            let sum: f64 = rule.nodes(8).1.iter().sum();
            let want = if rule == Rule::TrapezoidCaptum {
                7.0 / 8.0
            } else {
                1.0
            };
            assert!((sum - want).abs() < 1e-14, "{rule:?}");
        }
    }

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
        for rule in [Rule::GaussLegendre, Rule::RiemannMiddle, Rule::Trapezoid] {
            let method = IntegratedGradients::new().rule(rule).steps(6);
            let method = method.baseline(Baseline::Channels(vec![1.0, 2.0]));
            let got = explain(&method, &squares);
            let want = [[8.0, -3.0], [-0.75, 0.0]];
            assert_close(got.values, Tensor::from_floats(want, &Device::flex()), 1e-6);
            assert!(got.evidence.delta.unwrap().iter().all(|d| d.abs() < 1e-5));
        }
        // Left Riemann: the mean of 0, 2x/n, ... is (n - 1)/n of it.
        let left = IntegratedGradients::new().rule(Rule::RiemannLeft).steps(4);
        let got = explain(&left, &squares);
        assert_close(got.values, x.clone().square().mul_scalar(0.75), 1e-6);
        assert!((got.evidence.delta.unwrap()[0] + 2.5).abs() < 1e-5);
        for rule in RULES.into_iter().filter(|&r| r != Rule::TrapezoidCaptum) {
            let method = IntegratedGradients::new().rule(rule).steps(3);
            let got = explain(&method, &linear).values;
            assert_close(got, x.clone().mul_scalar(-3.0), 1e-6);
            let local = explain(&method.times_input(false), &linear);
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
        let rule = IntegratedGradients::new().rule(Rule::RiemannLeft).steps(2);
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
        assert!(text(new().steps(1).rule(Rule::Trapezoid)).starts_with("steps = 1"));
        assert!(text(new().baselines([])).starts_with("baselines = []"));
        assert!(text(new().tolerance(-1.0)).starts_with("tolerance = -1"));
        assert!(text(new().tolerance(0.1).max_steps(9)).starts_with("max_steps = 9"));
        assert!(text(new().tolerance(0.1).times_input(false)).starts_with("times_input"));
        let json = r#"{"method": "integrated-gradients", "baselines": {"constant": 0.5}}"#;
        let recipe: Recipe = serde_json::from_str(json).unwrap();
        let want = new().baseline(Baseline::Constant(0.5));
        assert_eq!(recipe, Recipe::IntegratedGradients(want));
        let training = new().explain(&Net::training(&Device::flex()), image(2, 1), 0);
        assert!(matches!(training, Err(Error::TrainingMode { .. })));
    }
}
