use std::{
    cell::Cell,
    fmt,
    ops::{ControlFlow, Range},
    panic::{AssertUnwindSafe, catch_unwind},
};

use burn::tensor::Tensor;

use crate::{
    attribution::Evaluations,
    error::{Error, one_line},
    model::Model,
};

/// Counts the rows that go through the model.
#[derive(Debug, Default)]
pub(crate) struct Counter {
    forward: Cell<usize>,
    gradient: Cell<usize>,
}

impl Counter {
    pub(crate) fn total(&self) -> Evaluations {
        Evaluations {
            forward: self.forward.get(),
            gradient: self.gradient.get(),
        }
    }
}

/// What is being done, for progress and for [`Error::Cancelled`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Stage {
    /// Plain forward passes: scores and targets.
    Scoring,
    /// Gradients or other attributions of the inputs themselves.
    Attributing,
    /// Attributions of noisy samples.
    Sampling,
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Stage::Scoring => "scoring",
            Stage::Attributing => "attributing",
            Stage::Sampling => "sampling",
        })
    }
}

/// How far a run is: `done` of `total` rows of the current stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// What is being done.
    pub stage: Stage,
    /// Rows finished.
    pub done: usize,
    /// Rows in this stage.
    pub total: usize,
}

/// How many rows go through the model at once.
///
/// Results do not depend on it beyond rounding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BatchSize {
    /// Exactly this many (the last batch may be smaller).
    Rows(usize),
    /// As many as are expected to fit in this many bytes. The estimate is 256 times the
    /// input's own size a row, which covers the activations that a backward pass keeps
    /// through a ResNet50 in f32 (about 150 MB for 3x224x224); never more than 64 rows
    /// of images or 4096 rows of at most 4096 values. Where the model is a
    /// [`Graph`](crate::Graph), its own activations are counted instead.
    Memory(usize),
}

impl Default for BatchSize {
    /// Two gibibytes.
    fn default() -> Self {
        BatchSize::Memory(2 << 30)
    }
}

impl BatchSize {
    /// Rows in one batch, for rows of `elements` values of `bytes` bytes each.
    ///
    /// ```
    /// use saliency_core::BatchSize;
    /// assert_eq!(BatchSize::Rows(5).rows(3 * 224 * 224, 4), 5);
    /// assert_eq!(BatchSize::default().rows(3 * 224 * 224, 4), 13);
    /// ```
    pub fn rows(self, elements: usize, bytes: usize) -> usize {
        const ACTIVATIONS_PER_INPUT: usize = 256;
        match self {
            BatchSize::Rows(rows) => rows.max(1),
            BatchSize::Memory(budget) => {
                let row = elements.max(1) * bytes.max(1) * ACTIVATIONS_PER_INPUT;
                let most = if elements <= 4096 { 4096 } else { 64 };
                (budget / row).clamp(1, most)
            }
        }
    }
}

/// Whether [`Method::explain`](crate::Method::explain) makes sure that the model is in
/// inference mode.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ModeCheck {
    /// Compare outputs with and without gradient tracking, and fail with
    /// [`Error::TrainingMode`] where they differ. The comparison itself moves the running
    /// statistics of a BatchNorm in training mode, as any training pass does.
    #[default]
    Check,
    /// Trust the caller.
    Skip,
}

/// A progress callback: it is told how far the run is, and may stop it.
pub type ProgressFn<'a> = &'a dyn Fn(Progress) -> ControlFlow<()>;

/// How to run a method: batch size, progress, cancellation.
///
/// ```
/// use std::{cell::Cell, ops::ControlFlow};
/// use burn::tensor::{Device, Tensor};
/// use saliency_core::{BatchSize, Gradient, Method, Run, Target};
///
/// let seen = Cell::new(0);
/// let progress = |p: saliency_core::Progress| { seen.set(p.done); ControlFlow::Continue(()) };
/// let run = Run::new().batch_size(BatchSize::Rows(2)).progress(&progress);
/// let x = Tensor::<2>::ones([5, 3], &Device::flex());
/// Gradient.explain_with(&|x: Tensor<2>| x, x, &Target::Class(0), &run)?;
/// assert_eq!(seen.get(), 5);
/// # Ok::<(), saliency_core::Error>(())
/// ```
#[derive(Clone, Copy, Default)]
pub struct Run<'a> {
    batch_size: BatchSize,
    mode_check: ModeCheck,
    progress: Option<ProgressFn<'a>>,
    counter: Option<&'a Counter>,
    /// What a row of the model's own activations takes, where that is known.
    row_bytes: Option<usize>,
    /// How many rows' memory a row takes beyond one.
    beside: usize,
}

impl fmt::Debug for Run<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Run")
            .field("batch_size", &self.batch_size)
            .field("mode_check", &self.mode_check)
            .field("progress", &self.progress.is_some())
            .finish()
    }
}

impl<'a> Run<'a> {
    /// The defaults: batches of at most 2 GiB, mode checked, no progress.
    pub fn new() -> Self {
        Self::default()
    }

    /// Rows per batch.
    pub fn batch_size(mut self, batch_size: BatchSize) -> Self {
        self.batch_size = batch_size;
        self
    }

    /// Whether to check that the model is in inference mode.
    pub fn mode_check(mut self, mode_check: ModeCheck) -> Self {
        self.mode_check = mode_check;
        self
    }

    /// Called after each batch; `ControlFlow::Break` ends the run with [`Error::Cancelled`].
    ///
    /// ```
    /// use std::ops::ControlFlow;
    /// use burn::tensor::{Device, Tensor};
    /// use saliency_core::{Error, Gradient, Method, Run, Stage, Target};
    /// let x = Tensor::<2>::ones([1, 3], &Device::flex());
    /// let run = Run::new().progress(&|_| ControlFlow::Break(()));
    /// let outcome = Gradient.explain_with(&|x: Tensor<2>| x, x, &Target::Class(0), &run);
    /// assert_eq!(outcome.unwrap_err(), Error::Cancelled { stage: Stage::Scoring });
    /// ```
    pub fn progress(mut self, progress: ProgressFn<'a>) -> Self {
        self.progress = Some(progress);
        self
    }

    pub(crate) fn checks_mode(&self) -> bool {
        self.mode_check == ModeCheck::Check
    }

    pub(crate) fn without_progress(self) -> Run<'a> {
        Run {
            progress: None,
            ..self
        }
    }

    pub(crate) fn counting<'b>(&self, counter: &'b Counter) -> Run<'b>
    where
        'a: 'b,
    {
        Run {
            counter: Some(counter),
            ..*self
        }
    }

    /// Adds to the evaluations of the attribution. For methods that run a graph by themselves;
    /// [`call`](Run::call) counts by itself.
    pub fn count(&self, evaluations: Evaluations) {
        if let Some(counter) = self.counter {
            counter
                .forward
                .set(counter.forward.get() + evaluations.forward);
            counter
                .gradient
                .set(counter.gradient.get() + evaluations.gradient);
        }
    }

    /// One pass through the model, as it is: no batches. Panics of the model become errors,
    /// the output's shape is checked, and the rows are counted (as gradient evaluations where
    /// `input` is on the tape).
    ///
    /// # Errors
    /// [`Error::ModelOutput`], [`Error::ModelPanicked`], [`Error::OutOfMemory`].
    pub fn call<const D: usize>(
        &self,
        model: &dyn Model<D>,
        input: Tensor<D>,
    ) -> Result<Tensor<2>, Error> {
        let rows = input.dims()[0];
        self.count(match input.is_tracked() {
            true => Evaluations {
                gradient: rows,
                forward: 0,
            },
            false => Evaluations {
                forward: rows,
                gradient: 0,
            },
        });
        forward(model, input)
    }

    /// Tells the progress callback; fails with [`Error::Cancelled`] where it says so.
    ///
    /// # Errors
    /// [`Error::Cancelled`].
    pub fn report(&self, stage: Stage, done: usize, total: usize) -> Result<(), Error> {
        match self.progress.map(|f| f(Progress { stage, done, total })) {
            Some(ControlFlow::Break(())) => Err(Error::Cancelled { stage }),
            _ => Ok(()),
        }
    }

    /// With the memory that a row of the model takes, where its inside is known.
    pub(crate) fn sized_for<const D: usize>(self, model: &dyn Model<D>) -> Self {
        Run {
            row_bytes: model.graph().map(|graph| graph.row_bytes()),
            // Graphs are always in inference mode.
            mode_check: match model.graph() {
                Some(_) => ModeCheck::Skip,
                None => self.mode_check,
            },
            ..self
        }
    }

    /// For methods that hold the memory of several passes for each row, such as DeepLIFT's two
    /// sets of activations: batches of so many times fewer rows.
    pub(crate) fn holding(self, passes: usize) -> Self {
        Run {
            beside: passes.saturating_sub(1),
            ..self
        }
    }

    /// Rows per batch for inputs like `input`.
    pub fn rows<const D: usize>(&self, input: &Tensor<D>) -> usize {
        let elements = input.dims()[1..].iter().product();
        let rows = match (self.batch_size, self.row_bytes) {
            (BatchSize::Memory(budget), Some(bytes)) => (budget / bytes.max(1)).clamp(1, 4096),
            (batch, _) => batch.rows(elements, input.dtype().size()),
        };
        rows.div_ceil(self.beside + 1)
    }

    /// Runs `work` over `0..total` in batches, reporting progress after each. A batch that
    /// the device has no memory for is done again in halves, and so are those after it,
    /// whether `work` returns that or Burn panics under it: it must have no lasting effect
    /// where it fails. Other panics become errors too.
    ///
    /// ```
    /// use saliency_core::{Error, Run, Stage};
    /// let mut done = Vec::new();
    /// Run::new().batches(Stage::Sampling, 10, 8, |range| {
    ///     if range.len() > 3 {
    ///         return Err(Error::OutOfMemory { message: "too large".into() });
    ///     }
    ///     done.push(range);
    ///     Ok(())
    /// })?;
    /// assert_eq!(done, [0..2, 2..4, 4..6, 6..8, 8..10]);
    /// # Ok::<(), Error>(())
    /// ```
    ///
    /// # Errors
    /// Those of `work`; [`Error::Cancelled`]; [`Error::Device`] where it panics.
    pub fn batches(
        &self,
        stage: Stage,
        total: usize,
        batch: usize,
        mut work: impl FnMut(Range<usize>) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let mut batch = batch.max(1);
        let mut start = 0;
        while start < total {
            let end = (start + batch).min(total);
            let found =
                caught(|| work(start..end)).unwrap_or_else(|message| Err(Error::device(message)));
            match found {
                Err(Error::OutOfMemory { .. }) if end - start > 1 => {
                    batch = (end - start) / 2;
                    continue;
                }
                other => other?,
            }
            self.report(stage, end, total)?;
            start = end;
        }
        Ok(())
    }

    /// Plain outputs `[rows, outputs]`, batch by batch.
    ///
    /// ```
    /// use burn::tensor::{Device, Tensor};
    /// use saliency_core::{BatchSize, Run};
    /// let x = Tensor::<2>::ones([5, 3], &Device::flex());
    /// let run = Run::new().batch_size(BatchSize::Rows(2));
    /// let sums = run.forward(&|x: Tensor<2>| x.sum_dim(1), &x)?;
    /// assert_eq!(sums.try_into_vec_as::<f32>()?, [3.0; 5]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::ModelOutput`], [`Error::ModelPanicked`], [`Error::Cancelled`].
    pub fn forward<const D: usize>(
        &self,
        model: &dyn Model<D>,
        input: &Tensor<D>,
    ) -> Result<Tensor<2>, Error> {
        let total = input.dims()[0];
        if total == 0 {
            return Err(Error::EmptyInput {
                shape: input.dims().to_vec(),
            });
        }
        let mut outputs = Vec::new();
        self.batches(Stage::Scoring, total, self.rows(input), |range| {
            let batch = input.clone().narrow(0, range.start, range.len());
            outputs.push(self.call(model, batch)?.inner());
            Ok(())
        })?;
        Ok(join(outputs))
    }
}

/// One pass through the model, with its shape checked and its panics caught.
pub(crate) fn forward<const D: usize>(
    model: &dyn Model<D>,
    input: Tensor<D>,
) -> Result<Tensor<2>, Error> {
    let shape = input.dims();
    let outputs = guarded(&shape, || model.forward(input))?;
    match outputs.dims() {
        [rows, columns] if rows == shape[0] && columns > 0 => Ok(outputs),
        got => Err(Error::ModelOutput {
            rows: shape[0],
            got: got.to_vec(),
        }),
    }
}

/// Turns a panic of the model (or of Burn under it) into an error.
pub(crate) fn guarded<T>(shape: &[usize], work: impl FnOnce() -> T) -> Result<T, Error> {
    caught(work).map_err(|message| match is_out_of_memory(&message) {
        true => Error::OutOfMemory {
            message: one_line(&message),
        },
        false => Error::ModelPanicked {
            shape: shape.to_vec(),
            message: one_line(&message),
        },
    })
}

/// The message of a panic.
fn caught<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(work)).map_err(|payload| {
        let message = payload.downcast_ref::<String>().map(String::as_str);
        message
            .or_else(|| payload.downcast_ref::<&str>().copied())
            .unwrap_or("it panicked without a message")
            .to_owned()
    })
}

/// What allocators of wgpu, CUDA and the host say when there is no memory left.
pub(crate) fn is_out_of_memory(message: &str) -> bool {
    let message = message.to_lowercase();
    [
        "out of memory",
        "outofmemory",
        "out_of_memory",
        "memory allocation",
        "buffertoobig",
        "buffer too big",
        "not enough memory",
    ]
    .iter()
    .any(|sign| message.contains(sign))
}

pub(crate) fn join<const D: usize>(mut parts: Vec<Tensor<D>>) -> Tensor<D> {
    match parts.len() {
        1 => parts.remove(0),
        _ => Tensor::cat(parts, 0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Method, Needs, Recipe, Target,
        methods::testing::{Net, image, net_graph},
    };
    use burn::tensor::Device;

    /// A device with memory for so many rows, which panics as wgpu does, in a model that is a
    /// closure.
    fn small_device(most: usize) -> impl Fn(Tensor<4>) -> Tensor<2> {
        let net = Net::relu(&Device::flex());
        move |x: Tensor<4>| {
            let rows = x.dims()[0];
            assert!(
                rows <= most,
                "Buffer allocation of {rows} rows: out of memory"
            );
            net.forward(x)
        }
    }

    /// Every method that works on a closure ends with the values it has with all the memory.
    #[test]
    fn every_method_goes_on_in_smaller_batches() {
        let plenty = Net::relu(&Device::flex());
        for info in Recipe::METHODS {
            if info.needs == Needs::Graph {
                continue;
            }
            let recipe = cheap(Recipe::named(info.name).unwrap());
            let little = small_device(match recipe {
                // The six areas of a row go together.
                Recipe::ExtremalPerturbation(_) => 8,
                _ => 2,
            });
            let explain = |model: &dyn Model<4>| {
                let run = Run::new().batch_size(BatchSize::Rows(16));
                recipe
                    .explain_with(model, image(3, 2), &Target::Class(1), &run)
                    .unwrap_or_else(|error| panic!("{}: {error}", info.name))
                    .values
            };
            let (got, want) = (explain(&little), explain(&plenty));
            let error = crate::host::relative_l2(&got, &want).unwrap();
            assert!(error < 1e-4, "{}: {error:e}", info.name);
        }
    }

    /// The same with few samples and steps.
    fn cheap(mut recipe: Recipe) -> Recipe {
        for (option, value) in [("samples", 8), ("steps", 4), ("grid", 3)] {
            if let Ok(fewer) = recipe.with(option, value) {
                recipe = fewer;
            }
        }
        recipe
    }

    /// Panics of the method's own tensors, beside the model: each batch fails once after half of
    /// its work, and nothing is counted twice or lost.
    #[test]
    fn a_panic_in_a_batch_halves_it_and_loses_nothing() {
        let mut sum = 0;
        let run = Run::new();
        run.batches(Stage::Sampling, 10, 8, |range| {
            let found: usize = range.clone().sum();
            assert!(range.len() <= 3, "out of memory");
            sum += found;
            Ok(())
        })
        .unwrap();
        assert_eq!(sum, 45);
        let error = run.batches(Stage::Sampling, 4, 2, |_| panic!("a bug"));
        assert!(error.unwrap_err().to_string().contains("a bug"));
        let error = run.batches(Stage::Sampling, 4, 2, |_| panic!("out of memory"));
        assert!(matches!(error.unwrap_err(), Error::OutOfMemory { .. }));
    }

    /// What a batch holds beside the activations of its rows counts.
    #[test]
    fn batches_of_methods_that_hold_more_are_smaller() {
        let x = image(1, 1);
        let run = Run::new().batch_size(BatchSize::Rows(9));
        assert_eq!(run.holding(2).rows(&x), 5);
        let graph = net_graph();
        let all = graph.activations(x.clone().into()).unwrap();
        let held: usize = (graph.nodes())
            .filter(|(_, node)| node.op != crate::graph::Op::Constant)
            .filter_map(|(id, _)| all.get(id))
            .map(|value| 4 * value.shape().iter().product::<usize>())
            .sum();
        assert_eq!(graph.row_bytes(), held + 3 * 4 * 6 * 9 * 8);
        let budget = BatchSize::Memory(8 * graph.row_bytes());
        let run = Run::new().batch_size(budget).sized_for::<4>(&graph);
        assert_eq!((run.rows(&x), run.holding(2).rows(&x)), (8, 4));
    }
}
