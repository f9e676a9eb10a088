use std::{fmt, str::FromStr};

use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

/// How the channels of an attribution become one value per position.
///
/// For values G_k over channels k:
///
/// | name | value |
/// |---|---|
/// | `max` | max_k abs(G_k) |
/// | `mean` | mean_k abs(G_k) |
/// | `l2` | sqrt(sum_k G_k^2) |
/// | `sum` | sum_k abs(G_k) |
/// | `squared` | max_k G_k^2 |
/// | `positive_only` | max_k max(G_k, 0) |
///
/// ```
/// use saliency_core::Reduction;
/// assert_eq!("l2".parse::<Reduction>().unwrap(), Reduction::L2);
/// assert_eq!(Reduction::PositiveOnly.to_string(), "positive_only");
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reduction {
    /// max_k |G_k|.
    #[default]
    Max,
    /// mean_k |G_k|.
    Mean,
    /// sqrt(sum_k G_k^2).
    L2,
    /// sum_k |G_k|.
    Sum,
    /// max_k G_k^2.
    Squared,
    /// max_k max(G_k, 0).
    PositiveOnly,
}

impl Reduction {
    /// All of them, in the order of the table above.
    pub const ALL: [Reduction; 6] = [
        Reduction::Max,
        Reduction::Mean,
        Reduction::L2,
        Reduction::Sum,
        Reduction::Squared,
        Reduction::PositiveOnly,
    ];
}

impl fmt::Display for Reduction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Reduction::Max => "max",
            Reduction::Mean => "mean",
            Reduction::L2 => "l2",
            Reduction::Sum => "sum",
            Reduction::Squared => "squared",
            Reduction::PositiveOnly => "positive_only",
        })
    }
}

impl FromStr for Reduction {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        Reduction::ALL
            .into_iter()
            .find(|r| r.to_string() == name.replace('-', "_"))
            .ok_or_else(|| {
                let names = Reduction::ALL.map(|r| r.to_string()).join(", ");
                format!("there is no reduction {name:?}; choose one of {names}")
            })
    }
}

/// Reduces `values` over dimension `dim`, which is kept with size one.
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use saliency_core::{Reduction, reduce};
/// let g = Tensor::<2>::from_floats([[3.0, -4.0]], &Device::flex());
/// let l2 = reduce(g, 1, Reduction::L2);
/// assert_eq!(l2.try_into_vec_as::<f32>().unwrap(), [5.0]);
/// ```
///
/// # Panics
/// When `dim` is not below `D`.
pub fn reduce<const D: usize>(values: Tensor<D>, dim: usize, reduction: Reduction) -> Tensor<D> {
    match reduction {
        Reduction::Max => values.abs().max_dim(dim),
        Reduction::Mean => values.abs().mean_dim(dim),
        Reduction::L2 => values.square().sum_dim(dim).sqrt(),
        Reduction::Sum => values.abs().sum_dim(dim),
        Reduction::Squared => values.square().max_dim(dim),
        Reduction::PositiveOnly => values.max_dim(dim).clamp_min(0.0),
    }
}

/// The signed pair over dimension `dim`: max_k max(G_k, 0) and max_k |min(G_k, 0)|.
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use saliency_core::signed_pair;
/// let g = Tensor::<2>::from_floats([[3.0, -4.0, 1.0]], &Device::flex());
/// let (positive, negative) = signed_pair(g, 1);
/// assert_eq!(positive.try_into_vec_as::<f32>().unwrap(), [3.0]);
/// assert_eq!(negative.try_into_vec_as::<f32>().unwrap(), [4.0]);
/// ```
///
/// # Panics
/// When `dim` is not below `D`.
pub fn signed_pair<const D: usize>(values: Tensor<D>, dim: usize) -> (Tensor<D>, Tensor<D>) {
    let positive = reduce(values.clone(), dim, Reduction::PositiveOnly);
    let negative = reduce(values.neg(), dim, Reduction::PositiveOnly);
    (positive, negative)
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::{Device, TensorData};
    use proptest::prelude::*;

    fn by_hand(channels: &[f32], reduction: Reduction) -> f32 {
        let abs = channels.iter().map(|g| g.abs());
        match reduction {
            Reduction::Max => abs.fold(0.0, f32::max),
            Reduction::Mean => abs.sum::<f32>() / channels.len() as f32,
            Reduction::L2 => channels.iter().map(|g| g * g).sum::<f32>().sqrt(),
            Reduction::Sum => abs.sum(),
            Reduction::Squared => channels.iter().map(|g| g * g).fold(0.0, f32::max),
            Reduction::PositiveOnly => channels.iter().copied().fold(0.0, f32::max),
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn agrees_with_a_loop_over_channels(
            (channels, values) in (1usize..5).prop_flat_map(|c| {
                (Just(c), prop::collection::vec(-10.0f32..10.0, 2 * c * 6))
            })
        ) {
            let shape = [2, channels, 2, 3];
            let tensor = Tensor::<4>::from_data(TensorData::new(values.clone(), shape), &Device::flex());
            for reduction in Reduction::ALL {
                let got = reduce(tensor.clone(), 1, reduction);
                prop_assert_eq!(got.dims(), [2, 1, 2, 3]);
                let got = got.try_into_vec_as::<f32>().unwrap();
                for row in 0..2 {
                    for pixel in 0..6 {
                        let of_pixel: Vec<f32> = (0..channels)
                            .map(|c| values[(row * channels + c) * 6 + pixel])
                            .collect();
                        let want = by_hand(&of_pixel, reduction);
                        prop_assert!((got[row * 6 + pixel] - want).abs() <= 1e-5 * want.max(1.0));
                    }
                }
            }
        }
    }

    #[test]
    fn an_unknown_name_lists_the_known_ones() {
        let error = "median".parse::<Reduction>().unwrap_err();
        assert!(
            error.contains("max, mean, l2, sum, squared, positive_only"),
            "{error}"
        );
    }
}
