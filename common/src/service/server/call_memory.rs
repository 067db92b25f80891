//! The memory of one call: what its request takes, and how the handler hands it on.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::Mutex;
use tokio_util::sync::WaitForCancellationFutureOwned;

use crate::error::{Error, Reason, Result};
use crate::memory::{Claim, MemoryAccount, MemoryPermit, MemoryUse};
use crate::service::server::clients::{CallPlace, ClientId, WatchPlace};
use crate::service::server::connections::ConnectionState;

/// Memory that an open call takes besides its headers and messages: its task, its stream and its buffers.
const CALL_BYTES: u64 = 4 << 10;
/// The memory of a request, received and decoded, that takes long to decode.
const LONG_REQUEST_BYTES: u64 = 256 << 10;

/// Resolves once memory is free.
pub type WaitForMemory = Pin<Box<dyn Future<Output = MemoryPermit> + Send>>;

/// The memory of a call. Handlers find it in the extensions of their request.
#[derive(Debug, Clone)]
pub struct CallMemory(Arc<OpenCall>);

#[derive(Debug)]
struct OpenCall {
    connection: Arc<ConnectionState>,
    client: ClientId,
    _place: CallPlace,
    /// What the call holds as long as it is open.
    base: u64,
    request: Mutex<MemoryPermit>,
    /// The part of `request` whose messages have arrived whole and are not handed on.
    arrived: AtomicU64,
    is_computed: AtomicBool,
    waits: AtomicBool,
    is_watch: AtomicBool,
}

impl Drop for OpenCall {
    fn drop(&mut self) {
        self.connection.end_call();
    }
}

impl CallMemory {
    /// A call of a client over a connection, with `header_bytes` of headers.
    ///
    /// # Errors
    /// `OVERLOADED` if too many calls are open, or the connection or the process has no memory for another call.
    pub(super) fn open(
        connection: &Arc<ConnectionState>,
        client: ClientId,
        header_bytes: u64,
    ) -> Result<CallMemory> {
        let place = connection.clients.begin_call(connection.network_calls.clone())?;
        let base = CALL_BYTES + header_bytes;
        let request = connection.memory.reserve(MemoryUse::Requests, base)?;
        connection.begin_call();
        Ok(CallMemory(Arc::new(OpenCall {
            connection: Arc::clone(connection),
            client,
            _place: place,
            base,
            request: Mutex::new(request),
            arrived: AtomicU64::new(0),
            is_computed: AtomicBool::new(false),
            waits: AtomicBool::new(false),
            is_watch: AtomicBool::new(false),
        })))
    }

    /// The memory of the connection, for what the call holds besides its request.
    pub fn account(&self) -> &Arc<MemoryAccount> {
        &self.0.connection.memory
    }

    /// Counts the call as a watch of its client.
    ///
    /// # Errors
    /// `OVERLOADED`, with a retry delay, if the client has as many watches as it may.
    pub fn begin_watch(&self) -> Result<WatchPlace> {
        self.0.is_watch.store(true, Ordering::Relaxed);
        self.0.connection.clients.begin_watch(&self.0.client)
    }

    /// Resolves when the answer must end because its connection is too old. `None` if connections may have any age, and for a call
    /// that a client cannot resume: an error would tell it that nothing was done, and nobody knows that.
    pub(super) fn end_of_connection(&self) -> Option<WaitForCancellationFutureOwned> {
        let connection = &self.0.connection;
        connection.clients.limits().connection_age?;
        let can_resume = self.is_computed_on_demand()
            || self.waits_for_messages()
            || self.0.is_watch.load(Ordering::Relaxed);
        can_resume.then(|| connection.ending.clone().cancelled_owned())
    }

    /// A future that reserves memory of the connection once it is free.
    pub(super) fn wait_for_memory(&self, of: MemoryUse, claim: Claim, bytes: u64) -> WaitForMemory {
        Box::pin(Arc::clone(self.account()).reserve_when_free(of, claim, bytes))
    }

    /// Reserves memory for bytes that arrived.
    ///
    /// # Errors
    /// `OVERLOADED` if less is free; `TOO_LARGE` if the request alone takes more than a connection may hold.
    pub(super) fn receive(&self, added: u64) -> Result<()> {
        let mut request = self.0.request.lock();
        let limit = self.account().limit(MemoryUse::Requests);
        if request.bytes().saturating_add(added) > limit {
            let message = format!(
                "the request is too large: decoded it takes more than {limit} bytes of memory, the limit for one connection; send less at once"
            );
            return Err(Error::new(Reason::TooLarge, message));
        }
        request.grow(added)
    }

    /// Adds memory that was reserved for bytes that arrived.
    pub(super) fn receive_reserved(&self, reserved: MemoryPermit) {
        self.0.request.lock().absorb(reserved);
    }

    /// Messages that took `completed` bytes have arrived whole.
    pub(super) fn complete(&self, completed: u64) {
        self.0.arrived.fetch_add(completed, Ordering::Relaxed);
    }

    /// Gives back what the messages take that the handler has received, because it holds no more of them or has reserved
    /// them under another use.
    pub fn hand_on_messages(&self) {
        let arrived = self.0.arrived.swap(0, Ordering::Relaxed);
        let mut request = self.0.request.lock();
        let beyond_base = request.bytes().saturating_sub(self.0.base);
        request.shrink(arrived.min(beyond_base));
    }

    /// Gives back all that the request takes, because the handler is done with it or has reserved it under another use.
    pub fn release_request(&self) {
        self.0.arrived.store(0, Ordering::Relaxed);
        let mut request = self.0.request.lock();
        let beyond_base = request.bytes().saturating_sub(self.0.base);
        request.shrink(beyond_base);
    }

    /// Declares that the handler takes messages one by one and gives each back with [`CallMemory::hand_on_messages`]. A message
    /// that finds no memory then waits, and HTTP/2 makes the client wait. Without it, the call fails.
    pub fn wait_for_messages(&self) {
        self.0.waits.store(true, Ordering::Relaxed);
    }

    /// Whether the handler has called [`CallMemory::wait_for_messages`].
    pub(super) fn waits_for_messages(&self) -> bool {
        self.0.waits.load(Ordering::Relaxed)
    }

    /// Declares that each message of the answer is computed when it is asked for, and large. The answer then waits for memory
    /// before a message is computed. Without it, a message that finds no memory ends the call.
    pub fn compute_on_demand(&self) {
        self.0.is_computed.store(true, Ordering::Relaxed);
    }

    /// Whether the call may keep others from a core: its request is large, it takes message after message, or it computes its
    /// answer message by message.
    pub(super) fn is_long(&self) -> bool {
        self.waits_for_messages()
            || self.is_computed_on_demand()
            || self.0.request.lock().bytes() > self.0.base + LONG_REQUEST_BYTES
    }

    /// Whether the handler has called [`CallMemory::compute_on_demand`].
    pub(super) fn is_computed_on_demand(&self) -> bool {
        self.0.is_computed.load(Ordering::Relaxed)
    }
}
