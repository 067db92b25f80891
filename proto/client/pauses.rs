//! The pauses between retries: exponential with jitter, so that clients that failed together do not retry together.

use std::time::{Duration, Instant};

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};

/// The pauses double from 10 ms to 1 s; jitter makes each up to twice as long.
const PAUSES: ExponentialBuilder = ExponentialBuilder::new()
    .with_min_delay(Duration::from_millis(10))
    .with_max_delay(Duration::from_secs(1))
    .without_max_times()
    .with_jitter();

/// The pauses of one call, up to its retry timeout.
#[derive(Debug)]
pub(super) struct Pauses {
    began: Instant,
    timeout: Option<Duration>,
    pauses: ExponentialBackoff,
}

impl Pauses {
    /// Starts the time of a call. Without a timeout, the pauses never end.
    pub(super) fn new(timeout: impl Into<Option<Duration>>) -> Pauses {
        Pauses { began: Instant::now(), timeout: timeout.into(), pauses: PAUSES.build() }
    }

    /// The next pause; `None` if it would exceed the timeout.
    pub(super) fn next(&mut self) -> Option<Duration> {
        self.at_least(Duration::ZERO)
    }

    /// The next pause, at least as long as the daemon asked for.
    pub(super) fn at_least(&mut self, asked: Duration) -> Option<Duration> {
        let pause = self.pauses.next()?.max(asked);
        self.allows(pause).then_some(pause)
    }

    /// Whether a pause ends within the retry timeout.
    pub(super) fn allows(&self, pause: Duration) -> bool {
        self.timeout.is_none_or(|timeout| self.began.elapsed() + pause <= timeout)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_limit_and_vary() {
        let mut pauses = Pauses::new(None);
        for longest in [20, 40, 80, 160, 320, 640, 1280, 2000, 2000, 2000] {
            let (pause, longest) = (pauses.next().unwrap(), Duration::from_millis(longest));
            assert!((longest / 2..=longest).contains(&pause), "{pause:?} is not about {longest:?}");
        }
        assert_eq!(pauses.at_least(Duration::from_secs(60)), Some(Duration::from_secs(60)));
    }

    #[test]
    fn pauses_end_with_the_timeout() {
        let mut pauses = Pauses::new(Duration::from_millis(100));
        assert!(pauses.next().is_some());
        assert_eq!(pauses.at_least(Duration::from_millis(200)), None);
        assert!(pauses.allows(Duration::ZERO));
    }
}
