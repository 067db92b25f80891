//! The floods of HTTP/2 frames that are known from advisories: the daemon ends the connection or takes them in its stride, its memory stays
//! small, and other clients are served.

use std::time::Duration;

use crate::harness::raw_frames::*;
use crate::harness::*;
use driftdb::v1;

/// What a flood may cost a daemon, in KiB: less than the flood itself has.
const GROWTH_KIB: u64 = 32 << 10;
/// ENHANCE_YOUR_CALM.
const CALM: u32 = 11;
/// Other error codes of HTTP/2.
const COMPRESSION: u32 = 9;
const PROTOCOL: u32 = 1;
const FRAME_SIZE: u32 = 6;
const REFUSED: u32 = 7;
/// After this time nothing more comes.
const SILENCE: Duration = Duration::from_secs(2);

struct Flooded {
    cluster: Cluster,
    before: u64,
}

impl Flooded {
    async fn start() -> Flooded {
        let mut cluster = Cluster::start().await;
        cluster.create("t").await;
        let before = cluster.reader_daemon.memory_kib("VmRSS:");
        Flooded { cluster, before }
    }

    async fn connect(&self) -> FrameConnection {
        FrameConnection::open(&self.cluster.reader_daemon.url, &[]).await
    }

    /// Sends `frames` until the daemon takes no more, at most `times` times. Returns how often it took them, and how the connection
    /// ended.
    async fn flood(&self, mut frames: impl FnMut() -> Vec<u8>, times: usize) -> (usize, EndOfConnection) {
        let mut connection = self.connect().await;
        let mut taken = 0;
        while taken < times && connection.exchange(&frames()).await {
            taken += 1;
        }
        (taken, connection.read_to_end(SILENCE).await)
    }

    /// The daemon serves others, on the connection that they have and on a new one, and has not grown.
    async fn expect_well(mut self) {
        for _ in 0..2 {
            let tables = self.cluster.reader.list_tables(v1::ListTablesRequest::default()).await.unwrap();
            assert_eq!(tables.into_inner().tables.len(), 1);
            self.cluster.reader = self.cluster.reader_daemon.as_reader().await;
        }
        let grown = self.cluster.reader_daemon.memory_kib("VmHWM:").saturating_sub(self.before);
        assert!(grown < GROWTH_KIB, "{grown} KiB");
    }
}

/// CVE-2023-44487, rapid reset: calls that are given up at once never count as open streams.
#[tokio::test]
async fn calls_that_are_reset_at_once_end_the_connection() {
    let flooded = Flooded::start().await;
    let mut ids = stream_ids();
    let frames = || {
        let ids = ids.by_ref().take(100);
        ids.flat_map(|id| [begin("ReaderService/Get", id), reset(id)].concat()).collect()
    };
    let (taken, end) = flooded.flood(frames, 1000).await;
    assert!(taken < 1000, "100000 resets were taken");
    assert!(end.is_closed && end.goaway.is_none_or(|code| code == CALM), "{end:?}");
    flooded.expect_well().await;
}

/// CVE-2025-8671, RUSTSEC-2024-0003: a client makes the daemon reset the streams, by frames that break the rules.
#[tokio::test]
async fn resets_that_a_client_provokes_end_the_connection() {
    let flooded = Flooded::start().await;
    let mut ids = stream_ids();
    let frames = || {
        // A window update of zero is an error of the stream.
        let ids = ids.by_ref().take(100);
        ids.flat_map(|id| {
            let nothing = frame(WINDOW_UPDATE, 0, id, &0_u32.to_be_bytes());
            [begin("ReaderService/Get", id), nothing].concat()
        })
        .collect()
    };
    let (taken, end) = flooded.flood(frames, 1000).await;
    assert!(taken < 1000, "100000 resets were made");
    assert!(end.is_closed, "{end:?}");
    flooded.expect_well().await;
}

/// RUSTSEC-2024-0332: headers that never end.
#[tokio::test]
async fn headers_without_an_end_end_the_connection() {
    let flooded = Flooded::start().await;
    let field = header_field("x-more", &"x".repeat(8000));
    let mut is_first = true;
    let frames = || {
        if std::mem::take(&mut is_first) {
            return frame(HEADERS, 0, 1, &call_headers("ReaderService/Get"));
        }
        frame(CONTINUATION, 0, 1, &field)
    };
    let (taken, end) = flooded.flood(frames, 10_000).await;
    assert!(taken < 10_000, "80 MB of headers were taken");
    let codes = [CALM, COMPRESSION, PROTOCOL, FRAME_SIZE];
    assert!(end.is_closed && end.goaway.is_none_or(|code| codes.contains(&code)), "{end:?}");
    flooded.expect_well().await;
}

/// The same with frames that contain nothing, which no limit of bytes would notice.
#[tokio::test]
async fn empty_continuations_end_the_connection() {
    let flooded = Flooded::start().await;
    let mut is_first = true;
    let frames = || {
        if std::mem::take(&mut is_first) {
            return frame(HEADERS, 0, 1, &call_headers("ReaderService/Get"));
        }
        frame(CONTINUATION, 0, 1, &[]).repeat(100)
    };
    let (taken, end) = flooded.flood(frames, 10_000).await;
    assert!(taken < 10_000 && end.is_closed, "{taken} {end:?}");
    flooded.expect_well().await;
}

/// CVE-2019-9516 and others: a call with more headers than the daemon takes is refused, and costs no more than that.
#[tokio::test]
async fn a_call_with_too_many_headers_is_refused() {
    let flooded = Flooded::start().await;
    let mut ids = stream_ids();
    let fields: Vec<u8> = (0..200).flat_map(|n| header_field(&format!("x-{n}"), &"x".repeat(70))).collect();
    let headers = [call_headers("ReaderService/Get"), fields].concat();
    assert!(headers.len() > 14 << 10 && headers.len() < 16 << 10);
    let frames = || frame(HEADERS, END_HEADERS | END_STREAM, ids.next().unwrap(), &headers);
    let (_, end) = flooded.flood(frames, 1000).await;
    // HTTP/2 counts 32 bytes more for each header. Each call got a response with 431, or the connection ended.
    assert!(end.is_closed || end.goaway.is_none(), "{end:?}");
    flooded.expect_well().await;
}

/// CVE-2019-9518, and the fixes of h2 0.4.16 to 0.4.19: frames of data without data, or with a byte each.
#[tokio::test]
async fn tiny_frames_of_data_end_the_connection() {
    for payload in [&[][..], &[0][..]] {
        let flooded = Flooded::start().await;
        let mut is_first = true;
        let frames = || {
            if std::mem::take(&mut is_first) {
                return begin("ReaderService/Get", 1);
            }
            frame(DATA, 0, 1, payload).repeat(100)
        };
        let (taken, end) = flooded.flood(frames, 10_000).await;
        assert!(taken < 10_000 && end.is_closed, "{taken} {end:?}");
        flooded.expect_well().await;
    }
}

/// CVE-2019-9512, CVE-2019-9515: frames that must be answered, from a client that reads no answer.
#[tokio::test]
async fn answers_that_nobody_reads_do_not_pile_up() {
    for unanswered in [frame(PING, 0, 0, &[7; 8]), frame(SETTINGS, 0, 0, &[])] {
        let flooded = Flooded::start().await;
        let mut connection = flooded.connect().await;
        let flood = unanswered.repeat(10_000);
        // As much as the connection takes without reading: then the daemon waits for the client.
        let mut sent = 0;
        while sent < 2000 && connection.send(&flood).await {
            sent += 1;
        }
        assert!(sent < 2000, "20000000 frames were answered");
        flooded.expect_well().await;
    }
}

/// The same from a client that reads the answers: it only keeps the daemon busy, as any client can.
#[tokio::test]
async fn pings_and_settings_are_answered_or_end_the_connection() {
    for answered in [frame(PING, 0, 0, &[7; 8]), frame(SETTINGS, 0, 0, &[]), frame(22, 0, 0, &[1; 64])] {
        let flooded = Flooded::start().await;
        flooded.flood(|| answered.repeat(100), 500).await;
        flooded.expect_well().await;
    }
}

/// CVE-2019-9517, CVE-2019-9511: a client that asks for much, and opens no window for it.
#[tokio::test]
async fn a_window_that_stays_closed_holds_no_answers_beyond_the_memory() {
    let flooded = Flooded::start().await;
    let url = &flooded.cluster.reader_daemon.url;
    let mut connection = FrameConnection::open(url, &[(4, 0)]).await;
    // Empty messages: ListTables of everything.
    let calls: Vec<u8> = stream_ids()
        .take(1000)
        .flat_map(|id| [begin("ReaderService/ListTables", id), frame(DATA, END_STREAM, id, &[0; 5])].concat())
        .collect();
    assert!(connection.exchange(&calls).await);
    // Windows of one byte at a time, for one stream after the other.
    let windows: Vec<u8> =
        stream_ids().take(1000).flat_map(|id| frame(WINDOW_UPDATE, 0, id, &1_u32.to_be_bytes())).collect();
    for _ in 0..20 {
        assert!(connection.exchange(&windows).await);
    }
    flooded.expect_well().await;
}

/// More calls than one connection may have open.
#[tokio::test]
async fn a_connection_has_1024_calls_at_most() {
    let flooded = Flooded::start().await;
    let mut connection = flooded.connect().await;
    let calls: Vec<u8> = stream_ids().take(1100).flat_map(|id| begin("ReaderService/Get", id)).collect();
    assert!(connection.exchange(&calls).await);
    let end = connection.read_to_end(SILENCE).await;
    let refused: Vec<u32> =
        end.resets.iter().filter(|(_, code)| *code == REFUSED).map(|(id, _)| *id).collect();
    assert_eq!(refused, stream_ids().skip(1024).take(76).collect::<Vec<_>>(), "{end:?}");
    flooded.expect_well().await;
}
