//! Folio with one policy more: `lottery`, which draws the order of service by lot, with a ticket
//! more for each second of waiting. `own-policy serve --policy 'lottery tickets=10'` serves with
//! it, and every other command of Folio knows it too.

use std::process::ExitCode;

use folio_engine::sched::{Policy, PolicyRequest, Rank, View};

/// Smaller numbers are drawn by who has more tickets.
struct Lottery {
    seed: u64,
    tickets: f64,
}

impl Policy for Lottery {
    fn name(&self) -> &str {
        "lottery"
    }

    fn rank(&mut self, request: &PolicyRequest<'_>, view: &View<'_>) -> Rank {
        // A draw that depends on the request and the seed alone: runs can be repeated.
        let bits = (request.id().0 ^ self.seed).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 11;
        let draw = (bits as f64 + 1.0) / (1u64 << 53) as f64;
        let waited = request.age(view).0 as f64 / 1e9;
        Rank(-draw.ln() / (self.tickets + waited), 0.0)
    }
}

fn main() -> ExitCode {
    let mut registry = folio::policy::registry();
    registry.register("lottery", "by lot: tickets=1 (to begin with)", |options, context| {
        let tickets = options.number("tickets", 1.0..=1e6, 1.0)?;
        Ok(Box::new(Lottery { seed: context.seed, tickets }))
    });
    folio::program::main_with(registry, std::env::args_os())
}
