//! Parses literals: JSON values and parameters.

use crate::error::{Error, Result};
use crate::format::document::Document;
use crate::format::json;
use crate::format::value::Value;
use crate::limits;
use crate::query::lexer::{Token, TokenKind, clipped};
use crate::query::location;
use crate::query::parser::state::Parser;

impl Parser<'_> {
    /// Parses a JSON value or a parameter.
    pub(super) fn value(&mut self) -> Result<Value> {
        self.value_at(0)
    }

    /// Parses a value inside `depth` objects and arrays.
    fn value_at(&mut self, depth: usize) -> Result<Value> {
        let token = self.token;
        self.values = self.values.checked_sub(1).ok_or_else(|| self.too_many_values(token))?;
        let value = match token.kind {
            TokenKind::Str => Value::Str(self.string(token)?),
            TokenKind::Number => self.number(token)?,
            TokenKind::Param => self.param(token, depth)?,
            TokenKind::Symbol("[") => return self.array(depth),
            TokenKind::Symbol("{") => return self.object(depth),
            TokenKind::Word if self.at_keyword("TRUE") => Value::Bool(true),
            TokenKind::Word if self.at_keyword("FALSE") => Value::Bool(false),
            TokenKind::Word if self.at_keyword("NULL") => Value::Null,
            TokenKind::Word | TokenKind::Quoted => {
                let hint = format!("write strings in quotes: \"{}\"", clipped(self.slice(token)));
                return Err(self.expected("a value", &["TRUE", "FALSE", "NULL"], &hint));
            }
            TokenKind::Symbol(".") => return Err(self.expected("a value", &[], "write 0.5 for .5")),
            _ => return Err(self.expected("a value", &[], "")),
        };
        self.advance()?;
        Ok(value)
    }

    fn too_many_values(&self, token: Token) -> Error {
        let message = format!(
            "too many values: a condition can have {}, and a document {}",
            limits::CONDITION_VALUES,
            limits::LITERAL_VALUES
        );
        self.too_large(token, message, "split it into several statements")
    }

    fn deeper(&self, depth: usize) -> Result<usize> {
        if depth >= limits::NESTING {
            return Err(self.too_deep(self.token));
        }
        Ok(depth + 1)
    }

    pub(super) fn too_deep(&self, token: Token) -> Error {
        self.invalid(token, format!("nested more than {} levels deep", limits::NESTING), "")
    }

    fn array(&mut self, depth: usize) -> Result<Value> {
        let depth = self.deeper(depth)?;
        self.expect("[")?;
        let mut items = Vec::new();
        if self.eat("]")? {
            return Ok(Value::Array(items));
        }
        loop {
            items.push(self.value_at(depth)?);
            if self.eat("]")? {
                return Ok(Value::Array(items));
            }
            if !self.eat(",")? {
                return Err(self.expected("\",\" or \"]\"", &[], ""));
            }
        }
    }

    fn object(&mut self, depth: usize) -> Result<Value> {
        let depth = self.deeper(depth)?;
        self.expect("{")?;
        let mut fields: Vec<(String, Value)> = Vec::new();
        let mut places = Vec::new();
        let mut more = !self.eat("}")?;
        while more {
            if self.token.kind != TokenKind::Str {
                let hint = match self.token.kind {
                    TokenKind::Word => format!("write \"{}\"", clipped(self.slice(self.token))),
                    TokenKind::Symbol("}") => "remove the last comma".to_owned(),
                    _ => String::new(),
                };
                return Err(self.expected("a field name in quotes", &[], &hint));
            }
            let token = self.advance()?;
            let name = self.string(token)?;
            places.push(token);
            self.expect(":")?;
            fields.push((name, self.value_at(depth)?));
            more = self.eat(",")?;
            if !more && !self.eat("}")? {
                return Err(self.expected("\",\" or \"}\"", &[], ""));
            }
        }
        let mut names: Vec<&str> = fields.iter().map(|(name, _)| name.as_str()).collect();
        if let Some(twice) = json::find_duplicate(&mut names) {
            let mut found = fields.iter().zip(&places).filter(|((name, _), _)| name == twice);
            let place = found.nth(1).map_or(self.token, |(_, place)| *place);
            let message = format!("field {:?} is given twice in one object", clipped(twice));
            return Err(self.invalid(place, message, "remove one of them"));
        }
        Ok(Value::Object(fields))
    }

    /// Returns a copy of a parameter. The copies count against the size limit of the statement.
    fn param(&mut self, token: Token, depth: usize) -> Result<Value> {
        let text = self.slice(token);
        let number = text.strip_prefix('$').and_then(|digits| digits.parse::<usize>().ok());
        let value = number.and_then(|n| self.params.get(n.checked_sub(1)?));
        let Some(value) = value else {
            let message = match self.params.len() {
                0 => format!("{} has no value: no parameters are given", clipped(text)),
                1 => format!("{} has no value: one parameter is given", clipped(text)),
                n => format!("{} has no value: {n} parameters are given", clipped(text)),
            };
            return Err(self.invalid(token, message, "the first parameter is $1"));
        };
        let (mut left, mut values) = (self.budget, self.values);
        let fits = charge(value, limits::NESTING - depth, (&mut left, &mut values));
        (self.budget, self.values) = (left, values);
        match fits {
            Ok(()) => Ok(value.clone()),
            Err(Misfit::Deep) => Err(self.too_deep(token)),
            Err(Misfit::Many) => Err(self.too_many_values(token)),
            Err(Misfit::Large) => {
                let limit = limits::STATEMENT_BYTES;
                let message =
                    format!("the parameters in this statement are larger than {limit} bytes in total");
                Err(self.invalid(token, message, "split it into several statements"))
            }
        }
    }

    fn number(&self, token: Token) -> Result<Value> {
        let text = self.slice(token);
        // As in JSON documents, -0 is a float, because integers have no negative zero.
        if text == "-0" {
            return Ok(Value::Float(-0.0));
        }
        if text.bytes().all(|b| b.is_ascii_digit() || b == b'-') {
            return match text.parse::<i128>() {
                Ok(int) if int >= i64::MIN.into() && int <= u64::MAX.into() => Ok(Value::Int(int)),
                _ => {
                    let message = format!("{} does not fit in 64 bits", clipped(text));
                    Err(self.invalid(token, message, "to store it as a string, write it in quotes"))
                }
            };
        }
        match text.parse::<f64>() {
            Ok(float) if float.is_finite() => Ok(Value::Float(float)),
            _ => {
                let message = format!("{} does not fit in a 64-bit float", clipped(text));
                Err(self.invalid(token, message, "to store it as a string, write it in quotes"))
            }
        }
    }

    /// Decodes a string token: removes the quotes and decodes the escapes.
    pub(super) fn string(&self, token: Token) -> Result<String> {
        let quoted = self.slice(token);
        let inner = quoted.get(1..quoted.len().saturating_sub(1)).unwrap_or_default();
        let mut out = String::with_capacity(inner.len());
        let mut rest = inner;
        while let Some(at) = rest.find(|c: char| c == '\\' || c < ' ') {
            let (before, special) = rest.split_at(at);
            out.push_str(before);
            let start = token.end - 1 - special.len();
            let len = match special.strip_prefix('\\') {
                Some(escape) => self.escape(start, escape, &mut out)? + 1,
                None => {
                    let place = Token { start, end: start + 1, ..token };
                    let c = special.chars().next().unwrap_or_default();
                    let hint = format!("write {}", json_escape(c));
                    return Err(self.syntax(place, "a control character inside a string", hint));
                }
            };
            rest = special.get(len..).unwrap_or_default();
        }
        out.push_str(rest);
        Ok(out)
    }

    /// Appends the character of an escape whose backslash is at `start`. Returns the bytes read after the backslash.
    fn escape(&self, start: usize, escape: &str, out: &mut String) -> Result<usize> {
        let c = match escape.chars().next() {
            Some(c @ ('"' | '\'' | '\\' | '/')) => c,
            Some('b') => '\u{8}',
            Some('f') => '\u{c}',
            Some('n') => '\n',
            Some('r') => '\r',
            Some('t') => '\t',
            Some('u') => return self.unicode_escape(start, escape, out),
            other => {
                let c = other.unwrap_or_default();
                let place = Token { kind: TokenKind::Str, start, end: start + 1 + c.len_utf8() };
                let hint = format!("to write a backslash, use two: \\\\{c}");
                return Err(self.syntax(
                    place,
                    format!("\\{} is not a valid escape", c.escape_debug()),
                    hint,
                ));
            }
        };
        out.push(c);
        Ok(1)
    }

    fn unicode_escape(&self, start: usize, escape: &str, out: &mut String) -> Result<usize> {
        let unit = |at: usize| -> Option<u32> {
            let digits = escape.get(at..at + 4)?;
            let hexadecimal = digits.bytes().all(|b| b.is_ascii_hexdigit());
            hexadecimal.then(|| u32::from_str_radix(digits, 16).ok())?
        };
        let place = |end: usize| Token { kind: TokenKind::Str, start, end };
        let Some(first) = unit(1) else {
            return Err(self.syntax(place(start + 2), "\\u needs four hexadecimal digits", ""));
        };
        if let Some(c) = char::from_u32(first) {
            out.push(c);
            return Ok(5);
        }
        let second = if escape.get(5..7) == Some("\\u") { unit(7) } else { None };
        let pair = match (first, second) {
            (0xd800..=0xdbff, Some(low @ 0xdc00..=0xdfff)) => {
                char::from_u32(0x10000 + ((first - 0xd800) << 10) + (low - 0xdc00))
            }
            _ => None,
        };
        let Some(c) = pair else {
            let message = "incomplete surrogate pair";
            return Err(self.syntax(place(start + 6), message, "write both halves, one after the other"));
        };
        out.push(c);
        Ok(11)
    }

    /// Parses an object that can be stored as a document.
    pub(super) fn document(&mut self) -> Result<Document> {
        let start = self.token;
        if !matches!(start.kind, TokenKind::Symbol("{") | TokenKind::Param) {
            return Err(self.expected("a JSON object", &[], "write an object: {\"field\": value, …}"));
        }
        let outer = std::mem::replace(&mut self.values, limits::LITERAL_VALUES);
        let value = self.value()?;
        self.values = outer;
        let read = self.text.get(start.start..self.token.start).unwrap_or_default();
        let place = Token { end: start.start + read.trim_end().len(), ..start };
        if !matches!(value, Value::Object(_)) {
            let message = format!("expected a JSON object, found {}", value.kind());
            return Err(self.invalid(place, message, ""));
        }
        Document::from_value(&value)
            .map_err(|error| error.at(location::place(self.text, place.start, place.end, "")))
    }

    /// Parses an integer from 0 to 2^64-1. `word` is the keyword before it, for the message.
    pub(super) fn count(&mut self, word: &str) -> Result<u64> {
        let token = self.token;
        if !matches!(token.kind, TokenKind::Number | TokenKind::Param) {
            return Err(self.expected(&format!("a whole number after {word}"), &[], ""));
        }
        match self.value()? {
            Value::Int(int) if int >= 0 => u64::try_from(int).ok(),
            _ => None,
        }
        .ok_or_else(|| self.invalid(token, format!("{word} must be a whole number, 0 or more"), ""))
    }
}

enum Misfit {
    Deep,
    Many,
    Large,
}

/// Subtracts the approximate size of a value from `left`, and the number of values in it from `values`. Fails if the value
/// is too large, or nested more than `levels` deep, which also bounds the recursion.
fn charge(value: &Value, levels: usize, (left, values): (&mut usize, &mut usize)) -> Result<(), Misfit> {
    let size = match value {
        Value::Str(text) => text.len(),
        Value::Object(fields) => fields.iter().map(|(name, _)| name.len()).sum(),
        _ => 0,
    };
    *left = left.checked_sub(size + 1).ok_or(Misfit::Large)?;
    *values = values.checked_sub(1).ok_or(Misfit::Many)?;
    match value {
        Value::Array(_) | Value::Object(_) if levels == 0 => Err(Misfit::Deep),
        Value::Array(items) => items.iter().try_for_each(|item| charge(item, levels - 1, (left, values))),
        Value::Object(fields) => {
            fields.iter().try_for_each(|(_, field)| charge(field, levels - 1, (left, values)))
        }
        _ => Ok(()),
    }
}

fn json_escape(c: char) -> String {
    match c {
        '\t' => "\\t".to_owned(),
        '\r' => "\\r".to_owned(),
        c => format!("\\u{:04x}", u32::from(c)),
    }
}
