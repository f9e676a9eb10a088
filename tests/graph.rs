//! The traced graph of many kinds of networks beside the network itself: outputs, gradients,
//! batch sizes, folding, devices.

pub mod nets;

use burn::{
    module::Module,
    tensor::{Device, Distribution, Tensor, TensorData, activation::relu},
};
use saliency_core::{
    BatchSize, DeepLift, Error, Gradient, Graph, Method, Model, Run, Target, noise::standard_normal,
};
use saliency_models::{resnet::ResNetConfig, squeezenet::SqueezeNetConfig};

use crate::{
    golden::{host, relative_l2},
    parity::{ndarray, wgpu},
};
use nets::*;

fn input<const D: usize>(mut row: [usize; D], rows: usize, device: &Device) -> Tensor<D> {
    row[0] = rows;
    let values = standard_normal(8, rows, row.iter().product());
    Tensor::from_data(TensorData::new(values, row), device)
}

fn assert_close<const D: usize>(what: &str, got: Tensor<D>, want: Tensor<D>, tolerance: f64) {
    let error = relative_l2(&host(got), &host(want));
    assert!(error < tolerance, "{what}: {error:.1e}");
}

/// Outputs at three batch sizes, those of the folded graph, and the gradient beside the
/// network's own on flex (other backends have no derivative for some operations).
fn check<const D: usize, M: Module>(
    name: &str,
    device: &Device,
    make: impl Fn(&Device) -> M,
    row: [usize; D],
    forward: fn(&M, Tensor<D>) -> Tensor<2>,
) -> Graph {
    let net = seeded(make(device));
    let graph = Graph::trace(&net, forward, &input(row, 1, device)).unwrap();
    let folded = graph.folded();
    for rows in [1, 2, 5] {
        let x = input(row, rows, device);
        let want = forward(&net, x.clone());
        let what = format!("{name} on {device:?}, {rows} rows");
        assert_close(&what, graph.forward(x.clone()), want.clone(), 1e-5);
        assert_close(&format!("{what}, folded"), folded.forward(x), want, 1e-5);
    }
    let flex = Device::flex();
    let twin = seeded(make(&flex));
    let gradient = |model: &dyn Model<D>, device: &Device| {
        let map = Gradient.explain(model, input(row, 2, device), vec![0, 3]);
        map.unwrap().values
    };
    let want = gradient(&|x: Tensor<D>| forward(&twin, x), &flex);
    // Another backend may round a ReLU's argument to the other side of zero.
    let tolerance = if *device == flex { 1e-5 } else { 1e-4 };
    let what = format!("{name} on {device:?}, gradient");
    assert_close(&what, gradient(&graph, device), want, tolerance);
    graph
}

/// DeepLIFT's values add up whatever the network does, on its graph and on the folded one.
fn check_deep_lift<const D: usize>(name: &str, graph: &Graph, x: Tensor<D>) {
    let map = DeepLift::new()
        .explain(graph, x.clone(), Target::Predicted)
        .unwrap();
    let size = map.values.clone().abs().sum().into_scalar::<f32>() as f64;
    for delta in map.evidence.delta.unwrap() {
        assert!(
            delta.abs() < 1e-4 * size.max(1.0),
            "{name}: {delta:e} of {size}"
        );
    }
    let run = Run::new().batch_size(BatchSize::Rows(1));
    let split = DeepLift::new().explain_with(graph, x, &Target::Predicted, &run);
    assert_close(name, split.unwrap().values, map.values, 1e-4);
}

macro_rules! zoo {
    ($($test:ident: $net:ident $row:expr;)+) => { $(
        #[test]
        fn $test() {
            for device in [Some(Device::flex()), Some(ndarray()), wgpu()] {
                let Some(device) = device else { continue };
                let name = stringify!($net);
                let graph = check(name, &device, $net::new, $row, |m, x| m.forward(x));
                check_deep_lift(name, &graph, input($row, 2, &device));
            }
        }
    )+ };
}

zoo! {
    depthwise_convolutions_and_gates: MobileNet [0, 3, 9, 8];
    layers_that_see_all_before_them: DenseNet [0, 3, 8, 9];
    parallel_branches: Inception [0, 3, 9, 8];
    down_and_up_again: UNet [0, 3, 10, 12];
    plain_convolutions: Vgg [0, 3, 8, 12];
    convolutions_over_time: Series [0, 16, 3];
    convolutions_in_space: Volume [0, 2, 4, 6, 4];
    lstm: LstmNet [0, 4, 3];
    lstm_in_both_directions: BiLstmNet [0, 4, 3];
    gru: GruNet [0, 4, 3];
    transformer: ViT [0, 3, 8, 12];
}

#[test]
fn classifiers_run_as_graphs() {
    for device in [Some(Device::flex()), wgpu()].into_iter().flatten() {
        for (name, config) in [
            ("ResNet18", ResNetConfig::resnet18()),
            ("ResNet50", ResNetConfig::resnet50()),
        ] {
            let config = config.with_width(8).with_classes(4);
            let make = |device: &Device| config.init(device).unwrap();
            check(name, &device, make, [0, 3, 33, 32], |m, x| m.forward(x));
        }
        let config = SqueezeNetConfig::new().with_classes(4);
        let make = |device: &Device| config.init(device).unwrap();
        check("SqueezeNet", &device, make, [0, 3, 35, 40], |m, x| {
            m.forward(x)
        });
    }
}

#[test]
fn words_run_and_have_no_gradient() {
    for device in [Some(Device::flex()), Some(ndarray()), wgpu()]
        .into_iter()
        .flatten()
    {
        let net = seeded(Words::new(&device));
        let words =
            |rows| Tensor::<2>::from_floats([[1.0, 5.0, 9.0, 0.0]], &device).repeat_dim(0, rows);
        let graph = Graph::trace(&net, |m, x| m.forward(x), &words(1)).unwrap();
        for rows in [1, 2, 5] {
            let got = graph.forward(words(rows));
            assert_close("words", got, net.forward(words(rows)), 1e-5);
        }
        let error = Gradient.explain(&graph, words(1), 0).unwrap_err();
        assert_eq!(error, Error::NotDifferentiable);
    }
}

#[test]
fn what_a_graph_cannot_do_is_named() {
    let device = Device::flex();
    let net = seeded(Vgg::new(&device));
    let trace = |forward: fn(Tensor<2>) -> Tensor<2>| {
        Graph::trace(&net, |_, x| forward(x), &input([0, 6], 1, &device))
            .unwrap_err()
            .to_string()
    };
    let text = trace(|x| relu(x.clone()).max_abs().unsqueeze::<2>() * x);
    assert!(
        text.contains("uses MaxAbs") && text.contains("[2, 6]"),
        "{text}"
    );
    let text = trace(|x| {
        let noise = Tensor::random(x.dims(), Distribution::Normal(0.0, 1.0), &x.device());
        x + noise
    });
    assert!(text.contains("uses Random"), "{text}");
    let text = trace(|x| match x.dims()[0] % 3 {
        2 => relu(x),
        _ => relu(x) + 1.0,
    });
    assert!(text.contains("must not depend on the batch size"), "{text}");
    let text = trace(|x| {
        let largest = x.clone().max().into_scalar::<f32>();
        x / largest
    });
    assert!(text.contains("cannot be traced"), "{text}");
}
