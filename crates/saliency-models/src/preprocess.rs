//! From a picture to the tensor a network was trained on.
//!
//! A [`Preprocess`] is a plain value: what size the picture is brought to and how its numbers are
//! scaled. The result is that of `torchvision.transforms` on a Pillow image, to the bit: `Resize`
//! (bilinear, antialiased), `CenterCrop`, `ToTensor`, `Normalize`.

mod resize;

use burn::tensor::{Device, Tensor, TensorData};
use image::RgbImage;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use resize::Window;

/// What a network expects of its input.
///
/// Each sample p in 0..=255 of channel c becomes (p / `divisor` - `mean[c]`) / `std[c]`.
///
/// ```
/// use burn::tensor::Device;
/// use saliency_models::photo::RgbImage;
/// use saliency_models::preprocess::Preprocess;
///
/// let white = RgbImage::from_pixel(640, 480, image::Rgb([255; 3]));
/// let input = Preprocess::imagenet().apply(&white, &Device::flex())?;
/// assert_eq!(input.dims(), [1, 3, 224, 224]);
/// let first = input.to_data().try_to_vec::<f32>().unwrap()[0];
/// assert_eq!(first, (1.0 - 0.485) / 0.229);
/// # Ok::<(), saliency_models::preprocess::PreprocessError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Preprocess {
    /// How the picture is brought to the network's size.
    pub resize: Resize,
    /// Order of the tensor's three channels; `mean` and `std` follow it.
    pub channels: Channels,
    /// 255 for samples in 0..=1, 1 to keep them in 0..=255.
    pub divisor: f32,
    /// Subtracted from each channel after the division.
    pub mean: [f32; 3],
    /// Each channel is divided by it last.
    pub std: [f32; 3],
}

/// How a picture is brought to the network's size.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Resize {
    /// To exactly this size, whatever the picture's proportions: `Resize((height, width))`.
    Stretch {
        /// Width in pixels.
        width: u32,
        /// Height in pixels.
        height: u32,
    },
    /// The same by the nearest pixel at or before, without smoothing: OpenCV's
    /// `INTER_NEAREST`, PyTorch's `nearest`. Fine textures survive, and so do jagged edges.
    Nearest {
        /// Width in pixels.
        width: u32,
        /// Height in pixels.
        height: u32,
    },
    /// The shorter side to `side`, keeping proportions, then the `crop` x `crop` square in the
    /// middle: `Resize(side)`, `CenterCrop(crop)`.
    ShortestSideThenCrop {
        /// Length of the shorter side in pixels.
        side: u32,
        /// Side of the square that is kept, at most `side`.
        crop: u32,
    },
}

/// Order of colour channels.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Channels {
    /// Red first.
    #[default]
    Rgb,
    /// Blue first, as networks from Caffe and OpenCV have it.
    Bgr,
}

/// Why a picture could not be prepared.
#[derive(Clone, Debug, PartialEq, Error)]
pub enum PreprocessError {
    /// The target size is zero or beyond reason, or the crop does not fit.
    #[error(
        "preprocessing cannot make this size: {0:?}; \
         sides are 1 to {MAX_SIDE} pixels and a crop is at most the side"
    )]
    Size(Resize),
    /// A divisor, mean or standard deviation that gives no finite numbers.
    #[error("preprocessing cannot scale: {name} is {value}, give a finite number other than zero")]
    Scale {
        /// The field of [`Preprocess`].
        name: &'static str,
        /// Its value.
        value: f32,
    },
    /// A picture of no pixels.
    #[error("picture {index} has no pixels ({width}x{height})")]
    NoPixels {
        /// Position in the batch, from 0.
        index: usize,
        /// Width in pixels.
        width: u32,
        /// Height in pixels.
        height: u32,
    },
    /// A batch of no pictures.
    #[error("there is no picture to prepare: the batch is empty")]
    EmptyBatch,
}

/// Largest side of a tensor.
const MAX_SIDE: u32 = 16_384;
const IMAGENET_MEAN: [f32; 3] = [0.485, 0.456, 0.406];
const IMAGENET_STD: [f32; 3] = [0.229, 0.224, 0.225];

impl Preprocess {
    /// ImageNet networks from torchvision, seeing the whole picture: stretched to 224x224.
    pub fn imagenet() -> Self {
        Self::with_imagenet_statistics(Resize::Stretch {
            width: 224,
            height: 224,
        })
    }

    /// ImageNet networks from torchvision, as they are scored: the shorter side to 256, then the
    /// 224x224 in the middle. What lies outside cannot be explained.
    pub fn imagenet_center_crop() -> Self {
        Self::with_imagenet_statistics(Resize::ShortestSideThenCrop {
            side: 256,
            crop: 224,
        })
    }

    /// The CIFAR-10 ResNets of akamaster/pytorch_resnet_cifar10: 32x32, ImageNet's mean and
    /// standard deviation.
    pub fn cifar10() -> Self {
        Self::with_imagenet_statistics(Resize::Stretch {
            width: 32,
            height: 32,
        })
    }

    /// SqueezeNet as its Caffe original wants it: 227x227, BGR in 0..=255 less (104, 117, 123).
    pub fn squeezenet_caffe() -> Self {
        Self {
            resize: Resize::Stretch {
                width: 227,
                height: 227,
            },
            channels: Channels::Bgr,
            divisor: 1.0,
            mean: [104.0, 117.0, 123.0],
            std: [1.0; 3],
        }
    }

    fn with_imagenet_statistics(resize: Resize) -> Self {
        Self {
            resize,
            channels: Channels::Rgb,
            divisor: 255.0,
            mean: IMAGENET_MEAN,
            std: IMAGENET_STD,
        }
    }

    /// Width and height of the tensor.
    ///
    /// ```
    /// use saliency_models::preprocess::Preprocess;
    ///
    /// assert_eq!(Preprocess::imagenet_center_crop().size(), (224, 224));
    /// assert_eq!(Preprocess::squeezenet_caffe().size(), (227, 227));
    /// ```
    pub fn size(&self) -> (u32, u32) {
        match self.resize {
            Resize::Stretch { width, height } | Resize::Nearest { width, height } => {
                (width, height)
            }
            Resize::ShortestSideThenCrop { crop, .. } => (crop, crop),
        }
    }

    /// A colour as the network sees it, in the network's channel order: the value of a black or
    /// grey baseline, say.
    ///
    /// ```
    /// use saliency_models::preprocess::Preprocess;
    ///
    /// let black = Preprocess::squeezenet_caffe().color([0, 0, 0]);
    /// assert_eq!(black, [-104.0, -117.0, -123.0]);
    /// let red = Preprocess::squeezenet_caffe().color([255, 0, 0]);
    /// assert_eq!(red, [-104.0, -117.0, 255.0 - 123.0]);
    /// ```
    pub fn color(&self, [r, g, b]: [u8; 3]) -> [f32; 3] {
        let samples = match self.channels {
            Channels::Rgb => [r, g, b],
            Channels::Bgr => [b, g, r],
        };
        std::array::from_fn(|c| (f32::from(samples[c]) / self.divisor - self.mean[c]) / self.std[c])
    }

    /// The picture as the network sees it, before its numbers are scaled: resized and cropped,
    /// still RGB. This is what a map is drawn over.
    ///
    /// # Errors
    /// [`PreprocessError`] for a picture without pixels or a size that cannot be made.
    ///
    /// ```
    /// use saliency_models::photo::RgbImage;
    /// use saliency_models::preprocess::Preprocess;
    ///
    /// let view = Preprocess::cifar10().view(&RgbImage::new(640, 480))?;
    /// assert_eq!(view.dimensions(), (32, 32));
    /// # Ok::<(), saliency_models::preprocess::PreprocessError>(())
    /// ```
    pub fn view(&self, picture: &RgbImage) -> Result<RgbImage, PreprocessError> {
        self.check()?;
        self.view_of(0, picture)
    }

    /// The tensor [1, 3, height, width] of one picture.
    ///
    /// ```
    /// use burn::tensor::Device;
    /// use saliency_models::{photo::RgbImage, preprocess::Preprocess};
    ///
    /// let grey = RgbImage::from_pixel(300, 200, image::Rgb([128; 3]));
    /// let x = Preprocess::imagenet().apply(&grey, &Device::flex())?;
    /// assert_eq!(x.dims(), [1, 3, 224, 224]);
    /// # Ok::<(), saliency_models::preprocess::PreprocessError>(())
    /// ```
    ///
    /// # Errors
    /// [`PreprocessError`] for a picture without pixels or settings that make no sense.
    pub fn apply(&self, picture: &RgbImage, device: &Device) -> Result<Tensor<4>, PreprocessError> {
        self.batch(std::slice::from_ref(picture), device)
    }

    /// The tensor [N, 3, height, width] of N pictures, which may differ in size.
    ///
    /// # Errors
    /// As for [`apply`](Self::apply), and for no pictures at all.
    ///
    /// ```
    /// use burn::tensor::Device;
    /// use saliency_models::photo::RgbImage;
    /// use saliency_models::preprocess::Preprocess;
    ///
    /// let pictures = [RgbImage::new(640, 480), RgbImage::new(20, 30)];
    /// let batch = Preprocess::cifar10().batch(&pictures, &Device::flex())?;
    /// assert_eq!(batch.dims(), [2, 3, 32, 32]);
    /// # Ok::<(), saliency_models::preprocess::PreprocessError>(())
    /// ```
    pub fn batch(
        &self,
        pictures: &[RgbImage],
        device: &Device,
    ) -> Result<Tensor<4>, PreprocessError> {
        self.check()?;
        if pictures.is_empty() {
            return Err(PreprocessError::EmptyBatch);
        }
        let (width, height) = (self.size().0 as usize, self.size().1 as usize);
        let plane = width * height;
        let mut values = vec![0.0; pictures.len() * 3 * plane];
        for (index, picture) in pictures.iter().enumerate() {
            let view = self.view_of(index, picture)?;
            let planes = &mut values[index * 3 * plane..];
            for (at, pixel) in view.pixels().enumerate() {
                for (c, value) in self.color(pixel.0).into_iter().enumerate() {
                    planes[c * plane + at] = value;
                }
            }
        }
        let data = TensorData::new(values, [pictures.len(), 3, height, width]);
        Ok(Tensor::from_data(data, device))
    }

    fn check(&self) -> Result<(), PreprocessError> {
        let possible = match self.resize {
            Resize::Stretch { width, height } | Resize::Nearest { width, height } => {
                (1..=MAX_SIDE).contains(&width) && (1..=MAX_SIDE).contains(&height)
            }
            Resize::ShortestSideThenCrop { side, crop } => {
                (1..=MAX_SIDE).contains(&side) && (1..=side).contains(&crop)
            }
        };
        if !possible {
            return Err(PreprocessError::Size(self.resize));
        }
        let divisors = std::iter::once(("divisor", self.divisor))
            .chain(self.std.map(|std| ("std", std)))
            .filter(|&(_, value)| !value.is_finite() || value == 0.0);
        let means = self.mean.map(|mean| ("mean", mean));
        let means = means.into_iter().filter(|(_, value)| !value.is_finite());
        match divisors.chain(means).next() {
            Some((name, value)) => Err(PreprocessError::Scale { name, value }),
            None => Ok(()),
        }
    }

    fn view_of(&self, index: usize, picture: &RgbImage) -> Result<RgbImage, PreprocessError> {
        let (width, height) = picture.dimensions();
        if width == 0 || height == 0 {
            return Err(PreprocessError::NoPixels {
                index,
                width,
                height,
            });
        }
        let window = match self.resize {
            Resize::Nearest { width, height } => return Ok(nearest(picture, width, height)),
            Resize::Stretch { width, height } => Window {
                full: [width.into(), height.into()],
                origin: [0, 0],
                size: [width, height],
            },
            Resize::ShortestSideThenCrop { side, crop } => {
                let full = shortest_side(width, height, side);
                Window {
                    full,
                    origin: full.map(|length| centre_start(length, crop.into())),
                    size: [crop, crop],
                }
            }
        };
        Ok(resize::resize(picture, &window))
    }
}

/// Pixel (x, y) is the source's at (floor(x W / w), floor(y H / h)).
fn nearest(picture: &RgbImage, width: u32, height: u32) -> RgbImage {
    let source =
        |at: u32, from: u32, to: u32| (u64::from(at) * u64::from(from) / u64::from(to)) as u32;
    RgbImage::from_fn(width, height, |x, y| {
        let x = source(x, picture.width(), width);
        let y = source(y, picture.height(), height);
        *picture.get_pixel(x, y)
    })
}

/// Width and height with the shorter side brought to `side`; the longer one is rounded down.
fn shortest_side(width: u32, height: u32, side: u32) -> [u64; 2] {
    let [width, height, side] = [width, height, side].map(u64::from);
    if width <= height {
        [side, side * height / width]
    } else {
        [side * width / height, side]
    }
}

/// Where a crop in the middle starts: half the excess, a half rounded to even as Python does.
fn centre_start(length: u64, crop: u64) -> u64 {
    let excess = length - crop;
    let half = excess / 2;
    half + (excess & half & 1)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::photo::{Limits, open};

    const DATA: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests-data/preprocess");

    fn stretch(width: u32, height: u32) -> Preprocess {
        Preprocess {
            resize: Resize::Stretch { width, height },
            ..Preprocess::imagenet()
        }
    }

    fn crop(side: u32, crop: u32) -> Preprocess {
        Preprocess {
            resize: Resize::ShortestSideThenCrop { side, crop },
            ..Preprocess::imagenet()
        }
    }

    fn load(path: impl AsRef<Path>) -> RgbImage {
        image::open(path).unwrap().into_rgb8()
    }

    fn values(tensor: Tensor<4>) -> Vec<f32> {
        tensor.to_data().try_to_vec::<f32>().unwrap()
    }

    /// The preprocessing that a reference's name tells: `stretch_WxH` or `side_S_crop_C`.
    fn named(case: &str) -> Preprocess {
        let numbers: Vec<u32> = case
            .split(['_', 'x'])
            .filter_map(|part| part.parse().ok())
            .collect();
        if case.starts_with("stretch") {
            stretch(numbers[0], numbers[1])
        } else {
            crop(numbers[0], numbers[1])
        }
    }

    #[test]
    fn sizes_are_made_as_torchvision_makes_them() {
        let picture = load(format!("{DATA}/decode/rgb.png"));
        let mut count = 0;
        for file in std::fs::read_dir(format!("{DATA}/resize")).unwrap() {
            let path = file.unwrap().path();
            let case = path.file_stem().unwrap().to_str().unwrap();
            assert!(named(case).view(&picture).unwrap() == load(&path), "{case}");
            count += 1;
        }
        assert_eq!(count, 14);
    }

    /// Real photographs from file to network, against references that
    /// `tests/reference/preprocess.py PHOTOS target/reference/preprocess` writes.
    #[test]
    fn photographs_are_prepared_as_torchvision_prepares_them() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let references = root.join("target/reference/preprocess");
        let (Some(photographs), true) = (crate::material("images"), references.exists()) else {
            println!("skipped: no photographs or no references in {references:?}");
            return;
        };
        let mut count = 0;
        for file in std::fs::read_dir(photographs).unwrap() {
            let path = file.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap();
            let reference = |kind: &str| references.join(format!("{name}.{kind}.png"));
            if !reference("stretch").exists() {
                continue;
            }
            let photo = open(&path, Limits::default()).unwrap().rgb;
            let stretched = Preprocess::imagenet().view(&photo).unwrap();
            assert!(stretched == load(reference("stretch")), "{name} stretched");
            let enlarged = stretch(448, 300).view(&stretched).unwrap();
            assert!(enlarged == load(reference("up")), "{name} enlarged");
            let cropped = Preprocess::imagenet_center_crop().view(&photo).unwrap();
            assert!(cropped == load(reference("crop")), "{name} cropped");
            let caffe = Preprocess::squeezenet_caffe().view(&photo).unwrap();
            assert!(caffe == load(reference("caffe")), "{name} at 227x227");
            count += 1;
        }
        assert!(count > 0, "{references:?} holds no reference");
    }

    #[test]
    fn numbers_are_scaled_and_laid_out_by_channel() {
        let device = Device::flex();
        let picture = RgbImage::from_fn(224, 224, |x, y| image::Rgb([x as u8, y as u8, 77]));
        let got = values(Preprocess::imagenet().apply(&picture, &device).unwrap());
        assert_eq!(got.len(), 3 * 224 * 224);
        let (x, y) = (200, 31);
        let samples = [200.0, 31.0, 77.0];
        let mean = [0.485, 0.456, 0.406];
        let std = [0.229, 0.224, 0.225];
        for c in 0..3 {
            let expected: f64 = (samples[c] / 255.0 - mean[c]) / std[c];
            let got = f64::from(got[(c * 224 + y) * 224 + x]);
            assert!(
                (got - expected).abs() < 1e-6,
                "channel {c}: {got} {expected}"
            );
        }

        let picture = RgbImage::from_fn(227, 227, |x, y| image::Rgb([x as u8, y as u8, 77]));
        let got = values(
            Preprocess::squeezenet_caffe()
                .apply(&picture, &device)
                .unwrap(),
        );
        let at = |c: usize| got[(c * 227 + y) * 227 + x];
        assert_eq!(
            [at(0), at(1), at(2)],
            [77.0 - 104.0, 31.0 - 117.0, 200.0 - 123.0]
        );
    }

    #[test]
    fn a_batch_is_its_pictures() {
        let device = Device::flex();
        let cifar = Preprocess::cifar10();
        let pictures = [
            RgbImage::from_fn(40, 50, |x, y| image::Rgb([x as u8, y as u8, 9])),
            RgbImage::from_fn(32, 32, |x, y| image::Rgb([y as u8, x as u8, 200])),
        ];
        let batch = cifar.batch(&pictures, &device).unwrap();
        assert_eq!(batch.dims(), [2, 3, 32, 32]);
        let alone = pictures
            .iter()
            .map(|p| values(cifar.apply(p, &device).unwrap()));
        assert_eq!(values(batch), alone.collect::<Vec<_>>().concat());
    }

    #[test]
    fn halves_round_to_even_as_in_python() {
        // int(round((length - 224) / 2.0)) in Python.
        for (length, start) in [(224, 0), (225, 0), (227, 2), (229, 2), (231, 4), (256, 16)] {
            assert_eq!(centre_start(length, 224), start, "{length}");
        }
    }

    #[test]
    fn extreme_proportions_cost_no_more_than_the_crop() {
        let thin = RgbImage::from_fn(1, 60_000, |_, y| image::Rgb([(y / 300) as u8; 3]));
        let view = Preprocess::imagenet_center_crop().view(&thin).unwrap();
        // The middle of 60,000 rows of 300-row steps.
        assert_eq!(view.get_pixel(112, 112).0, [100; 3]);
        let dot = RgbImage::from_pixel(1, 1, image::Rgb([1, 2, 3]));
        let view = Preprocess::imagenet().view(&dot).unwrap();
        assert!(view.pixels().all(|p| p.0 == [1, 2, 3]));
    }

    #[test]
    fn settings_that_make_no_sense_are_refused() {
        let picture = RgbImage::new(10, 10);
        for bad in [stretch(0, 5), stretch(5, 1 << 20), crop(20, 21), crop(0, 0)] {
            let error = bad.view(&picture).unwrap_err();
            assert_eq!(error, PreprocessError::Size(bad.resize));
            assert!(!error.to_string().contains('\n'));
        }
        for (bad, name) in [
            (
                Preprocess {
                    divisor: 0.0,
                    ..stretch(5, 5)
                },
                "divisor",
            ),
            (
                Preprocess {
                    std: [1.0, 0.0, 1.0],
                    ..stretch(5, 5)
                },
                "std",
            ),
            (
                Preprocess {
                    mean: [0.0, f32::NAN, 0.0],
                    ..stretch(5, 5)
                },
                "mean",
            ),
        ] {
            let error = bad.view(&picture).unwrap_err().to_string();
            assert!(error.contains(name), "{error}");
        }
        let device = Device::flex();
        let error = stretch(5, 5)
            .batch(&[picture, RgbImage::new(0, 3)], &device)
            .unwrap_err();
        assert_eq!(
            error,
            PreprocessError::NoPixels {
                index: 1,
                width: 0,
                height: 3
            }
        );
        let error = stretch(5, 5).batch(&[], &device).unwrap_err();
        assert_eq!(error, PreprocessError::EmptyBatch);
    }

    #[test]
    fn settings_survive_json_and_misspelled_ones_do_not() {
        for settings in [
            Preprocess::imagenet(),
            Preprocess::imagenet_center_crop(),
            Preprocess::squeezenet_caffe(),
        ] {
            let json = serde_json::to_string(&settings).unwrap();
            assert_eq!(serde_json::from_str::<Preprocess>(&json).unwrap(), settings);
            let misspelled = json.replace("divisor", "divisr");
            assert!(serde_json::from_str::<Preprocess>(&misspelled).is_err());
        }
    }
}
