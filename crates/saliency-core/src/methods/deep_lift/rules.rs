//! What each operation passes back in DeepLIFT, from its values at the input and at the
//! baseline.

use super::LiftRules;
use crate::{
    error::Error,
    graph::{Activations, Along, Binary, Op, Reduce, Rule, Site, Unary, Value},
};

/// The rules, knowing the values of all nodes at the baseline.
pub(super) struct Lift<'a> {
    pub(super) before: &'a Activations,
    pub(super) epsilon: f64,
    pub(super) rules: LiftRules,
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
            Op::GroupNorm { groups, epsilon } if only_first => {
                Ok(Some(self.group_norm(m, *groups, *epsilon)))
            }
            Op::RmsNorm { epsilon } if only_first => {
                let axes = [m.rank() - 1];
                let m = m * &self.site.inputs[1];
                Ok(Some(self.standardised(&m, &axes, *epsilon, false)))
            }
            Op::Standardise {
                axes,
                epsilon,
                centred,
            } => Ok(Some(self.standardised(m, axes, *epsilon, *centred))),
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
                | Unary::Elu { .. }
                | Unary::Softplus { .. },
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

    /// Times gamma, the rest as standardising.
    fn layer_norm(&self, m: &Value, epsilon: f64) -> Vec<Option<Value>> {
        let axis = m.rank() - 1;
        self.standardised(&(m * &self.site.inputs[1]), &[axis], epsilon, true)
    }

    fn group_norm(&self, m: &Value, groups: usize, epsilon: f64) -> Vec<Option<Value>> {
        let shape = m.shape();
        let mut channels = vec![1; shape.len()];
        channels[1] = shape[1];
        let m = match self.site.inputs.get(1) {
            Some(gamma) => m * &gamma.clone().reshape(&channels),
            None => m.clone(),
        };
        let inside = shape[1..].iter().product::<usize>() / groups;
        let grouped = |v: &Value| v.clone().reshape(&[shape[0], groups, inside]);
        let [m, x, x0] = [&m, &self.site.inputs[0], &self.inputs[0]].map(grouped);
        let passed = standardised(&m, [&x, &x0], &[2], epsilon, true);
        self.first(passed.reshape(&shape))
    }

    fn standardised(
        &self,
        m: &Value,
        axes: &[usize],
        epsilon: f64,
        centred: bool,
    ) -> Vec<Option<Value>> {
        let inputs = [&self.site.inputs[0], &self.inputs[0]];
        self.first(standardised(m, inputs, axes, epsilon, centred))
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

/// y = c s with c = x - mean x (or x itself) and s = 1 / sqrt(mean c^2 + epsilon), at the
/// input and at the baseline.
fn standardised(
    m: &Value,
    inputs: [&Value; 2],
    axes: &[usize],
    epsilon: f64,
    centred: bool,
) -> Value {
    let [(c, s), (c0, s0)] = inputs.map(|x| {
        let c = match centred {
            true => x - &x.mean_dims(axes),
            false => x.clone(),
        };
        let square = (&c * &c).mean_dims(axes).plus(epsilon);
        let s = Value::from(square.typed().sqrt()).recip();
        (c, s)
    });
    let centre = mean(&c, &c0);
    let of_s = (m * &centre).sum_dims(axes);
    // (s - s0) / (v - v0) = -s^2 s0^2 / (s + s0) for s = v^(-1/2).
    let product = &s * &s0;
    let of_v = &of_s * &(&(&product * &product) / &(&s + &s0)).times(-1.0);
    let shape = m.shape();
    let width: usize = axes.iter().map(|&axis| shape[axis]).product();
    let of_square = &of_v * &centre.times(2.0 / width as f64);
    let of_c = &(m * &mean(&s, &s0)) + &of_square;
    match centred {
        true => &of_c - &of_c.mean_dims(axes),
        false => of_c,
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
