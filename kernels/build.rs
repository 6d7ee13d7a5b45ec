//! Makes a table of the compiled kernels in `fatbin/`, which `src/cuda/nvidia/modules.rs` embeds.
//!
//! It compiles nothing: `scripts/build_kernels` does, for those who change a kernel.
#![allow(clippy::print_stdout, reason = "this is how a build script talks to cargo")]

use std::error::Error;
use std::fmt::Write as _;
use std::path::Path;

fn main() -> Result<(), Box<dyn Error>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fatbin");
    println!("cargo::rerun-if-changed={}", folder.display());
    let mut files = Vec::new();
    for entry in std::fs::read_dir(&folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "fatbin") {
            files.push(path);
        }
    }
    files.sort();

    let mut table = String::from("&[\n");
    for path in &files {
        println!("cargo::rerun-if-changed={}", path.display());
        let family = path.file_stem().unwrap_or_default().to_string_lossy();
        let path = path.to_string_lossy();
        let bytes = format!("&Aligned(*include_bytes!({path:?})).0");
        writeln!(table, "    Fatbin {{ family: {family:?}, bytes: {bytes} }},")?;
    }
    table.push(']');
    let out = std::env::var_os("OUT_DIR").ok_or("cargo sets OUT_DIR")?;
    std::fs::write(Path::new(&out).join("fatbins.rs"), table)?;
    Ok(())
}
