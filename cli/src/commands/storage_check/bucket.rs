//! Checks that an object store keeps what DriftDB relies on: one of several writers creates an object, and all see which one.

use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use driftdb_common::bucket::store::{BucketStore, ChunkOutcome, Persistence};
use driftdb_common::error::{Error, Reason, Result};
use uuid::Uuid;

use super::check_line::{CheckLine, CheckResult};
use crate::args::StorageCheckArgs;
use crate::commands::backup::bucket_work::on_thread;
use crate::commands::request_costs::in_a_month;
use crate::exit::CliResult;
use crate::render::Printer;
use crate::shapes;

/// How many writers race for each object.
const WRITERS: usize = 8;
/// How many objects they race for.
const RACES: usize = 25;
/// How many objects are written and read at once.
const OBJECTS: usize = 20;
/// How long one operation is repeated while the store does not answer.
const PATIENCE: Duration = Duration::from_secs(20);
/// An operation that takes longer is slow.
const SLOW_MS: u64 = 500;
/// The longest object that is read.
const OBJECT_BYTES: u64 = 1 << 16;

/// Runs all checks and prints each result. Fails if one is unsafe.
pub(super) async fn run(args: &StorageCheckArgs, url: &str, out: &mut Printer) -> CliResult {
    let (url, ship, poll) = (url.to_owned(), args.bucket_interval, args.poll_interval);
    let prices = (args.put_price, args.get_price);
    let lines = on_thread("the check", move || {
        let mut check = BucketCheck::new(&url)?;
        let checked = check.run_checks();
        let cleaned = check.remove_objects();
        checked.and(cleaned)?;
        check.report_costs(ship, poll, prices);
        Ok(check.lines)
    })
    .await?;
    let is_unsafe = lines.iter().any(|line| line.result == CheckResult::Unsafe);
    for line in &lines {
        out.print_record(&shapes::line(line)?)?;
    }
    if is_unsafe {
        let what = "this store is not safe for DriftDB: see the checks marked UNSAFE";
        return Err(Error::new(Reason::Corrupt, what).into());
    }
    Ok(())
}

/// A run of all checks, in a folder of its own.
struct BucketCheck {
    stores: Vec<BucketStore>,
    folder: String,
    names: Vec<String>,
    lines: Vec<CheckLine>,
}

impl BucketCheck {
    fn new(url: &str) -> Result<BucketCheck> {
        // A connection for each writer, as on several machines.
        let stores: Result<Vec<_>> =
            (0..WRITERS).map(|_| Ok(BucketStore::open(url)?.with_patience(PATIENCE))).collect();
        stores.map(BucketCheck::over)
    }

    fn over(stores: Vec<BucketStore>) -> BucketCheck {
        let folder = format!("storage-check-{}", Uuid::new_v4().simple());
        BucketCheck { stores, folder, names: Vec::new(), lines: Vec::new() }
    }

    fn store(&self) -> Result<&BucketStore> {
        self.stores.first().ok_or_else(|| Error::new(Reason::Internal, "the check has no connection"))
    }

    fn name(&mut self, name: &str) -> String {
        let name = format!("{}/{name}", self.folder);
        self.names.push(name.clone());
        name
    }

    fn report(
        &mut self,
        check: &'static str,
        result: CheckResult,
        ms: Option<u64>,
        means: impl Into<String>,
    ) {
        self.lines.push(CheckLine { check, result, ms, means: means.into() });
    }

    fn run_checks(&mut self) -> Result<()> {
        self.create_only()?;
        self.race()?;
        self.read_after_write()?;
        self.ranges()?;
        self.list()?;
        self.delete()
    }

    /// An object that exists is not created again, and keeps its content.
    fn create_only(&mut self) -> Result<()> {
        let name = self.name("first");
        let store = self.store()?.clone();
        let (old, new) = (Bytes::from_static(b"old"), Bytes::from_static(b"new"));
        let first = store.create(&name, &old, Persistence::lasting(PATIENCE))?;
        let second = store.create(&name, &new, Persistence::lasting(PATIENCE))?;
        let found = store.read(&name, OBJECT_BYTES)?;
        match (first, second) {
            (ChunkOutcome::Stored, ChunkOutcome::Taken(kept)) if kept == old && found == Some(old) => {
                let means = "an object is created only if none has its name";
                self.report("create only", CheckResult::Fine, None, means);
            }
            _ => {
                let means = "the store replaces objects that must only be created: two writers would destroy each other's commits";
                self.report("create only", CheckResult::Unsafe, None, means);
            }
        }
        Ok(())
    }

    /// Of several writers that create an object at the same moment, exactly one succeeds, and all see its content.
    fn race(&mut self) -> Result<()> {
        let names: Vec<String> = (0..RACES).map(|i| self.name(&format!("race-{i}"))).collect();
        let (barrier, is_over) = (Barrier::new(self.stores.len()), AtomicBool::new(false));
        let outcomes: Vec<Result<Vec<Option<Bytes>>>> = std::thread::scope(|scope| {
            let writers = self.stores.iter().enumerate().map(|(writer, store)| {
                let (names, barrier, is_over) = (&names, &barrier, &is_over);
                scope.spawn(move || race_as(store, writer, names, barrier, is_over))
            });
            let writers: Vec<_> = writers.collect();
            let panicked = |_| Err(Error::new(Reason::Internal, "a writer of the check panicked"));
            writers.into_iter().map(|writer| writer.join().unwrap_or_else(panicked)).collect()
        });
        let outcomes: Result<Vec<Vec<Option<Bytes>>>> = outcomes.into_iter().collect();
        let outcomes = outcomes?;
        let mut wrong = 0;
        for (race, name) in names.iter().enumerate() {
            let seen: Vec<&Option<Bytes>> = outcomes.iter().filter_map(|writer| writer.get(race)).collect();
            let winners = seen.iter().filter(|outcome| outcome.is_none()).count();
            let kept = self.store()?.read(name, OBJECT_BYTES)?;
            let agree = seen.iter().all(|outcome| outcome.is_none() || **outcome == kept);
            wrong += usize::from(winners != 1 || !agree);
        }
        match wrong {
            0 => {
                let means = format!(
                    "of {WRITERS} writers that create an object at once, one succeeds, {RACES} times"
                );
                self.report("create race", CheckResult::Fine, None, means);
            }
            _ => {
                let means = format!(
                    "of {WRITERS} writers that create an object at once, not exactly one succeeded, {wrong} of {RACES} times"
                );
                self.report("create race", CheckResult::Unsafe, None, means);
            }
        }
        Ok(())
    }

    /// A new object can be read at once, by another connection, and a missing one is missing.
    fn read_after_write(&mut self) -> Result<()> {
        let names: Vec<String> = (0..OBJECTS).map(|i| self.name(&format!("object-{i}"))).collect();
        let (mut missed, mut slowest) = (0, 0);
        for (i, name) in names.iter().enumerate() {
            let (writer, reader) = (self.stores.get(i % WRITERS), self.stores.get((i + 1) % WRITERS));
            let (Some(writer), Some(reader)) = (writer, reader) else { continue };
            let before = reader.read(name, OBJECT_BYTES)?;
            let bytes = Bytes::from(format!("content {i}"));
            let began = Instant::now();
            let outcome = writer.create(name, &bytes, Persistence::lasting(PATIENCE))?;
            let found = reader.read(name, OBJECT_BYTES)?;
            slowest = slowest.max(u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX));
            let is_right = before.is_none() && outcome == ChunkOutcome::Stored && found == Some(bytes);
            missed += usize::from(!is_right);
        }
        let result = match (missed, slowest > SLOW_MS) {
            (0, false) => CheckResult::Fine,
            (0, true) => CheckResult::Slow,
            _ => CheckResult::Unsafe,
        };
        let means = match missed {
            0 => "a new object is seen at once; the time is that of the slowest write and read".to_owned(),
            _ => format!(
                "{missed} of {OBJECTS} new objects were not seen at once: a mirror would take an old state for the newest"
            ),
        };
        self.report("read after write", result, Some(slowest), means);
        Ok(())
    }

    fn ranges(&mut self) -> Result<()> {
        let name = self.name("range");
        let store = self.store()?.clone();
        let content = Bytes::from_static(b"0123456789");
        store.create(&name, &content, Persistence::lasting(PATIENCE))?;
        match store.read_range(&name, 3..7) {
            Ok(found) if found == content.slice(3..7) => {
                self.report("range", CheckResult::Fine, None, "a part of an object can be read");
            }
            Ok(_) => {
                self.report("range", CheckResult::Unsafe, None, "the store returns another part of an object")
            }
            Err(error) => self.report("range", CheckResult::Unsafe, None, error.message()),
        }
        Ok(())
    }

    fn list(&mut self) -> Result<()> {
        let listed = self.store()?.list(&self.folder)?;
        let missing =
            self.names.iter().filter(|name| !listed.iter().any(|found| found.name == **name)).count();
        match missing {
            0 => self.report("list", CheckResult::Fine, None, "a listing has every object at once"),
            _ => {
                let means =
                    format!("a listing misses {missing} new objects: collection and checks would be wrong");
                self.report("list", CheckResult::Unsafe, None, means);
            }
        }
        Ok(())
    }

    fn delete(&mut self) -> Result<()> {
        let Some(name) = self.names.first().cloned() else { return Ok(()) };
        let store = self.store()?.clone();
        store.delete(&name)?;
        match store.read(&name, OBJECT_BYTES)? {
            None => self.report("delete", CheckResult::Fine, None, "a deleted object is gone at once"),
            Some(_) => {
                self.report("delete", CheckResult::Slow, None, "a deleted object can be seen for a while")
            }
        }
        Ok(())
    }

    fn remove_objects(&self) -> Result<()> {
        let store = self.store()?;
        self.names.iter().try_for_each(|name| store.delete(name))
    }

    /// What the requests cost. Storage and traffic come on top.
    fn report_costs(&mut self, ship: Duration, poll: Duration, (put_price, get_price): (f64, f64)) {
        let per_second = |interval: Duration| 1.0 / interval.as_secs_f64().max(0.001);
        let (puts, put_cost) = in_a_month(per_second(ship), put_price);
        let (gets, get_cost) = in_a_month(per_second(poll), get_price);
        let means = format!(
            "a writer that commits all the time, with --bucket-interval {ship:?}: at most {puts:.0} PUTs a month, {put_cost:.2} USD at \
             {put_price} USD for 1,000; none while it is idle"
        );
        self.report("cost, writer", CheckResult::Fine, None, means);
        let means = format!(
            "each reader, with --poll-interval {poll:?}: {gets:.0} GETs a month, {get_cost:.2} USD at {get_price} USD for 1,000"
        );
        self.report("cost, reader", CheckResult::Fine, None, means);
    }
}

/// What one writer sees in each race: `None` if it has created the object, else what another has.
fn race_as(
    store: &BucketStore,
    writer: usize,
    names: &[String],
    barrier: &Barrier,
    is_over: &AtomicBool,
) -> Result<Vec<Option<Bytes>>> {
    let (mut seen, mut failure) = (Vec::with_capacity(names.len()), None);
    for name in names {
        // All take part to the end: a barrier waits for everyone.
        barrier.wait();
        if is_over.load(Ordering::Acquire) || failure.is_some() {
            continue;
        }
        let bytes = Bytes::from(format!("writer {writer}"));
        match store.create(name, &bytes, Persistence::lasting(PATIENCE)) {
            Ok(ChunkOutcome::Stored) => seen.push(None),
            Ok(ChunkOutcome::Taken(found)) => seen.push(Some(found)),
            Err(error) => {
                is_over.store(true, Ordering::Release);
                failure = Some(error);
            }
        }
    }
    failure.map_or(Ok(seen), Err)
}

#[cfg(test)]
mod tests;
