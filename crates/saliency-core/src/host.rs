//! Reading tensors back and checking what is in them.

use burn::tensor::{DType, Tensor};

use crate::error::Error;

/// All values in row-major order, as f32.
pub(crate) fn values<const D: usize>(tensor: Tensor<D>) -> Result<Vec<f32>, Error> {
    tensor.try_into_vec_as::<f32>().map_err(Error::device)
}

/// Fails with the place of the first NaN or infinity. One scalar is transferred where all
/// is well.
pub(crate) fn check_finite<const D: usize>(
    what: &'static str,
    tensor: &Tensor<D>,
) -> Result<(), Error> {
    let all_finite = tensor.clone().is_finite().all();
    if all_finite
        .try_into_scalar::<bool>()
        .map_err(Error::device)?
    {
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
            value: name_of(values[index]),
            row: index / row_len.max(1),
            element: index % row_len.max(1),
        }),
        None => Ok(()),
    }
}

/// `NaN`, `inf` or `-inf`.
pub(crate) fn name_of(value: f64) -> &'static str {
    match value {
        v if v.is_nan() => "NaN",
        v if v > 0.0 => "inf",
        _ => "-inf",
    }
}

/// f16 and bf16 as f32, so that squares do not underflow and sums keep their digits.
pub(crate) fn widened<const D: usize>(tensor: Tensor<D>) -> Tensor<D> {
    match tensor.dtype() {
        DType::F16 | DType::BF16 => tensor.cast(DType::F32),
        _ => tensor,
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
