mod mask;
#[cfg(test)]
mod tests;

use burn::tensor::{Tensor, TensorData};
use serde::{Deserialize, Serialize};

use crate::{
    attribution::{Evidence, Outcome},
    axes,
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
use mask::{Scene, Smoother, State, shortest, sorted_reference};

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
/// The mask itself is computed on the host in f64, so that its sorted order does not depend on
/// the device. `extremal-perturbation-areas` is what its benchmark runs: six areas, contrastive, smoothed
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
        let rows = x.dims()[0];
        let count = rows * self.areas.len();
        let goal = goal.repeat(self.areas.len() * self.views());
        let scene = Scene::new(self, x)?;
        let smoother = Smoother::new(self, x);
        let mut states = vec![State::new(smoother.parameters); count];
        let mut weight = self.area_weight;
        let mut mask = Err(Error::option("steps", 0, "at least one is needed"));
        for step in 0..self.steps {
            let full: Vec<Vec<f64>> = states.iter().map(|s| smoother.full(&s.values)).collect();
            let cropped = full.iter().flat_map(|full| smoother.crop(full));
            let cropped = TensorData::new(cropped.collect::<Vec<_>>(), [count, smoother.inside()]);
            let dtype = scene.pyramid.dtype();
            let cropped =
                Tensor::<2>::from_data(cropped.convert_dtype(dtype), (&x.device().inner(), dtype));
            let leaf = cropped.clone().autodiff().require_grad();
            let mirrored = self.mirror && D > 2 && step % 2 == 0;
            let seen = self.seen(&scene, leaf.clone(), mirrored).cast(x.dtype());
            let outputs = run.call(model, seen)?;
            if !outputs.is_tracked() {
                return Err(Error::NotDifferentiable);
            }
            let reward = self.total(self.reward.of(outputs, &goal)?, count);
            let mut gradients = guarded(&x.dims(), || reward.backward())?;
            let gradient = leaf
                .grad_remove(&mut gradients)
                .ok_or(Error::NotDifferentiable)?;
            let gradient = gradient.try_into_vec_as::<f64>().map_err(Error::device)?;
            for (index, (state, gradient)) in states
                .iter_mut()
                .zip(gradient.chunks(smoother.inside()))
                .enumerate()
            {
                let full = &full[index];
                let reference = sorted_reference(full, self.areas[index / rows]);
                let mut up: Vec<f64> = full
                    .iter()
                    .zip(reference)
                    .map(|(m, r)| -2.0 * weight * (m - r) / full.len() as f64)
                    .collect();
                smoother.add_cropped(&mut up, gradient);
                let up = smoother.pull_back(&state.values, &up);
                state.step(up, self.rate, self.momentum);
            }
            weight *= self.growth;
            mask = Ok(cropped);
            report(step + 1)?;
        }
        mask
    }

    fn views(&self) -> usize {
        match self.variant {
            ExtremalVariant::Dual => 2,
            _ => 1,
        }
    }

    /// What the model is shown for masks `[count, positions]`: `[views * count, ...]`.
    fn seen<const D: usize>(&self, scene: &Scene<D>, mask: Tensor<2>, mirrored: bool) -> Tensor<D> {
        let gone = mask.clone().neg() + 1.0;
        let seen = match self.variant {
            ExtremalVariant::Preserve => scene.apply(mask),
            ExtremalVariant::Delete => scene.apply(gone),
            ExtremalVariant::Dual => Tensor::cat(vec![scene.apply(mask), scene.apply(gone)], 0),
        };
        match mirrored {
            true => seen.flip([axes::neighbours(D).end - 1]),
            false => seen,
        }
    }

    /// What is maximised, from the scores of what the model was shown.
    fn total(&self, scores: Tensor<1>, count: usize) -> Tensor<1> {
        match self.variant {
            ExtremalVariant::Preserve => scores.sum(),
            ExtremalVariant::Delete => scores.sum().neg(),
            ExtremalVariant::Dual => {
                scores.clone().narrow(0, 0, count).sum() - scores.narrow(0, count, count).sum()
            }
        }
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
        let batch = run.rows(input) / (self.areas.len() * self.views());
        let shape = |rows| {
            let dims = input.dims();
            std::array::from_fn(|d| match d {
                0 => rows,
                d if axes::channels(D) == Some(d) => 1,
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
