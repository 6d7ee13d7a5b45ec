//! The spans of a request, made from its record when it has ended.
//!
//! One tree: the request, under it the making of tokens and, for each choice, its time in the
//! queue, each chunk of its prompt, and its decoding. Attributes have the names that vLLM gives
//! them, which are those of OpenTelemetry's conventions for generative AI where there are any.

use std::borrow::Cow;
use std::time::{Duration, SystemTime};

use folio_engine::types::{Mark, MarkKind, Nanos};
use opentelemetry::propagation::TextMapPropagator;
use opentelemetry::trace::{
    Event, SpanContext, SpanId, SpanKind, Status, TraceContextExt, TraceFlags, TraceId, TraceState,
};
use opentelemetry::{Context, InstrumentationScope, KeyValue, Value};
use opentelemetry_http::HeaderExtractor;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::{IdGenerator, RandomIdGenerator, SpanData, SpanEvents, SpanLinks};

use super::ChoiceFacts;

/// The caller's place in its own trace, from the headers of a request; nothing if they name none.
pub(super) fn parent_in(headers: &axum::http::HeaderMap) -> SpanContext {
    let propagator = TraceContextPropagator::new();
    let context = propagator.extract_with_context(&Context::new(), &HeaderExtractor(headers));
    context.span().span_context().clone()
}

/// Makes spans with times of the engine's clock.
#[derive(Clone, Debug)]
pub(super) struct Tree {
    trace: TraceId,
    state: TraceState,
    root: SpanId,
    parent: SpanId,
    /// When, for the world, the engine's clock showed `origin.1`.
    origin: (SystemTime, Nanos),
    spans: Vec<SpanData>,
}

/// A span that is to be.
pub(super) struct Plan {
    pub(super) name: &'static str,
    pub(super) begin: Nanos,
    pub(super) end: Nanos,
    pub(super) attributes: Vec<KeyValue>,
}

impl Tree {
    /// A tree under `parent`, the caller's span, or with a trace of its own.
    pub(super) fn new(parent: &SpanContext, now: Nanos) -> Self {
        let ids = RandomIdGenerator::default();
        let trace = if parent.is_valid() { parent.trace_id() } else { ids.new_trace_id() };
        Self {
            trace,
            state: parent.trace_state().clone(),
            root: ids.new_span_id(),
            parent: parent.span_id(),
            origin: (SystemTime::now(), now),
            spans: Vec::new(),
        }
    }

    /// Adds the spans of a choice under the root.
    pub(super) fn add_choice(&mut self, index: usize, choice: &ChoiceFacts, end: Nanos) {
        let stats = &choice.stats;
        let index = KeyValue::new("folio.choice.index", index as i64);
        let plan = |name, begin, end, mut attributes: Vec<KeyValue>| {
            attributes.push(index.clone());
            Plan { name, begin, end, attributes }
        };
        let (Some(first_scheduled), false) = (stats.first_scheduled, choice.is_unknown()) else {
            return;
        };
        self.add(plan("queue", stats.arrival, first_scheduled, Vec::new()));
        for (begin, chunk_end, num_tokens) in chunks(&choice.marks, end) {
            let tokens = KeyValue::new("folio.num_tokens", i64::from(num_tokens));
            self.add(plan("prefill", begin, chunk_end, vec![tokens]));
        }
        if let Some(first) = stats.first_token
            && choice.num_tokens > 0
        {
            let tokens = KeyValue::new("folio.num_tokens", i64::from(choice.num_tokens));
            self.add(plan("decode", first, choice.last_token().unwrap_or(first), vec![tokens]));
        }
    }

    /// Adds a span under the root.
    pub(super) fn add(&mut self, plan: Plan) {
        let span = RandomIdGenerator::default().new_span_id();
        let data = self.span(plan, (span, self.root), SpanKind::Internal);
        self.spans.push(data);
    }

    /// The whole tree, the root with its events and its status last.
    pub(super) fn finish(
        mut self,
        root: Plan,
        choices: &[ChoiceFacts],
        status: Status,
    ) -> Vec<SpanData> {
        let mut data = self.span(root, (self.root, self.parent), SpanKind::Server);
        data.parent_span_is_remote = self.parent != SpanId::INVALID;
        data.status = status;
        let marks = choices.iter().enumerate();
        let marks = marks.flat_map(|(index, choice)| choice.marks.iter().map(move |m| (index, m)));
        for (index, mark) in marks {
            let name = match mark.kind {
                MarkKind::Preempted => "preempted",
                MarkKind::Resumed => "resumed",
                MarkKind::ChunkPlanned(_) | MarkKind::ChunkComputed(_) => continue,
            };
            let index = KeyValue::new("folio.choice.index", index as i64);
            data.events.events.push(Event::new(name, self.time(mark.at), vec![index], 0));
        }
        self.spans.push(data);
        self.spans
    }

    fn span(&self, plan: Plan, (span, parent): (SpanId, SpanId), kind: SpanKind) -> SpanData {
        let (flags, state) = (TraceFlags::SAMPLED, self.state.clone());
        SpanData {
            span_context: SpanContext::new(self.trace, span, flags, false, state),
            parent_span_id: parent,
            parent_span_is_remote: false,
            span_kind: kind,
            name: Cow::Borrowed(plan.name),
            start_time: self.time(plan.begin),
            end_time: self.time(plan.end.max(plan.begin)),
            attributes: plan.attributes,
            dropped_attributes_count: 0,
            events: SpanEvents::default(),
            links: SpanLinks::default(),
            status: Status::Unset,
            instrumentation_scope: InstrumentationScope::builder("folio")
                .with_version(env!("CARGO_PKG_VERSION"))
                .build(),
        }
    }

    fn time(&self, at: Nanos) -> SystemTime {
        let (time, now) = self.origin;
        let shift = |nanos: Nanos| Duration::from_nanos(nanos.0);
        let time = time.checked_sub(shift(now.since(at))).unwrap_or(time);
        time + shift(at.since(now))
    }
}

/// An attribute, if there is a value for it.
pub(super) fn attribute<V: Into<Value>>(name: &'static str, value: Option<V>) -> Option<KeyValue> {
    value.map(|value| KeyValue::new(name, value))
}

/// Begin, end and number of tokens of each chunk. Those that never ended did with the choice.
fn chunks(marks: &[Mark], end: Nanos) -> Vec<(Nanos, Nanos, u32)> {
    let planned = marks.iter().filter_map(|mark| match mark.kind {
        MarkKind::ChunkPlanned(num_tokens) => Some((mark.at, num_tokens)),
        _ => None,
    });
    let mut computed = marks.iter().filter_map(|mark| match mark.kind {
        MarkKind::ChunkComputed(_) => Some(mark.at),
        _ => None,
    });
    planned.map(|(at, num_tokens)| (at, computed.next().unwrap_or(end), num_tokens)).collect()
}
