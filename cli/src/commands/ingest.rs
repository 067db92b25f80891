//! `ingest`: loads rows from a JSON Lines or CSV file, with several batches in flight. A repeated command resumes.

use std::path::Path;

use driftdb::v1;
use driftdb_common::error::{Error, Reason, Result, nearest};
use driftdb_common::format::key::KeyType;
use driftdb_common::service::key_schema::key_from_wire;
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
mod dry_run;
mod json_advice;
mod json_array;
mod key_fields;
mod load;
mod meter;
mod notes;
mod rows;
mod skipped;
mod tally;
#[cfg(test)]
pub(crate) mod tests;

use column_types::CellRules;
pub(crate) use column_types::{ColumnType, FittingTypes, NamedColumn};
pub(crate) use key_fields::NamedKey;
use key_fields::{KeyField, TableKey};
use load::{Load, LoadPlan};
use meter::Meter;
use rows::{InputPiece, Pieces, ReadRules};
use skipped::SkippedLines;

/// Loads the rows of the file and prints their number.
pub(crate) async fn run(args: &IngestArgs, database: &mut DatabaseHandle, out: &mut Printer) -> CliResult {
    if format(args) == RowFormat::Jsonl
        && (args.all_text || !args.types.is_empty() || !args.null.is_empty() || args.delimiter.is_some())
    {
        let message = "--types, --all-text, --null and --delimiter are for CSV and TSV files; JSON has types of its own";
        return Err(Failure::Usage(message.to_owned()));
    }
    let stamp = if input::is_stdin(args.target.file()) { None } else { fs::read_stamp(args.target.file())? };
    let skipped = args.skip_bad.as_ref().map(|path| SkippedLines::open(path, stamp.as_ref())).transpose()?;
    let table = table(database, args).await?;
    let rules = ReadRules {
        csv: (format(args) != RowFormat::Jsonl).then(|| cells(args, &table)),
        batch: batch(args),
        keep_raw: skipped.is_some(),
    };
    let mut pieces = Pieces::new(rows::open(args.target.file(), rules)?);
    if args.dry_run {
        return dry_run::run(pieces, (&table, args.upsert), out).await;
    }
    let created_seq = match table.created_seq {
        Some(seq) => seq,
        None => {
            // A file that cannot be loaded must leave no table behind.
            check_begin(&mut pieces, &table, args).await?;
            create(database, args.target.table(), &table).await?
        }
    };
    let plan = LoadPlan {
        table: args.target.table().to_owned(),
        file: input::name(args.target.file()),
        upsert: args.upsert,
        producer: producer(args, created_seq, stamp.as_ref()),
        in_flight: usize::try_from(args.in_flight).unwrap_or(1),
    };
    if args.restart {
        let producer = &plan.producer;
        render::note(&format!("note: if this load is interrupted, resume it with --producer {producer}"));
    }
    // Of a compressed file, the length says little about how much there is to read.
    let len = stamp.filter(|_| uncompressed_name(args.target.file()).1).map(|stamp| stamp.len);
    let meter = Meter::new(len);
    let mut load = Load::new(plan, database, pieces, skipped, meter);
    let outcome = load.run().await;
    let (loaded, line) = (load.loaded(), load.last_line());
    // Remove the progress bar before anything else is printed.
    drop(load);
    if outcome.is_err() {
        let rows = loaded.events;
        let skip = if args.skip_bad.is_none() { "; --skip-bad FILE sets such lines aside" } else { "" };
        let place = if line > 0 { format!("after line {line}") } else { "at the first line".to_owned() };
        let other = if rows > 0 && format(args) != RowFormat::Jsonl {
            "; with other --types or --null the load begins again: drop the table first, or add --upsert"
        } else {
            ""
        };
        render::note(&format!(
            "note: this run loaded {rows} rows; the same command resumes {place}{skip}{other}"
        ));
    }
    outcome.map_err(|error| with_key_advice(error, args))?;
    out.print_record(&shapes::line(&loaded)?)
}

/// Fails if the file has no header that fits, or its first line is not a row and such lines are not set aside.
async fn check_begin(pieces: &mut Pieces, table: &TableKey, args: &IngestArgs) -> Result<()> {
    let place = |line| format!("{}, line {line}", input::name(args.target.file()));
    match pieces.peek().await {
        Some(Err(error)) => Err(error.clone()),
        Some(Ok(InputPiece::Bad(line, _, error))) if args.skip_bad.is_none() => {
            Err(error.clone().context(place(*line)))
        }
        Some(Ok(InputPiece::Batch(batch))) if args.skip_bad.is_none() => match batch.rows.first() {
            Some(row) => table.of(&row.document).map(drop).map_err(|error| error.context(place(row.line))),
            None => Ok(()),
        },
        _ => Ok(()),
    }
}

/// Advice: how to create a table whose keys are whole numbers, like those of the file.
fn with_key_advice(error: Error, args: &IngestArgs) -> Error {
    let is_number = error.reason() == Reason::KeyInvalid
        && error.message().ends_with("must be STRING, but is an integer");
    if !is_number || !args.create || args.int_key {
        return error;
    }
    let table = args.target.table();
    let advice = format!("for keys that are whole numbers, drop table {table} and load with --int-key");
    Error::new(error.reason(), format!("{}; {advice}", error.message()))
}

fn batch(args: &IngestArgs) -> usize {
    usize::try_from(args.batch).unwrap_or(1)
}

fn format(args: &IngestArgs) -> RowFormat {
    let by_name = match uncompressed_name(args.target.file()).0.rsplit_once('.') {
        Some((_, "csv")) => RowFormat::Csv,
        Some((_, "tsv" | "tab")) => RowFormat::Tsv,
        _ => RowFormat::Jsonl,
    };
    args.format.unwrap_or(by_name)
}

/// The name of a file without `.gz` or `.zst`, and whether it had neither.
fn uncompressed_name(file: &Path) -> (String, bool) {
    let name = file.file_name().unwrap_or_default().to_string_lossy().to_ascii_lowercase();
    match name.strip_suffix(".gz").or(name.strip_suffix(".zst")) {
        Some(stem) => (stem.to_owned(), false),
        None => (name, true),
    }
}

fn cells(args: &IngestArgs, table: &TableKey) -> CellRules {
    let usual = if format(args) == RowFormat::Tsv { b'\t' } else { b',' };
    CellRules {
        all_text: args.all_text,
        named: args.types.clone(),
        nulls: args.null.clone(),
        delimiter: args.delimiter.unwrap_or(usual),
        keys: table.fields.clone(),
        makes_keys: table.makes_keys,
    }
}

/// The table, which may have to be created first, if the user asks for it.
async fn table(database: &mut DatabaseHandle, args: &IngestArgs) -> Result<TableKey> {
    let name = args.target.table();
    let tables = database.writer_status().await?.tables;
    if let Some(info) = tables.iter().find(|info| info.table == name) {
        if args.auto && !info.auto_key {
            let message = format!(
                "table {name:?} exists, and the writer does not make its keys; drop the table, or load without --auto"
            );
            return Err(Error::new(Reason::TableExists, message));
        }
        let (name, of) = key_from_wire(info.primary_key.clone(), info.key_type, &info.key_columns)?;
        let names = match info.key_columns.as_slice() {
            [] => vec![name],
            columns => columns.iter().map(|column| column.field.clone()).collect(),
        };
        let fields = names.into_iter().zip(of.columns()).map(|(name, of)| KeyField { name, of }).collect();
        let (is_auto, created_seq) = (info.auto_key, Some(info.created_seq));
        return Ok(TableKey { fields, is_auto, makes_keys: is_auto && !args.upsert, created_seq });
    }
    if !args.pk.is_empty() {
        let usual = if args.int_key { KeyType::Int } else { KeyType::String };
        let fields = args.pk.iter().map(|key| key.field(usual)).collect();
        let makes_keys = args.auto && !args.upsert;
        return Ok(TableKey { fields, is_auto: args.auto, makes_keys, created_seq: None });
    }
    let near = nearest(name, tables.iter().map(|info: &v1::TableInfo| info.table.as_str()));
    let near = near.map(|near| format!("; did you mean {near:?}?"));
    let near = near.unwrap_or_else(|| "; --create --pk FIELD creates it".to_owned());
    Err(Error::new(Reason::TableNotFound, format!("table {name:?} does not exist{near}")))
}

/// Creates a table, and returns the seq of the commit.
async fn create(database: &mut DatabaseHandle, table: &str, key: &TableKey) -> Result<u64> {
    let quoted = |name: &str| format!("`{}`", name.replace('`', "``"));
    let fields = key.fields.iter().map(|field| format!("{} {}", quoted(&field.name), field.of));
    let fields = fields.collect::<Vec<_>>().join(", ");
    let fields = if key.fields.len() > 1 { format!("({fields})") } else { fields };
    let of = if key.is_auto { " AUTO" } else { "" };
    let statement = format!("CREATE TABLE {} (pk={fields}{of})", quoted(table));
    let request = v1::WriterServiceExecuteRequest { statement, ..Default::default() };
    let token = database.execute_with_messages(request, |_| ()).await?.token;
    let names = key.fields.iter().map(|field| format!("{:?}", field.name)).collect::<Vec<_>>().join(", ");
    let made = if key.is_auto { "; the writer makes the keys of rows that have none" } else { "" };
    render::note(&format!("note: created table {table:?} with the primary key {names}{made}"));
    Ok(token.unwrap_or_default().seq)
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
        Some(stamp) => format!("driftctl:{}:{:032x}", args.target.table(), digest(args, created_seq, stamp)),
        // A pipe cannot be read again, so its load cannot be resumed either.
        None => format!("driftctl:{}:{random}", args.target.table()),
    }
}

/// A hash of everything that determines the rows of a batch and their effect. FNV-1a, because it is stable across releases.
fn digest(args: &IngestArgs, created_seq: u64, FileStamp { path, len, modified }: &FileStamp) -> u128 {
    let version = env!("CARGO_PKG_VERSION");
    let (format, batch, upsert) = (format(args), args.batch, args.upsert);
    let cells = (args.all_text, &args.types, &args.null, args.delimiter);
    let what =
        format!("{version} {path:?} {len} {modified:?} {format:?} {batch} {upsert} {cells:?} {created_seq}");
    what.bytes().fold(0x6c62_272e_07bb_0142_62b8_2175_6295_c58d, |hash: u128, byte| {
        (hash ^ u128::from(byte)).wrapping_mul(0x0000_0000_0100_0000_0000_0000_0000_013b)
    })
}
