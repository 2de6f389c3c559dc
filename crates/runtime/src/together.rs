//! Two loops in one task that hand work to each other without asking the scheduler.
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

/// So often the two take turns before the task's neighbours get theirs.
const TURNS: usize = 16;

/// Runs both to their ends.
///
/// A plain `join!` would do, but for its price: where one of the two wakes the other, it wakes the task that is just
/// running, and tokio's answer to that is to queue the task and to rouse another thread to look for it, for every
/// batch. Here such a wake-up means one more turn.
pub(crate) async fn together(one: impl Future<Output = ()>, other: impl Future<Output = ()>) {
    let (mut one, mut other) = (pin!(one), pin!(other));
    let (mut one_runs, mut other_runs) = (true, true);
    let bell = Arc::new(Bell::default());
    let waker = Waker::from(bell.clone());
    poll_fn(move |outer| {
        let mut inner = Context::from_waker(&waker);
        bell.polls(outer.waker());
        for _ in 0..TURNS {
            bell.rung.store(false, SeqCst);
            one_runs = one_runs && one.as_mut().poll(&mut inner).is_pending();
            other_runs = other_runs && other.as_mut().poll(&mut inner).is_pending();
            if !one_runs && !other_runs {
                return Poll::Ready(());
            }
            // Without budget, tokio's own futures ring and do nothing.
            if !bell.rung.load(SeqCst) || !tokio::task::coop::has_budget_remaining() {
                break;
            }
        }
        bell.rests();
        Poll::Pending
    })
    .await;
}

/// Lets the other one have its turn.
pub(crate) async fn turn() {
    let mut had = false;
    poll_fn(|context| {
        if std::mem::replace(&mut had, true) {
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

/// What wakes the two: heard by their own loop while it polls, and by the task otherwise.
#[derive(Default)]
struct Bell {
    rung: AtomicBool,
    polling: AtomicBool,
    task: Mutex<Option<Waker>>,
}

impl Bell {
    fn polls(&self, task: &Waker) {
        let mut known = self.task.lock().unwrap_or_else(PoisonError::into_inner);
        if !known.as_ref().is_some_and(|known| known.will_wake(task)) {
            *known = Some(task.clone());
        }
        drop(known);
        self.polling.store(true, SeqCst);
    }

    /// From here on the task is woken; also for what rang since the last look, since that nobody will hear.
    fn rests(&self) {
        self.polling.store(false, SeqCst);
        if self.rung.load(SeqCst) {
            self.wake_task();
        }
    }

    fn wake_task(&self) {
        let task = self.task.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(task) = task {
            task.wake();
        }
    }
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.rung.store(true, SeqCst);
        if !self.polling.load(SeqCst) {
            self.wake_task();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicUsize;
    use std::time::Duration;
    use tokio::sync::{Notify, mpsc};

    /// What wakes the task, counted.
    struct Counted(AtomicUsize);

    impl Wake for Counted {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, SeqCst);
        }
    }

    #[test]
    fn handing_over_to_each_other_does_not_wake_the_task() {
        let (there, back) = (Notify::new(), Notify::new());
        let one = async {
            for _ in 0..TURNS - 2 {
                there.notify_one();
                back.notified().await;
            }
        };
        let other = async {
            for _ in 0..TURNS - 2 {
                there.notified().await;
                back.notify_one();
            }
        };
        let counted = Arc::new(Counted(AtomicUsize::new(0)));
        let waker = Waker::from(counted.clone());
        let mut both = pin!(together(one, other));
        assert!(both.as_mut().poll(&mut Context::from_waker(&waker)).is_ready());
        assert_eq!(counted.0.load(SeqCst), 0);
    }

    #[test]
    fn two_that_never_wait_for_anything_else_give_the_thread_back() {
        async fn forever() {
            loop {
                turn().await;
            }
        }
        let counted = Arc::new(Counted(AtomicUsize::new(0)));
        let waker = Waker::from(counted.clone());
        let mut both = pin!(together(forever(), forever()));
        assert!(both.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
        assert_eq!(counted.0.load(SeqCst), 1, "and come back");
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn no_wake_up_from_outside_is_lost() {
        let (send, mut receive) = mpsc::channel::<u32>(1);
        let (there, back) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let sender = tokio::spawn(async move {
            for n in 0..20_000 {
                if send.send(n).await.is_err() {
                    break;
                }
            }
        });
        let mut sum = 0_u64;
        let one = async {
            while let Some(n) = receive.recv().await {
                sum += u64::from(n);
                there.notify_one();
                back.notified().await;
            }
            there.notify_one();
        };
        let other = async {
            for _ in 0..20_000 {
                there.notified().await;
                back.notify_one();
            }
        };
        let done = tokio::time::timeout(Duration::from_secs(60), together(one, other)).await;
        assert!(done.is_ok(), "stuck at {sum}");
        assert_eq!(sum, 19_999 * 20_000 / 2);
        assert!(sender.await.is_ok());
    }
}
