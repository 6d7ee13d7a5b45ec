//! Schemas of request bodies, from the readers themselves.
//!
//! A reader runs on valid examples and its fields note what they are asked for. What must be there
//! is found by leaving it out: a field is required if the reader misses it wherever it stands. So
//! a field that a reader learns is documented once some example lets the reader reach it.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use crate::error::ApiError;
use crate::openai::{RequestBody, Trace, general};

/// Reads a body and tells only whether it is good.
pub type Read = fn(RequestBody) -> Result<(), ApiError>;

/// The body of an operation.
#[derive(Clone, Copy, Debug)]
pub struct RequestSpec {
    /// Name of its schema, such as `ChatRequest`.
    pub name: &'static str,
    /// A JSON array of valid bodies, which together have every object that the reader knows.
    pub examples: &'static str,
    /// Its reader.
    pub read: Read,
}

impl RequestSpec {
    /// The examples.
    ///
    /// # Errors
    /// 500 if they are not a JSON array.
    pub fn examples(&self) -> Result<Vec<Value>, ApiError> {
        serde_json::from_str(self.examples)
            .map_err(|error| ApiError::internal(format!("examples of {}: {error}", self.name)))
    }

    /// The JSON Schema of the body.
    ///
    /// # Errors
    /// 500 if the reader refuses an example.
    pub fn schema(&self) -> Result<Value, ApiError> {
        let trace = Trace::default();
        let mut fields = Seen::default();
        for example in self.examples()? {
            (self.read)(RequestBody::traced(example.clone(), &trace)).map_err(|error| {
                ApiError::internal(format!("an example of {} is refused: {error}", self.name))
            })?;
            self.look(&example, &mut fields);
        }
        let mut schema = trace.schema(&fields.required());
        schema["title"] = json!(self.name);
        Ok(schema)
    }

    /// Learns from `example`, and from it without each of its fields.
    fn look(&self, example: &Value, seen: &mut Seen) {
        let mut places = Vec::new();
        collect_fields(example, "", "", &mut places);
        collect_keys(example, "", &mut seen.keys);
        for place in &places {
            let mut without = example.clone();
            if let Some(Value::Object(map)) = without.pointer_mut(&place.object) {
                map.shift_remove(&place.key);
            }
            let read = (self.read)(without.into());
            let is_missed = read.is_err_and(|error| error.misses(&place.path));
            *seen.missed.entry(general(&place.path)).or_insert(true) &= is_missed;
        }
    }
}

/// What the examples show of the fields in them, by general path.
#[derive(Debug, Default)]
struct Seen {
    /// Whether the reader missed the field each time that it was left out.
    missed: BTreeMap<String, bool>,
    /// The keys of each instance of an object.
    keys: BTreeMap<String, Vec<BTreeSet<String>>>,
}

impl Seen {
    /// The fields that are always there and always missed.
    fn required(&self) -> BTreeSet<String> {
        let missed = self.missed.iter().filter(|(_, is_missed)| **is_missed);
        let is_everywhere = |path: &str| {
            let (object, key) = path.rsplit_once('.').unwrap_or(("", path));
            let instances = self.keys.get(object);
            instances.is_some_and(|all| all.iter().all(|keys| keys.contains(key)))
        };
        missed.map(|(path, _)| path.clone()).filter(|path| is_everywhere(path)).collect()
    }
}

/// Where a field stands.
struct Place {
    /// JSON pointer of its object.
    object: String,
    key: String,
    /// Its path as errors write it.
    path: String,
}

fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

fn collect_fields(value: &Value, pointer: &str, path: &str, places: &mut Vec<Place>) {
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                let place =
                    Place { object: pointer.to_owned(), key: key.clone(), path: join(path, key) };
                let escaped = key.replace('~', "~0").replace('/', "~1");
                collect_fields(value, &format!("{pointer}/{escaped}"), &place.path, places);
                places.push(place);
            }
        }
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                let (pointer, path) = (format!("{pointer}/{index}"), format!("{path}[{index}]"));
                collect_fields(item, &pointer, &path, places);
            }
        }
        _ => {}
    }
}

/// The keys of each object, by its general path.
fn collect_keys(value: &Value, path: &str, keys: &mut BTreeMap<String, Vec<BTreeSet<String>>>) {
    match value {
        Value::Object(map) => {
            let own = map.keys().cloned().collect();
            keys.entry(path.to_owned()).or_default().push(own);
            for (key, value) in map {
                collect_keys(value, &join(path, key), keys);
            }
        }
        Value::Array(items) => {
            for item in items {
                collect_keys(item, &format!("{path}[]"), keys);
            }
        }
        _ => {}
    }
}
