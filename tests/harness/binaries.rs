//! Paths of the built daemons, of `driftctl` and of the examples.
//!
//! `make test` builds them before the tests. `cargo test` alone does not: cargo builds only the binaries of the package
//! under test. So the first test that asks for a program compares the programs with their sources, and runs one
//! `cargo build` if a program is missing or older than a source.

#![expect(clippy::disallowed_methods, reason = "looks at built programs, not at a database")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::SystemTime;

const BINARIES: [&str; 3] = ["driftdb-writer", "driftdb-reader", "driftctl"];
const EXAMPLES: [&str; 2] = ["orders", "watch"];

/// The path of a binary of this workspace.
pub fn binary(name: &str) -> PathBuf {
    directory().join(name)
}

/// The path of a program in docs/examples.
pub fn example(name: &str) -> PathBuf {
    directory().join("examples").join(name)
}

/// The directory with the binaries, all of them up to date.
fn directory() -> &'static Path {
    static DIRECTORY: OnceLock<PathBuf> = OnceLock::new();
    DIRECTORY.get_or_init(|| {
        // The tests run as <target>/<profile>/deps/integration-<hash>.
        let test = std::env::current_exe().unwrap();
        let directory = test.parent().and_then(Path::parent).unwrap().to_owned();
        let programs: Vec<PathBuf> = BINARIES
            .map(|name| directory.join(name))
            .into_iter()
            .chain(EXAMPLES.map(|name| directory.join("examples").join(name)))
            .collect();
        if !programs.iter().all(|program| is_current(program)) {
            build(&directory);
            let missing = programs.iter().find(|program| !program.exists());
            assert_eq!(
                missing, None,
                "`cargo build --workspace --bins --examples` did not build this program"
            );
        }
        directory
    })
}

/// Whether a program exists and is newer than every source that cargo lists for it in the `.d` file next to it.
fn is_current(program: &Path) -> bool {
    let modified = |path: &Path| fs::metadata(path).and_then(|metadata| metadata.modified()).ok();
    let (Some(built), Ok(sources)) = (modified(program), fs::read_to_string(program.with_extension("d")))
    else {
        return false;
    };
    // `program: source source …`, where a space in a path is written `\ `.
    let sources = sources.trim_end().split_once(": ").map_or("", |(_, sources)| sources).replace("\\ ", "\0");
    sources
        .split(' ')
        .map(|source| modified(Path::new(&source.replace('\0', " "))).unwrap_or(SystemTime::UNIX_EPOCH))
        .all(|source| source <= built)
}

fn build(directory: &Path) {
    eprintln!(
        "building the daemons and the examples, because a program is missing or older than its sources"
    );
    let mut build = Command::new(std::env::var_os("CARGO").unwrap_or("cargo".into()));
    // With the examples cargo chooses the same features as for the tests, so nothing is compiled twice.
    build.args(["build", "--quiet", "--locked", "--workspace", "--bins", "--examples", "--manifest-path"]);
    build.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml"));
    build.arg("--target-dir").arg(directory.parent().unwrap());
    if driftdb_common::planted::HAS_BUGS {
        build.args(["--features", "driftdb-common/planted"]);
    }
    // The directory is named after the profile, except for `dev`.
    let profile = directory.file_name().unwrap().to_str().unwrap();
    build.args(["--profile", if profile == "debug" { "dev" } else { profile }]);
    assert!(
        build.status().unwrap().success(),
        "cannot build the programs; run `make test`, which builds them first"
    );
}
