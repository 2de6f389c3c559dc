//! `[[gate]]`.
use crate::address::Address;
use http::Uri;
use serde::{Deserialize, Deserializer};
use std::time::Duration;

/// An HTTP gate, as it is written in the configuration.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GateConfig {
    /// Its name; streams and gates share one name space.
    pub name: String,
    /// Where it takes requests.
    #[serde(deserialize_with = "address")]
    pub listen: Address,
    /// Where it forwards them: `http://`, host and port. Paths are forwarded as they come.
    pub upstream: String,
    /// What happens to requests while it is held.
    #[serde(default)]
    pub on_hold: OnHold,
    /// What happens to upgraded connections while it is held, unless it serves on.
    #[serde(default)]
    pub on_hold_upgraded: OnHoldUpgraded,
    /// The most requests that wait while it is held; others get 503.
    #[serde(default = "max_waiting")]
    pub max_waiting: u32,
    /// The longest that a request waits, then it gets 503.
    #[serde(default = "max_wait", deserialize_with = "span")]
    pub max_wait: Duration,
    /// Paths that GET and HEAD always reach and that are never counted: the app's own probes. Compared with the
    /// path as it stands in the request, without the query.
    #[serde(default)]
    pub bypass: Vec<String>,
}

impl GateConfig {
    /// A gate with every option at its default.
    pub fn new(name: impl Into<String>, listen: Address, upstream: impl Into<String>) -> GateConfig {
        GateConfig {
            name: name.into(),
            listen,
            upstream: upstream.into(),
            on_hold: OnHold::default(),
            on_hold_upgraded: OnHoldUpgraded::default(),
            max_waiting: max_waiting(),
            max_wait: max_wait(),
            bypass: Vec::new(),
        }
    }
}

fn max_waiting() -> u32 {
    1024
}

fn max_wait() -> Duration {
    Duration::from_secs(30)
}

fn address<'de, D: Deserializer<'de>>(from: D) -> Result<Address, D::Error> {
    let text = String::deserialize(from)?;
    text.parse().map_err(serde::de::Error::custom)
}

fn span<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(from)?;
    humantime::parse_duration(&text).map_err(|error| {
        serde::de::Error::custom(format!(
            "\"{text}\" is no span of time ({error}): write it as \"30s\" or \"1m 30s\""
        ))
    })
}

/// What an HTTP gate does with requests while it is held.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnHold {
    /// Serves on; only health says that it is held, so that balancers take it out, as with Hiatus.
    #[default]
    Serve,
    /// Lets them wait, within bounds, then 503 with Retry-After.
    Hold,
    /// 503 with Retry-After.
    Refuse,
}

impl OnHold {
    /// Whether a gate of this kind is never closed: `Kind::Gate { serves }`.
    pub fn serves(self) -> bool {
        self == OnHold::Serve
    }
}

/// What an HTTP gate does with upgraded connections while it is held.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnHoldUpgraded {
    /// They stay open, and the gate stays `pausing` until they end.
    #[default]
    Keep,
    /// They are closed.
    Close,
}

/// Why there is no gate.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
#[error(
    "upstream = \"{upstream}\" cannot be forwarded to: expected http://, a host and a port, such as \
     \"http://127.0.0.1:8081\" (the app beside the gate, so without TLS)"
)]
pub struct BadGate {
    /// What was written.
    pub upstream: String,
}

pub(super) fn upstream(text: &str) -> Result<http::uri::Authority, BadGate> {
    let bad = || BadGate {
        upstream: text.into(),
    };
    let uri: Uri = text.parse().map_err(|_| bad())?;
    let authority = uri.authority().ok_or_else(bad)?;
    let plain = uri.scheme() == Some(&http::uri::Scheme::HTTP)
        && matches!(uri.path(), "" | "/")
        && uri.query().is_none()
        && !authority.as_str().contains('@')
        && !authority.host().is_empty();
    if plain { Ok(authority.clone()) } else { Err(bad()) }
}
