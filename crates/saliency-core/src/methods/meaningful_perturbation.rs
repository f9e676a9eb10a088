use burn::tensor::{Tensor, TensorData};
use serde::{Deserialize, Serialize};

use crate::{
    attribution::{Evidence, Outcome},
    axes,
    baseline::Baseline,
    error::Error,
    grid::{Axis, Upsampling, blend, cells},
    host::widened,
    method::Method,
    methods::extremal_perturbation::check_mode,
    model::Model,
    recipe::{Recipe, Registered},
    run::{Run, Stage, guarded, join},
    target::Goal,
};

/// Meaningful perturbation: the least of the input that has to be blurred to take the score
/// away.
///
/// min over m of l1 * sum |1 - m| + tv * sum |grad m|^beta + f(x * m + b * (1 - m)), for a
/// coarse mask m in `[0, 1]` of `grid` cells along each axis, brought to the input linearly;
/// b is the baseline. Fong and Vedaldi, "Interpretable Explanations of Black Boxes by
/// Meaningful Perturbation" (2017), <https://arxiv.org/abs/1704.03296>.
///
/// The values are 1 - m, high where the input had to go, `[N, 1, ...]` for an input
/// `[N, C, ...]`. The columns of a table `[N, F]` have a cell each and no tv term. Adam from
/// m = 1; there is nothing random in it: the paper's jitter of the input is left out.
///
/// The weights are the paper's, which are meant for probabilities: explain
/// [`Probabilities`](crate::Probabilities), or make them larger for logits. The baseline is
/// the input blurred by a sigma of 10 positions, which suits pictures of 224.
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use saliency_core::{Baseline, MeaningfulPerturbation, Method, Target};
/// // A sigmoid of one column of three.
/// let model = |x: Tensor<2>| {
///     burn::tensor::activation::sigmoid(x.narrow(1, 1, 1).mul_scalar(4.0))
/// };
/// let x = Tensor::<2>::ones([1, 3], &Device::flex());
/// let method = MeaningfulPerturbation::new().baseline(Baseline::Constant(-1.0)).l1(0.01);
/// let map = method.explain(&model, x, Target::Regression)?.to_vec()?;
/// assert!(map[1] > 0.5 && map[0] < 0.01 && map[2] < 0.01, "{map:?}");
/// # Ok::<(), saliency_core::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MeaningfulPerturbation {
    /// Cells along each axis.
    pub grid: usize,
    /// Steps of Adam.
    pub steps: usize,
    /// Size of a step.
    pub rate: f64,
    /// Weight of what is taken away.
    pub l1: f64,
    /// Weight of the mask's total variation.
    pub tv: f64,
    /// Power of the differences in the total variation.
    pub beta: f64,
    /// What takes the place of what is masked.
    pub baseline: Baseline,
}

impl Default for MeaningfulPerturbation {
    fn default() -> Self {
        MeaningfulPerturbation {
            grid: 28,
            steps: 300,
            rate: 0.1,
            l1: 1e-4,
            tv: 1e-2,
            beta: 3.0,
            baseline: Baseline::Blur { sigma: 10.0 },
        }
    }
}

impl MeaningfulPerturbation {
    /// The paper's defaults.
    pub fn new() -> Self {
        Self::default()
    }

    /// Cells along each axis.
    pub fn grid(mut self, grid: usize) -> Self {
        self.grid = grid;
        self
    }

    /// Steps of Adam.
    pub fn steps(mut self, steps: usize) -> Self {
        self.steps = steps;
        self
    }

    /// Weight of what is taken away.
    pub fn l1(mut self, l1: f64) -> Self {
        self.l1 = l1;
        self
    }

    /// Weight of the mask's total variation.
    pub fn tv(mut self, tv: f64) -> Self {
        self.tv = tv;
        self
    }

    /// What takes the place of what is masked.
    pub fn baseline(mut self, baseline: Baseline) -> Self {
        self.baseline = baseline;
        self
    }

    /// The masks of one batch of rows, at the positions.
    fn masks<const D: usize>(
        &self,
        model: &dyn Model<D>,
        x: &Tensor<D>,
        goal: &Goal,
        run: &Run,
        report: &dyn Fn(usize) -> Result<(), Error>,
    ) -> Result<Tensor<D>, Error> {
        let axes = cells(x, self.grid, Upsampling::Linear);
        let fill = widened(self.baseline.of(x)?);
        let wide = widened(x.clone());
        let place = (&wide.device(), wide.dtype());
        let spread: Vec<Tensor<2>> = axes.iter().map(|axis| matrix(axis, place)).collect();
        let shape: [usize; D] = std::array::from_fn(|d| match d {
            0 => x.dims()[0],
            d if axes::channels(D) == Some(d) => 1,
            _ => spread[d - axes::positions(D).start].dims()[0],
        });
        let up = |mask: Tensor<D>| {
            spread.iter().enumerate().fold(mask, |mask, (i, matrix)| {
                along(mask, axes::positions(D).start + i, matrix)
            })
        };
        let goal = goal.repeat(1);
        let mut adam = Adam::new(self.rate);
        let mut mask = Tensor::<D>::ones(shape, place);
        for step in 0..self.steps {
            let leaf = mask.clone().autodiff().require_grad();
            let seen = blend(wide.clone(), fill.clone(), up(leaf.clone()));
            let scores = goal.scores(run.call(model, seen.cast(x.dtype()))?)?;
            if !scores.is_tracked() {
                return Err(Error::NotDifferentiable);
            }
            let gone = (leaf.clone().neg() + 1.0).sum() * self.l1;
            let loss = axes::neighbours(D).fold(scores.cast(place.1).sum() + gone, |loss, axis| {
                loss + self.variation(leaf.clone(), axis) * self.tv
            });
            let mut gradients = guarded(&x.dims(), || loss.backward())?;
            let gradient = leaf
                .grad_remove(&mut gradients)
                .ok_or(Error::NotDifferentiable)?;
            mask = (mask - adam.step(gradient)).clamp(0.0, 1.0);
            report(step + 1)?;
        }
        Ok(up(mask))
    }

    /// The sum of |differences|^beta along one axis.
    fn variation<const D: usize>(&self, mask: Tensor<D>, axis: usize) -> Tensor<1> {
        let len = mask.dims()[axis];
        if len < 2 {
            return Tensor::zeros([1], (&mask.device().inner(), mask.dtype()));
        }
        let next = mask.clone().narrow(axis, 1, len - 1);
        (next - mask.narrow(axis, 0, len - 1))
            .abs()
            .powf_scalar(self.beta)
            .sum()
    }
}

/// An axis as a matrix `[cells, positions]`.
fn matrix(axis: &Axis, place: (&burn::tensor::Device, burn::tensor::DType)) -> Tensor<2> {
    let data = TensorData::new(axis.matrix(), [axis.cells(), axis.len()]);
    Tensor::from_data(data.convert_dtype(place.1), place)
}

/// `x` times `matrix` along one axis.
fn along<const D: usize>(x: Tensor<D>, axis: usize, matrix: &Tensor<2>) -> Tensor<D> {
    let [from, to] = matrix.dims();
    let x = x.swap_dims(axis, D - 1);
    let mut shape = x.dims();
    let rows = shape[..D - 1].iter().product::<usize>();
    shape[D - 1] = to;
    let spread = x.reshape([rows, from]).matmul(matrix.clone());
    spread.reshape(shape).swap_dims(axis, D - 1)
}

/// Kingma and Ba's Adam, with its usual constants.
struct Adam<const D: usize> {
    rate: f64,
    steps: i32,
    moments: Option<(Tensor<D>, Tensor<D>)>,
}

impl<const D: usize> Adam<D> {
    fn new(rate: f64) -> Self {
        Adam {
            rate,
            steps: 0,
            moments: None,
        }
    }

    fn step(&mut self, gradient: Tensor<D>) -> Tensor<D> {
        let (first, second) = (0.9f64, 0.999f64);
        let (part, square) = (
            gradient.clone() * (1.0 - first),
            gradient.square() * (1.0 - second),
        );
        let (mean, scale) = match self.moments.take() {
            Some((mean, scale)) => (mean * first + part, scale * second + square),
            None => (part, square),
        };
        self.moments = Some((mean.clone(), scale.clone()));
        self.steps += 1;
        let mean = mean / (1.0 - first.powi(self.steps));
        let scale = scale / (1.0 - second.powi(self.steps));
        mean / (scale.sqrt() + 1e-8) * self.rate
    }
}

impl Registered for MeaningfulPerturbation {
    fn is_non_negative(&self) -> bool {
        true
    }
}

impl<const D: usize> Method<D> for MeaningfulPerturbation {
    fn recipe(&self) -> Recipe {
        Recipe::MeaningfulPerturbation(self.clone())
    }

    fn validate(&self) -> Result<(), Error> {
        let refuse =
            |option, value: f64, requirement| Err(Error::option(option, value, requirement));
        if self.grid == 0 {
            return refuse("grid", 0.0, "at least one cell is needed");
        }
        if self.steps == 0 {
            return refuse("steps", 0.0, "at least one is needed");
        }
        if !(self.rate.is_finite() && self.rate > 0.0) {
            return refuse("rate", self.rate, "it must be a finite number above 0");
        }
        if !(self.beta.is_finite() && self.beta >= 1.0) {
            return refuse(
                "beta",
                self.beta,
                "it must be a finite number of at least 1",
            );
        }
        let weights = [("l1", self.l1), ("tv", self.tv)];
        match weights.iter().find(|(_, v)| !(v.is_finite() && *v >= 0.0)) {
            Some(&(option, value)) => {
                refuse(option, value, "it must be a finite number of at least 0")
            }
            None => Ok(()),
        }
    }

    fn attribute(
        &self,
        model: &dyn Model<D>,
        input: &Tensor<D>,
        goal: &Goal,
        run: &Run,
    ) -> Result<Outcome<D>, Error> {
        Method::<D>::validate(self)?;
        check_mode(model, input, goal, run)?;
        let total = input.dims()[0];
        let mut parts = Vec::new();
        let quiet = run.without_progress();
        quiet.batches(Stage::Attributing, total, run.rows(input), |range| {
            let x = input.clone().narrow(0, range.start, range.len());
            let goal = goal.slice(range.start, range.end);
            let report = |step| {
                let done = range.start * self.steps + step * range.len();
                run.report(Stage::Attributing, done, total * self.steps)
            };
            parts.push(self.masks(model, &x, &goal, run, &report)?.neg() + 1.0);
            Ok(())
        })?;
        Ok(Outcome {
            values: join(parts),
            evidence: Evidence {
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
        Target,
        methods::testing::{Net, assert_close, assert_splits_agree, image},
    };
    use burn::tensor::{Device, activation::sigmoid};

    #[test]
    fn the_mask_takes_away_what_the_score_needs() {
        // The score is high where a 4x4 square of ones is.
        let model = |x: Tensor<4>| {
            let rows = x.dims()[0];
            let part = x.slice([0..rows, 0..1, 8..12, 4..8]);
            sigmoid(part.flatten::<2>(1, 3).mean_dim(1) * 6.0 - 2.0)
        };
        let x = Tensor::<4>::ones([2, 1, 16, 16], &Device::flex());
        let method = MeaningfulPerturbation {
            beta: 2.0,
            ..MeaningfulPerturbation::new()
                .grid(16)
                .l1(1e-3)
                .tv(1e-3)
                .baseline(Baseline::Zero)
        };
        let found = method
            .explain(&model, x.clone(), Target::Regression)
            .unwrap();
        assert_eq!(found.values.dims(), [2, 1, 16, 16]);
        let gone = found.to_vec().unwrap();
        for (i, value) in gone.iter().enumerate() {
            let (row, column) = (i / 16 % 16, i % 16);
            if (8..12).contains(&row) && (4..8).contains(&column) {
                assert!(*value > 0.5, "{row} {column}: {value}");
            } else if !((7..13).contains(&row) && (3..9).contains(&column)) {
                assert!(*value < 0.1, "{row} {column}: {value}");
            }
        }
        let kept = found.values.neg() + 1.0;
        let score = model(x * kept).try_into_vec_as::<f32>().unwrap();
        assert!(score.iter().all(|&s| s < 0.2), "{score:?}");
        assert_eq!(found.evaluations.gradient, 1 + 2 * 300);
    }

    /// One step of Adam is a step of its rate against the sign of the gradient.
    #[test]
    fn the_first_step_follows_the_sign_of_the_gradient() {
        let model = |x: Tensor<2>| {
            let weights = Tensor::<2>::from_floats([[1.0, -1.0, 0.0]], &x.device().inner());
            (x * weights).sum_dim(1)
        };
        let x = Tensor::<2>::ones([1, 3], &Device::flex());
        let method = MeaningfulPerturbation::new()
            .baseline(Baseline::Zero)
            .steps(1);
        let map = method.explain(&model, x, 0).unwrap().to_vec().unwrap();
        // Down for the first; up, so clamped, for the second; up by l1 alone for the third.
        assert!(
            (map[0] - 0.1).abs() < 1e-6 && map[1] == 0.0 && map[2] == 0.0,
            "{map:?}"
        );
    }

    #[test]
    fn an_overwhelming_price_leaves_everything() {
        let net = Net::relu(&Device::flex());
        let method = MeaningfulPerturbation::new().grid(3).l1(1e3).steps(5);
        let map = method
            .explain(&net, image(1, 1), 1)
            .unwrap()
            .to_vec()
            .unwrap();
        assert!(map.iter().all(|&v| v == 0.0));
    }

    #[test]
    fn does_not_depend_on_the_batch_split_or_on_neighbours() {
        let method = MeaningfulPerturbation::new().grid(4).steps(6);
        assert_splits_agree(&method, 1e-3);
        let net = Net::relu(&Device::flex());
        let all = method.explain(&net, image(3, 8), 1).unwrap().values;
        let last = method
            .explain(&net, image(3, 8).narrow(0, 2, 1), 1)
            .unwrap()
            .values;
        assert_close(all.narrow(0, 2, 1), last, 1e-3);
    }

    #[test]
    fn wrong_options_are_named() {
        let net = Net::relu(&Device::flex());
        let new = MeaningfulPerturbation::new;
        let text = |method: MeaningfulPerturbation| {
            method
                .explain(&net, image(1, 1), 0)
                .unwrap_err()
                .to_string()
        };
        assert!(text(new().grid(0)).starts_with("grid = 0"));
        assert!(text(new().steps(0)).starts_with("steps = 0"));
        assert!(text(new().l1(-1.0)).starts_with("l1 = -1"));
        assert!(text(new().tv(f64::NAN)).starts_with("tv = NaN"));
        assert!(text(MeaningfulPerturbation { beta: 0.5, ..new() }).starts_with("beta = 0.5"));
        let training = Net::training(&Device::flex());
        let error = new().explain(&training, image(2, 1), 0).unwrap_err();
        assert!(matches!(error, Error::TrainingMode { .. }), "{error}");
    }
}
