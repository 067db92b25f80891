//! The body of an answer on its way to the client: what waits for the client's window is reserved.
//!
//! HTTP/2 keeps what the client has no window for. It asks for the next frame of an answer as soon as the client has room for
//! one byte of the last one, so frames are short, and at most one of them waits there. The rest of a message waits here. The
//! memory is given back when the last byte of a message has been written, because all frames of a message share it.

use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};

use bytes::Bytes;
use http::{HeaderMap, Response};
use http_body::{Body as _, Frame};
use tokio_util::sync::WaitForCancellationFutureOwned;
use tonic::Status;
use tonic::body::Body;

use crate::error::{Error, Reason};
use crate::limits;
use crate::memory::{Claim, MemoryPermit, MemoryUse, NoRoom};
use crate::service::server::call_memory::{CallMemory, WaitForMemory};
use crate::service::server::call_metrics::CallTimer;
use crate::service::status::to_status;

/// The most bytes that HTTP/2 gets at once.
const FRAME_BYTES: usize = 16 << 10;
/// Reserved before a message is computed.
const COMPUTED_BYTES: u64 = limits::MESSAGE_BYTES as u64;

/// The body of an answer.
pub struct AnswerBody {
    /// `None` after the end.
    messages: Option<Body>,
    /// What came instead of a first message.
    first: Option<Result<Frame<Bytes>, Status>>,
    /// The part of a message that HTTP/2 has not asked for.
    rest: Bytes,
    /// Reserved for the message that is being computed.
    computing: Option<MemoryPermit>,
    /// Set while the answer waits for memory.
    waiting: Option<WaitForMemory>,
    /// A message that is larger than what was reserved for it, until the rest is reserved.
    growing: Option<GrowingMessage>,
    /// The messages that were taken so far.
    taken: u64,
    /// Resolves when the answer must end because its connection is too old; `None` if that cannot be.
    end: Option<Pin<Box<WaitForCancellationFutureOwned>>>,
    /// `None` if the call was refused.
    memory: Option<CallMemory>,
    /// Measures the call until its answer has ended.
    timer: CallTimer,
}

/// A message of an answer, and the memory that is given back with it.
struct ReservedMessage {
    bytes: Bytes,
    permit: MemoryPermit,
}

struct GrowingMessage {
    message: ReservedMessage,
    rest: WaitForMemory,
}

impl AsRef<[u8]> for ReservedMessage {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// The response to a call that was refused.
pub fn refusal(status: Status) -> Response<AnswerBody> {
    let none = |_| AnswerBody {
        messages: None,
        first: None,
        rest: Bytes::new(),
        computing: None,
        waiting: None,
        growing: None,
        taken: 0,
        end: None,
        memory: None,
        timer: CallTimer::default(),
    };
    status.into_http::<Body>().map(none)
}

/// The response of a call, as far as it exists: if its first message finds no memory, the call fails.
pub fn answer(response: Response<Body>, memory: CallMemory) -> Response<AnswerBody> {
    let (parts, messages) = response.into_parts();
    let is_computed = memory.is_computed_on_demand();
    let mut body = AnswerBody {
        messages: (!messages.is_end_stream()).then_some(messages),
        first: None,
        rest: Bytes::new(),
        computing: None,
        waiting: None,
        growing: None,
        taken: 0,
        end: memory.end_of_connection().map(Box::pin),
        memory: Some(memory),
        timer: CallTimer::default(),
    };
    if !is_computed && let Err(full) = body.take_first() {
        return refusal(to_status(full.error));
    }
    Response::from_parts(parts, body)
}

/// The response with the timer of its call.
pub fn timed(mut response: Response<AnswerBody>, mut timer: CallTimer) -> Response<AnswerBody> {
    // An answer without messages has its code here.
    timer.see(response.headers());
    response.body_mut().timer = timer;
    response
}

fn too_old() -> Error {
    let message = "the connection has reached --max-connection-age; continue over a new one, from the last resume token or batch";
    Error::new(Reason::ShuttingDown, message)
}

impl AnswerBody {
    /// Takes the first message if it is there. A single answer always is: if it is refused here, the client gets an error
    /// instead of half an answer.
    fn take_first(&mut self) -> Result<(), NoRoom> {
        let Some(messages) = &mut self.messages else { return Ok(()) };
        // Without a waker: the answer is polled again at once, when it is sent.
        let mut context = Context::from_waker(Waker::noop());
        match Pin::new(messages).poll_frame(&mut context) {
            Poll::Ready(Some(Ok(frame))) if frame.is_data() => {
                if let Ok(data) = frame.into_data() {
                    self.take_message(data)?;
                }
            }
            Poll::Ready(Some(other)) => self.first = Some(other),
            Poll::Ready(None) => self.messages = None,
            Poll::Pending => {}
        }
        Ok(())
    }

    /// Takes a message, and ties the memory that is reserved for it to its bytes.
    fn take_message(&mut self, bytes: Bytes) -> Result<(), NoRoom> {
        let size = bytes.len() as u64;
        self.taken += 1;
        let Some(memory) = &self.memory else {
            self.rest = bytes;
            return Ok(());
        };
        let mut permit = match self.computing.take() {
            Some(permit) => permit,
            None => memory.account().try_reserve(MemoryUse::Answers, Claim::Present, size)?,
        };
        permit.shrink(permit.bytes().saturating_sub(size));
        // A message of one large row may be larger than what was reserved for it.
        let missing = size - permit.bytes();
        let grown = permit.try_grow(Claim::Rest, missing);
        let message = ReservedMessage { bytes, permit };
        match grown {
            Ok(()) => self.rest = Bytes::from_owner(message),
            Err(full) if size > memory.account().limit(MemoryUse::Answers) => return Err(full),
            Err(_) => {
                let rest = memory.wait_for_memory(MemoryUse::Answers, Claim::Rest, missing);
                self.growing = Some(GrowingMessage { message, rest });
            }
        }
        Ok(())
    }

    /// Waits for the rest of the memory of a message.
    fn poll_growing(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if let Some(growing) = &mut self.growing {
            let rest = ready!(growing.rest.as_mut().poll(cx));
            if let Some(GrowingMessage { mut message, .. }) = self.growing.take() {
                message.permit.absorb(rest);
                self.rest = Bytes::from_owner(message);
            }
        }
        Poll::Ready(())
    }

    /// Waits for the memory of the next message, if that is computed when it is asked for.
    fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(memory) = self.memory.as_ref().filter(|memory| memory.is_computed_on_demand()) else {
            return Poll::Ready(());
        };
        if self.computing.is_some() {
            return Poll::Ready(());
        }
        if self.waiting.is_none() {
            match memory.account().try_reserve(MemoryUse::Answers, Claim::Ahead, COMPUTED_BYTES) {
                Ok(permit) => {
                    self.computing = Some(permit);
                    return Poll::Ready(());
                }
                Err(_) => {
                    self.waiting =
                        Some(memory.wait_for_memory(MemoryUse::Answers, Claim::Ahead, COMPUTED_BYTES))
                }
            }
        }
        if let Some(waiting) = &mut self.waiting {
            self.computing = Some(ready!(waiting.as_mut().poll(cx)));
            self.waiting = None;
        }
        Poll::Ready(())
    }

    /// The next part of the answer.
    fn poll_message(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if let Some(first) = self.first.take() {
            return Poll::Ready(Some(first));
        }
        ready!(self.poll_room(cx));
        let Some(messages) = &mut self.messages else { return Poll::Ready(None) };
        Pin::new(messages).poll_frame(cx)
    }

    /// Whether the answer must end because its connection is too old. An answer of one message has its end with it.
    fn is_over(&mut self, cx: &mut Context<'_>) -> bool {
        self.end.as_mut().is_some_and(|end| end.as_mut().poll(cx).is_ready())
    }

    /// Ends the answer with an error.
    fn fail(&mut self, error: Error) -> Frame<Bytes> {
        (self.messages, self.computing, self.waiting) = (None, None, None);
        let mut trailers = HeaderMap::new();
        let status = to_status(error);
        if status.add_header(&mut trailers).is_err() {
            trailers.insert(Status::GRPC_STATUS, (status.code() as i32).into());
        }
        self.timer.end(status.code());
        Frame::trailers(trailers)
    }
}

impl http_body::Body for AnswerBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = &mut *self;
        loop {
            ready!(this.poll_growing(cx));
            if !this.rest.is_empty() {
                let next = this.rest.split_to(FRAME_BYTES.min(this.rest.len()));
                return Poll::Ready(Some(Ok(Frame::data(next))));
            }
            if this.messages.is_none() {
                return Poll::Ready(None);
            }
            // A stream that always has a next message must end, too; an answer of one message is not cut before its end.
            if this.taken >= 2 && this.is_over(cx) {
                return Poll::Ready(Some(Ok(this.fail(too_old()))));
            }
            let Poll::Ready(next) = this.poll_message(cx) else {
                if this.is_over(cx) {
                    return Poll::Ready(Some(Ok(this.fail(too_old()))));
                }
                return Poll::Pending;
            };
            let frame = match next {
                Some(Ok(frame)) => frame,
                other => {
                    if let Some(Err(status)) = &other {
                        this.timer.end(status.code());
                    }
                    (this.messages, this.computing) = (None, None);
                    return Poll::Ready(other);
                }
            };
            match frame.into_data() {
                Ok(data) => {
                    if let Err(full) = this.take_message(data) {
                        return Poll::Ready(Some(Ok(this.fail(full.error))));
                    }
                }
                Err(trailers) => {
                    // Nothing comes after the trailers: what computed the answer is not needed while they wait.
                    if let Some(trailers) = trailers.trailers_ref() {
                        this.timer.see(trailers);
                    }
                    (this.messages, this.computing) = (None, None);
                    return Poll::Ready(Some(Ok(trailers)));
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.growing.is_none() && self.messages.is_none()
    }
}
