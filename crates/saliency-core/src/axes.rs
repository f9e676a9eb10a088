//! Which axes of an input are positions, and which are channels.
//!
//! | rank | input | positions | channels |
//! |---|---|---|---|
//! | 2 | table `[N, F]` | 1 | none |
//! | 3 | series `[N, T, F]` | 1 | 2 |
//! | 4 and more | pictures `[N, C, H, W]` | 2 and on | 1 |

use std::ops::Range;

/// The axes of the positions.
pub(crate) const fn positions(rank: usize) -> Range<usize> {
    match rank {
        0..=3 => 1..2,
        _ => 2..rank,
    }
}

/// The axes of positions that have neighbours: those of a table have none.
pub(crate) const fn neighbours(rank: usize) -> Range<usize> {
    match rank {
        0..=2 => 2..2,
        _ => positions(rank),
    }
}

/// The axis of the channels.
pub(crate) const fn channels(rank: usize) -> Option<usize> {
    match rank {
        0..=2 => None,
        3 => Some(2),
        _ => Some(1),
    }
}

/// Number of channels.
pub(crate) fn channel_count<const D: usize>(dims: [usize; D]) -> usize {
    channels(D).map_or(1, |axis| dims[axis])
}

/// A value for each position, row-major, as one for each value of a row.
pub(crate) fn spread<const D: usize, T: Copy>(of_positions: Vec<T>, dims: [usize; D]) -> Vec<T> {
    let count = channel_count(dims);
    match channels(D) {
        Some(2) => of_positions
            .iter()
            .flat_map(|value| std::iter::repeat_n(*value, count))
            .collect(),
        _ => of_positions.repeat(count),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_axis_has_one_role() {
        for rank in 2..6 {
            let axes: Vec<usize> = positions(rank).chain(channels(rank)).collect();
            assert_eq!(axes.len(), rank - 1);
            assert!((1..rank).all(|axis| axes.contains(&axis)), "{rank}");
        }
    }

    #[test]
    fn values_of_positions_are_those_of_their_channels() {
        assert_eq!(spread(vec![1, 2], [1, 2, 3]), [1, 1, 1, 2, 2, 2]);
        assert_eq!(spread(vec![1, 2], [1, 3, 1, 2]), [1, 2, 1, 2, 1, 2]);
        assert_eq!(spread(vec![1, 2], [1, 2]), [1, 2]);
    }
}
