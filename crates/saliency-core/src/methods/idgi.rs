use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

use crate::{
    attribution::{Evidence, Outcome},
    baseline::Baseline,
    blur::{Border, blur},
    error::Error,
    host::widened,
    method::Method,
    methods::{
        GuidedIg,
        gradient::{check_inference, plain_scores, score_and_gradient},
    },
    model::Model,
    recipe::{Recipe, Registered},
    run::{Run, Stage, join},
    sampling::{per_point, row_sums, sweep},
    target::Goal,
};

/// The path in [`Idgi`]: that of the method whose gradients it takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum IdgiPath {
    /// The straight line from the baseline, as Integrated Gradients.
    #[default]
    Straight,
    /// From the input blurred by so many positions to the input, as [`BlurIg`](crate::BlurIg);
    /// the baseline does not matter.
    Blurred {
        /// The largest standard deviation.
        max_sigma: f64,
    },
    /// From the baseline along values of small gradients, as [`GuidedIg`](crate::GuidedIg).
    Guided {
        /// Share of the values that move in one step.
        fraction: f64,
        /// How far a value may be from the straight line.
        max_dist: f64,
    },
}

/// Important Direction Gradient Integration: each step's change of the score, shared out by
/// the squares of the gradient.
///
/// On a path from x_0 to the input x = x_n, the straight line from the baseline unless another
/// [`path`](Idgi::path) is chosen, with g_j the gradient
/// at x_j, IDGI(x) = sum over j < n of (f(x_j+1) - f(x_j)) g_j^2 / <g_j, g_j>. Inputs of any
/// rank. Yang, Wang and Bilgic, "IDGI: A Framework to Eliminate Explanation Noise from
/// Integrated Gradients" (2023), <https://arxiv.org/abs/2303.14242>.
///
/// Its values add up to f(x) - f(x_0) whatever the number of steps, except for steps where the
/// gradient is zero, which are left out; `evidence.delta` is what is missing. All values of
/// one step have the sign of its change of the score. The authors explain softmax
/// probabilities; wrap the model in [`Probabilities`](crate::Probabilities) for that.
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use saliency_core::{Idgi, Method, Target};
///
/// // Gradient (3, 1): nine tenths and one tenth of f(x) - f(0) = 5.
/// let linear = |x: Tensor<2>| {
///     x.clone().narrow(1, 0, 1).mul_scalar(3.0) + x.narrow(1, 1, 1)
/// };
/// let x = Tensor::<2>::from_floats([[1.0, 2.0]], &Device::flex());
/// let map = Idgi::new().explain(&linear, x, Target::Regression)?;
/// for (value, wanted) in map.to_vec()?.iter().zip([4.5, 0.5]) {
///     assert!((value - wanted).abs() < 1e-5);
/// }
/// # Ok::<(), saliency_core::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Idgi {
    /// Where the path starts.
    pub baseline: Baseline,
    /// Number of gradients.
    pub steps: usize,
    /// Which way the path goes.
    pub path: IdgiPath,
}

impl Default for Idgi {
    fn default() -> Self {
        Idgi {
            baseline: Baseline::Zero,
            steps: 50,
            path: IdgiPath::Straight,
        }
    }
}

impl Idgi {
    /// 50 steps from zero.
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

    /// Which way the path goes.
    pub fn path(mut self, path: IdgiPath) -> Self {
        self.path = path;
        self
    }

    fn check(&self) -> Result<(), Error> {
        if self.steps == 0 {
            return Err(Error::option("steps", 0, "at least one is needed"));
        }
        match self.path {
            IdgiPath::Straight => Ok(()),
            IdgiPath::Blurred { max_sigma } if max_sigma.is_finite() && max_sigma > 0.0 => Ok(()),
            IdgiPath::Blurred { max_sigma } => {
                let requirement = "max_sigma must be a finite number above 0";
                Err(Error::option("path", max_sigma, requirement))
            }
            IdgiPath::Guided { fraction, max_dist } => self.guide(fraction, max_dist).check(),
        }
    }

    fn guide(&self, fraction: f64, max_dist: f64) -> GuidedIg {
        GuidedIg {
            baseline: self.baseline.clone(),
            steps: self.steps,
            fraction,
            max_dist,
        }
    }

    /// The point of a path that does not depend on the gradients.
    fn point<const D: usize>(&self, input: &Tensor<D>, step: usize) -> Result<Tensor<D>, Error> {
        let part = step as f64 / self.steps as f64;
        Ok(match self.path {
            IdgiPath::Blurred { max_sigma } => {
                let sigma = max_sigma * (1.0 - part);
                blur(widened(input.clone()), sigma, Border::Zero).cast(input.dtype())
            }
            _ => {
                let start = self.baseline.of(input)?;
                start.clone() + (input.clone() - start) * part
            }
        })
    }
}

/// Some consecutive steps of a block of rows. The last one waits for the score at its end.
#[derive(Clone)]
struct Piece<const D: usize> {
    first_score: Tensor<D>,
    sum: Tensor<D>,
    last_score: Tensor<D>,
    last_share: Tensor<D>,
}

impl<const D: usize> Piece<D> {
    /// One step of all rows.
    fn step(scores: Tensor<D>, shares: Tensor<D>) -> Self {
        Piece {
            sum: shares.zeros_like(),
            first_score: scores.clone(),
            last_score: scores,
            last_share: shares,
        }
    }

    fn ended(&self, score: Tensor<D>) -> Tensor<D> {
        self.sum.clone() + self.last_share.clone() * (score - self.last_score.clone())
    }

    fn merge(self, next: Self) -> Self {
        Piece {
            sum: self.ended(next.first_score.clone()) + next.sum,
            first_score: self.first_score,
            last_score: next.last_score,
            last_share: next.last_share,
        }
    }
}

/// g^2 / <g, g> of each row, zero where g is.
fn shares<const D: usize>(gradient: Tensor<D>) -> Tensor<D> {
    let shape = gradient.dims();
    let per_row = std::array::from_fn(|d| if d == 0 { shape[0] } else { 1 });
    // The largest |g| is divided out first, so that squares of small gradients do not vanish.
    let flat = gradient.reshape([shape[0], shape[1..].iter().product()]);
    let largest = flat.clone().abs().max_dim(1);
    let scale = largest.clone().mask_fill(largest.equal_elem(0.0), 1.0);
    let square = (flat / scale).square();
    let norm = square.clone().sum_dim(1);
    let norm = norm.clone().mask_fill(norm.equal_elem(0.0), 1.0);
    square.reshape(shape) / norm.reshape::<D, _>(per_row)
}

/// Scores `[rows, 1, ...]` and shares of one batch.
fn scores_and_shares<const D: usize>(
    model: &dyn Model<D>,
    x: Tensor<D>,
    goal: &Goal,
    run: &Run,
) -> Result<(Tensor<D>, Tensor<D>), Error> {
    let shape = std::array::from_fn(|d| if d == 0 { x.dims()[0] } else { 1 });
    let (scores, gradient) = score_and_gradient(model, x, goal, run)?;
    Ok((widened(scores).reshape(shape), shares(widened(gradient))))
}

/// The steps of a path that follows the gradients, block by block.
fn guided<const D: usize>(
    guide: &GuidedIg,
    model: &dyn Model<D>,
    (input, goal): (&Tensor<D>, &Goal),
    run: &Run,
) -> Result<Vec<Piece<D>>, Error> {
    let (total, quiet) = (input.dims()[0], run.without_progress());
    let mut blocks = Vec::new();
    quiet.batches(Stage::Attributing, total, run.rows(input), |range| {
        let block = input.clone().narrow(0, range.start, range.len());
        let goal = goal.slice(range.start, range.end);
        let mut piece: Option<Piece<D>> = None;
        guide.walk(&block, |x, step| {
            let shape = std::array::from_fn(|d| if d == 0 { range.len() } else { 1 });
            let (scores, gradient) = score_and_gradient(model, x, &goal.repeat(1), run)?;
            let scores = widened(scores).reshape(shape);
            let next = Piece::step(scores, shares(widened(gradient.clone())));
            piece = Some(match piece.take() {
                Some(before) => before.merge(next),
                None => next,
            });
            let done = range.start * guide.steps + range.len() * (step + 1);
            run.report(Stage::Attributing, done, total * guide.steps)?;
            Ok(gradient)
        })?;
        blocks.extend(piece);
        Ok(())
    })?;
    Ok(blocks)
}

impl Registered for Idgi {}

impl<const D: usize> Method<D> for Idgi {
    fn recipe(&self) -> Recipe {
        Recipe::Idgi(self.clone())
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
        if D < 3 && matches!(self.path, IdgiPath::Blurred { .. }) {
            return Err(Error::Shape {
                what: "the input of a blurred path",
                expected: "[N, C, ...]: positions to blur over".into(),
                got: input.dims().to_vec(),
            });
        }
        let blocks = match self.path {
            IdgiPath::Guided { fraction, max_dist } => {
                let guide = self.guide(fraction, max_dist);
                guided(&guide, model, (input, goal), run)?
            }
            _ => sweep(
                run,
                Stage::Attributing,
                (input, goal),
                (0..self.steps, self.steps),
                |block, goal, steps, run| {
                    let (rows, count) = (block.dims()[0], steps.len());
                    let points = steps.map(|step| self.point(block, step));
                    let x = join(points.collect::<Result<Vec<_>, _>>()?);
                    let (scores, shares) = scores_and_shares(model, x, &goal.repeat(count), run)?;
                    let narrow = |t: &Tensor<D>, step| t.clone().narrow(0, step * rows, rows);
                    let pieces = (0..count)
                        .map(|step| Piece::step(narrow(&scores, step), narrow(&shares, step)))
                        .reduce(Piece::merge);
                    Ok(pieces.expect("there is at least one step"))
                },
                Piece::merge,
            )?,
        };
        let ends = plain_scores(model, input, goal, run)?;
        let mut first = 0;
        let mut parts = Vec::new();
        for piece in blocks {
            let rows = piece.sum.dims()[0];
            let score = per_point(&ends[first..first + rows], 1, &piece.sum);
            parts.push(piece.ended(score));
            first += rows;
        }
        let values = join(parts);
        let starts = plain_scores(model, &self.point(input, 0)?, &goal.repeat(1), run)?;
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
        Gradient, Target,
        methods::testing::{Net, assert_close, assert_splits_agree, image},
    };
    use burn::tensor::Device;

    /// The sum of the definition, step by step.
    #[test]
    fn is_its_definition() {
        let net = Net::relu(&Device::flex());
        let x = image(1, 3);
        let steps = 5;
        let score = |j: usize| {
            let at = x.clone().mul_scalar(j as f64 / steps as f64);
            net.forward(at).try_into_vec_as::<f64>().unwrap()[2]
        };
        let want = (0..steps)
            .map(|j| {
                let at = x.clone().mul_scalar(j as f64 / steps as f64);
                let square = Gradient.explain(&net, at, 2).unwrap().values.square();
                let norm = square.clone().sum().into_scalar::<f32>();
                square.mul_scalar((score(j + 1) - score(j)) / f64::from(norm))
            })
            .reduce(|a, b| a + b)
            .unwrap();
        let map = Idgi::new().steps(steps).explain(&net, x, 2).unwrap();
        assert_close(map.values, want, 1e-5);
    }

    #[test]
    fn is_complete_with_few_steps() {
        let net = Net::relu(&Device::flex());
        let method = Idgi::new().baseline(Baseline::Mean).steps(3);
        let map = method.explain(&net, image(3, 1), vec![0, 1, 2]).unwrap();
        assert!(map.evidence.delta.unwrap().iter().all(|d| d.abs() < 1e-5));
    }

    #[test]
    fn a_flat_start_is_left_out_and_shows_in_the_delta() {
        // The gradient is zero at the baseline.
        let squares = |x: Tensor<2>| x.powi_scalar(2).sum_dim(1);
        let x = Tensor::<2>::from_floats([[2.0, 0.0]], &Device::flex());
        let map = Idgi::new()
            .steps(2)
            .explain(&squares, x, Target::Regression)
            .unwrap();
        assert_eq!(map.to_vec().unwrap(), [3.0, 0.0]);
        assert_eq!(map.evidence.delta, Some(vec![-1.0]));
    }

    #[test]
    fn small_gradients_do_not_underflow() {
        let gentle = |x: Tensor<2>| x.mul_scalar(1e-25).sum_dim(1);
        let x = Tensor::<2>::from_floats([[1.0, 1.0]], &Device::flex());
        let map = Idgi::new().explain(&gentle, x, Target::Regression).unwrap();
        for value in map.to_vec().unwrap() {
            assert!((value / 1e-25 - 1.0).abs() < 1e-3, "{value:e}");
        }
    }

    /// The sum of the definition over the points of Blur IG, from the most blurred on.
    #[test]
    fn a_blurred_path_is_its_definition() {
        let net = Net::relu(&Device::flex());
        let x = image(1, 3);
        let point = |j: usize| blur(x.clone(), 2.0 * (1.0 - j as f64 / 4.0), Border::Zero);
        let score = |j: usize| {
            let outputs = net.forward(point(j)).try_into_vec_as::<f64>();
            outputs.unwrap()[2]
        };
        let want = (0..4)
            .map(|j| {
                let square = Gradient.explain(&net, point(j), 2).unwrap().values.square();
                let norm = square.clone().sum().into_scalar::<f32>();
                square.mul_scalar((score(j + 1) - score(j)) / f64::from(norm))
            })
            .reduce(|a, b| a + b)
            .unwrap();
        let path = IdgiPath::Blurred { max_sigma: 2.0 };
        let map = Idgi::new().steps(4).path(path).explain(&net, x.clone(), 2);
        let map = map.unwrap();
        assert_close(map.values, want, 1e-5);
        assert!(map.evidence.delta.unwrap()[0].abs() < 1e-5);
    }

    /// Where no value may leave the straight line, the guided path is that line; elsewhere it is
    /// another one between the same ends.
    #[test]
    fn a_guided_path_has_the_same_ends() {
        let net = Net::relu(&Device::flex());
        let of = |path| {
            let method = Idgi::new().steps(6).path(path);
            method.explain(&net, image(2, 3), vec![1, 2]).unwrap()
        };
        let guided = |max_dist| IdgiPath::Guided {
            fraction: 0.25,
            max_dist,
        };
        let straight = of(IdgiPath::Straight).values;
        assert_close(of(guided(0.0)).values, straight.clone(), 1e-4);
        let free = of(guided(1.0));
        let error = crate::host::relative_l2(&free.values, &straight).unwrap();
        assert!(error > 0.05, "{error}");
        for delta in free.evidence.delta.unwrap() {
            assert!(delta.abs() < 1e-5, "{delta}");
        }
    }

    #[test]
    fn does_not_depend_on_the_batch_split() {
        assert_splits_agree(&Idgi::new().steps(7), 1e-5);
        let guided = IdgiPath::Guided {
            fraction: 0.25,
            max_dist: 0.5,
        };
        for path in [IdgiPath::Blurred { max_sigma: 3.0 }, guided] {
            assert_splits_agree(&Idgi::new().steps(4).path(path), 1e-4);
        }
    }

    #[test]
    fn wrong_options_are_named() {
        let net = Net::relu(&Device::flex());
        let error = Idgi::new()
            .steps(0)
            .explain(&net, image(1, 1), 0)
            .unwrap_err();
        assert!(error.to_string().starts_with("steps = 0"));
    }
}
