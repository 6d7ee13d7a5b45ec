//! The routers that ship with the simulator.

use super::{InstanceView, PrefixIndex, Route, RouteRequest, Router};

/// Names that [`router`] knows.
pub const ROUTERS: [&str; 4] = ["round-robin", "least-tokens", "e2", "prefill-decode"];

/// The router called `name` on the command line, for `num_instances` engines. `None` when there is
/// none of that name; `prefill-decode` takes the first half of the engines for prompts.
#[must_use]
pub fn router(name: &str, num_instances: usize) -> Option<Box<dyn Router>> {
    match name {
        "round-robin" => Some(Box::new(RoundRobin::default())),
        "least-tokens" => Some(Box::new(LeastTokens)),
        "e2" => Some(Box::new(ExploreExploit::default())),
        "prefill-decode" => {
            Some(Box::new(PrefillDecode { num_prefill: num_instances.div_ceil(2) }))
        }
        _ => None,
    }
}

/// One after the other, whatever they do.
#[derive(Clone, Copy, Debug, Default)]
pub struct RoundRobin {
    next: usize,
}

impl Router for RoundRobin {
    fn name(&self) -> &'static str {
        "round-robin"
    }

    fn route(&mut self, _: &RouteRequest<'_>, instances: &[InstanceView]) -> Route {
        let instance = self.next % instances.len();
        self.next = instance + 1;
        Route::To(instance)
    }
}

/// The engine with the fewest prompt tokens of requests that have not ended; of equals the first.
#[derive(Clone, Copy, Debug, Default)]
pub struct LeastTokens;

impl Router for LeastTokens {
    fn name(&self) -> &'static str {
        "least-tokens"
    }

    fn route(&mut self, _: &RouteRequest<'_>, instances: &[InstanceView]) -> Route {
        Route::To(least(instances, |instance| instance.num_live_tokens))
    }
}

/// Exploit or explore (E2 of Preble, ICLR 2025): a request whose prompt is cached to the larger
/// part goes where most of it is; any other goes to the least loaded engine, which will have its
/// prefix from then on. An engine with more than twice the load of the least loaded is not
/// exploited, so that a hot prefix spreads.
#[derive(Clone, Debug, Default)]
pub struct ExploreExploit {
    prefixes: PrefixIndex,
}

/// Load over that of the least loaded from which on an engine is not sent more of the same.
const MAX_IMBALANCE: u64 = 2;

impl Router for ExploreExploit {
    fn name(&self) -> &'static str {
        "e2"
    }

    fn route(&mut self, request: &RouteRequest<'_>, instances: &[InstanceView]) -> Route {
        let record = request.record;
        let load = |instance: &InstanceView| instance.num_live_tokens;
        let least_loaded = least(instances, load);
        let allowance = u64::from(record.input) + MAX_IMBALANCE * load(&instances[least_loaded]);
        let mut best = (0, least_loaded);
        for (index, instance) in instances.iter().enumerate() {
            let num_cached = self.prefixes.num_cached(index, record);
            let is_better = num_cached > best.0
                || (num_cached == best.0 && load(instance) < load(&instances[best.1]));
            if is_better && load(instance) <= allowance {
                best = (num_cached, index);
            }
        }
        let (num_cached, holder) = best;
        let exploits = num_cached > record.input - num_cached;
        let chosen = if exploits { holder } else { least_loaded };
        self.prefixes.enter(chosen, record, instances[chosen].capacity_tokens());
        Route::To(chosen)
    }
}

/// Prompts on the first engines, answers on the others, as in DistServe (OSDI 2024): a prompt goes
/// where the fewest tokens wait, the answer where the fewest blocks are held.
#[derive(Clone, Copy, Debug)]
pub struct PrefillDecode {
    /// Engines that compute prompts, from the first on; at least 1, and at least one is left.
    pub num_prefill: usize,
}

impl Router for PrefillDecode {
    fn name(&self) -> &'static str {
        "prefill-decode"
    }

    fn route(&mut self, _: &RouteRequest<'_>, instances: &[InstanceView]) -> Route {
        let num_prefill = self.num_prefill.clamp(1, instances.len());
        let (prefill, decode) = instances.split_at(num_prefill);
        let to = least(prefill, |instance| instance.num_live_tokens);
        if decode.is_empty() {
            return Route::To(to);
        }
        let from = least(decode, |instance| u64::from(instance.num_used_blocks));
        Route::Split { prefill: to, decode: num_prefill + from }
    }
}

/// Index of the least by `key`; of equals the first.
fn least(instances: &[InstanceView], key: impl Fn(&InstanceView) -> u64) -> usize {
    let keys = instances.iter().map(key).enumerate();
    keys.min_by_key(|&(_, key)| key).map_or(0, |(index, _)| index)
}
