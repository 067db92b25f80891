//! `dump`: writes tables, or their whole history, to a file that `load` takes back.
//!
//! A dump is JSON Lines: a header, a commit per line in the shape of `watch --format changes`, and an end with the counts, without which
//! `load` knows that the file is not whole. docs/dump.md describes it.

use std::collections::BTreeSet;

use driftdb::client::WatchEvent;
use driftdb::v1;
use driftdb_common::error::{Error, Reason, Result, counted, nearest};
use driftdb_common::limits;
use serde::{Deserialize, Serialize};
use uuid::Uuid;
use v1::watch_drift_request::Start;

use crate::args::DumpArgs;
use crate::database::{DatabaseHandle, all_tables_at, tables_at};
use crate::errors::to_error;
use crate::exit::CliResult;
use crate::input;
use crate::output_file::OutputFile;
use crate::render::{self, Printer, ProgressLine};
use crate::shapes::{self, RequestedImages};
use crate::statement;

/// The version of the format.
pub(crate) const VERSION: u32 = 1;
/// The rows of one line: a line becomes one commit.
const ROWS: usize = 1000;
/// A line ends when its rows have this many bytes.
const BYTES: usize = 1 << 20;

/// The first line of a dump.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct DumpHeader {
    /// The version of the format.
    pub(crate) driftdb_dump: u32,
    /// Identifies this dump, so that a load of it can be resumed.
    pub(crate) id: String,
    /// What the dump has.
    pub(crate) content: DumpContent,
    /// The commit up to which it was made.
    pub(crate) seq: u64,
    /// The time of that commit.
    pub(crate) time: String,
    /// The commit before the first one of the history; 0 if the history is whole, or the content is rows.
    pub(crate) from_seq: u64,
    /// Whether the dump is of the whole database. If its history is whole, too, `load` keeps the seqs.
    pub(crate) all_tables: bool,
    /// The tables at `seq`.
    pub(crate) tables: Vec<String>,
    /// The tables of the whole history, those that were dropped included. Missing in a dump of rows, and in older dumps.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) history_tables: Vec<String>,
}

/// What a dump has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum DumpContent {
    /// The rows at one point in time.
    Rows,
    /// Every commit.
    History,
}

/// The last line of a dump.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct DumpEnd {
    /// The number of commits.
    pub(crate) commits: u64,
    /// The number of changes in them.
    pub(crate) changes: u64,
}

/// The last line, as it is in the file.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct EndLine {
    /// The counts.
    pub(crate) end: DumpEnd,
}

/// What `dump` prints when it has written a file.
#[derive(Serialize)]
struct DumpSummary {
    tables: usize,
    commits: u64,
    changes: u64,
    seq: u64,
}

/// Writes the dump.
pub(crate) async fn run(args: DumpArgs, database: &mut DatabaseHandle, out: &mut Printer) -> CliResult {
    let as_of = statement::parse_optional_point(args.as_of.as_deref(), &database.clock()?)?;
    let client = database.fresh_client().await?;
    let (header, tables) = all_tables_at(client, as_of).await?;
    let (dropped, tables): (Vec<_>, Vec<_>) = tables.into_iter().partition(|info| info.dropped);
    let tables = selected(&args.table, tables)?;
    // With -t, the history is about the named tables.
    let dropped: Vec<_> = dropped.into_iter().filter(|_| args.table.is_empty()).collect();
    let from_seq = if args.history { floor(&tables).max(floor(&dropped)) } else { 0 };
    let mut first = DumpHeader {
        driftdb_dump: VERSION,
        id: Uuid::new_v4().to_string(),
        content: if args.history { DumpContent::History } else { DumpContent::Rows },
        seq: header.read_seq,
        time: shapes::time(header.read_time.as_ref())?,
        from_seq,
        all_tables: args.table.is_empty(),
        tables: tables.iter().map(|info| info.table.clone()).collect(),
        history_tables: Vec::new(),
    };
    let prints = input::is_stdin(&args.file);
    let file = if prints { None } else { Some(OutputFile::create(&args.file)?) };
    let progress = ProgressLine::default();
    let created: Vec<u64> = tables.iter().map(|info| info.created_seq).collect();
    let mut dump = Dump { database, out, file, progress, made: DumpEnd::default() };
    if args.history {
        let dropped = dropped.into_iter().filter(|info| info.last_seq > from_seq);
        let names = dropped.map(|info| info.table).chain(first.tables.iter().cloned());
        first.history_tables = names.collect::<BTreeSet<_>>().into_iter().collect();
    }
    dump.line(&shapes::line(&first)?)?;
    if args.history {
        if from_seq > 0 {
            render::note(&format!(
                "note: older history was discarded by a compaction: the dump begins with the rows at @seq:{from_seq}, and seqs will differ after a load"
            ));
            let (header, tables) =
                tables_at(dump.database.stale_client().await?, Some(v1::AsOf::seq(from_seq))).await?;
            // A table can have had another name then.
            let is_selected =
                |info: &v1::TableInfo| takes(&args.table, &info.table) || created.contains(&info.created_seq);
            dump.rows(&header, tables.into_iter().filter(is_selected).collect(), true).await?;
        }
        dump.history(&args.table, from_seq, first.seq).await?;
    } else {
        dump.rows(&header, tables, false).await?;
    }
    let made = dump.finish()?;
    let DumpEnd { commits, changes } = made;
    let summary = DumpSummary { tables: first.tables.len(), commits, changes, seq: first.seq };
    match prints {
        true => render::note(&format!(
            "dumped {}: {}, {}",
            counted(first.tables.len() as u64, "table"),
            counted(commits, "commit"),
            counted(changes, "change")
        )),
        false => out.print_record(&shapes::line(&summary)?)?,
    }
    Ok(())
}

/// The named tables, or all. A name without a table is an error.
fn selected(names: &[String], tables: Vec<v1::TableInfo>) -> Result<Vec<v1::TableInfo>> {
    if let Some(broken) = tables.iter().find(|info| !info.problem.is_empty() && takes(names, &info.table)) {
        let message = format!("cannot dump table {:?}: {}", broken.table, broken.problem);
        return Err(Error::new(Reason::Corrupt, message));
    }
    for name in names {
        if !tables.iter().any(|info| info.table == *name) {
            let near = nearest(name, tables.iter().map(|info| info.table.as_str()));
            let near = near.map(|near| format!("; did you mean {near:?}?")).unwrap_or_default();
            let message = format!("table {name:?} does not exist at this point in time{near}");
            return Err(Error::new(Reason::TableNotFound, message));
        }
    }
    Ok(tables.into_iter().filter(|info| takes(names, &info.table)).collect())
}

fn takes(names: &[String], table: &str) -> bool {
    names.is_empty() || names.iter().any(|name| name == table)
}

fn floor(tables: &[v1::TableInfo]) -> u64 {
    tables.iter().map(|info| info.floor_seq).max().unwrap_or_default()
}

/// A dump in progress.
struct Dump<'a> {
    database: &'a mut DatabaseHandle,
    out: &'a mut Printer,
    /// `None` for standard output.
    file: Option<OutputFile>,
    progress: ProgressLine,
    made: DumpEnd,
}

impl Dump<'_> {
    /// Writes a line.
    fn line(&mut self, json: &str) -> CliResult {
        match &mut self.file {
            Some(file) => Ok(file.line(json)?),
            None => {
                self.out.print_bytes(json.as_bytes())?;
                self.out.print_bytes(b"\n")
            }
        }
    }

    /// Writes a line of changes.
    fn commit(&mut self, json: &str, changes: usize) -> CliResult {
        self.line(json)?;
        self.made.changes += changes as u64;
        self.made.commits += 1;
        let DumpEnd { commits, changes } = self.made;
        self.progress.show(format_args!("{commits} commits, {changes} changes"));
        Ok(())
    }

    /// Writes the tables and their rows at one point in time, with its time if the commits need one.
    async fn rows(&mut self, at: &v1::ReadHeader, tables: Vec<v1::TableInfo>, timed: bool) -> CliResult {
        let time = at.read_time.filter(|_| timed);
        for info in tables {
            self.commit(&shapes::created_table(&info, time.as_ref())?, 1)?;
            let request = v1::SelectRequest {
                table: info.table.clone(),
                as_of: Some(v1::AsOf::seq(at.read_seq)),
                ..Default::default()
            };
            let mut rows = self.database.stale_client().await?.select(request).await?;
            let (mut batch, mut bytes) = (Vec::new(), 0);
            while let Some(row) = rows.next().await? {
                bytes += row.document.as_ref().and_then(v1::Document::as_json).map_or(0, str::len);
                batch.push(row);
                if batch.len() == ROWS || bytes >= BYTES {
                    let count = batch.len();
                    let line = shapes::inserted_rows(&info.table, std::mem::take(&mut batch), time.as_ref())?;
                    self.commit(&line, count)?;
                    bytes = 0;
                }
            }
            if !batch.is_empty() {
                let count = batch.len();
                self.commit(&shapes::inserted_rows(&info.table, batch, time.as_ref())?, count)?;
            }
        }
        Ok(())
    }

    /// Writes the commits after `from`, up to and including `to`.
    async fn history(&mut self, tables: &[String], from: u64, to: u64) -> CliResult {
        // Nothing has happened yet, or nothing since the floor.
        if to <= from {
            return Ok(());
        }
        let request = v1::WatchDriftRequest {
            tables: tables.to_vec(),
            start: Some(Start::AfterSeq(from)),
            until_seq: to,
            ..Default::default()
        };
        let mut watch = self.database.stale_client().await?.watch(request);
        while let Some(event) = watch.next().await? {
            match event {
                WatchEvent::Opened(header) if header.read_seq != from => {
                    let message = format!(
                        "cannot dump the history: a compaction has discarded it up to @seq:{}; run the dump again, or name the tables that still exist with -t",
                        header.read_seq
                    );
                    return Err(Error::new(Reason::BelowFloor, message).into());
                }
                WatchEvent::Interrupted(status) => return Err(to_error(&status).into()),
                WatchEvent::Commit(commit) => {
                    let (seq, changes) = (commit.seq, commit.changes.len());
                    let line = shapes::commit(commit, RequestedImages::default())?;
                    check_loadable(seq, line.len())?;
                    self.commit(&line, changes)?;
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Writes the last line, and makes the file durable, or passes standard output on.
    fn finish(mut self) -> CliResult<DumpEnd> {
        let end = self.made;
        self.line(&shapes::line(&EndLine { end })?)?;
        match self.file {
            Some(file) => file.finish()?,
            None => self.out.flush()?,
        }
        Ok(end)
    }
}

/// Fails if a commit is too large to be written again: each line becomes one request.
fn check_loadable(seq: u64, bytes: usize) -> Result<()> {
    if bytes < limits::REQUEST_BYTES {
        return Ok(());
    }
    let message = format!(
        "cannot dump the history: commit {seq} has {} MiB of changes, and a load can write commits of less than {} MiB; dump the rows, without --history, or leave out its table with -t",
        bytes >> 20,
        limits::REQUEST_BYTES >> 20
    );
    Err(Error::new(Reason::TooLarge, message))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_commit_that_could_not_be_loaded_again_is_refused_and_named() {
        assert!(check_loadable(7, limits::REQUEST_BYTES - 1).is_ok());
        let error = check_loadable(7, limits::REQUEST_BYTES).unwrap_err();
        assert!(error.message().contains("commit 7 has 64 MiB of changes"), "{error}");
    }
}
