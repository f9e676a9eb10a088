//! Names of a network's classes.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use thiserror::Error;

/// Bytes of a list of class names.
const LONGEST: u64 = 64 << 20;

/// Class names in the order of the network's outputs.
///
/// ```
/// use saliency_models::labels::Labels;
///
/// let labels = Labels::imagenet();
/// assert_eq!(labels.name(207), Some("golden retriever"));
/// assert_eq!(labels.find("Labrador")?, 208);
/// # Ok::<(), saliency_models::labels::LabelsError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Labels {
    names: Vec<String>,
}

/// Why names could not be read or a class not be found.
#[derive(Debug, Error)]
pub enum LabelsError {
    /// The file could not be read.
    #[error("{}: cannot read class names: {reason}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the operating system says.
        reason: std::io::Error,
    },
    /// The file holds something else than names.
    #[error("{}: {reason}", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// What is wrong and where.
        reason: String,
    },
    /// More than one class fits.
    #[error(
        "'{query}' fits more than one class: {}; give the whole name or the number",
        list(candidates)
    )]
    Ambiguous {
        /// What was asked for.
        query: String,
        /// Some of the classes that fit, by number and name.
        candidates: Vec<(usize, String)>,
    },
    /// No class fits.
    #[error("no class is called '{query}'; the nearest are {}", list(nearest))]
    Unknown {
        /// What was asked for.
        query: String,
        /// The classes with the most similar names, by number and name.
        nearest: Vec<(usize, String)>,
    },
}

/// Classes that an error names at most.
const SHOWN: usize = 8;

fn list(classes: &[(usize, String)]) -> String {
    let named = classes.iter().map(|(i, name)| format!("{name} ({i})"));
    named.collect::<Vec<_>>().join(", ")
}

impl Labels {
    /// Names in the order of the outputs.
    ///
    /// ```
    /// use saliency_models::labels::Labels;
    ///
    /// let labels = Labels::new(["good", "bad"]);
    /// assert_eq!((labels.len(), labels.name(1), labels.name(2)), (2, Some("bad"), None));
    /// ```
    pub fn new<S: Into<String>>(names: impl IntoIterator<Item = S>) -> Self {
        Self {
            names: names.into_iter().map(Into::into).collect(),
        }
    }

    /// The 1000 classes of ImageNet-1k, as torchvision names them.
    pub fn imagenet() -> Self {
        Self::new(include_str!("labels/imagenet.txt").lines())
    }

    /// The ten classes of CIFAR-10.
    ///
    /// ```
    /// use saliency_models::labels::Labels;
    ///
    /// assert_eq!(Labels::cifar10().names()[3], "cat");
    /// ```
    pub fn cifar10() -> Self {
        Self::new(include_str!("labels/cifar10.txt").lines())
    }

    /// Names from a file: one per line, or JSON, either a list of names or an object from each
    /// number to its name or to `[identifier, name]` (`imagenet_class_index.json`).
    ///
    /// # Errors
    /// [`LabelsError::File`] or [`LabelsError::Format`], with the path.
    ///
    /// ```
    /// use saliency_models::labels::Labels;
    ///
    /// let path = std::env::temp_dir().join("saliency-doc-labels.txt");
    /// std::fs::write(&path, "good\nbad\n")?;
    /// assert_eq!(Labels::from_file(&path)?, Labels::new(["good", "bad"]));
    /// # std::fs::remove_file(&path)?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn from_file(path: impl AsRef<Path>) -> Result<Self, LabelsError> {
        let path = path.as_ref();
        let file_error = |reason| LabelsError::File {
            path: path.to_owned(),
            reason,
        };
        let mut text = String::new();
        let file = fs::File::open(path).map_err(file_error)?;
        let read = file.take(LONGEST + 1).read_to_string(&mut text);
        if read.map_err(file_error)? as u64 > LONGEST {
            return Err(LabelsError::Format {
                path: path.to_owned(),
                reason: "larger than 64 MiB, so it is not a list of class names".into(),
            });
        }
        parse(&text).map_err(|reason| LabelsError::Format {
            path: path.to_owned(),
            reason,
        })
    }

    /// The name of output `class`.
    pub fn name(&self, class: usize) -> Option<&str> {
        self.names.get(class).map(String::as_str)
    }

    /// All names, in the order of the outputs.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// Number of classes.
    pub fn len(&self) -> usize {
        self.names.len()
    }

    /// Whether there are no classes.
    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    /// The number of the one class called `query`, in any mixture of upper and lower case: by its
    /// whole name, else by whole words of it ("Labrador"), else by any part.
    ///
    /// # Errors
    /// [`LabelsError::Ambiguous`] or [`LabelsError::Unknown`], with the classes that come nearest.
    ///
    /// ```
    /// use saliency_models::labels::Labels;
    ///
    /// assert_eq!(Labels::imagenet().find("TABBY")?, 281);
    /// let error = Labels::imagenet().find("hammerhad").unwrap_err().to_string();
    /// assert!(error.contains("hammerhead (4)"), "{error}");
    /// # Ok::<(), saliency_models::labels::LabelsError>(())
    /// ```
    pub fn find(&self, query: &str) -> Result<usize, LabelsError> {
        let wanted = plain(query);
        let names: Vec<String> = self.names.iter().map(|name| plain(name)).collect();
        if wanted.is_empty() {
            return Err(self.unknown(query, &wanted, &names));
        }
        let words = format!(" {wanted} ");
        let fits: [&dyn Fn(&str) -> bool; 3] = [
            &|name| name == wanted,
            &|name| format!(" {name} ").contains(&words),
            &|name| name.contains(&wanted),
        ];
        for fits in fits {
            let found: Vec<usize> = (0..names.len()).filter(|&i| fits(&names[i])).collect();
            match found.as_slice() {
                [] => continue,
                [class] => return Ok(*class),
                several => {
                    return Err(LabelsError::Ambiguous {
                        query: query.to_owned(),
                        candidates: self.numbered(several.iter().copied()),
                    });
                }
            }
        }
        Err(self.unknown(query, &wanted, &names))
    }

    fn unknown(&self, query: &str, wanted: &str, names: &[String]) -> LabelsError {
        let distance = |name: &str| {
            let parts = name.split(' ').map(|word| edits(word, wanted) + 1);
            parts.chain([edits(name, wanted)]).min()
        };
        let mut order: Vec<usize> = (0..names.len()).collect();
        order.sort_by_cached_key(|&i| distance(&names[i]));
        LabelsError::Unknown {
            query: query.to_owned(),
            nearest: self.numbered(order.into_iter().take(5)),
        }
    }

    fn numbered(&self, classes: impl Iterator<Item = usize>) -> Vec<(usize, String)> {
        let named = classes.map(|class| (class, self.names[class].clone()));
        named.take(SHOWN).collect()
    }
}

/// Lower case, with single spaces for every run of spaces, underscores and hyphens.
fn plain(name: &str) -> String {
    let words = name.split(|c: char| c.is_whitespace() || c == '_' || c == '-');
    let words: Vec<&str> = words.filter(|word| !word.is_empty()).collect();
    words.join(" ").to_lowercase()
}

/// Levenshtein's distance: the fewest insertions, deletions and replacements of one character.
fn edits(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, &to) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(from != to);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Json {
    List(Vec<String>),
    Numbered(BTreeMap<String, Entry>),
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Entry {
    Name(String),
    Identified([String; 2]),
}

fn parse(text: &str) -> Result<Labels, String> {
    let text = text.trim_start_matches('\u{feff}').trim_end();
    if text.is_empty() {
        return Err("holds no class names".into());
    }
    if text.starts_with(['[', '{']) {
        return parse_json(text);
    }
    let names: Vec<&str> = text.lines().map(str::trim).collect();
    match names.iter().position(|name| name.is_empty()) {
        Some(blank) => Err(format!("line {} has no class name", blank + 1)),
        None => Ok(Labels::new(names)),
    }
}

fn parse_json(text: &str) -> Result<Labels, String> {
    // Says where the syntax is wrong; the untagged enum cannot.
    let value: serde_json::Value =
        serde_json::from_str(text).map_err(|error| format!("is not valid JSON: {error}"))?;
    match serde_json::from_value(value) {
        Ok(Json::List(names)) if !names.is_empty() => Ok(Labels::new(names)),
        Ok(Json::Numbered(mut entries)) if !entries.is_empty() => (0..entries.len())
            .map(|i| match entries.remove(&i.to_string()) {
                Some(Entry::Name(name) | Entry::Identified([_, name])) => Ok(name),
                None => Err(format!("has no class {i}")),
            })
            .collect::<Result<Vec<_>, _>>()
            .map(Labels::new),
        _ => Err("is JSON, but neither a list of names nor an object of numbered names".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn imagenet_has_a_thousand_names_in_their_known_places() {
        let labels = Labels::imagenet();
        assert_eq!(labels.len(), 1000);
        for (class, name) in [
            (0, "tench"),
            (208, "Labrador retriever"),
            (281, "tabby"),
            (934, "hotdog"),
            (999, "toilet tissue"),
        ] {
            assert_eq!(labels.name(class), Some(name));
        }
        assert_eq!(labels.name(1000), None);
        assert_eq!(Labels::cifar10().len(), 10);
    }

    #[test]
    fn whole_names_win_over_words_and_words_over_parts() {
        let labels = Labels::new(["tiger shark", "tiger", "tigercat", "brown_bear", "bearing"]);
        assert_eq!(labels.find("TIGER").unwrap(), 1);
        assert_eq!(labels.find("shark").unwrap(), 0);
        assert_eq!(labels.find("bear").unwrap(), 3);
        assert_eq!(labels.find("cat").unwrap(), 2);
        assert_eq!(labels.find(" Brown  Bear ").unwrap(), 3);
    }

    #[test]
    fn several_fits_are_listed() {
        let error = Labels::imagenet().find("retriever").unwrap_err();
        let LabelsError::Ambiguous { candidates, .. } = &error else {
            panic!("{error}");
        };
        let classes: Vec<usize> = candidates.iter().map(|(class, _)| *class).collect();
        assert_eq!(classes, [205, 206, 207, 208, 209]);
        assert!(error.to_string().contains("golden retriever (207)"));
        // The same name twice: a bird and a machine.
        let error = Labels::new(["crane", "cow", "crane"])
            .find("crane")
            .unwrap_err();
        assert!(
            error.to_string().contains("crane (0), crane (2)"),
            "{error}"
        );
        let many = Labels::imagenet().find("a").unwrap_err().to_string();
        assert!(many.len() < 400 && !many.contains('\n'), "{many}");
    }

    #[test]
    fn misspelled_names_get_the_nearest() {
        for (query, class) in [("goldfsh", 1), ("golden retreiver", 207), ("labrodor", 208)] {
            let error = Labels::imagenet().find(query).unwrap_err();
            let LabelsError::Unknown { nearest, .. } = &error else {
                panic!("{error}");
            };
            assert!(nearest.iter().any(|(i, _)| *i == class), "{error}");
        }
        assert!(Labels::imagenet().find(" - ").is_err());
        assert!(Labels::new([""; 0]).find("x").is_err());
    }

    #[test]
    fn edit_distances() {
        for (a, b, distance) in [
            ("", "abc", 3),
            ("kitten", "sitting", 3),
            ("flaw", "lawn", 2),
        ] {
            assert_eq!((edits(a, b), edits(b, a)), (distance, distance));
        }
    }

    #[test]
    fn files_of_every_kind_and_their_faults() {
        let good = [
            "good\nbad\n",
            "\u{feff}good\r\nbad\r\n\r\n",
            r#"["good", "bad"]"#,
            r#"{"1": "bad", "0": "good"}"#,
            r#"{"0": ["n1", "good"], "1": ["n2", "bad"]}"#,
        ];
        for text in good {
            assert_eq!(parse(text), Ok(Labels::new(["good", "bad"])), "{text}");
        }
        let faulty = [
            (" \n", "no class names"),
            ("a\n\nb", "line 2"),
            ("[\"a\",\n,", "line 2"),
            ("[1, 2]", "neither"),
            ("[]", "neither"),
            (r#"{"0": "a", "2": "b"}"#, "no class 1"),
        ];
        for (text, reason) in faulty {
            let error = parse(text).unwrap_err();
            assert!(error.contains(reason) && !error.contains('\n'), "{error}");
        }
    }

    #[test]
    fn a_missing_file_is_named() {
        let error = Labels::from_file("no/such.txt").unwrap_err().to_string();
        assert!(error.starts_with("no/such.txt: cannot read class names"));
    }
}
