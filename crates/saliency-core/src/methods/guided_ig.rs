use burn::tensor::{Tensor, TensorData};
use serde::{Deserialize, Serialize};

use crate::{
    attribution::{Evidence, Outcome},
    baseline::Baseline,
    error::Error,
    method::Method,
    methods::gradient::{check_inference, input_gradient, plain_scores},
    model::Model,
    recipe::{Recipe, Registered},
    run::{Run, Stage, join},
    sampling::row_sums,
    target::Goal,
};

/// Integrated gradients along a path that moves the values with the smallest gradients first.
///
/// From the baseline b, each of `steps` steps takes the gradient once and moves the `fraction`
/// of values with the least |gradient| towards the input until the L1 distance to it has
/// shrunk by 1/`steps`, no value being further than `max_dist` (as a share of its own way)
/// from the straight line. GuidedIG(x) = sum over the moves of (x_new - x_old) * gradient.
/// Inputs of any rank. Kapishnikov et al., "Guided Integrated Gradients: an Adaptive Path
/// Method for Removing Noise" (2021), <https://arxiv.org/abs/2106.09788>.
///
/// `max_dist` = 0 is integrated gradients by right Riemann weights at left nodes, 1 the
/// unbounded path. The defaults are those of PAIR's `saliency`. The values add up to
/// f(x) - f(b) up to the error of the sum, which `evidence.delta` tells. The path is kept in
/// f64 on the host; it turns on the order of the gradients, so rounding in the model can
/// change which of two equal values moves first.
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use saliency_core::{GuidedIg, Method, Target};
///
/// let linear = |x: Tensor<2>| x.mul_scalar(-3.0).sum_dim(1);
/// let x = Tensor::<2>::from_floats([[1.0, 2.0, 0.0]], &Device::flex());
/// let map = GuidedIg::new().steps(10).explain(&linear, x, Target::Regression)?;
/// for (value, wanted) in map.to_vec()?.iter().zip([-3.0, -6.0, 0.0]) {
///     assert!((value - wanted).abs() < 1e-4);
/// }
/// # Ok::<(), saliency_core::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GuidedIg {
    /// Where the path starts.
    pub baseline: Baseline,
    /// Number of gradients, which are taken one after the other.
    pub steps: usize,
    /// Share of the values that move in a step, at the least.
    pub fraction: f64,
    /// How far a value may be from the straight line, as a share of its way.
    pub max_dist: f64,
}

impl Default for GuidedIg {
    fn default() -> Self {
        GuidedIg {
            baseline: Baseline::Zero,
            steps: 200,
            fraction: 0.25,
            max_dist: 0.02,
        }
    }
}

impl GuidedIg {
    /// 200 steps from zero, a quarter of the values at a time, within 0.02 of the line.
    pub fn new() -> Self {
        Self::default()
    }

    /// Where the path starts.
    pub fn baseline(mut self, baseline: Baseline) -> Self {
        self.baseline = baseline;
        self
    }

    /// Number of gradients.
    pub fn steps(mut self, steps: usize) -> Self {
        self.steps = steps;
        self
    }

    /// Share of the values that move in a step.
    pub fn fraction(mut self, fraction: f64) -> Self {
        self.fraction = fraction;
        self
    }

    /// How far a value may be from the straight line.
    pub fn max_dist(mut self, max_dist: f64) -> Self {
        self.max_dist = max_dist;
        self
    }

    pub(super) fn check(&self) -> Result<(), Error> {
        let share = |name, value: f64| match (0.0..=1.0).contains(&value) {
            true => Ok(()),
            false => Err(Error::option(name, value, "it must be between 0 and 1")),
        };
        share("fraction", self.fraction)?;
        share("max_dist", self.max_dist)?;
        match self.steps {
            0 => Err(Error::option("steps", 0, "at least one is needed")),
            _ => Ok(()),
        }
    }

    /// Moves one row by one step.
    fn advance(&self, row: &mut Row, gradient: &[f64], step: usize) {
        const CLOSE: f64 = 1e-9;
        let steps = self.steps as f64;
        let alpha = (step as f64 + 1.0) / steps;
        let (least, most) = (
            (alpha - self.max_dist).max(0.0),
            (alpha + self.max_dist).min(1.0),
        );
        let between =
            |row: &Row, i: usize, alpha: f64| row.start[i] + (row.end[i] - row.start[i]) * alpha;
        let total: f64 = (0..row.end.len())
            .map(|i| (row.end[i] - row.start[i]).abs())
            .sum();
        let wanted = total * (1.0 - (step as f64 + 1.0) / steps);
        let mut rank: Vec<f64> = gradient.iter().map(|g| g.abs()).collect();
        loop {
            // Values that fell behind the straight line catch up.
            for i in 0..rank.len() {
                let way = row.end[i] - row.start[i];
                let place = (row.x[i] - row.start[i]) / way;
                if way != 0.0 && place < least {
                    row.go(i, between(row, i, least), gradient);
                }
            }
            let left: f64 = row
                .x
                .iter()
                .zip(&row.end)
                .map(|(x, end)| (x - end).abs())
                .sum();
            if (wanted - left).abs() <= CLOSE * wanted.abs().max(left.abs()).max(1.0) {
                return;
            }
            // Values that are as far as they may be stay.
            for (i, rank) in rank.iter_mut().enumerate() {
                if row.x[i] == between(row, i, most) {
                    *rank = f64::INFINITY;
                }
            }
            let threshold = lower_quantile(&rank, self.fraction);
            let moving: Vec<usize> = (0..rank.len())
                .filter(|&i| rank[i] <= threshold && rank[i] != f64::INFINITY)
                .collect();
            let reach = moving
                .iter()
                .map(|&i| (row.x[i] - between(row, i, most)).abs());
            let reach: f64 = reach.sum();
            if reach == 0.0 && moving.is_empty() {
                return;
            }
            let share = (left - wanted) / reach;
            for i in moving {
                let furthest = between(row, i, most);
                let to = match reach > 0.0 && share <= 1.0 {
                    true => row.x[i] + (furthest - row.x[i]) * share.max(0.0),
                    false => furthest,
                };
                row.go(i, to, gradient);
            }
            if reach > 0.0 && share <= 1.0 {
                return;
            }
        }
    }

    /// The attributions of some rows, whose gradients are taken together.
    fn block<const D: usize>(
        &self,
        model: &dyn Model<D>,
        input: &Tensor<D>,
        goal: &Goal,
        run: &Run,
        report: impl Fn(usize) -> Result<(), Error>,
    ) -> Result<Tensor<D>, Error> {
        let attributions = self.walk(input, |x, step| {
            let gradient = input_gradient(model, x, &goal.repeat(1), run)?;
            report(step + 1)?;
            Ok(gradient)
        })?;
        let data = TensorData::new(attributions, input.dims()).convert_dtype(input.dtype());
        let place = (&input.device().inner(), input.dtype());
        Ok(Tensor::from_data(data, place))
    }

    /// Walks some rows from the baseline to the input, along the gradients that `look` gives at
    /// each step's point, and returns what each value gains on the way.
    pub(super) fn walk<const D: usize>(
        &self,
        input: &Tensor<D>,
        mut look: impl FnMut(Tensor<D>, usize) -> Result<Tensor<D>, Error>,
    ) -> Result<Vec<f64>, Error> {
        let shape = input.dims();
        let read = |t: Tensor<D>| t.try_into_vec_as::<f64>().map_err(Error::device);
        let tensor = |values: Vec<f64>| {
            let data = TensorData::new(values, shape).convert_dtype(input.dtype());
            Tensor::<D>::from_data(data, (&input.device().inner(), input.dtype()))
        };
        let (ends, starts) = (read(input.clone())?, read(self.baseline.of(input)?)?);
        let len = ends.len() / shape[0];
        let mut rows: Vec<Row> = ends
            .chunks(len)
            .zip(starts.chunks(len))
            .map(|(end, start)| Row::new(start, end))
            .collect();
        for step in 0..self.steps {
            let x = rows.iter().flat_map(|row| row.x.iter().copied()).collect();
            let gradient = read(look(tensor(x), step)?)?;
            for (row, gradient) in rows.iter_mut().zip(gradient.chunks(len)) {
                self.advance(row, gradient, step);
            }
        }
        Ok(rows.into_iter().flat_map(|row| row.attribution).collect())
    }
}

/// One row on its way.
struct Row {
    start: Vec<f64>,
    end: Vec<f64>,
    x: Vec<f64>,
    attribution: Vec<f64>,
}

impl Row {
    fn new(start: &[f64], end: &[f64]) -> Self {
        Row {
            start: start.to_vec(),
            end: end.to_vec(),
            x: start.to_vec(),
            attribution: vec![0.0; start.len()],
        }
    }

    fn go(&mut self, i: usize, to: f64, gradient: &[f64]) {
        self.attribution[i] += (to - self.x[i]) * gradient[i];
        self.x[i] = to;
    }
}

/// The value below which `fraction` of the values lie; of two neighbours the lower one.
fn lower_quantile(values: &[f64], fraction: f64) -> f64 {
    let mut values = values.to_vec();
    let index = (fraction * (values.len() - 1) as f64) as usize;
    *values.select_nth_unstable_by(index, f64::total_cmp).1
}

impl Registered for GuidedIg {}

impl<const D: usize> Method<D> for GuidedIg {
    fn recipe(&self) -> Recipe {
        Recipe::GuidedIg(self.clone())
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
        let (total, quiet) = (input.dims()[0], run.without_progress());
        let stage = Stage::Attributing;
        let mut parts = Vec::new();
        quiet.batches(stage, total, run.rows(input), |range| {
            let report = |steps| {
                let done = range.start * self.steps + range.len() * steps;
                run.report(stage, done, total * self.steps)
            };
            let block = input.clone().narrow(0, range.start, range.len());
            let goal = goal.slice(range.start, range.end);
            parts.push(self.block(model, &block, &goal, run, report)?);
            Ok(())
        })?;
        let values = join(parts);
        let ends = plain_scores(model, input, goal, run)?;
        let starts = plain_scores(model, &self.baseline.of(input)?, &goal.repeat(1), run)?;
        let sums = row_sums(&values)?.into_iter().zip(ends).zip(starts);
        Ok(Outcome {
            values,
            evidence: Evidence {
                delta: Some(sums.map(|((s, e), b)| s - (e - b)).collect()),
                samples: Some(self.steps),
                ..Evidence::default()
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        IntegratedGradients, Quadrature, Target,
        methods::testing::{Net, assert_close, assert_splits_agree, image},
    };
    use burn::tensor::{DType, Device};

    /// Without room beside the straight line, each step moves along it by 1/steps, with the
    /// gradient at its beginning.
    #[test]
    fn without_room_it_is_integrated_gradients() {
        let net = Net::smooth(&Device::flex()).cast_f64();
        let x = image(2, 1).cast(DType::F64);
        let guided = GuidedIg::new().max_dist(0.0).steps(12);
        let got = guided.explain(&net, x.clone(), vec![1, 2]).unwrap();
        let straight = IntegratedGradients::new()
            .rule(Quadrature::RiemannLeft)
            .steps(12);
        let want = straight.explain(&net, x, vec![1, 2]).unwrap();
        assert_close(got.values, want.values, 1e-8);
    }

    /// Two values, one with ten times the gradient: the other one goes all the way first.
    #[test]
    fn small_gradients_move_first() {
        let model = |x: Tensor<2>| {
            let [a, b] = [0, 1].map(|i| x.clone().narrow(1, i, 1));
            a.clone().mul_scalar(10.0) + b.clone() + a * b
        };
        let x = Tensor::<2>::from_floats([[1.0, 1.0]], &Device::flex()).cast(DType::F64);
        let method = GuidedIg::new().max_dist(1.0).fraction(0.5).steps(1000);
        let map = method.explain(&model, x, Target::Regression).unwrap();
        // b moves at a = 0 and gets 1; then a at b = 1 and gets 11.
        let values = map.values.try_into_vec_as::<f64>().unwrap();
        assert!((values[0] - 11.0).abs() < 1e-6 && (values[1] - 1.0).abs() < 1e-6);
    }

    #[test]
    fn ends_at_the_input_and_is_nearly_complete() {
        let net = Net::smooth(&Device::flex());
        let delta = |steps, max_dist| {
            let method = GuidedIg::new().steps(steps).max_dist(max_dist);
            let method = method.baseline(Baseline::Constant(-0.5));
            let map = method.explain(&net, image(2, 3), vec![0, 2]).unwrap();
            let delta = map.evidence.delta.unwrap();
            delta.iter().map(|d| d.abs()).fold(0.0, f64::max)
        };
        for max_dist in [0.02, 0.3, 1.0] {
            let (few, many) = (delta(10, max_dist), delta(400, max_dist));
            assert!(many < 0.3 * few, "{max_dist}: {few} {many}");
        }
        let x = image(1, 3);
        let same = GuidedIg::new().baseline(Baseline::Values {
            values: x.clone().try_into_vec_as::<f32>().unwrap(),
        });
        let map = same.explain(&net, x, 0).unwrap();
        assert!(map.to_vec().unwrap().iter().all(|v| *v == 0.0));
    }

    #[test]
    fn the_quantile_is_numpys_lower_one() {
        let values = [5.0, 1.0, f64::INFINITY, 3.0, 2.0];
        for (fraction, want) in [
            (0.0, 1.0),
            (0.25, 2.0),
            (0.49, 2.0),
            (0.5, 3.0),
            (1.0, f64::INFINITY),
        ] {
            assert_eq!(lower_quantile(&values, fraction), want);
        }
    }

    #[test]
    fn does_not_depend_on_the_batch_split() {
        // Rounding of one batch size or another moves no value across the threshold here.
        assert_splits_agree(&GuidedIg::new().steps(6).max_dist(0.2), 1e-4);
    }

    #[test]
    fn wrong_options_are_named() {
        let net = Net::relu(&Device::flex());
        let text = |method: GuidedIg| {
            let error = method.explain(&net, image(1, 1), 0).unwrap_err();
            error.to_string()
        };
        assert!(text(GuidedIg::new().steps(0)).starts_with("steps = 0"));
        assert!(text(GuidedIg::new().fraction(1.5)).starts_with("fraction = 1.5"));
        assert!(text(GuidedIg::new().max_dist(f64::NAN)).starts_with("max_dist = NaN"));
    }
}
