//! `ingest`: rows from JSON Lines or CSV, many batches under way, and on from where a run before stopped.

use driftdb::v1;
use driftdb_common::error::{Error, Reason, Result, nearest};
use driftdb_common::format::key::KeyType;
use driftdb_common::service::convert::key_type_from_wire;
use driftdb_common::storage::fs::{self, FileStamp};
use uuid::Uuid;

use crate::args::{Ingest, RowFormat};
use crate::client::Client;
use crate::exit::Outcome;
use crate::input;
use crate::render::{self, Output};
use crate::shapes;

mod aside;
mod load;
mod meter;
mod rows;
mod sheet;
#[cfg(test)]
mod tests;

use aside::Aside;
use load::{Load, Plan};
use meter::Meter;
use rows::Rules;
use sheet::Cells;

/// Loads the file's rows and prints how many there were.
pub async fn run(args: &Ingest, client: &mut Client, out: &mut Output) -> Outcome {
    let stamp = if input::is_stdin(&args.file) { None } else { fs::read_stamp(&args.file)? };
    let aside = args.skip_bad.as_ref().map(|path| Aside::open(path, stamp.as_ref())).transpose()?;
    let table = table(client, &args.table).await?;
    let rules = Rules {
        csv: (format(args) == RowFormat::Csv).then(|| table.cells(args)),
        batch: batch(args),
        keep_raw: aside.is_some(),
    };
    let plan = Plan {
        table: args.table.clone(),
        file: input::name(&args.file),
        upsert: args.upsert,
        producer: producer(args, stamp.as_ref()),
        in_flight: usize::try_from(args.in_flight).unwrap_or(1),
    };
    if args.restart {
        let producer = &plan.producer;
        render::note(&format!("note: after a break this load goes on with --producer {producer}"));
    }
    let meter = Meter::new(stamp.map(|stamp| stamp.len));
    let mut load = Load::new(plan, client, rows::open(&args.file, rules)?, aside, meter);
    let outcome = load.run().await;
    let (loaded, line) = (load.loaded(), load.last_line());
    // The bar goes before anything else is said.
    drop(load);
    if outcome.is_err() && line > 0 {
        let rows = loaded.events;
        let skip = if args.skip_bad.is_none() { "; --skip-bad FILE passes over bad lines" } else { "" };
        render::note(&format!(
            "note: {rows} rows were loaded in this run; the same command goes on behind line {line}{skip}"
        ));
    }
    outcome?;
    out.record(&shapes::line(&loaded)?)
}

fn batch(args: &Ingest) -> usize {
    usize::try_from(args.batch).unwrap_or(1)
}

fn format(args: &Ingest) -> RowFormat {
    let named_so = args.file.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("csv"));
    args.format.unwrap_or(if named_so { RowFormat::Csv } else { RowFormat::Jsonl })
}

/// What must be known of the table.
struct Table {
    primary_key: String,
    key_type: KeyType,
}

impl Table {
    fn cells(self, args: &Ingest) -> Cells {
        Cells { text: args.csv_text, key: self.primary_key, key_type: self.key_type }
    }
}

async fn table(client: &mut Client, name: &str) -> Result<Table> {
    let tables = client.writer_status().await?.tables;
    if let Some(info) = tables.iter().find(|info| info.table == name) {
        let key_type = key_type_from_wire(info.key_type)?;
        return Ok(Table { primary_key: info.primary_key.clone(), key_type });
    }
    let near = nearest(name, tables.iter().map(|info: &v1::TableInfo| info.table.as_str()));
    let near = near.map(|near| format!("; did you mean {near:?}?")).unwrap_or_default();
    Err(Error::new(Reason::TableNotFound, format!("there is no table {name:?}{near}")))
}

/// The name under which the writer remembers how far this load has come. Batches of another size are another load: what
/// a batch's number means would be another.
fn producer(args: &Ingest, stamp: Option<&FileStamp>) -> String {
    if let Some(id) = &args.producer {
        let usual = args.batch == 1000;
        return if usual { id.clone() } else { format!("{id}/{}", args.batch) };
    }
    let random = Uuid::new_v4().simple();
    match stamp.filter(|_| !args.restart) {
        Some(stamp) => format!("driftctl:{}:{:032x}", args.table, digest(args, stamp)),
        // Also for a pipe, which cannot be read again: its load ends with this run.
        None => format!("driftctl:{}:{random}", args.table),
    }
}

/// All that decides which rows a batch holds, and what becomes of them. FNV-1a, which will be the same tomorrow.
fn digest(args: &Ingest, FileStamp { path, len, modified }: &FileStamp) -> u128 {
    let version = env!("CARGO_PKG_VERSION");
    let (format, batch, upsert, csv_text) = (format(args), args.batch, args.upsert, args.csv_text);
    let what = format!("{version} {path:?} {len} {modified:?} {format:?} {batch} {upsert} {csv_text}");
    what.bytes().fold(0x6c62_272e_07bb_0142_62b8_2175_6295_c58d, |hash: u128, byte| {
        (hash ^ u128::from(byte)).wrapping_mul(0x0000_0000_0100_0000_0000_0000_0000_013b)
    })
}
