//! The policies that ship with the engine, and their names on the command line.

mod fcfs;
mod priority;

pub use fcfs::Fcfs;
pub use priority::Priority;

use super::{Policy, PolicyContext, PolicyError, PolicyOptions, Registry};

/// Adds all of them.
pub(super) fn register(registry: &mut Registry) {
    registry.register("fcfs", "first come, first served", |_, _| Ok(Box::new(Fcfs)));
    registry.register("priority", "by the priority of requests, then first come", |_, _| {
        Ok(Box::new(Priority))
    });
    registry.ignores_priorities("fcfs");
}

/// `policy` with what the options say that all named policies take.
pub(super) fn with_common_options(
    policy: Box<dyn Policy>,
    options: &mut PolicyOptions<'_>,
    context: &PolicyContext,
) -> Result<Box<dyn Policy>, PolicyError> {
    let _ = (options, context);
    Ok(policy)
}
