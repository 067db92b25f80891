//! The dashboard and the alerts: each query names metrics and labels that a scrape has, and a real Prometheus gets an answer to each.

use std::collections::BTreeSet;
use std::time::Duration;

use driftdb::v1;
use driftdb_common::metrics::catalog::{self, MetricKind};
use serde_json::Value;

use super::{directory, has_tool, page, tool};
use crate::harness::calls::{self, ask};
use crate::harness::scrape::{ScrapedDaemon, free_address, get, send};
use crate::harness::*;

/// The queries of the dashboard, each with its panel.
fn dashboard() -> Vec<(String, String)> {
    let dashboard: Value = serde_json::from_str(&page("grafana/driftdb.json")).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let mut ids = BTreeSet::new();
    let mut queries = Vec::new();
    for panel in panels {
        assert!(ids.insert(panel["id"].as_u64().unwrap()), "two panels have one id");
        let title = panel["title"].as_str().unwrap();
        for target in panel["targets"].as_array().into_iter().flatten() {
            queries.push((title.to_owned(), target["expr"].as_str().unwrap().to_owned()));
        }
    }
    assert!(queries.len() > 30);
    queries
}

/// One alert of the rules.
#[derive(Debug, Default)]
struct Alert {
    name: String,
    query: String,
    runbook: String,
    has_summary: bool,
    has_severity: bool,
}

/// The alerts, as the file has them: one key a line.
fn alerts() -> Vec<Alert> {
    let mut alerts: Vec<Alert> = Vec::new();
    for line in page("prometheus/alerts.yml").lines() {
        let line = line.trim();
        if let Some(name) = line.strip_prefix("- alert: ") {
            alerts.push(Alert { name: name.to_owned(), ..Alert::default() });
        }
        let Some(alert) = alerts.last_mut() else { continue };
        if let Some(query) = line.strip_prefix("expr: ") {
            query.clone_into(&mut alert.query);
        } else if let Some(runbook) = line.strip_prefix("runbook: ") {
            runbook.clone_into(&mut alert.runbook);
        }
        alert.has_summary |= line.starts_with("summary: ");
        alert.has_severity |= line.starts_with("labels: {severity: ");
    }
    assert!(alerts.len() >= 8);
    alerts
}

/// The words of a query, without strings and durations: names of metrics, labels and functions.
fn words(query: &str) -> Vec<(String, char)> {
    let outside: String = query.split('"').step_by(2).collect::<Vec<_>>().join("\"\"");
    let mut words = Vec::new();
    let mut rest = outside.as_str();
    while let Some(at) = rest.find(|c: char| c.is_ascii_alphabetic() || c == '$') {
        rest = &rest[at..];
        let end =
            rest.find(|c: char| !(c.is_ascii_alphanumeric() || "_$:".contains(c))).unwrap_or(rest.len());
        let next = rest[end..].trim_start().chars().next().unwrap_or(' ');
        words.push((rest[..end].to_owned(), next));
        rest = &rest[end..];
    }
    words
}

/// The metrics that a query names: what is not a function, a keyword, a label or a duration.
fn metrics_of(query: &str) -> Vec<String> {
    let without_braces = remove_groups(query, '{', '}');
    let without_ranges = remove_groups(&without_braces, '[', ']');
    let mut found = Vec::new();
    let mut is_label_list = false;
    for (word, next) in words(&without_ranges) {
        if ["by", "on", "ignoring", "without"].contains(&word.as_str()) {
            is_label_list = true;
            continue;
        }
        if is_label_list && (next == ',' || next == ')') {
            is_label_list = next == ',';
            continue;
        }
        is_label_list = false;
        let is_operator =
            ["and", "or", "unless", "bool", "sum", "max", "min", "avg", "count"].contains(&word.as_str());
        if next != '(' && !is_operator {
            found.push(word);
        }
    }
    found
}

fn remove_groups(text: &str, open: char, close: char) -> String {
    let mut depth = 0;
    let mut kept = String::new();
    let mut is_quoted = false;
    for c in text.chars() {
        is_quoted ^= c == '"';
        depth += usize::from(c == open && !is_quoted);
        if depth == 0 {
            kept.push(c);
        }
        depth -= usize::from(c == close && !is_quoted && depth > 0);
    }
    kept
}

/// The labels that a query names in selectors: `name`, `name!`, and so on before `=`.
fn labels_of(query: &str) -> Vec<String> {
    let groups = query.split('{').skip(1).filter_map(|rest| rest.split('}').next());
    let names = groups.flat_map(|group| group.split(',')).filter_map(|matcher| {
        let name = matcher.split(['=', '!']).next()?.trim();
        (!name.is_empty() && name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_')).then_some(name)
    });
    names.map(str::to_owned).collect()
}

#[test]
fn the_reader_of_queries_sees_metrics_and_labels() {
    let query = r#"sum by (a, b) (rate(x_total{c="y", d=~"z"}[5m])) / on (a) y or vector(0) > 0.5 * time()"#;
    assert_eq!(metrics_of(query), ["x_total", "y"]);
    assert_eq!(labels_of(query), ["c", "d"]);
}

#[test]
fn every_query_names_metrics_and_labels_that_exist() {
    let alerts = alerts().into_iter().map(|alert| (alert.name, alert.query));
    for (place, query) in dashboard().into_iter().chain(alerts) {
        let metrics = metrics_of(&query);
        assert!(!metrics.is_empty(), "{place}: {query}");
        let mut labels = vec!["database", "instance", "job", "le"];
        for name in metrics.iter().filter(|name| *name != "up") {
            let metric = catalog::find(name).or_else(|| {
                let family =
                    ["_bucket", "_sum", "_count"].iter().find_map(|ending| name.strip_suffix(ending))?;
                catalog::find(family).filter(|metric| matches!(metric.kind, MetricKind::Histogram(_)))
            });
            let metric = metric.unwrap_or_else(|| panic!("{place}: no metric {name}: {query}"));
            labels.extend(metric.labels.iter().map(|label| label.name));
            let is_rate =
                query.contains(&format!("rate({name}")) || query.contains(&format!("increase({name}"));
            let is_sampled = ["driftdb_published_seq"].contains(&name.as_str());
            if metric.kind == MetricKind::Gauge && !is_sampled {
                assert!(!is_rate, "{place}: a rate of a gauge: {query}");
            } else if metric.kind == MetricKind::Counter {
                assert!(is_rate, "{place}: a counter without a rate: {query}");
            }
        }
        for label in labels_of(&query) {
            assert!(labels.contains(&label.as_str()), "{place}: no label {label}: {query}");
        }
    }
}

#[test]
fn every_alert_has_a_runbook() {
    let runbooks = page("runbooks.md");
    let headings: BTreeSet<&str> = runbooks.lines().filter_map(|line| line.strip_prefix("## ")).collect();
    let alerts = alerts();
    let names: BTreeSet<&str> = alerts.iter().map(|alert| alert.name.as_str()).collect();
    assert_eq!(names, headings, "alerts, and sections of the runbooks");
    for alert in &alerts {
        let expected = format!("docs/operations/runbooks.md#{}", alert.name.to_lowercase());
        assert_eq!(alert.runbook, expected);
        assert!(alert.has_summary && alert.has_severity, "{alert:?}");
    }
}

#[test]
fn promtool_accepts_the_rules_and_the_configuration() {
    if !has_tool("promtool", "--version") {
        return;
    }
    let rules = directory().join("prometheus/alerts.yml").display().to_string();
    tool("promtool", &["check", "rules", "--lint-fatal", &rules]);
    let config = directory().join("prometheus/prometheus.yml").display().to_string();
    tool("promtool", &["check", "config", &config]);
}

/// The alerts with two databases in one Prometheus, whatever the names of jobs.
#[test]
fn alerts_keep_databases_apart() {
    if !has_tool("promtool", "--version") {
        return;
    }
    let held = tempfile::tempdir().unwrap();
    std::fs::write(held.path().join("alerts.yml"), page("prometheus/alerts.yml")).unwrap();
    let test = held.path().join("alerts_test.yml");
    std::fs::write(&test, include_str!("alerts_test.yml")).unwrap();
    tool("promtool", &["test", "rules", &test.display().to_string()]);
}

/// Some of everything that a query asks for.
async fn work(writer: &ScrapedDaemon, reader: &ScrapedDaemon) {
    let (mut write, mut read) = (writer.daemon.as_writer().await, reader.daemon.as_reader().await);
    let token = apply(&mut write, vec![put("t", r#"{"id":"a"}"#)]).await.unwrap();
    ask(&mut read, "SELECT * FROM t", token.seq).await.unwrap();
    apply(&mut write, vec![put("none", r#"{"id":"a"}"#)]).await.unwrap_err();
}

/// A Prometheus server, ended when it is dropped.
struct PrometheusServer(std::process::Child, String);

impl Drop for PrometheusServer {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl PrometheusServer {
    /// The data of an answer of its API.
    async fn ask(&self, path: &str) -> Value {
        let answer = get(&self.1, path, "application/json").await;
        // The body is sent in chunks if it is long.
        let from = answer.body.find('{').unwrap_or_else(|| panic!("{path}: {answer:?}"));
        let to = answer.body.rfind('}').unwrap();
        let text: String =
            answer.body[from..=to].split("\r\n").filter(|part| !is_chunk_length(part)).collect();
        let answer: Value =
            serde_json::from_str(&text).unwrap_or_else(|error| panic!("{path}: {error}: {text}"));
        assert_eq!(answer["status"], "success", "{path}: {answer}");
        answer["data"].clone()
    }

    async fn query(&self, query: &str) -> Vec<Value> {
        let encoded: String = query.bytes().map(|b| format!("%{b:02X}")).collect();
        self.ask(&format!("/api/v1/query?query={encoded}")).await["result"].as_array().unwrap().clone()
    }
}

fn is_chunk_length(part: &str) -> bool {
    part.len() <= 8 && u32::from_str_radix(part, 16).is_ok()
}

/// With Debian's package `prometheus`: a server scrapes both daemons, evaluates the rules, and answers every query of the dashboard.
#[tokio::test]
#[ignore = "slow"]
async fn a_prometheus_answers_every_query_of_the_dashboard() {
    if !has_tool("prometheus", "--version") {
        return;
    }
    let (dir, config) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let bucket = config.path().join("bucket").display().to_string();
    let writer = ScrapedDaemon::start("driftdb-writer", dir.path(), &["--bucket", &bucket]);
    create_table(&mut writer.daemon.as_writer().await, "t").await.unwrap();
    let reader = ScrapedDaemon::start("driftdb-reader", dir.path(), &[]);
    calls::snapshot(&mut writer.daemon.as_writer().await, "t").await.unwrap();
    let request = v1::WatchDriftRequest { tables: vec!["t".to_owned()], ..Default::default() };
    let _watch = reader.daemon.as_reader().await.watch_drift(request).await.unwrap();
    // The configuration of the documentation, with this test's targets and a short interval.
    let text = page("prometheus/prometheus.yml")
        .replace("15s", "1s")
        .replace("writer:9401", &writer.metrics)
        .replace("\"reader-1:9402\", \"reader-2:9402\"", &format!("{:?}", reader.metrics));
    let path = config.path().join("prometheus.yml");
    std::fs::write(&path, text).unwrap();
    std::fs::write(config.path().join("alerts.yml"), page("prometheus/alerts.yml")).unwrap();
    let address = free_address();
    let mut command = std::process::Command::new("prometheus");
    command.arg(format!("--config.file={}", path.display())).arg(format!("--web.listen-address={address}"));
    command
        .arg(format!("--storage.tsdb.path={}", config.path().join("data").display()))
        .arg("--log.level=warn");
    let server = PrometheusServer(command.spawn().unwrap(), address);
    let ready = "GET /-/ready HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    while !send(&server.1, ready).await.is_ok_and(|answer| answer.code == 200) {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let queries: Vec<(String, String)> = dashboard()
        .into_iter()
        .map(|(panel, query)| (panel, query.replace("$__rate_interval", "10s").replace("$instance", ".*")))
        .collect();
    let mut missing = queries.clone();
    for _ in 0..60 {
        work(&writer, &reader).await;
        let mut still = Vec::new();
        for (panel, query) in missing {
            if server.query(&query).await.is_empty() {
                still.push((panel, query));
            }
        }
        missing = still;
        if missing.is_empty() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    assert!(missing.is_empty(), "no data: {missing:#?}");
    for _ in 0..60 {
        let rules = server.ask("/api/v1/rules").await;
        let rules = rules["groups"][0]["rules"].as_array().unwrap().clone();
        assert_eq!(rules.len(), alerts().len());
        if rules.iter().all(|rule| rule["health"] == "ok") {
            // No alert fires for daemons that are well.
            let active: Vec<_> = rules.iter().filter(|rule| rule["state"] == "firing").collect();
            assert!(active.is_empty(), "{active:#?}");
            return;
        }
        assert!(!rules.iter().any(|rule| rule["health"] == "err"), "{rules:#?}");
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    panic!("Prometheus has not evaluated the rules");
}
