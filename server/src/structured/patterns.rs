//! Patterns of a schema that one string must match together.
//!
//! The library multiplies the cases of patterns that it intersects, without counting that work, so
//! their number and lengths are bounded here. Schemas are intersected where `allOf`, a `$ref` or
//! alternatives beside other keywords put them at the same place. A place is told by the names on
//! the way to it; behind names that a pattern or nothing gives, anything may meet.

use std::collections::{HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};

use serde_json::{Map, Value};

use super::compiler::Refusal;

/// Bytes of the longest pattern.
pub(super) const MAX_PATTERN_BYTES: usize = 1000;
/// Most patterns of one string.
const MAX_TOGETHER: usize = 4;
/// Largest product of the lengths of the patterns of one string.
const MAX_PRODUCT: usize = 1_000_000;
/// What a `format` counts for.
const FORMAT_BYTES: usize = 100;
/// Most values looked at.
const MAX_LOOKS: usize = 100_000;
/// Deepest way, references followed: it recurses.
const MAX_DEPTH: usize = 256;

/// Keywords that may bring patterns, at the same place or below.
const BEARING: [&str; 12] = [
    "$ref",
    "additionalItems",
    "additionalProperties",
    "allOf",
    "anyOf",
    "format",
    "items",
    "oneOf",
    "pattern",
    "patternProperties",
    "prefixItems",
    "properties",
];

/// A place below a schema, as a digest of the names on the way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Place {
    At(u64),
    /// Behind a name that is not known.
    Anywhere,
}

impl Place {
    fn below(self, name: &str) -> Self {
        let Self::At(above) = self else { return self };
        let mut hasher = DefaultHasher::new();
        (above, name).hash(&mut hasher);
        Self::At(hasher.finish())
    }
}

/// Lengths of the patterns that may come together.
type Found = HashMap<Place, Vec<usize>>;

/// A way through a schema and what it refers to.
struct Search<'a> {
    root: &'a Value,
    num_looks: usize,
    depth: usize,
}

/// Refuses schemas that make a string match too much at once. Their depth must have been checked.
pub(super) fn check(schema: &Value) -> Result<(), Refusal> {
    let mut search = Search { root: schema, num_looks: 0, depth: 0 };
    let mut open = vec![schema];
    while let Some(value) = open.pop() {
        match value {
            Value::Object(map) => {
                if combines(map) {
                    check_together(&search.collect(value, Place::At(0), &mut HashSet::new())?)?;
                }
                open.extend(map.values());
            }
            Value::Array(items) => open.extend(items),
            _ => {}
        }
    }
    Ok(())
}

/// Whether schemas that may bring patterns are intersected here.
fn combines(map: &Map<String, Value>) -> bool {
    let num_branches = map.get("allOf").and_then(Value::as_array).map_or(0, Vec::len);
    let is_applied = ["$ref", "allOf", "anyOf", "oneOf"].iter().any(|key| map.contains_key(*key));
    let num_bearing = BEARING.iter().filter(|key| map.contains_key(**key)).count();
    num_branches > 1 || (is_applied && num_bearing > 1)
}

fn check_together(found: &Found) -> Result<(), Refusal> {
    let anywhere = found.get(&Place::Anywhere);
    for (place, lengths) in found {
        let others = anywhere.filter(|_| *place != Place::Anywhere).into_iter().flatten();
        let lengths: Vec<usize> = lengths.iter().chain(others).copied().collect();
        let product = lengths.iter().fold(1usize, |product, &len| product.saturating_mul(len));
        if lengths.len() > 1 && (lengths.len() > MAX_TOGETHER || product > MAX_PRODUCT) {
            let message = format!(
                "combines {} patterns and formats for one string, whose lengths multiply to \
                 {product}: at most {MAX_TOGETHER} and {MAX_PRODUCT} are allowed",
                lengths.len()
            );
            return Err(Refusal::invalid("", message));
        }
    }
    Ok(())
}

impl<'a> Search<'a> {
    /// The patterns at and below `value`, which stands at `place`.
    fn collect(
        &mut self,
        value: &'a Value,
        place: Place,
        followed: &mut HashSet<&'a str>,
    ) -> Result<Found, Refusal> {
        self.num_looks += 1;
        if self.num_looks > MAX_LOOKS || self.depth > MAX_DEPTH {
            return Err(Refusal::invalid("", "combines too many schemas with each other"));
        }
        let mut found = Found::new();
        let Value::Object(map) = value else { return Ok(found) };
        self.depth += 1;
        for (key, value) in map {
            self.collect_keyword((key, value), place, followed, &mut found)?;
        }
        self.depth -= 1;
        Ok(found)
    }

    /// Adds the patterns under one keyword.
    fn collect_keyword(
        &mut self,
        (key, value): (&'a str, &'a Value),
        place: Place,
        followed: &mut HashSet<&'a str>,
        found: &mut Found,
    ) -> Result<(), Refusal> {
        match (key, value) {
            ("pattern", Value::String(pattern)) => {
                found.entry(place).or_default().push(pattern.len().max(1));
            }
            ("format", Value::String(_)) => found.entry(place).or_default().push(FORMAT_BYTES),
            ("properties", Value::Object(schemas)) => {
                for (name, schema) in schemas {
                    join(found, self.collect(schema, place.below(name), followed)?);
                }
            }
            ("patternProperties", Value::Object(schemas)) => {
                for schema in schemas.values() {
                    join(found, self.collect(schema, Place::Anywhere, followed)?);
                }
            }
            ("allOf", Value::Array(schemas)) => {
                for schema in schemas {
                    join(found, self.collect(schema, place, followed)?);
                }
            }
            ("anyOf" | "oneOf", Value::Array(schemas)) => {
                let mut most = Found::new();
                for schema in schemas {
                    widen(&mut most, self.collect(schema, place, followed)?);
                }
                join(found, most);
            }
            ("items" | "prefixItems", Value::Array(schemas)) => {
                for schema in schemas {
                    join(found, self.collect(schema, place.below("[]"), followed)?);
                }
            }
            ("items" | "additionalItems", _) => {
                join(found, self.collect(value, place.below("[]"), followed)?);
            }
            ("additionalProperties", _) => {
                join(found, self.collect(value, Place::Anywhere, followed)?);
            }
            ("$ref", Value::String(reference)) if followed.insert(reference) => {
                if let Some(target) = self.target(reference) {
                    join(found, self.collect(target, place, followed)?);
                }
                // Elsewhere it may be followed again: only circles are cut.
                followed.remove(reference.as_str());
            }
            _ => {}
        }
        Ok(())
    }

    /// What a reference within the schema leads to.
    fn target(&self, reference: &str) -> Option<&'a Value> {
        let (_, pointer) = reference.split_once('#')?;
        let decoded = percent_decoded(pointer);
        self.root.pointer(&decoded)
    }
}

fn join(found: &mut Found, other: Found) {
    for (place, lengths) in other {
        found.entry(place).or_default().extend(lengths);
    }
}

/// Keeps for each place the list that multiplies to more.
fn widen(found: &mut Found, other: Found) {
    let weight = |lengths: &[usize]| {
        lengths.iter().fold(1usize, |product, &len| product.saturating_mul(len + 1))
    };
    for (place, lengths) in other {
        let known = found.entry(place).or_default();
        if weight(&lengths) > weight(known) {
            *known = lengths;
        }
    }
}

/// `%7E` and the like as what they stand for.
fn percent_decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        let hex = after.get(..2).and_then(|hex| std::str::from_utf8(hex).ok());
        let decoded = hex.and_then(|hex| u8::from_str_radix(hex, 16).ok());
        if let Some(decoded) = decoded.filter(|_| byte == b'%') {
            bytes.push(decoded);
            rest = after.get(2..).unwrap_or_default();
        } else {
            bytes.push(byte);
            rest = after;
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn patterns_count_together_only_where_they_meet() {
        let word = |len: usize| json!({ "pattern": "a".repeat(len) });
        let id = json!({ "type": "object", "properties": { "id": { "format": "uuid" } } });
        let fields: Map<String, Value> = (0..20).map(|i| (format!("f{i}"), id.clone())).collect();
        let fields = json!({ "properties": fields });
        for schema in [
            // Many places, and at most two patterns at each.
            json!({ "$ref": "#/$defs/a", "$defs": { "a": fields.clone() } }),
            json!({ "allOf": [fields.clone(), fields.clone()] }),
            json!({ "description": "one of them", "anyOf": vec![word(900); 9] }),
            json!({ "allOf": [word(900)], "title": "one" }),
            json!({ "allOf": [word(30), word(30), word(30)] }),
        ] {
            assert_eq!(check(&schema), Ok(()), "{schema}");
        }
        let at = |name: &str, schema: Value| json!({ "properties": { name: schema } });
        for schema in [
            json!({ "allOf": vec![word(2); 5] }),
            json!({ "allOf": [word(900), word(900), { "anyOf": [word(2), word(900)] }] }),
            json!({ "$ref": "#/$defs/a", "allOf": [word(900), word(90)],
                    "$defs": { "a": word(90) } }),
            json!({ "allOf": vec![at("x", at("y", word(2))); 5] }),
            json!({ "allOf": vec![json!({ "items": word(500) }); 3] }),
            json!({ "allOf": [at("x", word(900)), { "patternProperties": { "x": word(900) } },
                              { "additionalProperties": word(900) }] }),
            json!({ "items": { "allOf": vec![json!({ "$ref": "#/$defs/a%7E1b" }); 5] },
                    "$defs": { "a/b": word(2) } }),
        ] {
            assert!(check(&schema).is_err(), "{schema}");
        }
    }
}
