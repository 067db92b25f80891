//! `watch`: prints changes as they happen, or runs a program for each commit.

use std::pin::pin;
use std::time::Duration;

use driftdb::client::{WatchEvent, created_or_dropped_at, reason};
use driftdb::v1;
use driftdb_common::error::{Error, Reason};
use driftdb_common::format::rfc3339::UtcTime;
use driftdb_common::query::parser;
use tokio::time::{MissedTickBehavior, interval};
use tonic::Status;
use v1::as_of::At;
use v1::watch_drift_request::Start;

use crate::args::{WatchArgs, WatchFormat};
use crate::database::{DatabaseHandle, ReaderApi};
use crate::errors::to_error;
use crate::exit::{CliResult, Failure};
use crate::render::{self, Printer};
use crate::shapes::{self, RequestedImages};
use crate::statement;
use bookmark::Bookmark;
use program::Program;

mod bookmark;
mod program;

/// How often to check whether the output is still read, and to save the bookmark.
const TICK: Duration = Duration::from_millis(500);

/// Watches until the requested end, an error, or until the output is closed.
pub(crate) async fn run(args: WatchArgs, database: &mut DatabaseHandle, out: &mut Printer) -> CliResult {
    if !out.can_stream() && args.until.is_none() && args.command.is_empty() {
        let message = "cannot print an endless watch as csv: csv needs all columns before the first row; pass --until, or use -o jsonl";
        return Err(Failure::Usage(message.to_owned()));
    }
    statement::parse_params(&args.param)?;
    let bookmark = args.resume.as_deref().map(Bookmark::open).transpose()?;
    let request = request(&args, bookmark.as_ref(), database).await?;
    let mut watch = database.stale_client().await?.watch(request);
    let mut watching = Watching {
        out,
        images: RequestedImages { before: args.with_before, after: args.with_after },
        progress: args.progress,
        prints_commits: args.format == Some(WatchFormat::Changes),
        program: Program::new(&args.command),
        bookmark,
        opened: false,
    };
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let event = {
            let mut next = pin!(watch.next());
            loop {
                tokio::select! {
                    event = &mut next => break event,
                    _ = ticks.tick() => watching.tick()?,
                }
            }
        };
        let condition = || args.condition.clone().unwrap_or_default();
        let event = event.map_err(|status| Failure::in_text(watching.error(&status), &condition()))?;
        let Some(event) = event else { break };
        let seq = watching.show(event).await?;
        if let (Some(bookmark), Some(token)) = (&mut watching.bookmark, watch.token()) {
            // A crash must not run the program again for a commit that it has finished.
            bookmark.advance(seq, token, watching.program.is_some())?;
        }
    }
    watching.keep()
}

async fn request(
    args: &WatchArgs,
    bookmark: Option<&Bookmark>,
    database: &mut DatabaseHandle,
) -> CliResult<v1::WatchDriftRequest> {
    let until_seq = match &args.until {
        Some(until) => last_at(until, database).await?,
        None => 0,
    };
    let clock = database.clock()?;
    if let (Some(condition), Ok(params)) = (&args.condition, parser::parse_params(&args.param))
        && let Ok(parsed) = parser::parse_condition_at(condition, &params, &clock)
    {
        // The reader reports what is wrong with a condition.
        render::note_all(&parsed.notes);
    }
    let mut request = v1::WatchDriftRequest {
        tables: args.table.clone(),
        keys: args.key.clone(),
        key_prefix: args.prefix.clone().unwrap_or_default(),
        r#where: args.condition.clone().unwrap_or_default(),
        params: args.param.clone(),
        initial_rows: args.initial,
        with_before: args.with_before,
        with_after: args.with_after,
        until_seq,
        time_zone: database.time_zone(),
        heartbeat: args.heartbeat.and_then(|heartbeat| heartbeat.try_into().ok()),
        ..Default::default()
    };
    let from = statement::parse_optional_point(args.from.as_deref(), &clock)?.and_then(|from| from.at);
    if bookmark.and_then(Bookmark::token).is_none()
        && let Some(at) = from
    {
        note_missing_tables(args, v1::AsOf { at: Some(at) }, database).await?;
    }
    request.start = match (bookmark.and_then(Bookmark::token), from) {
        (Some(token), _) => Some(Start::ResumeToken(token)),
        (None, Some(At::Seq(seq))) => Some(Start::AfterSeq(seq)),
        (None, Some(At::Time(time))) => Some(Start::AfterTime(time)),
        (None, Some(At::Ago(ago))) => Some(Start::AfterTime(shapes::timestamp(before_now(ago)?))),
        // Start after the last acknowledged commit, even if the reader has not applied it yet.
        (None, None) => database.fresh_client().await?.token().map(|written| {
            (request.epoch, request.incarnation) = (written.epoch, written.incarnation);
            Start::AfterSeq(written.seq)
        }),
    };
    Ok(request)
}

/// Notes which of the tables did not exist when the watch starts: their first commits come first. With --strict, that is an error.
async fn note_missing_tables(args: &WatchArgs, at: v1::AsOf, database: &mut DatabaseHandle) -> CliResult {
    for table in &args.table {
        let client = database.fresh_client().await?;
        let freshness = client.token().map(v1::Freshness::from);
        let request = v1::DescribeTableRequest { table: table.clone(), as_of: Some(at), freshness };
        let call = |mut reader: ReaderApi| {
            let request = request.clone();
            async move { reader.describe_table(request).await }
        };
        // A table that never existed, and a point in the future, are for the watch to report.
        let Err(status) = client.read(call).await else { continue };
        if created_or_dropped_at(&status).is_some() {
            if args.strict {
                return Err(status.into());
            }
            render::note_all(&[format!("{}; every change since is new", to_error(&status).message())]);
        }
    }
    Ok(())
}

fn before_now(ago: prost_types::Duration) -> CliResult<UtcTime> {
    let too_long = || Failure::Usage("--from is too far in the past".to_owned());
    let ago = Duration::try_from(ago).map_err(|_| too_long())?;
    let ago = i128::try_from(ago.as_nanos()).map_err(|_| too_long())?;
    UtcTime::from_nanos(jiff::Timestamp::now().as_nanosecond() - ago).ok_or_else(too_long)
}

fn in_future(time: &prost_types::Timestamp) -> bool {
    let now = jiff::Timestamp::now().as_nanosecond();
    UtcTime::from_parts(time.seconds, time.nanos).is_none_or(|time| time.nanos() > now)
}

/// The last commit at or before a point in the past.
async fn last_at(until: &str, database: &mut DatabaseHandle) -> CliResult<u64> {
    let as_of = statement::parse_point(until, &database.clock()?)?;
    let seq = match &as_of.at {
        Some(At::Seq(seq)) => *seq,
        Some(At::Time(time)) if in_future(time) => {
            let message = format!(
                "--until {until} is in the future: pass a past point in time, or a commit (@seq:100)"
            );
            return Err(Failure::Usage(message));
        }
        _ => {
            let client = database.fresh_client().await?;
            let freshness = client.token().map(v1::Freshness::from);
            let request =
                v1::ListTablesRequest { as_of: Some(as_of), freshness, page_size: 1, ..Default::default() };
            let call = |mut reader: ReaderApi| {
                let request = request.clone();
                async move { reader.list_tables(request).await }
            };
            client.read(call).await?.into_inner().header.unwrap_or_default().read_seq
        }
    };
    if seq == 0 {
        return Err(Failure::Usage(format!("--until {until} is before the first commit")));
    }
    Ok(seq)
}

/// A watch in progress.
struct Watching<'a> {
    out: &'a mut Printer,
    images: RequestedImages,
    progress: bool,
    /// Each commit is one line, in a shape that can be applied.
    prints_commits: bool,
    program: Option<Program>,
    bookmark: Option<Bookmark>,
    opened: bool,
}

impl Watching<'_> {
    /// Prints an event or runs the program for it. Returns the seq of its commit.
    async fn show(&mut self, event: WatchEvent) -> CliResult<u64> {
        let seq = match event {
            WatchEvent::Opened(header) => {
                self.opened = true;
                header.read_seq
            }
            WatchEvent::Rows(batch) => self.rows(batch).await?,
            WatchEvent::Commit(commit) => self.commit(commit).await?,
            WatchEvent::RowsDone(header) | WatchEvent::Progress(header) | WatchEvent::CaughtUp(header) => {
                if self.progress && self.program.is_none() {
                    self.out.print_aside(&shapes::progress(header.read_seq)?)?;
                }
                header.read_seq
            }
            WatchEvent::FellBehind(header) => {
                if self.out.wants_notes() {
                    render::note("note: this watch is slower than the database; it catches up from files");
                }
                header.read_seq
            }
            WatchEvent::Interrupted(status) => {
                // If no reader was reachable from the start, waiting does not help.
                if !self.opened && reason(&status).as_deref() == Some(Reason::Unreachable.as_str()) {
                    return Err(status.into());
                }
                render::note(&format!(
                    "note: {}; the watch resumes when a reader is available",
                    to_error(&status).message()
                ));
                0
            }
            WatchEvent::Resumed(header) => {
                render::note(&format!("note: the watch resumed after seq {}", header.read_seq));
                header.read_seq
            }
        };
        self.out.flush()?;
        Ok(seq)
    }

    async fn rows(&mut self, batch: v1::RowBatch) -> CliResult<u64> {
        let seq = batch.rows.iter().map(|row| row.seq).max().unwrap_or_default();
        match &self.program {
            Some(program) => program.run(&shapes::watched_rows(batch)?, None).await?,
            None => {
                for row in batch.rows {
                    self.out.print_aside(&shapes::watched_row(&batch.table, row)?)?;
                }
            }
        }
        Ok(seq)
    }

    async fn commit(&mut self, commit: v1::Commit) -> CliResult<u64> {
        let seq = commit.seq;
        match &self.program {
            Some(program) => program.run(&shapes::commit(commit, self.images)?, Some(seq)).await?,
            None if self.prints_commits => {
                self.out.print_text(&(shapes::commit(commit, self.images)? + "\n"))?;
            }
            None => {
                for event in shapes::events(commit, self.images)? {
                    self.out.print_event(&event)?;
                }
            }
        }
        Ok(seq)
    }

    /// Converts an error of the watch. If the bookmark is the cause, adds advice.
    fn error(&self, status: &Status) -> Error {
        let error = to_error(status);
        let stale = [Reason::FilterMismatch, Reason::EpochChanged, Reason::BelowFloor];
        match &self.bookmark {
            Some(bookmark) if !self.opened && stale.contains(&error.reason()) => error.context(format_args!(
                "cannot resume from {} (remove this file to start again)",
                bookmark.path()
            )),
            _ => error,
        }
    }

    /// Saves the position up to which everything is done.
    fn keep(&mut self) -> CliResult {
        Ok(self.bookmark.as_mut().map_or(Ok(()), Bookmark::save)?)
    }

    fn tick(&mut self) -> CliResult {
        if self.out.is_closed() {
            return Err(Failure::BrokenPipe);
        }
        self.keep()
    }
}
