//! A writer that is killed under load, whose directory is not used any more, and the next one that takes over from the bucket.

use std::ffi::OsString;
use std::sync::Arc;
use std::time::Duration;

use driftdb_common::error::{Error, Reason, Result};
use parking_lot::Mutex;
use tempfile::TempDir;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::super::load::channels;
use super::super::writes::RowWrites;
use super::bucket_progress::last_seq;
use crate::processes::DaemonProcess;

/// A writer with a bucket.
pub(super) struct LosableWriter {
    process: DaemonProcess,
    /// The options of each writer.
    options: Vec<OsString>,
    /// Of a writer that took over: its directory.
    dir: Option<TempDir>,
}

/// What a loss cost.
pub(super) struct MachineLoss {
    /// From the kill to the first acknowledged write at the next writer.
    pub(super) took: Duration,
    /// The number of acknowledged writes that the next writer does not have.
    pub(super) writes: usize,
    /// How long before the kill the first of them was acknowledged.
    pub(super) time: Duration,
}

impl LosableWriter {
    /// Begins with a writer that runs.
    pub(super) fn new(process: DaemonProcess, options: Vec<OsString>) -> LosableWriter {
        LosableWriter { process, options, dir: None }
    }

    /// Writes for some time with some clients, kills the writer, and starts another one with an empty directory.
    pub(super) async fn lose(
        &mut self,
        work: &RowWrites,
        (clients, time): (usize, Duration),
        dir: TempDir,
    ) -> Result<MachineLoss> {
        let acked: Arc<Mutex<Vec<(u64, Instant)>>> = Arc::default();
        let mut running = JoinSet::new();
        for mut client in work.clients(&channels(&self.process.address()).await?, clients) {
            let acked = Arc::clone(&acked);
            running.spawn(async move {
                loop {
                    match client.write().await {
                        Ok(seq) => acked.lock().push((seq, Instant::now())),
                        Err(error) => return error,
                    }
                }
            });
        }
        tokio::select! {
            () = tokio::time::sleep(time) => {}
            Some(ended) = running.join_next() => return Err(match ended {
                Ok(error) => error,
                Err(error) => Error::new(Reason::Internal, format!("a client failed: {error}")),
            }),
        }
        self.process.kill().await?;
        let killed = Instant::now();
        while running.join_next().await.is_some() {}
        self.process =
            DaemonProcess::start_with("driftdb-writer", &dir.path().join("data"), &self.options).await?;
        let address = self.process.address();
        let found = last_seq(&address).await?;
        for mut client in work.clients(&[address.connect().await?], 1) {
            client.write().await?;
        }
        let took = killed.elapsed();
        // The directory of the lost machine goes with it.
        self.dir = Some(dir);
        let acked = acked.lock();
        let lost = || acked.iter().filter(|(seq, _)| *seq > found);
        let first = lost().map(|(_, at)| *at).min();
        let time = first.map_or(Duration::ZERO, |at| killed.saturating_duration_since(at));
        Ok(MachineLoss { took, writes: lost().count(), time })
    }

    /// Stops the writer.
    pub(super) async fn stop(mut self) -> Result<()> {
        self.process.stop().await
    }
}
