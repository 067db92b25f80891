//! The README's programs are files that run, and print what they should.

mod harness;

use std::path::Path;
use std::process::Command;

use harness::{Daemon, binary};

/// What each of them prints on an empty database.
const PRINTED: &str = r#"now: {"id":"o1","status":"paid","amount":100}
then: {"id":"o1","status":"pending","amount":100}
paid: o1
"#;

#[test]
#[expect(clippy::disallowed_methods, reason = "this test reads the sources, not a database")]
fn the_readme_and_the_guides_quote_the_examples_as_they_are() {
    let read =
        |path: &str| std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap();
    for (page, language, name) in [
        ("README.md", "rust", "orders.rs"),
        ("README.md", "python", "orders.py"),
        ("README.md", "js", "orders.mjs"),
        ("docs/python.md", "python", "watch.py"),
        ("docs/node.md", "js", "watch.mjs"),
    ] {
        let text = read(page);
        let opening = format!("\n```{language}\n");
        let mut quoted = text.split(&opening).skip(1).map(|rest| rest.split_once("\n```\n").unwrap().0);
        let example = read(&format!("docs/examples/{name}"));
        let count = quoted.clone().count();
        assert!(
            quoted.any(|block| block == example.trim_end()),
            "{page} does not quote docs/examples/{name}"
        );
        // All that the README has is run.
        assert!(page != "README.md" || count == 1, "{count} programs in {page}");
    }
}

#[test]
fn the_example_in_rust_runs() {
    let dir = tempfile::tempdir().unwrap();
    let (writer, reader) = (Daemon::writer(dir.path()), Daemon::reader(dir.path()));
    let mut build = Command::new(std::env::var_os("CARGO").unwrap_or("cargo".into()));
    build.args(["build", "--quiet", "--example", "orders", "--manifest-path"]);
    build.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml"));
    let example = binary("examples").join("orders");
    if example.components().any(|part| part.as_os_str() == "release") {
        build.arg("--release");
    }
    assert!(build.status().unwrap().success());
    let mut run = Command::new(example);
    let output = run.env("DRIFTDB_WRITER", &writer.url).env("DRIFTDB_READER", &reader.url).output().unwrap();
    let printed = String::from_utf8_lossy(&output.stdout);
    assert_eq!(printed, PRINTED, "{}", String::from_utf8_lossy(&output.stderr));
}
