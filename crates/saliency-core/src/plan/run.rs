//! Running a plan forward and back.

use super::{
    Plan,
    activate::{activate, pass_back},
    affine::{affine, scale},
    attention::{attend, attend_back, spread},
    back::{Back, columns},
    buffer::{Bits, Buffer, Geometry},
    copy::{copy, copy_back},
    depthwise::{depthwise, depthwise_back, gate, gate_back},
    elementwise::{combine, max_pool, max_pool_back, mean, mean_back, rectify},
    lift::Lifted,
    normalise::{norm, norm_back, softmax_of, softmax_of_back},
    pool::clear_border,
    step::{Conv, Place, Step},
    sweep::{Epilogue, Reads, Relu, Weights, Writes, sweep},
    tape::Tape,
};

/// What a forward pass keeps besides the outputs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Keep {
    Nothing,
    /// What the backward pass needs.
    Tape,
    /// What that of the first half of the rows needs for DeepLIFT, the other half being their
    /// baselines; differences up to this count as none.
    Lifted(f32),
    /// The values of all buffers.
    Buffers,
}

/// What a ReLU passes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ReluRule {
    /// The gradient, where the ReLU let the value through.
    Derivative,
    /// Of that only what is positive.
    Guided,
}

impl ReluRule {
    fn of(self, bits: &Bits) -> Relu<'_> {
        match self {
            ReluRule::Derivative => Relu::Backward(bits),
            ReluRule::Guided => Relu::Guided(bits),
        }
    }
}

impl Plan {
    /// Outputs `[rows, outputs]` for inputs `[rows, channels, height, width]`.
    pub fn forward(&self, input: &[f32], rows: usize) -> Vec<f32> {
        self.pass(input, rows, Keep::Nothing, None).0
    }

    /// The same, with what the backward pass needs, and the values of one buffer.
    pub(super) fn forward_taped(
        &self,
        input: &[f32],
        rows: usize,
        tap: Option<usize>,
    ) -> (Vec<f32>, Tape) {
        self.pass(input, rows, Keep::Tape, tap)
    }

    fn pass(&self, input: &[f32], rows: usize, keep: Keep, tap: Option<usize>) -> (Vec<f32>, Tape) {
        let mut buffers = self.entered(input, rows);
        self.pass_on(&mut buffers, 0, rows, keep, tap)
    }

    /// Buffers of which only the input's has values.
    pub(super) fn entered(&self, input: &[f32], rows: usize) -> Vec<Option<Buffer>> {
        let mut buffers: Vec<Option<Buffer>> = vec![None; self.buffers.len()];
        let mut first = self.take(self.buffers[self.input], rows, false);
        first.set_planes(input);
        buffers[self.input] = Some(first);
        buffers
    }

    /// The steps from `start` on, with the buffers that those before have written.
    pub(super) fn pass_on(
        &self,
        buffers: &mut [Option<Buffer>],
        start: usize,
        rows: usize,
        keep: Keep,
        tap: Option<usize>,
    ) -> (Vec<f32>, Tape) {
        let mut tape = Tape {
            tap: tap.map(|buffer| (buffer, Vec::new())),
            rows,
            bits: vec![None; self.buffers.len()],
            maxima: vec![None; self.steps.len()],
            kept: vec![Vec::new(); self.steps.len()],
            lifted: match keep {
                Keep::Lifted(epsilon) => {
                    Some(Lifted::new(epsilon, self.buffers.len(), self.steps.len()))
                }
                _ => None,
            },
        };
        let taped = keep == Keep::Tape;
        for (index, step) in self.steps.iter().enumerate().skip(start) {
            self.clock.begins(index);
            let target = step.writes();
            let mut to = match buffers[target].take() {
                Some(buffer) => buffer,
                None => self.take(self.buffers[target], rows, step.is_partial()),
            };
            let mut bits = match self.rectified[target] && tape.lifted.is_none() {
                true => Some(
                    tape.bits[target]
                        .take()
                        .unwrap_or_else(|| Bits::zeros(self.buffers[target], rows)),
                ),
                false => None,
            };
            let from = |index: usize| buffers[index].as_ref().expect("it was computed before");
            let mut kept = match taped {
                true => self.memory(rows * step.kept_of_row(&self.buffers)),
                false => Vec::new(),
            };
            match step {
                Step::Conv(conv) => sweep(
                    from(conv.from),
                    Reads {
                        origin: conv.padding.map(|p| -(p as isize)),
                        step: conv.stride,
                        window: conv.kernel,
                    },
                    Weights::Panels(&conv.weights),
                    &mut to,
                    Writes {
                        origin: [0, 0],
                        step: [1, 1],
                        grid: conv.grid,
                        channel: conv.to.channel,
                    },
                    Epilogue {
                        bias: conv.bias.as_deref(),
                        residual: conv.residual.map(from),
                        accumulate: false,
                        relu: bits.as_mut().map_or(Relu::No, Relu::Forward),
                    },
                ),
                Step::MaxPool {
                    from: source,
                    strides,
                    ..
                } => {
                    let maxima = max_pool(self.isa, from(*source), &mut to, strides);
                    match &mut tape.lifted {
                        Some(lifted) => lifted.pooled(index, from(*source), &to, maxima),
                        None => tape.maxima[index] = taped.then_some(maxima),
                    }
                }
                Step::Mean { from: source, .. } => mean(from(*source), &mut to),
                Step::Add { from: sources, .. } => {
                    let relu = bits.as_mut().map_or(Relu::No, Relu::Forward);
                    let (a, b) = (from(sources[0]), from(sources[1]));
                    combine(self.isa, a, Some(b), false, relu, &mut to);
                }
                Step::Relu { from: source, .. } => {
                    let relu = bits.as_mut().map_or(Relu::No, Relu::Forward);
                    combine(self.isa, from(*source), None, false, relu, &mut to);
                }
                Step::Depthwise(layer) => {
                    depthwise(self.isa, layer, &layer.strides, from(layer.from), &mut to);
                }
                Step::Gate {
                    from: source, by, ..
                } => {
                    let (values, factors) = (from(*source), from(*by));
                    gate(values, factors, &mut to);
                    if taped {
                        let len = kept.len() / rows;
                        for (row, kept) in kept.chunks_exact_mut(len).enumerate() {
                            let own =
                                len - factors.geometry.positions() * factors.geometry.channels;
                            values.copy_row(row, &mut kept[..own]);
                            factors.copy_row(row, &mut kept[own..]);
                        }
                    }
                }
                Step::Activate {
                    from: source,
                    function,
                    ..
                } => activate(self.isa, *function, from(*source), &mut to, &mut kept),
                Step::Affine {
                    from: source,
                    scale,
                    shift,
                    ..
                } => affine(from(*source), scale.as_deref(), shift.as_deref(), &mut to),
                Step::Norm {
                    from: source,
                    gamma,
                    beta,
                    epsilon,
                    ..
                } => {
                    let factors = [gamma, beta.as_deref().unwrap_or_default()];
                    norm(
                        self.isa,
                        from(*source),
                        factors,
                        *epsilon,
                        &mut to,
                        &mut kept,
                    );
                }
                Step::Softmax { from: source, .. } => {
                    softmax_of(self.isa, from(*source), &mut to, &mut kept);
                }
                Step::Attention(attention) => {
                    let parts = [attention.queries, attention.keys, attention.values];
                    let parts = parts.map(|heads| from(heads.buffer));
                    if !taped {
                        kept = self.memory(rows * attention.kept_of_row());
                    }
                    let mut scratch = self.memory(rows * attention.scratch_of_row());
                    attend(self.isa, attention, parts, &mut to, &mut kept, &mut scratch);
                    self.keep(scratch);
                }
                Step::Copy {
                    from: source,
                    to: place,
                    first,
                } => copy(from(source.buffer), source, &mut to, *place, *first),
                Step::Fill { first, values, .. } => {
                    for row in 0..rows {
                        let channels = to.geometry.channels;
                        for (position, values) in values.chunks_exact(channels).enumerate() {
                            let at = to.place(row, (first + position) * channels);
                            to.data[at..at + channels].copy_from_slice(values);
                        }
                    }
                }
            }
            match taped {
                true => {
                    tape.bits[target] = bits;
                    tape.kept[index] = kept;
                }
                false => self.keep(kept),
            }
            if let Some(lifted) = &mut tape.lifted
                && self.rectified[target]
                && self.last_writer(target) == index
            {
                lifted.rectify(target, &mut to);
            }
            buffers[target] = Some(to);
            if let (Some((buffer, values)), Some(made)) = (&mut tape.tap, &buffers[target])
                && *buffer == target
                && self.last_writer(target) == index
            {
                *values = made.to_planes();
            }
            for read in step.reads() {
                if self.last_reader[read] == index && keep != Keep::Buffers {
                    self.give(buffers[read].take());
                }
            }
        }
        let output = buffers[self.output].take().expect("the last step made it");
        let outputs = output.to_planes();
        self.give(Some(output));
        if tape.lifted.is_some() {
            tape.rows /= 2;
        }
        (outputs, tape)
    }

    /// The last step that writes to a buffer.
    pub(super) fn last_writer(&self, buffer: usize) -> usize {
        let last = self.steps.iter().rposition(|step| step.writes() == buffer);
        last.expect("the input is never written to")
    }

    /// d score / d input, `[rows, channels, height, width]`, from d score / d outputs
    /// `[rows, outputs]`; where a buffer was asked for, the gradient at it instead.
    pub(super) fn backward(&self, tape: &Tape, seed: &[f32], rule: ReluRule) -> Vec<f32> {
        let rows = tape.rows;
        let end = tape.tap.as_ref().map_or(self.input, |(buffer, _)| *buffer);
        let mut gradients: Vec<Option<Buffer>> = vec![None; self.buffers.len()];
        let mut arrived = self.take(self.gradients[self.output], rows, false);
        arrived.set_planes(seed);
        if let Some(bits) = &tape.bits[self.output] {
            rectify(self.isa, &mut arrived, rule.of(bits));
        }
        gradients[self.output] = Some(arrived);
        for (index, step) in self.steps.iter().enumerate().rev() {
            self.clock.begins(index);
            if step.writes() == end {
                break;
            }
            let Some(mut arrived) = gradients[step.writes()].take() else {
                continue;
            };
            if let Some(lifted) = &tape.lifted
                && let Some(multipliers) = &lifted.multipliers[step.writes()]
                && self.last_writer(step.writes()) == index
            {
                pass_back(multipliers, false, &mut arrived);
            }
            // The last to add to a gradient applies the ReLU that made the values.
            let relu = |buffer: usize| match &tape.bits[buffer] {
                Some(bits) if self.first_reader[buffer] == index && buffer != end => rule.of(bits),
                _ => Relu::No,
            };
            match step {
                Step::Conv(conv) => {
                    let part = self.part(&arrived, conv.to);
                    let gradient = part.as_ref().unwrap_or(&arrived);
                    // Where the convolution reads what is added to it, all that arrives there
                    // is added up before the ReLU's rule.
                    let same = conv.residual == Some(conv.from);
                    if same {
                        let copy = self.copied(gradient);
                        self.hand_on(copy, &mut gradients[conv.from], Relu::No);
                    }
                    self.conv_back(conv, gradient, &mut gradients[conv.from], relu(conv.from));
                    self.give(part);
                    if let Some(residual) = conv.residual.filter(|_| !same) {
                        let to = &mut gradients[residual];
                        self.hand_on(arrived, to, relu(residual));
                        continue;
                    }
                    self.keep_parts(index, arrived, &mut gradients);
                }
                Step::MaxPool { from, strides, .. } => {
                    let mut to = self.accumulator(&mut gradients[*from], *from, rows);
                    match (&tape.lifted, &tape.maxima[index]) {
                        (Some(lifted), _) => {
                            self.lift_pool((lifted, index), &arrived, strides, &mut to);
                        }
                        (None, Some(maxima)) => {
                            max_pool_back(self.isa, &arrived, maxima, &mut to, strides);
                        }
                        (None, None) => unreachable!("the forward pass kept the maxima"),
                    }
                    rectify(self.isa, &mut to, relu(*from));
                    gradients[*from] = Some(to);
                    self.give(Some(arrived));
                }
                Step::Mean { from, .. } => {
                    let before = gradients[*from].take();
                    let accumulate = before.is_some();
                    let mut to =
                        before.unwrap_or_else(|| self.take(self.gradients[*from], rows, false));
                    mean_back(self.isa, &arrived, accumulate, relu(*from), &mut to);
                    gradients[*from] = Some(to);
                    self.give(Some(arrived));
                }
                Step::Add { from, .. } => {
                    let copy = self.copied(&arrived);
                    self.hand_on(copy, &mut gradients[from[0]], relu(from[0]));
                    self.hand_on(arrived, &mut gradients[from[1]], relu(from[1]));
                }
                Step::Relu { from, .. } => {
                    self.hand_on(arrived, &mut gradients[*from], relu(*from));
                }
                Step::Depthwise(layer) => {
                    let so_far = &mut gradients[layer.from];
                    let mut to = self.accumulator(so_far, layer.from, rows);
                    depthwise_back(self.isa, layer, &arrived, &mut to);
                    rectify(self.isa, &mut to, relu(layer.from));
                    gradients[layer.from] = Some(to);
                    self.give(Some(arrived));
                }
                Step::Gate { from, by, .. } => {
                    let kept = [*from, *by].map(|buffer| Geometry {
                        halo: 0,
                        ..self.buffers[buffer]
                    });
                    let [values, factors] = self.kept_buffers(&tape.kept[index], kept, rows);
                    let mut to_values = self.accumulator(&mut gradients[*from], *from, rows);
                    let mut to_factors = self.accumulator(&mut gradients[*by], *by, rows);
                    let both = [&values, &factors];
                    gate_back(&arrived, both, &mut to_values, &mut to_factors);
                    rectify(self.isa, &mut to_values, relu(*from));
                    rectify(self.isa, &mut to_factors, relu(*by));
                    gradients[*from] = Some(to_values);
                    gradients[*by] = Some(to_factors);
                    for buffer in [values, factors, arrived] {
                        self.give(Some(buffer));
                    }
                }
                Step::Activate { from, function, .. } => {
                    let guided = rule == ReluRule::Guided && function.is_bounded_relu();
                    pass_back(&tape.kept[index], guided, &mut arrived);
                    self.hand_on(arrived, &mut gradients[*from], relu(*from));
                }
                Step::Affine {
                    from, scale: by, ..
                } => {
                    if let Some(by) = by {
                        scale(by, &mut arrived);
                    }
                    self.hand_on(arrived, &mut gradients[*from], relu(*from));
                }
                Step::Norm { from, gamma, .. } => {
                    norm_back(self.isa, &tape.kept[index], gamma, &mut arrived);
                    self.hand_on(arrived, &mut gradients[*from], relu(*from));
                }
                Step::Softmax { from, .. } => {
                    softmax_of_back(self.isa, &tape.kept[index], &mut arrived);
                    self.hand_on(arrived, &mut gradients[*from], relu(*from));
                }
                Step::Attention(attention) => {
                    let parts = [attention.queries, attention.keys, attention.values];
                    let mut found = self.memory(rows * attention.gradients_of_row());
                    let mut scratch = self.memory(rows * attention.scratch_of_row());
                    let kept = &tape.kept[index];
                    attend_back(
                        self.isa,
                        attention,
                        kept,
                        &arrived,
                        &mut found,
                        &mut scratch,
                    );
                    for (heads, found) in parts.iter().zip(attention.gradients(&mut found, rows)) {
                        let so_far = &mut gradients[heads.buffer];
                        let mut to = self.accumulator(so_far, heads.buffer, rows);
                        spread(attention, found, *heads, &mut to);
                        gradients[heads.buffer] = Some(to);
                    }
                    self.keep(found);
                    self.keep(scratch);
                    for buffer in attention.buffers() {
                        let to = gradients[buffer].as_mut().expect("it was just added to");
                        rectify(self.isa, to, relu(buffer));
                    }
                    self.give(Some(arrived));
                }
                Step::Copy { from, to, first } => {
                    let so_far = &mut gradients[from.buffer];
                    let mut target = self.accumulator(so_far, from.buffer, rows);
                    copy_back(&arrived, *to, *first, from, &mut target);
                    rectify(self.isa, &mut target, relu(from.buffer));
                    gradients[from.buffer] = Some(target);
                    self.keep_parts(index, arrived, &mut gradients);
                }
                Step::Fill { .. } => self.keep_parts(index, arrived, &mut gradients),
            }
        }
        match gradients[end].take() {
            Some(gradient) => {
                let planes = gradient.to_planes();
                self.give(Some(gradient));
                planes
            }
            None => {
                let nothing = self.buffers[end];
                vec![0.0; nothing.positions() * nothing.channels * rows]
            }
        }
    }

    /// Two buffers whose rows were kept one behind the other.
    fn kept_buffers(&self, kept: &[f32], sizes: [Geometry; 2], rows: usize) -> [Buffer; 2] {
        let mut start = 0;
        sizes.map(|geometry| {
            let mut buffer = self.take(geometry, rows, false);
            let (len, all) = (geometry.len(), kept.len() / rows);
            for (row, data) in buffer.data.chunks_exact_mut(len).enumerate() {
                data.copy_from_slice(&kept[row * all + start..][..len]);
            }
            start += len;
            buffer
        })
    }

    /// What arrived at a step stays where earlier steps write other parts of the same buffer.
    fn keep_parts(&self, index: usize, arrived: Buffer, gradients: &mut [Option<Buffer>]) {
        let buffer = self.steps[index].writes();
        let others = self.steps[..index].iter().any(|s| s.writes() == buffer);
        match others {
            true => gradients[buffer] = Some(arrived),
            false => self.give(Some(arrived)),
        }
    }

    fn conv_back(&self, conv: &Conv, gradient: &Buffer, to: &mut Option<Buffer>, relu: Relu) {
        let rows = gradient.rows;
        match &conv.back {
            Back::Columns(weights) => {
                let mut own = self.take(self.gradients[conv.from], rows, false);
                columns(
                    gradient,
                    weights,
                    &mut own,
                    conv.kernel,
                    conv.stride,
                    conv.padding,
                );
                match to {
                    Some(to) => {
                        combine(self.isa, &own, None, true, relu, to);
                        self.give(Some(own));
                    }
                    None => {
                        // Windows reach into the border, where sweeps over it read zeros.
                        clear_border(&mut own);
                        rectify(self.isa, &mut own, relu);
                        *to = Some(own);
                    }
                }
            }
            Back::Sweeps(sweeps) => {
                let accumulate = to.is_some();
                let all = sweeps
                    .iter()
                    .map(|s| s.writes.grid[0] * s.writes.grid[1])
                    .sum::<usize>()
                    == self.buffers[conv.from].positions();
                let mut target = match to.take() {
                    Some(buffer) => buffer,
                    None => self.take(self.gradients[conv.from], rows, !all),
                };
                for back in sweeps {
                    sweep(
                        gradient,
                        back.reads,
                        back.weights(&conv.weights, self.buffers[conv.from].channels),
                        &mut target,
                        back.writes,
                        Epilogue {
                            bias: None,
                            residual: None,
                            accumulate,
                            relu: match (&relu, all) {
                                (Relu::Backward(bits), true) => Relu::Backward(bits),
                                (Relu::Guided(bits), true) => Relu::Guided(bits),
                                _ => Relu::No,
                            },
                        },
                    );
                }
                if !all {
                    rectify(self.isa, &mut target, relu);
                }
                *to = Some(target);
            }
        }
    }

    /// The channels of one part of a concatenation as a buffer of its own.
    fn part(&self, whole: &Buffer, place: Place) -> Option<Buffer> {
        if place.channels == whole.geometry.channels {
            return None;
        }
        let geometry = Geometry {
            channels: place.channels,
            ..whole.geometry
        };
        let mut part = self.take(geometry, whole.rows, false);
        each_pixel(&geometry, whole.rows, |row, y, x| {
            let values = &whole.pixel(row, y, x)[place.channel..][..place.channels];
            part.pixel_mut(row, y, x).copy_from_slice(values);
        });
        Some(part)
    }

    /// Gives a gradient to another buffer: as it is where that has none yet.
    fn hand_on(&self, gradient: Buffer, to: &mut Option<Buffer>, relu: Relu) {
        match to {
            Some(to) => {
                combine(self.isa, &gradient, None, true, relu, to);
                self.give(Some(gradient));
            }
            None => {
                let mut gradient = gradient;
                rectify(self.isa, &mut gradient, relu);
                *to = Some(gradient);
            }
        }
    }

    /// What a gradient is so far, zeros at first.
    fn accumulator(&self, so_far: &mut Option<Buffer>, buffer: usize, rows: usize) -> Buffer {
        so_far
            .take()
            .unwrap_or_else(|| self.take(self.gradients[buffer], rows, true))
    }
}

pub(super) fn each_pixel(
    geometry: &Geometry,
    rows: usize,
    mut work: impl FnMut(usize, usize, usize),
) {
    for row in 0..rows {
        for y in 0..geometry.height {
            for x in 0..geometry.width {
                work(row, y, x);
            }
        }
    }
}
