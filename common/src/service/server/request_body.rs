//! The body of a request as it arrives: every byte is reserved before it is kept, and a message must not take for ever.
//!
//! A call whose request does not come to an end holds a place on its connection and in the server. So a message must arrive within
//! some time, and within less time something of it. A call that takes one message must get it, and the end of the request, as
//! soon; only streams of messages may be silent between two messages.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame};
use hyper::body::Incoming;
use tokio::time::{Instant, Sleep, sleep_until};
use tonic::Status;

use crate::error::{Error, Reason, Result};
use crate::limits;
use crate::memory::{Claim, MemoryUse};
use crate::service::server::call_memory::{CallMemory, WaitForMemory};
use crate::service::server::message_scan::MessageScan;
use crate::service::status::to_status;

/// The time in which a message must arrive after its first byte.
const ARRIVAL: Duration = Duration::from_secs(limits::REQUEST_ARRIVAL_SECS);
/// The time in which something must arrive.
const IDLE: Duration = Duration::from_secs(limits::REQUEST_IDLE_SECS);

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
    /// Whether the client may be silent between two messages.
    may_pause: bool,
    /// When the first byte of the message came that is arriving.
    began_at: Option<Instant>,
    /// When something came last.
    heard_at: Instant,
    /// Wakes the body when the client has been silent for too long.
    timer: Option<Pin<Box<Sleep>>>,
}

impl RequestBody {
    /// The body of a call, whose memory `scan` estimates. If it `may_pause`, the client may be silent between two messages, as it may if the call waits for them.
    pub fn new(incoming: Incoming, memory: CallMemory, scan: MessageScan, may_pause: bool) -> RequestBody {
        RequestBody {
            incoming,
            memory,
            scan,
            ahead: 0,
            has_reserved_ahead: false,
            waiting: None,
            may_pause,
            began_at: None,
            heard_at: Instant::now(),
            timer: None,
        }
    }

    /// Reserves what arrived data takes. Returns the data, or `None` if it waits for memory now.
    fn receive(&mut self, data: Bytes) -> Result<Option<Bytes>> {
        let begins = !self.scan.is_within_message();
        let cost = self.scan.take(&data);
        self.heard_at = Instant::now();
        if begins || cost.completed > 0 {
            self.began_at = self.scan.is_within_message().then_some(self.heard_at);
        }
        if cost.completed > 0 {
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

    /// Fails if the message that is arriving takes too long, or if the client is silent for too long.
    fn check_deadline(&mut self, cx: &mut Context<'_>) -> Result<()> {
        let may_be_silent = self.may_pause || self.memory.waits_for_messages();
        let arrival = self.began_at.map(|at| at + ARRIVAL);
        if arrival.is_none() && may_be_silent {
            self.timer = None;
            return Ok(());
        }
        let due = arrival.map_or(self.heard_at + IDLE, |arrival| arrival.min(self.heard_at + IDLE));
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(due)));
        if timer.deadline() != due {
            timer.as_mut().reset(due);
        }
        if timer.as_mut().poll(cx).is_pending() {
            return Ok(());
        }
        let message = if Some(due) == arrival {
            format!(
                "the request took longer than {} s to arrive; send less at once, or over a faster connection",
                limits::REQUEST_ARRIVAL_SECS
            )
        } else {
            format!(
                "the request did not end, and nothing of it came for {} s; send it again",
                limits::REQUEST_IDLE_SECS
            )
        };
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
                // While the body waited for memory, the client could not send.
                this.heard_at = Instant::now();
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
