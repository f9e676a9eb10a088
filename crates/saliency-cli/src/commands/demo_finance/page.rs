use std::path::Path;

use maud::{Markup, html};
use saliency_models::{
    data::Sample,
    generated::{
        credit::{self, COLUMNS, SATURATING},
        series,
    },
    train::Trained,
};
use saliency_viz::{Bar, Grid, Swarm, Track, beeswarm, magnitudes, save_png, time_heat};

use super::{
    Found, STEPS, Study,
    measure::{CreditScore, Scores, SeriesScore},
};
use crate::{error::Error, files, page::page, report};

/// A picture beside the page, and what it shows.
pub struct Picture {
    file: String,
    caption: String,
}

/// The pictures of both halves of the page.
pub struct Pictures {
    credit: Vec<Picture>,
    series: Vec<Picture>,
}

/// Methods whose beeswarm, and whose map of one window, is drawn.
const DRAWN: [&str; 3] = ["gradient", "integrated-gradients", "kernel-shap"];

pub fn pictures(
    out: &Path,
    table: &Study,
    credit: &[CreditScore],
    sequence: &Study,
    series: &[SeriesScore],
) -> Result<Pictures, Error> {
    let mut pictures = Pictures {
        credit: Vec::new(),
        series: Vec::new(),
    };
    let truth = credit::importance();
    let picture = importance_bars("truth", &truth)?;
    save_png(&picture, out.join("credit-truth.png"))?;
    pictures.credit.push(Picture {
        file: "credit-truth.png".into(),
        caption: "the truth: standard deviation of each column's effect".into(),
    });
    for score in credit {
        let file = format!("credit-{}.png", files::slug(&score.method));
        save_png(
            &importance_bars(&score.method, &score.importance)?,
            out.join(&file),
        )?;
        pictures.credit.push(Picture {
            file,
            caption: score.method.clone(),
        });
    }
    for found in drawn(table) {
        let file = format!("credit-swarm-{}.png", files::slug(&found.name));
        let picture = beeswarm(
            &swarms(table, found),
            &found.name,
            "contribution to the log-odds",
        )?;
        save_png(&picture, out.join(&file))?;
        pictures.credit.push(Picture {
            file,
            caption: format!(
                "{}: a dot for each applicant, coloured by the column's value",
                found.name
            ),
        });
    }
    for score in series {
        let file = format!("series-{}.png", files::slug(&score.method));
        save_png(&lag_map(score)?, out.join(&file))?;
        pictures.series.push(Picture {
            file,
            caption: score.method.clone(),
        });
    }
    for found in drawn(sequence) {
        let Some((sample, explained)) = sequence.samples.iter().zip(&found.explained).next_back()
        else {
            continue;
        };
        let tracks: Vec<Track> = series::COLUMNS
            .iter()
            .enumerate()
            .map(|(column, name)| Track {
                name: (*name).into(),
                values: numbers(sample, column),
                saliency: explained
                    .attribution
                    .sources
                    .iter()
                    .map(|s| s[column] as f32)
                    .collect(),
            })
            .collect();
        let file = format!("series-window-{}.png", files::slug(&found.name));
        let title = format!("{}: {}", found.name, sample.name);
        let legend = "contribution to the log-odds of up";
        save_png(
            &saliency_viz::series(&sample.times, &tracks, &title, legend)?,
            out.join(&file),
        )?;
        pictures.series.push(Picture {
            file,
            caption: format!("{}: one window", found.name),
        });
    }
    Ok(pictures)
}

fn drawn(study: &Study) -> impl Iterator<Item = &Found> {
    study
        .found
        .iter()
        .filter(|found| DRAWN.contains(&found.name.as_str()))
}

fn importance_bars(title: &str, importance: &[f64]) -> Result<image::RgbImage, Error> {
    let total: f64 = importance.iter().sum::<f64>().max(f64::MIN_POSITIVE);
    let bars: Vec<Bar> = COLUMNS
        .iter()
        .zip(importance)
        .map(|(name, value)| Bar::new(*name, *value as f32).share((value / total) as f32))
        .collect();
    Ok(magnitudes(&bars, title, "mean |contribution|")?)
}

fn swarms(study: &Study, found: &Found) -> Vec<Swarm> {
    COLUMNS
        .iter()
        .enumerate()
        .map(|(column, name)| Swarm {
            name: (*name).into(),
            points: study
                .samples
                .iter()
                .zip(&found.explained)
                .map(|(sample, explained)| {
                    let value = explained.attribution.sources[0][column] as f32;
                    (value, sample.texts[column].parse().ok())
                })
                .collect(),
        })
        .collect()
}

/// The numbers of one column of a window.
fn numbers(sample: &Sample, column: usize) -> Vec<f32> {
    let cells = sample
        .texts
        .iter()
        .skip(column)
        .step_by(series::COLUMNS.len());
    cells.map(|cell| cell.parse().unwrap_or(0.0)).collect()
}

/// Mean |contribution| by column and by how many days before the last.
fn lag_map(score: &SeriesScore) -> Result<image::RgbImage, Error> {
    let width = score.mean.len() / STEPS;
    let names: Vec<String> = match score.value_hits {
        Some(_) => series::COLUMNS.map(String::from).to_vec(),
        None => vec!["all columns".into()],
    };
    let lags: Vec<String> = (0..STEPS).rev().map(|lag| format!("t-{lag}")).collect();
    let by_column = (0..width).flat_map(|column| score.mean.iter().skip(column).step_by(width));
    let grid = Grid::new(STEPS, width, by_column.map(|v| *v as f32).collect())?;
    Ok(time_heat(
        &grid,
        &lags,
        &names,
        &score.method,
        "mean |contribution|",
    )?)
}

const CREDIT: [&str; 7] = [
    "method",
    "rank correlation",
    "correlation in a row",
    "true columns found",
    "saturated column comes",
    "goes to copies",
    "a row takes",
];

const SERIES: [&str; 5] = [
    "method",
    "true steps found",
    "true values found",
    "mass on them",
    "a window takes",
];

fn credit_rows(scores: &Scores) -> Vec<Vec<String>> {
    let row = |s: &CreditScore| {
        let unsigned = if s.is_signed { "" } else { " (unsigned)" };
        vec![
            s.method.clone(),
            format!("{:.2}", s.rank_correlation),
            format!("{:.2}{unsigned}", s.row_correlation),
            report::percent(s.hits),
            ordinal(s.saturating_rank),
            report::percent(s.copies_share),
            report::milliseconds(s.seconds_per_row),
        ]
    };
    scores.credit.iter().map(row).collect()
}

fn series_rows(scores: &Scores) -> Vec<Vec<String>> {
    let row = |s: &SeriesScore| {
        vec![
            s.method.clone(),
            report::percent(s.step_hits),
            s.value_hits.map_or("-".into(), report::percent),
            report::percent(s.mass),
            report::milliseconds(s.seconds_per_window),
        ]
    };
    scores.series.iter().map(row).collect()
}

fn ordinal(rank: usize) -> String {
    match rank {
        1 => "1st".into(),
        2 => "2nd".into(),
        3 => "3rd".into(),
        other => format!("{other}th"),
    }
}

/// Both tables for a terminal.
pub fn tables(scores: &Scores) -> String {
    format!(
        "credit\n{}\nseries\n{}",
        report::table(&CREDIT, credit_rows(scores)),
        report::table(&SERIES, series_rows(scores))
    )
}

/// Both tables for the guide.
pub fn markdown(scores: &Scores) -> String {
    format!(
        "## Which columns matter\n\n{}\n{}\n## Which steps matter\n\n{}\n{}",
        credit_words(scores),
        report::markdown(&CREDIT, credit_rows(scores)),
        series_words(),
        report::markdown(&SERIES, series_rows(scores))
    )
}

fn credit_words(scores: &Scores) -> String {
    let first = scores.credit.first();
    let rows = first.map_or(0, |score| score.rows);
    let most = first.map_or(1.0, |score| score.rank_correlation_at_most);
    format!(
        "Mean |contribution| over {rows} unseen applicants against the true importance of the ten columns, five of which have no effect: {most:.2} is the highest rank correlation there can be. A row's contributions are correlated with its true ones. `{SATURATING}` is the most important column in truth, and its effect is flat for most applicants. Two columns are copies of others and have no effect of their own.\n"
    )
}

fn series_words() -> String {
    let values = STEPS * series::COLUMNS.len();
    format!(
        "In windows of {STEPS} days two of {values} values matter, the returns {} and {} days before the last. Drawn blindly, {} of the steps and {} of the values would be found.\n",
        series::LAGS[0],
        series::LAGS[1],
        report::percent(2.0 / STEPS as f64),
        report::percent(2.0 / values as f64)
    )
}

const STYLE: &str = "
td + td { text-align: right; font-variant-numeric: tabular-nums }
figure { margin: 0; max-width: 26rem } img { max-width: 100% } .pictures { display: flex; flex-wrap: wrap; gap: 1rem }
figcaption { font-size: .8rem } code { background: #f3f3f3; padding: 0 .2rem }";

pub fn html(table: &Study, sequence: &Study, scores: &Scores, pictures: &Pictures) -> Markup {
    let body = html! {
        h1 { "What did the model rely on?" }
        p {
            "Two models are trained on generated data whose truth is known, and explained by every method that applies. "
            "What a method finds is compared with the truth about the data; a model that has not learned the truth, "
            "or that uses one of two correlated columns for the other, costs every method points."
        }
        h2 { "Credit: which columns matter" }
        (model(&table.trained))
        p { (credit_words(scores)) }
        (grid(&CREDIT, credit_rows(scores)))
        (left_out(table))
        (gallery(&pictures.credit))
        h2 { "Series: which steps matter" }
        (model(&sequence.trained))
        p { (series_words()) }
        (grid(&SERIES, series_rows(scores)))
        (left_out(sequence))
        (gallery(&pictures.series))
    };
    page("saliency: tables and series", STYLE, &body)
}

fn model(trained: &Trained) -> Markup {
    let description = &trained.description;
    html! {
        p {
            "A model of the family " code { (description.architecture.family()) } ", trained in "
            (format!("{:.0}", trained.seconds)) " seconds on " (description.training.samples.training)
            " samples. On its test part: "
            @for (i, (name, value)) in description.test.named().into_iter().enumerate() {
                @if i > 0 { ", " }
                (name) " " (report::number(value))
            }
            "."
        }
    }
}

fn grid(header: &[&str], rows: Vec<Vec<String>>) -> Markup {
    html! {
        table {
            thead { tr { @for name in header { th { (name) } } } }
            tbody { @for row in rows { tr { @for cell in row { td { (cell) } } } } }
        }
    }
}

fn left_out(study: &Study) -> Markup {
    html! {
        @if !study.left_out.is_empty() {
            details {
                summary { (study.left_out.len()) " methods do not apply here" }
                ul { @for line in &study.left_out { li { small { (line) } } } }
            }
        }
    }
}

fn gallery(pictures: &[Picture]) -> Markup {
    html! {
        div.pictures {
            @for picture in pictures {
                figure {
                    a href=(picture.file) { img src=(picture.file) alt=(picture.caption) loading="lazy"; }
                    figcaption { (picture.caption) }
                }
            }
        }
    }
}
