use super::*;
use crate::{
    BatchSize, Gradient, Target,
    methods::testing::{Net, assert_close, image},
    noise::standard_normal,
};
use burn::{
    module::Module,
    nn::{LayerNorm, LayerNormConfig, Linear, LinearConfig},
    tensor::{DType, Device, TensorData, activation, module::max_pool1d, ops::MaxPoolOptions},
};

#[derive(Module, Debug)]
struct Parts {
    first: Linear,
    second: Linear,
    norm: LayerNorm,
}

fn parts() -> Parts {
    let device = Device::flex();
    let linear = |sample| {
        let mut linear = LinearConfig::new(6, 6).init(&device);
        linear.weight = linear.weight.map(|_| values(36, sample).reshape([6, 6]));
        linear.bias = linear.bias.map(|b| b.map(|_| values(6, sample + 1)));
        linear
    };
    Parts {
        first: linear(1),
        second: linear(3),
        norm: LayerNormConfig::new(6).init(&device),
    }
}

fn values(len: usize, sample: usize) -> Tensor<1> {
    let data = TensorData::new(standard_normal(17, sample, len), [len]);
    Tensor::from_data(data, &Device::flex())
}

fn table(rows: usize, sample: usize) -> Tensor<2> {
    values(rows * 6, 50 + sample).reshape([rows, 6])
}

fn double<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    x.cast(DType::F64)
}

type Function = fn(&Parts, Tensor<2>) -> Tensor<2>;

fn traced(function: Function) -> Graph {
    let graph = Graph::trace(&parts(), function, &table(1, 0)).unwrap();
    graph.cast(DType::F64)
}

fn max_pool(x: Tensor<2>) -> Tensor<2> {
    let options = MaxPoolOptions::new([3]).with_stride([1]).with_padding([1]);
    max_pool1d(x.unsqueeze_dim::<3>(1), options).squeeze_dim(1)
}

/// Attention of six tokens of one number each.
fn attention(q: Tensor<2>, k: Tensor<2>, v: Tensor<2>) -> Tensor<2> {
    let (q, k, v) = (
        q.unsqueeze_dim::<3>(2),
        k.unsqueeze_dim::<3>(1),
        v.unsqueeze_dim::<3>(2),
    );
    activation::softmax(q.matmul(k), 2).matmul(v).squeeze_dim(2)
}

/// Smooth ones first.
const SMOOTH: [(&str, Function); 14] = [
    ("tanh", |m, x| m.second.forward(m.first.forward(x).tanh())),
    ("used twice", |m, x| {
        m.first.forward(m.first.forward(x).tanh()).tanh()
    }),
    ("residual", |m, x| {
        let h = m.first.forward(x).tanh();
        m.second.forward(h.clone()).tanh() + h
    }),
    ("gate", |m, x| {
        activation::sigmoid(m.first.forward(x.clone())) * m.second.forward(x).tanh()
    }),
    ("square", |m, x| m.first.forward(x).square()),
    ("quotient", |m, x| {
        m.first.forward(x.clone()) / (m.second.forward(x).square() + 1.0)
    }),
    ("softmax", |m, x| {
        m.second.forward(activation::softmax(m.first.forward(x), 1))
    }),
    ("softmin", |m, x| {
        m.second.forward(activation::softmin(m.first.forward(x), 1))
    }),
    ("log-softmax", |m, x| {
        activation::log_softmax(m.first.forward(x), 1)
    }),
    ("attention", |m, x| {
        attention(m.first.forward(x.clone()), m.second.forward(x.clone()), x)
    }),
    ("layer norm", |m, x| {
        m.second.forward(m.norm.forward(m.first.forward(x)))
    }),
    ("own norm", |m, x| {
        let x = m.first.forward(x);
        let (variance, mean) = x.clone().var_mean_bias(1);
        (x - mean) / (variance + 0.1).sqrt()
    }),
    ("gelu", |m, x| activation::gelu(m.first.forward(x))),
    ("exp and log", |m, x| (m.first.forward(x).exp() + 1.0).log()),
];

const KINKED: [(&str, Function); 8] = [
    ("functional relu", |m, x| {
        m.second.forward(activation::relu(m.first.forward(x)))
    }),
    ("one relu, residual, twice", |m, x| {
        let h = activation::relu(m.first.forward(x));
        activation::relu(m.first.forward(h.clone()) + h)
    }),
    ("max pool", |m, x| {
        m.second.forward(max_pool(m.first.forward(x)))
    }),
    ("max", |m, x| m.first.forward(x).max_dim(1).repeat_dim(1, 6)),
    ("min", |m, x| m.first.forward(x).min_dim(1).repeat_dim(1, 6)),
    ("larger of two", |m, x| {
        m.first.forward(x.clone()).max_pair(m.second.forward(x))
    }),
    ("elu", |m, x| {
        m.second.forward(activation::elu(m.first.forward(x), 1.0))
    }),
    ("clamp and abs", |m, x| {
        m.first.forward(x).clamp(-0.5, 0.5).abs()
    }),
];

#[test]
fn values_add_up_to_the_difference_of_the_scores() {
    let x = double(table(4, 1));
    let random = Baseline::Uniform { seed: 3 };
    for (name, function) in SMOOTH.into_iter().chain(KINKED) {
        let graph = traced(function);
        for baseline in [Baseline::Zero, random.clone()] {
            let lift = DeepLift::new().baseline(baseline);
            let map = lift.explain(&graph, x.clone(), vec![0, 1, 2, 3]).unwrap();
            for delta in map.evidence.delta.unwrap() {
                assert!(delta.abs() < 1e-5, "{name}: {delta:e}");
            }
        }
    }
}

/// With epsilon 0 they do so to rounding; a derivative is taken where a difference is 0.
#[test]
fn they_do_so_exactly_without_epsilon() {
    let x = double(table(4, 1));
    for (name, function) in SMOOTH.into_iter().chain(KINKED) {
        let lift = DeepLift::new().epsilon(0.0);
        let map = lift.explain(&traced(function), x.clone(), 2).unwrap();
        for delta in map.evidence.delta.unwrap() {
            assert!(delta.abs() < 1e-12, "{name}: {delta:e}");
        }
    }
}

#[test]
fn multipliers_tend_to_the_gradient_as_the_baseline_nears_the_input() {
    let x = double(table(1, 2));
    let near: Vec<f32> = (x.clone() - double(table(1, 3)).mul_scalar(1e-5))
        .try_into_vec_as()
        .unwrap();
    for (name, function) in SMOOTH {
        let graph = traced(function);
        let want = Gradient.explain(&graph, x.clone(), 1).unwrap().values;
        let lift = DeepLift::new()
            .baseline(Baseline::Values {
                values: near.clone(),
            })
            .multiply_by_inputs(false);
        let got = lift.explain(&graph, x.clone(), 1).unwrap().values;
        let error = crate::methods::testing::relative_error(got, want);
        assert!(error < 1e-3, "{name}: {error:e}");
    }
}

/// The sum of a function of each number: every value must be f(x) - f(x0) itself,
/// whatever Burn makes the function of.
#[test]
fn activations_get_their_own_difference() {
    type Function = fn(Tensor<2>) -> Tensor<2>;
    let functions: [(&str, Function); 19] = [
        ("relu", activation::relu),
        ("gelu", activation::gelu),
        ("gelu_approximate", activation::gelu_approximate),
        ("sigmoid", activation::sigmoid),
        ("hard_sigmoid", |x| activation::hard_sigmoid(x, 0.2, 0.5)),
        ("log_sigmoid", activation::log_sigmoid),
        ("tanh", activation::tanh),
        ("leaky_relu", |x| activation::leaky_relu(x, 0.1)),
        ("elu", |x| activation::elu(x, 1.3)),
        ("celu", |x| activation::celu(x, 1.3)),
        ("selu", activation::selu),
        ("silu", activation::silu),
        ("hard_swish", activation::hard_swish),
        ("mish", activation::mish),
        ("softplus", |x| activation::softplus(x, 1.5)),
        ("softsign", activation::softsign),
        ("hard_shrink", |x| activation::hard_shrink(x, 0.5)),
        ("soft_shrink", |x| activation::soft_shrink(x, 0.5)),
        ("thresholded_relu", |x| activation::thresholded_relu(x, 0.5)),
    ];
    let x = double(table(1, 4).mul_scalar(2.0));
    let lift = DeepLift::new().baseline(Baseline::Constant(0.3));
    for (name, function) in functions {
        let sum = |_: &Parts, x: Tensor<2>| function(x).sum_dim(1);
        let graph = Graph::trace(&parts(), sum, &table(1, 0)).unwrap();
        let got = lift.explain(&graph.cast(DType::F64), x.clone(), 0).unwrap();
        let want = function(x.clone()) - function(x.clone().zeros_like() + 0.3);
        let error = crate::methods::testing::relative_error(got.values, want);
        assert!(error < 1e-10, "{name}: {error:e}");
    }
}

/// relu(x W + b) V by hand: m = W diag((h - h0) / (z - z0)) V.
#[test]
fn a_hidden_layer_has_the_multipliers_of_the_paper() {
    let parts = parts();
    let x = table(3, 5);
    let graph = Graph::trace(
        &parts,
        |m, x| m.second.forward(activation::relu(m.first.forward(x))),
        &x,
    )
    .unwrap();
    let (z, z0) = (
        parts.first.forward(x.clone()),
        parts.first.forward(x.zeros_like()),
    );
    let slope = (activation::relu(z.clone()) - activation::relu(z0.clone())) / (z - z0);
    let column = parts.second.weight.val().narrow(1, 4, 1).transpose();
    let m = (slope * column).matmul(parts.first.weight.val().transpose());
    let map = DeepLift::new().explain(&graph, x.clone(), 4).unwrap();
    assert_close(map.values, m.clone() * x.clone(), 1e-5);
    let map = DeepLift::new()
        .multiply_by_inputs(false)
        .explain(&graph, x, 4);
    assert_close(map.unwrap().values, m, 1e-5);
}

#[test]
fn a_product_is_shared_as_shapley_says() {
    let graph = traced(|_, x| x.clone().narrow(1, 0, 1) * x.narrow(1, 1, 1));
    let x = Tensor::<2>::from_floats([[3.0, 5.0, 1.0, 0.0, 0.0, 0.0]], &Device::flex());
    let lift = DeepLift::new().baseline(Baseline::Constant(1.0));
    let map = lift.explain(&graph, double(x), 0).unwrap();
    // 15 - 1: 2 * (5 + 1) / 2 and 4 * (3 + 1) / 2.
    assert_eq!(map.to_vec().unwrap(), [6.0, 8.0, 0.0, 0.0, 0.0, 0.0]);
}

/// Windows [a b c], [b c d], ... that overlap.
#[test]
fn a_maximum_gives_its_rise_to_the_winner_and_its_fall_to_the_loser() {
    let graph = traced(|_, x| max_pool(x).sum_dim(1));
    let x = Tensor::<2>::from_floats([[0.0, 5.0, 0.0, 0.0, -1.0, -4.0]], &Device::flex());
    let start = vec![1.0, 0.0, 0.0, 2.0, 0.0, 0.0];
    let lift = DeepLift::new().baseline(Baseline::Values { values: start });
    let map = lift.explain(&graph, double(x), 0).unwrap();
    // Maxima were 1 1 2 2 2 0 and are 5 5 5 0 0 -1. The fall of the last from 0 (its
    // first place) to -1 belongs to that place.
    assert_eq!(map.to_vec().unwrap(), [0.0, 11.0, 0.0, -4.0, -1.0, 0.0]);
}

#[test]
fn a_linear_model_gives_weights_times_difference() {
    let x = table(2, 6);
    let parts = parts();
    let graph = Graph::trace(&parts, |m, x| m.first.forward(x), &x).unwrap();
    let weights = parts.first.weight.val().narrow(1, 3, 1).transpose();
    let lift = DeepLift::new().baselines([Baseline::Zero, Baseline::Constant(1.0)]);
    let map = lift.explain(&graph, x.clone(), 3).unwrap();
    assert_close(map.values, (x.clone() - 0.5) * weights.clone(), 1e-5);
    let map = DeepLift::captum().explain(&graph, x.clone(), 3).unwrap();
    assert_close(map.values, x * weights, 1e-5);
}

#[test]
fn an_unused_input_gets_nothing_and_equal_ones_get_the_same() {
    let graph = traced(|m, x| {
        let x = x.narrow(1, 0, 2).sum_dim(1).repeat_dim(1, 6);
        activation::sigmoid(m.first.forward(x)) * 2.0
    });
    let x = Tensor::<2>::from_floats([[0.7, 0.7, 3.0, 4.0, 5.0, 6.0]], &Device::flex());
    let map = DeepLift::new().explain(&graph, double(x), 0).unwrap();
    let values = map.to_vec().unwrap();
    assert_eq!(values[0], values[1]);
    assert_eq!(values[2..], [0.0; 4]);
}

fn picture_graph() -> Graph {
    let net = Net::relu(&Device::flex());
    Graph::trace(&net, |m, x| m.forward(x), &image(1, 0)).unwrap()
}

#[test]
fn a_residual_network_adds_up_folded_or_not() {
    let graph = picture_graph();
    let x = image(3, 1);
    let lift = DeepLift::new().baselines([Baseline::Zero, Baseline::Mean]);
    let map = lift.explain(&graph, x.clone(), vec![0, 1, 2]).unwrap();
    for delta in map.evidence.delta.unwrap() {
        assert!(delta.abs() < 1e-4, "{delta:e}");
    }
    let folded = lift.explain(&graph.folded(), x, vec![0, 1, 2]).unwrap();
    assert_close(folded.values, map.values, 1e-4);
    // Three rows at each of two baselines.
    assert_eq!((map.evaluations.forward, map.evaluations.gradient), (6, 6));
}

#[test]
fn does_not_depend_on_the_batch_split() {
    let graph = picture_graph();
    let lift = DeepLift::new().baselines([Baseline::Mean, Baseline::Uniform { seed: 1 }]);
    let explain = |rows| {
        let run = Run::new().batch_size(BatchSize::Rows(rows));
        let map = lift.explain_with(&graph, image(5, 6), &Target::Predicted, &run);
        map.unwrap().values
    };
    let whole = explain(1000);
    for rows in [1, 2, 3, 7] {
        assert_close(explain(rows), whole.clone(), 1e-6);
    }
}

#[test]
fn captums_rules_leave_products_to_the_gradient() {
    let graph = traced(|_, x| x.clone().narrow(1, 0, 1) * x.narrow(1, 1, 1));
    let x = Tensor::<2>::from_floats([[3.0, 5.0, 1.0, 0.0, 0.0, 0.0]], &Device::flex());
    let map = DeepLift::captum().explain(&graph, double(x), 0).unwrap();
    assert_eq!(map.to_vec().unwrap()[..2], [15.0, 15.0]);
    assert_eq!(map.evidence.delta, Some(vec![15.0]));
}

#[test]
fn wrong_options_and_closures_are_named() {
    let graph = picture_graph();
    let text = |lift: DeepLift| {
        let error = lift.explain(&graph, image(1, 1), 0).unwrap_err();
        error.to_string()
    };
    assert!(text(DeepLift::new().baselines([])).starts_with("baselines = []"));
    assert!(text(DeepLift::new().epsilon(-1.0)).starts_with("epsilon = -1"));
    assert!(text(DeepLift::new().epsilon(f64::NAN)).starts_with("epsilon = NaN"));
    let wrong = Baseline::Values { values: vec![1.0] };
    assert!(text(DeepLift::new().baseline(wrong)).starts_with("baseline = 1 values"));
    let closure = |x: Tensor<2>| x;
    let error = DeepLift::new().explain(&closure, table(1, 0), 0);
    assert!(matches!(error, Err(Error::NeedsGraph { .. })));
}
