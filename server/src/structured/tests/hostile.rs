//! Constraints made to cost more than they may. Each is answered, in a bounded time.

use serde_json::{Map, Value, json};

use super::{schema, structure};
use crate::openai::{Constraint, Structure};

/// All of them, by name.
pub(super) fn all() -> Vec<(&'static str, Structure)> {
    let schemas = of_references().into_iter().chain(of_sizes()).chain(of_patterns());
    let schemas = schemas.map(|(name, value)| (name, schema(value)));
    let texts = of_texts().into_iter().map(|(name, constraint)| (name, structure(constraint)));
    schemas.chain(texts).collect()
}

/// A reference to each of `num` definitions in the one before, and `last` in the last.
fn chain(num: usize, link: impl Fn(Value) -> Value, last: Value) -> Value {
    let link = |i: usize| (format!("d{i}"), link(json!({ "$ref": format!("#/$defs/d{}", i + 1) })));
    let mut defs: Map<String, Value> = (0..num).map(link).collect();
    defs.insert(format!("d{num}"), last);
    json!({ "$defs": defs, "$ref": "#/$defs/d0" })
}

fn of_references() -> Vec<(&'static str, Value)> {
    let doubled = |next: Value| json!({ "allOf": [next.clone(), next], "minProperties": 0 });
    let null = json!({ "type": "null" });
    vec![
        ("chain", chain(900, |next| next, null.clone())),
        ("longer chain", chain(2000, |next| next, null)),
        ("doubling references", chain(40, doubled, json!({ "type": "object" }))),
        (
            "circle",
            json!({ "$defs": { "a": { "$ref": "#/$defs/b", "minLength": 1 },
                               "b": { "$ref": "#/$defs/a", "maxLength": 3 } },
                    "$ref": "#/$defs/a" }),
        ),
    ]
}

fn of_sizes() -> Vec<(&'static str, Value)> {
    let nested = (0..120).fold(json!({}), |inner, _| json!({ "items": inner }));
    let options = |i: usize| {
        let options = (0..12).map(|j| json!({ "properties": { format!("p{i}_{j}"): true } }));
        json!({ "anyOf": options.collect::<Vec<_>>() })
    };
    let product: Vec<_> = (0..12).map(options).collect();
    let integers = |i: usize| json!({ "enum": (0..900).map(|j| i * 7 + j).collect::<Vec<_>>() });
    let optional: Map<String, Value> = (0..3000).map(|i| (format!("p{i}"), json!(true))).collect();
    let odd_type = format!("{}ü{}", "a".repeat(98), "b".repeat(50));
    vec![
        ("deep", nested),
        ("long", json!({ "enum": ["x".repeat(300 << 10)] })),
        ("many", json!({ "enum": (0..30_000).collect::<Vec<_>>() })),
        ("product", json!({ "type": "object", "allOf": product })),
        ("long string", json!({ "type": "string", "minLength": 2_000_000_000_u64 })),
        ("long array", json!({ "type": "array", "minItems": 1_000_000_000, "items": {} })),
        ("bound", json!({ "type": "string", "minLength": u64::MAX, "maxLength": 3 })),
        ("multiple", json!({ "type": "integer", "multipleOf": 1e-300, "minimum": 1 })),
        ("not a multiple", json!({ "type": "integer", "multipleOf": 0 })),
        ("large multiple", json!({ "type": "integer", "multipleOf": 999_999_937 })),
        ("many optional properties", json!({ "type": "object", "properties": optional })),
        ("enums", json!({ "allOf": (0..20).map(integers).collect::<Vec<_>>() })),
        ("an odd type", json!({ "type": odd_type })),
    ]
}

fn of_patterns() -> Vec<(&'static str, Value)> {
    let hard = "(a|b)*a(a|b){100}".repeat(50);
    let pattern = |i: usize| format!("^(a|b)*a(a|b){{{i}}}$");
    let patterns: Vec<_> = (0..60).map(|i| json!({ "pattern": pattern(i) })).collect();
    let names: Map<String, Value> =
        (0..60).map(|i| (pattern(i), json!({ "type": "integer" }))).collect();
    let taken: Map<String, Value> = (0..2000).map(|i| (format!("a{i}b"), json!(true))).collect();
    vec![
        ("intersection", json!({ "type": "string", "allOf": patterns })),
        (
            "combined references",
            json!({ "allOf": [{ "$ref": "#/$defs/a" },
                              { "properties": { "x": { "pattern": hard.clone() } } }],
                    "$defs": { "a": { "properties": { "x": { "pattern": hard,
                                                             "format": "uri" } } } } }),
        ),
        ("patterns of names", json!({ "type": "object", "patternProperties": names })),
        (
            "names beside patterns",
            json!({ "type": "object", "properties": taken,
                    "patternProperties": { "^(a|b)*a(a|b|[0-9]){40}$": {},
                                           "^(c|d)*c(c|d){40}$": {} } }),
        ),
    ]
}

fn of_texts() -> Vec<(&'static str, Constraint)> {
    let rule = |i: usize| format!("A{i}: A{} \"x\"", i + 1);
    let rules = (0..8000).map(rule).collect::<Vec<_>>().join("\n");
    let within = |inner: &str, num: usize| format!("{}{inner}{}", "(".repeat(num), ")".repeat(num));
    let alternatives: Vec<_> = (0..6000).map(|i| format!("[a-z]{{{i}}}x")).collect();
    let regex = |pattern: String| Constraint::Regex(pattern);
    let lark = |grammar: &str| Constraint::Lark(grammar.to_owned());
    vec![
        ("catastrophic", regex("(a|a|aa)*".repeat(200))),
        ("exponential", regex("(a|b)*a(a|b){5000}c".into())),
        ("counted", regex("((a{1000}){1000}){1000}".into())),
        ("groups", regex(within("a", 50_000))),
        ("classes", regex(r"[\w\p{Greek}&&[^α-ω]]{0,3000}\d+".into())),
        ("alternatives", regex(alternatives.join("|"))),
        ("brackets", lark(&format!("start: {}", within("\"a\"", 9000)))),
        ("rules", lark(&format!("start: A0\n{rules}\nA8000: \"y\"\n"))),
        ("left recursion", lark("start: a\na: a a | \"x\" | \"\"")),
        ("endless rule", lark("start: a\na: b\nb: a")),
        ("choices", Constraint::Choice((0..100_000).map(|i| i.to_string()).collect())),
    ]
}
