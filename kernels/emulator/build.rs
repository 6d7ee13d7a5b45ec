//! Compiles the kernels and the emulator around them with the system's C++ compiler, each file again
//! only when something that it includes has changed.
#![allow(clippy::print_stdout, reason = "that is how a build script speaks to cargo")]

use std::ffi::OsString;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::time::SystemTime;

/// What the compiler watches for in kernels: `cpp/sanitizer.cpp` makes errors of launches of it.
const SANITIZERS: &str = "-fsanitize=alignment,bounds,shift,integer-divide-by-zero";

fn main() {
    let emulator = PathBuf::from(variable("CARGO_MANIFEST_DIR"));
    for changed in ["device.h", "cpp", "tests-cuda", "../cuda", "../include", "build.rs"] {
        println!("cargo:rerun-if-changed={}", emulator.join(changed).display());
    }
    if variable("CARGO_CFG_TARGET_ARCH") != "x86_64" {
        fail(
            "the CUDA emulator runs on x86-64 only: leave out folio-emulator and what tests with it",
        );
    }
    let mut build = cc::Build::new();
    build.cpp(true).std("c++17").opt_level(2).warnings(true).extra_warnings(true);
    build.flag("-g1").flag("-mavx2").flag("-mf16c");
    build.flag("-ffp-contract=off").flag("-fno-strict-aliasing");
    build.flag("-Wno-unknown-pragmas").flag("-Wno-sign-compare");
    let out = PathBuf::from(variable("OUT_DIR"));
    let compiler = match build.try_get_compiler() {
        Ok(compiler) => compiler,
        Err(error) => fail(&format!("the CUDA emulator needs g++ or clang++: {error}")),
    };
    let folders = [emulator.join("../cuda"), emulator.join("cpp"), emulator.join("tests-cuda")];
    let units: Vec<_> = folders
        .iter()
        .flat_map(|folder| sources(folder))
        .map(|source| Unit::new(source, &out, &|| compiler.to_command()))
        .collect();
    if let Err(message) = compile_all(&units) {
        fail(&message);
    }
    let objects = units.iter().map(|unit| &unit.object);
    // All of it: nothing names the kernels, they join a list by themselves.
    build.objects(objects).link_lib_modifier("+whole-archive").compile("folio_emulator_kernels");
}

/// A file to compile.
struct Unit {
    source: PathBuf,
    object: PathBuf,
    command: Mutex<Command>,
}

impl Unit {
    fn new(source: PathBuf, out: &Path, compiler: &dyn Fn() -> Command) -> Self {
        let mut command = compiler();
        let is_kernel = source.extension().is_some_and(|kind| kind == "cu");
        if is_kernel {
            command.args(["-DFOLIO_EMULATOR", SANITIZERS]);
        }
        let mut hasher = DefaultHasher::new();
        (command.get_program(), command.get_args().collect::<Vec<_>>(), &source).hash(&mut hasher);
        let stem = source.file_stem().unwrap_or_default().to_string_lossy();
        let object = out.join(format!("{stem}-{:016x}.o", hasher.finish()));
        let input = if is_kernel { private(&source, out) } else { source.clone() };
        command.args(["-MMD", "-c"]).arg(input).arg("-o").arg(&object);
        Self { source, object, command: Mutex::new(command) }
    }

    /// Whether the object is newer than all files it was made of, which the compiler has listed.
    fn is_fresh(&self) -> bool {
        let Some(made) = modified(&self.object) else { return false };
        let Ok(list) = std::fs::read_to_string(self.object.with_extension("d")) else {
            return false;
        };
        let inputs = list.split_once(": ").map_or("", |(_, inputs)| inputs);
        let mut inputs = inputs.split_ascii_whitespace().filter(|&word| word != "\\");
        inputs.all(|input| modified(Path::new(input)).is_some_and(|changed| changed < made))
    }

    /// Compiles it; warnings and errors are said once.
    fn compile(&self) -> Result<(), String> {
        if self.is_fresh() {
            return Ok(());
        }
        let mut command = self.command.lock().map_err(|error| error.to_string())?;
        let output = command.output().map_err(|error| format!("cannot run c++: {error}"))?;
        for line in String::from_utf8_lossy(&output.stderr).lines() {
            println!("cargo:warning={line}");
        }
        if output.status.success() {
            return Ok(());
        }
        let _ = std::fs::remove_file(&self.object);
        Err(format!("{} does not compile", self.source.display()))
    }
}

/// A C++ file that includes a kernel file in a namespace of its own: on a GPU each is linked by
/// itself, and may use names that another uses as well.
fn private(source: &Path, out: &Path) -> PathBuf {
    let words = PathBuf::from(variable("CARGO_MANIFEST_DIR")).join("../cuda/device.cuh");
    let text = format!("#include {words:?}\nnamespace {{\n#include {source:?}\n}} // namespace\n",);
    let file = out.join(source.file_stem().unwrap_or_default()).with_extension("cu.cpp");
    if std::fs::read_to_string(&file).ok().as_ref() != Some(&text)
        && let Err(error) = std::fs::write(&file, text)
    {
        fail(&format!("cannot write {}: {error}", file.display()));
    }
    file
}

/// Compiles as many files at once as cargo runs jobs.
fn compile_all(units: &[Unit]) -> Result<(), String> {
    let num_jobs = std::env::var("NUM_JOBS").ok().and_then(|jobs| jobs.parse().ok()).unwrap_or(1);
    let left = Mutex::new(units.iter());
    let work = || {
        while let Some(unit) = left.lock().ok().and_then(|mut left| left.next()) {
            unit.compile()?;
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..num_jobs).map(|_| scope.spawn(work)).collect();
        workers.into_iter().try_for_each(|worker| match worker.join() {
            Ok(result) => result,
            Err(_) => Err("a compiling thread has panicked".to_owned()),
        })
    })
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

fn modified(path: &Path) -> Option<SystemTime> {
    path.metadata().and_then(|metadata| metadata.modified()).ok()
}

fn variable(name: &str) -> OsString {
    std::env::var_os(name).unwrap_or_default()
}

fn fail(message: &str) -> ! {
    println!("cargo:warning={message}");
    std::process::exit(1);
}
