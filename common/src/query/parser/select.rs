//! Parses the statements that read: SELECT, SHOW, DESCRIBE, EXPLAIN.

use std::collections::HashSet;

use crate::error::Result;
use crate::limits;
use crate::query::ast::{PointInTime, Projection, SelectStatement, Statement};
use crate::query::lexer::{TokenKind, clipped};
use crate::query::parser::state::{Parser, Reserved};

impl Parser<'_> {
    /// Parses the rest of a SELECT.
    pub(super) fn select(&mut self) -> Result<SelectStatement> {
        let projection = self.projection()?;
        if !self.at_keyword("FROM") {
            return Err(match projection {
                Projection::Columns(_) => self.expected("\",\" or FROM", &["FROM"], ""),
                _ => self.expected("FROM", &["FROM"], ""),
            });
        }
        self.advance()?;
        let table = self.table_name()?;
        let deleted = self.deleted_rows()?;
        let (every, condition, as_of, limit, offset) = (None, None, None, None, None);
        let mut select =
            SelectStatement { table, deleted, every, projection, condition, as_of, limit, offset };
        loop {
            if self.at_keyword("WHERE") {
                self.once("WHERE", select.condition.is_some())?;
                self.advance()?;
                select.condition = Some(self.condition(0)?);
            } else if self.at_keyword("AS") {
                self.once("AS OF", select.as_of.is_some() || select.every.is_some())?;
                self.select_as_of(&mut select)?;
            } else if self.at_keyword("LIMIT") {
                self.once("LIMIT", select.limit.is_some())?;
                self.advance()?;
                select.limit = Some(self.count("LIMIT")?);
            } else if self.at_keyword("OFFSET") {
                self.once("OFFSET", select.offset.is_some())?;
                self.advance()?;
                select.offset = Some(self.count("OFFSET")?);
            } else {
                self.select_ends(&select)?;
                self.check_every(&select)?;
                return Ok(select);
            }
        }
    }

    /// Fails unless the statement ends here; the message names the clauses that could follow.
    fn select_ends(&self, select: &SelectStatement) -> Result<()> {
        let mut clauses = Vec::new();
        match select.condition {
            Some(_) => clauses.extend(["AND", "OR"]),
            None => clauses.push("WHERE"),
        }
        let left = [
            ("AS OF", select.as_of.is_none() && select.every.is_none()),
            ("LIMIT", select.limit.is_none()),
            ("OFFSET", select.offset.is_none()),
        ];
        clauses.extend(left.iter().filter(|(_, free)| *free).map(|(clause, _)| *clause));
        self.ends(&clauses)
    }

    fn projection(&mut self) -> Result<Projection> {
        if self.eat("*")? {
            return Ok(Projection::All);
        }
        if self.at_keyword("COUNT") && self.peek()?.kind == TokenKind::Symbol("(") {
            self.advance()?;
            self.advance()?;
            if !self.eat("*")? {
                return Err(self.expected("\"*\"", &[], "write COUNT(*)"));
            }
            self.expect(")")?;
            return Ok(Projection::Count);
        }
        let mut columns = Vec::new();
        let mut seen = HashSet::new();
        loop {
            let start = self.token;
            if !columns.is_empty() && self.at_keyword("FROM") {
                return Err(self.expected("a field", &[], "remove the last comma"));
            }
            let column = match start.kind {
                TokenKind::Word | TokenKind::Quoted | TokenKind::Str => self.column(Reserved::Refused)?,
                _ => return Err(self.expected("\"*\", COUNT(*) or a field", &[], "")),
            };
            if columns.len() >= limits::SELECT_FIELDS {
                let message = format!("the SELECT has more than {} fields", limits::SELECT_FIELDS);
                return Err(self.too_large(start, message, "write * for all fields"));
            }
            if !seen.insert(column.clone()) {
                return Err(self.invalid(
                    start,
                    format!("{} is selected twice", clipped(&column.to_string())),
                    "remove one of them",
                ));
            }
            columns.push(column);
            if !self.eat(",")? {
                return Ok(Projection::Columns(columns));
            }
        }
    }

    /// Parses `AS OF point`, if given.
    fn as_of(&mut self) -> Result<Option<PointInTime>> {
        if !self.eat_keyword("AS")? {
            self.ends(&["AS OF"])?;
            return Ok(None);
        }
        self.expect_keyword("OF")?;
        self.point().map(Some)
    }

    /// Parses the rest of a SHOW.
    pub(super) fn show(&mut self) -> Result<Statement> {
        if self.eat_keyword("TABLES")? {
            return Ok(Statement::ShowTables { as_of: self.as_of()? });
        }
        if self.eat_keyword("DRIFT")? {
            return self.show_drift().map(Statement::ShowDrift);
        }
        if self.eat_keyword("DIFF")? {
            return self.show_diff();
        }
        Err(self.expected("DRIFT, DIFF or TABLES", &["DRIFT", "DIFF", "TABLES"], ""))
    }

    fn show_diff(&mut self) -> Result<Statement> {
        let table = self.table_name()?;
        let key = if self.eat_keyword("KEY")? { Some(self.row_key()?) } else { None };
        let both = "SHOW DIFF t FROM point TO point needs both points in time";
        if !self.eat_keyword("FROM")? {
            let what = if key.is_none() { "KEY or FROM" } else { "FROM" };
            return Err(self.expected(what, &["KEY", "FROM"], both));
        }
        let from = self.point()?;
        if !self.eat_keyword("TO")? {
            return Err(self.expected("TO", &["TO"], both));
        }
        let to = self.point()?;
        let strict = self.eat_keyword("STRICT")?;
        if !strict {
            self.ends(&["STRICT"])?;
        }
        Ok(Statement::ShowDiff { table, key, from, to, strict })
    }

    /// Parses the rest of a DESCRIBE.
    pub(super) fn describe(&mut self) -> Result<Statement> {
        let table = self.table_name()?;
        Ok(Statement::Describe { table, as_of: self.as_of()? })
    }

    /// Parses the rest of an EXPLAIN.
    pub(super) fn explain(&mut self) -> Result<Statement> {
        if !self.eat_keyword("SELECT")? {
            return Err(self.expected("SELECT", &["SELECT"], "EXPLAIN only supports SELECT"));
        }
        self.select().map(Statement::Explain)
    }
}
