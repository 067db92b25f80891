//! Tables whose primary key has several fields: order, ranges, AS OF and restarts against a plain model, and every way to name a key.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use driftdb::v1;
use serde_json::{Value, json};
use tonic::Code;

use crate::harness::calls::{ask, compact, fresh, run, run_with, snapshot};
use crate::harness::condition::Random;
use crate::harness::lane::by_lane;
use crate::harness::watching::watch;
use crate::harness::*;

type Rows = BTreeMap<(String, i64), Value>;

fn text((a, b): &(String, i64)) -> String {
    json!([a, b]).to_string()
}

/// A table `t` with the key `(a, b INT)`, and all its states.
struct Story {
    cluster: Cluster,
    /// The rows after each commit, by its seq.
    states: BTreeMap<u64, Rows>,
    floor: u64,
    random: Random,
}

/// A condition as DriftQL, and as the model decides it.
type Wanted = (String, Box<dyn Fn(&(String, i64), &Value) -> bool>);

impl Story {
    async fn begin(seed: u64) -> Story {
        let mut cluster = Cluster::start().await;
        run(&mut cluster.writer, "CREATE TABLE t (pk=(a, b INT), INDEX(n))").await.unwrap();
        Story { cluster, states: BTreeMap::from([(1, Rows::new())]), floor: 0, random: Random(seed) }
    }

    fn head(&self) -> u64 {
        *self.states.last_key_value().unwrap().0
    }

    fn key(&mut self) -> (String, i64) {
        // Texts that are prefixes of each other, with bytes that an encoding may treat in its own way.
        let texts = ["a", "aa", "a\0", "b", "é", "\u{1}", "a\u{ff}"].map(str::to_owned);
        let ints = [-300, -1, 0, 1, 2, 3, 4, 300, i64::MIN, i64::MAX];
        (self.random.pick(&texts), self.random.pick(&ints))
    }

    /// One commit of some operations, and the same in the model. Some are refused, which must change nothing.
    async fn write(&mut self) {
        let mut rows = self.states[&self.head()].clone();
        let (mut operations, mut is_refused) = (Vec::new(), false);
        for _ in 0..=self.random.below(4) {
            let (key, n) = (self.key(), self.random.below(5));
            let document = json!({"n": n, "b": key.1, "a": key.0});
            let exists = rows.contains_key(&key);
            match self.random.below(6) {
                0 | 1 => {
                    is_refused |= exists;
                    operations.push(insert("t", document.to_string()));
                    rows.insert(key, document);
                }
                2 => {
                    operations.push(v1::Operation { key: text(&key), ..put("t", document.to_string()) });
                    rows.insert(key, document);
                }
                3 | 4 => {
                    // Names the key as an object, whose fields are in any order.
                    let named = json!({"b": key.1, "a": key.0}).to_string();
                    operations.push(patch("t", &named, json!({"n": n}).to_string()));
                    is_refused |= !exists;
                    rows.entry(key).and_modify(|row| row["n"] = n.into());
                }
                _ => {
                    operations.push(delete("t", &text(&key)));
                    is_refused |= !exists;
                    rows.remove(&key);
                }
            }
        }
        match apply(&mut self.cluster.writer, operations).await {
            Ok(token) => {
                assert!(!is_refused);
                self.states.insert(token.seq, rows);
            }
            Err(error) => {
                assert!(
                    is_refused && matches!(error.code(), Code::AlreadyExists | Code::NotFound),
                    "{error}"
                );
            }
        }
    }

    fn condition(&mut self) -> Wanted {
        let (x, y) = (self.key(), self.key());
        let quoted = |text: &str| json!(text).to_string();
        let (a, b, c, d) = (quoted(&x.0), x.1, quoted(&y.0), y.1);
        let (low, high) = (b.min(d), b.max(d));
        match self.random.below(12) {
            0 => (format!("a = {a}"), Box::new(move |k, _| k.0 == x.0)),
            1 => (format!("a = {a} AND b > {b}"), Box::new(move |k, _| k.0 == x.0 && k.1 > x.1)),
            2 => (format!("a = {a} AND b <= {b}"), Box::new(move |k, _| k.0 == x.0 && k.1 <= x.1)),
            3 => (
                format!("a = {a} AND b BETWEEN {low} AND {high} AND n > 1"),
                Box::new(move |k, row| {
                    k.0 == x.0 && (low..=high).contains(&k.1) && row["n"].as_i64() > Some(1)
                }),
            ),
            4 => (format!("a > {a}"), Box::new(move |k, _| k.0 > x.0)),
            5 => (format!("a <= {a} AND b = {b}"), Box::new(move |k, _| k.0 <= x.0 && k.1 == x.1)),
            6 => (format!("a = {a} AND b = {b}"), Box::new(move |k, _| *k == x)),
            7 => (
                format!("a IN ({a}, {c}) AND b IN ({b}, {d})"),
                Box::new(move |k, _| (k.0 == x.0 || k.0 == y.0) && (k.1 == x.1 || k.1 == y.1)),
            ),
            8 => (
                format!("(a = {a} AND b = {b}) OR (a = {c} AND b = {d})"),
                Box::new(move |k, _| *k == x || *k == y),
            ),
            9 => (format!("_key IN ([{a}, {b}], [{c}, {d}])"), Box::new(move |k, _| *k == x || *k == y)),
            10 => ("n = 3".to_owned(), Box::new(|_, row| row["n"] == 3)),
            _ => (format!("b >= {b}"), Box::new(move |k, _| k.1 >= x.1)),
        }
    }

    /// Compares the answers with the model at some commit.
    async fn check(&mut self) {
        let seqs: Vec<u64> = self.states.keys().copied().filter(|seq| *seq >= self.floor.max(1)).collect();
        let seq = self.random.pick(&seqs);
        let (condition, matches) = self.condition();
        let expected: Vec<(String, Value)> = self.states[&seq]
            .iter()
            .filter(|(key, row)| matches(key, row))
            .map(|(key, row)| (text(key), row.clone()))
            .collect();
        let (head, reader) = (self.head(), &mut self.cluster.reader);
        let question = format!("SELECT * FROM t WHERE {condition} AS OF @seq:{seq}");
        let found = ask(reader, &question, head).await.unwrap().rows();
        assert_eq!(found, expected, "{question}");
        let backwards = format!("SELECT _key FROM t WHERE {condition} ORDER BY _key DESC AS OF @seq:{seq}");
        let found = ask(reader, &backwards, head).await.unwrap().documents();
        let keys = expected
            .iter()
            .rev()
            .map(|(key, _)| json!({"_key": serde_json::from_str::<Value>(key).unwrap()}));
        assert_eq!(found, keys.collect::<Vec<_>>(), "{backwards}");

        let key = self.key();
        let request = v1::GetRequest {
            table: "t".into(),
            keys: vec![text(&key)],
            as_of: at_seq(seq),
            freshness: fresh(self.head()),
            ..Default::default()
        };
        let found = self.cluster.reader.get(request).await.unwrap().into_inner().rows;
        let found = found.first().map(|row| calls::value_of(row.document.as_ref()));
        assert_eq!(found.as_ref(), self.states[&seq].get(&key), "{key:?} at {seq}");
    }

    async fn restart(&mut self) {
        self.cluster.writer_daemon.kill();
        self.cluster.writer_daemon = Daemon::writer(self.cluster.dir.path());
        self.cluster.writer = self.cluster.writer_daemon.as_writer().await;
        if self.random.below(2) == 0 {
            self.cluster.reader_daemon.kill();
            self.cluster.reader_daemon = Daemon::reader(self.cluster.dir.path());
            self.cluster.reader = self.cluster.reader_daemon.as_reader().await;
        }
    }
}

#[tokio::test]
async fn rows_with_composite_keys_are_found_as_a_plain_model_finds_them() {
    for seed in 0..by_lane(2, 40) {
        let mut story = Story::begin(seed).await;
        for step in 0..by_lane(120, 400) {
            story.write().await;
            match step % 30 {
                9 => snapshot(&mut story.cluster.writer, "t").await.unwrap(),
                19 => story.restart().await,
                29 => {
                    snapshot(&mut story.cluster.writer, "t").await.unwrap();
                    let seqs: Vec<u64> = story.states.keys().copied().collect();
                    let middle = at_seq(seqs[seqs.len() / 2]);
                    let info = compact(&mut story.cluster.writer, "t", middle, false).await.unwrap();
                    story.floor = info.floor_seq;
                }
                _ => {}
            }
            story.check().await;
            story.check().await;
        }
        let report = Command::new(binary("driftctl"))
            .env("DRIFTDB_WRITER", &story.cluster.writer_daemon.url)
            .args(["verify", "--deep"])
            .output()
            .unwrap();
        assert!(report.status.success(), "seed {seed}: {}", String::from_utf8_lossy(&report.stderr));
    }
}

#[tokio::test]
async fn every_statement_takes_a_composite_key() {
    let mut cluster = Cluster::start().await;
    run(&mut cluster.writer, "CREATE TABLE t (pk=(a, b INT))").await.unwrap();
    for statement in [
        r#"INSERT INTO t {"a": "x", "b": 3, "n": 1}, {"a": "x", "b": 20, "n": 2}, {"a": "w", "b": 9, "n": 3}"#,
        r#"PATCH t KEY ("x", 3) SET {"n": 10}"#,
        r#"PATCH t KEY (b = 3, a = "x") SET {"n": 11} IF SEQ = 3"#,
        r#"SOFT DELETE FROM t KEY (a = "x", b = 20)"#,
        r#"REVERT t KEY ("x", 20) TO @seq:2"#,
    ] {
        run(&mut cluster.writer, statement).await.unwrap_or_else(|error| panic!("{statement}: {error}"));
    }
    run_with(&mut cluster.writer, "PATCH t KEY $1 SET {\"n\": 12}", &[r#"["x", 3]"#]).await.unwrap();
    let rows = ask(&mut cluster.reader, "SELECT * FROM t", 7).await.unwrap().rows();
    let row = |a: &str, b: i64, n: i64| (json!([a, b]).to_string(), json!({"a": a, "b": b, "n": n}));
    assert_eq!(rows, [row("w", 9, 3), row("x", 3, 12), row("x", 20, 2)]);

    let ask_for = async |reader: &mut Reader, text: &str| ask(reader, text, 7).await;
    let reader = &mut cluster.reader;
    let drift = ask_for(reader, r#"SHOW DRIFT t KEY ("x", 20)"#).await.unwrap().drift();
    assert_eq!(drift.iter().map(|(seq, ..)| *seq).collect::<Vec<_>>(), [2, 5, 6]);
    assert!(drift.iter().all(|(_, _, key)| key == r#"["x",20]"#), "{drift:?}");
    let found =
        ask_for(reader, r#"FIND FIRST IN t KEY (b = 3, a = "x") WHERE n = 11"#).await.unwrap().drift();
    assert_eq!(found[0].0, 4);
    let diff = ask_for(reader, r#"SHOW DIFF t KEY ("x", 3) FROM @seq:2 TO @seq:4"#).await.unwrap().diff();
    assert_eq!((diff[0].1["n"].clone(), diff[0].2["n"].clone()), (json!(1), json!(11)));
    let plan = ask_for(reader, r#"EXPLAIN SELECT * FROM t WHERE a = "x" AND b > 3"#).await.unwrap();
    assert!(plan.message().contains(r#"key range from ("x", 4) to ("x")"#), "{}", plan.message());
    let plan = ask_for(reader, r#"EXPLAIN SELECT * FROM t WHERE a = "x" AND b = 3"#).await.unwrap();
    assert!(plan.message().contains("keys: 1 lookup"), "{}", plan.message());
    let info = ask_for(reader, "DESCRIBE t").await.unwrap();
    let info = info.tables()[0].clone();
    assert_eq!((info.primary_key.as_str(), info.key_type()), ("(a, b)", v1::KeyType::Composite));
    let column = |field: &str, of: v1::KeyType| v1::KeyColumn { field: field.into(), r#type: of.into() };
    assert_eq!(info.key_columns, [column("a", v1::KeyType::String), column("b", v1::KeyType::Int)]);
}

#[tokio::test]
async fn a_key_that_is_not_the_tables_is_refused_clearly() {
    let mut cluster = Cluster::start().await;
    run(&mut cluster.writer, "CREATE TABLE t (pk=(a, b INT))").await.unwrap();
    cluster.create("plain").await;
    for (operation, expected) in [
        (insert("t", r#"{"a":"x"}"#), "the document lacks the primary key field \"b\" (INT)"),
        (insert("t", r#"{"a":"x","b":"3"}"#), "primary key field \"b\" must be INT, but is a string"),
        (insert("t", r#"{"a":7,"b":3}"#), "primary key field \"a\" must be STRING, but is an integer"),
        (insert("t", r#"{"a":"","b":3}"#), "empty"),
        (patch("t", "x", "{}"), "a key is a JSON array such as [\"x\",3]"),
        (patch("t", r#"["x"]"#, "{}"), "a key is a JSON array such as [\"x\",3]"),
        (patch("t", r#"{"a":"x","c":3}"#, "{}"), "which has no field \"c\""),
        (patch("t", r#"{"a":"x"}"#, "{}"), "the key lacks \"b\""),
        (
            v1::Operation { key: r#"["x",4]"#.into(), ..put("t", r#"{"a":"x","b":3}"#) },
            r#"the key of the operation, ("x", 4), differs from the key in its document, ("x", 3)"#,
        ),
    ] {
        let error = apply(&mut cluster.writer, vec![operation]).await.unwrap_err();
        assert!(reason(&error) == "KEY_INVALID" && error.message().contains(expected), "{error}");
    }
    apply(&mut cluster.writer, vec![insert("t", r#"{"a":"x","b":3}"#)]).await.unwrap();
    let error = apply(&mut cluster.writer, vec![patch("t", r#"["x",3]"#, r#"{"b":4}"#)]).await.unwrap_err();
    assert!(error.message().contains("the patch changes the primary key"), "{error}");
    for statement in [
        r#"PATCH t KEY "x" SET {"n": 1}"#,
        r#"PATCH t KEY ("x", "3") SET {"n": 1}"#,
        r#"PATCH t KEY (a = "x") SET {"n": 1}"#,
        r#"PATCH plain KEY ("x", 3) SET {"n": 1}"#,
        r#"PATCH plain KEY (id = "x", b = 3) SET {"n": 1}"#,
    ] {
        let error = run(&mut cluster.writer, statement).await.unwrap_err();
        assert_eq!(error.code(), Code::InvalidArgument, "{statement}: {error}");
    }
    let error = run(&mut cluster.writer, "CREATE TABLE u (pk=(a, b) AUTO)").await.unwrap_err();
    assert_eq!(error.code(), Code::InvalidArgument);
    // A table that is created again keeps its key.
    run(&mut cluster.writer, "DROP TABLE t").await.unwrap();
    run(&mut cluster.writer, "CREATE TABLE t (pk=(a, b INT))").await.unwrap();
    assert_eq!(ask(&mut cluster.reader, "SELECT * FROM t", 5).await.unwrap().rows(), []);
    assert_eq!(ask(&mut cluster.reader, "SELECT * FROM t AS OF @seq:3", 5).await.unwrap().rows().len(), 1);
}

#[tokio::test]
async fn preconditions_and_requests_know_composite_keys() {
    let mut cluster = Cluster::start().await;
    let request = v1::CreateTableRequest {
        table: "t".into(),
        key_columns: vec![
            v1::KeyColumn { field: "a".into(), ..Default::default() },
            v1::KeyColumn { field: "b".into(), r#type: v1::KeyType::Int.into() },
        ],
        ..Default::default()
    };
    cluster.writer.create_table(request).await.unwrap();
    let guarded = |key: &str, check| v1::ApplyRequest {
        operations: vec![put("t", r#"{"a":"x","b":3}"#)],
        preconditions: vec![v1::Precondition {
            table: "t".into(),
            key: key.into(),
            check: Some(check),
            ..Default::default()
        }],
        ..Default::default()
    };
    use v1::precondition::Check;
    cluster.writer.apply(guarded(r#"["x",3]"#, Check::Exists(false))).await.unwrap();
    let error = cluster.writer.apply(guarded(r#"{"b":3,"a":"x"}"#, Check::Exists(false))).await.unwrap_err();
    assert_eq!(reason(&error), "PRECONDITION_FAILED");
    cluster.writer.apply(guarded(r#"[ "x", 3 ]"#, Check::SeqIs(2))).await.unwrap();
}

#[tokio::test]
async fn a_select_of_composite_keys_resumes_and_a_watch_filters_by_them() {
    let mut cluster = Cluster::start().await;
    run(&mut cluster.writer, "CREATE TABLE t (pk=(a, b INT))").await.unwrap();
    let row = |a: &str, b: i64| insert("t", json!({"a": a, "b": b, "s": "x".repeat(50_000)}).to_string());
    apply(&mut cluster.writer, (0..40).map(|n| row(["x", "y"][n % 2], n as i64)).collect()).await.unwrap();
    let request = v1::SelectRequest { table: "t".into(), freshness: fresh(2), ..Default::default() };
    let (mut keys, mut token) = (Vec::new(), Default::default());
    loop {
        let request = v1::SelectRequest { resume_token: token, ..request.clone() };
        let page =
            cluster.reader.select(request).await.unwrap().into_inner().message().await.unwrap().unwrap();
        keys.extend(page.rows.into_iter().map(|row| row.key));
        token = page.resume_token;
        if token.is_empty() {
            break;
        }
    }
    let expected: Vec<String> = (0..40)
        .step_by(2)
        .map(|n| json!(["x", n]))
        .chain((1..40).step_by(2).map(|n| json!(["y", n])))
        .map(|k| k.to_string())
        .collect();
    assert_eq!(keys, expected);

    for operation in [
        patch("t", r#"["y",1]"#, r#"{"n":1}"#),
        patch("t", r#"["x",2]"#, r#"{"n":1}"#),
        insert("t", r#"{"a":"y","b":99}"#),
    ] {
        apply(&mut cluster.writer, vec![operation]).await.unwrap();
    }
    for (filter, rows, changes) in [
        (
            v1::WatchDriftRequest { keys: vec![r#"["x", 2]"#.into()], ..Default::default() },
            1,
            vec!["4: patch t/[\"x\",2]"],
        ),
        (
            v1::WatchDriftRequest { key_prefix: r#"["y","#.into(), ..Default::default() },
            20,
            vec!["3: patch t/[\"y\",1]", "5: insert t/[\"y\",99]"],
        ),
        (
            v1::WatchDriftRequest { r#where: r#"a = "y" AND b > 50"#.into(), ..Default::default() },
            0,
            vec!["5: insert t/[\"y\",99]"],
        ),
    ] {
        let request = v1::WatchDriftRequest {
            tables: vec!["t".into()],
            start: Some(v1::watch_drift_request::Start::AfterSeq(2)),
            initial_rows: true,
            until_seq: 5,
            ..filter
        };
        let mut stream = watch(&mut cluster.reader, request).await.unwrap();
        assert_eq!(stream.rows().await.len(), rows, "{changes:?}");
        assert_eq!(stream.told(5).await, changes);
    }
}

#[test]
#[expect(clippy::disallowed_methods, reason = "a test's own files")]
fn driftctl_knows_composite_keys() {
    let dir = tempfile::tempdir().unwrap();
    let daemon = Daemon::writer(&dir.path().join("data"));
    let reader = Daemon::reader(&dir.path().join("data"));
    let driftctl = |args: &[&str]| {
        let mut command = Command::new(binary("driftctl"));
        command.env("DRIFTDB_WRITER", &daemon.url).env("DRIFTDB_READER", &reader.url).args(args);
        let output = command.output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.success(), text(&output.stdout), text(&output.stderr))
    };
    let run = |args: &[&str]| {
        let (is_ok, stdout, stderr) = driftctl(args);
        assert!(is_ok, "{args:?}: {stderr}");
        stdout
    };
    // In a directory of its own, without daemons.
    let run_in = |data: &Path, args: &[&str]| {
        let output = Command::new(binary("driftctl")).arg("-d").arg(data).args(args).output().unwrap();
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let file = |name: &str, text: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let prices = file("prices.csv", "symbol,day,price\nA,2,1.5\nB,1,2.25\nA,10,3\n");
    run(&["ingest", "prices", "--file", &prices, "--create", "--pk", "symbol,day INT"]);
    let select = ["select", "prices", "-o", "jsonl"];
    let all = concat!(
        "{\"symbol\":\"A\",\"day\":2,\"price\":1.5}\n",
        "{\"symbol\":\"A\",\"day\":10,\"price\":3.0}\n",
        "{\"symbol\":\"B\",\"day\":1,\"price\":2.25}\n",
    );
    assert_eq!(run(&select), all);
    for key in [r#"["A",10]"#, r#"[ "A", 10 ]"#, r#"{"day":10,"symbol":"A"}"#] {
        let found = run(&["get", "prices", key, "-o", "jsonl"]);
        assert_eq!(found, "{\"symbol\":\"A\",\"day\":10,\"price\":3.0}\n", "{key}");
    }
    let (is_ok, _, stderr) = driftctl(&["get", "prices", r#"["A",11]"#]);
    assert!(!is_ok && stderr.contains("has no row with key"), "{stderr}");
    let commits = file(
        "commits.jsonl",
        concat!(
            r#"{"ops":[{"op":"patch","table":"prices","key":["A",2],"patch":{"price":9}}]}"#,
            "\n",
            r#"{"ops":[{"op":"delete","table":"prices","key":{"symbol":"B","day":1}}]}"#,
            "\n",
        ),
    );
    run(&["apply", "--file", &commits]);
    let drift = run(&["drift", "prices", r#"["A",2]"#, "-o", "jsonl"]);
    assert!(drift.lines().count() == 2 && drift.contains(r#""key":"[\"A\",2]""#), "{drift}");
    run(&["revert", "prices", r#"["B",1]"#, "--to", "@seq:4"]);
    run(&["sql", "-e", r#"BEGIN; PATCH prices KEY (day = 2, symbol = "A") SET {"price": 1.5}; COMMIT"#]);
    assert_eq!(run(&select), all);
    let csv = run(&["select", "prices", "-o", "csv"]);
    assert!(csv.starts_with("symbol,day,price\nA,2,1.5\n"), "{csv}");

    // A dump keeps the key, of rows and of history.
    for args in [&["dump"][..], &["dump", "--history"]] {
        let dump = dir.path().join(format!("dump{}.jsonl", args.len()));
        run(&[args, &[dump.to_str().unwrap()]].concat());
        let copy = dir.path().join(format!("copy{}", args.len()));
        run_in(&copy, &["load", dump.to_str().unwrap()]);
        assert_eq!(run_in(&copy, &select), all);
        let table = run_in(&copy, &["sql", "-o", "jsonl", "-e", "DESCRIBE prices"]);
        assert!(table.contains(r#""primary_key":"(symbol, day)","key_type":"(STRING, INT)""#), "{table}");
    }
}
