//! Notes of what readers take, of which the schema of a request is made.
//!
//! A reader runs on an example while its `Fields` note every field that they are asked for, so
//! what is documented is what is read. Paths of the notes have no indices: `messages[].role`.
//! Which fields must be there is found by leaving each out; `crate::openapi` does that.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use serde_json::{Map, Value, json};

/// Stands in a noted shape for the schema of the objects that the field's array holds.
pub(super) const ITEMS: &str = "#items";

/// The body of a request as JSON, for a reader to take apart.
#[derive(Debug)]
pub struct RequestBody {
    pub(super) value: Value,
    pub(super) trace: Option<Trace>,
}

impl From<Value> for RequestBody {
    fn from(value: Value) -> Self {
        Self { value, trace: None }
    }
}

impl RequestBody {
    /// `value`, with `trace` learning what the reader asks for.
    pub fn traced(value: Value, trace: &Trace) -> Self {
        Self { value, trace: Some(trace.clone()) }
    }
}

/// What readers asked for so far.
#[derive(Clone, Debug, Default)]
pub struct Trace(Rc<RefCell<BTreeMap<String, ObjectNotes>>>);

/// What is known of the object at one path.
#[derive(Clone, Debug, Default)]
struct ObjectNotes {
    /// The shape of each field that was asked for, without null.
    fields: Map<String, Value>,
    /// The shape of all other fields, if they are taken whatever their names.
    entries: Option<Value>,
}

impl Trace {
    /// The object at `path` is read.
    pub(super) fn enter(&self, path: &str) {
        self.0.borrow_mut().entry(general(path)).or_default();
    }

    /// Its field `name` is taken and must look like `shape`. Alternatives add up.
    pub(super) fn note(&self, path: &str, name: &str, shape: Value) {
        let mut objects = self.0.borrow_mut();
        let fields = &mut objects.entry(general(path)).or_default().fields;
        let merged = match fields.get(name) {
            None => shape,
            Some(known) => either(known, shape),
        };
        fields.insert(name.to_owned(), merged);
    }

    /// Its other fields are taken too and must look like `shape`.
    pub(super) fn note_entries(&self, path: &str, shape: Value) {
        self.0.borrow_mut().entry(general(path)).or_default().entries = Some(shape);
    }

    /// The JSON Schema of a body. `required` has the general paths of fields that must be there.
    pub fn schema(&self, required: &BTreeSet<String>) -> Value {
        Composer { objects: &self.0.borrow(), required }.object("")
    }
}

/// Both shapes, of which any counts for nothing beside a precise one.
fn either(known: &Value, shape: Value) -> Value {
    let is_any = |value: &Value| value.as_object().is_some_and(Map::is_empty);
    if is_any(known) || *known == shape {
        return shape;
    }
    if is_any(&shape) {
        return known.clone();
    }
    match known.get("anyOf").and_then(Value::as_array) {
        Some(all) if all.contains(&shape) => known.clone(),
        Some(all) => json!({ "anyOf": all.iter().cloned().chain([shape]).collect::<Vec<_>>() }),
        None => json!({ "anyOf": [known, shape] }),
    }
}

/// `path` with `[]` for each index.
pub fn general(path: &str) -> String {
    let mut general = String::with_capacity(path.len());
    let mut is_index = false;
    for letter in path.chars() {
        is_index &= letter != ']';
        if !is_index {
            general.push(letter);
        }
        is_index |= letter == '[';
    }
    general
}

/// Puts the notes of objects together.
struct Composer<'a> {
    objects: &'a BTreeMap<String, ObjectNotes>,
    required: &'a BTreeSet<String>,
}

impl Composer<'_> {
    fn object(&self, path: &str) -> Value {
        let Some(notes) = self.objects.get(path) else {
            return json!({});
        };
        let mut properties = Map::new();
        let mut required = Vec::new();
        for (name, shape) in &notes.fields {
            let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
            let shape = self.field(&path, shape.clone());
            if self.required.contains(&path) {
                required.push(name.as_str());
                properties.insert(name.clone(), shape);
            } else {
                properties.insert(name.clone(), or_null(shape));
            }
        }
        let mut schema = json!({
            "type": "object",
            "properties": properties,
            "additionalProperties": notes.entries.clone().unwrap_or(Value::Null),
        });
        if notes.entries.is_none() {
            // A field that is null counts as absent, so an unknown one may be that.
            schema["additionalProperties"] = json!({ "type": "null" });
        }
        if !required.is_empty() {
            schema["required"] = json!(required);
        }
        schema
    }

    /// `shape` of the field at `path`, with what is known of the objects in it.
    fn field(&self, path: &str, shape: Value) -> Value {
        let items = format!("{path}[]");
        if self.objects.contains_key(path) {
            let mut object = self.object(path);
            if let Some(text) = shape.get("description") {
                object["description"] = text.clone();
            }
            return match shape.get("anyOf") {
                None => object,
                Some(_) => replace(shape, &Value::from(ITEMS), &object),
            };
        }
        let item = if self.objects.contains_key(&items) { self.object(&items) } else { json!({}) };
        replace(shape, &Value::from(ITEMS), &item)
    }
}

/// `value` with `to` wherever it has `from`.
fn replace(value: Value, from: &Value, to: &Value) -> Value {
    match value {
        value if value == *from => to.clone(),
        Value::Array(items) => items.into_iter().map(|item| replace(item, from, to)).collect(),
        Value::Object(map) => {
            let entries = map.into_iter().map(|(key, value)| (key, replace(value, from, to)));
            entries.collect::<Map<_, _>>().into()
        }
        other => other,
    }
}

/// `schema`, or null.
fn or_null(mut schema: Value) -> Value {
    let Some(map) = schema.as_object_mut() else {
        return schema;
    };
    if let Some(Value::Array(all)) = map.get_mut("enum")
        && !all.contains(&Value::Null)
    {
        all.push(Value::Null);
    }
    match map.get_mut("type") {
        Some(Value::Array(all)) if !all.contains(&"null".into()) => all.push("null".into()),
        Some(Value::String(kind)) if kind != "null" => {
            let both = json!([kind, "null"]);
            map.insert("type".into(), both);
        }
        _ => {}
    }
    if let Some(Value::Array(all)) = map.get_mut("anyOf") {
        all.push(json!({ "type": "null" }));
    }
    schema
}
