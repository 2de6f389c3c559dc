//! What the NATS source and sink share: where the servers are, who asks, and what went wrong last.
use crate::broker_config::{BadBroker, NatsAuth};
use async_nats::{Client, ConnectOptions, Event, ServerAddr};
use secrecy::{ExposeSecret, SecretString};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tidegate_gate::Name;

/// A server that does not answer within this is not there.
pub(super) const ANSWER: Duration = Duration::from_secs(5);

/// Between two attempts to connect again: a broker that restarts is back in seconds.
const RECONNECT: Duration = Duration::from_millis(500);

/// Where the servers are and who asks.
#[derive(Clone, Debug)]
pub struct NatsTarget {
    /// `nats://host:4222` or `tls://host:4222`, several with commas between.
    pub url: String,
    /// How to log in; not at all without.
    pub auth: Option<NatsAuth>,
    /// Certificate authorities to trust instead of the system's.
    pub ca_file: Option<PathBuf>,
    /// The client's certificate and key.
    pub client_cert: Option<(PathBuf, PathBuf)>,
}

impl NatsTarget {
    pub(super) fn check(&self) -> Result<(), BadBroker> {
        self.servers().map(drop)
    }

    fn servers(&self) -> Result<Vec<ServerAddr>, BadBroker> {
        let bad = |expected| BadBroker::new(&self.url, expected);
        if self.url.contains('@') {
            return Err(bad("neither user nor password in it: say `auth`"));
        }
        let expected = "nats:// or tls:// and a host";
        let one = |url: &str| {
            let host = url.strip_prefix("nats://").or_else(|| url.strip_prefix("tls://"));
            // The library takes what has no scheme, or no host, for something.
            match host {
                Some(host) if !host.is_empty() => url.parse().map_err(|_| bad(expected)),
                _ => Err(bad(expected)),
            }
        };
        self.url.split(',').map(|url| one(url.trim())).collect()
    }

    /// Connects, or says why not; the client then reconnects by itself for as long as it lives.
    pub(super) async fn connect(&self, said: &Said) -> Result<Client, Name> {
        let servers = self.servers().map_err(|e| Name::from(e.to_string()))?;
        let tell = said.clone();
        let mut options = ConnectOptions::new()
            .name("tidegate")
            .connection_timeout(ANSWER)
            .request_timeout(Some(ANSWER))
            .subscription_capacity(1 << 18)
            .reconnect_delay_callback(|attempts| match attempts {
                0 | 1 => Duration::ZERO,
                _ => RECONNECT,
            })
            .event_callback(move |event| {
                tell.hear(event);
                std::future::ready(())
            });
        if let Some(file) = &self.ca_file {
            options = options.add_root_certificates(file.clone());
        }
        if let Some((cert, key)) = &self.client_cert {
            options = options.add_client_certificate(cert.clone(), key.clone());
        }
        let unreadable =
            |file: &Path, e: &dyn std::fmt::Display| Name::from(format!("{}: {e}", file.display()));
        let read = |file: &Path| match std::fs::read_to_string(file) {
            Ok(text) => Ok(SecretString::from(text.trim())),
            Err(e) => Err(unreadable(file, &e)),
        };
        options = match &self.auth {
            None => options,
            Some(NatsAuth::Credentials { file }) => options
                .credentials(read(file)?.expose_secret())
                // Its own text could quote what it could not parse.
                .map_err(|_| unreadable(file, &"it is no credentials file"))?,
            Some(NatsAuth::Nkey { file }) => options.nkey(read(file)?.expose_secret().to_owned()),
            Some(NatsAuth::Password { user, file }) => {
                options.user_and_password(user.clone(), read(file)?.expose_secret().to_owned())
            }
            Some(NatsAuth::Token { file }) => options.token(read(file)?.expose_secret().to_owned()),
        };
        let connected = tokio::time::timeout(ANSWER * 2, options.connect(servers)).await;
        match connected {
            Ok(Ok(client)) => Ok(client),
            Ok(Err(error)) => Err(format!("cannot connect to {}: {error}", self.url).into()),
            Err(_) => Err(format!("cannot connect to {}: no answer", self.url).into()),
        }
    }
}

/// The last thing that a server said against us: permissions are refused on the side, and the request only times out.
#[derive(Clone, Debug, Default)]
pub(super) struct Said(Arc<Mutex<Option<Name>>>);

impl Said {
    fn hear(&self, event: Event) {
        let mut last = self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        match event {
            Event::ServerError(error) => *last = Some(error.to_string().into()),
            Event::Connected => *last = None,
            _ => {}
        }
    }

    /// An error, with what the server said beside it.
    pub(super) fn beside(&self, error: impl std::fmt::Display) -> Name {
        let last = self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        match &*last {
            Some(said) => format!("{error} ({said})").into(),
            None => error.to_string().into(),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)] // a test stops at the first surprise
    use super::*;

    #[test]
    fn an_address_is_a_scheme_and_a_host_and_no_secret() {
        let target = |url: &str| NatsTarget {
            url: url.into(),
            auth: None,
            ca_file: None,
            client_cert: None,
        };
        for good in [
            "nats://127.0.0.1:4222",
            "tls://a:1,tls://b:2",
            "nats://a, nats://b",
        ] {
            target(good).check().unwrap();
        }
        for bad in ["http://a:1", "ws://a", "", "nats://u:secret@a:1"] {
            let error = target(bad).check().unwrap_err().to_string();
            assert!(!error.contains("secret"), "{error}");
        }
    }
}
