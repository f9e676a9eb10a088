//! Attributions of a layer: their own shape, or a map over the input's positions.

use burn::tensor::Tensor;

use crate::{
    attribution::{Evaluations, Evidence, Outcome},
    error::Error,
    graph::{Graph, Layer, NodeId, Size, Value, inside},
    host::check_finite,
    method::{Method, checked, outputs},
    methods::places::{Frame, Places},
    model::Model,
    recipe::Recipe,
    run::{Counter, Run},
    target::{Goal, ResolvedTarget, Target},
    upsample::Resize,
};

/// A method whose values belong to a layer of the model.
///
/// [`explain_layer`](LayerMethod::explain_layer) gives one signed value for each of the layer's
/// own. As a plain [`Method`] it gives a map over the input's positions instead: the values
/// summed over the channels, brought to the input's height and width.
///
/// ```
/// use burn::{module::Module, nn::conv::{Conv2d, Conv2dConfig}, tensor::{Device, Tensor, activation::relu}};
/// use saliency_core::{Graph, LayerActivation, LayerMethod, Method};
///
/// let device = Device::flex();
/// let conv = Conv2dConfig::new([1, 2], [3, 3]).init(&device);
/// let x = Tensor::<4>::ones([1, 1, 8, 8], &device);
/// let graph = Graph::trace(&conv, |m, x| relu(m.forward(x)).mean_dims(&[2, 3]).flatten::<2>(1, 3), &x)?;
///
/// let layer = LayerActivation::at("relu_1").explain_layer(&graph, x.clone(), 0)?;
/// assert_eq!(layer.values.shape(), [1, 2, 6, 6]);
/// let map = LayerActivation::at("relu_1").explain(&graph, x, 0)?;
/// assert_eq!(map.values.dims(), [1, 1, 8, 8]);
/// # Ok::<(), saliency_core::Error>(())
/// ```
pub trait LayerMethod<const D: usize>: Method<D> {
    /// Attributions of the layer for an already decided `goal`. Implemented by methods; users
    /// call [`explain_layer`](LayerMethod::explain_layer).
    ///
    /// # Errors
    /// Any [`Error`].
    fn attribute_layer(
        &self,
        graph: &Graph,
        input: &Tensor<D>,
        goal: &Goal,
        run: &Run,
    ) -> Result<LayerOutcome, Error>;

    /// Explains `target` at `input` by the layer's own values, with the default [`Run`].
    ///
    /// # Errors
    /// Any [`Error`]; [`Error::NeedsGraph`] on a closure.
    fn explain_layer(
        &self,
        model: &dyn Model<D>,
        input: Tensor<D>,
        target: impl Into<Target>,
    ) -> Result<LayerAttribution, Error>
    where
        Self: Sized,
    {
        self.explain_layer_with(model, input, &target.into(), &Run::default())
    }

    /// Explains `target` at `input` by the layer's own values.
    ///
    /// # Errors
    /// Any [`Error`]; [`Error::NeedsGraph`] on a closure.
    fn explain_layer_with(
        &self,
        model: &dyn Model<D>,
        input: Tensor<D>,
        target: &Target,
        run: &Run,
    ) -> Result<LayerAttribution, Error> {
        self.validate()?;
        let graph = inside(model, &self.recipe().name())?;
        let input = checked(input)?;
        let run = run.sized_for(model);
        let (outputs, recorded) = outputs(model, &input, self.reads(), &run)?;
        check_finite("the model's output", &outputs)?;
        let goal = Goal::resolve(target, &outputs)?.with_record(recorded);
        let scores = goal.scores(outputs.clone())?;
        check_finite("the score", &scores)?;
        let counter = Counter::default();
        let found = self.attribute_layer(graph, &input, &goal, &run.counting(&counter))?;
        let rows = input.dims()[0];
        check_finite("the attribution", &found.flat(rows))?;
        Ok(LayerAttribution {
            values: found.values,
            layer: graph.node(found.layer).name.clone(),
            targets: goal.targets(),
            scores: scores.try_into_vec_as::<f64>().map_err(Error::device)?,
            outputs,
            delta: found.delta,
            steps: found.steps,
            recipe: self.recipe(),
            evaluations: counter.total(),
        })
    }
}

/// What [`LayerMethod::attribute_layer`] returns.
#[derive(Clone, Debug)]
pub struct LayerOutcome {
    /// Attributions, shaped like the layer's output.
    pub values: Value,
    /// The layer.
    pub layer: NodeId,
    /// For complete methods, the sum of each row's values minus what they should add up to.
    pub delta: Option<Vec<f64>>,
    /// How many steps were taken.
    pub steps: Option<usize>,
}

impl LayerOutcome {
    fn flat(&self, rows: usize) -> Tensor<2> {
        flat(&self.values, rows)
    }
}

/// A layer's attribution: one signed, raw value for each value of the layer.
#[derive(Clone, Debug)]
pub struct LayerAttribution {
    /// Attributions, shaped like the layer's output.
    pub values: Value,
    /// The layer's name.
    pub layer: String,
    /// What was explained, for each row.
    pub targets: Vec<ResolvedTarget>,
    /// The explained score f(x) of each row.
    pub scores: Vec<f64>,
    /// The model's plain outputs `[rows, outputs]`.
    pub outputs: Tensor<2>,
    /// For complete methods, the sum of each row's values minus what they should add up to.
    pub delta: Option<Vec<f64>>,
    /// How many steps were taken.
    pub steps: Option<usize>,
    /// The method that made it, with all its options.
    pub recipe: Recipe,
    /// What it cost, without the one pass for the scores.
    pub evaluations: Evaluations,
}

impl LayerAttribution {
    /// The values as a tensor of the layer's rank.
    ///
    /// # Errors
    /// [`Error::Shape`] where the layer has another rank.
    pub fn tensor<const R: usize>(&self) -> Result<Tensor<R>, Error> {
        match self.values.rank() == R {
            true => Ok(self.values.clone().tensor()),
            false => Err(Error::Shape {
                what: "the layer",
                expected: format!("{R} axes"),
                got: self.values.shape(),
            }),
        }
    }
}

/// The node of a layer, whose first axis must be the rows.
pub(crate) fn node_of(graph: &Graph, layer: &Layer) -> Result<NodeId, Error> {
    let id = graph.layer(layer)?;
    let node = graph.node(id);
    match node.shape.first() {
        Some(Size::Rows(1)) => Ok(id),
        _ => Err(Error::Shape {
            what: "the layer",
            expected: "[rows, ...]: name a layer before the rows are folded into another axis"
                .into(),
            got: node.shape_at(1),
        }),
    }
}

/// A layer's values with everything but the rows flattened.
pub(crate) fn flat(value: &Value, rows: usize) -> Tensor<2> {
    let elements: usize = value.shape().iter().product();
    value.clone().reshape(&[rows, elements / rows]).tensor()
}

/// Undoes [`flat`].
pub(crate) fn unflat(values: Tensor<2>, graph: &Graph, layer: NodeId) -> Value {
    let shape = graph.node(layer).shape_at(values.dims()[0]);
    Value::from(values).reshape(&shape)
}

/// [`Method::attribute`] of a layer method: its values as a map over the input's positions.
pub(crate) fn over_input<const D: usize>(
    method: &impl LayerMethod<D>,
    model: &dyn Model<D>,
    input: &Tensor<D>,
    goal: &Goal,
    run: &Run,
) -> Result<Outcome<D>, Error> {
    let graph = inside(model, &method.recipe().name())?;
    let found = method.attribute_layer(graph, input, goal, run)?;
    let frame = Frame::of(graph);
    let places = Places::of(graph, found.layer, &frame).map_err(|error| match error {
        Error::Shape {
            what,
            expected,
            got,
        } => Error::Shape {
            what,
            expected: format!("{expected}; its own values come from explain_layer"),
            got,
        },
        other => other,
    })?;
    let map = places.split(found.values).sum_dim(1).cast(input.dtype());
    Ok(Outcome {
        values: frame.spread(places.unflatten(map), Resize::Bilinear),
        evidence: Evidence {
            delta: found.delta,
            samples: found.steps,
            ..Evidence::default()
        },
    })
}
