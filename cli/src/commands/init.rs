//! `init`: an empty database.

use driftdb_common::error::Error;

use crate::args::Init;
use crate::client::Client;
use crate::exit::Outcome;
use crate::render::{self, Output};

/// Opens the directory as its writer, which makes what is not there, and closes it.
pub async fn run(args: Init, _out: &mut Output) -> Outcome {
    let dir = args.dir.display().to_string();
    let mut client = Client::embedded(args.dir);
    let status = client.writer_status().await;
    client.close().await.map_err(|e: Error| e.context(format_args!("closing {dir}")))?;
    let last = status?.last_seq;
    if last > 0 {
        render::note(&format!("{dir} holds a database already; its last commit is {last}."));
        return Ok(());
    }
    render::note(&format!(
        "{dir} is an empty database. To use it here, without daemons:\n  \
         driftctl -d {dir} sql -e 'CREATE TABLE orders (pk=id, INDEX(status))'\n\
         To serve it, writer and reader in one process:\n  \
         driftctl dev -d {dir}"
    ));
    Ok(())
}
