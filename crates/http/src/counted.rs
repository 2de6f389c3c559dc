//! A body that keeps its unit of work until it ends.
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Instant;
use tidegate_gate::{Member, Meter, Unit};

/// Longer names of upgraded connections are cut, as the gate cuts those of units: paths come from outside.
const NAME_LIMIT: usize = 112;

/// One request that is counted, until this is dropped.
#[derive(Debug)]
pub(crate) struct Ticket {
    _unit: Unit,
    meter: Option<&'static Meter>,
}

impl Ticket {
    /// Counts in flight only.
    #[inline(always)]
    pub(crate) fn of(unit: Unit) -> Ticket {
        Ticket {
            _unit: unit,
            meter: None,
        }
    }

    /// Counts as an event too, when it is over.
    #[inline(always)]
    pub(crate) fn told(unit: Unit, meter: &'static Meter) -> Ticket {
        Ticket {
            _unit: unit,
            meter: Some(meter),
        }
    }
}

impl Drop for Ticket {
    #[inline]
    fn drop(&mut self) {
        if let Some(meter) = self.meter {
            meter.add_events(1);
        }
    }
}

pin_project! {
    /// A body whose request is counted until the body has ended, failed or been dropped.
    #[derive(Debug)]
    pub struct CountedBody<B> {
        #[pin]
        body: B,
        ticket: Option<Ticket>,
    }
}

impl<B> CountedBody<B> {
    #[inline(always)]
    pub(crate) fn new(body: B, ticket: Option<Ticket>) -> Self {
        CountedBody { body, ticket }
    }
}

impl<B: Body> Body for CountedBody<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let this = self.project();
        let frame = ready!(this.body.poll_frame(cx));
        // Whoever takes the last frame may keep the empty body.
        if !matches!(frame, Some(Ok(_))) {
            *this.ticket = None;
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A member's counters for tickets. They live as long as its gate, which is for ever: a clone of the `Arc` in every
/// request would make all requests meet on one counter.
pub(crate) fn kept(member: &Member) -> &'static Arc<Meter> {
    Box::leak(Box::new(member.meter().clone()))
}

/// `GET /orders/7`. Without the query, which may hold what is not for status pages.
fn parts<'a>(method: &'a http::Method, path: &'a str) -> [&'a str; 3] {
    [method.as_str(), " ", path]
}

pub(crate) fn name_of(method: &http::Method, path: &str) -> String {
    let mut name = parts(method, path).concat();
    name.truncate(name.floor_char_boundary(NAME_LIMIT));
    name
}

/// The unit of a request that begins now.
#[inline(always)]
pub(crate) fn named(unit: Unit, method: &http::Method, path: &str) -> Unit {
    let now = Instant::now();
    if method == http::Method::GET {
        // Known to the compiler: it writes one word, where others are looked up and copied.
        return unit.named_by(&["GET ", path], now);
    }
    named_otherwise(unit, method, path, now)
}

#[inline(never)]
fn named_otherwise(unit: Unit, method: &http::Method, path: &str, now: Instant) -> Unit {
    unit.named_by(&parts(method, path), now)
}
