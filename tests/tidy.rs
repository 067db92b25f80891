//! The house rules, as a test: layers, sizes, modules, and the README's table of limits.

#![expect(clippy::disallowed_methods, reason = "this test reads the sources, not a database")]

mod cycles;
mod lexer;
mod limits;
mod modules;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use cycles::cycles;
use lexer::{code_of, is_word, taken_from, words};
use limits::limits_differ;

/// No source file is longer.
const LINES_MAX: usize = 600;
/// The layers of `common`, each of which names only itself and those before it. Files beside them are layers, too.
const LAYERS: [&str; 7] = ["error", "limits", "format", "storage", "table", "query", "service"];
/// Where the rules for shipped code hold.
const SOURCES: [&str; 4] = ["common/src", "writer/src", "reader/src", "cli/src"];

/// Where each crate begins, and its sources.
const ROOTS: [(&str, &str); 5] = [
    ("common/src/lib.rs", "common/src"),
    ("writer/src/lib.rs", "writer/src"),
    ("reader/src/lib.rs", "reader/src"),
    ("cli/src/lib.rs", "cli/src"),
    ("proto/lib.rs", "proto"),
];
/// Where a name of a type has one meaning.
const TYPED: [&str; 5] = ["common/src", "writer/src", "reader/src", "cli/src", "proto"];

#[test]
fn every_source_keeps_the_house_rules() {
    let shipped = files(&SOURCES);
    let mut wrong = Vec::new();
    for (path, text) in &shipped {
        let code = code_of(text);
        wrong.extend(layers(path, &code));
        wrong.extend(wire(path, &code));
        wrong.extend(file_effects(path, &code));
    }
    wrong.extend(unreachable(&shipped));
    for (path, text) in files(&SOURCES).into_iter().chain(files(&["tests", "benches", "proto"])) {
        wrong.extend(opening(&path, &text));
        wrong.extend(length(&path, &text));
        wrong.extend(unfinished(&path, &code_of(&text)));
    }
    assert!(wrong.is_empty(), "\n{}\n", wrong.join("\n"));
}

#[test]
fn the_readme_tells_the_limits() {
    let top = Path::new(env!("CARGO_MANIFEST_DIR"));
    let readme = fs::read_to_string(top.join("docs/limits.md")).unwrap();
    let limits = fs::read_to_string(top.join("common/src/limits.rs")).unwrap();
    let wrong = limits_differ(&readme, &limits);
    assert!(wrong.is_empty(), "\n{}\n", wrong.join("\n"));
}

#[test]
fn only_tests_see_the_simulated_file_system() {
    let top = Path::new(env!("CARGO_MANIFEST_DIR"));
    let manifests = ["", "common/", "writer/", "reader/", "cli/"].map(|dir| format!("{dir}Cargo.toml"));
    let wrong: Vec<String> = manifests
        .iter()
        .flat_map(|path| sim_in_shipped_code(path, &fs::read_to_string(top.join(path)).unwrap()))
        .collect();
    assert!(wrong.is_empty(), "\n{}\n", wrong.join("\n"));
}

/// How many cycles of files are left. The number only falls.
const CYCLES_LEFT: usize = 18;
/// How many names of types with two meanings are left. The number only falls.
const NAMES_LEFT: usize = 88;

/// `cargo test --test integration tidy:: -- --nocapture` prints what is left.
#[test]
fn files_do_not_use_each_other_in_cycles() {
    let found: Vec<String> =
        ROOTS.iter().flat_map(|(root, directory)| cycles(root, &files(&[directory]))).collect();
    println!("{} cycles of files\n{}", found.len(), found.join("\n"));
    assert!(found.len() <= CYCLES_LEFT, "{} cycles of files, over {CYCLES_LEFT}", found.len());
}

#[test]
fn no_two_files_define_types_of_the_same_name() {
    let found = same_names(&files(&TYPED));
    println!("{} names of types with two meanings\n{}", found.len(), found.join("\n"));
    assert!(found.len() <= NAMES_LEFT, "{} names with two meanings, over {NAMES_LEFT}", found.len());
}

/// Every `.rs` file below some directories, by its path from the top.
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

/// A layer names no layer after it.
fn layers(path: &str, code: &str) -> Vec<String> {
    let Some(inside) = path.strip_prefix("common/src/") else { return Vec::new() };
    let layer = inside.split('/').next().unwrap_or_default().trim_end_matches(".rs");
    let rank = |name: &str| LAYERS.iter().position(|layer| *layer == name);
    let Some(own) = rank(layer) else { return Vec::new() };
    let mut taken = taken_from(code, "crate");
    taken.extend(taken_from(code, "super"));
    taken.retain(|(_, name)| rank(name).is_some_and(|rank| rank > own));
    taken.iter().map(|(line, name)| format!("{path}:{line}: {layer} names {name}, a later layer")).collect()
}

/// Below `service`, nothing knows of gRPC.
fn wire(path: &str, code: &str) -> Vec<String> {
    if !path.starts_with("common/src/") || path.starts_with("common/src/service") {
        return Vec::new();
    }
    let named = words(code).filter(|(_, word, _)| word.starts_with("tonic") || word.starts_with("prost"));
    named.map(|(line, word, _)| format!("{path}:{line}: names {word} outside service")).collect()
}

/// Only the disk touches files.
fn file_effects(path: &str, code: &str) -> Vec<String> {
    if path == "common/src/storage/fs.rs" {
        return Vec::new();
    }
    let mut wrong = Vec::new();
    for of in ["std", "tokio"] {
        for (line, _) in taken_from(code, of).iter().filter(|(_, name)| name == "fs") {
            wrong.push(format!("{path}:{line}: names {of}::fs outside the disk"));
        }
    }
    wrong
}

/// A file says in its first line what it is for.
fn opening(path: &str, text: &str) -> Vec<String> {
    let says = text.lines().next().and_then(|line| line.strip_prefix("//! "));
    let said = says.is_some_and(|words| words.split_whitespace().count() >= 3);
    if said { Vec::new() } else { vec![format!("{path}:1: does not open with a `//!` sentence")] }
}

fn length(path: &str, text: &str) -> Vec<String> {
    let lines = text.lines().count();
    if lines <= LINES_MAX { Vec::new() } else { vec![format!("{path}: {lines} lines, over {LINES_MAX}")] }
}

/// Nothing is left for later, or hidden from the compiler.
fn unfinished(path: &str, code: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    for (line, word, after) in words(code) {
        let is_macro = ["todo", "unimplemented", "dbg"].contains(&word) && after.starts_with('!');
        let hides = ["allow", "expect"].contains(&word)
            && after.strip_prefix('(').is_some_and(|lints| {
                let lints = lints.split(')').next().unwrap_or_default();
                lints.split(',').any(|lint| ["dead_code", "unused"].contains(&lint.trim()))
            });
        if is_macro || hides {
            wrong.push(format!("{path}:{line}: {word}{}", if hides { " of dead code" } else { "!" }));
        }
    }
    wrong
}

/// Every file is a module of its crate: reached from `lib.rs` or `main.rs` by `mod`.
fn unreachable(files: &BTreeMap<String, String>) -> Vec<String> {
    let mut reached = BTreeSet::new();
    let mut open: Vec<String> =
        files.keys().filter(|p| p.ends_with("src/lib.rs") || p.ends_with("src/main.rs")).cloned().collect();
    while let Some(path) = open.pop() {
        let Some(text) = files.get(&path) else { continue };
        let (dir, file) = path.rsplit_once('/').unwrap_or_default();
        let inside = match file {
            "lib.rs" | "main.rs" | "mod.rs" => dir,
            _ => path.trim_end_matches(".rs"),
        };
        for (_, word, after) in words(&code_of(text)) {
            let declared = after.split_once(';').map(|(name, _)| name.trim()).filter(|_| word == "mod");
            if let Some(name) = declared.filter(|name| name.chars().all(is_word)) {
                open.push(format!("{inside}/{name}.rs"));
                open.push(format!("{inside}/{name}/mod.rs"));
            }
        }
        reached.insert(path);
    }
    let lost = files.keys().filter(|path| !reached.contains(*path));
    lost.map(|path| format!("{path}: no `mod` leads here")).collect()
}

/// No two files define types of the same name.
fn same_names(files: &BTreeMap<String, String>) -> Vec<String> {
    let mut defined: BTreeMap<String, BTreeMap<&str, usize>> = BTreeMap::new();
    for (path, text) in files {
        for (name, line) in modules::types(text) {
            defined.entry(name).or_default().entry(path).or_insert(line);
        }
    }
    defined.retain(|_, places| places.len() > 1);
    let places = |places: &BTreeMap<&str, usize>| {
        places.iter().map(|(path, line)| format!("{path}:{line}")).collect::<Vec<_>>().join(", ")
    };
    defined.iter().map(|(name, found)| format!("{name} is defined in {}", places(found))).collect()
}

/// Only a dev-dependency enables the feature `sim`, so that no released binary contains it.
fn sim_in_shipped_code(path: &str, manifest: &str) -> Vec<String> {
    let mut section = "";
    let mut wrong = Vec::new();
    for (line, text) in manifest.lines().enumerate() {
        if text.starts_with('[') {
            section = text;
        }
        if text.contains("\"sim\"") && section != "[dev-dependencies]" {
            wrong.push(format!("{path}:{}: {section} enables the feature `sim`", line + 1));
        }
    }
    wrong
}

mod the_rules {
    //! Each rule finds a violation planted for it.

    use super::*;

    #[test]
    fn comments_and_strings_are_not_code() {
        let code = code_of("a // todo!()\nb /* dbg!\n */ \"\\\"tonic\" 'x' '\\'' &'a r#\"std::\"fs\"# r c");
        assert_eq!(code.split_whitespace().collect::<Vec<_>>(), ["a", "b", "&'a", "r", "c"]);
        assert_eq!(code.lines().count(), 3);
    }

    #[test]
    fn layers_look_down_only() {
        let wrong = |path: &str, code: &str| layers(path, code).len();
        assert_eq!(wrong("common/src/format/key.rs", "use crate::storage::fs;"), 1);
        assert_eq!(
            wrong("common/src/storage/fs.rs", "x\nuse crate::{error::{Error, Result}, table::state, query};"),
            2
        );
        assert_eq!(wrong("common/src/table/state.rs", "fn f() { crate::service::x() }"), 1);
        assert_eq!(wrong("common/src/query/mod.rs", "use super::service;"), 1);
        assert_eq!(wrong("common/src/error.rs", "use crate::format;"), 1);
        assert_eq!(wrong("common/src/query/mod.rs", "use crate::{table, log::{disk, head}, query::ast};"), 0);
        assert_eq!(wrong("common/src/lib.rs", "use crate::service;"), 0);
        assert_eq!(wrong("writer/src/lib.rs", "use crate::service;"), 0);
    }

    #[test]
    fn the_wire_and_files_have_their_place() {
        assert_eq!(wire("common/src/storage/head.rs", "use tonic::Status; use prost_types::Any;").len(), 2);
        assert!(wire("common/src/service/status.rs", "use tonic::Status;").is_empty());
        assert!(wire("cli/src/client.rs", "use tonic::Status;").is_empty());
        assert_eq!(file_effects("writer/src/commit.rs", "use std::fs::File;").len(), 1);
        assert_eq!(
            file_effects("cli/src/lib.rs", "use std::{io, fs::{self, File}}; tokio::fs::read(x)").len(),
            2
        );
        assert!(file_effects("common/src/storage/fs.rs", "use std::fs;").is_empty());
        assert!(file_effects("cli/src/lib.rs", "use std::{io, path}; my_std::fs::x()").is_empty());
    }

    #[test]
    fn files_say_what_they_are_for_and_stay_short() {
        assert_eq!(opening("a.rs", "use x;\n//! Says it late.").len(), 1);
        assert_eq!(opening("a.rs", "//! x").len(), 1);
        assert!(opening("a.rs", "//! What a file is for.\n").is_empty());
        assert_eq!(length("a.rs", &"x\n".repeat(LINES_MAX + 1)).len(), 1);
        assert!(length("a.rs", &"x\n".repeat(LINES_MAX)).is_empty());
    }

    #[test]
    fn nothing_is_left_for_later() {
        for code in ["todo!()", "unimplemented!(x)", "dbg!(x)", "#[allow(dead_code)]", "#![allow(x, unused)]"]
        {
            assert_eq!(unfinished("a.rs", code).len(), 1, "{code}");
        }
        assert!(unfinished("a.rs", "#[expect(clippy::unwrap_used)] fn todo() {} x.expect(dead)").is_empty());
    }

    #[test]
    fn a_file_without_mod_is_found() {
        let file = |path: &str, text: &str| (path.to_owned(), text.to_owned());
        let mut files = BTreeMap::from([
            file("a/src/lib.rs", "pub mod log; mod flat;"),
            file("a/src/log/mod.rs", "pub(crate) mod disk;\n// mod lost;"),
            file("a/src/log/disk.rs", "#[cfg(test)]\nmod tests;"),
            file("a/src/log/disk/tests.rs", ""),
            file("a/src/flat.rs", "mod inline { }"),
        ]);
        assert_eq!(unreachable(&files), Vec::<String>::new());
        files.insert("a/src/log/lost.rs".to_owned(), String::new());
        assert_eq!(unreachable(&files).len(), 1);
    }

    #[test]
    fn only_a_dev_dependency_may_enable_sim() {
        let common = r#"common = { features = ["sim"] }"#;
        assert!(sim_in_shipped_code("a", &format!("[dev-dependencies]\n{common}")).is_empty());
        assert_eq!(
            sim_in_shipped_code("a", &format!("[dev-dependencies]\n[dependencies]\n{common}")).len(),
            1
        );
        assert_eq!(sim_in_shipped_code("a", "[features]\ndefault = [\"sim\"]\nsim = []").len(), 1);
    }

    #[test]
    fn a_wrong_or_missing_limit_is_found() {
        let limits = "/// x\npub const BYTES: usize = 64 << 20;\npub const KEYS: usize = 10_000;\n";
        let table = "| what | limit | name |\n|---|---|---|\n| a | 64 MiB | `BYTES` |\n";
        assert_eq!(limits_differ(&format!("{table}| b | 10,000 | `KEYS` |"), limits), Vec::<String>::new());
        assert_eq!(limits_differ(table, limits).len(), 1);
        assert_eq!(limits_differ(&format!("{table}| b | 9,999 | `KEYS` |"), limits).len(), 1);
        assert_eq!(
            limits_differ(&format!("{table}| b | 10,000 | `KEYS` |\n| c | 5 s | `WAIT` |"), limits).len(),
            1
        );
    }

    fn crate_of(files: &[(&str, &str)]) -> BTreeMap<String, String> {
        files.iter().map(|(path, text)| (format!("a/{path}.rs"), (*text).to_owned())).collect()
    }

    #[test]
    fn a_cycle_of_files_is_found() {
        let found = |files: &[(&str, &str)]| cycles("a/lib.rs", &crate_of(files)).len();
        // An import, a path, a group, a glob, an alias; with a file in between.
        let one = ("one", "pub struct One; fn f(_: crate::two::Two) {}");
        for two in [
            "pub struct Two; use crate::one::One;",
            "pub struct Two; use super::one::{self}; type A = one::One;",
            "pub struct Two; use crate::{error::E, one::{One as Other}};",
            "pub struct Two; use crate::one::*; type A = One;",
            "pub struct Two; use crate::one as other; type A = Vec<other::One>;",
            "pub struct Two; fn g() { if true { super::one::f(1) } }",
            "pub struct Two; use super::three;  fn g() { three::Three }",
        ] {
            let three = ("three", "use crate::one::One; pub struct Three;");
            let root = ("lib", "mod one; pub mod two; mod three; mod error;");
            assert_eq!(found(&[root, one, ("two", two), three, ("error", "pub struct E;")]), 1, "{two}");
        }
        // A child that uses what its parent's file defines, and the parent the child.
        let root = ("lib", "mod parent;");
        let child = ("parent/child", "use super::Parent; pub struct Child;");
        assert_eq!(found(&[root, ("parent", "mod child; use child::Child; struct Parent;"), child]), 1);
        assert_eq!(
            found(&[root, ("parent", "mod child; pub use child::Child; struct Parent(Child);"), child]),
            1
        );
        let inline = ("parent/child", "mod inner { use super::super::Parent; } pub struct Child;");
        assert_eq!(found(&[root, ("parent", "mod child; use child::Child; struct Parent;"), inline]), 1);
    }

    #[test]
    fn what_is_no_cycle_of_files_passes() {
        let found = |files: &[(&str, &str)]| cycles("a/lib.rs", &crate_of(files));
        let root = ("lib", "mod parent; mod other;");
        let other = ("other", "pub struct Other;");
        for (parent, child) in [
            // The parent declares and re-exports.
            ("mod child; pub use child::Child; struct Parent;", "use super::Parent; pub struct Child;"),
            // The child uses a sibling through the parent, and what the parent imports.
            (
                "mod child; mod leaf; pub use leaf::Leaf; use child::Child;",
                "use super::Leaf; pub struct Child;",
            ),
            ("mod child; use crate::other::Other; use child::Child;", "use super::Other; pub struct Child;"),
            ("mod child; mod leaf; use child::Child; use leaf::*;", "use super::*; pub struct Child(Leaf);"),
            // Tests use anything.
            (
                "mod child; use child::f; struct Parent;",
                "pub fn f() {}\n#[cfg(test)] mod tests { use super::super::Parent; }",
            ),
            ("mod child; use child::f; struct Parent;", "pub fn f() {}\n#[cfg(test)] use super::Parent;"),
            // Words in comments, fields and names of other crates.
            (
                "mod child; use child::f; pub fn parent() {}",
                "// super::parent\npub fn f() { a.parent(); parent::parent() }",
            ),
        ] {
            let leaf = ("parent/leaf", "pub struct Leaf;");
            let files = [root, other, leaf, ("parent", parent), ("parent/child", child)];
            assert_eq!(found(&files), Vec::<String>::new(), "{parent}\n{child}");
        }
    }

    #[test]
    fn a_name_with_two_meanings_is_found() {
        let found = |one: &str, two: &str| same_names(&crate_of(&[("one", one), ("two", two)])).len();
        for kind in ["struct", "pub enum", "pub(crate) type", "trait"] {
            let one = format!("{kind} Name;");
            assert_eq!(found(&one, "mod tests { #[derive(Debug)]\nstruct Name(u8); }"), 1, "{kind}");
        }
        assert_eq!(found("struct One;", "struct Two; // struct One"), 0);
        let item = "impl Iterator for X { type Item = u8; } pub trait T { type Item; }";
        assert_eq!(found(&format!("struct X; {item}"), item), 1);
        assert_eq!(found(item, &item.replace("trait T", "trait U")), 0);
    }
}
