//! kill -9 of the writer under load: no acknowledged commit is lost, no seq is skipped, every commit is whole.

use crate::harness::journaled_writes::{JournaledWrites, TABLES, commits};
use crate::harness::lane::by_lane;
use crate::harness::*;
use driftdb::v1;
use driftdb_common::storage::fs::OsFileSystem;
use driftdb_common::storage::head;
use driftdb_common::storage::layout::DataDir;

fn kills() -> u64 {
    by_lane(50, 5000)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_killed_writer_loses_no_acknowledged_commit() {
    let mut cluster = Cluster::start().await;
    for table in TABLES {
        cluster.create(table).await;
    }
    let writes = JournaledWrites::start(&cluster.writer_daemon.url);
    let dir = DataDir::new(cluster.dir.path());
    let mut last = 0;
    for kill in 0..kills() {
        // Kills after a varying number of acknowledgements, to hit another moment each time.
        writes.wait_for_acks(20 + (kill * 37) % 200).await;
        cluster.writer_daemon.kill();
        let published = head::read(&OsFileSystem, &dir).unwrap().unwrap().last_seq();
        cluster.writer_daemon =
            Daemon::start("driftdb-writer", cluster.dir.path(), &["--segment-bytes", "65536"]);
        last = last_seq(&cluster.writer_daemon).await;
        assert!(last >= published, "HEAD said {published}, and {last} were kept");
        writes.go_to(&cluster.writer_daemon.url).await;
    }
    let journal = writes.finish().await;
    last = last.max(last_seq(&cluster.writer_daemon).await);
    let freshness = Some(v1::Freshness { min_seq: last, ..Default::default() });
    let request = v1::ListTablesRequest { freshness, ..Default::default() };
    cluster.reader.list_tables(request).await.unwrap();
    let followed = commits(&mut cluster.reader).await;
    let seen = journal.check(cluster.dir.path(), last).await;
    assert!(seen == followed, "a new reader and one that followed from the start differ");
}

async fn last_seq(writer: &Daemon) -> u64 {
    let status = writer.as_writer().await.status(v1::WriterServiceStatusRequest {}).await;
    status.unwrap().into_inner().last_seq
}
