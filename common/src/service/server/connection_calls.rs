//! The calls of one connection, on the connection's own task.
//!
//! With a task for each call, a call is handed over twice between tasks, often between cores, and its answer leaves in a write of
//! its own. On one task, the calls that one event answers are woken once, and their answers leave together. The price: the short
//! calls of one connection share a core, apart from what is computed elsewhere. A call that turns out to be long goes on in a
//! task of its own: its request is large, it takes message after message, or its answer is computed message by message.

use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use futures_util::stream::FuturesUnordered;
use hyper::rt::Executor;
use parking_lot::Mutex;
use tokio_stream::Stream;

use crate::service::server::call_memory::CallMemory;
use crate::service::server::task_parts::TaskParts;

/// The parts of a connection's task: its calls, and HTTP/2. Calls come first, so that HTTP/2 sends what they answer.
const CALLS: usize = 0;
const HTTP: usize = 1;

/// Takes the calls that begin from HTTP/2.
#[derive(Clone, Default)]
pub struct CallQueue(Arc<Mutex<BegunCalls>>);

#[derive(Default)]
struct BegunCalls {
    /// The memory of the call that HTTP/2 hands over next.
    memory: Option<CallMemory>,
    calls: Vec<ConnectionCall>,
}

impl CallQueue {
    /// Names the memory of a call. HTTP/2 hands a call over right after the service has begun it.
    pub fn announce(&self, memory: &CallMemory) {
        self.0.lock().memory = Some(memory.clone());
    }
}

impl<F: Future<Output = ()> + Send + 'static> Executor<F> for CallQueue {
    fn execute(&self, call: F) {
        let mut begun = self.0.lock();
        let memory = begun.memory.take();
        begun.calls.push(ConnectionCall { running: Some(Box::pin(call)), memory });
    }
}

/// A call, from its first byte to the last one of its answer.
struct ConnectionCall {
    running: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    /// `None` if the call was refused.
    memory: Option<CallMemory>,
}

impl Future for ConnectionCall {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.get_mut();
        let Some(running) = &mut this.running else { return Poll::Ready(()) };
        // A panic ends its call, and no other one: as if the call had a task of its own.
        match catch_unwind(AssertUnwindSafe(|| running.as_mut().poll(cx))) {
            Ok(Poll::Pending) if this.memory.as_ref().is_some_and(CallMemory::is_long) => {
                if let Some(running) = this.running.take() {
                    tokio::spawn(running);
                }
                Poll::Ready(())
            }
            Ok(polled) => polled,
            // The panic hook has reported it.
            Err(_) => Poll::Ready(()),
        }
    }
}

/// A connection whose HTTP/2 is `H`, with its calls.
pub struct RunningConnection<H> {
    http: H,
    begun: CallQueue,
    open: FuturesUnordered<ConnectionCall>,
    parts: TaskParts<2>,
}

impl<H: Future + Unpin> RunningConnection<H> {
    /// A connection whose HTTP/2 hands its calls over to `calls`.
    pub fn new(http: H, calls: CallQueue) -> RunningConnection<H> {
        RunningConnection { http, begun: calls, open: FuturesUnordered::new(), parts: TaskParts::new() }
    }

    /// HTTP/2, to tell it something. It acts on it with the next poll.
    pub fn http(&mut self) -> Pin<&mut H> {
        self.parts.wake(HTTP);
        Pin::new(&mut self.http)
    }
}

impl<H> Drop for RunningConnection<H> {
    fn drop(&mut self) {
        // A call that has just begun holds the queue that holds the call.
        let begun = std::mem::take(&mut self.begun.0.lock().calls);
        drop(begun);
    }
}

impl<H: Future + Unpin> Future for RunningConnection<H> {
    type Output = H::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<H::Output> {
        let RunningConnection { http, begun, open, parts } = self.get_mut();
        parts.poll(cx, |part, cx| match part {
            CALLS => {
                open.extend(begun.0.lock().calls.drain(..));
                // Ready with nothing: no call is open.
                while ready!(Pin::new(&mut *open).poll_next(cx)).is_some() {}
                Poll::Pending
            }
            _ => {
                let polled = Pin::new(&mut *http).poll(cx);
                if !begun.0.lock().calls.is_empty() {
                    parts.wake(CALLS);
                }
                polled
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use tokio::sync::oneshot;

    use super::*;
    use crate::memory::MemoryBudget;
    use crate::service::server::clients::ClientId;
    use crate::service::server::connections::Connections;
    use crate::service::server::limit_options::ServerLimits;

    /// Ends when `over` does.
    fn connection(calls: &CallQueue) -> (oneshot::Sender<()>, RunningConnection<oneshot::Receiver<()>>) {
        let (end, over) = oneshot::channel();
        (end, RunningConnection::new(over, calls.clone()))
    }

    #[tokio::test]
    async fn calls_run_beside_each_other_and_a_panic_ends_only_its_own() {
        let (calls, done) = (CallQueue::default(), Arc::new(AtomicUsize::new(0)));
        let (end, running) = connection(&calls);
        let (first, second) = oneshot::channel::<()>();
        let count = Arc::clone(&done);
        calls.execute(async move {
            second.await.unwrap();
            count.fetch_add(1, Ordering::Relaxed);
        });
        calls.execute(async { panic!("a planted panic of a call") });
        let count = Arc::clone(&done);
        calls.execute(async move {
            tokio::time::sleep(Duration::from_millis(1)).await;
            count.fetch_add(1, Ordering::Relaxed);
            first.send(()).unwrap();
        });
        let running = tokio::spawn(running);
        while done.load(Ordering::Relaxed) < 2 {
            tokio::task::yield_now().await;
        }
        end.send(()).unwrap();
        running.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn the_end_of_a_connection_drops_its_calls() {
        let calls = CallQueue::default();
        let (end, running) = connection(&calls);
        let (kept, dropped) = oneshot::channel::<()>();
        calls.execute(async move {
            std::future::pending::<()>().await;
            drop(kept);
        });
        end.send(()).unwrap();
        running.await.unwrap();
        assert!(dropped.await.is_err());
    }

    #[tokio::test]
    async fn a_call_that_begins_at_the_end_of_its_connection_is_dropped() {
        let calls = CallQueue::default();
        let (end, running) = connection(&calls);
        let (kept, dropped) = oneshot::channel::<()>();
        let queue = calls.clone();
        calls.execute(async move {
            std::future::pending::<()>().await;
            drop((queue, kept));
        });
        drop((running, end, calls));
        assert!(dropped.await.is_err());
    }

    #[tokio::test]
    async fn a_long_call_goes_on_in_a_task_of_its_own() {
        let place = Connections::new(MemoryBudget::new(1 << 20), 1, ServerLimits::default(), Arc::default());
        let place = place.admit(None).unwrap();
        let memory = CallMemory::open(&place.state, ClientId::at(None), 0).unwrap();
        let calls = CallQueue::default();
        let (end, running) = connection(&calls);
        let (go_on, goes_on) = oneshot::channel::<()>();
        let (done, is_done) = oneshot::channel::<()>();
        calls.announce(&memory);
        calls.execute(async move {
            memory.compute_on_demand();
            tokio::task::yield_now().await;
            goes_on.await.unwrap();
            done.send(()).unwrap();
        });
        let running = tokio::spawn(running);
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
        end.send(()).unwrap();
        running.await.unwrap().unwrap();
        go_on.send(()).unwrap();
        is_done.await.unwrap();
    }
}
