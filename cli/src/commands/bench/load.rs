//! Load generation: each client waits for a response before its next call, for a fixed time.

use std::time::Duration;

use driftdb_common::error::{Error, Reason, Result};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};
use tonic::transport::Channel;

use crate::address::DaemonAddress;
use crate::processes::DaemonProcess;

/// The number of connections that the clients share.
const CHANNELS: usize = 4;
/// How long the clients run before calls are counted.
pub(crate) const WARM_UP: Duration = Duration::from_millis(300);

/// The calls of one client.
pub(crate) trait Call: Send + 'static {
    /// Makes one call and checks its response.
    fn call(&mut self) -> impl Future<Output = Result<()>> + Send;
}

/// The figures of one run.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Sample {
    /// Calls per second of all clients together.
    pub(crate) ops: f64,
    /// The median latency, in microseconds.
    pub(crate) p50: f64,
    /// The 99th percentile of the latency, in microseconds.
    pub(crate) p99: f64,
    /// Processor time of the daemons per call, in microseconds, if known.
    pub(crate) processor: Option<f64>,
}

/// Opens connections to a daemon.
pub(crate) async fn channels(daemon: &DaemonAddress) -> Result<Vec<Channel>> {
    let mut channels = Vec::new();
    for _ in 0..CHANNELS {
        channels.push(daemon.connect().await?);
    }
    Ok(channels)
}

/// Runs all clients at the same time and measures their calls.
pub(crate) async fn drive<C: Call>(
    clients: Vec<C>,
    time: Duration,
    servers: &[&DaemonProcess],
) -> Result<Sample> {
    let start = Instant::now() + WARM_UP;
    let end = start + time;
    let mut running = JoinSet::new();
    for client in clients {
        running.spawn(one(client, start, end));
    }
    let watched = async {
        sleep_until(start).await;
        let before = processor_time(servers);
        sleep_until(end).await;
        Ok::<_, Error>(used_since(before, servers))
    };
    let joined = async {
        let mut latencies = Vec::new();
        while let Some(ended) = running.join_next().await {
            let ended = ended.map_err(|e| Error::new(Reason::Internal, format!("a client failed: {e}")))?;
            latencies.extend(ended?);
        }
        Ok(latencies)
    };
    // A failed client ends the run.
    let (processor, latencies) = tokio::try_join!(watched, joined)?;
    summary(latencies, time, processor)
}

/// The processor time that some daemons have used; `None` if that of one is unknown, or if there are none.
pub(crate) fn processor_time(servers: &[&DaemonProcess]) -> Option<Duration> {
    if servers.is_empty() {
        return None;
    }
    servers.iter().map(|server| server.processor_time()).sum()
}

/// The processor time that daemons have used since it was `before`.
pub(crate) fn used_since(before: Option<Duration>, servers: &[&DaemonProcess]) -> Option<Duration> {
    before.zip(processor_time(servers)).map(|(before, after)| after.saturating_sub(before))
}

/// The latencies of the calls that started and ended in the measured time, in microseconds.
async fn one(mut client: impl Call, start: Instant, end: Instant) -> Result<Vec<u32>> {
    let mut latencies = Vec::with_capacity(1 << 16);
    let mut began = Instant::now();
    while began < end {
        client.call().await?;
        let ended = Instant::now();
        if began >= start && ended <= end {
            latencies.push(u32::try_from((ended - began).as_micros()).unwrap_or(u32::MAX));
        }
        began = ended;
    }
    Ok(latencies)
}

/// Computes the figures from latencies in microseconds.
pub(crate) fn summary(
    mut latencies: Vec<u32>,
    time: Duration,
    processor: Option<Duration>,
) -> Result<Sample> {
    latencies.sort_unstable();
    let at = |part: usize| {
        let index = (latencies.len().saturating_sub(1)) * part / 100;
        latencies.get(index).copied().map(f64::from)
    };
    let (Some(p50), Some(p99)) = (at(50), at(99)) else {
        return Err(Error::new(
            Reason::Internal,
            format!("no call ended within {time:?}; increase --seconds"),
        ));
    };
    let count = latencies.len() as f64;
    let processor = processor.map(|used| used.as_secs_f64() * 1e6 / count);
    Ok(Sample { ops: count / time.as_secs_f64(), p50, p99, processor })
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Sleeper;

    impl Call for Sleeper {
        async fn call(&mut self) -> Result<()> {
            tokio::time::sleep(Duration::from_millis(5)).await;
            Ok(())
        }
    }

    struct Failing;

    impl Call for Failing {
        async fn call(&mut self) -> Result<()> {
            Err(Error::new(Reason::Internal, "no"))
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_calls_of_every_client_are_counted() {
        let clients = (0..10).map(|_| Sleeper).collect();
        let sample = drive(clients, Duration::from_secs(2), &[]).await.unwrap();
        // With a paused clock a call takes 5 ms, or 6 ms if the timer rounds up.
        assert!((1600.0..=2000.0).contains(&sample.ops), "{sample:?}");
        assert!(sample.p50 >= 5000.0 && sample.p99 <= 7000.0, "{sample:?}");
    }

    #[tokio::test]
    async fn an_error_ends_the_run() {
        let began = Instant::now();
        assert!(drive(vec![Failing], Duration::from_secs(60), &[]).await.is_err());
        assert!(began.elapsed() < Duration::from_secs(10));
    }

    #[test]
    fn percentiles_are_computed() {
        let sample =
            summary((1..=100).rev().collect(), Duration::from_secs(2), Some(Duration::from_millis(1)));
        let expected = Sample { ops: 50.0, p50: 50.0, p99: 99.0, processor: Some(10.0) };
        assert_eq!(sample.unwrap(), expected);
        assert!(summary(Vec::new(), Duration::from_secs(1), None).is_err());
    }
}
