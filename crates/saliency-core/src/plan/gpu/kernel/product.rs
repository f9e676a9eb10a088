//! Products of windows and weights: every convolution and linear layer, forward and backward.

use cubecl::prelude::*;

use super::{Finish, Four, Reads, Writes, address, finish, place, reached, take};

/// Units along each side of a cube.
pub const SIDE: usize = 16;
/// Channels of a cube: each unit makes four.
pub const WIDE: usize = 4 * SIDE;
/// Values of a window that are in shared memory at once.
pub const DEPTH: usize = 16;
/// Vectors of a window's values in shared memory.
const VECTORS: usize = DEPTH / 4;
/// From one line of shared memory to the next, one vector more than its values need, so that
/// lines that are read together lie in different banks.
const PITCH: usize = VECTORS + 1;
/// Lines that all units of a cube load at once.
const LINES: usize = SIDE * SIDE / VECTORS;

/// What a cube makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Tile {
    /// Outputs of a unit along the positions: four or eight.
    pub high: usize,
    /// Whether four channels of the source lie in one vector.
    pub vectors: bool,
    /// Whether it adds up a part of the window only, for [`sum_parts`].
    pub partial: bool,
}

/// How the windows of a product are shared out.
#[derive(CubeType, CubeLaunch, Clone, Copy)]
pub struct Depths {
    /// Of one cube, in units of [`DEPTH`].
    pub each: u32,
    pub all: u32,
    /// Vectors of weights from one value of the window to the next.
    pub spacing: u32,
}

/// `[outputs][window] * [window][channels]`, a tile of `16 * high` outputs and 64 channels in
/// each cube. The next [`DEPTH`] values of the windows and the weights go to shared memory; each
/// unit adds up `high` outputs of four channels.
#[cube(launch_unchecked)]
pub fn product<A: Size, O: Size>(
    source: &[Vector<f32, A>],
    weights: &[Four],
    bias: &[Vector<f32, O>],
    other: &[Vector<f32, O>],
    out: &mut [Vector<f32, O>],
    reads: Reads,
    writes: Writes,
    depths: Depths,
    #[comptime] tile: Tile,
    #[comptime] how: Finish,
) {
    let high = comptime![tile.high];
    let loads = comptime![tile.high * SIDE / LINES];
    let mut windows = Shared::<[Four]>::new_slice(comptime![tile.high * SIDE * PITCH]);
    let mut panel = Shared::<[Four]>::new_slice(comptime![DEPTH * SIDE]);

    let across = UNIT_POS_X % comptime![SIDE as u32];
    let down = UNIT_POS_X / comptime![SIDE as u32];
    let first_output = CUBE_POS_X * comptime![(tile.high * SIDE) as u32];
    let first_vector = CUBE_POS_Y * comptime![SIDE as u32] + across;

    // What this unit loads of the windows.
    let part = UNIT_POS_X % comptime![VECTORS as u32];
    let lane = UNIT_POS_X / comptime![VECTORS as u32];
    let mut rows = Array::<u32>::new(loads);
    let mut ys = Array::<i32>::new(loads);
    let mut xs = Array::<i32>::new(loads);
    #[unroll]
    for i in 0..loads {
        let line = first_output + lane + comptime![(i * LINES) as u32];
        let (row, y, x) = place(min(line, writes.count - 1), writes.grid_y, writes.grid_x);
        rows[i] = row * reads.height;
        ys[i] = y as i32 * reads.step_y + reads.origin_y;
        xs[i] = x as i32 * reads.step_x + reads.origin_x;
    }
    let start = CUBE_POS_Z * depths.each;
    let end = min(start + depths.each, depths.all);
    let value = start * comptime![DEPTH as u32] + part * 4;
    let mut channel = value % reads.channels;
    let mut tap_x = value / reads.channels % reads.window_x;
    let mut tap_y = value / reads.channels / reads.window_x;

    let mut sums = Array::<Four>::new(high);
    #[unroll]
    for i in 0..high {
        sums[i] = Four::new(0.0f32);
    }
    // What is next in shared memory is on its way while this is added up.
    let mut next = Array::<Four>::new(loads);
    let mut row = start * comptime![DEPTH as u32] + down;
    let mut factors = weights[(row * depths.spacing + first_vector) as usize];
    load::<A>(
        source, &rows, &ys, &xs, &mut next, tap_y, tap_x, channel, &reads, tile,
    );

    for depth in start..end {
        #[unroll]
        for i in 0..loads {
            let line = lane + comptime![(i * LINES) as u32];
            windows[(line * comptime![PITCH as u32] + part) as usize] = next[i];
        }
        panel[UNIT_POS_X as usize] = factors;
        sync_cube();

        if depth + 1 < end {
            channel += comptime![DEPTH as u32];
            while channel >= reads.channels {
                channel -= reads.channels;
                tap_x += 1;
                if tap_x == reads.window_x {
                    tap_x = 0;
                    tap_y += 1;
                }
            }
            row += comptime![DEPTH as u32];
            factors = weights[(row * depths.spacing + first_vector) as usize];
            load::<A>(
                source, &rows, &ys, &xs, &mut next, tap_y, tap_x, channel, &reads, tile,
            );
        }

        #[unroll]
        for k in 0..VECTORS {
            let mut own = Array::<Four>::new(high);
            #[unroll]
            for i in 0..high {
                let line = down + comptime![(i * SIDE) as u32];
                own[i] = windows[(line * comptime![PITCH as u32]) as usize + k];
            }
            #[unroll]
            for j in 0..4usize {
                let factors = panel[across as usize + comptime![(k * 4 + j) * SIDE]];
                #[unroll]
                for i in 0..high {
                    sums[i] += Four::new(own[i].extract(j)) * factors;
                }
            }
        }
        sync_cube();
    }

    let lanes = O::value();
    let pieces = comptime![4 / lanes];
    #[unroll]
    for i in 0..high {
        let index = first_output + down + comptime![(i * SIDE) as u32];
        if index < writes.count {
            if comptime![tile.partial] {
                let at = (CUBE_POS_Z * writes.count + index) * depths.spacing + first_vector;
                #[unroll]
                for j in 0..pieces {
                    out[at as usize * pieces + j] = take::<O>(sums[i], comptime![j * lanes]);
                }
            } else {
                let start = address(index, &writes);
                #[unroll]
                for j in 0..pieces {
                    let channel = first_vector * 4 + comptime![(j * lanes) as u32];
                    if channel < writes.channels {
                        finish::<O>(
                            take::<O>(sums[i], comptime![j * lanes]),
                            (start + channel) as usize / lanes,
                            channel as usize / lanes,
                            bias,
                            other,
                            out,
                            how,
                        );
                    }
                }
            }
        }
    }
}

/// Four values of each window that a unit loads, from a position and channel of it on.
#[cube]
fn load<A: Size>(
    source: &[Vector<f32, A>],
    rows: &Array<u32>,
    ys: &Array<i32>,
    xs: &Array<i32>,
    next: &mut Array<Four>,
    tap_y: u32,
    tap_x: u32,
    channel: u32,
    reads: &Reads,
    #[comptime] tile: Tile,
) {
    #[unroll]
    for i in 0..comptime![tile.high * SIDE / LINES] {
        let mut four = Four::new(0.0f32);
        if comptime![tile.vectors] {
            let y = ys[i] + tap_y as i32;
            let x = xs[i] + tap_x as i32;
            if tap_y < reads.window_y && inside(y, x, reads) {
                let read = source[(at(rows[i], y, x, channel, reads) / 4) as usize];
                #[unroll]
                for j in 0..4usize {
                    four.insert(j, read.extract(j));
                }
            }
        } else {
            let mut channel = channel;
            let mut tap_x = tap_x;
            let mut tap_y = tap_y;
            #[unroll]
            for j in 0..4usize {
                let y = ys[i] + tap_y as i32;
                let x = xs[i] + tap_x as i32;
                if tap_y < reads.window_y && inside(y, x, reads) {
                    let read = source[at(rows[i], y, x, channel, reads) as usize];
                    four.insert(j, read.extract(0usize));
                }
                channel += 1;
                if channel == reads.channels {
                    channel = 0;
                    tap_x += 1;
                    if tap_x == reads.window_x {
                        tap_x = 0;
                        tap_y += 1;
                    }
                }
            }
        }
        next[i] = four;
    }
}

/// Whether a position lies in the source.
#[cube]
fn inside(y: i32, x: i32, reads: &Reads) -> bool {
    y >= 0 && x >= 0 && y < reads.height as i32 && x < reads.width as i32
}

/// Where a value of the source lies.
#[cube]
fn at(row: u32, y: i32, x: i32, channel: u32, reads: &Reads) -> u32 {
    ((row + y as u32) * reads.width + x as u32) * reads.pitch + reads.first + channel
}

/// Adds up the parts of a product: `[parts][outputs][channels]`.
#[cube(launch_unchecked)]
pub fn sum_parts<O: Size>(
    parts: &[Vector<f32, O>],
    bias: &[Vector<f32, O>],
    other: &[Vector<f32, O>],
    out: &mut [Vector<f32, O>],
    writes: Writes,
    // How many parts, and vectors from one output's to the next.
    count: u32,
    spacing: u32,
    #[comptime] how: Finish,
) {
    let lanes = O::value();
    let vectors = writes.channels / lanes as u32;
    let unit = ABSOLUTE_POS as u32;
    if unit < writes.count * vectors {
        let index = unit / vectors;
        let vector = unit % vectors;
        let mut sum = Vector::<f32, O>::new(0.0f32);
        for part in 0..count {
            sum += parts[((part * writes.count + index) * spacing + vector) as usize];
        }
        let at = address(index, &writes) / lanes as u32 + vector;
        finish::<O>(sum, at as usize, vector as usize, bias, other, out, how);
    }
}

/// The input gradient of a convolution of few input channels: each unit looks at all outputs
/// whose window its value is in. Weights are `[window][inputs][outputs]`.
#[cube(launch_unchecked)]
pub fn gather<A: Size>(
    gradient: &[Vector<f32, A>],
    weights: &[Vector<f32, A>],
    other: &[Vector<f32, Const<1>>],
    out: &mut [Vector<f32, Const<1>>],
    // Of the convolution's output, whose windows read as `origin` and `step` say.
    reads: Reads,
    // Of the values whose gradient it is.
    writes: Writes,
    #[comptime] how: Finish,
) {
    let unit = ABSOLUTE_POS as u32;
    if unit < writes.count * writes.channels {
        let lanes = gradient.vector_size() as u32;
        let channel = unit % writes.channels;
        let (row, y, x) = place(unit / writes.channels, writes.grid_y, writes.grid_x);
        let vectors = reads.channels / lanes;
        let mut sums = Vector::<f32, A>::new(0.0f32);
        for tap_y in 0..reads.window_y {
            let from_y = y as i32 - reads.origin_y - tap_y as i32;
            let (in_y, out_y) = reached(from_y, reads.step_y, reads.height);
            if in_y {
                for tap_x in 0..reads.window_x {
                    let from_x = x as i32 - reads.origin_x - tap_x as i32;
                    let (in_x, out_x) = reached(from_x, reads.step_x, reads.width);
                    if in_x {
                        let row = row * reads.height;
                        let start = at(row, out_y as i32, out_x as i32, 0, &reads) / lanes;
                        let tap = tap_y * reads.window_x + tap_x;
                        let own = (tap * writes.channels + channel) * vectors;
                        for vector in 0..vectors {
                            sums += gradient[(start + vector) as usize]
                                * weights[(own + vector) as usize];
                        }
                    }
                }
            }
        }
        let mut sum = 0.0f32;
        #[unroll]
        for j in 0..A::value() {
            sum += sums.extract(j);
        }
        let sum = Vector::<f32, Const<1>>::new(sum);
        finish::<Const<1>>(sum, unit as usize, channel as usize, other, other, out, how);
    }
}
