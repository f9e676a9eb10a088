//! Pictures of saliency maps and charts of features, from plain grids of `f32`.
//!
//! | picture | function |
//! |---|---|
//! | photograph, map, overlay | [`standard`] |
//! | photograph, positive, negative, both | [`signed`] |
//! | several classes side by side | [`comparison`] |
//! | several channel reductions side by side | [`aggregations`] |
//! | any labelled maps side by side | [`gallery`] |
//! | how the values of a map are distributed | [`histogram`] |
//! | features of a table, with intervals | [`bars`], [`magnitudes`] |
//! | features at many rows of a table | [`beeswarm`] |
//! | a series over its saliency | [`series`] |
//! | features over time | [`time_heat`] |
//! | the parts alone | [`heatmap`], [`overlay`], [`outline`], [`grey`], [`Colormap`] |
//! | to a file | [`save_png`], [`encode_png`] |
//!
//! Each picture is an [`image::RgbImage`].
//!
//! ```
//! use image::{Rgb, RgbImage};
//! use saliency_viz::{Grid, Style, save_png, standard};
//!
//! let photo = RgbImage::from_fn(96, 96, |x, y| Rgb([x as u8 * 2, y as u8 * 2, 128]));
//! let bump = |i: usize| {
//!     let (x, y) = ((i % 12) as f32 - 5.5, (i / 12) as f32 - 5.5);
//!     (-(x * x + y * y) / 8.0).exp()
//! };
//! let map = Grid::new(12, 12, (0..144).map(bump).collect())?;
//!
//! let picture = standard(&photo, &map, "Smooth bump", &Style::default())?;
//! assert!(picture.width() > 3 * 384 && picture.height() > 384);
//!
//! let folder = tempfile::tempdir().unwrap();
//! save_png(&picture, folder.path().join("bump.png"))?;
//! # Ok::<(), saliency_viz::Error>(())
//! ```

mod bars;
mod beeswarm;
mod blend;
mod canvas;
mod chart;
mod colormap;
mod error;
mod gallery;
mod grid;
mod histogram;
mod panel;
mod resample;
mod save;
mod series;
mod signed;
mod standard;
mod style;
mod text;
mod ticks;

pub use bars::{Bar, bars, magnitudes};
pub use beeswarm::{Swarm, beeswarm};
pub use blend::{grey, heatmap, outline, overlay};
pub use colormap::Colormap;
pub use error::{Error, Result};
pub use gallery::{Cell, aggregations, comparison, gallery};
pub use grid::Grid;
pub use histogram::{Counts, HistogramStyle, histogram};
pub use save::{encode_png, save_png};
pub use series::{Track, series, time_heat};
pub use signed::signed;
pub use standard::standard;
pub use style::Style;
