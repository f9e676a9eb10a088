//! Points that fill the unit cube: quasi-random and random designs, drawn on the host.

mod directions;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use crate::error::Error;
use directions::DIRECTIONS;

/// How the points of a design are spread over the unit cube.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Design {
    /// The Sobol sequence under a seeded digital shift (each coordinate's bits are xored with
    /// one random word per dimension): as even as the plain one, but without its point at
    /// the origin, and different for each seed. At most 256 dimensions.
    #[default]
    ShiftedSobol,
    /// The plain Sobol sequence with the direction numbers of Joe and Kuo, as in scipy and
    /// TensorFlow; the seed has no effect. At most 256 dimensions.
    Sobol,
    /// One point in each of as many equal slices of every axis as there are points.
    LatinHypercube,
    /// Independent points.
    Random,
}

const MOST_DIMENSIONS: usize = DIRECTIONS.len() + 1;

impl Design {
    /// `samples` points of `dimensions` coordinates in `[0, 1)`, point by point.
    ///
    /// ```
    /// use saliency_core::Design;
    /// let points = Design::Sobol.points(4, 2, 0)?;
    /// assert_eq!(points, [0.0, 0.0, 0.5, 0.5, 0.75, 0.25, 0.25, 0.75]);
    /// # Ok::<(), saliency_core::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Option`] for more than 256 dimensions of a Sobol sequence.
    pub fn points(self, samples: usize, dimensions: usize, seed: u64) -> Result<Vec<f64>, Error> {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        match self {
            Design::Sobol => sobol(samples, &vec![0; dimensions]),
            Design::ShiftedSobol => {
                let shifts: Vec<u32> = (0..dimensions).map(|_| rng.random()).collect();
                sobol(samples, &shifts)
            }
            Design::LatinHypercube => Ok(latin_hypercube(samples, dimensions, &mut rng)),
            Design::Random => Ok((0..samples * dimensions).map(|_| rng.random()).collect()),
        }
    }
}

impl Design {
    /// Fails where the first points of more are other ones, and rounds of them are wanted.
    pub(crate) fn check_rounds(self, rounds: bool) -> Result<(), Error> {
        match self {
            Design::LatinHypercube if rounds => Err(Error::option(
                "design",
                "latin_hypercube",
                "its points do not go on: leave out the tolerance, or take another design",
            )),
            _ => Ok(()),
        }
    }
}

/// In the Gray code order of Antonov and Saleev, one dimension for each shift.
fn sobol(samples: usize, shifts: &[u32]) -> Result<Vec<f64>, Error> {
    if shifts.len() > MOST_DIMENSIONS {
        return Err(Error::option(
            "design",
            format!("a Sobol sequence of {} dimensions", shifts.len()),
            "it has at most 256: use a coarser grid, or latin_hypercube",
        ));
    }
    let directions: Vec<[u32; 32]> = (0..shifts.len()).map(direction).collect();
    let mut state = shifts.to_vec();
    let mut points = Vec::with_capacity(samples * shifts.len());
    for sample in 0..samples {
        points.extend(state.iter().map(|&bits| f64::from(bits) / 2f64.powi(32)));
        let flipped = (sample.trailing_ones() as usize).min(31);
        for (bits, direction) in state.iter_mut().zip(&directions) {
            *bits ^= direction[flipped];
        }
    }
    Ok(points)
}

/// The direction numbers of one dimension, as 32-bit fractions.
fn direction(dimension: usize) -> [u32; 32] {
    let mut v = [0u32; 32];
    let Some(&(polynomial, initial)) = dimension.checked_sub(1).map(|d| &DIRECTIONS[d]) else {
        return std::array::from_fn(|i| 1 << (31 - i));
    };
    let degree = initial.len();
    for i in 0..32 {
        v[i] = match initial.get(i) {
            Some(&m) => u32::from(m) << (31 - i),
            None => (1..degree)
                .filter(|&k| polynomial >> (degree - k) & 1 == 1)
                .fold(v[i - degree] ^ (v[i - degree] >> degree), |sum, k| {
                    sum ^ v[i - k]
                }),
        };
    }
    v
}

/// In which of 16 equal slices of one dimension the first 16 points are.
pub(crate) fn slices(dimension: usize) -> [u8; 16] {
    let directions = direction(dimension);
    let mut state = 0u32;
    std::array::from_fn(|point: usize| {
        let slice = (state >> 28) as u8;
        state ^= directions[point.trailing_ones() as usize];
        slice
    })
}

fn latin_hypercube(samples: usize, dimensions: usize, rng: &mut ChaCha8Rng) -> Vec<f64> {
    let mut points = vec![0.0; samples * dimensions];
    for dimension in 0..dimensions {
        let mut slices: Vec<usize> = (0..samples).collect();
        for last in (1..samples).rev() {
            slices.swap(last, rng.random_range(0..=last));
        }
        for (sample, slice) in slices.into_iter().enumerate() {
            let within: f64 = rng.random();
            points[sample * dimensions + dimension] = (slice as f64 + within) / samples as f64;
        }
    }
    points
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Any 2^k first points have one in each of 2^k equal slices of every axis, shifted or
    /// not; and the first two dimensions fill all boxes of area 2^-k.
    #[test]
    fn every_axis_is_evenly_filled() {
        for design in [Design::Sobol, Design::ShiftedSobol, Design::LatinHypercube] {
            let (samples, dimensions) = (128, 256);
            let points = design.points(samples, dimensions, 3).unwrap();
            for dimension in 0..dimensions {
                let mut slices: Vec<usize> = points[dimension..]
                    .iter()
                    .step_by(dimensions)
                    .map(|p| (p * samples as f64) as usize)
                    .collect();
                slices.sort_unstable();
                assert!(slices.into_iter().eq(0..samples), "{design:?} {dimension}");
            }
        }
        let points = Design::ShiftedSobol.points(64, 2, 9).unwrap();
        let mut boxes: Vec<usize> = points
            .chunks(2)
            .map(|p| (p[0] * 8.0) as usize * 8 + (p[1] * 8.0) as usize)
            .collect();
        boxes.sort_unstable();
        assert!(boxes.into_iter().eq(0..64));
    }

    #[test]
    fn slices_are_those_of_the_first_points() {
        let points = Design::Sobol.points(16, 256, 0).unwrap();
        for dimension in 0..256 {
            let own = points[dimension..].iter().step_by(256);
            assert!(own.map(|p| (p * 16.0) as u8).eq(slices(dimension)));
        }
    }

    #[test]
    fn seeds_differ_except_for_the_plain_sequence() {
        let of = |design: Design, seed| design.points(16, 5, seed).unwrap();
        assert_eq!(of(Design::Sobol, 1), of(Design::Sobol, 2));
        for design in [Design::ShiftedSobol, Design::LatinHypercube, Design::Random] {
            assert_eq!(of(design, 1), of(design, 1));
            assert_ne!(of(design, 1), of(design, 2));
        }
    }

    #[test]
    fn too_many_dimensions_are_named() {
        let error = Design::Sobol.points(4, 257, 0).unwrap_err().to_string();
        assert!(error.contains("257 dimensions"), "{error}");
        assert!(Design::LatinHypercube.points(4, 257, 0).is_ok());
    }
}
