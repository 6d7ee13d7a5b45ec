//! The file of keys: one TOML table `[[key]]` for each.

use std::collections::HashSet;
use std::sync::Arc;

use serde::Deserialize;
use sha2::{Digest, Sha256};

use super::{KeyHash, Rates};
use crate::client::Role;

/// Shortest key that a file may hold: a shorter one could be guessed.
const MIN_KEY_BYTES: usize = 16;
/// Longest name of a key or tenant: it goes into logs and labels.
const MAX_NAME_BYTES: usize = 64;

/// A key of a file, and what it may do.
#[derive(Clone, Debug)]
pub struct KeySpec {
    /// For logs and metrics; no other key of the file has it.
    pub name: Arc<str>,
    /// What tells its holder.
    pub secret: Secret,
    /// Whose work its requests are, when it says.
    pub tenant: Option<String>,
    /// Priority of requests that set none.
    pub priority: Option<i32>,
    /// The most urgent priority that requests may set.
    pub most_urgent: Option<i32>,
    /// What it may use in a minute.
    pub rates: Rates,
    /// What else it may do.
    pub role: Role,
}

/// The SHA-256 of a key. Debug output does not show it.
#[derive(Clone)]
pub struct Secret(KeyHash);

impl Secret {
    /// Of a key in clear.
    pub fn of(key: &str) -> Self {
        Self(Sha256::digest(key).into())
    }

    /// The hash.
    pub(super) fn hash(&self) -> &KeyHash {
        &self.0
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret")
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    key: Vec<toml::Spanned<Table>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Table {
    name: String,
    key: Option<String>,
    sha256: Option<String>,
    tenant: Option<String>,
    priority: Option<i32>,
    most_urgent_priority: Option<i32>,
    requests_per_minute: Option<u32>,
    tokens_per_minute: Option<u32>,
    #[serde(default)]
    admin: bool,
}

/// Reads a whole file. The error names the line, and never shows a key.
pub fn parse(text: &str) -> Result<Vec<KeySpec>, String> {
    let at = |offset: usize| {
        let before = text.get(..offset).unwrap_or(text);
        format!("line {}", before.matches('\n').count() + 1)
    };
    // The error's own text would quote the line, with the key in it.
    let file: File = toml::from_str(text).map_err(|error| {
        let place = error.span().map_or_else(String::new, |span| format!("{}: ", at(span.start)));
        format!("{place}{}", error.message())
    })?;
    let mut names = HashSet::new();
    let mut keys = Vec::new();
    for table in file.key {
        let place = at(table.span().start);
        let spec = spec(table.into_inner()).map_err(|message| format!("{place}: {message}"))?;
        if !names.insert(Arc::clone(&spec.name)) {
            return Err(format!("{place}: the name {:?} is given twice", spec.name));
        }
        keys.push(spec);
    }
    Ok(keys)
}

fn spec(table: Table) -> Result<KeySpec, String> {
    check_name("name", &table.name)?;
    if let Some(tenant) = &table.tenant {
        check_name("tenant", tenant)?;
    }
    let name = &table.name;
    let secret = match (&table.key, &table.sha256) {
        (Some(key), None) => clear(key),
        (None, Some(hash)) => hashed(hash),
        _ => Err("it needs either key or sha256".to_owned()),
    };
    let secret = secret.map_err(|message| format!("key {name:?}: {message}"))?;
    for (field, value) in [
        ("requests-per-minute", table.requests_per_minute),
        ("tokens-per-minute", table.tokens_per_minute),
    ] {
        if value == Some(0) {
            return Err(format!("key {name:?}: {field} is 0 and must be at least 1"));
        }
    }
    if let (Some(bound), Some(default)) = (table.most_urgent_priority, table.priority)
        && default < bound
    {
        return Err(format!(
            "key {name:?}: priority = {default} is more urgent than most-urgent-priority = {bound}"
        ));
    }
    Ok(KeySpec {
        name: table.name.into(),
        secret,
        tenant: table.tenant,
        priority: table.priority,
        most_urgent: table.most_urgent_priority,
        rates: Rates {
            requests_per_minute: table.requests_per_minute,
            tokens_per_minute: table.tokens_per_minute,
        },
        role: if table.admin { Role::Admin } else { Role::User },
    })
}

fn check_name(field: &str, name: &str) -> Result<(), String> {
    let is_plain =
        name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.@/".contains(&byte));
    if is_plain && (1..=MAX_NAME_BYTES).contains(&name.len()) {
        return Ok(());
    }
    Err(format!(
        "{field} = {name:?} must have 1 to {MAX_NAME_BYTES} letters, digits or any of - _ . @ /"
    ))
}

fn clear(key: &str) -> Result<Secret, String> {
    if key.len() < MIN_KEY_BYTES {
        return Err(format!("it has {} bytes and must have {MIN_KEY_BYTES} or more", key.len()));
    }
    if key.bytes().any(|byte| !byte.is_ascii_graphic()) {
        return Err("it must have no characters but visible ASCII ones".to_owned());
    }
    Ok(Secret::of(key))
}

fn hashed(text: &str) -> Result<Secret, String> {
    let mut hash = KeyHash::default();
    let digits = text.as_bytes();
    let is_whole = digits.len() == 2 * hash.len();
    for (byte, pair) in hash.iter_mut().zip(digits.chunks(2)) {
        let pair = std::str::from_utf8(pair).ok().filter(|pair| !pair.starts_with('+'));
        let value = pair.and_then(|pair| u8::from_str_radix(pair, 16).ok());
        *byte = value.filter(|_| is_whole).ok_or("sha256 must be 64 hexadecimal digits")?;
    }
    Ok(Secret(hash))
}
