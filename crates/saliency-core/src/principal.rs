//! The first principal component of a matrix, in f64 on the host.

/// sigma_1 u_1 of `columns` (each of `len` values): the projection of its rows onto the
/// direction in which they vary most, up to its sign. Zeros where the matrix is zero.
///
/// Lanczos iteration on X X^T with full reorthogonalisation, restarted from its own best
/// vector; the start is fixed, so the result is too.
pub(crate) fn first_component(columns: &[f64], len: usize) -> Vec<f64> {
    const STEPS: usize = 32;
    const RESTARTS: usize = 100;
    let apply = |u: &[f64]| {
        let mut product = vec![0.0; len];
        for column in columns.chunks_exact(len) {
            add(&mut product, dot(column, u), column);
        }
        product
    };
    let mut start: Vec<f64> = (0..len).map(|i| ((i + 1) as f64).sin() + 0.1).collect();
    start = apply(&start);
    let mut value = 0.0;
    for _ in 0..RESTARTS {
        if !normalise(&mut start) {
            return vec![0.0; len];
        }
        let mut basis = vec![start];
        let (mut diagonal, mut beside): (Vec<f64>, Vec<f64>) = (Vec::new(), Vec::new());
        for step in 0..STEPS.min(len) {
            let mut next = apply(&basis[step]);
            diagonal.push(dot(&next, &basis[step]));
            for _ in 0..2 {
                for before in &basis {
                    let along = dot(before, &next);
                    add(&mut next, -along, before);
                }
            }
            beside.push(dot(&next, &next).sqrt());
            if beside[step] <= 1e-14 * diagonal[0].abs() || !normalise(&mut next) {
                break;
            }
            basis.push(next);
        }
        let steps = diagonal.len();
        let weights = dominant(&diagonal, &beside);
        value = rayleigh(&diagonal, &beside, &weights);
        start = vec![0.0; len];
        for (weight, vector) in weights.iter().zip(&basis) {
            add(&mut start, *weight, vector);
        }
        let residual = beside[steps - 1] * weights[steps - 1].abs();
        if residual <= 1e-13 * value {
            break;
        }
    }
    normalise(&mut start);
    let scale = value.max(0.0).sqrt();
    start.iter().map(|v| v * scale).collect()
}

/// The eigenvector of the largest eigenvalue of a positive tridiagonal matrix: a column of one
/// of its very high powers.
fn dominant(diagonal: &[f64], beside: &[f64]) -> Vec<f64> {
    const SQUARINGS: usize = 48;
    let n = diagonal.len();
    let mut power = vec![0.0; n * n];
    for i in 0..n {
        power[i * n + i] = diagonal[i];
        if i + 1 < n {
            power[i * n + i + 1] = beside[i];
            power[(i + 1) * n + i] = beside[i];
        }
    }
    for _ in 0..SQUARINGS {
        let scale = power.iter().fold(0.0, |max: f64, v| max.max(v.abs()));
        power.iter_mut().for_each(|v| *v /= scale);
        let before = power.clone();
        for (i, row) in power.chunks_mut(n).enumerate() {
            row.fill(0.0);
            for k in 0..n {
                add(row, before[i * n + k], &before[k * n..(k + 1) * n]);
            }
        }
    }
    let mut best = power
        .chunks(n)
        .max_by(|a, b| dot(a, a).total_cmp(&dot(b, b)))
        .map(<[f64]>::to_vec)
        .unwrap_or_default();
    normalise(&mut best);
    best
}

fn rayleigh(diagonal: &[f64], beside: &[f64], v: &[f64]) -> f64 {
    let own: f64 = diagonal.iter().zip(v).map(|(d, v)| d * v * v).sum();
    let cross: f64 = (v.windows(2).zip(beside))
        .map(|(v, b)| b * v[0] * v[1])
        .sum();
    own + 2.0 * cross
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn add(to: &mut [f64], times: f64, other: &[f64]) {
    for (to, other) in to.iter_mut().zip(other) {
        *to += times * other;
    }
}

fn normalise(v: &mut [f64]) -> bool {
    let norm = dot(v, v).sqrt();
    if norm > 0.0 {
        v.iter_mut().for_each(|v| *v /= norm);
    }
    norm > 0.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::noise::standard_normal;

    fn assert_component(columns: &[f64], len: usize, want: &[f64], tolerance: f64) {
        let mut got = first_component(columns, len);
        if dot(&got, want) < 0.0 {
            got.iter_mut().for_each(|v| *v = -*v);
        }
        let norm = dot(want, want).sqrt();
        let error: f64 = got.iter().zip(want).map(|(g, w)| (g - w).powi(2)).sum();
        assert!(error.sqrt() <= tolerance * norm, "{}", error.sqrt() / norm);
    }

    /// sum_k sigma_k u_k v_k^T with orthonormal cosines u and random v.
    #[test]
    fn finds_the_component_of_a_known_decomposition() {
        for (len, count, second) in [(40, 60, 0.5), (40, 60, 0.999), (90, 9, 0.9), (7, 3, 0.0)] {
            let cosine = |k: usize| -> Vec<f64> {
                let mut u: Vec<f64> = (0..len)
                    .map(|i| {
                        (std::f64::consts::PI * (i as f64 + 0.5) * k as f64 / len as f64).cos()
                    })
                    .collect();
                normalise(&mut u);
                u
            };
            // Directions of the channels: the same cosines of another length.
            let direction = |k: usize| -> Vec<f64> {
                let mut v: Vec<f64> = (0..count)
                    .map(|i| {
                        (std::f64::consts::PI * (i as f64 + 0.5) * k as f64 / count as f64).cos()
                    })
                    .collect();
                normalise(&mut v);
                v
            };
            let mut columns = vec![0.0; len * count];
            for (k, sigma) in [(1, 3.0), (2, 3.0 * second)] {
                let (u, v) = (cosine(k), direction(k));
                for (column, v) in columns.chunks_mut(len).zip(&v) {
                    add(column, sigma * v, &u);
                }
            }
            let want: Vec<f64> = cosine(1).iter().map(|u| 3.0 * u).collect();
            assert_component(&columns, len, &want, 1e-9);
        }
    }

    /// X X^T u = sigma^2 u for a random matrix, whose components lie close together.
    #[test]
    fn is_an_eigenvector_of_a_random_matrix() {
        let (len, count) = (64, 200);
        let columns: Vec<f64> = (standard_normal(4, 0, len * count).into_iter())
            .map(f64::from)
            .collect();
        let u = first_component(&columns, len);
        let square = dot(&u, &u);
        let mut product = vec![0.0; len];
        for column in columns.chunks_exact(len) {
            add(&mut product, dot(column, &u), column);
        }
        add(&mut product, -square, &u);
        assert!(dot(&product, &product).sqrt() < 1e-10 * square.powf(1.5));
    }

    #[test]
    fn zero_has_none() {
        assert_eq!(first_component(&[0.0; 12], 4), [0.0; 4]);
    }
}
