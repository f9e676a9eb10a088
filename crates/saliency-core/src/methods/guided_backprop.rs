use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

use crate::{
    attribution::{Evaluations, Outcome},
    error::Error,
    graph::{Graph, NodeId, Op, Rule, Site, Unary, Value, inside},
    method::Method,
    methods::gradient::planned,
    model::Model,
    plan::ReluRule,
    recipe::{Recipe, Registered},
    run::{Run, Stage, guarded, join},
    target::Goal,
};

/// The gradient, of which only positive parts pass a ReLU on the way back.
///
/// A ReLU with input z gets R from above and passes back 1\[z > 0\] max(R, 0); everything else
/// has its ordinary derivative, other activations too. Every ReLU counts, whether a module,
/// a function or a `clamp_min(0.0)`; so does one with an upper bound (ReLU6), which passes nothing
/// back above it. Values are shaped like the input. Springenberg et al.,
/// "Striving for Simplicity: The All Convolutional Net" (2014),
/// <https://arxiv.org/abs/1412.6806>; Captum's `GuidedBackprop`, which misses functional ReLUs and
/// ReLU6.
///
/// It shows edges rather than reasons: much of it stays where the network's upper layers are
/// replaced by random ones (Adebayo et al., "Sanity Checks for Saliency Maps", 2018).
///
/// ```
/// use burn::{module::Param, nn::LinearConfig, tensor::{Device, Tensor, activation::relu}};
/// use saliency_core::{Graph, GuidedBackprop, Method};
///
/// let device = Device::flex();
/// let mut head = LinearConfig::new(3, 1).with_bias(false).init(&device);
/// head.weight = Param::from_tensor(Tensor::from_floats([[3.0], [-1.0], [2.0]], &device));
/// let x = Tensor::<2>::from_floats([[1.0, 2.0, -1.0]], &device);
/// let graph = Graph::trace(&head, |m, x| m.forward(relu(x)), &x)?;
/// assert_eq!(GuidedBackprop.explain(&graph, x, 0)?.to_vec()?, [3.0, 0.0, 0.0]);
/// # Ok::<(), saliency_core::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuidedBackprop;

impl Registered for GuidedBackprop {}

impl<const D: usize> Method<D> for GuidedBackprop {
    fn recipe(&self) -> Recipe {
        Recipe::GuidedBackprop(*self)
    }

    fn attribute(
        &self,
        model: &dyn Model<D>,
        input: &Tensor<D>,
        goal: &Goal,
        run: &Run,
    ) -> Result<Outcome<D>, Error> {
        let graph = inside(model, "guided-backprop")?;
        if let Some(engine) = graph.engine(input) {
            let mut parts = Vec::new();
            let total = input.dims()[0];
            run.batches(Stage::Attributing, total, run.rows(input), |range| {
                let batch = input.clone().narrow(0, range.start, range.len());
                let goal = goal.slice(range.start, range.end);
                run.count(Evaluations {
                    forward: 0,
                    gradient: range.len(),
                });
                let shape = batch.dims();
                let found = guarded(&shape, || {
                    planned(graph, engine, batch, &goal, ReluRule::Guided)
                });
                parts.push(found??.1);
                Ok(())
            })?;
            return Ok(join(parts).into());
        }
        let graph = graph.folded_once();
        Ok(passed_back(graph, input, goal, run, &guided)?.into())
    }
}

/// Positive parts through a ReLU, the ordinary derivative elsewhere.
pub(super) fn guided(site: &Site, arrived: &Value) -> Result<Option<Vec<Option<Value>>>, Error> {
    Ok(match &site.node.op {
        // ReLU6 lets nothing through above its bound either.
        Op::Unary(Unary::Clamp { max, .. }) if is_relu(&site.node.op) && max.is_finite() => {
            Some(site.derivative(&arrived.relu())?)
        }
        op if is_relu(op) => Some(vec![Some(site.output.where_above(0.0, &arrived.relu()))]),
        _ => None,
    })
}

/// max(x, 0), however the model spells it, and with an upper bound, as ReLU6.
pub(super) fn is_relu(op: &Op) -> bool {
    match op {
        Op::Unary(Unary::Relu) => true,
        Op::Unary(Unary::Clamp { min, max }) => *min == 0.0 && *max > 0.0,
        _ => false,
    }
}

/// What arrives at the input of the derivative of the score, by a rule.
pub(super) fn passed_back<const D: usize>(
    graph: &Graph,
    input: &Tensor<D>,
    goal: &Goal,
    run: &Run,
    rule: &dyn Rule,
) -> Result<Tensor<D>, Error> {
    Ok(passed_back_to(graph, graph.input(), input, goal, run, rule)?.tensor())
}

/// What arrives at a node.
pub(super) fn passed_back_to<const D: usize>(
    graph: &Graph,
    node: NodeId,
    input: &Tensor<D>,
    goal: &Goal,
    run: &Run,
    rule: &dyn Rule,
) -> Result<Value, Error> {
    let mut parts = Vec::new();
    let total = input.dims()[0];
    run.batches(Stage::Attributing, total, run.rows(input), |range| {
        let batch = input.clone().narrow(0, range.start, range.len());
        run.count(Evaluations {
            forward: 0,
            gradient: range.len(),
        });
        let all = graph.activations(batch.into())?;
        let output = all.get(graph.output()).ok_or(Error::NotDifferentiable)?;
        let goal = goal.slice(range.start, range.end);
        let seed = goal.seed(&output.clone().tensor())?;
        let seeds = vec![(graph.output(), seed.into())];
        let arrived = graph.backward(&all, seeds, rule, &[node])?;
        let found = arrived.into_iter().flatten().next();
        parts.push(found.ok_or(Error::NotDifferentiable)?);
        Ok(())
    })?;
    Ok(Value::cat(parts, 0))
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, activation};

    use super::*;
    use crate::{
        Gradient, Target,
        methods::{
            cam::testing::{Reused, assert_splits_agree, graph},
            testing::{Net, assert_close, image},
        },
    };

    /// The same network with every ReLU written as z relu'(z), whose backward pass is made by
    /// hand: the rectified gradient of its tail, times the mask, through its head.
    #[test]
    fn is_the_chain_of_rectified_gradients() {
        let graph = graph();
        let x = image(2, 3);
        let class = vec![1, 2];
        let part = |from: &str, to: &str, at: Tensor<4>| -> Tensor<4> {
            let ids = [from, to].map(|name| graph.layer(&name.into()).unwrap());
            graph
                .evaluate(&[(ids[0], at.into())], &[ids[1]])
                .remove(0)
                .tensor()
        };
        // Before the last ReLU: add_1; before the first: norm.
        let norm = part("input", "norm", x.clone());
        let sum = part("norm", "add_1", norm.clone());
        let tail = |z: Tensor<4>| -> Tensor<2> {
            let id = graph.layer(&"relu_2".into()).unwrap();
            graph
                .evaluate(&[(id, z.into())], &[graph.output()])
                .remove(0)
                .tensor()
        };
        let above = activation::relu(sum.clone());
        let g = Gradient
            .explain(&tail, above, class.clone())
            .unwrap()
            .values;
        let g = g.clamp_min(0.0) * sum.greater_elem(0.0).float();
        // Through add_1 and the branch down to relu_1's output.
        let product = |f: &dyn Fn(Tensor<4>) -> Tensor<4>, at: Tensor<4>, g: Tensor<4>| {
            let score =
                |z: Tensor<4>| -> Tensor<2> { (f(z) * g.clone()).flatten::<2>(1, 3).sum_dim(1) };
            Gradient
                .explain(&score, at, Target::Regression)
                .unwrap()
                .values
        };
        let middle = |z: Tensor<4>| part("relu_1", "add_1", z);
        let g = product(&middle, activation::relu(norm.clone()), g);
        let g = g.clamp_min(0.0) * norm.greater_elem(0.0).float();
        let want = product(&|z| part("input", "norm", z), x.clone(), g);
        let got = GuidedBackprop.explain(&graph, x, class).unwrap();
        assert_eq!(got.evaluations.gradient, 2);
        assert_close(got.values, want, 1e-5);
    }

    #[test]
    fn other_activations_have_their_derivative() {
        let net = Net::smooth(&Device::flex());
        let smooth = Graph::trace(&net, |m, x| m.forward(x), &image(1, 0)).unwrap();
        let want = Gradient.explain(&net, image(2, 1), 1).unwrap().values;
        let got = GuidedBackprop
            .explain(&smooth, image(2, 1), 1)
            .unwrap()
            .values;
        assert_close(got, want, 1e-5);
    }

    #[test]
    fn clamping_at_zero_is_a_relu() {
        let net = Net::relu(&Device::flex());
        let trace = |clamp: bool| {
            let forward = move |m: &Net, x: Tensor<4>| {
                let y = m.forward(x);
                match clamp {
                    true => y.clamp_min(0.0),
                    false => activation::relu(y),
                }
            };
            Graph::trace(&net, forward, &image(1, 0)).unwrap()
        };
        let explain = |graph: Graph| {
            let target = Target::Weighted(vec![1.0, -1.0, 1.0, -1.0]);
            GuidedBackprop
                .explain(&graph, image(3, 1), target)
                .unwrap()
                .values
        };
        assert_close(explain(trace(true)), explain(trace(false)), 1e-6);
    }

    #[test]
    fn does_not_depend_on_the_batch_split() {
        assert_splits_agree(&GuidedBackprop, 1e-5);
    }

    #[test]
    fn every_kind_of_target_has_a_seed() {
        let graph = Reused::graph();
        let explain = |target: Target| {
            GuidedBackprop
                .explain(&graph, image(2, 1), target)
                .unwrap()
                .values
        };
        let weighted = explain(Target::Weighted(vec![0.0, 1.0, 0.0, 0.0]));
        let custom = Target::custom("second", |y: Tensor<2>| {
            let rows = y.dims()[0];
            y.narrow(1, 1, 1).reshape([rows])
        });
        assert_close(weighted, explain(1.into()), 1e-6);
        assert_close(explain(custom), explain(1.into()), 1e-6);
    }

    /// Inputs below, within and above the bounds, with gradients of both signs.
    #[test]
    fn a_relu_with_an_upper_bound_is_one() {
        let device = Device::flex();
        let mut head = burn::nn::LinearConfig::new(6, 1)
            .with_bias(false)
            .init(&device);
        let weight = [[3.0], [-1.0], [2.0], [2.0], [-2.0], [1.0]];
        head.weight = burn::module::Param::from_tensor(Tensor::from_floats(weight, &device));
        let x = Tensor::<2>::from_floats([[1.0, 2.0, -1.0, 7.0, 8.0, 5.0]], &device);
        let trace = |m: &burn::nn::Linear, x: Tensor<2>| m.forward(x.clamp(0.0, 6.0));
        let graph = Graph::trace(&head, trace, &x).unwrap();
        let guided = GuidedBackprop.explain(&graph, x.clone(), 0).unwrap();
        assert_eq!(guided.to_vec().unwrap(), [3.0, 0.0, 0.0, 0.0, 0.0, 1.0]);
        let deconvnet = crate::Deconvnet.explain(&graph, x, 0).unwrap();
        assert_eq!(deconvnet.to_vec().unwrap(), [3.0, 0.0, 2.0, 2.0, 0.0, 1.0]);
    }
}
