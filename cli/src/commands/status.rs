//! `status`: the writers, the readers and their lag, and the tables.
//!
//! It prints what it finds, and then fails if no writer is active or a daemon that the user named does not answer: a script that asks for the
//! status wants to know that, and people read it in the list.

use driftdb::v1;
use driftdb_common::error::{Error, Reason, Result};
use serde::Serialize;

use crate::database::{DatabaseHandle, ExpectedDaemons, tables_at};
use crate::errors::ACTIVE_WRITER;
use crate::exit::CliResult;
use crate::render::Printer;
use crate::shapes;

mod bucket;
mod security;

use bucket::BucketJson;
use security::SecurityJson;

#[derive(Default, Serialize)]
struct StatusJson {
    writer: Option<WriterJson>,
    #[serde(skip_serializing_if = "Option::is_none")]
    writer_error: Option<String>,
    writers: Vec<WriterStateJson>,
    readers: Vec<ReaderJson>,
    tables: Vec<shapes::TableJson>,
}

#[derive(Serialize)]
struct WriterJson {
    url: String,
    last_seq: u64,
    last_time: String,
    version: String,
    database_id: String,
    /// Text: many JSON parsers round numbers of this size.
    epoch: String,
    term: u64,
    jobs: Vec<JobJson>,
    /// What the clock shows and should show, if commits are refused because of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    clock_jumped: Option<ClockJumpJson>,
    #[serde(skip_serializing_if = "Option::is_none")]
    disk: Option<DiskJson>,
    memory: Vec<MemoryJson>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    damaged_files: Vec<DamagedFileJson>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    problems: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    security: Option<SecurityJson>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bucket: Option<BucketJson>,
}

#[derive(Serialize)]
struct ClockJumpJson {
    clock_time: String,
    expected_time: String,
}

/// The room on the disk of the data directory.
#[derive(Serialize)]
struct DiskJson {
    free_bytes: u64,
    reserve_bytes: u64,
    /// Since when the writer refuses writes because the disk is full.
    #[serde(skip_serializing_if = "Option::is_none")]
    full_since: Option<String>,
    #[serde(skip_serializing_if = "String::is_empty")]
    message: String,
}

/// A snapshot or index file that a daemon does without.
#[derive(Serialize)]
struct DamagedFileJson {
    path: String,
    offset: Option<u64>,
    message: String,
    what_is_done: String,
}

/// The memory that requests of one use take in a daemon.
#[derive(Serialize)]
struct MemoryJson {
    name: String,
    bytes: u64,
    limit_bytes: u64,
    refused: u64,
}

/// One of the named writers.
#[derive(Serialize)]
struct WriterStateJson {
    url: String,
    state: &'static str,
    /// The address of the active writer, if this one is a standby and knows it.
    #[serde(skip_serializing_if = "Option::is_none")]
    waits_for: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

#[derive(Serialize)]
struct JobJson {
    job_id: String,
    description: String,
    queued: bool,
    done: u64,
    total: u64,
    unit: String,
}

#[derive(Serialize)]
struct ReaderJson {
    url: String,
    #[serde(flatten)]
    found: ReaderState,
}

#[derive(Serialize)]
#[serde(untagged)]
enum ReaderState {
    Up(Box<ReaderFigures>),
    Down { error: String },
}

#[derive(Serialize)]
struct ReaderFigures {
    applied_seq: u64,
    /// `None` if it is not known: the bucket has not answered the reader yet.
    lag_ms: Option<u64>,
    lag_seqs: u64,
    floor_seq: u64,
    watchers: u64,
    cache_bytes: u64,
    cache_limit_bytes: u64,
    memtable_events: u64,
    memtable_bytes: u64,
    writer_address: String,
    version: String,
    epoch: String,
    /// What this reader lost last, if another history took the place of the one that it served.
    #[serde(skip_serializing_if = "String::is_empty")]
    last_history_lost: String,
    memory: Vec<MemoryJson>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    damaged_files: Vec<DamagedFileJson>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    problems: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    security: Option<SecurityJson>,
}

/// Prints the status of the daemons that answer, and fails if one does not.
pub(crate) async fn run(database: &mut DatabaseHandle, out: &mut Printer) -> CliResult {
    let (status, failed) = collect_status(database).await?;
    if out.is_for_people() {
        out.print_text(&for_people(&status))?;
        for table in &status.tables {
            out.print_record(&shapes::line(&table.summary())?)?;
        }
    } else {
        out.print_record(&shapes::line(&status)?)?;
    }
    failed.map_or(Ok(()), |error| out.finish_with(error))
}

/// The status, and the error of an expected daemon that does not answer. A standby is as it should be, as long as there is an active
/// writer.
async fn collect_status(database: &mut DatabaseHandle) -> Result<(StatusJson, Option<Error>)> {
    let mut status = StatusJson::default();
    let (mut no_writer, mut failed_writer, mut failed_reader) = (None, None, None);
    // An embedded writer would take the lock, and it knows nothing that the reader does not know.
    if database.directory().is_none() {
        for (url, found) in database.writer_statuses().await {
            let (state, error) = match found {
                Ok(found) => {
                    status.tables = found.tables.iter().cloned().map(shapes::TableJson::from).collect();
                    status.writer = Some(writer(&url, found)?);
                    ("active", None)
                }
                Err(error) if error.reason() == Reason::Standby => ("standby", Some(error)),
                Err(error) => {
                    failed_writer.get_or_insert_with(|| error.clone());
                    ("down", Some(error))
                }
            };
            let waits_for = error.as_ref().and_then(|error| error.metadata().get(ACTIVE_WRITER).cloned());
            let message = error.as_ref().map(|error| error.message().to_owned());
            no_writer = no_writer.or(error);
            status.writers.push(WriterStateJson { url, state, waits_for, error: message });
        }
        no_writer = no_writer.filter(|_| status.writer.is_none());
        status.writer_error = no_writer.as_ref().map(|error| error.message().to_owned());
    }
    for (url, found) in database.reader_statuses().await {
        let found = match found {
            Ok(found) => ReaderState::Up(Box::new(reader_figures(found)?)),
            Err(error) => {
                let down = ReaderState::Down { error: error.message().to_owned() };
                failed_reader = failed_reader.or(Some(error));
                down
            }
        };
        status.readers.push(ReaderJson { url, found });
    }
    let reader_up = status.readers.iter().any(|r| matches!(r.found, ReaderState::Up(_)));
    if status.writer.is_none() && reader_up {
        // No writer answered, so do not ask for its last seq again.
        let (_, tables) = tables_at(database.stale_client().await?, None).await?;
        status.tables = tables.into_iter().map(shapes::TableJson::from).collect();
    }
    let ExpectedDaemons { writer, readers } = database.expected();
    // If nothing answers at all, that is an error whatever was expected.
    let nothing = status.writer.is_none() && !reader_up;
    let no_writer = no_writer.filter(|_| writer || nothing);
    let failed_writer = failed_writer.filter(|_| writer);
    let failed_reader = failed_reader.filter(|_| readers || nothing);
    Ok((status, no_writer.or(failed_writer).or(failed_reader)))
}

fn writer(url: &str, found: v1::WriterServiceStatusResponse) -> Result<WriterJson> {
    let jobs = found.jobs.into_iter();
    let clock_jumped = match &found.clock_expected {
        Some(expected) => Some(ClockJumpJson {
            clock_time: shapes::time(found.clock_time.as_ref())?,
            expected_time: shapes::time(Some(expected))?,
        }),
        None => None,
    };
    Ok(WriterJson {
        url: url.to_owned(),
        last_seq: found.last_seq,
        last_time: shapes::time(found.last_time.as_ref())?,
        version: found.version,
        database_id: found.database_id,
        epoch: found.epoch.to_string(),
        term: found.term,
        jobs: jobs.map(job).collect(),
        clock_jumped,
        disk: found.disk.map(disk).transpose()?,
        memory: found.memory.into_iter().map(memory).collect(),
        damaged_files: found.damaged_files.into_iter().map(damaged_file).collect(),
        problems: found.problems,
        security: found.security.map(SecurityJson::new).transpose()?,
        bucket: found.bucket.map(BucketJson::new).transpose()?,
    })
}

fn disk(found: v1::DiskState) -> Result<DiskJson> {
    let v1::DiskState { free_bytes, reserve_bytes, full_since, message } = found;
    let full_since = full_since.map(|since| shapes::time(Some(&since))).transpose()?;
    Ok(DiskJson { free_bytes, reserve_bytes, full_since, message })
}

fn damaged_file(file: v1::DamagedFile) -> DamagedFileJson {
    let v1::DamagedFile { path, offset, message, what_is_done } = file;
    DamagedFileJson { path, offset, message, what_is_done }
}

fn job(v1::Progress { job_id, done, total, unit, description, queued }: v1::Progress) -> JobJson {
    JobJson { job_id, description, queued, done, total, unit }
}

fn memory(v1::MemoryUsage { name, bytes, limit_bytes, refused }: v1::MemoryUsage) -> MemoryJson {
    MemoryJson { name, bytes, limit_bytes, refused }
}

/// The memory for requests, as a line for people.
fn memory_line(memory: &[MemoryJson]) -> String {
    if memory.is_empty() {
        return String::new();
    }
    let one = |MemoryJson { name, bytes, limit_bytes, refused }: &MemoryJson| {
        let refused = if *refused > 0 { format!(" ({refused} refused)") } else { String::new() };
        format!("{name} {} of {} MiB{refused}", bytes >> 20, limit_bytes >> 20)
    };
    format!("        memory: {}\n", memory.iter().map(one).collect::<Vec<_>>().join(", "))
}

fn reader_figures(found: v1::ReaderServiceStatusResponse) -> Result<ReaderFigures> {
    let header = found.header.unwrap_or_default();
    let lag = found.lag.and_then(|lag| std::time::Duration::try_from(lag).ok());
    Ok(ReaderFigures {
        applied_seq: header.applied_seq,
        lag_ms: lag.map(|lag| u64::try_from(lag.as_millis()).unwrap_or(u64::MAX)),
        lag_seqs: found.lag_seqs,
        floor_seq: header.floor_seq,
        watchers: found.watchers,
        cache_bytes: found.cache_bytes,
        cache_limit_bytes: found.cache_limit_bytes,
        memtable_events: found.memtable_events,
        memtable_bytes: found.memtable_bytes,
        writer_address: found.writer_address,
        version: found.version,
        epoch: header.epoch.to_string(),
        last_history_lost: found.last_history_lost,
        memory: found.memory.into_iter().map(memory).collect(),
        damaged_files: found.damaged_files.into_iter().map(damaged_file).collect(),
        problems: found.problems,
        security: found.security.map(SecurityJson::new).transpose()?,
    })
}

/// What a daemon does without, and what it fails to do.
fn trouble_for_people(damaged_files: &[DamagedFileJson], problems: &[String]) -> String {
    let damaged = damaged_files.iter().map(|file| {
        let DamagedFileJson { path, message, what_is_done, .. } = file;
        format!("        damaged: {path}: {message}; {what_is_done}\n")
    });
    damaged.chain(problems.iter().map(|problem| format!("        {problem}\n"))).collect()
}

fn for_people(status: &StatusJson) -> String {
    let mut text = String::new();
    if let Some(writer) = &status.writer {
        text += &format!(
            "writer  {}: seq {} of {}, term {}, database {}\n",
            writer.url, writer.last_seq, writer.last_time, writer.term, writer.database_id
        );
        if let Some(ClockJumpJson { clock_time, expected_time }) = &writer.clock_jumped {
            text += &format!(
                "        refuses commits: its clock shows {clock_time}, after {expected_time} (see driftctl clock)\n"
            );
        }
        if let Some(DiskJson { full_since: Some(since), free_bytes, message, .. }) = &writer.disk {
            text += &format!("        the disk is full since {since}, {free_bytes} bytes free: {message}\n");
        }
        text += &memory_line(&writer.memory);
        for job in &writer.jobs {
            let JobJson { job_id, description, queued, done, total, unit } = job;
            let far = if *queued { "queued".to_owned() } else { format!("{done} of {total} {unit}") };
            text += &format!("        {job_id}, {description}: {far}\n");
        }
        text += &trouble_for_people(&writer.damaged_files, &writer.problems);
        text += &writer.bucket.as_ref().map(BucketJson::for_people).unwrap_or_default();
        text += &writer.security.as_ref().map(SecurityJson::for_people).unwrap_or_default();
    }
    for writer in &status.writers {
        let WriterStateJson { url, state, waits_for, error } = writer;
        let what = match (*state, waits_for, error) {
            ("active", ..) => continue,
            ("standby", Some(holder), _) => format!("{url} is standing by for {holder}"),
            ("standby", ..) => format!("{url} is standing by"),
            (_, _, Some(error)) => error.clone(),
            _ => format!("{url} is {state}"),
        };
        text += &format!("writer  {what}\n");
    }
    for reader in &status.readers {
        text += &match &reader.found {
            ReaderState::Up(up) => {
                let ReaderFigures { applied_seq, lag_ms, lag_seqs, watchers, .. } = **up;
                let lost = match up.last_history_lost.as_str() {
                    "" => String::new(),
                    lost => format!("        started over: {lost}\n"),
                };
                let behind = match lag_ms {
                    Some(lag_ms) => format!("{lag_seqs} commits and {lag_ms} ms behind"),
                    None => "it is not known how far behind".to_owned(),
                };
                let line = format!(
                    "reader  {}: seq {applied_seq}, {behind}, {watchers} watchers\n{lost}",
                    reader.url
                );
                let security = up.security.as_ref().map(SecurityJson::for_people).unwrap_or_default();
                line + &memory_line(&up.memory)
                    + &trouble_for_people(&up.damaged_files, &up.problems)
                    + &security
            }
            ReaderState::Down { error } => format!("reader  {error}\n"),
        };
    }
    text.push('\n');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_has_a_stable_shape() {
        let up = ReaderFigures {
            applied_seq: 7,
            lag_ms: Some(2),
            lag_seqs: 1,
            floor_seq: 0,
            watchers: 0,
            cache_bytes: 9,
            cache_limit_bytes: 10,
            memtable_events: 3,
            memtable_bytes: 99,
            writer_address: String::new(),
            version: "1".into(),
            epoch: "18446744073709551615".into(),
            last_history_lost: String::new(),
            memory: vec![
                MemoryJson { name: "answers".into(), bytes: 3 << 20, limit_bytes: 96 << 20, refused: 0 },
                MemoryJson { name: "queries".into(), bytes: 5, limit_bytes: 96 << 20, refused: 7 },
            ],
            damaged_files: Vec::new(),
            problems: Vec::new(),
            security: None,
        };
        let status = StatusJson {
            writer: None,
            writer_error: Some("gone".into()),
            writers: vec![
                WriterStateJson {
                    url: "w".into(),
                    state: "down",
                    waits_for: None,
                    error: Some("gone".into()),
                },
                WriterStateJson {
                    url: "x".into(),
                    state: "standby",
                    waits_for: Some("w".into()),
                    error: Some("waits".into()),
                },
            ],
            readers: vec![
                ReaderJson { url: "a".into(), found: ReaderState::Up(Box::new(up)) },
                ReaderJson { url: "b".into(), found: ReaderState::Down { error: "no".into() } },
            ],
            tables: Vec::new(),
        };
        assert_eq!(
            shapes::line(&status).unwrap(),
            r#"{"writer":null,"writer_error":"gone","writers":[{"url":"w","state":"down","error":"gone"},{"url":"x","state":"standby","waits_for":"w","error":"waits"}],"readers":[{"url":"a","applied_seq":7,"lag_ms":2,"lag_seqs":1,"floor_seq":0,"watchers":0,"cache_bytes":9,"cache_limit_bytes":10,"memtable_events":3,"memtable_bytes":99,"writer_address":"","version":"1","epoch":"18446744073709551615","memory":[{"name":"answers","bytes":3145728,"limit_bytes":100663296,"refused":0},{"name":"queries","bytes":5,"limit_bytes":100663296,"refused":7}]},{"url":"b","error":"no"}],"tables":[]}"#
        );
        let text = for_people(&status);
        assert_eq!(
            text,
            "writer  gone\nwriter  x is standing by for w\nreader  a: seq 7, 1 commits and 2 ms behind, 0 watchers\n        memory: answers 3 of 96 MiB, queries 0 of 96 MiB (7 refused)\nreader  no\n\n"
        );
    }
}
