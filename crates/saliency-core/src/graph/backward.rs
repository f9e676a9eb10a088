//! A backward pass of this crate's own, so that any operation can have a rule of its own.

use burn::backend::{
    Dispatch,
    ops::{ActivationOps, ConvOptions, ModuleOps},
};

use super::{
    Graph, Node, NodeId,
    execute::{conv_options, execute, split_last},
    op::{Binary, Op, Unary, Window},
    value::Value,
};
use crate::{error::Error, run::guarded};

/// The values of all nodes that lie between the input and some others.
#[derive(Clone, Debug)]
pub struct Activations {
    values: Vec<Option<Value>>,
    rows: usize,
}

impl Activations {
    /// The value of a node, where it was computed.
    pub fn get(&self, id: NodeId) -> Option<&Value> {
        self.values[id.0].as_ref()
    }

    /// Rows of the batch.
    pub fn rows(&self) -> usize {
        self.rows
    }
}

/// One operation during a backward pass, with all its values.
#[derive(Clone, Copy, Debug)]
pub struct Site<'a> {
    /// The graph.
    pub graph: &'a Graph,
    /// Which node.
    pub id: NodeId,
    /// The node.
    pub node: &'a Node,
    /// The values it read, constants among them.
    pub inputs: &'a [Value],
    /// The value it made.
    pub output: &'a Value,
    /// Which of the inputs depend on what is explained.
    pub needed: &'a [bool],
    rows: usize,
}

impl Site<'_> {
    /// What this operation would make of other inputs.
    pub fn run(&self, inputs: &[Value]) -> Value {
        execute(
            &self.node.op,
            inputs,
            &self.node.shape_at(self.rows),
            self.rows,
        )
    }

    /// The ordinary derivative: for each input, gradient times d output / d input; `None` for
    /// inputs that are not needed or not floats.
    ///
    /// # Errors
    /// [`Error::ModelPanicked`] where Burn cannot differentiate the operation.
    pub fn derivative(&self, gradient: &Value) -> Result<Vec<Option<Value>>, Error> {
        derivative(self, self.inputs, gradient)
    }

    /// The same at other inputs.
    ///
    /// # Errors
    /// As [`derivative`](Site::derivative).
    pub fn derivative_at(
        &self,
        inputs: &[Value],
        gradient: &Value,
    ) -> Result<Vec<Option<Value>>, Error> {
        derivative(self, inputs, gradient)
    }
}

/// How an operation passes back what arrives at its output.
///
/// Returns one value per input (`None` for inputs that get nothing), or `None` altogether for
/// the ordinary derivative. Closures are rules:
///
/// ```
/// use burn::{module::Module, nn::{Linear, LinearConfig}, tensor::{Device, Tensor, activation::relu}};
/// use saliency_core::{Graph, graph::{Op, Site, Unary, Value}};
///
/// let device = Device::flex();
/// let linear = LinearConfig::new(2, 2).init(&device);
/// let x = Tensor::<2>::from_floats([[1.0, 2.0]], &device);
/// let graph = Graph::trace(&linear, |m, x| relu(m.forward(x)), &x)?;
///
/// // Guided Backprop: only positive gradients pass a ReLU.
/// let guided = |site: &Site, gradient: &Value| match site.node.op {
///     Op::Unary(Unary::Relu) => Ok(Some(vec![Some(
///         site.output.where_above(0.0, &gradient.relu()),
///     )])),
///     _ => Ok(None),
/// };
/// let all = graph.activations(x.into())?;
/// let seed = all.get(graph.output()).unwrap().full_like(1.0);
/// let gradient = graph.backward(&all, vec![(graph.output(), seed)], &guided, &[graph.input()])?;
/// assert_eq!(gradient[0].as_ref().unwrap().shape(), [1, 2]);
/// # Ok::<(), saliency_core::Error>(())
/// ```
pub trait Rule {
    /// What the inputs get of what arrived at the output.
    ///
    /// # Errors
    /// Any [`Error`]; it ends the pass.
    fn backward(&self, site: &Site, gradient: &Value) -> Result<Option<Vec<Option<Value>>>, Error>;
}

impl<F> Rule for F
where
    F: Fn(&Site, &Value) -> Result<Option<Vec<Option<Value>>>, Error>,
{
    fn backward(&self, site: &Site, gradient: &Value) -> Result<Option<Vec<Option<Value>>>, Error> {
        self(site, gradient)
    }
}

impl Graph {
    /// All values of a forward pass, off the tape.
    ///
    /// # Errors
    /// [`Error::Shape`], [`Error::ModelPanicked`], [`Error::OutOfMemory`].
    pub fn activations(&self, input: Value) -> Result<Activations, Error> {
        self.check_input(&input.shape())?;
        let rows = input.shape()[0];
        let mut values: Vec<Option<Value>> = vec![None; self.nodes.len()];
        let input = input.inner();
        values[self.input.0] = Some(input.clone());
        guarded(&input.shape(), || {
            self.evaluate_with(
                &[(self.input, input.clone())],
                &[self.output],
                &mut |id, v| {
                    values[id.0] = Some(v.clone());
                    v
                },
            )
        })?;
        Ok(Activations { values, rows })
    }

    /// Passes the `seeds` back from their nodes, each operation by its rule, and returns what
    /// arrives at the `wanted` nodes (`None` where nothing does).
    ///
    /// What arrives at a node from several users is added up.
    ///
    /// # Errors
    /// Those of the rule; [`Error::ModelPanicked`] where Burn cannot differentiate an
    /// operation.
    pub fn backward(
        &self,
        activations: &Activations,
        seeds: Vec<(NodeId, Value)>,
        rule: &dyn Rule,
        wanted: &[NodeId],
    ) -> Result<Vec<Option<Value>>, Error> {
        let mut depends = vec![false; self.nodes.len()];
        for &id in wanted {
            for (own, found) in depends.iter_mut().zip(self.dependents(id)) {
                *own |= found;
            }
        }
        let mut arrived: Vec<Option<Value>> = vec![None; self.nodes.len()];
        for (id, seed) in seeds {
            add(&mut arrived[id.0], seed);
        }
        for id in (0..self.nodes.len()).rev() {
            if !depends[id] || matches!(self.nodes[id].op, Op::Input | Op::Constant) {
                continue;
            }
            let keep = wanted.contains(&NodeId(id));
            let gradient = match keep {
                true => arrived[id].clone(),
                false => arrived[id].take(),
            };
            let (Some(gradient), Some(output)) = (gradient, &activations.values[id]) else {
                continue;
            };
            let node = &self.nodes[id];
            let inputs: Vec<Value> = node
                .inputs
                .iter()
                .map(|input| activations.values[input.0].clone())
                .collect::<Option<_>>()
                .ok_or_else(|| Error::trace("an activation is missing".into()))?;
            let needed: Vec<bool> = node.inputs.iter().map(|input| depends[input.0]).collect();
            if !needed.contains(&true) {
                continue;
            }
            let site = Site {
                graph: self,
                id: NodeId(id),
                node,
                inputs: &inputs,
                output,
                needed: &needed,
                rows: activations.rows,
            };
            let passed = match rule.backward(&site, &gradient)? {
                Some(passed) => passed,
                None => site.derivative(&gradient)?,
            };
            for ((input, value), needed) in node.inputs.iter().zip(passed).zip(&needed) {
                if let Some(value) = value.filter(|_| *needed) {
                    add(&mut arrived[input.0], value);
                }
            }
        }
        Ok(wanted.iter().map(|id| arrived[id.0].take()).collect())
    }
}

fn add(to: &mut Option<Value>, value: Value) {
    *to = Some(match to.take() {
        Some(before) => &before + &value,
        None => value,
    });
}

fn derivative(
    site: &Site,
    inputs: &[Value],
    gradient: &Value,
) -> Result<Vec<Option<Value>>, Error> {
    let first = |value: Value| {
        let mut all = vec![None; inputs.len()];
        all[0] = Some(value);
        Ok(all)
    };
    let only_first = site.needed[0] && site.needed[1..].iter().all(|needed| !needed);
    match &site.node.op {
        Op::Reshape => first(gradient.clone().reshape(&inputs[0].shape())),
        Op::Expand => first(gradient.sum_to(&inputs[0].shape())),
        Op::Permute(axes) => {
            let mut back = vec![0; axes.len()];
            for (to, &from) in axes.iter().enumerate() {
                back[from] = to;
            }
            first(gradient.clone().permute(&back))
        }
        Op::Binary(Binary::Add) => Ok(inputs
            .iter()
            .map(|input| Some(gradient.sum_to(&input.shape())))
            .collect()),
        Op::Binary(Binary::Sub) => Ok(vec![
            Some(gradient.sum_to(&inputs[0].shape())),
            Some(gradient.times(-1.0).sum_to(&inputs[1].shape())),
        ]),
        Op::Unary(Unary::Relu) => first(Value(Dispatch::relu_backward(
            Dispatch::relu(inputs[0].0.clone()),
            gradient.0.clone(),
        ))),
        Op::Unary(Unary::Add(_)) => first(gradient.clone()),
        Op::Unary(Unary::Mul(by)) => first(gradient.times(*by)),
        Op::Unary(Unary::Div(by)) => first(gradient.times(1.0 / by)),
        Op::Unary(Unary::Neg) => first(gradient.times(-1.0)),
        Op::Conv { window, groups } if only_first => {
            first(conv_x(&inputs[0], &inputs[1], gradient, window, *groups))
        }
        Op::Linear if only_first => {
            let shape = gradient.shape();
            let (rows, width) = split_last(&shape);
            let flat = gradient.clone().reshape(&[rows, width]);
            let back = flat.matmul(&inputs[1].clone().transpose());
            first(back.reshape(&inputs[0].shape()))
        }
        Op::BatchNorm { epsilon } if only_first => {
            let scale = &inputs[1] / &Value::from(inputs[4].plus(*epsilon).typed().sqrt());
            let mut shape = vec![1; gradient.rank()];
            shape[1] = scale.shape()[0];
            first(gradient * &scale.reshape(&shape))
        }
        _ => taped(site, inputs, gradient),
    }
}

/// The input gradient of a convolution: the transposed convolution of the output gradient.
pub(crate) fn conv_x(
    x: &Value,
    weight: &Value,
    gradient: &Value,
    window: &Window,
    groups: usize,
) -> Value {
    let (x, weight, gradient) = (x.0.clone(), weight.0.clone(), gradient.0.clone());
    Value(match window.stride.len() {
        1 => {
            let options: ConvOptions<1> = conv_options(window, groups);
            Dispatch::conv1d_x_backward(x, weight, gradient, options)
        }
        2 => {
            let options: ConvOptions<2> = conv_options(window, groups);
            Dispatch::conv2d_x_backward(x, weight, gradient, options)
        }
        _ => {
            let options: ConvOptions<3> = conv_options(window, groups);
            Dispatch::conv3d_x_backward(x, weight, gradient, options)
        }
    })
}

/// Burn's own derivative of one operation.
fn taped(site: &Site, inputs: &[Value], gradient: &Value) -> Result<Vec<Option<Value>>, Error> {
    guarded(&gradient.shape(), || {
        let leaves: Vec<Value> = inputs
            .iter()
            .zip(site.needed)
            .map(|(input, &needed)| match needed && input.is_float() {
                true => input.clone().leaf(),
                false => input.clone(),
            })
            .collect();
        let output = site.run(&leaves);
        if !output.is_tracked() {
            return vec![None; inputs.len()];
        }
        let mut gradients = (&output * gradient).typed().sum().backward();
        leaves
            .iter()
            .map(|leaf| match leaf.is_tracked() {
                true => leaf.typed().grad_remove(&mut gradients).map(Value::from),
                false => None,
            })
            .collect()
    })
}
