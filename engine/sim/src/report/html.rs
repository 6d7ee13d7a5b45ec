//! The page's HTML and its style.

use std::fmt::Write as _;

use super::{Block, Cell, CellKind, Report, Section, Table, Tone};
use crate::plot::{GRID, GROUND, INK, MUTED};

/// The whole page.
pub(super) fn page(report: &Report) -> String {
    let title = escaped(&report.title);
    let mut body = format!("<h1>{title}</h1>\n");
    for paragraph in &report.lead {
        let _ = writeln!(body, "<p class=\"lead\">{}</p>", escaped(paragraph));
    }
    if report.sections.len() > 2 {
        let links = report.sections.iter().enumerate().map(|(index, section)| {
            format!("<a href=\"#s{index}\">{}</a>", escaped(&section.title))
        });
        let _ = writeln!(body, "<nav>{}</nav>", links.collect::<Vec<_>>().join(" · "));
    }
    for (index, section) in report.sections.iter().enumerate() {
        write_section(&mut body, index, section);
    }
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>{title}</title>\n<style>\n{}</style>\n</head>\n<body>\n<main>\n{body}</main>\n\
         </body>\n</html>\n",
        style()
    )
}

fn write_section(body: &mut String, index: usize, section: &Section) {
    let _ = writeln!(body, "<section id=\"s{index}\">\n<h2>{}</h2>", escaped(&section.title));
    let mut figures = 0;
    for block in &section.blocks {
        // Figures that follow each other share rows.
        match (matches!(block, Block::Figure(_)), figures) {
            (true, 0) => body.push_str("<div class=\"figures\">\n"),
            (false, 1..) => body.push_str("</div>\n"),
            _ => {}
        }
        figures = if matches!(block, Block::Figure(_)) { figures + 1 } else { 0 };
        match block {
            Block::Text(text) => {
                let _ = writeln!(body, "<p>{}</p>", escaped(text));
            }
            Block::Table(table) => write_table(body, table),
            Block::Figure(plot) => {
                let _ = writeln!(body, "<figure>{}</figure>", plot.svg);
            }
        }
    }
    body.push_str(if figures > 0 { "</div>\n</section>\n" } else { "</section>\n" });
}

fn write_table(body: &mut String, table: &Table) {
    body.push_str("<div class=\"wide\"><table>\n");
    if !table.caption.is_empty() {
        let _ = writeln!(body, "<caption>{}</caption>", escaped(&table.caption));
    }
    let kind_of = |column: usize| table.rows.first().and_then(|row| row.get(column));
    body.push_str("<thead><tr>");
    for (column, name) in table.header.iter().enumerate() {
        let class = kind_of(column).map_or("", |cell| class(cell.kind, Tone::Plain));
        let _ = write!(body, "<th scope=\"col\"{class}>{}</th>", escaped(name));
    }
    body.push_str("</tr></thead>\n<tbody>\n");
    for row in &table.rows {
        body.push_str("<tr>");
        for Cell { text, detail, tone, kind } in row {
            let _ = write!(body, "<td{}>{}", class(*kind, *tone), escaped(text));
            if !detail.is_empty() {
                let _ = write!(body, "<small>{}</small>", escaped(detail));
            }
            body.push_str("</td>");
        }
        body.push_str("</tr>\n");
    }
    body.push_str("</tbody></table></div>\n");
}

fn class(kind: CellKind, tone: Tone) -> &'static str {
    match (kind, tone) {
        (CellKind::Words, Tone::Plain) => "",
        (CellKind::Words, Tone::Good) => " class=\"good\"",
        (CellKind::Words, Tone::Bad) => " class=\"bad\"",
        (CellKind::Words, Tone::Muted) => " class=\"muted\"",
        (CellKind::Number, Tone::Plain) => " class=\"number\"",
        (CellKind::Number, Tone::Good) => " class=\"number good\"",
        (CellKind::Number, Tone::Bad) => " class=\"number bad\"",
        (CellKind::Number, Tone::Muted) => " class=\"number muted\"",
    }
}

/// `text` with what HTML would take for its own marked as text.
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            other => escaped.push(other),
        }
    }
    escaped
}

/// The page's style. Figures are drawn for a light ground; on a dark screen their inks are
/// exchanged by the very colours that they are drawn with.
fn style() -> String {
    const LIGHT: &str = "\
:root { color-scheme: light dark; --ground: #fafafa; --paper: #ffffff; --ink: #262626; \
--muted: #6b6b6b; --line: #e4e4e4; --good: #006b4f; --bad: #a63f00; }
@media (prefers-color-scheme: dark) { :root { --ground: #161718; --paper: #1e2022; \
--ink: #e6e6e6; --muted: #a3a3a3; --line: #37393c; --good: #4cc9a0; --bad: #ff9a5c; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--ground); color: var(--ink); \
font: 15px/1.5 system-ui, -apple-system, \"Segoe UI\", \"Helvetica Neue\", Arial, sans-serif; }
main { max-width: 1180px; margin: 0 auto; padding: 28px 20px 60px; }
h1 { font-size: 26px; line-height: 1.25; margin: 0 0 10px; }
h2 { font-size: 19px; margin: 36px 0 10px; }
p { margin: 8px 0; max-width: 76ch; }
.lead { font-size: 17px; }
nav { margin: 14px 0; color: var(--muted); }
a { color: inherit; text-underline-offset: 3px; }
.figures { display: grid; gap: 14px; margin: 14px 0; \
grid-template-columns: repeat(auto-fit, minmax(min(100%, 520px), 1fr)); }
figure { margin: 0; border: 1px solid var(--line); border-radius: 8px; background: var(--paper); \
overflow: hidden; }
figure svg { display: block; width: 100%; height: auto; }
.wide { overflow-x: auto; margin: 14px 0; }
table { border-collapse: collapse; background: var(--paper); font-size: 14px; }
caption { text-align: left; color: var(--muted); padding: 0 0 6px; }
th, td { padding: 6px 12px; border-bottom: 1px solid var(--line); text-align: left; \
vertical-align: top; }
th { font-weight: 600; color: var(--muted); vertical-align: bottom; }
td small { display: block; font-size: 12px; font-weight: 400; color: var(--muted); \
white-space: nowrap; }
.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
td.good { color: var(--good); font-weight: 600; }
td.bad { color: var(--bad); font-weight: 600; }
.muted { color: var(--muted); }
@media print { figure { break-inside: avoid; } }
";
    let exchanges = [(INK, "--ink"), (MUTED, "--muted"), (GRID, "--line"), (GROUND, "--paper")];
    let mut style = LIGHT.to_owned();
    for (colour, variable) in exchanges {
        for property in ["fill", "stroke"] {
            let _ = writeln!(
                style,
                "figure svg [{property}=\"{colour}\"] {{ {property}: var({variable}); }}"
            );
        }
    }
    style
}
