//! Functions of single-precision numbers that loops over them can be vectorised with.

/// e^x to about one unit in the last place, between the smallest normal number and the largest.
///
/// x = n ln 2 + r with |r| <= ln 2 / 2, and e^r by its Taylor polynomial of degree 7.
#[inline(always)]
pub(in crate::plan) fn exp(x: f32) -> f32 {
    const LN_2_HIGH: f32 = 0.693_359_4;
    const LN_2_LOW: f32 = -2.121_944_4e-4;
    /// 1.5 * 2^23: numbers about it are whole, and end in the bits of what was added to it. A
    /// conversion to an integer would be done one lane at a time.
    const WHOLE: f32 = 12_582_912.0;
    const ONE: u32 = 1.0f32.to_bits();
    let x = x.clamp(-87.0, 88.0);
    let shifted = x * std::f32::consts::LOG2_E + WHOLE;
    let n = shifted - WHOLE;
    let r = x - n * LN_2_HIGH - n * LN_2_LOW;
    let mut sum = 1.0 / 5040.0;
    for inverse in [
        1.0 / 720.0,
        1.0 / 120.0,
        1.0 / 24.0,
        1.0 / 6.0,
        0.5,
        1.0,
        1.0,
    ] {
        sum = sum * r + inverse;
    }
    sum * f32::from_bits((shifted.to_bits() << 23).wrapping_add(ONE))
}

/// The normal distribution function and density: Abramowitz and Stegun 7.1.26, whose error is
/// at most 7.5e-8 before rounding.
#[inline(always)]
pub(in crate::plan) fn normal(x: f32) -> (f32, f32) {
    let z = x.abs() * std::f32::consts::FRAC_1_SQRT_2;
    let t = 1.0 / (1.0 + 0.327_591_1 * z);
    let mut sum = 1.061_405_4;
    for coefficient in [-1.453_152, 1.421_413_7, -0.284_496_74, 0.254_829_6] {
        sum = sum * t + coefficient;
    }
    let bell = exp(-z * z);
    let tail = 0.5 * sum * t * bell;
    let below = if x < 0.0 { tail } else { 1.0 - tail };
    (below, bell * 0.398_942_3)
}

/// 1 / (1 + e^-x).
#[inline(always)]
pub(in crate::plan) fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

/// By its Taylor polynomial near zero, where the exponentials would cancel.
#[inline(always)]
pub(in crate::plan) fn tanh(x: f32) -> f32 {
    let s = x * x;
    let mut sum = 62.0 / 2835.0;
    for coefficient in [-17.0 / 315.0, 2.0 / 15.0, -1.0 / 3.0, 1.0] {
        sum = sum * s + coefficient;
    }
    let near = x * sum;
    let far = 1.0 - 2.0 / (1.0 + exp(2.0 * x));
    if s < 0.04 { near } else { far }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn functions_are_those_of_the_library(x in -30f32..30.0) {
            let wide = f64::from(x);
            let near = |got: f32, want: f64, size: f64| (f64::from(got) - want).abs() <= size;
            prop_assert!(near(exp(x), wide.exp(), 2e-7 * wide.exp()));
            let far = 2.9 * x;
            let want = f64::from(far).exp();
            prop_assert!(near(exp(far), want, 2e-7 * want), "{far}");
            prop_assert!(near(sigmoid(x), 1.0 / (1.0 + (-wide).exp()), 3e-7 / (1.0 + (-wide).exp())));
            prop_assert!(near(tanh(x), wide.tanh(), 2e-7));
            let small = x / 30.0;
            let want = f64::from(small).tanh();
            prop_assert!(near(tanh(small), want, 1e-6 * want.abs()));
            let (below, density) = normal(x);
            // Simpson's rule from zero on.
            let bell = |x: f64| (-0.5 * x * x).exp() / (2.0 * std::f64::consts::PI).sqrt();
            let h = wide / 2000.0;
            let weight = |i: usize| [2.0, 4.0][i % 2] - f64::from(u8::from(i.is_multiple_of(2000)));
            let area: f64 = (0..=2000).map(|i| weight(i) * bell(i as f64 * h) * h / 3.0).sum();
            prop_assert!(near(below, 0.5 + area, 3e-7), "{below} {area}");
            prop_assert!(near(density, bell(wide), 2e-7));
        }
    }

    #[test]
    fn what_is_no_number_has_none() {
        for bits in [0x7fc0_0000, 0x7fc0_0fff, 0xffff_ffff] {
            assert!(exp(f32::from_bits(bits)).is_nan());
        }
        assert!(exp(f32::NEG_INFINITY) < 2e-38 && exp(f32::INFINITY) > 1e38);
    }
}
