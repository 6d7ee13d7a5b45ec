//! A page stands alone and lets nobody's text in as markup.

use super::*;
use crate::plot::{Axis, Figure, Layer, Shape, Stroke};

fn report() -> Report {
    let points = vec![(1.0, 2.0), (2.0, 3.0)];
    let figure = Figure::new("a", "A <b>figure</b>", Axis::linear("x"), Axis::linear("y"))
        .with(Layer::new("<i>", 0, Shape::Line(points, Stroke::Solid)));
    let table = Table {
        caption: "Numbers".to_owned(),
        header: vec!["policy".to_owned(), "p99".to_owned()],
        rows: vec![vec![Cell::words("<script>"), Cell::number("3").toned(Tone::Bad)]],
    };
    let mut section = Section::new("A & B");
    section.blocks = vec![
        Block::Text("1 < 2".to_owned()),
        Block::Figure(figure.draw().unwrap()),
        Block::Figure(figure.draw().unwrap()),
        Block::Table(table),
    ];
    Report { title: "T".to_owned(), lead: vec!["L".to_owned()], sections: vec![section] }
}

#[test]
fn text_is_text() {
    let html = report().to_html();
    for wanted in ["A &amp; B", "1 &lt; 2", "&lt;script&gt;", "A &lt;b&gt;figure&lt;/b&gt;"] {
        assert!(html.contains(wanted), "{wanted}");
    }
    assert!(!html.contains("<script") && !html.contains("<b>") && !html.contains("<i>"));
}

#[test]
fn a_page_needs_no_other_file_and_its_tags_are_closed() {
    let html = report().to_html();
    for outside in ["src=", "@import", "url(", "<link", "http-equiv"] {
        assert!(!html.contains(outside), "{outside}");
    }
    // The only addresses are the names of the SVG elements.
    let addresses = html.matches("http").count();
    assert_eq!(addresses, html.matches("xmlns=\"http://www.w3.org/2000/svg\"").count());
    for tag in ["div", "table", "figure", "section", "svg", "main", "p", "td"] {
        let opened =
            html.matches(&format!("<{tag}>")).count() + html.matches(&format!("<{tag} ")).count();
        assert_eq!(opened, html.matches(&format!("</{tag}>")).count(), "{tag}");
    }
}

#[test]
fn a_report_knows_its_figures() {
    assert_eq!(report().plots().count(), 2);
}
