//! `export`: writes the rows of a table at one point in time to a file, as JSON Lines, as CSV that `ingest` takes back, or as Parquet.
//!
//! The columns of a CSV or Parquet file and their types are known only once every row was seen, and memory must not grow with the table. So the rows
//! are read twice, at the same commit: first for the columns, then for the cells.

use std::path::Path;

use driftdb::client::{Client, RowStream};
use driftdb::v1;
use driftdb_common::error::counted;
use driftdb_common::query::ast::Column;
use driftdb_common::query::parser;
use serde::Serialize;

use crate::args::{ExportArgs, ExportFormat, Format, GivenOptions, GlobalArgs};
use crate::database::{DatabaseHandle, tables_at};
use crate::errors::to_error;
use crate::exit::{CliResult, Failure};
use crate::input;
use crate::output_file::OutputFile;
use crate::render::{self, JsonFields, Printer, ProgressLine};
use crate::{shapes, statement};

mod columns;
#[cfg(feature = "parquet")]
mod parquet_columns;
#[cfg(feature = "parquet")]
mod parquet_file;
mod sheet;

use columns::ColumnsFound;
use sheet::Sheet;

/// What the first of two passes does.
const READING: &str = "reading the columns";

/// What `export` prints when it has written a file.
#[derive(Debug, Serialize)]
struct ExportSummary {
    table: String,
    rows: u64,
    /// The commit whose state the rows are.
    seq: u64,
    time: String,
    /// The options with which `ingest` reads the same rows again.
    ingest_options: Vec<String>,
}

/// Where the rows go.
enum ExportTarget<'a> {
    File(Box<OutputFile>),
    Stdout(&'a mut Printer),
}

impl ExportTarget<'_> {
    fn write(&mut self, bytes: &[u8]) -> CliResult {
        match self {
            ExportTarget::File(file) => Ok(file.bytes(bytes)?),
            ExportTarget::Stdout(out) => out.print_bytes(bytes),
        }
    }

    fn finish(self) -> CliResult {
        match self {
            ExportTarget::File(file) => Ok(file.finish()?),
            ExportTarget::Stdout(out) => out.flush(),
        }
    }
}

/// Writes the rows.
pub(crate) async fn run(
    args: ExportArgs,
    (global, given): (&GlobalArgs, &GivenOptions),
    database: &mut DatabaseHandle,
    out: &mut Printer,
) -> CliResult {
    let (table, file) = (args.target.table().to_owned(), args.target.file().to_owned());
    let format = format(global, given, &file)?;
    let labels = labels(&args.columns)?;
    statement::parse_params(&args.param)?;
    let request = v1::SelectRequest {
        as_of: statement::parse_optional_point(args.as_of.as_deref(), &database.clock()?)?,
        time_zone: database.time_zone(),
        table: table.clone(),
        r#where: args.condition.clone().unwrap_or_default(),
        params: args.param,
        fields: args.columns,
        ..Default::default()
    };
    let condition = args.condition.unwrap_or_default();
    // Before anything is written: the table and the condition are probably what is wrong, if anything is.
    let rows = database.fresh_client().await?.select(request.clone()).await;
    let rows = rows.map_err(|status| Failure::in_text(to_error(&status), &condition))?;
    render::note_all(&rows.header().notes);
    let (seq, time) = (rows.header().read_seq, shapes::time(rows.header().read_time.as_ref())?);
    let request = v1::SelectRequest { as_of: Some(v1::AsOf::seq(seq)), ..request };
    let is_stdout = input::is_stdin(&file);
    let is_terminal = out.is_terminal();
    let mut target = match is_stdout {
        true => ExportTarget::Stdout(&mut *out),
        false => ExportTarget::File(Box::new(OutputFile::create(&file)?)),
    };
    let (written, ingest_options) = match format {
        ExportFormat::Jsonl => (write_lines(rows, &mut target).await?, Vec::new()),
        ExportFormat::Csv => Box::pin(write_sheet(rows, (request, labels), database, &mut target)).await?,
        #[cfg(feature = "parquet")]
        ExportFormat::Parquet => {
            let facts = [("table", &table), ("seq", &seq.to_string()), ("time", &time)];
            let facts = facts.map(|(name, value)| (format!("driftdb.{name}"), value.clone()));
            let written =
                Box::pin(write_parquet(rows, (request, labels), database, facts.into(), &mut target)).await?;
            (written, Vec::new())
        }
        #[cfg(not(feature = "parquet"))]
        ExportFormat::Parquet => return Err(without_parquet()),
    };
    target.finish()?;
    let summary = ExportSummary { table, rows: written, seq, time, ingest_options };
    match is_stdout || is_terminal {
        true => note_summary(&summary, &file, format),
        // A record of its own: -o is the format of the file.
        false => out.print_bytes((shapes::line(&summary)? + "\n").as_bytes())?,
    }
    Ok(())
}

/// The format of the file. An option on the command line must be one that a file can have; a usual format of the output need not be.
fn format(global: &GlobalArgs, given: &GivenOptions, file: &Path) -> CliResult<ExportFormat> {
    let format = match global.output {
        Some(Format::Csv) => ExportFormat::Csv,
        Some(Format::Jsonl) => ExportFormat::Jsonl,
        Some(Format::Parquet) => ExportFormat::Parquet,
        Some(other) if given.on_command_line("output") => {
            let message = format!("export writes csv, jsonl or parquet, not {other:?}").to_lowercase();
            return Err(Failure::Usage(message));
        }
        _ => ExportFormat::of_name(file).ok_or_else(|| {
            let message = "name the format with -o csv, -o jsonl or -o parquet: the name of the file does not end in .csv, .jsonl or .parquet";
            Failure::Usage(message.to_owned())
        })?,
    };
    if format == ExportFormat::Parquet {
        let ending = file.extension().and_then(|ending| ending.to_str());
        if let Some(ending @ ("gz" | "zst" | "zstd")) = ending {
            let message = format!("a Parquet file is compressed inside: name the file without .{ending}");
            return Err(Failure::Usage(message));
        }
        if !cfg!(feature = "parquet") {
            return Err(without_parquet());
        }
    }
    Ok(format)
}

fn without_parquet() -> Failure {
    let message = "this driftctl cannot write Parquet: it was built without it; build it with `cargo build --release -p driftctl --features parquet`, or use -o csv";
    Failure::Usage(message.to_owned())
}

/// The names that requested columns have in the rows.
fn labels(texts: &[String]) -> CliResult<Vec<String>> {
    let mut columns = Vec::with_capacity(texts.len());
    for text in texts {
        let column = parser::parse_column(text);
        columns
            .push(column.map_err(|e| Failure::in_text(e.context(format_args!("--columns {text:?}")), text))?);
    }
    Ok(Column::labels(&columns.iter().collect::<Vec<_>>()))
}

fn note_summary(summary: &ExportSummary, file: &Path, format: ExportFormat) {
    let ExportSummary { table, rows, seq, time, ingest_options } = summary;
    let rows = counted(*rows, "row");
    render::note(&format!("exported {rows} of table {table:?} at seq {seq} of {time}"));
    if format == ExportFormat::Csv && !ingest_options.is_empty() {
        let file =
            if input::is_stdin(file) { "FILE".to_owned() } else { shell_word(&file.display().to_string()) };
        let options: Vec<String> = ingest_options.iter().map(|option| shell_word(option)).collect();
        render::note(&format!(
            "note: to load the same rows: driftctl ingest {} --file {file} {}",
            shell_word(table),
            options.join(" ")
        ));
    }
}

/// A word as a shell reads it.
fn shell_word(word: &str) -> String {
    let is_plain = |c: char| c.is_alphanumeric() || "-_./=,:@%+".contains(c);
    if !word.is_empty() && word.chars().all(is_plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// Writes each row as a line of JSON. Returns their number.
async fn write_lines(mut rows: RowStream, target: &mut ExportTarget<'_>) -> CliResult<u64> {
    let (mut written, mut progress) = (0, ProgressLine::default());
    while let Some(row) = rows.next().await? {
        let mut line = shapes::row(row, false)?;
        line.push('\n');
        target.write(line.as_bytes())?;
        written += 1;
        progress.show(format_args!("{written} rows"));
    }
    drop(progress);
    render::note_all(rows.notes());
    Ok(written)
}

/// Writes the rows as CSV. Returns their number, and the options with which `ingest` reads them again.
async fn write_sheet(
    mut rows: RowStream,
    (request, labels): (v1::SelectRequest, Vec<String>),
    database: &mut DatabaseHandle,
    target: &mut ExportTarget<'_>,
) -> CliResult<(u64, Vec<String>)> {
    let client = database.stale_client().await?.clone();
    let mut found = ColumnsFound::new(key_fields(&client, &request).await?, labels);
    let of = format!(" of {}", for_each(&mut rows, READING, "", |row| Ok(found.add(&row)?)).await?);
    render::note_all(rows.notes());
    let mut rows = client.select(request).await?;
    let mut sheet = Sheet::new(found.plan()?);
    target.write(&sheet.header()?)?;
    let written = for_each(&mut rows, "writing", &of, |row| {
        sheet.add(row)?;
        sheet.take_full()?.map_or(Ok(()), |bytes| target.write(&bytes))
    });
    let written = written.await?;
    target.write(&sheet.take()?)?;
    Ok((written, sheet.ingest_options()))
}

/// Writes the rows as Parquet. Returns their number.
#[cfg(feature = "parquet")]
async fn write_parquet(
    mut rows: RowStream,
    (request, labels): (v1::SelectRequest, Vec<String>),
    database: &mut DatabaseHandle,
    facts: Vec<(String, String)>,
    target: &mut ExportTarget<'_>,
) -> CliResult<u64> {
    let client = database.stale_client().await?.clone();
    let mut found = parquet_columns::ParquetColumns::new(key_fields(&client, &request).await?, labels);
    let of = format!(" of {}", for_each(&mut rows, READING, "", |row| Ok(found.add(&row)?)).await?);
    render::note_all(rows.notes());
    let mut rows = client.select(request).await?;
    let bytes = driftdb_common::limits::EXPORT_ROW_GROUP_BYTES;
    let mut file = parquet_file::ParquetFile::new(found.types(), bytes, facts)?;
    let written = for_each(&mut rows, "writing", &of, |row| {
        file.add(&row)?;
        file.take_full()?.map_or(Ok(()), |bytes| target.write(&bytes))
    });
    let written = written.await?;
    target.write(&file.finish()?)?;
    Ok(written)
}

/// The fields of the table's primary key.
async fn key_fields(client: &Client, request: &v1::SelectRequest) -> CliResult<Vec<String>> {
    let (_, tables) = tables_at(client, request.as_of).await?;
    let info = tables.into_iter().find(|info| info.table == request.table).unwrap_or_default();
    Ok(shapes::schema(&info)?.key_fields())
}

/// Hands on each row, and shows how many there were. Returns their number.
async fn for_each(
    rows: &mut RowStream,
    doing: &str,
    of: &str,
    mut take: impl FnMut(JsonFields) -> CliResult,
) -> CliResult<u64> {
    let (mut count, mut progress) = (0, ProgressLine::default());
    while let Some(row) = rows.next().await? {
        take(JsonFields::parse(&shapes::row(row, false)?)?)?;
        count += 1;
        progress.show(format_args!("{doing}: {count}{of} rows"));
    }
    Ok(count)
}

#[cfg(test)]
mod tests;
