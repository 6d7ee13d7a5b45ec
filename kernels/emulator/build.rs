//! Compiles the kernels and the emulator around them with the system's C++ compiler.
#![allow(clippy::print_stdout, reason = "that is how a build script speaks to cargo")]

use std::path::{Path, PathBuf};

fn main() {
    let emulator = PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").unwrap_or_default());
    let kernels = emulator.join("../cuda");
    for changed in ["device.h", "cpp", "tests-cuda", "../cuda", "../include"] {
        println!("cargo:rerun-if-changed={}", emulator.join(changed).display());
    }
    let mut build = cc::Build::new();
    build
        .cpp(true)
        .std("c++17")
        .opt_level(2)
        .debug(true)
        .define("FOLIO_EMULATOR", None)
        // A .cu file is C++ here.
        .flag("-xc++")
        .flag("-ffp-contract=off")
        .flag("-fno-strict-aliasing")
        .flag("-Wno-unknown-pragmas")
        .link_lib_modifier("+whole-archive");
    if std::env::var("CARGO_CFG_TARGET_ARCH").is_ok_and(|arch| arch == "x86_64") {
        build.flag("-mavx2").flag("-mf16c");
    }
    let folders = [kernels, emulator.join("cpp"), emulator.join("tests-cuda")];
    let files = folders.iter().flat_map(|folder| sources(folder));
    build.files(files);
    if let Err(error) = build.try_compile("folio_emulator_kernels") {
        println!("cargo:warning=the CUDA emulator needs a C++17 compiler, such as Debian's g++");
        println!("cargo:warning={error}");
        std::process::exit(1);
    }
}

/// The .cu and .cpp files of a folder, in order of their names; none if there is no such folder.
fn sources(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten();
    let mut files: Vec<_> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|kind| kind == "cu" || kind == "cpp"))
        .collect();
    files.sort();
    files
}
