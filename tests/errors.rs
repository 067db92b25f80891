//! Every refusal gives a reason for programs and a message for people, and changes nothing.

use crate::harness::calls::{ask, ask_with, run, run_with};
use crate::harness::refusal::{Refusal, invalid, refused};
use crate::harness::*;
use driftdb::v1;
use tonic::{Code, Status};

/// A database with some history: `orders` and `counts` (INT keys), a row in each, a deleted row, a dropped table.
struct Shop {
    cluster: Cluster,
    seq: u64,
    orders: Vec<(String, String)>,
}

const CREATED: u64 = 1;
const INSERTED: u64 = 3;
const DELETED: u64 = 5;
const DROPPED: u64 = 7;

impl Shop {
    async fn open() -> Shop {
        let mut cluster = Cluster::start().await;
        for statement in [
            "CREATE TABLE orders (pk=id)",
            "CREATE TABLE counts (pk=n INT)",
            r#"INSERT INTO orders {"id": "o1", "status": "new"}, {"id": "o2"}"#,
            r#"INSERT INTO counts {"n": 7}"#,
            r#"SOFT DELETE FROM orders KEY "o2""#,
            "CREATE TABLE gone (pk=id)",
            "DROP TABLE gone",
        ] {
            run(&mut cluster.writer, statement).await.unwrap();
        }
        let orders = select_at(&mut cluster.reader, "orders", DROPPED).await.unwrap();
        Shop { cluster, seq: DROPPED, orders }
    }

    async fn apply(&mut self, operations: Vec<v1::Operation>) -> Result<v1::WriteToken, Status> {
        apply(&mut self.cluster.writer, operations).await
    }

    async fn check(&mut self, preconditions: Vec<v1::Precondition>) -> Result<v1::WriteToken, Status> {
        let operations = vec![insert("orders", r#"{"id":"new"}"#)];
        let request = v1::ApplyRequest { operations, preconditions, options: None };
        self.cluster.writer.apply(request).await.map(|answer| answer.into_inner().token.unwrap())
    }

    async fn run(&mut self, statement: &str) -> Result<v1::WriteToken, Status> {
        run(&mut self.cluster.writer, statement).await
    }

    async fn ask(&mut self, statement: &str) -> Result<calls::Answer, Status> {
        ask(&mut self.cluster.reader, statement, self.seq).await
    }

    async fn select(&mut self, request: v1::SelectRequest) -> Result<Vec<(String, String)>, Status> {
        select(&mut self.cluster.reader, request).await
    }

    /// Checks that the refused calls changed nothing, and that the next write works.
    async fn expect_unchanged(mut self) {
        let status =
            self.cluster.writer.status(v1::WriterServiceStatusRequest {}).await.unwrap().into_inner();
        assert_eq!(status.last_seq, self.seq);
        let token = self.apply(vec![insert("orders", r#"{"id":"z"}"#)]).await.unwrap();
        assert_eq!(token.seq, self.seq + 1);
        let mut expected = self.orders.clone();
        expected.push(("z".into(), r#"{"id":"z"}"#.into()));
        assert_eq!(select_at(&mut self.cluster.reader, "orders", token.seq).await.unwrap(), expected);
    }
}

fn from(table: &str) -> v1::SelectRequest {
    v1::SelectRequest { table: table.into(), ..Default::default() }
}

fn check(table: &str, key: &str, check: v1::precondition::Check) -> v1::Precondition {
    v1::Precondition { table: table.into(), key: key.into(), check: Some(check), ..Default::default() }
}

#[tokio::test]
async fn an_insert_of_an_existing_row_is_refused_with_its_key() {
    let mut shop = Shop::open().await;
    let apply = shop.apply(vec![insert("orders", r#"{"id":"o1"}"#)]).await;
    let statement = shop.run(r#"INSERT INTO orders {"id": "o1"}"#).await;
    for outcome in [apply, statement] {
        let refusal = refused(outcome, Code::AlreadyExists, "ROW_EXISTS");
        refusal.says(&["orders", "o1"]).tells("table", "orders").tells("key", "o1");
    }
    let twice = shop.apply(vec![insert("counts", r#"{"n":8}"#), insert("counts", r#"{"n":8}"#)]).await;
    let refusal = refused(twice, Code::AlreadyExists, "ROW_EXISTS");
    refusal.says(&["operation 2", "counts", "8"]).tells("operation", 1).tells("key", 8);
    shop.expect_unchanged().await;
}

#[tokio::test]
async fn a_table_name_is_unique_regardless_of_case() {
    let mut shop = Shop::open().await;
    let create = |table: &str, primary_key: &str, key_type: v1::KeyType| v1::CreateTableRequest {
        table: table.into(),
        primary_key: primary_key.into(),
        key_type: key_type.into(),
        ..Default::default()
    };
    for (table, known) in [("orders", "orders"), ("Orders", "orders"), ("ORDERS", "orders"), ("Gone", "gone")]
    {
        let request = create(table, "id", v1::KeyType::String);
        let refusal =
            refused(shop.cluster.writer.create_table(request).await, Code::AlreadyExists, "TABLE_EXISTS");
        refusal.says(&[table, if table == known { "exists" } else { known }]).tells("table", known);
        let statement = shop.run(&format!("CREATE TABLE {table} (pk=id)")).await;
        refused(statement, Code::AlreadyExists, "TABLE_EXISTS");
    }
    let there = shop.run("CREATE TABLE IF NOT EXISTS orders (pk=other INT)").await.unwrap();
    assert_eq!(there.seq, shop.seq, "the table existed: the token is that of the newest commit");
    shop.expect_unchanged().await;
}

#[tokio::test]
async fn a_change_of_a_missing_row_is_refused_with_its_key() {
    let mut shop = Shop::open().await;
    for key in ["o2", "o3"] {
        for operation in [patch("orders", key, "{}"), delete("orders", key)] {
            let refusal = refused(shop.apply(vec![operation]).await, Code::NotFound, "ROW_NOT_FOUND");
            refusal.says(&["orders", key]).tells("table", "orders").tells("key", key);
        }
        for statement in [
            format!(r#"PATCH orders KEY "{key}" SET {{}}"#),
            format!(r#"SOFT DELETE FROM orders KEY "{key}""#),
        ] {
            refused(shop.run(&statement).await, Code::NotFound, "ROW_NOT_FOUND").says(&["orders", key]);
        }
    }
    let twice = vec![delete("orders", "o1"), delete("orders", "o1")];
    refused(shop.apply(twice).await, Code::NotFound, "ROW_NOT_FOUND").says(&["operation 2", "o1"]);
    shop.expect_unchanged().await;
}

fn unknown<T>(outcome: Result<T, Status>, table: &str) -> Refusal {
    refused(outcome, Code::NotFound, "TABLE_NOT_FOUND").says(&[table]).tells("table", table)
}

#[tokio::test]
async fn an_unknown_table_is_refused_with_the_nearest_name() {
    let mut shop = Shop::open().await;
    let near = ["did you mean \"orders\"?"];
    unknown(shop.apply(vec![delete("ordes", "o1")]).await, "ordes").says(&near).tells("nearest", "orders");
    let drop = v1::DropTableRequest { table: "oders".into(), options: None };
    unknown(shop.cluster.writer.drop_table(drop).await, "oders").says(&near);
    let precondition = check("order", "o1", v1::precondition::Check::Exists(true));
    unknown(shop.check(vec![precondition]).await, "order").says(&near);
    unknown(shop.select(from("Ordes")).await, "Ordes").says(&near).tells("nearest", "orders");
    let reader = &mut shop.cluster.reader;
    let get = v1::GetRequest { table: "ordes".into(), keys: vec!["o1".into()], ..Default::default() };
    unknown(reader.get(get).await, "ordes").says(&near);
    let history = v1::HistoryRequest { table: "ordes".into(), ..Default::default() };
    unknown(reader.history(history).await, "ordes").says(&near);
    let diff = v1::DiffRequest { table: "ordes".into(), start: at_seq(1), ..Default::default() };
    unknown(reader.diff(diff).await, "ordes").says(&near);
    let describe = v1::DescribeTableRequest { table: "ordes".into(), ..Default::default() };
    unknown(reader.describe_table(describe).await, "ordes").says(&near);
    let far = unknown(shop.select(from("invoices")).await, "invoices");
    assert!(!far.status.message().contains("did you mean"), "{:?}", far.status.message());
    shop.expect_unchanged().await;
}

#[tokio::test]
async fn a_statement_with_an_unknown_table_is_refused_with_the_place_of_its_name() {
    let mut shop = Shop::open().await;
    for statement in [
        "SELECT * FROM ordes WHERE id = \"ordes\"",
        "EXPLAIN SELECT * FROM ordes",
        "EXPLAIN FIND FIRST IN ordes WHERE id = \"ordes\"",
        "EXPLAIN SHOW DRIFT ordes",
        "DESCRIBE ordes",
        "SHOW DRIFT ordes KEY \"o1\"",
        "SHOW DIFF ordes FROM @seq:1 TO @now",
        "INSERT INTO ordes {\"id\": \"ordes\"}",
        "UPSERT INTO ordes {\"id\": \"ordes\"}",
        "PATCH ordes KEY \"o1\" SET {\"ordes\": 1}",
        "SOFT DELETE FROM ordes KEY \"ordes\"",
        "DROP TABLE ordes",
    ] {
        let reads = ["SELECT", "EXPLAIN", "DESCRIBE", "SHOW"].iter().any(|word| statement.starts_with(word));
        let refusal = match reads {
            true => unknown(shop.ask(statement).await, "ordes"),
            false => unknown(shop.run(statement).await, "ordes"),
        };
        let place = refusal.place();
        let start = statement.find("ordes").unwrap() as u32;
        assert_eq!((place.start, place.end, place.line, place.column), (start, start + 5, 1, start + 1));
        assert_eq!(place.hint, "did you mean \"orders\"?", "{statement}");
        refusal.tells("nearest", "orders");
    }
    shop.expect_unchanged().await;
}

#[tokio::test]
async fn a_read_outside_of_a_tables_life_is_refused_with_its_start_or_end() {
    let mut shop = Shop::open().await;
    for (table, seq, word, when) in [
        ("orders", 0, "created", CREATED),
        ("counts", 1, "created", 2),
        ("gone", 5, "created", 6),
        ("gone", DROPPED, "dropped", DROPPED),
    ] {
        let time = shop.cluster.reader.select(v1::SelectRequest { as_of: at_seq(when), ..from("orders") });
        let time =
            time.await.unwrap().into_inner().message().await.unwrap().unwrap().header.unwrap().read_time;
        let request = v1::SelectRequest { as_of: at_seq(seq), ..from(table) };
        let refusal = unknown(shop.select(request).await, table).tells("seq", when);
        let told: prost_types::Timestamp = refusal.metadata["time"].parse().unwrap();
        assert_eq!(Some(told), time);
        refusal.says(&[word, &format!("commit {when}")]);
        let statement = format!("SELECT * FROM {table} AS OF @seq:{seq}");
        unknown(shop.ask(&statement).await, table).says(&[word]).tells("seq", when);
        unknown(shop.ask(&format!("DESCRIBE {table} AS OF @seq:{seq}")).await, table).says(&[word]);
        let get = v1::GetRequest { table: table.into(), as_of: at_seq(seq), ..Default::default() };
        unknown(shop.cluster.reader.get(get).await, table).says(&[word]);
    }
    let long_ago = v1::as_of::At::Time(prost_types::Timestamp { seconds: -1_000_000_000, nanos: 0 });
    let request = v1::SelectRequest { as_of: Some(v1::AsOf { at: Some(long_ago) }), ..from("orders") };
    unknown(shop.select(request).await, "orders").says(&["created by commit 1"]);
    unknown(shop.ask("SELECT * FROM orders AS OF \"5 days ago\"").await, "orders")
        .says(&["created by commit 1"]);
    unknown(shop.run(r#"INSERT INTO gone {"id": "x"}"#).await, "gone");
    shop.expect_unchanged().await;
}

#[tokio::test]
async fn failed_preconditions_are_listed_and_nothing_is_applied() {
    use v1::precondition::Check;
    let mut shop = Shop::open().await;
    for (key, wrong, description) in [
        ("o1", Check::SeqIs(2), "commit 3 changed it last"),
        ("o2", Check::SeqIs(INSERTED), "commit 5 deleted it"),
        ("o3", Check::SeqIs(3), "the row does not exist"),
        ("o3", Check::SeqIs(0), "the row does not exist"),
        ("o1", Check::Exists(false), "commit 3 changed it last"),
        ("o2", Check::Exists(true), "commit 5 deleted it"),
        ("o3", Check::Exists(true), "the row does not exist"),
        ("o1", Check::UnchangedSince(2), "commit 3 changed it last"),
        ("o2", Check::UnchangedSince(4), "commit 5 deleted it"),
    ] {
        let refusal = refused(
            shop.check(vec![check("orders", key, wrong)]).await,
            Code::FailedPrecondition,
            "PRECONDITION_FAILED",
        );
        let [(kind, subject, told)] = &refusal.violations()[..] else { panic!("one precondition fails") };
        let expected = match wrong {
            Check::SeqIs(_) => "seq_is",
            Check::Exists(_) => "exists",
            Check::UnchangedSince(_) => "unchanged_since",
        };
        assert_eq!((kind.as_str(), subject.as_str()), (expected, format!("orders/{key}").as_str()));
        assert!(told.contains(description), "{told}");
        refusal.says(&[subject, description]).tells("failed", 1);
    }
    let holding = |key: &str, held| check("orders", key, held);
    let several = vec![
        holding("o1", Check::SeqIs(INSERTED)),
        holding("o1", Check::Exists(false)),
        holding("o2", Check::Exists(false)),
        check("counts", "7", Check::SeqIs(1)),
    ];
    let refusal = refused(shop.check(several).await, Code::FailedPrecondition, "PRECONDITION_FAILED");
    let subjects: Vec<String> = refusal.violations().into_iter().map(|(_, subject, _)| subject).collect();
    assert_eq!(subjects, ["orders/o1", "counts/7"], "every one that fails, and no other");
    refusal.says(&["and 1 more"]).tells("failed", 2);
    let many = (0..25).map(|i| holding(&format!("none{i:02}"), Check::Exists(true))).collect();
    let refusal = refused(shop.check(many).await, Code::FailedPrecondition, "PRECONDITION_FAILED");
    let listed = refusal.violations();
    assert_eq!((listed.len(), listed[19].1.as_str()), (20, "orders/none19"));
    refusal.tells("failed", 25).says(&["and 24 more"]);
    refused(
        shop.run(r#"PATCH orders KEY "o1" SET {"x": 1} IF SEQ = 2"#).await,
        Code::FailedPrecondition,
        "PRECONDITION_FAILED",
    );
    shop.expect_unchanged().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_whose_preconditions_hold_is_applied() {
    use v1::precondition::Check;
    let mut shop = Shop::open().await;
    let holding = vec![
        check("orders", "o1", Check::SeqIs(INSERTED)),
        check("orders", "o1", Check::Exists(true)),
        check("orders", "o1", Check::UnchangedSince(INSERTED)),
        check("orders", "o2", Check::SeqIs(DELETED)),
        check("orders", "o2", Check::Exists(false)),
        check("orders", "o2", Check::UnchangedSince(DELETED)),
        check("orders", "o3", Check::Exists(false)),
        check("orders", "o3", Check::UnchangedSince(0)),
        check("orders", "new", Check::Exists(false)),
        check("counts", "7", Check::SeqIs(4)),
    ];
    assert_eq!(shop.check(holding).await.unwrap().seq, DROPPED + 1);
    // After a restart the writer still knows when rows were deleted.
    assert!(shop.cluster.writer_daemon.terminate().await.success());
    shop.cluster.writer_daemon = Daemon::writer(shop.cluster.dir.path());
    shop.cluster.writer = shop.cluster.writer_daemon.as_writer().await;
    let stale = vec![check("orders", "o2", Check::UnchangedSince(DELETED - 1))];
    refused(shop.check(stale).await, Code::FailedPrecondition, "PRECONDITION_FAILED");
    let request = v1::ApplyRequest {
        operations: vec![patch("orders", "o1", r#"{"status":"seen"}"#)],
        preconditions: vec![check("orders", "o2", Check::UnchangedSince(DELETED))],
        options: None,
    };
    shop.cluster.writer.apply(request).await.unwrap();
}

#[tokio::test]
async fn dropping_a_table_changes_its_rows() {
    use v1::precondition::Check;
    let mut shop = Shop::open().await;
    shop.run("DROP TABLE counts").await.unwrap();
    let created = shop.run("CREATE TABLE counts (pk=n INT)").await.unwrap().seq;
    for restarted in [false, true] {
        if restarted {
            shop.cluster.writer_daemon.kill();
            shop.cluster.writer_daemon = Daemon::writer(shop.cluster.dir.path());
            shop.cluster.writer = shop.cluster.writer_daemon.as_writer().await;
        }
        let stale = vec![check("counts", "7", Check::UnchangedSince(4))];
        refused(shop.check(stale).await, Code::FailedPrecondition, "PRECONDITION_FAILED");
        let stale = vec![check("counts", "7", Check::SeqIs(4))];
        refused(shop.check(stale).await, Code::FailedPrecondition, "PRECONDITION_FAILED");
    }
    shop.check(vec![check("counts", "7", Check::UnchangedSince(created))]).await.unwrap();
}

#[tokio::test]
async fn a_write_sent_to_a_reader_is_refused_with_the_writers_address() {
    let mut shop = Shop::open().await;
    let address = shop.cluster.writer_daemon.url.strip_prefix("http://").unwrap().to_owned();
    for statement in [
        r#"INSERT INTO orders {"id": "o9"}"#,
        "CREATE TABLE t (pk=id)",
        "DROP TABLE orders",
        r#"SOFT DELETE FROM orders KEY "o1""#,
        "SNAPSHOT orders",
        "COMPACT orders",
        "VERIFY",
    ] {
        let refusal = refused(shop.ask(statement).await, Code::FailedPrecondition, "NOT_WRITER");
        refusal.says(&[&address]).tells("writer_address", &address);
    }
    invalid(shop.run("SELECT * FROM orders").await, "QUERY_INVALID").says(&["reader"]);
    shop.expect_unchanged().await;
}

#[tokio::test]
async fn each_unreadable_point_in_time_has_its_own_reason() {
    let mut shop = Shop::open().await;
    let epoch = shop.apply(vec![]).await.unwrap().epoch;
    shop.seq += 1;
    let head = shop.seq;
    // A wait would end in REPLICA_BEHIND instead.
    let beyond = v1::SelectRequest { as_of: at_seq(head + 1), freshness: wait(60_000), ..from("orders") };
    let refusal = refused(shop.select(beyond).await, Code::OutOfRange, "BEYOND_HEAD");
    refusal.says(&[&format!("seq {}", head + 1), &head.to_string()]).tells("last_seq", head);
    let statement = format!("SHOW DIFF orders FROM @seq:1 TO @seq:{}", head + 1);
    refused(shop.ask(&statement).await, Code::OutOfRange, "BEYOND_HEAD");
    for as_of in [None, at_seq(head), at_seq(head + 5)] {
        let freshness = v1::Freshness { min_seq: head + 5, ..wait(20).unwrap() };
        let request = v1::SelectRequest { as_of, freshness: Some(freshness), ..from("orders") };
        let refusal = refused(shop.select(request).await, Code::Unavailable, "REPLICA_BEHIND");
        use tonic_types::StatusExt;
        let retry = refusal.status.get_details_retry_info().unwrap().retry_delay;
        assert!(retry.is_some_and(|delay| !delay.is_zero()));
        refusal.says(&[&(head + 5).to_string()]).tells("applied_seq", head);
    }
    for wrong in [epoch + 1, 1, u64::MAX] {
        let freshness = v1::Freshness { min_seq: 1, epoch: wrong, ..Default::default() };
        let request = v1::SelectRequest { freshness: Some(freshness), ..from("orders") };
        let refusal = refused(shop.select(request).await, Code::FailedPrecondition, "EPOCH_CHANGED");
        refusal.tells("epoch", epoch);
    }
    let freshness = Some(v1::Freshness { min_seq: head, epoch, ..Default::default() });
    shop.select(v1::SelectRequest { freshness, ..from("orders") }).await.unwrap();
    shop.expect_unchanged().await;
}

fn wait(millis: i32) -> Option<v1::Freshness> {
    let wait = prost_types::Duration { seconds: (millis / 1000).into(), nanos: millis % 1000 * 1_000_000 };
    Some(v1::Freshness { wait: Some(wait), ..Default::default() })
}

#[tokio::test]
async fn an_invalid_statement_is_refused_with_the_place_of_the_error() {
    let mut shop = Shop::open().await;
    for (statement, reason, at, hint) in [
        ("SELCT * FROM orders", "QUERY_SYNTAX", "SELCT", "SELECT"),
        ("SELECT * FORM orders", "QUERY_SYNTAX", "FORM", "FROM"),
        ("SELECT *\nFROM orders\nWHERE a = ", "QUERY_SYNTAX", "", ""),
        ("SELECT * FROM orders WHERE a = null", "QUERY_INVALID", "null", "IS NULL"),
        ("SELECT * FROM orders WHERE a = $2", "QUERY_INVALID", "$2", "$1"),
        ("SELECT * FROM orders AS OF \"yesterdya\"", "QUERY_INVALID", "\"yesterdya\"", "ago"),
        ("SHOW DRIFT counts KEY \"7\"", "QUERY_INVALID", "\"7\"", "KEY 7"),
        ("DELETE FROM orders", "QUERY_SYNTAX", "DELETE", "SOFT DELETE"),
        ("", "QUERY_SYNTAX", "", ""),
    ] {
        let outcome = ask_with(&mut shop.cluster.reader, statement, &["1"], 0).await;
        let place = invalid(outcome, reason).place();
        let (start, end) = (place.start as usize, place.end as usize);
        assert_eq!(statement.get(start..end), Some(at), "{statement}");
        assert!(place.hint.contains(hint), "{:?} for {statement}", place.hint);
        let line = statement[..start].matches('\n').count();
        assert_eq!(place.line as usize, line + 1, "{statement}");
    }
    for (statement, reason, at) in [
        ("INSERT orders {}", "QUERY_SYNTAX", "orders"),
        (r#"INSERT INTO orders {"id": "a", "id": "b"}"#, "QUERY_INVALID", r#""id""#),
        (
            r#"INSERT INTO orders {"id": "a", "n": 18446744073709551616}"#,
            "QUERY_INVALID",
            "18446744073709551616",
        ),
        ("PATCH orders KEY 1.5 SET {}", "QUERY_INVALID", "1.5"),
        ("CREATE TABLE t (pk=a.b)", "QUERY_INVALID", "a"),
        ("PATCH orders KEY \"o1\" SET {} IF SEQ = -1", "QUERY_INVALID", "-1"),
        ("INSERT INTO orders $1; DROP TABLE orders", "QUERY_SYNTAX", "DROP"),
    ] {
        let outcome = run_with(&mut shop.cluster.writer, statement, &[r#"{"id": "p"}"#]).await;
        let place = invalid(outcome, reason).place();
        assert_eq!(statement.get(place.start as usize..place.end as usize), Some(at), "{statement}");
    }
    let wrong = |r#where: &str| v1::SelectRequest { r#where: r#where.into(), ..from("orders") };
    let place = invalid(shop.select(wrong("status = \"new\" AN id = \"o1\"")).await, "QUERY_SYNTAX").place();
    assert_eq!((place.start, place.end, place.hint.as_str()), (15, 17, "did you mean \"AND\"?"));
    let params = vec!["\"new".to_owned()];
    let request = v1::SelectRequest { params, ..wrong("status = $1") };
    invalid(shop.select(request).await, "QUERY_SYNTAX").says(&["$1"]);
    let fields = vec!["a b".to_owned()];
    invalid(shop.select(v1::SelectRequest { fields, ..from("orders") }).await, "QUERY_SYNTAX");
    shop.expect_unchanged().await;
}

#[tokio::test]
async fn documents_that_json_cannot_express_are_refused() {
    let mut shop = Shop::open().await;
    for text in [
        r#"{"id":"a","x":1,"x":1}"#,
        r#"{"id":"a","o":{"x":1,"x":2}}"#,
        r#"{"id":"a","n":18446744073709551616}"#,
        r#"{"id":"a","n":-9223372036854775809}"#,
        r#"{"id":"a","n":1e400}"#,
        r#"{"id":"a","n":NaN}"#,
        r#"{"id":"a""#,
        "[]",
        "\"a\"",
        "null",
        "",
    ] {
        invalid(shop.apply(vec![insert("orders", text)]).await, "DOCUMENT_INVALID");
        invalid(shop.apply(vec![put("orders", text)]).await, "DOCUMENT_INVALID");
        invalid(shop.apply(vec![patch("orders", "o1", text)]).await, "DOCUMENT_INVALID");
    }
    // {"id": "a", "x": …} in MessagePack.
    for (what, value) in [
        ("NaN", &[0xcb, 0x7f, 0xf8, 0, 0, 0, 0, 0, 0][..]),
        ("a 32-bit NaN", &[0xca, 0x7f, 0xc0, 0, 0]),
        ("infinity", &[0xcb, 0x7f, 0xf0, 0, 0, 0, 0, 0, 0]),
        ("binary data", &[0xc4, 1, 0]),
        ("an extension", &[0xd4, 1, 1]),
        ("a time", &[0xd6, 0xff, 0, 0, 0, 0]),
        ("a reserved byte", &[0xc1]),
        ("text that is not UTF-8", &[0xa1, 0xff]),
        ("a number for a field name", &[0x81, 1, 1]),
        ("a field twice", &[0x82, 0xa1, b'x', 1, 0xa1, b'x', 1]),
        ("an array that claims four billion items", &[0xdd, 0xff, 0xff, 0xff, 0xff]),
        ("bytes too many", &[1, 1]),
        ("nothing", &[]),
    ] {
        let mut encoded = vec![0x82, 0xa2, b'i', b'd', 0xa1, b'a', 0xa1, b'x'];
        encoded.extend_from_slice(value);
        let document = v1::Document { body: Some(v1::document::Body::Msgpack(encoded.into())) };
        let operation =
            v1::Operation { action: Some(v1::operation::Action::Insert(document)), ..insert("orders", "") };
        let outcome = shop.apply(vec![operation]).await;
        assert!(outcome.is_err(), "{what}");
        invalid(outcome, "DOCUMENT_INVALID");
    }
    let empty = v1::operation::Action::Insert(v1::Document { body: None });
    let operation = v1::Operation { action: Some(empty), ..insert("orders", "") };
    invalid(shop.apply(vec![operation]).await, "DOCUMENT_INVALID");
    let second = vec![insert("orders", r#"{"id":"a"}"#), insert("orders", "[]")];
    invalid(shop.apply(second).await, "DOCUMENT_INVALID").says(&["operation 2"]).tells("operation", 1);
    shop.expect_unchanged().await;
}

#[tokio::test]
async fn keys_of_the_wrong_type_or_size_are_refused() {
    let mut shop = Shop::open().await;
    let keyed = |operation: v1::Operation, key: &str| v1::Operation { key: key.into(), ..operation };
    for operation in [
        insert("orders", r#"{"id":""}"#),
        insert("orders", r#"{"id":5}"#),
        insert("orders", r#"{"id":null}"#),
        insert("orders", r#"{"id":["a"]}"#),
        insert("orders", r#"{"name":"a"}"#),
        put("orders", r#"{"ID":"a"}"#),
        insert("counts", r#"{"n":"8"}"#),
        insert("counts", r#"{"n":8.0}"#),
        insert("counts", r#"{"n":9223372036854775808}"#),
        keyed(insert("orders", r#"{"id":"a"}"#), "b"),
        patch("orders", "", "{}"),
        delete("orders", ""),
        patch("orders", "o1", r#"{"id":"o9"}"#),
        patch("orders", "o1", r#"{"id":null}"#),
        patch("orders", "o1", r#"{"id":1}"#),
        delete("counts", "07"),
        delete("counts", "+7"),
        delete("counts", "7.0"),
        delete("counts", "-0"),
        delete("counts", "seven"),
        delete("counts", "9223372036854775808"),
    ] {
        let shown = format!("{operation:?}");
        let outcome = shop.apply(vec![operation]).await;
        assert!(outcome.is_err(), "{shown}");
        invalid(outcome, "KEY_INVALID");
    }
    for (table, key) in [("orders", ""), ("counts", "007"), ("counts", "x")] {
        let get = v1::GetRequest { table: table.into(), keys: vec![key.into()], ..Default::default() };
        invalid(shop.cluster.reader.get(get).await, "KEY_INVALID");
        let diff = v1::DiffRequest {
            table: table.into(),
            start: at_seq(3),
            keys: vec![key.into()],
            ..Default::default()
        };
        invalid(shop.cluster.reader.diff(diff).await, "KEY_INVALID");
    }
    let history = v1::HistoryRequest { table: "counts".into(), key: "007".into(), ..Default::default() };
    invalid(shop.cluster.reader.history(history).await, "KEY_INVALID");
    invalid(shop.run(r#"PATCH counts KEY "7" SET {"x": 1}"#).await, "KEY_INVALID").says(&["INT"]);
    invalid(shop.run(r#"PATCH orders KEY 7 SET {"x": 1}"#).await, "KEY_INVALID").says(&["STRING"]);
    let same = patch("orders", "o1", r#"{"id":"o1"}"#);
    let [first, wrong] = [same, patch("orders", "o1", r#"{"id":"o9"}"#)];
    invalid(shop.apply(vec![first, wrong]).await, "KEY_INVALID").says(&["\"id\"", "operation 2"]);
    shop.expect_unchanged().await;
}
