//! Each rule finds a violation that is planted for it.

use std::collections::BTreeMap;

use super::cycles::cycles;
use super::lexer::code_of;
use super::limits::wrong_limits;
use super::rules::*;

#[test]
fn comments_and_literals_are_not_code() {
    let code = code_of("a // todo!()\nb /* dbg!\n */ \"\\\"tonic\" 'x' '\\'' &'a r#\"std::\"fs\"# r c");
    assert_eq!(code.split_whitespace().collect::<Vec<_>>(), ["a", "b", "&'a", "r", "c"]);
    assert_eq!(code.lines().count(), 3);
}

#[test]
fn a_use_of_a_later_layer_is_found() {
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
fn misplaced_grpc_and_file_access_is_found() {
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
fn a_file_without_opening_or_too_long_is_found() {
    assert_eq!(opening("a.rs", "use x;\n//! Says it late.").len(), 1);
    assert_eq!(opening("a.rs", "//! x").len(), 1);
    assert!(opening("a.rs", "//! What a file is for.\n").is_empty());
    assert_eq!(length("a.rs", &"x\n".repeat(11), 10).len(), 1);
    assert!(length("a.rs", &"x\n".repeat(10), 10).is_empty());
}

#[test]
fn unfinished_and_hidden_code_is_found() {
    for code in ["todo!()", "unimplemented!(x)", "dbg!(x)", "#[allow(dead_code)]", "#![allow(x, unused)]"] {
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
fn a_release_with_the_simulated_disk_is_found() {
    let common = r#"common = { features = ["sim"] }"#;
    assert!(test_code_in_shipped_code("a", &format!("[dev-dependencies]\n{common}")).is_empty());
    assert_eq!(
        test_code_in_shipped_code("a", &format!("[dev-dependencies]\n[dependencies]\n{common}")).len(),
        1
    );
    assert_eq!(test_code_in_shipped_code("a", "[features]\ndefault = [\"sim\"]\nsim = []").len(), 1);
    assert_eq!(test_code_in_shipped_code("a", "[features]\ndefault = [\"planted\"]\nplanted = []").len(), 1);
}

#[test]
fn a_wrong_or_missing_limit_is_found() {
    let limits = "/// x\npub const BYTES: usize = 64 << 20;\npub const KEYS: usize = 10_000;\n";
    let page = "| what | limit | name |\n|---|---|---|\n| a | 64 MiB | `BYTES` |\n";
    let wrong = |rows: &str| wrong_limits(&format!("{page}{rows}"), limits).len();
    assert_eq!(wrong("| b | 10,000 | `KEYS` |"), 0);
    assert_eq!(wrong(""), 1);
    assert_eq!(wrong("| b | 9,999 | `KEYS` |"), 1);
    assert_eq!(wrong("| b | 10,000 | `KEYS` |\n| c | 5 s | `WAIT` |"), 1);
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
fn uses_without_a_cycle_pass() {
    let found = |files: &[(&str, &str)]| cycles("a/lib.rs", &crate_of(files));
    let root = ("lib", "mod parent; mod other;");
    let other = ("other", "pub struct Other;");
    for (parent, child) in [
        // The parent declares and re-exports.
        ("mod child; pub use child::Child; struct Parent;", "use super::Parent; pub struct Child;"),
        // The child uses a sibling through the parent, and what the parent imports.
        ("mod child; mod leaf; pub use leaf::Leaf; use child::Child;", "use super::Leaf; pub struct Child;"),
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

#[test]
fn an_ignored_result_without_a_reason_is_found() {
    let wrong = |text: &str| ignored_results("a/src/b.rs", text).len();
    assert_eq!(wrong("fn f() {\n    let _ = file.sync();\n}"), 1);
    assert_eq!(wrong("fn f() {\n    file.sync().ok();\n}"), 1);
    assert_eq!(wrong("fn f() {\n    // The next sync reports it.\n    let _ = file.sync();\n}"), 0);
    assert_eq!(wrong("let _ = write!(text, \"x\");\nlet found = text.parse().ok();"), 0);
    assert_eq!(wrong("#[cfg(test)]\nmod tests {\n    let _ = file.sync();\n}"), 0);
    assert!(ignored_results("a/src/tests.rs", "let _ = file.sync();").is_empty());
}
