use burn::tensor::{Tensor, TensorData};
use serde::{Deserialize, Serialize};

use crate::{
    attribution::{Evidence, Outcome},
    baseline::Baseline,
    error::Error,
    method::Method,
    methods::IntegratedGradients,
    model::Model,
    quadrature::Quadrature,
    recipe::{Recipe, Registered},
    run::Run,
    segment::{
        felzenszwalb::{Felzenszwalb, dilated},
        picture::Picture,
    },
    target::Goal,
};

/// Regions ranked by the density of an attribution within them.
///
/// The attribution's channels are reduced by their maximum. Then, from nothing, the region
/// whose pixels not yet taken have the greatest mean attribution is taken, those pixels are
/// given that mean, and so on. For images `[N, C, H, W]`; the result is a map `[N, 1, H, W]`.
/// Kapishnikov et al., "XRAI: Better Attributions Through Regions" (2019),
/// <https://arxiv.org/abs/1906.02825>.
///
/// The defaults are those of PAIR's `saliency`: integrated gradients (mean of 100 even steps)
/// averaged over the baselines of the picture's least and greatest value, and regions of
/// [`Felzenszwalb`]'s segmentation at six scales. Any method may stand in for integrated
/// gradients. `xrai-fast` ranks the regions once.
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use saliency_core::{Baseline, IntegratedGradients, Method, Recipe, Regions, Target, Xrai};
///
/// // Regions: the left and the right half. The score is the upper right pixel.
/// let model = |x: Tensor<4>| x.narrow(2, 0, 1).narrow(3, 3, 1).reshape([-1, 1]);
/// let x = Tensor::<4>::ones([1, 1, 2, 4], &Device::flex());
/// let halves = Regions::Labels(vec![vec![0, 0, 1, 1, 0, 0, 1, 1]]);
/// let of = Recipe::IntegratedGradients(IntegratedGradients::new());
/// let xrai = Xrai::new().of(of).regions(halves).min_pixels(1);
/// let map = xrai.explain(&model, x, Target::Regression)?;
/// for (value, wanted) in map.to_vec()?[..4].iter().zip([0.0, 0.0, 0.25, 0.25]) {
///     assert!((value - wanted).abs() < 1e-6);
/// }
/// # Ok::<(), saliency_core::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Xrai {
    /// The attribution.
    pub of: Box<Recipe>,
    /// Where the regions come from.
    pub regions: Regions,
    /// How they are ranked.
    pub ranking: Ranking,
    /// Share of the picture's area to rank; the rest gets its own mean. Not used by
    /// [`Ranking::Fast`].
    pub area: f64,
    /// Regions that add fewer pixels than this are left out.
    pub min_pixels: usize,
}

/// Where regions come from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Regions {
    /// Segments of the picture itself.
    Felzenszwalb(Felzenszwalb),
    /// Given ones: maps that have a number, from 0 up, for each pixel, row by row.
    Labels(Vec<Vec<usize>>),
}

/// How regions are ranked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ranking {
    /// Again after each region, by the pixels that are not yet taken.
    #[default]
    Full,
    /// Once, by all pixels of each region.
    Fast,
}

impl Default for Xrai {
    fn default() -> Self {
        let integrated = IntegratedGradients::new()
            .baselines([Baseline::Minimum, Baseline::Maximum])
            .rule(Quadrature::EvenPair)
            .steps(100);
        Xrai {
            of: Box::new(Recipe::IntegratedGradients(integrated)),
            regions: Regions::Felzenszwalb(Felzenszwalb::default()),
            ranking: Ranking::Full,
            area: 1.0,
            min_pixels: 50,
        }
    }
}

impl Xrai {
    /// PAIR's defaults.
    pub fn new() -> Self {
        Self::default()
    }

    /// The attribution.
    pub fn of(mut self, of: Recipe) -> Self {
        self.of = Box::new(of);
        self
    }

    /// Where the regions come from.
    pub fn regions(mut self, regions: Regions) -> Self {
        self.regions = regions;
        self
    }

    /// How they are ranked.
    pub fn ranking(mut self, ranking: Ranking) -> Self {
        self.ranking = ranking;
        self
    }

    /// Share of the picture's area to rank.
    pub fn area(mut self, area: f64) -> Self {
        self.area = area;
        self
    }

    /// Regions that add fewer pixels than this are left out.
    pub fn min_pixels(mut self, min_pixels: usize) -> Self {
        self.min_pixels = min_pixels;
        self
    }

    fn check(&self) -> Result<(), Error> {
        if !(0.0..=1.0).contains(&self.area) {
            return Err(Error::option(
                "area",
                self.area,
                "it must be between 0 and 1",
            ));
        }
        let wrong = |value: &dyn ToString, requirement| {
            Err(Error::option("regions", value.to_string(), requirement))
        };
        match &self.regions {
            Regions::Labels(maps) if maps.is_empty() => wrong(&"[]", "at least one map is needed"),
            Regions::Labels(_) => Ok(()),
            Regions::Felzenszwalb(f) => {
                let bad = f.scales.iter().find(|s| !(s.is_finite() && **s > 0.0));
                match bad {
                    Some(scale) => wrong(scale, "scales must be finite numbers above 0"),
                    None if f.scales.is_empty() => wrong(&"[]", "at least one scale is needed"),
                    None if f.side == Some(0) => wrong(&0, "the side must be at least 1"),
                    None if !(0.0..1e4).contains(&f.sigma) => {
                        wrong(&f.sigma, "sigma must be at least 0 and below 10,000")
                    }
                    None => Ok(()),
                }
            }
        }
    }

    /// The pixels of each region.
    fn regions_of(&self, picture: &Picture) -> Result<Vec<Vec<usize>>, Error> {
        let size = (picture.height, picture.width);
        match &self.regions {
            Regions::Felzenszwalb(method) => {
                let labels = method.labels(picture);
                let of = |labels: &Vec<usize>| dilated(labels, size, method.dilation);
                Ok(labels.iter().flat_map(of).collect())
            }
            Regions::Labels(maps) => {
                let pixels = size.0 * size.1;
                let fits = |map: &&Vec<usize>| {
                    map.len() != pixels || map.iter().any(|&label| label >= pixels)
                };
                if let Some(map) = maps.iter().find(fits) {
                    let requirement = "each map must have one number for each pixel of the input, below the number of pixels";
                    let value = format!("a map of {} numbers", map.len());
                    return Err(Error::option("regions", value, requirement));
                }
                Ok(maps.iter().flat_map(|map| dilated(map, size, 0)).collect())
            }
        }
    }

    /// Takes regions one by one; each of its new pixels gets their mean.
    fn rank(&self, attribution: &[f64], regions: &[Vec<usize>]) -> Vec<f64> {
        let mut found = Found {
            values: vec![None; attribution.len()],
            taken: 0,
        };
        match self.ranking {
            Ranking::Full => {
                let mut of_pixel = vec![Vec::new(); attribution.len()];
                for (index, region) in regions.iter().enumerate() {
                    for &pixel in region {
                        of_pixel[pixel].push(index);
                    }
                }
                // What is not yet taken of each region: number of pixels, sum.
                let sum = |region: &Vec<usize>| region.iter().map(|&p| attribution[p]).sum();
                let mut left: Vec<(usize, f64)> = regions
                    .iter()
                    .map(|region| (region.len(), sum(region)))
                    .collect();
                while found.taken as f64 <= self.area * attribution.len() as f64 {
                    let mut best: Option<(usize, f64)> = None;
                    for (index, &(count, sum)) in left.iter().enumerate() {
                        let gain = sum / count as f64;
                        let enough = count >= self.min_pixels.max(1);
                        if enough && best.is_none_or(|(_, most)| gain > most) {
                            best = Some((index, gain));
                        }
                    }
                    let Some((index, _)) = best else { break };
                    for pixel in found.take(&regions[index], attribution) {
                        for &other in &of_pixel[pixel] {
                            left[other].0 -= 1;
                            left[other].1 -= attribution[pixel];
                        }
                    }
                    left[index].0 = 0;
                }
            }
            Ranking::Fast => {
                // An empty region has no mean, and adds nothing.
                let regions = regions.iter().filter(|region| !region.is_empty());
                let mut sorted: Vec<(f64, &Vec<usize>)> = regions
                    .map(|region| (mean(region.iter().map(|&p| attribution[p])), region))
                    .collect();
                sorted.sort_by(|(a, _), (b, _)| b.total_cmp(a));
                for (_, region) in sorted {
                    let new = region
                        .iter()
                        .filter(|&&pixel| found.values[pixel].is_none());
                    if new.count() >= self.min_pixels.max(1) {
                        found.take(region, attribution);
                    }
                }
            }
        }
        found.take(&(0..attribution.len()).collect::<Vec<_>>(), attribution);
        found.values.into_iter().flatten().collect()
    }
}

/// The values of the pixels that are taken.
struct Found {
    values: Vec<Option<f64>>,
    taken: usize,
}

impl Found {
    /// Takes what is new of a region, and returns it.
    fn take(&mut self, region: &[usize], attribution: &[f64]) -> Vec<usize> {
        let is_new = |pixel: &usize| self.values[*pixel].is_none();
        let new: Vec<usize> = region.iter().copied().filter(is_new).collect();
        let mean = mean(new.iter().map(|&pixel| attribution[pixel]));
        for &pixel in &new {
            self.values[pixel] = Some(mean);
        }
        self.taken += new.len();
        new
    }
}

fn mean(values: impl Iterator<Item = f64>) -> f64 {
    let (count, sum) = values.fold((0usize, 0.0), |(n, sum), v| (n + 1, sum + v));
    sum / count as f64
}

impl Registered for Xrai {
    fn is_non_negative(&self) -> bool {
        self.of.is_non_negative()
    }
}

impl<const D: usize> Method<D> for Xrai {
    fn recipe(&self) -> Recipe {
        Recipe::Xrai(self.clone())
    }

    fn validate(&self) -> Result<(), Error> {
        self.check()?;
        Method::<D>::validate(&*self.of)
    }

    fn attribute(
        &self,
        model: &dyn Model<D>,
        input: &Tensor<D>,
        goal: &Goal,
        run: &Run,
    ) -> Result<Outcome<D>, Error> {
        self.check()?;
        let shape = input.dims();
        if D != 4 {
            return Err(Error::Shape {
                what: "the input of XRAI",
                expected: "[N, C, H, W]: images".into(),
                got: shape.to_vec(),
            });
        }
        let pictures = Picture::all(
            &input
                .clone()
                .reshape([shape[0], shape[1], shape[2], shape[3]]),
        )?;
        let regions: Vec<_> = pictures
            .iter()
            .map(|picture| self.regions_of(picture))
            .collect::<Result<_, _>>()?;
        let base = self.of.attribute(model, input, goal, run)?;
        let reduced = base.values.max_dim(1);
        let shape = reduced.dims();
        let values = reduced
            .clone()
            .try_into_vec_as::<f64>()
            .map_err(Error::device)?;
        let ranked: Vec<f64> = values
            .chunks(shape[2] * shape[3])
            .zip(&regions)
            .flat_map(|(values, regions)| self.rank(values, regions))
            .collect();
        let data = TensorData::new(ranked, shape).convert_dtype(reduced.dtype());
        Ok(Outcome {
            values: Tensor::from_data(data, (&reduced.device(), reduced.dtype())),
            evidence: Evidence {
                samples: base.evidence.samples,
                converged: base.evidence.converged,
                ..Evidence::default()
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Gradient, Target,
        methods::testing::{Net, assert_close, assert_splits_agree, image},
    };
    use burn::tensor::Device;

    fn xrai() -> Xrai {
        Xrai::new().of(Recipe::Gradient(Gradient)).min_pixels(2)
    }

    /// The full ranking as its definition has it, with all means taken anew each time.
    fn slow(attribution: &[f64], regions: &[Vec<usize>], min_pixels: usize) -> Vec<f64> {
        let mut values = vec![f64::NAN; attribution.len()];
        let mut open: Vec<usize> = (0..regions.len()).collect();
        loop {
            let new = |index: usize| -> Vec<usize> {
                let region = regions[index].iter().copied();
                region.filter(|&p| values[p].is_nan()).collect()
            };
            let gain = |i: usize| mean(new(i).iter().map(|&p| attribution[p]));
            open.retain(|&i| new(i).len() >= min_pixels);
            let best = open
                .iter()
                .copied()
                .rev()
                .max_by(|&a, &b| gain(a).total_cmp(&gain(b)));
            let Some(best) = best else { break };
            let (pixels, gain) = (new(best), gain(best));
            pixels.iter().for_each(|&p| values[p] = gain);
        }
        let left: Vec<usize> = (0..values.len()).filter(|&p| values[p].is_nan()).collect();
        let rest = mean(left.iter().map(|&p| attribution[p]));
        left.iter().for_each(|&p| values[p] = rest);
        values
    }

    #[test]
    fn the_full_ranking_is_its_definition() {
        let noise = crate::noise::standard_normal(5, 0, 120);
        let attribution: Vec<f64> = noise.iter().map(|&v| v.into()).collect();
        let picture = Picture {
            channels: 1,
            height: 10,
            width: 12,
            values: attribution.clone(),
        };
        let method = Xrai::new()
            .min_pixels(3)
            .regions(Regions::Felzenszwalb(Felzenszwalb {
                scales: vec![20.0, 60.0, 200.0],
                min_size: 4,
                side: None,
                dilation: 1,
                ..Felzenszwalb::default()
            }));
        let regions = method.regions_of(&picture).unwrap();
        assert!(regions.len() > 8, "{}", regions.len());
        let got = method.rank(&attribution, &regions);
        for (got, want) in got.iter().zip(slow(&attribution, &regions, 3)) {
            assert!((got - want).abs() < 1e-12, "{got} {want}");
        }
        // Every pixel has the mean of those it came with: the sum stays.
        let sum = |v: &[f64]| v.iter().sum::<f64>();
        assert!((sum(&got) - sum(&attribution)).abs() < 1e-9);
        let fast = method.ranking(Ranking::Fast).rank(&attribution, &regions);
        assert!((sum(&fast) - sum(&attribution)).abs() < 1e-9);
    }

    #[test]
    fn what_is_not_ranked_gets_its_own_mean() {
        let method = xrai().area(0.25);
        let regions = vec![vec![0, 1], vec![2, 3], vec![4, 5], vec![6, 7]];
        let attribution = [0.0, 1.0, 9.0, 7.0, 5.0, 5.0, 2.0, 4.0];
        // A quarter is passed by the second region; what is left are 0, 1, 2, 4.
        let got = method.rank(&attribution, &regions);
        assert_eq!(got, [1.75, 1.75, 8.0, 8.0, 5.0, 5.0, 1.75, 1.75]);
    }

    #[test]
    fn does_not_depend_on_the_batch_split_or_the_neighbours() {
        assert_splits_agree(&xrai(), 1e-5);
        let net = Net::relu(&Device::flex());
        let all = xrai().explain(&net, image(3, 1), 1).unwrap().values;
        assert_eq!(all.dims(), [3, 1, 9, 8]);
        let last = xrai()
            .explain(&net, image(3, 1).narrow(0, 2, 1), 1)
            .unwrap()
            .values;
        assert_close(all.narrow(0, 2, 1), last, 1e-6);
    }

    #[test]
    fn wrong_options_and_shapes_are_refused() {
        let net = Net::relu(&Device::flex());
        let text = |method: Xrai| {
            let error = method.explain(&net, image(1, 1), 0).unwrap_err();
            error.to_string()
        };
        assert!(text(xrai().area(2.0)).starts_with("area = 2"));
        assert!(text(xrai().regions(Regions::Labels(vec![]))).starts_with("regions = []"));
        let short = Regions::Labels(vec![vec![0; 5]]);
        assert!(text(xrai().regions(short)).starts_with("regions = a map of 5 numbers"));
        let flat = Felzenszwalb {
            scales: vec![-1.0],
            ..Felzenszwalb::default()
        };
        assert!(text(xrai().regions(Regions::Felzenszwalb(flat))).starts_with("regions = -1"));
        let table = Tensor::<2>::ones([1, 3], &Device::flex());
        let error = xrai()
            .explain(&|x: Tensor<2>| x, table, Target::Class(0))
            .unwrap_err();
        assert!(matches!(error, Error::Shape { .. }));
    }
}
