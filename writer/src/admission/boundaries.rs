//! Conditions over many rows: no row that matches one may have changed since a commit.
//!
//! A change counts if the row before it or the row after it matches. What happened since the commit is compared with the condition
//! outside of the lock, up to the newest commit at that time; under the lock only what was admitted after that is left. If that
//! is more than a little, the lock is given back and the rest is compared first, as for rows that must be read. What memory does not
//! have any more is compared in the snapshots, if they begin where memory ends: with the rows that the table's indexes name.

use std::sync::Arc;

use driftdb_common::error::{Error, Reason, Result, Violation};
use driftdb_common::format::document::Document;
use driftdb_common::format::key::Key;
use driftdb_common::limits;
use driftdb_common::planted::{self, PlantedBug};
use driftdb_common::query::ast::{Column, Condition};
use driftdb_common::query::exec::drift::{DriftExecution, DriftFilter};
use driftdb_common::query::exec::history_route::HistoryRoute;
use driftdb_common::query::parser;
use driftdb_common::query::predicate::RowRef;
use driftdb_common::table::event_id::EventId;
use driftdb_common::table::history::HistoryQuery;
use driftdb_common::table::layers::LayerMap;
use driftdb_common::table::operation::Boundary;
use driftdb_common::table::timeline::Timeline;
use driftdb_common::work;

use crate::admission::recent_changes::{ChangesSince, PriorRow, RecentChange};
use crate::admission::table::AdmittedTable;
use crate::admission::tables::AdmittedTables;

/// What a change of another table, and the comparison of one of the table's own, count as, in bytes.
const FOREIGN_CHANGE_BYTES: usize = 16;
const OWN_CHANGE_BYTES: usize = 512;
/// The bytes of a row that one comparison reads in the time of a step.
const BYTES_PER_STEP: usize = 64;
/// How many comparisons a read of a row from files counts as.
const STEPS_PER_READ: usize = 2000;

/// A condition over many rows, and how far it is checked.
#[derive(Debug)]
pub(crate) struct DraftBoundary {
    boundary: Boundary,
    /// `None` for every row.
    condition: Option<Condition>,
    /// The number of comparisons in the condition.
    terms: usize,
    checked: Option<CheckedChanges>,
}

/// What a check outside of the lock found.
#[derive(Debug)]
struct CheckedChanges {
    /// The table's id.
    table: u64,
    /// Counts the commits that were taken back: after one more, nothing of this is known.
    rollbacks: u64,
    /// The last commit that was checked.
    upto: u64,
    outcome: Result<Option<BrokenBoundary>>,
}

/// The first change that breaks a condition.
#[derive(Debug, Clone)]
struct BrokenBoundary {
    seq: u64,
    key: Key,
}

/// The changes that a condition must still be compared with.
#[derive(Debug)]
pub(super) struct UncheckedChanges {
    /// Which of the draft's conditions.
    at: usize,
    table: u64,
    layers: Arc<LayerMap>,
    /// The commit after which the layers hold changes that memory does not, if there are any.
    in_layers_after: Option<u64>,
    changes: ChangesSince,
    rollbacks: u64,
    upto: u64,
}

impl DraftBoundary {
    /// Parses the condition, whose length its source has checked: as it was sent, which can be shorter than this text. Fails if it
    /// asks for more than the row's content.
    pub(crate) fn new(boundary: Boundary) -> Result<DraftBoundary> {
        let condition = match boundary.condition.as_str() {
            "" => None,
            text => Some(parser::parse_condition(text, &[])?),
        };
        let terms = condition.as_ref().map_or(Ok(1), check_columns)?;
        Ok(DraftBoundary { boundary, condition, terms, checked: None })
    }

    /// The table's name.
    pub(super) fn table(&self) -> &str {
        &self.boundary.table
    }

    /// What was checked of the table as it is now.
    fn checked(&self, tables: &AdmittedTables, table: &AdmittedTable) -> Option<&CheckedChanges> {
        let rollbacks = tables.recent().rollbacks();
        self.checked.as_ref().filter(|checked| (checked.table, checked.rollbacks) == (table.id(), rollbacks))
    }

    /// The last commit that needs no check any more.
    fn upto(&self, tables: &AdmittedTables, table: &AdmittedTable) -> u64 {
        self.checked(tables, table).map_or(self.boundary.unchanged_since, |checked| checked.upto)
    }

    /// Compares a row with the condition.
    fn matches(&self, key: &Key, document: &Document) -> Result<bool> {
        let row = RowRef { key, seq: 0, time_ms: 0, document };
        self.condition.as_ref().map_or(Ok(true), |condition| condition.matches(row))
    }

    /// Whether a change breaks the condition; `None` if the row before it must be read first.
    fn is_broken_by(&self, change: &RecentChange) -> Result<Option<bool>> {
        if let Some(after) = &change.after
            && self.matches(&change.key, after)?
        {
            return Ok(Some(true));
        }
        match &change.before {
            PriorRow::Absent => Ok(Some(false)),
            PriorRow::Content(before) => self.matches(&change.key, before).map(Some),
            PriorRow::InFiles => Ok(None),
        }
    }

    fn too_old(&self, why: &str) -> Error {
        let Boundary { table, unchanged_since, .. } = &self.boundary;
        let message = format!(
            "cannot tell whether rows of table {table:?} have changed since commit {unchanged_since}: {why}; read the rows again and use the commit of that read"
        );
        Error::new(Reason::BoundaryTooOld, message)
            .with("table", table.clone())
            .with("since", unchanged_since.to_string())
    }
}

/// What the conditions must be compared with outside of the lock; nothing if at most `bytes` of changes are left for admission.
pub(super) fn unchecked_changes(
    tables: &AdmittedTables,
    boundaries: &[DraftBoundary],
    last: u64,
    bytes: usize,
) -> Vec<UncheckedChanges> {
    let recent = tables.recent();
    let (mut left, mut unchecked) = (bytes, Vec::new());
    for (at, boundary) in boundaries.iter().enumerate() {
        let Ok(table) = tables.live(boundary.table()) else { continue };
        let upto = boundary.upto(tables, table);
        let is_broken =
            boundary.checked(tables, table).is_some_and(|checked| !matches!(checked.outcome, Ok(None)));
        if is_broken || upto >= last {
            continue;
        }
        let layers = table.layers();
        let is_old = upto < recent.base();
        if is_old && layers.end() < recent.base() {
            // Admission says so.
            continue;
        }
        let mut has_room = !is_old;
        for change in recent.newest_after(if is_old { last } else { upto }) {
            let weight = match change.table == table.id() {
                // Every comparison may read the whole row.
                true => OWN_CHANGE_BYTES + boundary.terms.saturating_mul(BYTES_PER_STEP + change.bytes()),
                false => FOREIGN_CHANGE_BYTES,
            };
            let is_in_files = change.table == table.id() && matches!(change.before, PriorRow::InFiles);
            left = left.saturating_sub(weight);
            if left == 0 || is_in_files {
                has_room = false;
                break;
            }
        }
        if !has_room {
            unchecked.push(UncheckedChanges {
                at,
                table: table.id(),
                layers: Arc::clone(layers),
                in_layers_after: is_old.then_some(upto),
                changes: recent.since(if is_old { layers.end() } else { upto }),
                rollbacks: recent.rollbacks(),
                upto: last,
            });
        }
    }
    unchecked
}

impl UncheckedChanges {
    /// Compares the changes with their condition. Blocks. If newer files have replaced the table's meanwhile, the condition stays
    /// unchecked, and admission asks for it again.
    pub(super) fn run(self, boundaries: &mut [DraftBoundary]) {
        let Some(boundary) = boundaries.get_mut(self.at) else { return };
        let outcome = self.first_broken(boundary);
        if outcome.as_ref().is_err_and(|error| error.reason() == Reason::FileGone) {
            return;
        }
        let UncheckedChanges { table, rollbacks, upto, .. } = self;
        boundary.checked = Some(CheckedChanges { table, rollbacks, upto, outcome });
    }

    fn first_broken(&self, boundary: &DraftBoundary) -> Result<Option<BrokenBoundary>> {
        if let Some(after) = self.in_layers_after
            && let Some(broken) = self.first_broken_in_layers(boundary, after)?
        {
            return Ok(Some(broken));
        }
        let mut steps = 0;
        for change in self.changes.iter().filter(|change| change.table == self.table) {
            // A comparison counts its own steps where it reads the row, for the time that the request may take.
            work::step(1)?;
            steps += boundary.terms.saturating_mul(1 + change.bytes() / BYTES_PER_STEP);
            let is_broken = match boundary.is_broken_by(change)? {
                Some(is_broken) => is_broken,
                None => {
                    steps += STEPS_PER_READ;
                    self.before_matches(boundary, change)?
                }
            };
            if is_broken {
                return Ok(Some(BrokenBoundary { seq: change.seq, key: change.key.clone() }));
            }
            if steps > limits::BOUNDARY_STEPS {
                return Err(boundary.too_old("too much has happened since then"));
            }
        }
        Ok(None)
    }

    /// Compares the changes in the layers after a commit with their condition.
    fn first_broken_in_layers(&self, boundary: &DraftBoundary, after: u64) -> Result<Option<BrokenBoundary>> {
        let last = self.layers.end();
        let timeline = Arc::new(Timeline::open(self.table, boundary.table(), LayerMap::clone(&self.layers))?);
        let discarded = || boundary.too_old("compaction has discarded that history");
        timeline.check_floor(after).map_err(|_| discarded())?;
        let condition = boundary.condition.as_ref();
        let events = timeline.counts(last)?.events.saturating_sub(timeline.counts(after)?.events);
        if events > limits::BOUNDARY_LAYER_EVENTS {
            let rows = HistoryRoute::choose(&timeline, condition, (after, last), |_| false)?.listed();
            if rows.is_none_or(|rows| rows as u64 > limits::BOUNDARY_LAYER_EVENTS) {
                return Err(boundary.too_old("too much has happened since then"));
            }
        }
        let query = HistoryQuery { after, last, ..HistoryQuery::default() };
        let filter = DriftFilter { condition: boundary.condition.clone(), actor: None };
        // A change of the schema passes without a condition. It is no change of a row.
        let most = condition.map(|_| 1);
        let mut drift = DriftExecution::new(&timeline, query, filter, most);
        while !drift.is_done() {
            for event in drift.next_batch()? {
                if let Some(key) = event.key {
                    return Ok(Some(BrokenBoundary { seq: event.commit.seq, key }));
                }
            }
        }
        Ok(None)
    }

    /// Whether the row before a change matches, which only the files hold. The row's content left memory because the files had it,
    /// and it has not changed between then and this change.
    fn before_matches(&self, boundary: &DraftBoundary, change: &RecentChange) -> Result<bool> {
        let before = change.seq.saturating_sub(1);
        if self.layers.floor().is_some_and(|floor| floor.seq > before) {
            return Err(boundary.too_old("compaction has discarded that history"));
        }
        let row = self.layers.row(&change.key, EventId::end_of(before))?;
        match row.and_then(|row| row.document) {
            Some(document) => boundary.matches(&change.key, &document),
            None => Ok(false),
        }
    }
}

/// Checks all conditions. What is left to compare is little: see [`unchecked_changes`].
pub(super) fn check_boundaries(
    tables: &AdmittedTables,
    boundaries: &[DraftBoundary],
    last: u64,
) -> Result<()> {
    if planted::is_planted(PlantedBug::BoundaryUnchecked) {
        return Ok(());
    }
    let mut broken = Vec::new();
    for boundary in boundaries {
        let Boundary { table: name, unchanged_since, .. } = &boundary.boundary;
        let table = tables.live(name)?;
        if *unchanged_since > last {
            let message = format!(
                "the precondition on table {name:?} names commit {unchanged_since}, which has not happened yet: the newest is {last}; use the commit of a read"
            );
            return Err(Error::new(Reason::BeyondHead, message));
        }
        let description = if table.recreated_seq() > *unchanged_since {
            let seq = table.recreated_seq();
            Some((seq, String::new(), table.recreation()))
        } else {
            let found = broken_by(tables, boundary, table)?;
            found.map(|BrokenBoundary { seq, key }| {
                (seq, key.to_string(), format!("commit {seq} changed row {}", key.quoted()))
            })
        };
        if let Some((seq, key, what)) = description {
            let description = format!("{} {what}", expectation(&boundary.boundary));
            let subject = subject(&boundary.boundary);
            broken.push((seq, key, Violation { check: "no_change".to_owned(), subject, description }));
        }
    }
    let Some((seq, key, first)) = broken.first() else { return Ok(()) };
    let more = if broken.len() > 1 { format!(" (and {} more)", broken.len() - 1) } else { String::new() };
    let message = format!("precondition failed: {}: {}{more}", first.subject, first.description);
    let error = Error::new(Reason::PreconditionFailed, message)
        .with("failed", broken.len().to_string())
        .with("seq", seq.to_string())
        .with("key", key.clone());
    Err(error.violating(broken.into_iter().map(|(_, _, violation)| violation).collect()))
}

fn broken_by(
    tables: &AdmittedTables,
    boundary: &DraftBoundary,
    table: &AdmittedTable,
) -> Result<Option<BrokenBoundary>> {
    if let Some(checked) = boundary.checked(tables, table)
        && !matches!(checked.outcome, Ok(None))
    {
        return checked.outcome.clone();
    }
    let upto = boundary.upto(tables, table);
    if upto < tables.recent().base() {
        return Err(boundary.too_old("the writer has no longer all changes since then in memory"));
    }
    let mut first = None;
    for change in tables.recent().newest_after(upto).filter(|change| change.table == table.id()) {
        let is_broken = boundary.is_broken_by(change)?.ok_or_else(|| {
            Error::new(Reason::Internal, "a condition reached admission without the row before a change")
        })?;
        if is_broken {
            first = Some(BrokenBoundary { seq: change.seq, key: change.key.clone() });
        }
    }
    Ok(first)
}

/// The rows that a condition is about, for messages.
pub(crate) fn subject(boundary: &Boundary) -> String {
    match boundary.condition.as_str() {
        "" => boundary.table.clone(),
        condition => format!("{} WHERE {condition}", boundary.table),
    }
}

/// Whether an error says that this condition is too old to be checked.
pub(crate) fn is_too_old(error: &Error, boundary: &Boundary) -> bool {
    let tells = |key, value: &str| error.metadata().get(key).is_some_and(|found| found == value);
    error.reason() == Reason::BoundaryTooOld
        && tells("table", &boundary.table)
        && tells("since", &boundary.unchanged_since.to_string())
}

/// What a condition expects, as the beginning of a violation's description.
pub(crate) fn expectation(boundary: &Boundary) -> String {
    format!("expected no change after commit {};", boundary.unchanged_since)
}

/// Fails if a condition names `_seq` or `_time`, which a row before its change does not have here. Returns the number of
/// comparisons.
pub(crate) fn check_columns(condition: &Condition) -> Result<usize> {
    let mut count = 0;
    condition.each_column(&mut |column| {
        count += 1;
        if matches!(column, Column::Seq | Column::Time) {
            let message =
                format!("{column} cannot be used in IF NO CHANGE: compare _key and fields of the document");
            return Err(Error::new(Reason::QueryInvalid, message));
        }
        Ok(())
    })?;
    Ok(count)
}
