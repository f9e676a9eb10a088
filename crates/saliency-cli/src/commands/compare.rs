use std::path::PathBuf;

use saliency_core::{
    Recipe, Reduction,
    analysis::{Classes, compare_classes, correlations},
};
use saliency_viz::{Style, comparison};
use serde::Serialize;

use crate::{
    args::{Compare, Format},
    error::Error,
    files::{self, Results},
    inputs::{self, Input},
    model::{self, Loaded},
    progress,
    report::{self, ClassReport},
};

#[derive(Serialize)]
struct Report {
    image: PathBuf,
    model: String,
    recipe: Recipe,
    reduction: Reduction,
    classes: Vec<ClassReport>,
    scores: Vec<f64>,
    /// Pearson's correlation of every class's map with every other's.
    correlations: Vec<Vec<f64>>,
    mean_correlation: Option<f64>,
    files: Vec<PathBuf>,
}

impl files::Listing for Report {
    fn set_files(&mut self, files: Vec<PathBuf>) {
        self.files = files;
    }
}

pub fn run(args: &Compare) -> Result<(), Error> {
    let input = one(&args.image)?;
    let recipe = model::recipe(&args.method)?;
    let loaded = Loaded::from_args(&args.model)?;
    let classes = classes(&args.classes, &loaded)?;
    files::prepare(&args.output)?;
    let (x, view) = loaded.prepare(&input.photo()?)?;
    let progress = progress::callback(&input.name);
    let run = loaded.run().progress(&progress);
    let found = compare_classes(&recipe, loaded.model(), x, &classes, &run)?;
    let maps = found.attribution.maps(args.reduce)?;
    let matrix = correlations(&maps)?;
    let labels: Vec<ClassReport> = found.classes[0]
        .iter()
        .zip(&found.probabilities[0])
        .map(|(&class, &probability)| ClassReport {
            class,
            label: loaded.label(class),
            probability,
        })
        .collect();

    let stem = format!("{}-{}", input.name, files::slug(&recipe.name()));
    let mut results = Results::new(&args.output.out, &stem);
    if args.output.save.contains(&Format::Png) {
        let items = labels
            .iter()
            .zip(&maps)
            .map(|(label, map)| Ok((label.caption(), report::grid(map)?)))
            .collect::<Result<Vec<_>, Error>>()?;
        let title = format!("{} by class", recipe.name());
        let picture = comparison(&view, &items, &title, &Style::default())?;
        results.png("-classes.png", &picture)?;
    }
    let mut result = Report {
        image: input.path,
        model: loaded.name.clone(),
        recipe,
        reduction: args.reduce,
        mean_correlation: off_diagonal_mean(&matrix),
        correlations: matrix,
        scores: found.attribution.scores,
        classes: labels,
        files: Vec::new(),
    };
    results.finish(&mut result, "-classes.json", &args.output.save)?;
    match args.output.json {
        true => report::print_json(&result),
        false => report::print(&text(&result)),
    }
}

/// The single input of a command that takes one.
pub fn one(path: &std::path::Path) -> Result<Input, Error> {
    if path.is_dir() {
        return Err(Error::file(
            path,
            "is a folder; this command takes one image",
        ));
    }
    Ok(inputs::collect(&[path.to_owned()])?.remove(0))
}

fn classes(text: &str, loaded: &Loaded) -> Result<Classes, Error> {
    match text.trim().strip_prefix("top:") {
        Some(k) => match k.parse() {
            Ok(k) => Ok(Classes::Top(k)),
            Err(_) => Err(Error::Usage(format!(
                "--classes top:{k} needs a number, such as top:5"
            ))),
        },
        None => text
            .split(',')
            .map(|name| loaded.class(name))
            .collect::<Result<_, _>>()
            .map(Classes::List),
    }
}

fn off_diagonal_mean(matrix: &[Vec<f64>]) -> Option<f64> {
    let n = matrix.len();
    let total: f64 = matrix.iter().flatten().sum::<f64>() - n as f64;
    (n > 1).then(|| total / (n * (n - 1)) as f64)
}

fn text(result: &Report) -> String {
    let classes = report::table(
        &["class", "label", "probability", "score"],
        result.classes.iter().zip(&result.scores).map(|(c, score)| {
            vec![
                c.class.to_string(),
                c.label.clone(),
                report::percent(c.probability),
                report::number(*score),
            ]
        }),
    );
    let header: Vec<&str> = std::iter::once("correlation")
        .chain(result.classes.iter().map(|c| c.label.as_str()))
        .collect();
    let rows = result
        .classes
        .iter()
        .zip(&result.correlations)
        .map(|(c, row)| {
            let values = row.iter().map(|v| format!("{v:.3}"));
            std::iter::once(c.label.clone()).chain(values).collect()
        });
    let mut text = format!("{classes}\n{}", report::table(&header, rows));
    if let Some(mean) = result.mean_correlation {
        let verdict = match mean {
            m if m > 0.9 => "the maps hardly tell the classes apart",
            m if m > 0.5 => "the maps share much of what they show",
            _ => "the maps tell the classes apart",
        };
        text += &format!("\nmean correlation between classes {mean:.3}: {verdict}");
    }
    for file in &result.files {
        text += &format!("\nwrote {}", file.display());
    }
    text
}
