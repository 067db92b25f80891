//! The rules about single files: what each one may name, how long it may be, how it begins.

use std::collections::{BTreeMap, BTreeSet};

use super::lexer::{code_of, is_word, taken_from, words};
use super::modules;

/// No source file has more lines.
pub const LINES_MAX: usize = 600;
/// The layers of `common`. Each may use only itself and those before it.
const LAYERS: [&str; 14] = [
    "error", "limits", "planted", "vital", "memory", "trace", "work", "metrics", "format", "storage",
    "table", "bucket", "query", "service",
];

/// A layer uses no layer after it.
pub fn layers(path: &str, code: &str) -> Vec<String> {
    let Some(inside) = path.strip_prefix("common/src/") else { return Vec::new() };
    let layer = inside.split('/').next().unwrap_or_default().trim_end_matches(".rs");
    let rank = |name: &str| LAYERS.iter().position(|layer| *layer == name);
    let Some(own) = rank(layer) else { return Vec::new() };
    let mut taken = taken_from(code, "crate");
    taken.extend(taken_from(code, "super"));
    taken.retain(|(_, name)| rank(name).is_some_and(|rank| rank > own));
    taken.iter().map(|(line, name)| format!("{path}:{line}: {layer} uses {name}, a later layer")).collect()
}

/// Only `service` uses gRPC.
pub fn wire(path: &str, code: &str) -> Vec<String> {
    if !path.starts_with("common/src/") || path.starts_with("common/src/service") {
        return Vec::new();
    }
    let named = words(code).filter(|(_, word, _)| word.starts_with("tonic") || word.starts_with("prost"));
    named.map(|(line, word, _)| format!("{path}:{line}: uses {word} outside of service")).collect()
}

/// Only the `FileSystem` implementation uses the operating system's files.
pub fn file_effects(path: &str, code: &str) -> Vec<String> {
    if path == "common/src/storage/fs.rs" {
        return Vec::new();
    }
    let mut wrong = Vec::new();
    for of in ["std", "tokio"] {
        for (line, _) in taken_from(code, of).iter().filter(|(_, name)| name == "fs") {
            wrong.push(format!("{path}:{line}: uses {of}::fs outside of common/src/storage/fs.rs"));
        }
    }
    wrong
}

/// A file opens with a sentence that says what it is for.
pub fn opening(path: &str, text: &str) -> Vec<String> {
    let says = text.lines().next().and_then(|line| line.strip_prefix("//! "));
    let said = says.is_some_and(|words| words.split_whitespace().count() >= 3);
    if said { Vec::new() } else { vec![format!("{path}:1: does not open with a `//!` sentence")] }
}

/// A file has at most `max` lines.
pub fn length(path: &str, text: &str, max: usize) -> Vec<String> {
    let lines = text.lines().count();
    if lines <= max { Vec::new() } else { vec![format!("{path}: {lines} lines, over {max}")] }
}

/// No unfinished code, and no unused code that is hidden from the compiler.
pub fn unfinished(path: &str, code: &str) -> Vec<String> {
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

/// How many lines above an ignored result may have the comment that says why it is ignored.
const EXPLAINED_WITHIN: usize = 12;

/// An ignored result has a comment that says why: an error must not vanish. What is written into memory cannot fail.
pub fn ignored_results(path: &str, text: &str) -> Vec<String> {
    if path.ends_with("tests.rs") || path.contains("/tests/") || path.contains("/sim/") {
        return Vec::new();
    }
    let shipped = text.split("#[cfg(test)]\nmod ").next().unwrap_or_default();
    let lines: Vec<&str> = shipped.lines().collect();
    let mut wrong = Vec::new();
    for (at, line) in lines.iter().enumerate() {
        let code = line.trim();
        let is_ignored = code.starts_with("let _ = ") || (code.ends_with(".ok();") && !code.contains('='));
        let in_memory = ["let _ = write", "let _ = rmp::encode::", "let _ = self.buffer"]
            .iter()
            .any(|begin| code.starts_with(begin));
        if code.starts_with("//") || !is_ignored || in_memory {
            continue;
        }
        let above = &lines[at.saturating_sub(EXPLAINED_WITHIN)..=at];
        if !above.iter().any(|line| line.contains("//")) {
            wrong.push(format!("{path}:{}: ignores a result, and no comment says why", at + 1));
        }
    }
    wrong
}

/// Every file is a module of its crate: `mod` declarations lead to it from `lib.rs` or `main.rs`.
pub fn unreachable(files: &BTreeMap<String, String>) -> Vec<String> {
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
    lost.map(|path| format!("{path}: no `mod` declares this file")).collect()
}

/// No two files define types of the same name.
pub fn same_names(files: &BTreeMap<String, String>) -> Vec<String> {
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

/// Only a dev-dependency enables the feature `sim`, and nothing enables `planted`, so that no released binary contains
/// the simulated disk or a planted bug.
pub fn test_code_in_shipped_code(path: &str, manifest: &str) -> Vec<String> {
    let mut section = "";
    let mut wrong = Vec::new();
    for (line, text) in manifest.lines().enumerate() {
        if text.starts_with('[') {
            section = text;
        }
        if text.contains("\"sim\"") && section != "[dev-dependencies]" {
            wrong.push(format!("{path}:{}: {section} enables the feature `sim`", line + 1));
        }
        if text.contains("\"planted\"") || text.contains("/planted\"") {
            wrong.push(format!("{path}:{}: {section} enables the feature `planted`", line + 1));
        }
    }
    wrong
}
