//! The house rules, as a test: layers, sizes, modules, and the README's table of limits.

#![expect(clippy::disallowed_methods, reason = "this test reads the sources, not a database")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

/// No source file is longer.
const LINES_MAX: usize = 600;
/// The layers of `common`, each of which names only itself and those before it. Files beside them are layers, too.
const LAYERS: [&str; 7] = ["error", "limits", "format", "storage", "table", "query", "service"];
/// Where the rules for shipped code hold.
const SOURCES: [&str; 4] = ["common/src", "writer/src", "reader/src", "cli/src"];

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
    let readme = fs::read_to_string(top.join("README.md")).unwrap();
    let limits = fs::read_to_string(top.join("common/src/limits.rs")).unwrap();
    let wrong = limits_differ(&readme, &limits);
    assert!(wrong.is_empty(), "\n{}\n", wrong.join("\n"));
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

/// A source with the contents of comments, strings and characters turned into spaces. Lines stay where they are.
fn code_of(text: &str) -> String {
    let mut code = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let (blank, len) = match first {
            '/' if rest.starts_with("//") => (true, rest.find('\n').unwrap_or(rest.len())),
            '/' if rest.starts_with("/*") => (true, rest.find("*/").map_or(rest.len(), |at| at + 2)),
            '"' => (true, quoted(rest, '"')),
            'r' if !code.ends_with(is_word) => match raw_string(rest) {
                Some(len) => (true, len),
                None => (false, 1),
            },
            // A lifetime has no closing quote; a character has one after it or after its escape.
            '\'' if rest[1..].starts_with('\\') => (true, quoted(rest, '\'')),
            '\'' => match rest.char_indices().nth(2) {
                Some((at, '\'')) => (true, at + 1),
                _ => (false, 1),
            },
            other => (false, other.len_utf8()),
        };
        let (piece, after) = rest.split_at(len);
        code.extend(piece.chars().map(|c| if blank && c != '\n' { ' ' } else { c }));
        rest = after;
    }
    code
}

/// The length of a literal from its opening quote to its closing one.
fn quoted(text: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            c if c == quote => return at + 1,
            _ => {}
        }
    }
    text.len()
}

/// The length of a raw string, where there is one.
fn raw_string(text: &str) -> Option<usize> {
    let hashes = text[1..].len() - text[1..].trim_start_matches('#').len();
    let body = text[1 + hashes..].strip_prefix('"')?;
    let end = format!("\"{}", "#".repeat(hashes));
    Some(body.find(&end).map_or(text.len(), |at| 2 + hashes + at + end.len()))
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// The words of a source, each with its line from 1 and what follows it.
fn words(code: &str) -> impl Iterator<Item = (usize, &str, &str)> {
    code.lines().enumerate().flat_map(|(line, text)| {
        text.split(|c| !is_word(c)).filter(|word| !word.is_empty()).map(move |word| {
            let after = word.as_ptr() as usize - text.as_ptr() as usize + word.len();
            (line + 1, word, &text[after..])
        })
    })
}

/// The names taken from a module, by path (`crate::log::…`) or by a group (`crate::{log, table::…}`), with their lines.
fn taken_from(code: &str, module: &str) -> Vec<(usize, String)> {
    let mut taken = Vec::new();
    let start = format!("{module}::");
    for (at, _) in code.match_indices(&start).filter(|(at, _)| !code[..*at].ends_with(is_word)) {
        let line = code[..at].matches('\n').count() + 1;
        let rest = &code[at + start.len()..];
        let word =
            |text: &str| text.trim_start().split(|c| !is_word(c)).next().unwrap_or_default().to_owned();
        let Some(group) = rest.strip_prefix('{') else {
            taken.push((line, word(rest)));
            continue;
        };
        let mut depth = 0;
        let mut item = 0;
        for (at, c) in group.char_indices() {
            match c {
                '{' => depth += 1,
                '}' if depth > 0 => depth -= 1,
                ',' | '}' if depth == 0 => {
                    taken.push((line, word(&group[item..])));
                    item = at + 1;
                    if c == '}' {
                        break;
                    }
                }
                _ => {}
            }
        }
    }
    taken
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

/// The README's table names every limit, with its value: `| what | value | CONSTANT |`.
fn limits_differ(readme: &str, limits: &str) -> Vec<String> {
    let constants: BTreeMap<&str, Option<u64>> = limits
        .lines()
        .filter_map(|line| {
            let (name, rest) = line.strip_prefix("pub const ")?.split_once(':')?;
            Some((name, constant(rest.split_once('=')?.1.trim_end_matches(';'))))
        })
        .collect();
    let mut wrong = Vec::new();
    let mut told = BTreeSet::new();
    for row in readme.lines().filter_map(|line| line.strip_prefix('|')) {
        let cells: Vec<&str> = row.trim_end_matches('|').split('|').map(str::trim).collect();
        let [_, value, name] = cells[..] else { continue };
        let name = name.trim_matches('`');
        if name.is_empty() || !name.chars().all(|c| c.is_ascii_uppercase() || c == '_') {
            continue;
        }
        told.insert(name);
        match constants.get(name) {
            Some(Some(limit)) if quantity(value) == Some(*limit) => {}
            Some(limit) => wrong.push(format!("README.md: {name} is {limit:?}, not {value}")),
            None => wrong.push(format!("README.md: no limit is called {name}")),
        }
    }
    let untold = constants.keys().filter(|name| !told.contains(*name));
    wrong.extend(untold.map(|name| format!("README.md: the table of limits lacks {name}")));
    wrong
}

/// The value of `1000`, `10_000` or `64 << 20`.
fn constant(expression: &str) -> Option<u64> {
    let number = |text: &str| text.trim().replace('_', "").parse::<u64>().ok();
    match expression.split_once("<<") {
        Some((value, shift)) => number(value)?.checked_shl(u32::try_from(number(shift)?).ok()?),
        None => number(expression),
    }
}

/// The value of `10,000`, `64 MiB`, `128 bytes` or `5 s`.
fn quantity(text: &str) -> Option<u64> {
    let (number, unit) = text.split_once(' ').unwrap_or((text, ""));
    let factor = match unit {
        "" | "bytes" | "s" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return None,
    };
    Some(number.replace(',', "").parse::<u64>().ok()? * factor)
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
}
