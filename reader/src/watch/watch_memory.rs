//! The memory of one watch: its filter and state, and the messages that it has assembled.

use driftdb::v1;
use driftdb_common::error::Result;
use driftdb_common::limits;
use driftdb_common::memory::{Claim, MemoryPermit, MemoryUse};
use driftdb_common::service::server::{CallMemory, WatchPlace};
use prost::Message;

/// What a watch takes besides its filter. Includes messages of [`SHORT_BYTES`].
const WATCH_BYTES: u64 = 2 << 10;
/// A filter takes this many times its size in the request: it is parsed, and sorted.
const FILTER_COPIES: u64 = 3;
/// The bytes of messages that a watch assembles at a time if memory is short.
pub const SHORT_BYTES: usize = 4 << 10;
/// Assembled messages are there as messages and as the documents that they came from.
const MESSAGE_COPIES: u64 = 2;

/// The memory of a watch.
#[derive(Debug)]
pub struct WatchMemory {
    permit: MemoryPermit,
    base: u64,
    _place: WatchPlace,
}

impl WatchMemory {
    /// Reserves the memory of a watch. The memory of its request is given back: it counts as the watch's from now on.
    ///
    /// # Errors
    /// `OVERLOADED` if there is not enough, or if the client has as many watches as it may.
    pub fn reserve(call: &CallMemory, request: &v1::WatchDriftRequest) -> Result<WatchMemory> {
        let place = call.begin_watch()?;
        let base = WATCH_BYTES + FILTER_COPIES * request.encoded_len() as u64;
        let permit = call.account().reserve(MemoryUse::Watches, base)?;
        call.release_request();
        Ok(WatchMemory { permit, base, _place: place })
    }

    /// Reserves what the watch takes in the index of watches.
    ///
    /// # Errors
    /// `OVERLOADED` if there is not enough.
    pub fn reserve_index(&mut self, bytes: usize) -> Result<()> {
        self.permit.grow(bytes as u64)?;
        self.base += bytes as u64;
        Ok(())
    }

    /// The bytes of messages that may be assembled now: fewer if memory is short, so that neither watches whose clients do not read
    /// nor many that begin at once take the room of further watches.
    pub fn take_for_messages(&mut self) -> usize {
        let wanted = MESSAGE_COPIES * limits::MESSAGE_BYTES as u64;
        let missing = (self.base + wanted).saturating_sub(self.permit.bytes());
        if self.permit.try_grow(Claim::Spare, missing).is_ok() { limits::MESSAGE_BYTES } else { SHORT_BYTES }
    }

    /// All assembled messages were taken.
    pub fn give_back_messages(&mut self) {
        self.permit.shrink(self.permit.bytes().saturating_sub(self.base));
    }
}
