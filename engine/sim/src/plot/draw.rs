//! A figure as SVG, by the plotters library.

use plotters::coord::Shift;
use plotters::coord::cartesian::Cartesian2d;
use plotters::element::DashedPathElement;
use plotters::prelude::*;

use super::header::{LEFT_EDGE, Margins, Name, Names, SAMPLE, shortened_tick};
use super::scale::{Ends, Place};
use super::style::{self, Anchor, FINENESS, SIZE, TEXT, TITLE};
use super::{Axis, Figure, Layer, Mark, Scale, Shape, Stroke};

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Chart<'a> = ChartContext<'a, SVGBackend<'a>, Cartesian2d<Place, Place>>;
type Drawn = Result<(), DrawingAreaErrorKind<std::io::Error>>;

/// Lines of fewer points also show each of them.
const MAX_DOTTED_POINTS: usize = 24;
/// Width of a line in pixels.
const LINE_WIDTH: f64 = 1.8;
/// A limit on a linear axis this many times beyond the data is only pointed at.
const MAX_REACH_OF_MARKS: f64 = 3.0;

/// The picture.
pub(super) fn svg(figure: &Figure) -> Result<String, DrawingAreaErrorKind<std::io::Error>> {
    let mut text = String::new();
    let size = (SIZE.0 * FINENESS as u32, SIZE.1 * FINENESS as u32);
    {
        let root = SVGBackend::with_string(&mut text, size).into_drawing_area();
        root.fill(&style::GROUND_COLOUR)?;
        draw(figure, &root)?;
        root.present()?;
    }
    let head = text.find('>').map_or(0, |end| end + 1);
    let label = figure.title.replace('&', "&amp;").replace('<', "&lt;").replace('"', "&quot;");
    Ok(format!(
        "<svg width=\"{}\" height=\"{}\" viewBox=\"0 0 {} {}\" role=\"img\" aria-label=\"{label}\" \
         xmlns=\"http://www.w3.org/2000/svg\">{}",
        SIZE.0,
        SIZE.1,
        size.0,
        size.1,
        &text[head..]
    ))
}

fn draw(figure: &Figure, root: &Area<'_>) -> Drawn {
    let (x, y) = (place_x(figure), place_y(figure));
    let mut names = Names::of(figure);
    let margins = names.margins(&y);
    let fine = |pixels: i32| pixels * FINENESS;
    let mut chart = ChartBuilder::on(root)
        .margin_top(fine(margins.top))
        .margin_bottom(fine(margins.bottom))
        .margin_left(fine(margins.left))
        .margin_right(fine(margins.right))
        .build_cartesian_2d(x.clone(), y.clone())?;
    heading(figure, root)?;
    grid(root, &chart, (&x, &y), margins)?;
    x_label(figure, root, margins)?;
    let mut is_empty = true;
    for layer in &figure.layers {
        is_empty &= !has_points(layer, (&x, &y));
        shape(&mut chart, layer, (&x, &y))?;
    }
    marks(figure, root, &chart, margins)?;
    let bottom = SIZE.1 as i32 - margins.bottom;
    let ends: Vec<(&Layer, i32)> = figure
        .layers
        .iter()
        .filter_map(|layer| {
            let (x, y) = last_point(layer, (&x, &y))?;
            Some((layer, chart.backend_coord(&(x, y)).1 / FINENESS))
        })
        .collect();
    names.place_at_ends(SIZE.0 as i32 - margins.right + 8, (margins.top, bottom), |name| {
        let is_it = |layer: &Layer| layer.colour == name.colour && name.is_of(layer);
        ends.iter().find(|(layer, _)| is_it(layer)).map(|(_, end)| *end)
    });
    for name in names.all() {
        name_of_layer(root, name)?;
    }
    if is_empty {
        let middle = (SIZE.0 as i32 / 2, i32::midpoint(margins.top, bottom));
        write(root, "no data", middle, (TEXT, style::MUTED_COLOUR, Anchor::Middle))?;
    }
    Ok(())
}

fn place_x(figure: &Figure) -> Place {
    let values = figure.layers.iter().flat_map(|layer| match &layer.shape {
        Shape::Line(points, _) | Shape::Steps(points) | Shape::Dots(points) => {
            points.iter().map(|point| point.0).collect::<Vec<_>>()
        }
        Shape::Band(points) | Shape::Area(points) => points.iter().map(|point| point.0).collect(),
        Shape::Bars(bars) => bars.iter().flat_map(|bar| [bar.0, bar.1]).collect(),
        Shape::Spans(spans) => spans.iter().flat_map(|span| [span.1, span.2]).collect(),
    });
    let dots = figure.layers.iter().any(|layer| matches!(layer.shape, Shape::Dots(_)));
    let ends = if dots { Ends::Ticks } else { Ends::Data };
    Place::new(&figure.x, values, ends)
}

fn place_y(figure: &Figure) -> Place {
    let values = figure.layers.iter().flat_map(|layer| match &layer.shape {
        Shape::Line(points, _) | Shape::Steps(points) | Shape::Dots(points) => {
            points.iter().map(|point| point.1).collect::<Vec<_>>()
        }
        Shape::Band(points) | Shape::Area(points) => {
            points.iter().flat_map(|point| [point.1, point.2]).collect()
        }
        Shape::Bars(bars) => bars.iter().map(|bar| bar.2).chain([0.0]).collect(),
        Shape::Spans(spans) => spans.iter().map(|span| span.0).collect(),
    });
    let values: Vec<f64> = values.filter(|value| value.is_finite()).collect();
    let highest = values.iter().copied().fold(0.0, f64::max);
    let within =
        |level: &f64| figure.y.scale == Scale::Log || *level <= MAX_REACH_OF_MARKS * highest;
    let limits = figure.marks.iter().filter_map(|mark| match mark {
        Mark::Horizontal(level, _) => Some(*level).filter(within),
        Mark::Vertical(..) => None,
    });
    Place::new(&figure.y, values.iter().copied().chain(limits), Ends::Ticks)
}

fn heading(figure: &Figure, root: &Area<'_>) -> Drawn {
    let width = SIZE.0 as i32 - 2 * LEFT_EDGE;
    let title = style::shortened(&figure.title, style::max_chars(width, TITLE));
    write(root, &title, (LEFT_EDGE, 20), (TITLE, style::INK_COLOUR, Anchor::Start))?;
    write(root, &figure.y.label, (LEFT_EDGE, 41), (TEXT, style::MUTED_COLOUR, Anchor::Start))
}

fn x_label(figure: &Figure, root: &Area<'_>, margins: Margins) -> Drawn {
    let Axis { label, .. } = &figure.x;
    let middle = (margins.left + SIZE.0 as i32 - margins.right) / 2;
    let place = (middle, SIZE.1 as i32 - 13);
    write(root, label, place, (TEXT, style::MUTED_COLOUR, Anchor::Middle))
}

fn grid(root: &Area<'_>, chart: &Chart<'_>, (x, y): (&Place, &Place), margins: Margins) -> Drawn {
    let left = margins.left;
    let (right, bottom) = (SIZE.0 as i32 - margins.right, SIZE.1 as i32 - margins.bottom);
    let thin = style::line(style::GRID_COLOUR, 1.0);
    let fine = |x: i32, y: i32| (x * FINENESS, y * FINENESS);
    let mut free_to = SIZE.1 as i32;
    for (value, text) in &y.ticks {
        let level = chart.backend_coord(&(x.low(), *value)).1 / FINENESS;
        root.draw(&PathElement::new([fine(left, level), fine(right, level)], thin))?;
        // As below: ticks come from the bottom to the top.
        if level <= free_to {
            let style = (TEXT, style::MUTED_COLOUR, Anchor::End);
            write(root, &shortened_tick(text), (left - 7, level), style)?;
            free_to = level - TEXT;
        }
    }
    let mut free_from = 0;
    let fitting = x.max_tick_chars(right - left);
    for (value, text) in &x.ticks {
        let text = &style::shortened(text, fitting);
        let across = chart.backend_coord(&(*value, y.low())).0 / FINENESS;
        root.draw(&PathElement::new([fine(across, bottom), fine(across, bottom + 4)], thin))?;
        // A tick whose text would touch its neighbour's goes without.
        let half = style::width(text, TEXT) / 2;
        if across - half >= free_from {
            let style = (TEXT, style::MUTED_COLOUR, Anchor::Middle);
            write(root, text, (across, bottom + 14), style)?;
            free_from = across + half + 6;
        }
    }
    let axis = style::line(style::MUTED_COLOUR, 1.0);
    root.draw(&PathElement::new([fine(left, bottom), fine(right, bottom)], axis))
}

fn has_points(layer: &Layer, places: (&Place, &Place)) -> bool {
    let (x, y) = places;
    match &layer.shape {
        Shape::Line(points, _) | Shape::Steps(points) | Shape::Dots(points) => {
            points.iter().any(|point| x.shows(point.0) && y.shows(point.1))
        }
        Shape::Band(points) | Shape::Area(points) => {
            points.iter().any(|point| x.shows(point.0) && y.shows(point.2))
        }
        Shape::Bars(bars) => bars.iter().any(|bar| x.shows(bar.0) && y.shows(bar.2)),
        Shape::Spans(spans) => spans.iter().any(|span| x.shows(span.1) && x.shows(span.2)),
    }
}

fn last_point(layer: &Layer, (x, y): (&Place, &Place)) -> Option<(f64, f64)> {
    match &layer.shape {
        Shape::Line(points, _) | Shape::Steps(points) => {
            points.iter().rfind(|point| x.shows(point.0) && y.shows(point.1)).copied()
        }
        _ => None,
    }
}

fn shape(chart: &mut Chart<'_>, layer: &Layer, (x, y): (&Place, &Place)) -> Drawn {
    let colour = style::colour(layer.colour);
    let shown = |points: &[(f64, f64)]| -> Vec<(f64, f64)> {
        points.iter().filter(|point| x.shows(point.0) && y.shows(point.1)).copied().collect()
    };
    match &layer.shape {
        Shape::Line(points, stroke) => {
            let points = shown(points);
            let line = thinned(chart, &points);
            path(chart, line, *stroke, colour)?;
            let dots = if points.len() <= MAX_DOTTED_POINTS { &points[..] } else { &[] };
            chart.draw_series(dots.iter().map(|&p| dot(p, 3, colour)))?;
        }
        Shape::Steps(points) => {
            let points = shown(points);
            let corners = points.windows(2).flat_map(|pair| [pair[0], (pair[1].0, pair[0].1)]);
            let corners: Vec<_> = corners.chain(points.last().copied()).collect();
            let line = thinned(chart, &corners);
            path(chart, line, Stroke::Solid, colour)?;
        }
        Shape::Dots(points) => {
            chart.draw_series(shown(points).into_iter().map(|point| dot(point, 3, colour)))?;
        }
        Shape::Band(points) => area(chart, points, colour.mix(0.16).filled())?,
        Shape::Area(points) => area(chart, points, colour.mix(0.85).filled())?,
        Shape::Bars(bars) => {
            let bars = bars.iter().filter(|bar| x.shows(bar.0) && bar.2 > 0.0);
            chart.draw_series(bars.map(|&(from, to, height)| {
                Rectangle::new([(from, y.low()), (to, height)], colour.mix(0.85).filled())
            }))?;
        }
        Shape::Spans(spans) => {
            let spans = spans.iter().filter(|span| x.shows(span.1) && x.shows(span.2));
            chart.draw_series(spans.map(|&(row, from, to)| {
                Rectangle::new([(from, row - 0.36), (to, row + 0.36)], colour.mix(0.85).filled())
            }))?;
        }
    }
    Ok(())
}

fn dot(point: (f64, f64), pixels: i32, colour: RGBColor) -> Circle<(f64, f64), i32> {
    Circle::new(point, pixels * FINENESS, colour.filled())
}

fn path(chart: &mut Chart<'_>, points: Vec<(f64, f64)>, stroke: Stroke, colour: RGBColor) -> Drawn {
    match stroke {
        _ if points.len() < 2 => {}
        Stroke::Solid => {
            chart.draw_series([PathElement::new(points, style::line(colour, LINE_WIDTH))])?;
        }
        Stroke::Dashed => {
            let style = style::line(colour, LINE_WIDTH * 0.75);
            let (dash, gap) = (5 * FINENESS, 4 * FINENESS);
            chart.draw_series([DashedPathElement::new(points, dash, gap, style)])?;
        }
    }
    Ok(())
}

fn area(chart: &mut Chart<'_>, points: &[(f64, f64, f64)], style: ShapeStyle) -> Drawn {
    let is_finite =
        |(x, low, high): &&(f64, f64, f64)| x.is_finite() && low.is_finite() && high.is_finite();
    let points: Vec<_> = points.iter().filter(is_finite).copied().collect();
    let lower = points.iter().map(|&(x, low, _)| (x, low)).collect::<Vec<_>>();
    let upper = points.iter().map(|&(x, _, high)| (x, high)).collect::<Vec<_>>();
    let (lower, upper) = (thinned(chart, &lower), thinned(chart, &upper));
    if upper.len() < 2 {
        return Ok(());
    }
    let outline: Vec<_> = upper.into_iter().chain(lower.into_iter().rev()).collect();
    chart.draw_series([Polygon::new(outline, style)])?;
    Ok(())
}

/// The first, lowest, highest and last of the points in each pixel's column: the same picture in
/// few points.
fn thinned(chart: &Chart<'_>, points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    if points.len() <= 4 * SIZE.0 as usize {
        return points.to_vec();
    }
    let column = |point: &(f64, f64)| chart.backend_coord(point).0 / FINENESS;
    let mut kept = Vec::new();
    for group in points.chunk_by(|left, right| column(left) == column(right)) {
        let by_height = |left: &usize, right: &usize| group[*left].1.total_cmp(&group[*right].1);
        let lowest = (0..group.len()).min_by(by_height).unwrap_or(0);
        let highest = (0..group.len()).max_by(by_height).unwrap_or(0);
        let mut indices = vec![0, lowest, highest, group.len() - 1];
        indices.sort_unstable();
        indices.dedup();
        kept.extend(indices.into_iter().map(|index| group[index]));
    }
    kept
}

fn marks(figure: &Figure, root: &Area<'_>, chart: &Chart<'_>, margins: Margins) -> Drawn {
    let (right, bottom) = (SIZE.0 as i32 - margins.right, SIZE.1 as i32 - margins.bottom);
    let style = style::line(style::INK_COLOUR, 1.0);
    let fine = |(x, y): (i32, i32)| (x * FINENESS, y * FINENESS);
    let dashed = |ends: [(i32, i32); 2]| {
        DashedPathElement::new(ends.map(fine), 3 * FINENESS, 3 * FINENESS, style)
    };
    let y_range = chart.y_range();
    let mut num_vertical = 0;
    for mark in &figure.marks {
        match mark {
            Mark::Horizontal(level, label) => {
                let height = chart.backend_coord(&(chart.x_range().start, *level)).1 / FINENESS;
                root.draw(&dashed([(margins.left, height), (right, height)]))?;
                let arrow = if *level > y_range.end * 1.000_001 { "↑ " } else { "" };
                let beside = if height < margins.top + 14 { height + 9 } else { height - 8 };
                let style = (TEXT, style::INK_COLOUR, Anchor::Start);
                write(root, &format!("{arrow}{label}"), (margins.left + 6, beside), style)?;
            }
            Mark::Vertical(value, label) => {
                let across = chart.backend_coord(&(*value, y_range.start)).0 / FINENESS;
                root.draw(&dashed([(across, margins.top), (across, bottom)]))?;
                let fits = across + 6 + style::width(label, TEXT) <= right;
                let (across, anchor) =
                    if fits { (across + 5, Anchor::Start) } else { (across - 5, Anchor::End) };
                let place = (across, margins.top + 8 + 15 * num_vertical);
                write(root, label, place, (TEXT, style::INK_COLOUR, anchor))?;
                num_vertical += 1;
            }
        }
    }
    Ok(())
}

fn name_of_layer(root: &Area<'_>, name: &Name) -> Drawn {
    let (x, y) = name.place;
    let fine = |x: i32, y: i32| (x * FINENESS, y * FINENESS);
    let colour = style::colour(name.colour);
    match name.stroke {
        Some(stroke) => {
            let ends = vec![fine(x, y), fine(x + SAMPLE.0, y)];
            let style = style::line(colour, 2.4);
            match stroke {
                Stroke::Solid => root.draw(&PathElement::new(ends, style))?,
                Stroke::Dashed => {
                    root.draw(&DashedPathElement::new(ends, 4 * FINENESS, 2 * FINENESS, style))?;
                }
            }
        }
        None => root.draw(&Rectangle::new(
            [fine(x, y - 5), fine(x + SAMPLE.0 - 3, y + 6)],
            colour.mix(0.85).filled(),
        ))?,
    }
    let place = (x + SAMPLE.0 + SAMPLE.1, y);
    write(root, &name.text, place, (TEXT, style::INK_COLOUR, Anchor::Start))
}

/// Writes `text` at a place in pixels.
fn write(
    root: &Area<'_>,
    text: &str,
    (x, y): (i32, i32),
    (size, colour, anchor): (i32, RGBColor, Anchor),
) -> Drawn {
    let style = style::letters(size, colour, anchor);
    root.draw(&Text::new(text.to_owned(), (x * FINENESS, y * FINENESS), style))
}
