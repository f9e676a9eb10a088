//! Graphs whose steps meet in unusual ways.

use burn::tensor::{DType, Device, Tensor, TensorData};

use super::{tokens::agrees, *};
use crate::graph::{Binary, GraphBuilder, NodeId, Reduce, Span, Unary, Window};
use crate::graph::{Size, Value};

fn noise(shape: &[usize], stream: usize) -> Value {
    let values = crate::noise::standard_normal(23, stream, shape.iter().product());
    let flat = Tensor::<1>::from_floats(&values[..], &Device::flex());
    Value::from(flat).reshape(shape)
}

fn input(shape: [usize; 4]) -> Tensor<4> {
    noise(&shape, 1).tensor()
}

/// A graph under construction.
struct Draft {
    builder: GraphBuilder,
    parameters: usize,
}

impl Draft {
    fn new(example: &Tensor<4>) -> Self {
        Draft {
            builder: GraphBuilder::new(example),
            parameters: 0,
        }
    }

    fn input(&self) -> NodeId {
        self.builder.input()
    }

    fn parameter(&mut self, value: Value) -> NodeId {
        self.parameters += 1;
        let path = format!("layer{}.weight", self.parameters);
        self.builder.parameter(&path, value).unwrap()
    }

    fn op(&mut self, op: Op, inputs: &[NodeId]) -> NodeId {
        self.builder.add(op, inputs).unwrap()
    }

    /// With a border that keeps the size.
    fn conv(&mut self, x: NodeId, from: usize, to: usize, kernel: usize) -> NodeId {
        let stream = self.parameters + 2;
        let scale = 1.0 / (from as f64 * (kernel * kernel) as f64).sqrt();
        let weight = noise(&[to, from, kernel, kernel], stream).times(scale);
        let weight = self.parameter(weight);
        let bias = self.parameter(noise(&[to], stream + 50));
        let window = Window {
            stride: vec![1, 1],
            padding: vec![(kernel / 2, kernel / 2); 2],
            dilation: vec![1, 1],
        };
        self.op(Op::Conv { window, groups: 1 }, &[x, weight, bias])
    }

    fn relu(&mut self, x: NodeId) -> NodeId {
        self.op(Op::Unary(Unary::Relu), &[x])
    }

    fn sum(&mut self, a: NodeId, b: NodeId) -> NodeId {
        self.op(Op::Binary(Binary::Add), &[a, b])
    }

    /// The mean over all positions, through a linear layer.
    fn head(mut self, x: NodeId, channels: usize) -> Graph {
        let mean = self.op(Op::Reduce(Reduce::Mean, vec![2, 3]), &[x]);
        let shape = [Size::Rows(1), Size::Fixed(channels)];
        let flat = self.builder.reshape(mean, &shape).unwrap();
        let weight = self.parameter(noise(&[channels, 3], 90));
        let output = self.op(Op::Linear, &[flat, weight]);
        self.builder.build(output).unwrap()
    }
}

/// Gradients that overlapping windows write are read by windows again.
#[test]
fn windows_over_few_channels_follow_each_other() {
    for channels in [[1, 8, 16], [16, 8, 8], [3, 5, 4]] {
        let x = input([2, channels[0], 7, 6]);
        let mut draft = Draft::new(&x);
        let y = draft.conv(draft.input(), channels[0], channels[1], 3);
        let y = draft.op(Op::Unary(Unary::Tanh), &[y]);
        let y = draft.conv(y, channels[1], channels[2], 3);
        let y = draft.relu(y);
        let y = draft.conv(y, channels[2], 5, 3);
        agrees(&draft.head(y, 5), x);
    }
}

/// A sum with a concatenation, which has a place before it has values.
#[test]
fn sums_with_concatenations_agree() {
    for shortcut_first in [true, false] {
        let x = input([2, 4, 5, 6]);
        let mut draft = Draft::new(&x);
        let from = draft.input();
        let early = shortcut_first.then(|| draft.conv(from, 4, 32, 1));
        let a = draft.conv(from, 4, 16, 3);
        let a = draft.relu(a);
        let shortcut = early.unwrap_or_else(|| draft.conv(from, 4, 32, 1));
        let b = draft.conv(from, 4, 16, 1);
        let b = draft.relu(b);
        let joined = draft.op(Op::Cat(1), &[a, b]);
        let sum = draft.sum(shortcut, joined);
        let y = draft.relu(sum);
        agrees(&draft.head(y, 32), x);
    }
}

/// A concatenation of values that others use too, and of a part of them.
#[test]
fn parts_of_values_are_tapped_where_all_of_their_gradient_arrives() {
    let x = input([2, 4, 5, 6]);
    let mut draft = Draft::new(&x);
    let y = draft.conv(draft.input(), 4, 16, 3);
    let span = |end| Span {
        start: Size::Fixed(0),
        end,
        step: 1,
    };
    let all = [
        Size::Rows(1),
        Size::Fixed(8),
        Size::Fixed(5),
        Size::Fixed(6),
    ];
    let part = draft.op(Op::Slice(all.map(span).to_vec()), &[y]);
    draft.builder.name(part, "part").unwrap();
    let joined = draft.op(Op::Cat(1), &[part, y]);
    let other = draft.conv(part, 8, 24, 1);
    let sum = draft.sum(joined, other);
    let graph = draft.head(sum, 24);
    assert!(!Plan::new(&graph).unwrap().taps("part"));
    agrees(&graph, x);
}

/// A convolution keeps its name when a BatchNorm is folded into it, but not its values.
#[test]
fn folded_layers_are_tapped_under_the_name_of_their_norm() {
    let x = input([2, 3, 5, 6]);
    let mut draft = Draft::new(&x);
    let y = draft.conv(draft.input(), 3, 7, 3);
    draft.builder.name(y, "conv").unwrap();
    let own: Vec<NodeId> = (0..4)
        .map(|i| draft.parameter(noise(&[7], 60 + i).abs().plus(0.5)))
        .collect();
    let norm = Op::BatchNorm { epsilon: 1e-3 };
    let y = draft.op(norm, &[&[y][..], &own[..]].concat());
    draft.builder.name(y, "norm").unwrap();
    let y = draft.op(Op::Unary(Unary::Silu), &[y]);
    let graph = draft.head(y, 7);
    agrees(&graph, x.clone());
    let plan = Plan::new(&graph).unwrap();
    assert!(plan.taps("norm") && !plan.taps("conv"));
    let (outputs, tape) = plan.record(x.clone(), Some("norm")).unwrap();
    let goal = Goal::resolve(&vec![0, 1].into(), &outputs).unwrap();
    let (values, gradient) = plan.at_node(&outputs, &tape, &goal).unwrap();
    let layer = graph.layer(&"norm".into()).unwrap();
    let wide = x.cast(DType::F64);
    let want = graph
        .cast(DType::F64)
        .activations_and_gradients(wide.into(), &[layer], &goal, &crate::Run::new())
        .unwrap()
        .remove(0);
    assert_close(
        values.clone(),
        want.0.tensor::<4>().cast(values.dtype()),
        1e-5,
    );
    assert_close(gradient, want.1.tensor::<4>().cast(values.dtype()), 1e-5);
}

/// One picture times a factor for each of several channels is more than either.
#[test]
fn products_that_spread_both_factors_have_no_plan() {
    let x = input([2, 1, 5, 6]);
    let mut draft = Draft::new(&x);
    let mean = draft.op(Op::Reduce(Reduce::Mean, vec![2, 3]), &[draft.input()]);
    let factors = draft.conv(mean, 1, 8, 1);
    let product = draft.op(Op::Binary(Binary::Mul), &[draft.input(), factors]);
    let graph = draft.head(product, 8);
    assert!(Plan::new(&graph).is_none());
}

#[test]
fn what_is_no_number_stays_so() {
    let x = input([1, 3, 6, 6]);
    let mut values = host(&x);
    values[40] = f32::NAN;
    let broken: Tensor<4> = Tensor::from_data(TensorData::new(values, x.dims()), &Device::flex());
    for channels in [5, 40] {
        let mut draft = Draft::new(&x);
        let y = draft.conv(draft.input(), 3, channels, 3);
        let y = draft.relu(y);
        let y = draft.op(Op::Unary(Unary::Elu { alpha: 1.0 }), &[y]);
        let graph = draft.head(y, channels);
        for isa in Isa::all() {
            let plan = Plan::with(&graph, isa).unwrap();
            assert!(plan.forward(&host(&x), 1).iter().all(|v| v.is_finite()));
            assert!(plan.forward(&host(&broken), 1).iter().all(|v| v.is_nan()));
        }
    }
}

#[test]
fn no_rows_have_no_plan() {
    let x = input([1, 2, 4, 4]);
    let mut draft = Draft::new(&x);
    let y = draft.conv(draft.input(), 2, 3, 3);
    let graph = draft.head(y, 3);
    assert!(graph.plan(&x).is_some());
    assert!(
        graph
            .plan(&Tensor::<4>::zeros([0, 2, 4, 4], &Device::flex()))
            .is_none()
    );
}

/// Values at the corners of activations have Burn's derivative there.
#[test]
fn corners_have_burns_derivative() {
    let device = Device::flex();
    let corners = [-3.0, 0.0, 3.0, 6.0, -1.5, 1.0, 2.0, 0.5];
    let x = Tensor::<1>::from_floats(corners, &device).reshape([1, 2, 2, 2]);
    for function in [
        Unary::Relu,
        Unary::LeakyRelu { slope: 0.1 },
        Unary::Clamp { min: 0.0, max: 6.0 },
        Unary::HardSigmoid {
            alpha: 0.5,
            beta: 0.5,
        },
        Unary::HardSwish,
        Unary::Elu { alpha: 0.7 },
    ] {
        let mut draft = Draft::new(&x);
        let y = draft.op(Op::Unary(function), &[draft.input()]);
        agrees(&draft.head(y, 2), x.clone());
    }
}
