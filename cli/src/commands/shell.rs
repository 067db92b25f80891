//! `shell`: an interactive prompt for DriftQL.

use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use driftdb::v1;
use driftdb_common::storage::fs;
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcsetattr};
use tokio::runtime::Handle;
use tokio::signal::unix::{SignalKind, signal};

use crate::args::SqlArgs;
use crate::commands::sql;
use crate::database::DatabaseHandle;
use crate::exit::{CliResult, Failure};
use crate::input;
use crate::render::{self, Printer, VerticalMode};
use crate::session::Session;

mod command;
mod completion;
mod editor;
mod external_editor;
mod lines;
#[cfg(test)]
mod tests;

use command::ShellCommand;
use completion::Catalogue;
use editor::{Editor, Typed};
use lines::{Input, ShellEntry};

/// Reads statements and runs them. Without a terminal, runs stdin as `sql` does.
pub(crate) async fn run(database: &mut DatabaseHandle, out: &mut Printer) -> CliResult {
    if !io::stdin().is_terminal() {
        return sql::run(SqlArgs::default(), database, out).await;
    }
    let _terminal = Terminal::now();
    let mut editor = Editor::new(out.style())?;
    let mut shell = Shell::new(Session::new(database, out, v1::CommitOptions::default(), Vec::new())?);
    render::note("DriftQL: end statements with ;  Type \\? for help, \\q to quit");
    let mut input = Input::default();
    loop {
        editor.set_catalogue(shell.catalogue().await, input.pending());
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
            // The user has left the pager. The rest of the result is dropped.
            Err(Failure::BrokenPipe) if shell.session.out.take_left_pager() => {
                shell.session.out.end_result()?
            }
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
    pager: bool,
    /// What was run last, for \e.
    last_script: String,
}

impl<'a> Shell<'a> {
    fn new(session: Session<'a>) -> Shell<'a> {
        Shell { session, timing: false, pager: true, last_script: String::new() }
    }

    /// The prompt, with the point in time of reads and the open transaction.
    fn prompt(&self, goes_on: bool) -> String {
        let moment = self.session.as_of.as_ref().map(|point| format!(" as of {point}")).unwrap_or_default();
        let open = match self.session.open_operations() {
            None => String::new(),
            Some(1) => " (transaction: 1 write)".to_owned(),
            Some(n) => format!(" (transaction: {n} writes)"),
        };
        let context = self.session.database.context().map(|name| format!("({name})")).unwrap_or_default();
        let prompt = format!("driftdb{context}{moment}{open}> ");
        if goes_on { format!("{:>1$}", "-> ", prompt.chars().count()) } else { prompt }
    }

    /// The note about an open transaction when the shell ends.
    fn dropped(&self) -> Option<String> {
        self.session.open_operations()?;
        Some("note: the open transaction was discarded".to_owned())
    }

    /// What completion asks. Nothing if the database cannot be read.
    async fn catalogue(&mut self) -> Option<Catalogue> {
        let client = self.session.database.stale_client().await.ok()?.clone();
        Some(Catalogue::new(client, Handle::current()))
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
            ShellEntry::Script(script) => {
                self.last_script.clone_from(&script);
                self.session.run_script(&script, None).await?;
            }
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
            ShellCommand::Expanded(mode) => {
                let other = match self.session.out.vertical() {
                    VerticalMode::On => VerticalMode::Off,
                    VerticalMode::Off | VerticalMode::Auto => VerticalMode::On,
                };
                let mode = mode.unwrap_or(other);
                self.session.out.set_vertical(mode);
                render::note(match mode {
                    VerticalMode::On => "rows are printed one field a line",
                    VerticalMode::Off => "rows are printed in columns",
                    VerticalMode::Auto => {
                        "rows are printed in columns, or one field a line if they do not fit"
                    }
                });
            }
            ShellCommand::Pager(on) => {
                self.pager = on.unwrap_or(!self.pager);
                self.session.out.set_pager(self.pager);
                render::note(if self.pager { "the pager is on" } else { "the pager is off" });
            }
            ShellCommand::Include(file) => self.include(&file).await?,
            ShellCommand::Output(file) => self.redirect(file.as_deref())?,
            ShellCommand::Edit(file) => self.edit(file).await?,
            ShellCommand::Watch(every) => self.watch(every).await?,
            ShellCommand::Help => render::note(command::HELP.trim_end()),
            ShellCommand::Quit => return Ok(Flow::Quit),
        }
        Ok(Flow::On)
    }

    /// Runs the statements of a file. The first error stops it.
    async fn include(&mut self, file: &Path) -> CliResult {
        let script = input::read_script(file).await?;
        self.session.run_script(&script, Some(&input::name(file))).await
    }

    /// Appends results to a file, or prints them again.
    fn redirect(&mut self, file: Option<&Path>) -> CliResult {
        let out = file.map(fs::create_output).transpose()?;
        self.session.out.redirect(out)?;
        render::note(&match file {
            Some(file) => format!("results are appended to {}; \\o prints them again", file.display()),
            None => "results are printed".to_owned(),
        });
        Ok(())
    }

    /// Edits a file, or the last script, and runs what it is then.
    async fn edit(&mut self, file: Option<PathBuf>) -> CliResult {
        let script = match file {
            Some(file) => {
                external_editor::edit_file(&file).await?;
                input::read_script(&file).await?
            }
            None => external_editor::edit_text(&self.last_script).await?,
        };
        if script.trim().is_empty() {
            return Ok(());
        }
        render::note(script.trim_end());
        self.last_script = script.clone();
        self.session.run_script(&script, None).await
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
