//! Running a plan forward and back.

use super::{
    Layer, LayerBack, Plan,
    kernel::{
        Extra, Other, Pooling, Reads, Values, Writes, combine, gather, max_pool, max_pool_back,
        mean, mean_back, product, zeros,
    },
};
use crate::plan::{
    back::Back,
    buffer::Geometry,
    elementwise::Strides,
    run::ReluRule,
    step::{Conv, Step},
    sweep,
};

/// What a forward pass keeps for the backward pass.
#[derive(Clone)]
pub(crate) struct Tape {
    rows: usize,
    /// The buffer that was asked for.
    tap: Option<usize>,
    /// By buffer: those that a ReLU made, and the one that was asked for.
    values: Vec<Option<Values>>,
    /// By step: which element of its window each maximum was.
    maxima: Vec<Option<Values>>,
}

impl Tape {
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// The values of the buffer that was asked for.
    pub(super) fn tapped(&self) -> &Values {
        let tap = self.tap.expect("it was recorded for a node");
        self.values[tap].as_ref().expect("the forward pass made it")
    }
}

/// A gradient so far.
struct Arrived {
    values: Values,
    /// Whether it is the gradient of another buffer too, and must stay as it is.
    shared: bool,
}

/// The ReLU's rule at a buffer.
type Rule<'a> = Option<(&'a Values, Other)>;

impl Plan {
    /// The outputs of a batch, and what the backward pass needs where it is to be kept.
    pub(super) fn pass(&self, input: Values, keep: bool, tap: Option<usize>) -> (Values, Tape) {
        let (plan, client) = (&self.plan, &self.client);
        let rows = input.rows;
        let mut buffers: Vec<Option<Values>> = vec![None; plan.buffers.len()];
        buffers[plan.input] = Some(input);
        let mut tape = Tape {
            rows,
            tap,
            values: vec![None; plan.buffers.len()],
            maxima: vec![None; plan.steps.len()],
        };
        for (index, (step, layer)) in plan.steps.iter().zip(&self.layers).enumerate() {
            let target = step.writes();
            let mut to = buffers[target]
                .take()
                .unwrap_or_else(|| Values::empty(client, plan.buffers[target], rows));
            let from = |index: usize| buffers[index].as_ref().expect("it was computed before");
            match step {
                Step::Conv(conv) => {
                    let layer = layer.as_ref().expect("a layer has weights");
                    let source = from(conv.from);
                    let extra = Extra {
                        relu: conv.relu,
                        other: conv.residual.map(|buffer| (from(buffer), Other::Residual)),
                        ..Extra::default()
                    };
                    let (reads, writes) = forward(conv, source, plan.buffers[target], rows);
                    product(
                        client,
                        source,
                        reads,
                        &layer.weights,
                        &mut to,
                        writes,
                        extra,
                    );
                }
                Step::MaxPool {
                    from: source,
                    strides,
                    ..
                } => {
                    let maxima = max_pool(client, from(*source), pooling(strides), &mut to);
                    tape.maxima[index] = keep.then_some(maxima);
                }
                Step::Mean { from: source, .. } => mean(client, from(*source), &mut to),
                Step::Add {
                    from: [a, b], relu, ..
                } => {
                    let extra = Extra {
                        relu: *relu,
                        other: Some((from(*b), Other::Residual)),
                        ..Extra::default()
                    };
                    combine(client, Some(from(*a)), &mut to, extra);
                }
                Step::Relu { from: source, .. } => {
                    let extra = Extra {
                        relu: true,
                        ..Extra::default()
                    };
                    combine(client, Some(from(*source)), &mut to, extra);
                }
                _ => unreachable!("checked when compiled"),
            }
            buffers[target] = Some(to);
            for read in step.reads() {
                if plan.last_reader[read] == index
                    && let Some(values) = buffers[read].take()
                    && keep
                    && (plan.rectified[read] || tap == Some(read))
                {
                    tape.values[read] = Some(values);
                }
            }
        }
        let output = buffers[plan.output].take().expect("the last step made it");
        if keep && plan.rectified[plan.output] {
            tape.values[plan.output] = Some(output.clone());
        }
        (output, tape)
    }

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
        for (index, (step, layer)) in plan.steps.iter().zip(&self.layers).enumerate().rev() {
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
            match step {
                Step::Conv(conv) => {
                    let layer = layer.as_ref().expect("a layer has weights");
                    // Where the convolution reads what is added to it, all that arrives there
                    // is added up before the ReLU's rule.
                    if conv.residual == Some(conv.from) {
                        let same = Arrived {
                            values: arrived.values.clone(),
                            shared: true,
                        };
                        self.hand_on(same, &mut gradients[conv.from], None);
                    }
                    let to = &mut gradients[conv.from];
                    self.conv_back(conv, layer, &arrived.values, to, relu(conv.from));
                    match conv.residual.filter(|&residual| residual != conv.from) {
                        Some(residual) => {
                            self.hand_on(arrived, &mut gradients[residual], relu(residual));
                        }
                        None => self.keep_parts(index, arrived, &mut gradients),
                    }
                }
                Step::MaxPool { from, strides, .. } => {
                    let places = tape.maxima[index].as_ref().expect("they were kept");
                    let (mut to, extra) = self.target(&mut gradients[*from], *from, rows);
                    let extra = Extra {
                        other: relu(*from),
                        ..extra
                    };
                    let pooling = pooling(strides);
                    max_pool_back(client, &arrived.values, places, pooling, &mut to, extra);
                    gradients[*from] = Some(own(to));
                }
                Step::Mean { from, .. } => {
                    let (mut to, extra) = self.target(&mut gradients[*from], *from, rows);
                    let extra = Extra {
                        other: relu(*from),
                        ..extra
                    };
                    mean_back(client, &arrived.values, &mut to, extra);
                    gradients[*from] = Some(own(to));
                }
                Step::Add { from: [a, b], .. } => {
                    let same = Arrived {
                        values: arrived.values.clone(),
                        shared: true,
                    };
                    self.hand_on(same, &mut gradients[*a], relu(*a));
                    let other = Arrived {
                        shared: true,
                        ..arrived
                    };
                    self.hand_on(other, &mut gradients[*b], relu(*b));
                }
                Step::Relu { from, .. } => {
                    self.hand_on(arrived, &mut gradients[*from], relu(*from));
                }
                _ => unreachable!("checked when compiled"),
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
        layer: &Layer,
        gradient: &Values,
        to: &mut Option<Arrived>,
        relu: Rule,
    ) {
        let (plan, client) = (&self.plan, &self.client);
        let rows = gradient.rows;
        let of = plan.buffers[conv.to.buffer];
        let reads = |reads: sweep::Reads| Reads {
            height: of.height as u32,
            width: of.width as u32,
            pitch: of.channels as u32,
            first: conv.to.channel as u32,
            channels: conv.to.channels as u32,
            origin_y: reads.origin[0] as i32,
            origin_x: reads.origin[1] as i32,
            step_y: reads.step[0] as i32,
            step_x: reads.step[1] as i32,
            window_y: reads.window[0] as u32,
            window_x: reads.window[1] as u32,
        };
        match (&conv.back, &layer.back) {
            (Back::Sweeps(sweeps), LayerBack::Sweeps(weights)) => {
                let outputs =
                    |back: &crate::plan::back::BackSweep| back.writes.grid[0] * back.writes.grid[1];
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
                    let extra = Extra {
                        other: relu.filter(|_| all),
                        ..extra
                    };
                    let reads = reads(back.reads);
                    product(client, gradient, reads, weights, &mut target, writes, extra);
                }
                if !all && relu.is_some() {
                    let extra = Extra {
                        accumulate: true,
                        other: relu,
                        ..Extra::default()
                    };
                    combine(client, None, &mut target, extra);
                }
                *to = Some(own(target));
            }
            (Back::Columns(_), LayerBack::Gather(weights)) => {
                let reads = reads(sweep::Reads {
                    origin: conv.padding.map(|padding| -(padding as isize)),
                    step: conv.stride,
                    window: conv.kernel,
                });
                let (mut target, extra) = self.target(to, conv.from, rows);
                let extra = Extra {
                    other: relu,
                    ..extra
                };
                gather(client, gradient, reads, weights, &mut target, extra);
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

fn pooling(strides: &Strides) -> Pooling {
    Pooling {
        window: strides.kernel,
        step: strides.stride,
        padding: strides.padding,
        dilation: strides.dilation,
    }
}

/// How a convolution reads and writes.
fn forward(conv: &Conv, source: &Values, to: Geometry, rows: usize) -> (Reads, Writes) {
    let reads = Reads {
        height: source.height as u32,
        width: source.width as u32,
        pitch: source.channels as u32,
        first: 0,
        channels: source.channels as u32,
        origin_y: -(conv.padding[0] as i32),
        origin_x: -(conv.padding[1] as i32),
        step_y: conv.stride[0] as i32,
        step_x: conv.stride[1] as i32,
        window_y: conv.kernel[0] as u32,
        window_x: conv.kernel[1] as u32,
    };
    let grid = sweep::Writes {
        origin: [0, 0],
        step: [1, 1],
        grid: conv.grid,
        channel: conv.to.channel,
    };
    (reads, writes(grid, to, conv.to.channels, rows))
}

fn writes(writes: sweep::Writes, to: Geometry, channels: usize, rows: usize) -> Writes {
    Writes {
        count: (rows * writes.grid[0] * writes.grid[1]) as u32,
        grid_y: writes.grid[0] as u32,
        grid_x: writes.grid[1] as u32,
        height: to.height as u32,
        width: to.width as u32,
        pitch: to.channels as u32,
        first: writes.channel as u32,
        channels: channels as u32,
        origin_y: writes.origin[0] as u32,
        origin_x: writes.origin[1] as u32,
        step_y: writes.step[0] as u32,
        step_x: writes.step[1] as u32,
    }
}
