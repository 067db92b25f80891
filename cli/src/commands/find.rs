//! `find`: the commit at which a condition began to hold.

use driftdb::v1::KeyType;
use driftdb_common::error::Error;
use driftdb_common::query::parser;

use crate::args::FindArgs;
use crate::database::{DatabaseHandle, key_type_of};
use crate::exit::{CliResult, Failure};
use crate::render::{Printer, ResultItem};
use crate::session::run_query;
use crate::shapes::RequestedImages;
use crate::statement;

/// Prints the commit with the row before and after it, as the statement FIND does.
pub(crate) async fn run(args: FindArgs, database: &mut DatabaseHandle, out: &mut Printer) -> CliResult {
    let values = statement::parse_params(&args.param)?;
    let clock = database.clock()?;
    // Alone first, so that an error points into it.
    let in_condition = |error: Error| Failure::in_text(error, &args.condition);
    parser::parse_condition_at(&args.condition, &values, &clock).map_err(in_condition)?;
    for point in [&args.from, &args.to].into_iter().flatten() {
        statement::check_point(point)?;
    }
    let which = if args.last { "LAST" } else { "FIRST" };
    let mut text = format!("FIND {which} IN `{}`", args.rows.table().replace('`', "``"));
    if let Some(key) = args.rows.keys().first() {
        let key_type = key_type_of(database.fresh_client().await?, args.rows.table()).await?;
        text.push_str(&format!(" KEY {}", literal(key, key_type)?));
    }
    // The condition can end with a comment, which a new line ends.
    text.push_str(&format!(" WHERE ({}\n)", args.condition));
    for (word, point) in [("FROM", &args.from), ("TO", &args.to)] {
        if let Some(point) = point {
            text.push_str(&format!(" {word} {}", quoted(point)?));
        }
    }
    out.begin_pages();
    let images = RequestedImages { before: true, after: true };
    let mut print = |item: ResultItem| out.print_item(item);
    run_query(database, (text.as_str(), images), &args.param, &mut print).await?;
    out.end_rows()
}

/// A key as a statement writes it.
fn literal(key: &str, key_type: KeyType) -> CliResult<String> {
    match key_type {
        KeyType::Int => match key.parse::<i64>() {
            Ok(int) => Ok(int.to_string()),
            Err(_) => Err(Failure::Usage(format!("{key:?} is no key: the keys of this table are integers"))),
        },
        KeyType::Composite => match serde_json::from_str(key) {
            Ok(serde_json::Value::Array(values)) => {
                let values: Vec<String> = values.iter().map(ToString::to_string).collect();
                Ok(format!("({})", values.join(", ")))
            }
            Ok(serde_json::Value::Object(fields)) => {
                let field = |(name, value): (&String, &serde_json::Value)| {
                    format!("`{}` = {value}", name.replace('`', "``"))
                };
                Ok(format!("({})", fields.iter().map(field).collect::<Vec<_>>().join(", ")))
            }
            _ => Err(Failure::Usage(format!(
                "{key:?} is no key: the keys of this table are arrays, such as [\"x\",3], or objects with the fields of the key"
            ))),
        },
        KeyType::String | KeyType::Unspecified => quoted(key),
    }
}

fn quoted(text: &str) -> CliResult<String> {
    serde_json::to_string(text).map_err(|e| Failure::Usage(e.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_written_as_statements_take_it() {
        for (key, of, expected) in [
            ("a\"b", KeyType::String, r#""a\"b""#),
            ("-7", KeyType::Int, "-7"),
            (r#"["x", 3]"#, KeyType::Composite, r#"("x", 3)"#),
            (r#"{"n": 3, "a`b": "x"}"#, KeyType::Composite, r#"(`a``b` = "x", `n` = 3)"#),
        ] {
            let found = literal(key, of).unwrap();
            // The fields of an object can come in any order.
            let fields = "(`n` = 3, `a``b` = \"x\")";
            assert!(found == expected || found == fields, "{found}");
        }
        for (key, of) in [("x", KeyType::Int), ("x", KeyType::Composite), ("7", KeyType::Composite)] {
            assert!(literal(key, of).is_err(), "{key}");
        }
    }
}
