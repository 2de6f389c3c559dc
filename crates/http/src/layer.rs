//! The tower layer that counts the requests of a Rust service.
use crate::counted::{CountedBody, named};
use http::{Request, Response};
use pin_project_lite::pin_project;
use std::borrow::Cow;
use std::cell::Cell;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Instant;
use tidegate_gate::{Gate, Member, Meter, Running, Unit, Upgraded};

/// Counts every request from its arrival **until the body of its answer has ended** or was dropped, for axum, hyper
/// and tonic services alike. A panic, a cancellation, a disconnect and a timeout count down as an end does.
///
/// It counts and does not stop, as Hiatus does: give it a gate that serves on while it is held
/// (`Kind::Gate { serves: true }`).
///
/// ```
/// # use axum::{Router, routing::get};
/// # use tidegate_gate::{Gate, GatedExt};
/// # use tidegate_http::CountLayer;
/// let (gate, _keeper) = Gate::new("app");
/// let app: Router = Router::new()
///     .route("/orders/{id}", get(|| async { "an order" }))
///     .layer(CountLayer::new(gate));
/// ```
///
/// Status and drain list a request by its method and route, `GET /orders/{id}`, where axum has matched one, else by
/// its path without the query, and since when to within a tick of the kernel's clock (1 to 10 ms). Work that goes on
/// after the answer, and connections that are upgraded, are counted by [`InFlight`].
#[derive(Clone, Debug)]
pub struct CountLayer {
    at: InFlight,
}

impl CountLayer {
    /// Counts at a gate of your own.
    pub fn new(gate: Gate) -> CountLayer {
        CountLayer::at(gate, None)
    }

    /// Counts at a gate on the board: requests that are over count as its events too, and upgraded connections
    /// apart from what is in flight. A few bytes of it are never freed, as of the gate: make it once.
    pub fn of(member: &Member) -> CountLayer {
        // For ever, as its gate: a clone of the `Arc` in every request would make all requests meet on one counter.
        let meter = Box::leak(Box::new(member.meter().clone()));
        CountLayer::at(member.gate(), Some(meter))
    }

    fn at(gate: Gate, meter: Option<&'static Arc<Meter>>) -> CountLayer {
        CountLayer {
            at: InFlight { gate, meter },
        }
    }
}

impl<S> tower::Layer<S> for CountLayer {
    type Service = Count<S>;
    fn layer(&self, inner: S) -> Count<S> {
        Count { inner, at: self.at }
    }
}

/// The service that [`CountLayer`] makes.
#[derive(Clone, Debug)]
pub struct Count<S> {
    inner: S,
    at: InFlight,
}

impl<S, B, C> tower::Service<Request<B>> for Count<S>
where
    S: tower::Service<Request<B>, Response = Response<C>>,
{
    type Response = Response<CountedBody<C>>;
    type Error = S::Error;
    type Future = Counting<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let unit = admitted(self.at, &request);
        let _here = Here::at(self.at);
        Counting {
            answer: self.inner.call(request),
            unit: Some(unit),
            meter: self.at.meter,
        }
    }
}

#[inline(always)]
fn admitted<B>(at: InFlight, request: &Request<B>) -> Unit {
    #[cfg(feature = "axum")]
    let route = request.extensions().get::<axum::extract::MatchedPath>();
    #[cfg(feature = "axum")]
    let route = route.map(|route| route.as_str());
    #[cfg(not(feature = "axum"))]
    let route = None;
    let unit = at.gate.admit();
    named(
        if at.meter.is_some() { unit.as_event() } else { unit },
        request.method(),
        route.unwrap_or_else(|| request.uri().path()),
    )
}

pin_project! {
    /// A counted request whose answer has not begun.
    #[derive(Debug)]
    pub struct Counting<F> {
        #[pin]
        answer: F,
        unit: Option<Unit>,
        meter: Option<&'static Arc<Meter>>,
    }
}

impl<F, C, E> Future for Counting<F>
where
    F: Future<Output = Result<Response<C>, E>>,
{
    type Output = Result<Response<CountedBody<C>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let unit = this
            .unit
            .as_ref()
            .expect("a future is not polled after it is ready");
        let here = Here::at(InFlight {
            gate: unit.gate(),
            meter: *this.meter,
        });
        let answer = ready!(this.answer.poll(cx));
        drop(here);
        let unit = this.unit.take();
        Poll::Ready(answer.map(|response| response.map(|body| CountedBody::new(body, unit))))
    }
}

thread_local! {
    /// Where the request is counted that is being worked at here. An extension of the request would say it too, and cost a
    /// third of what counting costs: it is boxed, and the map around it grows.
    static CURRENT: Cell<Option<InFlight>> = const { Cell::new(None) };
}

/// Says where requests are counted while a service is called or polled here.
struct Here(Option<InFlight>);

impl Here {
    #[inline(always)]
    fn at(at: InFlight) -> Here {
        Here(CURRENT.replace(Some(at)))
    }
}

impl Drop for Here {
    #[inline(always)]
    fn drop(&mut self) {
        CURRENT.set(self.0);
    }
}

/// The request that is being counted, for work that outlives its answer: [`InFlight::current`], or with the feature `axum`
/// an extractor.
///
/// ```
/// # use axum::{Router, routing::post};
/// # use tidegate_http::InFlight;
/// async fn order(counted: InFlight) -> &'static str {
///     let unit = counted.child();
///     tokio::spawn(async move {
///         // … what goes on after the answer …
///         drop(unit);
///     });
///     "accepted"
/// }
/// # let _: Router = Router::new().route("/orders", post(order));
/// ```
#[derive(Clone, Copy, Debug)]
pub struct InFlight {
    gate: Gate,
    meter: Option<&'static Arc<Meter>>,
}

impl InFlight {
    /// The request that the calling code works at: whatever a service under a [`CountLayer`] does in its `call` and in its
    /// answer's future. Nothing elsewhere, so ask before you spawn a task. Of several layers, the innermost.
    pub fn current() -> Option<InFlight> {
        CURRENT.get()
    }

    /// A unit for work that this request starts. Take it while the request runs, so that the count is at no moment
    /// without either.
    pub fn child(&self) -> Unit {
        self.gate.admit()
    }

    /// Counts a connection that this request upgrades, until the guard is dropped: take it in the handler and move
    /// it to where the connection lives. Apart from what is in flight if the layer was made with
    /// [`CountLayer::of`], else as a unit.
    pub fn upgraded(&self, name: impl Into<Cow<'static, str>>) -> OpenConnection {
        let (name, since) = (name.into(), Instant::now());
        OpenConnection {
            _guard: match self.meter {
                Some(meter) => Guard::Apart(meter.upgraded(Running { name, since })),
                None => Guard::InFlight(self.gate.admit().named(name, since)),
            },
        }
    }
}

/// Counts an upgraded connection until it is dropped.
#[derive(Debug)]
#[must_use = "dropping it says that the connection is closed"]
pub struct OpenConnection {
    _guard: Guard,
}

#[derive(Debug)]
#[expect(dead_code, reason = "they count by being there")]
enum Guard {
    Apart(Upgraded),
    InFlight(Unit),
}

#[cfg(feature = "axum")]
impl<S: Sync> axum::extract::FromRequestParts<S> for InFlight {
    type Rejection = (http::StatusCode, &'static str);

    async fn from_request_parts(_: &mut http::request::Parts, _: &S) -> Result<Self, Self::Rejection> {
        InFlight::current().ok_or((
            http::StatusCode::INTERNAL_SERVER_ERROR,
            "this route extracts InFlight and is not under a CountLayer",
        ))
    }
}
