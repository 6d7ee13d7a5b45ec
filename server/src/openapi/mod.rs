//! `/openapi.json`: what the server takes and gives, as OpenAPI 3.1.
//!
//! Nothing of it is written twice. `requests` has the schemas of bodies, from the readers that take
//! them apart; schemas of answers come from the types that are sent; `paths` lists the addresses,
//! which a test holds against the router.

mod paths;
mod requests;

use folio_engine::types::ModelKind;
use schemars::generate::{SchemaGenerator, SchemaSettings};
use serde_json::{Map, Value, json};

use crate::error::{ApiError, ErrorAnswer};
use crate::models::Models;
pub use paths::{Answer, Operation, Tag, operations};
pub use requests::{Read, RequestSpec};

/// Whether clients need a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Nobody does.
    Open,
    /// All addresses but the health ones need one.
    Keys,
}

/// The names that requests may give for their model.
#[derive(Clone, Debug, Default)]
pub struct ModelNames {
    /// Of models that generate.
    pub generating: Vec<String>,
    /// Of models that embed.
    pub embedding: Vec<String>,
}

impl ModelNames {
    /// All names of `models`.
    pub fn of(models: &Models) -> Self {
        let of = |kind| {
            let models = models.all().iter().filter(|model| model.limits.kind == kind);
            models.flat_map(|model| model.names.iter().cloned()).collect()
        };
        Self { generating: of(ModelKind::Decoder), embedding: of(ModelKind::Encoder) }
    }

    /// Says in the schema of a body of `tag` which names there are.
    fn tell(&self, tag: Tag, schema: &mut Value) {
        let required = schema["required"].as_array();
        let is_required = required.is_some_and(|all| all.contains(&"model".into()));
        let Some(model) = schema.pointer_mut("/properties/model").filter(|_| is_required) else {
            return;
        };
        model["enum"] = match tag {
            Tag::Embed => json!(self.embedding),
            _ => json!(self.generating),
        };
    }
}

/// The whole document of a server with these models.
///
/// # Errors
/// 500 if an example of a request is not valid.
pub fn document(access: Access, names: &ModelNames) -> Result<Value, ApiError> {
    let settings = SchemaSettings::draft2020_12().for_serialize().with(|settings| {
        settings.definitions_path = "/components/schemas".into();
        settings.meta_schema = None;
    });
    let mut generator = settings.into_generator();
    let mut schemas = Map::new();
    let mut paths = Map::new();
    for operation in operations() {
        if let Some(request) = &operation.request {
            let mut schema = request.schema()?;
            names.tell(operation.tag, &mut schema);
            schemas.insert(request.name.to_owned(), schema);
        }
        let entry = paths.entry(operation.path).or_insert_with(|| json!({}));
        entry[operation.method] = describe(&operation, access, &mut generator)?;
    }
    generator.subschema_for::<ErrorAnswer>();
    for (name, mut schema) in generator.take_definitions(true) {
        close(&mut schema);
        schemas.insert(name, schema);
    }
    Ok(json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Folio",
            "summary": "Chat and embeddings over one paged KV cache",
            "description": "OpenAI's API with vLLM's extras. Every field of a request is \
                honoured or refused by name; a field that is null counts as absent.",
            "version": env!("CARGO_PKG_VERSION"),
            "license": { "name": "Apache-2.0", "identifier": "Apache-2.0" },
        },
        "servers": [{ "url": "/" }],
        "tags": Tag::ALL.map(|tag| json!({ "name": tag.name(), "description": tag.about() })),
        "paths": paths,
        "components": {
            "schemas": schemas,
            "responses": ERRORS.iter().map(ErrorStatus::response).collect::<Map<_, _>>(),
            "headers": headers(),
            "securitySchemes": { "key": {
                "type": "http", "scheme": "bearer",
                "description": "A key that the server was started with (`--api-key`).",
            } },
        },
    }))
}

/// What one address does.
fn describe(
    operation: &Operation,
    access: Access,
    generator: &mut SchemaGenerator,
) -> Result<Value, ApiError> {
    let mut content = Map::new();
    for answer in &operation.answers {
        let (kind, media) = answer.media(generator);
        content.insert(kind.to_owned(), media);
    }
    let mut responses = Map::new();
    responses.insert(
        operation.status.to_string(),
        json!({
            "description": "Done.",
            "headers": { "X-Request-Id": { "$ref": "#/components/headers/X-Request-Id" } },
            "content": content,
        }),
    );
    let needs_key = access == Access::Keys && operation.tag != Tag::Health;
    let key_error = if needs_key { &[401][..] } else { &[] };
    for status in operation.errors.iter().chain(key_error) {
        let reference = format!("#/components/responses/Error{status}");
        responses.insert(status.to_string(), json!({ "$ref": reference }));
    }
    let mut described = json!({
        "operationId": operation.id(),
        "summary": operation.summary,
        "tags": [operation.tag.name()],
        "responses": responses,
        "security": if needs_key { json!([{ "key": [] }]) } else { json!([]) },
    });
    let parameters: Vec<_> = operation.parameters().collect();
    if !parameters.is_empty() {
        described["parameters"] = json!(parameters);
    }
    if let Some(request) = &operation.request {
        let examples = request.examples()?.into_iter().enumerate();
        let examples =
            examples.map(|(index, value)| (index.to_string(), json!({ "value": value })));
        let reference = format!("#/components/schemas/{}", request.name);
        described["requestBody"] = json!({
            "required": true,
            "content": { "application/json": {
                "schema": { "$ref": reference },
                "examples": examples.collect::<Map<_, _>>(),
            } },
        });
    }
    Ok(described)
}

/// An answer has no fields but those that are named.
fn close(schema: &mut Value) {
    match schema {
        Value::Object(map) => {
            let is_object = map.contains_key("properties");
            let is_open = is_object && !map.contains_key("additionalProperties");
            let mut is_combined = false;
            for (key, value) in map.iter_mut() {
                let branches = value
                    .as_array_mut()
                    .filter(|_| is_object && ["oneOf", "anyOf", "allOf"].contains(&key.as_str()));
                match branches {
                    // What a branch does not name, the object around it may.
                    Some(branches) => {
                        is_combined = true;
                        let maps = branches.iter_mut().filter_map(Value::as_object_mut);
                        maps.flat_map(Map::values_mut).for_each(close);
                    }
                    None => close(value),
                }
            }
            if is_open {
                let rest =
                    if is_combined { "unevaluatedProperties" } else { "additionalProperties" };
                map.insert(rest.to_owned(), false.into());
            }
        }
        Value::Array(items) => items.iter_mut().for_each(close),
        _ => {}
    }
}

/// A status that is an error.
struct ErrorStatus(u16, &'static str);

const ERRORS: &[ErrorStatus] = &[
    ErrorStatus(400, "Something in the request is wrong: `param` names the field."),
    ErrorStatus(401, "No key, or one that is not known."),
    ErrorStatus(403, "The key does not allow this."),
    ErrorStatus(404, "No such model or object."),
    ErrorStatus(408, "The body stopped coming."),
    ErrorStatus(413, "The body is too long."),
    ErrorStatus(415, "The body is not JSON."),
    ErrorStatus(429, "Too much waits already, or the key's rate is used up."),
    ErrorStatus(431, "The headers are too long."),
    ErrorStatus(500, "Something failed that the client cannot help."),
    ErrorStatus(503, "The server starts, stops or has lost its engine."),
    ErrorStatus(504, "The deadline passed while the request waited or ran."),
];

impl ErrorStatus {
    fn response(&self) -> (String, Value) {
        let mut headers = json!({
            "X-Request-Id": { "$ref": "#/components/headers/X-Request-Id" },
        });
        if self.0 == 429 {
            headers["Retry-After"] = json!({ "$ref": "#/components/headers/Retry-After" });
        }
        let reference = json!({ "$ref": "#/components/schemas/ErrorAnswer" });
        let response = json!({
            "description": self.1,
            "headers": headers,
            "content": { "application/json": { "schema": reference } },
        });
        (format!("Error{}", self.0), response)
    }
}

fn headers() -> Value {
    json!({
        "X-Request-Id": {
            "description": "The client's own id, given back, or one that the server made.",
            "required": true,
            "schema": { "type": "string", "minLength": 1, "maxLength": 128 },
        },
        "Retry-After": {
            "description": "Seconds after which it is worth to try again.",
            "required": true,
            "schema": { "type": "string", "pattern": "^[0-9]+$" },
        },
    })
}
