//! The inner loops of the CPU's plan with stand-ins for what they use of `saliency-core`.

#![allow(dead_code, unused_imports)]

mod plan;

pub mod noise {
    /// Numbers between minus one and one.
    pub fn standard_normal(seed: u64, sample: usize, len: usize) -> Vec<f32> {
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ sample as u64 ^ 0x5bf0_3635;
        let mut next = || {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (state >> 40) as f32 / (1 << 23) as f32 - 1.0
        };
        (0..len).map(|_| next()).collect()
    }
}
