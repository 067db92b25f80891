//! The house rules, as tests: layers, file sizes, modules, cycles of files, names, and the limits in docs/.

#![expect(clippy::disallowed_methods, reason = "these tests read the sources, not a database")]

mod cycles;
mod lexer;
mod limits;
mod log_fields;
mod modules;
mod planted;
mod rules;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use cycles::cycles;
use lexer::code_of;

/// Where the rules for shipped code hold.
const SOURCES: [&str; 4] = ["common/src", "writer/src", "reader/src", "cli/src"];
/// The root file of each crate, and the directory of its sources.
const CRATES: [(&str, &str); 5] = [
    ("common/src/lib.rs", "common/src"),
    ("writer/src/lib.rs", "writer/src"),
    ("reader/src/lib.rs", "reader/src"),
    ("cli/src/lib.rs", "cli/src"),
    ("proto/lib.rs", "proto"),
];

fn expect_none(wrong: &[String]) {
    assert!(wrong.is_empty(), "\n{}\n", wrong.join("\n"));
}

#[test]
fn every_source_file_keeps_the_house_rules() {
    let shipped = files(&SOURCES);
    let mut wrong = Vec::new();
    for (path, text) in &shipped {
        let code = code_of(text);
        wrong.extend(rules::layers(path, &code));
        wrong.extend(rules::wire(path, &code));
        wrong.extend(rules::file_effects(path, &code));
        wrong.extend(rules::ignored_results(path, text));
    }
    wrong.extend(rules::unreachable(&shipped));
    for (path, text) in shipped.iter().chain(&files(&["tests", "proto"])) {
        wrong.extend(rules::opening(path, text));
        wrong.extend(rules::length(path, text, rules::LINES_MAX));
        wrong.extend(rules::unfinished(path, &code_of(text)));
    }
    expect_none(&wrong);
}

#[test]
fn log_lines_name_the_same_things_alike() {
    let shipped: BTreeMap<String, (String, String)> =
        files(&SOURCES).into_iter().map(|(path, text)| (path, (code_of(&text), text))).collect();
    let found = shipped.iter().flat_map(|(path, (code, text))| log_fields::unknown_fields(path, code, text));
    let mut wrong: Vec<String> = found.collect();
    let lines = shipped.values().map(|(code, text)| (code.as_str(), text.as_str()));
    wrong.extend(log_fields::unused_fields(lines));
    expect_none(&wrong);
}

#[test]
fn the_docs_list_every_limit() {
    expect_none(&limits::wrong_limits(&read("docs/limits.md"), &read("common/src/limits.rs")));
}

#[test]
fn no_release_contains_the_simulated_disk_or_a_planted_bug() {
    let manifests = ["", "common/", "writer/", "reader/", "cli/"].map(|dir| format!("{dir}Cargo.toml"));
    let wrong: Vec<String> =
        manifests.iter().flat_map(|path| rules::test_code_in_shipped_code(path, &read(path))).collect();
    expect_none(&wrong);
}

#[test]
fn files_do_not_use_each_other_in_cycles() {
    let found: Vec<String> =
        CRATES.iter().flat_map(|(root, directory)| cycles(root, &files(&[directory]))).collect();
    expect_none(&found);
}

#[test]
fn no_two_files_define_types_of_the_same_name() {
    expect_none(&rules::same_names(&files(&CRATES.map(|(_, directory)| directory))));
}

/// A file's text, by its path from the top of the repository.
fn read(path: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

/// Every `.rs` file below some directories, by its path from the top of the repository.
fn files(dirs: &[&str]) -> BTreeMap<String, String> {
    let top = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = BTreeMap::new();
    let mut open: Vec<_> = dirs.iter().map(|dir| top.join(dir)).filter(|dir| dir.is_dir()).collect();
    while let Some(dir) = open.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let name = path.strip_prefix(top).unwrap().to_str().unwrap().to_owned();
                found.insert(name, fs::read_to_string(path).unwrap());
            }
        }
    }
    assert!(!found.is_empty());
    found
}
