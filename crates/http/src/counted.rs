//! A body that keeps its unit of work until it ends.
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use std::borrow::Cow;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use tidegate_gate::{Meter, Unit};

/// Longer names of units are cut: paths come from outside.
const NAME_LIMIT: usize = 96;

/// One request that is counted, until this is dropped.
#[derive(Debug)]
pub(crate) struct Ticket {
    _unit: Unit,
    meter: Option<Arc<Meter>>,
}

impl Ticket {
    /// Counts in flight only.
    pub(crate) fn of(unit: Unit) -> Ticket {
        Ticket {
            _unit: unit,
            meter: None,
        }
    }

    /// Counts as an event too, when it is over.
    pub(crate) fn told(unit: Unit, meter: Arc<Meter>) -> Ticket {
        Ticket {
            _unit: unit,
            meter: Some(meter),
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if let Some(meter) = &self.meter {
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

/// `GET /orders/7`, cut. Without the query, which may hold what is not for status pages.
pub(crate) fn name_of(method: &http::Method, path: &str) -> Cow<'static, str> {
    let method = method.as_str();
    let mut name = String::with_capacity(NAME_LIMIT.min(method.len() + 1 + path.len()));
    for part in [method, " ", path] {
        let room = NAME_LIMIT - name.len();
        name.push_str(&part[..part.floor_char_boundary(room)]);
    }
    name.into()
}
