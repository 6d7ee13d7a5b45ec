//! A JSON Schema before it is compiled: held against the limits, and made exact.

use serde_json::{Map, Number, Value};

use super::compiler::Refusal;
use super::limits::Limits;
use super::patterns::{self, MAX_PATTERN_BYTES};
use crate::openai::Keywords;

/// Keywords that say something about a text and cannot be enforced while it is written.
pub(crate) const UNENFORCEABLE: [&str; 17] = [
    "$dynamicRef",
    "$recursiveRef",
    "contains",
    "contentSchema",
    "dependencies",
    "dependentRequired",
    "dependentSchemas",
    "else",
    "if",
    "maxContains",
    "minContains",
    "not",
    "propertyNames",
    "then",
    "unevaluatedItems",
    "unevaluatedProperties",
    "uniqueItems",
];

/// Keywords whose value is a number that bounds the text.
const BOUNDS: [&str; 4] = ["minimum", "exclusiveMinimum", "maximum", "exclusiveMaximum"];

/// Integers up to here are exact where numbers are held as f64.
const MAX_EXACT: u64 = 1 << 53;

/// What a value within a schema stands for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Role {
    Schema,
    /// Schemas by name.
    Map,
    List,
    /// What the text must be equal to.
    Constant,
    /// Nothing that is looked at.
    Other,
}

/// A value on the way through a schema.
struct Visit<'a> {
    value: &'a Value,
    /// Where it stands, from the schema on, such as `.properties.name`.
    place: String,
    role: Role,
    depth: usize,
}

/// Counts on the way through a schema.
struct Walk<'a> {
    limits: &'a Limits,
    keywords: Keywords,
    num_values: usize,
    num_references: usize,
}

/// Holds `schema` against the limits.
pub(super) fn check(schema: &Value, keywords: Keywords, limits: &Limits) -> Result<(), Refusal> {
    let mut walk = Walk { limits, keywords, num_values: 0, num_references: 0 };
    let root = Visit { value: schema, place: String::new(), role: Role::Schema, depth: 1 };
    let mut open = vec![root];
    while let Some(visit) = open.pop() {
        walk.enter(&visit)?;
        children(&visit, &mut open);
    }
    patterns::check(schema)
}

fn children<'a>(visit: &Visit<'a>, open: &mut Vec<Visit<'a>>) {
    let depth = visit.depth + 1;
    match visit.value {
        Value::Object(map) => {
            for (key, value) in map {
                let role = child_role(visit.role, key, value);
                let place = format!("{}.{key}", visit.place);
                open.push(Visit { value, place, role, depth });
            }
        }
        Value::Array(items) => {
            let role = if visit.role == Role::List { Role::Schema } else { visit.role };
            for (index, value) in items.iter().enumerate() {
                let place = format!("{}[{index}]", visit.place);
                open.push(Visit { value, place, role, depth });
            }
        }
        _ => {}
    }
}

fn child_role(role: Role, key: &str, value: &Value) -> Role {
    match (role, key) {
        (Role::Map, _) => Role::Schema,
        (Role::Constant, _) => Role::Constant,
        (Role::Schema, key) => keyword_role(key, value),
        _ => Role::Other,
    }
}

fn keyword_role(key: &str, value: &Value) -> Role {
    match key {
        "properties" | "patternProperties" | "$defs" | "definitions" => Role::Map,
        // Of a list of schemas each is one; a value that is no list is refused as no schema.
        "allOf" | "anyOf" | "oneOf" | "prefixItems" | "items" if value.is_array() => Role::List,
        "items" | "additionalItems" | "additionalProperties" => Role::Schema,
        "const" | "enum" => Role::Constant,
        _ => Role::Other,
    }
}

impl Walk<'_> {
    fn enter(&mut self, visit: &Visit<'_>) -> Result<(), Refusal> {
        let (max_depth, max_values) = (self.limits.max_depth, self.limits.max_values);
        // Of what is too deep or too much the place would fill the message.
        if visit.depth > max_depth {
            return Err(Refusal::invalid("", format!("is nested more than {max_depth} deep")));
        }
        self.num_values += 1;
        if self.num_values > max_values {
            return Err(Refusal::invalid("", format!("has more than {max_values} values")));
        }
        match (visit.role, visit.value) {
            (Role::Constant, Value::Number(number)) if !is_exact(number) => {
                let message = format!("= {number}: integers beyond ±2^53 are not supported here");
                Err(Refusal::invalid(&visit.place, message))
            }
            (Role::Schema, Value::Object(map)) => self.enter_schema(map, &visit.place),
            (Role::Schema, Value::Bool(_)) => Ok(()),
            (Role::Schema, _) => {
                let message = "must be a schema: an object or a boolean";
                Err(Refusal::invalid(&visit.place, message))
            }
            _ => Ok(()),
        }
    }

    fn enter_schema(&mut self, map: &Map<String, Value>, place: &str) -> Result<(), Refusal> {
        let max_references = self.limits.max_references;
        self.num_references += usize::from(map.contains_key("$ref"));
        if self.num_references > max_references {
            return Err(Refusal::invalid("", format!("has more than {max_references} $ref")));
        }
        let names = map.get("patternProperties").and_then(Value::as_object);
        let names = names.into_iter().flat_map(|names| names.keys().map(String::as_str));
        let pattern = map.get("pattern").and_then(Value::as_str);
        if let Some(pattern) = names.chain(pattern).find(|p| p.len() > MAX_PATTERN_BYTES) {
            let num_bytes = pattern.len();
            let message = format!(
                "has a pattern of {num_bytes} bytes, at most {MAX_PATTERN_BYTES} are allowed"
            );
            return Err(Refusal::invalid(place, message));
        }
        if self.keywords == Keywords::BestEffort {
            return Ok(());
        }
        let asks = |key: &&&str| match map.get(**key) {
            Some(value) => (**key, value) != ("uniqueItems", &Value::Bool(false)),
            None => false,
        };
        match UNENFORCEABLE.iter().find(asks) {
            None => Ok(()),
            Some(key) => Err(Refusal::unsupported(
                &format!("{place}.{key}"),
                "cannot be enforced while the text is written: leave it out, or send the schema \
                 in response_format with \"strict\": false to do without it",
            )),
        }
    }
}

fn is_exact(number: &Number) -> bool {
    match (number.as_i64(), number.as_u64()) {
        (Some(integer), _) => integer.unsigned_abs() <= MAX_EXACT,
        (None, Some(integer)) => integer <= MAX_EXACT,
        (None, None) => {
            number.as_f64().is_some_and(|n| n.fract() != 0.0 || n.abs() <= 2f64.powi(53))
        }
    }
}

/// Bounds that no f64 or 64-bit integer equals become the nearest one within, and what says nothing
/// goes: what fits the result fits the schema. The schema
/// must have been checked: its depth is what bounds the recursion.
pub(crate) fn exact(mut schema: Value) -> Value {
    tighten(&mut schema);
    schema
}

fn tighten(value: &mut Value) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(tighten),
        Value::Object(map) => {
            if map.get("uniqueItems") == Some(&Value::Bool(false)) {
                map.shift_remove("uniqueItems");
            }
            for (key, value) in map {
                match value {
                    Value::Number(number) if BOUNDS.contains(&key.as_str()) => {
                        let inward = if key.ends_with("inimum") { 1 } else { -1 };
                        if let Some(bound) = within(number, inward) {
                            *number = bound;
                        }
                    }
                    _ => tighten(value),
                }
            }
        }
        _ => {}
    }
}

/// A bound that the library can hold, on the side that `inward` (1 or −1) points to; `None` if it
/// is one already.
fn within(number: &Number, inward: i128) -> Option<Number> {
    let nearest = number.as_f64()?;
    // No negation of these leaves the 64-bit integers.
    let largest = 2f64.powi(63).next_down();
    match inward {
        1 if nearest < -largest => return Number::from_f64(-largest),
        -1 if nearest > largest => return Number::from_f64(largest),
        _ => {}
    }
    let integer = number.as_i64().map(i128::from).or_else(|| number.as_u64().map(i128::from))?;
    let bound = match (nearest as i128 - integer).signum() {
        0 => return None,
        side if side == inward => nearest,
        1 => nearest.next_down(),
        _ => nearest.next_up(),
    };
    Number::from_f64(bound)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn bounds_move_inward_to_numbers_that_are_exact() {
        let largest = 9_223_372_036_854_774_784.0;
        for (key, given, expected) in [
            ("minimum", json!(5), json!(5)),
            ("maximum", json!(-0.5), json!(-0.5)),
            ("maximum", json!(9_007_199_254_740_993_u64), json!(9_007_199_254_740_992.0)),
            ("minimum", json!(9_007_199_254_740_993_u64), json!(9_007_199_254_740_994.0)),
            ("maximum", json!(-9_007_199_254_740_993_i64), json!(-9_007_199_254_740_994.0)),
            ("exclusiveMinimum", json!(i64::MIN), json!(-largest)),
            ("maximum", json!(i64::MAX), json!(largest)),
            ("maximum", json!(u64::MAX), json!(largest)),
            ("minimum", json!(-1e300), json!(-largest)),
        ] {
            let schema = json!({ "items": [{ key: given }], "uniqueItems": false });
            assert_eq!(exact(schema), json!({ "items": [{ key: expected }] }), "{key} {given}");
        }
    }
}
