//! Sums over the channels of a position, and the products of attention.

use cubecl::prelude::*;

/// Units of a cube that adds up a line.
pub const UNITS: usize = 64;
/// Units along each side of a cube that makes a product, outputs of a unit, and both together.
pub const BLOCK: usize = 16;
const EACH: usize = 4;
pub const SQUARE: usize = EACH * BLOCK;

/// What the values of all units of a cube become.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Fold {
    Sum,
    Largest,
}

#[cube]
fn fold(value: f32, shared: &mut Shared<[f32]>, #[comptime] how: Fold) -> f32 {
    shared[UNIT_POS_X as usize] = value;
    sync_cube();
    let mut active = comptime![(UNITS / 2) as u32].runtime();
    while active > 0 {
        if UNIT_POS_X < active {
            let other = shared[(UNIT_POS_X + active) as usize];
            let own = shared[UNIT_POS_X as usize];
            shared[UNIT_POS_X as usize] = match how {
                Fold::Sum => own + other,
                Fold::Largest => select(other > own, other, own),
            };
        }
        sync_cube();
        active /= 2;
    }
    let all = shared[0];
    sync_cube();
    all
}

/// LayerNorm of each line of `len` values; a cube takes one line. Keeps the standardised values
/// and the inverse deviations.
#[cube(launch_unchecked)]
pub fn norm(
    source: &[f32],
    gamma: &[f32],
    beta: &[f32],
    out: &mut [f32],
    standard: &mut [f32],
    inverses: &mut [f32],
    len: u32,
    lines: u32,
    epsilon: f32,
    #[comptime] shifted: bool,
    #[comptime] keep: bool,
) {
    let mut shared = Shared::<[f32]>::new_slice(UNITS);
    let line = CUBE_POS as u32;
    if line < lines {
        let start = line * len;
        let mut sum = 0.0f32;
        for c in range_stepped(UNIT_POS_X, len, comptime![UNITS as u32]) {
            sum += source[(start + c) as usize];
        }
        let mean = fold(sum, &mut shared, Fold::Sum) / len as f32;
        let mut square = 0.0f32;
        for c in range_stepped(UNIT_POS_X, len, comptime![UNITS as u32]) {
            let centred = source[(start + c) as usize] - mean;
            square += centred * centred;
        }
        let variance = fold(square, &mut shared, Fold::Sum) / len as f32;
        let inverse = 1.0f32 / f32::sqrt(variance + epsilon);
        for c in range_stepped(UNIT_POS_X, len, comptime![UNITS as u32]) {
            let at = (start + c) as usize;
            let z = (source[at] - mean) * inverse;
            if comptime![keep] {
                standard[at] = z;
            }
            let mut value = z * gamma[c as usize];
            if comptime![shifted] {
                value += beta[c as usize];
            }
            out[at] = value;
        }
        if keep && UNIT_POS_X == 0 {
            inverses[line as usize] = inverse;
        }
    }
}

/// (g - mean g - z mean(g z)) / deviation with g = gamma times what arrived.
#[cube(launch_unchecked)]
pub fn norm_back(
    gradient: &[f32],
    gamma: &[f32],
    standard: &[f32],
    inverses: &[f32],
    out: &mut [f32],
    len: u32,
    lines: u32,
) {
    let mut shared = Shared::<[f32]>::new_slice(UNITS);
    let line = CUBE_POS as u32;
    if line < lines {
        let start = line * len;
        let mut sum = 0.0f32;
        let mut along = 0.0f32;
        for c in range_stepped(UNIT_POS_X, len, comptime![UNITS as u32]) {
            let at = (start + c) as usize;
            let g = gradient[at] * gamma[c as usize];
            sum += g;
            along += g * standard[at];
        }
        let mean = fold(sum, &mut shared, Fold::Sum) / len as f32;
        let along = fold(along, &mut shared, Fold::Sum) / len as f32;
        for c in range_stepped(UNIT_POS_X, len, comptime![UNITS as u32]) {
            let at = (start + c) as usize;
            let g = gradient[at] * gamma[c as usize];
            out[at] = (g - mean - standard[at] * along) * inverses[line as usize];
        }
    }
}

/// The softmax of each line of `len` values.
#[cube(launch_unchecked)]
pub fn softmax(source: &[f32], out: &mut [f32], len: u32, lines: u32) {
    let mut shared = Shared::<[f32]>::new_slice(UNITS);
    let line = CUBE_POS as u32;
    if line < lines {
        let start = line * len;
        let mut own = source[start as usize];
        for c in range_stepped(UNIT_POS_X, len, comptime![UNITS as u32]) {
            let value = source[(start + c) as usize];
            own = select(value > own, value, own);
        }
        let most = fold(own, &mut shared, Fold::Largest);
        let mut sum = 0.0f32;
        for c in range_stepped(UNIT_POS_X, len, comptime![UNITS as u32]) {
            let at = (start + c) as usize;
            let value = f32::exp(source[at] - most);
            out[at] = value;
            sum += value;
        }
        let scale = 1.0f32 / fold(sum, &mut shared, Fold::Sum);
        for c in range_stepped(UNIT_POS_X, len, comptime![UNITS as u32]) {
            out[(start + c) as usize] *= scale;
        }
    }
}

/// p (g - sum of g p).
#[cube(launch_unchecked)]
pub fn softmax_back(gradient: &[f32], softmaxes: &[f32], out: &mut [f32], len: u32, lines: u32) {
    let mut shared = Shared::<[f32]>::new_slice(UNITS);
    let line = CUBE_POS as u32;
    if line < lines {
        let start = line * len;
        let mut sum = 0.0f32;
        for c in range_stepped(UNIT_POS_X, len, comptime![UNITS as u32]) {
            let at = (start + c) as usize;
            sum += gradient[at] * softmaxes[at];
        }
        let along = fold(sum, &mut shared, Fold::Sum);
        for c in range_stepped(UNIT_POS_X, len, comptime![UNITS as u32]) {
            let at = (start + c) as usize;
            out[at] = softmaxes[at] * (gradient[at] - along);
        }
    }
}

/// Where the values of the matrices of all rows and heads lie.
#[derive(CubeType, CubeLaunch, Clone, Copy)]
pub struct Layout {
    pub offset: u32,
    /// From one row of the batch to the next, and from one head.
    pub row: u32,
    pub head: u32,
    /// From one line of the matrix to the next, and from one column.
    pub down: u32,
    pub across: u32,
}

/// How large the matrices are.
#[derive(CubeType, CubeLaunch, Clone, Copy)]
pub struct Sizes {
    pub heads: u32,
    pub lines: u32,
    pub columns: u32,
    pub inner: u32,
}

/// Where a matrix starts.
#[cube]
fn start(row: u32, head: u32, layout: &Layout) -> u32 {
    layout.offset + row * layout.row + head * layout.head
}

/// `out = scale * left * right` for each row and head, or added to what is there. Cubes take
/// squares of [`SQUARE`] by [`SQUARE`] outputs, units every 16th of them along both sides. A
/// factor whose lines are neighbours in memory (`turned`) is read along its lines.
#[cube(launch_unchecked)]
pub fn heads_product(
    left: &[f32],
    right: &[f32],
    out: &mut [f32],
    of_left: Layout,
    of_right: Layout,
    of_out: Layout,
    sizes: Sizes,
    scale: f32,
    #[comptime] turned: [bool; 2],
    #[comptime] accumulate: bool,
) {
    let mut lines = Shared::<[f32]>::new_slice(comptime![BLOCK * (SQUARE + 1)]);
    let mut columns = Shared::<[f32]>::new_slice(comptime![BLOCK * (SQUARE + 1)]);
    let block = comptime![BLOCK as u32];
    let square = comptime![SQUARE as u32];
    let pitch = comptime![(SQUARE + 1) as u32];
    let squares = sizes.columns.div_ceil(square);
    let head = CUBE_POS_Z % sizes.heads;
    let row = CUBE_POS_Z / sizes.heads;
    let first_line = CUBE_POS_X / squares * square;
    let first_column = CUBE_POS_X % squares * square;
    let left_start = start(row, head, &of_left);
    let right_start = start(row, head, &of_right);
    let across = UNIT_POS_X % block;
    let down = UNIT_POS_X / block;
    let mut sums = Array::<f32>::new(comptime![EACH * EACH]);
    #[unroll]
    for i in 0..comptime![EACH * EACH] {
        sums[i] = 0.0f32;
    }
    for first in range_stepped(0, sizes.inner, block) {
        #[unroll]
        for i in 0..EACH {
            let (line, k) = pair(across, down, comptime![i as u32], comptime![turned[0]]);
            let mut value = 0.0f32;
            if first_line + line < sizes.lines && first + k < sizes.inner {
                let at = (first_line + line) * of_left.down + (first + k) * of_left.across;
                value = left[(left_start + at) as usize];
            }
            lines[(k * pitch + line) as usize] = value;
            let (column, k) = pair(across, down, comptime![i as u32], comptime![!turned[1]]);
            let mut value = 0.0f32;
            if first_column + column < sizes.columns && first + k < sizes.inner {
                let at = (first + k) * of_right.down + (first_column + column) * of_right.across;
                value = right[(right_start + at) as usize];
            }
            columns[(k * pitch + column) as usize] = value;
        }
        sync_cube();
        #[unroll]
        for k in 0..BLOCK {
            let mut own = Array::<f32>::new(EACH);
            #[unroll]
            for i in 0..EACH {
                own[i] = lines[down as usize + comptime![k * (SQUARE + 1) + i * BLOCK]];
            }
            #[unroll]
            for j in 0..EACH {
                let factor = columns[across as usize + comptime![k * (SQUARE + 1) + j * BLOCK]];
                #[unroll]
                for i in 0..EACH {
                    sums[comptime![i * EACH + j]] += own[i] * factor;
                }
            }
        }
        sync_cube();
    }
    let start = start(row, head, &of_out);
    #[unroll]
    for i in 0..EACH {
        #[unroll]
        for j in 0..EACH {
            let line = first_line + down + comptime![(i * BLOCK) as u32];
            let column = first_column + across + comptime![(j * BLOCK) as u32];
            if line < sizes.lines && column < sizes.columns {
                let at = (start + line * of_out.down + column * of_out.across) as usize;
                let mut value = sums[comptime![i * EACH + j]] * scale;
                if comptime![accumulate] {
                    value += out[at];
                }
                out[at] = value;
            }
        }
    }
}

/// Which value of a [`SQUARE`] by [`BLOCK`] part of a factor a unit loads: along the long side
/// first, or along the short one.
#[cube]
fn pair(across: u32, down: u32, i: u32, #[comptime] long: bool) -> (u32, u32) {
    let block = comptime![BLOCK as u32];
    if long {
        (across + block * i, down)
    } else {
        (down + block * i, across)
    }
}
