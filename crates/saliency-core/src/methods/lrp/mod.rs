//! Layer-wise relevance propagation: what each layer does is in `layers`, the rules' one
//! formula in `rules`.

mod layers;
mod rules;

#[cfg(test)]
mod tests;

use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

pub use rules::LrpRule;

use crate::{
    attribution::{Evaluations, Evidence, Outcome},
    error::Error,
    graph::{self, Graph, NodeId, Rule, Value},
    method::Method,
    methods::layer_map::flat,
    model::Model,
    recipe::{Recipe, Registered},
    run::{Run, Stage, guarded},
    target::Goal,
};

pub(super) use layers::Plan;

/// Who gets the relevance that belongs to a bias.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BiasShare {
    /// Nobody: the bias counts in the denominators and takes its share with it, so the values
    /// add up to the score without the biases' part. What the peers do.
    #[default]
    Absorbed,
    /// The inputs: biases are left out of the denominators, so nothing is lost.
    Ignored,
}

/// Layer-wise relevance propagation: the score is passed back layer by layer, each layer
/// sharing out among its inputs what arrives at its output.
///
/// Bach et al., "On Pixel-Wise Explanations for Non-Linear Classifier Decisions by Layer-Wise
/// Relevance Propagation" (2015), <https://doi.org/10.1371/journal.pone.0130140>; rules and
/// composites after Montavon et al., "Layer-Wise Relevance Propagation: An Overview" (2019),
/// <https://doi.org/10.1007/978-3-030-28954-6_10>. It starts from output times d score /
/// d output, which is the score itself for a class. Inputs of any rank; values in the shape of
/// the input, signed; `evidence.delta` is their sum minus the score.
///
/// Which layer shares how:
///
/// - BatchNorm is folded into the convolution or dense layer before it; where that cannot be
///   done, it and the other norms (layer, group, instance, RMS) pass relevance unchanged.
/// - Convolutions follow `convolution`, dense layers (and products with constant matrices)
///   `dense`. Where `first` is set, it takes the place of both in the layers with weights that
///   see the input before any other such layer.
/// - Activations, softmax, and products with constants pass relevance unchanged.
/// - Sums, of residual branches too, differences, averages and interpolations share in
///   proportion to what each input adds, as `Epsilon(stabiliser)`. Max pools give all to the
///   largest.
/// - A gate times a signal, as in LSTMs, GRUs, squeeze-and-excitation and attention: the
///   signal takes all (Arras et al. 2017, <https://arxiv.org/abs/1706.07206>). A gate is a
///   sigmoid, hard sigmoid, softmax or clamp to positive bounds, moved, scaled or shifted. Two
///   factors of the same kind get half each; a numerator takes all.
/// - `rules` name layers with a rule of their own, the first that fits counts: by node
///   (`layer4.0.conv2`), by module (`layer4`), or with `*` for anything (`layer*.conv1`).
///
/// Presets: zennit's composites `lrp-epsilon-plus`, `lrp-epsilon-plus-flat`,
/// `lrp-epsilon-alpha2-beta1`, `lrp-epsilon-alpha2-beta1-flat` and `lrp-epsilon-gamma-box`
/// (whose box is on the first layers of any kind, where zennit asks for a convolution); one
/// rule everywhere: `lrp-epsilon`, `lrp-gamma`, `lrp-z-plus`, `lrp-alpha-beta`; and `lrp-w2`,
/// the deep Taylor decomposition of unbounded inputs: w^2 at the input, z+ above it. The
/// default, `lrp`, is epsilon on dense layers and gamma on convolutions. `lrp-captum` is
/// Captum's default, epsilon 1e-9 everywhere; Captum's additions must be modules, and no module
/// may be used twice. zennit's canonizers leave BatchNorm's epsilon of 1e-5 in place after the
/// merge, which is not done here.
///
/// ```
/// use burn::{module::Module, nn::{Linear, LinearConfig}, tensor::{Device, Tensor, activation::relu}};
/// use saliency_core::{BiasShare, Graph, Lrp, LrpRule, Method};
///
/// #[derive(Module, Debug)]
/// struct Mlp { hidden: Linear, out: Linear }
///
/// let device = Device::flex();
/// let mlp = Mlp {
///     hidden: LinearConfig::new(4, 8).init(&device),
///     out: LinearConfig::new(8, 3).init(&device),
/// };
/// let x = Tensor::<2>::from_floats([[1.0, -2.0, 0.5, 3.0]], &device);
/// let forward = |m: &Mlp, x: Tensor<2>| m.out.forward(relu(m.hidden.forward(x)));
/// let graph = Graph::trace(&mlp, forward, &x)?;
///
/// let lrp = Lrp::epsilon_plus().bias(BiasShare::Ignored);
/// let map = lrp.explain(&graph, x.clone(), 1)?;
/// assert!(map.evidence.delta.unwrap()[0].abs() < 1e-4);
///
/// // A rule of its own for one layer, in code or as data.
/// let own = lrp.rule("hidden", LrpRule::Gamma(0.1));
/// let json = r#"{"dense": {"epsilon": 1e-6}, "convolution": "z-plus", "bias": "ignored",
///                "rules": [["hidden", {"gamma": 0.1}]]}"#;
/// assert_eq!(serde_json::from_str::<Lrp>(json).unwrap(), own);
/// assert_ne!(own.explain(&graph, x, 1)?.to_vec()?, map.values.try_into_vec_as::<f32>().unwrap());
/// # Ok::<(), saliency_core::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Lrp {
    /// Rule of convolutions.
    pub convolution: LrpRule,
    /// Rule of dense layers.
    pub dense: LrpRule,
    /// Rule of the layers with weights that see the input, where it is another.
    pub first: Option<LrpRule>,
    /// How far denominators are moved away from zero, but for `Epsilon` which says it itself.
    pub stabiliser: f64,
    /// Who gets the biases' relevance.
    pub bias: BiasShare,
    /// Rules of layers by name; the first that fits counts.
    pub rules: Vec<(String, LrpRule)>,
}

const EPSILON: f64 = 1e-6;

impl Default for Lrp {
    fn default() -> Self {
        Lrp::of(LrpRule::Epsilon(EPSILON)).convolution(LrpRule::Gamma(0.25))
    }
}

impl Lrp {
    /// Epsilon on dense layers, gamma on convolutions.
    pub fn new() -> Self {
        Self::default()
    }

    /// One rule for all layers with weights.
    pub fn of(rule: LrpRule) -> Self {
        Lrp {
            convolution: rule.clone(),
            dense: rule,
            first: None,
            stabiliser: EPSILON,
            bias: BiasShare::default(),
            rules: Vec::new(),
        }
    }

    /// Epsilon on dense layers, z+ on convolutions.
    pub fn epsilon_plus() -> Self {
        Lrp::new().convolution(LrpRule::ZPlus)
    }

    /// The same with the flat rule at the input.
    pub fn epsilon_plus_flat() -> Self {
        Lrp::epsilon_plus().first(LrpRule::Flat)
    }

    /// Epsilon on dense layers, alpha 2 beta 1 on convolutions.
    pub fn epsilon_alpha2_beta1() -> Self {
        Lrp::new().convolution(LrpRule::alpha2_beta1())
    }

    /// The same with the flat rule at the input.
    pub fn epsilon_alpha2_beta1_flat() -> Self {
        Lrp::epsilon_alpha2_beta1().first(LrpRule::Flat)
    }

    /// Epsilon on dense layers, gamma on convolutions, z-box at the input. `low` and `high`
    /// are the least and greatest values there can be, one number or one for each channel;
    /// empty ones stand for each row's own extremes.
    pub fn epsilon_gamma_box(low: impl Into<Vec<f64>>, high: impl Into<Vec<f64>>) -> Self {
        Lrp::new().first(LrpRule::ZBox {
            low: low.into(),
            high: high.into(),
        })
    }

    /// The deep Taylor decomposition of inputs without bounds: w^2 at the input, z+ above.
    pub fn w2() -> Self {
        Lrp::of(LrpRule::ZPlus).first(LrpRule::WSquare)
    }

    /// Rule of convolutions.
    pub fn convolution(mut self, rule: LrpRule) -> Self {
        self.convolution = rule;
        self
    }

    /// Rule of dense layers.
    pub fn dense(mut self, rule: LrpRule) -> Self {
        self.dense = rule;
        self
    }

    /// Rule of the layers with weights that see the input.
    pub fn first(mut self, rule: LrpRule) -> Self {
        self.first = Some(rule);
        self
    }

    /// Rule of the layers of a name, after those already given.
    pub fn rule(mut self, pattern: impl Into<String>, rule: LrpRule) -> Self {
        self.rules.push((pattern.into(), rule));
        self
    }

    /// How far denominators are moved away from zero.
    pub fn stabiliser(mut self, stabiliser: f64) -> Self {
        self.stabiliser = stabiliser;
        self
    }

    /// Who gets the biases' relevance.
    pub fn bias(mut self, bias: BiasShare) -> Self {
        self.bias = bias;
        self
    }

    fn check(&self) -> Result<(), Error> {
        if !(self.stabiliser >= 0.0 && self.stabiliser.is_finite()) {
            let requirement = "it must be 0 or more";
            return Err(Error::option("stabiliser", self.stabiliser, requirement));
        }
        let own = self.rules.iter().map(|(_, rule)| rule);
        let layers = [&self.convolution, &self.dense];
        own.chain(layers)
            .chain(&self.first)
            .try_for_each(LrpRule::validate)
    }
}

impl Registered for Lrp {}

impl<const D: usize> Method<D> for Lrp {
    fn recipe(&self) -> Recipe {
        Recipe::Lrp(self.clone())
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
        let graph = graph::inside(model, "lrp")?.folded_once();
        let (values, delta) = self.relevance(graph, graph.input(), input, goal, run)?;
        Ok(conserved(values.tensor(), delta))
    }
}

impl Lrp {
    /// The relevance of the values of a node of a folded graph, and what is missing of the score.
    pub(super) fn relevance<const D: usize>(
        &self,
        graph: &Graph,
        node: NodeId,
        input: &Tensor<D>,
        goal: &Goal,
        run: &Run,
    ) -> Result<(Value, Vec<f64>), Error> {
        let plan = Plan::new(self, graph)?;
        propagate((graph, node), &plan, input, goal, run, |goal, outputs| {
            let scores = goal.scores(outputs.clone())?;
            Ok((goal.seed(&outputs)? * outputs, scores))
        })
    }
}

/// Relevance with what is missing of it.
pub(super) fn conserved<const D: usize>(values: Tensor<D>, delta: Vec<f64>) -> Outcome<D> {
    Outcome {
        values,
        evidence: Evidence {
            delta: Some(delta),
            ..Evidence::default()
        },
    }
}

/// What arrives at a node, and what is missing of it. `start` says from the outputs what
/// starts there, and what the values of each row should add up to.
pub(super) fn propagate<const D: usize>(
    (graph, node): (&Graph, NodeId),
    rule: &dyn Rule,
    input: &Tensor<D>,
    goal: &Goal,
    run: &Run,
    start: impl Fn(&Goal, Tensor<2>) -> Result<(Tensor<2>, Tensor<1>), Error>,
) -> Result<(Value, Vec<f64>), Error> {
    let mut parts = Vec::new();
    let mut delta = Vec::new();
    // A rule of a layer has several products of it at once, each as large as its output.
    let (total, run) = (input.dims()[0], &run.holding(2));
    run.batches(Stage::Attributing, total, run.rows(input), |range| {
        let x = input.clone().narrow(0, range.start, range.len());
        run.count(Evaluations {
            forward: 0,
            gradient: range.len(),
        });
        let all = graph.activations(x.into())?;
        let outputs = all.get(graph.output()).ok_or(Error::NotDifferentiable)?;
        let goal = goal.slice(range.start, range.end);
        let (start, whole) = start(&goal, outputs.clone().tensor())?;
        let arrived = guarded(&input.dims(), || {
            let seeds = vec![(graph.output(), start.into())];
            graph.backward(&all, seeds, rule, &[node])
        })??;
        let values = arrived.into_iter().next().flatten();
        let values = values.ok_or(Error::NotDifferentiable)?;
        delta.extend(missing(flat(&values, range.len()), whole)?);
        parts.push(values);
        Ok(())
    })?;
    Ok((Value::cat(parts, 0), delta))
}

/// The sum of each row's values minus what it should be.
fn missing(values: Tensor<2>, whole: Tensor<1>) -> Result<Vec<f64>, Error> {
    let values = values.try_into_vec_as::<f64>().map_err(Error::device)?;
    let whole = whole.try_into_vec_as::<f64>().map_err(Error::device)?;
    let row = values.len() / whole.len();
    let sums = values.chunks(row).map(|row| row.iter().sum::<f64>());
    Ok(sums.zip(whole).map(|(sum, whole)| sum - whole).collect())
}
