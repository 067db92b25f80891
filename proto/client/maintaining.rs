//! Maintenance calls: long jobs of the writer that report progress. They continue on the writer if the connection breaks.

use tonic::Status;

use super::{Client, Writer};
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
        let call = |mut writer: Writer| {
            let request = v1::SnapshotRequest { table: table.to_owned() };
            async move {
                let mut answers = writer.snapshot(request).await?.into_inner();
                let mut done = None;
                while let Some(answer) = answers.message().await? {
                    match answer.event {
                        Some(Event::Progress(made)) => progress(made),
                        Some(Event::Snapshot(info)) => done = Some(info),
                        None => {}
                    }
                }
                done.ok_or_else(no_result)
            }
        };
        self.write(false, call).await
    }

    /// Raises the floor of a table, or with `dry_run` only computes the effect.
    pub async fn compact(
        &self,
        request: v1::CompactRequest,
        progress: impl Fn(v1::Progress),
    ) -> Result<v1::CompactInfo, Status> {
        use v1::compact_response::Event;
        let progress = &progress;
        let call = |mut writer: Writer| {
            let request = request.clone();
            async move {
                let mut answers = writer.compact(request).await?.into_inner();
                let mut done = None;
                while let Some(answer) = answers.message().await? {
                    match answer.event {
                        Some(Event::Progress(made)) => progress(made),
                        Some(Event::Compaction(info)) => done = Some(info),
                        None => {}
                    }
                }
                done.ok_or_else(no_result)
            }
        };
        self.write(false, call).await
    }

    /// Checks all files, or those of one table, and reports problems as they are found.
    pub async fn verify(
        &self,
        request: v1::VerifyRequest,
        progress: impl Fn(v1::Progress),
        problem: impl Fn(Problem),
    ) -> Result<Summary, Status> {
        use v1::verify_response::Event;
        let (progress, problem) = (&progress, &problem);
        let call = |mut writer: Writer| {
            let request = request.clone();
            async move {
                let mut answers = writer.verify(request).await?.into_inner();
                let mut done = None;
                while let Some(answer) = answers.message().await? {
                    match answer.event {
                        Some(Event::Progress(made)) => progress(made),
                        Some(Event::Problem(found)) => problem(found),
                        Some(Event::Summary(summary)) => done = Some(summary),
                        None => {}
                    }
                }
                done.ok_or_else(no_result)
            }
        };
        self.write(false, call).await
    }
}

fn no_result() -> Status {
    Status::internal("the writer ended a job without a result")
}
