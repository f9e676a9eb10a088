//! Launching the kernels of layers other than products.

use cubecl::{client::Client, prelude::*};

use super::{
    attention::{self, BLOCK, Layout, LayoutLaunch, SQUARE, Sizes, SizesLaunch, UNITS},
    launch::{self, Extra, Numbers, Offsets, Values, cubes_for, in_two, nothing},
    layers::{self, CopiesLaunch, Kind},
};
use crate::plan::{buffer::Geometry, elementwise::Strides};

/// What is kept, or next to no memory.
fn kept(client: &Client, values: Option<&Values>) -> BufferArg {
    match values {
        Some(values) => values.arg(1),
        None => nothing(client),
    }
}

/// A function of single values with its numbers. Returns the derivatives where they are kept.
pub fn activate(
    client: &Client,
    (kind, a, b): (Kind, f32, f32),
    source: &Values,
    out: &mut Values,
    keep: bool,
) -> Option<Values> {
    assert_eq!(source.len(), out.len());
    let slopes = keep.then(|| out.like(client));
    let (cube_count, cube_dim) = cubes_for(client, out.len());
    // SAFETY: all buffers are as long as `out`; what is not kept is not written.
    unsafe {
        layers::activate::launch_unchecked(
            client,
            cube_count,
            cube_dim,
            source.arg(1),
            out.arg(1),
            kept(client, slopes.as_ref()),
            a,
            b,
            kind,
            keep,
        );
    }
    slopes
}

/// A scale and a shift that repeat from channel to channel, or are one for each value of a row.
#[derive(Clone, Copy)]
pub struct Factors<'a> {
    pub scale: Option<&'a Numbers>,
    pub shift: Option<&'a Numbers>,
}

/// scale x + shift.
pub fn affine(client: &Client, factors: Factors, source: &Values, out: &mut Values) {
    assert_eq!(source.len(), out.len());
    let arg = |numbers: Option<&Numbers>| numbers.map_or_else(|| source.arg(1), Numbers::arg);
    let len = |numbers: Option<&Numbers>| numbers.map_or(1, Numbers::len) as u32;
    let (cube_count, cube_dim) = cubes_for(client, out.len());
    // SAFETY: factors are read up to their length only.
    unsafe {
        layers::affine::launch_unchecked(
            client,
            cube_count,
            cube_dim,
            source.arg(1),
            arg(factors.scale),
            arg(factors.shift),
            out.arg(1),
            len(factors.scale),
            len(factors.shift),
            factors.scale.is_some(),
            factors.shift.is_some(),
        );
    }
}

/// `a` times `b`, which may have one position for all.
pub fn gate(client: &Client, a: &Values, b: &Values, out: &mut Values, extra: Extra) {
    let spread = a.len() != b.len();
    assert_eq!(a.len(), out.len());
    assert!(!spread || b.len() == a.rows * a.channels);
    let finish = extra.finish(out, false);
    let (cube_count, cube_dim) = cubes_for(client, out.len());
    // SAFETY: `b` is as long as `a`, or has one position for each row.
    unsafe {
        layers::gate::launch_unchecked(
            client,
            cube_count,
            cube_dim,
            a.arg(1),
            b.arg(1),
            extra.arg(1, || a.arg(1)),
            out.arg(1),
            a.positions() as u32,
            a.channels as u32,
            spread,
            finish,
        );
    }
}

/// Weights of each channel by itself: `[window][channels]`.
#[derive(Clone, Copy)]
pub struct Windows<'a> {
    pub strides: &'a Strides,
    pub weights: &'a Numbers,
    pub bias: Option<&'a Numbers>,
    /// What the sums of each position are multiplied by.
    pub shares: Option<&'a Numbers>,
}

impl Windows<'_> {
    fn check(&self, source: &Values, out: &Values) {
        let [down, across] = self.strides.kernel;
        assert_eq!([source.rows, source.channels], [out.rows, out.channels]);
        assert_eq!(self.weights.len(), down * across * out.channels);
        assert!(self.bias.is_none_or(|bias| bias.len() == out.channels));
        assert!(
            self.shares
                .is_none_or(|shares| shares.len() == out.positions())
        );
    }
}

pub fn depthwise(client: &Client, windows: Windows, source: &Values, out: &mut Values) {
    windows.check(source, out);
    let or = |numbers: Option<&Numbers>| numbers.unwrap_or(windows.weights).arg();
    let (cube_count, cube_dim) = cubes_for(client, out.len());
    // SAFETY: weights, bias and shares are as long as the sizes say; windows outside are left out.
    unsafe {
        layers::depthwise::launch_unchecked(
            client,
            cube_count,
            cube_dim,
            source.arg(1),
            windows.weights.arg(),
            or(windows.bias),
            or(windows.shares),
            out.arg(1),
            launch::windows(windows.strides, source),
            out.writes(),
            windows.strides.dilation[0] as u32,
            windows.strides.dilation[1] as u32,
            windows.bias.is_some(),
            windows.shares.is_some(),
        );
    }
}

pub fn depthwise_back(
    client: &Client,
    windows: Windows,
    gradient: &Values,
    out: &mut Values,
    extra: Extra,
) {
    windows.check(out, gradient);
    let finish = extra.finish(out, false);
    let (cube_count, cube_dim) = cubes_for(client, out.len());
    // SAFETY: as above.
    unsafe {
        layers::depthwise_back::launch_unchecked(
            client,
            cube_count,
            cube_dim,
            gradient.arg(1),
            windows.weights.arg(),
            windows.shares.unwrap_or(windows.weights).arg(),
            extra.arg(1, || gradient.arg(1)),
            out.arg(1),
            launch::windows(windows.strides, gradient),
            out.writes(),
            windows.strides.dilation[0] as u32,
            windows.strides.dilation[1] as u32,
            windows.shares.is_some(),
            finish,
        );
    }
}

/// Some channels of some positions, and where they go.
#[derive(Clone, Copy)]
pub struct Span<'a> {
    /// Where the positions start in a row of the source.
    pub starts: &'a Offsets,
    /// From one channel to the next.
    pub spacing: usize,
    pub channels: usize,
    /// First position and first channel of the target.
    pub position: usize,
    pub channel: usize,
}

impl Span<'_> {
    /// Whether it writes every value of the target.
    pub fn fills(&self, target: &Values) -> bool {
        self.channels == target.channels && self.starts.places.len() == target.positions()
    }

    fn copies(&self, source: &Values, target: &Values) -> (CopiesLaunch, usize) {
        assert_eq!(source.rows, target.rows);
        let row = |values: &Values| values.positions() * values.channels;
        let last = self.starts.largest + (self.channels - 1) * self.spacing;
        assert!(last < row(source));
        assert!(self.channel + self.channels <= target.channels);
        assert!(self.position + self.starts.places.len() <= target.positions());
        let copies = CopiesLaunch::new(
            row(source) as u32,
            row(target) as u32,
            self.spacing as u32,
            (self.position * target.channels + self.channel) as u32,
            target.channels as u32,
            self.channels as u32,
        );
        (
            copies,
            source.rows * self.starts.places.len() * self.channels,
        )
    }
}

pub fn copy(client: &Client, span: Span, source: &Values, out: &mut Values) {
    let (copies, units) = span.copies(source, out);
    let (cube_count, cube_dim) = cubes_for(client, units);
    // SAFETY: the span lies in both buffers.
    unsafe {
        layers::copy::launch_unchecked(
            client,
            cube_count,
            cube_dim,
            source.arg(1),
            span.starts.places.arg(),
            out.arg(1),
            copies,
            units as u32,
        );
    }
}

/// Adds the gradient at what [`copy`] wrote to that at where it came from.
pub fn copy_back(client: &Client, span: Span, gradient: &Values, out: &mut Values) {
    let (copies, units) = span.copies(out, gradient);
    let (cube_count, cube_dim) = cubes_for(client, units);
    // SAFETY: as above.
    unsafe {
        layers::copy_back::launch_unchecked(
            client,
            cube_count,
            cube_dim,
            gradient.arg(1),
            span.starts.places.arg(),
            out.arg(1),
            copies,
            units as u32,
        );
    }
}

/// The same values to some positions of every row.
pub fn fill(client: &Client, values: &Numbers, position: usize, out: &mut Values) {
    let row = out.positions() * out.channels;
    assert!(position * out.channels + values.len() <= row);
    let units = out.rows * values.len();
    let (cube_count, cube_dim) = cubes_for(client, units);
    // SAFETY: the values end within a row.
    unsafe {
        layers::fill::launch_unchecked(
            client,
            cube_count,
            cube_dim,
            values.arg(),
            out.arg(1),
            row as u32,
            (position * out.channels) as u32,
            units as u32,
        );
    }
}

/// A cube for each line of channels.
fn lines(values: &Values) -> (CubeCount, CubeDim, u32) {
    let lines = values.rows * values.positions();
    (in_two(lines), CubeDim::new_1d(UNITS as u32), lines as u32)
}

/// LayerNorm over the channels of each position. Returns the standardised values and the inverse
/// deviations where they are kept.
pub fn norm(
    client: &Client,
    [gamma, beta]: [Option<&Numbers>; 2],
    epsilon: f32,
    source: &Values,
    out: &mut Values,
    keep: bool,
) -> Vec<Values> {
    let gamma = gamma.expect("a norm has factors");
    assert_eq!(source.len(), out.len());
    assert_eq!(gamma.len(), out.channels);
    assert!(beta.is_none_or(|beta| beta.len() == out.channels));
    let each = Geometry {
        channels: 1,
        ..out.geometry()
    };
    let made = match keep {
        true => vec![out.like(client), Values::empty(client, each, out.rows)],
        false => Vec::new(),
    };
    let (cube_count, cube_dim, count) = lines(out);
    // SAFETY: all buffers have the lines of `out`; what is not kept is not written.
    unsafe {
        attention::norm::launch_unchecked(
            client,
            cube_count,
            cube_dim,
            source.arg(1),
            gamma.arg(),
            beta.unwrap_or(gamma).arg(),
            out.arg(1),
            kept(client, made.first()),
            kept(client, made.last()),
            out.channels as u32,
            count,
            epsilon,
            beta.is_some(),
            keep,
        );
    }
    made
}

/// The gradient at the input of [`norm`].
pub fn norm_back(
    client: &Client,
    gamma: &Numbers,
    kept: &[Values],
    gradient: &Values,
    out: &mut Values,
) {
    let [standard, inverses] = kept else {
        unreachable!("a norm keeps two")
    };
    assert_eq!([gradient.len(), standard.len()], [out.len(); 2]);
    assert_eq!(gamma.len(), out.channels);
    assert_eq!(inverses.len(), out.rows * out.positions());
    let (cube_count, cube_dim, count) = lines(out);
    // SAFETY: all buffers have the lines of `out`.
    unsafe {
        attention::norm_back::launch_unchecked(
            client,
            cube_count,
            cube_dim,
            gradient.arg(1),
            gamma.arg(),
            standard.arg(1),
            inverses.arg(1),
            out.arg(1),
            out.channels as u32,
            count,
        );
    }
}

/// The softmax over the channels of each position.
pub fn softmax(client: &Client, source: &Values, out: &mut Values) {
    assert_eq!(source.len(), out.len());
    let (cube_count, cube_dim, count) = lines(out);
    // SAFETY: both have the lines of `out`.
    unsafe {
        attention::softmax::launch_unchecked(
            client,
            cube_count,
            cube_dim,
            source.arg(1),
            out.arg(1),
            out.channels as u32,
            count,
        );
    }
}

/// The gradient at the input of [`softmax`].
pub fn softmax_back(client: &Client, softmaxes: &Values, gradient: &Values, out: &mut Values) {
    assert_eq!([gradient.len(), softmaxes.len()], [out.len(); 2]);
    let (cube_count, cube_dim, count) = lines(out);
    // SAFETY: all have the lines of `out`.
    unsafe {
        attention::softmax_back::launch_unchecked(
            client,
            cube_count,
            cube_dim,
            gradient.arg(1),
            softmaxes.arg(1),
            out.arg(1),
            out.channels as u32,
            count,
        );
    }
}

impl Layout {
    /// With lines and columns exchanged.
    pub fn transposed(self) -> Self {
        Layout {
            down: self.across,
            across: self.down,
            ..self
        }
    }

    fn launched(self) -> LayoutLaunch {
        LayoutLaunch::new(self.offset, self.row, self.head, self.down, self.across)
    }

    fn check(&self, of: &Values, heads: u32, lines: u32, columns: u32) {
        let last = self.offset
            + (of.rows as u32 - 1) * self.row
            + (heads - 1) * self.head
            + (lines - 1) * self.down
            + (columns - 1) * self.across;
        assert!((last as usize) < of.len());
    }
}

/// Cubes that make a matrix.
pub fn squares(lines: usize, columns: usize) -> usize {
    lines.div_ceil(SQUARE) * columns.div_ceil(SQUARE)
}

/// `out = scale * left * right` for each row and head, or added to what is there.
pub fn heads_product(
    client: &Client,
    (left, of_left): (&Values, Layout),
    (right, of_right): (&Values, Layout),
    (out, of_out): (&mut Values, Layout),
    sizes: Sizes,
    scale: f32,
    accumulate: bool,
) {
    let Sizes {
        heads,
        lines,
        columns,
        inner,
    } = sizes;
    assert_eq!([left.rows, right.rows], [out.rows; 2]);
    of_left.check(left, heads, lines, inner);
    of_right.check(right, heads, inner, columns);
    of_out.check(out, heads, lines, columns);
    let squares = squares(lines as usize, columns as usize) as u32;
    let cube_count = CubeCount::Static(squares, 1, out.rows as u32 * heads);
    let turned = [of_left, of_right].map(|layout| layout.down == 1);
    // SAFETY: the last value of each layout lies in its buffer.
    unsafe {
        attention::heads_product::launch_unchecked(
            client,
            cube_count,
            CubeDim::new_1d((BLOCK * BLOCK) as u32),
            left.arg(1),
            right.arg(1),
            out.arg(1),
            of_left.launched(),
            of_right.launched(),
            of_out.launched(),
            SizesLaunch::new(heads, lines, columns, inner),
            scale,
            turned,
            accumulate,
        );
    }
}
