//! One listener: takes connections, counts requests, lets the faults strike, asks the store.
use crate::administration::{self, Administration};
use crate::clock::{Clock, later};
use crate::faults::{Fault, Faults, RetryAfter};
use crate::requests::{Requests, Seen, Side};
use crate::sabotage::{self, Sabotage, Wire};
use crate::store::StartError;
use bytes::Bytes;
use http::header::{CONTENT_TYPE, LOCATION, RETRY_AFTER};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use std::convert::Infallible;
use std::future::pending;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// The most that a request may carry: what Vault takes by default (`max_request_size`).
pub(crate) const BODY_LIMIT: usize = 32 * 1024 * 1024;
const HEADER_TIMEOUT: Duration = Duration::from_secs(30);
/// Thousands of watchers may connect at once.
const BACKLOG: u32 = 4096;
/// When no connection can be taken (no file descriptors, say), so long until the next try.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// A request as a store sees it.
pub(crate) struct Asked {
    pub(crate) method: Method,
    /// Percent-decoded.
    pub(crate) path: String,
    pub(crate) query: String,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Asked {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }
}

/// What a store answers.
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    /// Names the token that was presented, for the log.
    pub(crate) accessor: Option<String>,
}

impl Answer {
    pub(crate) fn new(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Answer {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
        Answer {
            status,
            headers,
            body: body.into(),
            accessor: None,
        }
    }

    pub(crate) fn empty(status: StatusCode) -> Answer {
        Answer {
            status,
            headers: HeaderMap::new(),
            body: Bytes::new(),
            accessor: None,
        }
    }

    /// Adds a header; one whose value cannot stand in a header is left out.
    pub(crate) fn with(mut self, name: HeaderName, value: &str) -> Answer {
        if let Ok(value) = HeaderValue::from_str(value) {
            self.headers.insert(name, value);
        }
        self
    }
}

/// One of the two stores behind a listener. Everything is in memory, so that an answer needs no waiting.
pub(crate) trait Store: Send + Sync + 'static {
    fn side(&self) -> Side;
    fn answer(&self, asked: &Asked) -> Answer;
    /// An error in this store's own form, for a fault that names only a status.
    fn failure(&self, status: StatusCode) -> Answer;
    fn forget_tokens(&self);
}

/// What every connection of a listener shares.
pub(crate) struct Desk {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) faults: Faults,
    pub(crate) requests: Requests,
    pub(crate) clock: Clock,
    pub(crate) administration: Option<Administration>,
}

/// A socket that holds its address but does not listen: connections are refused, and nobody else gets the port.
pub(crate) fn reserve(side: Side, address: SocketAddr) -> Result<TcpSocket, StartError> {
    let bind = || {
        let socket = if address.is_ipv4() {
            TcpSocket::new_v4()?
        } else {
            TcpSocket::new_v6()?
        };
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        Ok(socket)
    };
    bind().map_err(|source| StartError::Listen {
        side,
        address,
        source,
    })
}

/// From here on connections are taken into the backlog.
pub(crate) fn listen(side: Side, address: SocketAddr, socket: TcpSocket) -> Result<TcpListener, StartError> {
    socket.listen(BACKLOG).map_err(|source| StartError::Listen {
        side,
        address,
        source,
    })
}

/// Turns a TCP connection into what HTTP is spoken over: TLS is the Key Vault side's business.
pub(crate) trait Handshake: Send + Sync + 'static {
    type Wire: Wire;
    fn shake(&self, stream: TcpStream) -> impl Future<Output = std::io::Result<Self::Wire>> + Send;
}

/// No TLS.
pub(crate) struct Plain;

impl Handshake for Plain {
    type Wire = TcpStream;

    async fn shake(&self, stream: TcpStream) -> std::io::Result<TcpStream> {
        Ok(stream)
    }
}

/// Serves until `stop`; every connection is a task of `tasks` and ends with it, in the middle of an answer if need be.
pub(crate) async fn serve<H: Handshake>(
    listener: TcpListener,
    handshake: Arc<H>,
    desk: Arc<Desk>,
    tasks: TaskTracker,
    stop: CancellationToken,
) {
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) => {
                let (handshake, desk, stop) = (handshake.clone(), desk.clone(), stop.clone());
                tasks.spawn(async move {
                    tokio::select! {
                        () = stop.cancelled() => {}
                        () = connection(stream, &*handshake, desk) => {}
                    }
                });
            }
            Err(error) => {
                tracing::warn!(side = %desk.store.side(), %error, "the dev store cannot take a connection");
                tokio::select! {
                    () = stop.cancelled() => return,
                    () = tokio::time::sleep(ACCEPT_PAUSE) => {}
                }
            }
        }
    }
}

async fn connection<H: Handshake>(stream: TcpStream, handshake: &H, desk: Arc<Desk>) {
    // Small answers must not wait for an acknowledgement. A socket that is already gone says so at the first read.
    let _ = stream.set_nodelay(true);
    let Ok(Ok(wire)) = tokio::time::timeout(HEADER_TIMEOUT, handshake.shake(stream)).await else {
        return;
    };
    let (sabotage, mut sabotaged) = mpsc::channel::<Sabotage>(1);
    let service = service_fn(move |request| handle(desk.clone(), sabotage.clone(), request));
    let mut http = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .serve_connection(TokioIo::new(wire), service);
    let struck = tokio::select! {
        // Ends when the client leaves or talks nonsense: neither is news here.
        _ = &mut http => return,
        struck = sabotaged.recv() => struck,
    };
    if let Some(struck) = struck {
        // From here on the bytes are written by hand: an HTTP library does not send what is wrong on purpose.
        sabotage::perform(struck, http.into_parts().io.into_inner()).await;
    }
}

async fn handle(
    desk: Arc<Desk>,
    sabotage: mpsc::Sender<Sabotage>,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let (head, body) = request.into_parts();
    let body = match Limited::new(body, BODY_LIMIT).collect().await {
        Ok(body) => body.to_bytes(),
        Err(error) => {
            let status = if error.is::<http_body_util::LengthLimitError>() {
                StatusCode::PAYLOAD_TOO_LARGE
            } else {
                StatusCode::BAD_REQUEST
            };
            return Ok(respond(desk.store.failure(status)));
        }
    };
    let Ok(path) = percent_encoding::percent_decode_str(head.uri.path()).decode_utf8() else {
        return Ok(respond(desk.store.failure(StatusCode::BAD_REQUEST)));
    };
    let path = path.into_owned();
    let asked = Asked {
        method: head.method,
        path,
        query: head.uri.query().unwrap_or_default().to_owned(),
        headers: head.headers,
        body,
    };
    if let Some(administration) = &desk.administration
        && asked.path.starts_with(administration::PATH)
    {
        return Ok(respond(administration.answer(&asked)));
    }
    let faults = desk.faults.strike(&asked.method, &asked.path);
    let number = desk.requests.arrived(Seen {
        number: 0,
        at: desk.clock.now(),
        side: desk.store.side(),
        method: asked.method.clone(),
        path: asked.path.clone(),
        query: asked.query.clone(),
        accessor: None,
        namespace: asked.header("x-vault-namespace").map(str::to_owned),
        status: None,
        faults: faults.iter().map(Fault::name).collect(),
    });
    for fault in faults {
        match act(&desk, &asked, fault).await {
            Struck::GoOn => {}
            Struck::Answer(answer) => {
                desk.requests
                    .answered(number, answer.status.as_u16(), answer.accessor.clone());
                return Ok(respond(answer));
            }
            Struck::Sabotage(act) => {
                // The receiver lives as long as the connection: if it is gone, so is the client.
                let _ = sabotage.send(act).await;
                return pending().await;
            }
        }
    }
    let answer = desk.store.answer(&asked);
    tracing::debug!(side = %desk.store.side(), method = %asked.method, path = asked.path, status = answer.status.as_u16());
    desk.requests
        .answered(number, answer.status.as_u16(), answer.accessor.clone());
    Ok(respond(answer))
}

enum Struck {
    GoOn,
    Answer(Answer),
    Sabotage(Sabotage),
}

async fn act(desk: &Desk, asked: &Asked, fault: Fault) -> Struck {
    let json = "application/json";
    match fault {
        Fault::Delay(delay) => {
            tokio::time::sleep(delay).await;
            Struck::GoOn
        }
        Fault::ForgetTokens => {
            desk.store.forget_tokens();
            Struck::GoOn
        }
        Fault::Status {
            status,
            retry_after,
            body,
        } => {
            let mut answer = desk.store.failure(status);
            if let Some((content_type, text)) = body {
                answer.body = text.into();
                answer = answer.with(CONTENT_TYPE, &content_type);
            }
            Struck::Answer(match retry_after {
                Some(when) => answer.with(RETRY_AFTER, &header(&when, &desk.clock)),
                None => answer,
            })
        }
        Fault::Redirect { status, location } => {
            Struck::Answer(Answer::empty(status).with(LOCATION, &location))
        }
        Fault::ContentType(content_type) => {
            Struck::Answer(desk.store.answer(asked).with(CONTENT_TYPE, &content_type))
        }
        Fault::Garbage => Struck::Answer(Answer::new(
            StatusCode::OK,
            json,
            &b"\x00{\"data\": \xff\xfe not json"[..],
        )),
        Fault::Hang => Struck::Sabotage(Sabotage::Hang),
        Fault::NotHttp => {
            Struck::Sabotage(Sabotage::Close(b"\x16\x03\x01 this is not HTTP\r\n\r\n".to_vec()))
        }
        Fault::Endless => Struck::Sabotage(Sabotage::Endless),
        Fault::ResetBeforeHeaders => Struck::Sabotage(Sabotage::Reset(Vec::new())),
        Fault::ResetInHeaders => {
            let (head, _) = sabotage::render(&desk.store.answer(asked));
            Struck::Sabotage(Sabotage::Reset(head[..head.len() / 2].to_vec()))
        }
        Fault::ResetInBody => Struck::Sabotage(Sabotage::Reset(half(&desk.store.answer(asked)))),
        Fault::Truncated => Struck::Sabotage(Sabotage::Close(half(&desk.store.answer(asked)))),
        Fault::Drip(every) => {
            let (mut bytes, body) = sabotage::render(&desk.store.answer(asked));
            bytes.extend_from_slice(&body);
            Struck::Sabotage(Sabotage::Drip { bytes, every })
        }
    }
}

fn half(answer: &Answer) -> Vec<u8> {
    let (mut bytes, body) = sabotage::render(answer);
    bytes.extend_from_slice(&body[..body.len() / 2]);
    bytes
}

fn header(when: &RetryAfter, clock: &Clock) -> String {
    match when {
        RetryAfter::Seconds(seconds) => seconds.to_string(),
        RetryAfter::Verbatim(text) => text.clone(),
        RetryAfter::DateIn(wait) => jiff::fmt::rfc2822::DateTimePrinter::new()
            .timestamp_to_rfc9110_string(&later(clock.now(), *wait))
            .unwrap_or_default(),
    }
}

fn respond(answer: Answer) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(answer.body));
    *response.status_mut() = answer.status;
    *response.headers_mut() = answer.headers;
    response
}
