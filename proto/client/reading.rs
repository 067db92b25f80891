//! Reads. They include this client's writes and, with several readers, what it has read before. If a reader is
//! unreachable or behind, the next one is asked.

use std::collections::VecDeque;
use std::sync::Arc;

use tonic::{Code, Response, Status, Streaming};

use super::pool::Daemon;
use super::{Answers, Client, Reader, Rows, reader_on, reason};
use crate::v1;

/// The maximum number of keys in one Get.
const KEYS_PER_GET: usize = 1000;
/// The reason of a reader that did not catch up in time.
const REPLICA_BEHIND: &str = "REPLICA_BEHIND";
/// The reason of a reader whose history is not the requested one.
const EPOCH_CHANGED: &str = "EPOCH_CHANGED";

impl Client {
    /// Reads a row by its key, now.
    pub async fn get(&self, table: &str, key: &str) -> Result<Option<v1::Row>, Status> {
        let request =
            v1::GetRequest { table: table.to_owned(), keys: vec![key.to_owned()], ..Default::default() };
        Ok(self.get_rows(request).await?.rows.pop())
    }

    /// Reads any number of rows by key, all at the same point in time. Missing rows are omitted.
    pub async fn get_rows(&self, mut request: v1::GetRequest) -> Result<v1::GetResponse, Status> {
        request.freshness = self.fresh(request.freshness);
        let mut keys = VecDeque::from(std::mem::take(&mut request.keys));
        let mut whole: Option<v1::GetResponse> = None;
        while whole.is_none() || !keys.is_empty() {
            request.keys = keys.drain(..keys.len().min(KEYS_PER_GET)).collect();
            let call = |mut reader: Reader| {
                let request = request.clone();
                async move { reader.get(request).await }
            };
            let mut answer = self.read(call).await?.into_inner();
            self.saw(answer.header.as_ref());
            std::mem::take(&mut answer.remaining).into_iter().rev().for_each(|key| keys.push_front(key));
            let rows = std::mem::take(&mut answer.rows);
            let whole = whole.get_or_insert(answer);
            whole.rows.extend(rows);
            // Read the remaining keys at the point in time of the first response.
            let header = whole.header.clone().unwrap_or_default();
            request.as_of = Some(v1::AsOf::seq(header.read_seq));
            self.reach(&mut request.freshness, &header);
        }
        Ok(whole.unwrap_or_default())
    }

    /// Reads the rows that match a condition, in key order, as they arrive.
    pub async fn select(&self, mut request: v1::SelectRequest) -> Result<Rows, Status> {
        request.freshness = self.fresh(request.freshness);
        Rows::ask(self.clone(), request).await
    }

    pub(super) async fn select_messages(
        &self,
        request: &v1::SelectRequest,
    ) -> Result<Answers<v1::SelectResponse>, Status> {
        let call = |mut reader: Reader| {
            let request = request.clone();
            async move { reader.select(request).await }
        };
        let answers = self.read_stream(call).await?;
        self.saw(answers.peek().and_then(|answer| answer.header.as_ref()));
        Ok(answers)
    }

    /// Reads the history of a row or a table.
    pub async fn history(
        &self,
        mut request: v1::HistoryRequest,
    ) -> Result<Answers<v1::HistoryResponse>, Status> {
        request.freshness = self.fresh(request.freshness);
        let call = |mut reader: Reader| {
            let request = request.clone();
            async move { reader.history(request).await }
        };
        let answers = self.read_stream(call).await?;
        self.saw(answers.peek().and_then(|answer| answer.header.as_ref()));
        Ok(answers)
    }

    /// Computes the net difference between two points in time.
    pub async fn diff(&self, mut request: v1::DiffRequest) -> Result<Answers<v1::DiffResponse>, Status> {
        request.freshness = self.fresh(request.freshness);
        let call = |mut reader: Reader| {
            let request = request.clone();
            async move { reader.diff(request).await }
        };
        let answers = self.read_stream(call).await?;
        self.saw(answers.peek().and_then(|answer| answer.header.as_ref()));
        Ok(answers)
    }

    /// Runs one DriftQL statement that reads.
    pub async fn query(
        &self,
        mut request: v1::ReaderServiceExecuteRequest,
    ) -> Result<Answers<v1::ReaderServiceExecuteResponse>, Status> {
        request.freshness = self.fresh(request.freshness);
        let call = |mut reader: Reader| {
            let request = request.clone();
            async move { reader.execute(request).await }
        };
        let answers = self.read_stream(call).await?;
        self.saw(answers.peek().and_then(|answer| answer.header.as_ref()));
        Ok(answers)
    }

    /// How fresh a read must be: as requested, or fresh enough to include this client's writes and reads.
    fn fresh(&self, given: Option<v1::Freshness>) -> Option<v1::Freshness> {
        if given.is_some() || self.options.stale {
            return given;
        }
        let known = self.known();
        let (epoch, seq) = match (known.written, known.seen) {
            (Some(written), Some((epoch, seen))) if written.epoch == epoch => (epoch, seen.max(written.seq)),
            (Some(written), _) => (written.epoch, written.seq),
            (None, seen) => seen?,
        };
        Some(v1::Freshness { min_seq: seq, epoch, ..Default::default() })
    }

    /// Registers a state that was read, so that no other reader returns an older one. A single reader never goes back.
    fn saw(&self, header: Option<&v1::ReadHeader>) {
        let Some(header) = header.filter(|_| self.readers.all().len() > 1) else { return };
        let mut known = self.known();
        if known.seen.is_none_or(|(epoch, seq)| epoch != header.epoch || seq < header.read_seq) {
            known.seen = Some((header.epoch, header.read_seq));
        }
    }

    /// Makes later calls at another reader wait for the point in time of this response.
    pub(super) fn reach(&self, freshness: &mut Option<v1::Freshness>, header: &v1::ReadHeader) {
        if self.readers.all().len() > 1 {
            let freshness = freshness.get_or_insert_default();
            freshness.min_seq = freshness.min_seq.max(header.read_seq);
            freshness.epoch = header.epoch;
        }
    }

    /// Tries the readers in turn until one responds that is reachable and has caught up. `call` can run several times.
    pub async fn read<T, F>(&self, call: impl Fn(Reader) -> F) -> Result<T, Status>
    where
        F: Future<Output = Result<T, Status>>,
    {
        self.read_from(|reader, _| call(reader)).await
    }

    /// Like [`Client::read`], for a response of many messages. If a reader fails before its first message, the next is tried.
    pub async fn read_stream<M, F>(&self, call: impl Fn(Reader) -> F) -> Result<Answers<M>, Status>
    where
        M: Send + 'static,
        F: Future<Output = Result<Response<Streaming<M>>, Status>>,
    {
        let begin = |reader, daemon| {
            let answer = call(reader);
            async move { Answers::begin(answer.await?.into_inner(), daemon).await }
        };
        self.read_from(begin).await
    }

    async fn read_from<T, F>(&self, call: impl Fn(Reader, Arc<Daemon>) -> F) -> Result<T, Status>
    where
        F: Future<Output = Result<T, Status>>,
    {
        let mut failed: Option<Status> = None;
        // A broken connection may be an old one, to a reader that was restarted since: try again once.
        for _round in 0..2 {
            let mut broken = false;
            for daemon in self.readers.round() {
                let answer = match daemon.channel().await {
                    Ok(channel) => call(reader_on(channel), daemon.clone()).await,
                    Err(status) => Err(status),
                };
                let status = match answer {
                    Ok(answer) => {
                        daemon.answered();
                        return Ok(answer);
                    }
                    Err(status) => daemon.told(status, false),
                };
                if !another_may(&status) {
                    // After a restore no reader reaches the state that was read before. Keep the token of the last write:
                    // only the writer can tell whether that write still exists.
                    if reason(&status).as_deref() == Some(EPOCH_CHANGED) {
                        self.known().seen = None;
                    }
                    return Err(status);
                }
                daemon.set_aside();
                broken |= reason(&status).is_none();
                // The error of a reader that is behind is more useful than that of one that cannot be reached.
                let behind = reason(&status).as_deref() == Some(REPLICA_BEHIND);
                failed = if behind { Some(status) } else { failed.or(Some(status)) };
            }
            if !broken {
                break;
            }
        }
        Err(failed.unwrap_or_else(|| Status::unavailable("the client has no reader address")))
    }
}

/// Whether another reader may succeed after this error.
pub(super) fn another_may(status: &Status) -> bool {
    status.code() == Code::Unavailable
}
