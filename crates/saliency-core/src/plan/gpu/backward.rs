//! The backward pass.

use super::{
    Plan,
    constants::{Backward, Constants},
    forward::{Tape, layout, of_mixed, of_scores, reads_of, shape, span, windows, writes},
    kernel::{
        Extra, Factors, Layout, Other, Reads, Sizes, Values, affine, combine, copy_back,
        depthwise_back, gate, gather, heads_product, max_pool_back, mean_back, norm_back, product,
        softmax_back, sum_of_products, zeros,
    },
};
use crate::plan::{
    attention::{Attention, Heads},
    back::{Back, BackSweep},
    run::ReluRule,
    step::{Conv, Step},
    sweep,
};

/// A gradient so far.
struct Arrived {
    values: Values,
    /// Whether it is the gradient of another buffer too, and must stay as it is.
    shared: bool,
}

impl Arrived {
    /// The same for another buffer.
    fn again(&self) -> Self {
        Arrived {
            values: self.values.clone(),
            shared: true,
        }
    }
}

/// The ReLU's rule at a buffer.
type Rule<'a> = Option<(&'a Values, Other)>;

impl Plan {
    /// d score / d input from d score / d outputs; where a buffer was asked for, the gradient
    /// at it instead.
    pub(super) fn backward(&self, tape: &Tape, seed: Values, rule: ReluRule) -> Values {
        let (plan, client) = (&self.plan, &self.client);
        let rows = tape.rows;
        let end = tape.tap.unwrap_or(plan.input);
        let passed = |buffer: usize| -> Rule {
            let values = tape.values[buffer].as_ref()?;
            let other = match rule {
                ReluRule::Derivative => Other::Mask,
                ReluRule::Guided => Other::Guided,
            };
            plan.rectified[buffer].then_some((values, other))
        };
        let mut gradients: Vec<Option<Arrived>> = plan.buffers.iter().map(|_| None).collect();
        let seed = Arrived {
            values: seed,
            shared: false,
        };
        self.hand_on(seed, &mut gradients[plan.output], passed(plan.output));
        let steps = plan.steps.iter().zip(&self.constants).enumerate();
        for (index, (step, constants)) in steps.rev() {
            if step.writes() == end {
                break;
            }
            let Some(arrived) = gradients[step.writes()].take() else {
                continue;
            };
            // The last to add to a gradient applies the ReLU that made the values.
            let relu = |buffer: usize| {
                let last = plan.first_reader[buffer] == index && buffer != end;
                last.then(|| passed(buffer)).flatten()
            };
            match (step, constants) {
                (Step::Conv(conv), Constants::Product { back, .. }) => {
                    // Where the convolution reads what is added to it, all that arrives there
                    // is added up before the ReLU's rule.
                    if conv.residual == Some(conv.from) {
                        self.hand_on(arrived.again(), &mut gradients[conv.from], None);
                    }
                    let to = &mut gradients[conv.from];
                    self.conv_back(conv, back, &arrived.values, to, relu(conv.from));
                    match conv.residual.filter(|&residual| residual != conv.from) {
                        Some(residual) => {
                            self.hand_on(arrived, &mut gradients[residual], relu(residual));
                        }
                        None => self.keep_parts(index, arrived, &mut gradients),
                    }
                }
                (Step::MaxPool { from, strides, .. }, _) => {
                    let (mut to, extra) = self.target(&mut gradients[*from], *from, rows);
                    let extra = extra.by(relu(*from));
                    let places = &tape.kept[index][0];
                    max_pool_back(client, &arrived.values, places, strides, &mut to, extra);
                    gradients[*from] = Some(own(to));
                }
                (Step::Mean { from, .. }, _) => {
                    let (mut to, extra) = self.target(&mut gradients[*from], *from, rows);
                    mean_back(client, &arrived.values, &mut to, extra.by(relu(*from)));
                    gradients[*from] = Some(own(to));
                }
                (Step::Add { from: [a, b], .. }, _) => {
                    self.hand_on(arrived.again(), &mut gradients[*a], relu(*a));
                    self.hand_on(arrived.again(), &mut gradients[*b], relu(*b));
                }
                (Step::Relu { from, .. }, _) => {
                    self.hand_on(arrived, &mut gradients[*from], relu(*from));
                }
                (Step::Depthwise(layer), constants) => {
                    let from = layer.from;
                    let (mut to, extra) = self.target(&mut gradients[from], from, rows);
                    let windows = windows(&layer.strides, constants);
                    let extra = extra.by(relu(from));
                    depthwise_back(client, windows, &arrived.values, &mut to, extra);
                    gradients[from] = Some(own(to));
                }
                (Step::Gate { from, by, .. }, _) => {
                    let [values, factors] = &tape.kept[index][..] else {
                        unreachable!("a gate keeps both")
                    };
                    let (mut to, extra) = self.target(&mut gradients[*from], *from, rows);
                    gate(
                        client,
                        &arrived.values,
                        factors,
                        &mut to,
                        extra.by(relu(*from)),
                    );
                    gradients[*from] = Some(own(to));
                    let (mut to, extra) = self.target(&mut gradients[*by], *by, rows);
                    let extra = extra.by(relu(*by));
                    match plan.buffers[*by].positions() == plan.buffers[*from].positions() {
                        true => gate(client, &arrived.values, values, &mut to, extra),
                        false => sum_of_products(client, &arrived.values, values, &mut to, extra),
                    }
                    gradients[*by] = Some(own(to));
                }
                (Step::Activate { from, function, .. }, _) => {
                    let guided = rule == ReluRule::Guided && function.is_bounded_relu();
                    let extra = Extra {
                        relu: guided,
                        ..Extra::default()
                    };
                    let mut passed = arrived.values.like(client);
                    let slopes = &tape.kept[index][0];
                    gate(client, &arrived.values, slopes, &mut passed, extra);
                    self.hand_on(own(passed), &mut gradients[*from], relu(*from));
                }
                (Step::Affine { from, .. }, Constants::Affine { scale, .. }) => {
                    let passed = match scale {
                        Some(scale) => {
                            let factors = Factors {
                                scale: Some(scale),
                                shift: None,
                            };
                            let mut passed = arrived.values.like(client);
                            affine(client, factors, &arrived.values, &mut passed);
                            own(passed)
                        }
                        None => arrived,
                    };
                    self.hand_on(passed, &mut gradients[*from], relu(*from));
                }
                (Step::Norm { from, .. }, Constants::Norm { gamma, .. }) => {
                    let mut passed = arrived.values.like(client);
                    norm_back(
                        client,
                        gamma,
                        &tape.kept[index],
                        &arrived.values,
                        &mut passed,
                    );
                    self.hand_on(own(passed), &mut gradients[*from], relu(*from));
                }
                (Step::Softmax { from, .. }, _) => {
                    let mut passed = arrived.values.like(client);
                    softmax_back(client, &tape.kept[index][0], &arrived.values, &mut passed);
                    self.hand_on(own(passed), &mut gradients[*from], relu(*from));
                }
                (Step::Attention(attention), _) => {
                    self.attend_back(
                        attention,
                        &tape.kept[index],
                        &arrived.values,
                        &mut gradients,
                    );
                    for buffer in attention.buffers() {
                        if let (Some(rule), Some(to)) = (relu(buffer), &mut gradients[buffer]) {
                            self.rectify(rule, &mut to.values);
                        }
                    }
                }
                (Step::Copy { from, to, first }, constants) => {
                    let mut target =
                        self.accumulator(&mut gradients[from.buffer], from.buffer, rows);
                    let span = span(from, *to, *first, constants);
                    copy_back(client, span, &arrived.values, &mut target);
                    if let Some(rule) = relu(from.buffer) {
                        self.rectify(rule, &mut target);
                    }
                    gradients[from.buffer] = Some(own(target));
                    self.keep_parts(index, arrived, &mut gradients);
                }
                (Step::Fill { .. }, _) => self.keep_parts(index, arrived, &mut gradients),
                _ => unreachable!("constants are made for their steps"),
            }
        }
        match gradients[end].take() {
            Some(gradient) => gradient.values,
            None => {
                let mut nothing = Values::empty(client, plan.buffers[end], rows);
                zeros(client, &mut nothing);
                nothing
            }
        }
    }

    fn conv_back(
        &self,
        conv: &Conv,
        weights: &Backward,
        gradient: &Values,
        to: &mut Option<Arrived>,
        relu: Rule,
    ) {
        let (plan, client) = (&self.plan, &self.client);
        let rows = gradient.rows;
        let of = plan.buffers[conv.to.buffer];
        let channels = conv.to.channel..conv.to.channel + conv.to.channels;
        let reads = |reads: sweep::Reads| Reads::new(of, channels.clone(), reads);
        match (&conv.back, weights) {
            (Back::Sweeps(sweeps), Backward::Sweeps(weights)) => {
                let outputs = |back: &BackSweep| back.writes.grid[0] * back.writes.grid[1];
                let positions = plan.buffers[conv.from].positions();
                let all = sweeps.iter().map(outputs).sum::<usize>() == positions;
                let empty = to.is_none();
                let (mut target, extra) = self.target(to, conv.from, rows);
                if empty && !all {
                    zeros(client, &mut target);
                }
                for (back, weights) in sweeps.iter().zip(weights) {
                    let geometry = plan.buffers[conv.from];
                    let writes = writes(back.writes, geometry, geometry.channels, rows);
                    let extra = extra.by(relu.filter(|_| all));
                    let reads = reads(back.reads);
                    product(client, gradient, reads, weights, &mut target, writes, extra);
                }
                if let Some(rule) = relu.filter(|_| !all) {
                    self.rectify(rule, &mut target);
                }
                *to = Some(own(target));
            }
            (Back::Columns(_), Backward::Gather(weights)) => {
                let reads = reads(reads_of(conv));
                let (mut target, extra) = self.target(to, conv.from, rows);
                gather(
                    client,
                    gradient,
                    reads,
                    weights,
                    &mut target,
                    extra.by(relu),
                );
                *to = Some(own(target));
            }
            _ => unreachable!("made from each other"),
        }
    }

    /// Memory for a gradient, with what is to be added to where something arrived before.
    fn target(
        &self,
        so_far: &mut Option<Arrived>,
        buffer: usize,
        rows: usize,
    ) -> (Values, Extra<'static>) {
        let extra = |accumulate| Extra {
            accumulate,
            ..Extra::default()
        };
        match so_far.take() {
            Some(arrived) if arrived.shared => {
                let mut copy = arrived.values.like(&self.client);
                let nothing = Extra::default();
                combine(&self.client, Some(&arrived.values), &mut copy, nothing);
                (copy, extra(true))
            }
            Some(arrived) => (arrived.values, extra(true)),
            None => {
                let geometry = self.plan.buffers[buffer];
                (Values::empty(&self.client, geometry, rows), extra(false))
            }
        }
    }

    /// The same where every value is added to: zeros at first.
    fn accumulator(&self, so_far: &mut Option<Arrived>, buffer: usize, rows: usize) -> Values {
        let (mut values, extra) = self.target(so_far, buffer, rows);
        if !extra.accumulate {
            zeros(&self.client, &mut values);
        }
        values
    }

    /// Applies a ReLU's rule in place.
    fn rectify(&self, rule: (&Values, Other), values: &mut Values) {
        let extra = Extra {
            accumulate: true,
            ..Extra::default()
        };
        combine(&self.client, None, values, extra.by(Some(rule)));
    }

    fn attend_back(
        &self,
        attention: &Attention,
        kept: &[Values],
        gradient: &Values,
        gradients: &mut [Option<Arrived>],
    ) {
        let [queries, keys, values, softmaxes] = kept else {
            unreachable!("attention keeps four")
        };
        let client = &self.client;
        let (shape, scores) = (shape(attention), of_scores(attention));
        let arrived = of_mixed(attention, gradient);
        let mut add =
            |heads: Heads, left: (&Values, Layout), right: (&Values, Layout), scale, of| {
                let so_far = &mut gradients[heads.buffer];
                let mut to = self.accumulator(so_far, heads.buffer, gradient.rows);
                let place = layout(heads, &to);
                heads_product(client, left, right, (&mut to, place), of, scale, true);
                gradients[heads.buffer] = Some(own(to));
            };
        let by_key = Sizes {
            lines: shape.keys,
            columns: shape.size,
            inner: shape.queries,
            ..shape.sizes()
        };
        let turned = scores.transposed();
        let weights = (softmaxes, turned);
        add(attention.values, weights, (gradient, arrived), 1.0, by_key);
        let mut back = softmaxes.like(client);
        heads_product(
            client,
            (gradient, arrived),
            (values, layout(attention.values, values).transposed()),
            (&mut back, scores),
            Sizes {
                columns: shape.keys,
                inner: shape.size,
                ..shape.sizes()
            },
            1.0,
            false,
        );
        let mut at_scores = softmaxes.like(client);
        softmax_back(client, softmaxes, &back, &mut at_scores);
        let by_query = Sizes {
            columns: shape.size,
            inner: shape.keys,
            ..shape.sizes()
        };
        let of_keys = (keys, layout(attention.keys, keys));
        let scale = attention.scale;
        add(
            attention.queries,
            (&at_scores, scores),
            of_keys,
            scale,
            by_query,
        );
        let of_queries = (queries, layout(attention.queries, queries));
        add(
            attention.keys,
            (&at_scores, turned),
            of_queries,
            scale,
            by_key,
        );
    }

    /// Gives a gradient to another buffer: as it is where that has none yet.
    fn hand_on(&self, gradient: Arrived, to: &mut Option<Arrived>, relu: Rule) {
        let made = |accumulate: Option<Values>| {
            let extra = Extra {
                accumulate: accumulate.is_some(),
                other: relu,
                ..Extra::default()
            };
            let mut out = accumulate.unwrap_or_else(|| gradient.values.like(&self.client));
            combine(&self.client, Some(&gradient.values), &mut out, extra);
            own(out)
        };
        *to = Some(match to.take() {
            None if relu.is_none() => gradient,
            None => made(None),
            before @ Some(_) => {
                let mut before = before;
                // The buffer is only asked for where nothing arrived before.
                let (values, _) = self.target(&mut before, self.plan.input, gradient.values.rows);
                made(Some(values))
            }
        });
    }

    /// What arrived at a step stays where earlier steps write other parts of the same buffer.
    fn keep_parts(&self, index: usize, arrived: Arrived, gradients: &mut [Option<Arrived>]) {
        let buffer = self.plan.steps[index].writes();
        let before = &self.plan.steps[..index];
        if before.iter().any(|step| step.writes() == buffer) {
            gradients[buffer] = Some(arrived);
        }
    }
}

fn own(values: Values) -> Arrived {
    Arrived {
        values,
        shared: false,
    }
}
