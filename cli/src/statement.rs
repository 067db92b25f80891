//! DriftQL on the client's side: scripts to statements, statements to the daemon that runs them.

use driftdb::v1;
use driftdb_common::error::{Error, Reason, Result};

/// A statement of a script.
#[derive(Debug, PartialEq, Eq)]
pub struct Piece {
    pub text: String,
    pub line: usize,
}

/// Who runs a statement.
#[derive(Debug, PartialEq, Eq)]
pub enum Route {
    Reader,
    Writer,
    Begin,
    Commit,
    Rollback,
}

pub fn split(script: &str) -> Result<Vec<Piece>> {
    Ok(script
        .split(';')
        .filter(|t| !t.trim().is_empty())
        .map(|t| Piece { text: t.trim().into(), line: 1 })
        .collect())
}

pub fn route(text: &str, _params: &[String]) -> Result<Route> {
    let words = text.split_whitespace().next().unwrap_or_default().to_uppercase();
    Ok(match words.as_str() {
        "SELECT" | "SHOW" | "DESCRIBE" | "EXPLAIN" => Route::Reader,
        "BEGIN" => Route::Begin,
        "COMMIT" => Route::Commit,
        "ROLLBACK" => Route::Rollback,
        _ => Route::Writer,
    })
}

/// Operations.
pub fn operations(_text: &str, _params: &[String]) -> Result<(Vec<v1::Operation>, Vec<v1::Precondition>)> {
    Err(Error::new(Reason::NotSupported, "transactions"))
}

pub fn point(text: &str) -> Result<v1::AsOf> {
    use v1::as_of::At;
    if text == "@now" {
        return Ok(v1::AsOf { at: None });
    }
    if let Some(seq) = text.strip_prefix("@seq:").and_then(|s| s.parse().ok()) {
        return Ok(v1::AsOf { at: Some(At::Seq(seq)) });
    }
    let t: jiff::Timestamp =
        text.parse().map_err(|e| Error::new(Reason::QuerySyntax, format!("no moment: {e}")))?;
    Ok(v1::AsOf { at: Some(At::Time(crate::shapes::timestamp(t))) })
}

pub fn describe(error: &Error, _text: &str) -> String {
    format!("error: {}", error.message())
}
