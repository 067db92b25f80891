//! `init`: creates an empty database.

use driftdb_common::error::Error;

use crate::args::InitArgs;
use crate::database::DatabaseHandle;
use crate::exit::CliResult;
use crate::render::{self, Printer};

/// Opens the directory as a writer, which creates missing files, and closes it.
pub(crate) async fn run(args: InitArgs, _out: &mut Printer) -> CliResult {
    let dir = args.dir.display().to_string();
    let mut database = DatabaseHandle::embedded(args.dir);
    let status = database.writer_status().await;
    database.close().await.map_err(|e: Error| e.context(format_args!("cannot close {dir}")))?;
    let last = status?.last_seq;
    if last > 0 {
        render::note(&format!("note: {dir} already contains a database; its last seq is {last}"));
        return Ok(());
    }
    render::note(&format!(
        "created an empty database in {dir}. To use it without daemons:\n  \
         driftctl -d {dir} sql -e 'CREATE TABLE orders (pk=id, INDEX(status))'\n\
         To serve it with a writer and a reader in one process:\n  \
         driftctl dev -d {dir}"
    ));
    Ok(())
}
