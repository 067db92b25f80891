//! Parses aggregates, such as `SUM(amount)`, and the columns that can be aggregates or aliases.

use crate::error::{Error, Result, nearest};
use crate::query::ast::{Aggregate, AggregateFunction, Column, SelectItem};
use crate::query::lexer::{Token, TokenKind};
use crate::query::parser::state::{Parser, Reserved};

const FUNCTIONS: &[&str] = &["COUNT", "SUM", "AVG", "MIN", "MAX"];

impl Parser<'_> {
    /// Whether a function's name and `(` come next.
    fn at_call(&self) -> Result<bool> {
        Ok(self.token.kind == TokenKind::Word && self.peek()?.kind == TokenKind::Symbol("("))
    }

    /// Parses a column or an aggregate, as an item of a select list.
    pub(super) fn column_or_aggregate(&mut self) -> Result<Column> {
        if self.at_call()? { self.aggregate() } else { self.column(Reserved::Refused) }
    }

    /// Parses a column of a later clause, where the alias of an item can stand for its column.
    pub(super) fn output_column(&mut self, items: &[SelectItem]) -> Result<Column> {
        let is_name = matches!(self.token.kind, TokenKind::Word | TokenKind::Quoted);
        if is_name && !matches!(self.peek()?.kind, TokenKind::Symbol("." | "(")) {
            let quoted = self.token.kind == TokenKind::Quoted;
            let item = items.iter().find(|item| {
                item.alias.as_ref().is_some_and(|alias| match quoted {
                    true => self.slice(self.token) == format!("`{}`", alias.replace('`', "``")),
                    false => self.slice(self.token) == alias,
                })
            });
            if let Some(item) = item {
                self.advance()?;
                return Ok(item.column.clone());
            }
        }
        self.column_or_aggregate()
    }

    /// Parses the column of a comparison: in HAVING, aggregates and aliases, too.
    pub(super) fn condition_column(&mut self) -> Result<Column> {
        let start = self.token;
        if let Some(mut scope) = self.having.take() {
            let column = self.output_column(&scope.items);
            scope.named.extend(column.as_ref().ok().map(|column| (column.clone(), start)));
            self.having = Some(scope);
            return column;
        }
        if self.at_call()? && self.function(start).is_some() {
            let hint = "WHERE chooses rows; to choose groups, write HAVING after GROUP BY";
            return Err(self.invalid(start, "WHERE cannot contain an aggregate", hint));
        }
        self.column(Reserved::Refused)
    }

    fn function(&self, token: Token) -> Option<AggregateFunction> {
        Some(match self.slice(token).to_ascii_uppercase().as_str() {
            "COUNT" => AggregateFunction::Count,
            "SUM" => AggregateFunction::Sum,
            "AVG" => AggregateFunction::Avg,
            "MIN" => AggregateFunction::Min,
            "MAX" => AggregateFunction::Max,
            _ => return None,
        })
    }

    fn aggregate(&mut self) -> Result<Column> {
        let start = self.token;
        let Some(mut function) = self.function(start) else { return Err(self.unknown_function(start)) };
        self.advance()?;
        self.expect("(")?;
        if function == AggregateFunction::Count && self.eat("*")? {
            self.expect(")")?;
            return Ok(Column::Aggregate(Box::new(Aggregate { function, argument: None })));
        }
        let is_distinct =
            self.at_keyword("DISTINCT") && !matches!(self.peek()?.kind, TokenKind::Symbol(")" | "."));
        if is_distinct {
            if function != AggregateFunction::Count {
                let message = format!("{} cannot have DISTINCT", function.name());
                return Err(self.invalid(self.token, message, "only COUNT can: COUNT(DISTINCT path)"));
            }
            self.advance()?;
            function = AggregateFunction::CountDistinct;
        }
        let (token, name) = (self.token, function.name());
        if !matches!(token.kind, TokenKind::Word | TokenKind::Quoted | TokenKind::Str) {
            let (what, hint) = match function {
                AggregateFunction::Count => ("\"*\", DISTINCT or a field", String::new()),
                _ => ("a field", format!("write {name}(path)")),
            };
            return Err(self.expected(what, &[], &hint));
        }
        let argument = self.column(Reserved::Refused)?;
        if argument.is_time() && matches!(function, AggregateFunction::Sum | AggregateFunction::Avg) {
            let message = format!("{name}({argument}) does not exist: {argument} is a time");
            return Err(self.invalid(token, message, "MIN, MAX and COUNT accept times"));
        }
        self.expect(")")?;
        Ok(Column::Aggregate(Box::new(Aggregate { function, argument: Some(argument) })))
    }

    fn unknown_function(&self, token: Token) -> Error {
        let found = self.slice(token);
        let hint = match nearest(found, FUNCTIONS.iter().copied()) {
            Some(near) => format!("did you mean \"{near}\"?"),
            None => "the functions are COUNT, SUM, AVG, MIN and MAX".to_owned(),
        };
        self.invalid(token, format!("unknown function {:?}", crate::query::lexer::clipped(found)), hint)
    }
}
