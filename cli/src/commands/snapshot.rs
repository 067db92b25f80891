//! `snapshot`: writes a snapshot of a table.

use serde::Serialize;

use crate::args::Snapshot;
use crate::client::Client;
use crate::exit::Outcome;
use crate::render::Output;
use crate::shapes;

#[derive(Serialize)]
struct Written {
    table: String,
    seq: u64,
    rows: u64,
    bytes: u64,
}

/// Writes the snapshot and prints its properties.
pub async fn run(args: Snapshot, client: &mut Client, out: &mut Output) -> Outcome {
    let info = client.snapshot(&args.table).await?;
    let written = Written { table: args.table, seq: info.seq, rows: info.rows, bytes: info.bytes };
    out.record(&shapes::line(&written)?)
}
