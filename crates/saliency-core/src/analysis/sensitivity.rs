use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

use crate::{
    attribution::Attribution,
    error::Error,
    host::{self, widened},
    map::pearson,
    method::Method,
    model::Model,
    noise::{NoiseScale, noisy},
    reduce::{Reduction, reduce},
    run::Run,
    target::{ResolvedTarget, Target},
};

/// The sensitivity test: how much a map changes when a little noise is added to the input.
///
/// The map at x is compared with the map at x + noise, noise ~ N(0, 0.01^2) by default in
/// the model's input units, for the target decided at x.
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use saliency_core::{Gradient, Run, Target, analysis::Sensitivity};
/// let linear = |x: Tensor<4>| x.flatten::<2>(1, 3);
/// let x = Tensor::<4>::ones([1, 1, 2, 2], &Device::flex());
/// let found = Sensitivity::new().run(&Gradient, &linear, x, &Target::Class(2), &Run::new())?;
/// // A linear model has the same gradient everywhere.
/// assert_eq!((found.rows[0].max_difference, found.rows[0].correlation), (0.0, 1.0));
/// # Ok::<(), saliency_core::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Sensitivity {
    /// Size of the noise.
    pub noise: NoiseScale,
    /// Seed of the noise.
    pub seed: u64,
    /// Reduction over the channels of images `[N, C, H, W]` before comparing; none, and any
    /// other rank, compares raw values.
    pub reduction: Option<Reduction>,
}

impl Default for Sensitivity {
    fn default() -> Self {
        Sensitivity {
            noise: NoiseScale::Absolute(0.01),
            seed: 0,
            reduction: Some(Reduction::Max),
        }
    }
}

/// The sample whose noise perturbs the input: none that a SmoothGrad of the same seed reaches.
const OWN_SAMPLE: usize = 1 << 30;

/// The outcome of the sensitivity test.
#[derive(Clone, Debug)]
pub struct SensitivityOutcome<const D: usize> {
    /// The attribution at the clean input.
    pub clean: Attribution<D>,
    /// How it changed, for each row.
    pub rows: Vec<Stability>,
}

/// How two maps differ.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Stability {
    /// Mean absolute difference.
    pub mean_difference: f64,
    /// Largest absolute difference.
    pub max_difference: f64,
    /// Pearson's correlation.
    pub correlation: f64,
}

impl Stability {
    /// Compares two equally long maps.
    ///
    /// ```
    /// use saliency_core::analysis::Stability;
    /// let s = Stability::between(&[1.0, 2.0, 3.0], &[1.0, 2.5, 4.0]);
    /// assert_eq!((s.mean_difference, s.max_difference, s.correlation), (0.5, 1.0, 1.0));
    /// ```
    ///
    /// # Panics
    /// When the lengths differ or are zero.
    pub fn between(a: &[f32], b: &[f32]) -> Self {
        assert!(!a.is_empty(), "empty maps cannot be compared");
        let differences = a.iter().zip(b).map(|(a, b)| (*a as f64 - *b as f64).abs());
        Stability {
            mean_difference: differences.clone().sum::<f64>() / a.len() as f64,
            max_difference: differences.fold(0.0, f64::max),
            correlation: pearson(a, b),
        }
    }
}

impl Sensitivity {
    /// The defaults: sigma 0.01, maps reduced by `max`.
    pub fn new() -> Self {
        Self::default()
    }

    /// Runs the test.
    ///
    /// # Errors
    /// Whatever the method returns.
    pub fn run<const D: usize>(
        &self,
        method: &impl Method<D>,
        model: &dyn Model<D>,
        input: Tensor<D>,
        target: &Target,
        run: &Run,
    ) -> Result<SensitivityOutcome<D>, Error> {
        self.noise.validate()?;
        let clean = method.explain_with(model, input.clone(), target, run)?;
        let target = same_target(&clean.targets, target);
        let moved = noisy(
            &input.inner(),
            self.noise,
            self.seed,
            OWN_SAMPLE..OWN_SAMPLE + 1,
        );
        let moved = method.explain_with(model, moved, &target, run)?;
        let read = |values: Tensor<D>| {
            host::values(match self.reduction {
                Some(reduction) if D == 4 => reduce(widened(values), 1, reduction),
                _ => values,
            })
        };
        let (before, after) = (read(clean.values.clone())?, read(moved.values)?);
        let len = before.len() / clean.targets.len();
        let rows = before
            .chunks(len)
            .zip(after.chunks(len))
            .map(|(a, b)| Stability::between(a, b))
            .collect();
        Ok(SensitivityOutcome { clean, rows })
    }
}

/// The target as it was decided at the clean input.
pub(super) fn same_target(resolved: &[ResolvedTarget], target: &Target) -> Target {
    let classes: Option<Vec<usize>> = resolved.iter().map(ResolvedTarget::class).collect();
    classes.map_or_else(|| target.clone(), Target::PerRow)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Gradient,
        methods::testing::{Net, image},
    };
    use burn::tensor::Device;

    #[test]
    fn more_noise_changes_the_map_more() {
        let net = Net::smooth(&Device::flex());
        let at = |sigma| {
            let test = Sensitivity {
                noise: NoiseScale::Absolute(sigma),
                ..Sensitivity::new()
            };
            let rows = test.run(
                &Gradient,
                &net,
                image(2, 2),
                &Target::Predicted,
                &Run::new(),
            );
            rows.unwrap().rows[1]
        };
        let (none, small, large) = (at(0.0), at(0.01), at(0.5));
        assert_eq!((none.max_difference, none.correlation), (0.0, 1.0));
        assert!(0.0 < small.mean_difference && small.mean_difference < large.mean_difference);
        assert!(large.correlation < small.correlation && small.correlation < 1.0);
        assert!(small.mean_difference <= small.max_difference);
    }

    /// d(x^3)/dx = 3x^2, so the differences are known from the noise.
    #[test]
    fn agrees_with_a_closed_form() {
        let cubes = |x: Tensor<2>| x.powi_scalar(3).sum_dim(1);
        let x = Tensor::<2>::from_floats([[1.0, 2.0, -1.5]], &Device::flex());
        let got = Sensitivity::new()
            .run(&Gradient, &cubes, x, &Target::Regression, &Run::new())
            .unwrap()
            .rows[0];
        let noise = crate::noise::standard_normal(0, OWN_SAMPLE, 3);
        let differences: Vec<f64> = [1.0, 2.0, -1.5]
            .iter()
            .zip(noise)
            .map(|(x, e)| (3.0 * (x + 0.01 * e as f64).powi(2) - 3.0 * x * x).abs())
            .collect();
        let mean = differences.iter().sum::<f64>() / 3.0;
        assert!((got.mean_difference - mean).abs() < 1e-5);
        let max = differences.iter().copied().fold(0.0, f64::max);
        assert!((got.max_difference - max).abs() < 1e-5);
    }
}
