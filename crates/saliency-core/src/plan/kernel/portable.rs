use super::{Finish, LANES, Rectify, Sums, Tile, WIDEST};

pub(super) fn tile(tile: Tile, sums: &mut Sums) {
    for (m, &start) in tile.starts.iter().enumerate() {
        let sums = &mut sums[m * WIDEST..][..tile.lanes];
        sums.fill(0.0);
        for tap in 0..tile.taps {
            let from = start + tap * tile.tap_stride;
            let values = &tile.source[from..from + tile.run];
            let weights = &tile.panel[tap * tile.run * tile.lanes..];
            for (x, weights) in values.iter().zip(weights.chunks_exact(tile.lanes)) {
                for (sum, w) in sums.iter_mut().zip(weights) {
                    *sum += x * w;
                }
            }
        }
    }
}

#[inline(always)]
pub(super) fn finish(finish: Finish) {
    let Finish {
        sums,
        bias,
        residual,
        accumulate,
        rectify,
        out,
    } = finish;
    let channels = out.len();
    let mut values = [0.0f32; WIDEST];
    let values = &mut values[..channels];
    values.copy_from_slice(&sums[..channels]);
    let mut add = |other: &[f32]| {
        for (value, other) in values.iter_mut().zip(other) {
            *value += other;
        }
    };
    if let Some(bias) = bias {
        add(&bias[..channels]);
    }
    if accumulate {
        add(out);
    }
    if let Some(residual) = residual {
        add(&residual[..channels]);
    }
    let set = |bits: &[u16], j: usize| bits[j / LANES] >> (j % LANES) & 1 == 1;
    match rectify {
        Rectify::No => {}
        Rectify::Forward(bits) => {
            for (bits, values) in bits.iter_mut().zip(values.chunks_mut(LANES)) {
                let mut mask = 0;
                for (j, value) in values.iter_mut().enumerate() {
                    mask |= u16::from(*value > 0.0) << j;
                    *value = value.max(0.0);
                }
                *bits = mask;
            }
        }
        Rectify::Backward(bits) => {
            for (j, value) in values.iter_mut().enumerate() {
                *value = if set(bits, j) { *value } else { 0.0 };
            }
        }
        Rectify::Guided(bits) => {
            for (j, value) in values.iter_mut().enumerate() {
                *value = if set(bits, j) { value.max(0.0) } else { 0.0 };
            }
        }
    }
    out.copy_from_slice(values);
}
