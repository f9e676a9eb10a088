use std::cell::RefCell;

use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

use super::places::{Frame, Places};
use crate::{
    attribution::{Evaluations, Evidence, Outcome},
    error::Error,
    graph::{Binary, Graph, Op, Reduce, Site, Size, Unary, Value, inside},
    host::widened,
    method::Method,
    model::Model,
    recipe::{Recipe, Registered},
    run::{Run, Stage, guarded, join},
    target::Goal,
    upsample::{Resize, resize, share},
};

/// What is made of each part's values in [`FullGrad`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Psi {
    /// |values|, scaled to 0..1 over the part: the paper's own code.
    #[default]
    PerPart,
    /// |values|, each channel of the part scaled to 0..1: pytorch-grad-cam.
    PerChannel,
    /// The values as they are, spread over the input's positions so that their sum stays: the
    /// map adds up to the score. Parts without positions are spread evenly.
    Signed,
}

/// The input times its gradient, and every bias of the network times its own.
///
/// For a network of ReLUs f(x) = sum(x * d f / d x) + sum over biases b of b * d f / d b: all
/// that the score is made of. With one part x * d f / d x and one for each layer with biases,
/// map = sum over parts of sum over channels of psi(part), each brought to the input's
/// positions; values have one channel. Srinivas and Fleuret, "Full-Gradient Representation for
/// Neural Network Visualization" (2019), <https://arxiv.org/abs/1905.00780>.
///
/// Biases are those of convolutions and linear layers, what BatchNorm adds (beta - mean *
/// gamma / deviation), any constant that is added, and for other nonlinear operations (tanh,
/// LayerNorm, softmax, ...) y - x * dy/dx, so that the sum holds for every network. With
/// [`Psi::Signed`] (`full-grad-signed`) the map adds up to the score, and `evidence.delta` is
/// how far it does not. The other forms show only parts that have positions.
/// `full-grad-per-channel` is pytorch-grad-cam's form, before its final scaling.
///
/// ```
/// use burn::{nn::LinearConfig, tensor::{Device, Tensor, activation::relu}};
/// use saliency_core::{FullGrad, Graph, Method, Psi};
///
/// let device = Device::flex();
/// let head = LinearConfig::new(2, 1).init(&device);
/// let x = Tensor::<3>::from_floats([[[1.0, 0.0], [-2.0, 4.0], [3.0, -1.0]]], &device);
/// let model = |m: &burn::nn::Linear, x: Tensor<3>| m.forward(relu(x + 0.5).mean_dim(1).flatten(1, 2));
/// let graph = Graph::trace(&head, model, &x)?;
/// let map = FullGrad::new().psi(Psi::Signed).explain(&graph, x, 0)?;
/// assert_eq!(map.values.dims(), [1, 3, 1]);
/// let sum: f32 = map.to_vec()?.iter().sum();
/// assert!((sum - map.scores[0] as f32).abs() < 1e-5);
/// # Ok::<(), saliency_core::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FullGrad {
    /// What is made of each part's values.
    pub psi: Psi,
    /// How parts are brought to the input's positions, except with [`Psi::Signed`].
    pub resize: Resize,
}

impl Default for FullGrad {
    fn default() -> Self {
        FullGrad {
            psi: Psi::default(),
            resize: Resize::Aligned,
        }
    }
}

impl FullGrad {
    /// The form of the paper's code.
    pub fn new() -> Self {
        Self::default()
    }

    /// The signed form, which adds up to the score.
    pub fn signed() -> Self {
        Self::new().psi(Psi::Signed)
    }

    /// pytorch-grad-cam's form.
    pub fn per_channel() -> Self {
        Self::new().psi(Psi::PerChannel).resize(Resize::Bilinear)
    }

    /// What is made of each part's values.
    pub fn psi(mut self, psi: Psi) -> Self {
        self.psi = psi;
        self
    }

    /// How parts are brought to the input's positions.
    pub fn resize(mut self, resize: Resize) -> Self {
        self.resize = resize;
        self
    }

    /// The map `[rows, 1, positions ...]` of a part `[rows, channels, places ...]`.
    fn map(&self, part: Value, frame: &Frame) -> Value {
        let shape = part.shape();
        if self.psi == Psi::Signed {
            return share(part.sum_dims(&[1]), &frame.sizes);
        }
        let epsilon = match self.psi {
            Psi::PerChannel => 1e-7,
            _ => 1e-6,
        };
        let scaled = match self.psi {
            Psi::PerChannel => [shape[0] * shape[1], shape[2..].iter().product()],
            _ => [shape[0], shape[1..].iter().product()],
        };
        let flat: Tensor<2> = part.abs().reshape(&scaled).tensor();
        let flat = flat.clone() - flat.min_dim(1);
        let flat = flat.clone() / (flat.max_dim(1) + epsilon);
        let part = Value::from(flat).reshape(&shape).sum_dims(&[1]);
        resize(part, &frame.sizes, self.resize)
    }

    /// The map of one batch, what its parts add up to in each row, and the scores.
    fn batch<const D: usize>(
        &self,
        graph: &Graph,
        x: Tensor<D>,
        goal: &Goal,
    ) -> Result<(Tensor<D>, Tensor<1>, Tensor<1>), Error> {
        let frame = Frame::of(graph);
        let all = graph.activations(x.clone().into())?;
        let output = all.get(graph.output()).ok_or(Error::NotDifferentiable)?;
        let outputs = output.clone().tensor::<2>();
        let seed = goal.seed(&outputs)?;
        let sums = RefCell::new(Sums::default());
        let record = |site: &Site, gradient: &Value| {
            let (bias, passed) = bias(site, gradient)?;
            if let Some(bias) = bias {
                let places = Places::find(graph, site.id, &frame);
                let map = bias
                    .at
                    .zip(places)
                    .map(|(part, places)| self.map(places.unflatten(places.split(part)), &frame));
                sums.borrow_mut().add(bias.total, map);
            }
            Ok(passed)
        };
        let seeds = vec![(graph.output(), seed.into())];
        let arrived = graph.backward(&all, seeds, &record, &[graph.input()])?;
        let gradient = arrived.into_iter().flatten().next();
        let gradient = gradient.ok_or(Error::NotDifferentiable)?.tensor::<D>();
        let part = widened(gradient * x);
        let total = by_row(&part.clone().into(), &graph.node(graph.input()).shape);
        let mut sums = sums.into_inner();
        sums.add(total, Some(self.map(frame.split(part), &frame)));
        let (map, total) = sums.finish(self.psi, &frame)?;
        Ok((map, total, goal.scores(outputs)?))
    }
}

/// The parts so far: what they add up to, and the map of those that have places.
#[derive(Default)]
struct Sums {
    total: Option<Tensor<1>>,
    map: Option<Value>,
}

impl Sums {
    fn add(&mut self, total: Tensor<1>, map: Option<Value>) {
        self.total = Some(match self.total.take() {
            Some(before) => before + total,
            None => total,
        });
        self.map = match (self.map.take(), map) {
            (Some(before), Some(map)) => Some(&before + &map),
            (before, map) => before.or(map),
        };
    }

    fn finish<const D: usize>(
        self,
        psi: Psi,
        frame: &Frame,
    ) -> Result<(Tensor<D>, Tensor<1>), Error> {
        let (total, map) = self.total.zip(self.map).ok_or(Error::NotDifferentiable)?;
        let map: Tensor<D> = frame.join(map);
        if psi != Psi::Signed {
            return Ok((map, total));
        }
        let shape = map.dims();
        let places = shape[1..].iter().product::<usize>();
        let map = map.reshape([shape[0], places]);
        let rest = total.clone().reshape([shape[0], 1]) - map.clone().sum_dim(1);
        let map = map + rest.div_scalar(places as f64);
        Ok((map.reshape(shape), total))
    }
}

/// gradient * (y - x dy/dx) of one operation.
struct Bias {
    /// Its sum in each row.
    total: Tensor<1>,
    /// Its values, in the shape of the operation's output.
    at: Option<Value>,
}

type Passed = Option<Vec<Option<Value>>>;

/// What an operation adds that is not proportional to its input, and its derivative where that
/// was needed to know.
fn bias(site: &Site, gradient: &Value) -> Result<(Option<Bias>, Passed), Error> {
    if is_proportional(site) {
        return Ok((None, None));
    }
    let sizes = &site.node.shape;
    let at_output = |part: Value| Bias {
        total: by_row(&part, sizes),
        at: Some(part),
    };
    if is_affine(site) {
        let zeros: Vec<Value> = (site.inputs.iter().zip(site.needed))
            .map(|(input, needed)| match needed {
                true => input.zeros_like(),
                false => input.clone(),
            })
            .collect();
        let constant = guarded(&gradient.shape(), || site.run(&zeros))?;
        return Ok((Some(at_output(wide(&(gradient * &constant)))), None));
    }
    let passed = site.derivative(gradient)?;
    let whole = wide(&(gradient * site.output));
    let proportional = |index: usize| Some(wide(&(&site.inputs[index] * passed[index].as_ref()?)));
    let bias = match (site.inputs, site.needed) {
        ([input], [true]) if input.shape() == site.output.shape() => {
            at_output(proportional(0).map_or(whole.clone(), |part| &whole - &part))
        }
        _ => {
            let total = (0..site.inputs.len()).fold(by_row(&whole, sizes), |total, index| {
                let source = &site.graph.node(site.node.inputs[index]).shape;
                match proportional(index) {
                    Some(part) if site.needed[index] => total - by_row(&part, source),
                    _ => total,
                }
            });
            Bias { total, at: None }
        }
    };
    Ok((Some(bias), Some(passed)))
}

/// y(t x) = t y(x) for t > 0 in the inputs that depend on the network's.
fn is_proportional(site: &Site) -> bool {
    let all = !site.needed.contains(&false);
    let one = site.needed.iter().filter(|needed| **needed).count() == 1;
    match &site.node.op {
        Op::Reshape
        | Op::Expand
        | Op::Permute(_)
        | Op::Flip(_)
        | Op::Slice(_)
        | Op::Select(_)
        | Op::Gather(_)
        | Op::Unfold { .. }
        | Op::Repeat(_)
        | Op::Cast(_)
        | Op::MaxPool(_)
        | Op::AvgPool { .. }
        | Op::AdaptiveAvgPool { .. }
        | Op::Interpolate { .. }
        | Op::Reduce(Reduce::Sum | Reduce::Mean | Reduce::Max | Reduce::Min, _)
        | Op::Unary(
            Unary::Relu
            | Unary::LeakyRelu { .. }
            | Unary::Abs
            | Unary::Neg
            | Unary::Mul(_)
            | Unary::Div(_),
        ) => true,
        Op::PRelu => one,
        Op::Conv { .. } | Op::ConvTranspose { .. } | Op::Linear => site.inputs.len() == 2 && one,
        Op::Matmul | Op::Binary(Binary::Mul) => one,
        Op::Binary(Binary::Div) => one && site.needed[0],
        Op::Binary(Binary::Add | Binary::Sub) | Op::Cat(_) => all,
        _ => false,
    }
}

/// A constant, and something proportional to the inputs that depend on the network's.
fn is_affine(site: &Site) -> bool {
    let only_first = site.needed[0] && !site.needed[1..].contains(&true);
    match &site.node.op {
        Op::Conv { .. } | Op::ConvTranspose { .. } | Op::Linear | Op::BatchNorm { .. } => {
            only_first
        }
        Op::Binary(Binary::Add | Binary::Sub) | Op::Cat(_) | Op::Unary(Unary::Add(_)) => true,
        Op::Pad { .. } => true,
        _ => false,
    }
}

/// The sum over everything but the rows.
fn by_row(value: &Value, sizes: &[Size]) -> Tensor<1> {
    let rows_at = |size: &Size| match size {
        Size::Rows(times) => Some(*times),
        Size::Fixed(_) => None,
    };
    let shape = value.shape();
    let found = sizes
        .iter()
        .enumerate()
        .find_map(|(axis, size)| Some((axis, rows_at(size)?)));
    let (axis, times) = found.unwrap_or((0, 1));
    let rows = shape[axis] / times;
    let mut order: Vec<usize> = (0..shape.len()).collect();
    order.remove(axis);
    order.insert(0, axis);
    let rest = shape.iter().product::<usize>() / rows;
    let flat: Tensor<2> = value
        .clone()
        .permute(&order)
        .reshape(&[rows, rest])
        .tensor();
    widened(flat).sum_dim(1).reshape([rows])
}

/// In f32 at least.
fn wide(value: &Value) -> Value {
    widened(value.typed()).into()
}

impl Registered for FullGrad {
    fn is_non_negative(&self) -> bool {
        self.psi != Psi::Signed
    }
}

impl<const D: usize> Method<D> for FullGrad {
    fn recipe(&self) -> Recipe {
        Recipe::FullGrad(self.clone())
    }

    fn attribute(
        &self,
        model: &dyn Model<D>,
        input: &Tensor<D>,
        goal: &Goal,
        run: &Run,
    ) -> Result<Outcome<D>, Error> {
        let graph = inside(model, "full-grad")?;
        let (mut parts, mut deltas) = (Vec::new(), Vec::new());
        let total = input.dims()[0];
        run.batches(Stage::Attributing, total, run.rows(input), |range| {
            let batch = input.clone().narrow(0, range.start, range.len());
            let goal = goal.slice(range.start, range.end);
            run.count(Evaluations {
                forward: 0,
                gradient: range.len(),
            });
            let (map, sum, score) = self.batch(graph, batch, &goal)?;
            let sum = sum.try_into_vec_as::<f64>().map_err(Error::device)?;
            let score = score.try_into_vec_as::<f64>().map_err(Error::device)?;
            deltas.extend(sum.iter().zip(&score).map(|(sum, score)| sum - score));
            parts.push(map);
            Ok(())
        })?;
        let complete = self.psi == Psi::Signed;
        Ok(Outcome {
            values: join(parts),
            evidence: Evidence {
                delta: complete.then_some(deltas),
                ..Evidence::default()
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use burn::{
        module::Module,
        nn::{
            BatchNorm, BatchNormConfig, LayerNorm, LayerNormConfig, Linear, LinearConfig,
            conv::{Conv2d, Conv2dConfig},
        },
        tensor::{
            Device,
            activation::{gelu, softmax},
        },
    };

    use super::*;
    use crate::{
        InputXGradient,
        methods::{
            cam::testing::{Reused, assert_splits_agree, graph},
            testing::{assert_close, image},
        },
    };

    fn sums(values: Tensor<4>) -> Vec<f64> {
        values
            .sum_dims(&[1, 2, 3])
            .try_into_vec_as::<f64>()
            .unwrap()
    }

    fn assert_complete(graph: &Graph) {
        let map = FullGrad::signed()
            .explain(graph, image(3, 2), vec![0, 1, 2])
            .unwrap();
        assert_eq!(map.values.dims(), [3, 1, 9, 8]);
        let delta = map.evidence.delta.unwrap();
        for ((sum, score), delta) in sums(map.values).iter().zip(&map.scores).zip(delta) {
            assert!(
                (sum - score).abs() < 2e-5 * score.abs().max(1.0),
                "{sum} {score}"
            );
            assert!((sum - score - delta).abs() < 2e-5, "{delta}");
        }
    }

    #[test]
    fn adds_up_to_the_score() {
        assert_complete(&graph());
        assert_complete(&Reused::graph());
        assert_complete(&graph().folded());
    }

    /// Operations that are neither linear nor ReLUs, tokens, products of two activations.
    #[derive(Module, Debug)]
    struct Mixed {
        stem: Conv2d,
        norm: BatchNorm,
        layer_norm: LayerNorm,
        head: Linear,
    }

    impl Mixed {
        fn forward(&self, x: Tensor<4>) -> Tensor<2> {
            let x = gelu(self.norm.forward(self.stem.forward(x))).mul_scalar(2.0) - 0.3;
            let tokens: Tensor<3> = x.flatten::<3>(2, 3).swap_dims(1, 2);
            let tokens = self.layer_norm.forward(tokens.clone());
            let mixed = softmax(tokens.clone().matmul(tokens.clone().swap_dims(1, 2)), 2);
            let read = (mixed.matmul(tokens.clone()) * tokens.tanh()).mean_dim(1);
            self.head.forward(read.squeeze_dim(1))
        }
    }

    #[test]
    fn adds_up_to_the_score_of_any_network() {
        let device = Device::flex();
        device.seed(8);
        let net = Mixed {
            stem: Conv2dConfig::new([3, 5], [3, 3])
                .with_stride([2, 2])
                .init(&device),
            norm: BatchNormConfig::new(5).init(&device),
            layer_norm: LayerNormConfig::new(5).init(&device),
            head: LinearConfig::new(5, 4).init(&device),
        };
        assert_complete(&Graph::trace(&net, |m, x| m.forward(x), &image(1, 0)).unwrap());
    }

    /// Without biases, all there is is the input times its gradient.
    #[test]
    fn is_the_input_times_gradient_without_biases() {
        let net = crate::methods::testing::Net::bias_free(&Device::flex());
        let graph = Graph::trace(&net, |m, x| m.forward(x), &image(1, 0)).unwrap();
        let map = FullGrad::signed().explain(&graph, image(2, 1), 1).unwrap();
        let want = InputXGradient.explain(&net, image(2, 1), 1).unwrap();
        // BatchNorm's epsilon and zero statistics make it a scaling.
        assert_close(map.values, want.values.sum_dim(1), 1e-5);
    }

    /// psi by hand for a network of one convolution, whose part is bias * gradient.
    #[test]
    fn parts_are_scaled_as_the_forms_say() {
        let device = Device::flex();
        device.seed(2);
        let net = (
            Conv2dConfig::new([3, 4], [1, 1]).init(&device),
            LinearConfig::new(4 * 72, 4).with_bias(false).init(&device),
        );
        let forward = |(conv, head): &(Conv2d, Linear), x: Tensor<4>| {
            head.forward(conv.forward(x).flatten::<2>(1, 3))
        };
        let graph = Graph::trace(&net, forward, &image(1, 0)).unwrap();
        let x = image(1, 3);
        let product = InputXGradient.explain(&graph, x.clone(), 1).unwrap().values;
        let bias = net.0.bias.as_ref().unwrap().val().reshape([1, 4, 1, 1]);
        let gradient = net.1.weight.val().narrow(1, 1, 1).reshape([1, 4, 9, 8]);
        for method in [FullGrad::new(), FullGrad::per_channel()] {
            let psi = |part: Tensor<4>| -> Tensor<4> {
                let [_, channels, ..] = part.dims();
                let len = if method.psi == Psi::PerChannel {
                    72
                } else {
                    72 * channels
                };
                let flat = part.abs().reshape([-1, len as i32]);
                let flat: Tensor<2> = flat.clone() - flat.min_dim(1);
                let flat = flat.clone() / flat.max_dim(1);
                flat.reshape([1, channels, 9, 8]).sum_dim(1)
            };
            let want = psi(product.clone()) + psi(gradient.clone() * bias.clone());
            let map = method.explain(&graph, x.clone(), 1).unwrap();
            assert!(map.evidence.delta.is_none());
            assert_close(map.values, want, 1e-4);
        }
    }

    #[test]
    fn does_not_depend_on_the_batch_split() {
        for method in [FullGrad::new(), FullGrad::signed(), FullGrad::per_channel()] {
            assert_splits_agree(&method, 1e-5);
        }
    }
}
