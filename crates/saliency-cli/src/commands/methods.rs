use saliency_core::Recipe;
use serde::Serialize;

use crate::{args::Listing, error::Error, report};

#[derive(Serialize)]
struct Row {
    name: &'static str,
    summary: &'static str,
    recipe: Recipe,
}

pub fn run(args: &Listing) -> Result<(), Error> {
    let rows = Recipe::METHODS
        .into_iter()
        .map(|m| {
            Ok(Row {
                name: m.name,
                summary: m.summary,
                recipe: Recipe::named(m.name)?,
            })
        })
        .collect::<Result<Vec<_>, Error>>()?;
    if args.json {
        return report::print_json(&rows);
    }
    let cells = rows.iter().map(|r| vec![r.name.into(), r.summary.into()]);
    report::print(&report::table(&["method", "what it is"], cells))
}
