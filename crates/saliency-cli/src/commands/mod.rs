//! One file per subcommand; each has a `run`.

pub mod compare;
pub mod completions;
pub mod demo;
pub mod demo_finance;
pub mod devices;
pub mod explain;
pub mod explain_rows;
pub mod fetch;
pub mod importance;
pub mod layers;
pub mod methods;
pub mod models;
pub mod noise;
pub mod profile;
pub mod sensitivity;
pub mod stats;
pub mod train;
pub mod train_demo;
