use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

use crate::{
    attribution::{Evidence, Outcome},
    baseline::Baseline,
    error::Error,
    host::widened,
    method::Method,
    methods::gradient::{check_inference, plain_scores, score_and_gradient},
    model::Model,
    recipe::{Recipe, Registered},
    run::{Run, Stage, join},
    sampling::{copies, per_point, row_sums, sweep},
    target::Goal,
};

/// Important Direction Gradient Integration: each step's change of the score, shared out by
/// the squares of the gradient.
///
/// On the straight line from the baseline b = x_0 to the input x = x_n, with g_j the gradient
/// at x_j, IDGI(x) = sum over j < n of (f(x_j+1) - f(x_j)) g_j^2 / <g_j, g_j>. Inputs of any
/// rank. Yang, Wang and Bilgic, "IDGI: A Framework to Eliminate Explanation Noise from
/// Integrated Gradients" (2023), <https://arxiv.org/abs/2303.14242>.
///
/// Its values add up to f(x) - f(b) whatever the number of steps, except for steps where the
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
}

impl Default for Idgi {
    fn default() -> Self {
        Idgi {
            baseline: Baseline::Zero,
            steps: 50,
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

    fn check(&self) -> Result<(), Error> {
        match self.steps {
            0 => Err(Error::option("steps", 0, "at least one is needed")),
            _ => Ok(()),
        }
    }
}

/// Some consecutive steps of a block of rows. The last one waits for the score at its end.
struct Piece<const D: usize> {
    first_score: Tensor<D>,
    sum: Tensor<D>,
    last_score: Tensor<D>,
    last_share: Tensor<D>,
}

impl<const D: usize> Piece<D> {
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
        let blocks = sweep(
            run,
            Stage::Attributing,
            (input, goal),
            (0..self.steps, self.steps),
            |block, goal, steps, run| {
                let (rows, count) = (block.dims()[0], steps.len());
                let start = self.baseline.of(block)?;
                let gap = block.clone() - start.clone();
                let alphas: Vec<f64> = steps.map(|j| j as f64 / self.steps as f64).collect();
                let alpha = per_point(&alphas, rows, block);
                let x = copies(&start, count) + copies(&gap, count) * alpha;
                let (scores, gradient) = score_and_gradient(model, x, &goal.repeat(count), run)?;
                let shares = shares(widened(gradient));
                let shape = std::array::from_fn(|d| if d == 0 { rows * count } else { 1 });
                let scores = widened(scores).reshape::<D, _>(shape);
                let at = |step: usize| {
                    let narrow = |t: &Tensor<D>| t.clone().narrow(0, step * rows, rows);
                    Piece {
                        first_score: narrow(&scores),
                        sum: block.zeros_like().cast(shares.dtype()),
                        last_score: narrow(&scores),
                        last_share: narrow(&shares),
                    }
                };
                let pieces = (0..count).map(at).reduce(Piece::merge);
                Ok(pieces.expect("there is at least one step"))
            },
            Piece::merge,
        )?;
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

    #[test]
    fn does_not_depend_on_the_batch_split() {
        assert_splits_agree(&Idgi::new().steps(7), 1e-5);
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
