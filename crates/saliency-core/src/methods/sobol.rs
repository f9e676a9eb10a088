use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

use crate::{
    attribution::Outcome,
    baseline::Baseline,
    error::Error,
    grid::{Rounds, Upsampling, cells, count, upsample},
    method::Method,
    model::Model,
    quasi::Design,
    recipe::{Recipe, Registered},
    run::Run,
    sampling::check_tolerance,
    target::Goal,
};

/// Which share of the score's variance a cell is given.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SobolOrder {
    /// All that vanishes when the cell is held fixed last: alone and with any others.
    #[default]
    Total,
    /// What the cell explains alone.
    First,
}

/// SobolEstimator of a Sobol index from scores a at the points of A and c at those of C, which
/// differ from A in one cell; v is the variance of a, with n - 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SobolEstimator {
    /// mean (a - c)^2 / (2 v) (Jansen 1999), the paper's choice: never negative.
    #[default]
    Jansen,
    /// 1 - (mean a c - (mean a)^2) / v (Homma and Saltelli 1996).
    Homma,
    /// Homma's with mean and variance taken from a and c together (Janon et al. 2014).
    Janon,
    /// 1 - the correlation of a and c (Glen and Isaacs 2012).
    Glen,
}

/// Sobol indices: which share of the score's variance under random masks comes from each
/// cell of a grid.
///
/// Total order: S_i = E[Var(f | all masks but m_i)] / Var(f); first order: Var(E[f | m_i]) /
/// Var(f), with m_i evenly distributed in `[0, 1]`: x * m + b * (1 - m), b the baseline. With
/// n points A and n points B of a quasi-random [`Design`], and C_i = A with cell i from B,
/// that takes n (d + 2) scores for d cells. The first-order index is 1 - the same estimator
/// over B and C_i, which differ in all cells but i. Fel, Cadene et al., "Look at the
/// Variance! Efficient Black-box Explanations with Sobol-based Sensitivity Analysis" (2021),
/// <https://arxiv.org/abs/2111.04138>.
///
/// The values are one map over the positions, `[N, 1, ...]` for an input `[N, C, ...]`, each
/// with its cell's index (Xplique and the authors' code make the map smooth with cubic
/// interpolation). The columns of a table `[N, F]` are cells of their own. The standard
/// errors are jackknife ones over the design's points; they take these for independent, which
/// overstates the error of a quasi-random design.
///
/// With a `tolerance`, whether it is met is looked at after 16, 32, 64, ... points (not of a Latin
/// hypercube, which does not go on).
///
/// `sobol` has the paper's 8 cells a side and 32 points (2112 scores for pictures),
/// `sobol-first-order` the other index, `sobol-xplique` the design of Xplique and the authors'
/// code: no random shift.
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use saliency_core::{Method, Sobol, Target};
/// // Variances 1 : 4 : 0, and no interactions.
/// let model = |x: Tensor<2>| x.sum_dim(1);
/// let x = Tensor::<2>::from_floats([[1.0, -2.0, 0.0]], &Device::flex());
/// let map = Sobol::new().samples(1024).explain(&model, x, Target::Regression)?.to_vec()?;
/// for (index, want) in map.into_iter().zip([0.2, 0.8, 0.0]) {
///     assert!((index - want).abs() < 0.01);
/// }
/// # Ok::<(), saliency_core::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Sobol {
    /// Number n of points, at most; powers of two are spread most evenly.
    pub samples: usize,
    /// Stop when ||standard error|| / ||values|| of the cells of every row is at most this.
    pub tolerance: Option<f64>,
    /// Cells along each axis.
    pub grid: usize,
    /// Total or first order.
    pub order: SobolOrder,
    /// How the index is estimated.
    pub estimator: SobolEstimator,
    /// How the points are drawn.
    pub design: Design,
    /// How masks and indices are brought from cells to positions.
    pub upsampling: Upsampling,
    /// What a mask of zero puts in place of the input.
    pub baseline: Baseline,
    /// Seed of the design.
    pub seed: u64,
}

impl Default for Sobol {
    fn default() -> Self {
        Sobol {
            samples: 32,
            tolerance: None,
            grid: 8,
            order: SobolOrder::Total,
            estimator: SobolEstimator::Jansen,
            design: Design::ShiftedSobol,
            upsampling: Upsampling::Nearest,
            baseline: Baseline::Zero,
            seed: 0,
        }
    }
}

impl Sobol {
    /// Total order, 32 points, 8 cells along each axis.
    pub fn new() -> Self {
        Self::default()
    }

    /// Number n of points; powers of two are spread most evenly.
    pub fn samples(mut self, samples: usize) -> Self {
        self.samples = samples;
        self
    }

    /// Stop when ||standard error|| / ||values|| of the cells of every row is at most this.
    pub fn tolerance(mut self, tolerance: f64) -> Self {
        self.tolerance = Some(tolerance);
        self
    }

    /// Cells along each axis.
    pub fn grid(mut self, grid: usize) -> Self {
        self.grid = grid;
        self
    }

    /// Total or first order.
    pub fn order(mut self, order: SobolOrder) -> Self {
        self.order = order;
        self
    }

    /// How the index is estimated.
    pub fn estimator(mut self, estimator: SobolEstimator) -> Self {
        self.estimator = estimator;
        self
    }

    /// How the points are drawn.
    pub fn design(mut self, design: Design) -> Self {
        self.design = design;
        self
    }

    /// How masks and indices are brought from cells to positions.
    pub fn upsampling(mut self, upsampling: Upsampling) -> Self {
        self.upsampling = upsampling;
        self
    }

    /// What a mask of zero puts in place of the input.
    pub fn baseline(mut self, baseline: Baseline) -> Self {
        self.baseline = baseline;
        self
    }

    /// Seed of the design.
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// Index and jackknife standard error from scores at A, B and C.
    fn index(&self, a: &[f64], b: &[f64], c: &[f64]) -> (f64, f64) {
        let of = |left_out| match self.order {
            SobolOrder::Total => self.estimator.total(a, c, left_out),
            SobolOrder::First => 1.0 - self.estimator.total(b, c, left_out),
        };
        let n = a.len();
        let without: Vec<f64> = (0..n).map(|j| of(Some(j))).collect();
        (of(None), jackknife(&without))
    }
}

/// Standard error from the estimates that leave out one sample each.
pub(super) fn jackknife(without: &[f64]) -> f64 {
    let n = without.len() as f64;
    let mean = without.iter().sum::<f64>() / n;
    let squares: f64 = without.iter().map(|v| (v - mean).powi(2)).sum();
    (squares * (n - 1.0) / n).sqrt()
}

impl SobolEstimator {
    /// The total-order index; zero where the score does not vary.
    fn total(self, a: &[f64], c: &[f64], left_out: Option<usize>) -> f64 {
        let pairs = || {
            let pairs = a.iter().zip(c).enumerate();
            pairs
                .filter(|&(j, _)| Some(j) != left_out)
                .map(|(_, (&a, &c))| (a, c))
        };
        let n = (a.len() - usize::from(left_out.is_some())) as f64;
        // Around a's own mean, so that a large constant part of the score does not cancel.
        let origin = pairs().map(|(a, _)| a).sum::<f64>() / n;
        let (mut sc, mut aa, mut cc, mut ac, mut apart) = (0.0, 0.0, 0.0, 0.0, 0.0);
        for (a, c) in pairs().map(|(a, c)| (a - origin, c - origin)) {
            sc += c;
            aa += a * a;
            cc += c * c;
            ac += a * c;
            apart += (a - c).powi(2);
        }
        let variance = aa / (n - 1.0);
        let (numerator, denominator) = match self {
            SobolEstimator::Jansen => (apart / (2.0 * n), variance),
            // mean a c - (mean a)^2 = mean a' c' + origin * mean c', a' and c' from origin.
            SobolEstimator::Homma => (variance - ac / n - origin * sc / n, variance),
            SobolEstimator::Janon => {
                let mean = sc / (2.0 * n);
                let both = (aa + cc) / (2.0 * n) - mean * mean;
                (both - (ac / n - mean * mean), both)
            }
            SobolEstimator::Glen => {
                let spread = (aa * (cc - sc * sc / n)).max(0.0).sqrt();
                (spread - ac, spread)
            }
        };
        if variance > 0.0 && denominator > 0.0 {
            numerator / denominator
        } else {
            0.0
        }
    }
}

impl Registered for Sobol {
    fn is_non_negative(&self) -> bool {
        self.order == SobolOrder::Total && self.estimator == SobolEstimator::Jansen
    }
}

impl<const D: usize> Method<D> for Sobol {
    fn recipe(&self) -> Recipe {
        Recipe::Sobol(self.clone())
    }

    fn validate(&self) -> Result<(), Error> {
        check_tolerance(self.tolerance)?;
        self.design.check_rounds(self.tolerance.is_some())?;
        match self {
            Sobol { samples: 0 | 1, .. } => {
                let requirement = "a variance needs at least two points";
                Err(Error::option("samples", self.samples, requirement))
            }
            Sobol { grid: 0, .. } => Err(Error::option("grid", 0, "at least one cell is needed")),
            _ => Ok(()),
        }
    }

    fn attribute(
        &self,
        model: &dyn Model<D>,
        input: &Tensor<D>,
        goal: &Goal,
        run: &Run,
    ) -> Result<Outcome<D>, Error> {
        Method::<D>::validate(self)?;
        let (n, rows) = (self.samples, input.dims()[0]);
        let axes = cells(input, self.grid, self.upsampling);
        let d = count(&axes);
        let fill = self.baseline.of(input)?;
        let points = self.design.points(n, 2 * d, self.seed)?;
        let half = |j: usize, side: usize| &points[(2 * j + side) * d..][..d];
        // A, B, C_0, C_1, ... of each point.
        let blocks = d + 2;
        let mask = |i: usize| {
            let (j, block) = (i / blocks, i % blocks);
            let mut cells = half(j, usize::from(block == 1)).to_vec();
            if let Some(cell) = block.checked_sub(2) {
                cells[cell] = half(j, 1)[cell];
            }
            upsample(&cells, &axes)
        };
        let rounds = Rounds {
            most: n,
            first: FIRST,
            tolerance: self.tolerance,
        };
        let probe = (model, (input, &fill), goal, run);
        let found = rounds.of(probe, blocks, mask, |scores, n| {
            let of_row = |row: usize| {
                let block = |block: usize| -> Vec<f64> {
                    let scores = scores[block * rows + row..].iter();
                    scores.step_by(blocks * rows).take(n).copied().collect()
                };
                let (a, b) = (block(0), block(1));
                (0..d)
                    .map(|cell| self.index(&a, &b, &block(cell + 2)))
                    .unzip()
            };
            (0..rows).map(of_row).collect()
        })?;
        Ok(found.outcome(&axes, input))
    }
}

/// Points before the first look at the tolerance.
const FIRST: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Target,
        methods::testing::{Net, assert_splits_agree, image},
    };
    use burn::tensor::{DType, Device};
    use std::f64::consts::PI;

    const ESTIMATORS: [SobolEstimator; 4] = [
        SobolEstimator::Jansen,
        SobolEstimator::Homma,
        SobolEstimator::Janon,
        SobolEstimator::Glen,
    ];

    fn table<const F: usize>(row: [f64; F]) -> Tensor<2> {
        Tensor::<2>::from_data([row], (&Device::flex(), DType::F64))
    }

    fn close(sobol: &Sobol, model: &dyn Model<2>, x: &Tensor<2>, want: &[f64], tolerance: f64) {
        let found = sobol.explain(model, x.clone(), Target::Regression).unwrap();
        let got: Vec<f64> = found.values.try_into_vec_as().unwrap();
        for (got, want) in got.iter().zip(want) {
            assert!(
                (got - want).abs() < tolerance,
                "{sobol:?}: {got} for {want}"
            );
        }
    }

    /// sin x1 + 7 sin^2 x2 + 0.1 x3^4 sin x1 over [-pi, pi]^3; the indices in closed form are
    /// those of Ishigami and Homma (1990).
    #[test]
    fn ishigamis_function() {
        let model = |x: Tensor<2>| {
            let [a, b, c] = [0, 1, 2].map(|i| x.clone().narrow(1, i, 1));
            let first = a.sin();
            first.clone() + b.sin().powi_scalar(2) * 7.0 + c.powi_scalar(4) * first * 0.1
        };
        let (a, b) = (7.0, 0.1);
        let v1 = 0.5 * (1.0 + b * PI.powi(4) / 5.0).powi(2);
        let v2 = a * a / 8.0;
        let v13 = b * b * PI.powi(8) * 8.0 / 225.0;
        let v = v1 + v2 + v13;
        let x = table([PI; 3]);
        for estimator in ESTIMATORS {
            let sobol = Sobol::new()
                .samples(8192)
                .estimator(estimator)
                .baseline(Baseline::Constant(-PI));
            close(&sobol, &model, &x, &[(v1 + v13) / v, v2 / v, v13 / v], 0.01);
            let first = sobol.order(SobolOrder::First);
            close(&first, &model, &x, &[v1 / v, v2 / v, 0.0], 0.02);
        }
    }

    /// Sobol's g-function: the product of (|4 x_i - 2| + a_i) / (1 + a_i) over [0, 1]^6.
    #[test]
    fn the_g_function() {
        let a = [0.0, 0.5, 3.0, 9.0, 99.0, 99.0];
        let shift = table(a);
        let model = |x: Tensor<2>| {
            let terms = (x * 4.0 - 2.0).abs() + shift.clone();
            (terms / (shift.clone() + 1.0)).prod_dim(1)
        };
        let part = a.map(|a| 1.0 / (3.0 * (1.0 + a) * (1.0 + a)));
        let all: f64 = part.iter().map(|v| 1.0 + v).product();
        let x = table([1.0; 6]);
        let sobol = Sobol::new().samples(8192);
        let total = part.map(|v| v * all / (1.0 + v) / (all - 1.0));
        close(&sobol, &model, &x, &total, 0.01);
        let first = part.map(|v| v / (all - 1.0));
        close(&sobol.order(SobolOrder::First), &model, &x, &first, 0.02);
        // The standard error of independent points covers the truth.
        let random = Sobol::new().samples(256).design(Design::Random);
        let found = random.explain(&model, x, Target::Regression).unwrap();
        let got: Vec<f64> = found.values.try_into_vec_as().unwrap();
        let errors: Vec<f64> = found
            .evidence
            .standard_error
            .unwrap()
            .try_into_vec_as()
            .unwrap();
        for ((got, want), error) in got.iter().zip(total).zip(errors) {
            assert!(
                (got - want).abs() < 3.5 * error && error < 0.2,
                "{got} {want} {error}"
            );
        }
    }

    #[test]
    fn a_large_constant_in_the_score_does_not_matter() {
        let model = |offset: f64| move |x: Tensor<2>| x.powi_scalar(2).sum_dim(1) + offset;
        let x = table([1.0, 2.0, 0.5]);
        for estimator in [
            SobolEstimator::Jansen,
            SobolEstimator::Janon,
            SobolEstimator::Glen,
        ] {
            let sobol = Sobol::new().samples(64).estimator(estimator);
            let plain = sobol
                .explain(&model(0.0), x.clone(), Target::Regression)
                .unwrap();
            let want: Vec<f64> = plain.values.try_into_vec_as().unwrap();
            close(&sobol, &model(1e6), &x, &want, 1e-8);
        }
    }

    #[test]
    fn what_does_not_matter_has_none() {
        let constant = |x: Tensor<2>| Tensor::<2>::ones([x.dims()[0], 1], &x.device());
        for estimator in ESTIMATORS {
            let sobol = Sobol::new().samples(8).estimator(estimator);
            close(&sobol, &constant, &table([1.0, 2.0]), &[0.0, 0.0], 1e-12);
        }
    }

    #[test]
    fn pictures_have_the_index_of_each_cell() {
        // Of 3x3 cells over 9x8 positions, those of the columns 0 to 2, 3 to 4 and 5 to 7.
        let corner = |x: Tensor<4>| {
            let rows = x.dims()[0];
            let corner = x.slice([0..rows, 0..3, 6..9, 4..8]);
            corner.flatten::<2>(1, 3).mean_dim(1)
        };
        let x = Tensor::<4>::ones([2, 3, 9, 8], &Device::flex());
        let cells = Sobol {
            grid: 3,
            ..Sobol::new()
        };
        let found = cells.explain(&corner, x, Target::Regression).unwrap();
        assert_eq!(found.values.dims(), [2, 1, 9, 8]);
        let values = found.to_vec().unwrap();
        for (i, value) in values.iter().enumerate() {
            let (row, column) = (i / 8 % 9, i % 8);
            match (row >= 6, column) {
                (false, _) | (_, 0..3) => assert!(*value < 1e-5, "{i}: {value}"),
                (true, _) => assert!(*value > 0.1, "{i}: {value}"),
            }
        }
        assert_eq!(found.evaluations.forward, 2 * 32 * (9 + 2));
    }

    #[test]
    fn it_stops_once_the_tolerance_is_met() {
        let net = Net::relu(&Device::flex());
        let of = |samples, tolerance| {
            let method = Sobol::new().grid(2).samples(samples);
            let method = Sobol {
                tolerance,
                ..method
            };
            method.explain(&net, image(2, 3), 1).unwrap()
        };
        let early = of(512, Some(0.3));
        let samples = early.evidence.samples.unwrap();
        assert_eq!(early.evidence.converged, Some(true));
        assert!(samples < 512 && samples.is_power_of_two(), "{samples}");
        assert_eq!(early.evaluations.forward, 2 * samples * 6);
        let plain = of(samples, None);
        assert_eq!(early.to_vec().unwrap(), plain.to_vec().unwrap());
        let never = of(40, Some(1e-9));
        assert_eq!(
            (never.evidence.samples, never.evidence.converged),
            (Some(40), Some(false))
        );
        let text = Sobol::new().tolerance(0.1).design(Design::LatinHypercube);
        let text = text.explain(&net, image(1, 1), 0).unwrap_err().to_string();
        assert!(text.starts_with("design = latin_hypercube"), "{text}");
    }

    #[test]
    fn does_not_depend_on_the_batch_split() {
        assert_splits_agree(&Sobol::new().samples(4).grid(2), 1e-4);
    }

    #[test]
    fn wrong_options_are_named() {
        let net = Net::relu(&Device::flex());
        let text = |sobol: Sobol| sobol.explain(&net, image(1, 1), 0).unwrap_err().to_string();
        assert!(text(Sobol::new().samples(1)).starts_with("samples = 1"));
        assert!(text(Sobol::new().grid(0)).starts_with("grid = 0"));
        let wide = Tensor::<2>::ones([1, 200], &Device::flex());
        let model = |x: Tensor<2>| x.sum_dim(1);
        let error = Sobol::new()
            .explain(&model, wide, 0)
            .unwrap_err()
            .to_string();
        assert!(error.contains("400 dimensions"), "{error}");
    }
}
