//! Access to the log for requests and jobs: the committer runs their work between two groups.

use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::Duration;

use driftdb_common::error::{Error, Reason, Result};
use driftdb_common::format::manifest::Manifest;
use driftdb_common::storage::wal::appender::{AppendError, Log};
use driftdb_common::table::layers::LayerMap;
use driftdb_common::table::log_tail::ReadLimit;

use crate::commit::state::CommitShared;
use crate::errors::unknown_table_id;

/// How often [`LogAccess::manifest_and_layers`] tries again while a table's files are replaced, and the pause
/// between.
const MANIFEST_TRIES: u32 = 100;
const MANIFEST_PAUSE: Duration = Duration::from_millis(1);

/// Runs work on the log. Every method blocks until the committer has done it.
#[derive(Debug, Clone)]
pub(crate) struct LogAccess(Arc<CommitShared>);

impl LogAccess {
    pub(super) fn new(shared: &Arc<CommitShared>) -> LogAccess {
        LogAccess(Arc::clone(shared))
    }

    /// Runs `work` on the committer between two groups and returns its result. A fatal error stops the writer
    /// (I5).
    pub(crate) fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Log) -> Result<T, AppendError> + Send + 'static,
    ) -> Result<T> {
        let (reply, outcome) = channel();
        // The replies cannot fail: this function waits for one.
        let task = move |log: &mut Log| match work(log) {
            Ok(done) => {
                let _ = reply.send(Ok(done));
                Ok(())
            }
            Err(AppendError::Refused(error)) => {
                let _ = reply.send(Err(error));
                Ok(())
            }
            Err(AppendError::Fatal(error)) => {
                let _ = reply.send(Err(error.clone()));
                Err(AppendError::Fatal(error))
            }
        };
        {
            let mut state = self.0.state.lock();
            state.check_accepting()?;
            state.log_tasks.push(Box::new(task));
        }
        self.0.work_ready.notify_one();
        let stopped = |_| Error::new(Reason::WriterStopped, "the writer has stopped; see its log");
        outcome.recv().map_err(stopped)?
    }

    /// The last published commit: its seq and its time in milliseconds since 1970.
    pub(crate) fn published(&self) -> Result<(u64, u64)> {
        self.run(|log| Ok(log.published()))
    }

    /// A table's manifest, and the limit up to which its log may be read: the last published commit.
    pub(crate) fn manifest(&self, id: u64) -> Result<(Manifest, ReadLimit)> {
        self.run(move |log| {
            let (seq, _) = log.published();
            match (log.manifest(id), log.table_entry(id)) {
                (Some(manifest), Some(entry)) => {
                    let limit = ReadLimit { segment: entry.segment, bytes: entry.bytes, seq };
                    Ok((manifest.clone(), limit))
                }
                _ => Err(AppendError::Refused(unknown_table_id(id))),
            }
        })
    }

    /// A table's manifest and read limit as [`LogAccess::manifest`] returns them, with the files that the
    /// manifest names.
    pub(crate) fn manifest_and_layers(&self, id: u64) -> Result<(Manifest, ReadLimit, Arc<LayerMap>)> {
        // A snapshot job can replace the files between the two reads.
        for _ in 0..MANIFEST_TRIES {
            let (manifest, limit) = self.manifest(id)?;
            let layers = self.0.state.lock().layers(id);
            let layers = layers.ok_or_else(|| unknown_table_id(id))?;
            if layers.end() == manifest.deltas.last().map_or(0, |era| era.seq) {
                return Ok((manifest, limit, layers));
            }
            std::thread::sleep(MANIFEST_PAUSE);
        }
        let message = format!("cannot open the newest snapshot of table id {id}; see the writer's log");
        Err(Error::new(Reason::Internal, message))
    }
}
