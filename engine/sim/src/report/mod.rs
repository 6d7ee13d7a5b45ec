//! Reports: one page of HTML that needs nothing else, made of texts, tables and figures.
//!
//! Like `plot` it knows nothing of where the numbers come from. The page has no scripts and no
//! links to other files; it follows the reader's choice of a light or dark screen.

mod html;

#[cfg(test)]
mod tests;

use crate::plot::Plot;

/// A page.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Report {
    /// What it is about.
    pub title: String,
    /// What it says, in a sentence or two, before all else.
    pub lead: Vec<String>,
    /// Its parts, in order.
    pub sections: Vec<Section>,
}

impl Report {
    /// The page as HTML.
    #[must_use]
    pub fn to_html(&self) -> String {
        html::page(self)
    }

    /// All its figures.
    pub fn plots(&self) -> impl Iterator<Item = &Plot> {
        self.sections.iter().flat_map(|section| &section.blocks).filter_map(|block| match block {
            Block::Figure(plot) => Some(plot),
            _ => None,
        })
    }
}

/// A part of a page, under a heading.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Section {
    /// The heading.
    pub title: String,
    /// What stands under it.
    pub blocks: Vec<Block>,
}

impl Section {
    /// An empty part with this heading.
    pub fn new(title: impl Into<String>) -> Self {
        Self { title: title.into(), blocks: Vec::new() }
    }
}

/// A piece of a section.
#[derive(Clone, Debug, PartialEq)]
pub enum Block {
    /// A paragraph.
    Text(String),
    /// Numbers in rows.
    Table(Table),
    /// A picture; its numbers are in a CSV file of the same name beside the report.
    Figure(Plot),
}

/// Numbers in rows.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Table {
    /// What it shows, above it; empty for none.
    pub caption: String,
    /// Names of the columns, with units.
    pub header: Vec<String>,
    /// As many cells each as there are columns.
    pub rows: Vec<Vec<Cell>>,
}

/// One cell of a table.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Cell {
    /// What stands in it.
    pub text: String,
    /// What stands under that, smaller; empty for nothing.
    pub detail: String,
    /// How it is to be taken.
    pub tone: Tone,
    /// Whether it is a number, which stands to the right.
    pub kind: CellKind,
}

/// How a cell is to be taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Tone {
    /// As it is.
    #[default]
    Plain,
    /// As good news.
    Good,
    /// As bad news.
    Bad,
    /// As not important.
    Muted,
}

/// What a cell holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CellKind {
    /// Words.
    #[default]
    Words,
    /// A number.
    Number,
}

impl Cell {
    /// Words.
    pub fn words(text: impl Into<String>) -> Self {
        Self { text: text.into(), ..Self::default() }
    }

    /// A number as text.
    pub fn number(text: impl Into<String>) -> Self {
        Self { text: text.into(), kind: CellKind::Number, ..Self::default() }
    }

    /// The same with something smaller under it.
    #[must_use]
    pub fn with_detail(mut self, detail: impl Into<String>) -> Self {
        self.detail = detail.into();
        self
    }

    /// The same in another tone.
    #[must_use]
    pub fn toned(mut self, tone: Tone) -> Self {
        self.tone = tone;
        self
    }
}
