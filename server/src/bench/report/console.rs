//! The block on the terminal: line for line vLLM's, which scripts read, and a second one for what
//! that lacks.

use std::fmt::Write as _;

use super::super::metrics::{Distribution, Summary};
use super::super::sample::Class;
use super::super::slo::Objective;
use super::Report;

/// Columns of a block.
const WIDTH: usize = 50;

/// Both blocks, with `max_concurrency` and `request_rate` (requests a second, if finite) as they
/// were asked for.
pub fn block(report: &Report, max_concurrency: Option<usize>, request_rate: Option<f64>) -> String {
    let mut out = String::new();
    let Some(first) = report.summaries.first() else { return "No request was sent.\n".to_owned() };
    heading(&mut out, " Serving Benchmark Result ", '=');
    number(&mut out, "Successful requests:", first.counts.completed as u64);
    number(&mut out, "Failed requests:", first.counts.failed as u64);
    if let Some(max) = max_concurrency {
        number(&mut out, "Maximum request concurrency:", max as u64);
    }
    if let Some(rate) = request_rate {
        value(&mut out, "Request rate configured (RPS):", rate);
    }
    totals(&mut out, first, &report.objective.0);
    for metric in &report.shown {
        if let Some(found) = first.distribution(*metric) {
            distribution(&mut out, found);
        }
    }
    heading(&mut out, "", '=');
    own(&mut out, report, first);
    for other in &report.summaries[1..] {
        heading(&mut out, &format!(" {} ", other.class.as_str()), '=');
        number(&mut out, "Successful requests:", other.counts.completed as u64);
        number(&mut out, "Failed requests:", other.counts.failed as u64);
        totals(&mut out, other, &report.objective.0);
        let shown = |found: &&Distribution| report.shown.contains(&found.metric) && found.num > 0;
        other.distributions.iter().filter(shown).for_each(|found| distribution(&mut out, found));
        heading(&mut out, "", '=');
    }
    out
}

fn totals(out: &mut String, summary: &Summary, objective: &Objective) {
    let counts = &summary.counts;
    value(out, "Benchmark duration (s):", summary.duration);
    number(out, "Total input tokens:", counts.input_tokens);
    if summary.class == Class::Generation {
        number(out, "Total generated tokens:", counts.output_tokens);
    }
    value(out, "Request throughput (req/s):", summary.rate(counts.completed as u64));
    if summary.class == Class::Embeddings {
        value(out, "Input throughput (inputs/s):", summary.rate(counts.texts));
    }
    if !objective.is_empty() {
        value(out, "Request goodput (req/s):", summary.rate(counts.good as u64));
    }
    if summary.class == Class::Generation {
        value(out, "Output token throughput (tok/s):", summary.rate(counts.output_tokens));
        value(out, "Peak output token throughput (tok/s):", summary.max_output_tokens_per_s);
        value(out, "Peak concurrent requests:", summary.max_concurrent_requests as f64);
    }
    let tokens = counts.input_tokens + counts.output_tokens;
    value(out, "Total token throughput (tok/s):", summary.rate(tokens));
}

/// What vLLM's block lacks.
fn own(out: &mut String, report: &Report, first: &Summary) {
    let timing = &report.timing;
    heading(out, " Load ", '=');
    line(out, "Kind of load:", timing.kind.as_str());
    if let Some(why) = &timing.why {
        let _ = writeln!(out, "  {why}");
    }
    if let Some(why) = &report.stopped {
        let _ = writeln!(out, "Stopped: {why}");
    }
    value(out, "P99 lag of the client (ms):", timing.lag_ms[1]);
    if let (Some(offered), Some(achieved)) = (timing.offered_rate, timing.achieved_rate) {
        value(out, "Offered rate (req/s):", offered);
        value(out, "Achieved rate (req/s):", achieved);
    }
    if !report.objective.0.is_empty() {
        let good = first.rate(first.counts.good_sched as u64);
        value(out, "Goodput from scheduled time (req/s):", good);
        let all = (first.counts.completed + first.counts.failed).max(1) as f64;
        value(
            out,
            "Good requests, from scheduled time (%):",
            100.0 * first.counts.good_sched as f64 / all,
        );
    }
    if first.counts.cached_tokens > 0 {
        number(out, "Input tokens that were cached:", first.counts.cached_tokens);
    }
    for found in &first.distributions {
        if !report.shown.contains(&found.metric) && found.num > 0 {
            distribution(out, found);
        }
    }
    notes(out, report, first);
    heading(out, "", '=');
}

fn notes(out: &mut String, report: &Report, first: &Summary) {
    let counts = &first.counts;
    if counts.uncounted > 0 && first.class == Class::Generation {
        let _ = writeln!(
            out,
            "Note: {} answers came without usage; their chunks were counted as tokens",
            counts.uncounted
        );
    } else if counts.chunks + counts.chunks / 20 < counts.output_tokens {
        let tokens = counts.output_tokens as f64 / counts.chunks.max(1) as f64;
        let _ = writeln!(
            out,
            "Note: the server sends {tokens:.1} tokens a chunk; ITL is the time between chunks"
        );
    }
    for summary in &report.summaries {
        for (kind, (num, text)) in &summary.errors {
            let text: String = text.chars().take(200).collect();
            let _ = writeln!(out, "Failed ({kind}): {num}, the first with: {text}");
        }
    }
    if let Some(verification) = &report.verification {
        let _ = writeln!(out, "{}", verification.line());
    }
}

fn distribution(out: &mut String, found: &Distribution) {
    let (_, name, title) = found.metric.names();
    heading(out, title, '-');
    value(out, &format!("Mean {name} (ms):"), found.mean);
    value(out, &format!("Median {name} (ms):"), found.median);
    for (percent, at) in &found.percentiles {
        value(out, &format!("P{percent} {name} (ms):"), *at);
    }
}

fn heading(out: &mut String, title: &str, fill: char) {
    let rest = WIDTH.saturating_sub(title.chars().count());
    let side = |width: usize| fill.to_string().repeat(width);
    let _ = writeln!(out, "{}{title}{}", side(rest / 2), side(rest - rest / 2));
}

fn number(out: &mut String, name: &str, number: u64) {
    line(out, name, &number.to_string());
}

fn value(out: &mut String, name: &str, value: f64) {
    line(out, name, &format!("{value:.2}"));
}

fn line(out: &mut String, name: &str, text: &str) {
    let _ = writeln!(out, "{name:<40} {text:<10}");
}
