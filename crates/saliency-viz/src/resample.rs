use image::imageops::{FilterType, resize};
use image::{ImageBuffer, Luma, RgbImage};

use crate::grid::Grid;

/// A panel's shorter side is never below this, whatever the aspect ratio.
const THINNEST: u32 = 24;

/// The size at which a `width` x `height` image fills a panel of `side` pixels:
/// small images grow by a whole factor where one fits, large ones shrink.
pub(crate) fn fit(width: u32, height: u32, side: u32) -> (u32, u32) {
    let longest = width.max(height);
    let scale = if longest >= side {
        f64::from(side) / f64::from(longest)
    } else {
        let whole = f64::from(side / longest);
        if whole * f64::from(longest) * 3.0 >= f64::from(side) * 2.0 {
            whole
        } else {
            f64::from(side) / f64::from(longest)
        }
    };
    let scaled = |length: u32| ((f64::from(length) * scale).round() as u32).max(THINNEST);
    (scaled(width), scaled(height))
}

/// The photograph at `size`: bicubic where it grows, else bilinear and antialiased.
pub(crate) fn photo(image: &RgbImage, size: (u32, u32)) -> RgbImage {
    let grows = size.0 >= image.width() && size.1 >= image.height();
    let filter = if grows {
        FilterType::CatmullRom
    } else {
        FilterType::Triangle
    };
    resize(image, size.0, size.1, filter)
}

/// A map with values in 0 to 1 at `size`: whole blocks where it grows by a whole
/// factor or threefold, else bilinear (antialiased when it shrinks).
pub(crate) fn blocks(map: &Grid, size: (u32, u32)) -> Vec<f32> {
    let (width, height) = (map.width() as u32, map.height() as u32);
    grid(map, size, filter((width, height), size))
}

/// A map with values in 0 to 1 at `size`, bilinear (antialiased when it shrinks).
pub(crate) fn smooth(map: &Grid, size: (u32, u32)) -> Vec<f32> {
    grid(map, size, FilterType::Triangle)
}

fn grid(map: &Grid, size: (u32, u32), filter: FilterType) -> Vec<f32> {
    let (width, height) = (map.width() as u32, map.height() as u32);
    let values = map.values().to_vec();
    match ImageBuffer::<Luma<f32>, _>::from_raw(width, height, values) {
        Some(buffer) => resize(&buffer, size.0, size.1, filter).into_raw(),
        None => vec![0.0; size.0 as usize * size.1 as usize],
    }
}

fn filter(from: (u32, u32), to: (u32, u32)) -> FilterType {
    let crisp = |from: u32, to: u32| to >= from && (to.is_multiple_of(from) || to / from >= 3);
    if crisp(from.0, to.0) && crisp(from.1, to.1) {
        FilterType::Nearest
    } else {
        FilterType::Triangle
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn panels_have_a_sensible_size() {
        assert_eq!(fit(96, 96, 384), (384, 384));
        assert_eq!(fit(100, 50, 384), (300, 150));
        assert_eq!(fit(28, 28, 384), (364, 364));
        assert_eq!(fit(224, 224, 384), (384, 384));
        assert_eq!(fit(300, 200, 384), (300, 200));
        assert_eq!(fit(4000, 3000, 384), (384, 288));
        assert_eq!(fit(1, 1, 384), (384, 384));
        assert_eq!(fit(4000, 1, 384), (384, 24));
        assert_eq!(fit(1, 10, 384), (38, 380));
    }

    #[test]
    fn growing_is_bilinear_between_pixel_centres() {
        let map = Grid::new(2, 1, vec![0.0, 1.0]).unwrap();
        let grown = smooth(&map, (4, 1));
        for (found, expected) in grown.iter().zip([0.0, 0.25, 0.75, 1.0]) {
            assert!((found - expected).abs() < 1e-6, "{grown:?}");
        }
    }

    #[test]
    fn shrinking_averages() {
        let map = Grid::new(1000, 1, (0..1000).map(|i| (i % 2) as f32).collect()).unwrap();
        let shrunk = smooth(&map, (10, 1));
        assert!(
            shrunk.iter().all(|value| (value - 0.5).abs() < 0.01),
            "{shrunk:?}"
        );
    }

    #[test]
    fn whole_factors_keep_blocks() {
        let map = Grid::new(2, 1, vec![0.0, 1.0]).unwrap();
        assert_eq!(blocks(&map, (6, 1)), [0.0, 0.0, 0.0, 1.0, 1.0, 1.0]);
    }
}
