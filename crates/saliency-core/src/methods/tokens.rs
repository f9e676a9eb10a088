//! From a transformer's tokens back to the input's positions.

use burn::tensor::Tensor;

use crate::{axes, error::Error, methods::layer_map::upsample};

/// A class token and four registers.
const USUAL_EXTRA: usize = 5;

/// Tokens in front of the grid that are looked for at all.
const MOST_EXTRA: usize = 16;

/// Where the tokens of the grid begin, and its size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Grid {
    pub extra: usize,
    pub size: [usize; 2],
}

/// The grid of tokens of an input with given positions, in the proportions of the input: with
/// up to five extra tokens in front and a whole number of positions for each token where there
/// is such a grid, else with as few extra tokens as possible.
pub(crate) fn grid(tokens: usize, positions: &[usize]) -> Result<Grid, Error> {
    let [height, width] = match *positions {
        [] => [1, 1],
        [length] => [1, length],
        [height, width, ..] => [height, width],
    };
    let sizes = |extra: usize| -> Vec<[usize; 2]> {
        let count = tokens - extra;
        match positions.len() {
            2 => (1..=count)
                .filter(|rows| count.is_multiple_of(*rows))
                .map(|rows| [rows, count / rows])
                .filter(|[rows, columns]| rows * width == columns * height)
                .collect(),
            _ => vec![[1, count]],
        }
    };
    let candidates: Vec<Grid> = (0..tokens.min(MOST_EXTRA + 1))
        .flat_map(|extra| {
            sizes(extra)
                .into_iter()
                .map(move |size| Grid { extra, size })
        })
        .collect();
    let usual = |grid: &&Grid| {
        let [rows, columns] = grid.size;
        grid.extra <= USUAL_EXTRA && height.is_multiple_of(rows) && width.is_multiple_of(columns)
    };
    candidates
        .iter()
        .find(usual)
        .or(candidates.first())
        .copied()
        .ok_or_else(|| Error::Shape {
            what: "the tokens",
            expected: format!(
                "a grid in the proportions of the input's {height} x {width} positions, after at most {MOST_EXTRA} class and register tokens"
            ),
            got: vec![tokens],
        })
}

/// One value for each token `[rows, tokens]` as a map over the input's positions, class and
/// register tokens dropped. Tables `[rows, tokens]` get one value for each token.
pub(crate) fn to_input<const D: usize>(
    values: Tensor<2>,
    input: &Tensor<D>,
) -> Result<Tensor<D>, Error> {
    let [rows, tokens] = values.dims();
    let dims = input.dims();
    if D == 2 {
        if tokens < dims[1] {
            return Err(Error::Shape {
                what: "the tokens",
                expected: format!("at least the {} of the input", dims[1]),
                got: vec![tokens],
            });
        }
        return Ok(values.narrow(1, tokens - dims[1], dims[1]).reshape(dims));
    }
    let Grid { extra, size } = grid(tokens, &dims[axes::positions(D)])?;
    let map = values
        .narrow(1, extra, tokens - extra)
        .reshape([rows, 1, size[0], size[1]]);
    upsample(map, input)
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
        assert_eq!(of(196, &[224, 224]), (0, [14, 14]));
        assert_eq!(of(197, &[224, 224]), (1, [14, 14]));
        assert_eq!(of(198, &[224, 224]), (2, [14, 14]));
        assert_eq!(of(201, &[224, 224]), (5, [14, 14]));
        assert_eq!(of(257, &[224, 224]), (1, [16, 16]));
        assert_eq!(of(9, &[8, 8]), (5, [2, 2]));
        assert_eq!(of(33, &[32, 64]), (1, [4, 8]));
        assert_eq!(of(13, &[48]), (1, [1, 12]));
        // Convolutions that leave a border out still keep the proportions.
        assert_eq!(of(10, &[10, 10]), (1, [3, 3]));
        assert!(grid(40, &[10, 224]).is_err());
    }

    #[test]
    fn tokens_of_a_text_keep_their_places() {
        let x = Tensor::<2>::zeros([1, 2], &Device::flex());
        let values = Tensor::<2>::from_floats([[9.0, 1.0, 2.0]], &Device::flex());
        let map = to_input(values.clone(), &x).unwrap();
        assert_eq!(map.try_into_vec_as::<f32>().unwrap(), [1.0, 2.0]);
        assert!(to_input(values.narrow(1, 0, 1), &x).is_err());
    }
}
