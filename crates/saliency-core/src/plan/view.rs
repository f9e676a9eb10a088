//! Which memory of a buffer a node's values are. Reshaping, permuting and slicing change the
//! view and move nothing.

use super::buffer::Geometry;
use crate::graph::Size;

/// A part of an axis: its index is made of the indices of its parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// The rows of the batch.
    Rows,
    /// So many indices, so many floats apart.
    Of { size: usize, stride: usize },
}

/// A node's values in the memory `[positions][channels]` of each row of a buffer, its border
/// not counted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct View {
    pub buffer: usize,
    /// Of the first value.
    pub offset: usize,
    /// For each axis its parts, the slowest first.
    axes: Vec<Vec<Part>>,
}

/// Channels of some positions, all of them in one buffer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Strided {
    pub buffer: usize,
    pub offset: usize,
    pub channels: usize,
    /// Floats from one channel to the next.
    pub spacing: usize,
    /// Sizes and strides, the slowest first.
    pub positions: Vec<[usize; 2]>,
}

impl Strided {
    /// Whether the channels of a position are neighbours in one position of the buffer.
    pub fn is_together(&self, geometry: Geometry) -> bool {
        let all = geometry.channels;
        let whole = self.positions.iter().all(|[_, stride]| stride % all == 0);
        self.spacing == 1 && self.offset % all + self.channels <= all && whole
    }

    /// Lines and columns from one position to the next, where positions are a grid from the first
    /// one of a buffer on that fills another.
    pub fn steps(&self, source: Geometry, target: Geometry) -> Option<[usize; 2]> {
        let line = source.width * source.channels;
        let steps = match self.positions[..] {
            [[count, stride]] if stride == source.channels && count == source.positions() => [1, 1],
            [[_, down], [_, across]] if down % line == 0 && across % source.channels == 0 => {
                [down / line, across / source.channels]
            }
            _ => return None,
        };
        let fits = |size: usize, step: usize, grid: usize| (grid - 1) * step < size;
        let filled = self
            .positions
            .iter()
            .map(|[size, _]| size)
            .product::<usize>();
        let fits = fits(source.height, steps[0], target.height)
            && fits(source.width, steps[1], target.width)
            && filled == target.positions()
            && steps.iter().all(|&step| step > 0);
        (fits && self.offset < source.channels && self.is_together(source)).then_some(steps)
    }

    /// Where the positions start, in their order.
    pub fn starts(&self) -> Vec<usize> {
        let mut starts = vec![self.offset];
        for [size, stride] in &self.positions {
            starts = starts
                .iter()
                .flat_map(|start| (0..*size).map(move |i| start + i * stride))
                .collect();
        }
        starts
    }
}

impl View {
    /// `[rows, channels, height, width]`.
    pub fn planes(buffer: usize, geometry: Geometry) -> Self {
        let Geometry {
            height,
            width,
            channels,
            ..
        } = geometry;
        let axis = |size, stride| normal(vec![Part::Of { size, stride }]);
        View {
            buffer,
            offset: 0,
            axes: vec![
                vec![Part::Rows],
                axis(channels, 1),
                axis(height, width * channels),
                axis(width, channels),
            ],
        }
    }

    /// The same of another buffer of the same kind.
    pub fn of(&self, buffer: usize) -> Self {
        View {
            buffer,
            ..self.clone()
        }
    }

    pub fn permute(&self, order: &[usize]) -> Self {
        View {
            axes: order.iter().map(|&axis| self.axes[axis].clone()).collect(),
            ..self.clone()
        }
    }

    /// `None` where values would have to be moved.
    pub fn reshape(&self, shape: &[Size]) -> Option<Self> {
        let mut left = normal(self.axes.concat());
        left.reverse();
        let mut axes = Vec::new();
        for size in shape {
            let mut axis = Vec::new();
            let mut wanted = match *size {
                Size::Fixed(size) => size,
                Size::Rows(times) => {
                    (left.pop()? == Part::Rows).then_some(())?;
                    axis.push(Part::Rows);
                    times
                }
            };
            while wanted > 1 {
                let Part::Of { size, stride } = left.pop()? else {
                    return None;
                };
                if wanted.is_multiple_of(size) {
                    axis.push(Part::Of { size, stride });
                    wanted /= size;
                } else if size.is_multiple_of(wanted) {
                    let inner = size / wanted;
                    axis.push(Part::Of {
                        size: wanted,
                        stride: stride * inner,
                    });
                    left.push(Part::Of {
                        size: inner,
                        stride,
                    });
                    wanted = 1;
                } else {
                    return None;
                }
            }
            axes.push(normal(axis));
        }
        left.is_empty().then_some(View {
            axes,
            ..self.clone()
        })
    }

    /// `count` indices of an axis.
    pub fn slice(&self, axis: usize, start: usize, step: usize, count: usize) -> Option<Self> {
        let [size, stride] = self.simple(axis)?;
        (count > 0 && start + (count - 1) * step < size).then_some(())?;
        let mut view = self.clone();
        view.offset += start * stride;
        view.axes[axis] = normal(vec![Part::Of {
            size: count,
            stride: stride * step,
        }]);
        Some(view)
    }

    /// Size and stride of an axis of one part.
    pub fn simple(&self, axis: usize) -> Option<[usize; 2]> {
        match self.axes[axis][..] {
            [] => Some([1, 0]),
            [Part::Of { size, stride }] => Some([size, stride]),
            _ => None,
        }
    }

    pub fn rank(&self) -> usize {
        self.axes.len()
    }

    /// The axes before the last ones, as one.
    pub fn leading(&self, last: usize) -> Vec<Part> {
        normal(self.axes[..self.rank() - last].concat())
    }

    /// All values of the buffer, in whatever order.
    pub fn is_whole(&self, geometry: Geometry) -> bool {
        self.count() == geometry.positions() * geometry.channels && self.offset == 0
    }

    fn count(&self) -> usize {
        let sizes = self.axes.iter().flatten().map(|part| match part {
            Part::Rows => 1,
            Part::Of { size, .. } => *size,
        });
        sizes.product()
    }

    /// Where each value lies, in the order of the axes.
    pub fn offsets(&self) -> Vec<usize> {
        let parts = self.axes.concat();
        let positions = parts.iter().filter_map(|part| match part {
            Part::Rows => None,
            Part::Of { size, stride } => Some([*size, *stride]),
        });
        let all = Strided {
            buffer: self.buffer,
            offset: self.offset,
            channels: 1,
            spacing: 1,
            positions: positions.collect(),
        };
        all.starts()
    }

    /// The places of one axis, counted from the first value.
    pub fn places(&self, axis: usize) -> Vec<usize> {
        let alone = View {
            offset: 0,
            axes: vec![self.axes[axis].clone()],
            ..self.clone()
        };
        alone.offsets()
    }

    /// With one axis as channels and all others as positions.
    pub fn channels_of(&self, axis: usize) -> Option<Strided> {
        let [channels, stride] = self.simple(axis)?;
        let mut axes = self.axes.clone();
        axes.remove(axis);
        let positions = normal(axes.concat());
        (positions.first() == Some(&Part::Rows)).then_some(())?;
        let positions = positions[1..].iter().map(|part| match part {
            Part::Rows => None,
            Part::Of { size, stride } => Some([*size, *stride]),
        });
        Some(Strided {
            buffer: self.buffer,
            offset: self.offset,
            channels,
            spacing: stride.max(1),
            positions: positions.collect::<Option<_>>()?,
        })
    }

    /// The axis whose values are neighbours.
    pub fn channel_axis(&self) -> Option<usize> {
        let neighbours = |axis: &usize| matches!(self.simple(*axis), Some([_, 1]));
        (0..self.rank()).find(neighbours)
    }

    /// The same positions of a buffer with another number of channels, where an axis is all
    /// channels of `before`.
    pub fn with_channels(&self, axis: usize, buffer: usize, before: usize, after: usize) -> Self {
        let mut view = self.of(buffer);
        for part in view.axes.iter_mut().flatten() {
            if let Part::Of { stride, .. } = part {
                *stride = *stride / before * after;
            }
        }
        view.axes[axis] = normal(vec![Part::Of {
            size: after,
            stride: 1,
        }]);
        view
    }

    /// The axes dense in memory, the given one as channels and the others as positions in their
    /// order: what a copy of the values into a buffer of their own is.
    pub fn copied(&self, axis: usize, buffer: usize) -> Option<Self> {
        let channels = self.simple(axis)?[0];
        let mut view = self.of(buffer);
        view.offset = 0;
        let mut stride = channels;
        for (index, parts) in view.axes.iter_mut().enumerate().rev() {
            if index == axis {
                *parts = normal(vec![Part::Of {
                    size: channels,
                    stride: 1,
                }]);
                continue;
            }
            for part in parts.iter_mut().rev() {
                if let Part::Of { size, stride: own } = part {
                    *own = stride;
                    stride *= *size;
                }
            }
            *parts = normal(std::mem::take(parts));
        }
        Some(view)
    }
}

/// Without parts of one index, and with neighbouring parts as one where they can be.
fn normal(parts: Vec<Part>) -> Vec<Part> {
    let mut found: Vec<Part> = Vec::new();
    for part in parts {
        let Part::Of { size, stride } = part else {
            found.push(part);
            continue;
        };
        if size == 1 {
            continue;
        }
        match found.last_mut() {
            Some(Part::Of {
                size: outer,
                stride: apart,
            }) if *apart == size * stride => {
                *outer *= size;
                *apart = stride;
            }
            _ => found.push(part),
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const GEOMETRY: Geometry = Geometry {
        height: 4,
        width: 6,
        channels: 8,
        halo: 0,
    };

    /// Any way through permutations, reshapes and slices, against the same on the indices.
    fn applied(view: &View, values: &burn::tensor::Tensor<4>) -> bool {
        let want: Vec<usize> = values
            .clone()
            .try_into_vec_as::<f32>()
            .unwrap()
            .into_iter()
            .map(|v| v as usize)
            .collect();
        view.offsets() == want
    }

    proptest! {
        #[test]
        fn views_are_what_burn_makes(
            order in Just(vec![1usize, 2, 3]).prop_shuffle(),
            again in Just(vec![1usize, 2, 3]).prop_shuffle(),
            split in 0usize..3,
            cut in (0usize..2, 1usize..3),
        ) {
            let device = burn::tensor::Device::flex();
            let memory: Vec<f32> = (0..4 * 6 * 8).map(|i| i as f32).collect();
            let values = burn::tensor::Tensor::<1>::from_floats(&memory[..], &device)
                .reshape([1, 4, 6, 8])
                .permute([0, 3, 1, 2]);
            let view = View::planes(0, GEOMETRY);
            prop_assert!(applied(&view, &values));
            let order = [0, order[0], order[1], order[2]];
            let (view, values) = (view.permute(&order), values.permute(order.map(|a| a as isize)));
            prop_assert!(applied(&view, &values));
            let (start, step) = cut;
            let size = values.dims()[2];
            let count = (size - start).div_ceil(step);
            let view = view.slice(2, start, step, count).unwrap();
            let values = values.slice([
                burn::tensor::Slice::full(),
                burn::tensor::Slice::full(),
                burn::tensor::Slice::new(start as isize, None, step as isize),
                burn::tensor::Slice::full(),
            ]);
            prop_assert!(applied(&view, &values));
            let [_, a, b, c] = values.dims();
            let shape = [[1, a * b, c, 1], [1, a, b * c, 1], [1, a, 2 * b, c / 2]][split];
            if let Some(view) = view.reshape(&[
                Size::Rows(1), Size::Fixed(shape[1]), Size::Fixed(shape[2]), Size::Fixed(shape[3]),
            ]) {
                let values = values.reshape(shape);
                prop_assert!(applied(&view, &values));
                let again = [0, again[0], again[1], again[2]];
                let view = view.permute(&again);
                prop_assert!(applied(&view, &values.permute(again.map(|a| a as isize))));
            }
        }
    }
}
