//! A scenario while it runs: its daemons, its clients, its watches, and what its steps have saved.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use driftdb::client::{BulkLoadOptions, Client, ClientOptions, WatchEvent, Watcher, reason};
use driftdb::v1;
use serde_json::{Value, json};
use tonic::Status;

use super::scenario_cluster::ScenarioCluster;
use crate::harness::Daemon;

/// How long a step may need some tries.
const EVENTUALLY: Duration = Duration::from_secs(20);
/// How long a scenario may take.
const LIMIT: Duration = Duration::from_secs(120);

/// A running scenario.
pub struct Scenario {
    pub clients: BTreeMap<String, Client>,
    watches: BTreeMap<String, ScenarioWatch>,
    saved: BTreeMap<String, Value>,
    tokens: BTreeMap<String, Vec<u8>>,
    starting: Option<std::thread::JoinHandle<Daemon>>,
    started: Vec<Daemon>,
    /// The last field, so that its directory is removed after all daemons have ended.
    pub cluster: ScenarioCluster,
}

/// A watch, and the changes of the last commit that no step has expected yet.
struct ScenarioWatch {
    watcher: Watcher,
    pending: VecDeque<Value>,
}

impl Scenario {
    /// Runs all steps of a scenario.
    pub async fn run(scenario: Value) {
        let name = scenario["name"].as_str().unwrap();
        let cluster = ScenarioCluster::start(&scenario["cluster"]).await;
        let main = cluster.client("main", None, "certs");
        let mut running = Scenario {
            cluster,
            clients: BTreeMap::from([("main".to_owned(), main)]),
            watches: BTreeMap::new(),
            saved: BTreeMap::new(),
            tokens: BTreeMap::new(),
            starting: None,
            started: Vec::new(),
        };
        let steps = scenario["steps"].as_array().unwrap();
        let all = async {
            for step in steps {
                running.step(name, step).await;
            }
        };
        tokio::time::timeout(LIMIT, all).await.unwrap_or_else(|_| panic!("{name}: not done after {LIMIT:?}"));
    }

    async fn step(&mut self, name: &str, step: &Value) {
        let times = step["times"].as_u64().unwrap_or(1);
        for i in 0..times {
            if step["do"] == json!("repeat") {
                self.saved.insert("i".to_owned(), json!(i));
                self.saved.insert("i_text".to_owned(), json!(i.to_string()));
                for inner in step["steps"].as_array().unwrap() {
                    Box::pin(self.step(name, inner)).await;
                }
            } else {
                let filled = self.filled(step);
                self.checked(name, &filled).await;
            }
        }
    }

    /// A value with what was saved in place of its names.
    fn filled(&self, value: &Value) -> Value {
        match value {
            Value::String(text) => {
                text.strip_prefix('$').and_then(|name| self.saved.get(name)).unwrap_or(value).clone()
            }
            Value::Array(values) => values.iter().map(|value| self.filled(value)).collect(),
            Value::Object(fields) => {
                if let (1, Some(length)) = (fields.len(), fields.get("$pad")) {
                    return json!("x".repeat(length.as_u64().unwrap().try_into().unwrap()));
                }
                if let (1, Some(depth)) = (fields.len(), fields.get("$nest")) {
                    return (0..depth.as_u64().unwrap()).fold(json!([]), |inner, _| json!([inner]));
                }
                fields.iter().map(|(name, value)| (name.clone(), self.filled(value))).collect()
            }
            other => other.clone(),
        }
    }

    async fn checked(&mut self, name: &str, step: &Value) {
        let expected = step["error"].as_str();
        let until =
            Instant::now() + if step["eventually"] == json!(true) { EVENTUALLY } else { Duration::ZERO };
        loop {
            match self.perform(step).await {
                Ok(()) if expected.is_none() => return,
                Ok(()) => assert!(Instant::now() < until, "{name}: {step} did not fail"),
                Err(status) => {
                    assert_eq!(reason(&status).as_deref(), expected, "{name}: {step}: {status}");
                    return;
                }
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Saves the seq of a commit, if the step names it.
    pub fn save(&mut self, step: &Value, seq: u64) {
        if let Some(name) = step["save"].as_str() {
            self.saved.insert(name.to_owned(), json!(seq));
        }
    }

    /// Does what is done with daemons, clients and watches. Returns whether the step was one of them.
    pub async fn perform_outside(&mut self, step: &Value) -> Result<bool, Status> {
        let text = |name: &str| step[name].as_str().unwrap_or_default();
        let reader = || usize::try_from(step["reader"].as_u64().unwrap()).unwrap();
        match text("do") {
            "connect" => {
                let ca = step["ca"].as_str().unwrap_or("certs");
                let client = self.cluster.client(text("token"), step["tls"].as_bool(), ca);
                let timeout = step["timeout"].as_f64().map(Duration::from_secs_f64);
                self.clients.insert(text("client").to_owned(), client.with_timeout(timeout));
            }
            "set_token" => self.clients[text("client")].set_token(self.cluster.token(text("token"))),
            "unsafe_token" => {
                let token = Some(driftdb::client::BearerToken::new("secret").unwrap());
                let options = ClientOptions { token, ..ClientOptions::default() };
                Client::open_with(options, text("url"))?.get("t", "a").await?;
            }
            "freeze_writer" => self.cluster.writer.freeze(),
            "thaw_writer" => self.cluster.writer.thaw(),
            "freeze_reader" => self.cluster.readers[reader()].freeze(),
            "thaw_reader" => self.cluster.readers[reader()].thaw(),
            "kill_reader" => self.cluster.readers[reader()].kill(),
            "start_reader" => self.cluster.readers[reader()].start(),
            "kill_writer" => self.cluster.writer.kill(),
            "start_writer" => {
                let pause = Duration::from_millis(step["after_ms"].as_u64().unwrap());
                self.starting = Some(self.cluster.writer.start_after(pause));
            }
            "ingest" => self.ingest(step).await?,
            "lose_answer" => self.cluster.proxy.as_ref().unwrap().arm(),
            "watch" => self.open_watch(step).await?,
            "close_watch" => drop(self.watches.remove(text("watch"))),
            "save_token" => {
                let token = self.watches[text("watch")].watcher.token().unwrap().to_vec();
                self.tokens.insert(text("save").to_owned(), token);
            }
            "expect_end" => {
                assert!(self.watches.get_mut(text("watch")).unwrap().next_commit().await?.is_none());
            }
            "expect_changes" => self.expect_changes(step).await?,
            "expect_numbers" => self.expect_numbers(step).await?,
            "expect_commits" => self.expect_commits(step).await?,
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// Loads numbered rows, and kills the writer at one of them.
    async fn ingest(&mut self, step: &Value) -> Result<(), Status> {
        let number = |name: &str| step[name].as_u64();
        let table = step["table"].as_str().unwrap();
        let (count, kill_at) = (number("count").unwrap(), number("kill_writer_at"));
        let options = BulkLoadOptions {
            producer: step["producer"].as_str().unwrap_or_default().to_owned(),
            batch: usize::try_from(number("batch").unwrap()).unwrap(),
            atomic: step["atomic"] == json!(true),
        };
        let writer = &mut self.cluster.writer;
        let operations = (0..count).map(|n| {
            if Some(n) == kill_at {
                writer.kill();
                writer.start();
            }
            let row = v1::Document::of(&json!({ "id": n.to_string(), "n": n })).unwrap();
            match step["action"].as_str() {
                Some("put") => v1::Operation::put(table, row),
                _ => v1::Operation::insert(table, row),
            }
        });
        let client = self.clients["main"].clone();
        let loaded = client.bulk_load(operations, options).await?;
        let refused = loaded
            .refused
            .iter()
            .map(|(position, error)| json!({ "position": position, "reason": error.reason }));
        let found = json!({ "operations": loaded.operations, "refused": refused.collect::<Vec<_>>() });
        assert_eq!(found, step["expect"]);
        Ok(())
    }

    async fn open_watch(&mut self, step: &Value) -> Result<(), Status> {
        let list = |name: &str| -> Vec<String> {
            let values = step[name].as_array().into_iter().flatten();
            values.map(|value| value.as_str().map_or_else(|| value.to_string(), str::to_owned)).collect()
        };
        let params = step["params"].as_array().into_iter().flatten().map(ToString::to_string).collect();
        let mut request = v1::WatchDriftRequest {
            tables: vec![step["table"].as_str().unwrap().to_owned()],
            r#where: step["where"].as_str().unwrap_or_default().to_owned(),
            params,
            keys: list("keys"),
            initial_rows: step["initial_rows"] == json!(true),
            with_before: true,
            with_after: true,
            until_seq: step["until_seq"].as_u64().unwrap_or(0),
            heartbeat: Some(prost_types::Duration { seconds: 1, nanos: 0 }),
            ..Default::default()
        };
        request.start = match (step["token"].as_str(), step["after_seq"].as_u64()) {
            (Some(name), _) => {
                let token = self.tokens[name.trim_start_matches('$')].clone();
                Some(v1::watch_drift_request::Start::ResumeToken(token.into()))
            }
            (None, Some(seq)) => Some(v1::watch_drift_request::Start::AfterSeq(seq)),
            (None, None) => None,
        };
        let client = &self.clients[step["client"].as_str().unwrap_or("main")];
        let mut watch = ScenarioWatch { watcher: client.watch(request), pending: VecDeque::new() };
        if step["open"] == json!(true) {
            watch.watcher.open().await?;
        }
        self.watches.insert(step["watch"].as_str().unwrap().to_owned(), watch);
        Ok(())
    }

    async fn expect_changes(&mut self, step: &Value) -> Result<(), Status> {
        let watch = self.watches.get_mut(step["watch"].as_str().unwrap()).unwrap();
        for expected in step["expect"].as_array().unwrap() {
            let change = watch.next_change().await?.expect("the watch has ended");
            expect_fields(&change, expected);
        }
        Ok(())
    }

    async fn expect_numbers(&mut self, step: &Value) -> Result<(), Status> {
        let watch = self.watches.get_mut(step["watch"].as_str().unwrap()).unwrap();
        let field = step["field"].as_str().unwrap();
        for number in step["from"].as_u64().unwrap()..step["to"].as_u64().unwrap() {
            let change = watch.next_change().await?.expect("the watch has ended");
            assert_eq!(change["after"][field], json!(number), "{change}");
        }
        Ok(())
    }

    async fn expect_commits(&mut self, step: &Value) -> Result<(), Status> {
        let watch = self.watches.get_mut(step["watch"].as_str().unwrap()).unwrap();
        for expected in step["expect"].as_array().unwrap() {
            let changes = watch.next_commit().await?.expect("the watch has ended");
            assert_eq!(json!({ "seq": changes[0]["seq"], "changes": changes.len() }), *expected);
        }
        Ok(())
    }
}

impl Drop for Scenario {
    fn drop(&mut self) {
        // The daemon that starts meanwhile ends, too.
        self.started.extend(self.starting.take().and_then(|starting| starting.join().ok()));
    }
}

impl ScenarioWatch {
    async fn next_change(&mut self) -> Result<Option<Value>, Status> {
        if self.pending.is_empty() {
            self.pending = self.next_commit().await?.unwrap_or_default().into();
        }
        Ok(self.pending.pop_front())
    }

    /// The changes of the next commit, or the next initial rows as changes; `None` at the end.
    async fn next_commit(&mut self) -> Result<Option<Vec<Value>>, Status> {
        while let Some(event) = self.watcher.next().await? {
            match event {
                WatchEvent::Commit(commit) => return Ok(Some(changes_of(&commit))),
                WatchEvent::Rows(batch) => {
                    let initial = |row: &v1::Row| json!({ "kind": "initial", "table": batch.table, "key": row.key, "after": document(row.document.as_ref()) });
                    return Ok(Some(batch.rows.iter().map(initial).collect()));
                }
                _ => {}
            }
        }
        Ok(None)
    }
}

/// The changes of a commit, as scenarios describe them.
pub fn changes_of(commit: &v1::Commit) -> Vec<Value> {
    let change = |change: &v1::Change| {
        let kind = match change.kind() {
            v1::ChangeKind::Insert => "insert",
            v1::ChangeKind::Patch => "patch",
            v1::ChangeKind::SoftDelete => "delete",
            v1::ChangeKind::Schema => "schema",
            v1::ChangeKind::Unspecified => "?",
        };
        json!({
            "seq": commit.seq, "actor": commit.actor, "reason": commit.reason, "principal": commit.principal,
            "table": change.table, "key": change.key, "kind": kind,
            "payload": document(change.payload.as_ref()),
            "before": document(change.before.as_ref()),
            "after": document(change.after.as_ref()),
        })
    };
    commit.changes.iter().map(change).collect()
}

/// A document as a value; null if there is none.
pub fn document(document: Option<&v1::Document>) -> Value {
    document.map_or(Value::Null, |document| document.parse().unwrap())
}

/// Compares the fields that are expected.
pub fn expect_fields(found: &Value, expected: &Value) {
    for (name, value) in expected.as_object().unwrap() {
        assert_eq!(&found[name], value, "{name} of {found}");
    }
}
