//! `.gated(gate)`: a stream whose items carry the unit that admitted them.
use crate::gate::{Gate, Unit};
use futures_core::Stream;
use pin_project_lite::pin_project;
use std::future::Future;
use std::ops::{Deref, DerefMut};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

/// An item that passed the gate, with the unit that counts it: drop both together, when its effect is done.
#[derive(Debug)]
pub struct Admitted<T> {
    /// The item.
    pub item: T,
    /// Its unit of work.
    pub unit: Unit,
}

impl<T> Deref for Admitted<T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.item
    }
}
impl<T> DerefMut for Admitted<T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.item
    }
}

pin_project! {
    /// See [`GatedExt::gated`].
    #[must_use = "streams do nothing unless polled"]
    pub struct Gated<S: Stream> {
        #[pin]
        inner: S,
        gate: Gate,
        parked: Option<S::Item>,
        wait: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    }
}

impl<S: Stream> Stream for Gated<S> {
    type Item = Admitted<S::Item>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let mut this = self.project();
        loop {
            if let Some(wait) = this.wait.as_mut() {
                ready!(wait.as_mut().poll(cx));
                *this.wait = None;
            }
            // A closed gate asks the source for nothing.
            if !this.gate.is_closed() {
                let item = match this.parked.take() {
                    Some(item) => item,
                    None => match ready!(this.inner.as_mut().poll_next(cx)) {
                        Some(item) => item,
                        None => return Poll::Ready(None),
                    },
                };
                if let Some(unit) = this.gate.try_enter() {
                    return Poll::Ready(Some(Admitted { item, unit }));
                }
                *this.parked = Some(item);
            }
            let opened = this.gate.opened();
            *this.wait = Some(Box::pin(opened));
        }
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let parked = usize::from(self.parked.is_some());
        let (low, high) = self.inner.size_hint();
        (
            low.saturating_add(parked),
            high.and_then(|h| h.checked_add(parked)),
        )
    }
}

/// Gates any `futures` stream.
pub trait GatedExt: Stream + Sized {
    /// Every item passes `gate` and carries its unit, so that whatever consumes it downstream is counted until
    /// it drops the [`Admitted`] item. An item that arrives while the gate is closed is kept and comes first
    /// after it opens.
    ///
    /// Put it **last, after buffering**: what a combinator before it buffers has not passed the gate. A unit
    /// that ended at the next poll instead would let `buffer_unordered` work on in most pauses. For a serial
    /// loop use a [`Lane`](crate::Lane): it is cheaper.
    fn gated(self, gate: Gate) -> Gated<Self> {
        Gated {
            inner: self,
            gate,
            parked: None,
            wait: None,
        }
    }
}

impl<S: Stream> GatedExt for S {}
