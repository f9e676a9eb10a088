//! Generated data whose truth is known: which columns, and which steps of a series, matter,
//! and by how much.

pub mod credit;
pub mod series;

use std::{io::Write, path::Path};

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::data::DataError;

/// Writes a header and rows as CSV: beside `path` first, then renamed.
fn write_csv(
    path: &Path,
    header: &[&str],
    rows: impl Iterator<Item = Vec<String>>,
) -> Result<(), DataError> {
    let fail = |source| DataError::Write {
        file: path.display().to_string(),
        source,
    };
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let file = tempfile::NamedTempFile::new_in(folder).map_err(fail)?;
    let mut out = std::io::BufWriter::new(file);
    writeln!(out, "{}", header.join(",")).map_err(fail)?;
    for row in rows {
        writeln!(out, "{}", row.join(",")).map_err(fail)?;
    }
    let file = out.into_inner().map_err(|error| fail(error.into_error()))?;
    file.persist(path).map_err(|error| fail(error.error))?;
    Ok(())
}

/// Uniform numbers of row `row`, between 0 and 1.
fn uniforms<const N: usize>(seed: u64, row: u64) -> [f64; N] {
    let mut rng = ChaCha8Rng::seed_from_u64(seed ^ 0x0075_6e69_666f_726d);
    rng.set_stream(row);
    std::array::from_fn(|_| rng.random_range(1e-12..1.0))
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}
