//! `restore --table`: restores the whole database beside the target, drops every other table there, and discards its history.
//!
//! A commit can have changes of several tables, and a log without some of them would have commits that are not whole. So the other
//! tables go as they go in any database: each is dropped by a commit, and compacted up to its drop. Everything that holds of a database
//! holds of the result. The drops get the time of the commit that was restored, so no clock has to be trusted.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use driftdb::v1;
use driftdb_common::bucket::restore::{self, RestoreRequest};
use driftdb_common::bucket::store::BucketStore;
use driftdb_common::error::{Error, Reason, Result, nearest};
use driftdb_common::storage::fs::OsFileSystem;

use crate::args::RestoreArgs;
use crate::changes::SchemaRequest;
use crate::commands::backup::bucket_work::{NEWEST, RestoredJson, on_thread, show_made};
use crate::commands::restore::point::RestorePoint;
use crate::database::{DatabaseHandle, all_tables_at};
use crate::render::ProgressLine;
use crate::shapes;

/// Restores some tables. Continues a restore of the same bucket to the same point that was interrupted.
pub(super) async fn restore_tables(args: RestoreArgs, to: RestorePoint) -> Result<RestoredJson> {
    let RestoreArgs { url, dir, to: text, tables } = args;
    let point = text.unwrap_or_else(|| NEWEST.to_owned());
    let work = restore::selection_directory(&dir, &url, &point);
    let places = (dir.clone(), work.clone());
    on_thread("restoring", move || copy(&url, &places, to.request(&point))).await?;
    let mut database = DatabaseHandle::embedded(work.clone());
    let selected = select(&mut database, &tables, &work).await;
    let closed = database.close().await;
    let (status, discarded) = selected.and_then(|selected| closed.map(|()| selected))?;
    on_thread("verifying", move || restore::finish_selection(&OsFileSystem::shared(), &work, &dir)).await?;
    Ok(RestoredJson {
        last_seq: status.last_seq,
        last_time: Some(shapes::time(status.last_time.as_ref())?),
        epoch: format!("{:016x}", status.epoch),
        tables: status.tables.len() as u64,
        chunk: None,
        discarded: Some(discarded),
    })
}

fn copy(url: &str, (target, work): &(PathBuf, PathBuf), request: RestoreRequest<'_>) -> Result<()> {
    let (store, mut line) = (BucketStore::open(url)?, ProgressLine::default());
    let places: (&Path, &Path) = (target, work);
    restore::restore_for_selection(&store, &OsFileSystem::shared(), places, request, &mut |made| {
        show_made(&mut line, made);
        Ok(())
    })
}

/// Drops and compacts all tables but these. Returns the writer's status then, and how many tables are gone. What an interrupted attempt
/// has done already is not done again.
async fn select(
    database: &mut DatabaseHandle,
    tables: &[String],
    work: &Path,
) -> Result<(v1::WriterServiceStatusResponse, u64)> {
    let (_, all) = all_tables_at(database.fresh_client().await?, None).await?;
    let live = || all.iter().filter(|info| !info.dropped).map(|info| info.table.as_str());
    if let Some(unknown) = tables.iter().find(|table| !live().any(|name| name == *table)) {
        let hint = unknown_table_hint(unknown, live(), &all);
        let message = format!(
            "cannot restore table {unknown:?}: the database has no such table at that point; {hint} (a copy of the whole database is in {} \
             for the next try)",
            work.display()
        );
        return Err(Error::new(Reason::TableNotFound, message).with("table", unknown));
    }
    let kept: BTreeSet<&str> = tables.iter().map(String::as_str).collect();
    let commit_time = database.writer_status().await?.last_time;
    for table in live().filter(|table| !kept.contains(table)) {
        let reason = "restore --table".to_owned();
        let options = Some(v1::CommitOptions { reason, commit_time, ..Default::default() });
        let request = v1::DropTableRequest { table: table.to_owned(), options };
        database.change_schema(SchemaRequest::Drop(request)).await?;
    }
    let gone: BTreeSet<&str> =
        all.iter().map(|info| info.table.as_str()).filter(|table| !kept.contains(table)).collect();
    for table in &gone {
        let request = v1::CompactRequest { table: (*table).to_owned(), ..Default::default() };
        database.compact(request).await?;
    }
    Ok((database.writer_status().await?, gone.len() as u64))
}

fn unknown_table_hint<'t>(
    table: &str,
    live: impl Iterator<Item = &'t str> + Clone,
    all: &[v1::TableInfo],
) -> String {
    match nearest(table, live.clone()) {
        Some(near) => format!("did you mean {near:?}?"),
        None if all.iter().any(|info| info.dropped && info.table == table) => {
            "it was dropped before".to_owned()
        }
        None => format!("it had {}", live.take(NAMED).collect::<Vec<_>>().join(", ")),
    }
}

/// How many tables an error names.
const NAMED: usize = 10;
