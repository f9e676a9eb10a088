use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

use crate::{
    attribution::{Evaluations, Evidence, Outcome},
    baseline::Baseline,
    error::Error,
    graph::{Activations, Along, Binary, Graph, Op, Reduce, Rule, Site, Unary, Value, inside},
    host::widened,
    method::Method,
    model::Model,
    recipe::{Recipe, Registered},
    run::{Run, Stage, join},
    target::Goal,
};

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
    pub baselines: Vec<Baseline>,
    /// Whether to multiply with x - x0; else the values are the multipliers.
    pub times_input: bool,
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

impl Default for DeepLift {
    fn default() -> Self {
        DeepLift {
            baselines: vec![Baseline::Zero],
            times_input: true,
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
    pub fn times_input(mut self, times_input: bool) -> Self {
        self.times_input = times_input;
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
        if self.baselines.is_empty() {
            return Err(Error::option("baselines", "[]", "at least one is needed"));
        }
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
        (input, baseline): (Tensor<D>, Tensor<D>),
        goal: &Goal,
        run: &Run,
    ) -> Result<(Tensor<D>, Vec<f64>), Error> {
        let rows = input.dims()[0];
        run.count(Evaluations {
            forward: rows,
            gradient: rows,
        });
        let now = graph.activations(input.clone().into())?;
        let before = graph.activations(baseline.clone().into())?;
        let output = |all: &Activations| match all.get(graph.output()) {
            Some(value) => Ok(value.clone().tensor::<2>()),
            None => Err(Error::trace("the output was not computed".into())),
        };
        let (now_out, before_out) = (output(&now)?, output(&before)?);
        let seed = goal.seed(&now_out)?;
        let rule = Lift {
            before: &before,
            epsilon: self.epsilon,
            rules: self.rules,
        };
        let multipliers = graph
            .backward(
                &now,
                vec![(graph.output(), seed.into())],
                &rule,
                &[graph.input()],
            )?
            .remove(0)
            .ok_or(Error::NotDifferentiable)?
            .tensor::<D>();
        let scores = |outputs| -> Result<Vec<f64>, Error> {
            let scores = goal.scores(outputs)?;
            scores.try_into_vec_as::<f64>().map_err(Error::device)
        };
        let ends = scores(now_out)?.into_iter().zip(scores(before_out)?);
        let values = match self.times_input {
            true => widened(multipliers) * widened(input - baseline),
            false => widened(multipliers),
        };
        Ok((values, ends.map(|(now, before)| now - before).collect()))
    }
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
        self.check()?;
        let graph = inside(model, "deeplift")?;
        let count = self.baselines.len() as f64;
        let (mut parts, mut deltas) = (Vec::new(), Vec::new());
        // A batch holds the activations of its rows twice: at the input and at the baseline.
        let (total, rows) = (input.dims()[0], run.rows(input).div_ceil(2));
        run.batches(Stage::Attributing, total, rows, |range| {
            let batch = input.clone().narrow(0, range.start, range.len());
            let goal = goal.slice(range.start, range.end);
            let mut sum: Option<Tensor<D>> = None;
            let mut differences = vec![0.0; range.len()];
            for baseline in &self.baselines {
                let pair = (batch.clone(), baseline.of(&batch)?);
                let (values, found) = self.lift(graph, pair, &goal, run)?;
                sum = Some(match sum.take() {
                    Some(before) => before + values,
                    None => values,
                });
                for (total, difference) in differences.iter_mut().zip(found) {
                    *total += difference / count;
                }
            }
            let mean = sum.expect("there is a baseline").div_scalar(count);
            deltas.extend(row_sums(&mean)?.iter().zip(differences).map(|(s, d)| s - d));
            parts.push(mean);
            Ok(())
        })?;
        Ok(Outcome {
            values: join(parts),
            evidence: Evidence {
                delta: self.times_input.then_some(deltas),
                ..Evidence::default()
            },
        })
    }
}

/// The sum of each row.
pub(super) fn row_sums<const D: usize>(values: &Tensor<D>) -> Result<Vec<f64>, Error> {
    let rows = values.dims()[0];
    let flat = values.clone().reshape([rows as i32, -1]);
    flat.sum_dim(1)
        .try_into_vec_as::<f64>()
        .map_err(Error::device)
}

/// The rules, knowing the values of all nodes at the baseline.
struct Lift<'a> {
    before: &'a Activations,
    epsilon: f64,
    rules: LiftRules,
}

type Passed = Result<Option<Vec<Option<Value>>>, Error>;

impl Rule for Lift<'_> {
    fn backward(&self, site: &Site, multiplier: &Value) -> Passed {
        let inputs: Option<Vec<Value>> = site
            .node
            .inputs
            .iter()
            .map(|id| self.before.get(*id).cloned())
            .collect();
        let (Some(inputs), Some(output)) = (inputs, self.before.get(site.id)) else {
            return Err(Error::trace(
                "an activation of the baseline is missing".into(),
            ));
        };
        let pair = Pair {
            site,
            inputs: &inputs,
            output,
            epsilon: self.epsilon,
        };
        match self.rules {
            LiftRules::Complete => pair.complete(multiplier),
            LiftRules::Captum => pair.captum(multiplier),
        }
    }
}

/// One operation at the input (`site`) and at the baseline.
struct Pair<'a> {
    site: &'a Site<'a>,
    inputs: &'a [Value],
    output: &'a Value,
    epsilon: f64,
}

impl Pair<'_> {
    fn complete(&self, m: &Value) -> Passed {
        let needed = self.site.needed;
        let only_first = needed[0] && !needed[1..].contains(&true);
        match &self.site.node.op {
            Op::Unary(Unary::Neg | Unary::Add(_) | Unary::Mul(_) | Unary::Div(_)) => Ok(None),
            Op::Unary(_) => self.elementwise(m),
            Op::PRelu | Op::Binary(Binary::Power) if only_first => self.elementwise(m),
            Op::MaxPool(_) | Op::Reduce(Reduce::Max, _) => self.extreme(m, 1.0),
            Op::Reduce(Reduce::Min, _) => self.extreme(m, -1.0),
            Op::Binary(Binary::Div) if !only_first => Ok(Some(self.quotient(m))),
            Op::Along(Along::Softmax, axis) => Ok(Some(self.softmax(m, *axis, 1.0))),
            Op::Along(Along::Softmin, axis) => Ok(Some(self.softmax(m, *axis, -1.0))),
            Op::Along(Along::LogSoftmax, axis) => Ok(Some(self.log_softmax(m, *axis, 1.0))),
            Op::LayerNorm { epsilon } if only_first => Ok(Some(self.layer_norm(m, *epsilon))),
            Op::MaskFill(_) | Op::MaskWhere => self.choice(m).map(Some),
            Op::Binary(Binary::Add | Binary::Sub) | Op::Cat(_) => Ok(None),
            Op::Reduce(Reduce::Product, _) => self.halfway(m),
            // Linear in the one input that counts.
            _ if only_first => Ok(None),
            // Linear in each of two inputs: the derivative halfway is the mean of the other
            // factor, now and before.
            _ => self.halfway(m),
        }
    }

    fn captum(&self, m: &Value) -> Passed {
        match &self.site.node.op {
            Op::Unary(
                Unary::Relu
                | Unary::LeakyRelu { .. }
                | Unary::Sigmoid
                | Unary::Tanh
                // The parts of Burn's ELU and softplus.
                | Unary::Exp
                | Unary::Log
                | Unary::Log1p,
            ) => self.elementwise(m),
            Op::MaskFill(_) | Op::MaskWhere => self.choice(m).map(Some),
            Op::MaxPool(_) => self.extreme(m, 1.0),
            Op::Along(Along::Softmax, _) => {
                let Some(passed) = self.elementwise(m)? else {
                    return Ok(None);
                };
                let centred = |value: Value| {
                    let axes: Vec<usize> = (1..value.rank()).collect();
                    &value - &value.mean_dims(&axes)
                };
                Ok(Some(passed.into_iter().map(|v| v.map(centred)).collect()))
            }
            _ => Ok(None),
        }
    }

    /// Only the first input gets something.
    fn first(&self, value: Value) -> Vec<Option<Value>> {
        let mut all = vec![None; self.inputs.len()];
        all[0] = Some(value);
        all
    }

    /// x - x0 of an input.
    fn difference(&self, input: usize) -> Value {
        &self.site.inputs[input] - &self.inputs[input]
    }

    /// y - y0.
    fn rise(&self) -> Value {
        self.site.output - self.output
    }

    /// `share` / `difference` where the difference counts, `otherwise` elsewhere.
    fn rescaled(&self, share: &Value, difference: &Value, otherwise: &Value) -> Value {
        difference
            .abs()
            .choose(self.epsilon, &(share / difference), otherwise)
    }

    fn elementwise(&self, m: &Value) -> Passed {
        let Some(derivative) = self.site.derivative(m)?.into_iter().next().flatten() else {
            return Ok(None);
        };
        let share = m * &self.rise();
        let passed = self.rescaled(&share, &self.difference(0), &derivative);
        Ok(Some(self.first(passed)))
    }

    /// Of a maximum (`sign` 1) or a minimum (-1): where it moved outwards the place that holds
    /// it now did so, where it moved inwards the one that held it before.
    fn extreme(&self, m: &Value, sign: f64) -> Passed {
        let rise = self.rise().times(sign);
        let outwards = m * &rise.relu().times(sign);
        let inwards = m * &rise.negative_part().times(sign);
        let first = |values: Vec<Option<Value>>| values.into_iter().next().flatten();
        let (Some(now), Some(before), Some(derivative)) = (
            first(self.site.derivative(&outwards)?),
            first(self.site.derivative_at(self.inputs, &inwards)?),
            first(self.site.derivative(m)?),
        ) else {
            return Ok(None);
        };
        let passed = self.rescaled(&(&now + &before), &self.difference(0), &derivative);
        Ok(Some(self.first(passed)))
    }

    fn halfway(&self, m: &Value) -> Passed {
        let middle: Vec<Value> = self
            .site
            .inputs
            .iter()
            .zip(self.inputs)
            .map(|(now, before)| match now.is_float() {
                true => mean(now, before),
                false => now.clone(),
            })
            .collect();
        self.site.derivative_at(&middle, m).map(Some)
    }

    fn quotient(&self, m: &Value) -> Vec<Option<Value>> {
        let [a, b] = [0, 1].map(|i| (&self.site.inputs[i], &self.inputs[i]));
        let inverse = mean(&b.0.recip(), &b.1.recip());
        let of_b = &(m * &mean(a.0, a.1)) / &(b.0 * b.1);
        vec![
            Some((m * &inverse).sum_to(&a.0.shape())),
            Some(of_b.times(-1.0).sum_to(&b.0.shape())),
        ]
    }

    /// y = exp(u), u the log-softmax.
    fn softmax(&self, m: &Value, axis: usize, sign: f64) -> Vec<Option<Value>> {
        let [u, u0] = [&self.site.inputs[0], &self.inputs[0]].map(|x| {
            let x = x.times(sign);
            &x - &log_sum_exp(&x, axis)
        });
        let share = m * &self.rise();
        let of_u = self.rescaled(&share, &(&u - &u0), &(m * self.site.output));
        self.log_softmax(&of_u, axis, sign)
    }

    /// u = x - L, L = log sum exp(x): an input's share in L is its share in the sum, the
    /// logarithm and the exponential rescaled as all functions are.
    fn log_softmax(&self, m: &Value, axis: usize, sign: f64) -> Vec<Option<Value>> {
        let [x, x0] = [&self.site.inputs[0], &self.inputs[0]].map(|x| x.times(sign));
        let (l, l0) = (log_sum_exp(&x, axis), log_sum_exp(&x0, axis));
        // The sums relative to the larger one of them, so that neither overflows.
        let top = maximum(&l, &l0);
        let [e, e0, s, s0] = [&x, &x0, &l, &l0].map(|v| exp(&(v - &top)));
        let of_exp = self.rescaled(&(&e - &e0), &(&x - &x0), &e);
        let of_log = self.rescaled(&(&s - &s0), &(&l - &l0), &s);
        let of_l = &(&m.sum_dims(&[axis]) * &of_exp) / &of_log;
        self.first((m - &of_l).times(sign))
    }

    /// y = gamma c s + beta with c = x - mean x and s = 1 / sqrt(mean c^2 + epsilon).
    fn layer_norm(&self, m: &Value, epsilon: f64) -> Vec<Option<Value>> {
        let axis = m.rank() - 1;
        let parts = |x: &Value| {
            let c = x - &x.mean_dims(&[axis]);
            let variance = (&c * &c).mean_dims(&[axis]).plus(epsilon);
            let s = Value::from(variance.typed().sqrt()).recip();
            (c, s)
        };
        let ((c, s), (c0, s0)) = (parts(&self.site.inputs[0]), parts(&self.inputs[0]));
        let m = m * &self.site.inputs[1];
        let centre = mean(&c, &c0);
        let of_s = (&m * &centre).sum_dims(&[axis]);
        // (s - s0) / (v - v0) = -s^2 s0^2 / (s + s0) for s = v^(-1/2).
        let product = &s * &s0;
        let of_v = &of_s * &(&(&product * &product) / &(&s + &s0)).times(-1.0);
        let width = self.site.inputs[0].shape()[axis] as f64;
        let of_square = &of_v * &centre.times(2.0 / width);
        let of_c = &(&m * &mean(&s, &s0)) + &of_square;
        let passed = &of_c - &of_c.mean_dims(&[axis]);
        self.first(passed)
    }

    /// x where a mask is false, another value v where it is true. Where the mask is the same
    /// now and before, the chosen one passes its multiplier; where it flipped, y - y0 goes to
    /// x and v in proportion to the squares of x - x0 and v - v0, which for two functions of
    /// one number comes to the rescale rule of the whole.
    fn choice(&self, m: &Value) -> Result<Vec<Option<Value>>, Error> {
        let dtype = m.dtype();
        let [now, before] = [&self.site.inputs[1], &self.inputs[1]].map(|mask| mask.number(dtype));
        let flipped = (&now - &before).abs();
        let stayed = flipped.times(-1.0).plus(1.0);
        let mut passed = self.site.derivative(&(m * &stayed))?;
        let choices: Vec<usize> = [0, 2]
            .into_iter()
            .filter(|&i| self.site.needed.get(i) == Some(&true))
            .collect();
        let differences: Vec<Value> = choices.iter().map(|&i| self.difference(i)).collect();
        let Some(squares) = differences.iter().map(|d| d * d).reduce(|a, b| &a + &b) else {
            return Ok(passed);
        };
        let share = &(m * &self.rise()) * &flipped;
        let zeros = squares.zeros_like();
        for (&i, difference) in choices.iter().zip(&differences) {
            // Squares smaller than this are those of differences that do not count.
            let ratio = &(&share * difference) / &squares;
            let extra = squares.choose(self.epsilon * self.epsilon, &ratio, &zeros);
            let extra = extra.sum_to(&self.site.inputs[i].shape());
            passed[i] = Some(match passed[i].take() {
                Some(value) => &value + &extra,
                None => extra,
            });
        }
        Ok(passed)
    }
}

fn mean(a: &Value, b: &Value) -> Value {
    (a + b).times(0.5)
}

fn maximum(a: &Value, b: &Value) -> Value {
    &(a - b).relu() + b
}

fn exp(x: &Value) -> Value {
    Value::from(x.typed().exp())
}

/// log sum exp(x) along an axis, which stays with size one.
fn log_sum_exp(x: &Value, axis: usize) -> Value {
    let top = x.max_dim(axis);
    let sum = exp(&(x - &top)).sum_dims(&[axis]);
    &Value::from(sum.typed().log()) + &top
}

#[cfg(test)]
mod tests {
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
                .times_input(false);
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
        let map = DeepLift::new().times_input(false).explain(&graph, x, 4);
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
}
