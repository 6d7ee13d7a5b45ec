//! Virtual token counter: fair shares of service between tenants (OSDI 2024, arXiv 2401.00588).
//!
//! Each tenant has a counter of the service it got: `prefill` for an uncached prompt token, booked
//! when a request is admitted, and `decode` for each token generated, both divided by the tenant's
//! weight. The tenant with the smallest goes first, first come first served within. Who returns
//! with an empty queue is lifted to the smallest counter in the queue: idling earns no credit.
//! With a predictor, outputs are booked on admission as predicted and corrected later.
//!
//! Guarantee: the services of two tenants that both keep a queue differ by at most
//! `2 max(prefill * L, decode * M)`, for prompts of L tokens and M tokens in the batch.

use std::collections::{BTreeMap, HashMap};

use crate::sched::PolicyOptions;
use crate::sched::{
    LengthPredictor, Phase, Policy, PolicyContext, PolicyError, PolicyRequest, Rank, Refresh,
    SchedEvent, View,
};
use crate::types::{SequenceId, TenantId};

/// Prices of service.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Prices {
    /// Of an uncached token of a prompt.
    pub prefill: f64,
    /// Of a generated token.
    pub decode: f64,
}

impl Default for Prices {
    /// Those of the paper.
    fn default() -> Self {
        Self { prefill: 1.0, decode: 2.0 }
    }
}

/// Serves first whose tenant has had least.
#[derive(Debug, Default)]
pub struct Vtc {
    prices: Prices,
    weights: HashMap<TenantId, f64>,
    predictor: Option<Box<dyn LengthPredictor>>,
    accounts: HashMap<TenantId, Account>,
    bills: HashMap<SequenceId, Bill>,
    /// Counter of the tenant whose queue was the last to become empty.
    last_left: f64,
}

/// What a tenant has had, and what it waits for.
#[derive(Debug, Default)]
struct Account {
    counter: f64,
    /// What each of its waiting sequences will be billed on admission, before weights.
    waiting: BTreeMap<SequenceId, f64>,
    /// Ranks of the first [`NUM_TAGS`] of them; empty when out of date.
    tags: Vec<(SequenceId, f64)>,
}

/// What a sequence that was admitted has been billed for.
#[derive(Clone, Copy, Debug, Default)]
struct Bill {
    /// Tokens predicted and billed ahead.
    num_ahead: f64,
    num_generated: f64,
}

/// Waiting sequences of a tenant that are ranked one by one. All behind them rank alike: more
/// than these are hardly ever admitted in one step.
const NUM_TAGS: usize = 64;

impl Vtc {
    /// Fair at these prices. Tenants not in `weights` have weight 1; weights must be positive.
    #[must_use]
    pub fn new(prices: Prices, weights: HashMap<TenantId, f64>) -> Self {
        Self { prices, weights, ..Self::default() }
    }

    /// The same, with answers billed ahead as `predictor` says.
    #[must_use]
    pub fn with_predictor(self, predictor: Box<dyn LengthPredictor>) -> Self {
        Self { predictor: Some(predictor), ..self }
    }

    /// The keys `prefill`, `decode` and `predictor`; weights are those of the context.
    pub fn from_options(
        options: &mut PolicyOptions<'_>,
        context: &PolicyContext,
    ) -> Result<Self, PolicyError> {
        let default = Prices::default();
        let prices = Prices {
            prefill: options.number("prefill", 0.0..=1000.0, default.prefill)?,
            decode: options.number("decode", 0.0..=1000.0, default.decode)?,
        };
        let policy = Self::new(prices, context.tenant_weights.clone());
        let predictor = super::predictor(options, context)?;
        Ok(Self { predictor, ..policy })
    }

    /// The counter of `tenant`: service by its weight, and what it was lifted by.
    #[must_use]
    pub fn counter(&self, tenant: TenantId) -> f64 {
        self.accounts.get(&tenant).map_or(0.0, |account| account.counter)
    }

    fn weight(&self, tenant: TenantId) -> f64 {
        self.weights.get(&tenant).copied().unwrap_or(1.0)
    }

    fn bill(&mut self, tenant: TenantId, price: f64) {
        let weight = self.weight(tenant);
        let account = self.accounts.entry(tenant).or_default();
        account.counter += price / weight;
        account.tags.clear();
    }

    /// A sequence starts to wait, or to wait again.
    fn enqueue(&mut self, request: PolicyRequest<'_>, view: &View<'_>) {
        let is_idle = self.accounts.get(&request.tenant()).is_none_or(|a| a.waiting.is_empty());
        if is_idle && request.num_preemptions() == 0 {
            self.lift(request.tenant());
        }
        let is_billed = self.bills.contains_key(&request.id());
        let num_tokens = if is_billed { 0 } else { view.num_uncached_tokens(&request) };
        let price = self.prices.prefill * f64::from(num_tokens);
        let account = self.accounts.entry(request.tenant()).or_default();
        account.waiting.insert(request.id(), price);
        account.tags.clear();
    }

    /// A tenant returns: it is owed nothing for the time it was away.
    fn lift(&mut self, tenant: TenantId) {
        let queued = self.accounts.values().filter(|account| !account.waiting.is_empty());
        let least = queued.map(|account| account.counter).min_by(f64::total_cmp);
        let account = self.accounts.entry(tenant).or_default();
        account.counter = account.counter.max(least.unwrap_or(self.last_left));
    }

    /// A sequence waits no longer.
    fn dequeue(&mut self, tenant: TenantId, id: SequenceId) {
        let Some(account) = self.accounts.get_mut(&tenant) else { return };
        if account.waiting.remove(&id).is_some() {
            account.tags.clear();
            if account.waiting.is_empty() {
                self.last_left = account.counter;
            }
        }
    }

    fn admitted(&mut self, request: PolicyRequest<'_>, num_cached: u32) {
        self.dequeue(request.tenant(), request.id());
        if self.bills.contains_key(&request.id()) {
            return; // it was preempted: what is computed again is no service
        }
        let num_ahead = self.predictor.as_ref().map_or(0.0, |p| p.predict(&request).mean);
        self.bills.insert(request.id(), Bill { num_ahead, num_generated: 0.0 });
        let num_tokens = f64::from(request.num_known().saturating_sub(num_cached));
        let price = self.prices.prefill * num_tokens + self.prices.decode * num_ahead;
        self.bill(request.tenant(), price);
    }

    fn generated(&mut self, id: SequenceId, tenant: TenantId) {
        let Some(bill) = self.bills.get_mut(&id) else { return };
        bill.num_generated += 1.0;
        if bill.num_generated > bill.num_ahead {
            self.bill(tenant, self.prices.decode);
        }
    }

    fn finished(&mut self, id: SequenceId, tenant: TenantId) {
        self.dequeue(tenant, id);
        let Some(bill) = self.bills.remove(&id) else { return };
        let num_less = (bill.num_ahead - bill.num_generated).max(0.0);
        self.bill(tenant, -self.prices.decode * num_less);
    }
}

impl Policy for Vtc {
    fn name(&self) -> &'static str {
        "vtc"
    }

    /// A waiting sequence ranks where its tenant's counter will be once those before it are in.
    fn rank(&mut self, request: &PolicyRequest<'_>, view: &View<'_>) -> Rank {
        let (id, tenant) = (request.id(), request.tenant());
        if request.phase() != Phase::Waiting {
            return Rank(0.0, self.counter(tenant));
        }
        let is_known = |account: &Account| account.waiting.contains_key(&id);
        if !self.accounts.get(&tenant).is_some_and(is_known) {
            self.enqueue(*request, view);
        }
        let weight = self.weight(tenant);
        let account = self.accounts.entry(tenant).or_default();
        if account.tags.is_empty() {
            let mut tag = account.counter;
            for (&id, price) in account.waiting.iter().take(NUM_TAGS) {
                account.tags.push((id, tag));
                tag += price / weight;
            }
        }
        match account.tags.binary_search_by_key(&id, |&(id, _)| id) {
            Ok(index) => Rank(0.0, account.tags[index].1),
            Err(_) => Rank(1.0, 0.0),
        }
    }

    fn refresh(&self) -> Refresh {
        Refresh::OnTenantEvent
    }

    fn observe(&mut self, event: &SchedEvent, view: &View<'_>) {
        if let Some(predictor) = &mut self.predictor {
            super::work::learn(predictor.as_mut(), event);
        }
        match *event {
            SchedEvent::Admitted { id, num_cached_tokens } => {
                if let Some(request) = view.request(id) {
                    self.admitted(request, num_cached_tokens);
                }
            }
            SchedEvent::Granted { id, tenant, num_results, .. } if num_results > 0 => {
                self.generated(id, tenant);
            }
            SchedEvent::Finished { id, tenant, .. } => self.finished(id, tenant),
            _ => {}
        }
    }
}
