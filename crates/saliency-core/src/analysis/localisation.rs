use serde::{Deserialize, Serialize};

use crate::{error::Error, map::Map};

/// How well a map falls on an object whose mask is known.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Localisation {
    /// The pointing game: whether the map's maximum lies on the object. Zhang et al.,
    /// "Top-down Neural Attention by Excitation Backprop" (2016),
    /// <https://arxiv.org/abs/1608.00507>.
    pub hit: bool,
    /// The share of the map's mass on the object: sum of max(s, 0) on it / sum over all; 0
    /// for a map without positive mass.
    pub mass: f64,
    /// The object's share of the picture: the mass that a flat map would have on it.
    pub area: f64,
}

/// Measures `map` against the object's `mask`, row by row, true on the object.
///
/// ```
/// use saliency_core::{Map, analysis::localisation};
/// let map = Map::new(1, 4, vec![0.0, 3.0, 1.0, 0.0])?;
/// let found = localisation(&map, &[false, true, false, false])?;
/// assert!(found.hit);
/// assert_eq!((found.mass, found.area), (0.75, 0.25));
/// # Ok::<(), saliency_core::Error>(())
/// ```
///
/// # Errors
/// [`Error::Shape`] when the mask has another size, [`Error::Option`] when it is empty of
/// objects.
pub fn localisation(map: &Map, mask: &[bool]) -> Result<Localisation, Error> {
    if mask.len() != map.values().len() {
        return Err(Error::Shape {
            what: "the object's mask",
            expected: format!("{} x {} pixels", map.height(), map.width()),
            got: vec![mask.len()],
        });
    }
    let pixels = mask.iter().filter(|&&on| on).count();
    if pixels == 0 {
        return Err(Error::option(
            "mask",
            "empty",
            "it must mark at least one pixel",
        ));
    }
    let (row, column) = map.peak();
    let positive = |v: f32| v.max(0.0) as f64;
    let total: f64 = map.values().iter().map(|&v| positive(v)).sum();
    let inside: f64 = map
        .values()
        .iter()
        .zip(mask)
        .filter(|(_, on)| **on)
        .map(|(&v, _)| positive(v))
        .sum();
    Ok(Localisation {
        hit: mask[row * map.width() + column],
        mass: if total > 0.0 { inside / total } else { 0.0 },
        area: pixels as f64 / mask.len() as f64,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_flat_map_has_its_area_as_mass(mask in prop::collection::vec(any::<bool>(), 12)) {
            prop_assume!(mask.contains(&true));
            let flat = Map::new(3, 4, vec![2.0; 12]).unwrap();
            let found = localisation(&flat, &mask).unwrap();
            prop_assert!((found.mass - found.area).abs() < 1e-12);
        }
    }

    #[test]
    fn misses_and_bad_masks() {
        let map = Map::new(2, 2, vec![0.0, -5.0, 0.0, 1.0]).unwrap();
        let found = localisation(&map, &[true, true, false, false]).unwrap();
        assert_eq!((found.hit, found.mass), (false, 0.0));
        assert!(localisation(&map, &[true]).is_err());
        assert!(localisation(&map, &[false; 4]).is_err());
    }
}
