use image::RgbImage;

use crate::blend::{check_image, colour, overlay};
use crate::colormap::Colormap;
use crate::error::Result;
use crate::grid::Grid;
use crate::panel::{Bar, Panel, arrange};
use crate::resample::{blocks, fit, photo};
use crate::style::Style;

/// Three panels: the photograph; the map with `style.map` and a colour bar that
/// reads in the map's own units, from its minimum to its maximum; the grey
/// photograph under the map in `style.overlay` at `style.alpha`.
///
/// The map is min-max normalised for its colours ([`Grid::normalised`]) and
/// stretched to the photograph. Small photographs are enlarged, large ones shrunk.
///
/// # Errors
/// A photograph without pixels, or a style out of range.
///
/// ```
/// use image::RgbImage;
/// use saliency_viz::{Grid, Style, standard};
///
/// let photo = RgbImage::new(96, 96);
/// let map = Grid::new(2, 2, vec![0.0, 0.1, 0.2, 0.7])?;
/// let picture = standard(&photo, &map, "Vanilla gradient", &Style::default())?;
/// assert!(picture.width() > 3 * 384);
/// # Ok::<(), saliency_viz::Error>(())
/// ```
pub fn standard(original: &RgbImage, map: &Grid, title: &str, style: &Style) -> Result<RgbImage> {
    style.check()?;
    let first = original_panel(original, style)?;
    let second = map_panel(map, "Saliency", style.map, first.image.dimensions());
    let third = Panel {
        image: overlay(&first.image, map, style.overlay, style.alpha)?,
        caption: "Overlay".to_string(),
        bar: None,
    };
    Ok(arrange(&[first, second, third], 3, title))
}

pub(crate) fn original_panel(original: &RgbImage, style: &Style) -> Result<Panel> {
    check_image(original)?;
    let (width, height) = original.dimensions();
    Ok(Panel {
        image: photo(original, fit(width, height, style.panel)),
        caption: "Original".to_string(),
        bar: None,
    })
}

/// The min-max normalised map with a colour bar in its own units.
pub(crate) fn map_panel(map: &Grid, caption: &str, colormap: Colormap, size: (u32, u32)) -> Panel {
    let (low, mut high) = (f64::from(map.min()), f64::from(map.max()));
    let mut caption = caption.to_string();
    if map.is_flat() {
        high = low;
        caption.push_str(" (constant)");
    }
    Panel {
        image: colour(&blocks(&map.normalised(), size), size, colormap),
        caption,
        bar: Some(Bar {
            colormap,
            low,
            high,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Error;
    use crate::signed::signed;
    use image::Rgb;
    use proptest::collection::vec;
    use proptest::num::f32;
    use proptest::prelude::*;

    fn count(picture: &RgbImage, colour: [u8; 3]) -> usize {
        picture.pixels().filter(|pixel| pixel.0 == colour).count()
    }

    #[test]
    fn the_three_panels_hold_their_colours() {
        let photo = RgbImage::from_pixel(100, 100, Rgb([200, 50, 150]));
        let map = Grid::new(1, 2, vec![-4.0, 9.0]).unwrap();
        let picture = standard(
            &photo,
            &map,
            "",
            &Style {
                panel: 300,
                ..Style::default()
            },
        )
        .unwrap();
        assert_eq!(count(&picture, [200, 50, 150]), 300 * 300);
        // the upper half of the map, and one colour of 256 in the bar (13 pixels wide)
        let black = count(&picture, [10, 0, 0]);
        assert!((45_000..45_100).contains(&black), "{black}");
        // grey is 106; jet ends at (127, 0, 0): the last quarter of the overlay
        let over = count(&picture, [117, 53, 53]);
        assert!(over >= 300 * 75, "{over}");
    }

    #[test]
    fn every_shape_of_map_draws() {
        let photo = RgbImage::new(30, 20);
        for (width, height) in [(1, 1), (1, 7), (7, 1), (300, 1), (1, 300), (64, 48)] {
            for value in [0.0, -3.0, 3e38] {
                let map = Grid::new(width, height, vec![value; width * height]).unwrap();
                let picture = standard(&photo, &map, "constant", &Style::default()).unwrap();
                // 1/256 of the way up hot; the map's panel is 384 x 256
                assert!(count(&picture, [10, 0, 0]) >= 360 * 240);
            }
        }
    }

    #[test]
    fn every_shape_of_photograph_draws() {
        let map = Grid::new(2, 2, vec![0.0, 1.0, 2.0, 3.0]).unwrap();
        for (width, height) in [(1, 1), (1, 4000), (4000, 1), (3, 2), (700, 20)] {
            let photo = RgbImage::new(width, height);
            let picture = standard(&photo, &map, "title", &Style::default()).unwrap();
            assert!(picture.width() < 1500 && picture.height() < 600);
        }
    }

    #[test]
    fn a_map_of_twelve_megapixels_draws_small() {
        let photo = RgbImage::from_pixel(4000, 3000, Rgb([10, 20, 30]));
        let map = Grid::new(
            4000,
            3000,
            (0..12_000_000).map(|i| (i % 4000) as f32).collect(),
        )
        .unwrap();
        let picture = standard(&photo, &map, "large", &Style::default()).unwrap();
        assert!(picture.width() < 1500 && picture.height() < 500);
        assert_eq!(count(&picture, [10, 20, 30]), 384 * 288);
    }

    #[test]
    fn bad_input_is_an_error() {
        let map = Grid::new(1, 1, vec![0.0]).unwrap();
        let empty = standard(&RgbImage::new(5, 0), &map, "", &Style::default());
        assert!(matches!(
            empty,
            Err(Error::EmptyImage {
                width: 5,
                height: 0
            })
        ));
        let style = Style {
            alpha: -1.0,
            ..Style::default()
        };
        let alpha = standard(&RgbImage::new(5, 5), &map, "", &style);
        assert!(matches!(alpha, Err(Error::Alpha(_))));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn any_sizes_and_finite_values_draw(
            (width, height) in (1u32..64, 1u32..64),
            map in (1usize..64, 1usize..64).prop_flat_map(|(width, height)| {
                let finite = f32::POSITIVE | f32::NEGATIVE | f32::NORMAL | f32::SUBNORMAL | f32::ZERO;
                vec(finite, width * height)
                    .prop_map(move |values| Grid::new(width, height, values).unwrap())
            }),
            title in ".*",
        ) {
            let photo = RgbImage::from_pixel(width, height, Rgb([9, 99, 199]));
            let style = Style { panel: 64, ..Style::default() };
            let picture = standard(&photo, &map, &title, &style).unwrap();
            let (width, height) = fit(width, height, 64);
            let photos = picture.pixels().filter(|pixel| pixel.0 == [9, 99, 199]).count();
            prop_assert!(photos >= (width * height) as usize);
            let scaled = map.scaled_by_max();
            prop_assert!(signed(&photo, &map, &scaled, &title, &style).is_ok());
        }
    }
}
