//! The policies that ship with the engine, and their names on the command line.

mod fcfs;
mod priority;

pub use fcfs::Fcfs;
pub use priority::Priority;

use super::Policy;
use crate::types::ConfigError;

/// Names that [`by_name`] knows.
pub const NAMES: [&str; 2] = ["fcfs", "priority"];

/// The policy called `name` on the command line.
pub fn by_name(name: &str) -> Result<Box<dyn Policy>, ConfigError> {
    match name {
        "fcfs" => Ok(Box::new(Fcfs)),
        "priority" => Ok(Box::new(Priority)),
        _ => Err(ConfigError {
            field: "scheduling_policy",
            value: name.into(),
            limit: format!("must be one of {}", NAMES.join(", ")),
        }),
    }
}
