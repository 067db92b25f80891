//! A task of several parts, each of which is polled only if it was woken.
//!
//! A part that wakes another one does so without the scheduler: the other one is polled next, in the same turn of the task. With
//! one waker for all of them, each turn would poll every part, and each wake-up among them would be another turn.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use parking_lot::Mutex;

/// How often the parts are polled in one turn, before other tasks have theirs.
const ROUNDS: usize = 4;

/// The task waits until it is woken.
const WAITING: u8 = 0;
/// The task is in its turn, and nothing has woken it since the round began.
const POLLED: u8 = 1;
/// A part was woken.
const WOKEN: u8 = 2;

/// The wakers of the `N` parts of one task.
pub struct TaskParts<const N: usize> {
    task: Arc<PartedTask>,
    parts: [(Arc<PartSignal>, Waker); N],
}

/// The task as its parts see it.
struct PartedTask {
    state: AtomicU8,
    waker: Mutex<Option<Waker>>,
}

impl PartedTask {
    fn wake(&self) {
        // In its turn, the task looks at its parts once more before the turn ends.
        if self.state.swap(WOKEN, Ordering::AcqRel) == WAITING
            && let Some(waker) = &*self.waker.lock()
        {
            waker.wake_by_ref();
        }
    }
}

/// Wakes one part.
struct PartSignal {
    is_woken: AtomicBool,
    task: Arc<PartedTask>,
}

impl Wake for PartSignal {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        // Who woke the part before has woken the task, too.
        if !self.is_woken.swap(true, Ordering::AcqRel) {
            self.task.wake();
        }
    }
}

impl<const N: usize> TaskParts<N> {
    /// Parts that are all polled in the first turn.
    pub fn new() -> TaskParts<N> {
        let task = Arc::new(PartedTask { state: AtomicU8::new(WAITING), waker: Mutex::new(None) });
        let part = |_| {
            let signal = Arc::new(PartSignal { is_woken: AtomicBool::new(true), task: Arc::clone(&task) });
            (Arc::clone(&signal), Waker::from(signal))
        };
        TaskParts { parts: std::array::from_fn(part), task }
    }

    /// Wakes a part.
    pub fn wake(&self, part: usize) {
        if let Some((signal, _)) = self.parts.get(part) {
            signal.wake_by_ref();
        }
    }

    /// One turn of the task: polls the parts that were woken, in their order, until none is or one ends.
    pub fn poll<T>(
        &self,
        cx: &mut Context<'_>,
        mut poll_part: impl FnMut(usize, &mut Context<'_>) -> Poll<T>,
    ) -> Poll<T> {
        {
            let mut waker = self.task.waker.lock();
            if !waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
                *waker = Some(cx.waker().clone());
            }
        }
        for _ in 0..ROUNDS {
            // A swap and not a store: it sees the part whose wake-up it takes back.
            self.task.state.swap(POLLED, Ordering::AcqRel);
            for (part, (signal, waker)) in self.parts.iter().enumerate() {
                if signal.is_woken.swap(false, Ordering::AcqRel)
                    && let Poll::Ready(ended) = poll_part(part, &mut Context::from_waker(waker))
                {
                    return Poll::Ready(ended);
                }
            }
            let ends = self.task.state.compare_exchange(POLLED, WAITING, Ordering::AcqRel, Ordering::Acquire);
            if ends.is_ok() {
                return Poll::Pending;
            }
        }
        self.task.state.swap(WAITING, Ordering::AcqRel);
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;

    /// Counts how often a task is woken.
    #[derive(Default)]
    struct WakeCount(AtomicUsize);

    impl Wake for WakeCount {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// One turn. `each` says what a part does.
    fn turn(parts: &TaskParts<2>, count: &Arc<WakeCount>, mut each: impl FnMut(usize, &Waker)) -> Vec<usize> {
        let waker = Waker::from(Arc::clone(count));
        let mut polled = Vec::new();
        let ended = parts.poll(&mut Context::from_waker(&waker), |part, cx| {
            polled.push(part);
            each(part, cx.waker());
            Poll::<()>::Pending
        });
        assert!(ended.is_pending());
        polled
    }

    #[test]
    fn only_woken_parts_are_polled() {
        let (parts, count) = (TaskParts::<2>::new(), Arc::<WakeCount>::default());
        let mut wakers = vec![Waker::noop().clone(); 2];
        assert_eq!(turn(&parts, &count, |part, waker| wakers[part] = waker.clone()), [0, 1]);
        assert_eq!(turn(&parts, &count, |_, _| {}), Vec::<usize>::new());
        (0..3).for_each(|_| wakers[1].wake_by_ref());
        assert_eq!(count.0.load(Ordering::Relaxed), 1);
        assert_eq!(turn(&parts, &count, |_, _| {}), [1]);
        parts.wake(0);
        assert_eq!(count.0.load(Ordering::Relaxed), 2);
        assert_eq!(turn(&parts, &count, |_, _| {}), [0]);
    }

    #[test]
    fn a_part_that_another_one_wakes_is_polled_in_the_same_turn() {
        let (parts, count) = (TaskParts::<2>::new(), Arc::<WakeCount>::default());
        let mut left = 2;
        let polled = turn(&parts, &count, |part, _| {
            if part == 1 && left > 0 {
                left -= 1;
                parts.wake(0);
            }
        });
        assert_eq!(polled, [0, 1, 0]);
        assert_eq!(count.0.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn a_part_that_always_wakes_itself_lets_other_tasks_have_their_turn() {
        let (parts, count) = (TaskParts::<2>::new(), Arc::<WakeCount>::default());
        for turns in 1..4 {
            let polled = turn(&parts, &count, |part, waker| {
                if part == 0 {
                    waker.wake_by_ref();
                }
            });
            assert_eq!(polled.iter().filter(|part| **part == 0).count(), ROUNDS);
            assert_eq!(count.0.load(Ordering::Relaxed), turns);
        }
    }

    #[test]
    fn no_wake_up_from_another_thread_is_lost() {
        let (parts, count) = (TaskParts::<2>::new(), Arc::<WakeCount>::default());
        let mut wakers = vec![Waker::noop().clone(); 2];
        turn(&parts, &count, |part, waker| wakers[part] = waker.clone());
        let sent = AtomicUsize::new(0);
        let mut seen = 0;
        std::thread::scope(|threads| {
            threads.spawn(|| {
                for _ in 0..100_000 {
                    sent.fetch_add(1, Ordering::Release);
                    wakers[1].wake_by_ref();
                }
            });
            while seen < 100_000 {
                if count.0.swap(0, Ordering::AcqRel) == 0 {
                    std::thread::yield_now();
                    continue;
                }
                turn(&parts, &count, |_, _| seen = sent.load(Ordering::Acquire));
            }
        });
    }
}
