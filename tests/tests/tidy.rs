//! The rules of the tree that no lint can hold: direction of imports, sizes, banned constructs.
#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a failure here is a failed test")]

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

/// A pattern that must not occur under a folder, and why.
struct Ban {
    under: &'static [&'static str],
    except: &'static [&'static str],
    pattern: &'static str,
    why: &'static str,
}

const BANS: &[Ban] = &[
    Ban {
        under: &["engine/src/sched", "engine/src/types"],
        except: &[],
        pattern: "crate::exec",
        why: "the scheduler knows no executor",
    },
    Ban {
        under: &["engine/src/sched", "engine/src/types"],
        except: &[],
        pattern: "crate::ops",
        why: "the scheduler knows no tensor",
    },
    Ban {
        under: &["engine/src/sched", "engine/src/types", "engine/src/ops"],
        except: &[],
        pattern: "crate::model",
        why: "models stand above ops and beside the scheduler",
    },
    Ban {
        under: &["engine/src/sched", "engine/src/types", "engine/src/model"],
        except: &["engine/src/model/weights.rs"],
        pattern: "folio_kernels",
        why: "only ops and executors name the kernels; the loader maps files through them",
    },
    Ban {
        under: &["engine/src/sched", "engine/src/exec", "engine/src/model", "engine/src/ops"],
        except: &[],
        pattern: "Mutex",
        why: "one thread owns the step path",
    },
    Ban {
        under: &["engine/src", "engine/sim/src", "kernels/src"],
        except: &["engine/src/types/clock.rs"],
        pattern: "Instant::now",
        why: "time comes from a Clock",
    },
    Ban {
        under: &["kernels/src"],
        except: &[],
        pattern: "folio_engine",
        why: "kernels know nothing of serving",
    },
    Ban {
        under: &["engine/sim"],
        except: &[],
        pattern: "folio::",
        why: "the simulator knows no server",
    },
    Ban {
        under: &["server/src"],
        except: &[],
        pattern: "folio_kernels",
        why: "the server never sees a kernel",
    },
    Ban {
        under: &["server/src"],
        except: &[],
        pattern: "sched::Sequence",
        why: "the server never sees a sequence",
    },
    Ban {
        under: &["server/src"],
        except: &[],
        pattern: "BlockAllocator",
        why: "the server never sees a block",
    },
    Ban {
        under: &["engine/src", "engine/sim", "kernels/src", "server/src"],
        except: &["server/src/args.rs"],
        pattern: "env::var",
        why: "only the arguments file reads the environment",
    },
    Ban {
        under: &["engine/src", "engine/sim", "kernels/src", "server/src"],
        except: &[],
        pattern: "thread_local!",
        why: "state has an owner",
    },
    Ban {
        under: &["engine/src", "engine/sim", "kernels/src", "server/src"],
        except: &[],
        pattern: "static mut",
        why: "state has an owner",
    },
    Ban {
        under: &["engine/src", "engine/sim", "server/src", "tests", "benches"],
        except: &["tests/tests/tidy.rs"],
        pattern: "unsafe {",
        why: "unsafe lives in kernels",
    },
    Ban {
        under: &["engine/src", "engine/sim", "kernels/src", "server/src", "tests", "benches"],
        except: &["tests/tests/tidy.rs"],
        pattern: "#[ignore",
        why: "a test runs or prints why it does not",
    },
    Ban {
        under: &["tests", "engine/src", "engine/sim", "server/src"],
        except: &["tests/tests/tidy.rs"],
        pattern: "thread::sleep",
        why: "wait for a condition, not for a time",
    },
];

const MAX_CODE_LINES: usize = 500;
const MAX_COLUMNS: usize = 100;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace").to_path_buf()
}

/// All Rust files of the workspace: path relative to the root, and text.
fn sources() -> Vec<(String, String)> {
    let mut files = Vec::new();
    for member in ["kernels", "engine", "server", "benches", "tests"] {
        collect(&root().join(member), &mut files);
    }
    assert!(files.len() > 30, "the walk found only {} files", files.len());
    files
}

fn collect(folder: &Path, files: &mut Vec<(String, String)>) {
    for entry in std::fs::read_dir(folder).expect("a readable folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            collect(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let name = path.strip_prefix(root()).expect("inside the workspace");
            let text = std::fs::read_to_string(&path).expect("UTF-8");
            files.push((name.to_string_lossy().into_owned(), text));
        }
    }
}

fn is_comment(line: &str) -> bool {
    line.trim_start().starts_with("//")
}

/// Lines that hold code, without the in-file test module.
fn num_code_lines(text: &str) -> usize {
    let product = text.split("\n#[cfg(test)]").next().unwrap_or(text);
    product.lines().filter(|line| !line.trim().is_empty() && !is_comment(line)).count()
}

#[test]
fn imports_point_downward_and_nothing_banned_occurs() {
    let mut found = String::new();
    for (name, text) in sources() {
        for ban in BANS {
            let applies = ban.under.iter().any(|folder| name.starts_with(folder))
                && !ban.except.contains(&name.as_str());
            if !applies {
                continue;
            }
            for (number, line) in text.lines().enumerate() {
                if line.contains(ban.pattern) && !is_comment(line) {
                    let Ban { pattern, why, .. } = ban;
                    let _ = writeln!(found, "{name}:{}: {pattern}: {why}", number + 1);
                }
            }
        }
    }
    assert!(found.is_empty(), "\n{found}");
}

#[test]
fn files_and_lines_stay_readable() {
    let mut found = String::new();
    for (name, text) in sources() {
        let num_lines = num_code_lines(&text);
        let is_test = name.starts_with("tests/") || name.contains("tests");
        let is_generated = text.lines().take(2).any(|line| line.contains("do not edit"));
        if num_lines > MAX_CODE_LINES && !is_test && !is_generated {
            let _ = writeln!(found, "{name}: {num_lines} code lines, at most {MAX_CODE_LINES}");
        }
        for (number, line) in text.lines().enumerate() {
            if line.chars().count() > MAX_COLUMNS {
                let _ = writeln!(found, "{name}:{}: over {MAX_COLUMNS} columns", number + 1);
            }
        }
    }
    assert!(found.is_empty(), "\n{found}");
}

#[test]
fn every_module_opens_with_its_purpose() {
    let mut found = String::new();
    for (name, text) in sources() {
        let is_included_test = text.starts_with("use ") && name.contains("tests");
        if !text.starts_with("//!") && !is_included_test {
            let _ = writeln!(found, "{name}: no //! header");
        }
        let header = text.lines().take_while(|line| line.starts_with("//!")).count();
        if header > 12 && !name.ends_with("lib.rs") {
            let _ = writeln!(found, "{name}: a header of {header} lines, at most 12");
        }
    }
    assert!(found.is_empty(), "\n{found}");
}

#[test]
fn the_changelog_has_an_unreleased_section() {
    let text = std::fs::read_to_string(root().join("CHANGELOG.md")).expect("CHANGELOG.md");
    assert!(text.contains("## Unreleased"), "CHANGELOG.md has no Unreleased section");
}
