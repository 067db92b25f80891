//! Attempts to load a dump: which one a run continues, and which changes of schemas it has made already.
//!
//! The writer remembers the last batch of rows of a producer for ever, and request ids for a while. So each attempt is a producer of its own,
//! and each change of a schema between two batches has a request id of the attempt. The changes between two batches are made in order, so
//! all are made before the last one whose id the writer knows.

use driftdb::v1::find_commit_request::MadeBy;
use driftdb_common::error::Result;

use super::replay_stream::ReplayStream;
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
            let made_by = MadeBy::RequestId(self.request_id(*change));
            if database.find_commit(made_by).await?.is_some() {
                return Ok(at + 1);
            }
        }
        Ok(0)
    }

    /// The commit of the last batch of rows; 0 if there is none.
    pub(super) async fn last_seq(&self, database: &mut DatabaseHandle) -> Result<u64> {
        let last = database.find_commit(MadeBy::ProducerId(self.producer())).await?;
        Ok(last.map_or(0, |token| token.seq))
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
