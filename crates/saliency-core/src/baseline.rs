use burn::tensor::{Tensor, TensorData};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Deserializer, Serialize};

use crate::{
    axes,
    blur::{Border, blur},
    error::Error,
    noise::{NoiseScale, noisy},
};

/// An input that stands for "nothing there": where path methods start, and what perturbation
/// methods put in place of what they take away.
///
/// Values are in the units of the model's input: for a normalised picture, `Zero` is the
/// data set's mean colour and not black.
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use saliency_core::Baseline;
/// let x = Tensor::<2>::from_floats([[1.0, 3.0]], &Device::flex());
/// assert_eq!(Baseline::Constant(2.0).of(&x)?.try_into_vec_as::<f32>()?, [2.0, 2.0]);
/// assert_eq!(serde_json::to_string(&Baseline::Constant(2.0))?, r#"{"constant":2.0}"#);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Baseline {
    /// Zero everywhere.
    #[default]
    Zero,
    /// One value everywhere.
    Constant(f64),
    /// One value for each channel: of a series each feature, of a table each column.
    Channels(Vec<f64>),
    /// The mean over the positions of each row's own channel: of a series, each feature's
    /// over time; of a table, the row's.
    Mean,
    /// The least value of each row, everywhere.
    Minimum,
    /// The greatest value of each row, everywhere.
    Maximum,
    /// The input blurred over its positions, sigma in positions; borders are mirrored.
    Blur {
        /// Standard deviation of the Gaussian.
        sigma: f64,
    },
    /// The input plus Gaussian noise.
    Noise {
        /// Size of the noise.
        scale: NoiseScale,
        /// Seed of the noise.
        seed: u64,
    },
    /// Values drawn evenly between the least and the greatest of each row.
    Uniform {
        /// Seed of the values.
        seed: u64,
    },
    /// A given input, of the shape of one row (`[C, H, W]`) in row-major order.
    Values {
        /// Its values.
        values: Vec<f32>,
    },
}

impl Baseline {
    /// The baseline of each row of `input`, shaped like it.
    ///
    /// # Errors
    /// [`Error::Option`] where a value is not finite or a length does not fit.
    pub fn of<const D: usize>(&self, input: &Tensor<D>) -> Result<Tensor<D>, Error> {
        let dims = input.dims();
        let (rows, row) = (dims[0], dims[1..].iter().product::<usize>());
        let place = (&input.device().inner(), input.dtype());
        let finite = |values: &[f64]| match values.iter().find(|v| !v.is_finite()) {
            Some(bad) => Err(Error::option("baseline", bad, "it must be finite")),
            None => Ok(()),
        };
        let spread = |values: Vec<f64>, shape: [usize; D]| {
            let data = TensorData::new(values, shape).convert_dtype(input.dtype());
            Tensor::<D>::from_data(data, place).expand(dims)
        };
        Ok(match self {
            Baseline::Zero => Tensor::zeros(dims, place),
            Baseline::Constant(value) => {
                finite(&[*value])?;
                Tensor::full(dims, *value, place)
            }
            Baseline::Channels(values) => {
                finite(values)?;
                let axis = axes::channels(D).unwrap_or(1);
                if values.len() != dims[axis] {
                    return Err(Error::option(
                        "baseline",
                        format!("{} values", values.len()),
                        "there must be one value for each channel of the input",
                    ));
                }
                let shape = std::array::from_fn(|d| if d == axis { dims[axis] } else { 1 });
                spread(values.clone(), shape)
            }
            Baseline::Mean => {
                let mean = axes::positions(D).fold(input.clone(), |x, axis| x.mean_dim(axis));
                mean.expand(dims)
            }
            Baseline::Minimum => extreme(input, |flat| flat.min_dim(1)),
            Baseline::Maximum => extreme(input, |flat| flat.max_dim(1)),
            Baseline::Blur { sigma } => {
                finite(&[*sigma])?;
                if *sigma < 0.0 || D < 3 {
                    let requirement = "sigma must be at least 0, and the input must have positions to blur over: [N, T, F] or [N, C, H, W]";
                    return Err(Error::option("baseline", "blur", requirement));
                }
                blur(input.clone(), *sigma, Border::Reflect)
            }
            Baseline::Noise { scale, seed } => {
                scale.validate()?;
                noisy(input, *scale, *seed, 0..1)
            }
            Baseline::Uniform { seed } => {
                let mut rng = ChaCha8Rng::seed_from_u64(*seed);
                let unit: Vec<f64> = (0..row).map(|_| rng.random()).collect();
                let shape = std::array::from_fn(|d| if d == 0 { 1 } else { dims[d] });
                let flat = input.clone().reshape([rows, row]);
                let per_row = std::array::from_fn(|d| if d == 0 { rows } else { 1 });
                let least = flat.clone().min_dim(1).reshape::<D, _>(per_row);
                let range = flat.max_dim(1).reshape::<D, _>(per_row) - least.clone();
                spread(unit, shape) * range + least
            }
            Baseline::Values { values } => {
                if values.len() != row {
                    return Err(Error::option(
                        "baseline",
                        format!("{} values", values.len()),
                        "there must be as many as one row of the input has",
                    ));
                }
                let values: Vec<f64> = values.iter().map(|&v| v.into()).collect();
                finite(&values)?;
                spread(
                    values,
                    std::array::from_fn(|d| if d == 0 { 1 } else { dims[d] }),
                )
            }
        })
    }
}

fn extreme<const D: usize>(input: &Tensor<D>, of: impl Fn(Tensor<2>) -> Tensor<2>) -> Tensor<D> {
    let dims = input.dims();
    let flat = input.clone().reshape([dims[0], dims[1..].iter().product()]);
    let shape = std::array::from_fn(|d| if d == 0 { dims[0] } else { 1 });
    of(flat).reshape::<D, _>(shape).expand(dims)
}

/// Reads one baseline or a list of them.
pub(crate) fn one_or_many<'de, R: Deserializer<'de>>(reader: R) -> Result<Vec<Baseline>, R::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum OneOrMany {
        One(Baseline),
        Many(Vec<Baseline>),
    }
    Ok(match OneOrMany::deserialize(reader)? {
        OneOrMany::One(baseline) => vec![baseline],
        OneOrMany::Many(baselines) => baselines,
    })
}

/// Fails where there is no baseline at all.
pub(crate) fn check_some(baselines: &[Baseline]) -> Result<(), Error> {
    match baselines.is_empty() {
        true => Err(Error::option("baselines", "[]", "at least one is needed")),
        false => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::Device;

    fn values(baseline: &Baseline, x: &Tensor<4>) -> Vec<f32> {
        baseline.of(x).unwrap().try_into_vec_as().unwrap()
    }

    #[test]
    fn each_kind_is_what_it_says() {
        let x = Tensor::<4>::from_floats(
            [[[[1.0, 3.0]], [[0.0, 4.0]]], [[[5.0, 5.0]], [[2.0, 0.0]]]],
            &Device::flex(),
        );
        let channels = Baseline::Channels(vec![1.0, -1.0]);
        assert_eq!(values(&channels, &x), [1., 1., -1., -1., 1., 1., -1., -1.]);
        let mean = [2., 2., 2., 2., 5., 5., 1., 1.];
        assert_eq!(values(&Baseline::Mean, &x), mean);
        let least = [0., 0., 0., 0., 0., 0., 0., 0.];
        assert_eq!(values(&Baseline::Minimum, &x), least);
        let greatest = [4., 4., 4., 4., 5., 5., 5., 5.];
        assert_eq!(values(&Baseline::Maximum, &x), greatest);
        let wide = Baseline::Blur { sigma: 50.0 };
        for (got, want) in values(&wide, &x).iter().zip(mean) {
            assert!((got - want).abs() < 1e-4, "{got} {want}");
        }
        let uniform = values(&Baseline::Uniform { seed: 3 }, &x);
        assert!(uniform[..4].iter().all(|v| (0.0..4.0).contains(v)));
        assert_eq!(uniform, values(&Baseline::Uniform { seed: 3 }, &x));
        let given = Baseline::Values {
            values: vec![1., 2., 3., 4.],
        };
        assert_eq!(values(&given, &x), [1., 2., 3., 4., 1., 2., 3., 4.]);
        let scale = NoiseScale::Absolute(0.0);
        assert_eq!(
            values(&Baseline::Noise { scale, seed: 0 }, &x),
            x.clone().try_into_vec_as::<f32>().unwrap()
        );
    }

    #[test]
    fn a_series_has_its_features_last() {
        let x = Tensor::<3>::from_floats([[[1.0, 10.0], [3.0, 30.0]]], &Device::flex());
        let of = |b: Baseline| b.of(&x).unwrap().try_into_vec_as::<f32>().unwrap();
        assert_eq!(of(Baseline::Mean), [2.0, 20.0, 2.0, 20.0]);
        let features = Baseline::Channels(vec![5.0, 6.0]);
        assert_eq!(of(features), [5.0, 6.0, 5.0, 6.0]);
        let table = x.flatten::<2>(1, 2);
        let mean = Baseline::Mean.of(&table).unwrap();
        assert_eq!(mean.try_into_vec_as::<f32>().unwrap(), [11.0; 4]);
    }

    #[test]
    fn what_does_not_fit_is_named() {
        let x = Tensor::<2>::ones([1, 3], &Device::flex());
        let text = |b: Baseline| b.of(&x).unwrap_err().to_string();
        assert!(text(Baseline::Channels(vec![1.0])).contains("1 values"));
        assert!(text(Baseline::Values { values: vec![1.0] }).contains("1 values"));
        assert!(text(Baseline::Constant(f64::NAN)).contains("NaN"));
        assert!(text(Baseline::Blur { sigma: 1.0 }).contains("[N, T, F]"));
    }
}
