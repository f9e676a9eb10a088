use std::path::Path;

use crate::data::{CsvOptions, DataError, Layout, Quantity, Row, Strictness, Window};

use super::split::{Part, Split};

/// One row or window with its targets.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Example {
    /// Its first row in the values.
    first: usize,
    /// Its first target.
    target: usize,
    /// What no change would predict.
    last: Option<f64>,
}

/// All encoded rows of a file in memory, and the examples made of them, by part. Windows
/// share their rows.
#[derive(Debug)]
pub(super) struct Dataset {
    steps: usize,
    width: usize,
    per_example: usize,
    values: Vec<f32>,
    targets: Vec<f64>,
    examples: [Vec<Example>; 3],
    /// Rows with an empty cell that were left out.
    pub(super) dropped: u64,
    /// Rows or windows that were left out since their target is empty.
    pub(super) without_target: u64,
    /// Windows that were left out since they reach from one part into the next.
    pub(super) straddling: u64,
}

impl Dataset {
    pub(super) fn read(
        layout: &Layout,
        path: &Path,
        csv: &CsvOptions,
        split: &Split,
    ) -> Result<Self, DataError> {
        let mut rows = layout.rows(path, csv, Strictness::Strict)?;
        let mut dataset = Dataset {
            steps: layout.steps(),
            width: layout.encoder.width(),
            per_example: 1,
            values: Vec::new(),
            targets: Vec::new(),
            examples: Default::default(),
            dropped: 0,
            without_target: 0,
            straddling: 0,
        };
        let mut kept = Vec::new();
        for row in &mut rows {
            let row = row?;
            dataset.values.extend_from_slice(&row.values);
            kept.push(Kept::from(&row));
        }
        dataset.dropped = rows.dropped();
        match &layout.window {
            Some(window) => dataset.windows(&kept, window, split),
            None => dataset.rows(&kept, split),
        }
        Ok(dataset)
    }

    fn rows(&mut self, kept: &[Kept], split: &Split) {
        for (first, row) in kept.iter().enumerate() {
            let Some(target) = row.target else {
                self.without_target += 1;
                continue;
            };
            self.examples[split.part(row.row) as usize].push(Example {
                first,
                target: self.targets.len(),
                last: None,
            });
            self.targets.push(target);
        }
    }

    fn windows(&mut self, kept: &[Kept], window: &Window, split: &Split) {
        self.per_example = window.horizon.len();
        let span = window.steps + window.reach();
        for first in 0..(kept.len() + 1).saturating_sub(span) {
            let (start, end) = (&kept[first], &kept[first + span - 1]);
            if start.segment != end.segment {
                continue;
            }
            let now = first + window.steps - 1;
            let target = |ahead: &usize| {
                let later = kept[now + ahead].target?;
                let value = match window.quantity {
                    Quantity::Value => later,
                    quantity => quantity.of(kept[now].target?, later),
                };
                value.is_finite().then_some(value)
            };
            let Some(targets) = window
                .horizon
                .iter()
                .map(target)
                .collect::<Option<Vec<_>>>()
            else {
                self.without_target += 1;
                continue;
            };
            let part = split.part(start.row);
            if part != split.part(end.row) {
                self.straddling += 1;
                continue;
            }
            self.examples[part as usize].push(Example {
                first,
                target: self.targets.len(),
                last: match window.quantity {
                    Quantity::Value => kept[now].target,
                    _ => Some(0.0),
                },
            });
            self.targets.extend(targets);
        }
    }

    pub(super) fn len(&self, part: Part) -> usize {
        self.examples[part as usize].len()
    }

    /// Inputs of some examples, row by row.
    pub(super) fn inputs(&self, part: Part, picked: &[usize]) -> Vec<f32> {
        let size = self.steps * self.width;
        let mut inputs = Vec::with_capacity(picked.len() * size);
        for index in picked {
            let start = self.examples[part as usize][*index].first * self.width;
            inputs.extend_from_slice(&self.values[start..start + size]);
        }
        inputs
    }

    /// The mean of each number of a row, over the last rows of a part's examples.
    pub(super) fn means(&self, part: Part) -> Vec<f64> {
        let mut means = vec![0.0; self.width];
        let examples = &self.examples[part as usize];
        for example in examples {
            let last = (example.first + self.steps - 1) * self.width;
            for (mean, value) in means.iter_mut().zip(&self.values[last..]) {
                *mean += f64::from(*value) / examples.len() as f64;
            }
        }
        means
    }

    /// Targets of one example.
    pub(super) fn targets(&self, part: Part, index: usize) -> &[f64] {
        let start = self.examples[part as usize][index].target;
        &self.targets[start..start + self.per_example]
    }

    /// Targets of all examples of a part.
    pub(super) fn all_targets(&self, part: Part) -> Vec<f64> {
        (0..self.len(part))
            .flat_map(|index| self.targets(part, index))
            .copied()
            .collect()
    }

    /// The error of the last known value at each target, where every example has one.
    pub(super) fn last_errors(&self, part: Part) -> Option<Vec<f64>> {
        let mut errors = Vec::new();
        for (index, example) in self.examples[part as usize].iter().enumerate() {
            let last = example.last?;
            errors.extend(self.targets(part, index).iter().map(|target| last - target));
        }
        Some(errors)
    }
}

/// What is kept of a row beside its values.
struct Kept {
    row: u64,
    segment: u64,
    target: Option<f64>,
}

impl From<&Row> for Kept {
    fn from(row: &Row) -> Self {
        Kept {
            row: row.row,
            segment: row.segment,
            target: row.target,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{ColumnEncoder, Encoder, Missing, Sample, Scale, Task};

    fn layout(window: Option<Window>) -> Layout {
        let column = |name: &str| ColumnEncoder {
            name: name.into(),
            scale: Scale::Standard {
                mean: 1.0,
                std: 2.0,
            },
        };
        Layout {
            encoder: Encoder::new(vec![column("a"), column("y")], Missing::Drop, vec![]),
            target: "y".into(),
            task: Task::Regression,
            window,
        }
    }

    /// Training sees the very samples that `Layout::samples` gives, but for those that
    /// straddle parts or have no target.
    #[test]
    fn examples_are_the_samples() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rows.csv");
        let mut text = String::from("a,y\n");
        for row in 1..=40 {
            match row {
                13 => text += ",5\n",
                27 => text += "3,\n",
                _ => text += &format!("{},{}\n", row % 7, row * row),
            }
        }
        std::fs::write(&path, text).unwrap();
        let csv = CsvOptions::default();
        let window = Window {
            steps: 3,
            horizon: vec![1, 2],
            quantity: Quantity::Change,
            time: None,
        };
        for window in [None, Some(window)] {
            let reach = window.as_ref().map_or(0, Window::reach) as u64;
            let layout = layout(window);
            let split = Split::in_order(40, 0.25, 0.25);
            let dataset = Dataset::read(&layout, &path, &csv, &split).unwrap();
            let mut counts = [0; 3];
            for sample in layout.samples(&path, &csv).unwrap() {
                let Sample {
                    rows,
                    values,
                    targets,
                    ..
                } = sample.unwrap();
                let Some(targets) = targets else { continue };
                let part = split.part(rows.0);
                if part != split.part(rows.1 + reach) {
                    continue;
                }
                let index = counts[part as usize];
                assert_eq!(dataset.inputs(part, &[index]), values);
                assert_eq!(dataset.targets(part, index), targets);
                counts[part as usize] += 1;
            }
            let parts = [Part::Training, Part::Validation, Part::Test];
            assert_eq!(parts.map(|part| dataset.len(part)), counts);
            assert_eq!(dataset.dropped, 2);
            match layout.window {
                // Rows 20 | 30: four windows of span 5 reach over each, less those with row 27.
                Some(_) => assert_eq!((counts, dataset.straddling), ([11, 2, 6], 7)),
                None => assert_eq!((counts, dataset.straddling), ([19, 9, 10], 0)),
            }
        }
    }

    #[test]
    fn no_change_is_the_last_value() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rows.csv");
        std::fs::write(&path, "a,y\n0,1\n0,2\n0,4\n").unwrap();
        let window = Window {
            steps: 1,
            horizon: vec![1],
            quantity: Quantity::Value,
            time: None,
        };
        let split = Split::in_order(3, 0.0, 0.0);
        let layout = layout(Some(window));
        let dataset = Dataset::read(&layout, &path, &CsvOptions::default(), &split).unwrap();
        assert_eq!(dataset.last_errors(Part::Training), Some(vec![-1.0, -2.0]));
        assert_eq!(dataset.all_targets(Part::Training), [2.0, 4.0]);
        // Both columns are standardised by 1 and 2; the last rows are the first two.
        assert_eq!(dataset.means(Part::Training), [-0.5, 0.25]);
    }
}
