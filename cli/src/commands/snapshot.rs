//! `snapshot`: writes a snapshot of a table.

use serde::Serialize;

use crate::args::SnapshotArgs;
use crate::database::DatabaseHandle;
use crate::exit::CliResult;
use crate::render::Printer;
use crate::shapes;

#[derive(Serialize)]
struct SnapshotJson {
    table: String,
    seq: u64,
    rows: u64,
    bytes: u64,
}

/// Writes the snapshot and prints its properties.
pub(crate) async fn run(args: SnapshotArgs, database: &mut DatabaseHandle, out: &mut Printer) -> CliResult {
    let info = database.snapshot(args.table.name()).await?;
    let written = SnapshotJson {
        table: args.table.name().to_owned(),
        seq: info.seq,
        rows: info.rows,
        bytes: info.bytes,
    };
    out.print_record(&shapes::line(&written)?)
}
