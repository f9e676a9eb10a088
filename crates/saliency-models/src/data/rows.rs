use std::path::Path;

use super::{
    cell::{Cell, Kind, Missing, number, parse, time},
    csv::{Reader, Record},
    dialect::CsvOptions,
    encoder::empty,
    error::{DataError, listed, shown},
    layout::{Layout, Task},
};

/// What a target that cannot be read means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Strictness {
    /// There is none: to explain a model, it is not needed.
    Lenient,
    /// An error, or a row left out, as the policy for empty cells says: for training.
    Strict,
}

/// One encoded row.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    pub(crate) row: u64,
    /// Rises where rows have been left out in between.
    pub(crate) segment: u64,
    /// Its time, or its number.
    pub(crate) time: String,
    pub(crate) values: Vec<f32>,
    /// The cells of the encoder's columns as they are in the file.
    pub(crate) texts: Vec<String>,
    /// The class's number, or the value.
    pub(crate) target: Option<f64>,
}

/// The encoded rows of a file, one after the other.
#[derive(Debug)]
pub(crate) struct Rows {
    reader: Reader,
    layout: Layout,
    strictness: Strictness,
    positions: Vec<usize>,
    target: Option<usize>,
    time: Option<usize>,
    latest: Option<(f64, String)>,
    record: Record,
    segment: u64,
    dropped: u64,
    ended: bool,
}

impl Rows {
    pub(super) fn open(
        layout: &Layout,
        path: &Path,
        csv: &CsvOptions,
        strictness: Strictness,
    ) -> Result<Self, DataError> {
        let reader = Reader::open(path, csv)?;
        let columns = layout.encoder.columns().iter();
        let positions = columns
            .map(|c| reader.column(&c.name))
            .collect::<Result<_, _>>()?;
        let target = match (reader.column(&layout.target), strictness) {
            (Ok(position), _) => Some(position),
            (Err(_), Strictness::Lenient) => None,
            (Err(error), Strictness::Strict) => return Err(error),
        };
        let time = layout
            .window
            .as_ref()
            .and_then(|window| window.time.as_ref());
        let time = time.map(|name| reader.column(name)).transpose()?;
        Ok(Rows {
            reader,
            layout: layout.clone(),
            strictness,
            positions,
            target,
            time,
            latest: None,
            record: Record::default(),
            segment: 0,
            dropped: 0,
            ended: false,
        })
    }

    /// Rows that were left out because of an empty cell.
    pub(crate) fn dropped(&self) -> u64 {
        self.dropped
    }

    pub(crate) fn reader(&self) -> &Reader {
        &self.reader
    }

    fn read(&mut self) -> Result<Option<Row>, DataError> {
        loop {
            if !self.reader.read(&mut self.record)? {
                return Ok(None);
            }
            let time = self.order()?;
            let mut values = Vec::with_capacity(self.layout.encoder.width());
            let encoder = &self.layout.encoder;
            let file = self.reader.file();
            if encoder.encode(file, &self.record, &self.positions, &mut values)? {
                return Ok(Some(Row {
                    row: self.record.row(),
                    segment: self.segment,
                    time,
                    values,
                    texts: self
                        .positions
                        .iter()
                        .map(|p| self.record.get(*p).to_owned())
                        .collect(),
                    target: self.read_target()?,
                }));
            }
            self.dropped += 1;
            self.segment += 1;
        }
    }

    /// The row's time, which must come after that of the row before.
    fn order(&mut self) -> Result<String, DataError> {
        let Some(position) = self.time else {
            return Ok(self.record.row().to_string());
        };
        let text = self.record.get(position);
        let fault = |reason: String| {
            let name = &self.reader.columns()[position];
            Err(DataError::cell(
                self.reader.file(),
                self.record.place(),
                name,
                reason,
            ))
        };
        let Some(at) = time(text).or_else(|| number(text).filter(|n| n.is_finite())) else {
            return fault(format!(
                "{} is neither an ISO date such as 2020-04-30 nor a number",
                shown(text)
            ));
        };
        match &self.latest {
            Some((latest, before)) if at == *latest => fault(format!(
                "{text} comes twice (the row before has {before}); a series has one row for each time"
            )),
            Some((latest, before)) if at < *latest => fault(format!(
                "{text} comes after {before}; sort the file by this column"
            )),
            _ => {
                let text = text.to_owned();
                self.latest = Some((at, text.clone()));
                Ok(text)
            }
        }
    }

    fn read_target(&self) -> Result<Option<f64>, DataError> {
        let Some(position) = self.target else {
            return Ok(None);
        };
        let text = self.record.get(position);
        let kind = match self.layout.has_numeric_target() {
            true => Kind::Numeric,
            false => Kind::Categorical,
        };
        let missing = self.layout.encoder.missing();
        let value = match parse(kind, text, self.layout.encoder.absent()) {
            Ok(Cell::Number(value)) => Ok(Some(value)),
            Ok(Cell::Text(class)) => self.class(class).map(Some),
            Ok(Cell::Missing) if missing == Missing::Drop => Ok(None),
            Ok(Cell::Missing) if missing == Missing::Mean => Err(format!(
                "{} is no target, and a target is never filled in; give --missing drop",
                shown(text)
            )),
            Ok(Cell::Missing) => Err(empty(text)),
            Err(reason) => Err(reason),
        };
        match (value, self.strictness) {
            (Ok(value), _) => Ok(value),
            (Err(_), Strictness::Lenient) => Ok(None),
            (Err(reason), Strictness::Strict) => {
                let place = self.record.place();
                Err(DataError::cell(
                    self.reader.file(),
                    place,
                    &self.layout.target,
                    reason,
                ))
            }
        }
    }

    fn class(&self, text: &str) -> Result<f64, String> {
        let Task::Classification { classes } = &self.layout.task else {
            return Err("a number was expected".into());
        };
        match classes.iter().position(|class| class == text) {
            Some(class) => Ok(class as f64),
            None => Err(format!(
                "{} is none of the classes {}",
                shown(text),
                listed(classes)
            )),
        }
    }
}

impl Iterator for Rows {
    type Item = Result<Row, DataError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let row = self.read().transpose();
        self.ended = !matches!(row, Some(Ok(_)));
        row
    }
}
