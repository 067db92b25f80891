//! How a process becomes a bucket's writer: with a directory that continues what the bucket has, or with an empty one.
//!
//! A directory continues the bucket if its history contains the bucket's last commit. That is looked at before the bucket is taken over,
//! so that a copy of the directory that someone starts by mistake does not stop the writer that is at work, and again afterwards.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::bucket::chain::{ChunkChain, find_ends};
use crate::bucket::chunk::ChunkOrigin;
use crate::bucket::disk_state::DiskReader;
use crate::bucket::fencing::{self, BucketClaim};
use crate::bucket::mirror::{self, MirrorProgress};
use crate::bucket::ship_source::upload;
use crate::bucket::shipped::ShippedState;
use crate::bucket::shipper::{ShipReport, ShippedHead, Shipper};
use crate::bucket::store::BucketStore;
use crate::error::{Error, Reason, Result};
use crate::format::manifest::{self, Database};
use crate::storage::foreign_files::{check_no_foreign_files, check_no_mirror};
use crate::storage::fs::{self, FileSystem};
use crate::storage::head::{self, Head};
use crate::storage::head_file::HeadFile;
use crate::storage::layout::{self, DataDir};
use crate::storage::lineage;
use crate::storage::lock::Lock;

/// How often `backup` looks again at a directory whose writer adds files to upload.
const BACKUP_ROUNDS: u32 = 20;
/// How often a take-over logs how far the directory is.
const LOG_EVERY: Duration = Duration::from_secs(5);

/// A data directory and the file system that it is on.
pub type Place = (Arc<dyn FileSystem>, DataDir);

/// Takes over the bucket for a directory that continues it, whose HEAD is or is about to be `head`. A claim that was made for an empty
/// directory is used.
pub fn begin(
    store: &BucketStore,
    place: &Place,
    head: &Head,
    claim: Option<BucketClaim>,
    origin: ChunkOrigin,
) -> Result<Shipper> {
    let (claim, shipped) = match claim {
        Some(claim) => {
            let shipped = ShippedState::read(store, &claim.chain)?;
            (claim, shipped)
        }
        None => claim_for(store, place, head, origin)?,
    };
    check_continues(store, place, &shipped, head)?;
    Ok(Shipper::new(store.clone(), place.clone(), claim, shipped, origin))
}

fn claim_for(
    store: &BucketStore,
    place: &Place,
    head: &Head,
    origin: ChunkOrigin,
) -> Result<(BucketClaim, ShippedState)> {
    let (mut shipped, mut chain) = (ShippedState::default(), None);
    if let Some(last) = last_chunk(store)? {
        if last.last.database_id != head.header.database_id {
            return Err(fencing::other_database(store, uuid::Uuid::from_bytes(last.last.database_id)));
        }
        shipped = ShippedState::read(store, &last)?;
        check_continues(store, place, &shipped, head)?;
        chain = Some(last);
    }
    let claim = fencing::claim(store, head.header.database_id, origin, &store.persistence())?;
    let next = chain.map_or(1, |chain: ChunkChain| chain.next_number());
    for number in next..=claim.fence {
        shipped.read_next(store, number, &mut chain)?;
    }
    Ok((claim, shipped))
}

fn last_chunk(store: &BucketStore) -> Result<Option<ChunkChain>> {
    let Some(ends) = find_ends(store)? else { return Ok(None) };
    Ok(store.chunk(ends.last)?.map(|(chunk, bytes)| ChunkChain::begin(&chunk, &bytes)))
}

/// Fails if the history of a directory does not contain all that the bucket has.
fn check_continues(
    store: &BucketStore,
    (fs, dir): &Place,
    shipped: &ShippedState,
    head: &Head,
) -> Result<()> {
    let Some(old) = &shipped.head else { return Ok(()) };
    let own = lineage::read(&**fs, dir, head)?;
    let last = shipped.lineage.point(old.last_seq());
    let why = if !own.continues(last) {
        "another writer has written to the bucket since the two were the same"
    } else if head.last_seq() < old.last_seq() {
        "the directory is older than the bucket"
    } else {
        return Ok(());
    };
    let message = format!(
        "{} does not continue the bucket {}: {why} (the directory ends at commit {}, the bucket at {}); move the directory away and \
         start with an empty one, which is then filled from the bucket, or name another bucket or prefix",
        dir.root().display(),
        store.url(),
        head.last_seq(),
        old.last_seq()
    );
    Err(Error::new(Reason::ArgumentInvalid, message))
}

/// Fills an empty directory from the bucket, and takes the bucket over. Returns `None`, and changes nothing, if the directory has a
/// database or the bucket has none. `origin` is what takes over.
pub fn take_over(store: &BucketStore, place: &Place, origin: ChunkOrigin) -> Result<Option<BucketClaim>> {
    let (fs, dir) = place;
    let exists = |path: &std::path::Path| match fs.open(path) {
        Ok(_) => Ok(true),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(false),
        Err(e) => Err(fs::read_failed(path, &e)),
    };
    let is_mirror = exists(&dir.root().join(layout::MIRROR_RECORD))?;
    let has_database = exists(&dir.database())?;
    if is_mirror && has_database {
        check_no_mirror(&**fs, dir)?;
    }
    // What else there is, if any, is for recovery to judge.
    if has_database || (!is_mirror && exists(&dir.head())?) {
        return Ok(None);
    }
    let Some(last) = last_chunk(store)?.filter(|last| last.last.base > 0) else { return Ok(None) };
    let failed = |e| Error::io(format_args!("cannot create {}", dir.root().display()), &e);
    fs.create_dir(dir.root()).map_err(failed)?;
    if !is_mirror {
        check_no_foreign_files(&**fs, dir)?;
    }
    let lock = Lock::acquire(&**fs, dir)?;
    let claim = fencing::claim(store, last.last.database_id, origin, &store.persistence())?;
    tracing::info!(bucket = store.url(), term = claim.chain.last.term, path = %dir.root().display(), "took over the bucket; filling the directory from it");
    let shipped = ShippedState::read(store, &claim.chain)?;
    let seq = claim.chain.last.last.seq;
    // The epoch is new before the directory counts as a database: a crash in between must not leave one with the former epoch.
    let mut logged = Instant::now();
    let mut log_progress = |made: MirrorProgress| {
        if logged.elapsed() >= LOG_EVERY {
            let MirrorProgress { chunk, last_chunk, bytes, left } = made;
            tracing::info!(chunk, chunks = last_chunk, bytes, left, "filling the directory from the bucket");
            logged = Instant::now();
        }
        Ok(())
    };
    mirror::materialize_changed((store, Some(claim.fence)), (fs, dir), &mut log_progress, || {
        if shipped.has_all_acknowledged(claim.fence) {
            tracing::info!(seq, "the bucket has everything that was acknowledged: the epoch stays");
            return Ok(());
        }
        let epoch = begin_epoch(&**fs, dir)?;
        tracing::warn!(
            seq,
            epoch = format!("{epoch:016x}"),
            "the last writer acknowledged commits before they were in the bucket, and the newest may be missing: a new epoch begins"
        );
        Ok(())
    })?;
    drop(lock);
    Ok(Some(claim))
}

/// Begins another history in a directory that no writer has open: clients that know the former one are told.
pub fn begin_epoch(fs: &dyn FileSystem, dir: &DataDir) -> Result<u64> {
    let missing = |path: std::path::PathBuf| Error::corrupt(path.display(), 0, "the file is missing");
    let database = layout::read_database(fs, dir)?.ok_or_else(|| missing(dir.database()))?;
    let mut head = head::read(fs, dir)?.ok_or_else(|| missing(dir.head()))?;
    let (_, random) = uuid::Uuid::new_v4().as_u64_pair();
    let epoch = random.max(1);
    fs::replace(fs, &dir.database(), &manifest::encode(&Database { epoch, ..database })?)?;
    head.header.epoch = epoch;
    head.header.generation = head.header.generation.wrapping_add(1);
    HeadFile::replace(fs, dir, &head)?;
    Ok(epoch)
}

/// Ships to a bucket, once, what it lacks of a directory. A writer may be at work in the directory, but not one that ships to this
/// bucket: it would be replaced. So a bucket whose last chunk is that of a writer that has not closed its database is refused, unless
/// `force` says that the writer has ended.
pub fn back_up(store: &BucketStore, place: &Place, force: bool) -> Result<ShipReport> {
    back_up_with(store, place, force, &mut |_, _| Ok(()))
}

/// The same, with reports of the bytes of files that were uploaded, and of those that are known to be needed. An error stops the work.
pub fn back_up_with(
    store: &BucketStore,
    place: &Place,
    force: bool,
    progress: &mut dyn FnMut(u64, u64) -> Result<()>,
) -> Result<ShipReport> {
    let disk = DiskReader { fs: Arc::clone(&place.0), dir: place.1.clone() };
    let head = disk.head()?;
    let Some(head) = head else {
        let message = format!("{} contains no database", place.1.root().display());
        return Err(Error::new(Reason::ArgumentInvalid, message));
    };
    if let Some(last) = last_chunk(store)?.filter(|last| last.last.database_id == head.header.database_id) {
        let shipped = ShippedState::read(store, &last)?;
        let is_open = shipped.head.as_ref().is_some_and(|head| !head.header.closed) && !last.last.is_backup;
        if !force && (is_open || shipped.writer_fence.is_some()) {
            let message = format!(
                "a writer ships to the bucket {} by itself, or has ended without closing its database; name another prefix for \
                 this backup, or use --force if that writer has ended",
                store.url()
            );
            return Err(Error::new(Reason::ArgumentInvalid, message));
        }
        if shipped.head.as_ref().is_some_and(|old| old.publishes_as(&head)) {
            return Ok(ShipReport { last: last.last.last, chunk: last.last.number, is_new: false });
        }
    }
    let mut shipper = begin(store, place, &head, None, ChunkOrigin::Backup)?;
    upload_all(store, place, &mut shipper, progress)?;
    shipper.ship(&ShippedHead::OnDisk, &store.persistence()).map_err(|error| match error.reason() {
        Reason::Fenced => {
            let message = format!(
                "another process has begun to ship to the bucket {} meanwhile; run the backup again once that has ended",
                store.url()
            );
            Error::new(Reason::ArgumentInvalid, message)
        }
        _ => error,
    })
}

/// Uploads the files that the next chunk needs, before the chunk is made.
fn upload_all(
    store: &BucketStore,
    (fs, dir): &Place,
    shipper: &mut Shipper,
    progress: &mut dyn FnMut(u64, u64) -> Result<()>,
) -> Result<()> {
    let mut done = 0;
    for _ in 0..BACKUP_ROUNDS {
        let wanted = shipper.wanted()?;
        if wanted.is_empty() {
            break;
        }
        let total = done + wanted.iter().map(|file| file.bytes).sum::<u64>();
        for file in wanted {
            progress(done, total)?;
            match upload(store, &**fs, dir.root(), &file, &mut || progress(done, total)) {
                Ok(known) => shipper.note_uploaded(known),
                // A job has replaced it.
                Err(error) if error.reason() == Reason::FileGone => {}
                Err(error) => return Err(error),
            }
            done += file.bytes;
        }
        progress(done, total)?;
    }
    Ok(())
}
