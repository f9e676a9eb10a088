//! Rows and time series from CSV files: reading, kinds of columns, scaling and one-hot
//! encoding, windows over time.
//!
//! Everything here goes through a file row by row, so memory does not grow with it. Rows are
//! numbered from 1 everywhere, the header not counted.

mod cell;
mod csv;
mod dialect;
mod encoder;
mod encoding;
mod error;
mod fit;
mod layout;
mod rows;
mod samples;
mod schema;
mod split;

pub use cell::{Kind, Missing};
pub use csv::{Reader, Record};
pub use dialect::{CsvOptions, Delimiter};
pub use encoder::{ColumnEncoder, Encoder, Feature, Scale};
pub use encoding::Encoding;
pub use error::{DataError, Place};
pub use fit::{Fitted, fit};
pub use layout::{Layout, Quantity, Task, Window};
pub use samples::{Sample, Samples};
pub use schema::{Column, MOST_CATEGORIES, Schema, SchemaOptions};

pub(crate) use cell::date;
pub(crate) use error::listed;
pub(crate) use fit::Moments;
pub(crate) use rows::{Row, Strictness};
