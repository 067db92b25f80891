//! Streamed answers are whole and in order, can be resumed anywhere, and are the same in both encodings.

use crate::harness::calls::{fresh, run, value_of};
use crate::harness::*;
use driftdb::v1;
use serde_json::{Value, json};

const ROWS: usize = 60;

/// A table `t` of large rows, some of them deleted or changed; and the last commit.
async fn open() -> (Cluster, u64) {
    let mut cluster = Cluster::start().await;
    cluster.create("t").await;
    let row = |i: usize, n: u64| {
        let text = "x".repeat(20_000 + i);
        put(
            "t",
            json!({"id": format!("k{i:03}"), "n": n, "in": {"odd": i % 2 == 1, "i": i}, "s": text})
                .to_string(),
        )
    };
    for n in 0..3 {
        apply(&mut cluster.writer, (0..ROWS).map(|i| row(i, n)).collect()).await.unwrap();
    }
    let token = apply(&mut cluster.writer, vec![delete("t", "k010"), delete("t", "k059")]).await.unwrap();
    (cluster, token.seq)
}

fn all(seq: u64) -> v1::SelectRequest {
    v1::SelectRequest { table: "t".into(), as_of: at_seq(seq), ..Default::default() }
}

async fn messages(reader: &mut Reader, request: v1::SelectRequest) -> Vec<v1::SelectResponse> {
    let mut stream = reader.select(request).await.unwrap().into_inner();
    let mut messages = Vec::new();
    while let Some(message) = stream.message().await.unwrap() {
        messages.push(message);
    }
    messages
}

fn rows_of(messages: &[v1::SelectResponse]) -> Vec<v1::Row> {
    messages.iter().flat_map(|message| message.rows.clone()).collect()
}

#[tokio::test]
async fn a_select_comes_in_messages_of_a_bounded_size() {
    let (mut cluster, seq) = open().await;
    let messages = messages(&mut cluster.reader, all(seq)).await;
    assert!(messages.len() >= 4, "{} messages for 1.2 MB", messages.len());
    for (i, message) in messages.iter().enumerate() {
        let last = i + 1 == messages.len();
        assert_eq!(message.header.is_some(), i == 0);
        assert_eq!(message.resume_token.is_empty(), last);
        assert_eq!(message.count, if last { ROWS as u64 - 2 } else { 0 });
        assert!((1..=14).contains(&message.rows.len()), "a message has about 256 KiB, and at least one row");
    }
    let rows = rows_of(&messages);
    assert!(rows.is_sorted_by(|a, b| a.key < b.key));
    assert!(rows.iter().all(|row| row.seq == 4 && row.time.is_some()));
    let header = messages[0].header.as_ref().unwrap();
    assert_eq!((header.read_seq, header.applied_seq >= seq, header.read_time.is_some()), (seq, true, true));
}

#[tokio::test]
async fn a_select_can_be_resumed_after_every_message_at_any_reader() {
    let (mut cluster, seq) = open().await;
    let other = Daemon::reader(cluster.dir.path());
    let mut other = other.as_reader().await;
    for request in [
        all(seq),
        v1::SelectRequest { as_of: None, freshness: fresh(seq), ..all(seq) },
        v1::SelectRequest { limit: 40, ..all(seq) },
        v1::SelectRequest { offset: 20, limit: 30, ..all(seq) },
        v1::SelectRequest { r#where: "`in`.odd = $1".into(), params: vec!["true".into()], ..all(seq - 1) },
        v1::SelectRequest { fields: vec!["s".into(), "_key".into()], offset: 3, ..all(seq) },
        v1::SelectRequest {
            r#where: "_key IN (\"k001\", \"k020\", \"k055\", \"k059\")".into(),
            ..all(seq - 1)
        },
    ] {
        let whole = messages(&mut cluster.reader, request.clone()).await;
        let rows = rows_of(&whole);
        let count = whole.last().unwrap().count;
        assert_eq!(count, rows.len() as u64);
        // Later writes must not appear in the resumed answer.
        apply(&mut cluster.writer, vec![put("t", r#"{"id":"k000"}"#), put("t", r#"{"id":"kzz"}"#)])
            .await
            .unwrap();
        let mut seen = 0;
        for message in &whole[..whole.len() - 1] {
            seen += message.rows.len();
            let resumed = v1::SelectRequest { resume_token: message.resume_token.clone(), ..request.clone() };
            for reader in [&mut cluster.reader, &mut other] {
                let rest = messages(reader, resumed.clone()).await;
                assert_eq!(rows_of(&rest), rows[seen..], "{request:?} after {seen} rows");
                assert_eq!(rest.last().unwrap().count, count);
                assert_eq!(
                    rest[0].header.as_ref().unwrap().read_seq,
                    whole[0].header.as_ref().unwrap().read_seq
                );
            }
        }
        // Resumes after every message, with the token of that message.
        let read = whole[0].header.as_ref().unwrap().read_seq;
        let mut next = v1::SelectRequest { as_of: at_seq(read), ..request.clone() };
        let mut chained = Vec::new();
        loop {
            let mut stream = other.select(next.clone()).await.unwrap().into_inner();
            let message = stream.message().await.unwrap().unwrap();
            chained.extend(message.rows);
            if message.resume_token.is_empty() {
                break;
            }
            next.resume_token = message.resume_token;
        }
        assert_eq!(chained, rows);
        apply(&mut cluster.writer, vec![delete("t", "kzz")]).await.unwrap();
    }
}

#[tokio::test]
async fn fields_count_and_offset_select_what_they_should() {
    let (mut cluster, seq) = open().await;
    let fields = ["n", "in.i", "_seq", "_key", "nowhere", "n.x"].map(str::to_owned).to_vec();
    let request = v1::SelectRequest { fields, limit: 2, offset: 9, ..all(seq) };
    let rows = rows_of(&messages(&mut cluster.reader, request).await);
    let texts: Vec<&str> = rows.iter().map(|row| text_of(row.document.as_ref().unwrap())).collect();
    let expected =
        [r#"{"n":2,"in.i":9,"_seq":4,"_key":"k009"}"#, r#"{"n":2,"in.i":11,"_seq":4,"_key":"k011"}"#];
    assert_eq!(texts, expected, "rows are in the requested order, without the deleted one");
    for (request, count) in [
        (all(seq), 58),
        (all(seq - 1), 60),
        (all(1), 0),
        (v1::SelectRequest { offset: 50, ..all(seq) }, 8),
        (v1::SelectRequest { offset: 500, ..all(seq) }, 0),
        (v1::SelectRequest { limit: 7, ..all(seq) }, 7),
        (v1::SelectRequest { r#where: "`in`.i BETWEEN 8 AND 12".into(), ..all(seq) }, 4),
    ] {
        let counted =
            messages(&mut cluster.reader, v1::SelectRequest { count_only: true, ..request.clone() }).await;
        let [only] = &counted[..] else { panic!("a count is one message") };
        assert_eq!((only.count, only.rows.len()), (count, 0), "{request:?}");
        assert!(only.header.is_some() && only.resume_token.is_empty());
        assert_eq!(rows_of(&messages(&mut cluster.reader, request).await).len() as u64, count);
    }
}

#[tokio::test]
async fn columns_are_named_after_their_fields_without_duplicates() {
    let mut cluster = Cluster::start().await;
    cluster.create("t").await;
    let document = r#"{"id":"a","from":1,"a.b":2,"a":{"b":3,"``":4},"_seq":5,"`a.b`":6,"odd name":7}"#;
    let seq = apply(&mut cluster.writer, vec![insert("t", document)]).await.unwrap().seq;
    let fields = ["from", "`a.b`", "a.b", "a.``````", "_seq", "`_seq`", "```a.b```", "`odd name`"];
    let request = v1::SelectRequest { fields: fields.map(str::to_owned).to_vec(), ..all(seq) };
    let rows = rows_of(&messages(&mut cluster.reader, request).await);
    let expected = r#"{"from":1,"`a.b`":2,"a.b":3,"a.``":4,"_seq":2,"`_seq`":5,"```a.b```":6,"odd name":7}"#;
    assert_eq!(text_of(rows[0].document.as_ref().unwrap()), expected);
    // Backticks only if two columns would get the same name: a file with the field "a.b" has it back as it was.
    let fields = ["`a.b`", "a.`b`"].map(|field| vec![field.to_owned()]);
    for (fields, expected) in fields.into_iter().zip([r#"{"a.b":2}"#, r#"{"a.b":3}"#]) {
        let rows = rows_of(&messages(&mut cluster.reader, v1::SelectRequest { fields, ..all(seq) }).await);
        assert_eq!(text_of(rows[0].document.as_ref().unwrap()), expected);
    }
}

async fn history(reader: &mut Reader, request: v1::HistoryRequest) -> Vec<v1::HistoryResponse> {
    let mut stream = reader.history(request).await.unwrap().into_inner();
    let mut messages = Vec::new();
    while let Some(message) = stream.message().await.unwrap() {
        assert!(!message.truncated);
        messages.push(message);
    }
    assert!(messages[0].header.is_some());
    messages
}

fn commits_of(messages: Vec<v1::HistoryResponse>) -> Vec<v1::Commit> {
    messages.into_iter().flat_map(|message| message.commits).collect()
}

#[tokio::test]
async fn a_commit_of_ten_thousand_operations_is_returned_whole_in_parts() {
    let mut cluster = Cluster::start().await;
    cluster.create("t").await;
    let text = "x".repeat(200);
    let row = |i: usize| format!(r#"{{"id":"k{i:05}","s":"{text}"}}"#);
    let request = v1::ApplyRequest {
        operations: (0..10_000).map(|i| insert("t", row(i))).collect(),
        options: Some(v1::CommitOptions {
            reason: "the commit arrived in one message".into(),
            ..Default::default()
        }),
        ..Default::default()
    };
    let token = cluster.writer.apply(request).await.unwrap().into_inner().token.unwrap();
    run(&mut cluster.writer, r#"PATCH t KEY "k00000" SET {"n": 1}"#).await.unwrap();
    for newest_first in [false, true] {
        let request = v1::HistoryRequest {
            table: "t".into(),
            freshness: fresh(token.seq + 1),
            newest_first,
            with_after: true,
            ..Default::default()
        };
        let messages = history(&mut cluster.reader, request).await;
        assert!(messages.len() > 10, "2 MB and more, in {} messages", messages.len());
        let commits = commits_of(messages);
        let parts: Vec<&v1::Commit> = commits.iter().filter(|commit| commit.seq == token.seq).collect();
        assert!(parts.len() > 10);
        let (last, first) = parts.split_last().unwrap();
        assert!(!last.more && first.iter().all(|part| part.more), "only the last part has `more` unset");
        for part in &parts {
            assert_eq!(
                (part.time, part.reason.as_str()),
                (token.time, "the commit arrived in one message"),
                "every part names its commit"
            );
        }
        let mut found: Vec<(String, String)> = parts
            .iter()
            .flat_map(|part| &part.changes)
            .map(|change| {
                assert_eq!(change.payload, change.after);
                (change.key.clone(), text_of(change.payload.as_ref().unwrap()).to_owned())
            })
            .collect();
        if newest_first {
            found.reverse();
        }
        assert!(found.into_iter().eq((0..10_000).map(|i| (format!("k{i:05}"), row(i)))));
        let others: Vec<u64> =
            commits.iter().filter(|commit| commit.seq != token.seq).map(|commit| commit.seq).collect();
        assert_eq!(others, if newest_first { [3, 1] } else { [1, 3] });
        assert!(commits.iter().all(|commit| commit.seq == token.seq || !commit.more));
    }
}

#[tokio::test]
async fn history_returns_the_row_before_and_after_each_change() {
    let mut cluster = Cluster::start().await;
    cluster.create("t").await;
    for statement in [
        r#"INSERT INTO t {"id": "a", "n": 1}, {"id": "b"}"#,
        r#"PATCH t KEY "a" SET {"n": null, "m": 2}"#,
        r#"UPSERT INTO t {"id": "a", "n": 3}"#,
        r#"SOFT DELETE FROM t KEY "a""#,
        r#"INSERT INTO t {"id": "a"}"#,
    ] {
        run(&mut cluster.writer, statement).await.unwrap();
    }
    let row = |n: Value| if n.is_null() { json!({"id": "a"}) } else { json!({"id": "a", "n": n}) };
    let patched = json!({"id": "a", "m": 2});
    // Commit, payload, row before, row after.
    let expected = [
        (2, row(json!(1)), Value::Null, row(json!(1))),
        (3, json!({"n": null, "m": 2}), row(json!(1)), patched.clone()),
        (4, row(json!(3)), patched, row(json!(3))),
        (5, Value::Null, row(json!(3)), Value::Null),
        (6, row(Value::Null), Value::Null, row(Value::Null)),
    ];
    for newest_first in [false, true] {
        for (with_before, with_after) in [(false, false), (true, false), (false, true), (true, true)] {
            for limit in [0, 1, 3, 5, 100] {
                let request = v1::HistoryRequest {
                    table: "t".into(),
                    key: "a".into(),
                    freshness: fresh(6),
                    newest_first,
                    with_before,
                    with_after,
                    limit,
                    ..Default::default()
                };
                let commits = commits_of(history(&mut cluster.reader, request).await);
                let found: Vec<_> = commits
                    .iter()
                    .flat_map(|commit| commit.changes.iter().map(|change| (commit.seq, change)))
                    .map(|(seq, change)| {
                        let [payload, before, after] = [&change.payload, &change.before, &change.after]
                            .map(|found| value_of(found.as_ref()));
                        (seq, payload, before, after)
                    })
                    .collect();
                let mut expected = expected.to_vec();
                if newest_first {
                    expected.reverse();
                }
                expected.truncate(if limit == 0 { 5 } else { limit as usize });
                for (_, _, before, after) in &mut expected {
                    *before = if with_before { before.take() } else { Value::Null };
                    *after = if with_after { after.take() } else { Value::Null };
                }
                assert_eq!(found, expected);
            }
        }
    }
    let between =
        v1::HistoryRequest { table: "t".into(), start: at_seq(2), end: at_seq(4), ..Default::default() };
    let seqs: Vec<u64> =
        commits_of(history(&mut cluster.reader, between).await).iter().map(|c| c.seq).collect();
    assert_eq!(seqs, [3, 4], "`start` is exclusive and `end` inclusive");
}

#[tokio::test]
async fn the_json_patch_of_a_diff_turns_before_into_after() {
    let mut cluster = Cluster::start().await;
    cluster.create("t").await;
    let pairs = [
        (json!({"n": 1}), json!({"n": 2})),
        (json!({"a": [1, 2, 3, 4]}), json!({"a": [1, 3, 4, 5, {"x": null}]})),
        (json!({"o": {"x": 1, "y": {"z": []}}}), json!({"o": {"y": {"z": {}, "new": "é\"/~"}}})),
        (json!({"odd/~name": 1, "": 2}), json!({"": {"": 3}})),
        (
            json!({"big": 18446744073709551615_u64, "f": 1.5}),
            json!({"big": -9223372036854775808_i64, "f": 1e300}),
        ),
        (json!({"x": null}), json!({})),
    ];
    let document = |i: usize, content: &Value| {
        let mut content = content.clone();
        content["id"] = format!("k{i}").into();
        put("t", content.to_string())
    };
    let firsts = pairs.iter().enumerate().map(|(i, (before, _))| document(i, before)).collect();
    let before = apply(&mut cluster.writer, firsts).await.unwrap().seq;
    let mut seconds: Vec<_> = pairs.iter().enumerate().map(|(i, (_, after))| document(i, after)).collect();
    seconds.push(insert("t", r#"{"id":"new"}"#));
    let after = apply(&mut cluster.writer, seconds).await.unwrap().seq;
    let request = v1::DiffRequest {
        table: "t".into(),
        start: at_seq(before),
        freshness: fresh(after),
        ..Default::default()
    };
    let mut stream = cluster.reader.diff(request.clone()).await.unwrap().into_inner();
    let message = stream.message().await.unwrap().unwrap();
    assert_eq!((message.header.unwrap().read_seq, message.start_seq), (after, before));
    assert_eq!(message.rows.len(), pairs.len() + 1);
    for row in message.rows {
        let [mut before, after] = [&row.before, &row.after].map(|document| value_of(document.as_ref()));
        if row.key == "new" {
            assert_eq!((before, after, row.json_patch.as_str()), (Value::Null, json!({"id": "new"}), ""));
            continue;
        }
        let patch: Value = serde_json::from_str(&row.json_patch).unwrap();
        for step in patch.as_array().unwrap() {
            step_of_patch(&mut before, step);
        }
        assert_eq!(before, after, "{patch}");
    }
    let keys = vec!["k3".to_owned(), "nobody".to_owned(), "k1".to_owned(), "k3".to_owned()];
    let mut stream = cluster.reader.diff(v1::DiffRequest { keys, ..request }).await.unwrap().into_inner();
    let message = stream.message().await.unwrap().unwrap();
    assert_eq!(message.rows.iter().map(|row| row.key.as_str()).collect::<Vec<_>>(), ["k1", "k3"]);
}

/// Applies one step of an RFC 6902 patch, if it is of a kind that refers to no other place.
fn step_of_patch(document: &mut Value, step: &Value) {
    let path = step["path"].as_str().unwrap();
    let (parent, last) = path.rsplit_once('/').unwrap();
    let last = last.replace("~1", "/").replace("~0", "~");
    match (document.pointer_mut(parent).unwrap(), step["op"].as_str().unwrap()) {
        (Value::Object(fields), "add" | "replace") => _ = fields.insert(last, step["value"].clone()),
        (Value::Object(fields), "remove") => assert!(fields.remove(&last).is_some()),
        (Value::Array(items), "add") if last == "-" => items.push(step["value"].clone()),
        (Value::Array(items), "add") => items.insert(last.parse().unwrap(), step["value"].clone()),
        (Value::Array(items), "replace") => items[last.parse::<usize>().unwrap()] = step["value"].clone(),
        (Value::Array(items), "remove") => _ = items.remove(last.parse().unwrap()),
        (parent, op) => panic!("{op} in {parent}"),
    }
}

#[tokio::test]
async fn tables_are_listed_in_pages() {
    let mut cluster = Cluster::start().await;
    let mut names: Vec<String> = (0..23).map(|i| format!("t{:02}", i * 7 % 23)).collect();
    let mut seq = 0;
    for name in &names {
        seq = cluster.create(name).await;
    }
    run(&mut cluster.writer, "DROP TABLE t11").await.unwrap();
    names.sort();
    for page_size in [1, 4, 22, 23, 24, 1000, 0] {
        for (as_of, dropped) in [(at_seq(seq), false), (at_seq(seq + 1), true)] {
            let expected: Vec<String> =
                names.iter().filter(|name| !dropped || *name != "t11").cloned().collect();
            let (mut found, mut page_token, mut pages) = (Vec::new(), String::new(), 0);
            loop {
                let request = v1::ListTablesRequest {
                    page_size,
                    page_token,
                    as_of,
                    freshness: fresh(seq + 1),
                    ..Default::default()
                };
                let page = cluster.reader.list_tables(request).await.unwrap().into_inner();
                assert!(page_size == 0 || page.tables.len() <= page_size as usize);
                found.extend(page.tables.into_iter().map(|info| info.table));
                page_token = page.next_page_token;
                pages += 1;
                if page_token.is_empty() {
                    break;
                }
            }
            assert_eq!(found, expected);
            let full = if page_size == 0 { 1000 } else { page_size as usize };
            assert_eq!(pages, expected.len().div_ceil(full), "no empty page at the end");
        }
    }
}

/// A document's content in either encoding.
fn decoded(document: &Option<v1::Document>) -> Option<Value> {
    let text = match document.as_ref()?.body.as_ref().unwrap() {
        v1::document::Body::Json(text) => text.clone(),
        v1::document::Body::Msgpack(bytes) => driftdb_common::format::json::from_msgpack(bytes).unwrap(),
    };
    Some(serde_json::from_str(&text).unwrap())
}

fn is_packed(document: &Option<v1::Document>) -> Option<bool> {
    document.as_ref().map(|document| matches!(document.body, Some(v1::document::Body::Msgpack(_))))
}

#[tokio::test]
async fn both_encodings_return_the_same_documents() {
    let mut cluster = Cluster::start().await;
    cluster.create("t").await;
    let first = r#"{"z":1,"id":"a","a":[true,null,1.5,1e300,-7,18446744073709551615,"é\u0000😀"],"o":{"y":{},"x":[]}}"#;
    let packed = driftdb_common::format::json::to_msgpack(first).unwrap();
    let body = Some(v1::document::Body::Msgpack(packed.clone().into()));
    let packed_insert = v1::operation::Action::Insert(v1::Document { body });
    apply(&mut cluster.writer, vec![v1::Operation { action: Some(packed_insert), ..insert("t", "") }])
        .await
        .unwrap();
    apply(&mut cluster.writer, vec![insert("t", first.replace(r#""id":"a""#, r#""id":"b""#))]).await.unwrap();
    let seq = apply(&mut cluster.writer, vec![patch("t", "a", r#"{"o":null,"n":0.1}"#)]).await.unwrap().seq;
    let mut answers = Vec::new();
    for format in [v1::DocumentFormat::Unspecified, v1::DocumentFormat::Json, v1::DocumentFormat::Msgpack] {
        let format = format.into();
        let reader = &mut cluster.reader;
        let mut documents = Vec::new();
        let request = v1::GetRequest {
            table: "t".into(),
            keys: vec!["a".into(), "b".into()],
            as_of: at_seq(seq),
            format,
            ..Default::default()
        };
        documents
            .extend(reader.get(request).await.unwrap().into_inner().rows.into_iter().map(|row| row.document));
        let select = v1::SelectRequest { format, ..all(seq) };
        documents.extend(rows_of(&messages(reader, select).await).into_iter().map(|row| row.document));
        let fields = ["o.x", "a", "_key", "_seq", "_time"].map(str::to_owned).to_vec();
        let select = v1::SelectRequest { format, fields, ..all(seq) };
        documents.extend(rows_of(&messages(reader, select).await).into_iter().map(|row| row.document));
        let request = v1::HistoryRequest {
            table: "t".into(),
            end: at_seq(seq),
            format,
            with_before: true,
            with_after: true,
            ..Default::default()
        };
        for commit in commits_of(history(reader, request).await) {
            documents.extend(
                commit.changes.into_iter().flat_map(|change| [change.payload, change.before, change.after]),
            );
        }
        let request = v1::DiffRequest {
            table: "t".into(),
            start: at_seq(2),
            end: at_seq(seq),
            format,
            ..Default::default()
        };
        let mut stream = reader.diff(request).await.unwrap().into_inner();
        while let Some(message) = stream.message().await.unwrap() {
            documents.extend(message.rows.into_iter().flat_map(|row| [row.before, row.after]));
        }
        let request = v1::ReaderServiceExecuteRequest {
            statement: "SELECT * FROM t".into(),
            format,
            as_of: at_seq(seq),
            ..Default::default()
        };
        let mut stream = reader.execute(request).await.unwrap().into_inner();
        while let Some(message) = stream.message().await.unwrap() {
            let Some(v1::reader_service_execute_response::Result::Rows(batch)) = message.result else {
                continue;
            };
            documents.extend(batch.rows.into_iter().map(|row| row.document));
        }
        let wanted = format == i32::from(v1::DocumentFormat::Msgpack);
        assert!(documents.iter().filter_map(is_packed).all(|packed| packed == wanted));
        answers.push(documents.iter().map(decoded).collect::<Vec<_>>());
    }
    assert!(answers[0].len() > 15 && answers.iter().all(|answer| *answer == answers[0]), "{answers:#?}");
    // A document received as MessagePack is stored and returned byte for byte.
    let request = v1::SelectRequest { format: v1::DocumentFormat::Msgpack.into(), limit: 1, ..all(2) };
    let rows = rows_of(&messages(&mut cluster.reader, request).await);
    let v1::document::Body::Msgpack(found) = rows[0].document.clone().unwrap().body.unwrap() else {
        panic!()
    };
    assert_eq!(found, packed);
}
