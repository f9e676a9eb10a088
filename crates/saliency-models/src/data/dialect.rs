//! How a file is written: its delimiter and encoding, and what is no CSV file at all.

use std::{fmt, io::Read, str::FromStr};

use serde::{Deserialize, Serialize};

use super::{
    encoding::{Decoder, Encoding},
    split::Splitter,
};

/// Lines of those that delimiters are tried on.
const TRIED: usize = 50;
/// What stands between two cells.
///
/// ```
/// use saliency_models::data::Delimiter;
/// assert_eq!("tab".parse(), Ok(Delimiter::Tab));
/// assert_eq!(";".parse(), Ok(Delimiter::Semicolon));
/// assert!("ab".parse::<Delimiter>().is_err());
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Delimiter {
    /// `,`
    Comma,
    /// `;`
    Semicolon,
    /// A tabulator.
    Tab,
    /// `|`
    Pipe,
    /// One or more spaces.
    Space,
}

impl Delimiter {
    const ALL: [Delimiter; 5] = [
        Delimiter::Comma,
        Delimiter::Semicolon,
        Delimiter::Tab,
        Delimiter::Pipe,
        Delimiter::Space,
    ];

    pub(super) fn byte(self) -> u8 {
        match self {
            Delimiter::Comma => b',',
            Delimiter::Semicolon => b';',
            Delimiter::Tab => b'\t',
            Delimiter::Pipe => b'|',
            Delimiter::Space => b' ',
        }
    }
}

impl fmt::Display for Delimiter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Delimiter::Comma => "comma",
            Delimiter::Semicolon => "semicolon",
            Delimiter::Tab => "tab",
            Delimiter::Pipe => "pipe",
            Delimiter::Space => "space",
        })
    }
}

impl FromStr for Delimiter {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let named = |d: &Delimiter| d.to_string() == text.to_lowercase();
        let same = |d: &Delimiter| text.as_bytes() == [d.byte()];
        match Delimiter::ALL.into_iter().find(|d| named(d) || same(d)) {
            Some(delimiter) => Ok(delimiter),
            None if text == "\\t" => Ok(Delimiter::Tab),
            None => Err("known are comma, semicolon, tab, pipe, space".into()),
        }
    }
}

/// How a file of rows is written; what is `None` is found out from the file.
///
/// ```
/// use saliency_models::data::CsvOptions;
/// let plain = CsvOptions::default();
/// assert!(plain.header && plain.delimiter.is_none() && plain.encoding.is_none());
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CsvOptions {
    /// What stands between cells.
    pub delimiter: Option<Delimiter>,
    /// Whether the first line has the names of the columns; else they are c1, c2, ...
    pub header: bool,
    /// How characters are written as bytes.
    pub encoding: Option<Encoding>,
}

impl Default for CsvOptions {
    fn default() -> Self {
        CsvOptions {
            delimiter: None,
            header: true,
            encoding: None,
        }
    }
}

/// What a file is that starts so, where it is known to be no text.
pub(super) fn not_text(head: &[u8]) -> Option<&'static str> {
    let kinds: [(&[u8], &str); 6] = [
        (
            b"PK\x03\x04",
            "is an Excel workbook or a zip file; save it as CSV",
        ),
        (
            b"\xd0\xcf\x11\xe0",
            "is an old Excel workbook; save it as CSV",
        ),
        (b"\x1f\x8b", "is compressed with gzip; unpack it first"),
        (b"PAR1", "is a Parquet file; save it as CSV"),
        (b"%PDF", "is a PDF; give a CSV file"),
        (b"\x89PNG", "is a picture; give a CSV file"),
    ];
    kinds
        .into_iter()
        .find(|(magic, _)| head.starts_with(magic))
        .map(|(_, what)| what)
}

/// The start of a file as UTF-8, to the end of a line unless it is the whole file.
pub(super) fn sample(head: &[u8], encoding: Encoding, is_whole: bool) -> Vec<u8> {
    let mut text = Vec::new();
    let read = Decoder::new(head, encoding).read_to_end(&mut text);
    debug_assert!(read.is_ok(), "it is in memory");
    if !is_whole && let Some(end) = text.iter().rposition(|b| *b == b'\n' || *b == b'\r') {
        text.truncate(end);
    }
    text
}

/// The delimiter: the given one, or the one that gives every line of the sample the same
/// number of cells, the most; spaces only where nothing else fits. Also another one that
/// would give more columns than the given one.
pub(super) fn sniff(
    sample: &[u8],
    terminator: u8,
    given: Option<Delimiter>,
) -> (Delimiter, Option<(Delimiter, usize)>) {
    let shapes = Delimiter::ALL.map(|delimiter| {
        let mut splitter = Splitter::new(delimiter);
        let mut counts = Vec::new();
        for line in sample.split(|b| *b == terminator) {
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            if !splitter.is_open() && line.iter().all(u8::is_ascii_whitespace) {
                continue;
            }
            splitter.line(line);
            if !splitter.is_open() {
                counts.push(splitter.take().1.len());
                splitter.clear();
            }
            if counts.len() == TRIED {
                break;
            }
        }
        let header = counts.first().copied().unwrap_or(1);
        let even = header > 1 && counts.iter().all(|count| *count == header);
        (delimiter, header, even)
    });
    // The first of equals: a comma before a space.
    let best = |candidates: &mut dyn Iterator<Item = &(Delimiter, usize, bool)>| {
        candidates
            .copied()
            .reduce(|best, next| if next.1 > best.1 { next } else { best })
    };
    let (printed, space) = shapes.split_at(4);
    let found = best(&mut printed.iter().filter(|s| s.2))
        .or_else(|| best(&mut space.iter().filter(|s| s.2)))
        .or_else(|| best(&mut printed.iter().filter(|s| s.1 > 1)))
        .unwrap_or(shapes[0]);
    let Some(given) = given else {
        return (found.0, None);
    };
    let own = shapes.iter().find(|s| s.0 == given).map_or(1, |s| s.1);
    let better = (found.0 != given && found.1 > own && found.2).then_some((found.0, found.1));
    (given, better)
}
