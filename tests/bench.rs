//! `driftctl bench` on short histories prints every figure, and checks every answer that it measures.

#![expect(clippy::disallowed_methods, reason = "this test looks at files that a program wrote")]

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use crate::harness::binary;
use serde_json::Value;

/// The figures by phase, size and metric, and what was printed on stderr.
type Figures = BTreeMap<(String, u64, String), f64>;

fn bench(dir: &Path, options: &[&str]) -> (Figures, String) {
    let mut command = Command::new(binary("driftctl"));
    command.args(["bench", "--seconds", "1", "--clients", "4"]).args(options).arg("--dir").arg(dir);
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{said}");
    let mut found = Figures::new();
    for line in String::from_utf8(output.stdout).unwrap().lines() {
        let figure: Value = serde_json::from_str(line).unwrap();
        let text = |field: &str| figure[field].as_str().unwrap_or_default().to_owned();
        assert!(figure["value"].is_f64() && !text("unit").is_empty(), "{line}");
        assert!(figure["runs"].as_array().is_some_and(|runs| !runs.is_empty()), "{line}");
        let size = figure["events"].as_u64().or(figure["size"].as_u64()).unwrap_or_default();
        let value = figure["value"].as_f64().unwrap();
        assert!(found.insert((text("phase"), size, text("metric")), value).is_none(), "told twice: {line}");
    }
    (found, said)
}

fn assert_has(found: &Figures, size: u64, phase: &str, metrics: &[&str]) {
    for metric in metrics {
        let key = (phase.to_owned(), size, (*metric).to_owned());
        assert!(found.contains_key(&key), "{phase} {size} {metric}: {found:#?}");
    }
}

#[test]
#[ignore = "slow"]
fn every_phase_is_measured_on_a_loaded_store() {
    let dir = tempfile::tempdir().unwrap();
    let (found, said) = bench(dir.path(), &["--history", "20000", "--runs", "1"]);
    let sample = ["throughput", "p50", "p99"];
    for phase in
        ["W1", "W2", "W8", "W.stream", "R1.c1", "R1.c4", "R2.c1", "R2.c4", "R3", "R4.now", "R4.asof", "R5"]
    {
        assert_has(&found, 0, phase, &sample);
    }
    for ceiling in ["echo.c1", "echo.c4", "log.c1", "log.c4"] {
        assert_has(&found, 0, ceiling, &sample);
    }
    for (phase, ratio) in [
        ("W1", "throughput_of_log"),
        ("W2", "p99_of_log"),
        ("W3", "throughput_of_log.batch"),
        ("R1.c1", "p50_of_echo"),
        ("R1.c4", "throughput_of_echo"),
        ("R3", "p50_above_echo"),
        ("R4.asof", "p50_of_echo"),
    ] {
        assert_has(&found, 0, phase, &[ratio]);
    }
    for phase in ["R1", "R2", "R3", "R4.now", "R4.asof", "R5"] {
        assert_has(&found, 0, &format!("{phase}.cold"), &["p50"]);
    }
    for phase in ["WA", "WA.fan"] {
        assert_has(
            &found,
            0,
            phase,
            &["send_to_delivered_p50", "send_to_delivered_p99", "ack_to_delivered_p50"],
        );
    }
    assert_has(&found, 0, "memory", &["reader_formula", "writer_formula"]);
    assert_has(&found, 0, "disk", &["bytes", "of_snapshots"]);
    assert_has(&found, 0, "ST", &["first_answer"]);
    assert_has(&found, 0, "SN", &["time", "written"]);
    assert_has(&found, 0, "CO", &["time", "disk_before", "disk_after"]);
    assert!(found.keys().any(|(phase, ..)| phase == "ST.cold") || said.contains("skipped ST.cold"), "{said}");
    if cfg!(target_os = "linux") {
        assert_has(&found, 0, "memory", &["reader", "writer", "both", "reader_of_formula"]);
        for phase in
            ["W1", "W2", "W3", "W8", "W.stream", "R1.c4", "R3", "R4.now", "R5", "WA", "WA.fan", "SN", "CO"]
        {
            assert_has(&found, 0, phase, &["server_cpu"]);
        }
    }
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "bench removes its files");
}

#[test]
#[ignore = "slow"]
fn what_tls_and_a_token_cost_is_measured_beside_a_side_without() {
    let dir = tempfile::tempdir().unwrap();
    let (found, said) = bench(dir.path(), &["--tls", "--history", "2000", "--runs", "2"]);
    for phase in ["W2", "R1.c1", "R1"] {
        assert_has(&found, 0, &format!("{phase}.plain"), &["throughput", "p50", "p99"]);
        assert_has(
            &found,
            0,
            &format!("{phase}.tls"),
            &["throughput", "throughput_of_plain", "p50_of_plain"],
        );
    }
    println!("{said}");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "bench removes its files");
}

#[test]
#[ignore = "slow"]
fn a_bucket_is_measured_beside_a_side_without() {
    let (dir, bucket) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let url = format!("file://{}", bucket.path().display());
    let (found, said) = bench(dir.path(), &["--bucket", &url, "--history", "2000", "--runs", "2"]);
    println!("{found:#?}");
    for side in ["plain", "async", "sync"] {
        assert_has(&found, 0, &format!("W2.{side}"), &["throughput", "p50", "p99"]);
    }
    for side in ["async", "sync"] {
        assert_has(&found, 0, &format!("W2.{side}"), &["throughput_of_plain", "p50_of_plain"]);
        assert_has(&found, 0, &format!("takeover.{side}"), &["first_write", "lost", "lost_time"]);
    }
    assert_has(&found, 0, "lag.async", &["p50", "max"]);
    for phase in ["ST.bucket", "ST.bucket_parts"] {
        assert_has(&found, 0, phase, &["first_answer", "copied"]);
    }
    assert_has(
        &found,
        0,
        "requests",
        &["writer_puts", "writer_puts_cost", "reader_gets", "reader_gets_cost"],
    );
    let value = |phase: &str, metric: &str| found[&(phase.to_owned(), 0, metric.to_owned())];
    assert_eq!(value("takeover.sync", "lost"), 0.0, "{said}");
    assert!(value("requests", "writer_puts") > 0.0);
    let mut open = vec![bucket.path().to_owned()];
    while let Some(path) = open.pop() {
        assert!(path.is_dir(), "bench leaves {}", path.display());
        open.extend(std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()));
    }
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "bench removes its files");
}

#[test]
#[ignore = "slow"]
fn a_bench_does_not_take_over_the_bucket_of_the_environment() {
    let (dir, bucket) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut command = Command::new(binary("driftctl"));
    command.args(["bench", "--seconds", "1", "--runs", "1", "--history", "200", "--phases", "W3"]);
    command.env("DRIFTDB_BUCKET", bucket.path()).env("DRIFTDB_BUCKET_ACK", "sync");
    let output = command.arg("--dir").arg(dir.path()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(std::fs::read_dir(bucket.path()).unwrap().count(), 0, "a writer has shipped to it");
}

#[test]
#[ignore = "slow"]
fn histories_of_several_lengths_are_shown_side_by_side() {
    let dir = tempfile::tempdir().unwrap();
    let phases = ["--phases", "W3,R3,T500", "--tables", "5", "--table-events", "50"];
    let (found, said) =
        bench(dir.path(), &[&phases[..], &["--history", "1000,3000", "--runs", "2"]].concat());
    for events in [1000, 3000] {
        assert_has(&found, events, "R3", &["p50"]);
        assert_has(&found, events, "W3", &["throughput"]);
    }
    assert_has(&found, 0, "T500", &["load", "disk", "first_answer"]);
    assert_has(&found, 0, "T500.c4", &["throughput"]);
    let compared = said.lines().find(|line| line.starts_with("R3 p50, µs"));
    assert_eq!(compared.map(|line| line.split_whitespace().count()), Some(6), "{said}");
}

#[test]
#[ignore = "slow"]
fn growth_draws_a_curve_for_each_figure() {
    let dir = tempfile::tempdir().unwrap();
    let drawing = tempfile::tempdir().unwrap();
    for (axis, scale, sizes, phase) in [
        ("events", "0.0002", vec![200, 400, 1000, 2000], "R4.asof.cold"),
        ("tables", "0.1", vec![1, 2, 6], "W"),
        ("readers", "0.25", vec![0, 1, 2], "W2"),
        ("watchers", "0.02", vec![1, 2, 20], "W2.idle"),
        ("documents", "0.1", vec![200, 410, 1638, 6554], "W2"),
    ] {
        let svg = drawing.path().join(format!("{axis}.svg"));
        let options =
            ["--growth", axis, "--scale", scale, "--history", "2000", "--svg", svg.to_str().unwrap()];
        let (found, _) = bench(dir.path(), &options);
        for size in sizes {
            let metric = if phase.starts_with('R') { "p50" } else { "throughput" };
            assert_has(&found, size, phase, &[metric]);
        }
        let drawn = std::fs::read_to_string(&svg).unwrap();
        assert!(drawn.starts_with("<svg ") && drawn.contains("<polyline "), "{drawn}");
    }
}

#[test]
#[ignore = "slow"]
fn a_sustained_run_tells_each_interval() {
    let dir = tempfile::tempdir().unwrap();
    let (found, _) = bench(dir.path(), &["--sustain", "4", "--history", "2000"]);
    for interval in 1..=4 {
        assert_has(&found, interval, "sustain", &["throughput", "reads", "longest_pause"]);
    }
    assert!(found.keys().any(|(_, _, metric)| metric == "last_of_second"), "{found:#?}");
}
