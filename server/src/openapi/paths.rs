//! The addresses of the server, each with what it takes and gives. A test holds the list against
//! the router.

use schemars::generate::SchemaGenerator;
use schemars::{JsonSchema, Schema};
use serde_json::{Value, json};

use super::requests::RequestSpec;
use crate::error::ErrorAnswer;
use crate::live::Frame;
use crate::openai::{
    ChatChunk, ChatRequest, ChatResponse, CompletionRequest, CompletionResponse, DetokenizeRequest,
    DetokenizeResponse, EmbeddingRequest, EmbeddingResponse, HealthResponse, LoadResponse,
    ModelCard, ModelList, PolicyRequest, PolicyResponse, Rendered, RerankRequest, RerankResponse,
    ResponsesRequest, ScoreRequest, ScoreResponse, TokenizeRequest, TokenizeResponse,
    VersionResponse,
};
use crate::responses::{Deleted, EventFrame, InputItems, InputTokens, Response};

/// What one method of one address does.
#[derive(Clone, Debug)]
pub struct Operation {
    /// In lower case.
    pub method: &'static str,
    /// With `{name}` for each parameter.
    pub path: &'static str,
    /// Where it belongs.
    pub tag: Tag,
    /// What it is for.
    pub summary: &'static str,
    /// Its body.
    pub request: Option<RequestSpec>,
    /// Names and schemas of its parameters in the query.
    pub query: Vec<(&'static str, Value)>,
    /// Status of a success.
    pub status: u16,
    /// What a success looks like.
    pub answers: Vec<Answer>,
    /// Statuses of its errors, but for a missing key.
    pub errors: &'static [u16],
}

/// A group of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tag {
    /// Text from a model.
    Generate,
    /// Vectors and scores.
    Embed,
    /// What there is and how it is written.
    Models,
    /// For those who run the server.
    Operate,
    /// Without a key.
    Health,
}

/// The form of an answer.
#[derive(Clone, Copy, Debug)]
pub enum Answer {
    /// A JSON object.
    Json(fn(&mut SchemaGenerator) -> Schema),
    /// Server-sent events, each a JSON object.
    Events(fn(&mut SchemaGenerator) -> Schema),
    /// Text of this media type.
    Text(&'static str),
}

impl Tag {
    /// All of them.
    pub const ALL: [Self; 5] =
        [Self::Generate, Self::Embed, Self::Models, Self::Operate, Self::Health];

    /// One word.
    pub fn name(self) -> &'static str {
        match self {
            Self::Generate => "generate",
            Self::Embed => "embed",
            Self::Models => "models",
            Self::Operate => "operate",
            Self::Health => "health",
        }
    }

    /// One sentence.
    pub fn about(self) -> &'static str {
        match self {
            Self::Generate => "Text from a model.",
            Self::Embed => "Vectors and scores of texts.",
            Self::Models => "Models and their tokens.",
            Self::Operate => "For those who run the server.",
            Self::Health => "Health; needs no key.",
        }
    }
}

impl Answer {
    fn json<T: JsonSchema>() -> Self {
        Self::Json(SchemaGenerator::subschema_for::<T>)
    }

    fn events<T: JsonSchema>() -> Self {
        Self::Events(SchemaGenerator::subschema_for::<T>)
    }

    /// Media type and media type object.
    pub(super) fn media(self, generator: &mut SchemaGenerator) -> (&'static str, Value) {
        match self {
            Self::Json(schema) => ("application/json", json!({ "schema": schema(generator) })),
            Self::Events(schema) => {
                let error = generator.subschema_for::<ErrorAnswer<'static>>();
                let data = json!({
                    "type": "string",
                    "contentMediaType": "application/json",
                    "contentSchema": { "anyOf": [schema(generator), error] },
                });
                let event = json!({
                    "type": "object",
                    "description": "One event. `[DONE]` is the last, where there is one.",
                    "properties": {
                        "event": { "type": "string" },
                        "data": { "anyOf": [{ "const": "[DONE]" }, data] },
                    },
                    "required": ["data"],
                });
                ("text/event-stream", json!({ "schema": event }))
            }
            Self::Text(kind) => (kind, json!({ "schema": { "type": "string" } })),
        }
    }
}

impl Operation {
    /// A name for programs.
    pub fn id(&self) -> String {
        let letters = self.path.chars().filter(|letter| !"{}*".contains(*letter));
        let letters = letters.map(|letter| if letter.is_alphanumeric() { letter } else { '_' });
        format!("{}{}", self.method, letters.collect::<String>())
    }

    /// The parameters in path and query.
    pub(super) fn parameters(&self) -> impl Iterator<Item = Value> {
        let parts = self.path.split('{').skip(1);
        let query = self.query.iter().map(|(name, schema)| {
            json!({ "name": name, "in": "query", "required": false, "schema": schema })
        });
        let path = parts.filter_map(|part| part.split('}').next()).map(|name| {
            json!({
                "name": name,
                "in": "path",
                "required": true,
                "schema": { "type": "string", "minLength": 1 },
            })
        });
        path.chain(query)
    }
}

/// Errors of an address that computes.
const WORK: &[u16] = &[400, 404, 408, 413, 415, 429, 500, 503, 504];
/// Errors of an address that only reads a body.
const READ: &[u16] = &[400, 404, 408, 413, 415, 429, 500, 503];

fn get(path: &'static str, tag: Tag, summary: &'static str, answer: Answer) -> Operation {
    let answers = vec![answer];
    let errors = &[500];
    Operation {
        method: "get",
        path,
        tag,
        summary,
        request: None,
        query: Vec::new(),
        status: 200,
        answers,
        errors,
    }
}

fn post(path: &'static str, tag: Tag, summary: &'static str, request: RequestSpec) -> Operation {
    Operation {
        method: "post",
        path,
        tag,
        summary,
        request: Some(request),
        query: Vec::new(),
        status: 200,
        answers: Vec::new(),
        errors: WORK,
    }
}

impl Operation {
    fn answers(mut self, answers: impl IntoIterator<Item = Answer>) -> Self {
        self.answers.extend(answers);
        self
    }

    fn query(self, query: impl IntoIterator<Item = (&'static str, Value)>) -> Self {
        Self { query: query.into_iter().collect(), ..self }
    }

    fn errors(self, errors: &'static [u16]) -> Self {
        Self { errors, ..self }
    }
}

macro_rules! request {
    ($name:ident, $examples:literal) => {
        RequestSpec {
            name: stringify!($name),
            examples: include_str!(concat!("examples/", $examples, ".json")),
            read: |body| $name::read(body).map(drop),
        }
    };
}

/// All of them.
pub fn operations() -> Vec<Operation> {
    let mut all = generating();
    all.extend(rendering());
    all.extend(responses());
    all.extend(embedding());
    all.extend(models());
    all.extend(operating());
    all
}

fn generating() -> Vec<Operation> {
    let tag = Tag::Generate;
    vec![
        post("/v1/chat/completions", tag, "Answers a conversation", request!(ChatRequest, "chat"))
            .answers([Answer::json::<ChatResponse>(), Answer::events::<ChatChunk<'static>>()]),
        post(
            "/v1/completions",
            tag,
            "Continues prompts",
            request!(CompletionRequest, "completion"),
        )
        .answers([
            Answer::json::<CompletionResponse<'static>>(),
            Answer::events::<CompletionResponse<'static>>(),
        ]),
    ]
}

fn rendering() -> Vec<Operation> {
    let tag = Tag::Models;
    vec![
        post(
            "/v1/chat/completions/render",
            tag,
            "Shows the prompt of a conversation; nothing is computed",
            request!(ChatRequest, "chat"),
        )
        .answers([Answer::json::<Rendered>()]),
        post(
            "/v1/completions/render",
            tag,
            "Shows the prompts of a completion; nothing is computed",
            request!(CompletionRequest, "completion"),
        )
        .answers([Answer::json::<Vec<Rendered>>()]),
    ]
}

fn responses() -> Vec<Operation> {
    let tag = Tag::Generate;
    let (one, errors) = ("/v1/responses/{id}", &[400, 404, 500][..]);
    let stored = Answer::json::<Response>();
    let order = json!({ "type": "string", "enum": ["asc", "desc"] });
    let limit = json!({ "type": "integer", "minimum": 1, "maximum": 100 });
    let delete = get(one, tag, "Forgets a kept response", Answer::json::<Deleted>());
    let cancel = get(
        "/v1/responses/{id}/cancel",
        tag,
        "Refused: only background responses could be cancelled, and there are none",
        stored,
    );
    vec![
        post("/v1/responses", tag, "Makes a response", request!(ResponsesRequest, "response"))
            .answers([stored, Answer::events::<EventFrame>()]),
        post(
            "/v1/responses/input_tokens",
            Tag::Models,
            "Counts the tokens of a response's prompt; nothing is computed",
            request!(ResponsesRequest, "response"),
        )
        .answers([Answer::json::<InputTokens>()]),
        get(one, tag, "Shows a kept response", stored)
            .query([
                ("stream", json!({ "type": "string", "enum": ["false"] })),
                ("include_obfuscation", json!({ "type": "string", "enum": ["false"] })),
            ])
            .errors(errors),
        Operation { method: "delete", ..delete }.errors(errors),
        Operation { method: "post", ..cancel }.errors(errors),
        get(
            "/v1/responses/{id}/input_items",
            tag,
            "Lists the items of a kept response's own input",
            Answer::json::<InputItems>(),
        )
        .query([("limit", limit), ("order", order), ("after", json!({ "type": "string" }))])
        .errors(errors),
    ]
}

fn embedding() -> Vec<Operation> {
    let request = request!(EmbeddingRequest, "embedding");
    let mut all = vec![
        post("/v1/embeddings", Tag::Embed, "Turns texts into vectors", request)
            .answers([Answer::json::<EmbeddingResponse>()]),
    ];
    let summary = "Orders documents by how well they answer a query";
    let request = request!(RerankRequest, "rerank");
    all.extend(["/v1/rerank", "/v2/rerank", "/rerank"].map(|path| {
        post(path, Tag::Embed, summary, request).answers([Answer::json::<RerankResponse>()])
    }));
    let (summary, request) = ("Scores pairs of texts", request!(ScoreRequest, "score"));
    all.extend(["/v1/score", "/score"].map(|path| {
        post(path, Tag::Embed, summary, request).answers([Answer::json::<ScoreResponse>()])
    }));
    all
}

fn models() -> Vec<Operation> {
    let tag = Tag::Models;
    vec![
        get("/v1/models", tag, "Lists all names of all models", Answer::json::<ModelList>()),
        get("/v1/models/{id}", tag, "Describes the model of one name", Answer::json::<ModelCard>())
            .errors(&[400, 404, 500]),
        post(
            "/tokenize",
            tag,
            "Shows the tokens of a text or of a conversation",
            request!(TokenizeRequest, "tokenize"),
        )
        .answers([Answer::json::<TokenizeResponse>()])
        .errors(READ),
        post(
            "/detokenize",
            tag,
            "Shows the text of tokens",
            request!(DetokenizeRequest, "detokenize"),
        )
        .answers([Answer::json::<DetokenizeResponse>()])
        .errors(READ),
    ]
}

fn operating() -> Vec<Operation> {
    let (tag, prometheus) = (Tag::Operate, Answer::Text("text/plain"));
    vec![
        get("/metrics", tag, "Everything that is counted, for Prometheus", prometheus)
            .errors(&[403, 500]),
        get(
            "/v1/engine/live",
            tag,
            "Shows the engine at work, once or as events",
            Answer::json::<Frame>(),
        )
        .answers([Answer::events::<Frame>()])
        .errors(&[400, 403, 429, 503]),
        get("/v1/policy", tag, "Shows the scheduling policy", Answer::json::<PolicyResponse>())
            .errors(&[403]),
        Operation {
            method: "put",
            ..post(
                "/v1/policy",
                tag,
                "Changes the scheduling policy, or the shadow policy, between two steps",
                request!(PolicyRequest, "policy"),
            )
        }
        .answers([Answer::json::<PolicyResponse>()])
        .errors(&[400, 403, 408, 413, 415, 503]),
        get("/load", tag, "What runs and waits now", Answer::json::<LoadResponse>()),
        get("/version", tag, "The program's version", Answer::json::<VersionResponse>()),
        get("/openapi.json", tag, "This document", Answer::Json(|_| any_object())),
        health("/health", "Whether new work is taken").errors(&[503]),
        health("/health/ready", "Whether new work is taken").errors(&[503]),
        health("/health/live", "Whether the program runs"),
    ]
}

fn health(path: &'static str, summary: &'static str) -> Operation {
    get(path, Tag::Health, summary, Answer::json::<HealthResponse>())
}

fn any_object() -> Schema {
    schemars::json_schema!({ "type": "object" })
}
