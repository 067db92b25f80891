//! The keys that the writer made for a request: of this attempt, or of an earlier one, whose commit is in the history of its tables.

use std::collections::BTreeSet;

use driftdb::v1;
use driftdb_common::error::{Reason, Result};

use crate::admission::CommitReceipt;
use crate::admission::made_keys::MadeKey;
use crate::rpc::table_reader::TableReader;
use crate::tasks::{TaskPool, TaskStop};

/// Finds the keys that an earlier attempt of a request made.
#[derive(Debug, Clone)]
pub(crate) struct MadeKeyReader {
    reader: TableReader,
    tasks: TaskPool,
}

impl MadeKeyReader {
    /// Reads tables with `reader`, on `tasks`.
    pub(crate) fn new(reader: TableReader, tasks: &TaskPool) -> MadeKeyReader {
        MadeKeyReader { reader, tasks: tasks.clone() }
    }

    /// The keys of a request whose attempt made the keys `made`, if it became the commit of `receipt`: those of the attempt that made
    /// the commit. Leaves out keys that the history does not have any more.
    pub(crate) async fn of_request(
        &self,
        receipt: CommitReceipt,
        made: Vec<MadeKey>,
    ) -> Result<Vec<MadeKey>> {
        if !receipt.replayed || made.is_empty() {
            return Ok(made);
        }
        let (this, seq) = (self.clone(), receipt.token.seq);
        self.tasks.run_long(move |stop| this.of_commit(seq, made, stop)).await
    }

    /// The keys of a commit at the places of `made`. Blocks.
    fn of_commit(&self, seq: u64, made: Vec<MadeKey>, stop: &TaskStop) -> Result<Vec<MadeKey>> {
        let tables: BTreeSet<String> = made.iter().map(|made| made.table.clone()).collect();
        let mut found = made;
        for table in tables {
            let keys = match self.reader.open(&table, stop).and_then(|table| table.keys_of_commit(seq, stop))
            {
                Ok(keys) => keys,
                Err(error) if matches!(error.reason(), Reason::BelowFloor | Reason::TableNotFound) => {
                    Vec::new()
                }
                Err(error) => return Err(error),
            };
            found.retain_mut(|made| {
                if made.table != table {
                    return true;
                }
                let key = keys.get(made.in_table).cloned().flatten();
                key.is_some_and(|key| {
                    made.key = key;
                    true
                })
            });
        }
        Ok(found)
    }
}

/// A key that the writer made, of a batch, or with batch 0 of a commit.
pub(super) fn made_key_to_wire(made: MadeKey, batch_id: u64) -> v1::MadeKey {
    v1::MadeKey { batch_id, index: made.index, key: made.key.to_string() }
}
