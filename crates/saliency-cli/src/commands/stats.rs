use saliency_core::Statistics;
use saliency_viz::{Counts, HistogramStyle, histogram};

use crate::{
    args::{Explain, Format},
    commands::explain::{describe, each, explain, title},
    error::Error,
    files::{self, Results},
    inputs,
    model::{self, Loaded},
    report::{self, MapReport},
};

pub fn run(args: &Explain) -> Result<(), Error> {
    if args.rows.data.is_some() {
        return Err(Error::Usage(
            "stats is for images; use `saliency importance` for --data".into(),
        ));
    }
    let inputs = inputs::collect(&args.images)?;
    let recipe = model::recipe(&args.method)?;
    let loaded = Loaded::from_args(&args.model)?;
    loaded.check(&args.target)?;
    files::prepare(&args.output)?;
    let reduction = args.reduce.main();
    let (reports, failure) = each(&inputs, |input| {
        let (_, attribution) = explain(args, input, &loaded, &recipe)?;
        (0..attribution.targets.len())
            .map(|row| {
                let one = attribution.row(row)?;
                let mut found = describe(input, &loaded, &one, reduction)?;
                let class = found.explained.as_ref().map_or(0, |c| c.class);
                let stem = format!("{}-{}-{class}", input.name, files::slug(&recipe.name()));
                let mut results = Results::new(&args.output.out, &stem);
                if args.output.save.contains(&Format::Png) {
                    let map = one.maps(reduction)?.remove(0);
                    results.png("-histogram.png", &picture(map.values(), &found)?)?;
                }
                results.finish(&mut found, "-statistics.json", &args.output.save)?;
                Ok(found)
            })
            .collect::<Result<Vec<_>, Error>>()
    });
    let reports: Vec<MapReport> = reports.into_iter().flatten().collect();
    match args.output.json {
        true => report::print_json(&reports)?,
        false => reports.iter().try_for_each(|r| report::print(&text(r)))?,
    }
    failure
}

fn picture(values: &[f32], report: &MapReport) -> Result<saliency_models::photo::RgbImage, Error> {
    let s: &Statistics = &report.statistics;
    let style = HistogramStyle {
        counts: Counts::Log,
        axis: format!("saliency ({})", report.reduction),
        markers: [("mean", s.mean), ("p95", s.p95), ("p99", s.p99)]
            .map(|(name, value)| (name.to_owned(), value as f32))
            .to_vec(),
        statistics: s
            .entries()
            .map(|(name, value)| (name.to_owned(), report::number(value)))
            .to_vec(),
        ..HistogramStyle::default()
    };
    Ok(histogram(values, &title(report), &style)?)
}

fn text(report: &MapReport) -> String {
    let rows = report
        .statistics
        .entries()
        .map(|(name, value)| vec![name.to_owned(), report::number(value)]);
    let mut text = format!(
        "{}: {}\n{}",
        report.image.display(),
        title(report),
        report::table(&["statistic", "value"], rows)
    );
    for reading in &report.readings {
        text += &format!("\n- {reading}");
    }
    for file in &report.files {
        text += &format!("\nwrote {}", file.display());
    }
    text
}
