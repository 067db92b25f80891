//! The fields of log lines: one name for one thing, everywhere, so that whoever searches the logs knows what to search for.

use std::collections::BTreeMap;

use super::lexer::words;

/// Every name, with what it holds. A new one needs a line here: first see whether one of these fits.
const FIELDS: [(&str, &str); 40] = [
    ("action", "what the daemon does about it"),
    ("address", "where a port listens"),
    ("before", "a former value"),
    ("behind_ms", "how far the clock is behind the last commit, in milliseconds"),
    ("bucket", "the URL of a bucket"),
    ("bytes", "a size"),
    ("chunk", "the number of a chunk of a bucket"),
    ("chunks", "the number of the last chunk of a bucket"),
    ("connections", "a number of connections"),
    ("database", "the database's id"),
    ("elapsed_ms", "how long something took, in milliseconds"),
    ("epoch", "the epoch of a history"),
    ("error", "why something failed, or is not as it should be"),
    ("events", "a number of events"),
    ("files", "a number of files"),
    ("floor_seq", "a floor"),
    ("from", "the former version of a format"),
    ("indexes", "a number of index files"),
    ("job", "the number of a job"),
    ("lag_ms", "how far a reader or a bucket is behind, in milliseconds"),
    ("left", "the bytes that are still to be read for a chunk of a bucket"),
    ("layers", "a number of layers"),
    ("left_out", "how many such lines were not written since the last one"),
    ("line", "the text of a line of the audit log"),
    ("lines", "a number of lines of the audit log"),
    ("max_lag_ms", "--max-lag, in milliseconds"),
    ("method", "the method of a call"),
    ("offset", "a byte offset in a file"),
    ("open_files", "the limit of open files"),
    ("path", "a file or a directory"),
    ("peer", "the address of a client"),
    ("rows", "a number of rows"),
    ("segment", "the number of a segment"),
    ("seq", "the seq of a commit"),
    ("table", "the name of a table"),
    ("tables", "a number of tables"),
    ("task", "what a job does"),
    ("term", "a term"),
    ("time", "a time of day"),
    ("to", "the new version of a format"),
];

/// A log line whose fields are not in the list, or that has no message of its own.
pub fn unknown_fields(path: &str, code: &str, text: &str) -> Vec<String> {
    let known: BTreeMap<&str, &str> = FIELDS.into_iter().collect();
    let mut wrong = Vec::new();
    for (line, fields) in log_lines(code, text) {
        for field in fields {
            if !known.contains_key(field.as_str()) {
                wrong.push(format!(
                    "{path}:{line}: the log field {field:?} is not in tests/tidy/log_fields.rs"
                ));
            }
        }
    }
    wrong
}

/// The fields that no log line has.
pub fn unused_fields<'a>(files: impl Iterator<Item = (&'a str, &'a str)>) -> Vec<String> {
    let used: Vec<String> =
        files.flat_map(|(code, text)| log_lines(code, text)).flat_map(|(_, fields)| fields).collect();
    let unused = FIELDS.iter().filter(|(name, _)| !used.iter().any(|field| field == name));
    unused.map(|(name, _)| format!("tests/tidy/log_fields.rs: no log line has the field {name:?}")).collect()
}

/// Every call of a macro of `tracing`: its line, and the names of its fields.
fn log_lines(code: &str, text: &str) -> Vec<(usize, Vec<String>)> {
    let mut found = Vec::new();
    for (line, word, after) in words(code) {
        let rest = after.strip_prefix("::").filter(|_| word == "tracing");
        let Some((level, _)) = rest.and_then(|rest| rest.split_once("!(")) else { continue };
        if !["error", "warn", "info", "debug", "trace"].contains(&level) {
            continue;
        }
        // In the code a string is blank: the arguments are looked up in the text, where the message ends them.
        let from = text.lines().take(line - 1).map(|line| line.len() + 1).sum::<usize>();
        let Some((_, arguments)) = text.get(from..).and_then(|text| text.split_once(&format!("{level}!(")))
        else {
            continue;
        };
        let fields = arguments.split('"').next().unwrap_or_default();
        found.push((line, field_names(fields)));
    }
    found
}

/// The names in `%error, table = name, path = %a.b(c, d), `.
fn field_names(arguments: &str) -> Vec<String> {
    let (mut parts, mut depth) = (vec![String::new()], 0_i32);
    for c in arguments.chars() {
        depth += i32::from("([{".contains(c)) - i32::from(")]}".contains(c));
        match c {
            ',' if depth == 0 => parts.push(String::new()),
            c => parts.last_mut().unwrap().push(c),
        }
    }
    let name = |part: &String| {
        let name = part.split('=').next().unwrap_or_default().trim();
        name.trim_start_matches(['%', '?', '&', '*']).to_owned()
    };
    parts.iter().map(name).filter(|name| !name.is_empty()).collect()
}

#[test]
fn a_field_of_another_name_is_found() {
    let text =
        "fn f() {\n    tracing::warn!(%error, file = %path.display(a, b), left_out, \"x, y = {z}\");\n}\n";
    let code = super::lexer::code_of(text);
    let wrong = unknown_fields("a.rs", &code, text);
    assert_eq!(wrong.len(), 1, "{wrong:?}");
    assert!(wrong[0].starts_with("a.rs:2: the log field \"file\""), "{wrong:?}");
}
