//! What the charts share: a horizontal scale, steps of time, signed colours.

use image::RgbImage;

use crate::canvas::{FAINT, FRAME, Rect, TEXT, fill, frame};
use crate::colormap::Colormap;
use crate::text::{Align, CAPTION, TICK, regular, shorten, width, write};
use crate::ticks::{even, labels, round};

/// What raises the score.
pub(crate) const POSITIVE: [u8; 3] = [202, 55, 62];
/// What lowers it.
pub(crate) const NEGATIVE: [u8; 3] = [49, 110, 179];

/// Values along a length of pixels.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Scale {
    pub low: f64,
    pub high: f64,
}

impl Scale {
    /// All values, never an empty range, with a margin where they do not end at zero.
    pub fn of(values: impl IntoIterator<Item = f32>) -> Self {
        let (mut low, mut high) = (f64::INFINITY, f64::NEG_INFINITY);
        for value in values {
            low = low.min(value.into());
            high = high.max(value.into());
        }
        if low > high {
            (low, high) = (0.0, 0.0);
        }
        if low == high {
            let around = if low == 0.0 { 1.0 } else { low.abs() / 2.0 };
            (low, high) = (low - around, high + around);
        }
        let margin = 0.05 * (high - low);
        Scale {
            low: if low == 0.0 { 0.0 } else { low - margin },
            high: if high == 0.0 { 0.0 } else { high + margin },
        }
    }

    /// All values and zero.
    pub fn with_zero(values: impl IntoIterator<Item = f32>) -> Self {
        Self::of(values.into_iter().chain([0.0]))
    }

    /// 0 at the low end, 1 at the high one.
    pub fn fraction(self, value: f64) -> f64 {
        (value - self.low) / (self.high - self.low)
    }

    /// Along the width of `plot`.
    pub fn x(self, plot: Rect, value: f32) -> f32 {
        plot.x as f32 + self.fraction(value.into()) as f32 * (plot.width - 1) as f32
    }

    /// Along the height of `plot`, upwards.
    pub fn y(self, plot: Rect, value: f32) -> f32 {
        plot.bottom() as f32 - 1.0 - self.fraction(value.into()) as f32 * (plot.height - 1) as f32
    }
}

/// Vertical grid lines, ticks with labels below `plot`, and the name of the axis.
pub(crate) fn horizontal_axis(canvas: &mut RgbImage, plot: Rect, scale: Scale, name: &str) {
    let ticks = round(scale.low, scale.high, 6);
    let labels = labels(&ticks);
    for (&value, text) in ticks.iter().zip(&labels.texts) {
        let x = scale.x(plot, value as f32).round() as i32;
        let colour = if value.abs() < 1e-9 * scale.high.abs().max(scale.low.abs()) {
            FRAME
        } else {
            FAINT
        };
        let line = Rect {
            x,
            width: 1,
            ..plot
        };
        fill(canvas, line, colour);
        let tick = Rect {
            x,
            y: plot.bottom() + 1,
            width: 1,
            height: 4,
        };
        fill(canvas, tick, FRAME);
        let below = (x, plot.bottom() + 16);
        write(canvas, below, Align::Centre, regular(TICK), TEXT, text);
    }
    let power = match labels.power.as_str() {
        "" => String::new(),
        power => format!(" ({power})"),
    };
    let name = shorten(regular(CAPTION), name, plot.width + 160) + &power;
    let below = (plot.x + plot.width / 2, plot.bottom() + 40);
    write(canvas, below, Align::Centre, regular(CAPTION), TEXT, &name);
}

/// Ticks and labels left of `plot`: about `count`, and at least two.
pub(crate) fn vertical_axis(canvas: &mut RgbImage, plot: Rect, scale: Scale, count: usize) {
    let ticks = (count..count + 4)
        .map(|count| round(scale.low, scale.high, count))
        .find(|ticks| ticks.len() > 1)
        .unwrap_or_else(|| vec![scale.low, scale.high]);
    let labels = labels(&ticks);
    for (&value, text) in ticks.iter().zip(&labels.texts) {
        let y = scale.y(plot, value as f32).round() as i32;
        let tick = Rect {
            x: plot.x - 5,
            y,
            width: 4,
            height: 1,
        };
        fill(canvas, tick, FRAME);
        let beside = (plot.x - 8, y);
        let text = format!("{text}{}", labels.power);
        write(canvas, beside, Align::Right, regular(TICK), TEXT, &text);
    }
}

/// The left and right end in pixels of step `step` of `steps`.
pub(crate) fn step_edges(plot: Rect, step: usize, steps: usize) -> (i32, i32) {
    let edge = |step: usize| plot.x + (plot.width as usize * step / steps) as i32;
    (edge(step), edge(step + 1).max(edge(step) + 1))
}

/// Free space between two names of steps.
const APART: i32 = 14;
/// Most names of steps on one axis.
const NAMED: usize = 8;

/// The name of a step below a time axis.
struct StepName {
    step: usize,
    text: String,
    centre: i32,
    width: i32,
}

/// The names of every n-th step, counted back from the last one: as many as fit side by side.
fn step_names(plot: Rect, times: &[String]) -> Vec<StepName> {
    let name = |step: usize| {
        let (left, right) = step_edges(plot, step, times.len());
        let text = shorten(regular(TICK), &times[step], 150);
        let width = width(regular(TICK), &text);
        let half = width / 2;
        // Names at the ends reach a little beyond the plot.
        let (least, most) = (plot.x - 30 + half, plot.right() + 40 - half);
        StepName {
            step,
            text,
            centre: ((left + right) / 2).clamp(least.min(most), most),
            width,
        }
    };
    let every = |stride: usize| -> Vec<StepName> {
        let mut names: Vec<StepName> = (0..times.len()).rev().step_by(stride).map(name).collect();
        names.reverse();
        names
    };
    let are_apart = |names: &[StepName]| {
        names.windows(2).all(|pair| {
            2 * (pair[1].centre - pair[0].centre) >= pair[0].width + pair[1].width + 2 * APART
        })
    };
    let least = times.len().div_ceil(NAMED).max(1);
    (least..=times.len())
        .map(every)
        .find(|names| are_apart(names))
        .unwrap_or_default()
}

/// As many of the steps' names below `plot` as fit, evenly spaced, the last one among them.
pub(crate) fn time_axis(canvas: &mut RgbImage, plot: Rect, times: &[String]) {
    for name in step_names(plot, times) {
        let (left, right) = step_edges(plot, name.step, times.len());
        let tick = Rect {
            x: (left + right) / 2,
            y: plot.bottom() + 1,
            width: 1,
            height: 4,
        };
        fill(canvas, tick, FRAME);
        let below = (name.centre, plot.bottom() + 16);
        let face = regular(TICK);
        write(canvas, below, Align::Centre, face, TEXT, &name.text);
    }
}

/// Red above zero, blue below, white at zero; `value` is meant to lie in -1 to 1.
pub(crate) fn signed_colour(value: f32) -> [u8; 3] {
    Colormap::RdBu.at(0.5 - 0.5 * value.clamp(-1.0, 1.0))
}

/// The largest absolute value, 1 where all are zero.
pub(crate) fn largest(values: impl IntoIterator<Item = f32>) -> f32 {
    match values.into_iter().fold(0f32, |a, b| a.max(b.abs())) {
        0.0 => 1.0,
        most => most,
    }
}

/// A colour bar from `-most` at the bottom to `most` at the top.
pub(crate) fn signed_bar(canvas: &mut RgbImage, area: Rect, most: f32) {
    for row in 0..area.height {
        let value = 1.0 - 2.0 * (row as f32 + 0.5) / area.height as f32;
        let line = Rect {
            y: area.y + row,
            height: 1,
            ..area
        };
        fill(canvas, line, signed_colour(value));
    }
    frame(canvas, area, FRAME);
    let values = even(-f64::from(most), most.into(), 5);
    let labels = labels(&values);
    for (i, text) in labels.texts.iter().enumerate() {
        let y = area.bottom() - 1 - (area.height - 1) * i as i32 / 4;
        let beside = (area.right() + 7, y);
        write(canvas, beside, Align::Left, regular(TICK), TEXT, text);
    }
    let below = (area.x, area.bottom() + 16);
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
    use crate::canvas::blank;

    const PLOT: Rect = Rect {
        x: 100,
        y: 20,
        width: 201,
        height: 101,
    };

    #[test]
    fn scales_reach_from_end_to_end() {
        let scale = Scale {
            low: -1.0,
            high: 3.0,
        };
        assert_eq!((scale.x(PLOT, -1.0), scale.x(PLOT, 3.0)), (100.0, 300.0));
        assert_eq!((scale.y(PLOT, -1.0), scale.y(PLOT, 3.0)), (120.0, 20.0));
        let positive = Scale::with_zero([1.0, 2.0]);
        assert_eq!((positive.low, positive.high), (0.0, 2.1));
        let flat = Scale::of([5.0; 3]);
        assert!(flat.low < 5.0 && flat.high > 5.0);
        assert!(Scale::with_zero([0.0]).high > 0.0);
        assert!(Scale::of([]).high.is_finite());
    }

    #[test]
    fn steps_cover_the_plot_without_gaps() {
        for steps in [1, 3, 7, 150, 201] {
            let mut at = PLOT.x;
            for step in 0..steps {
                let (left, right) = step_edges(PLOT, step, steps);
                assert_eq!(left, at, "{steps}");
                at = right;
            }
            assert_eq!(at, PLOT.right());
        }
    }

    #[test]
    fn red_is_above_zero_and_blue_below() {
        let [red, _, blue] = signed_colour(1.0);
        assert!(red > blue);
        let [red, _, blue] = signed_colour(-1.0);
        assert!(red < blue);
        assert!(signed_colour(0.0).iter().all(|&channel| channel > 240));
    }

    /// Widths of the stretches of ink in a band below `plot`, with at least `gap` free columns
    /// between them.
    fn inked(canvas: &RgbImage, plot: Rect, gap: u32) -> Vec<(u32, u32)> {
        let band = plot.bottom() as u32 + 6..canvas.height();
        let is_inked = |x: &u32| band.clone().any(|y| canvas.get_pixel(*x, y).0[0] < 200);
        let mut found: Vec<(u32, u32)> = Vec::new();
        for x in (0..canvas.width()).filter(is_inked) {
            match found.last_mut() {
                Some(last) if x - last.1 <= gap => last.1 = x,
                _ => found.push((x, x)),
            }
        }
        found
    }

    #[test]
    fn names_of_steps_never_touch() {
        let names = |count: usize, length: usize| -> Vec<String> {
            // Lengths differ from step to step.
            let name = |i: usize| "8".repeat(1 + (length * (1 + i % 3)) / 3);
            (0..count).map(name).collect()
        };
        for width in [201, 760] {
            let plot = Rect { width, ..PLOT };
            for count in (1..40).chain([59, 60, 61, 90, 250, 1000, 4001]) {
                for length in [1, 4, 10, 16, 40] {
                    let times = names(count, length);
                    let labels = step_names(plot, &times);
                    let what = format!("{count} steps, {length} letters, {width} pixels");
                    assert!(!labels.is_empty() && labels.len() <= NAMED, "{what}");
                    assert_eq!(labels[labels.len() - 1].step, count - 1, "{what}");
                    let mut canvas = blank(1000, 160);
                    time_axis(&mut canvas, plot, &times);
                    let drawn = inked(&canvas, plot, APART as u32 - 4);
                    assert_eq!(drawn.len(), labels.len(), "{what}");
                    let ends = (drawn[0].0, drawn[drawn.len() - 1].1);
                    assert!(ends.0 > 0 && ends.1 <= plot.right() as u32 + 40, "{what}");
                }
            }
        }
    }

    #[test]
    fn names_of_steps_are_as_many_as_fit() {
        let plot = Rect { width: 760, ..PLOT };
        let days: Vec<String> = (0..20).map(|i| format!("2020-04-{:02}", i + 1)).collect();
        let steps = |times: &[String]| -> Vec<usize> {
            step_names(plot, times).iter().map(|n| n.step).collect()
        };
        assert_eq!(steps(&days), [1, 4, 7, 10, 13, 16, 19]);
        assert_eq!(steps(&days[..5]), [0, 1, 2, 3, 4]);
        assert_eq!(steps(&["now".to_string()]), [0]);
    }

    #[test]
    fn a_vertical_axis_has_two_labels_at_least() {
        for (low, high) in [(30.5, 53.1), (0.0, 1.0), (-3.0, 8.0), (99.4, 101.2)] {
            let mut canvas = blank(400, 160);
            vertical_axis(&mut canvas, PLOT, Scale { low, high }, 2);
            let beside = PLOT.x as u32 - 4;
            let ticks = (0..160).filter(|&y| canvas.get_pixel(beside, y).0[0] < 200);
            assert!(ticks.count() >= 2, "{low} to {high}");
        }
    }
}
