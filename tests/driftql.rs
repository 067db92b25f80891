//! Golden statements: the result of each DriftQL text in `tests/driftql/`, a syntax tree or an error with its place.
//!
//! In these files, a line `> …` is DriftQL text: a statement, or what `where>`, `point>` or `script>` names. Further
//! such lines continue it. A line `$ …` before it is a parameter. The lines after it are the expected result.
//! `DRIFTDB_BLESS=1 cargo test --test integration driftql::` writes the actual results; review the difference before
//! you commit it.

use std::fmt::{Debug, Write as _};

use driftdb_common::query::local_clock::LocalClock;
use driftdb_common::query::{parser, report, script};

/// 2025-06-15T12:00:00Z, a Sunday: what words for moments mean in these files.
const NOW_MS: u64 = 1_749_988_800_000;

const FILES: [(&str, &str); 4] = [
    ("over_time", include_str!("driftql/over_time.txt")),
    ("statements", include_str!("driftql/statements.txt")),
    ("conditions", include_str!("driftql/conditions.txt")),
    ("errors", include_str!("driftql/errors.txt")),
];

/// The inputs of a file: comments and parameters unchanged, then the kind of text, then the text.
fn inputs(golden: &str) -> Vec<(Vec<&str>, &str, String)> {
    let mut inputs: Vec<(Vec<&str>, &str, String)> = Vec::new();
    let mut before = Vec::new();
    let mut continues = false;
    for line in golden.lines() {
        let Some((kind, text)) = line.split_once('>').filter(|(kind, _)| is_kind(kind)) else {
            if line.starts_with(['#', '$']) {
                before.push(line);
            }
            continues = false;
            continue;
        };
        let text = text.strip_prefix(' ').unwrap_or(text);
        match inputs.last_mut().filter(|_| continues) {
            Some((_, _, whole)) => write!(whole, "\n{text}").unwrap(),
            None => inputs.push((std::mem::take(&mut before), kind, text.to_owned())),
        }
        continues = true;
    }
    inputs
}

fn is_kind(kind: &str) -> bool {
    ["", "where", "point", "script"].contains(&kind)
}

fn outcome(before: &[&str], kind: &str, text: &str) -> String {
    let params: Vec<_> = before
        .iter()
        .filter_map(|line| line.strip_prefix("$ "))
        .map(|json| parser::parse_param(json).expect("parameters are valid"))
        .collect();
    let shown = |result: Result<Box<dyn Debug>, driftdb_common::error::Error>| match result {
        Ok(tree) => format!("{tree:?}"),
        Err(error) => report::describe(&error, text),
    };
    let clock = LocalClock::utc(NOW_MS);
    match kind {
        "where" => match parser::parse_condition_at(text, &params, &clock).map(|parsed| parsed.value) {
            Ok(condition) => format!("{condition}\n{condition:?}"),
            Err(error) => report::describe(&error, text),
        },
        "point" => shown(parser::parse_point(text, &clock).map(|point| Box::new(point) as Box<dyn Debug>)),
        "script" => {
            let outcome = |piece: script::ScriptStatement<'_>| match parser::parse(piece.text, &params) {
                Ok(statement) => format!("line {}: {:?}", piece.line, statement.kind()),
                Err(error) => report::describe_in(&error, text, piece.offset),
            };
            script::split(text).map(outcome).collect::<Vec<_>>().join("\n")
        }
        _ => {
            let parsed = parser::parse_at(text, &params, &clock);
            shown(parsed.map(|parsed| Box::new(parsed.value) as Box<dyn Debug>))
        }
    }
}

#[test]
fn statements_parse_as_the_golden_files_say() {
    let bless = std::env::var_os("DRIFTDB_BLESS").is_some();
    for (name, golden) in FILES {
        let mut found = String::new();
        for (before, kind, text) in inputs(golden) {
            for line in &before {
                writeln!(found, "{line}").unwrap();
            }
            for line in text.split('\n') {
                writeln!(found, "{}", format!("{kind}> {line}").trim_end()).unwrap();
            }
            writeln!(found, "{}\n", outcome(&before, kind, &text)).unwrap();
        }
        if bless {
            let path = format!("{}/tests/driftql/{name}.txt", env!("CARGO_MANIFEST_DIR"));
            #[expect(clippy::disallowed_methods, reason = "a test's own data, not a database's")]
            std::fs::write(path, &found).unwrap();
            continue;
        }
        for (expected, found) in golden.split("\n\n").zip(found.split("\n\n")) {
            assert_eq!(found, expected, "in {name}.txt; DRIFTDB_BLESS=1 accepts it");
        }
        assert_eq!(found, golden, "{name}.txt");
    }
}
