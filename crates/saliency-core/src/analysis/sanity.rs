use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

use crate::{
    attribution::Attribution,
    error::Error,
    graph::{Graph, Randomisation},
    host,
    map::{Map, pearson},
    method::Method,
    reduce::{Reduction, reduce},
    run::Run,
    target::Target,
};

use super::sensitivity::same_target;

/// Which modules are random at once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Randomised {
    /// One after the other from the output to the input, and they stay so.
    #[default]
    Cascading,
    /// One at a time.
    Alone,
}

/// The sanity check by parameter randomisation: a map that shows what a model has learnt must
/// change when the model forgets it.
///
/// The map of the model is compared with the maps of the same model with more and more of its
/// modules randomised. A method whose maps stay alike does not depend on the parameters, and
/// cannot explain them. Adebayo et al., "Sanity Checks for Saliency Maps" (2018),
/// <https://arxiv.org/abs/1810.03292>.
///
/// ```
/// use burn::{module::Module, nn::{Linear, LinearConfig}, tensor::{Device, Tensor}};
/// use saliency_core::{Gradient, Graph, Run, Target, analysis::Sanity};
///
/// #[derive(Module, Debug)]
/// struct Mlp { hidden: Linear, out: Linear }
///
/// let device = Device::flex();
/// let mlp = Mlp {
///     hidden: LinearConfig::new(40, 8).init(&device),
///     out: LinearConfig::new(8, 3).init(&device),
/// };
/// let x = Tensor::<2>::ones([1, 40], &device);
/// let graph = Graph::trace(&mlp, |m, x| m.out.forward(m.hidden.forward(x).tanh()), &x)?;
/// let found = Sanity::new().run(&Gradient, &graph, x, &Target::Class(2), &Run::new())?;
/// let names: Vec<_> = found.steps.iter().map(|step| step.module.as_str()).collect();
/// assert_eq!(names, ["out", "hidden"]);
/// assert!(found.steps[1].rows[0].spearman.abs() < 0.7);
/// # Ok::<(), saliency_core::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Sanity {
    /// The modules in the order they are randomised in, such as `fc`, `layer4`, `layer3`; all
    /// with parameters, from the output to the input, where none are given.
    pub modules: Vec<String>,
    /// Which are random at once.
    pub order: Randomised,
    /// What the parameters are replaced by.
    pub randomisation: Randomisation,
    /// Seed of the new parameters.
    pub seed: u64,
    /// Reduction over the channels of images `[N, C, H, W]` before comparing; none, and any
    /// other rank, compares raw values.
    pub reduction: Option<Reduction>,
}

impl Default for Sanity {
    fn default() -> Self {
        Sanity {
            modules: Vec::new(),
            order: Randomised::default(),
            randomisation: Randomisation::default(),
            seed: 0,
            reduction: Some(Reduction::Max),
        }
    }
}

/// How alike two maps are.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Similarity {
    /// Spearman's rank correlation.
    pub spearman: f64,
    /// Pearson's correlation.
    pub pearson: f64,
    /// Structural similarity of the maps scaled to 0..1, for images of at least 7 x 7 pixels.
    pub ssim: Option<f64>,
}

/// One step of the test.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SanityStep {
    /// The module that was randomised in this step.
    pub module: String,
    /// For each row, how alike its map is to that of the model itself.
    pub rows: Vec<Similarity>,
}

/// The outcome of the sanity check.
#[derive(Clone, Debug)]
pub struct SanityOutcome<const D: usize> {
    /// The attribution of the model itself.
    pub clean: Attribution<D>,
    /// What became of it, in the order of randomisation.
    pub steps: Vec<SanityStep>,
}

impl Sanity {
    /// All modules from the output to the input, maps reduced by `max`.
    pub fn new() -> Self {
        Self::default()
    }

    /// Runs the test; the target is decided once, by the model itself.
    ///
    /// # Errors
    /// [`Error::UnknownLayer`] names a module without parameters; whatever the method returns.
    pub fn run<const D: usize>(
        &self,
        method: &impl Method<D>,
        graph: &Graph,
        input: Tensor<D>,
        target: &Target,
        run: &Run,
    ) -> Result<SanityOutcome<D>, Error> {
        let clean = method.explain_with(graph, input.clone(), target, run)?;
        let target = same_target(&clean.targets, target);
        let before = self.maps(&clean)?;
        let modules = match self.modules.is_empty() {
            true => graph.modules().into_iter().rev().collect(),
            false => self.modules.clone(),
        };
        let mut steps = Vec::new();
        for (index, name) in modules.iter().enumerate() {
            let random = match self.order {
                Randomised::Cascading => &modules[..=index],
                Randomised::Alone => &modules[index..=index],
            };
            let graph = graph.randomised(random, self.seed, self.randomisation)?;
            let after = method.explain_with(&graph, input.clone(), &target, run)?;
            let rows = before
                .iter()
                .zip(&self.maps(&after)?)
                .map(|(a, b)| a.similarity(b))
                .collect();
            steps.push(SanityStep {
                module: name.clone(),
                rows,
            });
        }
        Ok(SanityOutcome { clean, steps })
    }

    fn maps<const D: usize>(&self, found: &Attribution<D>) -> Result<Vec<Flat>, Error> {
        let values = match self.reduction {
            Some(reduction) if D == 4 => reduce(found.values.clone(), 1, reduction),
            _ => found.values.clone(),
        };
        let dims = values.dims();
        let size = match (self.reduction, &dims[1..]) {
            (Some(_), &[1, height, width]) => Some([height, width]),
            _ => None,
        };
        let values = host::values(values)?;
        Ok(values
            .chunks(values.len() / dims[0])
            .map(|row| Flat {
                values: row.to_vec(),
                size,
            })
            .collect())
    }
}

/// One row's map.
struct Flat {
    values: Vec<f32>,
    size: Option<[usize; 2]>,
}

impl Flat {
    fn similarity(&self, other: &Flat) -> Similarity {
        let map = |flat: &Flat| {
            let [height, width] = flat.size?;
            Some(
                Map::new(height, width, flat.values.clone())
                    .ok()?
                    .normalised(),
            )
        };
        Similarity {
            spearman: spearman(&self.values, &other.values),
            pearson: pearson(&self.values, &other.values),
            ssim: map(self)
                .zip(map(other))
                .and_then(|(a, b)| structural_similarity(&a, &b)),
        }
    }
}

/// Spearman's rank correlation of two equally long vectors: Pearson's of their ranks, equal
/// values sharing the mean of theirs; 0 where one is constant.
///
/// ```
/// use saliency_core::analysis::spearman;
/// assert_eq!(spearman(&[1.0, 2.0, 9.0], &[0.1, 0.2, 0.3]), 1.0);
/// assert_eq!(spearman(&[1.0, 2.0, 3.0], &[5.0, 4.0, -9.0]), -1.0);
/// ```
///
/// # Panics
/// When the lengths differ.
pub fn spearman(a: &[f32], b: &[f32]) -> f64 {
    pearson(&ranks(a), &ranks(b))
}

fn ranks(values: &[f32]) -> Vec<f32> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|&a, &b| values[a].total_cmp(&values[b]));
    let mut ranks = vec![0.0; values.len()];
    let mut start = 0;
    for group in order.chunk_by(|&a, &b| values[a] == values[b]) {
        let rank = start as f32 + (group.len() - 1) as f32 / 2.0;
        for &index in group {
            ranks[index] = rank;
        }
        start += group.len();
    }
    ranks
}

/// Structural similarity of two maps with values in 0..1: the mean over all windows of 7 x 7
/// pixels, with sample variances; `None` where the maps are smaller than that or differ in
/// size. Wang et al. (2004), with scikit-image's defaults.
///
/// ```
/// use saliency_core::{Map, analysis::structural_similarity};
/// let ramp = Map::new(8, 8, (0..64).map(|v| v as f32 / 63.0).collect())?;
/// let back = Map::new(8, 8, (0..64).rev().map(|v| v as f32 / 63.0).collect())?;
/// assert_eq!(structural_similarity(&ramp, &ramp), Some(1.0));
/// assert!(structural_similarity(&ramp, &back).unwrap() < 0.0);
/// # Ok::<(), saliency_core::Error>(())
/// ```
pub fn structural_similarity(a: &Map, b: &Map) -> Option<f64> {
    const SIDE: usize = 7;
    const C1: f64 = 0.01 * 0.01;
    const C2: f64 = 0.03 * 0.03;
    let (height, width) = (a.height(), a.width());
    if (b.height(), b.width()) != (height, width) || height < SIDE || width < SIDE {
        return None;
    }
    let n = (SIDE * SIDE) as f64;
    let (mut total, mut windows) = (0.0, 0.0);
    for top in 0..=height - SIDE {
        for left in 0..=width - SIDE {
            let [mut x, mut y, mut xx, mut yy, mut xy] = [0.0; 5];
            for row in top..top + SIDE {
                for column in left..left + SIDE {
                    let p = f64::from(a.values()[row * width + column]);
                    let q = f64::from(b.values()[row * width + column]);
                    x += p;
                    y += q;
                    xx += p * p;
                    yy += q * q;
                    xy += p * q;
                }
            }
            let (x, y) = (x / n, y / n);
            let sample = n / (n - 1.0);
            let (vx, vy) = (sample * (xx / n - x * x), sample * (yy / n - y * y));
            let cov = sample * (xy / n - x * y);
            total +=
                (2.0 * x * y + C1) * (2.0 * cov + C2) / ((x * x + y * y + C1) * (vx + vy + C2));
            windows += 1.0;
        }
    }
    Some(total / windows)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Gradient, LayerActivation,
        methods::testing::{image, net_graph},
    };

    fn run<const D: usize>(
        sanity: &Sanity,
        method: &impl Method<D>,
        x: Tensor<D>,
    ) -> Vec<SanityStep> {
        let graph = net_graph();
        let found = sanity.run(method, &graph, x, &Target::Predicted, &Run::new());
        found.unwrap().steps
    }

    #[test]
    fn maps_part_as_modules_forget() {
        let steps = run(&Sanity::new(), &Gradient, image(3, 2));
        let names: Vec<_> = steps.iter().map(|s| s.module.as_str()).collect();
        assert_eq!(names, ["head", "branch", "norm", "stem"]);
        for similarity in &steps[3].rows {
            assert!(similarity.spearman.abs() < 0.6, "{similarity:?}");
            assert!(similarity.ssim.unwrap() < 0.6, "{similarity:?}");
        }
    }

    /// A layer's activation does not feel what comes after it.
    #[test]
    fn what_does_not_depend_on_a_module_stays() {
        let alone = Sanity {
            order: Randomised::Alone,
            ..Sanity::new()
        };
        let steps = run(&alone, &LayerActivation::at("relu_1"), image(2, 2));
        let of = |step: usize| steps[step].rows[1];
        for step in [0, 1] {
            let same = of(step);
            assert!((same.spearman - 1.0).abs() < 1e-6 && (same.pearson - 1.0).abs() < 1e-6);
            assert!((same.ssim.unwrap() - 1.0).abs() < 1e-6);
        }
        assert!(of(2).spearman < 0.999 && of(3).spearman < 0.999);
    }

    #[test]
    fn modules_can_be_chosen() {
        let chosen = Sanity {
            modules: vec!["stem".into()],
            ..Sanity::new()
        };
        assert_eq!(run(&chosen, &Gradient, image(1, 2)).len(), 1);
        let wrong = Sanity {
            modules: vec!["stam".into()],
            ..Sanity::new()
        };
        let found = wrong.run(&Gradient, &net_graph(), image(1, 2), &0.into(), &Run::new());
        assert!(found.unwrap_err().to_string().contains("\"stam\""));
    }

    #[test]
    fn equal_values_share_their_rank() {
        assert_eq!(ranks(&[3.0, 1.0, 3.0, 2.0]), [2.5, 0.0, 2.5, 1.0]);
        assert_eq!(spearman(&[1.0, 1.0], &[1.0, 2.0]), 0.0);
    }
}
