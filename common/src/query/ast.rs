//! Statements of DriftQL as the parser hands them out: parameters filled in, nothing looked up yet.

use crate::error::{Error, Result};
use crate::format::document::Document;
use crate::format::key::{Key, KeyType};
use crate::format::path::Path;
use crate::format::value::Value;
use crate::query::report;
pub use crate::table::commit_times::PointInTime;

/// One statement.
#[derive(Debug, Clone, PartialEq)]
pub enum Statement {
    /// `CREATE TABLE`
    CreateTable(CreateTable),
    /// `CREATE INDEX ON`: one index for each path.
    CreateIndex {
        /// The table to index.
        table: TableName,
        /// What to index; at least one, each once.
        paths: Vec<Path>,
    },
    /// `DROP INDEX ON`
    DropIndex {
        /// The indexed table.
        table: TableName,
        /// The indexes to drop; at least one, each once.
        paths: Vec<Path>,
    },
    /// `ALTER TABLE`: how long history is kept.
    AlterTable {
        /// The table to alter.
        table: TableName,
        /// `RETAIN`, in milliseconds; none is `FOREVER`.
        retain_ms: Option<u64>,
    },
    /// `DROP TABLE`
    DropTable {
        /// The table to drop.
        table: TableName,
    },
    /// `INSERT INTO`: new rows.
    Insert {
        /// Where the rows go.
        table: TableName,
        /// The rows; at least one.
        documents: Vec<Document>,
    },
    /// `UPSERT INTO`: rows to insert or replace.
    Upsert {
        /// Where the rows go.
        table: TableName,
        /// The rows; at least one.
        documents: Vec<Document>,
    },
    /// `PATCH`: an RFC 7396 merge patch of one row.
    Patch {
        /// The row's table.
        table: TableName,
        /// The row.
        key: RowKey,
        /// The merge patch.
        patch: Document,
        /// `IF SEQ =`: the row's last change must be this commit.
        if_seq: Option<u64>,
    },
    /// `SOFT DELETE FROM`
    SoftDelete {
        /// The row's table.
        table: TableName,
        /// The row.
        key: RowKey,
        /// `IF SEQ =`: the row's last change must be this commit.
        if_seq: Option<u64>,
    },
    /// `REVERT`: the row as it was, as a new event.
    Revert {
        /// The row's table.
        table: TableName,
        /// The row.
        key: RowKey,
        /// The moment to go back to.
        to: PointInTime,
    },
    /// `BEGIN`: the writes that follow are one commit.
    Begin,
    /// `COMMIT`
    Commit,
    /// `ROLLBACK`
    Rollback,
    /// `SELECT`
    Select(SelectStatement),
    /// `EXPLAIN SELECT`
    Explain(SelectStatement),
    /// `SHOW DRIFT`: events, newest last.
    ShowDrift {
        /// The table.
        table: TableName,
        /// Only this row.
        key: Option<RowKey>,
        /// Events after this moment.
        from: Option<PointInTime>,
        /// Events up to and with this moment.
        to: Option<PointInTime>,
        /// At most so many.
        limit: Option<u64>,
    },
    /// `SHOW DIFF`: the net change between two moments.
    ShowDiff {
        /// The table.
        table: TableName,
        /// Only this row.
        key: Option<RowKey>,
        /// The earlier moment.
        from: PointInTime,
        /// The later moment.
        to: PointInTime,
    },
    /// `SHOW TABLES`
    ShowTables {
        /// The moment asked about.
        as_of: Option<PointInTime>,
    },
    /// `DESCRIBE`
    Describe {
        /// The table.
        table: TableName,
        /// The moment asked about.
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
        /// The new floor; the newest snapshot where it is not given.
        before: Option<PointInTime>,
        /// Only say what would be done.
        dry_run: bool,
    },
    /// `VERIFY`
    Verify {
        /// Only this table.
        table: Option<TableName>,
        /// Also rebuild the state from the log and compare.
        deep: bool,
    },
}

/// Who runs a statement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StatementKind {
    /// A reader.
    Read,
    /// The writer: it makes a commit.
    Write,
    /// The writer: a job that changes no row.
    Maintenance,
    /// The client, which collects the writes between BEGIN and COMMIT.
    Transaction,
}

impl Statement {
    /// Who runs the statement.
    pub fn kind(&self) -> StatementKind {
        match self {
            Statement::CreateTable(_)
            | Statement::CreateIndex { .. }
            | Statement::DropIndex { .. }
            | Statement::AlterTable { .. }
            | Statement::DropTable { .. }
            | Statement::Insert { .. }
            | Statement::Upsert { .. }
            | Statement::Patch { .. }
            | Statement::SoftDelete { .. }
            | Statement::Revert { .. } => StatementKind::Write,
            Statement::Begin | Statement::Commit | Statement::Rollback => StatementKind::Transaction,
            Statement::Select(_)
            | Statement::Explain(_)
            | Statement::ShowDrift { .. }
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
    /// The table that the statement is about, where it names one.
    pub fn table(&self) -> Option<&TableName> {
        match self {
            Statement::CreateTable(CreateTable { table, .. })
            | Statement::CreateIndex { table, .. }
            | Statement::DropIndex { table, .. }
            | Statement::AlterTable { table, .. }
            | Statement::DropTable { table }
            | Statement::Insert { table, .. }
            | Statement::Upsert { table, .. }
            | Statement::Patch { table, .. }
            | Statement::SoftDelete { table, .. }
            | Statement::Revert { table, .. }
            | Statement::Select(SelectStatement { table, .. })
            | Statement::Explain(SelectStatement { table, .. })
            | Statement::ShowDrift { table, .. }
            | Statement::ShowDiff { table, .. }
            | Statement::Describe { table, .. }
            | Statement::Snapshot { table }
            | Statement::Compact { table, .. } => Some(table),
            Statement::Verify { table, .. } => table.as_ref(),
            Statement::Begin | Statement::Commit | Statement::Rollback | Statement::ShowTables { .. } => None,
        }
    }
}

/// A table's name, and where in the statement it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableName {
    /// The name, without backticks.
    pub text: String,
    /// Byte offset of its first byte.
    pub start: usize,
    /// Byte offset after its last byte.
    pub end: usize,
}

/// A row's key as a statement has it, and where: whether it suits the table is not known yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RowKey {
    /// The key: a string literal gives text, an integer literal an integer.
    pub key: Key,
    /// Byte offset of its first byte.
    pub start: usize,
    /// Byte offset after its last byte.
    pub end: usize,
}

impl RowKey {
    /// The key, for a table whose keys are of a type. No coercion: `KEY "7"` names no row of an INT table.
    pub fn of_type(&self, key_type: KeyType, statement: &str) -> Result<Key> {
        if self.key.key_type() == key_type {
            return Ok(self.key.clone());
        }
        Err(self.mismatch(key_type, statement))
    }

    fn mismatch(&self, key_type: KeyType, statement: &str) -> Error {
        let hint = match (&self.key, key_type) {
            (Key::Int(int), KeyType::String) => format!("write KEY \"{int}\""),
            (Key::Str(text), KeyType::Int) if Key::parse(text, KeyType::Int).is_ok() => {
                format!("write KEY {text}")
            }
            _ => format!("write {}", if key_type == KeyType::Int { "an integer" } else { "a string" }),
        };
        let found = if key_type == KeyType::Int { "a string" } else { "an integer" };
        let message = format!("this table's keys are {key_type}, and this one is {found}");
        report::invalid_at(statement, self.start, self.end, message, hint)
    }
}

/// `CREATE TABLE`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CreateTable {
    /// The table's name.
    pub table: TableName,
    /// The field that holds the key.
    pub primary_key: String,
    /// STRING where not given.
    pub key_type: KeyType,
    /// The indexed paths, each once.
    pub indexes: Vec<Path>,
    /// `RETAIN`, in milliseconds: for how long history is kept; for ever where not given.
    pub retain_ms: Option<u64>,
    /// No error where the table exists.
    pub if_not_exists: bool,
}

/// `SELECT`
#[derive(Debug, Clone, PartialEq)]
pub struct SelectStatement {
    /// The table read.
    pub table: TableName,
    /// What of each row to answer.
    pub projection: Projection,
    /// `WHERE`: which rows.
    pub condition: Option<Condition>,
    /// `AS OF`: at which moment.
    pub as_of: Option<PointInTime>,
    /// At most so many rows.
    pub limit: Option<u64>,
    /// After leaving out so many.
    pub offset: Option<u64>,
}

/// What of each row a SELECT answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Projection {
    /// `*`: the whole document.
    All,
    /// `COUNT(*)`: only how many.
    Count,
    /// These columns, each once.
    Columns(Vec<Column>),
}

/// What can be asked of a row.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Column {
    /// `_key`: the row's key.
    Key,
    /// `_seq`: the commit that last changed the row.
    Seq,
    /// `_time`: that commit's time.
    Time,
    /// A field of the document. `` `_key` `` in backticks is one.
    Path(Path),
}

/// How two values are compared.
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

/// What rows must meet.
///
/// Operands of `_time` are milliseconds since 1970: an integer, or, for a moment between two milliseconds, the
/// middle of them. Row times are whole milliseconds, so any moment in between compares alike.
#[derive(Debug, Clone, PartialEq)]
pub enum Condition {
    /// All of these, two or more.
    And(Vec<Condition>),
    /// Any of these, two or more.
    Or(Vec<Condition>),
    /// Not this.
    Not(Box<Condition>),
    /// `column op value`
    Compare {
        /// Left of the operator.
        column: Column,
        /// The operator.
        op: Comparison,
        /// Right of the operator; never null.
        value: Value,
    },
    /// `column [NOT] IN (…)`
    In {
        /// What is looked for.
        column: Column,
        /// What it is looked for in; at least one.
        values: Vec<Value>,
        /// With NOT.
        negated: bool,
    },
    /// `column [NOT] BETWEEN low AND high`, both included.
    Between {
        /// What is compared.
        column: Column,
        /// The least; never null.
        low: Value,
        /// The greatest; never null.
        high: Value,
        /// With NOT.
        negated: bool,
    },
    /// `column [NOT] LIKE pattern`
    Like {
        /// What is matched.
        column: Column,
        /// `%` is any text, `_` any character, `\` takes the next character as it is.
        pattern: String,
        /// With NOT.
        negated: bool,
    },
    /// `column IS [NOT] NULL`: there, and null.
    IsNull {
        /// What is looked at.
        column: Column,
        /// With NOT.
        negated: bool,
    },
    /// `column IS [NOT] MISSING`: not there.
    IsMissing {
        /// What is looked at.
        column: Column,
        /// With NOT.
        negated: bool,
    },
}
