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
    // `auto` takes the first real GPU of wgpu, else the CPU.
    let gpu = found
        .iter()
        .position(|f| f.kind == Kind::Gpu && f.name.starts_with("wgpu"));
    let auto = gpu.unwrap_or(0);
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
            auto: index == auto,
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
