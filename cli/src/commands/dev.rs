//! `dev`: runs a writer and a reader in this process, on loopback.

use std::path::PathBuf;

use driftdb::v1;
use driftdb_common::error::{Error, Reason, Result, counted};
use driftdb_common::service::daemon::cancel_on_signals;
use driftdb_common::service::options::ClockJump;
use driftdb_common::service::server::{Listener, check_address};
use tokio::task::JoinHandle;

use crate::args::{DEFAULT_READER, DEFAULT_WRITER, DevArgs, GlobalArgs};
use crate::database::DatabaseHandle;
use crate::exit::{CliResult, Failure};
use crate::render::{self, Printer};

/// The default data directory.
const DIRECTORY: &str = "driftdb-data";
/// How many tables the greeting names.
const NAMED: usize = 5;

/// Serves until a signal, then closes the database cleanly.
pub(crate) async fn run(args: DevArgs, global: &GlobalArgs, out: &mut Printer) -> CliResult {
    let data = global.data.clone().unwrap_or_else(|| PathBuf::from(DIRECTORY));
    let shutdown = cancel_on_signals()?;
    for address in [args.listen, args.reader_listen] {
        // The daemons of `dev` have neither TLS nor authentication.
        if let Some(warning) = check_address(address, (false, false), args.insecure_listen)? {
            render::note(&format!("warning: {warning}"));
        }
    }
    let (write_at, read_at) = (Listener::bind(args.listen).await?, Listener::bind(args.reader_listen).await?);
    let (writer_url, reader_url) = (url(&write_at)?, url(&read_at)?);

    let mut config = driftdb_writer::WriterConfig::new(&data);
    config.advertise = Some(writer_url.clone());
    if let Some(ClockJump(jump)) = global.max_clock_jump {
        config.max_clock_jump = jump;
    }
    let writer =
        opened(tokio::task::spawn_blocking(move || driftdb_writer::WriterDaemon::open(config))).await?;
    let mut writer = tokio::spawn(writer.serve(write_at, shutdown.clone()));
    // Open the reader second: it follows the files that the writer creates.
    let config = driftdb_reader::ReaderConfig::new(&data);
    let reader =
        opened(tokio::task::spawn_blocking(move || driftdb_reader::ReaderDaemon::open(config))).await;
    let mut reader = match reader {
        Ok(reader) => tokio::spawn(reader.serve(read_at, shutdown.clone())),
        Err(error) => {
            shutdown.cancel();
            opened(writer).await?;
            return Err(error.into());
        }
    };

    let served = status(&writer_url, &reader_url).await;
    let greeted =
        served.map(|status| greeting(&data.display().to_string(), &writer_url, &reader_url, &status));
    let printed = greeted.map_err(Failure::from).and_then(|text| out.print_text(&text));
    if printed.is_err() {
        shutdown.cancel();
    }
    // If one daemon ends for any reason, stop the other too.
    let (first, second) = tokio::select! {
        ended = &mut writer => { shutdown.cancel(); (flat(ended), flat(reader.await)) }
        ended = &mut reader => { shutdown.cancel(); (flat(ended), flat(writer.await)) }
    };
    first.and(second)?;
    printed
}

/// The status of the writer that was just started.
async fn status(writer: &str, reader: &str) -> Result<v1::WriterServiceStatusResponse> {
    DatabaseHandle::remote(vec![writer.to_owned()], vec![reader.to_owned()], None).writer_status().await
}

fn url(listener: &Listener) -> Result<String> {
    let address =
        listener.address().ok_or_else(|| Error::new(Reason::Internal, "a listener has no address"))?;
    Ok(format!("http://{address}"))
}

fn flat<T>(joined: std::result::Result<Result<T>, tokio::task::JoinError>) -> Result<T> {
    joined.map_err(|e| Error::new(Reason::Internal, format!("a daemon in this process failed: {e}")))?
}

async fn opened<T>(opening: JoinHandle<Result<T>>) -> Result<T> {
    flat(opening.await)
}

/// What is served, and three commands that work at once.
fn greeting(data: &str, writer: &str, reader: &str, status: &v1::WriterServiceStatusResponse) -> String {
    // The default addresses need no options.
    let to_writer = if writer == DEFAULT_WRITER { String::new() } else { format!(" --writer {writer}") };
    let to_reader = if reader == DEFAULT_READER { String::new() } else { format!(" --reader {reader}") };
    let driftctl = format!("driftctl{to_writer}{to_reader}");
    let commands = commands(status.tables.iter().find(|info| info.problem.is_empty()));
    let commands: String = commands.iter().map(|command| format!("  {driftctl} {command}\n")).collect();
    format!(
        "writer  {writer}\nreader  {reader}\ndata    {data}: {}\n\nIn another terminal:\n{commands}\nPress Ctrl-C to stop both.\n",
        served(status)
    )
}

/// The tables in a few words.
fn served(status: &v1::WriterServiceStatusResponse) -> String {
    let names: Vec<&str> = status.tables.iter().map(|info| info.table.as_str()).collect();
    let named = names.iter().take(NAMED).copied().collect::<Vec<_>>().join(", ");
    let more = if names.len() > NAMED { ", …" } else { "" };
    match names.len() {
        0 => "no tables yet".to_owned(),
        count => format!("{} ({named}{more}), seq {}", counted(count as u64, "table"), status.last_seq),
    }
}

/// In an empty database: commands that make a table and a history. Otherwise: commands that change nothing.
fn commands(table: Option<&v1::TableInfo>) -> [String; 3] {
    match table {
        None => [
            r#"sql 'CREATE TABLE orders (pk=id, INDEX(status)); INSERT INTO orders {"id": "o1", "status": "new"}'"#.to_owned(),
            r#"sql 'PATCH orders KEY "o1" SET {"status": "paid"}'"#.to_owned(),
            "drift orders o1".to_owned(),
        ],
        Some(v1::TableInfo { table, created_seq, floor_seq, .. }) => [
            format!("select {table} --limit 10"),
            format!("drift {table} --limit 10"),
            // A compaction discards history.
            format!("diff {table} --from @seq:{}", created_seq.max(floor_seq)),
        ],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_greeting_shows_what_is_served_and_only_addresses_that_are_not_the_default() {
        let mut status = v1::WriterServiceStatusResponse::default();
        let text = greeting("./x", DEFAULT_WRITER, "http://127.0.0.1:9", &status);
        assert!(text.contains("\n  driftctl --reader http://127.0.0.1:9 sql 'CREATE"), "{text}");
        assert!(text.contains("\ndata    ./x: no tables yet\n"), "{text}");
        let info = |table: &str| v1::TableInfo { table: table.into(), created_seq: 3, ..Default::default() };
        status.tables = vec![info("a"), info("b")];
        status.last_seq = 9;
        let text = greeting("./x", DEFAULT_WRITER, DEFAULT_READER, &status);
        assert!(text.contains("\ndata    ./x: 2 tables (a, b), seq 9\n"), "{text}");
        assert!(text.contains("\n  driftctl diff a --from @seq:3\n"), "{text}");
    }
}
