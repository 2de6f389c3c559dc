//! What a configuration says of Redis Streams.
#[cfg(feature = "redis")]
use super::broken;
use crate::config::BuildError;
use crate::connectors::{AnySink, AnySource};
#[cfg(feature = "redis")]
use crate::connectors::{RedisConsumer, RedisSink, RedisSource, RedisTarget};
use serde::Deserialize;
use std::path::PathBuf;
use std::time::Duration;

/// `type = "redis"` of a source.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RedisSourceConfig {
    /// `redis://host:6379/0`, or `rediss://` for TLS.
    pub url: String,
    /// The key of the stream.
    pub stream: String,
    /// The consumer group: used as it is if it is there, made from the stream's beginning if it is not.
    pub group: String,
    /// This process's name in the group; no two may share one. Unset: a new one at each start.
    #[serde(default)]
    pub consumer: Option<String>,
    /// The field of an entry that is the event. Unset: the only field's value, or all fields as a JSON object.
    #[serde(default)]
    pub field: Option<String>,
    /// A consumer that was not heard of for so long is dead, and its entries are taken over. The same in all members.
    #[serde(default = "super::thirty_seconds", deserialize_with = "super::duration")]
    pub min_idle: Duration,
    /// So many events are held or in flight at most.
    #[serde(default = "super::prefetch")]
    pub prefetch: usize,
    /// So many bytes of them; a read may overshoot it by a few entries that are larger than those before.
    #[serde(default = "super::prefetch_bytes")]
    pub prefetch_bytes: usize,
    /// In a pause, give events back to the group that have been held for so long. Unset: held while claims last.
    #[serde(default, deserialize_with = "super::maybe_duration")]
    pub max_hold: Option<Duration>,
    /// An entry that was delivered more often than this goes to the dead letter. Unset: never for this.
    #[serde(default)]
    pub max_deliver: Option<u64>,
    /// The user, if it is not the default one.
    #[serde(default)]
    pub user: Option<String>,
    /// The file that holds the password.
    #[serde(default)]
    pub password_file: Option<PathBuf>,
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

/// `type = "redis"` of a sink.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RedisSinkConfig {
    /// `redis://host:6379/0`, or `rediss://` for TLS.
    pub url: String,
    /// The key of the stream.
    pub stream: String,
    /// The field that the event is put into.
    #[serde(default = "data")]
    pub field: String,
    /// Trim the stream to about so many entries. Unset: never.
    #[serde(default)]
    pub max_len: Option<u64>,
    /// How long one attempt may take.
    #[serde(default = "crate::config::ten_seconds", deserialize_with = "super::duration")]
    pub timeout: Duration,
    /// The user, if it is not the default one.
    #[serde(default)]
    pub user: Option<String>,
    /// The file that holds the password.
    #[serde(default)]
    pub password_file: Option<PathBuf>,
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

fn data() -> String {
    "data".into()
}

#[cfg(feature = "redis")]
pub(crate) fn source(stream: &str, c: &RedisSourceConfig) -> Result<AnySource, BuildError> {
    let consumer = RedisConsumer {
        target: RedisTarget {
            url: c.url.clone(),
            user: c.user.clone(),
            password_file: c.password_file.clone(),
            ca_file: c.ca_file.clone(),
            client_cert: c.cert_file.clone().zip(c.key_file.clone()),
        },
        stream: c.stream.clone(),
        group: c.group.clone(),
        consumer: c.consumer.clone(),
        field: c.field.clone(),
        min_idle: c.min_idle,
        prefetch_bytes: c.prefetch_bytes,
        max_hold: c.max_hold,
        max_deliver: c.max_deliver.map(|n| i64::try_from(n).unwrap_or(i64::MAX)),
    };
    let source = RedisSource::new(consumer).map_err(broken(stream, "source"))?;
    Ok(AnySource::Redis(Box::new(source)))
}

#[cfg(feature = "redis")]
pub(crate) fn sink(stream: &str, c: &RedisSinkConfig) -> Result<AnySink, BuildError> {
    let target = RedisTarget {
        url: c.url.clone(),
        user: c.user.clone(),
        password_file: c.password_file.clone(),
        ca_file: c.ca_file.clone(),
        client_cert: c.cert_file.clone().zip(c.key_file.clone()),
    };
    let sink =
        RedisSink::new(target, &c.stream, &c.field, c.max_len, c.timeout).map_err(broken(stream, "sink"))?;
    Ok(AnySink::Redis(Box::new(sink)))
}

#[cfg(not(feature = "redis"))]
super::without!("redis", RedisSourceConfig, RedisSinkConfig);
