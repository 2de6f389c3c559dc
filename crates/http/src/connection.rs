//! One connection: what it is doing, how long it may take, and the services around it.
use crate::listener::Limits;
use bytes::Bytes;
use http::{Request, Response, Version};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use pin_project_lite::pin_project;
use std::collections::HashMap;
use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::{Notify, OwnedSemaphorePermit};
use tokio::time::{Instant, Sleep, sleep_until};
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use tower::util::{Oneshot, ServiceExt};

/// Who is at the other end; every request carries it as an extension.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// The other end; nothing for a Unix socket.
    pub addr: Option<SocketAddr>,
    /// Our end; nothing for a Unix socket.
    pub local: Option<SocketAddr>,
    /// The connection is encrypted.
    pub tls: bool,
}

impl Peer {
    /// The other end is on this machine.
    pub fn is_loopback(&self) -> bool {
        self.addr
            .is_none_or(|addr| addr.ip().to_canonical().is_loopback())
    }
}

/// What one connection is doing, as seen by its own task, its response bodies and the accept loop.
#[derive(Debug)]
pub(crate) struct Doings {
    accepted: Instant,
    in_flight: AtomicU32,
    served: AtomicBool,
    http2: AtomicBool,
    /// No longer the listener's to close: evicted already, or upgraded.
    gone: AtomicBool,
    /// Milliseconds since `accepted`.
    idle_since: AtomicU64,
    /// When the first byte of the next request's head came; 0 for not yet.
    head_since: AtomicU64,
    /// Response bodies whose last frame was taken and that were not asked for more: the peer reads slowly.
    unread: AtomicU32,
    /// When a response body last moved.
    moved: AtomicU64,
    evict: Notify,
}

impl Doings {
    pub(crate) fn new() -> Doings {
        Doings {
            accepted: Instant::now(),
            in_flight: AtomicU32::new(0),
            served: AtomicBool::new(false),
            http2: AtomicBool::new(false),
            gone: AtomicBool::new(false),
            idle_since: AtomicU64::new(0),
            head_since: AtomicU64::new(0),
            unread: AtomicU32::new(0),
            moved: AtomicU64::new(0),
            evict: Notify::new(),
        }
    }

    fn now(&self) -> u64 {
        // 584 million years.
        self.accepted.elapsed().as_millis() as u64
    }

    fn at(&self, millis: u64) -> Instant {
        self.accepted + Duration::from_millis(millis)
    }

    /// The accept loop's question: since when has nothing been asked of it?
    fn idle(&self) -> Option<Instant> {
        (self.in_flight.load(Relaxed) == 0 && !self.gone.load(Relaxed))
            .then(|| self.at(self.idle_since.load(Relaxed)))
    }

    /// By when something has to happen, and what it is called if it does not.
    fn due(&self, limits: &Limits) -> Option<(Instant, Due)> {
        if self.in_flight.load(Relaxed) > 0 {
            return (self.unread.load(Relaxed) > 0).then(|| {
                (
                    self.at(self.moved.load(Relaxed)) + limits.write_timeout,
                    Due::Write,
                )
            });
        }
        if !self.served.load(Relaxed) {
            return Some((self.accepted + limits.header_timeout, Due::Head));
        }
        match self.head_since.load(Relaxed) {
            // HTTP/2 has frames of its own between requests; keep-alive bounds them.
            since if since > 0 && !self.http2.load(Relaxed) => {
                Some((self.at(since) + limits.header_timeout, Due::Head))
            }
            _ => Some((
                self.at(self.idle_since.load(Relaxed)) + limits.keep_alive,
                Due::KeepAlive,
            )),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Due {
    Head,
    KeepAlive,
    Write,
}

/// A request from its head to the end of its answer's body.
struct Work(Arc<Doings>);

impl Work {
    fn start(doings: &Arc<Doings>, version: Version) -> Work {
        doings.in_flight.fetch_add(1, Relaxed);
        doings.head_since.store(0, Relaxed);
        doings.served.store(true, Relaxed);
        if version == Version::HTTP_2 {
            doings.http2.store(true, Relaxed);
        }
        Work(doings.clone())
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        self.0.idle_since.store(self.0.now(), Relaxed);
        self.0.in_flight.fetch_sub(1, Relaxed);
    }
}

/// The connections of one listener.
#[derive(Debug, Default)]
pub(crate) struct Connections {
    next: AtomicU64,
    open: Mutex<HashMap<u64, Arc<Doings>>>,
}

impl Connections {
    pub(crate) fn add(self: &Arc<Self>, permit: OwnedSemaphorePermit) -> (Place, Arc<Doings>) {
        let id = self.next.fetch_add(1, Relaxed);
        let doings = Arc::new(Doings::new());
        self.open().insert(id, doings.clone());
        let place = Place {
            connections: self.clone(),
            id,
            _permit: permit,
        };
        (place, doings)
    }

    /// Ends the connection that has been idle longest, and for at least `grace`.
    pub(crate) fn evict_one(&self, grace: Duration) {
        let longest = self
            .open()
            .values()
            .filter_map(|c| Some((c.idle()?, c.clone())))
            .min_by_key(|(since, _)| *since);
        if let Some((_, doings)) = longest.filter(|(since, _)| since.elapsed() >= grace) {
            doings.gone.store(true, Relaxed);
            doings.evict.notify_one();
        }
    }

    fn open(&self) -> MutexGuard<'_, HashMap<u64, Arc<Doings>>> {
        // Nothing inside the lock can panic half way.
        self.open.lock().unwrap_or_else(|p| p.into_inner())
    }
}

/// A connection's place among the listener's; it lives as long as the socket, upgraded or not.
#[derive(Debug)]
pub(crate) struct Place {
    connections: Arc<Connections>,
    id: u64,
    _permit: OwnedSemaphorePermit,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.connections.open().remove(&self.id);
    }
}

pub(crate) enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
    Tls(Box<TlsStream<TcpStream>>),
}

macro_rules! each {
    ($socket:expr, $io:ident => $call:expr) => {
        match $socket {
            Socket::Tcp($io) => $call,
            Socket::Unix($io) => $call,
            Socket::Tls($io) => $call,
        }
    };
}

/// The socket, with a note of when bytes came.
pub(crate) struct Watched {
    pub(crate) socket: Socket,
    pub(crate) doings: Arc<Doings>,
    pub(crate) _place: Place,
}

impl AsyncRead for Watched {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        ready!(each!(&mut this.socket, io => Pin::new(io).poll_read(cx, buf)))?;
        let doings = &this.doings;
        if buf.filled().len() > before
            && doings.in_flight.load(Relaxed) == 0
            && doings.head_since.load(Relaxed) == 0
        {
            doings.head_since.store(doings.now().max(1), Relaxed);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Watched {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        each!(&mut self.get_mut().socket, io => Pin::new(io).poll_write(cx, buf))
    }
    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        each!(&mut self.get_mut().socket, io => Pin::new(io).poll_write_vectored(cx, bufs))
    }
    fn is_write_vectored(&self) -> bool {
        each!(&self.socket, io => io.is_write_vectored())
    }
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(&mut self.get_mut().socket, io => Pin::new(io).poll_flush(cx))
    }
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(&mut self.get_mut().socket, io => Pin::new(io).poll_shutdown(cx))
    }
}

/// Why a request's body could not be read to its end.
#[derive(Debug, thiserror::Error)]
pub enum RequestBodyError {
    /// Nothing came for the body timeout while somebody was waiting for it.
    #[error("nothing of the request's body came for {0:?}")]
    Timeout(Duration),
    /// The connection or the framing broke.
    #[error(transparent)]
    Broken(#[from] hyper::Error),
}

pin_project! {
    /// A request's body that fails when nothing comes for the body timeout. The time counts only while somebody
    /// waits for the body: back-pressure from behind is not the sender's fault.
    pub struct RequestBody {
        #[pin]
        incoming: Incoming,
        timeout: Duration,
        timer: Option<Pin<Box<Sleep>>>,
        waiting: bool,
    }
}

impl RequestBody {
    fn new(incoming: Incoming, timeout: Duration) -> RequestBody {
        RequestBody {
            incoming,
            timeout,
            timer: None,
            waiting: false,
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
            *this.waiting = false;
            return Poll::Ready(frame.map(|f| f.map_err(RequestBodyError::from)));
        }
        let deadline = Instant::now() + *this.timeout;
        let timer = this.timer.get_or_insert_with(|| Box::pin(sleep_until(deadline)));
        if !std::mem::replace(this.waiting, true) {
            timer.as_mut().reset(deadline);
        }
        ready!(timer.as_mut().poll(cx));
        Poll::Ready(Some(Err(RequestBodyError::Timeout(*this.timeout))))
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}

pin_project! {
    /// A response's body that keeps its request counted until it ends or is dropped.
    pub(crate) struct Counted<B> {
        #[pin]
        body: B,
        reading: Reading,
    }
}

struct Reading {
    work: Work,
    unread: bool,
}

impl Reading {
    fn set_unread(&mut self, unread: bool) {
        let doings = &self.work.0;
        if std::mem::replace(&mut self.unread, unread) != unread {
            match unread {
                true => {
                    doings.moved.store(doings.now(), Relaxed);
                    doings.unread.fetch_add(1, Relaxed);
                }
                false => {
                    doings.unread.fetch_sub(1, Relaxed);
                }
            }
        }
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        self.set_unread(false);
    }
}

impl<B: Body> Body for Counted<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let this = self.project();
        this.reading.set_unread(false);
        let frame = ready!(this.body.poll_frame(cx));
        this.reading.set_unread(frame.is_some());
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

struct Serve<S> {
    service: S,
    doings: Arc<Doings>,
    peer: Peer,
    body_timeout: Duration,
}

impl<S, B> hyper::service::Service<Request<Incoming>> for Serve<S>
where
    S: tower::Service<Request<RequestBody>, Response = Response<B>, Error = Infallible> + Clone,
{
    type Response = Response<Counted<B>>;
    type Error = Infallible;
    type Future = Answer<Oneshot<S, Request<RequestBody>>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let work = Work::start(&self.doings, request.version());
        let mut request = request.map(|body| RequestBody::new(body, self.body_timeout));
        request.extensions_mut().insert(self.peer.clone());
        Answer {
            answer: self.service.clone().oneshot(request),
            work: Some(work),
        }
    }
}

pin_project! {
    struct Answer<F> {
        #[pin]
        answer: F,
        work: Option<Work>,
    }
}

impl<F, B> Future for Answer<F>
where
    F: Future<Output = Result<Response<B>, Infallible>>,
{
    type Output = Result<Response<Counted<B>>, Infallible>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let Ok(response) = ready!(this.answer.poll(cx));
        let work = this
            .work
            .take()
            .expect("a future is not polled after it is ready");
        Poll::Ready(Ok(response.map(|body| Counted {
            body,
            reading: Reading { work, unread: false },
        })))
    }
}

/// Waits for the listener to want this connection's place.
pub(crate) async fn evicted(doings: &Doings) {
    doings.evict.notified().await;
}

/// Serves one connection to its end; resolves with a word on why it was cut, if it was.
pub(crate) async fn serve<S, B>(
    io: Watched,
    peer: Peer,
    service: S,
    limits: &Limits,
    stop: CancellationToken,
) -> Option<&'static str>
where
    S: tower::Service<Request<RequestBody>, Response = Response<B>, Error = Infallible>
        + Clone
        + Send
        + 'static,
    S::Future: Send + 'static,
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let doings = io.doings.clone();
    let service = Serve {
        service,
        doings: doings.clone(),
        peer,
        body_timeout: limits.body_timeout,
    };
    let builder = builder(limits);
    let mut connection = pin!(builder.serve_connection_with_upgrades(TokioIo::new(io), service));
    let mut stopped = pin!(stop.cancelled());
    let mut evicted = pin!(doings.evict.notified());
    let mut armed = doings.accepted + limits.header_timeout;
    let mut timer = pin!(sleep_until(armed));
    let mut closing = false;
    let mut last_call = None;
    let cut = poll_fn(|cx| {
        loop {
            if let Poll::Ready(ended) = connection.as_mut().poll(cx) {
                if let Err(error) = ended {
                    tracing::debug!(error = &*error, "a connection broke");
                }
                return Poll::Ready(None);
            }
            if !closing && stopped.as_mut().poll(cx).is_ready() {
                closing = true;
                connection.as_mut().graceful_shutdown();
                continue;
            }
            if evicted.as_mut().poll(cx).is_ready() {
                return Poll::Ready(Some("it was idle and its place was wanted"));
            }
            let due = match last_call {
                Some(at) => Some((at, Due::KeepAlive)),
                None => doings.due(limits),
            };
            // The timer is moved only to be earlier; a deadline that has moved on is found when it fires.
            if let Some((at, _)) = due.filter(|(at, _)| *at < armed) {
                armed = at;
                timer.as_mut().reset(at);
            }
            ready!(timer.as_mut().poll(cx));
            let now = Instant::now();
            match due {
                Some((at, Due::Head)) if at <= now => {
                    return Poll::Ready(Some("its request's head did not come in time"));
                }
                Some((at, Due::Write)) if at <= now => {
                    return Poll::Ready(Some("it did not read what was sent"));
                }
                Some((at, Due::KeepAlive)) if at <= now => {
                    if last_call.is_some() {
                        return Poll::Ready(Some("it was idle and did not close"));
                    }
                    // HTTP/2 says goodbye first; a peer that does not answer gets as long as a slow head.
                    closing = true;
                    connection.as_mut().graceful_shutdown();
                    armed = now + limits.header_timeout;
                    last_call = Some(armed);
                }
                Some((at, _)) => armed = at,
                None => armed = now + limits.write_timeout,
            }
            timer.as_mut().reset(armed);
        }
    })
    .await;
    // After an upgrade the socket lives on without us: there is nobody left to tell it to go.
    doings.gone.store(true, Relaxed);
    cut
}

fn builder(limits: &Limits) -> auto::Builder<TokioExecutor> {
    use hyper_util::rt::TokioTimer;
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        // Hyper's own timer cannot tell an idle connection from a slow head; `Doings` can.
        .header_read_timeout(None)
        .max_buf_size(limits.buffer.max(8192))
        .max_headers(limits.max_headers);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(Some(Duration::from_secs(20)))
        .keep_alive_timeout(Duration::from_secs(10))
        .max_header_list_size(limits.buffer.try_into().unwrap_or(u32::MAX))
        .max_concurrent_streams(limits.max_streams)
        .initial_stream_window_size(limits.buffer.try_into().unwrap_or(u32::MAX >> 1))
        .max_send_buf_size(limits.buffer);
    builder
}
