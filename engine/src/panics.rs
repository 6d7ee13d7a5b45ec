//! Panics as errors, where what has panicked can be left behind.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Carries `work` out; if it panics, says with what. Whatever `work` changed must not be trusted
/// after a panic: the caller drops it or starts it anew.
pub(crate) fn caught<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(work)).map_err(|payload| describe(payload.as_ref()))
}

fn describe(payload: &(dyn Any + Send)) -> String {
    let text = payload.downcast_ref::<&str>().copied();
    let text = text.or_else(|| payload.downcast_ref::<String>().map(String::as_str));
    format!("panic: {}", text.unwrap_or("without a message"))
}
