//! What the build scripts of the emulator and of its mutants share: kernel files go through the
//! system's C++ compiler, each again only when something that it includes has changed.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::time::SystemTime;

type Result<T> = std::result::Result<T, String>;

/// A C++ compiler with the flags that all files have in common.
pub(crate) struct Compiler {
    build: cc::Build,
    emulator: PathBuf,
    out: PathBuf,
}

impl Compiler {
    /// The system's compiler; `emulator` is the folder of `device.h`, `out` is for objects.
    pub(crate) fn new(emulator: &Path, out: &Path) -> Result<Self> {
        if !std::env::var("CARGO_CFG_TARGET_ARCH").is_ok_and(|arch| arch == "x86_64") {
            return Err(
                "the CUDA emulator runs on x86-64 only: leave out what tests with it".into()
            );
        }
        let mut build = cc::Build::new();
        build.cpp(true).std("c++17").opt_level(2).warnings(true).extra_warnings(true);
        // AVX2 and F16C: x86-64-v3, any such processor of the last ten years.
        build.flag("-g1").flag("-mavx2").flag("-mf16c");
        build.flag("-ffp-contract=off").flag("-fno-strict-aliasing");
        build.flag("-Wno-unknown-pragmas").flag("-Wno-sign-compare");
        Ok(Self { build, emulator: emulator.to_owned(), out: out.to_owned() })
    }

    /// A file of ordinary C++.
    pub(crate) fn unit(&self, source: PathBuf) -> Result<Unit> {
        Ok(Unit::new(&self.out, source.clone(), (self.command()?, source)))
    }

    /// A kernel file, with flags of its own. It is included in a namespace of its own: on a GPU
    /// each is linked by itself, and may use names that another uses as well.
    pub(crate) fn kernel(&self, source: PathBuf, flags: &[String]) -> Result<Unit> {
        let mut command = self.command()?;
        command.arg("-DFOLIO_EMULATOR").args(flags);
        let words = self.emulator.join("../cuda/device.cuh");
        let (words, text) = (words.display(), source.display());
        let text =
            format!("#include \"{words}\"\nnamespace {{\n#include \"{text}\"\n}} // namespace\n");
        let mut hasher = DefaultHasher::new();
        source.hash(&mut hasher);
        let file = self.out.join(format!("{}-{:016x}.cpp", stem(&source), hasher.finish()));
        if std::fs::read_to_string(&file).ok().as_ref() != Some(&text) {
            std::fs::write(&file, text).map_err(|error| format!("{}: {error}", file.display()))?;
        }
        Ok(Unit::new(&self.out, source, (command, file)))
    }

    /// Compiles `units` and makes a library of them that is linked whole: nothing names the
    /// kernels, they join a list by themselves.
    pub(crate) fn archive(mut self, units: &[Unit], library: &str) -> Result<()> {
        compile_all(units)?;
        self.build.objects(units.iter().map(|unit| &unit.object));
        self.build.link_lib_modifier("+whole-archive");
        self.build.try_compile(library).map_err(|error| error.to_string())
    }

    fn command(&self) -> Result<Command> {
        let compiler = self.build.try_get_compiler();
        let compiler =
            compiler.map_err(|error| format!("the CUDA emulator needs g++ or clang++: {error}"))?;
        Ok(compiler.to_command())
    }
}

/// A file to compile.
pub(crate) struct Unit {
    source: PathBuf,
    object: PathBuf,
    command: Mutex<Command>,
}

impl Unit {
    fn new(out: &Path, source: PathBuf, (mut command, input): (Command, PathBuf)) -> Self {
        let mut hasher = DefaultHasher::new();
        (command.get_program(), command.get_args().collect::<Vec<_>>(), &source).hash(&mut hasher);
        let object = out.join(format!("{}-{:016x}.o", stem(&source), hasher.finish()));
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
    fn compile(&self) -> Result<()> {
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

/// Compiles as many files at once as cargo runs jobs.
fn compile_all(units: &[Unit]) -> Result<()> {
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

fn stem(path: &Path) -> std::borrow::Cow<'_, str> {
    path.file_stem().unwrap_or_default().to_string_lossy()
}

fn modified(path: &Path) -> Option<SystemTime> {
    path.metadata().and_then(|metadata| metadata.modified()).ok()
}
