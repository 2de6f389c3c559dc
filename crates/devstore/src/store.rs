//! Starting, stopping and cutting off the store.
use crate::administration::Administration;
use crate::clock::Clock;
use crate::cluster::Cluster;
use crate::endpoint::Endpoint;
use crate::faults::Faults;
use crate::key_vault::tls::{self, Tls};
use crate::key_vault::{KeyVault, KeyVaultOptions, ManagedIdentity};
use crate::requests::{Requests, Side};
use crate::serve::{Desk, Plain, Store};
use crate::vault::Vault;
use secrecy::SecretString;
use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

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
    /// The Key Vault side; `None`: there is none.
    pub key_vault: Option<KeyVaultOptions>,
}

impl Default for Options {
    /// Loopback, any free port, a token made up, no namespaces, the machine's clock, no Key Vault side.
    fn default() -> Options {
        Options {
            vault_listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            root_token: None,
            namespaces: false,
            clock: Clock::system(),
            key_vault: None,
        }
    }
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options")
            .field("vault_listen", &self.vault_listen)
            .field("namespaces", &self.namespaces)
            .field("key_vault", &self.key_vault)
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
        /// Which listener.
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
    /// A host name of the Key Vault side cannot stand in a certificate.
    #[error("the dev store cannot make a certificate for {names}: {source}")]
    Certificate {
        /// The host names.
        names: String,
        /// What is wrong with them.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// A running store. Clones are handles on the same one; it ends with [`stop`](DevStore::stop) or with the last handle.
#[derive(Clone)]
pub struct DevStore(Arc<Inner>);

struct Inner {
    root_token: SecretString,
    vault: Vault,
    vault_endpoint: Endpoint<Plain>,
    key_vault: Option<Azure>,
    clock: Clock,
    cluster: Cluster,
    faults: Faults,
    requests: Requests,
}

/// The Key Vault side.
struct Azure {
    vault: KeyVault,
    ca_pem: String,
    endpoint: Endpoint<Tls>,
    identity_endpoint: Endpoint<Plain>,
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
        let clock = options.clock;
        let cluster = Cluster::new(clock.clone());
        let faults = Faults::default();
        let requests = Requests::new();
        let desk = |store: Arc<dyn Store>, administration| Desk {
            store,
            faults: faults.clone(),
            requests: requests.clone(),
            clock: clock.clone(),
            administration,
        };
        let vault = Vault::new(clock.clone(), cluster.clone(), &root_token, options.namespaces);
        let administration = Administration {
            faults: faults.clone(),
            root_token: root_token.clone(),
        };
        let vault_desk = desk(Arc::new(vault.clone()), Some(administration));
        let vault_endpoint = Endpoint::open(options.vault_listen, Plain, vault_desk).await?;
        let key_vault = match options.key_vault {
            None => None,
            Some(options) => {
                let vault = KeyVault::new(&options, clock.clone(), cluster.clone());
                let (tls, ca_pem) = certificate(&options)?;
                let managed = ManagedIdentity(vault.clone());
                let managed = desk(Arc::new(managed), None);
                Some(Azure {
                    endpoint: Endpoint::open(options.listen, tls, desk(Arc::new(vault.clone()), None))
                        .await?,
                    identity_endpoint: Endpoint::open(options.identity_listen, Plain, managed).await?,
                    vault,
                    ca_pem,
                })
            }
        };
        Ok(DevStore(Arc::new(Inner {
            root_token,
            vault,
            vault_endpoint,
            key_vault,
            clock,
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
    /// one; what is stored stays. Nothing happens when it is offline already.
    pub async fn vault_offline(&self) -> Result<(), StartError> {
        self.0.vault_endpoint.offline().await
    }

    /// Takes connections again, on the same port.
    pub async fn vault_online(&self) -> Result<(), StartError> {
        self.0.vault_endpoint.online().await
    }

    /// The Key Vault side in process, when there is one ([`Options::key_vault`]).
    pub fn key_vault(&self) -> Option<&KeyVault> {
        self.azure().map(|azure| &azure.vault)
    }

    /// Where the vault and the authority listen (HTTPS): both host names must be resolved to here.
    pub fn key_vault_addr(&self) -> Option<SocketAddr> {
        self.azure().map(|azure| azure.endpoint.address)
    }

    /// Where managed identities get their tokens (plain HTTP): `/metadata/identity/oauth2/token` as on a machine,
    /// `/msi/token` as in an app service.
    pub fn identity_addr(&self) -> Option<SocketAddr> {
        self.azure().map(|azure| azure.identity_endpoint.address)
    }

    /// The certificate of the authority that signed the Key Vault side's, in PEM: clients must trust it.
    pub fn key_vault_ca_pem(&self) -> Option<&str> {
        self.azure().map(|azure| azure.ca_pem.as_str())
    }

    /// Cuts all connections of the vault and of the authority and refuses new ones; see
    /// [`vault_offline`](DevStore::vault_offline). Nothing happens where there is no Key Vault side.
    pub async fn key_vault_offline(&self) -> Result<(), StartError> {
        match self.azure() {
            Some(azure) => azure.endpoint.offline().await,
            None => Ok(()),
        }
    }

    /// Takes connections again, on the same port.
    pub async fn key_vault_online(&self) -> Result<(), StartError> {
        match self.azure() {
            Some(azure) => azure.endpoint.online().await,
            None => Ok(()),
        }
    }

    /// Cuts all connections, frees the ports and returns when every task has ended. Calling it again does no harm.
    pub async fn stop(&self) {
        self.0.vault_endpoint.close().await;
        if let Some(azure) = self.azure() {
            azure.endpoint.close().await;
            azure.identity_endpoint.close().await;
        }
    }

    fn azure(&self) -> Option<&Azure> {
        self.0.key_vault.as_ref()
    }
}

fn certificate(options: &KeyVaultOptions) -> Result<(Tls, String), StartError> {
    let names = vec![options.vault_host.clone(), options.authority_host.clone()];
    tls::make(names.clone()).map_err(|source| StartError::Certificate {
        names: names.join(" and "),
        source,
    })
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
            .field("key_vault", &self.key_vault_addr())
            .finish_non_exhaustive()
    }
}
