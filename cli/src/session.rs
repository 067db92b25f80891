//! Runs DriftQL statements, each at the daemon responsible for it, and collects transactions.

use std::borrow::Cow;
use std::cell::RefCell;
use std::sync::Arc;

use driftdb::client::{Executed, WriteReceipt};
use driftdb::v1;
use driftdb_common::error::{Error, Reason, Result};
use driftdb_common::format::value::Value;
use driftdb_common::query::ast::Statement;
use driftdb_common::query::script::{ScriptStatement, split};
use driftdb_common::table::operation::KeyInput;
use serde::Serialize;
use v1::reader_service_execute_response::Result as ResponseItem;

use crate::bulk;
use crate::database::DatabaseHandle;
use crate::exit::{CliResult, Failure};
use crate::made_keys;
use crate::render::{self, Printer, ResultItem};
use crate::shapes::{self, CommitRecord, RequestedImages};
use crate::statement::{self, StatementRoute, TransactionPart};

/// Runs statements one after another: a script, or what a user types.
#[derive(Debug)]
pub(crate) struct Session<'a> {
    /// The database.
    pub(crate) database: &'a mut DatabaseHandle,
    /// Where results are printed.
    pub(crate) out: &'a mut Printer,
    /// The point in time of reads without an `AS OF` of their own.
    pub(crate) as_of: Option<String>,
    options: v1::CommitOptions,
    params: Vec<String>,
    /// `params`, parsed.
    values: Vec<Value>,
    /// The transaction that BEGIN opened.
    open: Option<Transaction>,
    /// The last SELECT of a script.
    last_select: Option<String>,
    /// A write has been sent and not yet been acknowledged.
    writing: bool,
}

/// The writes between BEGIN and COMMIT.
#[derive(Debug)]
struct Transaction {
    begin: StatementOrigin,
    request: v1::ApplyRequest,
}

impl Transaction {
    fn add(&mut self, part: TransactionPart) {
        self.request.operations.extend(part.operations);
        self.request.preconditions.extend(part.preconditions);
    }
}

/// A statement and its position, for error messages.
#[derive(Debug, Clone)]
struct StatementOrigin {
    text: String,
    script: Arc<str>,
    offset: usize,
    place: Option<String>,
}

impl StatementOrigin {
    fn failure(&self, error: Error) -> Failure {
        let (script, offset, place) = (self.script.clone(), self.offset, self.place.clone());
        Failure::Statement { error, script, offset, place }
    }

    fn invalid(&self, message: &str) -> Failure {
        self.failure(Error::new(Reason::QueryInvalid, message))
    }
}

impl<'a> Session<'a> {
    /// A new session. `params` are the values of `$1`, `$2`, …, each as JSON text.
    pub(crate) fn new(
        database: &'a mut DatabaseHandle,
        out: &'a mut Printer,
        options: v1::CommitOptions,
        params: Vec<String>,
    ) -> CliResult<Session<'a>> {
        let values = statement::parse_params(&params)?;
        let (as_of, open, last_select) = (None, None, None);
        Ok(Session { database, out, as_of, options, params, values, open, last_select, writing: false })
    }

    /// The number of operations in the open transaction, or `None` if none is open.
    pub(crate) fn open_operations(&self) -> Option<usize> {
        self.open.as_ref().map(|transaction| transaction.request.operations.len())
    }

    /// The last SELECT of a script.
    pub(crate) fn last_select(&self) -> Option<&str> {
        self.last_select.as_deref()
    }

    /// Whether interrupted work had sent a write that was not acknowledged. Resets the flag.
    pub(crate) fn take_unacknowledged_write(&mut self) -> bool {
        std::mem::take(&mut self.writing)
    }

    /// Runs a script and stops at its first error. A transaction may stay open.
    pub(crate) async fn run_script(&mut self, script: &str, file: Option<&str>) -> CliResult {
        // In a script of one line, the error shows the whole statement.
        let placed = file.is_some() || script.trim().contains('\n');
        let file = file.map(|file| format!(" of {file}")).unwrap_or_default();
        let whole: Arc<str> = script.into();
        for ScriptStatement { text, offset, line, .. } in split(script) {
            let place = placed.then(|| format!("the statement starts at line {line}{file}"));
            self.run_statement(StatementOrigin {
                text: text.to_owned(),
                script: whole.clone(),
                offset,
                place,
            })
            .await?;
        }
        Ok(())
    }

    async fn run_statement(&mut self, origin: StatementOrigin) -> CliResult {
        let clock = self.database.clock()?;
        let routed = statement::route(&origin.text, &self.values, &clock);
        let (route, notes) = routed.map_err(|e| origin.failure(e))?;
        if matches!(route, StatementRoute::Writer(_)) {
            // A reader says it in its answer.
            render::note_all(&notes);
        }
        match route {
            StatementRoute::Begin if self.open.is_some() => {
                Err(origin
                    .invalid("a transaction is already open: end it with COMMIT or ROLLBACK before BEGIN"))
            }
            StatementRoute::Begin => {
                let request = v1::ApplyRequest { options: Some(self.options.clone()), ..Default::default() };
                self.open = Some(Transaction { begin: origin, request });
                Ok(())
            }
            StatementRoute::Rollback => match self.open.take() {
                Some(_) => Ok(()),
                None => Err(origin.invalid("no transaction is open: ROLLBACK needs a BEGIN before it")),
            },
            StatementRoute::Commit => match self.open.take() {
                Some(transaction) => self.commit(&origin, transaction.request).await,
                None => Err(origin.invalid("no transaction is open: COMMIT needs a BEGIN before it")),
            },
            StatementRoute::Reader(_) if self.open.is_some() => {
                Err(origin
                    .invalid("a transaction can only contain writes: read before BEGIN or after COMMIT"))
            }
            StatementRoute::Reader(statement) => {
                if matches!(*statement, Statement::Select(_)) {
                    self.last_select = Some(origin.text.clone());
                }
                self.run_at_reader(&origin, &statement).await
            }
            StatementRoute::Writer(_) if self.open.is_none() => self.run_at_writer(&origin).await,
            StatementRoute::Writer(statement) => {
                let part = statement::transaction_part(*statement).map_err(|e| origin.failure(e))?;
                self.check_keys(&part.named_keys).await.map_err(|e| origin.failure(e))?;
                if let Some(transaction) = &mut self.open {
                    transaction.add(part);
                }
                Ok(())
            }
        }
    }

    /// Fails if a key of a transaction names its fields and the table's keys are not like that, as the writer does outside of a transaction.
    async fn check_keys(&mut self, named: &[(String, KeyInput)]) -> Result<()> {
        if named.is_empty() {
            return Ok(());
        }
        let tables = self.database.writer_status().await?.tables;
        for (table, key) in named {
            // A table that does not exist is refused by the writer.
            if let Some(info) = tables.iter().find(|info| info.table == *table) {
                key.of_table(&shapes::schema(info)?)?;
            }
        }
        Ok(())
    }

    async fn commit(&mut self, origin: &StatementOrigin, request: v1::ApplyRequest) -> CliResult {
        // An empty transaction changes nothing.
        if request.operations.is_empty() {
            return Ok(());
        }
        self.writing = true;
        let applied = self.database.apply_inserts(request).await;
        self.writing = false;
        let WriteReceipt { token, made_keys, .. } = applied.map_err(|e| origin.failure(e))?;
        self.register_write(token.seq, made_keys)
    }

    /// Runs one read statement, even if a transaction is open.
    pub(crate) async fn run_read(&mut self, text: &str) -> CliResult {
        let origin = StatementOrigin { text: text.to_owned(), script: text.into(), offset: 0, place: None };
        let clock = self.database.clock()?;
        match statement::route(text, &self.values, &clock).map_err(|e| origin.failure(e))?.0 {
            StatementRoute::Reader(statement) => self.run_at_reader(&origin, &statement).await,
            _ => Err(origin.invalid("not a read statement")),
        }
    }

    async fn run_at_reader(&mut self, origin: &StatementOrigin, statement: &Statement) -> CliResult {
        let out = &mut *self.out;
        let text = match &self.as_of {
            Some(point) => statement::with_as_of(&origin.text, statement, point),
            None => Cow::Borrowed(origin.text.as_str()),
        };
        let images = statement::images(statement);
        out.begin_pages();
        let is_list = matches!(statement, Statement::ShowTables { .. }) && out.is_for_people();
        let mut print = |item| match item {
            ResultItem::Table(table) if is_list => {
                out.print_item(ResultItem::Record(shapes::line(&table.summary())?))
            }
            item => out.print_item(item),
        };
        let asked = run_query(self.database, (&text, images), &self.params, &mut print).await;
        asked.map_err(|failure| match failure {
            Failure::Database(error) => origin.failure(error),
            other => other,
        })?;
        self.out.end_rows()
    }

    async fn run_at_writer(&mut self, origin: &StatementOrigin) -> CliResult {
        let request = v1::WriterServiceExecuteRequest {
            statement: origin.text.clone(),
            params: self.params.clone(),
            options: Some(self.options.clone()),
            time_zone: self.database.time_zone(),
        };
        self.writing = true;
        let messages = RefCell::new(Vec::new());
        let say = |message| messages.borrow_mut().push(message);
        let executed = self.database.execute_with_messages(request, say).await;
        self.writing = false;
        // Print messages even if the statement fails: VERIFY reports damage and then fails.
        messages
            .into_inner()
            .into_iter()
            .try_for_each(|said| self.out.print_item(ResultItem::Message(said)))?;
        let Executed { token, bulk, made_keys, .. } = executed.map_err(|e| origin.failure(e))?;
        if let Some(result) = bulk {
            return bulk::print(result, token.map(|token| token.seq), false, self.out);
        }
        token.map_or(Ok(()), |token| self.register_write(token.seq, made_keys))
    }

    /// Tells where the commit is, and which keys the writer made: people on stderr, a program that asked for JSON in the result.
    fn register_write(&mut self, seq: u64, made_keys: Vec<v1::MadeKey>) -> CliResult {
        let keys = made_keys::texts(made_keys);
        if self.out.wants_notes() {
            render::note(&format!("ok, seq {seq}{}", made_keys::with_keys(&keys)));
        }
        if self.out.wants_commits() {
            self.out.print_item(ResultItem::Record(shapes::line(&CommitRecord { seq, keys })?))?;
        }
        Ok(())
    }

    /// Ends the session. A transaction that is still open is not sent, and is an error.
    pub(crate) fn end(self) -> CliResult {
        match self.open {
            Some(transaction) => {
                Err(transaction.begin.invalid("the transaction has no COMMIT: it was discarded"))
            }
            None => Ok(()),
        }
    }
}

/// Runs one statement at a reader and passes each result to `sink` as it arrives. `images` are those that the statement returns.
pub(crate) async fn run_query(
    database: &mut DatabaseHandle,
    (text, images): (&str, RequestedImages),
    params: &[String],
    sink: &mut impl FnMut(ResultItem) -> CliResult,
) -> CliResult {
    #[derive(Serialize)]
    struct Count {
        count: u64,
    }
    let request = v1::ReaderServiceExecuteRequest {
        statement: text.to_owned(),
        params: params.to_vec(),
        time_zone: database.time_zone(),
        ..Default::default()
    };
    let mut answers = database.fresh_client().await?.query(request).await?;
    while let Some(answer) = answers.next().await? {
        render::note_all(answer.header.as_ref().map_or(&[], |header| &header.notes));
        if answer.truncated {
            render::note_truncated(answer.header.as_ref());
        }
        match answer.result {
            Some(ResponseItem::Rows(batch)) => {
                for row in batch.rows {
                    sink(ResultItem::Record(shapes::row(row, false)?))?;
                }
            }
            Some(ResponseItem::Commit(commit)) => {
                for line in shapes::drift(commit, images)? {
                    sink(ResultItem::Record(line))?;
                }
            }
            Some(ResponseItem::Diff(diff)) => sink(ResultItem::Difference(shapes::difference(diff)?))?,
            Some(ResponseItem::Table(info)) => {
                sink(ResultItem::Table(Box::new(shapes::TableJson::from(info))))?
            }
            Some(ResponseItem::Count(count)) => sink(ResultItem::Record(shapes::line(&Count { count })?))?,
            Some(ResponseItem::Message(message)) => sink(ResultItem::Message(message))?,
            Some(ResponseItem::Results(batch)) => {
                if !batch.columns.is_empty() {
                    sink(ResultItem::Columns(batch.columns))?;
                }
                for result in batch.results {
                    sink(ResultItem::Record(shapes::document(result)?))?;
                }
            }
            None => {}
        }
        answer.notes.into_iter().try_for_each(|note| sink(ResultItem::Note(note)))?;
    }
    Ok(())
}
