//! The files in docs/operations: what they ask of the daemons exists, and the layouts that they describe work.
//!
//! Neither systemd nor an engine for containers is needed: the tests read the files, and start the daemons as the files say. Tools
//! that are installed check more: promtool, prometheus, systemd-analyze, Helm's engine.

#![expect(
    clippy::disallowed_methods,
    reason = "these tests read the documentation, and write files for tools"
)]

mod chart;
mod containers;
mod queries;
mod units;

use std::path::{Path, PathBuf};
use std::process::Command;

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/operations")
}

fn page(name: &str) -> String {
    let path = directory().join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Whether a program is installed. Says so if it is not.
fn has_tool(name: &str, version: &str) -> bool {
    let found = Command::new(name).arg(version).output().is_ok();
    if !found {
        eprintln!("skipped: {name} is not installed");
    }
    found
}

/// Runs a tool, and returns what it says. Panics if it fails.
fn tool(name: &str, args: &[&str]) -> String {
    let output = Command::new(name).args(args).output().unwrap();
    let said =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{name} {args:?}: {said}");
    said
}
