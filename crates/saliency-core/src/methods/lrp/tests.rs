use burn::{
    module::{Module, Param},
    nn::{
        LayerNorm, LayerNormConfig, Linear, LinearConfig, Lstm, LstmConfig, PaddingConfig2d,
        attention::{MhaInput, MultiHeadAttention, MultiHeadAttentionConfig},
        conv::{Conv2d, Conv2dConfig},
    },
    tensor::{
        DType, Device, Tensor, TensorData,
        activation::{relu, sigmoid},
    },
};
use proptest::prelude::*;

use super::*;
use crate::{
    BatchSize, ExcitationBackprop, InputXGradient, Target,
    methods::testing::{Net, assert_close, image},
    noise::standard_normal,
};

fn drawn<const D: usize>(shape: [usize; D], sample: usize) -> Tensor<D> {
    let values = standard_normal(7, sample, shape.iter().product());
    Tensor::from_data(TensorData::new(values, shape), &Device::flex())
}

fn linear(inside: usize, out: usize, sample: usize, bias: bool) -> Linear {
    let mut layer = LinearConfig::new(inside, out)
        .with_bias(bias)
        .init(&Device::flex());
    layer.weight = Param::from_tensor(drawn([inside, out], sample));
    if bias {
        layer.bias = Some(Param::from_tensor(drawn([out], sample + 50)));
    }
    layer
}

fn traced(net: &Net) -> Graph {
    Graph::trace(net, |m, x| m.forward(x), &image(1, 0)).unwrap()
}

fn delta(method: &impl Method<4>, graph: &Graph, x: Tensor<4>) -> Vec<f64> {
    let map = method.explain(graph, x, Target::Predicted).unwrap();
    let whole = map.scores;
    let delta = map.evidence.delta.unwrap();
    delta
        .iter()
        .zip(whole)
        .map(|(d, f)| (d / f).abs())
        .collect()
}

/// The rules as sums over a matrix, in f64: relevance `r` of the outputs of x W + b.
fn by_hand(rule: &LrpRule, x: &[f64], w: &[Vec<f64>], b: &[f64], r: &[f64]) -> Vec<f64> {
    let (p, n) = (|v: f64| v.max(0.0), |v: f64| v.min(0.0));
    let inputs = 0..x.len();
    let share = |part: &dyn Fn(usize, usize) -> f64, bias: &dyn Fn(f64) -> f64, epsilon: f64| {
        let mut shares = vec![0.0; x.len()];
        for j in 0..b.len() {
            let z: f64 = inputs.clone().map(|i| part(i, j)).sum::<f64>() + bias(b[j]);
            let z = z + if z >= 0.0 { epsilon } else { -epsilon };
            for i in inputs.clone() {
                shares[i] += part(i, j) / z * r[j];
            }
        }
        shares
    };
    let z = |j: usize| inputs.clone().map(|i| x[i] * w[i][j]).sum::<f64>() + b[j];
    let positive = |i: usize, j: usize| p(x[i] * w[i][j]);
    let negative = |i: usize, j: usize| n(x[i] * w[i][j]);
    match rule {
        LrpRule::Epsilon(epsilon) => share(&|i, j| x[i] * w[i][j], &|b| b, *epsilon),
        LrpRule::Gamma(gamma) => {
            // x w plus gamma times the contributions of the output's own sign.
            let mut shares = vec![0.0; x.len()];
            for j in 0..b.len() {
                let own = |v: f64| v + gamma * if z(j) > 0.0 { p(v) } else { n(v) };
                let whole: f64 =
                    inputs.clone().map(|i| own(x[i] * w[i][j])).sum::<f64>() + own(b[j]);
                for i in inputs.clone() {
                    shares[i] += own(x[i] * w[i][j]) / whole * r[j];
                }
            }
            shares
        }
        LrpRule::ZPlus => share(&positive, &p, 0.0),
        LrpRule::AlphaBeta { alpha, beta } => {
            let (up, down) = (share(&positive, &p, 0.0), share(&negative, &n, 0.0));
            up.iter()
                .zip(down)
                .map(|(u, d)| alpha * u - beta * d)
                .collect()
        }
        LrpRule::ZBox { low, high } => {
            let part =
                |i: usize, j: usize| x[i] * w[i][j] - low[0] * p(w[i][j]) - high[0] * n(w[i][j]);
            share(&part, &|_| 0.0, 0.0)
        }
        LrpRule::WSquare => share(&|i, j| w[i][j] * w[i][j], &|b| b * b, 0.0),
        LrpRule::Flat => share(&|_, _| 1.0, &|_| 0.0, 0.0),
        LrpRule::Pass | LrpRule::Gradient => unreachable!(),
    }
}

#[test]
fn rules_are_their_matrix_forms() {
    let (inside, out) = (5, 4);
    let layer = linear(inside, out, 1, true);
    let x = drawn([1, inside], 2);
    let graph = Graph::trace(&layer, |m, x| m.forward(x), &x)
        .unwrap()
        .cast(DType::F64);
    let x = x.cast(DType::F64);
    let host = |t: Tensor<2>| t.try_into_vec_as::<f64>().unwrap();
    let w: Vec<Vec<f64>> = host(layer.weight.val())
        .chunks(out)
        .map(<[f64]>::to_vec)
        .collect();
    let b = host(layer.bias.unwrap().val().unsqueeze());
    let values = host(x.clone());
    let rules = [
        LrpRule::Epsilon(0.0),
        LrpRule::Epsilon(0.3),
        LrpRule::Gamma(0.25),
        LrpRule::ZPlus,
        LrpRule::alpha2_beta1(),
        LrpRule::AlphaBeta {
            alpha: 1.5,
            beta: 0.5,
        },
        LrpRule::ZBox {
            low: vec![-3.0],
            high: vec![3.5],
        },
        LrpRule::WSquare,
        LrpRule::Flat,
    ];
    for rule in rules {
        for class in 0..out {
            let lrp = Lrp::of(rule.clone()).stabiliser(0.0);
            let map = lrp.explain(&graph, x.clone(), class).unwrap();
            let mut r = vec![0.0; out];
            r[class] = map.scores[0];
            let got = host(map.values);
            let want = by_hand(&rule, &values, &w, &b, &r);
            for (got, want) in got.iter().zip(&want) {
                assert!((got - want).abs() < 1e-9, "{rule:?}: {got} for {want}");
            }
        }
    }
}

/// Pools and sums have positive weights, so every rule has a closed form on them too.
#[test]
fn rules_of_sums_are_those_of_positive_weights() {
    let device = Device::flex();
    let scale = linear(2, 2, 3, false);
    let x = Tensor::<2>::from_floats([[3.0, -1.0]], &device);
    let graph = Graph::trace(&scale, |_, x: Tensor<2>| x.sum_dim(1), &x).unwrap();
    for (rule, want) in [
        (LrpRule::Epsilon(0.0), [3.0, -1.0]),
        (LrpRule::Flat, [1.0, 1.0]),
        (LrpRule::WSquare, [1.0, 1.0]),
        (LrpRule::ZPlus, [2.0, 0.0]),
        (LrpRule::alpha2_beta1(), [4.0, -2.0]),
        (LrpRule::Gamma(1.0), [12.0 / 5.0, -2.0 / 5.0]),
    ] {
        let lrp = Lrp::new().stabiliser(0.0).rule("sum_*", rule.clone());
        let got = lrp.explain(&graph, x.clone(), 0).unwrap().to_vec().unwrap();
        for (got, want) in got.iter().zip(want) {
            assert!((got - want).abs() < 1e-5, "{rule:?}: {got} for {want}");
        }
    }
}

#[test]
fn small_epsilons_tend_to_input_times_gradient_without_biases() {
    let device = Device::flex();
    let net = Net::bias_free(&device).cast_f64();
    let x = image(3, 1).cast(DType::F64);
    let graph = Graph::trace(&net, |m, x| m.forward(x), &x).unwrap();
    let want = InputXGradient.explain(&graph, x.clone(), 2).unwrap().values;
    let of = |epsilon| {
        let lrp = Lrp::of(LrpRule::Epsilon(epsilon)).stabiliser(epsilon);
        lrp.explain(&graph, x.clone(), 2).unwrap().values
    };
    assert_close(of(1e-13), want.clone(), 1e-7);
    assert_close(of(0.0), want, 1e-7);
}

#[test]
fn nothing_is_lost_where_biases_are_ignored() {
    for net in [Net::relu(&Device::flex()), Net::smooth(&Device::flex())] {
        let graph = traced(&net);
        for lrp in [
            Lrp::new(),
            Lrp::epsilon_plus(),
            Lrp::epsilon_plus_flat(),
            Lrp::epsilon_gamma_box([], []),
            Lrp::epsilon_gamma_box([-4.0, -5.0, -6.0], [6.0]),
            Lrp::of(LrpRule::ZPlus),
            Lrp::w2(),
        ] {
            let lrp = lrp.bias(BiasShare::Ignored).stabiliser(1e-9);
            for found in delta(&lrp, &graph, image(3, 2)) {
                assert!(found < 2e-3, "{lrp:?}: {found:e}");
            }
        }
        let lost = delta(&Lrp::epsilon_plus(), &graph, image(1, 2));
        assert!(lost[0] > 1e-2, "biases took their share: {lost:?}");
    }
}

#[derive(Module, Debug)]
struct Shared {
    stem: Conv2d,
    twice: Conv2d,
    head: Linear,
}

/// One convolution used twice, its output added again and again, functional ReLUs.
fn shared(graph_of: impl Fn(&Shared, Tensor<4>) -> Tensor<2>) -> Graph {
    let device = Device::flex();
    let conv = |from: usize, sample| {
        let mut conv = Conv2dConfig::new([from, 4], [3, 3])
            .with_padding(PaddingConfig2d::Explicit(1, 1, 1, 1))
            .with_bias(false)
            .init(&device);
        conv.weight = Param::from_tensor(drawn([4, from, 3, 3], sample) * 0.4);
        conv
    };
    let net = Shared {
        stem: conv(3, 4),
        twice: conv(4, 5),
        head: linear(4, 4, 6, false),
    };
    Graph::trace(&net, graph_of, &image(1, 0)).unwrap()
}

#[test]
fn modules_used_twice_and_branches_used_again_keep_everything() {
    let graph = shared(|m, x| {
        let a = relu(m.stem.forward(x));
        let b = relu(m.twice.forward(a.clone()));
        let c = relu(m.twice.forward(b.clone()) + a.clone()) + b;
        m.head.forward((c + a).mean_dims(&[2, 3]).flatten(1, 3))
    });
    let x = image(2, 3);
    let want = InputXGradient.explain(&graph, x.clone(), 1).unwrap().values;
    let zero = Lrp::of(LrpRule::Epsilon(1e-9)).stabiliser(1e-9);
    let got = zero.explain(&graph, x.clone(), 1).unwrap().values;
    assert_close(got, want, 1e-3);
    // Both uses by one name, and the second alone.
    let of = |pattern: &str| {
        let lrp = zero.clone().rule(pattern, LrpRule::ZPlus);
        lrp.explain(&graph, x.clone(), 1).unwrap().to_vec().unwrap()
    };
    assert_ne!(of("twice"), of("stem"));
    for found in delta(&Lrp::new(), &graph, x) {
        assert!(found < 1e-3, "{found:e}");
    }
}

#[test]
fn the_signal_takes_all_of_a_gated_product() {
    let device = Device::flex();
    let gate = linear(3, 3, 8, true);
    let x = Tensor::<2>::from_floats([[1.0, 2.0, -0.5]], &device);
    let gated = |m: &Linear, x: Tensor<2>| (1.0 - sigmoid(m.forward(x.clone()))) * x;
    let graph = Graph::trace(&gate, gated, &x).unwrap();
    let map = Lrp::new().explain(&graph, x.clone(), 1).unwrap();
    let values = map.to_vec().unwrap();
    assert!((f64::from(values[1]) - map.scores[0]).abs() < 1e-5);
    assert_eq!((values[0], values[2]), (0.0, 0.0));

    let squared = |_: &Linear, x: Tensor<2>| x.clone() * x;
    let graph = Graph::trace(&gate, squared, &x).unwrap();
    let map = Lrp::new().explain(&graph, x, 1).unwrap();
    assert_eq!(map.to_vec().unwrap(), [0.0, 4.0, 0.0]);
}

#[derive(Module, Debug)]
struct Recurrent {
    lstm: Lstm,
    head: Linear,
}

#[test]
fn an_lstm_keeps_everything() {
    let device = Device::flex();
    let net = Recurrent {
        lstm: LstmConfig::new(3, 5, true).init(&device),
        head: linear(5, 2, 9, false),
    };
    let x = drawn([2, 6, 3], 10);
    let forward = |m: &Recurrent, x: Tensor<3>| {
        let (all, _) = m.lstm.forward(x, None);
        let [rows, steps, width] = all.dims();
        let last = all.slice([0..rows, steps - 1..steps, 0..width]);
        m.head.forward(last.reshape([rows, width]))
    };
    let graph = Graph::trace(&net, forward, &x).unwrap();
    let lrp = Lrp::of(LrpRule::Epsilon(1e-7))
        .stabiliser(1e-7)
        .bias(BiasShare::Ignored);
    let map = lrp.explain(&graph, x, Target::Predicted).unwrap();
    for (delta, score) in map.evidence.delta.unwrap().iter().zip(map.scores) {
        assert!((delta / score).abs() < 1e-2, "{delta:e} of {score}");
    }
}

#[derive(Module, Debug)]
struct Transformer {
    attention: MultiHeadAttention,
    norm: LayerNorm,
    head: Linear,
}

#[test]
fn attention_and_layer_norm_keep_everything() {
    let device = Device::flex();
    let net = Transformer {
        attention: MultiHeadAttentionConfig::new(8, 2).init(&device),
        norm: LayerNormConfig::new(8).init(&device),
        head: linear(8, 3, 11, false),
    };
    let x = drawn([2, 5, 8], 12);
    let forward = |m: &Transformer, x: Tensor<3>| {
        let attended = m.attention.forward(MhaInput::self_attn(x.clone())).context;
        let x = m.norm.forward(x + attended);
        m.head.forward(x.mean_dim(1).squeeze_dim::<2>(1))
    };
    let graph = Graph::trace(&net, forward, &x).unwrap();
    let lrp = Lrp::of(LrpRule::Epsilon(1e-7))
        .stabiliser(1e-7)
        .bias(BiasShare::Ignored);
    let map = lrp.explain(&graph, x, Target::Predicted).unwrap();
    for (delta, score) in map.evidence.delta.unwrap().iter().zip(map.scores) {
        assert!((delta / score).abs() < 1e-2, "{delta:e} of {score}");
    }
}

#[test]
fn excitation_is_a_probability() {
    let graph = traced(&Net::relu(&Device::flex()));
    let x = image(2, 4);
    let map = ExcitationBackprop::new()
        .stabiliser(1e-9)
        .explain(&graph, x.clone(), 1)
        .unwrap();
    for delta in map.evidence.delta.unwrap() {
        assert!(delta.abs() < 1e-4, "{delta:e}");
    }
    let zennit = ExcitationBackprop::new().bias(BiasShare::Absorbed);
    let map = zennit.explain(&graph, x, 1).unwrap();
    assert!(map.evidence.delta.unwrap().iter().all(|&d| d < -1e-3));
}

/// Against two walks: from the class, and from the class of a network whose head is negated.
#[test]
fn contrast_is_the_walk_minus_its_opposite() {
    let graph = traced(&Net::relu(&Device::flex()));
    let x = image(2, 4);
    let walk = ExcitationBackprop::new();
    let weight = |(path, value): (&str, &crate::graph::Value)| {
        (path == "head.weight").then(|| (path.to_owned(), value.times(-1.0)))
    };
    let negated = graph.parameters().filter_map(weight).collect();
    let opposite = graph.with_parameters(&negated).unwrap();
    let of = |walk: &ExcitationBackprop, graph: &Graph| walk.explain(graph, x.clone(), 1).unwrap();
    let contrast = of(&walk.clone().contrastive(true), &graph);
    let want = of(&walk, &graph).values - of(&walk, &opposite).values;
    assert_close(contrast.values, want, 1e-4);
    for delta in contrast.evidence.delta.unwrap() {
        assert!(delta.abs() < 1e-3, "{delta:e}");
    }
}

#[test]
fn rules_reach_the_layers_they_name() {
    let graph = traced(&Net::relu(&Device::flex()));
    let x = image(1, 5);
    let of = |lrp: &Lrp| lrp.explain(&graph, x.clone(), 1).unwrap().values;
    let plain = Lrp::of(LrpRule::Epsilon(1e-6));
    // Everything by name is the same as everything by kind.
    let named = Lrp::of(LrpRule::Flat)
        .rule("stem", LrpRule::Epsilon(1e-6))
        .rule("b*ch", LrpRule::Epsilon(1e-6))
        .rule("head", LrpRule::Epsilon(1e-6))
        .rule("*", LrpRule::Epsilon(1e-6));
    assert_close(of(&named), of(&plain), 0.0);
    let gradient = Lrp::of(LrpRule::Gradient).rule("*", LrpRule::Gradient);
    let got = gradient.explain(&graph, x.clone(), 1).unwrap();
    let want = crate::Gradient
        .explain(&graph, x.clone(), 1)
        .unwrap()
        .values
        * got.scores[0];
    assert_close(got.values, want, 1e-5);

    let wrong = |lrp: Lrp| lrp.explain(&graph, x.clone(), 1).unwrap_err().to_string();
    let message = wrong(plain.clone().rule("stme", LrpRule::Flat));
    assert!(message.contains("did you mean stem"), "{message}");
    let message = wrong(plain.clone().rule("relu_1", LrpRule::Flat));
    assert!(message.contains("relu_1"), "{message}");
    let message = wrong(plain.clone().rule("head", LrpRule::Pass));
    assert!(message.contains("another shape"), "{message}");
    let message = wrong(Lrp::epsilon_gamma_box([0.0, 1.0], [2.0, 2.0]));
    assert!(message.contains("each channel"), "{message}");
}

#[test]
fn wrong_options_are_named() {
    let graph = traced(&Net::relu(&Device::flex()));
    for (lrp, option) in [
        (Lrp::new().stabiliser(-1.0), "stabiliser"),
        (Lrp::of(LrpRule::Epsilon(f64::NAN)), "epsilon"),
        (Lrp::of(LrpRule::Gamma(-0.5)), "gamma"),
        (
            Lrp::of(LrpRule::AlphaBeta {
                alpha: 2.0,
                beta: 0.5,
            }),
            "alpha",
        ),
        (Lrp::epsilon_gamma_box([2.0], [1.0]), "low"),
        (Lrp::epsilon_gamma_box([f64::INFINITY], [1.0]), "low, high"),
        (Lrp::new().rule("head", LrpRule::Gamma(-0.5)), "gamma"),
    ] {
        let error = lrp.explain(&graph, image(1, 0), 0).unwrap_err().to_string();
        assert!(error.starts_with(&format!("{option} = ")), "{error}");
    }
    let closure = |x: Tensor<2>| x;
    let error = Lrp::new()
        .explain(&closure, drawn([1, 2], 0), 0)
        .unwrap_err();
    assert!(matches!(error, Error::NeedsGraph { .. }), "{error}");
}

#[test]
fn does_not_depend_on_the_batch_split() {
    let graph = traced(&Net::relu(&Device::flex()));
    for lrp in [Lrp::epsilon_gamma_box([], []), Lrp::epsilon_plus_flat()] {
        let of = |rows| {
            let run = Run::new().batch_size(BatchSize::Rows(rows));
            lrp.explain_with(&graph, image(5, 6), &Target::Predicted, &run)
                .unwrap()
        };
        let whole = of(1000);
        for rows in [1, 2, 3] {
            let split = of(rows);
            assert_close(split.values, whole.values.clone(), 1e-6);
            assert_eq!(split.evaluations, whole.evaluations);
        }
        assert_eq!(whole.evaluations.gradient, 5);
        assert_eq!(whole.evidence.delta.unwrap().len(), 5);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// On random ReLU networks without biases the score is kept by the rules that keep it, and
    /// LRP-0 is input times gradient.
    #[test]
    fn random_relu_networks_keep_the_score(
        sample in 0usize..1000, width in 3usize..7, depth in 1usize..4,
    ) {
        let layers: Vec<Linear> = (0..depth)
            .map(|i| linear(width, width, 20 + sample * 5 + i, false))
            .collect();
        let forward = |m: &Vec<Linear>, x| m[1..].iter().fold(m[0].forward(x), |x, layer| {
            layer.forward(relu(x))
        });
        let x = drawn([2, width], sample).cast(DType::F64);
        let graph = Graph::trace(&layers, forward, &x.clone().cast(DType::F32))
            .unwrap()
            .cast(DType::F64);
        let zero = Lrp::of(LrpRule::Epsilon(0.0)).stabiliser(0.0);
        let map = zero.explain(&graph, x.clone(), 0).unwrap();
        let want = InputXGradient.explain(&graph, x.clone(), 0).unwrap().values;
        let scale = want.clone().abs().sum().into_scalar::<f64>().max(1e-9);
        let apart = (map.values - want).abs().sum().into_scalar::<f64>();
        prop_assert!(apart <= 1e-7 * scale, "{} of {}", apart, scale);
        for lrp in [zero, Lrp::of(LrpRule::Gamma(0.5)).stabiliser(0.0)] {
            let map = lrp.explain(&graph, x.clone(), Target::Predicted).unwrap();
            for (delta, score) in map.evidence.delta.unwrap().iter().zip(map.scores) {
                prop_assert!(delta.abs() <= 1e-8 * score.abs().max(1.0), "{}", delta);
            }
        }
    }
}
