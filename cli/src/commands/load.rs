//! `load`: writes a dump into a database.
//!
//! Commits go over one ingest stream, each as an atomic batch, so that many are in flight and the writer remembers how far it has come: the
//! same command resumes there. A change of a schema waits until everything before it is on disk.

use driftdb_common::error::{Error, Reason, Result, counted};

use crate::args::LoadArgs;
use crate::changes::{self, ImportedContent};
use crate::commands::dump::{DumpEnd, DumpHeader, EndLine, VERSION};
use crate::database::DatabaseHandle;
use crate::exit::CliResult;
use crate::input::{self, InputLine, Lines};
use crate::render::{self, Printer, ProgressLine};
use crate::shapes;

mod attempts;
mod replay;
mod replay_stream;

use replay::DumpReplay;

/// Loads the dump, and prints how much it was.
pub(crate) async fn run(args: &LoadArgs, database: &mut DatabaseHandle, out: &mut Printer) -> CliResult {
    let name = input::name(&args.file);
    let mut lines = Lines::open(&args.file)?;
    let header = header(lines.next().await?, &name)?;
    let mut replay = DumpReplay::new(header, args.restart, database);
    let outcome = load(&mut lines, &mut replay, &name).await;
    let outcome = match outcome {
        Ok(()) => replay.finish().await,
        Err(error) => replay.end().await.and(Err(error)),
    };
    let loaded = replay.loaded();
    if outcome.is_err() && loaded.commits > 0 {
        render::note(&format!(
            "note: this run loaded {}; the same command resumes after them",
            counted(loaded.commits, "commit")
        ));
    }
    outcome?;
    out.print_record(&shapes::line(&loaded)?)
}

/// The header of a dump.
fn header(line: Option<InputLine>, name: &str) -> Result<DumpHeader> {
    let no_dump = |why: &str| {
        let message = format!(
            "cannot load {name}: {why}; `driftctl dump` writes dumps, and `apply` and `ingest` load other files"
        );
        Error::new(Reason::ArgumentInvalid, message)
    };
    let line = line.ok_or_else(|| no_dump("the file is empty"))?;
    let header: DumpHeader = serde_json::from_str(&line.text)
        .map_err(|_| no_dump("its first line is not the header of a dump"))?;
    if header.driftdb_dump != VERSION {
        let version = header.driftdb_dump;
        let message = format!(
            "cannot load {name}: the dump has version {version}, and this driftctl knows version {VERSION}; use a newer driftctl"
        );
        return Err(Error::new(Reason::ArgumentInvalid, message));
    }
    Ok(header)
}

/// Loads all lines after the header. Fails if the last one is not the end of a dump.
async fn load(lines: &mut Lines, replay: &mut DumpReplay<'_>, name: &str) -> Result<()> {
    let mut progress = ProgressLine::default();
    let mut found = DumpEnd::default();
    while let Some(line) = lines.next().await? {
        if let Some(end) = end(&line.text) {
            return check_end(end, found, lines, name).await;
        }
        let commit = changes::parse(&line.text).map_err(|e| e.context(lines.place(line.number)))?;
        found.changes += match &commit.content {
            ImportedContent::Rows(operations) => operations.len() as u64,
            ImportedContent::Schema(_) => 1,
        };
        found.commits += 1;
        replay.add(commit, &lines.place(line.number)).await?;
        progress.show(format_args!("{} commits, {} changes", found.commits, found.changes));
    }
    Err(incomplete(name, "it has no end"))
}

/// The content of the last line.
fn end(line: &str) -> Option<DumpEnd> {
    line.starts_with("{\"end\"").then(|| serde_json::from_str::<EndLine>(line).ok())?.map(|line| line.end)
}

async fn check_end(end: DumpEnd, found: DumpEnd, lines: &mut Lines, name: &str) -> Result<()> {
    if end != found {
        let why = format!(
            "it should have {} with {}, and has {} with {}",
            counted(end.commits, "commit"),
            counted(end.changes, "change"),
            counted(found.commits, "commit"),
            counted(found.changes, "change")
        );
        return Err(incomplete(name, &why));
    }
    match lines.next().await? {
        None => Ok(()),
        Some(line) => {
            let message = format!("{}: the dump goes on after its end", lines.place(line.number));
            Err(Error::new(Reason::ArgumentInvalid, message))
        }
    }
}

fn incomplete(name: &str, why: &str) -> Error {
    let message = format!("the dump {name} is incomplete: {why}; everything before the end was loaded");
    Error::new(Reason::ArgumentInvalid, message)
}

#[cfg(test)]
mod repeated;
#[cfg(test)]
mod tests;
