//! What the Redis source and sink share: where the server is and who asks.
use crate::broker_config::BadBroker;
use redis::aio::MultiplexedConnection;
use redis::{
    AsyncConnectionConfig, Client, ClientTlsConfig, ConnectionInfo, IntoConnectionInfo, RedisError,
    TlsCertificates,
};
use secrecy::{ExposeSecret, SecretString};
use std::path::PathBuf;
use std::time::Duration;
use tidegate_gate::Name;

/// A server that does not answer within this is not there.
pub(super) const ANSWER: Duration = Duration::from_secs(5);

/// Where the server is and who asks.
#[derive(Clone, Debug)]
pub struct RedisTarget {
    /// `redis://host:6379/0`, or `rediss://` for TLS.
    pub url: String,
    /// The user, if it is not the default one.
    pub user: Option<String>,
    /// The file that holds the password; read at every attempt to connect.
    pub password_file: Option<PathBuf>,
    /// Certificate authorities to trust instead of the system's.
    pub ca_file: Option<PathBuf>,
    /// The client's certificate and key.
    pub client_cert: Option<(PathBuf, PathBuf)>,
}

impl RedisTarget {
    pub(super) fn check(&self) -> Result<(), BadBroker> {
        self.place().map(drop)
    }

    fn place(&self) -> Result<ConnectionInfo, BadBroker> {
        let bad = |expected| BadBroker::new(&self.url, expected);
        if self.url.contains('@') {
            return Err(bad(
                "neither user nor password in it: say `user` and `password_file`",
            ));
        }
        // The library turns verification off for #insecure, and reads further settings from a query.
        if self.url.contains(['#', '?'])
            || !(self.url.starts_with("redis://") || self.url.starts_with("rediss://"))
        {
            return Err(bad("redis:// or rediss://, a host, and at most a database"));
        }
        self.url
            .as_str()
            .into_connection_info()
            .map_err(|_| bad("redis:// or rediss://, a host, and at most a database"))
    }

    /// Connects, with so long for each answer, or says why not.
    pub(super) async fn connect(&self, answer: Duration) -> Result<MultiplexedConnection, Name> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(ANSWER))
            .set_response_timeout(Some(answer));
        self.client()?
            .get_multiplexed_async_connection_with_config(&config)
            .await
            .map_err(|e| self.not_connected(&told(&e)))
    }

    /// Who connects, with the files as they are now; nothing is connected yet.
    pub(super) fn client(&self) -> Result<Client, Name> {
        let place = self.place().map_err(|e| Name::from(e.to_string()))?;
        let mut settings = place.redis_settings().clone();
        if let Some(user) = &self.user {
            settings = settings.set_username(user);
        }
        let read =
            |file: &PathBuf| std::fs::read(file).map_err(|e| Name::from(format!("{}: {e}", file.display())));
        if let Some(file) = &self.password_file {
            let text = SecretString::from(String::from_utf8_lossy(&read(file)?).trim());
            settings = settings.set_password(text.expose_secret());
        }
        let place = place.set_redis_settings(settings);
        let client = match (&self.ca_file, &self.client_cert) {
            (None, None) => Client::open(place),
            (ca, cert) => {
                let root_cert = ca.as_ref().map(read).transpose()?;
                let client_tls = match cert {
                    None => None,
                    Some((cert, key)) => Some(ClientTlsConfig {
                        client_cert: read(cert)?,
                        client_key: read(key)?,
                    }),
                };
                Client::build_with_tls(
                    place,
                    TlsCertificates {
                        client_tls,
                        root_cert,
                    },
                )
            }
        };
        client.map_err(|e| self.not_connected(&told(&e)))
    }

    fn not_connected(&self, why: &str) -> Name {
        format!("cannot connect to {}: {why}", self.url).into()
    }
}

/// An error in the server's own words, where it has some.
pub(super) fn told(error: &RedisError) -> String {
    match (error.code(), error.detail()) {
        (Some(code), Some(detail)) => format!("{code} {detail}"),
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)] // a test stops at the first surprise
    use super::*;

    #[test]
    fn an_address_is_a_scheme_and_a_host_and_neither_a_secret_nor_a_way_round_tls() {
        let target = |url: &str| RedisTarget {
            url: url.into(),
            user: None,
            password_file: None,
            ca_file: None,
            client_cert: None,
        };
        for good in ["redis://127.0.0.1:6379", "rediss://h:1/2", "redis://h"] {
            target(good).check().unwrap();
        }
        for bad in [
            "http://a:1",
            "",
            "redis://u:secret@a:1",
            "rediss://a:1/#insecure",
            "redis://a?protocol=resp3",
        ] {
            let error = target(bad).check().unwrap_err().to_string();
            assert!(!error.contains("secret"), "{error}");
        }
    }
}
