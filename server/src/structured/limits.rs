//! What a constraint may cost, before and while it is compiled and at every token.

use std::time::Duration;

use llguidance::api::ParserLimits;

/// Bounds on constraints.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes of a schema as compact JSON, of a regular expression, a grammar, or all choices.
    pub max_bytes: usize,
    /// Objects and arrays within each other in a schema, and brackets in a grammar.
    pub max_depth: usize,
    /// Values in a schema: objects, arrays, strings, numbers.
    pub max_values: usize,
    /// `$ref`s in a schema; each may lie within the one before when they are followed.
    pub max_references: usize,
    /// Entries of a `choice`.
    pub max_choices: usize,
    /// Time to compile. The work may go on a little longer, on a thread that nobody waits for.
    pub max_compile_time: Duration,
    /// Time to wait for a free compiler, or for another request that compiles the same.
    pub max_wait: Duration,
    /// Constraints that are compiled at the same time. Fewer than the requests that are read at
    /// the same time, so that those without a constraint get through.
    pub max_compilers: usize,
    /// Compiled constraints that are kept.
    pub max_cached: usize,
    /// Bytes of the constraints, as they came, whose compiled form is kept.
    pub max_cached_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        let num_processors = std::thread::available_parallelism().map_or(1, usize::from);
        Self {
            max_bytes: 256 << 10,
            max_depth: 64,
            max_values: 20_000,
            max_references: 1_000,
            max_choices: 10_000,
            max_compile_time: Duration::from_secs(3),
            max_wait: Duration::from_secs(1),
            max_compilers: num_processors.saturating_sub(1).clamp(1, 4),
            max_cached: 64,
            max_cached_bytes: 4 << 20,
        }
    }
}

impl Limits {
    /// What the library is allowed. Its work is counted, not timed, so that the same request has
    /// the same answer on any machine.
    pub(super) fn of_parser() -> ParserLimits {
        ParserLimits {
            max_items_in_row: 2_000,
            initial_lexer_fuel: 1_000_000,
            step_lexer_fuel: 100_000,
            step_max_items: 25_000,
            max_lexer_states: 25_000,
            max_grammar_size: 200_000,
            precompute_large_lexemes: true,
            verbose_errors: false,
        }
    }
}
