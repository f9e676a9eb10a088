//! Antialiased bilinear resizing of 8-bit pictures, bit for bit as Pillow's
//! `Image.resize(size, BILINEAR)`.
//!
//! The triangle filter is stretched by the reduction factor (so that each input pixel counts) and
//! applied along x, then along y (the other way round where the height shrinks far more than the
//! width, as Pillow 13 does; older releases differ by one step of 255 there). Weights are
//! fixed-point numbers with 22 fractional bits and the picture between the two passes is rounded
//! to 8 bits: both show in the result.

use std::ops::Range;

use image::RgbImage;

/// Fractional bits of a weight: 8-bit samples and two bits of headroom leave 22 of 32.
const PRECISION: u32 = 32 - 8 - 2;

/// Part of a resized picture.
#[derive(Clone, Debug)]
pub(super) struct Window {
    /// Width and height of the whole resized picture.
    pub full: [u64; 2],
    /// First column and row that are wanted.
    pub origin: [u64; 2],
    /// Number of columns and rows that are wanted.
    pub size: [u32; 2],
}

/// The input samples that one output sample is made of.
struct Tap {
    first: usize,
    weights: Vec<i32>,
}

/// Resizes `picture` to `window.full` and returns the window of it; the rest is never computed.
/// Sizes are positive and the window lies within the full size.
pub(super) fn resize(picture: &RgbImage, window: &Window) -> RgbImage {
    let taps = |axis: usize, input: u32| {
        let start = window.origin[axis];
        let wanted = start..start + u64::from(window.size[axis]);
        taps(input, window.full[axis], wanted)
    };
    let mut columns = taps(0, picture.width());
    let mut rows = taps(1, picture.height());
    if y_first(picture, window) {
        let needed = shift(&mut columns);
        along_x(&along_y(picture, &rows, needed), &columns, 0..rows.len())
    } else {
        let needed = shift(&mut rows);
        along_y(&along_x(picture, &columns, needed), &rows, 0..columns.len())
    }
}

/// Whether rows are reduced first: where more than twice as many rows as columns disappear.
fn y_first(picture: &RgbImage, window: &Window) -> bool {
    let columns = i64::from(picture.width()) - window.full[0] as i64;
    let rows = i64::from(picture.height()) - window.full[1] as i64;
    rows > 0 && rows > 2 * columns
}

/// Counts the taps' inputs from the first that any of them uses; returns the range in use.
fn shift(taps: &mut [Tap]) -> Range<usize> {
    let first = taps.iter().map(|tap| tap.first).min().unwrap_or(0);
    let end = taps.iter().map(|tap| tap.first + tap.weights.len()).max();
    for tap in taps {
        tap.first -= first;
    }
    first..end.unwrap_or(first)
}

/// The rows `rows` of `picture`, resampled along x.
fn along_x(picture: &RgbImage, columns: &[Tap], rows: Range<usize>) -> RgbImage {
    let stride = 3 * picture.width() as usize;
    let mut out = RgbImage::new(columns.len() as u32, rows.len() as u32);
    let inputs = picture.chunks_exact(stride).skip(rows.start);
    for (row, input) in out.chunks_exact_mut(3 * columns.len()).zip(inputs) {
        for (tap, pixel) in columns.iter().zip(row.chunks_exact_mut(3)) {
            let mut sums = [1 << (PRECISION - 1); 3];
            let inputs = input[3 * tap.first..].chunks_exact(3);
            for (weight, input) in tap.weights.iter().zip(inputs) {
                for (sum, &sample) in sums.iter_mut().zip(input) {
                    *sum += weight * i32::from(sample);
                }
            }
            pixel.copy_from_slice(&sums.map(round));
        }
    }
    out
}

/// The columns `columns` of `picture`, resampled along y.
fn along_y(picture: &RgbImage, rows: &[Tap], columns: Range<usize>) -> RgbImage {
    let stride = 3 * picture.width() as usize;
    let part = 3 * columns.start..3 * columns.end;
    let mut out = RgbImage::new(columns.len() as u32, rows.len() as u32);
    let mut sums = vec![0; part.len()];
    for (tap, row) in rows.iter().zip(out.chunks_exact_mut(part.len())) {
        sums.fill(1 << (PRECISION - 1));
        let inputs = picture.chunks_exact(stride).skip(tap.first);
        for (weight, input) in tap.weights.iter().zip(inputs) {
            for (sum, &sample) in sums.iter_mut().zip(&input[part.clone()]) {
                *sum += weight * i32::from(sample);
            }
        }
        for (sample, &sum) in row.iter_mut().zip(&sums) {
            *sample = round(sum);
        }
    }
    out
}

fn round(sum: i32) -> u8 {
    (sum >> PRECISION).clamp(0, 255) as u8
}

/// The taps of the output samples `wanted` when `input` samples become `output`.
///
/// Output i looks at the input around c = (i + 1/2) s, with s = input / output, through a triangle
/// of half-width max(s, 1): w(x) = max(0, 1 - |x + 1/2 - c| / max(s, 1)), scaled to sum to one.
fn taps(input: u32, output: u64, wanted: Range<u64>) -> Vec<Tap> {
    let scale = f64::from(input) / output as f64;
    let support = scale.max(1.0);
    wanted
        .map(|i| {
            let centre = (i as f64 + 0.5) * scale;
            let first = (centre - support + 0.5).max(0.0) as usize;
            let end = ((centre + support + 0.5) as usize).min(input as usize);
            let triangle = |x: usize| {
                let distance = (x as f64 - centre + 0.5) * (1.0 / support);
                (1.0 - distance.abs()).max(0.0)
            };
            let weights: Vec<f64> = (first..end).map(triangle).collect();
            let total: f64 = weights.iter().sum();
            let fixed = |w: f64| (w / total * f64::from(1 << PRECISION) + 0.5) as i32;
            Tap {
                first,
                weights: weights.into_iter().map(fixed).collect(),
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whole(width: u32, height: u32) -> Window {
        Window {
            full: [width.into(), height.into()],
            origin: [0, 0],
            size: [width, height],
        }
    }

    fn ramp(width: u32, height: u32) -> RgbImage {
        RgbImage::from_fn(width, height, |x, y| {
            image::Rgb([(x * 7 + y * 3) as u8, (x * y) as u8, (200 - x) as u8])
        })
    }

    #[test]
    fn halving_weighs_four_neighbours_one_three_three_one() {
        // s = 2: the triangle at distances 1.5, 0.5, 0.5, 1.5 of half-width 2 is 1:3:3:1.
        let row = RgbImage::from_fn(6, 1, |x, _| {
            image::Rgb([[0, 0, 80, 160, 0, 0][x as usize]; 3])
        });
        let half = resize(&row, &whole(3, 1));
        // Outputs 0 and 2 lose their outermost neighbour: weights 3:3:1 of 7.
        let expected = [80.0 / 7.0, 3.0 * 240.0 / 8.0, 160.0 / 7.0];
        for (x, expected) in expected.into_iter().enumerate() {
            let got = f64::from(half.get_pixel(x as u32, 0).0[0]);
            assert!((got - expected).abs() <= 0.5, "{got} {expected}");
        }
    }

    #[test]
    fn the_same_size_is_the_same_picture() {
        let picture = ramp(13, 9);
        assert_eq!(resize(&picture, &whole(13, 9)), picture);
    }

    #[test]
    fn a_constant_picture_stays_constant() {
        for (width, height) in [(1, 1), (3, 50), (224, 224), (97, 2)] {
            let picture = RgbImage::from_pixel(37, 21, image::Rgb([255, 1, 128]));
            let resized = resize(&picture, &whole(width, height));
            assert!(resized.pixels().all(|p| p.0 == [255, 1, 128]));
        }
    }

    #[test]
    fn a_window_equals_that_part_of_the_whole() {
        let picture = ramp(40, 31);
        for (width, height) in [(17, 90), (64, 11), (40, 31)] {
            let all = resize(&picture, &whole(width, height));
            let window = Window {
                origin: [5, 3],
                size: [9, 7],
                ..whole(width, height)
            };
            let part = image::imageops::crop_imm(&all, 5, 3, 9, 7).to_image();
            assert_eq!(resize(&picture, &window), part);
        }
    }
}
