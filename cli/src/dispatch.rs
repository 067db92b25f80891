//! Runs the command that the arguments name.

use crate::args::{Cli, Command, GivenOptions};
use crate::commands;
use crate::database::DatabaseHandle;
use crate::exit::{CliResult, Failure};
use crate::render::Printer;
use crate::token;

/// Runs the command of a command line, whose options are `given`.
pub(crate) async fn dispatch(cli: Cli, given: &GivenOptions, out: &mut Printer) -> CliResult {
    let global = cli.global;
    match cli.command {
        Command::Init(args) => commands::init::run(args, out).await,
        Command::Dev(args) => commands::dev::run(args, &global, out).await,
        Command::Demo(args) => Box::pin(commands::demo::run(&args, out)).await,
        Command::Bench(args) => {
            token::load(&global)?;
            Box::pin(commands::bench::run(&args, &global, out)).await
        }
        Command::Token(args) => commands::token::run(args, out),
        Command::Auth(args) => commands::auth::run(args, out),
        Command::BenchServer(args) => commands::bench::ceiling::run(args, out).await,
        Command::Doctor(args) => commands::doctor::run(&args, &global, out).await,
        Command::Backup(args) => commands::backup::run(args, &global, out).await,
        Command::Restore(args) => commands::restore::run(args, &global, out).await,
        Command::Clone(args) => commands::clone::run(args, &global, out).await,
        Command::Cert(args) => commands::cert::run(&args),
        Command::Completions(args) => commands::completions::run(&args, out),
        Command::Man(args) => commands::man::run(&args),
        Command::Context(args) => commands::context::run(args, &global, given, out),
        Command::Health(args) => {
            token::load(&global)?;
            commands::health::run(args, &global, out).await
        }
        Command::StorageCheck(args) => commands::storage_check::run(&args, out).await,
        Command::StoragePeer(args) => commands::storage_check::peer::run(&args, out),
        command => {
            token::load(&global)?;
            let mut database = DatabaseHandle::new(&global);
            let outcome = match command {
                Command::Export(args) => {
                    Box::pin(commands::export::run(args, (&global, given), &mut database, out)).await
                }
                Command::Top(args) => commands::top::run(args, given, &mut database, out).await,
                command => Box::pin(run_on_database(command, &mut database, out)).await,
            };
            // If both fail, the error of the command is the cause.
            outcome.and(database.close().await.map_err(Failure::from))
        }
    }
}

async fn run_on_database(command: Command, database: &mut DatabaseHandle, out: &mut Printer) -> CliResult {
    match command {
        Command::Sql(args) => commands::sql::run(args, database, out).await,
        Command::Shell => commands::shell::run(database, out).await,
        Command::Get(args) => commands::get::run(args, database, out).await,
        Command::Select(args) => commands::select::run(args, database, out).await,
        Command::Drift(args) => commands::drift::run(args, database, out).await,
        Command::Find(args) => commands::find::run(args, database, out).await,
        Command::Diff(args) => commands::diff::run(args, database, out).await,
        Command::Watch(args) => commands::watch::run(args, database, out).await,
        Command::Ingest(args) => commands::ingest::run(&args, database, out).await,
        Command::Revert(args) => commands::revert::run(args, database, out).await,
        Command::Apply(args) => commands::apply::run(&args, database, out).await,
        Command::Dump(args) => commands::dump::run(args, database, out).await,
        Command::Load(args) => commands::load::run(&args, database, out).await,
        Command::Snapshot(args) => commands::snapshot::run(args, database, out).await,
        Command::Compact(args) => commands::compact::run(args, database, out).await,
        Command::Verify(args) => commands::verify::run(args, database, out).await,
        Command::Clock(args) => commands::clock::run(args, database, out).await,
        Command::Status => commands::status::run(database, out).await,
        other => Err(Failure::Usage(format!("{other:?} does not take a database"))),
    }
}
