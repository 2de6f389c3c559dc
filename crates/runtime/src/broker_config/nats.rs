//! What a configuration says of NATS JetStream.
#[cfg(feature = "nats")]
use super::broken;
use crate::config::BuildError;
use crate::connectors::{AnySink, AnySource};
#[cfg(feature = "nats")]
use crate::connectors::{NatsConsumer, NatsSink, NatsSource, NatsTarget};
use serde::Deserialize;
use std::path::PathBuf;
use std::time::Duration;

/// How to log in to NATS. Files are read at every attempt to connect, so a rotated one counts.
#[derive(Clone, Debug, Deserialize)]
#[serde(tag = "method", rename_all = "snake_case", deny_unknown_fields)]
pub enum NatsAuth {
    /// A `.creds` file: a JWT and the seed that signs for it.
    Credentials {
        /// The file.
        file: PathBuf,
    },
    /// The seed of an nkey.
    Nkey {
        /// The file that holds it.
        file: PathBuf,
    },
    /// A user and a password.
    Password {
        /// The user.
        user: String,
        /// The file that holds the password.
        file: PathBuf,
    },
    /// A token.
    Token {
        /// The file that holds it.
        file: PathBuf,
    },
}

/// `type = "nats"` of a source.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NatsSourceConfig {
    /// `nats://host:4222` or `tls://host:4222`, several with commas between.
    pub url: String,
    /// The JetStream stream.
    pub stream: String,
    /// The durable pull consumer: bound unchanged if it is there, made if it is not.
    pub durable: String,
    /// Only these subjects, for a consumer that is made.
    #[serde(default)]
    pub filter_subject: Option<String>,
    /// How long the server waits for an acknowledgement, for a consumer that is made.
    #[serde(default = "super::thirty_seconds", deserialize_with = "super::duration")]
    pub ack_wait: Duration,
    /// So many events are held or in flight at most.
    #[serde(default = "super::prefetch")]
    pub prefetch: usize,
    /// So many bytes of them.
    #[serde(default = "super::prefetch_bytes")]
    pub prefetch_bytes: usize,
    /// In a pause, give events back to the broker that have been held for so long. Unset: held while leases last.
    #[serde(default, deserialize_with = "super::maybe_duration")]
    pub max_hold: Option<Duration>,
    /// An event that was delivered more often than this goes to the dead letter. Unset: never for this.
    #[serde(default)]
    pub max_deliver: Option<u64>,
    /// How to log in.
    #[serde(default)]
    pub auth: Option<NatsAuth>,
    /// Certificate authorities to trust instead of the system's.
    #[serde(default)]
    pub ca_file: Option<PathBuf>,
    /// The client's certificate, with `key_file`.
    #[serde(default)]
    pub cert_file: Option<PathBuf>,
    /// The key of `cert_file`.
    #[serde(default)]
    pub key_file: Option<PathBuf>,
}

/// `type = "nats"` of a sink.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NatsSinkConfig {
    /// `nats://host:4222` or `tls://host:4222`, several with commas between.
    pub url: String,
    /// Where events are published; a JetStream stream has to take it.
    pub subject: String,
    /// How long one attempt may take.
    #[serde(default = "crate::config::ten_seconds", deserialize_with = "super::duration")]
    pub timeout: Duration,
    /// How to log in.
    #[serde(default)]
    pub auth: Option<NatsAuth>,
    /// Certificate authorities to trust instead of the system's.
    #[serde(default)]
    pub ca_file: Option<PathBuf>,
    /// The client's certificate, with `key_file`.
    #[serde(default)]
    pub cert_file: Option<PathBuf>,
    /// The key of `cert_file`.
    #[serde(default)]
    pub key_file: Option<PathBuf>,
}

#[cfg(feature = "nats")]
fn target(
    url: &str,
    auth: Option<&NatsAuth>,
    ca_file: Option<&PathBuf>,
    cert: Option<&PathBuf>,
    key: Option<&PathBuf>,
) -> NatsTarget {
    NatsTarget {
        url: url.to_owned(),
        auth: auth.cloned(),
        ca_file: ca_file.cloned(),
        client_cert: cert.cloned().zip(key.cloned()),
    }
}

#[cfg(feature = "nats")]
pub(crate) fn source(stream: &str, c: &NatsSourceConfig) -> Result<AnySource, BuildError> {
    let target = target(
        &c.url,
        c.auth.as_ref(),
        c.ca_file.as_ref(),
        c.cert_file.as_ref(),
        c.key_file.as_ref(),
    );
    let consumer = NatsConsumer {
        target,
        stream: c.stream.clone(),
        durable: c.durable.clone(),
        filter_subject: c.filter_subject.clone(),
        ack_wait: c.ack_wait,
        prefetch: c.prefetch.max(1),
        prefetch_bytes: c.prefetch_bytes.max(1),
        max_hold: c.max_hold,
        max_deliver: c.max_deliver,
    };
    let source = NatsSource::new(consumer).map_err(broken(stream, "source"))?;
    Ok(AnySource::Nats(Box::new(source)))
}

#[cfg(feature = "nats")]
pub(crate) fn sink(stream: &str, c: &NatsSinkConfig) -> Result<AnySink, BuildError> {
    let target = target(
        &c.url,
        c.auth.as_ref(),
        c.ca_file.as_ref(),
        c.cert_file.as_ref(),
        c.key_file.as_ref(),
    );
    let sink = NatsSink::new(stream, target, &c.subject, c.timeout).map_err(broken(stream, "sink"))?;
    Ok(AnySink::Nats(Box::new(sink)))
}

#[cfg(not(feature = "nats"))]
super::without!("nats", NatsSourceConfig, NatsSinkConfig);
