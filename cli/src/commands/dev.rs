//! `dev`: runs a writer and a reader in this process, on loopback.

use std::path::PathBuf;

use driftdb_common::error::{Error, Reason, Result};
use driftdb_common::service::daemon::cancel_on_signals;
use driftdb_common::service::options::ClockJump;
use driftdb_common::service::server::Listener;
use tokio::task::JoinHandle;

use crate::args::{DEFAULT_READER, DEFAULT_WRITER, DevArgs, GlobalArgs};
use crate::exit::CliResult;
use crate::render::Printer;

/// The default data directory.
const DIRECTORY: &str = "driftdb-data";

/// Serves until a signal, then closes the database cleanly.
pub(crate) async fn run(args: DevArgs, global: &GlobalArgs, out: &mut Printer) -> CliResult {
    let data = global.data.clone().unwrap_or_else(|| PathBuf::from(DIRECTORY));
    let shutdown = cancel_on_signals()?;
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

    let printed = out.print_text(&greeting(&data.display().to_string(), &writer_url, &reader_url));
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

fn greeting(data: &str, writer: &str, reader: &str) -> String {
    // The default addresses need no options.
    let to_writer = if writer == DEFAULT_WRITER { String::new() } else { format!(" --writer {writer}") };
    let to_reader = if reader == DEFAULT_READER { String::new() } else { format!(" --reader {reader}") };
    let driftctl = format!("driftctl{to_writer}{to_reader}");
    format!(
        "writer  {writer}\nreader  {reader}\ndata    {data}\n\n\
         In another terminal:\n  \
         {driftctl} sql -e 'CREATE TABLE orders (pk=id, INDEX(status))'\n  \
         {driftctl} sql -e 'INSERT INTO orders {{\"id\": \"o1\", \"status\": \"new\"}}'\n  \
         {driftctl} sql -e 'PATCH orders KEY \"o1\" SET {{\"status\": \"paid\"}}'\n  \
         {driftctl} drift -t orders -k o1\n  \
         {driftctl} select -t orders --as-of '1 minute ago'\n\n\
         Press Ctrl-C to stop both.\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_greeting_shows_only_addresses_that_are_not_the_default() {
        let text = greeting("./x", DEFAULT_WRITER, "http://127.0.0.1:9");
        assert!(text.contains("\n  driftctl --reader http://127.0.0.1:9 sql -e"), "{text}");
        assert!(
            greeting("./x", DEFAULT_WRITER, DEFAULT_READER).contains("\n  driftctl drift -t orders -k o1")
        );
    }
}
