//! A table's state after one commit.

use std::collections::BTreeSet;
use std::ops::Bound;
use std::sync::Arc;
use std::time::Duration;

use crate::error::{Error, Reason, Result};
use crate::format::document::Document;
use crate::format::key::{Key, KeyType};
use crate::format::snapshot::{CandidateEntry, tree};
use crate::format::sortkey;
use crate::table::layers::{EventId, RowVersion, sort_key};
use crate::table::memtable::{self, TableCounts};
use crate::table::schema::Schema;
use crate::table::timeline::{TableState, Timeline};

/// How often files that have vanished are looked for anew, in the manifest that replaced them.
const LOOKS: u32 = 40;
/// How long between two looks.
const BETWEEN_LOOKS: Duration = Duration::from_millis(25);

/// A row at a moment.
#[derive(Debug, Clone)]
pub struct Row {
    /// Its key.
    pub key: Key,
    /// The commit that last changed it.
    pub seq: u64,
    /// That commit's time in milliseconds since 1970.
    pub time_ms: u64,
    /// Its content.
    pub document: Document,
}

/// A table's state after commit `seq`.
///
/// It holds on to no files: what it reads, it reads from where the table's events are to be found at that time. They are the
/// same everywhere (I9), as long as the floor has not passed the moment.
#[derive(Debug, Clone)]
pub struct View {
    timeline: Arc<Timeline>,
    schema: Arc<Schema>,
    born: u64,
    seq: u64,
}

/// Reads from where a table's events are to be found, again where files were replaced meanwhile.
pub(super) fn read<T>(timeline: &Timeline, mut read: impl FnMut(&TableState) -> Result<T>) -> Result<T> {
    let mut looks = 0;
    loop {
        let state = timeline.state();
        match read(&state) {
            Err(error) if error.reason() == Reason::FileGone && looks < LOOKS => {
                looks += 1;
                if Arc::ptr_eq(&state, &timeline.state()) {
                    // Whoever follows the manifest has not come to see it yet.
                    std::thread::sleep(BETWEEN_LOOKS);
                }
            }
            Err(error) if error.reason() == Reason::FileGone => {
                let what = "a snapshot that meta.json names is missing";
                return Err(Error::new(Reason::Corrupt, format!("{what}: {error}")));
            }
            other => return other,
        }
    }
}

impl View {
    /// The state of a table after a commit. NOT_FOUND where there was no such table then, OUT_OF_RANGE below its floor.
    pub fn at(timeline: &Arc<Timeline>, seq: u64) -> Result<View> {
        let at = timeline.schema_at(seq)?;
        timeline.check_floor(seq)?;
        Ok(View { timeline: Arc::clone(timeline), schema: at.schema, born: at.born, seq })
    }

    /// The commit after which this is the state.
    pub fn seq(&self) -> u64 {
        self.seq
    }

    /// The table's schema then.
    pub fn schema(&self) -> &Schema {
        &self.schema
    }

    /// The table.
    pub fn timeline(&self) -> &Arc<Timeline> {
        &self.timeline
    }

    /// How many events and live rows there were then.
    pub fn counts(&self) -> Result<TableCounts> {
        self.timeline.counts(self.seq)
    }

    fn read<T>(&self, mut look: impl FnMut(&TableState) -> Result<T>) -> Result<T> {
        read(&self.timeline, |state| {
            let found = look(state);
            // The floor may have risen meanwhile; then what was found may be what is left.
            self.timeline.check_floor(self.seq)?;
            found
        })
    }

    /// The row with a key.
    pub fn get(&self, key: &Key) -> Result<Option<Row>> {
        let found = self.read(|state| row_in(state, key, EventId::end_of(self.seq)))?;
        Ok(found.and_then(|row| self.live(key, row)))
    }

    /// Goes through the live rows of a range of keys, in order, until `look` says false.
    pub fn scan(
        &self,
        (from, to): (Bound<&Key>, Bound<&Key>),
        mut look: impl FnMut(Row) -> bool,
    ) -> Result<()> {
        let mut last: Option<Key> = None;
        self.read(|state| {
            // Where files had to be looked for anew, on from where it came to.
            let from = last.clone().map_or(from.cloned(), Bound::Excluded);
            self.scan_in(state, (from.as_ref(), to), &mut last, &mut look)
        })
    }

    fn scan_in(
        &self,
        state: &TableState,
        (from, to): (Bound<&Key>, Bound<&Key>),
        last: &mut Option<Key>,
        look: &mut impl FnMut(Row) -> bool,
    ) -> Result<()> {
        if memtable::is_empty((from, to)) {
            return Ok(());
        }
        let key_type = self.schema.key_type;
        let mut chain = state.chain.scan(self.seq, &first_bytes(from))?;
        let use_overlay = self.seq >= state.chain.end();
        let mut newer_keys = use_overlay.then(|| state.overlay.keys((from, to)));
        let mut next_newer = || newer_keys.as_mut().and_then(Iterator::next);
        let mut newer = next_newer();
        let within = |key: &Key| std::ops::RangeBounds::contains(&(from, to), key);
        loop {
            let older = match chain.key() {
                Some(bytes) => Some((read_key(&bytes, key_type)?, bytes)),
                None => None,
            };
            let key = match (&older, &newer) {
                (Some((older, _)), Some(newer)) => older.min(newer).clone(),
                (Some((older, _)), None) => older.clone(),
                (None, Some(newer)) => newer.clone(),
                (None, None) => return Ok(()),
            };
            let mut row = match &older {
                Some((older, bytes)) if *older == key => chain.take(bytes)?,
                _ => None,
            };
            if newer.as_ref() == Some(&key) {
                let under = row.as_ref().and_then(|row| row.document.as_ref());
                if let Some(found) = state.overlay.row_over(&key, EventId::end_of(self.seq), under)? {
                    row = Some(found);
                }
                newer = next_newer();
            }
            if !within(&key) {
                if from_is_before(from, &key) {
                    return Ok(());
                }
                continue;
            }
            *last = Some(key.clone());
            if let Some(row) = row.and_then(|row| self.live(&key, row))
                && !look(row)
            {
                return Ok(());
            }
        }
    }

    /// Whether candidates for values of an indexed path can be told at this moment.
    pub fn has_index(&self, index: &str) -> bool {
        self.has_index_in(&self.timeline.state(), index)
    }

    fn has_index_in(&self, state: &TableState, index: &str) -> bool {
        let newer = self.seq < state.chain.end() || state.overlay.has_index(index);
        newer && state.chain.has_index(index, self.seq)
    }

    /// Keys of rows that may have a value of an indexed path in a range of bytes (both ends included) at this moment, after a
    /// key, in order: at most `limit`, and the others are greater. Only where the range is one value. `None` where the
    /// index cannot be used now.
    pub fn candidates_of_value(
        &self,
        index: &str,
        value: &[u8],
        after: Option<&Key>,
        limit: usize,
    ) -> Result<Option<Vec<Key>>> {
        let mut from = value.to_vec();
        if let Some(after) = after {
            sortkey::write_key(&mut from, after);
            // Just behind it: no key's bytes begin with another's.
            from.push(0);
        }
        let mut keys = BTreeSet::new();
        let usable = self.read(|state| {
            keys.clear();
            self.collect(
                state,
                index,
                &from,
                |bytes| {
                    let Some(rest) = bytes.strip_prefix(value) else { return Ok(None) };
                    let (key, _) = sortkey::read_key(rest, self.schema.key_type).ok_or_else(not_a_key)?;
                    Ok(Some(key))
                },
                &mut |key, taken| {
                    keys.insert(key);
                    taken < limit
                },
            )
        })?;
        Ok(usable.then(|| keys.into_iter().take(limit).collect()))
    }

    /// Keys of rows that may have a value of an indexed path in a range of bytes, both ends included, at this moment. Stops
    /// once `keys` has more than `limit`. False where the index cannot be used now.
    pub fn candidates_in(
        &self,
        index: &str,
        (low, high): (&[u8], &[u8]),
        limit: usize,
        keys: &mut BTreeSet<Key>,
    ) -> Result<bool> {
        self.read(|state| {
            self.collect(
                state,
                index,
                low,
                |bytes| {
                    let Some((value, rest)) = sortkey::split_scalar(bytes) else { return Err(not_a_key()) };
                    if value > high {
                        return Ok(None);
                    }
                    let (key, _) = sortkey::read_key(rest, self.schema.key_type).ok_or_else(not_a_key)?;
                    Ok(Some(key))
                },
                &mut |key, _| {
                    keys.insert(key);
                    keys.len() <= limit
                },
            )
        })
    }

    /// Goes through an index's entries from some bytes on, in each of its files and in memory, as long as `read` finds a key
    /// and `take` says to go on, which is told how many it has been given from the same place.
    fn collect(
        &self,
        state: &TableState,
        index: &str,
        from: &[u8],
        read: impl Fn(&[u8]) -> Result<Option<Key>>,
        take: &mut dyn FnMut(Key, usize) -> bool,
    ) -> Result<bool> {
        if !self.has_index_in(state, index) {
            return Ok(false);
        }
        for (file, is_era) in state.chain.index_files(index, self.seq) {
            let mut cursor = file.cursor(tree::CANDIDATES);
            cursor.seek(from)?;
            let mut taken = 0;
            while let (Some(bytes), Some(value)) = (cursor.key(), cursor.value()) {
                let Some(key) = read(bytes)? else { break };
                let holds = !is_era || CandidateEntry::decode(&value)?.may_hold_at(self.seq);
                if holds {
                    taken += 1;
                    if !take(key, taken) {
                        break;
                    }
                }
                cursor.next()?;
            }
        }
        if self.seq >= state.chain.end() {
            let (mut taken, mut outcome) = (0, Ok(()));
            state.overlay.candidates(index, from, |bytes| match read(bytes) {
                Ok(Some(key)) => {
                    taken += 1;
                    take(key, taken)
                }
                Ok(None) => false,
                Err(error) => {
                    outcome = Err(error);
                    false
                }
            });
            outcome?;
        }
        Ok(true)
    }

    /// The row, where it is live and of this life of the table.
    fn live(&self, key: &Key, row: RowVersion) -> Option<Row> {
        let RowVersion { seq, time_ms, document } = row;
        let document = document.filter(|_| seq >= self.born)?;
        Some(Row { key: key.clone(), seq, time_ms, document })
    }
}

/// A row as its last event up to a spot left it.
pub(super) fn row_in(state: &TableState, key: &Key, upto: EventId) -> Result<Option<RowVersion>> {
    if upto.seq >= state.chain.end()
        && let Some(row) = state.overlay.row(key, upto, &state.chain)?
    {
        return Ok(Some(row));
    }
    state.chain.row(key, upto)
}

/// TableCounts at a moment.
pub(super) fn counts_in(state: &TableState, seq: u64) -> Result<TableCounts> {
    if seq >= state.chain.end() { Ok(state.overlay.counts(seq)) } else { state.chain.counts_at(seq) }
}

fn not_a_key() -> Error {
    Error::new(Reason::Corrupt, "a snapshot's entry is not that of a key")
}

pub(super) fn read_key(bytes: &[u8], key_type: KeyType) -> Result<Key> {
    match sortkey::read_key(bytes, key_type) {
        Some((key, [])) => Ok(key),
        _ => Err(not_a_key()),
    }
}

/// Where the bytes of a range's keys begin.
fn first_bytes(from: Bound<&Key>) -> Vec<u8> {
    match from {
        Bound::Included(key) | Bound::Excluded(key) => sort_key(key),
        Bound::Unbounded => Vec::new(),
    }
}

fn from_is_before(from: Bound<&Key>, key: &Key) -> bool {
    match from {
        Bound::Included(from) => from <= key,
        Bound::Excluded(from) => from < key,
        Bound::Unbounded => true,
    }
}
