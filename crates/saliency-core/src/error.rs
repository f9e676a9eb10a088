use crate::run::Stage;

/// Everything that can go wrong in this crate. Each message is one line that says what
/// was wrong, where, and what to do about it.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The input has a dimension of size zero.
    #[error(
        "the input is empty: its shape is {shape:?}; give at least one row with at least one value"
    )]
    EmptyInput {
        /// Shape of the input.
        shape: Vec<usize>,
    },
    /// An input has another shape than this operation takes.
    #[error("wrong shape for {what}: expected {expected}, got {got:?}")]
    Shape {
        /// What has the wrong shape.
        what: &'static str,
        /// What was expected, in words.
        expected: String,
        /// The shape that was given.
        got: Vec<usize>,
    },
    /// A NaN or an infinity.
    #[error("{what} has {value} at row {row}, element {element}; {}", hint(.what))]
    NonFinite {
        /// Which tensor: `the input`, `the model's output` or `the attribution`.
        what: &'static str,
        /// `NaN`, `inf` or `-inf`.
        value: &'static str,
        /// Row of the batch.
        row: usize,
        /// Index within the row, in row-major order.
        element: usize,
    },
    /// The model returned another number of rows than it was given.
    #[error(
        "the model returned shape {got:?} for {rows} input rows; it must return [{rows}, outputs] with each output row computed from its own input row"
    )]
    ModelOutput {
        /// Rows that were given.
        rows: usize,
        /// Shape that was returned.
        got: Vec<usize>,
    },
    /// The model panicked, most often because the input has a shape it cannot take.
    #[error("the model failed on an input of shape {shape:?}: {message}")]
    ModelPanicked {
        /// Shape of the input.
        shape: Vec<usize>,
        /// The panic's message, on one line.
        message: String,
    },
    /// The class does not exist.
    #[error("there is no class {class}: the model has {classes} outputs, numbered 0 to {}", .classes.saturating_sub(1))]
    UnknownClass {
        /// The class asked for.
        class: usize,
        /// Number of the model's outputs.
        classes: usize,
    },
    /// A per-row target or weight vector has the wrong length.
    #[error("the target has {got} {what}, but the {of} has {expected}")]
    TargetLength {
        /// What is counted.
        what: &'static str,
        /// What it must match: `input` rows or `model` outputs.
        of: &'static str,
        /// How many the target has.
        got: usize,
        /// How many there must be.
        expected: usize,
    },
    /// `Target::Regression` on a model with several outputs.
    #[error(
        "a regression target needs a model with one output; this one has {outputs}: choose one with Target::Class"
    )]
    NotRegression {
        /// Number of the model's outputs.
        outputs: usize,
    },
    /// The model behaves differently when gradients are tracked: BatchNorm or dropout in
    /// training mode.
    #[error(
        "the model is in training mode: its outputs change by {difference:.1e} (relative) when gradients are tracked; call `model.valid()` before explaining it"
    )]
    TrainingMode {
        /// Relative L2 distance between the outputs with and without tracking.
        difference: f64,
    },
    /// No gradient reaches the input.
    #[error(
        "the model is not differentiable in its input: no gradient reaches it (a detach, a cast to int, or data read back to the host cuts the graph); use a perturbation method or remove the cut"
    )]
    NotDifferentiable,
    /// An option of a method or analysis is out of range.
    #[error("{option} = {value}: {requirement}")]
    Option {
        /// Name of the option.
        option: &'static str,
        /// The value given.
        value: String,
        /// What is required of it.
        requirement: &'static str,
    },
    /// There is no method of this name.
    #[error("there is no method {name:?}; choose one of {known}")]
    UnknownMethod {
        /// The name asked for.
        name: String,
        /// The names there are.
        known: String,
    },
    /// A method has no option of this name.
    #[error("{method} has no option {option:?}; it has {known}")]
    UnknownOption {
        /// The method.
        method: String,
        /// The option asked for.
        option: String,
        /// The options there are.
        known: String,
    },
    /// A recipe that is not one: an option of the wrong kind, unknown fields, ...
    #[error("wrong recipe: {message}")]
    Recipe {
        /// What is wrong with it.
        message: String,
    },
    /// A method that looks inside the model was given one without an inside.
    #[error(
        "{method} needs the layers of the model, which a closure does not have: trace the module with Graph::trace, or use a method that needs scores or gradients only"
    )]
    NeedsGraph {
        /// The method.
        method: String,
    },
    /// An operation of the model that a [`Graph`](crate::Graph) cannot run.
    #[error(
        "the model uses {op}, which a graph cannot run (in {place}); methods that need gradients or scores only work on the model itself"
    )]
    UnsupportedOp {
        /// Burn's name of the operation.
        op: String,
        /// Where it came from.
        place: String,
    },
    /// The forward pass cannot be recorded.
    #[error("the model cannot be traced: {message}")]
    Trace {
        /// Why.
        message: String,
    },
    /// A graph that is not compiled was to be profiled.
    #[error(
        "a profile needs a graph compiled for the CPU (flex, f32, the operations of a convolutional network); this one runs on Burn's own operations"
    )]
    NotCompiled,
    /// There is no layer of this name.
    #[error("there is no layer {name:?}: {hint}")]
    UnknownLayer {
        /// The name asked for.
        name: String,
        /// The nearest names.
        hint: String,
    },
    /// A graph cannot be cut in two at a layer.
    #[error("the graph cannot be cut at {layer}: {why}")]
    NotACut {
        /// The layer.
        layer: String,
        /// Why not.
        why: String,
    },
    /// No layer of the model has positions.
    #[error(
        "no layer of the model has positions (shape [rows, channels, positions ...]): name a layer, or use another method"
    )]
    NoSpatialLayer,
    /// No layer of the model has attention weights.
    #[error(
        "the model has no attention weights (a softmax of shape [rows, heads, tokens, tokens]): use a method for any network, such as gradients or Grad-CAM"
    )]
    NoAttention,
    /// The device has no memory left.
    #[error("out of memory: {message}; use a smaller batch size, or the CPU")]
    OutOfMemory {
        /// The backend's message, on one line.
        message: String,
    },
    /// The progress callback asked to stop.
    #[error("cancelled while {stage}")]
    Cancelled {
        /// What was being done.
        stage: Stage,
    },
    /// The device failed (out of memory, lost, ...).
    #[error("the device failed: {message}; a smaller batch size or the CPU may help")]
    Device {
        /// The backend's message, on one line.
        message: String,
    },
}

fn hint(what: &str) -> &'static str {
    match what {
        "the input" => "clean or impute the data first",
        "the map" => "maps must be finite",
        "the score" => "check the custom score at these outputs",
        "the model's output" => "check the weights and the preprocessing",
        _ => {
            "the model's gradient is not defined there: check the weights, or use f32 instead of f16"
        }
    }
}

impl Error {
    pub(crate) fn option(
        option: &'static str,
        value: impl ToString,
        requirement: &'static str,
    ) -> Self {
        Error::Option {
            option,
            value: value.to_string(),
            requirement,
        }
    }

    pub(crate) fn trace(message: String) -> Self {
        Error::Trace { message }
    }

    pub(crate) fn device(error: impl ToString) -> Self {
        let text = error.to_string();
        let message = one_line(&text);
        match crate::run::is_out_of_memory(&text) {
            true => Error::OutOfMemory { message },
            false => Error::Device { message },
        }
    }
}

/// What a message of Burn says, without its frames of "an error happened, caused by" and
/// without backtraces, on one line.
pub(crate) fn one_line(text: &str) -> String {
    const LONGEST: usize = 400;
    let frames = ["An error happened during execution", "Caused by:"];
    let lines = || {
        text.lines()
            .map(str::trim)
            .filter(|line| !line.is_empty())
            .take_while(|line| !line.to_lowercase().starts_with("backtrace"))
    };
    let said: Vec<_> = lines().filter(|line| !frames.contains(line)).collect();
    let said = match said.is_empty() {
        true => lines().collect::<Vec<_>>().join(" "),
        false => said.join(" "),
    };
    match said.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{} ...", &said[..end]),
        None => said,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn causes_are_told_on_one_line() {
        let nested = "An error happened during execution\nCaused by:\n  The device\n  is lost\nBacktrace:\n 0: main";
        assert_eq!(one_line(nested), "The device is lost");
        assert_eq!(one_line("\nCaused by:\n"), "Caused by:");
        assert_eq!(one_line(&"x".repeat(500)).len(), 404);
        let full = Error::device("An error happened during execution\nCaused by:\nOut of memory");
        assert!(matches!(full, Error::OutOfMemory { .. }), "{full}");
    }
}
