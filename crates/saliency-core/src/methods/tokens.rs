//! From a transformer's tokens back to the input's positions.

use burn::tensor::Tensor;

use crate::{error::Error, graph::Value, methods::places::Frame, upsample::Resize};

/// A class token and four registers.
const USUAL_EXTRA: usize = 5;

/// Tokens in front of the grid that are looked for at all.
const MOST_EXTRA: usize = 16;

/// Where the tokens of the grid begin, and its size.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Grid {
    pub extra: usize,
    pub size: Vec<usize>,
}

/// The grid of tokens of an input with given positions, in the proportions of the input: with
/// up to five extra tokens in front and a whole number of positions for each token where there
/// is such a grid, else with as few extra tokens as possible; else a square one, since patches
/// need not be square.
pub(crate) fn grid(tokens: usize, positions: &[usize]) -> Result<Grid, Error> {
    let sizes = |extra: usize| -> Vec<Vec<usize>> {
        let count = tokens - extra;
        match *positions {
            [_] => vec![vec![count]],
            [_, _] => (1..=count)
                .filter(|rows| count.is_multiple_of(*rows))
                .map(|rows| vec![rows, count / rows])
                .collect(),
            _ => Vec::new(),
        }
    };
    let candidates: Vec<Grid> = (0..tokens.min(MOST_EXTRA + 1))
        .flat_map(|extra| {
            sizes(extra)
                .into_iter()
                .map(move |size| Grid { extra, size })
        })
        .collect();
    let in_proportion = |grid: &&Grid| match (&grid.size[..], positions) {
        (&[rows, columns], &[height, width]) => rows * width == columns * height,
        _ => true,
    };
    let whole = |grid: &&Grid| {
        let mut sizes = positions.iter().zip(&grid.size);
        sizes.all(|(positions, cells)| positions.is_multiple_of(*cells))
    };
    let usual = |grid: &&Grid| grid.extra <= USUAL_EXTRA;
    let square = |grid: &&Grid| usual(grid) && grid.size.iter().all(|&size| size == grid.size[0]);
    let fitting = || candidates.iter().filter(in_proportion);
    fitting()
        .find(|grid| usual(grid) && whole(grid))
        .or(fitting().next())
        .or(candidates.iter().find(square))
        .cloned()
        .ok_or_else(|| Error::Shape {
            what: "the tokens",
            expected: format!(
                "a grid in the proportions of the input's positions {positions:?}, after at most {MOST_EXTRA} class and register tokens"
            ),
            got: vec![tokens],
        })
}

/// One value for each token `[rows, tokens]` as a map over the input's positions, class and
/// register tokens dropped. A text `[rows, length]` gets one value for each of its tokens.
pub(crate) fn to_input<const D: usize>(
    values: Tensor<2>,
    frame: &Frame,
) -> Result<Tensor<D>, Error> {
    let [rows, tokens] = values.dims();
    let Grid { extra, size } = match frame.sizes[..] {
        [length] if D == 2 => of_text(tokens, length)?,
        _ => grid(tokens, &frame.sizes)?,
    };
    let map = Value::from(values.narrow(1, extra, tokens - extra));
    let map = map.reshape(&[&[rows, 1], &size[..]].concat());
    Ok(frame.spread(map, Resize::Bilinear))
}

/// How many tokens have no place in the input.
pub(crate) fn extra<const D: usize>(tokens: usize, frame: &Frame) -> Result<usize, Error> {
    match frame.sizes[..] {
        [length] if D == 2 => Ok(tokens.saturating_sub(length)),
        _ => Ok(grid(tokens, &frame.sizes)?.extra),
    }
}

fn of_text(tokens: usize, length: usize) -> Result<Grid, Error> {
    match tokens.checked_sub(length) {
        Some(extra) => Ok(Grid {
            extra,
            size: vec![length],
        }),
        None => Err(Error::Shape {
            what: "the tokens",
            expected: format!("at least the {length} of the input"),
            got: vec![tokens],
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::Device;

    #[test]
    fn class_and_register_tokens_are_found() {
        let of = |tokens, positions: &[usize]| {
            let grid = grid(tokens, positions).unwrap();
            (grid.extra, grid.size)
        };
        assert_eq!(of(196, &[224, 224]), (0, vec![14, 14]));
        assert_eq!(of(197, &[224, 224]), (1, vec![14, 14]));
        assert_eq!(of(198, &[224, 224]), (2, vec![14, 14]));
        assert_eq!(of(201, &[224, 224]), (5, vec![14, 14]));
        assert_eq!(of(257, &[224, 224]), (1, vec![16, 16]));
        assert_eq!(of(261, &[224, 224]), (5, vec![16, 16]));
        assert_eq!(of(9, &[8, 8]), (5, vec![2, 2]));
        assert_eq!(of(33, &[32, 64]), (1, vec![4, 8]));
        assert_eq!(of(32, &[32, 16]), (0, vec![8, 4]));
        assert_eq!(of(13, &[48]), (1, vec![12]));
        // Convolutions that leave a border out still keep the proportions.
        assert_eq!(of(10, &[10, 10]), (1, vec![3, 3]));
        // Patches of 4 x 5.
        assert_eq!(of(17, &[16, 20]), (1, vec![4, 4]));
        assert!(grid(43, &[10, 224]).is_err());
    }

    #[test]
    fn tokens_of_a_text_keep_their_places() {
        assert_eq!(extra::<2>(3, &Frame::plain(&[1, 2])).unwrap(), 1);
        let values = Tensor::<2>::from_floats([[9.0, 1.0, 2.0]], &Device::flex());
        let frame = Frame::plain(&[1, 2]);
        let map: Tensor<2> = to_input(values.clone(), &frame).unwrap();
        assert_eq!(map.try_into_vec_as::<f32>().unwrap(), [1.0, 2.0]);
        assert!(to_input::<2>(values.narrow(1, 0, 1), &frame).is_err());
    }
}
