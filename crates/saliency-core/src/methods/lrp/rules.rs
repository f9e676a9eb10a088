use serde::{Deserialize, Serialize};

use super::BiasShare;
use crate::{
    error::Error,
    graph::{Site, Value},
};

/// How one layer z = x W + b shares out the relevance R that arrives at its output.
///
/// Every rule is a choice of changed inputs x', weights w' and biases b' in one formula,
///
/// R_i = sum over terms of x'_i * sum_j w'_ij R_j / z'_j, with z' the sum of the terms' own
/// outputs x' w' + b',
///
/// where a denominator z' is moved away from zero by a small epsilon of its own sign.
/// With x+ = max(x, 0) and x- = min(x, 0):
///
/// | rule | terms |
/// |---|---|
/// | `Epsilon` | x w + b, with an epsilon of its own |
/// | `Gamma` | where z > 0: x+ (w + gamma w+) + x- (w + gamma w-) + b + gamma b+; where z < 0 the same with w+ and w- (and b-) exchanged |
/// | `ZPlus` | x+ w+ + x- w- + b+ |
/// | `AlphaBeta` | alpha times the rule over x+ w+ + x- w- + b+, minus beta times the rule over x+ w- + x- w+ + b- |
/// | `ZBox` | x w + b - (low w+ + b+) - (high w- + b-) |
/// | `WSquare` | 1 w^2 + b^2 |
/// | `Flat` | 1 * 1 |
///
/// Pools and sums take them too: their weights are positive numbers, the bias of a sum is
/// what does not depend on the input.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum LrpRule {
    /// Shares in proportion to x w. Bach et al. (2015); epsilon 0 is LRP-0.
    Epsilon(f64),
    /// Favours what agrees with the output's sign. Montavon et al. (2019), for inputs of any
    /// sign as Andéol et al. (2021) have it.
    Gamma(f64),
    /// Positive contributions only: alpha 1, beta 0.
    ZPlus,
    /// Positive contributions times alpha, negative ones times beta; alpha - beta = 1.
    AlphaBeta {
        /// Of the positive contributions.
        alpha: f64,
        /// Of the negative ones.
        beta: f64,
    },
    /// For inputs between two bounds. Montavon et al. (2017).
    ZBox {
        /// The lowest value there can be: one number, one for each channel, or none, which
        /// stands for the smallest value of each row's own input.
        low: Vec<f64>,
        /// The highest.
        high: Vec<f64>,
    },
    /// In proportion to the squared weights, whatever the input. Montavon et al. (2017).
    WSquare,
    /// Evenly. Lapuschkin et al. (2019).
    Flat,
    /// Unchanged: for layers whose input has the shape of their output.
    Pass,
    /// The ordinary derivative, as if the relevance was a gradient.
    Gradient,
}

impl LrpRule {
    /// alpha 2, beta 1.
    pub fn alpha2_beta1() -> Self {
        LrpRule::AlphaBeta {
            alpha: 2.0,
            beta: 1.0,
        }
    }

    pub(super) fn validate(&self) -> Result<(), Error> {
        let not_negative = |option, value: f64| match value >= 0.0 && value.is_finite() {
            true => Ok(()),
            false => Err(Error::option(option, value, "it must be 0 or more")),
        };
        match self {
            LrpRule::Epsilon(epsilon) => not_negative("epsilon", *epsilon),
            LrpRule::Gamma(gamma) => not_negative("gamma", *gamma),
            LrpRule::AlphaBeta { alpha, beta } => {
                not_negative("alpha", *alpha)?;
                not_negative("beta", *beta)?;
                match (alpha - beta - 1.0).abs() < 1e-9 {
                    true => Ok(()),
                    false => Err(Error::option(
                        "alpha",
                        alpha,
                        "alpha minus beta must be 1, or relevance would grow or shrink",
                    )),
                }
            }
            LrpRule::ZBox { low, high } => {
                if let Some(bad) = low.iter().chain(high).find(|bound| !bound.is_finite()) {
                    return Err(Error::option("low, high", bad, "they must be finite"));
                }
                let pairs = low.len().max(high.len());
                let at = |bounds: &[f64], i: usize| bounds[i.min(bounds.len() - 1)];
                let ordered = low.is_empty()
                    || high.is_empty()
                    || (0..pairs).all(|i| at(low, i) < at(high, i));
                match ordered {
                    true => Ok(()),
                    false => Err(Error::option(
                        "low",
                        format!("{low:?}"),
                        "each bound must be below the one in high",
                    )),
                }
            }
            _ => Ok(()),
        }
    }

    /// Whether layers take it by the formula above.
    pub(super) fn shares(&self) -> bool {
        !matches!(self, LrpRule::Pass | LrpRule::Gradient)
    }

    fn groups(&self) -> Vec<Group<'_>> {
        use {Part::*, Weight as W};
        let one = |terms| vec![Group::new(1.0, terms)];
        let favoured = vec![
            Term::new(Positive, W::Positive),
            Term::new(Negative, W::Negative).without_bias(),
        ];
        match self {
            LrpRule::Epsilon(_) => one(vec![Term::new(All, W::Same)]),
            LrpRule::Gamma(gamma) => {
                let (plus, minus) = (W::PlusPositive(*gamma), W::PlusNegative(*gamma));
                let above = vec![
                    Term::new(Positive, plus),
                    Term::new(Negative, minus).without_bias(),
                ];
                let below = vec![
                    Term::new(Positive, minus),
                    Term::new(Negative, plus).without_bias(),
                ];
                vec![
                    Group::new(1.0, above).only_where(1.0),
                    Group::new(1.0, below).only_where(-1.0),
                ]
            }
            LrpRule::ZPlus => one(favoured),
            LrpRule::AlphaBeta { alpha, beta } => {
                let opposed = vec![
                    Term::new(Positive, W::Negative),
                    Term::new(Negative, W::Positive).without_bias(),
                ];
                let mut groups = vec![Group::new(*alpha, favoured)];
                if *beta > 0.0 {
                    groups.push(Group::new(-beta, opposed));
                }
                groups
            }
            LrpRule::ZBox { low, high } => one(vec![
                Term::new(All, W::Same),
                Term::new(Low(low), W::Positive).subtracted(),
                Term::new(High(high), W::Negative).subtracted(),
            ]),
            LrpRule::WSquare => one(vec![Term::new(One, W::Square)]),
            LrpRule::Flat => one(vec![Term::new(One, W::One).without_bias()]),
            LrpRule::Pass | LrpRule::Gradient => Vec::new(),
        }
    }
}

/// Terms with one denominator.
struct Group<'a> {
    times: f64,
    terms: Vec<Term<'a>>,
    /// Only where the layer's output has this sign.
    sign: Option<f64>,
}

impl<'a> Group<'a> {
    fn new(times: f64, terms: Vec<Term<'a>>) -> Self {
        Group {
            times,
            terms,
            sign: None,
        }
    }

    fn only_where(mut self, sign: f64) -> Self {
        self.sign = Some(sign);
        self
    }
}

/// One changed forward pass.
#[derive(Clone, Copy)]
struct Term<'a> {
    part: Part<'a>,
    weight: Weight,
    bias: bool,
    sign: f64,
}

impl<'a> Term<'a> {
    fn new(part: Part<'a>, weight: Weight) -> Self {
        Term {
            part,
            weight,
            bias: true,
            sign: 1.0,
        }
    }

    fn without_bias(mut self) -> Self {
        self.bias = false;
        self
    }

    fn subtracted(mut self) -> Self {
        self.sign = -1.0;
        self
    }
}

/// The changed input.
#[derive(Clone, Copy)]
enum Part<'a> {
    All,
    Positive,
    Negative,
    One,
    Low(&'a [f64]),
    High(&'a [f64]),
}

impl Part<'_> {
    fn of(self, x: &Value, channels: usize) -> Result<Value, Error> {
        Ok(match self {
            Part::All => x.clone(),
            Part::Positive => x.relu(),
            Part::Negative => x.negative_part(),
            Part::One => x.full_like(1.0),
            Part::Low(bounds) => bound(x, channels, bounds, "low", -1.0)?,
            Part::High(bounds) => bound(x, channels, bounds, "high", 1.0)?,
        })
    }
}

/// A bound in the shape of `x`; without numbers, each row's own extreme in the direction.
fn bound(
    x: &Value,
    channels: usize,
    bounds: &[f64],
    option: &'static str,
    direction: f64,
) -> Result<Value, Error> {
    let shape = x.shape();
    match bounds.len() {
        0 => {
            let flat = [shape[0], shape[1..].iter().product()];
            let extreme = x.times(direction).reshape(&flat).tensor::<2>().max_dim(1);
            let mut per_row = vec![1; shape.len()];
            per_row[0] = shape[0];
            let extreme = Value::from(extreme).reshape(&per_row);
            Ok(extreme.times(direction).expand(&shape))
        }
        1 => Ok(x.full_like(bounds[0])),
        count if count == shape[channels] => {
            let parts = bounds
                .iter()
                .map(|&b| x.clone().narrow(channels, 0, 1).full_like(b))
                .collect();
            Ok(Value::cat(parts, channels))
        }
        _ => Err(Error::option(
            option,
            format!("{bounds:?}"),
            "give one number, or one for each channel of the layer's input",
        )),
    }
}

/// The changed weight, or bias.
#[derive(Clone, Copy)]
enum Weight {
    Same,
    Positive,
    Negative,
    PlusPositive(f64),
    PlusNegative(f64),
    Square,
    One,
}

impl Weight {
    fn of(self, w: &Value) -> Value {
        match self {
            Weight::Same => w.clone(),
            Weight::Positive => w.relu(),
            Weight::Negative => w.negative_part(),
            Weight::PlusPositive(gamma) => w + &w.relu().times(gamma),
            Weight::PlusNegative(gamma) => w + &w.negative_part().times(gamma),
            Weight::Square => w * w,
            Weight::One => w.full_like(1.0),
        }
    }

    /// Of a layer whose weights are positive numbers, such as a pool: the factor on them.
    fn of_positive(self) -> f64 {
        match self {
            Weight::Negative => 0.0,
            Weight::PlusPositive(gamma) => 1.0 + gamma,
            _ => 1.0,
        }
    }
}

/// What an input of a layer is to a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// It gets relevance.
    Signal,
    /// It multiplies the signal.
    Weight,
    /// It is added.
    Bias,
}

/// The relevance of a layer's inputs by a rule.
pub(super) struct Sharing<'a> {
    pub rule: &'a LrpRule,
    pub stabiliser: f64,
    pub bias: BiasShare,
    /// Of each input.
    pub roles: Vec<Role>,
    /// The input's axis of channels.
    pub channels: usize,
    /// Whether the signal cannot be negative, so that x- needs no pass.
    pub non_negative: bool,
}

impl Sharing<'_> {
    pub fn share(&self, site: &Site, relevance: &Value) -> Result<Vec<Option<Value>>, Error> {
        let epsilon = match self.rule {
            LrpRule::Epsilon(epsilon) => *epsilon,
            _ => self.stabiliser,
        };
        let mut shares: Vec<Option<Value>> = vec![None; site.inputs.len()];
        for group in self.rule.groups() {
            let mut changed = Vec::new();
            let mut whole: Option<Value> = None;
            for term in group.terms {
                let Some(inputs) = self.inputs(site, term)? else {
                    continue;
                };
                let output = match self.keeps(term) {
                    true => site.output.clone(),
                    false => site.run(&inputs).times(term.sign),
                };
                whole = Some(match whole {
                    Some(before) => &before + &output,
                    None => output,
                });
                changed.push((term.sign, inputs));
            }
            let Some(whole) = whole else {
                continue;
            };
            let ratio = match group.sign {
                Some(sign) => site.output.times(sign).where_above(0.0, relevance),
                None => relevance.clone(),
            };
            let ratio = divide(&ratio, &whole, epsilon).times(group.times);
            for (sign, inputs) in changed {
                let passed = site.derivative_at(&inputs, &ratio.times(sign))?;
                for (i, passed) in passed.into_iter().enumerate() {
                    let Some(passed) = passed.filter(|_| self.roles[i] == Role::Signal) else {
                        continue;
                    };
                    let share = &inputs[i] * &passed;
                    shares[i] = Some(match shares[i].take() {
                        Some(before) => &before + &share,
                        None => share,
                    });
                }
            }
        }
        Ok(shares)
    }

    /// Whether a term is the layer as it is.
    fn keeps(&self, term: Term) -> bool {
        let bias = self.bias == BiasShare::Absorbed || !self.roles.contains(&Role::Bias);
        bias && matches!((term.part, term.weight), (Part::All, Weight::Same))
    }

    /// The layer's inputs as a term changes them, `None` where they would all be zero.
    fn inputs(&self, site: &Site, term: Term) -> Result<Option<Vec<Value>>, Error> {
        let weighted = self.roles.contains(&Role::Weight);
        let factor = match weighted {
            true => 1.0,
            false => term.weight.of_positive(),
        };
        let nothing = matches!(term.part, Part::Negative) && self.non_negative;
        if (nothing || factor == 0.0) && !term.bias {
            return Ok(None);
        }
        let bias = term.bias && self.bias == BiasShare::Absorbed;
        let change = |(value, role): (&Value, &Role)| match role {
            Role::Signal => {
                let part = term.part.of(value, self.channels)?;
                Ok(if factor == 1.0 {
                    part
                } else {
                    part.times(factor)
                })
            }
            Role::Weight => Ok(term.weight.of(value)),
            Role::Bias if bias => Ok(term.weight.of(value)),
            Role::Bias => Ok(value.zeros_like()),
        };
        let inputs: Result<Vec<Value>, Error> =
            site.inputs.iter().zip(&self.roles).map(change).collect();
        Ok(Some(inputs?))
    }
}

/// x / z with z moved away from zero by `epsilon`; zero where z stays zero.
pub(super) fn divide(x: &Value, z: &Value, epsilon: f64) -> Value {
    let one = z.full_like(1.0);
    if epsilon > 0.0 {
        let sign = z.times(-1.0).choose(0.0, &one.times(-1.0), &one);
        return x / &(z + &sign.times(epsilon));
    }
    let size = z.abs();
    size.where_above(0.0, &(x / &size.choose(0.0, z, &one)))
}
