//! A picture on the host, and what segmentation does to it first.

use burn::tensor::Tensor;

use crate::{
    blur::{Border, gaussian_matrix},
    error::Error,
};

/// Channels of a picture, one plane after the other, each row by row.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Picture {
    pub channels: usize,
    pub height: usize,
    pub width: usize,
    pub values: Vec<f64>,
}

impl Picture {
    /// Each row of `[N, C, H, W]`.
    pub(crate) fn all(input: &Tensor<4>) -> Result<Vec<Self>, Error> {
        let [_, channels, height, width] = input.dims();
        let values = input
            .clone()
            .try_into_vec_as::<f64>()
            .map_err(Error::device)?;
        let picture = |values: &[f64]| Picture {
            channels,
            height,
            width,
            values: values.to_vec(),
        };
        Ok(values
            .chunks(channels * height * width)
            .map(picture)
            .collect())
    }

    /// The values of all channels at one pixel.
    pub(crate) fn pixel(&self, index: usize) -> impl Iterator<Item = f64> {
        self.values
            .iter()
            .skip(index)
            .step_by(self.height * self.width)
            .copied()
    }

    /// Values mapped linearly so that the least is `low` and the greatest `high`; all `low`
    /// for a flat picture.
    pub(crate) fn scaled(mut self, low: f64, high: f64) -> Self {
        let least = self.values.iter().copied().fold(f64::INFINITY, f64::min);
        let range = self
            .values
            .iter()
            .copied()
            .fold(f64::NEG_INFINITY, f64::max)
            - least;
        let scale = if range > 0.0 {
            (high - low) / range
        } else {
            0.0
        };
        self.values
            .iter_mut()
            .for_each(|v| *v = (*v - least) * scale + low);
        self
    }

    /// Blurred by a Gaussian; borders are mirrored.
    pub(crate) fn blurred(&self, sigma: f64) -> Self {
        let matrix = |len| gaussian_matrix(len, sigma, Border::Reflect);
        self.mapped(
            (self.height, matrix(self.height)),
            (self.width, matrix(self.width)),
        )
    }

    /// Resized by triangular weights, wider where it shrinks (bilinear with antialiasing).
    pub(crate) fn resized(&self, height: usize, width: usize) -> Self {
        self.mapped(
            (height, triangles(self.height, height)),
            (width, triangles(self.width, width)),
        )
    }

    /// One matrix `[to, from]` along the rows of pixels and one along the columns.
    fn mapped(
        &self,
        (height, down): (usize, Vec<f64>),
        (width, across): (usize, Vec<f64>),
    ) -> Self {
        let down = sparse(&down, self.height);
        let across = sparse(&across, self.width);
        let mut values = Vec::with_capacity(self.channels * height * width);
        for plane in self.values.chunks(self.height * self.width) {
            let mut wide = vec![0.0; self.height * width];
            for y in 0..self.height {
                let row = &plane[y * self.width..][..self.width];
                for (x, weights) in across.iter().enumerate() {
                    wide[y * width + x] = weights.iter().map(|&(i, w)| w * row[i]).sum();
                }
            }
            for weights in &down {
                for x in 0..width {
                    values.push(weights.iter().map(|&(i, w)| w * wide[i * width + x]).sum());
                }
            }
        }
        Picture {
            channels: self.channels,
            height,
            width,
            values,
        }
    }
}

/// The non-zero weights of each row of a matrix.
fn sparse(matrix: &[f64], columns: usize) -> Vec<Vec<(usize, f64)>> {
    let row = |row: &[f64]| {
        let weights = row.iter().copied().enumerate();
        weights.filter(|&(_, w)| w != 0.0).collect()
    };
    matrix.chunks(columns).map(row).collect()
}

fn triangles(from: usize, to: usize) -> Vec<f64> {
    let ratio = from as f64 / to as f64;
    let reach = ratio.max(1.0);
    let mut matrix = Vec::with_capacity(from * to);
    for i in 0..to {
        let centre = (i as f64 + 0.5) * ratio;
        let weight = |j: usize| (1.0 - (j as f64 + 0.5 - centre).abs() / reach).max(0.0);
        let total: f64 = (0..from).map(weight).sum();
        matrix.extend((0..from).map(|j| weight(j) / total));
    }
    matrix
}

/// Labels resized by taking the nearest pixel.
pub(crate) fn nearest(
    labels: &[usize],
    (height, width): (usize, usize),
    (to_height, to_width): (usize, usize),
) -> Vec<usize> {
    let at = |i: usize, from: usize, to: usize| (2 * i + 1) * from / (2 * to);
    (0..to_height)
        .flat_map(|y| {
            let row = at(y, height, to_height) * width;
            (0..to_width).map(move |x| labels[row + at(x, width, to_width)])
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn picture(height: usize, width: usize, value: impl Fn(usize, usize) -> f64) -> Picture {
        let values = (0..height * width)
            .map(|i| value(i / width, i % width))
            .collect();
        Picture {
            channels: 1,
            height,
            width,
            values,
        }
    }

    #[test]
    fn resizing_keeps_planes_and_the_mean_of_whole_blocks() {
        let plane = picture(4, 6, |y, x| 2.0 * y as f64 - x as f64);
        let larger = plane.resized(8, 12);
        // Away from the border, a plane stays one.
        assert!((larger.values[4 * 12 + 5] - (2.0 * 1.75 - 2.25)).abs() < 1e-12);
        let flat = picture(9, 7, |_, _| 3.0).resized(4, 5);
        assert!(flat.values.iter().all(|v| (v - 3.0).abs() < 1e-12));
        let same = plane.resized(4, 6);
        assert_eq!(same, plane);
    }

    #[test]
    fn scaling_takes_the_least_to_low_and_the_greatest_to_high() {
        let scaled = picture(1, 3, |_, x| x as f64).scaled(-1.0, 1.0);
        assert_eq!(scaled.values, [-1.0, 0.0, 1.0]);
        let flat = picture(1, 3, |_, _| 7.0).scaled(-1.0, 1.0);
        assert_eq!(flat.values, [-1.0; 3]);
    }

    #[test]
    fn labels_grow_and_shrink_back() {
        let labels: Vec<usize> = (0..6).collect();
        let large = nearest(&labels, (2, 3), (4, 9));
        assert_eq!(large[..9], [0, 0, 0, 1, 1, 1, 2, 2, 2]);
        assert_eq!(nearest(&large, (4, 9), (2, 3)), labels);
    }
}
