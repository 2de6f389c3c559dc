//! A proxy before a store that goes wrong on the wire in every way that a network, a proxy or a store does: raw TCP and TLS,
//! so that it can also answer what no HTTP library would.
//!
//! It speaks HTTP/1.1 to the client and to the store, keeps connections open as a real store does, counts what it is asked
//! and what it sends, and changes its fault at any moment ([`FaultProxy::set`]).
use crate::pki::{Pki, Shown};
use anyhow::{Context as _, Result, bail};
use rustls::pki_types::ServerName;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio_rustls::{TlsAcceptor, TlsConnector};

/// Nobody's request or answer here is longer.
const LONGEST: usize = 4 << 20;
/// What is sent of an endless answer before the proxy itself has had enough: a client that took all this has no bound.
pub const ENDLESS: u64 = 64 << 20;

/// What goes wrong.
#[derive(Clone, Debug)]
pub enum Fault {
    /// Nothing: requests reach the store.
    Pass,
    /// No connection is taken, and those that were open are closed.
    Refuse,
    /// Connections are neither taken nor refused, and those that are open have fallen silent.
    BlackHole,
    /// TCP reset as soon as the request is there.
    ResetBeforeHeaders,
    /// TCP reset in the middle of the answer's headers.
    ResetInHeaders,
    /// TCP reset between the headers and the body.
    ResetAfterHeaders,
    /// TCP reset after half of the body.
    ResetInBody,
    /// The request is taken and nothing comes back.
    Hang,
    /// The headers come, and then nothing.
    HangInBody,
    /// The store's answer, a byte at a time, this far apart.
    Drip(Duration),
    /// Half of the body, then an orderly end.
    Truncated,
    /// A body that never ends.
    EndlessBody,
    /// Headers that never end.
    EndlessHeaders,
    /// `100 Continue`, for ever.
    EndlessInterim,
    /// These bytes instead of an answer; the connection stays open.
    Bytes(Vec<u8>),
    /// The store's answer under another content type.
    ContentType(&'static str),
    /// What the store answered when [`FaultProxy::remember`] was called.
    Replay,
    /// That, and the store's answer of now, by turns: a replica that lags among others that do not.
    ReplayByTurns,
    /// That, as if the version had been written just now: a store that was restored and written to.
    ReplayAsNew,
    /// Another certificate.
    Shows(Shown),
}

/// What the client has done so far.
#[derive(Debug, Default)]
pub struct Counts {
    /// Connections that were taken.
    pub connections: AtomicU64,
    /// Requests for the watched path.
    pub requests: AtomicU64,
    /// The most bytes that were sent over one connection.
    pub most_sent: AtomicU64,
}

/// What is behind the proxy.
#[derive(Clone)]
pub enum Behind {
    /// A store that speaks plain HTTP.
    Plain(SocketAddr),
    /// A store that speaks TLS under this name, trusted as this says.
    Tls(SocketAddr, String, Arc<rustls::ClientConfig>),
}

/// The proxy: TLS outside, on a free port of loopback. It ends with the last handle.
#[derive(Clone)]
pub struct FaultProxy {
    /// Where it listens.
    pub address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    pki: Arc<Pki>,
    behind: Behind,
    /// Paths that begin like this are counted and remembered; faults hit all.
    watched: String,
    fault: watch::Sender<Fault>,
    counts: Counts,
    turns: AtomicU64,
    last: Mutex<Vec<u8>>,
    remembered: Mutex<Vec<u8>>,
}

impl FaultProxy {
    /// Starts it, without any fault.
    ///
    /// # Errors
    /// If no port can be had.
    pub async fn start(pki: Arc<Pki>, behind: Behind, watched: &str) -> Result<FaultProxy> {
        // A second socket keeps the port while nobody listens on it, so that nobody else is given it.
        let first = reserve("127.0.0.1:0".parse()?)?;
        let address = first.local_addr()?;
        let keeper = reserve(address)?;
        let shared = Arc::new(Shared {
            pki,
            behind,
            watched: watched.to_owned(),
            fault: watch::channel(Fault::Pass).0,
            counts: Counts::default(),
            turns: AtomicU64::new(0),
            last: Mutex::default(),
            remembered: Mutex::default(),
        });
        let faults = shared.fault.subscribe();
        let listener = first.listen(1024)?;
        tokio::spawn(run(address, listener, keeper, Arc::downgrade(&shared), faults));
        Ok(FaultProxy { address, shared })
    }

    /// From now on this goes wrong.
    pub fn set(&self, fault: Fault) {
        self.shared.fault.send_replace(fault);
    }

    /// Keeps the store's last answer for [`Fault::Replay`].
    pub fn remember(&self) {
        let last = lock(&self.shared.last).clone();
        *lock(&self.shared.remembered) = last;
    }

    /// What the client has done so far.
    pub fn counts(&self) -> &Counts {
        &self.shared.counts
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Bytes are whole whatever happened to whoever held them.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn reserve(address: SocketAddr) -> Result<TcpSocket> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.set_reuseport(true)?;
    socket.bind(address)?;
    Ok(socket)
}

enum Door {
    Open(TcpListener),
    Shut,
    /// A listener whose queue is full: what knocks is not answered. The connections that fill it.
    Hole(
        #[allow(dead_code, reason = "held, never looked at")] TcpListener,
        #[allow(dead_code, reason = "held")] Vec<TcpStream>,
    ),
}

async fn run(
    address: SocketAddr,
    listener: TcpListener,
    mut keeper: TcpSocket,
    shared: std::sync::Weak<Shared>,
    mut faults: watch::Receiver<Fault>,
) {
    let mut door = Door::Open(listener);
    loop {
        let wanted = faults.borrow_and_update().clone();
        let next = match (&wanted, &door) {
            (Fault::Refuse, Door::Shut) | (Fault::BlackHole, Door::Hole(..)) => None,
            (Fault::Refuse, _) => Some(Ok(Door::Shut)),
            (Fault::BlackHole, _) => {
                door = Door::Shut;
                Some(hole(address, &mut keeper).await)
            }
            (_, Door::Open(_)) => None,
            (_, _) => {
                door = Door::Shut;
                Some(reopen(address, &mut keeper))
            }
        };
        match next {
            Some(Ok(next)) => door = next,
            // Without a door every cell says that the store is unavailable, and the recovery fails: loud enough.
            Some(Err(_)) => return,
            None => {}
        }
        let accepted = async {
            match &door {
                Door::Open(listener) => listener.accept().await,
                Door::Shut | Door::Hole(..) => std::future::pending().await,
            }
        };
        tokio::select! {
            changed = faults.changed() => if changed.is_err() { return },
            taken = accepted => {
                let (Ok((stream, _)), Some(shared)) = (taken, shared.upgrade()) else { continue };
                shared.counts.connections.fetch_add(1, Relaxed);
                tokio::spawn(async move {
                    let mut faults = shared.fault.subscribe();
                    let conversation = converse(&shared, stream);
                    let cut = faults.wait_for(|fault| matches!(fault, Fault::Refuse | Fault::Shows(_)));
                    tokio::select! {
                        // A connection that breaks is the client's to notice.
                        _ = conversation => {}
                        _ = cut, if !matches!(*shared.fault.borrow(), Fault::Shows(_)) => {}
                    }
                });
            }
        }
    }
}

fn reopen(address: SocketAddr, keeper: &mut TcpSocket) -> Result<Door> {
    let next = std::mem::replace(keeper, reserve(address)?);
    Ok(Door::Open(next.listen(1024)?))
}

async fn hole(address: SocketAddr, keeper: &mut TcpSocket) -> Result<Door> {
    let next = std::mem::replace(keeper, reserve(address)?);
    let listener = next.listen(0)?;
    let mut filling = Vec::new();
    // Full when one is not taken any more.
    while let Ok(Ok(stream)) =
        tokio::time::timeout(Duration::from_millis(100), TcpStream::connect(address)).await
    {
        filling.push(stream);
    }
    Ok(Door::Hole(listener, filling))
}

async fn converse(shared: &Shared, stream: TcpStream) -> Result<()> {
    stream.set_nodelay(true)?;
    let shown = match &*shared.fault.borrow() {
        Fault::Shows(shown) => *shown,
        _ => Shown::Right,
    };
    let mut client = TlsAcceptor::from(shared.pki.shows(shown)).accept(stream).await?;
    let mut store = None;
    let mut sent = 0;
    loop {
        let Some(request) = message(&mut client, false).await? else {
            return Ok(());
        };
        let head = std::str::from_utf8(&request[..request.len().min(512)]).unwrap_or_default();
        let watched = head
            .split(' ')
            .nth(1)
            .is_some_and(|path| path.starts_with(&shared.watched));
        if watched {
            shared.counts.requests.fetch_add(1, Relaxed);
        }
        let fault = shared.fault.borrow().clone();
        let goes_on = answer(
            shared,
            &fault,
            &mut client,
            &mut store,
            &request,
            watched,
            &mut sent,
        )
        .await;
        shared.counts.most_sent.fetch_max(sent, Relaxed);
        if !goes_on? {
            return Ok(());
        }
    }
}

type Client = tokio_rustls::server::TlsStream<TcpStream>;

/// Answers one request; false: the connection is over.
async fn answer(
    shared: &Shared,
    fault: &Fault,
    client: &mut Client,
    store: &mut Option<Box<dyn Wire>>,
    request: &[u8],
    watched: bool,
    sent: &mut u64,
) -> Result<bool> {
    let real = match fault {
        Fault::Hang | Fault::BlackHole => {
            std::future::pending::<()>().await;
            return Ok(false);
        }
        Fault::ResetBeforeHeaders => return reset(client),
        Fault::Bytes(bytes) => {
            *sent += bytes.len() as u64;
            client.write_all(bytes).await?;
            client.flush().await?;
            return Ok(true);
        }
        Fault::EndlessBody => {
            let head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 1000000000000\r\n\r\n{\"data\":\"";
            return endless(client, head, &[b'M'; 64 << 10], sent).await;
        }
        Fault::EndlessHeaders => {
            return endless(
                client,
                b"HTTP/1.1 200 OK\r\n",
                &b"X-Padding: MARKED\r\n".repeat(512),
                sent,
            )
            .await;
        }
        Fault::EndlessInterim => {
            return endless(client, b"", &b"HTTP/1.1 100 Continue\r\n\r\n".repeat(256), sent).await;
        }
        Fault::Replay => lock(&shared.remembered).clone(),
        Fault::ReplayByTurns if watched && shared.turns.fetch_add(1, Relaxed).is_multiple_of(2) => {
            lock(&shared.remembered).clone()
        }
        Fault::ReplayAsNew => as_new(&lock(&shared.remembered).clone()),
        _ => {
            if store.is_none() {
                *store = Some(connect(&shared.behind).await?);
            }
            let to = store.as_mut().context("connected above")?;
            to.write_all(request).await?;
            to.flush().await?;
            message(to.as_mut(), true)
                .await?
                .context("the store closed the connection")?
        }
    };
    let real = match fault {
        Fault::ContentType(kind) => with_content_type(&real, kind),
        _ => real,
    };
    if watched && matches!(fault, Fault::Pass) {
        lock(&shared.last).clone_from(&real);
    }
    let body = head_end(&real).context("an answer has a head")?;
    match fault {
        Fault::ResetInHeaders => part(client, &real[..body / 2]).await?,
        Fault::ResetAfterHeaders | Fault::HangInBody => part(client, &real[..body]).await?,
        Fault::ResetInBody | Fault::Truncated => part(client, &real[..(body + real.len()) / 2]).await?,
        Fault::Drip(apart) => {
            for byte in &real {
                part(client, std::slice::from_ref(byte)).await?;
                tokio::time::sleep(*apart).await;
            }
        }
        _ => part(client, &real).await?,
    }
    *sent += real.len() as u64;
    match fault {
        Fault::ResetInHeaders | Fault::ResetAfterHeaders | Fault::ResetInBody => reset(client),
        Fault::HangInBody => std::future::pending().await,
        Fault::Truncated => {
            client.shutdown().await?;
            Ok(false)
        }
        _ => Ok(true),
    }
}

async fn part(client: &mut Client, bytes: &[u8]) -> Result<()> {
    client.write_all(bytes).await?;
    client.flush().await?;
    Ok(())
}

fn reset(client: &Client) -> Result<bool> {
    client.get_ref().0.set_zero_linger()?;
    Ok(false)
}

async fn endless(client: &mut Client, head: &[u8], piece: &[u8], sent: &mut u64) -> Result<bool> {
    client.write_all(head).await?;
    // Not as fast as it goes: the processor is everybody's.
    let mut pace = tokio::time::interval(Duration::from_millis(5));
    while *sent < ENDLESS {
        pace.tick().await;
        client.write_all(piece).await?;
        *sent += piece.len() as u64;
    }
    Ok(false)
}

/// A connection to the store.
trait Wire: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Wire for T {}

async fn connect(behind: &Behind) -> Result<Box<dyn Wire>> {
    match behind {
        Behind::Plain(address) => Ok(Box::new(TcpStream::connect(address).await?)),
        Behind::Tls(address, name, config) => {
            let stream = TcpStream::connect(address).await?;
            let name = ServerName::try_from(name.clone())?;
            Ok(Box::new(
                TlsConnector::from(config.clone()).connect(name, stream).await?,
            ))
        }
    }
}

/// One request or one answer, with its body; nothing when the other side has closed before it began.
async fn message(from: &mut (impl AsyncRead + Unpin + ?Sized), is_answer: bool) -> Result<Option<Vec<u8>>> {
    let mut bytes = Vec::new();
    let mut buffer = [0; 8 << 10];
    loop {
        if let Some(body) = head_end(&bytes) {
            let head = std::str::from_utf8(&bytes[..body])?.to_ascii_lowercase();
            let bodyless =
                is_answer && (head.starts_with("http/1.1 204") || head.starts_with("http/1.1 304"));
            let length = match header(&head, "content-length") {
                Some(length) if !bodyless => length.parse::<usize>()?,
                _ => 0,
            };
            if header(&head, "transfer-encoding").is_some() {
                bail!("the proxy reads lengths, not chunks");
            }
            if bytes.len() >= body + length {
                return Ok(Some(bytes));
            }
        }
        let n = from.read(&mut buffer).await?;
        match n {
            0 if bytes.is_empty() => return Ok(None),
            0 => bail!("half a message"),
            _ if bytes.len() + n > LONGEST => bail!("too long a message"),
            _ => bytes.extend_from_slice(&buffer[..n]),
        }
    }
}

/// Where the body begins.
fn head_end(bytes: &[u8]) -> Option<usize> {
    bytes
        .windows(4)
        .position(|four| four == b"\r\n\r\n")
        .map(|at| at + 4)
}

fn header<'h>(head: &'h str, name: &str) -> Option<&'h str> {
    head.lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(key, _)| key.eq_ignore_ascii_case(name))
        .map(|(_, value)| value.trim())
}

fn with_content_type(answer: &[u8], kind: &str) -> Vec<u8> {
    let text = String::from_utf8_lossy(answer).into_owned();
    let lines = text.split("\r\n").map(|line| {
        if line.to_ascii_lowercase().starts_with("content-type:") {
            format!("Content-Type: {kind}")
        } else {
            line.to_owned()
        }
    });
    lines.collect::<Vec<_>>().join("\r\n").into_bytes()
}

/// The same length, whatever the time is: a store writes nine digits of a second.
fn as_new(answer: &[u8]) -> Vec<u8> {
    let text = String::from_utf8_lossy(answer).into_owned();
    let Some(at) = text.find("\"created_time\":\"") else {
        return answer.to_vec();
    };
    let year = at + "\"created_time\":\"".len();
    format!("{}2099{}", &text[..year], &text[year + 4..]).into_bytes()
}
