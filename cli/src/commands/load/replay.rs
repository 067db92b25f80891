//! The commits of a dump on their way to the writer.

use std::collections::BTreeSet;

use driftdb::v1;
use driftdb_common::error::{Error, Reason, Result, counted};
use driftdb_common::format::rfc3339::UtcTime;

use super::attempts::{self, FoundAttempt, LoadAttempt};
use super::replay_stream::{Acknowledged, ReplayStream};
use crate::changes::{ImportedCommit, ImportedContent, KnownSchemas};
use crate::commands::dump::{DumpContent, DumpHeader};
use crate::database::DatabaseHandle;
use crate::render;
use crate::shapes::{self, LoadSummary};

/// How many changes of schemas wait at most, until it is known whether an earlier run made them.
const WAITING: usize = 10_000;

/// A dump that is being written again.
pub(super) struct DumpReplay<'a> {
    header: DumpHeader,
    /// Whether an earlier run counts.
    restart: bool,
    database: &'a mut DatabaseHandle,
    /// The attempt, and the stream of its batches. Found once the lines before the first batch are known.
    open: Option<(LoadAttempt, ReplayStream)>,
    /// The schemas after the commits so far.
    schemas: KnownSchemas,
    /// The schemas that the database had when this run began: an earlier run may have made them.
    found: KnownSchemas,
    /// The number of the last batch that an earlier run has loaded.
    earlier: u64,
    /// The commit of that batch, until the tables are compared with it.
    earlier_seq: Option<u64>,
    /// The number of the last batch so far.
    batch: u64,
    /// The number of commits so far that go alone: changes of schemas, and commits without changes.
    lone: u64,
    /// Those after batch `earlier`, which an earlier run may have made.
    waiting: Vec<SingleChange>,
    /// Whether the next lone commit may have been made by an earlier run.
    in_doubt: bool,
    /// The database and the dump do not fit: nothing more is written.
    is_refused: bool,
    /// The time of the last commit, before which no commit may be.
    latest: Option<UtcTime>,
    /// How many commits got a later time than they had.
    moved: u64,
    loaded: LoadSummary,
}

/// A commit that goes alone.
struct SingleChange {
    number: u64,
    commit: ImportedCommit,
    place: String,
}

impl<'a> DumpReplay<'a> {
    /// Begins to load. Nothing is written yet.
    pub(super) fn new(header: DumpHeader, restart: bool, database: &'a mut DatabaseHandle) -> DumpReplay<'a> {
        DumpReplay {
            header,
            restart,
            database,
            open: None,
            schemas: KnownSchemas::default(),
            found: KnownSchemas::default(),
            earlier: 0,
            earlier_seq: None,
            batch: 0,
            lone: 0,
            waiting: Vec::new(),
            in_doubt: true,
            is_refused: false,
            latest: None,
            moved: 0,
            loaded: LoadSummary::default(),
        }
    }

    /// What this run has loaded.
    pub(super) fn loaded(&self) -> LoadSummary {
        let LoadSummary { last_seq, commits, events, .. } = self.loaded;
        LoadSummary { last_seq, commits, events, skipped: None }
    }

    /// Writes a commit again.
    pub(super) async fn add(&mut self, commit: ImportedCommit, place: &str) -> Result<()> {
        match &commit.content {
            ImportedContent::Rows(operations) if !operations.is_empty() => self.send(commit, place).await,
            _ => {
                self.lone += 1;
                let lone = SingleChange { number: self.lone, commit, place: place.to_owned() };
                if self.open.is_some() && self.batch < self.earlier {
                    self.learn(&lone.commit);
                    return Ok(());
                }
                if !self.in_doubt {
                    return self.write_lone(lone).await;
                }
                self.waiting.push(lone);
                if self.waiting.len() < WAITING { Ok(()) } else { self.settle(true).await }
            }
        }
    }

    async fn send(&mut self, commit: ImportedCommit, place: &str) -> Result<()> {
        self.open().await?;
        if self.batch == self.earlier {
            self.settle(true).await?;
            self.in_doubt = false;
        }
        self.batch += 1;
        if self.batch <= self.earlier {
            return Ok(());
        }
        self.fill_gap(&commit).await.map_err(|e| e.context(place))?;
        let options = self.options(&commit, String::new());
        let ImportedContent::Rows(operations) = commit.content else { return Ok(()) };
        let request = v1::IngestRequest {
            batch_id: self.batch,
            operations,
            atomic: true,
            options: Some(options),
            stop_at_refusal: true,
            ..Default::default()
        };
        let Some((_, stream)) = &mut self.open else { return Ok(()) };
        let sent = stream.send(request, place).await;
        self.count_acknowledged();
        sent
    }

    /// Finds the attempt that this run continues or begins, unless it was found.
    async fn open(&mut self) -> Result<()> {
        if self.open.is_some() {
            return Ok(());
        }
        let first: Vec<u64> = self.waiting.iter().map(|lone| lone.number).collect();
        let found = attempts::find(&self.header.id, self.restart, &first, self.database).await?;
        let FoundAttempt { attempt, stream, earlier } = found;
        let status = self.database.writer_status().await?;
        self.found = KnownSchemas::of(status.tables);
        self.latest = status.last_time.and_then(|time| UtcTime::from_parts(time.seconds, time.nanos));
        self.loaded.last_seq = status.last_seq;
        self.earlier = earlier;
        if earlier > 0 {
            self.earlier_seq = Some(attempt.last_seq(self.database).await?);
            render::note(&format!(
                "note: an earlier run loaded the first {} of rows; resuming after that",
                counted(earlier, "commit")
            ));
            for lone in std::mem::take(&mut self.waiting) {
                self.learn(&lone.commit);
            }
        }
        self.open = Some((attempt, stream));
        Ok(())
    }

    /// Decides which of the waiting commits an earlier run has made, and makes the others. `more` is whether further lines follow.
    async fn settle(&mut self, more: bool) -> Result<()> {
        self.open().await?;
        if !self.in_doubt || self.batch < self.earlier {
            return Ok(());
        }
        let waiting = std::mem::take(&mut self.waiting);
        self.check_not_recreated(&waiting).inspect_err(|_| self.is_refused = true)?;
        let settled = self.made_of(&waiting).await.and_then(|made| {
            waiting.iter().take(made).for_each(|lone| self.learn(&lone.commit));
            self.check_made(made)?;
            if more || made < waiting.len() {
                self.refuse_known_tables(&waiting)?
            }
            Ok(made)
        });
        let made = settled.inspect_err(|_| self.is_refused = true)?;
        self.in_doubt = made == waiting.len();
        for lone in waiting.into_iter().skip(made) {
            self.write_lone(lone).await?;
        }
        Ok(())
    }

    /// How many of the waiting commits an earlier run has made.
    async fn made_of(&mut self, waiting: &[SingleChange]) -> Result<usize> {
        let numbers: Vec<u64> = waiting.iter().map(|lone| lone.number).collect();
        let Some((attempt, _)) = &self.open else { return Ok(0) };
        let made = attempt.made_of(&numbers, self.database).await?;
        if made > 0 || self.earlier == 0 || waiting.is_empty() {
            return Ok(made);
        }
        // None was made, or the writer has forgotten their ids. The tables tell which.
        let names = self.names(waiting);
        let mut schemas = self.schemas.clone();
        for (at, lone) in waiting.iter().enumerate() {
            if schemas.agree_with(&self.found, &names) {
                return Ok(at);
            }
            if let ImportedContent::Schema(event) = &lone.commit.content {
                schemas.learn(event);
            }
        }
        if schemas.agree_with(&self.found, &names) { Ok(waiting.len()) } else { Err(changed_since()) }
    }

    /// Fails if tables that an earlier run has made do not exist any more.
    fn check_made(&self, made: usize) -> Result<()> {
        let is_resumed = made > 0 || self.earlier > 0;
        let exist = self.schemas.names().all(|name| self.found.names().any(|found| found == name));
        if is_resumed && !exist { Err(changed_since()) } else { Ok(()) }
    }

    /// Fails if a table of an earlier run was dropped and created after that run's last rows, but not by the dump itself: what exists
    /// now looks like what that run has made, and is not. The writer may have forgotten who created it, but never the last rows.
    fn check_not_recreated(&mut self, waiting: &[SingleChange]) -> Result<()> {
        let Some(last_rows) = self.earlier_seq.take().filter(|_| waiting.len() < WAITING) else {
            return Ok(());
        };
        let is_in_dump = |table: &str| {
            waiting.iter().any(|lone| match &lone.commit.content {
                ImportedContent::Schema(event) => event.schema.table == table,
                ImportedContent::Rows(_) => false,
            })
        };
        let is_newer = |table: &str| self.found.created_seq(table).is_some_and(|seq| seq > last_rows);
        match self.schemas.names().any(|table| is_newer(table) && !is_in_dump(table)) {
            true => Err(changed_since()),
            false => Ok(()),
        }
    }

    /// Fails if the database has a table that the dump is still going to create.
    fn refuse_known_tables(&self, waiting: &[SingleChange]) -> Result<()> {
        let names = self.names(waiting);
        let same = |one: &str, other: &str| one.eq_ignore_ascii_case(other);
        let known = self.found.names().find(|found| {
            names.iter().any(|name| same(name, found)) && !self.schemas.names().any(|made| same(made, found))
        });
        let Some(table) = known else { return Ok(()) };
        let message = format!(
            "cannot load the dump: the database has a table {table:?} already; load into an empty database, for example with `driftctl -d DIR load FILE`, or drop the table first"
        );
        Err(Error::new(Reason::TableExists, message))
    }

    /// The tables of the dump, as far as they are known.
    fn names(&self, waiting: &[SingleChange]) -> BTreeSet<String> {
        let waiting = waiting.iter().filter_map(|lone| match &lone.commit.content {
            ImportedContent::Schema(event) => Some([Some(&event.schema.table), event.from.as_ref()]),
            ImportedContent::Rows(_) => None,
        });
        let waiting = waiting.flatten().flatten().cloned();
        let all = self.header.tables.iter().chain(&self.header.history_tables).cloned();
        all.chain(self.schemas.names().map(str::to_owned)).chain(waiting).collect()
    }

    fn learn(&mut self, commit: &ImportedCommit) {
        if let ImportedContent::Schema(event) = &commit.content {
            self.schemas.learn(event);
        }
    }

    /// Makes a commit that goes alone, after everything before it is on disk.
    async fn write_lone(&mut self, lone: SingleChange) -> Result<()> {
        let SingleChange { number, commit, place } = lone;
        self.fill_gap(&commit).await.map_err(|e| e.context(&place))?;
        self.drain().await?;
        let request_id = self.open.as_ref().map(|(attempt, _)| attempt.request_id(number));
        let written = self.commit_alone(&commit, request_id.unwrap_or_default()).await;
        written.map_err(|e| e.context(&place))?;
        self.learn(&commit);
        Ok(())
    }

    async fn commit_alone(&mut self, commit: &ImportedCommit, request_id: String) -> Result<()> {
        let options = self.options(commit, request_id);
        let token = match &commit.content {
            ImportedContent::Schema(event) => {
                let request = self.schemas.request(event, options)?;
                let token = self.database.change_schema(request).await?;
                self.loaded.events += 1;
                token
            }
            ImportedContent::Rows(_) => {
                let request = v1::ApplyRequest { options: Some(options), ..Default::default() };
                Some(self.database.apply(request).await?)
            }
        };
        self.loaded.last_seq = token.map_or(self.loaded.last_seq, |token| token.seq);
        self.loaded.commits += 1;
        Ok(())
    }

    /// Whether the commits get the seqs that they had.
    fn keeps_seqs(&self) -> bool {
        self.header.content == DumpContent::History && self.header.all_tables && self.header.from_seq == 0
    }

    /// A commit that changed nothing is in no history. It is made again, so that the commits after it keep their seqs.
    async fn fill_gap(&mut self, commit: &ImportedCommit) -> Result<()> {
        if !self.keeps_seqs() || commit.seq == 0 {
            return Ok(());
        }
        let in_flight = self.open.as_ref().map_or(0, |(_, stream)| stream.in_flight());
        let next = self.loaded.last_seq + in_flight + 1;
        for seq in next..commit.seq {
            self.drain().await?;
            let (time, content) = (self.latest, ImportedContent::Rows(Vec::new()));
            let (reason, actor) = (String::new(), String::new());
            self.commit_alone(&ImportedCommit { seq, time, reason, actor, content }, String::new()).await?;
        }
        Ok(())
    }

    /// Waits until everything that was sent is on disk.
    async fn drain(&mut self) -> Result<()> {
        let Some((_, stream)) = &mut self.open else { return Ok(()) };
        let drained = stream.drain().await;
        self.count_acknowledged();
        drained
    }

    fn count_acknowledged(&mut self) {
        let Some((_, stream)) = &mut self.open else { return };
        let Acknowledged { commits, events, last_seq } = stream.take_acknowledged();
        self.loaded.commits += commits;
        self.loaded.events += events;
        self.loaded.last_seq = last_seq.unwrap_or(self.loaded.last_seq);
    }

    /// Writes what waits, and waits until everything is on disk: the dump ends here, or cannot be read on.
    pub(super) async fn end(&mut self) -> Result<()> {
        if !self.is_refused {
            self.settle(false).await?;
        }
        self.drain().await
    }

    /// Ends the load of a whole dump, and tells about times that could not be kept.
    pub(super) async fn finish(&mut self) -> Result<()> {
        self.end().await?;
        if self.batch < self.earlier {
            let message =
                "an earlier run has loaded more than this dump has; pass --restart to load all of it again";
            return Err(Error::new(Reason::ArgumentInvalid, message));
        }
        if self.moved > 0 {
            render::note(&format!(
                "note: {} commits have a later time than in the dump: the database had later commits already",
                self.moved
            ));
        }
        Ok(())
    }

    /// The options of a commit. Its time is not before that of the last one.
    fn options(&mut self, commit: &ImportedCommit, request_id: String) -> v1::CommitOptions {
        let time = commit.time.map(|time| self.latest.map_or(time, |latest| latest.max(time)));
        self.moved += u64::from(time > commit.time);
        self.latest = time.or(self.latest);
        v1::CommitOptions {
            request_id,
            reason: commit.reason.clone(),
            actor: commit.actor.clone(),
            commit_time: time.map(shapes::timestamp),
        }
    }
}

fn changed_since() -> Error {
    let message = "an earlier run loaded a part of this dump, and its tables were dropped or changed since; drop those that are left, and pass --restart to load all of it again";
    Error::new(Reason::ArgumentInvalid, message)
}
