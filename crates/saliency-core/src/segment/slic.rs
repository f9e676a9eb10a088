use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

use crate::{
    axes,
    blur::{Border, blur},
    error::Error,
};

/// SLIC superpixels: k-means of colour and place, each centre looking no further than two of
/// its own steps.
///
/// D^2 = d_colour^2 + (compactness * d_place / step)^2, step = sqrt(pixels / segments).
/// Achanta et al., "SLIC Superpixels Compared to State-of-the-Art Superpixel Methods" (2012),
/// <https://doi.org/10.1109/TPAMI.2012.120>.
///
/// Values are first spread over their own range. Three channels are read as sRGB and compared
/// in CIELAB; others are compared as they are, on a scale of 0 to 100. Segments are connected:
/// pieces smaller than half a segment join the neighbour with the longest common border.
/// scikit-image's `slic` has the same defaults, but for 100 segments, and starts from the
/// grid itself where this, as the paper, starts from the least gradient beside it.
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use saliency_core::{Features, Slic};
/// // Left half black, right half white.
/// let row = [0.0, 0.0, 0.0, 0.0, 1.0, 1.0, 1.0, 1.0];
/// let picture = Tensor::<1>::from_floats(row, &Device::flex()).reshape([1, 1, 1, 8]).repeat(&[1, 1, 8, 1]);
/// let groups = Features::Slic(Slic::default().segments(4)).resolve(&picture)?;
/// assert_eq!(groups.count, 4);
/// assert_ne!(groups.ids[3], groups.ids[4]);
/// # Ok::<(), saliency_core::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Slic {
    /// About how many segments.
    pub segments: usize,
    /// Weight of place against colour: the greater, the squarer the segments.
    pub compactness: f64,
    /// Rounds of k-means at most.
    pub iterations: usize,
    /// Standard deviation, in pixels, of a Gaussian that the picture is blurred with first.
    pub sigma: f64,
}

impl Default for Slic {
    fn default() -> Self {
        Slic {
            segments: 50,
            compactness: 10.0,
            iterations: 10,
            sigma: 0.0,
        }
    }
}

impl Slic {
    /// About how many segments.
    pub fn segments(mut self, segments: usize) -> Self {
        self.segments = segments;
        self
    }

    /// Weight of place against colour.
    pub fn compactness(mut self, compactness: f64) -> Self {
        self.compactness = compactness;
        self
    }

    /// Blur before the segmentation.
    pub fn sigma(mut self, sigma: f64) -> Self {
        self.sigma = sigma;
        self
    }

    pub(crate) fn validate(&self) -> Result<(), Error> {
        let positive = |v: f64| v.is_finite() && v > 0.0;
        if self.segments == 0 {
            return Err(Error::option("segments", 0, "at least one is needed"));
        }
        if !positive(self.compactness) {
            let requirement = "it must be a finite number above 0";
            return Err(Error::option("compactness", self.compactness, requirement));
        }
        if self.iterations == 0 {
            return Err(Error::option("iterations", 0, "at least one is needed"));
        }
        match self.sigma == 0.0 || positive(self.sigma) {
            true => Ok(()),
            false => Err(Error::option(
                "sigma",
                self.sigma,
                "it must be a finite number of at least 0",
            )),
        }
    }

    /// The segment of each position of one row: `[1, C, H, W]`, or a series `[1, T, F]` as a
    /// picture of height one.
    pub(crate) fn labels<const D: usize>(&self, row: &Tensor<D>) -> Result<Vec<usize>, Error> {
        self.validate()?;
        let dims = row.dims();
        let (height, width) = match D {
            3 => (1, dims[1]),
            4 => (dims[2], dims[3]),
            _ => {
                let requirement = "superpixels need positions: [N, T, F] or [N, C, H, W]";
                return Err(Error::option("features", "slic", requirement));
            }
        };
        let row = match self.sigma > 0.0 {
            true => blur(row.clone(), self.sigma, Border::Reflect),
            false => row.clone(),
        };
        let row = match D {
            3 => row.swap_dims(1, 2),
            _ => row,
        };
        let channels = axes::channel_count(dims);
        let values = row.try_into_vec_as::<f64>().map_err(Error::device)?;
        let colours = colours(&values, channels);
        let (step, labels) = self.clusters(&colours, channels, height, width);
        let least = (step * if height.min(width) > 1 { step } else { 1.0 } / 2.0) as usize;
        Ok(connected(&labels, height, width, least))
    }

    /// k-means: the distance of the centres, and the centre of each position.
    fn clusters(
        &self,
        colours: &[f64],
        channels: usize,
        height: usize,
        width: usize,
    ) -> (f64, Vec<usize>) {
        let pixels = height * width;
        let segments = self.segments.min(pixels);
        let ideal = match height.min(width) {
            1 => pixels as f64 / segments as f64,
            _ => (pixels as f64 / segments as f64).sqrt(),
        };
        let down = ((height as f64 / ideal).round() as usize).clamp(1, height);
        let across = ((segments as f64 / down as f64).round() as usize).clamp(1, width);
        let cell = |p: usize| (p / width * down / height) * across + p % width * across / width;
        let colour = |p: usize| &colours[p * channels..(p + 1) * channels];

        let mut labels: Vec<usize> = (0..pixels).map(cell).collect();
        let mut centres: Vec<Centre> = (0..down * across)
            .map(|i| {
                let middle = |i: usize, cells: usize, len: usize| {
                    (i as f64 + 0.5) * len as f64 / cells as f64 - 0.5
                };
                let y = middle(i / across, down, height);
                let x = middle(i % across, across, width);
                let nearest = y.round() as usize * width + x.round() as usize;
                let p = flattest(colours, channels, height, width, nearest);
                let (y, x) = match p == nearest {
                    true => (y, x),
                    false => ((p / width) as f64, (p % width) as f64),
                };
                Centre {
                    y,
                    x,
                    colour: colour(p).to_vec(),
                }
            })
            .collect();
        let (tall, wide) = (height as f64 / down as f64, width as f64 / across as f64);
        let pull = (self.compactness / ideal).powi(2);
        for _ in 0..self.iterations {
            let mut nearest = vec![f64::INFINITY; pixels];
            let mut next = labels.clone();
            for (k, centre) in centres.iter().enumerate() {
                let rows = around(centre.y, 2.0 * tall, height);
                for y in rows {
                    for x in around(centre.x, 2.0 * wide, width) {
                        let p = y * width + x;
                        let place = (y as f64 - centre.y).powi(2) + (x as f64 - centre.x).powi(2);
                        let distance = squared(colour(p), &centre.colour) + pull * place;
                        if distance < nearest[p] {
                            nearest[p] = distance;
                            next[p] = k;
                        }
                    }
                }
            }
            let settled = next == labels;
            labels = next;
            if settled {
                break;
            }
            let mut sizes = vec![0.0; centres.len()];
            let mut sums = vec![vec![0.0; channels + 2]; centres.len()];
            for (p, &k) in labels.iter().enumerate() {
                sizes[k] += 1.0;
                sums[k][0] += (p / width) as f64;
                sums[k][1] += (p % width) as f64;
                for (sum, value) in sums[k][2..].iter_mut().zip(colour(p)) {
                    *sum += value;
                }
            }
            for ((centre, sum), size) in centres.iter_mut().zip(sums).zip(sizes) {
                if size > 0.0 {
                    (centre.y, centre.x) = (sum[0] / size, sum[1] / size);
                    centre.colour = sum[2..].iter().map(|s| s / size).collect();
                }
            }
        }
        (ideal, labels)
    }
}

struct Centre {
    y: f64,
    x: f64,
    colour: Vec<f64>,
}

fn around(centre: f64, reach: f64, len: usize) -> std::ops::Range<usize> {
    let start = (centre - reach).max(0.0) as usize;
    let end = ((centre + reach) as usize + 1).min(len);
    start..end
}

fn squared(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| (a - b).powi(2)).sum()
}

/// The position of least gradient within one step of `p`.
fn flattest(colours: &[f64], channels: usize, height: usize, width: usize, p: usize) -> usize {
    let (y, x) = (p / width, p % width);
    let at = |y: usize, x: usize| {
        let p = y.min(height - 1) * width + x.min(width - 1);
        &colours[p * channels..(p + 1) * channels]
    };
    let gradient = |y: usize, x: usize| {
        squared(at(y + 1, x), at(y.saturating_sub(1), x))
            + squared(at(y, x + 1), at(y, x.saturating_sub(1)))
    };
    // The middle first, so that it stays where all are equal.
    let mut best = (gradient(y, x), y * width + x);
    for y in y.saturating_sub(1)..(y + 2).min(height) {
        for x in x.saturating_sub(1)..(x + 2).min(width) {
            let here = gradient(y, x);
            if here < best.0 {
                best = (here, y * width + x);
            }
        }
    }
    best.1
}

/// Values `[C, positions]` as colours `[positions, C]` on a scale of about 0 to 100.
fn colours(values: &[f64], channels: usize) -> Vec<f64> {
    let least = values.iter().copied().fold(f64::INFINITY, f64::min);
    let most = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let range = if most > least { most - least } else { 1.0 };
    let positions = values.len() / channels;
    let unit = |p: usize, c: usize| (values[c * positions + p] - least) / range;
    (0..positions)
        .flat_map(|p| match channels {
            3 => lab([unit(p, 0), unit(p, 1), unit(p, 2)]).to_vec(),
            _ => (0..channels).map(|c| 100.0 * unit(p, c)).collect(),
        })
        .collect()
}

/// sRGB in 0..1 to CIELAB under D65.
fn lab(rgb: [f64; 3]) -> [f64; 3] {
    let [r, g, b] = rgb.map(|v| match v <= 0.04045 {
        true => v / 12.92,
        false => ((v + 0.055) / 1.055).powf(2.4),
    });
    let xyz = [
        (0.412453 * r + 0.357580 * g + 0.180423 * b) / 0.95047,
        0.212671 * r + 0.715160 * g + 0.072169 * b,
        (0.019334 * r + 0.119193 * g + 0.950227 * b) / 1.08883,
    ];
    let [x, y, z] = xyz.map(|v| match v > 0.008856 {
        true => v.cbrt(),
        false => 7.787 * v + 16.0 / 116.0,
    });
    [116.0 * y - 16.0, 500.0 * (x - y), 200.0 * (y - z)]
}

/// Numbers connected pieces of equal label in reading order, after pieces of fewer than
/// `least` positions have joined the neighbour with the longest common border.
fn connected(labels: &[usize], height: usize, width: usize, least: usize) -> Vec<usize> {
    let (mut pieces, mut sizes) = components(labels, height, width);
    let mut border = vec![std::collections::BTreeMap::<usize, usize>::new(); sizes.len()];
    let mut touch = |a: usize, b: usize| {
        if a != b {
            *border[a].entry(b).or_default() += 1;
            *border[b].entry(a).or_default() += 1;
        }
    };
    for y in 0..height {
        for x in 0..width {
            let p = y * width + x;
            if x + 1 < width {
                touch(pieces[p], pieces[p + 1]);
            }
            if y + 1 < height {
                touch(pieces[p], pieces[p + width]);
            }
        }
    }
    let mut merged: Vec<usize> = (0..sizes.len()).collect();
    let mut small: Vec<usize> = (0..sizes.len()).filter(|&i| sizes[i] < least).collect();
    small.sort_by_key(|&i| sizes[i]);
    for piece in small {
        if sizes[piece] >= least {
            continue;
        }
        // Ties go to the lowest number: `max_by_key` keeps the last of equals.
        let Some(into) = border[piece].iter().rev().max_by_key(|(_, n)| **n) else {
            break;
        };
        let into = *into.0;
        let neighbours = std::mem::take(&mut border[piece]);
        for (other, length) in neighbours {
            border[other].remove(&piece);
            if other != into {
                *border[into].entry(other).or_default() += length;
                *border[other].entry(into).or_default() += length;
            }
        }
        sizes[into] += sizes[piece];
        sizes[piece] = 0;
        merged[piece] = into;
    }
    for piece in &mut pieces {
        while merged[*piece] != *piece {
            *piece = merged[*piece];
        }
    }
    components(&pieces, height, width).0
}

/// Connected pieces of equal label, numbered in reading order, and their sizes.
fn components(labels: &[usize], height: usize, width: usize) -> (Vec<usize>, Vec<usize>) {
    let mut pieces = vec![usize::MAX; labels.len()];
    let mut sizes = Vec::new();
    let mut open = Vec::new();
    for start in 0..labels.len() {
        if pieces[start] != usize::MAX {
            continue;
        }
        let piece = sizes.len();
        pieces[start] = piece;
        sizes.push(0);
        open.push(start);
        while let Some(p) = open.pop() {
            sizes[piece] += 1;
            let (y, x) = (p / width, p % width);
            let neighbours = [
                (x > 0).then(|| p - 1),
                (x + 1 < width).then(|| p + 1),
                (y > 0).then(|| p - width),
                (y + 1 < height).then(|| p + width),
            ];
            for q in neighbours.into_iter().flatten() {
                if pieces[q] == usize::MAX && labels[q] == labels[p] {
                    pieces[q] = piece;
                    open.push(q);
                }
            }
        }
    }
    (pieces, sizes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::noise::standard_normal;
    use burn::tensor::{Device, TensorData};

    fn picture(height: usize, width: usize, at: impl Fn(usize, usize, usize) -> f32) -> Tensor<4> {
        let mut values = Vec::new();
        for c in 0..3 {
            for y in 0..height {
                for x in 0..width {
                    values.push(at(c, y, x));
                }
            }
        }
        Tensor::from_data(
            TensorData::new(values, [1, 3, height, width]),
            &Device::flex(),
        )
    }

    fn count(labels: &[usize]) -> usize {
        labels.iter().max().unwrap() + 1
    }

    #[test]
    fn a_plain_picture_is_cut_into_a_grid() {
        let flat = picture(24, 36, |_, _, _| 0.5);
        let labels = Slic::default().segments(6).labels(&flat).unwrap();
        for (p, label) in labels.iter().enumerate() {
            assert_eq!(*label, p / 36 / 12 * 3 + p % 36 / 12);
        }
    }

    /// Noise of a tenth of the step between four quarters of different colour.
    #[test]
    fn segments_keep_to_edges_and_are_connected() {
        let noise = standard_normal(1, 0, 3 * 40 * 40);
        let quarters = picture(40, 40, |c, y, x| {
            let quarter = usize::from(y >= 23) * 2 + usize::from(x >= 17);
            f32::from(c == quarter || quarter == 3) + 0.03 * noise[(c * 40 + y) * 40 + x]
        });
        let labels = Slic::default().segments(25).labels(&quarters).unwrap();
        let (pieces, sizes) = components(&labels, 40, 40);
        assert_eq!(pieces, labels);
        assert!((18..=32).contains(&count(&labels)), "{}", count(&labels));
        assert!(sizes.iter().all(|&size| size >= 32));
        let mut wrong = 0;
        for label in 0..count(&labels) {
            let mut inside = [0; 4];
            for (p, _) in labels.iter().enumerate().filter(|(_, l)| **l == label) {
                inside[usize::from(p / 40 >= 23) * 2 + usize::from(p % 40 >= 17)] += 1;
            }
            wrong += inside.iter().sum::<usize>() - inside.iter().max().unwrap();
        }
        assert!(wrong <= 16, "{wrong} of 1600 pixels lie across an edge");
    }

    #[test]
    fn compactness_makes_squarer_segments() {
        let corner = |y: usize, x: usize| x + y > 36;
        let halves = picture(32, 32, |_, y, x| f32::from(corner(y, x)));
        let of = |compactness| {
            let slic = Slic::default().segments(16).compactness(compactness);
            slic.labels(&halves).unwrap()
        };
        let crossing = |labels: &[usize]| {
            let halves = |label| {
                let inside = (0..32 * 32).filter(move |&p| labels[p] == label);
                inside.map(|p| corner(p / 32, p % 32))
            };
            let split = |&label: &usize| halves(label).any(|h| h) && halves(label).any(|h| !h);
            (0..count(labels)).filter(split).count()
        };
        assert_eq!(crossing(&of(10.0)), 0);
        let grid: Vec<usize> = (0..32 * 32).map(|p| p / 256 * 4 + p % 32 / 8).collect();
        assert_eq!(of(1e6), grid);
        assert!(crossing(&grid) > 0);
    }

    #[test]
    fn a_signal_is_cut_where_it_jumps() {
        let values: Vec<f32> = (0..30).map(|i| if i < 13 { 0.0 } else { 1.0 }).collect();
        let signal = Tensor::<3>::from_data(TensorData::new(values, [1, 30, 1]), &Device::flex());
        let labels = Slic::default().segments(4).labels(&signal).unwrap();
        assert_eq!(count(&labels), 4);
        assert_ne!(labels[12], labels[13]);
    }

    /// skimage.color.rgb2lab
    #[test]
    fn lab_is_that_of_skimage() {
        for (rgb, want) in [
            ([1.0, 1.0, 1.0], [100.0, 0.0, 0.0]),
            ([0.2, 0.5, 0.8], [52.252, 2.776, -46.286]),
            ([0.01, 0.0, 0.02], [0.250, 1.376, -1.695]),
        ] {
            for (got, want) in lab(rgb).iter().zip(want) {
                assert!((got - want).abs() < 0.02, "{:?} {want}", lab(rgb));
            }
        }
    }

    #[test]
    fn wrong_options_are_named() {
        let flat = picture(4, 4, |_, _, _| 0.0);
        let text = |slic: Slic| slic.labels(&flat).unwrap_err().to_string();
        assert!(text(Slic::default().segments(0)).starts_with("segments = 0"));
        assert!(text(Slic::default().compactness(0.0)).starts_with("compactness = 0"));
        assert!(text(Slic::default().sigma(f64::NAN)).starts_with("sigma = NaN"));
        let table = Tensor::<2>::ones([1, 4], &Device::flex());
        let error = Slic::default().labels(&table).unwrap_err().to_string();
        assert!(error.contains("[N, C, H, W]"), "{error}");
        let one = Slic::default().segments(1).labels(&flat).unwrap();
        assert_eq!(one, [0; 16]);
        let all = Slic::default().segments(1000).labels(&flat).unwrap();
        assert_eq!(all, (0..16).collect::<Vec<_>>());
    }
}
