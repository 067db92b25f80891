//! Parses the statements that read: SELECT, SHOW, DESCRIBE, EXPLAIN.

use crate::error::Result;
use crate::query::ast::{PointInTime, Projection, SelectStatement, Statement};
use crate::query::parser::select_list::ColumnPlaces;
use crate::query::parser::state::Parser;

impl Parser<'_> {
    /// Parses the rest of a SELECT.
    pub(super) fn select(&mut self) -> Result<SelectStatement> {
        let mut places = ColumnPlaces::default();
        let (distinct, projection) = self.select_list(&mut places)?;
        if !self.at_keyword("FROM") {
            return Err(match projection {
                Projection::Items(_) => self.expected("\",\", AS or FROM", &["AS", "FROM"], ""),
                _ => self.expected("FROM", &["FROM"], ""),
            });
        }
        self.advance()?;
        let table = self.table_name()?;
        let mut select = SelectStatement::all_of(table, distinct, projection);
        select.deleted = self.deleted_rows()?;
        while self.select_clause(&mut select, &mut places)? {}
        self.select_ends(&select)?;
        let select = self.checked_select(select, &places)?;
        self.check_every(&select, &places)?;
        Ok(select)
    }

    /// Parses the next clause of a SELECT. Returns false if none follows.
    fn select_clause(&mut self, select: &mut SelectStatement, places: &mut ColumnPlaces) -> Result<bool> {
        let start = self.token;
        if self.at_keyword("WHERE") {
            self.once("WHERE", select.condition.is_some())?;
            self.advance()?;
            select.condition = Some(self.condition(0)?);
        } else if self.at_keyword("GROUP") {
            self.once("GROUP BY", !select.group_by.is_empty())?;
            self.advance()?;
            select.group_by = self.group_by(select.projection.items())?;
        } else if self.at_keyword("HAVING") {
            self.once("HAVING", select.having.is_some())?;
            self.advance()?;
            select.having = Some(self.having(select.projection.items(), places)?);
        } else if self.at_keyword("ORDER") {
            self.once("ORDER BY", !select.order_by.is_empty())?;
            self.advance()?;
            select.order_by = self.order_by(select.projection.items(), places)?;
            places.clauses.push(("ORDER BY", start));
        } else if self.at_keyword("AS") {
            self.once("AS OF", select.as_of.is_some() || select.every.is_some())?;
            self.select_as_of(select)?;
            places.clauses.push(("AS OF", start));
        } else if self.at_keyword("LIMIT") {
            self.once("LIMIT", select.limit.is_some())?;
            self.advance()?;
            select.limit = Some(self.count("LIMIT")?);
            places.clauses.push(("LIMIT", start));
        } else if self.at_keyword("OFFSET") {
            self.once("OFFSET", select.offset.is_some())?;
            self.advance()?;
            select.offset = Some(self.count("OFFSET")?);
            places.clauses.push(("OFFSET", start));
        } else {
            return Ok(false);
        }
        Ok(true)
    }

    /// Fails unless the statement ends here; the message names the clauses that could follow.
    fn select_ends(&self, select: &SelectStatement) -> Result<()> {
        let mut clauses = Vec::new();
        match select.condition {
            Some(_) => clauses.extend(["AND", "OR"]),
            None => clauses.push("WHERE"),
        }
        let left = [
            ("GROUP BY", select.group_by.is_empty()),
            ("HAVING", select.having.is_none()),
            ("ORDER BY", select.order_by.is_empty()),
            ("AS OF", select.as_of.is_none() && select.every.is_none()),
            ("LIMIT", select.limit.is_none()),
            ("OFFSET", select.offset.is_none()),
        ];
        clauses.extend(left.iter().filter(|(_, free)| *free).map(|(clause, _)| *clause));
        self.ends(&clauses)
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
        const READS: &[&str] = &["SELECT", "FIND", "SHOW DRIFT"];
        if self.eat_keyword("SELECT")? {
            return self.select().map(Statement::Explain);
        }
        if self.eat_keyword("FIND")? {
            return self.find().map(Statement::ExplainFind);
        }
        if self.eat_keyword("SHOW")? {
            self.expect_keyword("DRIFT")?;
            return self.show_drift().map(Statement::ExplainDrift);
        }
        let hint = "EXPLAIN supports SELECT, FIND and SHOW DRIFT";
        Err(self.expected("SELECT, FIND or SHOW DRIFT", READS, hint))
    }
}
