//! What the metrics say of a bucket: how far it is behind, what was asked of it, and what a reader has of it.

#![expect(clippy::disallowed_methods, reason = "takes a bucket away")]

use std::path::Path;

use crate::harness::scrape::{Scrape, ScrapedDaemon};
use crate::harness::{apply, calls, create_table, put, select_at};

const REQUESTS: &str = "driftdb_bucket_requests_total";

fn requests(scrape: &Scrape, request: &str, result: &str) -> f64 {
    scrape.find(REQUESTS, &[("request", request), ("result", result)]).unwrap_or(0.0)
}

fn start(name: &str, data: &Path, bucket: &Path, args: &[&str]) -> ScrapedDaemon {
    let args = [&["--bucket", bucket.to_str().unwrap()], args].concat();
    ScrapedDaemon::start(name, data, &args)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_writers_metrics_show_what_is_not_in_the_bucket() {
    let home = tempfile::tempdir().unwrap();
    let (bucket, aside) = (home.path().join("bucket"), home.path().join("aside"));
    let writer = start("driftdb-writer", &home.path().join("data"), &bucket, &["--bucket-interval", "10ms"]);
    let mut client = writer.daemon.as_writer().await;
    create_table(&mut client, "t").await.unwrap();
    let seq = apply(&mut client, vec![put("t", r#"{"id":"a"}"#)]).await.unwrap().seq;
    let shipped = |scrape: &Scrape| scrape.value("driftdb_bucket_shipped_seq", &[]) as u64;
    let scrape = writer.scrape_until("the commits to be shipped", |scrape| shipped(scrape) == seq).await;
    for name in ["driftdb_bucket_lag_commits", "driftdb_bucket_lag_seconds"] {
        assert_eq!(scrape.value(name, &[]), 0.0, "{name}");
    }
    let chunks = scrape.value("driftdb_bucket_chunk", &[]);
    // The fence, and what followed it.
    assert_eq!(scrape.value("driftdb_bucket_chunk_bytes_count", &[]), chunks - 1.0);
    assert!(requests(&scrape, "create", "ok") >= chunks);
    let sent = scrape.value("driftdb_bucket_sent_bytes_total", &[]);
    assert!(sent >= scrape.value("driftdb_bucket_chunk_bytes_sum", &[]), "{sent}");
    assert_eq!(scrape.find("driftdb_bucket_retries_total", &[]).unwrap_or(0.0), 0.0);
    // Somebody takes the bucket away.
    std::fs::rename(&bucket, &aside).unwrap();
    std::fs::write(&bucket, "not a directory").unwrap();
    let mut last = seq;
    for n in 0..5 {
        last = apply(&mut client, vec![put("t", format!(r#"{{"id":"b{n}"}}"#))]).await.unwrap().seq;
    }
    let behind = |scrape: &Scrape| {
        let failures: f64 =
            ["create", "get", "put", "head"].iter().map(|name| requests(scrape, name, "failed")).sum();
        scrape.value("driftdb_bucket_lag_commits", &[]) > 0.0
            && scrape.value("driftdb_bucket_lag_seconds", &[]) > 0.0
            && failures > 0.0
            && scrape.find("driftdb_bucket_retries_total", &[]).unwrap_or(0.0) > 0.0
    };
    let scrape = writer.scrape_until("the bucket to be behind", behind).await;
    let lag = scrape.value("driftdb_bucket_lag_commits", &[]);
    assert_eq!(shipped(&scrape) as f64 + lag, scrape.value("driftdb_published_seq", &[]));
    std::fs::remove_file(&bucket).unwrap();
    std::fs::rename(&aside, &bucket).unwrap();
    let scrape = writer.scrape_until("the bucket to have all", |scrape| shipped(scrape) == last).await;
    assert_eq!(scrape.value("driftdb_bucket_lag_seconds", &[]), 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scan_of_a_bucket_fetches_ahead_and_the_metrics_say_so() {
    let home = tempfile::tempdir().unwrap();
    let bucket = home.path().join("bucket");
    let writer = start("driftdb-writer", &home.path().join("data"), &bucket, &["--bucket-interval", "10ms"]);
    let mut client = writer.daemon.as_writer().await;
    create_table(&mut client, "t").await.unwrap();
    // What does not compress: a snapshot of some megabytes.
    let mut random = crate::harness::condition::Random(7);
    let mut seq = 0;
    for n in 0..16 {
        let rows = (0..32).map(|m| {
            let noise: String = (0..512).map(|_| format!("{:016x}", random.next())).collect();
            put("t", format!(r#"{{"id":"{n:02}-{m:02}","noise":"{noise}"}}"#))
        });
        seq = apply(&mut client, rows.collect()).await.unwrap().seq;
    }
    calls::snapshot(&mut client, "t").await.unwrap();
    let chunk = |scrape: &Scrape| scrape.value("driftdb_bucket_shipped_seq", &[]) as u64 == seq;
    let before = writer.scrape_until("the rows to be shipped", chunk).await;
    // The snapshot is a chunk of its own.
    let chunks = before.value("driftdb_bucket_chunk", &[]);
    drop(before);
    apply(&mut client, vec![put("t", r#"{"id":"last"}"#)]).await.unwrap();
    let has_snapshot = |scrape: &Scrape| {
        scrape.value("driftdb_bucket_lag_commits", &[]) == 0.0
            && scrape.value("driftdb_bucket_chunk", &[]) > chunks
    };
    writer.scrape_until("the snapshot to be shipped", has_snapshot).await;
    let options = ["--poll-interval", "10ms", "--bucket-cache", "67108864", "--cache", "0"];
    let reader = start("driftdb-reader", &home.path().join("cache"), &bucket, &options);
    reader.scrape_until("the reader to be ready", |scrape| scrape.value("driftdb_ready", &[]) == 1.0).await;
    let rows = select_at(&mut reader.daemon.as_reader().await, "t", seq).await.unwrap();
    assert_eq!(rows.len(), 16 * 32);
    let scrape = reader.scrape().await;
    let parts =
        |result| scrape.find("driftdb_bucket_cache_requests_total", &[("result", result)]).unwrap_or(0.0);
    let (missed, ahead) = (parts("miss"), parts("ahead"));
    assert!(ahead > missed, "{ahead} parts were fetched ahead, and {missed} when they were asked for");
    assert!(scrape.value("driftdb_bucket_cache_bytes", &[]) > 1e6);
    assert_eq!(scrape.value("driftdb_bucket_cache_limit_bytes", &[]), 67_108_864.0);
    assert!(scrape.value("driftdb_mirror_chunk", &[]) > 1.0);
    assert!(scrape.value("driftdb_mirror_age_seconds", &[]) < 60.0);
    assert!(scrape.value("driftdb_bucket_received_bytes_total", &[]) > 1e6);
    assert!(requests(&scrape, "get", "missing") > 0.0, "there is no newer chunk");
    // What was read once is read from the disk.
    select_at(&mut reader.daemon.as_reader().await, "t", seq).await.unwrap();
    let again = reader.scrape().await;
    let missed_again =
        again.find("driftdb_bucket_cache_requests_total", &[("result", "miss")]).unwrap_or(0.0);
    assert_eq!(missed_again, missed);
}
