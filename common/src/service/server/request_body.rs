//! The body of a request as it arrives: every byte is reserved before it is kept, and a message must not take for ever.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame};
use hyper::body::Incoming;
use tokio::time::{Sleep, sleep};
use tonic::Status;

use crate::error::{Error, Reason, Result};
use crate::limits;
use crate::memory::{Claim, MemoryUse};
use crate::service::server::call_memory::{CallMemory, WaitForMemory};
use crate::service::server::message_scan::MessageScan;
use crate::service::status::to_status;

/// The time in which a message must arrive after its first byte.
const ARRIVAL: Duration = Duration::from_secs(limits::REQUEST_ARRIVAL_SECS);

/// A request body that reserves its bytes. Over the memory, and after too long a time, it ends with an error, which the call
/// then returns.
///
/// If the call waits for its messages, the memory of a whole message is reserved once its first bytes are here, before more
/// of it is received: of all messages that begin at the same time, some can then always be completed.
pub struct RequestBody {
    incoming: Incoming,
    memory: CallMemory,
    scan: MessageScan,
    /// Reserved for bytes of the message that have not arrived.
    ahead: u64,
    /// Whether memory was reserved ahead for the message that is arriving.
    has_reserved_ahead: bool,
    /// The memory that the body waits for, and the data that waits with it.
    waiting: Option<(WaitForMemory, Option<Bytes>)>,
    /// Runs while a message is arriving.
    deadline: Option<Pin<Box<Sleep>>>,
}

impl RequestBody {
    /// The body of a call.
    pub fn new(incoming: Incoming, memory: CallMemory) -> RequestBody {
        RequestBody {
            incoming,
            memory,
            scan: MessageScan::default(),
            ahead: 0,
            has_reserved_ahead: false,
            waiting: None,
            deadline: None,
        }
    }

    /// Reserves what arrived data takes. Returns the data, or `None` if it waits for memory now.
    fn receive(&mut self, data: Bytes) -> Result<Option<Bytes>> {
        let begins = !self.scan.is_within_message();
        let cost = self.scan.take(&data);
        if cost.completed > 0 {
            self.deadline = None;
            self.has_reserved_ahead = false;
            self.memory.complete(cost.completed);
        }
        let paid = self.ahead.min(cost.added);
        self.ahead -= paid;
        let needed = cost.added - paid;
        match self.memory.receive(needed) {
            Ok(()) => Ok(Some(data)),
            // Data that ends a message must not wait: the memory of that message is given back only once it is taken.
            Err(error)
                if error.reason() == Reason::Overloaded
                    && self.memory.waits_for_messages()
                    && begins
                    && cost.completed == 0 =>
            {
                self.waiting = Some((
                    self.memory.wait_for_memory(MemoryUse::Requests, Claim::Present, needed),
                    Some(data),
                ));
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Reserves the rest of a message that has begun, if the call waits for its messages.
    fn reserve_ahead(&mut self) -> Result<()> {
        if self.has_reserved_ahead || !self.scan.is_within_message() || !self.memory.waits_for_messages() {
            return Ok(());
        }
        self.has_reserved_ahead = true;
        let needed = self.scan.cost_ahead().saturating_sub(self.ahead);
        self.ahead += needed;
        match self.memory.receive(needed) {
            Err(error) if error.reason() == Reason::Overloaded => {
                self.waiting =
                    Some((self.memory.wait_for_memory(MemoryUse::Requests, Claim::Present, needed), None));
                Ok(())
            }
            reserved => reserved,
        }
    }

    /// Fails if the message that is arriving takes too long.
    fn check_deadline(&mut self, cx: &mut Context<'_>) -> Result<()> {
        if !self.scan.is_within_message() {
            return Ok(());
        }
        let deadline = self.deadline.get_or_insert_with(|| Box::pin(sleep(ARRIVAL)));
        if deadline.as_mut().poll(cx).is_pending() {
            return Ok(());
        }
        let message = format!(
            "the request took longer than {} s to arrive; send less at once, or over a faster connection",
            limits::REQUEST_ARRIVAL_SECS
        );
        Err(Error::new(Reason::StatementTimeout, message))
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = &mut *self;
        let failed = |error| Poll::Ready(Some(Err(to_status(error))));
        loop {
            if let Err(error) = this.reserve_ahead() {
                return failed(error);
            }
            if let Some((wait, data)) = &mut this.waiting {
                let reserved = ready!(wait.as_mut().poll(cx));
                let data = data.take();
                this.waiting = None;
                this.memory.receive_reserved(reserved);
                if let Some(data) = data {
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
            }
            let frame = match Pin::new(&mut this.incoming).poll_frame(cx) {
                Poll::Pending => match this.check_deadline(cx) {
                    Ok(()) => return Poll::Pending,
                    Err(error) => return failed(error),
                },
                Poll::Ready(Some(Ok(frame))) => frame,
                Poll::Ready(Some(Err(error))) => {
                    return Poll::Ready(Some(Err(Status::from_error(error.into()))));
                }
                Poll::Ready(None) => return Poll::Ready(None),
            };
            match frame.into_data().map(|data| this.receive(data)) {
                Ok(Ok(Some(data))) => return Poll::Ready(Some(Ok(Frame::data(data)))),
                Ok(Ok(None)) => {}
                Ok(Err(error)) => return failed(error),
                Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.waiting.is_none() && self.incoming.is_end_stream()
    }
}
