//! Tests of the text side against Hugging Face's own output, the tokenizers library and brute
//! force.

mod chat;
mod detokenizer;
mod goldens;
mod length;
mod messages;
mod stop;
mod tokenizer;

use std::path::PathBuf;

/// A file under tests/golden of the repository.
fn golden(path: &str) -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "..", "tests", "golden", path].iter().collect()
}

fn read(path: &str) -> Vec<u8> {
    let path = golden(path);
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn read_json(path: &str) -> serde_json::Value {
    serde_json::from_slice(&read(path)).unwrap()
}
