//! An outcome as the table that vLLM's `bench serve` prints, 50 columns wide, with what the
//! scheduler did below.

use std::fmt::Write as _;

use crate::metrics::{Metric, Spread, latency_fairness, service_fairness};
use crate::outcome::{End, Outcome};
use crate::result::Description;

const WIDTH: usize = 50;

/// The table, with a newline at its end.
#[must_use]
pub fn table(outcome: &Outcome, description: &Description) -> String {
    let mut table = Table::default();
    table.heading("Serving Benchmark Result", '=');
    throughput(outcome, description, &mut table);
    let selection = &description.selection;
    for &metric in &selection.metrics {
        table.heading(metric.title(), '-');
        table.spread(metric, &outcome.spread(metric, &selection.percents));
    }
    scheduler(outcome, description, &mut table);
    table.line('=');
    table.text
}

fn throughput(outcome: &Outcome, description: &Description, table: &mut Table) {
    let num_completed = outcome.answered().count();
    let num_input: u64 = outcome.answered().map(|request| u64::from(request.input)).sum();
    let num_output: u64 = outcome.answered().map(|request| u64::from(request.output)).sum();
    table.count("Successful requests:", num_completed as u64);
    table.count("Failed requests:", (outcome.requests.len() - num_completed) as u64);
    if let Some(rate) = description.load.rate.filter(|rate| rate.is_finite()) {
        table.number("Request rate configured (RPS):", rate);
    }
    table.number("Benchmark duration (s):", outcome.duration_s());
    table.count("Total input tokens:", num_input);
    table.count("Total generated tokens:", num_output);
    let per_second = |num: u64| outcome.per_second(num as f64);
    table.number("Request throughput (req/s):", per_second(num_completed as u64));
    if let Some(num_good) = outcome.num_good() {
        table.number("Request goodput (req/s):", per_second(num_good));
    }
    table.number("Output token throughput (tok/s):", per_second(num_output));
    table.number("Peak output token throughput (tok/s):", outcome.max_tokens_per_s as f64);
    table.count("Peak concurrent requests:", outcome.max_concurrent());
    table.number("Total token throughput (tok/s):", per_second(num_input + num_output));
}

/// What only a simulation knows, or a server that tells all.
fn scheduler(outcome: &Outcome, description: &Description, table: &mut Table) {
    let percents = &description.selection.percents;
    table.heading("Scheduler (simulated)", '-');
    table.text("Policy:", &description.policy);
    table.text("Cost model:", &description.cost);
    if let Some(router) = &description.router {
        table.text("Router:", router);
        table.count("Engines:", u64::from(outcome.work.num_instances));
    }
    table.spread(Metric::Queue, &outcome.spread(Metric::Queue, percents));
    table.count("Steps:", outcome.work.totals.num_steps);
    table.number("Device busy (%):", outcome.utilization() * 100.0);
    let max_kv_use = outcome.series.iter().map(|sample| sample.kv_use).fold(0.0, f64::max);
    table.number("Peak KV cache use (%):", max_kv_use * 100.0);
    table.number("Prefix cache hit rate (%):", outcome.prefix_hit_rate() * 100.0);
    table.count("Preemptions:", outcome.work.totals.num_preemptions);
    table.number("Recomputed tokens (%):", outcome.recompute_tax() * 100.0);
    table.number("Longest time between tokens (ms):", outcome.gaps.max_ms());
    if let Some(attainment) = outcome.attainment() {
        table.number("SLO attainment (%):", attainment * 100.0);
    }
    let tenants = outcome.tenants(percents);
    if tenants.len() > 1 {
        table.count("Tenants:", tenants.len() as u64);
        table.number("Fairness of service (Jain):", service_fairness(&tenants).unwrap_or(0.0));
        table.number("Fairness of latency (Jain):", latency_fairness(&tenants).unwrap_or(0.0));
    }
    table.number("Index of dispersion of arrivals:", outcome.arrivals_per_s.index_of_dispersion);
    for end in [End::Cut, End::TimedOut, End::TooLong, End::QueueFull, End::Rejected] {
        let num = outcome.requests.iter().filter(|request| request.end == end).count();
        if num > 0 {
            table.count(&format!("Requests that ended {}:", end.name()), num as u64);
        }
    }
}

/// Lines of 50 columns.
#[derive(Default)]
struct Table {
    text: String,
}

impl Table {
    fn heading(&mut self, title: &str, fill: char) {
        let title = format!(" {title} ");
        let title = if fill == '=' { &title } else { title.trim() };
        let num_fill = WIDTH.saturating_sub(title.chars().count());
        let left = num_fill / 2;
        self.fill(fill, left);
        self.text.push_str(title);
        self.fill(fill, num_fill - left);
        self.text.push('\n');
    }

    fn fill(&mut self, fill: char, num: usize) {
        self.text.extend(std::iter::repeat_n(fill, num));
    }

    fn line(&mut self, fill: char) {
        self.fill(fill, WIDTH);
        self.text.push('\n');
    }

    fn text(&mut self, name: &str, value: &str) {
        // A `String` takes whatever is written.
        let _ = writeln!(self.text, "{name:<40} {value:<10}");
    }

    fn count(&mut self, name: &str, value: u64) {
        self.text(name, &value.to_string());
    }

    fn number(&mut self, name: &str, value: f64) {
        self.text(name, &format!("{value:.2}"));
    }

    fn spread(&mut self, metric: Metric, spread: &Spread) {
        let label = metric.label();
        self.number(&format!("Mean {label} (ms):"), spread.mean);
        self.number(&format!("Median {label} (ms):"), spread.median);
        for &(percent, value) in &spread.percentiles {
            self.number(&format!("P{percent} {label} (ms):"), value);
        }
    }
}
