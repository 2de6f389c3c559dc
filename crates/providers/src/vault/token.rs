//! What Vault says about a token's life, and what follows from it.
use super::client::{Answer, Client};
use crate::ReadError;
use http::StatusCode;
use secrecy::SecretString;
use serde::{Deserialize, Deserializer};
use std::time::Duration;
use tidegate_gate::Name;
use tokio::time::Instant;
use vaultrs::api::token::requests::{LookupTokenSelfRequest, RenewTokenSelfRequest};

/// What is known of a token's end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Life {
    /// Not asked yet.
    Unknown,
    /// It has none, or Vault does not say.
    Endless,
    /// It ends.
    Until {
        expires: Instant,
        /// The longest that it was ever granted for.
        granted: Duration,
        /// When to see to its successor.
        next_at: Instant,
        next: Next,
    },
}

/// Where a token's successor comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// It is renewed.
    Renew,
    /// A login, since it cannot be renewed (any more).
    Login,
}

/// What an answer grants.
#[derive(Clone, Copy, Debug)]
pub(super) struct Granted {
    ttl: Duration,
    renewable: bool,
}

impl Granted {
    /// The token's life from `now`, given what it was granted before. `share` says after which part of it to act, a
    /// little different each time, so that a fleet that started together does not act together.
    pub(super) fn life(&self, now: Instant, before: Life, share: f64) -> Life {
        if self.ttl.is_zero() {
            return Life::Endless;
        }
        let granted = match before {
            Life::Until { granted, .. } => granted.max(self.ttl),
            Life::Unknown | Life::Endless => self.ttl,
        };
        // Near its maximum a token is granted less and less. Renewing that on and on would end in a storm, and waiting
        // on would leave a login less and less time: it is due at once.
        let fades = self.ttl < granted.mul_f64(0.75);
        let (next, after) = match (self.renewable, fades) {
            (true, false) => (Next::Renew, self.ttl.mul_f64(share)),
            (false, false) => (Next::Login, self.ttl.mul_f64(share)),
            (_, true) => (Next::Login, Duration::ZERO),
        };
        Life::Until {
            expires: now + self.ttl,
            granted,
            next_at: now + after,
            next,
        }
    }
}

/// Asks how long the token lives.
pub(super) async fn look_up(client: &Client, token: &SecretString) -> Result<Granted, ReadError> {
    #[derive(Deserialize)]
    struct Looked {
        data: Data,
    }
    #[derive(Deserialize)]
    struct Data {
        ttl: u64,
        renewable: Option<bool>,
    }
    let answer = client.send(&LookupTokenSelfRequest {}, Some(token)).await?;
    let looked: Looked = parse(client, &answer, "looking the token up")?;
    Ok(Granted {
        ttl: Duration::from_secs(looked.data.ttl),
        renewable: looked.data.renewable.unwrap_or(false),
    })
}

/// Renews the token, for as long as its role or its period says.
pub(super) async fn renew(client: &Client, token: &SecretString) -> Result<Granted, ReadError> {
    let request = RenewTokenSelfRequest { increment: None };
    let answer = client.send(&request, Some(token)).await?;
    let (_, granted) = parse_auth(client, &answer, "renewing the token")?;
    Ok(granted)
}

/// The token that a login's answer brings.
pub(super) fn parse_login(
    client: &Client,
    answer: &Answer,
    reader: &Name,
) -> Result<(SecretString, Granted), ReadError> {
    let (token, granted) = parse_auth(client, answer, &format!("logging in by {reader}"))?;
    match crate::credential::checked(&token.0) {
        Ok(token) => Ok((token, granted)),
        Err(_) => Err(ReadError::unavailable(format!(
            "logging in by {reader} at Vault {} brought no token",
            client.address()
        ))),
    }
}

/// A token between the parser and its `SecretString`.
struct Wiped(zeroize::Zeroizing<String>);
impl<'de> Deserialize<'de> for Wiped {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        String::deserialize(from).map(|text| Wiped(text.into()))
    }
}

fn parse_auth(client: &Client, answer: &Answer, what: &str) -> Result<(Wiped, Granted), ReadError> {
    #[derive(Deserialize)]
    struct Body {
        auth: Auth,
    }
    #[derive(Deserialize)]
    struct Auth {
        client_token: Wiped,
        lease_duration: u64,
        renewable: bool,
    }
    let auth = parse::<Body>(client, answer, what)?.auth;
    let granted = Granted {
        ttl: Duration::from_secs(auth.lease_duration),
        renewable: auth.renewable,
    };
    Ok((auth.client_token, granted))
}

/// The body is looked into and never shown: it holds a token.
fn parse<'a, T: Deserialize<'a>>(client: &Client, answer: &'a Answer, what: &str) -> Result<T, ReadError> {
    let why = |text: &str| Name::from(format!("{what} at Vault {}: {text}", client.address()));
    let (status, retry_after) = (answer.status, answer.retry_after);
    match status {
        StatusCode::OK => serde_json::from_slice(&answer.body)
            .map_err(|_| ReadError::unavailable(why("the answer is not one of Vault's"))),
        StatusCode::BAD_REQUEST | StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
            let status = status.as_u16();
            Err(ReadError::Denied(why(&format!("refused ({status})"))))
        }
        StatusCode::NOT_FOUND => Err(ReadError::Denied(why(
            "there is no such auth method or role (404)",
        ))),
        StatusCode::TOO_MANY_REQUESTS => Err(ReadError::Throttled {
            why: why("Vault asks for fewer requests (429)"),
            retry_after,
        }),
        _ => Err(ReadError::Unavailable {
            why: why(&format!("answered with status {}", status.as_u16())),
            retry_after,
        }),
    }
}
