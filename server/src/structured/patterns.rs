//! Patterns of a schema that one string must match together.
//!
//! The library multiplies the cases of patterns that it intersects, without counting that work, so
//! their number and lengths are bounded here. Schemas are intersected where `allOf`, or a `$ref` or
//! alternatives beside other keywords, put them at the same place; the same place is taken to be
//! wherever a property of the same name is, which finds too much rather than too little.

use std::collections::{HashMap, HashSet};

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
const MAX_LOOKS: usize = 500_000;
/// Deepest way, references followed: it recurses.
const MAX_DEPTH: usize = 256;
/// Stands for a property of any name.
const ANY_NAME: &str = "*";

/// Lengths of the patterns that may come together, by the name of the property.
type ByName<'a> = HashMap<&'a str, Vec<usize>>;

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
                    let found = search.collect(value, "", &mut HashSet::new())?;
                    check_together(&found)?;
                }
                open.extend(map.values());
            }
            Value::Array(items) => open.extend(items),
            _ => {}
        }
    }
    Ok(())
}

/// Whether schemas are intersected here.
fn combines(map: &Map<String, Value>) -> bool {
    let num = |key: &str| map.get(key).and_then(Value::as_array).map_or(0, Vec::len);
    let is_beside = ["$ref", "anyOf", "oneOf"].iter().any(|key| map.contains_key(*key));
    num("allOf") > 0 || (is_beside && map.len() > 1)
}

fn check_together(found: &ByName<'_>) -> Result<(), Refusal> {
    let anywhere = found.get(ANY_NAME);
    for (name, lengths) in found {
        let others = anywhere.filter(|_| *name != ANY_NAME).into_iter().flatten();
        let lengths: Vec<usize> = lengths.iter().chain(others).copied().collect();
        let product = lengths.iter().fold(1usize, |product, &len| product.saturating_mul(len));
        if lengths.len() > 1 && (lengths.len() > MAX_TOGETHER || product > MAX_PRODUCT) {
            let message = format!(
                "combines {} patterns and formats for {name:?}, whose lengths multiply to \
                 {product}: at most {MAX_TOGETHER} and {MAX_PRODUCT} are allowed",
                lengths.len()
            );
            return Err(Refusal::invalid("", message));
        }
    }
    Ok(())
}

impl<'a> Search<'a> {
    /// The patterns at and below `value`, the value of the property `name`.
    fn collect(
        &mut self,
        value: &'a Value,
        name: &'a str,
        followed: &mut HashSet<&'a str>,
    ) -> Result<ByName<'a>, Refusal> {
        self.num_looks += 1;
        if self.num_looks > MAX_LOOKS || self.depth > MAX_DEPTH {
            return Err(Refusal::invalid("", "combines too many schemas with each other"));
        }
        let mut found = ByName::new();
        let Value::Object(map) = value else { return Ok(found) };
        self.depth += 1;
        for (key, value) in map {
            self.collect_keyword((key, value), name, followed, &mut found)?;
        }
        self.depth -= 1;
        Ok(found)
    }

    /// Adds the patterns under one keyword.
    fn collect_keyword(
        &mut self,
        (key, value): (&'a str, &'a Value),
        name: &'a str,
        followed: &mut HashSet<&'a str>,
        found: &mut ByName<'a>,
    ) -> Result<(), Refusal> {
        match (key, value) {
            ("pattern", Value::String(pattern)) => {
                found.entry(name).or_default().push(pattern.len().max(1));
            }
            ("format", Value::String(_)) => found.entry(name).or_default().push(FORMAT_BYTES),
            ("properties", Value::Object(schemas)) => {
                for (name, schema) in schemas {
                    join(found, self.collect(schema, name, followed)?);
                }
            }
            ("patternProperties", Value::Object(schemas)) => {
                for schema in schemas.values() {
                    join(found, self.collect(schema, ANY_NAME, followed)?);
                }
            }
            ("allOf", Value::Array(schemas)) => {
                for schema in schemas {
                    join(found, self.collect(schema, name, followed)?);
                }
            }
            ("anyOf" | "oneOf", Value::Array(schemas)) => {
                let mut most = ByName::new();
                for schema in schemas {
                    widen(&mut most, self.collect(schema, name, followed)?);
                }
                join(found, most);
            }
            ("items" | "prefixItems", Value::Array(schemas)) => {
                for schema in schemas {
                    join(found, self.collect(schema, "[]", followed)?);
                }
            }
            ("items" | "additionalItems", _) => {
                join(found, self.collect(value, "[]", followed)?);
            }
            ("additionalProperties", _) => {
                join(found, self.collect(value, ANY_NAME, followed)?);
            }
            ("$ref", Value::String(reference)) if followed.insert(reference) => {
                if let Some(target) = self.target(reference) {
                    join(found, self.collect(target, name, followed)?);
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

fn join<'a>(found: &mut ByName<'a>, other: ByName<'a>) {
    for (name, lengths) in other {
        found.entry(name).or_default().extend(lengths);
    }
}

/// Keeps for each name the list that multiplies to more.
fn widen<'a>(found: &mut ByName<'a>, other: ByName<'a>) {
    let weight = |lengths: &[usize]| {
        lengths.iter().fold(1usize, |product, &len| product.saturating_mul(len + 1))
    };
    for (name, lengths) in other {
        let known = found.entry(name).or_default();
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
        match hex.and_then(|hex| u8::from_str_radix(hex, 16).ok()).filter(|_| byte == b'%') {
            Some(decoded) => {
                bytes.push(decoded);
                rest = after.get(2..).unwrap_or_default();
            }
            None => {
                bytes.push(byte);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
