//! Output buffers that several tasks write at once, each in its own part.

use std::marker::PhantomData;

/// A mutable slice split by hand among tasks.
///
/// Invariant: whoever takes a part gives no other task an overlapping one.
#[derive(Clone, Copy)]
pub(crate) struct Output<'a> {
    start: *mut f32,
    len: usize,
    borrow: PhantomData<&'a mut [f32]>,
}

// SAFETY: access goes through unsafe methods whose callers promise disjoint parts.
unsafe impl Send for Output<'_> {}
// SAFETY: as above.
unsafe impl Sync for Output<'_> {}

impl<'a> Output<'a> {
    pub(crate) fn new(slice: &'a mut [f32]) -> Self {
        Self { start: slice.as_mut_ptr(), len: slice.len(), borrow: PhantomData }
    }

    /// Elements `first..last`.
    ///
    /// # Safety
    /// No other live part may overlap this one.
    #[inline(always)]
    #[allow(clippy::mut_from_ref, reason = "parts are disjoint by the caller's promise")]
    pub(crate) unsafe fn part(&self, first: usize, last: usize) -> &'a mut [f32] {
        assert!(first <= last && last <= self.len, "part {first}..{last} of {}", self.len);
        // SAFETY: within the slice, and disjoint by the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(first), last - first) }
    }

    /// The address of element `index`.
    #[inline(always)]
    pub(crate) fn at(&self, index: usize) -> *mut f32 {
        assert!(index <= self.len, "element {index} of {}", self.len);
        // SAFETY: within the slice or one past its end.
        unsafe { self.start.add(index) }
    }
}
