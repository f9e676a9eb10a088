//! Activations in memory: `[rows, height, width, channels]` with a border of zeros, so that a
//! window never has to ask whether it lies inside.

use rayon::prelude::*;

use super::kernel::LANES;

/// The size of one row of a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Geometry {
    pub height: usize,
    pub width: usize,
    pub channels: usize,
    /// Positions of zeros around it.
    pub halo: usize,
}

impl Geometry {
    /// Floats from one line of positions to the next.
    pub fn pitch(&self) -> usize {
        (self.width + 2 * self.halo) * self.channels
    }

    /// Floats of one row of the batch.
    pub fn len(&self) -> usize {
        (self.height + 2 * self.halo) * self.pitch()
    }

    /// Where a position starts; it may lie in the border.
    pub fn at(&self, row: usize, y: isize, x: isize) -> usize {
        let halo = self.halo as isize;
        let (y, x) = ((y + halo) as usize, (x + halo) as usize);
        row * self.len() + y * self.pitch() + x * self.channels
    }

    pub fn positions(&self) -> usize {
        self.height * self.width
    }
}

/// Neighbouring positions of a line.
#[derive(Clone, Copy, Debug)]
pub(super) struct Run {
    pub row: usize,
    /// The first.
    pub place: [usize; 2],
    pub count: usize,
}

impl Run {
    /// The first position of its row, lines counted through.
    pub fn position(&self, geometry: &Geometry) -> usize {
        let [y, x] = self.place;
        y * geometry.width + x
    }

    /// The first position, all rows counted through.
    pub fn first(&self, geometry: &Geometry) -> usize {
        self.row * geometry.positions() + self.position(geometry)
    }
}

/// Values of a whole batch.
#[derive(Clone, Debug)]
pub(super) struct Buffer {
    pub geometry: Geometry,
    pub rows: usize,
    pub data: Vec<f32>,
}

impl Buffer {
    pub fn zeros(geometry: Geometry, rows: usize) -> Self {
        Buffer {
            geometry,
            rows,
            data: vec![0.0; geometry.len() * rows],
        }
    }

    /// Takes values `[rows, channels, height, width]`.
    pub fn set_planes(&mut self, planes: &[f32]) {
        let geometry = self.geometry;
        let Geometry {
            height,
            width,
            channels,
            halo,
        } = geometry;
        let positions = geometry.positions();
        let (pitch, side) = (geometry.pitch(), halo * channels);
        let lines = self
            .data
            .par_chunks_mut(geometry.len())
            .enumerate()
            .flat_map_iter(|(row, data)| {
                let lines = data[halo * pitch..].chunks_mut(pitch).take(height);
                lines.enumerate().map(move |(y, line)| (row, y, line))
            });
        lines.for_each(|(row, y, line)| {
            for c in 0..channels {
                let from = &planes[(row * channels + c) * positions + y * width..][..width];
                for (x, value) in from.iter().enumerate() {
                    line[side + x * channels + c] = *value;
                }
            }
        });
    }

    /// As `[rows, channels, height, width]`.
    pub fn to_planes(&self) -> Vec<f32> {
        let geometry = &self.geometry;
        let channels = geometry.channels;
        let mut planes = vec![0.0; self.rows * channels * geometry.positions()];
        if planes.is_empty() {
            return planes;
        }
        planes
            .par_chunks_mut(geometry.positions())
            .enumerate()
            .for_each(|(index, plane)| {
                let (row, c) = (index / channels, index % channels);
                for (y, line) in plane.chunks_mut(geometry.width).enumerate() {
                    let from = &self.data[geometry.at(row, y as isize, 0) + c..];
                    for (to, value) in line.iter_mut().zip(from.iter().step_by(channels)) {
                        *to = *value;
                    }
                }
            });
        planes
    }

    /// The channels of a line of positions.
    pub fn line(&self, row: usize, y: usize) -> &[f32] {
        let at = self.geometry.at(row, y as isize, 0);
        &self.data[at..at + self.geometry.width * self.geometry.channels]
    }

    /// Calls `work` with row, line and the channels of all its positions, lines side by side.
    pub fn each_line(&mut self, work: impl Fn(usize, usize, &mut [f32]) + Sync) {
        let Geometry {
            height,
            width,
            channels,
            halo,
        } = self.geometry;
        let (pitch, side, len) = (self.geometry.pitch(), halo * channels, width * channels);
        self.data
            .par_chunks_mut(self.geometry.len())
            .enumerate()
            .flat_map(|(row, data)| {
                let lines = data[halo * pitch..][..height * pitch].par_chunks_mut(pitch);
                lines.enumerate().map(move |(y, line)| (row, y, line))
            })
            .for_each(|(row, y, line)| work(row, y, &mut line[side..][..len]));
    }

    /// The channels of some positions.
    pub fn run(&self, run: Run) -> &[f32] {
        let [y, x] = run.place;
        let at = self.geometry.at(run.row, y as isize, x as isize);
        &self.data[at..at + run.count * self.geometry.channels]
    }

    /// Calls `work` with the channels of positions side by side: lines, or parts of them where
    /// there are few lines, as with tokens, which are one.
    pub fn each_run(&mut self, work: impl Fn(Run, &mut [f32]) + Sync) {
        /// Floats that are worth a task.
        const LEAST: usize = 1 << 12;
        let geometry = self.geometry;
        let (width, channels) = (geometry.width, geometry.channels);
        let lines = (self.rows * geometry.height).max(1);
        let parts = (4 * rayon::current_num_threads()).div_ceil(lines);
        let count = width
            .div_ceil(parts)
            .max(LEAST.div_ceil(channels))
            .min(width);
        self.each_line(|row, y, line| {
            let runs = line.par_chunks_mut(count * channels).enumerate();
            runs.for_each(|(index, values)| {
                let place = [y, index * count];
                let count = values.len() / channels;
                work(Run { row, place, count }, values);
            });
        });
    }

    /// A row's values without the border.
    pub fn copy_row(&self, row: usize, out: &mut [f32]) {
        let len = self.geometry.width * self.geometry.channels;
        for (y, out) in out.chunks_exact_mut(len).enumerate() {
            out.copy_from_slice(self.line(row, y));
        }
    }

    /// Where the values of a row's memory `[positions][channels]` lie, border and all.
    pub fn place(&self, row: usize, offset: usize) -> usize {
        let Geometry {
            width, channels, ..
        } = self.geometry;
        let (position, channel) = (offset / channels, offset % channels);
        let (y, x) = (position / width, position % width);
        self.geometry.at(row, y as isize, x as isize) + channel
    }

    /// The channels of one position.
    pub fn pixel(&self, row: usize, y: usize, x: usize) -> &[f32] {
        let at = self.geometry.at(row, y as isize, x as isize);
        &self.data[at..at + self.geometry.channels]
    }

    pub fn pixel_mut(&mut self, row: usize, y: usize, x: usize) -> &mut [f32] {
        let at = self.geometry.at(row, y as isize, x as isize);
        &mut self.data[at..at + self.geometry.channels]
    }
}

/// Which values a ReLU let through: bits, in words of [`LANES`] channels, without a border.
#[derive(Clone, Debug)]
pub(super) struct Bits {
    pub words: usize,
    pub width: usize,
    pub positions: usize,
    pub data: Vec<u16>,
}

impl Bits {
    pub fn zeros(geometry: Geometry, rows: usize) -> Self {
        let words = geometry.channels.div_ceil(LANES);
        Bits {
            words,
            width: geometry.width,
            positions: geometry.positions(),
            data: vec![0; words * geometry.positions() * rows],
        }
    }

    /// Where the words of a position start.
    pub fn at(&self, row: usize, y: usize, x: usize) -> usize {
        (row * self.positions + y * self.width + x) * self.words
    }
}
