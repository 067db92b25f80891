//! The memory of both daemons before, during and after something that takes much of it.

use std::time::{Duration, Instant};

use driftdb::v1;

use super::{Daemon, apply, create_table, insert, put};

/// The default budget, and as much again for what is not counted: the allocator, the memtables, computing.
const PEAK_KIB: u64 = 2 * (512 << 10);
/// What a daemon may keep after an attack, beyond what it had before.
pub const KEPT_KIB: u64 = 128 << 10;

/// Two daemons, and the memory that they had before anything happened.
#[derive(Debug)]
pub struct Figures {
    pub writer: Daemon,
    pub reader: Daemon,
    before: [u64; 2],
    dir: tempfile::TempDir,
}

impl Figures {
    /// A table `t` with 100 rows of 16 KiB.
    pub async fn start() -> Figures {
        let dir = tempfile::tempdir().unwrap();
        let writer = Daemon::writer(dir.path());
        let mut client = writer.as_writer().await;
        create_table(&mut client, "t").await.unwrap();
        let rows = (0..100).map(|n| insert("t", format!(r#"{{"id":"{n}","p":"{}"}}"#, "x".repeat(16 << 10))));
        apply(&mut client, rows.collect()).await.unwrap();
        let reader = Daemon::reader(dir.path());
        let before = [writer.memory_kib("VmRSS:"), reader.memory_kib("VmRSS:")];
        Figures { writer, reader, before, dir }
    }

    /// Prints the peaks, then waits until the daemons have given the memory back.
    pub async fn finish(self, what: &str) {
        self.finish_with(what, KEPT_KIB).await;
    }

    /// The same, with another bound of what may be left.
    pub async fn finish_with(self, what: &str, kept_kib: u64) {
        // Others are served while the attack lasts or right after it.
        let mut client = self.writer.as_writer().await;
        apply(&mut client, vec![put("t", r#"{"id":"served"}"#)]).await.unwrap();
        let get = v1::GetRequest { table: "t".into(), keys: vec!["1".into()], ..Default::default() };
        assert_eq!(self.reader.as_reader().await.get(get).await.unwrap().into_inner().rows.len(), 1);
        let rss = |daemon: &Daemon| daemon.memory_kib("VmRSS:");
        let peaks = [self.writer.memory_kib("VmHWM:"), self.reader.memory_kib("VmHWM:")];
        let start = Instant::now();
        let left = loop {
            let left = [rss(&self.writer), rss(&self.reader)];
            let is_back = left.iter().zip(self.before).all(|(left, before)| *left < before + kept_kib);
            if is_back || start.elapsed() > Duration::from_secs(60) {
                break left;
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        };
        println!(
            "{what:<44} writer: {:>4} MiB before, {:>4} peak, {:>4} left; reader: {:>4} before, {:>4} peak, {:>4} left (after {:?})",
            self.before[0] >> 10,
            peaks[0] >> 10,
            left[0] >> 10,
            self.before[1] >> 10,
            peaks[1] >> 10,
            left[1] >> 10,
            start.elapsed(),
        );
        assert!(peaks.iter().all(|peak| *peak < PEAK_KIB), "{what}: {peaks:?} KiB at the peak");
        let is_back = left.iter().zip(self.before).all(|(left, before)| *left < before + kept_kib);
        assert!(is_back, "{what}: {left:?} KiB left of {peaks:?}");
        drop(self.dir);
    }
}
