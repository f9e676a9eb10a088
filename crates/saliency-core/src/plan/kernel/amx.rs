use std::{
    arch::{asm, x86_64::*},
    marker::PhantomData,
};

use super::{
    LANES,
    split::{Line, PARTS, Positions, Product, STEP, TILE, TILE_ROWS, Tiles},
};

/// Bytes.
const LINE: usize = size_of::<Line>();

/// Whether the machine has AMX tiles with bf16 products, and the system lets this process use
/// them.
#[cfg(target_os = "linux")]
pub(super) fn available() -> bool {
    const ARCH_PRCTL: i64 = 158;
    const ARCH_REQ_XCOMP_PERM: u64 = 0x1023;
    const XFEATURE_XTILEDATA: u64 = 18;
    #[allow(unused_unsafe)]
    // SAFETY: every x86-64 machine has the instruction.
    let leaf = unsafe { __cpuid_count(7, 0) };
    let (bf16, tile) = (leaf.edx >> 22 & 1, leaf.edx >> 24 & 1);
    if bf16 & tile == 0 {
        return false;
    }
    let refused: i64;
    // SAFETY: arch_prctl(ARCH_REQ_XCOMP_PERM) only changes what state the process may use; an
    // older kernel answers with an error. The registers that a system call changes are listed.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") ARCH_PRCTL => refused,
            in("rdi") ARCH_REQ_XCOMP_PERM,
            in("rsi") XFEATURE_XTILEDATA,
            out("rcx") _,
            out("r11") _,
            options(nostack),
        );
    }
    refused == 0
}

#[cfg(not(target_os = "linux"))]
pub(super) fn available() -> bool {
    false
}

/// Tile registers of this thread, shaped for left factors of some rows. They are given back
/// when it goes out of scope; a thread may have one at a time.
pub(in crate::plan) struct Configured {
    here: PhantomData<*const ()>,
}

impl Configured {
    /// The caller has checked that [`available`].
    pub fn new(rows: usize) -> Self {
        assert!((1..=TILE_ROWS).contains(&rows));
        #[repr(C, align(64))]
        struct Config([u8; 64]);
        let mut config = Config([0; 64]);
        config.0[0] = 1;
        for tile in 0..8 {
            config.0[16 + 2 * tile] = 64;
            // Sums 0 to 3 and left factors 4 and 5; right factors 6 and 7.
            config.0[48 + tile] = if tile < 6 { rows as u8 } else { 16 };
        }
        // SAFETY: `Isa` picks this module only where the machine has the instructions; the
        // configuration is 64 bytes of a valid form.
        unsafe { asm!("ldtilecfg [{}]", in(reg) config.0.as_ptr(), options(nostack, readonly)) };
        Configured { here: PhantomData }
    }
}

impl Drop for Configured {
    fn drop(&mut self) {
        // SAFETY: the machine has the instructions, see `new`.
        unsafe { asm!("tilerelease", options(nostack, nomem)) };
    }
}

/// Two tiles of positions by two of channels. The caller has checked all reads.
pub(super) fn multiply(_: &Configured, product: &Product, sums: &mut Tiles) {
    let left = product.left.as_ptr();
    // SAFETY: the tiles are configured; `Product::check` has made sure that all reads lie
    // inside, and `sums` holds all of the four tiles that are written. Tile registers are
    // named as changed and are not used across blocks.
    unsafe {
        asm!(
            "tilezero tmm0",
            "tilezero tmm1",
            "tilezero tmm2",
            "tilezero tmm3",
            "2:",
            "mov {x}, [{steps}]",
            "shl {x}, 6",
            "lea {y}, [{second} + {x}]",
            "add {x}, {first}",
            "tileloadd tmm4, [{x} + {line}]",
            "tileloadd tmm6, [{right} + {line} + 4096]",
            "tileloadd tmm7, [{right} + {line} + 5120]",
            "tileloadd tmm5, [{y} + {line}]",
            "tdpbf16ps tmm0, tmm4, tmm6",
            "tdpbf16ps tmm1, tmm4, tmm7",
            "tdpbf16ps tmm2, tmm5, tmm6",
            "tileloadd tmm6, [{right} + {line} + 2048]",
            "tdpbf16ps tmm3, tmm5, tmm7",
            "tileloadd tmm7, [{right} + {line} + 3072]",
            "tdpbf16ps tmm0, tmm4, tmm6",
            "tdpbf16ps tmm2, tmm5, tmm6",
            "add {x}, {plane}",
            "tdpbf16ps tmm1, tmm4, tmm7",
            "tileloadd tmm4, [{x} + {line}]",
            "add {y}, {plane}",
            "tdpbf16ps tmm3, tmm5, tmm7",
            "tileloadd tmm5, [{y} + {line}]",
            "tdpbf16ps tmm0, tmm4, tmm6",
            "tdpbf16ps tmm2, tmm5, tmm6",
            "tileloadd tmm6, [{right} + {line}]",
            "tdpbf16ps tmm1, tmm4, tmm7",
            "tdpbf16ps tmm3, tmm5, tmm7",
            "tileloadd tmm7, [{right} + {line} + 1024]",
            "tdpbf16ps tmm0, tmm4, tmm6",
            "tdpbf16ps tmm2, tmm5, tmm6",
            "tdpbf16ps tmm1, tmm4, tmm7",
            "add {x}, {plane}",
            "tileloadd tmm4, [{x} + {line}]",
            "add {y}, {plane}",
            "tdpbf16ps tmm3, tmm5, tmm7",
            "tileloadd tmm5, [{y} + {line}]",
            "tdpbf16ps tmm0, tmm4, tmm6",
            "tdpbf16ps tmm1, tmm4, tmm7",
            "sub {x}, {plane}",
            "sub {x}, {plane}",
            "tileloadd tmm4, [{x} + {line}]",
            "tdpbf16ps tmm2, tmm5, tmm6",
            "tdpbf16ps tmm3, tmm5, tmm7",
            "sub {y}, {plane}",
            "sub {y}, {plane}",
            "tileloadd tmm5, [{y} + {line}]",
            "tdpbf16ps tmm0, tmm4, tmm6",
            "tdpbf16ps tmm1, tmm4, tmm7",
            "tdpbf16ps tmm2, tmm5, tmm6",
            "tdpbf16ps tmm3, tmm5, tmm7",
            "add {right}, 6144",
            "add {steps}, 8",
            "dec {count}",
            "jnz 2b",
            "add {line}, {line}",
            "tilestored [{sums} + {line}], tmm0",
            "tilestored [{sums} + {line} + 64], tmm1",
            "tilestored [{sums} + {line} + 2048], tmm2",
            "tilestored [{sums} + {line} + 2112], tmm3",
            first = in(reg) left.add(product.starts[0]),
            second = in(reg) left.add(product.starts[1]),
            plane = in(reg) LINE * product.plane,
            right = inout(reg) product.right.as_ptr() => _,
            steps = inout(reg) product.steps.as_ptr() => _,
            count = inout(reg) product.steps.len() => _,
            line = inout(reg) LINE => _,
            sums = in(reg) sums.0.as_mut_ptr(),
            x = out(reg) _,
            y = out(reg) _,
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(nostack),
        );
    }
}

/// Three bf16 that add up to each value, in pairs of values: high parts, middle, low.
#[target_feature(enable = "avx512f")]
fn three(x0: __m512, x1: __m512) -> [__m512i; PARTS] {
    let top = _mm512_set1_epi32(0xffff_0000_u32 as i32);
    // The first part is rounded to nearest; what is left has 16 bits, and is cut in two.
    let half = _mm512_set1_epi32(0x8000);
    let mut high = [x0, x1].map(|x| _mm512_add_epi32(_mm512_castps_si512(x), half));
    let mut x = [x0, x1];
    let mut parts = [_mm512_setzero_si512(); PARTS];
    for part in &mut parts {
        // (high[0] >> 16) where `top` is 0, high[1] where it is 1.
        let low = _mm512_srli_epi32::<16>(high[0]);
        *part = _mm512_ternarylogic_epi32::<0xca>(top, high[1], low);
        for (x, high) in x.iter_mut().zip(&mut high) {
            *x = _mm512_sub_ps(*x, _mm512_castsi512_ps(_mm512_and_si512(*high, top)));
            *high = _mm512_castps_si512(*x);
        }
    }
    parts
}

/// Splits the channels of some positions. The caller has checked
/// all lengths.
#[target_feature(enable = "avx512f")]
pub(super) unsafe fn split_left(from: Positions, first: usize, plane: usize, out: &mut [Line]) {
    let Positions {
        values,
        channels,
        spacing,
        count,
    } = from;
    const BLOCK: usize = 8;
    // SAFETY: `values` holds `channels` for each position, and loads are masked by those left
    // of them; `out` holds three planes for each STEP of channels.
    unsafe {
        for block in (0..count).step_by(BLOCK) {
            for (chunk, c) in (0..channels).step_by(STEP).enumerate() {
                let left = channels - c;
                let (m0, m1) = (mask(left), mask(left.saturating_sub(LANES)));
                for position in block..(block + BLOCK).min(count) {
                    let from = values.as_ptr().add(position * spacing + c);
                    let x0 = _mm512_maskz_loadu_ps(m0, from);
                    let x1 = _mm512_maskz_loadu_ps(m1, from.wrapping_add(STEP / 2));
                    for (s, part) in three(x0, x1).into_iter().enumerate() {
                        let at = (chunk * PARTS + s) * plane + first + position;
                        _mm512_storeu_si512(out.as_mut_ptr().add(at).cast(), part);
                    }
                }
            }
        }
    }
}

/// The same of a transposed factor. The caller has checked all lengths.
#[target_feature(enable = "avx512f")]
pub(super) unsafe fn split_left_transposed(from: Positions, plane: usize, out: &mut [Line]) {
    for (chunk, first) in (0..from.count).step_by(STEP).enumerate() {
        for position in (0..from.channels).step_by(LANES) {
            // SAFETY: the caller's.
            let low = transposed(unsafe { block(from, first, position) });
            // SAFETY: the caller's.
            let high = transposed(unsafe { block(from, first + STEP / 2, position) });
            let some = (from.channels - position).min(LANES);
            for m in 0..some {
                for (s, part) in three(low[m], high[m]).into_iter().enumerate() {
                    let at = (chunk * PARTS + s) * plane + position + m;
                    // SAFETY: `out` holds three planes for each STEP of lines.
                    unsafe { _mm512_storeu_si512(out.as_mut_ptr().add(at).cast(), part) };
                }
            }
        }
    }
}

/// Sixteen values of sixteen positions each, from the given ones on; zeros outside. The caller
/// has checked that all positions lie inside.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn block(from: Positions, position: usize, channel: usize) -> [__m512; LANES] {
    let mask = mask(from.channels.saturating_sub(channel));
    std::array::from_fn(|m| match position + m < from.count {
        true => {
            let at = (position + m) * from.spacing + channel;
            // SAFETY: the position lies inside, and no more than it has is loaded.
            unsafe { _mm512_maskz_loadu_ps(mask, from.values.as_ptr().wrapping_add(at)) }
        }
        false => _mm512_setzero_ps(),
    })
}

/// The first lanes of sixteen.
fn mask(lanes: usize) -> __mmask16 {
    match lanes {
        0 => 0,
        lanes => u16::MAX >> (LANES - lanes.min(LANES)),
    }
}

/// Splits lines of a right factor. The caller has checked all lengths.
#[target_feature(enable = "avx512f")]
pub(super) unsafe fn split_right(from: Positions, out: &mut [Line]) {
    let zero = _mm512_setzero_ps();
    let masks = [
        mask(from.channels),
        mask(from.channels.saturating_sub(LANES)),
    ];
    let (values, out) = (from.values.as_ptr(), out.as_mut_ptr());
    for r in 0..STEP / 2 {
        for (half, mask) in masks.into_iter().enumerate() {
            let row = |row: usize| match row < from.count && mask != 0 {
                true => {
                    let at = values.wrapping_add(row * from.spacing + half * LANES);
                    _mm_prefetch::<_MM_HINT_T0>(at.wrapping_add(STEP * from.spacing).cast());
                    // SAFETY: the line lies inside, and no more than it has is loaded.
                    unsafe { _mm512_maskz_loadu_ps(mask, at) }
                }
                false => zero,
            };
            for (s, part) in three(row(r), row(r + STEP / 2)).into_iter().enumerate() {
                let at = (2 * s + half) * TILE + r;
                // SAFETY: `out` holds six tiles.
                unsafe { _mm512_storeu_si512(out.add(at).cast(), part) };
            }
        }
    }
}

/// The same of a transposed factor: its lines are the two tiles' columns. The caller has checked
/// all lengths.
#[target_feature(enable = "avx512f")]
pub(super) unsafe fn split_transposed(from: Positions, out: &mut [Line]) {
    for half in 0..2 {
        // SAFETY: the caller's.
        let low = transposed(unsafe { block(from, half * LANES, 0) });
        // SAFETY: the caller's.
        let high = transposed(unsafe { block(from, half * LANES, LANES) });
        for r in 0..LANES {
            for (s, part) in three(low[r], high[r]).into_iter().enumerate() {
                let at = (2 * s + half) * TILE + r;
                // SAFETY: `out` holds six tiles.
                unsafe { _mm512_storeu_si512(out.as_mut_ptr().add(at).cast(), part) };
            }
        }
    }
}

/// Rows become columns.
#[inline]
#[target_feature(enable = "avx512f")]
fn transposed(x: [__m512; LANES]) -> [__m512; LANES] {
    let double = |x: __m512| _mm512_castps_pd(x);
    let single = |x: __m512d| _mm512_castpd_ps(x);
    let mut y = x;
    // Within groups of four lanes: pairs of rows, then of pairs.
    for i in 0..LANES / 2 {
        y[2 * i] = _mm512_unpacklo_ps(x[2 * i], x[2 * i + 1]);
        y[2 * i + 1] = _mm512_unpackhi_ps(x[2 * i], x[2 * i + 1]);
    }
    let mut z = y;
    for i in (0..LANES).step_by(4) {
        z[i] = single(_mm512_unpacklo_pd(double(y[i]), double(y[i + 2])));
        z[i + 1] = single(_mm512_unpackhi_pd(double(y[i]), double(y[i + 2])));
        z[i + 2] = single(_mm512_unpacklo_pd(double(y[i + 1]), double(y[i + 3])));
        z[i + 3] = single(_mm512_unpackhi_pd(double(y[i + 1]), double(y[i + 3])));
    }
    // z[4 b + j] has column 4 q + j of rows 4 b to 4 b + 3 in its group q.
    let mut out = x;
    for j in 0..4 {
        let (a, b) = (z[j], z[4 + j]);
        let (c, d) = (z[8 + j], z[12 + j]);
        let ab = [
            _mm512_shuffle_f32x4::<0x88>(a, b),
            _mm512_shuffle_f32x4::<0xdd>(a, b),
        ];
        let cd = [
            _mm512_shuffle_f32x4::<0x88>(c, d),
            _mm512_shuffle_f32x4::<0xdd>(c, d),
        ];
        for odd in 0..2 {
            out[4 * odd + j] = _mm512_shuffle_f32x4::<0x88>(ab[odd], cd[odd]);
            out[8 + 4 * odd + j] = _mm512_shuffle_f32x4::<0xdd>(ab[odd], cd[odd]);
        }
    }
    out
}
