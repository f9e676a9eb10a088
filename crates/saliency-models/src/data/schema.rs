use std::{collections::HashSet, path::Path};

use serde::{Deserialize, Serialize};

use super::{
    cell::{Kind, almost_number, is_missing, natural, number, time},
    csv::{Reader, Record},
    dialect::CsvOptions,
    error::{DataError, listed},
};

/// Most categories that one column may have.
pub const MOST_CATEGORIES: usize = 256;

/// What is known of the columns beforehand.
///
/// ```
/// use saliency_models::data::SchemaOptions;
/// let options = SchemaOptions { categorical: vec!["branch".into()], ..Default::default() };
/// assert!(options.numeric.is_empty() && options.absent.is_empty());
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SchemaOptions {
    /// Columns whose cells are categories, even if they look like numbers.
    pub categorical: Vec<String>,
    /// Columns whose cells are numbers.
    pub numeric: Vec<String>,
    /// Texts that mean that there is no value, beside the empty cell, such as `-999`.
    pub absent: Vec<String>,
}

/// One column of a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Column {
    /// Its name.
    pub name: String,
    /// What its cells are.
    pub kind: Kind,
    /// Its categories, numbers before text; none where it is not categorical.
    pub categories: Vec<String>,
    /// Different texts in its cells; counted no further than one above [`MOST_CATEGORIES`].
    pub distinct: usize,
    /// Empty cells.
    pub missing: u64,
    /// Whether it counts the rows, as an identifier does.
    pub counts_rows: bool,
    /// How many rows at the end of the file are exactly zero, where not all are.
    pub zeros_at_end: u64,
}

/// The columns of a file and what they hold.
///
/// A column is a time where every cell is an ISO date, numeric where more than half of its
/// cells are numbers (text in it is then refused), else categorical. Amounts such as `1,5`,
/// `$7` and `12 %` count as numbers here, so that they are refused rather than taken for
/// categories.
///
/// ```
/// use saliency_models::data::{CsvOptions, Kind, Schema, SchemaOptions};
/// let folder = tempfile::tempdir()?;
/// let path = folder.path().join("prices.csv");
/// std::fs::write(&path, "day,price,side\n2020-01-02,1.5,buy\n2020-01-03,1.75,sell\n")?;
///
/// let schema = Schema::infer(&path, &CsvOptions::default(), &SchemaOptions::default())?;
/// let kinds: Vec<Kind> = schema.columns.iter().map(|c| c.kind).collect();
/// assert_eq!(kinds, [Kind::Time, Kind::Numeric, Kind::Categorical]);
/// assert_eq!(schema.columns[2].categories, ["buy", "sell"]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Schema {
    /// All columns in the order of the file.
    pub columns: Vec<Column>,
    /// Rows of data.
    pub rows: u64,
    /// Texts that mean that there is no value.
    pub absent: Vec<String>,
}

impl Schema {
    /// Reads the file once, row by row.
    ///
    /// # Errors
    /// [`DataError`] for a file that cannot be read, has no rows, or lacks a column that the
    /// options name.
    pub fn infer(
        path: impl AsRef<Path>,
        csv: &CsvOptions,
        options: &SchemaOptions,
    ) -> Result<Self, DataError> {
        let mut reader = Reader::open(path, csv)?;
        for name in options.categorical.iter().chain(&options.numeric) {
            reader.column(name)?;
        }
        if let Some(both) = options
            .categorical
            .iter()
            .find(|name| options.numeric.contains(name))
        {
            return Err(DataError::Options(format!(
                "column {both:?} cannot be both categorical and numeric"
            )));
        }
        let mut seen: Vec<Seen> = reader.columns().iter().map(|_| Seen::default()).collect();
        let mut record = Record::default();
        while reader.read(&mut record)? {
            for (seen, text) in seen.iter_mut().zip(record.cells()) {
                seen.add(text, record.row(), &options.absent);
            }
        }
        if record.row() == 0 {
            return Err(DataError::file(reader.file(), "has a header and no rows"));
        }
        let columns = reader.columns().iter().zip(seen);
        let columns = columns.map(|(name, seen)| seen.column(name, options));
        Ok(Schema {
            columns: columns.collect(),
            rows: record.row(),
            absent: options.absent.clone(),
        })
    }

    /// The column called `name`, which must be there.
    pub(crate) fn column(&self, name: &str) -> &Column {
        let found = self.columns.iter().find(|column| column.name == name);
        found.expect("the reader has found it before")
    }

    /// Names of all columns.
    pub fn names(&self) -> Vec<String> {
        self.columns
            .iter()
            .map(|column| column.name.clone())
            .collect()
    }
}

impl Column {
    /// Fails where a model cannot take the column.
    pub(crate) fn check(&self, file: &str) -> Result<(), DataError> {
        let name = &self.name;
        match self.kind {
            Kind::Categorical if self.categories.is_empty() => Err(DataError::file(
                file,
                format!("column {name:?} has no values; leave it out with --drop {name}"),
            )),
            Kind::Categorical if self.categories.len() > MOST_CATEGORIES => Err(DataError::file(
                file,
                format!(
                    "column {name:?} has more than {MOST_CATEGORIES} different texts ({}, ...); leave it out with --drop {name}",
                    listed(&self.categories[..3])
                ),
            )),
            _ => Ok(()),
        }
    }
}

/// What the cells of a column have been so far.
struct Seen {
    cells: u64,
    numbers: u64,
    times: u64,
    /// Empty as categories, and as numbers.
    missing: [u64; 2],
    categories: HashSet<String>,
    counts_rows: bool,
    offset: f64,
    zeros: u64,
    nonzero: bool,
}

impl Default for Seen {
    fn default() -> Self {
        Seen {
            cells: 0,
            numbers: 0,
            times: 0,
            missing: [0; 2],
            categories: HashSet::new(),
            counts_rows: true,
            offset: 0.0,
            zeros: 0,
            nonzero: false,
        }
    }
}

impl Seen {
    fn add(&mut self, text: &str, row: u64, absent: &[String]) {
        let empty = is_missing(Kind::Categorical, text, absent);
        let no_number = is_missing(Kind::Numeric, text, absent);
        self.missing[0] += u64::from(empty);
        self.missing[1] += u64::from(no_number);
        if !empty && self.categories.len() <= MOST_CATEGORIES && !self.categories.contains(text) {
            self.categories.insert(text.to_owned());
        }
        if no_number {
            self.counts_rows = false;
            return;
        }
        self.cells += 1;
        let value = number(text);
        self.numbers += u64::from(value.is_some() || almost_number(text).is_some());
        self.times += u64::from(value.is_none() && time(text).is_some());
        let value = value.unwrap_or(f64::NAN);
        if row == 1 {
            self.offset = value - 1.0;
        }
        self.counts_rows &= value == row as f64 + self.offset;
        self.nonzero |= value != 0.0;
        self.zeros = if value == 0.0 { self.zeros + 1 } else { 0 };
    }

    fn column(self, name: &str, options: &SchemaOptions) -> Column {
        let is_in = |names: &[String]| names.iter().any(|other| other == name);
        let kind = if is_in(&options.categorical) {
            Kind::Categorical
        } else if is_in(&options.numeric) || 2 * self.numbers > self.cells {
            Kind::Numeric
        } else if self.cells > 0 && self.times == self.cells {
            Kind::Time
        } else {
            Kind::Categorical
        };
        let is_numeric = kind == Kind::Numeric;
        let distinct = self.categories.len();
        let mut categories: Vec<String> = match kind {
            Kind::Categorical => self.categories.into_iter().collect(),
            _ => Vec::new(),
        };
        categories.sort_by(|a, b| natural(a, b));
        Column {
            name: name.into(),
            kind,
            categories,
            distinct,
            missing: self.missing[usize::from(is_numeric)],
            counts_rows: is_numeric && self.counts_rows && self.cells > 2,
            zeros_at_end: if is_numeric && self.nonzero {
                self.zeros
            } else {
                0
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn infer(content: &str, options: &SchemaOptions) -> Result<Schema, DataError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rows.csv");
        std::fs::write(&path, content).unwrap();
        Schema::infer(&path, &CsvOptions::default(), options)
    }

    #[test]
    fn kinds_follow_from_the_cells() {
        let text = "id,when,x,code,mixed,none\n\
                    7,2020-01,1.5,A1,1,\n8,2020-02,NA,7,2,\n9,2020-03,0,B,x,\n10,2020-04,0,A1,4,\n";
        let schema = infer(text, &SchemaOptions::default()).unwrap();
        let kinds: Vec<Kind> = schema.columns.iter().map(|c| c.kind).collect();
        use Kind::*;
        assert_eq!(
            kinds,
            [Numeric, Time, Numeric, Categorical, Numeric, Categorical]
        );
        let x = schema.column("x");
        assert_eq!((x.missing, x.zeros_at_end, x.counts_rows), (1, 2, false));
        assert!(schema.column("id").counts_rows);
        assert_eq!(schema.column("code").categories, ["7", "A1", "B"]);
        assert_eq!(schema.rows, 4);
        let error = schema.column("none").check("rows.csv").unwrap_err();
        assert!(error.to_string().contains("has no values"));
    }

    #[test]
    fn amounts_are_no_categories() {
        let text = "a;b;c\n1,5;$7;1,234\n2,5;€9;5,678\n";
        let schema = infer(text, &SchemaOptions::default()).unwrap();
        assert!(schema.columns.iter().all(|c| c.kind == Kind::Numeric));
        let options = SchemaOptions {
            categorical: vec!["a".into()],
            ..SchemaOptions::default()
        };
        let schema = infer(text, &options).unwrap();
        assert_eq!(schema.column("a").categories, ["1,5", "2,5"]);
    }

    #[test]
    fn options_decide() {
        let options = SchemaOptions {
            categorical: vec!["a".into()],
            absent: vec!["0".into()],
            ..SchemaOptions::default()
        };
        let schema = infer("a,b\n10,1\n9,0.0\n10,3\n", &options).unwrap();
        assert_eq!(schema.column("a").categories, ["9", "10"]);
        assert_eq!(schema.column("b").missing, 1);
        let options = SchemaOptions {
            numeric: vec!["c".into()],
            ..SchemaOptions::default()
        };
        assert!(matches!(
            infer("a,b\n1,2\n", &options),
            Err(DataError::NoColumn { .. })
        ));
        assert!(
            infer("a,b\n", &SchemaOptions::default())
                .unwrap_err()
                .to_string()
                .contains("no rows")
        );
    }

    #[test]
    fn a_column_of_names_is_refused() {
        let mut text = String::from("name,x\n");
        for i in 0..300 {
            text += &format!("n{i},{i}\n");
        }
        let schema = infer(&text, &SchemaOptions::default()).unwrap();
        let error = schema
            .column("name")
            .check("rows.csv")
            .unwrap_err()
            .to_string();
        assert!(error.contains("--drop name"), "{error}");
    }
}
