//! Parses statements by their first word, and the statements that write or maintain.

use crate::error::{Error, Result};
use crate::format::document::Document;
use crate::format::index_columns::IndexColumns;
use crate::format::path::Path;
use crate::limits;
use crate::query::ast::{CreateTable, Statement, TableName};
use crate::query::keywords::is_any;
use crate::query::lexer::{Token, TokenKind, clipped};
use crate::query::parser::bulk::ChangedRows;
use crate::query::parser::state::Parser;

/// The words with which a statement can start.
const STATEMENTS: &[&str] = &[
    "SELECT", "INSERT", "UPSERT", "PATCH", "SOFT", "REVERT", "SHOW", "DESCRIBE", "EXPLAIN", "CREATE",
    "ALTER", "DROP", "SNAPSHOT", "COMPACT", "VERIFY", "BEGIN", "COMMIT", "ROLLBACK", "FIND",
];

impl Parser<'_> {
    pub(super) fn statement(&mut self) -> Result<Statement> {
        let token = self.token;
        let word = match token.kind {
            TokenKind::Word => self.slice(token).to_ascii_uppercase(),
            _ => String::new(),
        };
        if !is_any(&word, STATEMENTS) {
            return Err(self.no_statement(&word));
        }
        self.advance()?;
        match word.as_str() {
            "SELECT" => self.select().map(Statement::Select),
            "SHOW" => self.show(),
            "FIND" => self.find().map(Statement::Find),
            "DESCRIBE" => self.describe(),
            "EXPLAIN" => self.explain(),
            "INSERT" => {
                let (table, documents) = self.rows()?;
                self.guarded(Statement::Insert { table, documents })
            }
            "UPSERT" => {
                let (table, documents) = self.rows()?;
                self.guarded(Statement::Upsert { table, documents })
            }
            "PATCH" => {
                let patch = self.patch()?;
                self.guarded(patch)
            }
            "SOFT" => {
                let delete = self.soft_delete()?;
                self.guarded(delete)
            }
            "REVERT" => {
                let revert = self.revert()?;
                self.guarded(revert)
            }
            "CREATE" => self.create(),
            "ALTER" => self.alter(),
            "DROP" => self.drop_statement(),
            "SNAPSHOT" => Ok(Statement::Snapshot { table: self.table_name()? }),
            "COMPACT" => self.compact(),
            "VERIFY" => self.verify(),
            "BEGIN" => Ok(Statement::Begin),
            "COMMIT" => Ok(Statement::Commit),
            _ => Ok(Statement::Rollback),
        }
    }

    /// Returns the error for an unknown first word, with a hint for words of other languages.
    fn no_statement(&self, word: &str) -> Error {
        let hint = match word {
            "DELETE" => "write SOFT DELETE FROM t KEY k, or … WHERE condition; history is kept",
            "UPDATE" => "write PATCH t KEY k SET {…}, or PATCH t SET {…} WHERE condition",
            "REPLACE" | "MERGE" | "PUT" => "write UPSERT INTO t {…}",
            "DESC" => "write DESCRIBE t",
            "TRUNCATE" => "write DROP TABLE t; history is kept",
            "START" => "write BEGIN",
            "GET" => "write SELECT * FROM t WHERE _key = k",
            _ => "a statement starts with a word such as SELECT, INSERT, PATCH or SHOW",
        };
        self.expected("a statement", STATEMENTS, hint)
    }

    /// Parses `INTO t {…}, {…}`.
    fn rows(&mut self) -> Result<(TableName, Vec<Document>)> {
        self.expect_keyword("INTO")?;
        let table = self.table_name()?;
        let mut documents = vec![self.document()?];
        while self.eat(",")? {
            if documents.len() >= limits::OPERATIONS_PER_COMMIT {
                let limit = limits::OPERATIONS_PER_COMMIT;
                let message = format!("the statement has more than {limit} rows, the limit for a commit");
                return Err(self.too_large(self.token, message, "split it into several statements"));
            }
            documents.push(self.document()?);
        }
        if !self.at_keyword("IF") {
            self.ends(&["\",\"", "IF NO CHANGE"])?;
        }
        Ok((table, documents))
    }

    fn patch(&mut self) -> Result<Statement> {
        let table = self.table_name()?;
        let hint = "for example PATCH t KEY k SET {…}, or PATCH t SET {…} WHERE a = 1";
        let ChangedRows::One(key) = self.changed_rows(&["SET"], hint)? else {
            return self.bulk_patch(table);
        };
        self.expect_keyword("SET")?;
        let patch = self.document()?;
        let if_seq = self.if_seq()?;
        Ok(Statement::Patch { table, key, patch, if_seq })
    }

    fn soft_delete(&mut self) -> Result<Statement> {
        self.expect_keyword("DELETE")?;
        self.expect_keyword("FROM")?;
        let table = self.table_name()?;
        let hint = "for example SOFT DELETE FROM t KEY k, or SOFT DELETE FROM t WHERE a = 1";
        let ChangedRows::One(key) = self.changed_rows(&["WHERE"], hint)? else {
            return self.bulk_soft_delete(table);
        };
        let if_seq = self.if_seq()?;
        Ok(Statement::SoftDelete { table, key, if_seq })
    }

    fn revert(&mut self) -> Result<Statement> {
        let table = self.table_name()?;
        let hint = "for example REVERT t KEY k TO @seq:100, or REVERT t TO @seq:100";
        let ChangedRows::One(key) = self.changed_rows(&["WHERE", "TO"], hint)? else {
            return self.bulk_revert(table);
        };
        self.expect_keyword("TO")?;
        let to = self.point()?;
        Ok(Statement::Revert { table, key, to })
    }

    /// Parses `IF SEQ = n`, if given.
    fn if_seq(&mut self) -> Result<Option<u64>> {
        if !self.at_keyword("IF") {
            self.ends(&["IF SEQ", "IF NO CHANGE"])?;
            return Ok(None);
        }
        let next = self.peek()?;
        if next.kind == TokenKind::Word && self.slice(next).eq_ignore_ascii_case("NO") {
            return Ok(None);
        }
        self.advance()?;
        if !self.at_keyword("SEQ") {
            return Err(self.expected("SEQ or NO CHANGE", &["SEQ", "NO"], ""));
        }
        self.advance()?;
        self.expect("=")?;
        self.count("SEQ").map(Some)
    }

    fn create(&mut self) -> Result<Statement> {
        if self.eat_keyword("TABLE")? {
            return self.create_table();
        }
        if self.eat_keyword("INDEX")? {
            let (table, indexes) = self.on_indexes()?;
            return Ok(Statement::CreateIndex { table, indexes });
        }
        Err(self.expected("TABLE or INDEX", &["TABLE", "INDEX"], ""))
    }

    fn drop_statement(&mut self) -> Result<Statement> {
        if self.eat_keyword("TABLE")? {
            return Ok(Statement::DropTable { table: self.table_name()? });
        }
        if self.eat_keyword("INDEX")? {
            let (table, indexes) = self.on_indexes()?;
            return Ok(Statement::DropIndex { table, indexes });
        }
        Err(self.expected("TABLE or INDEX", &["TABLE", "INDEX"], ""))
    }

    fn create_table(&mut self) -> Result<Statement> {
        let if_not_exists = self.eat_keyword("IF")?;
        if if_not_exists {
            self.expect_keyword("NOT")?;
            self.expect_keyword("EXISTS")?;
        }
        let table = self.table_name()?;
        let form = "for example CREATE TABLE t (pk=id, INDEX(status))";
        if !self.eat("(")? {
            return Err(self.expected("\"(\"", &[], form));
        }
        if !self.eat_keyword("PK")? {
            return Err(self.expected("PK", &["PK"], form));
        }
        self.expect("=")?;
        let (primary_key, key_type) = self.primary_key()?;
        let auto_key = self.auto_key(key_type)?;
        let (mut indexes, mut retain_ms) = (Vec::new(), None);
        while self.eat(",")? {
            self.once("RETAIN", retain_ms.is_some() && self.at_keyword("RETAIN"))?;
            if self.eat_keyword("RETAIN")? {
                retain_ms = Some(self.retention()?);
            } else if self.eat_keyword("INDEX")? {
                self.indexes(&mut indexes)?;
            } else {
                return Err(self.expected("INDEX or RETAIN", &["INDEX", "RETAIN"], form));
            }
        }
        if !self.eat(")")? {
            let words = ["STRING", "INT", "AUTO"];
            return Err(self.expected("STRING, INT, AUTO, \",\" or \")\"", &words, form));
        }
        Ok(Statement::CreateTable(CreateTable {
            table,
            primary_key,
            key_type,
            indexes,
            retain_ms,
            auto_key,
            if_not_exists,
        }))
    }

    /// Parses `TABLE t RETAIN "90d"`, `TABLE t RETAIN FOREVER` or `TABLE t RENAME TO u`.
    fn alter(&mut self) -> Result<Statement> {
        const INDEXES: &str = "to change indexes, write CREATE INDEX ON t (path) or DROP INDEX ON t (path)";
        if !self.eat_keyword("TABLE")? {
            return Err(self.expected("TABLE", &["TABLE"], INDEXES));
        }
        let table = self.table_name()?;
        if self.eat_keyword("RENAME")? {
            self.expect_keyword("TO")?;
            return Ok(Statement::RenameTable { table, to: self.table_name()? });
        }
        if !self.eat_keyword("RETAIN")? {
            let hint = if self.at_end() || self.at(";") {
                "for example ALTER TABLE t RETAIN \"90d\""
            } else {
                INDEXES
            };
            return Err(self.expected("RETAIN or RENAME", &["RETAIN", "RENAME"], hint));
        }
        let retain_ms = if self.eat_keyword("FOREVER")? { None } else { Some(self.retention()?) };
        Ok(Statement::AlterTable { table, retain_ms })
    }

    /// Parses `ON t (a, b.c, (d, e))`.
    fn on_indexes(&mut self) -> Result<(TableName, Vec<IndexColumns>)> {
        self.expect_keyword("ON")?;
        let table = self.table_name()?;
        let mut indexes = Vec::new();
        self.indexes(&mut indexes)?;
        Ok((table, indexes))
    }

    /// Parses `(a, b.c, (d, e))` into `indexes`; refuses duplicates. The list is short, so a linear search is fast enough.
    fn indexes(&mut self, indexes: &mut Vec<IndexColumns>) -> Result<()> {
        if !self.eat("(")? {
            return Err(self.expected("\"(\"", &[], "write the paths in parentheses"));
        }
        loop {
            let start = self.token;
            let index = if self.eat("(")? { self.columns()? } else { IndexColumns::new(vec![self.path()?]) };
            if indexes.contains(&index) {
                return Err(self.listed_twice(start, &index.to_string()));
            }
            if indexes.len() == limits::INDEXES_PER_TABLE {
                let message = format!("a table has at most {} indexes", limits::INDEXES_PER_TABLE);
                return Err(self.invalid(start, message, ""));
            }
            indexes.push(index);
            if self.eat(")")? {
                return Ok(());
            }
            if !self.eat(",")? {
                return Err(self.expected("\",\" or \")\"", &[], ""));
            }
        }
    }

    /// Parses the rest of `(d, e)`: the paths of a composite index.
    fn columns(&mut self) -> Result<IndexColumns> {
        let mut paths: Vec<Path> = Vec::new();
        loop {
            let start = self.token;
            let path = self.path()?;
            if paths.contains(&path) {
                return Err(self.listed_twice(start, &path.to_string()));
            }
            if paths.len() == limits::INDEX_COLUMNS {
                let message = format!("a composite index has at most {} columns", limits::INDEX_COLUMNS);
                return Err(self.invalid(start, message, ""));
            }
            paths.push(path);
            if paths.len() > 1 && self.eat(")")? {
                return Ok(IndexColumns::new(paths));
            }
            if !self.eat(",")? {
                let hint = "a composite index has two or more columns: INDEX((a, b))";
                return Err(self.expected(
                    if paths.len() > 1 { "\",\" or \")\"" } else { "\",\"" },
                    &[],
                    hint,
                ));
            }
        }
    }

    fn listed_twice(&self, start: Token, what: &str) -> Error {
        self.invalid(start, format!("{} is listed twice", clipped(what)), "remove one of them")
    }

    fn compact(&mut self) -> Result<Statement> {
        let table = self.table_name()?;
        let before = if self.eat_keyword("BEFORE")? { Some(self.point()?) } else { None };
        let dry_run = self.eat_keyword("DRY")?;
        if dry_run {
            self.expect_keyword("RUN")?;
        } else {
            self.ends(if before.is_none() { &["BEFORE", "DRY RUN"] } else { &["DRY RUN"] })?;
        }
        Ok(Statement::Compact { table, before, dry_run })
    }

    /// Parses `[t] [DEEP]`. A table named deep must be written in backticks.
    fn verify(&mut self) -> Result<Statement> {
        let no_table = self.at(";") || self.at_end() || self.at_keyword("DEEP");
        let table = if no_table { None } else { Some(self.table_name()?) };
        let deep = self.eat_keyword("DEEP")?;
        if !deep {
            self.ends(&["DEEP"])?;
        }
        Ok(Statement::Verify { table, deep })
    }
}
