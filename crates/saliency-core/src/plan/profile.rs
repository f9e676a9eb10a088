//! How long each step of a plan takes.

use std::{
    sync::Mutex,
    time::{Duration, Instant},
};

use super::{Plan, run::ReluRule, step::Step};

/// When each step of a pass began, where someone asks.
#[derive(Debug, Default)]
pub(super) struct Clock(Mutex<Option<Vec<(usize, Instant)>>>);

impl Clock {
    pub fn begins(&self, step: usize) {
        if let Some(begun) = self.begun().as_mut() {
            begun.push((step, Instant::now()));
        }
    }

    fn begun(&self) -> std::sync::MutexGuard<'_, Option<Vec<(usize, Instant)>>> {
        self.0.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// What `pass` returns, and the time of each of `steps`: from its beginning to that of the
    /// next one.
    fn watch<T>(&self, steps: usize, pass: impl FnOnce() -> T) -> (T, Vec<Duration>) {
        *self.begun() = Some(Vec::new());
        let found = pass();
        let end = Instant::now();
        let begun = self.begun().take().unwrap_or_default();
        let mut times = vec![Duration::ZERO; steps];
        let ends = begun.iter().skip(1).map(|(_, next)| *next).chain([end]);
        for ((step, start), end) in begun.iter().zip(ends) {
            times[*step] += end - *start;
        }
        (found, times)
    }
}

/// One step, and the times that it took in each pass.
pub(crate) struct StepTimes {
    /// The layer, for convolutions and linear layers.
    pub name: Option<String>,
    pub kind: String,
    pub forward: Vec<Duration>,
    pub backward: Vec<Duration>,
    /// Multiplications and additions of one pass in one direction.
    pub operations: usize,
}

impl Plan {
    /// Passes forward and back, after one that is not counted. Only for a plan that nobody else
    /// runs meanwhile.
    pub fn profile(&self, input: &[f32], rows: usize, passes: usize) -> Vec<StepTimes> {
        let mut found: Vec<StepTimes> = self.steps.iter().map(|s| self.describe(s, rows)).collect();
        for pass in 0..=passes {
            let ((outputs, tape), forward) = self
                .clock
                .watch(found.len(), || self.forward_taped(input, rows, None));
            let columns = outputs.len() / rows;
            let seed: Vec<f32> = (0..outputs.len())
                .map(|i| f32::from(u8::from(i % columns == 0)))
                .collect();
            let (_, backward) = self.clock.watch(found.len(), || {
                self.backward(&tape, &seed, ReluRule::Derivative)
            });
            self.recycle(tape);
            if pass > 0 {
                for ((step, forward), backward) in found.iter_mut().zip(forward).zip(backward) {
                    step.forward.push(forward);
                    step.backward.push(backward);
                }
            }
        }
        found
    }

    fn describe(&self, step: &Step, rows: usize) -> StepTimes {
        let (name, kind, operations) = match step {
            Step::Conv(conv) => {
                let [height, width] = conv.grid;
                let [a, b] = conv.kernel;
                let inputs = self.buffers[conv.from].channels;
                let outputs = conv.to.channels;
                let stride = match conv.stride {
                    [1, 1] => String::new(),
                    [down, across] if down == across => format!("/{down}"),
                    [down, across] => format!("/{down}x{across}"),
                };
                let kind = format!("conv {a}x{b}{stride}, {inputs} to {outputs}, {height}x{width}");
                let operations = 2 * rows * height * width * a * b * inputs * outputs;
                (Some(conv.name.clone()), kind, operations)
            }
            Step::MaxPool { .. } => (None, "max_pool".into(), 0),
            Step::Mean { .. } => (None, "mean".into(), 0),
            Step::Add { .. } => (None, "add".into(), 0),
            Step::Relu { .. } => (None, "relu".into(), 0),
            Step::Depthwise(layer) => {
                let [a, b] = layer.strides.kernel;
                let to = self.buffers[layer.to];
                let kind = match layer.name {
                    Some(_) => "depthwise conv",
                    None => "average pool",
                };
                let kind = format!(
                    "{kind} {a}x{b}, {}, {}x{}",
                    to.channels, to.height, to.width
                );
                let operations = 2 * rows * a * b * to.channels * to.positions();
                (layer.name.clone(), kind, operations)
            }
            Step::Gate { .. } => (None, "mul".into(), 0),
            Step::Activate { function, .. } => (None, function.name().into(), 0),
            Step::Affine { .. } => (None, "affine".into(), 0),
            Step::Norm { .. } => (None, "layer_norm".into(), 0),
            Step::Softmax { .. } => (None, "softmax".into(), 0),
            Step::Attention(attention) => {
                let (heads, size) = (attention.heads, attention.size);
                let (queries, keys) = (attention.queries.positions, attention.keys.positions);
                let kind = format!("attention, {heads} of {size}, {queries} to {keys}");
                (None, kind, 4 * rows * heads * size * queries * keys)
            }
            Step::Copy { .. } => (None, "copy".into(), 0),
            Step::Fill { .. } => (None, "fill".into(), 0),
        };
        StepTimes {
            name,
            kind,
            forward: Vec::new(),
            backward: Vec::new(),
            operations,
        }
    }
}
