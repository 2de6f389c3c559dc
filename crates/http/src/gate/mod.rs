//! The HTTP gate: a reverse proxy before an app in any language, which counts what it forwards and, while its gate is
//! held, serves on, lets requests wait, or refuses them.
mod admission;
mod config;
mod forward;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod headers;
mod pool;
mod tunnel;

pub use config::{BadGate, GateConfig, OnHold, OnHoldUpgraded};
pub use pool::AppBody;

use crate::body::RequestBody;
use crate::counted::{CountedBody, name_of, named};
use crate::listener::Listener;
use admission::{Admission, Refused};
use bytes::Bytes;
use forward::{Failure, Outbound, Upstream};
use http::header::{HeaderValue, RETRY_AFTER};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Either, Full};
use hyper::upgrade::OnUpgrade;
use pin_project_lite::pin_project;
use std::convert::Infallible;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use tidegate_gate::{Life, Member, Unit};
use tokio_util::sync::CancellationToken;

/// What the gate answers with: the app's body, or a sentence of its own.
pub type GateBody = Either<CountedBody<AppBody>, CountedBody<Full<Bytes>>>;

type Answer = Response<GateBody>;

/// The proxy. Clones are the same gate.
#[derive(Clone)]
pub struct HttpGate {
    inner: Arc<Inner>,
}

struct Inner {
    member: Member,
    admission: Admission,
    upstream: Upstream,
    tunnels: tunnel::Tunnels,
    bypass: Box<[Box<str>]>,
}

impl HttpGate {
    /// A gate for the place on the board that `member` is. Register it as `Kind::Gate { serves }` with
    /// [`OnHold::serves`].
    pub fn new(member: Member, config: &GateConfig) -> Result<HttpGate, BadGate> {
        Ok(HttpGate {
            inner: Arc::new(Inner {
                admission: Admission::new(member.gate(), config),
                upstream: Upstream::new(&config.upstream)?,
                tunnels: tunnel::Tunnels::new(&member, config.on_hold_upgraded),
                bypass: config.bypass.iter().map(|b| b.as_str().into()).collect(),
                member,
            }),
        })
    }

    /// Serves until `stop`, then lets what is in flight finish, ends upgraded connections and resolves. It sets no
    /// bound to that: whoever calls does, and dropping the future ends what is left.
    pub async fn serve(&self, listener: Listener, stop: CancellationToken) {
        // Whoever drops this future ends the tunnels too, which live in tasks of their own.
        let _end = self.inner.tunnels.end_on_drop();
        tracing::info!(gate = %self.inner.member.name(), listen = %listener.local(), upstream = %self.inner.upstream, "takes requests");
        self.inner.member.set_life(Life::Up);
        let draining = {
            let (member, stop) = (self.inner.member.clone(), stop.clone());
            async move {
                stop.cancelled().await;
                member.set_life(Life::Draining);
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            () = listener.serve(self.clone(), stop) => {}
            () = draining => {}
        }
        self.inner.tunnels.end().await;
        self.inner.member.set_life(Life::Stopped);
    }

    /// From now on every request but those on `bypass` paths gets 503, those that wait too; what is in flight
    /// finishes. It cannot be taken back: the process is about to end, and balancers have had their time to notice.
    pub fn close(&self) {
        self.inner.admission.close();
    }
}

/// What becomes of a request, as far as that needs no waiting.
enum Way {
    /// Forwarded, counted unless it bypasses the gate.
    Now(Option<Unit>),
    /// It waits before the closed gate.
    Later,
    Answered(Answer),
}

impl Inner {
    fn way<B>(&self, request: &Request<B>) -> Way {
        if let Err(refusal) = headers::check(request) {
            return Way::Answered(refusal.into());
        }
        if self.bypasses(request) {
            return Way::Now(None);
        }
        match self.admission.at_once() {
            Ok(Some(unit)) => Way::Now(Some(named(unit, request.method(), request.uri().path()))),
            Ok(None) => Way::Later,
            Err(refused) => Way::Answered(unavailable(refused)),
        }
    }

    fn bypasses<B>(&self, request: &Request<B>) -> bool {
        // As it stands in the request: an app may take `/healthz/../orders` for another path than we would.
        matches!(*request.method(), Method::GET | Method::HEAD)
            && self.bypass.iter().any(|b| **b == *request.uri().path())
    }

    /// Waits before the closed gate, and meanwhile takes the first piece of the body: only when a small body has
    /// been read does the connection tell us that its client has gone away.
    async fn wait(&self, request: Request<RequestBody>) -> (Request<Outbound>, Result<Unit, Refused>) {
        let (parts, mut body) = request.into_parts();
        let mut first = None;
        let mut ended = http_body::Body::is_end_stream(&body)
            // Taking a piece tells the client to go on, and it had better wait for that with us.
            || parts.headers.contains_key(http::header::EXPECT);
        let unit = {
            let mut admitted = std::pin::pin!(self.admission.wait());
            loop {
                tokio::select! {
                    biased;
                    unit = &mut admitted => break unit,
                    frame = body.frame(), if !ended => {
                        first = frame;
                        ended = true;
                    }
                }
            }
        };
        (Request::from_parts(parts, Outbound::new(body, first)), unit)
    }
}

impl tower::Service<Request<RequestBody>> for HttpGate {
    type Response = Answer;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Answer, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<RequestBody>) -> Self::Future {
        let inner = self.inner.clone();
        match inner.way(&request) {
            Way::Now(unit) => Box::pin(forward(
                inner,
                request.map(|body| Outbound::new(body, None)),
                unit,
            )),
            Way::Later => Box::pin(async move {
                match inner.wait(request).await {
                    (request, Ok(unit)) => {
                        let unit = named(unit, request.method(), request.uri().path());
                        forward(inner, request, Some(unit)).await
                    }
                    (_, Err(refused)) => Ok(unavailable(refused)),
                }
            }),
            Way::Answered(answer) => Box::pin(std::future::ready(Ok(answer))),
        }
    }
}

/// Sends the request on its way before it returns, and only then becomes a future: what a future keeps over its waits
/// is carried by every request.
fn forward(
    inner: Arc<Inner>,
    mut request: Request<Outbound>,
    unit: Option<Unit>,
) -> Forwarding<impl Future<Output = Result<Response<AppBody>, Failure>> + Send> {
    if let Some(unit) = &unit {
        // An upload may outlast its answer.
        request.body_mut().count(unit);
    }
    let unit = unit.map(Unit::as_event);
    let (request, client) = headers::outbound(request, &inner.upstream);
    let upgrade = client.map(|client| Box::new((client, name_of(request.method(), request.uri().path()))));
    Forwarding {
        sent: inner.upstream.send(request),
        inner,
        unit,
        upgrade,
    }
}

pin_project! {
    struct Forwarding<S> {
        #[pin]
        sent: S,
        inner: Arc<Inner>,
        unit: Option<Unit>,
        // Our client's end, and what status calls it. In a box, as what is seldom there.
        upgrade: Option<Box<(OnUpgrade, String)>>,
    }
}

impl<S> Future for Forwarding<S>
where
    S: Future<Output = Result<Response<AppBody>, Failure>>,
{
    type Output = Result<Answer, Infallible>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let sent = ready!(this.sent.poll(cx));
        Poll::Ready(Ok(answered(
            this.inner,
            sent,
            this.unit.take(),
            this.upgrade.take(),
        )))
    }
}

fn answered(
    inner: &Inner,
    sent: Result<Response<AppBody>, Failure>,
    unit: Option<Unit>,
    upgrade: Option<Box<(OnUpgrade, String)>>,
) -> Answer {
    let mut response = match sent {
        Ok(response) => response,
        Err(failure) => {
            tracing::debug!(gate = %inner.member.name(), upstream = %inner.upstream, %failure, "a request could not be forwarded");
            return text(failure.status(), failure.sentence(), unit);
        }
    };
    let switches = response.status() == StatusCode::SWITCHING_PROTOCOLS;
    headers::inbound(&mut response, switches);
    if !switches {
        return response.map(|body| Either::Left(CountedBody::new(body, unit)));
    }
    let Some(upgrade) = upgrade else {
        let sentence = "the app switched protocols without being asked to";
        return text(StatusCode::BAD_GATEWAY, sentence, unit);
    };
    let (client, name) = *upgrade;
    let app = hyper::upgrade::on(&mut response);
    inner.tunnels.open(client, app, name.into());
    response.map(|_| own(Bytes::new(), unit))
}

impl fmt::Debug for HttpGate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpGate")
            .field("name", self.inner.member.name())
            .field("upstream", &self.inner.upstream.to_string())
            .finish_non_exhaustive()
    }
}

fn unavailable(refused: Refused) -> Answer {
    let mut answer = text(StatusCode::SERVICE_UNAVAILABLE, refused.sentence(), None);
    let headers = answer.headers_mut();
    headers.insert(RETRY_AFTER, HeaderValue::from(refused.retry_after()));
    if refused == Refused::Closing {
        headers.insert(http::header::CONNECTION, HeaderValue::from_static("close"));
    }
    answer
}

fn text(status: StatusCode, sentence: &'static str, unit: Option<Unit>) -> Answer {
    let mut answer = Response::new(own(Bytes::from_static(sentence.as_bytes()), unit));
    *answer.status_mut() = status;
    answer.headers_mut().insert(
        http::header::CONTENT_TYPE,
        HeaderValue::from_static("text/plain; charset=utf-8"),
    );
    answer
}

fn own(bytes: Bytes, unit: Option<Unit>) -> GateBody {
    Either::Right(CountedBody::new(Full::new(bytes), unit))
}
