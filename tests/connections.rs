//! Clients that only connect take neither the descriptors nor the processor of a daemon: others go on, and so do its files.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::time::Duration;

use crate::harness::*;

/// Few enough that the clients of a test could take them all.
const OPEN_FILES: usize = 64;
/// More than the daemon can have open.
const SILENT: usize = 120;

/// Starts a daemon that may have few files open. Its log goes to `log`.
fn start_with_few_files(name: &str, data: &std::path::Path, log: &std::path::Path, args: &[&str]) -> Daemon {
    let mut command = Command::new("sh");
    let script = format!("ulimit -n {OPEN_FILES}; exec \"$0\" \"$@\" 2>{}", log.display());
    command.args(["-c", &script]).arg(binary(name)).arg("--data").arg(data);
    command.args(["--listen", "127.0.0.1:0"]).args(args);
    Daemon::spawn(command).unwrap()
}

fn connect_silently(daemon: &Daemon) -> Vec<TcpStream> {
    let address = daemon.url.trim_start_matches("http://");
    (0..SILENT).filter_map(|_| TcpStream::connect(address).ok()).collect()
}

#[expect(clippy::disallowed_methods, reason = "reads what the system says of a process")]
fn cpu_ticks(daemon: &Daemon) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", daemon.pid())).unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

#[expect(clippy::disallowed_methods, reason = "looks at a log file")]
fn size(log: &std::path::Path) -> u64 {
    std::fs::metadata(log).unwrap().len()
}

#[tokio::test]
async fn silent_clients_take_neither_files_nor_connections_from_others() {
    let dir = tempfile::tempdir().unwrap();
    let (data, log) = (dir.path().join("data"), dir.path().join("log"));
    // Small segments: the writer opens new files all the time.
    let daemon = start_with_few_files("driftdb-writer", &data, &log, &["--segment-bytes", "65536"]);
    let mut working = daemon.as_writer().await;
    create_table(&mut working, "t").await.unwrap();
    let silent = connect_silently(&daemon);
    let before = cpu_ticks(&daemon);
    for n in 0..40 {
        let document = format!(r#"{{"id":"{n}","p":"{}"}}"#, "x".repeat(10_000));
        apply(&mut working, vec![insert("t", document)]).await.unwrap();
    }
    create_table(&mut working, "u").await.unwrap();
    // A new client, too, once the silent ones have had their second.
    let mut new = loop {
        match tonic::transport::Endpoint::from_shared(daemon.url.clone()).unwrap().connect().await {
            Ok(channel) => {
                let mut new = Writer::new(channel);
                if create_table(&mut new, "v").await.is_ok() {
                    break new;
                }
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    };
    apply(&mut new, vec![insert("v", r#"{"id":"1"}"#)]).await.unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(cpu_ticks(&daemon) - before < 200, "the daemon spins");
    assert!(size(&log) < 16 << 10, "the daemon floods its log");
    drop(silent);
}

#[tokio::test]
async fn silent_clients_do_not_keep_others_from_a_reader() {
    let dir = tempfile::tempdir().unwrap();
    let (data, log) = (dir.path().join("data"), dir.path().join("log"));
    let writer = Daemon::writer(&data);
    create_table(&mut writer.as_writer().await, "t").await.unwrap();
    let daemon = start_with_few_files("driftdb-reader", &data, &log, &[]);
    let mut working = daemon.as_reader().await;
    let _silent = connect_silently(&daemon);
    for _ in 0..10 {
        assert!(select_at(&mut working, "t", 1).await.unwrap().is_empty());
    }
    assert!(size(&log) < 16 << 10, "the daemon floods its log");
}

#[tokio::test]
#[ignore = "slow"]
async fn a_connection_without_a_handshake_is_closed() {
    let dir = tempfile::tempdir().unwrap();
    let daemon = Daemon::writer(dir.path());
    let address = daemon.url.trim_start_matches("http://").to_owned();
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    let mut closed = Vec::new();
    // Nothing; half a preface; a preface; half the header of the settings.
    for sent in [&[][..], &preface[..10], &preface[..], &[&preface[..], &[0, 0, 0, 4]].concat()] {
        let (address, sent) = (address.clone(), sent.to_vec());
        closed.push(tokio::task::spawn_blocking(move || {
            let mut stream = TcpStream::connect(address).unwrap();
            stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
            stream.write_all(&sent).unwrap();
            // The daemon's own settings, then the end.
            let mut received = Vec::new();
            match stream.read_to_end(&mut received) {
                Ok(_) => true,
                Err(error) => error.kind() == std::io::ErrorKind::ConnectionReset,
            }
        }));
    }
    for closed in closed {
        assert!(closed.await.unwrap());
    }
    // A client that has finished its handshake may be silent for longer.
    let mut writer = daemon.as_writer().await;
    tokio::time::sleep(Duration::from_secs(12)).await;
    create_table(&mut writer, "t").await.unwrap();
}
