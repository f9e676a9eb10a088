use crate::error::{Error, Result};

/// Ranges at or below this are drawn as constant.
pub(crate) const FLAT: f64 = 1e-10;

/// A saliency map: `width * height` finite values, row by row from the top left.
///
/// ```
/// use saliency_viz::Grid;
///
/// let map = Grid::new(3, 1, vec![-1.0, 0.0, 3.0])?;
/// assert_eq!((map.min(), map.max()), (-1.0, 3.0));
/// assert_eq!(map.normalised().values(), [0.0, 0.25, 1.0]);
/// # Ok::<(), saliency_viz::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Grid {
    width: usize,
    height: usize,
    values: Vec<f32>,
}

impl Grid {
    /// Takes `values` as `height` rows of `width` numbers.
    ///
    /// # Errors
    /// No pixels, a side too long for a picture, a length other than
    /// `width * height`, or a value that is NaN or infinite.
    ///
    /// ```
    /// use saliency_viz::Grid;
    ///
    /// let error = Grid::new(2, 1, vec![0.5, f32::NAN]).unwrap_err();
    /// assert!(error.to_string().starts_with("value 1 of the grid is NaN"));
    /// ```
    pub fn new(width: usize, height: usize, values: Vec<f32>) -> Result<Self> {
        if width == 0 || height == 0 {
            return Err(Error::EmptyGrid { width, height });
        }
        let side = u32::MAX as usize;
        let expected = match width.checked_mul(height) {
            Some(expected) if width <= side && height <= side => expected,
            _ => return Err(Error::GridTooLarge { width, height }),
        };
        if values.len() != expected {
            return Err(Error::GridLength {
                width,
                height,
                expected,
                found: values.len(),
            });
        }
        check_finite("the grid", &values)?;
        Ok(Self {
            width,
            height,
            values,
        })
    }

    /// Number of columns.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Number of rows.
    pub fn height(&self) -> usize {
        self.height
    }

    /// The values, row by row from the top left.
    pub fn values(&self) -> &[f32] {
        &self.values
    }

    /// The smallest value.
    pub fn min(&self) -> f32 {
        self.values.iter().copied().fold(f32::INFINITY, f32::min)
    }

    /// The largest value.
    pub fn max(&self) -> f32 {
        self.values
            .iter()
            .copied()
            .fold(f32::NEG_INFINITY, f32::max)
    }

    /// `(s - min) / (max - min)`, or zeros where `max - min <= 1e-10`.
    ///
    /// ```
    /// use saliency_viz::Grid;
    ///
    /// let constant = Grid::new(2, 1, vec![7.0, 7.0])?;
    /// assert_eq!(constant.normalised().values(), [0.0, 0.0]);
    /// # Ok::<(), saliency_viz::Error>(())
    /// ```
    pub fn normalised(&self) -> Self {
        let min = f64::from(self.min());
        if self.is_flat() {
            return self.map(|_| 0.0);
        }
        let range = f64::from(self.max()) - min;
        self.map(|value| ((f64::from(value) - min) / range) as f32)
    }

    /// `s / (max + 1e-8)`: zero stays zero. Meant for maps without negative values.
    ///
    /// ```
    /// use saliency_viz::Grid;
    ///
    /// let map = Grid::new(2, 1, vec![1.0, 4.0])?.scaled_by_max();
    /// assert_eq!(map.values(), [0.25, 1.0]);
    /// # Ok::<(), saliency_viz::Error>(())
    /// ```
    pub fn scaled_by_max(&self) -> Self {
        let scale = f64::from(self.max()) + 1e-8;
        self.map(|value| (f64::from(value) / scale).clamp(f32::MIN.into(), f32::MAX.into()) as f32)
    }

    /// Whether [`normalised`](Self::normalised) gives zeros.
    pub(crate) fn is_flat(&self) -> bool {
        f64::from(self.max()) - f64::from(self.min()) <= FLAT
    }

    fn map(&self, f: impl Fn(f32) -> f32) -> Self {
        Self {
            width: self.width,
            height: self.height,
            values: self.values.iter().map(|&value| f(value)).collect(),
        }
    }
}

pub(crate) fn check_finite(what: &'static str, values: &[f32]) -> Result<()> {
    match values.iter().position(|value| !value.is_finite()) {
        None => Ok(()),
        Some(index) => Err(Error::NotFinite {
            what,
            index,
            value: values[index],
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(values: &[f32]) -> Grid {
        Grid::new(values.len(), 1, values.to_vec()).unwrap()
    }

    #[test]
    fn bad_sizes_and_values_are_errors() {
        assert!(matches!(
            Grid::new(0, 3, vec![]),
            Err(Error::EmptyGrid {
                width: 0,
                height: 3
            })
        ));
        assert!(matches!(
            Grid::new(usize::MAX, 2, vec![]),
            Err(Error::GridTooLarge { .. })
        ));
        assert!(matches!(
            Grid::new(3, 2, vec![0.0; 5]),
            Err(Error::GridLength {
                expected: 6,
                found: 5,
                ..
            })
        ));
        for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            assert!(matches!(
                Grid::new(2, 2, vec![0.0, 1.0, value, 2.0]),
                Err(Error::NotFinite { index: 2, .. })
            ));
        }
    }

    #[test]
    fn normalised_spans_zero_to_one() {
        assert_eq!(row(&[2.0, 6.0, 3.0]).normalised(), row(&[0.0, 1.0, 0.25]));
    }

    #[test]
    fn the_flat_threshold_is_1e_10() {
        assert_eq!(row(&[0.0, 0.9e-10]).normalised(), row(&[0.0, 0.0]));
        assert_eq!(row(&[0.0, 1.1e-10]).normalised(), row(&[0.0, 1.0]));
    }

    #[test]
    fn the_whole_range_of_f32_does_not_overflow() {
        let widest = row(&[f32::MIN, 0.0, f32::MAX]);
        assert_eq!(widest.normalised(), row(&[0.0, 0.5, 1.0]));
        assert_eq!(row(&[0.0, f32::MAX]).scaled_by_max(), row(&[0.0, 1.0]));
    }

    #[test]
    fn scaling_by_max_adds_1e_8() {
        assert_eq!(row(&[0.0, 1e-8]).scaled_by_max(), row(&[0.0, 0.5]));
        assert_eq!(row(&[0.0, 0.0]).scaled_by_max(), row(&[0.0, 0.0]));
    }
}
