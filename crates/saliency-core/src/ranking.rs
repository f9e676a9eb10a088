use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

use crate::{
    attribution::Attribution,
    columns::Columns,
    error::Error,
    features::Features,
    host::widened,
    reduce::{Reduction, reduce},
};

/// What one feature, or one step, added to the score of one row.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Contribution {
    /// The signed sum of its attributions.
    pub value: f64,
    /// How much it weighs, without a sign: the sum over what is independent (time steps for a
    /// feature, features for a step) of the absolute values. Of a table, the absolute value.
    pub magnitude: f64,
}

/// One line of a [`FeatureRanking`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Ranked {
    /// The feature's name, that of its source column where it was one-hot encoded.
    pub name: String,
    /// The signed sum of its attributions.
    pub value: f64,
    /// What it is ranked by: see [`Contribution`].
    pub magnitude: f64,
    /// Its part of the magnitudes of all, 0 to 1; 0 where all are zero.
    pub share: f64,
}

/// Features of one row, the one that weighs most first.
///
/// ```
/// use saliency_core::{Contribution, FeatureRanking};
/// let of = |value: f64| Contribution { value, magnitude: value.abs() };
/// let ranking = FeatureRanking::new([("age", of(1.0)), ("income", of(-3.0))]);
/// assert_eq!(ranking.features[0].name, "income");
/// assert_eq!((ranking.features[0].value, ranking.features[0].share), (-3.0, 0.75));
/// ```
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct FeatureRanking {
    /// The features, sorted by magnitude; equals keep their order.
    pub features: Vec<Ranked>,
}

impl FeatureRanking {
    /// Sorted, with shares.
    pub fn new(features: impl IntoIterator<Item = (impl Into<String>, Contribution)>) -> Self {
        let mut features: Vec<Ranked> = features
            .into_iter()
            .map(|(name, Contribution { value, magnitude })| Ranked {
                name: name.into(),
                value,
                magnitude,
                share: 0.0,
            })
            .collect();
        let total: f64 = features.iter().map(|f| f.magnitude).sum();
        if total > 0.0 {
            features
                .iter_mut()
                .for_each(|f| f.share = f.magnitude / total);
        }
        features.sort_by(|a, b| b.magnitude.total_cmp(&a.magnitude));
        FeatureRanking { features }
    }
}

impl<const D: usize> Attribution<D> {
    /// The same with names for its features.
    ///
    /// ```
    /// use burn::tensor::{Device, Tensor};
    /// use saliency_core::{Columns, Gradient, Method, Target};
    /// let x = Tensor::<2>::from_floats([[1.0, 2.0, 3.0]], &Device::flex());
    /// let weights = Tensor::<2>::from_floats([[0.5, -4.0, 1.0]], &Device::flex());
    /// let score = |x: Tensor<2>| (x * weights.clone()).sum_dim(1);
    /// let columns = Columns::grouped([("age", "age"), ("own", "housing"), ("rent", "housing")]);
    /// let map = Gradient.explain(&score, x, Target::Regression)?.with_columns(columns)?;
    /// let ranking = &map.row(0)?.rankings()?[0];
    /// let names: Vec<&str> = ranking.features.iter().map(|f| f.name.as_str()).collect();
    /// assert_eq!(names, ["housing", "age"]);
    /// assert_eq!(ranking.features[0].value, -3.0);
    /// # Ok::<(), saliency_core::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Shape`] where the last axis of the values is not one for each feature.
    pub fn with_columns(mut self, columns: Columns) -> Result<Self, Error> {
        let shape = self.values.dims();
        if !(2..=3).contains(&D) || shape[D - 1] != columns.names().len() {
            return Err(Error::Shape {
                what: "the attribution",
                expected: format!(
                    "[N, {n}] or [N, T, {n}], one value for each named column",
                    n = columns.names().len()
                ),
                got: shape.to_vec(),
            });
        }
        self.columns = Some(columns);
        Ok(self)
    }

    /// The names of its features, `x0`, `x1`, ... where it was given none.
    fn named(&self) -> Columns {
        let count = self.values.dims()[D - 1];
        self.columns
            .clone()
            .unwrap_or_else(|| Columns::numbered(count))
    }

    /// For each row and step (a table has one) the signed sum of each source column. A group of
    /// values that the method took away together counts once.
    ///
    /// # Errors
    /// [`Error::Device`] when the device fails.
    pub fn source_values(&self) -> Result<Vec<Vec<Vec<f64>>>, Error> {
        let columns = self.named();
        let [rows, count] = [self.values.dims()[0], columns.names().len()];
        let values = self.values.clone();
        let mut values = values.try_into_vec_as::<f64>().map_err(Error::device)?;
        if let Some(sizes) = self.group_sizes() {
            let sizes = sizes.iter().cycle();
            values
                .iter_mut()
                .zip(sizes)
                .for_each(|(value, size)| *value /= *size as f64);
        }
        let steps = values.chunks(count).map(|step| columns.summed(step));
        let steps: Vec<Vec<f64>> = steps.collect();
        let per_row = (steps.len() / rows.max(1)).max(1);
        Ok(steps.chunks(per_row).map(<[_]>::to_vec).collect())
    }

    /// Where the method took values away together, each value of a group has the whole group's:
    /// how many there are of each in a row. `None` where each value is its own group, or where
    /// rows differ.
    fn group_sizes(&self) -> Option<Vec<usize>> {
        let options = self.recipe.options();
        let given = options
            .get("features")
            .or_else(|| options.get("of")?.get("features"))?;
        let features = serde_json::from_value::<Features>(given.clone()).ok()?;
        if matches!(features, Features::Slic(_)) || self.values.dims()[0] == 0 {
            return None;
        }
        let row = self.values.clone().narrow(0, 0, 1);
        features.resolve(&row).ok().map(|groups| groups.sizes())
    }

    fn of_sources(&self) -> Result<Vec<Vec<Contribution>>, Error> {
        let columns = self.named();
        let of_row = |steps: Vec<Vec<f64>>| {
            let mut sums = vec![Contribution::default(); columns.sources().len()];
            for step in &steps {
                for (sum, value) in sums.iter_mut().zip(step) {
                    sum.value += value;
                    sum.magnitude += value.abs();
                }
            }
            sums
        };
        Ok(self.source_values()?.into_iter().map(of_row).collect())
    }

    fn ranked(&self) -> Result<Vec<FeatureRanking>, Error> {
        let columns = self.named();
        let names = columns.sources();
        let of_row = |row: Vec<Contribution>| FeatureRanking::new(names.iter().cloned().zip(row));
        Ok(self.of_sources()?.into_iter().map(of_row).collect())
    }
}

/// Tables `[N, F]`.
impl Attribution<2> {
    /// For each row what each source column added, in the order of the columns.
    ///
    /// # Errors
    /// [`Error::Device`] when the device fails.
    pub fn contributions(&self) -> Result<Vec<Vec<Contribution>>, Error> {
        self.of_sources()
    }

    /// For each row its source columns, the one that weighs most first.
    ///
    /// # Errors
    /// [`Error::Device`] when the device fails.
    pub fn rankings(&self) -> Result<Vec<FeatureRanking>, Error> {
        self.ranked()
    }
}

/// Series `[N, T, F]`.
impl Attribution<3> {
    /// For each row what each source column added over all steps, in the order of the columns.
    ///
    /// # Errors
    /// [`Error::Device`] when the device fails.
    pub fn contributions(&self) -> Result<Vec<Vec<Contribution>>, Error> {
        self.of_sources()
    }

    /// For each row its source columns, the one that weighs most over all steps first.
    ///
    /// # Errors
    /// [`Error::Device`] when the device fails.
    pub fn rankings(&self) -> Result<Vec<FeatureRanking>, Error> {
        self.ranked()
    }

    /// For each row what each step added over all features.
    ///
    /// ```
    /// use burn::tensor::{Device, Tensor};
    /// use saliency_core::{Contribution, Gradient, Method, Target};
    /// let x = Tensor::<3>::from_floats([[[1.0, -2.0], [3.0, 0.0]]], &Device::flex());
    /// let square = |x: Tensor<3>| x.square().sum_dim(2).sum_dim(1).flatten::<2>(1, 2);
    /// let map = Gradient.explain(&square, x, Target::Regression)?;
    /// let steps = &map.step_contributions()?[0];
    /// assert_eq!(steps[0], Contribution { value: -2.0, magnitude: 6.0 });
    /// assert_eq!(steps[1], Contribution { value: 6.0, magnitude: 6.0 });
    /// # Ok::<(), saliency_core::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Device`] when the device fails.
    pub fn step_contributions(&self) -> Result<Vec<Vec<Contribution>>, Error> {
        let of_step = |step: &Vec<f64>| Contribution {
            value: step.iter().sum(),
            magnitude: step.iter().map(|v| v.abs()).sum(),
        };
        let rows = self.source_values()?;
        Ok(rows
            .iter()
            .map(|row| row.iter().map(of_step).collect())
            .collect())
    }

    /// One value for each step, `[N, T]`: features reduced.
    ///
    /// ```
    /// use burn::tensor::{Device, Tensor};
    /// use saliency_core::{Gradient, Method, Reduction, Target};
    /// let x = Tensor::<3>::from_floats([[[1.0, -2.0], [3.0, 0.0]]], &Device::flex());
    /// let square = |x: Tensor<3>| x.square().sum_dim(2).sum_dim(1).flatten::<2>(1, 2);
    /// let map = Gradient.explain(&square, x, Target::Regression)?;
    /// let host = |x: Tensor<2>| x.try_into_vec_as::<f32>().unwrap();
    /// assert_eq!(host(map.steps(Reduction::Sum)), [6.0, 6.0]);
    /// assert_eq!(host(map.step_sums()), [-2.0, 6.0]);
    /// assert_eq!(host(map.features(Reduction::Max)), [6.0, 4.0]);
    /// assert_eq!(host(map.feature_sums()), [8.0, -4.0]);
    /// # Ok::<(), saliency_core::Error>(())
    /// ```
    pub fn steps(&self, reduction: Reduction) -> Tensor<2> {
        reduce(widened(self.values.clone()), 2, reduction).squeeze_dim(2)
    }

    /// The signed sum of each step, `[N, T]`.
    pub fn step_sums(&self) -> Tensor<2> {
        widened(self.values.clone()).sum_dim(2).squeeze_dim(2)
    }

    /// One value for each feature, `[N, F]`: time reduced.
    pub fn features(&self, reduction: Reduction) -> Tensor<2> {
        reduce(widened(self.values.clone()), 1, reduction).squeeze_dim(1)
    }

    /// The signed sum of each feature over time, `[N, F]`.
    pub fn feature_sums(&self) -> Tensor<2> {
        widened(self.values.clone()).sum_dim(1).squeeze_dim(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{FeatureAblation, InputXGradient, Method, Target};
    use burn::tensor::{Device, TensorData};

    fn series() -> Attribution<3> {
        // Two rows, three steps, three features of which the last two are one column.
        let values: Vec<f32> = (0..18).map(|i| (i as f32 * 1.7).sin()).collect();
        let x = Tensor::<3>::from_data(TensorData::new(values, [2, 3, 3]), &Device::flex());
        let sum = |x: Tensor<3>| x.sum_dim(2).sum_dim(1).flatten::<2>(1, 2);
        let map = InputXGradient.explain(&sum, x, Target::Regression).unwrap();
        let columns = Columns::grouped([("a", "a"), ("b=1", "b"), ("b=2", "b")]);
        map.with_columns(columns).unwrap()
    }

    #[test]
    fn what_was_taken_away_together_counts_once() {
        let weights = Tensor::<2>::from_floats([[2.0, 1.0, -4.0]], &Device::flex());
        let score = |x: Tensor<2>| (x * weights.clone()).sum_dim(1);
        let x = Tensor::<2>::from_floats([[3.0, 1.0, 0.5], [1.0, 0.0, 1.0]], &Device::flex());
        let columns = Columns::grouped([("a", "a"), ("b=1", "b"), ("b=2", "b")]);
        let map = FeatureAblation::new()
            .features(columns.features(1))
            .explain(&score, x, Target::Regression)
            .unwrap()
            .with_columns(columns)
            .unwrap();
        let found = map.contributions().unwrap();
        let values: Vec<f64> = found.iter().flatten().map(|c| c.value).collect();
        assert_eq!(values, [6.0, -1.0, 2.0, -4.0]);
    }

    /// Of x0 + ... + x5 in three steps of two features, all from zero.
    #[test]
    fn groups_over_steps_count_once_too() {
        let x = Tensor::<3>::from_floats([[[1., 2.], [3., 4.], [5., 6.]]], &Device::flex());
        let sum = |x: Tensor<3>| x.sum_dim(2).sum_dim(1).flatten::<2>(1, 2);
        for features in [
            Features::Each,
            Features::Positions,
            Features::Channels,
            Features::Grid(vec![2]),
            Features::Given(vec![0, 1, 1, 1, 1, 0]),
        ] {
            let ablation = FeatureAblation::new().features(features.clone());
            let map = ablation.explain(&sum, x.clone(), Target::Regression);
            let found = map.unwrap().contributions().unwrap();
            let total: f64 = found[0].iter().map(|c| c.value).sum();
            assert!((total - 21.0).abs() < 1e-5, "{features:?}: {total}");
        }
    }

    #[test]
    fn encoded_columns_are_added_up_before_magnitudes_are_taken() {
        let map = series();
        let values = map.to_vec().unwrap();
        let at = |row: usize, step: usize, f: usize| f64::from(values[row * 9 + step * 3 + f]);
        for row in 0..2 {
            let b: Vec<f64> = (0..3).map(|t| at(row, t, 1) + at(row, t, 2)).collect();
            let got = map.contributions().unwrap()[row][1];
            assert!((got.value - b.iter().sum::<f64>()).abs() < 1e-12);
            assert!((got.magnitude - b.iter().map(|v| v.abs()).sum::<f64>()).abs() < 1e-12);
            let step = map.step_contributions().unwrap()[row][2];
            assert!((step.value - at(row, 2, 0) - b[2]).abs() < 1e-12);
            assert!((step.magnitude - at(row, 2, 0).abs() - b[2].abs()).abs() < 1e-12);
            let one = map.row(row).unwrap();
            assert_eq!(one.rankings().unwrap()[0], map.rankings().unwrap()[row]);
            let shares: f64 = one.rankings().unwrap()[0]
                .features
                .iter()
                .map(|f| f.share)
                .sum();
            assert!((shares - 1.0).abs() < 1e-12);
        }
    }

    #[test]
    fn names_must_fit_and_are_numbers_without() {
        let map = series();
        let error = map.clone().with_columns(Columns::new(["a"])).unwrap_err();
        assert!(error.to_string().contains("[N, 1] or [N, T, 1]"), "{error}");
        let plain = Attribution {
            columns: None,
            ..map
        };
        let mut names: Vec<String> = plain.rankings().unwrap()[0]
            .features
            .iter()
            .map(|f| f.name.clone())
            .collect();
        names.sort();
        assert_eq!(names, ["x0", "x1", "x2"]);
    }

    #[test]
    fn nothing_at_all_has_no_shares() {
        let none = FeatureRanking::new([("a", Contribution::default()); 2]);
        assert!(none.features.iter().all(|f| f.share == 0.0));
    }
}
