use image::RgbImage;

use crate::blend::overlay;
use crate::error::{Error, Result};
use crate::grid::Grid;
use crate::panel::{Panel, arrange};
use crate::standard::{map_panel, original_panel};
use crate::style::Style;

const ITEMS: (usize, usize) = (1, 100);

/// How [`gallery`] draws a map.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Cell {
    /// On its own with `style.map`, and a colour bar in its own units.
    #[default]
    Heatmap,
    /// Over the grey photograph with `style.overlay` at `style.alpha`.
    Overlay,
}

/// The photograph followed by labelled maps, in rows. Each map is min-max normalised
/// by itself ([`Grid::normalised`]) and stretched to the photograph.
///
/// # Errors
/// No items or more than 100, a photograph without pixels, or a style out of range.
///
/// ```
/// use image::RgbImage;
/// use saliency_viz::{Cell, Grid, Style, gallery};
///
/// let photo = RgbImage::new(96, 96);
/// let items = [("layer 3".to_string(), Grid::new(2, 1, vec![0.0, 1.0])?)];
/// let picture = gallery(&photo, &items, "Grad-CAM", Cell::Overlay, &Style::default())?;
/// assert!(picture.width() > 2 * 384);
/// # Ok::<(), saliency_viz::Error>(())
/// ```
pub fn gallery(
    original: &RgbImage,
    items: &[(String, Grid)],
    title: &str,
    cell: Cell,
    style: &Style,
) -> Result<RgbImage> {
    style.check()?;
    if !(ITEMS.0..=ITEMS.1).contains(&items.len()) {
        return Err(Error::Count {
            what: "maps to show side by side",
            found: items.len(),
            range: ITEMS,
        });
    }
    let first = original_panel(original, style)?;
    let size = first.image.dimensions();
    let maps = items.iter().map(|(label, map)| match cell {
        Cell::Heatmap => Ok(map_panel(map, label, style.map, size)),
        Cell::Overlay => Ok(Panel {
            image: overlay(&first.image, map, style.overlay, style.alpha)?,
            caption: label.clone(),
            bar: None,
        }),
    });
    let maps = maps.collect::<Result<Vec<Panel>>>()?;
    let panels: Vec<Panel> = std::iter::once(first).chain(maps).collect();
    Ok(arrange(&panels, columns(panels.len()), title))
}

/// The maps of several classes beside the photograph, each under its label, such as
/// `Labrador 83.1 %`: a [`gallery`] of heat maps.
///
/// # Errors
/// As [`gallery`].
///
/// ```
/// use image::RgbImage;
/// use saliency_viz::{Grid, Style, comparison};
///
/// let photo = RgbImage::new(96, 64);
/// let map = Grid::new(2, 1, vec![0.0, 1.0])?;
/// let items = ["Labrador 83.1 %", "Beagle 4.0 %"].map(|label| (label.to_string(), map.clone()));
/// let picture = comparison(&photo, &items, "Top classes", &Style::default())?;
/// assert!(picture.width() > 3 * 384);
/// # Ok::<(), saliency_viz::Error>(())
/// ```
pub fn comparison(
    original: &RgbImage,
    items: &[(String, Grid)],
    title: &str,
    style: &Style,
) -> Result<RgbImage> {
    gallery(original, items, title, Cell::Heatmap, style)
}

/// One gradient under several channel reductions (`max`, `mean`, `l2`, ...), each
/// under its name: a [`gallery`] of heat maps.
///
/// # Errors
/// As [`gallery`].
///
/// ```
/// use image::RgbImage;
/// use saliency_viz::{Grid, Style, aggregations};
///
/// let photo = RgbImage::new(96, 64);
/// let max = Grid::new(2, 1, vec![0.0, 1.0])?;
/// let mean = Grid::new(2, 1, vec![0.0, 0.4])?;
/// let items = [("max".to_string(), max), ("mean".to_string(), mean)];
/// assert!(aggregations(&photo, &items, "Reductions", &Style::default()).is_ok());
/// # Ok::<(), saliency_viz::Error>(())
/// ```
pub fn aggregations(
    original: &RgbImage,
    items: &[(String, Grid)],
    title: &str,
    style: &Style,
) -> Result<RgbImage> {
    gallery(original, items, title, Cell::Heatmap, style)
}

/// One row up to four panels, then as square as four columns allow.
fn columns(panels: usize) -> usize {
    match panels {
        0..=4 => panels,
        5 | 6 | 9 => 3,
        _ => 4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::colormap::Colormap;
    use image::Rgb;

    fn items(count: usize) -> Vec<(String, Grid)> {
        let map = Grid::new(2, 1, vec![0.0, 1.0]).unwrap();
        (0..count)
            .map(|i| (format!("class {i}"), map.clone()))
            .collect()
    }

    #[test]
    fn each_map_gets_its_panel() {
        let photo = RgbImage::from_pixel(100, 100, Rgb([1, 2, 3]));
        let style = Style {
            panel: 100,
            ..Style::default()
        };
        for count in [1, 3, 4, 7, 11] {
            let picture = gallery(&photo, &items(count), "", Cell::Heatmap, &style).unwrap();
            let dark = picture
                .pixels()
                .filter(|pixel| pixel.0 == [10, 0, 0])
                .count();
            // half of each map's 100 x 100, and part of its bar (13 wide)
            assert!(
                (count * 5000..=count * 5013).contains(&dark),
                "{count}: {dark}"
            );
            let photos = picture
                .pixels()
                .filter(|pixel| pixel.0 == [1, 2, 3])
                .count();
            assert_eq!(photos, 10_000);
        }
    }

    #[test]
    fn overlays_have_no_bars() {
        let photo = RgbImage::new(100, 100);
        let style = Style {
            alpha: 1.0,
            panel: 100,
            ..Style::default()
        };
        let picture = gallery(&photo, &items(1), "", Cell::Overlay, &style).unwrap();
        let first = picture
            .pixels()
            .filter(|pixel| pixel.0 == Colormap::Jet.at(0.0))
            .count();
        assert_eq!(first % 100, 0);
        assert!(first >= 2500);
    }

    #[test]
    fn the_number_of_items_is_checked() {
        let photo = RgbImage::new(8, 8);
        let error = comparison(&photo, &[], "", &Style::default()).unwrap_err();
        assert_eq!(
            error.to_string(),
            "0 maps to show side by side: give 1 to 100"
        );
        assert!(aggregations(&photo, &items(101), "", &Style::default()).is_err());
    }
}
