//! Metrics: what a scrape shows is true, complete and documented; probes tell the truth; the port bounds what it takes.

#![expect(clippy::disallowed_methods, reason = "this test reads the documentation")]

use std::collections::BTreeMap;
use std::process::Command;
use std::time::Duration;

use driftdb::v1;
use driftdb_common::limits;
use driftdb_common::metrics::catalog::{self, DaemonKind, MetricKind, MetricSpec};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tonic::Code;

use crate::harness::calls::{self, ask, run};
use crate::harness::scrape::{OPEN_METRICS, Scrape, ScrapedDaemon, get, send};
use crate::harness::*;

const READY: &str = "driftdb_ready";
const CALLS: &str = "rpc_server_call_duration_seconds_count";

fn kind_name(metric: &MetricSpec) -> &'static str {
    match metric.kind {
        MetricKind::Counter => "counter",
        MetricKind::Gauge => "gauge",
        MetricKind::Histogram(_) => "histogram",
    }
}

/// The rows of docs/metrics.md by metric: the heading above, the type, the labels, the meaning.
fn documented() -> BTreeMap<String, [String; 4]> {
    let page = std::fs::read_to_string(format!("{}/docs/metrics.md", env!("CARGO_MANIFEST_DIR"))).unwrap();
    let mut heading = "";
    let mut rows = BTreeMap::new();
    for line in page.lines() {
        if let Some(title) = line.strip_prefix("## ") {
            heading = title;
        }
        let cells: Vec<&str> = line.trim_matches('|').split(" | ").map(str::trim).collect();
        if let [name, kind, labels, meaning] = cells[..]
            && name.starts_with('`')
        {
            let row = [heading, kind, labels, meaning].map(str::to_owned);
            let before = rows.insert(name.trim_matches('`').to_owned(), row);
            assert_eq!(before, None, "{name} twice");
        }
    }
    rows
}

#[test]
fn the_page_lists_every_metric_as_the_code_has_it() {
    let expected = catalog::ALL.iter().map(|metric| {
        let heading = match metric.daemon {
            DaemonKind::Both => "Both daemons",
            DaemonKind::Writer => "Writer",
            DaemonKind::Reader => "Reader",
        };
        let label = |label: &catalog::MetricLabel| {
            let values: Vec<String> = label.values.iter().map(|value| format!("`{value}`")).collect();
            let values = values.join(", ");
            format!("`{}`{}{values}", label.name, if values.is_empty() { "" } else { ": " })
        };
        let labels: Vec<String> = metric.labels.iter().map(label).collect();
        let labels = if labels.is_empty() { "–".to_owned() } else { labels.join("; ") };
        let row = [heading.to_owned(), kind_name(metric).to_owned(), labels, metric.help.to_owned()];
        (metric.name.to_owned(), row)
    });
    assert_eq!(documented(), expected.collect());
}

/// A writer and a reader with metrics, which have done some of everything.
struct BusyCluster {
    writer: ScrapedDaemon,
    reader: ScrapedDaemon,
    seq: u64,
    watch: tonic::Streaming<v1::WatchDriftResponse>,
    /// Its connection counts.
    _client: Writer,
    _dir: tempfile::TempDir,
}

/// The commits of a busy cluster: a table and the rows.
const ROWS: u64 = 40;

async fn busy_cluster() -> BusyCluster {
    let dir = tempfile::tempdir().unwrap();
    let writer = ScrapedDaemon::start("driftdb-writer", dir.path(), &[]);
    let mut client = writer.daemon.as_writer().await;
    create_table(&mut client, "t").await.unwrap();
    let mut seq = 0;
    for n in 0..ROWS {
        seq = apply(&mut client, vec![put("t", format!(r#"{{"id":"k{n}","n":{n}}}"#))]).await.unwrap().seq;
    }
    apply(&mut client, vec![put("none", r#"{"id":"a"}"#)]).await.unwrap_err();
    calls::snapshot(&mut client, "t").await.unwrap();
    let reader = ScrapedDaemon::start("driftdb-reader", dir.path(), &[]);
    let mut asked = reader.daemon.as_reader().await;
    assert_eq!(ask(&mut asked, "SELECT * FROM t", seq).await.unwrap().rows().len() as u64, ROWS);
    let request = v1::WatchDriftRequest { tables: vec!["t".to_owned()], ..Default::default() };
    let mut watch = asked.watch_drift(request).await.unwrap().into_inner();
    watch.message().await.unwrap().unwrap();
    BusyCluster { writer, reader, seq, watch, _client: client, _dir: dir }
}

/// The families that a daemon must have: those of the catalog, as far as they need nothing special.
fn check_families(scrape: &Scrape, daemon: DaemonKind) {
    for metric in catalog::ALL {
        let is_own = [DaemonKind::Both, daemon].contains(&metric.daemon);
        let found = scrape.families.get(metric.name);
        if is_own && !metric.is_optional {
            assert!(found.is_some(), "{daemon:?} has no {}", metric.name);
        }
        if let Some((kind, help)) = found {
            assert!(is_own, "{daemon:?} has {}", metric.name);
            assert_eq!((kind.as_str(), help.as_str()), (kind_name(metric), metric.help), "{}", metric.name);
        }
    }
    for name in scrape.families.keys() {
        assert!(catalog::find(name).is_some(), "{name} is not in the catalog");
    }
}

#[tokio::test]
async fn a_scrape_has_every_metric_and_shows_what_has_happened() {
    let BusyCluster { writer, reader, seq, mut watch, _client, _dir } = busy_cluster().await;
    let scrape = writer.scrape().await;
    check_families(&scrape, DaemonKind::Writer);
    let apply_calls =
        |code| [("rpc_method", "driftdb.v1.WriterService/Apply"), ("rpc_response_status_code", code)];
    assert_eq!(scrape.value(CALLS, &apply_calls("OK")), ROWS as f64);
    assert_eq!(scrape.value(CALLS, &apply_calls("NOT_FOUND")), 1.0);
    assert_eq!(scrape.find(CALLS, &apply_calls("CANCELLED")), None);
    let sum = scrape.value("rpc_server_call_duration_seconds_sum", &apply_calls("OK"));
    assert!(sum > 0.0 && sum < 600.0, "{sum}");
    for (name, expected) in [
        (READY, 1.0),
        ("driftdb_standby", 0.0),
        ("driftdb_published_seq", seq as f64),
        ("driftdb_group_commits_sum", seq as f64),
        ("driftdb_tables", 1.0),
        ("driftdb_segments", 1.0),
        ("driftdb_snapshot_files", 1.0),
        ("driftdb_log_tail_bytes", 0.0),
        ("driftdb_snapshot_age_seconds", 0.0),
        ("driftdb_queue_requests", 0.0),
        ("driftdb_disk_full", 0.0),
        ("driftdb_clock_jumped", 0.0),
        ("driftdb_term", 1.0),
        ("driftdb_connections", 1.0),
        ("driftdb_floor_seq", 0.0),
    ] {
        assert_eq!(scrape.value(name, &[]), expected, "{name}");
    }
    assert_eq!(scrape.value("driftdb_jobs_ended_total", &[("outcome", "ok")]), 1.0);
    let groups = scrape.value("driftdb_group_commits_count", &[]);
    assert_eq!(scrape.value("driftdb_fsync_seconds_count", &[]), groups, "a group is synced once");
    assert!(scrape.value("driftdb_network_received_bytes_total", &[]) > 1000.0);
    assert!(scrape.value("driftdb_disk_free_bytes", &[]) > 0.0);
    assert!(scrape.value("process_resident_memory_bytes", &[]) > 1e6);

    let scrape = reader.scrape().await;
    check_families(&scrape, DaemonKind::Reader);
    for (name, expected) in [
        (READY, 1.0),
        ("driftdb_published_seq", seq as f64),
        ("driftdb_applied_seq", seq as f64),
        ("driftdb_lag_commits", 0.0),
        ("driftdb_watchers", 1.0),
        ("driftdb_tables", 1.0),
        // That of the watch.
        ("driftdb_calls", 1.0),
    ] {
        assert_eq!(scrape.value(name, &[]), expected, "{name}");
    }
    let asked = [("rpc_method", "driftdb.v1.ReaderService/Execute"), ("rpc_response_status_code", "OK")];
    assert_eq!(scrape.value(CALLS, &asked), 1.0);
    assert!(scrape.value("driftdb_cache_requests_total", &[]) > 0.0);
    // A stream counts when it ends, here because its client leaves.
    let watched =
        |code| [("rpc_method", "driftdb.v1.ReaderService/WatchDrift"), ("rpc_response_status_code", code)];
    assert_eq!(scrape.find(CALLS, &watched("OK")), None);
    watch.message().await.unwrap().unwrap();
    drop(watch);
    reader
        .scrape_until("the end of the watch", |scrape| scrape.find(CALLS, &watched("CANCELLED")) == Some(1.0))
        .await;
}

#[tokio::test]
async fn both_formats_say_the_same() {
    let BusyCluster { writer, reader, watch, _dir, .. } = busy_cluster().await;
    for daemon in [&writer, &reader] {
        let answer = get(&daemon.metrics, "/metrics", OPEN_METRICS).await;
        assert_eq!(answer.content_type, "application/openmetrics-text; version=1.0.0; charset=utf-8");
        let open_metrics = Scrape::parse(&answer.body, true);
        let prometheus = daemon.scrape().await;
        assert_eq!(
            get(&daemon.metrics, "/metrics", "*/*").await.content_type,
            "text/plain; version=0.0.4; charset=utf-8"
        );
        let names = |scrape: &Scrape| scrape.series.keys().cloned().collect::<Vec<_>>();
        assert_eq!(names(&open_metrics), names(&prometheus));
        let families = open_metrics.families.into_iter().map(|(name, (kind, help))| {
            (if kind == "counter" { format!("{name}_total") } else { name }, (kind, help))
        });
        assert_eq!(families.collect::<BTreeMap<_, _>>(), prometheus.families);
    }
    drop(watch);
}

/// What clients ask for makes no series: neither unknown methods nor names of tables.
#[tokio::test]
async fn a_client_cannot_make_series() {
    let dir = tempfile::tempdir().unwrap();
    let writer = ScrapedDaemon::start("driftdb-writer", dir.path(), &[]);
    let mut client = writer.daemon.as_writer().await;
    let count = |scrape: &Scrape| scrape.series.values().map(Vec::len).sum::<usize>();
    let call = async |n: u32| {
        let mut grpc = tonic::client::Grpc::new(connect(&writer.daemon.url).await);
        grpc.ready().await.unwrap();
        let path = format!("/driftdb.v1.WriterService/Method{n}").parse().unwrap();
        let codec = tonic_prost::ProstCodec::<(), ()>::default();
        let error = grpc.unary::<(), (), _>(tonic::Request::new(()), path, codec).await.unwrap_err();
        assert_eq!(error.code(), Code::Unimplemented);
    };
    call(0).await;
    run(&mut client, r#"INSERT INTO no_table_0 {"id": "a"}"#).await.unwrap_err();
    let before = count(&writer.scrape().await);
    for n in 1..20 {
        call(n).await;
        run(&mut client, &format!(r#"INSERT INTO no_table_{n} {{"id": "a"}}"#)).await.unwrap_err();
    }
    let scrape = writer.scrape().await;
    assert_eq!(count(&scrape), before);
    assert_eq!(scrape.value(CALLS, &[("rpc_method", "_OTHER")]), 20.0);
}

#[tokio::test]
async fn probes_say_whether_a_daemon_is_ready_and_alive() {
    let dir = tempfile::tempdir().unwrap();
    let code = async |daemon: &ScrapedDaemon, path: &str| get(&daemon.metrics, path, "*/*").await.code;
    // A reader without a database, and a standby, are alive and not ready.
    let reader = ScrapedDaemon::start("driftdb-reader", dir.path(), &[]);
    reader.scrape_until("the reader to wait", |scrape| scrape.value("driftdb_standby", &[]) == 1.0).await;
    let answer = get(&reader.metrics, "/readyz", "*/*").await;
    assert_eq!(
        (answer.code, answer.body.as_str()),
        (503, "waiting: the directory contains no database yet\n")
    );
    assert_eq!(code(&reader, "/healthz").await, 200);
    let mut writer = ScrapedDaemon::start("driftdb-writer", dir.path(), &[]);
    writer.scrape_until("the writer to be ready", |scrape| scrape.value(READY, &[]) == 1.0).await;
    let answer = get(&writer.metrics, "/readyz", "*/*").await;
    assert_eq!((answer.code, answer.body.as_str()), (200, "ready\n"));
    reader.scrape_until("the reader to be ready", |scrape| scrape.value(READY, &[]) == 1.0).await;
    assert_eq!(code(&reader, "/readyz").await, 200);
    let standby = ScrapedDaemon::start("driftdb-writer", dir.path(), &["--standby"]);
    standby.scrape_until("the standby to wait", |scrape| scrape.value("driftdb_standby", &[]) == 1.0).await;
    let answer = get(&standby.metrics, "/readyz", "*/*").await;
    assert_eq!((answer.code, answer.body.as_str()), (503, "waiting: another writer holds the database\n"));
    assert_eq!((code(&standby, "/activez").await, code(&writer, "/activez").await), (503, 200));
    assert_eq!((code(&standby, "/healthz").await, standby.scrape().await.value(READY, &[])), (200, 0.0));
    writer.daemon.kill();
    let scrape = standby.scrape_until("the takeover", |scrape| scrape.value(READY, &[]) == 1.0).await;
    assert_eq!((scrape.value("driftdb_term", &[]), scrape.value("driftdb_standby", &[])), (2.0, 0.0));
}

#[tokio::test]
async fn the_port_bounds_what_it_takes_and_answers_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let writer = ScrapedDaemon::start("driftdb-writer", dir.path(), &[]);
    let address = writer.metrics.as_str();
    assert_eq!(get(address, "/", "*/*").await.code, 404);
    assert_eq!(get(address, "/metrics/x", "*/*").await.code, 404);
    let request = |method: &str, more: &str| {
        format!("{method} /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{more}\r\n")
    };
    assert_eq!(send(address, &request("POST", "Content-Length: 0\r\n")).await.unwrap().code, 405);
    let head = send(address, &request("HEAD", "")).await.unwrap();
    assert_eq!((head.code, head.body.as_str()), (200, ""));
    let long = format!("X-Long: {}\r\n", "x".repeat(limits::METRICS_REQUEST_BYTES));
    assert!(send(address, &request("GET", &long)).await.is_ok_and(|answer| answer.code == 431));
    // gRPC does not notice who holds connections here.
    let mut held = Vec::new();
    for _ in 0..limits::METRICS_CONNECTIONS {
        held.push(tokio::net::TcpStream::connect(address).await.unwrap());
    }
    create_table(&mut writer.daemon.as_writer().await, "t").await.unwrap();
}

/// A connection to an address from another one.
async fn connect_from(own: &str, address: &str) -> tokio::net::TcpStream {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind(format!("{own}:0").parse().unwrap()).unwrap();
    socket.connect(address.parse().unwrap()).await.unwrap()
}

/// A supervisor ends a daemon whose probes fail: whoever holds all connections must not make them fail.
#[tokio::test]
async fn who_holds_connections_keeps_no_probe_out() {
    let dir = tempfile::tempdir().unwrap();
    let writer = ScrapedDaemon::start("driftdb-writer", dir.path(), &[]);
    let address = writer.metrics.as_str();
    let mut other = connect_from("127.0.0.9", address).await;
    writer.scrape_until("the writer to be ready", |scrape| scrape.value(READY, &[]) == 1.0).await;
    let mut held = Vec::new();
    for round in 0..5 {
        for host in 2..5 {
            for _ in 0..limits::METRICS_CONNECTIONS {
                held.push(connect_from(&format!("127.0.0.{host}"), address).await);
            }
        }
        for path in ["/healthz", "/readyz", "/activez", "/metrics"] {
            assert_eq!(get(address, path, "*/*").await.code, 200, "{path} in round {round}");
        }
    }
    // The oldest of those with many has given way, not the one that somebody else has.
    let read = tokio::time::timeout(Duration::from_secs(5), held[0].read(&mut [0])).await.unwrap();
    assert!(matches!(read, Ok(0) | Err(_)), "{read:?}");
    other.write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    other.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

/// Neither a small table without a snapshot nor a dropped one is due, however long the writer runs.
#[tokio::test]
async fn only_a_table_that_is_due_has_a_snapshot_age() {
    let dir = tempfile::tempdir().unwrap();
    let writer = ScrapedDaemon::start("driftdb-writer", dir.path(), &[]);
    let mut client = writer.daemon.as_writer().await;
    for table in ["small", "gone"] {
        create_table(&mut client, table).await.unwrap();
        apply(&mut client, vec![put(table, r#"{"id":"a"}"#)]).await.unwrap();
    }
    run(&mut client, "DROP TABLE gone").await.unwrap();
    assert_eq!(writer.scrape().await.value("driftdb_snapshot_age_seconds", &[]), 0.0);
}

#[test]
fn metrics_are_served_to_others_only_if_the_operator_says_so() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["driftdb-writer", "driftdb-reader"] {
        let args = ["--metrics", "0.0.0.0:0"];
        let error = Daemon::try_start(name, dir.path(), &args).unwrap_err();
        assert!(
            error.contains("cannot serve metrics on 0.0.0.0:0")
                && error.contains("--metrics-insecure-listen"),
            "{error}"
        );
        // Each switch is for its own port.
        let of_grpc = ["--metrics", "0.0.0.0:0", "--insecure-listen"];
        assert_eq!(Daemon::try_start(name, dir.path(), &of_grpc).unwrap_err(), error);
        let listening = ["--metrics", "0.0.0.0:0", "--metrics-insecure-listen"];
        drop(Daemon::start(name, dir.path(), &listening));
        let mut open = Command::new(binary(name));
        open.arg("--data").arg(dir.path()).args(["--listen", "0.0.0.0:0"]).args(listening);
        let output = open.output().unwrap();
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(error.contains("cannot listen on 0.0.0.0:0 without TLS and authentication"), "{error}");
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap().to_string();
        let error = Daemon::try_start(name, dir.path(), &["--metrics", &address]).unwrap_err();
        assert!(error.contains(&format!("cannot serve metrics on {address}")), "{error}");
    }
}

/// Prometheus' own tool finds nothing to complain of.
#[tokio::test]
async fn promtool_accepts_a_scrape() {
    use std::io::Write;
    if Command::new("promtool").arg("--version").output().is_err() {
        eprintln!("skipped: promtool is not installed (Debian: prometheus)");
        return;
    }
    let BusyCluster { writer, reader, watch, _dir, .. } = busy_cluster().await;
    for daemon in [&writer, &reader] {
        let text = get(&daemon.metrics, "/metrics", "text/plain").await.body;
        let mut tool = Command::new("promtool");
        tool.args(["check", "metrics"])
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped());
        let mut checked = tool.stderr(std::process::Stdio::piped()).spawn().unwrap();
        checked.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
        let output = checked.wait_with_output().unwrap();
        let said =
            String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && said.trim().is_empty(), "{said}");
    }
    drop(watch);
}
