use image::RgbImage;

use crate::canvas::{FAINT, FRAME, Rect, TEXT, blank, fill};
use crate::chart::{NEGATIVE, POSITIVE, Scale, horizontal_axis};
use crate::error::Result;
use crate::grid::check_finite;
use crate::histogram::within;
use crate::text::{Align, Face, TITLE, bold, regular, shorten, width, write};
use crate::ticks::short;

const BARS: (usize, usize) = (1, 200);
const NAME: Face = regular(13.0);
const ROW: i32 = 28;
const THICK: i32 = 16;
const PLOT: i32 = 420;
const NAMES: i32 = 280;
const GREY: [u8; 3] = [110, 110, 110];
const MAGNITUDE: [u8; 3] = [76, 114, 176];
/// Darker than any bar.
const WHISKER: [u8; 3] = [20, 20, 20];

/// One bar of [`bars`].
///
/// ```
/// let bar = saliency_viz::Bar::new("age", -0.4).detail("= 23").interval(-0.5, -0.3);
/// assert_eq!(bar.interval, Some((-0.5, -0.3)));
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Bar {
    /// The feature.
    pub name: String,
    /// What stands in grey after its name, such as the feature's own value.
    pub detail: String,
    /// How long the bar is; left of zero where negative.
    pub value: f32,
    /// Ends of a whisker over the bar's end, such as a confidence interval.
    pub interval: Option<(f32, f32)>,
    /// A share, 0 to 1, written as per cent beside the value.
    pub share: Option<f32>,
}

impl Bar {
    /// A bar with nothing beside it.
    pub fn new(name: impl Into<String>, value: f32) -> Self {
        Bar {
            name: name.into(),
            value,
            ..Bar::default()
        }
    }

    /// What stands in grey after the name.
    pub fn detail(mut self, detail: impl Into<String>) -> Self {
        self.detail = detail.into();
        self
    }

    /// Ends of a whisker.
    pub fn interval(mut self, low: f32, high: f32) -> Self {
        self.interval = Some((low, high));
        self
    }

    /// A share, 0 to 1.
    pub fn share(mut self, share: f32) -> Self {
        self.share = Some(share);
        self
    }
}

/// Horizontal bars of features, in the order given: red to the right, blue to the left.
///
/// # Errors
/// No bars or more than 200, or a number that is not finite.
///
/// ```
/// use saliency_viz::{Bar, bars};
/// let features = [
///     Bar::new("income", 0.8).detail("= 2 300").share(0.6),
///     Bar::new("age", -0.5).interval(-0.7, -0.3).share(0.4),
/// ];
/// let picture = bars(&features, "Why row 17 was refused", "contribution to the score")?;
/// assert!(picture.width() > 600);
/// # Ok::<(), saliency_viz::Error>(())
/// ```
pub fn bars(bars: &[Bar], title: &str, axis: &str) -> Result<RgbImage> {
    draw(bars, title, axis, Signs::Shown)
}

/// The same in one colour, for numbers without a sign such as mean |contribution|.
///
/// # Errors
/// Those of [`bars`].
///
/// ```
/// use saliency_viz::{Bar, magnitudes};
/// let features = [Bar::new("income", 0.8).interval(0.7, 0.9), Bar::new("age", 0.5)];
/// let picture = magnitudes(&features, "1000 rows", "mean |contribution|")?;
/// assert!(picture.width() > 500);
/// # Ok::<(), saliency_viz::Error>(())
/// ```
pub fn magnitudes(bars: &[Bar], title: &str, axis: &str) -> Result<RgbImage> {
    draw(bars, title, axis, Signs::None)
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Signs {
    Shown,
    None,
}

fn draw(bars: &[Bar], title: &str, axis: &str, signs: Signs) -> Result<RgbImage> {
    within("bars", bars.len(), BARS)?;
    let ends = |bar: &Bar| {
        let (low, high) = bar.interval.unwrap_or((bar.value, bar.value));
        [bar.value, low, high]
    };
    let numbers: Vec<f32> = bars.iter().flat_map(ends).collect();
    check_finite("the bars", &numbers)?;

    let labels: Vec<(String, String)> = bars.iter().map(label).collect();
    let names = labels.iter().map(|(name, detail)| {
        let gap = if detail.is_empty() { 0 } else { 6 };
        width(NAME, name) + gap + width(NAME, detail)
    });
    let values: Vec<String> = bars.iter().map(|bar| value_text(bar, signs)).collect();
    let value_width = values.iter().map(|text| width(NAME, text)).max();
    let has_shares = bars.iter().any(|bar| bar.share.is_some());
    let plot = Rect {
        x: 24 + names.max().unwrap_or(0) + 10,
        y: if title.trim().is_empty() { 18 } else { 52 },
        width: PLOT,
        height: bars.len() as i32 * ROW + 6,
    };
    let value_right = plot.right() + 16 + value_width.unwrap_or(0);
    let across = value_right + if has_shares { 54 } else { 0 } + 20;
    let mut canvas = blank(across, plot.bottom() + 62);
    let heading = shorten(bold(TITLE), title, across - 40);
    let top = (across / 2, 26);
    write(&mut canvas, top, Align::Centre, bold(TITLE), TEXT, &heading);

    let scale = Scale::with_zero(numbers);
    horizontal_axis(&mut canvas, plot, scale, axis);
    for (row, (bar, (name, detail))) in bars.iter().zip(&labels).enumerate() {
        let middle = plot.y + 3 + row as i32 * ROW + ROW / 2;
        draw_bar(&mut canvas, plot, scale, middle, (bar, signs));
        let mut right = plot.x - 10;
        write(
            &mut canvas,
            (right, middle),
            Align::Right,
            NAME,
            GREY,
            detail,
        );
        if !detail.is_empty() {
            right -= width(NAME, detail) + 6;
        }
        write(&mut canvas, (right, middle), Align::Right, NAME, TEXT, name);
        let at = (value_right, middle);
        write(&mut canvas, at, Align::Right, NAME, TEXT, &values[row]);
        if let Some(share) = bar.share {
            let text = format!("{:.1} %", 100.0 * share);
            let at = (value_right + 60, middle);
            write(&mut canvas, at, Align::Right, NAME, GREY, &text);
        }
    }
    Ok(canvas)
}

/// Name and detail, the longer of them shortened first.
fn label(bar: &Bar) -> (String, String) {
    let detail = shorten(NAME, &bar.detail, NAMES * 2 / 5);
    let room = NAMES - width(NAME, &detail);
    (shorten(NAME, &bar.name, room), detail)
}

fn value_text(bar: &Bar, signs: Signs) -> String {
    match bar.value > 0.0 && signs == Signs::Shown {
        true => format!("+{}", short(bar.value.into())),
        false => short(bar.value.into()),
    }
}

fn draw_bar(
    canvas: &mut RgbImage,
    plot: Rect,
    scale: Scale,
    middle: i32,
    (bar, signs): (&Bar, Signs),
) {
    let (zero, end) = (scale.x(plot, 0.0).round(), scale.x(plot, bar.value).round());
    let area = Rect {
        x: zero.min(end) as i32,
        y: middle - THICK / 2,
        width: (zero - end).abs() as i32 + 1,
        height: THICK,
    };
    let colour = match bar.value {
        _ if signs == Signs::None => MAGNITUDE,
        value if value > 0.0 => POSITIVE,
        value if value < 0.0 => NEGATIVE,
        _ => FRAME,
    };
    fill(canvas, area, colour);
    let rule = Rect {
        y: middle + ROW / 2 + 1,
        height: 1,
        ..plot
    };
    fill(canvas, rule, FAINT);
    if let Some((low, high)) = bar.interval {
        let (left, right) = (scale.x(plot, low).round(), scale.x(plot, high).round());
        let whisker = Rect {
            x: left as i32,
            y: middle - 1,
            width: (right - left) as i32 + 1,
            height: 2,
        };
        fill(canvas, whisker, WHISKER);
        for x in [left, right] {
            let cap = Rect {
                x: x as i32,
                y: middle - 5,
                width: 1,
                height: 10,
            };
            fill(canvas, cap, WHISKER);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn columns(picture: &RgbImage, colour: [u8; 3]) -> Vec<u32> {
        let mut columns: Vec<u32> = picture
            .enumerate_pixels()
            .filter(|(_, _, pixel)| pixel.0 == colour)
            .map(|(x, _, _)| x)
            .collect();
        columns.sort_unstable();
        columns.dedup();
        columns
    }

    #[test]
    fn bars_are_as_long_as_their_values_on_either_side_of_zero() {
        let picture = bars(&[Bar::new("a", 2.0), Bar::new("b", -1.0)], "", "x").unwrap();
        let (red, blue) = (columns(&picture, POSITIVE), columns(&picture, NEGATIVE));
        assert_eq!(red[0], *blue.last().unwrap(), "they meet at zero");
        let ratio = red.len() as f32 / blue.len() as f32;
        assert!((ratio - 2.0).abs() < 0.03, "{ratio}");
        assert_eq!(red.len() as u32 - 1, red.last().unwrap() - red[0]);
    }

    #[test]
    fn magnitudes_have_one_colour() {
        let picture = magnitudes(&[Bar::new("a", 2.0), Bar::new("b", 1.0)], "", "x").unwrap();
        assert!(columns(&picture, POSITIVE).is_empty());
        assert!(columns(&picture, MAGNITUDE).len() > 300);
        assert_eq!(value_text(&Bar::new("a", 2.0), Signs::None), "2.00");
    }

    #[test]
    fn a_whisker_spans_its_interval() {
        let bar = Bar::new("", 1.0);
        let with = bars(&[bar.clone().interval(0.5, 1.5)], "", "").unwrap();
        let whisker = columns(&with, WHISKER);
        let ends = (whisker[0], *whisker.last().unwrap());
        let end_of_bar = *columns(&with, POSITIVE).last().unwrap();
        let middle = (ends.0 + ends.1) / 2;
        assert!(middle.abs_diff(end_of_bar) <= 1, "{ends:?} {end_of_bar}");
        let zero = columns(&with, POSITIVE)[0];
        assert!((ends.0 - zero).abs_diff(end_of_bar - ends.0) <= 1);
    }

    #[test]
    fn the_picture_grows_with_the_bars_and_not_without_end_with_the_names() {
        let many: Vec<Bar> = (0..40).map(|i| Bar::new(format!("f{i}"), 1.0)).collect();
        let (one, all) = (
            bars(&many[..1], "t", "x").unwrap(),
            bars(&many, "t", "x").unwrap(),
        );
        assert_eq!(all.height() - one.height(), 39 * ROW as u32);
        let long = Bar::new("a name ".repeat(100), 1.0).detail("a value ".repeat(100));
        assert!(bars(&[long], "t", "x").unwrap().width() < 1000);
    }

    #[test]
    fn what_cannot_be_drawn_is_refused() {
        assert!(bars(&[], "", "").is_err());
        let error = bars(&[Bar::new("a", f32::NAN)], "", "").unwrap_err();
        assert!(error.to_string().contains("the bars is NaN"), "{error}");
        assert!(bars(&[Bar::new("a", 1.0).interval(0.0, f32::INFINITY)], "", "").is_err());
        assert!(bars(&[Bar::new("zero", 0.0)], "", "").is_ok());
    }
}
