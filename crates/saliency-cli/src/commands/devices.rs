use serde::Serialize;

use crate::{
    args::Listing,
    device::{self, Kind},
    error::Error,
    report,
};

#[derive(Serialize)]
struct Row {
    device: String,
    description: String,
    kind: &'static str,
    auto: bool,
}

pub fn run(args: &Listing) -> Result<(), Error> {
    let found = device::found();
    let auto = device::automatic(&found);
    let rows: Vec<Row> = found
        .into_iter()
        .enumerate()
        .map(|(index, f)| Row {
            device: f.name,
            description: f.description,
            kind: match f.kind {
                Kind::Cpu => "cpu",
                Kind::Gpu => "gpu",
                Kind::SoftwareGpu => "software adapter",
            },
            auto: Some(index) == auto,
        })
        .collect();
    if args.json {
        return report::print_json(&rows);
    }
    let cells = rows.iter().map(|r| {
        let name = match r.auto {
            true => format!("{} (auto)", r.device),
            false => r.device.clone(),
        };
        vec![name, r.kind.into(), r.description.clone()]
    });
    report::print(&report::table(&["device", "kind", "what it is"], cells))
}
