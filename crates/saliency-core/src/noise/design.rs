//! How the samples of noise hang together.

use std::ops::Range;

use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::{normal::quantile, standard_normal, waves::Waves};
use crate::{axes, quasi};

/// How the noise of one sample hangs together with that of others.
///
/// Every sample by itself is standard normal in all designs, so means over samples are
/// unbiased; what differs is how much of the samples' variance is left in their mean. Write
/// what is averaged as its mean, a part linear in the noise and all the rest: independent
/// samples leave Var / n; antithetic ones twice the even part's variance / n and nothing of the
/// odd part, linear or not; Latin hypercubes leave 1/45 of the linear part's, whatever the
/// basis, and all of the rest.
///
/// Noise depends on the seed and the sample's number alone. Samples that hang together follow
/// each other in [groups](NoiseDesign::group); groups are independent.
///
/// ```
/// use saliency_core::NoiseDesign;
/// let noise = NoiseDesign::Antithetic.draw([1, 3], 7, 0..4);
/// assert!(noise[0].iter().zip(&noise[1]).all(|(a, b)| a + b == 0.0));
/// assert_ne!(noise[1], noise[2]);
/// let name = serde_json::to_string(&NoiseDesign::LatinHypercube)?;
/// assert_eq!(name, "\"latin_hypercube\"");
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NoiseDesign {
    /// Independent samples.
    #[default]
    Independent,
    /// Each sample is followed by its negative. Hammersley and Morton, "A new Monte Carlo
    /// technique: antithetic variates", Mathematical Proceedings of the Cambridge
    /// Philosophical Society 52 (1956).
    Antithetic,
    /// Each value of the input gets, over 16 samples, one draw from each of 16 equally likely
    /// slices of the normal distribution. McKay, Beckman and Conover, "A comparison of three
    /// methods for selecting values of input variables in the analysis of output from a
    /// computer code", Technometrics 21 (1979).
    LatinHypercube,
    /// The first 16 points of the Sobol sequence, in each group under a nested uniform scramble
    /// of its own: values of tables and of small inputs, up to 256, and in place of those the
    /// 256 lowest frequencies (over the positions of each channel) of larger series and
    /// pictures. All others are as in a Latin hypercube. Owen, "Randomly permuted (t, m, s)-nets
    /// and (t, s)-sequences" (1995).
    Sobol,
}

/// Samples of a Latin hypercube and of a net: few enough for several groups in the usual
/// numbers of samples.
const GROUP: usize = 16;

/// Dimensions that come from a Sobol sequence.
const LEADING: usize = 256;

impl NoiseDesign {
    /// How many samples in a row hang together.
    ///
    /// ```
    /// use saliency_core::NoiseDesign;
    /// assert_eq!(NoiseDesign::Independent.group(), 1);
    /// assert_eq!(NoiseDesign::Antithetic.group(), 2);
    /// assert_eq!(NoiseDesign::Sobol.group(), 16);
    /// ```
    pub fn group(self) -> usize {
        match self {
            NoiseDesign::Independent => 1,
            NoiseDesign::Antithetic => 2,
            NoiseDesign::LatinHypercube | NoiseDesign::Sobol => GROUP,
        }
    }

    /// Standard normal noise of each of `samples`, for one row of an input shaped `dims`
    /// (rows first).
    ///
    /// ```
    /// use saliency_core::{NoiseDesign, noise::standard_normal};
    /// let noise = NoiseDesign::Independent.draw([5, 2, 3], 7, 3..5);
    /// assert_eq!(noise, [standard_normal(7, 3, 6), standard_normal(7, 4, 6)]);
    /// ```
    pub fn draw<const D: usize>(
        self,
        dims: [usize; D],
        seed: u64,
        samples: Range<usize>,
    ) -> Vec<Vec<f32>> {
        let len = dims[1..].iter().product();
        let leading = match self {
            NoiseDesign::Independent => {
                let draw = |sample| standard_normal(seed, sample, len);
                return samples.into_par_iter().map(draw).collect();
            }
            NoiseDesign::Antithetic => {
                let draw = |sample| {
                    let noise = standard_normal(seed, sample / 2, len);
                    match sample % 2 {
                        0 => noise,
                        _ => noise.into_iter().map(|v| -v).collect(),
                    }
                };
                return samples.into_par_iter().map(draw).collect();
            }
            NoiseDesign::LatinHypercube => Leading::None,
            NoiseDesign::Sobol if D == 2 || len <= LEADING => Leading::Values(LEADING.min(len)),
            NoiseDesign::Sobol => {
                let positions = axes::positions(D);
                let positions = positions.start - 1..positions.end - 1;
                Leading::Frequencies(Waves::new(&dims[1..], positions, LEADING))
            }
        };
        let first = samples.start / GROUP;
        let groups: Vec<Group> = (first..samples.end.div_ceil(GROUP))
            .into_par_iter()
            .map(|group| Group::draw(seed, group, len, &leading))
            .collect();
        samples
            .into_par_iter()
            .map(|sample| groups[sample / GROUP - first].sample(seed, sample, &leading))
            .collect()
    }
}

/// What comes from a Sobol sequence.
enum Leading {
    None,
    /// The first so many values of a row.
    Values(usize),
    Frequencies(Waves),
}

/// Which slices the samples of a group are in.
struct Group {
    values: Vec<Order>,
    frequencies: Vec<Order>,
}

impl Group {
    fn draw(seed: u64, group: usize, len: usize, leading: &Leading) -> Self {
        // Streams of single samples are numbered from zero.
        let mut rng = stream(seed, (1 << 63) + group as u64);
        let (values, frequencies) = match leading {
            Leading::None => (0, 0),
            Leading::Values(count) => (*count, 0),
            Leading::Frequencies(waves) => (0, waves.len()),
        };
        let mut scrambled =
            |count: usize| -> Vec<Order> { (0..count).map(|d| Order::net(d, &mut rng)).collect() };
        let (mut values, frequencies) = (scrambled(values), scrambled(frequencies));
        values.extend((values.len()..len).map(|_| Order::latin(&mut rng)));
        Group {
            values,
            frequencies,
        }
    }

    fn sample(&self, seed: u64, sample: usize, leading: &Leading) -> Vec<f32> {
        let mut rng = stream(seed, sample as u64);
        let mut draw = |order: &Order| order.draw(sample % GROUP, &mut rng);
        let mut noise: Vec<f32> = self.values.iter().map(|o| draw(o) as f32).collect();
        if let Leading::Frequencies(waves) = leading {
            let coefficients: Vec<f64> = self.frequencies.iter().map(draw).collect();
            waves.replace(&mut noise, &coefficients);
        }
        noise
    }
}

fn stream(seed: u64, number: u64) -> ChaCha8Rng {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(number);
    rng
}

/// An order of 16 slices, 4 bits for each sample of a group.
#[derive(Clone, Copy)]
struct Order(u64);

impl Order {
    fn of(slices: impl Fn(usize) -> u8) -> Self {
        Order((0..GROUP).fold(0, |order, sample| {
            order | (u64::from(slices(sample)) << (4 * sample))
        }))
    }

    fn slice(self, sample: usize) -> u8 {
        (self.0 >> (4 * sample) & 15) as u8
    }

    /// Slice a s + b of sample s, in the field of 16 elements with a drawn from all but zero
    /// and b from all. Two samples are in each two different slices equally often, which is all
    /// that the variance of a mean depends on, so it is that of a Latin hypercube.
    fn latin(rng: &mut impl Rng) -> Self {
        let Order(multiples) = MULTIPLES[rng.random_range(1..GROUP)];
        Order(multiples ^ (rng.random_range(0..16) * 0x1111_1111_1111_1111))
    }

    /// The first points of a dimension of the Sobol sequence, each bit flipped or not as drawn
    /// for those above it.
    fn net(dimension: usize, rng: &mut impl Rng) -> Self {
        let (slices, flips) = (quasi::slices(dimension), rng.random::<u16>());
        Order::of(|sample| {
            let flipped = (0..4).fold(0, |flipped, bit| {
                // 1, then the bits above this one: a number for each node of the tree.
                let node = (1 << bit) | (slices[sample] >> (4 - bit));
                (flipped << 1) | (flips >> node & 1) as u8
            });
            slices[sample] ^ flipped
        })
    }

    /// A standard normal value from a sample's slice.
    fn draw(self, sample: usize, rng: &mut impl Rng) -> f64 {
        let within = f64::from(rng.random::<u32>()) + 0.5;
        let slice = f64::from(self.slice(sample));
        quantile((slice + within / 2f64.powi(32)) / GROUP as f64)
    }
}

/// The multiples of each element of the field of 16 elements.
static MULTIPLES: [Order; GROUP] = {
    let mut all = [Order(0); GROUP];
    let mut a = 0;
    while a < GROUP {
        let mut b = 0;
        while b < GROUP {
            all[a].0 |= multiply(a, b) << (4 * b);
            b += 1;
        }
        a += 1;
    }
    all
};

/// In polynomials over GF(2) modulo x^4 + x + 1.
const fn multiply(a: usize, b: usize) -> u64 {
    let (mut product, mut bit) = (0, 4);
    while bit > 0 {
        bit -= 1;
        product <<= 1;
        if product & 16 != 0 {
            product ^= 0b10011;
        }
        if b >> bit & 1 == 1 {
            product ^= a;
        }
    }
    product as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [NoiseDesign; 4] = [
        NoiseDesign::Independent,
        NoiseDesign::Antithetic,
        NoiseDesign::LatinHypercube,
        NoiseDesign::Sobol,
    ];

    /// Mean, variance and kurtosis over everything that is drawn, and the correlations of
    /// neighbouring values and of one sample with the next group's.
    #[test]
    fn every_sample_is_standard_normal() {
        for design in ALL {
            // A picture with frequencies, and a table.
            moments(design, [1, 3, 24, 20], 64);
            moments(design, [1, 300], 320);
        }
    }

    fn moments<const D: usize>(design: NoiseDesign, dims: [usize; D], samples: usize) {
        let drawn = design.draw(dims, 5, 0..samples);
        let len = drawn[0].len();
        // One of each group: these are independent.
        for within in 0..design.group() {
            let rows = || drawn.iter().skip(within).step_by(design.group());
            let values = || rows().flatten().map(|&v| f64::from(v));
            let n = values().count() as f64;
            let mean = |power: i32| values().map(|v| v.powi(power)).sum::<f64>() / n;
            let sizes = [(1, 0.0, 1.0), (2, 1.0, 2.0), (3, 0.0, 15.0), (4, 3.0, 96.0)];
            for (power, want, variance) in sizes {
                let error = (mean(power) - want) / f64::sqrt(variance / n);
                assert!(error.abs() < 4.5, "{design:?} {within} {power}: {error}");
            }
            let neighbours = rows().flat_map(|row| row.windows(2));
            let product: f64 = neighbours.map(|w| f64::from(w[0] * w[1])).sum();
            let pairs = (rows().count() * (len - 1)) as f64;
            assert!(product.abs() < 4.5 * pairs.sqrt(), "{design:?}: {product}");
        }
        let (one, next) = (&drawn[0], &drawn[design.group()]);
        let product: f32 = one.iter().zip(next).map(|(a, b)| a * b).sum();
        assert!(product.abs() < 4.5 * (len as f32).sqrt(), "{design:?}");
    }

    #[test]
    fn a_sample_depends_on_its_number_alone() {
        for design in ALL {
            let all = design.draw([2, 3, 20, 5], 3, 0..40);
            for (from, to) in [(0, 1), (7, 18), (15, 33), (39, 40)] {
                assert_eq!(design.draw([9, 3, 20, 5], 3, from..to), all[from..to]);
            }
            assert_ne!(design.draw([2, 3, 20, 5], 4, 0..40), all);
        }
    }

    /// Every value of a Latin hypercube has one draw in each slice, and so have the values of a
    /// table and the low frequencies of a series under a Sobol sequence.
    #[test]
    fn slices_are_filled_evenly() {
        let edges: Vec<f64> = (1..16).map(|k| quantile(f64::from(k) / 16.0)).collect();
        let even = |values: &mut dyn Iterator<Item = f64>| {
            let slice = |v: f64| edges.iter().filter(|&&edge| edge < v).count();
            let mut slices: Vec<usize> = values.map(slice).collect();
            slices.sort_unstable();
            slices.into_iter().eq(0..16)
        };
        for (design, features) in [
            (NoiseDesign::LatinHypercube, 400),
            (NoiseDesign::Sobol, 400),
        ] {
            for group in 0..3 {
                let drawn = design.draw([1, features], 1, 16 * group..16 * (group + 1));
                for place in 0..features {
                    assert!(even(&mut drawn.iter().map(|row| f64::from(row[place]))));
                }
            }
        }
        let series = NoiseDesign::Sobol.draw([1, 100, 3], 1, 16..32);
        for frequency in 0..80 {
            let cosine = |t: usize| {
                let phase = frequency as f64 * (t as f64 + 0.5) / 100.0;
                let scale = if frequency == 0 { 0.01f64 } else { 0.02 };
                scale.sqrt() * (std::f64::consts::PI * phase).cos()
            };
            let coefficient = |row: &Vec<f32>| -> f64 {
                (0..100)
                    .map(|t| cosine(t) * f64::from(row[3 * t + 1]))
                    .sum()
            };
            assert!(even(&mut series.iter().map(coefficient)), "{frequency}");
        }
    }

    /// Orders of both kinds take every slice once; a Latin hypercube's samples are in two
    /// different slices equally often; the first points of a net stay one under its scramble.
    #[test]
    fn orders_are_permutations() {
        let mut rng = stream(1, 0);
        let mut together = [[0; 16]; 16];
        for round in 0..4000 {
            let latin = Order::latin(&mut rng);
            together[usize::from(latin.slice(3))][usize::from(latin.slice(11))] += 1;
            let net = Order::net(round % 256, &mut rng);
            for order in [latin, net] {
                let taken = (0..16).fold(0u16, |taken, s| taken | 1 << order.slice(s));
                assert_eq!(taken, u16::MAX);
            }
        }
        for (a, row) in together.iter().enumerate() {
            for (b, &times) in row.iter().enumerate() {
                // 4000 / 240 is 17, with a standard deviation of 4.
                assert!((a == b && times == 0) || (a != b && (2..36).contains(&times)));
            }
        }
        let [x, y] = [0, 1].map(|d| Order::net(d, &mut rng));
        let mut boxes: Vec<u8> = (0..16)
            .map(|s| x.slice(s) / 4 * 4 + y.slice(s) / 4)
            .collect();
        boxes.sort_unstable();
        assert!(boxes.into_iter().eq(0..16));
    }

    /// What is left of a linear function's variance, and of a product's under a net.
    #[test]
    fn means_of_smooth_functions_have_less_variance() {
        let variance = |design: NoiseDesign, f: &dyn Fn(&[f32]) -> f32| {
            let means = (0..200).map(|seed| {
                let noise = design.draw([1, 4], seed, 0..64);
                f64::from(noise.iter().map(|row| f(row)).sum::<f32>() / 64.0)
            });
            64.0 * means.map(|mean| mean * mean).sum::<f64>() / 200.0
        };
        let linear = |z: &[f32]| 0.5 * z[0] - 0.5 * z[1] + 0.5 * z[2] + 0.5 * z[3];
        let product = |z: &[f32]| z[0] * z[1];
        use NoiseDesign::*;
        for (design, of_linear, of_product) in [
            (Independent, 0.8..1.25, 0.75..1.3),
            (Antithetic, 0.0..1e-9, 1.5..2.6),
            (LatinHypercube, 0.012..0.035, 0.75..1.3),
            (Sobol, 0.012..0.035, 0.0..0.5),
        ] {
            let found = [variance(design, &linear), variance(design, &product)];
            assert!(of_linear.contains(&found[0]), "{design:?} {found:?}");
            assert!(of_product.contains(&found[1]), "{design:?} {found:?}");
        }
    }
}
