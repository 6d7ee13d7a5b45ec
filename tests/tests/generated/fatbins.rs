//! Whether kernels/fatbin holds what kernels/cuda says, by hashes alone: no compiler is needed.
//!
//! `scripts/build_kernels` writes one line a family into the manifest: a hash over its sources,
//! headers, flags and compiler versions, and the hash of the fatbin that came out.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::{Component, Path, PathBuf};

use sha2::{Digest, Sha256};

const SOURCES: &str = "kernels/cuda";
const FATBINS: &str = "kernels/fatbin";
/// What every family depends on beside its own source.
const COMMON: [&str; 2] = ["kernels/cuda/nvcc.txt", "scripts/cuda.txt"];

/// One line of the manifest.
#[derive(Debug, PartialEq, Eq)]
struct Line {
    sources: String,
    fatbin: String,
}

/// What differs, a sentence each.
pub(crate) fn differences(root: &Path) -> Vec<String> {
    let manifest = read_manifest(&root.join(FATBINS).join("MANIFEST"));
    let families = stems(&root.join(SOURCES), "cu");
    let fatbins = stems(&root.join(FATBINS), "fatbin");
    let mut wrong = Vec::new();
    for family in &families {
        let name = format!("{FATBINS}/{family}.fatbin");
        let Some(line) = manifest.get(family) else {
            wrong.push(format!("{SOURCES}/{family}.cu has no compiled form"));
            continue;
        };
        if line.sources != source_hash(root, family) {
            wrong.push(format!("{SOURCES}/{family}.cu, or what it includes, has changed"));
        } else if !fatbins.contains(family) {
            wrong.push(format!("{name} is missing"));
        } else if line.fatbin != hash(&root.join(&name)) {
            wrong.push(format!("{name} is not the file that was compiled"));
        }
    }
    let known = manifest.keys().chain(&fatbins).filter(|family| !families.contains(*family));
    wrong.extend(known.map(|family| format!("{SOURCES}/{family}.cu is gone, its fatbin is not")));
    wrong
}

/// Lines of the manifest by family; none where there is no manifest.
fn read_manifest(path: &Path) -> BTreeMap<String, Line> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines
        .map(|line| {
            let words: Vec<_> = line.split(' ').collect();
            let [sources, fatbin, family] = words[..] else { panic!("manifest: `{line}`") };
            let line = Line { sources: sources.to_owned(), fatbin: fatbin.to_owned() };
            (family.to_owned(), line)
        })
        .collect()
}

/// Names of the files of a folder that end so, without the ending.
fn stems(folder: &Path, extension: &str) -> BTreeSet<String> {
    let entries = std::fs::read_dir(folder).expect("a folder");
    entries
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.extension().is_some_and(|found| found == extension))
        .map(|path| path.file_stem().expect("a name").to_string_lossy().into_owned())
        .collect()
}

/// The hash of a list of hashes, as `sha256sum FILE... | sha256sum` makes it.
fn source_hash(root: &Path, family: &str) -> String {
    let mut files = BTreeSet::new();
    collect(root, Path::new(&format!("{SOURCES}/{family}.cu")), &mut files);
    files.extend(COMMON.map(str::to_owned));
    let mut list = String::new();
    for file in files {
        writeln!(list, "{}  {file}", hash(&root.join(&file))).expect("a string takes everything");
    }
    hex(&Sha256::digest(list.as_bytes()))
}

/// Adds a source and all that it includes by `"…"`, but for the emulator's twins.
fn collect(root: &Path, file: &Path, files: &mut BTreeSet<String>) {
    if !files.insert(file.to_string_lossy().into_owned()) {
        return;
    }
    let text = std::fs::read_to_string(root.join(file)).expect("a source in UTF-8");
    for line in text.lines() {
        let include = line.trim_start().strip_prefix('#').map(str::trim_start);
        let Some(rest) = include.and_then(|rest| rest.strip_prefix("include \"")) else { continue };
        let name = rest.split('"').next().expect("split gives one part");
        if !name.contains("emulator/") {
            collect(root, &normal(&file.with_file_name(name)), files);
        }
    }
}

/// The path without `..`.
fn normal(path: &Path) -> PathBuf {
    let mut result = PathBuf::new();
    for component in path.components() {
        if component == Component::ParentDir {
            result.pop();
        } else {
            result.push(component);
        }
    }
    result
}

fn hash(file: &Path) -> String {
    hex(&Sha256::digest(std::fs::read(file).expect("a readable file")))
}

fn hex(bytes: &[u8]) -> String {
    let mut text = String::new();
    for byte in bytes {
        write!(text, "{byte:02x}").expect("a string takes everything");
    }
    text
}
