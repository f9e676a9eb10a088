//! The low frequencies of a row's channels: orthonormal cosines over its positions (DCT-II).

use std::{f64::consts::PI, ops::Range};

/// The coefficients of the lowest frequencies, all channels of one before those of the next.
pub(super) struct Waves {
    shape: Vec<usize>,
    /// Each axis of positions with its cosines, frequency by frequency.
    axes: Vec<(usize, Vec<Vec<f32>>)>,
    /// Where each coefficient is in an array shaped like the row, but with an axis's
    /// frequencies in place of its positions.
    places: Vec<usize>,
}

impl Waves {
    /// The `most` lowest of a row of this shape, whose `positions` are these axes.
    pub(super) fn new(shape: &[usize], positions: Range<usize>, most: usize) -> Self {
        let channels: usize = (0..shape.len())
            .filter(|axis| !positions.contains(axis))
            .map(|axis| shape[axis])
            .product();
        let lengths = &shape[positions.clone()];
        let mut chosen = frequencies(lengths);
        chosen.truncate(most.div_ceil(channels));
        let axes: Vec<(usize, Vec<Vec<f32>>)> = (positions.clone().zip(lengths).enumerate())
            .map(|(index, (axis, &length))| {
                let highest = chosen.iter().map(|f| f[index]).max().unwrap_or(0);
                let cosines = (0..=highest).map(|f| cosine(f, length)).collect();
                (axis, cosines)
            })
            .collect();
        let mut sizes = shape.to_vec();
        for (axis, cosines) in &axes {
            sizes[*axis] = cosines.len();
        }
        let mut places: Vec<usize> = chosen
            .iter()
            .flat_map(|frequency| {
                places_of(&sizes, |axis| {
                    positions
                        .contains(&axis)
                        .then(|| frequency[axis - positions.start])
                })
            })
            .collect();
        places.truncate(most);
        Waves {
            shape: shape.to_vec(),
            axes,
            places,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.places.len()
    }

    /// Gives the row these coefficients and leaves all others.
    pub(super) fn replace(&self, row: &mut [f32], coefficients: &[f64]) {
        let mut shape = self.shape.clone();
        let mut found = row.to_vec();
        for (axis, cosines) in &self.axes {
            found = along(&found, &mut shape, *axis, cosines.len(), |k, i| {
                cosines[k][i]
            });
        }
        let mut change = vec![0.0; found.len()];
        for (&place, &wanted) in self.places.iter().zip(coefficients) {
            change[place] = wanted as f32 - found[place];
        }
        for (axis, cosines) in self.axes.iter().rev() {
            let length = self.shape[*axis];
            change = along(&change, &mut shape, *axis, length, |i, k| cosines[k][i]);
        }
        for (value, change) in row.iter_mut().zip(change) {
            *value += change;
        }
    }
}

/// The lowest of the first frequencies of axes of these lengths, in order of cycles per step.
fn frequencies(lengths: &[usize]) -> Vec<Vec<usize>> {
    let most = match lengths.len() {
        1 => 256,
        2 => 64,
        _ => 16,
    };
    let mut all = vec![Vec::new()];
    for &length in lengths {
        all = all
            .into_iter()
            .flat_map(|f: Vec<usize>| (0..length.min(most)).map(move |k| [&f[..], &[k]].concat()))
            .collect();
    }
    let square = |f: &Vec<usize>| -> f64 {
        let axes = f.iter().zip(lengths);
        axes.map(|(&k, &length)| (k as f64 / length as f64).powi(2))
            .sum()
    };
    all.sort_by(|a, b| square(a).total_cmp(&square(b)));
    all
}

/// The places in an array of these sizes where each axis has the given index, if one is given.
fn places_of(sizes: &[usize], index: impl Fn(usize) -> Option<usize>) -> Vec<usize> {
    sizes
        .iter()
        .enumerate()
        .fold(vec![0], |places, (axis, &size)| {
            let own = index(axis).map_or(0..size, |i| i..i + 1);
            (places.into_iter())
                .flat_map(|place| own.clone().map(move |i| place * size + i))
                .collect()
        })
}

/// The product of a matrix with one axis of `values`, whose size becomes `rows`.
fn along(
    values: &[f32],
    shape: &mut [usize],
    axis: usize,
    rows: usize,
    matrix: impl Fn(usize, usize) -> f32,
) -> Vec<f32> {
    let (size, inner) = (shape[axis], shape[axis + 1..].iter().product::<usize>());
    shape[axis] = rows;
    let mut product = vec![0.0; values.len() / size * rows];
    for (to, from) in product
        .chunks_mut(rows * inner)
        .zip(values.chunks(size * inner))
    {
        for (row, to) in to.chunks_mut(inner).enumerate() {
            for (column, from) in from.chunks(inner).enumerate() {
                let weight = matrix(row, column);
                for (to, from) in to.iter_mut().zip(from) {
                    *to += weight * from;
                }
            }
        }
    }
    product
}

/// An orthonormal cosine.
fn cosine(frequency: usize, length: usize) -> Vec<f32> {
    let scale = if frequency == 0 { 1.0 } else { 2.0 } / length as f64;
    (0..length)
        .map(|i| {
            let phase = PI * frequency as f64 * (i as f64 + 0.5) / length as f64;
            (scale.sqrt() * phase.cos()) as f32
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::noise::standard_normal;

    /// Putting a row's own coefficients back changes nothing, others are what is then there,
    /// and what is left of the row does not know of them.
    #[test]
    fn coefficients_are_replaced_and_nothing_else() {
        for (shape, positions, most) in [
            (vec![3, 12, 10], 1..3, 256),
            (vec![40, 5], 0..1, 33),
            (vec![2, 5, 4, 6], 1..4, 100),
        ] {
            let waves = Waves::new(&shape, positions, most);
            assert_eq!(waves.len(), most.min(shape.iter().product()));
            let len: usize = shape.iter().product();
            let row = standard_normal(1, 0, len);
            let with = |of: &[f32], value: f64| {
                let mut row = of.to_vec();
                waves.replace(&mut row, &vec![value; waves.len()]);
                row
            };
            let norm = |a: &[f32]| a.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>();
            let none = with(&row, 0.0);
            let ones = with(&row, 1.0);
            let gap: Vec<f32> = ones.iter().zip(&none).map(|(a, b)| a - b).collect();
            // The cosines are orthonormal.
            assert!((norm(&gap) - waves.len() as f64).abs() < 1e-3);
            let again = with(&ones, 0.0);
            assert!(again.iter().zip(&none).all(|(a, b)| (a - b).abs() < 1e-5));
            let product: f32 = none.iter().zip(&gap).map(|(a, b)| a * b).sum();
            assert!(product.abs() < 1e-3, "{product}");
        }
    }

    #[test]
    fn the_first_frequencies_are_constant_then_slow() {
        assert_eq!(frequencies(&[8, 4])[..4], [[0, 0], [1, 0], [0, 1], [2, 0]]);
    }
}
