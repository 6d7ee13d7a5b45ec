//! `/v1/responses` and what is kept of it.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, RawQuery, Request, State};
use axum::response::sse::Event;
use axum::response::{IntoResponse, Response as HttpResponse};
use folio_engine::types::ModelKind;
use futures_util::stream;
use serde_json::Value;

use crate::app::App;
use crate::body::JsonBody;
use crate::client::Client;
use crate::error::ApiError;
use crate::generate::{ChatJob, ChatStream};
use crate::lifecycle::{ActiveStream, ActiveWork};
use crate::openai::{Delivery, Keeping, ResponsesRequest, parse};
use crate::responses::{
    Builder, Deleted, EventFrame, Fixed, InputItems, InputTokens, IsStored, Kept, Progress,
    Response, Status,
};
use crate::service::{Service, unix_seconds};
use crate::sse;

/// Items of a page when the client does not say.
const DEFAULT_PAGE: usize = 20;
/// Most items of a page, as in OpenAI's API.
const MAX_PAGE: usize = 100;

/// What is known once the body is read and found good.
struct Prepared {
    job: ChatJob,
    response: Response,
    delivery: Delivery,
    keeper: Keeper,
}

/// Keeps a response once it has ended.
struct Keeper {
    app: Arc<App>,
    client: Client,
    is_stored: IsStored,
    /// Items before the request's own.
    earlier: Vec<Arc<Value>>,
    input: Vec<Arc<Value>>,
}

impl Keeper {
    fn keep(self, response: &Response) {
        if self.is_stored == IsStored::No {
            return;
        }
        let output = response.output.iter().filter_map(|item| serde_json::to_value(item).ok());
        let mut items = self.earlier;
        items.extend(self.input.iter().cloned());
        items.extend(output.map(Arc::new));
        if let Ok(whole) = serde_json::to_value(response) {
            let kept = Kept { response: whole, input: self.input, items };
            self.app.responses.put(&self.client.name, &response.id, kept);
        }
    }
}

/// Makes a response.
pub async fn create(State(app): State<Arc<App>>, body: JsonBody) -> Result<HttpResponse, ApiError> {
    let JsonBody { bytes, client, work, .. } = body;
    let shared = Arc::clone(&app);
    let prepared = app.gate.run(move || prepare(shared, client, &bytes)).await?;
    let running = prepared.job.start(&app.service).map_err(ResponsesRequest::told_here)?;
    let builder = Builder::new(&app.service, running.model(), prepared.response);
    match prepared.delivery {
        Delivery::Whole => whole(builder, running, prepared.keeper, work).await,
        Delivery::Stream => {
            let writer = Writer {
                job: Some((builder, running, prepared.keeper)),
                events: VecDeque::new(),
                work: work.into_stream(),
            };
            Ok(sse::answer(stream::unfold(writer, |mut writer| async {
                let event = writer.next().await?;
                Some((Ok::<_, Infallible>(event), writer))
            })))
        }
    }
}

/// Counts the tokens that a response's prompt would have; nothing is computed.
pub async fn input_tokens(
    State(app): State<Arc<App>>,
    body: JsonBody,
) -> Result<Json<InputTokens>, ApiError> {
    let JsonBody { bytes, client, .. } = body;
    let shared = Arc::clone(&app);
    let prepared = app.gate.run(move || prepare(shared, client, &bytes)).await?;
    let input_tokens = prepared.job.job().num_prompt_tokens();
    Ok(Json(InputTokens { object: "response.input_tokens", input_tokens }))
}

fn prepare(app: Arc<App>, client: Client, body: &[u8]) -> Result<Prepared, ApiError> {
    let request = ResponsesRequest::read(parse(body)?)?;
    let service = &app.service;
    let is_stored = match request.keeping {
        Keeping::Asked if !app.responses.is_on() => {
            let message = "store = true: this server was started with --max-stored-responses 0";
            return Err(ApiError::unsupported("store", message));
        }
        Keeping::Default | Keeping::Asked if app.responses.is_on() => IsStored::Yes,
        _ => IsStored::No,
    };
    let earlier = match &request.previous {
        Some(id) => app.responses.get(&client.name, id, "previous_response_id")?.items.clone(),
        None => Vec::new(),
    };
    let model = service.models.find_kind(&request.model, ModelKind::Decoder)?;
    let chat = request.to_chat(&earlier)?;
    let job = ChatJob::new(service, &client, model, chat).map_err(ResponsesRequest::told_here)?;
    let input = request.input.into_iter().map(|item| Arc::new(with_id(service, item))).collect();
    let response = Response {
        id: unique_id(service, "resp"),
        object: "response",
        created_at: unix_seconds(),
        progress: Progress::new(Status::InProgress),
        model: request.model,
        output: Vec::new(),
        usage: None,
        settings: request.settings,
        fixed: Fixed::new(is_stored),
    };
    let delivery = request.delivery;
    let keeper = Keeper { app, client, is_stored, earlier, input };
    Ok(Prepared { job, response, delivery, keeper })
}

fn unique_id(service: &Service, prefix: &str) -> String {
    service.unique_id(prefix).replacen('-', "_", 1)
}

/// `item`, which the client may have sent without an id.
fn with_id(service: &Service, mut item: Value) -> Value {
    if item.get("id").is_none() {
        let prefix = match item["type"].as_str() {
            Some("function_call") => "fc",
            Some("function_call_output") => "fco",
            Some("reasoning") => "rs",
            _ => "msg",
        };
        item["id"] = unique_id(service, prefix).into();
    }
    item
}

async fn whole(
    mut builder: Builder,
    mut running: ChatStream,
    keeper: Keeper,
    work: ActiveWork,
) -> Result<HttpResponse, ApiError> {
    while let Some(delta) = running.next().await {
        builder.add(delta?);
        drop(builder.take_events());
    }
    let (response, _) = builder.finish(running.usage());
    keeper.keep(&response);
    drop(work);
    Ok(Json(response).into_response())
}

/// A response on its way to a client.
struct Writer {
    /// `None` once it has ended.
    job: Option<(Builder, ChatStream, Keeper)>,
    events: VecDeque<EventFrame>,
    work: ActiveStream,
}

impl Writer {
    async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(frame) = self.events.pop_front() {
                self.work.count_chunk();
                let event = Event::default().event(frame.event.kind());
                return event.json_data(&frame).ok();
            }
            let (mut builder, mut running, keeper) = self.job.take()?;
            self.events.extend(builder.take_events());
            if !self.events.is_empty() {
                self.job = Some((builder, running, keeper));
                continue;
            }
            match running.next().await {
                Some(Ok(delta)) => {
                    builder.add(delta);
                    self.job = Some((builder, running, keeper));
                }
                Some(Err(error)) => self.events.extend(builder.fail(&error, running.usage())),
                None => {
                    let (response, events) = builder.finish(running.usage());
                    keeper.keep(&response);
                    self.events.extend(events);
                }
            }
        }
    }
}

/// Shows a response that is kept.
pub async fn show(
    State(app): State<Arc<App>>,
    Path(id): Path<String>,
    request: Request,
) -> Result<Json<Value>, ApiError> {
    let client = Client::of(request.extensions());
    let known = [("stream", "false"), ("include_obfuscation", "false")];
    for (name, value) in query(request.uri().query().unwrap_or("")) {
        if !known.contains(&(name, value)) {
            return Err(unknown_parameter(name, value, &known.map(|(name, _)| name)));
        }
    }
    let kept = app.responses.get(&client.name, &id, "response_id")?;
    Ok(Json(kept.response.clone()))
}

/// Forgets a response.
pub async fn delete(
    State(app): State<Arc<App>>,
    Path(id): Path<String>,
    request: Request,
) -> Result<Json<Deleted>, ApiError> {
    let client = Client::of(request.extensions());
    app.responses.delete(&client.name, &id)?;
    Ok(Json(Deleted { id, object: "response", deleted: true }))
}

/// Only responses in the background could be cancelled, and there are none. To cancel a response,
/// close its connection.
pub async fn cancel(
    State(app): State<Arc<App>>,
    Path(id): Path<String>,
    request: Request,
) -> Result<Json<Value>, ApiError> {
    let client = Client::of(request.extensions());
    app.responses.get(&client.name, &id, "response_id")?;
    let message = format!("the response {id:?} has ended: only background ones are cancelled");
    Err(ApiError::invalid_value("response_id", message))
}

/// Lists the items of a response's own input.
pub async fn input_items(
    State(app): State<Arc<App>>,
    Path(id): Path<String>,
    RawQuery(text): RawQuery,
    request: Request,
) -> Result<Json<InputItems>, ApiError> {
    let client = Client::of(request.extensions());
    let page = Page::read(text.as_deref().unwrap_or(""))?;
    let kept = app.responses.get(&client.name, &id, "response_id")?;
    page.of(&kept.input).map(Json)
}

/// Which items are wanted.
struct Page {
    limit: usize,
    order: Order,
    after: Option<String>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Order {
    Ascending,
    Descending,
}

impl Page {
    fn read(text: &str) -> Result<Self, ApiError> {
        let mut page = Self { limit: DEFAULT_PAGE, order: Order::Descending, after: None };
        for (name, value) in query(text) {
            match (name, value) {
                ("limit", _) => {
                    let limit = value.parse().ok().filter(|limit| (1..=MAX_PAGE).contains(limit));
                    page.limit = limit.ok_or_else(|| {
                        let message = format!("limit = {value} must be from 1 to {MAX_PAGE}");
                        ApiError::invalid_value("limit", message)
                    })?;
                }
                ("order", "asc") => page.order = Order::Ascending,
                ("order", "desc") => page.order = Order::Descending,
                ("order", _) => {
                    let message = format!("order = {value:?} must be asc or desc");
                    return Err(ApiError::invalid_value("order", message));
                }
                ("after", _) => page.after = Some(value.to_owned()),
                _ => return Err(unknown_parameter(name, value, &["limit", "order", "after"])),
            }
        }
        Ok(page)
    }

    fn of(&self, items: &[Arc<Value>]) -> Result<InputItems, ApiError> {
        let mut items: Vec<&Value> = items.iter().map(AsRef::as_ref).collect();
        if self.order == Order::Descending {
            items.reverse();
        }
        if let Some(after) = &self.after {
            let at = items.iter().position(|item| item["id"] == **after).ok_or_else(|| {
                let message = format!("after = {after:?} is not the id of an item");
                ApiError::invalid_value("after", message)
            })?;
            items.drain(..=at);
        }
        let has_more = items.len() > self.limit;
        items.truncate(self.limit);
        let id =
            |item: Option<&&Value>| item.and_then(|item| item["id"].as_str()).map(str::to_owned);
        Ok(InputItems {
            object: "list",
            first_id: id(items.first()),
            last_id: id(items.last()),
            has_more,
            data: items.into_iter().cloned().collect(),
        })
    }
}

/// The parameters of a query. None that this server knows needs an escape.
fn query(text: &str) -> impl Iterator<Item = (&str, &str)> {
    let pairs = text.split('&').filter(|pair| !pair.is_empty());
    pairs.map(|pair| pair.split_once('=').unwrap_or((pair, "")))
}

fn unknown_parameter(name: &str, value: &str, known: &[&str]) -> ApiError {
    let known = known.join(", ");
    let message = format!("the query has {name}={value}, which is not supported; known: {known}");
    ApiError::unsupported(name, message)
}
