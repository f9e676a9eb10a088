use std::marker::PhantomData;

/// A slice that several threads write disjoint parts of.
///
/// The parts that one sweep hands out are the channels of one panel at one position: no two
/// tasks have the same panel and position, so no two parts overlap.
pub(in crate::plan) struct Shared<'a, T> {
    data: *mut T,
    len: usize,
    borrow: PhantomData<&'a mut [T]>,
}

// SAFETY: threads only ever reach disjoint parts, see `part`.
unsafe impl<T: Send> Send for Shared<'_, T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for Shared<'_, T> {}

impl<'a, T> Shared<'a, T> {
    pub fn new(slice: &'a mut [T]) -> Self {
        Shared {
            data: slice.as_mut_ptr(),
            len: slice.len(),
            borrow: PhantomData,
        }
    }

    /// A part to write. The caller must hand out each element to one task only.
    #[allow(clippy::mut_from_ref)]
    pub fn part(&self, from: usize, len: usize) -> &mut [T] {
        assert!(from + len <= self.len);
        // SAFETY: it lies inside the slice, which is borrowed mutably for 'a, and the tasks of
        // a sweep ask for disjoint parts.
        unsafe { std::slice::from_raw_parts_mut(self.data.add(from), len) }
    }
}
