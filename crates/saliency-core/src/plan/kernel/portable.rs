use super::{Finish, LANES, Overlap, Pool, Rectify, Spaced, Sums, Tile, Unpool, WIDEST, Work};

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

macro_rules! works {
    ($($kind:ident: $run:ident),*) => {
        $(impl Work for $kind<'_> {
            type Made = ();

            #[inline(always)]
            fn run(self) {
                $run(self);
            }
        })*
    };
}

works!(Finish: finish, Pool: pool, Unpool: unpool);

#[inline(always)]
pub(super) fn finish(finish: Finish) {
    let Finish {
        sums,
        pitch,
        bias,
        residual,
        accumulate,
        mut rectify,
        mut out,
    } = finish;
    for index in 0..out.count {
        let out = out.part(index);
        let channels = out.len();
        let residual = residual.map(|all| &all.data[index * all.spacing..][..channels]);
        let sums = &sums[index * pitch..][..channels];
        let words = channels.div_ceil(LANES);
        let bits = |all: &Spaced<'_, u16>| index * all.spacing..index * all.spacing + words;
        for (v, out) in out.chunks_mut(LANES).enumerate() {
            let at = v * LANES;
            let mut values = [0.0f32; LANES];
            let values = &mut values[..out.len()];
            values.copy_from_slice(&sums[at..at + out.len()]);
            let mut add = |other: &[f32]| {
                for (value, other) in values.iter_mut().zip(other) {
                    *value += other;
                }
            };
            if let Some(bias) = bias {
                add(&bias[at..]);
            }
            if accumulate {
                add(out);
            }
            if let Some(residual) = residual {
                add(&residual[at..]);
            }
            match &mut rectify {
                Rectify::No => {}
                Rectify::Forward(bits) => {
                    let mut mask = 0;
                    for (j, value) in values.iter_mut().enumerate() {
                        mask |= u16::from(*value > 0.0) << j;
                        // Not `max`, which would hide that it is no number.
                        *value = if *value <= 0.0 { 0.0 } else { *value };
                    }
                    bits.part(index)[v] = mask;
                }
                Rectify::Backward(all) => {
                    let mask = all.data[bits(all)][v];
                    for (j, value) in values.iter_mut().enumerate() {
                        *value = if mask >> j & 1 == 1 { *value } else { 0.0 };
                    }
                }
                Rectify::Guided(all) => {
                    let mask = all.data[bits(all)][v];
                    for (j, value) in values.iter_mut().enumerate() {
                        *value = if mask >> j & 1 == 1 {
                            value.max(0.0)
                        } else {
                            0.0
                        };
                    }
                }
            }
            out.copy_from_slice(values);
        }
    }
}

#[inline(always)]
pub(super) fn pool(pool: Pool) {
    let Pool {
        source,
        taps,
        out,
        places,
    } = pool;
    out.fill(f32::NEG_INFINITY);
    places.fill(taps.first().map_or(0, |tap| tap.1));
    for &(at, place) in taps {
        let values = &source[at..at + out.len()];
        for ((out, found), &value) in out.iter_mut().zip(&mut *places).zip(values) {
            let larger = value > *out || value.is_nan();
            *out = if larger { value } else { *out };
            *found = if larger { place } else { *found };
        }
    }
}

#[inline(always)]
pub(super) fn unpool(unpool: Unpool) {
    let Unpool {
        gradient,
        places,
        taps,
        out,
    } = unpool;
    for &(at, place) in taps {
        let out = &mut out[at..at + gradient.len()];
        for ((out, found), value) in out.iter_mut().zip(places).zip(gradient) {
            *out += if *found == place { *value } else { 0.0 };
        }
    }
}

pub(super) fn overlap(overlap: Overlap) {
    for m in 0..overlap.count {
        let sums = &overlap.sums[m * overlap.pitch..][..overlap.run];
        for (out, sum) in overlap.out[m * overlap.spacing..].iter_mut().zip(sums) {
            *out += sum;
        }
    }
}
