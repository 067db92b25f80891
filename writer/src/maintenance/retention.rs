//! Compacts the tables whose schemas limit how long history is kept (RETAIN), once enough can be freed.
//!
//! History is kept for a time before the last commit, not before the time of day: what is discarded cannot be brought back, and a
//! clock can be wrong. A commit's time has passed the clock guard.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use driftdb_common::error::{Reason, Result};
use driftdb_common::table::build::progress::ProgressFn;
use driftdb_common::table::point_in_time::PointInTime;
use parking_lot::Mutex;

use crate::maintenance::commit_lookup::CommitLookup;
use crate::maintenance::compactor::Compactor;
use crate::maintenance::context::MaintenanceContext;
use crate::maintenance::health::Chore;

/// How often a table is checked. A table with a shorter retention is checked as often as its retention ends.
const CHECK_INTERVAL: Duration = Duration::from_secs(60);

/// Enforces retention.
#[derive(Debug)]
pub(super) struct Retention {
    context: Arc<MaintenanceContext>,
    compactor: Arc<Compactor>,
    lookup: Arc<CommitLookup>,
    /// When each table was checked last, by table id.
    checked_at: Mutex<HashMap<u64, Instant>>,
}

impl Retention {
    pub(super) fn new(
        context: Arc<MaintenanceContext>,
        compactor: Arc<Compactor>,
        lookup: Arc<CommitLookup>,
    ) -> Retention {
        Retention { context, compactor, lookup, checked_at: Mutex::default() }
    }

    /// Compacts every table that is due.
    pub(super) fn compact_expired(&self, progress: ProgressFn<'_>) -> Result<()> {
        let catalog = &self.context.commits.catalog;
        let newest_ms = self.context.commits.status.durable().time_ms;
        let retained = catalog.tables().into_iter();
        let retained =
            retained.filter_map(|table| Some((table.id, table.dropped_seq, table.schema.retain_ms?)));
        for (id, dropped, retain_ms) in retained {
            let interval = CHECK_INTERVAL.min(Duration::from_millis(retain_ms));
            if self.context.health.is_paused(id, Chore::Retention) || !self.start_check(id, interval) {
                continue;
            }
            let time_ms = newest_ms.saturating_sub(retain_ms);
            let expired = self.compact_if_expired((id, dropped), time_ms, progress);
            if let Err(error) = &expired {
                if error.reason() == Reason::ShuttingDown {
                    return expired;
                }
                self.context.health.note_damage(error);
            }
            let name = self.context.commits.catalog.name(id);
            self.context.health.note_outcome((id, &name), Chore::Retention, expired.err());
        }
        Ok(())
    }

    /// Compacts a table if its retention asks for it.
    fn compact_if_expired(
        &self,
        (id, dropped): (u64, u64),
        time_ms: u64,
        progress: ProgressFn<'_>,
    ) -> Result<()> {
        match self.expired_floor((id, dropped), time_ms)? {
            Some(seq) => self.compactor.compact(id, Some(PointInTime::Seq(seq)), false, progress).map(drop),
            None => Ok(()),
        }
    }

    /// Whether a table's last check is at least `interval` ago. If so, this counts as its next check.
    fn start_check(&self, id: u64, interval: Duration) -> bool {
        let now = Instant::now();
        let mut checked_at = self.checked_at.lock();
        let is_due = checked_at.get(&id).is_none_or(|last| now.duration_since(*last) >= interval);
        if is_due {
            checked_at.insert(id, now);
        }
        is_due
    }

    /// The floor that a table's retention asks for, if at least a quarter of its delta layers, in bytes, is
    /// below it. A compaction rewrites files, so it must free enough to be worth that. Of a table that was dropped by then, all is
    /// below it, and no snapshot will come.
    fn expired_floor(&self, (id, dropped): (u64, u64), time_ms: u64) -> Result<Option<u64>> {
        let Some(seq) = self.lookup.last_commit_at(id, time_ms)? else { return Ok(None) };
        let (manifest, _) = self.context.commits.log.manifest(id)?;
        if dropped > 0 && seq >= dropped {
            return Ok(Some(dropped).filter(|seq| manifest.floor.is_none_or(|floor| *seq > floor.seq)));
        }
        let seq = seq.min(manifest.deltas.last().map_or(0, |delta| delta.seq));
        let deltas = || manifest.deltas.iter().filter(|delta| !delta.is_compaction_base());
        let all: u64 = deltas().map(|delta| delta.bytes).sum();
        let below: u64 = deltas().filter(|delta| delta.seq <= seq).map(|delta| delta.bytes).sum();
        let is_higher = manifest.floor.is_none_or(|floor| seq > floor.seq);
        Ok(Some(seq).filter(|_| is_higher && below > 0 && below.saturating_mul(4) >= all))
    }
}
