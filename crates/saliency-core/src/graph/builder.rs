//! Graphs written by hand, for models that cannot be traced.

use burn::tensor::{DType, Tensor};

use super::{
    Graph, Node, NodeId,
    execute::{execute, full},
    op::{Op, Size},
    run::described,
    trace::{size, sizes_of},
    value::Value,
};
use crate::{error::Error, run::guarded};

/// Rows of the two batches at which shapes are found.
const ROWS: [usize; 2] = [2, 3];

/// Writes the [`Graph`] of a model node by node: for models that are no Burn module, or that
/// [`Graph::trace`] cannot record. Every method works on the result.
///
/// Shapes are found by running each operation on zeros, so a mistake is reported where it is
/// made.
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use saliency_core::{Gradient, GraphBuilder, Method, graph::{Op, Unary}};
///
/// let device = Device::flex();
/// let x = Tensor::<2>::from_floats([[1.0, -2.0]], &device);
/// let mut graph = GraphBuilder::new(&x);
/// let weight = Tensor::<2>::from_floats([[1.0, -1.0], [2.0, 3.0]], &device);
/// let weight = graph.parameter("hidden.weight", weight)?;
/// let hidden = graph.add(Op::Linear, &[graph.input(), weight])?;
/// let relu = graph.add(Op::Unary(Unary::Relu), &[hidden])?;
/// graph.name(relu, "gate")?;
/// let graph = graph.build(relu)?;
///
/// let names: Vec<_> = graph.layers().iter().map(|l| l.name.clone()).collect();
/// assert_eq!(names, ["hidden", "gate"]);
/// let map = Gradient.explain(&graph, x.mul_scalar(-1.0), 0)?;
/// assert_eq!(map.values.try_into_vec_as::<f32>().unwrap(), [1.0, 2.0]);
/// # Ok::<(), saliency_core::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct GraphBuilder {
    graph: Graph,
    types: Vec<DType>,
}

impl GraphBuilder {
    /// For inputs shaped like `example` (its rows do not matter; its other sizes, its float type
    /// and its device do).
    pub fn new<const D: usize>(example: &Tensor<D>) -> Self {
        let mut graph = Graph::empty(example.device().inner(), example.dtype());
        let shape = sizes_of(&example.dims());
        graph.input = graph.add(Node::new(Op::Input, Vec::new(), shape, None));
        GraphBuilder {
            types: vec![example.dtype()],
            graph,
        }
    }

    /// The input.
    pub fn input(&self) -> NodeId {
        self.graph.input
    }

    /// A parameter. Its path, but for the last part, names the node that uses it:
    /// `layer1.conv.weight` makes `layer1.conv`.
    ///
    /// # Errors
    /// [`Error::Option`] where the path is empty or taken.
    pub fn parameter(&mut self, path: &str, value: impl Into<Value>) -> Result<NodeId, Error> {
        let taken = |node: &Node| node.path.as_deref() == Some(path);
        if path.is_empty() || self.graph.nodes.iter().any(taken) {
            return Err(Error::option(
                "path",
                format!("{path:?}"),
                "each parameter needs a path of its own",
            ));
        }
        Ok(self.fixed(Some(path.to_owned()), value.into()))
    }

    /// A tensor that is no parameter.
    pub fn constant(&mut self, value: impl Into<Value>) -> NodeId {
        self.fixed(None, value.into())
    }

    fn fixed(&mut self, path: Option<String>, value: Value) -> NodeId {
        let value = value.inner().to_device(&self.graph.device);
        let shape = value.shape().into_iter().map(Size::Fixed).collect();
        let mut node = Node::new(Op::Constant, Vec::new(), shape, path);
        self.types.push(value.dtype());
        node.value = Some(value);
        self.graph.add(node)
    }

    /// An operation. Those whose shape is not told by their inputs have functions of their own:
    /// [`reshape`](Self::reshape), [`expand`](Self::expand), [`repeat`](Self::repeat).
    ///
    /// # Errors
    /// [`Error::Trace`] where it cannot run on these inputs.
    pub fn add(&mut self, op: Op, inputs: &[NodeId]) -> Result<NodeId, Error> {
        match op {
            Op::Reshape | Op::Expand | Op::Repeat(_) => Err(Error::trace(format!(
                "{} needs a shape: use GraphBuilder::{0}",
                op.name()
            ))),
            Op::Input | Op::Constant | Op::Full { .. } => Err(Error::trace(format!(
                "{} is not an operation: use GraphBuilder::input, parameter or constant",
                op.name()
            ))),
            op => self.shaped(op, inputs, &[]),
        }
    }

    /// Another shape with as many values.
    ///
    /// ```
    /// use burn::tensor::{Device, Tensor};
    /// use saliency_core::{GraphBuilder, Model, graph::Size};
    ///
    /// let x = Tensor::<3>::ones([1, 4, 2], &Device::flex());
    /// let mut graph = GraphBuilder::new(&x);
    /// let flat = graph.reshape(graph.input(), &[Size::Rows(1), Size::Fixed(8)])?;
    /// assert_eq!(graph.build(flat)?.forward(x).dims(), [1, 8]);
    /// # Ok::<(), saliency_core::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Trace`] where the numbers of values differ.
    pub fn reshape(&mut self, x: NodeId, shape: &[Size]) -> Result<NodeId, Error> {
        self.shaped(Op::Reshape, &[x], shape)
    }

    /// Axes of size one broadcast to a shape.
    ///
    /// # Errors
    /// [`Error::Trace`] where the shape does not fit.
    pub fn expand(&mut self, x: NodeId, shape: &[Size]) -> Result<NodeId, Error> {
        self.shaped(Op::Expand, &[x], shape)
    }

    /// Values repeated along an axis.
    ///
    /// # Errors
    /// [`Error::Trace`] where there is no such axis.
    pub fn repeat(&mut self, x: NodeId, axis: usize, times: usize) -> Result<NodeId, Error> {
        let mut shape = self.known(x)?.shape.clone();
        match shape.get_mut(axis) {
            Some(Size::Fixed(size) | Size::Rows(size)) => *size *= times,
            None => {
                return Err(Error::trace(format!(
                    "repeat along axis {axis} of {}",
                    described(&shape)
                )));
            }
        }
        self.shaped(Op::Repeat(axis), &[x], &shape)
    }

    /// Names a node.
    ///
    /// # Errors
    /// [`Error::Option`] where the name is empty or taken; [`Error::Trace`] where the node is
    /// not one of this graph.
    pub fn name(&mut self, node: NodeId, name: &str) -> Result<(), Error> {
        self.known(node)?;
        let taken = |other: &Node| other.name == name;
        if name.is_empty() || name == "input" || self.graph.nodes.iter().any(taken) {
            return Err(Error::option(
                "name",
                format!("{name:?}"),
                "each node needs a name of its own",
            ));
        }
        self.graph.nodes[node.0].name = name.to_owned();
        Ok(())
    }

    /// The shape of a node, the rows left open.
    ///
    /// # Errors
    /// [`Error::Trace`] where the node is not one of this graph.
    pub fn shape(&self, node: NodeId) -> Result<&[Size], Error> {
        Ok(&self.known(node)?.shape)
    }

    /// The graph with this output, of shape `[rows, outputs]`. It is simplified as a traced one
    /// is, so nodes get other numbers: look them up by name.
    ///
    /// # Errors
    /// [`Error::Trace`] where the output has another shape.
    pub fn build(mut self, output: NodeId) -> Result<Graph, Error> {
        self.known(output)?;
        self.graph.output = output;
        self.graph.finish()
    }

    fn known(&self, id: NodeId) -> Result<&Node, Error> {
        let node = self.graph.nodes.get(id.0);
        node.ok_or_else(|| Error::trace("a node is not one of this graph".into()))
    }

    /// Adds a node whose shape is given or found.
    fn shaped(&mut self, op: Op, inputs: &[NodeId], shape: &[Size]) -> Result<NodeId, Error> {
        let shapes = inputs
            .iter()
            .map(|id| Ok(described(&self.known(*id)?.shape)))
            .collect::<Result<Vec<_>, Error>>()?;
        let wrong = |why: String| {
            Error::trace(format!(
                "{} of {}: {why}",
                op.name(),
                match shapes.is_empty() {
                    true => "nothing".into(),
                    false => shapes.join(", "),
                }
            ))
        };
        let sizes: Vec<Vec<usize>> = inputs
            .iter()
            .map(|id| self.graph.node(*id).shape_at(ROWS[1]))
            .collect();
        fits(&op, &sizes).map_err(|why| wrong(why.into()))?;
        let mut found = Vec::new();
        for rows in ROWS {
            let values: Vec<Value> = inputs.iter().map(|id| self.zeros(*id, rows)).collect();
            let wanted: Vec<usize> = shape.iter().map(|size| size.at(rows)).collect();
            let value = guarded(&[rows], || execute(&op, &values, &wanted, rows));
            found.push(value.map_err(|error| match error {
                Error::ModelPanicked { message, .. } => wrong(message),
                other => other,
            })?);
        }
        let (one, two) = (found[0].shape(), found[1].shape());
        let dtype = found[0].dtype();
        if one.len() != two.len() {
            return Err(wrong("its rank depends on the batch size".into()));
        }
        let shape = one
            .iter()
            .zip(&two)
            .map(|(&a, &b)| size(a, b, ROWS))
            .collect::<Result<_, _>>()?;
        self.types.push(dtype);
        Ok(self.graph.add(Node::new(op, inputs.to_vec(), shape, None)))
    }

    fn zeros(&self, id: NodeId, rows: usize) -> Value {
        match self.graph.constant(id) {
            Some(value) => value.clone(),
            None => {
                let shape = self.graph.node(id).shape_at(rows);
                full(0.0, self.types[id.0], &shape, &self.graph.device)
            }
        }
    }
}

/// What backends do not check themselves.
fn fits(op: &Op, sizes: &[Vec<usize>]) -> Result<(), &'static str> {
    let ensure = |holds: bool, why: &'static str| if holds { Ok(()) } else { Err(why) };
    let several = match op {
        Op::Conv { .. }
        | Op::ConvTranspose { .. }
        | Op::Linear
        | Op::Matmul
        | Op::LayerNorm { .. }
        | Op::RmsNorm { .. }
        | Op::Embedding
        | Op::PRelu
        | Op::Binary(_)
        | Op::Compare(_)
        | Op::And
        | Op::Or
        | Op::Xor
        | Op::MaskFill(_)
        | Op::SliceAssign(_)
        | Op::Select(_)
        | Op::Gather(_)
        | Op::GridSample { .. } => 2,
        Op::MaskWhere | Op::DeformConv { .. } | Op::Scatter(..) | Op::SelectAssign(..) => 3,
        Op::BatchNorm { .. } => 5,
        _ => 1,
    };
    ensure(sizes.len() >= several, "an input is missing")?;
    let (a, b) = (&sizes[0], sizes.get(1).unwrap_or(&sizes[0]));
    let last = |shape: &[usize], from_end: usize| shape.iter().rev().nth(from_end).copied();
    match op {
        Op::Conv { window, groups } => {
            let rank = window.stride.len() + 2;
            ensure(
                a.len() == rank && b.len() == rank,
                "their numbers of axes differ",
            )?;
            ensure(
                a[1] == b[1] * groups,
                "the weight is for another number of channels",
            )
        }
        Op::ConvTranspose { window, .. } => {
            let rank = window.stride.len() + 2;
            ensure(
                a.len() == rank && b.len() == rank,
                "their numbers of axes differ",
            )?;
            ensure(a[1] == b[0], "the weight is for another number of channels")
        }
        Op::Linear => ensure(
            b.len() == 2 && last(a, 0) == Some(b[0]),
            "the weight must be [inputs, outputs]",
        ),
        Op::Matmul => ensure(
            a.len() == b.len() && last(a, 0) == last(b, 1),
            "the inner sizes differ",
        ),
        Op::BatchNorm { .. } => ensure(
            sizes[1..].iter().all(|own| own[..] == a[1..2]),
            "each parameter needs one number for each channel of axis 1",
        ),
        Op::GroupNorm { groups, .. } => ensure(
            a.len() > 2 && a[1].is_multiple_of(*groups),
            "the channels of axis 1 must be a multiple of the groups",
        ),
        Op::LayerNorm { .. } | Op::RmsNorm { .. } => ensure(
            b.last() == a.last(),
            "the weights need one number for each value of the last axis",
        ),
        Op::Binary(_) | Op::Compare(_) | Op::And | Op::Or | Op::Xor | Op::MaskFill(_) => {
            let mut pairs = a.iter().rev().zip(b.iter().rev());
            let broadcast = pairs.all(|(x, y)| x == y || *x == 1 || *y == 1);
            ensure(broadcast, "their sizes differ")
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Int, TensorData};

    use super::*;
    use crate::{
        DeepLift, GradCam, Gradient, Lrp, Method, Model,
        graph::{Binary, Pool, Reduce, Unary, Window},
        methods::testing::{assert_close, image, net_graph},
    };

    /// Every node of a traced graph, written again.
    fn copy(of: &Graph) -> Graph {
        let mut builder = GraphBuilder::new(&image(1, 0));
        let mut ids = Vec::new();
        for (_, node) in of.nodes() {
            let inputs: Vec<NodeId> = node.inputs.iter().map(|id: &NodeId| ids[id.0]).collect();
            ids.push(match &node.op {
                Op::Input => builder.input(),
                Op::Constant => {
                    let value = node.value.clone().unwrap();
                    builder
                        .parameter(node.path.as_deref().unwrap(), value)
                        .unwrap()
                }
                Op::Reshape => builder.reshape(inputs[0], &node.shape).unwrap(),
                op => builder.add(op.clone(), &inputs).unwrap(),
            });
            assert_eq!(builder.shape(*ids.last().unwrap()).unwrap(), node.shape);
        }
        builder.build(ids[of.output().0]).unwrap()
    }

    #[test]
    fn a_graph_by_hand_is_the_traced_one() {
        let traced = net_graph();
        let own = copy(&traced);
        assert_eq!(own.layers(), traced.layers());
        let x = image(3, 1);
        assert_close(own.forward(x.clone()), traced.forward(x.clone()), 1e-6);
        let methods: [&dyn Method<4>; 4] = [
            &Gradient,
            &GradCam::new().layer("relu_1"),
            &Lrp::epsilon_plus(),
            &DeepLift::new(),
        ];
        for method in methods {
            let [got, want] = [&own, &traced].map(|graph| {
                let run = crate::Run::new();
                let target = crate::Target::from(1);
                method
                    .explain_with(graph, x.clone(), &target, &run)
                    .unwrap()
                    .values
            });
            assert_close(got, want, 1e-6);
        }
    }

    #[test]
    fn mistakes_are_named_where_they_are_made() {
        let x = image(1, 0);
        let device = x.device();
        let mut b = GraphBuilder::new(&x);
        let input = b.input();
        let weight = b
            .parameter("conv.weight", Tensor::<4>::ones([2, 4, 3, 3], &device))
            .unwrap();
        let conv = Op::Conv {
            window: Window {
                stride: vec![1, 1],
                padding: vec![(0, 0), (0, 0)],
                dilation: vec![1, 1],
            },
            groups: 1,
        };
        let error = b.add(conv, &[input, weight]).unwrap_err().to_string();
        assert!(
            error.contains("conv of [rows, 3, 9, 8], [2, 4, 3, 3]"),
            "{error}"
        );
        let error = b.add(Op::Reshape, &[input]).unwrap_err().to_string();
        assert!(error.contains("GraphBuilder::reshape"), "{error}");
        assert!(
            b.parameter("conv.weight", Tensor::<1>::ones([1], &device))
                .is_err()
        );
        assert!(b.repeat(input, 4, 2).is_err());
        let wide = b.constant(Tensor::<4>::ones([1, 3, 9, 7], &device));
        let error = b.add(Op::Binary(Binary::Add), &[input, wide]).unwrap_err();
        assert!(error.to_string().contains("sizes differ"), "{error}");
        assert!(b.add(Op::Binary(Binary::Add), &[input]).is_err());
        assert!(b.add(Op::Reduce(Reduce::Sum, vec![4]), &[input]).is_err());
        assert!(b.add(Op::Unary(Unary::Relu), &[NodeId(9)]).is_err());
        assert!(b.add(Op::Unary(Unary::Relu), &[]).is_err());
        let relu = b.add(Op::Unary(Unary::Relu), &[input]).unwrap();
        b.name(relu, "gate").unwrap();
        assert!(b.name(input, "gate").is_err());
        assert!(b.clone().build(NodeId(9)).is_err());
        let error = b.build(relu).unwrap_err().to_string();
        assert!(error.contains("[rows, 3, 9, 8]"), "{error}");
    }

    /// Sequences with an embedding: whole numbers among the constants, pools, means and names.
    #[test]
    fn operations_find_their_shapes() {
        let device = burn::tensor::Device::flex();
        let x = Tensor::<3>::from_data(
            TensorData::new((0..24).map(|v| v as f32).collect(), [2, 3, 4]),
            &device,
        );
        let mut b = GraphBuilder::new(&x);
        let places = Tensor::<1, Int>::from_ints([2, 0], &device);
        let places = b.constant(places);
        let chosen = b.add(Op::Select(2), &[b.input(), places]).unwrap();
        assert_eq!(
            b.shape(chosen).unwrap(),
            [Size::Rows(1), Size::Fixed(3), Size::Fixed(2)]
        );
        let twice = b.repeat(chosen, 2, 2).unwrap();
        let pool = Pool {
            kernel: vec![2],
            window: Window {
                stride: vec![2],
                padding: vec![(0, 0)],
                dilation: vec![1],
            },
            ceil: false,
        };
        let pooled = b.add(Op::MaxPool(pool), &[twice]).unwrap();
        let mean = b.add(Op::Reduce(Reduce::Mean, vec![2]), &[pooled]).unwrap();
        let one = b.constant(Tensor::<3>::ones([1, 1, 1], &device));
        let wide = [Size::Fixed(1), Size::Fixed(3), Size::Fixed(1)];
        let ones = b.expand(one, &wide).unwrap();
        let sum = b.add(Op::Binary(Binary::Add), &[mean, ones]).unwrap();
        b.name(sum, "sum").unwrap();
        let out = b.reshape(sum, &[Size::Rows(1), Size::Fixed(3)]).unwrap();
        let graph = b.build(out).unwrap();
        assert!(graph.layer(&"sum".into()).is_ok());
        // The larger of columns 2 and 0, plus one.
        let want = x.clone().narrow(2, 2, 1).squeeze_dim::<2>(2) + 1.0;
        assert_close(graph.forward(x), want, 1e-6);
    }
}
