//! Integrals over 0..1 as weighted sums.

use std::f64::consts::PI;

use serde::{Deserialize, Serialize};

use crate::error::Error;

/// How an integral over a path is made a sum over `n` steps: where on the path, and with which
/// weights. Those with a name of Captum's are as Captum's option of that name.
///
/// ```
/// use saliency_core::Quadrature;
/// assert_eq!(Quadrature::RiemannMiddle.nodes(2), [(0.25, 0.5), (0.75, 0.5)]);
/// // Gauss-Legendre with two nodes is exact for cubes: the integral of x^3 is 1/4.
/// let sum: f64 = Quadrature::GaussLegendre.nodes(2).iter().map(|(x, w)| w * x * x * x).sum();
/// assert!((sum - 0.25).abs() < 1e-15);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Quadrature {
    /// Exact for polynomials of degree 2n - 1.
    #[default]
    GaussLegendre,
    /// The left end of each of n intervals.
    RiemannLeft,
    /// The right end of each interval.
    RiemannRight,
    /// The middle of each interval.
    RiemannMiddle,
    /// n points from 0 to 1 with weight 1/n, half of it at both ends. As in Captum the weights
    /// add up to 1 - 1/n only.
    RiemannTrapezoid,
    /// The same points with weight 1/(n - 1), half of it at both ends: the trapezoid rule, whose
    /// weights add up to one.
    Trapezoid,
    /// The same points with weight 1/n each, as PAIR takes them.
    EvenPair,
    /// The trapezoid rule with points where they are needed: from 9 evenly spaced ones on, two
    /// intervals at a time are halved. Taken are those with the largest length times norm of the
    /// change of the integrand between their ends, or where the integral misses more of the
    /// score's change than that. Of [`IntegratedGradients`](crate::IntegratedGradients) only.
    Adaptive,
}

impl Quadrature {
    /// Places in 0..1, ascending, and their weights; of [`Adaptive`](Quadrature::Adaptive), which
    /// knows no integrand here, the evenly spaced ones.
    pub fn nodes(self, steps: usize) -> Vec<(f64, f64)> {
        let n = steps as f64;
        let last = steps.saturating_sub(1);
        let closed = |i: usize, weight: f64, ends: f64| {
            let weight = if i == 0 || i == last { ends } else { weight };
            (i as f64 / last.max(1) as f64, weight)
        };
        (0..steps)
            .map(|i| {
                let at = i as f64;
                match self {
                    Quadrature::GaussLegendre => gauss_legendre(i, steps),
                    Quadrature::RiemannLeft => (at / n, 1.0 / n),
                    Quadrature::RiemannRight => ((at + 1.0) / n, 1.0 / n),
                    Quadrature::RiemannMiddle => ((at + 0.5) / n, 1.0 / n),
                    Quadrature::RiemannTrapezoid => closed(i, 1.0 / n, 0.5 / n),
                    Quadrature::Trapezoid | Quadrature::Adaptive => {
                        closed(i, 1.0 / (n - 1.0), 0.5 / (n - 1.0))
                    }
                    Quadrature::EvenPair => closed(i, 1.0 / n, 1.0 / n),
                }
            })
            .collect()
    }

    /// For methods that need to know all places beforehand.
    pub(crate) fn validate_fixed(self, steps: usize) -> Result<(), Error> {
        match self {
            Quadrature::Adaptive => {
                let requirement = "this method has fixed steps only; integrated-gradients has it";
                Err(Error::option("rule", "adaptive", requirement))
            }
            _ => self.validate(steps),
        }
    }

    pub(crate) fn validate(self, steps: usize) -> Result<(), Error> {
        let least = match self {
            Quadrature::RiemannTrapezoid
            | Quadrature::Trapezoid
            | Quadrature::EvenPair
            | Quadrature::Adaptive => 2,
            _ => 1,
        };
        match steps < least {
            true => {
                let requirement = "at least one is needed, and two by a rule with both ends";
                Err(Error::option("steps", steps, requirement))
            }
            false => Ok(()),
        }
    }
}

/// Node `i` of `n`: a root of the Legendre polynomial by Newton's method, moved from -1..1.
fn gauss_legendre(i: usize, n: usize) -> (f64, f64) {
    let mut x = -(PI * (i as f64 + 0.75) / (n as f64 + 0.5)).cos();
    let mut slope = 1.0;
    for _ in 0..100 {
        let (mut before, mut value) = (1.0, x);
        for k in 2..=n {
            let k = k as f64;
            (before, value) = (
                value,
                ((2.0 * k - 1.0) * x * value - (k - 1.0) * before) / k,
            );
        }
        slope = n as f64 * (x * value - before) / (x * x - 1.0);
        let step = value / slope;
        x -= step;
        if step.abs() < 1e-15 {
            break;
        }
    }
    (0.5 * (1.0 + x), 1.0 / ((1.0 - x * x) * slope * slope))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gauss_legendre_is_exact_for_polynomials() {
        for n in [1, 2, 3, 8, 50, 200, 1600] {
            let nodes = Quadrature::GaussLegendre.nodes(n);
            assert!(nodes.is_sorted_by(|a, b| a.0 < b.0));
            for degree in [0, 1, 2 * n - 1] {
                let sum: f64 = nodes.iter().map(|(x, w)| w * x.powi(degree as i32)).sum();
                let want = 1.0 / (degree as f64 + 1.0);
                assert!((sum - want).abs() < 1e-13, "{n} {degree}: {sum} {want}");
            }
        }
    }

    /// torch.linspace(0, 1, 4) with [1/8, 1/4, 1/4, 1/8], and so on.
    #[test]
    fn riemann_rules_are_captums() {
        let third = 1.0 / 3.0;
        let trapezoid = Quadrature::RiemannTrapezoid.nodes(4);
        let want = [
            (0.0, 0.125),
            (third, 0.25),
            (2.0 * third, 0.25),
            (1.0, 0.125),
        ];
        assert_eq!(trapezoid, want);
        let even = Quadrature::EvenPair.nodes(4);
        assert_eq!(even, [0.0, third, 2.0 * third, 1.0].map(|at| (at, 0.25)));
        let halved = Quadrature::Trapezoid.nodes(3);
        assert_eq!(halved, [(0.0, 0.25), (0.5, 0.5), (1.0, 0.25)]);
        assert_eq!(Quadrature::RiemannLeft.nodes(2), [(0.0, 0.5), (0.5, 0.5)]);
        assert_eq!(Quadrature::RiemannRight.nodes(2), [(0.5, 0.5), (1.0, 0.5)]);
        for rule in [
            Quadrature::RiemannTrapezoid,
            Quadrature::Trapezoid,
            Quadrature::EvenPair,
        ] {
            assert!(rule.validate(1).is_err() && rule.validate(2).is_ok());
        }
        assert!(Quadrature::GaussLegendre.validate(0).is_err());
    }
}
