//! The one style of all figures. Sizes are in pixels of the finished picture.

use plotters::style::text_anchor;
use plotters::style::{
    Color as _, FontDesc, FontFamily, FontStyle, RGBColor, ShapeStyle, TextStyle,
};

/// Colour of text, as in the SVG.
pub const INK: &str = "#262626";
/// Colour of lesser text: units, ticks, marks.
pub const MUTED: &str = "#6B6B6B";
/// Colour of the grid.
pub const GRID: &str = "#E4E4E4";
/// Colour of the ground.
pub const GROUND: &str = "#FFFFFF";
/// Colours that series can have before they repeat.
pub const NUM_COLOURS: usize = COLOURS.len();

/// Okabe and Ito's set without yellow, which a light ground swallows; told apart by people with
/// any common colour blindness.
const COLOURS: [RGBColor; 7] = [
    RGBColor(0x00, 0x72, 0xB2),
    RGBColor(0xD5, 0x5E, 0x00),
    RGBColor(0x00, 0x9E, 0x73),
    RGBColor(0xCC, 0x79, 0xA7),
    RGBColor(0xE6, 0x9F, 0x00),
    RGBColor(0x56, 0xB4, 0xE9),
    RGBColor(0x7A, 0x7A, 0x7A),
];

/// Width and height of a figure.
pub(super) const SIZE: (u32, u32) = (660, 390);
/// Units of the drawing in a pixel: the library's coordinates are whole numbers.
pub(super) const FINENESS: i32 = 4;
/// Size of letters.
pub(super) const TEXT: i32 = 13;
/// Size of letters of the title.
pub(super) const TITLE: i32 = 16;
/// Width of a letter beside its size, on average; a little more than most fonts have.
const LETTER_WIDTH: f64 = 0.53;
/// The library writes letters this much smaller than it is told.
const LIBRARY_SHRINKS_LETTERS: f64 = 1.24;

pub(super) const INK_COLOUR: RGBColor = RGBColor(0x26, 0x26, 0x26);
pub(super) const MUTED_COLOUR: RGBColor = RGBColor(0x6B, 0x6B, 0x6B);
pub(super) const GRID_COLOUR: RGBColor = RGBColor(0xE4, 0xE4, 0xE4);
pub(super) const GROUND_COLOUR: RGBColor = RGBColor(0xFF, 0xFF, 0xFF);

/// Colour number `index`.
pub(super) fn colour(index: usize) -> RGBColor {
    COLOURS[index % NUM_COLOURS]
}

/// A line of this width in pixels.
pub(super) fn line(colour: RGBColor, width: f64) -> ShapeStyle {
    colour.stroke_width((width * f64::from(FINENESS)).round() as u32)
}

/// Pixels that `text` is wide at the most.
pub(super) fn width(text: &str, size: i32) -> i32 {
    (text.chars().count() as f64 * f64::from(size) * LETTER_WIDTH).ceil() as i32
}

/// Letters that fit into this many pixels.
pub(super) fn max_chars(pixels: i32, size: i32) -> usize {
    (f64::from(pixels) / (f64::from(size) * LETTER_WIDTH)).max(1.0) as usize
}

/// `text`, or its beginning where it is longer than `max_chars`.
pub(super) fn shortened(text: &str, max_chars: usize) -> String {
    if text.chars().count() <= max_chars {
        return text.to_owned();
    }
    let beginning: String = text.chars().take(max_chars.saturating_sub(1)).collect();
    format!("{}…", beginning.trim_end())
}

/// Where text stands beside its point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Anchor {
    /// It begins there.
    Start,
    /// It is centred on it, above and below too.
    Middle,
    /// It ends there.
    End,
}

/// Letters of this size and colour; their height is centred on the point.
pub(super) fn letters(size: i32, colour: RGBColor, anchor: Anchor) -> TextStyle<'static> {
    let style = if size >= TITLE { FontStyle::Bold } else { FontStyle::Normal };
    let size = f64::from(size * FINENESS) * LIBRARY_SHRINKS_LETTERS;
    let family = FontFamily::Name("Helvetica Neue, Helvetica, Arial, sans-serif");
    let horizontal = match anchor {
        Anchor::Start => text_anchor::HPos::Left,
        Anchor::Middle => text_anchor::HPos::Center,
        Anchor::End => text_anchor::HPos::Right,
    };
    TextStyle {
        font: FontDesc::new(family, size, style),
        color: colour.to_backend_color(),
        pos: text_anchor::Pos::new(horizontal, text_anchor::VPos::Center),
    }
}
