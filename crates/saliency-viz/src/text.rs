//! Text in DejaVu Sans.

use std::sync::LazyLock;

use ab_glyph::{Font, FontRef, Glyph, PxScale, ScaleFont, point};
use image::RgbImage;

use crate::canvas::mix;

pub(crate) const TITLE: f32 = 18.0;
pub(crate) const CAPTION: f32 = 14.0;
pub(crate) const TICK: f32 = 11.5;

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Align {
    Left,
    Centre,
    Right,
}

/// A font size in pixels per em, and its weight.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Face {
    pub size: f32,
    pub weight: Weight,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Weight {
    Regular,
    Bold,
}

pub(crate) const fn regular(size: f32) -> Face {
    Face {
        size,
        weight: Weight::Regular,
    }
}

pub(crate) const fn bold(size: f32) -> Face {
    Face {
        size,
        weight: Weight::Bold,
    }
}

static REGULAR: LazyLock<Option<FontRef<'static>>> =
    LazyLock::new(|| FontRef::try_from_slice(dejavu::sans::regular()).ok());
static BOLD: LazyLock<Option<FontRef<'static>>> =
    LazyLock::new(|| FontRef::try_from_slice(dejavu::sans::bold()).ok());

/// Draws one line whose capital letters are centred on `y`; `x` is its left end,
/// centre or right end.
pub(crate) fn write(
    canvas: &mut RgbImage,
    (x, y): (i32, i32),
    align: Align,
    face: Face,
    colour: [u8; 3],
    text: &str,
) {
    let (glyphs, width) = layout(face, text);
    let left = match align {
        Align::Left => x as f32,
        Align::Centre => x as f32 - width / 2.0,
        Align::Right => x as f32 - width,
    };
    // DejaVu's capitals are 0.729 em tall.
    let baseline = (y as f32 + 0.5 + 0.3645 * face.size).round();
    let Some(font) = font(face) else { return };
    for mut glyph in glyphs {
        glyph.position.x += left.round();
        glyph.position.y = baseline;
        if let Some(outlined) = font.outline_glyph(glyph) {
            let corner = outlined.px_bounds().min;
            outlined.draw(|dx, dy, coverage| {
                let (x, y) = (corner.x as i32 + dx as i32, corner.y as i32 + dy as i32);
                mix(canvas, x, y, colour, coverage.clamp(0.0, 1.0));
            });
        }
    }
}

/// Width in pixels of one line.
pub(crate) fn width(face: Face, text: &str) -> i32 {
    layout(face, text).1.ceil() as i32
}

/// `text`, cut and ended with an ellipsis if it is wider than `available` pixels.
/// Line breaks and other control characters become spaces.
pub(crate) fn shorten(face: Face, text: &str, available: i32) -> String {
    // Few letters are narrower than an eighth of an em: never lay out a novel.
    let longest = (available.max(0) as f32 * 8.0 / face.size) as usize + 8;
    let mut short: String = clean(text).take(longest).collect();
    if clean(text).nth(longest).is_none() && width(face, &short) <= available {
        return short;
    }
    while short.pop().is_some() {
        let candidate = format!("{}…", short.trim_end());
        if width(face, &candidate) <= available {
            return candidate;
        }
    }
    String::new()
}

fn clean(text: &str) -> impl Iterator<Item = char> {
    text.trim()
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
}

fn font(face: Face) -> Option<&'static FontRef<'static>> {
    match face.weight {
        Weight::Regular => REGULAR.as_ref(),
        Weight::Bold => BOLD.as_ref(),
    }
}

/// Glyphs on a baseline from x = 0, and the width they take.
fn layout(face: Face, text: &str) -> (Vec<Glyph>, f32) {
    let Some(font) = font(face) else {
        return (Vec::new(), 0.0);
    };
    let em = font.units_per_em().unwrap_or(2048.0);
    let scaled = font.as_scaled(PxScale::from(face.size * font.height_unscaled() / em));
    let mut x = 0.0;
    let mut glyphs: Vec<Glyph> = Vec::new();
    for c in text.chars() {
        let mut glyph = scaled.scaled_glyph(c);
        if let Some(previous) = glyphs.last() {
            x += scaled.kern(previous.id, glyph.id);
        }
        glyph.position = point(x, 0.0);
        x += scaled.h_advance(glyph.id);
        glyphs.push(glyph);
    }
    (glyphs, x)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::canvas::{TEXT, blank};
    use proptest::prelude::*;

    fn ink(canvas: &RgbImage) -> Vec<(u32, u32)> {
        canvas
            .enumerate_pixels()
            .filter(|(_, _, pixel)| pixel.0[0] < 128)
            .map(|(x, y, _)| (x, y))
            .collect()
    }

    #[test]
    fn letters_are_drawn_where_asked() {
        for (align, low, high) in [
            (Align::Left, 100, 160),
            (Align::Centre, 70, 130),
            (Align::Right, 40, 100),
        ] {
            let mut canvas = blank(200, 40);
            write(&mut canvas, (100, 20), align, regular(14.0), TEXT, "HHHH");
            let ink = ink(&canvas);
            assert!(ink.len() > 40);
            assert!(
                ink.iter().all(|&(x, _)| (low..=high).contains(&x)),
                "{align:?}"
            );
            let top = ink.iter().map(|p| p.1).min().unwrap();
            let bottom = ink.iter().map(|p| p.1).max().unwrap();
            assert!((top + bottom).abs_diff(40) <= 2, "{top} {bottom}");
        }
    }

    #[test]
    fn an_em_is_the_size_asked_for() {
        // DejaVu Sans: the em dash is exactly one em wide.
        assert_eq!(width(regular(20.0), "—"), 20);
        assert!(width(bold(20.0), "saliency") > width(regular(20.0), "saliency"));
    }

    #[test]
    fn long_text_ends_in_an_ellipsis() {
        let face = regular(14.0);
        let long = "a title that goes on ".repeat(1000);
        let short = shorten(face, &long, 150);
        assert!(short.starts_with("a title that") && short.ends_with('…'));
        assert!(width(face, &short) <= 150);
        assert!(width(face, &short) > 120);
        assert_eq!(shorten(face, "fits", 150), "fits");
        assert_eq!(shorten(face, "no room", 3), "");
        assert_eq!(shorten(face, "x", -5), "");
    }

    #[test]
    fn any_characters_can_be_written() {
        let text = "naïve Ωμέγα 中文 🦀 \u{0}\u{200d}\u{fffd}\r\nx";
        let short = shorten(regular(12.0), text, 10_000);
        assert!(!short.contains('\n') && short.contains("naïve"));
        let mut canvas = blank(300, 30);
        write(&mut canvas, (0, 15), Align::Left, bold(12.0), TEXT, text);
        assert!(!ink(&canvas).is_empty());
    }

    proptest! {
        #[test]
        fn shortened_text_fits(text in "\\PC*", available in 0..400i32, size in 8f32..30.0) {
            let short = shorten(regular(size), &text, available);
            prop_assert!(width(regular(size), &short) <= available);
            let whole = width(regular(size), text.trim()) <= available / 2;
            prop_assert!(!whole || short == text.trim());
        }
    }
}
