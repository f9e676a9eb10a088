use serde::{Deserialize, Serialize};

use crate::{error::Error, features::Features};

/// Names of a table's or a series' features, and the column each one came from.
///
/// A categorical column that was one-hot encoded is several features of one source; its
/// attribution is their signed sum. Attached to an attribution by
/// [`with_columns`](crate::Attribution::with_columns), they travel with it.
///
/// ```
/// use saliency_core::{Columns, Features};
/// let columns = Columns::grouped([
///     ("age", "age"),
///     ("housing=own", "housing"),
///     ("housing=rent", "housing"),
/// ]);
/// assert_eq!(columns.sources(), ["age", "housing"]);
/// assert_eq!(columns.summed(&[0.5, 2.0, -3.0]), [0.5, -1.0]);
/// // Ablation and Shapley values take the encoded columns away together:
/// assert_eq!(columns.features(1), Features::Given(vec![0, 1, 1]));
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Unchecked")]
pub struct Columns {
    names: Vec<String>,
    sources: Vec<String>,
    source_of: Vec<usize>,
}

#[derive(Deserialize)]
struct Unchecked {
    names: Vec<String>,
    sources: Vec<String>,
    source_of: Vec<usize>,
}

impl TryFrom<Unchecked> for Columns {
    type Error = Error;

    fn try_from(columns: Unchecked) -> Result<Self, Error> {
        let Unchecked {
            names,
            sources,
            source_of,
        } = columns;
        if names.len() != source_of.len() || source_of.iter().any(|&s| s >= sources.len()) {
            return Err(Error::option(
                "columns",
                format!("{} names", names.len()),
                "each name needs the number of its source",
            ));
        }
        Ok(Columns {
            names,
            sources,
            source_of,
        })
    }
}

impl Columns {
    /// Features that are each a column of their own.
    ///
    /// ```
    /// let columns = saliency_core::Columns::new(["age", "income"]);
    /// assert_eq!(columns.names(), columns.sources());
    /// ```
    pub fn new(names: impl IntoIterator<Item = impl Into<String>>) -> Self {
        let names: Vec<String> = names.into_iter().map(Into::into).collect();
        Columns {
            source_of: (0..names.len()).collect(),
            sources: names.clone(),
            names,
        }
    }

    /// Name and source column of each feature; sources keep the order in which they appear.
    pub fn grouped(
        features: impl IntoIterator<Item = (impl Into<String>, impl Into<String>)>,
    ) -> Self {
        let (mut names, mut sources, mut source_of) = (Vec::new(), Vec::<String>::new(), vec![]);
        for (name, source) in features {
            let (name, source) = (name.into(), source.into());
            names.push(name);
            let known = sources.iter().position(|known| *known == source);
            source_of.push(known.unwrap_or_else(|| {
                sources.push(source);
                sources.len() - 1
            }));
        }
        Columns {
            names,
            sources,
            source_of,
        }
    }

    /// `count` features called `x0`, `x1`, ...
    pub(crate) fn numbered(count: usize) -> Self {
        Columns::new((0..count).map(|i| format!("x{i}")))
    }

    /// The features, as the model takes them.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// The columns they came from.
    pub fn sources(&self) -> &[String] {
        &self.sources
    }

    /// The source of each feature, by its number.
    pub fn source_of(&self) -> &[usize] {
        &self.source_of
    }

    /// The signed sum of each source, from one value for each feature.
    ///
    /// # Panics
    /// When there is not one value for each feature.
    pub fn summed(&self, values: &[f64]) -> Vec<f64> {
        assert_eq!(values.len(), self.names.len(), "a value for each feature");
        let mut sums = vec![0.0; self.sources.len()];
        for (value, &source) in values.iter().zip(&self.source_of) {
            sums[source] += value;
        }
        sums
    }

    /// Groups for methods that take features away: each source is one feature, at each of
    /// `steps` steps of a series (1 for a table).
    ///
    /// ```
    /// use saliency_core::{Columns, Features};
    /// let columns = Columns::grouped([("up", "move"), ("down", "move"), ("price", "price")]);
    /// assert_eq!(columns.features(2), Features::Given(vec![0, 0, 1, 2, 2, 3]));
    /// assert_eq!(columns.over_time(2), Features::Given(vec![0, 0, 1, 0, 0, 1]));
    /// ```
    pub fn features(&self, steps: usize) -> Features {
        let at = |step| {
            let first = step * self.sources.len();
            self.source_of.iter().map(move |source| first + source)
        };
        Features::Given((0..steps).flat_map(at).collect())
    }

    /// Groups for methods that take features away: each source is one feature over all of
    /// `steps` steps.
    pub fn over_time(&self, steps: usize) -> Features {
        Features::Given(self.source_of.repeat(steps))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_need_not_be_side_by_side() {
        let columns = Columns::grouped([("a=1", "a"), ("b", "b"), ("a=2", "a")]);
        assert_eq!(columns.source_of(), [0, 1, 0]);
        assert_eq!(columns.summed(&[1.0, 5.0, 2.0]), [3.0, 5.0]);
    }

    #[test]
    fn json_round_trips_and_is_checked() {
        let columns = Columns::grouped([("a=1", "a"), ("b", "b")]);
        let text = serde_json::to_string(&columns).unwrap();
        assert_eq!(serde_json::from_str::<Columns>(&text).unwrap(), columns);
        let bad = r#"{"names": ["a"], "sources": ["a"], "source_of": [1]}"#;
        let error = serde_json::from_str::<Columns>(bad).unwrap_err();
        assert!(error.to_string().contains("columns = 1 names"), "{error}");
    }
}
