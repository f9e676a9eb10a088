use serde::{Deserialize, Serialize};

use super::{
    cell::{Cell, Kind, Missing, parse},
    csv::Record,
    error::{DataError, listed, shown},
};

/// How the cells of one column become numbers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Scale {
    /// (value - mean) / std.
    Standard {
        /// Mean of the training rows.
        mean: f64,
        /// Standard deviation of the training rows (population); 1 where they are all alike.
        std: f64,
    },
    /// One number for each category: 1 for the row's own, 0 for the others.
    OneHot {
        /// The categories that are known.
        categories: Vec<String>,
        /// How often each is in the training rows, as a share.
        shares: Vec<f64>,
    },
}

/// One column of a file that a model reads.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ColumnEncoder {
    /// The column's name.
    pub name: String,
    /// How its cells become numbers.
    pub scale: Scale,
}

impl ColumnEncoder {
    /// How many numbers a cell becomes.
    pub fn width(&self) -> usize {
        match &self.scale {
            Scale::Standard { .. } => 1,
            Scale::OneHot { categories, .. } => categories.len(),
        }
    }

    pub(super) fn kind(&self) -> Kind {
        match self.scale {
            Scale::Standard { .. } => Kind::Numeric,
            Scale::OneHot { .. } => Kind::Categorical,
        }
    }
}

/// One number of a model's input.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Feature {
    /// The column's name, or `column=category`.
    pub name: String,
    /// Which column it comes from: attributions of one column are added up by it.
    pub column: usize,
}

/// Turns rows into a model's numbers, as fitted on the training rows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Encoder {
    columns: Vec<ColumnEncoder>,
    missing: Missing,
    #[serde(default)]
    absent: Vec<String>,
}

impl Encoder {
    /// An encoder of known scales. `absent` are texts that count as empty cells.
    ///
    /// ```
    /// use saliency_models::data::{ColumnEncoder, Encoder, Missing, Scale};
    /// let age = ColumnEncoder { name: "age".into(), scale: Scale::Standard { mean: 40.0, std: 10.0 } };
    /// let town = ColumnEncoder {
    ///     name: "town".into(),
    ///     scale: Scale::OneHot { categories: vec!["Bonn".into(), "Graz".into()], shares: vec![0.7, 0.3] },
    /// };
    /// let encoder = Encoder::new(vec![age, town], Missing::Error, vec![]);
    /// let names: Vec<String> = encoder.features().into_iter().map(|f| f.name).collect();
    /// assert_eq!(names, ["age", "town=Bonn", "town=Graz"]);
    /// assert_eq!(encoder.groups(), [0, 1, 1]);
    /// assert_eq!(encoder.reference(), [0.0, 0.7, 0.3]);
    /// ```
    pub fn new(columns: Vec<ColumnEncoder>, missing: Missing, absent: Vec<String>) -> Self {
        Encoder {
            columns,
            missing,
            absent,
        }
    }

    /// The columns that are read, in the order of the input.
    pub fn columns(&self) -> &[ColumnEncoder] {
        &self.columns
    }

    /// What is done where a cell is empty.
    pub fn missing(&self) -> Missing {
        self.missing
    }

    /// Texts that count as empty cells.
    pub fn absent(&self) -> &[String] {
        &self.absent
    }

    /// The numbers of one row, in order.
    pub fn features(&self) -> Vec<Feature> {
        let mut features = Vec::with_capacity(self.width());
        for (column, encoder) in self.columns.iter().enumerate() {
            match &encoder.scale {
                Scale::Standard { .. } => features.push(Feature {
                    name: encoder.name.clone(),
                    column,
                }),
                Scale::OneHot { categories, .. } => {
                    features.extend(categories.iter().map(|category| Feature {
                        name: format!("{}={category}", encoder.name),
                        column,
                    }));
                }
            }
        }
        features
    }

    /// How many numbers a row becomes.
    pub fn width(&self) -> usize {
        self.columns.iter().map(ColumnEncoder::width).sum()
    }

    /// The column of each number.
    pub fn groups(&self) -> Vec<usize> {
        self.features()
            .iter()
            .map(|feature| feature.column)
            .collect()
    }

    /// Names of the columns.
    pub fn column_names(&self) -> Vec<String> {
        self.columns
            .iter()
            .map(|column| column.name.clone())
            .collect()
    }

    /// The mean training row: 0 for a standardised number, its share for a category.
    pub fn reference(&self) -> Vec<f32> {
        let mut row = Vec::with_capacity(self.width());
        for column in &self.columns {
            match &column.scale {
                Scale::Standard { .. } => row.push(0.0),
                Scale::OneHot { shares, .. } => row.extend(shares.iter().map(|s| *s as f32)),
            }
        }
        row
    }

    /// Appends the numbers of one row, whose cells are at `positions`; false, and nothing
    /// appended, where a cell is empty and such rows are to be left out.
    ///
    /// # Errors
    /// [`DataError::Row`] names row and column of an empty cell, of text in a numeric
    /// column, and of a category that is not known.
    pub fn encode(
        &self,
        file: &str,
        record: &Record,
        positions: &[usize],
        into: &mut Vec<f32>,
    ) -> Result<bool, DataError> {
        let start = into.len();
        for (column, &position) in self.columns.iter().zip(positions) {
            let fault =
                |reason: String| DataError::cell(file, record.place(), &column.name, reason);
            let text = record.get(position);
            let cell = parse(column.kind(), text, &self.absent).map_err(fault)?;
            if cell == Cell::Missing {
                match self.missing {
                    Missing::Error => return Err(fault(empty(text))),
                    Missing::Mean => {}
                    Missing::Drop => {
                        into.truncate(start);
                        return Ok(false);
                    }
                }
            }
            push(&column.scale, cell, into).map_err(fault)?;
        }
        Ok(true)
    }
}

/// What is wrong with an empty cell, and what can be done.
pub(super) fn empty(text: &str) -> String {
    let what = match text {
        "" => "is empty".into(),
        mark => format!("is {}, which counts as empty", shown(mark)),
    };
    format!("{what}; give --missing drop to leave such rows out, or --missing mean to fill them in")
}

/// Appends a cell's numbers.
pub(super) fn push(scale: &Scale, cell: Cell<'_>, into: &mut Vec<f32>) -> Result<(), String> {
    match scale {
        Scale::Standard { mean, std } => into.push(match cell {
            Cell::Number(value) => ((value - mean) / std) as f32,
            _ => 0.0,
        }),
        Scale::OneHot { categories, shares } => {
            let own = match cell {
                Cell::Text(text) => match categories.iter().position(|known| known == text) {
                    Some(own) => own,
                    None => {
                        return Err(format!(
                            "{} is not a category that the model knows; it knows {}",
                            shown(text),
                            listed(categories)
                        ));
                    }
                },
                _ => most_frequent(shares),
            };
            into.extend((0..categories.len()).map(|i| f32::from(u8::from(i == own))));
        }
    }
    Ok(())
}

/// The first of the largest shares.
fn most_frequent(shares: &[f64]) -> usize {
    (0..shares.len()).fold(0, |best, i| if shares[i] > shares[best] { i } else { best })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{CsvOptions, Reader};

    fn encoder(missing: Missing) -> Encoder {
        let scale = |name: &str, scale| ColumnEncoder {
            name: name.into(),
            scale,
        };
        let town = Scale::OneHot {
            categories: ["a", "b", "c"].map(String::from).to_vec(),
            shares: vec![0.2, 0.5, 0.3],
        };
        let age = Scale::Standard {
            mean: 10.0,
            std: 4.0,
        };
        Encoder::new(
            vec![scale("town", town), scale("age", age)],
            missing,
            vec!["-1".into()],
        )
    }

    /// Encoded rows; `None` for one left out.
    fn encode(content: &str, missing: Missing) -> Result<Vec<Option<Vec<f32>>>, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rows.csv");
        std::fs::write(&path, content).unwrap();
        let mut reader = Reader::open(&path, &CsvOptions::default()).unwrap();
        let encoder = encoder(missing);
        let positions = [
            reader.column("town").unwrap(),
            reader.column("age").unwrap(),
        ];
        let mut rows = Vec::new();
        let mut record = Record::default();
        while reader.read(&mut record).unwrap() {
            let mut row = Vec::new();
            let kept = encoder.encode("rows.csv", &record, &positions, &mut row);
            let kept = kept.map_err(|e| e.to_string())?;
            assert!(kept || row.is_empty());
            rows.push(kept.then_some(row));
        }
        Ok(rows)
    }

    #[test]
    fn rows_become_numbers() {
        let rows = encode("age,other,town\n18,x,c\n6,x,a\n", Missing::Error).unwrap();
        assert_eq!(
            rows,
            [Some(vec![0., 0., 1., 2.]), Some(vec![1., 0., 0., -1.])]
        );
    }

    #[test]
    fn empty_cells_follow_the_policy() {
        let text = "age,town\n14,\n,a\n-1.0,b\n";
        let error = encode(text, Missing::Error).unwrap_err();
        assert!(error.starts_with(
            "rows.csv: row 1 (line 2), column \"town\": is empty; give --missing drop"
        ));
        assert_eq!(encode(text, Missing::Drop).unwrap(), [None, None, None]);
        let filled = encode(text, Missing::Mean).unwrap();
        let want = [[0., 1., 0., 1.], [1., 0., 0., 0.], [0., 1., 0., 0.]];
        assert_eq!(filled, want.map(|row| Some(row.to_vec())));
    }

    #[test]
    fn what_cannot_be_encoded_is_named() {
        let error = encode("age,town\n1,a\n1,d\n", Missing::Error).unwrap_err();
        assert_eq!(
            error,
            "rows.csv: row 2 (line 3), column \"town\": \"d\" is not a category that the model knows; it knows a, b, c"
        );
        let error = encode("age,town\nold,a\n", Missing::Mean).unwrap_err();
        assert!(
            error.ends_with("column \"age\": \"old\" is not a number"),
            "{error}"
        );
    }
}
