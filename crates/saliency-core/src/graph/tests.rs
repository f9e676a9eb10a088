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
