use std::{
    fmt,
    io::{self, Read},
    str::FromStr,
};

use serde::{Deserialize, Serialize};

/// How the characters of a file are written as bytes.
///
/// A byte order mark at the start of a file says it; without one, and without an option, a
/// file is UTF-8.
///
/// ```
/// use saliency_models::data::Encoding;
/// assert_eq!("latin-1".parse(), Ok(Encoding::Windows1252));
/// assert_eq!(Encoding::Utf16Le.to_string(), "utf-16le");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum Encoding {
    /// UTF-8.
    Utf8,
    /// UTF-16, low byte first, as Excel's "Unicode text".
    Utf16Le,
    /// UTF-16, high byte first.
    Utf16Be,
    /// Windows' western European code page, which has all of ISO 8859-1 (Latin-1).
    Windows1252,
}

use Encoding::*;

impl fmt::Display for Encoding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Utf8 => "utf-8",
            Utf16Le => "utf-16le",
            Utf16Be => "utf-16be",
            Windows1252 => "windows-1252",
        })
    }
}

impl FromStr for Encoding {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let name: String = text.to_lowercase().replace(['-', '_', ' '], "");
        match name.as_str() {
            "utf8" => Ok(Utf8),
            "utf16le" | "utf16" => Ok(Utf16Le),
            "utf16be" => Ok(Utf16Be),
            "windows1252" | "cp1252" | "latin1" | "iso88591" => Ok(Windows1252),
            _ => Err(format!(
                "unknown encoding {text:?}; known are utf-8, utf-16le, utf-16be, windows-1252 (latin-1)"
            )),
        }
    }
}

impl TryFrom<String> for Encoding {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Encoding> for String {
    fn from(encoding: Encoding) -> Self {
        encoding.to_string()
    }
}

/// The encoding that a byte order mark at the start says, and the mark's length.
pub(super) fn byte_order_mark(start: &[u8]) -> Option<(Encoding, usize)> {
    match start {
        [0xef, 0xbb, 0xbf, ..] => Some((Utf8, 3)),
        [0xff, 0xfe, ..] => Some((Utf16Le, 2)),
        [0xfe, 0xff, ..] => Some((Utf16Be, 2)),
        _ => None,
    }
}

/// Windows-1252 from 0x80 to 0x9f; the five bytes without a character keep their control code.
const UPPER: [char; 32] = [
    '€', '\u{81}', '‚', 'ƒ', '„', '…', '†', '‡', 'ˆ', '‰', 'Š', '‹', 'Œ', '\u{8d}', 'Ž', '\u{8f}',
    '\u{90}', '‘', '’', '“', '”', '•', '–', '—', '˜', '™', 'š', '›', 'œ', '\u{9d}', 'ž', 'Ÿ',
];

/// Reads any encoding as UTF-8. UTF-8 itself passes as it is, to be checked cell by cell.
pub(super) struct Decoder<R> {
    from: R,
    encoding: Encoding,
    /// Bytes of the file that are not decoded yet.
    raw: Vec<u8>,
    /// UTF-8 that has not been read yet, from `at`.
    ready: Vec<u8>,
    at: usize,
    ended: bool,
}

const CHUNK: usize = 1 << 16;

impl<R: Read> Decoder<R> {
    pub(super) fn new(from: R, encoding: Encoding) -> Self {
        Decoder {
            from,
            encoding,
            raw: Vec::new(),
            ready: Vec::new(),
            at: 0,
            ended: false,
        }
    }

    /// Where the bytes come from.
    pub(super) fn source(&self) -> &R {
        &self.from
    }

    fn fill(&mut self) -> io::Result<()> {
        let kept = self.raw.len();
        self.raw.resize(kept + CHUNK, 0);
        let read = self.from.read(&mut self.raw[kept..])?;
        self.raw.truncate(kept + read);
        self.ended = read == 0;
        self.ready.clear();
        self.at = 0;
        match self.encoding {
            Utf8 => std::mem::swap(&mut self.ready, &mut self.raw),
            Windows1252 => {
                let mut text = String::with_capacity(2 * self.raw.len());
                text.extend(self.raw.drain(..).map(|byte| match byte {
                    0x80..=0x9f => UPPER[usize::from(byte - 0x80)],
                    byte => char::from(byte),
                }));
                self.ready = text.into_bytes();
            }
            Utf16Le | Utf16Be => self.utf16(),
        }
        Ok(())
    }

    /// Whole characters only; a broken one becomes U+FFFD.
    fn utf16(&mut self) {
        let unit = |pair: &[u8]| match self.encoding {
            Utf16Be => u16::from_be_bytes([pair[0], pair[1]]),
            _ => u16::from_le_bytes([pair[0], pair[1]]),
        };
        let mut units: Vec<u16> = self.raw.chunks_exact(2).map(unit).collect();
        let half_a_pair = units.last().is_some_and(|u| (0xd800..0xdc00).contains(u));
        if half_a_pair && !self.ended {
            units.pop();
        }
        self.raw.drain(..2 * units.len());
        let decoded = char::decode_utf16(units).map(|c| c.unwrap_or(char::REPLACEMENT_CHARACTER));
        let mut text: String = decoded.collect();
        if self.ended && !self.raw.is_empty() {
            text.push(char::REPLACEMENT_CHARACTER);
            self.raw.clear();
        }
        self.ready = text.into_bytes();
    }
}

impl<R: Read> Read for Decoder<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        while self.at == self.ready.len() && !self.ended {
            self.fill()?;
        }
        let count = into.len().min(self.ready.len() - self.at);
        into[..count].copy_from_slice(&self.ready[self.at..self.at + count]);
        self.at += count;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode(bytes: &[u8], encoding: Encoding) -> String {
        /// Gives a byte at a time, so that characters are cut everywhere.
        struct Drip<'a>(&'a [u8]);
        impl Read for Drip<'_> {
            fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
                let Some((first, rest)) = self.0.split_first() else {
                    return Ok(0);
                };
                into[0] = *first;
                self.0 = rest;
                Ok(1)
            }
        }
        let mut whole = String::new();
        Decoder::new(bytes, encoding)
            .read_to_string(&mut whole)
            .unwrap();
        let mut dripped = String::new();
        Decoder::new(Drip(bytes), encoding)
            .read_to_string(&mut dripped)
            .unwrap();
        assert_eq!(whole, dripped);
        whole
    }

    #[test]
    fn each_encoding_is_read() {
        let text = "naïve €, 𝒙 1";
        assert_eq!(decode(text.as_bytes(), Utf8), text);
        let units: Vec<u16> = text.encode_utf16().collect();
        let little: Vec<u8> = units.iter().flat_map(|u| u.to_le_bytes()).collect();
        let big: Vec<u8> = units.iter().flat_map(|u| u.to_be_bytes()).collect();
        assert_eq!(decode(&little, Utf16Le), text);
        assert_eq!(decode(&big, Utf16Be), text);
        assert_eq!(decode(b"na\xefve \x80", Windows1252), "naïve €");
    }

    #[test]
    fn broken_characters_show() {
        assert_eq!(decode(&[0x61, 0, 0, 0xd8], Utf16Le), "a\u{fffd}");
        assert_eq!(decode(&[0x61, 0, 0x62], Utf16Le), "a\u{fffd}");
        assert_eq!(decode(&[0, 0xd8, 0x61, 0], Utf16Le), "\u{fffd}a");
    }

    #[test]
    fn marks_and_names() {
        assert_eq!(byte_order_mark(b"\xef\xbb\xbfa"), Some((Utf8, 3)));
        assert_eq!(byte_order_mark(b"\xff\xfea\0"), Some((Utf16Le, 2)));
        assert_eq!(byte_order_mark(b"\xfe\xff"), Some((Utf16Be, 2)));
        assert_eq!(byte_order_mark(b"a,b"), None);
        for encoding in [Utf8, Utf16Le, Utf16Be, Windows1252] {
            assert_eq!(encoding.to_string().parse(), Ok(encoding));
        }
        assert!("ebcdic".parse::<Encoding>().is_err());
    }
}
