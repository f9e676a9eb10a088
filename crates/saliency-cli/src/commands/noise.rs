use std::path::PathBuf;

use saliency_core::{SmoothGrad, analysis::noise_study};
use saliency_viz::{Cell, Style, gallery};
use serde::Serialize;

use crate::{
    args::{Format, Noise},
    commands::compare::one,
    device,
    error::Error,
    files::{self, Results},
    model::Loaded,
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
    roughness: f64,
    levels: Vec<Level>,
    files: Vec<PathBuf>,
}

#[derive(Serialize)]
struct Level {
    level: f64,
    noisy_correlation: f64,
    smooth_repeatability: f64,
    smooth_roughness: f64,
}

impl files::Listing for Report {
    fn set_files(&mut self, files: Vec<PathBuf>) {
        self.files = files;
    }
}

pub fn run(args: &Noise) -> Result<(), Error> {
    let input = one(&args.image)?;
    let loaded = Loaded::from_args(&args.model)?;
    let target = loaded.target(&args.target)?;
    files::prepare(&args.output)?;
    let (x, view) = loaded.prepare(&input.photo()?)?;
    let smooth = SmoothGrad::new().samples(args.samples).seed(args.seed);
    let progress = progress::callback(&input.name);
    let run = loaded.run().progress(&progress);
    let study = noise_study(
        &smooth,
        loaded.model(),
        x,
        &target,
        &args.levels,
        args.reduce,
        &run,
    )?;
    let (predicted, explained) = ClassReport::of(&loaded, &study.attribution)?;
    let mut result = Report {
        image: input.path.clone(),
        model: loaded.name.clone(),
        device: device::describe(&loaded.device),
        predicted,
        explained,
        roughness: study.roughness,
        levels: study
            .levels
            .iter()
            .map(|l| Level {
                level: l.level,
                noisy_correlation: l.noisy_correlation,
                smooth_repeatability: l.smooth_repeatability,
                smooth_roughness: l.smooth_roughness,
            })
            .collect(),
        files: Vec::new(),
    };
    let mut results = Results::new(&args.output.out, &input.name);
    if args.output.save.contains(&Format::Png) {
        let mut items = vec![("gradient, no noise".to_owned(), report::grid(&study.clean)?)];
        for level in &study.levels {
            let name = report::percent(level.level);
            items.push((
                format!("gradient, noise {name}"),
                report::grid(&level.noisy)?,
            ));
            items.push((format!("SmoothGrad, {name}"), report::grid(&level.smooth)?));
        }
        let title = format!("Noise: single gradients and averages of {}", args.samples);
        let picture = gallery(&view, &items, &title, Cell::Heatmap, &Style::default())?;
        results.png("-noise.png", &picture)?;
    }
    results.finish(&mut result, "-noise.json", &args.output.save)?;
    if args.output.json {
        return report::print_json(&result);
    }
    let rows = result.levels.iter().map(|l| {
        vec![
            report::percent(l.level),
            format!("{:.3}", l.noisy_correlation),
            format!("{:.3}", l.smooth_repeatability),
            format!("{:.4}", l.smooth_roughness),
        ]
    });
    let header = [
        "noise",
        "one noisy gradient ~ clean one",
        "SmoothGrad ~ SmoothGrad of another seed",
        "roughness of SmoothGrad",
    ];
    report::print(&format!(
        "predicted {}\n{}\nroughness of the plain gradient {:.4}",
        result.predicted.caption(),
        report::table(&header, rows),
        result.roughness
    ))?;
    for file in &result.files {
        report::print(&format!("wrote {}", file.display()))?;
    }
    Ok(())
}
