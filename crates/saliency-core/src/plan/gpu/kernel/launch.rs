//! Launching kernels.

use std::ops::Range;

use cubecl::{calculate_cube_count_elemwise, client::Client, prelude::*, server::Handle};

use super::{
    Finish, Other, Reads, ReadsLaunch, Writes, WritesLaunch, pointwise,
    product::{self as products, DEPTH, DepthsLaunch, SIDE, Tile, WIDE},
};
use crate::plan::{buffer::Geometry, elementwise::Strides, sweep};

/// Values of a batch on the device: `[rows, height, width, channels]`.
#[derive(Clone)]
pub struct Values {
    handle: Handle,
    pub rows: usize,
    pub height: usize,
    pub width: usize,
    pub channels: usize,
}

impl Values {
    /// Memory for them.
    pub fn empty(client: &Client, geometry: Geometry, rows: usize) -> Self {
        let Geometry {
            height,
            width,
            channels,
            ..
        } = geometry;
        Values {
            handle: client.empty(rows * height * width * channels * size_of::<f32>()),
            rows,
            height,
            width,
            channels,
        }
    }

    /// Memory for others like these.
    pub fn like(&self, client: &Client) -> Self {
        Values {
            handle: client.empty(self.len() * size_of::<f32>()),
            ..*self
        }
    }

    /// The size of a row.
    pub fn geometry(&self) -> Geometry {
        Geometry {
            height: self.height,
            width: self.width,
            channels: self.channels,
            halo: 0,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.rows * self.positions() * self.channels
    }

    pub(super) fn positions(&self) -> usize {
        self.height * self.width
    }

    /// How many values kernels take at once.
    fn lanes(&self) -> usize {
        lanes([self.channels])
    }

    pub(super) fn arg(&self, lanes: usize) -> BufferArg {
        argument(&self.handle, self.len() / lanes)
    }

    /// All positions, each an output.
    pub(super) fn writes(&self) -> WritesLaunch {
        Writes {
            count: (self.rows * self.positions()) as u32,
            grid_y: self.height as u32,
            grid_x: self.width as u32,
            height: self.height as u32,
            width: self.width as u32,
            pitch: self.channels as u32,
            first: 0,
            channels: self.channels as u32,
            origin_y: 0,
            origin_x: 0,
            step_y: 1,
            step_x: 1,
        }
        .launched()
    }
}

/// Constants on the device.
pub struct Numbers {
    handle: Handle,
    length: usize,
}

impl Numbers {
    pub fn new(client: &Client, data: &[f32]) -> Self {
        Numbers {
            handle: client.create_from_slice(f32::as_bytes(data)),
            length: data.len(),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.length
    }

    pub(super) fn arg(&self) -> BufferArg {
        argument(&self.handle, self.length)
    }

    pub fn handle(&self) -> &Handle {
        &self.handle
    }
}

/// Places in a row of values, on the device.
pub struct Offsets {
    pub(super) places: Numbers,
    pub(super) largest: usize,
}

impl Offsets {
    pub fn new(client: &Client, data: &[u32]) -> Self {
        Offsets {
            places: Numbers {
                handle: client.create_from_slice(u32::as_bytes(data)),
                length: data.len(),
            },
            largest: data.iter().copied().max().unwrap_or(0) as usize,
        }
    }

    pub fn handle(&self) -> &Handle {
        &self.places.handle
    }
}

/// Four where all of these are multiples of it.
fn lanes<const N: usize>(of: [usize; N]) -> usize {
    match of.iter().all(|n| n.is_multiple_of(4)) {
        true => 4,
        false => 1,
    }
}

fn argument(handle: &Handle, length: usize) -> BufferArg {
    // SAFETY: the callers pass the length the memory was made with.
    unsafe { BufferArg::from_raw_parts(handle.clone(), length) }
}

/// Memory that no kernel uses.
pub(super) fn nothing(client: &Client) -> BufferArg {
    argument(&client.empty(4 * size_of::<f32>()), 1)
}

impl Reads {
    /// Of some channels of a buffer.
    pub fn new(of: Geometry, channels: Range<usize>, reads: sweep::Reads) -> Self {
        Reads {
            height: of.height as u32,
            width: of.width as u32,
            pitch: of.channels as u32,
            first: channels.start as u32,
            channels: channels.len() as u32,
            origin_y: reads.origin[0] as i32,
            origin_x: reads.origin[1] as i32,
            step_y: reads.step[0] as i32,
            step_x: reads.step[1] as i32,
            window_y: reads.window[0] as u32,
            window_x: reads.window[1] as u32,
        }
    }

    fn launched(self) -> ReadsLaunch {
        ReadsLaunch::new(
            self.height,
            self.width,
            self.pitch,
            self.first,
            self.channels,
            self.origin_y,
            self.origin_x,
            self.step_y,
            self.step_x,
            self.window_y,
            self.window_x,
        )
    }

    fn check(&self, source: &Values) {
        let sizes = [self.height, self.width, self.pitch].map(|n| n as usize);
        assert_eq!(sizes, [source.height, source.width, source.channels]);
        assert!(self.first + self.channels <= self.pitch);
    }
}

impl Writes {
    fn launched(self) -> WritesLaunch {
        WritesLaunch::new(
            self.count,
            self.grid_y,
            self.grid_x,
            self.height,
            self.width,
            self.pitch,
            self.first,
            self.channels,
            self.origin_y,
            self.origin_x,
            self.step_y,
            self.step_x,
        )
    }

    fn check(&self, out: &Values) {
        let sizes = [self.height, self.width, self.pitch].map(|n| n as usize);
        assert_eq!(sizes, [out.height, out.width, out.channels]);
        assert!(self.first + self.channels <= self.pitch);
        assert!(self.origin_y + (self.grid_y - 1) * self.step_y < self.height);
        assert!(self.origin_x + (self.grid_x - 1) * self.step_x < self.width);
        assert_eq!(
            self.count as usize,
            out.rows * (self.grid_y * self.grid_x) as usize
        );
    }
}

/// Weights: `[window, channels out]`, filled up with zeros to whole tiles.
pub struct Matrix {
    handle: Handle,
    depth: usize,
    wide: usize,
    channels: usize,
    bias: Option<Handle>,
}

impl Matrix {
    /// From a function of the value of the window and the channel.
    pub fn new(
        client: &Client,
        rows: usize,
        channels: usize,
        bias: Option<&[f32]>,
        weight: impl Fn(usize, usize) -> f32,
    ) -> Self {
        let (depth, wide) = (
            rows.next_multiple_of(DEPTH),
            channels.next_multiple_of(WIDE),
        );
        let mut data = vec![0.0; depth * wide];
        for (row, line) in data.chunks_exact_mut(wide).take(rows).enumerate() {
            for (channel, value) in line[..channels].iter_mut().enumerate() {
                *value = weight(row, channel);
            }
        }
        if let Some(bias) = bias {
            assert_eq!(bias.len(), channels);
        }
        Matrix {
            handle: client.create_from_slice(f32::as_bytes(&data)),
            depth,
            wide,
            channels,
            bias: bias.map(|bias| client.create_from_slice(f32::as_bytes(bias))),
        }
    }

    fn arg(&self, lanes: usize) -> BufferArg {
        argument(&self.handle, self.depth * self.wide / lanes)
    }

    pub fn handles(&self) -> impl Iterator<Item = &Handle> {
        [Some(&self.handle), self.bias.as_ref()]
            .into_iter()
            .flatten()
    }
}

/// Cubes for so many units.
pub(super) fn cubes_for(client: &Client, units: usize) -> (CubeCount, CubeDim) {
    let cube_dim = CubeDim::new(client, units);
    let cube_count = calculate_cube_count_elemwise(client, units, cube_dim);
    (cube_count, cube_dim)
}

/// At least so many cubes, along two axes: one has room for few on some devices.
pub(super) fn in_two(cubes: usize) -> CubeCount {
    const WIDEST: usize = 1 << 15;
    CubeCount::Static(cubes.min(WIDEST) as u32, cubes.div_ceil(WIDEST) as u32, 1)
}

/// What is done with values besides, before they are written.
#[derive(Clone, Copy, Default)]
pub struct Extra<'a> {
    pub accumulate: bool,
    pub relu: bool,
    pub other: Option<(&'a Values, Other)>,
}

impl<'a> Extra<'a> {
    /// With a ReLU's rule for what comes out.
    pub fn by(self, rule: Option<(&'a Values, Other)>) -> Self {
        Extra {
            other: rule,
            ..self
        }
    }

    pub(super) fn finish(&self, out: &Values, bias: bool) -> Finish {
        if let Some((values, _)) = self.other {
            assert_eq!(values.len(), out.len());
        }
        Finish {
            bias,
            accumulate: self.accumulate,
            relu: self.relu,
            other: self.other.map_or(Other::None, |(_, other)| other),
        }
    }

    /// The other values, or anything that the kernel reads and will not read as such.
    pub(super) fn arg(&self, lanes: usize, instead: impl FnOnce() -> BufferArg) -> BufferArg {
        match self.other {
            Some((values, _)) => values.arg(lanes),
            None => instead(),
        }
    }
}

/// Cubes that keep a GPU busy, where it does not say how many it runs at once.
const BUSY: usize = 256;
/// Cubes for each of its multiprocessors.
const EACH: usize = 3;
/// Fewest depths of a part of a product.
const SHORTEST: usize = 4;

/// Windows of `source` times weights.
pub fn product(
    client: &Client,
    source: &Values,
    reads: Reads,
    weights: &Matrix,
    out: &mut Values,
    writes: Writes,
    extra: Extra,
) {
    reads.check(source);
    writes.check(out);
    assert_eq!(source.rows, out.rows);
    assert_eq!(writes.channels as usize, weights.channels);
    let values = (reads.window_y * reads.window_x * reads.channels) as usize;
    assert_eq!(values.next_multiple_of(DEPTH), weights.depth);

    let count = writes.count as usize;
    let hardware = &client.properties().hardware;
    let processors = hardware.num_streaming_multiprocessors;
    let busy = processors.map_or(BUSY, |processors| EACH * processors as usize);
    let cubes = |high: usize| count.div_ceil(high * SIDE) * (weights.wide / WIDE);
    let high = if cubes(8) >= busy { 8 } else { 4 };
    let depths = weights.depth / DEPTH;
    let parts = match cubes(high) * 3 > busy * 2 {
        true => 1,
        false => busy.div_ceil(cubes(high)).min(depths / SHORTEST).max(1),
    };
    let each = depths.div_ceil(parts);
    let parts = depths.div_ceil(each);

    let read = lanes([reads.pitch, reads.first, reads.channels].map(|n| n as usize));
    let written = lanes([writes.pitch, writes.first, writes.channels].map(|n| n as usize));
    let finish = extra.finish(out, weights.bias.is_some());
    let bias = |lanes: usize| match &weights.bias {
        Some(bias) => argument(bias, weights.channels / lanes),
        None => weights.arg(lanes),
    };
    let cube_count = CubeCount::Static(
        count.div_ceil(high * SIDE) as u32,
        (weights.wide / WIDE) as u32,
        parts as u32,
    );
    let cube_dim = CubeDim::new_1d((SIDE * SIDE) as u32);
    let of = DepthsLaunch::new(each as u32, depths as u32, (weights.wide / 4) as u32);
    let tile = Tile {
        high,
        vectors: read == 4,
        partial: parts > 1,
    };
    if parts == 1 {
        // SAFETY: reads, writes and weights were checked against the buffers' sizes.
        unsafe {
            products::product::launch_unchecked(
                client,
                cube_count,
                cube_dim,
                read,
                written,
                source.arg(read),
                weights.arg(4),
                bias(written),
                extra.arg(written, || weights.arg(written)),
                out.arg(written),
                reads.launched(),
                writes.launched(),
                of,
                tile,
                finish,
            );
        }
        return;
    }
    let length = parts * count * weights.wide;
    let sums = client.empty(length * size_of::<f32>());
    // SAFETY: as above; the sums take `parts * count` lines of all channels.
    unsafe {
        products::product::launch_unchecked(
            client,
            cube_count,
            cube_dim,
            read,
            4,
            source.arg(read),
            weights.arg(4),
            weights.arg(4),
            weights.arg(4),
            argument(&sums, length / 4),
            reads.launched(),
            writes.launched(),
            of,
            tile,
            Finish::default(),
        );
    }
    let units = count * weights.channels / written;
    let (cube_count, cube_dim) = cubes_for(client, units);
    // SAFETY: as above.
    unsafe {
        products::sum_parts::launch_unchecked(
            client,
            cube_count,
            cube_dim,
            written,
            argument(&sums, length / written),
            bias(written),
            extra.arg(written, || weights.arg(written)),
            out.arg(written),
            writes.launched(),
            parts as u32,
            (weights.wide / written) as u32,
            finish,
        );
    }
}

/// The input gradient of a convolution of few input channels.
pub fn gather(
    client: &Client,
    gradient: &Values,
    reads: Reads,
    // `[window][inputs][outputs]`.
    weights: &Numbers,
    out: &mut Values,
    extra: Extra,
) {
    reads.check(gradient);
    assert_eq!(gradient.rows, out.rows);
    let values = reads.window_y * reads.window_x * reads.channels;
    assert_eq!(values as usize * out.channels, weights.length);
    let read = lanes([reads.pitch, reads.first, reads.channels].map(|n| n as usize));
    let finish = extra.finish(out, false);
    let (cube_count, cube_dim) = cubes_for(client, out.len());
    // SAFETY: the sizes were checked against the buffers'.
    unsafe {
        products::gather::launch_unchecked(
            client,
            cube_count,
            cube_dim,
            read,
            gradient.arg(read),
            argument(&weights.handle, weights.length / read),
            extra.arg(1, || argument(&weights.handle, weights.length)),
            out.arg(1),
            reads.launched(),
            out.writes(),
            finish,
        );
    }
}

/// Single values: `a` or nothing, and what is done besides.
pub fn combine(client: &Client, a: Option<&Values>, out: &mut Values, extra: Extra) {
    let lanes = out.lanes();
    if let Some(a) = a {
        assert_eq!(a.len(), out.len());
    }
    let finish = extra.finish(out, false);
    let read = |a: Option<&Values>| a.map_or_else(|| nothing(client), |a| a.arg(lanes));
    let units = out.len() / lanes;
    let (cube_count, cube_dim) = cubes_for(client, units);
    // SAFETY: all buffers that are read are as long as `out`.
    unsafe {
        pointwise::combine::launch_unchecked(
            client,
            cube_count,
            cube_dim,
            lanes,
            read(a),
            extra.arg(lanes, || read(a)),
            out.arg(lanes),
            a.is_some(),
            finish,
        );
    }
}

/// Fills memory with zeros.
pub fn zeros(client: &Client, out: &mut Values) {
    combine(client, None, out, Extra::default());
}

/// From `[rows, channels, height, width]`, of as many values.
pub fn to_values(client: &Client, planes: &Handle, out: &mut Values) {
    let planes = argument(planes, out.len());
    transpose(client, planes, out.arg(1), [out.channels, out.positions()]);
}

/// As `[rows, channels, height, width]`.
pub fn to_planes(client: &Client, values: &Values) -> Handle {
    if values.positions() == 1 || values.channels == 1 {
        return values.handle.clone();
    }
    let out = client.empty(values.len() * size_of::<f32>());
    let planes = argument(&out, values.len());
    transpose(
        client,
        values.arg(1),
        planes,
        [values.positions(), values.channels],
    );
    out
}

/// `[rows, lines, columns]` to `[rows, columns, lines]`, of as many values.
fn transpose(client: &Client, source: BufferArg, out: BufferArg, [lines, columns]: [usize; 2]) {
    assert_eq!(source.len(), out.len());
    let (cube_count, cube_dim) = cubes_for(client, out.len());
    // SAFETY: both are as long, and every place is one of a row's.
    unsafe {
        pointwise::transpose::launch_unchecked(
            client,
            cube_count,
            cube_dim,
            source,
            out,
            lines as u32,
            columns as u32,
        );
    }
}

/// How windows of all channels move over values.
pub(super) fn windows(strides: &Strides, of: &Values) -> ReadsLaunch {
    Reads::new(of.geometry(), 0..of.channels, strides.reads()).launched()
}

/// The largest value of each window. Returns which it was, as wide as the values, where that is
/// kept.
pub fn max_pool(
    client: &Client,
    source: &Values,
    strides: &Strides,
    out: &mut Values,
    keep: bool,
) -> Option<Values> {
    assert_eq!([source.rows, source.channels], [out.rows, out.channels]);
    let lanes = out.lanes();
    let places = keep.then(|| out.like(client));
    let units = out.len() / lanes;
    let (cube_count, cube_dim) = cubes_for(client, units);
    // SAFETY: `places` is as long as `out` or not written; reads outside the source are left out.
    unsafe {
        pointwise::max_pool::launch_unchecked(
            client,
            cube_count,
            cube_dim,
            lanes,
            source.arg(lanes),
            out.arg(lanes),
            places
                .as_ref()
                .map_or_else(|| nothing(client), |places| places.arg(lanes)),
            windows(strides, source),
            out.writes(),
            strides.dilation[0] as u32,
            strides.dilation[1] as u32,
            keep,
        );
    }
    places
}

/// Gradients to where the maxima were.
pub fn max_pool_back(
    client: &Client,
    gradient: &Values,
    places: &Values,
    strides: &Strides,
    out: &mut Values,
    extra: Extra,
) {
    assert_eq!(gradient.len(), places.len());
    assert_eq!([gradient.rows, gradient.channels], [out.rows, out.channels]);
    let lanes = out.lanes();
    let finish = extra.finish(out, false);
    let units = out.len() / lanes;
    let (cube_count, cube_dim) = cubes_for(client, units);
    // SAFETY: `places` is as long as the gradient, and outputs outside it are left out.
    unsafe {
        pointwise::max_pool_back::launch_unchecked(
            client,
            cube_count,
            cube_dim,
            lanes,
            gradient.arg(lanes),
            places.arg(lanes),
            extra.arg(lanes, || gradient.arg(lanes)),
            out.arg(lanes),
            windows(strides, gradient),
            out.writes(),
            strides.dilation[0] as u32,
            strides.dilation[1] as u32,
            finish,
        );
    }
}

/// The mean over all positions, to the only one.
pub fn mean(client: &Client, source: &Values, out: &mut Values) {
    let scale = 1.0 / source.positions() as f32;
    sum_positions(client, source, None, scale, out, Extra::default());
}

/// The sums of `a` times `b` over all positions, to the only one of `out`.
pub fn sum_of_products(client: &Client, a: &Values, b: &Values, out: &mut Values, extra: Extra) {
    sum_positions(client, a, Some(b), 1.0, out, extra);
}

fn sum_positions(
    client: &Client,
    a: &Values,
    b: Option<&Values>,
    scale: f32,
    out: &mut Values,
    extra: Extra,
) {
    assert_eq!(out.len(), a.rows * a.channels);
    assert!(b.is_none_or(|b| b.len() == a.len()));
    let lanes = a.lanes();
    let vectors = a.channels / lanes;
    let finish = extra.finish(out, false);
    let cubes = a.rows * vectors.div_ceil(pointwise::TOGETHER);
    // SAFETY: `out` has one position for those of `a` and `b`.
    unsafe {
        pointwise::sum_positions::launch_unchecked(
            client,
            in_two(cubes),
            CubeDim::new_1d((pointwise::TOGETHER * pointwise::SHARES) as u32),
            lanes,
            a.arg(lanes),
            b.unwrap_or(a).arg(lanes),
            extra.arg(lanes, || a.arg(lanes)),
            out.arg(lanes),
            a.rows as u32,
            a.positions() as u32,
            vectors as u32,
            scale,
            b.is_some(),
            finish,
        );
    }
}

/// The gradient at a mean to all positions.
pub fn mean_back(client: &Client, gradient: &Values, out: &mut Values, extra: Extra) {
    assert_eq!(gradient.len(), out.rows * out.channels);
    let lanes = out.lanes();
    let finish = extra.finish(out, false);
    let units = out.len() / lanes;
    let (cube_count, cube_dim) = cubes_for(client, units);
    // SAFETY: `gradient` has one position for those of `out`.
    unsafe {
        pointwise::mean_back::launch_unchecked(
            client,
            cube_count,
            cube_dim,
            lanes,
            gradient.arg(lanes),
            extra.arg(lanes, || gradient.arg(lanes)),
            out.arg(lanes),
            out.positions() as u32,
            (out.channels / lanes) as u32,
            finish,
        );
    }
}
