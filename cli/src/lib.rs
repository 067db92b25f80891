//! `driftctl`, the command line of DriftDB: parses arguments, runs a command and prints its result.

use std::io::{self, IsTerminal};
use std::process::ExitCode;

use driftdb_common::error::Error;
use tokio::signal::unix::{SignalKind, signal};

mod address;
mod args;
mod bulk;
mod changes;
mod child;
mod commands;
mod contexts;
mod database;
mod dispatch;
mod errors;
mod exit;
mod input;
mod made_keys;
mod orders;
mod output_file;
mod processes;
mod render;
mod session;
mod shapes;
mod statement;
#[cfg(test)]
mod testing;
mod token;

use args::{Cli, Command, Format, GivenOptions};
use dispatch::dispatch;
use exit::Failure;
use render::Printer;

/// Runs the program: parses the arguments, runs the command and reports errors.
pub fn main() -> ExitCode {
    let (mut cli, given) = args::parse();
    let applied = match &cli.command {
        // It shows and changes contexts, and works on none.
        Command::Context(_) => Ok(()),
        command => contexts::apply(&mut cli.global, &given, command.uses_current_context()),
    };
    // `demo` prints for people, wherever stdout goes.
    if matches!(cli.command, Command::Demo(_)) {
        cli.global.output = Some(Format::Table);
    }
    let mut output = Printer::stdout(&cli.global);
    if let Err(error) = applied {
        let failure = Failure::from(error);
        output.print_failure(&failure);
        return ExitCode::from(failure.code());
    }
    args::check(&cli).unwrap_or_else(|error| error.exit());
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(e) => {
            let failure = Failure::from(Error::io("cannot start", &e));
            output.print_failure(&failure);
            return ExitCode::from(failure.code());
        }
    };
    let code = runtime.block_on(run(cli, &given, &mut output));
    // Do not wait for blocking calls, such as a read from the terminal.
    runtime.shutdown_background();
    ExitCode::from(code)
}

async fn run(cli: Cli, given: &GivenOptions, output: &mut Printer) -> u8 {
    // Servers handle signals themselves, to shut down cleanly.
    let serves = matches!(cli.command, Command::Dev(_) | Command::BenchServer(_));
    // At a prompt Ctrl-C stops the running statement, not the program.
    let prompts = matches!(cli.command, Command::Shell) && io::stdin().is_terminal();
    let ended = {
        let work = Box::pin(dispatch(cli, given, output));
        if serves {
            Ok(work.await)
        } else {
            tokio::select! {
                // First, so that the handlers are installed before the command prints anything: a script may send a signal
                // as soon as it reads a line.
                biased;
                code = interrupted(prompts) => Err(code),
                outcome = work => Ok(outcome),
            }
        }
    };
    let outcome = match ended {
        Ok(outcome) => outcome,
        Err(code) => {
            // A pager keeps the terminal until the user leaves it. If the output fails now, nobody reads it.
            let _ = output.end_pages();
            return code;
        }
    };
    match outcome.and_then(|()| output.finish()) {
        Ok(()) => exit::DONE,
        Err(failure) => {
            output.print_failure(&failure);
            failure.code()
        }
    }
}

/// Waits for a signal and returns its exit code. At a prompt, Ctrl-C is left to the prompt.
async fn interrupted(prompts: bool) -> u8 {
    let (Ok(mut interrupt), Ok(mut terminate)) =
        (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
    else {
        // Signals then have their default effect.
        return std::future::pending().await;
    };
    tokio::select! {
        _ = interrupt.recv(), if !prompts => exit::INTERRUPTED,
        _ = terminate.recv() => exit::TERMINATED,
    }
}
