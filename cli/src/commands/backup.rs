//! `backup`: ships a data directory to a bucket, and checks and lists what a bucket has.

use driftdb_common::bucket::bucket_check::{self, WriterStretch};
use driftdb_common::bucket::collection::{self, CollectionPlan};
use driftdb_common::bucket::store::BucketStore;
use driftdb_common::error::{Error, Reason, counted};
use driftdb_common::storage::fs::OsFileSystem;
use driftdb_common::storage::layout::DataDir;
use driftdb_common::table::check::verification::Problem;
use serde::Serialize;

use crate::args::{BackupArgs, BackupCommand, CollectBucketArgs, GlobalArgs, VerifyBucketArgs};
use crate::database::DatabaseHandle;
use crate::exit::{CliResult, Failure};
use crate::render::{Printer, ProgressLine};
use crate::shapes;
use crate::token;

pub(crate) mod bucket_work;
pub(crate) mod shipment;

use bucket_work::{commit_time, on_thread, scratch_directory, show_copied};
use shipment::{ask_writer, ship};

#[derive(Serialize)]
struct StretchJson {
    term: u64,
    first_chunk: u64,
    last_chunk: u64,
    first_seq: u64,
    last_seq: u64,
    last_time: Option<String>,
}

#[derive(Serialize)]
struct BucketProblemJson {
    file: String,
    offset: u64,
    message: String,
}

/// What would be deleted: chunks except fences, and files. No chunk if the last one is 0.
#[derive(Default, Serialize)]
struct CollectionJson {
    first_chunk: u64,
    last_chunk: u64,
    files: usize,
    file_bytes: u64,
    /// The oldest moment that can be restored afterwards.
    oldest_time: Option<String>,
}

#[derive(Serialize)]
struct BucketTotals {
    chunks: u64,
    files: u64,
    bytes: u64,
    last_seq: u64,
    problems: u64,
}

/// Runs the command.
pub(crate) async fn run(args: BackupArgs, global: &GlobalArgs, out: &mut Printer) -> CliResult {
    match args.command {
        Some(BackupCommand::Verify(args)) => verify(args, out).await,
        Some(BackupCommand::List(args)) => list(args.url, out).await,
        Some(BackupCommand::Collect(args)) => collect(args, out).await,
        None => {
            let Some(target) = args.target else {
                return Err(Failure::Usage("backup needs the URL of a bucket".to_owned()));
            };
            match &global.data {
                Some(data) => ship(data.clone(), target, args.force, out).await,
                None if !global.writer.is_empty() => {
                    token::load(global)?;
                    let mut database = DatabaseHandle::new(global);
                    let outcome = ask_writer(&mut database, target, args.force, out).await;
                    outcome.and(database.close().await.map_err(Failure::from))
                }
                None => {
                    let message = "backup needs a data directory or a writer: pass -d DIR or --writer URL; a writer that was \
                                   started with --bucket ships by itself";
                    Err(Failure::Usage(message.to_owned()))
                }
            }
        }
    }
}

async fn list(url: String, out: &mut Printer) -> CliResult {
    let found = on_thread("listing", move || bucket_check::stretches(&BucketStore::open(&url)?)).await?;
    for WriterStretch { term, first_chunk, last_chunk, after, last } in found {
        // A writer that has added nothing has no first commit.
        let is_empty = last.seq == after.seq;
        out.print_record(&shapes::line(&StretchJson {
            term,
            first_chunk,
            last_chunk,
            first_seq: if is_empty { last.seq } else { after.seq + 1 },
            last_seq: last.seq,
            last_time: commit_time(last.seq, last.time_ms),
        })?)?;
    }
    Ok(())
}

async fn collect(args: CollectBucketArgs, out: &mut Printer) -> CliResult {
    let CollectBucketArgs { url, keep } = args;
    let keep_ms = u64::try_from(keep.as_millis()).unwrap_or(u64::MAX);
    let plan = on_thread("planning", move || collection::plan(&BucketStore::open(&url)?, keep_ms)).await?;
    let found = plan.map(|CollectionPlan { from, first, oldest_ms, files, file_bytes }| CollectionJson {
        first_chunk: from,
        last_chunk: first - 1,
        files: files.len(),
        file_bytes,
        oldest_time: commit_time(first, oldest_ms),
    });
    out.print_record(&shapes::line(&found.unwrap_or_default())?)
}

async fn verify(args: VerifyBucketArgs, out: &mut Printer) -> CliResult {
    let (found, problems) = on_thread("verifying", move || {
        let store = BucketStore::open(&args.url)?;
        let scratch = if args.deep { Some(scratch_directory()?) } else { None };
        let fs = OsFileSystem::shared();
        let dir = scratch.as_ref().map(|scratch| DataDir::new(scratch.path().join("database")));
        let (mut line, mut problems) = (ProgressLine::default(), Vec::new());
        let mut progress = |made| {
            show_copied(&mut line, "verifying", made);
            Ok(())
        };
        let mut keep = |problem| problems.push(problem);
        let found = bucket_check::verify_bucket(
            &store,
            dir.as_ref().map(|dir| (&fs, dir)),
            &mut progress,
            &mut keep,
        )?;
        Ok((found, problems))
    })
    .await?;
    for Problem { file, offset, message } in problems {
        out.print_record(&shapes::line(&BucketProblemJson { file, offset, message })?)?;
    }
    out.end_result()?;
    let bucket_check::BucketCounts { chunks, files, bytes, last_seq, problems } = found;
    out.print_record(&shapes::line(&BucketTotals { chunks, files, bytes, last_seq, problems })?)?;
    if problems == 0 {
        return Ok(());
    }
    out.finish_with(Error::new(Reason::Corrupt, format!("found {}", counted(problems, "problem"))))
}
