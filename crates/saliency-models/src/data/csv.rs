use std::{
    fmt,
    fs::File,
    io::{BufRead, BufReader, Cursor, Read},
    path::Path,
};

use super::{
    dialect::{CsvOptions, Delimiter, not_text, sample, sniff},
    encoding::{Decoder, Encoding, byte_order_mark},
    error::DataError,
    split::Splitter,
};

/// One row of a file: its cells as text, without the space around them.
#[derive(Clone, Debug, Default)]
pub struct Record {
    row: u64,
    line: u64,
    text: String,
    ends: Vec<usize>,
}

impl Record {
    /// Number of the row, from 1; the header is not counted.
    pub fn row(&self) -> u64 {
        self.row
    }

    /// Number of the line that the row starts in, from 1.
    pub fn line(&self) -> u64 {
        self.line
    }

    /// Row and line, for messages.
    pub(super) fn place(&self) -> (u64, u64) {
        (self.row, self.line)
    }

    /// The cell of a column.
    pub fn get(&self, column: usize) -> &str {
        let start = match column {
            0 => 0,
            column => self.ends[column - 1],
        };
        self.text[start..self.ends[column]].trim()
    }

    /// Number of cells.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there is no cell.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// All cells in order.
    pub fn cells(&self) -> impl Iterator<Item = &str> {
        (0..self.len()).map(|column| self.get(column))
    }
}

/// Counts the bytes that are read through it.
struct Counted<R> {
    from: R,
    bytes: u64,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        let read = self.from.read(into)?;
        self.bytes += read as u64;
        Ok(read)
    }
}

type Source = BufReader<Decoder<std::io::Chain<Cursor<Vec<u8>>, Counted<File>>>>;

/// Reads a CSV file row by row; memory does not grow with the file.
///
/// Cells may be quoted with `"`, with delimiters, line ends and doubled quotes inside. Lines
/// end in `\n`, `\r\n` or `\r`; empty lines are passed over.
///
/// ```
/// use saliency_models::data::{CsvOptions, Reader, Record};
/// let folder = tempfile::tempdir()?;
/// let path = folder.path().join("rows.csv");
/// std::fs::write(&path, "age;town\n41;\"Spa; Belgium\"\n")?;
///
/// let mut reader = Reader::open(&path, &CsvOptions::default())?;
/// assert_eq!(reader.columns(), ["age", "town"]);
/// let mut record = Record::default();
/// assert!(reader.read(&mut record)?);
/// assert_eq!((record.row(), record.line(), record.get(1)), (1, 2, "Spa; Belgium"));
/// assert!(!reader.read(&mut record)?);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Reader {
    file: String,
    source: Source,
    encoding: Encoding,
    splitter: Splitter,
    terminator: u8,
    columns: Vec<String>,
    has_header: bool,
    /// Another delimiter under which the file has more columns, and how many.
    better: Option<(Delimiter, usize)>,
    /// The first row, where there is no header.
    first: Option<Record>,
    /// Length of the byte order mark.
    mark: u64,
    total: u64,
    line: u64,
    row: u64,
    bytes: Vec<u8>,
}

/// How much of a file is looked at to find out how it is written.
const HEAD: usize = 1 << 16;
const LONGEST_LINE: u64 = 1 << 24;

impl fmt::Debug for Reader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reader")
            .field("file", &self.file)
            .field("columns", &self.columns)
            .field("row", &self.row)
            .finish_non_exhaustive()
    }
}

impl Reader {
    /// Opens a file and reads its header.
    ///
    /// # Errors
    /// [`DataError`] where it is not there, is no text, or has no header that names columns.
    pub fn open(path: impl AsRef<Path>, options: &CsvOptions) -> Result<Self, DataError> {
        let path = path.as_ref();
        let file = path.display().to_string();
        let io = |source| match std::io::Error::kind(&source) {
            std::io::ErrorKind::NotFound => DataError::NotFound { file: file.clone() },
            _ => DataError::Io {
                file: file.clone(),
                source,
            },
        };
        if path.is_dir() {
            return Err(DataError::file(&file, "is a folder; give a CSV file"));
        }
        let mut opened = File::open(path).map_err(io)?;
        let total = opened.metadata().map_err(io)?.len();
        let mut head = Vec::new();
        opened
            .by_ref()
            .take(HEAD as u64)
            .read_to_end(&mut head)
            .map_err(io)?;
        if let Some(what) = not_text(&head) {
            return Err(DataError::file(&file, what));
        }
        let mark = byte_order_mark(&head);
        let encoding = options
            .encoding
            .or(mark.map(|m| m.0))
            .unwrap_or(Encoding::Utf8);
        let read = head.len() as u64;
        let rest = match mark {
            Some((marked, length)) if marked == encoding => head.split_off(length),
            _ => head,
        };
        let rest_length = rest.len() as u64;
        let sample = sample(&rest, encoding, read < HEAD as u64);
        if encoding == Encoding::Utf8 && sample.contains(&0) {
            return Err(DataError::file(
                &file,
                "has zero bytes, so it is no UTF-8 text; give --encoding utf-16le if that is what it is",
            ));
        }
        let terminator = match sample.contains(&b'\r') && !sample.contains(&b'\n') {
            true => b'\r',
            false => b'\n',
        };
        let (delimiter, better) = sniff(&sample, terminator, options.delimiter);
        let counted = Counted {
            from: opened,
            bytes: 0,
        };
        let mut reader = Reader {
            source: BufReader::new(Decoder::new(Cursor::new(rest).chain(counted), encoding)),
            file,
            encoding,
            splitter: Splitter::new(delimiter),
            terminator,
            columns: Vec::new(),
            has_header: options.header,
            better,
            first: None,
            mark: read - rest_length,
            total,
            line: 0,
            row: 0,
            bytes: Vec::new(),
        };
        reader.begin()?;
        Ok(reader)
    }

    /// Reads the header, or takes names for the columns from the first row.
    fn begin(&mut self) -> Result<(), DataError> {
        let mut first = Record::default();
        if !self.next(&mut first)? {
            return Err(DataError::file(
                &self.file,
                "is empty; it needs a row for each case",
            ));
        }
        if !self.has_header {
            self.columns = (1..=first.len()).map(|i| format!("c{i}")).collect();
            first.row = 1;
            self.first = Some(first);
            return Ok(());
        }
        let name = |(i, cell): (usize, &str)| match cell {
            "" => format!("c{}", i + 1),
            cell => cell.to_owned(),
        };
        self.columns = first.cells().enumerate().map(name).collect();
        if self.columns.len() > 1 && first.cells().all(|cell| cell.parse::<f64>().is_ok()) {
            return Err(DataError::row(
                &self.file,
                0,
                first.line,
                "the header has numbers only; give --no-header if the first line is data",
            ));
        }
        for (i, name) in self.columns.iter().enumerate() {
            if let Some(j) = self.columns[..i].iter().position(|other| other == name) {
                let reason = format!(
                    "columns {} and {} are both called {name:?}; rename one, or give --no-header if the first line is data",
                    j + 1,
                    i + 1
                );
                return Err(DataError::row(&self.file, 0, first.line, reason));
            }
        }
        Ok(())
    }

    /// The file, as in messages.
    pub fn file(&self) -> &str {
        &self.file
    }

    /// Names of the columns.
    pub fn columns(&self) -> &[String] {
        &self.columns
    }

    /// The delimiter in use.
    pub fn delimiter(&self) -> Delimiter {
        self.splitter.delimiter()
    }

    /// Bytes read so far, of [`bytes_total`](Self::bytes_total).
    pub fn bytes_read(&self) -> u64 {
        let (head, rest) = self.source.get_ref().source().get_ref();
        (self.mark + head.position() + rest.bytes).min(self.total)
    }

    /// Size of the file in bytes.
    pub fn bytes_total(&self) -> u64 {
        self.total
    }

    /// Where the column called `name` is.
    ///
    /// # Errors
    /// [`DataError::NoColumn`] names the nearest; [`DataError::Delimiter`] where another
    /// delimiter would give more columns.
    pub fn column(&self, name: &str) -> Result<usize, DataError> {
        if let Some(found) = self.columns.iter().position(|column| column == name) {
            return Ok(found);
        }
        match self.better {
            Some((better, count)) if self.columns.len() == 1 => Err(DataError::Delimiter {
                file: self.file.clone(),
                used: self.delimiter().to_string(),
                better: better.to_string(),
                count,
            }),
            _ => Err(DataError::NoColumn {
                file: self.file.clone(),
                name: name.into(),
                columns: self.columns.clone(),
            }),
        }
    }

    /// Reads the next row; false at the end of the file.
    ///
    /// # Errors
    /// [`DataError`] where the row has another number of cells than there are columns, is not
    /// in the file's encoding, or cannot be read.
    pub fn read(&mut self, record: &mut Record) -> Result<bool, DataError> {
        if let Some(first) = self.first.take() {
            self.row = 1;
            *record = first;
            return Ok(true);
        }
        if !self.next(record)? {
            return Ok(false);
        }
        self.row += 1;
        record.row = self.row;
        if record.len() == self.columns.len() {
            return Ok(true);
        }
        let columns = self.columns.len();
        let known = match self.has_header {
            true => format!("the header has {columns}"),
            false => format!("the first row has {columns}"),
        };
        let advice = match (self.better, record.len() > columns) {
            (Some((better, count)), _) if columns == 1 => {
                format!(
                    "; the delimiter {better} would give {count} columns: give --delimiter {better}"
                )
            }
            (_, true) => format!("; quote cells with a {} in them", self.delimiter()),
            (_, false) => String::new(),
        };
        let cells = match record.len() {
            1 => "1 cell".into(),
            n => format!("{n} cells"),
        };
        let reason = format!("has {cells}, but {known}{advice}");
        Err(DataError::row(&self.file, self.row, record.line, reason))
    }

    /// The next record that is not an empty line, whatever its length.
    fn next(&mut self, record: &mut Record) -> Result<bool, DataError> {
        self.splitter.clear();
        let mut started = 0;
        loop {
            self.bytes.clear();
            let read = self
                .source
                .by_ref()
                .take(LONGEST_LINE)
                .read_until(self.terminator, &mut self.bytes)
                .map_err(|source| DataError::Io {
                    file: self.file.clone(),
                    source,
                })?;
            if read == 0 {
                return match self.splitter.is_open() {
                    true => Err(self.unclosed(started)),
                    false => Ok(false),
                };
            }
            if read as u64 == LONGEST_LINE || self.splitter.len() as u64 > LONGEST_LINE {
                return Err(match self.splitter.is_open() {
                    true => self.unclosed(started),
                    false => DataError::row(
                        &self.file,
                        self.row,
                        self.line + 1,
                        "is longer than 16 MiB; this is no CSV file",
                    ),
                });
            }
            self.line += 1;
            if self.bytes.last() == Some(&self.terminator) {
                self.bytes.pop();
            }
            if self.bytes.last() == Some(&b'\r') {
                self.bytes.pop();
            }
            if !self.splitter.is_open() {
                if self.is_blank() {
                    continue;
                }
                started = self.line;
            }
            self.splitter.line(&self.bytes);
            if !self.splitter.is_open() {
                return self.finish(record, started).map(|()| true);
            }
        }
    }

    /// Whether a line has nothing in it; a tabulator may stand between empty cells.
    fn is_blank(&self) -> bool {
        let separates = self.delimiter() == Delimiter::Tab && self.bytes.contains(&b'\t');
        !separates && self.bytes.iter().all(u8::is_ascii_whitespace)
    }

    fn unclosed(&self, line: u64) -> DataError {
        let reason = "a quote is opened and never closed";
        DataError::row(&self.file, self.row_in_progress(), line, reason)
    }

    /// The row that is being read; 0 while it is the header.
    fn row_in_progress(&self) -> u64 {
        match self.columns.is_empty() && self.has_header {
            true => 0,
            false => self.row + 1,
        }
    }

    fn finish(&mut self, record: &mut Record, line: u64) -> Result<(), DataError> {
        let (bytes, ends) = self.splitter.take();
        record.line = line;
        let fault = |at: usize, reason: String| {
            let column = ends.iter().position(|end| at < *end).unwrap_or(0);
            let row = self.row_in_progress();
            match self.columns.get(column) {
                Some(name) => DataError::cell(&self.file, (row, line), name, reason),
                None => DataError::row(&self.file, row, line, reason),
            }
        };
        let text = match std::str::from_utf8(bytes) {
            Ok(text) => text,
            Err(error) => {
                let at = error.valid_up_to();
                return Err(fault(
                    at,
                    format!(
                        "byte 0x{:02x} is not UTF-8; if the file is in Latin-1, give --encoding windows-1252",
                        bytes[at]
                    ),
                ));
            }
        };
        if self.encoding != Encoding::Utf8
            && let Some(at) = text.find('\u{fffd}')
        {
            let reason = format!("holds a broken character in {}", self.encoding);
            return Err(fault(at, reason));
        }
        if let Some(at) = text.find('\0') {
            return Err(fault(at, "holds a zero byte; this is no text".into()));
        }
        record.text.clear();
        record.text.push_str(text);
        record.ends.clear();
        record.ends.extend_from_slice(ends);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    fn written(content: impl AsRef<[u8]>) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rows.csv");
        std::fs::write(&path, content).unwrap();
        (folder, path)
    }

    /// Columns, then each row with its number and line.
    fn all(content: impl AsRef<[u8]>, options: &CsvOptions) -> Result<Vec<String>, String> {
        let (_folder, path) = written(content);
        let mut reader = Reader::open(&path, options).map_err(tail)?;
        let mut found = vec![reader.columns().join("|")];
        let mut record = Record::default();
        while reader.read(&mut record).map_err(tail)? {
            let cells: Vec<&str> = record.cells().collect();
            found.push(format!(
                "{}@{} {}",
                record.row(),
                record.line(),
                cells.join("|")
            ));
        }
        assert_eq!(reader.bytes_read(), reader.bytes_total());
        Ok(found)
    }

    /// The message without the path.
    fn tail(error: DataError) -> String {
        let text = error.to_string();
        assert!(!text.contains('\n'), "{text}");
        text.split_once("rows.csv: ").unwrap().1.to_owned()
    }

    fn auto(content: impl AsRef<[u8]>) -> Result<Vec<String>, String> {
        all(content, &CsvOptions::default())
    }

    #[test]
    fn delimiters_are_found() {
        let want = ["a|b|c", "1@2 1|2|3", "2@3 4|5|6"];
        for d in [",", ";", "\t", "|", " "] {
            let text = "a,b,c\n1,2,3\n4,5,6\n".replace(',', d);
            assert_eq!(auto(text).unwrap(), want, "{d:?}");
        }
        // Decimal commas, and spaces in a header.
        assert_eq!(auto("a;b\n1,5;2,5\n").unwrap(), ["a|b", "1@2 1,5|2,5"]);
        assert_eq!(
            auto("long name,b\n1,2\n").unwrap(),
            ["long name|b", "1@2 1|2"]
        );
        assert_eq!(auto("a  b\n 1   2 \n").unwrap(), ["a|b", "1@2 1|2"]);
        assert_eq!(auto("only\n1\n2\n").unwrap(), ["only", "1@2 1", "2@3 2"]);
    }

    #[test]
    fn quotes_and_line_ends() {
        let want = ["a|b", "1@2 x,y|say \"hi\"", "2@3 1|2"];
        for end in ["\n", "\r\n", "\r"] {
            let text = "a,b\n\"x,y\",\"say \"\"hi\"\"\"\n1, 2".replace('\n', end);
            assert_eq!(auto(text).unwrap(), want, "{end:?}");
        }
        let found = auto("a,b\r\n\r\n\"two\r\nlines\", \"q\"\r\n\r\n3,\r\n").unwrap();
        assert_eq!(found, ["a|b", "1@3 two\nlines|q", "2@6 3|"]);
    }

    #[test]
    fn no_header() {
        let options = CsvOptions {
            header: false,
            ..CsvOptions::default()
        };
        assert_eq!(
            all("A11 6\nA12 48\n", &options).unwrap(),
            ["c1|c2", "1@1 A11|6", "2@2 A12|48"]
        );
        let error = all("1,2\n3\n", &options).unwrap_err();
        assert_eq!(error, "row 2 (line 2): has 1 cell, but the first row has 2");
    }

    #[test]
    fn encodings() {
        let want = ["prix|é", "1@2 1|ü"];
        let text = "prix,é\n1,ü\n";
        assert_eq!(auto(format!("\u{feff}{text}")).unwrap(), want);
        let utf16 = |mark: bool| -> Vec<u8> {
            let mark = mark.then_some(0xfeff);
            let units = mark.into_iter().chain(text.encode_utf16());
            units.flat_map(u16::to_le_bytes).collect()
        };
        assert_eq!(auto(utf16(true)).unwrap(), want);
        let latin: Vec<u8> = text.chars().map(|c| c as u8).collect();
        assert_eq!(
            auto(&latin).unwrap_err(),
            "line 1: byte 0xe9 is not UTF-8; if the file is in Latin-1, give --encoding windows-1252"
        );
        assert_eq!(
            auto(b"a,b\n1,2\n1,\xe9\n").unwrap_err(),
            "row 2 (line 3), column \"b\": byte 0xe9 is not UTF-8; if the file is in Latin-1, give --encoding windows-1252"
        );
        assert!(
            auto(utf16(false))
                .unwrap_err()
                .contains("--encoding utf-16le")
        );
        for (encoding, bytes) in [
            (Encoding::Windows1252, latin),
            (Encoding::Utf16Le, utf16(false)),
            (Encoding::Utf16Le, utf16(true)),
        ] {
            let options = CsvOptions {
                encoding: Some(encoding),
                ..CsvOptions::default()
            };
            assert_eq!(all(bytes, &options).unwrap(), want);
        }
    }

    #[test]
    fn bad_files_are_refused_with_the_place() {
        for (content, want) in [
            ("", "is empty"),
            ("\n\n", "is empty"),
            ("PK\x03\x04....", "save it as CSV"),
            (
                "a,b,a\n1,2,3\n",
                "line 1: columns 1 and 3 are both called \"a\"",
            ),
            (
                "1,2\n3,4\n",
                "line 1: the header has numbers only; give --no-header",
            ),
            (
                "a,b\n1,2\n3\n",
                "row 2 (line 3): has 1 cell, but the header has 2",
            ),
            (
                "a,b\n1,2,3\n",
                "row 1 (line 2): has 3 cells, but the header has 2; quote",
            ),
            (
                "a,b\n1,2\n\"3,4\n5,6\n",
                "row 2 (line 3): a quote is opened and never closed",
            ),
            ("a,b\n1,2\x00\n", "zero bytes"),
        ] {
            let error = auto(content).unwrap_err();
            assert!(error.contains(want), "{error:?} has no {want:?}");
        }
        let (folder, path) = written("a;b\n1;2\n");
        let options = CsvOptions {
            delimiter: Some(Delimiter::Comma),
            ..CsvOptions::default()
        };
        let error = Reader::open(&path, &options)
            .unwrap()
            .column("b")
            .unwrap_err();
        assert!(tail(error).contains("2 with semicolon; give --delimiter semicolon"));
        let reader = Reader::open(&path, &CsvOptions::default()).unwrap();
        assert_eq!(reader.column("b").unwrap(), 1);
        assert_eq!(
            tail(reader.column("B").unwrap_err()),
            "has no column \"B\"; did you mean \"b\"?; its columns are a, b"
        );
        let missing = folder.path().join("no/rows.csv");
        assert!(
            Reader::open(missing, &options)
                .unwrap_err()
                .to_string()
                .contains("no such file")
        );
        assert!(
            Reader::open(folder.path(), &options)
                .unwrap_err()
                .to_string()
                .contains("is a folder")
        );
    }
}
