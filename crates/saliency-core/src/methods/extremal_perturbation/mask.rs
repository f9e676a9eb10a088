//! Smooth masks and their parameters, and inputs perturbed by the degree that a mask says.

use burn::tensor::{Int, Tensor};

use super::{ExtremalPerturbation, Perturbation};
use crate::{
    blur::{Border, blur},
    error::Error,
    grid::positions,
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
        let mut shape = channels_first(x.clone()).dims();
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
            channels_first(x).reshape([rows, 1, channels, positions])
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
        channels_first(seen.reshape(self.shape))
    }
}

/// A series with its features before its steps, or the other way round; anything else as it is.
fn channels_first<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    match D {
        3 => x.swap_dims(1, 2),
        _ => x,
    }
}

/// How much the greatest value near a position counts above the others.
const COLDNESS: f64 = 20.0;

/// Smooth masks from coarse parameters, on the host: for each position of the mask (with a
/// margin), the parameters near it and their weights.
pub(super) struct Smoother {
    pub(super) parameters: usize,
    /// Parameters near each position.
    near: usize,
    /// `[positions, near]`; the number of parameters stands for a zero beyond the border.
    source: Vec<u32>,
    /// `[positions, near]`.
    weight: Vec<f64>,
    /// The positions of the input among those with a margin.
    inside: Vec<usize>,
}

impl Smoother {
    pub(super) fn new<const D: usize>(options: &ExtremalPerturbation, x: &Tensor<D>) -> Self {
        let lengths = positions(x);
        if D == 2 {
            return Smoother {
                parameters: lengths[0],
                near: 1,
                source: (0..lengths[0] as u32).collect(),
                weight: vec![1.0; lengths[0]],
                inside: (0..lengths[0]).collect(),
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
        let margin = sigma.round_ties_even() as usize;
        let outer: Vec<usize> = inner
            .iter()
            .zip(&lengths)
            .map(|(&n, &len)| {
                let reached = step as usize * (n - 1 + 2 * (padding - radius) as usize) + 1;
                // Cells of short inputs may end before the last position.
                reached.max(len + 2 * margin)
            })
            .collect();
        let near = vec![2 * radius as usize + 1; lengths.len()];
        let (parameters, count): (usize, usize) = (inner.iter().product(), outer.iter().product());
        let offsets: Vec<_> = (0..near.iter().product())
            .map(|k| place(k, &near))
            .collect();
        let (mut source, mut weight) = (Vec::new(), Vec::new());
        for position in (0..count).map(|u| place(u, &outer)) {
            for offset in &offsets {
                let (mut from, mut squares, mut within) = (0, 0.0, true);
                for axis in 0..lengths.len() {
                    let u = position[axis] as f64;
                    let i = (u / step).floor() as isize + offset[axis] as isize - padding;
                    squares += (u - (sigma + step * i as f64)).powi(2);
                    within &= (0..inner[axis] as isize).contains(&i);
                    from = from * inner[axis] + i.max(0) as usize;
                }
                let beyond = (squares.sqrt() / sigma - 0.5).max(0.0);
                source.push(if within { from } else { parameters } as u32);
                weight.push((-2.0 * beyond * beyond).exp());
            }
        }
        let inside = (0..lengths.iter().product()).map(|u| {
            let at = place(u, &lengths);
            at.iter()
                .zip(&outer)
                .fold(0, |sum, (&i, &len)| sum * len + i + margin)
        });
        Smoother {
            parameters,
            near: offsets.len(),
            source,
            weight,
            inside: inside.collect(),
        }
    }

    /// At one position, z = w p of each parameter near it and exp(coldness z).
    fn around(&self, position: usize, parameters: &[f64]) -> impl Iterator<Item = (f64, f64)> {
        let at = position * self.near..(position + 1) * self.near;
        at.map(|i| {
            let p = parameters.get(self.source[i] as usize);
            let z = self.weight[i] * p.copied().unwrap_or(0.0);
            (z, (COLDNESS * z).exp())
        })
    }

    /// The mask with its margin: at each position the mean of z, weighted by exp(coldness z).
    pub(super) fn full(&self, parameters: &[f64]) -> Vec<f64> {
        let positions = 0..self.weight.len() / self.near;
        let pool = |u| {
            let (sum, total) = self
                .around(u, parameters)
                .fold((0.0, 0.0), |(sum, total), (z, e)| (sum + z * e, total + e));
            sum / total
        };
        positions.map(pool).collect()
    }

    /// The gradient at the parameters from that at the mask with its margin.
    pub(super) fn pull_back(&self, parameters: &[f64], gradient: &[f64]) -> Vec<f64> {
        // One more, for what lies beyond the border.
        let mut back = vec![0.0; self.parameters + 1];
        for (u, gradient) in gradient.iter().enumerate() {
            let around: Vec<(f64, f64)> = self.around(u, parameters).collect();
            let total: f64 = around.iter().map(|(_, e)| e).sum();
            let mean = around.iter().map(|(z, e)| z * e).sum::<f64>() / total;
            for (i, (z, e)) in (u * self.near..).zip(around) {
                let slope = e / total * (1.0 + COLDNESS * (z - mean));
                back[self.source[i] as usize] += gradient * slope * self.weight[i];
            }
        }
        back.truncate(self.parameters);
        back
    }

    /// Number of positions of the input.
    pub(super) fn inside(&self) -> usize {
        self.inside.len()
    }

    /// The mask without its margin.
    pub(super) fn crop(&self, full: &[f64]) -> Vec<f64> {
        self.inside.iter().map(|&u| full[u]).collect()
    }

    /// Adds a gradient at the positions of the input to one at the mask with its margin.
    pub(super) fn add_cropped(&self, full: &mut [f64], gradient: &[f64]) {
        for (&u, gradient) in self.inside.iter().zip(gradient) {
            full[u] += gradient;
        }
    }
}

/// The parameters of one mask and the direction of the last step.
#[derive(Clone)]
pub(super) struct State {
    pub(super) values: Vec<f64>,
    direction: Option<Vec<f64>>,
}

impl State {
    pub(super) fn new(parameters: usize) -> Self {
        State {
            values: vec![1.0; parameters],
            direction: None,
        }
    }

    pub(super) fn step(&mut self, up: Vec<f64>, rate: f64, momentum: f64) {
        let direction = match self.direction.take() {
            None => up,
            Some(before) => before
                .iter()
                .zip(up)
                .map(|(before, up)| momentum * before + (1.0 - momentum) * up)
                .collect(),
        };
        for (value, direction) in self.values.iter_mut().zip(&direction) {
            *value = (*value + rate * direction).clamp(0.0, 1.0);
        }
        self.direction = Some(direction);
    }
}

/// What the sorted values of a mask are compared with, at the values' own places: equal
/// values have the mean of their references.
pub(super) fn sorted_reference(values: &[f64], area: f64) -> Vec<f64> {
    const EQUAL: f64 = 1e-6;
    let len = values.len();
    let zeros = (len as f64 * (1.0 - area)) as usize;
    let mut order: Vec<usize> = (0..len).collect();
    order.sort_unstable_by(|&a, &b| values[a].total_cmp(&values[b]));
    let mut reference = vec![0.0; len];
    let mut start = 0;
    while start < len {
        let first = values[order[start]];
        let same = order[start..]
            .iter()
            .take_while(|&&i| values[i] <= first + EQUAL);
        let end = start + same.count().max(1);
        let ones = end - zeros.clamp(start, end);
        for &place in &order[start..end] {
            reference[place] = ones as f64 / (end - start) as f64;
        }
        start = end;
    }
    reference
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

    /// On a line: each position sees the softmax-weighted parameters around it.
    #[test]
    fn a_mask_is_the_smooth_maximum_of_the_parameters_near_it() {
        let x = Tensor::<3>::zeros([1, 10, 1], &burn::tensor::Device::flex());
        let options = ExtremalPerturbation {
            cell: 0.2,
            sigma: 0.3,
            ..Default::default()
        };
        let smoother = Smoother::new(&options, &x);
        assert_eq!(smoother.parameters, 5);
        let parameters = [0.1f64, 0.9, 0.3, 0.0, 1.0];
        let mask = smoother.crop(&smoother.full(&parameters));
        for (u, got) in mask.into_iter().enumerate() {
            // Seven parameters, two positions apart, from the origin of the margin of three.
            let first = (u as isize + 3) / 2 - 4;
            let near = first..first + 7;
            let terms: Vec<f64> = near
                .map(|i| {
                    let beyond = ((u as f64 - 2.0 * i as f64).abs() / 3.0 - 0.5).max(0.0);
                    let value = usize::try_from(i).ok().and_then(|i| parameters.get(i));
                    value.copied().unwrap_or(0.0) * (-2.0 * beyond * beyond).exp()
                })
                .collect();
            let all: f64 = terms.iter().map(|z| (20.0 * z).exp()).sum();
            let want: f64 = terms.iter().map(|z| z * (20.0 * z).exp() / all).sum();
            assert!((got - want).abs() < 1e-12, "{u}: {got} {want}");
        }
    }

    #[test]
    fn masks_of_short_inputs_reach_their_last_position() {
        for steps in 1..14 {
            for cell in [0.05, 0.25, 0.5, 1.0] {
                let x = Tensor::<3>::zeros([1, steps, 2], &burn::tensor::Device::flex());
                let options = ExtremalPerturbation {
                    cell,
                    ..ExtremalPerturbation::new()
                };
                let smoother = Smoother::new(&options, &x);
                let mask = smoother.crop(&smoother.full(&vec![1.0; smoother.parameters]));
                assert_eq!(mask.len(), steps, "cells of {cell}");
            }
        }
    }

    #[test]
    fn gradients_agree_with_finite_differences() {
        let smoother = Smoother::new(&ExtremalPerturbation::new(), &image(1, 1));
        let noise = |sample, len| -> Vec<f64> {
            let noise = crate::noise::standard_normal(3, sample, len).into_iter();
            noise.map(|v| f64::from(v).abs().min(1.0)).collect()
        };
        let parameters = noise(0, smoother.parameters);
        let at = noise(1, smoother.full(&parameters).len());
        let back = smoother.pull_back(&parameters, &at);
        for i in (0..back.len()).step_by(5) {
            let moved = |h: f64| {
                let mut parameters = parameters.clone();
                parameters[i] += h;
                let full = smoother.full(&parameters);
                full.iter().zip(&at).map(|(m, g)| m * g).sum::<f64>()
            };
            let want = (moved(1e-6) - moved(-1e-6)) / 2e-6;
            assert!((back[i] - want).abs() < 1e-7, "{i}: {} {want}", back[i]);
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
