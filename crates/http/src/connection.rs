//! One connection: the services around it, and how long each part of it may take.
use crate::body::{Answering, RequestBody};
use crate::doings::{Doings, Due, Work};
use crate::listener::Limits;
use crate::socket::Watched;
use http::{Extensions, HeaderValue, Request, Response};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use pin_project_lite::pin_project;
use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;
use tokio::time::{Instant, sleep_until};
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
    /// The other end's address as a proxy passes it on: written once for a connection, not for each of its requests.
    pub(crate) forwarded: Option<HeaderValue>,
}

impl Peer {
    /// Who is at the other end of a connection.
    pub fn new(addr: Option<SocketAddr>, local: Option<SocketAddr>, tls: bool) -> Peer {
        let ip = addr.map(|addr| addr.ip().to_canonical().to_string());
        Peer {
            addr,
            local,
            tls,
            forwarded: ip.and_then(|ip| HeaderValue::from_str(&ip).ok()),
        }
    }

    /// The other end is on this machine.
    pub fn is_loopback(&self) -> bool {
        self.addr
            .is_none_or(|addr| addr.ip().to_canonical().is_loopback())
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
    answering: Option<Answering>,
}

impl Reading {
    fn set_unread(&mut self, unread: bool) {
        if std::mem::replace(&mut self.unread, unread) != unread {
            self.work.0.set_unread(unread);
        }
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        self.set_unread(false);
        if let Some(answering) = &self.answering {
            answering.set(false);
        }
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
    /// What every request carries.
    carried: Extensions,
    body_timeout: Duration,
}

/// The peer, and room for what routers and layers add: a map that has to grow is made and filled anew for every request,
/// a copy of one with room has it too.
fn carried(peer: Peer) -> Extensions {
    #[derive(Clone)]
    struct Room<const N: usize>;
    let mut carried = Extensions::new();
    carried.insert(peer);
    carried.insert(Room::<1>);
    carried.insert(Room::<2>);
    carried.insert(Room::<3>);
    carried.remove::<Room<1>>();
    carried.remove::<Room<2>>();
    carried.remove::<Room<3>>();
    carried
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
        let answering = (!request.body().is_end_stream()).then(Answering::default);
        let mut request = request.map(|body| RequestBody::new(body, self.body_timeout, answering.clone()));
        request.extensions_mut().extend(self.carried.clone());
        Answer {
            answer: self.service.clone().oneshot(request),
            work: Some(work),
            answering,
        }
    }
}

pin_project! {
    struct Answer<F> {
        #[pin]
        answer: F,
        work: Option<Work>,
        answering: Option<Answering>,
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
        let answering = this.answering.take();
        if let Some(answering) = &answering {
            answering.set(true);
        }
        Poll::Ready(Ok(response.map(|body| Counted {
            body,
            reading: Reading {
                work,
                unread: false,
                answering,
            },
        })))
    }
}

/// Serves one connection to its end; resolves with a word on why it was cut, if it was.
pub(crate) async fn serve<S, B>(io: Watched, peer: Peer, service: S, limits: &Limits) -> Option<&'static str>
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
        carried: carried(peer),
        body_timeout: limits.body_timeout,
    };
    let builder = builder(limits);
    let mut connection = pin!(builder.serve_connection_with_upgrades(TokioIo::new(io), service));
    let mut called = pin!(doings.called());
    let mut armed = doings.accepted + limits.header_timeout;
    let mut timer = pin!(sleep_until(armed));
    let mut stopping = false;
    let mut last_call = None;
    let mut told: Option<Waker> = None;
    let cut = poll_fn(|cx| {
        // Who is to be told of the end has been noted; each request asks only whether it has come.
        let known = told.as_ref().is_some_and(|told| told.will_wake(cx.waker()));
        if !known {
            told = Some(cx.waker().clone());
        }
        loop {
            if let Poll::Ready(ended) = connection.as_mut().poll(cx) {
                if let Err(error) = ended {
                    tracing::debug!(error = &*error, "a connection broke");
                }
                return Poll::Ready(None);
            }
            // Once: a listener that stops wants no place any more.
            if !stopping && (!known || doings.is_called()) && called.as_mut().poll(cx).is_ready() {
                if doings.is_gone() {
                    return Poll::Ready(Some("it was idle and its place was wanted"));
                }
                stopping = true;
                connection.as_mut().graceful_shutdown();
                continue;
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
    doings.leave();
    cut
}

/// What hyper takes if it is told nothing. A test holds both of us to it.
const HYPERS_MAX_HEADERS: usize = 100;

fn builder(limits: &Limits) -> auto::Builder<TokioExecutor> {
    use hyper_util::rt::TokioTimer;
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        // Hyper's own timer cannot tell an idle connection from a slow head; `Doings` can.
        .header_read_timeout(None)
        .max_buf_size(limits.buffer.max(8192));
    // Told a number, hyper fills lists of so many places anew for each head, even if it is the number that it has room for.
    if limits.max_headers != HYPERS_MAX_HEADERS {
        builder.http1().max_headers(limits.max_headers);
    }
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
