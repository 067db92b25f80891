//! Select in the order of columns: it resumes, is bounded in memory, and says what it does not do.

use crate::harness::calls::{ask, fresh, run};
use crate::harness::*;
use driftdb::v1;
use serde_json::json;
use tonic::Code;

fn ordered(order_by: &str, seen: u64) -> v1::SelectRequest {
    v1::SelectRequest {
        table: "t".into(),
        order_by: order_by.into(),
        freshness: fresh(seen),
        ..Default::default()
    }
}

/// A table of rows whose field `n` descends, each with a text of some length.
async fn filled(rows: usize, length: usize) -> (Cluster, u64) {
    let mut cluster = Cluster::start().await;
    let mut seen = run(&mut cluster.writer, "CREATE TABLE t (pk=id INT)").await.unwrap().seq;
    let text = "x".repeat(length);
    let at_once = (8 << 20) / (length + 100);
    for first in (0..rows).step_by(at_once) {
        let row = |n: usize| insert("t", json!({"id": n, "n": rows - n, "text": text}).to_string());
        let operations = (first..rows.min(first + at_once)).map(row).collect();
        seen = apply(&mut cluster.writer, operations).await.unwrap().seq;
    }
    (cluster, seen)
}

#[tokio::test]
async fn an_ordered_select_resumes_at_any_message() {
    let (mut cluster, seen) = filled(300, 4000).await;
    let all = select(&mut cluster.reader, ordered("n", seen)).await.unwrap();
    let keys: Vec<usize> = all.iter().map(|(key, _)| key.parse().unwrap()).collect();
    assert_eq!(keys, (0..300).rev().collect::<Vec<_>>());
    for (limit, offset) in [(0, 0), (200, 7)] {
        let request = v1::SelectRequest { limit, offset, ..ordered("n", seen) };
        let mut stream = cluster.reader.select(request.clone()).await.unwrap().into_inner();
        let (mut sent, mut resumed) = (0, 0);
        let mut at = seen;
        while let Some(message) = stream.message().await.unwrap() {
            if let Some(header) = &message.header {
                at = header.read_seq;
                // Later commits change nothing.
                let late = json!({"id": 150 - offset, "n": -1}).to_string();
                apply(&mut cluster.writer, vec![put("t", late)]).await.unwrap();
            }
            sent += message.rows.len();
            if message.resume_token.is_empty() {
                assert_eq!(message.count, sent as u64);
                break;
            }
            let again = v1::SelectRequest { resume_token: message.resume_token.clone(), ..request.clone() };
            let rest = select(&mut cluster.reader, again).await.unwrap();
            let now = v1::SelectRequest { as_of: at_seq(at), ..request.clone() };
            let expected = select(&mut cluster.reader, now).await.unwrap();
            assert_eq!(rest, expected[sent..]);
            resumed += 1;
            let other = v1::SelectRequest {
                order_by: "id".into(),
                resume_token: message.resume_token,
                ..request.clone()
            };
            assert_eq!(reason(&select(&mut cluster.reader, other).await.unwrap_err()), "FILTER_MISMATCH");
        }
        assert!(resumed > 1, "{resumed}");
    }
}

#[tokio::test]
async fn what_a_query_sorts_and_groups_is_bounded() {
    let (mut cluster, mut seen) = filled(400, 100_000).await;
    for (statement, what) in [
        ("SELECT * FROM t ORDER BY n", "ORDER BY"),
        ("SELECT DISTINCT text, n FROM t", "DISTINCT"),
        ("SELECT text, n FROM t GROUP BY text, n", "GROUP BY"),
        ("SELECT COUNT(DISTINCT o) FROM u", "COUNT(DISTINCT o)"),
    ] {
        if statement.ends_with("FROM u") {
            run(&mut cluster.writer, "CREATE TABLE u (pk=id INT)").await.unwrap();
            let text = "x".repeat(100_000);
            for first in [0, 200] {
                let row = |n: i32| insert("u", json!({"id": n, "o": format!("{n}{text}")}).to_string());
                let rows = (first..first + 200).map(row).collect();
                seen = apply(&mut cluster.writer, rows).await.unwrap().seq;
            }
        }
        let status = ask(&mut cluster.reader, statement, seen).await.unwrap_err();
        assert_eq!(
            (status.code(), reason(&status).as_str()),
            (Code::ResourceExhausted, "QUERY_MEMORY_EXCEEDED")
        );
        let expected = format!("{what} needs more memory than the 32 MiB that one query may use; ");
        assert!(status.message().starts_with(&expected), "{statement}: {}", status.message());
    }
    let first = ask(&mut cluster.reader, "SELECT * FROM t ORDER BY n LIMIT 10", seen).await.unwrap();
    assert_eq!(first.keys(), (390..400).rev().map(|n| n.to_string()).collect::<Vec<_>>());
    let fields = ask(&mut cluster.reader, "SELECT id, n FROM t ORDER BY n", seen).await.unwrap();
    assert_eq!(fields.rows().len(), 400);
    let explained =
        ask(&mut cluster.reader, "EXPLAIN SELECT * FROM t ORDER BY n LIMIT 10", seen).await.unwrap();
    let text = explained.message();
    assert!(
        text.contains("full scan; the first 10 sorted by n, in ")
            && text.contains(" KiB of at most 32 MiB; 400 rows read, 10 returned"),
        "{text}"
    );
    // What was refused has given its memory back.
    let status = cluster.reader.status(v1::ReaderServiceStatusRequest {}).await.unwrap().into_inner();
    let queries = status.memory.iter().find(|usage| usage.name == "queries").unwrap();
    assert_eq!(queries.bytes, 0);
}

#[tokio::test]
async fn an_order_that_select_cannot_have_is_refused() {
    let (mut cluster, seen) = filled(3, 10).await;
    for (order_by, expected) in [
        ("COUNT(*)", "QUERY_INVALID"),
        ("n,", "QUERY_SYNTAX"),
        ("n DOWN", "QUERY_SYNTAX"),
        ("n, n DESC", "QUERY_INVALID"),
    ] {
        let status = select(&mut cluster.reader, ordered(order_by, seen)).await.unwrap_err();
        assert_eq!(reason(&status), expected, "{order_by}: {}", status.message());
    }
    let counted = v1::SelectRequest { count_only: true, ..ordered("n", seen) };
    assert_eq!(reason(&select(&mut cluster.reader, counted).await.unwrap_err()), "ARGUMENT_INVALID");
}
