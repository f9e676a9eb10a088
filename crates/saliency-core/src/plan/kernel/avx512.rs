use std::arch::x86_64::*;

use super::{Finish, LANES, POSITIONS, Rectify, Sums, Tile, WIDEST};

/// The caller has checked the tile and that the machine has AVX-512F.
pub(super) fn tile(tile: Tile, sums: &mut Sums) {
    // SAFETY: `Isa` picks this module only where the machine has the instructions, and
    // `Tile::check` has made sure that all reads lie inside; `sums` holds a whole tile.
    unsafe {
        match tile.lanes / LANES {
            1 => positions::<1>(tile, sums),
            2 => positions::<2>(tile, sums),
            3 => positions::<3>(tile, sums),
            _ => positions::<4>(tile, sums),
        }
    }
}

#[target_feature(enable = "avx512f")]
unsafe fn positions<const V: usize>(tile: Tile, sums: &mut Sums) {
    // SAFETY: as above.
    unsafe {
        match tile.starts.len() {
            POSITIONS => block::<POSITIONS, V>(tile, sums),
            5 => block::<5, V>(tile, sums),
            4 => block::<4, V>(tile, sums),
            3 => block::<3, V>(tile, sums),
            2 => block::<2, V>(tile, sums),
            1 => block::<1, V>(tile, sums),
            _ => {}
        }
    }
}

/// All sums stay in registers: 6 x 4 of 32.
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
            for i in 0..tile.run {
                let w: [__m512; V] =
                    std::array::from_fn(|v| _mm512_loadu_ps(weights.add(LANES * v)));
                weights = weights.add(LANES * V);
                for m in 0..M {
                    let x = _mm512_set1_ps(*x[m].add(i));
                    for v in 0..V {
                        acc[m][v] = _mm512_fmadd_ps(x, w[v], acc[m][v]);
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

pub(super) fn finish(finish: Finish) {
    let channels = finish.out.len();
    let long = |other: Option<&[f32]>| other.is_none_or(|o| o.len() >= channels);
    let vectors = channels.div_ceil(LANES);
    let bits = match &finish.rectify {
        Rectify::No => vectors,
        Rectify::Forward(bits) => bits.len(),
        Rectify::Backward(bits) | Rectify::Guided(bits) => bits.len(),
    };
    assert!(long(Some(finish.sums)) && long(finish.bias) && long(finish.residual));
    assert!(bits >= vectors);
    // SAFETY: the machine has the instructions, and all lengths have just been checked; the
    // last vector is read and written under a mask of the channels that are left.
    unsafe { write(finish) }
}

#[target_feature(enable = "avx512f")]
unsafe fn write(finish: Finish) {
    let Finish {
        sums,
        bias,
        residual,
        accumulate,
        mut rectify,
        out,
    } = finish;
    // SAFETY: as above.
    unsafe {
        let zero = _mm512_setzero_ps();
        for v in 0..out.len().div_ceil(LANES) {
            let at = v * LANES;
            let left = (out.len() - at).min(LANES);
            let some = (u32::MAX >> (32 - left)) as __mmask16;
            let mut x = _mm512_maskz_loadu_ps(some, sums.as_ptr().add(at));
            if let Some(bias) = bias {
                x = _mm512_add_ps(x, _mm512_maskz_loadu_ps(some, bias.as_ptr().add(at)));
            }
            if accumulate {
                x = _mm512_add_ps(x, _mm512_maskz_loadu_ps(some, out.as_ptr().add(at)));
            }
            if let Some(residual) = residual {
                x = _mm512_add_ps(x, _mm512_maskz_loadu_ps(some, residual.as_ptr().add(at)));
            }
            match &mut rectify {
                Rectify::No => {}
                Rectify::Forward(bits) => {
                    let positive = _mm512_cmp_ps_mask::<_CMP_GT_OQ>(x, zero);
                    bits[v] = positive & some;
                    x = _mm512_max_ps(x, zero);
                }
                Rectify::Backward(bits) => x = _mm512_maskz_mov_ps(bits[v], x),
                Rectify::Guided(bits) => x = _mm512_maskz_max_ps(bits[v], x, zero),
            }
            _mm512_mask_storeu_ps(out.as_mut_ptr().add(at), some, x);
        }
    }
}
