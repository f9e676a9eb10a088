use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{error::Error, map::check_values};

/// Statistics of a reduced map.
///
/// Percentiles interpolate linearly, as numpy does; the standard deviation is the
/// population's.
///
/// ```
/// use saliency_core::Statistics;
/// let s = Statistics::of(&[0.0, 1.0, 2.0, 3.0, 4.0])?;
/// assert_eq!((s.min, s.max, s.mean, s.median, s.p75), (0.0, 4.0, 2.0, 2.0, 3.0));
/// assert_eq!(s.std, 2f64.sqrt());
/// assert_eq!(s.sparsity, 0.4);
/// # Ok::<(), saliency_core::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Statistics {
    /// Smallest value.
    pub min: f64,
    /// Largest value.
    pub max: f64,
    /// Mean.
    pub mean: f64,
    /// Population standard deviation.
    pub std: f64,
    /// 50th percentile.
    pub median: f64,
    /// 75th percentile.
    pub p75: f64,
    /// 90th percentile.
    pub p90: f64,
    /// 95th percentile.
    pub p95: f64,
    /// 99th percentile.
    pub p99: f64,
    /// Fraction of values below the mean.
    pub sparsity: f64,
    /// max / (mean + 1e-8).
    pub max_to_mean: f64,
}

impl Statistics {
    /// Statistics of `values`.
    ///
    /// # Errors
    /// [`Error::EmptyInput`] without values, [`Error::NonFinite`] at a NaN or infinity.
    pub fn of(values: &[f32]) -> Result<Self, Error> {
        if values.is_empty() {
            return Err(Error::EmptyInput { shape: vec![0] });
        }
        check_values(values)?;
        let mut sorted: Vec<f64> = values.iter().map(|&v| v as f64).collect();
        sorted.sort_by(f64::total_cmp);
        let n = sorted.len() as f64;
        let mean = sorted.iter().sum::<f64>() / n;
        let variance = sorted.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / n;
        let max = sorted[sorted.len() - 1];
        Ok(Statistics {
            min: sorted[0],
            max,
            mean,
            std: variance.sqrt(),
            median: percentile(&sorted, 50.0),
            p75: percentile(&sorted, 75.0),
            p90: percentile(&sorted, 90.0),
            p95: percentile(&sorted, 95.0),
            p99: percentile(&sorted, 99.0),
            sparsity: sorted.partition_point(|&v| v < mean) as f64 / n,
            max_to_mean: max / (mean + 1e-8),
        })
    }

    /// What the numbers say.
    ///
    /// ```
    /// use saliency_core::{Reading, Statistics};
    /// let mut spike = vec![0.0; 99];
    /// spike.push(1.0);
    /// let readings = Statistics::of(&spike)?.readings();
    /// assert!(readings.contains(&Reading::FewPixelsDominate));
    /// assert!(!readings.contains(&Reading::Diffuse));
    /// # Ok::<(), saliency_core::Error>(())
    /// ```
    pub fn readings(&self) -> Vec<Reading> {
        if self.max - self.min <= 1e-10 {
            return vec![Reading::Flat];
        }
        let mut readings = Vec::new();
        let mut note = |holds, reading| {
            if holds {
                readings.push(reading);
            }
        };
        note(self.sparsity > 0.8, Reading::FewPixelsDominate);
        note(self.max_to_mean < 5.0, Reading::Diffuse);
        note(self.std > self.mean.abs(), Reading::StrongLocalisation);
        note(
            self.p99 > 0.0 && self.p99 > 2.0 * self.p95,
            Reading::PossibleArtefacts,
        );
        readings
    }

    /// The numbers with their names, for tables.
    ///
    /// ```
    /// use saliency_core::Statistics;
    /// assert_eq!(Statistics::of(&[3.0])?.entries()[2], ("mean", 3.0));
    /// # Ok::<(), saliency_core::Error>(())
    /// ```
    pub fn entries(&self) -> [(&'static str, f64); 11] {
        [
            ("min", self.min),
            ("max", self.max),
            ("mean", self.mean),
            ("std", self.std),
            ("median", self.median),
            ("p75", self.p75),
            ("p90", self.p90),
            ("p95", self.p95),
            ("p99", self.p99),
            ("sparsity", self.sparsity),
            ("max/mean", self.max_to_mean),
        ]
    }
}

/// One thing that the statistics of a map say; `Display` gives the sentence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reading {
    /// All values are equal (max - min <= 1e-10).
    Flat,
    /// Sparsity over 80 %.
    FewPixelsDominate,
    /// Largest value under 5 times the mean.
    Diffuse,
    /// Standard deviation above the mean.
    StrongLocalisation,
    /// 99th percentile over twice the 95th.
    PossibleArtefacts,
}

impl fmt::Display for Reading {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Reading::Flat => "flat: all values are equal, so the map says nothing",
            Reading::FewPixelsDominate => "sparsity over 80%: few pixels dominate",
            Reading::Diffuse => "max under 5 times the mean: a diffuse map",
            Reading::StrongLocalisation => "std above the mean: strong localisation",
            Reading::PossibleArtefacts => {
                "p99 over twice p95: look for artefacts (isolated bright pixels, checkerboards)"
            }
        })
    }
}

/// The `q`-th percentile of sorted values, linearly interpolated.
fn percentile(sorted: &[f64], q: f64) -> f64 {
    let at = q / 100.0 * (sorted.len() - 1) as f64;
    let low = sorted[at.floor() as usize];
    let high = sorted[at.ceil() as usize];
    low + (high - low) * at.fract()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reading_has_a_map_that_shows_it() {
        let readings = |values: &[f32]| Statistics::of(values).unwrap().readings();
        assert_eq!(readings(&[3.0; 10]), [Reading::Flat]);
        let ramp: Vec<f32> = (0..100).map(|v| v as f32).collect();
        assert_eq!(readings(&ramp), [Reading::Diffuse]);
        // 100 values, 90 of 1, 5 of 4, 5 of 400: p95 = 4 or a little more, p99 = 400.
        let mut spiky = vec![1.0; 90];
        spiky.extend([4.0; 6]);
        spiky.extend([400.0; 4]);
        let got = readings(&spiky);
        assert!(got.contains(&Reading::PossibleArtefacts), "{got:?}");
        assert!(got.contains(&Reading::FewPixelsDominate), "{got:?}");
        assert!(got.contains(&Reading::StrongLocalisation), "{got:?}");
    }

    #[test]
    fn one_value_and_no_value() {
        let one = Statistics::of(&[2.0]).unwrap();
        assert_eq!((one.p99, one.std, one.sparsity), (2.0, 0.0, 0.0));
        assert!(Statistics::of(&[]).is_err());
        assert!(
            Statistics::of(&[0.0, f32::NAN])
                .unwrap_err()
                .to_string()
                .contains("element 1")
        );
    }
}
