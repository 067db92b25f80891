//! Compaction of a table: up to where, what comes of it, and when it comes by itself.

use std::time::{Duration, Instant};

use driftdb_common::error::{Error, Reason, Result};
use driftdb_common::format::event::EventType;
use driftdb_common::format::manifest::Manifest;
use driftdb_common::service::clock::now_ms;
use driftdb_common::storage::layout::image_stem;
use driftdb_common::storage::wal::appender::CompactionInput;
use driftdb_common::storage::wal::cursor::CursorItem;
use driftdb_common::table::build::compaction::{
    self, CompactionLog, CompactionPlan, CompactionRequest, ManifestEdit,
};
use driftdb_common::table::build::snapshot::log_after;
use driftdb_common::table::point_in_time::{CommitBound, PointInTime};

use crate::maintenance::CompactInfo;
use crate::snapshotter::{Snapshotter, Taken};

/// How often tables with a retention are looked at.
const RETAIN_EVERY: Duration = Duration::from_secs(60);
/// How long between two looks for a commit that no table has, while snapshots are taken.
const BETWEEN_LOOKS: Duration = Duration::from_millis(20);

/// Told how far it has come; an error ends it.
type Watch<'a> = &'a dyn Fn(u64) -> Result<()>;

/// What a compaction does to one table's log.
struct OneTable<'a> {
    snapshotter: &'a Snapshotter,
    id: u64,
}

impl CompactionLog for OneTable<'_> {
    fn begin(&self, upto: u64) -> Result<CompactionInput> {
        let id = self.id;
        self.snapshotter.commits().with_log(move |log| log.begin_compaction(id, upto))
    }

    fn install(&self, edit: ManifestEdit) -> Result<Manifest> {
        self.snapshotter.install(self.id, edit)
    }
}

/// What stands in a table's log after its newest snapshot, up to some commit.
#[derive(Debug, Clone, Copy, Default)]
struct TailUpto {
    events: u64,
    bytes: u64,
    /// The last commit among it, and its time.
    last: Option<(u64, u64)>,
}

impl Snapshotter {
    /// Raises a table's floor to a moment, or to its newest snapshot, and folds what is below it into one state. A dry run
    /// only says what that would do.
    pub fn compact(
        &self,
        id: u64,
        before: Option<PointInTime>,
        dry_run: bool,
        watch: Watch<'_>,
    ) -> Result<CompactInfo> {
        let lock = self.lock_of(id);
        let _busy = lock.lock();
        let (manifest, reach) = self.commits().look(id)?;
        let wanted = match before {
            Some(point) => point.resolve(reach.seq, now_ms(), |time_ms| self.last_at(id, time_ms))?,
            None => self.newest_snapshot(id)?,
        };
        let Some(seq) = wanted else { return Ok(nothing_to_do(&manifest)) };
        if seq < id {
            let message =
                format!("the table was created by commit {id}: there is nothing of it at seq {seq}");
            return Err(Error::new(Reason::TableNotFound, message).with("seq", id.to_string()));
        }
        // One that was cut short after it raised the floor is brought to its end.
        let floor = manifest.floor.map_or(0, |floor| floor.seq);
        let seq = seq.max(floor);
        if seq == floor && compaction::is_complete(&manifest) {
            return Ok(nothing_to_do(&manifest));
        }
        let (seq, time_ms) = self.settle(id, &manifest, seq)?;
        if seq < floor {
            return Ok(nothing_to_do(&manifest));
        }
        if dry_run { self.preview(id, seq) } else { self.fold(id, (seq, time_ms), watch) }
    }

    /// The floor and its time. Where no table tells of that commit any more, this one's last before it counts: it leaves
    /// the same state.
    fn settle(&self, id: u64, manifest: &Manifest, seq: u64) -> Result<(u64, u64)> {
        let floor = manifest.floor.filter(|floor| floor.seq == seq);
        if let Some(time_ms) = floor.map_or_else(|| self.time_of(seq), |floor| Ok(Some(floor.time_ms)))? {
            return Ok((seq, time_ms));
        }
        let chain = self.chain(id)?;
        if seq > chain.end()
            && let Some(last) = self.tail(id, |at, _| at <= seq)?.last
        {
            return Ok(last);
        }
        let last = chain.counts_at(seq)?.last_seq;
        let missing = || Error::new(Reason::Corrupt, "a commit that no table has the time of");
        Ok((last, chain.time_of(last)?.ok_or_else(missing)?))
    }

    /// The end of a table's newest snapshot; if it has none, the table's newest commit.
    fn newest_snapshot(&self, id: u64) -> Result<Option<u64>> {
        let end = self.chain(id)?.end();
        if end > 0 { Ok(Some(end)) } else { Ok(self.tail(id, |_, _| true)?.last.map(|(seq, _)| seq)) }
    }

    /// The last of a table's commits at or before a time. The state is the same up to the next one's.
    fn last_at(&self, id: u64, time_ms: u64) -> Result<Option<u64>> {
        let chain = self.chain(id)?;
        if !chain.covers(CommitBound::Time(time_ms)) {
            let tail = self.tail(id, |_, at| at <= time_ms)?;
            if let Some((seq, _)) = tail.last {
                return Ok(Some(seq));
            }
        }
        chain.last_at(time_ms)
    }

    /// What a table's log holds after its newest snapshot, as long as `look` says so of a commit and its time.
    fn tail(&self, id: u64, look: impl Fn(u64, u64) -> bool) -> Result<TailUpto> {
        let (manifest, reach) = self.commits().look(id)?;
        let mut cursor = log_after(self.shelf(), &manifest, reach);
        let (mut tail, mut at) = (TailUpto::default(), cursor.position().offset);
        loop {
            match cursor.next_frame()? {
                CursorItem::Frame(entry) if look(entry.seq, entry.time_ms) => {
                    let end = cursor.position().offset;
                    tail.bytes += if end > at { end - at } else { end };
                    tail.events += u64::from(entry.event.kind != EventType::Note);
                    tail.last = Some((entry.seq, entry.time_ms));
                    at = end;
                }
                CursorItem::Frame(_) | CursorItem::End => return Ok(tail),
                CursorItem::Invalid(error) => {
                    return Err(Error::corrupt(cursor.path().display(), cursor.position().offset, error));
                }
            }
        }
    }

    /// The time of a commit, as any table tells it.
    fn time_of(&self, seq: u64) -> Result<Option<u64>> {
        let published = self.commits().with_log(|log| Ok(log.published()))?;
        if published.0 == seq {
            return Ok(Some(published.1));
        }
        let ids = self.commits().all_tables(|table| table.id());
        // A snapshot that is taken between the two looks has what was in neither: then once more.
        for pause in [Some(BETWEEN_LOOKS), None] {
            for id in &ids {
                if let Some(time) = self.chain(*id)?.time_of(seq)? {
                    return Ok(Some(time));
                }
            }
            for id in ids.iter().filter(|id| **id <= seq) {
                let last = self.tail(*id, |at, _| at <= seq)?.last;
                if let Some((_, time)) = last.filter(|(at, _)| *at == seq) {
                    return Ok(Some(time));
                }
            }
            pause.into_iter().for_each(std::thread::sleep);
        }
        Ok(None)
    }

    fn preview(&self, id: u64, seq: u64) -> Result<CompactInfo> {
        let (manifest, _) = self.commits().look(id)?;
        let chain = self.chain(id)?;
        let tail = if seq > chain.end() { self.tail(id, |at, _| at <= seq)? } else { TailUpto::default() };
        let upto = seq.min(chain.end());
        if upto == 0 {
            return Ok(CompactInfo { floor_seq: seq, events_folded: tail.events, bytes_freed: 0 });
        }
        let requests = self.requests_since();
        let plan = compaction::plan(
            self.shelf(),
            &manifest,
            &chain,
            CompactionRequest { seq: upto, time_ms: 0, requests },
        )?;
        Ok(CompactInfo { floor_seq: seq, ..info(&plan, tail) })
    }

    fn fold(&self, id: u64, (seq, time_ms): (u64, u64), watch: Watch<'_>) -> Result<CompactInfo> {
        let mut taken = Taken::default();
        if seq > self.chain(id)?.end() {
            let (_, reach) = self.commits().look(id)?;
            while self.take_era(id, reach.seq, &mut taken, watch)? {}
        }
        let (manifest, _) = self.commits().look(id)?;
        let chain = self.chain(id)?;
        let requests = self.requests_since();
        let wanted = CompactionRequest { seq, time_ms, requests };
        let plan = compaction::plan(self.shelf(), &manifest, &chain, wanted)?;
        self.spare(&self.files_of_full(&manifest, seq));
        let hands = OneTable { snapshotter: self, id };
        let done = compaction::run(self.shelf(), &hands, &chain, (plan, wanted), watch)?;
        self.doom(done.superseded);
        Ok(info(&done.plan, TailUpto::default()))
    }

    /// The files of all rows at a moment, which are about to be written, perhaps again.
    fn files_of_full(&self, manifest: &Manifest, seq: u64) -> Vec<std::path::PathBuf> {
        let (dir, name) = (&self.shelf().dir, manifest.table.as_str());
        let indexes = manifest.deltas.last().into_iter().flat_map(|era| &era.indexes);
        let indexes = indexes.map(|path| dir.index(name, path, &image_stem(seq)));
        indexes.chain([dir.image_layer(name, seq)]).collect()
    }

    /// Compacts the tables whose schemas say for how long history is kept, where it is worth it.
    pub fn retain(&self, watch: Watch<'_>) -> Result<()> {
        let retained = self.commits().all_tables(|table| Some((table.id(), table.schema().retain_ms?)));
        for (id, retain_ms) in retained.into_iter().flatten() {
            let every = RETAIN_EVERY.min(Duration::from_millis(retain_ms));
            if !self.is_due_again(id, every, Instant::now()) {
                continue;
            }
            if let Some(seq) = self.outlived(id, now_ms().saturating_sub(retain_ms))? {
                self.compact(id, Some(PointInTime::Seq(seq)), false, watch)?;
            }
        }
        Ok(())
    }

    /// The floor that a table's retention asks for, once a quarter of its eras, in bytes, lies below it.
    fn outlived(&self, id: u64, time_ms: u64) -> Result<Option<u64>> {
        let Some(seq) = self.last_at(id, time_ms)? else { return Ok(None) };
        let (manifest, _) = self.commits().look(id)?;
        let seq = seq.min(manifest.deltas.last().map_or(0, |era| era.seq));
        let deltas = || manifest.deltas.iter().filter(|era| !era.is_compaction_base());
        let all: u64 = deltas().map(|era| era.bytes).sum();
        let below: u64 = deltas().filter(|era| era.seq <= seq).map(|era| era.bytes).sum();
        let risen = manifest.floor.is_none_or(|floor| seq > floor.seq);
        Ok(Some(seq).filter(|_| risen && below > 0 && below.saturating_mul(4) >= all))
    }
}

fn nothing_to_do(manifest: &Manifest) -> CompactInfo {
    let floor_seq = manifest.floor.map_or(0, |floor| floor.seq);
    CompactInfo { floor_seq, events_folded: 0, bytes_freed: 0 }
}

fn info(plan: &CompactionPlan, tail: TailUpto) -> CompactInfo {
    CompactInfo {
        floor_seq: plan.floor.seq,
        events_folded: plan.events + tail.events,
        bytes_freed: (plan.bytes_before + tail.bytes).saturating_sub(plan.bytes_after),
    }
}
