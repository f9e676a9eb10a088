use saliency_core::{Family, Needs, Recipe};
use serde::Serialize;

use crate::{args::Methods, error::Error, report};

#[derive(Serialize)]
struct Row {
    name: &'static str,
    family: Family,
    needs: Needs,
    summary: &'static str,
    recipe: Recipe,
}

pub fn run(args: &Methods) -> Result<(), Error> {
    if let Some(name) = &args.name {
        return one(&Recipe::named(name)?, args.json);
    }
    let rows = Recipe::METHODS
        .iter()
        .map(|m| {
            Ok(Row {
                name: m.name,
                family: m.family,
                needs: m.needs,
                summary: m.summary,
                recipe: Recipe::named(m.name)?,
            })
        })
        .collect::<Result<Vec<_>, Error>>()?;
    if args.json {
        return report::print_json(&rows);
    }
    let cells = rows.iter().map(|r| {
        vec![
            r.name.into(),
            report::label(r.family),
            report::label(r.needs),
            r.summary.into(),
        ]
    });
    let header = ["method", "family", "needs", "what it is"];
    report::print(&report::table(&header, cells))
}

/// The options of one method.
fn one(recipe: &Recipe, json: bool) -> Result<(), Error> {
    if json {
        return report::print_json(recipe);
    }
    if let Some(info) = recipe.info() {
        report::print(&format!("{}: {}", recipe.name(), info.summary))?;
    }
    let options = recipe.options();
    if options.is_empty() {
        return report::print("it has no options");
    }
    let cells = options
        .into_iter()
        .map(|(name, value)| vec![name, value.to_string()]);
    report::print(&report::table(&["option", "default"], cells))
}
