//! Copies of values from buffer to buffer.

use rayon::prelude::*;

use super::{buffer::Buffer, step::Place, view::Strided};

/// Values of a buffer to some channels of another one, from its position `first` on.
pub(super) fn copy(from: &Buffer, strided: &Strided, to: &mut Buffer, place: Place, first: usize) {
    let width = to.geometry.width;
    let channels = to.geometry.channels;
    let starts = strided.starts();
    let together = strided.is_together(from.geometry);
    to.each_line(|row, y, line| {
        for (x, out) in line.chunks_exact_mut(channels).enumerate() {
            let position = (y * width + x).checked_sub(first);
            let Some(&start) = position.and_then(|position| starts.get(position)) else {
                continue;
            };
            let out = &mut out[place.channel..][..strided.channels];
            if together {
                let at = from.place(row, start);
                out.copy_from_slice(&from.data[at..at + strided.channels]);
                continue;
            }
            for (c, out) in out.iter_mut().enumerate() {
                *out = from.data[from.place(row, start + c * strided.spacing)];
            }
        }
    });
}

/// Adds the gradient at what [`copy`] wrote to that at where it came from.
pub(super) fn copy_back(
    gradient: &Buffer,
    place: Place,
    first: usize,
    strided: &Strided,
    to: &mut Buffer,
) {
    let channels = gradient.geometry.channels;
    let geometry = to.geometry;
    let together = strided.is_together(geometry);
    let starts = strided.starts();
    let row_len = geometry.len();
    let rows = to.data.par_chunks_exact_mut(row_len).enumerate();
    rows.for_each(|(row, to)| {
        let place_of = |offset: usize| {
            let position = offset / geometry.channels;
            let (y, x) = (position / geometry.width, position % geometry.width);
            geometry.at(0, y as isize, x as isize) + offset % geometry.channels
        };
        for (position, &start) in starts.iter().enumerate() {
            let at = gradient.place(row, (first + position) * channels + place.channel);
            let arrived = &gradient.data[at..at + strided.channels];
            if together {
                let to = &mut to[place_of(start)..][..strided.channels];
                for (to, arrived) in to.iter_mut().zip(arrived) {
                    *to += arrived;
                }
                continue;
            }
            for (c, arrived) in arrived.iter().enumerate() {
                to[place_of(start + c * strided.spacing)] += arrived;
            }
        }
    });
}
