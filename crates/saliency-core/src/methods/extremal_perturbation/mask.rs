//! Smooth masks, and inputs perturbed by the degree that a mask says.

use burn::tensor::{Int, Tensor, TensorData, activation::softmax};

use super::{ExtremalPerturbation, Perturbation};
use crate::{
    blur::{Border, blur},
    error::Error,
    grid::{indices, positions},
    host::widened,
};

/// The input at all levels of its perturbation, `[count, levels, channels, positions]`, from
/// the most perturbed to the input itself.
pub(super) struct Scene<const D: usize> {
    pub(super) pyramid: Tensor<4>,
    shape: [usize; D],
}

impl<const D: usize> Scene<D> {
    pub(super) fn new(options: &ExtremalPerturbation, x: &Tensor<D>) -> Result<Self, Error> {
        let x = widened(x.clone());
        let mut shape = x.dims();
        let rows = shape[0];
        let positions: usize = positions(&x).iter().product();
        let channels = shape[1..].iter().product::<usize>() / positions;
        let last = (options.levels - 1) as f64;
        let fill = match &options.perturbation {
            Perturbation::Fade { to } => Some(to.of(&x)?),
            Perturbation::Blur { .. } => None,
        };
        let levels = (0..options.levels).map(|level| {
            let part = level as f64 / last;
            let x = match (&options.perturbation, &fill) {
                (Perturbation::Blur { sigma }, _) => {
                    blur(x.clone(), (1.0 - part) * sigma * shortest(&x), Border::Zero)
                }
                (_, Some(fill)) => x.clone() * part + fill.clone() * (1.0 - part),
                _ => x.clone(),
            };
            x.reshape([rows, 1, channels, positions])
        });
        let pyramid = Tensor::cat(levels.collect(), 1).repeat_dim(0, options.areas.len());
        shape[0] = rows * options.areas.len();
        Ok(Scene { pyramid, shape })
    }

    /// Between the two levels next to the mask at each position: `[count, positions]` to
    /// inputs.
    pub(super) fn apply(&self, mask: Tensor<2>) -> Tensor<D> {
        let [count, levels, channels, positions] = self.pyramid.dims();
        let at = (mask * (levels - 1) as f64).reshape([count, 1, 1, positions]);
        let low = at.clone().inner().floor();
        let part = at - low.clone();
        let low: Tensor<4, Int> = low.int();
        let high = (low.clone() + 1).clamp_max((levels - 1) as i64);
        let level = |which: Tensor<4, Int>| {
            let which = which.expand([count, 1, channels, positions]);
            self.pyramid.clone().gather(1, which)
        };
        let (low, high) = (level(low), level(high));
        let seen = low * (part.clone().neg() + 1.0) + high * part;
        seen.reshape(self.shape)
    }
}

/// Smooth masks from coarse parameters: for each position of the mask (with a margin), the
/// parameters near it and their weights.
pub(super) struct Smoother {
    pub(super) parameters: usize,
    /// `[near * positions]`; the number of parameters stands for a zero beyond the border.
    source: Tensor<1, Int>,
    /// `[1, near, positions]`.
    weight: Tensor<3>,
    /// The positions of the input among those with a margin.
    pub(super) crop: Tensor<1, Int>,
}

impl Smoother {
    pub(super) fn new<const D: usize>(options: &ExtremalPerturbation, x: &Tensor<D>) -> Self {
        let device = x.device().inner();
        let lengths = positions(x);
        if D == 2 {
            let identity = || indices(0..lengths[0], &device);
            return Smoother {
                parameters: lengths[0],
                source: identity(),
                weight: Tensor::ones([1, 1, lengths[0]], (&device, widened(x.clone()).dtype())),
                crop: identity(),
            };
        }
        let sigma = options.sigma * shortest(x);
        let step = (options.cell * shortest(x)).round().max(1.0);
        let padding = 1 + (2.0 * sigma / step).ceil() as isize;
        let radius = 1 + (sigma / step).ceil() as isize;
        let inner: Vec<usize> = lengths
            .iter()
            .map(|&len| len.div_ceil(step as usize))
            .collect();
        let outer: Vec<usize> = inner
            .iter()
            .map(|&n| step as usize * (n + 2 * (padding - radius) as usize) - step as usize + 1)
            .collect();
        let near = vec![2 * radius as usize + 1; lengths.len()];
        let (parameters, count) = (inner.iter().product(), outer.iter().product());
        let (mut source, mut weight) = (Vec::new(), Vec::new());
        for offset in (0..near.iter().product()).map(|k| place(k, &near)) {
            for position in (0..count).map(|u| place(u, &outer)) {
                let (mut from, mut squares, mut within) = (0, 0.0, true);
                for axis in 0..lengths.len() {
                    let u = position[axis] as f64;
                    let i = (u / step).floor() as isize + offset[axis] as isize - padding;
                    squares += (u - (sigma + step * i as f64)).powi(2);
                    within &= (0..inner[axis] as isize).contains(&i);
                    from = from * inner[axis] + i.max(0) as usize;
                }
                let beyond = (squares.sqrt() / sigma - 0.5).max(0.0);
                source.push(if within { from } else { parameters });
                weight.push((-2.0 * beyond * beyond).exp());
            }
        }
        let margin = sigma.round_ties_even() as usize;
        let crop = (0..lengths.iter().product()).map(|u| {
            let at = place(u, &lengths);
            at.iter()
                .zip(&outer)
                .fold(0, |sum, (&i, &len)| sum * len + i + margin)
        });
        let shape = [1, near.iter().product(), count];
        let dtype = widened(x.clone()).dtype();
        let weight = TensorData::new(weight, shape).convert_dtype(dtype);
        Smoother {
            parameters,
            source: indices(source.into_iter(), &device),
            weight: Tensor::from_data(weight, (&device, dtype)),
            crop: indices(crop, &device),
        }
    }

    /// Masks with their margin, `[count, positions]`, from `[count, parameters]`.
    pub(super) fn full(&self, parameters: Tensor<2>) -> Tensor<2> {
        const COLDNESS: f64 = 20.0;
        let count = parameters.dims()[0];
        let [_, near, positions] = self.weight.dims();
        let beyond = Tensor::zeros(
            [count, 1],
            (&parameters.device().inner(), parameters.dtype()),
        );
        let padded = Tensor::cat(vec![parameters, beyond], 1);
        let around = padded
            .select(1, self.source.clone())
            .reshape([count, near, positions]);
        let around = around * self.weight.clone();
        let pooled = (around.clone() * softmax(around * COLDNESS, 1)).sum_dim(1);
        pooled.reshape([count, positions]).clamp(0.0, 1.0)
    }
}

/// The place of a row-major index in a box.
fn place(mut index: usize, lengths: &[usize]) -> Vec<usize> {
    let mut place = vec![0; lengths.len()];
    for (at, len) in place.iter_mut().zip(lengths).rev() {
        *at = index % len;
        index /= len;
    }
    place
}

pub(super) fn shortest<const D: usize>(x: &Tensor<D>) -> f64 {
    positions(x).into_iter().min().unwrap_or(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Baseline,
        methods::testing::{assert_close, image},
    };

    fn values<const D: usize>(tensor: Tensor<D>) -> Vec<f64> {
        tensor.try_into_vec_as().unwrap()
    }

    /// On a line: each position sees the softmax-weighted parameters around it.
    #[test]
    fn a_mask_is_the_smooth_maximum_of_the_parameters_near_it() {
        let x = Tensor::<3>::zeros([1, 1, 10], &burn::tensor::Device::flex());
        let options = ExtremalPerturbation {
            cell: 0.2,
            sigma: 0.3,
            ..Default::default()
        };
        let smoother = Smoother::new(&options, &x);
        assert_eq!(smoother.parameters, 5);
        let parameters = [0.1f64, 0.9, 0.3, 0.0, 1.0];
        let given = Tensor::<2>::from_data([parameters], &x.device());
        let mask = smoother.full(given).select(1, smoother.crop.clone());
        for (u, got) in values(mask).into_iter().enumerate() {
            // Positions and parameters (two apart) share an origin; zeros lie beyond.
            let near = (u as isize / 2 - 3)..=(u as isize / 2 + 4);
            let terms: Vec<f64> = near
                .map(|i| {
                    let beyond = ((u as f64 - 2.0 * i as f64).abs() / 3.0 - 0.5).max(0.0);
                    let value = usize::try_from(i).ok().and_then(|i| parameters.get(i));
                    value.copied().unwrap_or(0.0) * (-2.0 * beyond * beyond).exp()
                })
                .collect();
            let all: f64 = terms.iter().map(|z| (20.0 * z).exp()).sum();
            let want: f64 = terms.iter().map(|z| z * (20.0 * z).exp() / all).sum();
            assert!((got - want).abs() < 1e-5, "{u}: {got} {want}");
        }
    }

    #[test]
    fn full_masks_keep_the_input_and_empty_ones_perturb_it_fully() {
        let x = image(2, 1);
        let device = x.device();
        let apply = |options: &ExtremalPerturbation, mask: f64| {
            let scene = Scene::new(options, &x).unwrap();
            scene.apply(Tensor::full([2, 72], mask, &device))
        };
        let blurred = ExtremalPerturbation::new();
        assert_close(apply(&blurred, 1.0), x.clone(), 0.0);
        let most = blur(x.clone(), 20.0 / 224.0 * 8.0, Border::Zero);
        assert_close(apply(&blurred, 0.0), most, 1e-7);
        let faded = blurred.perturbation(Perturbation::Fade {
            to: Baseline::Constant(2.0),
        });
        let want = x.clone() * 0.3 + 1.4;
        assert_close(apply(&faded, 0.3), want, 1e-6);
    }
}
