//! `compact`: discards a table's oldest history, after showing what will be discarded.

use std::io::{self, IsTerminal};

use driftdb::v1;
use serde::Serialize;

use crate::args::CompactArgs;
use crate::database::DatabaseHandle;
use crate::exit::{CliResult, Failure};
use crate::render::{self, Printer};
use crate::{shapes, statement};

#[derive(Serialize)]
struct CompactionJson<'a> {
    table: &'a str,
    floor_seq: u64,
    events_folded: u64,
    bytes_freed: u64,
    dry_run: bool,
}

/// Compacts a table, or prints what a compaction would do.
pub(crate) async fn run(args: CompactArgs, database: &mut DatabaseHandle, out: &mut Printer) -> CliResult {
    let before = statement::parse_optional_point(args.before.as_deref(), &database.clock()?)?;
    let mut request =
        v1::CompactRequest { table: args.table.name().to_owned(), before, dry_run: args.dry_run };
    if !args.dry_run && !args.yes {
        if !io::stdin().is_terminal() || !io::stderr().is_terminal() {
            let message = "compact cannot be undone and needs a confirmation, but this is not a terminal: pass --yes to confirm, or --dry-run to see the effect";
            return Err(Failure::Usage(message.to_owned()));
        }
        let preview = database.compact(v1::CompactRequest { dry_run: true, ..request.clone() }).await?;
        if !confirmed(args.table.name(), &preview).await? {
            render::note("cancelled: nothing was changed");
            return Ok(());
        }
        // Compact exactly what was shown, even if more is written meanwhile.
        request.before = Some(v1::AsOf::seq(preview.floor_seq));
    }
    let done = database.compact(request).await?;
    let v1::CompactInfo { floor_seq, events_folded, bytes_freed } = done;
    let (table, dry_run) = (args.table.name(), args.dry_run);
    out.print_record(&shapes::line(&CompactionJson {
        table,
        floor_seq,
        events_folded,
        bytes_freed,
        dry_run,
    })?)
}

/// Shows the effect and asks for confirmation.
async fn confirmed(table: &str, preview: &v1::CompactInfo) -> CliResult<bool> {
    render::note(&format!(
        "{table}: points in time before seq {} will no longer be readable; {} events will be merged into rows, {} bytes \
                 freed.\n\
                 This cannot be undone. Type yes to continue:",
        preview.floor_seq, preview.events_folded, preview.bytes_freed
    ));
    let read = tokio::task::spawn_blocking(|| {
        let mut line = String::new();
        io::stdin().read_line(&mut line).map(|_| line)
    });
    let line = read.await.map_err(io::Error::other).and_then(|line| line);
    let line = line.map_err(|e| Failure::Usage(format!("cannot read the confirmation: {e}")))?;
    Ok(matches!(line.trim().to_ascii_lowercase().as_str(), "y" | "yes"))
}
