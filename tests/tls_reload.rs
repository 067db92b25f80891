//! Certificates that are replaced while daemons serve: no call fails, no stream ends that should live, and what is taken back ends.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use driftdb::client::{Client, ClientOptions, ClientTls, WatchEvent, Watcher};
use driftdb::v1;
use time::Duration as TimeSpan;
use tokio::task::JoinHandle;

use crate::harness::certificates::{TestCa, put};
use crate::harness::secure_cluster::SecureCluster;

/// How long a state is waited for.
const PATIENCE: Duration = Duration::from_secs(30);

/// Clients that write and read all the time: some on connections that stay open, others on a new one for each call.
struct ClientLoad {
    stop: Arc<AtomicBool>,
    calls: Arc<AtomicU64>,
    tasks: Vec<JoinHandle<()>>,
}

impl ClientLoad {
    /// Starts the clients. A call that fails fails the test.
    fn start(cluster: &SecureCluster, tls: &ClientTls) -> ClientLoad {
        let (stop, calls) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let tasks = (0..4u64).map(|number| {
            let (stop, calls) = (Arc::clone(&stop), Arc::clone(&calls));
            let kept = cluster.client_with(tls.clone());
            let options = ClientOptions { tls: Some(tls.clone()), ..ClientOptions::default() };
            let (writer, reader) = (cluster.writer_daemon.url.clone(), cluster.reader_daemon.url.clone());
            tokio::spawn(async move {
                for turn in 0.. {
                    if stop.load(Ordering::Relaxed) {
                        return;
                    }
                    let client = match number % 2 {
                        0 => kept.clone(),
                        _ => Client::with(options.clone(), [&writer], [&reader]),
                    };
                    // The client itself would try again, and so hide a call that has failed.
                    let key = format!("{number}-{turn}");
                    let operations = vec![v1::Operation::insert("t", format!(r#"{{"id":"{key}"}}"#))];
                    let request = v1::ApplyRequest { operations, ..Default::default() };
                    let answer = client.writer().await.unwrap().apply(request).await.unwrap().into_inner();
                    let freshness = answer.token.map(v1::Freshness::from);
                    let get = v1::GetRequest {
                        table: "t".into(),
                        keys: vec![key],
                        freshness,
                        ..Default::default()
                    };
                    let found = client.reader_at(0).await.unwrap().get(get).await.unwrap().into_inner();
                    assert_eq!(found.rows.len(), 1);
                    calls.fetch_add(1, Ordering::Relaxed);
                }
            })
        });
        ClientLoad { tasks: tasks.collect(), stop, calls }
    }

    /// Waits until the clients have made so many more calls.
    async fn go_on(&self, more: u64) {
        let until = self.calls.load(Ordering::Relaxed) + more;
        let began = Instant::now();
        while self.calls.load(Ordering::Relaxed) < until {
            assert!(began.elapsed() < PATIENCE, "the clients make no calls");
            assert!(self.tasks.iter().all(|task| !task.is_finished()), "a client has failed");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    async fn end(self) {
        self.stop.store(true, Ordering::Relaxed);
        for task in self.tasks {
            task.await.unwrap();
        }
    }
}

async fn create(cluster: &SecureCluster) {
    let table = v1::CreateTableRequest { table: "t".into(), primary_key: "id".into(), ..Default::default() };
    cluster.client_with(cluster.tls()).create_table(table).await.unwrap();
}

/// Opens a watch.
async fn watch(cluster: &SecureCluster, tls: ClientTls) -> Watcher {
    let request = v1::WatchDriftRequest { tables: vec!["t".into()], ..Default::default() };
    let mut watch = cluster.client_with(tls).watch(request);
    assert!(matches!(watch.next().await.unwrap(), Some(WatchEvent::Opened(_))));
    watch
}

/// Follows a watch until it is interrupted.
fn interruption(mut watch: Watcher) -> JoinHandle<String> {
    tokio::spawn(async move {
        loop {
            match watch.next().await {
                Ok(Some(WatchEvent::Interrupted(status))) | Err(status) => {
                    return status.message().to_owned();
                }
                Ok(Some(_)) => {}
                Ok(None) => return "the watch ended".to_owned(),
            }
        }
    })
}

/// Waits until both daemons say that something holds.
async fn wait_until(cluster: &SecureCluster, what: &str, holds: impl Fn(&v1::SecurityState) -> bool) {
    let began = Instant::now();
    while !(holds(&cluster.writer_security().await) && holds(&cluster.reader_security().await)) {
        assert!(began.elapsed() < PATIENCE, "waiting until {what}: {:?}", cluster.reader_security().await);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reload_fails_no_call_and_ends_only_the_streams_of_a_ca_that_was_taken_out() {
    let cluster = SecureCluster::start();
    create(&cluster).await;
    let (first_ca, second) = (cluster.ca.pem.clone(), TestCa::new("second CA"));
    put(&cluster.trusted, &format!("{first_ca}{}", second.pem));
    let load = ClientLoad::start(&cluster, &cluster.tls());
    let first_watch = interruption(watch(&cluster, cluster.tls()).await);
    load.go_on(50).await;

    // A new certificate of the daemons, from another CA.
    let before = cluster.writer_security().await.certificate_not_after;
    let renewed = second.server(cluster.dir.path(), "renewed", TimeSpan::hours(5));
    renewed.replace(&cluster.server);
    wait_until(&cluster, "both have the new certificate", |state| {
        state.certificate_not_after != before && state.problems.is_empty()
    })
    .await;
    load.go_on(50).await;
    let only_second = cluster.dir.path().join("second-ca.pem");
    put(&only_second, &second.pem);
    cluster.client_with(cluster.client.of_client(&only_second)).writer_status().await.unwrap();

    // The CA of other clients is accepted, too, on a signal at once.
    put(&cluster.client_ca, &format!("{first_ca}{}", second.pem));
    cluster.writer_daemon.signal("HUP");
    cluster.reader_daemon.signal("HUP");
    let of_second =
        second.client(cluster.dir.path(), "second", TimeSpan::hours(1)).of_client(&cluster.trusted);
    let began = Instant::now();
    let second_watch = loop {
        let client = cluster.client_with(of_second.clone());
        if client.writer_status().await.is_ok() && client.get("t", "0-0").await.is_ok() {
            break watch(&cluster, of_second.clone()).await;
        }
        assert!(began.elapsed() < PATIENCE, "the second CA is not accepted");
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    let second_watch = interruption(second_watch);
    load.go_on(50).await;
    assert!(!first_watch.is_finished() && !second_watch.is_finished());

    // The second CA is taken out again: its streams end, and no others.
    put(&cluster.client_ca, &first_ca);
    let ended = tokio::time::timeout(PATIENCE, second_watch).await.unwrap().unwrap();
    assert!(!ended.contains("the watch ended"), "{ended}");
    let refused = cluster.client_with(of_second).writer_status().await.unwrap_err();
    assert!(refused.message().contains("it refuses the certificate"), "{refused}");
    load.go_on(50).await;
    assert!(!first_watch.is_finished());
    load.end().await;
    wait_until(&cluster, "problems are over", |state| state.problems.is_empty()).await;
    assert!(cluster.reader_security().await.certificates_ended >= 1);
}

#[tokio::test]
async fn a_bad_file_keeps_the_former_ones_and_is_named_until_it_is_mended() {
    let cluster = SecureCluster::start();
    create(&cluster).await;
    let stream = interruption(watch(&cluster, cluster.tls()).await);
    let other = cluster.ca.server(cluster.dir.path(), "other", TimeSpan::hours(5));
    let text = |path: &std::path::Path| read(path);
    for (what, path, bad, expected) in [
        ("garbage", &cluster.server.certificate, "garbage".to_owned(), "it contains no certificate in PEM"),
        (
            "half a certificate",
            &cluster.server.certificate,
            half(&text(&cluster.server.certificate)),
            "server.pem",
        ),
        ("the key of another certificate", &cluster.server.key, text(&other.key), "server-key.pem"),
        ("no client CA", &cluster.client_ca, String::new(), "it contains no certificate in PEM"),
    ] {
        let good = text(path);
        put(path, &bad);
        let began = Instant::now();
        let problem = loop {
            // A new connection each time: the former files serve it.
            let status = cluster.client_with(cluster.tls()).writer_status().await.unwrap();
            if let Some(problem) = status.security.unwrap().problems.pop() {
                break problem;
            }
            assert!(began.elapsed() < PATIENCE, "{what} is not found");
            tokio::time::sleep(Duration::from_millis(20)).await;
        };
        assert!(problem.starts_with("cannot reload the TLS files: "), "{problem}");
        assert!(problem.contains(expected), "{what}: {problem}");
        assert!(problem.ends_with("the former ones stay in use"), "{problem}");
        put(path, &good);
        wait_until(&cluster, "the file is mended", |state| state.problems.is_empty()).await;
    }
    assert!(!stream.is_finished());
}

#[tokio::test]
#[ignore = "slow"]
async fn a_stream_ends_when_the_certificate_of_its_client_expires_and_goes_on_with_a_renewed_one() {
    let cluster = SecureCluster::start();
    create(&cluster).await;
    let dir = cluster.dir.path();
    let brief = cluster.ca.client(dir, "brief", TimeSpan::seconds(6));
    let mut expiring = watch(&cluster, brief.of_client(&cluster.trusted)).await;
    let lasting = interruption(watch(&cluster, cluster.tls()).await);
    let interrupted = loop {
        match tokio::time::timeout(PATIENCE, expiring.next()).await.unwrap().unwrap() {
            Some(WatchEvent::Interrupted(status)) => break status,
            other => assert!(other.is_some()),
        }
    };
    assert_eq!(interrupted.code(), tonic::Code::Unavailable, "{interrupted}");
    assert_eq!(cluster.reader_security().await.certificates_ended, 1);
    let refused = cluster.client_with(brief.of_client(&cluster.trusted)).writer_status().await.unwrap_err();
    assert!(refused.message().contains("CertificateExpired"), "{refused}");
    // The client reads its files for each connection.
    cluster.ca.client(dir, "brief", TimeSpan::hours(1));
    loop {
        match tokio::time::timeout(PATIENCE, expiring.next()).await.unwrap().unwrap().unwrap() {
            WatchEvent::Resumed(_) => break,
            WatchEvent::Commit(_) => panic!("nothing was written"),
            _ => {}
        }
    }
    assert!(!lasting.is_finished());
}

#[expect(clippy::disallowed_methods, reason = "this test looks at its own files")]
fn read(path: &std::path::Path) -> String {
    std::fs::read_to_string(path).unwrap()
}

/// The first half of a text.
fn half(text: &str) -> String {
    text[..text.len() / 2].to_owned()
}
