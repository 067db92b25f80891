//! Parses conditions and columns.

use crate::error::Result;
use crate::format::path::Path;
use crate::format::value::Value;
use crate::limits;
use crate::query::ast::{AggregateFunction, Column, Comparison, Condition};
use crate::query::in_list::InList;
use crate::query::lexer::{Token, TokenKind, clipped};
use crate::query::like::{LikePattern, lower_case};
use crate::query::parser::over_time::is_deletion_time;
use crate::query::parser::state::{Parser, Reserved};

impl Parser<'_> {
    /// Parses a condition inside `depth` parentheses and NOTs.
    pub(super) fn condition(&mut self, depth: usize) -> Result<Condition> {
        let first = self.conjunction(depth)?;
        if !self.at_keyword("OR") {
            return Ok(first);
        }
        let mut parts = vec![first];
        while self.eat_keyword("OR")? {
            parts.push(self.conjunction(depth)?);
        }
        Ok(Condition::Or(parts))
    }

    fn conjunction(&mut self, depth: usize) -> Result<Condition> {
        let first = self.factor(depth)?;
        if !self.at_keyword("AND") {
            return Ok(first);
        }
        let mut parts = vec![first];
        while self.eat_keyword("AND")? {
            parts.push(self.factor(depth)?);
        }
        Ok(Condition::And(parts))
    }

    fn factor(&mut self, depth: usize) -> Result<Condition> {
        let opening = self.token;
        let negated = self.at_keyword("NOT");
        if !negated && !self.at("(") {
            return self.predicate();
        }
        if depth >= limits::NESTING {
            return Err(self.too_deep(opening));
        }
        self.advance()?;
        if negated {
            return Ok(Condition::Not(Box::new(self.factor(depth + 1)?)));
        }
        let inner = self.condition(depth + 1)?;
        if !self.eat(")")? {
            return Err(self.expected("AND, OR or \")\"", &["AND", "OR"], ""));
        }
        Ok(inner)
    }

    fn predicate(&mut self) -> Result<Condition> {
        let start = self.token;
        self.terms = self.terms.checked_sub(1).ok_or_else(|| {
            let message = format!("the condition has more than {} comparisons", limits::CONDITION_TERMS);
            self.too_large(
                start,
                message,
                "compare with many values with IN, or split it into several queries",
            )
        })?;
        if self.at_keyword("ANY") && self.peek()?.kind == TokenKind::Symbol("(") {
            return self.any();
        }
        let column = self.condition_column()?;
        if let TokenKind::Symbol(symbol) = self.token.kind
            && let Some(op) = comparison(symbol)
        {
            self.advance()?;
            let value = self.operand(&column, symbol)?;
            return Ok(Condition::Compare { column, op, value });
        }
        if self.eat_keyword("IS")? {
            return self.is_test(column);
        }
        let negated = self.eat_keyword("NOT")?;
        if self.eat_keyword("IN")? {
            return self.in_list(column, negated);
        }
        if self.eat_keyword("BETWEEN")? {
            let low = self.operand(&column, "BETWEEN")?;
            self.expect_keyword("AND")?;
            let high = self.operand(&column, "BETWEEN")?;
            return Ok(Condition::Between { column, low, high, negated });
        }
        if self.at_keyword("LIKE") || self.at_keyword("ILIKE") {
            return self.like(column, start, negated);
        }
        if self.at_keyword("CONTAINS") {
            return self.contains(column, start, negated);
        }
        if negated {
            let words = ["IN", "BETWEEN", "LIKE", "ILIKE", "CONTAINS"];
            return Err(self.expected("IN, BETWEEN, LIKE, ILIKE or CONTAINS", &words, ""));
        }
        let words = ["IN", "BETWEEN", "LIKE", "ILIKE", "CONTAINS", "IS", "NOT"];
        let what = "an operator: =, !=, <, <=, >, >=, IN, BETWEEN, LIKE, ILIKE, CONTAINS or IS";
        Err(self.expected(what, &words, ""))
    }

    fn is_test(&mut self, column: Column) -> Result<Condition> {
        let negated = self.eat_keyword("NOT")?;
        if self.eat_keyword("NULL")? {
            return Ok(Condition::IsNull { column, negated });
        }
        if self.eat_keyword("MISSING")? {
            return Ok(Condition::IsMissing { column, negated });
        }
        let what = if negated { "NULL or MISSING" } else { "NULL, MISSING or NOT" };
        Err(self.expected(what, &["NULL", "MISSING", "NOT"], "compare values with ="))
    }

    fn in_list(&mut self, column: Column, negated: bool) -> Result<Condition> {
        if !self.eat("(")? {
            return Err(self.expected("\"(\"", &[], "write IN (value, …)"));
        }
        let mut values = Vec::new();
        loop {
            let token = self.token;
            let value = self.operand_value(&column)?;
            // As in SQL, a null in the list makes the result unknown if no other value matches.
            values.push(if value == Value::Null { value } else { self.typed(&column, token, value)? });
            if self.eat(")")? {
                return Ok(Condition::In { column, values: InList::new(values), negated });
            }
            if !self.eat(",")? {
                return Err(self.expected("\",\" or \")\"", &[], ""));
            }
        }
    }

    fn like(&mut self, column: Column, start: Token, negated: bool) -> Result<Condition> {
        if matches!(column, Column::Seq) || column.is_time() {
            let hint = "use <, > or BETWEEN";
            return Err(self.invalid(start, format!("{column} is not text"), hint));
        }
        let ignores_case = self.at_keyword("ILIKE");
        self.advance()?;
        let token = self.token;
        if !matches!(token.kind, TokenKind::Str | TokenKind::Param) {
            return Err(self.expected("a pattern in quotes", &[], "for example \"a%\""));
        }
        let Value::Str(pattern) = self.value()? else {
            return Err(self.invalid(token, "a LIKE pattern is a string", "for example \"a%\""));
        };
        if pattern.len() > limits::LIKE_PATTERN_BYTES {
            let message = format!(
                "the LIKE pattern is too long: {} bytes, the limit is {}",
                pattern.len(),
                limits::LIKE_PATTERN_BYTES
            );
            return Err(self.too_large(token, message, "compare long texts with ="));
        }
        let backslashes = pattern.bytes().rev().take_while(|b| *b == b'\\').count();
        if backslashes % 2 == 1 {
            return Err(self.invalid(
                token,
                "the LIKE pattern ends inside an escape",
                "to match a backslash, write \\\\\\\\",
            ));
        }
        Ok(match ignores_case {
            true => Condition::ILike { column, pattern: LikePattern::new(lower_case(&pattern)), negated },
            false => Condition::Like { column, pattern: LikePattern::new(pattern), negated },
        })
    }

    /// Parses the right operand, which must have a type that the column can be compared with.
    pub(super) fn operand(&mut self, column: &Column, op: &str) -> Result<Value> {
        let token = self.token;
        let value = self.operand_value(column)?;
        if value == Value::Null {
            let column = clipped(&column.to_string());
            let hint = match op {
                "!=" | "<>" => format!("write {column} IS NOT NULL AND {column} IS NOT MISSING"),
                _ => format!("write {column} IS NULL"),
            };
            return Err(self.invalid(token, "a comparison with null never matches", hint));
        }
        self.typed(column, token, value)
    }

    /// Parses a value, or `@now` without quotes if the column is a time.
    fn operand_value(&mut self, column: &Column) -> Result<Value> {
        let token = self.token;
        if token.kind != TokenKind::At || !self.is_time(column) {
            return self.value();
        }
        let text = self.slice(token).to_owned();
        self.advance()?;
        Ok(Value::Str(text))
    }

    fn is_time(&self, column: &Column) -> bool {
        column.is_time() || self.is_time_of_deletion(column)
    }

    /// Whether a column is the time of a deletion, or the first or last of several.
    fn is_time_of_deletion(&self, column: &Column) -> bool {
        let path = match column {
            Column::Path(path) => Some(path),
            Column::Aggregate(aggregate) => match (aggregate.function, &aggregate.argument) {
                (AggregateFunction::Min | AggregateFunction::Max, Some(Column::Path(path))) => Some(path),
                _ => None,
            },
            Column::Key | Column::Seq | Column::Time => None,
        };
        self.reads_deleted && path.is_some_and(is_deletion_time)
    }

    /// Checks the operand of a built-in column. Their types are known here; the types of fields are not.
    fn typed(&mut self, column: &Column, token: Token, value: Value) -> Result<Value> {
        match (column, &value) {
            (column, _) if column.is_time() => self.time_operand(token, "_time", &value),
            (column, _) if self.is_time_of_deletion(column) => self.deletion_time_operand(token, &value),
            (Column::Seq, Value::Int(_) | Value::Float(_))
            | (Column::Path(_) | Column::Aggregate(_) | Column::Time, _) => Ok(value),
            (Column::Seq, _) => {
                let message = format!("_seq is a number and cannot be compared with {}", value.kind());
                Err(self.invalid(token, message, "for example _seq > 100"))
            }
            (Column::Key, Value::Str(_) | Value::Int(_) | Value::Float(_)) => Ok(value),
            // The key of a table with several columns.
            (Column::Key, Value::Array(values))
                if values.len() > 1 && values.iter().all(|v| matches!(v, Value::Str(_) | Value::Int(_))) =>
            {
                Ok(value)
            }
            (Column::Key, Value::Array(_)) => {
                let message = "a key of several columns is an array of at least two strings or whole numbers";
                Err(self.invalid(token, message, "for example _key = [\"DE\", 7]"))
            }
            (Column::Key, _) => {
                let message =
                    format!("_key is a string or a number and cannot be compared with {}", value.kind());
                Err(self.invalid(token, message, ""))
            }
        }
    }

    /// Parses `_key`, `_seq`, `_time` or a path.
    pub(super) fn column(&mut self, reserved: Reserved) -> Result<Column> {
        let token = self.token;
        if token.kind == TokenKind::Str {
            let hint = match self.string(token) {
                Ok(text) => format!("write fields without quotes, or in backticks: `{}`", clipped(&text)),
                Err(_) => String::new(),
            };
            return Err(self.expected("a field", &[], &hint));
        }
        let (first, token) = self.name("a field", reserved)?;
        let own = match (token.kind, first.as_str()) {
            (TokenKind::Word, "_key") => Some(Column::Key),
            (TokenKind::Word, "_seq") => Some(Column::Seq),
            (TokenKind::Word, "_time") => Some(Column::Time),
            _ => None,
        };
        if let Some(column) = own {
            if self.at(".") {
                let hint = format!("for a field with this name, write it in backticks: `{column}`");
                return Err(self.invalid(token, format!("{column} has no fields"), hint));
            }
            return Ok(column);
        }
        let mut names = vec![first];
        while self.eat(".")? {
            if names.len() >= limits::NESTING {
                let message = format!("the field is nested more than {} levels deep", limits::NESTING);
                return Err(self.invalid(token, message, "no document is nested deeper"));
            }
            names.push(self.name("a field", Reserved::Allowed)?.0);
        }
        Ok(Column::Path(Path::new(names)))
    }

    /// Parses a path of the document; refuses built-in columns.
    pub(super) fn path(&mut self) -> Result<Path> {
        let token = self.token;
        match self.column(Reserved::Refused)? {
            Column::Path(path) => Ok(path),
            own => {
                let hint = format!("for a field with this name, write it in backticks: `{own}`");
                Err(self.invalid(token, format!("{own} is a built-in column, not a field"), hint))
            }
        }
    }
}

pub(super) fn comparison(symbol: &str) -> Option<Comparison> {
    Some(match symbol {
        "=" => Comparison::Equal,
        "!=" | "<>" => Comparison::NotEqual,
        "<" => Comparison::Less,
        "<=" => Comparison::LessOrEqual,
        ">" => Comparison::Greater,
        ">=" => Comparison::GreaterOrEqual,
        _ => return None,
    })
}
