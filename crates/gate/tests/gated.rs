//! `.gated(gate)`: what a stream that passes a gate promises to whoever consumes it.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use futures_core::Stream;
use futures_util::{FutureExt, StreamExt, future::BoxFuture, stream};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::task::{Context, Poll};
use tidegate_gate::{Admitted, Gate, GatedExt, Keeper, Phase, Unit};
use tokio::sync::{Semaphore, mpsc};

fn source<T>() -> (mpsc::UnboundedSender<T>, impl Stream<Item = T>) {
    let (tx, mut rx) = mpsc::unbounded_channel();
    (tx, stream::poll_fn(move |cx| rx.poll_recv(cx)))
}

#[tokio::test]
async fn items_come_in_the_order_of_the_source_across_any_number_of_pauses() {
    let (gate, mut keeper) = Gate::new("order");
    let mut gated = pin!(stream::iter(0..1_000).gated(gate));
    let mut seen = vec![];
    while seen.len() < 1_000 {
        if seen.len() % 7 == 3 {
            keeper.close();
            assert!(
                gated.next().now_or_never().is_none(),
                "a closed gate lets nothing by"
            );
            keeper.open();
        }
        seen.push(gated.next().await.unwrap().item);
    }
    assert_eq!(seen, (0..1_000).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_closed_gate_asks_the_source_for_nothing() {
    let asked = Arc::new(AtomicU64::new(0));
    let counted = stream::poll_fn({
        let asked = asked.clone();
        move |_| Poll::Ready(Some(asked.fetch_add(1, SeqCst)))
    });
    let (gate, mut keeper) = Gate::new("asked");
    let mut gated = pin!(counted.gated(gate));
    keeper.close();
    for _ in 0..100 {
        assert!(gated.next().now_or_never().is_none());
    }
    assert_eq!(asked.load(SeqCst), 0);
}

/// Yields one item, and closes the gate in the moment between the source's yes and the gate's.
struct ClosesMeanwhile<F>(Option<F>, u64);
impl<F: FnOnce() + Unpin> Stream for ClosesMeanwhile<F> {
    type Item = u64;
    fn poll_next(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<u64>> {
        if let Some(close) = self.0.take() {
            close();
        }
        self.1 += 1;
        Poll::Ready(Some(self.1))
    }
}

#[tokio::test]
async fn an_item_that_arrives_while_the_gate_closes_is_kept_and_comes_first() {
    let (gate, mut keeper) = Gate::new("parked");
    let (closed, mut opener) = mpsc::unbounded_channel();
    let source = ClosesMeanwhile(
        Some(move || {
            keeper.close();
            closed.send(keeper).unwrap();
        }),
        0,
    );
    let mut gated = pin!(source.gated(gate));
    assert!(gated.next().now_or_never().is_none(), "the gate has closed");
    assert_eq!(
        gate.sight().phase,
        Phase::Paused,
        "what is parked is not in flight"
    );
    assert_eq!(gated.size_hint().0, 1, "the parked item is still to come");

    opener.recv().await.unwrap().open();
    assert_eq!(gated.next().await.unwrap().item, 1);
    assert_eq!(gated.next().await.unwrap().item, 2);
}

#[tokio::test]
async fn dropping_the_wait_for_an_item_loses_none() {
    let (gate, mut keeper) = Gate::new("cancelled");
    let (tx, rx) = source();
    let mut gated = pin!(rx.gated(gate));
    for item in 0..100 {
        // Cancelled while the source is silent, while the gate is closed, and while something is there behind it.
        assert!(gated.next().now_or_never().is_none());
        keeper.close();
        assert!(gated.next().now_or_never().is_none());
        tx.send(item).unwrap();
        assert!(gated.next().now_or_never().is_none());
        keeper.open();
        assert_eq!(gated.next().await.unwrap().item, item);
    }
    assert_eq!(gate.sight().waiting, 0, "a wait that was dropped waits no more");
}

#[tokio::test]
async fn a_stream_that_is_dropped_while_it_waits_is_no_longer_counted() {
    let (gate, mut keeper) = Gate::new("dropped");
    keeper.close();
    let mut gated = Box::pin(stream::repeat(()).gated(gate));
    assert!(gated.next().now_or_never().is_none());
    assert_eq!(gate.sight().waiting, 1);
    drop(gated);
    assert_eq!(gate.sight().waiting, 0);
}

#[tokio::test]
async fn the_end_of_the_source_is_the_end_once_what_is_parked_has_come() {
    let (gate, mut keeper) = Gate::new("ended");
    let (tx, rx) = source();
    let mut gated = pin!(rx.gated(gate));
    tx.send(1).unwrap();
    assert_eq!(gated.next().await.unwrap().item, 1);
    tx.send(2).unwrap();
    drop(tx);
    keeper.close();
    assert!(gated.next().now_or_never().is_none(), "closed is not ended");
    keeper.open();
    assert_eq!(gated.next().await.unwrap().item, 2);
    assert!(gated.next().await.is_none());
    assert_eq!(gate.sight().in_flight, 0);
}

#[tokio::test]
async fn an_item_is_in_flight_until_it_is_dropped() {
    let (gate, mut keeper) = Gate::new("counted");
    let mut gated = pin!(stream::iter(["a", "b"]).gated(gate));
    let first = gated.next().await.unwrap();
    let Admitted { item, unit } = gated.next().await.unwrap();
    assert_eq!(gate.sight().in_flight, 2);
    drop(first);
    let generation = keeper.close();
    let proof = tokio::spawn(gate.quiesced(generation));
    assert_eq!(item, "b");
    assert_eq!(gate.sight().phase, Phase::Pausing);
    drop(unit);
    assert!(proof.await.unwrap());
    assert_eq!(gate.sight().phase, Phase::Paused);
}

/// The tempting adapter: the unit of an item ends when the consumer asks for the next one.
struct EndsAtNextPoll<S> {
    inner: Pin<Box<S>>,
    gate: Gate,
    unit: Option<Unit>,
    wait: Option<BoxFuture<'static, Unit>>,
}
impl<S: Stream> Stream for EndsAtNextPoll<S> {
    type Item = S::Item;
    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<S::Item>> {
        let me = &mut *self;
        me.unit = None;
        let gate = me.gate;
        let wait = me.wait.get_or_insert_with(|| gate.enter().boxed());
        let unit = std::task::ready!(wait.as_mut().poll(cx));
        me.wait = None;
        let item = std::task::ready!(me.inner.as_mut().poll_next(cx));
        me.unit = item.is_some().then_some(unit);
        Poll::Ready(item)
    }
}

/// Eight effects at a time behind a gate that closes in their midst; they finish one after the other. Returns how
/// many were still at work when the gate said `paused`.
async fn at_work_when_paused<S, T>(gate: Gate, mut keeper: Keeper, gated: S) -> u64
where
    S: Stream<Item = T> + Send + 'static,
    T: Send + 'static,
{
    let leave = Arc::new(Semaphore::new(0));
    let (started, mut starts) = mpsc::unbounded_channel();
    let (finished, mut finishes) = mpsc::unbounded_channel();
    let effects = gated.map({
        let leave = leave.clone();
        move |item| {
            let (leave, finished, started) = (leave.clone(), finished.clone(), started.clone());
            async move {
                started.send(()).unwrap();
                leave.acquire().await.unwrap().forget();
                drop(item);
                finished.send(()).unwrap();
            }
        }
    });
    let driver = tokio::spawn(effects.buffer_unordered(8).for_each(|()| async {}));
    for _ in 0..8 {
        starts.recv().await.unwrap();
    }
    let generation = keeper.close();
    let mut proof = pin!(gate.quiesced(generation));
    for at_work in (0..8).rev() {
        assert!(proof.as_mut().now_or_never().is_none());
        leave.add_permits(1);
        finishes.recv().await.unwrap();
        // One thread: after this the driver has seen the end of that effect and has asked for the next item.
        for _ in 0..8 {
            tokio::task::yield_now().await;
        }
        if gate.sight().phase == Phase::Paused {
            driver.abort();
            return at_work;
        }
    }
    panic!("nothing is at work, and nobody says so");
}

#[tokio::test]
async fn what_is_buffered_behind_the_gate_is_in_flight() {
    let (gate, keeper) = Gate::new("buffered");
    let gated = stream::repeat(()).gated(gate);
    assert_eq!(at_work_when_paused(gate, keeper, gated).await, 0);
}

#[tokio::test]
async fn an_adapter_whose_unit_ends_at_the_next_poll_is_caught() {
    let (gate, keeper) = Gate::new("naive");
    let gated = EndsAtNextPoll {
        inner: Box::pin(stream::repeat(())),
        gate,
        unit: None,
        wait: None,
    };
    assert_eq!(at_work_when_paused(gate, keeper, gated).await, 7);
}

#[tokio::test]
async fn whoever_waits_for_a_gate_to_close_is_woken_by_it() {
    let (gate, mut keeper) = Gate::new("waiting");
    let waiting: Vec<_> = (0..10).map(|_| tokio::spawn(gate.closed())).collect();
    tokio::task::yield_now().await;
    assert!(waiting.iter().all(|w| !w.is_finished()));
    // Work in flight: closed, and not proven.
    let unit = gate.try_enter().unwrap();
    keeper.close();
    for wait in waiting {
        wait.await.unwrap();
    }
    gate.closed().await;
    drop(unit);
}
