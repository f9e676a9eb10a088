//! Which parts of the input did a neural network rely on?
//!
//! `saliency-core` explains any [Burn](burn) model, as a module or a closure, on any of
//! Burn's backends: the [`Device`](burn::tensor::Device) of the input decides where it runs,
//! cargo features decide which devices exist (`flex`, `ndarray`, `wgpu`, `vulkan`, `metal`,
//! `webgpu`, `cuda`, `rocm`, `remote`, each forwarded to Burn).
//!
//! ```
//! use burn::{nn::{LinearConfig, conv::Conv2dConfig}, tensor::{Device, Tensor, activation::relu}};
//! use saliency_core::{Method, Reduction, SmoothGrad, Target};
//!
//! let device = Device::flex();
//! let conv = Conv2dConfig::new([3, 8], [3, 3]).init(&device);
//! let head = LinearConfig::new(8, 10).init(&device);
//! let model = |x: Tensor<4>| {
//!     let features = relu(conv.forward(x)).mean_dims(&[2, 3]).flatten::<2>(1, 3);
//!     head.forward(features)
//! };
//!
//! let images = Tensor::<4>::ones([2, 3, 16, 16], &device);
//! let attribution = SmoothGrad::new().samples(10).explain(&model, images, Target::Predicted)?;
//! let maps = attribution.maps(Reduction::Max)?;
//! assert_eq!((maps.len(), maps[0].height(), maps[0].width()), (2, 16, 16));
//! # Ok::<(), saliency_core::Error>(())
//! ```
//!
//! - [`Model`]: what can be explained. [`Target`]: which of its outputs.
//! - [`Graph`]: a module traced into operations, for methods that look inside.
//! - [`Method`]: how. [`Gradient`], [`SmoothGrad`] of any method, [`IntegratedGradients`],
//!   [`GradCam`], [`Lrp`], [`DeepLift`], [`Occlusion`], [`Shapley`] and many more;
//!   [`Recipe::METHODS`] lists them all.
//! - [`Attribution`]: the result, signed and raw; [`Reduction`] and [`Map`] make pictures of
//!   it, [`Statistics`] describe them.
//! - Tables `[N, F]` and series `[N, T, F]`: [`Columns`] names the features, [`FeatureRanking`] sorts
//!   them, [`analysis::Importance`] sums up a whole file.
//! - [`analysis`]: comparing classes, noise, sensitivity, localisation, importance.
//! - [`Run`]: batch size, progress, cancellation.
//!
//! With the feature `flex`, graphs of convolutional networks and vision transformers run on
//! compiled plans on the CPU.
//!
//! This crate reads no files, prints nothing and keeps no global state.

pub mod analysis;
mod attribution;
mod axes;
mod baseline;
mod blur;
mod columns;
mod error;
mod features;
pub mod graph;
mod grid;
mod host;
mod least_squares;
mod map;
mod method;
mod methods;
mod model;
mod near;
pub mod noise;
mod perturb;
mod plan;
mod principal;
mod quadrature;
mod quasi;
mod ranking;
mod recipe;
mod reduce;
mod run;
mod sampling;
mod segment;
mod statistics;
mod target;
mod upsample;

pub use attribution::{Attribution, Evaluations, Evidence, Outcome};
pub use baseline::Baseline;
pub use columns::Columns;
pub use error::Error;
pub use features::{Features, Groups};
pub use graph::{Graph, GraphBuilder, Layer};
pub use grid::Upsampling;
pub use map::{Map, normalise, pearson};
pub use method::Method;
pub use methods::*;
pub use model::{Model, Probabilities};
pub use noise::{NoiseDesign, NoiseScale};
pub use quadrature::Quadrature;
pub use quasi::Design;
pub use ranking::{Contribution, FeatureRanking, Ranked};
pub use recipe::{Family, MethodInfo, Needs, Recipe};
pub use reduce::{Reduction, reduce, signed_pair};
pub use run::{BatchSize, ModeCheck, Progress, ProgressFn, Run, Stage};
pub use segment::Slic;
pub use segment::felzenszwalb::Felzenszwalb;
pub use statistics::{Reading, Statistics};
pub use target::{Goal, ResolvedTarget, ScoreFn, Target};
pub use upsample::Resize;
