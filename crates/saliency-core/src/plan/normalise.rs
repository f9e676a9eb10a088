//! LayerNorm and softmax.

use super::{
    buffer::Buffer,
    kernel::{Isa, Shared, functions::exp},
};

/// LayerNorm over the channels of each position. Keeps `[rows, positions, channels + 1]`: the
/// standardised values, and 1 / sqrt(variance + epsilon).
pub(super) fn norm(
    isa: Isa,
    from: &Buffer,
    [gamma, beta]: [&[f32]; 2],
    epsilon: f32,
    to: &mut Buffer,
    keep: bool,
) -> Vec<f32> {
    let geometry = to.geometry;
    let channels = geometry.channels;
    let size = channels + 1;
    let line = geometry.width * size;
    let mut kept = vec![
        0.0;
        if keep {
            from.rows * geometry.height * line
        } else {
            0
        }
    ];
    let shared = Shared::new(&mut kept);
    to.each_line(|row, y, out| {
        let values = from.line(row, y);
        let mut own = vec![0.0; size];
        let mut spread = keep.then(|| {
            shared.spread(
                (row * geometry.height + y) * line,
                geometry.width,
                size,
                size,
            )
        });
        let positions = values
            .chunks_exact(channels)
            .zip(out.chunks_exact_mut(channels));
        for (x, (values, out)) in positions.enumerate() {
            let kept = match &mut spread {
                Some(spread) => spread.part(x),
                None => &mut own,
            };
            isa.vectorised(|| {
                let mean = sum(values, |v| v) / channels as f32;
                let variance = sum(values, |v| (v - mean) * (v - mean)) / channels as f32;
                let inverse = 1.0 / (variance + epsilon).sqrt();
                kept[channels] = inverse;
                for (c, value) in values.iter().enumerate() {
                    kept[c] = (value - mean) * inverse;
                    out[c] = kept[c] * gamma[c];
                }
                for (out, beta) in out.iter_mut().zip(beta) {
                    *out += beta;
                }
            });
        }
    });
    kept
}

/// The gradient at the input of [`norm`], in place: (g - mean g - z mean(g z)) / deviation with
/// g = gamma times what arrived and z the standardised values.
pub(super) fn norm_back(isa: Isa, kept: &[f32], gamma: &[f32], gradient: &mut Buffer) {
    let geometry = gradient.geometry;
    let channels = geometry.channels;
    let size = channels + 1;
    gradient.each_line(|row, y, line| {
        let kept = &kept[(row * geometry.height + y) * geometry.width * size..];
        for (out, kept) in line.chunks_exact_mut(channels).zip(kept.chunks_exact(size)) {
            let (z, inverse) = (&kept[..channels], kept[channels]);
            isa.vectorised(|| {
                for (g, gamma) in out.iter_mut().zip(gamma) {
                    *g *= gamma;
                }
                let mean = sum(out, |g| g) / channels as f32;
                let along = dot(out, z) / channels as f32;
                for (g, z) in out.iter_mut().zip(z) {
                    *g = (*g - mean - z * along) * inverse;
                }
            });
        }
    });
}

const LANES: usize = 16;

/// In lanes, which the compiler may not make by itself.
#[inline(always)]
fn sum(values: &[f32], of: impl Fn(f32) -> f32) -> f32 {
    let mut lanes = [0.0f32; LANES];
    let chunks = values.chunks_exact(LANES);
    let rest: f32 = chunks.remainder().iter().map(|v| of(*v)).sum();
    for chunk in chunks {
        for (lane, value) in lanes.iter_mut().zip(chunk) {
            *lane += of(*value);
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

/// Rows that become softmaxes of themselves.
pub(super) fn softmax(isa: Isa, rows: &mut [f32], len: usize) {
    for row in rows.chunks_exact_mut(len) {
        isa.vectorised(|| {
            let most = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            for value in &mut *row {
                *value = exp(*value - most);
            }
            let scale = 1.0 / sum(row, |v| v);
            for value in &mut *row {
                *value *= scale;
            }
        });
    }
}

/// What arrives at a softmax's input, in place of `rows`: p (g - sum of g p).
pub(super) fn softmax_back(isa: Isa, softmaxes: &[f32], rows: &mut [f32], len: usize) {
    for (g, p) in rows.chunks_exact_mut(len).zip(softmaxes.chunks_exact(len)) {
        isa.vectorised(|| {
            let along = dot(g, p);
            for (g, p) in g.iter_mut().zip(p) {
                *g = p * (*g - along);
            }
        });
    }
}
