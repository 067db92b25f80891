//! Parses the conditions on arrays: `path CONTAINS value` and `ANY(path) op value`.

use crate::error::Result;
use crate::query::ast::{Column, Condition};
use crate::query::lexer::{Token, TokenKind};
use crate::query::parser::condition::comparison;
use crate::query::parser::state::Parser;

impl Parser<'_> {
    /// Parses the rest of `path [NOT] CONTAINS value`.
    pub(super) fn contains(&mut self, column: Column, start: Token, negated: bool) -> Result<Condition> {
        self.can_be_array(&column, start)?;
        self.expect_keyword("CONTAINS")?;
        let value = self.value()?;
        Ok(Condition::Contains { column, value, negated })
    }

    /// Parses `ANY(path) op value`.
    pub(super) fn any(&mut self) -> Result<Condition> {
        self.expect_keyword("ANY")?;
        self.expect("(")?;
        let start = self.token;
        let column = self.condition_column()?;
        self.can_be_array(&column, start)?;
        self.expect(")")?;
        let TokenKind::Symbol(symbol) = self.token.kind else { return Err(self.no_comparison()) };
        let Some(op) = comparison(symbol) else { return Err(self.no_comparison()) };
        self.advance()?;
        let value = self.operand(&column, symbol)?;
        Ok(Condition::Any { column, op, value })
    }

    fn no_comparison(&self) -> crate::error::Error {
        self.expected("=, !=, <, <=, > or >=", &[], "for example ANY(tags) = \"new\"")
    }

    fn can_be_array(&self, column: &Column, start: Token) -> Result<()> {
        match column {
            Column::Path(_) => Ok(()),
            _ => Err(self.invalid(start, format!("{column} is not an array"), "compare it with =")),
        }
    }
}
