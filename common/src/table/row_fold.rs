//! Folds an image of a row and the patches after it into the row.
//!
//! A row's versions come in two orders. A lookup walks from the newest version back and stops at the first one that does not
//! depend on older ones: an INSERT, a SOFT_DELETE, or a PATCH that was stored with the row after it. A scan, a build and a
//! comparison walk forward. [`RowFold`] serves both: it keeps the newest known base and the patches after it, and merges
//! only when someone asks for the row. A scan therefore never merges a patch that a later INSERT makes irrelevant.

use std::collections::VecDeque;

use crate::error::Result;
use crate::format::document::Document;
use crate::format::event::EventType;
use crate::format::snapshot::{RowEntry, VersionEntry};
use crate::table::state;
use crate::work;

/// A row as one of its events left it.
#[derive(Debug, Clone, PartialEq)]
pub struct RowVersion {
    /// The event's commit.
    pub seq: u64,
    /// That commit's time in milliseconds since 1970.
    pub time_ms: u64,
    /// The row's content; `None` if the event deleted the row.
    pub document: Option<Document>,
}

/// One row, folded from some of its versions.
#[derive(Debug, Default)]
pub(super) struct RowFold {
    /// Commit and time of the newest version.
    newest: Option<(u64, u64)>,
    /// The row before the patches; `None` while it is not known.
    base: Option<Option<Document>>,
    /// The patches on top of the base, oldest first.
    patches: VecDeque<Document>,
}

impl RowFold {
    /// A fold over a row, to which newer versions are applied.
    pub(super) fn over(row: Option<Document>) -> RowFold {
        RowFold { base: Some(row), ..RowFold::default() }
    }

    /// Whether versions older than those seen cannot change the row.
    pub(super) fn is_complete(&self) -> bool {
        self.base.is_some()
    }

    /// The bytes of the documents that it holds.
    pub(super) fn bytes(&self) -> usize {
        let documents = self.base.iter().flatten().chain(&self.patches);
        documents.map(|document| document.msgpack().len()).sum()
    }

    /// Commit and time of the newest version seen.
    pub(super) fn newest(&self) -> Option<(u64, u64)> {
        self.newest
    }

    /// Adds the version before the oldest one seen. The fold must not be complete yet.
    pub(super) fn push_older(&mut self, seq: u64, version: VersionEntry) {
        self.newest.get_or_insert((seq, version.time_ms));
        match into_base(version) {
            Ok(base) => self.base = Some(base),
            Err(patch) => self.patches.push_front(patch),
        }
    }

    /// Adds the row of an image layer, which lies under all versions seen.
    pub(super) fn push_image(&mut self, row: RowEntry) {
        self.newest.get_or_insert((row.seq, row.time_ms));
        self.base = Some(Some(row.document));
    }

    /// Adds the version after the newest one seen.
    pub(super) fn push_newer(&mut self, seq: u64, version: VersionEntry) {
        self.newest = Some((seq, version.time_ms));
        match into_base(version) {
            Ok(base) => self.rebase(base),
            Err(patch) => self.patches.push_back(patch),
        }
    }

    /// Adds what a fold of later versions of the same row has found.
    pub(super) fn append(&mut self, mut newer: RowFold) {
        self.newest = newer.newest.or(self.newest);
        if let Some(base) = newer.base {
            self.rebase(base);
        }
        self.patches.append(&mut newer.patches);
    }

    fn rebase(&mut self, base: Option<Document>) {
        self.base = Some(base);
        self.patches.clear();
    }

    /// Applies the next version and returns the row after it, for walks that need the row after every version. `image` is
    /// the row after a PATCH, if it was stored. Calls `row_before` if the row before the version is needed and not known.
    pub(super) fn apply(
        &mut self,
        kind: EventType,
        payload: Option<&Document>,
        image: Option<Document>,
        row_before: impl FnOnce() -> Result<Option<Document>>,
    ) -> Result<Option<&Document>> {
        let before = match self.base.take() {
            Some(before) => fold_patches(before, &mut self.patches)?,
            None if kind == EventType::Patch && image.is_none() => row_before()?,
            None => None,
        };
        let after = match image {
            Some(image) => Some(image),
            None => state::apply(before.as_ref(), kind, payload)?,
        };
        Ok(self.base.insert(after).as_ref())
    }

    /// The row after the last version applied by [`RowFold::apply`]; `None` if no version was applied or the row is deleted.
    pub(super) fn into_document(self) -> Option<Document> {
        self.base.flatten()
    }

    /// Forgets the row: it is absent, and later versions do not depend on it.
    pub(super) fn clear(&mut self) {
        *self = RowFold { base: Some(None), ..RowFold::default() };
    }

    /// Whether the row is known to be absent.
    pub(super) fn is_absent(&self) -> bool {
        matches!(self.base, Some(None) | None) && self.patches.is_empty()
    }

    /// Commit, time and content of the row after the versions so far, for walks that need it after some of them; `None` if it is
    /// absent.
    pub(super) fn current(&mut self) -> Result<Option<(u64, u64, &Document)>> {
        let Some((seq, time_ms)) = self.newest else { return Ok(None) };
        if !self.patches.is_empty() || self.base.is_none() {
            self.base = Some(fold_patches(self.base.take().flatten(), &mut self.patches)?);
        }
        Ok(self.base.as_ref().and_then(Option::as_ref).map(|document| (seq, time_ms, document)))
    }

    /// Merges the patches into the row. Returns `None` if no version was seen. Fails with CORRUPT if there are patches and
    /// the row under them is deleted or was never found.
    pub(super) fn finish(mut self) -> Result<Option<RowVersion>> {
        let Some((seq, time_ms)) = self.newest else { return Ok(None) };
        let document = fold_patches(self.base.flatten(), &mut self.patches)?;
        Ok(Some(RowVersion { seq, time_ms, document }))
    }
}

/// Merges patches, oldest first, into the row under them.
fn fold_patches(base: Option<Document>, patches: &mut VecDeque<Document>) -> Result<Option<Document>> {
    let mut document = base;
    for patch in patches.drain(..) {
        work::step_bytes(patch.msgpack().len())?;
        document = state::apply(document.as_ref(), EventType::Patch, Some(&patch))?;
    }
    Ok(document)
}

/// The row after a version if the version alone says what it is; otherwise the version's patch.
fn into_base(version: VersionEntry) -> Result<Option<Document>, Document> {
    match (version.kind, version.image, version.payload) {
        (EventType::Insert, _, payload) => Ok(payload),
        (EventType::Patch, Some(image), _) => Ok(Some(image)),
        (EventType::Patch, None, Some(patch)) => Err(patch),
        _ => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn document(json: &str) -> Document {
        Document::from_json(json).unwrap()
    }

    fn version(time_ms: u64, kind: EventType, payload: Option<Document>) -> VersionEntry {
        VersionEntry {
            kind,
            time_ms,
            actor: String::new(),
            reason: String::new(),
            payload,
            image: None,
            marks: Default::default(),
        }
    }

    /// A row's life: an INSERT, then PATCHes, deletions and INSERTs, each PATCH perhaps with the row after it. Returns the
    /// versions, and the row after each as `state::apply` makes it.
    fn life(steps: &[(u8, u8, bool)]) -> (Vec<VersionEntry>, Vec<Option<Document>>) {
        let (mut versions, mut rows): (Vec<VersionEntry>, Vec<Option<Document>>) = (Vec::new(), Vec::new());
        for ((step, value, stored), at) in steps.iter().zip(1..) {
            let before = rows.last().cloned().flatten();
            let payload = document(&format!(r#"{{"f{}":{value}}}"#, value % 4));
            let (kind, payload) = match step % 4 {
                0 => (EventType::Insert, Some(payload)),
                1 if before.is_some() => (EventType::SoftDelete, None),
                _ if before.is_some() => (EventType::Patch, Some(payload)),
                _ => (EventType::Insert, Some(payload)),
            };
            let after = state::apply(before.as_ref(), kind, payload.as_ref()).unwrap();
            let mut entry = version(at * 10, kind, payload);
            entry.image = after.clone().filter(|_| *stored && kind == EventType::Patch);
            versions.push(entry);
            rows.push(after);
        }
        (versions, rows)
    }

    proptest! {
        #[test]
        fn all_directions_give_the_row_that_apply_gives(
            steps in prop::collection::vec(any::<(u8, u8, bool)>(), 1..12),
            cut in any::<prop::sample::Index>(),
        ) {
            let (versions, rows) = life(&steps);
            let numbered = || (1_usize..).zip(versions.iter().cloned());
            let expected = RowVersion {
                seq: versions.len() as u64,
                time_ms: versions.last().unwrap().time_ms,
                document: rows.last().cloned().flatten(),
            };

            let mut forward = RowFold::default();
            numbered().for_each(|(seq, version)| forward.push_newer(seq as u64, version));
            prop_assert_eq!(forward.finish().unwrap(), Some(expected.clone()), "forward");

            let mut backward = RowFold::default();
            for (seq, version) in numbered().collect::<Vec<_>>().into_iter().rev() {
                if !backward.is_complete() {
                    backward.push_older(seq as u64, version);
                }
            }
            prop_assert_eq!(backward.finish().unwrap(), Some(expected.clone()), "backward");

            let cut = cut.index(versions.len());
            let (mut older, mut newer) = (RowFold::default(), RowFold::default());
            for (seq, version) in numbered() {
                let fold = if seq <= cut { &mut older } else { &mut newer };
                fold.push_newer(seq as u64, version);
            }
            older.append(newer);
            prop_assert_eq!(older.finish().unwrap(), Some(expected), "appended at {}", cut);

            // From the middle on, over the row before.
            let mut fold = RowFold::default();
            for ((seq, version), row) in numbered().zip(&rows).skip(cut) {
                let before = || Ok(rows.get(seq - 2).cloned().flatten());
                let VersionEntry { kind, payload, image, .. } = version;
                let after = fold.apply(kind, payload.as_ref(), image, before).unwrap();
                prop_assert_eq!(after, row.as_ref(), "after version {}", seq);
            }
        }
    }

    #[test]
    fn an_image_lies_under_the_versions_after_it() {
        let row = RowEntry { seq: 3, time_ms: 30, document: document(r#"{"a":1}"#) };
        let patch = || version(70, EventType::Patch, Some(document(r#"{"b":2}"#)));
        let expected = RowVersion { seq: 7, time_ms: 70, document: Some(document(r#"{"a":1,"b":2}"#)) };

        let mut lookup = RowFold::default();
        lookup.push_older(7, patch());
        assert!(!lookup.is_complete());
        lookup.push_image(row.clone());
        assert!(lookup.is_complete());
        assert_eq!(lookup.finish().unwrap().as_ref(), Some(&expected));

        let mut scan = RowFold::default();
        scan.push_image(row);
        assert_eq!(scan.newest(), Some((3, 30)));
        scan.push_newer(7, patch());
        assert_eq!(scan.finish().unwrap(), Some(expected));
    }

    #[test]
    fn a_patch_without_a_row_under_it_is_an_error() {
        let mut fold = RowFold::default();
        fold.push_newer(1, version(10, EventType::Patch, Some(document("{}"))));
        assert!(fold.finish().is_err());
        assert_eq!(RowFold::default().finish().unwrap(), None);
    }
}
