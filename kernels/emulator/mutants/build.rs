//! Compiles a copy of a kernel file for each mutant, with its change made, under names of its own.
#![allow(clippy::print_stdout, reason = "that is how a build script speaks to cargo")]

#[path = "../compile.rs"]
#[allow(dead_code, reason = "it has more for the emulator itself")]
mod compile;
#[path = "src/table.rs"]
#[allow(unreachable_pub, reason = "the library has it too")]
mod table;

use std::path::{Path, PathBuf};

use compile::{Compiler, Unit};
use table::{MUTANTS, Mutant};

fn main() -> Result<(), String> {
    let manifest = PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").unwrap_or_default());
    let out = PathBuf::from(std::env::var_os("OUT_DIR").unwrap_or_default());
    let emulator = manifest.join("..");
    let kernels = emulator.join("../cuda");
    for changed in ["../device.h", "../cpp", "../compile.rs", "../../cuda", "src/table.rs"] {
        println!("cargo:rerun-if-changed={}", manifest.join(changed).display());
    }
    let compiler = Compiler::new(&emulator, &out)?;
    let mut units = Vec::new();
    for mutant in MUTANTS {
        units.extend(make(mutant, &kernels, &out, &compiler)?);
    }
    compiler.archive(&units, "folio_mutant_kernels")
}

/// Writes a mutant's copy of its file and of all headers, of which one or the other is changed;
/// nothing where the text that it changes is not there once, which a test says.
fn make(
    mutant: &Mutant,
    kernels: &Path,
    out: &Path,
    compiler: &Compiler,
) -> Result<Option<Unit>, String> {
    let folder = out.join(mutant.name);
    std::fs::create_dir_all(&folder).map_err(|error| error.to_string())?;
    let original = read(&kernels.join(mutant.file))?;
    let places = places(&original, mutant.before);
    let [(begin, end)] = places[..] else { return Ok(None) };
    let changed = format!("{}{}{}", &original[..begin], mutant.after, &original[end..]);
    let mut files = headers(kernels)?;
    files.push(mutant.unit.to_owned());
    for file in &files {
        let is_changed = file == mutant.file;
        let mut text = if is_changed { changed.clone() } else { read(&kernels.join(file))? };
        if file == mutant.unit {
            text = only(&text, mutant.kernel);
        }
        write(&folder.join(file), &text)?;
    }
    let flags = [
        format!("-I{}", kernels.display()),
        format!("-DEMULATOR_VARIANT=\"__{}\"", mutant.name),
        // What is planted may look odd, and helpers of other kernels have no users here.
        "-w".to_owned(),
        "-O1".to_owned(),
    ];
    compiler.kernel(folder.join(mutant.unit), &flags).map(Some)
}

/// Where `pattern` begins and ends in `text`, a space in it standing for any white space.
fn places(text: &str, pattern: &str) -> Vec<(usize, usize)> {
    let end = |begin: usize| {
        let mut rest = &text[begin..];
        for (i, word) in pattern.split(' ').enumerate() {
            if i > 0 {
                let trimmed = rest.trim_start();
                if trimmed.len() == rest.len() {
                    return None;
                }
                rest = trimmed;
            }
            rest = rest.strip_prefix(word)?;
        }
        Some(text.len() - rest.len())
    };
    let first_word = pattern.split(' ').next().unwrap_or_default();
    let begins = text.match_indices(first_word).map(|(begin, _)| begin);
    begins.filter_map(|begin| Some((begin, end(begin)?))).collect()
}

/// Names of the headers that kernel files share, but for the one that there must be once.
fn headers(kernels: &Path) -> Result<Vec<String>, String> {
    let entries = std::fs::read_dir(kernels).map_err(|error| error.to_string())?;
    let paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
    let headers = paths.filter(|path| path.extension().is_some_and(|kind| kind == "cuh"));
    let names = headers.filter_map(|path| path.file_name()?.to_str().map(str::to_owned));
    Ok(names.filter(|name| name != "device.cuh").collect())
}

/// A kernel file with one entry point of all it has.
fn only(text: &str, kernel: &str) -> String {
    let mut lines = Vec::new();
    let mut is_dropping = false;
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("FOLIO_KERNEL(") {
            is_dropping = !rest.starts_with(&format!("{kernel},"));
        }
        if !is_dropping {
            lines.push(line);
        }
        is_dropping &= !line.ends_with('}');
    }
    lines.join("\n") + "\n"
}

fn read(path: &Path) -> Result<String, String> {
    std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))
}

/// Writes a file unless it is there already, so that it is compiled only when it has changed.
fn write(path: &Path, text: &str) -> Result<(), String> {
    if std::fs::read_to_string(path).is_ok_and(|old| old == text) {
        return Ok(());
    }
    std::fs::write(path, text).map_err(|error| format!("{}: {error}", path.display()))
}
