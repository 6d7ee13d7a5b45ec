//! Writes the Rust twins of the kernels' parameter structs; `scripts/generate_bindings` runs it.
#![allow(clippy::expect_used, reason = "a tool for developers")]

#[path = "../tests/generated/bindings.rs"]
mod bindings;

use std::path::Path;

fn main() -> std::io::Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace");
    std::fs::write(root.join(bindings::BINDINGS), bindings::generate(root))
}
