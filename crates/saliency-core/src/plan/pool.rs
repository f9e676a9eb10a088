//! Memory of earlier passes, used again.

use super::{
    Plan,
    buffer::{Buffer, Geometry},
    tape::Tape,
};

impl Plan {
    /// Memory of an earlier pass, with a border of zeros; all zeros where `clear`.
    pub(super) fn take(&self, geometry: Geometry, rows: usize, clear: bool) -> Buffer {
        let len = geometry.len() * rows;
        let Some(mut data) = self.reuse(len) else {
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

    /// A copy, in memory of an earlier pass.
    pub(super) fn copied(&self, buffer: &Buffer) -> Buffer {
        let mut copy = self.take(buffer.geometry, buffer.rows, false);
        copy.data.copy_from_slice(&buffer.data);
        copy
    }

    /// Memory of an earlier pass that is about as large: with the least to fill and to spare.
    fn reuse(&self, len: usize) -> Option<Vec<f32>> {
        let mut pool = self.pool.lock().unwrap_or_else(|e| e.into_inner());
        let fits = |&index: &usize| (len..4 * len + 4096).contains(&pool[index].capacity());
        let smallest = (0..pool.len())
            .filter(fits)
            .min_by_key(|&index| len.saturating_sub(pool[index].len()) + pool[index].capacity());
        smallest.map(|index| pool.swap_remove(index))
    }

    /// So many numbers, whatever they are.
    pub(super) fn memory(&self, len: usize) -> Vec<f32> {
        if len == 0 {
            return Vec::new();
        }
        let Some(mut data) = self.reuse(len) else {
            return vec![0.0; len];
        };
        data.resize(len, 0.0);
        data
    }

    /// Memory for later.
    pub(super) fn keep(&self, data: Vec<f32>) {
        if data.capacity() > 0 {
            let mut pool = self.pool.lock().unwrap_or_else(|e| e.into_inner());
            pool.push(data);
        }
    }

    pub(super) fn give(&self, buffer: Option<Buffer>) {
        if let Some(buffer) = buffer {
            self.keep(buffer.data);
        }
    }

    /// The memory of a tape that has done its work.
    pub(super) fn recycle(&self, tape: Tape) {
        tape.kept.into_iter().for_each(|kept| self.keep(kept));
    }
}

/// Makes the border zeros.
pub(super) fn clear_border(buffer: &mut Buffer) {
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
