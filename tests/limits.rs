//! A value at a limit works, a value just over it is refused, and the next request works after both.

use crate::harness::calls::{ask, ask_with, fresh, run, run_with};
use crate::harness::refusal::{invalid, refused};
use crate::harness::*;
use driftdb::v1;
use driftdb_common::limits;
use tonic::Code;

async fn open() -> Cluster {
    let mut cluster = Cluster::start().await;
    cluster.create("t").await;
    cluster
}

/// `{"id":…,"s":"xxx…"}` with a length of `bytes`.
fn document_of(id: &str, bytes: usize) -> String {
    let empty = format!(r#"{{"id":"{id}","s":""}}"#);
    format!(r#"{{"id":"{id}","s":"{}"}}"#, "x".repeat(bytes - empty.len()))
}

/// The same as an insert in MessagePack.
fn insert_packed(document: &serde_json::Value) -> v1::Operation {
    let packed = driftdb_common::format::json::to_msgpack(&document.to_string()).unwrap();
    let document = v1::Document { body: Some(v1::document::Body::Msgpack(packed.into())) };
    v1::Operation { action: Some(v1::operation::Action::Insert(document)), ..insert("t", "") }
}

#[tokio::test]
async fn a_document_may_have_1_mib_in_its_larger_encoding() {
    let mut cluster = open().await;
    let writer = &mut cluster.writer;
    let whole = document_of("whole", limits::DOCUMENT_BYTES);
    let token = apply(writer, vec![insert("t", &whole)]).await.unwrap();
    let over = document_of("over", limits::DOCUMENT_BYTES + 1);
    invalid(apply(writer, vec![insert("t", &over)]).await, "TOO_LARGE").says(&["1048577", "1048576"]);
    invalid(run(writer, &format!("INSERT INTO t {over}")).await, "TOO_LARGE");
    // JSON needs six bytes for each of these, MessagePack one.
    let controls = serde_json::json!({"id": "c", "s": "\u{1}".repeat(limits::DOCUMENT_BYTES / 6)});
    invalid(apply(writer, vec![insert("t", controls.to_string())]).await, "TOO_LARGE");
    invalid(apply(writer, vec![insert_packed(&controls)]).await, "TOO_LARGE");
    // MessagePack needs nine bytes for each of these, JSON four.
    let floats = serde_json::json!({"id": "f", "a": vec![1.5; limits::DOCUMENT_BYTES / 9]});
    invalid(apply(writer, vec![insert("t", floats.to_string())]).await, "TOO_LARGE");
    // DriftDB writes each of these numbers with nineteen bytes of JSON, even if it received fewer.
    let short = vec!["1e15"; limits::DOCUMENT_BYTES / 18].join(",");
    let short = format!(r#"{{"id":"e","a":[{short}]}}"#);
    invalid(apply(writer, vec![insert("t", &short)]).await, "TOO_LARGE");
    invalid(apply(writer, vec![insert_packed(&serde_json::from_str(&short).unwrap())]).await, "TOO_LARGE");
    // An update cannot make a row too large. It can make the row smaller.
    invalid(apply(writer, vec![patch("t", "whole", r#"{"more":1}"#)]).await, "TOO_LARGE");
    let shown = select_at(&mut cluster.reader, "t", token.seq).await.unwrap();
    assert_eq!(shown, [("whole".to_owned(), whole)]);
    apply(writer, vec![patch("t", "whole", r#"{"s":null}"#)]).await.unwrap();
}

#[tokio::test]
async fn a_commit_may_have_10000_operations() {
    let mut cluster = open().await;
    let operations =
        |n: usize| (0..n).map(|i| put("t", format!(r#"{{"id":"k{i:05}"}}"#))).collect::<Vec<_>>();
    let token = apply(&mut cluster.writer, operations(10_000)).await.unwrap();
    let over = apply(&mut cluster.writer, operations(10_001)).await;
    invalid(over, "TOO_LARGE").says(&["10001", "10000"]);
    let documents = (0..10_001).map(|i| format!(r#"{{"id": "s{i}"}}"#)).collect::<Vec<_>>().join(", ");
    invalid(run(&mut cluster.writer, &format!("INSERT INTO t {documents}")).await, "TOO_LARGE");
    let count = ask(&mut cluster.reader, "SELECT COUNT(*) FROM t", token.seq).await.unwrap().count();
    assert_eq!(count, 10_000);
    assert_eq!(apply(&mut cluster.writer, operations(1)).await.unwrap().seq, token.seq + 1);
}

#[tokio::test]
async fn a_key_may_have_1024_bytes() {
    let mut cluster = open().await;
    let (long, over) = ("é".repeat(512), "é".repeat(512) + "x");
    let document = |key: &str| format!(r#"{{"id":"{key}"}}"#);
    apply(&mut cluster.writer, vec![insert("t", document(&long))]).await.unwrap();
    let changed = apply(&mut cluster.writer, vec![patch("t", &long, r#"{"x":1}"#)]).await.unwrap();
    let get = |key: &str| v1::GetRequest {
        table: "t".into(),
        keys: vec![key.into()],
        freshness: fresh(changed.seq),
        ..Default::default()
    };
    assert_eq!(cluster.reader.get(get(&long)).await.unwrap().into_inner().rows[0].key, long);
    for operation in [insert("t", document(&over)), patch("t", &over, "{}"), delete("t", &over)] {
        invalid(apply(&mut cluster.writer, vec![operation]).await, "KEY_INVALID").says(&["1025", "1024"]);
    }
    invalid(cluster.reader.get(get(&over)).await, "KEY_INVALID");
    let statement = format!(r#"SOFT DELETE FROM t KEY "{over}""#);
    invalid(run(&mut cluster.writer, &statement).await, "KEY_INVALID").place();
}

#[tokio::test]
async fn an_error_with_the_longest_names_arrives_whole() {
    use v1::precondition::Check;
    let mut cluster = Cluster::start().await;
    let table = "t".repeat(63);
    cluster.create(&table).await;
    let key = "é".repeat(512);
    let document = format!(r#"{{"id":"{key}"}}"#);
    apply(&mut cluster.writer, vec![insert(&table, &document)]).await.unwrap();
    let again = apply(&mut cluster.writer, vec![insert(&table, &document)]).await;
    let refusal = refused(again, Code::AlreadyExists, "ROW_EXISTS");
    refusal.tells("key", &key).tells("table", &table).says(&[&key]);
    let precondition = v1::Precondition {
        table: table.clone(),
        key: key.clone(),
        check: Some(Check::Exists(false)),
        ..Default::default()
    };
    let request = v1::ApplyRequest { preconditions: vec![precondition; 10_000], ..Default::default() };
    let refusal =
        refused(cluster.writer.apply(request).await, Code::FailedPrecondition, "PRECONDITION_FAILED");
    assert!(!refusal.violations().is_empty());
    refusal.tells("failed", 10_000);
    let unknown = "é".repeat(100_000);
    let request = v1::SelectRequest { table: unknown.clone(), ..Default::default() };
    refused(select(&mut cluster.reader, request).await, Code::NotFound, "TABLE_NOT_FOUND");
    let statement = format!("SELECT * FROM `{unknown}`");
    refused(ask(&mut cluster.reader, &statement, 0).await, Code::NotFound, "TABLE_NOT_FOUND").place();
    let statement = format!("SELECT `{unknown}` `{unknown}`");
    invalid(ask(&mut cluster.reader, &statement, 0).await, "QUERY_SYNTAX").place();
    let twice = format!(r#"{{"{unknown}":1,"{unknown}":2}}"#);
    invalid(apply(&mut cluster.writer, vec![insert(&table, twice)]).await, "DOCUMENT_INVALID");
}

fn nested(levels: usize) -> String {
    // The document itself is the first level.
    let (open, close) = ("[".repeat(levels - 1), "]".repeat(levels - 1));
    format!(r#"{{"id":"n{levels}","a":{open}{close}}}"#)
}

#[tokio::test]
async fn documents_may_nest_64_levels() {
    let mut cluster = open().await;
    let (at, over) = (nested(64), nested(65));
    let (packed_at, packed_over) = (packed_nested(64), packed_nested(65));
    apply(&mut cluster.writer, vec![insert("t", &at)]).await.unwrap();
    apply(&mut cluster.writer, vec![packed_at]).await.unwrap();
    let written = run(&mut cluster.writer, &format!("UPSERT INTO t {at}")).await.unwrap();
    let param = run_with(&mut cluster.writer, "UPSERT INTO t $1", &[&at]).await.unwrap();
    assert_eq!(param.seq, written.seq + 1);
    for operation in [
        insert("t", &over),
        packed_over,
        patch("t", "n64", &over),
        insert("t", nested(5000)),
        packed_nested(5000),
    ] {
        invalid(apply(&mut cluster.writer, vec![operation]).await, "DOCUMENT_INVALID");
    }
    for statement in [format!("INSERT INTO t {over}"), format!("INSERT INTO t {}", nested(100_000))] {
        invalid(run(&mut cluster.writer, &statement).await, "QUERY_INVALID").says(&["64"]).place();
    }
    let rows =
        ask(&mut cluster.reader, r#"SELECT * FROM t WHERE id = "n64""#, param.seq).await.unwrap().rows();
    assert_eq!(
        rows[0].1.to_string(),
        at.replace(r#""id":"n64","a":"#, r#""a":"#).replace("]}", r#"],"id":"n64"}"#)
    );
}

fn packed_nested(levels: usize) -> v1::Operation {
    let mut packed = vec![0x82, 0xa2, b'i', b'd', 0xa1, b'p', 0xa1, b'a'];
    packed.extend(std::iter::repeat_n(0x91, levels - 2));
    packed.push(0x90);
    let document = v1::Document { body: Some(v1::document::Body::Msgpack(packed.into())) };
    v1::Operation { action: Some(v1::operation::Action::Insert(document)), ..insert("t", "") }
}

#[tokio::test]
async fn conditions_may_nest_64_levels() {
    let mut cluster = open().await;
    let nested = |levels: usize| format!("{}a = 1{}", "(".repeat(levels), ")".repeat(levels));
    let seq = cluster.create("u").await;
    let ask_for = |levels| format!("SELECT * FROM t WHERE {}", nested(levels));
    assert_eq!(ask(&mut cluster.reader, &ask_for(64), seq).await.unwrap().rows(), []);
    for levels in [65, 100_000] {
        invalid(ask(&mut cluster.reader, &ask_for(levels), 0).await, "QUERY_INVALID").place();
        let request = v1::SelectRequest { table: "t".into(), r#where: nested(levels), ..Default::default() };
        invalid(select(&mut cluster.reader, request).await, "QUERY_INVALID").place();
    }
}

#[tokio::test]
async fn a_condition_may_have_10000_comparisons_and_100000_values() {
    let mut cluster = open().await;
    let seq = apply(&mut cluster.writer, vec![insert("t", r#"{"id":"a","n":7}"#)]).await.unwrap().seq;
    let any_of = |count: usize| (0..count).map(|n| format!("n = {n}")).collect::<Vec<_>>().join(" OR ");
    let in_list =
        |count: usize| format!("n IN ({})", (0..count).map(|n| n.to_string()).collect::<Vec<_>>().join(","));
    for (condition, limit) in [
        (&any_of as &dyn Fn(usize) -> String, limits::CONDITION_TERMS),
        (&in_list, limits::CONDITION_VALUES),
        // The values inside of arrays count, too.
        (&|count| format!("n = 7 OR n = [{}]", vec!["1"; count - 2].join(",")), limits::CONDITION_VALUES),
    ] {
        let ask_for = |count| format!("SELECT * FROM t WHERE {}", condition(count));
        assert_eq!(ask(&mut cluster.reader, &ask_for(limit), seq).await.unwrap().rows().len(), 1);
        let refusal = invalid(ask(&mut cluster.reader, &ask_for(limit + 1), 0).await, "TOO_LARGE");
        refusal.says(&[&limit.to_string()]).place();
        let request =
            v1::SelectRequest { table: "t".into(), r#where: condition(limit + 1), ..Default::default() };
        invalid(select(&mut cluster.reader, request).await, "TOO_LARGE");
        let request = v1::WatchDriftRequest { r#where: condition(limit + 1), ..Default::default() };
        invalid(cluster.reader.watch_drift(request).await, "TOO_LARGE");
    }
    // The parser stops at the limit: the rest of the statement costs no memory.
    let before = cluster.reader_daemon.memory_kib("VmHWM:");
    let large = format!("SELECT * FROM t WHERE n IN (1{})", ",1".repeat(limits::STATEMENT_BYTES / 2 - 50));
    invalid(ask(&mut cluster.reader, &large, 0).await, "TOO_LARGE");
    let params = [format!("[1{}]", ",1".repeat(limits::STATEMENT_BYTES / 2 - 50))];
    invalid(
        ask_with(&mut cluster.reader, "SELECT * FROM t WHERE n = $1", &[&params[0]], 0).await,
        "TOO_LARGE",
    );
    let after = cluster.reader_daemon.memory_kib("VmHWM:");
    assert!(after - before < 200 << 10, "{before} KiB, then {after} KiB");
}

#[tokio::test]
async fn patterns_fields_and_keys_of_reads_have_limits() {
    let mut cluster = open().await;
    let text = "x".repeat(limits::LIKE_PATTERN_BYTES);
    let row = format!(r#"{{"id":"a","s":"{text}"}}"#);
    let seq = apply(&mut cluster.writer, vec![insert("t", row)]).await.unwrap().seq;
    let like = |pattern: &str| format!("SELECT id FROM t WHERE s LIKE \"{pattern}\"");
    assert_eq!(ask(&mut cluster.reader, &like(&text), seq).await.unwrap().rows().len(), 1);
    let refusal = invalid(ask(&mut cluster.reader, &like(&format!("{text}%")), 0).await, "TOO_LARGE");
    refusal.says(&["4097", "4096"]).place();

    let fields = |count: usize| (0..count).map(|n| format!("f{n}")).collect::<Vec<_>>();
    let request =
        |count| v1::SelectRequest { table: "t".into(), fields: fields(count), ..Default::default() };
    assert_eq!(select(&mut cluster.reader, request(limits::SELECT_FIELDS)).await.unwrap().len(), 1);
    invalid(select(&mut cluster.reader, request(limits::SELECT_FIELDS + 1)).await, "TOO_LARGE")
        .says(&["1001", "1000"]);
    let statement = |count| format!("SELECT {} FROM t", fields(count).join(", "));
    ask(&mut cluster.reader, &statement(limits::SELECT_FIELDS), 0).await.unwrap();
    invalid(ask(&mut cluster.reader, &statement(limits::SELECT_FIELDS + 1), 0).await, "TOO_LARGE").place();

    let diff = |count: usize| v1::DiffRequest {
        table: "t".into(),
        start: at_seq(1),
        keys: (0..count).map(|n| n.to_string()).collect(),
        ..Default::default()
    };
    let mut stream = cluster.reader.diff(diff(limits::DIFF_KEYS)).await.unwrap().into_inner();
    assert!(stream.message().await.unwrap().unwrap().rows.is_empty());
    invalid(cluster.reader.diff(diff(limits::DIFF_KEYS + 1)).await, "TOO_LARGE").says(&["10001", "10000"]);
}

#[tokio::test]
async fn a_reason_may_have_1_kib_and_is_returned() {
    let mut cluster = open().await;
    let reason = "é".repeat(512);
    let request = |reason: &str| v1::ApplyRequest {
        operations: vec![put("t", r#"{"id":"a"}"#)],
        options: Some(v1::CommitOptions { reason: reason.into(), ..Default::default() }),
        ..Default::default()
    };
    let token = cluster.writer.apply(request(&reason)).await.unwrap().into_inner().token.unwrap();
    let over = format!("{reason}x");
    invalid(cluster.writer.apply(request(&over)).await, "TOO_LARGE").says(&["1025", "1024"]);
    let history = v1::HistoryRequest { table: "t".into(), freshness: fresh(token.seq), ..Default::default() };
    let mut stream = cluster.reader.history(history).await.unwrap().into_inner();
    let commits = stream.message().await.unwrap().unwrap().commits;
    assert_eq!(commits.last().unwrap().reason, reason);
}

#[tokio::test]
async fn a_get_may_have_1000_keys_and_returns_the_remaining_ones() {
    let mut cluster = open().await;
    let names: Vec<String> = (0..1001).map(|i| format!("k{i:04}")).collect();
    let text = "x".repeat(5000);
    let inserts = names.iter().map(|name| insert("t", format!(r#"{{"id":"{name}","s":"{text}"}}"#)));
    let token = apply(&mut cluster.writer, inserts.collect()).await.unwrap();
    let get = |keys: &[String]| v1::GetRequest {
        table: "t".into(),
        keys: keys.to_vec(),
        freshness: fresh(token.seq),
        ..Default::default()
    };
    invalid(cluster.reader.get(get(&names)).await, "TOO_LARGE").says(&["1001", "1000"]);
    let mut wanted: Vec<String> = names[..999].iter().rev().cloned().collect();
    wanted.push("missing".to_owned());
    let (mut found, mut left, mut answers) = (Vec::new(), wanted.clone(), 0);
    while !left.is_empty() {
        let answer = cluster.reader.get(get(&left)).await.unwrap().into_inner();
        assert!(answer.rows.len() < 800, "an answer ends at about 3 MiB");
        assert_eq!(answer.header.unwrap().read_seq, token.seq);
        found.extend(answer.rows.into_iter().map(|row| row.key));
        left = answer.remaining;
        answers += 1;
    }
    wanted.pop();
    assert_eq!((found, answers), (wanted, 2));
}

#[tokio::test]
async fn table_names_have_allowed_letters_and_lengths() {
    let mut cluster = open().await;
    let longest = "_".repeat(63);
    for name in ["a", "_", "A1_b", &longest] {
        cluster.create(name).await;
    }
    let over = "a".repeat(64);
    for name in ["", "1a", "a-b", "a b", "é", "a.b", "..", "a/b", "a\0", "%2e", "../x", &over] {
        let refusal = create_table(&mut cluster.writer, name).await;
        assert!(refusal.is_err(), "{name:?}");
        invalid(refusal, "NAME_INVALID").says(&["63"]);
    }
    invalid(run(&mut cluster.writer, "CREATE TABLE `a b` (pk=id)").await, "NAME_INVALID").says(&["a b"]);
    let create = |name: &str, primary_key: String, indexes: Vec<String>| v1::CreateTableRequest {
        table: name.into(),
        primary_key,
        indexes,
        ..Default::default()
    };
    let indexes = |n: usize| (0..n).map(|i| format!("f{i}")).collect::<Vec<_>>();
    let writer = &mut cluster.writer;
    writer.create_table(create("most", "k".repeat(1024), indexes(64))).await.unwrap();
    invalid(writer.create_table(create("x", "k".repeat(1025), vec![])).await, "NAME_INVALID");
    invalid(writer.create_table(create("x", "id".into(), indexes(65))).await, "TOO_LARGE")
        .says(&["65", "64"]);
    for wrong in [vec![String::new()], vec!["a".to_owned(), "a".to_owned()]] {
        invalid(writer.create_table(create("x", "id".into(), wrong)).await, "NAME_INVALID");
    }
    let mut tables: Vec<String> =
        vec!["a", "_", "A1_b", &longest, "most", "t"].into_iter().map(str::to_owned).collect();
    tables.sort();
    let seq = cluster.create("zz").await;
    tables.push("zz".to_owned());
    let shown = ask(&mut cluster.reader, "SHOW TABLES", seq).await.unwrap();
    assert_eq!(shown.tables().iter().map(|info| info.table.clone()).collect::<Vec<_>>(), tables);
}

#[tokio::test]
async fn a_far_too_large_request_is_refused_and_the_next_one_works() {
    let mut cluster = open().await;
    let statement = format!("SELECT * FROM t -- {}", "x".repeat(limits::STATEMENT_BYTES));
    invalid(ask(&mut cluster.reader, &statement, 0).await, "TOO_LARGE").says(&["16777216"]);
    let params = "x".repeat(limits::STATEMENT_BYTES / 2);
    let statement = "SELECT * FROM t WHERE a IN ($1, $1, $1)";
    let param = format!("\"{params}\"");
    invalid(ask_with(&mut cluster.reader, statement, &[&param], 0).await, "QUERY_INVALID").place();
    let huge = v1::ApplyRequest {
        operations: vec![insert("t", "x".repeat(limits::REQUEST_BYTES))],
        ..Default::default()
    };
    assert!(cluster.writer.apply(huge).await.is_err());
    let token = apply(&mut cluster.writer, vec![insert("t", r#"{"id":"a"}"#)]).await.unwrap();
    assert_eq!(select_at(&mut cluster.reader, "t", token.seq).await.unwrap().len(), 1);
}
