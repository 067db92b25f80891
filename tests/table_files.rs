//! Readers know what a table's files take on disk, as well as the writer: also before its first snapshot.

use driftdb::v1;

use crate::harness::calls::fresh;
use crate::harness::{Cluster, Daemon, Reader, apply, insert};

/// The bytes and segments of the table `t`, as a reader that has applied `seq` reports them.
async fn reported(reader: &mut Reader, seq: u64) -> (u64, u64) {
    let request = v1::ListTablesRequest { freshness: fresh(seq), ..Default::default() };
    let tables = reader.list_tables(request).await.unwrap().into_inner().tables;
    let table = tables.iter().find(|info| info.table == "t").unwrap();
    (table.bytes_on_disk, table.segments)
}

#[tokio::test]
async fn a_reader_counts_the_files_of_a_table() {
    let mut cluster = Cluster::start().await;
    let mut seq = cluster.create("t").await;
    for n in 0..20 {
        let row = format!(r#"{{"id":"k{n}","text":"{}"}}"#, "x".repeat(1000));
        seq = apply(&mut cluster.writer, vec![insert("t", row)]).await.unwrap().seq;
    }
    let by_writer = |status: v1::WriterServiceStatusResponse| {
        let table = status.tables.into_iter().find(|info| info.table == "t").unwrap();
        (table.bytes_on_disk, table.segments)
    };
    let status = cluster.writer.status(v1::WriterServiceStatusRequest {}).await.unwrap().into_inner();
    let expected = by_writer(status);
    assert!(expected.0 > 20_000 && expected.1 == 1, "{expected:?}");
    assert_eq!(reported(&mut cluster.reader, seq).await, expected);

    let snapshot = v1::SnapshotRequest { table: "t".into() };
    let mut progress = cluster.writer.snapshot(snapshot).await.unwrap().into_inner();
    while progress.message().await.unwrap().is_some() {}
    let seq = apply(&mut cluster.writer, vec![insert("t", r#"{"id":"z"}"#)]).await.unwrap().seq;
    let status = cluster.writer.status(v1::WriterServiceStatusRequest {}).await.unwrap().into_inner();
    let with_layers = by_writer(status);
    assert!(with_layers.0 > expected.0, "{with_layers:?}");
    // A reader that opens the table at its snapshot counts the same files as one that followed them.
    let late = Daemon::reader(cluster.dir.path());
    assert_eq!(reported(&mut late.as_reader().await, seq).await, with_layers);
}
