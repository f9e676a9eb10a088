//! How the error of SmoothGrad falls with its samples, for several ways to draw the noise.
//!
//! A map of n samples is made `replicates` times with noise of its own. The relative error is
//! sqrt(V / ||m||^2): m the mean of the maps, V the variance of one map summed over its values
//! (divided by the replicates less one).

use std::ops::Range;

use burn::tensor::Tensor;
use saliency_core::{Goal, Gradient, Graph, Method, NoiseScale, Run, noise::noisy_by};
use serde_json::{Value, json};

use crate::{Failure, Request};

/// Errors after 2, 4, 8, ... samples.
pub fn sampling_error(
    graph: &Graph,
    (x, goal): (&Tensor<4>, &Goal),
    run: &Run,
    request: &Request,
) -> Result<Value, Failure> {
    let elements: usize = x.dims()[1..].iter().product();
    let batch = request.batch.max(1);
    // For each replicate, the means of |G| and of G at each checkpoint.
    let mut maps: Vec<Vec<Vec<f64>>> = Vec::new();
    let mut counts = Vec::new();
    for replicate in 0..request.replicates {
        let seed = request.seed + replicate as u64;
        let (mut sum, mut kept, mut taken) = (vec![0.0; 2 * elements], Vec::new(), 0);
        counts.clear();
        while taken < request.samples {
            let next = taken.max(1);
            let count = batch.min(next).min(request.samples - taken);
            let scale = NoiseScale::Relative(0.1);
            let moved = noisy_by(request.design, x, scale, seed, taken..taken + count);
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
