use image::RgbImage;

use crate::blend::{colour, paint};
use crate::colormap::Colormap;
use crate::error::{Error, Result};
use crate::grid::Grid;
use crate::panel::{Bar, Panel, arrange};
use crate::resample::blocks;
use crate::standard::original_panel;
use crate::style::Style;

/// Four panels: the photograph; `positive` in `Reds`; `negative` (magnitudes) in
/// `Blues`; both together, red for positive and blue for negative.
///
/// Each part is scaled by its own maximum ([`Grid::scaled_by_max`]) and values below
/// zero are drawn as zero. With p and n the scaled parts, the last panel's colour is
/// `(1 - n, (1 - p)(1 - n), 1 - p)`: white where both are zero, dark where both are
/// large.
///
/// # Errors
/// Parts of different sizes, a photograph without pixels, or a style out of range.
///
/// ```
/// use image::RgbImage;
/// use saliency_viz::{Grid, Style, signed};
///
/// let positive = Grid::new(2, 1, vec![0.3, 0.0])?;
/// let negative = Grid::new(2, 1, vec![0.0, 0.1])?;
/// let photo = RgbImage::new(64, 64);
/// let picture = signed(&photo, &positive, &negative, "Signed gradient", &Style::default())?;
/// assert!(picture.width() > 4 * 384);
/// # Ok::<(), saliency_viz::Error>(())
/// ```
pub fn signed(
    original: &RgbImage,
    positive: &Grid,
    negative: &Grid,
    title: &str,
    style: &Style,
) -> Result<RgbImage> {
    style.check()?;
    let size = |grid: &Grid| (grid.width(), grid.height());
    if size(positive) != size(negative) {
        return Err(Error::GridMismatch {
            positive: size(positive),
            negative: size(negative),
        });
    }
    let first = original_panel(original, style)?;
    let size = first.image.dimensions();
    let p = blocks(&positive.scaled_by_max(), size);
    let n = blocks(&negative.scaled_by_max(), size);
    let both = Panel {
        image: paint(size, p.iter().zip(&n).map(|(&p, &n)| red_blue(p, n))),
        caption: "Both (red +, blue −)".to_string(),
        bar: None,
    };
    let panels = [
        first,
        part(positive, &p, "Positive", Colormap::Reds, size),
        part(negative, &n, "Negative", Colormap::Blues, size),
        both,
    ];
    Ok(arrange(&panels, 4, title))
}

fn part(grid: &Grid, scaled: &[f32], name: &str, colormap: Colormap, size: (u32, u32)) -> Panel {
    let high = f64::from(grid.max()).max(0.0);
    let caption = if high == 0.0 {
        format!("{name} (none)")
    } else {
        name.to_string()
    };
    Panel {
        image: colour(scaled, size, colormap),
        caption,
        bar: Some(Bar {
            colormap,
            low: 0.0,
            high,
        }),
    }
}

fn red_blue(p: f32, n: f32) -> [u8; 3] {
    let (p, n) = (p.clamp(0.0, 1.0), n.clamp(0.0, 1.0));
    [1.0 - n, (1.0 - p) * (1.0 - n), 1.0 - p].map(|channel| (255.0 * channel).round() as u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grid(values: [f32; 4]) -> Grid {
        Grid::new(2, 2, values.to_vec()).unwrap()
    }

    #[test]
    fn both_signs_mix_on_white() {
        assert_eq!(red_blue(0.0, 0.0), [255, 255, 255]);
        assert_eq!(red_blue(1.0, 0.0), [255, 0, 0]);
        assert_eq!(red_blue(0.0, 1.0), [0, 0, 255]);
        assert_eq!(red_blue(0.2, 0.6), [102, 82, 204]);
        assert_eq!(red_blue(-1.0, 7.0), [0, 0, 255]);
    }

    #[test]
    fn each_part_is_scaled_by_its_own_maximum() {
        let photo = RgbImage::new(2, 2);
        let positive = grid([1000.0, 0.0, 500.0, 0.0]);
        let negative = grid([0.0, 0.002, 0.0, 0.0]);
        let style = Style {
            panel: 200,
            ..Style::default()
        };
        let picture = signed(&photo, &positive, &negative, "", &style).unwrap();
        let count = |colour: [u8; 3]| picture.pixels().filter(|pixel| pixel.0 == colour).count();
        assert!(count(Colormap::Reds.at(1.0)) >= 100 * 100);
        assert!(count(Colormap::Reds.at(0.5)) >= 100 * 100);
        assert_eq!(count([255, 0, 0]), 100 * 100);
        assert_eq!(count([0, 0, 255]), 100 * 100);
        assert_eq!(count([255, 128, 128]), 100 * 100);
    }

    #[test]
    fn zeros_and_misuse_draw_or_are_errors() {
        let photo = RgbImage::new(9, 5);
        let zeros = grid([0.0; 4]);
        let style = Style::default();
        assert!(signed(&photo, &zeros, &zeros, "nothing", &style).is_ok());
        assert!(signed(&photo, &grid([-1.0; 4]), &zeros, "below", &style).is_ok());
        let other = Grid::new(4, 1, vec![0.0; 4]).unwrap();
        let error = signed(&photo, &zeros, &other, "", &style).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the positive grid is 2x2 and the negative one 4x1: give both the same size"
        );
    }
}
