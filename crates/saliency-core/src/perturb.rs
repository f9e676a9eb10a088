//! Scores of inputs of which some values are replaced, and what is made of them.

use std::sync::Arc;

use burn::tensor::{Bool, Int, Tensor, TensorData};

use crate::{
    attribution::{Evidence, Outcome},
    baseline::Baseline,
    error::Error,
    features::Groups,
    model::Model,
    near::Near,
    run::{Run, Stage},
    target::Goal,
};

/// Rows of `input` with values of rows of `others`, and the model that scores them.
pub(crate) struct Probe<'a, const D: usize> {
    model: &'a dyn Model<D>,
    near: Near<'a, D>,
    input: &'a Tensor<D>,
    others: Tensor<D>,
    goal: &'a Goal,
    run: &'a Run<'a>,
}

/// Some of a run's changed inputs: progress is reported as `done + i` of `total`.
#[derive(Clone, Copy)]
pub(crate) struct Part {
    pub count: usize,
    pub done: usize,
    pub total: usize,
}

impl Part {
    pub fn whole(count: usize) -> Self {
        Part {
            count,
            done: 0,
            total: count,
        }
    }
}

impl<'a, const D: usize> Probe<'a, D> {
    /// Values become those of the same row of the baseline.
    pub fn new(
        model: &'a dyn Model<D>,
        input: &'a Tensor<D>,
        baseline: &Baseline,
        goal: &'a Goal,
        run: &'a Run<'a>,
    ) -> Result<Self, Error> {
        Ok(Probe {
            others: baseline.of(input)?,
            near: Near::new(model, input),
            model,
            input,
            goal,
            run,
        })
    }

    /// Values become those of other rows of the batch.
    pub fn among_rows(
        model: &'a dyn Model<D>,
        input: &'a Tensor<D>,
        goal: &'a Goal,
        run: &'a Run<'a>,
    ) -> Self {
        Probe {
            others: input.clone(),
            near: Near::new(model, input),
            model,
            input,
            goal,
            run,
        }
    }

    pub fn rows(&self) -> usize {
        self.input.dims()[0]
    }

    pub fn row_len(&self) -> usize {
        self.input.dims()[1..].iter().product()
    }

    /// What replaces the values, on the host.
    pub fn others(&self) -> Result<Vec<f64>, Error> {
        read(self.others.clone())
    }

    /// f(x) of each row.
    pub fn plain(&self) -> Result<Vec<f64>, Error> {
        let outputs = match self.goal.reference() {
            Some(outputs) => outputs.clone(),
            None => self.run.forward(self.model, self.input)?,
        };
        read(self.goal.scores(outputs)?)
    }

    /// f at the baseline of each row.
    pub fn baseline(&self) -> Result<Vec<f64>, Error> {
        self.scores(Part::whole(self.rows()), |row, replaced| {
            replaced.fill(true);
            (row, row)
        })
    }

    /// Scores of changed inputs. `change` marks which values of changed input `i` are
    /// replaced, and returns its row and the row that the others come from.
    pub fn scores(
        &self,
        part: Part,
        change: impl Fn(usize, &mut [bool]) -> (usize, usize),
    ) -> Result<Vec<f64>, Error> {
        let (len, device) = (self.row_len(), self.input.device());
        let mut scores = Vec::with_capacity(part.count);
        let pick = |tensor: &Tensor<D>, rows: &[usize]| {
            if tensor.dims()[0] == 1 {
                return tensor.clone().repeat_dim(0, rows.len());
            }
            let rows: Vec<i32> = rows.iter().map(|&row| row as i32).collect();
            let rows = Tensor::<1, Int>::from_data(TensorData::from(rows.as_slice()), &device);
            tensor.clone().select(0, rows)
        };
        let quiet = self.run.without_progress();
        quiet.batches(
            Stage::Attributing,
            part.count,
            self.run.rows(self.input),
            |range| {
                let end = range.end;
                let mut shape = self.input.dims();
                shape[0] = range.len();
                let mut replaced = vec![false; range.len() * len];
                let (mut rows, mut others) = (Vec::new(), Vec::new());
                for (i, replaced) in range.zip(replaced.chunks_mut(len)) {
                    let (row, other) = change(i, replaced);
                    rows.push(row);
                    others.push(other);
                }
                let mask = Tensor::<D, Bool>::from_data(TensorData::new(replaced, shape), &device);
                let changed = pick(self.input, &rows).mask_where(mask, pick(&self.others, &others));
                let outputs = self.near.call(self.run, changed, &rows)?;
                scores.extend(read(self.goal.pick(&rows).scores(outputs)?)?);
                self.run
                    .report(Stage::Attributing, part.done + end, part.total)
            },
        )?;
        Ok(scores)
    }

    /// One value for each group of each row, given to all values of the group; with `errors`,
    /// their standard errors.
    pub fn outcome(
        &self,
        groups: &[Arc<Groups>],
        values: &[Vec<f64>],
        errors: Option<&[Vec<f64>]>,
    ) -> Outcome<D> {
        let spread = |values: &[Vec<f64>]| {
            let all = groups.iter().zip(values);
            let all = all.flat_map(|(groups, values)| groups.ids.iter().map(|&id| values[id]));
            self.tensor(all.collect())
        };
        Outcome {
            values: spread(values),
            evidence: Evidence {
                standard_error: errors.map(spread),
                ..Evidence::default()
            },
        }
    }

    /// Values of all rows, shaped like the input.
    pub fn tensor(&self, values: Vec<f64>) -> Tensor<D> {
        let dtype = self.input.dtype();
        let data = TensorData::new(values, self.input.dims()).convert_dtype(dtype);
        Tensor::from_data(data, (&self.input.device(), dtype))
    }
}

pub(crate) fn read<const D: usize>(tensor: Tensor<D>) -> Result<Vec<f64>, Error> {
    tensor.try_into_vec_as::<f64>().map_err(Error::device)
}

/// The jobs of rows with different numbers of them, one after the other: (row, job of the
/// row) of job `i`.
pub(crate) struct Jobs(Vec<usize>);

impl Jobs {
    pub fn new(of_rows: impl Iterator<Item = usize>) -> Self {
        let mut starts = vec![0];
        for jobs in of_rows {
            starts.push(starts.last().expect("there is one") + jobs);
        }
        Jobs(starts)
    }

    pub fn total(&self) -> usize {
        *self.0.last().expect("there is one")
    }

    pub fn get(&self, i: usize) -> (usize, usize) {
        let row = self.0.partition_point(|&start| start <= i) - 1;
        (row, i - self.0[row])
    }

    /// Results of all jobs, row by row.
    pub fn split<'a, T>(&'a self, results: &'a [T]) -> impl Iterator<Item = &'a [T]> {
        self.0.windows(2).map(|ends| &results[ends[0]..ends[1]])
    }
}

/// Running mean and standard error of vectors (Welford).
#[derive(Clone, Debug, Default)]
pub(crate) struct Running {
    count: usize,
    mean: Vec<f64>,
    deviations: Vec<f64>,
}

impl Running {
    pub fn add(&mut self, sample: &[f64]) {
        self.count += 1;
        self.mean.resize(sample.len(), 0.0);
        self.deviations.resize(sample.len(), 0.0);
        for ((value, mean), deviation) in
            sample.iter().zip(&mut self.mean).zip(&mut self.deviations)
        {
            let gap = value - *mean;
            *mean += gap / self.count as f64;
            *deviation += gap * (value - *mean);
        }
    }

    pub fn mean(&self) -> &[f64] {
        &self.mean
    }

    /// Whether the relative error of the mean is at most this.
    pub fn is_within(&self, tolerance: f64) -> bool {
        self.standard_error()
            .is_some_and(|errors| relative_error(&self.mean, &errors) <= tolerance)
    }

    /// `None` for fewer than two samples.
    pub fn standard_error(&self) -> Option<Vec<f64>> {
        let n = self.count as f64;
        let error = |d: &f64| (d / (n - 1.0) / n).sqrt();
        (self.count > 1).then(|| self.deviations.iter().map(error).collect())
    }
}

/// ||errors|| / ||values||; zero where there are no errors at all.
pub(crate) fn relative_error(values: &[f64], errors: &[f64]) -> f64 {
    let norm = |v: &[f64]| v.iter().map(|v| v * v).sum::<f64>().sqrt();
    match norm(errors) {
        0.0 => 0.0,
        errors => errors / norm(values),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jobs_are_counted_row_by_row() {
        let jobs = Jobs::new([2, 0, 3].into_iter());
        let all: Vec<_> = (0..jobs.total()).map(|i| jobs.get(i)).collect();
        assert_eq!(all, [(0, 0), (0, 1), (2, 0), (2, 1), (2, 2)]);
        let split: Vec<_> = jobs.split(&[1, 2, 3, 4, 5]).map(<[i32]>::to_vec).collect();
        assert_eq!(split, [vec![1, 2], vec![], vec![3, 4, 5]]);
    }

    #[test]
    fn running_moments_are_those_of_the_definition() {
        let mut running = Running::default();
        for value in [1.0, 2.0, 6.0] {
            running.add(&[value, 1e9 + value]);
        }
        assert_eq!(running.mean(), [3.0, 1e9 + 3.0]);
        let want = (7.0_f64 / 3.0).sqrt();
        for error in running.standard_error().unwrap() {
            assert!((error - want).abs() < 1e-6, "{error} {want}");
        }
    }
}
