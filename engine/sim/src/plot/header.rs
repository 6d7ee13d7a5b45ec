//! What stands around the area of a figure: its margins, and the names of its layers.

use super::scale::Place;
use super::style::{self, SIZE, TEXT};
use super::{Figure, Layer, Shape, Stroke};

/// Longest name of a series beside its line, and in a row above the figure, in letters.
const MAX_NAME_CHARS: usize = 28;
/// Pixels between the baselines of names.
pub(super) const NAME_PITCH: i32 = 16;
/// Pixels of a name's sample of colour, and of the gap to its letters.
pub(super) const SAMPLE: (i32, i32) = (14, 5);
/// Pixels between names in a row.
const NAME_GAP: i32 = 18;
/// Pixels from the left edge to the title.
pub(super) const LEFT_EDGE: i32 = 14;

/// Pixels around the area.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Margins {
    pub(super) top: i32,
    pub(super) bottom: i32,
    pub(super) left: i32,
    pub(super) right: i32,
}

/// A layer's name, and where it stands.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Name {
    pub(super) text: String,
    pub(super) colour: usize,
    pub(super) stroke: Option<Stroke>,
    /// In pixels: where the sample of colour begins, and the middle of the letters.
    pub(super) place: (i32, i32),
}

impl Name {
    fn of(layer: &Layer) -> Option<Self> {
        let stroke = match layer.shape {
            Shape::Line(_, stroke) => Some(stroke),
            Shape::Steps(_) => Some(Stroke::Solid),
            _ => None,
        };
        let text = style::shortened(&layer.name, MAX_NAME_CHARS);
        (!text.is_empty()).then_some(Self { text, colour: layer.colour, stroke, place: (0, 0) })
    }

    /// Whether it is this layer's, perhaps shortened.
    pub(super) fn is_of(&self, layer: &Layer) -> bool {
        style::shortened(&layer.name, MAX_NAME_CHARS) == self.text
    }

    fn width(&self) -> i32 {
        SAMPLE.0 + SAMPLE.1 + style::width(&self.text, TEXT)
    }
}

/// The layers' names: at the ends of lines where all named layers are lines, else in rows above
/// the area. Names that are equal (and of equal colour) appear once.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Names {
    /// Beside the last points.
    AtEnds(Vec<Name>),
    /// Above the area, with the number of rows.
    Above(Vec<Name>, i32),
}

impl Names {
    pub(super) fn of(figure: &Figure) -> Self {
        let mut names: Vec<Name> = Vec::new();
        for name in figure.layers.iter().filter_map(Name::of) {
            let is_known = |other: &Name| other.text == name.text && other.colour == name.colour;
            if !names.iter().any(is_known) {
                names.push(name);
            }
        }
        if names.iter().all(|name| name.stroke.is_some()) {
            return Self::AtEnds(names);
        }
        let (mut x, mut row) = (LEFT_EDGE, 0);
        for name in &mut names {
            if x > LEFT_EDGE && x + name.width() > SIZE.0 as i32 - LEFT_EDGE {
                (x, row) = (LEFT_EDGE, row + 1);
            }
            name.place = (x, 60 + row * NAME_PITCH);
            x += name.width() + NAME_GAP;
        }
        Self::Above(names, row + 1)
    }

    /// Room for the names, the title and the ticks.
    pub(super) fn margins(&self, y: &Place) -> Margins {
        let widest_tick =
            y.ticks.iter().map(|(_, text)| style::width(&shortened_tick(text), TEXT)).max();
        let (top, right) = match self {
            Self::AtEnds(names) => {
                let widest = names.iter().map(Name::width).max();
                (58, widest.map_or(22, |width| width + 18))
            }
            Self::Above(_, num_rows) => (62 + num_rows * NAME_PITCH, 22),
        };
        Margins { top, bottom: 48, left: LEFT_EDGE + widest_tick.unwrap_or(0) + 8, right }
    }

    /// Gives names at the ends of lines their places: level with `ends` (pixels of the last points
    /// by layer name and colour) as far as they do not overlap.
    pub(super) fn place_at_ends(
        &mut self,
        x: i32,
        (top, bottom): (i32, i32),
        end_of: impl Fn(&Name) -> Option<i32>,
    ) {
        let Self::AtEnds(names) = self else { return };
        for name in names.iter_mut() {
            name.place = (x, end_of(name).unwrap_or(top));
        }
        names.sort_by_key(|name| name.place.1);
        let mut free_from = top;
        for name in names.iter_mut() {
            name.place.1 = name.place.1.max(free_from);
            free_from = name.place.1 + NAME_PITCH;
        }
        let mut free_to = bottom;
        for name in names.iter_mut().rev() {
            name.place.1 = name.place.1.min(free_to);
            free_to = name.place.1 - NAME_PITCH;
        }
    }

    pub(super) fn all(&self) -> &[Name] {
        match self {
            Self::AtEnds(names) | Self::Above(names, _) => names,
        }
    }
}

/// A tick's text as it is written.
pub(super) fn shortened_tick(text: &str) -> String {
    style::shortened(text, 24)
}
