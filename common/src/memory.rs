//! The memory that requests may take from a daemon: one budget in bytes, split by use.
//!
//! Whatever a client can make a daemon hold is reserved here first: what is refused costs nothing, and what is granted is
//! given back when the permit is dropped. A use can never take the share of another, so a flood of requests leaves room for
//! the answers to those that are being served. What one connection holds is an account with a limit of its own, so that a
//! connection cannot take a whole share. The last eighth of a share is kept for small reservations: while large requests
//! and answers have filled it, a short call still passes. The block cache and the memtables have bounds of their own.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::Notify;

use crate::error::{Error, Reason, Result};
use crate::limits;
use crate::planted::{self, PlantedBug};

/// A reservation of at most this many bytes may use the last eighth of a share.
const SMALL_BYTES: u64 = 64 << 10;

/// What a reservation is for, which decides how much of an account and of a share it may fill.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Claim {
    /// Something that will be computed once the memory is reserved. Leaves a quarter of the account, so that what has been
    /// computed and turns out to be larger can be completed.
    Ahead,
    /// Something that is there.
    Present,
    /// The rest of something that was reserved ahead. May fill everything: it must end before others can go on.
    Rest,
    /// What its holder can do without. Leaves three quarters of everything to those who cannot.
    Spare,
}

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
    /// The part of `refused` for which the budget lacked memory, not the connection's account.
    lacked: AtomicU64,
    /// Notified when some of it was given back.
    room: Arc<Notify>,
}

impl Share {
    /// Adds bytes, unless the sum would be over `limit`. Returns the bytes in use then.
    fn take(&self, limit: u64, bytes: u64) -> Result<(), u64> {
        let fits = |used: u64| {
            let sum = used.checked_add(bytes)?;
            (sum <= limit || planted::is_planted(PlantedBug::BudgetIgnored)).then_some(sum)
        };
        self.bytes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits).map(|_| ())
    }

    fn give_back(&self, bytes: u64) {
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
        self.room.notify_one();
    }
}

type Shares = [Share; MemoryUse::ALL.len()];

/// The budget of one daemon.
#[derive(Debug)]
pub struct MemoryBudget {
    shares: Shares,
}

/// What one connection holds of a budget. A connection may hold only a part of each share.
#[derive(Debug)]
pub struct MemoryAccount {
    budget: Arc<MemoryBudget>,
    shares: Shares,
    /// All bytes of answers, ingest acknowledgements included, that were given back so far.
    answers_taken: AtomicU64,
}

/// A reservation was refused.
#[derive(Debug)]
pub struct NoRoom {
    /// Why, for the caller.
    pub error: Error,
    /// Notified when there may be room: by the account if it is full, or else by the whole budget.
    pub room: Arc<Notify>,
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
        let mut permit = MemoryPermit { budget: Arc::clone(self), account: None, of, bytes: 0 };
        permit.grow(bytes)?;
        Ok(permit)
    }

    /// The most that one connection may hold of a use: half of it, or for requests as much as the largest request takes.
    pub fn account_limit(&self, of: MemoryUse) -> u64 {
        let share = self.share(of).map_or(0, |share| share.limit);
        match of {
            MemoryUse::Requests => limits::REQUEST_MEMORY_OF_CONNECTION_BYTES.min(share - share / 8),
            _ => share / 2,
        }
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

    /// How often the budget lacked memory for answers, ingest acknowledgements included.
    pub fn answers_lacked(&self) -> u64 {
        let shares = [MemoryUse::Answers, MemoryUse::Ingest].into_iter().filter_map(|of| self.share(of));
        shares.map(|share| share.lacked.load(Ordering::Relaxed)).sum()
    }

    fn take(&self, of: MemoryUse, claim: Claim, held: u64, bytes: u64) -> Result<(), NoRoom> {
        let Some(share) = self.share(of) else { return Ok(()) };
        let is_small = held.saturating_add(bytes) <= SMALL_BYTES;
        let limit = match claim {
            Claim::Spare => share.limit / 4,
            Claim::Rest => share.limit,
            Claim::Ahead | Claim::Present if is_small => share.limit,
            Claim::Ahead | Claim::Present => share.limit - share.limit / 8,
        };
        share.take(limit, bytes).map_err(|used| {
            share.refused.fetch_add(1, Ordering::Relaxed);
            share.lacked.fetch_add(1, Ordering::Relaxed);
            let message = format!(
                "not enough memory for {}: {bytes} bytes are needed, and {used} of {} are in use; retry later, or raise --request-memory",
                of.name(),
                share.limit
            );
            no_room(of, message, &share.room)
        })
    }

    fn give_back(&self, of: MemoryUse, bytes: u64) {
        if let Some(share) = self.share(of) {
            share.give_back(bytes);
        }
    }
}

fn no_room(of: MemoryUse, message: String, room: &Arc<Notify>) -> NoRoom {
    let error = Error::new(Reason::Overloaded, message).with("memory", of.name()).retry_after(RETRY_AFTER);
    NoRoom { error, room: Arc::clone(room) }
}

impl MemoryAccount {
    /// An account without reservations.
    pub fn new(budget: Arc<MemoryBudget>) -> Arc<MemoryAccount> {
        let share = |of| Share { limit: budget.account_limit(of), ..Share::default() };
        let shares = MemoryUse::ALL.map(share);
        Arc::new(MemoryAccount { budget, shares, answers_taken: AtomicU64::new(0) })
    }

    /// Reserves bytes for a use, in the account and in the budget.
    ///
    /// # Errors
    /// `OVERLOADED`, with a retry delay, if less is free in one of the two.
    pub fn reserve(self: &Arc<Self>, of: MemoryUse, bytes: u64) -> Result<MemoryPermit> {
        self.try_reserve(of, Claim::Present, bytes).map_err(|full| full.error)
    }

    /// Like [`MemoryAccount::reserve`], for callers that can wait for room.
    pub fn try_reserve(
        self: &Arc<Self>,
        of: MemoryUse,
        claim: Claim,
        bytes: u64,
    ) -> Result<MemoryPermit, NoRoom> {
        let (budget, account) = (Arc::clone(&self.budget), Some(Arc::clone(self)));
        let mut permit = MemoryPermit { budget, account, of, bytes: 0 };
        permit.try_grow(claim, bytes)?;
        Ok(permit)
    }

    /// Waits until the bytes are free, and reserves them. They must not be more than the claim may fill of the account.
    pub async fn reserve_when_free(self: Arc<Self>, of: MemoryUse, claim: Claim, bytes: u64) -> MemoryPermit {
        let mut waited: Option<Arc<Notify>> = None;
        loop {
            let reserved = self.try_reserve(of, claim, bytes);
            // One waiter was woken for all. It wakes the next one if there may be more room, or if it leaves the queue.
            let goes_on = reserved.as_ref().err().map(|full| &full.room);
            if let Some(room) = waited.take()
                && !goes_on.is_some_and(|next| Arc::ptr_eq(next, &room))
            {
                room.notify_one();
            }
            match reserved {
                Ok(permit) => return permit,
                Err(full) => {
                    full.room.notified().await;
                    waited = Some(full.room);
                }
            }
        }
    }

    /// The most that the account can hold of a use.
    pub fn limit(&self, of: MemoryUse) -> u64 {
        self.share(of).map_or(0, |share| share.limit)
    }

    /// The bytes of answers, ingest acknowledgements included, that the account holds.
    pub fn answers_held(&self) -> u64 {
        self.held(MemoryUse::Answers) + self.held(MemoryUse::Ingest)
    }

    /// The bytes that the account holds of a use.
    pub fn held(&self, of: MemoryUse) -> u64 {
        self.share(of).map_or(0, |share| share.bytes.load(Ordering::Relaxed))
    }

    /// All bytes of answers, ingest acknowledgements included, that were given back so far.
    pub fn answers_taken(&self) -> u64 {
        self.answers_taken.load(Ordering::Relaxed)
    }

    fn share(&self, of: MemoryUse) -> Option<&Share> {
        self.shares.get(of.index())
    }

    fn take(&self, of: MemoryUse, claim: Claim, held: u64, bytes: u64) -> Result<(), NoRoom> {
        let Some(share) = self.share(of) else { return Ok(()) };
        // The account keeps no eighth for small reservations: its connection's own large ones only wait for each other.
        let limit = match claim {
            Claim::Spare => share.limit / 4,
            Claim::Ahead => share.limit - share.limit / 4,
            Claim::Present | Claim::Rest => share.limit,
        };
        if let Err(used) = share.take(limit, bytes) {
            if let Some(whole) = self.budget.share(of) {
                whole.refused.fetch_add(1, Ordering::Relaxed);
            }
            let message = format!(
                "this connection needs too much memory for {}: {bytes} bytes are needed, and {used} of {} are in use; let other calls end first, or use several connections",
                of.name(),
                share.limit
            );
            return Err(no_room(of, message, &share.room));
        }
        self.budget
            .take(of, claim, held, bytes)
            .inspect_err(|_| _ = share.bytes.fetch_sub(bytes, Ordering::Relaxed))
    }

    fn give_back(&self, of: MemoryUse, bytes: u64) {
        if matches!(of, MemoryUse::Answers | MemoryUse::Ingest) {
            self.answers_taken.fetch_add(bytes, Ordering::Relaxed);
        }
        self.budget.give_back(of, bytes);
        if let Some(share) = self.share(of) {
            share.give_back(bytes);
        }
    }
}

/// Reserved memory. Dropping it gives the memory back.
#[derive(Debug)]
pub struct MemoryPermit {
    budget: Arc<MemoryBudget>,
    account: Option<Arc<MemoryAccount>>,
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
        self.try_grow(Claim::Present, bytes).map_err(|full| full.error)
    }

    /// Like [`MemoryPermit::grow`], for callers that can wait for room.
    pub fn try_grow(&mut self, claim: Claim, bytes: u64) -> Result<(), NoRoom> {
        match &self.account {
            Some(account) => account.take(self.of, claim, self.bytes, bytes)?,
            None => self.budget.take(self.of, claim, self.bytes, bytes)?,
        }
        self.bytes += bytes;
        Ok(())
    }

    /// Adds what another permit of the same use and account holds.
    pub fn absorb(&mut self, mut other: MemoryPermit) {
        self.bytes += std::mem::take(&mut other.bytes);
    }

    /// Gives back some of it, at most all.
    pub fn shrink(&mut self, bytes: u64) {
        let bytes = bytes.min(self.bytes);
        // A refused reservation gives nothing back: it must not wake those that wait for room, itself among them.
        if bytes == 0 {
            return;
        }
        self.bytes -= bytes;
        match &self.account {
            Some(account) => account.give_back(self.of, bytes),
            None => self.budget.give_back(self.of, bytes),
        }
    }
}

impl Drop for MemoryPermit {
    fn drop(&mut self) {
        self.shrink(self.bytes);
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
    fn a_connection_cannot_take_a_whole_share() {
        let budget = MemoryBudget::new(1600);
        let (one, other) = (MemoryAccount::new(Arc::clone(&budget)), MemoryAccount::new(Arc::clone(&budget)));
        let held = one.reserve(MemoryUse::Answers, 150).unwrap();
        assert_eq!(one.reserve(MemoryUse::Answers, 1).unwrap_err().reason(), Reason::Overloaded);
        assert_eq!((one.held(MemoryUse::Answers), one.answers_taken()), (150, 0));
        let _second = other.reserve(MemoryUse::Answers, 150).unwrap();
        drop(held);
        assert_eq!((one.held(MemoryUse::Answers), one.answers_taken()), (0, 150));
        assert_eq!(budget.usage().map(|usage| usage.bytes), [0, 150, 0, 0, 0]);
    }

    #[tokio::test]
    async fn those_who_wait_are_served_as_memory_is_given_back() {
        let budget = MemoryBudget::new(1600);
        let one = MemoryAccount::new(Arc::clone(&budget));
        let mut held: Vec<_> = (0..15).map(|_| one.reserve(MemoryUse::Answers, 10).unwrap()).collect();
        let wait = || {
            let one = Arc::clone(&one);
            tokio::spawn(async { drop(one.reserve_when_free(MemoryUse::Answers, Claim::Present, 10).await) })
        };
        let (left, others) = (wait(), (0..30).map(|_| wait()).collect::<Vec<_>>());
        tokio::task::yield_now().await;
        // A waiter that leaves takes nobody's turn.
        left.abort();
        held.clear();
        for served in others {
            served.await.unwrap();
        }
        assert_eq!(one.held(MemoryUse::Answers), 0);
    }

    #[test]
    fn what_is_reserved_ahead_leaves_room_for_its_rest() {
        let budget = MemoryBudget::new(1600);
        let one = MemoryAccount::new(Arc::clone(&budget));
        let ahead = || one.try_reserve(MemoryUse::Answers, Claim::Ahead, 40);
        let mut begun: Vec<_> = std::iter::from_fn(|| ahead().ok()).collect();
        assert_eq!(begun.len(), 2);
        begun[0].try_grow(Claim::Rest, 30).unwrap();
    }

    #[test]
    fn large_reservations_leave_room_for_small_ones() {
        let budget = MemoryBudget::new(16 << 20);
        let share = 3 << 20;
        let _large = budget.reserve(MemoryUse::Queries, share / 8 * 7).unwrap();
        assert!(budget.reserve(MemoryUse::Queries, SMALL_BYTES + 1).is_err());
        budget.reserve(MemoryUse::Queries, SMALL_BYTES).unwrap();
    }

    #[test]
    fn the_shares_are_the_whole() {
        assert_eq!(MemoryUse::ALL.iter().map(|of| of.sixteenths()).sum::<u64>(), 16);
    }
}
