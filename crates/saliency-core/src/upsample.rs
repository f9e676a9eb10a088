//! Other sizes of maps, as one matrix product per position axis.

use burn::tensor::{Tensor, TensorData};
use serde::{Deserialize, Serialize};

use crate::graph::Value;

/// How a coarse map is brought to the positions of the input.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Resize {
    /// Linear between the centres of the cells: OpenCV's `resize` and PyTorch's `interpolate`
    /// with `align_corners=False`.
    #[default]
    Bilinear,
    /// Linear with the centres of the corner cells on those of the corner positions: PyTorch's
    /// `align_corners=True`.
    Aligned,
    /// The cell that a position lies in, as PyTorch's `nearest`.
    Nearest,
}

/// Which cells a position reads, and how much of each.
fn taps(from: usize, to: usize, position: usize, how: Resize) -> [(usize, f64); 2] {
    let place = match how {
        Resize::Nearest => return [(position * from / to, 1.0), (0, 0.0)],
        Resize::Bilinear => (position as f64 + 0.5) * from as f64 / to as f64 - 0.5,
        Resize::Aligned if to == 1 => 0.0,
        Resize::Aligned => position as f64 * (from - 1) as f64 / (to - 1) as f64,
    };
    let place = place.clamp(0.0, (from - 1) as f64);
    let first = place.floor() as usize;
    let second = (first + 1).min(from - 1);
    let part = place - first as f64;
    [(first, 1.0 - part), (second, part)]
}

/// `[from, to]`: column `i` has the weights of the cells for position `i`.
fn reading(from: usize, to: usize, how: Resize) -> Vec<f64> {
    let mut matrix = vec![0.0; from * to];
    for position in 0..to {
        for (cell, weight) in taps(from, to, position, how) {
            matrix[cell * to + position] += weight;
        }
    }
    matrix
}

/// The same with rows that add up to one: every cell gives away all it has.
fn sharing(from: usize, to: usize) -> Vec<f64> {
    let mut matrix = reading(from, to, Resize::Bilinear);
    for (cell, row) in matrix.chunks_mut(to).enumerate() {
        let total: f64 = row.iter().sum();
        match total > 0.0 {
            true => row.iter_mut().for_each(|weight| *weight /= total),
            false => row[(2 * cell + 1) * to / (2 * from)] = 1.0,
        }
    }
    matrix
}

/// The last axes of `x` at other sizes.
pub(crate) fn resize(x: Value, sizes: &[usize], how: Resize) -> Value {
    along_last(x, sizes, |from, to| reading(from, to, how))
}

/// The last axes of `x` spread smoothly over other sizes, with the same sum.
pub(crate) fn share(x: Value, sizes: &[usize]) -> Value {
    along_last(x, sizes, sharing)
}

fn along_last(x: Value, sizes: &[usize], matrix: impl Fn(usize, usize) -> Vec<f64>) -> Value {
    let first = x.rank() - sizes.len();
    sizes.iter().enumerate().fold(x, |x, (i, &to)| {
        let (axis, last) = (first + i, x.rank() - 1);
        let from = x.shape()[axis];
        if from == to {
            return x;
        }
        let matrix = TensorData::new(matrix(from, to), [from, to]).convert_dtype(x.dtype());
        let matrix = Tensor::<2>::from_data(matrix, (&x.device(), x.dtype()));
        let mut exchanged: Vec<usize> = (0..=last).collect();
        exchanged.swap(axis, last);
        let x = x.permute(&exchanged);
        let mut shape = x.shape();
        let rows = shape[..last].iter().product();
        shape[last] = to;
        x.reshape(&[rows, from])
            .matmul(&matrix.into())
            .reshape(&shape)
            .permute(&exchanged)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::Device;

    fn line(values: &[f32]) -> Value {
        Tensor::<1>::from_floats(values, &Device::flex())
            .reshape([1, 1, values.len()])
            .into()
    }

    /// torch.nn.functional.interpolate(x, size=..., mode=..., align_corners=...)
    #[test]
    fn agrees_with_pytorch() {
        let x = line(&[1.0, 4.0, 2.0]);
        for (to, how, want) in [
            (5, Resize::Bilinear, vec![1.0, 2.2, 4.0, 2.8, 2.0]),
            (5, Resize::Aligned, vec![1.0, 2.5, 4.0, 3.0, 2.0]),
            (5, Resize::Nearest, vec![1.0, 1.0, 4.0, 4.0, 2.0]),
            (2, Resize::Bilinear, vec![1.75, 2.5]),
            (2, Resize::Nearest, vec![1.0, 4.0]),
            (1, Resize::Aligned, vec![1.0]),
        ] {
            let got = resize(x.clone(), &[to], how).to_vec().unwrap();
            for (got, want) in got.iter().zip(&want) {
                assert!((got - want).abs() < 1e-6, "{how:?} {to}: {got} {want}");
            }
            assert_eq!(got.len(), to);
        }
    }

    /// A plane stays a plane between the outermost centres, along both axes.
    #[test]
    fn planes_stay_planes() {
        let cells: Vec<f32> = (0..6)
            .map(|i| (i / 3) as f32 + 10.0 * (i % 3) as f32)
            .collect();
        let x: Value = Tensor::<1>::from_floats(&cells[..], &Device::flex())
            .reshape([1, 1, 2, 3])
            .into();
        let got = resize(x, &[4, 9], Resize::Bilinear).to_vec().unwrap();
        let place = |i: usize, from: f32, to: f32| {
            ((i as f32 + 0.5) * from / to - 0.5).clamp(0.0, from - 1.0)
        };
        for (i, got) in got.iter().enumerate() {
            let want = place(i / 9, 2.0, 4.0) + 10.0 * place(i % 9, 3.0, 9.0);
            assert!((got - want).abs() < 1e-5, "{i}: {got} {want}");
        }
    }

    #[test]
    fn sharing_keeps_the_sum() {
        let x = line(&[1.0, -4.0, 2.5, 7.0, 3.0]);
        for to in [1, 2, 5, 11] {
            let sum: f32 = share(x.clone(), &[to]).to_vec().unwrap().iter().sum();
            assert!((sum - 9.5).abs() < 1e-5, "{to}: {sum}");
        }
    }
}
