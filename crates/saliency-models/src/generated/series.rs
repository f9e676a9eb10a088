//! A price series and a signal that depends on two past returns.
//!
//! Each day has a `price`, its `return` r in per cent, and two columns that have nothing to
//! do with it, `volume` and `rate`. The `signal` of day t is `up` where
//!
//! r(t - 3) + 0.7 r(t - 8) + noise > 0,
//!
//! the noise being a tenth of a return; else it is `down`. So in a window of at least nine
//! days that ends at t, two of its values matter: the returns [`LAGS`] days before the last.

use std::path::Path;

use saliency_core::noise::standard_normal;

use super::write_csv;
use crate::data::{DataError, date};

/// The columns that a model reads, without the price, which would give the returns away.
pub const COLUMNS: [&str; 3] = ["return", "volume", "rate"];

/// The column that says `up` or `down`.
pub const TARGET: &str = "signal";

/// How many days before the last the two returns are that matter.
pub const LAGS: [usize; 2] = [3, 8];

/// How much they matter.
pub const WEIGHTS: [f64; 2] = [1.0, 0.7];

const NOISE: f64 = 0.1;
/// 2010-01-01.
const FIRST_DAY: i64 = 14_610;

/// The days of a series by number; the same for a seed everywhere.
///
/// ```
/// use saliency_models::generated::series::Series;
/// let series = Series::new(1);
/// let score = series.daily_return(7) + 0.7 * series.daily_return(2);
/// // Day 10 is up where that is above the noise.
/// assert!(score.abs() < 0.5 || series.is_up(10) == (score > 0.0));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Series {
    seed: u64,
}

impl Series {
    /// The series of a seed.
    pub fn new(seed: u64) -> Self {
        Series { seed }
    }

    /// The return of a day in per cent; days before the first have one too.
    pub fn daily_return(&self, day: i64) -> f64 {
        self.noise(day)[0]
    }

    /// The signal of a day.
    pub fn is_up(&self, day: i64) -> bool {
        let past = LAGS.iter().zip(WEIGHTS);
        let score: f64 = past
            .map(|(lag, weight)| weight * self.daily_return(day - *lag as i64))
            .sum();
        score + NOISE * self.noise(day)[3] > 0.0
    }

    fn noise(&self, day: i64) -> [f64; 4] {
        let noise = standard_normal(self.seed, (day + (1 << 20)) as usize, 4);
        std::array::from_fn(|i| f64::from(noise[i]))
    }

    /// Writes the first `count` days.
    ///
    /// # Errors
    /// [`DataError::Write`] where the file cannot be written.
    pub fn write_csv(&self, path: impl AsRef<Path>, count: u64) -> Result<(), DataError> {
        let mut price = 100.0;
        let rows = (0..count as i64).map(|day| {
            let [change, volume, rate, _] = self.noise(day);
            price *= 1.0 + change / 100.0;
            vec![
                date(FIRST_DAY + day),
                format!("{price:.4}"),
                format!("{change:.5}"),
                format!("{:.0}", 1e6 * (0.3 * volume).exp()),
                format!("{:.4}", 3.0 + 0.5 * rate),
                if self.is_up(day) { "up" } else { "down" }.into(),
            ]
        });
        let header = ["day", "price", "return", "volume", "rate", TARGET];
        write_csv(path.as_ref(), &header, rows)
    }
}

/// Which of the values `[steps, columns]` of a window, row by row, matter.
///
/// ```
/// use saliency_models::generated::series::true_values;
/// // The fourth and the ninth day from the end of twelve, first of three columns.
/// assert_eq!(true_values(12), [8 * 3, 3 * 3]);
/// ```
///
/// # Panics
/// Where a window is too short for the longer lag.
pub fn true_values(steps: usize) -> [usize; 2] {
    LAGS.map(|lag| (steps - 1 - lag) * COLUMNS.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{CsvOptions, Reader, Record};

    #[test]
    fn the_file_holds_the_rule() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("series.csv");
        Series::new(3).write_csv(&path, 2000).unwrap();
        let mut reader = Reader::open(&path, &CsvOptions::default()).unwrap();
        let (mut record, mut returns, mut prices) = (Record::default(), Vec::new(), Vec::new());
        let mut agreed = 0;
        while reader.read(&mut record).unwrap() {
            returns.push(record.get(2).parse::<f64>().unwrap());
            prices.push(record.get(1).parse::<f64>().unwrap());
            let t = returns.len() - 1;
            if t >= 8 {
                let is_up = returns[t - 3] + 0.7 * returns[t - 8] > 0.0;
                agreed += usize::from(is_up == (record.get(5) == "up"));
            }
        }
        let share = agreed as f64 / 1992.0;
        assert!((0.95..1.0).contains(&share), "{share}");
        let change = 100.0 * (prices[100] / prices[99] - 1.0);
        assert!((change - returns[100]).abs() < 1e-3);
        assert_eq!(record.get(0), "2015-06-23");
    }
}
