//! Outputs at inputs that differ from another one, the base, in few positions. Of each step's
//! values only a rectangle is computed, as large as what the change can reach; all others are
//! the base's, to the bit.

use std::{borrow::Cow, ops::Range};

use rayon::prelude::*;

use super::{
    Plan,
    activate::activate,
    affine::affine,
    buffer::{Bits, Buffer, Geometry},
    depthwise::depthwise,
    elementwise::{Strides, combine, max_pool_at},
    normalise::{norm, softmax_of},
    part_of,
    run::{Keep, each_pixel},
    step::Step,
    sweep::{Epilogue, Reads, Relu, Weights, Writes, sweep},
};

/// The part of a pass's work that must be saved, so that it is worth the trouble.
const LEAST: f64 = 0.1;
/// What an output in a rectangle takes, of what it takes in a pass over everything.
const PATCHED: f64 = 1.2;
/// Multiplications that a value takes as long as in steps that have none.
const ELEMENTWISE: usize = 32;

/// Lines and columns of one row.
pub(crate) type Rect = [Range<usize>; 2];

fn hull(a: &Rect, b: &Rect) -> Rect {
    [0, 1].map(|d| a[d].start.min(b[d].start)..a[d].end.max(b[d].end))
}

/// The outputs of a step, of which there are `grid`, whose windows hold something of a
/// rectangle; one that does not where there are none.
fn reached(rect: &Rect, window: &Strides, grid: [usize; 2]) -> Rect {
    [0, 1].map(|d| {
        let (stride, padding) = (window.stride[d], window.padding[d]);
        let start = match (rect[d].start + padding).checked_sub(window.reach(d)) {
            Some(before) => before / stride + 1,
            None => 0,
        };
        let start = start.min(grid[d] - 1);
        let end = (rect[d].end + padding).div_ceil(stride).min(grid[d]);
        start..end.max(start + 1)
    })
}

/// A rectangle of each row, all of the same size. It may reach over the border.
#[derive(Clone, Debug, PartialEq)]
struct Region {
    size: [usize; 2],
    origins: Vec<[isize; 2]>,
}

impl Region {
    /// Rectangles that hold the given ones, inside a picture.
    fn around(rects: &[Rect], picture: [usize; 2]) -> Self {
        let largest = |d: usize| rects.iter().map(|rect| rect[d].len()).max();
        let size = [0, 1].map(|d| largest(d).unwrap_or(0).max(1));
        let origin = |rect: &Rect| [0, 1].map(|d| rect[d].start.min(picture[d] - size[d]) as isize);
        Region {
            size,
            origins: rects.iter().map(origin).collect(),
        }
    }

    /// For regions inside the picture.
    fn rects(&self) -> impl Iterator<Item = Rect> {
        self.origins.iter().map(|origin| {
            [0, 1].map(|d| {
                let start = origin[d] as usize;
                start..start + self.size[d]
            })
        })
    }

    /// What the windows of these outputs hold.
    fn footprint(&self, window: &Strides) -> Self {
        let first =
            |d: usize, at: isize| at * window.stride[d] as isize - window.padding[d] as isize;
        Region {
            size: [0, 1].map(|d| (self.size[d] - 1) * window.stride[d] + window.reach(d)),
            origins: (self.origins.iter())
                .map(|origin| [0, 1].map(|d| first(d, origin[d])))
                .collect(),
        }
    }

    /// Memory for it, without a border.
    fn geometry(&self, of: Geometry) -> Geometry {
        let [height, width] = self.size;
        Geometry {
            height,
            width,
            halo: 0,
            ..of
        }
    }
}

/// The values of a region.
#[derive(Clone)]
struct Patch {
    region: Region,
    buffer: Buffer,
}

/// One row of a buffer that has some positions of a picture, from `origin` on.
#[derive(Clone, Copy)]
struct Placed {
    geometry: Geometry,
    origin: [isize; 2],
}

impl Placed {
    fn range(&self, axis: usize) -> Range<isize> {
        let size = [self.geometry.height, self.geometry.width][axis] as isize;
        self.origin[axis]..self.origin[axis] + size
    }
}

/// Copies the positions that both have.
fn overlay(to: &mut [f32], place: Placed, from: &[f32], source: Placed) {
    let [lines, columns] = [0, 1].map(|d| {
        let (a, b) = (place.range(d), source.range(d));
        a.start.max(b.start)..a.end.min(b.end)
    });
    let len = columns.end.saturating_sub(columns.start).max(0) as usize * place.geometry.channels;
    for y in lines {
        let at = |at: Placed| {
            at.geometry
                .at(0, y - at.origin[0], columns.start - at.origin[1])
        };
        if len > 0 {
            to[at(place)..][..len].copy_from_slice(&from[at(source)..][..len]);
        }
    }
}

/// An input that others are compared with.
pub(crate) struct Base {
    planes: Vec<f32>,
    /// All values of its pass, once they are worth it.
    buffers: Vec<Option<Buffer>>,
    /// Passes that they would have saved so far.
    missed: f64,
}

impl Base {
    pub fn new(planes: Vec<f32>) -> Self {
        Base {
            planes,
            buffers: Vec::new(),
            missed: 0.0,
        }
    }
}

/// What is done with rectangles.
struct Schedule {
    /// The steps before this one; all others are done as ever.
    end: usize,
    /// Of each buffer that those write.
    regions: Vec<Option<Region>>,
    /// Part of a pass's work.
    saved: f64,
}

const SAME: Strides = Strides {
    kernel: [1, 1],
    stride: [1, 1],
    padding: [0, 0],
    dilation: [1, 1],
};

impl Plan {
    /// The buffers that a step reads, and the windows of its outputs. `None` where every output
    /// depends on everything, or on where it is.
    fn windows(&self, step: &Step) -> Option<Vec<(usize, Strides)>> {
        Some(match step {
            Step::Conv(conv) => {
                let window = Strides {
                    kernel: conv.kernel,
                    stride: conv.stride,
                    padding: conv.padding,
                    dilation: [1, 1],
                };
                let residual = conv.residual.map(|residual| (residual, SAME));
                [(conv.from, window)].into_iter().chain(residual).collect()
            }
            Step::Depthwise(layer) if layer.shares.is_empty() => vec![(layer.from, layer.strides)],
            Step::MaxPool { from, strides, .. } => vec![(*from, *strides)],
            Step::Add { from, .. } => from.map(|from| (from, SAME)).to_vec(),
            Step::Relu { from, .. }
            | Step::Activate { from, .. }
            | Step::Softmax { from, .. }
            | Step::Norm { from, .. } => vec![(*from, SAME)],
            Step::Affine {
                from, scale, shift, ..
            } => {
                let channels = self.buffers[*from].channels;
                let by_channel = |factors: &Option<Vec<f32>>| {
                    factors
                        .as_ref()
                        .is_none_or(|factors| factors.len() == channels)
                };
                (by_channel(scale) && by_channel(shift)).then(|| vec![(*from, SAME)])?
            }
            Step::Copy { from, to, first: 0 } => {
                let [source, target] = [from.buffer, to.buffer].map(|buffer| self.buffers[buffer]);
                let stride = from.steps(source, target)?;
                vec![(from.buffer, Strides { stride, ..SAME })]
            }
            Step::Depthwise(_)
            | Step::Mean { .. }
            | Step::Gate { .. }
            | Step::Attention(_)
            | Step::Copy { .. }
            | Step::Fill { .. } => return None,
        })
    }

    /// The positions in which a row differs from the base.
    pub fn difference(&self, base: &Base, planes: &[f32]) -> Rect {
        let Geometry { height, width, .. } = self.buffers[self.input];
        let mut rect: Option<Rect> = None;
        let lines = base.planes.chunks(width).zip(planes.chunks(width));
        for (line, (a, b)) in lines.enumerate() {
            let differ = |(a, b): (&f32, &f32)| a.to_bits() ^ b.to_bits();
            // Without a way out it is done many values at a time.
            if a.iter().zip(b).map(differ).fold(0, |all, bits| all | bits) == 0 {
                continue;
            }
            let mut differ = a.iter().zip(b).map(|pair| differ(pair) != 0);
            let first = differ.clone().position(|d| d).unwrap_or(0);
            let last = differ.rposition(|d| d).unwrap_or(first);
            let y = line % height;
            let found = [y..y + 1, first..last + 1];
            rect = Some(rect.map_or(found.clone(), |rect| hull(&rect, &found)));
        }
        rect.unwrap_or([0..0, 0..0])
    }

    /// Whether a row with such a difference takes less time when only that is computed.
    pub fn gains(&self, change: &Rect) -> bool {
        self.schedule(std::slice::from_ref(change)).is_some()
    }

    /// Outputs of rows that differ from the base in `changes`.
    pub fn run_changed(&self, base: &mut Base, planes: &[f32], changes: &[Rect]) -> Vec<f32> {
        let rows = changes.len();
        let mut outputs = Vec::new();
        for range in self.parts(rows) {
            let planes = part_of(planes, rows, &range);
            let schedule = self.schedule(&changes[range.clone()]);
            base.missed += schedule.as_ref().map_or(0.0, |s| s.saved) * range.len() as f64;
            outputs.extend(match schedule {
                Some(schedule) if base.missed > 1.0 => {
                    if base.buffers.is_empty() {
                        base.buffers = self.entered(&base.planes, 1);
                        self.pass_on(&mut base.buffers, 0, 1, Keep::Buffers, None);
                    }
                    self.forward_changed(&base.buffers, planes, &schedule)
                }
                _ => self.forward(planes, range.len()),
            });
        }
        outputs
    }

    /// The steps that are worth it.
    fn schedule(&self, changes: &[Rect]) -> Option<Schedule> {
        let total: f64 = self.steps.iter().map(|step| self.work(step)).sum();
        let (regions, gains) = self.regions(changes);
        let (mut saved, mut best) = (0.0, (0, 0.0));
        for (index, gain) in gains.iter().enumerate() {
            saved += gain / total;
            if saved > best.1 {
                best = (index + 1, saved);
            }
        }
        let (end, saved) = best;
        (saved > LEAST).then_some(Schedule {
            end,
            regions,
            saved,
        })
    }

    /// What changes of the input can reach of each buffer, and the work that each step saves, up
    /// to one where every output depends on everything.
    fn regions(&self, changes: &[Rect]) -> (Vec<Option<Region>>, Vec<f64>) {
        let picture = |buffer: usize| [self.buffers[buffer].height, self.buffers[buffer].width];
        let mut regions: Vec<Option<Region>> = vec![None; self.buffers.len()];
        regions[self.input] = Some(Region::around(changes, picture(self.input)));
        let mut gains = Vec::new();
        for (step, windows) in self.steps.iter().map_while(|s| Some((s, self.windows(s)?))) {
            let (target, grid) = (step.writes(), picture(step.writes()));
            let before = regions[target].iter().map(|r| r.rects().collect());
            let read = windows.iter().filter_map(|(from, window)| {
                let rects = regions[*from].as_ref()?.rects();
                Some(rects.map(|rect| reached(&rect, window, grid)).collect())
            });
            let rects = before.chain(read).reduce(|a: Vec<Rect>, b| {
                let pairs = a.iter().zip(&b);
                pairs.map(|(a, b)| hull(a, b)).collect()
            });
            let region = Region::around(&rects.unwrap_or_default(), grid);
            let part = region.size[0] * region.size[1];
            let part = part as f64 / self.buffers[target].positions() as f64;
            gains.push(self.work(step) * (1.0 - PATCHED * part));
            regions[target] = Some(region);
        }
        (regions, gains)
    }

    /// Multiplications of a step for one row.
    fn work(&self, step: &Step) -> f64 {
        let to = self.buffers[step.writes()];
        let each = match step {
            Step::Conv(conv) => conv.weights.rows * conv.weights.channels,
            Step::Depthwise(layer) => layer.weights.len(),
            _ => ELEMENTWISE * to.channels,
        };
        each as f64 * to.positions() as f64
    }

    fn forward_changed(
        &self,
        base: &[Option<Buffer>],
        planes: &[f32],
        schedule: &Schedule,
    ) -> Vec<f32> {
        let mut patches: Vec<Option<Patch>> = vec![None; self.buffers.len()];
        let region = |buffer: usize| schedule.regions[buffer].as_ref().expect("it is reached");
        let rows = region(self.input).origins.len();
        patches[self.input] = Some(self.entered_patch(planes, region(self.input)));
        for (index, step) in self.steps[..schedule.end].iter().enumerate() {
            let target = step.writes();
            let region = region(target);
            let mut to = match patches[target].take() {
                Some(patch) => patch.buffer,
                None => self.take(
                    region.geometry(self.buffers[target]),
                    rows,
                    step.is_partial(),
                ),
            };
            let windows = self.windows(step).unwrap_or_default();
            let sources: Vec<Cow<Buffer>> = (windows.iter())
                .map(|(from, window)| {
                    let base = base[*from].as_ref().expect("all were kept");
                    let patch = patches[*from].as_ref().expect("it was computed before");
                    self.gathered(base, patch, region.footprint(window))
                })
                .collect();
            self.step_changed(step, &sources, region, &mut to);
            for source in sources {
                if let Cow::Owned(source) = source {
                    self.give(Some(source));
                }
            }
            patches[target] = Some(Patch {
                region: region.clone(),
                buffer: to,
            });
            for read in step.reads() {
                if self.last_reader[read] == index {
                    self.give(patches[read].take().map(|patch| patch.buffer));
                }
            }
        }
        let mut buffers: Vec<Option<Buffer>> = patches
            .into_iter()
            .zip(base)
            .map(|(patch, base)| Some(self.whole(base.as_ref()?, patch?)))
            .collect();
        self.pass_on(&mut buffers, schedule.end, rows, Keep::Nothing, None)
            .0
    }

    /// The outputs of a step in a region, from what their windows hold.
    fn step_changed(&self, step: &Step, sources: &[Cow<Buffer>], region: &Region, to: &mut Buffer) {
        let mut bits = self.rectified[step.writes()].then(|| Bits::zeros(to.geometry, to.rows));
        let relu = bits.as_mut().map_or(Relu::No, Relu::Forward);
        let other = sources.get(1).map(|source| &**source);
        match step {
            Step::Conv(conv) => sweep(
                &sources[0],
                Reads {
                    origin: [0, 0],
                    step: conv.stride,
                    window: conv.kernel,
                },
                Weights::Panels(&conv.weights),
                to,
                Writes {
                    origin: [0, 0],
                    step: [1, 1],
                    grid: region.size,
                    channel: conv.to.channel,
                },
                Epilogue {
                    bias: conv.bias.as_deref(),
                    residual: other,
                    accumulate: false,
                    relu,
                },
            ),
            Step::MaxPool { from, strides, .. } => {
                let origins = region.footprint(strides).origins;
                let picture = self.buffers[*from];
                max_pool_at(self.isa, &sources[0], to, strides, picture, &origins);
            }
            Step::Add { .. } | Step::Relu { .. } => {
                combine(self.isa, &sources[0], other, false, relu, to);
            }
            Step::Depthwise(layer) => {
                let strides = Strides {
                    padding: [0, 0],
                    ..layer.strides
                };
                depthwise(self.isa, layer, &strides, &sources[0], to);
            }
            Step::Activate { function, .. } => {
                activate(self.isa, *function, &sources[0], to, &mut []);
            }
            Step::Affine { scale, shift, .. } => {
                affine(&sources[0], scale.as_deref(), shift.as_deref(), to);
            }
            Step::Norm {
                gamma,
                beta,
                epsilon,
                ..
            } => {
                let factors = [gamma, beta.as_deref().unwrap_or_default()];
                norm(self.isa, &sources[0], factors, *epsilon, to, &mut []);
            }
            Step::Softmax { .. } => softmax_of(self.isa, &sources[0], to, &mut []),
            Step::Copy {
                from, to: place, ..
            } => {
                let source = self.buffers[from.buffer];
                let steps = from
                    .steps(source, self.buffers[place.buffer])
                    .unwrap_or([1, 1]);
                let first = from.offset % source.channels;
                each_pixel(&to.geometry.clone(), to.rows, |row, y, x| {
                    let values = sources[0].pixel(row, y * steps[0], x * steps[1]);
                    let values = &values[first..][..from.channels];
                    to.pixel_mut(row, y, x)[place.channel..][..place.channels]
                        .copy_from_slice(values);
                });
            }
            // They have no windows, so rectangles end before them.
            Step::Mean { .. } | Step::Gate { .. } | Step::Attention(_) | Step::Fill { .. } => {}
        }
    }

    /// The input's values in a region.
    fn entered_patch(&self, planes: &[f32], region: &Region) -> Patch {
        let Geometry {
            height,
            width,
            channels,
            ..
        } = self.buffers[self.input];
        let rows = region.origins.len();
        let geometry = region.geometry(self.buffers[self.input]);
        let mut buffer = self.take(geometry, rows, false);
        each_pixel(&geometry, rows, |row, y, x| {
            let [top, left] = region.origins[row];
            let at = (y + top as usize) * width + x + left as usize;
            for (c, value) in buffer.pixel_mut(row, y, x).iter_mut().enumerate() {
                *value = planes[(row * channels + c) * height * width + at];
            }
        });
        Patch {
            region: region.clone(),
            buffer,
        }
    }

    /// The values of a region, from a patch of it and the base. What lies outside the picture is
    /// zero.
    fn gathered<'a>(&self, base: &Buffer, patch: &'a Patch, region: Region) -> Cow<'a, Buffer> {
        if region == patch.region {
            return Cow::Borrowed(&patch.buffer);
        }
        let [height, width] = [base.geometry.height as isize, base.geometry.width as isize];
        let over = region.origins.iter().any(|&[y, x]| {
            let [h, w] = region.size.map(|size| size as isize);
            y < 0 || x < 0 || y + h > height || x + w > width
        });
        let geometry = region.geometry(base.geometry);
        let mut gathered = self.take(geometry, patch.buffer.rows, over);
        let rows = gathered.data.par_chunks_mut(geometry.len()).enumerate();
        rows.for_each(|(row, to)| {
            let place = Placed {
                geometry,
                origin: region.origins[row],
            };
            lay(to, place, base, patch, row);
        });
        Cow::Owned(gathered)
    }

    /// All values of a buffer, as other steps take them.
    fn whole(&self, base: &Buffer, patch: Patch) -> Buffer {
        let geometry = base.geometry;
        let mut whole = self.take(geometry, patch.buffer.rows, false);
        let rows = whole.data.par_chunks_mut(geometry.len()).enumerate();
        rows.for_each(|(row, to)| {
            let origin = [0, 0];
            lay(to, Placed { geometry, origin }, base, &patch, row);
        });
        self.give(Some(patch.buffer));
        whole
    }
}

/// The base's values, and above them a row of the patch.
fn lay(to: &mut [f32], place: Placed, base: &Buffer, patch: &Patch, row: usize) {
    let picture = Placed {
        geometry: base.geometry,
        origin: [0, 0],
    };
    overlay(to, place, &base.data, picture);
    let geometry = patch.buffer.geometry;
    let above = Placed {
        geometry,
        origin: patch.region.origins[row],
    };
    let values = &patch.buffer.data[row * geometry.len()..][..geometry.len()];
    overlay(to, place, values, above);
}

#[cfg(test)]
mod tests;
