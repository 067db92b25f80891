//! Parses primary keys: the fields and types of a table's, and the key of a row.

use crate::error::{Error, Result};
use crate::format::key::{Key, KeyType};
use crate::format::key_columns::{CompositeKey, KeyPart};
use crate::format::value::Value;
use crate::limits;
use crate::query::ast::{Column, RowKey};
use crate::query::lexer::{Token, TokenKind, clipped};
use crate::query::location;
use crate::query::parser::state::{Parser, Reserved};
use crate::table::schema::Schema;

/// The kinds of keys, for messages.
const A_KEY: &str = "a key: a string, an integer, or several of them in parentheses";

impl Parser<'_> {
    /// Parses the primary key of a new table: `id`, `id INT` or `(a, b INT)`.
    pub(super) fn primary_key(&mut self) -> Result<(String, KeyType)> {
        if !self.eat("(")? {
            return Ok((self.key_field()?, self.column_type()?));
        }
        let (mut fields, mut types) = (Vec::new(), Vec::new());
        loop {
            let start = self.token;
            let field = self.key_field()?;
            if fields.contains(&field) {
                let message = format!("{} is listed twice", clipped(&field));
                return Err(self.invalid(start, message, "remove one of them"));
            }
            if fields.len() == limits::KEY_COLUMNS {
                let message = format!("a primary key has at most {} fields", limits::KEY_COLUMNS);
                return Err(self.invalid(start, message, ""));
            }
            fields.push(field);
            types.push(self.column_type()?);
            if fields.len() > 1 && self.eat(")")? {
                break;
            }
            if !self.eat(",")? {
                let what =
                    if fields.len() > 1 { "STRING, INT, \",\" or \")\"" } else { "STRING, INT or \",\"" };
                let hint =
                    "for example pk=(day, number INT); a key of one field is written without parentheses";
                return Err(self.expected(what, &["STRING", "INT"], hint));
            }
        }
        let key_type = KeyType::of_columns(&types).unwrap_or_default();
        Ok((Schema::primary_key_of(&fields), key_type))
    }

    fn column_type(&mut self) -> Result<KeyType> {
        if self.eat_keyword("INT")? {
            return Ok(KeyType::Int);
        }
        self.eat_keyword("STRING")?;
        Ok(KeyType::String)
    }

    /// Parses a field of the primary key, which must be at the top level.
    fn key_field(&mut self) -> Result<String> {
        let start = self.token;
        let column = self.column(Reserved::Refused)?;
        match &column {
            Column::Path(path) => match path.names() {
                [name] => Ok(name.clone()),
                _ => {
                    let message =
                        format!("the primary key {} is a nested field", clipped(&column.to_string()));
                    Err(self.invalid(start, message, "the primary key must be a top-level field"))
                }
            },
            _ => Err(self.invalid(
                start,
                format!("{column} is a built-in column, not a field"),
                "for example pk=id",
            )),
        }
    }

    /// Parses `AUTO`, which only text keys can be.
    pub(super) fn auto_key(&mut self, key_type: KeyType) -> Result<bool> {
        let token = self.token;
        let auto_key = self.eat_keyword("AUTO")?;
        if auto_key && key_type != KeyType::String {
            let message = format!("the keys that the writer makes are STRING, not {key_type}");
            return Err(self.invalid(token, message, "for example pk=id AUTO"));
        }
        if auto_key && (self.at_keyword("INT") || self.at_keyword("STRING")) {
            let message = "AUTO must be last: the keys that the writer makes are STRING";
            return Err(self.invalid(self.token, message, "for example pk=id AUTO"));
        }
        Ok(auto_key)
    }

    /// Parses a row's key: a string, an integer, `("x", 3)` or `(a = "x", b = 3)`.
    pub(super) fn row_key(&mut self) -> Result<RowKey> {
        let token = self.token;
        if token.kind == TokenKind::Symbol("(") {
            return self.composite_key(token);
        }
        if !matches!(token.kind, TokenKind::Str | TokenKind::Number | TokenKind::Param) {
            let hint = match token.kind {
                TokenKind::Word => format!("write \"{}\"", clipped(self.slice(token))),
                TokenKind::Symbol("[") => "write the values of a composite key in parentheses".to_owned(),
                _ => String::new(),
            };
            return Err(self.expected(A_KEY, &[], &hint));
        }
        let key = match self.value()? {
            Value::Str(text) => Key::parse(&text, KeyType::String),
            // A parameter.
            Value::Array(values) if (2..=limits::KEY_COLUMNS).contains(&values.len()) => {
                let parts = values.into_iter().map(|value| self.key_part(token, value));
                CompositeKey::checked(parts.collect::<Result<_>>()?).map(Key::of_columns)
            }
            Value::Array(_) => {
                let message = format!("a composite key has 2 to {} values", limits::KEY_COLUMNS);
                return Err(self.invalid(token, message, ""));
            }
            other => match self.key_part(token, other)? {
                KeyPart::Int(int) => Ok(Key::Int(int)),
                KeyPart::Str(text) => Ok(Key::Str(text)),
            },
        };
        self.placed(key, (token.start, token.end), Vec::new())
    }

    /// The value of a column of a key, which may be the only one.
    fn key_part(&self, token: Token, value: Value) -> Result<KeyPart> {
        match value {
            Value::Str(text) => Ok(KeyPart::Str(text.into())),
            Value::Int(int) => i64::try_from(int)
                .map(KeyPart::Int)
                .map_err(|_| self.invalid(token, format!("integer out of range for a key: {int}"), "")),
            other => {
                let message = format!("a key is a string or an integer, not {}", other.kind());
                Err(self.invalid(token, message, ""))
            }
        }
    }

    /// Parses a key of several columns. `open` is its parenthesis.
    fn composite_key(&mut self, open: Token) -> Result<RowKey> {
        self.expect("(")?;
        let (mut parts, mut names) = (Vec::new(), Vec::new());
        loop {
            let start = self.token;
            let is_named = matches!(start.kind, TokenKind::Word | TokenKind::Quoted);
            if !parts.is_empty() && is_named == names.is_empty() {
                let message = "a key names all of its columns, or none";
                return Err(self.invalid(
                    start,
                    message,
                    "for example KEY (a = \"x\", b = 3) or KEY (\"x\", 3)",
                ));
            }
            if is_named {
                let (name, _) = self.name("a field", Reserved::Refused)?;
                if names.contains(&name) {
                    return Err(self.invalid(
                        start,
                        format!("{} is given twice", clipped(&name)),
                        "remove one of them",
                    ));
                }
                names.push(name);
                self.expect("=")?;
            }
            if parts.len() == limits::KEY_COLUMNS {
                let message = format!("a composite key has 2 to {} values", limits::KEY_COLUMNS);
                return Err(self.invalid(start, message, ""));
            }
            let token = self.token;
            let value = self.value()?;
            parts.push(self.key_part(token, value)?);
            let end = self.token.end;
            if parts.len() > 1 && self.eat(")")? {
                return self.placed(
                    CompositeKey::checked(parts).map(Key::of_columns),
                    (open.start, end),
                    names,
                );
            }
            if !self.eat(",")? {
                let what = if parts.len() > 1 { "\",\" or \")\"" } else { "\",\"" };
                let hint = "a key of one value is written without parentheses";
                return Err(self.expected(what, &[], if parts.len() > 1 { "" } else { hint }));
            }
        }
    }

    /// A key with its place, or the error there.
    fn placed(&self, key: Result<Key>, (start, end): (usize, usize), names: Vec<String>) -> Result<RowKey> {
        match key {
            Ok(key) => Ok(RowKey { key, names, start, end }),
            Err(error) => Err::<RowKey, Error>(error.at(location::place(self.text, start, end, ""))),
        }
    }
}
