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

/// Horizontal grid lines and labels left of `plot`.
pub(crate) fn vertical_axis(canvas: &mut RgbImage, plot: Rect, scale: Scale, count: usize) {
    let ticks = round(scale.low, scale.high, count);
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

/// As many of the steps' names below `plot` as fit, evenly spaced, with both ends.
pub(crate) fn time_axis(canvas: &mut RgbImage, plot: Rect, times: &[String]) {
    let shortened = |time: &String| shorten(regular(TICK), time, 150);
    let widest = times
        .iter()
        .map(|time| width(regular(TICK), &shortened(time)));
    let room = widest.max().unwrap_or(0) + 22;
    let most = ((plot.width / room.max(1)) as usize).clamp(1, 8);
    let last = times.len() - 1;
    let mut shown: Vec<usize> = match most.min(times.len()) {
        1 => vec![last],
        count => even(0.0, last as f64, count)
            .iter()
            .map(|at| at.round() as usize)
            .collect(),
    };
    shown.dedup();
    for step in shown {
        let (left, right) = step_edges(plot, step, times.len());
        let x = (left + right) / 2;
        let tick = Rect {
            x,
            y: plot.bottom() + 1,
            width: 1,
            height: 4,
        };
        fill(canvas, tick, FRAME);
        let half = width(regular(TICK), &shortened(&times[step])) / 2;
        let x = x.clamp(plot.x - 30 + half, (plot.right() + 40 - half).max(plot.x));
        let text = shortened(&times[step]);
        let below = (x, plot.bottom() + 16);
        write(canvas, below, Align::Centre, regular(TICK), TEXT, &text);
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

    #[test]
    fn any_number_of_times_can_be_written() {
        for count in [1, 2, 5, 400] {
            let times: Vec<String> = (0..count).map(|i| format!("2020-01-{i:03}")).collect();
            let mut canvas = blank(400, 160);
            time_axis(&mut canvas, PLOT, &times);
            assert!(canvas.pixels().any(|p| p.0[0] < 128), "{count}");
        }
    }
}
