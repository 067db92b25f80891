//! Jobs: who hears what, who waits for whom, and how they end.

use std::sync::mpsc::{Receiver, Sender, channel};

use super::*;

fn task(kind: Kind, table: &str) -> Task {
    Task { kind, table: Some(table).filter(|table| !table.is_empty()).map(str::to_owned) }
}

/// Work that says when it begins and ends when told to.
fn held(
    began: &Sender<&'static str>,
    name: &'static str,
) -> (Sender<()>, impl FnOnce(&JobHandle) -> Result<()> + use<>) {
    let (go, end) = channel::<()>();
    let began = began.clone();
    (go, move |_: &JobHandle| {
        began.send(name).unwrap();
        // Either a word, or that the other side is gone.
        let _ = end.recv();
        Ok(())
    })
}

fn nothing_begins(began: &Receiver<&'static str>) {
    assert!(began.recv_timeout(Duration::from_millis(50)).is_err());
}

#[tokio::test]
async fn progress_is_coalesced_and_the_last_is_told() {
    let jobs = Jobs::default();
    let began = std::time::Instant::now();
    let work = |job: &JobHandle| {
        for done in 1..=300 {
            job.report(done, 300, "rows");
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(7)
    };
    let mut follower = jobs.start(task(Kind::Snapshot, "t"), work).unwrap();
    let mut told = Vec::new();
    let result = loop {
        match follower.next().await.unwrap() {
            News::Progress(progress) => told.push(progress),
            News::Done(result) => break result.unwrap(),
            News::Problem(problem) => panic!("{problem}"),
        }
    };
    assert_eq!(result, 7);
    assert!(follower.next().await.is_none());
    let most = usize::try_from(began.elapsed().as_millis() / NEWS.as_millis()).unwrap() + 2;
    assert!((2..=most).contains(&told.len()), "{told:?}");
    assert!(told.is_sorted_by(|a, b| a.done < b.done), "{told:?}");
    let last = told.pop().unwrap();
    assert_eq!((last.done, last.total, last.unit, last.waits), (300, 300, "rows", false));
    assert_eq!((last.id.as_str(), last.what.as_str()), ("job-1", "snapshot of t"));
}

#[tokio::test]
async fn problems_come_in_order_before_the_end_however_late_they_are_read() {
    let jobs = Jobs::default();
    let problem = |offset| Problem { file: "f".into(), offset, message: "m".into() };
    let work = move |job: &JobHandle| {
        (0..limits::PROBLEMS_LISTED + 5).for_each(|offset| job.problem(problem(offset)));
        Err::<(), _>(Error::new(Reason::Io, "no"))
    };
    let mut follower = jobs.start(task(Kind::Verify, ""), work).unwrap();
    jobs.join();
    for offset in 0..limits::PROBLEMS_LISTED {
        let Some(News::Problem(found)) = follower.next().await else { panic!() };
        assert_eq!(found, problem(offset));
    }
    let Some(News::Done(Err(error))) = follower.next().await else { panic!() };
    assert_eq!(error.reason(), Reason::Io);
}

#[tokio::test]
async fn a_job_goes_on_without_its_caller() {
    let jobs = Jobs::default();
    let (began, begun) = channel();
    let (done, ended) = channel();
    let (go, work) = held(&began, "first");
    let follower = jobs
        .start(task(Kind::Snapshot, "t"), move |job| {
            work(job)?;
            job.report(1, 1, "rows");
            job.problem(Problem { file: "f".into(), offset: 0, message: "m".into() });
            done.send(()).unwrap();
            Ok(())
        })
        .unwrap();
    begun.recv().unwrap();
    drop(follower);
    let listed = jobs.list();
    assert_eq!(listed.len(), 1);
    assert_eq!((listed[0].what.as_str(), listed[0].waits), ("snapshot of t", false));
    go.send(()).unwrap();
    ended.recv().unwrap();
    jobs.join();
    assert_eq!(jobs.list(), []);
}

#[tokio::test]
async fn jobs_of_one_table_wait_for_each_other_or_are_refused() {
    let jobs = Jobs::default();
    let (began, begun) = channel();
    let start = |kind, table, name| {
        let (go, work) = held(&began, name);
        (go, jobs.start(task(kind, table), work))
    };
    let (first, a) = start(Kind::Snapshot, "t", "first snapshot");
    assert_eq!(begun.recv().unwrap(), "first snapshot");
    let (second, b) = start(Kind::Snapshot, "t", "second snapshot");
    nothing_begins(&begun);
    assert!(jobs.list()[1].waits);
    // Another table is not in anybody's way, nor is reading.
    let (other, c) = start(Kind::Compact, "u", "other");
    assert_eq!(begun.recv().unwrap(), "other");
    let (verify, d) = start(Kind::Verify, "t", "verify");
    assert_eq!(begun.recv().unwrap(), "verify");
    let (_, refused) = start(Kind::Compact, "u", "never");
    let error = refused.unwrap_err();
    assert_eq!(error.reason(), Reason::JobRunning);
    assert!(error.message().contains("\"u\" is being compacted by job-3"), "{error}");
    // A compaction waits for all that was asked for before it.
    let (compact, e) = start(Kind::Compact, "t", "compact");
    first.send(()).unwrap();
    a.unwrap().outcome().await.unwrap();
    assert_eq!(begun.recv().unwrap(), "second snapshot");
    second.send(()).unwrap();
    nothing_begins(&begun);
    verify.send(()).unwrap();
    assert_eq!(begun.recv().unwrap(), "compact");
    compact.send(()).unwrap();
    other.send(()).unwrap();
    for follower in [b, c, d, e] {
        follower.unwrap().outcome().await.unwrap();
    }
    jobs.join();
}

#[tokio::test]
async fn only_a_few_run_and_only_so_many_wait() {
    let jobs = Jobs::default();
    let (began, begun) = channel();
    let mut running = Vec::new();
    for i in 0..limits::JOBS + limits::JOBS_WAITING {
        let (go, work) = held(&began, "one");
        let follower = jobs.start(task(Kind::Snapshot, &format!("t{i}")), work).unwrap();
        running.push((go, follower));
    }
    (0..limits::JOBS).for_each(|_| assert!(begun.recv().is_ok()));
    nothing_begins(&begun);
    let (_, work) = held(&began, "one more");
    let error = jobs.start(task(Kind::Verify, "u"), work).unwrap_err();
    assert_eq!(error.reason(), Reason::Overloaded);
    for (go, follower) in running {
        drop(go);
        follower.outcome().await.unwrap();
    }
}

#[tokio::test]
async fn a_shutdown_ends_what_runs_and_what_waits() {
    let jobs = Jobs::default();
    let (began, begun) = channel();
    let works = move |job: &JobHandle| {
        began.send(()).unwrap();
        while !job.cancelled() {
            std::thread::sleep(Duration::from_millis(1));
        }
        job.check()
    };
    let runs = jobs.start(task(Kind::Compact, "t"), works).unwrap();
    begun.recv().unwrap();
    let waits = jobs.start(task(Kind::Snapshot, "t"), |_| -> Result<()> { panic!("not its turn") }).unwrap();
    jobs.cancel();
    jobs.join();
    assert_eq!(runs.outcome().await.unwrap_err().reason(), Reason::ShuttingDown);
    assert_eq!(waits.outcome().await.unwrap_err().reason(), Reason::ShuttingDown);
    let late = jobs.start(task(Kind::Verify, ""), |_| Ok(()));
    assert_eq!(late.unwrap_err().reason(), Reason::ShuttingDown);
}

#[tokio::test]
async fn a_panic_is_an_error_and_leaves_nothing_behind() {
    let jobs = Jobs::default();
    let follower = jobs.start(task(Kind::Verify, ""), |_| -> Result<()> { panic!("on purpose") }).unwrap();
    jobs.join();
    assert_eq!(follower.outcome().await.unwrap_err().reason(), Reason::Internal);
}

#[test]
fn a_handle_for_tests_of_work() {
    let (job, cancel) = JobHandle::detached();
    job.report(1, 2, "rows");
    assert!(job.check().is_ok());
    cancel.store(true, Ordering::Release);
    assert!(job.cancelled() && job.check().is_err());
}
