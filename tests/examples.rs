//! The programs in docs/clients.md are files that run and print the documented output.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use crate::harness::{Daemon, example};
use driftdb::client::Client;
use driftdb::v1;

/// The output of each program on an empty database.
const PRINTED: &str = r#"now: {"id":"o1","status":"paid","amount":100}
then: {"id":"o1","status":"pending","amount":100}
paid: o1
"#;

#[test]
#[expect(clippy::disallowed_methods, reason = "this test reads the sources, not a database")]
fn the_guides_quote_the_examples_as_they_are() {
    let read =
        |path: &str| std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap();
    for (page, language, name) in [
        ("docs/clients.md", "rust", "orders.rs"),
        ("docs/clients.md", "python", "orders.py"),
        ("docs/clients.md", "js", "orders.mjs"),
        ("README.md", "python", "quickstart.py"),
        ("README.md", "js", "quickstart.mjs"),
    ] {
        let text = read(page);
        let opening = format!("\n```{language}\n");
        let mut quoted = text.split(&opening).skip(1).map(|rest| rest.split_once("\n```\n").unwrap().0);
        let example = read(&format!("docs/examples/{name}"));
        let count = quoted.clone().count();
        assert!(
            quoted.any(|block| block == example.trim_end()),
            "{page} does not quote docs/examples/{name}"
        );
        // Every program on the page is run.
        assert!(page != "docs/clients.md" || count == 1, "{count} programs in {page}");
    }
}

#[test]
fn the_example_in_rust_runs() {
    let dir = tempfile::tempdir().unwrap();
    let (writer, reader) = (Daemon::writer(dir.path()), Daemon::reader(dir.path()));
    let mut run = Command::new(example("orders"));
    let output = run.env("DRIFTDB_WRITER", &writer.url).env("DRIFTDB_READER", &reader.url).output().unwrap();
    let printed = String::from_utf8_lossy(&output.stdout);
    assert_eq!(printed, PRINTED, "{}", String::from_utf8_lossy(&output.stderr));
}

#[tokio::test]
async fn the_watch_example_in_rust_resumes_at_the_next_reader() {
    let dir = tempfile::tempdir().unwrap();
    let writer = Daemon::writer(dir.path());
    let (mut asked, next) = (Daemon::reader(dir.path()), Daemon::reader(dir.path()));
    let client = Client::new([&writer.url], [&next.url]);
    let orders =
        v1::CreateTableRequest { table: "orders".into(), primary_key: "id".into(), ..Default::default() };
    client.create_table(orders).await.unwrap();
    client.put("orders", r#"{"id": "o1"}"#).await.unwrap();

    let mut run = Command::new(example("watch"));
    run.env("DRIFTDB_READER", format!("{},{}", asked.url, next.url)).stdout(Stdio::piped());
    let mut program = run.spawn().unwrap();
    let mut lines = BufReader::new(program.stdout.take().unwrap()).lines();
    let mut said = vec![lines.next().unwrap().unwrap()];
    client.put("orders", r#"{"id": "o2"}"#).await.unwrap();
    said.push(lines.next().unwrap().unwrap());
    asked.kill();
    client.patch("orders", "o2", r#"{"status": "paid"}"#).await.unwrap();
    client.delete("orders", "o1").await.unwrap();
    client.execute("DROP TABLE orders", &[]).await.unwrap();
    said.extend(lines.by_ref().take(3).map(Result::unwrap));
    program.kill().unwrap();
    program.wait().unwrap();
    let counts = [(2, 1), (3, 2), (4, 2), (5, 1), (6, 0)];
    let expected = counts.map(|(seq, orders)| format!("as of commit {seq}: {orders} orders"));
    assert_eq!(said, expected);
}
