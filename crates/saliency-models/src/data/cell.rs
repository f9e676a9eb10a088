use serde::{Deserialize, Serialize};

use super::error::shown;

/// What the cells of a column are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Numbers.
    Numeric,
    /// One of a few words.
    Categorical,
    /// Dates, and times of day, as ISO 8601 writes them: `2020-04-30`, `2020-04-30 15:30:00`.
    Time,
}

/// What is done where a cell is empty. Never is it taken as zero.
///
/// In a column of numbers `NA`, `N/A`, `NaN`, `null`, `None` and `?` count as empty too.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Missing {
    /// It is refused, with row and column.
    #[default]
    Error,
    /// It becomes the mean, or the most frequent category, of the training rows.
    Mean,
    /// The whole row is left out; in a series no window goes across the gap.
    Drop,
}

impl std::str::FromStr for Missing {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "error" => Ok(Missing::Error),
            "mean" => Ok(Missing::Mean),
            "drop" => Ok(Missing::Drop),
            _ => Err("known are error, mean, drop".into()),
        }
    }
}

/// The content of one cell.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Cell<'a> {
    Missing,
    Number(f64),
    Text(&'a str),
}

const NOTHING: [&str; 9] = [
    "NA", "N/A", "NaN", "nan", "null", "NULL", "None", "?", "#N/A",
];

/// Whether a cell says that there is no value. `absent` are further texts that say so; such
/// as are numbers mean every way to write the number.
pub(crate) fn is_missing(kind: Kind, text: &str, absent: &[String]) -> bool {
    let same = |mark: &String| {
        mark == text
            || kind == Kind::Numeric && number(mark).is_some_and(|m| number(text) == Some(m))
    };
    text.is_empty() || kind == Kind::Numeric && NOTHING.contains(&text) || absent.iter().any(same)
}

/// Reads a cell; the error says what is wrong with it.
pub(crate) fn parse<'a>(kind: Kind, text: &'a str, absent: &[String]) -> Result<Cell<'a>, String> {
    if is_missing(kind, text, absent) {
        return Ok(Cell::Missing);
    }
    match kind {
        Kind::Numeric => match number(text) {
            Some(value) if value.is_finite() => Ok(Cell::Number(value)),
            Some(_) => Err(format!("{text} is not finite")),
            None => Err(not_a_number(text)),
        },
        Kind::Categorical | Kind::Time => Ok(Cell::Text(text)),
    }
}

/// A number as files have it; `None` for text.
pub(super) fn number(text: &str) -> Option<f64> {
    text.parse().ok()
}

/// How a text would have to be written to be the number that it seems to be.
pub(super) fn almost_number(text: &str) -> Option<&'static str> {
    let plain: String = text.chars().filter(|c| !"$€£% ".contains(*c)).collect();
    let is_number = |text: String| number(&text).is_some_and(f64::is_finite);
    let thousands = text
        .rsplit_once(',')
        .is_some_and(|(_, digits)| digits.len() == 3);
    if is_number(text.replace(',', ".")) && !thousands {
        Some("write decimals with a point")
    } else if is_number(plain.replace([',', '\'', '_'], "")) {
        Some("write it without units and separators, and decimals with a point")
    } else {
        None
    }
}

/// Why a text is no number, with a guess at what it was meant to be.
fn not_a_number(text: &str) -> String {
    let hint = almost_number(text).map_or(String::new(), |hint| format!("; {hint}"));
    format!("{} is not a number{hint}", shown(text))
}

/// Seconds from 1970 of an ISO date, with or without a time of day; `None` for other text.
pub(crate) fn time(text: &str) -> Option<f64> {
    let (date, clock) = match text.find(['T', ' ']) {
        Some(at) => (&text[..at], Some(&text[at + 1..])),
        None => (text, None),
    };
    let mut parts = date.split('-');
    let year = digits(parts.next()?, 4)?;
    let month = digits(parts.next()?, 2)?;
    let day = match parts.next() {
        Some(day) => digits(day, 2)?,
        None if clock.is_none() => 1,
        None => return None,
    };
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let days = match month {
        2 if leap => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        1..=12 => 31,
        _ => return None,
    };
    if parts.next().is_some() || day == 0 || day > days {
        return None;
    }
    // Howard Hinnant's count of days, with years that begin in March.
    let (y, m) = if month > 2 {
        (year, month - 3)
    } else {
        (year - 1, month + 9)
    };
    let (era, of_era) = (y.div_euclid(400), y.rem_euclid(400));
    let of_year = (153 * m + 2) / 5 + day - 1;
    let since = era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468;
    Some(since as f64 * 86_400.0 + clock.map_or(Some(0.0), seconds)?)
}

/// The ISO date of a number of days from 1970-01-01.
pub(crate) fn date(days: i64) -> String {
    let days = days + 719_468;
    let (era, of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let years = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * years + years / 4 - years / 100);
    let m = (5 * of_year + 2) / 153;
    let (day, month) = (
        of_year - (153 * m + 2) / 5 + 1,
        if m < 10 { m + 3 } else { m - 9 },
    );
    let year = era * 400 + years + i64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}")
}

/// Seconds of `15:30`, `15:30:00`, `15:30:00.25`, each with or without `Z`.
fn seconds(clock: &str) -> Option<f64> {
    let mut parts = clock.strip_suffix('Z').unwrap_or(clock).split(':');
    let (hours, minutes) = (digits(parts.next()?, 2)?, digits(parts.next()?, 2)?);
    let rest: f64 = match parts.next() {
        Some(text) if text.starts_with(|c: char| c.is_ascii_digit()) => text.parse().ok()?,
        Some(_) => return None,
        None => 0.0,
    };
    let valid = hours < 24 && minutes < 60 && rest < 61.0 && parts.next().is_none();
    valid.then_some((hours * 3600 + minutes * 60) as f64 + rest)
}

fn digits(text: &str, count: usize) -> Option<i64> {
    (text.len() == count && text.bytes().all(|b| b.is_ascii_digit())).then(|| text.parse().ok())?
}

/// Compares numbers as numbers, before text.
pub(crate) fn natural(a: &str, b: &str) -> std::cmp::Ordering {
    match (number(a), number(b)) {
        (Some(x), Some(y)) => x.total_cmp(&y).then_with(|| a.cmp(b)),
        (Some(_), None) => std::cmp::Ordering::Less,
        (None, Some(_)) => std::cmp::Ordering::Greater,
        (None, None) => a.cmp(b),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_meant_by_a_number_is_guessed() {
        let decimals = "write decimals with a point";
        let units = "write it without units and separators, and decimals with a point";
        for (text, hint) in [
            ("1,5", Some(decimals)),
            ("-0,25", Some(decimals)),
            ("5,123", Some(units)),
            ("1,234,567", Some(units)),
            ("$1,234.50", Some(units)),
            ("12 %", Some(units)),
            ("abc", None),
            ("A1", None),
            ("2020-04", None),
        ] {
            assert_eq!(almost_number(text), hint, "{text}");
        }
        assert_eq!(not_a_number("abc"), "\"abc\" is not a number");
    }

    #[test]
    fn cells_are_read() {
        let numeric = |text| parse(Kind::Numeric, text, &["-9".into()]);
        assert_eq!(numeric("1e3"), Ok(Cell::Number(1000.0)));
        for nothing in ["", "NaN", "NA", "-9", "-9.0"] {
            assert_eq!(numeric(nothing), Ok(Cell::Missing), "{nothing}");
        }
        assert!(numeric("inf").unwrap_err().contains("not finite"));
        assert!(numeric("1,5").unwrap_err().contains("point"));
        let category = |text| parse(Kind::Categorical, text, &[]);
        assert_eq!(category("None"), Ok(Cell::Text("None")));
        assert_eq!(category(""), Ok(Cell::Missing));
    }

    #[test]
    fn dates_are_counted() {
        let days = |text| time(text).map(|seconds| seconds / 86_400.0);
        assert_eq!(days("1970-01-01"), Some(0.0));
        assert_eq!(days("2000-03-01"), Some(11_017.0));
        assert_eq!(days("1969-12-31"), Some(-1.0));
        assert_eq!(days("1871-02"), Some(-36_128.0));
        assert_eq!(days("2020-02-29 12:00"), Some(18_321.5));
        assert_eq!(time("1970-01-01T00:01:00.5Z"), Some(60.5));
        for bad in [
            "2021-02-29",
            "2020-13-01",
            "2020-1-1",
            "20200101",
            "2020",
            "2020-01-01-01",
            "x",
            "2020-01-01 25:00",
            "2020-01-01 1:00",
            "2020-01-01T10:00:nan",
            "2020-01 10:00",
        ] {
            assert_eq!(time(bad), None, "{bad}");
        }
    }

    #[test]
    fn dates_are_written_as_they_are_read() {
        assert_eq!(date(18_321), "2020-02-29");
        for days in (-60_000..60_000).step_by(17) {
            assert_eq!(time(&date(days)), Some(days as f64 * 86_400.0));
        }
    }

    #[test]
    fn numbers_sort_as_numbers() {
        let mut texts = ["b", "10", "9", "a", "-1"];
        texts.sort_by(|a, b| natural(a, b));
        assert_eq!(texts, ["-1", "9", "10", "a", "b"]);
    }
}
