//! Tick positions and their labels.

/// Labels that share one power of ten.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Labels {
    pub texts: Vec<String>,
    /// Such as `×10⁻⁵`; empty for a power of zero.
    pub power: String,
}

/// `count` (two or more) evenly spaced numbers from `low` to `high`, both included.
pub(crate) fn even(low: f64, high: f64, count: usize) -> Vec<f64> {
    let steps = (count.max(2) - 1) as f64;
    (0..count.max(2))
        .map(|i| low + (high - low) * (i as f64 / steps))
        .collect()
}

/// Multiples of 1, 2 or 5 times a power of ten inside `low..=high`, about `count`.
pub(crate) fn round(low: f64, high: f64, count: usize) -> Vec<f64> {
    let rough = (high - low) / count.max(1) as f64;
    if !(rough.is_finite() && rough > 0.0) {
        return vec![low];
    }
    let power = 10f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0]
        .map(|factor| factor * power)
        .into_iter()
        .find(|step| *step >= rough * 0.999)
        .unwrap_or(10.0 * power);
    let (first, last) = ((low / step - 1e-9).ceil(), (high / step + 1e-9).floor());
    let number = (last - first).clamp(0.0, 100.0) as usize;
    (0..=number).map(|i| (first + i as f64) * step).collect()
}

/// Labels for evenly spaced `values`, with two digits of the step or the whole step
/// if it has fewer.
pub(crate) fn labels(values: &[f64]) -> Labels {
    let largest = values.iter().fold(0f64, |a, b| a.max(b.abs()));
    let exponent = if largest > 0.0 {
        largest.log10().floor() as i32
    } else {
        0
    };
    let exponent = if (-3..4).contains(&exponent) {
        0
    } else {
        exponent
    };
    let mantissas: Vec<f64> = values
        .iter()
        .map(|value| value / 10f64.powi(exponent))
        .collect();
    let step = match mantissas[..] {
        [first, second, ..] if second != first => (second - first).abs(),
        _ => mantissas.first().map_or(1.0, |value| value.abs() / 10.0),
    };
    let decimals = decimals(step);
    Labels {
        texts: mantissas
            .iter()
            .map(|value| fixed(*value, decimals))
            .collect(),
        power: power(exponent),
    }
}

/// A number to three significant digits, such as `0.0123`, `4.56e-7` or `1235`.
pub(crate) fn short(value: f64) -> String {
    let size = value.abs();
    if size == 0.0 {
        return "0".to_string();
    }
    if !(1e-4..1e5).contains(&size) {
        return format!("{value:.2e}");
    }
    let decimals = (2 - size.log10().floor() as i32).max(0) as usize;
    fixed(value, decimals)
}

/// `10ⁿ` in full up to 1000.
pub(crate) fn decade(exponent: u32) -> String {
    match exponent {
        0..=3 => 10u32.pow(exponent).to_string(),
        _ => format!("10{}", superscript(exponent as i32)),
    }
}

fn decimals(step: f64) -> usize {
    if !(step.is_finite() && step > 0.0) {
        return 0;
    }
    let two_digits = (1 - step.log10().floor() as i32).clamp(0, 7) as usize;
    (0..two_digits)
        .find(|&n| {
            let scaled = step * 10f64.powi(n as i32);
            (scaled - scaled.round()).abs() < 1e-6 * scaled
        })
        .unwrap_or(two_digits)
}

fn fixed(value: f64, decimals: usize) -> String {
    let text = format!("{value:.decimals$}");
    match text.strip_prefix('-') {
        Some(digits) if digits.chars().any(|c| ('1'..='9').contains(&c)) => format!("−{digits}"),
        Some(digits) => digits.to_string(),
        None => text,
    }
}

fn power(exponent: i32) -> String {
    match exponent {
        0 => String::new(),
        _ => format!("×10{}", superscript(exponent)),
    }
}

fn superscript(number: i32) -> String {
    number
        .to_string()
        .chars()
        .map(|c| match c {
            '-' => '⁻',
            '1' => '¹',
            '2' => '²',
            '3' => '³',
            _ => char::from_u32('⁰' as u32 + c.to_digit(10).unwrap_or(0)).unwrap_or(c),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(low: f64, high: f64) -> (Vec<String>, String) {
        let labels = labels(&even(low, high, 5));
        (labels.texts, labels.power)
    }

    #[test]
    fn colour_bar_labels_show_both_ends() {
        assert_eq!(
            texts(0.0, 1.0),
            (
                ["0.00", "0.25", "0.50", "0.75", "1.00"]
                    .map(String::from)
                    .to_vec(),
                String::new()
            )
        );
        assert_eq!(texts(0.0, 255.0).0, ["0", "64", "128", "191", "255"]);
        assert_eq!(texts(-2.0, 2.0).0, ["−2", "−1", "0", "1", "2"]);
        let (labels, power) = texts(0.0, 3.21e-12);
        assert_eq!(labels, ["0.00", "0.80", "1.60", "2.41", "3.21"]);
        assert_eq!(power, "×10⁻¹²");
        assert_eq!(texts(0.0, 2.5e4).1, "×10⁴");
    }

    #[test]
    fn a_negative_zero_has_no_sign() {
        assert_eq!(texts(-1.0, 1e-9).0.last().unwrap(), "0.00");
        assert_eq!(labels(&[-1.0, -0.00001]).texts, ["−1.00", "0.00"]);
    }

    #[test]
    fn a_single_value_keeps_two_digits() {
        assert_eq!(labels(&[0.25]).texts, ["0.250"]);
        assert_eq!(labels(&[0.0]).texts, ["0"]);
    }

    #[test]
    fn round_ticks_are_multiples_inside_the_range() {
        assert_eq!(round(0.0, 10.0, 5), [0.0, 2.0, 4.0, 6.0, 8.0, 10.0]);
        assert_eq!(
            labels(&round(0.0, 0.013, 5)).texts,
            ["0.000", "0.005", "0.010"]
        );
        assert_eq!(round(-7.0, 7.0, 3), [-5.0, 0.0, 5.0]);
        assert_eq!(round(3.0, 3.0, 5), [3.0]);
        for (low, high) in [(1e-30, 3e-30), (-1e38, 1e38), (99.9, 100.1)] {
            let ticks = round(low, high, 5);
            assert!((2..=12).contains(&ticks.len()), "{low} {high}: {ticks:?}");
        }
    }

    #[test]
    fn short_numbers_have_three_digits() {
        assert_eq!(short(0.0), "0");
        assert_eq!(short(0.012345), "0.0123");
        assert_eq!(short(-1234.5), "−1234");
        assert_eq!(short(4.5678e-7), "4.57e-7");
        assert_eq!(short(0.00091449), "0.000914");
    }

    #[test]
    fn decades() {
        assert_eq!(decade(0), "1");
        assert_eq!(decade(3), "1000");
        assert_eq!(decade(16), "10¹⁶");
    }
}
