//! What a reader of a figure would miss: numbers, names, units, limits.

use proptest::prelude::*;

use super::scale::{Ends, Place};
use super::*;

fn lines(names: &[&str]) -> Figure {
    let figure = Figure::new("f", "A title", Axis::linear("Rate (1/s)"), Axis::log("TTFT (ms)"));
    names.iter().enumerate().fold(figure, |figure, (colour, name)| {
        let points = vec![(1.0, 10.0), (2.0, 40.0 + colour as f64), (4.0, 900.0)];
        figure.with(Layer::new(*name, colour, Shape::Line(points, Stroke::Solid)))
    })
}

/// The `y` of every `<text>` with these letters.
fn heights(svg: &str, text: &str) -> Vec<i32> {
    let body = format!(">\n{text}\n</text>");
    let ends = svg.match_indices(&body).map(|(end, _)| &svg[..end]);
    let y = ends.map(|before| before.rsplit(" y=\"").next().unwrap().split('"').next().unwrap());
    y.map(|y| y.parse().unwrap()).collect()
}

#[test]
fn a_figure_names_its_axes_series_and_limits() {
    let figure = lines(&["fcfs", "sjf"]).marked(Mark::Horizontal(200.0, "SLO 200 ms".to_owned()));
    let plot = figure.draw().unwrap();
    for text in ["A title", "Rate (1/s)", "TTFT (ms)", "fcfs", "sjf", "SLO 200 ms", "1,000"] {
        assert_eq!(heights(&plot.svg, text).len(), 1, "{text} stands once");
    }
    assert!(plot.svg.starts_with("<svg width=\"660\" height=\"390\" viewBox="), "embeddable");
    assert!(plot.svg.trim_end().ends_with("</svg>"));
}

#[test]
fn text_from_users_cannot_break_out_of_the_picture() {
    let mut figure = lines(&["<script>alert(1)</script>"]);
    figure.title = "\"><script>".to_owned();
    let svg = figure.draw().unwrap().svg;
    assert!(!svg.contains("<script"), "{svg}");
}

#[test]
fn names_of_lines_that_end_together_do_not_overlap() {
    let names = ["a", "b", "c", "d", "e", "g"];
    let svg = lines(&names).draw().unwrap().svg;
    let mut places: Vec<i32> = names.iter().flat_map(|name| heights(&svg, name)).collect();
    assert_eq!(places.len(), names.len());
    places.sort_unstable();
    let least = places.windows(2).map(|pair| pair[1] - pair[0]).min().unwrap();
    assert!(least >= 12 * style::FINENESS, "{places:?}");
}

#[test]
fn the_table_holds_every_number_also_those_that_the_axis_cannot_show() {
    let figure = Figure::new("f", "t", Axis::linear("x"), Axis::log("y"))
        .with(Layer::new("a, \"b\"", 0, Shape::Line(vec![(0.0, 0.0), (1.5, 2.0)], Stroke::Solid)))
        .with(Layer::new("range", 0, Shape::Band(vec![(0.0, 1.0, 3.0)])));
    let plot = figure.draw().unwrap();
    let expected = "series,x,y,\"y, low\",\"y, high\"\n\"a, \"\"b\"\"\",0,0,,\n\
                    \"a, \"\"b\"\"\",1.5,2,,\nrange,0,,1,3\n";
    assert_eq!(plot.csv, expected);
}

#[test]
fn a_figure_of_nothing_says_so() {
    for points in [vec![], vec![(f64::NAN, 1.0)], vec![(1.0, -1.0)]] {
        let figure = Figure::new("f", "t", Axis::linear("x"), Axis::log("y")).with(Layer::new(
            "a",
            0,
            Shape::Line(points, Stroke::Solid),
        ));
        assert_eq!(heights(&figure.draw().unwrap().svg, "no data").len(), 1);
    }
    assert!(heights(&lines(&["a"]).draw().unwrap().svg, "no data").is_empty());
}

#[test]
fn long_series_make_small_pictures_with_the_same_extremes() {
    let points: Vec<(f64, f64)> = (0..200_000)
        .map(|index| {
            (f64::from(index), if index == 77_777 { 500.0 } else { f64::from(index % 50) })
        })
        .collect();
    let figure = Figure::new("f", "t", Axis::linear("x"), Axis::linear("y")).with(Layer::new(
        "a",
        0,
        Shape::Line(points, Stroke::Solid),
    ));
    let svg = figure.draw().unwrap().svg;
    assert!(svg.len() < 100_000, "{}", svg.len());
    let top = svg.match_indices(",232 ").count();
    assert!(top >= 1, "the one peak is drawn at the top of the area (58 pixels down)");
}

#[test]
fn numbers_are_written_as_people_do() {
    let expected = [
        (0.0, "0"),
        (0.5, "0.5"),
        (0.0125, "0.0125"),
        (2.5, "2.5"),
        (99.95, "99.95"),
        (1234.0, "1,234"),
        (-45_000.0, "-45,000"),
        (2_500_000.0, "2.5M"),
        (3e9, "3G"),
        (0.000_02, "2.0e-5"),
        (f64::NAN, "–"),
    ];
    for (value, text) in expected {
        assert_eq!(number(value), text);
    }
}

#[test]
fn a_curve_bends_where_latency_leaves_the_ground() {
    let queue = |load: f64| (load, 10.0 / (1.0 - load));
    let points: Vec<_> = (1..20).map(|step| queue(f64::from(step) * 0.05)).collect();
    let bend = knee(&points).unwrap();
    assert!((0.6..0.9).contains(&bend), "{bend}");
    assert_eq!(knee(&[(1.0, 5.0), (2.0, 5.0), (3.0, 5.0), (4.0, 5.0)]), None, "nothing bends");
}

#[test]
fn stacks_add_up() {
    let series = |value: f64| (0..3).map(|x| (f64::from(x), value)).collect::<Vec<_>>();
    let layers = stacked(&[("a".to_owned(), series(2.0)), ("b".to_owned(), series(3.0))]);
    assert_eq!(layers[1].shape, Shape::Area((0..3).map(|x| (f64::from(x), 2.0, 5.0)).collect()));
}

proptest! {
    #[test]
    fn every_value_has_a_place_between_the_ends_and_ticks_are_few(
        values in prop::collection::vec(-1e9..1e9_f64, 1..20),
        log in any::<bool>(),
    ) {
        let axis = if log { Axis::log("x") } else { Axis::linear("x") };
        for ends in [Ends::Ticks, Ends::Data] {
            let place = Place::new(&axis, values.iter().copied(), ends);
            prop_assert!(place.ticks.len() <= 16, "{:?}", place.ticks);
            prop_assert!(place.ticks.windows(2).all(|pair| pair[0].0 < pair[1].0));
            for value in values.iter().copied().filter(|value| place.shows(*value)) {
                let range = plotters::coord::ranged1d::Ranged::range(&place);
                let slack = 1e-6 * (range.end - range.start).abs();
                prop_assert!(range.start - slack <= value && value <= range.end + slack);
            }
        }
    }

    #[test]
    fn bins_lose_no_sample(samples in prop::collection::vec(0.001..1e6_f64, 1..200)) {
        for scale in [Scale::Linear, Scale::Log] {
            let counted: f64 = histogram(&samples, &scale, 17).iter().map(|bin| bin.2).sum();
            prop_assert!((counted - samples.len() as f64).abs() < 1e-9);
        }
    }

    #[test]
    fn distributions_rise_from_the_least_to_the_most(
        samples in prop::collection::vec(0.001..1e6_f64, 1..200),
    ) {
        let curve = cumulative(&samples);
        prop_assert!(curve.windows(2).all(|pair| pair[0].0 <= pair[1].0 && pair[0].1 < pair[1].1));
        let most = samples.iter().copied().fold(0.0, f64::max);
        prop_assert_eq!(curve.last().copied(), Some((most, 1.0)));
        let tail = tail(&samples);
        prop_assert!(tail.windows(2).all(|pair| pair[0].0 <= pair[1].0));
    }
}
