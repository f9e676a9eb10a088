//! What some arguments are read into.

use std::{ops::RangeInclusive, str::FromStr};

use saliency_core::Reduction;

/// `2GiB`, `512MiB`, `100MB`, or a number of bytes.
pub fn memory(text: &str) -> Result<usize, String> {
    let text = text.trim();
    let split = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let unit = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1.0,
        "kb" => 1e3,
        "mb" => 1e6,
        "gb" => 1e9,
        "k" | "kib" => 1024.0,
        "m" | "mib" => 1024.0 * 1024.0,
        "g" | "gib" => 1024.0 * 1024.0 * 1024.0,
        other => return Err(format!("unknown unit {other:?}: use KiB, MiB or GiB")),
    };
    match number.parse::<f64>() {
        Ok(number) if number * unit >= 1.0 => Ok((number * unit) as usize),
        _ => Err("give a size such as 2GiB".into()),
    }
}

/// What is explained.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TargetChoice {
    Predicted,
    Class(usize),
    Label(String),
    Top(usize),
}

impl FromStr for TargetChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let text = text.trim();
        if let Some(k) = text.strip_prefix("top:") {
            return match k.parse() {
                Ok(k) if k > 0 => Ok(TargetChoice::Top(k)),
                _ => Err(format!(
                    "top:{k} needs a number of at least 1, such as top:5"
                )),
            };
        }
        match text.parse() {
            Ok(class) => Ok(TargetChoice::Class(class)),
            Err(_) if text == "predicted" => Ok(TargetChoice::Predicted),
            Err(_) if text.is_empty() => Err("give predicted, a class, or top:K".into()),
            Err(_) => Ok(TargetChoice::Label(text.into())),
        }
    }
}

/// Numbers of rows from 1, as ranges in rising order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rows(Vec<RangeInclusive<u64>>);

impl Rows {
    pub fn contains(&self, row: u64) -> bool {
        self.0.iter().any(|range| range.contains(&row))
    }

    /// The last one.
    pub fn last(&self) -> u64 {
        self.0.iter().map(|range| *range.end()).max().unwrap_or(0)
    }

    /// The first one that is not among `found`, which rise.
    pub fn missing(&self, found: &[u64]) -> Option<u64> {
        let mut all = self.0.iter().cloned().flatten();
        all.find(|row| found.binary_search(row).is_err())
    }
}

impl FromStr for Rows {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is no list of rows from 1, such as 17 or 17,20..25");
        let number = |text: &str| match text.trim().parse() {
            Ok(row) if row > 0 => Ok(row),
            _ => Err(wrong()),
        };
        let range = |part: &str| {
            let (from, to) = match part.split_once("..") {
                Some((from, to)) => (number(from)?, number(to)?),
                None => (number(part)?, number(part)?),
            };
            match from <= to {
                true => Ok(from..=to),
                false => Err(wrong()),
            }
        };
        let mut ranges = text.split(',').map(range).collect::<Result<Vec<_>, _>>()?;
        ranges.sort_by_key(|range| *range.start());
        // Rows that are named twice are meant once.
        let mut rows: Vec<RangeInclusive<u64>> = Vec::new();
        for range in ranges {
            match rows.last_mut() {
                Some(last) if *range.start() <= last.end() + 1 => {
                    *last = *last.start()..=*last.end().max(range.end());
                }
                _ => rows.push(range),
            }
        }
        Ok(Rows(rows))
    }
}

/// Two times, both included.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Between {
    pub from: String,
    pub to: String,
}

impl Between {
    /// Whether a time lies between them: ISO dates sort as text, numbers of rows as numbers.
    /// `2020-04` as the end is the whole month.
    pub fn contains(&self, time: &str) -> bool {
        match (
            self.from.parse::<u64>(),
            self.to.parse::<u64>(),
            time.parse::<u64>(),
        ) {
            (Ok(from), Ok(to), Ok(time)) => (from..=to).contains(&time),
            _ => *time >= *self.from && self.is_before_end(time),
        }
    }

    /// Whether a time is not after the end.
    pub fn is_before_end(&self, time: &str) -> bool {
        match (self.to.parse::<u64>(), time.parse::<u64>()) {
            (Ok(to), Ok(time)) => time <= to,
            _ => *time <= *self.to || time.starts_with(&self.to),
        }
    }
}

impl FromStr for Between {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once("..") {
            Some((from, to)) if !from.trim().is_empty() && !to.trim().is_empty() => Ok(Between {
                from: from.trim().into(),
                to: to.trim().into(),
            }),
            _ => Err(format!(
                "{text:?} is no window: give its first and last time, such as 2020-01-02..2020-04-30"
            )),
        }
    }
}

/// One channel reduction, or all of them side by side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReduceChoice {
    One(Reduction),
    All,
}

impl ReduceChoice {
    /// The reduction that statistics are taken of.
    pub fn main(self) -> Reduction {
        match self {
            ReduceChoice::One(reduction) => reduction,
            ReduceChoice::All => Reduction::default(),
        }
    }
}

impl FromStr for ReduceChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "all" => Ok(ReduceChoice::All),
            name => name
                .parse()
                .map(ReduceChoice::One)
                .map_err(|e: String| format!("{e}, or all")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_read() {
        assert_eq!(memory("2GiB"), Ok(2 << 30));
        assert_eq!(memory("1.5 MiB"), Ok(3 << 19));
        assert_eq!(memory("100"), Ok(100));
        assert!(memory("much").is_err() && memory("2XB").is_err() && memory("0").is_err());
    }

    #[test]
    fn rows_and_windows_are_read() {
        let rows = |text: &str| text.parse::<Rows>();
        let some = rows("20..22,7,21..23").unwrap();
        assert_eq!(some, Rows(vec![7..=7, 20..=23]));
        assert_eq!((some.last(), some.missing(&[7, 20, 21])), (23, Some(22)));
        assert!(some.contains(20) && !some.contains(8));
        for wrong in ["0", "5..3", "a", "", "1..", "1,,2"] {
            assert!(rows(wrong).is_err(), "{wrong}");
        }
        let window: Between = "2020-01-02..2020-04".parse().unwrap();
        assert!(window.contains("2020-04-30") && window.contains("2020-01-02"));
        assert!(!window.contains("2020-01-01") && !window.contains("2020-05-01"));
        let numbers: Between = "9..11".parse().unwrap();
        assert!(numbers.contains("10") && !numbers.contains("100"));
        assert!("2020".parse::<Between>().is_err() && "..x".parse::<Between>().is_err());
    }

    #[test]
    fn targets_are_read() {
        let read = |text: &str| text.parse::<TargetChoice>();
        assert_eq!(read("predicted"), Ok(TargetChoice::Predicted));
        assert_eq!(read("207"), Ok(TargetChoice::Class(207)));
        assert_eq!(read("top:5"), Ok(TargetChoice::Top(5)));
        assert_eq!(read("Labrador"), Ok(TargetChoice::Label("Labrador".into())));
        assert!(read("top:0").is_err() && read("top:x").is_err() && read(" ").is_err());
    }
}
