use std::marker::PhantomData;

/// A slice that several threads write disjoint parts of.
///
/// A sweep hands out the channels of one panel at one position, and no two tasks have the same
/// panel and position; other steps hand out positions, each to one task. So no two parts overlap.
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

    /// Parts to write, `len` each. The caller must hand out each element to one task only.
    pub fn spread(&self, from: usize, count: usize, spacing: usize, len: usize) -> Spread<'_, T> {
        assert!(count <= 1 || len <= spacing);
        assert!(count == 0 || from + (count - 1) * spacing + len <= self.len);
        Spread {
            // SAFETY: it lies inside the slice.
            data: unsafe { self.data.add(from) },
            count,
            spacing,
            len,
            borrow: PhantomData,
        }
    }
}

/// Parts of equal length, equally spaced, that are written by one task.
pub(in crate::plan) struct Spread<'a, T> {
    data: *mut T,
    pub count: usize,
    pub spacing: usize,
    pub len: usize,
    borrow: PhantomData<&'a mut [T]>,
}

impl<'a, T> Spread<'a, T> {
    /// Parts of a slice.
    #[cfg(test)]
    pub fn new(slice: &'a mut [T], count: usize, spacing: usize, len: usize) -> Self {
        assert!(count <= 1 || len <= spacing);
        assert!(count == 0 || (count - 1) * spacing + len <= slice.len());
        Spread {
            data: slice.as_mut_ptr(),
            count,
            spacing,
            len,
            borrow: PhantomData,
        }
    }

    pub fn part(&mut self, index: usize) -> &mut [T] {
        assert!(index < self.count);
        // SAFETY: all parts lie inside what was borrowed, see `new` and `Shared::spread`; they
        // do not overlap, and only this value hands them out.
        unsafe { std::slice::from_raw_parts_mut(self.data.add(index * self.spacing), self.len) }
    }

    #[cfg(target_arch = "x86_64")]
    pub(super) fn as_mut_ptr(&mut self) -> *mut T {
        self.data
    }
}
