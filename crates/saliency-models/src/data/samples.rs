use std::collections::VecDeque;

use super::{
    error::DataError,
    layout::{Layout, Quantity, Window},
    rows::{Row, Rows},
};

/// One input of a model, read from a file: a row of a table or a window of a series.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// Numbers of its first and last row, from 1; equal for a table.
    pub rows: (u64, u64),
    /// `row 17`; of a window its first and last time, `2020-01-02..2020-04-30`.
    pub name: String,
    /// The time of each of its rows, or their numbers where there is no time.
    pub times: Vec<String>,
    /// The model's numbers, `[F]` or `[T, F]` row by row.
    pub values: Vec<f32>,
    /// The cells as they are in the file, `[C]` or `[T, C]` row by row.
    pub texts: Vec<String>,
    /// What the model is to tell, one for each output of a regression, one class's number
    /// for a classification; `None` where the file does not have it.
    pub targets: Option<Vec<f64>>,
}

/// The samples of a file, one after the other: see [`Layout::samples`].
#[derive(Debug)]
pub struct Samples {
    rows: Rows,
    window: Option<Window>,
    /// Rows of the series that further windows need.
    kept: VecDeque<Row>,
    /// Where in `kept` the next window ends.
    end: usize,
    /// The first row after a gap.
    next: Option<Row>,
    failed: bool,
}

impl Samples {
    pub(super) fn new(rows: Rows, layout: &Layout) -> Self {
        let window = layout.window.clone();
        Samples {
            rows,
            end: window.as_ref().map_or(0, |w| w.steps - 1),
            window,
            kept: VecDeque::new(),
            next: None,
            failed: false,
        }
    }

    /// Rows left out so far because of an empty cell.
    pub fn dropped(&self) -> u64 {
        self.rows.dropped()
    }

    /// Bytes of the file read so far, of [`bytes_total`](Self::bytes_total).
    pub fn bytes_read(&self) -> u64 {
        self.rows.reader().bytes_read()
    }

    /// Size of the file in bytes.
    pub fn bytes_total(&self) -> u64 {
        self.rows.reader().bytes_total()
    }

    /// The next window. Its target may be rows ahead, which are read before it is given.
    fn window(&mut self, window: &Window) -> Result<Option<Sample>, DataError> {
        loop {
            if self.end + window.reach() < self.kept.len() {
                return Ok(Some(self.emit(window)));
            }
            // Nothing is read beyond a gap before the windows in front of it are given.
            let row = match self.next.take() {
                Some(row) => Some(row),
                None => self.rows.next().transpose()?,
            };
            match row {
                Some(row)
                    if self
                        .kept
                        .back()
                        .is_none_or(|last| last.segment == row.segment) =>
                {
                    self.kept.push_back(row);
                }
                row => {
                    self.next = row;
                    if self.end < self.kept.len() {
                        return Ok(Some(self.emit(window)));
                    }
                    self.kept.clear();
                    self.end = window.steps - 1;
                    if self.next.is_none() {
                        return Ok(None);
                    }
                }
            }
        }
    }

    /// The window that ends at `end`.
    fn emit(&mut self, window: &Window) -> Sample {
        let first = self.end + 1 - window.steps;
        let rows = || self.kept.range(first..=self.end);
        let now = self.kept[self.end].target;
        let target = |ahead: &usize| {
            let later = self.kept.get(self.end + ahead)?.target?;
            let value = match window.quantity {
                Quantity::Value => later,
                quantity => quantity.of(now?, later),
            };
            value.is_finite().then_some(value)
        };
        let (start, end) = (&self.kept[first], &self.kept[self.end]);
        let name = match window.time {
            Some(_) => format!("{}..{}", start.time, end.time),
            None => format!("rows {}..{}", start.row, end.row),
        };
        let sample = Sample {
            rows: (start.row, end.row),
            name,
            times: rows().map(|row| row.time.clone()).collect(),
            values: rows().flat_map(|row| row.values.iter().copied()).collect(),
            texts: rows().flat_map(|row| row.texts.iter().cloned()).collect(),
            targets: window.horizon.iter().map(target).collect(),
        };
        // The next window begins one row later.
        if first == 0 {
            self.kept.pop_front();
        } else {
            self.end += 1;
        }
        sample
    }
}

impl Iterator for Samples {
    type Item = Result<Sample, DataError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        let sample = match self.window.take() {
            Some(window) => {
                let sample = self.window(&window).transpose();
                self.window = Some(window);
                sample
            }
            None => self.rows.next().map(|row| row.map(Sample::from)),
        };
        self.failed = matches!(sample, Some(Err(_)));
        sample
    }
}

impl From<Row> for Sample {
    fn from(row: Row) -> Self {
        Sample {
            rows: (row.row, row.row),
            name: format!("row {}", row.row),
            times: vec![row.time],
            values: row.values,
            texts: row.texts,
            targets: row.target.map(|target| vec![target]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{ColumnEncoder, CsvOptions, Encoder, Missing, Scale, Task};

    fn layout(steps: usize, horizon: &[usize], quantity: Quantity, time: bool) -> Layout {
        let scale = Scale::Standard {
            mean: 0.0,
            std: 1.0,
        };
        let name = "x".into();
        Layout {
            encoder: Encoder::new(vec![ColumnEncoder { name, scale }], Missing::Drop, vec![]),
            target: "x".into(),
            task: Task::Regression,
            window: Some(Window {
                steps,
                horizon: horizon.to_vec(),
                quantity,
                time: time.then(|| "day".into()),
            }),
        }
    }

    /// Name, values and targets of every window.
    fn windows(layout: &Layout, content: &str) -> Result<Vec<String>, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rows.csv");
        std::fs::write(&path, content).unwrap();
        let samples = layout.samples(&path, &CsvOptions::default()).unwrap();
        let show = |s: Sample| {
            assert_eq!(s.times.len(), layout.steps());
            assert_eq!(s.texts.len(), s.values.len());
            format!("{} {:?} {:?}", s.name, s.values, s.targets)
        };
        samples
            .map(|s| s.map(show).map_err(|e| e.to_string()))
            .collect()
    }

    #[test]
    fn windows_slide_and_targets_lie_ahead() {
        let text = "x\n1\n2\n4\n8\n";
        let found = windows(&layout(2, &[1], Quantity::Value, false), text).unwrap();
        let want = [
            "rows 1..2 [1.0, 2.0] Some([4.0])",
            "rows 2..3 [2.0, 4.0] Some([8.0])",
            "rows 3..4 [4.0, 8.0] None",
        ];
        assert_eq!(found, want);
        let found = windows(&layout(1, &[0, 2], Quantity::Return, false), text).unwrap();
        assert_eq!(found[1], "rows 2..2 [2.0] Some([0.0, 3.0])");
        assert_eq!(found[2], "rows 3..3 [4.0] None");
        assert_eq!(found.len(), 4);
        assert!(
            windows(&layout(5, &[1], Quantity::Value, false), text)
                .unwrap()
                .is_empty()
        );
    }

    #[test]
    fn no_window_goes_across_a_gap() {
        let text = "day,x\n2020-01-01,1\n2020-01-02,2\n2020-01-03,\n2020-01-04,3\n2020-01-05,\n\
                    2020-01-06,5\n2020-01-07,6\n2020-01-08,7\n";
        let found = windows(&layout(2, &[1], Quantity::Change, true), text).unwrap();
        let want = [
            "2020-01-01..2020-01-02 [1.0, 2.0] None",
            "2020-01-06..2020-01-07 [5.0, 6.0] Some([1.0])",
            "2020-01-07..2020-01-08 [6.0, 7.0] None",
        ];
        assert_eq!(found, want);
    }

    #[test]
    fn time_must_rise() {
        let layout = layout(1, &[1], Quantity::Value, true);
        let error = windows(&layout, "day,x\n2020-01-02,1\n2020-01-01,2\n").unwrap_err();
        assert!(
            error.ends_with("row 2 (line 3), column \"day\": 2020-01-01 comes after 2020-01-02; sort the file by this column"),
            "{error}"
        );
        let error = windows(&layout, "day,x\n2020-01-02,1\n2020-01-02,2\n").unwrap_err();
        assert!(error.contains("comes twice"), "{error}");
        let error = windows(&layout, "day,x\n2.1.2020,1\n").unwrap_err();
        assert!(error.contains("neither an ISO date"), "{error}");
    }
}
