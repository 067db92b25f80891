//! Parses DriftQL by recursive descent, one token ahead: what callers use, and what every part of the grammar shares.

mod condition;
mod point;
mod select;
mod statement;
mod value;

pub use point::parse_point;

use crate::error::{Error, Reason, Result, nearest};
use crate::format::value::Value;
use crate::limits;
use crate::query::ast::{Column, Condition, Statement, TableName};
use crate::query::lexer::{Lexer, Token, TokenKind, clipped};
use crate::query::report;

/// Parses one statement; a `;` may end it. `params` are the values of `$1`, `$2`, ….
pub fn parse(text: &str, params: &[Value]) -> Result<Statement> {
    let mut parser = Parser::new(text, params)?;
    let statement = parser.statement()?;
    if parser.eat(";")? && !parser.at_end() {
        return Err(parser.expected("the end of the statement", &[], "one statement at a time"));
    }
    parser.finish(&[])?;
    Ok(statement)
}

/// Parses what may follow WHERE.
pub fn parse_condition(text: &str, params: &[Value]) -> Result<Condition> {
    let mut parser = Parser::new(text, params)?;
    let condition = parser.condition(0)?;
    parser.finish(&["AND", "OR"])?;
    Ok(condition)
}

/// Parses a column: `_key`, `_seq`, `_time` or a path.
pub fn parse_column(text: &str) -> Result<Column> {
    let mut parser = Parser::new(text, &[])?;
    let column = parser.column(Reserved::Allowed)?;
    parser.finish(&[])?;
    Ok(column)
}

/// Parses the JSON text of a parameter.
pub fn parse_param(json: &str) -> Result<Value> {
    let mut parser = Parser::new(json, &[])?;
    let value = parser.value()?;
    parser.finish(&[])?;
    Ok(value)
}

/// Parses the values of `$1`, `$2`, …, each one JSON text.
pub fn parse_params(texts: &[String]) -> Result<Vec<Value>> {
    let parse =
        |(i, text): (usize, &String)| parse_param(text).map_err(|e| e.context(format_args!("${}", i + 1)));
    texts.iter().enumerate().map(parse).collect()
}

/// Words that begin what may follow a name: to be names themselves, they stand in backticks.
pub(crate) const RESERVED: &[&str] = &[
    "AND", "AS", "BETWEEN", "FALSE", "FROM", "IN", "IS", "LIKE", "LIMIT", "NOT", "NULL", "OFFSET", "OR",
    "SELECT", "TRUE", "WHERE",
];
/// Those that may follow a table's name only.
const RESERVED_FOR_TABLES: &[&str] = &["KEY", "SET", "TO"];

/// Whether a word is among keywords, whatever its case.
pub(crate) fn is_any(word: &str, keywords: &[&str]) -> bool {
    keywords.iter().any(|keyword| word.eq_ignore_ascii_case(keyword))
}

/// Whether a reserved word is taken for a name. It is where nothing but a name can stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reserved {
    Allowed,
    Refused,
}

struct Parser<'a> {
    text: &'a str,
    lexer: Lexer<'a>,
    token: Token,
    params: &'a [Value],
    /// How many bytes of parameters may still be copied in: a large one used often must not fill the memory.
    budget: usize,
}

impl<'a> Parser<'a> {
    fn new(text: &'a str, params: &'a [Value]) -> Result<Self> {
        if text.len() > limits::STATEMENT_BYTES {
            let (len, limit) = (text.len(), limits::STATEMENT_BYTES);
            let message = format!("a statement of {len} bytes is over the limit of {limit} bytes");
            return Err(Error::new(Reason::TooLarge, message));
        }
        let mut lexer = Lexer::new(text);
        let token = lexer.next()?;
        Ok(Parser { text, lexer, token, params, budget: limits::STATEMENT_BYTES })
    }

    /// Goes on to the next token, and returns the one passed.
    fn advance(&mut self) -> Result<Token> {
        Ok(std::mem::replace(&mut self.token, self.lexer.next()?))
    }

    /// The token after the present one.
    fn peek(&self) -> Result<Token> {
        self.lexer.clone().next()
    }

    fn slice(&self, token: Token) -> &'a str {
        self.text.get(token.start..token.end).unwrap_or_default()
    }

    fn at(&self, symbol: &str) -> bool {
        matches!(self.token.kind, TokenKind::Symbol(found) if found == symbol)
    }

    fn at_keyword(&self, keyword: &str) -> bool {
        self.token.kind == TokenKind::Word && self.slice(self.token).eq_ignore_ascii_case(keyword)
    }

    fn at_end(&self) -> bool {
        self.token.kind == TokenKind::End
    }

    fn eat(&mut self, symbol: &str) -> Result<bool> {
        let found = self.at(symbol);
        if found {
            self.advance()?;
        }
        Ok(found)
    }

    fn eat_keyword(&mut self, keyword: &str) -> Result<bool> {
        let found = self.at_keyword(keyword);
        if found {
            self.advance()?;
        }
        Ok(found)
    }

    fn expect(&mut self, symbol: &str) -> Result<Token> {
        if self.at(symbol) { self.advance() } else { Err(self.expected(&format!("\"{symbol}\""), &[], "")) }
    }

    fn expect_keyword(&mut self, keyword: &str) -> Result<Token> {
        if self.at_keyword(keyword) { self.advance() } else { Err(self.expected(keyword, &[keyword], "")) }
    }

    /// Fails where anything is left; `followers` are the keywords that could stand here too.
    fn finish(&self, followers: &[&str]) -> Result<()> {
        if self.at_end() {
            return Ok(());
        }
        let mut what = followers.join(", ");
        what.push_str(if followers.is_empty() { "the end" } else { " or the end" });
        Err(self.expected(&what, followers, self.habit()))
    }

    /// Fails where the statement goes on: no further than `followers` could it have.
    fn ends(&self, followers: &[&str]) -> Result<()> {
        if self.at(";") { Ok(()) } else { self.finish(followers) }
    }

    /// What DriftQL has in place of a clause of other languages.
    fn habit(&self) -> &'static str {
        match self.slice(self.token).to_ascii_uppercase().as_str() {
            "ORDER" => "rows always come in the order of their keys",
            "GROUP" | "HAVING" => "the one aggregate is COUNT(*)",
            "JOIN" | "INNER" | "LEFT" => "a statement reads one table",
            "TRANSACTION" | "WORK" => "leave it out",
            _ => "",
        }
    }

    /// The error that something else should stand here. The nearest keyword is the hint, else `hint`.
    fn expected(&self, what: &str, keywords: &[&str], hint: &str) -> Error {
        let message = format!("expected {what}, found {}", self.found());
        let near = match self.token.kind {
            TokenKind::Word => nearest(self.slice(self.token), keywords.iter().copied()),
            _ => None,
        };
        match near {
            Some(near) => self.syntax(self.token, message, format!("did you mean \"{near}\"?")),
            None => self.syntax(self.token, message, hint),
        }
    }

    fn found(&self) -> String {
        let text = clipped(self.slice(self.token));
        match self.token.kind {
            TokenKind::End => "the end".to_owned(),
            TokenKind::Str => format!("the string {text}"),
            TokenKind::Number => format!("the number {text}"),
            TokenKind::Quoted | TokenKind::Param | TokenKind::At => text,
            TokenKind::Word | TokenKind::Symbol(_) => format!("\"{text}\""),
        }
    }

    fn syntax(&self, token: Token, message: impl Into<String>, hint: impl Into<String>) -> Error {
        Error::new(Reason::QuerySyntax, message).at(report::place(self.text, token.start, token.end, hint))
    }

    fn invalid(&self, token: Token, message: impl Into<String>, hint: impl Into<String>) -> Error {
        report::invalid_at(self.text, token.start, token.end, message, hint)
    }

    /// A name that stands in the text as it is, or in backticks.
    fn name(&mut self, what: &str, reserved: Reserved) -> Result<(String, Token)> {
        let token = self.token;
        let text = self.slice(token);
        let name = match token.kind {
            TokenKind::Word if reserved == Reserved::Refused && is_any(text, RESERVED) => {
                return Err(self.expected(what, &[], &format!("as a name it stands in backticks: `{text}`")));
            }
            TokenKind::Word => text.to_owned(),
            TokenKind::Quoted => text.get(1..text.len() - 1).unwrap_or_default().replace("``", "`"),
            TokenKind::Str => {
                return Err(self.expected(what, &[], "names stand without quotes, or in backticks"));
            }
            _ => return Err(self.expected(what, &[], "")),
        };
        self.advance()?;
        Ok((name, token))
    }

    fn table_name(&mut self) -> Result<TableName> {
        if self.token.kind == TokenKind::Word && is_any(self.slice(self.token), RESERVED_FOR_TABLES) {
            let hint = format!("as a name it stands in backticks: `{}`", self.slice(self.token));
            return Err(self.expected("a table name", &[], &hint));
        }
        let (text, token) = self.name("a table name", Reserved::Refused)?;
        Ok(TableName { text, start: token.start, end: token.end })
    }

    /// Fails where a clause stands a second time.
    fn once(&self, clause: &str, given: bool) -> Result<()> {
        if given {
            return Err(self.syntax(
                self.token,
                format!("{clause} stands here a second time"),
                "leave one out",
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
