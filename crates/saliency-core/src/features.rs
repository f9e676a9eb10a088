use std::sync::Arc;

use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

use crate::{axes, error::Error, segment::Slic};

/// What counts as one feature: which values of the input are taken away together.
///
/// Axis 0 of the input is its rows. The positions are the columns of a table `[N, F]`, the
/// steps of a series `[N, T, F]` (whose features are the channels), the pixels of a picture
/// `[N, C, H, W]`. A model of `[N, C, L]` is explained as one of series: swap axes 1 and 2
/// in its closure.
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use saliency_core::Features;
/// // Four steps of two features.
/// let row = Tensor::<3>::zeros([1, 4, 2], &Device::flex());
/// let ids = |features: Features| features.resolve(&row).map(|groups| groups.ids);
/// assert_eq!(ids(Features::Each)?, [0, 1, 2, 3, 4, 5, 6, 7]);
/// assert_eq!(ids(Features::Positions)?, [0, 0, 1, 1, 2, 2, 3, 3]);
/// assert_eq!(ids(Features::Channels)?, [0, 1, 0, 1, 0, 1, 0, 1]);
/// assert_eq!(ids(Features::Grid(vec![2]))?, [0, 0, 0, 0, 1, 1, 1, 1]);
/// assert_eq!(ids(Features::Grid(vec![2, 1]))?, [0, 1, 0, 1, 2, 3, 2, 3]);
/// assert_eq!(ids(Features::Given(vec![5, 5, 7, 5]))?, [0, 0, 0, 0, 1, 1, 0, 0]);
/// assert_eq!(serde_json::to_string(&Features::Grid(vec![8, 8]))?, r#"{"grid":[8,8]}"#);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Features {
    /// [`Each`](Features::Each) value where a row has at most 64; else 50 superpixels of a
    /// picture, about 64 windows of anything else.
    #[default]
    Auto,
    /// Each value by itself; Captum's default.
    Each,
    /// Each position, all channels together: the steps of a series.
    Positions,
    /// Each channel over all positions: the features of a series. Of a table, each column.
    Channels,
    /// Windows side by side, cut off at the far border: a size for each axis after the rows,
    /// or for each position axis (all channels together), or one for all position axes. Of a
    /// series, `[5]` is five steps with all features, `[5, 1]` five steps of one feature.
    Grid(Vec<usize>),
    /// The number of a group for each value of a row, or for each position; numbers may have
    /// gaps.
    Given(Vec<usize>),
    /// Superpixels of each row's own picture, all channels together.
    Slic(Slic),
}

/// Which group each value of one row belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Groups {
    /// The group of each value of the row, in row-major order, below `count`.
    pub ids: Vec<usize>,
    /// Number of groups.
    pub count: usize,
}

impl Groups {
    /// For each value of the row, how many are in its group.
    pub(crate) fn sizes(&self) -> Vec<usize> {
        let mut counts = vec![0; self.count];
        self.ids.iter().for_each(|&id| counts[id] += 1);
        self.ids.iter().map(|&id| counts[id]).collect()
    }
}

impl Features {
    /// The groups of one row, `[1, ...]`.
    ///
    /// # Errors
    /// [`Error::Option`] where the sizes or groups do not fit the row.
    pub fn resolve<const D: usize>(&self, row: &Tensor<D>) -> Result<Groups, Error> {
        let dims = row.dims();
        let len: usize = dims[1..].iter().product();
        let channels = axes::channel_count(dims);
        let all_channels = |ids: Vec<usize>| axes::spread(ids, dims);
        Ok(match self {
            Features::Auto if len <= 64 => Features::Each.resolve(row)?,
            Features::Auto if D == 4 && dims[2].min(dims[3]) > 1 => {
                Features::Slic(Slic::default()).resolve(row)?
            }
            Features::Auto => {
                let axes = axes::positions(D);
                let windows = 64_f64.powf(1.0 / axes.len() as f64);
                let sizes = dims[axes].iter();
                let sizes = sizes.map(|&len| (len as f64 / windows).ceil() as usize);
                Features::Grid(sizes.collect()).resolve(row)?
            }
            Features::Each => Groups {
                ids: (0..len).collect(),
                count: len,
            },
            Features::Positions => Groups {
                ids: all_channels((0..len / channels).collect()),
                count: len / channels,
            },
            Features::Channels => {
                let one = |index: usize| match axes::channels(D) {
                    None => index,
                    Some(2) => index % channels,
                    Some(_) => index / (len / channels),
                };
                Groups {
                    ids: (0..len).map(one).collect(),
                    count: if D == 2 { len } else { channels },
                }
            }
            Features::Grid(sizes) => grid(&window(sizes, "features", dims)?, dims),
            Features::Given(ids) if ids.len() == len => compact(ids),
            Features::Given(ids) if ids.len() * channels == len => {
                compact(&all_channels(ids.clone()))
            }
            Features::Given(ids) => {
                return Err(Error::option(
                    "features",
                    format!("{} groups", ids.len()),
                    "there must be one for each value of a row, or for each position",
                ));
            }
            Features::Slic(slic) => compact(&all_channels(slic.labels(row)?)),
        })
    }

    /// The groups of each row of a batch.
    pub(crate) fn of_rows<const D: usize>(
        &self,
        input: &Tensor<D>,
    ) -> Result<Vec<Arc<Groups>>, Error> {
        let rows = input.dims()[0];
        let resolve = |row| self.resolve(&input.clone().narrow(0, row, 1)).map(Arc::new);
        match self {
            Features::Auto | Features::Slic(_) => (0..rows).map(resolve).collect(),
            _ => Ok(vec![resolve(0)?; rows]),
        }
    }

    pub(crate) fn validate(&self) -> Result<(), Error> {
        match self {
            Features::Grid(sizes) if sizes.contains(&0) => {
                Err(Error::option("features", 0, "a window must have a size"))
            }
            Features::Slic(slic) => slic.validate(),
            _ => Ok(()),
        }
    }
}

/// A number for each axis after the rows, from one for each of them, for each position axis
/// (`channels` then stands at that of the channels), or one for all position axes.
pub(crate) fn per_axis(given: &[usize], channels: &[usize]) -> Option<Vec<usize>> {
    let axes = axes::positions(channels.len() + 1);
    if given.len() == channels.len() {
        return Some(given.to_vec());
    }
    let given = match given {
        [one] => vec![*one; axes.len()],
        all if all.len() == axes.len() => all.to_vec(),
        _ => return None,
    };
    let mut full = channels.to_vec();
    full[axes.start - 1..axes.end - 1].copy_from_slice(&given);
    Some(full)
}

/// A size for each axis after the rows, none larger than its axis.
pub(crate) fn window<const D: usize>(
    given: &[usize],
    option: &'static str,
    dims: [usize; D],
) -> Result<Vec<usize>, Error> {
    let mut full = dims[1..].to_vec();
    let sizes = match given.contains(&0) {
        false => per_axis(given, &full),
        true => None,
    };
    let sizes = sizes.ok_or_else(|| {
        Error::option(
            option,
            format!("{given:?}"),
            "give a size of at least 1 for each axis after the rows, for each position axis, or one for all of these",
        )
    })?;
    for (full, size) in full.iter_mut().zip(sizes) {
        *full = size.min(*full);
    }
    Ok(full)
}

fn grid<const D: usize>(sizes: &[usize], dims: [usize; D]) -> Groups {
    let axes = &dims[1..];
    let counts: Vec<usize> = axes
        .iter()
        .zip(sizes)
        .map(|(n, s)| n.div_ceil(*s))
        .collect();
    let ids = (0..axes.iter().product())
        .map(|index| {
            let mut rest = index;
            let (mut id, mut stride) = (0, 1);
            for ((len, size), count) in axes.iter().zip(sizes).zip(&counts).rev() {
                id += rest % len / size * stride;
                rest /= len;
                stride *= count;
            }
            id
        })
        .collect();
    Groups {
        ids,
        count: counts.iter().product(),
    }
}

fn compact(ids: &[usize]) -> Groups {
    let mut known = ids.to_vec();
    known.sort_unstable();
    known.dedup();
    let number = |id| known.binary_search(id).expect("it is one of them");
    Groups {
        ids: ids.iter().map(number).collect(),
        count: known.len(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::Device;

    #[test]
    fn a_grid_is_cut_off_at_the_border() {
        let row = Tensor::<4>::zeros([1, 2, 3, 5], &Device::flex());
        let groups = Features::Grid(vec![2]).resolve(&row).unwrap();
        assert_eq!(groups.count, 6);
        let plane = [0, 0, 1, 1, 2, 0, 0, 1, 1, 2, 3, 3, 4, 4, 5];
        assert_eq!(groups.ids, plane.repeat(2));
        let groups = Features::Grid(vec![1, 9, 9]).resolve(&row).unwrap();
        assert_eq!(groups.ids, [[0; 15], [1; 15]].concat());
        let table = Tensor::<2>::zeros([1, 3], &Device::flex());
        let groups = Features::Grid(vec![2]).resolve(&table).unwrap();
        assert_eq!(groups.ids, [0, 0, 1]);
    }

    #[test]
    fn automatic_features_are_few() {
        let device = Device::flex();
        let table = Tensor::<2>::zeros([1, 9], &device);
        assert_eq!(Features::Auto.resolve(&table).unwrap().count, 9);
        let wide = Tensor::<2>::zeros([1, 1000], &device);
        assert_eq!(Features::Auto.resolve(&wide).unwrap().count, 63);
        let series = Tensor::<3>::zeros([1, 640, 4], &device);
        let groups = Features::Auto.resolve(&series).unwrap();
        assert_eq!(
            (groups.count, &groups.ids[..41]),
            (64, &[[0; 40].as_slice(), &[1]].concat()[..])
        );
        let picture = Tensor::<4>::zeros([1, 3, 32, 32], &device);
        let groups = Features::Auto.resolve(&picture).unwrap();
        assert!((40..=60).contains(&groups.count), "{}", groups.count);
        assert_eq!(groups.ids[..1024], groups.ids[1024..2048]);
    }

    #[test]
    fn what_does_not_fit_is_named() {
        let row = Tensor::<4>::zeros([1, 2, 3, 5], &Device::flex());
        let text = |f: Features| f.resolve(&row).unwrap_err().to_string();
        assert!(text(Features::Given(vec![0, 1])).starts_with("features = 2 groups"));
        assert!(text(Features::Grid(vec![1; 4])).starts_with("features = [1, 1, 1, 1]"));
        assert!(text(Features::Grid(vec![0])).contains("at least 1"));
        let bad = Features::Slic(Slic::default().segments(0));
        assert!(text(bad).starts_with("segments = 0"));
        let json: Features = serde_json::from_str(r#"{"slic": {"segments": 20}}"#).unwrap();
        assert_eq!(json, Features::Slic(Slic::default().segments(20)));
        assert_eq!(serde_json::to_string(&Features::Auto).unwrap(), r#""auto""#);
    }
}
