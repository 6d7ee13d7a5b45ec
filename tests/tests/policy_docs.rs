//! What `docs/policies.md` says of policies and features is what the program knows.
#![allow(clippy::expect_used, reason = "a failure here is a failed test")]

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use folio_engine::sched::{Feature, Registry, Staleness};

const BEGIN: &str = "<!-- features: held against the program by tests/tests/policy_docs.rs -->\n";
const END: &str = "<!-- end of features -->\n";
const UPDATE: &str = "FOLIO_UPDATE_DOCS=1 cargo test -p folio-tests --test policy_docs";

fn page() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace");
    root.join("docs/policies.md")
}

fn tables() -> String {
    let mut text = String::from("\n| feature of a request | | ranked anew |\n|---|---|---|\n");
    for feature in Feature::ALL.iter().filter(|feature| feature.is_of_request()) {
        let when = match feature.staleness {
            Staleness::Arrival => "never",
            Staleness::Tenant => "with its tenant",
            Staleness::Step => "each step",
        };
        let _ = writeln!(text, "| `{}` | {} | {when} |", feature.name, feature.help);
    }
    text += "\n| feature of the step | |\n|---|---|\n";
    for feature in Feature::ALL.iter().filter(|feature| !feature.is_of_request()) {
        let _ = writeln!(text, "| `{}` | {} |", feature.name, feature.help);
    }
    text
}

#[test]
fn the_page_has_every_feature() {
    let page = page();
    let old = std::fs::read_to_string(&page).expect("the page");
    let (before, rest) = old.split_once(BEGIN).expect("the first mark");
    let (table, after) = rest.split_once(END).expect("the second mark");
    if std::env::var_os("FOLIO_UPDATE_DOCS").is_some() {
        std::fs::write(&page, format!("{before}{BEGIN}{}\n{END}{after}", tables()))
            .expect("writing");
        return;
    }
    assert_eq!(table.trim(), tables().trim(), "docs/policies.md is stale: {UPDATE}");
}

#[test]
fn the_page_names_every_policy() {
    let page = std::fs::read_to_string(page()).expect("the page");
    for name in Registry::builtin().names() {
        let is_named =
            page.contains(&format!("| `{name}` |")) || page.contains(&format!("`{name} "));
        assert!(is_named, "{name} is not in docs/policies.md");
    }
}
