//! What the wrappers of the small kernels ask of the matrices they are given.

use super::context::{Context, Element, View};
use super::driver::{DevicePtr, KernelId, Result};

/// The kernel `<name>_<element>`.
pub(super) fn kernel(context: &Context, name: &str, element: Element) -> Result<KernelId> {
    context.kernel(&format!("{name}_{}", element.suffix()))
}

/// Elements of 16 bits that a kernel may take with one access, in all of `views`: 8 where rows
/// begin at multiples of 16 bytes and have a multiple of 8 columns, or 1.
pub(super) fn access_width(views: &[View]) -> usize {
    let is_aligned = |view: &View| {
        is_aligned(view.ptr)
            && view.cols.is_multiple_of(8)
            && (view.stride.is_multiple_of(8) || view.rows <= 1)
    };
    if views.iter().all(is_aligned) { 8 } else { 1 }
}

/// Whether vectors of 16 bytes may begin at `ptr`.
pub(super) fn is_aligned(ptr: DevicePtr) -> bool {
    ptr.0.is_multiple_of(16)
}

/// Panics unless `view` has this shape; `what` names it in the message.
#[track_caller]
pub(super) fn check_shape(what: &str, view: View, [rows, cols]: [usize; 2]) {
    assert!(
        view.rows == rows && view.cols == cols && view.stride >= cols,
        "{what}: [{}, {}] with stride {}, expected [{rows}, {cols}]",
        view.rows,
        view.cols,
        view.stride
    );
}

/// Threads of a block that share `num_accesses`: whole warps, at most `max_threads`.
pub(super) fn threads_for(num_accesses: usize, max_threads: usize) -> usize {
    num_accesses.next_multiple_of(32).clamp(32, max_threads)
}
