//! Gaussian blur as one matrix product per position axis.

use burn::tensor::{Tensor, TensorData};

use crate::axes::neighbours;

/// What lies beyond the border.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Border {
    /// Zeros (scipy's `constant`, which PAIR's Blur IG uses).
    Zero,
    /// The mirrored input, edge repeated: (d c b a | a b c d | d c b a), scipy's `reflect`.
    Reflect,
}

/// Gaussian weights truncated at four sigma, as scipy's `gaussian_filter1d`, as a matrix
/// `[len, len]`: row `i` has the weights of the inputs for output `i`. The identity where
/// sigma is zero.
pub(crate) fn gaussian_matrix(len: usize, sigma: f64, border: Border) -> Vec<f64> {
    let radius = if sigma > 0.0 {
        (4.0 * sigma + 0.5) as isize
    } else {
        0
    };
    let weight = |offset: isize| match radius {
        0 => 1.0,
        _ => (-0.5 * (offset as f64 / sigma).powi(2)).exp(),
    };
    let weights: Vec<f64> = (-radius..=radius).map(weight).collect();
    let total: f64 = weights.iter().sum();
    let n = len as isize;
    let mut matrix = vec![0.0; len * len];
    for i in 0..n {
        for (offset, weight) in (-radius..=radius).zip(&weights) {
            let j = i + offset;
            let source = match border {
                Border::Zero if j < 0 || j >= n => continue,
                Border::Zero => j,
                Border::Reflect => {
                    let period = j.rem_euclid(2 * n);
                    period.min(2 * n - 1 - period)
                }
            };
            matrix[(i * n + source) as usize] += weight / total;
        }
    }
    matrix
}

/// Blurs every axis of positions that have neighbours, each with `sigma` positions.
pub(crate) fn blur<const D: usize>(input: Tensor<D>, sigma: f64, border: Border) -> Tensor<D> {
    neighbours(D).fold(input, |x, axis| {
        let len = x.dims()[axis];
        along(x, axis, len, gaussian_matrix(len, sigma, border))
    })
}

/// [`blur`] with `sigma`, and how much it changes from there to `sigma + step`.
///
/// The change comes from the difference of the matrices, which is taken in f64; that of the
/// blurred inputs would have few digits left in f32.
pub(crate) fn blur_and_change<const D: usize>(
    input: Tensor<D>,
    sigma: f64,
    step: f64,
    border: Border,
) -> (Tensor<D>, Tensor<D>) {
    let zero = input.zeros_like();
    neighbours(D).fold((input, zero), |(blurred, change), axis| {
        let len = blurred.dims()[axis];
        let here = gaussian_matrix(len, sigma, border);
        let next = gaussian_matrix(len, sigma + step, border);
        let gap = next
            .iter()
            .zip(&here)
            .map(|(next, here)| next - here)
            .collect();
        let change = along(change, axis, len, next) + along(blurred.clone(), axis, len, gap);
        (along(blurred, axis, len, here), change)
    })
}

/// Applies the matrix `[to, len]` along one axis of length `len`.
pub(crate) fn along<const D: usize>(
    x: Tensor<D>,
    axis: usize,
    to: usize,
    matrix: Vec<f64>,
) -> Tensor<D> {
    let len = x.dims()[axis];
    let matrix = TensorData::new(matrix, [to, len]).convert_dtype(x.dtype());
    let matrix = Tensor::<2>::from_data(matrix, (&x.device().inner(), x.dtype())).transpose();
    let x = x.swap_dims(axis, D - 1);
    let mut shape = x.dims();
    let rows = shape[..D - 1].iter().product();
    shape[D - 1] = to;
    x.reshape([rows, len])
        .matmul(matrix)
        .reshape(shape)
        .swap_dims(axis, D - 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::Device;

    /// scipy.ndimage.gaussian_filter(numpy.arange(12.0).reshape(3, 4) ** 2, 1.5, mode=...)
    #[test]
    fn agrees_with_scipy() {
        let squares: Vec<f64> = (0..12).map(|i| f64::from(i * i)).collect();
        let x = Tensor::<4>::from_data(
            TensorData::new(squares, [1, 1, 3, 4]).convert_dtype(burn::tensor::DType::F32),
            &Device::flex(),
        );
        let reflect = [
            23.14169, 26.71684, 31.942085, 35.76643, 34.14371, 38.712974, 45.342228, 50.16068,
            45.37604, 50.93941, 58.972675, 64.78524,
        ];
        let zero = [
            8.932302, 13.095651, 14.994361, 13.072987, 14.826317, 21.430244, 24.199665, 20.865835,
            16.542184, 23.683083, 26.493654, 22.671446,
        ];
        for (border, want) in [(Border::Reflect, reflect), (Border::Zero, zero)] {
            let got = blur(x.clone(), 1.5, border)
                .try_into_vec_as::<f32>()
                .unwrap();
            for (got, want) in got.iter().zip(want) {
                assert!((got - want).abs() < 1e-4, "{border:?}: {got} {want}");
            }
            let same = blur(x.clone(), 0.0, border).into_data();
            same.assert_eq(&x.to_data(), true);
        }
    }

    #[test]
    fn the_change_is_the_difference_of_two_blurs() {
        let values = crate::noise::standard_normal(1, 0, 60);
        let x = Tensor::<4>::from_data(
            TensorData::new(values, [1, 2, 5, 6]).convert_dtype(burn::tensor::DType::F64),
            (&Device::flex(), burn::tensor::DType::F64),
        );
        let (sigma, step) = (1.3, 0.01);
        let (blurred, change) = blur_and_change(x.clone(), sigma, step, Border::Zero);
        let here = blur(x.clone(), sigma, Border::Zero);
        let next = blur(x, sigma + step, Border::Zero);
        crate::methods::testing::assert_close(blurred, here.clone(), 1e-14);
        crate::methods::testing::assert_close(change, next - here, 1e-11);
    }
}
