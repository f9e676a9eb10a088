use std::sync::OnceLock;

use burn::{
    module::Module,
    nn::{
        Linear, LinearConfig, PaddingConfig2d,
        conv::{Conv2d, Conv2dConfig},
        pool::MaxPool2dConfig,
    },
    tensor::{Device, DeviceType, Tensor, activation::relu},
};

use crate::{
    Gradient, Graph, GuidedBackprop, Method, Model, Run, Target,
    graph::Value,
    methods::testing::{Net, assert_close, image},
    plan::{DevicePlan, Engine, Plan as HostPlan, ReluRule},
    target::Goal,
};

/// A GPU, or a software one. Without any, fails where `SALIENCY_REQUIRE_WGPU` is set and says
/// that nothing was tested elsewhere.
fn device() -> Option<Device> {
    static FOUND: OnceLock<Option<Device>> = OnceLock::new();
    let find = || {
        let found = Device::enumerate(DeviceType::Wgpu).into_vec().pop();
        let required = std::env::var_os("SALIENCY_REQUIRE_WGPU").is_some();
        assert!(found.is_some() || !required, "there is no wgpu adapter");
        if found.is_none() {
            eprintln!("SKIPPED: there is no wgpu adapter; install a Vulkan driver");
        }
        found
    };
    FOUND.get_or_init(find).clone()
}

/// Outputs, gradients, Guided Backprop and taps of the plan on a GPU, where it has one, against
/// what they are to be and against the plan on the CPU.
pub fn agrees(graph: &Graph, x: &Tensor<4>, outputs: &Tensor<2>, gradient: &Tensor<4>) -> bool {
    let Some(device) = device() else { return true };
    let there = graph.to_device(&device);
    let moved = x.clone().to_device(&device);
    let Some(engine @ Engine::Device(plan)) = there.engine(&moved) else {
        return false;
    };
    let home = |tensor: Tensor<4>| tensor.to_device(&x.device());
    let goal = Goal::resolve(&Target::Class(1), outputs).unwrap();
    let seed = |rule| {
        engine
            .outputs_and_gradient(moved.clone(), rule, |rows, outputs| {
                goal.slice(rows.start, rows.end).seed(outputs)
            })
            .unwrap()
    };
    let (got_outputs, got) = seed(ReluRule::Derivative);
    assert_close(got_outputs.to_device(&x.device()), outputs.clone(), 1e-5);
    assert_close(home(got), gradient.clone(), 1e-4);
    assert_close(
        there.forward(moved.clone()).to_device(&x.device()),
        outputs.clone(),
        1e-5,
    );

    let want = GuidedBackprop.explain(graph, x.clone(), 1).unwrap();
    assert_close(home(seed(ReluRule::Guided).1), want.values, 1e-4);

    let host = HostPlan::new(graph).unwrap();
    for node in host.named.keys() {
        let (outputs, tape) = host.record(x.clone(), Some(node)).unwrap();
        let (values, gradient) = host.at_node(&outputs, &tape, &goal).unwrap();
        let (outputs, tape) = plan.record(moved.clone(), Some(node)).unwrap();
        let (got_values, got_gradient) = plan.at_recorded(&outputs, &tape, &goal).unwrap();
        assert_close(home(got_values), values, 1e-5);
        assert_close(home(got_gradient), gradient, 1e-4);
    }
    true
}

fn traced(net: &Net) -> Graph {
    Graph::trace(net, |m, x| m.forward(x), &image(1, 0)).unwrap()
}

/// Two convolutions of a picture with so many channels.
#[derive(Module, Debug)]
struct Two {
    first: Conv2d,
    second: Conv2d,
    head: Linear,
}

impl Two {
    fn new([from, between, to]: [usize; 3]) -> Self {
        let device = Device::flex();
        let conv = |from, to| {
            Conv2dConfig::new([from, to], [3, 3])
                .with_padding(PaddingConfig2d::Explicit(1, 1, 1, 1))
                .init(&device)
        };
        Two {
            first: conv(from, between),
            second: conv(between, to),
            head: LinearConfig::new(to, 3).init(&device),
        }
    }

    fn forward(&self, x: Tensor<4>) -> Tensor<2> {
        let x = relu(self.second.forward(relu(self.first.forward(x))));
        self.head.forward(x.mean_dims(&[2, 3]).flatten::<2>(1, 3))
    }
}

/// Many positions, which cubes take by eight for each unit, and few with long windows, whose
/// products are made in parts.
#[test]
fn tiles_and_parts_of_products_agree() {
    for (channels, side) in [([4, 8, 6], 190), ([64, 96, 128], 5)] {
        let net = Two::new(channels);
        let shape = [1, channels[0], side, side];
        let values = crate::noise::standard_normal(3, 0, shape.iter().product());
        let data = burn::tensor::TensorData::new(values, shape);
        let x = Tensor::<4>::from_data(data, &Device::flex());
        let graph = Graph::trace(&net, |m, x| m.forward(x), &x).unwrap();
        let outputs = graph.forward(x.clone());
        let want = Gradient.explain(&graph, x.clone(), 1).unwrap().values;
        assert!(agrees(&graph, &x, &outputs, &want));
    }
}

/// More rows than go through at once.
#[test]
fn parts_of_a_batch_agree() {
    let Some(device) = device() else { return };
    let graph = traced(&Net::relu(&Device::flex())).to_device(&device);
    let x = image(5, 2).to_device(&device);
    let found = DevicePlan::device_of(&x).unwrap();
    let mut plan = DevicePlan::new(&graph, &found).unwrap().unwrap();
    let goal = Goal::resolve(&vec![0, 3, 1, 2, 0].into(), &graph.forward(x.clone())).unwrap();
    let both = |plan: &DevicePlan| {
        let seed = |rows: std::ops::Range<usize>, outputs: &Tensor<2>| {
            goal.slice(rows.start, rows.end).seed(outputs)
        };
        plan.outputs_and_gradient(x.clone(), ReluRule::Derivative, seed)
            .unwrap()
    };
    let want = both(&plan);
    plan.rows = 2;
    let got = both(&plan);
    assert_close(plan.run(x.clone()), want.0.clone(), 1e-6);
    assert_close(got.0, want.0, 1e-6);
    assert_close(got.1, want.1, 1e-6);
    assert!(plan.record(x.clone(), None).is_none());
    let at = |plan: &DevicePlan| plan.at_node(x.clone(), "relu_2", &goal).unwrap();
    let got = at(&plan);
    plan.rows = 5;
    let want = at(&plan);
    assert_close(got.0, want.0, 1e-6);
    assert_close(got.1, want.1, 1e-6);
}

/// The whole way, from methods to kernels.
#[test]
fn methods_run_on_the_plan() {
    let Some(device) = device() else { return };
    let graph = traced(&Net::relu(&Device::flex()));
    let there = graph.to_device(&device);
    let x = image(3, 4);
    let moved = x.clone().to_device(&device);
    assert!(matches!(there.engine(&moved), Some(Engine::Device(_))));
    for method in [
        "gradient",
        "guided-backprop",
        "smoothgrad",
        "integrated-gradients",
    ] {
        let method = crate::Recipe::named(method).unwrap();
        let want = method.explain(&graph, x.clone(), vec![0, 3, 1]).unwrap();
        let got = method
            .explain(&there, moved.clone(), vec![0, 3, 1])
            .unwrap();
        assert_close(got.values.to_device(&x.device()), want.values, 1e-5);
    }
    let layer = graph.layer(&"relu_2".into()).unwrap();
    let goal = Goal::resolve(&vec![0, 3, 1].into(), &graph.forward(x.clone())).unwrap();
    let at = |graph: &Graph, x: &Tensor<4>| {
        let x = Value::from(x.clone());
        let found = graph.activations_and_gradients(x, &[layer], &goal, &Run::new());
        found.unwrap().remove(0)
    };
    let home = |value: Value| value.tensor::<4>().to_device(&x.device());
    let (want, got) = (at(&graph, &x), at(&there, &moved));
    assert_close(home(got.0), home(want.0), 1e-5);
    assert_close(home(got.1), home(want.1), 1e-5);
}

/// What is no number stays so through functions and pools, as on the CPU.
#[test]
fn what_is_no_number_stays_so() {
    let Some(device) = device() else { return };
    #[derive(Module, Debug)]
    struct Bounded {
        head: Linear,
    }
    let net = Bounded {
        head: LinearConfig::new(1, 2).init(&Device::flex()),
    };
    let forward = |net: &Bounded, x: Tensor<4>, which: usize| {
        let x = match which {
            0 => MaxPool2dConfig::new([2, 2])
                .with_strides([2, 2])
                .init()
                .forward(x),
            1 => x.clamp(0.0, 6.0),
            2 => burn::tensor::activation::sigmoid(x),
            3 => x.tanh(),
            4 => burn::tensor::activation::gelu(x),
            _ => relu(x),
        };
        net.head.forward(x.mean_dims(&[2, 3]).flatten::<2>(1, 3))
    };
    for which in 0..6 {
        let mut values = vec![1.0; 16];
        values[5] = f32::NAN;
        let data = burn::tensor::TensorData::new(values, [1, 1, 4, 4]);
        let x = Tensor::<4>::from_data(data, &Device::flex());
        let graph = Graph::trace(&net, |m, x| forward(m, x, which), &x).unwrap();
        let there = graph.to_device(&device);
        let moved = x.to_device(&device);
        assert!(matches!(there.engine(&moved), Some(Engine::Device(_))));
        let outputs: Vec<f32> = there.forward(moved).try_into_vec_as().unwrap();
        assert!(
            outputs.iter().all(|value| value.is_nan()),
            "{which}: {outputs:?}"
        );
    }
}

/// Inputs that are no pictures go through Burn.
#[test]
fn tables_have_no_plan() {
    let Some(device) = device() else { return };
    let head = LinearConfig::new(3, 2).init(&Device::flex());
    let x = Tensor::<2>::from_floats([[1.0, -2.0, 3.0]], &Device::flex());
    let graph = Graph::trace(&head, |m, x| m.forward(x), &x).unwrap();
    let (there, moved) = (graph.to_device(&device), x.clone().to_device(&device));
    assert!(there.engine(&moved).is_none());
    let want = Gradient.explain(&graph, x.clone(), 1).unwrap().values;
    let got = Gradient.explain(&there, moved, 1).unwrap().values;
    assert_close(got.to_device(&x.device()), want, 1e-6);
}
