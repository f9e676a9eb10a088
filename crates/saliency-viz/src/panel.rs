//! A picture of captioned panels in rows, under a title.

use image::RgbImage;

use crate::canvas::{FRAME, Rect, TEXT, blank, fill, frame, paste};
use crate::colormap::Colormap;
use crate::text::{Align, CAPTION, TICK, TITLE, bold, regular, shorten, width, write};
use crate::ticks::{Labels, even, labels};

const MARGIN: i32 = 20;
const GAP: i32 = 26;
const TITLE_BAND: i32 = 38;
const CAPTION_BAND: i32 = 26;
const POWER_BAND: i32 = 16;
const NARROWEST: i32 = 150;
const BAR_GAP: i32 = 9;
const BAR_WIDTH: i32 = 13;
const TICK_LENGTH: i32 = 4;
const LABEL_GAP: i32 = 4;

pub(crate) struct Panel {
    pub image: RgbImage,
    pub caption: String,
    pub bar: Option<Bar>,
}

/// A colour bar: what the first and the last colour stand for.
pub(crate) struct Bar {
    pub colormap: Colormap,
    pub low: f64,
    pub high: f64,
}

/// Lays the panels out in rows of `columns`.
pub(crate) fn arrange(panels: &[Panel], columns: usize, title: &str) -> RgbImage {
    let columns = columns.clamp(1, panels.len().max(1));
    let drawn: Vec<Drawn> = panels.iter().map(Drawn::new).collect();
    let slots = slots(&drawn, columns);
    let rows: Vec<i32> = drawn
        .chunks(columns)
        .map(|row| row.iter().map(Drawn::height).max().unwrap_or(0))
        .collect();

    let across = slots.last().map_or(MARGIN, |slot| slot.x + slot.width) + MARGIN;
    let band = if title.trim().is_empty() {
        0
    } else {
        TITLE_BAND
    };
    let top = MARGIN + band - CAPTION_BAND / 4;
    let down = top + MARGIN + rows.iter().sum::<i32>() + GAP / 2 * (rows.len() as i32 - 1).max(0);
    let mut canvas = blank(across, down);

    let heading = shorten(bold(TITLE), title, across - 2 * MARGIN);
    write(
        &mut canvas,
        (across / 2, MARGIN + 8),
        Align::Centre,
        bold(TITLE),
        TEXT,
        &heading,
    );

    let mut y = top;
    for (row, height) in drawn.chunks(columns).zip(&rows) {
        for (panel, slot) in row.iter().zip(&slots) {
            panel.draw(&mut canvas, slot, y);
        }
        y += height + GAP / 2;
    }
    canvas
}

/// A column of panels: its extent, and where its images begin.
struct Slot {
    x: i32,
    width: i32,
    image: i32,
}

fn slots(drawn: &[Drawn], columns: usize) -> Vec<Slot> {
    let mut x = MARGIN;
    (0..columns)
        .map(|column| {
            let widths = drawn.iter().skip(column).step_by(columns).map(Drawn::width);
            let widest = widths.max().unwrap_or(0);
            let width = widest.max(NARROWEST);
            let slot = Slot {
                x,
                width,
                image: x + (width - widest) / 2,
            };
            x += width + GAP;
            slot
        })
        .collect()
}

/// A panel with its colour bar's labels worked out.
struct Drawn<'a> {
    panel: &'a Panel,
    labels: Option<Labels>,
}

impl<'a> Drawn<'a> {
    fn new(panel: &'a Panel) -> Self {
        let labels = panel.bar.as_ref().map(|bar| {
            let count = match panel.image.height() {
                0..60 => 2,
                60..140 => 3,
                _ => 5,
            };
            if bar.low == bar.high {
                labels(&[bar.low])
            } else {
                labels(&even(bar.low, bar.high, count))
            }
        });
        Self { panel, labels }
    }

    fn image_size(&self) -> (i32, i32) {
        let (width, height) = self.panel.image.dimensions();
        (width as i32, height as i32)
    }

    fn width(&self) -> i32 {
        let image = self.image_size().0;
        self.labels.as_ref().map_or(image, |labels| {
            let texts = labels.texts.iter().map(|text| width(regular(TICK), text));
            let label = texts.max().unwrap_or(0) + TICK_LENGTH + LABEL_GAP;
            let power = width(regular(TICK), &labels.power) - BAR_WIDTH;
            image + BAR_GAP + BAR_WIDTH + label.max(power)
        })
    }

    fn height(&self) -> i32 {
        let has_power = self
            .labels
            .as_ref()
            .is_some_and(|labels| !labels.power.is_empty());
        CAPTION_BAND + self.image_size().1 + if has_power { POWER_BAND } else { 0 }
    }

    fn draw(&self, canvas: &mut RgbImage, slot: &Slot, y: i32) {
        let (width, height) = self.image_size();
        let area = Rect {
            x: slot.image,
            y: y + CAPTION_BAND,
            width,
            height,
        };
        let (centre, available) = if width >= NARROWEST {
            (slot.image + width / 2, width)
        } else {
            (slot.x + slot.width / 2, slot.width)
        };
        let caption = shorten(regular(CAPTION), &self.panel.caption, available);
        write(
            canvas,
            (centre, y + CAPTION_BAND / 2 - 1),
            Align::Centre,
            regular(CAPTION),
            TEXT,
            &caption,
        );
        paste(canvas, &self.panel.image, area.x, area.y);
        frame(canvas, area, FRAME);
        if let (Some(bar), Some(labels)) = (&self.panel.bar, &self.labels) {
            let area = Rect {
                x: area.right() + BAR_GAP,
                width: BAR_WIDTH,
                ..area
            };
            draw_bar(canvas, area, bar.colormap, labels);
        }
    }
}

/// The largest value is at the top; a single label belongs to the bottom.
fn draw_bar(canvas: &mut RgbImage, area: Rect, colormap: Colormap, labels: &Labels) {
    for row in 0..area.height {
        let value = 1.0 - (row as f32 + 0.5) / area.height as f32;
        let line = Rect {
            y: area.y + row,
            height: 1,
            ..area
        };
        fill(canvas, line, colormap.at(value));
    }
    frame(canvas, area, FRAME);
    let steps = (labels.texts.len() as i32 - 1).max(1);
    for (i, text) in labels.texts.iter().enumerate() {
        let y = area.bottom() - 1 - (area.height - 1) * i as i32 / steps;
        let tick = Rect {
            x: area.right() + 1,
            y,
            width: TICK_LENGTH,
            height: 1,
        };
        fill(canvas, tick, FRAME);
        let x = tick.right() + LABEL_GAP - 1;
        write(canvas, (x, y), Align::Left, regular(TICK), TEXT, text);
    }
    let below = (area.x, area.bottom() + POWER_BAND);
    write(
        canvas,
        below,
        Align::Left,
        regular(TICK),
        TEXT,
        &labels.power,
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use image::Rgb;

    fn panel(width: u32, height: u32, shade: u8) -> Panel {
        Panel {
            image: RgbImage::from_pixel(width, height, Rgb([shade, 0, shade])),
            caption: "caption".to_string(),
            bar: None,
        }
    }

    fn count(canvas: &RgbImage, colour: [u8; 3]) -> usize {
        canvas.pixels().filter(|pixel| pixel.0 == colour).count()
    }

    #[test]
    fn every_panel_is_drawn_whole() {
        let panels: Vec<Panel> = (0..5u32)
            .map(|i| panel(100 + 30 * i, 200, 200 + i as u8))
            .collect();
        for columns in [1, 2, 3, 5, 9] {
            let canvas = arrange(&panels, columns, "title");
            for (i, panel) in panels.iter().enumerate() {
                let shade = 200 + i as u8;
                let pixels = panel.image.width() as usize * 200;
                assert_eq!(
                    count(&canvas, [shade, 0, shade]),
                    pixels,
                    "{columns} columns"
                );
            }
        }
    }

    #[test]
    fn without_a_title_there_is_no_band_for_it() {
        let one = [panel(200, 100, 7)];
        let (with, without) = (arrange(&one, 1, "title"), arrange(&one, 1, " "));
        assert_eq!(with.height() - without.height(), TITLE_BAND as u32);
        assert_eq!(with.width(), 200 + 2 * MARGIN as u32);
    }

    #[test]
    fn a_colour_bar_runs_from_the_last_colour_to_the_first() {
        let mut mapped = panel(200, 256, 7);
        mapped.bar = Some(Bar {
            colormap: Colormap::Viridis,
            low: 0.0,
            high: 1.0,
        });
        let canvas = arrange(&[mapped], 1, "");
        let x = (MARGIN + 200 + BAR_GAP) as u32;
        let top = (MARGIN - CAPTION_BAND / 4 + CAPTION_BAND) as u32;
        for row in 0..256 {
            let expected = Colormap::Viridis.table()[255 - row as usize];
            assert_eq!(canvas.get_pixel(x, top + row).0, expected);
            assert_eq!(
                canvas.get_pixel(x + BAR_WIDTH as u32 - 1, top + row).0,
                expected
            );
        }
    }

    #[test]
    fn images_of_a_column_begin_at_the_same_place() {
        let bar = Bar {
            colormap: Colormap::Gray,
            low: 0.0,
            high: 1.0,
        };
        let mut panels = [panel(160, 90, 1), panel(160, 90, 2)];
        panels[1].bar = Some(bar);
        let canvas = arrange(&panels, 1, "");
        let left = |shade: u8| {
            let of = canvas
                .enumerate_pixels()
                .filter(|p| p.2.0 == [shade, 0, shade]);
            of.map(|p| p.0).min().unwrap()
        };
        assert_eq!(left(1), left(2));
    }

    #[test]
    fn no_panels_still_give_a_picture() {
        assert!(arrange(&[], 3, "empty").width() > 0);
    }
}
