//! Networks to explain, as Burn modules, and all that goes with them: published weights,
//! preprocessing, labels, and a small trained demo model whose scenes have known ground
//! truth.

pub mod cifar_resnet;
pub mod config;
pub mod data;
pub mod demo;
#[cfg(feature = "fetch")]
pub mod fetch;
pub mod generated;
pub mod labels;
pub mod photo;
pub mod predictor;
pub mod preprocess;
pub mod resnet;
pub mod saved;
pub mod scenes;
pub mod sequence;
pub mod squeezenet;
pub mod tabular;
pub mod train;
pub mod weights;
pub mod zoo;

/// What lies at `path` in the folder of test material, `$SALIENCY_DATA` or `shared/data` beside the
/// checkout.
#[cfg(test)]
fn material(path: &str) -> Option<std::path::PathBuf> {
    let beside = concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared/data");
    let folder = std::env::var_os("SALIENCY_DATA").unwrap_or_else(|| beside.into());
    let found = std::path::Path::new(&folder).join(path);
    if !found.exists() {
        println!("skipped: there is no {}", found.display());
        return None;
    }
    Some(found)
}
