//! Attention: softmax(scale q k^T) v for each head.

use rayon::prelude::*;

use super::{
    buffer::Buffer,
    kernel::{Isa, POSITIONS, Tile, WIDEST},
    normalise::{softmax, softmax_back},
    tiled::{self, Factor},
};

/// Where queries, keys or values are in a buffer, position by position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Heads {
    pub buffer: usize,
    /// First channel of the first head.
    pub channel: usize,
    /// Channels from one head to the next.
    pub spacing: usize,
    pub positions: usize,
}

#[derive(Debug)]
pub(super) struct Attention {
    pub queries: Heads,
    pub keys: Heads,
    pub values: Heads,
    pub to: usize,
    pub heads: usize,
    /// Channels of a head.
    pub size: usize,
    pub scale: f32,
}

impl Attention {
    /// Those that it reads, each once.
    pub fn buffers(&self) -> Vec<usize> {
        let mut all = [self.queries, self.keys, self.values]
            .map(|heads| heads.buffer)
            .to_vec();
        all.sort_unstable();
        all.dedup();
        all
    }

    /// Floats that one head keeps: scaled queries, keys, values, softmaxes.
    fn kept(&self) -> usize {
        let (q, k) = (self.queries.positions, self.keys.positions);
        (q + 2 * k) * self.size + q * k
    }

    /// Floats of memory for the work of [`attend`] and [`attend_back`] on a row.
    pub fn scratch_of_row(&self) -> usize {
        let (q, k) = (self.queries.positions, self.keys.positions);
        self.heads * (q * self.size + q * k)
    }

    /// Floats of gradients at queries, keys and values of a row.
    pub fn gradients_of_row(&self) -> usize {
        let (q, k) = (self.queries.positions, self.keys.positions);
        self.heads * self.size * (q + 2 * k)
    }

    /// Floats that a row keeps.
    pub fn kept_of_row(&self) -> usize {
        self.heads * self.kept()
    }

    fn parts<'a>(&self, kept: &'a [f32]) -> [&'a [f32]; 4] {
        let (q, k) = (self.queries.positions, self.keys.positions);
        let (queries, rest) = kept.split_at(q * self.size);
        let (keys, rest) = rest.split_at(k * self.size);
        let (values, softmaxes) = rest.split_at(k * self.size);
        [queries, keys, values, softmaxes]
    }

    /// The parts of what [`attend_back`] finds: at queries, keys and values.
    pub fn gradients<'a>(&self, found: &'a mut [f32], rows: usize) -> [&'a mut [f32]; 3] {
        let each = rows * self.heads * self.size;
        let (queries, rest) = found.split_at_mut(each * self.queries.positions);
        let (keys, values) = rest.split_at_mut(each * self.keys.positions);
        [queries, keys, values]
    }

    fn gather(&self, buffer: &Buffer, from: Heads, [row, head]: [usize; 2], out: &mut [f32]) {
        let channel = from.channel + head * from.spacing;
        for (position, out) in out.chunks_exact_mut(self.size).enumerate() {
            let at = buffer.place(row, position * buffer.geometry.channels) + channel;
            out.copy_from_slice(&buffer.data[at..at + self.size]);
        }
    }
}

/// Writes the mixed values, and keeps for each row and head what [`attend_back`] needs.
pub(super) fn attend(
    isa: Isa,
    attention: &Attention,
    [queries, keys, values]: [&Buffer; 3],
    to: &mut Buffer,
    kept: &mut [f32],
    scratch: &mut [f32],
) {
    let Attention { heads, size, .. } = *attention;
    let (q, k) = (attention.queries.positions, attention.keys.positions);
    let mixed = &mut scratch[..queries.rows * heads * q * size];
    kept.par_chunks_exact_mut(attention.kept())
        .zip(mixed.par_chunks_exact_mut(q * size))
        .enumerate()
        .for_each(|(index, (kept, mixed))| {
            let at = [index / heads, index % heads];
            let (own, rest) = kept.split_at_mut(q * size);
            let (own_keys, rest) = rest.split_at_mut(k * size);
            let (own_values, softmaxes) = rest.split_at_mut(k * size);
            attention.gather(queries, attention.queries, at, own);
            attention.gather(keys, attention.keys, at, own_keys);
            attention.gather(values, attention.values, at, own_values);
            own.iter_mut().for_each(|value| *value *= attention.scale);
            let (queries, keys) = (Factor::Plain(own), Factor::Transposed(own_keys));
            product(isa, queries, keys, [q, size, k], softmaxes);
            softmax(isa, softmaxes, k);
            let values = Factor::Plain(own_values);
            product(isa, Factor::Plain(softmaxes), values, [q, k, size], mixed);
        });
    let geometry = to.geometry;
    to.each_run(|run, values| {
        let first = run.position(&geometry);
        for (index, out) in values.chunks_exact_mut(heads * size).enumerate() {
            for (head, out) in out.chunks_exact_mut(size).enumerate() {
                let at = ((run.row * heads + head) * q + first + index) * size;
                out.copy_from_slice(&mixed[at..at + size]);
            }
        }
    });
}

/// The gradients at queries, keys and values, from that at the mixed values: `[rows, heads,
/// positions, size]` each, one behind the other in `found`.
pub(super) fn attend_back(
    isa: Isa,
    attention: &Attention,
    kept: &[f32],
    gradient: &Buffer,
    found: &mut [f32],
    scratch: &mut [f32],
) {
    let Attention { heads, size, .. } = *attention;
    let (q, k) = (attention.queries.positions, attention.keys.positions);
    let [to_queries, to_keys, to_values] = attention.gradients(found, gradient.rows);
    let arrived = Heads {
        buffer: attention.to,
        channel: 0,
        spacing: size,
        positions: q,
    };
    kept.par_chunks_exact(attention.kept())
        .zip(to_queries.par_chunks_exact_mut(q * size))
        .zip(to_keys.par_chunks_exact_mut(k * size))
        .zip(to_values.par_chunks_exact_mut(k * size))
        .zip(scratch.par_chunks_exact_mut(q * size + q * k))
        .enumerate()
        .for_each(
            |(index, ((((kept, to_queries), to_keys), to_values), scratch))| {
                let [queries, keys, values, softmaxes] = attention.parts(kept);
                let (mixed, scores) = scratch.split_at_mut(q * size);
                attention.gather(gradient, arrived, [index / heads, index % heads], mixed);
                let mixed = Factor::Plain(mixed);
                let turned = Factor::Transposed(softmaxes);
                product(isa, turned, mixed, [k, q, size], to_values);
                product(isa, mixed, Factor::Transposed(values), [q, size, k], scores);
                softmax_back(isa, softmaxes, scores, k);
                let (keys, queries) = (Factor::Plain(keys), Factor::Plain(queries));
                product(isa, Factor::Plain(scores), keys, [q, k, size], to_queries);
                to_queries
                    .iter_mut()
                    .for_each(|value| *value *= attention.scale);
                product(
                    isa,
                    Factor::Transposed(scores),
                    queries,
                    [k, q, size],
                    to_keys,
                );
            },
        );
}

/// Adds `[rows, heads, positions, size]` to the channels that they are of.
pub(super) fn spread(attention: &Attention, from: &[f32], heads: Heads, to: &mut Buffer) {
    let (count, size) = (attention.heads, attention.size);
    let geometry = to.geometry;
    to.each_run(|run, values| {
        let first = run.position(&geometry);
        for (index, out) in values.chunks_exact_mut(geometry.channels).enumerate() {
            for head in 0..count {
                let at = ((run.row * count + head) * heads.positions + first + index) * size;
                let out = &mut out[heads.channel + head * heads.spacing..][..size];
                for (out, value) in out.iter_mut().zip(&from[at..at + size]) {
                    *out += value;
                }
            }
        }
    });
}

/// Some lines at a time, so that both sides stay in the cache.
fn transpose(from: &[f32], columns: usize, to: &mut [f32]) {
    const BLOCK: usize = 16;
    let rows = from.len() / columns;
    for first in (0..rows).step_by(BLOCK) {
        let some = BLOCK.min(rows - first);
        for column in 0..columns {
            let to = &mut to[column * rows + first..][..some];
            for (row, to) in to.iter_mut().enumerate() {
                *to = from[(first + row) * columns + column];
            }
        }
    }
}

/// Some of a right factor's `columns`, beside each other in lines of `width` floats.
fn pack(right: Factor, columns: usize, first: usize, width: usize, panel: &mut [f32]) {
    let some = width.min(columns - first);
    let inner = panel.len() / width;
    for (k, to) in panel.chunks_exact_mut(width).enumerate() {
        match right {
            Factor::Plain(values) => {
                to[..some].copy_from_slice(&values[k * columns + first..][..some]);
            }
            Factor::Transposed(values) => {
                for (j, to) in to[..some].iter_mut().enumerate() {
                    *to = values[(first + j) * inner + k];
                }
            }
        }
        to[some..].fill(0.0);
    }
}

/// `out[m][n]` = sum over k of `left[m][k] right[k][n]`, of `[rows, inner, columns]`.
fn product(
    isa: Isa,
    left: Factor,
    right: Factor,
    [rows, inner, columns]: [usize; 3],
    out: &mut [f32],
) {
    if isa.splits(inner) {
        return tiled::product(isa, left, right, [rows, inner, columns], out);
    }
    let mut turned = Vec::new();
    let left = match left {
        Factor::Plain(values) => values,
        Factor::Transposed(values) => {
            turned.resize(values.len(), 0.0);
            transpose(values, rows, &mut turned);
            &turned
        }
    };
    let (width, tile) = (isa.width(), isa.positions());
    let mut panel = vec![0.0; inner * width];
    let mut sums = [0.0; POSITIONS * WIDEST];
    for column in (0..columns).step_by(width) {
        let some = width.min(columns - column);
        pack(right, columns, column, width, &mut panel);
        for row in (0..rows).step_by(tile) {
            let count = tile.min(rows - row);
            let starts: [usize; POSITIONS] =
                std::array::from_fn(|m| (row + m.min(count - 1)) * inner);
            isa.tile(
                Tile {
                    source: left,
                    starts: &starts[..count],
                    taps: 1,
                    tap_stride: 0,
                    run: inner,
                    panel: &panel,
                    lanes: width,
                },
                &mut sums,
            );
            for m in 0..count {
                out[(row + m) * columns + column..][..some]
                    .copy_from_slice(&sums[m * WIDEST..][..some]);
            }
        }
    }
}
