use burn::tensor::{DType, Device, Tensor};

use super::*;
use crate::{
    Baseline, DeepLift, Gradient, Graph, Method, Model,
    methods::testing::{Net, assert_close, image},
};

fn host<const D: usize>(tensor: &Tensor<D>) -> Vec<f32> {
    tensor.clone().try_into_vec_as().unwrap()
}

/// DeepLIFT's multipliers of the plan against those of the rules of operations, in f64. A
/// difference that is as small as f32's rounding makes a quotient as wrong as it is small.
fn lift_agrees(plan: &Plan, wide: &Graph, x: &Tensor<4>) {
    if !plan.lifts() {
        return;
    }
    let method = DeepLift::new().baseline(Baseline::Constant(0.3));
    let method = method.multiply_by_inputs(false).epsilon(1e-5);
    let wide_x = x.clone().cast(DType::F64);
    let want = method.explain(wide, wide_x, 1).unwrap().values;
    let baseline = x.full_like(0.3);
    let ([now, before], got) = plan
        .lifted([x.clone(), baseline.clone()], 1e-5, |_, outputs| {
            let mut seed = outputs.zeros_like();
            seed = seed.slice_fill([0..outputs.dims()[0], 1..2], 1.0);
            Ok(seed)
        })
        .unwrap();
    assert_eq!(host(&now), plan.outputs(&host(x), x.dims()[0]));
    assert_eq!(host(&before), plan.outputs(&host(&baseline), x.dims()[0]));
    assert_close(got, want.cast(x.dtype()), 2e-4);
}

/// Every instruction set against Burn's own operations.
#[test]
fn a_plan_gives_the_graphs_outputs_and_gradients() {
    let net = Net::relu(&Device::flex());
    let graph = Graph::trace(&net, |m, x| m.forward(x), &image(1, 0)).unwrap();
    for isa in Isa::all() {
        let plan = Plan::with(&graph, isa).expect("a plan");
        for rows in [1, 2, 5] {
            let x = image(rows, 3);
            let (outputs, tape) = plan.forward_taped(&host(&x), rows, None);
            let outputs =
                Tensor::<1>::from_floats(&outputs[..], &Device::flex()).reshape([rows, 4]);
            assert_close(outputs, net.forward(x.clone()), 1e-5);
            let seed: Vec<f32> = [0.0, 1.0, 0.0, 0.0].repeat(rows);
            let got = plan.backward(&tape, &seed, ReluRule::Derivative);
            let got = Tensor::<1>::from_floats(&got[..], &Device::flex()).reshape(x.dims());
            let want = Gradient.explain(&net, x, 1).unwrap().values;
            assert_close(got, want, 1e-5);
        }
    }
}

fn traced() -> Graph {
    let net = Net::relu(&Device::flex());
    Graph::trace(&net, |m, x| m.forward(x), &image(1, 0)).unwrap()
}

/// Against the graph run by Burn, in the type plans do not take.
#[test]
fn values_and_gradients_at_a_node_are_the_graphs() {
    let graph = traced();
    let plan = Plan::new(&graph).unwrap();
    let x = image(3, 5);
    let outputs = graph.forward(x.clone());
    let goal = Goal::resolve(&vec![0, 1, 2].into(), &outputs).unwrap();
    for node in ["relu_1", "relu_2"] {
        assert!(plan.taps(node));
        let (outputs, tape) = plan.record(x.clone(), Some(node)).unwrap();
        let (values, gradient) = plan.at_node(&outputs, &tape, &goal).unwrap();
        let layer = graph.layer(&node.into()).unwrap();
        let run = crate::Run::new();
        let wide = x.clone().cast(DType::F64);
        let want = graph
            .cast(DType::F64)
            .activations_and_gradients(wide.into(), &[layer], &goal, &run)
            .unwrap()
            .remove(0);
        let narrow = |value: crate::graph::Value| value.tensor::<4>().cast(values.dtype());
        assert_close(values.clone(), narrow(want.0), 1e-5);
        assert_close(gradient, narrow(want.1), 1e-5);
    }
    assert!(!plan.taps("norm") && !plan.taps("branch"));
}

/// More rows than go through at once, and rows that come again.
#[test]
fn recorded_passes_give_the_same_gradients() {
    let graph = traced();
    let x = image(5, 7);
    let (outputs, recorded) = graph.record(&x, &[]).unwrap().unwrap();
    assert_close(outputs.clone(), graph.forward(x.clone()), 0.0);
    let classes = vec![3, 1, 0, 2, 3, 1];
    let rows = [4, 0, 0, 2, 1, 3];
    let goal = Goal::resolve(&vec![0; 5].into(), &outputs).unwrap();
    let goal = goal.with_record(Some(recorded)).select(&rows);
    let (_, recorded) = graph.recorded(&goal).expect("its own pass");
    let engine = graph.engine(&x).unwrap();
    let tape = recorded.tape().unwrap();
    let chosen = crate::target::select_rows(x.clone(), &rows);
    let want = Gradient.explain(
        &graph.cast(DType::F64),
        chosen.clone().cast(DType::F64),
        classes.clone(),
    );
    let outputs = graph.forward(chosen.clone());
    let seed = Goal::resolve(&classes.into(), &outputs)
        .unwrap()
        .seed(&outputs)
        .unwrap();
    let got: Tensor<4> = engine
        .gradient(&tape, seed, chosen.dims(), ReluRule::Derivative)
        .unwrap();
    assert_close(got.clone(), want.unwrap().values.cast(got.dtype()), 1e-5);
    // Another graph does not take it for its own.
    assert!(traced().recorded(&goal).is_none());
}

mod shapes {
    use burn::{
        module::Module,
        nn::{
            Linear, LinearConfig, PaddingConfig2d,
            conv::{Conv2d, Conv2dConfig},
            pool::{MaxPool2d, MaxPool2dConfig},
        },
        tensor::{Device, Tensor, activation::relu},
    };
    use proptest::prelude::*;

    use super::*;

    #[derive(Module, Debug)]
    struct Random {
        first: Conv2d,
        pool: MaxPool2d,
        second: Conv2d,
        wide: Conv2d,
        head: Linear,
        flat: bool,
    }

    impl Random {
        fn forward(&self, x: Tensor<4>) -> Tensor<2> {
            let x = self.pool.forward(relu(self.first.forward(x)));
            let a = relu(self.second.forward(x.clone()));
            let b = self.wide.forward(x);
            let x = Tensor::cat(vec![a, relu(b)], 1);
            match self.flat {
                true => self.head.forward(x.flatten::<2>(1, 3)),
                false => self.head.forward(x.mean_dims(&[2, 3]).flatten::<2>(1, 3)),
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        /// Strides, paddings, windows, concatenation, pooling, flattening: against Burn.
        #[test]
        fn any_convolutional_network_agrees(
            inputs in 1usize..20,
            middle in 1usize..40,
            kernel in 1usize..6,
            stride in 1usize..4,
            second in 1usize..4,
            size in (9usize..15, 9usize..15),
            rows in 1usize..4,
            flat: bool,
            seed in 0usize..50,
        ) {
            let device = Device::flex();
            let conv = |from, to, kernel: usize, stride: usize| {
                let pad = kernel / 2;
                Conv2dConfig::new([from, to], [kernel, kernel])
                    .with_stride([stride, stride])
                    .with_padding(PaddingConfig2d::Explicit(pad, pad, pad, pad))
                    .init(&device)
            };
            let out = |n: usize, k: usize, s: usize| (n + 2 * (k / 2) - k) / s + 1;
            let pooled = |n: usize| out(out(n, kernel, stride), 3, 2);
            let ends = |n: usize| out(pooled(n), 2 * (second / 2) + 1, second);
            let places = if flat { ends(size.0) * ends(size.1) } else { 1 };
            let k = 2 * (second / 2) + 1;
            let net = Random {
                first: conv(inputs, middle, kernel, stride),
                pool: MaxPool2dConfig::new([3, 3])
                    .with_strides([2, 2])
                    .with_padding(PaddingConfig2d::Explicit(1, 1, 1, 1))
                    .init(),
                second: conv(middle, 16, k, second),
                wide: conv(middle, 5, k, second),
                head: LinearConfig::new(21 * places, 3).init(&device),
                flat,
            };
            let shape = [rows, inputs, size.0, size.1];
            let values = crate::noise::standard_normal(9, seed, shape.iter().product());
            let x = Tensor::<4>::from_data(burn::tensor::TensorData::new(values, shape), &device);
            let graph = Graph::trace(&net, |m, x| m.forward(x), &x).unwrap();
            let want_outputs = net.forward(x.clone());
            let want = Gradient.explain(&|x: Tensor<4>| net.forward(x), x.clone(), 1).unwrap();
            for isa in Isa::all() {
                let plan = Plan::with(&graph, isa).expect("a plan");
                let (outputs, tape) = plan.forward_taped(&host(&x), rows, None);
                let outputs = Tensor::<1>::from_floats(&outputs[..], &device).reshape([rows, 3]);
                assert_close(outputs, want_outputs.clone(), 1e-5);
                let got = plan.backward(&tape, &[0.0, 1.0, 0.0].repeat(rows), ReluRule::Derivative);
                let got = Tensor::<1>::from_floats(&got[..], &device).reshape(shape);
                assert_close(got, want.values.clone(), 1e-4);
                lift_agrees(&plan, &graph.cast(DType::F64), &x);
            }
            #[cfg(feature = "wgpu")]
            assert!(crate::plan::gpu::agrees(&graph, &x, &want_outputs, &want.values));
        }
    }
}

mod tokens {
    use burn::{
        module::Module,
        nn::{
            BatchNorm, BatchNormConfig, LayerNorm, LayerNormConfig, Linear, LinearConfig,
            PaddingConfig2d,
            conv::{Conv2d, Conv2dConfig},
            pool::{AvgPool2d, AvgPool2dConfig, MaxPool2d, MaxPool2dConfig},
            transformer::{TransformerEncoder, TransformerEncoderConfig, TransformerEncoderInput},
        },
        tensor::{
            Device, Tensor,
            activation::{gelu, hard_sigmoid, leaky_relu, relu, sigmoid, silu, softmax, tanh},
        },
    };

    use super::*;

    /// Values that no initialisation leaves at zero or one.
    fn noise<const D: usize>(shape: [usize; D], stream: usize) -> Tensor<D> {
        let values = crate::noise::standard_normal(17, stream, shape.iter().product());
        let data = burn::tensor::TensorData::new(values, shape);
        Tensor::from_data(data, &Device::flex())
    }

    /// Every instruction set against Burn in f64: outputs, gradients, rows one by one.
    pub fn agrees(graph: &Graph, x: Tensor<4>) {
        let rows = x.dims()[0];
        let wide = graph.cast(DType::F64);
        let wide_x = x.clone().cast(DType::F64);
        let want_outputs = wide.forward(wide_x.clone()).cast(x.dtype());
        let columns = want_outputs.dims()[1];
        let want = Gradient.explain(&wide, wide_x, 1).unwrap();
        let want = want.values.cast(x.dtype());
        #[cfg(feature = "wgpu")]
        assert!(crate::plan::gpu::agrees(graph, &x, &want_outputs, &want));
        for isa in Isa::all() {
            let plan = Plan::with(graph, isa).expect("a plan");
            let (outputs, tape) = plan.forward_taped(&host(&x), rows, None);
            assert_eq!(outputs, plan.forward(&host(&x), rows));
            let outputs = Tensor::<1>::from_floats(&outputs[..], &Device::flex());
            assert_close(outputs.reshape([rows, columns]), want_outputs.clone(), 1e-5);
            let seed: Vec<f32> = (0..rows * columns)
                .map(|i| f32::from(u8::from(i % columns == 1)))
                .collect();
            let whole = plan.backward(&tape, &seed, ReluRule::Derivative);
            let values = Tensor::<1>::from_floats(&whole[..], &Device::flex()).reshape(x.dims());
            assert_close(values, want.clone(), 2e-5);
            lift_agrees(&plan, &wide, &x);
            // Rows of several tapes, one of them twice.
            let each: usize = x.dims()[1..].iter().product();
            let parts = host(&x)
                .chunks(each)
                .map(|row| plan.forward_taped(row, 1, None).1)
                .collect();
            let chosen = [rows - 1, 0, 0];
            let tapes = Tapes { parts, most: 2 }.select(&chosen);
            assert_eq!([tapes.parts.len(), tapes.rows()], [2, 3]);
            let [_, channels, height, width] = x.dims();
            let shape = [chosen.len(), channels, height, width];
            let seed = Tensor::<1>::from_floats(&seed[..columns], &Device::flex());
            let seed = seed.reshape([1, columns]).repeat_dim(0, chosen.len());
            let got: Tensor<4> = plan
                .gradient(&tapes, seed, shape, ReluRule::Derivative)
                .unwrap();
            let expected = chosen.iter().flat_map(|row| &whole[row * each..][..each]);
            assert!(
                host(&got)
                    .iter()
                    .zip(expected)
                    .all(|(a, b)| (a - b).abs() < 1e-6 * b.abs().max(1.0))
            );
        }
    }

    #[derive(Module, Debug)]
    struct Vit {
        patches: Conv2d,
        token: Tensor<3>,
        places: Tensor<3>,
        encoder: TransformerEncoder,
        norm: LayerNorm,
        head: Linear,
        pooled: bool,
    }

    impl Vit {
        fn new(norm_first: bool, pooled: bool) -> Self {
            let device = Device::flex();
            Vit {
                patches: Conv2dConfig::new([3, 24], [4, 4])
                    .with_stride([4, 4])
                    .init(&device),
                token: noise([1, 1, 24], 1),
                places: noise([1, 13, 24], 2),
                encoder: TransformerEncoderConfig::new(24, 40, 3, 2)
                    .with_norm_first(norm_first)
                    .init(&device),
                norm: LayerNormConfig::new(24).init(&device),
                head: LinearConfig::new(24, 5).init(&device),
                pooled,
            }
        }

        fn forward(&self, x: Tensor<4>) -> Tensor<2> {
            let rows = x.dims()[0];
            let patches: Tensor<3> = self.patches.forward(x).flatten(2, 3);
            let token = self.token.clone().expand([rows, 1, 24]);
            let tokens = Tensor::cat(vec![token, patches.swap_dims(1, 2)], 1);
            let tokens = tokens + self.places.clone();
            let tokens = self.encoder.forward(TransformerEncoderInput::new(tokens));
            let token = match self.pooled {
                true => tokens.mean_dim(1),
                false => tokens.narrow(1, 0, 1),
            };
            self.head
                .forward(self.norm.forward(token.squeeze_dim::<2>(1)))
        }
    }

    /// More window positions than a byte can count.
    #[test]
    fn wide_windows_have_a_plan() {
        let device = Device::flex();
        let conv: Conv2d = Conv2dConfig::new([1, 3], [17, 16]).init(&device);
        let forward = |m: &Conv2d, x| m.forward(x).mean_dims(&[2, 3]).flatten::<2>(1, 3);
        let x = noise([1, 1, 20, 18], 6);
        agrees(&Graph::trace(&conv, forward, &x).unwrap(), x);
    }

    #[test]
    fn vision_transformers_agree() {
        for (norm_first, pooled) in [(true, false), (false, true)] {
            let net = Vit::new(norm_first, pooled);
            let x = noise([3, 3, 12, 16], 5);
            let graph = Graph::trace(&net, |m, x| m.forward(x), &x).unwrap();
            agrees(&graph, x);
        }
    }

    #[derive(Module, Debug)]
    struct Smooth {
        first: Conv2d,
        norm: BatchNorm,
        inner: Conv2d,
        wide: Conv2d,
        head: Linear,
        which: usize,
    }

    impl Smooth {
        fn function(&self, x: Tensor<4>) -> Tensor<4> {
            match self.which {
                0 => silu(x),
                1 => gelu(x),
                2 => sigmoid(x),
                3 => tanh(x),
                4 => leaky_relu(x, 0.2),
                5 => x.clamp(0.0, 0.5),
                6 => hard_sigmoid(x, 0.3, 0.4),
                7 => x.clone() * hard_sigmoid(x, 1.0 / 6.0, 0.5),
                _ => relu(x),
            }
        }

        /// With BatchNorm before a convolution, a dense concatenation, numbers and a transposed
        /// flattening.
        fn forward(&self, x: Tensor<4>) -> Tensor<2> {
            let x = self.first.forward(x);
            let y = self
                .inner
                .forward(self.function(self.norm.forward(x.clone())));
            let x = Tensor::cat(vec![x, self.function(y.mul_scalar(0.7).add_scalar(0.1))], 1);
            let z = self.function(self.wide.forward(x.clone()));
            let x = z.clone() + self.function(z) + x;
            let flat: Tensor<2> = x.swap_dims(1, 2).flatten(1, 3);
            self.head.forward(flat)
        }
    }

    #[test]
    fn smooth_activations_and_dense_concatenations_agree() {
        let device = Device::flex();
        for which in 0..9 {
            let mut norm = BatchNormConfig::new(5).init(&device);
            norm.gamma = norm.gamma.map(|_| noise([5], 1));
            norm.beta = norm.beta.map(|_| noise([5], 2));
            let net = Smooth {
                first: Conv2dConfig::new([2, 5], [3, 3]).init(&device),
                norm,
                inner: Conv2dConfig::new([5, 4], [1, 1]).init(&device),
                wide: Conv2dConfig::new([9, 9], [1, 1]).init(&device),
                head: LinearConfig::new(9 * 4 * 5, 3).init(&device),
                which,
            };
            let x = noise([2, 2, 6, 7], 3).mul_scalar(2.0);
            let graph = Graph::trace(&net, |m, x| m.forward(x), &x).unwrap();
            agrees(&graph, x);
        }
    }

    #[derive(Module, Debug)]
    struct Mobile {
        first: Conv2d,
        depthwise: Conv2d,
        dilated: Conv2d,
        grouped: Conv2d,
        squeeze: Conv2d,
        excite: Conv2d,
        pool: AvgPool2d,
        most: MaxPool2d,
        head: Linear,
    }

    impl Mobile {
        fn forward(&self, x: Tensor<4>) -> Tensor<2> {
            let x = relu(self.first.forward(x));
            let x = relu(self.depthwise.forward(x)).clamp(0.0, 6.0);
            let x = x.clone() + silu(self.dilated.forward(x));
            let pooled = x.clone().mean_dims(&[2, 3]);
            let gates = sigmoid(self.excite.forward(relu(self.squeeze.forward(pooled))));
            let x = relu(self.grouped.forward(x * gates));
            let x = self.most.forward(self.pool.forward(x));
            let x = x.clone() * softmax(x, 1);
            softmax(self.head.forward(x.mean_dims(&[2, 3]).flatten(1, 3)), 1)
        }
    }

    #[test]
    fn depthwise_grouped_pooled_and_gated_networks_agree() {
        let device = Device::flex();
        let conv = |channels: [usize; 2], kernel: usize, stride: usize, dilation: usize, groups| {
            let pad = kernel / 2 * dilation;
            Conv2dConfig::new(channels, [kernel, kernel])
                .with_stride([stride, stride])
                .with_dilation([dilation, dilation])
                .with_padding(PaddingConfig2d::Explicit(pad, pad, pad, pad))
                .with_groups(groups)
                .init(&device)
        };
        for (count_padding, groups) in [(true, 4), (false, 12), (false, 2)] {
            let net = Mobile {
                first: conv([3, 24], 3, 1, 1, 1),
                depthwise: conv([24, 24], 3, 2, 1, 24),
                dilated: conv([24, 24], 3, 1, 2, 24),
                grouped: conv([24, 48], 3, 1, 1, groups),
                squeeze: conv([24, 5], 1, 1, 1, 1),
                excite: conv([5, 24], 1, 1, 1, 1),
                pool: AvgPool2dConfig::new([3, 2])
                    .with_strides([2, 1])
                    .with_padding(PaddingConfig2d::Explicit(1, 1, 1, 1))
                    .with_count_include_pad(count_padding)
                    .init(),
                most: MaxPool2dConfig::new([2, 2])
                    .with_strides([1, 1])
                    .with_dilation([2, 2])
                    .init(),
                head: LinearConfig::new(48, 3).init(&device),
            };
            let x = noise([3, 3, 15, 14], 4);
            let graph = Graph::trace(&net, |m, x| m.forward(x), &x).unwrap();
            agrees(&graph, x);
        }
    }
}

mod graphs;
