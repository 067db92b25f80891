//! Proves in tests that no file is read under a lock that all requests share.
//!
//! Code that holds such a lock keeps an [`IoBan`]. A debug build then panics at a read of an SST, also at one that the block
//! cache would answer: what is in the cache today has to be read from the disk tomorrow. A release contains nothing of this.

#[cfg(debug_assertions)]
thread_local! {
    static BANS: std::cell::Cell<u32> = const { std::cell::Cell::new(0) };
}

/// While it exists, this thread must not read files.
#[derive(Debug)]
pub struct IoBan {
    /// Keeps the ban on the thread that made it.
    _thread: std::marker::PhantomData<*const ()>,
}

impl IoBan {
    /// Forbids this thread to read files.
    #[expect(clippy::new_without_default, reason = "a ban is made on purpose")]
    pub fn new() -> IoBan {
        #[cfg(debug_assertions)]
        BANS.with(|bans| bans.set(bans.get() + 1));
        IoBan { _thread: std::marker::PhantomData }
    }
}

impl Drop for IoBan {
    fn drop(&mut self) {
        #[cfg(debug_assertions)]
        BANS.with(|bans| bans.set(bans.get().saturating_sub(1)));
    }
}

/// Panics in a debug build if this thread must not read files.
#[inline]
pub(crate) fn check() {
    #[cfg(debug_assertions)]
    BANS.with(|bans| assert_eq!(bans.get(), 0, "a file is read under a lock that all requests share"));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_read_under_a_ban_panics() {
        check();
        let ban = IoBan::new();
        assert!(std::panic::catch_unwind(check).is_err());
        drop(ban);
        check();
    }
}
