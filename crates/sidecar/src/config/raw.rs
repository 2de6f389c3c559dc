//! The keys as they are written, with their defaults, and nothing checked but their kind.
use super::{Right, TlsFiles};
use serde::Deserialize;
use serde::de::{Deserializer, Error, IgnoredAny, Unexpected, Visitor};
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;
use tidegate_http::Address;

/// Longer durations are slips of the pen, and sums of them could overflow a clock.
const LONGEST: Duration = Duration::from_secs(366 * 24 * 3600);

/// A duration as a person writes it: `250ms`, `5s`, `1m 30s`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Span(pub(super) Duration);

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Span, D::Error> {
        struct Text;
        impl Visitor<'_> for Text {
            type Value = Span;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a duration with its unit, such as \"250ms\", \"5s\" or \"1m 30s\"")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Span, E> {
                match humantime::parse_duration(text.trim()) {
                    Ok(span) if span <= LONGEST => Ok(Span(span)),
                    Ok(_) => Err(E::invalid_value(
                        Unexpected::Other("text"),
                        &"a duration of at most 366 days",
                    )),
                    Err(_) => Err(E::invalid_value(Unexpected::Other("text"), &self)),
                }
            }
        }
        from.deserialize_str(Text)
    }
}

/// Where to listen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Listen(pub(super) Address);

impl Listen {
    pub(super) const EXPECTED: &str =
        "an IP address and a port, such as \"127.0.0.1:9470\", or \"unix:/path/to/socket\"";
}

impl<'de> Deserialize<'de> for Listen {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Listen, D::Error> {
        struct Text;
        impl Visitor<'_> for Text {
            type Value = Listen;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(
                    "an IP address and a port, such as \"127.0.0.1:9470\", or \"unix:/path/to/socket\"",
                )
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Listen, E> {
                let address = text.parse();
                address
                    .map(Listen)
                    .map_err(|_| E::invalid_value(Unexpected::Other("text"), &self))
            }
        }
        from.deserialize_str(Text)
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawTop {
    pub(super) shutdown_grace: Option<Span>,
    pub(super) drain_delay: Option<Span>,
    pub(super) state_dir: Option<PathBuf>,
    // Read apart, so that a mistake in one of them hides nothing of the others.
    #[serde(default, rename = "state_file")]
    _state_file: IgnoredAny,
    #[serde(default, rename = "control")]
    _control: IgnoredAny,
    #[serde(default, rename = "observe")]
    _observe: IgnoredAny,
    #[serde(default, rename = "switch")]
    _switch: IgnoredAny,
    #[serde(default, rename = "stream")]
    _stream: IgnoredAny,
    #[serde(default, rename = "gate")]
    _gate: IgnoredAny,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawControl {
    pub(super) listen: Option<Listen>,
    pub(super) base_path: Option<String>,
    pub(super) tls: Option<TlsFiles>,
    #[serde(default)]
    pub(super) hosts: Vec<String>,
    #[serde(default, rename = "token")]
    _token: IgnoredAny,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawToken {
    pub(super) name: String,
    pub(super) file: PathBuf,
    pub(super) allow: Vec<Right>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawObserve {
    pub(super) listen: Option<Listen>,
    pub(super) ready_while_paused: Option<bool>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawStateFile {
    pub(super) path: PathBuf,
    #[serde(default)]
    pub(super) publish: Vec<String>,
}
