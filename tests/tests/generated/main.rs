//! Files that are generated and checked in: are they what their sources give today?
#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a failure here is a failed test")]
#![allow(clippy::print_stderr, reason = "a test that cannot run says so")]

mod bindings;
mod fatbins;

use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace").to_path_buf()
}

#[test]
fn bindings_are_what_the_header_gives() {
    if std::env::var_os("LIBCLANG_PATH").is_none() {
        eprintln!(
            "libclang is not there, so {} was not compared with {}; scripts/test fetches it",
            bindings::BINDINGS,
            bindings::HEADER
        );
        return;
    }
    let found = std::fs::read_to_string(root().join(bindings::BINDINGS)).expect("the bindings");
    let expected = bindings::generate(&root());
    let same = found == expected;
    assert!(same, "{} has changed: run scripts/generate_bindings", bindings::HEADER);
}

#[test]
fn fatbins_are_compiled_from_these_sources() {
    let wrong = fatbins::differences(&root());
    assert!(wrong.is_empty(), "run scripts/build_kernels:\n{}", wrong.join("\n"));
}
