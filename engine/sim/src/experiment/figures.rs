//! The figures of a report: what each shows of the runs.

use super::analysis::{Analysis, Setting};
use super::digest::{Digest, Moment, TenantDigest};
use crate::plot::{Axis, Figure, Layer, Mark, Shape, Stroke, knee, stacked};

/// Policies that a figure of distributions or courses tells apart at the most.
const MAX_POLICIES: usize = 7;
/// With so many policies or fewer, figures over the rate show the range between p50 and p99.
const MAX_BANDS: usize = 2;

/// A setting and the first run of each policy in it, for what is looked at run by run.
pub(super) struct Close<'a> {
    setting: &'a Setting,
    /// Position among the policies (its colour), name, digest.
    runs: Vec<(usize, &'a str, &'a Digest)>,
}

impl<'a> Close<'a> {
    /// The highest load that the baseline still carries, or the lowest there is.
    pub(super) fn of(analysis: &'a Analysis) -> Option<Self> {
        let carries = |setting: &&Setting| {
            let done = analysis.mean(setting, &analysis.baseline, "request_throughput");
            matches!((done, setting.rate), (Some(done), Some(rate)) if done >= 0.9 * rate)
        };
        let rate = |setting: &&Setting| setting.rate.unwrap_or(0.0);
        let by_rate = |left: &&Setting, right: &&Setting| rate(left).total_cmp(&rate(right));
        let carried = analysis.settings.iter().filter(carries).max_by(by_rate);
        let setting = carried.or_else(|| analysis.settings.iter().min_by(by_rate))?;
        let runs = analysis.policies.iter().take(MAX_POLICIES).enumerate();
        let runs = runs.filter_map(|(colour, policy)| {
            let digest = analysis.of(setting, policy).next()?.digest.as_ref()?;
            Some((colour, policy.as_str(), digest))
        });
        Some(Self { setting, runs: runs.collect() })
    }

    pub(super) fn setting(&self) -> &Setting {
        self.setting
    }

    fn lines(
        &self,
        figure: Figure,
        points: impl Fn(&'a Digest) -> Vec<(f64, f64)>,
    ) -> Option<Figure> {
        let mut figure = figure;
        for (colour, policy, digest) in &self.runs {
            let points = points(digest);
            if points.len() > 1 {
                let shape = Shape::Line(points, Stroke::Solid);
                figure = figure.with(Layer::new(*policy, *colour, shape));
            }
        }
        (!figure.layers.is_empty()).then_some(figure)
    }

    /// Distributions and tails of the latencies.
    pub(super) fn distributions(&self) -> Vec<Figure> {
        let mut figures = Vec::new();
        for (key, name) in [
            ("ttft_ms", "TTFT"),
            ("tpot_ms", "TPOT"),
            ("itl_ms", "ITL"),
            ("e2el_ms", "E2E latency"),
            ("stall_ms", "Longest stall of a request"),
        ] {
            let x = || Axis::log(&format!("{name} (ms)"));
            let share =
                Axis::linear(if key == "itl_ms" { "Share of gaps" } else { "Share of requests" });
            let figure = Figure::new(
                &format!("distribution-{}", key.trim_end_matches("_ms")),
                format!("{name}: distribution"),
                x(),
                share.over(0.0, 1.0),
            );
            figures.extend(
                self.lines(figure, |digest| digest.curves.get(key).cloned().unwrap_or_default()),
            );
            let figure = Figure::new(
                &format!("tail-{}", key.trim_end_matches("_ms")),
                format!("{name}: tail"),
                x(),
                Axis::log("Share of requests above"),
            );
            figures.extend(
                self.lines(figure, |digest| digest.tails.get(key).cloned().unwrap_or_default()),
            );
        }
        figures
    }

    /// Attainment when the objective is made stricter or looser.
    pub(super) fn by_scale(&self) -> Option<Figure> {
        let figure = Figure::new(
            "attainment-by-scale",
            "SLO attainment against the scale of the SLO",
            Axis::log("Scale of the SLO (1: as given, below: stricter)"),
            Axis::linear("Share of requests within the SLO").over(0.0, 1.0),
        );
        self.lines(figure, |digest| digest.by_scale.clone())
    }

    /// Who pays: slowdown by the size of requests.
    pub(super) fn by_size(&self) -> Option<Figure> {
        let axes =
            || (Axis::log("Tokens of a request, prompt and answer"), Axis::log("Slowdown p99"));
        let title = "Slowdown against the size of requests (tenths)";
        let figure = Figure::new("slowdown-by-size", title, axes().0, axes().1);
        self.lines(figure, |digest| {
            digest.by_size.iter().map(|&(size, _, p99)| (size, p99)).collect()
        })
    }

    /// Queues, memory, preemptions over time.
    pub(super) fn courses(&self) -> Vec<Figure> {
        type Value = fn(&Moment) -> f64;
        let courses: [(&str, &str, &str, Value); 4] = [
            ("waiting", "Waiting requests over time", "Requests", |moment| moment.waiting),
            ("running", "Running requests over time", "Requests", |moment| moment.running),
            ("kv-use", "KV cache over time", "Blocks in use (%)", |moment| 100.0 * moment.kv_use),
            ("preemptions", "Preemptions over time", "Preemptions so far", |m| m.preemptions),
        ];
        let drawn = courses.into_iter().filter_map(|(name, title, label, value)| {
            let figure = Figure::new(name, title, Axis::linear("Time (s)"), Axis::linear(label));
            let figure = self.lines(figure, |digest| {
                digest.moments.iter().map(|moment| (moment.at, value(moment))).collect()
            })?;
            let is_something = figure.layers.iter().any(|layer| {
                matches!(&layer.shape, Shape::Line(points, _) if points.iter().any(|p| p.1 > 0.0))
            });
            is_something.then_some(figure)
        });
        drawn.collect()
    }

    /// What steps are made of, and how long they take, policy by policy.
    pub(super) fn steps(&self) -> Vec<Figure> {
        let mut figures = Vec::new();
        for (colour, policy, digest) in self.runs.iter().take(MAX_BANDS) {
            let course = |value: fn(&Moment) -> f64| -> Vec<(f64, f64)> {
                digest.moments.iter().map(|moment| (moment.at, value(moment))).collect()
            };
            let (decode, prefill) = (course(|m| m.decode), course(|m| m.prefill));
            if prefill.iter().any(|point| point.1 > 0.0) {
                let mut figure = Figure::new(
                    &format!("steps-{colour}"),
                    format!("What steps are made of, {policy}"),
                    Axis::linear("Time (s)"),
                    Axis::linear("Tokens a step"),
                );
                let parts = [("decode".to_owned(), decode), ("prefill".to_owned(), prefill)];
                figure.layers = stacked(&parts);
                figures.push(figure);
            }
        }
        let figure = Figure::new(
            "step-time",
            "Time of a step over time",
            Axis::linear("Time (s)"),
            Axis::linear("Time of a step, mean (ms)"),
        );
        let times = self.lines(figure, |digest| {
            let moments = digest.moments.iter().filter(|moment| moment.step_ms > 0.0);
            moments.map(|moment| (moment.at, moment.step_ms)).collect()
        });
        figures.extend(times);
        figures
    }

    /// Service of the tenants over time, and how far apart it is.
    pub(super) fn tenants(&self) -> Vec<Figure> {
        /// Tenants with a line of their own.
        const MAX_LINES: usize = 6;
        let mut figures = Vec::new();
        for (colour, policy, digest) in self.runs.iter().take(MAX_BANDS) {
            let mut figure = Figure::new(
                &format!("tenants-{colour}"),
                format!("Service of the largest tenants, {policy}"),
                Axis::linear("Time (s)"),
                Axis::linear("Service a second (prompt tokens + 2 × answer tokens)"),
            );
            for (index, tenant) in digest.tenants.iter().take(MAX_LINES).enumerate() {
                let shape = Shape::Line(pace(&tenant.service), Stroke::Solid);
                figure = figure.with(Layer::new(format!("tenant {}", tenant.tenant), index, shape));
            }
            if !figure.layers.is_empty() {
                figures.push(figure);
            }
        }
        let figure = Figure::new(
            "tenants-ttft",
            "TTFT p99 by tenant, the largest first",
            Axis::linear("Tenant, by number of requests"),
            Axis::log("TTFT p99 (ms)"),
        );
        figures.extend(self.lines(figure, |digest| by_rank(&digest.tenants)));
        figures
    }

    /// Some lives of requests under the baseline.
    pub(super) fn lives(&self) -> Option<Figure> {
        let (_, policy, digest) = self.runs.first()?;
        let lives = &digest.lives;
        let names = (1..=lives.len()).map(|number| number.to_string());
        let spans = |from: usize, to: usize| {
            let span = |(row, life): (usize, &[f64; 4])| (row as f64, life[from], life[to]);
            Shape::Spans(lives.iter().enumerate().map(span).collect())
        };
        let figure = Figure::new(
            "lives",
            format!("Requests around the longest wait, {policy}"),
            Axis::linear("Time (s)"),
            Axis::names("Request", names),
        );
        (!lives.is_empty()).then(|| {
            figure
                .with(Layer::new("waits", 6, spans(0, 1)))
                .with(Layer::new("prompt", 1, spans(1, 2)))
                .with(Layer::new("answer", 0, spans(2, 3)))
        })
    }
}

/// Service a second from service so far.
fn pace(service: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let pace = |pair: &[(f64, f64)]| {
        let (from, to) = (pair[0], pair[1]);
        (to.0, (to.1 - from.1) / (to.0 - from.0).max(1e-9))
    };
    service.windows(2).map(pace).collect()
}

fn by_rank(tenants: &[TenantDigest]) -> Vec<(f64, f64)> {
    let ranked = tenants.iter().enumerate();
    ranked.map(|(rank, tenant)| ((rank + 1) as f64, tenant.p99_ttft_ms)).collect()
}

/// Figures over the request rate, for one variant.
pub(super) fn over_rates(analysis: &Analysis, variant: &str) -> Vec<Figure> {
    let mut settings: Vec<&Setting> = analysis
        .settings
        .iter()
        .filter(|setting| setting.variant == variant && setting.rate.is_some())
        .collect();
    settings.sort_by(|a, b| a.rate.unwrap_or(0.0).total_cmp(&b.rate.unwrap_or(0.0)));
    if settings.len() < 2 {
        return Vec::new();
    }
    let latencies = [
        ("ttft", "TTFT"),
        ("tpot", "TPOT"),
        ("e2el", "E2E latency"),
        ("stall", "Longest stall of a request"),
    ];
    let mut figures: Vec<Figure> = latencies
        .into_iter()
        .map(|(key, name)| latency_over_rate(analysis, &settings, key, name))
        .collect();
    let shares = [
        ("request_goodput", "goodput", "Goodput", "Requests within the SLO a second"),
        ("slo_attainment", "attainment", "SLO attainment", "Share of requests within the SLO"),
        ("output_throughput", "throughput", "Output throughput", "Tokens a second"),
    ];
    for (key, name, title, label) in shares {
        let y = match key {
            "slo_attainment" => Axis::linear(label).over(0.0, 1.0),
            _ => Axis::linear(label),
        };
        let mut figure = Figure::new(name, format!("{title} against request rate"), rate_axis(), y);
        for (colour, policy) in analysis.policies.iter().enumerate() {
            let points = curve(analysis, &settings, policy, key);
            if !points.is_empty() {
                let shape = Shape::Line(points, Stroke::Solid);
                figure = figure.with(Layer::new(policy.clone(), colour, shape));
            }
        }
        if !figure.layers.is_empty() {
            figures.push(figure);
        }
    }
    figures.push(pareto(analysis, &settings));
    figures.retain(|figure| !figure.layers.is_empty());
    figures
}

fn rate_axis() -> Axis {
    Axis::linear("Request rate (requests/s)")
}

fn curve(analysis: &Analysis, settings: &[&Setting], policy: &str, key: &str) -> Vec<(f64, f64)> {
    let point = |setting: &&Setting| Some((setting.rate?, analysis.mean(setting, policy, key)?));
    settings.iter().filter_map(point).collect()
}

fn latency_over_rate(analysis: &Analysis, settings: &[&Setting], key: &str, name: &str) -> Figure {
    let mut figure = Figure::new(
        &format!("{key}-by-rate"),
        format!("{name} against rate: p99 (solid), p50 (dashed)"),
        rate_axis(),
        Axis::log(&format!("{name} (ms)")),
    );
    for (colour, policy) in analysis.policies.iter().enumerate() {
        let p50 = curve(analysis, settings, policy, &format!("p50_{key}_ms"));
        let p99 = curve(analysis, settings, policy, &format!("p99_{key}_ms"));
        if analysis.policies.len() <= MAX_BANDS && p50.len() == p99.len() {
            let band = p50.iter().zip(&p99).map(|(low, high)| (low.0, low.1, high.1)).collect();
            figure = figure.with(Layer::new("", colour, Shape::Band(band)));
        }
        if colour == 0
            && let Some(rate) = knee(&p99)
        {
            figure.marks.push(Mark::Vertical(rate, format!("knee of {policy}")));
        }
        if !p99.is_empty() {
            figure = figure
                .with(Layer::new("", colour, Shape::Line(p50, Stroke::Dashed)))
                .with(Layer::new(policy.clone(), colour, Shape::Line(p99, Stroke::Solid)));
        }
    }
    figure
}

fn pareto(analysis: &Analysis, settings: &[&Setting]) -> Figure {
    let mut figure = Figure::new(
        "pareto",
        "Throughput against latency, rate by rate",
        Axis::linear("Output throughput (tokens/s)"),
        Axis::log("E2E latency p99 (ms)"),
    );
    for (colour, policy) in analysis.policies.iter().enumerate() {
        let throughput = curve(analysis, settings, policy, "output_throughput");
        let latency = curve(analysis, settings, policy, "p99_e2el_ms");
        if throughput.len() == latency.len() && !latency.is_empty() {
            let points = throughput.iter().zip(&latency).map(|(x, y)| (x.1, y.1)).collect();
            figure =
                figure.with(Layer::new(policy.clone(), colour, Shape::Line(points, Stroke::Solid)));
        }
    }
    figure
}

/// One number a policy as bars, for the measures where a course says little.
pub(super) fn bars(analysis: &Analysis, setting: &Setting) -> Vec<Figure> {
    let measures = [
        ("prefix_hit_rate", "hits", "Prompt tokens found in the prefix cache", "Share (%)"),
        ("recompute_tax", "recompute-tax", "Tokens computed again after preemption", "Share (%)"),
    ];
    let drawn = measures.into_iter().filter_map(|(key, name, title, label)| {
        let values = analysis.policies.iter().enumerate().filter_map(|(index, policy)| {
            let value = analysis.mean(setting, policy, key)?;
            Some((index as f64 - 0.3, index as f64 + 0.3, 100.0 * value))
        });
        let values: Vec<_> = values.collect();
        let names = Axis::names("", analysis.policies.clone());
        let figure = Figure::new(name, title, names, Axis::linear(label));
        values
            .iter()
            .any(|bar| bar.2 > 0.0)
            .then(|| figure.with(Layer::new("", 0, Shape::Bars(values))))
    });
    drawn.collect()
}
