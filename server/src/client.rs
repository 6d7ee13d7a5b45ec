//! Who sends a request, and under which name the server knows the request itself.
//!
//! The key check puts a [`Client`] into the extensions of every request, the layer of request ids
//! a [`RequestId`]; bodies carry both on to whoever works on them.

use std::sync::Arc;
use std::time::Duration;

use axum::http::Extensions;
use folio_engine::types::{Nanos, TenantId};

use crate::error::ApiError;
use crate::keys::Allowance;
use crate::telemetry::Record;

/// Longest timeout that a request may ask for: a day.
pub const MAX_TIMEOUT: Duration = Duration::from_secs(24 * 3600);
/// Name of the one client of a server without keys.
pub(crate) const ANONYMOUS: &str = "default";

/// Who sends a request, as far as its key says.
#[derive(Clone, Debug)]
pub struct Client {
    /// Name of the key; for logs and labels. Never the key itself.
    pub name: Arc<str>,
    /// Whose work it is. `TenantId(0)` leaves that to the request's `user`.
    pub tenant: TenantId,
    /// Priority of requests that set none. Smaller is more urgent.
    pub priority: i32,
    /// The most urgent priority that a request may set.
    pub most_urgent: i32,
    /// What the client may do beside asking for work.
    pub role: Role,
    /// What it may use in a minute, if that is bounded.
    pub allowance: Option<Arc<Allowance>>,
    /// Where it is written down what becomes of the request at hand.
    pub record: Option<Arc<Record>>,
    /// When its request began; `None` on the command line.
    pub arrival: Option<Arrival>,
}

/// When a request began, and how long its head says it may take.
#[derive(Clone, Copy, Debug)]
pub struct Arrival {
    /// On the engine's clock.
    pub at: Nanos,
    /// From `X-Request-Timeout-Ms`.
    pub timeout: Option<Duration>,
}

/// What a client may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Ask for work.
    User,
    /// Also see and change the server itself.
    Admin,
}

/// The id of a request, as its answer's `X-Request-Id` says it: the client's own if it is
/// presentable, else one of the server's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestId(pub Arc<str>);

impl Client {
    /// The client of a server that asks for no key, and of the command line. Whoever can reach
    /// such a server owns it.
    pub fn anonymous() -> Self {
        Self { role: Role::Admin, ..Self::named(ANONYMOUS) }
    }

    /// A client with no privilege and no bound.
    pub fn named(name: impl Into<Arc<str>>) -> Self {
        Self {
            name: name.into(),
            tenant: TenantId(0),
            priority: 0,
            most_urgent: i32::MIN,
            role: Role::User,
            allowance: None,
            record: None,
            arrival: None,
        }
    }

    /// Whether spans are wanted of the request at hand.
    pub fn is_traced(&self) -> bool {
        self.record.as_ref().is_some_and(|record| record.is_traced())
    }

    /// The client that the key check found.
    pub fn of(extensions: &Extensions) -> Self {
        let client = extensions.get().cloned().unwrap_or_else(|| Self::named(ANONYMOUS));
        Self { record: extensions.get().cloned(), ..client }
    }

    /// Whose work a request is whose own field `user` says `asked`.
    pub fn tenant_for(&self, asked: TenantId) -> TenantId {
        if self.tenant == TenantId(0) { asked } else { self.tenant }
    }

    /// Takes the tokens of a prompt out of what the client may use. Refuses when that is used up.
    pub fn take_prompt(&self, num_tokens: u64) -> Result<(), ApiError> {
        self.allowance.as_ref().map_or(Ok(()), |allowance| allowance.take_prompt(num_tokens))
    }

    /// Takes tokens that were generated out of what the client may use.
    pub fn take_generated(&self, num_tokens: u64) {
        if let Some(allowance) = &self.allowance {
            allowance.take_generated(num_tokens);
        }
    }

    /// Gives back what [`take_prompt`](Self::take_prompt) took for work that was not accepted.
    pub fn give_back(&self, num_tokens: u64) {
        if let Some(allowance) = &self.allowance {
            allowance.give_back(num_tokens);
        }
    }

    /// Refuses whoever is no administrator.
    pub fn check_admin(&self) -> Result<(), ApiError> {
        match self.role {
            Role::Admin => Ok(()),
            Role::User => Err(ApiError::not_admin()),
        }
    }

    /// The priority of a request whose own field says `asked`. Refuses one that is more urgent
    /// than this client may be.
    pub fn priority_for(&self, asked: Option<i32>) -> Result<i32, ApiError> {
        let priority = asked.unwrap_or(self.priority);
        if priority >= self.most_urgent {
            return Ok(priority);
        }
        let message = format!(
            "priority = {priority} is more urgent than the {} that this API key may ask for \
             (smaller is more urgent)",
            self.most_urgent
        );
        Err(ApiError::invalid_value("priority", message))
    }
}

impl RequestId {
    /// The id that the layer of request ids found or made.
    pub fn of(extensions: &Extensions) -> Option<Self> {
        extensions.get().cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_keys_tenant_goes_before_the_requests_user() {
        let mut client = Client::named("a");
        assert_eq!(client.tenant_for(TenantId(7)), TenantId(7));
        client.tenant = TenantId(3);
        assert_eq!(client.tenant_for(TenantId(7)), TenantId(3));
    }

    #[test]
    fn a_keys_priority_is_default_and_bound() {
        let client = Client { priority: 5, most_urgent: 2, ..Client::named("a") };
        assert_eq!(client.priority_for(None).unwrap(), 5);
        assert_eq!(client.priority_for(Some(2)).unwrap(), 2);
        assert_eq!(client.priority_for(Some(9)).unwrap(), 9);
        let error = client.priority_for(Some(1)).unwrap_err();
        assert!(error.message().contains("priority = 1"), "{error}");
        assert_eq!(Client::anonymous().priority_for(Some(i32::MIN)).unwrap(), i32::MIN);
    }
}
