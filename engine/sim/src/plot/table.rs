//! The numbers of a figure as CSV: one row a point, with the columns that its layers need.

use super::{Figure, Layer, PlotError, Shape};

/// One row: where, until where, how much, between what.
#[derive(Clone, Copy, Debug, Default)]
struct Row {
    x: f64,
    x_end: Option<f64>,
    y: Option<f64>,
    low: Option<f64>,
    high: Option<f64>,
}

/// The table of a figure, with a header made of the axes' labels.
pub(super) fn csv(figure: &Figure) -> Result<String, PlotError> {
    let rows: Vec<(&Layer, Vec<Row>)> =
        figure.layers.iter().map(|layer| (layer, rows(&layer.shape))).collect();
    let any = |has: fn(&Row) -> bool| rows.iter().any(|(_, rows)| rows.iter().any(has));
    let (ends, values, bands) =
        (any(|row| row.x_end.is_some()), any(|row| row.y.is_some()), any(|row| row.low.is_some()));
    let (x, y) = (&figure.x.label, &figure.y.label);
    let mut writer = csv::Writer::from_writer(Vec::new());
    let mut header = vec!["series".to_owned(), x.clone()];
    let columns = [
        (ends, format!("{x}, end")),
        (values, y.clone()),
        (bands, format!("{y}, low")),
        (bands, format!("{y}, high")),
    ];
    header.extend(columns.into_iter().filter(|(is_used, _)| *is_used).map(|(_, name)| name));
    writer.write_record(&header)?;
    for (layer, rows) in rows {
        for row in rows {
            let mut record = vec![layer.name.clone(), row.x.to_string()];
            let cells = [(ends, row.x_end), (values, row.y), (bands, row.low), (bands, row.high)];
            let cells = cells.into_iter().filter(|(is_used, _)| *is_used);
            record
                .extend(cells.map(|(_, value)| value.map_or_else(String::new, |v| v.to_string())));
            writer.write_record(&record)?;
        }
    }
    let bytes = writer.into_inner().map_err(|error| csv::Error::from(error.into_error()))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn rows(shape: &Shape) -> Vec<Row> {
    match shape {
        Shape::Line(points, _) | Shape::Steps(points) | Shape::Dots(points) => {
            points.iter().map(|&(x, y)| Row { x, y: Some(y), ..Row::default() }).collect()
        }
        Shape::Band(points) | Shape::Area(points) => points
            .iter()
            .map(|&(x, low, high)| Row { x, low: Some(low), high: Some(high), ..Row::default() })
            .collect(),
        Shape::Bars(bars) => bars
            .iter()
            .map(|&(x, end, y)| Row { x, x_end: Some(end), y: Some(y), ..Row::default() })
            .collect(),
        Shape::Spans(spans) => spans
            .iter()
            .map(|&(y, x, end)| Row { x, x_end: Some(end), y: Some(y), ..Row::default() })
            .collect(),
    }
}
