//! The listener that the control API, the observe surface, the http source and the HTTP gate share.
use crate::address::{Address, BindError, holder_of};
use crate::body::RequestBody;
use crate::connection::{self, Peer};
use crate::doings::{Connections, Doings, Place};
use crate::socket::{Socket, Watched};
use crate::tls::Tls;
use http::{Request, Response};
use http_body::Body;
use rustix::io::Errno;
use std::convert::Infallible;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpSocket, TcpStream, UnixListener, UnixSocket, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

/// The kernel cuts this to `net.core.somaxconn`.
const BACKLOG: u32 = 4096;

/// How much a listener gives to peers that nobody knows yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Open connections. When all places are taken, the connection that has been idle longest loses its own; when
    /// none is idle, new ones wait in the kernel's backlog.
    pub max_connections: usize,
    /// From accepting a connection, or the first byte of a request, to the end of its head.
    pub header_timeout: Duration,
    /// Between two pieces of a request's body, while somebody waits for them.
    pub body_timeout: Duration,
    /// Between two reads of a peer that an answer is being sent to.
    pub write_timeout: Duration,
    /// How long a connection may wait for its next request.
    pub keep_alive: Duration,
    /// For the TLS handshake.
    pub handshake_timeout: Duration,
    /// Header fields of a request; beyond it 431.
    pub max_headers: usize,
    /// Requests at a time on one HTTP/2 connection.
    pub max_streams: u32,
    /// Bytes buffered per connection (HTTP/1) or stream (HTTP/2) and direction; at least 8,192. A request whose
    /// head is larger gets 431.
    pub buffer: usize,
    /// The kernel's send buffer per connection; nothing leaves it to the kernel, which may give megabytes to a
    /// peer that never reads.
    pub send_buffer: Option<u32>,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            max_connections: 2048,
            header_timeout: Duration::from_secs(5),
            body_timeout: Duration::from_secs(5),
            write_timeout: Duration::from_secs(30),
            keep_alive: Duration::from_secs(75),
            handshake_timeout: Duration::from_secs(5),
            max_headers: 100,
            max_streams: 128,
            buffer: 64 * 1024,
            send_buffer: None,
        }
    }
}

/// A bound socket that is not served yet: connections wait in the kernel's backlog.
#[derive(Debug)]
pub struct Listener {
    socket: Bound,
    local: Address,
    tls: Option<Tls>,
    limits: Limits,
}

#[derive(Debug)]
enum Bound {
    Tcp(TcpListener),
    Unix {
        listener: UnixListener,
        _file: SocketFile,
    },
}

impl Listener {
    /// Binds and listens. TLS is for TCP only: a Unix socket never leaves the machine.
    ///
    /// Call it inside a tokio runtime.
    pub async fn bind(address: &Address, tls: Option<Tls>, limits: Limits) -> Result<Listener, BindError> {
        let failed = |source: io::Error| BindError::Io {
            address: address.clone(),
            source,
        };
        let (socket, local) = match address {
            Address::Tcp(addr) => {
                let listener = bind_tcp(*addr, limits.send_buffer).map_err(|source| {
                    if source.kind() == io::ErrorKind::AddrInUse {
                        let holder = holder_of(*addr);
                        let address = address.clone();
                        BindError::Taken { address, holder }
                    } else {
                        failed(source)
                    }
                })?;
                let local = Address::Tcp(listener.local_addr().map_err(failed)?);
                (Bound::Tcp(listener), local)
            }
            Address::Unix(path) => {
                let (listener, file) = bind_unix(path, address).await?;
                (
                    Bound::Unix {
                        listener,
                        _file: file,
                    },
                    address.clone(),
                )
            }
        };
        Ok(Listener {
            socket,
            local,
            tls,
            limits,
        })
    }

    /// Where it listens, with the port that the system chose.
    pub fn local(&self) -> &Address {
        &self.local
    }

    /// The TCP address it listens on.
    pub fn local_addr(&self) -> Option<SocketAddr> {
        match self.local {
            Address::Tcp(addr) => Some(addr),
            Address::Unix(_) => None,
        }
    }

    /// Serves until `stop`, then closes the socket, lets requests in progress finish and resolves. It sets no
    /// bound to that: whoever calls does, and dropping the future ends what is left. Upgraded connections are
    /// not waited for; they end with whoever upgraded them.
    ///
    /// Every request carries a [`Peer`] as an extension.
    pub async fn serve<S, B>(self, service: S, stop: CancellationToken)
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
        let Listener {
            socket,
            local,
            tls,
            limits,
        } = self;
        let places = Arc::new(Semaphore::new(limits.max_connections));
        let connections = Arc::new(Connections::default());
        let limits = Arc::new(limits);
        let mut tasks = JoinSet::new();
        let mut complaint = Complaint::default();
        loop {
            let accepted = tokio::select! {
                biased;
                () = stop.cancelled() => break,
                accepted = socket.accept() => accepted,
                Some(_) = tasks.join_next(), if !tasks.is_empty() => continue,
            };
            let accepted = match accepted {
                Ok(accepted) => accepted,
                Err(error) if exhausted(&error) => {
                    complaint.tell(&local, &error);
                    connections.evict_one(Duration::ZERO);
                    // Accepting again at once would fail at once: a busy loop that starves everything else.
                    tokio::select! {
                        () = stop.cancelled() => break,
                        () = tokio::time::sleep(Duration::from_millis(50)) => continue,
                    }
                }
                // The peer went away before we came to it.
                Err(_) => continue,
            };
            let permit = tokio::select! {
                biased;
                () = stop.cancelled() => break,
                permit = a_place(&places, &connections) => permit,
            };
            let (place, doings) = connections.add(permit);
            let task = Task {
                accepted,
                tls: tls.clone(),
                doings,
                place,
                limits: limits.clone(),
            };
            tasks.spawn(task.run(service.clone()));
        }
        drop(socket);
        connections.stop();
        while tasks.join_next().await.is_some() {}
    }
}

/// A place for a connection that is there, made by ending the one that has been idle longest if it must be.
async fn a_place(places: &Arc<Semaphore>, connections: &Connections) -> OwnedSemaphorePermit {
    /// A peer that has just come is about to ask for something.
    const GRACE: Duration = Duration::from_millis(100);
    if let Ok(permit) = places.clone().try_acquire_owned() {
        return permit;
    }
    loop {
        connections.evict_one(GRACE);
        // Where all were busy or new a moment ago, some may not be any more.
        if let Ok(permit) = timeout(GRACE, places.clone().acquire_owned()).await {
            return permit.expect("the semaphore is never closed");
        }
    }
}

struct Task {
    accepted: Accepted,
    tls: Option<Tls>,
    doings: Arc<Doings>,
    place: Place,
    limits: Arc<Limits>,
}

impl Task {
    async fn run<S, B>(self, service: S)
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
        let (mut addr, mut local) = (None, None);
        let socket = match self.accepted {
            Accepted::Unix(stream) => Socket::Unix(stream),
            Accepted::Tcp(stream, from) => {
                addr = Some(from);
                local = stream.local_addr().ok();
                // Small answers must not wait for the acknowledgement of the one before.
                let _ = stream.set_nodelay(true);
                match &self.tls {
                    None => Socket::Tcp(stream),
                    Some(tls) => {
                        let handshake = timeout(self.limits.handshake_timeout, tls.acceptor().accept(stream));
                        let shaken = tokio::select! {
                            shaken = handshake => shaken,
                            () = self.doings.called() => return,
                        };
                        match shaken {
                            Ok(Ok(stream)) => Socket::Tls(Box::new(stream)),
                            Ok(Err(error)) => {
                                tracing::debug!(peer = %from, %error, "a TLS handshake failed");
                                return;
                            }
                            Err(_) => {
                                tracing::debug!(peer = %from, "a TLS handshake took too long");
                                return;
                            }
                        }
                    }
                }
            }
        };
        let peer = Peer::new(addr, local, matches!(socket, Socket::Tls(_)));
        let io = Watched {
            socket,
            doings: self.doings,
            _place: self.place,
        };
        if let Some(why) = connection::serve(io, peer, service, &self.limits).await {
            tracing::debug!(peer = ?addr, why, "a connection was cut");
        }
    }
}

enum Accepted {
    Tcp(TcpStream, SocketAddr),
    Unix(UnixStream),
}

impl Bound {
    /// Cancel-safe: a connection that was not returned is still in the backlog.
    async fn accept(&self) -> io::Result<Accepted> {
        match self {
            Bound::Tcp(listener) => {
                let (stream, addr) = listener.accept().await?;
                Ok(Accepted::Tcp(stream, addr))
            }
            Bound::Unix { listener, .. } => Ok(Accepted::Unix(listener.accept().await?.0)),
        }
    }
}

fn exhausted(error: &io::Error) -> bool {
    Errno::from_io_error(error)
        .is_some_and(|e| matches!(e, Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM))
}

/// A flood must not flood the log too.
#[derive(Default)]
struct Complaint(Option<Instant>);

impl Complaint {
    fn tell(&mut self, local: &Address, error: &io::Error) {
        if self.0.is_none_or(|at| at.elapsed() >= Duration::from_secs(10)) {
            self.0 = Some(Instant::now());
            tracing::warn!(
                listener = %local,
                %error,
                "cannot accept connections for now: idle ones are closed and accepting goes on every 50 ms; raise \
                 the limit of open files (ulimit -n) if this lasts"
            );
        }
    }
}

fn bind_tcp(addr: SocketAddr, send_buffer: Option<u32>) -> io::Result<TcpListener> {
    let socket = match addr {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    // Else a restart would have to wait for the old connections' TIME_WAIT.
    socket.set_reuseaddr(true)?;
    if let Some(size) = send_buffer {
        socket.set_send_buffer_size(size)?;
    }
    socket.bind(addr)?;
    socket.listen(BACKLOG)
}

async fn bind_unix(path: &Path, address: &Address) -> Result<(UnixListener, SocketFile), BindError> {
    let failed = |source: io::Error| BindError::Io {
        address: address.clone(),
        source,
    };
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(failed(error)),
        Ok(meta) if !meta.file_type().is_socket() => return Err(BindError::NotASocket { path: path.into() }),
        Ok(_) => match UnixStream::connect(path).await {
            Ok(stream) => {
                let holder = stream.peer_cred().ok().and_then(|c| c.pid()).and_then(process);
                let address = address.clone();
                return Err(BindError::Taken { address, holder });
            }
            // Nobody listens: what a process that was killed left behind.
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                std::fs::remove_file(path).map_err(failed)?;
            }
            Err(error) => return Err(failed(error)),
        },
    }
    let socket = UnixSocket::new_stream().map_err(failed)?;
    socket.bind(path).map_err(failed)?;
    // Between bind and listen nobody can connect, so nobody gets in before the mode is set.
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).map_err(failed)?;
    let file = SocketFile::at(path).map_err(failed)?;
    let listener = socket.listen(BACKLOG).map_err(failed)?;
    Ok((listener, file))
}

fn process(pid: i32) -> Option<crate::Holder> {
    let pid = u32::try_from(pid).ok()?;
    let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
    Some(crate::Holder::Process {
        name: name.trim_end().to_owned(),
        pid,
    })
}

/// Removes the socket's file at the end, if it is still this one.
struct SocketFile {
    path: PathBuf,
    inode: (u64, u64),
}

impl SocketFile {
    fn at(path: &Path) -> io::Result<SocketFile> {
        Ok(SocketFile {
            path: path.into(),
            inode: inode(path)?,
        })
    }
}

fn inode(path: &Path) -> io::Result<(u64, u64)> {
    let meta = std::fs::symlink_metadata(path)?;
    Ok((meta.dev(), meta.ino()))
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if inode(&self.path).is_ok_and(|now| now == self.inode) {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

impl fmt::Debug for SocketFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.path.fmt(f)
    }
}

/// Raises this process's soft limit of open files to its hard one and returns it: shells hand out 1,024, fewer
/// than one listener's connections. Call it once at start.
pub fn raise_descriptor_limit() -> io::Result<Option<u64>> {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit)?;
    Ok(limit.current)
}
