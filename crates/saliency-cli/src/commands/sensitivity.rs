use std::path::PathBuf;

use saliency_core::{
    NoiseScale, Recipe,
    analysis::{Sensitivity, Stability},
};
use serde::Serialize;

use crate::{
    args,
    commands::explain::each,
    device,
    error::Error,
    inputs,
    model::{self, Loaded},
    progress,
    report::{self, ClassReport},
};

#[derive(Serialize)]
struct Report {
    image: PathBuf,
    model: String,
    device: String,
    predicted: ClassReport,
    explained: Option<ClassReport>,
    recipe: Recipe,
    scale: f64,
    #[serde(flatten)]
    stability: Stability,
}

pub fn run(args: &args::Sensitivity) -> Result<(), Error> {
    let inputs = inputs::collect(&args.images)?;
    let recipe = model::recipe(&args.method)?;
    let loaded = Loaded::from_args(&args.model)?;
    let target = loaded.target(&args.target)?;
    let test = Sensitivity {
        noise: NoiseScale::Absolute(args.scale),
        seed: args.method.seed.unwrap_or(0),
        reduction: Some(args.reduce),
    };
    let (reports, failure) = each(&inputs, |input| {
        let (x, _) = loaded.prepare(&input.photo()?)?;
        let progress = progress::callback(&input.name);
        let run = loaded.run().progress(&progress);
        let found = test.run(&recipe, loaded.model(), x, &target, &run)?;
        let (predicted, explained) = ClassReport::of(&loaded, &found.clean)?;
        Ok(Report {
            image: input.path.clone(),
            model: loaded.name.clone(),
            device: device::describe(&loaded.device),
            predicted,
            explained,
            recipe: recipe.clone(),
            scale: args.scale,
            stability: found.rows[0],
        })
    });
    if args.json {
        report::print_json(&reports)?;
    } else if !reports.is_empty() {
        let rows = reports.iter().map(|r| {
            vec![
                r.image.display().to_string(),
                r.predicted.caption(),
                report::number(r.stability.mean_difference),
                report::number(r.stability.max_difference),
                format!("{:.4}", r.stability.correlation),
            ]
        });
        let header = [
            "image",
            "predicted",
            "mean |difference|",
            "max |difference|",
            "correlation",
        ];
        report::print(&format!(
            "{} under noise of {}\n{}",
            recipe.name(),
            args.scale,
            report::table(&header, rows)
        ))?;
    }
    failure
}
