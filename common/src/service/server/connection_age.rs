//! The end of a connection that has become too old: its client is told first, then its streams end, then it is closed.

use std::hash::{BuildHasher, RandomState};
use std::pin::Pin;
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep_until};

use crate::service::server::limit_options::ServerLimits;

/// How long the ends of streams may take to reach the client.
const LAST_MESSAGES: Duration = Duration::from_secs(5);

/// What happens to a connection because of its age.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AgeEvent {
    /// Its client must begin further calls on another connection.
    Old,
    /// The answers that are still being sent must end.
    GraceOver,
    /// It must close.
    Over,
}

/// The age of one connection.
#[derive(Debug)]
pub struct ConnectionAge {
    /// What comes next; `None` for nothing ever.
    next: Option<(AgeEvent, Pin<Box<Sleep>>)>,
    grace: Duration,
}

impl ConnectionAge {
    /// A new connection.
    pub fn new(limits: &ServerLimits) -> ConnectionAge {
        // Each RandomState has other keys.
        let random = RandomState::new().hash_one(0);
        let next = limits.connection_age.map(|age| {
            let at = Instant::now() + with_jitter(age, random);
            (AgeEvent::Old, Box::pin(sleep_until(at)))
        });
        ConnectionAge { next, grace: limits.connection_grace }
    }

    /// Waits for the next event. A call that is cancelled loses nothing.
    pub async fn next(&mut self) -> AgeEvent {
        let Some((event, due)) = &mut self.next else { return std::future::pending().await };
        due.as_mut().await;
        let event = *event;
        let then = match event {
            AgeEvent::Old => Some((AgeEvent::GraceOver, self.grace)),
            AgeEvent::GraceOver => Some((AgeEvent::Over, LAST_MESSAGES)),
            AgeEvent::Over => None,
        };
        self.next = then.map(|(event, after)| (event, Box::pin(sleep_until(Instant::now() + after))));
        event
    }
}

/// An age from nine to eleven tenths of `age`, so that connections that were opened together do not all end together.
fn with_jitter(age: Duration, random: u64) -> Duration {
    let thousandths = 900 + u32::try_from(random % 201).unwrap_or_default();
    age.saturating_mul(thousandths) / 1000
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_differ_by_a_tenth_at_most() {
        let age = Duration::from_secs(1000);
        let ages: Vec<_> = (0..1000).map(|random| with_jitter(age, random).as_secs()).collect();
        assert_eq!((ages.iter().min(), ages.iter().max()), (Some(&900), Some(&1100)));
    }

    #[tokio::test]
    async fn a_connection_is_told_then_its_streams_end_then_it_closes() {
        let limits = ServerLimits {
            connection_age: Some(Duration::from_millis(10)),
            connection_grace: Duration::from_millis(10),
            ..ServerLimits::default()
        };
        let mut age = ConnectionAge::new(&limits);
        assert_eq!((age.next().await, age.next().await), (AgeEvent::Old, AgeEvent::GraceOver));
        assert!(tokio::time::timeout(Duration::from_millis(10), age.next()).await.is_err());
        let mut ageless = ConnectionAge::new(&ServerLimits::default());
        assert!(tokio::time::timeout(Duration::from_millis(10), ageless.next()).await.is_err());
    }
}
