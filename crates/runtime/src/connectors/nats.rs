//! What the NATS source and sink share: where the servers are, who asks, and what went wrong last.
use crate::broker_config::{BadBroker, NatsAuth};
use async_nats::connection::State;
use async_nats::{Client, ConnectOptions, Event, ServerAddr};
use secrecy::{ExposeSecret, SecretString};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};
use tidegate_gate::Name;

/// A server that does not answer within this is not there.
pub(super) const ANSWER: Duration = Duration::from_secs(5);

/// Between two attempts to connect again: a broker that restarts is back in seconds.
const RECONNECT: Duration = Duration::from_millis(500);

/// So often a client tries each server again by itself, which takes about as long as [`ANSWER`]. It keeps the secrets that
/// it was made with: what helps after that is a new client, made of the files as they are then.
const RECONNECTS: usize = 10;

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

    /// Connects with what the files hold now, or says why not. The client then reconnects by itself after short breaks,
    /// and is of no more use after a long one: [`is_up`].
    pub(super) async fn connect(&self, said: &Said) -> Result<Client, Name> {
        let servers = self.servers().map_err(|e| Name::from(e.to_string()))?;
        let tell = said.clone();
        let mut options = ConnectOptions::new()
            .name("tidegate")
            .connection_timeout(ANSWER)
            .request_timeout(Some(ANSWER))
            .max_reconnects(RECONNECTS * servers.len())
            .subscription_capacity(1 << 18)
            .reconnect_delay_callback(|attempts| match attempts {
                0 | 1 => Duration::ZERO,
                _ => RECONNECT,
            })
            .event_callback(move |event| {
                tell.hear(event);
                std::future::ready(())
            });
        let unreadable =
            |file: &Path, e: &dyn std::fmt::Display| Name::from(format!("{}: {e}", file.display()));
        let read = |file: &Path| match std::fs::read_to_string(file) {
            Ok(text) => Ok(SecretString::from(text.trim())),
            Err(e) => Err(unreadable(file, &e)),
        };
        // The library reads these itself, and does not say which it could not.
        let is_there = |file: &PathBuf| match std::fs::File::open(file) {
            Ok(_) => Ok(file.clone()),
            Err(e) => Err(unreadable(file, &e)),
        };
        if let Some(file) = &self.ca_file {
            options = options.add_root_certificates(is_there(file)?);
        }
        if let Some((cert, key)) = &self.client_cert {
            options = options.add_client_certificate(is_there(cert)?, is_there(key)?);
        }
        options = match &self.auth {
            None => options,
            Some(NatsAuth::Credentials { file }) => {
                // The library finds the seed only where a line ends after it.
                let text = SecretString::from(format!("{}\n", read(file)?.expose_secret()));
                // Its own error could quote what it could not parse.
                let bad = |_| unreadable(file, &"it is no credentials file");
                options.credentials(text.expose_secret()).map_err(bad)?
            }
            Some(NatsAuth::Nkey { file }) => {
                let seed = read(file)?;
                if !is_seed(seed.expose_secret()) {
                    return Err(unreadable(
                        file,
                        &"it is no seed of a user's nkey, which begins with SU",
                    ));
                }
                options.nkey(seed.expose_secret().to_owned())
            }
            Some(NatsAuth::Password { user, file }) => {
                options.user_and_password(user.clone(), read(file)?.expose_secret().to_owned())
            }
            Some(NatsAuth::Token { file }) => options.token(read(file)?.expose_secret().to_owned()),
        };
        let connected = tokio::time::timeout(ANSWER * 2, options.connect(servers)).await;
        match connected {
            Ok(Ok(client)) => {
                *said.last() = None;
                Ok(client)
            }
            Ok(Err(error)) => Err(format!("cannot connect to {}: {error}", self.url).into()),
            Err(_) => Err(format!("cannot connect to {}: no answer", self.url).into()),
        }
    }
}

/// Whether this looks like the seed of a user's nkey. The library only says that it could not log in.
fn is_seed(text: &str) -> bool {
    let base32 = |byte: u8| byte.is_ascii_uppercase() || (b'2'..=b'7').contains(&byte);
    text.len() == 58 && text.starts_with("SU") && text.bytes().all(base32)
}

/// Whether a client has its connection now.
pub(super) fn is_up(client: &Client) -> bool {
    client.connection_state() == State::Connected
}

/// The last thing that a server said against us: permissions are refused on the side, and the request only times out.
#[derive(Clone, Debug, Default)]
pub(super) struct Said(Arc<Mutex<Option<(Instant, Name)>>>);

impl Said {
    fn last(&self) -> MutexGuard<'_, Option<(Instant, Name)>> {
        // Nothing in here panics half way.
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn hear(&self, event: Event) {
        let why: Name = match event {
            Event::ServerError(error) => error.to_string().into(),
            // An attempt to connect again failed.
            Event::ClientError(error) => error.to_string().into(),
            Event::Connected => {
                *self.last() = None;
                return;
            }
            _ => return,
        };
        *self.last() = Some((Instant::now(), why));
    }

    /// What was said since that moment, if it has to do with one of these subjects.
    pub(super) fn about(&self, since: Instant, subjects: &[&str]) -> Option<Name> {
        let last = self.last();
        let (at, why) = last.as_ref()?;
        (*at >= since && subjects.iter().any(|subject| why.contains(subject))).then(|| why.clone())
    }

    /// Whether the server refused a subscription of late. A client asks for one once: it takes a new one to ask again.
    pub(super) fn deaf(&self) -> bool {
        let last = self.last();
        last.as_ref()
            .is_some_and(|(_, why)| why.contains("for Subscription to"))
    }

    /// An error, with what the server said beside it a moment ago.
    pub(super) fn beside(&self, error: impl std::fmt::Display) -> Name {
        match &*self.last() {
            Some((at, why)) if at.elapsed() < ANSWER * 2 => format!("{error} ({why})").into(),
            _ => error.to_string().into(),
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
