//! Each attack on a daemon beside an honest client: the daemon lives, its memory stays within its budget, and the client is served.
//!
//! The times of the honest client and the memory are printed, and not checked: they depend on the machine, which runs the attack,
//! too. So the same attack is made on other daemons first: what the honest client's calls take then is what it costs the machine,
//! and the rest is what it costs the daemons. `DRIFTDB_SOAK=1` makes each attack last 10 s.

use std::time::{Duration, Instant};

use crate::harness::figures::{Figures, KEPT_KIB};
use crate::harness::honest::{HonestCalls, HonestClient};
use crate::harness::lane::by_lane;
use crate::harness::raw_frames::*;
use crate::harness::raw_http2::{RawConnection, framed, header};
use crate::harness::*;
use driftdb::v1;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

/// Connections that attack at the same time.
const ATTACKERS: usize = 4;

/// How long each attack lasts.
fn length() -> Duration {
    by_lane(Duration::from_secs(2), Duration::from_secs(10))
}

/// The addresses of the daemons, and the time at which an attack ends.
#[derive(Debug, Clone)]
struct Target {
    writer: String,
    reader: String,
    end: Instant,
}

impl Target {
    /// An attack on some daemons that begins now.
    fn of(figures: &Figures) -> Target {
        let (writer, reader) = (figures.writer.url.clone(), figures.reader.url.clone());
        Target { writer, reader, end: Instant::now() + length() }
    }

    fn is_over(&self) -> bool {
        Instant::now() >= self.end
    }

    /// Attacks over several connections at the same time. Returns the sum of what they count.
    async fn attack<A>(&self, attack: impl Fn(Target) -> A) -> u64
    where
        A: Future<Output = u64> + Send + 'static,
    {
        let mut attackers = JoinSet::new();
        for _ in 0..ATTACKERS {
            attackers.spawn(attack(self.clone()));
        }
        attackers.join_all().await.into_iter().sum()
    }
}

/// Runs an attack, which says what it did, beside an honest client.
async fn beside(what: &str, kept_kib: u64, attack: impl AsyncFn(Target) -> String) {
    let (figures, others) = (Figures::start().await, Figures::start().await);
    let honest = HonestClient::start(&figures.writer, &figures.reader);
    tokio::time::sleep(length() / 2).await;
    let before = honest.take();
    attack(Target::of(&others)).await;
    let elsewhere = honest.take();
    // They end with what they hold.
    drop(others);
    tokio::time::sleep(length() / 2).await;
    honest.take();
    let said = attack(Target::of(&figures)).await;
    let during = honest.take();
    tokio::time::sleep(length() / 2).await;
    let after = honest.take();
    let times = |calls: &HonestCalls| during.p99().as_secs_f64() / calls.p99().as_secs_f64().max(1e-6);
    println!(
        "{what}: {said}\n    before    {before}\n    elsewhere {elsewhere}\n    during    {during}\n    after     {after}\n    \
         p99 during it: {:.2} times that before, {:.2} times that of the same attack elsewhere",
        times(&before),
        times(&elsewhere)
    );
    for calls in [&before, &during, &after] {
        assert!(calls.answered() > 0, "{what}: the honest client was not served");
    }
    assert_eq!((before.refused(), after.refused()), (0, 0), "{what}");
    // During the attack, a call may be told to come back.
    during.refused();
    for url in [&figures.writer.url, &figures.reader.url] {
        let mut health = HealthClient::new(connect(url).await);
        let answer = health.check(HealthCheckRequest::default()).await.unwrap().into_inner();
        assert_eq!(answer.status, 1, "{what}: {url} is not SERVING");
    }
    drop(honest);
    figures.finish_with(what, kept_kib).await;
}

/// Sends `frames` over one connection after the other. Returns how often the daemon took them.
async fn flood(target: Target, settings: &[(u16, u32)], mut frames: impl FnMut(bool) -> Vec<u8>) -> u64 {
    let mut taken = 0;
    while !target.is_over() {
        let mut connection = FrameConnection::open(&target.reader, settings).await;
        let mut is_first = true;
        while !target.is_over() && connection.exchange(&frames(is_first)).await {
            (taken, is_first) = (taken + 1, false);
        }
    }
    taken
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "slow"]
async fn rapid_reset() {
    beside("rapid reset", KEPT_KIB, async |target| {
        let attack = |target: Target| async move {
            let mut ids = stream_ids();
            let frames = move |is_first: bool| {
                if is_first {
                    ids = stream_ids();
                }
                let ids = ids.by_ref().take(100);
                ids.flat_map(|id| [begin("ReaderService/Get", id), reset(id)].concat()).collect()
            };
            flood(target, &[], frames).await
        };
        format!("{} resets were taken", 100 * target.attack(attack).await)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "slow"]
async fn continuation_flood() {
    beside("CONTINUATION flood", KEPT_KIB, async |target| {
        let attack = |target: Target| async move {
            let field = header_field("x-more", &"x".repeat(4000));
            let frames = move |is_first: bool| match is_first {
                true => frame(HEADERS, 0, 1, &call_headers("ReaderService/Get")),
                false => frame(CONTINUATION, 0, 1, &field),
            };
            flood(target, &[], frames).await
        };
        format!("{} frames were taken", target.attack(attack).await)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "slow"]
async fn header_flood() {
    beside("header flood", KEPT_KIB, async |target| {
        let attack = |target: Target| async move {
            // Just within the limit, and the calls stay open.
            let fields: Vec<u8> =
                (0..14).flat_map(|n| header_field(&format!("x-{n}"), &"x".repeat(1000))).collect();
            let headers = [call_headers("ReaderService/Get"), fields].concat();
            let mut ids = stream_ids();
            let frames = move |is_first: bool| {
                if is_first {
                    ids = stream_ids();
                }
                let ids = ids.by_ref().take(10);
                ids.flat_map(|id| frame(HEADERS, END_HEADERS, id, &headers)).collect()
            };
            flood(target, &[], frames).await
        };
        format!("{} calls were taken", 10 * target.attack(attack).await)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "slow"]
async fn zero_window() {
    beside("zero window", KEPT_KIB, async |target| {
        let attack = |target: Target| async move {
            let keys = (0..100).map(|n| n.to_string()).collect();
            let get = v1::GetRequest { table: "t".into(), keys, ..Default::default() };
            let mut asked = 0;
            while !target.is_over() {
                let mut client = RawConnection::open(&target.reader, 0).await;
                let mut unread = Vec::new();
                while !target.is_over() && unread.len() < 1000 {
                    let Some(call) = client.call("ReaderService/Get", &get).await else { break };
                    unread.push(call.answer().await);
                    asked += 1;
                }
            }
            asked
        };
        format!("{} answers of 1.6 MB were asked for and not read", target.attack(attack).await)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "slow"]
async fn slow_bodies() {
    beside("slow bodies", KEPT_KIB, async |target| {
        let attack = |target: Target| async move {
            let mut client = RawConnection::open(&target.writer, 1 << 16).await;
            let mut calls = Vec::new();
            while !target.is_over() && calls.len() < 1000 {
                let Some(mut call) = client.start("WriterService/Apply").await else { break };
                call.send(header(1 << 20).into()).await;
                calls.push(call);
            }
            // A byte of each, again and again.
            while !target.is_over() {
                for call in &mut calls {
                    call.send(bytes::Bytes::from_static(&[0x0a])).await;
                }
            }
            calls.len() as u64
        };
        format!("{} requests that never end", target.attack(attack).await)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "slow"]
async fn idle_connections() {
    beside("idle connections", KEPT_KIB, async |target| {
        let mut open = Vec::new();
        let address = target.reader.trim_start_matches("http://").to_owned();
        let wanted = by_lane(2_000, 10_000);
        for n in 0..wanted {
            // Half of them with a handshake.
            let is_opened = match n % 2 {
                0 => TcpStream::connect(&address).await.map(|stream| open.push((Some(stream), None))).is_ok(),
                _ => {
                    open.push((None, Some(FrameConnection::open(&target.reader, &[]).await)));
                    true
                }
            };
            assert!(is_opened, "connection {n}");
        }
        tokio::time::sleep_until(target.end.into()).await;
        format!("{wanted} connections that do nothing")
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "slow"]
async fn sixteen_streams_of_requests_of_64_mib() {
    let text = "x".repeat(6 << 10);
    let row = |n: usize| put("t", format!(r#"{{"id":"{n}","p":"{text}"}}"#));
    let request = v1::ApplyRequest { operations: (0..10_000).map(row).collect(), ..Default::default() };
    let bytes = framed(&request);
    drop(request);
    // The rows of requests that were not refused stay, in the memtables and in the buffers of the log.
    beside("16 streams of requests of 64 MiB", 3 * KEPT_KIB, async |target| {
        let mut sending = JoinSet::new();
        for _ in 0..16 {
            let (target, bytes) = (target.clone(), bytes.clone());
            sending.spawn(async move {
                let (mut refused, mut committed) = (0, 0);
                while !target.is_over() {
                    let mut client = RawConnection::open(&target.writer, 1 << 20).await;
                    let Some(mut call) = client.start("WriterService/Apply").await else { continue };
                    call.send(bytes.clone()).await;
                    call.body.send_data(bytes::Bytes::new(), true).ok();
                    match call.answer().await.0 {
                        Some(_) => refused += 1,
                        None => committed += 1,
                    }
                }
                (refused, committed)
            });
        }
        let ended = sending.join_all().await;
        let (refused, committed) =
            ended.into_iter().fold((0, 0), |(a, b), (refused, committed)| (a + refused, b + committed));
        format!("{refused} refused, {committed} committed")
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "slow"]
async fn many_watches() {
    let watches: usize = by_lane(2_000, 20_000);
    beside("watches", KEPT_KIB, async |target| {
        let (mut clients, mut open, mut refused) = (Vec::new(), Vec::new(), 0);
        // All of a connection at once: one after the other, they would mostly wait for each other.
        for first in (0..watches).step_by(1000) {
            // One address may not have all.
            let address = [127, 0, 0, if first < 10_000 { 2 } else { 3 }];
            let mut client = RawConnection::open_from(address.into(), &target.reader, 1 << 16).await;
            let mut calls = Vec::new();
            for n in first..first + 1000 {
                let keys = vec![n.to_string()];
                let watch = v1::WatchDriftRequest { tables: vec!["t".into()], keys, ..Default::default() };
                calls.push(client.call("ReaderService/WatchDrift", &watch).await.unwrap());
            }
            clients.push(client);
            for call in calls {
                match call.answer().await {
                    (None, rest) => open.push(rest),
                    (Some(8), _) => refused += 1,
                    other => panic!("{other:?}"),
                }
            }
        }
        assert_eq!((open.len(), refused), (watches, 0));
        tokio::time::sleep_until(target.end.into()).await;
        format!("{} watches", open.len())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "slow"]
async fn more_calls_than_an_address_may_have() {
    /// Together they have as many calls as one address may have.
    const CONNECTIONS: usize = 24;
    beside("calls that never end", KEPT_KIB, async |target| {
        let attacker = [127, 0, 0, 2].into();
        let calls: Vec<u8> = stream_ids().take(1024).flat_map(|id| begin("ReaderService/Get", id)).collect();
        let mut open = Vec::new();
        for _ in 0..CONNECTIONS {
            let mut connection = FrameConnection::open_from(attacker, &target.reader, &[]).await;
            assert!(connection.exchange(&calls).await);
            open.push(connection);
        }
        let mut client = RawConnection::open_from(attacker, &target.reader, 1 << 16).await;
        let get = v1::GetRequest { table: "t".into(), keys: vec!["1".into()], ..Default::default() };
        let mut refused = 0;
        // On a busy machine the reader may take all of them only after the attack's time.
        let patience = target.end + Duration::from_secs(30);
        while !target.is_over() || (refused == 0 && Instant::now() < patience) {
            match client.call("ReaderService/Get", &get).await.unwrap().answer().await.0 {
                Some(8) => refused += 1,
                // The reader may not have taken all of them yet.
                None => {}
                other => panic!("{other:?}"),
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert!(refused > 0, "none was refused");
        format!(
            "{} calls were begun; of further ones of their address {refused} were refused",
            CONNECTIONS * 1024
        )
    })
    .await;
}
