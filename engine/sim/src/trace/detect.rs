//! Finding out how a trace is written down from its beginning: the names in the first line.

use super::Format;
use super::sink::quoted;
use crate::workload::TraceError;

/// The format of a trace that starts with `start`.
pub(super) fn format(name: &str, start: &[u8]) -> Result<Format, TraceError> {
    let text = String::from_utf8_lossy(start);
    let text = text.trim_start_matches('\u{feff}').trim_start();
    let line = text.lines().next().unwrap_or_default();
    let has = |key: &str| line.contains(&format!("\"{key}\""));
    let column = |column: &str| line.split(',').any(|name| name.trim() == column);
    if line.starts_with('[') {
        return Ok(Format::ShareGpt);
    }
    if line.starts_with('{') {
        let known = [
            (has("requests") && has("block_size"), Format::Weka),
            (has("chat_id"), Format::Bailian),
            (has("input_length"), Format::Mooncake),
        ];
        if let Some(&(_, format)) = known.iter().find(|(is_it, _)| *is_it) {
            return Ok(format);
        }
    }
    let known = [
        (column("ContextTokens"), Format::Azure),
        (column("arrival_s"), Format::ServeGen),
        (column("Request tokens"), Format::BurstGpt),
        (column("num_prefill_tokens"), Format::Lengths),
    ];
    if let Some(&(_, format)) = known.iter().find(|(is_it, _)| *is_it) {
        return Ok(format);
    }
    let names: Vec<&str> = Format::ALL.iter().map(|format| format.name()).collect();
    let seen = if line.is_empty() { "it is empty".to_owned() } else { quoted(line) };
    Err(TraceError::Format {
        file: name.to_owned(),
        message: format!(
            "no known format of a trace begins like this: {seen}. Say which one it has: {}",
            names.join(", ")
        ),
    })
}
