use std::arch::x86_64::*;

use super::{Finish, LANES, Overlap, POSITIONS, Pool, Rectify, Sums, Tile, Unpool, WIDEST, Work};

/// The caller has checked the tile and that the machine has AVX-512F.
pub(super) fn tile(tile: Tile, sums: &mut Sums) {
    // SAFETY: `Isa` picks this module only where the machine has the instructions, and
    // `Tile::check` has made sure that all reads lie inside; `sums` holds a whole tile.
    unsafe {
        match tile.lanes / LANES {
            1 => positions::<1>(tile, sums),
            _ => positions::<2>(tile, sums),
        }
    }
}

#[target_feature(enable = "avx512f")]
unsafe fn positions<const V: usize>(tile: Tile, sums: &mut Sums) {
    // SAFETY: as above.
    unsafe {
        match tile.starts.len() {
            POSITIONS => block::<POSITIONS, V>(tile, sums),
            12 => block::<12, V>(tile, sums),
            11 => block::<11, V>(tile, sums),
            10 => block::<10, V>(tile, sums),
            9 => block::<9, V>(tile, sums),
            8 => block::<8, V>(tile, sums),
            7 => block::<7, V>(tile, sums),
            6 => block::<6, V>(tile, sums),
            5 => block::<5, V>(tile, sums),
            4 => block::<4, V>(tile, sums),
            3 => block::<3, V>(tile, sums),
            2 => block::<2, V>(tile, sums),
            1 => block::<1, V>(tile, sums),
            _ => {}
        }
    }
}

/// Steps of the inner loop done together, for fewer reads of where positions are.
const UNROLLED: usize = 2;

/// All sums stay in registers: 13 x 2 of 32, beside weights and a value.
#[target_feature(enable = "avx512f")]
unsafe fn block<const M: usize, const V: usize>(tile: Tile, sums: &mut Sums) {
    // SAFETY: as above.
    unsafe {
        let source = tile.source.as_ptr();
        let mut acc = [[_mm512_setzero_ps(); V]; M];
        let mut weights = tile.panel.as_ptr();
        for tap in 0..tile.taps {
            let x: [*const f32; M] =
                std::array::from_fn(|m| source.add(tile.starts[m] + tap * tile.tap_stride));
            let mut i = 0;
            while i + UNROLLED <= tile.run {
                let w: [[__m512; V]; UNROLLED] = std::array::from_fn(|u| {
                    std::array::from_fn(|v| _mm512_loadu_ps(weights.add(LANES * (V * u + v))))
                });
                weights = weights.add(LANES * V * UNROLLED);
                for (x, acc) in x.iter().zip(&mut acc) {
                    let x = x.add(i);
                    for (u, w) in w.iter().enumerate() {
                        let x = _mm512_set1_ps(*x.add(u));
                        for v in 0..V {
                            acc[v] = _mm512_fmadd_ps(x, w[v], acc[v]);
                        }
                    }
                }
                i += UNROLLED;
            }
            for i in i..tile.run {
                let w: [__m512; V] =
                    std::array::from_fn(|v| _mm512_loadu_ps(weights.add(LANES * v)));
                weights = weights.add(LANES * V);
                for (x, acc) in x.iter().zip(&mut acc) {
                    let x = _mm512_set1_ps(*x.add(i));
                    for v in 0..V {
                        acc[v] = _mm512_fmadd_ps(x, w[v], acc[v]);
                    }
                }
            }
        }
        for (m, acc) in acc.iter().enumerate() {
            for (v, acc) in acc.iter().enumerate() {
                _mm512_storeu_ps(sums.as_mut_ptr().add(m * WIDEST + LANES * v), *acc);
            }
        }
    }
}

/// The caller has checked all lengths.
pub(super) fn finish(finish: Finish) {
    // SAFETY: the machine has the instructions, and `Finish::check` has made sure of all
    // lengths; the last vector is read and written under a mask of the channels that are left.
    unsafe { write(finish) }
}

#[target_feature(enable = "avx512f")]
unsafe fn write(finish: Finish) {
    let Finish {
        sums,
        pitch,
        bias,
        residual,
        accumulate,
        rectify,
        mut out,
    } = finish;
    let (count, channels, spacing) = (out.count, out.len, out.spacing);
    let out = out.as_mut_ptr();
    let sums = sums.as_ptr();
    enum How {
        No,
        Forward,
        Backward,
        Guided,
    }
    let (how, bits, words) = match rectify {
        Rectify::No => (How::No, std::ptr::null_mut(), 0),
        Rectify::Forward(mut bits) => (How::Forward, bits.as_mut_ptr(), bits.spacing),
        // Only read in these two.
        Rectify::Backward(bits) => (How::Backward, bits.data.as_ptr().cast_mut(), bits.spacing),
        Rectify::Guided(bits) => (How::Guided, bits.data.as_ptr().cast_mut(), bits.spacing),
    };
    // SAFETY: as above.
    unsafe {
        let zero = _mm512_setzero_ps();
        for index in 0..count {
            for v in 0..channels.div_ceil(LANES) {
                let at = v * LANES;
                let left = (channels - at).min(LANES);
                let some = (u32::MAX >> (32 - left)) as __mmask16;
                let to = out.add(index * spacing + at);
                let mut x = _mm512_maskz_loadu_ps(some, sums.add(index * pitch + at));
                if let Some(bias) = bias {
                    x = _mm512_add_ps(x, _mm512_maskz_loadu_ps(some, bias.as_ptr().add(at)));
                }
                if accumulate {
                    x = _mm512_add_ps(x, _mm512_maskz_loadu_ps(some, to));
                }
                if let Some(residual) = residual {
                    let from = residual.data.as_ptr().add(index * residual.spacing + at);
                    x = _mm512_add_ps(x, _mm512_maskz_loadu_ps(some, from));
                }
                match how {
                    How::No => {}
                    How::Forward => {
                        let positive = _mm512_cmp_ps_mask::<_CMP_GT_OQ>(x, zero);
                        *bits.add(index * words + v) = positive & some;
                        // The second one where either is no number.
                        x = _mm512_max_ps(zero, x);
                    }
                    How::Backward => x = _mm512_maskz_mov_ps(*bits.add(index * words + v), x),
                    How::Guided => {
                        x = _mm512_maskz_max_ps(*bits.add(index * words + v), x, zero);
                    }
                }
                _mm512_mask_storeu_ps(to, some, x);
            }
        }
    }
}

/// The caller has checked all lengths.
pub(super) fn pool(pool: Pool) {
    // SAFETY: the machine has the instructions, and lengths are checked; the last vector is read
    // and written under a mask of the channels that are left.
    unsafe { maxima(pool) }
}

#[target_feature(enable = "avx512f")]
unsafe fn maxima(pool: Pool) {
    let first = pool.taps.first().map_or(0, |tap| tap.1);
    for at in (0..pool.out.len()).step_by(LANES) {
        let left = (pool.out.len() - at).min(LANES);
        let some = (u32::MAX >> (32 - left)) as __mmask16;
        let mut best = _mm512_set1_ps(f32::NEG_INFINITY);
        let mut places = _mm512_set1_epi32(first.into());
        // SAFETY: as above.
        unsafe {
            for &(from, place) in pool.taps {
                let x = _mm512_maskz_loadu_ps(some, pool.source.as_ptr().add(from + at));
                let larger = _mm512_cmp_ps_mask::<_CMP_GT_OQ>(x, best)
                    | _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(x, x);
                best = _mm512_mask_mov_ps(best, larger, x);
                places = _mm512_mask_set1_epi32(places, larger, place.into());
            }
            _mm512_mask_storeu_ps(pool.out.as_mut_ptr().add(at), some, best);
            let to = pool.places.as_mut_ptr().add(at);
            _mm512_mask_cvtepi32_storeu_epi8(to.cast(), some, places);
        }
    }
}

/// The caller has checked all lengths.
pub(super) fn unpool(unpool: Unpool) {
    // SAFETY: as for `pool`.
    unsafe { add_at(unpool) }
}

#[target_feature(enable = "avx512f")]
unsafe fn add_at(unpool: Unpool) {
    let channels = unpool.gradient.len();
    for at in (0..channels).step_by(LANES) {
        let left = (channels - at).min(LANES);
        let some = (u32::MAX >> (32 - left)) as __mmask16;
        let mut near = [u8::MAX; LANES];
        near[..left].copy_from_slice(&unpool.places[at..at + left]);
        // SAFETY: as above.
        unsafe {
            let places = _mm512_cvtepu8_epi32(_mm_loadu_si128(near.as_ptr().cast()));
            let values = _mm512_maskz_loadu_ps(some, unpool.gradient.as_ptr().add(at));
            for &(from, place) in unpool.taps {
                let here = _mm512_cmpeq_epi32_mask(places, _mm512_set1_epi32(place.into())) & some;
                let to = unpool.out.as_mut_ptr().add(from + at);
                let sum = _mm512_add_ps(_mm512_maskz_loadu_ps(here, to), values);
                _mm512_mask_storeu_ps(to, here, sum);
            }
        }
    }
}

/// The caller has checked all lengths.
pub(super) fn overlap(overlap: Overlap) {
    // SAFETY: as for `pool`.
    unsafe { add_windows(overlap) }
}

/// Windows that do not overlap follow each other, so that no sum waits for the one before.
#[target_feature(enable = "avx512f")]
unsafe fn add_windows(overlap: Overlap) {
    let Overlap {
        sums,
        pitch,
        count,
        run,
        spacing,
        out,
    } = overlap;
    let apart = run.div_ceil(spacing);
    for m in (0..apart).flat_map(|phase| (phase..count).step_by(apart)) {
        for at in (0..run).step_by(LANES) {
            let left = (run - at).min(LANES);
            let some = (u32::MAX >> (32 - left)) as __mmask16;
            // SAFETY: as above.
            unsafe {
                let to = out.as_mut_ptr().add(m * spacing + at);
                let sum = _mm512_maskz_loadu_ps(some, sums.as_ptr().add(m * pitch + at));
                let sum = _mm512_add_ps(sum, _mm512_maskz_loadu_ps(some, to));
                _mm512_mask_storeu_ps(to, some, sum);
            }
        }
    }
}

/// Work that the compiler may vectorise with these instructions.
pub(super) fn vectorised<W: Work>(work: W) -> W::Made {
    #[target_feature(enable = "avx512f")]
    fn inside<W: Work>(work: W) -> W::Made {
        work.run()
    }
    // SAFETY: `Isa` picks this module only where the machine has the instructions.
    unsafe { inside(work) }
}
