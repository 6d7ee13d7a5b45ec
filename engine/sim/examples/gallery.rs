//! Draws one figure of each kind from made-up numbers, to look at when the style changes:
//! `cargo run -p folio-sim --example gallery DIRECTORY`.

use std::error::Error;
use std::path::PathBuf;

use folio_sim::plot::{
    Axis, Figure, Layer, Mark, Scale, Shape, Stroke, cumulative, histogram, knee, stacked, tail,
};

const POLICIES: [&str; 4] = [
    "fcfs",
    "sjf ageing=200",
    "vtc prefill=1 decode=2",
    "expr: uncached - 200*waited_s; victim: last",
];

fn main() -> Result<(), Box<dyn Error>> {
    let directory = std::env::args_os().nth(1).ok_or("give a directory")?;
    let directory = PathBuf::from(directory);
    std::fs::create_dir_all(&directory)?;
    let figures = [
        rates(),
        pareto(),
        cdf(),
        tails(),
        over_time(),
        batches(),
        steps(),
        gantt(),
        hits(),
        nothing(),
    ];
    for figure in figures {
        figure.draw()?.save(&directory)?;
    }
    Ok(())
}

fn latency(rate: f64, factor: f64) -> f64 {
    40.0 * factor / (1.0 - rate / 11.0).max(0.01)
}

/// Numbers that look random and are not.
fn wobble(index: usize) -> f64 {
    ((index as f64 * 12.9898).sin() * 43_758.547).fract().abs()
}

fn samples(factor: f64) -> Vec<f64> {
    (0..5000).map(|index| 20.0 * factor * (-wobble(index).max(1e-6).ln()).powf(1.6)).collect()
}

fn rates() -> Figure {
    let axes = (Axis::linear("Request rate (requests/s)"), Axis::log("TTFT (ms)"));
    let mut figure = Figure::new("rates", "TTFT against request rate, p50 and p99", axes.0, axes.1)
        .marked(Mark::Horizontal(2000.0, "SLO 2 s".to_owned()));
    for (colour, policy) in POLICIES.iter().enumerate() {
        let at = |factor: f64| -> Vec<(f64, f64)> {
            (1..=10).map(|rate| (f64::from(rate), latency(f64::from(rate), factor))).collect()
        };
        let slower = 1.0 + 0.4 * colour as f64;
        if colour == 0 {
            let band =
                at(1.0).iter().zip(at(8.0)).map(|(low, high)| (low.0, low.1, high.1)).collect();
            figure = figure.with(Layer::new("", colour, Shape::Band(band)));
            figure
                .marks
                .push(Mark::Vertical(knee(&at(8.0)).unwrap_or(0.0), "knee of fcfs".to_owned()));
        }
        figure = figure
            .with(Layer::new("", colour, Shape::Line(at(slower), Stroke::Dashed)))
            .with(Layer::new(*policy, colour, Shape::Line(at(8.0 * slower), Stroke::Solid)));
    }
    figure
}

fn pareto() -> Figure {
    let axes = (Axis::linear("Output throughput (tokens/s)"), Axis::log("E2E latency p99 (ms)"));
    let mut figure = Figure::new("pareto", "Throughput against latency", axes.0, axes.1);
    for (colour, policy) in POLICIES.iter().enumerate() {
        let points = (1..=10).map(|rate| {
            let rate = f64::from(rate);
            (rate.min(9.0) * 200.0, latency(rate, 30.0 + 5.0 * colour as f64))
        });
        figure =
            figure.with(Layer::new(*policy, colour, Shape::Line(points.collect(), Stroke::Solid)));
    }
    figure
}

fn cdf() -> Figure {
    let axes = (Axis::log("TTFT (ms)"), Axis::linear("Share of requests").over(0.0, 1.0));
    let mut figure = Figure::new("cdf", "Distribution of TTFT", axes.0, axes.1);
    for (colour, policy) in POLICIES.iter().enumerate() {
        let points = cumulative(&samples(1.0 + colour as f64));
        let points = points.into_iter().filter(|(x, _)| *x > 0.5).collect();
        figure = figure.with(Layer::new(*policy, colour, Shape::Line(points, Stroke::Solid)));
    }
    figure
}

fn tails() -> Figure {
    let axes = (Axis::log("TTFT (ms)"), Axis::log("Share of requests above"));
    let mut figure = Figure::new("tail", "Tail of TTFT", axes.0, axes.1);
    for (colour, policy) in POLICIES.iter().enumerate() {
        let points = tail(&samples(1.0 + colour as f64));
        figure = figure.with(Layer::new(*policy, colour, Shape::Line(points, Stroke::Solid)));
    }
    figure
}

fn over_time() -> Figure {
    let axes = (Axis::linear("Time (s)"), Axis::linear("Sequences"));
    let series = |scale: f64, from: usize| -> Vec<(f64, f64)> {
        (0..20_000)
            .map(|index| (index as f64 / 10.0, scale * (1.0 + wobble(index + from))))
            .collect()
    };
    Figure::new("queues", "Running and waiting over time, fcfs", axes.0, axes.1)
        .with(Layer::new("running", 0, Shape::Steps(series(60.0, 0))))
        .with(Layer::new("waiting", 1, Shape::Steps(series(10.0, 77))))
}

fn batches() -> Figure {
    let axes = (Axis::linear("Time (s)"), Axis::linear("Tokens a step"));
    let series = |scale: f64, from: usize| -> Vec<(f64, f64)> {
        (0..300)
            .map(|index| (f64::from(index), scale * (1.0 + wobble(index as usize + from))))
            .collect()
    };
    let layers = [("decode".to_owned(), series(60.0, 0)), ("prefill".to_owned(), series(400.0, 9))];
    let mut figure = Figure::new("batches", "What steps are made of, fcfs", axes.0, axes.1);
    figure.layers = stacked(&layers);
    figure
}

fn steps() -> Figure {
    let axes = (Axis::log("Time of a step (ms)"), Axis::linear("Steps"));
    let bars =
        histogram(&samples(1.0).iter().map(|x| x + 8.0).collect::<Vec<_>>(), &Scale::Log, 40);
    Figure::new("steps", "How long steps take, fcfs", axes.0, axes.1).with(Layer::new(
        "",
        0,
        Shape::Bars(bars),
    ))
}

fn gantt() -> Figure {
    let names = (0..16).map(|index| format!("request {}", 100 + index));
    let axes = (Axis::linear("Time (s)"), Axis::names("", names));
    let spans = |from: f64, length: f64| -> Vec<(f64, f64, f64)> {
        (0..16)
            .map(|row| {
                let start = f64::from(row) * 0.4 + from;
                (f64::from(row), start, start + length * (1.0 + wobble(row as usize)))
            })
            .collect()
    };
    Figure::new("gantt", "Life of sixteen requests", axes.0, axes.1)
        .with(Layer::new("queued", 6, Shape::Spans(spans(0.0, 0.5))))
        .with(Layer::new("prefill", 1, Shape::Spans(spans(0.6, 0.2))))
        .with(Layer::new("decode", 0, Shape::Spans(spans(1.1, 3.0))))
        .with(Layer::new("preempted", 3, Shape::Spans(spans(2.4, 0.2))))
}

fn hits() -> Figure {
    let axes = (
        Axis::names("", POLICIES.map(str::to_owned)),
        Axis::linear("Prompt tokens found in the cache (%)"),
    );
    let bars =
        (0..4).map(|row| (f64::from(row) - 0.3, f64::from(row) + 0.3, 30.0 + 9.0 * f64::from(row)));
    Figure::new("hits", "Prefix cache by policy", axes.0, axes.1).with(Layer::new(
        "",
        2,
        Shape::Bars(bars.collect()),
    ))
}

fn nothing() -> Figure {
    Figure::new(
        "nothing",
        "Preemptions over time",
        Axis::linear("Time (s)"),
        Axis::log("Preemptions"),
    )
}
