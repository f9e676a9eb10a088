//! Scales and shifts.

use super::buffer::Buffer;

/// scale x + shift; factors repeat from channel to channel, or are one for each value of a row.
pub(super) fn affine(from: &Buffer, scale: Option<&[f32]>, shift: Option<&[f32]>, to: &mut Buffer) {
    let geometry = to.geometry;
    let len = geometry.width * geometry.channels;
    to.each_line(|row, y, out| {
        out.copy_from_slice(from.line(row, y));
        if let Some(scale) = scale {
            combine(out, factors(scale, y, len), |value, factor| {
                *value *= factor
            });
        }
        if let Some(shift) = shift {
            combine(out, factors(shift, y, len), |value, term| *value += term);
        }
    });
}

/// The scale of [`affine`] alone, in place.
pub(super) fn scale(factors_of: &[f32], buffer: &mut Buffer) {
    let len = buffer.geometry.width * buffer.geometry.channels;
    buffer.each_line(|_, y, line| {
        combine(line, factors(factors_of, y, len), |value, factor| {
            *value *= factor
        });
    });
}

/// Those of a line, or those of every position.
fn factors(all: &[f32], y: usize, len: usize) -> &[f32] {
    match all.len() > len {
        true => &all[y * len..][..len],
        false => all,
    }
}

fn combine(line: &mut [f32], factors: &[f32], with: impl Fn(&mut f32, f32)) {
    for part in line.chunks_mut(factors.len()) {
        for (value, factor) in part.iter_mut().zip(factors) {
            with(value, *factor);
        }
    }
}
