//! A look at the pickles of a PyTorch file before they are parsed.
//!
//! The parser runs nothing and checks lengths, but each one-byte instruction may cost it
//! some hundred bytes of memory, and a zip entry may unpack to a thousand times its size.
//! Here instructions are counted and skipped in constant memory.

use std::fs::File;
use std::io::{self, BufRead, BufReader, ErrorKind, Read};

use zip::ZipArchive;

/// Why a file is refused.
#[derive(Debug)]
pub(super) enum Finding {
    /// A pickle names a function that has no place among weights.
    Call(String),
    /// A limit was exceeded, or the file is not readable.
    Fault(String),
}

/// A state dict takes some 40 instructions per tensor.
const MOST_INSTRUCTIONS: usize = 4_000_000;
/// Weights hardly compress, and PyTorch does not try.
const MOST_INFLATION: u64 = 20;
const LONGEST_NAME: usize = 256;

/// Modules of Python through which a pickle can run code. The list is a courtesy to the
/// user, who may want to know; safe is only that nothing is run.
const UNSAFE_MODULES: [&str; 15] = [
    "os",
    "posix",
    "nt",
    "sys",
    "subprocess",
    "shutil",
    "socket",
    "pty",
    "runpy",
    "pickle",
    "_pickle",
    "ctypes",
    "importlib",
    "codeop",
    "webbrowser",
];
const UNSAFE_BUILTINS: [&str; 7] = [
    "eval",
    "exec",
    "execfile",
    "compile",
    "open",
    "__import__",
    "breakpoint",
];

/// Scans every `data.pkl` of an archive.
pub(super) fn scan_zip(file: File) -> Result<(), Finding> {
    let fault = |e: &dyn std::fmt::Display| Finding::Fault(e.to_string());
    let len = file.metadata().map_err(|e| fault(&e))?.len();
    let mut archive = ZipArchive::new(BufReader::new(file)).map_err(|e| fault(&e))?;
    let mut unpacked = 0u64;
    let mut pickles = Vec::new();
    for index in 0..archive.len() {
        let entry = archive.by_index_raw(index).map_err(|e| fault(&e))?;
        unpacked = unpacked.saturating_add(entry.size());
        if entry.name().map_err(|e| fault(&e))?.ends_with("data.pkl") {
            pickles.push(index);
        }
    }
    if unpacked > len.saturating_mul(MOST_INFLATION) {
        return Err(Finding::Fault(format!(
            "its {len} bytes claim to unpack to {unpacked}"
        )));
    }
    for index in pickles {
        let entry = archive.by_index(index).map_err(|e| fault(&e))?;
        scan(&mut BufReader::new(entry), &mut 0)?;
    }
    Ok(())
}

/// Scans the five pickles that open a legacy file: magic number, version, system, weights
/// and storage keys.
pub(super) fn scan_legacy(reader: &mut impl BufRead) -> Result<(), Finding> {
    let mut count = 0;
    (0..5).try_for_each(|_| scan(reader, &mut count))
}

/// Reads up to and with the next STOP. Where the pickle is broken the scan ends without a
/// finding: the parser stops at the same place and says why.
fn scan(reader: &mut impl BufRead, count: &mut usize) -> Result<(), Finding> {
    let mut recent = [String::new(), String::new()];
    loop {
        *count += 1;
        if *count > MOST_INSTRUCTIONS {
            return Err(Finding::Fault(format!(
                "its pickle has more than {MOST_INSTRUCTIONS} instructions"
            )));
        }
        match step(reader, &mut recent) {
            Ok(Step::Next) => {}
            Ok(Step::Global(module, name)) if is_unsafe(&module, &name) => {
                return Err(Finding::Call(format!("{module}.{name}")));
            }
            Ok(Step::Global(..)) => {}
            Ok(Step::Stop) => return Ok(()),
            Err(e) if matches!(e.kind(), ErrorKind::UnexpectedEof | ErrorKind::InvalidData) => {
                return Ok(());
            }
            Err(e) => return Err(Finding::Fault(e.to_string())),
        }
    }
}

fn is_unsafe(module: &str, name: &str) -> bool {
    let root = module.split('.').next().unwrap_or(module);
    match root {
        "builtins" | "__builtin__" => UNSAFE_BUILTINS.contains(&name),
        _ => UNSAFE_MODULES.contains(&root),
    }
}

enum Step {
    Next,
    Global(String, String),
    Stop,
}

/// Skips one instruction and its operand. `recent` are the last two strings, which
/// STACK_GLOBAL takes as module and name.
fn step(reader: &mut impl BufRead, recent: &mut [String; 2]) -> io::Result<Step> {
    let mut remember = |text: String| {
        recent.swap(0, 1);
        recent[1] = text;
    };
    match byte(reader)? {
        b'.' => return Ok(Step::Stop),
        // GLOBAL and INST: module and name, one line each.
        b'c' | b'i' => return Ok(Step::Global(line(reader)?, line(reader)?)),
        // STACK_GLOBAL.
        0x93 => {
            let [module, name] = recent.clone();
            return Ok(Step::Global(module, name));
        }
        // STRING and UNICODE.
        b'S' | b'V' => remember(line(reader)?.trim_matches(['\'', '"']).to_string()),
        // INT, LONG, FLOAT, GET, PUT, PERSID.
        b'I' | b'L' | b'F' | b'g' | b'p' | b'P' => drop(line(reader)?),
        // BININT1, BINGET, BINPUT, PROTO, EXT1.
        b'K' | b'h' | b'q' | 0x80 | 0x82 => skip(reader, 1)?,
        // BININT2, EXT2.
        b'M' | 0x83 => skip(reader, 2)?,
        // BININT, LONG_BINGET, LONG_BINPUT, EXT4.
        b'J' | b'j' | b'r' | 0x84 => skip(reader, 4)?,
        // BINFLOAT, FRAME.
        b'G' | 0x95 => skip(reader, 8)?,
        // SHORT_BINSTRING, SHORT_BINUNICODE.
        b'U' | 0x8c => remember(text::<1>(reader)?),
        // BINSTRING, BINUNICODE.
        b'T' | b'X' => remember(text::<4>(reader)?),
        // BINUNICODE8.
        0x8d => remember(text::<8>(reader)?),
        // SHORT_BINBYTES, LONG1.
        b'C' | 0x8a => drop(text::<1>(reader)?),
        // BINBYTES, LONG4.
        b'B' | 0x8b => drop(text::<4>(reader)?),
        // BINBYTES8, BYTEARRAY8.
        0x8e | 0x96 => drop(text::<8>(reader)?),
        _ => {}
    }
    Ok(Step::Next)
}

fn byte(reader: &mut impl BufRead) -> io::Result<u8> {
    let mut byte = [0];
    reader.read_exact(&mut byte)?;
    Ok(byte[0])
}

fn skip(reader: &mut impl BufRead, len: u64) -> io::Result<()> {
    match io::copy(&mut reader.take(len), &mut io::sink())? {
        copied if copied == len => Ok(()),
        _ => Err(ErrorKind::UnexpectedEof.into()),
    }
}

/// The start of a string after its length of `N` bytes, little-endian.
fn text<const N: usize>(reader: &mut impl BufRead) -> io::Result<String> {
    let mut length = [0; 8];
    reader.read_exact(&mut length[..N])?;
    let length = u64::from_le_bytes(length);
    let kept = length.min(LONGEST_NAME as u64);
    let mut bytes = vec![0; kept as usize];
    reader.read_exact(&mut bytes)?;
    skip(reader, length - kept)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// The start of a line; the rest of it is skipped.
fn line(reader: &mut impl BufRead) -> io::Result<String> {
    let mut kept = Vec::new();
    loop {
        match byte(reader)? {
            b'\n' => return Ok(String::from_utf8_lossy(&kept).trim_end().to_string()),
            other if kept.len() < LONGEST_NAME => kept.push(other),
            _ => {}
        }
    }
}
