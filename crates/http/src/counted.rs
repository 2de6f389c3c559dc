//! A body that keeps its unit of work until it ends.
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use rustix::time::{ClockId, clock_gettime};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tidegate_gate::{Since, Unit};

/// Longer names of upgraded connections are cut, as the gate cuts those of units: paths come from outside.
const NAME_LIMIT: usize = 112;

pin_project! {
    /// A body whose request is counted until the body has ended, failed or been dropped.
    #[derive(Debug)]
    pub struct CountedBody<B> {
        #[pin]
        body: B,
        unit: Option<Unit>,
    }
}

impl<B> CountedBody<B> {
    #[inline(always)]
    pub(crate) fn new(body: B, unit: Option<Unit>) -> Self {
        CountedBody { body, unit }
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
            *this.unit = None;
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

/// `GET /orders/7`. Without the query, which may hold what is not for status pages.
fn parts<'a>(method: &'a http::Method, path: &'a str) -> [&'a str; 3] {
    [method.as_str(), " ", path]
}

pub(crate) fn name_of(method: &http::Method, path: &str) -> String {
    let mut name = parts(method, path).concat();
    name.truncate(name.floor_char_boundary(NAME_LIMIT));
    name
}

/// Up to a tick of the kernel's before now. The exact clock, and making an `Instant` of it, cost as much as all the rest that
/// counting a request does.
#[inline(always)]
fn now() -> Since {
    let tick = clock_gettime(ClockId::MonotonicCoarse);
    // Since the machine was started, so neither is less than nothing.
    Since::monotonic(tick.tv_sec as u64 * 1_000_000_000 + tick.tv_nsec as u64)
}

/// The unit of a request that begins now.
#[inline(always)]
pub(crate) fn named(unit: Unit, method: &http::Method, path: &str) -> Unit {
    let now = now();
    if method == http::Method::GET {
        // Known to the compiler: it writes one word, where others are looked up and copied.
        return unit.named_by(&["GET ", path], now);
    }
    named_otherwise(unit, method, path, now)
}

#[inline(never)]
fn named_otherwise(unit: Unit, method: &http::Method, path: &str, now: Since) -> Unit {
    unit.named_by(&parts(method, path), now)
}
