//! Weighted linear fits on the host, in f64.

/// Samples of features `x` (row-major), values and weights.
pub(crate) struct Design {
    pub features: usize,
    pub x: Vec<f64>,
    pub y: Vec<f64>,
    pub weights: Vec<f64>,
}

/// What is added to the weighted squares.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Penalty {
    /// sum w (y - x b)^2 + alpha ||b||^2
    Ridge(f64),
    /// sum w (y - x b)^2 / (2 sum w) + alpha ||b||_1
    Lasso(f64),
}

impl Design {
    /// The coefficients over the samples that `keep` holds for, in turn centred (a constant
    /// is fitted beside them) or not.
    pub fn fit(&self, penalty: Penalty, centred: bool, keep: &dyn Fn(usize) -> bool) -> Vec<f64> {
        let n = self.features;
        let kept: Vec<usize> = (0..self.y.len()).filter(|&s| keep(s)).collect();
        let total: f64 = kept.iter().map(|&s| self.weights[s]).sum();
        let mut middle = vec![0.0; n + 1];
        if centred && total > 0.0 {
            for &s in &kept {
                let share = self.weights[s] / total;
                for (m, x) in middle.iter_mut().zip(self.row(s)) {
                    *m += share * x;
                }
                middle[n] += share * self.y[s];
            }
        }
        let (mut gram, mut right) = (vec![0.0; n * n], vec![0.0; n]);
        let mut row = vec![0.0; n];
        for &s in &kept {
            for ((row, x), m) in row.iter_mut().zip(self.row(s)).zip(&middle) {
                *row = x - m;
            }
            let y = self.y[s] - middle[n];
            for i in 0..n {
                let wx = self.weights[s] * row[i];
                if wx != 0.0 {
                    right[i] += wx * y;
                    for (g, x) in gram[i * n..=i * n + i].iter_mut().zip(&row) {
                        *g += wx * x;
                    }
                }
            }
        }
        for i in 0..n {
            for j in i + 1..n {
                gram[i * n + j] = gram[j * n + i];
            }
        }
        match penalty {
            Penalty::Ridge(alpha) => {
                for i in 0..n {
                    gram[i * n + i] += alpha;
                }
                solve(&gram, &right)
            }
            Penalty::Lasso(alpha) => lasso(&gram, &right, alpha * total),
        }
    }

    fn row(&self, sample: usize) -> &[f64] {
        &self.x[sample * self.features..(sample + 1) * self.features]
    }
}

/// Solves A b = r for a symmetric positive semidefinite A by Cholesky; where A is singular,
/// something just above zero is added to its diagonal, which gives nearly the least solution.
pub(crate) fn solve(a: &[f64], r: &[f64]) -> Vec<f64> {
    let n = r.len();
    let trace: f64 = (0..n).map(|i| a[i * n + i]).sum();
    let mean = trace / n.max(1) as f64;
    [0.0, 1e-9, 1e-6]
        .into_iter()
        .find_map(|ridge| cholesky(a, ridge * mean, n))
        .map_or(vec![0.0; n], |l| substitute(&l, r))
}

/// L with L L^T = A + ridge I; `None` where a pivot is lost to rounding.
fn cholesky(a: &[f64], ridge: f64, n: usize) -> Option<Vec<f64>> {
    let mut l = vec![0.0; n * n];
    for i in 0..n {
        for j in 0..=i {
            let dot: f64 = (0..j).map(|k| l[i * n + k] * l[j * n + k]).sum();
            let rest = a[i * n + j] - dot;
            if i != j {
                l[i * n + j] = rest / l[j * n + j];
                continue;
            }
            let diagonal = a[i * n + i] + ridge;
            let pivot = rest + ridge;
            if pivot <= 1e-13 * diagonal || pivot.is_nan() {
                return None;
            }
            l[i * n + i] = pivot.sqrt();
        }
    }
    Some(l)
}

fn substitute(l: &[f64], r: &[f64]) -> Vec<f64> {
    let n = r.len();
    let mut b = r.to_vec();
    for i in 0..n {
        let dot: f64 = (0..i).map(|k| l[i * n + k] * b[k]).sum();
        b[i] = (b[i] - dot) / l[i * n + i];
    }
    for i in (0..n).rev() {
        let dot: f64 = (i + 1..n).map(|k| l[k * n + i] * b[k]).sum();
        b[i] = (b[i] - dot) / l[i * n + i];
    }
    b
}

/// Coordinate descent on b^T A b / 2 - r b + alpha ||b||_1.
fn lasso(a: &[f64], r: &[f64], alpha: f64) -> Vec<f64> {
    let n = r.len();
    let mut b = vec![0.0; n];
    for _ in 0..10_000 {
        let (mut moved, mut largest) = (0.0_f64, 0.0_f64);
        for i in 0..n {
            let own = a[i * n + i];
            if own <= 0.0 {
                continue;
            }
            let dot: f64 = a[i * n..(i + 1) * n]
                .iter()
                .zip(&b)
                .map(|(a, b)| a * b)
                .sum();
            let pull = r[i] - dot + own * b[i];
            let next = pull.signum() * (pull.abs() - alpha).max(0.0) / own;
            moved = moved.max((next - b[i]).abs());
            largest = largest.max(next.abs());
            b[i] = next;
        }
        if moved <= 1e-12 * largest {
            break;
        }
    }
    b
}

/// Standard errors by the delete-a-group jackknife: `units` in turn belong to one of 20
/// groups, and `fit` is done again without each. `None` for fewer than two units.
pub(crate) fn jackknife(
    units: usize,
    fit: impl Fn(&dyn Fn(usize) -> bool) -> Vec<f64>,
) -> Option<Vec<f64>> {
    let groups = units.min(20);
    if groups < 2 {
        return None;
    }
    let fits: Vec<Vec<f64>> = (0..groups)
        .map(|group| fit(&|unit| unit % groups != group))
        .collect();
    let count = groups as f64;
    let error = |i: usize| {
        let mean = fits.iter().map(|fit| fit[i]).sum::<f64>() / count;
        let squares: f64 = fits.iter().map(|fit| (fit[i] - mean).powi(2)).sum();
        (squares * (count - 1.0) / count).sqrt()
    };
    Some((0..fits[0].len()).map(error).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::noise::standard_normal;

    fn normal(sample: usize, len: usize) -> Vec<f64> {
        let values = standard_normal(3, sample, len);
        values.into_iter().map(f64::from).collect()
    }

    fn design(noise: f64) -> Design {
        let (samples, features) = (200, 4);
        let x = normal(0, samples * features);
        let weights: Vec<f64> = normal(1, samples).iter().map(|w| w.abs()).collect();
        let line = |x: &[f64]| 2.0 + x[0] - 3.0 * x[1] + 0.5 * x[3];
        let errors = normal(2, samples);
        let y = x.chunks(features).zip(errors);
        let y = y.map(|(x, e)| line(x) + noise * e).collect();
        Design {
            features,
            x,
            y,
            weights,
        }
    }

    fn assert_near(got: &[f64], want: &[f64], tolerance: f64) {
        assert_eq!(got.len(), want.len());
        for (g, w) in got.iter().zip(want) {
            assert!((g - w).abs() <= tolerance, "{got:?} {want:?}");
        }
    }

    #[test]
    fn a_line_is_found_without_penalty() {
        let all = |_| true;
        let want = [1.0, -3.0, 0.0, 0.5];
        let got = design(0.0).fit(Penalty::Ridge(0.0), true, &all);
        assert_near(&got, &want, 1e-12);
        let got = design(0.0).fit(Penalty::Lasso(0.0), true, &all);
        assert_near(&got, &want, 1e-9);
    }

    /// The gradient of ridge is zero at its solution; that of the lasso's smooth part is
    /// -alpha sign(b) where b is not zero and within alpha where it is.
    #[test]
    fn penalties_meet_their_optimality_conditions() {
        let design = design(0.3);
        let total: f64 = design.weights.iter().sum();
        let gradient = |b: &[f64]| -> Vec<f64> {
            let residual = |s: usize| {
                let fitted =
                    |s: usize| -> f64 { design.row(s).iter().zip(b).map(|(x, b)| x * b).sum() };
                design.y[s] - fitted(s)
            };
            let samples = 0..design.y.len();
            let constant = samples.clone().map(|s| design.weights[s] * residual(s));
            let constant = constant.sum::<f64>() / total;
            let along = |i: usize| {
                let terms = samples.clone();
                let terms =
                    terms.map(|s| design.weights[s] * design.row(s)[i] * (residual(s) - constant));
                terms.sum::<f64>()
            };
            (0..4).map(along).collect()
        };
        let b = design.fit(Penalty::Ridge(7.0), true, &|_| true);
        let want: Vec<f64> = b.iter().map(|b| 7.0 * b).collect();
        assert_near(&gradient(&b), &want, 1e-9);

        let b = design.fit(Penalty::Lasso(0.2), true, &|_| true);
        assert_eq!(b[2], 0.0);
        for (g, b) in gradient(&b).iter().zip(&b) {
            let g = g / total;
            match *b == 0.0 {
                true => assert!(g.abs() <= 0.2),
                false => assert!((g - 0.2 * b.signum()).abs() < 1e-9, "{g}"),
            }
        }
    }

    #[test]
    fn a_singular_system_has_a_small_solution() {
        let b = solve(&[1.0, 1.0, 1.0, 1.0], &[2.0, 2.0]);
        assert_near(&b, &[1.0, 1.0], 1e-5);
        assert_eq!(solve(&[0.0], &[0.0]), [0.0]);
    }

    /// For a mean, the jackknife is the standard error of the group means.
    #[test]
    fn the_jackknife_is_right_for_a_mean() {
        let values = normal(5, 20);
        let mean = |keep: &dyn Fn(usize) -> bool| {
            let kept: Vec<f64> = (0..20).filter(|&i| keep(i)).map(|i| values[i]).collect();
            vec![kept.iter().sum::<f64>() / kept.len() as f64]
        };
        let all = mean(&|_| true)[0];
        let squares: f64 = values.iter().map(|v| (v - all).powi(2)).sum();
        let want = (squares / 19.0 / 20.0).sqrt();
        assert_near(&jackknife(20, mean).unwrap(), &[want], 1e-12);
        assert_eq!(jackknife(1, mean), None);
    }
}
