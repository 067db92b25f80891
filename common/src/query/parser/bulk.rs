//! Parses the statements that change all rows of a condition, and the conditions that any write can end with.

use crate::error::Result;
use crate::query::ast::{
    BulkAction, BulkStatement, Condition, GuardedStatement, NoChangeClause, RowKey, Statement, TableName,
};
use crate::query::parser::state::Parser;
use crate::table::operation::Boundary;

/// What follows the table's name in a statement that changes one row or many.
pub(super) enum ChangedRows {
    /// `KEY k`
    One(RowKey),
    /// Everything else.
    Many,
}

impl Parser<'_> {
    /// Parses `KEY k`, or leaves the clause of a statement that changes many rows, which begins with one of these words.
    pub(super) fn changed_rows(&mut self, words: &[&str], hint: &str) -> Result<ChangedRows> {
        if self.eat_keyword("KEY")? {
            return Ok(ChangedRows::One(self.row_key()?));
        }
        if words.iter().any(|word| self.at_keyword(word)) {
            return Ok(ChangedRows::Many);
        }
        let mut expected = vec!["KEY"];
        expected.extend_from_slice(words);
        let what = match words {
            [one] => format!("KEY or {one}"),
            [first, last] => format!("KEY, {first} or {last}"),
            _ => "KEY".to_owned(),
        };
        Err(self.expected(&what, &expected, hint))
    }

    /// Parses `PATCH t` … `SET {…} WHERE cond`, from SET on.
    pub(super) fn bulk_patch(&mut self, table: TableName) -> Result<Statement> {
        self.expect_keyword("SET")?;
        let patch = self.document()?;
        if !self.at_keyword("WHERE") {
            let hint = "to patch one row, write PATCH t KEY k SET {…}";
            return Err(self.expected("WHERE", &["WHERE"], hint));
        }
        self.advance()?;
        let condition = Some(self.condition(0)?);
        self.bulk(table, BulkAction::Patch(patch), condition)
    }

    /// Parses `SOFT DELETE FROM t WHERE cond`, from WHERE on.
    pub(super) fn bulk_soft_delete(&mut self, table: TableName) -> Result<Statement> {
        self.expect_keyword("WHERE")?;
        let condition = Some(self.condition(0)?);
        self.bulk(table, BulkAction::SoftDelete, condition)
    }

    /// Parses `REVERT t [WHERE cond] TO point`, after the table.
    pub(super) fn bulk_revert(&mut self, table: TableName) -> Result<Statement> {
        let condition = if self.eat_keyword("WHERE")? { Some(self.condition(0)?) } else { None };
        self.expect_keyword("TO")?;
        let point = self.point()?;
        self.bulk(table, BulkAction::Revert(point), condition)
    }

    /// Parses `[IN BATCHES OF n] [DRY RUN]`.
    fn bulk(
        &mut self,
        table: TableName,
        action: BulkAction,
        condition: Option<Condition>,
    ) -> Result<Statement> {
        let mut bulk = BulkStatement { table, action, condition, batch: None, dry_run: false };
        if self.eat_keyword("IN")? {
            self.expect_keyword("BATCHES")?;
            self.expect_keyword("OF")?;
            let token = self.token;
            let rows = self.count("IN BATCHES OF")?;
            if rows == 0 {
                return Err(self.invalid(token, "a batch must have at least one row", ""));
            }
            bulk.batch = Some(rows);
        }
        if self.eat_keyword("DRY")? {
            self.expect_keyword("RUN")?;
            bulk.dry_run = true;
        }
        Ok(Statement::Bulk(Box::new(bulk)))
    }

    /// Parses the `IF NO CHANGE` clauses of a statement that writes rows, if given.
    pub(super) fn guarded(&mut self, statement: Statement) -> Result<Statement> {
        let mut boundaries = Vec::new();
        while self.at_keyword("IF") {
            self.advance()?;
            boundaries.push(self.no_change()?);
        }
        if boundaries.is_empty() {
            if let Statement::Bulk(bulk) = &statement {
                self.bulk_ends(bulk)?;
            }
            return Ok(statement);
        }
        self.ends(&["IF NO CHANGE"])?;
        Ok(Statement::Guarded(Box::new(GuardedStatement { statement, boundaries })))
    }

    /// Fails unless the statement ends here; the message names the clauses that could follow.
    fn bulk_ends(&self, bulk: &BulkStatement) -> Result<()> {
        let mut clauses = Vec::new();
        let is_revert = matches!(bulk.action, BulkAction::Revert(_));
        if !is_revert && bulk.batch.is_none() && !bulk.dry_run {
            clauses.extend(["AND", "OR"]);
        }
        if bulk.batch.is_none() && !bulk.dry_run {
            clauses.push("IN BATCHES OF");
        }
        if !bulk.dry_run {
            clauses.push("DRY RUN");
        }
        clauses.push("IF NO CHANGE");
        self.ends(&clauses)
    }

    /// Parses `NO CHANGE IN t WHERE cond SINCE n`.
    fn no_change(&mut self) -> Result<NoChangeClause> {
        self.expect_keyword("NO")?;
        self.expect_keyword("CHANGE")?;
        self.expect_keyword("IN")?;
        let table = self.table_name()?;
        self.expect_keyword("WHERE")?;
        let (start, budget) = (self.token.start, self.budget);
        let condition = self.condition(0)?;
        // As it was sent: written again, it can be longer.
        let text = self.text.get(start..self.token.start).unwrap_or_default();
        Boundary::check_bytes(text.trim_end().len() + (budget - self.budget))?;
        if !self.at_keyword("SINCE") {
            let hint = "write the commit at which you have read the rows: SINCE 100";
            return Err(self.expected("AND, OR or SINCE", &["AND", "OR", "SINCE"], hint));
        }
        self.advance()?;
        let since = self.count("SINCE")?;
        Ok(NoChangeClause { table, condition, since })
    }
}
