use image::RgbImage;

use crate::canvas::{FRAME, Rect, TEXT, blank, fill, frame, line};
use crate::chart::{
    Scale, largest, signed_bar, signed_colour, step_edges, time_axis, vertical_axis,
};
use crate::error::{Error, Result};
use crate::grid::{Grid, check_finite};
use crate::histogram::within;
use crate::text::{Align, CAPTION, Face, TITLE, bold, regular, shorten, width, write};

const TRACKS: (usize, usize) = (1, 12);
const STEPS: (usize, usize) = (1, 100_000);
const NAME: Face = regular(13.0);
const PLOT: i32 = 760;
const NAMES: i32 = 220;
const LINE: [u8; 3] = [20, 20, 20];

/// One line of a [`series`] chart.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Track {
    /// What it is.
    pub name: String,
    /// Its value at each step.
    pub values: Vec<f32>,
    /// The attribution of each step.
    pub saliency: Vec<f32>,
}

/// Lines over time, one below the other, each over its saliency as colour: red where a step
/// raises the score, blue where it lowers it. All have the same scale of colours.
///
/// # Errors
/// No tracks or more than 12, lengths that differ, or a number that is not finite.
///
/// ```
/// use saliency_viz::{Track, series};
/// let times: Vec<String> = (1..=30).map(|day| format!("2020-01-{day:02}")).collect();
/// let price = Track {
///     name: "price".into(),
///     values: (0..30).map(|i| (i as f32 / 3.0).sin() + 10.0).collect(),
///     saliency: (0..30).map(|i| if i == 20 { -1.0 } else { 0.1 }).collect(),
/// };
/// let picture = series(&times, &[price], "Why it falls", "contribution")?;
/// assert!(picture.width() > 800);
/// # Ok::<(), saliency_viz::Error>(())
/// ```
pub fn series(times: &[String], tracks: &[Track], title: &str, legend: &str) -> Result<RgbImage> {
    within("tracks", tracks.len(), TRACKS)?;
    within("steps", times.len(), STEPS)?;
    for track in tracks {
        for values in [&track.values, &track.saliency] {
            within(
                "values of a track",
                values.len(),
                (times.len(), times.len()),
            )?;
            check_finite("the series", values)?;
        }
    }
    let high = match tracks.len() {
        1 => 280,
        2 => 190,
        _ => 130,
    };
    let gap = 30;
    let page = Page::new(tracks.len() as i32 * (high + gap) - gap, 84, title);
    let mut canvas = page.canvas();
    let most = largest(tracks.iter().flat_map(|t| t.saliency.iter().copied()));
    for (i, track) in tracks.iter().enumerate() {
        let plot = Rect {
            y: page.plot.y + i as i32 * (high + gap),
            height: high,
            ..page.plot
        };
        let name = shorten(regular(CAPTION), &track.name, plot.width);
        let above = (plot.x, plot.y - 11);
        write(
            &mut canvas,
            above,
            Align::Left,
            regular(CAPTION),
            TEXT,
            &name,
        );
        for (step, saliency) in track.saliency.iter().enumerate() {
            let (left, right) = step_edges(plot, step, times.len());
            let column = Rect {
                x: left,
                width: right - left,
                ..plot
            };
            fill(&mut canvas, column, signed_colour(saliency / most));
        }
        draw_line(&mut canvas, plot, &track.values);
        frame(&mut canvas, plot, FRAME);
    }
    let last = Rect {
        height: page.plot.height,
        ..page.plot
    };
    time_axis(&mut canvas, last, times);
    page.legend(&mut canvas, most, legend);
    Ok(canvas)
}

fn draw_line(canvas: &mut RgbImage, plot: Rect, values: &[f32]) {
    let scale = Scale::of(values.iter().copied());
    let at = |step: usize| {
        let (left, right) = step_edges(plot, step, values.len());
        let x = (left + right - 1) as f32 / 2.0;
        (x, scale.y(plot, values[step]))
    };
    vertical_axis(canvas, plot, scale, (plot.height / 45) as usize);
    if values.len() == 1 {
        crate::canvas::disc(canvas, at(0), 3.0, LINE);
    }
    // A halo keeps the line legible on dark colours.
    for (width, colour) in [(4.5, [255; 3]), (1.8, LINE)] {
        for step in 1..values.len() {
            line(canvas, at(step - 1), at(step), width, colour);
        }
    }
}

/// Attributions of features over time: a column for each step, a row for each feature, red
/// where it raises the score, blue where it lowers it.
///
/// # Errors
/// Names or times that do not fit the grid, or more than 200 rows.
///
/// ```
/// use saliency_viz::{Grid, time_heat};
/// let times: Vec<String> = (1..=10).map(|day| format!("2020-01-{day:02}")).collect();
/// let names = ["price".to_string(), "volume".to_string()];
/// let values = Grid::new(10, 2, (0..20).map(|i| (i as f32).sin()).collect())?;
/// let picture = time_heat(&values, &times, &names, "A window", "contribution")?;
/// assert!(picture.width() > 800);
/// # Ok::<(), saliency_viz::Error>(())
/// ```
pub fn time_heat(
    values: &Grid,
    times: &[String],
    names: &[String],
    title: &str,
    legend: &str,
) -> Result<RgbImage> {
    within("rows in a heat map", names.len(), (1, 200))?;
    if (values.width(), values.height()) != (times.len(), names.len()) {
        return Err(Error::GridLength {
            width: times.len(),
            height: names.len(),
            expected: times.len() * names.len(),
            found: values.values().len(),
        });
    }
    let names: Vec<String> = names
        .iter()
        .map(|name| shorten(NAME, name, NAMES))
        .collect();
    let row = (300 / names.len() as i32).clamp(16, 44);
    let left = names.iter().map(|name| width(NAME, name)).max();
    let page = Page::new(names.len() as i32 * row, 34 + left.unwrap_or(0), title);
    let mut canvas = page.canvas();
    let most = largest(values.values().iter().copied());
    for (feature, name) in names.iter().enumerate() {
        let y = page.plot.y + feature as i32 * row;
        for step in 0..times.len() {
            let (left, right) = step_edges(page.plot, step, times.len());
            let cell = Rect {
                x: left,
                y,
                width: right - left,
                height: row,
            };
            let value = values.values()[feature * times.len() + step];
            fill(&mut canvas, cell, signed_colour(value / most));
        }
        let at = (page.plot.x - 10, y + row / 2);
        write(&mut canvas, at, Align::Right, NAME, TEXT, name);
    }
    frame(&mut canvas, page.plot, FRAME);
    time_axis(&mut canvas, page.plot, times);
    page.legend(&mut canvas, most, legend);
    Ok(canvas)
}

/// A plot with a title above, times below, and a colour bar on the right.
struct Page<'a> {
    plot: Rect,
    title: &'a str,
}

impl<'a> Page<'a> {
    fn new(height: i32, left: i32, title: &'a str) -> Self {
        let plot = Rect {
            x: left,
            y: if title.trim().is_empty() { 30 } else { 66 },
            width: PLOT,
            height,
        };
        Page { plot, title }
    }

    fn canvas(&self) -> RgbImage {
        let across = self.plot.right() + 130;
        let mut canvas = blank(across, self.plot.bottom() + 40);
        let heading = shorten(bold(TITLE), self.title, across - 40);
        let top = (across / 2, 26);
        write(&mut canvas, top, Align::Centre, bold(TITLE), TEXT, &heading);
        canvas
    }

    fn legend(&self, canvas: &mut RgbImage, most: f32, name: &str) {
        let height = self.plot.height.min(260);
        let bar = Rect {
            x: self.plot.right() + 22,
            y: self.plot.y,
            width: 13,
            height,
        };
        signed_bar(canvas, bar, most);
        let name = shorten(regular(CAPTION), name, 120);
        let above = (self.plot.right() + 14, self.plot.y - 14);
        write(canvas, above, Align::Left, regular(CAPTION), TEXT, &name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn times(count: usize) -> Vec<String> {
        (0..count).map(|i| format!("t{i}")).collect()
    }

    fn track(values: Vec<f32>, saliency: Vec<f32>) -> Track {
        Track {
            name: String::new(),
            values,
            saliency,
        }
    }

    /// The colour at the top of the plot in the middle of a step.
    fn above(picture: &RgbImage, left: i32, step: usize, steps: usize) -> [u8; 3] {
        let plot = Rect {
            x: left,
            y: 30,
            width: PLOT,
            height: 1,
        };
        let (from, to) = step_edges(plot, step, steps);
        picture.get_pixel(((from + to) / 2) as u32, 33).0
    }

    #[test]
    fn steps_have_the_colour_of_their_saliency() {
        let saliency = vec![0.0, 0.5, -1.0, 0.25, 0.0];
        let line = track(vec![1.0, 2.0, 1.0, 1.0, 3.0], saliency.clone());
        let picture = series(&times(5), &[line], "", "").unwrap();
        for (step, value) in saliency.into_iter().enumerate() {
            assert_eq!(above(&picture, 84, step, 5), signed_colour(value), "{step}");
        }
    }

    #[test]
    fn a_heat_map_has_a_cell_for_each_step_and_feature() {
        let values = vec![0.0, 1.0, -0.5, 0.25, 0.0, -1.0];
        let grid = Grid::new(3, 2, values.clone()).unwrap();
        let names = ["a".to_string(), "b".to_string()];
        let picture = time_heat(&grid, &times(3), &names, "", "").unwrap();
        for value in values {
            let cells = picture.pixels().filter(|p| p.0 == signed_colour(value));
            assert!(cells.count() > PLOT as usize / 3 * 40, "{value}");
        }
        assert!(time_heat(&grid, &times(2), &names, "", "").is_err());
        assert!(time_heat(&grid, &times(3), &names[..1], "", "").is_err());
    }

    #[test]
    fn a_line_goes_through_its_values() {
        let line = track(vec![0.0, 10.0], vec![0.0; 2]);
        let picture = series(&times(2), &[line], "", "").unwrap();
        let dark = |x: u32| {
            let mut ys = 31..300;
            ys.find(|&y| picture.get_pixel(x, y).0[0] < 60).unwrap()
        };
        let (quarter, half, three) = (
            84 + PLOT as u32 * 3 / 8,
            84 + PLOT as u32 / 2,
            84 + PLOT as u32 * 5 / 8,
        );
        assert!(dark(quarter) > dark(half) && dark(half) > dark(three));
        assert!((dark(quarter) + dark(three)).abs_diff(2 * dark(half)) <= 2);
    }

    #[test]
    fn what_cannot_be_drawn_is_refused() {
        let ok = track(vec![1.0; 3], vec![0.0; 3]);
        assert!(series(&times(3), std::slice::from_ref(&ok), "t", "l").is_ok());
        assert!(series(&times(4), &[ok], "", "").is_err());
        assert!(series(&times(3), &[], "", "").is_err());
        assert!(series(&times(1), &[track(vec![1.0], vec![2.0])], "", "").is_ok());
        let nan = track(vec![1.0, f32::NAN], vec![0.0; 2]);
        assert!(series(&times(2), &[nan], "", "").is_err());
        let long = track(vec![1.0; 3000], vec![0.5; 3000]);
        assert!(series(&times(3000), &[long], "", "").is_ok());
    }
}
