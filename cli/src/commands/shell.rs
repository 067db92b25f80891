//! `shell`: an interactive prompt for DriftQL.

use std::io::{self, IsTerminal};
use std::time::{Duration, Instant};

use driftdb::v1;
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcsetattr};
use serde::Deserialize;
use tokio::signal::unix::{SignalKind, signal};

use crate::args::SqlArgs;
use crate::commands::sql;
use crate::database::DatabaseHandle;
use crate::exit::{CliResult, Failure};
use crate::render::{self, Printer, ResultItem};
use crate::shapes::RequestedImages;
use crate::session::{self, Session};

mod command;
mod editor;
mod input;
#[cfg(test)]
mod tests;

use command::ShellCommand;
use editor::{Editor, Typed};
use input::{Input, ShellEntry};

/// How long to wait for the table names: they are only used for completion.
const TABLES_WAIT: Duration = Duration::from_secs(2);

/// Reads statements and runs them. Without a terminal, runs stdin as `sql` does.
pub(crate) async fn run(database: &mut DatabaseHandle, out: &mut Printer) -> CliResult {
    if !io::stdin().is_terminal() {
        return sql::run(SqlArgs::default(), database, out).await;
    }
    let _terminal = Terminal::now();
    let mut editor = Editor::new(out.style())?;
    let mut shell = Shell::new(Session::new(database, out, v1::CommitOptions::default(), Vec::new())?);
    render::note("DriftQL: end statements with ;  Type \\? for help, \\q to quit");
    let (mut input, mut known) = (Input::default(), None);
    loop {
        if known != Some(shell.session.writes()) {
            known = Some(shell.session.writes());
            editor.set_tables(shell.tables().await);
        }
        let line = match editor.line(shell.prompt(input.is_open())).await? {
            Typed::Line(line) => line,
            Typed::Dropped => {
                input.clear();
                continue;
            }
            Typed::End => break,
        };
        let Some(entry) = input.push(&line) else { continue };
        match &entry {
            ShellEntry::Command(text) | ShellEntry::Script(text) => editor.remember(text),
        }
        match shell.interruptible(entry).await {
            Ok(Flow::On) => {}
            Ok(Flow::Quit) => break,
            Err(Failure::BrokenPipe) => return Err(Failure::BrokenPipe),
            Err(failure) => shell.session.out.print_failure(&failure),
        }
    }
    if let Some(dropped) = shell.dropped() {
        render::note(&dropped);
    }
    Ok(())
}

/// The state of the terminal. It is restored on drop, also if a signal ends the shell while a line is being edited.
struct Terminal(Option<Termios>);

impl Terminal {
    fn now() -> Terminal {
        Terminal(tcgetattr(io::stdin()).ok())
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        if let Some(state) = &self.0 {
            // If the terminal is gone, nothing needs to be restored.
            let _ = tcsetattr(io::stdin(), OptionalActions::Now, state);
        }
    }
}

/// Whether the shell continues.
#[derive(Debug, PartialEq, Eq)]
enum Flow {
    On,
    Quit,
}

/// The state that the shell keeps between lines.
struct Shell<'a> {
    session: Session<'a>,
    timing: bool,
}

impl<'a> Shell<'a> {
    fn new(session: Session<'a>) -> Shell<'a> {
        Shell { session, timing: false }
    }

    /// The prompt, with the point in time of reads and the open transaction.
    fn prompt(&self, goes_on: bool) -> String {
        let moment = self.session.as_of.as_ref().map(|point| format!(" as of {point}")).unwrap_or_default();
        let open = match self.session.open_operations() {
            None => String::new(),
            Some(1) => " (transaction: 1 write)".to_owned(),
            Some(n) => format!(" (transaction: {n} writes)"),
        };
        let prompt = format!("driftdb{moment}{open}> ");
        if goes_on { format!("{:>1$}", "-> ", prompt.chars().count()) } else { prompt }
    }

    /// The note about an open transaction when the shell ends.
    fn dropped(&self) -> Option<String> {
        self.session.open_operations()?;
        Some("note: the open transaction was discarded".to_owned())
    }

    /// The names of the tables, if they can be read in time.
    async fn tables(&mut self) -> Vec<String> {
        #[derive(Deserialize)]
        struct ListedTable {
            table: String,
        }
        let mut names = Vec::new();
        let mut sink = |answer| {
            if let ResultItem::Record(json) = answer {
                names.extend(serde_json::from_str::<ListedTable>(&json).map(|table| table.table));
            }
            Ok(())
        };
        let statement = ("SHOW TABLES", RequestedImages::default());
        let asking = session::run_query(self.session.database, statement, &[], &mut sink);
        // Ignore errors: a statement that needs the reader will report them.
        let _ = tokio::time::timeout(TABLES_WAIT, asking).await;
        names
    }

    /// Runs an entry until it ends or Ctrl-C is pressed.
    async fn interruptible(&mut self, entry: ShellEntry) -> CliResult<Flow> {
        let Ok(mut interrupt) = signal(SignalKind::interrupt()) else { return self.accept(entry).await };
        tokio::select! {
            flow = self.accept(entry) => return flow,
            _ = interrupt.recv() => {}
        }
        self.session.out.end_result()?;
        render::note(match self.session.take_unacknowledged_write() {
            true => "\ninterrupted; the outcome of the write is unknown",
            false => "\ninterrupted",
        });
        Ok(Flow::On)
    }

    /// Runs an entry.
    async fn accept(&mut self, entry: ShellEntry) -> CliResult<Flow> {
        let started = Instant::now();
        match entry {
            ShellEntry::Command(line) => return self.meta(command::parse(&line)?).await,
            ShellEntry::Script(script) => self.session.run_script(&script, None).await?,
        }
        if self.timing {
            render::note(&format!("time: {:.1} ms", started.elapsed().as_secs_f64() * 1e3));
        }
        Ok(Flow::On)
    }

    async fn meta(&mut self, meta: ShellCommand) -> CliResult<Flow> {
        match meta {
            ShellCommand::Describe(None) => self.session.run_read("SHOW TABLES").await?,
            ShellCommand::Describe(Some(table)) => {
                self.session.run_read(&format!("DESCRIBE {table}")).await?
            }
            ShellCommand::AsOf(point) => self.session.as_of = point,
            ShellCommand::Timing(on) => {
                self.timing = on.unwrap_or(!self.timing);
                render::note(if self.timing { "timing is on" } else { "timing is off" });
            }
            ShellCommand::Expanded(on) => {
                let on = on.unwrap_or(!self.session.out.is_expanded());
                self.session.out.set_expanded(on);
                render::note(if on {
                    "rows are printed one field a line"
                } else {
                    "rows are printed in columns"
                });
            }
            ShellCommand::Watch(every) => self.watch(every).await?,
            ShellCommand::Help => render::note(command::HELP.trim_end()),
            ShellCommand::Quit => return Ok(Flow::Quit),
        }
        Ok(Flow::On)
    }

    /// Repeats the last SELECT until it fails or is interrupted.
    async fn watch(&mut self, every: Duration) -> CliResult {
        let Some(select) = self.session.last_select().map(str::to_owned) else {
            return Err(Failure::Usage(
                "\\watch repeats the last SELECT, but no SELECT has run yet".to_owned(),
            ));
        };
        loop {
            let now = jiff::Timestamp::now().round(jiff::Unit::Second).unwrap_or_default();
            render::note(&format!("-- {now}, repeated every {} s", every.as_secs_f64()));
            self.session.run_read(&select).await?;
            tokio::time::sleep(every).await;
        }
    }
}
