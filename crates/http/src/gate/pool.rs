//! Kept connections to the app in HTTP/1.
//!
//! Hyper's own client pools for any host and any version, and asks for a task, two locks and a hashed key with every
//! request for it. There is one app here, and what is given back is whole: a connection returns when the answer that
//! came over it has been read to its end.
//!
//! A connection is driven by whoever uses it: with a task of its own, every request would be handed over and its answer
//! back, each with a wake-up of the other task. Nobody drives one that is idle.
use super::forward::{Outbound, Upload};
use crate::socket::Outgoing;
use bytes::Bytes;
use http::header::UPGRADE;
use http::{Request, Response, Uri};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::client::conn::TrySendError;
use hyper::client::conn::http1::{Builder, Connection, SendRequest};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioIo;
use pin_project_lite::pin_project;
use std::collections::VecDeque;
use std::error::Error;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;
use tokio::task::unconstrained;
use tower::{Service, ServiceExt};

/// Many app servers close what has been idle for five seconds, and a request that meets the close is lost.
pub(super) const IDLE: Duration = Duration::from_secs(4);

/// How often the age of what is idle is looked at: no request has to read a clock for it.
const TURN: Duration = Duration::from_secs(1);

/// A connection to the app, and what moves its bytes.
pub(super) struct Link {
    send: SendRequest<Outbound>,
    /// Nothing if a task of its own drives the connection, or if it has ended.
    driver: Option<Box<Connection<TokioIo<Outgoing>, Outbound>>>,
}

impl Link {
    /// Moves what can be moved now. What waits for this connection need not be woken by it then, only asked after it.
    fn drive(&mut self, cx: &mut Context<'_>) {
        if let Some(driver) = &mut self.driver
            && let Poll::Ready(ended) = Pin::new(&mut **driver).poll(cx)
        {
            self.driver = None;
            ended.unwrap_or_else(broke);
        }
    }

    /// Goes on in a task of its own, for what may last longer than anybody here asks for it.
    fn detach(&mut self) {
        if let Some(driver) = self.driver.take() {
            let driver = Box::pin(driver.with_upgrades());
            tokio::spawn(async move { driver.await.unwrap_or_else(broke) });
        }
    }

    /// Whether it may be used. Asked of one that is idle: the wakers of its last user, who has no part in it any more,
    /// go by this.
    fn is_free(&mut self) -> bool {
        self.drive(&mut Context::from_waker(Waker::noop()));
        self.send.is_ready()
    }

    /// Sends a request before it returns; then a future of the head of its answer.
    pub(super) fn exchange(
        mut self,
        request: Request<Outbound>,
    ) -> Exchange<impl Future<Output = Result<Response<Incoming>, Unanswered>> + Send> {
        let upload = request.body().upload();
        if request.headers().contains_key(UPGRADE) {
            self.detach();
        }
        Exchange {
            // Unconstrained, since where it is polled without a waker nobody would hear that it has to yield.
            answer: unconstrained(self.send.try_send_request(request)),
            link: Some(self),
            upload,
        }
    }
}

/// With the request, if nothing of it has been sent.
pub(super) type Unanswered = TrySendError<Request<Outbound>>;

pin_project! {
    /// A request that has been sent, until the head of its answer.
    ///
    /// By hand, as what it is in: a block that awaits a future which it was given has room for it twice, and every
    /// request moves the whole.
    pub(super) struct Exchange<A> {
        #[pin]
        answer: A,
        link: Option<Link>,
        upload: Option<Upload>,
    }
}

impl<A> Future for Exchange<A>
where
    A: Future<Output = Result<Response<Incoming>, Unanswered>>,
{
    type Output = Result<(Response<Incoming>, Link), Unanswered>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let link = this.link.as_mut().expect(POLLED_AGAIN);
        link.drive(cx);
        let answer = match link.driver {
            Some(_) => this.answer.poll(&mut Context::from_waker(Waker::noop())),
            None => this.answer.poll(cx),
        };
        let answer = ready!(answer)?;
        // From here on it is driven as far as the answer is read, and an upload need not wait for that.
        if this.upload.take().is_some_and(|upload| upload.goes_on()) {
            link.detach();
        }
        Poll::Ready(Ok((answer, this.link.take().expect(POLLED_AGAIN))))
    }
}

pub(super) const POLLED_AGAIN: &str = "a future is not polled after it is ready";

fn broke(error: hyper::Error) {
    tracing::debug!(%error, "a connection to the app broke");
}

/// The app's connections that nobody uses, the last used at the back.
#[derive(Clone)]
pub(super) struct Pool(Arc<Inner>);

struct Inner {
    shelf: Mutex<Shelf>,
    connector: HttpConnector,
    uri: Uri,
}

#[derive(Default)]
struct Shelf {
    idle: VecDeque<Idle>,
    /// A task closes what has been idle for too long.
    swept: bool,
    /// Counts its turns.
    turn: u64,
}

struct Idle {
    link: Link,
    since: u64,
}

impl Inner {
    fn shelf(&self) -> MutexGuard<'_, Shelf> {
        // Nothing inside the lock can panic half way.
        self.shelf.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl Pool {
    pub(super) fn new(connector: HttpConnector, uri: Uri) -> Pool {
        Pool(Arc::new(Inner {
            shelf: Mutex::default(),
            connector,
            uri,
        }))
    }

    /// A kept connection, the last used first: those that are not needed grow old.
    pub(super) fn take(&self) -> Option<Link> {
        loop {
            let mut link = {
                let mut shelf = self.0.shelf();
                // Others were closed by the app, or are still busy with a body that their answer did not wait for.
                let at = shelf.idle.iter().rposition(|i| i.link.send.is_ready())?;
                shelf.idle.remove(at)?.link
            };
            if link.is_free() {
                return Some(link);
            }
        }
    }

    /// A new connection.
    pub(super) async fn connect(&self) -> Result<Link, Box<dyn Error + Send + Sync>> {
        let mut connector = self.0.connector.clone();
        let io = connector.ready().await?.call(self.0.uri.clone()).await?;
        let (send, driver) = Builder::new()
            .handshake(TokioIo::new(Outgoing(io.into_inner())))
            .await?;
        Ok(Link {
            send,
            driver: Some(Box::new(driver)),
        })
    }

    fn put(&self, mut link: Link) {
        if link.send.is_closed() {
            return;
        }
        if !link.send.is_ready() {
            link.detach();
        }
        let mut shelf = self.0.shelf();
        let since = shelf.turn;
        shelf.idle.push_back(Idle { link, since });
        if !std::mem::replace(&mut shelf.swept, true) {
            tokio::spawn(sweep(Arc::downgrade(&self.0)));
        }
    }
}

/// Closes what has been idle for too long, until nothing is left.
async fn sweep(pool: Weak<Inner>) {
    loop {
        tokio::time::sleep(TURN).await;
        let Some(pool) = pool.upgrade() else { return };
        let mut shelf = pool.shelf();
        shelf.turn += 1;
        let now = shelf.turn;
        shelf.idle.retain_mut(|i| {
            i.link.drive(&mut Context::from_waker(Waker::noop()));
            !i.link.send.is_closed() && TURN * u32::try_from(now - i.since).unwrap_or(u32::MAX) < IDLE
        });
        if shelf.idle.is_empty() {
            shelf.swept = false;
            return;
        }
    }
}

/// The body of the app's answer. At its end the connection is free again; dropped before, it is closed.
pub struct AppBody {
    incoming: Incoming,
    connection: Option<(Link, Pool)>,
}

impl std::fmt::Debug for AppBody {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AppBody").finish_non_exhaustive()
    }
}

impl AppBody {
    pub(super) fn over(incoming: Incoming, link: Link, pool: Pool) -> AppBody {
        let mut body = AppBody {
            incoming,
            connection: Some((link, pool)),
        };
        body.free_at_end();
        body
    }

    /// The body of an answer whose connection is somebody else's to keep.
    pub(super) fn of(incoming: Incoming) -> AppBody {
        AppBody {
            incoming,
            connection: None,
        }
    }

    fn free_at_end(&mut self) {
        if self.incoming.is_end_stream() {
            self.free();
        }
    }

    fn free(&mut self) {
        if let Some((link, pool)) = self.connection.take() {
            pool.put(link);
        }
    }

    fn poll_incoming(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        if let Some((link, _)) = &mut self.connection
            && link.driver.is_some()
        {
            let nobody = &mut Context::from_waker(Waker::noop());
            if let Poll::Ready(frame) = Pin::new(&mut self.incoming).poll_frame(nobody) {
                return Poll::Ready(frame);
            }
            link.drive(cx);
            if link.driver.is_some() {
                return Pin::new(&mut self.incoming).poll_frame(nobody);
            }
        }
        Pin::new(&mut self.incoming).poll_frame(cx)
    }
}

impl Body for AppBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let this = self.get_mut();
        let frame = ready!(this.poll_incoming(cx));
        match &frame {
            Some(Ok(_)) => this.free_at_end(),
            Some(Err(_)) => this.connection = None,
            None => this.free(),
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}
