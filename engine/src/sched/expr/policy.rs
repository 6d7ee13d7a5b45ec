//! A policy that does what expressions say.

use super::features::{Feature, Scope, Staleness, TenantService};
use super::parser::{Kind, Subject, parse};
use super::tree::Node;
use crate::sched::registry::suggestion;
use crate::sched::{
    Admit, ComplaintKind, Complaints, Displacement, FinishedLength, HistogramPredictor,
    LengthPredictor, Limits, Policy, PolicyContext, PolicyError, PolicyRequest, Rank, Refresh,
    SchedEvent, SpecText, Victim, View, predictor,
};
use crate::types::SequenceId;

/// Longest spec, in bytes.
const MAX_BYTES: usize = 4096;

/// Names the predictor of lengths.
const PREDICTOR: &str = "predictor";

/// Parts behind the rank, with what each must be. Beside them there is [`PREDICTOR`].
const PARTS: [(&str, Kind, Subject); 6] = [
    ("limit", Kind::Number, Subject::Step),
    ("chunk", Kind::Number, Subject::Step),
    ("max_running", Kind::Number, Subject::Step),
    ("victim", Kind::Number, Subject::Request),
    ("admit", Kind::Truth, Subject::Request),
    ("displace", Kind::Truth, Subject::Step),
];

/// An order of service, limits, victims and admissions as expressions.
struct ExprPolicy {
    rank: Code,
    second: Option<Code>,
    /// Tokens a step, tokens of a prompt, sequences.
    limits: [Option<Code>; 3],
    victim: Option<Code>,
    admit: Option<Code>,
    displacement: Displacement,
    refresh: Refresh,
    /// Whether [`service`](Self::service) is asked for.
    is_service_used: bool,
    service: TenantService,
    predictor: Box<dyn LengthPredictor>,
    notes: Notes,
}

/// An expression, and where its text begins in the spec.
struct Code {
    node: Node,
    start: usize,
}

/// What is said when a value does not exist.
struct Notes {
    spec: String,
    complaints: Complaints,
    has_spoken: bool,
}

/// The policy of `text`, which is what follows `expr:`.
pub(in crate::sched) fn make(
    text: SpecText<'_>,
    context: &PolicyContext,
) -> Result<Box<dyn Policy>, PolicyError> {
    let num_bytes = text.spec().len();
    if num_bytes > MAX_BYTES {
        let message = format!("the text has {num_bytes} bytes and may have {MAX_BYTES}");
        return Err(text.error_at(0, message));
    }
    let mut sections = sections(text).into_iter();
    let first = sections.next().unwrap_or(text);
    let mut ranks = parse(first, Kind::Number, Subject::Request)?.into_iter();
    let mut key = || ranks.next().map(|node| Code { node, start: first.start() });
    let (Some(rank), second, None) = (key(), key(), key()) else {
        return Err(first.error_at(0, "a rank has one or two keys"));
    };
    let mut parts: [Option<Code>; PARTS.len()] = Default::default();
    let mut predictor: Box<dyn LengthPredictor> = Box::new(HistogramPredictor::default());
    for section in sections {
        if let Some(text) = section.text().strip_prefix(PREDICTOR).map(str::trim_start)
            && text.starts_with(':')
        {
            predictor = chosen_predictor(section, context)?;
            continue;
        }
        let (index, code) = part(section)?;
        if parts[index].replace(code).is_some() {
            return Err(section.error_at(0, format!("{} is given twice", PARTS[index].0)));
        }
    }
    let [limit, chunk, max_running, victim, admit, displace] = parts;
    let displacement = displacement(text, displace.as_ref())?;
    let keys = [Some(&rank), second.as_ref()].into_iter().flatten();
    let staleness = keys.map(Code::staleness).max().unwrap_or(Staleness::Arrival);
    let codes = [Some(&rank), second.as_ref(), victim.as_ref(), admit.as_ref()];
    let is_service_used = codes.into_iter().flatten().any(|code| code.has(Feature::is_service));
    let spec = text.spec().trim().to_owned();
    Ok(Box::new(ExprPolicy {
        refresh: refresh(staleness),
        rank,
        second,
        limits: [limit, chunk, max_running],
        victim,
        admit,
        displacement,
        is_service_used,
        service: TenantService::new(context.tenant_weights.clone()),
        predictor,
        notes: Notes { spec, complaints: context.complaints.clone(), has_spoken: false },
    }))
}

/// Whether an expression looks at the priority of requests. One that cannot be read may.
pub(in crate::sched) fn reads_priority(text: SpecText<'_>) -> bool {
    text.text().split(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).any(|w| w == "priority")
}

/// What stands between the semicolons, without the blanks around it.
fn sections(text: SpecText<'_>) -> Vec<SpecText<'_>> {
    let mut start = 0;
    let sections = text.text().split(';').map(|section| {
        let end = start + section.len();
        let begin = end - section.trim_start().len();
        let trimmed = text.part(begin, begin + section.trim().len());
        start = end + 1;
        trimmed
    });
    sections.collect()
}

/// Which part a section is, and its expression.
fn part(section: SpecText<'_>) -> Result<(usize, Code), PolicyError> {
    let names = PARTS.map(|(name, _, _)| name);
    let Some((name, _)) = section.text().split_once(':') else {
        let message = format!("here should be one of {}, each with a colon", names.join(", "));
        return Err(section.error_at(0, message));
    };
    let Some(index) = names.iter().position(|known| *known == name.trim_end()) else {
        let hint = suggestion(name.trim_end(), &names);
        let names = names.join(", ");
        let message = format!("there is no part {:?}{hint}; there are {names}", name.trim_end());
        return Err(section.error_at(0, message));
    };
    let (_, kind, subject) = PARTS[index];
    let text = section.after(name.len() + 1);
    let mut nodes = parse(text, kind, subject)?.into_iter();
    match (nodes.next(), nodes.next()) {
        (Some(node), None) => Ok((index, Code { node, start: text.start() })),
        _ => Err(text.error_at(0, format!("{} has one value", names[index]))),
    }
}

/// `predictor: NAME`.
fn chosen_predictor(
    section: SpecText<'_>,
    context: &PolicyContext,
) -> Result<Box<dyn LengthPredictor>, PolicyError> {
    let colon = section.text().find(':').map_or(0, |colon| colon + 1);
    let text = section.after(colon);
    let num_blanks = text.text().len() - text.text().trim_start().len();
    let text = text.after(num_blanks);
    let none = || text.error_at(0, "an expression is evaluated with some predictor, not none");
    predictor(text, context)?.ok_or_else(none)
}

/// `displace:` says true or false once and for all.
fn displacement(text: SpecText<'_>, code: Option<&Code>) -> Result<Displacement, PolicyError> {
    let Some(code) = code else { return Ok(Displacement::Never) };
    match code.node {
        Node::Constant(0.0) => Ok(Displacement::Never),
        Node::Constant(_) => Ok(Displacement::ByRank),
        _ => {
            let at = code.start - text.start();
            Err(text.error_at(at, "displace must be true or false"))
        }
    }
}

fn refresh(staleness: Staleness) -> Refresh {
    match staleness {
        Staleness::Arrival => Refresh::OnArrival,
        Staleness::Tenant => Refresh::OnTenantEvent,
        Staleness::Step => Refresh::EveryStep,
    }
}

impl Code {
    fn has(&self, is_wanted: impl Fn(&Feature) -> bool) -> bool {
        let mut has = false;
        self.node.features(&mut |feature| has |= is_wanted(&feature));
        has
    }

    fn staleness(&self) -> Staleness {
        let mut staleness = Staleness::Arrival;
        self.node.features(&mut |feature| staleness = staleness.max(feature.staleness));
        staleness
    }

    /// The value over `scope`, where there is one; else that is noted.
    fn value(&self, scope: &Scope<'_>, notes: &mut Notes, outcome: &str) -> Option<f64> {
        let value = self.node.value(scope);
        if value.is_nan() {
            notes.note(self, scope, outcome);
            return None;
        }
        Some(value)
    }
}

impl Notes {
    /// Counts a value that does not exist, and says so the first time.
    #[cold]
    fn note(&mut self, code: &Code, scope: &Scope<'_>, outcome: &str) {
        self.complaints.count(ComplaintKind::Undefined);
        if std::mem::replace(&mut self.has_spoken, true) {
            return;
        }
        let (at, what) = code.node.undefined(scope).unwrap_or_default();
        let of = scope
            .request
            .map_or_else(String::new, |request| format!(" for sequence {}", request.id()));
        let message = format!("{what} has no value{of}: {outcome}; from now on this is counted");
        let error = SpecText::of(&self.spec).error_at(code.start + at, message);
        self.complaints.say(&error.to_string());
    }
}

impl Policy for ExprPolicy {
    fn name(&self) -> &'static str {
        "expr"
    }

    fn rank(&mut self, request: &PolicyRequest<'_>, view: &View<'_>) -> Rank {
        let Self { rank, second, service, predictor, notes, .. } = self;
        let predictor = &**predictor;
        let scope = Scope { request: Some(*request), view, service, predictor };
        let mut key = |code: &Code| code.value(&scope, notes, "it goes last");
        let Some(first) = key(rank) else { return Rank(f64::INFINITY, f64::INFINITY) };
        let second = second.as_ref().map_or(0.0, |code| key(code).unwrap_or(f64::INFINITY));
        Rank(first, second)
    }

    fn refresh(&self) -> Refresh {
        self.refresh
    }

    fn displacement(&self) -> Displacement {
        self.displacement
    }

    fn limits(&mut self, view: &View<'_>) -> Limits {
        let mut limits = view.defaults();
        let Self { limits: codes, service, predictor, notes, .. } = self;
        let predictor = &**predictor;
        let scope = Scope { request: None, view, service, predictor };
        let targets = [&mut limits.token_budget, &mut limits.chunk, &mut limits.max_running];
        for (code, target) in codes.iter().zip(targets) {
            let Some(code) = code else { continue };
            if let Some(value) = code.value(&scope, notes, "the configured limit holds") {
                *target = value.clamp(1.0, f64::from(u32::MAX)) as u32;
            }
        }
        limits
    }

    fn admit(&mut self, request: &PolicyRequest<'_>, view: &View<'_>) -> Admit {
        let Self { admit, service, predictor, notes, .. } = self;
        let predictor = &**predictor;
        let scope = Scope { request: Some(*request), view, service, predictor };
        let value = admit.as_ref().map(|code| code.value(&scope, notes, "it is admitted"));
        match value {
            Some(Some(0.0)) => Admit::Skip,
            _ => Admit::Now { reserve_tokens: 0 },
        }
    }

    fn victim(&mut self, candidates: &[SequenceId], view: &View<'_>) -> Option<Victim> {
        let mode = view.preemption();
        let Self { victim, service, predictor, notes, .. } = self;
        let predictor = &**predictor;
        let Some(code) = victim else {
            return candidates.last().map(|&id| Victim { id, mode });
        };
        let scored = candidates.iter().filter_map(|&id| {
            let request = view.request(id)?;
            let scope = Scope { request: Some(request), view, service, predictor };
            let value = code.value(&scope, notes, "others give way first");
            Some((value.unwrap_or(f64::NEG_INFINITY), id))
        });
        // Of equals the last, as without an expression.
        let worst = scored.max_by(|a, b| a.0.total_cmp(&b.0));
        worst.map(|(_, id)| Victim { id, mode })
    }

    fn observe(&mut self, event: &SchedEvent, view: &View<'_>) {
        if let SchedEvent::Finished { tenant, prompt_len, num_generated, .. } = *event {
            let output_len = num_generated;
            self.predictor.observe_finished(FinishedLength { tenant, prompt_len, output_len });
        }
        if !self.is_service_used {
            return;
        }
        match *event {
            SchedEvent::Arrived(id) => {
                if let Some(request) = view.request(id) {
                    self.service.arrive(request.tenant());
                }
            }
            SchedEvent::Granted { tenant, num_tokens, .. } => {
                self.service.grant(tenant, num_tokens);
            }
            SchedEvent::Finished { tenant, .. } => self.service.finish(tenant),
            _ => {}
        }
    }
}
