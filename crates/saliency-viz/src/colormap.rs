use std::fmt;
use std::str::FromStr;

use colorous::{Gradient, INFERNO, VIRIDIS};

use crate::error::Error;

/// A colormap of 256 colours, each channel within 1/255 of matplotlib's map of
/// the same name.
///
/// ```
/// use saliency_viz::Colormap;
///
/// let hot: Colormap = "hot".parse()?;
/// assert_eq!(hot.at(0.0), [10, 0, 0]);
/// assert_eq!(hot.at(1.0), [255, 255, 255]);
/// assert_eq!(Colormap::RdBu.to_string(), "RdBu");
/// # Ok::<(), saliency_viz::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Colormap {
    /// Black, red, yellow, white.
    Hot,
    /// Dark blue, cyan, yellow, dark red.
    Jet,
    /// White to dark red (ColorBrewer).
    Reds,
    /// White to dark blue (ColorBrewer).
    Blues,
    /// Black to white.
    Gray,
    /// Perceptually uniform purple, green, yellow.
    Viridis,
    /// Perceptually uniform black, purple, orange, pale yellow.
    Inferno,
    /// Diverging red, white, blue (ColorBrewer).
    RdBu,
}

impl Colormap {
    /// Every colormap.
    ///
    /// ```
    /// use saliency_viz::Colormap;
    ///
    /// let names: Vec<String> = Colormap::all().iter().map(|map| map.to_string()).collect();
    /// assert!(names.contains(&"viridis".to_string()));
    /// ```
    pub fn all() -> &'static [Self] {
        &[
            Self::Hot,
            Self::Jet,
            Self::Reds,
            Self::Blues,
            Self::Gray,
            Self::Viridis,
            Self::Inferno,
            Self::RdBu,
        ]
    }

    /// The red, green and blue of `value`, which is meant to lie in 0 to 1: entry
    /// `floor(256 value)`, at most 255. Smaller values and NaN take the first
    /// colour, larger ones the last.
    ///
    /// ```
    /// use saliency_viz::Colormap;
    ///
    /// assert_eq!(Colormap::Gray.at(0.5), [128, 128, 128]);
    /// assert_eq!(Colormap::Gray.at(9.0), [255, 255, 255]);
    /// ```
    pub fn at(self, value: f32) -> [u8; 3] {
        self.entry(index(value))
    }

    /// All 256 colours.
    pub(crate) fn table(self) -> [[u8; 3]; 256] {
        std::array::from_fn(|i| self.entry(i as u8))
    }

    fn entry(self, i: u8) -> [u8; 3] {
        let x = f64::from(i) / 255.0;
        match self {
            Self::Hot => HOT.map(|channel| byte(interpolate(channel, x))),
            Self::Jet => JET.map(|channel| byte(interpolate(channel, x))),
            Self::Reds => between(&REDS, x),
            Self::Blues => between(&BLUES, x),
            Self::Gray => [i; 3],
            Self::Viridis => ramp(&VIRIDIS, i),
            Self::Inferno => ramp(&INFERNO, i),
            Self::RdBu => between(&RD_BU, x),
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Hot => "hot",
            Self::Jet => "jet",
            Self::Reds => "Reds",
            Self::Blues => "Blues",
            Self::Gray => "gray",
            Self::Viridis => "viridis",
            Self::Inferno => "inferno",
            Self::RdBu => "RdBu",
        }
    }
}

impl fmt::Display for Colormap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Colormap {
    type Err = Error;

    /// Reads a name, in upper or lower case.
    fn from_str(name: &str) -> Result<Self, Error> {
        Self::all()
            .iter()
            .find(|map| map.name().eq_ignore_ascii_case(name.trim()))
            .copied()
            .ok_or_else(|| Error::UnknownColormap {
                name: name.to_string(),
                known: Self::all()
                    .iter()
                    .map(|map| map.name())
                    .collect::<Vec<_>>()
                    .join(", "),
            })
    }
}

/// The entry of a 256-colour table that `value` falls in.
pub(crate) fn index(value: f32) -> u8 {
    (value * 256.0) as u8
}

/// Corners `(x, y)` of a piecewise linear channel.
type Corners = &'static [(f64, f64)];

const HOT: [Corners; 3] = [
    &[(0.0, 0.0416), (0.365079, 1.0), (1.0, 1.0)],
    &[(0.0, 0.0), (0.365079, 0.0), (0.746032, 1.0), (1.0, 1.0)],
    &[(0.0, 0.0), (0.746032, 0.0), (1.0, 1.0)],
];

const JET: [Corners; 3] = [
    &[
        (0.0, 0.0),
        (0.35, 0.0),
        (0.66, 1.0),
        (0.89, 1.0),
        (1.0, 0.5),
    ],
    &[
        (0.0, 0.0),
        (0.125, 0.0),
        (0.375, 1.0),
        (0.64, 1.0),
        (0.91, 0.0),
        (1.0, 0.0),
    ],
    &[
        (0.0, 0.5),
        (0.11, 1.0),
        (0.34, 1.0),
        (0.65, 0.0),
        (1.0, 0.0),
    ],
];

const REDS: [u32; 9] = [
    0xfff5f0, 0xfee0d2, 0xfcbba1, 0xfc9272, 0xfb6a4a, 0xef3b2c, 0xcb181d, 0xa50f15, 0x67000d,
];

const BLUES: [u32; 9] = [
    0xf7fbff, 0xdeebf7, 0xc6dbef, 0x9ecae1, 0x6baed6, 0x4292c6, 0x2171b5, 0x08519c, 0x08306b,
];

const RD_BU: [u32; 11] = [
    0x67001f, 0xb2182b, 0xd6604d, 0xf4a582, 0xfddbc7, 0xf7f7f7, 0xd1e5f0, 0x92c5de, 0x4393c3,
    0x2166ac, 0x053061,
];

fn interpolate(corners: Corners, x: f64) -> f64 {
    let right = corners
        .iter()
        .position(|corner| x <= corner.0)
        .unwrap_or(corners.len() - 1)
        .max(1);
    let ((x0, y0), (x1, y1)) = (corners[right - 1], corners[right]);
    y0 + (y1 - y0) * (x - x0) / (x1 - x0)
}

/// Linear interpolation between evenly spaced colours `0xrrggbb`.
fn between(anchors: &[u32], x: f64) -> [u8; 3] {
    let position = x * (anchors.len() - 1) as f64;
    let left = (position as usize).min(anchors.len() - 2);
    let fraction = position - left as f64;
    [16, 8, 0].map(|shift| {
        let channel = |i: usize| f64::from(anchors[i] >> shift & 0xff) / 255.0;
        byte(channel(left) + (channel(left + 1) - channel(left)) * fraction)
    })
}

fn ramp(gradient: &Gradient, i: u8) -> [u8; 3] {
    let colour = gradient.eval_rational(i.into(), 256);
    [colour.r, colour.g, colour.b]
}

/// matplotlib cuts here rather than rounds.
fn byte(channel: f64) -> u8 {
    (channel * 255.0) as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    /// matplotlib's 256 colours, written by `tests/reference/colormaps.py`.
    fn reference(map: Colormap) -> Vec<u8> {
        let table: serde_json::Value =
            serde_json::from_str(include_str!("../tests-data/colormaps.json")).unwrap();
        let hex = table["colormaps"][map.to_string()].as_str().unwrap();
        (0..hex.len())
            .step_by(2)
            .map(|i| u8::from_str_radix(&hex[i..i + 2], 16).unwrap())
            .collect()
    }

    #[test]
    fn every_entry_is_within_one_of_matplotlib() {
        for &map in Colormap::all() {
            let expected = reference(map);
            assert_eq!(expected.len(), 768);
            for i in 0..256 {
                let colour = map.at((i as f32 + 0.5) / 256.0);
                for (channel, &found) in colour.iter().enumerate() {
                    let wanted = expected[3 * i + channel];
                    assert!(
                        found.abs_diff(wanted) <= 1,
                        "{map} entry {i}: {colour:?}, channel {channel} {wanted}"
                    );
                }
            }
        }
    }

    #[test]
    fn indexing_is_floor_of_256_x() {
        let gray = |x| Colormap::Gray.at(x)[0];
        assert_eq!(gray(1.0 / 256.0), 1);
        assert_eq!(gray(1.0 / 256.0 - 1e-6), 0);
        assert_eq!(gray(0.999), 255);
        assert_eq!(gray(1.0), 255);
        assert_eq!(
            (gray(-3.0), gray(f32::NAN), gray(f32::INFINITY)),
            (0, 0, 255)
        );
    }

    #[test]
    fn names_round_trip_in_any_case() {
        for &map in Colormap::all() {
            let name = map.to_string();
            assert_eq!(name.parse::<Colormap>().unwrap(), map);
            assert_eq!(name.to_uppercase().parse::<Colormap>().unwrap(), map);
        }
        let error = "rainbow".parse::<Colormap>().unwrap_err().to_string();
        assert_eq!(
            error,
            "unknown colormap 'rainbow': use one of hot, jet, Reds, Blues, gray, viridis, inferno, RdBu"
        );
    }

    #[test]
    fn the_table_is_what_at_gives() {
        for &map in Colormap::all() {
            let table = map.table();
            for i in 0..=255u8 {
                assert_eq!(table[usize::from(i)], map.at(f32::from(i) / 256.0));
            }
        }
    }
}
