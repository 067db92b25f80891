//! TLS: every client works with it, a client or daemon that is not trusted is told why, and nobody listens to the world by accident.

#![expect(clippy::disallowed_methods, reason = "this test looks at its own files")]

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::time::Duration;

use driftdb::client::{Client, ClientOptions, ClientTls, WatchEvent, reason};
use driftdb::v1;
use time::Duration as TimeSpan;
use tonic::Code;

use crate::harness::certificates::{TestCa, put};
use crate::harness::secure_cluster::{SecureCluster, SecureFiles, stderr};
use crate::harness::{Cluster, Daemon, apply, binary, connect, create_table, insert};

/// Every command that talks to daemons. Words in capitals are names of files.
const COMMANDS: &[&[&str]] = &[
    &["sql", "CREATE TABLE orders (pk=id, INDEX(status))"],
    &["sql", r#"INSERT INTO orders {"id": "o1", "status": "new"}"#],
    &["sql", r#"PATCH orders KEY "o1" SET {"status": "paid"}"#],
    &["ingest", "-t", "orders", "--file", "FILE"],
    &["apply", "--file", "CHANGES"],
    &["get", "orders", "o1"],
    &["select", "orders", "--where", r#"status = "paid""#],
    &["drift", "orders", "o1"],
    &["diff", "orders", "--from", "@seq:2"],
    &["watch", "-t", "orders", "--from", "@seq:1", "--until", "@seq:3"],
    &["revert", "orders", "o1", "--to", "@seq:2"],
    &["snapshot", "orders"],
    &["compact", "orders", "--dry-run"],
    &["verify"],
    &["clock"],
    &["status"],
    &["dump", "DUMP"],
    &["sql", "DROP TABLE orders"],
    &["load", "DUMP"],
];

#[test]
fn every_command_of_driftctl_works_with_tls() {
    let cluster = SecureCluster::start();
    let path = |name: &str| cluster.dir.path().join(name).display().to_string();
    std::fs::write(path("rows.jsonl"), "{\"id\":\"o2\",\"status\":\"new\"}\n").unwrap();
    let change = r#"{"ops":[{"op":"put","table":"orders","key":"o3","doc":{"id":"o3","status":"new"}}]}"#;
    std::fs::write(path("changes.jsonl"), format!("{change}\n")).unwrap();
    for args in COMMANDS {
        let args = args.iter().map(|&argument| match argument {
            "FILE" => path("rows.jsonl"),
            "CHANGES" => path("changes.jsonl"),
            "DUMP" => path("dump.jsonl"),
            other => other.to_owned(),
        });
        let args: Vec<String> = args.collect();
        cluster.run(&args.iter().map(String::as_str).collect::<Vec<_>>());
    }
    // The shell, too, and options instead of the environment; addresses without a scheme.
    let client = |file: &std::path::Path| file.display().to_string();
    let mut shell = Command::new(binary("driftctl"))
        .args([
            "--tls-ca",
            &client(&cluster.trusted),
            "shell",
            "--tls-cert",
            &client(&cluster.client.certificate),
        ])
        .args(["--tls-key", &client(&cluster.client.key)])
        .args(["--writer", cluster.writer_daemon.url.trim_start_matches("https://")])
        .args(["--reader", cluster.reader_daemon.url.trim_start_matches("https://")])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    shell.stdin.take().unwrap().write_all(b"SELECT COUNT(*) FROM orders;\n").unwrap();
    let output = shell.wait_with_output().unwrap();
    assert!(output.status.success());
    assert_eq!(String::from_utf8_lossy(&output.stdout), "{\"count\":3}\n");
}

#[test]
#[ignore = "slow"]
fn bench_measures_a_deployment_with_tls() {
    let cluster = SecureCluster::start();
    let dir = cluster.dir.path().display().to_string();
    let phases = ["bench", "--history", "2000", "--runs", "1", "--seconds", "1", "--phases", "W1,R1"];
    let printed = cluster.run(&[&phases[..], &["--dir", &dir]].concat());
    assert!(printed.contains("\"W1"), "{printed}");
}

#[tokio::test]
async fn the_rust_client_writes_reads_and_watches_with_tls() {
    let cluster = SecureCluster::start();
    let client = cluster.client_with(cluster.tls());
    let table = v1::CreateTableRequest { table: "t".into(), primary_key: "id".into(), ..Default::default() };
    client.create_table(table).await.unwrap();
    let request = v1::WatchDriftRequest { tables: vec!["t".into()], ..Default::default() };
    let mut watch = client.watch(request);
    assert!(matches!(watch.next().await.unwrap(), Some(WatchEvent::Opened(_))));
    client.insert("t", r#"{"id":"1"}"#).await.unwrap();
    assert_eq!(client.get("t", "1").await.unwrap().unwrap().json(), Some(r#"{"id":"1"}"#));
    let commit = loop {
        match watch.next().await.unwrap().unwrap() {
            WatchEvent::Commit(commit) => break commit,
            other => assert!(!matches!(other, WatchEvent::Interrupted(_)), "{other:?}"),
        }
    };
    assert_eq!(commit.seq, 2);
    let (writer, reader) = (cluster.writer_security().await, cluster.reader_security().await);
    assert!(writer.tls && writer.client_certificates && reader.tls, "{writer:?}");
    assert_eq!((writer.warning.as_str(), writer.handshakes_failed), ("", 0));
}

#[tokio::test]
async fn a_daemon_without_client_cas_serves_clients_without_certificates() {
    let files = SecureFiles::new();
    let daemon = files.start("driftdb-writer", &files.options_without_clients());
    let tls = ClientTls::new(&files.trusted);
    let options = ClientOptions { tls: Some(tls), ..ClientOptions::default() };
    let status = Client::with(options, [&daemon.url], [""; 0]).writer_status().await.unwrap();
    let security = status.security.unwrap();
    assert!(security.tls && !security.client_certificates);
}

/// Each client that must not get in, and what it is told.
fn refused_clients(cluster: &SecureCluster) -> Vec<(&'static str, ClientTls, &'static str)> {
    let dir = cluster.dir.path();
    let stranger = TestCa::new("another CA");
    let strange_ca = dir.join("strange-ca.pem");
    put(&strange_ca, &stranger.pem);
    let of_stranger = stranger.client(dir, "stranger", TimeSpan::hours(1));
    let expired = cluster.ca.client(dir, "expired", TimeSpan::hours(-1));
    let tls = || cluster.tls();
    vec![
        ("no certificate", ClientTls::new(&cluster.trusted), "it requires a client certificate"),
        (
            "wrong CA",
            of_stranger.of_client(&cluster.trusted),
            "it refuses the certificate of this client: UnknownCA",
        ),
        (
            "expired",
            expired.of_client(&cluster.trusted),
            "it refuses the certificate of this client: CertificateExpired",
        ),
        (
            "server as client",
            cluster.server.of_client(&cluster.trusted),
            "it refuses the certificate of this client",
        ),
        (
            "daemon not trusted",
            cluster.client.of_client(&strange_ca),
            "its certificate is not from a CA that this client trusts",
        ),
        (
            "wrong name",
            tls().with_server_name("db.example.org"),
            r#"its certificate is not for the name "db.example.org""#,
        ),
        ("no file", ClientTls::new(dir.join("none.pem")), "none.pem: No such file"),
        ("no certificate in the file", ClientTls::new(&cluster.client.key), "it contains none in PEM"),
    ]
}

#[tokio::test]
async fn whoever_is_not_trusted_is_told_why_at_once() {
    let cluster = SecureCluster::start();
    for (case, tls, expected) in refused_clients(&cluster) {
        let client = cluster.client_with(tls.clone());
        let began = std::time::Instant::now();
        for status in [
            client.writer_status().await.unwrap_err(),
            client.insert("t", "{}").await.unwrap_err(),
            client.get("t", "1").await.unwrap_err(),
            client.watch(v1::WatchDriftRequest::default()).next().await.unwrap_err(),
        ] {
            assert!(status.message().contains(expected), "{case}: {}", status.message());
            assert_eq!(status.code(), Code::Unavailable, "{case}");
            assert_eq!(reason(&status).as_deref(), Some("TLS_FAILED"), "{case}");
        }
        // Waiting would not help: far less than the time for which a write is retried.
        assert!(began.elapsed() < Duration::from_secs(20), "{case}");
        for args in [&["status"][..], &["get", "t", "1"], &["sql", "DROP TABLE t"], &["watch", "-t", "t"]] {
            let output = cluster.driftctl(&tls, args).output().unwrap();
            assert_eq!(output.status.code(), Some(3), "{case}: {}", stderr(&output));
            assert!(stderr(&output).contains(expected), "{case}: {}", stderr(&output));
        }
    }
    // Those that a daemon has refused are counted; it does not see all the others.
    assert!(cluster.writer_security().await.handshakes_failed >= 4);
    // The name of the certificate works, also if it is not the host of the address.
    let tls = cluster.tls().with_server_name("localhost");
    cluster.client_with(tls).writer_status().await.unwrap();
}

#[tokio::test]
async fn a_client_and_a_daemon_that_disagree_about_tls_find_out() {
    let secure = SecureCluster::start();
    // In clear text, to a daemon with TLS: any gRPC client gets the answer.
    let url = secure.writer_daemon.url.replace("https://", "http://");
    let mut writer = crate::harness::Writer::new(connect(&url).await);
    let status = create_table(&mut writer, "t").await.unwrap_err();
    assert_eq!((status.code(), reason(&status).as_deref()), (Code::FailedPrecondition, Some("TLS_REQUIRED")));
    assert!(status.message().contains("this port requires TLS"), "{status}");
    let args = ["--writer", &url, "--reader", &url, "status"];
    let output = Command::new(binary("driftctl")).args(args).output().unwrap();
    assert_eq!(output.status.code(), Some(3));
    assert!(stderr(&output).contains("connect to https:// instead of http://"), "{}", stderr(&output));

    // With TLS, to a daemon without.
    let plain = Cluster::start().await;
    let url = plain.writer_daemon.url.replace("http://", "https://");
    let tls = Some(secure.tls());
    let client = Client::with(ClientOptions { tls, ..ClientOptions::default() }, [&url], [""; 0]);
    let status = client.insert("t", "{}").await.unwrap_err();
    assert_eq!(reason(&status).as_deref(), Some("TLS_FAILED"));
    assert!(status.message().contains("it does not use TLS; connect to http://"), "{status}");

    // https:// alone trusts nobody.
    let status = Client::new([&url], [""; 0]).writer_status().await.unwrap_err();
    assert!(status.message().contains("https:// needs the certificates of the CAs to trust"), "{status}");
    let output = Command::new(binary("driftctl"))
        .args(["--writer", &url, "--reader", &url, "status"])
        .output()
        .unwrap();
    assert!(stderr(&output).contains("--tls-ca"), "{}", stderr(&output));
}

#[tokio::test]
async fn an_address_in_clear_text_gets_tls_if_the_client_has_a_ca_and_the_daemon_wants_it() {
    let (secure, plain) = (SecureCluster::start(), Cluster::start().await);
    let client = |url: &str, tls: ClientTls| {
        Client::with(ClientOptions { tls: Some(tls), ..ClientOptions::default() }, [url], [""; 0])
    };
    let url = secure.writer_daemon.url.replace("https://", "http://");
    let status = client(&url, secure.tls()).writer_status().await.unwrap();
    assert!(status.security.unwrap().tls);
    // As the address says: this daemon has no TLS.
    let status = client(&plain.writer_daemon.url, secure.tls()).writer_status().await.unwrap();
    assert!(!status.security.unwrap().tls);
    // A daemon that has TLS and is not trusted is not called in clear text instead.
    let strange_ca = secure.dir.path().join("strange-ca.pem");
    put(&strange_ca, &TestCa::new("another CA").pem);
    let status = client(&url, secure.client.of_client(&strange_ca)).writer_status().await.unwrap_err();
    assert_eq!(reason(&status).as_deref(), Some("TLS_FAILED"), "{status}");
    // So a script whose addresses begin with http:// works once the environment names the files.
    let reader = secure.reader_daemon.url.replace("https://", "http://");
    for args in [&["sql", "CREATE TABLE t (pk=id)"][..], &["select", "t"], &["status"]] {
        let mut command = secure.driftctl(&secure.tls(), args);
        let output = command.env("DRIFTDB_WRITER", &url).env("DRIFTDB_READER", &reader).output().unwrap();
        assert!(output.status.success(), "{args:?}: {}", stderr(&output));
    }
}

#[test]
fn options_that_need_each_other_are_checked() {
    for (args, expected) in [
        (&["--tls-cert", "c.pem", "status"][..], "--tls-cert and --tls-key"),
        (&["status", "--tls-cert", "c.pem", "--tls-key", "k.pem"], "need --tls-ca"),
        (&["--tls-server-name", "x", "status"], "need --tls-ca"),
    ] {
        let output = Command::new(binary("driftctl")).args(args).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        assert!(stderr(&output).contains(expected), "{args:?}: {}", stderr(&output));
    }
    let dir = tempfile::tempdir().unwrap();
    for name in ["driftdb-writer", "driftdb-reader"] {
        for args in [&["--tls-cert", "c.pem"][..], &["--tls-key", "k.pem"], &["--tls-client-ca", "a.pem"]] {
            let error = Daemon::try_start(name, dir.path(), args).unwrap_err();
            assert!(error.contains("required"), "{name} {args:?}: {error}");
        }
    }
}

#[test]
fn a_daemon_does_not_start_with_files_that_cannot_be_used() {
    let files = SecureFiles::new();
    let other = files.ca.server(files.dir.path(), "other", TimeSpan::hours(1));
    let path = |path: &std::path::Path| path.display().to_string();
    let data = files.dir.path().join("data");
    for (certificate, key, expected) in [
        (path(&files.server.certificate), path(&other.key), "server.pem"),
        (path(&files.server.key), path(&files.server.key), "it contains no certificate in PEM"),
        (path(&files.server.certificate), path(&files.server.certificate), "no private key in PEM"),
        ("/none".to_owned(), path(&files.server.key), "cannot open /none"),
    ] {
        let args = ["--tls-cert", &certificate, "--tls-key", &key];
        let error = Daemon::try_start("driftdb-writer", &data, &args).unwrap_err();
        assert!(error.contains(expected), "{error}");
    }
    // Nothing was made before the files were read.
    assert!(!data.exists());
}

#[test]
fn a_daemon_listens_beyond_this_machine_only_if_it_is_told_so() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["driftdb-writer", "driftdb-reader"] {
        let mut command = Command::new(binary(name));
        command.arg("--data").arg(dir.path().join("data")).args(["--listen", "0.0.0.0:0"]);
        let error = Daemon::spawn(command).unwrap_err();
        assert!(
            error.contains("cannot listen on 0.0.0.0:0 without TLS and authentication"),
            "{name}: {error}"
        );
        assert!(error.contains("--insecure-listen"), "{error}");
    }
    assert!(!dir.path().join("data").exists());
    let output = Command::new(binary("driftctl"))
        .args(["dev", "--listen", "0.0.0.0:0", "-d"])
        .arg(dir.path().join("data"))
        .output()
        .unwrap();
    assert!(stderr(&output).contains("--insecure-listen"), "{}", stderr(&output));
    assert!(!dir.path().join("data").exists());
}

#[test]
fn the_certificates_of_cert_new_and_the_commands_that_it_prints_work() {
    let dir = tempfile::tempdir().unwrap();
    let driftctl = binary("driftctl");
    let programs = driftctl.parent().unwrap().display().to_string();
    let path = format!("{programs}:{}", std::env::var("PATH").unwrap());
    let shell = |script: &str| {
        let mut command = Command::new("sh");
        command.args(["-c", script]).current_dir(dir.path()).env("PATH", &path);
        command
    };
    let made =
        shell("driftctl cert new certs --host db.example.org --client billing --days 7").output().unwrap();
    assert!(made.status.success(), "{}", stderr(&made));
    let printed = stderr(&made);
    let command = |start: &str| {
        let found = printed.lines().map(str::trim).find(|line| line.starts_with(start));
        found.unwrap_or_else(|| panic!("no {start} in {printed}")).to_owned()
    };
    let daemon = |name: &str| {
        let line = format!("exec {} --listen 127.0.0.1:0", command(name));
        Daemon::spawn(shell(&line)).unwrap_or_else(|error| panic!("{name}: {error}"))
    };
    let (writer, reader) = (daemon("driftdb-writer"), daemon("driftdb-reader"));
    let addresses = |url: &str| url.replace("http://", "");
    let run = |line: &str| {
        let mut shell = shell(line);
        shell.env("DRIFTDB_WRITER", addresses(&writer.url)).env("DRIFTDB_READER", addresses(&reader.url));
        let output = shell.output().unwrap();
        assert!(output.status.success(), "{line}: {}", stderr(&output));
        String::from_utf8(output.stdout).unwrap()
    };
    assert!(run(&command("driftctl --tls-ca")).contains(r#""client_certificates":true"#));
    let exported = command("export");
    assert!(
        run(&format!("{exported}; driftctl --tls-server-name db.example.org status"))
            .contains(r#""tls":true"#)
    );
    let again = shell("driftctl cert new certs").output().unwrap();
    assert_eq!(again.status.code(), Some(1));
    assert!(stderr(&again).contains("the file exists"), "{}", stderr(&again));
}

#[tokio::test]
#[ignore = "slow"]
async fn half_a_handshake_is_closed_and_delays_nobody() {
    let cluster = SecureCluster::start();
    let address = cluster.writer_daemon.url.trim_start_matches("https://").to_owned();
    // Nothing; the header of a record; a record of a handshake that does not go on; a preface in clear text that does not go on.
    let hello = [0x16, 3, 1, 0, 200, 1, 0, 0, 196, 3, 3];
    let closed: Vec<_> = [&[][..], &hello[..5], &hello[..], b"PRI * HT"]
        .into_iter()
        .map(|sent| {
            let (address, sent) = (address.clone(), sent.to_vec());
            tokio::task::spawn_blocking(move || {
                let mut stream = TcpStream::connect(address).unwrap();
                stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
                stream.write_all(&sent).unwrap();
                match stream.read_to_end(&mut Vec::new()) {
                    Ok(_) => true,
                    Err(error) => error.kind() == std::io::ErrorKind::ConnectionReset,
                }
            })
        })
        .collect();
    let mut writer = cluster.writer(&cluster.tls()).await.unwrap();
    create_table(&mut writer, "t").await.unwrap();
    apply(&mut writer, vec![insert("t", r#"{"id":"1"}"#)]).await.unwrap();
    for closed in closed {
        assert!(closed.await.unwrap());
    }
    apply(&mut writer, vec![insert("t", r#"{"id":"2"}"#)]).await.unwrap();
}

#[tokio::test]
async fn tls_1_2_and_1_3_are_spoken_and_nothing_but_http_2() {
    use rustls::pki_types::pem::PemObject;
    use rustls::pki_types::{CertificateDer, ServerName};

    let files = SecureFiles::new();
    let daemon = files.start("driftdb-writer", &files.options_without_clients());
    let handshake = async |version: &'static rustls::SupportedProtocolVersion, protocol: &str| {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(files.ca.pem.as_bytes()).unwrap()).unwrap();
        let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider).with_protocol_versions(&[version]);
        let mut config = config.unwrap().with_root_certificates(roots).with_no_client_auth();
        config.alpn_protocols = vec![protocol.as_bytes().to_vec()];
        let connector = tokio_rustls::TlsConnector::from(std::sync::Arc::new(config));
        let stream = tokio::net::TcpStream::connect(daemon.url.trim_start_matches("https://")).await.unwrap();
        connector.connect(ServerName::try_from("localhost").unwrap(), stream).await
    };
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let stream = handshake(version, "h2").await.unwrap();
        assert_eq!(stream.get_ref().1.protocol_version(), Some(version.version));
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
        let error = handshake(version, "http/1.1").await.unwrap_err();
        assert!(error.to_string().contains("NoApplicationProtocol"), "{error}");
    }
}
