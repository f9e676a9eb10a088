mod mask;

use burn::tensor::{Tensor, TensorData};
use serde::{Deserialize, Serialize};

use crate::{
    attribution::{Evidence, Outcome},
    baseline::Baseline,
    blur::{Border, blur},
    error::Error,
    grid::indices,
    method::Method,
    methods::gradient::input_gradient,
    model::Model,
    recipe::{Recipe, Registered},
    run::{Run, Stage, guarded, join},
    target::{Goal, ResolvedTarget},
};
use mask::{Scene, Smoother, shortest};

/// What becomes of the input where the mask is low, by degrees.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Perturbation {
    /// Blurred, the more so the lower the mask; with zeros beyond the border.
    Blur {
        /// The most, as a fraction of the shortest side; 20 of 224 positions by default.
        sigma: f64,
    },
    /// Mixed with a baseline; with zeros, faded as in TorchRay.
    Fade {
        /// Where a mask of zero leads.
        to: Baseline,
    },
}

impl Default for Perturbation {
    fn default() -> Self {
        Perturbation::Blur {
            sigma: 20.0 / 224.0,
        }
    }
}

/// Which game the mask plays.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExtremalVariant {
    /// A high score with all but the mask perturbed.
    #[default]
    Preserve,
    /// A low score with the mask perturbed.
    Delete,
    /// Both: the difference of the two scores.
    Dual,
}

/// What the mask maximises.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExtremalReward {
    /// The score.
    #[default]
    Simple,
    /// The score minus the highest of the other classes; for targets that are a class.
    Contrastive,
}

/// Extremal perturbation: the smooth mask of a given area that keeps the score highest.
///
/// max over m of f(perturb(x; m)) - w_t * mean over u of (sort(m)_u - r_u)^2, where r is 0 for
/// the (1 - area) smallest values and 1 for the rest, and w_t grows by `growth` each step.
/// The mask m is the smooth maximum (softmax-weighted with coldness 20) of coarse parameters
/// under the kernel exp(-2 max(d / sigma - 1/2, 0)^2) of the distance d. Gradient ascent with
/// momentum, parameters from 1 and clamped to `[0, 1]`. Fong, Patrick and Vedaldi,
/// "Understanding Deep Networks via Extremal Perturbations and Smooth Masks" (2019),
/// <https://arxiv.org/abs/1910.08485>.
///
/// The values are the mask, `[N, 1, ...]` for an input `[N, C, ...]`, between 0 and 1: the mean
/// over `areas`. The columns of a table `[N, F]` have a parameter each and no smoothing; their
/// perturbation must be `Fade`. It is deterministic: there is nothing random in it.
///
/// Defaults are TorchRay's, with its cells of 7 and sigmas of 21 and 20 positions as
/// fractions of a shortest side of 224 (`extremal-perturbation`: one area of a tenth).
/// `extremal-perturbation-areas` is what its benchmark runs: six areas, contrastive, smoothed
/// (TorchRay adds the masks, here they are averaged). One difference: values of the mask that
/// are equal within 1e-6 share their places' references evenly, where TorchRay's sort picks
/// an order.
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use saliency_core::{Baseline, ExtremalPerturbation, Method, Perturbation, Target};
/// // Of four columns the last counts most.
/// let weights = Tensor::<2>::from_floats([[1.0, 2.0, 1.0, 4.0]], &Device::flex());
/// let model = |x: Tensor<2>| (x * weights.clone()).sum_dim(1);
/// let mask = ExtremalPerturbation::new()
///     .areas([0.25])
///     .perturbation(Perturbation::Fade { to: Baseline::Zero })
///     .explain(&model, Tensor::ones([1, 4], &Device::flex()), Target::Regression)?
///     .to_vec()?;
/// assert!(mask[3] > 0.9 && mask[..3].iter().all(|&m| m < 0.1), "{mask:?}");
/// # Ok::<(), saliency_core::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ExtremalPerturbation {
    /// Fractions of the input that masks keep, one mask each.
    pub areas: Vec<f64>,
    /// What becomes of the rest.
    pub perturbation: Perturbation,
    /// Degrees of the perturbation, linear between them.
    pub levels: usize,
    /// Which game the mask plays.
    pub variant: ExtremalVariant,
    /// What it maximises.
    pub reward: ExtremalReward,
    /// Steps of gradient ascent.
    pub steps: usize,
    /// Size of a step.
    pub rate: f64,
    /// How much of its direction a step keeps of the one before.
    pub momentum: f64,
    /// Weight of the area constraint at the first step.
    pub area_weight: f64,
    /// Factor of that weight from step to step.
    pub growth: f64,
    /// Distance of the mask's parameters, as a fraction of the shortest side.
    pub cell: f64,
    /// Radius of the smoothing kernel, as a fraction of the shortest side.
    pub sigma: f64,
    /// Mirror the perturbed input along its last axis at every other step.
    pub mirror: bool,
    /// Gaussian blur of the finished mask, sigma as a fraction of the shortest side.
    pub smooth: f64,
}

impl Default for ExtremalPerturbation {
    fn default() -> Self {
        ExtremalPerturbation {
            areas: vec![0.1],
            perturbation: Perturbation::default(),
            levels: 8,
            variant: ExtremalVariant::Preserve,
            reward: ExtremalReward::Simple,
            steps: 800,
            rate: 0.01,
            momentum: 0.9,
            area_weight: 300.0,
            growth: 1.0035,
            cell: 7.0 / 224.0,
            sigma: 21.0 / 224.0,
            mirror: true,
            smooth: 0.0,
        }
    }
}

impl ExtremalPerturbation {
    /// TorchRay's defaults.
    pub fn new() -> Self {
        Self::default()
    }

    /// TorchRay's benchmark: areas of 2.5, 5, 10, 20, 40 and 80 %, contrastive, smoothed.
    pub fn many_areas() -> Self {
        ExtremalPerturbation {
            reward: ExtremalReward::Contrastive,
            smooth: 0.09,
            ..Self::new().areas([0.025, 0.05, 0.1, 0.2, 0.4, 0.8])
        }
    }

    /// Fractions of the input that masks keep, one mask each.
    pub fn areas(mut self, areas: impl Into<Vec<f64>>) -> Self {
        self.areas = areas.into();
        self
    }

    /// What becomes of the rest.
    pub fn perturbation(mut self, perturbation: Perturbation) -> Self {
        self.perturbation = perturbation;
        self
    }

    /// Which game the mask plays.
    pub fn variant(mut self, variant: ExtremalVariant) -> Self {
        self.variant = variant;
        self
    }

    /// What it maximises.
    pub fn reward(mut self, reward: ExtremalReward) -> Self {
        self.reward = reward;
        self
    }

    /// Steps of gradient ascent.
    pub fn steps(mut self, steps: usize) -> Self {
        self.steps = steps;
        self
    }

    /// The masks of one batch of rows, `[areas * rows, positions]`, area by area.
    fn masks<const D: usize>(
        &self,
        model: &dyn Model<D>,
        x: &Tensor<D>,
        goal: &Goal,
        run: &Run,
        report: &dyn Fn(usize) -> Result<(), Error>,
    ) -> Result<Tensor<2>, Error> {
        let count = x.dims()[0] * self.areas.len();
        let views = if self.variant == ExtremalVariant::Dual {
            2
        } else {
            1
        };
        let goal = goal.repeat(self.areas.len() * views);
        let scene = Scene::new(self, x)?;
        let smoother = Smoother::new(self, x);
        let place = (&x.device().inner(), scene.pyramid.dtype());
        let mut parameters = Tensor::<2>::ones([count, smoother.parameters], place);
        let mut velocity: Option<Tensor<2>> = None;
        let mut weight = self.area_weight;
        let mut mask = None;
        for step in 0..self.steps {
            let leaf = parameters.clone().autodiff().require_grad();
            let full = smoother.full(leaf.clone());
            let cropped = full.clone().select(1, smoother.crop.clone());
            let kept = || scene.apply(cropped.clone());
            let gone = || scene.apply(cropped.clone().neg() + 1.0);
            let seen: Tensor<D> = match self.variant {
                ExtremalVariant::Preserve => kept(),
                ExtremalVariant::Delete => gone(),
                ExtremalVariant::Dual => Tensor::cat(vec![kept(), gone()], 0),
            };
            let seen = match self.mirror && D > 2 && step % 2 == 0 {
                true => seen.flip([D - 1]),
                false => seen,
            };
            let outputs = run.call(model, seen.cast(x.dtype()))?;
            if !outputs.is_tracked() {
                return Err(Error::NotDifferentiable);
            }
            let scores = self.reward.of(outputs, &goal)?.cast(full.dtype());
            let reward = match self.variant {
                ExtremalVariant::Preserve => scores.sum(),
                ExtremalVariant::Delete => scores.sum().neg(),
                ExtremalVariant::Dual => {
                    scores.clone().narrow(0, 0, count).sum() - scores.narrow(0, count, count).sum()
                }
            };
            let apart = full.clone() - self.reference(full.inner())?;
            let penalty = apart.square().mean_dim(1).sum() * weight;
            let mut gradients = guarded(&x.dims(), || (penalty - reward).backward())?;
            let gradient = leaf
                .grad_remove(&mut gradients)
                .ok_or(Error::NotDifferentiable)?;
            let direction = match velocity.take() {
                Some(before) => before * self.momentum + gradient * (1.0 - self.momentum),
                None => gradient,
            };
            parameters = (parameters - direction.clone() * self.rate).clamp(0.0, 1.0);
            velocity = Some(direction);
            weight *= self.growth;
            mask = Some(cropped.inner());
            report(step + 1)?;
        }
        mask.ok_or_else(|| Error::option("steps", 0, "at least one is needed"))
    }

    /// What the sorted values of each mask are compared with, at the values' own places:
    /// equal values have the mean of their references.
    fn reference(&self, masks: Tensor<2>) -> Result<Tensor<2>, Error> {
        const EQUAL: f64 = 1e-6;
        let [count, len] = masks.dims();
        let place = (&masks.device(), masks.dtype());
        let values = masks.try_into_vec_as::<f64>().map_err(Error::device)?;
        let rows = count / self.areas.len();
        let mut reference = vec![0.0; count * len];
        for (index, values) in values.chunks(len).enumerate() {
            let zeros = (len as f64 * (1.0 - self.areas[index / rows])) as usize;
            let mut order: Vec<usize> = (0..len).collect();
            order.sort_unstable_by(|&a, &b| values[a].total_cmp(&values[b]));
            let mut start = 0;
            while start < len {
                let first = values[order[start]];
                let same = order[start..]
                    .iter()
                    .take_while(|&&i| values[i] <= first + EQUAL);
                let end = start + same.count().max(1);
                let ones = end - zeros.clamp(start, end);
                for &place in &order[start..end] {
                    reference[index * len + place] = ones as f64 / (end - start) as f64;
                }
                start = end;
            }
        }
        let data = TensorData::new(reference, [count, len]).convert_dtype(place.1);
        Ok(Tensor::from_data(data, place))
    }
}

impl ExtremalReward {
    fn of(self, outputs: Tensor<2>, goal: &Goal) -> Result<Tensor<1>, Error> {
        let scores = goal.scores(outputs.clone())?;
        if self == ExtremalReward::Simple {
            return Ok(scores);
        }
        let [rows, columns] = outputs.dims();
        let classes: Option<Vec<usize>> =
            goal.targets().iter().map(ResolvedTarget::class).collect();
        let Some(classes) = classes.filter(|_| columns > 1) else {
            let requirement = "it compares classes: choose a class as the target, of two or more";
            return Err(Error::option("reward", "contrastive", requirement));
        };
        let others = (0..rows * columns).filter(|i| i % columns != classes[i / columns]);
        let others = indices(others.map(|i| i % columns), &outputs.device());
        let others = outputs.gather(1, others.reshape([rows, columns - 1]));
        Ok(scores - others.max_dim(1).reshape([rows]))
    }
}

/// Masked inputs have no plain outputs to compare with, so the mode is checked at the first
/// row as it is.
pub(super) fn check_mode<const D: usize>(
    model: &dyn Model<D>,
    input: &Tensor<D>,
    goal: &Goal,
    run: &Run,
) -> Result<(), Error> {
    if run.checks_mode() && goal.reference().is_some() {
        input_gradient(model, input.clone().narrow(0, 0, 1), &goal.slice(0, 1), run)?;
    }
    Ok(())
}

impl Registered for ExtremalPerturbation {
    fn is_non_negative(&self) -> bool {
        true
    }
}

impl<const D: usize> Method<D> for ExtremalPerturbation {
    fn recipe(&self) -> Recipe {
        Recipe::ExtremalPerturbation(self.clone())
    }

    fn validate(&self) -> Result<(), Error> {
        let refuse =
            |option, value: f64, requirement| Err(Error::option(option, value, requirement));
        if self.areas.is_empty() {
            return Err(Error::option("areas", "[]", "give at least one"));
        }
        if let Some(&area) = self.areas.iter().find(|a| !(0.0..=1.0).contains(*a)) {
            return refuse("areas", area, "each must be between 0 and 1");
        }
        if self.steps == 0 {
            return refuse("steps", 0.0, "at least one is needed");
        }
        if self.levels < 2 {
            return refuse("levels", self.levels as f64, "at least two are needed");
        }
        if !(0.0..1.0).contains(&self.momentum) {
            return refuse(
                "momentum",
                self.momentum,
                "it must be at least 0 and below 1",
            );
        }
        if !(0.0..=1.0).contains(&self.smooth) {
            return refuse("smooth", self.smooth, "it must be between 0 and 1");
        }
        let positive = [
            ("rate", self.rate),
            ("area_weight", self.area_weight),
            ("growth", self.growth),
        ];
        if let Some(&(option, value)) = positive.iter().find(|(_, v)| !(v.is_finite() && *v > 0.0))
        {
            return refuse(option, value, "it must be a finite number above 0");
        }
        let mut fractions = vec![("cell", self.cell), ("sigma", self.sigma)];
        if let Perturbation::Blur { sigma } = self.perturbation {
            fractions.push(("perturbation", sigma));
        }
        match fractions.iter().find(|(_, v)| !(*v > 0.0 && *v <= 1.0)) {
            Some(&(option, value)) => refuse(option, value, "it must be above 0 and at most 1"),
            None if D == 2 && matches!(self.perturbation, Perturbation::Blur { .. }) => {
                let requirement = "a table has no positions to blur over: use fade";
                Err(Error::option("perturbation", "blur", requirement))
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
        let views = if self.variant == ExtremalVariant::Dual {
            2
        } else {
            1
        };
        let batch = run.rows(input) / (self.areas.len() * views);
        let shape = |rows| {
            let dims = input.dims();
            std::array::from_fn(|d| match d {
                0 => rows,
                1 if D > 2 => 1,
                _ => dims[d],
            })
        };
        let mut parts = Vec::new();
        let quiet = run.without_progress();
        quiet.batches(Stage::Attributing, total, batch, |range| {
            let rows = range.len();
            let x = input.clone().narrow(0, range.start, rows);
            let goal = goal.slice(range.start, range.end);
            let report = |step| {
                let done = range.start * self.steps + step * rows;
                run.report(Stage::Attributing, done, total * self.steps)
            };
            let masks = self.masks(model, &x, &goal, run, &report)?;
            let [count, positions] = masks.dims();
            let mean = masks.reshape([count / rows, rows * positions]).mean_dim(0);
            let mean: Tensor<D> = mean.reshape(shape(rows));
            parts.push(match self.smooth * shortest(input) {
                sigma if sigma > 0.0 && D > 2 => blur(mean, sigma, Border::Zero),
                _ => mean,
            });
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
    use burn::tensor::Device;

    /// A textured picture, and a score that sees the sharpness of a 6x6 square of it alone.
    fn square(size: usize) -> (Tensor<4>, impl Fn(Tensor<4>) -> Tensor<2>) {
        let checks = (0..size * size).map(|i| ((i / size + i % size) % 2) as f32 * 2.0 - 1.0);
        let checks = TensorData::new(checks.collect::<Vec<_>>(), [1, 1, size, size]);
        let x = Tensor::<4>::from_data(checks, &Device::flex());
        let target = x.clone().slice([0..1, 0..1, 4..10, 12..18]);
        let mirrored = target.clone().flip([3]);
        let score = move |y: Tensor<4>| {
            let rows = y.dims()[0];
            let at = |from: usize, target: &Tensor<4>| {
                let part = y.clone().slice([0..rows, 0..1, 4..10, from..from + 6]);
                (part * target.clone()).flatten::<2>(1, 3).mean_dim(1)
            };
            // The picture may come mirrored: whichever square fits counts.
            at(12, &target).max_pair(at(size - 18, &mirrored)) * 10.0
        };
        (x, score)
    }

    fn inside(i: usize) -> bool {
        (4..10).contains(&(i / 24)) && (12..18).contains(&(i % 24))
    }

    #[test]
    fn the_mask_finds_the_square_and_keeps_its_area() {
        let (x, score) = square(24);
        let method = ExtremalPerturbation {
            mirror: false,
            ..ExtremalPerturbation::new().areas([36.0 / 576.0])
        };
        let fade = || Perturbation::Fade { to: Baseline::Zero };
        for (variant, perturbation) in [
            (ExtremalVariant::Preserve, Perturbation::default()),
            (ExtremalVariant::Delete, fade()),
            (ExtremalVariant::Dual, fade()),
        ] {
            let found = method
                .clone()
                .variant(variant)
                .perturbation(perturbation)
                .explain(&score, x.clone(), 0)
                .unwrap();
            assert_eq!(found.values.dims(), [1, 1, 24, 24]);
            let mask = found.to_vec().unwrap();
            let mean = |in_square: bool| {
                let values = mask.iter().enumerate();
                let values = values.filter(|&(i, _)| inside(i) == in_square);
                let (sum, n) = values.fold((0.0, 0.0), |(sum, n), (_, m)| (sum + m, n + 1.0));
                sum / n
            };
            assert!(mean(true) > 0.85, "{variant:?}: {}", mean(true));
            assert!(mean(false) < 0.06, "{variant:?}: {}", mean(false));
            // The area is that of the mask with its margin, 28 by 28 positions.
            let area = mask.iter().sum::<f32>() / (28.0 * 28.0);
            assert!((area - 0.0625).abs() < 0.015, "{variant:?}: {area}");
            let views = if variant == ExtremalVariant::Dual {
                2
            } else {
                1
            };
            assert_eq!(found.evaluations.gradient, 1 + 800 * views);
        }
    }

    #[test]
    fn more_area_keeps_more_of_the_score() {
        let (x, score) = square(24);
        let kept = |area: f64| {
            let method = ExtremalPerturbation::new().areas([area]).steps(200);
            let mask = method.explain(&score, x.clone(), 0).unwrap().values;
            let scene = Scene::new(&method, &x).unwrap();
            score(scene.apply(mask.reshape([1, 576]))).into_scalar::<f32>()
        };
        let scores = [0.02, 0.06, 0.12, 0.3].map(kept);
        assert!(scores.is_sorted(), "{scores:?}");
        assert!(scores[3] > 8.0, "{scores:?}");
    }

    /// The pull of the area constraint alone, under a score that does not care.
    #[test]
    fn areas_are_met() {
        let indifferent = |x: Tensor<2>| x.sum_dim(1) * 0.0;
        let x = Tensor::<2>::ones([2, 20], &Device::flex());
        let method = ExtremalPerturbation::new()
            .areas([0.25, 0.5])
            .perturbation(Perturbation::Fade { to: Baseline::Zero });
        let found = method
            .explain(&indifferent, x, 0)
            .unwrap()
            .to_vec()
            .unwrap();
        // All columns are alike, and so are their values: the area's mean of 0 and 1.
        assert!(found.iter().all(|v| (v - 0.375).abs() < 0.01), "{found:?}");
    }

    #[test]
    fn contrast_is_to_the_highest_other_class() {
        let outputs =
            Tensor::<2>::from_floats([[1.0, 5.0, 3.0], [4.0, 0.0, -2.0]], &Device::flex());
        let of = |target: Target| {
            let goal = Goal::resolve(&target, &outputs).unwrap();
            let reward = ExtremalReward::Contrastive.of(outputs.clone(), &goal);
            reward.map(|r| r.try_into_vec_as::<f32>().unwrap())
        };
        assert_eq!(of(vec![1, 2].into()).unwrap(), [2.0, -6.0]);
        let error = of(Target::Weighted(vec![1.0, 0.0, 0.0])).unwrap_err();
        assert!(error.to_string().starts_with("reward = contrastive"));
    }

    #[test]
    fn does_not_depend_on_the_batch_split_or_on_neighbours() {
        let method = ExtremalPerturbation::new().areas([0.1, 0.4]).steps(6);
        assert_splits_agree(&method, 1e-4);
        let net = Net::relu(&Device::flex());
        let all = method.explain(&net, image(3, 8), 1).unwrap().values;
        let last = method
            .explain(&net, image(3, 8).narrow(0, 2, 1), 1)
            .unwrap()
            .values;
        assert_close(all.narrow(0, 2, 1), last, 1e-4);
    }

    #[test]
    fn half_precision_and_series_run() {
        let method = ExtremalPerturbation::new().steps(3);
        let model = |x: Tensor<3>| x.mean_dim(2).flatten::<2>(1, 2);
        let x = Tensor::<3>::ones([2, 4, 40], &Device::flex());
        let found = method.explain(&model, x.clone(), 1).unwrap();
        assert_eq!(found.values.dims(), [2, 1, 40]);
        let half = x.cast(burn::tensor::DType::F16);
        let half = method.explain(&model, half, 1).unwrap().values;
        assert_close(half.cast(burn::tensor::DType::F32), found.values, 1e-3);
    }

    #[test]
    fn wrong_options_and_models_are_named() {
        let net = Net::relu(&Device::flex());
        let new = ExtremalPerturbation::new;
        let text = |method: ExtremalPerturbation| {
            method
                .explain(&net, image(1, 1), 0)
                .unwrap_err()
                .to_string()
        };
        assert!(text(new().areas([])).starts_with("areas = []"));
        assert!(text(new().areas([0.1, 1.5])).starts_with("areas = 1.5"));
        assert!(text(new().steps(0)).starts_with("steps = 0"));
        assert!(text(ExtremalPerturbation { levels: 1, ..new() }).starts_with("levels = 1"));
        assert!(text(ExtremalPerturbation { rate: 0.0, ..new() }).starts_with("rate = 0"));
        assert!(text(ExtremalPerturbation { cell: 0.0, ..new() }).starts_with("cell = 0"));
        let table = Tensor::<2>::ones([1, 3], &Device::flex());
        let error = new().explain(&|x: Tensor<2>| x, table, 0).unwrap_err();
        assert!(error.to_string().contains("use fade"), "{error}");
        let training = Net::training(&Device::flex());
        let error = new().explain(&training, image(2, 1), 0).unwrap_err();
        assert!(matches!(error, Error::TrainingMode { .. }), "{error}");
        let cut = |x: Tensor<4>| x.inner().flatten::<2>(1, 3);
        let error = new().explain(&cut, image(1, 1), 0).unwrap_err();
        assert_eq!(error, Error::NotDifferentiable);
    }
}
