use burn::tensor::Tensor;

use crate::{
    attribution::Attribution,
    error::Error,
    map::{Map, pearson},
    method::Method,
    methods::{Gradient, SmoothGrad},
    model::Model,
    noise::{NoiseScale, noisy},
    reduce::Reduction,
    run::Run,
    target::Target,
};

use super::sensitivity::same_target;

/// The noise demonstration: plain gradients are noisy, and averaging them over noise
/// (SmoothGrad) removes that.
#[derive(Clone, Debug)]
pub struct NoiseStudy {
    /// The plain gradient at the clean input.
    pub attribution: Attribution<4>,
    /// The plain gradient's map at the clean input.
    pub clean: Map,
    /// Roughness of [`clean`](NoiseStudy::clean).
    pub roughness: f64,
    /// One entry per noise level.
    pub levels: Vec<NoiseLevel>,
}

/// One noise level of a [`NoiseStudy`].
#[derive(Clone, Debug)]
pub struct NoiseLevel {
    /// sigma = level * (max x - min x).
    pub level: f64,
    /// The plain gradient's map at one noisy input.
    pub noisy: Map,
    /// Its correlation with the clean map.
    pub noisy_correlation: f64,
    /// SmoothGrad's map at this level.
    pub smooth: Map,
    /// Correlation of [`smooth`](NoiseLevel::smooth) with the map of another seed: how far
    /// the average has settled.
    pub smooth_repeatability: f64,
    /// Roughness of [`smooth`](NoiseLevel::smooth).
    pub smooth_roughness: f64,
}

/// Runs the noise demonstration on one image `[1, C, H, W]`, at each of `levels`, with
/// `smooth.samples` samples; maps are reduced by `reduction`. Roughness is the mean absolute
/// difference of neighbouring pixels of the normalised map.
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use saliency_core::{Reduction, Run, SmoothGrad, Target, analysis::noise_study};
/// let model = |x: Tensor<4>| x.powi_scalar(3).flatten::<2>(1, 3).sum_dim(1);
/// let x = Tensor::<4>::from_floats([[[[0.0, 0.5], [0.5, 1.0]]]], &Device::flex());
/// let smooth = SmoothGrad::new().samples(10);
/// let study = noise_study(&smooth, &model, x, &Target::Regression, &[0.05, 0.2], Reduction::Max, &Run::new())?;
/// assert_eq!(study.levels.len(), 2);
/// assert!(study.levels[0].noisy_correlation > study.levels[1].noisy_correlation);
/// # Ok::<(), saliency_core::Error>(())
/// ```
///
/// # Errors
/// [`Error::Shape`] for more than one image, and whatever the methods return.
pub fn noise_study(
    smooth: &SmoothGrad,
    model: &dyn Model<4>,
    input: Tensor<4>,
    target: &Target,
    levels: &[f64],
    reduction: Reduction,
    run: &Run,
) -> Result<NoiseStudy, Error> {
    if input.dims()[0] != 1 {
        return Err(Error::Shape {
            what: "the noise demonstration's input",
            expected: "[1, C, H, W], one image".into(),
            got: input.dims().to_vec(),
        });
    }
    let clean = Gradient.explain_with(model, input.clone(), target, run)?;
    let target = same_target(&clean.targets, target);
    let attribution = clean;
    let clean = attribution.maps(reduction)?.remove(0);
    let levels = levels
        .iter()
        .map(|&level| {
            let scale = NoiseScale::Relative(level);
            scale.validate()?;
            let moved = noisy(&input.clone().inner(), scale, smooth.seed, 0..1);
            let noisy = Gradient.explain_with(model, moved, &target, run)?;
            let noisy = noisy.maps(reduction)?.remove(0);
            let smooth_map = |seed: u64| {
                let method = smooth.noise(level).seed(seed);
                let attribution = method.explain_with(model, input.clone(), &target, run)?;
                Ok::<Map, Error>(attribution.maps(reduction)?.remove(0))
            };
            let other = smooth_map(smooth.seed.wrapping_add(1))?;
            let smooth = smooth_map(smooth.seed)?;
            Ok(NoiseLevel {
                level,
                noisy_correlation: pearson(noisy.values(), clean.values()),
                noisy,
                smooth_repeatability: pearson(smooth.values(), other.values()),
                smooth_roughness: roughness(&smooth),
                smooth,
            })
        })
        .collect::<Result<_, Error>>()?;
    Ok(NoiseStudy {
        attribution,
        roughness: roughness(&clean),
        clean,
        levels,
    })
}

/// Mean |difference| of horizontal and vertical neighbours of the normalised map.
fn roughness(map: &Map) -> f64 {
    let (map, width) = (map.normalised(), map.width());
    let values = map.values();
    let rows = values.chunks(width);
    let horizontal = rows.flat_map(|row| row.windows(2).map(|w| (w[1] - w[0]).abs()));
    let vertical = values
        .iter()
        .zip(values.iter().skip(width))
        .map(|(a, b)| (b - a).abs());
    let all: Vec<f64> = horizontal.chain(vertical).map(f64::from).collect();
    all.iter().sum::<f64>() / all.len().max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::methods::testing::{Net, image};
    use burn::tensor::Device;

    #[test]
    fn averaging_settles_where_single_gradients_do_not() {
        let net = Net::relu(&Device::flex());
        let smooth = SmoothGrad::new().samples(60);
        let study = noise_study(
            &smooth,
            &net,
            image(1, 4),
            &Target::Predicted,
            &[0.3],
            Reduction::Max,
            &Run::new(),
        )
        .unwrap();
        let level = &study.levels[0];
        assert!(level.smooth_repeatability > level.noisy_correlation);
        assert!(
            level.smooth_repeatability > 0.9,
            "{}",
            level.smooth_repeatability
        );
    }

    #[test]
    fn roughness_of_known_maps() {
        let map = |values: &[f32]| Map::new(2, 2, values.to_vec()).unwrap();
        assert_eq!(roughness(&map(&[1.0; 4])), 0.0);
        // Checkerboard: every neighbour differs by the whole range.
        assert_eq!(roughness(&map(&[0.0, 3.0, 3.0, 0.0])), 1.0);
        assert_eq!(roughness(&Map::new(1, 1, vec![2.0]).unwrap()), 0.0);
    }

    #[test]
    fn takes_one_image_only() {
        let net = Net::relu(&Device::flex());
        let smooth = SmoothGrad::new();
        let study = noise_study(
            &smooth,
            &net,
            image(2, 1),
            &Target::Predicted,
            &[],
            Reduction::Max,
            &Run::new(),
        );
        assert!(matches!(study.unwrap_err(), Error::Shape { .. }));
    }
}
