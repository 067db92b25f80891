//! `ingest`: loads rows from a JSON Lines or CSV file, with several batches in flight. A repeated command resumes.

use driftdb::v1;
use driftdb_common::error::{Error, Reason, Result, nearest};
use driftdb_common::format::key::KeyType;
use driftdb_common::service::convert::key_type_from_wire;
use driftdb_common::storage::fs::{self, FileStamp};
use uuid::Uuid;

use crate::args::{IngestArgs, RowFormat};
use crate::database::DatabaseHandle;
use crate::exit::{CliResult, Failure};
use crate::input;
use crate::render::{self, Printer};
use crate::shapes;

mod column_types;
mod csv_parser;
mod load;
mod meter;
mod notes;
mod rows;
mod skipped;
mod tally;
#[cfg(test)]
mod tests;

use column_types::CellRules;
pub(crate) use column_types::NamedColumn;
use load::{Load, LoadPlan};
use meter::Meter;
use rows::ReadRules;
use skipped::SkippedLines;

/// Loads the rows of the file and prints their number.
pub(crate) async fn run(args: &IngestArgs, database: &mut DatabaseHandle, out: &mut Printer) -> CliResult {
    if format(args) != RowFormat::Csv && (args.all_text || !args.types.is_empty()) {
        let message = "--types and --all-text are for CSV files; JSON has types of its own";
        return Err(Failure::Usage(message.to_owned()));
    }
    let stamp = if input::is_stdin(&args.file) { None } else { fs::read_stamp(&args.file)? };
    let skipped = args.skip_bad.as_ref().map(|path| SkippedLines::open(path, stamp.as_ref())).transpose()?;
    let table = table(database, args.table.name()).await?;
    let created_seq = table.created_seq;
    let rules = ReadRules {
        csv: (format(args) == RowFormat::Csv).then(|| table.cells(args)),
        batch: batch(args),
        keep_raw: skipped.is_some(),
    };
    let plan = LoadPlan {
        table: args.table.name().to_owned(),
        file: input::name(&args.file),
        upsert: args.upsert,
        producer: producer(args, created_seq, stamp.as_ref()),
        in_flight: usize::try_from(args.in_flight).unwrap_or(1),
    };
    if args.restart {
        let producer = &plan.producer;
        render::note(&format!("note: if this load is interrupted, resume it with --producer {producer}"));
    }
    let meter = Meter::new(stamp.map(|stamp| stamp.len));
    let mut load = Load::new(plan, database, rows::open(&args.file, rules)?, skipped, meter);
    let outcome = load.run().await;
    let (loaded, line) = (load.loaded(), load.last_line());
    // Remove the progress bar before anything else is printed.
    drop(load);
    if outcome.is_err() {
        let rows = loaded.events;
        let skip = if args.skip_bad.is_none() { "; --skip-bad FILE sets such lines aside" } else { "" };
        let place = if line > 0 { format!("after line {line}") } else { "at the first line".to_owned() };
        render::note(&format!("note: this run loaded {rows} rows; the same command resumes {place}{skip}"));
    }
    outcome?;
    out.print_record(&shapes::line(&loaded)?)
}

fn batch(args: &IngestArgs) -> usize {
    usize::try_from(args.batch).unwrap_or(1)
}

fn format(args: &IngestArgs) -> RowFormat {
    let named_so = args.file.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("csv"));
    args.format.unwrap_or(if named_so { RowFormat::Csv } else { RowFormat::Jsonl })
}

/// The properties of the table that a load needs.
struct TableKey {
    primary_key: String,
    key_type: KeyType,
    /// The table's last CREATE.
    created_seq: u64,
}

impl TableKey {
    fn cells(self, args: &IngestArgs) -> CellRules {
        let named = args.types.clone();
        CellRules { all_text: args.all_text, named, key: self.primary_key, key_type: self.key_type }
    }
}

async fn table(database: &mut DatabaseHandle, name: &str) -> Result<TableKey> {
    let tables = database.writer_status().await?.tables;
    if let Some(info) = tables.iter().find(|info| info.table == name) {
        let key_type = key_type_from_wire(info.key_type)?;
        let created_seq = info.created_seq;
        return Ok(TableKey { primary_key: info.primary_key.clone(), key_type, created_seq });
    }
    let near = nearest(name, tables.iter().map(|info: &v1::TableInfo| info.table.as_str()));
    let near = near.map(|near| format!("; did you mean {near:?}?")).unwrap_or_default();
    Err(Error::new(Reason::TableNotFound, format!("table {name:?} does not exist{near}")))
}

/// The producer id under which the writer remembers the progress of this load. It includes the batch size: with another
/// size, a batch number would mean other rows. It includes the table's CREATE, too: a table that was dropped and created again
/// has none of the rows.
fn producer(args: &IngestArgs, created_seq: u64, stamp: Option<&FileStamp>) -> String {
    if let Some(id) = &args.producer {
        let usual = args.batch == 1000;
        return if usual { id.clone() } else { format!("{id}/{}", args.batch) };
    }
    let random = Uuid::new_v4().simple();
    match stamp.filter(|_| !args.restart) {
        Some(stamp) => format!("driftctl:{}:{:032x}", args.table.name(), digest(args, created_seq, stamp)),
        // A pipe cannot be read again, so its load cannot be resumed either.
        None => format!("driftctl:{}:{random}", args.table.name()),
    }
}

/// A hash of everything that determines the rows of a batch and their effect. FNV-1a, because it is stable across releases.
fn digest(args: &IngestArgs, created_seq: u64, FileStamp { path, len, modified }: &FileStamp) -> u128 {
    let version = env!("CARGO_PKG_VERSION");
    let (format, batch, upsert) = (format(args), args.batch, args.upsert);
    let (all_text, types) = (args.all_text, &args.types);
    let what = format!(
        "{version} {path:?} {len} {modified:?} {format:?} {batch} {upsert} {all_text} {types:?} {created_seq}"
    );
    what.bytes().fold(0x6c62_272e_07bb_0142_62b8_2175_6295_c58d, |hash: u128, byte| {
        (hash ^ u128::from(byte)).wrapping_mul(0x0000_0000_0100_0000_0000_0000_0000_013b)
    })
}
