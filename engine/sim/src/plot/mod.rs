//! Figures: series of numbers in, an SVG and the same numbers as CSV out.
//!
//! Knows nothing of simulators or servers, so that any command can use it. One style for all:
//! light ground, colours that the colour-blind tell apart (Okabe and Ito), units on the axes, the
//! names of lines at their ends. `report` embeds the SVGs and darkens them by CSS, which relies on
//! the colours of `style`. Neighbours: `scale` (axes), `draw` (plotters), `curves` (from samples
//! to series).

mod curves;
mod draw;
mod header;
mod scale;
mod style;
mod table;

#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

pub use curves::{Named, cumulative, histogram, knee, stacked, tail};
pub use scale::{Axis, Scale, number};
pub use style::{GRID, GROUND, INK, MUTED, NUM_COLOURS};

/// A picture of numbers, before it is drawn.
#[derive(Clone, Debug, PartialEq)]
pub struct Figure {
    /// Name of its files, without an ending: letters, digits and dashes.
    pub name: String,
    /// What it shows, in a few words.
    pub title: String,
    /// Horizontal axis.
    pub x: Axis,
    /// Vertical axis.
    pub y: Axis,
    /// What is drawn, the first at the back.
    pub layers: Vec<Layer>,
    /// Lines across the whole area: limits, knees.
    pub marks: Vec<Mark>,
}

impl Figure {
    /// A figure without layers.
    pub fn new(name: &str, title: impl Into<String>, x: Axis, y: Axis) -> Self {
        let (name, title) = (name.to_owned(), title.into());
        Self { name, title, x, y, layers: Vec::new(), marks: Vec::new() }
    }

    /// With one more layer.
    #[must_use]
    pub fn with(mut self, layer: Layer) -> Self {
        self.layers.push(layer);
        self
    }

    /// With one more mark.
    #[must_use]
    pub fn marked(mut self, mark: Mark) -> Self {
        self.marks.push(mark);
        self
    }

    /// Draws it. Values that are not finite, or not positive on a logarithmic axis, are left out
    /// of the picture and stay in the table; a figure of nothing says so.
    pub fn draw(&self) -> Result<Plot, PlotError> {
        let svg = draw::svg(self).map_err(|reason| PlotError::Drawing {
            name: self.name.clone(),
            reason: reason.to_string(),
        })?;
        Ok(Plot { name: self.name.clone(), title: self.title.clone(), svg, csv: table::csv(self)? })
    }
}

/// One series of a figure.
#[derive(Clone, Debug, PartialEq)]
pub struct Layer {
    /// What it is called beside it; layers without a name are not named.
    pub name: String,
    /// Which colour, modulo [`NUM_COLOURS`]; layers that belong together share one.
    pub colour: usize,
    /// How it is drawn.
    pub shape: Shape,
}

impl Layer {
    /// A layer of this name, colour and shape.
    pub fn new(name: impl Into<String>, colour: usize, shape: Shape) -> Self {
        Self { name: name.into(), colour, shape }
    }
}

/// How the numbers of a layer are drawn.
#[derive(Clone, Debug, PartialEq)]
pub enum Shape {
    /// Points (x, y) joined in their order; dots too when they are few.
    Line(Vec<(f64, f64)>, Stroke),
    /// (x, y): y holds until the next x.
    Steps(Vec<(f64, f64)>),
    /// (x, y), each a dot.
    Dots(Vec<(f64, f64)>),
    /// (x, low, high): the area between, transparent enough for lines above and below it.
    Band(Vec<(f64, f64, f64)>),
    /// (x, low, high): the same, opaque, as in a stack.
    Area(Vec<(f64, f64, f64)>),
    /// (from x, to x, height): a bar from zero.
    Bars(Vec<(f64, f64, f64)>),
    /// (row, from x, to x): a bar along a row, as in a Gantt chart.
    Spans(Vec<(f64, f64, f64)>),
}

/// How a line is drawn.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Stroke {
    /// Whole.
    #[default]
    Solid,
    /// In dashes: the lesser of two lines of one colour.
    Dashed,
}

/// A line across the whole figure.
#[derive(Clone, Debug, PartialEq)]
pub enum Mark {
    /// At this y, as a limit of latency.
    Horizontal(f64, String),
    /// At this x, as a capacity.
    Vertical(f64, String),
}

/// A drawn figure.
#[derive(Clone, Debug, PartialEq)]
pub struct Plot {
    /// Name of its files, without an ending.
    pub name: String,
    /// What it shows.
    pub title: String,
    /// The picture: an `<svg>` element without an XML declaration, so that HTML can hold it.
    pub svg: String,
    /// The numbers, with a header.
    pub csv: String,
}

impl Plot {
    /// Writes `NAME.svg` and `NAME.csv` into `directory`, which must exist.
    pub fn save(&self, directory: &Path) -> Result<(), PlotError> {
        for (ending, text) in [("svg", &self.svg), ("csv", &self.csv)] {
            let path = directory.join(&self.name).with_extension(ending);
            std::fs::write(&path, text).map_err(|source| PlotError::File { path, source })?;
        }
        Ok(())
    }
}

/// What can go wrong with a figure.
#[derive(Debug, thiserror::Error)]
pub enum PlotError {
    /// The drawing library refused.
    #[error("figure {name} cannot be drawn: {reason}")]
    Drawing {
        /// Which figure.
        name: String,
        /// In the library's words.
        reason: String,
    },
    /// A table could not be written.
    #[error("the numbers of a figure cannot be written as CSV")]
    Table(#[from] csv::Error),
    /// A file could not be written.
    #[error("cannot write {path}", path = path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}
