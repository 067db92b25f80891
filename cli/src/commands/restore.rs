//! `restore`: makes a database of what a bucket had at a point in time.

use driftdb_common::bucket::restore::{self, RestoreRequest, RestoredDatabase};
use driftdb_common::bucket::store::BucketStore;
use driftdb_common::error::Result;
use driftdb_common::storage::fs::OsFileSystem;

use crate::args::{GlobalArgs, RestoreArgs};
use crate::commands::backup::bucket_work::{NEWEST, RestoredJson, commit_time, on_thread, show_made};
use crate::commands::restore::point::{RestorePoint, parse_bound};
use crate::exit::CliResult;
use crate::render::{self, Printer, ProgressLine};
use crate::shapes;

pub(crate) mod point;
mod selection;

/// Restores, and prints what was restored.
pub(crate) async fn run(args: RestoreArgs, global: &GlobalArgs, out: &mut Printer) -> CliResult {
    let point = parse_bound(args.to.as_deref(), global)?;
    let dir = args.dir.display().to_string();
    let restored = if args.tables.is_empty() {
        restore_all(args, point).await?
    } else {
        selection::restore_tables(args, point).await?
    };
    out.print_record(&shapes::line(&restored)?)?;
    if out.is_for_people() {
        render::note(&format!("restored and verified. To serve it:\n  driftctl dev -d {dir}"));
    }
    Ok(())
}

async fn restore_all(args: RestoreArgs, point: RestorePoint) -> Result<RestoredJson> {
    let restored = on_thread("restoring", move || {
        restore_to(&args.url, &args.dir, point.request(args.to.as_deref().unwrap_or(NEWEST)))
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
