//! The memory that requests may take from a daemon: one budget in bytes, split by use.
//!
//! Whatever a client can make a daemon hold is reserved here first: what is refused costs nothing, and what is granted is
//! given back when the permit is dropped. A use can never take the share of another, so a flood of requests leaves room for
//! the answers to those that are being served. The block cache and the memtables have bounds of their own.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::error::{Error, Reason, Result};
use crate::planted::{self, PlantedBug};

/// How long a refused caller should wait before it tries again.
const RETRY_AFTER: Duration = Duration::from_millis(200);

/// What memory is used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MemoryUse {
    /// Bytes of requests that are being received or served.
    Requests,
    /// Answers that wait until their client has room for them.
    Answers,
    /// The working sets of running queries.
    Queries,
    /// Batches of ingest streams, and the answers to them that are not sent yet.
    Ingest,
    /// The state of watches.
    Watches,
}

impl MemoryUse {
    /// Every use.
    pub const ALL: [MemoryUse; 5] =
        [MemoryUse::Requests, MemoryUse::Answers, MemoryUse::Queries, MemoryUse::Ingest, MemoryUse::Watches];

    /// The name in Status and in errors.
    pub const fn name(self) -> &'static str {
        match self {
            MemoryUse::Requests => "requests",
            MemoryUse::Answers => "answers",
            MemoryUse::Queries => "queries",
            MemoryUse::Ingest => "ingest",
            MemoryUse::Watches => "watches",
        }
    }

    /// The share of the whole budget, in sixteenths.
    const fn sixteenths(self) -> u64 {
        match self {
            MemoryUse::Requests => 5,
            MemoryUse::Answers | MemoryUse::Queries | MemoryUse::Ingest => 3,
            MemoryUse::Watches => 2,
        }
    }

    const fn index(self) -> usize {
        self as usize
    }
}

/// One use of the memory, as Status shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryUsage {
    /// What for.
    pub of: MemoryUse,
    /// Bytes reserved now.
    pub bytes: u64,
    /// The most that can be reserved, in bytes.
    pub limit_bytes: u64,
    /// Requests that were refused because it was all in use, since the daemon started.
    pub refused: u64,
}

#[derive(Debug, Default)]
struct Share {
    bytes: AtomicU64,
    limit: u64,
    refused: AtomicU64,
}

/// The budget of one daemon.
#[derive(Debug)]
pub struct MemoryBudget {
    shares: [Share; MemoryUse::ALL.len()],
}

impl MemoryBudget {
    /// A budget of `total` bytes over all uses.
    pub fn new(total: u64) -> Arc<MemoryBudget> {
        let share = |of: MemoryUse| Share { limit: total / 16 * of.sixteenths(), ..Share::default() };
        Arc::new(MemoryBudget { shares: MemoryUse::ALL.map(share) })
    }

    fn share(&self, of: MemoryUse) -> Option<&Share> {
        self.shares.get(of.index())
    }

    /// Reserves bytes for a use.
    ///
    /// # Errors
    /// `OVERLOADED`, with a retry delay, if less is free.
    pub fn reserve(self: &Arc<Self>, of: MemoryUse, bytes: u64) -> Result<MemoryPermit> {
        let mut permit = MemoryPermit { budget: Arc::clone(self), of, bytes: 0 };
        permit.grow(bytes)?;
        Ok(permit)
    }

    /// How much each use holds.
    pub fn usage(&self) -> [MemoryUsage; MemoryUse::ALL.len()] {
        MemoryUse::ALL.map(|of| {
            let read = |counter: fn(&Share) -> u64| self.share(of).map_or(0, counter);
            MemoryUsage {
                of,
                bytes: read(|share| share.bytes.load(Ordering::Relaxed)),
                limit_bytes: read(|share| share.limit),
                refused: read(|share| share.refused.load(Ordering::Relaxed)),
            }
        })
    }

    fn take(&self, of: MemoryUse, bytes: u64) -> Result<()> {
        let Some(share) = self.share(of) else { return Ok(()) };
        let fits = |used: u64| {
            let sum = used.checked_add(bytes)?;
            (sum <= share.limit || planted::is_planted(PlantedBug::BudgetIgnored)).then_some(sum)
        };
        match share.bytes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits) {
            Ok(_) => Ok(()),
            Err(used) => {
                share.refused.fetch_add(1, Ordering::Relaxed);
                let message = format!(
                    "not enough memory for {}: {bytes} bytes are needed, and {used} of {} are in use; retry later",
                    of.name(),
                    share.limit
                );
                Err(Error::new(Reason::Overloaded, message)
                    .with("memory", of.name())
                    .retry_after(RETRY_AFTER))
            }
        }
    }

    fn give_back(&self, of: MemoryUse, bytes: u64) {
        if let Some(share) = self.share(of) {
            share.bytes.fetch_sub(bytes, Ordering::Relaxed);
        }
    }
}

/// Reserved memory. Dropping it gives the memory back.
#[derive(Debug)]
pub struct MemoryPermit {
    budget: Arc<MemoryBudget>,
    of: MemoryUse,
    bytes: u64,
}

impl MemoryPermit {
    /// The bytes that this permit holds.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Reserves more. After an error the permit is as it was.
    ///
    /// # Errors
    /// `OVERLOADED`, with a retry delay, if less is free.
    pub fn grow(&mut self, bytes: u64) -> Result<()> {
        self.budget.take(self.of, bytes)?;
        self.bytes += bytes;
        Ok(())
    }

    /// Gives back some of it, at most all.
    pub fn shrink(&mut self, bytes: u64) {
        let bytes = bytes.min(self.bytes);
        self.budget.give_back(self.of, bytes);
        self.bytes -= bytes;
    }
}

impl Drop for MemoryPermit {
    fn drop(&mut self) {
        self.budget.give_back(self.of, self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_use_cannot_take_more_than_its_share() {
        let budget = MemoryBudget::new(1600);
        let mut permit = budget.reserve(MemoryUse::Queries, 300).unwrap();
        let error = permit.grow(1).unwrap_err();
        assert_eq!((error.reason(), error.retry_delay()), (Reason::Overloaded, Some(RETRY_AFTER)));
        assert_eq!(permit.bytes(), 300);
        // Other uses have room.
        budget.reserve(MemoryUse::Answers, 300).unwrap();
        permit.shrink(100);
        budget.reserve(MemoryUse::Queries, 100).unwrap();
        drop(permit);
        assert!(budget.usage().iter().all(|usage| usage.bytes == 0));
    }

    #[test]
    fn the_shares_are_the_whole() {
        assert_eq!(MemoryUse::ALL.iter().map(|of| of.sixteenths()).sum::<u64>(), 16);
    }
}
