//! `restore`: makes a database of what a bucket had at a point in time.

use driftdb_common::bucket::restore::{self, RestoreRequest, RestoredDatabase};
use driftdb_common::bucket::store::BucketStore;
use driftdb_common::error::Result;
use driftdb_common::query::local_clock::LocalClock;
use driftdb_common::query::parser::{self, ParsedPoint};
use driftdb_common::service::clock::now_ms;
use driftdb_common::storage::fs::OsFileSystem;
use driftdb_common::table::point_in_time::{CommitBound, PointInTime};

use crate::args::{GlobalArgs, RestoreArgs};
use crate::commands::backup::bucket_work::{NEWEST, RestoredJson, commit_time, on_thread, show_made};
use crate::exit::{CliResult, Failure};
use crate::render::{self, Printer, ProgressLine};
use crate::shapes;

mod selection;

/// Restores, and prints what was restored.
pub(crate) async fn run(args: RestoreArgs, global: &GlobalArgs, out: &mut Printer) -> CliResult {
    let bound = parse_bound(args.to.as_deref(), global)?;
    let dir = args.dir.display().to_string();
    let restored = if args.tables.is_empty() {
        restore_all(args, bound).await?
    } else {
        selection::restore_tables(args, bound).await?
    };
    out.print_record(&shapes::line(&restored)?)?;
    if out.is_for_people() {
        render::note(&format!("restored and verified. To serve it:\n  driftctl dev -d {dir}"));
    }
    Ok(())
}

async fn restore_all(args: RestoreArgs, bound: Option<CommitBound>) -> Result<RestoredJson> {
    let restored = on_thread("restoring", move || {
        let point = args.to.as_deref().unwrap_or(NEWEST);
        restore_to(&args.url, &args.dir, RestoreRequest { point, bound, is_clone: false })
    })
    .await?;
    let RestoredDatabase { seq, time_ms, epoch, chunk, tables } = restored;
    Ok(RestoredJson {
        last_seq: seq,
        last_time: commit_time(seq, time_ms),
        epoch: format!("{epoch:016x}"),
        tables,
        chunk: Some(chunk),
        discarded: None,
    })
}

/// Restores a bucket into a directory, with progress on a terminal.
pub(crate) fn restore_to(
    url: &str,
    target: &std::path::Path,
    request: RestoreRequest<'_>,
) -> Result<RestoredDatabase> {
    let store = BucketStore::open(url)?;
    let mut line = ProgressLine::default();
    restore::restore(&store, &OsFileSystem::shared(), target, request, &mut |made| {
        show_made(&mut line, made);
        Ok(())
    })
}

/// Parses the point in time of an option; `None` is the newest commit.
pub(crate) fn parse_bound(point: Option<&str>, global: &GlobalArgs) -> CliResult<Option<CommitBound>> {
    let Some(text) = point else { return Ok(None) };
    let clock = LocalClock::in_zone(global.tz.as_deref().unwrap_or_default(), now_ms())?;
    let parsed = parser::parse_point(text, &clock).map_err(|error| Failure::in_text(error, text))?;
    let ParsedPoint { point, note } = parsed;
    render::note_all(note.as_slice());
    match point {
        PointInTime::Now => Ok(None),
        // No commit is newer than this one, so that only times are left to look up.
        point => Ok(Some(point.bound(u64::MAX, clock.now_ms())?)),
    }
}
