//! Tests of jobs: what followers receive, which jobs wait for which, and how jobs end.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use driftdb_common::error::{Error, Reason, Result};
use driftdb_common::limits;
use driftdb_common::table::check::verification::Problem;

use super::follower::PROGRESS_INTERVAL;
use super::*;

fn task(kind: JobKind, table: &str) -> JobTask {
    JobTask { kind, table: Some(table).filter(|table| !table.is_empty()).map(str::to_owned) }
}

/// Work that sends its name to `started` when it starts, and ends when the returned sender sends or is
/// dropped.
fn held_work(
    started: &Sender<&'static str>,
    name: &'static str,
) -> (Sender<()>, impl FnOnce(&JobHandle) -> Result<()> + use<>) {
    let (release, released) = channel::<()>();
    let started = started.clone();
    (release, move |_: &JobHandle| {
        started.send(name).unwrap();
        let _ = released.recv();
        Ok(())
    })
}

fn assert_nothing_starts(started: &Receiver<&'static str>) {
    assert!(started.recv_timeout(Duration::from_millis(50)).is_err());
}

/// The result of a job, after all its other events.
async fn result_of<T>(mut follower: JobFollower<T>) -> Result<T> {
    while let Some(event) = follower.next().await {
        if let JobEvent::Done(result) = event {
            return result;
        }
    }
    panic!("the job ended without a result");
}

#[tokio::test]
async fn progress_reports_are_merged_and_the_last_one_arrives() {
    let jobs = Jobs::default();
    let start = std::time::Instant::now();
    let work = |job: &JobHandle| {
        for done in 1..=300 {
            job.report(done, 300, "rows");
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(7)
    };
    let mut follower = jobs.start(task(JobKind::Snapshot, "t"), work).unwrap();
    let mut reports = Vec::new();
    let result = loop {
        match follower.next().await.unwrap() {
            JobEvent::Progress(progress) => reports.push(progress),
            JobEvent::Done(result) => break result.unwrap(),
            JobEvent::Problem(problem) => panic!("{problem}"),
        }
    };
    assert_eq!(result, 7);
    assert!(follower.next().await.is_none());
    let most = usize::try_from(start.elapsed().as_millis() / PROGRESS_INTERVAL.as_millis()).unwrap() + 2;
    assert!((2..=most).contains(&reports.len()), "{reports:?}");
    assert!(reports.is_sorted_by(|a, b| a.done < b.done), "{reports:?}");
    let last = reports.pop().unwrap();
    assert_eq!((last.done, last.total, last.unit, last.queued), (300, 300, "rows", false));
    assert_eq!((last.id.as_str(), last.description.as_str()), ("job-1", "snapshot of t"));
}

#[tokio::test]
async fn problems_arrive_in_order_before_the_result_however_late_they_are_read() {
    let jobs = Jobs::default();
    let problem = |offset| Problem { file: "f".into(), offset, message: "m".into() };
    let work = move |job: &JobHandle| {
        (0..limits::PROBLEMS_LISTED + 5).for_each(|offset| job.report_problem(problem(offset)));
        Err::<(), _>(Error::new(Reason::Io, "no"))
    };
    let mut follower = jobs.start(task(JobKind::Verify, ""), work).unwrap();
    jobs.join();
    for offset in 0..limits::PROBLEMS_LISTED {
        let Some(JobEvent::Problem(found)) = follower.next().await else { panic!() };
        assert_eq!(found, problem(offset));
    }
    let Some(JobEvent::Done(Err(error))) = follower.next().await else { panic!() };
    assert_eq!(error.reason(), Reason::Io);
}

#[tokio::test]
async fn a_job_continues_without_its_follower() {
    let jobs = Jobs::default();
    let (started, starts) = channel();
    let (done, ended) = channel();
    let (release, work) = held_work(&started, "first");
    let follower = jobs
        .start(task(JobKind::Snapshot, "t"), move |job| {
            work(job)?;
            job.report(1, 1, "rows");
            job.report_problem(Problem { file: "f".into(), offset: 0, message: "m".into() });
            done.send(()).unwrap();
            Ok(())
        })
        .unwrap();
    starts.recv().unwrap();
    drop(follower);
    let listed = jobs.list();
    assert_eq!(listed.len(), 1);
    assert_eq!((listed[0].description.as_str(), listed[0].queued), ("snapshot of t", false));
    release.send(()).unwrap();
    ended.recv().unwrap();
    jobs.join();
    assert_eq!(jobs.list(), []);
}

#[tokio::test]
async fn conflicting_jobs_of_a_table_wait_or_are_refused() {
    let jobs = Jobs::default();
    let (started, starts) = channel();
    let start = |kind, table, name| {
        let (release, work) = held_work(&started, name);
        (release, jobs.start(task(kind, table), work))
    };
    let (first, a) = start(JobKind::Snapshot, "t", "first snapshot");
    assert_eq!(starts.recv().unwrap(), "first snapshot");
    let (second, b) = start(JobKind::Snapshot, "t", "second snapshot");
    assert_nothing_starts(&starts);
    assert!(jobs.list()[1].queued);
    // Jobs of another table and verifications do not wait.
    let (other, c) = start(JobKind::Compact, "u", "other");
    assert_eq!(starts.recv().unwrap(), "other");
    let (verify, d) = start(JobKind::Verify, "t", "verify");
    assert_eq!(starts.recv().unwrap(), "verify");
    let (_, refused) = start(JobKind::Compact, "u", "never");
    let error = refused.unwrap_err();
    assert_eq!(error.reason(), Reason::JobRunning);
    assert!(error.message().contains("table \"u\": job-3 is compacting it"), "{error}");
    // A compaction waits for every job of its table that was started before it.
    let (compact, e) = start(JobKind::Compact, "t", "compact");
    first.send(()).unwrap();
    result_of(a.unwrap()).await.unwrap();
    assert_eq!(starts.recv().unwrap(), "second snapshot");
    second.send(()).unwrap();
    assert_nothing_starts(&starts);
    verify.send(()).unwrap();
    assert_eq!(starts.recv().unwrap(), "compact");
    compact.send(()).unwrap();
    other.send(()).unwrap();
    for follower in [b, c, d, e] {
        result_of(follower.unwrap()).await.unwrap();
    }
    jobs.join();
}

#[tokio::test]
async fn the_numbers_of_running_and_of_waiting_jobs_are_limited() {
    let jobs = Jobs::default();
    let (started, starts) = channel();
    let mut running = Vec::new();
    for i in 0..limits::JOBS + limits::JOBS_WAITING {
        let (release, work) = held_work(&started, "one");
        let follower = jobs.start(task(JobKind::Snapshot, &format!("t{i}")), work).unwrap();
        running.push((release, follower));
    }
    (0..limits::JOBS).for_each(|_| assert!(starts.recv().is_ok()));
    assert_nothing_starts(&starts);
    let (_, work) = held_work(&started, "one more");
    let error = jobs.start(task(JobKind::Verify, "u"), work).unwrap_err();
    assert_eq!(error.reason(), Reason::Overloaded);
    for (release, follower) in running {
        drop(release);
        result_of(follower).await.unwrap();
    }
}

#[tokio::test]
async fn a_shutdown_ends_running_and_waiting_jobs() {
    let jobs = Jobs::default();
    let (started, starts) = channel();
    let works = move |job: &JobHandle| {
        started.send(()).unwrap();
        while job.check_cancelled().is_ok() {
            std::thread::sleep(Duration::from_millis(1));
        }
        job.check_cancelled()
    };
    let running = jobs.start(task(JobKind::Compact, "t"), works).unwrap();
    starts.recv().unwrap();
    let waiting =
        jobs.start(task(JobKind::Snapshot, "t"), |_| -> Result<()> { panic!("not its turn") }).unwrap();
    jobs.cancel();
    jobs.join();
    assert_eq!(result_of(running).await.unwrap_err().reason(), Reason::ShuttingDown);
    assert_eq!(result_of(waiting).await.unwrap_err().reason(), Reason::ShuttingDown);
    let late = jobs.start(task(JobKind::Verify, ""), |_| Ok(()));
    assert_eq!(late.unwrap_err().reason(), Reason::ShuttingDown);
}

#[tokio::test]
async fn a_panic_becomes_an_error_and_the_job_is_removed() {
    let jobs = Jobs::default();
    let follower = jobs.start(task(JobKind::Verify, ""), |_| -> Result<()> { panic!("on purpose") }).unwrap();
    jobs.join();
    assert_eq!(result_of(follower).await.unwrap_err().reason(), Reason::Internal);
}
