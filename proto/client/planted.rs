//! Bugs of the client that `make planted` switches on, as those of the daemons in `common/src/planted.rs`: to prove that the conformance
//! scenarios catch them. Without the feature `planted`, which no release enables, there are none.

/// Whether a bug is switched on, by the environment variable `DRIFTDB_PLANTED`.
#[cfg(feature = "planted")]
pub(super) fn is_planted(bug: &str) -> bool {
    std::env::var("DRIFTDB_PLANTED").is_ok_and(|planted| planted == bug)
}

/// Whether a bug is switched on: never.
#[cfg(not(feature = "planted"))]
#[inline(always)]
pub(super) const fn is_planted(_: &str) -> bool {
    false
}
