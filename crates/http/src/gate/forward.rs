//! The way to the app.
use super::config::{self, BadGate};
use super::pool::{AppBody, IDLE, Link, Pool, Unanswered};
use crate::body::{RequestBody, RequestBodyError};
use bytes::Bytes;
use http::uri::Authority;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use pin_project_lite::pin_project;
use std::error::Error;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tidegate_gate::Unit;

/// For a connection to the app, which is beside us.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

type Cause = Box<dyn Error + Send + Sync>;

/// The app, and the connections to it.
pub(super) struct Upstream {
    authority: Authority,
    http1: Pool,
    http2: Client<HttpConnector, Outbound>,
}

impl Upstream {
    pub(super) fn new(upstream: &str) -> Result<Upstream, BadGate> {
        let authority = config::upstream(upstream)?;
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        connector.set_connect_timeout(Some(CONNECT_TIMEOUT));
        connector.set_keepalive(Some(Duration::from_secs(60)));
        let http2 = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .timer(TokioTimer::new())
            .pool_idle_timeout(IDLE)
            .set_host(false)
            .http2_only(true)
            .build(connector.clone());
        let uri = Uri::builder()
            .scheme("http")
            .authority(authority.clone())
            .path_and_query("/")
            .build()
            .expect("a scheme, an authority and a path are a URI");
        Ok(Upstream {
            authority,
            http1: Pool::new(connector, uri),
            http2,
        })
    }

    pub(super) fn authority(&self) -> &Authority {
        &self.authority
    }

    pub(super) fn host(&self) -> HeaderValue {
        HeaderValue::from_str(self.authority.as_str()).expect("an authority is visible ASCII")
    }

    /// gRPC exists in HTTP/2 only. Everything else is understood by every app in HTTP/1.1.
    pub(super) fn speaks_http2(&self, headers: &HeaderMap) -> bool {
        headers
            .get(http::header::CONTENT_TYPE)
            .is_some_and(|t| t.as_bytes().starts_with(b"application/grpc"))
    }

    /// Sends at once where a connection is at hand.
    pub(super) fn send(
        &self,
        request: Request<Outbound>,
    ) -> impl Future<Output = Result<Response<AppBody>, Failure>> + Send + use<> {
        // In boxes, as whatever is seldom taken.
        if request.version() == http::Version::HTTP_2 {
            let seldom = Box::pin(over_http2(self.http2.clone(), request));
            return Sending::Seldom { seldom };
        }
        match self.http1.take() {
            Some(link) => {
                let again = again(&request).map(Box::new);
                Sending::Kept {
                    exchange: link.exchange(request),
                    pool: self.http1.clone(),
                    again,
                }
            }
            None => Sending::Seldom {
                seldom: Box::pin(over_new(self.http1.clone(), request)),
            },
        }
    }
}

type Boxed = Pin<Box<dyn Future<Output = Result<Response<AppBody>, Failure>> + Send>>;

pin_project! {
    #[project = SendingProjection]
    enum Sending<E> {
        Kept {
            #[pin]
            exchange: E,
            pool: Pool,
            again: Option<Box<Request<Outbound>>>,
        },
        Seldom { seldom: Boxed },
    }
}

impl<E> Future for Sending<E>
where
    E: Future<Output = Result<(Response<Incoming>, Link), Unanswered>>,
{
    type Output = Result<Response<AppBody>, Failure>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let seldom = match self.as_mut().project() {
            SendingProjection::Seldom { seldom } => return seldom.as_mut().poll(cx),
            SendingProjection::Kept {
                exchange,
                pool,
                again,
            } => match ready!(exchange.poll(cx)) {
                Ok((answer, link)) => {
                    let pool = pool.clone();
                    return Poll::Ready(Ok(answer.map(|body| AppBody::over(body, link, pool))));
                }
                Err(failed) => match once_more(failed, again.take()) {
                    Ok(request) => Box::pin(over_new(pool.clone(), request)),
                    Err(failure) => return Poll::Ready(Err(failure)),
                },
            },
        };
        self.set(Sending::Seldom { seldom });
        self.poll(cx)
    }
}

/// What to send over a new connection when a kept one has failed.
fn once_more(
    mut failed: Unanswered,
    again: Option<Box<Request<Outbound>>>,
) -> Result<Request<Outbound>, Failure> {
    match failed.take_message() {
        // It was closed before anything was said.
        Some(unsent) => Ok(unsent),
        // It was closed by the app at the moment we used it.
        None => match again.filter(|_| closed_meanwhile(failed.error())) {
            Some(again) => Ok(*again),
            None => Err(Failure::of(failed.into_error().into())),
        },
    }
}

async fn over_new(pool: Pool, request: Request<Outbound>) -> Result<Response<AppBody>, Failure> {
    let link = pool.connect().await.map_err(Failure::unconnected)?;
    match link.exchange(request).await {
        Ok((answer, link)) => Ok(answer.map(|body| AppBody::over(body, link, pool))),
        Err(failed) => Err(Failure::of(failed.into_error().into())),
    }
}

async fn over_http2(
    client: Client<HttpConnector, Outbound>,
    request: Request<Outbound>,
) -> Result<Response<AppBody>, Failure> {
    let again = again(&request);
    let answer = match client.request(request).await {
        Err(error) if !error.is_connect() && closed_meanwhile(&error) => match again {
            Some(request) => client.request(request).await,
            None => Err(error),
        },
        answer => answer,
    };
    match answer {
        Ok(answer) => Ok(answer.map(AppBody::of)),
        Err(error) if error.is_connect() => Err(Failure::unconnected(error.into())),
        Err(error) => Err(Failure::of(error.into())),
    }
}

impl fmt::Display for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http://{}", self.authority)
    }
}

/// The same request once more, if it changes nothing and has no body.
fn again(request: &Request<Outbound>) -> Option<Request<Outbound>> {
    let safe = matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS);
    if !safe || !request.body().is_end_stream() {
        return None;
    }
    let mut again = Request::new(Outbound::empty());
    *again.method_mut() = request.method().clone();
    *again.uri_mut() = request.uri().clone();
    *again.version_mut() = request.version();
    *again.headers_mut() = request.headers().clone();
    Some(again)
}

fn cause<'a, E: Error + 'static>(error: &'a (dyn Error + 'static)) -> Option<&'a E> {
    std::iter::successors(Some(error), |e| (*e).source()).find_map(|e| e.downcast_ref())
}

fn closed_meanwhile(error: &(dyn Error + 'static)) -> bool {
    let reset = cause::<std::io::Error>(error).is_some_and(|e| {
        use std::io::ErrorKind::{BrokenPipe, ConnectionReset};
        matches!(e.kind(), ConnectionReset | BrokenPipe)
    });
    reset || cause::<hyper::Error>(error).is_some_and(hyper::Error::is_incomplete_message)
}

/// Why there is no answer from the app.
#[derive(Debug)]
pub(super) struct Failure {
    kind: FailureKind,
    error: Cause,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum FailureKind {
    /// The client's body did not come, or came broken.
    Body,
    SlowBody,
    NoConnection,
    NoAnswer,
}

impl Failure {
    fn of(error: Cause) -> Failure {
        let kind = match cause::<RequestBodyError>(&*error) {
            Some(RequestBodyError::Timeout(_)) => FailureKind::SlowBody,
            Some(RequestBodyError::Broken(_)) => FailureKind::Body,
            None => FailureKind::NoAnswer,
        };
        Failure { kind, error }
    }

    fn unconnected(error: Cause) -> Failure {
        let kind = FailureKind::NoConnection;
        Failure { kind, error }
    }

    pub(super) fn status(&self) -> StatusCode {
        match self.kind {
            FailureKind::Body => StatusCode::BAD_REQUEST,
            FailureKind::SlowBody => StatusCode::REQUEST_TIMEOUT,
            FailureKind::NoConnection | FailureKind::NoAnswer => StatusCode::BAD_GATEWAY,
        }
    }

    pub(super) fn sentence(&self) -> &'static str {
        match self.kind {
            FailureKind::Body => "the request's body is broken\n",
            FailureKind::SlowBody => "the request's body did not come in time\n",
            FailureKind::NoConnection => "the app behind this gate takes no connections\n",
            FailureKind::NoAnswer => "the app behind this gate closed the connection without an answer\n",
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let chain = std::iter::successors(Some(&*self.error as &(dyn Error + 'static)), |e| (*e).source());
        for (i, error) in chain.enumerate() {
            write!(f, "{}{error}", if i == 0 { "" } else { ": " })?;
        }
        Ok(())
    }
}

/// A request's body on its way to the app, with the piece that was taken of it before.
pub(super) struct Outbound {
    /// In a box, since it is large, moves with the request and is seldom there.
    first: Option<Box<Result<Frame<Bytes>, RequestBodyError>>>,
    body: Option<RequestBody>,
    /// An upload may outlast its answer, and is work as long as it runs.
    unit: Option<Unit>,
    upload: Option<Upload>,
}

/// A request's body that may still be on its way.
#[derive(Clone)]
pub(super) struct Upload(Arc<()>);

impl Upload {
    /// Asked of a copy, while the body has the other.
    pub(super) fn goes_on(&self) -> bool {
        Arc::strong_count(&self.0) > 1
    }
}

impl Outbound {
    pub(super) fn new(body: RequestBody, first: Option<Result<Frame<Bytes>, RequestBodyError>>) -> Outbound {
        let upload = first.is_some() || !body.is_end_stream();
        Outbound {
            first: first.map(Box::new),
            body: Some(body),
            unit: None,
            upload: upload.then(|| Upload(Arc::default())),
        }
    }

    /// Nothing where there is no body.
    pub(super) fn upload(&self) -> Option<Upload> {
        self.upload.clone()
    }

    fn empty() -> Outbound {
        Outbound {
            first: None,
            body: None,
            unit: None,
            upload: None,
        }
    }

    /// Counts it beside its request, of which this is the unit.
    pub(super) fn count(&mut self, unit: &Unit) {
        if !self.is_end_stream() {
            self.unit = Some(unit.child());
        }
    }
}

impl Body for Outbound {
    type Data = Bytes;
    type Error = RequestBodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, RequestBodyError>>> {
        let this = self.get_mut();
        if let Some(first) = this.first.take() {
            return Poll::Ready(Some(*first));
        }
        let frame = match &mut this.body {
            Some(body) => ready!(Pin::new(body).poll_frame(cx)),
            None => None,
        };
        if !matches!(frame, Some(Ok(_))) {
            this.unit = None;
            this.upload = None;
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.first.is_none() && self.body.as_ref().is_none_or(RequestBody::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        let rest = self
            .body
            .as_ref()
            .map_or_else(|| SizeHint::with_exact(0), RequestBody::size_hint);
        let first = match self.first.as_deref() {
            Some(Ok(frame)) => frame.data_ref().map_or(0, |d| d.len() as u64),
            _ => return rest,
        };
        let mut hint = SizeHint::new();
        hint.set_lower(rest.lower() + first);
        if let Some(upper) = rest.upper() {
            hint.set_upper(upper + first);
        }
        hint
    }
}
