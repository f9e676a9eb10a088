//! Reading tensors back and checking what is in them.

use burn::tensor::{DType, Tensor};

use crate::error::Error;

/// All values in row-major order, as f32.
pub(crate) fn values<const D: usize>(tensor: Tensor<D>) -> Result<Vec<f32>, Error> {
    tensor.try_into_vec_as::<f32>().map_err(Error::device)
}

/// The one value of a tensor that was reduced to a scalar.
pub(crate) fn scalar(tensor: Tensor<1>) -> Result<f64, Error> {
    let values = tensor.try_into_vec_as::<f64>().map_err(Error::device)?;
    Ok(values[0])
}

/// Fails with the place of the first NaN or infinity. One scalar is transferred where all
/// is well.
pub(crate) fn check_finite<const D: usize>(
    what: &'static str,
    tensor: &Tensor<D>,
) -> Result<(), Error> {
    // x - x is 0 for a finite x and NaN for any other.
    let probe = tensor.clone().sub(tensor.clone()).sum();
    if scalar(probe)? == 0.0 {
        return Ok(());
    }
    let row_len: usize = tensor.dims()[1..].iter().product();
    let values = tensor
        .clone()
        .try_into_vec_as::<f64>()
        .map_err(Error::device)?;
    match values.iter().position(|v| !v.is_finite()) {
        Some(index) => Err(Error::NonFinite {
            what,
            value: match values[index] {
                v if v.is_nan() => "NaN",
                v if v > 0.0 => "inf",
                _ => "-inf",
            },
            row: index / row_len.max(1),
            element: index % row_len.max(1),
        }),
        None => Ok(()),
    }
}

/// ||a - b|| / ||b|| over all values, in f64; the norm of `a` where `b` is zero.
pub(crate) fn relative_l2<const D: usize>(a: &Tensor<D>, b: &Tensor<D>) -> Result<f64, Error> {
    let read = |t: &Tensor<D>| {
        t.clone()
            .inner()
            .try_into_vec_as::<f64>()
            .map_err(Error::device)
    };
    let (a, b) = (read(a)?, read(b)?);
    let difference: f64 = a.iter().zip(&b).map(|(a, b)| (a - b).powi(2)).sum();
    let norm: f64 = b.iter().map(|b| b * b).sum();
    Ok((difference / if norm > 0.0 { norm } else { 1.0 }).sqrt())
}

/// Rounding unit of a float type.
pub(crate) fn epsilon(dtype: DType) -> f64 {
    match dtype {
        DType::F64 => f64::EPSILON,
        DType::F16 => 9.8e-4,
        DType::BF16 => 7.9e-3,
        _ => f32::EPSILON as f64,
    }
}
