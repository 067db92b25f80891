//! The parser's position in a statement, and what every part of the grammar shares: tokens, names, errors.

use crate::error::{Error, Reason, Result, nearest};
use crate::format::value::Value;
use crate::limits;
use crate::query::ast::{Column, SelectItem, TableName};
use crate::query::keywords::{RESERVED, RESERVED_FOR_TABLES, is_any};
use crate::query::lexer::{Lexer, Token, TokenKind, clipped};
use crate::query::local_clock::{LocalClock, NO_CLOCK};
use crate::query::location;
use crate::work;

/// Whether a reserved word is accepted as a name. It is accepted after a dot, because only a name can follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reserved {
    Allowed,
    Refused,
}

pub(super) struct Parser<'a> {
    pub(super) text: &'a str,
    lexer: Lexer<'a>,
    pub(super) token: Token,
    pub(super) params: &'a [Value],
    /// What words for moments mean.
    pub(super) clock: &'a LocalClock,
    /// How words for moments were understood.
    pub(super) notes: Vec<String>,
    /// Whether the statement reads deleted rows, which have columns of their own.
    pub(super) reads_deleted: bool,
    /// How many more bytes of parameters can be copied into the statement, so that a large parameter that is used often
    /// does not exhaust memory.
    pub(super) budget: usize,
    /// How many more comparisons the condition can have.
    pub(super) terms: usize,
    /// How many more values can be read: into the condition, or into the present document.
    pub(super) values: usize,
    /// While HAVING is parsed: what its columns can be.
    pub(super) having: Option<HavingScope>,
}

/// What the columns of HAVING can be, and what they are.
#[derive(Debug, Default)]
pub(super) struct HavingScope {
    /// The items of the select list, some of which have aliases.
    pub(super) items: Vec<SelectItem>,
    /// Each column that was named, and where.
    pub(super) named: Vec<(Column, Token)>,
}

/// What SQL can, and a statement cannot.
const ONE_TABLE: &str = "a statement reads one table; joins are not supported";

impl<'a> Parser<'a> {
    /// A parser of text in which no moment can occur.
    pub(super) fn new(text: &'a str, params: &'a [Value]) -> Result<Self> {
        Parser::with_clock(text, params, &NO_CLOCK)
    }

    /// A parser that understands words for moments by a clock.
    pub(super) fn with_clock(text: &'a str, params: &'a [Value], clock: &'a LocalClock) -> Result<Self> {
        if text.len() > limits::STATEMENT_BYTES {
            let (len, limit) = (text.len(), limits::STATEMENT_BYTES);
            let message = format!(
                "the statement has {len} bytes, more than the limit of {limit} bytes: split it into several statements"
            );
            return Err(Error::new(Reason::TooLarge, message));
        }
        let mut lexer = Lexer::new(text);
        let token = lexer.next()?;
        Ok(Parser {
            text,
            lexer,
            token,
            params,
            clock,
            notes: Vec::new(),
            reads_deleted: false,
            budget: limits::STATEMENT_BYTES,
            terms: limits::CONDITION_TERMS,
            values: limits::CONDITION_VALUES,
            having: None,
        })
    }

    /// Moves to the next token and returns the current one.
    pub(super) fn advance(&mut self) -> Result<Token> {
        work::step_bytes(self.token.end - self.token.start)?;
        Ok(std::mem::replace(&mut self.token, self.lexer.next()?))
    }

    /// Returns the token after the current one.
    pub(super) fn peek(&self) -> Result<Token> {
        self.lexer.clone().next()
    }

    pub(super) fn slice(&self, token: Token) -> &'a str {
        self.text.get(token.start..token.end).unwrap_or_default()
    }

    pub(super) fn at(&self, symbol: &str) -> bool {
        matches!(self.token.kind, TokenKind::Symbol(found) if found == symbol)
    }

    pub(super) fn at_keyword(&self, keyword: &str) -> bool {
        self.token.kind == TokenKind::Word && self.slice(self.token).eq_ignore_ascii_case(keyword)
    }

    pub(super) fn at_end(&self) -> bool {
        self.token.kind == TokenKind::End
    }

    pub(super) fn eat(&mut self, symbol: &str) -> Result<bool> {
        let found = self.at(symbol);
        if found {
            self.advance()?;
        }
        Ok(found)
    }

    pub(super) fn eat_keyword(&mut self, keyword: &str) -> Result<bool> {
        let found = self.at_keyword(keyword);
        if found {
            self.advance()?;
        }
        Ok(found)
    }

    pub(super) fn expect(&mut self, symbol: &str) -> Result<Token> {
        if self.at(symbol) { self.advance() } else { Err(self.expected(&format!("\"{symbol}\""), &[], "")) }
    }

    pub(super) fn expect_keyword(&mut self, keyword: &str) -> Result<Token> {
        if self.at_keyword(keyword) { self.advance() } else { Err(self.expected(keyword, &[keyword], "")) }
    }

    /// Fails if tokens are left. `followers` are the keywords that could also follow, for the message.
    pub(super) fn finish(&self, followers: &[&str]) -> Result<()> {
        if self.at_end() {
            return Ok(());
        }
        let mut what = followers.join(", ");
        what.push_str(if followers.is_empty() { "the end" } else { " or the end" });
        Err(self.expected(&what, followers, self.habit()))
    }

    /// Fails unless the statement ends here. `followers` are the keywords that could also follow, for the message.
    pub(super) fn ends(&self, followers: &[&str]) -> Result<()> {
        if self.at(";") { Ok(()) } else { self.finish(followers) }
    }

    /// Returns a hint for a clause of other languages.
    pub(super) fn habit(&self) -> &'static str {
        match self.slice(self.token).to_ascii_uppercase().as_str() {
            "JOIN" | "INNER" | "LEFT" => ONE_TABLE,
            "," if self
                .text
                .trim_start()
                .get(..6)
                .is_some_and(|word| word.eq_ignore_ascii_case("SELECT")) =>
            {
                ONE_TABLE
            }
            "UNION" | "INTERSECT" | "EXCEPT" => "send one statement at a time",
            "TRANSACTION" | "WORK" => "remove it",
            _ => "",
        }
    }

    /// Returns the error for an unexpected token. The hint is the most similar keyword, or else `hint`.
    pub(super) fn expected(&self, what: &str, keywords: &[&str], hint: &str) -> Error {
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

    pub(super) fn found(&self) -> String {
        let text = clipped(self.slice(self.token));
        match self.token.kind {
            TokenKind::End => "the end".to_owned(),
            TokenKind::Str => format!("the string {text}"),
            TokenKind::Number => format!("the number {text}"),
            TokenKind::Quoted | TokenKind::Param | TokenKind::At => text,
            TokenKind::Word | TokenKind::Symbol(_) => format!("\"{text}\""),
        }
    }

    pub(super) fn syntax(&self, token: Token, message: impl Into<String>, hint: impl Into<String>) -> Error {
        Error::new(Reason::QuerySyntax, message).at(location::place(self.text, token.start, token.end, hint))
    }

    pub(super) fn invalid(&self, token: Token, message: impl Into<String>, hint: impl Into<String>) -> Error {
        location::invalid_at(self.text, token.start, token.end, message, hint)
    }

    /// The error for a statement that has more of something than it may have. The parser stops right there, so that the rest
    /// costs neither time nor memory.
    pub(super) fn too_large(&self, token: Token, message: String, hint: &str) -> Error {
        Error::new(Reason::TooLarge, message).at(location::place(self.text, token.start, token.end, hint))
    }

    /// Parses a name, with or without backticks.
    pub(super) fn name(&mut self, what: &str, reserved: Reserved) -> Result<(String, Token)> {
        let token = self.token;
        let text = self.slice(token);
        let name = match token.kind {
            TokenKind::Word if reserved == Reserved::Refused && is_any(text, RESERVED) => {
                return Err(self.expected(
                    what,
                    &[],
                    &format!("to use it as a name, write it in backticks: `{text}`"),
                ));
            }
            TokenKind::Word => text.to_owned(),
            TokenKind::Quoted => text.get(1..text.len() - 1).unwrap_or_default().replace("``", "`"),
            TokenKind::Str => {
                return Err(self.expected(what, &[], "write names without quotes, or in backticks"));
            }
            _ => return Err(self.expected(what, &[], "")),
        };
        self.advance()?;
        Ok((name, token))
    }

    pub(super) fn table_name(&mut self) -> Result<TableName> {
        if self.token.kind == TokenKind::Word && is_any(self.slice(self.token), RESERVED_FOR_TABLES) {
            let hint = format!("to use it as a name, write it in backticks: `{}`", self.slice(self.token));
            return Err(self.expected("a table name", &[], &hint));
        }
        let (text, token) = self.name("a table name", Reserved::Refused)?;
        Ok(TableName { text, start: token.start, end: token.end })
    }

    /// Fails if a clause is given twice.
    pub(super) fn once(&self, clause: &str, given: bool) -> Result<()> {
        if given {
            return Err(self.syntax(self.token, format!("{clause} is given twice"), "remove one of them"));
        }
        Ok(())
    }
}
