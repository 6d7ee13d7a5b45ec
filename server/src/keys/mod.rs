//! Who may use the server: the keys that clients present, and what each of them may do.
//!
//! Keys are checked on every request, so they are long random texts under a fast hash, not
//! passwords under a slow one: a slow hash would let anybody spend the server's time. Only
//! SHA-256(salt, SHA-256(key)) is kept, with a salt of this process; the inner hash is what a key
//! file may hold in a key's place. All digests are compared, each in constant time.

mod allowance;
mod file;

pub(crate) use allowance::headers;
pub use allowance::{Allowance, Rates};
pub use file::{KeySpec, Secret, parse};

use std::collections::HashMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use axum::http::{HeaderMap, header};
use folio_engine::types::TenantId;
use sha2::{Digest, Sha256};
use subtle::{ConditionallySelectable, ConstantTimeEq};
use tokio_rustls::rustls::crypto::ring;

use crate::client::{ANONYMOUS, Client, Role};
use crate::error::ApiError;

/// A key's SHA-256.
type KeyHash = [u8; 32];

/// Why keys cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The system gives no random numbers.
    #[error("there are no random numbers to salt the keys with")]
    NoRandomness,
    /// Two keys are the same.
    #[error("{0} and {1} are the same key")]
    Twice(Arc<str>, Arc<str>),
    /// The name is that of a key of the command line, or of the client of a server without keys.
    #[error("the name {0:?} is taken by the server itself")]
    NameTaken(Arc<str>),
    /// Nobody would get in.
    #[error("there is no key in it")]
    Empty,
}

/// The keys that clients may present.
#[derive(Debug)]
pub struct KeyRing {
    salt: [u8; 32],
    /// Keys of the command line, which stay.
    fixed: Vec<Entry>,
    /// Those and the keys of the file.
    entries: ArcSwap<Vec<Entry>>,
    /// Whether there never were any: everybody may use the server.
    is_open: bool,
}

#[derive(Clone)]
struct Entry {
    digest: [u8; 32],
    client: Client,
}

impl std::fmt::Debug for Entry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Entry").field(&self.client.name).finish()
    }
}

impl KeyRing {
    /// Accepts any of `keys`, each of which may do everything; without any, lets everybody in.
    pub fn new<'a>(keys: impl IntoIterator<Item = &'a str>) -> Result<Self, KeyError> {
        let mut salt = [0; 32];
        ring::default_provider()
            .secure_random
            .fill(&mut salt)
            .map_err(|_| KeyError::NoRandomness)?;
        let entry = |(key, number): (&str, u32)| Entry {
            digest: digest(&salt, &Sha256::digest(key).into()),
            client: Client { role: Role::Admin, ..Client::named(format!("key-{number}")) },
        };
        let fixed: Vec<_> = keys.into_iter().zip(1..).map(entry).collect();
        check_distinct(&fixed)?;
        let entries = ArcSwap::from_pointee(fixed.clone());
        Ok(Self { salt, is_open: fixed.is_empty(), fixed, entries })
    }

    /// The same with the keys of a file.
    pub fn with_file(mut self, specs: &[KeySpec]) -> Result<Self, KeyError> {
        self.is_open = false;
        self.replace(specs)?;
        Ok(self)
    }

    /// Takes `specs` in the place of the keys that the file had before. Keys of the same name
    /// keep what they have used of their rates. After an error everything is as it was.
    pub fn replace(&self, specs: &[KeySpec]) -> Result<(), KeyError> {
        if specs.is_empty() {
            return Err(KeyError::Empty);
        }
        let is_taken = |name: &str| {
            name == ANONYMOUS || self.fixed.iter().any(|entry| *entry.client.name == *name)
        };
        if let Some(spec) = specs.iter().find(|spec| is_taken(&spec.name)) {
            return Err(KeyError::NameTaken(Arc::clone(&spec.name)));
        }
        let before = self.entries.load();
        let known: HashMap<_, _> =
            before.iter().map(|entry| (&entry.client.name, &entry.client.allowance)).collect();
        let of_file = specs.iter().map(|spec| {
            let before = known.get(&spec.name).and_then(|allowance| allowance.as_ref());
            Entry { digest: digest(&self.salt, spec.secret.hash()), client: client(spec, before) }
        });
        let entries: Vec<_> = self.fixed.iter().cloned().chain(of_file).collect();
        check_distinct(&entries)?;
        for (entry, spec) in entries.iter().skip(self.fixed.len()).zip(specs) {
            if let Some(allowance) = &entry.client.allowance {
                allowance.set_rates(&spec.rates);
            }
        }
        self.entries.store(Arc::new(entries));
        Ok(())
    }

    /// Whether everybody may use the server.
    pub fn is_open(&self) -> bool {
        self.is_open
    }

    /// Who holds the key in the header `Authorization: Bearer <key>`.
    pub fn check(&self, headers: &HeaderMap) -> Result<Client, ApiError> {
        if self.is_open {
            return Ok(Client::anonymous());
        }
        let Some(value) = headers.get(header::AUTHORIZATION) else {
            return Err(ApiError::unauthorized(
                "an API key is needed: send the header Authorization: Bearer <key>",
            ));
        };
        let Some(key) = bearer_token(value.as_bytes()) else {
            return Err(ApiError::unauthorized("the header Authorization must read Bearer <key>"));
        };
        let entries = self.entries.load();
        let given = digest(&self.salt, &Sha256::digest(key).into());
        // No early end: the time tells nothing about which key was close.
        let found = entries.iter().zip(0u32..).fold(u32::MAX, |found, (entry, index)| {
            u32::conditional_select(&found, &index, entry.digest.ct_eq(&given))
        });
        let found = entries.get(found as usize);
        found
            .map(|entry| entry.client.clone())
            .ok_or_else(|| ApiError::unauthorized("the API key is not known"))
    }
}

/// What a key of a file may do. One that was known before keeps its allowance.
fn client(spec: &KeySpec, before: Option<&Arc<Allowance>>) -> Client {
    let allowance = match before {
        _ if spec.rates.is_unlimited() => None,
        Some(before) => Some(Arc::clone(before)),
        None => Some(Arc::new(Allowance::new(&spec.rates))),
    };
    Client {
        name: Arc::clone(&spec.name),
        tenant: spec.tenant.as_deref().map_or(TenantId(0), tenant_id),
        priority: spec.priority.unwrap_or(0),
        most_urgent: spec.most_urgent.or(spec.priority).unwrap_or(i32::MIN),
        role: spec.role,
        allowance,
        record: None,
        arrival: None,
    }
}

/// Apart from the ids of the users that requests name; never the id that stands for nobody.
fn tenant_id(tenant: &str) -> TenantId {
    let hash = Sha256::new().chain_update("tenant:").chain_update(tenant).finalize();
    let number = hash.iter().take(4).fold(0u32, |number, &byte| number << 8 | u32::from(byte));
    TenantId(number.max(1))
}

fn check_distinct(entries: &[Entry]) -> Result<(), KeyError> {
    let mut names = HashMap::new();
    for entry in entries {
        if let Some(other) = names.insert(entry.digest, &entry.client.name) {
            return Err(KeyError::Twice(Arc::clone(other), Arc::clone(&entry.client.name)));
        }
    }
    Ok(())
}

/// Both parts have a fixed length: there is only one way to read what is hashed.
fn digest(salt: &[u8; 32], hash: &KeyHash) -> [u8; 32] {
    Sha256::new().chain_update(salt).chain_update(hash).finalize().into()
}

/// What follows the scheme, whose case does not matter.
fn bearer_token(value: &[u8]) -> Option<&[u8]> {
    let (scheme, rest) = value.split_at_checked(7)?;
    scheme.eq_ignore_ascii_case(b"bearer ").then(|| rest.trim_ascii())
}

#[cfg(test)]
mod tests;
