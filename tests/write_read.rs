//! Everything written through the writer can be read through the reader, now and as of any commit.

use crate::harness::*;

#[tokio::test]
async fn a_row_can_be_read_after_each_of_its_changes() {
    let mut cluster = Cluster::start().await;
    let created = cluster.create("orders").await;
    assert_eq!(created, 1);
    let inserted =
        apply(&mut cluster.writer, vec![insert("orders", r#"{"id":"o1","status":"new"}"#)]).await.unwrap();
    let patched =
        apply(&mut cluster.writer, vec![patch("orders", "o1", r#"{"status":"paid"}"#)]).await.unwrap();
    let deleted = apply(&mut cluster.writer, vec![delete("orders", "o1")]).await.unwrap();
    assert_eq!((inserted.seq, patched.seq, deleted.seq), (2, 3, 4));
    let row = |text: &str| vec![("o1".to_owned(), text.to_owned())];
    let reader = &mut cluster.reader;
    assert_eq!(select_at(reader, "orders", 1).await.unwrap(), []);
    assert_eq!(select_at(reader, "orders", 2).await.unwrap(), row(r#"{"id":"o1","status":"new"}"#));
    assert_eq!(select_at(reader, "orders", 3).await.unwrap(), row(r#"{"id":"o1","status":"paid"}"#));
    assert_eq!(select_at(reader, "orders", 4).await.unwrap(), []);
    let error = select_at(reader, "orders", 5).await.unwrap_err();
    assert_eq!((error.code(), reason(&error).as_str()), (tonic::Code::OutOfRange, "BEYOND_HEAD"));
}
