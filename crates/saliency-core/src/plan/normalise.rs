//! LayerNorm and softmax.

use super::{
    buffer::Buffer,
    kernel::{Isa, Shared, Work, functions::exp},
};

/// LayerNorm over the channels of each position. Where there is room, keeps `[rows, positions,
/// channels + 1]`: the standardised values, and 1 / sqrt(variance + epsilon).
pub(super) fn norm(
    isa: Isa,
    from: &Buffer,
    [gamma, beta]: [&[f32]; 2],
    epsilon: f32,
    to: &mut Buffer,
    kept: &mut [f32],
) {
    let geometry = to.geometry;
    let channels = geometry.channels;
    let size = channels + 1;
    let keep = !kept.is_empty();
    let shared = Shared::new(kept);
    to.each_run(|run, out| {
        let values = from.run(run);
        let mut own = vec![0.0; size];
        let first = run.first(&geometry) * size;
        let mut spread = keep.then(|| shared.spread(first, run.count, size, size));
        let positions = values
            .chunks_exact(channels)
            .zip(out.chunks_exact_mut(channels));
        for (x, (values, out)) in positions.enumerate() {
            let kept = match &mut spread {
                Some(spread) => spread.part(x),
                None => &mut own,
            };
            isa.vectorised(Standardise {
                values,
                epsilon,
                kept,
                gamma,
                beta,
                out,
            });
        }
    });
}

/// The standardised values, behind them the inverse deviation, and what comes out.
struct Standardise<'a> {
    values: &'a [f32],
    epsilon: f32,
    kept: &'a mut [f32],
    gamma: &'a [f32],
    beta: &'a [f32],
    out: &'a mut [f32],
}

impl Work for Standardise<'_> {
    type Made = ();

    #[inline(always)]
    fn run(self) {
        let Standardise {
            values,
            epsilon,
            kept,
            gamma,
            beta,
            out,
        } = self;
        let channels = values.len();
        let mean = sum(values) / channels as f32;
        for (kept, value) in kept.iter_mut().zip(values) {
            *kept = value - mean;
        }
        let variance = dot(&kept[..channels], &kept[..channels]) / channels as f32;
        let inverse = 1.0 / (variance + epsilon).sqrt();
        for kept in &mut kept[..channels] {
            *kept *= inverse;
        }
        kept[channels] = inverse;
        for ((out, kept), gamma) in out.iter_mut().zip(&*kept).zip(gamma) {
            *out = kept * gamma;
        }
        for (out, beta) in out.iter_mut().zip(beta) {
            *out += beta;
        }
    }
}

/// The gradient at the input of [`norm`], in place: (g - mean g - z mean(g z)) / deviation with
/// g = gamma times what arrived and z the standardised values.
pub(super) fn norm_back(isa: Isa, kept: &[f32], gamma: &[f32], gradient: &mut Buffer) {
    let geometry = gradient.geometry;
    let channels = geometry.channels;
    let size = channels + 1;
    gradient.each_run(|run, values| {
        let kept = &kept[run.first(&geometry) * size..][..run.count * size];
        for (out, kept) in values
            .chunks_exact_mut(channels)
            .zip(kept.chunks_exact(size))
        {
            isa.vectorised(StandardiseBack { kept, gamma, out });
        }
    });
}

struct StandardiseBack<'a> {
    kept: &'a [f32],
    gamma: &'a [f32],
    out: &'a mut [f32],
}

impl Work for StandardiseBack<'_> {
    type Made = ();

    #[inline(always)]
    fn run(self) {
        let StandardiseBack { kept, gamma, out } = self;
        let channels = out.len();
        let (z, inverse) = (&kept[..channels], kept[channels]);
        for (g, gamma) in out.iter_mut().zip(gamma) {
            *g *= gamma;
        }
        let mean = sum(out) / channels as f32;
        let along = dot(out, z) / channels as f32;
        for (g, z) in out.iter_mut().zip(z) {
            *g = (*g - mean - z * along) * inverse;
        }
    }
}

const LANES: usize = 16;

/// In lanes, which the compiler may not make by itself.
#[inline(always)]
fn sum(values: &[f32]) -> f32 {
    let mut lanes = [0.0f32; LANES];
    let chunks = values.chunks_exact(LANES);
    let rest: f32 = chunks.remainder().iter().sum();
    for chunk in chunks {
        for (lane, value) in lanes.iter_mut().zip(chunk) {
            *lane += value;
        }
    }
    lanes.iter().sum::<f32>() + rest
}

#[inline(always)]
fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut lanes = [0.0f32; LANES];
    let (a_chunks, b_chunks) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
    let (a_rest, b_rest) = (a_chunks.remainder(), b_chunks.remainder());
    let rest: f32 = a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum();
    for (a, b) in a_chunks.zip(b_chunks) {
        for (lane, (a, b)) in lanes.iter_mut().zip(a.iter().zip(b)) {
            *lane += a * b;
        }
    }
    lanes.iter().sum::<f32>() + rest
}

/// Over the channels of each position; kept where there is room: `[rows, positions, channels]`.
pub(super) fn softmax_of(isa: Isa, from: &Buffer, to: &mut Buffer, kept: &mut [f32]) {
    let geometry = to.geometry;
    let keep = !kept.is_empty();
    let shared = Shared::new(kept);
    to.each_run(|run, out| {
        out.copy_from_slice(from.run(run));
        softmax(isa, out, geometry.channels);
        if keep {
            let (first, len) = (run.first(&geometry) * geometry.channels, out.len());
            shared
                .spread(first, 1, len, len)
                .part(0)
                .copy_from_slice(out);
        }
    });
}

/// The gradient at the input of [`softmax_of`], in place.
pub(super) fn softmax_of_back(isa: Isa, kept: &[f32], gradient: &mut Buffer) {
    let geometry = gradient.geometry;
    gradient.each_run(|run, values| {
        let softmaxes = &kept[run.first(&geometry) * geometry.channels..][..values.len()];
        softmax_back(isa, softmaxes, values, geometry.channels);
    });
}

/// Rows that become softmaxes of themselves.
pub(super) fn softmax(isa: Isa, rows: &mut [f32], len: usize) {
    for row in rows.chunks_exact_mut(len) {
        isa.vectorised(Softmax(row));
    }
}

struct Softmax<'a>(&'a mut [f32]);

impl Work for Softmax<'_> {
    type Made = ();

    #[inline(always)]
    fn run(self) {
        let row = self.0;
        let most = most(row);
        for value in &mut *row {
            *value = exp(*value - most);
        }
        let scale = 1.0 / sum(row);
        for value in row {
            *value *= scale;
        }
    }
}

#[inline(always)]
fn most(values: &[f32]) -> f32 {
    let larger = |a: f32, b: f32| if b > a { b } else { a };
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let chunks = values.chunks_exact(LANES);
    let rest = chunks
        .remainder()
        .iter()
        .copied()
        .fold(f32::NEG_INFINITY, larger);
    for chunk in chunks {
        for (lane, value) in lanes.iter_mut().zip(chunk) {
            *lane = larger(*lane, *value);
        }
    }
    lanes.into_iter().fold(rest, larger)
}

/// What arrives at a softmax's input, in place of `rows`: p (g - sum of g p).
pub(super) fn softmax_back(isa: Isa, softmaxes: &[f32], rows: &mut [f32], len: usize) {
    for (g, p) in rows.chunks_exact_mut(len).zip(softmaxes.chunks_exact(len)) {
        isa.vectorised(SoftmaxBack(g, p));
    }
}

struct SoftmaxBack<'a>(&'a mut [f32], &'a [f32]);

impl Work for SoftmaxBack<'_> {
    type Made = ();

    #[inline(always)]
    fn run(self) {
        let SoftmaxBack(g, p) = self;
        let along = dot(g, p);
        for (g, p) in g.iter_mut().zip(p) {
            *g = p * (*g - along);
        }
    }
}
