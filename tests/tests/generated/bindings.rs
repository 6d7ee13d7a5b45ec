//! Rust twins of the kernels' parameter structs, from the header that the kernels include.
//!
//! The text is a function of the header alone. The test beside this file and the example that
//! `scripts/generate_bindings` runs share it.

use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;

/// The header, from the root of the workspace.
pub(crate) const HEADER: &str = "kernels/include/params.h";
/// The file that is generated from it.
pub(crate) const BINDINGS: &str = "kernels/src/cuda/params.rs";

const TOP: &str = "\
//! Parameter structs of the kernels. Generated from `kernels/include/params.h`; do not edit.
#![allow(missing_docs, reason = \"the header documents every field\")]
#![allow(clippy::undocumented_unsafe_blocks, reason = \"all zeros is a value of every field\")]

";

/// What [`BINDINGS`] must hold. Needs libclang, where `LIBCLANG_PATH` says, and a C compiler, for
/// the headers that libclang comes without.
pub(crate) fn generate(root: &Path) -> String {
    let header = root.join(HEADER);
    let structs = bindgen::builder()
        .header(header.to_string_lossy())
        .clang_arg(format!("-I{}", compiler_headers()))
        .layout_tests(false)
        .generate_comments(false)
        .derive_default(true)
        .allowlist_file(".*params.h")
        .use_core()
        .disable_header_comment()
        .formatter(bindgen::Formatter::Prettyplease)
        .generate()
        .unwrap_or_else(|error| panic!("{HEADER}: {error}"));
    let text = std::fs::read_to_string(&header).expect("the header");
    let mut bindings = format!("{TOP}{structs}");
    for name in names(&text).filter(|name| name.ends_with("Params")) {
        write!(
            bindings,
            "\n// SAFETY: `repr(C)`, generated from the header.\n\
             unsafe impl super::Params for {name} {{}}\n"
        )
        .expect("a string takes everything");
    }
    bindings
}

/// Names of the structs, in order.
fn names(header: &str) -> impl Iterator<Item = &str> {
    header.lines().filter_map(|line| line.strip_prefix("} ")?.strip_suffix(';'))
}

/// Where the C compiler keeps `stddef.h` and the like.
fn compiler_headers() -> String {
    let output = Command::new("cc")
        .arg("-print-file-name=include")
        .output()
        .expect("`cc` says where its headers are");
    String::from_utf8(output.stdout).expect("a path in UTF-8").trim().to_owned()
}
