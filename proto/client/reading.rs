//! Reads. They include this client's writes and, with several readers, what it has read before. If a reader is
//! unreachable or behind, the next one is asked.

use std::collections::VecDeque;
use std::sync::Arc;

use tonic::{Code, Response, Status, Streaming};

use super::api::ReaderApi;
use super::handle::{Client, SeenState};
use super::messages::MessageStream;
use super::planted::is_planted;
use super::pool::Backend;
use super::reasons::{EPOCH_CHANGED, REPLICA_BEHIND, UNREACHABLE, is_retryable_read, reason, with_reason};
use super::time_limit::TimeLimit;
use crate::v1;

/// The maximum number of keys in one Get.
const KEYS_PER_GET: usize = 1000;
impl Client {
    /// Reads a row by its key, now.
    pub async fn get(&self, table: &str, key: &str) -> Result<Option<v1::Row>, Status> {
        let request =
            v1::GetRequest { table: table.to_owned(), keys: vec![key.to_owned()], ..Default::default() };
        Ok(self.get_rows(request).await?.rows.pop())
    }

    /// Reads any number of rows by key, all at the same point in time. Missing rows are omitted.
    pub async fn get_rows(&self, mut request: v1::GetRequest) -> Result<v1::GetResponse, Status> {
        let limit = self.limit();
        request.freshness = self.freshness(request.freshness);
        let mut keys = VecDeque::from(std::mem::take(&mut request.keys));
        let mut whole: Option<v1::GetResponse> = None;
        while whole.is_none() || !keys.is_empty() {
            request.keys = keys.drain(..keys.len().min(KEYS_PER_GET)).collect();
            let call = |mut reader: ReaderApi| {
                let request = limit.request(request.clone());
                async move { reader.get(request).await }
            };
            let mut answer = self.read_from(limit, |reader, _| call(reader)).await?.into_inner();
            self.register_read(answer.header.as_ref());
            std::mem::take(&mut answer.remaining).into_iter().rev().for_each(|key| keys.push_front(key));
            let rows = std::mem::take(&mut answer.rows);
            let whole = whole.get_or_insert(answer);
            whole.rows.extend(rows);
            // Read the remaining keys at the point in time of the first response.
            let header = whole.header.clone().unwrap_or_default();
            request.as_of = Some(v1::AsOf::seq(header.read_seq));
            self.require_at_least(&mut request.freshness, &header);
        }
        Ok(whole.unwrap_or_default())
    }

    /// Reads the history of a row or a table.
    pub async fn history(
        &self,
        mut request: v1::HistoryRequest,
    ) -> Result<MessageStream<v1::HistoryResponse>, Status> {
        self.choose_zone(&mut request.time_zone);
        request.freshness = self.freshness(request.freshness);
        let call = |mut reader: ReaderApi| {
            let request = request.clone();
            async move { reader.history(request).await }
        };
        self.read_messages(call, |response| response.header.as_ref()).await
    }

    /// Computes the net difference between two points in time.
    pub async fn diff(
        &self,
        mut request: v1::DiffRequest,
    ) -> Result<MessageStream<v1::DiffResponse>, Status> {
        request.freshness = self.freshness(request.freshness);
        let call = |mut reader: ReaderApi| {
            let request = request.clone();
            async move { reader.diff(request).await }
        };
        self.read_messages(call, |response| response.header.as_ref()).await
    }

    /// Runs one DriftQL statement that reads.
    pub async fn query(
        &self,
        mut request: v1::ReaderServiceExecuteRequest,
    ) -> Result<MessageStream<v1::ReaderServiceExecuteResponse>, Status> {
        self.choose_zone(&mut request.time_zone);
        request.freshness = self.freshness(request.freshness);
        let call = |mut reader: ReaderApi| {
            let request = request.clone();
            async move { reader.execute(request).await }
        };
        self.read_messages(call, |response| response.header.as_ref()).await
    }

    /// Like [`Client::read_stream`]; also registers the state that the first message was read at.
    pub(super) async fn read_messages<M, F>(
        &self,
        call: impl Fn(ReaderApi) -> F,
        header: impl Fn(&M) -> Option<&v1::ReadHeader>,
    ) -> Result<MessageStream<M>, Status>
    where
        M: Send + 'static,
        F: Future<Output = Result<Response<Streaming<M>>, Status>>,
    {
        let messages = self.read_stream(call).await?;
        self.register_read(messages.peek().and_then(header));
        Ok(messages)
    }

    /// How fresh a read must be: as requested, or fresh enough to include this client's writes and reads.
    pub(super) fn freshness(&self, given: Option<v1::Freshness>) -> Option<v1::Freshness> {
        if given.is_some() || self.options.stale || is_planted("client-forgets-its-writes") {
            return given;
        }
        let known = self.known();
        let written = known.written.map(|v1::WriteToken { epoch, incarnation, seq, .. }| SeenState {
            epoch,
            incarnation,
            seq,
        });
        let SeenState { epoch, incarnation, seq } = match (written, known.seen) {
            (Some(written), Some(seen)) if seen.epoch == written.epoch && seen.seq > written.seq => seen,
            (Some(written), _) => written,
            (None, seen) => seen?,
        };
        Some(v1::Freshness { min_seq: seq, epoch, incarnation, ..Default::default() })
    }

    /// The time zone of a request that names none.
    pub(super) fn choose_zone(&self, zone: &mut String) {
        if zone.is_empty() {
            zone.clone_from(&self.options.time_zone);
        }
    }

    /// Registers a state that was read, so that no other reader returns an older one. A single reader never goes back.
    pub(super) fn register_read(&self, header: Option<&v1::ReadHeader>) {
        let Some(header) = header.filter(|_| self.readers.all().len() > 1) else { return };
        let mut known = self.known();
        if known.seen.is_none_or(|seen| seen.epoch != header.epoch || seen.seq < header.read_seq) {
            let v1::ReadHeader { epoch, incarnation, read_seq: seq, .. } = *header;
            known.seen = Some(SeenState { epoch, incarnation, seq });
        }
    }

    /// Makes later calls at another reader wait for the point in time of this response.
    pub(super) fn require_at_least(&self, freshness: &mut Option<v1::Freshness>, header: &v1::ReadHeader) {
        if self.readers.all().len() > 1 {
            let freshness = freshness.get_or_insert_default();
            if freshness.min_seq <= header.read_seq {
                (freshness.min_seq, freshness.incarnation) = (header.read_seq, header.incarnation);
            }
            freshness.epoch = header.epoch;
        }
    }

    /// Tries the readers in turn until one responds that is reachable and has caught up. `call` can run several times.
    pub async fn read<T, F>(&self, call: impl Fn(ReaderApi) -> F) -> Result<T, Status>
    where
        F: Future<Output = Result<T, Status>>,
    {
        self.read_from(self.limit(), |reader, _| call(reader)).await
    }

    /// Like [`Client::read`], for a response of many messages. If a reader fails before its first message, the next is
    /// tried.
    pub async fn read_stream<M, F>(&self, call: impl Fn(ReaderApi) -> F) -> Result<MessageStream<M>, Status>
    where
        M: Send + 'static,
        F: Future<Output = Result<Response<Streaming<M>>, Status>>,
    {
        let limit = self.limit();
        let begin = |reader, backend| {
            let answer = call(reader);
            async move { MessageStream::begin(answer.await?.into_inner(), backend, limit).await }
        };
        self.read_from(limit, begin).await
    }

    async fn read_from<T, F>(
        &self,
        limit: TimeLimit,
        call: impl Fn(ReaderApi, Arc<Backend>) -> F,
    ) -> Result<T, Status>
    where
        F: Future<Output = Result<T, Status>>,
    {
        let mut failed: Option<Status> = None;
        // A broken connection may be an old one, to a reader that was restarted since: try again once.
        for _round in 0..2 {
            let mut broken = false;
            // What a connection of the second round says counts more than that one of the first broke.
            failed = failed.filter(|status| reason(status).as_deref() == Some(REPLICA_BEHIND));
            for backend in self.readers.round() {
                let answer = async { call(backend.reader().await?, backend.clone()).await };
                let status = match limit.first(answer).await {
                    Ok(answer) => {
                        backend.set_healthy();
                        return Ok(answer);
                    }
                    Err(status) => backend.map_status(status, false),
                };
                if limit.is_over() {
                    backend.set_aside();
                    return Err(status);
                }
                if !is_retryable_read(&status) {
                    // After a restore no reader reaches the state that was read before. Keep the token of the last
                    // write, unless its incarnation proves that it is lost: else only the writer can tell whether that
                    // write still exists.
                    if reason(&status).as_deref() == Some(EPOCH_CHANGED) {
                        let mut known = self.known();
                        known.seen = None;
                        known.written.take_if(|written| written.incarnation != 0);
                    }
                    return Err(status);
                }
                backend.set_aside();
                broken |= reason(&status).is_none();
                // The error of a reader that is behind is more useful than that of one that cannot be reached.
                let behind = reason(&status).as_deref() == Some(REPLICA_BEHIND);
                failed = if behind { Some(status) } else { failed.or(Some(status)) };
            }
            if !broken {
                break;
            }
        }
        // A connection that broke in both rounds is to a reader that does not answer either.
        Err(match failed {
            Some(status) if reason(&status).is_some() => status,
            Some(status) => with_reason(Code::Unavailable, UNREACHABLE, status.message().to_owned()),
            None => Status::unavailable("the client has no reader address"),
        })
    }
}
