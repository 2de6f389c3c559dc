//! An app, a gate before it, and raw clients.
use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Path, Request, State};
use axum::response::IntoResponse;
use axum::routing::{any, get, post};
use futures_util::StreamExt;
use http::{HeaderMap, Response, StatusCode};
use hyper_util::rt::TokioIo;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::SeqCst};
use std::time::{Duration, Instant, SystemTime};
use tidegate_gate::{
    Cause, Clock, Controller, Holds, Kind, Life, Moment, Scope, State as Word, StreamStatus, Wish,
};
use tidegate_http::{Address, GateConfig, HttpGate, InFlight, Limits, Listener, OnHold};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) fn anywhere() -> Address {
    "127.0.0.1:0".parse().unwrap()
}

/// Waits for a condition; a minute is for ever.
pub(crate) async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < end, "never came true: {what}");
        tokio::task::yield_now().await;
    }
}

/// What the app does, as seen from inside.
#[derive(Clone, Default)]
pub(crate) struct App {
    pub(crate) leave: Leave,
    /// Handlers and bodies at work.
    pub(crate) running: Arc<AtomicI64>,
    pub(crate) seen: Arc<AtomicU64>,
}

/// Each permit lets one `/slow` answer, or one piece of `/drip`, go.
#[derive(Clone)]
pub(crate) struct Leave(pub(crate) Arc<Semaphore>);
impl Default for Leave {
    fn default() -> Self {
        Leave(Arc::new(Semaphore::new(0)))
    }
}

pub(crate) struct AtWork(Arc<AtomicI64>);
impl App {
    pub(crate) fn work(&self) -> AtWork {
        self.seen.fetch_add(1, SeqCst);
        self.running.fetch_add(1, SeqCst);
        AtWork(self.running.clone())
    }
    pub(crate) fn running(&self) -> i64 {
        self.running.load(SeqCst)
    }
    pub(crate) fn seen(&self) -> u64 {
        self.seen.load(SeqCst)
    }
    pub(crate) fn leave(&self, n: usize) {
        self.leave.0.add_permits(n);
    }

    pub(crate) fn router(&self) -> Router {
        Router::new()
            .route("/", any(hello))
            .route("/healthz", any(hello))
            .route("/slow", any(slow))
            .route("/drip", get(drip))
            .route("/echo", post(echo))
            .route("/headers", any(headers))
            .route("/status/{code}", any(status))
            .route("/panic", any(panics))
            .route("/socket", any(socket))
            .with_state(self.clone())
    }
}
impl Drop for AtWork {
    fn drop(&mut self) {
        self.0.fetch_sub(1, SeqCst);
    }
}

async fn hello(State(app): State<App>) -> &'static str {
    let _work = app.work();
    "hello"
}

async fn slow(State(app): State<App>, body: Body) -> String {
    let _work = app.work();
    let Ok(body) = axum::body::to_bytes(body, usize::MAX).await else {
        return "nobody is there any more".into();
    };
    app.leave.0.acquire().await.unwrap().forget();
    format!("at last, after {} bytes", body.len())
}

/// Pieces without end, one for each permit.
async fn drip(State(app): State<App>) -> impl IntoResponse {
    let work = app.work();
    let pieces = futures_util::stream::unfold((app, work), |(app, work)| async {
        app.leave.0.acquire().await.unwrap().forget();
        Some((Ok::<_, std::io::Error>(Bytes::from("drip ")), (app, work)))
    });
    Body::from_stream(pieces)
}

async fn echo(State(app): State<App>, request: Request) -> impl IntoResponse {
    let work = app.work();
    let pieces = request.into_body().into_data_stream().map(move |piece| {
        let _work = &work;
        piece
    });
    Body::from_stream(pieces)
}

/// The request's line and headers, as the app sees them.
async fn headers(State(app): State<App>, request: Request) -> String {
    let _work = app.work();
    let (parts, body) = request.into_parts();
    let body = axum::body::to_bytes(body, usize::MAX).await.unwrap_or_default();
    let mut text = format!("{} {} {:?}\n", parts.method, parts.uri, parts.version);
    for (name, value) in &parts.headers {
        text += &format!("{name}: {}\n", String::from_utf8_lossy(value.as_bytes()));
    }
    format!("{text}{} bytes", body.len())
}

async fn status(State(app): State<App>, Path(code): Path<u16>) -> (StatusCode, HeaderMap) {
    let _work = app.work();
    (StatusCode::from_u16(code).unwrap(), HeaderMap::new())
}

async fn panics(State(app): State<App>) -> &'static str {
    let _work = app.work();
    // As a panic, without its noise.
    std::panic::resume_unwind(Box::new("a handler panics"))
}

/// Echoes bytes after an upgrade; until then and after it is work of this request, as a WebSocket handler's is.
async fn socket(State(app): State<App>, mut request: Request) -> Response<Body> {
    let work = app.work();
    let Some(protocol) = request.headers().get("upgrade").cloned() else {
        return (StatusCode::UPGRADE_REQUIRED, "this is for sockets").into_response();
    };
    let open = InFlight::current().map(|c| c.upgraded("GET /socket"));
    let upgrade = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        let _at_work = (work, open);
        if let Ok(upgraded) = upgrade.await {
            let (mut read, mut write) = tokio::io::split(TokioIo::new(upgraded));
            let _ = tokio::io::copy(&mut read, &mut write).await;
            let _ = write.shutdown().await;
        }
    });
    Response::builder()
        .status(StatusCode::SWITCHING_PROTOCOLS)
        .header("connection", "upgrade")
        .header("upgrade", protocol)
        .body(Body::empty())
        .unwrap()
}

/// A server in a task; it ends with the test.
pub(crate) struct Served {
    pub(crate) addr: SocketAddr,
}

pub(crate) async fn serve(router: Router) -> Served {
    let listener = Listener::bind(&anywhere(), None, Limits::default())
        .await
        .unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(listener.serve(router, CancellationToken::new()));
    Served { addr }
}

pub(crate) fn board() -> Arc<Holds> {
    Holds::new(Clock::new(|| Moment {
        wall: SystemTime::now(),
        mono: Instant::now(),
    }))
}

/// A board with a gate, and the proxy that stands at it.
pub(crate) struct Gated {
    pub(crate) holds: Arc<Holds>,
    pub(crate) gate: HttpGate,
    pub(crate) addr: SocketAddr,
    pub(crate) stop: CancellationToken,
}

impl Gated {
    pub(crate) async fn before(upstream: SocketAddr, on_hold: OnHold) -> Gated {
        Gated::with(upstream, |config| config.on_hold = on_hold).await
    }

    pub(crate) async fn with(upstream: SocketAddr, set: impl FnOnce(&mut GateConfig)) -> Gated {
        let mut config = GateConfig::new("app", anywhere(), format!("http://{upstream}"));
        set(&mut config);
        let holds = board();
        let kind = Kind::Gate {
            serves: config.on_hold.serves(),
        };
        let member = holds.register("app", kind).unwrap();
        let gate = HttpGate::new(member, &config).unwrap();
        let listener = Listener::bind(&config.listen, None, Limits::default())
            .await
            .unwrap();
        let addr = listener.local_addr().unwrap();
        let stop = CancellationToken::new();
        tokio::spawn({
            let (gate, stop) = (gate.clone(), stop.clone());
            async move { gate.serve(listener, stop).await }
        });
        let gated = Gated {
            holds,
            gate,
            addr,
            stop,
        };
        until("the gate is up", || gated.status().life == Life::Up).await;
        gated
    }

    pub(crate) fn pause(&self) {
        self.holds
            .place(&Controller::Api, Scope::All, Wish::default())
            .unwrap();
    }
    pub(crate) fn resume(&self) {
        self.holds
            .release(&Controller::Api, Scope::All, &Cause::default())
            .unwrap();
    }
    pub(crate) fn status(&self) -> StreamStatus {
        self.holds.snapshot().stream("app").unwrap().clone()
    }
    pub(crate) fn state(&self) -> Word {
        self.status().state
    }
    pub(crate) async fn until_in_flight(&self, n: u64) {
        until("that many in flight", || self.status().in_flight == n).await;
    }
    pub(crate) async fn until_waiting(&self, n: u64) {
        until("that many waiting", || self.status().waiting == n).await;
    }
    pub(crate) async fn connect(&self) -> Raw {
        Raw::connect(self.addr).await
    }
    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.addr)
    }
}

pub(crate) fn client() -> reqwest::Client {
    // Ignoring the error: another test of this process has installed it.
    let _ = rustls::crypto::ring::default_provider().install_default();
    // Plain HTTP: without the last line each client would read the system's CAs, which takes an unoptimised build long.
    reqwest::Client::builder()
        .timeout(PATIENCE)
        .tls_certs_only([])
        .build()
        .unwrap()
}

/// A client that says exactly what it is told to.
pub(crate) struct Raw {
    pub(crate) stream: TcpStream,
    pub(crate) read: Vec<u8>,
}

impl Raw {
    pub(crate) async fn connect(addr: SocketAddr) -> Raw {
        Raw {
            stream: TcpStream::connect(addr).await.unwrap(),
            read: vec![],
        }
    }
    pub(crate) async fn say(&mut self, text: &str) {
        self.stream.write_all(text.as_bytes()).await.unwrap();
    }
    /// Reads until all that came contains this.
    pub(crate) async fn hear(&mut self, text: &str) -> String {
        while !self.text().contains(text) {
            let mut buf = [0; 4096];
            let n = timeout(PATIENCE, self.stream.read(&mut buf))
                .await
                .unwrap_or_else(|_| panic!("never heard {text:?} in {:?}", self.text()))
                .unwrap();
            assert!(n > 0, "ended before {text:?}: {:?}", self.text());
            self.read.extend_from_slice(&buf[..n]);
        }
        self.text()
    }
    /// Reads to the end; a reset is one.
    pub(crate) async fn rest(&mut self) -> String {
        let mut buf = [0; 4096];
        loop {
            match timeout(PATIENCE, self.stream.read(&mut buf))
                .await
                .expect("an end")
            {
                Ok(0) | Err(_) => return self.text(),
                Ok(n) => self.read.extend_from_slice(&buf[..n]),
            }
        }
    }
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.read).into_owned()
    }
    pub(crate) fn forget(&mut self) {
        self.read.clear();
    }
    /// One request on a connection of its own.
    pub(crate) async fn exchange(addr: SocketAddr, request: &str) -> String {
        let mut raw = Raw::connect(addr).await;
        raw.say(request).await;
        raw.rest().await
    }
}

pub(crate) const UPGRADE: &str =
    "GET /socket HTTP/1.1\r\nHost: app\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
