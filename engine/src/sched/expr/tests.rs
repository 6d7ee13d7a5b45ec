//! Values against Rust's own, and what is said of texts that are no expressions.

use super::features::{Scope, TenantService};
use super::parser::{Kind, Subject, parse};
use crate::sched::policies::Fcfs;
use crate::sched::{
    ComplaintKind, Complaints, HistogramPredictor, PolicyContext, PolicyError, PolicyRequest,
    PriorityUse, Refresh, Registry, Scheduler, SpecText,
};
use crate::types::{
    Choice, EngineConfig, EventReceiver, EventSender, ModelId, ModelKind, ModelLimits, Nanos,
    PrefixCaching, Request, RequestId, SamplingParams, Slo, Task, TenantId,
};

const NOW: Nanos = Nanos(5_000_000_000);

/// A scheduler where one request of 20 tokens, priority 3 and tenant 7 has waited since second 2.
fn scheduler() -> (Scheduler, EventReceiver) {
    let config = EngineConfig {
        models: vec![ModelLimits { kind: ModelKind::Decoder, max_model_len: 64, vocab_size: 100 }],
        block_size: 4,
        num_blocks: 33,
        max_num_seqs: 8,
        max_num_batched_tokens: 72,
        max_num_partial_prefills: 2,
        long_prefill_token_threshold: None,
        max_queued_requests: 100,
        prefix_caching: PrefixCaching::On,
        num_host_blocks: 0,
    };
    let mut scheduler = Scheduler::new(config.validated().unwrap(), Box::new(Fcfs));
    let (events, receiver) = EventSender::channel(10);
    let mut params = SamplingParams::default();
    params.stop.max_tokens = 10;
    let request = Request {
        id: RequestId(1),
        model: ModelId(0),
        prompt: (0..20).collect(),
        task: Task::Generate(params),
        choices: vec![Choice::new(events)],
        priority: 3,
        tenant: TenantId(7),
        deadline: Some(Nanos(9_000_000_000)),
        slo: Slo::default(),
        cache_salt: None,
    };
    scheduler.admit(request, Nanos(2_000_000_000));
    (scheduler, receiver)
}

/// The value of an expression over that request.
fn value(text: &str, kind: Kind) -> f64 {
    let (scheduler, _receiver) = scheduler();
    let view = scheduler.state.view(NOW);
    let request = view.waiting().next().and_then(|id| view.request(id));
    let service = TenantService::default();
    let nodes = parse(SpecText::of(text), kind, Subject::Request);
    let nodes = nodes.unwrap_or_else(|error| panic!("{error}"));
    let predictor = HistogramPredictor::default();
    let (view, service, predictor) = (&view, &service, &predictor);
    nodes[0].value(&Scope { request, view, service, predictor })
}

/// Checks that an expression is worth what Rust says it is.
macro_rules! same {
    ($($kind:ident: $expression:expr;)*) => {$(
        let text = stringify!($expression);
        let ours = value(text, Kind::$kind);
        #[allow(clippy::all, clippy::pedantic, unused_parens, reason = "to see how it is read")]
        let theirs = f64::from($expression);
        assert!((ours - theirs).abs() <= 1e-12 * theirs.abs(), "{text}: {ours}, {theirs}");
    )*};
}

#[test]
fn operators_bind_as_in_rust() {
    same! {
        Number: 1.0 + 2.0 * 3.0 - 8.0 / 4.0 / 2.0;
        Number: (1.0 + 2.0) * -3.0 - -(4.0 - 7.5);
        Number: 10.0 - 4.0 - 3.0;
        Number: 100.0 / 5.0 * 2.0 % 7.0;
        Number: -7.5 % 2.0 + 7.5 % -2.0;
        Number: 1e3 + 2.5E-1 + 0.5;
        Truth: 1.0 + 1.0 < 3.0 && 2.0 * 2.0 >= 4.0 || 1.0 > 2.0;
        Truth: 1.0 > 2.0 && 1.0 > 0.0 || 3.0 != 3.0;
        Truth: 1.0 > 0.0 || 1.0 > 0.0 && 1.0 > 2.0;
        Truth: !(1.0 <= 0.5) && !!(2.0 == 2.0);
    }
}

#[test]
#[allow(clippy::float_cmp, reason = "exact by construction")]
fn functions_choices_and_features_have_their_values() {
    for (text, expected) in [
        ("min(3, 1, 2) + max(3, 1, 2)", 4.0),
        ("abs(-2) + sqrt(16) + floor(2.9) + log(exp(1))", 9.0),
        ("clamp(9, 0, 5) + clamp(-1, 0, 5) + clamp(2, 0, 5)", 7.0),
        ("2 > 1 ? 10 : 1 > 0 ? 20 : 30", 10.0),
        ("2 < 1 ? 10 : 1 > 0 ? 20 : 30", 20.0),
        ("if(1 > 2 || !false, prompt, 0)", 20.0),
        ("arrival", 0.0),
        ("arrival_s", 2.0),
        ("waited_s", 3.0),
        ("now_s", 5.0),
        ("deadline_s", 4.0),
        ("priority", 3.0),
        ("tenant", 7.0),
        ("max_tokens", 10.0),
        ("pending + uncached", 40.0),
        ("cached + computed + generated + blocks + preemptions + tenant_service + running", 0.0),
        ("waiting", 1.0),
        ("free_blocks", 32.0),
        ("total_blocks", 32.0),
        ("block_size", 4.0),
        ("max_tokens_a_step", 72.0),
        ("max_running", 8.0),
        ("uncached - 200*waited_s", -580.0),
        ("1 > 0 ? 1 : 0/0", 1.0),
        ("min(inf, 5)", 5.0),
    ] {
        assert_eq!(value(text, Kind::Number), expected, "{text}");
    }
}

#[test]
fn what_does_not_exist_makes_what_needs_it_not_exist() {
    for text in [
        "1/0",
        "0/0",
        "1%0",
        "sqrt(-1)",
        "log(0)",
        "inf-inf",
        "min(0/0, 1)",
        "max(1, 0/0)",
        "0 * (1/0)",
        "1/0 > 1 ? 1 : 2",
        "!(1/0 > 1) ? 1 : 2",
        "1/0 > 1 && 1 > 0 ? 1 : 2",
        "1 > 0 && 1/0 > 1 ? 1 : 2",
        "1/0 > 1 || 1 > 0 ? 1 : 2",
        "1/0 == 1/0 ? 1 : 2",
        "clamp(1, 2, 0)",
        "clamp(0/0, 0, 1)",
        "-(1/0)",
    ] {
        assert!(value(text, Kind::Number).is_nan(), "{text}");
    }
}

fn error(spec: &str) -> PolicyError {
    match Registry::builtin().make(spec, &PolicyContext::default()) {
        Ok(_) => panic!("{spec:?} is a policy"),
        Err(error) => error,
    }
}

#[test]
fn errors_point_at_the_column() {
    for (spec, column, message) in [
        ("expr:", 6, "here should be a number, a name or \"(\", not the end"),
        ("expr: uncahced + 1", 7, "there is no feature \"uncahced\" (did you mean uncached?)"),
        ("expr: prompt + wated_s", 16, "there is no feature \"wated_s\" (did you mean waited_s?)"),
        ("expr: mni(1, 2)", 7, "there is no function \"mni\" (did you mean min?)"),
        ("expr: prompt > 3", 7, "this place needs a number, and this is true or false"),
        ("expr: prompt ? 1 : 2", 7, "the choice needs a condition, and this is a number"),
        ("expr: 1 + (2 > 1)", 11, "+ needs a number, and this is true or false"),
        ("expr: 1 < 2 < 3", 7, "< needs a number, and this is true or false"),
        ("expr: !prompt", 8, "! needs a condition, and this is a number"),
        ("expr: (1 + 2", 13, "here should be \")\", not the end"),
        ("expr: 1 2", 9, "here should be an operator, not the number 2"),
        ("expr: 3x + 1", 7, "\"3x\" is not a number"),
        ("expr: 1.2.3", 7, "\"1.2.3\" is not a number"),
        ("expr: 1e999", 7, "\"1e999\" is not a number"),
        ("expr: prompt = 3", 14, "'=' means nothing here; to compare, write =="),
        ("expr: é", 7, "'é' means nothing here"),
        ("expr: if(prompt, 1, 2)", 10, "the choice needs a condition"),
        ("expr: min(1)", 7, "min takes 2 to 8 arguments, not 1"),
        ("expr: if(1 > 2, 3)", 7, "if takes 3 arguments, not 2"),
        ("expr: 1, 2, 3", 7, "a rank has one or two keys"),
        ("expr: 1; limt: 3", 10, "there is no part \"limt\" (did you mean limit?)"),
        ("expr: 1; prompt", 10, "here should be one of limit, chunk"),
        ("expr: 1; limit: prompt", 17, "prompt is of one request, and this is about the whole"),
        ("expr: 1; limit: 1; limit: 2", 20, "limit is given twice"),
        ("expr: 1; victim: 1, 2", 17, "victim has one value"),
        ("expr: 1; displace: running > 3", 19, "displace must be true or false"),
        ("expr: 1; predictor: psychic", 21, "predictor is \"psychic\" and must be none"),
        ("expr: 1; predictor: oracle", 21, "predictor \"oracle\" knows lengths in a simulation"),
        ("expr: 1; predictor : none", 22, "an expression is evaluated with some predictor"),
        ("expr: 1; admit: running", 17, "this place needs a condition, and this is a number"),
    ] {
        let error = error(spec);
        assert!(error.message().starts_with(message), "{spec:?}: {error}");
        assert_eq!(error.column(), column, "{spec:?}: {error}");
    }
}

#[test]
fn no_text_is_too_deep_or_too_long_for_the_parser() {
    for (spec, message) in [
        (format!("expr: {}1", "(".repeat(1000)), "nested more than"),
        (format!("expr: {}1", "-".repeat(1000)), "too many signs"),
        (format!("expr: {}1", "1 > 2 ? 1 : ".repeat(200)), "nested more than"),
        (format!("expr: 1{}", " + 1".repeat(2000)), "may have 4096"),
    ] {
        assert!(error(&spec).message().contains(message), "{}", error(&spec));
    }
    let long = format!("expr: 1{}", "+1".repeat(2000));
    assert!(Registry::builtin().make(&long, &PolicyContext::default()).is_ok());
}

#[test]
fn ranks_are_refreshed_as_often_as_their_features_change() {
    for (spec, refresh) in [
        ("expr: arrival", Refresh::OnArrival),
        ("expr: priority, prompt + max_tokens / 2; victim: computed", Refresh::OnArrival),
        ("expr: priority, tenant_service", Refresh::OnTenantEvent),
        ("expr: uncached", Refresh::EveryStep),
        ("expr: tenant_service - waited_s", Refresh::EveryStep),
        ("expr: running > 3 ? prompt : 0", Refresh::EveryStep),
    ] {
        let policy = Registry::builtin().make(spec, &PolicyContext::default()).unwrap();
        assert_eq!(policy.refresh(), refresh, "{spec}");
    }
}

#[test]
fn a_missing_rank_is_last_counted_and_said_once() {
    let (log, said) = std::sync::mpsc::channel();
    let complaints = Complaints::new(move |text| log.send(text.to_owned()).unwrap());
    let context = PolicyContext { complaints: complaints.clone(), ..PolicyContext::default() };
    let spec = "expr: prompt / (priority - 3)";
    let mut policy = Registry::builtin().make(spec, &context).unwrap();
    let (scheduler, _receiver) = scheduler();
    let view = scheduler.state.view(NOW);
    let id = view.waiting().next().unwrap();
    let request: PolicyRequest<'_> = view.request(id).unwrap();
    for _ in 0..3 {
        let rank = policy.rank(request, &view);
        assert!(rank.0.is_infinite() && rank.0 > 0.0, "{rank:?}");
    }
    assert_eq!(complaints.num(ComplaintKind::Undefined), 3);
    let expected = format!(
        "policy {spec:?}: column 14: 20 / 0 has no value for sequence 0: it goes last; from now \
         on this is counted"
    );
    assert_eq!(said.try_iter().collect::<Vec<_>>(), [expected]);
}

#[test]
fn priorities_are_refused_where_an_expression_does_not_look_at_them() {
    let registry = Registry::builtin();
    for (spec, expected) in [
        ("expr: prompt", PriorityUse::Ignored),
        ("expr: -1 * priority", PriorityUse::Read),
        ("expr: 1; victim: priority", PriorityUse::Read),
        ("fcfs", PriorityUse::Ignored),
        ("priority", PriorityUse::Read),
    ] {
        assert_eq!(registry.priority_use(spec), expected, "{spec}");
    }
}
