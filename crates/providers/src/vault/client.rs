//! Vault's requests, as `vaultrs` builds them, over a client of our own.
//!
//! `vaultrs`'s own client follows redirects with the token in hand, reads `VAULT_*` variables, panics on a token that
//! ends in a newline, hides Retry-After, logs four errors for one failed read and prints bodies. So its request types
//! say what to send (method, path, body), and everything that goes over the wire is here.
use crate::http_client::{build, builder, chain, retry_after};
use crate::{ConfigError, MOST_BYTES, ReadError, VaultConfig};
use http::{HeaderValue, StatusCode};
use reqwest::Url;
use rustify::endpoint::Endpoint;
use secrecy::{ExposeSecret, SecretString};
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tidegate_gate::Name;
use zeroize::Zeroizing;

/// What came back, whatever its status.
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) retry_after: Option<Duration>,
    pub(super) body: Zeroizing<Vec<u8>>,
}

pub(super) type Carried<'a> = Pin<Box<dyn Future<Output = Result<Answer, ReadError>> + Send + 'a>>;

/// What carries requests: the network, and in tests of a token's life a store in memory that runs on tokio's clock.
pub(super) trait Wire: Send + Sync {
    fn carry(&self, request: reqwest::Request) -> Carried<'_>;
}

/// One Vault. Cheap to clone.
#[derive(Clone)]
pub(super) struct Client {
    wire: Arc<dyn Wire>,
    base: Url,
    namespace: Option<HeaderValue>,
    address: Name,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Client").field(&self.address).finish()
    }
}

impl Client {
    pub(super) fn new(config: &VaultConfig) -> Result<Client, ConfigError> {
        let base = address(config)?;
        let plaintext = base.scheme() == "http";
        let http = build(builder(plaintext, config.ca_file.as_deref())?)?;
        Client::over(
            Arc::new(Network {
                http,
                address: base.as_str().trim_end_matches('/').into(),
            }),
            config,
        )
    }

    pub(super) fn over(wire: Arc<dyn Wire>, config: &VaultConfig) -> Result<Client, ConfigError> {
        let base = address(config)?;
        let namespace = config
            .namespace
            .as_deref()
            .map(|namespace| {
                HeaderValue::from_str(namespace.trim_matches('/'))
                    .map_err(|_| ConfigError::new("namespace", "expected text that fits into an HTTP header"))
            })
            .transpose()?;
        Ok(Client {
            wire,
            address: base.as_str().trim_end_matches('/').into(),
            base,
            namespace,
        })
    }

    /// For people.
    pub(super) fn address(&self) -> Name {
        self.address.clone()
    }

    /// Sends what `endpoint` says, and returns whatever comes back.
    pub(super) async fn send(
        &self,
        endpoint: &impl Endpoint,
        token: Option<&SecretString>,
    ) -> Result<Answer, ReadError> {
        let cannot = |what: &str| {
            ReadError::unavailable(format!("no request to {} can be made: {what}", self.address))
        };
        let mut url = self.base.clone();
        url.path_segments_mut()
            .map_err(|()| cannot("its address has no path"))?
            .pop_if_empty()
            .push("v1")
            // Some of vaultrs's paths begin with a slash, one with a tab.
            .extend(endpoint.path().trim().trim_start_matches('/').split('/'));
        let mut request = reqwest::Request::new(endpoint.method().into(), url);
        if let Some(body) = endpoint
            .body()
            .map_err(|_| cannot("its body cannot be written"))?
        {
            *request.body_mut() = Some(body.into());
        }
        let headers = request.headers_mut();
        headers.insert("x-vault-request", HeaderValue::from_static("true"));
        if let Some(namespace) = &self.namespace {
            headers.insert("x-vault-namespace", namespace.clone());
        }
        if let Some(token) = token {
            let mut value = HeaderValue::from_str(token.expose_secret())
                .map_err(|_| cannot("the token holds characters that no header may hold"))?;
            value.set_sensitive(true);
            headers.insert("x-vault-token", value);
        }
        self.wire.carry(request).await
    }
}

struct Network {
    http: reqwest::Client,
    address: Name,
}

impl Wire for Network {
    fn carry(&self, request: reqwest::Request) -> Carried<'_> {
        Box::pin(async move {
            // Without the URL, which says nothing that the address does not.
            let failed = |error: reqwest::Error| {
                ReadError::unavailable(format!(
                    "no usable answer from Vault at {}: {}",
                    self.address,
                    chain(&error.without_url())
                ))
            };
            let mut response = self.http.execute(request).await.map_err(failed)?;
            let mut body = Zeroizing::new(Vec::new());
            while let Some(chunk) = response.chunk().await.map_err(failed)? {
                if body.len() + chunk.len() > MOST_BYTES {
                    return Err(ReadError::Malformed(
                        format!(
                            "Vault at {} answered with more than {MOST_BYTES} bytes",
                            self.address
                        )
                        .into(),
                    ));
                }
                body.extend_from_slice(&chunk);
            }
            Ok(Answer {
                status: response.status(),
                retry_after: retry_after(response.headers()),
                body,
            })
        })
    }
}

fn address(config: &VaultConfig) -> Result<Url, ConfigError> {
    let wrong = |why: &str| ConfigError::new("address", why);
    let url = Url::parse(config.address.trim())
        .ok()
        .filter(|url| matches!(url.scheme(), "http" | "https") && url.host().is_some())
        .ok_or_else(|| wrong("expected a URL such as https://vault.internal:8200"))?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err(wrong(
            "expected no user name or password in it: say how to log in with auth",
        ));
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err(wrong("expected no ? or # in it"));
    }
    if url.scheme() == "http" && !config.allow_plaintext && !is_loopback(&url) {
        return Err(wrong(
            "http:// would send the token in plaintext: use https://, or say allow_plaintext = true",
        ));
    }
    Ok(url)
}

fn is_loopback(url: &Url) -> bool {
    match url.host_str() {
        Some("localhost") => true,
        Some(host) => host
            .trim_matches(['[', ']'])
            .parse::<std::net::IpAddr>()
            .is_ok_and(|ip| ip.is_loopback()),
        None => false,
    }
}
