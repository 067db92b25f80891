//! Attempts to load a dump: which one a run continues, and which changes of schemas it has made already.
//!
//! The writer remembers the last batch of rows of a producer for ever, and request ids for a while. So each attempt is a producer of its own,
//! and each change of a schema between two batches has a request id of the attempt. The changes between two batches are made in order, so
//! all are made before the last one whose id the writer knows.

use driftdb::v1;
use driftdb_common::error::{Reason, Result};
use uuid::Uuid;

use super::replay_stream::ReplayStream;
use crate::changes::SchemaRequest;
use crate::database::DatabaseHandle;

/// One attempt to load a dump.
#[derive(Debug, Clone)]
pub(super) struct LoadAttempt {
    dump: String,
    /// 0 for the first attempt; each `--restart` begins another.
    number: u64,
}

/// An attempt, what the writer has of it, and the stream for the rest.
pub(super) struct FoundAttempt {
    pub(super) attempt: LoadAttempt,
    pub(super) stream: ReplayStream,
    /// The last batch that an earlier run has loaded.
    pub(super) earlier: u64,
}

impl LoadAttempt {
    fn producer(&self) -> String {
        match self.number {
            0 => format!("driftctl:load:{}", self.dump),
            number => format!("driftctl:load:{}:{number}", self.dump),
        }
    }

    /// The request id of a change of a schema, by its number in the dump.
    pub(super) fn request_id(&self, change: u64) -> String {
        format!("driftctl:load:{}:{}:{change}", self.dump, self.number)
    }

    /// How many of these changes are made, by the request ids that the writer knows. 0 if it knows none.
    pub(super) async fn made_of(&self, changes: &[u64], database: &mut DatabaseHandle) -> Result<usize> {
        for (at, change) in changes.iter().enumerate().rev() {
            if is_known(self.request_id(*change), database).await? {
                return Ok(at + 1);
            }
        }
        Ok(0)
    }
}

/// Finds the attempt of a run: the newest one, or with `restart` a new one. `first` are the numbers of the changes before the first batch.
pub(super) async fn find(
    dump: &str,
    restart: bool,
    first: &[u64],
    database: &mut DatabaseHandle,
) -> Result<FoundAttempt> {
    let mut newest = None;
    for number in 0.. {
        let attempt = LoadAttempt { dump: dump.to_owned(), number };
        let (stream, earlier) = ReplayStream::open(attempt.producer(), database).await?;
        let is_begun = earlier > 0 || attempt.made_of(first, database).await? > 0;
        let found = FoundAttempt { attempt, stream, earlier };
        if !is_begun {
            return Ok(newest.filter(|_| !restart).unwrap_or(found));
        }
        newest = Some(found);
    }
    Err(super::replay_stream::ended())
}

/// Whether the writer knows a request id. Asks with a request that cannot change anything: if the id is known, it is another's.
async fn is_known(request_id: String, database: &mut DatabaseHandle) -> Result<bool> {
    let options = Some(v1::CommitOptions { request_id, ..Default::default() });
    let table = format!("none_{}", Uuid::new_v4().simple());
    match database.change_schema(SchemaRequest::Drop(v1::DropTableRequest { table, options })).await {
        Err(error) if error.reason() == Reason::RequestIdReused => Ok(true),
        Err(error) if error.reason() == Reason::TableNotFound => Ok(false),
        other => other.map(|_| false),
    }
}
