use saliency_models::fetch::{self, Options};

use crate::{args::Fetch, error::Error, progress::Bar, report};

pub fn run(args: &Fetch) -> Result<(), Error> {
    let options = Options {
        cache_dir: args.cache.clone(),
        base_url: args.mirror.clone(),
    };
    let bar = Bar::new("bytes", 0);
    let path = fetch::fetch(&args.name, &options, &mut |done, total| {
        bar.set(&args.name, done, total.unwrap_or(done));
    })?;
    drop(bar);
    report::print(&path.display().to_string())
}
