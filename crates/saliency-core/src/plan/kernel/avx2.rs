use std::arch::x86_64::*;

use super::{Finish, LANES, Pool, Sums, Tile, Unpool, WIDEST, Work};

/// The caller has checked the tile and that the machine has AVX2 and FMA.
pub(super) fn tile(tile: Tile, sums: &mut Sums) {
    assert_eq!(tile.lanes, LANES);
    // SAFETY: `Isa` picks this module only where the machine has the instructions, and
    // `Tile::check` has made sure that all reads lie inside; `sums` holds a whole tile.
    unsafe {
        match tile.starts.len() {
            6 => block::<6>(tile, sums),
            5 => block::<5>(tile, sums),
            4 => block::<4>(tile, sums),
            3 => block::<3>(tile, sums),
            2 => block::<2>(tile, sums),
            1 => block::<1>(tile, sums),
            _ => {}
        }
    }
}

/// All sums stay in registers: 6 x 2 of 16.
#[target_feature(enable = "avx2,fma")]
unsafe fn block<const M: usize>(tile: Tile, sums: &mut Sums) {
    // SAFETY: as above.
    unsafe {
        let source = tile.source.as_ptr();
        let mut acc = [[_mm256_setzero_ps(); 2]; M];
        let mut weights = tile.panel.as_ptr();
        for tap in 0..tile.taps {
            let x: [*const f32; M] =
                std::array::from_fn(|m| source.add(tile.starts[m] + tap * tile.tap_stride));
            for i in 0..tile.run {
                let w = [
                    _mm256_loadu_ps(weights),
                    _mm256_loadu_ps(weights.add(LANES / 2)),
                ];
                weights = weights.add(LANES);
                for m in 0..M {
                    let x = _mm256_set1_ps(*x[m].add(i));
                    acc[m][0] = _mm256_fmadd_ps(x, w[0], acc[m][0]);
                    acc[m][1] = _mm256_fmadd_ps(x, w[1], acc[m][1]);
                }
            }
        }
        for (m, acc) in acc.iter().enumerate() {
            let to = sums.as_mut_ptr().add(m * WIDEST);
            _mm256_storeu_ps(to, acc[0]);
            _mm256_storeu_ps(to.add(LANES / 2), acc[1]);
        }
    }
}

pub(super) fn finish(finish: Finish) {
    vectorised(finish);
}

pub(super) fn pool(pool: Pool) {
    vectorised(pool);
}

pub(super) fn unpool(unpool: Unpool) {
    vectorised(unpool);
}

/// Work that the compiler may vectorise with these instructions.
pub(super) fn vectorised<W: Work>(work: W) -> W::Made {
    #[target_feature(enable = "avx2,fma")]
    fn inside<W: Work>(work: W) -> W::Made {
        work.run()
    }
    // SAFETY: `Isa` picks this module only where the machine has the instructions.
    unsafe { inside(work) }
}
