//! What forward passes keep for backward passes.

use super::{buffer::Bits, lift::Lifted, parts};

/// Of rows that went through at once.
#[derive(Clone, Debug)]
pub(super) struct Tape {
    pub rows: usize,
    /// The buffer that was asked for, and its values.
    pub tap: Option<(usize, Vec<f32>)>,
    /// By buffer: which values a ReLU let through.
    pub bits: Vec<Option<Bits>>,
    /// By step: which element of its window each maximum was.
    pub maxima: Vec<Option<Vec<u8>>>,
    /// By step: what else its derivative needs, as much for each row.
    pub kept: Vec<Vec<f32>>,
    /// Of rows and their baselines.
    pub lifted: Option<Lifted>,
}

impl Tape {
    /// Of rows of tapes of one plan.
    fn gathered(rows: &[(&Tape, usize)]) -> Self {
        fn all<'a, T: Copy + 'a>(
            rows: &[(&'a Tape, usize)],
            of: impl Fn(&'a Tape) -> &'a [T],
        ) -> Vec<T> {
            let parts = rows.iter().map(|&(tape, row)| {
                let data = of(tape);
                let len = data.len() / tape.rows;
                &data[row * len..][..len]
            });
            parts.collect::<Vec<_>>().concat()
        }
        const ALIKE: &str = "all tapes of a plan keep alike";
        let (first, _) = rows[0];
        let bits = |(index, bits): (usize, &Option<Bits>)| {
            bits.as_ref().map(|bits| Bits {
                data: all(rows, |tape| &tape.bits[index].as_ref().expect(ALIKE).data),
                ..*bits
            })
        };
        let maxima = |(index, maxima): (usize, &Option<Vec<u8>>)| {
            maxima
                .as_ref()
                .map(|_| all(rows, |tape| tape.maxima[index].as_ref().expect(ALIKE)))
        };
        Tape {
            rows: rows.len(),
            tap: first.tap.as_ref().map(|(buffer, _)| {
                (
                    *buffer,
                    all(rows, |tape| &tape.tap.as_ref().expect(ALIKE).1),
                )
            }),
            bits: first.bits.iter().enumerate().map(bits).collect(),
            maxima: first.maxima.iter().enumerate().map(maxima).collect(),
            kept: (0..first.kept.len())
                .map(|index| all(rows, |tape| &tape.kept[index]))
                .collect(),
            lifted: None,
        }
    }
}

/// Of a batch: of its parts, one after the other.
#[derive(Clone, Debug)]
pub(crate) struct Tapes {
    pub(super) parts: Vec<Tape>,
    /// Most rows that go through at once.
    pub(super) most: usize,
}

impl Tapes {
    pub fn rows(&self) -> usize {
        self.parts.iter().map(|tape| tape.rows).sum()
    }

    /// Of some rows, which may come again.
    pub fn select(&self, rows: &[usize]) -> Self {
        let places = self
            .parts
            .iter()
            .flat_map(|tape| (0..tape.rows).map(move |row| (tape, row)));
        let places: Vec<_> = places.collect();
        let chosen: Vec<_> = rows.iter().map(|&row| places[row]).collect();
        Tapes {
            parts: parts(rows.len(), self.most)
                .map(|range| Tape::gathered(&chosen[range]))
                .collect(),
            most: self.most,
        }
    }

    /// The buffer that was asked for, and its values of all rows.
    pub fn tapped(&self) -> (usize, Vec<f32>) {
        let taps = self.parts.iter().map(|tape| tape.tap.as_ref());
        let taps: Option<Vec<_>> = taps.collect();
        let taps = taps.expect("recorded for a node");
        let values = taps.iter().flat_map(|(_, values)| values).copied();
        (taps[0].0, values.collect())
    }
}
