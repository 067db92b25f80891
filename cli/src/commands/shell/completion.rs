//! Completion: tables, columns, points in time and keywords, as they are when Tab is pressed.
//!
//! Tables and columns are read from the database at that moment, so that a table that somebody else has just made is offered, too. The
//! answer has to come while the user waits, so it is left out if it takes longer than a moment.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use driftdb::client::Client;
use driftdb::v1;
use driftdb_common::query::keywords::KEYWORDS;
use driftdb_common::query::lexer::{Lexer, TokenKind};
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::time::timeout;

use crate::database::tables_at;

/// How long Tab may take.
const WAIT: Duration = Duration::from_millis(500);
/// How long an answer is used again.
const FRESH: Duration = Duration::from_secs(2);
/// The columns of a table are those of its first rows.
const ROWS: u64 = 50;
/// The maximum number of columns that are offered.
const COLUMNS: usize = 200;
/// The maximum number of tables whose columns are kept.
const TABLES: usize = 16;

/// What completion knows about the database.
pub(crate) struct Catalogue {
    client: Client,
    runtime: Handle,
    tables: Mutex<Option<(Instant, Vec<v1::TableInfo>)>>,
    columns: Mutex<HashMap<String, (Instant, Vec<String>)>>,
}

impl Catalogue {
    /// Asks over this client.
    pub(crate) fn new(client: Client, runtime: Handle) -> Catalogue {
        Catalogue { client, runtime, tables: Mutex::default(), columns: Mutex::default() }
    }

    /// The tables. Must not be called on a thread of the runtime.
    fn tables(&self) -> Vec<v1::TableInfo> {
        let known = self.tables.lock().clone();
        if let Some((_, tables)) = known.filter(|(since, _)| since.elapsed() < FRESH) {
            return tables;
        }
        let asked = self.runtime.block_on(timeout(WAIT, tables_at(&self.client, None)));
        // Ignore errors: a statement that needs the reader will report them.
        let Ok(Ok((_, tables))) = asked else { return Vec::new() };
        *self.tables.lock() = Some((Instant::now(), tables.clone()));
        tables
    }

    /// The fields of the first rows of a table.
    fn columns(&self, table: &str) -> Vec<String> {
        let known = self.columns.lock().get(table).cloned();
        if let Some((_, columns)) = known.filter(|(since, _)| since.elapsed() < FRESH) {
            return columns;
        }
        let request = v1::SelectRequest { table: table.to_owned(), limit: ROWS, ..Default::default() };
        let asked = self
            .runtime
            .block_on(timeout(WAIT, async { self.client.select(request).await?.collect().await }));
        let Ok(Ok(rows)) = asked else { return Vec::new() };
        let documents = rows.iter().filter_map(|row| row.json());
        let columns = fields_of(documents);
        let mut all = self.columns.lock();
        if all.len() >= TABLES {
            all.clear();
        }
        all.insert(table.to_owned(), (Instant::now(), columns.clone()));
        columns
    }
}

/// The fields of documents, those of the first one first; fields of objects as paths.
fn fields_of<'a>(documents: impl Iterator<Item = &'a str>) -> Vec<String> {
    let mut found = Vec::new();
    for document in documents {
        let Ok(serde_json::Value::Object(fields)) = serde_json::from_str(document) else { continue };
        for (name, value) in fields {
            let inner = value.as_object().into_iter().flat_map(|object| object.keys());
            let paths = inner.map(|inner| format!("{}.{}", quoted(&name), quoted(inner)));
            for path in std::iter::once(quoted(&name)).chain(paths) {
                if found.len() < COLUMNS && !found.contains(&path) {
                    found.push(path);
                }
            }
        }
    }
    found
}

/// A name as DriftQL takes it.
fn quoted(name: &str) -> String {
    let first = name.chars().next();
    let is_plain = first.is_some_and(|c| c.is_ascii_alphabetic() || c == '_')
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    if is_plain { name.to_owned() } else { format!("`{}`", name.replace('`', "``")) }
}

/// What can follow in a statement.
#[derive(Debug, PartialEq, Eq)]
enum Expected {
    /// A table.
    Table,
    /// A column of this table.
    Column(String),
    /// A point in time.
    Moment,
    /// A file.
    Nothing,
    /// Anything.
    Any,
}

/// The start of the word before the cursor, and what it can become. `pending` are the lines of the statement before this one.
pub(super) fn complete(before: &str, pending: &str, catalogue: Option<&Catalogue>) -> (usize, Vec<String>) {
    let expected = expected(before, pending);
    let tables = || catalogue.map(Catalogue::tables).unwrap_or_default();
    if expected == Expected::Moment {
        let last = tables().iter().map(|info| info.last_seq).max().unwrap_or_default();
        return moments(before, last);
    }
    let start = word_start(before);
    let word = before.get(start..).unwrap_or_default();
    let begins = |name: &&String| name.get(..word.len()).is_some_and(|head| head.eq_ignore_ascii_case(word));
    let names = || tables().into_iter().map(|info| info.table).collect::<Vec<_>>();
    let mut found: Vec<String> = match &expected {
        Expected::Table => names().iter().filter(begins).cloned().collect(),
        Expected::Column(table) => {
            let columns = catalogue.map(|catalogue| catalogue.columns(table)).unwrap_or_default();
            columns.iter().filter(begins).cloned().collect()
        }
        Expected::Any if !word.is_empty() => names().iter().filter(begins).cloned().collect(),
        Expected::Any | Expected::Nothing | Expected::Moment => Vec::new(),
    };
    // A keyword is no table, and a column is more likely than a keyword.
    let takes_keywords = match expected {
        Expected::Any => true,
        Expected::Column(_) => found.is_empty(),
        Expected::Table | Expected::Nothing | Expected::Moment => false,
    };
    if !word.is_empty() && takes_keywords {
        // Match the case of the word: `sel` becomes `select`, `S` becomes `SELECT`.
        let lower = word.chars().all(|c| !c.is_uppercase());
        let spelled = |keyword: &&str| if lower { keyword.to_lowercase() } else { (*keyword).to_owned() };
        let head =
            |keyword: &&&str| keyword.get(..word.len()).is_some_and(|head| head.eq_ignore_ascii_case(word));
        found.extend(
            KEYWORDS
                .iter()
                .filter(head)
                .map(spelled)
                .filter(|word| !found.contains(word))
                .collect::<Vec<_>>(),
        );
    }
    (start, found)
}

fn word_start(before: &str) -> usize {
    let start = before.rfind(|c: char| !c.is_alphanumeric() && c != '_' && c != '.' && c != '`');
    start.map_or(0, |at| at + before.get(at..).and_then(|s| s.chars().next()).map_or(1, char::len_utf8))
}

/// What the words before the cursor ask for.
fn expected(before: &str, pending: &str) -> Expected {
    let line = before.trim_start();
    if let Some(command) = line.strip_prefix('\\') {
        return match command.split_once(char::is_whitespace) {
            Some(("d" | "dt" | "d+", _)) => Expected::Table,
            Some(("as-of", _)) => Expected::Moment,
            _ => Expected::Nothing,
        };
    }
    let start = word_start(before);
    let earlier = format!("{pending} {}", before.get(..start).unwrap_or_default());
    let words = words(&earlier);
    let upper: Vec<String> = words.iter().map(|word| word.to_uppercase()).collect();
    let upper: Vec<&str> = upper.iter().map(String::as_str).collect();
    // Only a SELECT and a SOFT DELETE have the table after FROM.
    let has_moments = matches!(upper.as_slice(), ["SHOW", "DRIFT" | "DIFF", ..] | ["DIFF", ..])
        || upper.iter().any(|word| matches!(*word, "FIND" | "EVERY"))
        || upper.starts_with(&["EXPLAIN", "SHOW"]);
    match upper.as_slice() {
        // An open quote is read as one word that begins with it.
        [.., "RENAME", "TO"] | [.., "KEY" | "SINCE" | "EVERY" | "LIMIT" | "OFFSET"] => Expected::Nothing,
        ["SHOW", "DRIFT", .., "BY"] => Expected::Nothing,
        [.., "AS", "OF"] | [.., "TO" | "BEFORE"] => Expected::Moment,
        ["FIND" | "EXPLAIN", .., "FIRST" | "LAST", "IN"] | [.., "CHANGE", "IN"] => Expected::Table,
        [.., "FROM"] if has_moments => Expected::Moment,
        [
            ..,
            "FROM" | "INTO" | "TABLE" | "PATCH" | "DESCRIBE" | "DRIFT" | "REVERT" | "COMPACT" | "SNAPSHOT"
            | "DIFF" | "ON" | "VERIFY",
        ] => Expected::Table,
        [.., "WHERE" | "HAVING" | "AND" | "OR" | "NOT" | "BY" | "(" | ","] | ["SELECT"] => {
            table_of(&words, &upper).map_or(Expected::Any, Expected::Column)
        }
        _ => Expected::Any,
    }
}

/// The table of a statement.
fn table_of(words: &[String], upper: &[&str]) -> Option<String> {
    let is_before_table = |at: &usize| match (upper.get(at.wrapping_sub(1)), upper.get(*at)) {
        (Some(&("FIRST" | "LAST" | "CHANGE")), Some(&"IN")) => true,
        (_, Some(word)) => matches!(*word, "FROM" | "INTO" | "PATCH" | "DRIFT" | "REVERT" | "ON"),
        _ => false,
    };
    let at = (0..upper.len()).rev().find(is_before_table)?;
    words.get(at + 1).cloned()
}

/// The words and signs of the last statement of a text.
fn words(text: &str) -> Vec<String> {
    let (mut lexer, mut found) = (Lexer::new(text), Vec::new());
    while let Ok(token) = lexer.next() {
        match token.kind {
            TokenKind::End => break,
            _ => match text.get(token.start..token.end).unwrap_or_default() {
                ";" => found.clear(),
                word => found.push(word.to_owned()),
            },
        }
    }
    found
}

/// Points in time that begin like the text after the last word before the cursor.
fn moments(before: &str, last_seq: u64) -> (usize, Vec<String>) {
    let open = before.rfind(['"', '@', '\'']).filter(|at| {
        // The quote is open if no other one is before it in this line.
        before.get(..*at).unwrap_or_default().matches('"').count() % 2 == 0
    });
    let start = open.unwrap_or_else(|| before.rfind(char::is_whitespace).map_or(0, |at| at + 1));
    let typed = before.get(start..).unwrap_or_default();
    let now = jiff::Timestamp::now().round(jiff::Unit::Second).unwrap_or_default();
    let is_command = before.trim_start().starts_with('\\');
    let written = |text: &str| {
        if is_command || text.starts_with('@') { text.to_owned() } else { format!("\"{text}\"") }
    };
    let offered =
        ["@now", &format!("@seq:{last_seq}"), "5 minutes ago", "1 hour ago", "1 day ago", &now.to_string()]
            .map(written);
    (start, offered.into_iter().filter(|text| text.starts_with(typed)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keywords_match_the_case_of_the_word() {
        for (before, start, found) in
            [("SEL", 0, &["SELECT"][..]), ("sel", 0, &["select"]), ("é–up", 5, &["upsert"]), ("zz", 0, &[])]
        {
            let (at, words) = complete(before, "", None);
            assert_eq!((at, words), (start, found.iter().map(ToString::to_string).collect()), "{before}");
        }
    }

    #[test]
    fn the_words_before_the_cursor_say_what_can_follow() {
        for (before, pending, what) in [
            ("SELECT * FROM ", "", Expected::Table),
            ("select * from or", "", Expected::Table),
            ("UPSERT INTO ", "", Expected::Table),
            ("\\d o", "", Expected::Table),
            ("\\i fi", "", Expected::Nothing),
            ("\\as-of ", "", Expected::Moment),
            ("SELECT * FROM t AS OF ", "", Expected::Moment),
            ("SHOW DRIFT t FROM ", "", Expected::Moment),
            ("SELECT * FROM t WHERE ", "", Expected::Column("t".into())),
            ("AND a.", "SELECT * FROM t WHERE x = 1", Expected::Column("t".into())),
            ("PATCH t; SELECT * FROM u WHERE a = 1 OR ", "", Expected::Column("u".into())),
            ("SELECT * FROM t ", "", Expected::Any),
            ("FIND FIRST IN ", "", Expected::Table),
            ("EXPLAIN FIND LAST IN o", "", Expected::Table),
            ("FIND FIRST IN t WHERE a = 1 AND ", "", Expected::Column("t".into())),
            ("FIND FIRST IN t WHERE a = 1 FROM ", "", Expected::Moment),
            ("SELECT COUNT(*) FROM t AS OF EVERY \"1 day\" FROM ", "", Expected::Moment),
            ("SHOW DIFF t FROM ", "", Expected::Moment),
            ("SHOW DRIFT t BY ", "", Expected::Nothing),
            ("SELECT a FROM t GROUP BY ", "", Expected::Column("t".into())),
            ("SELECT a FROM t GROUP BY a HAVING ", "", Expected::Column("t".into())),
            ("REVERT t WHERE ", "", Expected::Column("t".into())),
            ("PATCH t KEY ", "", Expected::Nothing),
            ("ALTER TABLE t RENAME TO ", "", Expected::Nothing),
            ("CREATE INDEX ON ", "", Expected::Table),
            ("CREATE INDEX ON t (", "", Expected::Column("t".into())),
            ("UPSERT INTO t {} IF NO CHANGE IN ", "", Expected::Table),
            ("UPSERT INTO t {} IF NO CHANGE IN u WHERE ", "", Expected::Column("u".into())),
            ("SELECT * FROM t WHERE a IN (", "", Expected::Column("t".into())),
        ] {
            assert_eq!(expected(before, pending), what, "{before}");
        }
    }

    #[test]
    fn columns_are_those_of_the_rows() {
        let rows = [r#"{"id":1,"a b":2,"o":{"x":1,"y":{}}}"#, r#"{"id":2,"late":null}"#];
        assert_eq!(fields_of(rows.into_iter()), ["`a b`", "id", "o", "o.x", "o.y", "late"]);
    }

    #[test]
    fn points_in_time_are_written_as_the_place_takes_them() {
        let (start, found) = moments("SELECT * FROM t AS OF ", 7);
        assert_eq!(
            (start, &found[..3]),
            (22, ["@now", "@seq:7", "\"5 minutes ago\""].map(str::to_owned).as_slice())
        );
        assert_eq!(
            moments("SELECT * FROM t AS OF \"1 ", 7),
            (22, vec!["\"1 hour ago\"".to_owned(), "\"1 day ago\"".to_owned()])
        );
        assert_eq!(moments("\\as-of 5", 7).1, ["5 minutes ago"]);
        assert_eq!(moments("\\as-of @s", 7), (7, vec!["@seq:7".to_owned()]));
    }
}
