use image::RgbImage;

use crate::canvas::{FAINT, FRAME, Rect, TEXT, blank, fill, frame};
use crate::error::{Error, Result};
use crate::grid::check_finite;
use crate::text::{Align, CAPTION, Face, TICK, TITLE, bold, regular, shorten, width, write};
use crate::ticks::{decade, labels, round, short};

const BINS: (usize, usize) = (1, 500);
const LINES: (usize, usize) = (0, 60);

const LIST: Face = regular(13.0);
const PLOT: (i32, i32) = (600, 340);
const LIST_WIDTH: i32 = 250;
const ROW: i32 = 22;
const BAR: [u8; 3] = [76, 114, 176];
/// Marker colours, told apart by readers with any colour vision.
const MARKERS: [[u8; 3]; 6] = [
    [230, 159, 0],
    [0, 158, 115],
    [213, 94, 0],
    [204, 121, 167],
    [86, 180, 233],
    [0, 0, 0],
];

/// The vertical axis of a histogram.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Counts {
    /// Bars as tall as their counts.
    #[default]
    Linear,
    /// Bars as tall as the logarithm of their counts; shows the few large values of a
    /// sparse map.
    Log,
}

/// What [`histogram`] draws beside the bars.
///
/// ```
/// use saliency_viz::HistogramStyle;
///
/// assert_eq!(HistogramStyle::default().bins, 60);
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct HistogramStyle {
    /// Number of equal bins from the smallest value to the largest, 1 to 500; 60 by
    /// default.
    pub bins: usize,
    /// Linear or logarithmic counts.
    pub counts: Counts,
    /// Label of the horizontal axis; `Saliency` by default.
    pub axis: String,
    /// Dashed vertical lines, such as `("p95", 0.012)`; at most 60.
    pub markers: Vec<(String, f32)>,
    /// Label and value of each statistic listed beside the bars; at most 60.
    pub statistics: Vec<(String, String)>,
}

impl Default for HistogramStyle {
    fn default() -> Self {
        Self {
            bins: 60,
            counts: Counts::Linear,
            axis: "Saliency".to_string(),
            markers: Vec::new(),
            statistics: Vec::new(),
        }
    }
}

/// A histogram of `values`, with markers and statistics listed beside it.
///
/// The bins are equal parts of the range from the smallest value to the largest, the
/// last one closed (as numpy's). Values that are all equal get a range around them.
///
/// # Errors
/// No values, a value or marker that is not finite, or too many bins, markers or
/// statistics.
///
/// ```
/// use saliency_viz::{Counts, HistogramStyle, histogram};
///
/// let values: Vec<f32> = (0..1000).map(|i| (i as f32 / 1000.0).powi(3)).collect();
/// let style = HistogramStyle {
///     counts: Counts::Log,
///     markers: vec![("p95".to_string(), 0.857)],
///     statistics: vec![("mean".to_string(), "0.25".to_string())],
///     ..HistogramStyle::default()
/// };
/// let picture = histogram(&values, "Distribution", &style)?;
/// assert!(picture.width() > 800);
/// # Ok::<(), saliency_viz::Error>(())
/// ```
pub fn histogram(values: &[f32], title: &str, style: &HistogramStyle) -> Result<RgbImage> {
    check(values, style)?;
    let range = range(values);
    let counts = count(values, range, style.bins);
    let scale = Scale::new(&counts, style.counts);

    let has_list = !(style.markers.is_empty() && style.statistics.is_empty());
    let label_width = scale
        .ticks()
        .iter()
        .map(|tick| width(regular(TICK), &tick.1))
        .max();
    let gap = if style.markers.is_empty() || style.statistics.is_empty() {
        0
    } else {
        ROW / 2
    };
    let list_height = (style.markers.len() + style.statistics.len()) as i32 * ROW + gap;
    let plot = Rect {
        x: 58 + label_width.unwrap_or(0),
        y: if title.trim().is_empty() { 24 } else { 58 },
        width: PLOT.0,
        height: PLOT.1,
    };
    let across = plot.right() + if has_list { LIST_WIDTH + 20 } else { 28 };
    let down = (plot.bottom() + 66).max(plot.y + list_height + 24);
    let mut canvas = blank(across, down);

    let heading = shorten(bold(TITLE), title, across - 40);
    write(
        &mut canvas,
        (across / 2, 28),
        Align::Centre,
        bold(TITLE),
        TEXT,
        &heading,
    );
    draw_axes(&mut canvas, plot, range, &scale, style);
    draw_bars(&mut canvas, plot, &counts, &scale);
    for (i, (_, value)) in style.markers.iter().enumerate() {
        draw_marker(&mut canvas, plot, range, *value, MARKERS[i % MARKERS.len()]);
    }
    frame(&mut canvas, plot, FRAME);
    if has_list {
        draw_list(
            &mut canvas,
            plot.right() + 24,
            across - 24,
            plot.y + ROW / 2,
            style,
        );
    }
    Ok(canvas)
}

fn check(values: &[f32], style: &HistogramStyle) -> Result<()> {
    let markers: Vec<f32> = style.markers.iter().map(|marker| marker.1).collect();
    within("values in a histogram", values.len(), (1, usize::MAX))?;
    within("bins", style.bins, BINS)?;
    within("markers", markers.len(), LINES)?;
    within("statistics", style.statistics.len(), LINES)?;
    check_finite("the histogram", values)?;
    check_finite("the histogram's markers", &markers)
}

pub(crate) fn within(what: &'static str, found: usize, range: (usize, usize)) -> Result<()> {
    if (range.0..=range.1).contains(&found) {
        Ok(())
    } else {
        Err(Error::Count { what, found, range })
    }
}

/// Smallest and largest value, never equal.
fn range(values: &[f32]) -> (f64, f64) {
    let low = f64::from(values.iter().copied().fold(f32::INFINITY, f32::min));
    let high = f64::from(values.iter().copied().fold(f32::NEG_INFINITY, f32::max));
    if low < high {
        return (low, high);
    }
    let around = if low == 0.0 { 0.5 } else { low.abs() / 2.0 };
    (low - around, high + around)
}

fn count(values: &[f32], (low, high): (f64, f64), bins: usize) -> Vec<u64> {
    let mut counts = vec![0; bins];
    for &value in values {
        let bin = (f64::from(value) - low) / (high - low) * bins as f64;
        counts[(bin as usize).min(bins - 1)] += 1;
    }
    counts
}

/// Turns counts into heights, as fractions of the plot.
struct Scale {
    kind: Counts,
    largest: f64,
}

/// The logarithmic axis begins here, so that a count of one has a height.
const LOG_FLOOR: f64 = 0.6;
const HEADROOM: f64 = 0.95;

impl Scale {
    fn new(counts: &[u64], kind: Counts) -> Self {
        let largest = counts.iter().copied().max().unwrap_or(1).max(1) as f64;
        Self { kind, largest }
    }

    fn height(&self, count: f64) -> f64 {
        HEADROOM
            * match self.kind {
                Counts::Linear => count / self.largest,
                Counts::Log if count < LOG_FLOOR => 0.0,
                Counts::Log => {
                    let top = self.largest.max(10.0);
                    (count / LOG_FLOOR).log10() / (top / LOG_FLOOR).log10()
                }
            }
    }

    /// Count and label of each tick.
    fn ticks(&self) -> Vec<(f64, String)> {
        match self.kind {
            Counts::Linear => {
                let mut counts = round(0.0, self.largest, 5);
                counts.retain(|count| count.fract() == 0.0);
                counts
                    .into_iter()
                    .map(|count| (count, thousands(count)))
                    .collect()
            }
            Counts::Log => {
                let top = self.largest.max(10.0).log10().floor() as u32;
                (0..=top)
                    .map(|n| (10f64.powi(n as i32), decade(n)))
                    .collect()
            }
        }
    }
}

/// A whole number with a thin space between groups of three digits.
fn thousands(count: f64) -> String {
    let digits = format!("{count:.0}");
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i) % 3 == 0 && digits.len() > 4 {
            text.push('\u{2009}');
        }
        text.push(digit);
    }
    text
}

fn draw_axes(
    canvas: &mut RgbImage,
    plot: Rect,
    (low, high): (f64, f64),
    scale: &Scale,
    style: &HistogramStyle,
) {
    for (count, text) in scale.ticks() {
        let y = plot.bottom() - (scale.height(count) * f64::from(plot.height)).round() as i32;
        fill(
            canvas,
            Rect {
                y,
                height: 1,
                ..plot
            },
            FAINT,
        );
        fill(
            canvas,
            Rect {
                x: plot.x - 5,
                y,
                width: 4,
                height: 1,
            },
            FRAME,
        );
        write(
            canvas,
            (plot.x - 8, y),
            Align::Right,
            regular(TICK),
            TEXT,
            &text,
        );
    }
    let name = match style.counts {
        Counts::Linear => "Count",
        Counts::Log => "Count (log)",
    };
    upright(canvas, (20, plot.y + plot.height / 2), name);

    let ticks = round(low, high, 6);
    let labels = labels(&ticks);
    for (value, text) in ticks.iter().zip(&labels.texts) {
        let x = across(plot, (low, high), *value);
        fill(
            canvas,
            Rect {
                x,
                y: plot.bottom() + 1,
                width: 1,
                height: 4,
            },
            FRAME,
        );
        write(
            canvas,
            (x, plot.bottom() + 16),
            Align::Centre,
            regular(TICK),
            TEXT,
            text,
        );
    }
    let power = match labels.power.as_str() {
        "" => String::new(),
        power => format!(" ({power})"),
    };
    let axis = shorten(regular(CAPTION), &style.axis, plot.width - 80) + &power;
    let below = (plot.x + plot.width / 2, plot.bottom() + 42);
    write(canvas, below, Align::Centre, regular(CAPTION), TEXT, &axis);
}

/// Writes a caption that reads from bottom to top, centred on `(x, y)`.
fn upright(canvas: &mut RgbImage, (x, y): (i32, i32), text: &str) {
    let mut line = blank(width(regular(CAPTION), text) + 4, 20);
    let middle = (line.width() as i32 / 2, 10);
    write(
        &mut line,
        middle,
        Align::Centre,
        regular(CAPTION),
        TEXT,
        text,
    );
    let turned = image::imageops::rotate270(&line);
    crate::canvas::paste(canvas, &turned, x - 10, y - turned.height() as i32 / 2);
}

fn draw_bars(canvas: &mut RgbImage, plot: Rect, counts: &[u64], scale: &Scale) {
    let edge = |bin: usize| plot.x + (plot.width as usize * bin / counts.len()) as i32;
    for (bin, &count) in counts.iter().enumerate() {
        let fraction = scale.height(count as f64);
        let height = (fraction * f64::from(plot.height)).round() as i32;
        // Even a lone value among millions leaves a trace.
        let height = if count > 0 { height.max(1) } else { 0 };
        let space = i32::from(edge(bin + 1) - edge(bin) > 4);
        let bar = Rect {
            x: edge(bin),
            y: plot.bottom() - height,
            width: edge(bin + 1) - edge(bin) - space,
            height,
        };
        fill(canvas, bar, BAR);
    }
}

fn across(plot: Rect, (low, high): (f64, f64), value: f64) -> i32 {
    plot.x + ((value - low) / (high - low) * f64::from(plot.width - 1)).round() as i32
}

/// A dashed line, two pixels wide; nothing if it lies outside the axis.
fn draw_marker(canvas: &mut RgbImage, plot: Rect, range: (f64, f64), value: f32, colour: [u8; 3]) {
    let value = f64::from(value);
    if !(range.0..=range.1).contains(&value) {
        return;
    }
    let x = across(plot, range, value).clamp(plot.x + 1, plot.right() - 1) - 1;
    for y in (plot.y..plot.bottom()).step_by(9) {
        let height = 6.min(plot.bottom() - y);
        fill(
            canvas,
            Rect {
                x,
                y,
                width: 2,
                height,
            },
            colour,
        );
    }
}

/// Markers with a sample of their line, then the statistics.
fn draw_list(canvas: &mut RgbImage, left: i32, right: i32, top: i32, style: &HistogramStyle) {
    let mut y = top;
    for (i, (label, value)) in style.markers.iter().enumerate() {
        for x in [left, left + 9] {
            fill(
                canvas,
                Rect {
                    x,
                    y: y - 1,
                    width: 6,
                    height: 2,
                },
                MARKERS[i % MARKERS.len()],
            );
        }
        draw_entry(
            canvas,
            (left + 24, right),
            y,
            label,
            &short(f64::from(*value)),
        );
        y += ROW;
    }
    if !style.markers.is_empty() && !style.statistics.is_empty() {
        let rule = Rect {
            x: left,
            y: y - ROW / 4,
            width: right - left,
            height: 1,
        };
        fill(canvas, rule, FAINT);
        y += ROW / 2;
    }
    for (label, value) in &style.statistics {
        draw_entry(canvas, (left, right), y, label, value);
        y += ROW;
    }
}

fn draw_entry(canvas: &mut RgbImage, (left, right): (i32, i32), y: i32, label: &str, value: &str) {
    let value = shorten(LIST, value, (right - left) * 2 / 3);
    let label = shorten(LIST, label, right - left - width(LIST, &value) - 10);
    write(canvas, (left, y), Align::Left, LIST, TEXT, &label);
    write(canvas, (right, y), Align::Right, LIST, TEXT, &value);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;

    fn pixels(picture: &RgbImage, colour: [u8; 3]) -> Vec<(u32, u32)> {
        picture
            .enumerate_pixels()
            .filter(|(_, _, pixel)| pixel.0 == colour)
            .map(|(x, y, _)| (x, y))
            .collect()
    }

    #[test]
    fn bins_are_half_open_and_the_last_is_closed() {
        // numpy.histogram([0, 1, 1.5, 2, 3, 4], bins=4)
        let values = [0.0, 1.0, 1.5, 2.0, 3.0, 4.0];
        assert_eq!(count(&values, (0.0, 4.0), 4), [1, 2, 1, 2]);
    }

    #[test]
    fn equal_values_get_a_range_around_them() {
        assert_eq!(range(&[0.0, 0.0]), (-0.5, 0.5));
        assert_eq!(range(&[-4.0]), (-6.0, -2.0));
        assert_eq!(range(&[3.0, 1.0]), (1.0, 3.0));
    }

    #[test]
    fn heights_follow_the_counts() {
        let linear = Scale::new(&[0, 50, 100], Counts::Linear);
        assert_eq!(linear.height(50.0), HEADROOM / 2.0);
        let log = Scale::new(&[0, 1, 1000], Counts::Log);
        assert_eq!(log.height(0.0), 0.0);
        assert!((log.height(1000.0) - HEADROOM).abs() < 1e-12);
        let decade = log.height(100.0) - log.height(10.0);
        assert!((log.height(1000.0) - log.height(100.0) - decade).abs() < 1e-12);
        assert!(log.height(1.0) > 0.05);
    }

    #[test]
    fn the_bars_cover_the_area_of_their_counts() {
        let style = HistogramStyle {
            bins: 3,
            ..HistogramStyle::default()
        };
        let picture = histogram(&[0.0, 0.0, 0.5, 1.0], "", &style).unwrap();
        // 199 x 323 for two values and 199 x 162 (161.5) for one, twice
        assert_eq!(pixels(&picture, BAR).len(), 199 * (323 + 162 + 162));
    }

    #[test]
    fn a_marker_stands_at_its_value_and_one_outside_is_left_out() {
        let draw = |value| {
            let style = HistogramStyle {
                markers: vec![("p50".to_string(), value)],
                ..HistogramStyle::default()
            };
            let picture = histogram(&[0.0, 1.0], "", &style).unwrap();
            let plot_left = pixels(&picture, BAR).iter().map(|p| p.0).min().unwrap();
            let marker = pixels(&picture, MARKERS[0]);
            // the rest is the sample in the list
            let inside = marker.iter().map(|p| p.0 - plot_left).filter(|x| *x < 600);
            inside.collect::<Vec<u32>>()
        };
        let middle = draw(0.5);
        assert!(middle.len() > 300 && middle.iter().all(|x| (298..=301).contains(x)));
        assert!(draw(7.0).is_empty());
        assert!(!draw(1.0).is_empty());
    }

    #[test]
    fn linear_ticks_are_whole_numbers() {
        let ticks = |largest| {
            Scale {
                kind: Counts::Linear,
                largest,
            }
            .ticks()
        };
        let texts: Vec<String> = ticks(2.0).into_iter().map(|tick| tick.1).collect();
        assert_eq!(texts, ["0", "1", "2"]);
        assert_eq!(ticks(50_000.0)[1].1, "10\u{2009}000");
        assert_eq!(ticks(5000.0)[1].1, "1000");
    }

    #[test]
    fn long_lists_make_the_picture_taller() {
        let line = (
            "a very long label ".repeat(9),
            "a very long value ".repeat(9),
        );
        let style = HistogramStyle {
            statistics: vec![line; 40],
            ..HistogramStyle::default()
        };
        let picture = histogram(&[1.0], "long", &style).unwrap();
        assert!(picture.height() > 40 * ROW as u32);
    }

    #[test]
    fn any_finite_values_draw() {
        let extremes: [&[f32]; 6] = [
            &[0.0],
            &[f32::MIN, f32::MAX],
            &[1e-45, 2e-45],
            &[f32::MAX],
            &[1e30, 1.0000001e30],
            &[-1.0, 1e-30],
        ];
        for values in extremes {
            for counts in [Counts::Linear, Counts::Log] {
                let style = HistogramStyle {
                    counts,
                    ..HistogramStyle::default()
                };
                let picture = histogram(values, "extremes", &style).unwrap();
                assert!(!pixels(&picture, BAR).is_empty());
            }
        }
    }

    #[test]
    fn bad_input_is_an_error() {
        let style = HistogramStyle::default();
        assert!(matches!(
            histogram(&[], "", &style),
            Err(Error::Count { found: 0, .. })
        ));
        let error = histogram(&[0.0, f32::NAN], "", &style)
            .unwrap_err()
            .to_string();
        assert!(
            error.starts_with("value 1 of the histogram is NaN"),
            "{error}"
        );
        let none = HistogramStyle {
            bins: 0,
            ..style.clone()
        };
        assert_eq!(
            histogram(&[0.0], "", &none).unwrap_err().to_string(),
            "0 bins: give 1 to 500"
        );
        let marker = HistogramStyle {
            markers: vec![("p".to_string(), f32::NAN)],
            ..style
        };
        assert!(matches!(
            histogram(&[0.0], "", &marker),
            Err(Error::NotFinite { .. })
        ));
    }

    proptest! {
        #[test]
        fn every_value_is_counted(
            values in vec(-1e30f32..1e30, 1..200),
            bins in 1usize..80,
        ) {
            let counts = count(&values, range(&values), bins);
            prop_assert_eq!(counts.len(), bins);
            prop_assert_eq!(counts.iter().sum::<u64>(), values.len() as u64);
        }
    }
}
