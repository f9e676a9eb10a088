use std::path::PathBuf;

/// What can go wrong when a picture is asked for.
///
/// ```
/// use saliency_viz::Grid;
///
/// let error = Grid::new(2, 2, vec![0.0; 3]).unwrap_err();
/// assert_eq!(
///     error.to_string(),
///     "a grid of width 2 and height 2 needs 4 values, got 3",
/// );
/// ```
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A grid with no pixels.
    #[error("a grid of width {width} and height {height} has no pixels: give at least 1 x 1")]
    EmptyGrid {
        /// Columns asked for.
        width: usize,
        /// Rows asked for.
        height: usize,
    },

    /// A grid with more columns or rows than a picture can have.
    #[error("a grid of width {width} and height {height} is too large for a picture")]
    GridTooLarge {
        /// Columns asked for.
        width: usize,
        /// Rows asked for.
        height: usize,
    },

    /// The number of values is not width x height.
    #[error("a grid of width {width} and height {height} needs {expected} values, got {found}")]
    GridLength {
        /// Columns asked for.
        width: usize,
        /// Rows asked for.
        height: usize,
        /// width x height.
        expected: usize,
        /// Number of values given.
        found: usize,
    },

    /// A NaN or an infinity.
    #[error("value {index} of {what} is {value}: only finite numbers can be drawn")]
    NotFinite {
        /// What was being drawn.
        what: &'static str,
        /// Position of the first such value.
        index: usize,
        /// The value itself.
        value: f32,
    },

    /// Two grids that belong together differ in size.
    #[error(
        "the positive grid is {}x{} and the negative one {}x{}: give both the same size",
        .positive.0, .positive.1, .negative.0, .negative.1
    )]
    GridMismatch {
        /// Width and height of the positive grid.
        positive: (usize, usize),
        /// Width and height of the negative grid.
        negative: (usize, usize),
    },

    /// A photograph with no pixels.
    #[error("the original image is {width}x{height} pixels: give at least 1x1")]
    EmptyImage {
        /// Its width.
        width: u32,
        /// Its height.
        height: u32,
    },

    /// A mask whose length is not that of its image.
    #[error("a mask for an image of {width}x{height} pixels needs {expected} values, got {found}")]
    MaskLength {
        /// Width of the image.
        width: u32,
        /// Height of the image.
        height: u32,
        /// width x height.
        expected: usize,
        /// Number of values given.
        found: usize,
    },

    /// A colormap that does not exist.
    #[error("unknown colormap '{name}': use one of {known}")]
    UnknownColormap {
        /// The name given.
        name: String,
        /// The names there are.
        known: String,
    },

    /// An opacity outside 0 to 1.
    #[error("alpha is {0}: give a number from 0 (only the photograph) to 1 (only the map)")]
    Alpha(f32),

    /// A panel size outside the range that can be drawn well.
    #[error("a panel of {found} pixels: give {} to {} pixels", .range.0, .range.1)]
    PanelSize {
        /// The size given.
        found: u32,
        /// Smallest and largest size accepted.
        range: (u32, u32),
    },

    /// A number of things (maps, values, bins, lines) outside what can be drawn.
    #[error("{found} {what}: give {} to {}", .range.0, .range.1)]
    Count {
        /// What was counted.
        what: &'static str,
        /// Number given.
        found: usize,
        /// Smallest and largest number accepted.
        range: (usize, usize),
    },

    /// A picture that cannot be written as PNG.
    #[error("cannot encode a picture of {width}x{height} pixels as PNG: {reason}")]
    Encode {
        /// Width of the picture.
        width: u32,
        /// Height of the picture.
        height: u32,
        /// What the encoder said.
        reason: image::ImageError,
    },

    /// A file that cannot be written.
    #[error("cannot write {}: {reason}", .path.display())]
    Save {
        /// The file asked for.
        path: PathBuf,
        /// What the operating system said.
        reason: std::io::Error,
    },
}

/// A value, or why there is none.
pub type Result<T> = std::result::Result<T, Error>;
