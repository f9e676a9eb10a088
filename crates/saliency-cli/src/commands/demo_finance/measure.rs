use saliency_core::{Contribution, Evaluations, Family, Recipe, analysis::spearman};
use saliency_models::generated::{
    credit::{self, COLUMNS, COPIES, Credit, SATURATING},
    series,
};
use serde::Serialize;

use super::{Found, Study, UNSEEN};
use crate::error::Error;

/// All that is measured.
#[derive(Serialize)]
pub struct Scores<'a> {
    pub credit: &'a [CreditScore],
    pub series: &'a [SeriesScore],
}

/// How well a method finds which columns matter.
#[derive(Serialize)]
pub struct CreditScore {
    pub method: String,
    pub family: Option<Family>,
    pub recipe: Recipe,
    pub rows: usize,
    /// Spearman's correlation of mean |contribution| with the true importance.
    pub rank_correlation: f64,
    /// The highest that can be, since the columns without an effect share a rank.
    pub rank_correlation_at_most: f64,
    /// Mean over rows of Pearson's correlation of the contributions with the true ones; of
    /// methods without a sign, of their absolute values.
    pub row_correlation: f64,
    pub is_signed: bool,
    /// Share of the columns with an effect among as many columns of the largest mean
    /// |contribution|.
    pub hits: f64,
    /// Where the saturating column comes by mean |contribution|; in truth it is first.
    pub saturating_rank: usize,
    /// Share of all |contribution| that goes to correlated columns without an effect.
    pub copies_share: f64,
    /// Mean |contribution| of each column.
    pub importance: Vec<f64>,
    pub seconds_per_row: f64,
    pub evaluations: Evaluations,
}

/// How well a method finds which values of a window matter.
#[derive(Serialize)]
pub struct SeriesScore {
    pub method: String,
    pub family: Option<Family>,
    pub recipe: Recipe,
    pub windows: usize,
    /// Share of the two true steps among the two steps of the largest |contribution|.
    pub step_hits: f64,
    /// The same of single values; of methods that tell columns apart.
    pub value_hits: Option<f64>,
    /// Share of all |contribution| that goes to the two true values, or steps.
    pub mass: f64,
    /// Mean |contribution| of each value `[steps, columns]`, or of each step.
    pub mean: Vec<f64>,
    pub seconds_per_window: f64,
    pub evaluations: Evaluations,
}

pub fn credit(study: &Study) -> Result<Vec<CreditScore>, Error> {
    let seed = study.trained.description.training.options.seed;
    let truth: Vec<Vec<f64>> = (0..study.samples.len() as u64)
        .map(|row| Credit::new(seed).applicant(UNSEEN + row).contributions)
        .collect();
    let names = study.trained.layout().encoder.column_names();
    if names != COLUMNS {
        return Err(Error::Internal("the columns are in another order".into()));
    }
    Ok(study
        .found
        .iter()
        .map(|found| credit_score(found, &truth))
        .collect())
}

fn credit_score(found: &Found, truth: &[Vec<f64>]) -> CreditScore {
    let is_signed = !found.recipe.is_non_negative();
    let rows: Vec<Vec<Contribution>> = found
        .explained
        .iter()
        .map(|e| e.attribution.contributions())
        .collect();
    let count = rows.len() as f64;
    let mean = |column: usize| rows.iter().map(|row| row[column].magnitude).sum::<f64>() / count;
    let importance: Vec<f64> = (0..COLUMNS.len()).map(mean).collect();
    let total: f64 = importance.iter().sum::<f64>().max(f64::MIN_POSITIVE);
    let wanted = credit::importance();
    let per_row = rows.iter().zip(truth).map(|(row, truth)| {
        let (got, want): (Vec<f64>, Vec<f64>) = match is_signed {
            true => (row.iter().map(|c| c.value).collect(), truth.clone()),
            false => (
                row.iter().map(|c| c.magnitude).collect(),
                truth.iter().map(|v| v.abs()).collect(),
            ),
        };
        pearson(&got, &want)
    });
    let column = |name: &str| COLUMNS.iter().position(|c| *c == name).unwrap_or_default();
    let saturating = importance[column(SATURATING)];
    let copies: f64 = COPIES
        .iter()
        .map(|(copy, _)| importance[column(copy)])
        .sum();
    let informative: Vec<usize> = (0..wanted.len()).filter(|i| wanted[*i] > 0.0).collect();
    let ceiling: Vec<f64> = wanted
        .iter()
        .enumerate()
        .map(|(i, w)| w - 1e-3 * i as f64 * f64::from(u8::from(*w == 0.0)))
        .collect();
    CreditScore {
        method: found.name.clone(),
        family: found.family,
        recipe: found.recipe.clone(),
        rows: rows.len(),
        rank_correlation: ranks(&importance, &wanted),
        rank_correlation_at_most: ranks(&ceiling, &wanted),
        row_correlation: per_row.sum::<f64>() / count,
        is_signed,
        hits: overlap(&importance, &informative),
        saturating_rank: 1 + importance.iter().filter(|v| **v > saturating).count(),
        copies_share: copies / total,
        importance,
        seconds_per_row: found.seconds_per_sample,
        evaluations: found.evaluations,
    }
}

pub fn series(study: &Study) -> Vec<SeriesScore> {
    study.found.iter().map(series_score).collect()
}

fn series_score(found: &Found) -> SeriesScore {
    let count = found.explained.len() as f64;
    let steps = found
        .explained
        .first()
        .map_or(0, |e| e.attribution.sources.len());
    let width = found
        .explained
        .first()
        .map_or(1, |e| e.attribution.columns.sources().len());
    let tells_columns = width == series::COLUMNS.len();
    let true_values = series::true_values(steps);
    let true_steps = true_values.map(|value| value / series::COLUMNS.len());
    let true_places = if tells_columns {
        true_values
    } else {
        true_steps
    };
    let (mut step_hits, mut value_hits, mut mass) = (0.0, 0.0, 0.0);
    let mut mean = vec![0.0; steps * width];
    for explained in &found.explained {
        let values: Vec<f64> = explained
            .attribution
            .sources
            .iter()
            .flatten()
            .map(|v| v.abs())
            .collect();
        let each_step: Vec<f64> = explained
            .attribution
            .steps()
            .iter()
            .map(|step| step.magnitude)
            .collect();
        step_hits += overlap(&each_step, &true_steps) / count;
        value_hits += overlap(&values, &true_places) / count;
        let total = values.iter().sum::<f64>().max(f64::MIN_POSITIVE);
        mass += true_places.iter().map(|place| values[*place]).sum::<f64>() / total / count;
        for (mean, value) in mean.iter_mut().zip(&values) {
            *mean += value / count;
        }
    }
    SeriesScore {
        method: found.name.clone(),
        family: found.family,
        recipe: found.recipe.clone(),
        windows: found.explained.len(),
        step_hits,
        value_hits: tells_columns.then_some(value_hits),
        mass,
        mean,
        seconds_per_window: found.seconds_per_sample,
        evaluations: found.evaluations,
    }
}

/// Share of `wanted` among as many places of the largest values. A place shares its rank with
/// equal ones, so that a flat map scores what chance would.
fn overlap(values: &[f64], wanted: &[usize]) -> f64 {
    let most = wanted.len();
    let hit = |place: &usize| {
        let value = values[*place];
        let above = values.iter().filter(|v| **v > value).count();
        let level = values.iter().filter(|v| **v == value).count();
        (most.saturating_sub(above) as f64 / level as f64).min(1.0)
    };
    wanted.iter().map(hit).sum::<f64>() / most as f64
}

fn ranks(a: &[f64], b: &[f64]) -> f64 {
    let single = |x: &[f64]| -> Vec<f32> { x.iter().map(|v| *v as f32).collect() };
    spearman(&single(a), &single(b))
}

/// 0 where one is constant.
fn pearson(a: &[f64], b: &[f64]) -> f64 {
    let mean = |x: &[f64]| x.iter().sum::<f64>() / x.len() as f64;
    let (ma, mb) = (mean(a), mean(b));
    let product = |x: &[f64], mx: f64, y: &[f64], my: f64| -> f64 {
        x.iter().zip(y).map(|(p, q)| (p - mx) * (q - my)).sum()
    };
    let size = (product(a, ma, a, ma) * product(b, mb, b, mb)).sqrt();
    if size > 0.0 {
        product(a, ma, b, mb) / size
    } else {
        0.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hits_are_shared_among_equals() {
        assert_eq!(overlap(&[3.0, 1.0, 2.0, 0.0], &[0, 2]), 1.0);
        assert_eq!(overlap(&[3.0, 1.0, 2.0, 0.0], &[0, 3]), 0.5);
        // Two of four places drawn blindly hold half of the two wanted ones.
        assert_eq!(overlap(&[1.0; 4], &[0, 3]), 0.5);
        assert_eq!(
            overlap(&[2.0, 1.0, 1.0, 1.0], &[0, 3]),
            (1.0 + 1.0 / 3.0) / 2.0
        );
    }

    #[test]
    fn pearson_by_hand() {
        assert_eq!(pearson(&[1.0, 2.0, 3.0], &[2.0, 4.0, 6.0]), 1.0);
        assert_eq!(pearson(&[1.0, 2.0], &[5.0, 5.0]), 0.0);
        assert!((pearson(&[0.0, 1.0, 1.0], &[1.0, 0.0, 1.0]) + 0.5).abs() < 1e-12);
    }
}
