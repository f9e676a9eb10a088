use std::arch::aarch64::*;

use super::{LANES, Sums, Tile, WIDEST};

/// Vectors of a panel's line.
const VECTORS: usize = LANES / 4;

/// The caller has checked the tile and that the machine has NEON.
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

/// All sums stay in registers: 6 x 4 of 32.
#[target_feature(enable = "neon")]
unsafe fn block<const M: usize>(tile: Tile, sums: &mut Sums) {
    // SAFETY: as above.
    unsafe {
        let source = tile.source.as_ptr();
        let mut acc = [[vdupq_n_f32(0.0); VECTORS]; M];
        let mut weights = tile.panel.as_ptr();
        for tap in 0..tile.taps {
            let x: [*const f32; M] =
                std::array::from_fn(|m| source.add(tile.starts[m] + tap * tile.tap_stride));
            for i in 0..tile.run {
                let w: [float32x4_t; VECTORS] =
                    std::array::from_fn(|v| vld1q_f32(weights.add(4 * v)));
                weights = weights.add(LANES);
                for m in 0..M {
                    let x = *x[m].add(i);
                    for v in 0..VECTORS {
                        acc[m][v] = vfmaq_n_f32(acc[m][v], w[v], x);
                    }
                }
            }
        }
        for (m, acc) in acc.iter().enumerate() {
            for (v, acc) in acc.iter().enumerate() {
                vst1q_f32(sums.as_mut_ptr().add(m * WIDEST + 4 * v), *acc);
            }
        }
    }
}
