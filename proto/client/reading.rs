//! Reads: at least as fresh as this client's writes and, over several readers, as what it has read; at the next reader
//! where one is away or behind.

use std::collections::VecDeque;
use std::sync::Arc;

use tonic::{Code, Response, Status, Streaming};

use super::pool::Daemon;
use super::{Answers, Client, Reader, Rows, reader_on, reason};
use crate::v1;

/// Keys in one Get.
const KEYS_PER_GET: usize = 1000;
/// The reason of a reader that has not caught up in time.
const REPLICA_BEHIND: &str = "REPLICA_BEHIND";
/// The reason of a reader whose history is another than the one asked about.
const EPOCH_CHANGED: &str = "EPOCH_CHANGED";

impl Client {
    /// A row by its key, now.
    pub async fn get(&self, table: &str, key: &str) -> Result<Option<v1::Row>, Status> {
        let request =
            v1::GetRequest { table: table.to_owned(), keys: vec![key.to_owned()], ..Default::default() };
        Ok(self.get_rows(request).await?.rows.pop())
    }

    /// Any number of rows by their keys, all of one moment. A key without a row is left out.
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
            // What is left is read at the moment that the first answer was of.
            let header = whole.header.clone().unwrap_or_default();
            request.as_of = Some(v1::AsOf::seq(header.read_seq));
            self.reach(&mut request.freshness, &header);
        }
        Ok(whole.unwrap_or_default())
    }

    /// The rows that meet a condition, in the order of keys, as they come.
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

    /// What happened to a row or to a table.
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

    /// The net change between two moments.
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

    /// One statement of DriftQL that reads.
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

    /// How fresh a read must be: as it says itself, or so that it sees what this client has written and what it has read.
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

    /// Remembers a moment that was read, for another reader must not go back behind it. One reader never does.
    fn saw(&self, header: Option<&v1::ReadHeader>) {
        let Some(header) = header.filter(|_| self.readers.all().len() > 1) else { return };
        let mut known = self.known();
        if known.seen.is_none_or(|(epoch, seq)| epoch != header.epoch || seq < header.read_seq) {
            known.seen = Some((header.epoch, header.read_seq));
        }
    }

    /// Makes what follows an answer wait, at another reader, until the answer's moment can be read there.
    pub(super) fn reach(&self, freshness: &mut Option<v1::Freshness>, header: &v1::ReadHeader) {
        if self.readers.all().len() > 1 {
            let freshness = freshness.get_or_insert_default();
            freshness.min_seq = freshness.min_seq.max(header.read_seq);
            freshness.epoch = header.epoch;
        }
    }

    /// Asks the readers in turn, beginning with another each time, until one answers that is reachable and has caught up.
    /// The call may be made several times.
    pub async fn read<T, F>(&self, call: impl Fn(Reader) -> F) -> Result<T, Status>
    where
        F: Future<Output = Result<T, Status>>,
    {
        self.read_from(|reader, _| call(reader)).await
    }

    /// The same for an answer of many messages. Where a reader fails before its first message, the next is asked.
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
        // A connection that broke may have been an old one, to a reader that has been started anew since.
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
                    // After a restore nothing would be as fresh as what was read before it. What was written stands: that
                    // it is gone is for its writer to know.
                    if reason(&status).as_deref() == Some(EPOCH_CHANGED) {
                        self.known().seen = None;
                    }
                    return Err(status);
                }
                daemon.set_aside();
                broken |= reason(&status).is_none();
                // A reader that is behind says more than one that is away.
                let behind = reason(&status).as_deref() == Some(REPLICA_BEHIND);
                failed = if behind { Some(status) } else { failed.or(Some(status)) };
            }
            if !broken {
                break;
            }
        }
        Err(failed.unwrap_or_else(|| Status::unavailable("no reader is named")))
    }
}

/// Whether another reader may answer where one has failed like this.
pub(super) fn another_may(status: &Status) -> bool {
    status.code() == Code::Unavailable
}
