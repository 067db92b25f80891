//! Parses what is about more than one point in time: SHOW DRIFT, FIND, DELETED and AS OF EVERY.

use std::time::Duration;

use crate::error::Result;
use crate::format::path::Path;
use crate::format::rfc3339;
use crate::format::value::Value;
use crate::query::ast::{
    EveryMoment, FindStatement, MomentStep, Projection, SelectItem, SelectStatement, ShowDriftStatement,
};
use crate::query::deleted_row;
use crate::query::exec::every::{MOMENT, MOMENT_SEQ};
use crate::query::lexer::{Token, TokenKind};
use crate::query::parser::moment::{self, Length};
use crate::query::parser::select_list::ColumnPlaces;
use crate::query::parser::state::Parser;

/// The hint for a step that is not one.
const STEPS: &str = "for example EVERY \"1 day\", EVERY \"1 month\" or EVERY 1000 SEQS";

impl Parser<'_> {
    /// Parses the rest of a SHOW DRIFT.
    pub(super) fn show_drift(&mut self) -> Result<ShowDriftStatement> {
        let mut drift = ShowDriftStatement::all_of(self.table_name()?);
        while self.drift_clause(&mut drift)? {}
        let mut clauses = match drift.condition {
            Some(_) => vec!["AND", "OR"],
            None => vec!["WHERE"],
        };
        clauses.extend(["KEY", "WITH BEFORE", "WITH AFTER", "BY", "FROM", "TO", "LIMIT"]);
        self.ends(&clauses)?;
        Ok(drift)
    }

    /// Parses the next clause of a SHOW DRIFT. Returns false if none follows.
    fn drift_clause(&mut self, drift: &mut ShowDriftStatement) -> Result<bool> {
        if self.at_keyword("KEY") {
            self.once("KEY", drift.key.is_some())?;
            self.advance()?;
            drift.key = Some(self.row_key()?);
        } else if self.at_keyword("WHERE") {
            self.once("WHERE", drift.condition.is_some())?;
            self.advance()?;
            drift.condition = Some(self.condition(0)?);
        } else if self.at_keyword("WITH") {
            self.advance()?;
            if self.at_keyword("BEFORE") {
                self.once("WITH BEFORE", drift.with_before)?;
                drift.with_before = true;
            } else if self.at_keyword("AFTER") {
                self.once("WITH AFTER", drift.with_after)?;
                drift.with_after = true;
            } else {
                return Err(self.expected("BEFORE or AFTER", &["BEFORE", "AFTER"], ""));
            }
            self.advance()?;
        } else if self.at_keyword("BY") {
            self.once("BY", drift.actor.is_some())?;
            self.advance()?;
            drift.actor = Some(self.actor()?);
        } else if self.at_keyword("FROM") {
            self.once("FROM", drift.from.is_some())?;
            self.advance()?;
            drift.from = Some(self.point()?);
        } else if self.at_keyword("TO") {
            self.once("TO", drift.to.is_some())?;
            self.advance()?;
            drift.to = Some(self.point()?);
        } else if self.at_keyword("LIMIT") {
            self.once("LIMIT", drift.limit.is_some())?;
            self.advance()?;
            drift.limit = Some(self.count("LIMIT")?);
        } else {
            return Ok(false);
        }
        Ok(true)
    }

    fn actor(&mut self) -> Result<String> {
        const FORM: &str = "for example BY \"alice\"";
        let token = self.token;
        if !matches!(token.kind, TokenKind::Str | TokenKind::Param) {
            return Err(self.expected("the name of an actor in quotes", &[], FORM));
        }
        match self.value()? {
            Value::Str(actor) => Ok(actor),
            other => Err(self.invalid(token, format!("an actor is a string, not {}", other.kind()), FORM)),
        }
    }

    /// Parses the rest of a FIND.
    pub(super) fn find(&mut self) -> Result<FindStatement> {
        const FORM: &str = "for example FIND FIRST IN t KEY \"k\" WHERE status = \"paid\"";
        let last = self.at_keyword("LAST");
        if !last && !self.at_keyword("FIRST") {
            return Err(self.expected("FIRST or LAST", &["FIRST", "LAST"], FORM));
        }
        self.advance()?;
        if !self.eat_keyword("IN")? {
            return Err(self.expected("IN", &["IN"], FORM));
        }
        let table = self.table_name()?;
        let key = if self.eat_keyword("KEY")? { Some(self.row_key()?) } else { None };
        if !self.eat_keyword("WHERE")? {
            let what = if key.is_none() { "KEY or WHERE" } else { "WHERE" };
            return Err(self.expected(what, &["KEY", "WHERE"], FORM));
        }
        let mut find =
            FindStatement { last, table, key, condition: self.condition(0)?, from: None, to: None };
        loop {
            if self.at_keyword("FROM") {
                self.once("FROM", find.from.is_some())?;
                self.advance()?;
                find.from = Some(self.point()?);
            } else if self.at_keyword("TO") {
                self.once("TO", find.to.is_some())?;
                self.advance()?;
                find.to = Some(self.point()?);
            } else {
                self.ends(&["AND", "OR", "FROM", "TO"])?;
                return Ok(find);
            }
        }
    }

    /// Parses `DELETED` after the table of a SELECT, if given.
    pub(super) fn deleted_rows(&mut self) -> Result<bool> {
        self.reads_deleted = self.eat_keyword("DELETED")?;
        Ok(self.reads_deleted)
    }

    /// Converts the operand of `_deleted_time` to the text that the column has; a time between two milliseconds to one that sorts
    /// between theirs and equals neither.
    pub(super) fn deletion_time_operand(&mut self, token: Token, value: &Value) -> Result<Value> {
        let (millis, after) = match self.time_operand(token, deleted_row::TIME, value)? {
            Value::Int(millis) => (millis, ""),
            #[expect(clippy::cast_possible_truncation, reason = "milliseconds of a time, far below 2^63")]
            Value::Float(millis) => (millis.floor() as i128, "~"),
            _ => (0, ""),
        };
        let text = rfc3339::format_millis(i64::try_from(millis).unwrap_or(i64::MAX));
        Ok(Value::Str(format!("{text}{after}")))
    }

    /// Parses `AS OF point` or `AS OF EVERY step FROM point [TO point]`.
    pub(super) fn select_as_of(&mut self, select: &mut SelectStatement) -> Result<()> {
        self.expect_keyword("AS")?;
        self.expect_keyword("OF")?;
        if !self.eat_keyword("EVERY")? {
            select.as_of = Some(self.point()?);
            return Ok(());
        }
        let step = self.moment_step()?;
        if !self.eat_keyword("FROM")? {
            return Err(self.expected(
                "FROM",
                &["FROM"],
                "for example EVERY \"1 day\" FROM \"1 month ago\" TO @now",
            ));
        }
        let from = self.point()?;
        let to = if self.eat_keyword("TO")? { Some(self.point()?) } else { None };
        select.every = Some(EveryMoment { step, from, to });
        Ok(())
    }

    fn moment_step(&mut self) -> Result<MomentStep> {
        let token = self.token;
        let step = match token.kind {
            TokenKind::Number => {
                let seqs = self.count("EVERY")?;
                if !self.eat_keyword("SEQS")? {
                    return Err(self.expected("SEQS", &["SEQS"], STEPS));
                }
                MomentStep::Seqs(seqs)
            }
            TokenKind::Str | TokenKind::Param => match self.value()? {
                Value::Str(text) => {
                    let length = moment::length(text.trim())
                        .map_err(|problem| self.invalid(token, problem.message, STEPS))?;
                    step_of(length)
                }
                other => {
                    let message = format!("a step is a string, not {}", other.kind());
                    return Err(self.invalid(token, message, STEPS));
                }
            },
            _ => return Err(self.expected("a step", &[], STEPS)),
        };
        let is_zero = matches!(
            step,
            MomentStep::Fixed(Duration::ZERO)
                | MomentStep::Days(0)
                | MomentStep::Months(0)
                | MomentStep::Seqs(0)
        );
        if is_zero {
            return Err(self.invalid(token, "the step is zero", STEPS));
        }
        Ok(step)
    }

    /// Fails if AS OF EVERY is combined with what it does not support.
    pub(super) fn check_every(&self, select: &SelectStatement, places: &ColumnPlaces) -> Result<()> {
        if select.every.is_none() {
            return Ok(());
        }
        let refused = [
            (select.deleted, "DELETED"),
            (select.distinct, "DISTINCT"),
            (!select.order_by.is_empty(), "ORDER BY"),
            (select.limit.is_some(), "LIMIT"),
            (select.offset.is_some(), "OFFSET"),
        ];
        if let Some((_, clause)) = refused.iter().find(|(given, _)| *given) {
            let message = format!("AS OF EVERY cannot be combined with {clause}");
            let token = places.clause(clause).or(places.clause("AS OF")).unwrap_or(self.token);
            return Err(self.syntax(token, message, "remove one of them"));
        }
        let labels = SelectItem::labels(select.projection.items());
        let is_own = |label: &String| [MOMENT, MOMENT_SEQ].contains(&label.as_str());
        if let Some((at, label)) = labels.into_iter().enumerate().find(|(_, label)| is_own(label)) {
            let message = format!("{label} is a column of AS OF EVERY");
            let token = places.list.get(at).copied().unwrap_or(self.token);
            return Err(self.syntax(token, message, "choose another name with AS"));
        }
        if select.projection != Projection::Count && !select.is_grouped() {
            let hint = "for example SELECT COUNT(*) FROM t AS OF EVERY \"1 day\" FROM \"1 month ago\"";
            let token = places.list.first().copied().unwrap_or(self.token);
            return Err(self.syntax(token, "AS OF EVERY needs aggregates", hint));
        }
        Ok(())
    }
}

/// Whether a path is the time of a deletion, in a statement that reads deleted rows.
pub(super) fn is_deletion_time(path: &Path) -> bool {
    path.names() == [deleted_row::TIME]
}

fn step_of(length: Length) -> MomentStep {
    match length {
        Length::Months(months) => MomentStep::Months(months),
        Length::Days(days) => MomentStep::Days(days),
        Length::Fixed(time) => MomentStep::Fixed(time),
    }
}
