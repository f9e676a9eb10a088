//! The inside of a model: a small typed graph that this crate runs itself.
//!
//! [`Graph::trace`] records the forward pass of any Burn module, unchanged. Every node can then
//! be read, replaced, cut at, or given a backward [`Rule`] of its own; no hooks, and nothing in
//! the module's code changes. A graph is itself a [`Model`].

mod backward;
mod builder;
mod compose;
mod convert;
mod cut;
mod execute;
mod layer;
mod names;
mod op;
mod passes;
mod profile;
mod randomise;
mod reach;
mod recognise;
mod run;
mod trace;
mod value;

#[cfg(test)]
mod tests;

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, OnceLock},
};

use burn::{
    module::Module,
    tensor::{DType, Device, Tensor},
};

pub use backward::{Activations, Rule, Site};
pub use builder::GraphBuilder;
pub use layer::{Layer, LayerInfo};
pub use op::{
    Along, Binary, Compare, Interpolation, Op, Outside, PadWith, Pool, Reduce, Size, Span, Unary,
    Window,
};
pub use profile::LayerTime;
pub use randomise::Randomisation;
pub use value::Value;

use crate::{
    error::Error,
    model::Model,
    plan::{Engine, Plan, Recorded},
    run::guarded,
    target::Goal,
};

/// A node of a [`Graph`], by number. Nodes are numbered in an order in which they can run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub(crate) usize);

/// One operation of a graph.
#[derive(Clone, Debug)]
pub struct Node {
    /// Its name: the path of the module whose parameters it uses (`layer4.2.conv3`), else the
    /// operation and a number (`relu_17`).
    pub name: String,
    /// What it computes.
    pub op: Op,
    /// Where its inputs come from.
    pub inputs: Vec<NodeId>,
    /// The shape of its output.
    pub shape: Vec<Size>,
    /// The parameter's path, for constants that are parameters.
    path: Option<String>,
    /// The value of a constant.
    value: Option<Value>,
}

impl Node {
    fn new(op: Op, inputs: Vec<NodeId>, shape: Vec<Size>, path: Option<String>) -> Self {
        Node {
            name: String::new(),
            op,
            inputs,
            shape,
            path,
            value: None,
        }
    }

    /// The shape for a number of rows.
    pub fn shape_at(&self, rows: usize) -> Vec<usize> {
        self.shape.iter().map(|size| size.at(rows)).collect()
    }
}

/// A model as a graph of operations, with its parameters.
///
/// ```
/// use burn::{module::Module, nn::{Linear, LinearConfig}, tensor::{Device, Tensor, activation::relu}};
/// use saliency_core::{Graph, Gradient, Method};
///
/// #[derive(Module, Debug)]
/// struct Mlp { hidden: Linear, out: Linear }
///
/// impl Mlp {
///     fn forward(&self, x: Tensor<2>) -> Tensor<2> {
///         self.out.forward(relu(self.hidden.forward(x)))
///     }
/// }
///
/// let device = Device::flex();
/// let mlp = Mlp {
///     hidden: LinearConfig::new(4, 8).init(&device),
///     out: LinearConfig::new(8, 3).init(&device),
/// };
/// let x = Tensor::<2>::ones([5, 4], &device);
/// let graph = Graph::trace(&mlp, |m, x| m.forward(x), &x)?;
/// let names: Vec<_> = graph.layers().iter().map(|l| l.name.clone()).collect();
/// assert_eq!(names, ["hidden", "relu_1", "out"]);
///
/// // It is a model, at any batch size.
/// let map = Gradient.explain(&graph, x, 1)?;
/// assert_eq!(map.values.dims(), [5, 4]);
/// # Ok::<(), saliency_core::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Graph {
    nodes: Vec<Node>,
    input: NodeId,
    output: NodeId,
    device: Device,
    dtype: DType,
    compiled: Compiled,
    probabilities: Arc<OnceLock<Graph>>,
}

/// The graph compiled for the CPU and for a GPU, and the folded graph, each once it has been asked
/// for. A graph that is made from another one starts without.
#[derive(Clone, Default)]
struct Compiled {
    plan: Arc<OnceLock<Option<Plan>>>,
    #[cfg(feature = "gpu")]
    device: Arc<OnceLock<Option<crate::plan::DevicePlan>>>,
    folded: Arc<OnceLock<Graph>>,
}

impl fmt::Debug for Compiled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.plan.get() {
            None => "not asked for",
            Some(None) => "no plan",
            Some(Some(_)) => "a plan",
        })
    }
}

impl Graph {
    /// Records `forward` of `module`, in inference mode, for inputs shaped like `example`
    /// (its rows do not matter; its other sizes and its float type do).
    ///
    /// Nothing is computed: Burn records the operations at two batch sizes, so that sizes that
    /// depend on the batch are known. The closure must use the module it is given, and do the
    /// same whatever the number of rows.
    ///
    /// # Errors
    /// [`Error::UnsupportedOp`] names an operation this crate cannot run; [`Error::Trace`] says
    /// why the forward pass cannot be recorded (it reads values back, or does other operations
    /// at another batch size).
    pub fn trace<const D: usize, M: Module>(
        module: &M,
        forward: impl Fn(&M, Tensor<D>) -> Tensor<2>,
        example: &Tensor<D>,
    ) -> Result<Self, Error> {
        trace::trace(module, forward, example)
    }

    fn empty(device: Device, dtype: DType) -> Self {
        Graph {
            nodes: Vec::new(),
            input: NodeId(0),
            output: NodeId(0),
            device,
            dtype,
            compiled: Compiled::default(),
            probabilities: Arc::default(),
        }
    }

    /// A copy to be changed.
    fn uncompiled(&self) -> Self {
        Graph {
            compiled: Compiled::default(),
            probabilities: Arc::default(),
            ..self.clone()
        }
    }

    /// The plan for inputs like this, where there is one: f32 on Burn's flex device.
    pub(crate) fn plan<const D: usize>(&self, input: &Tensor<D>) -> Option<&Plan> {
        if !is_flex(&input.device().inner()) || !self.fits_plans(input) {
            return None;
        }
        self.compiled.plan.get_or_init(|| Plan::new(self)).as_ref()
    }

    /// Whether plans take inputs like this, whatever the device.
    fn fits_plans<const D: usize>(&self, input: &Tensor<D>) -> bool {
        let shape = input.dims();
        input.dtype() == DType::F32 && shape[0] > 0 && self.check_input(&shape).is_ok()
    }

    /// What runs inputs like this without a tape, where something does: f32 on Burn's flex
    /// device or a GPU.
    pub(crate) fn engine<const D: usize>(&self, input: &Tensor<D>) -> Option<Engine<'_>> {
        if let Some(plan) = self.plan(input) {
            return Some(Engine::Host(plan));
        }
        #[cfg(feature = "gpu")]
        if self.fits_plans(input)
            && let Some(device) = crate::plan::DevicePlan::device_of(input)
        {
            // Where there is no memory for it, Burn's operations may do with less.
            let new = || crate::plan::DevicePlan::new(self, &device).unwrap_or(None);
            let plan = self.compiled.device.get_or_init(new).as_ref();
            return plan.filter(|plan| plan.is_on(&device)).map(Engine::Device);
        }
        None
    }

    /// [`folded`](Graph::folded), kept for the next call.
    pub(crate) fn folded_once(&self) -> &Graph {
        self.compiled.folded.get_or_init(|| self.folded())
    }

    /// Outputs of a batch, and the forward pass for backward passes to the input and to one of
    /// the `layers`. Where there is no plan, nothing.
    pub(crate) fn record<const D: usize>(
        &self,
        input: &Tensor<D>,
        layers: &[Layer],
    ) -> Result<Option<(Tensor<2>, Recorded)>, Error> {
        let Some(engine) = self.engine(input) else {
            return Ok(None);
        };
        let node = match layers {
            [layer] => self.layer(layer).ok().map(|id| self.node(id).name.clone()),
            _ => None,
        };
        let node = node.filter(|node| engine.taps(node));
        let recorded = guarded(&input.dims(), || {
            engine.record(input.clone(), node.as_deref())
        })??;
        Ok(recorded.map(|(outputs, tape)| {
            let own = Arc::downgrade(&self.compiled.plan);
            (outputs, Recorded::new(tape, node, own))
        }))
    }

    /// The plain outputs of a goal and the forward pass that gave them, where it was this
    /// graph's.
    pub(crate) fn recorded<'a>(&self, goal: &'a Goal) -> Option<(&'a Tensor<2>, &'a Recorded)> {
        let recorded = goal.recorded()?;
        let own = std::ptr::eq(recorded.graph.as_ptr(), Arc::as_ptr(&self.compiled.plan));
        Some((goal.reference().filter(|_| own)?, recorded))
    }

    fn add(&mut self, node: Node) -> NodeId {
        self.nodes.push(node);
        NodeId(self.nodes.len() - 1)
    }

    /// A node.
    pub fn node(&self, id: NodeId) -> &Node {
        &self.nodes[id.0]
    }

    /// All nodes, constants among them, in an order in which they can run.
    pub fn nodes(&self) -> impl Iterator<Item = (NodeId, &Node)> {
        self.nodes.iter().enumerate().map(|(i, n)| (NodeId(i), n))
    }

    /// The input.
    pub fn input(&self) -> NodeId {
        self.input
    }

    /// The output.
    pub fn output(&self) -> NodeId {
        self.output
    }

    /// Where the parameters are.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// The value of a constant.
    pub fn constant(&self, id: NodeId) -> Option<&Value> {
        self.node(id).value.as_ref()
    }

    /// The same graph with its parameters on another device.
    pub fn to_device(&self, device: &Device) -> Self {
        let mut graph = self.uncompiled();
        for node in &mut graph.nodes {
            node.value = node.value.as_ref().map(|value| value.to_device(device));
        }
        graph.device = device.clone();
        graph
    }

    /// The same graph with its floats in another type.
    pub fn cast(&self, dtype: DType) -> Self {
        let mut graph = self.uncompiled();
        for node in &mut graph.nodes {
            node.value = node.value.as_ref().map(|value| value.cast(dtype));
            match &mut node.op {
                Op::Full { dtype: own, .. } | Op::Cast(own) if own.is_float() => *own = dtype,
                _ => {}
            }
        }
        graph.dtype = dtype;
        graph
    }

    /// The same graph with other values for some constants, by the path of the parameter
    /// (`layer4.2.conv3.weight`).
    ///
    /// # Errors
    /// [`Error::UnknownLayer`] names a path that no parameter has, and the nearest ones;
    /// [`Error::Shape`].
    pub fn with_parameters(&self, values: &HashMap<String, Value>) -> Result<Self, Error> {
        let mut graph = self.uncompiled();
        for (path, value) in values {
            let mut found = false;
            for node in &mut graph.nodes {
                if node.path.as_ref() != Some(path) {
                    continue;
                }
                found = true;
                let shape = node.value.as_ref().map(Value::shape).unwrap_or_default();
                let size = |shape: &[usize]| shape.iter().product::<usize>();
                // Axes of size one may differ: a vector may be stored as it broadcasts.
                let long = |shape: &[usize]| shape.iter().filter(|&&s| s != 1).count();
                let given = value.shape();
                if size(&shape) != size(&given) || (shape != given && long(&shape) > 1) {
                    return Err(Error::Shape {
                        what: "a parameter",
                        expected: format!("{shape:?} for {path}"),
                        got: given,
                    });
                }
                node.value = Some(value.to_device(&self.device).reshape(&shape));
            }
            if !found {
                let known = self.parameters().map(|(path, _)| path);
                return Err(Error::UnknownLayer {
                    name: path.clone(),
                    hint: format!(
                        "no parameter has this path; did you mean {}?",
                        layer::nearest(path, known).join(", ")
                    ),
                });
            }
        }
        Ok(graph)
    }

    /// All parameters by path.
    pub fn parameters(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.nodes
            .iter()
            .filter_map(|node| Some((node.path.as_deref()?, node.value.as_ref()?)))
    }

    /// Bytes that a forward and a backward pass hold for one row, at most: the values of all
    /// nodes, and three gradients of the largest, of which one arrives at an operation, one
    /// leaves it and one waits for a branch.
    pub fn row_bytes(&self) -> usize {
        const GRADIENTS: usize = 3;
        let sizes = (self.nodes.iter())
            .filter(|node| node.op != Op::Constant)
            .map(|node| node.shape_at(1).iter().product::<usize>());
        let largest = sizes.clone().max().unwrap_or(0);
        (sizes.sum::<usize>() + GRADIENTS * largest) * self.dtype.size()
    }

    /// How many nodes use each node.
    fn uses(&self) -> Vec<usize> {
        let mut uses = vec![0; self.nodes.len()];
        for node in &self.nodes {
            for input in &node.inputs {
                uses[input.0] += 1;
            }
        }
        uses[self.output.0] += 1;
        uses
    }

    fn finish(self) -> Result<Self, Error> {
        let input = self.node(self.input).shape_at(1);
        let mut graph = guarded(&input, || passes::canonical(self))?;
        names::name(&mut graph);
        let output = graph.node(graph.output);
        match output.shape[..] {
            [Size::Rows(1), Size::Fixed(_)] => Ok(graph),
            _ => Err(Error::trace(format!(
                "the output's shape does not follow the rows of the input: it is {}, and must be [rows, outputs]",
                run::described(&output.shape)
            ))),
        }
    }
}

#[cfg(feature = "flex")]
fn is_flex(device: &Device) -> bool {
    *device == Device::flex()
}

#[cfg(not(feature = "flex"))]
fn is_flex(_: &Device) -> bool {
    false
}

/// The inside of the model a method was given.
pub(crate) fn inside<'a, const D: usize>(
    model: &'a dyn Model<D>,
    method: &str,
) -> Result<&'a Graph, Error> {
    model.graph().ok_or_else(|| Error::NeedsGraph {
        method: method.into(),
    })
}

impl<const D: usize> Model<D> for Graph {
    /// # Panics
    /// Where the input has another shape than the example the graph was traced with; methods
    /// turn that into an error.
    fn forward(&self, input: Tensor<D>) -> Tensor<2> {
        if !input.is_tracked()
            && let Some(engine) = self.engine(&input)
        {
            return engine.run(input);
        }
        let graph = self.folded_once();
        let mut values = graph.evaluate(&[(graph.input, input.into())], &[graph.output]);
        values.remove(0).tensor()
    }

    fn graph(&self) -> Option<&Graph> {
        Some(self)
    }
}
