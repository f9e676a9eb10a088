use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

use crate::{
    attribution::Outcome,
    baseline::Baseline,
    error::Error,
    grid::{Rounds, Upsampling, cells, count, upsample},
    method::Method,
    methods::sobol::jackknife,
    model::Model,
    quasi::Design,
    recipe::{Recipe, Registered},
    run::Run,
    sampling::check_tolerance,
    target::Goal,
};

/// Kernel k(m, m') of a cell's mask values.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CellKernel {
    /// 1/2 - (m - m')^2 of masks rounded to zero and one: the paper's choice.
    #[default]
    Binary,
    /// exp(-(m - m')^2 / (2 width^2)).
    Rbf {
        /// Width; 0.5 in Xplique.
        width: f64,
    },
    /// B_2(|m - m'|) / 2 + B_1(m) B_1(m'), B the Bernoulli polynomials.
    Sobolev,
}

/// Width w of the kernel exp(-(f - f')^2 / (2 w^2)) of the scores.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ScoreWidth {
    /// The median distance of two different scores: the usual choice; adding a constant to the
    /// score changes nothing.
    #[default]
    MedianDistance,
    /// The median score, as in Xplique and the authors' code, which explain probabilities.
    MedianScore,
    /// In units of the score.
    Fixed(f64),
}

/// HSIC: how far the score depends on each cell of a grid under random masks.
///
/// H_i = tr(K_i C L C) / (n - 1)^2 over n masks: K_i is the kernel matrix of cell i's values,
/// L that of the scores, C the centring matrix. It is zero for independent variables (a finite
/// sample's tends to zero from above as 1 / n) and takes n scores however many cells there
/// are. Novello, Fel and Vigouroux, "Making Sense of Dependence: Efficient Black-box
/// Explanations Using Dependence Measure" (2022), <https://arxiv.org/abs/2206.06219>.
///
/// The values are one map over the positions, `[N, 1, ...]` for an input `[N, C, ...]`, each
/// with its cell's H. The columns of a table `[N, F]` are cells of their own. The standard
/// errors are jackknife ones over the masks.
///
/// With a `tolerance`, whether it is met is looked at after 128, 256, 512, ... masks (not of a Latin
/// hypercube, which does not go on).
///
/// `hsic` has 8 cells a side and 500 masks of ones and zeros; `hsic-xplique` has the width and
/// the plain Sobol sequence of Xplique. Xplique's values are these times (n - 1)^2 / n, made
/// smooth with cubic interpolation.
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use saliency_core::{Hsic, Method, Target};
/// let model = |x: Tensor<2>| x.sum_dim(1);
/// let x = Tensor::<2>::from_floats([[1.0, -2.0, 0.0]], &Device::flex());
/// let map = Hsic::new().explain(&model, x, Target::Regression)?.to_vec()?;
/// assert!(map[1] > 2.0 * map[0] && map[0] > 20.0 * map[2]);
/// # Ok::<(), saliency_core::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Hsic {
    /// Number n of masks, at most.
    pub samples: usize,
    /// Stop when ||standard error|| / ||values|| of the cells of every row is at most this.
    pub tolerance: Option<f64>,
    /// Cells along each axis.
    pub grid: usize,
    /// Kernel of a cell's mask values.
    pub kernel: CellKernel,
    /// Width of the scores' kernel.
    pub width: ScoreWidth,
    /// How the masks are drawn.
    pub design: Design,
    /// How masks and values are brought from cells to positions.
    pub upsampling: Upsampling,
    /// What a mask of zero puts in place of the input.
    pub baseline: Baseline,
    /// Seed of the design.
    pub seed: u64,
}

impl Default for Hsic {
    fn default() -> Self {
        Hsic {
            samples: 500,
            tolerance: None,
            grid: 8,
            kernel: CellKernel::Binary,
            width: ScoreWidth::MedianDistance,
            design: Design::ShiftedSobol,
            upsampling: Upsampling::Nearest,
            baseline: Baseline::Zero,
            seed: 0,
        }
    }
}

impl Hsic {
    /// 500 binary masks, 8 cells along each axis.
    pub fn new() -> Self {
        Self::default()
    }

    /// Number n of masks.
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

    /// Kernel of a cell's mask values.
    pub fn kernel(mut self, kernel: CellKernel) -> Self {
        self.kernel = kernel;
        self
    }

    /// Width of the scores' kernel.
    pub fn width(mut self, width: ScoreWidth) -> Self {
        self.width = width;
        self
    }

    /// How the masks are drawn.
    pub fn design(mut self, design: Design) -> Self {
        self.design = design;
        self
    }

    /// How masks and values are brought from cells to positions.
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
}

impl CellKernel {
    fn of(self, a: f64, b: f64) -> f64 {
        match self {
            CellKernel::Binary => 0.5 - (a - b).powi(2),
            CellKernel::Rbf { width } => rbf(a - b, width),
            CellKernel::Sobolev => {
                let d = (a - b).abs();
                (d * d - d + 1.0 / 6.0) / 2.0 + (a - 0.5) * (b - 0.5)
            }
        }
    }
}

impl ScoreWidth {
    fn of(self, scores: &[f64]) -> f64 {
        match self {
            ScoreWidth::Fixed(width) => width,
            ScoreWidth::MedianScore => median(scores.to_vec()),
            ScoreWidth::MedianDistance => {
                let pairs = scores.iter().enumerate();
                let apart = pairs.flat_map(|(i, a)| scores[..i].iter().map(move |b| (a - b).abs()));
                median(apart.filter(|&d| d > 0.0).collect())
            }
        }
    }
}

fn rbf(distance: f64, width: f64) -> f64 {
    (-distance * distance / (2.0 * width * width)).exp()
}

/// Zero of nothing.
fn median(mut values: Vec<f64>) -> f64 {
    let n = values.len();
    values.sort_unstable_by(f64::total_cmp);
    match n {
        0 => 0.0,
        n if n % 2 == 1 => values[n / 2],
        n => (values[n / 2 - 1] + values[n / 2]) / 2.0,
    }
}

/// A kernel matrix `[n, n]` and the sums of its rows.
struct Gram {
    values: Vec<f64>,
    rows: Vec<f64>,
    total: f64,
}

impl Gram {
    fn new(points: &[f64], kernel: impl Fn(f64, f64) -> f64) -> Self {
        let row = |&a: &f64| points.iter().map(|&b| kernel(a, b)).collect::<Vec<_>>();
        let values: Vec<f64> = points.iter().flat_map(row).collect();
        let rows: Vec<f64> = values
            .chunks(points.len())
            .map(|r| r.iter().sum())
            .collect();
        let total = rows.iter().sum();
        Gram {
            values,
            rows,
            total,
        }
    }

    fn row(&self, i: usize) -> &[f64] {
        &self.values[i * self.rows.len()..][..self.rows.len()]
    }
}

/// tr(K C L C) / (n - 1)^2 and its jackknife standard error, from
/// tr(K C L C) = sum K L + (sum K) (sum L) / n^2 - 2 / n sum over i of K_i. L_i.
fn hsic(k: &Gram, l: &Gram) -> (f64, f64) {
    let n = k.rows.len();
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    let of = |n: usize, both: f64, totals: f64, rows: f64| {
        let n = n as f64;
        (both + totals / (n * n) - 2.0 * rows / n) / (n - 1.0).powi(2)
    };
    let both: Vec<f64> = (0..n).map(|i| dot(k.row(i), l.row(i))).collect();
    let (all, rows) = (both.iter().sum::<f64>(), dot(&k.rows, &l.rows));
    let value = of(n, all, k.total * l.total, rows).max(0.0);
    let without = |i: usize| {
        let (ki, li) = (k.row(i), l.row(i));
        let (kii, lii) = (ki[i], li[i]);
        let all = all - 2.0 * both[i] + kii * lii;
        let totals = (k.total - 2.0 * k.rows[i] + kii) * (l.total - 2.0 * l.rows[i] + lii);
        let rows = rows - dot(&k.rows, li) - dot(ki, &l.rows) + both[i]
            - (k.rows[i] - kii) * (l.rows[i] - lii);
        of(n - 1, all, totals, rows)
    };
    let without: Vec<f64> = match n {
        0..3 => Vec::new(),
        _ => (0..n).map(without).collect(),
    };
    (value, jackknife(&without))
}

impl Registered for Hsic {
    fn is_non_negative(&self) -> bool {
        true
    }
}

impl<const D: usize> Method<D> for Hsic {
    fn recipe(&self) -> Recipe {
        Recipe::Hsic(self.clone())
    }

    fn validate(&self) -> Result<(), Error> {
        check_tolerance(self.tolerance)?;
        self.design.check_rounds(self.tolerance.is_some())?;
        if self.samples < 2 {
            let requirement = "at least two masks are needed";
            return Err(Error::option("samples", self.samples, requirement));
        }
        if self.grid == 0 {
            return Err(Error::option("grid", 0, "at least one cell is needed"));
        }
        let positive = |option, width: f64| match width.is_finite() && width > 0.0 {
            true => Ok(()),
            false => Err(Error::option(
                option,
                width,
                "it must be a finite number above 0",
            )),
        };
        if let CellKernel::Rbf { width } = self.kernel {
            positive("kernel", width)?;
        }
        match self.width {
            ScoreWidth::Fixed(width) => positive("width", width),
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
        let mut points = self.design.points(n, d, self.seed)?;
        if self.kernel == CellKernel::Binary {
            points
                .iter_mut()
                .for_each(|p| *p = f64::from(u8::from(*p > 0.5)));
        }
        let mask = |i: usize| upsample(&points[i * d..][..d], &axes);
        let rounds = Rounds {
            most: n,
            first: FIRST,
            tolerance: self.tolerance,
        };
        let probe = (model, (input, &fill), goal, run);
        let found = rounds.of(probe, 1, mask, |scores, n| {
            let grams: Vec<Gram> = (0..rows)
                .map(|row| {
                    let scores: Vec<f64> = scores[row..].iter().step_by(rows).copied().collect();
                    let width = self.width.of(&scores).abs().max(f64::MIN_POSITIVE.sqrt());
                    Gram::new(&scores, |a, b| rbf(a - b, width))
                })
                .collect();
            let mut found = vec![(Vec::with_capacity(d), Vec::with_capacity(d)); rows];
            for cell in 0..d {
                let values = points[cell..].iter().step_by(d).take(n);
                let values: Vec<f64> = values.copied().collect();
                let k = Gram::new(&values, |a, b| self.kernel.of(a, b));
                for ((values, errors), l) in found.iter_mut().zip(&grams) {
                    let (value, error) = hsic(&k, l);
                    values.push(value);
                    errors.push(error);
                }
            }
            found
        })?;
        Ok(found.outcome(&axes, input))
    }
}

/// Masks before the first look at the tolerance.
const FIRST: usize = 128;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        methods::testing::{Net, assert_splits_agree, image},
        noise::standard_normal,
    };
    use burn::tensor::Device;

    const KERNELS: [CellKernel; 3] = [
        CellKernel::Binary,
        CellKernel::Rbf { width: 0.5 },
        CellKernel::Sobolev,
    ];

    /// The centred double sum as it is written, over given points.
    fn direct(kernel: CellKernel, cell: &[f64], scores: &[f64], width: f64) -> f64 {
        let n = cell.len();
        let centred = |f: &dyn Fn(usize, usize) -> f64| {
            let row = |i: usize| (0..n).map(|j| f(i, j)).sum::<f64>() / n as f64;
            let rows: Vec<f64> = (0..n).map(row).collect();
            let all = rows.iter().sum::<f64>() / n as f64;
            let f: Vec<f64> = (0..n * n)
                .map(|at| f(at / n, at % n) - rows[at / n] - rows[at % n] + all)
                .collect();
            f
        };
        let k = centred(&|i, j| kernel.of(cell[i], cell[j]));
        let l = centred(&|i, j| rbf(scores[i] - scores[j], width));
        let sum: f64 = k.iter().zip(&l).map(|(k, l)| k * l).sum();
        sum / (n as f64 - 1.0).powi(2)
    }

    fn points(kernel: CellKernel, n: usize, seed: u64) -> Vec<f64> {
        let points = Design::Random.points(n, 1, seed).unwrap();
        match kernel {
            CellKernel::Binary => points.iter().map(|p| p.round()).collect(),
            _ => points,
        }
    }

    #[test]
    fn is_the_centred_double_sum_with_its_jackknife() {
        for kernel in KERNELS {
            let cell = points(kernel, 20, 5);
            let noise = standard_normal(2, 0, 20);
            let scores: Vec<f64> = cell
                .iter()
                .zip(noise)
                .map(|(c, e)| c + 0.5 * f64::from(e))
                .collect();
            let gram = |cell: &[f64], scores: &[f64]| {
                hsic(
                    &Gram::new(cell, |a, b| kernel.of(a, b)),
                    &Gram::new(scores, |a, b| rbf(a - b, 0.7)),
                )
            };
            let (value, error) = gram(&cell, &scores);
            let want = direct(kernel, &cell, &scores, 0.7);
            assert!((value - want).abs() < 1e-14, "{kernel:?}: {value} {want}");
            let without: Vec<f64> = (0..20)
                .map(|i| {
                    let leave = |v: &[f64]| [&v[..i], &v[i + 1..]].concat();
                    direct(kernel, &leave(&cell), &leave(&scores), 0.7)
                })
                .collect();
            assert!((error - jackknife(&without)).abs() < 1e-14, "{kernel:?}");
        }
    }

    /// For independent variables, n * H has a mean that does not grow with n.
    #[test]
    fn independence_tends_to_zero() {
        for kernel in KERNELS {
            let mean = |n: usize| {
                let runs = 200;
                let of = |seed| {
                    let scores: Vec<f64> = standard_normal(77, seed, n)
                        .into_iter()
                        .map(f64::from)
                        .collect();
                    let k = Gram::new(&points(kernel, n, seed as u64), |a, b| kernel.of(a, b));
                    hsic(&k, &Gram::new(&scores, |a, b| rbf(a - b, 1.0))).0
                };
                (0..runs).map(of).sum::<f64>() / runs as f64
            };
            let (few, many) = (mean(20), mean(80));
            assert!((few / many - 4.0).abs() < 1.0, "{kernel:?}: {few} {many}");
            let cell = points(kernel, 80, 1);
            let k = Gram::new(&cell, |a, b| kernel.of(a, b));
            let same = hsic(&k, &Gram::new(&cell, |a, b| rbf(a - b, 1.0))).0;
            assert!(same > 5.0 * many, "{kernel:?}: {same} {many}");
        }
    }

    #[test]
    fn a_constant_added_to_the_score_does_not_matter() {
        let model = |offset: f32| move |x: Tensor<2>| x.powi_scalar(2).sum_dim(1) + offset;
        let x = Tensor::<2>::from_floats([[1.0, 2.0, 0.5]], &Device::flex());
        let of = |offset| {
            let found = Hsic::new()
                .samples(64)
                .explain(&model(offset), x.clone(), 0);
            found.unwrap().to_vec().unwrap()
        };
        for (plain, moved) in of(0.0).iter().zip(of(16.0)) {
            assert!((plain - moved).abs() < 1e-5);
        }
    }

    #[test]
    fn a_constant_score_depends_on_nothing() {
        let constant = |x: Tensor<4>| Tensor::<2>::ones([x.dims()[0], 1], &x.device());
        for width in [ScoreWidth::MedianDistance, ScoreWidth::MedianScore] {
            let hsic = Hsic::new().samples(20).grid(2).width(width);
            let found = hsic.explain(&constant, image(2, 1), 0).unwrap();
            assert_eq!(found.values.dims(), [2, 1, 9, 8]);
            assert!(found.to_vec().unwrap().iter().all(|v| v.abs() < 1e-12));
        }
    }

    #[test]
    fn a_cell_that_matters_alone_stands_out() {
        let corner = |x: Tensor<4>| {
            let rows = x.dims()[0];
            let corner = x.slice([0..rows, 0..3, 0..3, 0..2]);
            corner.flatten::<2>(1, 3).mean_dim(1)
        };
        let x = Tensor::<4>::ones([1, 3, 9, 8], &Device::flex());
        for kernel in KERNELS {
            let hsic = Hsic::new().samples(200).grid(3).kernel(kernel);
            let map = hsic
                .explain(&corner, x.clone(), 0)
                .unwrap()
                .to_vec()
                .unwrap();
            let rest = map[3..8]
                .iter()
                .chain(&map[24..])
                .copied()
                .fold(0.0, f32::max);
            assert!(map[0] > 8.0 * rest, "{kernel:?}: {} {rest}", map[0]);
        }
    }

    #[test]
    fn it_stops_once_the_tolerance_is_met() {
        let net = Net::relu(&Device::flex());
        let of = |samples, tolerance| {
            let method = Hsic::new().grid(2).samples(samples);
            let method = Hsic {
                tolerance,
                ..method
            };
            method.explain(&net, image(2, 3), 1).unwrap()
        };
        let early = of(1024, Some(0.3));
        let samples = early.evidence.samples.unwrap();
        assert_eq!(early.evidence.converged, Some(true));
        assert!(samples < 1024 && samples.is_power_of_two(), "{samples}");
        let plain = of(samples, None);
        assert_eq!(early.to_vec().unwrap(), plain.to_vec().unwrap());
        let never = of(140, Some(1e-9));
        assert_eq!(
            (never.evidence.samples, never.evidence.converged),
            (Some(140), Some(false))
        );
    }

    #[test]
    fn does_not_depend_on_the_batch_split() {
        assert_splits_agree(&Hsic::new().samples(9).grid(2), 1e-4);
    }

    #[test]
    fn wrong_options_are_named() {
        let net = Net::relu(&Device::flex());
        let text = |hsic: Hsic| hsic.explain(&net, image(1, 1), 0).unwrap_err().to_string();
        assert!(text(Hsic::new().samples(1)).starts_with("samples = 1"));
        assert!(text(Hsic::new().grid(0)).starts_with("grid = 0"));
        assert!(text(Hsic::new().kernel(CellKernel::Rbf { width: 0.0 })).starts_with("kernel = 0"));
        assert!(text(Hsic::new().width(ScoreWidth::Fixed(-1.0))).starts_with("width = -1"));
    }
}
