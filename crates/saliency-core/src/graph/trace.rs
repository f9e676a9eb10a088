//! From a Burn module to a [`Graph`]: Burn records the forward pass at two batch sizes, and
//! what differs between the two recordings is what scales with the batch.

use std::collections::{BTreeMap, HashMap};

use burn::{
    backend::Capture,
    module::{Module, ModuleVisitor, Param},
    tensor::{Bool, CapturedGraph, DType, Device, Int, Tensor, TensorData, TensorId},
};
use burn_ir::{OperationIr, TensorIr};

use super::{
    Graph, Node, NodeId,
    convert::{Converted, Emit, convert},
    op::{Op, Size},
    value::Value,
};
use crate::{error::Error, run::guarded};

/// Batch sizes of the two recordings. Burn multiplies tokens with a matrix in one of two ways,
/// and the number of rows at which it changes over depends on the sizes: where that is between
/// two batch sizes, the next ones are tried.
const ROWS: [[usize; 2]; 3] = [[2, 3], [5, 7], [11, 13]];

/// One recording: operations, constants, and which tensor is which parameter.
struct Recording {
    captured: CapturedGraph,
    input: TensorId,
    output: TensorId,
    paths: HashMap<TensorId, String>,
}

pub(super) fn trace<const D: usize, M: Module>(
    module: &M,
    forward: impl Fn(&M, Tensor<D>) -> Tensor<2>,
    example: &Tensor<D>,
) -> Result<Graph, Error> {
    let module = module.clone().valid();
    let mut parameters = Parameters::default();
    module.visit(&mut parameters);
    let device = parameters
        .device
        .unwrap_or_else(|| example.device().inner());
    let shape = example.dims();
    let at = |rows| record(&module, &forward, shape, rows, example.dtype());
    let mut tries = ROWS.into_iter();
    let mut difference = String::new();
    let (rows, mut first, mut second, one, two) = loop {
        let Some(rows) = tries.next() else {
            return Err(Error::trace(format!(
                "the forward pass does other operations at another batch size ({difference}): what it does must not depend on the batch size"
            )));
        };
        let (mut first, mut second) = (at(rows[0])?, at(rows[1])?);
        let (one, two) = (first.computations(), second.computations());
        match different(&one, &two) {
            None => break (rows, first, second, one, two),
            Some(found) => difference = found,
        }
    };

    let mut builder = Builder {
        graph: Graph::empty(device, example.dtype()),
        rows,
        nodes: HashMap::new(),
        values: std::mem::take(&mut first.captured.values),
        others: std::mem::take(&mut second.captured.values),
        twins: HashMap::new(),
        paths: std::mem::take(&mut first.paths),
        parameters: parameters.values,
    };
    let input = builder
        .graph
        .add(Node::new(Op::Input, Vec::new(), sizes_of(&shape), None));
    builder.graph.input = input;
    builder.nodes.insert(first.input, input);
    for (one, two) in one.iter().zip(&two) {
        builder.operation(one, two)?;
    }
    let output = builder.node(first.output)?;
    let mut graph = builder.graph;
    graph.output = output;
    graph.finish()
}

/// The first operations that differ.
fn different(one: &[OperationIr], two: &[OperationIr]) -> Option<String> {
    let at = one.iter().zip(two).position(|(a, b)| name(a) != name(b));
    let at = at.or((one.len() != two.len()).then_some(one.len().min(two.len())))?;
    let described = |all: &[OperationIr]| all.get(at).map_or("nothing".into(), name);
    Some(format!(
        "{} for one, {} for another",
        described(one),
        described(two)
    ))
}

/// Burn's name of an operation.
fn name(operation: &OperationIr) -> String {
    let text = format!("{operation:?}");
    let end = text.find(['{', '[']).unwrap_or(text.len());
    text[..end].trim_end_matches(['(', ' ']).to_owned()
}

impl Recording {
    /// The operations, without the making and dropping of tensors.
    fn computations(&mut self) -> Vec<OperationIr> {
        let mut operations = std::mem::take(&mut self.captured.graph.operations);
        operations.retain(|op| !matches!(op, OperationIr::Init(_) | OperationIr::Drop(_)));
        operations
    }
}

/// The input's shape with the rows left open.
pub(super) fn sizes_of(shape: &[usize]) -> Vec<Size> {
    let mut sizes: Vec<Size> = shape.iter().map(|&s| Size::Fixed(s)).collect();
    sizes[0] = Size::Rows(1);
    sizes
}

fn record<const D: usize, M: Module>(
    module: &M,
    forward: &impl Fn(&M, Tensor<D>) -> Tensor<2>,
    mut shape: [usize; D],
    rows: usize,
    dtype: DType,
) -> Result<Recording, Error> {
    shape[0] = rows;
    let capture = Device::capture();
    let mut ids = None;
    let captured = guarded(&shape, || {
        capture.capture_scope(|scope| {
            let module = module.clone().to_device(&capture);
            let mut paths = Paths::default();
            module.visit(&mut paths);
            let zeros = TensorData::zeros::<f32, _>(shape).convert_dtype(dtype);
            let input = Tensor::<D>::from_data(zeros, (&capture, dtype));
            let input_id = float_id(&input);
            let output = forward(&module, input.clone());
            let output_id = float_id(&output);
            ids = Some((input_id, output_id, paths.ids));
            match (input_id, output_id) {
                (Some(input), Some(output)) if input != output => scope.complete([input], [output]),
                _ => scope.complete([], []),
            }
        })
    })
    .map_err(|e| Error::trace(e.to_string()))?;
    let captured = captured.map_err(|e| Error::trace(format!("{e:?}")))?;
    match ids {
        Some((Some(input), Some(output), paths)) => Ok(Recording {
            captured,
            input,
            output,
            paths,
        }),
        _ => Err(Error::trace(
            "the output was not computed on the device of the module given to the closure: use that module, not another one".into(),
        )),
    }
}

fn float_id<const D: usize>(tensor: &Tensor<D>) -> Option<TensorId> {
    let primitive = tensor.clone().try_into_primitive::<Capture>();
    primitive.ok().map(|tensor| tensor.id())
}

/// Follows the fields of a module. The variants of enums are left out: `features.3.squeeze`,
/// whatever kind of layer number 3 is.
#[derive(Default)]
struct Path(Vec<String>);

impl Path {
    fn enter(&mut self, name: &str, container: &str) {
        if !container.starts_with("Enum:") {
            self.0.push(name.into());
        }
    }

    fn exit(&mut self, container: &str) {
        if !container.starts_with("Enum:") {
            self.0.pop();
        }
    }

    fn dotted(&self) -> String {
        self.0.join(".")
    }
}

/// Which captured tensor is which parameter.
#[derive(Default)]
struct Paths {
    path: Path,
    ids: HashMap<TensorId, String>,
}

impl ModuleVisitor for Paths {
    fn enter_module(&mut self, name: &str, container: &str) {
        self.path.enter(name, container);
    }

    fn exit_module(&mut self, _: &str, container: &str) {
        self.path.exit(container);
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if let Some(id) = float_id(&param.val()) {
            self.ids.insert(id, self.path.dotted());
        }
    }

    fn visit_int<const D: usize>(&mut self, param: &Param<Tensor<D, Int>>) {
        if let Ok(tensor) = param.val().try_into_primitive::<Capture>() {
            self.ids.insert(tensor.id(), self.path.dotted());
        }
    }

    fn visit_bool<const D: usize>(&mut self, param: &Param<Tensor<D, Bool>>) {
        if let Ok(tensor) = param.val().try_into_primitive::<Capture>() {
            self.ids.insert(tensor.id(), self.path.dotted());
        }
    }
}

/// The parameters where they are, by path: the graph uses them without a copy.
#[derive(Default)]
struct Parameters {
    path: Path,
    values: HashMap<String, Value>,
    device: Option<Device>,
}

impl ModuleVisitor for Parameters {
    fn enter_module(&mut self, name: &str, container: &str) {
        self.path.enter(name, container);
    }

    fn exit_module(&mut self, _: &str, container: &str) {
        self.path.exit(container);
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let value = param.val().inner();
        self.device.get_or_insert_with(|| value.device());
        self.values.insert(self.path.dotted(), value.into());
    }

    fn visit_int<const D: usize>(&mut self, param: &Param<Tensor<D, Int>>) {
        self.values.insert(self.path.dotted(), param.val().into());
    }

    fn visit_bool<const D: usize>(&mut self, param: &Param<Tensor<D, Bool>>) {
        self.values.insert(self.path.dotted(), param.val().into());
    }
}

struct Builder {
    graph: Graph,
    rows: [usize; 2],
    nodes: HashMap<TensorId, NodeId>,
    values: BTreeMap<TensorId, TensorData>,
    /// Constants of the second recording, and which tensor is which there.
    others: BTreeMap<TensorId, TensorData>,
    twins: HashMap<TensorId, TensorId>,
    paths: HashMap<TensorId, String>,
    parameters: HashMap<String, Value>,
}

impl Builder {
    fn operation(&mut self, one: &OperationIr, two: &OperationIr) -> Result<(), Error> {
        let shapes = one
            .outputs()
            .zip(two.outputs())
            .map(|(a, b)| sizes(a, b, self.rows))
            .collect::<Result<Vec<_>, _>>()?;
        for (a, b) in one.inputs().zip(two.inputs()) {
            self.twins.insert(a.id, b.id);
        }
        let Converted { emits, outputs } =
            convert(one, two, &shapes, self.rows).map_err(|error| self.placed(error, one))?;
        let mut made: Vec<NodeId> = Vec::new();
        for Emit {
            op,
            inputs,
            shape,
            value,
        } in emits
        {
            let inputs = inputs
                .into_iter()
                .map(|input| match input {
                    super::convert::From::Tensor(id) => self.node(id),
                    super::convert::From::Emitted(index) => Ok(made[index]),
                })
                .collect::<Result<Vec<_>, _>>()?;
            let mut node = Node::new(op, inputs, shape, None);
            node.value = value.map(|data| Value::from_data(data, &self.graph.device));
            made.push(self.graph.add(node));
        }
        for (id, index) in outputs {
            self.nodes.insert(id, made[index]);
        }
        Ok(())
    }

    /// Says in an error about an operation which module the operation came after.
    fn placed(&self, error: Error, operation: &OperationIr) -> Error {
        let Error::UnsupportedOp { op, place } = error else {
            return error;
        };
        let mut seen = vec![false; self.graph.nodes.len()];
        for input in operation.inputs() {
            if let Some(node) = self.nodes.get(&input.id) {
                seen[node.0] = true;
            }
        }
        let module = (0..seen.len()).rev().find_map(|id| {
            if !seen[id] {
                return None;
            }
            let node = &self.graph.nodes[id];
            for input in &node.inputs {
                seen[input.0] = true;
            }
            let paths = node.inputs.iter();
            let path = paths.filter_map(|input| self.graph.node(*input).path.as_deref());
            path.map(|path| path.rsplit_once('.').map_or(path, |(module, _)| module))
                .next()
        });
        let place = match module {
            Some(module) => format!("{place}, after {module}"),
            None => format!("{place}, before any module with parameters"),
        };
        Error::UnsupportedOp { op, place }
    }

    /// The node of a tensor; tensors that no operation made are constants.
    fn node(&mut self, id: TensorId) -> Result<NodeId, Error> {
        if let Some(&node) = self.nodes.get(&id) {
            return Ok(node);
        }
        let path = self.paths.get(&id).cloned();
        let stored = path.as_ref().and_then(|path| self.parameters.get(path));
        let value = match stored {
            Some(value) => value.clone(),
            None => {
                let data = self.values.get(&id).ok_or_else(|| {
                    Error::trace(
                        "a tensor comes from neither the input nor the module (an index or a second output that is not supported)".into(),
                    )
                })?;
                let twin = self.twins.get(&id).and_then(|twin| self.others.get(twin));
                if twin.is_some_and(|twin| twin.shape() != data.shape()) {
                    return Err(Error::trace(
                        "a tensor that is made on the host has the batch size in its shape: make it with one row, and let it broadcast".into(),
                    ));
                }
                Value::from_data(data.clone(), &self.graph.device)
            }
        };
        let shape = value.shape().into_iter().map(Size::Fixed).collect();
        let mut node = Node::new(Op::Constant, Vec::new(), shape, path);
        node.value = Some(value);
        let node = self.graph.add(node);
        self.nodes.insert(id, node);
        Ok(node)
    }
}

/// What the shapes of one tensor in the two recordings say.
pub(super) fn sizes(one: &TensorIr, two: &TensorIr, rows: [usize; 2]) -> Result<Vec<Size>, Error> {
    let (one, two) = (one.shape.to_vec(), two.shape.to_vec());
    if one.len() != two.len() {
        return Err(Error::trace(
            "a tensor has another rank at another batch size".into(),
        ));
    }
    one.iter()
        .zip(&two)
        .map(|(&a, &b)| size(a, b, rows))
        .collect()
}

/// A size seen as `a` and `b` with the two batch sizes.
pub(super) fn size(a: usize, b: usize, rows: [usize; 2]) -> Result<Size, Error> {
    if a == b {
        Ok(Size::Fixed(a))
    } else if a * rows[1] == b * rows[0] {
        Ok(Size::Rows(a / rows[0]))
    } else {
        Err(Error::trace(format!(
            "a size is {a} for {} rows and {b} for {}: it must be fixed or a multiple of the rows",
            rows[0], rows[1]
        )))
    }
}
