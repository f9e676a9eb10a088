//! Seeded noise, drawn on the host.
//!
//! Sample `s` of seed `k` is stream `s` of a ChaCha8 generator seeded with `k` (with what its
//! [group](NoiseDesign::group) shares, from a stream of the group's): it depends on nothing
//! else, so results do not change with the batch size, the device or the other rows of the
//! batch. All rows of a batch share the noise of a sample (scaled by each row's own sigma), so a
//! row's map does not depend on its neighbours.

mod design;
mod normal;
mod waves;

use std::ops::Range;

use burn::tensor::{Tensor, TensorData};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, StandardNormal};
use serde::{Deserialize, Serialize};

use crate::error::Error;

pub use design::NoiseDesign;

/// How large Gaussian noise is.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NoiseScale {
    /// sigma = level * (max x - min x), for each row by itself.
    Relative(f64),
    /// sigma itself, in units of the input.
    Absolute(f64),
}

impl NoiseScale {
    pub(crate) fn validate(self) -> Result<(), Error> {
        let (NoiseScale::Relative(level) | NoiseScale::Absolute(level)) = self;
        match level.is_finite() && level >= 0.0 {
            true => Ok(()),
            false => Err(Error::option(
                "noise",
                level,
                "it must be a finite number of at least 0",
            )),
        }
    }

    /// sigma of each row, shaped `[rows, 1, ..., 1]`.
    fn sigma<const D: usize>(self, input: &Tensor<D>) -> Tensor<D> {
        let dims = input.dims();
        let rows = dims[0];
        let flat = input.clone().reshape([rows, dims[1..].iter().product()]);
        let sigma = match self {
            NoiseScale::Relative(level) => {
                (flat.clone().max_dim(1) - flat.min_dim(1)).mul_scalar(level)
            }
            NoiseScale::Absolute(sigma) => {
                Tensor::full([rows, 1], sigma, (&input.device(), input.dtype()))
            }
        };
        let mut shape = [1; D];
        shape[0] = rows;
        sigma.reshape(shape)
    }
}

/// `len` standard normal values of one sample.
///
/// ```
/// use saliency_core::noise::standard_normal;
/// assert_eq!(standard_normal(7, 3, 10), standard_normal(7, 3, 10));
/// assert_ne!(standard_normal(7, 3, 10), standard_normal(7, 4, 10));
/// ```
pub fn standard_normal(seed: u64, sample: usize, len: usize) -> Vec<f32> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(sample as u64);
    (0..len).map(|_| StandardNormal.sample(&mut rng)).collect()
}

/// `input + sigma * noise` for each of `samples` (at least one): `[samples * rows, ...]`,
/// sample by sample.
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use saliency_core::noise::{NoiseScale, noisy, standard_normal};
/// let x = Tensor::<2>::zeros([2, 3], &Device::flex());
/// let y = noisy(&x, NoiseScale::Absolute(1.0), 7, 4..5);
/// let noise = standard_normal(7, 4, 3);
/// assert_eq!(y.try_into_vec_as::<f32>().unwrap(), [&noise[..], &noise[..]].concat());
/// ```
pub fn noisy<const D: usize>(
    input: &Tensor<D>,
    scale: NoiseScale,
    seed: u64,
    samples: Range<usize>,
) -> Tensor<D> {
    noisy_by(NoiseDesign::Independent, input, scale, seed, samples)
}

/// [`noisy`], by a design.
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use saliency_core::{NoiseDesign, NoiseScale, noise::noisy_by};
/// let x = Tensor::<2>::zeros([2, 3], &Device::flex());
/// let pair = noisy_by(NoiseDesign::Antithetic, &x, NoiseScale::Absolute(1.0), 7, 0..2);
/// assert_eq!(pair.dims(), [4, 3]);
/// assert_eq!(pair.sum_dim(0).try_into_vec_as::<f32>().unwrap(), [0.0; 3]);
/// ```
pub fn noisy_by<const D: usize>(
    design: NoiseDesign,
    input: &Tensor<D>,
    scale: NoiseScale,
    seed: u64,
    samples: Range<usize>,
) -> Tensor<D> {
    let sigma = scale.sigma(input);
    let mut shape = input.dims();
    let drawn = design.draw(shape, seed, samples);
    shape[0] = 1;
    let parts = drawn
        .into_iter()
        .map(|noise| {
            let data = TensorData::new(noise, shape);
            let noise = Tensor::<D>::from_data(
                data.convert_dtype(input.dtype()),
                (&input.device(), input.dtype()),
            );
            input.clone() + noise * sigma.clone()
        })
        .collect();
    crate::run::join(parts)
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::Device;

    #[test]
    fn moments_are_those_of_a_standard_normal() {
        let values: Vec<f64> = (0..20)
            .flat_map(|s| standard_normal(1, s, 5_000))
            .map(f64::from)
            .collect();
        let n = values.len() as f64;
        let mean = values.iter().sum::<f64>() / n;
        let variance = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / n;
        let kurtosis =
            values.iter().map(|v| (v - mean).powi(4)).sum::<f64>() / n / variance.powi(2);
        // Four standard errors of each at n = 100,000.
        assert!(mean.abs() < 4.0 / n.sqrt(), "{mean}");
        assert!(
            (variance - 1.0).abs() < 4.0 * (2.0 / n).sqrt(),
            "{variance}"
        );
        assert!(
            (kurtosis - 3.0).abs() < 4.0 * (24.0 / n).sqrt(),
            "{kurtosis}"
        );
    }

    #[test]
    fn relative_noise_follows_each_rows_own_range() {
        let device = Device::flex();
        let x = Tensor::<2>::from_floats([[0.0, 1.0], [5.0, 45.0]], &device);
        let y = noisy(&x, NoiseScale::Relative(0.1), 3, 0..1) - x;
        let y = y.try_into_vec_as::<f32>().unwrap();
        let noise = standard_normal(3, 0, 2);
        for (got, want) in y.iter().zip([
            0.1 * noise[0],
            0.1 * noise[1],
            4.0 * noise[0],
            4.0 * noise[1],
        ]) {
            assert!((got - want).abs() < 1e-5, "{got} {want}");
        }
    }
}
