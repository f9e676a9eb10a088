use serde::{Deserialize, Serialize};

use crate::{error::Error, host::name_of};

/// One reduced map on the host: `height` x `width` values in row-major order.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Unchecked")]
pub struct Map {
    height: usize,
    width: usize,
    values: Vec<f32>,
}

#[derive(Deserialize)]
struct Unchecked {
    height: usize,
    width: usize,
    values: Vec<f32>,
}

impl TryFrom<Unchecked> for Map {
    type Error = Error;

    fn try_from(map: Unchecked) -> Result<Self, Error> {
        Map::new(map.height, map.width, map.values)
    }
}

impl Map {
    /// A map from its values.
    ///
    /// ```
    /// use saliency_core::Map;
    /// let map = Map::new(1, 3, vec![1.0, 3.0, 2.0])?;
    /// assert_eq!(map.normalised().values(), [0.0, 1.0, 0.5]);
    /// assert!(Map::new(2, 2, vec![0.0]).is_err());
    /// # Ok::<(), saliency_core::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Shape`] when the number of values is not `height * width`;
    /// [`Error::EmptyInput`] when that is zero; [`Error::NonFinite`] at a NaN or infinity.
    pub fn new(height: usize, width: usize, values: Vec<f32>) -> Result<Self, Error> {
        if height == 0 || width == 0 {
            return Err(Error::EmptyInput {
                shape: vec![height, width],
            });
        }
        if values.len() != height * width {
            return Err(Error::Shape {
                what: "the map's values",
                expected: format!("{height} x {width} values"),
                got: vec![values.len()],
            });
        }
        check_values(&values)?;
        Ok(Map {
            height,
            width,
            values,
        })
    }

    /// Height in pixels.
    pub fn height(&self) -> usize {
        self.height
    }

    /// Width in pixels.
    pub fn width(&self) -> usize {
        self.width
    }

    /// The values, row by row.
    pub fn values(&self) -> &[f32] {
        &self.values
    }

    /// The values, row by row, moved out.
    pub fn into_values(self) -> Vec<f32> {
        self.values
    }

    /// Scaled for display: (s - min) / (max - min), or all zeros where max - min <= 1e-10.
    pub fn normalised(&self) -> Map {
        Map {
            values: normalise(&self.values),
            ..*self
        }
    }

    /// Row and column of the largest value (the first of equals).
    ///
    /// ```
    /// # use saliency_core::Map;
    /// assert_eq!(Map::new(2, 2, vec![0.0, 1.0, 5.0, 2.0])?.peak(), (1, 0));
    /// # Ok::<(), saliency_core::Error>(())
    /// ```
    pub fn peak(&self) -> (usize, usize) {
        let mut best = 0;
        for (index, value) in self.values.iter().enumerate() {
            if *value > self.values[best] {
                best = index;
            }
        }
        (best / self.width, best % self.width)
    }
}

/// Fails with the place of the first NaN or infinity.
pub(crate) fn check_values(values: &[f32]) -> Result<(), Error> {
    match values.iter().position(|v| !v.is_finite()) {
        Some(element) => Err(Error::NonFinite {
            what: "the map",
            value: name_of(values[element].into()),
            row: 0,
            element,
        }),
        None => Ok(()),
    }
}

/// (s - min) / (max - min), or all zeros where max - min <= 1e-10.
///
/// ```
/// assert_eq!(saliency_core::normalise(&[4.0, 2.0]), [1.0, 0.0]);
/// assert_eq!(saliency_core::normalise(&[7.0, 7.0]), [0.0, 0.0]);
/// ```
pub fn normalise(values: &[f32]) -> Vec<f32> {
    let min = values.iter().copied().fold(f32::INFINITY, f32::min);
    let max = values.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let range = max as f64 - min as f64;
    values
        .iter()
        .map(|&v| match range <= 1e-10 {
            true => 0.0,
            false => ((v as f64 - min as f64) / range) as f32,
        })
        .collect()
}

/// Pearson's correlation of two equally long vectors, in f64; 0 where one is constant.
///
/// ```
/// use saliency_core::pearson;
/// assert_eq!(pearson(&[1.0, 2.0, 3.0], &[2.0, 4.0, 6.0]), 1.0);
/// assert_eq!(pearson(&[1.0, 2.0, 3.0], &[5.0, 5.0, 5.0]), 0.0);
/// ```
///
/// # Panics
/// When the lengths differ.
pub fn pearson(a: &[f32], b: &[f32]) -> f64 {
    assert_eq!(a.len(), b.len(), "vectors of equal length");
    let mean = |v: &[f32]| v.iter().map(|&x| x as f64).sum::<f64>() / v.len() as f64;
    let (mean_a, mean_b) = (mean(a), mean(b));
    let (mut ab, mut aa, mut bb) = (0.0, 0.0, 0.0);
    for (&x, &y) in a.iter().zip(b) {
        let (x, y) = (x as f64 - mean_a, y as f64 - mean_b);
        ab += x * y;
        aa += x * x;
        bb += y * y;
    }
    match aa > 0.0 && bb > 0.0 {
        true => (ab / (aa * bb).sqrt()).clamp(-1.0, 1.0),
        false => 0.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn bad_maps_are_refused_from_code_and_from_json() {
        assert!(Map::new(0, 3, vec![]).is_err());
        let error = Map::new(1, 2, vec![0.0, f32::NAN]).unwrap_err();
        assert!(
            error.to_string().contains("NaN at row 0, element 1"),
            "{error}"
        );
        let short = r#"{"height": 2, "width": 2, "values": [1.0]}"#;
        assert!(serde_json::from_str::<Map>(short).is_err());
    }

    proptest! {
        #[test]
        fn normalised_values_span_zero_to_one(values in prop::collection::vec(-1e6f32..1e6, 1..50)) {
            let scaled = normalise(&values);
            prop_assert!(scaled.iter().all(|v| (0.0..=1.0).contains(v)));
            if values.iter().any(|v| *v != values[0]) {
                prop_assert!(scaled.contains(&0.0) && scaled.contains(&1.0));
            }
        }

        #[test]
        fn correlation_ignores_scale_and_shift(
            values in prop::collection::vec(-10.0f32..10.0, 3..50),
            scale in 0.5f32..5.0,
        ) {
            prop_assume!(values.iter().any(|v| (v - values[0]).abs() > 0.1));
            let moved: Vec<f32> = values.iter().map(|v| v * scale + 1.0).collect();
            prop_assert!((pearson(&values, &moved) - 1.0).abs() < 1e-5);
            let flipped: Vec<f32> = moved.iter().map(|v| -v).collect();
            prop_assert!((pearson(&values, &flipped) + 1.0).abs() < 1e-5);
        }
    }
}
