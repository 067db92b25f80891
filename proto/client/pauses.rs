//! The pauses between retries: exponential with jitter, so that clients that failed together do not retry together.

use std::time::{Duration, Instant};

use uuid::Uuid;

/// The first pause, without jitter. Each pause is twice as long as the one before it.
const FIRST: Duration = Duration::from_millis(20);
/// The longest pause, without jitter.
const LONGEST: Duration = Duration::from_secs(2);

/// The pauses of one call, up to its patience.
#[derive(Debug)]
pub(super) struct Pauses {
    began: Instant,
    patience: Option<Duration>,
    wait: Duration,
}

impl Pauses {
    pub(super) fn new(patience: impl Into<Option<Duration>>) -> Pauses {
        Pauses { began: Instant::now(), patience: patience.into(), wait: FIRST }
    }

    /// The next pause; `None` if it would exceed the patience.
    pub(super) fn next(&mut self) -> Option<Duration> {
        self.at_least(Duration::ZERO)
    }

    /// The next pause, at least as long as the daemon asked for.
    pub(super) fn at_least(&mut self, asked: Duration) -> Option<Duration> {
        let pause = (self.wait / 2 + jitter(self.wait / 2)).max(asked);
        let pause = self.allows(pause).then_some(pause)?;
        self.wait = (self.wait * 2).min(LONGEST);
        Some(pause)
    }

    /// Whether a pause ends within the patience.
    pub(super) fn allows(&self, pause: Duration) -> bool {
        self.patience.is_none_or(|patience| self.began.elapsed() + pause <= patience)
    }
}

/// A random part of a duration.
fn jitter(span: Duration) -> Duration {
    let (random, _) = Uuid::new_v4().as_u64_pair();
    let below = span.as_micros().max(1);
    Duration::from_micros(u64::try_from(u128::from(random) % below).unwrap_or_default())
}
