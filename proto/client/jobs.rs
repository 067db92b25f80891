//! Maintenance calls: long jobs of the writer that report progress. A job continues at the writer if the connection
//! breaks, and the call waits for it again.

use tonic::{Status, Streaming};

use super::api::WriterApi;
use super::handle::Client;
use super::time_limit::TimeLimit;
use crate::v1;
use v1::verify_response::{Problem, Summary};

impl Client {
    /// Writes a snapshot of a table.
    pub async fn snapshot(
        &self,
        table: &str,
        progress: impl Fn(v1::Progress),
    ) -> Result<v1::SnapshotInfo, Status> {
        use v1::snapshot_response::Event;
        let progress = &progress;
        let call = |mut writer: WriterApi| async move {
            let request = v1::SnapshotRequest { table: table.to_owned() };
            let messages = writer.snapshot(request).await?.into_inner();
            let result = |message: v1::SnapshotResponse| match message.event? {
                Event::Progress(made) => {
                    progress(made);
                    None
                }
                Event::Snapshot(info) => Some(info),
            };
            result_of(messages, result).await
        };
        self.write(TimeLimit::none(), false, call).await
    }

    /// Raises the floor of a table, or with `dry_run` only computes the effect.
    pub async fn compact(
        &self,
        request: v1::CompactRequest,
        progress: impl Fn(v1::Progress),
    ) -> Result<v1::CompactInfo, Status> {
        use v1::compact_response::Event;
        let (request, progress) = (&request, &progress);
        let call = |mut writer: WriterApi| async move {
            let messages = writer.compact(request.clone()).await?.into_inner();
            let result = |message: v1::CompactResponse| match message.event? {
                Event::Progress(made) => {
                    progress(made);
                    None
                }
                Event::Compaction(info) => Some(info),
            };
            result_of(messages, result).await
        };
        self.write(TimeLimit::none(), false, call).await
    }

    /// Checks all files, or those of one table, and reports problems as they are found.
    pub async fn verify(
        &self,
        request: v1::VerifyRequest,
        progress: impl Fn(v1::Progress),
        problem: impl Fn(Problem),
    ) -> Result<Summary, Status> {
        use v1::verify_response::Event;
        let (request, progress, problem) = (&request, &progress, &problem);
        let call = |mut writer: WriterApi| async move {
            let messages = writer.verify(request.clone()).await?.into_inner();
            let result = |message: v1::VerifyResponse| {
                match message.event? {
                    Event::Progress(made) => progress(made),
                    Event::Problem(found) => problem(found),
                    Event::Summary(summary) => return Some(summary),
                }
                None
            };
            result_of(messages, result).await
        };
        self.write(TimeLimit::none(), false, call).await
    }

    /// Ships to a bucket, once, what it lacks of the database. The writer's machine must reach the bucket.
    pub async fn backup(
        &self,
        request: v1::BackupRequest,
        progress: impl Fn(v1::Progress),
    ) -> Result<v1::BackupInfo, Status> {
        use v1::backup_response::Event;
        let (request, progress) = (&request, &progress);
        let call = |mut writer: WriterApi| async move {
            let messages = writer.backup(request.clone()).await?.into_inner();
            let result = |message: v1::BackupResponse| match message.event? {
                Event::Progress(made) => {
                    progress(made);
                    None
                }
                Event::Backup(info) => Some(info),
            };
            result_of(messages, result).await
        };
        self.write(TimeLimit::none(), false, call).await
    }

    /// Accepts the time of the writer's clock after a jump.
    pub async fn confirm_clock(
        &self,
        request: v1::ConfirmClockRequest,
    ) -> Result<v1::ConfirmClockResponse, Status> {
        let limit = self.limit();
        let call = |mut writer: WriterApi| async move {
            writer.confirm_clock(limit.request(request)).await.map(tonic::Response::into_inner)
        };
        self.write(limit, true, call).await
    }
}

/// Receives the messages of a job up to its end, and returns its result.
async fn result_of<M, T>(
    mut messages: Streaming<M>,
    mut result: impl FnMut(M) -> Option<T>,
) -> Result<T, Status> {
    let mut found = None;
    while let Some(message) = messages.message().await? {
        found = result(message).or(found);
    }
    found.ok_or_else(|| Status::internal("the writer ended a job without a result"))
}
