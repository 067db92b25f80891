//! Parses DriftQL by recursive descent with one token of lookahead.

mod aggregate;
mod array_condition;
mod bulk;
mod condition;
mod key;
mod moment;
mod over_time;
mod point;
mod select;
mod select_list;
mod state;
mod statement;
mod value;

pub use point::{ParsedPoint, parse_point};

use crate::error::{Error, Reason, Result};
use crate::format::value::Value;
use crate::limits;
use crate::query::ast::{Column, Condition, OrderBy, Statement};
use crate::query::local_clock::LocalClock;
use crate::query::parser::select_list::ColumnPlaces;
use crate::query::parser::state::{Parser, Reserved};

/// Something that was parsed, and for people how words for moments in it were understood.
#[derive(Debug, Clone, PartialEq)]
pub struct Parsed<T> {
    /// What was parsed.
    pub value: T,
    /// Which times words such as `yesterday` mean, and in which time zone: one line each.
    pub notes: Vec<String>,
}

/// Parses one statement as [`parse_at`] does, by the clock of the system in UTC.
pub fn parse(text: &str, params: &[Value]) -> Result<Statement> {
    parse_at(text, params, &LocalClock::system_utc()).map(|parsed| parsed.value)
}

/// Parses one statement, with or without a final `;`. `params` are the values of `$1`, `$2`, …; `clock` says what words for moments
/// mean.
///
/// # Errors
/// `QUERY_SYNTAX` or `QUERY_INVALID` with the location; `TOO_LARGE` if the text is longer than the limit.
pub fn parse_at(text: &str, params: &[Value], clock: &LocalClock) -> Result<Parsed<Statement>> {
    let mut parser = Parser::with_clock(text, params, clock)?;
    let statement = parser.statement()?;
    if parser.eat(";")? && !parser.at_end() {
        return Err(parser.expected("the end of the statement", &[], "send one statement at a time"));
    }
    parser.finish(&[])?;
    Ok(Parsed { value: statement, notes: parser.notes })
}

/// Parses a condition as [`parse_condition_at`] does, by the clock of the system in UTC.
pub fn parse_condition(text: &str, params: &[Value]) -> Result<Condition> {
    parse_condition_at(text, params, &LocalClock::system_utc()).map(|parsed| parsed.value)
}

/// Parses a condition, as written after WHERE. `clock` gives words for moments their meaning.
pub fn parse_condition_at(text: &str, params: &[Value], clock: &LocalClock) -> Result<Parsed<Condition>> {
    condition_of(Parser::with_clock(text, params, clock)?)
}

/// As [`parse_condition_at`], for a condition on deleted rows, whose `_deleted_time` is compared with times.
pub fn parse_deleted_condition_at(
    text: &str,
    params: &[Value],
    clock: &LocalClock,
) -> Result<Parsed<Condition>> {
    let mut parser = Parser::with_clock(text, params, clock)?;
    parser.reads_deleted = true;
    condition_of(parser)
}

fn condition_of(mut parser: Parser<'_>) -> Result<Parsed<Condition>> {
    let condition = parser.condition(0)?;
    parser.finish(&["AND", "OR"])?;
    Ok(Parsed { value: condition, notes: parser.notes })
}

/// Parses a column: `_key`, `_seq`, `_time` or a path.
pub fn parse_column(text: &str) -> Result<Column> {
    let mut parser = Parser::new(text, &[])?;
    let column = parser.column(Reserved::Allowed)?;
    parser.finish(&[])?;
    Ok(column)
}

/// Parses columns to sort rows by, as written after ORDER BY.
pub fn parse_order_by(text: &str) -> Result<Vec<OrderBy>> {
    let mut parser = Parser::new(text, &[])?;
    let mut places = ColumnPlaces::default();
    let order = parser.order_columns(&[], &mut places)?;
    parser.finish(&["ASC", "DESC"])?;
    parser.only_rows(&order, &places)?;
    Ok(order)
}

/// Parses the JSON text of a parameter.
pub fn parse_param(json: &str) -> Result<Value> {
    let mut values = limits::LITERAL_VALUES;
    parse_literal(json, &mut values)
}

/// Parses the JSON text of a parameter, and subtracts the number of values in it from `values`.
fn parse_literal(json: &str, values: &mut usize) -> Result<Value> {
    let mut parser = Parser::new(json, &[])?;
    parser.values = *values;
    let value = parser.value()?;
    parser.finish(&[])?;
    *values = parser.values;
    Ok(value)
}

/// Parses the values of `$1`, `$2`, …, each a JSON text.
///
/// # Errors
/// As [`parse`]; the texts together may not be longer than a statement.
pub fn parse_params(texts: &[String]) -> Result<Vec<Value>> {
    let bytes: usize = texts.iter().map(String::len).sum();
    if bytes > limits::STATEMENT_BYTES {
        let limit = limits::STATEMENT_BYTES;
        let message = format!("the parameters are too large: {bytes} bytes in total, the limit is {limit}");
        return Err(Error::new(Reason::TooLarge, message));
    }
    let mut values = limits::LITERAL_VALUES;
    let mut parse = |(i, text): (usize, &String)| {
        parse_literal(text, &mut values).map_err(|e| e.without_place().context(format_args!("${}", i + 1)))
    };
    texts.iter().enumerate().map(&mut parse).collect()
}

#[cfg(test)]
mod tests;
