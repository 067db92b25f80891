//! DriftQL on the client side: which daemon runs a statement, and which operations a transaction consists of.

use std::borrow::Cow;

use driftdb::v1;
use driftdb_common::error::{Error, Reason, Result};
use driftdb_common::format::value::Value;
use driftdb_common::query::ast::{PointInTime, Statement, StatementKind};
use driftdb_common::query::change;
use driftdb_common::query::local_clock::LocalClock;
use driftdb_common::query::parser::{self, Parsed, ParsedPoint};
use driftdb_common::service::convert::{operation_to_wire, precondition_to_wire};
use driftdb_common::service::preconditions::boundary_to_wire;
use driftdb_common::table::operation::{CommitRequest, KeyInput};
use prost_types::Timestamp;
use v1::as_of::At;

use crate::exit::{CliResult, Failure};
use crate::render;
use crate::shapes::RequestedImages;

/// Where a statement is executed.
#[derive(Debug, PartialEq)]
pub(crate) enum StatementRoute {
    /// A reader executes it.
    Reader(Box<Statement>),
    /// The writer executes it. Inside a transaction it adds operations instead.
    Writer(Box<Statement>),
    /// Opens a transaction.
    Begin,
    /// Sends the transaction.
    Commit,
    /// Discards the transaction.
    Rollback,
}

/// Decides where a statement is executed. Also returns how words for moments in it are understood.
pub(crate) fn route(
    text: &str,
    params: &[Value],
    clock: &LocalClock,
) -> Result<(StatementRoute, Vec<String>)> {
    let Parsed { value: statement, notes } = parser::parse_at(text, params, clock)?;
    let route = match (statement.kind(), statement) {
        (_, Statement::Begin) => StatementRoute::Begin,
        (_, Statement::Commit) => StatementRoute::Commit,
        (_, Statement::Rollback) => StatementRoute::Rollback,
        (StatementKind::Read, statement) => StatementRoute::Reader(Box::new(statement)),
        (_, statement) => StatementRoute::Writer(Box::new(statement)),
    };
    Ok((route, notes))
}

/// The row images that a statement returns with each event.
pub(crate) fn images(statement: &Statement) -> RequestedImages {
    match statement {
        Statement::ShowDrift(drift) => RequestedImages { before: drift.with_before, after: drift.with_after },
        Statement::Find(_) => RequestedImages { before: true, after: true },
        _ => RequestedImages::default(),
    }
}

/// The text of a read statement, with `AS OF point` added if it has no `AS OF` of its own.
pub(crate) fn with_as_of<'a>(text: &'a str, statement: &Statement, point: &str) -> Cow<'a, str> {
    let free = match statement {
        Statement::Select(select) | Statement::Explain(select) => {
            select.as_of.is_none() && select.every.is_none()
        }
        Statement::ShowTables { as_of } | Statement::Describe { as_of, .. } => as_of.is_none(),
        _ => false,
    };
    match serde_json::to_string(point) {
        Ok(point) if free => {
            // The statement can end with a comment, which a new line ends.
            let joint = if text.contains("--") { '\n' } else { ' ' };
            let text = text.trim_end_matches(|c: char| c == ';' || c.is_whitespace());
            format!("{text}{joint}AS OF {point}").into()
        }
        _ => text.into(),
    }
}

/// What a statement adds to a transaction.
#[derive(Debug)]
pub(crate) struct TransactionPart {
    /// The operations.
    pub(crate) operations: Vec<v1::Operation>,
    /// The preconditions.
    pub(crate) preconditions: Vec<v1::Precondition>,
    /// The keys that name their fields, each with its table. In the API they are text, which in a table with STRING keys could be a key
    /// itself, so the type of the table's keys must be known.
    pub(crate) named_keys: Vec<(String, KeyInput)>,
}

/// What a statement adds to a transaction.
pub(crate) fn transaction_part(statement: Statement) -> Result<TransactionPart> {
    match change::of_statement(statement)? {
        CommitRequest::Rows { operations, preconditions, boundaries } => {
            let rows = preconditions.into_iter().map(precondition_to_wire);
            let boundaries = boundaries.into_iter().map(boundary_to_wire);
            let named = operations.iter().filter_map(|operation| match &operation.key {
                Some(key @ KeyInput::Named(_)) => Some((operation.table.clone(), key.clone())),
                _ => None,
            });
            Ok(TransactionPart {
                named_keys: named.collect(),
                preconditions: rows.chain(boundaries).collect(),
                operations: operations.into_iter().map(operation_to_wire).collect(),
            })
        }
        CommitRequest::Schema(_) => Err(Error::new(
            Reason::QueryInvalid,
            "a transaction can only change rows: run CREATE, ALTER and DROP TABLE outside it",
        )),
    }
}

/// The values of `$1`, `$2`, …, each as JSON text. An error points at its place in the text of the value.
pub(crate) fn parse_params(params: &[String]) -> CliResult<Vec<Value>> {
    for (number, text) in (1..).zip(params) {
        parser::parse_param(text)
            .map_err(|e| Failure::in_text(e.context(format_args!("--param ${number}")), text))?;
    }
    // All together, because they share a limit.
    Ok(parser::parse_params(params)?)
}

/// Checks the fields of a select. An error points at its place in the text of the field.
pub(crate) fn check_fields(fields: &[String]) -> CliResult {
    for text in fields {
        let named = |e: Error| Failure::in_text(e.context(format_args!("--fields {text:?}")), text);
        parser::parse_column(text).map_err(named)?;
    }
    Ok(())
}

/// Checks a point in time that is sent as text.
pub(crate) fn check_point(text: &str) -> CliResult {
    let parsed = parser::parse_point(text, &LocalClock::system_utc());
    parsed.map(drop).map_err(|error| Failure::in_text(error, text))
}

/// Parses the point in time of an option. If it is in words, notes which time they mean.
pub(crate) fn parse_point(text: &str, clock: &LocalClock) -> CliResult<v1::AsOf> {
    let parsed = parser::parse_point(text, clock).map_err(|error| Failure::in_text(error, text))?;
    let ParsedPoint { point, note } = parsed;
    render::note_all(note.as_slice());
    let at = match point {
        PointInTime::Now => None,
        PointInTime::Seq(seq) => Some(At::Seq(seq)),
        PointInTime::Time(ms) => Some(At::Time(time(ms))),
        PointInTime::Ago(ago) => {
            let ago = prost_types::Duration::try_from(ago);
            Some(At::Ago(ago.map_err(|_| Failure::Usage(format!("{text:?} is too far in the past")))?))
        }
    };
    Ok(v1::AsOf { at })
}

/// Parses the point in time of an optional option.
pub(crate) fn parse_optional_point(text: Option<&str>, clock: &LocalClock) -> CliResult<Option<v1::AsOf>> {
    text.map(|text| parse_point(text, clock)).transpose()
}

fn time(ms: i64) -> Timestamp {
    let nanos = ms.rem_euclid(1000) * 1_000_000;
    Timestamp { seconds: ms.div_euclid(1000), nanos: i32::try_from(nanos).unwrap_or_default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_statement_is_routed_to_its_daemon() {
        for (text, daemon) in [
            ("select * from t", "reader"),
            ("EXPLAIN SELECT * FROM t", "reader"),
            ("SHOW DRIFT t", "reader"),
            ("FIND LAST IN t WHERE a = 1", "reader"),
            ("EXPLAIN FIND LAST IN t WHERE a = 1", "reader"),
            ("EXPLAIN SHOW DRIFT t", "reader"),
            ("SHOW TABLES", "reader"),
            ("DESCRIBE t", "reader"),
            ("CREATE TABLE t (pk=id)", "writer"),
            ("ALTER TABLE t RETAIN FOREVER", "writer"),
            ("INSERT INTO t {\"id\": \"a\"};", "writer"),
            ("REVERT t KEY \"a\" TO @seq:1", "writer"),
            ("SNAPSHOT t", "writer"),
            ("VERIFY", "writer"),
            ("begin", "begin"),
            ("COMMIT", "commit"),
            ("ROLLBACK", "rollback"),
        ] {
            let found = match route(text, &[], &LocalClock::utc(0)).unwrap().0 {
                StatementRoute::Reader(_) => "reader",
                StatementRoute::Writer(_) => "writer",
                StatementRoute::Begin => "begin",
                StatementRoute::Commit => "commit",
                StatementRoute::Rollback => "rollback",
            };
            assert_eq!(found, daemon, "{text}");
        }
        assert_eq!(route("SELCT", &[], &LocalClock::utc(0)).unwrap_err().reason(), Reason::QuerySyntax);
    }

    #[test]
    fn as_of_is_added_to_statements_without_one() {
        for (text, expected) in [
            ("SELECT * FROM t LIMIT 1", "SELECT * FROM t LIMIT 1 AS OF \"1 hour ago\""),
            ("SELECT * FROM t AS OF @seq:1 LIMIT 1", "SELECT * FROM t AS OF @seq:1 LIMIT 1"),
            ("EXPLAIN SELECT * FROM t;", "EXPLAIN SELECT * FROM t AS OF \"1 hour ago\""),
            ("SELECT * FROM t -- all", "SELECT * FROM t -- all\nAS OF \"1 hour ago\""),
            ("DESCRIBE t", "DESCRIBE t AS OF \"1 hour ago\""),
            ("SHOW TABLES", "SHOW TABLES AS OF \"1 hour ago\""),
            ("SHOW DRIFT t", "SHOW DRIFT t"),
            (
                "SELECT COUNT(*) FROM t AS OF EVERY \"1 day\" FROM @seq:1",
                "SELECT COUNT(*) FROM t AS OF EVERY \"1 day\" FROM @seq:1",
            ),
        ] {
            let statement = parser::parse(text, &[]).unwrap();
            let moved = with_as_of(text, &statement, "1 hour ago");
            assert_eq!(moved, expected);
            parser::parse(&moved, &[]).unwrap();
        }
    }

    fn collected(text: &str) -> Result<(Vec<v1::Operation>, Vec<v1::Precondition>)> {
        let part = transaction_part(parser::parse(text, &[]).unwrap())?;
        Ok((part.operations, part.preconditions))
    }

    #[test]
    fn statements_in_a_transaction_become_operations() {
        use v1::operation::Action;
        let (operations, conditions) =
            collected(r#"INSERT INTO t {"id": "a", "z": 1, "b": 2}, {"id": "b"}"#).unwrap();
        assert_eq!((operations.len(), conditions.len()), (2, 0));
        let Some(Action::Insert(document)) = operations[0].action.clone() else { panic!("{operations:?}") };
        let row = v1::Row { document: Some(document), ..Default::default() };
        assert_eq!(crate::shapes::row(row, false).unwrap(), r#"{"id":"a","z":1,"b":2}"#);

        let (operations, conditions) = collected(r#"PATCH t KEY 7 SET {"a": null} IF SEQ = 3"#).unwrap();
        assert_eq!((operations[0].table.as_str(), operations[0].key.as_str()), ("t", "7"));
        assert!(matches!(operations[0].action, Some(Action::Patch(_))));
        let check = Some(v1::precondition::Check::SeqIs(3));
        assert_eq!(
            conditions,
            [v1::Precondition { table: "t".into(), key: "7".into(), check, ..Default::default() }]
        );

        let (operations, _) = collected("SOFT DELETE FROM t KEY \"a\"").unwrap();
        assert!(matches!(operations[0].action, Some(Action::SoftDelete(_))));
        assert!(collected("DROP TABLE t").is_err());
        assert!(collected("SNAPSHOT t").is_err());
    }

    #[test]
    fn an_error_points_into_the_parameter_or_the_field() {
        let text = parse_params(&["1".to_owned(), "[1, pending]".to_owned()]).unwrap_err().text();
        assert!(
            text.contains("--param $2: ") && text.contains("\n  | [1, pending]\n  |     ^^^^^^^"),
            "{text}"
        );
        let text = check_fields(&["id".to_owned(), "first name".to_owned()]).unwrap_err().text();
        assert!(
            text.contains("--fields \"first name\": ") && text.contains("\n  | first name\n  |       ^^^^"),
            "{text}"
        );
        assert!(check_fields(&["`first name`".to_owned()]).is_ok());
    }

    #[test]
    fn points_in_time_are_encoded_for_the_api() {
        let at = |text: &str| parse_point(text, &LocalClock::utc(0)).unwrap().at;
        assert_eq!(at("@now"), None);
        assert_eq!(at("@seq:7"), Some(At::Seq(7)));
        assert_eq!(at("1970-01-02"), Some(At::Time(Timestamp { seconds: 86_400, nanos: 0 })));
        assert_eq!(
            at("1970-01-01T00:00:01.5Z"),
            Some(At::Time(Timestamp { seconds: 1, nanos: 500_000_000 }))
        );
        assert_eq!(at("5 minutes ago"), Some(At::Ago(prost_types::Duration { seconds: 300, nanos: 0 })));
        assert_eq!(time(-1), Timestamp { seconds: -1, nanos: 999_000_000 });
        let failure = parse_point("yesterdya", &LocalClock::utc(0)).unwrap_err();
        assert_eq!(failure.code(), 1);
        assert!(failure.text().contains("yesterdya"), "{}", failure.text());
    }
}
