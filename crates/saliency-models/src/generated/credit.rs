//! Credit files under a scoring rule that is known.
//!
//! Of each applicant ten columns are on file. Standardised numbers z are independent and
//! normal, but for two columns that are noisy copies of others. A payment defaults with
//! probability sigmoid(2.5 s), where the score s adds up the effects
//!
//! | column | effect on s |
//! |---|---|
//! | `income` | -1.0 z |
//! | `debt` | 0.8 z |
//! | `age` | -0.3 z |
//! | `utilisation` | 1.5 tanh(4 z): saturated for most applicants |
//! | `home` | own -0.5, mortgage -0.1, rent 0.3, other 0.7 |
//! | `stated_income` | none; its correlation with `income` is 0.95 |
//! | `instalment` | none; its correlation with `debt` is 0.8 |
//! | `branch`, `distance`, `weekday` | none |
//!
//! The rule is additive, so a column's Shapley value (whatever the other columns are) is its
//! effect less its mean effect: [`Applicant::contributions`]. Its [importance] is
//! the standard deviation of its effect, the square root of its share in the ANOVA
//! decomposition of s.

use std::path::Path;

use saliency_core::noise::standard_normal;

use super::{sigmoid, uniforms, write_csv};
use crate::data::DataError;

/// The columns, without the target.
pub const COLUMNS: [&str; 10] = [
    "income",
    "debt",
    "age",
    "utilisation",
    "home",
    "stated_income",
    "instalment",
    "branch",
    "distance",
    "weekday",
];

/// The column that says whether a payment defaulted: `yes` or `no`.
pub const TARGET: &str = "default";

/// The column whose effect saturates.
pub const SATURATING: &str = "utilisation";

/// Columns without an effect that are correlated with one that has an effect.
pub const COPIES: [(&str, &str); 2] = [("stated_income", "income"), ("instalment", "debt")];

const HOMES: [(&str, f64, f64); 4] = [
    ("own", 0.3, -0.5),
    ("mortgage", 0.3, -0.1),
    ("rent", 0.3, 0.3),
    ("other", 0.1, 0.7),
];
const WEEKDAYS: [&str; 5] = ["Mon", "Tue", "Wed", "Thu", "Fri"];
const STEEPNESS: f64 = 2.5;

/// The effect of a column of numbers on the score.
fn effect(column: &str, z: f64) -> f64 {
    match column {
        "income" => -z,
        "debt" => 0.8 * z,
        "age" => -0.3 * z,
        SATURATING => 1.5 * (4.0 * z).tanh(),
        _ => 0.0,
    }
}

/// One credit file and the truth about it.
#[derive(Clone, Debug, PartialEq)]
pub struct Applicant {
    /// The cells of [`COLUMNS`].
    pub cells: Vec<String>,
    /// What each column adds to the score, less its mean: its Shapley value under the rule.
    pub contributions: Vec<f64>,
    /// The score.
    pub score: f64,
    /// Whether the payment defaulted.
    pub defaulted: bool,
}

/// Applicants by number; the same for a seed everywhere.
///
/// ```
/// use saliency_models::generated::credit::{COLUMNS, Credit};
/// let applicant = Credit::new(1).applicant(0);
/// assert_eq!(applicant.cells.len(), COLUMNS.len());
/// assert_eq!(applicant, Credit::new(1).applicant(0));
/// assert_ne!(applicant, Credit::new(2).applicant(0));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Credit {
    seed: u64,
}

impl Credit {
    /// Applicants of a seed.
    pub fn new(seed: u64) -> Self {
        Credit { seed }
    }

    /// Applicant number `index`, from 0.
    pub fn applicant(&self, index: u64) -> Applicant {
        let noise: Vec<f64> = standard_normal(self.seed, index as usize, 8)
            .into_iter()
            .map(f64::from)
            .collect();
        let [luck, home, weekday] = uniforms(self.seed, index);
        let [income, debt, age, utilisation, branch, distance] =
            [noise[0], noise[1], noise[2], noise[3], noise[4], noise[5]];
        let copy = |of: f64, correlation: f64, noise: f64| {
            correlation * of + (1.0 - correlation * correlation).sqrt() * noise
        };
        let stated = copy(income, 0.95, noise[6]);
        let instalment = copy(debt, 0.8, noise[7]);
        let (home, home_effect) = pick_home(home);
        let weekday = WEEKDAYS[(weekday * WEEKDAYS.len() as f64) as usize % WEEKDAYS.len()];
        let z = [
            income,
            debt,
            age,
            utilisation,
            0.0,
            stated,
            instalment,
            branch,
            distance,
            0.0,
        ];
        let mean_home: f64 = HOMES.iter().map(|(_, share, effect)| share * effect).sum();
        let contributions: Vec<f64> = COLUMNS
            .iter()
            .zip(z)
            .map(|(column, z)| match *column {
                "home" => home_effect - mean_home,
                // The other effects are odd functions, whose mean is zero.
                column => effect(column, z),
            })
            .collect();
        let score = contributions.iter().sum::<f64>() + mean_home;
        let cells = vec![
            format!("{:.2}", 3200.0 + 900.0 * income),
            format!("{:.2}", 12_000.0 + 4000.0 * debt),
            format!("{:.3}", 45.0 + 9.0 * age),
            format!("{:.5}", 0.5 + 0.15 * utilisation),
            home.into(),
            format!("{:.2}", 3400.0 + 950.0 * stated),
            format!("{:.3}", 310.0 + 80.0 * instalment),
            format!("{:.3}", 50.0 + 12.0 * branch),
            format!("{:.4}", 8.0 + 2.0 * distance),
            weekday.into(),
        ];
        Applicant {
            cells,
            contributions,
            score,
            defaulted: luck < sigmoid(STEEPNESS * score),
        }
    }

    /// Writes the applicants from `first` on, with the target as last column.
    ///
    /// # Errors
    /// [`DataError::Write`] where the file cannot be written.
    pub fn write_csv(
        &self,
        path: impl AsRef<Path>,
        first: u64,
        count: u64,
    ) -> Result<(), DataError> {
        let header = [&COLUMNS[..], &[TARGET]].concat();
        let rows = (first..first + count).map(|index| {
            let applicant = self.applicant(index);
            let mut cells = applicant.cells;
            cells.push(if applicant.defaulted { "yes" } else { "no" }.into());
            cells
        });
        write_csv(path.as_ref(), &header, rows)
    }
}

fn pick_home(mut at: f64) -> (&'static str, f64) {
    for (name, share, effect) in HOMES {
        if at < share {
            return (name, effect);
        }
        at -= share;
    }
    (HOMES[3].0, HOMES[3].2)
}

/// The standard deviation of each column's effect, in the order of [`COLUMNS`].
///
/// ```
/// use saliency_models::generated::credit::{COLUMNS, importance};
/// let importance = importance();
/// assert_eq!(importance[0], 1.0);
/// assert!(COLUMNS.iter().zip(&importance).skip(5).all(|(_, i)| *i == 0.0));
/// ```
pub fn importance() -> Vec<f64> {
    COLUMNS
        .iter()
        .map(|column| match *column {
            "home" => {
                let mean: f64 = HOMES.iter().map(|(_, share, effect)| share * effect).sum();
                let variance: f64 = HOMES
                    .iter()
                    .map(|(_, share, effect)| share * (effect - mean).powi(2))
                    .sum();
                variance.sqrt()
            }
            "income" => 1.0,
            "debt" => 0.8,
            "age" => 0.3,
            SATURATING => normal_mean(|z| effect(SATURATING, z).powi(2)).sqrt(),
            _ => 0.0,
        })
        .collect()
}

/// Mean of a function of a standard normal number, by the trapezoidal rule.
fn normal_mean(of: impl Fn(f64) -> f64) -> f64 {
    const STEP: f64 = 0.001;
    let points = (-10_000..=10_000).map(|i| i as f64 * STEP);
    let density = |z: f64| (-0.5 * z * z).exp() / (2.0 * std::f64::consts::PI).sqrt();
    points.map(|z| density(z) * of(z) * STEP).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    const COUNT: u64 = 20_000;

    fn correlation(a: &[f64], b: &[f64]) -> f64 {
        let mean = |x: &[f64]| x.iter().sum::<f64>() / x.len() as f64;
        let (ma, mb) = (mean(a), mean(b));
        let cov: f64 = a.iter().zip(b).map(|(x, y)| (x - ma) * (y - mb)).sum();
        let var = |x: &[f64], m: f64| x.iter().map(|v| (v - m).powi(2)).sum::<f64>();
        cov / (var(a, ma) * var(b, mb)).sqrt()
    }

    #[test]
    fn importance_is_what_samples_have() {
        let applicants: Vec<Applicant> = (0..COUNT).map(|i| Credit::new(5).applicant(i)).collect();
        for (column, want) in importance().into_iter().enumerate() {
            let values: Vec<f64> = applicants.iter().map(|a| a.contributions[column]).collect();
            let mean = values.iter().sum::<f64>() / COUNT as f64;
            let std =
                (values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / COUNT as f64).sqrt();
            let name = COLUMNS[column];
            assert!(mean.abs() < 0.04, "{name}: mean {mean}");
            assert!((std - want).abs() < 0.02, "{name}: {std} should be {want}");
        }
    }

    #[test]
    fn copies_are_correlated_and_the_rest_is_not() {
        let numbers = |name: &str| -> Vec<f64> {
            let column = COLUMNS.iter().position(|c| *c == name).unwrap();
            let cell = |i| {
                Credit::new(5).applicant(i).cells[column]
                    .parse::<f64>()
                    .unwrap()
            };
            (0..COUNT).map(cell).collect()
        };
        for ((copy, of), want) in COPIES.into_iter().zip([0.95, 0.8]) {
            let found = correlation(&numbers(copy), &numbers(of));
            assert!((found - want).abs() < 0.01, "{copy}: {found}");
        }
        for pair in [
            ["income", "debt"],
            ["branch", "distance"],
            ["age", "utilisation"],
        ] {
            let found = correlation(&numbers(pair[0]), &numbers(pair[1]));
            assert!(found.abs() < 0.03, "{pair:?}: {found}");
        }
    }

    #[test]
    fn defaults_follow_the_score() {
        let applicants: Vec<Applicant> = (0..COUNT).map(|i| Credit::new(7).applicant(i)).collect();
        let expected: f64 = applicants
            .iter()
            .map(|a| sigmoid(STEEPNESS * a.score))
            .sum();
        let found = applicants.iter().filter(|a| a.defaulted).count() as f64;
        assert!(
            (expected - found).abs() < 0.01 * COUNT as f64,
            "{found} of {expected}"
        );
    }
}
