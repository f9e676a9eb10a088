use burn::{
    nn::{Gru, GruConfig, Lstm, LstmConfig},
    tensor::Device,
};

use super::*;
use crate::{
    Gradient, Method,
    methods::testing::{Net, assert_close, image},
};

fn net() -> (Net, Graph) {
    let net = Net::relu(&Device::flex());
    let graph = Graph::trace(&net, |m, x| m.forward(x), &image(1, 0)).unwrap();
    (net, graph)
}

#[test]
fn forward_and_gradient_are_the_modules_own() {
    let (net, graph) = net();
    for rows in [1, 2, 5] {
        let x = image(rows, 3);
        let own = net.forward(x.clone());
        assert_close(graph.forward(x.clone()), own.clone(), 1e-6);
        assert_close(graph.folded().forward(x.clone()), own, 1e-5);
        let want = Gradient.explain(&net, x.clone(), 1).unwrap().values;
        let got = Gradient.explain(&graph, x.clone(), 1).unwrap().values;
        assert_close(got, want.clone(), 1e-6);
        let got = Gradient.explain(&graph.folded(), x, 1).unwrap().values;
        assert_close(got, want, 1e-5);
    }
}

#[test]
fn own_backward_is_burns() {
    let (net, graph) = net();
    let x = image(2, 4);
    let all = graph.activations(x.clone().into()).unwrap();
    let seed = Tensor::<2>::from_floats([[0.0, 1.0, 0.0, 0.0]; 2], &Device::flex());
    let plain = |_: &Site, _: &Value| Ok(None);
    let got = graph
        .backward(
            &all,
            vec![(graph.output(), seed.into())],
            &plain,
            &[graph.input()],
        )
        .unwrap()
        .remove(0)
        .unwrap();
    let want = Gradient.explain(&net, x, 1).unwrap().values;
    assert_close(got.tensor::<4>(), want, 1e-6);
}

#[test]
fn nodes_are_named_after_modules_and_operations() {
    let (_, graph) = net();
    let names: Vec<String> = graph.layers().into_iter().map(|l| l.name).collect();
    for name in [
        "stem", "norm", "relu_1", "branch", "add_1", "relu_2", "head",
    ] {
        assert!(names.iter().any(|n| n == name), "{name} in {names:?}");
    }
    let error = graph.layer(&"branhc".into()).unwrap_err().to_string();
    assert!(error.contains("branch"), "{error}");
    let last = graph.layer(&Layer::LastSpatial).unwrap();
    assert_eq!(graph.node(last).name, "relu_2");
}

#[test]
fn activations_and_gradients_of_several_layers_come_in_one_pass() {
    let (net, graph) = net();
    let x = image(3, 5);
    let outputs = net.forward(x.clone());
    let goal = crate::Goal::resolve(&vec![0, 1, 2].into(), &outputs).unwrap();
    let layers: Vec<NodeId> = ["relu_1", "branch", "input"]
        .map(|name| graph.layer(&name.into()).unwrap())
        .to_vec();
    let run = crate::Run::new();
    let found = graph
        .activations_and_gradients(x.clone().into(), &layers, &goal, &run)
        .unwrap();
    let want = Gradient.explain(&net, x.clone(), vec![0, 1, 2]).unwrap();
    assert_close(found[2].1.clone().tensor::<4>(), want.values, 1e-6);
    // The gradient at relu_1 by its own tail.
    let tail = |a: Tensor<4>| -> Tensor<2> {
        let mut values = graph.evaluate(&[(layers[0], a.into())], &[graph.output()]);
        values.remove(0).tensor()
    };
    let (activation, gradient) = found[0].clone();
    let activation = activation.tensor::<4>();
    let want = Gradient
        .explain(&tail, activation.clone(), vec![0, 1, 2])
        .unwrap();
    assert_close(gradient.tensor::<4>(), want.values, 1e-6);
    assert_close(tail(activation), outputs, 1e-6);
}

/// Recurrent modules unroll into one node for each gate and step, named after the gate.
#[test]
fn recurrent_modules_unroll() {
    let device = Device::flex();
    let lstm = LstmConfig::new(3, 5, true).init(&device);
    let gru = GruConfig::new(3, 5, true).init(&device);
    let x = image(2, 6).narrow(1, 0, 1).squeeze_dim::<3>(1);
    let x = x.narrow(2, 0, 3);
    let of_lstm = |m: &Lstm, x: Tensor<3>| m.forward(x, None).1.hidden;
    let of_gru = |m: &Gru, x: Tensor<3>| m.forward(x, None).mean_dim(1).squeeze_dim::<2>(1);
    let graphs = [
        Graph::trace(&lstm, of_lstm, &x).unwrap(),
        Graph::trace(&gru, of_gru, &x).unwrap(),
    ];
    let own: [&dyn Model<3>; 2] = [&|x| of_lstm(&lstm, x), &|x| of_gru(&gru, x)];
    let plain = |_: &Site, _: &Value| Ok(None);
    for (graph, own) in graphs.iter().zip(own) {
        assert_close(graph.forward(x.clone()), own.forward(x.clone()), 1e-6);
        let want = Gradient.explain(own, x.clone(), 1).unwrap().values;
        let all = graph.activations(x.clone().into()).unwrap();
        let seed = Tensor::<2>::from_floats([[0.0, 1.0, 0.0, 0.0, 0.0]; 2], &device);
        let seeds = vec![(graph.output(), seed.into())];
        let found = graph.backward(&all, seeds, &plain, &[graph.input()]);
        let got = found.unwrap().remove(0).unwrap();
        assert_close(got.tensor::<3>(), want, 1e-6);
    }
    let last_step = "input_gate.input_transform#9";
    assert!(graphs[0].layer(&last_step.into()).is_ok());
}

/// Their derivatives are those of Burn, and are there on backends for which Burn has none.
#[test]
fn every_interpolation_has_its_derivative() {
    use burn::tensor::{
        module::interpolate,
        ops::{InterpolateMode, InterpolateOptions},
    };
    let net = Net::relu(&Device::flex());
    for mode in [
        InterpolateMode::Nearest,
        InterpolateMode::Bilinear,
        InterpolateMode::Bicubic,
    ] {
        for corners in [true, false] {
            let resized = |x: Tensor<4>| {
                let options = InterpolateOptions::new(mode.clone())
                    .with_align_corners(corners)
                    .with_output_size([7, 13]);
                let x = interpolate(x, options);
                x.clone().mul(x).mul_scalar(0.1).flatten::<2>(1, 3)
            };
            let x = image(2, 7);
            let graph = Graph::trace(&net, |_, x| resized(x), &x).unwrap();
            let got = Gradient.explain(&graph, x.clone(), 100).unwrap();
            assert_close(got.outputs, resized(x.clone()), 1e-6);
            let h = 1e-2;
            let d = image(2, 8);
            let at = |step: f32| {
                resized(x.clone() + d.clone() * step)
                    .narrow(1, 100, 1)
                    .sum()
            };
            let want = ((at(h) - at(-h)) / (2.0 * h)).into_scalar::<f32>();
            let got = (got.values * d.clone()).sum().into_scalar::<f32>();
            assert!(
                (got - want).abs() < 1e-3 * want.abs().max(1.0),
                "{mode:?}: {got} {want}"
            );
        }
    }
}

fn recorded<const D: usize>(x: Tensor<D>, forward: impl Fn(Tensor<D>) -> Tensor<2>) -> Graph {
    let net = Net::relu(&Device::flex());
    let graph = Graph::trace(&net, |_, x| forward(x), &x).unwrap();
    assert_close(graph.forward(x.clone()), forward(x), 1e-6);
    graph
}

/// The values and the gradient of the second output beside Burn's own.
fn differentiated<const D: usize>(x: Tensor<D>, forward: impl Fn(Tensor<D>) -> Tensor<2>) {
    let graph = recorded(x.clone(), &forward);
    let want = Gradient.explain(&|x| forward(x), x.clone(), 1).unwrap();
    let got = Gradient.explain(&graph, x.clone(), 1).unwrap();
    assert_close(got.values, want.values.clone(), 1e-5);
    let all = graph.activations(x.into()).unwrap();
    let outputs = all.get(graph.output()).unwrap();
    let mut one = outputs.zeros_like().tensor::<2>();
    let rows = one.dims()[0];
    one = one.slice_assign([0..rows, 1..2], Tensor::ones([rows, 1], &Device::flex()));
    let plain = |_: &Site, _: &Value| Ok(None);
    let seeds = vec![(graph.output(), one.into())];
    let own = graph.backward(&all, seeds, &plain, &[graph.input()]);
    let own = own.unwrap().remove(0).unwrap();
    assert_close(own.tensor::<D>(), want.values, 1e-5);
}

fn table() -> Tensor<2> {
    image(3, 9).flatten::<2>(1, 3).narrow(1, 0, 6)
}

#[test]
fn functions_of_one_and_two_numbers() {
    type Function = fn(Tensor<2>) -> Tensor<2>;
    let smooth: [Function; 12] = [
        |x| x.tanh().mul_scalar(0.9).asin(),
        |x| x.tanh().mul_scalar(0.9).acos(),
        |x| x.tanh().mul_scalar(0.9).atanh(),
        |x| x.asinh(),
        |x| (x.abs() + 1.5).acosh(),
        |x| x.clone().atan2(x.sin() + 2.0),
        |x| x.clone().hypot(x.cos()),
        |x| x.cumsum(1),
        |x| (x.tanh() + 2.0).cumprod(1),
        |x| x.clone().sort(1).mul(x),
        |x| x.clone().topk(4, 1) * 2.0,
        |x| x.sort_descending(1) * 3.0,
    ];
    for function in smooth {
        differentiated(table(), function);
    }
    let steps: [Function; 8] = [
        |x| x.trunc(),
        |x| x.remainder_scalar(0.7),
        |x| x.clone().remainder(x.abs() + 0.3),
        |x| x.clone().cummax(1) + x.cummin(1),
        |x| {
            let broken = x.clone().log();
            x.mask_fill(broken.is_nan(), 7.0)
        },
        |x| {
            let broken = x.clone().clamp_min(0.0).recip();
            x.mask_fill(broken.is_inf(), 7.0)
        },
        |x| {
            let (low, at) = x.clone().min_dim_with_indices(1);
            x * low + at.float()
        },
        |x| x.clone().argmin(1).float() + x.clone().argsort(1).float() + x.max_abs_dim(1),
    ];
    for function in steps {
        recorded(table(), function);
    }
}

#[test]
fn masks_and_whole_numbers() {
    type Function = fn(Tensor<2>) -> Tensor<2>;
    let functions: [Function; 9] = [
        |x| {
            let (a, b) = (x.clone().greater_elem(0.0), x.clone().greater_elem(0.5));
            x.mask_fill(a.clone().bool_xor(b.clone()), 3.0)
                .mask_fill(a.equal(b), -2.0)
        },
        |x| {
            let (a, b) = (x.clone().greater_elem(0.0), x.clone().lower_elem(0.5));
            let c = a.clone().mask_where(b.clone(), a.clone().bool_not());
            let c = c.slice_assign([0..2, 0..1], b.slice([0..2, 1..2]));
            x.mask_fill(c.clone().any_dim(1).expand([-1, 6]), 3.0) + c.all_dim(1).float()
        },
        |x| {
            let i = x.clone().mul_scalar(5.0).int();
            let i = i.clone().clamp(-3, 4) * i.clone().clamp_min(1) + i.clone().powi_scalar(2);
            x + i.abs().float()
        },
        |x| {
            let i = x.clone().mul_scalar(5.0).int();
            let wide = i.clone().max_dim(1) - i.clone().min_dim(1) * i.clone().sum_dim(1);
            x + wide.float() + i.clone().argmax(1).float() + i.sign().float()
        },
        |x| {
            let i = x.clone().mul_scalar(5.0).int();
            let i = i.clone().sort(1).cumsum(1) + i.remainder_scalar(3);
            x + i.float()
        },
        |x| {
            let i = x.clone().argsort(1);
            x.clone()
                .scatter(1, i, x, burn::tensor::IndexingUpdateOp::Add)
        },
        |x| {
            let places = Tensor::<1, burn::tensor::Int>::from_ints([1, 4], &x.device());
            let values = x.clone().narrow(1, 0, 2);
            x.select_assign(1, places, values, burn::tensor::IndexingUpdateOp::Add)
        },
        |x| {
            let own = Tensor::<1>::from_floats([1.0, -2.0, 3.0], &x.device());
            let (sum, max) = (own.clone().sum(), own.clone().abs().max());
            x * (sum + max + own.mean()).reshape([1, 1])
        },
        |x| {
            let i = x.clone().mul_scalar(5.0).int();
            let padded = i.pad([(0, 0), (1, 0)], burn::tensor::ops::PadMode::Constant(2.0));
            x + padded.narrow(1, 0, 6).float()
        },
    ];
    for function in functions {
        recorded(table(), function);
    }
}

#[test]
fn operations_on_pictures() {
    use burn::{
        nn::conv::DeformConv2dConfig,
        tensor::{
            module::unfold4d,
            ops::{GridSampleOptions, InterpolateMode, UnfoldOptions},
        },
    };
    let device = Device::flex();
    let options = UnfoldOptions::new([2, 1], [1, 0], [1, 2]);
    differentiated(image(2, 1), |x| {
        unfold4d(x, [3, 2], options.clone()).flatten::<2>(1, 2)
    });

    let grid = image(1, 4).flatten::<2>(1, 3).tanh();
    let grid = grid.narrow(1, 0, 40).into_data();
    for align in [true, false] {
        let options = GridSampleOptions::new(InterpolateMode::Bilinear).with_align_corners(align);
        recorded(image(2, 1), |x| {
            let rows = x.dims()[0];
            let grid = Tensor::<2>::from_data(grid.clone(), &x.device());
            let grid = grid.reshape([1, 5, 4, 2]).expand([rows, 5, 4, 2]);
            x.grid_sample_2d(grid, options.clone()).flatten::<2>(1, 3)
        });
    }

    let conv = DeformConv2dConfig::new([3, 4], [3, 3]).init(&device);
    let x = image(2, 1);
    let forward = |m: &burn::nn::conv::DeformConv2d, x: Tensor<4>| {
        let [rows, ..] = x.dims();
        let offset = Tensor::cat(vec![x.clone(); 6], 1).slice([0..rows, 0..18, 0..7, 0..6]);
        m.forward(x, offset.tanh(), None).flatten::<2>(1, 3)
    };
    let graph = Graph::trace(&conv, forward, &x).unwrap();
    assert_close(graph.forward(x.clone()), forward(&conv, x.clone()), 1e-6);
    let want = Gradient
        .explain(&|x| forward(&conv, x), x.clone(), 1)
        .unwrap();
    let got = Gradient.explain(&graph, x.clone(), 1).unwrap();
    assert_close(got.values, want.values, 1e-5);
    let lrp = crate::Lrp::epsilon_plus().explain(&graph, x, 1).unwrap();
    let delta = lrp.evidence.delta.unwrap();
    assert_eq!(delta.len(), 2);
}

#[test]
fn attention_that_looks_back_only() {
    use burn::tensor::{module::attention, ops::AttentionModuleOptions};
    let heads = |x: Tensor<4>| {
        let [rows, ..] = x.dims();
        x.reshape([rows as i32, 3, 9, 8])
    };
    for (causal, softcap) in [(true, None), (false, Some(0.8)), (true, Some(1.5))] {
        let forward = |x: Tensor<4>| {
            let x = heads(x);
            let options = AttentionModuleOptions {
                scale: None,
                softcap,
                is_causal: causal,
            };
            let queries = x.clone().narrow(2, 3, 6).sin();
            attention(queries, x.clone(), x.cos(), None, None, options).flatten::<2>(1, 3)
        };
        differentiated(image(2, 3), forward);
    }
}

#[test]
fn operations_that_cannot_run_are_placed() {
    let net = Net::relu(&Device::flex());
    let over_rows = |m: &Net, x: Tensor<4>| {
        let y = m.forward(x);
        y.clone() / y.sum().reshape([1, 1])
    };
    let error = Graph::trace(&net, over_rows, &image(1, 0)).unwrap_err();
    let text = error.to_string();
    assert!(
        matches!(error, crate::Error::UnsupportedOp { .. }),
        "{text}"
    );
    assert!(
        text.contains("uses Sum") && text.contains("after head"),
        "{text}"
    );
    let first = |m: &Net, x: Tensor<4>| m.forward(x.clone() * x.sum().reshape([1, 1, 1, 1]));
    let text = Graph::trace(&net, first, &image(1, 0))
        .unwrap_err()
        .to_string();
    assert!(text.contains("before any module"), "{text}");
}

/// Constants are computed when a graph is made: what fails there is an error.
#[test]
fn constants_that_cannot_be_computed_are_errors() {
    let x = image(1, 0);
    let mut builder = GraphBuilder::new(&x);
    let flat = builder.reshape(builder.input(), &[Size::Rows(1), Size::Fixed(216)]);
    let out = flat.unwrap();
    let mut graph = builder.build(out).unwrap();
    let shape = vec![Size::Fixed(2), Size::Fixed(3)];
    let data = Tensor::<2>::ones([2, 3], &Device::flex());
    let mut constant = Node::new(Op::Constant, Vec::new(), shape.clone(), None);
    constant.value = Some(data.into());
    let constant = graph.add(constant);
    graph.add(Node::new(Op::Matmul, vec![constant, constant], shape, None));
    let error = graph.finish().unwrap_err();
    assert!(
        matches!(error, crate::Error::ModelPanicked { .. }),
        "{error}"
    );
}
