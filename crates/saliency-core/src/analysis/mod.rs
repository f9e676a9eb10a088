//! Questions asked of a model's maps: do they tell classes apart, do they survive noise, do
//! they fall on the object, do they depend on what the model has learnt, what do they come to
//! over a whole file?

mod classes;
mod importance;
mod localisation;
mod noise_study;
mod reservoir;
mod sanity;
mod sensitivity;

pub use classes::{Classes, Comparison, compare_classes, correlations};
pub use importance::{Estimate, FeatureImportance, GroupedImportance, Importance};
pub use localisation::{Localisation, localisation};
pub use noise_study::{NoiseLevel, NoiseStudy, noise_study};
pub use reservoir::Reservoir;
pub use sanity::{
    Randomised, Sanity, SanityOutcome, SanityStep, Similarity, spearman, structural_similarity,
};
pub use sensitivity::{Sensitivity, SensitivityOutcome, Stability};
