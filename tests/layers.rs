//! Snapshots, merges and compaction run continuously while histories grow, writers are killed and readers are replaced:
//! every question about every commit gets the same answer as without them.

use std::collections::BTreeSet;
use std::fmt::Write;

use crate::harness::calls::{fresh, value_of};
use crate::harness::condition::{self, Condition, Random};
use crate::harness::history::{millis, timestamp};
use crate::harness::lane::by_lane;
use crate::harness::world::{self, KEYS, TABLES, Table, World, key_of};
use crate::harness::*;
use driftdb::v1;
use serde_json::{Value, json};

/// A reader, and a name for it.
struct Asked {
    name: &'static str,
    daemon: Daemon,
    client: Reader,
}

impl Asked {
    async fn start(name: &'static str, run: &Run) -> Asked {
        let cache = run.cache.to_string();
        let daemon = Daemon::start("driftdb-reader", run.dir.path(), &["--cache", &cache]);
        let client = daemon.as_reader().await;
        Asked { name, daemon, client }
    }
}

struct Run {
    dir: tempfile::TempDir,
    events: usize,
    cache: u64,
    segment: usize,
    random: Random,
    world: World,
    daemon: Option<Daemon>,
    writer: Option<Writer>,
    /// Requests with a request id, and their commits.
    made: Vec<(v1::ApplyRequest, u64)>,
}

impl Run {
    async fn start(seed: u64, cache: u64) -> Run {
        let mut random = Random(seed.wrapping_mul(7919) + 17);
        random.below(2);
        let dir = tempfile::tempdir().unwrap();
        let (events, segment) = (5 + random.below(56), 4096 + random.below(20_000));
        let (world, daemon, writer, made) = (World::new(), None, None, Vec::new());
        let mut run = Run { dir, events, cache, segment, random, world, daemon, writer, made };
        run.open().await;
        for (table, _) in TABLES {
            run.create(table).await;
        }
        // Enough for more than one message of rows.
        let operations = (0..KEYS).map(|number| world::put_row("wide", &key_of("wide", number), number));
        run.commit(v1::ApplyRequest { operations: operations.collect(), ..Default::default() }).await;
        run
    }

    async fn open(&mut self) {
        let (events, cache, segment) =
            (self.events.to_string(), self.cache.to_string(), self.segment.to_string());
        let args = ["--snapshot-events", &events, "--cache", &cache, "--segment-bytes", &segment];
        let daemon = Daemon::start("driftdb-writer", self.dir.path(), &args);
        self.writer = Some(daemon.as_writer().await);
        self.daemon = Some(daemon);
    }

    fn writer(&mut self) -> &mut Writer {
        self.writer.as_mut().unwrap()
    }

    fn done(&mut self, token: &v1::WriteToken) {
        assert_eq!(token.seq, self.world.seq(), "the seq of the commit");
        self.world.times.push(millis(Some(&token.time.unwrap())));
    }

    async fn create(&mut self, table: &str) {
        let key_type = if table == "b" { v1::KeyType::Int } else { v1::KeyType::String };
        let indexes = if self.random.below(2) == 0 { vec!["n".to_owned()] } else { Vec::new() };
        self.world.create(table, &indexes);
        let mut request = v1::CreateTableRequest {
            table: table.into(),
            primary_key: "id".into(),
            indexes,
            ..Default::default()
        };
        request.set_key_type(key_type);
        let answer = self.writer().create_table(request).await.unwrap().into_inner();
        self.done(&answer.token.unwrap());
    }

    async fn commit(&mut self, request: v1::ApplyRequest) {
        let before = self.world.seq();
        let expected = self.world.apply(&request);
        match self.writer().apply(request.clone()).await {
            Ok(answer) => {
                let answer = answer.into_inner();
                assert!(expected, "the model refuses after {before}: {request:?}");
                assert!(!answer.replayed, "{request:?}");
                self.done(&answer.token.unwrap());
                if request.options.as_ref().is_some_and(|options| !options.request_id.is_empty()) {
                    self.made.push((request, self.world.seq()));
                }
            }
            Err(status) => assert!(!expected, "after {before}: {status} for {request:?}"),
        }
    }

    async fn step(&mut self, number: u64) {
        match self.random.below(60) {
            0 => {
                assert!(self.daemon.as_mut().unwrap().terminate().await.success());
                self.open().await;
            }
            1 => {
                self.daemon.as_mut().unwrap().kill();
                self.open().await;
            }
            2..=4 => self.snapshot().await,
            5..=7 => self.ask_again().await,
            8..=10 => self.change_schema().await,
            _ => {
                let request = world::random_commit(&mut self.random, &self.world, number);
                self.commit(request).await;
            }
        }
    }

    async fn snapshot(&mut self) {
        let table = TABLES[self.random.below(TABLES.len())].0;
        let expected = self.world.table(self.world.seq(), table).cloned();
        let found = self.writer().snapshot(v1::SnapshotRequest { table: table.into() }).await;
        let Some(expected) = expected else {
            assert_eq!(reason(&found.unwrap_err()), "TABLE_NOT_FOUND");
            return;
        };
        let (mut stream, mut last) = (found.unwrap().into_inner(), None);
        while let Some(message) = stream.message().await.unwrap() {
            last = message.event;
        }
        let Some(v1::snapshot_response::Event::Snapshot(info)) = last else {
            panic!("no snapshot: {last:?}")
        };
        assert_eq!((info.seq, info.rows), (expected.last_seq, expected.rows.len() as u64), "{table}");
    }

    /// Repeats an earlier request, which must return the original commit.
    async fn ask_again(&mut self) {
        if self.made.is_empty() {
            return;
        }
        let (request, seq) = self.random.pick(&self.made);
        let answer = self.writer().apply(request.clone()).await;
        let answer = answer.unwrap_or_else(|e| panic!("{e} for the repeated {request:?}")).into_inner();
        assert!(answer.replayed && answer.token.unwrap().seq == seq, "{request:?} became {seq}");
    }

    async fn change_schema(&mut self) {
        // Wide rows are never deleted.
        let table = TABLES[self.random.below(3)].0;
        let Some(now) = self.world.table(self.world.seq(), table).cloned() else {
            return self.create(table).await;
        };
        if self.random.below(5) == 0 {
            self.world.drop_table(table);
            let request = v1::DropTableRequest { table: table.into(), options: None };
            let answer = self.writer().drop_table(request).await.unwrap().into_inner();
            return self.done(&answer.token.unwrap());
        }
        let path = self.random.pick(&["n", "nested.x", "more.a.b.c"]);
        let add = !now.indexes.contains(path);
        self.world.alter(table, path, add);
        let mut request = v1::AlterTableRequest { table: table.into(), ..Default::default() };
        if add { &mut request.add_indexes } else { &mut request.drop_indexes }.push(path.to_owned());
        let answer = self.writer().alter_table(request).await.unwrap().into_inner();
        self.done(&answer.token.unwrap());
    }

    /// Asks every reader a number of random questions. All must give the same answer, byte for byte.
    async fn ask(&mut self, readers: &mut [Asked], questions: usize) {
        for _ in 0..questions {
            let question = Question::random(&mut self.random, &self.world);
            let mut first: Option<String> = None;
            for reader in &mut *readers {
                let mut told = String::new();
                let context = format!("{} (events {}), {question:?}", reader.name, self.events);
                question.ask(&mut reader.client, &self.world, &mut told, &context).await;
                match &first {
                    Some(first) => assert!(*first == told, "{context}: readers differ:\n{first}\n{told}"),
                    None => first = Some(told),
                }
            }
        }
    }
}

#[derive(Debug)]
enum What {
    Get,
    Select(Condition, u64, u64),
    Resume,
    History { key: Option<usize>, from: u64, newest_first: bool, images: (bool, bool), limit: u64 },
    Diff { from: u64, keys: Option<Vec<usize>> },
    Tables,
    Time(i64),
}

#[derive(Debug)]
struct Question {
    table: &'static str,
    seq: u64,
    what: What,
}

impl Question {
    fn random(random: &mut Random, world: &World) -> Question {
        let last = usize::try_from(world.seq()).unwrap();
        let seq = random.below(last + 1) as u64;
        let table = TABLES[random.below(TABLES.len())].0;
        let what = match random.below(10) {
            0 => What::Get,
            1 | 2 => {
                What::Select(random_condition(random, world), random.below(12) as u64, random.below(3) as u64)
            }
            3 => What::Resume,
            4..=6 => What::History {
                key: (random.below(2) == 0).then(|| random.below(KEYS)),
                from: random.below(3).min(1) as u64 * random.below(last + 1) as u64,
                newest_first: random.below(2) == 0,
                images: (random.below(2) == 0, random.below(2) == 0),
                limit: random.pick(&[0, 0, 1, 7, 40]),
            },
            7 => {
                let keys = (random.below(3) == 0).then(|| (0..3).map(|_| random.below(KEYS)).collect());
                What::Diff { from: random.below(last + 1) as u64, keys }
            }
            8 => What::Tables,
            _ => What::Time(world.times[random.below(last + 1)] + random.below(3) as i64 - 1),
        };
        Question { table, seq, what }
    }

    async fn ask(&self, reader: &mut Reader, world: &World, told: &mut String, context: &str) {
        let (table, seq) = (self.table, self.seq);
        match &self.what {
            What::Get => self.get(reader, world, told, context).await,
            What::Select(condition, limit, offset) => {
                let expected = world.table(seq, table).map(|table| matching(table, world, condition));
                let request = v1::SelectRequest {
                    table: table.into(),
                    r#where: condition.text(&mut None),
                    limit: *limit,
                    offset: *offset,
                    ..self.select(world)
                };
                let limit = if *limit == 0 { usize::MAX } else { usize::try_from(*limit).unwrap() };
                let offset = usize::try_from(*offset).unwrap();
                let expected =
                    expected.map(|rows| rows.into_iter().skip(offset).take(limit).collect::<Vec<_>>());
                let count = expected.as_ref().map(Vec::len);
                self.rows(reader.select(request.clone()).await, expected, world, told, context).await;
                let counted = reader.select(v1::SelectRequest { count_only: true, ..request }).await;
                if let Some(count) = count {
                    let answer = counted.unwrap().into_inner().message().await.unwrap().unwrap();
                    assert_eq!(answer.count, count as u64, "{context}");
                }
            }
            What::Resume => self.resume(reader, world, told, context).await,
            What::History { .. } => self.history(reader, world, told, context).await,
            What::Diff { .. } => self.diff(reader, world, told, context).await,
            What::Tables => self.tables(reader, world, told, context).await,
            What::Time(time) => {
                let as_of = Some(v1::AsOf { at: Some(v1::as_of::At::Time(timestamp(*time))) });
                let request =
                    v1::ListTablesRequest { as_of, freshness: fresh(world.seq()), ..Default::default() };
                let header = reader.list_tables(request).await.unwrap().into_inner().header.unwrap();
                check_header(&header, world.seq_at(*time), world, told, context);
            }
        }
    }

    fn select(&self, world: &World) -> v1::SelectRequest {
        v1::SelectRequest {
            table: self.table.into(),
            as_of: at_seq(self.seq),
            freshness: fresh(world.seq()),
            ..Default::default()
        }
    }

    async fn get(&self, reader: &mut Reader, world: &World, told: &mut String, context: &str) {
        let keys: Vec<_> = (0..KEYS).map(|number| key_of(self.table, number)).collect();
        let request = v1::GetRequest {
            table: self.table.into(),
            keys: keys.iter().map(|key| key.1.clone()).collect(),
            as_of: at_seq(self.seq),
            freshness: fresh(world.seq()),
            ..Default::default()
        };
        let found = reader.get(request).await;
        let Some(expected) = world.table(self.seq, self.table) else {
            return assert_eq!(reason(&found.unwrap_err()), "TABLE_NOT_FOUND", "{context}");
        };
        let found = found.unwrap_or_else(|e| panic!("{context}: {e}")).into_inner();
        check_header(&found.header.unwrap(), self.seq, world, told, context);
        let asked: BTreeSet<_> = keys.iter().take(KEYS - found.remaining.len()).collect();
        let mut rows = all_rows(expected, world);
        rows.retain(|(key, ..)| asked.iter().any(|asked| asked.1 == *key));
        check_rows(&found.rows, &rows, told, context);
    }

    async fn rows(
        &self,
        found: Result<tonic::Response<tonic::Streaming<v1::SelectResponse>>, tonic::Status>,
        expected: Option<Vec<Found>>,
        world: &World,
        told: &mut String,
        context: &str,
    ) {
        let Some(expected) = expected else {
            return assert_eq!(reason(&found.err().unwrap()), "TABLE_NOT_FOUND", "{context}");
        };
        let mut stream = found.unwrap_or_else(|e| panic!("{context}: {e}")).into_inner();
        let mut rows = Vec::new();
        while let Some(message) = stream.message().await.unwrap_or_else(|e| panic!("{context}: {e}")) {
            if let Some(header) = message.header {
                check_header(&header, self.seq, world, told, context);
            }
            write!(told, "{} rows, {:?};", message.rows.len(), message.resume_token).unwrap();
            rows.extend(message.rows);
        }
        check_rows(&rows, &expected, told, context);
    }

    /// A Select of wide rows, interrupted after its first message and resumed.
    async fn resume(&self, reader: &mut Reader, world: &World, told: &mut String, context: &str) {
        let request = v1::SelectRequest { table: "wide".into(), ..self.select(world) };
        let Some(expected) = world.table(self.seq, "wide") else { return };
        let (mut rows, mut token) = (Vec::new(), prost::bytes::Bytes::new());
        loop {
            let request = v1::SelectRequest { resume_token: token, ..request.clone() };
            let mut stream =
                reader.select(request).await.unwrap_or_else(|e| panic!("{context}: {e}")).into_inner();
            let Some(message) = stream.message().await.unwrap_or_else(|e| panic!("{context}: {e}")) else {
                break;
            };
            rows.extend(message.rows);
            token = message.resume_token;
            if token.is_empty() {
                break;
            }
        }
        check_rows(&rows, &all_rows(expected, world), told, context);
    }

    async fn history(&self, reader: &mut Reader, world: &World, told: &mut String, context: &str) {
        let What::History { key, from, newest_first, images, limit } = self.what else { return };
        let from = from.min(self.seq);
        let key = key.map(|number| key_of(self.table, number));
        let request = v1::HistoryRequest {
            table: self.table.into(),
            key: key.as_ref().map(|key| key.1.clone()).unwrap_or_default(),
            start: at_seq(from),
            end: at_seq(self.seq),
            newest_first,
            with_before: images.0,
            with_after: images.1,
            limit,
            freshness: fresh(world.seq()),
            ..Default::default()
        };
        let mut stream =
            reader.history(request).await.unwrap_or_else(|e| panic!("{context}: {e}")).into_inner();
        let mut found = Vec::new();
        while let Some(message) = stream.message().await.unwrap_or_else(|e| panic!("{context}: {e}")) {
            for commit in message.commits {
                write!(told, "{commit:?};").unwrap();
                assert_eq!(
                    millis(Some(&commit.time.unwrap())),
                    world.times[commit.seq as usize],
                    "{context}"
                );
                for change in commit.changes {
                    let images = (value_of(change.before.as_ref()), value_of(change.after.as_ref()));
                    found.push((commit.seq, commit.reason.clone(), change.kind(), change.key, images));
                }
            }
        }
        let wanted = |event: &&world::Event| {
            event.table == self.table
                && event.seq > from
                && event.seq <= self.seq
                && (key.is_none() || event.key == key)
        };
        let image = |wanted: bool, document: &Option<Value>| {
            document.clone().filter(|_| wanted).unwrap_or(Value::Null)
        };
        let mut expected: Vec<_> = world.events.iter().filter(wanted).collect();
        if newest_first {
            expected.reverse();
        }
        let limit = if limit == 0 { usize::MAX } else { usize::try_from(limit).unwrap() };
        let expected: Vec<_> = expected
            .into_iter()
            .take(limit)
            .map(|event| {
                let key = event.key.as_ref().map(|key| key.1.clone()).unwrap_or_default();
                let images = (image(images.0, &event.before), image(images.1, &event.after));
                (event.seq, event.reason.clone(), event.kind, key, images)
            })
            .collect();
        assert_same(&found, &expected, context);
    }

    async fn diff(&self, reader: &mut Reader, world: &World, told: &mut String, context: &str) {
        let What::Diff { from, keys } = &self.what else { return };
        let named = keys.iter().flatten().map(|number| key_of(self.table, *number)).collect::<BTreeSet<_>>();
        let request = v1::DiffRequest {
            table: self.table.into(),
            start: at_seq(*from),
            end: at_seq(self.seq),
            keys: named.iter().map(|key| key.1.clone()).collect(),
            freshness: fresh(world.seq()),
            ..Default::default()
        };
        let answer = reader.diff(request).await;
        let (Some(before), Some(after)) = (world.table(*from, self.table), world.table(self.seq, self.table))
        else {
            return assert_eq!(reason(&answer.err().unwrap()), "TABLE_NOT_FOUND", "{context}");
        };
        let mut stream = answer.unwrap_or_else(|e| panic!("{context}: {e}")).into_inner();
        let mut found = Vec::new();
        while let Some(message) = stream.message().await.unwrap_or_else(|e| panic!("{context}: {e}")) {
            for row in message.rows {
                write!(told, "{row:?};").unwrap();
                found.push((row.key, value_of(row.before.as_ref()), value_of(row.after.as_ref())));
            }
        }
        let content = |table: &Table, key: &world::Key| {
            table.rows.get(key).map_or(Value::Null, |row| row.document.clone())
        };
        let all: BTreeSet<_> = before.rows.keys().chain(after.rows.keys()).collect();
        let expected: Vec<_> = all
            .into_iter()
            .filter(|key| keys.is_none() || named.contains(*key))
            .map(|key| (key.1.clone(), content(before, key), content(after, key)))
            .filter(|(_, before, after)| before != after)
            .collect();
        assert_same(&found, &expected, context);
    }

    async fn tables(&self, reader: &mut Reader, world: &World, told: &mut String, context: &str) {
        let (as_of, freshness) = (at_seq(self.seq), fresh(world.seq()));
        let request = v1::ListTablesRequest { as_of, freshness, ..Default::default() };
        let answer =
            reader.list_tables(request).await.unwrap_or_else(|e| panic!("{context}: {e}")).into_inner();
        check_header(&answer.header.unwrap(), self.seq, world, told, context);
        let found: Vec<_> = answer
            .tables
            .into_iter()
            .map(|mut table| {
                table.indexes.sort();
                (table.table, table.rows, table.events, table.created_seq, table.last_seq, table.indexes)
            })
            .collect();
        let live = world.at(self.seq).iter().filter(|(_, table)| table.live);
        let expected: Vec<_> = live
            .map(|(name, table)| {
                let (rows, indexes) = (table.rows.len() as u64, table.indexes.iter().cloned().collect());
                (name.clone(), rows, table.events, table.created, table.last_seq, indexes)
            })
            .collect();
        assert_same(&found, &expected, context);
        for (name, ..) in &expected {
            let request =
                v1::DescribeTableRequest { table: name.clone(), as_of, freshness: fresh(world.seq()) };
            let described = reader.describe_table(request).await.unwrap().into_inner().table.unwrap();
            assert_eq!(described.events, world.table(self.seq, name).unwrap().events, "{context}");
        }
    }
}

fn assert_same<T: PartialEq + std::fmt::Debug>(found: &[T], expected: &[T], context: &str) {
    for (i, (found, expected)) in found.iter().zip(expected).enumerate() {
        assert!(found == expected, "{context}: at {i}, found {found:?}\nexpected {expected:?}");
    }
    assert_eq!(found.len(), expected.len(), "{context}");
}

fn check_header(header: &v1::ReadHeader, seq: u64, world: &World, told: &mut String, context: &str) {
    assert_eq!(header.read_seq, seq, "{context}");
    let time = (seq > 0).then(|| world.times[usize::try_from(seq).unwrap()]);
    assert_eq!(header.read_time.map(|time| millis(Some(&time))), time, "the time of {seq}: {context}");
    write!(told, "{header:?};").unwrap();
}

/// The expected answer for a row: key, commit, time of the commit, document.
type Found = (String, u64, i64, Value);

fn all_rows(table: &Table, world: &World) -> Vec<Found> {
    let rows = table.rows.iter();
    rows.map(|(key, row)| (key.1.clone(), row.seq, world.times[row.seq as usize], row.document.clone()))
        .collect()
}

fn matching(table: &Table, world: &World, condition: &Condition) -> Vec<Found> {
    let mut rows = all_rows(table, world);
    rows.retain(|(_, seq, time_ms, document)| {
        let (key, document) = (document["id"].clone(), document.clone());
        condition.met(&condition::Row { key, seq: *seq, time_ms: *time_ms, document }) == Some(true)
    });
    rows
}

fn check_rows(found: &[v1::Row], expected: &[Found], told: &mut String, context: &str) {
    write!(told, "{found:?};").unwrap();
    let found: Vec<Found> = found
        .iter()
        .map(|row| {
            (row.key.clone(), row.seq, millis(Some(&row.time.unwrap())), value_of(row.document.as_ref()))
        })
        .collect();
    assert_same(&found, expected, context);
}

fn random_condition(random: &mut Random, world: &World) -> Condition {
    let n: Value = random.below(200).into();
    let one = match random.below(8) {
        0 => Condition::Compare("n", "=", n),
        1 => Condition::Compare("n", random.pick(&["<", ">=", "!="]), n),
        2 => Condition::Compare("nested.x", "=", random.below(3).into()),
        3 => Condition::IsMissing("nested.x", random.below(2) == 0),
        4 => Condition::Between("n", 50.into(), 150.into(), random.below(2) == 0),
        5 => Condition::In("more.a.b.c", (0..60).map(|_| random.below(200).into()).collect(), false),
        6 => Condition::Compare("_seq", ">", (random.below(world.states.len()) as u64).into()),
        _ => Condition::Compare("_key", random.pick(&[">", "<="]), json!("k07")),
    };
    match random.below(4) {
        0 => Condition::And(vec![one, Condition::Compare("_seq", "<", (world.seq() / 2).into())]),
        1 => Condition::Or(vec![one, Condition::Compare("nested.x", "=", 1.into())]),
        _ => one,
    }
}

/// One history from its start to its end.
async fn history(seed: u64, cache: u64, steps: u64) {
    let mut run = Run::start(seed, cache).await;
    let mut readers = vec![Asked::start("from the start", &run).await, Asked::start("restarted", &run).await];
    for number in 0..steps {
        run.step(number).await;
        if number % 12 == 11 {
            run.ask(&mut readers, 4).await;
        }
        if number == steps / 2 {
            readers[1].daemon.kill();
            readers[1] = Asked::start("restarted", &run).await;
        }
    }
    readers.push(Asked::start("at the end", &run).await);
    run.ask(&mut readers, by_lane(60, 300)).await;
    // While the writer is stopped, and after it starts again.
    run.daemon.as_mut().unwrap().terminate().await;
    run.ask(&mut readers, 10).await;
    run.open().await;
    run.snapshot().await;
    run.ask_again().await;
    run.ask(&mut readers, 10).await;
}

fn run_all(first: u64, cache: u64) {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let only: Option<u64> = std::env::var("DRIFTDB_SEED").ok().and_then(|seed| seed.parse().ok());
    let (count, steps) = by_lane((3, 110), (60, 600));
    for seed in only.map_or(first..first + count, |seed| seed..seed + 1) {
        eprintln!("history {seed} with a cache of {cache} bytes");
        runtime.block_on(history(seed, cache, steps));
    }
}

#[test]
fn snapshots_merges_and_compaction_change_no_answer() {
    run_all(1, 64 << 20);
}

#[test]
#[ignore = "slow"]
fn snapshots_change_no_answer_without_a_block_cache() {
    run_all(1000, 0);
}

#[test]
#[ignore = "slow"]
fn snapshots_change_no_answer_with_a_tiny_block_cache() {
    run_all(2000, 64 << 10);
}
