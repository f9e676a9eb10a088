use std::fmt;

/// Where in a file something is wrong.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// Row of data from 1, the header not counted; 0 for the header.
    pub row: u64,
    /// Line of the file from 1.
    pub line: u64,
    /// The column, where it is one.
    pub column: Option<String>,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.row {
            0 => write!(f, "line {}", self.line)?,
            row => write!(f, "row {row} (line {})", self.line)?,
        }
        match &self.column {
            Some(column) => write!(f, ", column {column:?}"),
            None => Ok(()),
        }
    }
}

/// Why a file of rows cannot be used. Each message is one line: the file, the row and the
/// column, what is wrong there, and what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DataError {
    /// There is no such file.
    #[error("{file}: no such file; check the path")]
    NotFound {
        /// The path.
        file: String,
    },
    /// The operating system could not read the file.
    #[error("{file}: cannot be read: {source}")]
    Io {
        /// The path.
        file: String,
        /// The operating system's reason.
        source: std::io::Error,
    },
    /// The file could not be written.
    #[error("{file}: cannot be written: {source}")]
    Write {
        /// The path.
        file: String,
        /// The operating system's reason.
        source: std::io::Error,
    },
    /// The file as a whole is no table.
    #[error("{file}: {reason}")]
    File {
        /// The path.
        file: String,
        /// What it is, and what to do.
        reason: String,
    },
    /// A row or a cell is wrong.
    #[error("{file}: {place}: {reason}")]
    Row {
        /// The path.
        file: String,
        /// Where.
        place: Place,
        /// What is wrong, and what to do.
        reason: String,
    },
    /// A column that is asked for is not there.
    #[error("{file}: has no column {name:?}{}; its columns are {}", hint(.name, .columns), listed(.columns))]
    NoColumn {
        /// The path.
        file: String,
        /// The column asked for.
        name: String,
        /// Those that are there.
        columns: Vec<String>,
    },
    /// The file has one column only where more are needed, and another delimiter would fit.
    #[error(
        "{file}: has one column with the delimiter {used}, and {count} with {better}; give --delimiter {better}"
    )]
    Delimiter {
        /// The path.
        file: String,
        /// The delimiter in use.
        used: String,
        /// One that would fit.
        better: String,
        /// Columns that it gives.
        count: usize,
    },
    /// Options that contradict each other or the data.
    #[error("{0}")]
    Options(String),
}

impl DataError {
    pub(crate) fn file(file: &str, reason: impl Into<String>) -> Self {
        DataError::File {
            file: file.into(),
            reason: reason.into(),
        }
    }

    pub(crate) fn row(file: &str, row: u64, line: u64, reason: impl Into<String>) -> Self {
        DataError::Row {
            file: file.into(),
            place: Place {
                row,
                line,
                column: None,
            },
            reason: reason.into(),
        }
    }

    pub(crate) fn cell(
        file: &str,
        (row, line): (u64, u64),
        column: &str,
        reason: impl Into<String>,
    ) -> Self {
        DataError::Row {
            file: file.into(),
            place: Place {
                row,
                line,
                column: Some(column.into()),
            },
            reason: reason.into(),
        }
    }

    /// Whether the request itself makes no sense, whatever the rows hold.
    pub fn is_usage(&self) -> bool {
        matches!(
            self,
            DataError::Options(_) | DataError::NoColumn { .. } | DataError::Delimiter { .. }
        )
    }
}

/// `; did you mean "age"?` for a name like one of the columns.
fn hint(name: &str, columns: &[String]) -> String {
    match nearest(name, columns.iter().map(String::as_str)) {
        Some(near) => format!("; did you mean {near:?}?"),
        None => String::new(),
    }
}

/// The known name that is closest to `name`, where one is close.
pub(crate) fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let wanted = name.to_lowercase();
    let most = (wanted.chars().count() / 3).max(1);
    let contains = |other: &str| {
        wanted.len() >= 3 && (other.contains(&wanted) || wanted.contains(other) && other.len() >= 3)
    };
    known
        .map(|other| {
            let lower = other.to_lowercase();
            let edits = strsim::osa_distance(&wanted, &lower);
            (
                if contains(&lower) {
                    edits.min(most)
                } else {
                    edits
                },
                other,
            )
        })
        .filter(|(edits, _)| *edits <= most)
        .min_by_key(|(edits, _)| *edits)
        .map(|(_, other)| other)
}

/// The first ten names and how many more there are.
pub(crate) fn listed(names: &[String]) -> String {
    const SHOWN: usize = 10;
    let list: Vec<&str> = names.iter().take(SHOWN).map(String::as_str).collect();
    match names.len().saturating_sub(SHOWN) {
        0 => list.join(", "),
        more => format!("{} and {more} more", list.join(", ")),
    }
}

/// Text of a cell for a message: quoted, without control characters, at most 40 characters.
pub(crate) fn shown(text: &str) -> String {
    const LONGEST: usize = 40;
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{:?}...", &text[..end]),
        None => format!("{text:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_name_is_found() {
        let known = ["LIMIT_BAL", "AGE", "default.payment.next.month", "PAY_0"];
        let near = |name| nearest(name, known.into_iter());
        assert_eq!(near("LIMIT_BALL"), Some("LIMIT_BAL"));
        assert_eq!(near("age"), Some("AGE"));
        assert_eq!(near("default"), Some("default.payment.next.month"));
        assert_eq!(near("PAY_1"), Some("PAY_0"));
        assert_eq!(near("income"), None);
    }

    #[test]
    fn messages_are_one_line_with_the_place() {
        let error = DataError::cell("a.csv", (17, 18), "age", "is empty");
        assert_eq!(
            error.to_string(),
            "a.csv: row 17 (line 18), column \"age\": is empty"
        );
        let error = DataError::row("a.csv", 0, 1, "is odd");
        assert_eq!(error.to_string(), "a.csv: line 1: is odd");
        assert_eq!(shown("a\nb"), "\"a\\nb\"");
        assert_eq!(shown(&"x".repeat(50)).len(), 45);
    }
}
