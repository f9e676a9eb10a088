use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

use crate::{
    attribution::{Evaluations, Evidence, Outcome},
    baseline::{Baseline, check_some, one_or_many},
    error::Error,
    graph::{Activations, Graph, NodeId, Value, inside},
    host::widened,
    method::Method,
    methods::layer_map::flat,
    model::Model,
    recipe::{Recipe, Registered},
    run::{Run, Stage, guarded},
    sampling::row_sums,
    target::Goal,
};

mod rules;
#[cfg(test)]
mod tests;

use rules::Lift;

/// DeepLIFT: what each input adds to the difference from a baseline, by multipliers in place
/// of derivatives.
///
/// Every operation y = f(x) passes a multiplier m back such that m * (x - x0) summed over its
/// inputs is y - y0, where x0 and y0 are the values at the baseline. The values at the input,
/// m * (x - x0), then add up to the score minus the score at the baseline, and a saturated
/// unit still passes what it is worth. Input of any rank. Shrikumar, Greenside and Kundaje,
/// "Learning Important Features Through Propagating Activation Differences" (2017),
/// <https://arxiv.org/abs/1704.02685>, with its rescale rule:
///
/// | operation | multipliers |
/// |---|---|
/// | linear (convolution, BatchNorm, sums, means, reshapes, ...) | the derivative |
/// | function of one number | (y - y0) / (x - x0); the derivative where abs(x - x0) <= `epsilon` |
/// | maximum (pools, reductions) | a rise goes to the place of the maximum now, a fall to where it was; overlapping windows add up |
/// | product of two signals (gates, attention, a square) | the mean of the other factor now and before: Shapley's value of each factor |
/// | a / b | as a times 1/b |
/// | softmax, log-softmax | as exp(x - L), L = log of the summed exp(x), each by its own difference |
/// | layer norm | centring, square, root and product, each by its own rule |
/// | choice by a mask that flips | in proportion to the squared differences of the two choices |
///
/// What has no rule of its own (a product along an axis, say) takes its derivative halfway
/// between baseline and input. `evidence.delta` is the sum of the values minus the difference
/// of the scores: 0 up to rounding where all rules are complete and the score is one output or
/// a weighted sum of them.
///
/// The rules work on the traced graph: a ReLU called as a function, or one module used
/// several times, is as good as any other. Preset `deeplift-captum` has the rules of Captum's
/// `DeepLift`, which adds up for activations and max pools only ([`LiftRules::Captum`]).
///
/// ```
/// use burn::{nn::LinearConfig, tensor::{Device, Tensor, activation::relu}};
/// use saliency_core::{DeepLift, Graph, Method, Target};
///
/// let device = Device::flex();
/// let linear = LinearConfig::new(2, 1).init(&device);
/// // y = 1 - relu(1 - (x0 + x1)) is saturated at (1, 1): its gradient there is zero.
/// let x = Tensor::<2>::from_floats([[1.0, 1.0]], &device);
/// let saturated = |_: &burn::nn::Linear, x: Tensor<2>| {
///     relu(x.sum_dim(1).neg().add_scalar(1.0)).neg().add_scalar(1.0)
/// };
/// let graph = Graph::trace(&linear, saturated, &x)?;
/// let map = DeepLift::new().explain(&graph, x, Target::Regression)?;
/// assert_eq!(map.to_vec()?, [0.5, 0.5]);
/// assert_eq!(map.evidence.delta, Some(vec![0.0]));
/// # Ok::<(), saliency_core::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DeepLift {
    /// What the input is compared with; the maps of several are averaged.
    #[serde(deserialize_with = "one_or_many")]
    pub baselines: Vec<Baseline>,
    /// Whether to multiply with x - x0; else the values are the multipliers.
    pub multiply_by_inputs: bool,
    /// Differences up to this count as none, and the derivative takes their place.
    pub epsilon: f64,
    /// Which operations have a rule of their own.
    pub rules: LiftRules,
}

/// Which operations have a rule of their own in [`DeepLift`]; all others pass the derivative.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LiftRules {
    /// All that are not linear, so that the values add up.
    #[default]
    Complete,
    /// Those that Captum 0.9 knows: ReLU, leaky ReLU, ELU, sigmoid, tanh, softplus, max pools,
    /// and softmax, whose multipliers are centred (over the row; Captum does so over the batch).
    ///
    /// Two faults of its max pools are not copied: a position that wins several overlapping
    /// windows gets the sum of their shares, where Captum keeps one of them, and the rule holds
    /// right behind an activation too, where Captum's hooks pass the pool's plain gradient.
    Captum,
}

/// A batch holds the activations of its rows twice: at the input and at the baseline.
pub(super) const PASSES: usize = 2;

impl Default for DeepLift {
    fn default() -> Self {
        DeepLift {
            baselines: vec![Baseline::Zero],
            multiply_by_inputs: true,
            epsilon: 1e-6,
            rules: LiftRules::Complete,
        }
    }
}

impl DeepLift {
    /// From a zero baseline.
    pub fn new() -> Self {
        Self::default()
    }

    /// Captum's rules and its epsilon.
    pub fn captum() -> Self {
        DeepLift {
            epsilon: 1e-10,
            rules: LiftRules::Captum,
            ..Self::default()
        }
    }

    /// What the input is compared with.
    pub fn baseline(self, baseline: Baseline) -> Self {
        self.baselines([baseline])
    }

    /// What the input is compared with; the maps of several are averaged.
    pub fn baselines(mut self, baselines: impl Into<Vec<Baseline>>) -> Self {
        self.baselines = baselines.into();
        self
    }

    /// Whether to multiply with x - x0.
    pub fn multiply_by_inputs(mut self, multiply_by_inputs: bool) -> Self {
        self.multiply_by_inputs = multiply_by_inputs;
        self
    }

    /// Differences up to this count as none.
    pub fn epsilon(mut self, epsilon: f64) -> Self {
        self.epsilon = epsilon;
        self
    }

    /// Which operations have a rule of their own.
    pub fn rules(mut self, rules: LiftRules) -> Self {
        self.rules = rules;
        self
    }

    pub(super) fn check(&self) -> Result<(), Error> {
        check_some(&self.baselines)?;
        match self.epsilon.is_finite() && self.epsilon >= 0.0 {
            true => Ok(()),
            false => Err(Error::option(
                "epsilon",
                self.epsilon,
                "it must be a finite number of at least 0",
            )),
        }
    }

    /// Values of one batch against baselines of the same shape, and for each row the score
    /// minus the score at the baseline.
    pub(super) fn lift<const D: usize>(
        &self,
        graph: &Graph,
        pair: (Tensor<D>, Tensor<D>),
        goal: &Goal,
        run: &Run,
    ) -> Result<(Tensor<D>, Vec<f64>), Error> {
        let (values, ends) = self.lift_to(graph, graph.input(), pair, goal, run)?;
        Ok((values.tensor(), ends))
    }

    /// The same at a node: multipliers there times the differences there.
    fn lift_to<const D: usize>(
        &self,
        graph: &Graph,
        node: NodeId,
        (input, baseline): (Tensor<D>, Tensor<D>),
        goal: &Goal,
        run: &Run,
    ) -> Result<(Value, Vec<f64>), Error> {
        let rows = input.dims()[0];
        run.count(Evaluations {
            forward: rows,
            gradient: rows,
        });
        if let Some(plan) = graph.plan(&input).filter(|plan| plan.lifts())
            && node == graph.input()
        {
            let way = input.clone() - baseline.clone();
            let (outputs, multipliers) = guarded(&input.dims(), || {
                plan.lifted([input, baseline], self.epsilon, |range, outputs| {
                    goal.slice(range.start, range.end).seed(outputs)
                })
            })??;
            let values = match self.multiply_by_inputs {
                true => multipliers * way,
                false => multipliers,
            };
            return Ok((values.into(), differences(goal, outputs)?));
        }
        let (graph, node) = match node == graph.input() {
            true => (graph.folded_once(), graph.folded_once().input()),
            false => (graph, node),
        };
        let now = graph.activations(input.into())?;
        let before = graph.activations(baseline.into())?;
        let value = |all: &Activations, id| match all.get(id) {
            Some(value) => Ok(value.clone()),
            None => Err(Error::NotDifferentiable),
        };
        let output = |all| Ok::<_, Error>(value(all, graph.output())?.tensor::<2>());
        let (now_out, before_out) = (output(&now)?, output(&before)?);
        let seed = goal.seed(&now_out)?;
        let rule = Lift {
            before: &before,
            epsilon: self.epsilon,
            rules: self.rules,
        };
        let multipliers = graph
            .backward(&now, vec![(graph.output(), seed.into())], &rule, &[node])?
            .remove(0)
            .ok_or(Error::NotDifferentiable)?;
        let multipliers = Value::from(widened(multipliers.typed()));
        let values = match self.multiply_by_inputs {
            true => {
                let way = &value(&now, node)? - &value(&before, node)?;
                &multipliers * &Value::from(widened(way.typed()))
            }
            false => multipliers,
        };
        Ok((values, differences(goal, [now_out, before_out])?))
    }
}

/// Scores at the first outputs minus those at the second.
fn differences(goal: &Goal, outputs: [Tensor<2>; 2]) -> Result<Vec<f64>, Error> {
    let scores = |outputs| -> Result<Vec<f64>, Error> {
        let scores = goal.scores(outputs)?;
        scores.try_into_vec_as::<f64>().map_err(Error::device)
    };
    let [now, before] = outputs;
    let pairs = scores(now)?.into_iter().zip(scores(before)?);
    Ok(pairs.map(|(now, before)| now - before).collect())
}

impl Registered for DeepLift {}

impl<const D: usize> Method<D> for DeepLift {
    fn recipe(&self) -> Recipe {
        Recipe::DeepLift(self.clone())
    }

    fn validate(&self) -> Result<(), Error> {
        self.check()
    }

    fn attribute(
        &self,
        model: &dyn Model<D>,
        input: &Tensor<D>,
        goal: &Goal,
        run: &Run,
    ) -> Result<Outcome<D>, Error> {
        let graph = inside(model, "deeplift")?;
        let (values, delta) = self.at(graph, graph.input(), input, goal, run)?;
        Ok(Outcome {
            values: values.tensor(),
            evidence: Evidence {
                delta,
                ..Evidence::default()
            },
        })
    }
}

impl DeepLift {
    /// Values at a node, averaged over the baselines, and what is missing of the difference of
    /// the scores.
    pub(super) fn at<const D: usize>(
        &self,
        graph: &Graph,
        node: NodeId,
        input: &Tensor<D>,
        goal: &Goal,
        run: &Run,
    ) -> Result<(Value, Option<Vec<f64>>), Error> {
        self.check()?;
        let count = self.baselines.len() as f64;
        let (mut parts, mut deltas) = (Vec::new(), Vec::new());
        let (total, run) = (input.dims()[0], &run.holding(PASSES));
        run.batches(Stage::Attributing, total, run.rows(input), |range| {
            let batch = input.clone().narrow(0, range.start, range.len());
            let goal = goal.slice(range.start, range.end);
            let mut sum: Option<Value> = None;
            let mut differences = vec![0.0; range.len()];
            for baseline in &self.baselines {
                let pair = (batch.clone(), baseline.of(&batch)?);
                let (values, found) = self.lift_to(graph, node, pair, &goal, run)?;
                sum = Some(match sum.take() {
                    Some(before) => &before + &values,
                    None => values,
                });
                for (total, difference) in differences.iter_mut().zip(found) {
                    *total += difference / count;
                }
            }
            let mean = sum.expect("there is a baseline").times(1.0 / count);
            let sums = row_sums(&flat(&mean, range.len()))?;
            deltas.extend(sums.iter().zip(differences).map(|(s, d)| s - d));
            parts.push(mean);
            Ok(())
        })?;
        let deltas = self.multiply_by_inputs.then_some(deltas);
        Ok((Value::cat(parts, 0), deltas))
    }
}
