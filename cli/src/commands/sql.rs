//! `sql`: DriftQL scripts, each statement to the daemon that runs it, transactions collected here.

use std::path::PathBuf;
use std::sync::Arc;

use driftdb::v1;
use driftdb_common::error::{Error, Reason, Result};
use driftdb_common::format::value::Value;
use driftdb_common::query::ast::Statement;
use driftdb_common::query::parser;
use driftdb_common::query::script::{Piece, split};
use serde::Serialize;
use v1::reader_service_execute_response::Result as Found;

use crate::args::Sql;
use crate::client::Client;
use crate::exit::{Failure, Outcome};
use crate::render::{self, Answer, Output};
use crate::statement::{self, Route};
use crate::{input, shapes};

/// Runs the scripts; stops at the first error.
pub async fn run(args: Sql, client: &mut Client, out: &mut Output) -> Outcome {
    let options = v1::CommitOptions {
        reason: args.reason.unwrap_or_default(),
        commit_time: args.time.map(shapes::timestamp),
        ..Default::default()
    };
    let values = parser::parse_params(&args.param)?;
    let mut session = Session { client, out, options, values, params: args.param, open: None };
    if args.statement.is_empty() {
        let path = args.file.unwrap_or_else(|| PathBuf::from("-"));
        let script = input::script(&path).await?;
        session.script(&script, Some(&input::name(&path))).await?;
    }
    for script in &args.statement {
        session.script(script, None).await?;
    }
    session.end()
}

/// One run of `sql`.
struct Session<'a> {
    client: &'a mut Client,
    out: &'a mut Output,
    options: v1::CommitOptions,
    params: Vec<String>,
    /// The same, parsed.
    values: Vec<Value>,
    /// The transaction that BEGIN opened.
    open: Option<Transaction>,
}

/// Writes between BEGIN and COMMIT.
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
#[derive(Clone)]
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

impl Session<'_> {
    async fn script(&mut self, script: &str, file: Option<&str>) -> Outcome {
        // In a script of one line the statement itself says enough.
        let placed = file.is_some() || script.trim().contains('\n');
        let file = file.map(|file| format!(" of {file}")).unwrap_or_default();
        let whole: Arc<str> = script.into();
        for Piece { text, offset, line, .. } in split(script) {
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
            Route::Reader if self.open.is_some() => {
                Err(origin.invalid("a transaction holds writes only: read before BEGIN or after COMMIT"))
            }
            Route::Reader => self.read(&origin).await,
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
        let token = self.client.apply(request).await.map_err(|e| origin.failure(e))?;
        self.wrote(token.seq);
        Ok(())
    }

    async fn read(&mut self, origin: &Origin) -> Outcome {
        let out = &mut *self.out;
        let asked = ask(self.client, &origin.text, &self.params, &mut |answer| out.answer(answer)).await;
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
        let executed = self.client.execute(request).await.map_err(|e| origin.failure(e))?;
        executed.token.into_iter().for_each(|token| self.wrote(token.seq));
        executed.messages.into_iter().try_for_each(|message| self.out.answer(Answer::Message(message)))
    }

    fn wrote(&self, seq: u64) {
        if self.out.wants_notes() {
            render::note(&format!("ok, seq {seq}"));
        }
    }

    /// The end of all scripts: a transaction that nobody has ended is not sent.
    fn end(self) -> Outcome {
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

#[cfg(test)]
mod tests;
