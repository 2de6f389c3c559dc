//! A request's body, which has to come.
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use pin_project_lite::pin_project;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::time::{Instant, Sleep, sleep_until};

/// Bytes a second. Less, and a peer could keep a request open for days with a byte now and then.
const LEAST_RATE: u32 = 512;

/// Why a request's body could not be read to its end.
#[derive(Debug, thiserror::Error)]
pub enum RequestBodyError {
    /// Nothing came for the body timeout while somebody was waiting for it, or less than 512 bytes a second.
    #[error("nothing of the request's body came for {0:?}, or less than 512 bytes a second")]
    Timeout(Duration),
    /// The connection or the framing broke.
    #[error(transparent)]
    Broken(#[from] hyper::Error),
}

/// Whether the answer of a request is on its way while its body may still be coming.
#[derive(Clone, Debug, Default)]
pub(crate) struct Answering(Arc<AtomicBool>);

impl Answering {
    pub(crate) fn set(&self, is: bool) {
        self.0.store(is, Relaxed);
    }
}

pin_project! {
    /// A request's body that fails when nothing comes for the body timeout, or less than 512 bytes a second for that
    /// long. The time counts only while somebody waits for the body: back-pressure from behind is not the sender's
    /// fault. While the answer is under way it does not count either: in a conversation, silence is no attack.
    pub struct RequestBody {
        #[pin]
        incoming: Incoming,
        timeout: Duration,
        timer: Option<Pin<Box<Sleep>>>,
        waiting_since: Option<Instant>,
        // How long it may keep its reader waiting; what comes earns more, up to the timeout.
        credit: Duration,
        answering: Option<Answering>,
    }
}

impl RequestBody {
    pub(crate) fn new(incoming: Incoming, timeout: Duration, answering: Option<Answering>) -> RequestBody {
        RequestBody {
            incoming,
            timeout,
            timer: None,
            waiting_since: None,
            credit: timeout,
            answering,
        }
    }
}

impl std::fmt::Debug for RequestBody {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RequestBody").finish_non_exhaustive()
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = RequestBodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, RequestBodyError>>> {
        let this = self.project();
        if let Poll::Ready(frame) = this.incoming.poll_frame(cx) {
            if let Some(since) = this.waiting_since.take() {
                *this.credit = this.credit.saturating_sub(since.elapsed());
            }
            if let Some(Ok(frame)) = &frame {
                let bytes = frame.data_ref().map_or(0, Bytes::len);
                let earned = Duration::from_secs(bytes as u64) / LEAST_RATE;
                *this.credit = (*this.credit + earned).min(*this.timeout);
            }
            return Poll::Ready(frame.map(|f| f.map_err(RequestBodyError::from)));
        }
        let now = Instant::now();
        let timer = this.timer.get_or_insert_with(|| Box::pin(sleep_until(now)));
        if this.waiting_since.is_none() {
            *this.waiting_since = Some(now);
            timer.as_mut().reset(now + *this.credit);
        }
        loop {
            ready!(timer.as_mut().poll(cx));
            if !this.answering.as_ref().is_some_and(|a| a.0.load(Relaxed)) {
                return Poll::Ready(Some(Err(RequestBodyError::Timeout(*this.timeout))));
            }
            let now = Instant::now();
            *this.waiting_since = Some(now);
            *this.credit = *this.timeout;
            timer.as_mut().reset(now + *this.credit);
        }
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}
