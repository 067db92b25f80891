//! One layer's open files.

use std::sync::Arc;

use crate::error::{Error, Reason, Result};
use crate::format::snapshot::{RowEntry, VersionEntry, push_version, tree};
use crate::storage::sst::{SstFile, TreeCursor};
use crate::table::event_id::EventId;
use crate::table::layers::keys::version_of;
use crate::table::row_fold::RowFold;
use crate::work;

/// The open files of a delta or image layer.
#[derive(Debug, Clone)]
pub struct LayerFile {
    /// A delta layer holds the commits after this one; of an image layer it equals `seq`.
    pub base: u64,
    /// A delta layer's last commit; the commit after which an image layer holds all rows.
    pub seq: u64,
    /// The layer's file.
    pub file: Arc<SstFile>,
    /// Its indexes: path and file.
    pub indexes: Vec<(String, Arc<SstFile>)>,
}

/// A layer's base and seq, which name it among the delta layers and image layers of a table.
pub type LayerId = (u64, u64);

impl LayerFile {
    /// Which layer it is.
    pub(in crate::table) fn id(&self) -> LayerId {
        (self.base, self.seq)
    }

    /// The index on a path.
    pub fn index(&self, path: &str) -> Option<&Arc<SstFile>> {
        self.indexes.iter().find(|(name, _)| name == path).map(|(_, file)| file)
    }

    /// A row of an image layer.
    pub(super) fn image_row(&self, key: &[u8]) -> Result<Option<RowEntry>> {
        if !self.file.may_contain(tree::ROWS, key)? {
            return Ok(None);
        }
        let mut cursor = self.file.cursor(tree::ROWS);
        cursor.seek(key)?;
        match cursor.value() {
            Some(value) if cursor.key() == Some(key) => {
                RowEntry::decode(&value).map(Some).map_err(|e| at_file(e, &self.file))
            }
            _ => Ok(None),
        }
    }

    /// Adds a row's versions in a delta layer to a fold, newest first: those after one event up to and including another,
    /// until the fold is complete.
    pub(super) fn fold_versions(
        &self,
        key: &[u8],
        within: (EventId, EventId),
        fold: &mut RowFold,
    ) -> Result<()> {
        if !self.file.may_contain(tree::VERSIONS, key)? {
            return Ok(());
        }
        fold_backward(&mut self.file.cursor(tree::VERSIONS), &self.file, key, within, fold)
    }
}

/// Adds a row's versions to a fold, newest first: those after one event up to and including another, until the fold is
/// complete. `cursor` is over the file's versions.
pub(super) fn fold_backward(
    cursor: &mut TreeCursor,
    file: &SstFile,
    key: &[u8],
    (after, last): (EventId, EventId),
    fold: &mut RowFold,
) -> Result<()> {
    let mut newest = Vec::with_capacity(key.len() + 12);
    newest.extend_from_slice(key);
    push_version(&mut newest, last.seq, last.index);
    cursor.seek_last(&newest)?;
    while let (Some(at), Some(value)) = (cursor.key(), cursor.value()) {
        work::step(4)?;
        let Some(id) = version_of(at, key).filter(|id| *id > after) else { break };
        fold.push_older(id.seq, VersionEntry::decode(&value).map_err(|e| at_file(e, file))?);
        if fold.is_complete() {
            break;
        }
        cursor.prev()?;
    }
    Ok(())
}

/// Adds the file's path to an error about one of its entries.
pub(in crate::table) fn at_file(error: Error, file: &SstFile) -> Error {
    match error.reason() {
        Reason::Corrupt => Error::corrupt(file.path().display(), 0, error.message()),
        _ => error,
    }
}
