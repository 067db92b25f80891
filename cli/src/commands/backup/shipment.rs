//! Ships a database to a bucket, once: a data directory, or that of a running writer.

use std::path::PathBuf;

use driftdb::v1;
use driftdb_common::bucket::beginning;
use driftdb_common::bucket::store::BucketStore;
use driftdb_common::error::Result;
use driftdb_common::storage::fs::OsFileSystem;
use driftdb_common::storage::layout::DataDir;
use serde::Serialize;

use super::bucket_work::{commit_time, on_thread};
use crate::database::DatabaseHandle;
use crate::exit::CliResult;
use crate::render::{Printer, ProgressLine};
use crate::shapes;

#[derive(Serialize)]
struct ShipmentJson {
    last_seq: u64,
    last_time: Option<String>,
    chunk: u64,
    new: bool,
}

/// Ships what the bucket does not have, and prints how far it is then.
pub(crate) async fn ship(data: PathBuf, url: String, force: bool, out: &mut Printer) -> CliResult {
    let shipped = on_thread("the backup", move || -> Result<_> {
        let store = BucketStore::open(&url)?;
        let (place, mut line) = ((OsFileSystem::shared(), DataDir::new(data)), ProgressLine::default());
        beginning::back_up_with(&store, &place, force, &mut |done, total| {
            line.show(format_args!("uploading: {} of {} MiB", done >> 20, total >> 20));
            Ok(())
        })
    })
    .await?;
    out.print_record(&shapes::line(&ShipmentJson {
        last_seq: shipped.last.seq,
        last_time: commit_time(shipped.last.seq, shipped.last.time_ms),
        chunk: shipped.chunk,
        new: shipped.is_new,
    })?)
}

/// Has a running writer ship what the bucket does not have, and prints how far it is then.
pub(crate) async fn ask_writer(
    database: &mut DatabaseHandle,
    url: String,
    force: bool,
    out: &mut Printer,
) -> CliResult {
    let v1::BackupInfo { last_seq, last_time, chunk, is_new } =
        database.back_up(v1::BackupRequest { url, force }).await?;
    let last_time = (last_seq > 0).then(|| shapes::time(last_time.as_ref())).transpose()?;
    out.print_record(&shapes::line(&ShipmentJson { last_seq, last_time, chunk, new: is_new })?)
}
