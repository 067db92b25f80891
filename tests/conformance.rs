//! The Rust client does what tests/clients/conformance.json says that every client must do.

#![expect(clippy::disallowed_methods, reason = "this test reads the scenarios, not a database")]

mod proxy;
mod scenario;
mod scenario_cluster;
mod steps;

use std::path::Path;

use driftdb::client::{Client, reason};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use scenario::Scenario;

/// How many scenarios run at the same time.
const AT_ONCE: usize = 4;

fn conformance() -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients/conformance.json");
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

#[test]
fn addresses_are_understood_as_in_other_languages() {
    for case in conformance()["addresses"].as_array().unwrap() {
        let url = case["url"].as_str().unwrap();
        let found = match Client::open(url) {
            Ok(client) => {
                let scheme = if case["tls"] == json!(true) { "https://" } else { "http://" };
                let hosts = |addresses: Vec<&str>| -> Vec<String> {
                    addresses.iter().map(|address| address.strip_prefix(scheme).unwrap().to_owned()).collect()
                };
                let (writers, readers) =
                    (hosts(client.writers().collect()), hosts(client.readers().collect()));
                json!({ "url": url, "writers": writers, "readers": readers, "tls": scheme == "https://" })
            }
            Err(status) => json!({ "url": url, "error": reason(&status) }),
        };
        assert_eq!(&found, case);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "slow"]
async fn the_rust_client_does_what_every_client_must_do() {
    let conformance = conformance();
    let only = std::env::var("DRIFTDB_SCENARIO").unwrap_or_default();
    let mut running = JoinSet::new();
    let mut done = 0;
    for scenario in conformance["scenarios"].as_array().unwrap() {
        if !scenario["name"].as_str().unwrap().contains(&only) {
            continue;
        }
        if running.len() == AT_ONCE {
            running.join_next().await.unwrap().unwrap();
        }
        running.spawn(Scenario::run(scenario.clone()));
        done += 1;
    }
    while let Some(ended) = running.join_next().await {
        ended.unwrap();
    }
    assert!(done > 0);
}
