//! What an expression may ask about a request and about the scheduler.

use std::collections::HashMap;

use crate::sched::{LengthPredictor, PolicyRequest, View};
use crate::types::{Nanos, TenantId};

/// When a value of a waiting request changes. Later variants change at least as often.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Staleness {
    /// Never, as long as it waits.
    Arrival,
    /// When something is computed for its tenant.
    Tenant,
    /// At any time.
    Step,
}

/// What an expression knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Feature {
    /// As it is written.
    pub name: &'static str,
    /// What it is, in one line.
    pub help: &'static str,
    /// When it changes.
    pub staleness: Staleness,
    /// What it is about.
    subject: Subject,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Subject {
    Request(OfRequest),
    Step(OfStep),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum OfRequest {
    Arrival,
    ArrivalSeconds,
    Waited,
    Priority,
    Prompt,
    Cached,
    Uncached,
    Computed,
    Generated,
    Pending,
    MaxTokens,
    PredictedOut,
    PredictedLeft,
    Deadline,
    Tenant,
    TenantService,
    Preemptions,
    Blocks,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum OfStep {
    Now,
    Running,
    Waiting,
    FreeBlocks,
    TotalBlocks,
    BlockSize,
    MaxTokensAStep,
    MaxRunning,
}

const fn of_request(
    name: &'static str,
    staleness: Staleness,
    what: OfRequest,
    help: &'static str,
) -> Feature {
    Feature { name, help, staleness, subject: Subject::Request(what) }
}

const fn of_step(name: &'static str, what: OfStep, help: &'static str) -> Feature {
    Feature { name, help, staleness: Staleness::Step, subject: Subject::Step(what) }
}

impl Feature {
    /// All of them.
    pub const ALL: [Self; 26] = [
        of_request(
            "arrival",
            Staleness::Arrival,
            OfRequest::Arrival,
            "number of the request: later ones have larger",
        ),
        of_request(
            "arrival_s",
            Staleness::Arrival,
            OfRequest::ArrivalSeconds,
            "time of arrival, seconds since the engine's start",
        ),
        of_request("waited_s", Staleness::Step, OfRequest::Waited, "seconds since its arrival"),
        of_request(
            "priority",
            Staleness::Arrival,
            OfRequest::Priority,
            "as the client set it, smaller is more urgent; 0 if not",
        ),
        of_request("prompt", Staleness::Arrival, OfRequest::Prompt, "tokens of the prompt"),
        of_request(
            "cached",
            Staleness::Step,
            OfRequest::Cached,
            "tokens that need not be computed: found in the prefix cache, or computed already",
        ),
        of_request(
            "uncached",
            Staleness::Step,
            OfRequest::Uncached,
            "tokens of the prompt, and of the answer so far, that are yet to be computed",
        ),
        of_request(
            "computed",
            Staleness::Step,
            OfRequest::Computed,
            "tokens whose keys and values it holds",
        ),
        of_request(
            "generated",
            Staleness::Step,
            OfRequest::Generated,
            "tokens of the answer so far",
        ),
        of_request(
            "pending",
            Staleness::Step,
            OfRequest::Pending,
            "tokens known and not yet granted",
        ),
        of_request(
            "max_tokens",
            Staleness::Arrival,
            OfRequest::MaxTokens,
            "most tokens that the answer may have; 0 for an embedding",
        ),
        of_request(
            "predicted_out",
            Staleness::Step,
            OfRequest::PredictedOut,
            "tokens that the answer is expected to have in the end",
        ),
        of_request(
            "predicted_left",
            Staleness::Step,
            OfRequest::PredictedLeft,
            "those of them that are yet to come",
        ),
        of_request(
            "deadline_s",
            Staleness::Step,
            OfRequest::Deadline,
            "seconds left until its timeout; inf without one",
        ),
        of_request("tenant", Staleness::Arrival, OfRequest::Tenant, "number of its tenant"),
        of_request(
            "tenant_service",
            Staleness::Tenant,
            OfRequest::TenantService,
            "tokens computed for its tenant, by the tenant's weight; one who comes back starts no \
             lower than the least of the others",
        ),
        of_request(
            "preemptions",
            Staleness::Arrival,
            OfRequest::Preemptions,
            "how often it lost its blocks",
        ),
        of_request("blocks", Staleness::Step, OfRequest::Blocks, "blocks that it holds"),
        of_step("now_s", OfStep::Now, "seconds since the engine's start"),
        of_step("running", OfStep::Running, "sequences that run"),
        of_step("waiting", OfStep::Waiting, "sequences that wait"),
        of_step("free_blocks", OfStep::FreeBlocks, "blocks that nobody holds"),
        of_step("total_blocks", OfStep::TotalBlocks, "blocks in all"),
        of_step("block_size", OfStep::BlockSize, "tokens in a block"),
        of_step("max_tokens_a_step", OfStep::MaxTokensAStep, "--max-num-batched-tokens"),
        of_step("max_running", OfStep::MaxRunning, "--max-num-seqs"),
    ];

    /// The one of this name.
    pub(super) fn find(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|feature| feature.name == name)
    }

    /// Whether it is about a request; else it is about the whole step.
    #[must_use]
    pub fn is_of_request(&self) -> bool {
        matches!(self.subject, Subject::Request(_))
    }

    /// Whether it needs the service of tenants.
    pub(super) fn is_service(&self) -> bool {
        self.subject == Subject::Request(OfRequest::TenantService)
    }

    /// Its value now.
    pub(super) fn value(&self, scope: &Scope<'_>) -> f64 {
        match (self.subject, scope.request) {
            (Subject::Request(what), Some(request)) => what.value(request, scope),
            // The parser lets none of these into an expression about a step.
            (Subject::Request(_), None) => f64::NAN,
            (Subject::Step(what), _) => what.value(scope.view),
        }
    }
}

/// What an expression is evaluated over.
#[derive(Clone, Copy)]
pub(super) struct Scope<'a> {
    pub(super) request: Option<PolicyRequest<'a>>,
    pub(super) view: &'a View<'a>,
    pub(super) service: &'a TenantService,
    pub(super) predictor: &'a dyn LengthPredictor,
}

impl OfRequest {
    fn value(self, request: PolicyRequest<'_>, scope: &Scope<'_>) -> f64 {
        let predicted = || scope.predictor.predict(&request).mean;
        match self {
            Self::Arrival => request.id().0 as f64,
            Self::ArrivalSeconds => seconds(request.arrival()),
            Self::Waited => seconds(scope.view.now().since(request.arrival())),
            Self::Priority => f64::from(request.priority()),
            Self::Prompt => f64::from(request.prompt_len()),
            Self::Cached => f64::from(num_cached(request, scope.view)),
            Self::Uncached => f64::from(scope.view.num_uncached_tokens(&request)),
            Self::Computed => f64::from(request.num_computed()),
            Self::Generated => f64::from(request.num_generated()),
            Self::Pending => f64::from(request.num_pending()),
            Self::MaxTokens => f64::from(request.max_tokens()),
            Self::PredictedOut => predicted(),
            Self::PredictedLeft => (predicted() - f64::from(request.num_generated())).max(0.0),
            Self::Deadline => request
                .deadline()
                .map_or(f64::INFINITY, |deadline| seconds(deadline) - seconds(scope.view.now())),
            Self::Tenant => f64::from(request.tenant().0),
            Self::TenantService => scope.service.of(request.tenant()),
            Self::Preemptions => f64::from(request.num_preemptions()),
            Self::Blocks => f64::from(request.num_blocks()),
        }
    }
}

impl OfStep {
    fn value(self, view: &View<'_>) -> f64 {
        match self {
            Self::Now => seconds(view.now()),
            Self::Running => view.num_running() as f64,
            Self::Waiting => view.num_waiting() as f64,
            Self::FreeBlocks => f64::from(view.kv().num_free),
            Self::TotalBlocks => f64::from(view.kv().num_blocks),
            Self::BlockSize => f64::from(view.kv().block_size),
            Self::MaxTokensAStep => f64::from(view.defaults().token_budget),
            Self::MaxRunning => f64::from(view.defaults().max_running),
        }
    }
}

/// Of a running request, what it has computed; of a waiting one, what the cache has too.
fn num_cached(request: PolicyRequest<'_>, view: &View<'_>) -> u32 {
    match request.num_computed() {
        0 => view.num_cached_tokens(&request),
        num_computed => num_computed,
    }
}

fn seconds(time: Nanos) -> f64 {
    time.0 as f64 * 1e-9
}

/// Tokens computed for each tenant, by weight.
#[derive(Clone, Debug, Default)]
pub(super) struct TenantService {
    weights: HashMap<TenantId, f64>,
    tenants: HashMap<TenantId, Account>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Account {
    service: f64,
    num_live: u32,
}

/// Tenants that are remembered after their last request has ended.
const MAX_IDLE_TENANTS: usize = 4096;

impl TenantService {
    pub(super) fn new(weights: HashMap<TenantId, f64>) -> Self {
        Self { weights, tenants: HashMap::new() }
    }

    fn of(&self, tenant: TenantId) -> f64 {
        self.tenants.get(&tenant).map_or(0.0, |account| account.service)
    }

    /// One more request of `tenant` is there. Who was away does not come back with the credit of
    /// that time: he starts where the least served of the others is.
    pub(super) fn arrive(&mut self, tenant: TenantId) {
        let is_back = self.tenants.get(&tenant).is_none_or(|account| account.num_live == 0);
        let least = is_back.then(|| {
            let live = self.tenants.values().filter(|account| account.num_live > 0);
            live.map(|account| account.service).min_by(f64::total_cmp)
        });
        let account = self.tenants.entry(tenant).or_default();
        account.num_live += 1;
        if let Some(Some(least)) = least {
            account.service = account.service.max(least);
        }
    }

    pub(super) fn grant(&mut self, tenant: TenantId, num_tokens: u32) {
        let weight = self.weights.get(&tenant).copied().filter(|weight| *weight > 0.0);
        let account = self.tenants.entry(tenant).or_default();
        account.service += f64::from(num_tokens) / weight.unwrap_or(1.0);
    }

    pub(super) fn finish(&mut self, tenant: TenantId) {
        let Some(account) = self.tenants.get_mut(&tenant) else { return };
        account.num_live = account.num_live.saturating_sub(1);
        if self.tenants.len() > MAX_IDLE_TENANTS {
            self.tenants.retain(|_, account| account.num_live > 0);
        }
    }
}
