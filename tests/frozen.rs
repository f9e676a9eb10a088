//! Explaining a network computes no gradient of its weights, and leaves them as they were.
//!
//! The weights stay off the tape: only the input is lifted onto it. `just bench` measures
//! what that saves.

use std::cell::RefCell;

use burn::{
    module::{Module, ModuleMapper, ModuleVisitor, Param},
    tensor::{DType, Device, FloatDType, Gradients, Tensor, TensorData},
};
use saliency_core::{Gradient, InputXGradient, Method, Model, Recipe, SmoothGrad, Target};
use saliency_models::{
    cifar_resnet::{CifarResNet, CifarResNetConfig},
    weights,
};

use crate::golden::{host, relative_l2};

/// How the tape sees a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Tape {
    /// No autodiff at all.
    Plain,
    /// On the autodiff device, but no part of the tape.
    Constant,
    /// A node of the tape whose gradient is asked for.
    Leaf,
    /// A node of the tape in between.
    Node,
}

fn tape<const D: usize>(tensor: &Tensor<D>) -> Tape {
    match (
        tensor.is_autodiff(),
        tensor.is_tracked(),
        tensor.is_require_grad(),
    ) {
        (false, ..) => Tape::Plain,
        (true, false, _) => Tape::Constant,
        (true, true, true) => Tape::Leaf,
        (true, true, false) => Tape::Node,
    }
}

/// Every weight with its state and values, running statistics included.
fn survey(net: &CifarResNet) -> Vec<(Tape, Vec<f64>)> {
    struct Survey(Vec<(Tape, Vec<f64>)>);
    impl ModuleVisitor for Survey {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            let tensor = param.val();
            self.0.push((tape(&tensor), host(tensor.inner())));
        }
    }
    let mut survey = Survey(Vec::new());
    net.visit(&mut survey);
    survey.0
}

fn states(net: &CifarResNet) -> Vec<Tape> {
    survey(net).into_iter().map(|(state, _)| state).collect()
}

/// Weights that have a gradient.
fn with_gradient(net: &CifarResNet, gradients: &Gradients) -> usize {
    struct Count<'a>(&'a Gradients, usize);
    impl ModuleVisitor for Count<'_> {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            self.1 += usize::from(param.val().grad(self.0).is_some());
        }
    }
    let mut count = Count(gradients, 0);
    net.visit(&mut count);
    count.1
}

/// Seven convolutions, seven normalisations and a linear layer: the parameters that training
/// would change, and those with the running means and variances.
const TRAINABLE: usize = 7 + 7 * 2 + 2;
const ALL: usize = TRAINABLE + 7 * 2;

fn plain() -> CifarResNet {
    let config = CifarResNetConfig::new(1).with_width(8).with_classes(4);
    let net = config.init(&Device::flex()).unwrap();
    weights::cast(&net, FloatDType::F64)
}

/// The same network in inference mode, with every parameter a leaf of the tape.
fn tracked(net: &CifarResNet) -> CifarResNet {
    struct Track;
    impl ModuleMapper for Track {
        fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            param.map(|tensor| tensor.autodiff().require_grad())
        }
    }
    // `valid` copies the running statistics, which clones share.
    net.valid().map(&mut Track)
}

fn images() -> Tensor<4> {
    let shape = [2, 3, 16, 16];
    let values: Vec<f64> = (0..shape.iter().product())
        .map(|i: usize| (0.37 * i as f64).sin() + (0.011 * i as f64).cos())
        .collect();
    let data = TensorData::new(values, shape);
    Tensor::from_data(data, (&Device::flex(), DType::F64))
}

fn methods() -> [Recipe; 3] {
    [
        Recipe::default(),
        Recipe::InputXGradient(InputXGradient),
        Recipe::SmoothGrad(SmoothGrad::default().samples(3)),
    ]
}

/// What a method showed the model: for each pass the state of input, output and weights.
struct Spy<'a> {
    net: &'a CifarResNet,
    passes: RefCell<Vec<(Tape, Tape, Vec<Tape>)>>,
}

impl Model<4> for Spy<'_> {
    fn forward(&self, x: Tensor<4>) -> Tensor<2> {
        let input = tape(&x);
        let output = self.net.forward(x);
        let pass = (input, tape(&output), states(self.net));
        self.passes.borrow_mut().push(pass);
        output
    }
}

#[test]
fn only_the_input_is_on_the_tape() {
    let net = plain();
    for method in methods() {
        let spy = Spy {
            net: &net,
            passes: RefCell::default(),
        };
        method.explain(&spy, images(), Target::Predicted).unwrap();
        let passes = spy.passes.into_inner();
        for (input, output, weights) in &passes {
            assert_eq!(*weights, [Tape::Plain; ALL], "{method:?}");
            match input {
                Tape::Plain => assert_eq!(*output, Tape::Plain, "{method:?}"),
                Tape::Leaf => assert_eq!(*output, Tape::Node, "{method:?}"),
                other => panic!("{method:?} gives the model a {other:?}"),
            }
        }
        let lifted = passes.iter().filter(|pass| pass.0 == Tape::Leaf).count();
        assert!(lifted > 0 && lifted < passes.len(), "{method:?}");
    }
}

#[test]
fn weights_stay_as_they_were() {
    let net = plain();
    let before = survey(&net);
    assert_eq!(before.len(), ALL);
    for method in methods() {
        method.explain(&net, images(), Target::Predicted).unwrap();
        assert_eq!(survey(&net), before, "{method:?}");
    }
}

#[test]
fn tracked_weights_give_the_same_map_and_gradients_nobody_asked_for() {
    let net = plain();
    let tracked = tracked(&net);
    let leaves = |net| states(net).iter().filter(|s| **s == Tape::Leaf).count();
    assert_eq!((leaves(&net), leaves(&tracked)), (0, TRAINABLE));

    for method in methods() {
        let map = |net| host(method.explain(net, images(), 1).unwrap().values);
        let distance = relative_l2(&map(&tracked), &map(&net));
        assert!(distance < 1e-12, "{method:?}: {distance:e}");
    }

    let backward = |net: &CifarResNet| {
        let x = images().autodiff().require_grad();
        let gradients = net.forward(x.clone()).sum().backward();
        (x.grad(&gradients).is_some(), with_gradient(net, &gradients))
    };
    assert_eq!(backward(&net), (true, 0));
    assert_eq!(backward(&tracked), (true, TRAINABLE));
}

#[test]
fn explaining_leaves_tracked_weights_as_they_were() {
    let net = tracked(&plain());
    let before = survey(&net);
    assert!(before.iter().any(|(state, _)| *state == Tape::Leaf));
    Gradient.explain(&net, images(), 1).unwrap();
    assert_eq!(survey(&net), before);
}
