//! Drawing on an image with signed coordinates; what falls outside is cut off.

use image::{Rgb, RgbImage};

pub(crate) const WHITE: [u8; 3] = [255, 255, 255];
pub(crate) const TEXT: [u8; 3] = [38, 38, 38];
pub(crate) const FAINT: [u8; 3] = [230, 230, 230];
pub(crate) const FRAME: [u8; 3] = [120, 120, 120];

/// A rectangle of pixels.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Rect {
    pub x: i32,
    pub y: i32,
    pub width: i32,
    pub height: i32,
}

impl Rect {
    pub fn right(self) -> i32 {
        self.x + self.width
    }

    pub fn bottom(self) -> i32 {
        self.y + self.height
    }
}

pub(crate) fn blank(width: i32, height: i32) -> RgbImage {
    RgbImage::from_pixel(width.max(1) as u32, height.max(1) as u32, Rgb(WHITE))
}

pub(crate) fn fill(canvas: &mut RgbImage, area: Rect, colour: [u8; 3]) {
    for y in area.y..area.bottom() {
        for x in area.x..area.right() {
            set(canvas, x, y, colour);
        }
    }
}

/// A line one pixel wide around the outside of `area`.
pub(crate) fn frame(canvas: &mut RgbImage, area: Rect, colour: [u8; 3]) {
    for x in area.x - 1..=area.right() {
        set(canvas, x, area.y - 1, colour);
        set(canvas, x, area.bottom(), colour);
    }
    for y in area.y..area.bottom() {
        set(canvas, area.x - 1, y, colour);
        set(canvas, area.right(), y, colour);
    }
}

pub(crate) fn paste(canvas: &mut RgbImage, image: &RgbImage, x: i32, y: i32) {
    image::imageops::replace(canvas, image, x.into(), y.into());
}

pub(crate) fn set(canvas: &mut RgbImage, x: i32, y: i32, colour: [u8; 3]) {
    if let Some(pixel) = at(canvas, x, y) {
        *pixel = Rgb(colour);
    }
}

/// Mixes `colour` into a pixel with weight `coverage` in 0 to 1.
pub(crate) fn mix(canvas: &mut RgbImage, x: i32, y: i32, colour: [u8; 3], coverage: f32) {
    if let Some(Rgb(channels)) = at(canvas, x, y) {
        for (channel, colour) in channels.iter_mut().zip(colour) {
            let mixed = coverage * f32::from(colour) + (1.0 - coverage) * f32::from(*channel);
            *channel = mixed.round() as u8;
        }
    }
}

/// A disc of a radius in pixels around a point, its border smoothed.
pub(crate) fn disc(canvas: &mut RgbImage, (x, y): (f32, f32), radius: f32, colour: [u8; 3]) {
    let reach = radius.ceil() as i32 + 1;
    let (left, top) = (x.floor() as i32, y.floor() as i32);
    for py in top - reach..=top + reach {
        for px in left - reach..=left + reach {
            let distance = (px as f32 - x).hypot(py as f32 - y);
            let coverage = (radius + 0.5 - distance).clamp(0.0, 1.0);
            if coverage > 0.0 {
                mix(canvas, px, py, colour, coverage);
            }
        }
    }
}

/// A line of a width in pixels between two points, its border smoothed.
pub(crate) fn line(
    canvas: &mut RgbImage,
    from: (f32, f32),
    to: (f32, f32),
    width: f32,
    colour: [u8; 3],
) {
    let reach = width / 2.0 + 1.0;
    let (dx, dy) = (to.0 - from.0, to.1 - from.1);
    let length = (dx * dx + dy * dy).max(1e-12);
    let span = |a: f32, b: f32| {
        (
            (a.min(b) - reach).floor() as i32,
            (a.max(b) + reach).ceil() as i32,
        )
    };
    let ((left, right), (top, bottom)) = (span(from.0, to.0), span(from.1, to.1));
    for y in top..=bottom {
        for x in left..=right {
            let (px, py) = (x as f32 - from.0, y as f32 - from.1);
            let along = ((px * dx + py * dy) / length).clamp(0.0, 1.0);
            let distance = (px - along * dx).hypot(py - along * dy);
            let coverage = (width / 2.0 + 0.5 - distance).clamp(0.0, 1.0);
            if coverage > 0.0 {
                mix(canvas, x, y, colour, coverage);
            }
        }
    }
}

fn at(canvas: &mut RgbImage, x: i32, y: i32) -> Option<&mut Rgb<u8>> {
    let (x, y) = (u32::try_from(x).ok()?, u32::try_from(y).ok()?);
    canvas.get_pixel_mut_checked(x, y)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_surrounds_its_area_and_a_fill_stays_inside() {
        let mut canvas = blank(4, 4);
        let area = Rect {
            x: 1,
            y: 1,
            width: 2,
            height: 2,
        };
        frame(&mut canvas, area, [1; 3]);
        fill(&mut canvas, area, [2; 3]);
        let reds: Vec<u8> = canvas.pixels().map(|pixel| pixel.0[0]).collect();
        assert_eq!(reds, [1, 1, 1, 1, 1, 2, 2, 1, 1, 2, 2, 1, 1, 1, 1, 1]);
    }

    #[test]
    fn discs_and_lines_are_as_large_as_asked() {
        let ink = |canvas: &RgbImage| -> f32 {
            let dark = canvas.pixels().map(|p| 1.0 - f32::from(p.0[0]) / 255.0);
            dark.sum()
        };
        let mut canvas = blank(40, 40);
        disc(&mut canvas, (20.0, 20.0), 6.0, [0; 3]);
        assert!((ink(&canvas) - std::f32::consts::PI * 36.0).abs() < 4.0);
        assert_eq!(canvas.get_pixel(20, 20).0, [0; 3]);
        let mut canvas = blank(40, 40);
        line(&mut canvas, (5.0, 5.0), (35.0, 30.0), 2.0, [0; 3]);
        let length = 30f32.hypot(25.0);
        assert!(
            (ink(&canvas) - 2.0 * length).abs() < 5.0,
            "{}",
            ink(&canvas)
        );
        assert!(canvas.get_pixel(20, 17).0[0] < 128 || canvas.get_pixel(20, 18).0[0] < 128);
    }

    #[test]
    fn drawing_outside_is_cut_off() {
        let mut canvas = blank(2, 2);
        set(&mut canvas, -1, 0, [0; 3]);
        set(&mut canvas, 2, 0, [0; 3]);
        paste(&mut canvas, &RgbImage::new(1, 1), -5, 9);
        assert_eq!(canvas, blank(2, 2));
        mix(&mut canvas, 1, 1, [55, 155, 255], 0.5);
        assert_eq!(canvas.get_pixel(1, 1).0, [155, 205, 255]);
    }
}
