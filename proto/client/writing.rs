//! Writes. A write is retried only if nothing was executed, or if its request id ensures that it is executed once.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tonic::{Code, Status};
use tonic_types::StatusExt;
use uuid::Uuid;

use super::api::WriterApi;
use super::handle::Client;
use super::reasons::{CLOCK_JUMPED, DISK_FULL, STANDBY, TLS_FAILED, UNREACHABLE, reason};
use super::time_limit::TimeLimit;
use crate::v1;
use v1::writer_service_execute_response::Event;

/// The result of a write.
#[derive(Debug, Clone, PartialEq)]
pub struct WriteReceipt {
    /// Identifies the commit.
    pub token: v1::WriteToken,
    /// Whether an earlier request with the same id had already been executed.
    pub replayed: bool,
    /// The keys that the writer made for inserts without one, in the order of the operations.
    pub made_keys: Vec<v1::MadeKey>,
}

/// The result of a statement at the writer.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Executed {
    /// Identifies the commit, if there is one.
    pub token: Option<v1::WriteToken>,
    /// The keys that the writer made, in the order of the rows.
    pub made_keys: Vec<v1::MadeKey>,
    /// The messages of a maintenance statement.
    pub messages: Vec<String>,
    /// What a statement that changes all rows of a condition has done, or would do.
    pub bulk: Option<v1::BulkResult>,
}

impl Client {
    /// Commits operations atomically, with optional preconditions and options.
    pub async fn apply(&self, request: impl Into<v1::ApplyRequest>) -> Result<WriteReceipt, Status> {
        let mut request = request.into();
        let (limit, safe) = (self.limit(), self.add_request_id(&mut request.options));
        let call = |mut writer: WriterApi| {
            let request = limit.request(request.clone());
            async move { writer.apply(request).await }
        };
        let v1::ApplyResponse { token, replayed, made_keys } =
            self.write(limit, safe, call).await?.into_inner();
        Ok(WriteReceipt { token: self.register_write(token)?, replayed, made_keys })
    }

    /// Inserts a row; the document contains the primary key. To insert rows whose keys the writer makes, and to learn those keys, use
    /// [`Client::apply`].
    pub async fn insert(&self, table: &str, row: impl Into<v1::Document>) -> Result<v1::WriteToken, Status> {
        self.apply_one(v1::Operation::insert(table, row)).await
    }

    /// Inserts or replaces a row.
    pub async fn put(&self, table: &str, row: impl Into<v1::Document>) -> Result<v1::WriteToken, Status> {
        self.apply_one(v1::Operation::put(table, row)).await
    }

    /// Applies a merge patch (RFC 7396) to a row.
    pub async fn patch(
        &self,
        table: &str,
        key: &str,
        patch: impl Into<v1::Document>,
    ) -> Result<v1::WriteToken, Status> {
        self.apply_one(v1::Operation::patch(table, key, patch)).await
    }

    /// Deletes a row; its history stays readable.
    pub async fn delete(&self, table: &str, key: &str) -> Result<v1::WriteToken, Status> {
        self.apply_one(v1::Operation::delete(table, key)).await
    }

    async fn apply_one(&self, operation: v1::Operation) -> Result<v1::WriteToken, Status> {
        self.apply(vec![operation]).await.map(|written| written.token)
    }

    /// Creates a table.
    pub async fn create_table(&self, mut request: v1::CreateTableRequest) -> Result<v1::WriteToken, Status> {
        let (limit, safe) = (self.limit(), self.add_request_id(&mut request.options));
        let call = |mut writer: WriterApi| {
            let request = limit.request(request.clone());
            async move { writer.create_table(request).await }
        };
        let answer = self.write(limit, safe, call).await?;
        self.register_write(answer.into_inner().token)
    }

    /// The commit that a request with this id made, if the writer knows it: for a caller that has lost the answer, to
    /// `OUTCOME_UNKNOWN` or to a crash of its own. A caller that still has the request sends it again with the same id, which also
    /// finds out whether another request has used the id.
    pub async fn find_commit(&self, request_id: &str) -> Result<Option<v1::WriteToken>, Status> {
        let made_by = v1::find_commit_request::MadeBy::RequestId(request_id.to_owned());
        let found = self.find_commit_made_by(made_by).await?;
        found.token.iter().for_each(|token| self.wrote(*token));
        Ok(found.token)
    }

    /// The last commit of a request or of a producer.
    pub async fn find_commit_made_by(
        &self,
        made_by: v1::find_commit_request::MadeBy,
    ) -> Result<v1::FindCommitResponse, Status> {
        let (limit, request) = (self.limit(), v1::FindCommitRequest { made_by: Some(made_by) });
        let call = |mut writer: WriterApi| {
            let request = limit.request(request.clone());
            async move { writer.find_commit(request).await.map(tonic::Response::into_inner) }
        };
        // It changes nothing.
        self.write(limit, true, call).await
    }

    /// Runs one DriftQL statement that writes or maintains. `params` are the values of `$1`, `$2`, …, each as JSON
    /// text.
    pub async fn execute(&self, statement: &str, params: &[&str]) -> Result<Executed, Status> {
        let params = params.iter().map(|&param| param.to_owned()).collect();
        let request =
            v1::WriterServiceExecuteRequest { statement: statement.to_owned(), params, ..Default::default() };
        self.execute_request(request, |_| {}).await
    }

    /// Like [`Client::execute`], with options. A long job reports its progress.
    pub async fn execute_request(
        &self,
        request: v1::WriterServiceExecuteRequest,
        progress: impl Fn(v1::Progress),
    ) -> Result<Executed, Status> {
        let messages: Mutex<Vec<String>> = Mutex::default();
        let keep = |message| lock(&messages).push(message);
        let executed = self.execute_with_messages(request, progress, keep).await?;
        Ok(Executed { messages: messages.into_inner().unwrap_or_else(PoisonError::into_inner), ..executed })
    }

    /// Like [`Client::execute_request`], with messages as they arrive, also those of a statement that finally fails. The result has
    /// none.
    pub async fn execute_with_messages(
        &self,
        mut request: v1::WriterServiceExecuteRequest,
        progress: impl Fn(v1::Progress),
        message: impl Fn(String),
    ) -> Result<Executed, Status> {
        self.choose_zone(&mut request.time_zone);
        let limit = self.limit();
        let safe = AtomicBool::new(self.add_request_id(&mut request.options));
        // Maintenance and IN BATCHES OF report progress or messages. They ignore request ids: a retry would run the job again.
        let mark_maintenance = || safe.store(false, Ordering::Relaxed);
        let (progress, message, mark_maintenance) = (&progress, &message, &mark_maintenance);
        let call = |mut writer: WriterApi| {
            let request = request.clone();
            async move {
                let mut answers = limit.first(writer.execute(request)).await?.into_inner();
                let mut executed = Executed::default();
                let mut next = limit.first(answers.message()).await?;
                while let Some(answer) = next {
                    executed.made_keys.extend(answer.made_keys);
                    match answer.event {
                        Some(Event::Progress(made)) => {
                            mark_maintenance();
                            progress(made);
                        }
                        Some(Event::Token(token)) => executed.token = Some(token),
                        Some(Event::Bulk(bulk)) => executed.bulk = Some(bulk),
                        Some(Event::Message(said)) => {
                            mark_maintenance();
                            message(said);
                        }
                        None => {}
                    }
                    next = limit.further(answers.message()).await?;
                }
                Ok(executed)
            }
        };
        let executed = self.write_while(limit, || safe.load(Ordering::Relaxed), call).await?;
        executed.token.iter().for_each(|token| self.wrote(*token));
        Ok(executed)
    }

    /// Gives a write a request id if it has none and the options ask for it. Returns whether it has one.
    fn add_request_id(&self, options: &mut Option<v1::CommitOptions>) -> bool {
        if self.options.request_ids {
            let options = options.get_or_insert_default();
            if options.request_id.is_empty() {
                options.request_id = Uuid::new_v4().to_string();
            }
        }
        options.as_ref().is_some_and(|options| !options.request_id.is_empty())
    }

    fn register_write(&self, token: Option<v1::WriteToken>) -> Result<v1::WriteToken, Status> {
        let token =
            token.ok_or_else(|| Status::internal("the writer acknowledged a write without a token"))?;
        self.wrote(token);
        Ok(token)
    }

    /// Sends a write with one answer until it succeeds, is rejected, or its time or the retry timeout is over. `safe`: it has a request
    /// id, so it can be retried if its response is missing.
    pub(super) async fn write<T, F>(
        &self,
        limit: TimeLimit,
        safe: bool,
        call: impl Fn(WriterApi) -> F,
    ) -> Result<T, Status>
    where
        F: Future<Output = Result<T, Status>>,
    {
        self.write_while(limit, || safe, |writer| limit.first(call(writer))).await
    }

    /// Like `write`, if a try can show that retries are not safe. `call` keeps the time limit itself.
    async fn write_while<T, F>(
        &self,
        limit: TimeLimit,
        safe: impl Fn() -> bool,
        call: impl Fn(WriterApi) -> F,
    ) -> Result<T, Status>
    where
        F: Future<Output = Result<T, Status>>,
    {
        let writers = self.writers.all().len();
        let mut pauses = limit.pauses(self.options.retry_timeout);
        let mut unknown = None;
        for tries in 1.. {
            let Some((index, backend)) = self.writers.in_turn().next() else {
                return Err(Status::unavailable("the client has no writer address"));
            };
            let answer = match limit.first(backend.writer()).await {
                Ok(writer) => call(writer).await,
                Err(status) => Err(status),
            };
            let status = match answer {
                Ok(answer) => return Ok(answer),
                Err(status) => backend.map_status(status, true),
            };
            let (mut asked, mut at_once) = (Duration::ZERO, false);
            match retry_place(&status, safe()) {
                // The result also applies to earlier tries, because the request id makes them one write.
                RetryPlace::No => return Err(status),
                RetryPlace::Elsewhere { sent } => {
                    self.writers.pass_over(index);
                    // Try the other writers at once; wait only after all of them.
                    at_once = !sent && tries % writers != 0;
                    if sent {
                        unknown = Some(status.clone());
                    }
                }
                // Any earlier try may have been executed.
                RetryPlace::EachOnce if tries % writers == 0 => return Err(unknown.unwrap_or(status)),
                RetryPlace::EachOnce => {
                    self.writers.pass_over(index);
                    at_once = true;
                }
                RetryPlace::After(wait) => asked = wait,
            }
            let pause = match at_once {
                true => pauses.allows(Duration::ZERO).then_some(Duration::ZERO),
                false => pauses.at_least(asked),
            };
            let Some(pause) = pause.filter(|_| tries < self.options.tries.saturating_mul(writers)) else {
                // If any try may have been executed, that uncertainty matters more than the last error.
                return Err(unknown.unwrap_or(status));
            };
            tokio::time::sleep(pause).await;
        }
        Err(Status::internal("a write ended without a response"))
    }
}

/// Whether and where a failed write is retried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum RetryPlace {
    /// Not at all: it was rejected, or it may have been executed and cannot be retried safely.
    No,
    /// At another writer, or at the same one when it is back.
    Elsewhere {
        /// Whether the write may have been executed.
        sent: bool,
    },
    /// Once at each other writer. Nothing was sent, and waiting does not help.
    EachOnce,
    /// At the same writer after a pause, because it is overloaded.
    After(Duration),
}

fn retry_place(status: &Status, safe: bool) -> RetryPlace {
    match status.code() {
        Code::Unavailable if matches!(reason(status).as_deref(), Some(UNREACHABLE | STANDBY)) => {
            RetryPlace::Elsewhere { sent: false }
        }
        Code::Unavailable if reason(status).as_deref() == Some(TLS_FAILED) => RetryPlace::EachOnce,
        // A full disk stays full for longer than a call lasts, and a clock is not set right by itself.
        Code::Unavailable if matches!(reason(status).as_deref(), Some(DISK_FULL | CLOCK_JUMPED)) => {
            RetryPlace::No
        }
        Code::Unavailable | Code::Unknown if safe => RetryPlace::Elsewhere { sent: true },
        // Rejected before anything was executed.
        Code::ResourceExhausted if reason(status).is_some() => {
            let asked = status.get_details_retry_info().and_then(|info| info.retry_delay);
            RetryPlace::After(asked.unwrap_or_default())
        }
        _ => RetryPlace::No,
    }
}

fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}
