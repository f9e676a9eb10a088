use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

use crate::{
    attribution::Outcome,
    error::Error,
    host::widened,
    method::Method,
    methods::Gradient,
    model::Model,
    noise::{NoiseDesign, NoiseScale, noisy_by},
    recipe::{Recipe, Registered},
    run::{Run, Stage},
    sampling::{Budget, Estimate, Grouped, sweep},
    target::Goal,
};

/// What is made of the samples' attributions G_1, ..., G_n.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Form {
    /// mean |G|: the default, how strongly a value matters whatever its direction.
    #[default]
    MeanAbsolute,
    /// mean G, signed: SmoothGrad as its paper and Captum's `smoothgrad` have it.
    Mean,
    /// mean G^2: SmoothGrad-squared (Hooker et al. 2019), Captum's `smoothgrad_sq`.
    MeanSquare,
    /// mean G^2 - (mean G)^2: VarGrad (Adebayo et al. 2018), Captum's `vargrad`.
    Variance,
}

/// Attributions averaged over noisy copies of the input.
///
/// S(x) = form over i of G(x + noise_i), noise_i ~ N(0, sigma^2), sigma = level *
/// (max x - min x) of the row; level 0.1 and 50 samples by default. Smilkov et al.,
/// "SmoothGrad: removing noise by adding noise" (2017), <https://arxiv.org/abs/1706.03825>.
///
/// The target is decided once, at the clean input. The noise is drawn on the host from the
/// seed and the sample's number alone ([`noise`](crate::noise)), so the result does not
/// depend on the batch size or the device.
///
/// The result has the standard error of each value. With a `tolerance`, `samples` is the most
/// that is taken: after 16, 32, 48, 64, 80, 100, ... the run stops when ||standard error|| /
/// ||map|| of every row is at most that, and `evidence.converged` says whether it got there.
///
/// A [`design`](NoiseDesign) other than independent samples gives means of less variance for
/// the same number of samples; a Latin hypercube is the one to try first. Its samples come in
/// groups of g that are independent of each other: only whole groups are taken (48 of 50
/// samples where g = 16; `evidence.samples` has how many), and the standard error is
/// s / sqrt(n / g), s^2 being the variance of the groups' means. The variance form, whose
/// samples must be independent, refuses the others.
///
/// Where the same name means other things elsewhere, presets have the defaults of others:
/// `smoothgrad-captum` (`NoiseTunnel` of `Saliency`: sigma = 1, 5 samples), `smoothgrad-pair`
/// (mean G^2, level 0.15, 25 samples), `smoothgrad-tf-keras-vis` (level 0.2, 20 samples) and
/// `smoothgrad-zennit` (signed mean, level 0.1, 20 samples).
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use saliency_core::{
///     Form, InputXGradient, Method, NoiseDesign, NoiseScale, SmoothGrad, Target,
/// };
///
/// // The gradient of a linear model does not feel the noise at all.
/// let linear = |x: Tensor<2>| x.mul_scalar(-3.0).sum_dim(1);
/// let x = Tensor::<2>::from_floats([[1.0, 2.0]], &Device::flex());
/// let explain = |form| {
///     let smooth = SmoothGrad::new().samples(8).form(form);
///     smooth.explain(&linear, x.clone(), Target::Regression)?.to_vec()
/// };
/// assert_eq!(explain(Form::MeanAbsolute)?, [3.0, 3.0]);
/// assert_eq!(explain(Form::Mean)?, [-3.0, -3.0]);
/// assert_eq!(explain(Form::MeanSquare)?, [9.0, 9.0]);
/// assert_eq!(explain(Form::Variance)?, [0.0, 0.0]);
///
/// // The gradient of x^3 / 3 is x^2; the mean of antithetic samples has no linear part in it.
/// let cubic = |x: Tensor<2>| x.powi_scalar(3).div_scalar(3.0).sum_dim(1);
/// let pairs = SmoothGrad::new().noise_scale(NoiseScale::Absolute(0.1)).form(Form::Mean);
/// let map = pairs.design(NoiseDesign::Antithetic).tolerance(0.01);
/// let map = map.explain(&cubic, x.clone(), Target::Regression)?;
/// assert_eq!((map.evidence.samples, map.evidence.converged), (Some(16), Some(true)));
///
/// // It wraps any method.
/// let smooth = SmoothGrad::of(InputXGradient).samples(8).noise(0.05).seed(7);
/// assert_eq!(smooth.explain(&linear, x, Target::Regression)?.values.dims(), [1, 2]);
/// # Ok::<(), saliency_core::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SmoothGrad<M = Gradient> {
    /// The method that is averaged.
    pub of: M,
    /// Number of noisy samples.
    pub samples: usize,
    /// Size of the noise.
    pub noise: NoiseScale,
    /// How the samples' noise hangs together.
    pub design: NoiseDesign,
    /// Seed of the noise.
    pub seed: u64,
    /// What is made of the samples.
    pub form: Form,
    /// Stop before all samples are taken when ||standard error|| / ||map|| of every row is at
    /// most this.
    pub tolerance: Option<f64>,
}

impl<M: Default> Default for SmoothGrad<M> {
    fn default() -> Self {
        SmoothGrad::of(M::default())
    }
}

impl SmoothGrad {
    /// SmoothGrad of the gradient.
    pub fn new() -> Self {
        Self::default()
    }
}

impl<M> SmoothGrad<M> {
    /// SmoothGrad of any method.
    pub fn of(method: M) -> Self {
        SmoothGrad {
            of: method,
            samples: 50,
            noise: NoiseScale::Relative(0.1),
            design: NoiseDesign::default(),
            seed: 0,
            form: Form::default(),
            tolerance: None,
        }
    }

    /// Number of noisy samples.
    pub fn samples(mut self, samples: usize) -> Self {
        self.samples = samples;
        self
    }

    /// Noise level relative to each row's range.
    pub fn noise(self, level: f64) -> Self {
        self.noise_scale(NoiseScale::Relative(level))
    }

    /// Size of the noise, relative or absolute.
    pub fn noise_scale(mut self, noise: NoiseScale) -> Self {
        self.noise = noise;
        self
    }

    /// How the samples' noise hangs together.
    pub fn design(mut self, design: NoiseDesign) -> Self {
        self.design = design;
        self
    }

    /// Seed of the noise.
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// What is made of the samples.
    pub fn form(mut self, form: Form) -> Self {
        self.form = form;
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
            group: self.design.group(),
            tolerance: self.tolerance,
        }
    }

    fn check(&self) -> Result<(), Error> {
        self.budget().validate()?;
        match (self.form, self.design) {
            (Form::Variance, design) if design != NoiseDesign::Independent => {
                let requirement = "the variance over samples needs them to be independent";
                Err(Error::option("design", name(design), requirement))
            }
            _ => Ok(()),
        }
    }
}

fn name(design: NoiseDesign) -> String {
    let json = serde_json::to_value(design).unwrap_or_default();
    json.as_str().unwrap_or_default().into()
}

impl<M: Registered> Registered for SmoothGrad<M> {
    fn is_non_negative(&self) -> bool {
        self.form != Form::Mean || self.of.is_non_negative()
    }
}

impl<const D: usize, M: Method<D>> Method<D> for SmoothGrad<M> {
    fn recipe(&self) -> Recipe {
        Recipe::SmoothGrad(SmoothGrad {
            of: Box::new(self.of.recipe()),
            samples: self.samples,
            noise: self.noise,
            design: self.design,
            seed: self.seed,
            form: self.form,
            tolerance: self.tolerance,
        })
    }

    fn validate(&self) -> Result<(), Error> {
        self.check()?;
        self.noise.validate()?;
        if matches!(self.of.recipe(), Recipe::SmoothGrad(_)) {
            let requirement = "a SmoothGrad of a SmoothGrad would add the same noise twice; use more noise instead";
            return Err(Error::option("of", self.of.recipe().name(), requirement));
        }
        self.of.validate()
    }

    fn attribute(
        &self,
        model: &dyn Model<D>,
        input: &Tensor<D>,
        goal: &Goal,
        run: &Run,
    ) -> Result<Outcome<D>, Error> {
        self.check()?;
        if run.checks_mode() && goal.reference().is_some() {
            let first = input.clone().narrow(0, 0, 1);
            // Noisy inputs have no plain outputs to compare with, so the mode is checked here.
            self.of
                .attribute(model, &first, &goal.slice(0, 1), &run.without_progress())?;
        }
        let estimate = match self.form {
            Form::Variance => Estimate::Variance,
            _ => Estimate::Mean,
        };
        let (budget, group) = (self.budget(), self.design.group());
        budget.sample(|samples| {
            let blocks = sweep(
                run,
                Stage::Sampling,
                (input, goal),
                (samples, budget.most()),
                |block, goal, samples, run| {
                    let count = samples.len();
                    let noisy =
                        noisy_by(self.design, block, self.noise, self.seed, samples.clone());
                    let found = self.of.attribute(model, &noisy, &goal.repeat(count), run)?;
                    let values = widened(found.values);
                    let terms = match self.form {
                        Form::MeanAbsolute => values.abs(),
                        Form::Mean | Form::Variance => values,
                        Form::MeanSquare => values.square(),
                    };
                    Ok(Grouped::of(terms, samples, group, estimate))
                },
                Grouped::merge,
            )?;
            blocks.into_iter().map(Grouped::moments).collect()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        BatchSize, Target,
        methods::{
            InputXGradient,
            testing::{Net, assert_close, assert_splits_agree, image},
        },
        noise::noisy,
        sampling::Moments,
    };
    use burn::tensor::Device;

    const FORMS: [Form; 4] = [
        Form::MeanAbsolute,
        Form::Mean,
        Form::MeanSquare,
        Form::Variance,
    ];

    /// Each form from the definition, over the very noise the method draws.
    #[test]
    fn is_the_definition_over_its_own_samples() {
        let net = Net::relu(&Device::flex());
        let x = image(2, 5);
        let samples = 7;
        let gradients: Vec<Tensor<4>> = (0..samples)
            .map(|s| {
                let moved = noisy(&x, NoiseScale::Relative(0.1), 11, s..s + 1);
                Gradient.explain(&net, moved, vec![1, 2]).unwrap().values
            })
            .collect();
        let mean = |f: &dyn Fn(Tensor<4>) -> Tensor<4>| {
            gradients
                .iter()
                .map(|g| f(g.clone()))
                .reduce(|a, b| a + b)
                .unwrap()
                .div_scalar(samples as f64)
        };
        let signed = mean(&|g| g);
        for form in FORMS {
            let want = match form {
                Form::MeanAbsolute => mean(&|g| g.abs()),
                Form::Mean => signed.clone(),
                Form::MeanSquare => mean(&|g| g.powi_scalar(2)),
                Form::Variance => mean(&|g| (g - signed.clone()).powi_scalar(2)),
            };
            let smooth = SmoothGrad::new().samples(samples).seed(11).form(form);
            let got = smooth.explain(&net, x.clone(), vec![1, 2]).unwrap();
            assert_close(got.values, want, 1e-6);
        }
    }

    #[test]
    fn does_not_depend_on_the_batch_split() {
        for form in FORMS {
            assert_splits_agree(&SmoothGrad::new().samples(9).form(form), 1e-6);
        }
        assert_splits_agree(&SmoothGrad::of(InputXGradient).samples(5), 1e-6);
    }

    const DESIGNS: [NoiseDesign; 3] = [
        NoiseDesign::Antithetic,
        NoiseDesign::LatinHypercube,
        NoiseDesign::Sobol,
    ];

    #[test]
    fn groups_of_samples_do_not_depend_on_the_batch_split() {
        for design in DESIGNS {
            let smooth = SmoothGrad::new().samples(33).design(design);
            assert_splits_agree(&smooth, 1e-6);
        }
    }

    /// Every form of every design is the definition over its own samples.
    #[test]
    fn designs_follow_the_definition() {
        let net = Net::relu(&Device::flex());
        let x = image(2, 5);
        for design in DESIGNS {
            let smooth = SmoothGrad::new().samples(32).seed(11).design(design);
            let moved = noisy_by(design, &x, NoiseScale::Relative(0.1), 11, 0..32);
            let gradients = Gradient.explain(&net, moved, 1).unwrap().values;
            let mean = |t: Tensor<4>| t.reshape([32, 432]).mean_dim(0).reshape([2, 3, 9, 8]);
            for (form, want) in [
                (Form::MeanAbsolute, mean(gradients.clone().abs())),
                (Form::Mean, mean(gradients.clone())),
                (Form::MeanSquare, mean(gradients.square())),
            ] {
                let got = smooth.form(form).explain(&net, x.clone(), 1).unwrap();
                assert_close(got.values, want, 1e-6);
                assert_eq!(got.evidence.samples, Some(32));
            }
        }
    }

    /// The gradient of a quadratic function is linear, so pairs have no error at all.
    #[test]
    fn antithetic_pairs_are_exact_for_quadratic_functions() {
        let quadratic = |x: Tensor<2>| {
            let product =
                x.clone().slice([0..x.dims()[0], 0..1]) * x.clone().slice([0..x.dims()[0], 1..2]);
            x.square().sum_dim(1) + product.mul_scalar(3.0)
        };
        let x = Tensor::<2>::from_floats([[1.0, -2.0, 0.5]], &Device::flex());
        let x = x.cast(burn::tensor::DType::F64);
        let smooth = SmoothGrad::new().samples(2).form(Form::Mean);
        let map = smooth
            .design(NoiseDesign::Antithetic)
            .explain(&quadratic, x, Target::Regression)
            .unwrap();
        // 2 x0 + 3 x1, 2 x1 + 3 x0, 2 x2.
        for (value, want) in map.to_vec().unwrap().into_iter().zip([-4.0, -1.0, 1.0]) {
            assert!((value - want).abs() < 1e-6, "{value} {want}");
        }
    }

    /// In f(x) = sum of sin x_i the mean gradient is exp(-sigma^2 / 2) cos x_i.
    #[test]
    fn designs_converge_faster_on_a_smooth_function() {
        let sines = |x: Tensor<2>| x.sin().sum_dim(1);
        let inputs = [0.3, 1.1, -0.7, 2.0];
        let x = Tensor::<2>::from_floats([inputs], &Device::flex());
        let error = |design| -> f64 {
            let smooth = SmoothGrad::new()
                .samples(64)
                .noise_scale(NoiseScale::Absolute(0.5))
                .form(Form::Mean)
                .design(design);
            (0..20)
                .map(|seed| {
                    let map = smooth
                        .seed(seed)
                        .explain(&sines, x.clone(), Target::Regression);
                    let values = map.unwrap().to_vec().unwrap();
                    let truth = inputs.map(|x: f32| f64::from(x).cos() * (-0.125f64).exp());
                    let errors = values
                        .iter()
                        .zip(truth)
                        .map(|(v, t)| (f64::from(*v) - t).powi(2));
                    errors.sum::<f64>()
                })
                .sum()
        };
        let independent = error(NoiseDesign::Independent);
        assert!(error(NoiseDesign::Antithetic) < 0.7 * independent);
        assert!(error(NoiseDesign::LatinHypercube) < 0.2 * independent);
        assert!(error(NoiseDesign::Sobol) < 0.2 * independent);
    }

    #[test]
    fn a_row_does_not_depend_on_its_neighbours() {
        let net = Net::relu(&Device::flex());
        let x = image(3, 8);
        let smooth = SmoothGrad::new().samples(6);
        let all = smooth.explain(&net, x.clone(), 1).unwrap().values;
        let last = smooth.explain(&net, x.narrow(0, 2, 1), 1).unwrap().values;
        assert_close(all.narrow(0, 2, 1), last, 1e-6);
    }

    #[test]
    fn no_noise_gives_the_method_itself() {
        let net = Net::relu(&Device::flex());
        let plain = Gradient.explain(&net, image(1, 1), 0).unwrap().values;
        let smooth = SmoothGrad::new().samples(3).noise(0.0).form(Form::Mean);
        let map = smooth.explain(&net, image(1, 1), 0).unwrap().values;
        assert_close(map, plain, 1e-6);
    }

    #[test]
    fn the_variance_of_a_linear_models_gradient_is_zero_despite_a_large_mean() {
        let steep = |x: Tensor<2>| x.mul_scalar(1e4).sum_dim(1);
        let x = Tensor::<2>::from_floats([[0.3, 0.7, 0.1]], &Device::flex());
        let smooth = SmoothGrad::new().samples(10).form(Form::Variance);
        let run = Run::new().batch_size(BatchSize::Rows(3));
        let map = smooth
            .explain_with(&steep, x, &Target::Regression, &run)
            .unwrap();
        assert!(map.to_vec().unwrap().iter().all(|v| v.abs() < 1e-4));
    }

    /// A gradient of 1e-4 squares to 1e-8, below the smallest f16.
    #[test]
    fn squares_do_not_underflow_in_half_precision() {
        let gentle = |x: Tensor<2>| x.mul_scalar(1e-4).sum_dim(1);
        let x = Tensor::<2>::from_floats([[0.3, 0.7, 0.1]], &Device::flex());
        let x = x.cast(burn::tensor::DType::F16);
        let smooth = SmoothGrad::new().samples(4).form(Form::MeanSquare);
        let map = smooth.explain(&gentle, x, Target::Regression).unwrap();
        for value in map.to_vec().unwrap() {
            assert!((value - 1e-8).abs() < 1e-10, "{value:e}");
        }
    }

    /// The standard errors are those of the definition, and predict the spread over seeds.
    #[test]
    fn standard_errors_predict_the_spread_over_seeds() {
        let net = Net::smooth(&Device::flex());
        let independent = FORMS.map(|form| (form, NoiseDesign::Independent));
        let others = DESIGNS.map(|design| (Form::MeanAbsolute, design));
        for (form, design) in independent.into_iter().chain(others) {
            let smooth = SmoothGrad::new().samples(48).noise(0.3);
            let smooth = smooth.form(form).design(design);
            let maps: Vec<_> = (0..40)
                .map(|seed| smooth.seed(seed).explain(&net, image(1, 3), 0).unwrap())
                .collect();
            let seeds = Tensor::cat(maps.iter().map(|m| m.values.clone()).collect(), 0);
            let spread = Moments::of(seeds, 40, Estimate::Mean).variance().sum();
            let errors: Tensor<1> = maps
                .iter()
                .map(|m| m.evidence.standard_error.clone().unwrap().square().sum())
                .reduce(|a, b| a + b)
                .unwrap();
            let ratio = (spread / errors.div_scalar(40.0)).into_scalar::<f32>();
            // Over seeds and values the ratio of the two variances is near one.
            assert!((0.7..1.5).contains(&ratio), "{form:?} {design:?}: {ratio}");
            assert_eq!(maps[0].evidence.samples, Some(48));
        }
    }

    #[test]
    fn a_tolerance_ends_sampling_early_whatever_the_batches_are() {
        let net = Net::smooth(&Device::flex());
        let smooth = SmoothGrad::new().samples(400).tolerance(0.05);
        let explain = |rows| {
            let run = Run::new().batch_size(BatchSize::Rows(rows));
            let map = smooth.explain_with(&net, image(2, 3), &Target::Class(1), &run);
            map.unwrap().evidence
        };
        let evidence = explain(1000);
        assert_eq!(evidence.converged, Some(true));
        assert!(evidence.samples.unwrap() < 400);
        assert_eq!(explain(3).samples, evidence.samples);
        let short = smooth.samples(10).explain(&net, image(2, 3), 1).unwrap();
        assert_eq!(short.evidence.converged, Some(false));
    }

    #[test]
    fn wrong_options_are_named() {
        let net = Net::relu(&Device::flex());
        let text = |smooth: SmoothGrad| {
            smooth
                .explain(&net, image(1, 1), 0)
                .unwrap_err()
                .to_string()
        };
        assert!(text(SmoothGrad::new().samples(0)).contains("samples = 0"));
        assert!(text(SmoothGrad::new().noise(-1.0)).contains("noise = -1"));
        assert!(text(SmoothGrad::new().noise(f64::NAN)).contains("noise = NaN"));
        let twice = SmoothGrad::of(SmoothGrad::new()).explain(&net, image(1, 1), 0);
        assert!(
            twice
                .unwrap_err()
                .to_string()
                .starts_with("of = smoothgrad")
        );
        let pairs = SmoothGrad::new().design(NoiseDesign::Antithetic);
        assert!(text(pairs.samples(1)).contains("samples = 1"));
        let variance = text(pairs.form(Form::Variance));
        assert!(variance.contains("design = antithetic"), "{variance}");
        let unknown = Recipe::named("smoothgrad")
            .unwrap()
            .with("design", "halton");
        let unknown = unknown.unwrap_err().to_string();
        assert!(
            unknown.contains("`antithetic`, `latin_hypercube`, `sobol`"),
            "{unknown}"
        );
        let unknown = r#"{"method": "smoothgrad", "sample": 20}"#;
        assert!(serde_json::from_str::<Recipe>(unknown).is_err());
    }

    #[test]
    fn the_recipe_survives_json_and_runs() {
        let net = Net::relu(&Device::flex());
        let smooth = SmoothGrad::of(InputXGradient).samples(4).seed(3);
        let smooth = smooth.design(NoiseDesign::Antithetic);
        let map = smooth.explain(&net, image(1, 1), 0).unwrap();
        let text = serde_json::to_string(&map.recipe).unwrap();
        let read: Recipe = serde_json::from_str(&text).unwrap();
        assert_eq!(read, map.recipe);
        let again = read.explain(&net, image(1, 1), 0).unwrap();
        assert_close(again.values, map.values, 0.0);
    }

    #[test]
    fn training_mode_is_an_error() {
        let net = Net::training(&Device::flex());
        let error = SmoothGrad::new().explain(&net, image(2, 1), 0).unwrap_err();
        assert!(matches!(error, Error::TrainingMode { .. }), "{error}");
    }
}
