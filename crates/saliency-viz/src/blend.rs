use image::{Rgb, RgbImage};

use crate::colormap::{Colormap, index};
use crate::error::{Error, Result};
use crate::grid::Grid;
use crate::resample::smooth;

/// The map at its own resolution, one pixel per value, min-max normalised
/// ([`Grid::normalised`]) and coloured.
///
/// ```
/// use saliency_viz::{Colormap, Grid, heatmap};
///
/// let map = Grid::new(2, 1, vec![-1.0, 3.0])?;
/// let picture = heatmap(&map, Colormap::Gray);
/// assert_eq!(picture.dimensions(), (2, 1));
/// assert_eq!(picture.get_pixel(0, 0).0, [0, 0, 0]);
/// assert_eq!(picture.get_pixel(1, 0).0, [255, 255, 255]);
/// # Ok::<(), saliency_viz::Error>(())
/// ```
pub fn heatmap(map: &Grid, colormap: Colormap) -> RgbImage {
    let size = (map.width() as u32, map.height() as u32);
    colour(map.normalised().values(), size, colormap)
}

/// The grey photograph under the coloured map, at the photograph's resolution:
/// `alpha * colour + (1 - alpha) * grey` per channel, rounded.
///
/// The map is min-max normalised ([`Grid::normalised`]), then brought to the
/// photograph's size bilinearly (pixel centres at halves, antialiased when it
/// shrinks; stretched when its aspect ratio differs).
///
/// # Errors
/// A photograph without pixels, or `alpha` outside 0 to 1.
///
/// ```
/// use image::{Rgb, RgbImage};
/// use saliency_viz::{Colormap, Grid, overlay};
///
/// let photo = RgbImage::from_pixel(1, 1, Rgb([100, 100, 100]));
/// let map = Grid::new(1, 1, vec![0.0])?;
/// let picture = overlay(&photo, &map, Colormap::Jet, 0.5)?;
/// // jet begins at (0, 0, 127)
/// assert_eq!(picture.get_pixel(0, 0).0, [50, 50, 114]);
/// # Ok::<(), saliency_viz::Error>(())
/// ```
pub fn overlay(
    original: &RgbImage,
    map: &Grid,
    colormap: Colormap,
    alpha: f32,
) -> Result<RgbImage> {
    check_image(original)?;
    check_alpha(alpha)?;
    let mut picture = grey(original);
    let values = smooth(&map.normalised(), picture.dimensions());
    let table = colormap.table();
    for (pixel, value) in picture.pixels_mut().zip(values) {
        let colour = table[usize::from(index(value))];
        for (channel, colour) in pixel.0.iter_mut().zip(colour) {
            let mixed = alpha * f32::from(colour) + (1.0 - alpha) * f32::from(*channel);
            *channel = mixed.round() as u8;
        }
    }
    Ok(picture)
}

/// The photograph in grey: `0.299 R + 0.587 G + 0.114 B` (ITU-R BT.601), rounded.
///
/// ```
/// use image::{Rgb, RgbImage};
/// use saliency_viz::grey;
///
/// let red = RgbImage::from_pixel(1, 1, Rgb([255, 0, 0]));
/// assert_eq!(grey(&red).get_pixel(0, 0).0, [76, 76, 76]);
/// ```
pub fn grey(image: &RgbImage) -> RgbImage {
    let mut grey = image.clone();
    for Rgb(channels) in grey.pixels_mut() {
        let [r, g, b] = channels.map(u32::from);
        *channels = [((299 * r + 587 * g + 114 * b + 500) / 1000) as u8; 3];
    }
    grey
}

/// Draws the outline of `mask` (row by row, `true` inside) on a copy of `image`.
///
/// The line runs inside the mask and is `1 + max(width, height) / 400` pixels
/// thick, so that it is still seen when a large photograph is shrunk.
///
/// # Errors
/// A mask whose length is not `width * height`.
///
/// ```
/// use image::RgbImage;
/// use saliency_viz::outline;
///
/// let photo = RgbImage::new(3, 3);
/// let ringed = outline(&photo, &[true; 9], [255, 0, 0])?;
/// assert_eq!(ringed.get_pixel(0, 1).0, [255, 0, 0]);
/// assert_eq!(ringed.get_pixel(1, 1).0, [0, 0, 0]);
/// # Ok::<(), saliency_viz::Error>(())
/// ```
pub fn outline(image: &RgbImage, mask: &[bool], colour: [u8; 3]) -> Result<RgbImage> {
    let (width, height) = image.dimensions();
    let expected = width as usize * height as usize;
    if mask.len() != expected {
        return Err(Error::MaskLength {
            width,
            height,
            expected,
            found: mask.len(),
        });
    }
    let thickness = 1 + width.max(height) / 400;
    let depth = depths(mask, width as usize);
    let mut ringed = image.clone();
    for (pixel, depth) in ringed.pixels_mut().zip(depth) {
        if (1..=thickness).contains(&depth) {
            *pixel = Rgb(colour);
        }
    }
    Ok(ringed)
}

/// City-block distance of each pixel to the nearest one outside the mask; beyond
/// the edge of the image counts as outside.
fn depths(mask: &[bool], width: usize) -> Vec<u32> {
    let mut depth: Vec<u32> = vec![0; mask.len()];
    for i in 0..mask.len() {
        let left = if i % width == 0 { 0 } else { depth[i - 1] };
        let above = if i < width { 0 } else { depth[i - width] };
        depth[i] = if mask[i] { left.min(above) + 1 } else { 0 };
    }
    for i in (0..mask.len()).rev() {
        let right = if (i + 1) % width == 0 {
            0
        } else {
            depth[i + 1]
        };
        let below = if i + width >= mask.len() {
            0
        } else {
            depth[i + width]
        };
        depth[i] = depth[i].min(right.min(below) + 1);
    }
    depth
}

/// Colours values that lie in 0 to 1.
pub(crate) fn colour(values: &[f32], size: (u32, u32), colormap: Colormap) -> RgbImage {
    let table = colormap.table();
    paint(
        size,
        values.iter().map(|&value| table[usize::from(index(value))]),
    )
}

/// An image of the given colours, row by row.
pub(crate) fn paint(size: (u32, u32), colours: impl Iterator<Item = [u8; 3]>) -> RgbImage {
    let mut picture = RgbImage::new(size.0, size.1);
    for (pixel, colour) in picture.pixels_mut().zip(colours) {
        *pixel = Rgb(colour);
    }
    picture
}

pub(crate) fn check_image(image: &RgbImage) -> Result<()> {
    match image.dimensions() {
        (width, height) if width == 0 || height == 0 => Err(Error::EmptyImage { width, height }),
        _ => Ok(()),
    }
}

pub(crate) fn check_alpha(alpha: f32) -> Result<()> {
    if (0.0..=1.0).contains(&alpha) {
        Ok(())
    } else {
        Err(Error::Alpha(alpha))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pixels(image: &RgbImage) -> Vec<[u8; 3]> {
        image.pixels().map(|pixel| pixel.0).collect()
    }

    #[test]
    fn an_overlay_mixes_grey_and_colour() {
        let photo = RgbImage::from_raw(2, 1, vec![255, 0, 0, 0, 0, 255]).unwrap();
        let map = Grid::new(2, 1, vec![2.0, 6.0]).unwrap();
        // grey: 76 and 29; hot begins at (10, 0, 0) and ends at white
        let quarter = overlay(&photo, &map, Colormap::Hot, 0.25).unwrap();
        assert_eq!(pixels(&quarter), [[60, 57, 57], [86, 86, 86]]);
        let photo_only = overlay(&photo, &map, Colormap::Hot, 0.0).unwrap();
        assert_eq!(pixels(&photo_only), [[76; 3], [29; 3]]);
        let map_only = overlay(&photo, &map, Colormap::Hot, 1.0).unwrap();
        assert_eq!(map_only, heatmap(&map, Colormap::Hot));
    }

    #[test]
    fn an_overlay_stretches_a_small_map_bilinearly() {
        let photo = RgbImage::new(4, 2);
        let map = Grid::new(2, 1, vec![0.0, 1.0]).unwrap();
        let picture = overlay(&photo, &map, Colormap::Gray, 1.0).unwrap();
        let row: Vec<i32> = picture
            .pixels()
            .take(4)
            .map(|pixel| pixel.0[0].into())
            .collect();
        for (found, expected) in row.iter().zip([0, 64, 192, 255]) {
            assert!((found - expected).abs() <= 1, "{row:?}");
        }
        assert_eq!(pixels(&picture)[..4], pixels(&picture)[4..]);
    }

    #[test]
    fn bad_alpha_and_empty_photographs_are_errors() {
        let map = Grid::new(1, 1, vec![0.0]).unwrap();
        for alpha in [-0.1, 1.1, f32::NAN] {
            let result = overlay(&RgbImage::new(1, 1), &map, Colormap::Jet, alpha);
            assert!(matches!(result, Err(Error::Alpha(_))));
        }
        let result = overlay(&RgbImage::new(0, 3), &map, Colormap::Jet, 0.5);
        assert!(matches!(
            result,
            Err(Error::EmptyImage {
                width: 0,
                height: 3
            })
        ));
    }

    #[test]
    fn an_outline_is_the_inner_boundary() {
        #[rustfmt::skip]
        let mask = [
            0, 0, 0, 0, 0, 0,
            0, 1, 1, 1, 1, 0,
            0, 1, 1, 1, 1, 0,
            0, 1, 1, 1, 1, 0,
            0, 0, 1, 0, 0, 0,
        ];
        #[rustfmt::skip]
        let expected = [
            0, 0, 0, 0, 0, 0,
            0, 1, 1, 1, 1, 0,
            0, 1, 0, 0, 1, 0,
            0, 1, 0, 1, 1, 0,
            0, 0, 1, 0, 0, 0,
        ];
        let ringed = outline(
            &RgbImage::new(6, 5),
            &mask.map(|inside| inside == 1),
            [9, 8, 7],
        )
        .unwrap();
        let found: Vec<u8> = ringed
            .pixels()
            .map(|pixel| u8::from(pixel.0 == [9, 8, 7]))
            .collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn an_outline_thickens_with_the_image() {
        let ringed = outline(&RgbImage::new(800, 1), &[true; 800], [1, 1, 1]).unwrap();
        assert!(ringed.pixels().all(|pixel| pixel.0 == [1, 1, 1]));
        let ringed = outline(&RgbImage::new(800, 9), &[true; 7200], [1, 1, 1]).unwrap();
        let column: Vec<u8> = (0..9).map(|y| ringed.get_pixel(400, y).0[0]).collect();
        assert_eq!(column, [1, 1, 1, 0, 0, 0, 1, 1, 1]);
    }

    #[test]
    fn a_mask_of_another_size_is_an_error() {
        let result = outline(&RgbImage::new(2, 2), &[true; 3], [0; 3]);
        assert!(matches!(
            result,
            Err(Error::MaskLength {
                expected: 4,
                found: 3,
                ..
            })
        ));
        assert!(outline(&RgbImage::new(0, 0), &[], [0; 3]).is_ok());
    }
}
