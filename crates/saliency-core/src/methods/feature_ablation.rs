use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

use crate::{
    attribution::Outcome,
    baseline::Baseline,
    error::Error,
    features::Features,
    method::Method,
    model::Model,
    perturb::{Jobs, Part, Probe},
    recipe::{Recipe, Registered},
    run::Run,
    target::Goal,
};

/// The score lost when a feature is replaced by the baseline.
///
/// A_i = f(x) - f(x with the baseline in the values of i's feature); all values of a feature
/// get the same. Captum's `FeatureAblation`, whose default is [`Features::Each`]
/// (`feature-ablation-captum`); its `feature_mask` is [`Features::Given`].
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use saliency_core::{FeatureAblation, Features, Method, Target};
/// let product = |x: Tensor<2>| x.prod_dim(1);
/// let x = Tensor::<2>::from_floats([[2.0, 3.0, 5.0]], &Device::flex());
/// let sum = |x: Tensor<2>| x.sum_dim(1);
/// let method = FeatureAblation::new().features(Features::Given(vec![0, 1, 1]));
/// assert_eq!(method.explain(&sum, x.clone(), Target::Regression)?.to_vec()?, [2.0, 8.0, 8.0]);
/// assert_eq!(method.explain(&product, x, Target::Regression)?.to_vec()?, [30.0; 3]);
/// # Ok::<(), saliency_core::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FeatureAblation {
    /// What counts as one feature.
    pub features: Features,
    /// What replaces it.
    pub baseline: Baseline,
}

impl FeatureAblation {
    /// Automatic features, replaced by zeros.
    pub fn new() -> Self {
        Self::default()
    }

    /// Captum's defaults: each value by itself.
    pub fn captum() -> Self {
        Self::new().features(Features::Each)
    }

    /// What counts as one feature.
    pub fn features(mut self, features: Features) -> Self {
        self.features = features;
        self
    }

    /// What replaces it.
    pub fn baseline(mut self, baseline: Baseline) -> Self {
        self.baseline = baseline;
        self
    }
}

impl Registered for FeatureAblation {}

impl<const D: usize> Method<D> for FeatureAblation {
    fn recipe(&self) -> Recipe {
        Recipe::FeatureAblation(self.clone())
    }

    fn validate(&self) -> Result<(), Error> {
        self.features.validate()
    }

    fn attribute(
        &self,
        model: &dyn Model<D>,
        input: &Tensor<D>,
        goal: &Goal,
        run: &Run,
    ) -> Result<Outcome<D>, Error> {
        let groups = self.features.of_rows(input)?;
        let probe = Probe::new(model, input, &self.baseline, goal, run)?;
        let plain = probe.plain()?;
        let jobs = Jobs::new(groups.iter().map(|groups| groups.count));
        let scores = probe.scores(Part::whole(jobs.total()), |i, replaced| {
            let (row, group) = jobs.get(i);
            for (replaced, &id) in replaced.iter_mut().zip(&groups[row].ids) {
                *replaced = id == group;
            }
            (row, row)
        })?;
        let lost = jobs.split(&scores).zip(plain);
        let lost: Vec<Vec<f64>> = lost
            .map(|(scores, plain)| scores.iter().map(|score| plain - score).collect())
            .collect();
        Ok(probe.outcome(&groups, &lost, None))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Occlusion, Slic,
        methods::testing::{Net, assert_close, assert_splits_agree, image},
    };
    use burn::tensor::{DType, Device};

    /// Windows side by side are occlusion that moves by its own size.
    #[test]
    fn on_a_grid_it_is_occlusion() {
        let net = Net::relu(&Device::flex());
        let baseline = Baseline::Mean;
        let ablation = FeatureAblation::new()
            .features(Features::Grid(vec![3, 4]))
            .baseline(baseline.clone());
        let occlusion = Occlusion::new()
            .window([3, 4])
            .stride([3, 4])
            .baseline(baseline);
        let got = ablation.explain(&net, image(2, 1), vec![0, 3]).unwrap();
        let want = occlusion.explain(&net, image(2, 1), vec![0, 3]).unwrap();
        assert_close(got.values, want.values, 0.0);
        assert_eq!(got.evaluations.forward, 2 * 3 * 2);
    }

    /// Each row has its own superpixels, and does not depend on its neighbours.
    #[test]
    fn rows_are_cut_up_by_themselves() {
        let net = Net::relu(&Device::flex());
        let method = FeatureAblation::new().features(Features::Slic(Slic::default().segments(9)));
        let all = method.explain(&net, image(3, 4), 1).unwrap().values;
        let last = image(3, 4).narrow(0, 2, 1);
        let last = method.explain(&net, last, 1).unwrap().values;
        assert_close(all.narrow(0, 2, 1), last, 1e-6);
    }

    #[test]
    fn does_not_depend_on_the_batch_split() {
        assert_splits_agree(&FeatureAblation::new(), 1e-5);
    }

    #[test]
    fn scores_of_a_large_constant_lose_nothing_in_double_precision() {
        let device = Device::flex();
        let shifted = |x: Tensor<2>| x.sum_dim(1) + 1e6;
        let x = Tensor::<2>::from_floats([[0.25, -0.5]], &device).cast(DType::F64);
        let map = FeatureAblation::new().explain(&shifted, x, 0).unwrap();
        assert_eq!(map.values.dtype(), DType::F64);
        assert_eq!(map.to_vec().unwrap(), [0.25, -0.5]);
    }
}
