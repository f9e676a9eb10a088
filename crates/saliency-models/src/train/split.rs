use serde::{Deserialize, Serialize};

/// What a row is used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Part {
    /// The weights are fitted to it.
    Training,
    /// It says when to stop.
    Validation,
    /// Scores are measured on it.
    Test,
}

/// Which part each row of a file is in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Split {
    /// Rows of a table, drawn by a seed.
    Drawn {
        /// The part of each row.
        parts: Vec<Part>,
    },
    /// A series: the first rows are for training, the last for the test.
    InOrder {
        /// Last row of the training part, from 1.
        training: u64,
        /// Last row of the validation part.
        validation: u64,
    },
}

impl Split {
    /// Rows of a table: those with the smallest hash of seed and row number are the test,
    /// the next ones the validation. The hash is SplitMix64's, so that other programs can
    /// draw the same rows.
    ///
    /// ```
    /// use saliency_models::train::{Part, Split};
    /// let split = Split::drawn(1000, 0.15, 0.2, 7);
    /// let count = |part| (1..=1000).filter(|row| split.part(*row) == part).count();
    /// assert_eq!([count(Part::Training), count(Part::Validation), count(Part::Test)], [650, 150, 200]);
    /// ```
    pub fn drawn(rows: u64, validation: f64, test: f64, seed: u64) -> Self {
        let mut order: Vec<(u64, u64)> = (1..=rows).map(|row| (hash(seed, row), row)).collect();
        order.sort_unstable();
        let (validation, test) = (share(rows, validation), share(rows, test));
        let mut parts = vec![Part::Training; rows as usize];
        for (rank, (_, row)) in order.into_iter().enumerate() {
            let rank = rank as u64;
            if rank < test {
                parts[row as usize - 1] = Part::Test;
            } else if rank < test + validation {
                parts[row as usize - 1] = Part::Validation;
            }
        }
        Split::Drawn { parts }
    }

    /// A series in the order of time.
    ///
    /// ```
    /// use saliency_models::train::{Part, Split};
    /// let split = Split::in_order(100, 0.2, 0.1);
    /// let parts = [70, 71, 90, 91].map(|row| split.part(row));
    /// assert_eq!(parts, [Part::Training, Part::Validation, Part::Validation, Part::Test]);
    /// ```
    pub fn in_order(rows: u64, validation: f64, test: f64) -> Self {
        let last = rows - share(rows, test);
        Split::InOrder {
            training: last.saturating_sub(share(rows, validation)),
            validation: last,
        }
    }

    /// The part of a row, counted from 1.
    pub fn part(&self, row: u64) -> Part {
        match self {
            Split::Drawn { parts } => parts[row as usize - 1],
            Split::InOrder { training, .. } if row <= *training => Part::Training,
            Split::InOrder { validation, .. } if row <= *validation => Part::Validation,
            Split::InOrder { .. } => Part::Test,
        }
    }
}

fn share(rows: u64, share: f64) -> u64 {
    (rows as f64 * share).round() as u64
}

/// SplitMix64's output number `row` for the state `seed`.
fn hash(seed: u64, row: u64) -> u64 {
    let mut z = seed.wrapping_add(row.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_is_splitmix64() {
        // The first outputs of the published generator for the seed 1234567.
        let outputs = [1, 2, 3].map(|n| hash(1_234_567, n));
        assert_eq!(
            outputs,
            [
                6_457_827_717_110_365_317,
                3_203_168_211_198_807_973,
                9_817_491_932_198_370_423
            ]
        );
    }

    #[test]
    fn seeds_draw_other_rows() {
        let test = |seed| -> Vec<u64> {
            let split = Split::drawn(200, 0.1, 0.1, seed);
            (1..=200)
                .filter(|row| split.part(*row) == Part::Test)
                .collect()
        };
        assert_eq!(test(1), test(1));
        assert_ne!(test(1), test(2));
        assert_eq!(test(1).len(), 20);
    }
}
