use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// An even sample of a stream of unknown length, in bounded memory (Vitter's algorithm R).
///
/// Which items are kept depends on the seed and on their order only.
///
/// ```
/// use saliency_core::analysis::Reservoir;
/// let mut sample = Reservoir::new(3, 7);
/// (0..1000).for_each(|i| sample.offer(|| i));
/// assert_eq!((sample.items().len(), sample.seen()), (3, 1000));
/// ```
#[derive(Clone, Debug)]
pub struct Reservoir<T> {
    most: usize,
    seen: u64,
    items: Vec<T>,
    rng: ChaCha8Rng,
}

impl<T> Reservoir<T> {
    /// Keeps at most `most` items.
    pub fn new(most: usize, seed: u64) -> Self {
        Reservoir {
            most,
            seen: 0,
            items: Vec::new(),
            rng: ChaCha8Rng::seed_from_u64(seed),
        }
    }

    /// The next item of the stream; it is only made where it is kept.
    pub fn offer(&mut self, item: impl FnOnce() -> T) {
        self.seen += 1;
        if self.items.len() < self.most {
            return self.items.push(item());
        }
        let place = self.rng.random_range(0..self.seen);
        if let Some(kept) = usize::try_from(place)
            .ok()
            .and_then(|place| self.items.get_mut(place))
        {
            *kept = item();
        }
    }

    /// Items offered so far.
    pub fn seen(&self) -> u64 {
        self.seen
    }

    /// The items that were kept, in no order.
    pub fn items(&self) -> &[T] {
        &self.items
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_item_is_as_likely_to_be_kept() {
        let mut kept = [0; 20];
        for seed in 0..4000 {
            let mut sample = Reservoir::new(5, seed);
            (0..20).for_each(|i| sample.offer(|| i));
            sample.items().iter().for_each(|&i: &usize| kept[i] += 1);
        }
        // 1000 times each, with a standard deviation of 27.
        assert!(kept.iter().all(|n| (880..1120).contains(n)), "{kept:?}");
    }

    #[test]
    fn the_same_seed_keeps_the_same_items() {
        let sample = |seed| {
            let mut sample = Reservoir::new(4, seed);
            (0..100).for_each(|i| sample.offer(|| i));
            sample.items().to_vec()
        };
        assert_eq!(sample(1), sample(1));
        assert_ne!(sample(1), sample(2));
        let mut none = Reservoir::new(0, 1);
        none.offer(|| panic!("not made"));
        assert_eq!(none.seen(), 1);
    }
}
