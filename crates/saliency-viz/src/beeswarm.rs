use image::RgbImage;

use crate::canvas::{FAINT, FRAME, Rect, TEXT, blank, disc, fill, frame};
use crate::chart::{Scale, horizontal_axis};
use crate::error::Result;
use crate::grid::check_finite;
use crate::histogram::within;
use crate::text::{Align, CAPTION, Face, TICK, TITLE, bold, regular, shorten, width, write};

const ROWS: (usize, usize) = (1, 60);
const POINTS: (usize, usize) = (1, 100_000);
const NAME: Face = regular(13.0);
const ROW: i32 = 44;
const PLOT: i32 = 560;
const NAMES: i32 = 240;
const RADIUS: f32 = 2.6;
/// Points whose feature has no order.
const GREY: [u8; 3] = [130, 130, 130];
const LOW: [f32; 3] = [30.0, 136.0, 229.0];
const MIDDLE: [f32; 3] = [136.0, 74.0, 170.0];
const HIGH: [f32; 3] = [230.0, 20.0, 85.0];

/// One row of a [`beeswarm`]: a feature and its attributions at many inputs.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Swarm {
    /// The feature.
    pub name: String,
    /// Attribution, and the feature's own value there where it has an order (a number, not
    /// a category).
    pub points: Vec<(f32, Option<f32>)>,
}

/// Attributions of each feature at many inputs, a dot each: its place is the attribution, its
/// colour the feature's own value, from the 5th to the 95th percentile of that feature.
///
/// # Errors
/// No rows or more than 60, a row without points or with more than 100,000, or a number that
/// is not finite.
///
/// ```
/// use saliency_viz::{Swarm, beeswarm};
/// let points = (0..200).map(|i| ((i as f32).sin(), Some(i as f32))).collect();
/// let rows = [Swarm { name: "income".into(), points }];
/// let picture = beeswarm(&rows, "Credit", "contribution to the score")?;
/// assert!(picture.width() > 700);
/// # Ok::<(), saliency_viz::Error>(())
/// ```
pub fn beeswarm(rows: &[Swarm], title: &str, axis: &str) -> Result<RgbImage> {
    within("rows in a beeswarm", rows.len(), ROWS)?;
    for row in rows {
        within("points in a row of a beeswarm", row.points.len(), POINTS)?;
        let places: Vec<f32> = row.points.iter().map(|point| point.0).collect();
        check_finite("the beeswarm", &places)?;
        let values: Vec<f32> = row.points.iter().filter_map(|point| point.1).collect();
        check_finite("the beeswarm's features", &values)?;
    }
    let names: Vec<String> = rows
        .iter()
        .map(|row| shorten(NAME, &row.name, NAMES))
        .collect();
    let plot = Rect {
        x: 34
            + names
                .iter()
                .map(|name| width(NAME, name))
                .max()
                .unwrap_or(0),
        y: if title.trim().is_empty() { 18 } else { 52 },
        width: PLOT,
        height: rows.len() as i32 * ROW,
    };
    let across = plot.right() + 100;
    let mut canvas = blank(across, plot.bottom() + 62);
    let heading = shorten(bold(TITLE), title, across - 40);
    let top = (across / 2, 26);
    write(&mut canvas, top, Align::Centre, bold(TITLE), TEXT, &heading);

    let all = rows.iter().flat_map(|row| &row.points);
    let scale = Scale::with_zero(all.map(|point| point.0));
    horizontal_axis(&mut canvas, plot, scale, axis);
    for (i, (row, name)) in rows.iter().zip(&names).enumerate() {
        let middle = plot.y + i as i32 * ROW + ROW / 2;
        let rule = Rect {
            y: middle,
            height: 1,
            ..plot
        };
        fill(&mut canvas, rule, FAINT);
        let at = (plot.x - 10, middle);
        write(&mut canvas, at, Align::Right, NAME, TEXT, name);
        draw_row(&mut canvas, plot, scale, middle, row);
    }
    draw_legend(&mut canvas, plot);
    Ok(canvas)
}

fn draw_row(canvas: &mut RgbImage, plot: Rect, scale: Scale, middle: i32, row: &Swarm) {
    let range = percentiles(row);
    let places: Vec<f32> = row.points.iter().map(|p| scale.x(plot, p.0)).collect();
    for ((&x, lift), (_, value)) in places.iter().zip(lifts(&places)).zip(&row.points) {
        let colour = value.map_or(GREY, |value| colour(value, range));
        disc(canvas, (x, middle as f32 + lift), RADIUS, colour);
    }
}

/// How far above or below the middle each point is: those that would lie on each other are
/// stacked, closer where there are too many for the row.
fn lifts(places: &[f32]) -> Vec<f32> {
    let bin = |x: f32| (x / (1.6 * RADIUS)).floor() as i64;
    let mut counts = std::collections::BTreeMap::<i64, usize>::new();
    let order: Vec<usize> = places
        .iter()
        .map(|&x| {
            let count = counts.entry(bin(x)).or_default();
            *count += 1;
            *count - 1
        })
        .collect();
    let highest = counts.values().copied().max().unwrap_or(1);
    let room = ROW as f32 / 2.0 - RADIUS - 1.0;
    let step = (1.6 * RADIUS).min(room / (highest as f32 / 2.0).max(1.0));
    order
        .iter()
        .map(|&place| {
            let side = if place % 2 == 0 { 1.0 } else { -1.0 };
            side * step * place.div_ceil(2) as f32
        })
        .collect()
}

/// The 5th and the 95th percentile of the feature's own values.
fn percentiles(row: &Swarm) -> (f32, f32) {
    let mut values: Vec<f32> = row.points.iter().filter_map(|point| point.1).collect();
    values.sort_by(f32::total_cmp);
    let at = |share: f32| {
        let index = (share * values.len().saturating_sub(1) as f32).round();
        values.get(index as usize).copied().unwrap_or(0.0)
    };
    match (at(0.05), at(0.95)) {
        // A feature that is nearly always the same still has its extremes.
        (low, high) if low == high => (at(0.0), at(1.0)),
        range => range,
    }
}

fn colour(value: f32, (low, high): (f32, f32)) -> [u8; 3] {
    let part = match high > low {
        true => ((value - low) / (high - low)).clamp(0.0, 1.0),
        false => 0.5,
    };
    let (from, to, part) = match part < 0.5 {
        true => (LOW, MIDDLE, 2.0 * part),
        false => (MIDDLE, HIGH, 2.0 * part - 1.0),
    };
    std::array::from_fn(|i| (from[i] + (to[i] - from[i]) * part).round() as u8)
}

fn draw_legend(canvas: &mut RgbImage, plot: Rect) {
    let height = plot.height.clamp(24, 220) - 24;
    let area = Rect {
        x: plot.right() + 22,
        y: plot.y + (plot.height - height) / 2,
        width: 12,
        height,
    };
    for row in 0..height {
        let value = 1.0 - (row as f32 + 0.5) / height as f32;
        let line = Rect {
            y: area.y + row,
            height: 1,
            ..area
        };
        fill(canvas, line, colour(value, (0.0, 1.0)));
    }
    frame(canvas, area, FRAME);
    for (y, text) in [(area.y + 4, "high"), (area.bottom() - 5, "low")] {
        let at = (area.right() + 7, y);
        write(canvas, at, Align::Left, regular(TICK), TEXT, text);
    }
    let at = (area.x + 6, area.bottom() + 18);
    write(canvas, at, Align::Centre, regular(CAPTION), TEXT, "value");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows_of(points: Vec<(f32, Option<f32>)>) -> [Swarm; 1] {
        [Swarm {
            name: "f".into(),
            points,
        }]
    }

    #[test]
    fn dots_lie_at_their_attribution_in_the_colour_of_their_value() {
        let points = vec![(-2.0, Some(0.0)), (1.0, Some(10.0)), (4.0, None)];
        let picture = beeswarm(&rows_of(points), "", "x").unwrap();
        let middle = |wanted: [u8; 3]| {
            let legend = picture.width() - 90;
            let xs: Vec<u32> = picture
                .enumerate_pixels()
                .filter(|(x, _, pixel)| pixel.0 == wanted && *x < legend)
                .map(|(x, _, _)| x)
                .collect();
            xs.iter().sum::<u32>() as f32 / xs.len() as f32
        };
        let byte = |c: [f32; 3]| c.map(|v| v as u8);
        let (low, high, grey) = (middle(byte(LOW)), middle(byte(HIGH)), middle(GREY));
        let (first, second) = (high - low, grey - high);
        assert!((first / second - 1.0).abs() < 0.02, "{low} {high} {grey}");
    }

    #[test]
    fn a_crowd_stays_inside_its_row() {
        let lifts = lifts(&vec![100.0; 5000]);
        let most = ROW as f32 / 2.0 - RADIUS;
        assert!(lifts.iter().all(|lift| lift.abs() <= most));
        let few = super::lifts(&[10.0, 10.0, 10.0, 200.0]);
        assert_eq!(few[0], 0.0);
        assert!(few[1] < 0.0 && few[2] > 0.0 && few[1] == -few[2]);
        assert_eq!(few[3], 0.0);
    }

    #[test]
    fn outliers_do_not_take_all_the_colours() {
        let mut points: Vec<(f32, Option<f32>)> = (0..100).map(|i| (0.0, Some(i as f32))).collect();
        points[99].1 = Some(1e9);
        let (low, high) = percentiles(&rows_of(points)[0]);
        assert_eq!((low, high), (5.0, 94.0));
        let mostly: Vec<(f32, Option<f32>)> =
            (0..100).map(|i| (0.0, Some(f32::from(i == 3)))).collect();
        assert_eq!(percentiles(&rows_of(mostly)[0]), (0.0, 1.0));
    }

    #[test]
    fn what_cannot_be_drawn_is_refused() {
        assert!(beeswarm(&[], "", "").is_err());
        assert!(beeswarm(&rows_of(vec![]), "", "").is_err());
        assert!(beeswarm(&rows_of(vec![(f32::NAN, None)]), "", "").is_err());
        assert!(beeswarm(&rows_of(vec![(0.0, Some(f32::INFINITY))]), "", "").is_err());
        assert!(beeswarm(&rows_of(vec![(0.0, None); 3]), "", "").is_ok());
    }
}
