//! Running a plan forward and back.

use super::{
    Plan,
    back::{Back, columns},
    buffer::{Bits, Buffer, Geometry},
    compile::{Conv, Place, Step},
    elementwise::{combine, max_pool, max_pool_back, mean, mean_back, rectify},
    sweep::{Epilogue, Reads, Relu, Weights, Writes, sweep},
};

/// What a forward pass keeps for the backward pass.
#[derive(Clone, Debug)]
pub(crate) struct Tape {
    rows: usize,
    /// The buffer that was asked for, and its values.
    pub tap: Option<(usize, Vec<f32>)>,
    /// By buffer: which values a ReLU let through.
    bits: Vec<Option<Bits>>,
    /// By step: which element of its window each maximum was.
    maxima: Vec<Option<Vec<u8>>>,
}

impl Tape {
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Of some rows, which may come again.
    pub fn select(&self, rows: &[usize]) -> Self {
        fn chosen<T: Copy>(data: &[T], all: usize, rows: &[usize]) -> Vec<T> {
            let len = data.len() / all;
            rows.iter()
                .flat_map(|row| &data[row * len..][..len])
                .copied()
                .collect()
        }
        let bits = |bits: &Bits| Bits {
            data: chosen(&bits.data, self.rows, rows),
            ..*bits
        };
        let maxima = |maxima: &Vec<u8>| chosen(maxima, self.rows, rows);
        Tape {
            rows: rows.len(),
            tap: self
                .tap
                .as_ref()
                .map(|(buffer, values)| (*buffer, chosen(values, self.rows, rows))),
            bits: self.bits.iter().map(|b| b.as_ref().map(bits)).collect(),
            maxima: self.maxima.iter().map(|m| m.as_ref().map(maxima)).collect(),
        }
    }

    /// Puts the rows of another tape of the same plan behind these.
    pub fn append(&mut self, other: Self) {
        self.rows += other.rows;
        if let (Some((_, values)), Some((_, more))) = (&mut self.tap, other.tap) {
            values.extend(more);
        }
        for (bits, more) in self.bits.iter_mut().zip(other.bits) {
            if let (Some(bits), Some(more)) = (bits, more) {
                bits.data.extend(more.data);
            }
        }
        for (maxima, more) in self.maxima.iter_mut().zip(other.maxima) {
            if let (Some(maxima), Some(more)) = (maxima, more) {
                maxima.extend(more);
            }
        }
    }
}

/// What a forward pass keeps besides the outputs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Keep {
    Nothing,
    /// What the backward pass needs.
    Tape,
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
    pub fn forward_taped(
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
        };
        for (index, step) in self.steps.iter().enumerate().skip(start) {
            self.clock.begins(index);
            let target = step.writes();
            let mut to = match buffers[target].take() {
                Some(buffer) => buffer,
                None => self.take(
                    self.buffers[target],
                    rows,
                    matches!(step, Step::Copy { .. }),
                ),
            };
            let mut bits = match self.rectified[target] {
                true => Some(
                    tape.bits[target]
                        .take()
                        .unwrap_or_else(|| Bits::zeros(self.buffers[target], rows)),
                ),
                false => None,
            };
            let from = |index: usize| buffers[index].as_ref().expect("it was computed before");
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
                    tape.maxima[index] = (keep == Keep::Tape).then_some(maxima);
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
                Step::Copy {
                    from: source,
                    to: place,
                    step,
                } => {
                    let source_buffer = from(source.buffer);
                    each_pixel(&to.geometry.clone(), rows, |row, y, x| {
                        let values = source_buffer.pixel(row, y * step[0], x * step[1]);
                        let values = &values[source.channel..][..source.channels];
                        to.pixel_mut(row, y, x)[place.channel..][..place.channels]
                            .copy_from_slice(values);
                    });
                }
            }
            if keep == Keep::Tape {
                tape.bits[target] = bits;
            }
            buffers[target] = Some(to);
            let complete = !self.steps[index + 1..].iter().any(|s| s.writes() == target);
            if let (Some((buffer, values)), Some(made)) = (&mut tape.tap, &buffers[target])
                && *buffer == target
                && complete
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
        (outputs, tape)
    }

    /// d score / d input, `[rows, channels, height, width]`, from d score / d outputs
    /// `[rows, outputs]`; where a buffer was asked for, the gradient at it instead.
    pub fn backward(&self, tape: &Tape, seed: &[f32], rule: ReluRule) -> Vec<f32> {
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
            let Some(arrived) = gradients[step.writes()].take() else {
                continue;
            };
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
                        let copy = gradient.clone();
                        self.hand_on(copy, &mut gradients[conv.from], Relu::No);
                    }
                    self.conv_back(conv, gradient, &mut gradients[conv.from], relu(conv.from));
                    self.give(part);
                    if let Some(residual) = conv.residual.filter(|_| !same) {
                        let to = &mut gradients[residual];
                        self.hand_on(arrived, to, relu(residual));
                        continue;
                    }
                    if conv.to.channels != arrived.geometry.channels && !self.is_first(index) {
                        // Other parts of a concatenation still need it.
                        gradients[conv.to.buffer] = Some(arrived);
                        continue;
                    }
                    self.give(Some(arrived));
                }
                Step::MaxPool { from, strides, .. } => {
                    let mut to = self.accumulator(&mut gradients[*from], *from, rows);
                    let maxima = tape.maxima[index]
                        .as_ref()
                        .expect("kept by the forward pass");
                    max_pool_back(self.isa, &arrived, maxima, &mut to, strides);
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
                    let copy = arrived.clone();
                    self.hand_on(copy, &mut gradients[from[0]], relu(from[0]));
                    self.hand_on(arrived, &mut gradients[from[1]], relu(from[1]));
                }
                Step::Relu { from, .. } => {
                    self.hand_on(arrived, &mut gradients[*from], relu(*from));
                }
                Step::Copy { from, to, step } => {
                    let mut target =
                        self.accumulator(&mut gradients[from.buffer], from.buffer, rows);
                    each_pixel(&arrived.geometry.clone(), rows, |row, y, x| {
                        let values = &arrived.pixel(row, y, x)[to.channel..][..to.channels];
                        let place = target.pixel_mut(row, y * step[0], x * step[1]);
                        for (to, value) in place[from.channel..].iter_mut().zip(values) {
                            *to += value;
                        }
                    });
                    rectify(self.isa, &mut target, relu(from.buffer));
                    gradients[from.buffer] = Some(target);
                    self.give(Some(arrived));
                }
            }
        }
        match gradients[end].take() {
            Some(gradient) => {
                let planes = gradient.to_planes();
                self.give(Some(gradient));
                planes
            }
            None => {
                vec![
                    0.0;
                    self.buffers[self.input].positions() * self.buffers[self.input].channels * rows
                ]
            }
        }
    }

    /// Whether no earlier step writes to the same buffer.
    fn is_first(&self, index: usize) -> bool {
        let buffer = self.steps[index].writes();
        !self.steps[..index]
            .iter()
            .any(|step| step.writes() == buffer)
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
                    Some(to) => combine(self.isa, &own, None, true, relu, to),
                    None => {
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

    /// Memory of an earlier pass, with a border of zeros; all zeros where `clear`.
    pub(super) fn take(&self, geometry: Geometry, rows: usize, clear: bool) -> Buffer {
        let len = geometry.len() * rows;
        let found = {
            let mut pool = self.pool.lock().unwrap_or_else(|e| e.into_inner());
            let fits = |&index: &usize| (len..4 * len + 4096).contains(&pool[index].capacity());
            let smallest = (0..pool.len())
                .filter(fits)
                .min_by_key(|&index| pool[index].capacity());
            smallest.map(|index| pool.swap_remove(index))
        };
        let Some(mut data) = found else {
            return Buffer::zeros(geometry, rows);
        };
        data.resize(len, 0.0);
        let mut buffer = Buffer {
            geometry,
            rows,
            data,
        };
        match clear {
            true => buffer.data.fill(0.0),
            false => clear_border(&mut buffer),
        }
        buffer
    }

    pub(super) fn give(&self, buffer: Option<Buffer>) {
        if let Some(buffer) = buffer {
            let mut pool = self.pool.lock().unwrap_or_else(|e| e.into_inner());
            pool.push(buffer.data);
        }
    }
}

fn clear_border(buffer: &mut Buffer) {
    let geometry = buffer.geometry;
    if geometry.halo == 0 {
        return;
    }
    let (pitch, side) = (geometry.pitch(), geometry.halo * geometry.channels);
    for row in buffer.data.chunks_mut(geometry.len()) {
        let lines = row.len() / pitch;
        for (y, line) in row.chunks_mut(pitch).enumerate() {
            if y < geometry.halo || y >= lines - geometry.halo {
                line.fill(0.0);
            } else {
                line[..side].fill(0.0);
                line[pitch - side..].fill(0.0);
            }
        }
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
