//! Lookups of one row in the layers: the row at a point in time, and its versions.

use crate::error::{Error, Reason, Result};
use crate::format::document::Document;
use crate::format::key::Key;
use crate::format::snapshot::{VersionEntry, push_version, tree};
use crate::limits;
use crate::table::event_id::EventId;
use crate::table::layers::LayerMap;
use crate::table::layers::file::{LayerFile, at_file};
use crate::table::layers::keys::{sort_key, version_of};
use crate::table::row_fold::{RowFold, RowVersion};
use crate::work;

impl LayerMap {
    /// The row as its last event up to `last` left it. `None` if the layers hold no event of the row. A deleted row
    /// may be returned without a document or not at all: an image layer does not hold it.
    pub fn row(&self, key: &Key, last: EventId) -> Result<Option<RowVersion>> {
        self.look_up(&sort_key(key), last, false)
    }

    /// The row at the end of the layers, as [`LayerMap::row`] returns it, but a deleted row is always returned unless it
    /// was deleted below the floor.
    pub fn last_change(&self, key: &Key) -> Result<Option<RowVersion>> {
        self.look_up(&sort_key(key), EventId::end_of(self.end()), true)
    }

    /// Whether a row that was read from older layers of the table, which end at commit `end`, may have changed since. It is
    /// answered from the layers after that commit alone; if they do not reach back to it, the answer is yes.
    pub fn may_have_changed_since(&self, key: &Key, end: u64) -> Result<bool> {
        let newer =
            self.deltas.get(self.deltas.partition_point(|delta| delta.seq <= end)..).unwrap_or_default();
        if newer.first().is_some_and(|delta| delta.base > end) || self.end() < end {
            return Ok(true);
        }
        let (key, within) = (sort_key(key), (EventId::end_of(end), EventId::end_of(self.end())));
        for delta in newer.iter().rev() {
            work::step(16)?;
            let mut fold = RowFold::default();
            delta.fold_versions(&key, within, &mut fold)?;
            if fold.newest().is_some() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Whether the row is live at the end of the layers and was last changed at or after commit `created_at`.
    pub fn is_live(&self, key: &Key, created_at: u64) -> Result<bool> {
        let row = self.row(key, EventId::end_of(self.end()))?;
        Ok(row.is_some_and(|row| row.document.is_some() && row.seq >= created_at))
    }

    /// A row's content before a commit, by its sort key.
    pub fn document_before(&self, key: &[u8], seq: u64) -> Result<Option<Document>> {
        let row = self.look_up(key, EventId::end_of(seq.saturating_sub(1)), false)?;
        Ok(row.and_then(|row| row.document))
    }

    fn look_up(&self, key: &[u8], last: EventId, with_deleted: bool) -> Result<Option<RowVersion>> {
        let mut fold = RowFold::default();
        let covered = self.covered(last);
        for delta in self.deltas_at(last) {
            work::step(16)?;
            delta.fold_versions(key, (covered, last), &mut fold)?;
            if fold.is_complete() {
                return fold.finish();
            }
        }
        if let Some(image) = self.image_at(last) {
            match image.image_row(key)? {
                Some(row) => fold.push_image(row),
                None if with_deleted && fold.newest().is_none() => {
                    return self.deletion_before(key, image.seq);
                }
                None => {}
            }
        }
        fold.finish()
    }

    /// The last change at or before a commit of a row that is not live then. Its content before that change does not
    /// matter: an event deleted the row, or the row went with its table.
    fn deletion_before(&self, key: &[u8], seq: u64) -> Result<Option<RowVersion>> {
        let within = (EventId::default(), EventId::end_of(seq));
        for delta in self.deltas.iter().rev().filter(|delta| delta.base < seq) {
            let mut fold = RowFold::default();
            delta.fold_versions(key, within, &mut fold)?;
            if let Some((seq, time_ms)) = fold.newest() {
                return Ok(Some(RowVersion { seq, time_ms, document: None }));
            }
        }
        Ok(None)
    }

    /// The version of a row that an event made. Fails with CORRUPT if the layers do not hold it.
    pub fn version(&self, key: &[u8], id: EventId) -> Result<VersionEntry> {
        let missing =
            || Error::new(Reason::Corrupt, "a commit names a version that its delta layer does not hold");
        let delta = self.delta_of(id.seq).ok_or_else(missing)?;
        let mut wanted = key.to_vec();
        push_version(&mut wanted, id.seq, id.index);
        let mut cursor = delta.file.cursor(tree::VERSIONS);
        cursor.seek(&wanted)?;
        match cursor.value() {
            Some(value) if cursor.key() == Some(&wanted) => {
                VersionEntry::decode(&value).map_err(|e| at_file(e, &delta.file))
            }
            _ => Err(at_file(missing(), &delta.file)),
        }
    }

    /// At most `limit` versions of a row after the event `after`, up to and including the event `last`: the oldest
    /// first, or the newest first. Fewer if they are large, but none only if there is none.
    pub fn versions(
        &self,
        key: &Key,
        (after, last): (EventId, EventId),
        limit: usize,
        newest_first: bool,
    ) -> Result<Vec<(EventId, VersionEntry)>> {
        let key = sort_key(key);
        let (mut found, mut bytes, mut sought) = (Vec::new(), 0, key.clone());
        let within = |delta: &&LayerFile| delta.seq > after.seq.saturating_sub(1) && delta.base < last.seq;
        let mut deltas: Vec<&LayerFile> = self.deltas.iter().filter(within).collect();
        if newest_first {
            deltas.reverse();
        }
        for delta in deltas {
            if found.len() >= limit
                || bytes >= limits::MESSAGE_BYTES
                || !delta.file.may_contain(tree::VERSIONS, &key)?
            {
                continue;
            }
            let mut cursor = delta.file.cursor(tree::VERSIONS);
            let end = if newest_first { last } else { after };
            sought.truncate(key.len());
            push_version(&mut sought, end.seq, end.index);
            if newest_first {
                cursor.seek_last(&sought)?
            } else {
                cursor.seek_after(&sought)?
            }
            while let (Some(at), Some(value)) = (cursor.key(), cursor.value()) {
                let Some(id) = version_of(at, &key) else { break };
                if id <= after || id > last || found.len() >= limit || bytes >= limits::MESSAGE_BYTES {
                    break;
                }
                work::step(4)?;
                bytes += value.len();
                let version = VersionEntry::decode(&value).map_err(|e| at_file(e, &delta.file))?;
                found.push((id, version));
                if newest_first { cursor.prev()? } else { cursor.next()? }
            }
        }
        Ok(found)
    }
}
