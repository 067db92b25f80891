//! An honest client beside an attack: it reads a row and writes one, over and over, and notes how long each call took.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use driftdb::v1;
use tonic::Status;

use super::{Daemon, Reader, Writer, apply, connect, put, reason};

/// The pause between two calls.
const PAUSE: Duration = Duration::from_millis(2);

/// The client. Dropping it ends it.
#[derive(Debug)]
pub struct HonestClient {
    noted: Arc<Mutex<HonestCalls>>,
    is_over: Arc<AtomicBool>,
    calling: JoinHandle<()>,
}

/// The calls of some time.
#[derive(Debug, Default)]
pub struct HonestCalls {
    times: Vec<Duration>,
    failures: Vec<Status>,
}

impl Drop for HonestClient {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
    }
}

impl HonestClient {
    /// Begins to call, over one connection to each daemon. Needs row `1` of table `t`. The client has a thread of its own, so that
    /// an attack by this process does not take its turn.
    pub fn start(writer: &Daemon, reader: &Daemon) -> HonestClient {
        let (writer, reader) = (writer.url.clone(), reader.url.clone());
        let (noted, is_over) = (Arc::new(Mutex::default()), Arc::new(AtomicBool::new(false)));
        let (notes, ended) = (Arc::clone(&noted), Arc::clone(&is_over));
        let calling = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(call(&writer, &reader, &notes, &ended));
        });
        HonestClient { noted, is_over, calling }
    }

    /// The calls since the last look.
    pub fn take(&self) -> HonestCalls {
        assert!(!self.calling.is_finished(), "the honest client got a wrong answer");
        std::mem::take(&mut *self.noted.lock().unwrap())
    }
}

/// Calls until it is over.
async fn call(writer: &str, reader: &str, notes: &Mutex<HonestCalls>, is_over: &AtomicBool) {
    let (mut writer, mut reader) = (Writer::new(connect(writer).await), Reader::new(connect(reader).await));
    for n in 0_u64.. {
        if is_over.load(Ordering::Relaxed) {
            return;
        }
        let start = Instant::now();
        let ended = if n.is_multiple_of(2) {
            let get = v1::GetRequest { table: "t".into(), keys: vec!["1".into()], ..Default::default() };
            reader.get(get).await.map(|answer| assert_eq!(answer.into_inner().rows.len(), 1))
        } else {
            let document = format!(r#"{{"id":"honest","n":{n}}}"#);
            apply(&mut writer, vec![put("t", document)]).await.map(|_| ())
        };
        {
            let mut noted = notes.lock().unwrap();
            noted.times.push(start.elapsed());
            noted.failures.extend(ended.err());
        }
        tokio::time::sleep(PAUSE).await;
    }
}

impl HonestCalls {
    /// The time within which a part of the calls ended, in thousandths.
    fn within(&self, thousandths: usize) -> Duration {
        let mut times = self.times.clone();
        times.sort();
        times
            .get((times.len() * thousandths / 1000).min(times.len().saturating_sub(1)))
            .copied()
            .unwrap_or_default()
    }

    /// The time within which all but one of a hundred calls ended.
    pub fn p99(&self) -> Duration {
        self.within(990)
    }

    /// Fails if calls failed, unless they were told to come back later. Returns how many were.
    pub fn refused(&self) -> usize {
        for failure in &self.failures {
            assert_eq!(reason(failure), "OVERLOADED", "{failure:?}");
        }
        self.failures.len()
    }

    /// The number of calls that were answered.
    pub fn answered(&self) -> usize {
        self.times.len() - self.failures.len()
    }
}

impl fmt::Display for HonestCalls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (p50, p99) = (self.within(500), self.p99());
        write!(f, "{:>5} calls, p50 {p50:>7.2?}, p99 {p99:>7.2?}", self.times.len())?;
        if self.failures.is_empty() { Ok(()) } else { write!(f, ", {} refused", self.failures.len()) }
    }
}
