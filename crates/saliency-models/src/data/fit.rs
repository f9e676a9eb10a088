use std::path::Path;

use super::{
    cell::{Cell, Kind, Missing, parse},
    csv::{Reader, Record},
    dialect::CsvOptions,
    encoder::{ColumnEncoder, Encoder, Scale, empty},
    error::DataError,
    schema::Schema,
};

/// An encoder and what was seen while it was fitted.
#[derive(Clone, Debug, PartialEq)]
pub struct Fitted {
    /// The encoder.
    pub encoder: Encoder,
    /// Rows that means, deviations and shares were taken of.
    pub rows: u64,
    /// Rows of the whole file with an empty cell in one of the columns.
    pub incomplete: u64,
    /// Numeric columns that have one value in all training rows.
    pub constant: Vec<String>,
}

/// Fits an encoder of `columns` on the rows for which `is_training` holds. Categories are
/// those of the whole file, their shares those of the training rows.
///
/// ```
/// use saliency_models::data::{CsvOptions, Missing, Scale, Schema, fit};
/// let folder = tempfile::tempdir()?;
/// let path = folder.path().join("rows.csv");
/// std::fs::write(&path, "x,side\n1,buy\n3,sell\n100,buy\n")?;
/// let csv = CsvOptions::default();
/// let schema = Schema::infer(&path, &csv, &Default::default())?;
///
/// let fitted = fit(&path, &csv, &schema, &schema.names(), Missing::Error, |row| row <= 2)?;
/// let scales: Vec<&Scale> = fitted.encoder.columns().iter().map(|c| &c.scale).collect();
/// assert_eq!(scales[0], &Scale::Standard { mean: 2.0, std: 1.0 });
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// [`DataError`] for cells that cannot be read, in any row.
pub fn fit(
    path: impl AsRef<Path>,
    csv: &CsvOptions,
    schema: &Schema,
    columns: &[String],
    missing: Missing,
    is_training: impl Fn(u64) -> bool,
) -> Result<Fitted, DataError> {
    let mut reader = Reader::open(path, csv)?;
    let mut parts = Vec::with_capacity(columns.len());
    for name in columns {
        let position = reader.column(name)?;
        let column = schema.column(name);
        column.check(reader.file())?;
        parts.push(Part {
            name,
            kind: column.kind,
            position,
            categories: &column.categories,
            counts: vec![0; column.categories.len()],
            moments: Moments::default(),
        });
    }
    if let Some(part) = parts.iter().find(|part| part.kind == Kind::Time) {
        return Err(DataError::Options(format!(
            "column {:?} holds times, which are no feature; leave it out",
            part.name
        )));
    }
    let (mut rows, mut incomplete) = (0, 0);
    let mut record = Record::default();
    let mut cells: Vec<Option<f64>> = vec![None; parts.len()];
    while reader.read(&mut record)? {
        for (part, value) in parts.iter().zip(&mut cells) {
            *value = part
                .read(&record, &schema.absent, missing)
                .map_err(|reason| {
                    DataError::cell(reader.file(), record.place(), part.name, reason)
                })?;
        }
        let is_complete = cells.iter().all(Option::is_some);
        incomplete += u64::from(!is_complete);
        if !is_training(record.row()) || (missing == Missing::Drop && !is_complete) {
            continue;
        }
        rows += 1;
        for (part, value) in parts.iter_mut().zip(&cells) {
            part.add(*value);
        }
    }
    let constant = parts
        .iter()
        .filter(|part| part.kind == Kind::Numeric && part.moments.std() == 0.0)
        .map(|part| part.name.clone())
        .collect();
    let columns = parts.into_iter().map(Part::finish).collect();
    Ok(Fitted {
        encoder: Encoder::new(columns, missing, schema.absent.clone()),
        rows,
        incomplete,
        constant,
    })
}

/// One column while it is fitted.
struct Part<'a> {
    name: &'a String,
    kind: Kind,
    position: usize,
    categories: &'a [String],
    counts: Vec<u64>,
    moments: Moments,
}

impl Part<'_> {
    /// The number, or the category's; `None` for an empty cell.
    fn read(
        &self,
        record: &Record,
        absent: &[String],
        missing: Missing,
    ) -> Result<Option<f64>, String> {
        let text = record.get(self.position);
        match parse(self.kind, text, absent)? {
            Cell::Missing if missing == Missing::Error => Err(empty(text)),
            Cell::Missing => Ok(None),
            Cell::Number(value) => Ok(Some(value)),
            Cell::Text(text) => {
                let own = self.categories.iter().position(|known| known == text);
                Ok(own.map(|own| own as f64))
            }
        }
    }

    fn add(&mut self, value: Option<f64>) {
        match (self.kind, value) {
            (_, None) => {}
            (Kind::Categorical, Some(own)) => self.counts[own as usize] += 1,
            (_, Some(value)) => self.moments.add(value),
        }
    }

    fn finish(self) -> ColumnEncoder {
        let scale = match self.kind {
            Kind::Categorical => {
                let all = self.counts.iter().sum::<u64>().max(1);
                Scale::OneHot {
                    categories: self.categories.to_vec(),
                    shares: self.counts.iter().map(|n| *n as f64 / all as f64).collect(),
                }
            }
            _ => Scale::Standard {
                mean: self.moments.mean,
                std: match self.moments.std() {
                    0.0 => 1.0,
                    std => std,
                },
            },
        };
        ColumnEncoder {
            name: self.name.clone(),
            scale,
        }
    }
}

/// Welford's running mean and variance.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Moments {
    count: u64,
    pub(crate) mean: f64,
    squares: f64,
}

impl Moments {
    pub(crate) fn add(&mut self, value: f64) {
        self.count += 1;
        let before = value - self.mean;
        self.mean += before / self.count as f64;
        self.squares += before * (value - self.mean);
    }

    /// Population standard deviation.
    pub(crate) fn std(&self) -> f64 {
        (self.squares / self.count.max(1) as f64).sqrt()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "x,k,y\n1,a,5\n2,b,5\n3,,5\n,a,5\n90,c,9\n";

    fn fitted(missing: Missing) -> Result<Fitted, DataError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rows.csv");
        std::fs::write(&path, TEXT).unwrap();
        let csv = CsvOptions::default();
        let schema = Schema::infer(&path, &csv, &Default::default()).unwrap();
        fit(&path, &csv, &schema, &schema.names(), missing, |row| {
            row < 5
        })
    }

    #[test]
    fn only_training_rows_count() {
        let dropped = fitted(Missing::Drop).unwrap();
        assert_eq!((dropped.rows, dropped.incomplete), (2, 2));
        assert_eq!(dropped.constant, ["y"]);
        let scales: Vec<Scale> = dropped
            .encoder
            .columns()
            .iter()
            .map(|c| c.scale.clone())
            .collect();
        assert_eq!(
            scales[0],
            Scale::Standard {
                mean: 1.5,
                std: 0.5
            }
        );
        assert_eq!(
            scales[1],
            Scale::OneHot {
                categories: ["a", "b", "c"].map(String::from).to_vec(),
                shares: vec![0.5, 0.5, 0.0],
            }
        );
        assert_eq!(
            scales[2],
            Scale::Standard {
                mean: 5.0,
                std: 1.0
            }
        );
        let filled = fitted(Missing::Mean).unwrap();
        assert_eq!(filled.rows, 4);
        let Scale::Standard { mean, std } = filled.encoder.columns()[0].scale else {
            panic!("x is numeric")
        };
        assert!((mean - 2.0).abs() < 1e-12 && (std - (2f64 / 3.0).sqrt()).abs() < 1e-12);
        let error = fitted(Missing::Error).unwrap_err().to_string();
        assert!(
            error.contains("row 3 (line 4), column \"k\": is empty"),
            "{error}"
        );
    }
}
