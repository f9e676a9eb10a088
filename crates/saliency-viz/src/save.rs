use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use image::codecs::png::{CompressionType, FilterType, PngEncoder};
use image::{ExtendedColorType, ImageEncoder, RgbImage};

use crate::error::{Error, Result};

/// The bytes of a PNG file.
///
/// # Errors
/// A picture without pixels.
///
/// ```
/// use image::RgbImage;
/// use saliency_viz::encode_png;
///
/// let bytes = encode_png(&RgbImage::new(3, 2))?;
/// assert!(bytes.starts_with(b"\x89PNG"));
/// # Ok::<(), saliency_viz::Error>(())
/// ```
pub fn encode_png(picture: &RgbImage) -> Result<Vec<u8>> {
    let (width, height) = picture.dimensions();
    let mut bytes = Vec::new();
    PngEncoder::new_with_quality(&mut bytes, CompressionType::Default, FilterType::Adaptive)
        .write_image(picture, width, height, ExtendedColorType::Rgb8)
        .map_err(|reason| Error::Encode {
            width,
            height,
            reason,
        })?;
    Ok(bytes)
}

/// Writes a PNG file, whole or not at all: under a temporary name in the same folder,
/// then renamed, so that an older file survives a failure. A link is followed; a
/// device or pipe is written to directly.
///
/// # Errors
/// A missing folder, a folder in the file's place, a full disk, missing permission, or
/// a picture without pixels; the message names the file and the reason.
///
/// ```
/// use image::RgbImage;
/// use saliency_viz::save_png;
///
/// let folder = tempfile::tempdir().unwrap();
/// let path = folder.path().join("map.png");
/// save_png(&RgbImage::new(3, 2), &path)?;
/// assert_eq!(image::image_dimensions(&path).unwrap(), (3, 2));
/// # Ok::<(), saliency_viz::Error>(())
/// ```
pub fn save_png(picture: &RgbImage, path: impl AsRef<Path>) -> Result<()> {
    let path = path.as_ref();
    let bytes = encode_png(picture)?;
    write(path, &bytes).map_err(|reason| Error::Save {
        path: path.to_path_buf(),
        reason,
    })
}

fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    match fs::metadata(path) {
        Ok(found) if found.is_dir() => Err(io::Error::new(
            io::ErrorKind::IsADirectory,
            "a folder is in the way: give the name of a file",
        )),
        Ok(found) if found.is_file() => replace(&fs::canonicalize(path)?, bytes),
        Ok(_) => OpenOptions::new().write(true).open(path)?.write_all(bytes),
        Err(_) => replace(path, bytes),
    }
}

fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    if path.file_name().is_none() {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "it does not name a file",
        ));
    }
    let folder = match path.parent() {
        Some(parent) if parent != Path::new("") => parent.to_path_buf(),
        _ => PathBuf::from("."),
    };
    if !folder.is_dir() {
        let text = format!("there is no folder {}: create it first", folder.display());
        return Err(io::Error::new(io::ErrorKind::NotFound, text));
    }
    let mut file = builder().tempfile_in(&folder).map_err(plain)?;
    file.write_all(bytes).map_err(plain)?;
    file.persist(path).map_err(|failed| failed.error)?;
    Ok(())
}

fn builder() -> tempfile::Builder<'static, 'static> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(".saliency-").suffix(".png.part");
    #[cfg(unix)]
    {
        // The user's umask decides, as for any new file.
        use std::os::unix::fs::PermissionsExt;
        builder.permissions(fs::Permissions::from_mode(0o666));
    }
    builder
}

/// The system's reason without the temporary file's name.
fn plain(error: io::Error) -> io::Error {
    match error.raw_os_error() {
        Some(code) => io::Error::from_raw_os_error(code),
        None => io::Error::from(error.kind()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use image::Rgb;

    fn names(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).unwrap();
        entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect()
    }

    #[test]
    fn a_saved_picture_reads_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("räksmörgås.png");
        for shade in [10, 20] {
            let picture = RgbImage::from_fn(7, 5, |x, y| Rgb([shade, x as u8, y as u8]));
            save_png(&picture, &path).unwrap();
            assert_eq!(image::open(&path).unwrap().into_rgb8(), picture);
        }
        assert_eq!(names(folder.path()), ["räksmörgås.png"]);
    }

    #[test]
    fn a_missing_folder_is_one_clear_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("no/map.png");
        let error = save_png(&RgbImage::new(1, 1), &path)
            .unwrap_err()
            .to_string();
        let expected = format!(
            "cannot write {}: there is no folder {}: create it first",
            path.display(),
            path.parent().unwrap().display()
        );
        assert_eq!(error, expected);
    }

    #[test]
    fn a_folder_in_the_way_is_one_clear_line() {
        let folder = tempfile::tempdir().unwrap();
        let error = save_png(&RgbImage::new(1, 1), folder.path())
            .unwrap_err()
            .to_string();
        assert!(
            error.ends_with("a folder is in the way: give the name of a file"),
            "{error}"
        );
        assert!(names(folder.path()).is_empty());
    }

    #[test]
    fn a_picture_without_pixels_leaves_no_file() {
        let folder = tempfile::tempdir().unwrap();
        let result = save_png(&RgbImage::new(0, 0), folder.path().join("map.png"));
        assert!(
            matches!(
                result,
                Err(Error::Encode {
                    width: 0,
                    height: 0,
                    ..
                })
            ),
            "{result:?}"
        );
        assert!(names(folder.path()).is_empty());
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_full_device_is_reported_and_not_replaced() {
        let error = save_png(&RgbImage::new(9, 9), "/dev/full")
            .unwrap_err()
            .to_string();
        assert!(
            error.starts_with("cannot write /dev/full: No space left"),
            "{error}"
        );
        assert!(!fs::metadata("/dev/full").unwrap().is_file());
    }

    #[cfg(unix)]
    #[test]
    fn a_link_is_followed_and_new_files_obey_the_umask() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let (target, link) = (
            folder.path().join("target.png"),
            folder.path().join("link.png"),
        );
        fs::write(&target, "old").unwrap();
        std::os::unix::fs::symlink(&target, &link).unwrap();
        save_png(&RgbImage::new(2, 2), &link).unwrap();
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(image::image_dimensions(&target).unwrap(), (2, 2));

        let plain = folder.path().join("plain");
        fs::write(&plain, "").unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode();
        assert_eq!(mode(&target), mode(&plain));
    }
}
