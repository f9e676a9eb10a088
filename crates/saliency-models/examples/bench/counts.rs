//! How the error of SmoothGrad falls with its samples, for several ways to draw the noise.
//!
//! A map of n samples is made `replicates` times with noise of its own. The relative error is
//! sqrt(V / ||m||^2): m the mean of the maps, V the variance of one map summed over its values
//! (divided by the replicates less one).

use std::{f64::consts::PI, ops::Range};

use burn::tensor::{Tensor, TensorData};
use saliency_core::{Goal, Gradient, Graph, Method, Run, noise::standard_normal};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{Failure, Request};

/// How noise is drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Design {
    /// Independent samples.
    Plain,
    /// Each sample is followed by its negative.
    Antithetic,
    /// The lowest frequencies (85 of each channel) from a shifted Sobol sequence, the others
    /// independent.
    Sobol,
}

/// Errors after 2, 4, 8, ... samples.
pub fn sampling_error(
    graph: &Graph,
    (x, goal): (&Tensor<4>, &Goal),
    run: &Run,
    request: &Request,
) -> Result<Value, Failure> {
    let dims = x.dims();
    let elements: usize = dims[1..].iter().product();
    let sigma = 0.1 * (x.clone().max() - x.clone().min()).try_into_scalar::<f32>()?;
    let batch = request.batch.max(1);
    // For each replicate, the means of |G| and of G at each checkpoint.
    let mut maps: Vec<Vec<Vec<f64>>> = Vec::new();
    let mut counts = Vec::new();
    for replicate in 0..request.replicates {
        let seed = request.seed + replicate as u64;
        let noise = Noise::new(request.design, seed, request.samples, dims)?;
        let (mut sum, mut kept, mut taken) = (vec![0.0; 2 * elements], Vec::new(), 0);
        counts.clear();
        while taken < request.samples {
            let next = taken.max(1);
            let count = batch.min(next).min(request.samples - taken);
            let values: Vec<f32> = (taken..taken + count)
                .flat_map(|sample| noise.sample(sample))
                .collect();
            let data = TensorData::new(values, [count, dims[1], dims[2], dims[3]]);
            let moved = Tensor::<4>::from_data(data, &x.device()).mul_scalar(sigma) + x.clone();
            let found = Gradient.attribute(graph, &moved, &goal.repeat(count), run)?;
            for row in found.values.try_into_vec_as::<f32>()?.chunks(elements) {
                let (magnitudes, signed) = sum.split_at_mut(elements);
                for ((magnitude, signed), value) in magnitudes.iter_mut().zip(signed).zip(row) {
                    *magnitude += f64::from(value.abs());
                    *signed += f64::from(*value);
                }
            }
            taken += count;
            if taken.is_power_of_two() && taken > 1 || taken == request.samples {
                counts.push(taken);
                kept.push(sum.iter().map(|sum| sum / taken as f64).collect());
            }
        }
        maps.push(kept);
    }
    let errors = |part: Range<usize>| -> Vec<f64> {
        (0..counts.len())
            .map(|index| {
                let maps: Vec<&[f64]> = maps.iter().map(|m| &m[index][part.clone()]).collect();
                relative_error(&maps)
            })
            .collect()
    };
    Ok(json!({
        "samples": counts,
        "mean_absolute": errors(0..elements),
        "mean": errors(elements..2 * elements),
    }))
}

fn relative_error(maps: &[&[f64]]) -> f64 {
    let count = maps.len() as f64;
    let (mut variance, mut square) = (0.0, 0.0);
    for place in 0..maps[0].len() {
        let mean = maps.iter().map(|map| map[place]).sum::<f64>() / count;
        variance += maps
            .iter()
            .map(|map| (map[place] - mean).powi(2))
            .sum::<f64>()
            / (count - 1.0);
        square += mean * mean;
    }
    // The mean has an error of its own.
    (variance / (square - variance / count)).sqrt()
}

/// Standard normal noise, sample by sample.
struct Noise {
    design: Design,
    seed: u64,
    dims: [usize; 4],
    /// `[samples, FREQUENCIES * channels]` coefficients.
    coefficients: Vec<f64>,
    basis: Vec<Wave>,
}

/// One frequency: cosines along the height and the width.
struct Wave {
    rows: Vec<f64>,
    columns: Vec<f64>,
}

/// Three channels of them are fewer than the 256 dimensions that Sobol sequences have.
const FREQUENCIES: usize = 85;

impl Noise {
    fn new(design: Design, seed: u64, samples: usize, dims: [usize; 4]) -> Result<Self, Failure> {
        let (mut coefficients, mut basis) = (Vec::new(), Vec::new());
        if design == Design::Sobol {
            let points = saliency_core::Design::ShiftedSobol;
            coefficients = points.points(samples, FREQUENCIES * dims[1], seed)?;
            coefficients.iter_mut().for_each(|u| *u = quantile(*u));
            let mut frequencies: Vec<[usize; 2]> =
                (0..16).flat_map(|a| (0..16).map(move |b| [a, b])).collect();
            frequencies.sort_by_key(|[a, b]| a * a + b * b);
            basis = frequencies[..FREQUENCIES]
                .iter()
                .map(|&[a, b]| Wave {
                    rows: cosine(a, dims[2]),
                    columns: cosine(b, dims[3]),
                })
                .collect();
        }
        Ok(Noise {
            design,
            seed,
            dims,
            coefficients,
            basis,
        })
    }

    fn sample(&self, sample: usize) -> Vec<f32> {
        let elements = self.dims[1..].iter().product();
        match self.design {
            Design::Plain => standard_normal(self.seed, sample, elements),
            Design::Antithetic => {
                let sign = if sample % 2 == 1 { -1.0 } else { 1.0 };
                let mut values = standard_normal(self.seed, sample / 2, elements);
                values.iter_mut().for_each(|value| *value *= sign);
                values
            }
            Design::Sobol => {
                let mut values = standard_normal(self.seed, sample, elements);
                let plane = self.dims[2] * self.dims[3];
                for (channel, values) in values.chunks_mut(plane).enumerate() {
                    for (index, wave) in self.basis.iter().enumerate() {
                        let own = FREQUENCIES * (self.dims[1] * sample + channel) + index;
                        wave.replace(values, self.coefficients[own]);
                    }
                }
                values
            }
        }
    }
}

impl Wave {
    /// Makes a plane's coefficient of this frequency the given one.
    fn replace(&self, plane: &mut [f32], coefficient: f64) {
        let width = self.columns.len();
        let lines = || plane.chunks(width).zip(&self.rows);
        let is: f64 = lines()
            .map(|(line, row)| {
                let along = line.iter().zip(&self.columns);
                row * along.map(|(v, c)| f64::from(*v) * c).sum::<f64>()
            })
            .sum();
        for (line, row) in plane.chunks_mut(width).zip(&self.rows) {
            let change = row * (coefficient - is);
            for (value, column) in line.iter_mut().zip(&self.columns) {
                *value += (change * column) as f32;
            }
        }
    }
}

/// An orthonormal cosine.
fn cosine(frequency: usize, len: usize) -> Vec<f64> {
    let scale = if frequency == 0 { 1.0 } else { 2.0 } / len as f64;
    (0..len)
        .map(|i| scale.sqrt() * (PI * frequency as f64 * (i as f64 + 0.5) / len as f64).cos())
        .collect()
}

/// The standard normal quantile by Newton's method on the distribution function.
fn quantile(p: f64) -> f64 {
    let p = p.clamp(1e-12, 1.0 - 1e-12);
    let mut x = 0.0f64;
    for _ in 0..60 {
        let density = (-0.5 * x * x).exp() / (2.0 * PI).sqrt();
        let step = ((cumulative(x) - p) / density).clamp(-1.0, 1.0);
        x -= step;
        if step.abs() < 1e-12 {
            break;
        }
    }
    x
}

/// Marsaglia's series.
fn cumulative(x: f64) -> f64 {
    let (mut term, mut sum, mut k) = (x, x, 1.0);
    while term.abs() > 1e-17 {
        k += 2.0;
        term *= x * x / k;
        sum += term;
    }
    0.5 + sum * (-0.5 * x * x).exp() / (2.0 * PI).sqrt()
}
