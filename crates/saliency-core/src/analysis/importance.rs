use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{error::Error, ranking::Contribution};

/// Groups that one [`GroupedImportance`] keeps at most, so that its memory is bounded.
const MOST_GROUPS: usize = 1000;

/// A mean over rows, and how far to trust it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Estimate {
    /// The mean.
    pub mean: f64,
    /// Its standard error; `None` for fewer than two rows.
    pub standard_error: Option<f64>,
    /// The 95% confidence interval, by Student's t.
    pub interval: Option<(f64, f64)>,
}

/// A feature over many rows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FeatureImportance {
    /// Its name.
    pub name: String,
    /// Mean magnitude: of a table, mean |attribution|.
    pub magnitude: Estimate,
    /// Mean signed attribution.
    pub value: Estimate,
    /// Its part of all mean magnitudes, 0 to 1.
    pub share: f64,
}

/// A mean and a sum of squared differences from it, by Welford's update.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Moments {
    mean: f64,
    squares: f64,
}

impl Moments {
    /// `count` counts this one.
    fn add(&mut self, value: f64, count: f64) {
        let gap = value - self.mean;
        self.mean += gap / count;
        self.squares += gap * (value - self.mean);
    }

    /// Chan, Golub and LeVeque's merge of two parts.
    fn merge(&mut self, own: f64, other: &Moments, theirs: f64) {
        let gap = other.mean - self.mean;
        let count = own + theirs;
        self.mean += gap * theirs / count;
        self.squares += other.squares + gap * gap * own * theirs / count;
    }

    fn estimate(&self, rows: u64) -> Estimate {
        let error = (rows > 1).then(|| {
            let n = rows as f64;
            (self.squares.max(0.0) / (n - 1.0) / n).sqrt()
        });
        let interval = error.map(|error| {
            let reach = t_975(rows - 1) * error;
            (self.mean - reach, self.mean + reach)
        });
        Estimate {
            mean: self.mean,
            standard_error: error,
            interval,
        }
    }
}

/// Mean attributions of many rows, one row at a time: a global explanation.
///
/// Memory does not grow with the rows, and what is added in one order gives the same result
/// however it was cut into batches.
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use saliency_core::{InputXGradient, Method, Target, analysis::Importance};
/// let weights = Tensor::<2>::from_floats([[1.0, -5.0]], &Device::flex());
/// let score = |x: Tensor<2>| (x * weights.clone()).sum_dim(1);
/// let mut importance = Importance::new(["age", "income"]);
/// for batch in [[[1.0, 1.0], [2.0, -1.0]], [[3.0, 2.0], [-2.0, 0.0]]] {
///     let x = Tensor::<2>::from_floats(batch, &Device::flex());
///     let map = InputXGradient.explain(&score, x, Target::Regression)?;
///     for row in map.contributions()? {
///         importance.add(&row)?;
///     }
/// }
/// let features = importance.features();
/// assert_eq!((features[0].name.as_str(), features[0].magnitude.mean), ("income", 5.0));
/// assert_eq!(features[0].value.mean, -2.5);
/// # Ok::<(), saliency_core::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Importance {
    names: Vec<String>,
    rows: u64,
    magnitude: Vec<Moments>,
    value: Vec<Moments>,
}

impl Importance {
    /// Nothing so far, of features of these names.
    pub fn new(names: impl IntoIterator<Item = impl Into<String>>) -> Self {
        let names: Vec<String> = names.into_iter().map(Into::into).collect();
        Importance {
            rows: 0,
            magnitude: vec![Moments::default(); names.len()],
            value: vec![Moments::default(); names.len()],
            names,
        }
    }

    /// Rows so far.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// One more row.
    ///
    /// # Errors
    /// [`Error::Option`] where it has another number of features.
    pub fn add(&mut self, row: &[Contribution]) -> Result<(), Error> {
        self.check(row.len())?;
        self.rows += 1;
        let count = self.rows as f64;
        for (moments, contribution) in self.magnitude.iter_mut().zip(row) {
            moments.add(contribution.magnitude, count);
        }
        for (moments, contribution) in self.value.iter_mut().zip(row) {
            moments.add(contribution.value, count);
        }
        Ok(())
    }

    /// All rows of another part of the same data.
    ///
    /// # Errors
    /// [`Error::Option`] where it has another number of features.
    pub fn merge(&mut self, other: &Importance) -> Result<(), Error> {
        self.check(other.names.len())?;
        if other.rows == 0 {
            return Ok(());
        }
        let (own, theirs) = (self.rows as f64, other.rows as f64);
        let pairs = self.magnitude.iter_mut().zip(&other.magnitude);
        for (moments, other) in pairs.chain(self.value.iter_mut().zip(&other.value)) {
            moments.merge(own, other, theirs);
        }
        self.rows += other.rows;
        Ok(())
    }

    /// The features, the one of the largest mean magnitude first.
    pub fn features(&self) -> Vec<FeatureImportance> {
        let mut features = self.in_order();
        features.sort_by(|a, b| b.magnitude.mean.total_cmp(&a.magnitude.mean));
        features
    }

    /// The features in the order of their names, as given.
    pub fn in_order(&self) -> Vec<FeatureImportance> {
        let total: f64 = self.magnitude.iter().map(|m| m.mean).sum();
        let moments = self.magnitude.iter().zip(&self.value);
        self.names
            .iter()
            .zip(moments)
            .map(|(name, (magnitude, value))| FeatureImportance {
                name: name.clone(),
                magnitude: magnitude.estimate(self.rows),
                value: value.estimate(self.rows),
                share: match total > 0.0 {
                    true => magnitude.mean / total,
                    false => 0.0,
                },
            })
            .collect()
    }

    fn check(&self, features: usize) -> Result<(), Error> {
        match features == self.names.len() {
            true => Ok(()),
            false => Err(Error::option(
                "row",
                format!("{features} features"),
                "it must have as many as there are names",
            )),
        }
    }
}

/// [`Importance`] of all rows, and of those of each group.
///
/// ```
/// use saliency_core::{Contribution, analysis::GroupedImportance};
/// let row = |value: f64| [Contribution { value, magnitude: value.abs() }];
/// let mut importance = GroupedImportance::new(["age"]);
/// importance.add(Some("women"), &row(1.0))?;
/// importance.add(Some("men"), &row(3.0))?;
/// assert_eq!(importance.all.features()[0].magnitude.mean, 2.0);
/// assert_eq!(importance.groups["men"].features()[0].magnitude.mean, 3.0);
/// # Ok::<(), saliency_core::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GroupedImportance {
    /// All rows.
    pub all: Importance,
    /// Rows of each group, by its name.
    pub groups: BTreeMap<String, Importance>,
}

impl GroupedImportance {
    /// Nothing so far, of features of these names.
    pub fn new(names: impl IntoIterator<Item = impl Into<String>>) -> Self {
        GroupedImportance {
            all: Importance::new(names),
            groups: BTreeMap::new(),
        }
    }

    /// One more row, of a group where there are any.
    ///
    /// # Errors
    /// [`Error::Option`] where it has another number of features, or from the 1001st group on.
    pub fn add(&mut self, group: Option<&str>, row: &[Contribution]) -> Result<(), Error> {
        self.all.add(row)?;
        let Some(group) = group else { return Ok(()) };
        if !self.groups.contains_key(group) {
            if self.groups.len() >= MOST_GROUPS {
                return Err(Error::option(
                    "group",
                    group,
                    "there are more than 1000 groups; choose a column of fewer values",
                ));
            }
            let none = Importance::new(self.all.names.iter().cloned());
            self.groups.insert(group.into(), none);
        }
        match self.groups.get_mut(group) {
            Some(importance) => importance.add(row),
            None => Ok(()),
        }
    }
}

/// The 97.5% quantile of Student's t: exact for one and two degrees of freedom, beyond by
/// Hill's expansion of the normal one (Abramowitz and Stegun 26.7.5), within 0.2%.
fn t_975(freedom: u64) -> f64 {
    const Z: f64 = 1.959_963_984_540_054;
    let n = freedom as f64;
    match freedom {
        0 => f64::INFINITY,
        1 => 12.706_204_736_174_7,
        2 => 4.302_652_729_749_46,
        _ => {
            let (z3, z5, z7) = (Z.powi(3), Z.powi(5), Z.powi(7));
            let z9 = Z.powi(9);
            let g1 = (z3 + Z) / 4.0;
            let g2 = (5.0 * z5 + 16.0 * z3 + 3.0 * Z) / 96.0;
            let g3 = (3.0 * z7 + 19.0 * z5 + 17.0 * z3 - 15.0 * Z) / 384.0;
            let g4 = (79.0 * z9 + 776.0 * z7 + 1482.0 * z5 - 1920.0 * z3 - 945.0 * Z) / 92160.0;
            Z + g1 / n + g2 / n.powi(2) + g3 / n.powi(3) + g4 / n.powi(4)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn contribution(value: f64) -> Contribution {
        Contribution {
            value,
            magnitude: value.abs(),
        }
    }

    fn of(rows: &[f64]) -> Importance {
        let mut importance = Importance::new(["x"]);
        for &row in rows {
            importance.add(&[contribution(row)]).unwrap();
        }
        importance
    }

    /// scipy.stats.t.ppf(0.975, ...)
    #[test]
    fn quantiles_are_scipys() {
        for (freedom, want) in [
            (1, 12.706204736432095),
            (2, 4.302652729911275),
            (3, 3.182446305284263),
            (4, 2.7764451051977987),
            (10, 2.2281388519649385),
            (99, 1.9842169515086827),
        ] {
            let got = t_975(freedom);
            assert!((got / want - 1.0).abs() < 2e-3, "{freedom}: {got} {want}");
        }
    }

    #[test]
    fn a_constant_far_from_zero_has_no_error() {
        let importance = of(&[1e8 + 1.0; 1000]);
        let value = importance.features()[0].value;
        assert_eq!(value.mean, 1e8 + 1.0);
        assert_eq!(value.standard_error, Some(0.0));
        assert_eq!(of(&[2.0]).features()[0].value.standard_error, None);
    }

    #[test]
    fn sizes_and_groups_are_checked() {
        let mut importance = GroupedImportance::new(["a", "b"]);
        assert!(importance.add(None, &[contribution(1.0)]).is_err());
        let row = [contribution(1.0), contribution(2.0)];
        for group in 0..1000 {
            importance.add(Some(&group.to_string()), &row).unwrap();
        }
        let error = importance.add(Some("one more"), &row).unwrap_err();
        assert!(error.to_string().contains("1000 groups"), "{error}");
        assert!(importance.add(Some("3"), &row).is_ok());
    }

    proptest! {
        /// Any split, merged, is the two-pass mean and standard error.
        #[test]
        fn merged_parts_are_the_whole(
            rows in prop::collection::vec(-1e3f64..1e3, 2..60),
            cuts in prop::collection::vec(0usize..60, 0..4),
        ) {
            let mut cuts: Vec<usize> = cuts.into_iter().map(|c| c.min(rows.len())).collect();
            cuts.extend([0, rows.len()]);
            cuts.sort_unstable();
            let mut merged = of(&[]);
            for cut in cuts.windows(2) {
                merged.merge(&of(&rows[cut[0]..cut[1]])).unwrap();
            }
            let n = rows.len() as f64;
            for (got, values) in [
                (merged.features()[0].value, rows.clone()),
                (merged.features()[0].magnitude, rows.iter().map(|r| r.abs()).collect()),
            ] {
                let mean = values.iter().sum::<f64>() / n;
                let variance = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / (n - 1.0);
                let error = (variance / n).sqrt();
                prop_assert!((got.mean - mean).abs() < 1e-9 * (1.0 + mean.abs()));
                prop_assert!((got.standard_error.unwrap() - error).abs() < 1e-9 * (1.0 + error));
                let (low, high) = got.interval.unwrap();
                prop_assert!(low <= got.mean && got.mean <= high);
            }
            prop_assert_eq!(merged.rows(), rows.len() as u64);
        }
    }
}
