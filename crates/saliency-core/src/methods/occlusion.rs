use std::ops::Range;

use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

use crate::{
    attribution::Outcome,
    axes,
    baseline::Baseline,
    error::Error,
    features::{per_axis, window},
    method::Method,
    model::Model,
    perturb::{Part, Probe},
    recipe::{Recipe, Registered},
    run::Run,
    target::Goal,
};

/// What a value gets from the windows that cover it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Aggregation {
    /// The mean of their score differences, as in Captum.
    #[default]
    Mean,
    /// The sum of their score differences, as in PAIR's saliency.
    Sum,
}

/// The score lost where a window is covered, the window sliding over the input.
///
/// A_i = mean over windows W that hold i of f(x) - f(x with the baseline in W). Zeiler and
/// Fergus, "Visualizing and Understanding Convolutional Networks" (2014),
/// <https://arxiv.org/abs/1311.2901>.
///
/// Works on inputs of any rank. `window` and `stride` have a size for each axis after the
/// rows (`[C, H, W]`), or for each position axis (all channels are covered together), or one
/// size for all of them. Of a series `[N, T, F]`, a window of `[5]` covers five steps of all
/// features, `[5, 1]` five steps of one feature, `[usize::MAX, 1]` one feature over all of
/// time. Windows start at multiples of the stride until the far border is
/// reached, where the last one is cut off. A window larger than an axis covers all of it.
///
/// By default a window is an eighth of each position axis (of a table, one column) and moves
/// by half of itself. [`captum`](Occlusion::captum) moves by one, as Captum does when no
/// stride is given; [`pair`](Occlusion::pair) is PAIR's: 15 wide, moved by one, differences
/// summed.
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use saliency_core::{Method, Occlusion, Target};
/// let sum = |x: Tensor<2>| x.sum_dim(1);
/// let x = Tensor::<2>::from_floats([[1.0, 2.0, 4.0]], &Device::flex());
/// let map = Occlusion::new().explain(&sum, x.clone(), Target::Regression)?;
/// assert_eq!(map.to_vec()?, [1.0, 2.0, 4.0]);
/// let map = Occlusion::new().window([2]).stride([1]).explain(&sum, x, Target::Regression)?;
/// assert_eq!(map.to_vec()?, [3.0, 4.5, 6.0]);
/// # Ok::<(), saliency_core::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Occlusion {
    /// Size of the window; empty for an eighth of each position axis.
    pub window: Vec<usize>,
    /// How far it moves; empty for half of itself.
    pub stride: Vec<usize>,
    /// What it is filled with.
    pub baseline: Baseline,
    /// What a value gets from the windows that cover it.
    pub aggregation: Aggregation,
}

impl Occlusion {
    /// Windows of an eighth of each position axis, half overlapping, filled with zeros.
    pub fn new() -> Self {
        Self::default()
    }

    /// A window at every place, averaged: Captum's defaults (which has none for the window).
    pub fn captum() -> Self {
        Self::new().stride([1])
    }

    /// A window of 15 at every place, summed: the defaults of PAIR's saliency.
    pub fn pair() -> Self {
        let aggregation = Aggregation::Sum;
        Self::new()
            .window([15])
            .stride([1])
            .aggregation(aggregation)
    }

    /// Size of the window.
    pub fn window(mut self, window: impl Into<Vec<usize>>) -> Self {
        self.window = window.into();
        self
    }

    /// How far the window moves.
    pub fn stride(mut self, stride: impl Into<Vec<usize>>) -> Self {
        self.stride = stride.into();
        self
    }

    /// What the window is filled with.
    pub fn baseline(mut self, baseline: Baseline) -> Self {
        self.baseline = baseline;
        self
    }

    /// What a value gets from the windows that cover it.
    pub fn aggregation(mut self, aggregation: Aggregation) -> Self {
        self.aggregation = aggregation;
        self
    }

    /// The windows over axes after the rows: a range on each axis.
    fn windows<const D: usize>(&self, dims: [usize; D]) -> Result<Vec<Vec<Range<usize>>>, Error> {
        let axes = &dims[1..];
        let sizes = match self.window.is_empty() {
            false => self.window.clone(),
            true if D == 2 => vec![1],
            true => dims[axes::positions(D)]
                .iter()
                .map(|len| (len / 8).max(1))
                .collect(),
        };
        let sizes = window(&sizes, "window", dims)?;
        let strides: Vec<usize> = match &self.stride[..] {
            [] => sizes.iter().map(|size| (size / 2).max(1)).collect(),
            [stride] => vec![*stride; axes.len()],
            given => per_axis(given, &sizes).ok_or_else(|| {
                Error::option(
                    "stride",
                    format!("{given:?}"),
                    "give a step for each axis after the rows, for each position axis, or one for all of these",
                )
            })?,
        };
        let mut windows = vec![Vec::new()];
        for ((&len, &size), &stride) in axes.iter().zip(&sizes).zip(&strides) {
            if stride == 0 || (stride > size && size < len) {
                return Err(Error::option(
                    "stride",
                    stride,
                    "it must be at least 1 and at most the window, so that every value is covered",
                ));
            }
            let count = (len - size).div_ceil(stride) + 1;
            let starts = (0..count).map(|i| i * stride..(i * stride + size).min(len));
            let starts: Vec<Range<usize>> = starts.collect();
            windows = windows
                .iter()
                .flat_map(|w| {
                    starts
                        .iter()
                        .map(|start| [&w[..], std::slice::from_ref(start)].concat())
                })
                .collect();
        }
        Ok(windows)
    }
}

/// The values of a window as runs of indices within the row.
fn runs(window: &[Range<usize>], axes: &[usize], mut each: impl FnMut(Range<usize>)) {
    let (last, outer) = window.split_last().expect("there is an axis");
    let mut at: Vec<usize> = outer.iter().map(|range| range.start).collect();
    loop {
        let line = at
            .iter()
            .zip(axes)
            .fold(0, |index, (i, len)| index * len + i);
        let line = line * axes[axes.len() - 1];
        each(line + last.start..line + last.end);
        let Some(axis) = (0..at.len()).rev().find(|&a| at[a] + 1 < outer[a].end) else {
            return;
        };
        at[axis] += 1;
        for (i, range) in at.iter_mut().zip(outer).skip(axis + 1) {
            *i = range.start;
        }
    }
}

impl Registered for Occlusion {}

impl<const D: usize> Method<D> for Occlusion {
    fn recipe(&self) -> Recipe {
        Recipe::Occlusion(self.clone())
    }

    fn validate(&self) -> Result<(), Error> {
        for (option, sizes) in [("window", &self.window), ("stride", &self.stride)] {
            if sizes.contains(&0) {
                return Err(Error::option(option, 0, "it must be at least 1"));
            }
        }
        Ok(())
    }

    fn attribute(
        &self,
        model: &dyn Model<D>,
        input: &Tensor<D>,
        goal: &Goal,
        run: &Run,
    ) -> Result<Outcome<D>, Error> {
        let dims = input.dims();
        let axes = &dims[1..];
        let windows = self.windows(dims)?;
        let probe = Probe::new(model, input, &self.baseline, goal, run)?;
        let plain = probe.plain()?;
        let scores = probe.scores(Part::whole(dims[0] * windows.len()), |i, replaced| {
            let row = i / windows.len();
            runs(&windows[i % windows.len()], axes, |run| {
                replaced[run].fill(true)
            });
            (row, row)
        })?;

        let mut covered = vec![0.0_f64; probe.row_len()];
        let mut add = |window: &[Range<usize>]| {
            runs(window, axes, |run| {
                covered[run].iter_mut().for_each(|c| *c += 1.0)
            })
        };
        windows.iter().for_each(|window| add(window));
        let mut values = Vec::with_capacity(dims[0] * probe.row_len());
        for (scores, plain) in scores.chunks(windows.len()).zip(plain) {
            let mut sums = vec![0.0; probe.row_len()];
            for (window, score) in windows.iter().zip(scores) {
                runs(window, axes, |run| {
                    sums[run].iter_mut().for_each(|sum| *sum += plain - score)
                });
            }
            if self.aggregation == Aggregation::Mean {
                sums.iter_mut().zip(&covered).for_each(|(s, c)| *s /= c);
            }
            values.extend(sums);
        }
        Ok(probe.tensor(values).into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Target,
        methods::testing::{Net, assert_close, assert_splits_agree, image},
    };
    use burn::tensor::{Device, TensorData};

    /// Every window by hand, at every value that it covers.
    #[test]
    fn is_the_mean_over_the_windows_that_cover_a_value() {
        let net = Net::relu(&Device::flex());
        let x = image(2, 1);
        let (window, stride) = ([2, 4, 3], [1, 3, 2]);
        let method = Occlusion::new()
            .window(window)
            .stride(stride)
            .baseline(Baseline::Constant(0.5));
        let map = method.explain(&net, x.clone(), vec![1, 2]).unwrap();
        let dims = x.dims();
        let values = x.clone().try_into_vec_as::<f32>().unwrap();
        let plain = map.scores.clone();
        let mut want = vec![0.0; values.len()];
        for row in 0..2 {
            let mut sums = vec![(0.0, 0.0); 3 * 9 * 8];
            // 9 - 4 and 8 - 3 are not multiples of the strides: the last windows are cut off.
            for (c, y, x) in (0..2)
                .flat_map(|c| (0..3).flat_map(move |y| (0..4).map(move |x| (c, 3 * y, 2 * x))))
            {
                let inside = |i: usize| {
                    let at = [i / 72, i / 8 % 9, i % 8];
                    (0..3).all(|a| at[a] >= [c, y, x][a] && at[a] < [c, y, x][a] + window[a])
                };
                let changed: Vec<f32> = (0..216)
                    .map(|i| {
                        if inside(i) {
                            0.5
                        } else {
                            values[row * 216 + i]
                        }
                    })
                    .collect();
                let data = TensorData::new(changed, [1, dims[1], dims[2], dims[3]]);
                let outputs = net.forward(Tensor::from_data(data, &Device::flex()));
                let score = outputs.try_into_vec_as::<f64>().unwrap()[row + 1];
                for i in (0..216).filter(|&i| inside(i)) {
                    sums[i].0 += plain[row] - score;
                    sums[i].1 += 1.0;
                }
            }
            for (i, (sum, count)) in sums.into_iter().enumerate() {
                want[row * 216 + i] = sum / count;
            }
        }
        let want = TensorData::new(want, dims).convert::<f32>();
        assert_close(map.values, Tensor::from_data(want, &Device::flex()), 1e-5);
        assert_eq!(map.evaluations.forward, 2 * 2 * 3 * 4);
    }

    #[test]
    fn a_linear_model_gives_its_weights_at_every_rank() {
        let device = Device::flex();
        let weights = Tensor::<1>::from_floats([1.0, -2.0, 3.0, 0.0, 0.5, -1.0], &device);
        let score = |flat: Tensor<2>| (flat * weights.clone().unsqueeze()).sum_dim(1);
        let want = [1.0, -2.0, 3.0, 0.0, 0.5, -1.0];
        let table = Tensor::<2>::ones([1, 6], &device);
        let map = Occlusion::new().explain(&score, table, 0).unwrap();
        assert_eq!(map.to_vec().unwrap(), want);
        let series = Tensor::<3>::ones([1, 2, 3], &device);
        let flat = |x: Tensor<3>| score(x.flatten(1, 2));
        let method = Occlusion::new().window([1, 1]);
        let map = method.explain(&flat, series, 0).unwrap();
        assert_eq!(map.to_vec().unwrap(), want);
    }

    #[test]
    fn sums_are_means_times_the_windows() {
        let net = Net::relu(&Device::flex());
        let mean = Occlusion::new().window([3]).stride([1]);
        let sum = mean.clone().aggregation(Aggregation::Sum);
        let mean = mean
            .explain(&net, image(1, 2), 0)
            .unwrap()
            .to_vec()
            .unwrap();
        let sum = sum.explain(&net, image(1, 2), 0).unwrap().to_vec().unwrap();
        // A corner is covered once, the middle nine times.
        assert!((sum[0] - mean[0]).abs() < 1e-6);
        assert!((sum[4 * 8 + 4] - 9.0 * mean[4 * 8 + 4]).abs() < 1e-5);
    }

    #[test]
    fn does_not_depend_on_the_batch_split() {
        assert_splits_agree(&Occlusion::new().window([4]), 1e-5);
    }

    #[test]
    fn wrong_options_are_named() {
        let net = Net::relu(&Device::flex());
        let text = |method: Occlusion| {
            let error = method.explain(&net, image(1, 1), Target::Predicted);
            error.unwrap_err().to_string()
        };
        assert!(text(Occlusion::new().window([0])).starts_with("window = 0"));
        assert!(text(Occlusion::new().window([2; 4])).starts_with("window = [2, 2, 2, 2]"));
        assert!(text(Occlusion::new().window([2]).stride([3])).starts_with("stride = 3"));
        assert!(text(Occlusion::new().stride([1; 5])).starts_with("stride = [1, 1, 1, 1, 1]"));
        let whole = Occlusion::new().window([99]).stride([99]);
        assert!(whole.explain(&net, image(1, 1), 0).is_ok());
    }
}
