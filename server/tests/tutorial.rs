//! The commands of the tutorial, run as they stand.

#![allow(clippy::expect_used, reason = "a test fails by panicking")]

use std::path::{Path, PathBuf};
use std::process::Command;

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace").to_path_buf()
}

/// The commands of the `console` blocks: lines behind `$ `, and behind `>` what belongs to them.
fn commands(text: &str) -> String {
    let mut script = String::new();
    let mut is_console = false;
    for line in text.lines() {
        if let Some(language) = line.strip_prefix("```") {
            is_console = language == "console";
            continue;
        }
        let rest = line.strip_prefix("$ ").or_else(|| line.strip_prefix("> "));
        let rest = rest.or_else(|| line.strip_prefix('>'));
        if let (true, Some(rest)) = (is_console, rest) {
            script.push_str(rest);
            script.push('\n');
        }
    }
    script
}

#[test]
#[cfg(unix)]
fn every_command_of_the_tutorial_runs() {
    let text = std::fs::read_to_string(workspace().join("docs/policy-tutorial.md"));
    let script = commands(&text.expect("the tutorial"));
    assert!(script.lines().filter(|line| line.starts_with("folio ")).count() >= 8, "{script}");
    let program = Path::new(env!("CARGO_BIN_EXE_folio"));
    let place = std::env::temp_dir().join(format!("folio-tutorial-{}", std::process::id()));
    std::fs::create_dir_all(&place).expect("a place");
    let path = format!(
        "{}:{}",
        program.parent().expect("a directory").display(),
        std::env::var("PATH").unwrap_or_default()
    );
    let output = Command::new("bash")
        .args(["-euo", "pipefail", "-c", &script])
        .current_dir(&place)
        .env("PATH", path)
        .output()
        .expect("bash runs");
    let (stdout, stderr) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{script}\n{stdout}\n{stderr}");
    // What is run twice is kept: the second sweep has the runs of the first.
    assert!(stdout.contains(" kept), "), "{stdout}");
    assert!(stdout.contains("What got worse") || stdout.contains("worse"), "{stdout}");
    for page in ["idea-results/report.html", "compared.html"] {
        let page = std::fs::read_to_string(place.join(page)).expect("a page");
        assert!(page.contains("<svg ") && page.contains("Numbers"));
    }
    for figure in ["ttft-by-rate.svg", "ttft-by-rate.csv"] {
        assert!(place.join("idea-results/report-figures").join(figure).is_file(), "{figure}");
    }
    std::fs::remove_dir_all(&place).expect("the place goes");
}
