//! Straight lines from baselines to inputs: points of several rows and steps in one batch, and
//! weighted sums over the steps.

use burn::tensor::{IndexingUpdateOp, Int, Tensor};

use crate::{
    error::Error,
    graph::Graph,
    host::widened,
    quadrature::Quadrature,
    run::{Run, Stage},
    target::{Goal, vector},
};

/// One step of one row.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Step {
    pub row: usize,
    /// Where on the line: 0 at the baseline, 1 at the input.
    pub at: f64,
    pub weight: f64,
}

/// Lines for each row of a batch, with everything but the rows flattened.
pub(crate) struct Line {
    from: Tensor<2>,
    way: Tensor<2>,
}

impl Line {
    pub(crate) fn new<const D: usize>(from: Tensor<D>, to: Tensor<D>) -> Self {
        let from = flat(from);
        Line {
            way: flat(to) - from.clone(),
            from,
        }
    }

    pub(crate) fn rows(&self) -> usize {
        self.from.dims()[0]
    }

    /// End minus start.
    pub(crate) fn way(&self) -> Tensor<2> {
        self.way.clone()
    }

    /// One row for each step.
    pub(crate) fn points(&self, steps: &[Step]) -> Tensor<2> {
        let rows = rows_of(steps);
        let at = column(&self.from, steps, |step| step.at);
        select_rows(&self.from, &rows) + select_rows(&self.way, &rows) * at
    }

    /// The integral over the line of each row, from the integrand at given points.
    ///
    /// `integrand` gets the points `[steps, elements]` of one batch, and which they are.
    pub(crate) fn integrate(
        &self,
        rule: Quadrature,
        steps: usize,
        run: &Run,
        batch: usize,
        mut integrand: impl FnMut(Tensor<2>, &[Step]) -> Result<Tensor<2>, Error>,
    ) -> Result<Tensor<2>, Error> {
        let rows = self.rows();
        let all: Vec<Step> = rule
            .nodes(steps)
            .into_iter()
            .flat_map(|(at, weight)| (0..rows).map(move |row| Step { row, at, weight }))
            .collect();
        let mut sum: Option<Tensor<2>> = None;
        run.batches(Stage::Attributing, all.len(), batch, |range| {
            let steps = &all[range];
            let values = widened(integrand(self.points(steps), steps)?);
            let values = values.clone() * column(&values, steps, |step| step.weight);
            sum = Some(add_rows(sum.clone(), rows, steps, values));
            Ok(())
        })?;
        Ok(sum
            .expect("there is at least one step")
            .cast(self.from.dtype()))
    }
}

/// Adds each step's values to those of its row.
pub(crate) fn add_rows(
    sum: Option<Tensor<2>>,
    rows: usize,
    steps: &[Step],
    values: Tensor<2>,
) -> Tensor<2> {
    let shape = [rows, values.dims()[1]];
    let place = (&values.device(), values.dtype());
    let sum = sum.unwrap_or_else(|| Tensor::zeros(shape, place));
    let index = index(&values, &rows_of(steps));
    sum.select_assign(0, index, values, IndexingUpdateOp::Add)
}

/// Some rows, in any order and as often as wanted.
pub(crate) fn select_rows(tensor: &Tensor<2>, rows: &[usize]) -> Tensor<2> {
    tensor.clone().select(0, index(tensor, rows))
}

fn index(like: &Tensor<2>, rows: &[usize]) -> Tensor<1, Int> {
    let rows: Vec<i32> = rows.iter().map(|&row| row as i32).collect();
    Tensor::from_data(rows.as_slice(), &like.device().inner())
}

/// A number for each step, `[steps, 1]`.
fn column(like: &Tensor<2>, steps: &[Step], number: impl Fn(&Step) -> f64) -> Tensor<2> {
    let numbers: Vec<f64> = steps.iter().map(number).collect();
    vector(&numbers, like.dtype(), &like.device().inner()).reshape([steps.len(), 1])
}

/// All axes but the first as one.
pub(crate) fn flat<const D: usize>(tensor: Tensor<D>) -> Tensor<2> {
    let dims = tensor.dims();
    tensor.reshape([dims[0], dims[1..].iter().product()])
}

/// The rows of steps.
pub(crate) fn rows_of(steps: &[Step]) -> Vec<usize> {
    steps.iter().map(|step| step.row).collect()
}

/// Sum of each row's values minus what they should add up to: `end` - `start`.
pub(crate) fn delta(
    values: Tensor<2>,
    end: Tensor<1>,
    start: Tensor<1>,
) -> Result<Vec<f64>, Error> {
    let read = |t: Tensor<1>| t.try_into_vec_as::<f64>().map_err(Error::device);
    let rows = values.dims()[0];
    let sums = read(widened(values).sum_dim(1).reshape([rows]))?;
    let (end, start) = (read(end)?, read(start)?);
    Ok((0..rows).map(|i| sums[i] - (end[i] - start[i])).collect())
}

/// The score of each row of an input.
pub(crate) fn scores<const D: usize>(
    graph: &Graph,
    input: &Tensor<D>,
    goal: &Goal,
    run: &Run,
) -> Result<Tensor<1>, Error> {
    goal.scores(run.without_progress().forward(graph, input)?)
}
