//! `driftctl bench` on short histories prints every figure, and checks every answer that it measures.

#![expect(clippy::disallowed_methods, reason = "this test looks at files that a program wrote")]

use std::collections::BTreeSet;
use std::process::Command;

use crate::harness::binary;
use serde_json::Value;

#[test]
#[ignore = "slow"]
fn bench_prints_every_figure_of_long_histories_and_many_tables() {
    let dir = tempfile::tempdir().unwrap();
    let mut command = Command::new(binary("driftctl"));
    command.args(["bench", "--phases", "echo,WA,history,T500", "--history", "1000,3000", "--runs", "2"]);
    command.args(["--seconds", "1", "--clients", "4", "--tables", "5", "--table-events", "50", "--dir"]);
    let output = command.arg(dir.path()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let mut found = BTreeSet::new();
    for line in String::from_utf8(output.stdout).unwrap().lines() {
        let figure: Value = serde_json::from_str(line).unwrap();
        let text = |field: &str| figure[field].as_str().unwrap_or_default().to_owned();
        assert!(figure["value"].is_f64() && !text("unit").is_empty(), "{line}");
        assert!(figure["runs"].as_array().is_some_and(|runs| !runs.is_empty()), "{line}");
        let events = figure["events"].as_u64().unwrap_or_default();
        assert!(found.insert((events, text("phase"), text("metric"))), "told twice: {line}");
    }
    let mut wanted = Vec::new();
    for events in [1000, 3000] {
        for phase in ["R1", "R2", "R3", "R4.now", "R4.asof", "R5"] {
            for metric in ["p50", "p99", "p50_of_echo", "p50_above_echo"] {
                wanted.push((events, format!("{phase}.cold"), metric));
                wanted.push((events, format!("{phase}.warm"), metric));
            }
        }
        let others = ["load throughput", "load time", "disk bytes", "disk of_snapshots", "echo.c1 p50"];
        for figure in others.into_iter().chain(["ST first_answer", "SN time", "SN written"]) {
            let (phase, metric) = figure.split_once(' ').unwrap();
            wanted.push((events, phase.to_owned(), metric));
        }
        // The output mentions compaction, and a start without the page cache, even if they cannot be measured.
        for phase in ["CO", "ST.cold"] {
            let measured = found.iter().any(|(of, name, _)| (*of, name.as_str()) == (events, phase));
            assert!(measured || said.contains(&format!("skipped {phase}")), "{phase}: {said}");
        }
    }
    for metric in ["load", "disk", "first_answer"] {
        wanted.push((0, "T500".to_owned(), metric));
    }
    wanted.push((0, "T500.c4".to_owned(), "throughput"));
    for metric in ["events", "send_to_delivered_p50", "send_to_delivered_p99", "ack_to_delivered_p50"] {
        wanted.extend(["WA", "WA.fan"].map(|phase| (0, phase.to_owned(), metric)));
    }
    for (events, phase, metric) in wanted {
        assert!(found.contains(&(events, phase.clone(), metric.to_owned())), "{events} {phase} {metric}");
    }
    if cfg!(target_os = "linux") {
        for (events, phase, metric) in [(1000, "ST", "memory"), (3000, "R3", "memory"), (0, "T500", "memory")]
        {
            assert!(found.contains(&(events, phase.to_owned(), metric.to_owned())), "{phase} {metric}");
        }
    }
    let compared = said.lines().find(|line| line.starts_with("R3.warm p50, µs"));
    assert_eq!(compared.map(|line| line.split_whitespace().count()), Some(6), "{said}");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "bench removes its files");
}
