//! Starting, stopping and cutting off the store.
use crate::administration::Administration;
use crate::clock::Clock;
use crate::cluster::Cluster;
use crate::faults::Faults;
use crate::requests::{Requests, Side};
use crate::serve::{self, Desk, Handshake, Plain};
use crate::vault::Vault;
use secrecy::SecretString;
use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use tokio::net::TcpSocket;
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// How to start a store.
#[derive(Clone)]
pub struct Options {
    /// Where the Vault side listens (plain HTTP); port 0 takes any free one.
    pub vault_listen: SocketAddr,
    /// The root token; made up when there is none.
    pub root_token: Option<SecretString>,
    /// `false`: `X-Vault-Namespace` is repeated in the answer and means nothing, as in the community edition. `true`: it
    /// names a namespace, `sys/namespaces` makes them, and an unknown one is 404.
    pub namespaces: bool,
    /// The store's time.
    pub clock: Clock,
}

impl Default for Options {
    /// Loopback, any free port, a token made up, no namespaces, the machine's clock.
    fn default() -> Options {
        Options {
            vault_listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            root_token: None,
            namespaces: false,
            clock: Clock::system(),
        }
    }
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options")
            .field("vault_listen", &self.vault_listen)
            .field("namespaces", &self.namespaces)
            .finish_non_exhaustive()
    }
}

/// Why the store does not run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The address cannot be listened on: taken (then `source` is `AddrInUse`), not of this machine, or a privileged port.
    #[error("the dev store cannot listen on {address} for its {side} side: {source}")]
    Listen {
        /// Which of the two stores.
        side: Side,
        /// The address that was asked for.
        address: SocketAddr,
        /// What the operating system says.
        source: std::io::Error,
    },
    /// The root token that was given cannot be sent in a header.
    #[error(
        "the root token of the dev store cannot be used: it must be visible ASCII characters without spaces; \
         choose another, or leave it out and one is made up"
    )]
    RootToken,
}

/// A running store. Clones are handles on the same one; it ends with [`stop`](DevStore::stop) or with the last handle.
#[derive(Clone)]
pub struct DevStore(Arc<Inner>);

struct Inner {
    root_token: SecretString,
    vault: Vault,
    vault_endpoint: Endpoint<Plain>,
    clock: Clock,
    cluster: Cluster,
    faults: Faults,
    requests: Requests,
}

impl DevStore {
    /// Starts a store: when this returns, connections are taken. The listeners are tasks of the runtime that this is
    /// called in.
    pub async fn start(options: Options) -> Result<DevStore, StartError> {
        let root_token = match options.root_token {
            Some(token) if usable(&token) => token,
            Some(_) => return Err(StartError::RootToken),
            None => SecretString::from(format!("hvs.{}", crate::identifiers::letters(24))),
        };
        let faults = Faults::default();
        let requests = Requests::new();
        let cluster = Cluster::new(options.clock.clone());
        let vault = Vault::new(
            options.clock.clone(),
            cluster.clone(),
            &root_token,
            options.namespaces,
        );
        let desk = Desk {
            store: Arc::new(vault.clone()),
            faults: faults.clone(),
            requests: requests.clone(),
            clock: options.clock.clone(),
            administration: Some(Administration {
                faults: faults.clone(),
                root_token: root_token.clone(),
            }),
        };
        let vault_endpoint = Endpoint::open(options.vault_listen, Plain, desk).await?;
        Ok(DevStore(Arc::new(Inner {
            root_token,
            vault,
            vault_endpoint,
            clock: options.clock,
            cluster,
            faults,
            requests,
        })))
    }

    /// Where the Vault side listens, the port that was taken included.
    pub fn vault_addr(&self) -> SocketAddr {
        self.0.vault_endpoint.address
    }

    /// The same as the `VAULT_ADDR` of its clients.
    pub fn vault_url(&self) -> String {
        format!("http://{}", self.vault_addr())
    }

    /// The token that may do everything.
    pub fn root_token(&self) -> &SecretString {
        &self.0.root_token
    }

    /// The Vault side in process.
    pub fn vault(&self) -> &Vault {
        &self.0.vault
    }

    /// The store's time.
    pub fn clock(&self) -> &Clock {
        &self.0.clock
    }

    /// The Kubernetes cluster whose service accounts both stores know.
    pub fn cluster(&self) -> &Cluster {
        &self.0.cluster
    }

    /// What goes wrong.
    pub fn faults(&self) -> &Faults {
        &self.0.faults
    }

    /// What was asked.
    pub fn requests(&self) -> &Requests {
        &self.0.requests
    }

    /// Cuts all connections of the Vault side and refuses new ones. The port stays bound, so that nobody is given it as a free
    /// one; what is stored stays.
    /// Nothing happens when it is offline already.
    pub async fn vault_offline(&self) -> Result<(), StartError> {
        self.0.vault_endpoint.offline().await
    }

    /// Takes connections again, on the same port.
    pub async fn vault_online(&self) -> Result<(), StartError> {
        self.0.vault_endpoint.online().await
    }

    /// Cuts all connections, frees the ports and returns when every task has ended. Calling it again does no harm.
    pub async fn stop(&self) {
        self.0.vault_endpoint.close().await;
    }
}

fn usable(token: &SecretString) -> bool {
    use secrecy::ExposeSecret;
    let token = token.expose_secret();
    !token.is_empty() && token.bytes().all(|byte| byte.is_ascii_graphic())
}

impl fmt::Debug for DevStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DevStore")
            .field("vault", &self.vault_addr())
            .finish_non_exhaustive()
    }
}

/// One address and what is behind it.
struct Endpoint<H> {
    side: Side,
    address: SocketAddr,
    handshake: Arc<H>,
    desk: Arc<Desk>,
    phase: Mutex<Phase>,
    /// Ends everything when the last handle is dropped.
    end: CancellationToken,
}

enum Phase {
    Online {
        stop: CancellationToken,
        tasks: TaskTracker,
    },
    /// The socket holds the port.
    Offline(TcpSocket),
    Closed,
}

impl<H: Handshake> Endpoint<H> {
    async fn open(address: SocketAddr, handshake: H, desk: Desk) -> Result<Endpoint<H>, StartError> {
        let side = desk.store.side();
        let socket = serve::reserve(side, address)?;
        let address = socket.local_addr().map_err(|source| StartError::Listen {
            side,
            address,
            source,
        })?;
        let endpoint = Endpoint {
            side,
            address,
            handshake: Arc::new(handshake),
            desk: Arc::new(desk),
            phase: Mutex::new(Phase::Offline(socket)),
            end: CancellationToken::new(),
        };
        endpoint.online().await?;
        Ok(endpoint)
    }

    async fn online(&self) -> Result<(), StartError> {
        let mut phase = self.phase.lock().await;
        match std::mem::replace(&mut *phase, Phase::Closed) {
            Phase::Offline(socket) => {
                let listener = serve::listen(self.side, self.address, socket)?;
                let (stop, tasks) = (self.end.child_token(), TaskTracker::new());
                tasks.spawn(serve::serve(
                    listener,
                    self.handshake.clone(),
                    self.desk.clone(),
                    tasks.clone(),
                    stop.clone(),
                ));
                *phase = Phase::Online { stop, tasks };
            }
            as_it_was => *phase = as_it_was,
        }
        Ok(())
    }

    async fn offline(&self) -> Result<(), StartError> {
        let mut phase = self.phase.lock().await;
        if !matches!(*phase, Phase::Online { .. }) {
            return Ok(());
        }
        end(&mut phase).await;
        *phase = Phase::Offline(serve::reserve(self.side, self.address)?);
        Ok(())
    }

    async fn close(&self) {
        end(&mut *self.phase.lock().await).await;
    }
}

/// Leaves the phase closed, all tasks ended.
async fn end(phase: &mut Phase) {
    if let Phase::Online { stop, tasks } = std::mem::replace(phase, Phase::Closed) {
        stop.cancel();
        tasks.close();
        tasks.wait().await;
    }
}

impl<H> Drop for Endpoint<H> {
    fn drop(&mut self) {
        self.end.cancel();
    }
}
