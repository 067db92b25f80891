//! `driftctl`, the command line of DriftDB: parses arguments, runs a command and prints its result.

use std::io::{self, IsTerminal};
use std::process::ExitCode;

use driftdb_common::error::Error;
use tokio::signal::unix::{SignalKind, signal};

mod args;
mod client;
mod commands;
mod exit;
mod input;
mod orders;
mod processes;
mod render;
mod session;
mod shapes;
mod statement;
#[cfg(test)]
mod testing;

use args::{Cli, Command, Format};
use client::Client;
use exit::{Failure, Outcome};
use render::Output;

/// Runs the program: parses the arguments, runs the command and reports errors.
pub fn main() -> ExitCode {
    let mut cli = args::parse();
    match cli.command {
        // `bench` prints for programs and `demo` for people, wherever stdout goes.
        Command::Bench(_) => cli.global.output = cli.global.output.or(Some(Format::Jsonl)),
        Command::Demo(_) => cli.global.output = Some(Format::Table),
        _ => {}
    }
    let mut output = Output::stdout(&cli.global);
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(e) => {
            let failure = Failure::from(Error::io("cannot start", &e));
            output.fail(&failure);
            return ExitCode::from(failure.code());
        }
    };
    let code = runtime.block_on(run(cli, &mut output));
    // Do not wait for blocking calls, such as a read from the terminal.
    runtime.shutdown_background();
    ExitCode::from(code)
}

async fn run(cli: Cli, output: &mut Output) -> u8 {
    // Servers handle signals themselves, to shut down cleanly.
    let serves = matches!(cli.command, Command::Dev(_) | Command::BenchServer(_));
    // At a prompt Ctrl-C stops the running statement, not the program.
    let prompts = matches!(cli.command, Command::Shell) && io::stdin().is_terminal();
    let outcome = {
        let work = dispatch(cli, output);
        if serves {
            work.await
        } else {
            tokio::select! {
                outcome = work => outcome,
                code = interrupted(prompts) => return code,
            }
        }
    };
    match outcome.and_then(|()| output.finish()) {
        Ok(()) => exit::DONE,
        Err(failure) => {
            output.fail(&failure);
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

async fn dispatch(cli: Cli, out: &mut Output) -> Outcome {
    let global = cli.global;
    match cli.command {
        Command::Init(args) => commands::init::run(args, out).await,
        Command::Dev(args) => commands::dev::run(args, &global, out).await,
        Command::Demo(args) => commands::demo::run(&args, out).await,
        Command::Bench(args) => commands::bench::run(&args, &global, out).await,
        Command::BenchServer(args) => commands::bench::ceiling::run(args, out).await,
        Command::Doctor(args) => commands::doctor::run(&args, &global, out).await,
        Command::Completions(args) => commands::completions::run(&args, out),
        Command::StorageCheck(args) => commands::storage_check::run(&args, out).await,
        Command::StoragePeer(args) => commands::storage_check::peer::run(&args, out),
        command => {
            let mut client = Client::new(&global);
            let outcome = with_client(command, &mut client, out).await;
            // If both fail, the error of the command is the cause.
            outcome.and(client.close().await.map_err(Failure::from))
        }
    }
}

async fn with_client(command: Command, client: &mut Client, out: &mut Output) -> Outcome {
    match command {
        Command::Sql(args) => commands::sql::run(args, client, out).await,
        Command::Shell => commands::shell::run(client, out).await,
        Command::Get(args) => commands::get::run(args, client, out).await,
        Command::Select(args) => commands::select::run(args, client, out).await,
        Command::Drift(args) => commands::drift::run(args, client, out).await,
        Command::Diff(args) => commands::diff::run(args, client, out).await,
        Command::Watch(args) => commands::watch::run(args, client, out).await,
        Command::Ingest(args) => commands::ingest::run(&args, client, out).await,
        Command::Revert(args) => commands::revert::run(args, client, out).await,
        Command::Apply(args) => commands::apply::run(&args, client, out).await,
        Command::Snapshot(args) => commands::snapshot::run(args, client, out).await,
        Command::Compact(args) => commands::compact::run(args, client, out).await,
        Command::Verify(args) => commands::verify::run(args, client, out).await,
        Command::Status => commands::status::run(client, out).await,
        other => Err(Failure::Usage(format!("{other:?} does not take a database"))),
    }
}
