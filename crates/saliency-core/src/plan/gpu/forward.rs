//! The forward pass.

use super::{
    Plan,
    constants::{Constants, kind},
    kernel::{
        Extra, Factors, Layout, Other, Reads, Sizes, Span, Values, Windows, Writes, activate,
        affine, combine, copy, depthwise, fill, gate, heads_product, max_pool, mean, norm, product,
        softmax, zeros,
    },
};
use crate::plan::{
    attention::{Attention, Heads},
    buffer::Geometry,
    elementwise::Strides,
    step::{Conv, Place, Step},
    sweep,
    view::Strided,
};

/// What a forward pass keeps for the backward pass.
#[derive(Clone)]
pub(crate) struct Tape {
    pub(super) rows: usize,
    /// The buffer that was asked for.
    pub(super) tap: Option<usize>,
    /// By buffer: those that a ReLU made, and the one that was asked for.
    pub(super) values: Vec<Option<Values>>,
    /// By step: what else its derivative needs. A pool: which element of its window each maximum
    /// was.
    pub(super) kept: Vec<Vec<Values>>,
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
            kept: vec![Vec::new(); plan.steps.len()],
        };
        // Backward passes end where values were asked for.
        let first = tap.map_or(0, |tap| plan.last_writer(tap) + 1);
        for (index, (step, constants)) in plan.steps.iter().zip(&self.constants).enumerate() {
            let keep = keep && index >= first;
            let target = step.writes();
            let mut to = buffers[target].take().unwrap_or_else(|| {
                let mut to = Values::empty(client, plan.buffers[target], rows);
                let whole = match step {
                    Step::Copy {
                        from,
                        to: place,
                        first,
                    } => span(from, *place, *first, constants).fills(&to),
                    _ => !step.is_partial(),
                };
                if !whole {
                    zeros(client, &mut to);
                }
                to
            });
            let from = |index: usize| buffers[index].as_ref().expect("it was computed before");
            let mut kept = Vec::new();
            match (step, constants) {
                (Step::Conv(conv), Constants::Product { weights, .. }) => {
                    let source = from(conv.from);
                    let extra = Extra {
                        relu: conv.relu,
                        other: conv.residual.map(|buffer| (from(buffer), Other::Residual)),
                        ..Extra::default()
                    };
                    let (reads, writes) = ends(conv, source, plan.buffers[target], rows);
                    product(client, source, reads, weights, &mut to, writes, extra);
                }
                (
                    Step::MaxPool {
                        from: source,
                        strides,
                        ..
                    },
                    _,
                ) => kept.extend(max_pool(client, from(*source), strides, &mut to, keep)),
                (Step::Mean { from: source, .. }, _) => mean(client, from(*source), &mut to),
                (
                    Step::Add {
                        from: [a, b], relu, ..
                    },
                    _,
                ) => {
                    let extra = Extra {
                        relu: *relu,
                        other: Some((from(*b), Other::Residual)),
                        ..Extra::default()
                    };
                    combine(client, Some(from(*a)), &mut to, extra);
                }
                (Step::Relu { from: source, .. }, _) => {
                    let extra = Extra {
                        relu: true,
                        ..Extra::default()
                    };
                    combine(client, Some(from(*source)), &mut to, extra);
                }
                (Step::Depthwise(layer), constants) => {
                    depthwise(
                        client,
                        windows(&layer.strides, constants),
                        from(layer.from),
                        &mut to,
                    );
                }
                (
                    Step::Gate {
                        from: source, by, ..
                    },
                    _,
                ) => {
                    let (values, factors) = (from(*source), from(*by));
                    gate(client, values, factors, &mut to, Extra::default());
                    kept.extend([values.clone(), factors.clone()]);
                }
                (
                    Step::Activate {
                        from: source,
                        function,
                        ..
                    },
                    _,
                ) => kept.extend(activate(
                    client,
                    kind(*function),
                    from(*source),
                    &mut to,
                    keep,
                )),
                (Step::Affine { from: source, .. }, Constants::Affine { scale, shift }) => {
                    let factors = Factors {
                        scale: scale.as_ref(),
                        shift: shift.as_ref(),
                    };
                    affine(client, factors, from(*source), &mut to);
                }
                (
                    Step::Norm {
                        from: source,
                        epsilon,
                        ..
                    },
                    Constants::Norm { gamma, beta },
                ) => {
                    let factors = [Some(gamma), beta.as_ref()];
                    kept = norm(client, factors, *epsilon, from(*source), &mut to, keep);
                }
                (Step::Softmax { from: source, .. }, _) => {
                    softmax(client, from(*source), &mut to);
                    kept.push(to.clone());
                }
                (Step::Attention(attention), _) => {
                    let parts = [attention.queries, attention.keys, attention.values];
                    let parts = parts.map(|heads| from(heads.buffer));
                    let softmaxes = self.attend(attention, parts, &mut to);
                    kept.extend(parts.map(Values::clone));
                    kept.push(softmaxes);
                }
                (
                    Step::Copy {
                        from: source,
                        to: place,
                        first,
                    },
                    constants,
                ) => {
                    let span = span(source, *place, *first, constants);
                    copy(client, span, from(source.buffer), &mut to);
                }
                (Step::Fill { first, .. }, Constants::Fill(values)) => {
                    fill(client, values, *first, &mut to);
                }
                _ => unreachable!("constants are made for their steps"),
            }
            if keep {
                tape.kept[index] = kept;
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

    /// Writes the mixed values. Returns the softmaxes, `[rows, heads, queries, keys]`.
    fn attend(&self, attention: &Attention, parts: [&Values; 3], to: &mut Values) -> Values {
        let client = &self.client;
        let [queries, keys, values] = parts;
        let mut scores = Values::empty(client, scores(attention), to.rows);
        let shape = shape(attention);
        heads_product(
            client,
            (queries, layout(attention.queries, queries)),
            (keys, layout(attention.keys, keys).transposed()),
            (&mut scores, of_scores(attention)),
            Sizes {
                columns: shape.keys,
                inner: shape.size,
                ..shape.sizes()
            },
            attention.scale,
            false,
        );
        let mut softmaxes = scores.like(client);
        softmax(client, &scores, &mut softmaxes);
        let mixed = of_mixed(attention, to);
        heads_product(
            client,
            (&softmaxes, of_scores(attention)),
            (values, layout(attention.values, values)),
            (to, mixed),
            Sizes {
                columns: shape.size,
                inner: shape.keys,
                ..shape.sizes()
            },
            1.0,
            false,
        );
        softmaxes
    }
}

/// How many there are.
pub(super) struct Shape {
    pub heads: u32,
    pub queries: u32,
    pub keys: u32,
    pub size: u32,
}

impl Shape {
    /// Of a product with a line for each query.
    pub fn sizes(&self) -> Sizes {
        Sizes {
            heads: self.heads,
            lines: self.queries,
            columns: 0,
            inner: 0,
        }
    }
}

pub(super) fn shape(attention: &Attention) -> Shape {
    Shape {
        heads: attention.heads as u32,
        queries: attention.queries.positions as u32,
        keys: attention.keys.positions as u32,
        size: attention.size as u32,
    }
}

/// Where heads lie in their buffer: a line for each position.
pub(super) fn layout(heads: Heads, of: &Values) -> Layout {
    Layout {
        offset: heads.channel as u32,
        row: (of.height * of.width * of.channels) as u32,
        head: heads.spacing as u32,
        down: of.channels as u32,
        across: 1,
    }
}

/// Where the mixed values go.
pub(super) fn of_mixed(attention: &Attention, of: &Values) -> Layout {
    let heads = Heads {
        buffer: attention.to,
        channel: 0,
        spacing: attention.size,
        positions: attention.queries.positions,
    };
    layout(heads, of)
}

/// Memory for the scores of all heads.
pub(super) fn scores(attention: &Attention) -> Geometry {
    Geometry {
        height: attention.heads,
        width: attention.queries.positions,
        channels: attention.keys.positions,
        halo: 0,
    }
}

pub(super) fn of_scores(attention: &Attention) -> Layout {
    let shape = shape(attention);
    Layout {
        offset: 0,
        row: shape.heads * shape.queries * shape.keys,
        head: shape.queries * shape.keys,
        down: shape.keys,
        across: 1,
    }
}

/// A depthwise layer with its weights.
pub(super) fn windows<'a>(strides: &'a Strides, constants: &'a Constants) -> Windows<'a> {
    let Constants::Depthwise {
        weights,
        bias,
        shares,
    } = constants
    else {
        unreachable!("constants are made for their steps")
    };
    Windows {
        strides,
        weights,
        bias: bias.as_ref(),
        shares: shares.as_ref(),
    }
}

/// What a copy copies.
pub(super) fn span<'a>(
    from: &Strided,
    to: Place,
    first: usize,
    constants: &'a Constants,
) -> Span<'a> {
    let Constants::Copy(starts) = constants else {
        unreachable!("constants are made for their steps")
    };
    Span {
        starts,
        spacing: from.spacing,
        channels: from.channels,
        position: first,
        channel: to.channel,
    }
}

/// How a convolution's windows move.
pub(super) fn reads_of(conv: &Conv) -> sweep::Reads {
    sweep::Reads {
        origin: conv.padding.map(|padding| -(padding as isize)),
        step: conv.stride,
        window: conv.kernel,
    }
}

/// How a convolution reads and writes.
fn ends(conv: &Conv, source: &Values, to: Geometry, rows: usize) -> (Reads, Writes) {
    let reads = Reads::new(source.geometry(), 0..source.channels, reads_of(conv));
    let grid = sweep::Writes {
        origin: [0, 0],
        step: [1, 1],
        grid: conv.grid,
        channel: conv.to.channel,
    };
    (reads, writes(grid, to, conv.to.channels, rows))
}

/// Where the outputs of a sweep go.
pub(super) fn writes(writes: sweep::Writes, to: Geometry, channels: usize, rows: usize) -> Writes {
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
