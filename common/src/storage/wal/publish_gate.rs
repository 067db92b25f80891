//! What a group must pass between its syncs and its publishing: a copy elsewhere, for example, without which it must not be acknowledged.

use std::fmt;
use std::time::Instant;

use crate::error::Result;
use crate::storage::head::Head;

/// A gate between the disk and those who see a commit.
pub trait PublishGate: Send + Sync + fmt::Debug {
    /// Blocks until what HEAD is about to publish may be shown and acknowledged. All of it is on disk, and nothing else changes the
    /// directory meanwhile. An error is fatal for the writer: it is not known what others see.
    fn pass(&self, next: &dyn Fn() -> Head) -> Result<()>;
    /// When the next group can pass at the earliest, if that is later. Until then, it is better left open for further commits.
    fn opens_at(&self) -> Option<Instant>;
    /// Whether a group may have to wait at the gate for long. Then no request writes its commit itself: that would hold up the other
    /// requests of its connection.
    fn may_wait(&self) -> bool;
    /// Fails if this process is not the database's writer any more.
    fn check_writer(&self) -> Result<()>;
    /// Fails with OVERLOADED if a new commit would wait for too long.
    fn check_open(&self) -> Result<()>;
}

/// A gate that lets everything pass.
#[derive(Debug, Clone, Copy, Default)]
pub struct OpenGate;

impl PublishGate for OpenGate {
    fn pass(&self, _: &dyn Fn() -> Head) -> Result<()> {
        Ok(())
    }

    fn opens_at(&self) -> Option<Instant> {
        None
    }

    fn may_wait(&self) -> bool {
        false
    }

    fn check_writer(&self) -> Result<()> {
        Ok(())
    }

    fn check_open(&self) -> Result<()> {
        Ok(())
    }
}
