//! Compiles the kernels and the emulator around them.
#![allow(clippy::print_stdout, reason = "that is how a build script speaks to cargo")]

#[path = "compile.rs"]
mod compile;

use std::path::{Path, PathBuf};

use compile::Compiler;

/// What the compiler watches for in kernels: `cpp/sanitizer.cpp` makes errors of launches of it.
const SANITIZERS: &str = "-fsanitize=alignment,bounds,shift,integer-divide-by-zero";

fn main() -> Result<(), String> {
    let emulator = PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").unwrap_or_default());
    let out = PathBuf::from(std::env::var_os("OUT_DIR").unwrap_or_default());
    for changed in ["device.h", "cpp", "tests-cuda", "../cuda", "../include", "compile.rs"] {
        println!("cargo:rerun-if-changed={}", emulator.join(changed).display());
    }
    let compiler = Compiler::new(&emulator, &out)?;
    let mut units = Vec::new();
    for source in sources(&emulator.join("cpp")) {
        units.push(compiler.unit(source)?);
    }
    for folder in ["../cuda", "tests-cuda"] {
        for source in sources(&emulator.join(folder)) {
            units.push(compiler.kernel(source, &[SANITIZERS.to_owned()])?);
        }
    }
    compiler.archive(&units, "folio_emulator_kernels")
}

/// The .cu and .cpp files of a folder, in order of their names.
fn sources(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten();
    let mut files: Vec<_> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|kind| kind == "cu" || kind == "cpp"))
        .collect();
    files.sort();
    files
}
