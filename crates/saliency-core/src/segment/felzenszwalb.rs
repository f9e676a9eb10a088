use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

use super::picture::{Picture, nearest};
use crate::error::Error;

/// Over-segmentation of a picture by merging along its lightest edges, at several scales.
///
/// Pixels are joined to their eight neighbours by edges of weight |difference of colour|. From
/// the lightest edge up, two segments A and B are merged where the weight is below
/// min(Int(A) + k / |A|, Int(B) + k / |B|), with Int the heaviest edge inside a segment and
/// k = scale / 255; then segments below `min_size` pixels are merged with a neighbour.
/// Felzenszwalb and Huttenlocher, "Efficient Graph-Based Image Segmentation" (2004), with
/// the scale as in scikit-image.
///
/// The defaults are PAIR's for XRAI: values are mapped to [-1, 1], the picture is resized to
/// 224 x 224 (here by triangular weights, there by cubic splines), blurred by `sigma`, and
/// the segments of all `scales` are used, each made wider by a disk of radius `dilation`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Felzenszwalb {
    /// Larger scales give larger segments.
    pub scales: Vec<f64>,
    /// Standard deviation of the blur that comes first, in pixels.
    pub sigma: f64,
    /// The least number of pixels of a segment.
    pub min_size: usize,
    /// Side of the square that pictures are resized to; `None` segments them as they are.
    pub side: Option<usize>,
    /// How many pixels the segments reach beyond their borders.
    pub dilation: usize,
}

impl Default for Felzenszwalb {
    fn default() -> Self {
        Felzenszwalb {
            scales: vec![50.0, 100.0, 150.0, 250.0, 500.0, 1200.0],
            sigma: 0.8,
            min_size: 150,
            side: Some(224),
            dilation: 5,
        }
    }
}

impl Felzenszwalb {
    /// The segments of each row of `[N, C, H, W]` at each scale: one number, from 0 up, for each
    /// pixel, row by row. They are not made wider.
    ///
    /// ```
    /// use burn::tensor::{Device, Tensor};
    /// use saliency_core::Felzenszwalb;
    /// let halves = Tensor::<4>::from_floats([[[[0.0, 0.0, 9.0, 9.0]]]], &Device::flex());
    /// let method = Felzenszwalb { scales: vec![1.0], sigma: 0.0, min_size: 1, side: None, dilation: 0 };
    /// assert_eq!(method.segments(&halves)?, [[[0, 0, 1, 1]]]);
    /// # Ok::<(), saliency_core::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Device`] when the device fails.
    pub fn segments(&self, images: &Tensor<4>) -> Result<Vec<Vec<Vec<usize>>>, Error> {
        let pictures = Picture::all(images)?;
        Ok(pictures
            .iter()
            .map(|picture| self.labels(picture))
            .collect())
    }

    pub(crate) fn labels(&self, picture: &Picture) -> Vec<Vec<usize>> {
        let size = (picture.height, picture.width);
        let scaled = picture.clone().scaled(-1.0, 1.0);
        let scaled = match self.side {
            Some(side) if size != (side, side) => scaled.resized(side, side),
            _ => scaled,
        };
        let blurred = scaled.blurred(self.sigma);
        let edges = edges(&blurred);
        let labels = |&scale: &f64| {
            let labels = merge(&edges, blurred.height * blurred.width, scale, self.min_size);
            nearest(&labels, (blurred.height, blurred.width), size)
        };
        self.scales.iter().map(labels).collect()
    }
}

/// (weight, pixel, pixel), the lightest first; of equal ones, vertical, horizontal, then the
/// two diagonals.
fn edges(picture: &Picture) -> Vec<(f64, usize, usize)> {
    let (height, width) = (picture.height, picture.width);
    let mut edges = Vec::with_capacity(4 * height * width);
    let weight = |a: usize, b: usize| {
        let squares = picture
            .pixel(a)
            .zip(picture.pixel(b))
            .map(|(a, b)| (a - b).powi(2));
        squares.sum::<f64>().sqrt()
    };
    // From a pixel to the one `down` below and `right` beside it.
    for (down, right) in [(1, 0), (0, 1), (1, 1), (1, -1)] {
        for y in 0..height - down.min(height) {
            for x in 0..width {
                if let Some(beside) = x.checked_add_signed(right).filter(|&x| x < width) {
                    let (from, to) = (y * width + x, (y + down) * width + beside);
                    edges.push((weight(from, to), from, to));
                }
            }
        }
    }
    edges.sort_by(|a, b| a.0.total_cmp(&b.0));
    edges
}

fn merge(edges: &[(f64, usize, usize)], pixels: usize, scale: f64, min_size: usize) -> Vec<usize> {
    let scale = scale / 255.0;
    let mut segments = Segments {
        parent: (0..pixels).collect(),
        size: vec![1; pixels],
    };
    let mut inside = vec![0.0; pixels];
    for &(weight, from, to) in edges {
        let (a, b) = (segments.root(from), segments.root(to));
        let limit = |s: usize| inside[s] + scale / segments.size[s] as f64;
        if a != b && weight < limit(a).min(limit(b)) {
            inside[segments.join(a, b)] = weight;
        }
    }
    for &(_, from, to) in edges {
        let (a, b) = (segments.root(from), segments.root(to));
        if a != b && segments.size[a].min(segments.size[b]) < min_size {
            segments.join(a, b);
        }
    }
    let mut number = vec![None; pixels];
    let mut count = 0;
    (0..pixels)
        .map(|pixel| {
            *number[segments.root(pixel)].get_or_insert_with(|| {
                count += 1;
                count - 1
            })
        })
        .collect()
}

struct Segments {
    parent: Vec<usize>,
    size: Vec<usize>,
}

impl Segments {
    fn root(&mut self, mut pixel: usize) -> usize {
        while self.parent[pixel] != pixel {
            self.parent[pixel] = self.parent[self.parent[pixel]];
            pixel = self.parent[pixel];
        }
        pixel
    }

    /// Joins two roots; the lower one stays.
    fn join(&mut self, a: usize, b: usize) -> usize {
        let (stays, goes) = (a.min(b), a.max(b));
        self.parent[goes] = stays;
        self.size[stays] += self.size[goes];
        stays
    }
}

/// The pixels of each segment, with those at most `radius` away from one of its own.
pub(crate) fn dilated(
    labels: &[usize],
    (height, width): (usize, usize),
    radius: usize,
) -> Vec<Vec<usize>> {
    let count = labels.iter().max().map_or(0, |most| most + 1);
    let mut members = vec![Vec::new(); count];
    let reach = radius as isize;
    let disk: Vec<(isize, isize)> = (-reach..=reach)
        .flat_map(|dy| (-reach..=reach).map(move |dx| (dy, dx)))
        .filter(|(dy, dx)| dy * dy + dx * dx <= reach * reach)
        .collect();
    let mut last_seen = vec![usize::MAX; count];
    for pixel in 0..height * width {
        for &(dy, dx) in &disk {
            let y = (pixel / width)
                .checked_add_signed(dy)
                .filter(|&y| y < height);
            let x = (pixel % width)
                .checked_add_signed(dx)
                .filter(|&x| x < width);
            if let (Some(y), Some(x)) = (y, x) {
                let label = labels[y * width + x];
                if last_seen[label] != pixel {
                    last_seen[label] = pixel;
                    members[label].push(pixel);
                }
            }
        }
    }
    members
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Four squares of different colours.
    fn squares() -> Picture {
        let value = |i: usize| match (i / 20 < 10, i % 20 < 10) {
            (true, true) => 0.0,
            (true, false) => 0.3,
            (false, true) => 0.6,
            (false, false) => 1.0,
        };
        let values = (0..800).map(|i| if i < 400 { value(i) } else { 0.5 });
        Picture {
            channels: 2,
            height: 20,
            width: 20,
            values: values.collect(),
        }
    }

    fn unblurred() -> Felzenszwalb {
        Felzenszwalb {
            scales: vec![1.0, 1e6],
            sigma: 0.0,
            min_size: 5,
            side: None,
            dilation: 0,
        }
    }

    #[test]
    fn squares_are_told_apart_unless_the_scale_is_huge() {
        let labels = unblurred().labels(&squares());
        let want = |i: usize| 2 * usize::from(i / 20 >= 10) + usize::from(i % 20 >= 10);
        assert_eq!(labels[0], (0..400).map(want).collect::<Vec<_>>());
        assert_eq!(labels[1], [0; 400]);
    }

    #[test]
    fn small_segments_are_merged() {
        let mut picture = squares();
        picture.values[5 * 20 + 5] = 5.0;
        let count = |min_size| {
            let method = Felzenszwalb {
                min_size,
                ..unblurred()
            };
            method.labels(&picture)[0].iter().max().unwrap() + 1
        };
        assert!(count(1) > count(2));
    }

    #[test]
    fn a_flat_picture_and_a_line_of_pixels_are_one_segment() {
        for (height, width) in [(1, 7), (7, 1), (1, 1), (5, 4)] {
            let picture = Picture {
                channels: 1,
                height,
                width,
                values: vec![2.0; height * width],
            };
            assert_eq!(unblurred().labels(&picture)[0], vec![0; height * width]);
        }
    }

    #[test]
    fn segments_reach_as_far_as_the_disk() {
        // A single pixel in the middle of 7 x 7, beside its surroundings.
        let labels: Vec<usize> = (0..49).map(|i| usize::from(i == 24)).collect();
        let members = dilated(&labels, (7, 7), 2);
        // x^2 + y^2 <= 4 has 13 points.
        assert_eq!(members[1].len(), 13);
        assert_eq!(members[0].len(), 49);
        let plain = dilated(&labels, (7, 7), 0);
        assert_eq!((plain[0].len(), plain[1].as_slice()), (48, &[24][..]));
    }
}
