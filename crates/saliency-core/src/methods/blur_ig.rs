use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

use crate::{
    attribution::{Evidence, Outcome},
    blur::{Border, blur, blur_and_change},
    error::Error,
    host::widened,
    method::Method,
    methods::gradient::{check_inference, input_gradient, plain_scores},
    model::Model,
    recipe::{Recipe, Registered},
    run::{Run, Stage, join},
    sampling::{over_points, row_sums, sweep},
    target::Goal,
};

/// Gradients integrated along the path that blurs the input more and more.
///
/// With L(s) the input blurred by a Gaussian of standard deviation s positions,
/// BlurIG(x) = - integral over s from 0 to `max_sigma` of d L / d s * d f / d x at L(s) (elementwise).
/// It needs positions: `[N, C, ...]`. Xu, Venugopalan and Sundararajan, "Attribution in Scale
/// and Space" (2020), <https://arxiv.org/abs/2004.03383>.
///
/// There is no baseline to choose: the path goes to the input blurred by `max_sigma`, with
/// zeros beyond its borders. The values add up to f(x) - f(L(max_sigma)) up to the error of
/// the left Riemann sum; `evidence.delta` is their sum minus that. The defaults and the
/// discretisation are those of PAIR's `saliency`: d L / d s is the difference to a blur by
/// `grad_step` more. `sqrt_spacing` takes more steps at large sigma: s_i = sqrt(i max_sigma / steps),
/// which then ends at sqrt(max_sigma).
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use saliency_core::{BlurIg, Method, Target};
///
/// // The score is the middle pixel; blurring moves its value to the others.
/// let middle = |x: Tensor<4>| x.narrow(2, 3, 1).narrow(3, 3, 1).reshape([-1, 1]);
/// let mut x = Tensor::<4>::zeros([1, 1, 7, 7], &Device::flex());
/// x = x.slice_assign([0..1, 0..1, 3..4, 3..4], Tensor::ones([1, 1, 1, 1], &Device::flex()));
/// let map = BlurIg::new().max_sigma(3.0).steps(300).explain(&middle, x, Target::Regression)?;
/// let values = map.to_vec()?;
/// assert!(values[24] > 0.95 && values.iter().filter(|v| **v != 0.0).count() == 1);
/// # Ok::<(), saliency_core::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BlurIg {
    /// The largest standard deviation, in positions.
    pub max_sigma: f64,
    /// Number of gradients.
    pub steps: usize,
    /// Step of the derivative with respect to sigma.
    pub grad_step: f64,
    /// Whether sigma grows as a square root.
    pub sqrt_spacing: bool,
}

impl Default for BlurIg {
    fn default() -> Self {
        BlurIg {
            max_sigma: 50.0,
            steps: 100,
            grad_step: 0.01,
            sqrt_spacing: false,
        }
    }
}

impl BlurIg {
    /// 100 steps up to a sigma of 50 positions.
    pub fn new() -> Self {
        Self::default()
    }

    /// The largest standard deviation, in positions.
    pub fn max_sigma(mut self, max_sigma: f64) -> Self {
        self.max_sigma = max_sigma;
        self
    }

    /// Number of gradients.
    pub fn steps(mut self, steps: usize) -> Self {
        self.steps = steps;
        self
    }

    /// Step of the derivative with respect to sigma.
    pub fn grad_step(mut self, grad_step: f64) -> Self {
        self.grad_step = grad_step;
        self
    }

    /// Whether sigma grows as a square root.
    pub fn sqrt_spacing(mut self, sqrt_spacing: bool) -> Self {
        self.sqrt_spacing = sqrt_spacing;
        self
    }

    fn check(&self) -> Result<(), Error> {
        let positive = |name, value: f64| match value.is_finite() && value > 0.0 {
            true => Ok(()),
            false => Err(Error::option(
                name,
                value,
                "it must be a finite number above 0",
            )),
        };
        positive("max_sigma", self.max_sigma)?;
        positive("grad_step", self.grad_step)?;
        match self.steps {
            0 => Err(Error::option("steps", 0, "at least one is needed")),
            _ => Ok(()),
        }
    }

    fn sigma(&self, step: usize) -> f64 {
        let sigma = step as f64 * self.max_sigma / self.steps as f64;
        if self.sqrt_spacing {
            sigma.sqrt()
        } else {
            sigma
        }
    }
}

impl Registered for BlurIg {}

impl<const D: usize> Method<D> for BlurIg {
    fn recipe(&self) -> Recipe {
        Recipe::BlurIg(*self)
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
        if D < 3 {
            return Err(Error::Shape {
                what: "the input of Blur IG",
                expected: "[N, T, F] or [N, C, H, W]: positions to blur over".into(),
                got: input.dims().to_vec(),
            });
        }
        check_inference(model, input, goal, run)?;
        let blocks = sweep(
            run,
            Stage::Attributing,
            (input, goal),
            (0..self.steps, self.steps),
            |block, goal, steps, run| {
                let count = steps.len();
                let path = |step| {
                    let sigma = self.sigma(step);
                    let width = self.sigma(step + 1) - sigma;
                    let wide = widened(block.clone());
                    let (x, change) = blur_and_change(wide, sigma, self.grad_step, Border::Zero);
                    let change = change.mul_scalar(-width / self.grad_step);
                    (x.cast(block.dtype()), change)
                };
                let (points, changes): (Vec<_>, Vec<_>) = steps.map(path).unzip();
                let gradient = input_gradient(model, join(points), &goal.repeat(count), run)?;
                Ok(over_points(widened(gradient) * join(changes), count))
            },
            |a, b| a + b,
        )?;
        let values = join(blocks);
        let ends = plain_scores(model, input, goal, run)?;
        let blurred = blur(input.clone(), self.sigma(self.steps), Border::Zero);
        let starts = plain_scores(model, &blurred, &goal.repeat(1), run)?;
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
        Target,
        methods::testing::{Net, assert_close, assert_splits_agree, image},
    };
    use burn::tensor::{Device, TensorData};

    /// A linear model's gradient is constant, so what is integrated is the blur alone.
    #[test]
    fn a_linear_model_gives_weights_times_what_the_blur_takes_away() {
        let weights = Tensor::<3>::from_data(
            TensorData::new(crate::noise::standard_normal(3, 0, 30), [1, 2, 15]),
            &Device::flex(),
        );
        let model = {
            let weights = weights.clone();
            move |x: Tensor<3>| {
                (x * weights.clone())
                    .sum_dim(2)
                    .sum_dim(1)
                    .squeeze_dim::<2>(2)
            }
        };
        let x = Tensor::<3>::from_data(
            TensorData::new(crate::noise::standard_normal(3, 1, 30), [1, 2, 15]),
            &Device::flex(),
        );
        // Steps as wide as that of the derivative telescope.
        let method = BlurIg::new().max_sigma(4.0).steps(400).grad_step(0.01);
        let map = method
            .explain(&model, x.clone(), Target::Regression)
            .unwrap();
        let want = weights * (x.clone() - blur(x, 4.0, Border::Zero));
        assert_close(map.values, want, 1e-5);
    }

    #[test]
    fn the_delta_shrinks_with_the_steps() {
        let net = Net::smooth(&Device::flex());
        let delta = |steps| {
            let method = BlurIg::new().max_sigma(6.0).steps(steps);
            let map = method.explain(&net, image(2, 1), vec![0, 3]).unwrap();
            let delta = map.evidence.delta.unwrap();
            delta.iter().map(|d| d.abs()).fold(0.0, f64::max)
        };
        let (few, many) = (delta(8), delta(256));
        assert!(many < 0.3 * few && many < 0.03, "{few} {many}");
    }

    #[test]
    fn does_not_depend_on_the_batch_split() {
        assert_splits_agree(&BlurIg::new().max_sigma(3.0).steps(7), 1e-6);
        let sqrt = BlurIg::new().max_sigma(3.0).steps(4).sqrt_spacing(true);
        assert_splits_agree(&sqrt, 1e-6);
    }

    #[test]
    fn wrong_options_and_tables_are_refused() {
        let net = Net::relu(&Device::flex());
        let text = |method: BlurIg| {
            let error = method.explain(&net, image(1, 1), 0).unwrap_err();
            error.to_string()
        };
        assert!(text(BlurIg::new().steps(0)).starts_with("steps = 0"));
        assert!(text(BlurIg::new().max_sigma(0.0)).starts_with("max_sigma = 0"));
        assert!(text(BlurIg::new().grad_step(f64::NAN)).starts_with("grad_step = NaN"));
        let table = Tensor::<2>::ones([1, 3], &Device::flex());
        let error = BlurIg::new()
            .explain(&|x: Tensor<2>| x, table, 0)
            .unwrap_err();
        assert!(matches!(error, Error::Shape { .. }));
    }
}
