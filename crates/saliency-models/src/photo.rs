//! Photographs: a file or bytes of any common format to upright 8-bit RGB.
//!
//! The pixels are those of Pillow's `ImageOps.exif_transpose(Image.open(path)).convert("RGB")`,
//! which is what torchvision's users feed their networks: grey is repeated over the three
//! channels, a palette is looked up, alpha is dropped (ask for a background with
//! [`Photo::into_rgb`]), and 16-bit samples keep their high byte. JPEGs are decoded by a port of
//! libjpeg-turbo, Pillow's decoder, since others round chroma differently (up to 4 steps of 255).
//! Two things differ:
//!
//! - the camera's orientation (EXIF) is honoured, where a bare `Image.open` leaves the picture on
//!   its side;
//! - 16-bit grey keeps its high byte too, where Pillow clips at 255 and turns it white.

use std::fs::{self, File};
use std::io::{self, Cursor, Read};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use image::metadata::Orientation;
use image::{DynamicImage, GrayImage, ImageDecoder, ImageError, ImageReader};
pub use image::{ImageFormat, RgbImage};
use libjpeg_turbo_rs::{DecodeLimits, PixelFormat};
use thiserror::Error;

/// A decoded picture: upright, 8 bits per channel.
///
/// ```
/// use saliency_models::photo::{Alpha, Limits, decode};
///
/// // A PPM of one red and one blue pixel.
/// let photo = decode(b"P6 2 1 255\n\xff\x00\x00\x00\x00\xff", Limits::default())?;
/// assert_eq!(photo.rgb.dimensions(), (2, 1));
/// assert_eq!(photo.into_rgb(Alpha::Drop).as_raw(), &[255, 0, 0, 0, 0, 255]);
/// # Ok::<(), saliency_models::photo::PhotoError>(())
/// ```
#[derive(Clone, Debug)]
pub struct Photo {
    /// Colours, without regard to transparency.
    pub rgb: RgbImage,
    /// Opacity, 255 where opaque; `None` for a format or file without it.
    pub alpha: Option<GrayImage>,
    /// The format the content was in, whatever the file is called.
    pub format: ImageFormat,
}

/// What becomes of transparency.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Alpha {
    /// Ignore it, as Pillow's `convert("RGB")` does: transparent pixels show the colour stored
    /// under them.
    #[default]
    Drop,
    /// Lay the picture over this RGB colour; `Over([255; 3])` is a white page.
    Over([u8; 3]),
}

impl Photo {
    /// The RGB picture, with transparency resolved: `alpha * colour + (1 - alpha) * background`.
    ///
    /// ```
    /// use saliency_models::photo::{Alpha, Photo, ImageFormat, RgbImage};
    ///
    /// let photo = Photo {
    ///     rgb: RgbImage::from_raw(1, 1, vec![200, 0, 0]).unwrap(),
    ///     alpha: image::GrayImage::from_raw(1, 1, vec![0]),
    ///     format: ImageFormat::Png,
    /// };
    /// assert_eq!(photo.clone().into_rgb(Alpha::Drop).as_raw(), &[200, 0, 0]);
    /// assert_eq!(photo.into_rgb(Alpha::Over([255; 3])).as_raw(), &[255, 255, 255]);
    /// ```
    pub fn into_rgb(mut self, alpha: Alpha) -> RgbImage {
        if let (Alpha::Over(background), Some(opacity)) = (alpha, &self.alpha) {
            for (pixel, opacity) in self.rgb.pixels_mut().zip(opacity.pixels()) {
                let a = u32::from(opacity.0[0]);
                for (value, under) in pixel.0.iter_mut().zip(background) {
                    let sum = a * u32::from(*value) + (255 - a) * u32::from(under);
                    *value = ((sum + 127) / 255) as u8;
                }
            }
        }
        self.rgb
    }
}

/// How large a picture may be. Both are checked before any pixel is decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Largest width times height, 100 million by default.
    pub max_pixels: u64,
    /// Largest file in bytes, 1 GiB by default.
    pub max_bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_pixels: 100_000_000,
            max_bytes: 1 << 30,
        }
    }
}

/// Why a picture could not be read; prints as one line that opens with the picture's name.
#[derive(Debug, Error)]
#[error("{}: {problem}", one_line(&name.to_string_lossy()))]
pub struct PhotoError {
    /// The path as given, or `image` for bytes from memory.
    pub name: PathBuf,
    /// What is wrong.
    pub problem: PhotoProblem,
}

/// What is wrong with a picture.
#[derive(Debug, Error)]
pub enum PhotoProblem {
    /// No such file.
    #[error("no such file")]
    Missing,
    /// The path names a folder.
    #[error("is a folder, not a picture")]
    Folder,
    /// The operating system refused to read the file.
    #[error("cannot be read: {0}")]
    Unreadable(io::Error),
    /// Zero bytes.
    #[error("is empty")]
    Empty,
    /// The content has no known picture format's signature.
    #[error(
        "is not a picture in a known format (PNG, JPEG, WebP, GIF, BMP, TIFF and PNM are read)"
    )]
    NotAnImage,
    /// A picture, but in a format or variant that is not decoded.
    #[error("cannot be decoded: {0}; convert it to PNG or JPEG")]
    Unsupported(String),
    /// The data end before the picture does.
    #[error("is truncated: the file ends before the picture does")]
    Truncated,
    /// The content contradicts its own format.
    #[error("is damaged: {0}")]
    Damaged(String),
    /// A width or height of zero.
    #[error("has no pixels ({width}x{height})")]
    NoPixels {
        /// Width in pixels.
        width: u32,
        /// Height in pixels.
        height: u32,
    },
    /// More than [`Limits::max_pixels`].
    #[error("is too large: {width}x{height} is over the limit of {max_pixels} pixels")]
    TooManyPixels {
        /// Width in pixels.
        width: u32,
        /// Height in pixels.
        height: u32,
        /// The limit that was set.
        max_pixels: u64,
    },
    /// More than [`Limits::max_bytes`], in the file or in the decoder's working memory.
    #[error("is too large: it needs more than {0} bytes")]
    TooManyBytes(u64),
}

/// Reads and decodes the picture at `path`. The format is found from the content, never from the
/// name.
///
/// # Errors
/// A [`PhotoError`] that names the file and says what is wrong with it; see [`PhotoProblem`].
///
/// ```
/// use saliency_models::photo::{Limits, open};
///
/// let error = open("no/such.jpg", Limits::default()).unwrap_err();
/// assert_eq!(error.to_string(), "no/such.jpg: no such file");
/// ```
pub fn open(path: impl AsRef<Path>, limits: Limits) -> Result<Photo, PhotoError> {
    let path = path.as_ref();
    read(path, limits)
        .and_then(|bytes| decode_any(&bytes, limits))
        .map_err(|problem| PhotoError {
            name: path.to_owned(),
            problem,
        })
}

/// Decodes a picture from memory, as [`open`] does from a file.
///
/// # Errors
/// As for [`open`], under the name `image`.
///
/// ```
/// use saliency_models::photo::{Limits, decode};
///
/// let error = decode(b"<html>", Limits::default()).unwrap_err();
/// assert!(error.to_string().starts_with("image: is not a picture"));
/// ```
pub fn decode(bytes: &[u8], limits: Limits) -> Result<Photo, PhotoError> {
    decode_any(bytes, limits).map_err(|problem| PhotoError {
        name: PathBuf::from("image"),
        problem,
    })
}

/// Scans that a progressive JPEG may have; encoders write about ten.
const MAX_SCANS: usize = 200;

fn read(path: &Path, limits: Limits) -> Result<Vec<u8>, PhotoProblem> {
    let failed = |error: io::Error| match error.kind() {
        io::ErrorKind::NotFound => PhotoProblem::Missing,
        _ => PhotoProblem::Unreadable(error),
    };
    let metadata = fs::metadata(path).map_err(failed)?;
    if metadata.is_dir() {
        return Err(PhotoProblem::Folder);
    }
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(failed)?;
    file.take(limits.max_bytes.saturating_add(1))
        .read_to_end(&mut bytes)
        .map_err(failed)?;
    Ok(bytes)
}

fn decode_any(bytes: &[u8], limits: Limits) -> Result<Photo, PhotoProblem> {
    if bytes.is_empty() {
        return Err(PhotoProblem::Empty);
    }
    if bytes.len() as u64 > limits.max_bytes {
        return Err(PhotoProblem::TooManyBytes(limits.max_bytes));
    }
    if let Some(name) = undecoded_format(bytes) {
        return Err(PhotoProblem::Unsupported(format!("it is {name}")));
    }
    let format = image::guess_format(bytes).map_err(|_| PhotoProblem::NotAnImage)?;
    catch_unwind(AssertUnwindSafe(|| decode_as(format, bytes, limits)))
        .unwrap_or_else(|_| Err(PhotoProblem::Damaged("its decoder gave up".into())))
}

fn decode_as(format: ImageFormat, bytes: &[u8], limits: Limits) -> Result<Photo, PhotoProblem> {
    let whole = match format {
        ImageFormat::Jpeg => jpeg_has_end(bytes),
        ImageFormat::WebP => riff_is_whole(bytes),
        _ => true,
    };
    if !whole {
        return Err(PhotoProblem::Truncated);
    }
    let failed = |error| problem(error, limits);
    let mut reader = ImageReader::with_format(Cursor::new(bytes), format);
    reader.limits(memory(limits));
    let mut decoder = reader.into_decoder().map_err(failed)?;

    let (width, height) = decoder.dimensions();
    if width == 0 || height == 0 {
        return Err(PhotoProblem::NoPixels { width, height });
    }
    let max_pixels = limits.max_pixels;
    if u64::from(width) * u64::from(height) > max_pixels {
        return Err(PhotoProblem::TooManyPixels {
            width,
            height,
            max_pixels,
        });
    }

    let orientation = decoder.orientation().unwrap_or(Orientation::NoTransforms);
    let mut image = match jpeg(format, bytes, limits) {
        Some(image) if image.dimensions() == (width, height) => image.into(),
        _ => DynamicImage::from_decoder(decoder).map_err(failed)?,
    };
    image.apply_orientation(orientation);
    let (rgb, alpha) = split_alpha(to_8_bits(image));
    Ok(Photo { rgb, alpha, format })
}

/// The pixels of a JPEG as libjpeg-turbo gives them; `None` where `image` is to try instead.
fn jpeg(format: ImageFormat, bytes: &[u8], limits: Limits) -> Option<RgbImage> {
    if format != ImageFormat::Jpeg {
        return None;
    }
    let limits = DecodeLimits {
        max_pixels: limits.max_pixels,
        max_scans: MAX_SCANS,
        max_memory: memory(limits).max_alloc,
        ..DecodeLimits::default()
    };
    let mut decoder = libjpeg_turbo_rs::Decoder::new_with_limits(bytes, limits).ok()?;
    decoder.set_output_format(PixelFormat::Rgb);
    let image = decoder.decode_image().ok()?;
    RgbImage::from_raw(image.width as u32, image.height as u32, image.data)
}

/// Working memory of a decoder: twice the widest pixel (four 16-bit channels) and some tables.
fn memory(limits: Limits) -> image::Limits {
    let mut memory = image::Limits::no_limits();
    memory.max_alloc = Some(
        limits
            .max_pixels
            .saturating_mul(16)
            .saturating_add(64 << 20),
    );
    memory
}

fn to_8_bits(image: DynamicImage) -> DynamicImage {
    macro_rules! high_bytes {
        ($variant:ident, $image:expr) => {{
            let (width, height) = $image.dimensions();
            let samples = $image.into_raw().into_iter().map(|v| (v >> 8) as u8);
            image::ImageBuffer::from_raw(width, height, samples.collect())
                .map_or_else(DynamicImage::default, DynamicImage::$variant)
        }};
    }
    match image {
        DynamicImage::ImageLuma16(image) => high_bytes!(ImageLuma8, image),
        DynamicImage::ImageLumaA16(image) => high_bytes!(ImageLumaA8, image),
        DynamicImage::ImageRgb16(image) => high_bytes!(ImageRgb8, image),
        DynamicImage::ImageRgba16(image) => high_bytes!(ImageRgba8, image),
        other => other,
    }
}

fn split_alpha(image: DynamicImage) -> (RgbImage, Option<GrayImage>) {
    if !image.color().has_alpha() {
        return (image.into_rgb8(), None);
    }
    let rgba = image.into_rgba8();
    let (width, height) = rgba.dimensions();
    let pixel = |x, y| rgba.get_pixel(x, y).0;
    let alpha = GrayImage::from_fn(width, height, |x, y| image::Luma([pixel(x, y)[3]]));
    let rgb = RgbImage::from_fn(width, height, |x, y| {
        let [r, g, b, _] = pixel(x, y);
        image::Rgb([r, g, b])
    });
    (rgb, Some(alpha))
}

/// Whether the data run to the end-of-image marker. The decoder fills what is missing with grey,
/// without a word.
fn jpeg_has_end(bytes: &[u8]) -> bool {
    let mut at = 2;
    while let Some(&[first, second]) = bytes.get(at..at + 2).and_then(|s| s.first_chunk()) {
        match (first, second) {
            (0xff, 0xd9) => return true,
            // Stuffed bytes, fill bytes, restart markers and other markers without a segment.
            (0xff, 0xff) => at += 1,
            (0xff, 0x00 | 0x01 | 0xd0..=0xd8) => at += 2,
            (0xff, _) => {
                let Some(length) = bytes.get(at + 2..at + 4).and_then(|s| s.first_chunk()) else {
                    return false;
                };
                at += 2 + usize::from(u16::from_be_bytes(*length));
            }
            _ => at += 1,
        }
    }
    false
}

/// Whether the data are as long as a RIFF header says.
fn riff_is_whole(bytes: &[u8]) -> bool {
    let length = bytes.get(4..8).and_then(|length| length.first_chunk());
    length.is_some_and(|length| bytes.len() as u64 >= 8 + u64::from(u32::from_le_bytes(*length)))
}

/// Formats that cameras and browsers save and that are not decoded here.
fn undecoded_format(bytes: &[u8]) -> Option<&'static str> {
    match (bytes.get(4..8), bytes.get(8..12)) {
        (Some(b"ftyp"), Some(b"avif" | b"avis")) => return Some("AVIF"),
        (Some(b"ftyp"), Some(b"heic" | b"heix" | b"heim" | b"hevc" | b"mif1" | b"msf1")) => {
            return Some("HEIC");
        }
        (Some(b"ftyp"), _) => return Some("a video"),
        _ => {}
    }
    match bytes {
        [0xff, 0x0a, ..] | [0, 0, 0, 0x0c, b'J', b'X', b'L', b' ', ..] => Some("JPEG XL"),
        [0, 0, 0, 0x0c, b'j', b'P', ..] => Some("JPEG 2000"),
        [b'%', b'P', b'D', b'F', ..] => Some("a PDF"),
        _ => None,
    }
}

fn problem(error: ImageError, limits: Limits) -> PhotoProblem {
    let message = one_line(&error.to_string());
    // GIF's errors come as text only.
    if is_truncation(&error) || message.contains("Unexpected End of File") {
        return PhotoProblem::Truncated;
    }
    match error {
        ImageError::Unsupported(_) => PhotoProblem::Unsupported(message),
        ImageError::Limits(_) => {
            PhotoProblem::TooManyBytes(memory(limits).max_alloc.unwrap_or(u64::MAX))
        }
        _ => PhotoProblem::Damaged(message),
    }
}

fn one_line(text: &str) -> String {
    text.replace(['\n', '\r'], " ")
}

/// Whether an error or one of its causes is a premature end of the data.
fn is_truncation(error: &ImageError) -> bool {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = match error {
        ImageError::IoError(error) => Some(error),
        error => Some(error),
    };
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<io::Error>()
            && error.kind() == io::ErrorKind::UnexpectedEof
        {
            return true;
        }
        cause = error.source();
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Pictures in every format, each beside what Pillow makes of it (`NAME.png`).
    const SAMPLES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests-data/preprocess/decode");

    fn samples() -> Vec<(String, Vec<u8>)> {
        let files = fs::read_dir(SAMPLES).unwrap();
        let names = files.map(|file| file.unwrap().file_name().into_string().unwrap());
        let sources = names.filter(|name| Path::new(SAMPLES).join(format!("{name}.png")).exists());
        let mut samples: Vec<_> = sources
            .map(|name| {
                (
                    name.clone(),
                    fs::read(Path::new(SAMPLES).join(name)).unwrap(),
                )
            })
            .collect();
        samples.sort();
        samples
    }

    fn sample(name: &str) -> Vec<u8> {
        fs::read(Path::new(SAMPLES).join(name)).unwrap()
    }

    fn problem_of(bytes: &[u8]) -> PhotoProblem {
        decode(bytes, Limits::default()).unwrap_err().problem
    }

    #[test]
    fn every_format_decodes_to_pillows_pixels() {
        let samples = samples();
        assert!(samples.len() >= 33, "{}", samples.len());
        for (name, bytes) in samples {
            let photo = decode(&bytes, Limits::default()).unwrap();
            let expected = image::open(Path::new(SAMPLES).join(format!("{name}.png"))).unwrap();
            assert_eq!(
                photo.rgb.dimensions(),
                (expected.width(), expected.height()),
                "{name}"
            );
            assert!(photo.rgb == expected.into_rgb8(), "{name}: other pixels");
        }
    }

    #[test]
    fn transparency_is_kept_aside() {
        let photo = decode(&sample("rgba.png"), Limits::default()).unwrap();
        let alpha = photo.alpha.clone().unwrap();
        assert_eq!(
            (alpha.get_pixel(0, 0).0, alpha.get_pixel(60, 46).0),
            ([0], [255])
        );
        let (x, y) = (30, 23);
        let a = f64::from(alpha.get_pixel(x, y).0[0]) / 255.0;
        assert!(a > 0.4 && a < 0.6);

        let drop = photo.clone().into_rgb(Alpha::Drop);
        let over = photo.into_rgb(Alpha::Over([255, 128, 0]));
        assert_eq!(over.get_pixel(0, 0).0, [255, 128, 0]);
        assert_eq!(over.get_pixel(60, 46), drop.get_pixel(60, 46));
        for (c, under) in [255.0, 128.0, 0.0].into_iter().enumerate() {
            let expected = a * f64::from(drop.get_pixel(x, y).0[c]) + (1.0 - a) * under;
            assert!((f64::from(over.get_pixel(x, y).0[c]) - expected).abs() <= 0.5);
        }
        for opaque in ["rgb.png", "420.jpg", "rgb.bmp"] {
            assert!(
                decode(&sample(opaque), Limits::default())
                    .unwrap()
                    .alpha
                    .is_none()
            );
        }
    }

    #[test]
    fn the_content_tells_the_format() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("really-a-png.jpg");
        fs::write(&path, sample("rgb.png")).unwrap();
        assert_eq!(
            open(&path, Limits::default()).unwrap().format,
            ImageFormat::Png
        );
    }

    #[test]
    fn file_errors_name_the_file_and_the_reason_in_one_line() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str, bytes: &[u8]| {
            let path = folder.path().join(name);
            fs::write(&path, bytes).unwrap();
            path
        };
        let half = |name: &str| sample(name)[..sample(name).len() / 2].to_vec();
        let cases = [
            (folder.path().join("no.png"), "no such file"),
            (folder.path().to_owned(), "is a folder"),
            (file("empty.png", b""), "is empty"),
            (file("text.jpg", b"Dear Sir,\n"), "is not a picture"),
            (file("half.png", &half("rgb.png")), "is truncated"),
            (file("two\nlines.jpg", &half("420.jpg")), "is truncated"),
        ];
        for (path, reason) in cases {
            let error = open(&path, Limits::default()).unwrap_err().to_string();
            assert!(error.contains(reason), "{error}");
            let name = path
                .file_name()
                .unwrap()
                .to_str()
                .unwrap()
                .replace('\n', " ");
            assert!(error.contains(&name) && !error.contains('\n'), "{error:?}");
        }
    }

    #[test]
    fn every_format_notices_its_end_missing() {
        for (name, bytes) in samples() {
            for cut in [bytes.len() / 4, bytes.len() / 3, bytes.len() / 2] {
                let problem = problem_of(&bytes[..cut]);
                assert!(
                    matches!(problem, PhotoProblem::Truncated),
                    "{name}: {problem}"
                );
            }
        }
        let jpeg = sample("progressive.jpg");
        assert!(matches!(
            problem_of(&jpeg[..jpeg.len() - 1]),
            PhotoProblem::Truncated
        ));
        assert!(decode(&[&jpeg[..], b"trailing"].concat(), Limits::default()).is_ok());
    }

    #[test]
    fn limits_hold_before_decoding() {
        let limits = Limits {
            max_pixels: 61 * 47 - 1,
            ..Limits::default()
        };
        for name in [
            "420.jpg",
            "rgb.png",
            "rgb.bmp",
            "lossy.webp",
            "palette.gif",
            "rgb.tif",
        ] {
            let error = decode(&sample(name), limits).unwrap_err().to_string();
            assert_eq!(
                error,
                "image: is too large: 61x47 is over the limit of 2866 pixels"
            );
        }
        let limits = Limits {
            max_bytes: 100,
            ..Limits::default()
        };
        let path = Path::new(SAMPLES).join("rgb.bmp");
        let error = open(path, limits).unwrap_err();
        assert!(matches!(error.problem, PhotoProblem::TooManyBytes(100)));
        // Headers that promise 3.6 billion pixels.
        assert!(matches!(
            problem_of(b"P6 60000 60000 255\n"),
            PhotoProblem::TooManyPixels {
                width: 60000,
                height: 60000,
                ..
            }
        ));
    }

    #[test]
    fn pictures_without_pixels_are_refused() {
        for header in [&b"P6 0 5 255\n"[..], b"P5 5 0 255\n"] {
            let problem = problem_of(header);
            assert!(
                matches!(problem, PhotoProblem::NoPixels { .. }),
                "{problem}"
            );
        }
        let mut gif = sample("palette.gif");
        gif[6..8].fill(0);
        assert!(matches!(
            problem_of(&gif),
            PhotoProblem::NoPixels { width: 0, .. }
        ));
    }

    #[test]
    fn formats_that_are_not_decoded_are_named() {
        for (head, name) in [
            (&b"\0\0\0\x20ftypavif\0\0\0\0"[..], "AVIF"),
            (b"\0\0\0\x18ftypheic\0\0\0\0", "HEIC"),
            (b"\xff\x0a\0\0", "JPEG XL"),
            (b"%PDF-1.7", "PDF"),
        ] {
            let problem = problem_of(head).to_string();
            assert!(
                problem.contains(name) && problem.contains("PNG"),
                "{problem}"
            );
        }
    }

    #[test]
    fn damage_never_panics() {
        let mut state = 1_u64;
        let mut random = |below: usize| {
            state = state
                .wrapping_mul(6364136223846793005)
                .wrapping_add(1442695040888963407);
            (state >> 33) as usize % below
        };
        for (name, bytes) in samples() {
            for _ in 0..40 {
                let mut damaged = bytes.clone();
                for _ in 0..3 {
                    damaged[random(bytes.len())] ^= 1 << random(8);
                }
                if let Err(error) = decode(&damaged, Limits::default()) {
                    let text = error.to_string();
                    assert!(
                        !text.contains("gave up") && !text.contains('\n'),
                        "{name}: {text}"
                    );
                }
            }
        }
    }
}
