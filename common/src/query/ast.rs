//! The DriftQL syntax tree: what the parser returns, with parameters filled in and no table looked up yet.

mod column;
mod every;
mod row_key;
mod select_list;

use crate::format::document::Document;
use crate::format::index_columns::IndexColumns;
use crate::format::key::KeyType;
use crate::format::value::Value;
pub use crate::query::ast::column::{Aggregate, AggregateFunction, Column};
pub use crate::query::ast::every::{EveryMoment, MomentStep};
pub use crate::query::ast::row_key::RowKey;
pub use crate::query::ast::select_list::{OrderBy, Projection, SelectItem, names_aggregates};
use crate::query::in_list::InList;
use crate::query::like::LikePattern;
pub use crate::table::point_in_time::PointInTime;

/// One statement.
#[derive(Debug, Clone, PartialEq)]
pub enum Statement {
    /// `CREATE TABLE`
    CreateTable(CreateTable),
    /// `CREATE INDEX ON`: creates indexes, each on a path or on several.
    CreateIndex {
        /// The table to index.
        table: TableName,
        /// The indexes to create: at least one, no duplicates.
        indexes: Vec<IndexColumns>,
    },
    /// `DROP INDEX ON`
    DropIndex {
        /// The indexed table.
        table: TableName,
        /// The indexes to drop: at least one, no duplicates.
        indexes: Vec<IndexColumns>,
    },
    /// `ALTER TABLE`: changes how long history is kept.
    AlterTable {
        /// The table to alter.
        table: TableName,
        /// `RETAIN`, in milliseconds; `None` means `FOREVER`.
        retain_ms: Option<u64>,
    },
    /// `ALTER TABLE … RENAME TO`: gives a table another name.
    RenameTable {
        /// The table to rename.
        table: TableName,
        /// The new name.
        to: TableName,
    },
    /// `DROP TABLE`
    DropTable {
        /// The table to drop.
        table: TableName,
    },
    /// `INSERT INTO`: adds new rows.
    Insert {
        /// The table that gets the rows.
        table: TableName,
        /// The rows: at least one.
        documents: Vec<Document>,
    },
    /// `UPSERT INTO`: inserts or replaces rows.
    Upsert {
        /// The table that gets the rows.
        table: TableName,
        /// The rows: at least one.
        documents: Vec<Document>,
    },
    /// `PATCH`: applies an RFC 7396 merge patch to one row.
    Patch {
        /// The row's table.
        table: TableName,
        /// The row.
        key: RowKey,
        /// The merge patch.
        patch: Document,
        /// `IF SEQ =`: the commit that must have changed the row last.
        if_seq: Option<u64>,
    },
    /// `SOFT DELETE FROM`
    SoftDelete {
        /// The row's table.
        table: TableName,
        /// The row.
        key: RowKey,
        /// `IF SEQ =`: the commit that must have changed the row last.
        if_seq: Option<u64>,
    },
    /// `REVERT`: writes the row as it was earlier, as a new event.
    Revert {
        /// The row's table.
        table: TableName,
        /// The row.
        key: RowKey,
        /// The point in time to restore.
        to: PointInTime,
    },
    /// A statement that writes rows, with `IF NO CHANGE` clauses.
    Guarded(Box<GuardedStatement>),
    /// A statement that changes all rows of a condition, or of a table.
    Bulk(Box<BulkStatement>),
    /// `BEGIN`: starts a transaction; its writes become one commit.
    Begin,
    /// `COMMIT`
    Commit,
    /// `ROLLBACK`
    Rollback,
    /// `SELECT`
    Select(SelectStatement),
    /// `EXPLAIN SELECT`
    Explain(SelectStatement),
    /// `EXPLAIN FIND`
    ExplainFind(FindStatement),
    /// `EXPLAIN SHOW DRIFT`
    ExplainDrift(ShowDriftStatement),
    /// `SHOW DRIFT`: lists events, oldest first.
    ShowDrift(ShowDriftStatement),
    /// `FIND`: the commit at which a condition began to hold.
    Find(FindStatement),
    /// `SHOW DIFF`: shows the net change between two points in time.
    ShowDiff {
        /// The table.
        table: TableName,
        /// Only this row.
        key: Option<RowKey>,
        /// The earlier point in time.
        from: PointInTime,
        /// The later point in time.
        to: PointInTime,
        /// `STRICT`: whether it is an error if the table does not exist at the earlier point.
        strict: bool,
    },
    /// `SHOW TABLES`
    ShowTables {
        /// The point in time to read; now if `None`.
        as_of: Option<PointInTime>,
    },
    /// `DESCRIBE`
    Describe {
        /// The table.
        table: TableName,
        /// The point in time to read; now if `None`.
        as_of: Option<PointInTime>,
    },
    /// `SNAPSHOT`
    Snapshot {
        /// The table.
        table: TableName,
    },
    /// `COMPACT`
    Compact {
        /// The table.
        table: TableName,
        /// The new floor; the newest snapshot if `None`.
        before: Option<PointInTime>,
        /// Report what would be removed, and change nothing.
        dry_run: bool,
    },
    /// `VERIFY`
    Verify {
        /// Only this table.
        table: Option<TableName>,
        /// Also rebuild the state from the log and compare it with the files.
        deep: bool,
    },
}

/// Which component runs a statement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StatementKind {
    /// A reader.
    Read,
    /// The writer, as a commit.
    Write,
    /// The writer, as a job that changes no row.
    Maintenance,
    /// The client: it collects the writes between BEGIN and COMMIT.
    Transaction,
}

impl Statement {
    /// Returns which component runs the statement.
    pub fn kind(&self) -> StatementKind {
        match self {
            Statement::CreateTable(_)
            | Statement::CreateIndex { .. }
            | Statement::DropIndex { .. }
            | Statement::AlterTable { .. }
            | Statement::RenameTable { .. }
            | Statement::DropTable { .. }
            | Statement::Insert { .. }
            | Statement::Upsert { .. }
            | Statement::Patch { .. }
            | Statement::SoftDelete { .. }
            | Statement::Revert { .. }
            | Statement::Guarded(_)
            | Statement::Bulk(_) => StatementKind::Write,
            Statement::Begin | Statement::Commit | Statement::Rollback => StatementKind::Transaction,
            Statement::Select(_)
            | Statement::Explain(_)
            | Statement::ExplainFind(_)
            | Statement::ExplainDrift(_)
            | Statement::ShowDrift(_)
            | Statement::Find(_)
            | Statement::ShowDiff { .. }
            | Statement::ShowTables { .. }
            | Statement::Describe { .. } => StatementKind::Read,
            Statement::Snapshot { .. } | Statement::Compact { .. } | Statement::Verify { .. } => {
                StatementKind::Maintenance
            }
        }
    }
}

impl Statement {
    /// Returns the table that the statement names, if any.
    pub fn table(&self) -> Option<&TableName> {
        match self {
            Statement::CreateTable(CreateTable { table, .. })
            | Statement::CreateIndex { table, .. }
            | Statement::DropIndex { table, .. }
            | Statement::AlterTable { table, .. }
            | Statement::RenameTable { table, .. }
            | Statement::DropTable { table }
            | Statement::Insert { table, .. }
            | Statement::Upsert { table, .. }
            | Statement::Patch { table, .. }
            | Statement::SoftDelete { table, .. }
            | Statement::Revert { table, .. }
            | Statement::Select(SelectStatement { table, .. })
            | Statement::Explain(SelectStatement { table, .. })
            | Statement::ShowDrift(ShowDriftStatement { table, .. })
            | Statement::ExplainDrift(ShowDriftStatement { table, .. })
            | Statement::Find(FindStatement { table, .. })
            | Statement::ExplainFind(FindStatement { table, .. })
            | Statement::ShowDiff { table, .. }
            | Statement::Describe { table, .. }
            | Statement::Snapshot { table }
            | Statement::Compact { table, .. } => Some(table),
            Statement::Guarded(guarded) => guarded.statement.table(),
            Statement::Bulk(bulk) => Some(&bulk.table),
            Statement::Verify { table, .. } => table.as_ref(),
            Statement::Begin | Statement::Commit | Statement::Rollback | Statement::ShowTables { .. } => None,
        }
    }
}

/// A table's name and its location in the statement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableName {
    /// The name, without backticks.
    pub text: String,
    /// Byte offset of its first byte.
    pub start: usize,
    /// Byte offset after its last byte.
    pub end: usize,
}

/// `CREATE TABLE`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CreateTable {
    /// The table's name.
    pub table: TableName,
    /// The field that holds the key.
    pub primary_key: String,
    /// The type of the keys; STRING by default.
    pub key_type: KeyType,
    /// The indexes, no duplicates.
    pub indexes: Vec<IndexColumns>,
    /// `RETAIN`, in milliseconds: how long history is kept; forever if `None`.
    pub retain_ms: Option<u64>,
    /// `AUTO`: whether the writer makes keys.
    pub auto_key: bool,
    /// Whether an existing table is not an error.
    pub if_not_exists: bool,
}

/// `SHOW DRIFT`: which events of a table to list. An event passes if it meets all that is given.
#[derive(Debug, Clone, PartialEq)]
pub struct ShowDriftStatement {
    /// The table.
    pub table: TableName,
    /// Only this row.
    pub key: Option<RowKey>,
    /// `WHERE`: the row before or after the event must match.
    pub condition: Option<Condition>,
    /// `BY`: who made the commit.
    pub actor: Option<String>,
    /// `WITH BEFORE`: whether to return the row before each event.
    pub with_before: bool,
    /// `WITH AFTER`: whether to return the row after each event.
    pub with_after: bool,
    /// Only events after this point in time.
    pub from: Option<PointInTime>,
    /// Only events up to and including this point in time.
    pub to: Option<PointInTime>,
    /// The maximum number of events.
    pub limit: Option<u64>,
}

impl ShowDriftStatement {
    /// All events of a table.
    pub fn all_of(table: TableName) -> ShowDriftStatement {
        ShowDriftStatement {
            table,
            key: None,
            condition: None,
            actor: None,
            with_before: false,
            with_after: false,
            from: None,
            to: None,
            limit: None,
        }
    }
}

/// `FIND`: the first or the last commit after which a row matches a condition that it did not match before the commit.
#[derive(Debug, Clone, PartialEq)]
pub struct FindStatement {
    /// `LAST`, not `FIRST`.
    pub last: bool,
    /// The table.
    pub table: TableName,
    /// Only this row.
    pub key: Option<RowKey>,
    /// The condition.
    pub condition: Condition,
    /// Only commits after this point in time.
    pub from: Option<PointInTime>,
    /// Only commits up to and including this point in time.
    pub to: Option<PointInTime>,
}

/// `SELECT`
#[derive(Debug, Clone, PartialEq)]
pub struct SelectStatement {
    /// The table to read.
    pub table: TableName,
    /// `DELETED`: whether to read soft-deleted rows, as they were before their deletion.
    pub deleted: bool,
    /// `AS OF EVERY`: the moments to read, instead of one.
    pub every: Option<EveryMoment>,
    /// `DISTINCT`: whether each result is returned once only.
    pub distinct: bool,
    /// What to return of each row, or of each group.
    pub projection: Projection,
    /// `WHERE`: the rows to return.
    pub condition: Option<Condition>,
    /// `GROUP BY`: the columns whose values make a group, no duplicates, no aggregates.
    pub group_by: Vec<Column>,
    /// `HAVING`: the groups to return. Its columns are aggregates or columns of `group_by`.
    pub having: Option<Condition>,
    /// `ORDER BY`: the order of the results; that of the keys, or of the groups, if empty.
    pub order_by: Vec<OrderBy>,
    /// `AS OF`: the point in time to read.
    pub as_of: Option<PointInTime>,
    /// The maximum number of rows to return.
    pub limit: Option<u64>,
    /// The number of matching rows to skip first.
    pub offset: Option<u64>,
}

impl SelectStatement {
    /// A SELECT of every row, without further clauses.
    pub fn all_of(table: TableName, distinct: bool, projection: Projection) -> SelectStatement {
        SelectStatement {
            table,
            deleted: false,
            every: None,
            distinct,
            projection,
            condition: None,
            group_by: Vec::new(),
            having: None,
            order_by: Vec::new(),
            as_of: None,
            limit: None,
            offset: None,
        }
    }

    /// Whether it returns groups, not rows: GROUP BY or HAVING is given, or an aggregate is named.
    pub fn is_grouped(&self) -> bool {
        !self.group_by.is_empty()
            || self.having.is_some()
            || names_aggregates(self.projection.items(), &self.order_by)
    }
}

/// A comparison operator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Comparison {
    /// `=`
    Equal,
    /// `!=`, `<>`
    NotEqual,
    /// `<`
    Less,
    /// `<=`
    LessOrEqual,
    /// `>`
    Greater,
    /// `>=`
    GreaterOrEqual,
}

/// A condition on rows, as written after WHERE.
///
/// Operands of `_time` are milliseconds since 1970: an integer, or the integer plus 0.5 for a time between two
/// milliseconds. Row times are whole milliseconds, so every time between the two compares the same.
#[derive(Debug, Clone, PartialEq)]
pub enum Condition {
    /// All of these hold; two or more.
    And(Vec<Condition>),
    /// Any of these holds; two or more.
    Or(Vec<Condition>),
    /// This does not hold.
    Not(Box<Condition>),
    /// `column op value`
    Compare {
        /// The left operand.
        column: Column,
        /// The operator.
        op: Comparison,
        /// The right operand; never null.
        value: Value,
    },
    /// `column [NOT] IN (…)`
    In {
        /// The column to look for.
        column: Column,
        /// The list: at least one value.
        values: InList,
        /// Whether NOT is given.
        negated: bool,
    },
    /// `column [NOT] BETWEEN low AND high`, both included.
    Between {
        /// The column to compare.
        column: Column,
        /// The lower bound; never null.
        low: Value,
        /// The upper bound; never null.
        high: Value,
        /// Whether NOT is given.
        negated: bool,
    },
    /// `column [NOT] LIKE pattern`
    Like {
        /// The column to match.
        column: Column,
        /// The pattern: `%` matches any text, `_` any one character, and `\` escapes the next character.
        pattern: LikePattern,
        /// Whether NOT is given.
        negated: bool,
    },
    /// `column [NOT] ILIKE pattern`: as LIKE, with both in lower case.
    ILike {
        /// The column to match.
        column: Column,
        /// The pattern, in lower case.
        pattern: LikePattern,
        /// Whether NOT is given.
        negated: bool,
    },
    /// `column [NOT] CONTAINS value`: an array with an element that equals the value.
    Contains {
        /// The column with the array.
        column: Column,
        /// The element to look for; null is found, too.
        value: Value,
        /// Whether NOT is given.
        negated: bool,
    },
    /// `ANY(column) op value`: an array with an element for which the comparison holds.
    Any {
        /// The column with the array.
        column: Column,
        /// The operator.
        op: Comparison,
        /// The right operand; never null.
        value: Value,
    },
    /// `column IS [NOT] NULL`: the field is present and null.
    IsNull {
        /// The column to test.
        column: Column,
        /// Whether NOT is given.
        negated: bool,
    },
    /// `column IS [NOT] MISSING`: the field is absent.
    IsMissing {
        /// The column to test.
        column: Column,
        /// Whether NOT is given.
        negated: bool,
    },
}

/// A statement that writes rows, with what must hold.
#[derive(Debug, Clone, PartialEq)]
pub struct GuardedStatement {
    /// The statement.
    pub statement: Statement,
    /// Its `IF NO CHANGE` clauses: at least one.
    pub boundaries: Vec<NoChangeClause>,
}

/// `IF NO CHANGE IN t WHERE cond SINCE n`: no row of the table that matched the condition, before or after the change, has changed
/// since commit `n`.
#[derive(Debug, Clone, PartialEq)]
pub struct NoChangeClause {
    /// The table.
    pub table: TableName,
    /// Which rows.
    pub condition: Condition,
    /// The commit.
    pub since: u64,
}

/// `PATCH t SET {…} WHERE cond`, `SOFT DELETE FROM t WHERE cond` or `REVERT t [WHERE cond] TO point`.
#[derive(Debug, Clone, PartialEq)]
pub struct BulkStatement {
    /// The table whose rows are changed.
    pub table: TableName,
    /// The change of each row.
    pub action: BulkAction,
    /// `WHERE`: which rows. `None`, for `REVERT` only, means all of them.
    pub condition: Option<Condition>,
    /// `IN BATCHES OF`: the most rows of one commit. Without it, all rows are changed by one commit.
    pub batch: Option<u64>,
    /// `DRY RUN`: whether to change nothing, and answer what would be changed.
    pub dry_run: bool,
}

/// What a statement does with each row.
#[derive(Debug, Clone, PartialEq)]
pub enum BulkAction {
    /// Apply an RFC 7396 merge patch.
    Patch(Document),
    /// Delete the row.
    SoftDelete,
    /// Write the row as it was.
    Revert(PointInTime),
}
