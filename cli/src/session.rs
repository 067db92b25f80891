//! Runs DriftQL statements, each at the daemon that it is for, and collects transactions here.

use std::borrow::Cow;
use std::cell::RefCell;
use std::sync::Arc;

use driftdb::v1;
use driftdb_common::error::{Error, Reason, Result};
use driftdb_common::format::value::Value;
use driftdb_common::query::ast::Statement;
use driftdb_common::query::parser;
use driftdb_common::query::script::{ScriptStatement, split};
use serde::Serialize;
use v1::reader_service_execute_response::Result as Found;

use crate::client::Client;
use crate::exit::{Failure, Outcome};
use crate::render::{self, Answer, Output};
use crate::shapes;
use crate::statement::{self, Route};

/// Statements that run one after the other: a script, or what is typed.
#[derive(Debug)]
pub struct Session<'a> {
    /// The database.
    pub client: &'a mut Client,
    /// Where answers go.
    pub out: &'a mut Output,
    /// The moment of reads that name none of their own.
    pub as_of: Option<String>,
    options: v1::CommitOptions,
    params: Vec<String>,
    /// The same, parsed.
    values: Vec<Value>,
    /// The transaction that BEGIN opened.
    open: Option<Transaction>,
    /// The last SELECT that a script had.
    last_select: Option<String>,
    /// A write has been sent and not been answered.
    writing: bool,
    /// Writes so far.
    writes: u64,
}

/// Writes between BEGIN and COMMIT.
#[derive(Debug)]
struct Transaction {
    begin: Origin,
    request: v1::ApplyRequest,
}

impl Transaction {
    fn add(&mut self, statement: Statement) -> Result<()> {
        let (operations, preconditions) = statement::operations(statement)?;
        self.request.operations.extend(operations);
        self.request.preconditions.extend(preconditions);
        Ok(())
    }
}

/// A statement, and where it stands: for errors.
#[derive(Debug, Clone)]
struct Origin {
    text: String,
    script: Arc<str>,
    offset: usize,
    place: Option<String>,
}

impl Origin {
    fn failure(&self, error: Error) -> Failure {
        let (script, offset, place) = (self.script.clone(), self.offset, self.place.clone());
        Failure::Statement { error, script, offset, place }
    }

    fn invalid(&self, message: &str) -> Failure {
        self.failure(Error::new(Reason::QueryInvalid, message))
    }
}

impl<'a> Session<'a> {
    /// A session in which nothing has happened; `params` are the JSON texts of `$1`, `$2`, ….
    pub fn new(
        client: &'a mut Client,
        out: &'a mut Output,
        options: v1::CommitOptions,
        params: Vec<String>,
    ) -> Outcome<Session<'a>> {
        let values = parser::parse_params(&params)?;
        let (as_of, open, last_select) = (None, None, None);
        Ok(Session {
            client,
            out,
            as_of,
            options,
            params,
            values,
            open,
            last_select,
            writing: false,
            writes: 0,
        })
    }

    /// How many operations the open transaction holds; `None` where none is open.
    pub fn open(&self) -> Option<usize> {
        self.open.as_ref().map(|transaction| transaction.request.operations.len())
    }

    /// The last SELECT that a script had.
    pub fn last_select(&self) -> Option<&str> {
        self.last_select.as_deref()
    }

    /// How many writes have been answered: tables may have come or gone since fewer.
    pub fn writes(&self) -> u64 {
        self.writes
    }

    /// Whether the work that was dropped had sent a write and not heard of it.
    pub fn dropped_a_write(&mut self) -> bool {
        std::mem::take(&mut self.writing)
    }

    /// Runs a script; stops at its first error. A transaction may stay open.
    pub async fn script(&mut self, script: &str, file: Option<&str>) -> Outcome {
        // In a script of one line the statement itself says enough.
        let placed = file.is_some() || script.trim().contains('\n');
        let file = file.map(|file| format!(" of {file}")).unwrap_or_default();
        let whole: Arc<str> = script.into();
        for ScriptStatement { text, offset, line, .. } in split(script) {
            let place = placed.then(|| format!("the statement begins at line {line}{file}"));
            self.statement(Origin { text: text.to_owned(), script: whole.clone(), offset, place }).await?;
        }
        Ok(())
    }

    async fn statement(&mut self, origin: Origin) -> Outcome {
        match statement::route(&origin.text, &self.values).map_err(|e| origin.failure(e))? {
            Route::Begin if self.open.is_some() => Err(origin.invalid("BEGIN inside a transaction")),
            Route::Begin => {
                let request = v1::ApplyRequest { options: Some(self.options.clone()), ..Default::default() };
                self.open = Some(Transaction { begin: origin, request });
                Ok(())
            }
            Route::Rollback => match self.open.take() {
                Some(_) => Ok(()),
                None => Err(origin.invalid("ROLLBACK without BEGIN")),
            },
            Route::Commit => match self.open.take() {
                Some(transaction) => self.commit(&origin, transaction.request).await,
                None => Err(origin.invalid("COMMIT without BEGIN")),
            },
            Route::Reader(_) if self.open.is_some() => {
                Err(origin.invalid("a transaction holds writes only: read before BEGIN or after COMMIT"))
            }
            Route::Reader(statement) => {
                if matches!(*statement, Statement::Select(_)) {
                    self.last_select = Some(origin.text.clone());
                }
                self.read(&origin, &statement).await
            }
            Route::Writer(statement) => match &mut self.open {
                Some(transaction) => transaction.add(*statement).map_err(|e| origin.failure(e)),
                None => self.write(&origin).await,
            },
        }
    }

    async fn commit(&mut self, origin: &Origin, request: v1::ApplyRequest) -> Outcome {
        // An empty transaction changes nothing: there is nothing to commit.
        if request.operations.is_empty() {
            return Ok(());
        }
        self.writing = true;
        let applied = self.client.apply(request).await;
        self.writing = false;
        self.wrote(applied.map_err(|e| origin.failure(e))?.seq);
        Ok(())
    }

    /// Runs one statement that reads, also while a transaction is open.
    pub async fn look(&mut self, text: &str) -> Outcome {
        let origin = Origin { text: text.to_owned(), script: text.into(), offset: 0, place: None };
        match statement::route(text, &self.values).map_err(|e| origin.failure(e))? {
            Route::Reader(statement) => self.read(&origin, &statement).await,
            _ => Err(origin.invalid("this does not read")),
        }
    }

    async fn read(&mut self, origin: &Origin, statement: &Statement) -> Outcome {
        let out = &mut *self.out;
        let text = match &self.as_of {
            Some(point) => statement::at(&origin.text, statement, point),
            None => Cow::Borrowed(origin.text.as_str()),
        };
        let asked = ask(self.client, &text, &self.params, &mut |answer| out.answer(answer)).await;
        asked.map_err(|failure| match failure {
            Failure::Database(error) => origin.failure(error),
            other => other,
        })?;
        self.out.end_of_result()
    }

    async fn write(&mut self, origin: &Origin) -> Outcome {
        let request = v1::WriterServiceExecuteRequest {
            statement: origin.text.clone(),
            params: self.params.clone(),
            options: Some(self.options.clone()),
        };
        self.writing = true;
        let messages = RefCell::new(Vec::new());
        let say = |message| messages.borrow_mut().push(message);
        let executed = self.client.execute_saying(request, say).await;
        self.writing = false;
        // Also where it failed in the end: a verification tells of the damage, and fails.
        messages.into_inner().into_iter().try_for_each(|said| self.out.answer(Answer::Message(said)))?;
        let token = executed.map_err(|e| origin.failure(e))?;
        token.into_iter().for_each(|token| self.wrote(token.seq));
        Ok(())
    }

    fn wrote(&mut self, seq: u64) {
        self.writes += 1;
        if self.out.wants_notes() {
            render::note(&format!("ok, seq {seq}"));
        }
    }

    /// The end of all scripts: a transaction that nobody has ended is not sent.
    pub fn end(self) -> Outcome {
        match self.open {
            Some(transaction) => {
                Err(transaction.begin.invalid("BEGIN without COMMIT: nothing of this transaction was sent"))
            }
            None => Ok(()),
        }
    }
}

/// Runs one statement at a reader, and hands over its answers as they arrive.
pub async fn ask(
    client: &mut Client,
    text: &str,
    params: &[String],
    sink: &mut impl FnMut(Answer) -> Outcome,
) -> Outcome {
    #[derive(Serialize)]
    struct Count {
        count: u64,
    }
    let request = v1::ReaderServiceExecuteRequest {
        statement: text.to_owned(),
        params: params.to_vec(),
        ..Default::default()
    };
    let mut answers = client.reading().await?.query(request).await?;
    while let Some(answer) = answers.next().await? {
        match answer.result {
            Some(Found::Rows(batch)) => {
                for row in batch.rows {
                    sink(Answer::Record(shapes::row(row, false)?))?;
                }
            }
            Some(Found::Commit(commit)) => {
                for line in shapes::drift(commit)? {
                    sink(Answer::Record(line))?;
                }
            }
            Some(Found::Diff(diff)) => sink(Answer::Difference(shapes::difference(diff)?))?,
            Some(Found::Table(info)) => sink(Answer::Record(shapes::line(&shapes::Table::from(info))?))?,
            Some(Found::Count(count)) => sink(Answer::Record(shapes::line(&Count { count })?))?,
            Some(Found::Message(message)) => sink(Answer::Message(message))?,
            None => {}
        }
    }
    Ok(())
}
